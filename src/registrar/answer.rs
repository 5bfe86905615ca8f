//! What the platform's answers mean, from the collector and from its API.
//!
//! ```text
//! through the collector: the verdict of an upload        from the API: a status and a little JSON
//!   Accepted ─▶ Taken      Later ─▶ Later                  200 201 ─▶ Taken       404 410 ─▶ Forgotten
//!   Hold ─▶ Held           Split ─▶ Refused                401 403 ─▶ Held        409 ─▶ Renamed
//!   Silence ─▶ Silent                                      429 5xx ─▶ Later       other ─▶ Refused
//! ```
//!
//! What always holds: nothing of an answer reaches a log, a file or an address before it was measured and cleaned, for the
//! platform may be anybody who answers at that address.

use crate::uplink::link::Trouble;
use crate::uplink::verdict::{HttpAnswer, Verdict};
use serde::Deserialize;
use std::time::Duration;

/// What the platform made of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It knows us.
    Taken,
    /// It does not know the id: 404, 410.
    Forgotten,
    /// It knows us under another id: 409.
    Renamed,
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
            Heard::Forgotten => "forgotten",
            Heard::Renamed => "renamed",
            Heard::Later(_) => "later",
            Heard::Held => "held",
            Heard::Refused => "refused",
            Heard::Silent(_) => "silent",
        }
    }
}

/// What the platform wants of us.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Orders {
    /// Most bytes a second that the backlog may leave with; `None`: as many as we like.
    pub drain_rate: Option<f64>,
    /// The configuration it would like us to have, for people.
    pub config_revision: Option<String>,
    /// Words for people.
    pub message: Option<String>,
}

/// An answer, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What it means.
    pub heard: Heard,
    /// The id by which it knows us, if it said one that can be one.
    pub agent_id: Option<String>,
    /// What it wants.
    pub orders: Orders,
    /// In words, for the log.
    pub why: String,
}

impl Answer {
    /// One without orders.
    #[must_use]
    pub fn of(heard: Heard, why: impl Into<String>) -> Answer {
        Answer { heard, agent_id: None, orders: Orders::default(), why: why.into() }
    }

    /// What a collector's answer to an export means.
    #[must_use]
    pub fn of_export(verdict: &Verdict) -> Answer {
        let heard = match verdict {
            Verdict::Accepted { rejected: 0, .. } => Heard::Taken,
            Verdict::Accepted { .. } | Verdict::Split { .. } => Heard::Refused,
            Verdict::Later { after, .. } => Heard::Later(*after),
            Verdict::Hold { .. } => Heard::Held,
            Verdict::Silence { trouble, .. } => Heard::Silent(*trouble),
        };
        Answer::of(heard, verdict.why())
    }

    /// What an answer of the API means.
    #[must_use]
    pub fn of_api(answer: &HttpAnswer, wall_ns: u64) -> Answer {
        // A page with status 200 is a captive portal; its words and `Retry-After` are read as those of an upload.
        let verdict = Verdict::of_http(answer, wall_ns);
        let why = || format!("{} {}", answer.status, short(verdict.why(), MESSAGE_MAX)).trim_end().to_owned();
        match answer.status {
            200 | 201 => of_taken(answer, &verdict),
            404 | 410 => Answer::of(Heard::Forgotten, why()),
            401 | 403 | 407 => Answer::of(Heard::Held, why()),
            409 => match Said::read(answer).and_then(|said| said.agent_id).filter(|id| is_id(id)) {
                Some(id) => Answer { agent_id: Some(id), ..Answer::of(Heard::Renamed, why()) },
                None => Answer::of(Heard::Refused, why()),
            },
            _ => match verdict {
                Verdict::Later { after, .. } => Answer::of(Heard::Later(after), why()),
                Verdict::Silence { trouble, .. } => Answer::of(Heard::Silent(trouble), why()),
                _ => Answer::of(Heard::Refused, why()),
            },
        }
    }
}

fn of_taken(answer: &HttpAnswer, verdict: &Verdict) -> Answer {
    let said = match Said::read(answer) {
        Some(said) => said,
        None if answer.body.is_empty() => Said::default(),
        // A status alone can come from anybody who stands between.
        None => return Answer::of(Heard::Silent(Trouble::Portal), short(verdict.why(), MESSAGE_MAX)),
    };
    Answer {
        heard: Heard::Taken,
        agent_id: said.agent_id.filter(|id| is_id(id)),
        orders: Orders {
            drain_rate: said.drain_rate.filter(|rate| rate.is_finite() && *rate > 0.0),
            config_revision: said
                .config_revision
                .map(|text| short(&text, REVISION_MAX))
                .filter(|text| !text.is_empty()),
            message: said.message.map(|text| short(&text, MESSAGE_MAX)).filter(|text| !text.is_empty()),
        },
        why: String::new(),
    }
}

/// The JSON of an answer, as much of it as we know. What is there in another shape is as if it were not there.
#[derive(Debug, Default)]
struct Said {
    agent_id: Option<String>,
    drain_rate: Option<f64>,
    config_revision: Option<String>,
    message: Option<String>,
}

impl Said {
    fn read(answer: &HttpAnswer) -> Option<Said> {
        #[derive(Deserialize)]
        struct Any {
            agent_id: Option<serde_json::Value>,
            drain_rate: Option<serde_json::Value>,
            config_revision: Option<serde_json::Value>,
            message: Option<serde_json::Value>,
        }
        let any: Any = serde_json::from_slice(&answer.body).ok()?;
        let text = |value: Option<serde_json::Value>| match value {
            Some(serde_json::Value::String(text)) => Some(text),
            Some(serde_json::Value::Number(number)) => Some(number.to_string()), // revisions are often counted
            _ => None,
        };
        Some(Said {
            agent_id: text(any.agent_id),
            drain_rate: any.drain_rate.as_ref().and_then(serde_json::Value::as_f64),
            config_revision: text(any.config_revision),
            message: text(any.message),
        })
    }
}

/// Longest words for people that are shown, characters.
pub const MESSAGE_MAX: usize = 256;
/// Longest revision, characters: a hash in hex has 64.
const REVISION_MAX: usize = 64;
/// Longest id, bytes.
pub const ID_MAX: usize = 128;

/// Whether this can be an agent's id: it stands in paths, labels and files. Letters, digits and `. _ - :`, but neither `.` nor
/// `..`, which are no names in a path.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"._-:".contains(&c);
    !text.is_empty() && text.len() <= ID_MAX && text.bytes().all(fits) && !text.bytes().all(|c| c == b'.')
}

/// The words, on one line, without what moves a cursor or turns the writing round, cut to so many characters.
#[must_use]
pub fn short(text: &str, most: usize) -> String {
    let unseen =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let mut words =
        text.split(|c: char| c.is_control() || c.is_whitespace() || unseen(c)).filter(|word| !word.is_empty());
    let mut line = words.next().unwrap_or_default().to_owned();
    for word in words {
        line.push(' ');
        line.push_str(word);
        if line.len() > 4 * most {
            break; // whatever its letters are, this is long enough
        }
    }
    match line.char_indices().nth(most) {
        None => line,
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn answer(status: u16, body: &str) -> HttpAnswer {
        let content_type = (!body.is_empty()).then(|| "application/json".to_owned());
        HttpAnswer { status, content_type, body: Bytes::copy_from_slice(body.as_bytes()), ..HttpAnswer::default() }
    }

    /// The contract with the API, status by status (`docs/registration.md`).
    #[test]
    #[rustfmt::skip]
    fn a_status_says_what_the_platform_made_of_it() {
        let s7 = Some(Duration::from_secs(7));
        let given = r#"{"agent_id": "gw-7"}"#;
        for (status, body, retry_after, heard, id) in [
            (200, "",                        None,      Heard::Taken,       None),
            (201, given,                     None,      Heard::Taken,       Some("gw-7")),
            (200, r#"{"agent_id": "../x"}"#, None,      Heard::Taken,       None),
            (200, "<!doctype html>",         None,      Heard::Silent(Trouble::Portal), None), // a captive portal
            (404, "",                        None,      Heard::Forgotten,   None),
            (410, "",                        None,      Heard::Forgotten,   None),
            (401, "",                        None,      Heard::Held,        None),
            (403, "",                        None,      Heard::Held,        None),
            (409, given,                     None,      Heard::Renamed,     Some("gw-7")),
            (409, "",                        None,      Heard::Refused,     None),
            (409, r#"{"agent_id": "a b"}"#,  None,      Heard::Refused,     None),
            (429, "",                        Some("7"), Heard::Later(s7),   None),
            (503, "",                        Some("7"), Heard::Later(s7),   None),
            (500, "",                        None,      Heard::Later(None), None),
            (400, "",                        None,      Heard::Refused,     None),
            (422, "",                        None,      Heard::Refused,     None),
            (302, "",                        None,      Heard::Refused,     None),
            (511, "",                        None,      Heard::Silent(Trouble::Portal), None),
        ] {
            let answer = HttpAnswer { retry_after: retry_after.map(str::to_owned), ..answer(status, body) };
            let read = Answer::of_api(&answer, 0);
            assert_eq!((read.heard, read.agent_id.as_deref()), (heard, id), "{status} {body}");
        }
    }

    #[test]
    fn a_collectors_answer_is_that_to_an_upload() {
        let why = String::new;
        let silence = |trouble| Verdict::Silence { trouble, why: why() };
        for (verdict, heard) in [
            (Verdict::Accepted { rejected: 0, message: why(), oddity: None }, Heard::Taken),
            (Verdict::Accepted { rejected: 1, message: why(), oddity: None }, Heard::Refused),
            (Verdict::Split { too_large: false, why: why() }, Heard::Refused),
            (Verdict::Later { after: None, why: why() }, Heard::Later(None)),
            (Verdict::Hold { why: why() }, Heard::Held),
            (silence(Trouble::Unreachable), Heard::Silent(Trouble::Unreachable)),
            (silence(Trouble::Portal), Heard::Silent(Trouble::Portal)),
            (silence(Trouble::NoAnswer), Heard::Silent(Trouble::NoAnswer)),
        ] {
            assert_eq!(Answer::of_export(&verdict).heard, heard, "{verdict:?}");
        }
    }

    #[test]
    fn orders_are_measured_and_cleaned_and_what_is_no_order_is_none() {
        let orders = |body: &str| Answer::of_api(&answer(200, body), 0).orders;
        let read = orders(
            r#"{"drain_rate": 250000, "config_revision": 42, "message": "  hello\r\n\u001b[31mred\u202e \u0007x "}"#,
        );
        let wanted = Orders {
            drain_rate: Some(250_000.0),
            config_revision: Some("42".to_owned()),
            message: Some("hello [31mred x".to_owned()),
        };
        assert_eq!(read, wanted);
        for none in [
            "{}",
            r#"{"drain_rate": "many", "config_revision": [], "message": {}}"#,
            r#"{"drain_rate": 0, "message": "\u0000"}"#,
            r#"{"drain_rate": -5, "message": null}"#,
        ] {
            assert_eq!(orders(none), Orders::default(), "{none}");
        }
        let long = format!(r#"{{"config_revision": "{0}", "message": "{0}"}}"#, "ä".repeat(60_000));
        let Orders { config_revision, message, .. } = orders(&long);
        assert_eq!(config_revision.map(|text| text.chars().count()), Some(REVISION_MAX + 1));
        assert_eq!(message.map(|text| text.chars().count()), Some(MESSAGE_MAX + 1));
    }

    #[test]
    fn an_id_can_stand_in_a_path_and_a_label() {
        let longest = "x".repeat(ID_MAX);
        for (id, fits) in [
            ("tfo-agent-prod-node-01", true),
            ("550e8400-e29b-41d4-a716-446655440000", true),
            (&longest, true),
            ("", false),
            ("..", false),
            ("a/b", false),
            ("a b", false),
            ("ä", false),
            (&format!("{longest}x"), false),
        ] {
            assert_eq!(is_id(id), fits, "{id}");
        }
    }
}
