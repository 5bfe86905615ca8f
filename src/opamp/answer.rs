//! What a server's answer means.
//!
//! ```text
//! 200 with a message for us ─▶ Taken       an error in it: UNAVAILABLE ─▶ Later, else ─▶ Refused
//! 429 503 other 5xx ─▶ Later               401 403 407 ─▶ Held      other ─▶ Refused
//! nobody, a page ─▶ Silent
//! ```
//!
//! What always holds: nothing of an answer reaches a log or a file before it was measured and cleaned, for the server may be
//! anybody who answers at that address. What is offered is known by its kind, and not looked into here.

use super::messages::{ACCEPTS_EFFECTIVE_CONFIG, REPORT_FULL_STATE, ServerErrorResponse, ServerToAgent, UNAVAILABLE};
use super::uid::Uid;
use crate::registrar::answer::{MESSAGE_MAX, short};
use crate::uplink::link::Trouble;
use crate::uplink::verdict::{BODY_MAX, HttpAnswer, RETRY_AFTER_MAX, Verdict};
use bytes::Bytes;
use prost::Message as _;
use std::time::Duration;

/// What the server made of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It has it.
    Taken,
    /// It asks to come back.
    Later(Option<Duration>),
    /// It does not let us: a person must mend credentials or rights.
    Held,
    /// It refuses what we say, or there is nothing of the kind at that address: a person must mend it.
    Refused,
    /// It did not answer, or somebody else did in its place.
    Silent(Trouble),
}

impl Heard {
    /// As in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Heard::Taken => "taken",
            Heard::Later(_) => "later",
            Heard::Held => "held",
            Heard::Refused => "refused",
            Heard::Silent(_) => "silent",
        }
    }
}

/// Something a server offers. This agent takes none of it, but for a configuration where the operator says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offer {
    /// `remote_config`.
    RemoteConfig,
    /// `connection_settings`.
    ConnectionSettings,
    /// `packages_available`.
    Packages,
    /// `command`.
    Command,
    /// `custom_message`.
    CustomMessage,
}

impl Offer {
    /// As the protocol calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Offer::RemoteConfig => "remote_config",
            Offer::ConnectionSettings => "connection_settings",
            Offer::Packages => "packages_available",
            Offer::Command => "command",
            Offer::CustomMessage => "custom_message",
        }
    }
}

/// An answer, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it means.
    pub heard: Heard,
    /// It wants to know everything.
    pub wants_all: bool,
    /// It calls us so.
    pub renamed: Option<Uid>,
    /// Whether it has a use for the effective configuration; None: it does not say.
    pub takes_config: Option<bool>,
    /// What it offers.
    pub offers: Vec<Offer>,
    /// The configuration it offers, as it came.
    pub remote: Option<Bytes>,
    /// In words, for the log.
    pub why: String,
}

/// The media type of a message.
pub const PROTOBUF: &str = "application/x-protobuf";

impl Answer {
    /// One that says nothing else.
    #[must_use]
    pub fn of(heard: Heard, why: &str) -> Answer {
        let why = short(why, MESSAGE_MAX);
        Answer { heard, wants_all: false, renamed: None, takes_config: None, offers: Vec::new(), remote: None, why }
    }

    /// What an answer over HTTP means to `uid`, who asked.
    #[must_use]
    pub fn of_http(answer: &HttpAnswer, uid: Uid, wall_ns: u64) -> Answer {
        let kind = answer.content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match answer.status {
            200 if !(kind.is_empty() || kind.eq_ignore_ascii_case(PROTOBUF)) => {
                // A status alone can come from anybody who stands between.
                Answer::of(Heard::Silent(Trouble::Portal), &format!("200 with a body that is no message, but {kind}"))
            }
            200 if answer.cut && answer.body.len() >= BODY_MAX => Answer::of(Heard::Refused, "the answer is too long"),
            // The connection broke: the server may have the message or not, and nobody need mend anything.
            200 if answer.cut => Answer::of(Heard::Silent(Trouble::NoAnswer), "the answer broke off"),
            200 => Answer::of_message(&answer.body, uid),
            // Its words are read as those to an upload.
            status => match Verdict::of_http(answer, wall_ns) {
                verdict @ Verdict::Silence { trouble, .. } => Answer::of(Heard::Silent(trouble), verdict.why()),
                ref verdict @ Verdict::Later { after, .. } => Answer::of(Heard::Later(after), verdict.why()),
                verdict => {
                    let heard = if matches!(status, 401 | 403 | 407) { Heard::Held } else { Heard::Refused };
                    Answer::of(heard, verdict.why())
                }
            },
        }
    }

    /// What there is instead of an answer.
    #[must_use]
    pub fn of_verdict(verdict: &Verdict) -> Answer {
        let heard = match verdict {
            Verdict::Silence { trouble, .. } => Heard::Silent(*trouble),
            Verdict::Later { after, .. } => Heard::Later(*after),
            Verdict::Hold { .. } => Heard::Held,
            Verdict::Accepted { .. } | Verdict::Split { .. } => Heard::Refused,
        };
        Answer::of(heard, verdict.why())
    }

    /// What a message means to `uid`.
    #[must_use]
    pub fn of_message(bytes: &[u8], uid: Uid) -> Answer {
        let Ok(said) = ServerToAgent::decode(bytes) else {
            return Answer::of(Heard::Silent(Trouble::Portal), "the answer is no message of OpAMP");
        };
        if !said.instance_uid.is_empty() && said.instance_uid[..] != uid.bytes()[..] {
            return Answer::of(Heard::Refused, "the answer is for another agent");
        }
        let answer = match &said.error_response {
            Some(error) => of_error(error),
            None => Answer::of(Heard::Taken, ""),
        };
        let offers = [
            (said.remote_config.is_some(), Offer::RemoteConfig),
            (said.connection_settings.is_some(), Offer::ConnectionSettings),
            (said.packages_available.is_some(), Offer::Packages),
            (said.command.is_some(), Offer::Command),
            (said.custom_message.is_some(), Offer::CustomMessage),
        ];
        if answer.heard != Heard::Taken {
            return answer; // then nothing else is to be said, by the protocol
        }
        Answer {
            wants_all: said.flags & REPORT_FULL_STATE != 0,
            renamed: said.agent_identification.and_then(|named| Uid::of(&named.new_instance_uid)),
            takes_config: (said.capabilities != 0).then_some(said.capabilities & ACCEPTS_EFFECTIVE_CONFIG != 0),
            remote: said.remote_config,
            offers: offers.into_iter().filter(|(is_there, _)| *is_there).map(|(_, offer)| offer).collect(),
            ..answer
        }
    }
}

fn of_error(error: &ServerErrorResponse) -> Answer {
    let words = &error.error_message;
    match error.kind {
        UNAVAILABLE => {
            let after = error.retry_info.map(|info| Duration::from_nanos(info.retry_after_nanoseconds));
            Answer::of(Heard::Later(after.map(|after| after.min(RETRY_AFTER_MAX))), &format!("unavailable: {words}"))
        }
        1 => Answer::of(Heard::Refused, &format!("bad request: {words}")),
        _ => Answer::of(Heard::Refused, &format!("error: {words}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{AgentIdentification, RetryInfo};
    use super::*;

    fn us() -> Uid {
        Uid::of(&[7; 16]).expect("16 bytes")
    }

    fn http(status: u16, kind: &str, body: &[u8]) -> HttpAnswer {
        let content_type = (!kind.is_empty()).then(|| kind.to_owned());
        HttpAnswer { status, content_type, body: Bytes::copy_from_slice(body), ..HttpAnswer::default() }
    }

    fn heard(said: &ServerToAgent) -> Answer {
        Answer::of_http(&http(200, PROTOBUF, &said.encode_to_vec()), us(), 0)
    }

    /// The contract over HTTP, status by status (`docs/opamp.md`).
    #[test]
    #[rustfmt::skip]
    fn a_status_says_what_the_server_made_of_it() {
        let s7 = Some(Duration::from_secs(7));
        let portal = Heard::Silent(Trouble::Portal);
        for (status, kind, body, retry_after, expected) in [
            (200, PROTOBUF,                          &b""[..],          None,      Heard::Taken),
            (200, "Application/X-Protobuf; v=1",     b"",               None,      Heard::Taken),
            (200, "",                                b"",               None,      Heard::Taken),
            (200, "text/html",                       b"<!doctype html>", None,     portal), // a captive portal
            (200, "",                                b"<!doctype html>", None,     portal),
            (200, PROTOBUF,                          b"\x0a\xff",       None,      portal),
            (401, "",                                b"",               None,      Heard::Held),
            (403, "",                                b"",               None,      Heard::Held),
            (407, "",                                b"",               None,      Heard::Held),
            (404, "",                                b"",               None,      Heard::Refused),
            (405, "",                                b"",               None,      Heard::Refused),
            (400, "",                                b"",               None,      Heard::Refused),
            (413, "",                                b"",               None,      Heard::Refused),
            (202, PROTOBUF,                          b"",               None,      Heard::Refused),
            (302, "",                                b"",               None,      Heard::Refused),
            (429, "",                                b"",               Some("7"), Heard::Later(s7)),
            (503, "",                                b"",               Some("7"), Heard::Later(s7)),
            (500, "",                                b"",               None,      Heard::Later(None)),
            (511, "",                                b"",               None,      portal),
        ] {
            let answer = HttpAnswer { retry_after: retry_after.map(str::to_owned), ..http(status, kind, body) };
            assert_eq!(Answer::of_http(&answer, us(), 0).heard, expected, "{status} {kind} {body:?}");
        }
        let cut = |len: usize| HttpAnswer { cut: true, ..http(200, PROTOBUF, &vec![0; len]) };
        assert_eq!(Answer::of_http(&cut(BODY_MAX), us(), 0).heard, Heard::Refused);
        for len in [0, 7, BODY_MAX - 1] {
            assert_eq!(Answer::of_http(&cut(len), us(), 0).heard, Heard::Silent(Trouble::NoAnswer), "{len}");
        }
    }

    #[test]
    fn a_message_may_want_everything_give_a_name_and_offer_what_nobody_takes() {
        let answer = heard(&ServerToAgent {
            instance_uid: Bytes::from_static(&[7; 16]),
            flags: REPORT_FULL_STATE | 0x8000,
            capabilities: 0x7,
            agent_identification: Some(AgentIdentification { new_instance_uid: Bytes::from_static(&[8; 16]) }),
            remote_config: Some(Bytes::from_static(b"\xff\xff\xff")),
            command: Some(Bytes::new()),
            ..ServerToAgent::default()
        });
        let wanted = Answer {
            wants_all: true,
            renamed: Uid::of(&[8; 16]),
            takes_config: Some(true),
            offers: vec![Offer::RemoteConfig, Offer::Command],
            remote: Some(Bytes::from_static(b"\xff\xff\xff")),
            ..Answer::of(Heard::Taken, "")
        };
        assert_eq!(answer, wanted);
        assert_eq!(heard(&ServerToAgent { capabilities: 0x1, ..ServerToAgent::default() }).takes_config, Some(false));
        for short in [&b""[..], &[8; 15], &[8; 17], &[0; 16]] {
            let named = AgentIdentification { new_instance_uid: Bytes::copy_from_slice(short) };
            let said = ServerToAgent { agent_identification: Some(named), ..ServerToAgent::default() };
            assert_eq!(heard(&said), Answer::of(Heard::Taken, ""), "{short:?}");
        }
    }

    #[test]
    fn an_answer_for_somebody_else_is_none() {
        for uid in [&[8; 16][..], &[7; 15], b"x"] {
            let said = ServerToAgent {
                instance_uid: Bytes::copy_from_slice(uid),
                flags: REPORT_FULL_STATE,
                ..ServerToAgent::default()
            };
            assert_eq!(heard(&said), Answer::of(Heard::Refused, "the answer is for another agent"), "{uid:?}");
        }
    }

    #[test]
    fn an_error_is_measured_and_cleaned_and_nothing_else_is_read_beside_it() {
        let error = |kind, words: &str, nanoseconds: Option<u64>| {
            let retry_info = nanoseconds.map(|n| RetryInfo { retry_after_nanoseconds: n });
            let error = ServerErrorResponse { kind, error_message: words.to_owned(), retry_info };
            heard(&ServerToAgent { error_response: Some(error), flags: REPORT_FULL_STATE, ..ServerToAgent::default() })
        };
        let later = |s| Heard::Later(Some(Duration::from_secs(s)));
        assert_eq!(error(UNAVAILABLE, "busy", Some(30_000_000_000)), Answer::of(later(30), "unavailable: busy"));
        assert_eq!(error(UNAVAILABLE, "", Some(u64::MAX)).heard, later(3_600), "an hour at most");
        assert_eq!(error(UNAVAILABLE, "", None).heard, Heard::Later(None));
        assert_eq!(error(1, "\u{1b}[31mred\r\n\u{202e}x", None), Answer::of(Heard::Refused, "bad request: [31mred x"));
        assert_eq!(error(0, "", None).heard, Heard::Refused);
        assert_eq!(error(-1, &"ä".repeat(10_000), None).why.chars().count(), MESSAGE_MAX + 1);
    }
}
