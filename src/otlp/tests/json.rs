//! OTLP/JSON in all the forms the collector takes, and what is refused with which words.

use super::tree::{Node, fields};
use super::{cases, entropy, signals};
use crate::otlp::schema::{DEPRECATED_SCOPES, Field, Kind, Msg};
use crate::otlp::slow::Request;
use crate::otlp::wild::Choices;
use crate::otlp::{Signal, from_json, walk};
use base64::Engine as _;
use proptest::prelude::*;

/// Writes JSON from protobuf; `choice` decides between the forms that mean the same.
struct Writer<'a> {
    choice: &'a mut dyn FnMut(usize) -> usize,
}

impl Writer<'_> {
    fn message(&mut self, msg: Msg, bytes: &[u8]) -> String {
        let nodes = fields(bytes).expect("a valid request");
        let mut members: Vec<String> = Vec::new();
        for field in msg.get().fields.iter().filter(|field| field.number != DEPRECATED_SCOPES) {
            let found: Vec<&Node> = nodes.iter().filter(|node| node.number == u64::from(field.number)).collect();
            let key = if (self.choice)(2) == 0 { camel(field.name) } else { field.name.to_owned() };
            if found.is_empty() {
                if !field.oneof && (self.choice)(9) == 8 {
                    members.push(format!("\"{key}\":null"));
                }
                continue;
            }
            let values: Vec<String> = found.iter().flat_map(|node| self.values(field, node)).collect();
            let value = if field.repeated { format!("[{}]", values.join(" , ")) } else { values.concat() };
            members.push(format!("{}\"{key}\" :\t{value}", ["", "\n"][(self.choice)(2)]));
        }
        if (self.choice)(5) == 4 {
            members.insert(0, r#""unknown_Field":{"a":[1,{"b":null}],"é\u0041":"\\\"}"}"#.to_owned());
        }
        let turn = (self.choice)(members.len().max(1)); // any order will do
        members.rotate_left(turn);
        format!("{{{}}}", members.join(","))
    }

    fn values(&mut self, field: &Field, node: &Node) -> Vec<String> {
        let wire = field.kind.wire();
        if field.repeated && wire != 2 && node.wire == 2 {
            let mut rest = node.value.as_slice();
            let mut values = Vec::new();
            while !rest.is_empty() {
                let len = if wire == 0 { rest.iter().position(|b| b & 0x80 == 0).expect("valid") + 1 } else { 8 };
                values.push(self.value(field, &rest[..len]));
                rest = &rest[len..];
            }
            return values;
        }
        vec![self.value(field, &node.value)]
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)] // as protobuf does
    fn value(&mut self, field: &Field, bytes: &[u8]) -> String {
        let bits = match field.kind.wire() {
            0 => bytes.iter().rev().fold(0, |n, byte| n << 7 | u64::from(byte & 0x7f)),
            2 => 0,
            _ => bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)),
        };
        let text = match field.kind {
            Kind::Message(inner) => return self.message(inner, bytes),
            Kind::Text => return json_string(std::str::from_utf8(bytes).expect("valid")),
            Kind::Bytes => return format!("\"{}\"", base64::engine::general_purpose::STANDARD.encode(bytes)),
            Kind::TraceId | Kind::SpanId => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                return format!("\"{}\"", if (self.choice)(2) == 0 { hex } else { hex.to_uppercase() });
            }
            Kind::Bool => return (bits != 0).to_string(),
            Kind::Enum(names) => match names.iter().find(|(_, n)| *n == bits as i32) {
                Some((name, _)) if (self.choice)(2) == 0 => return format!("\"{name}\""),
                _ => return (bits as i32).to_string(),
            },
            Kind::Double => {
                let n = f64::from_bits(bits);
                if n.is_nan() {
                    return "\"NaN\"".to_owned();
                } else if n.is_infinite() {
                    return format!("\"{}Infinity\"", if n < 0.0 { "-" } else { "" });
                } else if (self.choice)(2) == 0 {
                    format!("{n:e}")
                } else {
                    n.to_string()
                }
            }
            Kind::Int32 => (bits as i32).to_string(),
            Kind::Int64 | Kind::SFixed64 => (bits as i64).to_string(),
            Kind::SInt32 => ((bits as u32 >> 1) as i32 ^ -((bits & 1) as i32)).to_string(),
            Kind::UInt32 | Kind::Fixed32 => (bits as u32).to_string(),
            Kind::UInt64 | Kind::Fixed64 => bits.to_string(),
        };
        if (self.choice)(2) == 0 { text } else { format!("\"{text}\"") }
    }
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(super) fn plain(signal: Signal, request: &[u8]) -> String {
    Writer { choice: &mut |_| 0 }.message(Msg::request(signal), request)
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn json_in_any_form_means_what_its_protobuf_means(
        signal in signals(), choices in entropy(), forms in prop::collection::vec(any::<u8>(), 1..60),
    ) {
        let request = Choices::lawful(&choices).request(signal);
        let Ok(decoded) = Request::decode(signal, &request) else { return Ok(()) };
        let request = decoded.encode(); // without repetitions of what JSON cannot repeat
        let mut form = forms.iter().cycle();
        let mut choice = |of: usize| usize::from(*form.next().expect("it goes round")) % of;
        let text = Writer { choice: &mut choice }.message(Msg::request(signal), &request);
        let read = from_json(signal, text.as_bytes());
        let read = read.map_err(|why| TestCaseError::fail(format!("{why}\n{text}")))?;
        let walked = walk(signal, &read).map_err(|why| TestCaseError::fail(format!("{why}\n{text}")))?;
        prop_assert_eq!(walked, decoded.walked());
        let again = Request::decode(signal, &read).expect("it was walked").encode();
        // As text, because NaN has many bit patterns and one name.
        prop_assert_eq!(plain(signal, &again), plain(signal, &request), "{}", text);
    }

    #[test]
    fn damaged_json_is_read_or_refused_but_never_a_panic(
        signal in signals(), choices in entropy(), hits in super::damage(),
    ) {
        let request = Choices::lawful(&choices).request(signal);
        let Ok(decoded) = Request::decode(signal, &request) else { return Ok(()) };
        let mut text = plain(signal, &decoded.encode()).into_bytes();
        hits.strike(&mut text);
        match from_json(signal, &text) {
            Ok(read) => prop_assert!(walk(signal, &read).is_ok()),
            Err(why) => prop_assert!(why.offset <= text.len()),
        }
    }

    #[test]
    fn any_text_is_read_or_refused_but_never_a_panic(
        signal in signals(), text in r#"[\[\]{}:,"\\a-u0-9 .eE+-]{0,40}"#,
    ) {
        if let Ok(read) = from_json(signal, text.as_bytes()) {
            prop_assert!(walk(signal, &read).is_ok());
        }
    }
}

fn logs(text: &str) -> Result<String, String> {
    let read = from_json(Signal::Logs, text.as_bytes()).map_err(|why| why.to_string())?;
    let canonical = Request::decode(Signal::Logs, &read).map_err(|why| why.to_string())?.encode();
    Ok(plain(Signal::Logs, &canonical).replace([' ', '\t'], ""))
}

/// Reference §4, "laxer" reader of the collector, and measured/http_responses_v0.88.0.txt.
#[test]
#[rustfmt::skip]
fn what_the_collector_takes_is_taken() {
    let record = |inside: &str| format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{{inside}}}]}}]}}]}}"#);
    for (given, meant) in [
        ("null",                                    "{}".to_owned()),
        (" {} trailing \u{1} garbage",              "{}".to_owned()),
        (r#"{"resourceLogs":null}"#,                "{}".to_owned()),
        (r#"{"resource_logs":[{"resource":null}]}"#, r#"{"resourceLogs":[{}]}"#.to_owned()),
        (r#"{"resourceLogs":[null]}"#,              r#"{"resourceLogs":[{}]}"#.to_owned()),
        (r#"{"resourceLogs":[],"resourceLogs":[{}]}"#, r#"{"resourceLogs":[{}]}"#.to_owned()),
        (&record(r#""severityNumber":"SEVERITY_NUMBER_WARN2""#), record(r#""severityNumber":"SEVERITY_NUMBER_WARN2""#)),
        (&record(r#""severityNumber":14"#),         record(r#""severityNumber":"SEVERITY_NUMBER_WARN2""#)),
        (&record(r#""severityNumber":99"#),         record(r#""severityNumber":99"#)),
        (&record(r#""traceId":"","spanId":"00F067AA0ba902b7""#), record(r#""spanId":"00f067aa0ba902b7""#)),
        (&record(r#""timeUnixNano":"17","flags":"1""#), record(r#""timeUnixNano":17,"flags":1"#)),
        (&record(r#""timeUnixNano":1,"time_unix_nano":2"#), record(r#""timeUnixNano":2"#)),
        (&record(r#""body":{"stringValue":null}"#), record(r#""body":{"stringValue":""}"#)),
        (&record(r#""body":{"intValue":null}"#),    record(r#""body":{}"#)),
        (&record(r#""body":{"stringValue":"a","intValue":"7"}"#), record(r#""body":{"intValue":7}"#)),
        (&record(r#""body":{"arrayValue":{"values":[{}]},"arrayValue":{}}"#), record(r#""body":{"arrayValue":{}}"#)),
        (&record(r#""body":{"doubleValue":"-Infinity"}"#), record(r#""body":{"doubleValue":"-Infinity"}"#)),
        (&record(r#""body":{"bytesValue":"aGk="}"#), record(r#""body":{"bytesValue":"aGk="}"#)),
        (&record(r#""body":{"bytesValue":"aGl="}"#), record(r#""body":{"bytesValue":"aGk="}"#)),
        (&record(r#""body":{"stringValue":"\ud83e\udd80\ud800\n\/"}"#), record("\"body\":{\"stringValue\":\"🦀\u{fffd}\\n/\"}")),
        (&record(r#""body":{"stringValue":"\ud800\u0041"}"#), record("\"body\":{\"stringValue\":\"\u{fffd}A\"}")),
    ] {
        assert_eq!(logs(given), Ok(meant), "{given}");
    }
    let deprecated = br#"{"resourceLogs":[{"deprecatedScopeLogs":[{}],"deprecated_scope_logs":7}]}"#;
    assert_eq!(from_json(Signal::Logs, deprecated), Ok(vec![0x0a, 0]), "unknown, so skipped");
}

#[test]
#[rustfmt::skip]
fn what_is_refused_says_where_and_why() {
    for (given, why) in [
        ("",                             "line 1 column 1 (byte 0): the body ends where `{` (a request is an object) was expected"),
        ("[]",                           "line 1 column 1 (byte 0): found `[`, expected `{` (a request is an object)"),
        ("{\n \"resourceLogs\": {} }",   "line 2 column 18 (byte 19): found `{`, expected `[` (a repeated field is a list)"),
        (r#"{"resourceLogs":[7]}"#,      "line 1 column 18 (byte 17): found `7`, expected `{` (a message is an object)"),
        (r#"{"resourceLogs":[{},]}"#,    "line 1 column 21 (byte 20): found `]`, expected `{` (a message is an object)"),
        (r#"{"resourceLogs":[{}"#,       "line 1 column 20 (byte 19): the body ends where `,` or `]` was expected"),
        (r#"{"a":1 "b":2}"#,             "line 1 column 8 (byte 7): found `\"`, expected `,` or `}`"),
        (r#"{"a":01}"#,                  "line 1 column 6 (byte 5): found `0`, expected a number"),
        (r#"{"a":1.}"#,                  "line 1 column 6 (byte 5): found `1`, expected a number"),
        (r#"{"a":1e}"#,                  "line 1 column 6 (byte 5): found `1`, expected a number"),
        ("{\"a\":\"\u{1f}\"}",           "line 1 column 7 (byte 6): a string holds a control character"),
        (r#"{"a":"x}"#,                  "line 1 column 6 (byte 5): a string has no end"),
        ("{\"a\":\"\n\"}",               "line 1 column 7 (byte 6): a string holds a control character"),
        (r#"{"a":"\x"}"#,                "line 1 column 7 (byte 6): a string holds an unknown escape"),
        (r#"{"a" 1}"#,                   "line 1 column 6 (byte 5): found `1`, expected `:` (it follows a key)"),
        (r#"{"resourceLogs":[{"schemaUrl":7}]}"#, "line 1 column 31 (byte 30): found `7`, expected a string"),
    ] {
        assert_eq!(logs(given), Err(why.to_owned()), "{given}");
    }
    let record = |inside: &str| logs(&format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{{inside}}}]}}]}}]}}"#));
    for (given, why) in [
        (r#""traceId":"0af7""#,          "trace_id is 4 characters, must be 0 or 32 hex digits"),
        (r#""spanId":"00f067aa0ba902bx""#, "span_id is not hex"),
        (r#""timeUnixNano":"1.5""#,      "time_unix_nano is no integer, or out of range"),
        (r#""timeUnixNano":-1"#,         "time_unix_nano is no integer, or out of range"),
        (r#""flags":4294967296"#,        "flags is no integer, or out of range"),
        (r#""severityNumber":"LOUD""#,   "`LOUD` is no value of severity_number"),
        (r#""body":{"doubleValue":1e999}"#, "double_value is no number, or out of range"),
        (r#""body":{"boolValue":"true"}"#, "found `\"`, expected true or false"),
        (r#""body":{"bytesValue":"a"}"#, "bytes_value is not base64: Invalid input length: 1"),
    ] {
        let said = record(given).expect_err(given);
        assert!(said.ends_with(why), "{given}: {said}");
    }
}

/// Goal: no nesting overflows a thread's stack or gets past the depth that protobuf allows.
/// Method: a stack of 256 KiB, values nested at and beyond the limit, known and unknown.
#[test]
fn nesting_is_bounded_and_needs_no_stack() {
    let test = || {
        let nested = |levels: usize| {
            let (open, close) = (r#"{"arrayValue":{"values":["#.repeat(levels), "]}}".repeat(levels));
            format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{open}{close}}}]}}]}}]}}"#)
        };
        // Three messages around the record's body, which is the fourth; two more for each level.
        let deepest = from_json(Signal::Logs, nested(48).as_bytes()).expect("4 + 2 · 48 = 100");
        assert!(walk(Signal::Logs, &deepest).is_ok());
        let deeper = from_json(Signal::Logs, nested(49).as_bytes()).expect_err("4 + 2 · 49 = 102");
        assert!(deeper.what.ends_with("nested more than 100 deep"), "{deeper}");
        from_json(Signal::Logs, nested(1_000_000).as_bytes()).expect_err("far too deep");
        let unknown = format!(r#"{{"x":{}"#, "[".repeat(1_000_000));
        let refused = from_json(Signal::Logs, unknown.as_bytes()).expect_err("far too deep");
        assert_eq!(refused.what, "a value is nested more than 512 deep");
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(test).expect("a thread").join().expect("it holds");
}
