//! OTLP over HTTP: one client per exporter, on the exporter's own thread.
//!
//! ```text
//! Parcel ─▶ POST <endpoint>/v1/<signal>   protobuf, gzip, headers of the operator ─▶ status, headers, 64 KiB of body
//!                                                                                        └─▶ Verdict
//! ```
//!
//! What always holds:
//! * Every request ends: within `timeout`, or within [`TIMEOUT_MAX`] when the operator set none, counted from when
//!   `max_conns_per_host` lets it go.
//! * No data goes to an address the operator did not name: 301, 302 and 303 are answers like any other, and 307 and 308
//!   are followed to the same scheme, host and port only.
//! * No secret appears in an error or a log line.

use super::config::OtlpHttpConfig;
use super::link::Trouble;
use super::pack::Encoding;
use super::transport::{Parcel, Transport, UPLOAD_ID};
use super::verdict::{BODY_MAX, HttpAnswer, Verdict};
use crate::base::Clock;
use crate::config::{Pem, Secret, TlsClient, TlsVersion};
use crate::otlp::Signal;
use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt as _};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, ClientBuilder, Response, Url, redirect, tls};
use std::error::Error as _;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;
use std::{fs, io};
use tokio::sync::Semaphore;

/// The end of a request that has none: a lane in strict order waits for it, and an answer after ten minutes is none.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Most redirects of one request; a far end that sends us in circles is as good as silent.
const REDIRECTS_MAX: usize = 5;
/// How often an idle connection asks whether the other side is still there: NAT tables of mobile networks forget
/// connections after a minute or two.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Longest wait for a connection: three lost SYNs take 7 s (RFC 6298), a TLS handshake over a satellite 3 more.
const CONNECT_MAX: Duration = Duration::from_secs(15);

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

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").field("header", &self.header).finish_non_exhaustive()
    }
}

/// The client of one exporter.
#[derive(Debug, Clone)]
pub struct OtlpHttp {
    client: Client,
    /// By signal.
    urls: [Option<Url>; 3],
    headers: HeaderMap,
    shown: Option<Shown>,
    clock: Clock,
    /// `max_conns_per_host`: one place for each upload on the way.
    places: Option<Arc<Semaphore>>,
}

impl OtlpHttp {
    /// A client as the operator wants it. `consumers`: uploads on the way at one time, so many connections are kept.
    ///
    /// # Errors
    /// When a certificate cannot be read, or a setting cannot be meant.
    pub fn new(config: &OtlpHttpConfig, consumers: u32, clock: Clock) -> Result<OtlpHttp, ClientError> {
        install_provider();
        let mut urls = [None, None, None];
        for signal in Signal::ALL {
            urls[signal as usize - 1] = config.url(signal).map(|url| parse(&url)).transpose()?;
        }
        let mut headers = headers(config)?;
        let mut builder = Client::builder()
            .user_agent(user_agent())
            .http1_title_case_headers() // as Go writes them: X-Tenant-Id
            .redirect(redirect::Policy::custom(follow))
            .timeout(config.timeout.unwrap_or(TIMEOUT_MAX))
            .connect_timeout(config.timeout.unwrap_or(CONNECT_MAX).min(CONNECT_MAX))
            .tcp_keepalive(TCP_KEEPALIVE)
            .pool_idle_timeout(config.idle_conn_timeout)
            .pool_max_idle_per_host(idle_connections(config, consumers));
        if let Some(interval) = config.http2_read_idle_timeout {
            let ping = builder.http2_keep_alive_interval(interval);
            builder = ping.http2_keep_alive_timeout(config.http2_ping_timeout).http2_keep_alive_while_idle(true);
        }
        if let Some(proxy) = &config.proxy_url {
            builder = builder.proxy(reqwest::Proxy::all(proxy.as_str()).map_err(|e| setting("proxy_url", e))?);
        }
        if config.disable_keep_alives {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let encrypted = urls.iter().flatten().any(|url| url.scheme() == "https");
        builder = with_tls(builder, &config.tls, encrypted)?;
        if let (Some(name), true) = (&config.tls.server_name_override, encrypted) {
            (builder, headers) = with_name(builder, headers, name, &mut urls)?;
        }
        let client = builder.build().map_err(|e| setting("client", e))?;
        let places = config.max_conns_per_host.map(|most| Arc::new(Semaphore::new(most as usize)));
        Ok(OtlpHttp { client, urls, headers, shown: None, clock, places })
    }

    /// With this header, which wins over one of the same name.
    #[must_use]
    pub fn showing(self, shown: Option<Shown>) -> OtlpHttp {
        OtlpHttp { shown, ..self }
    }
}

/// Makes the client of each life of an uplink, from the certificates of that moment; from the last good ones when those
/// are gone or half written just then.
#[derive(Debug)]
pub struct Maker {
    config: OtlpHttpConfig,
    consumers: u32,
    clock: Clock,
    shown: Option<Shown>,
    /// With the files' contents in it.
    last_good: Mutex<OtlpHttpConfig>,
}

impl Maker {
    /// Makes the first client, so that a bad certificate is a start that fails with its reason.
    ///
    /// # Errors
    /// As [`OtlpHttp::new`].
    pub fn new(
        config: &OtlpHttpConfig,
        consumers: u32,
        clock: Clock,
        shown: Option<Shown>,
    ) -> Result<Maker, ClientError> {
        let read = with_files_read(config)?;
        OtlpHttp::new(&read, consumers, clock.clone())?;
        Ok(Maker { config: config.clone(), consumers, clock, shown, last_good: Mutex::new(read) })
    }

    /// A client for a new life.
    #[must_use]
    pub fn make(&self) -> Arc<dyn Transport> {
        let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = with_files_read(&self.config)
            .and_then(|read| Ok((OtlpHttp::new(&read, self.consumers, self.clock.clone())?, read)));
        let error = match fresh {
            Ok((client, read)) => {
                *last_good = read;
                return Arc::new(client.showing(self.shown.clone()));
            }
            Err(error) => error,
        };
        tracing::error!(%error, "client cannot be made anew; it is made of what was read before");
        match OtlpHttp::new(&last_good, self.consumers, self.clock.clone()) {
            Ok(client) => Arc::new(client.showing(self.shown.clone())),
            Err(error) => Arc::new(NoClient { why: error.to_string() }),
        }
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
fn with_files_read(config: &OtlpHttpConfig) -> Result<OtlpHttpConfig, ClientError> {
    let mut read = config.clone();
    let common = &mut read.tls.common;
    for (what, pem) in [("ca_file", &mut common.ca), ("cert_file", &mut common.cert), ("key_file", &mut common.key)] {
        if let Some(Pem::File(path)) = pem {
            let bytes = load(what, &Pem::File(path.clone()))?;
            // What is no UTF-8 is a remark beside the certificate.
            *pem = Some(Pem::Inline(Secret::new(&*String::from_utf8_lossy(&bytes))));
        }
    }
    Ok(read)
}

impl Transport for OtlpHttp {
    fn send(&self, parcel: Parcel) -> BoxFuture<'static, Verdict> {
        let Some(url) = self.urls[parcel.signal as usize - 1].clone() else {
            let why = format!("no endpoint is configured for {}", parcel.signal);
            return std::future::ready(Verdict::Hold { why }).boxed();
        };
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 3);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if parcel.body.encoding == Encoding::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        // Made of a uuid and numbers; should it ever not be a header, the upload goes without.
        if let Ok(id) = HeaderValue::from_str(&parcel.upload_id) {
            headers.insert(UPLOAD_ID, id);
        }
        // The operator's headers win.
        headers.extend(self.headers.clone());
        if let Some(Shown { header, value }) = &self.shown {
            match value().and_then(|value| carried(&value)) {
                Ok(value) => drop(headers.insert(header, value)),
                Err(why) => return std::future::ready(Verdict::Hold { why }).boxed(),
            }
        }
        let request = self.client.post(url).headers(headers).body(parcel.body.bytes);
        let (clock, places) = (self.clock.clone(), self.places.clone());
        async move {
            // Held until the answer is read. (Places are never closed.)
            let _place = match &places {
                Some(places) => places.acquire().await.ok(),
                None => None,
            };
            match request.send().await {
                Ok(response) => Verdict::of_http(&read(response).await, clock.now().wall_ns),
                Err(error) => silence(&error),
            }
        }
        .boxed()
    }
}

/// As much of the answer as matters. What breaks off while it is read has a status all the same.
async fn read(mut response: Response) -> HttpAnswer {
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut answer = HttpAnswer {
        status: response.status().as_u16(),
        content_type: header("content-type"),
        retry_after: header("retry-after"),
        date: header("date"),
        location: header("location"),
        body: Bytes::new(),
        cut: false,
    };
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = BODY_MAX - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                answer.cut = chunk.len() > room;
            }
            Ok(None) => break,
            Err(_) => answer.cut = true,
        }
        if answer.cut {
            break;
        }
    }
    answer.body = body.freeze();
    answer
}

/// What it means that no answer came.
fn silence(error: &reqwest::Error) -> Verdict {
    let why = reasons(error);
    if error.is_builder() || error.is_redirect() {
        return Verdict::Hold { why };
    }
    let trouble = if error.is_connect() { Trouble::Unreachable } else { Trouble::NoAnswer };
    Verdict::Silence { trouble, why }
}

/// The chain of causes, without the outermost words, which name the URL and nothing else.
fn reasons(error: &reqwest::Error) -> String {
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

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let keeps_body = matches!(attempt.status().as_u16(), 307 | 308);
    let same = attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
    if keeps_body && same && attempt.previous().len() <= REDIRECTS_MAX { attempt.follow() } else { attempt.stop() }
}

fn idle_connections(config: &OtlpHttpConfig, consumers: u32) -> usize {
    if config.disable_keep_alives { 0 } else { config.max_idle_conns_per_host.max(consumers) as usize }
}

fn user_agent() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64", // Go's names, which far ends' dashboards know
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    };
    format!("{}/{} ({}/{arch})", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), std::env::consts::OS)
}

fn headers(config: &OtlpHttpConfig) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let bad = |what: &str| ClientError::Setting(format!("header `{name}` has a {what} that HTTP cannot carry"));
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("name"))?;
        let mut value = HeaderValue::from_str(value.reveal()).map_err(|_| bad("value"))?;
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

fn parse(url: &str) -> Result<Url, ClientError> {
    Url::parse(url).map_err(|e| ClientError::Setting(format!("endpoint `{url}` is not a URL: {e}")))
}

fn setting(what: &str, error: reqwest::Error) -> ClientError {
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

fn with_tls(mut builder: ClientBuilder, tls: &TlsClient, encrypted: bool) -> Result<ClientBuilder, ClientError> {
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

/// `server_name_override`: the name stands in the URL, so that it is asked for and checked; the address is looked up
/// under the host that stood there, which the Host header goes on naming.
fn with_name(
    builder: ClientBuilder,
    mut headers: HeaderMap,
    name: &str,
    urls: &mut [Option<Url>; 3],
) -> Result<(ClientBuilder, HeaderMap), ClientError> {
    let bad = || ClientError::Setting(format!("server_name_override: `{name}` is not a name"));
    let mut real: Option<(String, String)> = None;
    for url in urls.iter_mut().flatten() {
        let host = url.host_str().ok_or_else(bad)?.to_owned();
        if real.as_ref().is_some_and(|(known, _)| *known != host) {
            let two = "server_name_override serves one host, and the endpoints name two";
            return Err(ClientError::Setting(two.to_owned()));
        }
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        real = Some((host.clone(), host + &port));
        url.set_host(Some(name)).map_err(|_| bad())?;
    }
    let Some((host, authority)) = real else { return Ok((builder, headers)) };
    headers.entry(HOST).or_insert(HeaderValue::from_str(&authority).map_err(|_| bad())?);
    let host = host.trim_matches(['[', ']']); // an IPv6 address
    Ok((builder.dns_resolver(Arc::new(Elsewhere(host.into()))), headers))
}

/// Looks every name up under another.
#[derive(Debug)]
struct Elsewhere(Arc<str>);

impl Resolve for Elsewhere {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((&*host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
