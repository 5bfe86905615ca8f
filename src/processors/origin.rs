//! Who sent a request, and what was said beside it: what `from_context` can name.

/// What a receiver knows of a request besides its bytes. The default knows nothing, and then no `from_context` has a value.
///
/// A receiver fills it when `include_metadata` asks for that, and hands it on as the rewriter's
/// [`Context`](crate::otlp::Context): `&|name| origin.value(name)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Headers of HTTP or metadata of gRPC: name and values, in the order in which they came.
    pub metadata: Vec<(String, Vec<String>)>,
    /// The client's address with its port. Newer than 0.88, which takes `client.address` for a header.
    pub address: Option<String>,
    /// What the authenticator says of the client.
    pub auth: Vec<(String, Vec<String>)>,
}

impl Origin {
    /// The value of a `from_context`: `metadata.<name>`, `auth.<name>`, `client.address`, or a header's bare name; several
    /// values are joined by `;` (contrib v0.88.0, `attraction.go`).
    #[must_use]
    pub fn value(&self, name: &str) -> Option<String> {
        if let Some(name) = name.strip_prefix("auth.") {
            let found = self.auth.iter().find(|(key, _)| key == name);
            return joined(found.map(|(_, values)| values.iter()));
        }
        if name == "client.address" {
            return self.address.clone();
        }
        let name = name.strip_prefix("metadata.").unwrap_or(name);
        let same = self.metadata.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        joined(Some(same.flat_map(|(_, values)| values)))
    }
}

fn joined<'a>(values: Option<impl Iterator<Item = &'a String>>) -> Option<String> {
    let values: Vec<&str> = values?.map(String::as_str).collect();
    (!values.is_empty()).then(|| values.join(";"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// attraction_test.go, v0.88.0 (`TestFromAttributeContext…`).
    #[test]
    #[rustfmt::skip]
    fn a_name_means_a_header_the_client_or_what_is_known_of_it() {
        let many = |values: &[&str]| values.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let origin = Origin {
            metadata: vec![("x-tenant".to_owned(), many(&["a", "b"])), ("auth".to_owned(), many(&["h"])), ("X-Tenant".to_owned(), many(&["c"]))],
            address: Some("10.0.0.7:4711".to_owned()),
            auth: vec![("subject".to_owned(), many(&["u-1"])), ("none".to_owned(), many(&[]))],
        };
        for (name, expected) in [
            ("metadata.x-tenant", Some("a;b;c")),
            ("metadata.X-TENANT", Some("a;b;c")),
            ("x-tenant",          Some("a;b;c")),
            ("metadata.gone",     None),
            ("auth",              Some("h")), // a header of that name
            ("auth.subject",      Some("u-1")),
            ("auth.Subject",      None),
            ("auth.none",         None),
            ("client.address",    Some("10.0.0.7:4711")),
        ] {
            assert_eq!(origin.value(name).as_deref(), expected, "{name}");
            assert_eq!(Origin::default().value(name), None, "{name}");
        }
    }
}
