//! `include` and `exclude` of the attributes processor: which items are edited (reference §2.8).

use crate::config::problems::{At, quote};
use crate::config::{Any, Pattern, Section, bad_pattern};
use crate::otlp::Signal;

/// All criteria given must hold; one that is not given holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matching {
    /// `services`: `service.name` of the resource.
    pub services: Vec<Text>,
    /// `span_names`.
    pub span_names: Vec<Text>,
    /// `span_kinds`, as `SPAN_KIND_SERVER`; strict ones may be written `server`.
    pub span_kinds: Vec<Text>,
    /// `log_bodies`; what is no text is shown as one.
    pub log_bodies: Vec<Text>,
    /// `log_severity_texts`.
    pub log_severity_texts: Vec<Text>,
    /// `log_severity_number`.
    pub log_severity_number: Option<SeverityAtLeast>,
    /// `metric_names`.
    pub metric_names: Vec<Text>,
    /// `resources`: all of these resource attributes.
    pub resources: Vec<Property>,
    /// `attributes`: all of these attributes of the item.
    pub attributes: Vec<Property>,
    /// `libraries`: an instrumentation scope that is all of these (0.88 documents one of them, and asks for all).
    pub libraries: Vec<Library>,
}

/// A text to compare with, by the block's `match_type`.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// `strict`: equal.
    Strict(String),
    /// `regexp`: matches somewhere.
    Pattern(Pattern),
}

/// `log_severity_number`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeverityAtLeast {
    /// `min`: 1 (TRACE) to 24 (FATAL4).
    pub min: u8,
    /// `match_undefined`: records without a severity match too.
    pub match_undefined: bool,
}

/// One of `resources` or `attributes`.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// The attribute's name.
    pub key: String,
    /// What it must be; None: it must be there.
    pub value: Option<Wanted>,
}

/// The value a [`Property`] wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// `strict`: equal in type and value.
    Same(Any),
    /// `regexp`: the value as text matches.
    Pattern(Pattern),
}

/// One of `libraries`.
#[derive(Debug, Clone, PartialEq)]
pub struct Library {
    /// `name` of the scope.
    pub name: Text,
    /// `version` of the scope; None: any. An empty one means a scope without a version.
    pub version: Option<Text>,
}

/// `span_kinds` as they are compared.
const SPAN_KINDS: [&str; 6] = [
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];

/// The criteria that hold texts.
const TEXTS: [&str; 7] =
    ["services", "span_names", "span_kinds", "log_bodies", "log_severity_texts", "metric_names", "libraries"];

impl Matching {
    /// Reads `include` or `exclude` of whatever may flow.
    #[must_use]
    pub fn read(s: &Section<'_>) -> Matching {
        Matching::read_of(s, None)
    }

    /// Reads `include` or `exclude` of one signal: what cannot be asked of it is refused at once.
    #[must_use]
    pub fn read_of(s: &Section<'_>, signal: Option<Signal>) -> Matching {
        let takes = |key: &&'static str| {
            let takes = signal.is_none_or(|signal| Matching::asks(signal, key));
            if !takes {
                s.refuse(key, "cannot be asked here");
            }
            takes
        };
        let is_regexp = s.choice("match_type", false, &[("strict", false), ("regexp", true)]);
        s.unless(s.fills("match_type"), "match_type", || "is missing; write strict or regexp".to_owned());
        s.section("regexp", |s| {
            // How the original caches its matches; ours need no cache.
            let _ = s.flag("cacheenabled", false);
            let _ = s.number("cachemaxnumentries", 0, 0..=i64::MAX);
        });
        let texts = |key| if takes(&key) { Text::read_all(s, key, is_regexp) } else { Vec::new() };
        let matching = Matching {
            services: texts("services"),
            span_names: texts("span_names"),
            span_kinds: texts("span_kinds").into_iter().filter_map(|text| span_kind(s, text)).collect(),
            log_bodies: texts("log_bodies"),
            log_severity_texts: texts("log_severity_texts"),
            log_severity_number: Some("log_severity_number")
                .filter(takes)
                .and_then(|key| s.section_if_there(key, SeverityAtLeast::read)),
            metric_names: texts("metric_names"),
            resources: s.items("resources", |s| Property::read(s, is_regexp)),
            attributes: s.items("attributes", |s| Property::read(s, is_regexp)),
            libraries: s.items("libraries", |s| Library::read(s, is_regexp)).into_iter().flatten().collect(),
        };
        let others = ["log_severity_number", "resources", "attributes"];
        let mut asked: Vec<&'static str> = TEXTS.iter().chain(&others).copied().collect();
        asked.retain(|key| signal.is_none_or(|signal| Matching::asks(signal, key)));
        if !asked.iter().any(|key| s.fills(key)) {
            s.error_here(format!("names nothing to match; give one of {}", asked.join(", ")));
        }
        let names: Vec<&Text> = matching.libraries.iter().map(|it| &it.name).collect();
        let two = names.windows(2).any(|pair| matches!(pair, [Text::Strict(a), Text::Strict(b)] if a != b));
        s.warn_unless(!two, "libraries", || "matches nothing: a scope must be each of them (as in otelcol)".to_owned());
        matching
    }

    /// The criteria that stand in it, as they are written.
    pub fn given(&self) -> impl Iterator<Item = &'static str> + use<> {
        let all = [
            ("services", !self.services.is_empty()),
            ("span_names", !self.span_names.is_empty()),
            ("span_kinds", !self.span_kinds.is_empty()),
            ("log_bodies", !self.log_bodies.is_empty()),
            ("log_severity_texts", !self.log_severity_texts.is_empty()),
            ("log_severity_number", self.log_severity_number.is_some()),
            ("metric_names", !self.metric_names.is_empty()),
            ("resources", !self.resources.is_empty()),
            ("attributes", !self.attributes.is_empty()),
            ("libraries", !self.libraries.is_empty()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(key, _)| key)
    }

    /// Whether a criterion is asked of the items of a signal.
    #[must_use]
    pub fn asks(signal: Signal, key: &str) -> bool {
        match key {
            "services" | "span_names" | "span_kinds" => signal == Signal::Traces,
            "log_bodies" | "log_severity_texts" | "log_severity_number" => signal == Signal::Logs,
            "metric_names" => signal == Signal::Metrics,
            _ => signal != Signal::Metrics,
        }
    }

    /// What 0.88 would refuse at its start in a pipeline of this signal: the criterion, or nothing for the whole.
    #[must_use]
    pub fn unfit(&self, signal: Signal) -> Vec<Option<&'static str>> {
        if signal == Signal::Metrics || self.given().next().is_none() {
            return Vec::new();
        }
        let foreign = self.given().filter(|key| *key != "metric_names" && !Matching::asks(signal, key)).map(Some);
        let found: Vec<_> = foreign.collect();
        let asks_nothing = found.is_empty() && !self.given().any(|key| Matching::asks(signal, key));
        if asks_nothing { vec![None] } else { found }
    }
}

/// A strict kind must be one there is.
fn span_kind(s: &Section<'_>, text: Text) -> Option<Text> {
    let Text::Strict(written) = text else { return Some(text) };
    let is = |kind: &&&str| {
        let short = kind.trim_start_matches("SPAN_KIND_");
        kind.eq_ignore_ascii_case(&written) || short.eq_ignore_ascii_case(&written)
    };
    let known = SPAN_KINDS.iter().find(is);
    s.unless(known.is_some(), "span_kinds", || {
        format!("{} is no span kind; there are {}", quote(&written), SPAN_KINDS.join(", "))
    });
    known.map(|kind| Text::Strict((*kind).to_owned()))
}

impl Text {
    /// Reads a list of texts.
    pub(in crate::processors) fn read_all(s: &Section<'_>, key: &'static str, is_regexp: bool) -> Vec<Text> {
        let given = s.texts_if_given(key).unwrap_or_default();
        given.into_iter().filter_map(|(text, at)| Text::new(s, key, at, text, is_regexp)).collect()
    }

    fn new(s: &Section<'_>, key: &str, at: At, text: String, is_regexp: bool) -> Option<Text> {
        if !is_regexp {
            return Some(Text::Strict(text));
        }
        let told = |why: String| s.reading().problems.error(at, &s.path_of(key), bad_pattern(&text, &why));
        Pattern::new(&text).map(Text::Pattern).map_err(told).ok()
    }
}

impl SeverityAtLeast {
    fn read(s: &Section<'_>) -> SeverityAtLeast {
        s.unless(s.gives("min"), "min", || "is missing; write a number from 1 (TRACE) to 24 (FATAL4)".to_owned());
        SeverityAtLeast { min: s.number("min", 1, 1..=24), match_undefined: s.flag("match_undefined", false) }
    }
}

impl Property {
    /// Reads one.
    pub(in crate::processors) fn read(s: &Section<'_>, is_regexp: bool) -> Property {
        s.unless(s.fills("key"), "key", || "is missing".to_owned());
        let value = match is_regexp {
            true => s.pattern_if_given("value").map(Wanted::Pattern),
            false => s.any_if_given("value", "any value matches").map(Wanted::Same),
        };
        Property { key: s.text("key", ""), value }
    }
}

impl Library {
    fn read(s: &Section<'_>, is_regexp: bool) -> Option<Library> {
        let text = |key| s.text_if_given(key).and_then(|text| Text::new(s, key, s.at_of(key), text, is_regexp));
        s.unless(s.fills("name"), "name", || "is missing".to_owned());
        // An empty version is one; a variable without a value is not.
        let empty = s.get("version").filter(|e| !e.value.is_null() && !e.value.hangs_on_missing());
        let empty = empty.and_then(|e| Text::new(s, "version", e.value.at, String::new(), is_regexp));
        let version = text("version").or(empty);
        Some(Library { name: text("name")?, version })
    }
}
