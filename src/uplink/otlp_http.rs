//! OTLP over HTTP: one client per exporter, on the exporter's own thread.
//!
//! ```text
//! Parcel ─▶ POST <endpoint>/v1/<signal>   protobuf or JSON, headers of the operator ─▶ status, headers, 64 KiB of body
//!                                                                                        └─▶ Verdict
//! ```
//!
//! What always holds:
//! * Every request ends: within `timeout`, or within [`TIMEOUT_MAX`] when the operator set none, counted from when
//!   `max_conns_per_host` lets it go.
//! * No data goes to an address the operator did not name: 301, 302 and 303 are answers like any other, and 307 and 308
//!   are followed to the same scheme, host and port only.
//! * No secret appears in an error or a log line.

use super::budget::{Counted, Meter, Wire, head_len};
use super::client::{
    CONNECT_MAX, ClientError, Elsewhere, Recipe, Shown, TCP_KEEPALIVE, TIMEOUT_MAX, headers, install_provider,
    leaving_from, may_show_another, setting, show, silence, system_names, user_agent, with_tls,
};
use super::config::{Format, OtlpHttpConfig};
use super::pack::{LEVEL, Stream};
use super::transport::{Parcel, Transport, UPLOAD_ID};
use super::verdict::{BODY_MAX, HttpAnswer, Verdict};
use crate::base::Clock;
use crate::config::{Secret, TlsClient};
use crate::otlp::{Signal, to_json_in_pieces};
use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt as _};
use reqwest::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url, redirect};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Tries of an upload: a second one, with another token, when the far end refuses the first.
const TRIES: u32 = 2;
/// What the client writes before and beside our headers: the first line, Host (whose name is counted apart), Content-Length,
/// Accept, User-Agent.
const OWN_HEAD: usize = 17 + 8 + 24 + 13 + 56;
/// `HTTP/1.1 200 OK` and two line ends.
const STATUS_LINE: usize = 19;
/// Most redirects of one request; a far end that sends us in circles is as good as silent.
const REDIRECTS_MAX: usize = 5;

/// The client of one exporter.
#[derive(Debug, Clone)]
pub struct OtlpHttp {
    client: Client,
    /// By signal; then `endpoint` itself, if it counts for any, for what is asked besides.
    urls: [Option<Url>; 4],
    /// `encoding: json`, and the level it is packed with.
    json: Option<i32>,
    headers: HeaderMap,
    shown: Option<Shown>,
    clock: Clock,
    /// `max_conns_per_host`: one place for each upload on the way.
    places: Option<Arc<Semaphore>>,
    meter: Meter,
}

impl OtlpHttp {
    /// A client as the operator wants it. `consumers`: uploads on the way at one time, so many connections are kept.
    ///
    /// # Errors
    /// When a certificate cannot be read, or a setting cannot be meant.
    pub fn new(config: &OtlpHttpConfig, consumers: u32, clock: Clock) -> Result<OtlpHttp, ClientError> {
        OtlpHttp::metered(config, consumers, clock, Meter::default())
    }

    /// The same, whose bytes on the wire are counted.
    ///
    /// # Errors
    /// As [`OtlpHttp::new`].
    pub fn metered(
        config: &OtlpHttpConfig,
        consumers: u32,
        clock: Clock,
        meter: Meter,
    ) -> Result<OtlpHttp, ClientError> {
        OtlpHttp::build(config, consumers, clock, meter, false)
    }

    /// One for [`OtlpHttp::switch`], which HTTP/2 does not know: it speaks HTTP/1.1.
    ///
    /// # Errors
    /// As [`OtlpHttp::new`].
    pub fn switching(config: &OtlpHttpConfig, clock: Clock) -> Result<OtlpHttp, ClientError> {
        OtlpHttp::build(config, 1, clock, Meter::default(), true)
    }

    fn build(
        config: &OtlpHttpConfig,
        consumers: u32,
        clock: Clock,
        meter: Meter,
        switches: bool,
    ) -> Result<OtlpHttp, ClientError> {
        install_provider();
        let own = [&config.traces_endpoint, &config.metrics_endpoint, &config.logs_endpoint];
        let base = config.endpoint.as_deref().filter(|_| own.into_iter().any(Option::is_none));
        let mut urls = [None, None, None, base.map(parse).transpose()?];
        for signal in Signal::ALL {
            urls[signal as usize - 1] = config.url(signal).map(|url| parse(&url)).transpose()?;
        }
        let mut headers = headers(&config.headers, |_, value| value.clone())?;
        let mut builder = Client::builder()
            .user_agent(user_agent())
            .http1_title_case_headers() // as Go writes them: X-Tenant-Id
            .redirect(redirect::Policy::custom(follow))
            .timeout(config.timeout.unwrap_or(TIMEOUT_MAX))
            .connect_timeout(config.timeout.unwrap_or(CONNECT_MAX).min(CONNECT_MAX))
            .tcp_keepalive(TCP_KEEPALIVE)
            .pool_idle_timeout(config.idle_conn_timeout)
            .pool_max_idle_per_host(idle_connections(config, consumers));
        if switches {
            builder = builder.http1_only();
        }
        if let Some(interval) = config.http2_read_idle_timeout {
            let ping = builder.http2_keep_alive_interval(interval);
            builder = ping.http2_keep_alive_timeout(config.http2_ping_timeout).http2_keep_alive_while_idle(true);
        }
        if let Some(proxy) = &config.proxy_url {
            builder = builder.proxy(reqwest::Proxy::all(proxy.as_str()).map_err(|e| setting("proxy_url", e))?);
        }
        // As Go's client: what is on this machine is reached without the proxy of the environment.
        if config.proxy_url.is_none() && urls.iter().flatten().all(is_here) {
            builder = builder.no_proxy();
        }
        if config.disable_keep_alives {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let encrypted = urls.iter().flatten().any(|url| url.scheme() == "https");
        let way = if encrypted { Wire::Tls } else { Wire::Plain };
        builder = builder.connector_layer(Counted { meter: meter.clone(), way });
        builder = with_tls(leaving_from(builder, &config.source)?, &config.tls, encrypted)?;
        if let (Some(name), true) = (&config.tls.server_name_override, encrypted) {
            (builder, headers) = with_name(builder, headers, name, &mut urls)?;
        }
        let client = builder.build().map_err(|e| setting("client", e))?;
        let json = (config.format == Format::Json).then_some(config.compression_level.unwrap_or(LEVEL));
        Ok(OtlpHttp { client, urls, json, headers, shown: None, clock, places: places(config), meter })
    }

    /// Posts something else than an upload, with the manners of one; the operator's headers win over these. `path` is put behind
    /// `endpoint`; without one `endpoint` is taken as it stands.
    ///
    /// The answer, or the verdict where there is none.
    pub fn ask(
        &self,
        path: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> BoxFuture<'static, Result<HttpAnswer, Verdict>> {
        let under = |base: &Url| match path {
            "" => Some(base.clone()),
            path => Url::parse(&format!("{}{path}", base.as_str().trim_end_matches('/'))).ok(),
        };
        let Some(url) = self.urls[3].as_ref().and_then(under) else {
            return std::future::ready(Err(Verdict::Hold { why: "no endpoint is configured".to_owned() })).boxed();
        };
        let this = self.clone();
        async move {
            this.with_ours(&mut headers).await?;
            let answer = this.exchange(None, url, headers, body).await;
            answer.map_err(|error| silence(&error))
        }
        .boxed()
    }

    /// Asks `endpoint` for another protocol on the connection; the operator's headers win over these. It ends as a request does.
    pub fn switch(&self, mut headers: HeaderMap) -> BoxFuture<'static, Result<Switched, Verdict>> {
        let Some(url) = self.urls[3].clone() else {
            return std::future::ready(Err(Verdict::Hold { why: "no endpoint is configured".to_owned() })).boxed();
        };
        let this = self.clone();
        async move {
            this.with_ours(&mut headers).await?;
            let asked = this.client.get(url).headers(headers).send().await;
            let response = asked.map_err(|error| silence(&error))?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Switched::No(read(response).await));
            }
            let head = response.headers().clone();
            let stream = response.upgrade().await.map_err(|error| silence(&error))?;
            Ok(Switched::Yes(head, stream))
        }
        .boxed()
    }

    /// One request and its answer, metered.
    async fn exchange(
        &self,
        signal: Option<Signal>,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<HttpAnswer, reqwest::Error> {
        let way = Wire::of(url.scheme());
        let names = url.path().len() + 2 * url.authority().len();
        let bytes = names + OWN_HEAD + head_len(&headers) + body.len();
        let request = self.meter.request(signal, way, bytes);
        let response = match self.client.post(url).headers(headers).body(body).send().await {
            Ok(response) => response,
            Err(error) => {
                if error.is_connect() {
                    request.forget();
                }
                return Err(error);
            }
        };
        let head = STATUS_LINE + head_len(response.headers());
        let answer = read(response).await;
        self.meter.message(signal, way, head + answer.body.len());
        Ok(answer)
    }

    /// The operator's headers win. What is shown of credentials.
    async fn with_ours(&self, headers: &mut HeaderMap) -> Result<Option<Secret>, Verdict> {
        headers.extend(self.headers.clone());
        show(self.shown.as_ref(), headers).await
    }

    /// With this header, which wins over one of the same name.
    #[must_use]
    pub fn showing(self, shown: Option<Shown>) -> OtlpHttp {
        OtlpHttp { shown, ..self }
    }
}

/// What is answered to [`OtlpHttp::switch`].
#[derive(Debug)]
pub enum Switched {
    /// With this head; what follows is the other protocol's.
    Yes(HeaderMap, reqwest::Upgraded),
    /// It goes on with HTTP.
    No(HttpAnswer),
}

/// What a client is made of.
#[derive(Debug, Clone)]
pub struct HttpRecipe {
    config: OtlpHttpConfig,
    consumers: u32,
    clock: Clock,
    shown: Option<Shown>,
    /// Of all clients that are made by it.
    places: Option<Arc<Semaphore>>,
    meter: Meter,
}

impl HttpRecipe {
    /// See [`OtlpHttp::new`].
    #[must_use]
    pub fn new(config: &OtlpHttpConfig, consumers: u32, clock: Clock, shown: Option<Shown>) -> HttpRecipe {
        HttpRecipe { config: config.clone(), consumers, clock, shown, places: places(config), meter: Meter::default() }
    }

    /// The same, whose clients' bytes are counted.
    #[must_use]
    pub fn metered(self, meter: Meter) -> HttpRecipe {
        HttpRecipe { meter, ..self }
    }
}

impl Recipe for HttpRecipe {
    fn tls(&self) -> &TlsClient {
        &self.config.tls
    }

    fn tls_mut(&mut self) -> &mut TlsClient {
        &mut self.config.tls
    }

    fn client(&self) -> Result<Arc<dyn Transport>, ClientError> {
        let client = OtlpHttp::metered(&self.config, self.consumers, self.clock.clone(), self.meter.clone())?;
        Ok(Arc::new(OtlpHttp { places: self.places.clone(), ..client.showing(self.shown.clone()) }))
    }
}

fn places(config: &OtlpHttpConfig) -> Option<Arc<Semaphore>> {
    config.max_conns_per_host.map(|most| Arc::new(Semaphore::new(most as usize)))
}

impl OtlpHttp {
    async fn post(
        &self,
        signal: Signal,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<HttpAnswer, reqwest::Error> {
        // Held until the answer is read. (Places are never closed.)
        let _place = match &self.places {
            Some(places) => places.acquire().await.ok(),
            None => None,
        };
        self.exchange(Some(signal), url, headers, body).await
    }
}

impl Transport for OtlpHttp {
    fn send(&self, parcel: Parcel) -> BoxFuture<'static, Verdict> {
        let Some(url) = self.urls[parcel.signal as usize - 1].clone() else {
            let why = format!("no endpoint is configured for {}", parcel.signal);
            return std::future::ready(Verdict::Hold { why }).boxed();
        };
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 3);
        let kind = if self.json.is_some() { "application/json" } else { "application/x-protobuf" };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(name) = parcel.body.encoding.name() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
        }
        if let Some(id) = parcel.id() {
            headers.insert(UPLOAD_ID, id);
        }
        let signal = parcel.signal;
        let body = match self.json.map(|level| in_json(&parcel, level)) {
            None => parcel.body.bytes,
            Some(Ok(body)) => body,
            Some(Err(verdict)) => return std::future::ready(verdict).boxed(),
        };
        let this = self.clone();
        async move {
            let mut tries = TRIES;
            loop {
                tries -= 1;
                let shown = match this.with_ours(&mut headers).await {
                    Ok(shown) => shown,
                    Err(verdict) => return verdict,
                };
                let answer = match this.post(signal, url.clone(), headers.clone(), body.clone()).await {
                    Ok(answer) => answer,
                    Err(error) => return silence(&error),
                };
                let again = answer.status == 401 && tries > 0;
                if !(again && may_show_another(this.shown.as_ref(), shown.as_ref())) {
                    return Verdict::of_http(&answer, this.clock.now().wall_ns);
                }
            }
        }
        .boxed()
    }
}

/// The upload in OTLP/JSON, packed as it was. In hand it stays protobuf: to halve, to park, and because a text is larger;
/// so it is written anew at each try. Neither the text nor what is packed of it lies in memory twice.
fn in_json(parcel: &Parcel, level: i32) -> Result<Bytes, Verdict> {
    let later = |e: std::io::Error| Verdict::Later { after: None, why: format!("cannot be written as JSON: {e}") };
    let raw = parcel.body.unpack();
    let mut packed = Stream::new(parcel.body.encoding, level).map_err(later)?;
    let mut written = Ok(());
    to_json_in_pieces(parcel.signal, &raw, |piece| {
        if written.is_ok() {
            written = packed.write(piece.as_bytes());
        }
    })
    .map_err(|e| Verdict::Split { too_large: false, why: format!("cannot be written as JSON: {e}") })?;
    written.and_then(|()| packed.finish()).map_err(later)
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

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let keeps_body = matches!(attempt.status().as_u16(), 307 | 308);
    let same = attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
    if keeps_body && same && attempt.previous().len() <= REDIRECTS_MAX { attempt.follow() } else { attempt.stop() }
}

fn idle_connections(config: &OtlpHttpConfig, consumers: u32) -> usize {
    if config.disable_keep_alives { 0 } else { config.max_idle_conns_per_host.max(consumers) as usize }
}

/// It leads to this machine.
fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn parse(url: &str) -> Result<Url, ClientError> {
    Url::parse(url).map_err(|e| ClientError::Setting(format!("endpoint `{url}` is not a URL: {e}")))
}

/// `server_name_override`: the name stands in the URL, so that it is asked for and checked; the address is looked up
/// under the host that stood there, which the Host header goes on naming.
fn with_name(
    builder: ClientBuilder,
    mut headers: HeaderMap,
    name: &str,
    urls: &mut [Option<Url>; 4],
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
    let elsewhere = Elsewhere { host: host.into(), port: 0, names: system_names, turn: None };
    Ok((builder.dns_resolver(Arc::new(elsewhere)), headers))
}
