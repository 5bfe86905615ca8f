//! The rewrite on wire bytes does what decoding, editing and encoding does, and keeps what that would lose.

use super::{cases, damage, entropy, signals, tree};
use crate::otlp::slow::Request;
use crate::otlp::wild::{Choices, KEYS};
use crate::otlp::{
    Action, Groups, Keys, Level, Only, Pattern, Peek, REQUEST_MAX, Rewriter, Rule, Signal, Source, Target, Test, Type,
    Value, When, walk,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;

fn a_key() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(&KEYS[..]), 1 => Just("new")].prop_map(str::to_owned)
}

fn a_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        "[a-z]{0,6}".prop_map(Value::Text),
        "x{120,140}".prop_map(Value::Text),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Double),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Empty),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
            prop::collection::vec((a_key(), inner), 0..3).prop_map(Value::Map),
        ]
    })
}

fn keys() -> impl Strategy<Value = Keys> {
    prop_oneof![
        a_key().prop_map(|key| Keys { key: Some(key), pattern: None }),
        prop::char::range('a', 'o')
            .prop_map(|letter| Keys { key: None, pattern: Some(Pattern(Arc::new(move |name| name.contains(letter)))) }),
    ]
}

fn an_action() -> impl Strategy<Value = Action> {
    let source = prop_oneof![
        a_value().prop_map(Source::Value),
        a_key().prop_map(Source::Attribute),
        prop_oneof![Just("known"), Just("unknown")].prop_map(|name| Source::Context(name.to_owned())),
    ];
    let when = prop_oneof![Just(When::Absent), Just(When::Present), Just(When::Always)];
    prop_oneof![
        4 => (a_key(), source, when).prop_map(|(key, source, when)| Action::Set { key, source, when }),
        2 => keys().prop_map(Action::Delete),
        1 => keys().prop_map(Action::Hash),
        1 => (a_key(), a_key(), a_key()).prop_map(|(key, first, second)| Action::Extract {
            key,
            groups: Groups {
                names: vec![first, second],
                // As a pattern `(?P<first>.)(?P<second>.*)` would.
                find: Arc::new(|text| {
                    let mut letters = text.chars();
                    letters.next().map(|first| vec![first.to_string(), letters.as_str().to_owned()])
                }),
            },
        }),
        1 => (a_key(), prop_oneof![Just(Type::Int), Just(Type::Double), Just(Type::Text)])
            .prop_map(|(key, to)| Action::Convert { key, to }),
    ]
}

/// Looks that see all there is to see; decoded, because the oracle's bytes have lost the unknown fields.
fn a_test() -> impl Strategy<Value = Test> {
    use opentelemetry_proto::tonic::{common::v1::InstrumentationScope, metrics::v1::Metric, resource::v1::Resource};
    use prost::Message;
    fn len<M: Message + Default>(message: Peek<'_>) -> usize {
        // The looks of damaged requests see what cannot be decoded.
        M::decode(message.0).map_or(0, |message| message.encoded_len())
    }
    let odd = || prop::option::weighted(0.4, 0_usize..2);
    (odd(), odd(), odd(), odd()).prop_map(|(resource, scope, metric, item)| {
        let mut test = Test::default();
        if let Some(odd) = resource {
            test = test.and(Level::Resource, move |it| len::<Resource>(it) % 2 == odd);
        }
        if let Some(odd) = scope {
            test = test.and(Level::Scope, move |it| len::<InstrumentationScope>(it) % 2 == odd);
        }
        if let Some(odd) = metric {
            test = test.and(Level::Metric, move |it| len::<Metric>(it) % 2 == odd);
        }
        if let Some(odd) = item {
            test = test.and(Level::Item, move |it| (it.text(3).len() ^ it.number(6) as usize) % 2 == odd);
        }
        test
    })
}

pub(super) fn an_only() -> impl Strategy<Value = Only> {
    let test = || prop::option::weighted(0.3, a_test());
    (test(), test()).prop_map(|(include, exclude)| {
        let only = include.into_iter().fold(Only::default(), Only::including);
        exclude.into_iter().fold(only, Only::excluding)
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let target = prop_oneof![Just(Target::Resource), Just(Target::Items)];
    let rule = (target, prop::collection::vec(an_action(), 0..4), an_only()).prop_map(|(target, actions, only)| Rule {
        target,
        actions,
        only,
    });
    prop::collection::vec(rule, 0..4)
}

fn context(name: &str) -> Option<String> {
    (name == "known").then(|| "tenant-1;tenant-2".to_owned())
}

fn rewritten(signal: Signal, request: &Bytes, rules: &[Rule]) -> Bytes {
    let rewriter = Rewriter::new(rules.to_vec()).expect("the values are flat");
    rewriter.rewrite(signal, request, &context, REQUEST_MAX).expect("it was accepted")
}

/// The names an action may set or remove; `None` when a pattern may remove any.
fn named(rules: &[Rule]) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    for action in rules.iter().flat_map(|rule| &rule.actions) {
        match action {
            Action::Set { key, .. } | Action::Convert { key, .. } => names.push(key.as_str()),
            Action::Delete(keys) | Action::Hash(keys) if keys.pattern.is_some() => return None,
            Action::Delete(keys) | Action::Hash(keys) => names.extend(keys.key.as_deref()),
            Action::Extract { groups, .. } => names.extend(groups.names.iter().map(String::as_str)),
        }
    }
    Some(names)
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn rewriting_is_decoding_editing_and_encoding(signal in signals(), choices in entropy(), rules in rules()) {
        let request = Bytes::from(Choices::lawful(&choices).request(signal));
        let Ok(before) = walk(signal, &request) else { return Ok(()) };
        let wire = rewritten(signal, &request, &rules);
        let mut oracle = Request::decode(signal, &request).expect("it was walked");
        oracle.rewrite(&rules, &context);
        let mut ours = Request::decode(signal, &wire).expect("what was accepted stays decodable");
        ours.forget_empty_resources();
        // Encoded, because NaN differs from itself.
        prop_assert!(ours.encode() == oracle.encode(), "{:#?}\n{:#?}", ours, oracle);
        prop_assert_eq!(walk(signal, &wire), Ok(before));
    }

    #[test]
    fn what_the_actions_do_not_name_survives_in_order(signal in signals(), choices in entropy(), rules in rules()) {
        let request = Bytes::from(Choices::lawful(&choices).request(signal));
        let (Ok(_), Some(names)) = (walk(signal, &request), named(&rules)) else { return Ok(()) };
        let wire = rewritten(signal, &request, &rules);
        prop_assert_eq!(tree::skeleton(signal, &wire, &names), tree::skeleton(signal, &request, &names));
    }

    #[test]
    fn damaged_requests_are_rewritten_or_refused_but_never_a_panic(
        signal in signals(), choices in entropy(), hits in damage(), rules in rules(),
    ) {
        let mut request = Choices::defective(&choices).request(signal);
        hits.strike(&mut request);
        let rewriter = Rewriter::new(rules).expect("the values are flat");
        let _ = rewriter.rewrite(signal, &request.into(), &context, REQUEST_MAX);
    }
}
