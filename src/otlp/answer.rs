//! What is answered to an export request, in both encodings, and what a far end's answer says.
//!
//! | | protobuf | JSON |
//! |---|---|---|
//! | success | `0A 00`, as the collector writes it | `{"partialSuccess":{}}` |
//! | partial success | `Export…ServiceResponse` | `{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"…"}}` |
//! | refusal | `google.rpc.Status` | `{"code":3,"message":"…"}` |

use super::Signal;
use super::wire::{LEN, Pieces, Read, VARINT, put_bytes, put_key, put_varint, varint};
use serde_json::json;
use std::time::Duration;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`, and gRPC.
    Protobuf,
    /// `application/json`.
    Json,
}

/// A partial success: the rest of the request was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Partial {
    /// Items the far end threw away.
    pub rejected: u64,
    /// Why, or, with `rejected` 0, a warning.
    pub message: String,
}

/// `google.rpc.Status`: the body of a refusal, and gRPC's `grpc-status-details-bin`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// A code of gRPC, say 3 for INVALID_ARGUMENT.
    pub code: i32,
    /// For people.
    pub message: String,
    /// `google.rpc.RetryInfo`: when to come back.
    pub retry_delay: Option<Duration>,
}

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// The body that says all was taken.
#[must_use]
pub fn success(encoding: Encoding) -> &'static [u8] {
    match encoding {
        Encoding::Protobuf => &[0x0a, 0x00],
        Encoding::Json => br#"{"partialSuccess":{}}"#,
    }
}

impl Partial {
    /// The body of a response with this partial success.
    #[must_use]
    pub fn encode(&self, signal: Signal, encoding: Encoding) -> Vec<u8> {
        match encoding {
            Encoding::Protobuf => {
                let mut inner = Vec::new();
                if self.rejected != 0 {
                    put_key(&mut inner, 1, VARINT);
                    put_varint(&mut inner, self.rejected);
                }
                if !self.message.is_empty() {
                    put_bytes(&mut inner, 2, self.message.as_bytes());
                }
                let mut out = Vec::with_capacity(inner.len() + 4);
                put_bytes(&mut out, 1, &inner);
                out
            }
            Encoding::Json => {
                let mut partial = serde_json::Map::new();
                if self.rejected != 0 {
                    partial.insert(rejected_name(signal).to_owned(), self.rejected.to_string().into());
                }
                if !self.message.is_empty() {
                    partial.insert("errorMessage".to_owned(), self.message.clone().into());
                }
                json!({ "partialSuccess": partial }).to_string().into_bytes()
            }
        }
    }

    /// Reads a response; a success without reservation is the default value.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(response: &[u8]) -> Result<Partial, super::Malformed> {
        let mut partial = Partial::default();
        let mut pieces = Pieces::of(response, 0..response.len());
        while let Some(piece) = pieces.next()? {
            if piece.is(1) {
                let mut inner = Pieces::of(response, piece.value());
                while let Some(field) = inner.next()? {
                    if field.number == 1 && field.wire == VARINT {
                        // A negative count is nonsense; it counts as none.
                        let n = varint(response, field.body, field.end)?.0;
                        partial.rejected = if n > i64::MAX as u64 { 0 } else { n };
                    } else if field.is(2) {
                        partial.message = String::from_utf8_lossy(&response[field.value()]).into_owned();
                    }
                }
            }
        }
        Ok(partial)
    }
}

fn rejected_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
    }
}

impl Status {
    /// A refusal with a code and its reason.
    #[must_use]
    pub fn new(code: i32, message: impl Into<String>) -> Status {
        Status { code, message: message.into(), retry_delay: None }
    }

    /// The body. JSON carries no details, as the collector's.
    #[must_use]
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        match encoding {
            Encoding::Protobuf => self.protobuf(),
            Encoding::Json => format!(r#"{{"code":{},"message":{}}}"#, self.code, json!(self.message)).into_bytes(),
        }
    }

    fn protobuf(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.code != 0 {
            put_key(&mut out, 1, VARINT);
            #[allow(clippy::cast_sign_loss)] // protobuf writes an int32 as its two's complement of 64 bits
            put_varint(&mut out, i64::from(self.code) as u64);
        }
        if !self.message.is_empty() {
            put_bytes(&mut out, 2, self.message.as_bytes());
        }
        if let Some(delay) = self.retry_delay {
            let mut duration = Vec::new();
            for (number, value) in [(1, delay.as_secs()), (2, u64::from(delay.subsec_nanos()))] {
                if value != 0 {
                    put_key(&mut duration, number, VARINT);
                    put_varint(&mut duration, value);
                }
            }
            let mut info = Vec::new();
            put_bytes(&mut info, 1, &duration);
            let mut any = Vec::new();
            put_bytes(&mut any, 1, RETRY_INFO.as_bytes());
            put_bytes(&mut any, 2, &info);
            put_bytes(&mut out, 3, &any);
        }
        out
    }

    /// Reads a protobuf `google.rpc.Status`.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(body: &[u8]) -> Result<Status, super::Malformed> {
        let mut status = Status::default();
        let mut pieces = Pieces::of(body, 0..body.len());
        while let Some(piece) = pieces.next()? {
            match (piece.number, piece.wire) {
                #[allow(clippy::cast_possible_truncation)] // an int32, whatever was written
                (1, VARINT) => status.code = varint(body, piece.body, piece.end)?.0 as i32,
                (2, LEN) => status.message = String::from_utf8_lossy(&body[piece.value()]).into_owned(),
                (3, LEN) => {
                    if let Some(delay) = retry_delay(&body[piece.value()])? {
                        status.retry_delay = Some(delay);
                    }
                }
                _ => {}
            }
        }
        Ok(status)
    }
}

/// The delay of a `google.protobuf.Any` that is a `RetryInfo`; a negative one is none.
fn retry_delay(any: &[u8]) -> Read<Option<Duration>> {
    let (kind, value) = (last(any, 1)?, last(any, 2)?);
    if kind != RETRY_INFO.as_bytes() {
        return Ok(None);
    }
    let duration = last(value, 1)?;
    let (mut seconds, mut nanos) = (0, 0);
    let mut pieces = Pieces::of(duration, 0..duration.len());
    while let Some(piece) = pieces.next()? {
        match (piece.number, piece.wire) {
            (1, VARINT) => seconds = varint(duration, piece.body, piece.end)?.0,
            (2, VARINT) => nanos = varint(duration, piece.body, piece.end)?.0,
            _ => {}
        }
    }
    // google.protobuf.Duration: at most 315,576,000,000 s and 999,999,999 ns.
    let sane = seconds <= 315_576_000_000 && nanos <= 999_999_999;
    Ok(sane.then(|| Duration::from_secs(seconds) + Duration::from_nanos(nanos)))
}

/// The last length-delimited field of a number.
fn last(bytes: &[u8], number: u32) -> Read<&[u8]> {
    let mut found: &[u8] = &[];
    let mut pieces = Pieces::of(bytes, 0..bytes.len());
    while let Some(piece) = pieces.next()? {
        if piece.is(number) {
            found = &bytes[piece.value()];
        }
    }
    Ok(found)
}
