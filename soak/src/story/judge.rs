//! The promises, asked when everything is quiet: the link is up, nobody sends, nothing waits.

use super::plan::{Chapter, Fault, Link};
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;
use tfo_otel_agent::spool::Reason;

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
    /// By reason, in the order of [`Reason::ALL`].
    pub(crate) lost: [u64; 6],
}

impl Books {
    pub(crate) fn all_lost(&self) -> u64 {
        self.lost.iter().sum()
    }
}

/// What a chapter came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Items the clients have an answer for.
    pub(crate) acknowledged: u64,
    /// Of these, items the far end has not.
    pub(crate) missing: u64,
    /// Items the far end refused for good, which are set aside; they are sent again before the rest is looked at.
    pub(crate) set_aside: u64,
    /// Most that damage can cost: what was in the segment that was hit.
    pub(crate) at_stake: u64,
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
    let lost = |reason: Reason| after.lost[reason as usize].saturating_sub(before.lost[reason as usize]);
    let told = Reason::ALL.into_iter().map(lost).sum::<u64>() + held;
    if outcome.missing > told {
        return broken("P2", format!("{} acknowledged items are missing, the books tell of {told}", outcome.missing));
    }
    let may_lose = chapter.fault.may_lose();
    if let Some(reason) = Reason::ALL.into_iter().find(|reason| lost(*reason) > 0 && may_lose != Some(*reason)) {
        return broken("P1", format!("{} items were lost ({}) by what must cost none", lost(reason), reason.name()));
    }
    if held > 0 && chapter.fault != Fault::Corruption {
        return broken("P1", format!("{held} items are set aside by what must cost none"));
    }
    if lost(Reason::Corrupt) + held > outcome.at_stake {
        let text = format!("{} items, of {} in what was hit", lost(Reason::Corrupt) + held, outcome.at_stake);
        return broken("P4", text);
    }
    if chapter.link != Link::Poison && outcome.set_aside > 0 {
        return broken("P7", format!("{} items were set aside, and nobody refused them", outcome.set_aside));
    }
    if outcome.invented > 0 {
        return broken("P2", format!("{} items arrived that nobody sent", outcome.invented));
    }
    let Books { accepted, delivered, waiting, dead_letters, quarantined, .. } = after;
    if accepted != delivered + waiting + dead_letters + quarantined + after.all_lost() {
        return broken("P2", format!("the books do not add up: {after:?}"));
    }
    if after.lost.iter().zip(before.lost).any(|(now, then)| *now < then) || accepted < before.accepted {
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
            "lost_by_the_books": self.books.1.all_lost().saturating_sub(self.books.0.all_lost()), "at_stake": self.at_stake,
            "set_aside_and_sent_again": self.set_aside,
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
        Outcome { acknowledged: 100, at_stake: 20, books: (Books::default(), books), ..Outcome::default() }
    }

    /// Ten are lost.
    fn lost(reason: Reason) -> Books {
        let mut books = Books { accepted: 100, delivered: 90, ..Books::default() };
        books.lost[reason as usize] = 10;
        books
    }

    #[test]
    #[rustfmt::skip]
    fn each_promise_can_be_broken() {
        let corrupt = Fault::Corruption;
        for (name, fault, change, expected) in [
            ("whole",        Fault::Kill, (|_| ()) as fn(&mut Outcome), None),
            ("missing",      Fault::Kill, |o| o.missing = 1, Some("P2")),
            ("told",         Fault::Kill, |o| o.books.1 = lost(Reason::Corrupt), Some("P1")),
            ("other reason", Fault::Aging, |o| o.books.1 = lost(Reason::Evicted), Some("P1")),
            ("its reason",   Fault::Aging, |o| o.books.1 = lost(Reason::Expired), None),
            ("refusing",     Fault::Refusing, |o| o.books.1 = lost(Reason::Evicted), Some("P1")),
            ("aside",        Fault::Kill, |o| o.books.1 = Books { accepted: 100, delivered: 90, dead_letters: 10, ..Books::default() }, Some("P1")),
            ("not refused",  Fault::Kill, |o| o.set_aside = 1, Some("P7")),
            ("under-told",   corrupt,     |o| { o.missing = 11; o.books.1 = lost(Reason::Corrupt) }, Some("P2")),
            ("too much",     corrupt,     |o| { o.at_stake = 9; o.books.1 = lost(Reason::Corrupt) }, Some("P4")),
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
        let told = Outcome { missing: 10, books: (Books::default(), lost(Reason::Corrupt)), ..whole() };
        assert_eq!(judge(&chapter(corrupt, Link::Up), &told, &LIMITS), Ok(()));
        let refused = Outcome { set_aside: 9, ..whole() };
        assert_eq!(judge(&chapter(Fault::Kill, Link::Poison), &refused, &LIMITS), Ok(()));
    }
}
