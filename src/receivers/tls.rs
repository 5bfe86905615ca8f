//! TLS as servers speak it: what they show, whom they let in, and how both are read again while connections stay.
//!
//! ```text
//! tls: {cert_file, key_file, client_ca_file} ─▶ Face ── greet(socket) ─▶ TLS stream, or an end in handshake_timeout
//!                                                 └── at a handshake, when reload_interval is over: read again;
//!                                                     what cannot be used is told, and what was good stays
//! ```
//!
//! What always holds:
//! * Files are read when somebody knocks, never by a timer: an idle agent reads nothing.
//! * A connection keeps what it was greeted with; only new ones see new files.
//! * Each reading has a memory of sessions of its own: an authority that was taken away lets nobody in who comes back
//!   with a session of before.

use crate::config::{Pem, TlsServer, TlsVersion};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// How a file is read: of this machine, or of one made up for a test.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// What keeps a server from speaking TLS: a key of its `tls` block, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tls.{key}: {why}")]
pub struct Faulty {
    /// Below `tls`.
    pub key: &'static str,
    /// Why not.
    pub why: String,
}

fn faulty(key: &'static str, why: impl ToString) -> Faulty {
    Faulty { key, why: why.to_string() }
}

/// `client_ca_file_reload`: so often at most the file is looked at. The original is told by the kernel; we look when a
/// client knocks.
const CLIENT_CA_EVERY: Duration = Duration::from_secs(1);

/// What a server shows and asks for, as its files were when they were last good.
#[derive(Debug)]
pub struct Face {
    section: TlsServer,
    alpn: &'static [&'static [u8]],
    now: Mutex<Now>,
}

struct Now {
    acceptor: TlsAcceptor,
    files: Files,
    read_at: Instant,
    /// What was told last, so that a file that stays bad is told once.
    told: Option<Faulty>,
}

impl std::fmt::Debug for Now {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Now").field("read_at", &self.read_at).finish_non_exhaustive() // no keys in a log
    }
}

impl Face {
    /// Reads the files of this machine.
    ///
    /// # Errors
    /// See [`Faulty`].
    pub fn new(section: &TlsServer, alpn: &'static [&'static [u8]]) -> Result<Face, Faulty> {
        let files = Files::read(section, &|path| std::fs::read(path))?;
        let acceptor = TlsAcceptor::from(Arc::new(files.config(section, alpn)?));
        let now = Now { acceptor, files, read_at: Instant::now(), told: None };
        Ok(Face { section: section.clone(), alpn, now: Mutex::new(now) })
    }

    /// For the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if self.every().is_some_and(|every| now.read_at.elapsed() >= every) {
            now.read_at = Instant::now();
            self.read_again(&mut now);
        }
        now.acceptor.clone()
    }

    fn every(&self) -> Option<Duration> {
        let interval = Some(self.section.common.reload_interval).filter(|interval| !interval.is_zero());
        let client_ca = self.section.client_ca_file_reload.then_some(CLIENT_CA_EVERY);
        interval.into_iter().chain(client_ca).min()
    }

    fn read_again(&self, now: &mut Now) {
        let files = match Files::read(&self.section, &|path| std::fs::read(path)) {
            Ok(files) if files == now.files => {
                now.told = None;
                return;
            }
            read => read,
        };
        match files.and_then(|files| Ok((files.config(&self.section, self.alpn)?, files))) {
            Ok((config, files)) => {
                tracing::info!(cert = %named(self.section.common.cert.as_ref()), "the server's certificates were read again");
                (now.acceptor, now.files, now.told) = (TlsAcceptor::from(Arc::new(config)), files, None);
            }
            Err(fault) if now.told.as_ref() == Some(&fault) => {}
            Err(fault) => {
                tracing::warn!(reason = %fault, "new certificates cannot be used; the ones before stay");
                now.told = Some(fault);
            }
        }
    }
}

fn named(pem: Option<&Pem>) -> String {
    match pem {
        Some(Pem::File(path)) => path.display().to_string(),
        Some(Pem::Inline(_)) | None => "in the configuration".to_owned(),
    }
}

/// What the files of a `tls` block hold.
#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// Whether a server could speak TLS by these files.
///
/// # Errors
/// See [`Faulty`].
pub fn check(section: &TlsServer, read: ReadFile<'_>) -> Result<(), Faulty> {
    Files::read(section, read)?.config(section, &[]).map(drop)
}

impl Files {
    fn read(section: &TlsServer, read: ReadFile<'_>) -> Result<Files, Faulty> {
        let file =
            |key, path: &Path| read(path).map_err(|e| faulty(key, format!("`{}` cannot be read: {e}", path.display())));
        let pem = |keys: [&'static str; 2], pem: &Option<Pem>| match pem {
            Some(Pem::File(path)) => file(keys[0], path),
            Some(Pem::Inline(secret)) => Ok(secret.reveal().as_bytes().to_vec()),
            None => Err(faulty(keys[0], "is needed by a server")),
        };
        Ok(Files {
            cert: pem(["cert_file", "cert_pem"], &section.common.cert)?,
            key: pem(["key_file", "key_pem"], &section.common.key)?,
            client_ca: section.client_ca_file.as_ref().map(|path| file("client_ca_file", path)).transpose()?,
        })
    }

    fn config(&self, section: &TlsServer, alpn: &[&[u8]]) -> Result<ServerConfig, Faulty> {
        let is_inline = |pem: &Option<Pem>| matches!(pem, Some(Pem::Inline(_)));
        let cert_key = if is_inline(&section.common.cert) { "cert_pem" } else { "cert_file" };
        let key_key = if is_inline(&section.common.key) { "key_pem" } else { "key_file" };
        let chain = certificates(cert_key, &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| faulty(key_key, "holds no private key in PEM form"))?;
        let provider = Arc::new(provider(&section.cipher_suites));
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions(section))
            .map_err(|e| faulty("cipher_suites", format!("leave nothing to speak: {e}")))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("client_ca_file", pem)? {
                    roots.add(certificate).map_err(|e| faulty("client_ca_file", format!("holds no authority: {e}")))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| faulty("client_ca_file", e))?)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|e| faulty(key_key, format!("does not go with the certificate: {e}")))?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}

fn certificates(key: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Faulty> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| faulty(key, format!("is no PEM: {e}")))?;
    if all.is_empty() { Err(faulty(key, "holds no certificate in PEM form")) } else { Ok(all) }
}

fn versions(section: &TlsServer) -> Vec<&'static SupportedProtocolVersion> {
    let max = section.common.max_version.unwrap_or(TlsVersion::V13);
    let both = [(TlsVersion::V12, &rustls::version::TLS12), (TlsVersion::V13, &rustls::version::TLS13)];
    both.into_iter().filter(|(v, _)| (section.common.min_version..=max).contains(v)).map(|(_, v)| v).collect()
}

/// ring, with the suites of TLS 1.2 that are named. Those of 1.3 are all sound, and Go does not let them be chosen.
fn provider(suites: &[String]) -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    if !suites.is_empty() {
        provider
            .cipher_suites
            .retain(|suite| suite.tls13().is_some() || suites.iter().any(|name| is_named(suite, name)));
    }
    provider
}

fn is_named(suite: &rustls::SupportedCipherSuite, name: &str) -> bool {
    // Go writes the two ChaCha suites with and without the hash at the end.
    suite.suite().as_str().is_some_and(|known| known == name || known.strip_suffix("_SHA256") == Some(name))
}

/// Whether rustls has a suite of this name.
#[must_use]
pub fn is_suite(name: &str) -> bool {
    rustls::crypto::ring::default_provider().cipher_suites.iter().any(|suite| is_named(suite, name))
}
