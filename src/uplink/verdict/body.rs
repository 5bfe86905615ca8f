//! Reading the far end's bodies: `Export…ServiceResponse` and `google.rpc.Status`, in protobuf and JSON, from somebody
//! who may be nobody we know.

use super::HttpAnswer;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message as _;
use serde_json::Value;

/// What a success says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Success {
    pub(super) rejected: u64,
    pub(super) message: String,
}

/// All three `Export…ServiceResponse` have the same shape and numbers, so the one for logs reads them all.
pub(super) fn protobuf(body: &[u8]) -> Option<Success> {
    let partial = ExportLogsServiceResponse::decode(body).ok()?.partial_success.unwrap_or_default();
    // A negative count is nonsense; it rejects nothing.
    let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0);
    Some(Success { rejected, message: partial.error_message })
}

pub(super) fn json(body: &[u8]) -> Option<Success> {
    let Value::Object(response) = serde_json::from_slice(body).ok()? else { return None };
    let partial = response.get("partialSuccess").or_else(|| response.get("partial_success")).unwrap_or(&Value::Null);
    let rejected = REJECTED.iter().find_map(|name| partial.get(name)).map_or(0, count);
    let message = partial.get("errorMessage").or_else(|| partial.get("error_message")).and_then(Value::as_str);
    Some(Success { rejected, message: message.unwrap_or_default().to_owned() })
}

/// Does it begin as HTML or XML does? No protobuf of ours and no JSON begins with `<`.
pub(super) fn is_page(body: &[u8]) -> bool {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body); // a byte order mark
    text.trim_ascii_start().starts_with(b"<")
}

const REJECTED: [&str; 6] = [
    "rejectedSpans",
    "rejectedDataPoints",
    "rejectedLogRecords",
    "rejected_spans",
    "rejected_data_points",
    "rejected_log_records",
];

/// OTLP/JSON writes 64-bit numbers as texts and reads both.
fn count(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
}

/// `503 Service Unavailable: the queue is full`.
pub(super) fn describe(answer: &HttpAnswer) -> String {
    let reason = http::StatusCode::from_u16(answer.status).ok().and_then(|status| status.canonical_reason());
    let mut text = answer.status.to_string();
    if let Some(reason) = reason {
        text.push(' ');
        text.push_str(reason);
    }
    let said = match &answer.location {
        Some(location) => printable(&format!("to {location}")),
        None => printable(&message(answer)),
    };
    if !said.is_empty() {
        text.push_str(": ");
        text.push_str(&said);
    }
    text
}

/// What the body says: the message of a `google.rpc.Status`, else the body as text.
fn message(answer: &HttpAnswer) -> String {
    let kind = answer.content_type.as_deref().unwrap_or_default();
    if kind.contains("protobuf") {
        return status_message(&answer.body).unwrap_or_default();
    }
    if kind.contains("json")
        && let Ok(value) = serde_json::from_slice::<Value>(&answer.body)
        && let Some(message) = value.get("message").and_then(Value::as_str)
    {
        return message.to_owned();
    }
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// `google.rpc.Status { int32 code = 1; string message = 2; repeated Any details = 3; }`. Its text field 2 is where
/// `ExportLogsPartialSuccess` has one too, and its details are unknown to that type.
fn status_message(body: &[u8]) -> Option<String> {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;
    ExportLogsPartialSuccess::decode(body).ok().map(|status| status.error_message)
}

/// Longest message that goes into a log line or a dead letter.
const SAID_MAX: usize = 300;

/// One line without control characters: what a far end says goes to our log and to terminals.
pub(in crate::uplink) fn printable(text: &str) -> String {
    let mut out = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > SAID_MAX {
            let end = (0..=SAID_MAX).rev().find(|&i| out.is_char_boundary(i)).unwrap_or(0);
            out.truncate(end);
            out.push('…');
            break;
        }
    }
    out
}
