//! `processors.resource`: edits of resource attributes (reference §2.8).

use crate::config::Section;
use crate::processors::attributes::action::Action;

/// Acts on the attributes of each resource.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResourceConfig {
    /// `attributes`, in order. Actions whose value was a variable that is not set are left out (and warned about).
    pub actions: Vec<Action>,
}

impl ResourceConfig {
    /// Reads `processors.resource`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> ResourceConfig {
        ResourceConfig { actions: Action::read_all(s, "attributes") }
    }
}
