//! `extensions.oauth2client`, as of contrib v0.88 (its README) with the newer `expiry_buffer`: stands here and not beside the other
//! authenticators, because it is the uplink that asks for the token.

use crate::config::{Secret, Section, TlsClient};
use std::path::PathBuf;
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct OAuth2Config {
    /// `token_url`.
    pub token_url: String,
    /// `client_id`, or `client_id_file`.
    pub client_id: Credential,
    /// `client_secret`, or `client_secret_file`.
    pub client_secret: Credential,
    /// `scopes`.
    pub scopes: Vec<String>,
    /// `endpoint_params`: sent besides; a name may stand there several times.
    pub endpoint_params: Vec<(String, Secret)>,
    /// `timeout`, 30 s (0 in the file means that too): of one request for a token.
    pub timeout: Duration,
    /// `expiry_buffer`, 5 min: so long before its end a token is asked for anew, but not before half of its time.
    pub expiry_buffer: Duration,
    /// `tls`: of the server of tokens.
    pub tls: TlsClient,
}

/// Part of what we prove ourselves by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// Written in the configuration.
    Given(Secret),
    /// `…_file`: read whenever a token is asked for, its end of line left out.
    File(PathBuf),
}

impl Credential {
    /// Where it is read from.
    #[must_use]
    pub fn file(&self) -> Option<&PathBuf> {
        match self {
            Credential::Given(_) => None,
            Credential::File(path) => Some(path),
        }
    }
}

/// The end of a request for a token that has none.
const TIMEOUT: Duration = Duration::from_secs(30);

impl OAuth2Config {
    /// Reads `extensions.oauth2client`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> OAuth2Config {
        let token_url = s.url_if_given("token_url").unwrap_or_default();
        s.unless(!token_url.is_empty() || s.fills("token_url"), "token_url", || {
            "is needed: where tokens are had".to_owned()
        });
        let away = !token_url.is_empty() && !is_here(&token_url);
        s.warn_unless(!(away && is_plain(&token_url)), "token_url", || {
            "begins with http://: the secret is there for everybody on the way to read".to_owned()
        });
        s.choice("grant_type", (), &[("", ()), ("client_credentials", ())]);
        OAuth2Config {
            token_url,
            client_id: credential(s, "client_id", "client_id_file"),
            client_secret: credential(s, "client_secret", "client_secret_file"),
            scopes: s.texts("scopes", &[]),
            endpoint_params: s.secret_params("endpoint_params"),
            timeout: s.duration_or_never("timeout", Some(TIMEOUT)).unwrap_or(TIMEOUT),
            expiry_buffer: s.duration("expiry_buffer", Duration::from_secs(300)),
            tls: s.section("tls", TlsClient::read),
        }
    }
}

fn credential(s: &Section<'_>, given: &'static str, file: &'static str) -> Credential {
    match (s.secret_if_given(given), s.path_if_given(file)) {
        (in_file, Some(path)) => {
            // As in the original.
            s.warn_unless(in_file.is_none(), given, || format!("has no effect: what stands in {file} counts"));
            Credential::File(path)
        }
        (Some(given), None) => Credential::Given(given),
        (None, None) => {
            s.unless(s.fills(given) || s.fills(file), given, || format!("is needed, or {file}"));
            Credential::Given(Secret::default())
        }
    }
}

fn is_plain(url: &str) -> bool {
    url.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://"))
}

fn is_here(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    url.host_str().is_some_and(|host| {
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    #[test]
    fn every_key_arrives_and_secrets_are_secrets() {
        let yaml = "{token_url: 'https://t/x', client_id: i, client_secret: SECRET, scopes: [a, b], timeout: 3s, expiry_buffer: 4s, \
                    endpoint_params: {audience: [u, v], r: SECRET}, tls: {insecure_skip_verify: true}}";
        let (config, told) = try_out(yaml, &[], OAuth2Config::read);
        assert_eq!(told, "");
        let secs = Duration::from_secs;
        let expected = OAuth2Config {
            token_url: "https://t/x".to_owned(),
            client_id: Credential::Given(Secret::new("i")),
            client_secret: Credential::Given(Secret::new("SECRET")),
            scopes: vec!["a".to_owned(), "b".to_owned()],
            endpoint_params: [("audience", "u"), ("audience", "v"), ("r", "SECRET")]
                .map(|(name, value)| (name.to_owned(), Secret::new(value)))
                .to_vec(),
            timeout: secs(3),
            expiry_buffer: secs(4),
            tls: TlsClient { insecure_skip_verify: true, ..TlsClient::default() },
        };
        assert_eq!(config, expected);
        assert!(!format!("{config:?}").contains("SECRET"));
    }

    #[test]
    #[rustfmt::skip]
    fn what_is_missing_or_meant_otherwise_is_told() {
        for (yaml, told) in [
            ("{token_url: 'https://t', client_id_file: /i, client_secret_file: /s, timeout: 0s}", ""),
            ("{token_url: 'http://127.0.0.1:1/t', client_id: i, client_secret: s}",     ""),
            ("{token_url: 'http://t', client_id: i, client_secret: s}",                 "warning: begins with http://: the secret is there for everybody on the way to read"),
            ("{token_url: 'https://t', client_id: i, client_id_file: /i, client_secret: s}", "warning: has no effect: what stands in client_id_file counts"),
            ("{token_url: 'https://t', client_id: i}",                                  "is needed, or client_secret_file"),
            ("{client_id: i, client_secret: s}",                                        "is needed: where tokens are had"),
            ("{token_url: 'https://t', client_id: i, client_secret: s, grant_type: password}", "`password` is not one of client_credentials"),
        ] {
            assert_eq!(try_out(yaml, &[], OAuth2Config::read).1, told, "{yaml}");
        }
    }
}
