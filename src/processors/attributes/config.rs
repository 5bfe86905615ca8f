//! `processors.attributes`: edits of item attributes, and of which items (reference §2.8).

use super::action::Action;
use super::matching::Matching;
use crate::config::Section;

/// Acts on span, log record and data point attributes; never on resource, scope or span events.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AttributesConfig {
    /// `actions`, in order. Actions whose value was a variable that is not set are left out (and warned about).
    pub actions: Vec<Action>,
    /// `include`: only these items; None: all.
    pub include: Option<Matching>,
    /// `exclude`: not these items, checked after `include`.
    pub exclude: Option<Matching>,
}

impl AttributesConfig {
    /// Reads `processors.attributes`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> AttributesConfig {
        AttributesConfig {
            actions: Action::read_all(s, "actions"),
            include: s.gives("include").then(|| s.section("include", Matching::read)),
            exclude: s.gives("exclude").then(|| s.section("exclude", Matching::read)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Any, Pattern, try_out};
    use crate::processors::attributes::matching::{Library, Property, SeverityAtLeast, Text, Wanted};

    #[test]
    fn include_and_exclude_are_read_by_their_match_type() {
        let yaml = "{actions: [{key: k, action: delete}], \
            include: {match_type: strict, services: a, span_kinds: [server], resources: [{key: r, value: 1}, {key: s}], \
                      libraries: [{name: l, version: '2'}], log_severity_number: {min: 9, match_undefined: true}}, \
            exclude: {match_type: regexp, regexp: {cacheenabled: true}, metric_names: [^go_], attributes: [{key: a, value: ^b}]}}";
        let (config, told) = try_out(yaml, &[], AttributesConfig::read);
        assert_eq!(told, "");
        let strict = |text: &str| Text::Strict(text.to_owned());
        let pattern = |text| Pattern::new(text).expect("the test writes patterns");
        let include = Matching {
            services: vec![strict("a")],
            span_kinds: vec![strict("SPAN_KIND_SERVER")],
            resources: vec![
                Property { key: "r".to_owned(), value: Some(Wanted::Same(Any::Int(1))) },
                Property { key: "s".to_owned(), value: None },
            ],
            libraries: vec![Library { name: strict("l"), version: Some(strict("2")) }],
            log_severity_number: Some(SeverityAtLeast { min: 9, match_undefined: true }),
            ..Matching::default()
        };
        let exclude = Matching {
            metric_names: vec![Text::Pattern(pattern("^go_"))],
            attributes: vec![Property { key: "a".to_owned(), value: Some(Wanted::Pattern(pattern("^b"))) }],
            ..Matching::default()
        };
        assert_eq!((config.include, config.exclude), (Some(include), Some(exclude)));
    }
}
