//! The promises, asked when everything is quiet: the link is up, nobody sends, nothing waits.

use super::plan::{Chapter, Fault};
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// `P1`…, as ARCHITECTURE.md has them.
    pub(crate) promise: &'static str,
    pub(crate) text: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.text)
    }
}

impl Broken {
    pub(crate) fn new(promise: &'static str, text: impl Into<String>) -> Broken {
        Broken { promise, text: text.into() }
    }
}

/// The agent's own books, of all lanes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
    pub(crate) waiting: u64,
    pub(crate) dead_letters: u64,
    pub(crate) quarantined: u64,
    pub(crate) lost: u64,
}

/// What a chapter came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Items the clients have an answer for.
    pub(crate) acknowledged: u64,
    /// Of these, items the far end has not.
    pub(crate) missing: u64,
    /// Items the far end has and nobody sent.
    pub(crate) invented: u64,
    /// Arrivals beyond the first.
    pub(crate) duplicates: u64,
    /// Answers to the clients that were none, or no success.
    pub(crate) refused: u64,
    /// The books at the end of the chapter before, and of this one.
    pub(crate) books: (Books, Books),
    /// Requests the far end saw during the disturbance.
    pub(crate) requests: u64,
    /// From calm until nothing waited.
    pub(crate) drain: Duration,
    /// The longest that a start took until it listened.
    pub(crate) start: Duration,
    /// Starts.
    pub(crate) starts: u32,
    pub(crate) peak_mib: f64,
    /// Allocated when quiet.
    pub(crate) left_bytes: u64,
    /// Calls of the agent that were made to fail.
    pub(crate) failed_calls: u64,
    /// The fault could not be had: why.
    pub(crate) skipped: Option<String>,
}

/// What is asked of this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) memory_mib: f64,
    pub(crate) start: Duration,
    pub(crate) left_bytes: u64,
}

/// The first promise that `outcome` breaks.
pub(crate) fn judge(chapter: &Chapter, outcome: &Outcome, limits: &Limits) -> Result<(), Broken> {
    let (before, after) = outcome.books;
    let broken = |promise, text: String| Err(Broken::new(promise, text));
    let held = (after.dead_letters + after.quarantined).saturating_sub(before.dead_letters + before.quarantined);
    let told = after.lost.saturating_sub(before.lost) + held;
    if outcome.missing > told {
        return broken("P2", format!("{} acknowledged items are missing, the books tell of {told}", outcome.missing));
    }
    // On a full disk the oldest gives way, by `when_full: drop_oldest`.
    if told > 0 && !matches!(chapter.fault, Fault::Corruption | Fault::DiskFull) {
        return broken("P1", format!("{told} items were lost or set aside by what must cost none"));
    }
    if outcome.invented > 0 {
        return broken("P2", format!("{} items arrived that nobody sent", outcome.invented));
    }
    let Books { accepted, delivered, waiting, dead_letters, quarantined, lost } = after;
    if accepted != delivered + waiting + dead_letters + quarantined + lost {
        return broken("P2", format!("the books do not add up: {after:?}"));
    }
    if lost < before.lost || accepted < before.accepted {
        return broken("P2", format!("a counter fell: {before:?}, {after:?}"));
    }
    if outcome.start > limits.start {
        return broken("P4", format!("a start took {:?}", outcome.start));
    }
    if outcome.peak_mib > limits.memory_mib {
        return broken("P5", format!("{:.1} MiB resident", outcome.peak_mib));
    }
    if outcome.left_bytes > limits.left_bytes && told == 0 {
        return broken("P5", format!("{} KiB on disk with nothing waiting", outcome.left_bytes >> 10));
    }
    // One probe at a time, 250 ms apart at the least (max_interval 500 ms less its jitter), and the first ones of each life.
    let polite = 20 * u64::from(outcome.starts + 1) + 8 * chapter.lasts.as_secs();
    if chapter.link.is_down() && outcome.requests > polite {
        return broken("P9", format!("{} requests to a far end that takes nothing", outcome.requests));
    }
    Ok(())
}

impl Outcome {
    pub(crate) fn json(&self, chapter: &Chapter) -> Value {
        json!({
            "chapter": chapter.to_string(), "acknowledged": self.acknowledged, "missing": self.missing,
            "lost_by_the_books": self.books.1.lost.saturating_sub(self.books.0.lost),
            "held": self.books.1.dead_letters + self.books.1.quarantined,
            "duplicates": self.duplicates, "refused": self.refused, "requests": self.requests, "starts": self.starts,
            "drain_s": self.drain.as_secs_f64(), "start_ms": self.start.as_secs_f64() * 1e3, "peak_mib": self.peak_mib,
            "left_kib": self.left_bytes >> 10, "failed_calls": self.failed_calls, "skipped": self.skipped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::plan::{Link, story};

    const LIMITS: Limits = Limits { memory_mib: 64.0, start: Duration::from_secs(1), left_bytes: 1 << 20 };

    fn chapter(fault: Fault, link: Link) -> Chapter {
        let chapter = story(1, Duration::from_secs(60))[0];
        Chapter { fault, link, ..chapter }
    }

    fn whole() -> Outcome {
        let books = Books { accepted: 100, delivered: 100, ..Books::default() };
        Outcome { acknowledged: 100, books: (Books::default(), books), ..Outcome::default() }
    }

    #[test]
    #[rustfmt::skip]
    fn each_promise_can_be_broken() {
        let lost = Books { accepted: 100, delivered: 90, lost: 10, ..Books::default() };
        let corrupt = Fault::Corruption;
        for (name, fault, change, expected) in [
            ("whole",        Fault::Kill, (|_| ()) as fn(&mut Outcome), None),
            ("missing",      Fault::Kill, |o| o.missing = 1, Some("P2")),
            ("told",         Fault::Kill, |o| o.books.1 = Books { accepted: 100, delivered: 90, lost: 10, ..Books::default() }, Some("P1")),
            ("under-told",   corrupt,     |o| { o.missing = 11; o.books.1 = Books { accepted: 100, delivered: 90, lost: 10, ..Books::default() } }, Some("P2")),
            ("invented",     corrupt,     |o| o.invented = 1, Some("P2")),
            ("does not add", corrupt,     |o| o.books.1.delivered = 99, Some("P2")),
            ("fell",         corrupt,     |o| o.books.0.accepted = 101, Some("P2")),
            ("slow start",   Fault::Kill, |o| o.start = Duration::from_secs(2), Some("P4")),
            ("memory",       Fault::Kill, |o| o.peak_mib = 65.0, Some("P5")),
            ("disk",         Fault::Kill, |o| o.left_bytes = 2 << 20, Some("P5")),
            ("impolite",     Fault::Kill, |o| o.requests = 10_000, Some("P9")),
        ] {
            let mut outcome = whole();
            change(&mut outcome);
            let verdict = judge(&chapter(fault, Link::Overloaded), &outcome, &LIMITS);
            assert_eq!(verdict.as_ref().err().map(|b| b.promise), expected, "{name}: {verdict:?}");
        }
        let told = Outcome { missing: 10, books: (Books::default(), lost), ..whole() };
        assert_eq!(judge(&chapter(corrupt, Link::Up), &told, &LIMITS), Ok(()));
    }
}
