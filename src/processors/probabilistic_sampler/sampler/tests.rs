//! The original's choices, to the item.

use super::*;
use crate::base::Dice;
use crate::otlp::{Sieve, walk};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Said};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

/// `0af7651916cd43dd8448eb211c80319c`, in bucket 7,652 of seed 0: kept from 46.71 % on.
const ID: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;

/// Computed with Go's hash/fnv as the original's computeHash and its mask.
#[test]
#[rustfmt::skip]
fn the_hash_is_the_originals() {
    for (id, seed, expected) in [
        (None,            0,        13_589),
        (None,            4_321,    20),
        (Some(0),         0,        9_301),
        (Some(0),         u32::MAX, 7_665),
        (Some(ID),        0,        7_652),
        (Some(ID),        4_321,    3_893),
        (Some(ID),        u32::MAX, 12_848),
        (Some(u128::MAX), 4_321,    15_364),
    ] {
        let id = id.map_or_else(Vec::new, |id: u128| id.to_be_bytes().to_vec());
        assert_eq!(bucket(&id, seed), expected, "{id:x?} {seed}");
    }
}

fn attribute(key: &str, value: Said) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn spans(spans: Vec<Span>) -> Bytes {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

fn records(log_records: Vec<LogRecord>) -> Bytes {
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec().into()
}

/// How many items are kept, and what the counters say, without what all series have in common.
fn sampled(config: &SamplerConfig, signal: Signal, request: &Bytes) -> (u32, String) {
    let metrics = Metrics::detached();
    let sieve = Sieve::keeping(keeps(config, signal, &metrics));
    let left = sieve.sift(signal, request).expect("it is valid");
    let text = metrics.text();
    let counted = text.lines().filter(|line| line.contains("_sampled{")).map(|line| {
        let (_, labels) = line.split_once("policy=\"").expect("it has the label");
        let (policy, rest) = labels.split_once('"').expect("it ends");
        let sampled = if rest.contains("sampled=\"true\"") { "kept" } else { "not" };
        format!("{policy} {sampled} {}", rest.rsplit(' ').next().expect("a value"))
    });
    let counted = counted.collect::<Vec<_>>().join(", ");
    (walk(signal, &left).expect("it stays valid").items, counted)
}

fn config(percentage: f32) -> SamplerConfig {
    SamplerConfig { percentage, ..SamplerConfig::default() }
}

/// tracesprocessor_test.go, v0.88.0 (`Test_tracesamplerprocessor_SpanSamplingPriority`, `Test_parseSpanSamplingPriority`).
#[test]
#[rustfmt::skip]
fn a_span_may_say_that_it_matters_or_does_not() {
    let span = |value: Option<Said>| Span {
        trace_id: ID.to_be_bytes().to_vec(),
        attributes: value.into_iter().map(|it| attribute("sampling.priority", it)).collect(),
        ..Span::default()
    };
    let text = |it: &str| Some(Said::StringValue(it.to_owned()));
    for (value, percentage, expected) in [
        (None,                            0.0,   "sampling_priority kept 1, trace_id_hash not 1"),
        (None,                            46.7,  "sampling_priority kept 1, trace_id_hash not 1"),
        (None,                            46.72, "sampling_priority kept 1, trace_id_hash kept 1"),
        (Some(Said::IntValue(1)),         0.0,   "sampling_priority kept 1, trace_id_hash kept 1"),
        (Some(Said::IntValue(0)),         100.0, "sampling_priority not 1"),
        (Some(Said::IntValue(-1)),        0.0,   "sampling_priority kept 1, trace_id_hash not 1"),
        (Some(Said::DoubleValue(0.5)),    0.0,   "sampling_priority kept 1, trace_id_hash kept 1"),
        (Some(Said::DoubleValue(0.0)),    100.0, "sampling_priority not 1"),
        (text("2"),                       0.0,   "sampling_priority kept 1, trace_id_hash kept 1"),
        (text("0.0"),                     100.0, "sampling_priority not 1"),
        (text("much"),                    100.0, "sampling_priority kept 1, trace_id_hash kept 1"),
        (Some(Said::BoolValue(false)),    100.0, "sampling_priority kept 1, trace_id_hash kept 1"),
    ] {
        let (kept, counted) = sampled(&config(percentage), Signal::Traces, &spans(vec![span(value.clone())]));
        assert_eq!((kept == 1, counted.as_str()), (!expected.contains("not"), expected), "{value:?} at {percentage}");
    }
}

/// logsprocessor.go, v0.88.0, and our departure in the last block.
#[test]
#[rustfmt::skip]
fn a_record_is_chosen_by_trace_or_attribute_and_may_have_its_own_percentage() {
    let record = |id: u128, attributes: Vec<KeyValue>| records(vec![LogRecord { trace_id: id.to_be_bytes().to_vec(), attributes, ..LogRecord::default() }]);
    let word = |it: &str| attribute("id", Said::StringValue(it.to_owned()));
    let own = |it: Said| vec![attribute("p", it)];
    let from = |percentage, by_record| SamplerConfig { by_record, from_attribute: Some("id".to_owned()), ..config(percentage) };
    let with_own = |percentage| SamplerConfig { priority: Some("p".to_owned()), ..config(percentage) };
    // As the hash has it: "a" with seed 0.
    let a = bucket(b"a", 0) as f32 / SCALE;
    for (config, request, expected) in [
        (config(46.7),           record(ID, vec![]),                          "trace_id_hash not 1"),
        (config(46.72),          record(ID, vec![]),                          "trace_id_hash kept 1"),
        (from(46.72, false),     record(ID, vec![word("a")]),                 "trace_id_hash kept 1"),
        (from(a - 0.1, true),    record(ID, vec![word("a")]),                 "id not 1"),
        (from(a + 0.1, true),    record(ID, vec![word("a")]),                 "id kept 1"),
        (from(a + 0.1, false),   record(0, vec![word("a")]),                  "id kept 1"),
        (from(a + 0.1, false),   record(0, vec![attribute("id", Said::BytesValue(b"a".to_vec()))]), "id kept 1"),
        (with_own(0.0),          record(ID, own(Said::IntValue(100))),        "trace_id_hash kept 1"),
        (with_own(100.0),        record(ID, own(Said::DoubleValue(46.7))),    "trace_id_hash not 1"),
        (with_own(0.0),          record(ID, own(Said::IntValue(-1))),         "trace_id_hash kept 1"),
        (with_own(100.0),        record(ID, own(Said::StringValue("0".to_owned()))), "trace_id_hash kept 1"),
        // The original drops these two below 82.95 % (bucket 13,589 of nothing at all), and keeps them above.
        (config(1.0),            record(0, vec![]),                           "always_sampling kept 1"),
        (from(1.0, true),        record(ID, vec![]),                          "always_sampling kept 1"),
        (config(0.0),            record(0, vec![]),                           "always_sampling not 1"),
        (with_own(100.0),        record(0, own(Said::IntValue(0))),           "always_sampling not 1"),
    ] {
        let (kept, counted) = sampled(&config, Signal::Logs, &request);
        assert_eq!((kept == 1, counted.as_str()), (expected.contains("kept"), expected), "{config:?}");
    }
}

/// The share of many random traces is the percentage, and a trace is kept or not as a whole.
#[test]
fn so_much_is_kept_as_was_asked() {
    let mut dice = Dice::seeded(7);
    let ids: Vec<[u8; 16]> = (0..20_000).map(|_| dice.id128().to_be_bytes()).collect();
    let request = spans(ids.iter().map(|id| Span { trace_id: id.to_vec(), ..Span::default() }).collect());
    for percentage in [0.0, 0.5, 15.3, 50.0, 99.5, 100.0, 250.0] {
        let (kept, _) = sampled(&config(percentage), Signal::Traces, &request);
        let share = kept as f32 / 200.0;
        assert!((share - percentage.min(100.0)).abs() < 1.0, "{share} % of {percentage} %");
    }
}
