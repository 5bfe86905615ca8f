//! From the sections `resource` and `attributes` to edits on wire bytes.

use super::attributes::action::{Action as Written, Kind, Source as From, Target as Named};
use super::attributes::config::AttributesConfig;
use super::conditions;
use super::resource::config::ResourceConfig;
use crate::config::{Any, Pattern as Regexp};
use crate::otlp::{Action, Groups, Keys, Only, Pattern, Rule, Signal, Source, Target, Type, Value, When};
use std::sync::Arc;

/// The rule of a `resource` processor.
#[must_use]
pub fn of_resource(config: &ResourceConfig) -> Rule {
    Rule { target: Target::Resource, actions: config.actions.iter().map(action).collect(), only: Only::default() }
}

/// The rule of an `attributes` processor in a pipeline of this signal.
#[must_use]
pub fn of_attributes(config: &AttributesConfig, signal: Signal) -> Rule {
    let only = conditions::only(config.include.as_ref(), config.exclude.as_ref(), signal);
    Rule { target: Target::Items, actions: config.actions.iter().map(action).collect(), only }
}

fn action(written: &Written) -> Action {
    let set = |key: &str, from: &From, when| Action::Set { key: key.to_owned(), source: source(from), when };
    match written {
        Written::Insert { key, from } => set(key, from, When::Absent),
        Written::Update { key, from } => set(key, from, When::Present),
        Written::Upsert { key, from } => set(key, from, When::Always),
        Written::Delete(named) => Action::Delete(keys(named)),
        Written::Hash(named) => Action::Hash(keys(named)),
        Written::Extract { key, pattern } => Action::Extract { key: key.clone(), groups: groups(pattern) },
        Written::Convert { key, to } => {
            let to = match to {
                Kind::Int => Type::Int,
                Kind::Double => Type::Double,
                Kind::Text => Type::Text,
            };
            Action::Convert { key: key.clone(), to }
        }
    }
}

fn source(from: &From) -> Source {
    match from {
        From::Value(any) => Source::Value(value(any)),
        From::Attribute(name) => Source::Attribute(name.clone()),
        From::Context(name) => Source::Context(name.clone()),
    }
}

pub(super) fn value(any: &Any) -> Value {
    match any {
        Any::Text(text) => Value::Text(text.clone()),
        Any::Int(n) => Value::Int(*n),
        Any::Double(n) => Value::Double(*n),
        Any::Bool(b) => Value::Bool(*b),
        Any::List(all) => Value::List(all.iter().map(value).collect()),
        Any::Map(all) => Value::Map(all.iter().map(|(k, v)| (k.clone(), value(v))).collect()),
    }
}

fn keys(named: &Named) -> Keys {
    let test = |pattern: &Regexp| {
        let pattern = pattern.clone();
        Pattern(Arc::new(move |name| pattern.is_match(name)))
    };
    Keys { key: named.key.clone(), pattern: named.pattern.as_ref().map(test) }
}

fn groups(pattern: &Regexp) -> Groups {
    let names = pattern.groups().into_iter().flatten().map(str::to_owned).collect();
    let pattern = pattern.clone();
    let find =
        move |text: &str| Some(pattern.extract(text)?.into_iter().map(|(_, caught)| caught.to_owned()).collect());
    Groups { names, find: Arc::new(find) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;
    use crate::otlp::Caller;
    use crate::otlp::{REQUEST_MAX, Rewriter};
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Said;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use prost::Message;

    fn pairs(written: &[(&str, &str)]) -> Vec<KeyValue> {
        let pair = |(key, text): &(&str, &str)| KeyValue {
            key: (*key).to_owned(),
            value: Some(AnyValue { value: Some(Said::StringValue((*text).to_owned())) }),
            ..KeyValue::default()
        };
        written.iter().map(pair).collect()
    }

    fn shown(pairs: &[KeyValue]) -> String {
        let show = |pair: &KeyValue| match pair.value.clone().and_then(|any| any.value) {
            Some(Said::StringValue(text)) => format!("{}={text}", pair.key),
            other => format!("{}={other:?}", pair.key).replace("Some(", "").replace("))", ")"),
        };
        pairs.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    /// What the rules make of one record and its resource, which begin with the same attributes.
    fn edited(rules: Vec<Rule>, before: &[(&str, &str)], caller: &Caller) -> (String, String) {
        let log_records = vec![LogRecord { attributes: pairs(before), ..LogRecord::default() }];
        let resource_logs = vec![ResourceLogs {
            resource: Some(Resource { attributes: pairs(before), ..Resource::default() }),
            scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        }];
        let request = ExportLogsServiceRequest { resource_logs }.encode_to_vec().into();
        let rewriter = Rewriter::new(rules).expect("flat values");
        let after = rewriter.rewrite(Signal::Logs, &request, &|name| caller.value(name), REQUEST_MAX).expect("valid");
        let after = ExportLogsServiceRequest::decode(after).expect("valid").resource_logs.remove(0);
        let resource = after.resource.map(|it| it.attributes).unwrap_or_default();
        (shown(&resource), shown(&after.scope_logs[0].log_records[0].attributes))
    }

    fn attributes(yaml: &str) -> Rule {
        let (config, told) = try_out(yaml, &[], AttributesConfig::read);
        assert!(told.is_empty() || told.contains("does not act on it yet"), "{yaml}: {told}");
        of_attributes(&config, Signal::Logs)
    }

    fn resource(yaml: &str) -> Rule {
        let (config, told) = try_out(yaml, &[], ResourceConfig::read);
        assert_eq!(told, "", "{yaml}");
        of_resource(&config)
    }

    /// The examples of the original's README and testdata (contrib v0.88.0, `attributesprocessor`), and its code.
    #[test]
    #[rustfmt::skip]
    fn each_action_does_as_written() {
        let mut caller = Caller::default();
        ["t1", "t2"].iter().for_each(|tenant| caller.add("x-tenant", tenant.as_bytes()));
        let url = ("url", "https://shop.example/cart?id=7");
        for (actions, before, after) in [
            ("{key: a, value: 1, action: insert}",                           &[("a", "x")][..],          "a=x"),
            ("{key: b, value: 1, action: insert}",                           &[("a", "x")],              "a=x b=IntValue(1)"),
            ("{key: b, value: true, action: update}",                        &[("a", "x")],              "a=x"),
            ("{key: a, value: 1.5, action: update}",                         &[("a", "x")],              "a=DoubleValue(1.5)"),
            ("{key: a, value: y, action: upsert}",                           &[("a", "x"), ("b", "z")],  "a=y b=z"),
            ("{key: c, from_attribute: a, action: upsert}",                  &[("a", "x")],              "a=x c=x"),
            ("{key: c, from_attribute: gone, action: upsert}",               &[("a", "x")],              "a=x"),
            ("{key: c, from_context: metadata.X-Tenant, action: insert}",    &[("a", "x")],              "a=x c=t1;t2"),
            ("{key: a, from_context: x-tenant, action: update}",             &[("a", "x")],              "a=t1;t2"),
            ("{key: a, from_context: auth.subject, action: upsert}",         &[("a", "x")],              "a=x"),
            ("{key: a, action: delete}",                                     &[("a", "x"), ("b", "z")],  "b=z"),
            ("{pattern: '^(a|c)\\.', action: delete}",                       &[("a.1", "x"), ("b.1", "z"), ("c.2", "")], "b.1=z"),
            ("{key: b, pattern: ^a, action: delete}",                        &[("a", "x"), ("b", "z")],  ""),
            ("{key: a, action: hash}",                                       &[("a", "tenant-1")],       "a=0a96abb33b07ff0e8f48bcc4893e0e7346bff899dd316979517fa06509a49aff"),
            ("{pattern: '.', action: hash}",                                 &[("a", ""), ("b", "")],    "a= b="),
            // The original hashes the hash in this case; once is what was meant.
            ("{key: a, pattern: ^a, action: hash}",                          &[("a", "tenant-1")],       "a=0a96abb33b07ff0e8f48bcc4893e0e7346bff899dd316979517fa06509a49aff"),
            ("{key: a, pattern: '(?P<b>[0-9]+)-(?P<c>.*)', action: extract}", &[("a", "12-x"), ("c", "")], "a=12-x c=x b=12"),
            ("{key: a, pattern: '^(?P<b>[0-9]+)$', action: extract}",        &[("a", "12-x")],           "a=12-x"),
            ("{key: url, pattern: '^(?P<scheme>.*):\\/\\/(?P<host>.*)\\/', action: extract}", &[url],    "url=https://shop.example/cart?id=7 scheme=https host=shop.example"),
            ("{key: a, converted_type: int, action: convert}",               &[("a", "-42")],            "a=IntValue(-42)"),
            ("{key: a, converted_type: double, action: convert}",            &[("a", "1e3")],            "a=DoubleValue(1000.0)"),
            ("{key: a, converted_type: int, action: convert}",               &[("a", "0x10")],           "a=0x10"),
            ("{key: a, converted_type: string, action: convert}",            &[("a", "x")],              "a=x"),
        ] {
            let (of_resource, of_record) = edited(vec![attributes(&format!("actions: [{actions}]"))], before, &caller);
            assert_eq!(of_record, after, "{actions}");
            assert_eq!(of_resource, shown(&pairs(before)), "{actions} leaves the resource");
            if !actions.contains("from_context") {
                let (of_resource, of_record) = edited(vec![resource(&format!("attributes: [{actions}]"))], before, &caller);
                assert_eq!(of_resource, after, "resource: {actions}");
                assert_eq!(of_record, shown(&pairs(before)), "{actions} leaves the record");
            }
        }
    }

    /// Several actions, and several processors of a kind, each see what those before them did; a condition too.
    #[test]
    fn what_one_processor_did_the_next_one_sees() {
        let rules = || {
            vec![
                attributes(
                    "actions: [{key: b, value: 7, action: insert}, {key: b, converted_type: string, action: convert}]",
                ),
                resource("attributes: [{key: a, value: prod, action: update}]"),
                attributes(
                    "{actions: [{key: c, from_attribute: b, action: upsert}], \
                      include: {match_type: strict, attributes: [{key: b, value: '7'}], resources: [{key: a, value: prod}]}}",
                ),
                attributes(
                    "{actions: [{key: c, action: delete}], \
                      exclude: {match_type: regexp, attributes: [{key: c, value: '^[0-9]$'}]}}",
                ),
                resource("attributes: [{key: a, value: test, action: update}]"),
            ]
        };
        let none = Caller::default();
        assert_eq!(edited(rules(), &[("a", "x")], &none), ("a=test".to_owned(), "a=x b=7 c=7".to_owned()));
        let mut without_first = rules();
        without_first.remove(0);
        assert_eq!(edited(without_first, &[("a", "x"), ("c", "z")], &none).1, "a=x");
    }
}
