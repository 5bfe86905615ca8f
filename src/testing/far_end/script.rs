//! What the far end does, request by request or by the clock, and its standing rules.

use super::{Answer, bears, status};
use crate::otlp::Signal;
use crate::testing::numbered::Mark;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// One way to behave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Act {
    /// Takes the data and says so.
    #[default]
    Accept,
    /// Nobody listens at the port; open connections are closed. By the clock only: refused connections are not
    /// requests that could be counted. (In [`Script::times`] the connection is reset after the request instead.)
    Refuse,
    /// Says no.
    Status {
        /// HTTP status.
        code: u16,
        /// The header, verbatim: seconds or an HTTP date.
        retry_after: Option<String>,
        /// In the `google.rpc.Status` of the body.
        message: String,
    },
    /// Says no in gRPC's words, to clients of gRPC.
    Grpc {
        /// `grpc-status`.
        code: tonic::Code,
        /// `RetryInfo`.
        after: Option<Duration>,
        /// `grpc-message`.
        message: String,
    },
    /// Resets the request, not the connection, with this code of HTTP/2; takes nothing. Over HTTP/1.1 as a reset.
    ResetStream(u32),
    /// Answers exactly this and takes nothing.
    Verbatim {
        /// HTTP status.
        code: u16,
        /// The header.
        content_type: Option<String>,
        /// The body.
        body: Vec<u8>,
    },
    /// Sends elsewhere.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        code: u16,
        /// The Location header.
        to: String,
    },
    /// A captive portal: 200 and a page.
    Portal,
    /// Reads the request and never answers; takes nothing.
    Hang,
    /// Takes the data and says so late.
    Slow(Duration),
    /// Takes all but the last so many items (`partial_success`).
    Partial {
        /// Items thrown away.
        rejected: u64,
        /// Why.
        message: String,
    },
    /// Resets the connection in the middle of the request's body; takes nothing.
    ResetMidRequest,
    /// Takes the data and resets the connection before answering: a retry makes duplicates.
    TakeAndReset,
    /// Takes the data and resets the connection in the middle of the answer.
    ResetMidAnswer,
}

impl Act {
    /// Answers `code`.
    #[must_use]
    pub fn status(code: u16) -> Act {
        Act::Status { code, retry_after: None, message: format!("scripted {code}") }
    }

    /// Answers with a code of gRPC.
    #[must_use]
    pub fn grpc(code: tonic::Code, after: Option<Duration>) -> Act {
        Act::Grpc { code, after, message: format!("scripted {code:?}") }
    }

    /// Adds `Retry-After: <seconds>` to a status.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Act {
        self.retry_after_text(&seconds.to_string())
    }

    /// Adds a `Retry-After` of any text to a status.
    #[must_use]
    pub fn retry_after_text(self, text: &str) -> Act {
        match self {
            Act::Status { code, message, .. } => Act::Status { code, message, retry_after: Some(text.to_owned()) },
            other => other,
        }
    }

    /// Takes all but `rejected` items.
    #[must_use]
    pub fn partial(rejected: u64, message: &str) -> Act {
        Act::Partial { rejected, message: message.to_owned() }
    }

    /// Answers 200 with a body of that type.
    #[must_use]
    pub fn ok_with(content_type: &str, body: &[u8]) -> Act {
        Act::Verbatim { code: 200, content_type: Some(content_type.to_owned()), body: body.to_vec() }
    }
}

/// How long a step lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// So many requests.
    Requests(u32),
    /// So long, from the end of the step before; the first begins when it is first asked.
    Time(Duration),
    /// Until another script is played.
    Always,
}

/// An act and how long it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub act: Act,
    /// How long.
    pub lasts: Lasts,
}

/// Steps, then [`Act::Accept`]; and rules that hold all the time for what would be taken.
#[derive(Debug, Clone, Default)]
pub struct Script {
    steps: VecDeque<Step>,
    /// When the present step began, and the requests it has seen.
    began: Option<Instant>,
    used: u32,
    poison: Vec<(Signal, Mark)>,
    poison_status: Option<u16>,
    max_items: Option<usize>,
    max_bytes: Option<usize>,
    signals: BTreeMap<Signal, Act>,
}

impl Script {
    /// Accepts everything.
    #[must_use]
    pub fn new() -> Script {
        Script::default()
    }

    /// Then `act` for `n` requests.
    #[must_use]
    pub fn times(self, n: u32, act: Act) -> Script {
        self.step(act, Lasts::Requests(n))
    }

    /// Then `act` for that long.
    #[must_use]
    pub fn lasting(self, time: Duration, act: Act) -> Script {
        self.step(act, Lasts::Time(time))
    }

    /// Then `act` for good.
    #[must_use]
    pub fn always(self, act: Act) -> Script {
        self.step(act, Lasts::Always)
    }

    fn step(mut self, act: Act, lasts: Lasts) -> Script {
        self.steps.push_back(Step { act, lasts });
        self
    }

    /// Refuses every request that bears this item (400, unless [`Script::poison_status`] says otherwise).
    #[must_use]
    pub fn poison(mut self, signal: Signal, mark: Mark) -> Script {
        self.poison.push((signal, mark));
        self
    }

    /// What poison is answered with.
    #[must_use]
    pub fn poison_status(mut self, code: u16) -> Script {
        self.poison_status = Some(code);
        self
    }

    /// 413 for requests of more items.
    #[must_use]
    pub fn max_items(mut self, items: usize) -> Script {
        self.max_items = Some(items);
        self
    }

    /// 413 for requests of more bytes, inflated.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Script {
        self.max_bytes = Some(bytes);
        self
    }

    /// Does `act` to requests of one signal whenever it would accept.
    #[must_use]
    pub fn for_signal(mut self, signal: Signal, act: Act) -> Script {
        self.signals.insert(signal, act);
        self
    }

    /// What is done now.
    pub(super) fn act(&mut self, now: Instant) -> Act {
        self.turn(now);
        self.steps.front().map_or(Act::Accept, |step| step.act.clone())
    }

    pub(super) fn act_for(&self, signal: Signal, act: Act) -> Act {
        match act {
            Act::Accept => self.signals.get(&signal).cloned().unwrap_or_default(),
            other => other,
        }
    }

    /// A request was answered under the present step.
    pub(super) fn used(&mut self, now: Instant) {
        self.used += 1;
        self.turn(now);
    }

    pub(super) fn listening(&mut self, now: Instant) -> (bool, Option<Instant>) {
        self.turn(now);
        match self.steps.front() {
            Some(Step { act, lasts: Lasts::Time(time) }) => {
                (*act != Act::Refuse, self.began.map(|began| began + *time))
            }
            Some(Step { act, lasts: Lasts::Always }) => (*act != Act::Refuse, None),
            Some(Step { lasts: Lasts::Requests(_), .. }) | None => (true, None),
        }
    }

    /// Leaves the steps behind that are over.
    fn turn(&mut self, now: Instant) {
        while let Some(step) = self.steps.front() {
            let began = *self.began.get_or_insert(now);
            let ended = match step.lasts {
                Lasts::Requests(n) if self.used >= n => now,
                Lasts::Time(time) if now >= began + time => began + time,
                _ => return,
            };
            self.steps.pop_front();
            self.began = Some(ended);
            self.used = 0;
        }
    }

    /// A rule's answer to what is in a request.
    pub(super) fn objection(&self, signal: Signal, marks: &[Option<Mark>], raw_bytes: usize) -> Option<Answer> {
        if self.max_items.is_some_and(|max| marks.len() > max) || self.max_bytes.is_some_and(|max| raw_bytes > max) {
            return Some(status(413, "request is larger than this collector takes"));
        }
        let guilty = self.poison.iter().find(|(s, mark)| *s == signal && bears(marks, *mark));
        guilty.map(|(_, mark)| status(self.poison_status.unwrap_or(400), &format!("item {} is not valid", mark.seq)))
    }
}
