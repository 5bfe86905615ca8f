//! `processors.filter`: which items are kept, in 0.88's words before OTTL (contrib v0.88.0, `filterprocessor/config.go`).

use crate::config::Section;
use crate::otlp::Signal;
use crate::processors::attributes::matching::{Matching, Property, SeverityAtLeast, Text};
use crate::processors::severity;

/// Keeps what is included and not excluded; a signal of which nothing is asked passes whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FilterConfig {
    /// `spans`.
    pub spans: Kept<Matching>,
    /// `logs`: `resource_attributes`, `record_attributes`, `severity_texts`, `severity_number`, `bodies`.
    pub logs: Kept<Matching>,
    /// `metrics`.
    pub metrics: Kept<MetricMatching>,
}

/// `include` and `exclude`.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept<M> {
    /// `include`: only these; None: all.
    pub include: Option<M>,
    /// `exclude`: not these.
    pub exclude: Option<M>,
}

impl<M> Default for Kept<M> {
    fn default() -> Kept<M> {
        Kept { include: None, exclude: None }
    }
}

/// One of `metrics.include`, `metrics.exclude`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricMatching {
    /// `metric_names`.
    pub metric_names: Vec<Text>,
    /// `resource_attributes`: all of these.
    pub resource_attributes: Vec<Property>,
}

impl FilterConfig {
    /// Reads `processors.filter`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> FilterConfig {
        s.moot("error_mode", "it is about errors of OTTL conditions, and there are none in this build");
        s.section("traces", |s| no_ottl(s, &["span", "spanevent"], "spans.include and spans.exclude"));
        FilterConfig {
            spans: s.section("spans", |s| Kept::read(s, of_spans)),
            logs: s.section("logs", |s| {
                no_ottl(s, &["log_record"], "include and exclude beside it");
                Kept::read(s, of_logs)
            }),
            metrics: s.section("metrics", |s| {
                no_ottl(s, &["metric", "datapoint"], "include and exclude beside it");
                s.moot("regexp", "that of include and exclude counts, in otelcol too");
                Kept::read(s, MetricMatching::read)
            }),
        }
    }
}

fn no_ottl(s: &Section<'_>, keys: &[&'static str], instead: &str) {
    for key in keys {
        s.refuse(key, &format!("conditions in OTTL are not available in this build; {instead} can be asked"));
    }
}

impl<M> Kept<M> {
    fn read(s: &Section<'_>, one: fn(&Section<'_>) -> Option<M>) -> Kept<M> {
        let read = |key| s.gives(key).then(|| s.section(key, one)).flatten();
        Kept { include: read("include"), exclude: read("exclude") }
    }
}

fn of_spans(s: &Section<'_>) -> Option<Matching> {
    Some(Matching::read_of(s, Some(Signal::Traces)))
}

/// `None`: nothing is asked, which the original lets pass.
fn of_logs(s: &Section<'_>) -> Option<Matching> {
    let is_regexp = is_regexp(s);
    let texts = |key| Text::read_all(s, key, is_regexp == Some(true));
    let properties = |key| s.items(key, |s| Property::read(s, is_regexp == Some(true)));
    let matching = Matching {
        resources: properties("resource_attributes"),
        attributes: properties("record_attributes"),
        log_severity_texts: texts("severity_texts"),
        log_bodies: texts("bodies"),
        log_severity_number: s.section_if_there("severity_number", at_least),
        ..Matching::default()
    };
    let typed = matching.given().any(|key| key != "log_severity_number");
    asks_something(s, typed, is_regexp.is_some(), matching.log_severity_number.is_some()).then_some(matching)
}

impl MetricMatching {
    fn read(s: &Section<'_>) -> Option<MetricMatching> {
        let is_regexp = is_regexp(s);
        s.section("regexp", |s| {
            // How the original caches its matches; ours need no cache.
            let _ = s.flag("cacheenabled", false);
            let _ = s.number("cachemaxnumentries", 0, 0..=i64::MAX);
        });
        s.refuse("expressions", "are not available in this build; metric_names and resource_attributes can be asked");
        let matching = MetricMatching {
            metric_names: Text::read_all(s, "metric_names", is_regexp == Some(true)),
            resource_attributes: s.items("resource_attributes", |s| Property::read(s, is_regexp == Some(true))),
        };
        let typed = matching != MetricMatching::default();
        asks_something(s, typed, is_regexp.is_some(), false).then_some(matching)
    }
}

/// `match_type`; `None`: not given.
fn is_regexp(s: &Section<'_>) -> Option<bool> {
    s.choice("match_type", None, &[("strict", Some(false)), ("regexp", Some(true))])
}

fn asks_something(s: &Section<'_>, typed: bool, has_type: bool, else_asked: bool) -> bool {
    s.unless(!typed || has_type || s.fills("match_type"), "match_type", || {
        "is missing; write strict or regexp".to_owned()
    });
    if !typed && !else_asked {
        s.warn_here("asks nothing, so it has no effect");
    }
    typed || else_asked
}

fn at_least(s: &Section<'_>) -> SeverityAtLeast {
    let written = s.text("min", "");
    let min = severity::number(&written);
    // Without a word every record that has a severity is meant, as in the original.
    s.unless(min.is_some() || written.is_empty(), "min", severity::none_such);
    SeverityAtLeast { min: min.unwrap_or(0), match_undefined: s.flag("match_undefined", false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pattern, try_out};

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).expect("the tests write patterns")
    }

    #[test]
    #[rustfmt::skip]
    fn what_cannot_be_asked_is_told_and_what_asks_nothing_is_none() {
        for (yaml, expected) in [
            ("traces: {span: ['name == \"x\"']}",                     "conditions in OTTL are not available in this build; spans.include and spans.exclude can be asked"),
            ("metrics: {datapoint: ['value_int > 1']}",               "conditions in OTTL are not available in this build; include and exclude beside it can be asked"),
            ("logs: {log_record: [x]}",                               "conditions in OTTL are not available in this build; include and exclude beside it can be asked"),
            ("metrics: {include: {match_type: expr, expressions: [x]}}", "warning: asks nothing, so it has no effect | `expr` is not one of strict, regexp | are not available in this build; metric_names and resource_attributes can be asked"),
            ("metrics: {include: {metric_names: [x]}}",               "is missing; write strict or regexp"),
            ("logs: {exclude: {match_type: strict}}",                 "warning: asks nothing, so it has no effect"),
            ("spans: {exclude: {match_type: strict, log_bodies: [x]}}", "names nothing to match; give one of services, span_names, span_kinds, libraries, resources, attributes | cannot be asked here"),
            ("logs: {include: {severity_number: {min: notice}}}",     "is no severity; write one of TRACE, DEBUG, INFO, WARN, ERROR, FATAL (or WARN2), or a number from 1 to 24"),
            ("error_mode: ignore",                                    "warning: has no effect: it is about errors of OTTL conditions, and there are none in this build"),
        ] {
            assert_eq!(try_out(yaml, &[], FilterConfig::read).1, expected, "{yaml}");
        }
        let (config, _) = try_out("logs: {exclude: {match_type: strict}}", &[], FilterConfig::read);
        assert_eq!(config, FilterConfig::default());
        let (config, told) = try_out("logs: {include: {severity_number: {match_undefined: true}}}", &[], FilterConfig::read);
        let any = Some(SeverityAtLeast { min: 0, match_undefined: true });
        assert_eq!((config.logs.include.and_then(|it| it.log_severity_number), told.as_str()), (any, ""));
    }

    #[test]
    fn the_words_of_logs_become_the_criteria_of_all() {
        let yaml = "logs: {include: {match_type: regexp, resource_attributes: [{key: r, value: ^a}], record_attributes: [{key: b}], \
                    severity_texts: [e], severity_number: {min: WARN, match_undefined: true}, bodies: [x, y]}}";
        let (config, told) = try_out(yaml, &[], FilterConfig::read);
        let like = |text: &str| Text::Pattern(pattern(text));
        let value = Some(crate::processors::attributes::matching::Wanted::Pattern(pattern("^a")));
        let expected = Matching {
            resources: vec![Property { key: "r".to_owned(), value }],
            attributes: vec![Property { key: "b".to_owned(), value: None }],
            log_severity_texts: vec![like("e")],
            log_bodies: vec![like("x"), like("y")],
            log_severity_number: Some(SeverityAtLeast { min: 13, match_undefined: true }),
            ..Matching::default()
        };
        assert_eq!((config.logs.include, told.as_str()), (Some(expected), ""));
    }
}
