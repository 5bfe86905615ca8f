//! `extensions.headers_setter`: headers an exporter sends, as of contrib v0.88 (its README), as far as they can be known when an upload
//! leaves: it has waited in the queue, and the request it came with is gone.

use crate::config::{Headers, Secret, Section};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeadersSetterConfig {
    /// `headers`, carried out in order on those of the exporter.
    pub headers: Vec<Setting>,
}

/// One of `headers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `action`, upsert.
    pub action: Action,
    /// `key`.
    pub key: String,
    /// `value`, or `default_value` in the place of a source that cannot be.
    pub value: Secret,
}

/// `action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `insert`: only where the exporter has none of this name.
    Insert,
    /// `update`: only where it has.
    Update,
    /// `upsert`.
    Upsert,
    /// `delete`.
    Delete,
}

/// Why a source cannot be.
const GONE: &str = "cannot be: an upload has waited in the queue, and the request it came with is gone; give value (an exporter for each tenant), or put it into the data with from_context of the attributes or resource processor";

impl HeadersSetterConfig {
    /// Reads `extensions.headers_setter`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> HeadersSetterConfig {
        let headers = s.items("headers", read_setting);
        s.unless(s.fills("headers"), "headers", || "is needed: what is set".to_owned());
        s.refuse("additional_auth", "is not available in this build; an exporter has one authenticator");
        HeadersSetterConfig { headers: headers.into_iter().flatten().collect() }
    }

    /// What an exporter sends that has these of its own.
    #[must_use]
    pub fn applied_to(&self, headers: Headers) -> Headers {
        self.headers.iter().fold(headers, |mut headers, Setting { action, key, value }| {
            let is_it = |(name, _): &(String, Secret)| name.eq_ignore_ascii_case(key);
            let has = headers.iter().any(is_it);
            match (action, has) {
                (Action::Insert, true) | (Action::Update | Action::Delete, false) => {}
                (Action::Insert | Action::Upsert, false) => headers.push((key.clone(), value.clone())),
                (Action::Update | Action::Upsert, true) => {
                    headers.retain(|header| !is_it(header));
                    headers.push((key.clone(), value.clone()));
                }
                (Action::Delete, true) => headers.retain(|header| !is_it(header)),
            }
            headers
        })
    }
}

fn read_setting(s: &Section<'_>) -> Option<Setting> {
    let actions = [
        ("insert", Action::Insert),
        ("update", Action::Update),
        ("upsert", Action::Upsert),
        ("delete", Action::Delete),
    ];
    let action = s.choice("action", Action::Upsert, &actions);
    let key = s.text_if_given("key").unwrap_or_default();
    s.unless(http::HeaderName::from_bytes(key.as_bytes()).is_ok(), "key", || match key.is_empty() {
        true => "is needed: the name of the header".to_owned(),
        false => format!("`{key}` is not the name of a header"),
    });
    let (value, default) = (s.secret_if_given("value"), s.secret_if_given("default_value"));
    for source in ["from_context", "from_attribute"] {
        if s.fills(source) {
            match &default {
                None => s.error(source, GONE),
                Some(_) => s.warn(source, format!("{GONE}; default_value is sent always")),
            }
        }
    }
    let has_source = s.fills("from_context") || s.fills("from_attribute");
    let is_whole = action == Action::Delete || value.is_some() || has_source || s.fills("value");
    s.unless(is_whole, "value", || "is needed: what is sent".to_owned());
    let value = value.or(default).unwrap_or_default();
    // It may be a secret: it is not shown.
    s.unless(http::HeaderValue::from_str(value.reveal()).is_ok(), "value", || {
        "has a line break or another control character".to_owned()
    });
    Some(Setting { action, key, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    #[test]
    fn each_action_does_what_it_says() {
        let yaml = "{headers: [{key: a, value: 1}, {action: insert, key: B, value: 2}, {action: insert, key: c, value: 3}, \
                    {action: update, key: b, value: 4}, {action: update, key: d, value: 5}, {action: delete, key: E}]}";
        let (config, told) = try_out(yaml, &[], HeadersSetterConfig::read);
        assert_eq!(told, "");
        let own = |pairs: &[(&str, &str)]| -> Headers {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect()
        };
        let sent = config.applied_to(own(&[("A", "0"), ("b", "0"), ("e", "0"), ("f", "0")]));
        assert_eq!(sent, own(&[("f", "0"), ("a", "1"), ("c", "3"), ("b", "4")]));
    }

    #[test]
    fn what_cannot_be_known_when_an_upload_leaves_is_told() {
        for (setting, told) in [
            ("{key: x, value: v}", String::new()),
            ("{key: x, from_context: tenant}", GONE.to_owned()),
            ("{key: x, from_attribute: subject}", GONE.to_owned()),
            (
                "{key: x, from_context: tenant, default_value: d}",
                format!("warning: {GONE}; default_value is sent always"),
            ),
            ("{key: x}", "is needed: what is sent".to_owned()),
            ("{value: v}", "is needed: the name of the header".to_owned()),
            ("{key: 'a b', value: v}", "`a b` is not the name of a header".to_owned()),
            ("{key: a, action: set, value: v}", "`set` is not one of insert, update, upsert, delete".to_owned()),
        ] {
            let (_, said) = try_out(&format!("{{headers: [{setting}]}}"), &[], HeadersSetterConfig::read);
            assert_eq!(said, told, "{setting}");
        }
        assert_eq!(try_out("{}", &[], HeadersSetterConfig::read).1, "is needed: what is set");
    }
}
