//! A letter as an OTLP metrics export, for a collector that tells the platform.

use super::letter::{AGENT, Letter, VERSION};
use super::standing::Call;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric,
    number_data_point::Value as Number,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

/// The scope of all that the registrar says.
pub const SCOPE: &str = concat!(env!("CARGO_PKG_NAME"), "/registrar");

/// Serialized.
#[must_use]
pub fn request(letter: &Letter) -> Vec<u8> {
    let scope =
        InstrumentationScope { name: SCOPE.to_owned(), version: VERSION.to_owned(), ..InstrumentationScope::default() };
    let of_scope = ScopeMetrics { scope: Some(scope), metrics: metrics(letter), ..ScopeMetrics::default() };
    let resource = Resource { attributes: resource(letter), ..Resource::default() };
    let of_resource =
        ResourceMetrics { resource: Some(resource), scope_metrics: vec![of_scope], ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![of_resource] }.encode_to_vec()
}

/// The metadata of the seed under the names that OpenTelemetry, or the seed's own configurations, have for them.
fn resource(letter: &Letter) -> Vec<KeyValue> {
    let given = [
        ("telemetryflow.workspace.id", &letter.profile.workspace_id),
        ("telemetryflow.tenant.id", &letter.profile.tenant_id),
        ("host.ip", &letter.place.ip_address),
        ("agent.copied_from", &letter.copied_from),
    ];
    let mut attributes = vec![
        text("agent.id", &letter.agent_id),
        text("agent.type", AGENT),
        text("agent.version", VERSION),
        list("agent.capabilities", &letter.profile.capabilities),
        text("host.name", &letter.place.hostname),
        text("service.instance.id", &letter.agent_id),
    ];
    attributes.extend(given.into_iter().filter_map(|(key, value)| Some(text(key, value.as_ref()?))));
    attributes.extend(letter.resource_attributes().map(|(key, value)| text(key, value)));
    attributes
}

fn metrics(letter: &Letter) -> Vec<Metric> {
    let points = Points { start_ns: letter.started_ns.min(letter.now_ns), now_ns: letter.now_ns };
    let vitals = &letter.vitals;
    let mut all = vec![
        points.gauge("tfo.agent.up", "1", "1: the agent is there.", vec![(None, Number::AsInt(1))]),
        points.gauge("tfo.agent.uptime", "s", "Since the process began.", one(letter.uptime.as_secs_f64())),
        points.gauge(
            "tfo.agent.backlog.items",
            "{item}",
            "Items that wait for a far end.",
            count(vitals.backlog_items),
        ),
        points.gauge("tfo.agent.backlog.bytes", "By", "Bytes the spools occupy.", count(vitals.backlog_bytes)),
        points.gauge("tfo.agent.backlog.oldest", "s", "How long the oldest of them has waited.", one(vitals.oldest_s)),
        points.sum("tfo.agent.restarts", "{restart}", "Falls of the agent's actors.", count(vitals.restarts)),
    ];
    if let Some(seconds) = vitals.time_to_full_s {
        let text = "Until the first spool is full if nothing leaves it.";
        all.push(points.gauge("tfo.agent.spool.time_to_full", "s", text, one(seconds)));
    }
    if let Some(rate) = vitals.link_budget {
        let text = "Most bytes a second the backlog may leave with.";
        all.push(points.gauge("tfo.agent.link.budget", "By/s", text, count(rate)));
    }
    let of = |key: &str, value: &str, n: u64| (Some(text(key, value)), Number::AsInt(int(n)));
    let links = vitals.links.iter().map(|(exporter, up)| of("exporter", exporter, u64::from(*up))).collect();
    all.push(points.gauge("tfo.agent.link.up", "1", "1 while an exporter's far end takes data.", links));
    if !vitals.link_left.is_empty() {
        let left = vitals.link_left.iter();
        let left =
            left.map(|(exporter, period, bytes)| of("budget", &format!("{exporter} {period}"), *bytes)).collect();
        let text = "What is left of an exporter's link budget for the day or the month.";
        all.push(points.gauge("tfo.agent.link.budget.left", "By", text, left));
    }
    let lost = vitals.lost.iter().map(|(reason, items)| of("reason", reason, *items)).collect();
    all.push(points.sum("tfo.agent.items.lost", "{item}", "Items that will never arrive, by reason.", lost));
    if let Call::Register(why) = letter.call {
        let text = "1 in a registration, by its reason; not there in a heartbeat.";
        all.push(points.gauge("tfo.agent.registration", "1", text, vec![of("reason", why.name(), 1)]));
    }
    all.retain(|metric| !is_empty(metric));
    all
}

/// A value, and the attribute that tells it from others of its metric.
type Point = (Option<KeyValue>, Number);

fn one(value: f64) -> Vec<Point> {
    vec![(None, Number::AsDouble(value))]
}

fn count(value: u64) -> Vec<Point> {
    vec![(None, Number::AsInt(int(value)))]
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[derive(Clone, Copy)]
struct Points {
    start_ns: u64,
    now_ns: u64,
}

impl Points {
    fn of(self, points: Vec<Point>) -> Vec<NumberDataPoint> {
        let point = |(attribute, value): Point| NumberDataPoint {
            attributes: attribute.into_iter().collect(),
            start_time_unix_nano: self.start_ns,
            time_unix_nano: self.now_ns,
            value: Some(value),
            ..NumberDataPoint::default()
        };
        points.into_iter().map(point).collect()
    }

    fn gauge(self, name: &str, unit: &str, description: &str, points: Vec<Point>) -> Metric {
        named(name, unit, description, metric::Data::Gauge(Gauge { data_points: self.of(points) }))
    }

    /// Cumulative since the process began.
    fn sum(self, name: &str, unit: &str, description: &str, points: Vec<Point>) -> Metric {
        let sum = Sum {
            data_points: self.of(points),
            aggregation_temporality: AggregationTemporality::Cumulative as i32,
            is_monotonic: true,
        };
        named(name, unit, description, metric::Data::Sum(sum))
    }
}

fn named(name: &str, unit: &str, description: &str, data: metric::Data) -> Metric {
    Metric {
        name: name.to_owned(),
        description: description.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// A metric without points says nothing, and some far ends mind it.
fn is_empty(metric: &Metric) -> bool {
    match &metric.data {
        Some(metric::Data::Gauge(gauge)) => gauge.data_points.is_empty(),
        Some(metric::Data::Sum(sum)) => sum.data_points.is_empty(),
        _ => true,
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    with(key, any_value::Value::StringValue(value.to_owned()))
}

fn list(key: &str, values: &[String]) -> KeyValue {
    let text = |value: &String| AnyValue { value: Some(any_value::Value::StringValue(value.clone())) };
    with(key, any_value::Value::ArrayValue(ArrayValue { values: values.iter().map(text).collect() }))
}

fn with(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests::example;
    use super::super::standing::Why;
    use super::*;
    use crate::otlp::{Signal, walk};

    /// The example of `docs/registration.md`, and that it is OTLP to our own receivers too.
    #[test]
    fn a_letter_is_an_export_with_its_metadata_and_numbers() {
        let raw = request(&example(Call::Register(Why::Offline)));
        assert_eq!(walk(Signal::Metrics, &raw).expect("it is OTLP").items, 11);
        let sent = ExportMetricsServiceRequest::decode(&raw[..]).expect("our own");
        let of_resource = &sent.resource_metrics[0];
        let attributes = &of_resource.resource.as_ref().expect("who speaks").attributes;
        let of = |key: &str| {
            let found: Vec<_> = attributes.iter().filter(|a| a.key == key).collect();
            assert_eq!(found.len(), 1, "{key}");
            found[0].value.clone().and_then(|value| value.value)
        };
        for (key, value) in [
            ("agent.id", "tfo-agent-prod-node-01"),
            ("agent.type", "tfo-otel-agent"),
            ("host.name", "prod-node-01"),
            ("host.ip", "10.0.1.15"),
            ("telemetryflow.workspace.id", "550e8400-e29b-41d4-a716-446655440000"),
            ("telemetryflow.tenant.id", "660e8400-e29b-41d4-a716-446655440001"),
            ("os.type", "linux"),
            ("os.description", "Ubuntu 22.04"),
            ("service.name", "tfo-otel-agent"),
        ] {
            assert_eq!(of(key), Some(any_value::Value::StringValue(value.to_owned())), "{key}");
        }
        let Some(any_value::Value::ArrayValue(capabilities)) = of("agent.capabilities") else { panic!("a list") };
        assert_eq!(capabilities.values.len(), 3);
        let metrics = &of_resource.scope_metrics[0].metrics;
        let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert!(
            ["tfo.agent.up", "tfo.agent.registration", "tfo.agent.link.budget.left"]
                .iter()
                .all(|name| names.contains(name)),
            "{names:?}"
        );
        assert!(!names.contains(&"tfo.agent.link.budget"), "there is none: {names:?}");
        let beat = ExportMetricsServiceRequest::decode(&request(&example(Call::Heartbeat))[..]).expect("our own");
        assert_eq!(beat.resource_metrics[0].scope_metrics[0].metrics.len(), metrics.len() - 1);
        assert_eq!(beat.resource_metrics[0].resource, of_resource.resource, "a series is one through all of it");
    }
}
