//! The rewrite does what decoding, editing and encoding does, and never panics on anything.
#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use tfo_otel_agent::otlp::slow::Request;
use tfo_otel_agent::otlp::wild::KEYS;
use tfo_otel_agent::otlp::{Action, Keys, Only, REQUEST_MAX, Rewriter, Rule, Source, Target, Type, Value, When, walk};

/// A few rules out of a few bytes.
fn rules(bytes: &[u8]) -> Vec<Rule> {
    let key = |n: u8| KEYS[usize::from(n) % KEYS.len()].to_owned();
    let action = |bytes: &[u8]| {
        let when = [When::Absent, When::Present, When::Always][usize::from(bytes[1]) % 3];
        let source = match bytes[2] % 4 {
            0 => Source::Attribute(key(bytes[2] >> 2)),
            1 => Source::Context("c".to_owned()),
            2 => Source::Value(Value::Text("v".repeat(bytes[2].into()))),
            _ => Source::Value(Value::Int(bytes[2].into())),
        };
        match bytes[0] % 6 {
            0 => Action::Delete(Keys::named(&key(bytes[1]))),
            1 => Action::Hash(Keys::named(&key(bytes[1]))),
            2 => Action::Convert {
                key: key(bytes[1]),
                to: [Type::Int, Type::Double, Type::Text][usize::from(bytes[2]) % 3],
            },
            _ => Action::Set { key: key(bytes[0] / 6), source, when },
        }
    };
    bytes
        .chunks(6)
        .map(|rule| Rule {
            target: if rule[0] & 0x80 == 0 { Target::Items } else { Target::Resource },
            actions: rule.chunks_exact(3).map(action).collect(),
            only: Only::default(),
        })
        .collect()
}

fuzz_target!(|data: ([u8; 12], &[u8])| {
    let Some((signal, request)) = input::request(data.1) else { return };
    let rules = rules(&data.0);
    let context = |_: &str| Some("context".to_owned());
    let rewritten = Rewriter::new(rules.clone()).expect("flat values").rewrite(signal, &request, &context, REQUEST_MAX);
    if let Ok(before) = walk(signal, &request) {
        let rewritten = rewritten.expect("what is accepted can be rewritten");
        assert_eq!(walk(signal, &rewritten), Ok(before));
        let mut oracle = Request::decode(signal, &request).expect("what is accepted is decodable");
        oracle.rewrite(&rules, &context);
        let mut ours = Request::decode(signal, &rewritten).expect("what is accepted stays decodable");
        ours.forget_empty_resources();
        assert_eq!(ours.encode(), oracle.encode());
    }
});
