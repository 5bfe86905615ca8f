//! Fresh data or the backlog: who goes first, and how much of the link the backlog gets (promise P6).
//!
//! ```text
//!                  ┌ live: at once, a place is always kept free for it
//! one lane ────────┤
//!                  └ backlog: in the places that are left ── fewer while its uploads take long
//!                             by `backlog_share` of the bytes while live data waits too
//!                             below `max_rate`, after the lanes that go before by `priority`
//! ```
//!
//! What always holds:
//! * Live data waits for no backlog but the upload that is out, where `num_consumers` is 1, or for an answer where the far end
//!   takes one upload at a time (after an outage).
//! * A backlog goes on: also while live data never ends, and also at the smallest rate.

use crate::otlp::Signal;
use crate::spool::Pick;
use std::time::Duration;
use tokio::time::Instant;

/// Data that has waited for so much longer than its batch may wait is a backlog: 5 s. Longer than an upload takes over a link that
/// keeps up, shorter than what anybody would call fresh.
pub const STALE_AFTER: Duration = Duration::from_secs(5);

/// An upload of a backlog that takes longer makes the link crowded: fresh data beside it has 2 s. Then half as many go at a time.
const SLOW: Duration = Duration::from_secs(1);
/// One that takes less lets one more go beside it.
const QUICK: Duration = Duration::from_millis(500);

/// How often it is looked what has grown old in memory.
pub const LOOK: Duration = Duration::from_secs(1);

/// How many bytes a backlog can be owed, or live data: 4 MiB, so that what was long ago does not decide.
const OWED_MAX: f64 = (4 << 20) as f64;

/// `drain.order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DrainOrder {
    /// `oldest_first`: in the order of the lane; what comes in waits for all that came before.
    #[default]
    OldestFirst,
    /// `live_first`: what comes in first, beside it the backlog, the oldest first.
    LiveFirst,
    /// `newest_first`: the same, the youngest of the backlog first.
    NewestFirst,
}

/// How one lane is drained.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Manner {
    /// In which order.
    pub order: DrainOrder,
    /// What a backlog gets of the bytes while live data waits too; from 0 to less than 1.
    pub share: f64,
    /// Backlogs of lower ranks go before.
    pub rank: usize,
    /// What has waited for longer is a backlog.
    pub stale: Duration,
}

impl Manner {
    /// Live data and backlog are apart.
    #[must_use]
    pub fn splits(self) -> bool {
        self.order != DrainOrder::OldestFirst
    }

    /// Until when what came in so long ago is fresh.
    #[must_use]
    pub fn fresh_until(self, age: Duration, now: Instant) -> Instant {
        now + self.stale.saturating_sub(age)
    }

    /// What to ask the spool for.
    #[must_use]
    pub fn pick(self, backlog: bool) -> Pick {
        match self.order {
            DrainOrder::OldestFirst => Pick::Oldest,
            _ if !backlog => Pick::Live { stale: self.stale },
            order => Pick::Backlog { newest: order == DrainOrder::NewestFirst },
        }
    }
}

/// What is said for a whole exporter.
#[derive(Debug, Clone, PartialEq)]
pub struct Drain {
    /// `order`, live_first: of logs and traces.
    pub order: DrainOrder,
    /// `metrics_order`, oldest_first: many far ends refuse samples that are older than the last one.
    pub metrics_order: DrainOrder,
    /// `backlog_share`, 0.5.
    pub backlog_share: f64,
    /// `max_rate`: bytes a second, as they go over the wire, of backlogs and what was parked. None: no limit.
    pub max_rate: Option<u64>,
    /// `priority`: signals whose backlog goes first, in this order; the others after them together.
    pub priority: Vec<Signal>,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain {
            order: DrainOrder::LiveFirst,
            metrics_order: DrainOrder::OldestFirst,
            backlog_share: 0.5,
            max_rate: None,
            priority: Vec::new(),
        }
    }
}

impl Drain {
    /// What that is for a lane of this signal, whose data waits so long for company.
    #[must_use]
    pub fn of(&self, signal: Signal, batch_timeout: Duration) -> Manner {
        let rank = self.priority.iter().position(|s| *s == signal).unwrap_or(self.priority.len());
        let order = if signal == Signal::Metrics { self.metrics_order } else { self.order };
        Manner { order, share: self.backlog_share, rank, stale: batch_timeout.saturating_add(STALE_AFTER) }
    }
}

/// Whose turn it is in one lane.
#[derive(Debug, Clone, Copy)]
pub struct Turns {
    share: f64,
    /// Bytes the backlog may go before; below zero live data may.
    owed: f64,
    /// Uploads of the backlog that may be out at a time, as far as the link bears it.
    places: u32,
}

impl Turns {
    /// Nothing was sent yet.
    #[must_use]
    pub fn new(share: f64) -> Turns {
        Turns { share: share.clamp(0.0, 0.99), owed: 0.0, places: 1 }
    }

    /// How many uploads of the backlog may be out of `most` that the lane has. One place at least is kept free for live data
    /// if there is more than one.
    #[must_use]
    pub fn places(&self, most: u32, live_waits: bool) -> u32 {
        let free = most.saturating_sub(1).max(1);
        if !live_waits {
            return self.places.min(free);
        }
        // Of at most u32::MAX, at least 0.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let theirs = (f64::from(most) * self.share).round() as u32;
        let least = u32::from(self.share > 0.0);
        self.places.min(free).min(theirs.max(least))
    }

    /// Both wait: is it the backlog's turn?
    #[must_use]
    pub fn is_backlogs(&self) -> bool {
        self.owed >= 1.0
    }

    /// An upload of so many bytes is on its way, while the other kind waits too, or not.
    pub fn sent(&mut self, backlog: bool, bytes: usize, beside: bool) {
        if !beside {
            return;
        }
        #[allow(clippy::cast_precision_loss)] // of bytes in memory
        let bytes = bytes as f64;
        let gets = if backlog { -bytes } else { bytes * self.share / (1.0 - self.share) };
        self.owed = (self.owed + gets).clamp(-OWED_MAX, OWED_MAX);
    }

    /// An upload of the backlog was taken after so long.
    pub fn took(&mut self, time: Duration, most: u32) {
        if time > SLOW {
            self.places = (self.places / 2).max(1);
        } else if time < QUICK {
            self.places = self.places.saturating_add(1).min(most.max(1));
        }
    }
}

/// A token bucket for the bytes of backlogs; it holds what a second brings.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    rate: f64,
    /// Bytes that may go; below zero after an upload that was longer than what there was.
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Full, with so many bytes a second.
    #[must_use]
    pub fn new(rate: u64, now: Instant) -> Bucket {
        #[allow(clippy::cast_precision_loss)] // nobody minds a byte in 2^53
        let rate = rate.max(1) as f64;
        Bucket { rate, left: rate, at: now }
    }

    /// At another rate from now on; what it owes it goes on owing.
    pub fn turn_to(&mut self, rate: u64, now: Instant) {
        self.fill(now);
        let left = self.left;
        *self = Bucket::new(rate, now);
        self.left = left.min(self.left);
    }

    fn fill(&mut self, now: Instant) {
        let time = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + time * self.rate).min(self.rate);
        self.at = now.max(self.at);
    }

    /// When the next upload may go: as soon as the bucket is not empty, whatever the upload's size.
    pub fn ready_at(&mut self, now: Instant) -> Instant {
        self.fill(now);
        if self.left > 0.0 { now } else { now + Duration::from_secs_f64((1.0 - self.left) / self.rate) }
    }

    /// So many bytes went, all of which are owed.
    pub fn owe(&mut self, bytes: u64, now: Instant) {
        self.fill(now);
        #[allow(clippy::cast_precision_loss)] // nobody minds a byte in 2^53
        let bytes = bytes as f64;
        self.left -= bytes;
    }

    /// So many bytes did not go after all.
    pub fn give_back(&mut self, bytes: u64, now: Instant) {
        self.fill(now);
        #[allow(clippy::cast_precision_loss)] // nobody minds a byte in 2^53
        let bytes = bytes as f64;
        self.left = (self.left + bytes).min(self.rate);
    }

    /// An upload of so many bytes goes. What is owed is never more than that upload, or a second: knocks at a far end that is away
    /// are counted too, and an outage must not be paid for after it.
    pub fn take(&mut self, bytes: usize, now: Instant) {
        self.fill(now);
        #[allow(clippy::cast_precision_loss)] // of bytes in memory
        let bytes = bytes as f64;
        self.left = (self.left - bytes).max(-bytes.max(self.rate));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// A rate that changes in the middle neither forgives what is owed nor gives anything away.
    #[test]
    fn another_rate_counts_from_now_on() {
        let now = Instant::now();
        let mut bucket = Bucket::new(1_000, now);
        bucket.take(3_001, now);
        bucket.turn_to(100, now);
        let ready = bucket.ready_at(now) - now;
        assert!(S * 20 <= ready && ready <= S * 21, "{ready:?}");
        bucket.turn_to(100_000, now + S * 25);
        bucket.take(1_000, now + S * 25);
        assert!(bucket.ready_at(now + S * 25) > now + S * 25, "at most a second of the old rate was left");
    }

    /// Three days of knocking are owed for no longer than one upload takes.
    #[test]
    fn an_outage_is_not_paid_for_after_it() {
        let now = Instant::now();
        let mut bucket = Bucket::new(10_000, now);
        let end = (0..8_640).fold(now, |at, _| {
            bucket.take(800_000, at);
            at + S * 30
        });
        bucket.take(800_000, end);
        let ready = bucket.ready_at(end) - end;
        assert!(ready <= S * 81, "{ready:?}");
    }

    /// Places of 10, of 2 and of 1, by the share, while live data waits and while it does not.
    #[test]
    #[rustfmt::skip]
    fn a_place_is_kept_for_live_data() {
        for (share, most, beside, alone) in [
            (0.5,  10, 5, 9),
            (0.25, 10, 3, 9),
            (0.9,  10, 9, 9),
            (0.0,  10, 0, 9), // while live data waits, nothing of the backlog goes
            (0.01, 10, 1, 9), // but else it goes on
            (0.5,  2,  1, 1),
            (0.5,  1,  1, 1),
            (0.0,  1,  0, 1),
        ] {
            let mut turns = Turns::new(share);
            (0..20).for_each(|_| turns.took(QUICK / 2, most));
            assert_eq!((turns.places(most, true), turns.places(most, false)), (beside, alone), "{share} of {most}");
        }
    }

    #[test]
    fn an_upload_that_takes_long_makes_room() {
        let mut turns = Turns::new(0.5);
        let mut after = |time: Duration| {
            turns.took(time, 10);
            turns.places(10, false)
        };
        assert_eq!([QUICK / 2, QUICK / 2, QUICK / 2].map(&mut after), [2, 3, 4]);
        assert_eq!([S * 3 / 4, S * 2, S * 2, S * 2].map(&mut after), [4, 2, 1, 1]);
    }

    /// Goal: while both wait, the backlog gets its share of the bytes, whatever the sizes of the uploads.
    #[test]
    fn the_backlog_gets_its_share_of_the_bytes() {
        for (share, live_len, backlog_len) in
            [(0.5, 1_000, 1_000), (0.5, 100, 40_000), (0.2, 5_000, 700), (0.8, 9_000, 9_000)]
        {
            let mut turns = Turns::new(share);
            let (mut live, mut backlog) = (0_u32, 0_u32);
            for _ in 0..20_000 {
                if turns.is_backlogs() {
                    turns.sent(true, backlog_len as usize, true);
                    backlog += backlog_len;
                } else {
                    turns.sent(false, live_len as usize, true);
                    live += live_len;
                }
            }
            let got = f64::from(backlog) / f64::from(live + backlog);
            assert!((got - share).abs() < 0.02, "{share} of {live_len} and {backlog_len}: {got}");
        }
        let mut turns = Turns::new(0.0);
        turns.sent(false, 1_000_000, true);
        assert!(!turns.is_backlogs(), "no share, no turn");
    }

    /// Goal: over a long time no more than the rate, and not less either.
    #[test]
    fn the_bucket_lets_through_what_its_rate_says() {
        let start = Instant::now();
        for (rate, len) in [(1_000, 100), (1_000, 5_000), (512 << 10, 400_000), (1, 3)] {
            let mut bucket = Bucket::new(rate, start);
            let (mut now, mut sent) = (start, 0_u32);
            while now < start + 1_000 * S {
                now = bucket.ready_at(now).max(now);
                bucket.take(len as usize, now);
                sent += len;
            }
            let rate_was = f64::from(sent) / (now - start).as_secs_f64();
            #[allow(clippy::cast_precision_loss)]
            let ratio = rate_was / rate as f64;
            assert!((0.99..1.02).contains(&ratio), "{rate} B/s in pieces of {len}: {rate_was}");
        }
    }

    #[test]
    fn metrics_keep_their_order_unless_told_otherwise() {
        let drain = Drain { order: DrainOrder::NewestFirst, priority: vec![Signal::Metrics], ..Drain::default() };
        let of = |signal| drain.of(signal, 2 * S);
        assert_eq!((of(Signal::Metrics).order, of(Signal::Metrics).rank), (DrainOrder::OldestFirst, 0));
        assert_eq!(
            (of(Signal::Logs).order, of(Signal::Logs).rank, of(Signal::Logs).stale),
            (DrainOrder::NewestFirst, 1, 7 * S)
        );
        let told = Drain { metrics_order: DrainOrder::LiveFirst, ..Drain::default() };
        assert_eq!(told.of(Signal::Metrics, S).order, DrainOrder::LiveFirst);
    }
}
