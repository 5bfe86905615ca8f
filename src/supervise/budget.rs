//! Core: how often a post may fall before somebody above must know.

use super::Policy;
use crate::base::Dice;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// The falls of one seat that still count.
///
/// ```text
///  fall ─▶ within the budget?  yes ─▶ Pause (longer with every fall in the window) ─▶ rebuilt
///                              no  ─▶ Spent: vital ends the process, others rest long and start afresh
/// ```
#[derive(Debug, Clone, Default)]
pub(super) struct Budget {
    falls: VecDeque<Instant>,
}

/// What a fall costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// Wait so long, then build the actor anew.
    Pause(Duration),
    /// More falls than the budget within the window.
    Spent,
}

impl Budget {
    /// Enters a fall. Never holds more than `budget + 1` of them.
    pub(super) fn charge(&mut self, now: Instant, policy: &Policy, dice: &mut Dice) -> Charge {
        while self.falls.front().is_some_and(|&fall| now.saturating_duration_since(fall) > policy.window) {
            self.falls.pop_front();
        }
        self.falls.push_back(now);
        let recent = u32::try_from(self.falls.len()).unwrap_or(u32::MAX);
        if recent > policy.budget {
            self.falls.clear(); // the next life, if there is one, starts with a clean record
            return Charge::Spent;
        }
        Charge::Pause(policy.pause.jittered(recent, dice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::backoff::Curve;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn policy(budget: u32) -> Policy {
        let pause = Curve { initial: S(1), multiplier: 2.0, max: S(5), randomization_factor: 0.0 };
        Policy { pause, budget, window: S(60), ..Policy::STANDARD }
    }

    /// Charges one fall at each second of `at` and shows the answers.
    fn charges(budget: u32, at: &[u64]) -> Vec<Charge> {
        let (mut book, start, mut dice) = (Budget::default(), Instant::now(), Dice::seeded(1));
        at.iter().map(|&s| book.charge(start + S(s), &policy(budget), &mut dice)).collect()
    }

    #[test]
    #[rustfmt::skip]
    fn a_post_may_fall_as_often_as_its_budget_says_within_the_window() {
        use Charge::{Pause, Spent};
        let p = |s| Pause(S(s));
        for (budget, at, expected) in [
            (3, vec![0, 1, 2, 3],          vec![p(1), p(2), p(4), Spent]),
            (3, vec![0, 30, 61, 92],       vec![p(1), p(2), p(2), p(2)]),         // old falls are forgiven
            (3, vec![0, 60, 60, 60],       vec![p(1), p(2), p(4), Spent]),         // the window's edge still counts
            (0, vec![0],                   vec![Spent]),
            (1, vec![0, 1, 2],             vec![p(1), Spent, p(1)]),               // after the long rest: afresh
        ] {
            assert_eq!(charges(budget, &at), expected, "budget {budget}, falls at {at:?} s");
        }
    }

    /// The prototype lost a mailbox to an overflow of its pause; this one saturates at the curve's end.
    #[test]
    fn the_pause_saturates_and_the_record_stays_short() {
        let at: Vec<u64> = vec![0; 10_000];
        let all = charges(u32::MAX, &at);
        assert_eq!(all.last(), Some(&Charge::Pause(S(5))));
        let mut book = Budget::default();
        for _ in 0..1_000 {
            let _ = book.charge(Instant::now(), &policy(5), &mut Dice::seeded(1));
            assert!(book.falls.len() <= 6, "at most the budget and one");
        }
    }
}
