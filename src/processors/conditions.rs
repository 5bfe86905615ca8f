//! From `include` and `exclude` to tests on wire bytes, as 0.88 carries them out (contrib v0.88.0, `internal/filter`).
//!
//! Where our reference, otelcol's README and its code differ, the code counts:
//! * of several `libraries` *each* must match, so two different strict names match nothing;
//! * a resource without `service.name` is the service `<nil-service-name>`;
//! * of metrics nothing but `metric_names` is asked, and every point of a metric shares its fate;
//! * a pattern is held against texts, numbers and booleans, never against lists, maps or bytes; `log_bodies`, strict or
//!   not, against the body whatever it is, as text.

use super::attributes::matching::{Library, Matching, Property, SeverityAtLeast, Text, Wanted};
use super::edits::value;
use crate::config::Pattern;
use crate::otlp::{Leaf, Level, Only, Peek, PeekAny, Signal, Test, Value};
use std::collections::HashSet;

/// The conditions of an `attributes` processor (or of `filter.spans`) in a pipeline of this signal.
#[must_use]
pub fn only(include: Option<&Matching>, exclude: Option<&Matching>, signal: Signal) -> Only {
    let only = include.and_then(|it| it.test(signal)).into_iter().fold(Only::default(), Only::including);
    exclude.and_then(|it| it.test(signal)).into_iter().fold(only, Only::excluding)
}

impl Matching {
    /// What it asks of this signal; `None`: nothing.
    #[must_use]
    pub fn test(&self, signal: Signal) -> Option<Test> {
        if !self.given().any(|key| Matching::asks(signal, key)) {
            return None;
        }
        let mut test = Test::default();
        if signal == Signal::Metrics {
            let names = Texts::of(&self.metric_names);
            return Some(test.and(Level::Metric, move |metric| names.any(metric.text(1))));
        }
        if !self.libraries.is_empty() {
            let wanted: Vec<(Texts, Option<Texts>)> = self.libraries.iter().map(library).collect();
            test = test.and(Level::Scope, move |scope| {
                let is = |(name, version): &(Texts, Option<Texts>)| {
                    name.any(scope.text(1)) && version.as_ref().is_none_or(|version| version.any(scope.text(2)))
                };
                wanted.iter().all(is)
            });
        }
        if !self.resources.is_empty() {
            test = test.and(Level::Resource, has_all(&self.resources, 1));
        }
        Some(if signal == Signal::Traces { self.ask_spans(test) } else { self.ask_records(test) })
    }

    fn ask_spans(&self, mut test: Test) -> Test {
        if !self.services.is_empty() {
            let services = Texts::of(&self.services);
            test = test.and(Level::Resource, move |resource| match resource.attribute(1, "service.name") {
                Some(name) => services.any(&name.to_text()),
                None => services.any("<nil-service-name>"),
            });
        }
        if !self.span_kinds.is_empty() {
            let kinds = Texts::of(&self.span_kinds);
            test = test.and(Level::Item, move |span| kinds.any(kind_name(span.number(6))));
        }
        if !self.span_names.is_empty() {
            let names = Texts::of(&self.span_names);
            test = test.and(Level::Item, move |span| names.any(span.text(5)));
        }
        if self.attributes.is_empty() { test } else { test.and(Level::Item, has_all(&self.attributes, 9)) }
    }

    fn ask_records(&self, mut test: Test) -> Test {
        if let Some(SeverityAtLeast { min, match_undefined }) = self.log_severity_number {
            test = test.and(Level::Item, move |record| match record.number(2) {
                0 => match_undefined,
                severity => severity >= i32::from(min),
            });
        }
        if !self.log_severity_texts.is_empty() {
            let texts = Texts::of(&self.log_severity_texts);
            test = test.and(Level::Item, move |record| texts.any(record.text(3)));
        }
        if !self.log_bodies.is_empty() {
            let bodies = Texts::of(&self.log_bodies);
            test = test.and(Level::Item, move |record| bodies.any(&record.any(5).to_text()));
        }
        if self.attributes.is_empty() { test } else { test.and(Level::Item, has_all(&self.attributes, 6)) }
    }
}

/// `SpanKindStr` of the original.
fn kind_name(kind: i32) -> &'static str {
    match kind {
        0 => "SPAN_KIND_UNSPECIFIED",
        1 => "SPAN_KIND_INTERNAL",
        2 => "SPAN_KIND_SERVER",
        3 => "SPAN_KIND_CLIENT",
        4 => "SPAN_KIND_PRODUCER",
        5 => "SPAN_KIND_CONSUMER",
        _ => "",
    }
}

fn library(library: &Library) -> (Texts, Option<Texts>) {
    let alone = |text: &Text| Texts::of(std::slice::from_ref(text));
    (alone(&library.name), library.version.as_ref().map(alone))
}

/// Are all these properties among the attributes at field `list`?
pub(super) fn has_all(wanted: &[Property], list: u32) -> impl Fn(Peek<'_>) -> bool + Send + Sync + use<> {
    let wanted: Vec<(String, Wish)> = wanted.iter().map(|it| (it.key.clone(), Wish::of(it.value.as_ref()))).collect();
    move |message| wanted.iter().all(|(key, wish)| message.attribute(list, key).is_some_and(|it| wish.is(&it)))
}

/// What an attribute must be.
#[derive(Debug)]
enum Wish {
    There,
    Same(Value),
    Like(Pattern),
}

impl Wish {
    fn of(wanted: Option<&Wanted>) -> Wish {
        match wanted {
            None => Wish::There,
            Some(Wanted::Same(any)) => Wish::Same(value(any)),
            Some(Wanted::Pattern(pattern)) => Wish::Like(pattern.clone()),
        }
    }

    fn is(&self, found: &PeekAny<'_>) -> bool {
        match (self, found.leaf()) {
            (Wish::There, _) => true,
            (Wish::Same(wanted), _) => found.is(wanted),
            (Wish::Like(pattern), Leaf::Text(text)) => pattern.is_match(text),
            (Wish::Like(pattern), Leaf::Bool(yes)) => pattern.is_match(&yes.to_string()),
            (Wish::Like(pattern), Leaf::Int(n)) => pattern.is_match(&n.to_string()),
            // Go's FormatFloat(…, 'f', -1, 64), but for the infinities, which nobody matches.
            (Wish::Like(pattern), Leaf::Double(n)) => pattern.is_match(&n.to_string()),
            (Wish::Like(_), Leaf::Empty | Leaf::Bytes(_) | Leaf::Nested) => false,
        }
    }
}

/// Texts of which one must be: a set of strict ones, so that a thousand metric names cost as much as one.
#[derive(Debug)]
pub(super) struct Texts {
    strict: HashSet<String>,
    patterns: Vec<Pattern>,
}

impl Texts {
    pub(super) fn of(texts: &[Text]) -> Texts {
        let (mut strict, mut patterns) = (HashSet::new(), Vec::new());
        for text in texts {
            match text {
                Text::Strict(text) => drop(strict.insert(text.clone())),
                Text::Pattern(pattern) => patterns.push(pattern.clone()),
            }
        }
        Texts { strict, patterns }
    }

    pub(super) fn any(&self, text: &str) -> bool {
        self.strict.contains(text) || self.patterns.iter().any(|pattern| pattern.is_match(text))
    }
}

#[cfg(test)]
mod tests;
