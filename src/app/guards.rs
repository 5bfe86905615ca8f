//! From authenticator extensions to those who ask for credentials, and to what exporters send.

use super::plan::{Config, ExtensionConfig};
use super::wire::StartError;
use crate::base::Clock;
use crate::config::{Headers, Id};
use crate::extensions::authenticators::basic::{Basic, Busy, NoNames};
use crate::extensions::authenticators::bearer::{Bearer, Token};
use crate::extensions::authenticators::config::{BasicAuthConfig, BearerTokenConfig, HtpasswdConfig};
use crate::receivers::guard::{Admission, Guard};
use crate::uplink::client::{ClientError, Shown};
use crate::uplink::config::OAuth2Config;
use crate::uplink::oauth2::Grant;
use futures_util::FutureExt as _;
use http::HeaderName;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Those that some server asks by.
///
/// # Errors
/// When a file of credentials cannot be read, or says nothing that can be used.
pub fn make(config: &Config) -> Result<BTreeMap<Id, Guard>, StartError> {
    let mut guards = BTreeMap::new();
    for id in &config.asked_by_servers() {
        let no = |why: String| StartError::Component { id: id.to_string(), why };
        let guard = match config.extensions.get(id) {
            Some(ExtensionConfig::BearerToken(section)) => bearer(section).map_err(|e| no(format!("filename: {e}")))?,
            Some(ExtensionConfig::BasicAuth(BasicAuthConfig { htpasswd: Some(section), .. })) => {
                basic(section).map_err(|e| no(e.to_string()))?
            }
            _ => continue,
        };
        guards.insert(id.clone(), guard);
    }
    Ok(guards)
}

fn bearer(section: &BearerTokenConfig) -> std::io::Result<Guard> {
    let bearer = Bearer::new(section)?;
    let ask = move |value: &[u8]| {
        let admission = if bearer.admits(value) { Admission::In(Vec::new()) } else { Admission::Out };
        std::future::ready(admission).boxed()
    };
    Ok(Guard::new(&section.header, "Bearer", ask))
}

fn basic(section: &HtpasswdConfig) -> Result<Guard, NoNames> {
    let basic = Arc::new(Basic::new(section)?);
    let ask = move |value: &[u8]| {
        let (basic, value) = (basic.clone(), value.to_vec());
        let admission = |admitted| match admitted {
            Ok(Some(name)) => Admission::In(vec![("username", name)]),
            Ok(None) => Admission::Out,
            Err(Busy) => Admission::Busy,
        };
        async move { admission(basic.admits(&value).await) }.boxed()
    };
    Ok(Guard::new("authorization", "Basic", ask))
}

/// What an exporter asks for at each upload.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// A token in a file.
    File(BearerTokenConfig),
    /// One that a server gives.
    Grant(Box<OAuth2Config>),
}

/// What an exporter asks for, by this authenticator.
#[must_use]
pub fn followed(config: &Config, id: &Id) -> Option<Followed> {
    match config.extensions.get(id)? {
        ExtensionConfig::BearerToken(section) if section.filename.is_some() => Some(Followed::File(section.clone())),
        ExtensionConfig::OAuth2(section) => Some(Followed::Grant(section.clone())),
        _ => None,
    }
}

/// What it sends of it at each upload.
///
/// # Errors
/// When it can never be asked for.
pub fn shown(followed: &Followed, clock: &Clock) -> Result<Option<Shown>, ClientError> {
    let section = match followed {
        Followed::File(section) => section,
        Followed::Grant(section) => {
            let value = Arc::new(Grant::new(section, clock.clone())?);
            return Ok(Some(Shown { header: http::header::AUTHORIZATION, value }));
        }
    };
    let file = section.filename.as_ref().map(|path| Token::of(path, &section.scheme));
    // The name was checked when it was read.
    let header = HeaderName::from_bytes(section.header.as_bytes()).ok();
    let shown = |(token, header): (Token, HeaderName)| Shown { header, value: Arc::new(move || token.value()) };
    Ok(file.zip(header).map(shown))
}

/// The headers of an exporter with what it sends by this authenticator. The last one of a name is sent.
#[must_use]
pub fn sent(config: &Config, id: &Id, mut headers: Headers) -> Headers {
    match config.extensions.get(id) {
        Some(ExtensionConfig::BearerToken(section)) => headers.extend(section.sent()),
        Some(ExtensionConfig::BasicAuth(section)) => headers.extend(section.sent()),
        Some(ExtensionConfig::HeadersSetter(section)) => return section.applied_to(headers),
        _ => {}
    }
    headers
}
