//! The `tls` blocks, as a client writes them and as a server does (reference §2.1).

use super::{Secret, Section};
use std::path::PathBuf;
use std::time::Duration;

/// Something in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pem {
    /// `…_file`: read when the component starts.
    File(PathBuf),
    /// `…_pem`: written in the configuration itself.
    Inline(Secret),
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// `1.2`; older ones no longer exist in rustls, and `1.0` or `1.1` in a file means at least this one.
    V12,
    /// `1.3`.
    V13,
}

/// What both sides write.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsCommon {
    /// `ca_file` or `ca_pem`: whom to trust *instead of* the system's roots. None: the system's roots.
    pub ca: Option<Pem>,
    /// `cert_file` or `cert_pem`: our own certificate; given together with `key`.
    pub cert: Option<Pem>,
    /// `key_file` or `key_pem`.
    pub key: Option<Pem>,
    /// `min_version`, 1.2.
    pub min_version: TlsVersion,
    /// `max_version`; None: the newest.
    pub max_version: Option<TlsVersion>,
    /// `reload_interval`: how often the certificate is read again; zero: never.
    pub reload_interval: Duration,
}

impl Default for TlsCommon {
    fn default() -> TlsCommon {
        TlsCommon {
            ca: None,
            cert: None,
            key: None,
            min_version: TlsVersion::V12,
            max_version: None,
            reload_interval: Duration::ZERO,
        }
    }
}

/// `tls` of an exporter.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TlsClient {
    /// Roots, own certificate, versions.
    pub common: TlsCommon,
    /// `insecure`: over gRPC no TLS at all; over HTTP the URL's scheme decides and this changes nothing.
    pub insecure: bool,
    /// `insecure_skip_verify`: take any certificate.
    pub insecure_skip_verify: bool,
    /// `server_name_override`: the name asked for and checked, instead of the URL's host.
    pub server_name_override: Option<String>,
    /// `include_system_ca_certs_pool`: trust the system's roots beside `ca`.
    pub include_system_ca_certs_pool: bool,
}

/// `tls` of a server; a block that sets nothing is no block.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TlsServer {
    /// Certificate and key (needed), versions. `ca` has no use in a server.
    pub common: TlsCommon,
    /// `client_ca_file`: clients must show a certificate of this authority. None: they need none.
    pub client_ca_file: Option<PathBuf>,
    /// `client_ca_file_reload`: read it again when it changes.
    pub client_ca_file_reload: bool,
    /// `cipher_suites` of TLS 1.2, as Go writes them; none: all rustls has. Those of TLS 1.3 cannot be chosen, as in Go.
    pub cipher_suites: Vec<String>,
}

impl TlsCommon {
    fn read(s: &Section<'_>) -> TlsCommon {
        let versions =
            [("1.0", TlsVersion::V12), ("1.1", TlsVersion::V12), ("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)];
        let common = TlsCommon {
            ca: pem(s, "ca_file", "ca_pem"),
            cert: pem(s, "cert_file", "cert_pem"),
            key: pem(s, "key_file", "key_pem"),
            min_version: s.choice("min_version", TlsVersion::V12, &versions),
            max_version: s
                .fills("max_version")
                .then(|| s.choice("max_version", None, &versions.map(|(w, v)| (w, Some(v)))))
                .flatten(),
            reload_interval: s.duration("reload_interval", Duration::ZERO),
        };
        for old in ["min_version", "max_version"] {
            let is_old = s.text_if_given(old).is_some_and(|v| v == "1.0" || v == "1.1");
            s.warn_unless(!is_old, old, || "TLS below 1.2 does not exist here; 1.2 is taken".to_owned());
        }
        let in_order = common.max_version.is_none_or(|max| common.min_version <= max);
        s.unless(in_order, "max_version", || "is below min_version".to_owned());
        if common.cert.is_some() != common.key.is_some() {
            s.error_here(
                "a certificate needs its key and a key its certificate: give cert_file and key_file, or neither",
            );
        }
        s.moot_all(&["curve_preferences", "include_insecure_cipher_suites"], "rustls offers only sound ones");
        s.refuse("tpm", "keys in a TPM are not available in this build");
        common
    }
}

/// One thing that may be a file or stand in the configuration itself, not both.
fn pem(s: &Section<'_>, file: &'static str, inline: &'static str) -> Option<Pem> {
    let from_file = s.path_if_given(file).map(Pem::File);
    let from_text = s.secret_if_given(inline).map(Pem::Inline);
    if from_file.is_some() && from_text.is_some() {
        s.error(inline, format!("stands beside {file}; give one of them"));
    }
    from_file.or(from_text)
}

impl TlsClient {
    /// Reads the `tls` block of a client.
    #[must_use]
    pub fn read(s: &Section<'_>) -> TlsClient {
        s.moot("cipher_suites", "rustls offers only sound ones");
        TlsClient {
            common: TlsCommon::read(s),
            insecure: s.flag("insecure", false),
            insecure_skip_verify: s.flag("insecure_skip_verify", false),
            server_name_override: s.text_if_given("server_name_override"),
            include_system_ca_certs_pool: s.flag("include_system_ca_certs_pool", false),
        }
    }
}

impl TlsServer {
    /// Reads the `tls` block of a server; `None` when it sets nothing.
    #[must_use]
    pub fn read(s: &Section<'_>) -> Option<TlsServer> {
        let tls = TlsServer {
            common: TlsCommon::read(s),
            client_ca_file: s.path_if_given("client_ca_file"),
            client_ca_file_reload: s.flag("client_ca_file_reload", false),
            cipher_suites: s.texts("cipher_suites", &[]),
        };
        s.moot("include_system_ca_certs_pool", "a server trusts the authorities of client_ca_file and no others");
        let sets_nothing = tls == TlsServer::default();
        if !sets_nothing && tls.common.cert.is_none() {
            s.error_here("a server needs cert_file and key_file; without them no client can connect");
        }
        (!sets_nothing).then_some(tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section::try_out;

    #[test]
    #[rustfmt::skip]
    fn a_servers_tls_is_off_unless_something_is_set_and_then_needs_a_certificate() {
        for (yaml, is_on, told) in [
            ("{}",                                     false, ""),
            ("{min_version: '1.2', cert_file: ''}",    false, ""), // defaults written out set nothing
            ("{cert_file: /c, key_file: /k}",          true,  ""),
            ("{cert_pem: C, key_pem: K}",              true,  ""),
            ("{min_version: '1.3'}",                   true,  "a server needs cert_file and key_file; without them no client can connect"),
            ("{client_ca_file: /a}",                   true,  "a server needs cert_file and key_file; without them no client can connect"),
            ("{cert_file: /c, key_file: /k, min_version: '1.3', max_version: '1.2'}", true, "is below min_version"),
            ("{cert_file: /c, cert_pem: C, key_file: /k}", true, "stands beside cert_file; give one of them"),
        ] {
            let (tls, said) = try_out(yaml, &[], TlsServer::read);
            assert_eq!((tls.is_some(), said.as_str()), (is_on, told), "{yaml}");
        }
    }

    #[test]
    fn a_clients_tls_keeps_keys_in_the_file_to_itself() {
        let yaml = "{ca_file: /ca, cert_pem: C, key_pem: SECRET, server_name_override: c, reload_interval: 1h}";
        let (tls, told) = try_out(yaml, &[], TlsClient::read);
        assert_eq!(told, "");
        let common = TlsCommon {
            ca: Some(Pem::File("/ca".into())),
            cert: Some(Pem::Inline(Secret::new("C"))),
            key: Some(Pem::Inline(Secret::new("SECRET"))),
            reload_interval: Duration::from_secs(3_600),
            ..TlsCommon::default()
        };
        assert_eq!(tls, TlsClient { common, server_name_override: Some("c".to_owned()), ..TlsClient::default() });
        assert!(!format!("{tls:?}").contains("SECRET"));
    }
}
