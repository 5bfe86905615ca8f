//! Who sent a request, as far as a pipeline may ask: the metadata it came with and the name it was let in by.

use std::collections::BTreeMap;
use std::fmt;

/// One client's request, beside its data. Exists only where `include_metadata` is on or an authenticator let the client
/// in; everywhere else there is none, and nothing is copied.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// By name in lower case, values in their order.
    metadata: BTreeMap<String, Vec<String>>,
    /// By name, as the authenticator gives them: `username`.
    auth: BTreeMap<String, String>,
}

impl fmt::Debug for Caller {
    /// Names only: among the values are passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("metadata", &self.metadata.keys()).field("auth", &self.auth.keys()).finish()
    }
}

impl Caller {
    /// Adds what a header says. What is no UTF-8 is left out, as it can be no attribute.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        if let Ok(value) = std::str::from_utf8(value) {
            self.metadata.entry(name.to_ascii_lowercase()).or_default().push(value.to_owned());
        }
    }

    /// Adds what an authenticator says.
    pub fn add_auth(&mut self, name: &str, value: String) {
        self.auth.insert(name.to_owned(), value);
    }

    /// The values of a header, whatever the case of its name; for `metadata_keys`.
    #[must_use]
    pub fn metadata(&self, name: &str) -> &[String] {
        self.metadata.get(&name.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// What `from_context` names: `metadata.<header>` or the header alone, its values joined by `;`; `auth.<attribute>`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<String> {
        if let Some(attribute) = name.strip_prefix("auth.") {
            return self.auth.get(attribute).cloned();
        }
        let values = self.metadata(name.strip_prefix("metadata.").unwrap_or(name));
        (!values.is_empty()).then(|| values.join(";"))
    }

    /// Roughly what it holds in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let metadata = self.metadata.iter().flat_map(|(name, values)| values.iter().map(|v| name.len() + v.len()));
        metadata.chain(self.auth.iter().map(|(name, value)| name.len() + value.len())).map(|len| len + 64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn values_are_found_as_the_original_finds_them() {
        let mut caller = Caller::default();
        caller.add("X-Tenant", b"a");
        caller.add("x-tenant", b"b");
        caller.add("X-Bytes", b"\xff");
        caller.add_auth("username", "u".to_owned());
        for (name, expected) in [
            ("metadata.x-tenant", Some("a;b")),
            ("metadata.X-TENANT", Some("a;b")),
            ("x-tenant",          Some("a;b")),
            ("auth.username",     Some("u")),
            ("metadata.username", None),
            ("auth.x-tenant",     None),
            ("x-bytes",           None),
        ] {
            assert_eq!(caller.value(name).as_deref(), expected, "{name}");
        }
        assert!(!format!("{caller:?}").contains("\"a\""));
    }
}
