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
