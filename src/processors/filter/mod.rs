//! `filter`: drops items by name, severity, attributes, resource; never silently (`otelcol_processor_dropped_*`).

pub mod config;

use super::conditions::{self, Texts, has_all};
use crate::otlp::{Level, Only, Signal, Test};
use config::{FilterConfig, MetricMatching};

/// Which items it keeps in a pipeline of this signal; `None`: it asks nothing of them and keeps all.
#[must_use]
pub fn keeps(config: &FilterConfig, signal: Signal) -> Option<Only> {
    let (include, exclude) = match signal {
        Signal::Traces => (&config.spans.include, &config.spans.exclude),
        Signal::Logs => (&config.logs.include, &config.logs.exclude),
        Signal::Metrics => return of_metrics(config),
    };
    Some(conditions::only(include.as_ref(), exclude.as_ref(), signal)).filter(Only::has_conditions)
}

/// As the original asks them (v0.88.0, `filterprocessor/metrics.go`): first resources, then names. So what is included
/// must be so by both, and what is excluded by either is.
fn of_metrics(config: &FilterConfig) -> Option<Only> {
    let only = Only::default();
    let only = config.metrics.include.iter().flat_map(tests).fold(only, Only::including);
    let only = config.metrics.exclude.iter().flat_map(tests).fold(only, Only::excluding);
    Some(only).filter(Only::has_conditions)
}

fn tests(matching: &MetricMatching) -> impl Iterator<Item = Test> + use<> {
    let (names, resources) = (&matching.metric_names, &matching.resource_attributes);
    let of_resource = (!resources.is_empty()).then(|| Test::default().and(Level::Resource, has_all(resources, 1)));
    let of_name = (!names.is_empty()).then(|| {
        let names = Texts::of(names);
        Test::default().and(Level::Metric, move |metric| names.any(metric.text(1)))
    });
    of_resource.into_iter().chain(of_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;
    use crate::otlp::{Sieve, walk};
    use bytes::Bytes;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Said};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use prost::Message;

    fn sifted(yaml: &str, signal: Signal, request: &Bytes) -> Bytes {
        let (config, told) = try_out(yaml, &[], FilterConfig::read);
        assert_eq!(told, "", "{yaml}");
        let Some(keeps) = keeps(&config, signal) else { return request.clone() };
        let left = Sieve::keeping(keeps).sift(signal, request).expect("it is valid");
        walk(signal, &left).expect("it stays valid");
        left
    }

    fn attribute(key: &str, value: &str) -> KeyValue {
        let value = Some(AnyValue { value: Some(Said::StringValue(value.to_owned())) });
        KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
    }

    fn resource(env: &str) -> Option<Resource> {
        Some(Resource { attributes: vec![attribute("env", env)], ..Resource::default() })
    }

    /// filterprocessor's logs_test.go, v0.88.0.
    #[test]
    #[rustfmt::skip]
    fn logs_are_kept_by_severity_body_and_attributes() {
        let record = |n: i32, text: &str, body: &str| LogRecord {
            severity_number: n,
            severity_text: text.to_owned(),
            body: attribute("", body).value,
            attributes: vec![attribute("tier", body)],
            ..LogRecord::default()
        };
        let of = |env: &str, log_records| ResourceLogs {
            resource: resource(env),
            scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        };
        let resource_logs = vec![of("prod", vec![record(5, "DEBUG", "a"), record(9, "INFO", "b")]), of("test", vec![record(17, "ERROR", "c"), record(0, "", "d")])];
        let request = Bytes::from(ExportLogsServiceRequest { resource_logs }.encode_to_vec());
        for (yaml, expected) in [
            ("{}",                                                                                 "a b c d"),
            ("logs: {include: {severity_number: {min: INFO}}}",                                    "b c"),
            ("logs: {include: {severity_number: {min: 9, match_undefined: true}}}",                "b c d"),
            ("logs: {exclude: {severity_number: {min: info}}}",                                    "a d"),
            ("logs: {include: {match_type: strict, severity_texts: [DEBUG, INFO]}}",               "a b"),
            ("logs: {include: {match_type: regexp, bodies: ['[b-d]']}}",                           "b c d"),
            ("logs: {include: {match_type: strict, resource_attributes: [{key: env, value: prod}]}}", "a b"),
            ("logs: {exclude: {match_type: regexp, record_attributes: [{key: tier, value: '[ac]'}]}}", "b d"),
            ("logs: {include: {match_type: strict, resource_attributes: [{key: env, value: prod}]}, \
              exclude: {match_type: strict, bodies: [a]}}",                                        "b"),
            ("spans: {include: {match_type: strict, services: [x]}}",                              "a b c d"), // of traces
        ] {
            let left = ExportLogsServiceRequest::decode(sifted(yaml, Signal::Logs, &request)).expect("it is valid");
            let records = left.resource_logs.iter().flat_map(|it| &it.scope_logs).flat_map(|it| &it.log_records);
            let bodies: Vec<_> = records.map(|it| match &it.body { Some(AnyValue { value: Some(Said::StringValue(it)) }) => it.as_str(), _ => "?" }).collect();
            assert_eq!(bodies.join(" "), expected, "{yaml}");
        }
    }

    /// filterprocessor's metrics_test.go, v0.88.0.
    #[test]
    #[rustfmt::skip]
    fn metrics_are_kept_by_name_and_resource_and_excluded_by_either() {
        let metric = |name: &str| Metric {
            name: name.to_owned(),
            data: Some(Data::Gauge(Gauge { data_points: vec![NumberDataPoint::default(); 2] })),
            ..Metric::default()
        };
        let of = |env: &str, names: [&str; 2]| ResourceMetrics {
            resource: resource(env),
            scope_metrics: vec![ScopeMetrics { metrics: names.map(metric).to_vec(), ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        };
        let resource_metrics = vec![of("prod", ["up", "go_gc"]), of("test", ["up", "down"])];
        let request = Bytes::from(ExportMetricsServiceRequest { resource_metrics }.encode_to_vec());
        for (yaml, expected) in [
            ("metrics: {include: {match_type: strict, metric_names: [up]}}",                 "prod.up test.up"),
            ("metrics: {exclude: {match_type: regexp, metric_names: [^go_, n$]}}",           "prod.up test.up"),
            ("metrics: {include: {match_type: strict, metric_names: [up], resource_attributes: [{key: env, value: prod}]}}", "prod.up"),
            ("metrics: {exclude: {match_type: strict, metric_names: [up], resource_attributes: [{key: env, value: prod}]}}", "test.down"),
            ("metrics: {include: {match_type: regexp, resource_attributes: [{key: env, value: te}]}}", "test.up test.down"),
            ("metrics: {include: {match_type: strict, metric_names: [gone]}}",               ""),
        ] {
            let left = ExportMetricsServiceRequest::decode(sifted(yaml, Signal::Metrics, &request)).expect("it is valid");
            let mut found = Vec::new();
            for it in &left.resource_metrics {
                let Some(Said::StringValue(env)) = it.resource.as_ref().and_then(|it| it.attributes[0].value.clone()?.value) else { panic!() };
                found.extend(it.scope_metrics.iter().flat_map(|it| &it.metrics).map(|it| format!("{env}.{}", it.name)));
            }
            assert_eq!(found.join(" "), expected, "{yaml}");
        }
    }
}
