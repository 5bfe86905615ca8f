//! OTLP over gRPC: one HTTP/2 connection per exporter (and address), on the exporter's own thread.
//!
//! ```text
//! Parcel ─▶ POST /opentelemetry.proto.collector.<signal>.v1.…Service/Export    one message, as it was packed
//!                 metadata of the operator, grpc-timeout ─▶ head, 64 KiB of message, trailers ─▶ Verdict
//! ```
//!
//! A unary call is one request with a frame of five bytes before its body and trailers after its answer, so the HTTP
//! client that is here anyway makes it: with its proxies, its TLS and its connections. What is sent is never decoded.
//!
//! What always holds:
//! * Every request ends: within `timeout`, or within [`TIMEOUT_MAX`] when the operator set none.
//! * No data goes to an address the operator did not name: redirects are answers like any other.
//! * Names are looked up at every connection.
//! * A request that the far end says it has not looked at (GOAWAY without an error, REFUSED_STREAM) is sent again at
//!   once, once: a server that restarts politely is no trouble.

use super::budget::{Counted, Meter, Wire, head_len};
use super::client::{
    CONNECT_MAX, ClientError, Elsewhere, Names, Recipe, Shown, TCP_KEEPALIVE, TIMEOUT_MAX, Turn, headers,
    install_provider, leaving_from, may_show_another, setting, show, silence, system_names, user_agent, with_tls,
};
use super::config::{Balancer, OtlpGrpcConfig, Place};
use super::pack::{Body, Encoding};
use super::transport::{Parcel, Transport, UPLOAD_ID};
use super::verdict::grpc::{GrpcAnswer, of_reset};
use super::verdict::{BODY_MAX, HttpAnswer, Verdict};
use crate::base::Clock;
use crate::config::{Secret, TlsClient};
use crate::otlp::Signal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::BytesMut;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use reqwest::{Client, Url, redirect};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tonic::{Code, Status};

/// Most of an answer that is passed over to get at its trailers: 4 MiB, what gRPC's clients take.
const ANSWER_MAX: u64 = 4 << 20;
/// Most addresses that are used in turn, each with a connection.
const RING_MAX: usize = 8;
/// Uploads remembered for having been called out of range.
const OUT_OF_RANGE_MAX: usize = 32;
/// What HTTP/2 adds to a request: two frame heads of 9 bytes, the message's prefix, `:method` and the like, User-Agent;
const OWN_HEAD: usize = 18 + 5 + 20 + 56;
/// and to an answer: three frame heads and the trailers, most of them one byte each after the first.
const ANSWER_HEAD: usize = 27 + 5 + 20;
/// Tries of a request that the far end has not looked at, or whose token it refused.
const TRIES: u32 = 2;

/// The client of one exporter.
#[derive(Debug, Clone)]
pub struct OtlpGrpc(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: OtlpGrpcConfig,
    ring: Vec<OnceLock<Client>>,
    next: AtomicUsize,
    /// Addresses the name had when it was last looked up.
    known: Arc<AtomicUsize>,
    names: Names,
    /// By signal.
    urls: [Url; 3],
    headers: HeaderMap,
    shown: Option<Shown>,
    timeout: Duration,
    clock: Clock,
    /// Ids of uploads that were called out of range: tonic's servers mean their size by that.
    out_of_range: Mutex<VecDeque<String>>,
    meter: Meter,
}

impl OtlpGrpc {
    /// A client as the operator wants it, with a header that wins over one of the same name.
    ///
    /// # Errors
    /// When a certificate cannot be read, or a setting cannot be meant.
    pub fn new(config: &OtlpGrpcConfig, clock: Clock, shown: Option<Shown>) -> Result<OtlpGrpc, ClientError> {
        OtlpGrpc::asking(config, clock, shown, system_names, Meter::default())
    }

    pub(super) fn asking(
        config: &OtlpGrpcConfig,
        clock: Clock,
        shown: Option<Shown>,
        names: Names,
        meter: Meter,
    ) -> Result<OtlpGrpc, ClientError> {
        install_provider();
        let base = base(config)?;
        let url = |signal| base.join(path(signal)).map_err(|e| ClientError::Setting(format!("endpoint: {e}")));
        let urls = [url(Signal::Traces)?, url(Signal::Metrics)?, url(Signal::Logs)?];
        let places = if config.balancer == Balancer::RoundRobin { RING_MAX } else { 1 };
        let inner = Inner {
            ring: (0..places).map(|_| OnceLock::new()).collect(),
            next: AtomicUsize::new(0),
            known: Arc::new(AtomicUsize::new(1)),
            names,
            urls,
            headers: headers(&config.headers, written)?,
            shown,
            timeout: config.timeout.unwrap_or(TIMEOUT_MAX),
            clock,
            out_of_range: Mutex::default(),
            meter,
            config: config.clone(),
        };
        let first = inner.build(0)?;
        let _ = inner.ring[0].set(first); // it is new, so there is room
        Ok(OtlpGrpc(Arc::new(inner)))
    }
}

impl Inner {
    fn build(&self, n: usize) -> Result<Client, ClientError> {
        let config = &self.config;
        let mut builder = Client::builder()
            .user_agent(user_agent())
            .http2_prior_knowledge()
            .redirect(redirect::Policy::none())
            .timeout(self.timeout)
            .connect_timeout(self.timeout.min(CONNECT_MAX))
            .tcp_keepalive(TCP_KEEPALIVE)
            .connector_layer(Counted { meter: self.meter.clone(), way: self.way() })
            .pool_idle_timeout(None);
        if let Some(keepalive) = &config.keepalive {
            builder = builder
                .http2_keep_alive_interval(keepalive.time)
                .http2_keep_alive_timeout(keepalive.timeout)
                .http2_keep_alive_while_idle(keepalive.permit_without_stream);
        }
        builder = match &config.endpoint {
            Some(Place::Unix(path)) => builder.unix_socket(path.clone()).no_proxy(),
            Some(Place::Net { host, port }) => {
                let builder = match (&config.proxy_url, config.encrypted()) {
                    (Some(proxy), true) => {
                        builder.proxy(reqwest::Proxy::all(proxy.as_str()).map_err(|e| setting("proxy_url", e))?)
                    }
                    (None, true) => builder,
                    // A proxy makes a tunnel for TLS; it does not pass on HTTP/2 that is not encrypted.
                    (_, false) => builder.no_proxy(),
                };
                let turn = (self.ring.len() > 1).then(|| Turn { n, known: self.known.clone() });
                builder.dns_resolver(Arc::new(Elsewhere {
                    host: host.as_str().into(),
                    port: *port,
                    names: self.names,
                    turn,
                }))
            }
            None => return Err(ClientError::Setting("endpoint is not given".to_owned())),
        };
        let builder = leaving_from(builder, &config.source)?;
        with_tls(builder, &config.tls, config.encrypted())?.build().map_err(|e| setting("client", e))
    }

    fn way(&self) -> Wire {
        if self.config.encrypted() { Wire::Tls } else { Wire::Plain }
    }

    /// The client whose turn it is.
    fn client(&self) -> &Client {
        let known = self.known.load(Ordering::Relaxed).clamp(1, self.ring.len());
        let n = self.next.fetch_add(1, Ordering::Relaxed) % known;
        let first = self.ring[0].get().expect("it was made with the rest");
        // What could be built once can be built again, but for files that changed; then the first does it all.
        self.ring[n].get_or_init(|| self.build(n).unwrap_or_else(|_| first.clone()))
    }

    /// With what is shown in it.
    async fn request(&self, parcel: &Parcel) -> Result<(HeaderMap, Option<Secret>), Verdict> {
        let mut headers = self.headers.clone();
        let shown = show(self.shown.as_ref(), &mut headers).await?;
        // gRPC's own names are not the operator's.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip"));
        if let Some(name) = parcel.body.encoding.name() {
            headers.insert("grpc-encoding", HeaderValue::from_static(name));
        }
        if self.config.timeout.is_some()
            && let Ok(timeout) = HeaderValue::from_str(&within(self.timeout))
        {
            headers.insert("grpc-timeout", timeout);
        }
        if let Some(id) = parcel.id() {
            headers.insert(UPLOAD_ID, id);
        }
        Ok((headers, shown))
    }

    async fn converse(&self, parcel: &Parcel) -> Verdict {
        let url = &self.urls[parcel.signal as usize - 1];
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let (headers, shown) = match self.request(parcel).await {
                Ok(request) => request,
                Err(verdict) => return verdict,
            };
            let bytes = OWN_HEAD + url.as_str().len() + head_len(&headers) + parcel.body.bytes.len();
            let request = self.client().post(url.clone()).headers(headers).body(framed(&parcel.body));
            let sent = request.send().await;
            if sent.as_ref().map_or_else(|error| !error.is_connect(), |_| true) {
                self.meter.message(Some(parcel.signal), self.way(), bytes);
            }
            let error = match sent {
                Ok(response) => match self.read(parcel.signal, response).await {
                    Ok(answer)
                        if tries > 0
                            && is_unauthenticated(&answer)
                            && may_show_another(self.shown.as_ref(), shown.as_ref()) =>
                    {
                        continue;
                    }
                    Ok(answer) => {
                        let verdict = Verdict::of_grpc_answer(&answer, self.clock.now().wall_ns);
                        return self.weigh(verdict, &parcel.upload_id, answer.status.as_ref().map(Status::code));
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match trouble(&error) {
                Unanswered::NotLookedAt(_) if tries > 0 => {}
                Unanswered::NotLookedAt(reason) | Unanswered::Reset(reason) => return of_reset(&reason),
                Unanswered::Silence => return silence(&error),
            }
        }
    }

    async fn read(&self, signal: Signal, response: reqwest::Response) -> Result<GrpcAnswer, reqwest::Error> {
        let head = ANSWER_HEAD + head_len(response.headers());
        let answer = read(response).await?;
        self.meter.message(
            Some(signal),
            self.way(),
            head.saturating_add(usize::try_from(answer.len).unwrap_or(usize::MAX)),
        );
        Ok(answer)
    }

    /// OUT_OF_RANGE once is about the moment, by the letter; again for the same upload it is about its size.
    fn weigh(&self, verdict: Verdict, upload_id: &str, code: Option<Code>) -> Verdict {
        if code != Some(Code::OutOfRange) {
            return verdict;
        }
        let mut known = self.out_of_range.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|id| id == upload_id) {
            return Verdict::Split { too_large: true, why: verdict.why().to_owned() };
        }
        if known.len() == OUT_OF_RANGE_MAX {
            known.pop_front();
        }
        known.push_back(upload_id.to_owned());
        verdict
    }
}

impl Transport for OtlpGrpc {
    fn send(&self, parcel: Parcel) -> BoxFuture<'static, Verdict> {
        let inner = self.0.clone();
        async move { inner.converse(&parcel).await }.boxed()
    }
}

/// What a client is made of.
#[derive(Debug, Clone)]
pub struct GrpcRecipe {
    /// `exporters.otlp`.
    pub config: OtlpGrpcConfig,
    /// Stamps.
    pub clock: Clock,
    /// See [`OtlpGrpc::new`].
    pub shown: Option<Shown>,
    /// Where its bytes on the wire are counted.
    pub meter: Meter,
}

impl Recipe for GrpcRecipe {
    fn tls(&self) -> &TlsClient {
        &self.config.tls
    }

    fn tls_mut(&mut self) -> &mut TlsClient {
        &mut self.config.tls
    }

    fn client(&self) -> Result<Arc<dyn Transport>, ClientError> {
        let (clock, shown) = (self.clock.clone(), self.shown.clone());
        Ok(Arc::new(OtlpGrpc::asking(&self.config, clock, shown, system_names, self.meter.clone())?))
    }
}

/// What the far end is asked for: the name it is to show stands in the URL, the address is looked up elsewhere. A URL
/// without a port leaves the port to the resolver, and is what stands in `:authority`.
fn base(config: &OtlpGrpcConfig) -> Result<Url, ClientError> {
    let scheme = if config.encrypted() { "https" } else { "http" };
    let named = config.tls.server_name_override.as_ref().filter(|_| config.encrypted()).or(config.authority.as_ref());
    let authority = match (named, &config.endpoint) {
        (Some(name), _) => name.clone(),
        (None, Some(place @ Place::Net { .. })) => place.to_string(),
        (None, Some(Place::Unix(_)) | None) => "localhost".to_owned(),
    };
    Url::parse(&format!("{scheme}://{authority}/"))
        .map_err(|e| ClientError::Setting(format!("`{authority}` is not a host: {e}")))
}

fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// Metadata as it goes over the wire: bytes, which a name in `-bin` says, in base64.
fn written(name: &HeaderName, value: &Secret) -> Secret {
    match name.as_str().ends_with("-bin") {
        true => Secret::new(STANDARD_NO_PAD.encode(value.reveal())),
        false => value.clone(),
    }
}

/// `grpc-timeout`: at most eight digits and a unit.
fn within(timeout: Duration) -> String {
    let ms = timeout.as_millis();
    if ms < 100_000_000 { format!("{ms}m") } else { format!("{}S", timeout.as_secs().min(99_999_999)) }
}

/// One message with its frame before it, which costs no copy.
fn framed(body: &Body) -> reqwest::Body {
    let mut prefix = BytesMut::with_capacity(5);
    prefix.extend_from_slice(&[u8::from(body.encoding != Encoding::Identity)]);
    let len = u32::try_from(body.bytes.len()).expect("no upload reaches 4 GiB (otlp::REQUEST_MAX)");
    prefix.extend_from_slice(&len.to_be_bytes());
    let frames = [prefix.freeze(), body.bytes.clone()].map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    reqwest::Body::wrap(StreamBody::new(stream::iter(frames)))
}

/// As much of the answer as matters.
async fn read(response: reqwest::Response) -> Result<GrpcAnswer, reqwest::Error> {
    let (head, mut body) = http::Response::<reqwest::Body>::from(response).into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut answer = GrpcAnswer {
        http: HttpAnswer {
            status: head.status.as_u16(),
            content_type: header("content-type"),
            retry_after: header("retry-after"),
            date: header("date"),
            location: header("location"),
            ..HttpAnswer::default()
        },
        encoding: header("grpc-encoding"),
        status: Status::from_header_map(&head.headers),
        ..GrpcAnswer::default()
    };
    let mut kept = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                let room = (BODY_MAX - kept.len()).min(data.len());
                kept.extend_from_slice(&data[..room]);
                answer.http.cut |= room < data.len();
                answer.len += data.len() as u64;
            }
            Ok(Err(frame)) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                answer.status = Status::from_header_map(&trailers).or(answer.status);
            }
            // What came before says more than how it ended.
            Err(error) if !kept.is_empty() || answer.status.is_some() || answer.http.status != 200 => {
                answer.broke = Some(super::client::reasons(&error));
            }
            Err(error) => return Err(error),
        }
        if answer.broke.is_some() || answer.len > ANSWER_MAX {
            answer.http.cut = true;
            answer.broke.get_or_insert_with(|| "the answer is longer than 4 MiB".to_owned());
            break;
        }
    }
    answer.http.body = kept.freeze();
    Ok(answer)
}

fn is_unauthenticated(answer: &GrpcAnswer) -> bool {
    match &answer.status {
        Some(status) => status.code() == Code::Unauthenticated,
        None => answer.http.status == 401, // a proxy's
    }
}

/// What kind of no answer it is.
enum Unanswered {
    /// This request was reset, for this reason; the connection lives.
    Reset(String),
    /// The same, and the far end says that it has not begun with it.
    NotLookedAt(String),
    /// There is no connection (any more).
    Silence,
}

fn trouble(error: &reqwest::Error) -> Unanswered {
    let mut cause = error.source();
    while let Some(this) = cause {
        if let Some(h2) = this.downcast_ref::<h2::Error>() {
            let reason = h2.reason().map(|reason| format!("{reason:?}")).unwrap_or_default();
            return match h2.reason() {
                Some(h2::Reason::REFUSED_STREAM) if h2.is_reset() => Unanswered::NotLookedAt(reason),
                Some(h2::Reason::NO_ERROR) if h2.is_go_away() && h2.is_remote() => Unanswered::NotLookedAt(reason),
                Some(_) if h2.is_reset() && h2.is_remote() => Unanswered::Reset(reason),
                _ => Unanswered::Silence,
            };
        }
        cause = this.source();
    }
    Unanswered::Silence
}
