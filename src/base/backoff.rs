//! How long to rest between tries: the one file that names the `backoff` crate (unmaintained; see deny.toml).
//!
//! The crate serves the arithmetic of the growing interval. Its own jitter is switched off, because it draws
//! from the thread's global generator and applies it *before* the cap, which makes a fleet knock in step once
//! every agent has reached the cap (rivals §4, "Thundering herd"). Ours is drawn from seeded dice, after the cap.

use super::Dice;
use backoff::backoff::Backoff as _;
use std::time::Duration;

/// otelcol's `retry_on_failure`, as numbers (reference §2.9).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Curve {
    /// Rest after the first failure.
    pub initial: Duration,
    /// Growth from one rest to the next; below 1 counts as 1.
    pub multiplier: f64,
    /// Longest rest, before jitter.
    pub max: Duration,
    /// Jitter: a rest is drawn from `[(1 − f)·rest, (1 + f)·rest]`.
    pub randomization_factor: f64,
}

impl Default for Curve {
    /// otelcol's defaults: 5 s growing by half to 30 s, jitter of half.
    fn default() -> Curve {
        Curve {
            initial: Duration::from_secs(5),
            multiplier: 1.5,
            max: Duration::from_secs(30),
            randomization_factor: 0.5,
        }
    }
}

impl Curve {
    /// The rest after `failures` failures in a row (1 for the first), before jitter.
    #[must_use]
    pub fn rest(&self, failures: u32) -> Duration {
        let mut steps = backoff::ExponentialBackoff {
            current_interval: self.initial.min(self.max),
            initial_interval: self.initial.min(self.max),
            randomization_factor: 0.0,
            multiplier: self.multiplier.max(1.0),
            max_interval: self.max,
            max_elapsed_time: None,
            ..backoff::ExponentialBackoff::default()
        };
        // The interval stops growing at the cap, so more steps than it takes to get there change nothing.
        let enough = 1_024;
        let mut rest = self.initial.min(self.max);
        for _ in 0..failures.clamp(1, enough) {
            rest = steps.next_backoff().unwrap_or(self.max);
            if rest >= self.max {
                break;
            }
        }
        rest.min(self.max)
    }

    /// [`Curve::rest`] with jitter, applied after the cap.
    #[must_use]
    pub fn jittered(&self, failures: u32, dice: &mut Dice) -> Duration {
        dice.around(self.rest(failures), self.randomization_factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_to_the_cap_and_stay_there() {
        let curve = Curve {
            initial: Duration::from_secs(10),
            multiplier: 2.0,
            max: Duration::from_secs(60),
            randomization_factor: 0.5,
        };
        let rests: Vec<_> = [1, 2, 3, 4, 5, u32::MAX].map(|n| curve.rest(n).as_secs()).into();
        assert_eq!(rests, [10, 20, 40, 60, 60, 60]);
    }

    #[test]
    fn the_curve_of_the_original_is_the_default() {
        let rests: Vec<_> = (1..=6).map(|n| Curve::default().rest(n).as_millis()).collect();
        assert_eq!(rests, [5_000, 7_500, 11_250, 16_875, 25_312, 30_000]);
    }

    #[test]
    fn jitter_is_applied_after_the_cap_so_a_fleet_at_the_cap_is_spread() {
        let curve = Curve::default();
        let rests: Vec<_> = (0..200).map(|agent| curve.jittered(99, &mut Dice::seeded(agent)).as_secs()).collect();
        assert!(rests.iter().any(|&s| s < 20) && rests.iter().any(|&s| s > 40), "{rests:?}");
    }

    #[test]
    fn silly_curves_do_not_panic() {
        for (multiplier, factor) in [(0.0, 0.0), (f64::NAN, f64::NAN), (f64::INFINITY, 9.0), (-3.0, -1.0)] {
            let curve =
                Curve { initial: Duration::MAX, multiplier, max: Duration::from_secs(1), randomization_factor: factor };
            assert!(curve.jittered(u32::MAX, &mut Dice::seeded(1)) <= Duration::from_secs(2));
        }
    }
}
