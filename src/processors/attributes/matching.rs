//! `include` and `exclude` of the attributes processor: which items are edited (reference §2.8).

use crate::config::{Any, Pattern};

/// All criteria given must hold; one that is not given holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matching {
    /// `services`: `service.name` of the resource.
    pub services: Vec<Text>,
    /// `span_names`.
    pub span_names: Vec<Text>,
    /// `span_kinds`, as `SPAN_KIND_SERVER` or `server`.
    pub span_kinds: Vec<Text>,
    /// `log_bodies`, of bodies that are text.
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
    /// `libraries`: any of these instrumentation scopes.
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

impl Text {
    /// Whether a text is meant.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        match self {
            Text::Strict(same) => same == text,
            Text::Pattern(pattern) => pattern.is_match(text),
        }
    }
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
    /// `version` of the scope; None: any.
    pub version: Option<Text>,
}
