//! OTLP over gRPC: hyper's HTTP/2, tonic's status codes, our own reading of messages.
//!
//! A message stays bytes: it is charged as it arrives, inflated with a limit, and never decoded. tonic's own codec
//! would answer a message that is too large with OUT_OF_RANGE, which OTLP clients retry for ever.
//!
//! | what | answer |
//! |---|---|
//! | kept | OK and an empty partial success |
//! | not OTLP | INVALID_ARGUMENT |
//! | too large, compressed or not | RESOURCE_EXHAUSTED without `RetryInfo`: no retry helps |
//! | full, busy, stopping | UNAVAILABLE with `RetryInfo` |
//! | this request made us fall | INTERNAL: OTLP clients do not retry it |
//! | no byte of the message for `body_idle_timeout`, or not all of it in `body_timeout` | DEADLINE_EXCEEDED |
//! | no answer within the client's `grpc-timeout` | DEADLINE_EXCEEDED; what was whole by then may be kept all the same |
//! | a `grpc-timeout` that is none | INVALID_ARGUMENT |
//! | no credentials that are right | UNAUTHENTICATED |
//! | credentials that could not be checked now | UNAVAILABLE with `RetryInfo` |
//! | other service, method or message encoding | UNIMPLEMENTED |
//! | no gRPC at all | HTTP 405 or 415 |

use super::config::GrpcConfig;
use super::http::{RESERVE, reason};
use crate::batcher::budget::{Charge, Crowded};
use crate::otlp::{Caller, Signal};
use crate::otlp::{Encoding as Form, Status as Details, success};
use crate::processors::Refusal;
use crate::receivers::COME_BACK;
use crate::receivers::guard::{Admission, Guard, Told};
use crate::receivers::inflate::{Encoding, Uninflatable, inflate};
use crate::receivers::intake::Intake;
use crate::supervise::contain;
use crate::telemetry::ReceiverMetrics;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tower_service::Service;

/// What a client that asked for another encoding is told.
const ACCEPTED: &str = "identity,gzip,deflate,zstd,snappy";

/// One OTLP/gRPC endpoint: the service behind tonic's server.
#[derive(Debug, Clone)]
pub struct OtlpGrpc(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    intake: Arc<Intake>,
    max_message: usize,
    /// `limits.body_idle_timeout`.
    idle: Duration,
    /// `limits.body_timeout`.
    total: Duration,
    guard: Option<Guard>,
    /// `include_metadata`.
    tells_metadata: bool,
    metrics: ReceiverMetrics,
}

impl OtlpGrpc {
    /// Serves what the intake serves, to those the guard lets in.
    #[must_use]
    pub fn new(config: &GrpcConfig, guard: Option<Guard>, intake: Arc<Intake>, metrics: ReceiverMetrics) -> OtlpGrpc {
        let max_message = usize::try_from(config.max_recv_msg_size.0).unwrap_or(usize::MAX);
        let (idle, total) = (config.limits.common.body_idle_timeout, config.limits.common.body_timeout);
        let tells_metadata = config.include_metadata;
        OtlpGrpc(Arc::new(Inner { intake, max_message, idle, total, guard, tells_metadata, metrics }))
    }
}

impl Service<Request<Body>> for OtlpGrpc {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let endpoint = self.0.clone();
        Box::pin(async move {
            if let Some(status) = no_grpc(&request) {
                let mut refused = Response::new(Body::empty());
                *refused.status_mut() = status;
                return Ok(refused);
            }
            let within = match deadline(request.headers()) {
                Ok(within) => within,
                Err(status) => {
                    endpoint.metrics.request_refused(reason_of(&status));
                    return Ok(status.into_http());
                }
            };
            let answer = contain("grpc request", endpoint.answer(request));
            let answered = match within {
                None => answer.await,
                // What is offered by then is brought to its end and counted, whoever waits for it.
                Some(within) => match timeout(within, answer).await {
                    Ok(answered) => answered,
                    Err(_) => {
                        endpoint.metrics.request_refused(reason::OVERDUE);
                        return Ok(Status::deadline_exceeded("grpc-timeout is over; the data may be kept").into_http());
                    }
                },
            };
            let answered = answered.unwrap_or_else(|report| Err(Status::internal(report.to_string())));
            if let Err(status) = &answered {
                endpoint.metrics.request_refused(reason_of(status));
            }
            Ok(answered.unwrap_or_else(Status::into_http))
        })
    }
}

impl Inner {
    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let told = self.let_in(request.headers()).await?;
        let signal = signal_of(request.uri().path()).filter(|signal| self.intake.serves(*signal));
        let Some(signal) = signal else {
            return Err(Status::unimplemented(format!("unknown method {}", request.uri().path())));
        };
        let name = request.headers().get("grpc-encoding").and_then(|v| v.to_str().ok()).unwrap_or("identity");
        let encoding = match name {
            "identity" => Encoding::Identity,
            "gzip" => Encoding::Gzip,
            "deflate" => Encoding::Zlib,
            "zstd" => Encoding::Zstd,
            "snappy" => Encoding::Snappy,
            other => {
                let mut status =
                    Status::unimplemented(format!("grpc: Decompressor is not installed for grpc-encoding \"{other}\""));
                status.metadata_mut().insert("grpc-accept-encoding", MetadataValue::from_static(ACCEPTED));
                return Err(status);
            }
        };
        let mut charge = self.intake.budget.open();
        let caller = self.caller(&request, told);
        let message = self.read(request.into_body(), encoding, &mut charge).await?;
        charge.shrink_to(message.len());
        charge.grow(caller.as_ref().map_or(0, Caller::bytes)).map_err(crowded)?;
        let taken = self.intake.take(signal, message, charge, caller.map(Arc::new), &self.metrics);
        taken.await.map_err(refused)?;
        Ok(ok())
    }

    /// What is known of a client that may come in.
    async fn let_in(&self, headers: &HeaderMap) -> Result<Told, Status> {
        let Some(guard) = &self.guard else { return Ok(Told::new()) };
        let value = headers.get(&*guard.header).map(HeaderValue::as_bytes);
        match guard.admits(value).await {
            Admission::In(told) => Ok(told),
            Admission::Out => Err(Status::unauthenticated("the credentials are missing or not right")),
            Admission::Busy => Err(later("too many credentials are being checked".to_owned())),
        }
    }

    /// Who sends it, if somebody may ask.
    fn caller(&self, request: &Request<Body>, told: Told) -> Option<Caller> {
        if !self.tells_metadata && told.is_empty() {
            return None;
        }
        let mut caller = Caller::default();
        if self.tells_metadata {
            request.headers().iter().for_each(|(name, value)| caller.add(name.as_str(), value.as_bytes()));
            let authority = request.uri().authority().map(http::uri::Authority::as_str);
            authority.into_iter().for_each(|authority| caller.add(":authority", authority.as_bytes()));
        }
        told.into_iter().for_each(|(name, value)| caller.add_auth(name, value));
        Some(caller)
    }

    /// Reads the one message of a unary call.
    async fn read(&self, mut body: Body, encoding: Encoding, charge: &mut Charge) -> Result<Bytes, Status> {
        let mut all = BytesMut::new();
        let mut expected = None;
        let too_large = |n: usize| {
            let max = self.max_message;
            Status::resource_exhausted(format!("grpc: received message larger than max ({n} vs. {max})"))
        };
        let end = Instant::now() + self.total;
        loop {
            let until = end.min(Instant::now() + self.idle);
            let slow = |_| Status::deadline_exceeded("the message did not come in time");
            let Some(frame) = timeout_at(until, next_frame(&mut body)).await.map_err(slow)? else { break };
            let Ok(piece) = frame?.into_data() else { continue };
            charge.grow(piece.len()).map_err(crowded)?;
            all.extend_from_slice(&piece);
            if let (None, Some((prefix, _))) = (expected, all.split_first_chunk::<5>()) {
                let [flag, len @ ..] = *prefix;
                if flag > 1 {
                    return Err(Status::internal(format!("grpc: invalid compression flag {flag}")));
                }
                let len = u32::from_be_bytes(len) as usize;
                if len > self.max_message {
                    return Err(too_large(len));
                }
                all.reserve((len + 5).saturating_sub(all.len()).min(RESERVE)); // the rest grows with what was charged
                expected = Some(len);
            }
            if expected.is_some_and(|len| all.len() > len + 5) {
                return Err(Status::internal("more than one message in a unary call"));
            }
        }
        let Some(len) = expected.filter(|len| all.len() == len + 5) else {
            return Err(Status::internal(format!("the call ended inside a message, after {} bytes", all.len())));
        };
        debug_assert_eq!(all.len(), len + 5);
        let compressed = all[0] == 1;
        let message = all.freeze().slice(5..);
        match (compressed, encoding) {
            (false, _) => Ok(message),
            (true, Encoding::Identity) => Err(Status::internal("a compressed message without grpc-encoding")),
            (true, encoding) => inflate(encoding, message, self.max_message, charge).map_err(|e| match e {
                Uninflatable::Broken(why) => {
                    Status::invalid_argument(format!("grpc: failed to decompress the message: {why}"))
                }
                Uninflatable::TooLarge(_) => too_large(self.max_message + 1),
                Uninflatable::Crowded(e) => crowded(e),
            }),
        }
    }
}

async fn next_frame(body: &mut Body) -> Option<Result<Frame<Bytes>, Status>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// Not gRPC at all: what the HTTP status says then.
fn no_grpc(request: &Request<Body>) -> Option<http::StatusCode> {
    if request.method() != http::Method::POST {
        return Some(http::StatusCode::METHOD_NOT_ALLOWED);
    }
    let media = request.headers().get(http::header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let rest = media.strip_prefix(b"application/grpc");
    let is_grpc = rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')));
    (!is_grpc).then_some(http::StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

/// How long the client waits, by `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP2, "Timeout"). `None`: as
/// long as it takes.
///
/// grpc-go answers INTERNAL to what is neither; we keep that for faults of our own, and clients retry neither.
fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let parse = |value: &[u8]| {
        let (unit, digits) = value.split_last().filter(|(_, digits)| (1..=8).contains(&digits.len()))?;
        let number = digits.iter().try_fold(0_u64, |n, digit| Some(n * 10 + u64::from((*digit as char).to_digit(10)?)));
        Some(match unit {
            b'H' => Duration::from_secs(number? * 3_600),
            b'M' => Duration::from_secs(number? * 60),
            b'S' => Duration::from_secs(number?),
            b'm' => Duration::from_millis(number?),
            b'u' => Duration::from_micros(number?),
            b'n' => Duration::from_nanos(number?),
            _ => return None,
        })
    };
    let malformed = || {
        let value = String::from_utf8_lossy(value.as_bytes());
        Status::invalid_argument(format!("malformed grpc-timeout: `{value}`"))
    };
    parse(value.as_bytes()).map(Some).ok_or_else(malformed)
}

/// As `tfo_agent_requests_refused` counts it.
fn reason_of(status: &Status) -> &'static str {
    match status.code() {
        Code::ResourceExhausted => reason::TOO_LARGE,
        Code::DeadlineExceeded => reason::SLOW,
        Code::Unavailable if status.message().starts_with("too many bytes") => reason::CROWDED,
        Code::Unavailable => reason::LATER,
        Code::Internal => reason::FELL,
        Code::Unauthenticated => reason::UNKNOWN,
        _ => reason::INVALID,
    }
}

fn signal_of(path: &str) -> Option<Signal> {
    match path {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Some(Signal::Traces),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Some(Signal::Metrics),
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Some(Signal::Logs),
        _ => None,
    }
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Later(why) => later(why),
        Refusal::Never(why) => Status::invalid_argument(why),
        Refusal::TooLarge(why) => Status::resource_exhausted(why),
        Refusal::Fell(why) => Status::internal(why),
    }
}

fn crowded(e: Crowded) -> Status {
    later(e.to_string())
}

/// UNAVAILABLE with the time to come back after.
fn later(why: String) -> Status {
    let details = Details { code: Code::Unavailable as i32, message: why.clone(), retry_delay: Some(COME_BACK) };
    Status::with_details(Code::Unavailable, why, details.encode(Form::Protobuf).into())
}

fn ok() -> Response<Body> {
    let message = success(Form::Protobuf);
    let mut data = BytesMut::with_capacity(5 + message.len());
    data.extend_from_slice(&[0]);
    data.extend_from_slice(&u32::try_from(message.len()).expect("two bytes").to_be_bytes());
    data.extend_from_slice(message);
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let frames = [Ok::<_, Status>(Frame::data(data.freeze())), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn a_timeout_is_eight_digits_at_most_and_a_unit() {
        for (value, expected) in [
            ("2H",         Some(Duration::from_secs(7_200))),
            ("3M",         Some(Duration::from_secs(180))),
            ("5S",         Some(Duration::from_secs(5))),
            ("250m",       Some(Duration::from_millis(250))),
            ("7u",         Some(Duration::from_micros(7))),
            ("0n",         Some(Duration::ZERO)),
            ("99999999H",  Some(Duration::from_secs(99_999_999 * 3_600))), // 11,000 years
            ("100000000n", None),
            ("S",          None),
            ("",           None),
            ("5",          None),
            ("5s",         None),
            ("-5S",        None),
            ("+5S",        None),
            ("5 S",        None),
            ("1.5S",       None),
            ("5µ",         None),
        ] {
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), HeaderValue::from_bytes(value.as_bytes()).expect("a value"))]);
            let told = deadline(&headers).map_err(|status| (status.code(), status.message().to_owned()));
            let malformed = (Code::InvalidArgument, format!("malformed grpc-timeout: `{value}`"));
            assert_eq!(told, expected.map(Some).ok_or(malformed), "{value:?}");
        }
        assert!(deadline(&HeaderMap::new()).is_ok_and(|none| none.is_none()));
    }
}
