//! From authenticator extensions to those who ask for credentials, and to what exporters send.

use super::plan::{Config, ExtensionConfig};
use super::wire::StartError;
use crate::config::{Id, Secret};
use crate::extensions::authenticators::basic::{Basic, Busy, NoNames};
use crate::extensions::authenticators::bearer::{Bearer, Token};
use crate::extensions::authenticators::config::{BasicAuthConfig, BearerTokenConfig, HtpasswdConfig};
use crate::receivers::guard::{Admission, Guard};
use crate::uplink::client::Shown;
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

/// The token an exporter follows in a file, by this authenticator.
#[must_use]
pub fn followed(config: &Config, id: &Id) -> Option<BearerTokenConfig> {
    match config.extensions.get(id)? {
        ExtensionConfig::BearerToken(section) if section.filename.is_some() => Some(section.clone()),
        _ => None,
    }
}

/// What it sends of it at each upload.
#[must_use]
pub fn shown(section: &BearerTokenConfig) -> Option<Shown> {
    let token = Token::of(section.filename.as_ref()?, &section.scheme);
    // The name was checked when it was read.
    let header = HeaderName::from_bytes(section.header.as_bytes()).ok()?;
    Some(Shown { header, value: Arc::new(move || token.value()) })
}

/// The header an exporter sends by this authenticator.
#[must_use]
pub fn sent(config: &Config, id: &Id) -> Option<(String, Secret)> {
    match config.extensions.get(id)? {
        ExtensionConfig::BearerToken(section) => section.sent(),
        ExtensionConfig::BasicAuth(section) => section.sent(),
        ExtensionConfig::HealthCheck(_) | ExtensionConfig::FileStorage(_) | ExtensionConfig::Idle(_) => None,
    }
}
