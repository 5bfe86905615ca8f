//! What an answer means for the upload it answers.
//!
//! ```text
//! over HTTP (over gRPC: grpc.rs)
//! 2xx  empty, protobuf or JSON ─▶ Accepted      429 502 503 504  and other 5xx ─▶ Later
//!      a page ─▶ Silence (a captive portal)     400 413 422 ─▶ Split      401 403 404 … 3xx ─▶ Hold
//! ```
//!
//! The table is OTLP's (opentelemetry-proto, docs/specification.md, "Failures") with three departures, all towards
//! keeping data: what only a person can mend (`Hold`) waits for that person instead of being dropped; a 500, which many
//! backends answer while they restart, is tried again; and a refusal is not the end of a batch but the beginning of a
//! search for the guilty item.

mod body;
pub mod grpc;

pub(super) use body::printable;

use super::link::Trouble;
use bytes::Bytes;
use std::time::{Duration, UNIX_EPOCH};
use tonic::Code;

/// What is to become of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The far end has it.
    Accepted {
        /// Items it says it threw away (`partial_success`).
        rejected: u64,
        /// What it says about that, or a warning of its own.
        message: String,
        /// What is odd about the answer.
        oddity: Option<&'static str>,
    },
    /// It asks to come back.
    Later {
        /// Not before that.
        after: Option<Duration>,
        /// In words.
        why: String,
    },
    /// It refuses what is in the upload: too large, or an item of it is bad.
    Split {
        /// 413: it is the size.
        too_large: bool,
        /// In words.
        why: String,
    },
    /// It refuses us: credentials, address, method. The data waits for a person.
    Hold {
        /// In words.
        why: String,
    },
    /// It did not answer: nobody, or somebody else in its place.
    Silence {
        /// How.
        trouble: Trouble,
        /// In words.
        why: String,
    },
}

/// An HTTP answer, as much of it as matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Retry-After`.
    pub retry_after: Option<String>,
    /// `Date`: what time it is over there.
    pub date: Option<String>,
    /// `Location`, for the log.
    pub location: Option<String>,
    /// The first [`BODY_MAX`] bytes.
    pub body: Bytes,
    /// The body ended before its end: cut by us, or the connection broke.
    pub cut: bool,
}

/// Most of an answer that is read: 64 KiB, as the original does (reference §2.10).
pub const BODY_MAX: usize = 64 << 10;

/// Longest rest an answer can ask for: an hour. A mistaken far end must not silence a gateway for a year, and one that
/// is down for longer asks again.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

impl Verdict {
    /// What an HTTP answer means. `wall_ns` is our wall clock, used only when the answer names a date and no `Date`.
    #[must_use]
    pub fn of_http(answer: &HttpAnswer, wall_ns: u64) -> Verdict {
        let why = || body::describe(answer);
        match answer.status {
            200..=299 => of_success(answer),
            400 | 413 | 422 => Verdict::Split { too_large: answer.status == 413, why: why() },
            // Network Authentication Required: the status made for captive portals (RFC 6585 §6).
            511 => Verdict::Silence { trouble: Trouble::Portal, why: why() },
            // 408 and 425 are about this moment, 423 about a lock; all other 5xx about the far end's health.
            408 | 423 | 425 | 429 | 500..=599 => Verdict::Later { after: retry_after(answer, wall_ns), why: why() },
            // 401 403 404 405 407 415, redirects we do not follow, and every 4xx nobody told us about.
            _ => Verdict::Hold { why: why() },
        }
    }

    /// In words, for logs and dead letters.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Verdict::Accepted { message, .. } => message,
            Verdict::Later { why, .. }
            | Verdict::Split { why, .. }
            | Verdict::Hold { why }
            | Verdict::Silence { why, .. } => why,
        }
    }

    /// The same, with the name of the endpoint it came from.
    #[must_use]
    pub fn at(self, endpoint: &str) -> Verdict {
        let named = |why: String| format!("{endpoint}: {why}");
        match self {
            taken @ Verdict::Accepted { .. } => taken,
            Verdict::Later { after, why } => Verdict::Later { after, why: named(why) },
            Verdict::Split { too_large, why } => Verdict::Split { too_large, why: named(why) },
            Verdict::Hold { why } => Verdict::Hold { why: named(why) },
            Verdict::Silence { trouble, why } => Verdict::Silence { trouble, why: named(why) },
        }
    }

    /// Of two endpoints that did not take an upload, or each a part of it: an answer counts before silence, the moment
    /// before the credentials, and both before the data, which may be as good as it is elsewhere.
    #[must_use]
    pub fn and(self, other: Verdict) -> Verdict {
        let rank = |verdict: &Verdict| match verdict {
            Verdict::Accepted { .. } => 0,
            Verdict::Silence { .. } => 1,
            Verdict::Split { .. } => 2,
            Verdict::Hold { .. } => 3,
            Verdict::Later { .. } => 4,
        };
        match (self, other) {
            (Verdict::Silence { trouble: a, why }, Verdict::Silence { trouble: b, why: more }) => {
                // Where a connection was made, what was sent may be to blame.
                let trouble = if b == Trouble::NoAnswer { b } else { a };
                Verdict::Silence { trouble, why: format!("{why}; {more}") }
            }
            (Verdict::Later { after: a, why }, Verdict::Later { after: b, why: more }) => {
                Verdict::Later { after: a.max(b), why: format!("{why}; {more}") }
            }
            (Verdict::Split { too_large: a, why }, Verdict::Split { too_large: b, why: more }) => {
                Verdict::Split { too_large: a || b, why: format!("{why}; {more}") }
            }
            (a, b) if rank(&a) >= rank(&b) => a,
            (_, b) => b,
        }
    }

    /// A refusal that may be about the endpoint and not about the upload: as if it had asked to come back.
    #[must_use]
    pub fn in_doubt(self) -> Verdict {
        match self {
            Verdict::Split { why, .. } => Verdict::Later { after: None, why },
            other => other,
        }
    }

    /// What a gRPC status means (opentelemetry-proto, docs/specification.md, "Failures", OTLP/gRPC).
    #[must_use]
    pub fn of_grpc(code: Code, message: &str, retry_info: Option<Duration>) -> Verdict {
        let why = body::printable(&format!("{code:?}: {message}"));
        let after = retry_info.map(|after| after.min(RETRY_AFTER_MAX));
        match code {
            Code::Ok => Verdict::Accepted { rejected: 0, message: String::new(), oddity: None },
            // Without RetryInfo it is not about the moment: too large, most likely.
            Code::ResourceExhausted if after.is_none() => Verdict::Split { too_large: true, why },
            Code::InvalidArgument => Verdict::Split { too_large: false, why },
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            // Not retryable by the letter; Unknown is what otelcol 0.88 answers when its queue is full.
            | Code::Unknown
            | Code::Internal => Verdict::Later { after, why },
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition => Verdict::Hold { why },
        }
    }
}

fn of_success(answer: &HttpAnswer) -> Verdict {
    let kind = answer.content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let read = match kind.to_ascii_lowercase().as_str() {
        _ if answer.body.is_empty() && !answer.cut => Some(body::Success::default()),
        "application/x-protobuf" | "application/protobuf" => body::protobuf(&answer.body),
        "application/json" => body::json(&answer.body),
        // No type: a page is told by how it begins, also one that is long or broke off.
        "" if body::is_page(&answer.body) => return portal(answer),
        // Else it is what it can be read as.
        "" => match body::protobuf(&answer.body).or_else(|| body::json(&answer.body)) {
            None if !answer.cut => return portal(answer),
            read => read,
        },
        _ => return portal(answer),
    };
    let accepted = |rejected, message, oddity| Verdict::Accepted { rejected, message, oddity };
    match read {
        // The status says it took the data; asking again would make duplicates of all of it.
        _ if answer.cut => accepted(0, String::new(), Some("the answer broke off")),
        None => accepted(0, String::new(), Some("the answer cannot be read")),
        Some(success) => accepted(success.rejected, body::printable(&success.message), None),
    }
}

fn portal(answer: &HttpAnswer) -> Verdict {
    Verdict::Silence { trouble: Trouble::Portal, why: body::describe(answer) }
}

/// `Retry-After` as a duration: whole seconds, or an HTTP date, measured against the far end's own `Date` because a
/// gateway without a battery may believe it is 1970.
pub(super) fn retry_after(answer: &HttpAnswer, wall_ns: u64) -> Option<Duration> {
    let value = answer.retry_after.as_deref()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let then = httpdate::parse_http_date(value).ok()?;
    let theirs = answer.date.as_deref().and_then(|date| httpdate::parse_http_date(date).ok());
    let now = theirs.unwrap_or(UNIX_EPOCH + Duration::from_nanos(wall_ns));
    Some(then.duration_since(now).unwrap_or_default().min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, content_type: &str, body: &[u8]) -> HttpAnswer {
        let content_type = (!content_type.is_empty()).then(|| content_type.to_owned());
        HttpAnswer { status, content_type, body: Bytes::copy_from_slice(body), ..HttpAnswer::default() }
    }

    fn short(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Accepted { oddity: None, .. } => "accepted",
            Verdict::Accepted { oddity: Some(_), .. } => "accepted, oddly",
            Verdict::Later { .. } => "later",
            Verdict::Split { .. } => "split",
            Verdict::Hold { .. } => "hold",
            Verdict::Silence { .. } => "silence",
        }
    }

    #[test]
    #[rustfmt::skip]
    fn of_two_verdicts_the_one_that_helps_counts() {
        let why = |text: &str| text.to_owned();
        let silence = |trouble, text| Verdict::Silence { trouble, why: why(text) };
        let later = |s: Option<u64>, text| Verdict::Later { after: s.map(Duration::from_secs), why: why(text) };
        let split = |too_large, text| Verdict::Split { too_large, why: why(text) };
        let hold = || Verdict::Hold { why: why("h") };
        let (away, mute) = (Trouble::Unreachable, Trouble::NoAnswer);
        for (a, b, both) in [
            (silence(away, "a"),   silence(mute, "b"),   silence(mute, "a; b")),
            (silence(mute, "a"),   silence(away, "b"),   silence(mute, "a; b")),
            (silence(away, "a"),   hold(),               hold()),
            (hold(),               later(None, "l"),     later(None, "l")),
            (later(Some(3), "a"),  later(None, "b"),     later(Some(3), "a; b")),
            (split(false, "a"),    split(true, "b"),     split(true, "a; b")),
            (split(false, "s"),    hold(),               hold()),
            (silence(away, "a"),   split(true, "s"),     split(true, "s")),
        ] {
            assert_eq!(a.clone().and(b.clone()), both, "{a:?} {b:?}");
            if short(&a) != short(&b) {
                assert_eq!(b.and(a), both);
            }
        }
        assert_eq!(silence(away, "w").at("c:1"), silence(away, "c:1: w"));
    }

    /// The table of the issue: every status there is, and what becomes of an upload.
    #[test]
    #[rustfmt::skip]
    fn an_http_status_decides_what_becomes_of_an_upload() {
        for (statuses, expected) in [
            (&[200, 201, 202, 204, 206, 299][..],                          "accepted"),
            (&[408, 423, 425, 429, 500, 501, 502, 503, 504, 505, 507, 520, 521, 522, 530, 599], "later"),
            (&[400, 413, 422],                                             "split"),
            (&[401, 402, 403, 404, 405, 406, 407, 409, 410, 411, 412, 414, 415, 416, 417, 418, 421, 424, 426, 428, 431, 451], "hold"),
            (&[300, 301, 302, 303, 304, 305, 307, 308],                    "hold"),
            (&[511],                                                       "silence"),
            (&[0, 100, 199, 600, 999],                                     "hold"), // no HTTP at all
        ] {
            for &status in statuses {
                assert_eq!(short(&Verdict::of_http(&answer(status, "", b""), 0)), expected, "{status}");
            }
        }
        // Every other there could be: nobody's data is thrown away over a number nobody told us about.
        let named = [400, 408, 413, 422, 423, 425, 429, 511];
        for status in (0..1_000).filter(|status| !named.contains(status)) {
            let expected = match status { 200..=299 => "accepted", 500..=599 => "later", _ => "hold" };
            assert_eq!(short(&Verdict::of_http(&answer(status, "", b""), 0)), expected, "{status}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_success_is_one_only_when_the_far_end_said_so() {
        let html = b"<!doctype html><title>Welcome</title>";
        for (content_type, body, expected) in [
            ("",                          &b""[..],                        "accepted"),
            ("text/html",                 b"",                             "accepted"),
            ("application/x-protobuf",    b"\x0a\x00",                     "accepted"),
            ("application/x-protobuf",    b"\x0a\x02\x08\x03",             "accepted"),
            ("Application/X-Protobuf; x", b"\x0a\x00",                     "accepted"),
            ("application/x-protobuf",    b"\xff\xff",                     "accepted, oddly"),
            ("application/x-protobuf",    html,                            "accepted, oddly"),
            ("application/json",          br#"{"partialSuccess":{}}"#,     "accepted"),
            ("application/json",          b"{}",                           "accepted"),
            ("application/json",          br#"{"ok":true}"#,               "accepted"),
            ("application/json",          b"[]",                           "accepted, oddly"),
            ("application/json",          b"thanks",                       "accepted, oddly"),
            ("text/html",                 html,                            "silence"),
            ("text/html; charset=utf-8",  html,                            "silence"),
            ("text/plain",                b"OK",                           "silence"),
            ("application/xml",           b"<x/>",                         "silence"),
            ("",                          html,                            "silence"),
            ("",                          b"\x0a\x00",                     "accepted"),
            ("",                          b"{}",                           "accepted"),
        ] {
            let verdict = Verdict::of_http(&answer(200, content_type, body), 0);
            assert_eq!(short(&verdict), expected, "{content_type:?} {body:?}");
        }
        // A status line that says yes and a connection that breaks: the data is there, a retry would double it.
        let huge = [b"\xef\xbb\xbf\r\n <html>".to_vec(), vec![b'x'; BODY_MAX]].concat();
        for (content_type, body, expected) in [
            ("",                 &b"\x0a"[..],             "accepted, oddly"),
            ("",                 b"",                      "accepted, oddly"),
            ("",                 b"{\"partialSucc",        "accepted, oddly"),
            ("application/json", b"<",                     "accepted, oddly"),
            ("text/html",        b"<",                     "silence"),
            ("",                 b"<",                     "silence"), // a page without a type that broke off
            ("",                 &huge,                    "silence"), // or is longer than we read
        ] {
            let cut = HttpAnswer { cut: true, ..answer(200, content_type, body) };
            assert_eq!(short(&Verdict::of_http(&cut, 0)), expected, "{content_type:?} {:?}", &body[..body.len().min(20)]);
        }
    }

    #[test]
    #[rustfmt::skip]
    fn rejected_items_are_counted_in_either_language() {
        for (content_type, body, rejected, message) in [
            ("application/x-protobuf", &b"\x0a\x07\x08\x03\x12\x03old"[..],                               3, "old"),
            ("application/x-protobuf", b"\x0a\x05\x12\x03slo",                                            0, "slo"),
            ("application/x-protobuf", b"\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",           0, ""), // −1
            ("application/json", br#"{"partialSuccess":{"rejectedLogRecords":"4","errorMessage":"old"}}"#, 4, "old"),
            ("application/json", br#"{"partialSuccess":{"rejectedSpans":5}}"#,                             5, ""),
            ("application/json", br#"{"partial_success":{"rejected_data_points":"6"}}"#,                   6, ""),
            ("application/json", br#"{"partialSuccess":null}"#,                                            0, ""),
            ("application/json", br#"{"partialSuccess":{"rejectedSpans":"many"}}"#,                        0, ""),
        ] {
            let verdict = Verdict::of_http(&answer(200, content_type, body), 0);
            let expected = Verdict::Accepted { rejected, message: message.into(), oddity: None };
            assert_eq!(verdict, expected, "{body:?}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn retry_after_is_seconds_or_a_date_and_never_more_than_an_hour() {
        let s = |n| Some(Duration::from_secs(n));
        let wall_ns = 784_111_777_000_000_000; // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, date, expected) in [
            (Some("7"),                             None,                                  s(7)),
            (Some(" 7 "),                           None,                                  s(7)),
            (Some("0"),                             None,                                  s(0)),
            (Some("31536000"),                      None,                                  s(3_600)),
            (Some("18446744073709551616"),          None,                                  None),
            (Some("soon"),                          None,                                  None),
            (Some("-3"),                            None,                                  None),
            (None,                                  None,                                  None),
            (Some("Sun, 06 Nov 1994 08:50:07 GMT"), None,                                  s(30)),
            (Some("Sun, 06 Nov 1994 08:49:00 GMT"), None,                                  s(0)),
            (Some("Mon, 23 Nov 2026 10:00:20 GMT"), Some("Mon, 23 Nov 2026 10:00:00 GMT"), s(20)), // we are in 1994
            (Some("Mon, 23 Nov 2026 10:00:20 GMT"), None,                                  s(3_600)),
        ] {
            for status in [429, 503] {
                let answer = HttpAnswer {
                    retry_after: value.map(str::to_owned),
                    date: date.map(str::to_owned),
                    ..answer(status, "", b"")
                };
                match Verdict::of_http(&answer, wall_ns) {
                    Verdict::Later { after, .. } => assert_eq!(after, expected, "{value:?} {date:?}"),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// opentelemetry-proto, docs/specification.md, the table of gRPC codes, with our departures: what a person must mend
    /// waits (`Hold`), and so does what a restarting backend answers (Unknown, Internal).
    #[test]
    #[rustfmt::skip]
    fn a_grpc_status_decides_what_becomes_of_an_upload() {
        let s7 = Some(Duration::from_secs(7));
        for (code, retry_info, expected) in [
            (Code::Ok,                 None, "accepted"),
            (Code::Cancelled,          None, "later"),
            (Code::Unknown,            None, "later"),
            (Code::InvalidArgument,    None, "split"),
            (Code::DeadlineExceeded,   None, "later"),
            (Code::NotFound,           None, "hold"),
            (Code::AlreadyExists,      None, "hold"),
            (Code::PermissionDenied,   None, "hold"),
            (Code::ResourceExhausted,  None, "split"), // too large, or one bad item: halve it
            (Code::ResourceExhausted,  s7,   "later"),
            (Code::FailedPrecondition, None, "hold"),
            (Code::Aborted,            None, "later"),
            (Code::OutOfRange,         None, "later"),
            (Code::Unimplemented,      None, "hold"),
            (Code::Internal,           None, "later"),
            (Code::Unavailable,        s7,   "later"),
            (Code::DataLoss,           None, "later"),
            (Code::Unauthenticated,    None, "hold"),
        ] {
            let verdict = Verdict::of_grpc(code, "x", retry_info);
            assert_eq!(short(&verdict), expected, "{code:?} with {retry_info:?}");
            if let Verdict::Later { after, .. } = verdict {
                assert_eq!(after, retry_info);
            }
        }
    }

    #[test]
    #[rustfmt::skip]
    fn the_reason_is_what_the_far_end_said_made_printable_and_short() {
        let long = "x".repeat(5_000);
        for (answer, expected) in [
            (answer(503, "application/x-protobuf", b"\x08\x0e\x12\x04full"),                "503 Service Unavailable: full".to_owned()),
            (answer(400, "application/json", br#"{"code":3,"message":"bad id"}"#),          "400 Bad Request: bad id".to_owned()),
            (answer(404, "text/plain", b"404 page not found\n"),                            "404 Not Found: 404 page not found".to_owned()),
            (answer(401, "", b""),                                                          "401 Unauthorized".to_owned()),
            (answer(500, "text/html", b"<html>\x1b[31m\r\n  evil"),                         "500 Internal Server Error: <html> [31m evil".to_owned()),
            (answer(500, "text/plain", long.as_bytes()),                                    format!("500 Internal Server Error: {}…", &long[..300])),
            (HttpAnswer { location: Some("https://login.example/".into()), ..answer(302, "", b"") }, "302 Found: to https://login.example/".to_owned()),
            (answer(599, "", b""),                                                          "599".to_owned()),
        ] {
            let why = match Verdict::of_http(&answer, 0) {
                Verdict::Later { why, .. } | Verdict::Split { why, .. } | Verdict::Hold { why } | Verdict::Silence { why, .. } => why,
                accepted @ Verdict::Accepted { .. } => panic!("{accepted:?}"),
            };
            assert_eq!(why, expected);
        }
    }
}
