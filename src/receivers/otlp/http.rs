//! OTLP over HTTP, to the letter of reference §2.2 where that letter loses nothing: two encodings, three paths.
//!
//! | what | answer |
//! |---|---|
//! | kept | 200, an empty partial success in the request's encoding |
//! | not OTLP: undecodable, unknown content encoding | 400 and a `Status` |
//! | too large, compressed or not | 413 and a `Status`: no retry helps |
//! | no byte of the body for `body_idle_timeout`, or not all of it in `body_timeout` | 408 and a `Status`; the connection is closed |
//! | full, busy, stopping | 503, `Retry-After` and a `Status` |
//! | this request made us fall | 500 and a `Status`: OTLP clients do not retry it |
//! | other path, method, media type | 404, 405, 415 as text |
//! | no credentials that are right | 401 as text, at the [doorstep](crate::receivers::doorstep) |
//! | credentials that could not be checked now | 503 and `Retry-After`, there too |
//! | a head that is too large | 431, there too |

use super::config::HttpConfig;
use crate::batcher::budget::{Charge, Crowded};
use crate::otlp::{BadJson, Caller, Signal, from_json_within};
use crate::otlp::{Encoding as Form, Status, success};
use crate::processors::Refusal;
use crate::receivers::COME_BACK;
use crate::receivers::guard::Told;
use crate::receivers::inflate::{Encoding, Uninflatable, inflate};
use crate::receivers::intake::Intake;
use crate::supervise::contain;
use crate::telemetry::ReceiverMetrics;
use actix_web::error::PayloadError;
use actix_web::http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// gRPC's codes, as `Status` bodies carry them.
pub(super) const INVALID_ARGUMENT: i32 = 3;
pub(super) const DEADLINE_EXCEEDED: i32 = 4;
pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
pub(super) const INTERNAL: i32 = 13;
pub(super) const UNAVAILABLE: i32 = 14;

/// Why requests were refused, as `tfo_agent_requests_refused` says it.
pub(super) mod reason {
    pub(crate) const INVALID: &str = "invalid";
    pub(crate) const TOO_LARGE: &str = "too_large";
    pub(crate) const SLOW: &str = "slow";
    pub(crate) const OVERDUE: &str = "overdue";
    pub(crate) const CROWDED: &str = "crowded";
    pub(crate) const LATER: &str = "unavailable";
    pub(crate) const FELL: &str = "fault";
    pub(crate) const UNKNOWN: &str = "unauthenticated";
}

/// One OTLP/HTTP endpoint.
#[derive(Debug)]
pub struct OtlpHttp {
    intake: Arc<Intake>,
    paths: [(String, Signal); 3],
    max_body: usize,
    patience: Patience,
    /// `include_metadata`.
    tells_metadata: bool,
    metrics: ReceiverMetrics,
}

impl OtlpHttp {
    /// Serves what the intake serves.
    #[must_use]
    pub fn new(config: &HttpConfig, intake: Arc<Intake>, metrics: ReceiverMetrics) -> OtlpHttp {
        let paths = [
            (config.traces_url_path.clone(), Signal::Traces),
            (config.metrics_url_path.clone(), Signal::Metrics),
            (config.logs_url_path.clone(), Signal::Logs),
        ];
        let max_body = usize::try_from(config.server.max_request_body_size.0).unwrap_or(usize::MAX);
        let limits = &config.server.limits;
        let patience = Patience { idle: limits.body_idle_timeout, total: limits.body_timeout };
        OtlpHttp { intake, paths, max_body, patience, tells_metadata: config.server.include_metadata, metrics }
    }

    /// Counts a request that was answered at the doorstep.
    pub fn stays_outside(&self, status: StatusCode) {
        match status {
            StatusCode::UNAUTHORIZED => self.metrics.request_refused(reason::UNKNOWN),
            StatusCode::SERVICE_UNAVAILABLE => self.metrics.request_refused(reason::LATER),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => self.metrics.request_refused(reason::TOO_LARGE),
            _ => {}
        }
    }

    /// Answers one request. `told`: what is known of its client.
    pub async fn answer(&self, request: &HttpRequest, body: web::Payload, told: Told) -> HttpResponse {
        let served = self.paths.iter().find(|(path, signal)| path == request.path() && self.intake.serves(*signal));
        let Some((_, signal)) = served else {
            let mut not_found = text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n");
            not_found.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            return not_found;
        };
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "405 method not allowed, supported: [POST]");
        }
        let Some(form) = form_of(request) else {
            let told = "415 unsupported media type, supported: [application/json, application/x-protobuf]";
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "text/plain", told);
        };
        let taken = contain("http request", self.take(*signal, form, request, body, told)).await;
        match taken.unwrap_or_else(|report| Err(No::Fell(report.to_string()))) {
            Ok(()) => HttpResponse::Ok().content_type(media_type(form)).body(success(form)),
            Err(no) => {
                self.metrics.request_refused(no.reason());
                no.answer(form)
            }
        }
    }

    async fn take(
        &self,
        signal: Signal,
        form: Form,
        request: &HttpRequest,
        body: web::Payload,
        told: Told,
    ) -> Result<(), No> {
        let encoding = request.headers().get(CONTENT_ENCODING).map_or(&[][..], HeaderValue::as_bytes);
        let encoding = String::from_utf8_lossy(encoding);
        let encoding =
            Encoding::parse(&encoding).ok_or_else(|| No::Bad(format!("unsupported Content-Encoding: {encoding}")))?;
        let mut charge = self.intake.budget.open();
        let said = header(request, &CONTENT_LENGTH).parse().unwrap_or(0);
        let body = read(body, said, self.max_body, self.patience, &mut charge).await?;
        let body = inflate(encoding, body, self.max_body, &mut charge)?;
        charge.shrink_to(body.len());
        let body = match form {
            Form::Protobuf => body,
            Form::Json => {
                charge.grow(body.len())?;
                let request = from_json_within(signal, &body, self.max_body)?;
                charge.grow(request.capacity().saturating_sub(body.len()))?;
                drop(body);
                charge.shrink_to(request.capacity());
                request.into()
            }
        };
        let caller = self.caller(request, told);
        charge.grow(caller.as_ref().map_or(0, Caller::bytes))?;
        Ok(self.intake.take(signal, body, charge, caller.map(Arc::new), &self.metrics).await?)
    }

    /// Who sends it, if somebody may ask.
    fn caller(&self, request: &HttpRequest, told: Told) -> Option<Caller> {
        if !self.tells_metadata && told.is_empty() {
            return None;
        }
        let mut caller = Caller::default();
        let headers = self.tells_metadata.then(|| request.headers().iter());
        headers.into_iter().flatten().for_each(|(name, value)| caller.add(name.as_str(), value.as_bytes()));
        told.into_iter().for_each(|(name, value)| caller.add_auth(name, value));
        Some(caller)
    }
}

/// How long a body may take.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// No byte for so long: the client is gone, or holds on to what others need.
    idle: Duration,
    /// The whole of it.
    total: Duration,
}

/// Memory is reserved in steps of this size while a body arrives, whatever its head promised.
pub(super) const RESERVE: usize = 64 << 10;

/// Reads a body, charging each piece before it is kept. `said`: its length as announced, 0 for unknown.
async fn read(
    mut body: impl Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    said: usize,
    max: usize,
    patience: Patience,
    charge: &mut Charge,
) -> Result<Bytes, No> {
    if said > max {
        return Err(No::too_large(max));
    }
    let end = Instant::now() + patience.total;
    let mut whole: Option<BytesMut> = None;
    let mut first = Bytes::new();
    loop {
        let until = end.min(Instant::now() + patience.idle);
        let Some(piece) = timeout_at(until, body.next()).await.map_err(|_| No::Slow)? else { break };
        let piece = piece.map_err(|e| No::Bad(e.to_string()))?;
        charge.grow(piece.len())?;
        if whole.as_ref().map_or(first.len(), BytesMut::len) + piece.len() > max {
            return Err(No::too_large(max));
        }
        if first.is_empty() && whole.is_none() {
            first = piece; // most bodies come in few pieces, small ones in one
            continue;
        }
        let whole = whole.get_or_insert_with(|| {
            let mut all = BytesMut::with_capacity(said.min(RESERVE).max(first.len() + piece.len()));
            all.extend_from_slice(&first);
            all
        });
        whole.extend_from_slice(&piece);
    }
    Ok(whole.map_or(first, BytesMut::freeze))
}

/// Why not, before it becomes an answer.
#[derive(Debug)]
enum No {
    Bad(String),
    TooLarge(String),
    /// The body did not come.
    Slow,
    Crowded(String),
    Later(String),
    Fell(String),
}

impl No {
    fn too_large(max: usize) -> No {
        No::TooLarge(format!("request body is larger than {max} bytes"))
    }

    /// As `tfo_agent_requests_refused` counts it.
    fn reason(&self) -> &'static str {
        match self {
            No::Bad(_) => reason::INVALID,
            No::TooLarge(_) => reason::TOO_LARGE,
            No::Slow => reason::SLOW,
            No::Crowded(_) => reason::CROWDED,
            No::Later(_) => reason::LATER,
            No::Fell(_) => reason::FELL,
        }
    }

    fn answer(self, form: Form) -> HttpResponse {
        let (http, code, message) = match self {
            No::Bad(why) => (StatusCode::BAD_REQUEST, INVALID_ARGUMENT, why),
            No::TooLarge(why) => (StatusCode::PAYLOAD_TOO_LARGE, RESOURCE_EXHAUSTED, why),
            No::Slow => (StatusCode::REQUEST_TIMEOUT, DEADLINE_EXCEEDED, "the body did not come in time".to_owned()),
            No::Crowded(why) | No::Later(why) => (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, why),
            No::Fell(why) => (StatusCode::INTERNAL_SERVER_ERROR, INTERNAL, why),
        };
        let mut answer = HttpResponse::build(http);
        answer.content_type(media_type(form));
        if http == StatusCode::SERVICE_UNAVAILABLE {
            answer.insert_header((RETRY_AFTER, COME_BACK.as_secs()));
        }
        if http == StatusCode::REQUEST_TIMEOUT {
            answer.force_close();
        }
        answer.body(Status::new(code, message).encode(form))
    }
}

impl From<Crowded> for No {
    fn from(e: Crowded) -> No {
        No::Crowded(e.to_string())
    }
}

impl From<BadJson> for No {
    fn from(e: BadJson) -> No {
        if e.is_too_large { No::TooLarge(e.to_string()) } else { No::Bad(e.to_string()) }
    }
}

impl From<Uninflatable> for No {
    fn from(e: Uninflatable) -> No {
        match e {
            Uninflatable::Broken(why) => No::Bad(why),
            Uninflatable::TooLarge(_) => No::TooLarge(e.to_string()),
            Uninflatable::Crowded(crowded) => crowded.into(),
        }
    }
}

impl From<Refusal> for No {
    fn from(e: Refusal) -> No {
        match e {
            Refusal::Later(why) => No::Later(why),
            Refusal::Never(why) => No::Bad(why),
            Refusal::TooLarge(why) => No::TooLarge(why),
            Refusal::Fell(why) => No::Fell(why),
        }
    }
}

fn form_of(request: &HttpRequest) -> Option<Form> {
    let media = header(request, &CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "application/x-protobuf" => Some(Form::Protobuf),
        "application/json" => Some(Form::Json),
        _ => None,
    }
}

fn media_type(form: Form) -> &'static str {
    match form {
        Form::Protobuf => "application/x-protobuf",
        Form::Json => "application/json",
    }
}

fn header<'a>(request: &'a HttpRequest, name: &actix_web::http::header::HeaderName) -> &'a str {
    request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn text(status: StatusCode, media: &'static str, body: &'static str) -> HttpResponse {
    HttpResponse::build(status).content_type(media).body(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Bytes as Size;
    use crate::batcher::budget::Budget;
    use futures_util::stream;

    const PATIENCE: Patience = Patience { idle: Duration::from_secs(30), total: Duration::from_secs(600) };

    fn pieces(all: &[&'static str]) -> Vec<Result<Bytes, PayloadError>> {
        all.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect()
    }

    /// Goal: a client that stops in mid-body holds a slot of the budget for 30 s and no longer; one that drips a byte
    /// now and then, for ten minutes.
    #[actix::test]
    async fn a_body_that_does_not_come_is_given_up() {
        tokio::time::pause();
        let budget = Budget::new(Size(1_000));
        let mut charge = budget.open();
        let begun = Instant::now();
        let silent = Box::pin(stream::iter(pieces(&["ab"])).chain(stream::pending()));
        assert!(matches!(read(silent, 10, 100, PATIENCE, &mut charge).await, Err(No::Slow)));
        assert_eq!(begun.elapsed().as_secs(), 30);
        let begun = Instant::now();
        let dripping = Box::pin(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Some((Ok(Bytes::from_static(b"x")), ()))
        }));
        assert!(matches!(read(dripping, 0, 100, PATIENCE, &mut charge).await, Err(No::Slow)));
        assert_eq!(begun.elapsed().as_secs(), 600);
        drop(charge);
        assert_eq!(budget.used(), 0);
    }

    #[actix::test]
    async fn a_body_is_read_up_to_its_limit_and_charged() {
        let budget = Budget::new(Size(1_000));
        for (all, max, expected) in [
            (&["abc"][..], 3, Some("abc")),
            (&["ab", "", "c", "d"], 4, Some("abcd")),
            (&["ab", "cd"], 3, None),
            (&["abcd"], 3, None),
            (&[], 3, Some("")),
        ] {
            let mut charge = budget.open();
            let body = read(stream::iter(pieces(all)), 0, max, PATIENCE, &mut charge).await;
            assert_eq!(body.ok().as_deref(), expected.map(str::as_bytes), "{all:?}");
        }
        let promise = read(stream::iter(pieces(&["a"])), 5, 4, PATIENCE, &mut budget.open()).await;
        assert!(matches!(promise, Err(No::TooLarge(_))), "what is announced too large is not waited for");
    }
}
