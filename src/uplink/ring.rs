//! Who gets what: a ring of endpoints, and the place of an item on it. The same as otelcol's `loadbalancing`, so that
//! agents and collectors in front of the same endpoints agree (contrib v0.88.0, `consistent_hashing.go`; reference §2.11).
//!
//! ```text
//!   0 ──a──b────a──c──b──────c──a── 36,000        a place belongs to the first point at it or behind it
//!            ▲ crc32(key) mod 36,000               (here a; b when a is away)
//! ```
//!
//! What always holds: a place whose endpoint is away belongs to the next on the ring that is not, and to nobody else than
//! before when it is back; so what is not concerned does not move.

use super::config::RoutingKey;
use crate::otlp::{Around, Cutter, Peek, Signal};
use std::collections::BTreeSet;

/// Places on the ring: a circle in hundredths of a degree.
const PLACES: u32 = 36_000;
/// Points of each endpoint.
const POINTS: u8 = 100;

/// Endpoints, by their place in a sorted list of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ring {
    /// Sorted; each place once.
    points: Vec<(u32, usize)>,
}

impl Ring {
    /// Of these names, sorted; a place that two of them have is the first one's.
    #[must_use]
    pub fn of(names: &[String]) -> Ring {
        let mut taken = BTreeSet::new();
        let mut points = Vec::with_capacity(names.len() * usize::from(POINTS));
        for (at, name) in names.iter().enumerate() {
            let places = (0..POINTS).map(|n| place(&[name.as_bytes(), &[n]]));
            points.extend(places.filter(|place| taken.insert(*place)).map(|place| (place, at)));
        }
        points.sort_unstable();
        Ring { points }
    }

    /// The endpoint a place belongs to, of those that are `open`.
    #[must_use]
    pub fn owner(&self, place: u32, open: impl Fn(usize) -> bool) -> Option<usize> {
        let first = self.points.partition_point(|(point, _)| *point < place);
        let (before, from) = self.points.split_at(first);
        from.iter().chain(before).map(|(_, at)| *at).find(|at| open(*at))
    }
}

fn place(key: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    key.iter().for_each(|part| hasher.update(part));
    hasher.finalize() % PLACES
}

/// The place of each item, in order.
#[must_use]
pub fn places(routing: RoutingKey, signal: Signal, cutter: &Cutter) -> Vec<u32> {
    let mut places = Vec::with_capacity(cutter.items() as usize);
    let mut shared = Vec::new();
    cutter.each(|at| {
        if at.is_first {
            shared = around(routing, &at);
        }
        places.push(match (routing, signal) {
            (RoutingKey::TraceId, Signal::Logs) => of_trace(at.item, 9),
            (RoutingKey::TraceId, _) => of_trace(at.item, 1),
            (RoutingKey::StreamId, _) => place(&[&shared, &listed(at.item, at.attributes)]),
            _ => place(&[&shared]),
        });
    });
    places
}

/// Without a trace an item has no company: its own bytes say where it goes, always to the same place. (The original throws
/// dice.)
fn of_trace(item: Peek<'_>, field: u32) -> u32 {
    let trace = item.bytes(field);
    if trace.is_empty() { place(&[item.0]) } else { place(&[trace]) }
}

/// What items that stand together have in common of the key.
fn around(routing: RoutingKey, at: &Around<'_>) -> Vec<u8> {
    let name = at.metric.text(1);
    match routing {
        RoutingKey::TraceId => Vec::new(),
        RoutingKey::Service => {
            at.resource.attribute(1, "service.name").map_or(Vec::new(), |name| name.to_text().as_bytes().to_vec())
        }
        RoutingKey::Metric => name.as_bytes().to_vec(),
        RoutingKey::Resource | RoutingKey::StreamId => [&listed(at.resource, 1), name.as_bytes()].concat(),
    }
}

/// Attributes as the original lists them: names and values, one after the other, sorted by name.
fn listed(message: Peek<'_>, list: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in message.attributes(list) {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(value.to_text().as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbered::{Numbered, Source};
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
    use opentelemetry_proto::tonic::metrics::v1::{
        ExponentialHistogramDataPoint, Gauge, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, metric,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use prost::Message as _;

    fn names(n: u8) -> Vec<String> {
        let mut names: Vec<String> = (1..=n).map(|n| format!("10.0.0.{n}:4317")).collect();
        names.sort_unstable();
        names
    }

    /// Goal: the ring is the original's. (The places by zlib's crc32, which is Go's `crc32.IEEE`.)
    #[test]
    fn points_are_where_the_original_has_them() {
        let of = |name: &str| (0..5).map(|n| place(&[name.as_bytes(), &[n]])).collect::<Vec<_>>();
        assert_eq!(of("endpoint-1"), [14_133, 21_667, 1_401, 4_175, 17_836]);
        let ring = Ring::of(&["endpoint-1".to_owned()]);
        assert_eq!(ring.points.len(), 100);
        assert!(of("endpoint-1").iter().all(|place| ring.points.contains(&(*place, 0))));
        assert!(ring.points.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    /// Goal: while one is away its share is the others', in about equal parts, and nothing else moves.
    #[test]
    fn only_what_belongs_to_one_that_is_away_moves() {
        let names = names(5);
        let ring = Ring::of(&names);
        let of = |open: &dyn Fn(usize) -> bool| -> Vec<usize> {
            (0..PLACES).map(|place| ring.owner(place, open).expect("there is one")).collect()
        };
        let all = of(&|_| true);
        for (away, name) in names.iter().enumerate() {
            let left = of(&|at| at != away);
            let moved: Vec<usize> = all.iter().zip(&left).filter(|(a, b)| a != b).map(|(a, _)| *a).collect();
            assert!(moved.iter().all(|owner| *owner == away));
            assert!(moved.len() > 3_000, "{name}: it had a share: {}", moved.len());
            for other in (0..5).filter(|other| *other != away) {
                let got = all.iter().zip(&left).filter(|(a, b)| **a == away && **b == other).count();
                assert!(got * 20 > moved.len(), "{away} to {other}: {got} of {}", moved.len());
            }
        }
        assert_eq!(ring.owner(7, |_| false), None);
        assert_eq!(Ring::default().owner(7, |_| true), None);
    }

    #[test]
    fn what_has_the_same_key_has_the_same_place() {
        let point = |value: i64| NumberDataPoint {
            attributes: vec![text("b", "2"), KeyValue { value: Some(int(value)), ..text("a", "") }],
            ..NumberDataPoint::default()
        };
        let turned = |mut point: NumberDataPoint| {
            point.attributes.reverse();
            point
        };
        let gauge = |name: &str, points: Vec<NumberDataPoint>| Metric {
            name: name.to_owned(),
            data: Some(metric::Data::Gauge(Gauge { data_points: points })),
            ..Metric::default()
        };
        let of = |service: &str, metrics: Vec<Metric>| ResourceMetrics {
            resource: Some(Resource {
                attributes: vec![text("service.name", service), text("a", "x")],
                ..Resource::default()
            }),
            scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        };
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![
                of("s", vec![gauge("m", vec![point(1), turned(point(1)), point(2)]), gauge("n", vec![point(1)])]),
                of("t", vec![gauge("m", vec![point(1)])]),
                of("s", vec![gauge("m", vec![point(1)])]),
            ],
        };
        let raw = request.encode_to_vec().into();
        let cutter = Cutter::of(Signal::Metrics, &raw).expect("valid");
        let groups = |routing| {
            let places = places(routing, Signal::Metrics, &cutter);
            let first = |place: &u32| places.iter().position(|other| other == place).expect("it is there");
            places.iter().map(first).collect::<Vec<_>>()
        };
        assert_eq!(groups(RoutingKey::Service), [0, 0, 0, 0, 4, 0]);
        assert_eq!(groups(RoutingKey::Metric), [0, 0, 0, 3, 0, 0]);
        assert_eq!(groups(RoutingKey::Resource), [0, 0, 0, 3, 4, 0]);
        assert_eq!(groups(RoutingKey::StreamId), [0, 0, 2, 3, 4, 0]);
        assert_eq!(places(RoutingKey::Service, Signal::Metrics, &cutter)[0], place(&[b"s"]));
        assert_eq!(places(RoutingKey::Resource, Signal::Metrics, &cutter)[0], place(&[b"axservice.namesm"]));
    }

    fn text(key: &str, value: &str) -> KeyValue {
        let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
        KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
    }

    fn int(value: i64) -> AnyValue {
        AnyValue { value: Some(any_value::Value::IntValue(value)) }
    }

    /// Goal: the attributes of every kind of point are found where that kind has them.
    #[test]
    fn streams_of_every_kind_are_told_apart() {
        use opentelemetry_proto::tonic::metrics::v1::{
            ExponentialHistogram, Histogram, Sum, Summary, SummaryDataPoint,
        };
        let attributes = |n: &str| vec![text("k", n)];
        let number = |n| NumberDataPoint { attributes: attributes(n), ..NumberDataPoint::default() };
        let histogram = |n| HistogramDataPoint { attributes: attributes(n), ..HistogramDataPoint::default() };
        let exponential =
            |n| ExponentialHistogramDataPoint { attributes: attributes(n), ..ExponentialHistogramDataPoint::default() };
        let summary = |n| SummaryDataPoint { attributes: attributes(n), ..SummaryDataPoint::default() };
        let kinds = [
            metric::Data::Gauge(Gauge { data_points: vec![number("1"), number("2"), number("1")] }),
            metric::Data::Sum(Sum { data_points: vec![number("1"), number("2"), number("1")], ..Sum::default() }),
            metric::Data::Histogram(Histogram {
                data_points: vec![histogram("1"), histogram("2"), histogram("1")],
                ..Histogram::default()
            }),
            metric::Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![exponential("1"), exponential("2"), exponential("1")],
                ..ExponentialHistogram::default()
            }),
            metric::Data::Summary(Summary { data_points: vec![summary("1"), summary("2"), summary("1")] }),
        ];
        for data in kinds {
            let metrics = vec![Metric { name: "m".to_owned(), data: Some(data.clone()), ..Metric::default() }];
            let scope = ScopeMetrics { metrics, ..ScopeMetrics::default() };
            let resource = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
            let raw = ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec().into();
            let cutter = Cutter::of(Signal::Metrics, &raw).expect("valid");
            let places = places(RoutingKey::StreamId, Signal::Metrics, &cutter);
            assert!(places[0] == places[2] && places[0] != places[1], "{data:?}: {places:?}");
        }
    }

    /// Goal: a trace is at one place, and what has none is spread, always in the same way.
    #[test]
    fn traces_stay_together_and_what_has_none_is_spread() {
        for signal in [Signal::Traces, Signal::Logs] {
            let raw = Numbered::new(signal, Source(1)).request(400).bytes.into();
            let cutter = Cutter::of(signal, &raw).expect("valid");
            let found = places(RoutingKey::TraceId, signal, &cutter);
            assert_eq!(found, places(RoutingKey::TraceId, signal, &cutter));
            let ring = Ring::of(&names(4));
            let mut shares = [0; 4];
            found.iter().for_each(|place| shares[ring.owner(*place, |_| true).expect("one of four")] += 1);
            assert!(shares.iter().all(|share| *share > 20), "{signal}: {shares:?}");
        }
    }
}
