//! What the clients of OTLP/HTTP and OTLP/gRPC share: TLS, credentials, and when a client is made anew.
//!
//! ```text
//! section ─▶ Maker ── for each life of an uplink ─▶ Renewed ─▶ OtlpHttp | OtlpGrpc
//!                                                      └── made anew: after a request without an answer, and when files
//!                                                          changed, looked at every reload_interval
//! ```
//!
//! What always holds:
//! * A client that cannot be made anew is made of what was read before: files that are gone or half written cost nothing.
//! * After a request that was never answered the next one goes over a new connection. An HTTP/2 connection outlives its
//!   requests, and one whose path died swallows them until TCP gives it up, after a quarter of an hour.
//! * No secret appears in an error or a log line.

use super::link::Trouble;
use super::transport::{Parcel, Transport};
use super::verdict::Verdict;
use crate::config::{Headers, Pem, Secret, TlsClient, TlsVersion};
use futures_util::future::{BoxFuture, FutureExt as _};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{ClientBuilder, tls};
use std::error::Error as _;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;
use std::{fs, io};
use tokio::time::Instant;

/// The end of a request that has none: a lane in strict order waits for it, and an answer after ten minutes is none.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// How often an idle connection asks whether the other side is still there: NAT tables of mobile networks forget
/// connections after a minute or two.
pub(super) const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Longest wait for a connection: three lost SYNs take 7 s (RFC 6298), a TLS handshake over a satellite 3 more.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(15);

/// Why there is no client: a start that fails, with the reason.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Mend the file or its path.
    #[error("cannot read {what} `{path}`: {source}")]
    File {
        /// Of the configuration.
        what: &'static str,
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Mend the configuration.
    #[error("{0}")]
    Setting(String),
}

/// A header whose value is asked for at each upload: a token in a file that changes.
#[derive(Clone)]
pub struct Shown {
    /// Its name.
    pub header: HeaderName,
    /// Its value now, or why there is none: the data waits then.
    pub value: Arc<dyn Fn() -> Result<Secret, String> + Send + Sync>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Shown {
    /// Puts it among `headers`.
    ///
    /// # Errors
    /// Why there is nothing to show.
    pub(super) fn put(&self, headers: &mut HeaderMap) -> Result<(), String> {
        let value = carried(&(self.value)()?)?;
        headers.insert(&self.header, value);
        Ok(())
    }
}

/// A section from which clients are made.
pub trait Recipe: Clone + Send + Sync + fmt::Debug + 'static {
    /// Its files.
    fn tls(&self) -> &TlsClient;
    /// The same, to write what they hold in their place.
    fn tls_mut(&mut self) -> &mut TlsClient;
    /// A client by this section.
    ///
    /// # Errors
    /// When a certificate cannot be read, or a setting cannot be meant.
    fn client(&self) -> Result<Arc<dyn Transport>, ClientError>;
}

/// Makes the client of each life of an uplink, from the certificates of that moment; from the last good ones when those
/// are gone or half written just then.
#[derive(Debug)]
pub struct Maker<R> {
    recipe: R,
    good: Mutex<Good<R>>,
}

#[derive(Debug)]
struct Good<R> {
    /// With the files' contents in it.
    recipe: R,
    read_at: Instant,
    /// What was told last, so that a file that stays bad is told once.
    told: Option<String>,
}

impl<R: Recipe> Maker<R> {
    /// Makes the first client, so that a bad certificate is a start that fails with its reason.
    ///
    /// # Errors
    /// As [`Recipe::client`].
    pub fn new(recipe: R) -> Result<Maker<R>, ClientError> {
        let read = with_files_read(&recipe)?;
        read.client()?;
        Ok(Maker { recipe, good: Mutex::new(Good { recipe: read, read_at: Instant::now(), told: None }) })
    }

    /// What sends during a new life.
    #[must_use]
    pub fn make(self: &Arc<Self>) -> Arc<dyn Transport> {
        Arc::new(Renewed { maker: self.clone(), current: Mutex::new(Current::of(self.fresh())) })
    }

    fn fresh(&self) -> Arc<dyn Transport> {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.read_at = Instant::now();
        match with_files_read(&self.recipe).and_then(|read| Ok((read.client()?, read))) {
            Ok((client, read)) => {
                (good.recipe, good.told) = (read, None);
                return client;
            }
            Err(error) => good.tell(&error),
        }
        match good.recipe.client() {
            Ok(client) => client,
            Err(error) => Arc::new(NoClient { why: error.to_string() }),
        }
    }

    /// A client by files that changed, when it is time to look.
    fn changed(&self) -> Option<Arc<dyn Transport>> {
        let every = Some(self.recipe.tls().common.reload_interval).filter(|every| !every.is_zero())?;
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.read_at.elapsed() < every {
            return None;
        }
        good.read_at = Instant::now();
        match with_files_read(&self.recipe) {
            Ok(read) if read.tls() == good.recipe.tls() => {
                good.told = None;
                None
            }
            read => match read.and_then(|read| Ok((read.client()?, read))) {
                Ok((client, read)) => {
                    tracing::info!("the client's certificates were read again");
                    (good.recipe, good.told) = (read, None);
                    Some(client)
                }
                Err(error) => {
                    good.tell(&error);
                    None
                }
            },
        }
    }
}

impl<R> Good<R> {
    fn tell(&mut self, error: &ClientError) {
        let told = error.to_string();
        if self.told.as_ref() != Some(&told) {
            tracing::error!(%error, "client cannot be made anew; it is made of what was read before");
            self.told = Some(told);
        }
    }
}

/// See the module.
#[derive(Debug)]
struct Renewed<R> {
    maker: Arc<Maker<R>>,
    current: Mutex<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    client: Arc<dyn Transport>,
    /// A request over it was not answered.
    silent: Arc<AtomicBool>,
}

impl Current {
    fn of(client: Arc<dyn Transport>) -> Current {
        Current { client, silent: Arc::default() }
    }
}

impl<R: Recipe> Transport for Renewed<R> {
    fn send(&self, parcel: Parcel) -> BoxFuture<'static, Verdict> {
        let now = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let silent = current.silent.load(Ordering::Relaxed);
            if let Some(client) = if silent { Some(self.maker.fresh()) } else { self.maker.changed() } {
                *current = Current::of(client);
            }
            current.clone()
        };
        async move {
            let verdict = now.client.send(parcel).await;
            if matches!(verdict, Verdict::Silence { trouble: Trouble::NoAnswer, .. }) {
                now.silent.store(true, Ordering::Relaxed);
            }
            verdict
        }
        .boxed()
    }
}

/// What sends where no client can be made: nothing, and says why. The data waits for a person.
#[derive(Debug)]
struct NoClient {
    why: String,
}

impl Transport for NoClient {
    fn send(&self, _: Parcel) -> BoxFuture<'static, Verdict> {
        std::future::ready(Verdict::Hold { why: self.why.clone() }).boxed()
    }
}

/// The same section with the contents of its certificate files written into it.
fn with_files_read<R: Recipe>(recipe: &R) -> Result<R, ClientError> {
    let mut read = recipe.clone();
    let common = &mut read.tls_mut().common;
    for (what, pem) in [("ca_file", &mut common.ca), ("cert_file", &mut common.cert), ("key_file", &mut common.key)] {
        if let Some(Pem::File(path)) = pem {
            let bytes = load(what, &Pem::File(path.clone()))?;
            // What is no UTF-8 is a remark beside the certificate.
            *pem = Some(Pem::Inline(Secret::new(&*String::from_utf8_lossy(&bytes))));
        }
    }
    Ok(read)
}

/// What it means that no answer came.
pub(super) fn silence(error: &reqwest::Error) -> Verdict {
    let why = reasons(error);
    if error.is_builder() || error.is_redirect() {
        return Verdict::Hold { why };
    }
    // What a proxy answers before there is a tunnel is an answer; hyper-util's type of it cannot be named.
    if why.contains("proxy authorization required") {
        return Verdict::Hold { why: format!("407 Proxy Authentication Required: {why}") };
    }
    let trouble = if error.is_connect() { Trouble::Unreachable } else { Trouble::NoAnswer };
    Verdict::Silence { trouble, why }
}

/// The chain of causes, without the outermost words, which name the URL and nothing else.
pub(super) fn reasons(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    if error.is_timeout() {
        texts.push("timed out".to_owned());
    }
    let mut cause = error.source();
    while let Some(this) = cause {
        let text = this.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        cause = this.source();
    }
    if texts.is_empty() { "no answer".to_owned() } else { texts.join(": ") }
}

/// The machine's architecture by Go's name for it, which far ends' dashboards know.
#[must_use]
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

pub(super) fn user_agent() -> String {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    format!("{name}/{version} ({}/{})", std::env::consts::OS, arch())
}

/// The operator's headers. `written`: a value as it goes over the wire.
pub(super) fn headers(
    given: &Headers,
    written: impl Fn(&HeaderName, &Secret) -> Secret,
) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let bad = |what: &str| ClientError::Setting(format!("header `{name}` has a {what} that HTTP cannot carry"));
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("name"))?;
        let mut value = HeaderValue::from_str(written(&header, value).reveal()).map_err(|_| bad("value"))?;
        value.set_sensitive(true); // HPACK shall not index it, Debug shall not show it
        headers.insert(header, value);
    }
    Ok(headers)
}

fn carried(value: &Secret) -> Result<HeaderValue, String> {
    let carried = HeaderValue::from_str(value.reveal());
    let mut carried = carried.map_err(|_| "the token to send has a byte that no header can carry".to_owned())?;
    carried.set_sensitive(true);
    Ok(carried)
}

pub(super) fn setting(what: &str, error: reqwest::Error) -> ClientError {
    let outer = error.without_url();
    let inner = outer.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    ClientError::Setting(format!("{what}: {outer}{inner}"))
}

/// ring is the process's one provider of cryptography: C only, and it compiles everywhere we go.
pub fn install_provider() {
    static ONCE: Once = Once::new();
    // An error says that one is installed already, which is all we want.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

pub(super) fn with_tls(
    mut builder: ClientBuilder,
    tls: &TlsClient,
    encrypted: bool,
) -> Result<ClientBuilder, ClientError> {
    if !encrypted {
        // The system's 140 roots are not loaded for nobody.
        return Ok(builder.tls_certs_only([]));
    }
    let common = &tls.common;
    if let Some(pem) = &common.ca {
        let roots = tls::Certificate::from_pem_bundle(&load("ca_file", pem)?).map_err(|e| setting("ca_file", e))?;
        if roots.is_empty() {
            return Err(ClientError::Setting("ca_file holds no certificate".to_owned()));
        }
        let beside = tls.include_system_ca_certs_pool;
        builder = if beside { builder.tls_certs_merge(roots) } else { builder.tls_certs_only(roots) };
    }
    if let (Some(cert), Some(key)) = (&common.cert, &common.key) {
        let mut both = load("key_file", key)?;
        both.push(b'\n');
        both.extend(load("cert_file", cert)?);
        builder = builder.identity(tls::Identity::from_pem(&both).map_err(|e| setting("cert_file", e))?);
    }
    let version = |v: TlsVersion| if v == TlsVersion::V13 { tls::Version::TLS_1_3 } else { tls::Version::TLS_1_2 };
    builder = builder.tls_version_min(version(common.min_version));
    if let Some(max) = common.max_version {
        builder = builder.tls_version_max(version(max));
    }
    Ok(builder.tls_danger_accept_invalid_certs(tls.insecure_skip_verify))
}

fn load(what: &'static str, pem: &Pem) -> Result<Vec<u8>, ClientError> {
    match pem {
        Pem::File(path) => {
            fs::read(path).map_err(|source| ClientError::File { what, path: path.display().to_string(), source })
        }
        Pem::Inline(text) => Ok(text.reveal().as_bytes().to_vec()),
    }
}

/// Asks for the addresses of a host.
pub(super) type Names = fn(Arc<str>, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// Asks the system.
pub(super) fn system_names(host: Arc<str>, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    async move { Ok(tokio::net::lookup_host((&*host, port)).await?.collect()) }.boxed()
}

/// Looks every name up under another. Names are looked up at each connection, never kept.
#[derive(Debug, Clone)]
pub(super) struct Elsewhere {
    /// A name or an address, and the port where the URL has none.
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    pub(super) names: Names,
    pub(super) turn: Option<Turn>,
}

/// Addresses are taken in turn: this one begins with the `n`-th.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) n: usize,
    /// How many addresses there were when they were last looked up.
    pub(super) known: Arc<AtomicUsize>,
}

impl Resolve for Elsewhere {
    fn resolve(&self, _: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let mut found = (this.names)(this.host.clone(), this.port).await?;
            if let Some(turn) = &this.turn
                && !found.is_empty()
            {
                // Name servers turn their answers themselves.
                found.sort_unstable();
                found.dedup();
                turn.known.store(found.len(), Ordering::Relaxed);
                let n = found.len();
                found.rotate_left(turn.n % n);
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
