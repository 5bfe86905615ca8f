//! OTLP over HTTP, to the letter of reference §2.2 where that letter loses nothing: two encodings, three paths.
//!
//! | what | answer |
//! |---|---|
//! | kept | 200, an empty partial success in the request's encoding |
//! | not OTLP: undecodable, unknown content encoding | 400 and a `Status` |
//! | too large, compressed or not | 413 and a `Status`: no retry helps |
//! | full, busy, stopping | 503, `Retry-After` and a `Status` |
//! | this request made us fall | 500 and a `Status`: OTLP clients do not retry it |
//! | other path, method, media type | 404, 405, 415 as text |

use super::config::HttpConfig;
use crate::otlp::{Encoding as Form, Status, success};
use crate::otlp::{Signal, from_json};
use crate::processors::Refusal;
use crate::receivers::budget::{Charge, Crowded};
use crate::receivers::inflate::{Encoding, Uninflatable, inflate};
use crate::receivers::intake::Intake;
use crate::supervise::contain;
use crate::telemetry::ReceiverMetrics;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;

/// What a refused client is asked to wait: long enough for a segment to be made or a sync to end, short enough that
/// the queue of an SDK (2,048 items by default) does not overflow.
pub(super) const COME_BACK: Duration = Duration::from_secs(2);

/// gRPC's codes, as `Status` bodies carry them.
pub(super) const INVALID_ARGUMENT: i32 = 3;
pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
pub(super) const INTERNAL: i32 = 13;
pub(super) const UNAVAILABLE: i32 = 14;

/// One OTLP/HTTP endpoint.
#[derive(Debug)]
pub struct OtlpHttp {
    intake: Arc<Intake>,
    paths: [(String, Signal); 3],
    max_body: usize,
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
        OtlpHttp { intake, paths, max_body, metrics }
    }

    /// Answers one request.
    pub async fn answer(&self, request: &HttpRequest, body: web::Payload) -> HttpResponse {
        let served = self.paths.iter().find(|(path, signal)| path == request.path() && self.intake.serves(*signal));
        let Some((_, signal)) = served else {
            return text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n");
        };
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "405 method not allowed, supported: [POST]");
        }
        let Some(form) = form_of(request) else {
            let told = "415 unsupported media type, supported: [application/json, application/x-protobuf]";
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "text/plain", told);
        };
        match contain("http request", self.take(*signal, form, request, body)).await {
            Ok(Ok(())) => HttpResponse::Ok().content_type(media_type(form)).body(success(form)),
            Ok(Err(no)) => no.answer(form),
            Err(report) => No::Fell(report.to_string()).answer(form),
        }
    }

    async fn take(&self, signal: Signal, form: Form, request: &HttpRequest, body: web::Payload) -> Result<(), No> {
        let encoding = header(request, &CONTENT_ENCODING);
        let encoding =
            Encoding::parse(encoding).ok_or_else(|| No::Bad(format!("unsupported Content-Encoding: {encoding}")))?;
        let mut charge = self.intake.budget.open();
        let body = self.read(request, body, &mut charge).await?;
        let body = inflate(encoding, body, self.max_body, &mut charge)?;
        let body = match form {
            Form::Protobuf => body,
            Form::Json => {
                charge.grow(body.len())?;
                from_json(signal, &body).map_err(|e| No::Bad(e.to_string()))?.into()
            }
        };
        Ok(self.intake.take(signal, body, &|_| None, &self.metrics).await?)
    }

    /// Reads the body, charging each piece before it is kept.
    async fn read(&self, request: &HttpRequest, mut body: web::Payload, charge: &mut Charge) -> Result<Bytes, No> {
        let said: usize = header(request, &CONTENT_LENGTH).parse().unwrap_or(0);
        if said > self.max_body {
            return Err(No::TooLarge(self.max_body));
        }
        let mut whole: Option<BytesMut> = None;
        let mut first = Bytes::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|e| No::Bad(e.to_string()))?;
            charge.grow(piece.len())?;
            if first.is_empty() && whole.is_none() {
                first = piece; // most bodies come in few pieces, small ones in one
                continue;
            }
            let whole = whole.get_or_insert_with(|| {
                // Room for what was announced, but never more than has a chance to be let in.
                let mut all = BytesMut::with_capacity(said.clamp(first.len() + piece.len(), 4 << 20));
                all.extend_from_slice(&first);
                all
            });
            if whole.len() + piece.len() > self.max_body {
                return Err(No::TooLarge(self.max_body));
            }
            whole.extend_from_slice(&piece);
        }
        let body = whole.map_or(first, BytesMut::freeze);
        if body.len() > self.max_body { Err(No::TooLarge(self.max_body)) } else { Ok(body) }
    }
}

/// Why not, before it becomes an answer.
#[derive(Debug)]
enum No {
    Bad(String),
    TooLarge(usize),
    Later(String),
    Fell(String),
}

impl No {
    fn answer(self, form: Form) -> HttpResponse {
        let (http, code, message) = match self {
            No::Bad(why) => (StatusCode::BAD_REQUEST, INVALID_ARGUMENT, why),
            No::TooLarge(max) => {
                (StatusCode::PAYLOAD_TOO_LARGE, RESOURCE_EXHAUSTED, format!("request body is larger than {max} bytes"))
            }
            No::Later(why) => (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, why),
            No::Fell(why) => (StatusCode::INTERNAL_SERVER_ERROR, INTERNAL, why),
        };
        let mut answer = HttpResponse::build(http);
        answer.content_type(media_type(form));
        if http == StatusCode::SERVICE_UNAVAILABLE {
            answer.insert_header((RETRY_AFTER, COME_BACK.as_secs()));
        }
        answer.body(Status::new(code, message).encode(form))
    }
}

impl From<Crowded> for No {
    fn from(e: Crowded) -> No {
        No::Later(e.to_string())
    }
}

impl From<Uninflatable> for No {
    fn from(e: Uninflatable) -> No {
        match e {
            Uninflatable::Broken(why) => No::Bad(why),
            Uninflatable::TooLarge(max) => No::TooLarge(max),
            Uninflatable::Crowded(crowded) => crowded.into(),
        }
    }
}

impl From<Refusal> for No {
    fn from(e: Refusal) -> No {
        match e {
            Refusal::Later(why) => No::Later(why),
            Refusal::Never(why) => No::Bad(why),
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
