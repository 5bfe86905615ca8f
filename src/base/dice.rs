//! The only source of chance: seeded, so that a red test can be replayed from the seed it printed.

use std::ops::Range;
use std::time::Duration;

/// A stream of random numbers that depends on its seed alone.
#[derive(Debug, Clone)]
pub struct Dice {
    rng: fastrand::Rng,
    seed: u64,
}

impl Dice {
    /// The same seed gives the same numbers, on every machine.
    #[must_use]
    pub fn seeded(seed: u64) -> Dice {
        Dice { rng: fastrand::Rng::with_seed(seed), seed }
    }

    /// Dice nobody else throws: two agents of a fleet that start together must not stay in step.
    #[must_use]
    pub fn shaken() -> Dice {
        // `fastrand` mixes the process's random hash keys (from the kernel) with the thread's id.
        Dice::seeded(fastrand::u64(..))
    }

    /// What to print beside a failure.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number from the whole range.
    pub fn u64(&mut self) -> u64 {
        self.rng.u64(..)
    }

    /// A number in `range`; `range.start` when it is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() { range.start } else { self.rng.u64(range) }
    }

    /// A duration drawn evenly from `[(1 − factor)·mean, (1 + factor)·mean]`, never negative: the jitter of
    /// otelcol's `randomization_factor` (reference §2.9).
    pub fn around(&mut self, mean: Duration, factor: f64) -> Duration {
        let swing = factor.clamp(0.0, 1.0) * (2.0 * self.rng.f64() - 1.0);
        mean.mul_f64((1.0 + swing).max(0.0))
    }

    /// A duration drawn evenly from zero to `most`.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.f64())
    }

    /// An id of 128 bits, for blocks and spools.
    pub fn id128(&mut self) -> u128 {
        self.rng.u128(..)
    }

    /// True in `part` of `of` throws.
    pub fn chance(&mut self, part: u64, of: u64) -> bool {
        self.within(0..of.max(1)) < part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_numbers_and_another_does_not() {
        let throw = |seed| Dice::seeded(seed).u64();
        assert_eq!(throw(7), throw(7));
        assert_ne!(throw(7), throw(8));
        assert_ne!(Dice::shaken().seed(), Dice::shaken().seed());
    }

    #[test]
    fn jitter_stays_in_its_band_and_uses_both_halves() {
        let mut dice = Dice::seeded(1);
        let draws: Vec<_> = (0..1_000).map(|_| dice.around(Duration::from_secs(10), 0.5)).collect();
        assert!(draws.iter().all(|d| (5.0..=15.0).contains(&d.as_secs_f64())));
        assert!(draws.iter().any(|d| d.as_secs_f64() < 7.0) && draws.iter().any(|d| d.as_secs_f64() > 13.0));
    }
}
