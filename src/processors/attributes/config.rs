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
