//! `type` or `type/name`: how one part of a configuration names another.

use std::fmt;

/// A component's id as written, trimmed: `otlp`, `otlphttp/backup`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    kind: String,
    name: String,
}

/// Why a text is not an id (the rules of otelcol, reference §1.5).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// `` or `/name`.
    #[error("the id `{0}` has no type; write `type` or `type/name`")]
    NoType(String),
    /// `type/`.
    #[error("the id `{0}` has nothing after the slash; write `type` or `type/name`")]
    NoName(String),
    /// A letter first, then letters, digits and `_`; at most 63 characters.
    #[error("the type `{0}` has characters no component type has")]
    NotAType(String),
    /// Control characters would garble logs and labels.
    #[error("the name `{0}` has control characters or is longer than {NAME_MAX}")]
    NotAName(String),
}

/// Longest name behind the slash, characters: what otelcol allows since 0.107.
const NAME_MAX: usize = 1_024;
/// Longest type, characters (otelcol: `^[a-zA-Z][0-9a-zA-Z_]{0,62}$`).
const TYPE_MAX: usize = 63;

impl Id {
    /// An id of a type alone.
    #[must_use]
    pub fn of(kind: &str) -> Id {
        Id { kind: kind.to_owned(), name: String::new() }
    }

    /// Reads an id; split at the first slash, both parts trimmed.
    ///
    /// # Errors
    /// Says which part is missing or has what it may not have.
    pub fn parse(text: &str) -> Result<Id, BadId> {
        let shown = || text.escape_debug().to_string();
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) if !name.trim().is_empty() => (kind.trim(), name.trim()),
            Some((kind, _)) if !kind.trim().is_empty() => return Err(BadId::NoName(shown())),
            Some((kind, _)) => (kind.trim(), ""),
            None => (text.trim(), ""),
        };
        if kind.is_empty() {
            return Err(BadId::NoType(shown()));
        }
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !kind.starts_with(|c: char| c.is_ascii_alphabetic()) || !kind.chars().all(letters) || kind.len() > TYPE_MAX {
            return Err(BadId::NotAType(kind.escape_debug().to_string()));
        }
        if name.chars().any(char::is_control) || name.chars().count() > NAME_MAX {
            return Err(BadId::NotAName(name.escape_debug().to_string()));
        }
        Ok(Id { kind: kind.to_owned(), name: name.to_owned() })
    }

    /// The part before the slash: which component this is.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The part after the slash, or nothing.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => f.write_str(&self.kind),
            name => write!(f, "{}/{name}", self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn an_id_is_a_type_and_maybe_a_name() {
        for (text, expected) in [
            ("otlp",          Ok(("otlp", ""))),
            (" otlp / a b ",  Ok(("otlp", "a b"))),
            ("otlp/a/b",      Ok(("otlp", "a/b"))), // the first slash splits
            ("otlp/",         Err(BadId::NoName("otlp/".into()))),
            ("otlp/  ",       Err(BadId::NoName("otlp/  ".into()))),
            ("/a",            Err(BadId::NoType("/a".into()))),
            ("/",             Err(BadId::NoType("/".into()))),
            ("",              Err(BadId::NoType(String::new()))),
            ("4otlp",         Err(BadId::NotAType("4otlp".into()))),
            ("ot-lp",         Err(BadId::NotAType("ot-lp".into()))),
            ("otlp/a\nb",     Err(BadId::NotAName("a\\nb".into()))),
        ] {
            let id = Id::parse(text);
            assert_eq!(id.as_ref().map(|id| (id.kind(), id.name())), expected.as_ref().map(|e| *e), "{text:?}");
        }
    }

    #[test]
    fn an_id_is_shown_as_it_is_written() {
        for text in ["otlp", "otlp/a", "otlp/a/b"] {
            assert_eq!(Id::parse(text).map(|id| id.to_string()), Ok(text.to_owned()));
        }
    }
}
