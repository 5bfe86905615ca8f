//! From authenticator extensions to those who ask for credentials, and to what exporters send.

use super::plan::{Config, ExtensionConfig};
use super::wire::StartError;
use crate::config::{Id, Secret};
use crate::extensions::authenticators::basic::Basic;
use crate::extensions::authenticators::bearer::Bearer;
use crate::extensions::authenticators::config::{BasicAuthConfig, BearerTokenConfig, HtpasswdConfig};
use crate::receivers::guard::Guard;
use futures_util::FutureExt as _;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Those of the extensions that start and can ask somebody.
///
/// # Errors
/// When a file of credentials cannot be read, or says nothing that can be used.
pub fn make(config: &Config) -> Result<BTreeMap<Id, Guard>, StartError> {
    let mut guards = BTreeMap::new();
    for id in &config.service.extensions {
        let no = |why: String| StartError::Component { id: id.to_string(), why };
        let guard = match config.extensions.get(id) {
            Some(ExtensionConfig::BearerToken(section)) => bearer(section).map_err(|e| no(format!("filename: {e}")))?,
            Some(ExtensionConfig::BasicAuth(BasicAuthConfig { htpasswd: Some(section), .. })) => {
                basic(section).map_err(no)?
            }
            _ => continue,
        };
        guards.insert(id.clone(), guard);
    }
    Ok(guards)
}

fn bearer(section: &BearerTokenConfig) -> std::io::Result<Guard> {
    let bearer = Bearer::new(section)?;
    let ask = move |value: &[u8]| std::future::ready(bearer.admits(value).then(Vec::new)).boxed();
    Ok(Guard::new(&section.header, "Bearer", ask))
}

fn basic(section: &HtpasswdConfig) -> Result<Guard, String> {
    let file = section.file.as_ref().map(std::fs::read_to_string).transpose();
    let file = file.map_err(|e| format!("htpasswd.file: {e}"))?;
    let texts = file.iter().map(String::as_str).chain(section.inline.as_ref().map(Secret::reveal));
    let basic = Arc::new(Basic::new(texts).map_err(|e| format!("htpasswd: {e}"))?);
    let ask = move |value: &[u8]| {
        let (basic, value) = (basic.clone(), value.to_vec());
        async move { basic.admits(&value).await.map(|name| vec![("username", name)]) }.boxed()
    };
    Ok(Guard::new("authorization", "Basic", ask))
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
