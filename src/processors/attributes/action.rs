//! One edit of an attribute list, checked: what `resource.attributes` and `attributes.actions` hold (reference §2.8).

use crate::config::{Any, Pattern};

/// One action; actions run strictly in order and each sees what the earlier ones did.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// `insert`: add the attribute unless it is there.
    Insert {
        /// `key`.
        key: String,
        /// Exactly one of `value`, `from_attribute`, `from_context`.
        from: Source,
    },
    /// `update`: change the attribute if it is there.
    Update {
        /// `key`.
        key: String,
        /// As in `Insert`.
        from: Source,
    },
    /// `upsert`: change the attribute in its place, or add it.
    Upsert {
        /// `key`.
        key: String,
        /// As in `Insert`.
        from: Source,
    },
    /// `delete`: remove what the target names.
    Delete(Target),
    /// `hash`: replace values by their SHA-256, hex in lower case.
    Hash(Target),
    /// `extract`: set one attribute for each named group of `pattern`, when it matches the text under `key`.
    Extract {
        /// `key`.
        key: String,
        /// Every group has a name.
        pattern: Pattern,
    },
    /// `convert`: change the type of the value; one that cannot be converted stays.
    Convert {
        /// `key`.
        key: String,
        /// `converted_type`.
        to: Kind,
    },
}

/// Where a value comes from; when the place is empty the action does nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// `value`.
    Value(Any),
    /// `from_attribute`: another attribute of the same list.
    Attribute(String),
    /// `from_context`: `metadata.<name>` or a bare name, of the request; needs `include_metadata`.
    Context(String),
}

/// `key`, `pattern`, or both (at least one).
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The attribute of this name.
    pub key: Option<String>,
    /// Every attribute whose name this matches somewhere.
    pub pattern: Option<Pattern>,
}

/// `converted_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `int`: decimal text; bool gives 1 or 0; a double is cut off.
    Int,
    /// `double`.
    Double,
    /// `string`.
    Text,
}
