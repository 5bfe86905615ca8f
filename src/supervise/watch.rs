//! What can be seen of the supervision: for metrics, health, the status page and `sd_notify`.

use super::panics::PanicCounts;
use super::{Reason, State};
use std::fmt;
use std::time::Duration;

/// Everybody, at one moment.
#[derive(Debug, Clone)]
pub struct Watch {
    /// One row per seat, in the order they were filled.
    pub seats: Vec<SeatView>,
    /// Panics that were not charged to a post.
    pub panics: PanicCounts,
    /// Threads that were given up and have not come back.
    pub abandoned_threads: usize,
}

/// One seat, at one moment.
#[derive(Debug, Clone)]
pub struct SeatView {
    /// `post` or `post/instance`.
    pub name: String,
    /// The row of the roster.
    pub post: &'static str,
    /// Which of several; empty for a post that exists once.
    pub instance: String,
    /// Whether the process is worth nothing without it.
    pub vital: bool,
    /// How it is.
    pub state: State,
    /// Times it fell and was (or will be) rebuilt; never goes down.
    pub falls: u64,
    /// Times it spent its budget.
    pub escalations: u64,
    /// Times its thread was given up for a new one.
    pub replaced: u64,
    /// Why it fell last.
    pub last_reason: Option<Reason>,
    /// How long ago it was last seen to move; not more exact than its heartbeat.
    pub quiet_for: Duration,
    /// How long it may be quiet before something is wrong: its longer deadline and two heartbeats.
    pub patience: Duration,
    /// Messages in its mailbox.
    pub waiting: usize,
    /// Places in its mailbox.
    pub mailbox: usize,
}

impl Watch {
    /// Whether every vital post is up and moves: what `WATCHDOG=1` may be sent for.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.unwell().next().is_none()
    }

    /// The vital posts that are not well.
    pub fn unwell(&self) -> impl Iterator<Item = &SeatView> {
        self.seats.iter().filter(|seat| seat.vital && !seat.is_well())
    }

    /// The seat with this name.
    #[must_use]
    pub fn seat(&self, name: &str) -> Option<&SeatView> {
        self.seats.iter().find(|seat| seat.name == name)
    }
}

impl SeatView {
    /// Up and moving, or about to be.
    #[must_use]
    pub fn is_well(&self) -> bool {
        match self.state {
            State::Starting | State::Running | State::Draining | State::Drained => self.quiet_for <= self.patience,
            State::Pausing => true,
            State::Down | State::Blocked | State::Stopped => false,
        }
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.seats.iter().map(|seat| seat.name.len()).max().unwrap_or(0).max("post".len());
        writeln!(f, "{:width$}  {:8}  {:>5}  {:>9}  {:>7}  last fall", "post", "state", "falls", "waiting", "quiet")?;
        for seat in &self.seats {
            let waiting = format!("{}/{}", seat.waiting, seat.mailbox);
            let quiet = format!("{}s", seat.quiet_for.as_secs());
            let why = seat.last_reason.as_ref().map_or_else(String::new, ToString::to_string);
            let row =
                format!("{:width$}  {:8}  {:>5}  {waiting:>9}  {quiet:>7}  {why}", seat.name, seat.state, seat.falls);
            writeln!(f, "{}", row.trim_end())?;
        }
        Ok(())
    }
}
