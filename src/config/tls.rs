//! The `tls` blocks, as a client writes them and as a server does (reference §2.1).

use super::Secret;
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
}
