//! The rules one by one, as examples.

use super::take;
use super::tree::{Node, fields};
use crate::otlp::{
    Action, CONCERNED_MAX, Encoding, Groups, Keys, Only, Partial, Pattern, REQUEST_MAX, Rewriter, Rule, Signal, Source,
    Status, Target, TooDeep, Type, VALUE_DEPTH_MAX, Value, Walked, What, When, count, from_json_within, is_deprecated,
    merge, success, walk,
};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;

/// A length-delimited field.
pub(super) fn field(number: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    Node { number, wire: 2, value: content.as_ref().to_vec() }.canonical()
}

/// Fields one after the other.
fn all<const N: usize>(parts: [Vec<u8>; N]) -> Vec<u8> {
    parts.concat()
}

/// The request around one log record.
fn around(record: &[u8]) -> Vec<u8> {
    field(1, field(2, field(2, record)))
}

/// `KeyValue` with a text.
fn pair(key: &str, value: &str) -> Vec<u8> {
    all([field(1, key), field(2, field(1, value))])
}

/// Log records with their number as time and body.
fn logs(numbers: std::ops::Range<u64>) -> Bytes {
    let text = |n: u64| Some(AnyValue { value: Some(Any::StringValue(n.to_string())) });
    let log_records = numbers.map(|n| LogRecord { time_unix_nano: n, body: text(n), ..LogRecord::default() }).collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let request =
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] };
    request.encode_to_vec().into()
}

#[test]
fn a_refusal_names_the_place_and_the_rule() {
    let deep = |levels: usize| (0..levels).fold(Vec::new(), |value, _| field(5, field(1, value)));
    let said = |request: Vec<u8>| walk(Signal::Logs, &request).map_err(|why| why.to_string());
    for (request, expected) in [
        (around(&field(10, "seven b")), "byte 6: LogRecord.span_id is 7 bytes, must be 0 or 8"),
        (around(&field(9, "seven b")), "byte 6: LogRecord.trace_id is 7 bytes, must be 0 or 16"),
        (around(&field(3, b"\xff")), "byte 6: LogRecord.severity_text is not valid UTF-8"),
        (around(&[0x0d, 1, 2, 3, 4]), "byte 6: LogRecord.time_unix_nano has wire type 5, must be 1"),
        (around(&[0x09, 1, 2, 3]), "byte 6: field reaches beyond the end of its message"),
        (around(&[0x38]), "byte 7: field reaches beyond the end of its message"),
        (around(&[0x02, 0x00]), "byte 6: field key 2 has no valid field number"),
        (around(&[0x83, 0x01, 0x84, 0x01]), "byte 8: groups are not part of OTLP"),
        (around(&[0x1b]), "byte 6: groups are not part of OTLP"),
        (around(&[0x86, 0x01]), "byte 8: wire type 6 does not exist"),
        (around(&[0x0e]), "byte 6: wire type 6 does not exist"),
        (around(&[&[0x38][..], &[0x80; 10]].concat()), "byte 7: varint is longer than 64 bits"),
        (around(&[&[0x38][..], &[0xff; 9], &[0x02]].concat()), "byte 7: varint is longer than 64 bits"),
        (around(&field(5, deep(49))), "byte 238: messages are nested more than 100 deep"),
        (field(1, field(1_000, field(2, field(10, "x")))), "byte 7: LogRecord.span_id is 1 bytes, must be 0 or 8"),
    ] {
        assert_eq!(said(request.clone()), Err(expected.to_owned()), "{request:02x?}");
    }
    assert!(said(around(&field(5, deep(48)))).is_ok(), "4 messages and 96 in the value");
    let inhabited = |levels: usize, inner: Vec<u8>| {
        around(&field(5, (0..levels).fold(inner, |value, _| field(5, field(1, value)))))
    };
    assert!(said(inhabited(48, field(1, "text"))).is_ok(), "a known field in the hundredth message");
    let why = "byte 238: messages are nested more than 100 deep".to_owned();
    assert_eq!(said(inhabited(48, field(99, "?"))), Err(why), "prost counts skipping as one level more");
    assert!(said(around(&[&[0x38][..], &[0xff; 9], &[0x01]].concat())).is_ok(), "64 bits");
    assert!(said(around(&[&[0x38][..], &[0x80; 9], &[0x00]].concat())).is_ok(), "over-long, but ten bytes");
}

#[test]
fn an_empty_request_is_valid_and_has_nothing() {
    for signal in Signal::ALL {
        assert_eq!(walk(signal, b""), Ok(Walked::default()));
        assert_eq!(take(signal, &Bytes::new(), 0..0), Ok(Bytes::new()));
    }
}

#[test]
fn times_are_those_of_living_items() {
    let ns = |number: u64, value: u64| [vec![(number << 3 | 1) as u8], value.to_le_bytes().to_vec()].concat();
    let record = |parts: &[Vec<u8>]| field(2, parts.concat());
    let request = |records: Vec<u8>| field(1, field(2, records));
    let range = |signal, request: Vec<u8>| walk(signal, &request).map(|walked| walked.data_ns);
    // A record's own time counts before the observed one, and the last writing of a field before the first.
    assert_eq!(range(Signal::Logs, request(record(&[ns(1, 5), ns(11, 9)]))), Ok((5, 5)));
    assert_eq!(
        range(Signal::Logs, request([record(&[ns(11, 9)]), record(&[ns(1, 3), ns(1, 7)])].concat())),
        Ok((7, 9))
    );
    assert_eq!(range(Signal::Traces, request(record(&[ns(7, 5), ns(8, 9)]))), Ok((5, 9)));
    // A gauge that a sum replaces, and a sum that comes in two pieces.
    let point = |n| field(1, ns(3, n));
    let metric = [field(5, point(1)), field(7, point(20)), field(7, point(30))].concat();
    assert_eq!(walk(Signal::Metrics, &request(field(2, metric))), Ok(Walked { items: 2, data_ns: (20, 30) }));
}

#[test]
fn parts_are_slices_where_they_can_be_and_the_whole_is_not_copied() {
    let request = logs(0..5);
    assert_eq!(take(Signal::Logs, &request, 2..4), Ok(logs(2..4)));
    let taken = take(Signal::Logs, &request, 0..5).expect("it is valid");
    assert_eq!(taken.as_ptr(), request.as_ptr(), "the same memory");

    let merged = merge(&[logs(0..5), logs(5..10), logs(10..15)]);
    let second = take(Signal::Logs, &merged, 5..10).expect("it is valid");
    assert_eq!(second, logs(5..10));
    assert_eq!(second.as_ptr(), merged[request.len()..].as_ptr(), "whole resources are slices");

    let why = take(Signal::Logs, &request, 3..6).expect_err("there are five").to_string();
    assert_eq!(why, "byte 0: items 3..6 were asked for, the request has 5");
}

#[test]
fn a_metric_that_is_cut_keeps_its_name_unit_and_temporality_in_every_part() {
    let metric = all([
        field(7, field(1, b"")), // replaced by the gauge, which is replaced by the sum
        field(5, field(1, b"").repeat(4)),
        field(1, "requests"),
        field(7, [field(1, b""), vec![0x10, 2], field(1, b"")].concat()),
        field(3, "1"),
        field(7, [vec![0x18, 1], field(1, b"")].concat()),
        field(12, pair("origin", "x")),
        field(500, "unknown"),
    ]);
    let request = Bytes::from(field(1, [field(2, field(2, metric)), field(3, "schema")].concat()));
    assert_eq!(count(Signal::Metrics, &request), Ok(3));
    let part = |points: usize| {
        let envelope =
            all([field(1, "requests"), field(3, "1"), field(12, pair("origin", "x")), field(500, "unknown")]);
        let data = [vec![0x10, 2, 0x18, 1], field(1, b"").repeat(points)].concat();
        let metric = [envelope, field(7, data)].concat();
        Bytes::from(field(1, [field(3, "schema"), field(2, field(2, metric))].concat()))
    };
    let parts = [0..2, 2..3].map(|items| take(Signal::Metrics, &request, items));
    assert_eq!(parts, [Ok(part(2)), Ok(part(1))]);
}

fn rewrite(target: Target, actions: Vec<Action>, request: Vec<u8>) -> Vec<u8> {
    let rewriter = Rewriter::new(vec![Rule { target, actions, only: Only::default() }]).expect("flat values");
    rewriter.rewrite(Signal::Logs, &request.into(), &|_| None, REQUEST_MAX).expect("it is valid").to_vec()
}

/// Architecture, "Rewrite rules".
#[test]
#[rustfmt::skip]
fn an_edited_list_keeps_order_and_what_it_does_not_know() {
    let set = |key: &str, source: Source, when: When| Action::Set { key: key.into(), source, when };
    let text = |text: &str| Source::Value(Value::Text(text.into()));
    let from = |key: &str| Source::Attribute(key.into());
    let (a1, b2, b3) = (field(6, pair("a", "1")), field(6, pair("b", "2")), field(6, pair("b", "3")));
    let time = vec![0x09, 1, 2, 3, 4, 5, 6, 7, 8];
    let before = all([a1.clone(), time.clone(), b2.clone(), field(77, "?"), b3.clone()]);
    let new = |key: &str, value: &str| field(6, pair(key, value));
    for (what, action, after) in [
        ("insert is for the absent",  set("a", text("9"), When::Absent),   before.clone()),
        ("insert appends",            set("c", text("9"), When::Absent),   all([before.clone(), new("c", "9")])),
        ("update is for the present", set("c", text("9"), When::Present),  before.clone()),
        ("upsert keeps the position", set("a", text("9"), When::Always),   all([new("a", "9"), time.clone(), b2.clone(), field(77, "?"), b3.clone()])),
        ("upsert leaves one of many", set("b", text("9"), When::Always),   all([a1.clone(), time.clone(), new("b", "9"), field(77, "?")])),
        ("update leaves one of many", set("b", text("9"), When::Present),  all([a1.clone(), time.clone(), new("b", "9"), field(77, "?")])),
        ("delete deletes all",        Action::delete("b"),                 all([a1.clone(), time.clone(), field(77, "?")])),
        ("a copy is of the first",    set("c", from("b"), When::Always),   all([before.clone(), new("c", "2")])),
        ("no source, no change",      set("a", from("z"), When::Always),   before.clone()),
        ("no context, no change",     set("a", Source::Context("t".into()), When::Always), before.clone()),
    ] {
        assert_eq!(rewrite(Target::Items, vec![action], around(&before)), around(&after), "{what}");
    }
    let in_order = vec![Action::delete("b"), set("b", text("x"), When::Absent), set("a", from("b"), When::Always)];
    let after = all([new("a", "x"), time, field(77, "?"), new("b", "x")]);
    assert_eq!(rewrite(Target::Items, in_order, around(&before)), around(&after), "each sees the one before it");
}

#[test]
fn an_attribute_keeps_its_unknown_fields_when_it_is_set() {
    // A key written twice (the last counts), a value in two pieces (they merge), and a field nobody knows.
    let odd =
        all([field(1, "no"), field(9, "?"), field(2, field(1, "old")), field(1, "a"), field(2, field(1, "older"))]);
    let set = all([field(1, "no"), field(9, "?"), field(2, field(1, "new")), field(1, "a")]);
    let upsert = vec![Action::upsert("a", Value::Text("new".into()))];
    assert_eq!(rewrite(Target::Items, upsert, around(&field(6, odd))), around(&field(6, set)));
    // A list in two pieces is one list, also where it is copied to.
    let one = |text| field(2, Value::List(vec![Value::Text(String::from(text))]).encode());
    let pieces = field(6, all([field(1, "a"), one("1"), one("2")]));
    let copy = vec![Action::Set { key: "c".into(), source: Source::Attribute("a".into()), when: When::Always }];
    let (first, second) = (Value::List(vec![Value::Text("1".into())]), Value::List(vec![Value::Text("2".into())]));
    let merged = field(6, all([field(1, "c"), field(2, [first.encode(), second.encode()].concat())]));
    assert_eq!(rewrite(Target::Items, copy, around(&pieces)), around(&all([pieces.clone(), merged])));
    let bare = vec![Action::upsert("a", Value::Text("new".into()))];
    let without_value = around(&field(6, field(1, "a")));
    assert_eq!(rewrite(Target::Items, bare, without_value), around(&field(6, pair("a", "new"))));
}

#[test]
fn a_resource_is_made_when_there_is_none_and_merged_when_there_are_two() {
    let upsert = || vec![Action::upsert("h", Value::Text("1".into()))];
    let made = field(1, [field(1, field(1, pair("h", "1"))), field(3, "url")].concat());
    assert_eq!(rewrite(Target::Resource, upsert(), field(1, field(3, "url"))), made);
    assert_eq!(
        rewrite(Target::Resource, vec![Action::delete("h")], field(1, field(3, "url"))),
        field(1, field(3, "url"))
    );

    let (a, h, b) = (field(1, pair("a", "")), field(1, pair("h", "0")), field(1, pair("b", "")));
    let twice = field(1, all([field(3, "url"), field(1, [a.clone(), h].concat()), field(7, "?"), field(1, &b)]));
    let once = all([field(3, "url"), field(1, [a, field(1, pair("h", "1")), b].concat()), field(7, "?")]);
    assert_eq!(rewrite(Target::Resource, upsert(), twice), field(1, once));
}

/// Reference §2.8 and contrib v0.88.0, `attraction/hasher.go`, `type_converter.go`.
#[test]
fn values_are_computed_as_the_collector_computes_them() {
    let computed = |given: Value, action: Action| {
        let request = around(&field(6, [field(1, "k"), field(2, given.encode())].concat()));
        let after = rewrite(Target::Items, vec![action], request);
        let decoded = ExportLogsServiceRequest::decode(after.as_slice()).expect("it is valid");
        let attributes = &decoded.resource_logs[0].scope_logs[0].log_records[0].attributes;
        attributes[0].value.clone().and_then(|any| any.value)
    };
    let text = |text: &str| Value::Text(text.into());
    let said = |text: &str| Some(Any::StringValue(text.into()));
    let list = || Value::List(vec![Value::Int(1), text("a"), Value::Map(vec![("z".into(), Value::Bool(true))])]);
    let hash = || Action::Hash(Keys::named("k"));
    // As `printf … | sha256sum` gives them: the text, 7 and 1.5 as eight bytes little-endian, one byte 01.
    for (given, hex) in [
        (text("tenant-1"), "0a96abb33b07ff0e8f48bcc4893e0e7346bff899dd316979517fa06509a49aff"),
        (Value::Int(7), "aae89fc0f03e2959ae4d701a80cc3915918c950b159f6abb6c92c1433b1a8534"),
        (Value::Double(1.5), "e163f8cb0f7067a7fc78ca859a77f849aea3214f38fb75b884e4a16be725c905"),
        (Value::Bool(true), "4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a"),
        (text(""), ""),
        (list(), ""),
    ] {
        assert_eq!(computed(given, hash()), said(hex));
    }
    let convert = |to| Action::Convert { key: "k".into(), to };
    for (given, to, expected) in [
        (text("42"), Type::Int, Some(Any::IntValue(42))),
        (text("4.2"), Type::Int, said("4.2")),
        (Value::Double(-2.9), Type::Int, Some(Any::IntValue(-2))),
        (Value::Bool(true), Type::Int, Some(Any::IntValue(1))),
        (list(), Type::Int, Some(Any::ArrayValue(Default::default()))),
        (text("4.2"), Type::Double, Some(Any::DoubleValue(4.2))),
        (Value::Int(3), Type::Double, Some(Any::DoubleValue(3.0))),
        (Value::Bool(false), Type::Double, Some(Any::DoubleValue(0.0))),
        (Value::Int(-7), Type::Text, said("-7")),
        (Value::Bool(true), Type::Text, said("true")),
        (Value::Double(3.0), Type::Text, said("3")),
        (Value::Double(1.5e21), Type::Text, said("1.5e+21")),
        (Value::Double(1e-7), Type::Text, said("1e-7")),
        (Value::Double(0.000_001), Type::Text, said("0.000001")),
        (Value::Empty, Type::Text, said("")),
        (list(), Type::Text, said(r#"[1,"a",{"z":true}]"#)),
    ] {
        let shown = format!("{given:?} to {to:?}");
        match (computed(given, convert(to)), expected) {
            (Some(Any::ArrayValue(_)), Some(Any::ArrayValue(_))) => {} // it stayed a list
            (computed, expected) => assert_eq!(computed, expected, "{shown}"),
        }
    }
}

#[test]
fn patterns_select_names_and_groups_become_attributes() {
    let starts = |prefix: &'static str| Pattern(Arc::new(move |name| name.starts_with(prefix)));
    let before =
        around(&all([field(6, pair("http.a", "1")), field(6, pair("b", "x=2")), field(6, pair("http.c", "3"))]));
    let delete = Action::Delete(Keys { key: None, pattern: Some(starts("http.")) });
    assert_eq!(rewrite(Target::Items, vec![delete], before.clone()), around(&field(6, pair("b", "x=2"))));
    let groups = Groups {
        names: vec!["name".into(), "http.c".into()],
        find: Arc::new(|text| text.split_once('=').map(|(a, b)| vec![a.to_owned(), b.to_owned()])),
    };
    let after = around(&all([
        field(6, pair("http.a", "1")),
        field(6, pair("b", "x=2")),
        field(6, pair("http.c", "2")),
        field(6, pair("name", "x")),
    ]));
    let extract = |key: &str| Action::Extract { key: key.into(), groups: groups.clone() };
    assert_eq!(rewrite(Target::Items, vec![extract("b")], before), after);
    // The text may come from an action, and what it sets may be there already.
    let before = around(&field(6, pair("name", "old")));
    let after =
        around(&all([field(6, pair("name", "n")), field(6, pair("new", "n=c")), field(6, pair("http.c", "c"))]));
    let actions = vec![Action::upsert("new", Value::Text("n=c".into())), extract("new")];
    assert_eq!(rewrite(Target::Items, actions, before), after);
}

#[test]
fn a_configured_value_too_deep_for_any_far_end_is_refused_before_it_runs() {
    let deep = |levels| (0..levels).fold(Value::Empty, |value, _| Value::Map(vec![("k".into(), value)]));
    let rules = |levels| {
        vec![Rule { target: Target::Items, actions: vec![Action::upsert("k", deep(levels))], only: Only::default() }]
    };
    assert_eq!(Rewriter::new(rules(VALUE_DEPTH_MAX + 1)).map(|_| ()), Err(TooDeep));
    // The deepest allowed one, in the deepest list there is, is still decodable.
    let rewriter = Rewriter::new(rules(VALUE_DEPTH_MAX)).expect("it is at the limit");
    let point = field(1, field(2, field(2, field(9, field(1, b"")))));
    let after = rewriter.rewrite(Signal::Metrics, &point.into(), &|_| None, REQUEST_MAX).expect("it is valid");
    assert_eq!(walk(Signal::Metrics, &after).map(|walked| walked.items), Ok(1));
}

/// measured/http_responses_v0.88.0.txt, and opentelemetry-proto's collector services.
#[test]
fn answers_are_written_as_the_collector_writes_them_and_read_back() {
    assert_eq!(success(Encoding::Protobuf), [0x0a, 0x00]);
    assert_eq!(success(Encoding::Json), br#"{"partialSuccess":{}}"#);
    assert_eq!(Partial::decode(success(Encoding::Protobuf)), Ok(Partial::default()));
    assert_eq!(Partial::decode(b""), Ok(Partial::default()));

    let partial = Partial { rejected: 3, message: "too \"old\"".into() };
    assert_eq!(
        String::from_utf8(partial.encode(Signal::Logs, Encoding::Json)).as_deref(),
        Ok(r#"{"partialSuccess":{"errorMessage":"too \"old\"","rejectedLogRecords":"3"}}"#)
    );
    let bytes = partial.encode(Signal::Logs, Encoding::Protobuf);
    assert_eq!(Partial::decode(&bytes), Ok(partial));
    let response = opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse::decode(bytes.as_slice())
        .expect("it is one");
    assert_eq!(response.partial_success.map(|partial| partial.rejected_log_records), Some(3));
    assert!(Partial::decode(b"<html>").is_err(), "a proxy's page is no answer");

    let status = Status { code: 3, message: "no".into(), retry_delay: Some(Duration::new(7, 5)) };
    assert_eq!(status.encode(Encoding::Json), br#"{"code":3,"message":"no"}"#);
    assert_eq!(Status::decode(&status.encode(Encoding::Protobuf)), Ok(status.clone()));
    let body = fields(&status.encode(Encoding::Protobuf)).expect("it is protobuf");
    assert_eq!(body[0], Node { number: 1, wire: 0, value: vec![3] });
    let any = fields(&body[2].value).expect("it is protobuf");
    assert_eq!(any[0].value, b"type.googleapis.com/google.rpc.RetryInfo");
    assert_eq!(any[1].value, field(1, [8, 7, 16, 5]));
    let negative = field(1, [&[8][..], &[0xff; 9], &[1]].concat());
    assert_eq!(Partial::decode(&negative).map(|partial| partial.rejected), Ok(0), "less than none is none");
    let other = field(3, all([field(1, "type.googleapis.com/google.rpc.DebugInfo"), field(2, field(1, [8, 7]))]));
    assert_eq!(Status::decode(&other).map(|status| status.retry_delay), Ok(None), "another detail");
    let forever = field(
        3,
        all([
            field(1, "type.googleapis.com/google.rpc.RetryInfo"),
            field(2, field(1, [8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        ]),
    );
    assert_eq!(Status::decode(&forever).map(|status| status.retry_delay), Ok(None), "292 billion years is no delay");
}

/// Goal: no request overflows a thread's stack.
/// Method: a stack of 64 KiB, and a value nested 20,000 times.
#[test]
fn no_nesting_needs_stack() {
    let test = || {
        let mut value = Vec::new();
        for _ in 0..20_000 {
            value = field(5, field(1, value));
        }
        let request = Bytes::from(around(&field(5, value)));
        walk(Signal::Logs, &request).expect_err("it is far too deep");
        let _ = take(Signal::Logs, &request, 0..1);
        let rewriter = Rewriter::new(vec![Rule {
            target: Target::Items,
            actions: vec![Action::delete("x")],
            only: Only::default(),
        }]);
        let _ = rewriter.expect("no values").rewrite(Signal::Logs, &request, &|_| None, REQUEST_MAX);
    };
    std::thread::Builder::new().stack_size(64 << 10).spawn(test).expect("a thread").join().expect("it holds");
}

/// Goal: 20 KB of gzip are not gigabytes of output.
/// Method: ten million items of two bytes, or fewer with 60 bytes added to each; and a million attributes of one item.
#[test]
fn a_request_that_would_explode_is_refused_before_it_does() {
    let upsert = |key| vec![Action::upsert(key, Value::Text("x".repeat(60)))];
    let rewriter = |actions| {
        Rewriter::new(vec![Rule { target: Target::Items, actions, only: Only::default() }]).expect("it is flat")
    };
    let items = |n| field(1, field(2, [0x12, 0].repeat(n)));
    let refused = walk(Signal::Logs, &items(10_000_000)).expect_err("too many");
    assert_eq!((refused.what.clone(), refused.is_too_large()), (What::Parts, true));
    let scopes = field(1, [0x12, 0].repeat(2_000_000));
    assert_eq!(walk(Signal::Traces, &scopes).map_err(|e| e.what), Err(What::Parts));

    let request = Bytes::from(items(500_000));
    walk(Signal::Logs, &request).expect("many, and not absurd");
    let limit = request.len() + (1 << 20);
    let refused = rewriter(upsert("k")).rewrite(Signal::Logs, &request, &|_| None, limit).expect_err("30 MB");
    assert_eq!((refused.what.clone(), refused.is_too_large()), (What::Size(limit), true));
    let at = refused.offset;
    assert!((30_000..70_000).contains(&at), "it ended when a megabyte was written, at byte {at}");
    assert!(rewriter(upsert("k")).rewrite(Signal::Logs, &request, &|_| None, REQUEST_MAX).is_ok());

    let attributes = Bytes::from(around(&field(6, pair("k", "v")).repeat(CONCERNED_MAX + 1)));
    let refused = rewriter(upsert("k")).rewrite(Signal::Logs, &attributes, &|_| None, REQUEST_MAX);
    assert_eq!(refused.map_err(|e| e.what), Err(What::Attributes));
    assert!(rewriter(upsert("j")).rewrite(Signal::Logs, &attributes, &|_| None, REQUEST_MAX).is_ok(), "none is meant");
}

/// Hashing looks at each attribute once: with the square of them this would take minutes.
#[test]
fn hashing_sixty_thousand_attributes_takes_no_time() {
    let all = Pattern(Arc::new(|_: &str| true));
    let hash = vec![Action::Hash(Keys { key: None, pattern: Some(all) })];
    let list: Vec<u8> = (0..CONCERNED_MAX).flat_map(|n| field(6, pair(&format!("{n:x}"), ""))).collect();
    let begun = std::time::Instant::now();
    rewrite(Target::Items, hash, around(&list));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// `0,` in a list of buckets is eight bytes of protobuf.
#[test]
fn json_that_grows_beyond_the_limit_is_refused_as_too_large() {
    let zeros = "0,".repeat(100_000);
    let point = format!(r#"{{"dataPoints":[{{"bucketCounts":[{zeros}0]}}]}}"#);
    let body = format!(r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"histogram":{point}}}]}}]}}]}}"#);
    let refused = from_json_within(Signal::Metrics, body.as_bytes(), body.len()).expect_err("four times as long");
    assert!(refused.is_too_large && refused.offset < body.len() / 2, "{refused}");
    assert!(from_json_within(Signal::Metrics, body.as_bytes(), 4 * body.len()).is_ok());
}

#[test]
fn scopes_at_field_1000_are_seen() {
    let item = || field(2, field(3, "INFO"));
    assert!(is_deprecated(&field(1, field(1_000, item()))));
    assert!(!is_deprecated(&field(1, field(2, item()))) && !is_deprecated(&field(1, field(1_000, ""))));
}
