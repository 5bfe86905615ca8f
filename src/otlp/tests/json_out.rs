//! Protobuf to JSON: what is written reads back as the same, and no terminal acts on it.

use super::json::plain;
use super::{cases, entropy, signals};
use crate::otlp::slow::Request;
use crate::otlp::wild::Choices;
use crate::otlp::wire::{Open, put_bytes};
use crate::otlp::{Signal, each_item, from_json, to_json, walk};
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases(3_000))]

    /// Repetitions, oneofs written twice, packed and unpacked: the writer means what prost makes of them.
    #[test]
    fn what_is_written_reads_back_as_the_same(signal in signals(), choices in entropy()) {
        let request = Choices::lawful(&choices).request(signal);
        let (Ok(decoded), Ok(walked)) = (Request::decode(signal, &request), walk(signal, &request)) else { return Ok(()) };
        let text = to_json(signal, &request).map_err(|why| TestCaseError::fail(why.to_string()))?;
        let read = from_json(signal, text.as_bytes()).map_err(|why| TestCaseError::fail(format!("{why}\n{text}")))?;
        let again = Request::decode(signal, &read).expect("from_json gives requests").encode();
        // As text, because NaN has many bit patterns and one name.
        prop_assert_eq!(plain(signal, &again), plain(signal, &decoded.encode()), "{}", text);

        let mut lines = 0;
        each_item(signal, &request, |line| {
            let object: serde_json::Value = serde_json::from_str(&format!("{{{line}}}")).expect("an object");
            assert!(object["resource"].is_object() && object["scope"].is_object(), "{line}");
            lines += 1;
        }).map_err(|why| TestCaseError::fail(why.to_string()))?;
        prop_assert_eq!(lines, walked.items, "a line for each item");
    }

    #[test]
    fn damaged_bytes_are_written_or_refused_but_never_a_panic(
        signal in signals(), choices in entropy(), hits in super::damage(),
    ) {
        let mut request = Choices::lawful(&choices).request(signal);
        hits.strike(&mut request);
        let _ = to_json(signal, &request);
        let _ = each_item(signal, &request, |_| {});
    }

    #[test]
    fn no_text_makes_a_terminal_act(text in prop::collection::vec(any::<char>(), 0..40)) {
        let text: String = text.into_iter().collect();
        let mut out = String::new();
        crate::otlp::put_text(&mut out, &text);
        let acts = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        prop_assert!(!out.chars().any(acts), "{}", out);
        prop_assert_eq!(serde_json::from_str::<String>(&out).expect("a JSON string"), text);
    }
}

/// Opens nested fields, writes `inside`, closes them.
fn nested(path: &[u32], inside: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    let open: Vec<Open> = path.iter().map(|number| Open::field(&mut out, *number, 0)).collect();
    inside(&mut out);
    open.into_iter().rev().for_each(|field| field.close(&mut out));
    out
}

/// Reference §4: camelCase, 64-bit integers as strings, ids in hex, bytes in base64, enums as numbers.
#[test]
fn a_record_is_written_as_the_specification_has_it() {
    let json = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"host","value":{"stringValue":"a"}}]},"scopeLogs":[{"scope":{"name":"s"},"logRecords":[{"timeUnixNano":"17","severityNumber":9,"body":{"stringValue":"\u001b[2J\u202e\ud83e\udd80"},"attributes":[{"key":"n","value":{"intValue":"9007199254740993"}},{"key":"b","value":{"bytesValue":"aGk="}},{"key":"l","value":{"arrayValue":{"values":[{"boolValue":true},{"doubleValue":"NaN"},{}]}}}],"traceId":"000102030405060708090a0b0c0d0e0f"}]}]}]}"#;
    let request = from_json(Signal::Logs, json.as_bytes()).expect("a request");
    let written = to_json(Signal::Logs, &request).expect("a request");
    assert_eq!(from_json(Signal::Logs, written.as_bytes()), Ok(request.clone()), "{written}");
    for piece in [
        r#""timeUnixNano":"17""#,
        r#""severityNumber":9"#,
        r#""intValue":"9007199254740993""#,
        r#""bytesValue":"aGk=""#,
        r#""traceId":"000102030405060708090a0b0c0d0e0f""#,
        r#"{"doubleValue":"NaN"},{}"#,
        r#""body":{"stringValue":"\u001b[2J\u202e🦀"}"#,
    ] {
        assert!(written.contains(piece), "{piece} in {written}");
    }
    let mut lines = Vec::new();
    each_item(Signal::Logs, &request, |line| lines.push(line.to_owned())).expect("a request");
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with(r#""resource":{"attributes":{"host":"a"}},"scope":{"name":"s"},"record":{"#),
        "{lines:?}"
    );
    assert!(
        lines[0].contains(r#""attributes":{"n":"9007199254740993","b":"aGk=","l":[true,"NaN",null]}"#),
        "attributes as an object, and no integer that a double would round: {lines:?}"
    );
}

/// Nesting that nobody walked: an error, and no stack is overflown.
#[test]
fn nesting_is_bounded() {
    let test = || {
        let path: Vec<u32> = [1, 2, 2, 5].into_iter().chain([5, 1].repeat(5_000)).collect();
        let deep = nested(&path, |out| put_bytes(out, 1, b"x"));
        for written in [to_json(Signal::Logs, &deep).map(drop), each_item(Signal::Logs, &deep, |_| {})] {
            assert!(written.expect_err("too deep").to_string().contains("nested more than 100 deep"));
        }
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(test).expect("a thread").join().expect("it holds");
}
