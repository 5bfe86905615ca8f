//! What is asked of wire bytes is what 0.88 asks of decoded objects.

use super::*;
use crate::config::Any;
use crate::otlp::slow::Request;
use crate::otlp::wild::{Choices, KEYS};
use crate::otlp::{Action, REQUEST_MAX, Rewriter, Rule, Target, walk};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Said;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use prost::Message;

/// The attribute that the items get which are meant.
const MARK: &str = "is.meant";

/// Which items a processor with these conditions edits, in order.
fn edited(include: Option<&Matching>, exclude: Option<&Matching>, signal: Signal, request: Vec<u8>) -> Vec<bool> {
    let rule = Rule {
        target: Target::Items,
        actions: vec![Action::upsert(MARK, Value::Bool(true))],
        only: only(include, exclude, signal),
    };
    let rewriter = Rewriter::new(vec![rule]).expect("a flat value");
    let after = rewriter.rewrite(signal, &Bytes::from(request), &|_| None, REQUEST_MAX).expect("it is valid");
    let mut marked = Vec::new();
    each_item(&Request::decode(signal, &after).expect("it is valid"), &mut |item| {
        marked.push(item.attributes.iter().any(|pair| pair.key == MARK));
    });
    marked
}

/// An item as a decoding collector has it.
struct Item<'a> {
    resource: &'a [KeyValue],
    scope: InstrumentationScope,
    metric: &'a str,
    span: Option<&'a Span>,
    record: Option<&'a LogRecord>,
    attributes: &'a [KeyValue],
}

fn each_item(request: &Request, found: &mut dyn FnMut(&Item<'_>)) {
    fn around<'a>(resource: &'a Option<Resource>, scope: &Option<InstrumentationScope>) -> Item<'a> {
        let resource = resource.as_ref().map_or(&[][..], |it| &it.attributes);
        let scope = scope.clone().unwrap_or_default();
        Item { resource, scope, metric: "", span: None, record: None, attributes: &[] }
    }
    match request {
        Request::Traces(request) => {
            for (r, s) in request.resource_spans.iter().flat_map(|r| r.scope_spans.iter().map(move |s| (r, s))) {
                for span in &s.spans {
                    found(&Item { span: Some(span), attributes: &span.attributes, ..around(&r.resource, &s.scope) });
                }
            }
        }
        Request::Logs(request) => {
            for (r, s) in request.resource_logs.iter().flat_map(|r| r.scope_logs.iter().map(move |s| (r, s))) {
                for record in &s.log_records {
                    let item = around(&r.resource, &s.scope);
                    found(&Item { record: Some(record), attributes: &record.attributes, ..item });
                }
            }
        }
        Request::Metrics(request) => {
            for (r, s) in request.resource_metrics.iter().flat_map(|r| r.scope_metrics.iter().map(move |s| (r, s))) {
                for metric in &s.metrics {
                    let lists: Vec<&[KeyValue]> = match &metric.data {
                        Some(Data::Gauge(data)) => data.data_points.iter().map(|p| &p.attributes[..]).collect(),
                        Some(Data::Sum(data)) => data.data_points.iter().map(|p| &p.attributes[..]).collect(),
                        Some(Data::Histogram(data)) => data.data_points.iter().map(|p| &p.attributes[..]).collect(),
                        Some(Data::ExponentialHistogram(data)) => {
                            data.data_points.iter().map(|p| &p.attributes[..]).collect()
                        }
                        Some(Data::Summary(data)) => data.data_points.iter().map(|p| &p.attributes[..]).collect(),
                        None => Vec::new(),
                    };
                    for attributes in lists {
                        found(&Item { metric: &metric.name, attributes, ..around(&r.resource, &s.scope) });
                    }
                }
            }
        }
    }
}

/// The oracle: `propertiesMatcher.Eval` of filterspan and filterlog and `nameMatcher.Eval` of filtermetric, word by word.
fn matches(m: &Matching, item: &Item<'_>) -> bool {
    let any = |texts: &[Text], text: &str| texts.is_empty() || texts.iter().any(|it| is(it, text));
    if item.span.is_none() && item.record.is_none() {
        return any(&m.metric_names, item.metric);
    }
    if let Some(span) = item.span {
        let service = item.resource.iter().find(|pair| pair.key == "service.name");
        let service = service.map_or("<nil-service-name>".to_owned(), |pair| as_string(pair.value.as_ref()));
        let kind = span.kind().as_str_name();
        let kind = if (0..6).contains(&span.kind) { kind } else { "" };
        if !any(&m.services, &service) || !any(&m.span_names, &span.name) || !any(&m.span_kinds, kind) {
            return false;
        }
    }
    if let Some(record) = item.record {
        let severe = m.log_severity_number.is_none_or(|wanted| match record.severity_number {
            0 => wanted.match_undefined,
            n => n >= i32::from(wanted.min),
        });
        let body = as_string(record.body.as_ref());
        if !severe || !any(&m.log_severity_texts, &record.severity_text) || !any(&m.log_bodies, &body) {
            return false;
        }
    }
    let library = |it: &Library| {
        is(&it.name, &item.scope.name) && it.version.as_ref().is_none_or(|it| is(it, &item.scope.version))
    };
    m.libraries.iter().all(library) && has(&m.resources, item.resource) && has(&m.attributes, item.attributes)
}

fn is(wanted: &Text, text: &str) -> bool {
    match wanted {
        Text::Strict(same) => same == text,
        Text::Pattern(pattern) => pattern.is_match(text),
    }
}

fn has(wanted: &[Property], attributes: &[KeyValue]) -> bool {
    wanted.iter().all(|property| {
        let Some(found) = attributes.iter().find(|pair| pair.key == property.key) else { return false };
        let found = found.value.as_ref().and_then(|any| any.value.as_ref());
        match (&property.value, found) {
            (None, _) => true,
            (Some(Wanted::Same(Any::Text(wanted))), Some(Said::StringValue(it))) => it == wanted,
            (Some(Wanted::Same(Any::Int(wanted))), Some(Said::IntValue(it))) => it == wanted,
            (Some(Wanted::Same(Any::Bool(wanted))), Some(Said::BoolValue(it))) => it == wanted,
            (Some(Wanted::Same(Any::Double(wanted))), Some(Said::DoubleValue(it))) => it == wanted,
            (Some(Wanted::Same(Any::List(_) | Any::Map(_))), _) => unreachable!("the generator makes none"),
            (Some(Wanted::Pattern(wanted)), Some(Said::StringValue(it))) => wanted.is_match(it),
            (Some(Wanted::Pattern(wanted)), Some(Said::IntValue(it))) => wanted.is_match(&it.to_string()),
            (Some(Wanted::Pattern(wanted)), Some(Said::BoolValue(it))) => wanted.is_match(&it.to_string()),
            (Some(Wanted::Pattern(wanted)), Some(Said::DoubleValue(it))) => wanted.is_match(&it.to_string()),
            _ => false,
        }
    })
}

fn as_string(any: Option<&AnyValue>) -> String {
    match any.and_then(|any| any.value.as_ref()) {
        None => String::new(),
        Some(Said::StringValue(text)) => text.clone(),
        Some(Said::IntValue(n)) => n.to_string(),
        Some(Said::BoolValue(yes)) => yes.to_string(),
        // Lists, maps, bytes and doubles have their own tests, with `convert`.
        Some(_) => {
            Peek(&LogRecord { body: any.cloned(), ..LogRecord::default() }.encode_to_vec()).any(5).to_text().into()
        }
    }
}

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).expect("the tests write patterns")
}

fn a_text() -> impl Strategy<Value = Text> {
    prop_oneof![
        3 => prop::sample::select(&KEYS[..]).prop_map(|text| Text::Strict(text.to_owned())),
        1 => Just(Text::Strict("<nil-service-name>".to_owned())),
        1 => prop::sample::select(&["SPAN_KIND_SERVER", "SPAN_KIND_UNSPECIFIED"][..]).prop_map(|it| Text::Strict(it.into())),
        3 => prop::sample::select(&["^a", "o", "x{3}", "é", "", "^$", "KIND_(IN|CL)", "service", r"^\["][..])
            .prop_map(|text| Text::Pattern(pattern(text))),
    ]
}

fn some_texts() -> impl Strategy<Value = Vec<Text>> {
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(a_text(), 1..4)]
}

fn some_properties() -> impl Strategy<Value = Vec<Property>> {
    let value = prop_oneof![
        4 => Just(None),
        1 => prop::sample::select(&KEYS[..]).prop_map(|text| Some(Wanted::Same(Any::Text(text.to_owned())))),
        1 => prop_oneof![Just(0), Just(-1)].prop_map(|n| Some(Wanted::Same(Any::Int(n)))),
        1 => any::<bool>().prop_map(|yes| Some(Wanted::Same(Any::Bool(yes)))),
        1 => Just(Some(Wanted::Same(Any::Double(0.0)))),
        2 => prop::sample::select(&["a", "^0$", "true", "", "-?1"][..]).prop_map(|it| Some(Wanted::Pattern(pattern(it)))),
    ];
    let property = (prop::sample::select(&KEYS[..]), value);
    let properties =
        prop::collection::vec(property.prop_map(|(key, value)| Property { key: key.to_owned(), value }), 1..3);
    prop_oneof![2 => Just(Vec::new()), 1 => properties]
}

fn a_matching() -> impl Strategy<Value = Matching> {
    let library = (a_text(), prop::option::of(a_text())).prop_map(|(name, version)| Library { name, version });
    let libraries = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(library, 1..3)];
    let severity =
        (1_u8..=24, any::<bool>()).prop_map(|(min, match_undefined)| SeverityAtLeast { min, match_undefined });
    (
        (some_texts(), some_texts(), some_texts(), some_texts(), some_texts(), some_texts()),
        (prop::option::weighted(0.3, severity), some_properties(), some_properties(), libraries),
    )
        .prop_map(|((services, span_names, span_kinds, log_bodies, log_severity_texts, metric_names), rest)| {
            let (log_severity_number, resources, attributes, libraries) = rest;
            Matching {
                services,
                span_names,
                span_kinds,
                log_bodies,
                log_severity_texts,
                metric_names,
                log_severity_number,
                resources,
                attributes,
                libraries,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_items_meant_on_the_wire_are_those_meant_after_decoding(
        signal in prop::sample::select(&Signal::ALL[..]),
        choices in prop::collection::vec(any::<u8>(), 0..700),
        include in prop::option::of(a_matching()),
        exclude in prop::option::of(a_matching()),
    ) {
        let request = Choices::lawful(&choices).request(signal);
        if walk(signal, &request).is_err() {
            return Ok(());
        }
        // A condition of which nothing is asked of this signal is none, which the plan has told.
        let asked = |m: &Option<Matching>| m.clone().filter(|m| m.given().any(|key| Matching::asks(signal, key)));
        let mut expected = Vec::new();
        each_item(&Request::decode(signal, &request).expect("it was walked"), &mut |item| {
            let included = asked(&include).is_none_or(|it| matches(&it, item));
            expected.push(included && !asked(&exclude).is_some_and(|it| matches(&it, item)));
        });
        prop_assert_eq!(edited(include.as_ref(), exclude.as_ref(), signal, request), expected);
    }
}

fn strict(text: &str) -> Vec<Text> {
    vec![Text::Strict(text.to_owned())]
}

fn like(text: &str) -> Vec<Text> {
    vec![Text::Pattern(pattern(text))]
}

fn pair(key: &str, value: Said) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn said(text: &str) -> Said {
    Said::StringValue(text.to_owned())
}

fn property(key: &str, value: Option<Wanted>) -> Vec<Property> {
    vec![Property { key: key.to_owned(), value }]
}

/// Two resources, `shop` and one without a name; each with a scope `http` 1.2 and a span of each name.
fn spans() -> Vec<u8> {
    let span = |name: &str, kind| Span {
        name: name.to_owned(),
        kind,
        attributes: vec![pair("n", Said::IntValue(7)), pair("t", said("x"))],
        ..Span::default()
    };
    let scope = InstrumentationScope { name: "http".to_owned(), version: "1.2".to_owned(), ..Default::default() };
    let scope_spans =
        vec![ScopeSpans { scope: Some(scope), spans: vec![span("get", 2), span("put", 3)], ..Default::default() }];
    let named = Some(Resource { attributes: vec![pair("service.name", said("shop"))], ..Resource::default() });
    let of = |resource| ResourceSpans { resource, scope_spans: scope_spans.clone(), ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![of(named), of(None)] }.encode_to_vec()
}

/// filterspan_test.go and filtermatcher_test.go, v0.88.0.
#[test]
#[rustfmt::skip]
fn spans_are_asked_for_service_name_kind_library_and_attributes() {
    let no = Matching::default;
    let library = |name: &str, version: Option<&str>| Library { name: strict(name).remove(0), version: version.map(|it| strict(it).remove(0)) };
    let same = |any| Some(Wanted::Same(any));
    let text = |it: &str| Any::Text(it.to_owned());
    for (matching, expected) in [
        (Matching { services: strict("shop"), ..no() },                              [true, true, false, false]),
        (Matching { services: strict("<nil-service-name>"), ..no() },                [false, false, true, true]),
        (Matching { span_names: like("^g"), ..no() },                                [true, false, true, false]),
        (Matching { span_names: [strict("get"), strict("put")].concat(), ..no() },   [true; 4]), // one of them
        (Matching { services: strict("shop"), span_names: strict("put"), ..no() },   [false, true, false, false]), // each of them
        (Matching { span_kinds: strict("SPAN_KIND_SERVER"), ..no() },                [true, false, true, false]),
        (Matching { span_kinds: like("CLIENT$"), ..no() },                           [false, true, false, true]),
        (Matching { libraries: vec![library("http", None)], ..no() },                [true; 4]),
        (Matching { libraries: vec![library("http", Some("1.2"))], ..no() },         [true; 4]),
        (Matching { libraries: vec![library("http", Some(""))], ..no() },            [false; 4]), // a scope without one
        (Matching { libraries: vec![library("http", None), library("grpc", None)], ..no() }, [false; 4]), // as 0.88: each
        (Matching { resources: property("service.name", None), ..no() },             [true, true, false, false]),
        (Matching { attributes: property("n", None), ..no() },                       [true; 4]),
        (Matching { attributes: property("m", None), ..no() },                       [false; 4]),
        (Matching { attributes: property("n", same(Any::Int(7))), ..no() },          [true; 4]),
        (Matching { attributes: property("n", same(text("7"))), ..no() },            [false; 4]), // another type
        (Matching { attributes: property("n", same(Any::Double(7.0))), ..no() },     [false; 4]),
        (Matching { attributes: property("n", Some(Wanted::Pattern(pattern("^7$")))), ..no() }, [true; 4]),
        (Matching { metric_names: strict("x"), ..no() },                             [true; 4]), // not asked of spans
    ] {
        assert_eq!(edited(Some(&matching), None, Signal::Traces, spans()), expected, "include {matching:?}");
        if matching.metric_names.is_empty() {
            assert_eq!(edited(None, Some(&matching), Signal::Traces, spans()), expected.map(|it| !it), "exclude {matching:?}");
        }
    }
    let (include, exclude) = (Matching { services: strict("shop"), ..no() }, Matching { span_names: strict("put"), ..no() });
    assert_eq!(edited(Some(&include), Some(&exclude), Signal::Traces, spans()), [true, false, false, false]);
}

/// filterlog_test.go and severity_matcher_test.go, v0.88.0.
#[test]
#[rustfmt::skip]
fn records_are_asked_for_body_and_severity() {
    let list = Said::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(Said::IntValue(1)) }] });
    let record = |body: Option<Said>, severity_number, text: &str| LogRecord {
        body: body.map(|it| AnyValue { value: Some(it) }),
        severity_number,
        severity_text: text.to_owned(),
        ..LogRecord::default()
    };
    let log_records = vec![record(Some(said("up")), 9, "Info"), record(Some(list), 17, "Error"), record(None, 0, "")];
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let request = ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }.encode_to_vec();
    let no = Matching::default;
    let severe = |min, match_undefined| Some(SeverityAtLeast { min, match_undefined });
    for (matching, expected) in [
        (Matching { log_bodies: strict("up"), ..no() },                        [true, false, false]),
        (Matching { log_bodies: strict("[1]"), ..no() },                       [false, true, false]), // as text
        (Matching { log_bodies: like("^$"), ..no() },                          [false, false, true]),
        (Matching { log_severity_texts: like("(?i)^e"), ..no() },              [false, true, false]),
        (Matching { log_severity_number: severe(9, false), ..no() },           [true, true, false]),
        (Matching { log_severity_number: severe(10, false), ..no() },          [false, true, false]),
        (Matching { log_severity_number: severe(10, true), ..no() },           [false, true, true]),
        (Matching { log_severity_number: severe(9, false), log_bodies: strict("up"), ..no() }, [true, false, false]),
    ] {
        assert_eq!(edited(Some(&matching), None, Signal::Logs, request.clone()), expected, "{matching:?}");
    }
}

/// Points share their metric's fate; without `metric_names` there is no condition at all (filtermetric.go, v0.88.0).
#[test]
#[rustfmt::skip]
fn of_metrics_the_name_alone_is_asked() {
    let metric = |name: &str, points: usize| Metric {
        name: name.to_owned(),
        data: Some(Data::Gauge(Gauge { data_points: vec![NumberDataPoint::default(); points] })),
        ..Metric::default()
    };
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric("go_gc", 2), metric("http", 1)], ..Default::default() }];
    let request = ExportMetricsServiceRequest { resource_metrics: vec![ResourceMetrics { scope_metrics, ..Default::default() }] }.encode_to_vec();
    let no = Matching::default;
    for (matching, include, exclude) in [
        (Matching { metric_names: like("^go_"), ..no() },                                     [true, true, false],  [false, false, true]),
        (Matching { metric_names: strict("http"), services: strict("x"), ..no() },            [false, false, true], [true, true, false]),
        (Matching { services: strict("x"), resources: property("x", None), ..no() },          [true; 3],            [true; 3]),
    ] {
        assert_eq!(edited(Some(&matching), None, Signal::Metrics, request.clone()), include, "include {matching:?}");
        assert_eq!(edited(None, Some(&matching), Signal::Metrics, request.clone()), exclude, "exclude {matching:?}");
    }
}

/// Lists and maps are compared by content, maps in any order of their keys (pdatautil/hash.go, v0.88.0).
#[test]
fn strict_values_may_be_lists_and_maps() {
    let map = |pairs: &[(&str, i64)]| {
        let values = pairs.iter().map(|(key, n)| pair(key, Said::IntValue(*n))).collect();
        Said::KvlistValue(KeyValueList { values })
    };
    let wanted = Any::Map(vec![("a".to_owned(), Any::Int(1)), ("b".to_owned(), Any::Int(2))]);
    for (value, expected) in [
        (map(&[("a", 1), ("b", 2)]), true),
        (map(&[("b", 2), ("a", 1)]), true),
        (map(&[("a", 1), ("b", 3)]), false),
        (map(&[("a", 1)]), false),
        (said(r#"{"a":1,"b":2}"#), false),
    ] {
        let record = LogRecord { attributes: vec![pair("m", value.clone())], ..LogRecord::default() };
        let asked = has_all(&property("m", Some(Wanted::Same(wanted.clone()))), 6);
        assert_eq!(asked(Peek(&record.encode_to_vec())), expected, "{value:?}");
    }
}

/// Goal: conditions cost as much as the request is long, whatever the number of items in one resource or metric.
/// Method: a resource and a metric of 4 MiB each around 100,000 items; looking into them for each would take hours.
#[test]
fn a_hundred_thousand_items_in_a_large_resource_take_no_time() {
    let points = vec![NumberDataPoint::default(); 100_000];
    let description = "x".repeat(4 << 20);
    let data = Some(Data::Gauge(Gauge { data_points: points }));
    let metrics = vec![Metric { name: "m".to_owned(), description, data, ..Metric::default() }];
    let attributes = (0..100_000).map(|n| pair(&format!("{n:040}"), said(""))).collect();
    let resource_metrics = vec![ResourceMetrics {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
        ..ResourceMetrics::default()
    }];
    let request = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();
    let begun = std::time::Instant::now();
    let include = Matching { metric_names: like("m"), ..Matching::default() };
    let marked = edited(Some(&include), None, Signal::Metrics, request);
    assert!(marked.len() == 100_000 && marked.iter().all(|it| *it));
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}
