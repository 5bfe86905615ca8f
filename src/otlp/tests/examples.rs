//! The rules one by one, as examples.

use crate::otlp::{Action, Limits, Rewriter, Rule, Signal, Target, Value, Walked, count, cut, merge, take, walk};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;

fn text(text: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(any_value::Value::StringValue(text.into())) })
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: text(value), ..KeyValue::default() }
}

/// Log records 0..n with their number as time and body.
fn logs(numbers: std::ops::Range<u64>) -> Bytes {
    let log_records = numbers
        .map(|n| LogRecord { time_unix_nano: n + 1, body: text(&n.to_string()), ..LogRecord::default() })
        .collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let request =
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] };
    request.encode_to_vec().into()
}

#[test]
fn a_request_is_walked_counted_cut_taken_merged_and_rewritten() {
    let request = logs(0..5);
    assert_eq!(walk(Signal::Logs, &request), Ok(Walked { items: 5, data_ns: (1, 5) }));
    assert_eq!(count(Signal::Logs, &request), Ok(5));

    let parts = cut(Signal::Logs, &request, Limits { max_items: 2, max_bytes: 0 }).expect("it was walked");
    assert_eq!(parts.iter().map(|part| part.items.clone()).collect::<Vec<_>>(), [0..2, 2..4, 4..5]);
    for part in &parts {
        assert_eq!(take(Signal::Logs, &request, part.items.clone()).as_ref(), Ok(&part.bytes));
    }
    assert_eq!(parts[1].bytes, logs(2..4));
    assert_eq!(walk(Signal::Logs, &merge(&[request.clone(), logs(5..7)])), Ok(Walked { items: 7, data_ns: (1, 7) }));

    let rules = vec![
        Rule { target: Target::Resource, actions: vec![Action::upsert("host", Value::Text("a".into()))], only: None },
        Rule { target: Target::Items, actions: vec![Action::upsert("k", Value::Text("v".into()))], only: None },
    ];
    let rewriter = Rewriter::new(rules).expect("flat values");
    let rewritten = rewriter.rewrite(Signal::Logs, &request, &|_| None).expect("it was walked");
    let decoded = ExportLogsServiceRequest::decode(rewritten).expect("what we write can be read");
    let resource = &decoded.resource_logs[0];
    assert_eq!(resource.resource.as_ref().expect("it was made").attributes, [attribute("host", "a")]);
    assert!(resource.scope_logs[0].log_records.iter().all(|record| record.attributes == [attribute("k", "v")]));
}
