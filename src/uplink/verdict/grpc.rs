//! What a gRPC answer means: its status if there is one, else what stands in its place.
//!
//! ```text
//! grpc-status ─▶ the table of codes       200 and no gRPC ─▶ Silence (a captive portal)
//! none, but a whole message ─▶ Accepted, oddly            another HTTP status ─▶ HTTP's table, but 400, 422 ─▶ Later
//! none, and it broke off ─▶ Silence       none, and it ended ─▶ Later
//! ```
//!
//! HTTP's 400 and 422 are no word of a gRPC server about the data, which would be a 200 with INVALID_ARGUMENT: a proxy on
//! the way does not like the request, and no half of it would please it better.

use super::{HttpAnswer, Verdict, body};
use crate::uplink::link::Trouble;
use crate::uplink::pack::{Encoding, inflate};
use bytes::Bytes;
use tonic::Status;

/// A gRPC answer, as much of it as matters.
#[derive(Debug, Clone, Default)]
pub struct GrpcAnswer {
    /// Its head, and the first [`BODY_MAX`](super::BODY_MAX) bytes of its body, frames of messages included.
    pub http: HttpAnswer,
    /// `grpc-encoding`.
    pub encoding: Option<String>,
    /// Bytes of its body, also those that were passed over.
    pub len: u64,
    /// `grpc-status` with what belongs to it, of the trailers or, without a body, of the head.
    pub status: Option<Status>,
    /// The body had no end: too long, or the connection broke, for this reason.
    pub broke: Option<String>,
}

/// The frame of a message: a flag, and its length.
const PREFIX: usize = 5;

impl GrpcAnswer {
    /// What it says, decompressed; `None` when it did not come whole or cannot be read.
    fn message(&self) -> Option<Bytes> {
        let (flag, len) = self.prefix()?;
        let message = self.http.body.get(PREFIX..PREFIX.checked_add(usize::try_from(len).ok()?)?)?;
        match (flag, self.encoding.as_deref().unwrap_or("identity")) {
            (0, _) => Some(self.http.body.slice_ref(message)),
            (1, name) => inflate(Encoding::named(name)?, message, super::BODY_MAX),
            _ => None,
        }
    }

    fn prefix(&self) -> Option<(u8, u32)> {
        let (flag, len) = self.http.body.get(..PREFIX)?.split_first()?;
        Some((*flag, u32::from_be_bytes(len.try_into().ok()?)))
    }

    /// A message came to its end, whether it was kept or not.
    fn is_whole(&self) -> bool {
        self.prefix().is_some_and(|(_, len)| self.len >= PREFIX as u64 + u64::from(len))
    }

    fn is_grpc(&self) -> bool {
        let kind = self.http.content_type.as_deref().unwrap_or_default().to_ascii_lowercase();
        kind.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
    }
}

impl Verdict {
    /// What a gRPC answer means.
    #[must_use]
    pub fn of_grpc_answer(answer: &GrpcAnswer, wall_ns: u64) -> Verdict {
        match &answer.status {
            Some(status) if status.code() == tonic::Code::Ok => took(answer, None),
            Some(status) => {
                let retry_info = crate::otlp::Status::decode(status.details()).ok().and_then(|said| said.retry_delay);
                Verdict::of_grpc(status.code(), status.message(), retry_info)
            }
            None if (200..300).contains(&answer.http.status) && answer.is_grpc() => without_status(answer),
            None => of_another(&answer.http, wall_ns),
        }
    }
}

/// A server writes its message after it has taken the request, and in an error there is none.
fn without_status(answer: &GrpcAnswer) -> Verdict {
    if answer.is_whole() {
        return took(answer, Some("the answer has no grpc-status"));
    }
    match &answer.broke {
        Some(why) => Verdict::Silence { trouble: Trouble::NoAnswer, why: body::printable(why) },
        None => Verdict::Later { after: None, why: "the answer has neither a message nor a grpc-status".to_owned() },
    }
}

fn took(answer: &GrpcAnswer, oddity: Option<&'static str>) -> Verdict {
    let nothing = body::Success::default();
    let (said, unread) = match answer.message().map(|message| body::protobuf(&message)) {
        Some(Some(said)) => (said, None),
        None if answer.len == 0 => (nothing, Some("the answer has no message")),
        Some(None) | None => (nothing, Some("the answer cannot be read")),
    };
    Verdict::Accepted { rejected: said.rejected, message: body::printable(&said.message), oddity: oddity.or(unread) }
}

/// Somebody who does not speak gRPC: a proxy, a portal, a server of something else.
fn of_another(http: &HttpAnswer, wall_ns: u64) -> Verdict {
    match http.status {
        200..=299 => Verdict::Silence { trouble: Trouble::Portal, why: body::describe(http) },
        400 | 422 => Verdict::Later { after: None, why: body::describe(http) },
        _ => Verdict::of_http(http, wall_ns),
    }
}

/// The verdict on a stream the far end reset, by the code of HTTP/2 it gave (gRPC over HTTP/2, "Errors"). It was answered
/// after all: what it says is about this request, and the connection lives.
#[must_use]
pub fn of_reset(reason: &str) -> Verdict {
    Verdict::Later { after: None, why: format!("the far end reset the request: {reason}") }
}
