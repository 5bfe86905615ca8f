//! What the link may cost: bytes a second, a day and a month, all that goes over the wire, both ways.
//!
//! ```text
//! meter (bytes of every connection) ─▶ account (by day and month, kept in a file) ─▶ purse ─▶ gates ─▶ flow
//!                                                                       rules ────────┘
//!                     a day's budget
//! ├── promised to metrics ──┼── promised to logs ──┼───────── for all ──────────┤
//!      `shares`: nobody else takes it                       ├─ `reserve`: traces stop here, then logs (`shed`)
//! ```
//!
//! What always holds:
//! * What was sent is never forgotten: before anything is sent the file counts it as sent, in advance (see `account`).
//! * Nothing is thrown away: what must not be sent waits in the spool, whose own limits say what gives way there.
//! * Backlogs are `paced`: they never go ahead of an even use of the day and the month, so that live data finds its part.
//! * An upload goes only if it fits. One that alone is larger than what is left of an untouched period goes all the same:
//!   else nothing ever would.

mod account;
mod book;
mod meter;
mod purse;

pub use account::Account;
pub use book::{Book, Calendar, Period};
pub(in crate::uplink) use meter::head_len;
pub use meter::{Counted, Meter, Wire};
pub use purse::Purse;

use crate::otlp::Signal;
use std::time::Duration;
use tokio::time::Instant;

/// Signals, and what belongs to none: connections, registration, reports.
pub const CLASSES: usize = 4;

/// `link_budget`.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkBudget {
    /// `rate`: bytes a second. None: no limit.
    pub rate: Option<u64>,
    /// `per_day`: bytes.
    pub per_day: Option<u64>,
    /// `per_month`: bytes.
    pub per_month: Option<u64>,
    /// `month_starts_on`, 1: the day of the month, as the provider counts; 1 to 28.
    pub month_starts_on: u8,
    /// `utc_offset`, 0: of the clock by which a day begins, seconds.
    pub utc_offset_s: i32,
    /// `shares`: of each signal, 0 to 1, together at most 1.
    pub shares: [f64; 3],
    /// `shed`: signals that stop first as a budget runs out.
    pub shed: Vec<Signal>,
    /// `reserve`, 0.2: the part of a budget that those in `shed` leave to the others.
    pub reserve: f64,
    /// `paced`, true: backlogs keep to an even use of the day and the month.
    pub paced: bool,
}

impl Default for LinkBudget {
    fn default() -> LinkBudget {
        LinkBudget {
            rate: None,
            per_day: None,
            per_month: None,
            month_starts_on: 1,
            utc_offset_s: 0,
            shares: [0.0; 3],
            shed: Vec::new(),
            reserve: 0.2,
            paced: true,
        }
    }
}

/// When something of a signal may go, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// From when on live data may go; `None`: now.
    pub live_from: Option<Instant>,
    /// The same of a backlog.
    pub backlog_from: Option<Instant>,
    /// Longest upload that fits.
    pub most: u64,
    /// When it is worth asking again, if one does not fit.
    pub again: Option<Instant>,
}

impl Gate {
    /// Nothing stands in the way.
    pub const OPEN: Gate = Gate { live_from: None, backlog_from: None, most: u64::MAX, again: None };

    /// What passes both.
    #[must_use]
    pub fn and(self, other: Gate) -> Gate {
        let again = if self.most <= other.most { self.again } else { other.again };
        Gate {
            live_from: self.live_from.max(other.live_from),
            backlog_from: self.backlog_from.max(other.backlog_from),
            most: self.most.min(other.most),
            again,
        }
    }
}

/// Of a limit that backlogs may use, evenly: what is over at the end of a day is for the live data of its last minutes.
const BACKLOGS: f64 = 0.95;
/// Longest time before it is asked again when a period ends: the wall clock may have been set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// One period and what was used of its limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Use {
    /// Bytes.
    pub limit: u64,
    /// Bytes so far, by class.
    pub by: [u64; CLASSES],
    /// How much of the period has passed, 0 to 1; 1 where the clock is not set and nobody knows.
    pub passed: f64,
    /// How long it lasts,
    pub length: Duration,
    /// and still does.
    pub left: Duration,
}

impl Use {
    /// Bytes so far.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.by.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// What is left of the limit, bytes.
    #[must_use]
    pub fn unused(&self) -> u64 {
        self.limit.saturating_sub(self.used())
    }
}

impl LinkBudget {
    /// There is something to keep count of.
    #[must_use]
    pub fn has_periods(&self) -> bool {
        self.per_day.is_some() || self.per_month.is_some()
    }

    /// What of the limit nobody but the signal gets, bytes.
    fn promised(&self, signal: usize, limit: u64) -> u64 {
        part(limit, self.shares[signal])
    }

    /// Bytes that the signal may still send in this period: what was promised to it and what is for all, but for the
    /// reserve, if it is one that stops first.
    #[must_use]
    pub fn may_send(&self, signal: Signal, spent: &Use) -> u64 {
        let me = signal as usize - 1;
        let owed = |of: usize| self.promised(of, spent.limit).saturating_sub(spent.by[of]);
        let others = (0..3).filter(|of| *of != me).map(owed).sum();
        let mine = owed(me).min(spent.unused());
        let common = spent.unused().saturating_sub(mine).saturating_sub(others);
        mine + common.saturating_sub(part(spent.limit, self.leaves(signal)))
    }

    /// The part of a limit that a signal leaves to those that stop later.
    fn leaves(&self, signal: Signal) -> f64 {
        let Some(at) = self.shed.iter().position(|shed| *shed == signal) else { return 0.0 };
        #[allow(clippy::cast_precision_loss)] // three signals
        let steps = (self.shed.len() - at) as f64 / self.shed.len() as f64;
        self.reserve * steps
    }

    /// What this period lets through of the signal.
    #[must_use]
    pub fn gate(&self, signal: Signal, spent: &Use, now: Instant) -> Gate {
        let end = now + spent.left.min(LOOK_AGAIN);
        let may = self.may_send(signal, spent);
        let untouched = spent.by[signal as usize - 1] == 0;
        if may == 0 {
            return Gate { live_from: Some(end), backlog_from: Some(end), most: 0, again: Some(end) };
        }
        Gate {
            live_from: None,
            backlog_from: self.paced.then(|| self.in_pace(spent, now)).flatten(),
            most: if untouched { u64::MAX } else { may },
            again: Some(end),
        }
    }

    /// When an even use of the period has come to what is used already; `None`: it has.
    #[allow(clippy::cast_precision_loss)] // nobody minds a byte in 2^53
    fn in_pace(&self, spent: &Use, now: Instant) -> Option<Instant> {
        let ahead = spent.used() as f64 / (spent.limit as f64 * BACKLOGS) - spent.passed;
        (ahead > 0.0).then(|| now + spent.length.mul_f64(ahead).min(spent.left).min(LOOK_AGAIN))
    }

    /// How much of the link each signal is to get while several have something, by its share; those without one have what
    /// is left together. `None`: no signal has a share, and lanes take turns.
    #[must_use]
    pub fn weights(&self) -> Option<[f64; 3]> {
        let given: f64 = self.shares.iter().sum();
        if given <= 0.0 {
            return None;
        }
        let without = self.shares.iter().filter(|share| **share <= 0.0).count();
        #[allow(clippy::cast_precision_loss)] // three signals
        let rest = ((1.0 - given) / without.max(1) as f64).max(LEAST_WEIGHT);
        Some(self.shares.map(|share| if share > 0.0 { share } else { rest }))
    }
}

/// Of a signal for which nothing is left: it goes on, slowly.
const LEAST_WEIGHT: f64 = 0.01;

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn part(of: u64, share: f64) -> u64 {
    // Not negative, and not more than it is a part of.
    (of as f64 * share.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests;
