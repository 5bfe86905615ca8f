//! `extensions.bearertokenauth` and `extensions.basicauth`, as of contrib v0.88 (their READMEs), with the keys users paste
//! since.

use crate::config::{Secret, Section};
use std::path::PathBuf;

/// `bearertokenauth`: a server asks for one of these tokens, an exporter sends the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BearerTokenConfig {
    /// `scheme`, `Bearer`: what stands before the token; empty: nothing.
    pub scheme: String,
    /// `token`, and `tokens`.
    pub tokens: Vec<Secret>,
    /// `filename`: tokens, one a line, in the place of those; read again when it changes. An exporter sends the first, and
    /// waits for it while there is none.
    pub filename: Option<PathBuf>,
    /// `header`, `Authorization`: where the token stands.
    pub header: String,
}

/// `basicauth`: a server asks by `htpasswd`, an exporter sends `client_auth`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BasicAuthConfig {
    /// `htpasswd`.
    pub htpasswd: Option<HtpasswdConfig>,
    /// `client_auth`.
    pub client_auth: Option<ClientAuth>,
}

/// `htpasswd`: names and passwords, `name:password` a line; where a name stands in both, `inline` counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HtpasswdConfig {
    /// `file`: read again when it changes.
    pub file: Option<PathBuf>,
    /// `inline`.
    pub inline: Option<Secret>,
}

/// `client_auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// `username`.
    pub username: String,
    /// `password`.
    pub password: Secret,
}

impl BearerTokenConfig {
    /// Reads `extensions.bearertokenauth`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> BearerTokenConfig {
        let tokens = s.secret_texts("tokens");
        // An empty one lets everybody in who says nothing: a variable that is not set, most likely.
        s.unless(tokens.iter().all(|token| !token.is_empty()), "tokens", || {
            "one of the tokens is empty; a variable that is not set?".to_owned()
        });
        let more = tokens.into_iter().map(Secret::new);
        let scheme =
            if s.gives("scheme") { s.text_if_given("scheme").unwrap_or_default() } else { "Bearer".to_owned() };
        let config = BearerTokenConfig {
            scheme,
            tokens: s.secret_if_given("token").into_iter().chain(more).collect(),
            filename: s.path_if_given("filename"),
            header: s.text("header", "Authorization"),
        };
        if config.tokens.is_empty() && config.filename.is_none() {
            s.error_here("there is no token; give token or filename");
        }
        s.warn_unless(config.tokens.is_empty() || config.filename.is_none(), "token", || {
            "has no effect: the tokens of filename count".to_owned()
        });
        s.unless(http::HeaderName::from_bytes(config.header.as_bytes()).is_ok(), "header", || {
            "is not the name of a header".to_owned()
        });
        config
    }

    /// What an exporter sends, name and value.
    #[must_use]
    pub fn sent(&self) -> Option<(String, Secret)> {
        let token = self.tokens.first().filter(|_| self.filename.is_none())?;
        Some((self.header.clone(), Secret::new(with_scheme(&self.scheme, token.reveal()))))
    }
}

/// A token as it stands in its header.
pub(super) fn with_scheme(scheme: &str, token: &str) -> String {
    if scheme.is_empty() { token.to_owned() } else { format!("{scheme} {token}") }
}

impl BasicAuthConfig {
    /// Reads `extensions.basicauth`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> BasicAuthConfig {
        let htpasswd = s.section("htpasswd", |s| {
            let htpasswd = HtpasswdConfig { file: s.path_if_given("file"), inline: s.secret_if_given("inline") };
            if let Some(inline) = &htpasswd.inline {
                let told = super::htpasswd::parse(inline.reveal()).err();
                s.unless(told.is_none(), "inline", || told.map(|why| why.to_string()).unwrap_or_default());
            }
            htpasswd
        });
        let client_auth = s.section("client_auth", |s| {
            let username = s.text_if_given("username");
            let password = s.secret_if_given("password");
            s.refuse("username_file", "is not available in this build; `username: ${file:…}` does the same");
            s.refuse("password_file", "is not available in this build; `password: ${file:…}` does the same");
            if username.as_ref().is_some_and(|name| name.contains(':')) {
                s.error("username", "has a colon, which would be the end of it");
            }
            Some(ClientAuth { username: username?, password: password? })
        });
        let config = BasicAuthConfig {
            htpasswd: Some(htpasswd).filter(|htpasswd| *htpasswd != HtpasswdConfig::default()),
            client_auth,
        };
        match (&config.htpasswd, &config.client_auth) {
            (None, None) => {
                s.error_here("there are no credentials; give htpasswd, or client_auth with username and password")
            }
            (Some(_), Some(_)) => {
                s.error_here("htpasswd is for servers and client_auth for exporters; give one of them")
            }
            _ => {}
        }
        config
    }

    /// What an exporter sends, name and value.
    #[must_use]
    pub fn sent(&self) -> Option<(String, Secret)> {
        use base64::Engine as _;
        let ClientAuth { username, password } = self.client_auth.as_ref()?;
        let both = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{}", password.reveal()));
        Some(("Authorization".to_owned(), Secret::new(format!("Basic {both}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    #[test]
    #[rustfmt::skip]
    fn a_section_without_credentials_or_with_two_kinds_is_told() {
        for (yaml, told) in [
            ("{token: t}",                                  ""),
            ("{filename: /t}",                              ""),
            ("{}",                                          "there is no token; give token or filename"),
            ("{token: t, filename: /t}",                    "warning: has no effect: the tokens of filename count"),
            ("{token: t, header: 'a b'}",                   "is not the name of a header"),
        ] {
            assert_eq!(try_out(yaml, &[], BearerTokenConfig::read).1, told, "{yaml}");
        }
        let one_kind = "htpasswd is for servers and client_auth for exporters; give one of them";
        let none = "there are no credentials; give htpasswd, or client_auth with username and password";
        for (yaml, told) in [
            ("{htpasswd: {inline: 'a:b'}}",                 ""),
            ("{client_auth: {username: a, password: b}}",   ""),
            ("{client_auth: {username: a}}",                none),
            ("{}",                                          none),
            ("{htpasswd: {file: /h}, client_auth: {username: a, password: b}}", one_kind),
            ("{htpasswd: {inline: 'a:$apr1$x$y'}}",         "line 1: the MD5 hash of `a` is not taken; make it with `htpasswd -B`"),
        ] {
            assert_eq!(try_out(yaml, &[], BasicAuthConfig::read).1, told, "{yaml}");
        }
    }

    #[test]
    fn what_an_exporter_sends_is_a_secret() {
        let (config, _) = try_out("{token: SECRET, scheme: ''}", &[], BearerTokenConfig::read);
        assert_eq!(config.sent().expect("a token").1.reveal(), "SECRET");
        let (basic, _) = try_out("{client_auth: {username: a, password: SECRET}}", &[], BasicAuthConfig::read);
        assert_eq!(basic.sent().expect("credentials").1.reveal(), "Basic YTpTRUNSRVQ=");
        assert!(!format!("{config:?} {basic:?} {:?}", basic.sent()).contains("SECRET"));
    }
}
