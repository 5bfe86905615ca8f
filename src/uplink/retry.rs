//! How long an upload is tried: otelcol's `retry_on_failure`, with a window that an outage cannot use up (promise P3).
//!
//! ```text
//! link    ──up──┐         88 hours down         ┌────────up────────────
//! window  ▓▓▓▓▓▓│· · · · · · · · · · · · · · · ·│▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│ end: parked, or dropped if the operator says so
//!         fails                                  fails while others succeed
//! ```
//!
//! What always holds: the window is measured on a clock that runs while the far end takes this lane's data; and it ends
//! only with a failure that is the upload's own, when others were taken meanwhile. While nothing is taken, nothing
//! expires.

pub use super::config::OnExpiry;
use super::config::RetryConfig;
use super::link::UpTime;
use crate::base::Dice;
use crate::base::backoff::Curve;
use std::time::Duration;
use tokio::time::Instant;

/// `retry_on_failure`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// When false the first failure of its own ends an upload's window.
    pub enabled: bool,
    /// The rests between two tries.
    pub curve: Curve,
    /// `max_elapsed_time`: the window. `None` (0 in the file): an upload is never given up.
    pub max_elapsed: Option<Duration>,
    /// What becomes of an upload at the end of its window.
    pub on_expiry: OnExpiry,
    /// `reconnect_spread`: so much is added at most to the first rest after the far end went away.
    pub reconnect_spread: Duration,
}

/// Where nothing may be dropped, an upload that fails while others succeed steps aside after so long: otelcol's
/// default window. Parking keeps it; not parking would let it hold up a metrics lane for ever.
pub const PARK_AFTER: Duration = Duration::from_secs(300);

impl From<&RetryConfig> for Retry {
    fn from(config: &RetryConfig) -> Retry {
        Retry {
            enabled: config.enabled,
            curve: config.curve(),
            max_elapsed: config.max_elapsed_time,
            on_expiry: config.on_expiry,
            reconnect_spread: config.reconnect_spread,
        }
    }
}

impl Default for Retry {
    /// otelcol's defaults, but for dropping.
    fn default() -> Retry {
        Retry::from(&RetryConfig::default())
    }
}

impl Retry {
    /// How long an upload is tried before it steps aside.
    #[must_use]
    pub fn window(&self) -> Duration {
        if self.enabled { self.max_elapsed.unwrap_or(PARK_AFTER) } else { Duration::ZERO }
    }

    /// What its end means.
    #[must_use]
    pub fn expiry(&self) -> OnExpiry {
        // Without an end nothing was ever to be dropped.
        if self.max_elapsed.is_none() && self.enabled { OnExpiry::Park } else { self.on_expiry }
    }
}

/// The two clocks of a lane.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clocks {
    /// Runs while the far end takes this lane's data: on it windows end.
    pub taking: UpTime,
    /// Runs while the far end answers at all: on it an upload that others wait for is passed over.
    pub answering: UpTime,
}

/// One upload's tries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Patience {
    /// Readings of the clocks (taking, answering) at the first failure of any kind.
    began: Option<(Duration, Duration)>,
    /// Failures of its own.
    failures: u32,
}

/// What comes after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try again after that.
    Again(Duration),
    /// The window is over.
    Expired,
}

impl Patience {
    /// It failed, and nobody else fared better: the window begins, on a clock that stands still now.
    pub fn fell_with_all(&mut self, clocks: &Clocks, now: Instant) {
        self.begin(clocks, now);
    }

    fn begin(&mut self, clocks: &Clocks, now: Instant) -> Duration {
        self.began.get_or_insert((clocks.taking.at(now), clocks.answering.at(now))).0
    }

    /// It failed while others succeeded. `floor`: the far end's `Retry-After`.
    ///
    /// As in the original the window ends when the next try would lie beyond it (reference §2.9); unlike the original
    /// of 0.88, `Retry-After` counts as part of that rest.
    pub fn fell_alone(
        &mut self,
        retry: &Retry,
        clocks: &Clocks,
        now: Instant,
        floor: Option<Duration>,
        dice: &mut Dice,
    ) -> Next {
        let began = self.begin(clocks, now);
        self.failures = self.failures.saturating_add(1);
        let rest = retry.curve.jittered(self.failures, dice).max(floor.unwrap_or_default());
        let elapsed = clocks.taking.at(now).saturating_sub(began);
        if elapsed + rest > retry.window() { Next::Expired } else { Next::Again(rest) }
    }

    /// Failures of its own so far.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Has it kept others waiting for so long, with a far end that answers, that one of them should find out whether it
    /// is this upload or the whole lane? That ends no window.
    #[must_use]
    pub fn holds_up(&self, retry: &Retry, clocks: &Clocks, now: Instant) -> bool {
        let patience = retry.window().min(PARK_AFTER);
        self.began.is_some_and(|(_, began)| clocks.answering.at(now).saturating_sub(began) >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn retry(max_elapsed: Option<Duration>) -> Retry {
        let curve = Curve { initial: 10 * S, multiplier: 2.0, max: 60 * S, randomization_factor: 0.0 };
        Retry { curve, max_elapsed, ..Retry::default() }
    }

    /// Tries at the rests the window asks for, in a world where all others succeed; the times of the tries.
    fn tries(retry: &Retry, floor: Option<Duration>) -> Vec<u64> {
        let start = Instant::now();
        let (mut clocks, mut now, mut patience) = (Clocks::default(), start, Patience::default());
        clocks.taking.set(true, start);
        let mut at = vec![0];
        while let Next::Again(rest) = patience.fell_alone(retry, &clocks, now, floor, &mut Dice::seeded(1)) {
            now += rest;
            at.push((now - start).as_secs());
            assert!(at.len() < 1_000);
        }
        at
    }

    #[test]
    fn an_upload_that_fails_alone_is_tried_until_its_window_ends() {
        assert_eq!(tries(&retry(Some(300 * S)), None), [0, 10, 30, 70, 130, 190, 250]);
        assert_eq!(tries(&retry(Some(300 * S)), Some(100 * S)), [0, 100, 200, 300]);
        assert_eq!(tries(&retry(Some(5 * S)), None), [0]);
        assert_eq!(tries(&Retry { enabled: false, ..retry(Some(300 * S)) }, None), [0]);
        // Without an end it steps aside after the original's window, and is never dropped.
        assert_eq!(tries(&retry(None), None), [0, 10, 30, 70, 130, 190, 250]);
        assert_eq!(Retry { on_expiry: OnExpiry::Drop, ..retry(None) }.expiry(), OnExpiry::Park);
        assert_eq!(Retry { on_expiry: OnExpiry::Drop, ..retry(Some(S)) }.expiry(), OnExpiry::Drop);
    }

    /// Goal: promise P3 at its smallest. An hour's window, 88 hours down: the window has not moved, whether nobody was
    /// there or only this lane was not taken.
    #[test]
    fn an_outage_uses_nothing_of_the_window() {
        for answers in [false, true] {
            let (retry, start) = (retry(Some(3_600 * S)), Instant::now());
            let (mut clocks, mut patience) = (Clocks::default(), Patience::default());
            clocks.taking.set(true, start);
            clocks.answering.set(true, start);
            let fell = start + 600 * S;
            patience.fell_with_all(&clocks, fell);
            clocks.taking.set(false, fell);
            clocks.answering.set(answers, fell);
            let back = fell + 88 * 3_600 * S;
            assert_eq!(patience.holds_up(&retry, &clocks, back), answers, "the next may find out");
            clocks.taking.set(true, back);
            clocks.answering.set(true, back);
            for (after, expected) in [(0, Next::Again(10 * S)), (3_500, Next::Again(20 * S)), (3_600, Next::Expired)] {
                let next = patience.fell_alone(&retry, &clocks, back + after * S, None, &mut Dice::seeded(1));
                assert_eq!(next, expected, "{after} s after the return");
            }
        }
    }
}
