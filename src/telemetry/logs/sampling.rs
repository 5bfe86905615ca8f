//! Which of many equal lines are written: zap's sampling, so that a fault that repeats a thousand times a second
//! neither fills a small disk nor hides the other lines.

use super::line::Severity;
use crate::base::Stamp;
use std::collections::HashMap;
use std::time::Duration;

/// `service.telemetry.logs.sampling`: of equal lines (level and message; fields do not count) the first `initial` of
/// each tick are written, then each `thereafter`th.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// How long lines are counted before counting begins anew.
    pub tick: Duration,
    /// So many are written in any case.
    pub initial: u64,
    /// Of the rest, each so-many-th; 0: none.
    pub thereafter: u64,
}

impl Default for Sampling {
    /// 0.88's: ten, then each hundredth, per 10 s.
    fn default() -> Sampling {
        Sampling { tick: Duration::from_secs(10), initial: 10, thereafter: 100 }
    }
}

/// Most messages told apart in one tick. We have some hundreds of sentences; others' log records may be formatted with
/// anything, and beyond this number they share one count. zap has 4,096 fixed counters per level for the same reason.
const MESSAGES_MAX: usize = 1_024;

/// The counts of one tick.
#[derive(Debug)]
pub struct Sampler {
    rule: Sampling,
    /// When the tick began; `None` before the first line.
    began: Option<Stamp>,
    seen: HashMap<u64, u64>,
    suppressed: u64,
}

impl Sampler {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(rule: Sampling) -> Sampler {
        Sampler { rule, began: None, seen: HashMap::new(), suppressed: 0 }
    }

    /// Whether this line is written.
    pub fn admits(&mut self, severity: Severity, message: &str, now: Stamp) -> bool {
        if self.began.is_none_or(|began| now.since(began) >= self.rule.tick) {
            self.began = Some(now);
            self.seen.clear();
        }
        // A seed per level keeps equal messages of different gravity apart. 0 is the count all others share.
        let key = xxhash_rust::xxh3::xxh3_64_with_seed(message.as_bytes(), severity as u64);
        let known = self.seen.contains_key(&key) || self.seen.len() < MESSAGES_MAX;
        let count = self.seen.entry(if known { key } else { 0 }).or_insert(0);
        *count += 1;
        let beyond = count.saturating_sub(self.rule.initial);
        let admitted = beyond == 0 || (self.rule.thereafter > 0 && beyond.is_multiple_of(self.rule.thereafter));
        self.suppressed += u64::from(!admitted);
        admitted
    }

    /// Lines that were not written, since the start.
    #[must_use]
    pub fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Stamp {
        Stamp { wall_ns: 0, mono_ms }
    }

    /// zap v1.26, zapcore/sampler.go: `n > first && (thereafter == 0 || (n-first)%thereafter != 0)` is dropped.
    #[test]
    fn the_first_lines_pass_then_each_so_many_th() {
        for (initial, thereafter, passed) in [
            (10, 100, vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 110, 210]),
            (2, 0, vec![1, 2]),
            (0, 100, vec![100, 200]),
            (1, 1, (1..=250).collect()),
        ] {
            let mut sampler = Sampler::new(Sampling { initial, thereafter, ..Sampling::default() });
            let admitted: Vec<u64> = (1..=250).filter(|_| sampler.admits(Severity::Error, "x", at(0))).collect();
            assert_eq!(admitted, passed, "{initial} {thereafter}");
            assert_eq!(sampler.suppressed(), 250 - passed.len() as u64);
        }
    }

    #[test]
    fn counting_begins_anew_with_each_tick_also_after_a_clock_jump() {
        let mut sampler = Sampler::new(Sampling { initial: 1, thereafter: 0, tick: Duration::from_secs(10) });
        let admitted = [0, 9_999, 10_000, 15_000, 20_000].map(|ms| sampler.admits(Severity::Info, "x", at(ms)));
        assert_eq!(admitted, [true, false, true, false, true]);
        assert!(sampler.admits(Severity::Info, "x", Stamp { wall_ns: u64::MAX, mono_ms: 30_000 }));
    }

    #[test]
    fn levels_and_messages_are_counted_apart() {
        let mut sampler = Sampler::new(Sampling { initial: 1, thereafter: 0, ..Sampling::default() });
        let lines = [(Severity::Info, "a"), (Severity::Info, "b"), (Severity::Warn, "a"), (Severity::Warn, "a")];
        assert_eq!(lines.map(|(s, m)| sampler.admits(s, m, at(0))), [true, true, true, false]);
    }

    #[test]
    fn a_flood_of_different_messages_is_bounded_and_hides_no_known_one() {
        let mut sampler = Sampler::new(Sampling { initial: 2, thereafter: 0, ..Sampling::default() });
        assert!(sampler.admits(Severity::Warn, "known", at(0)));
        let flood = (0..100_000).filter(|i| sampler.admits(Severity::Warn, &format!("flood {i}"), at(1))).count();
        assert_eq!(flood, MESSAGES_MAX - 1 + 2);
        assert!(sampler.seen.len() <= MESSAGES_MAX + 1);
        assert!(sampler.admits(Severity::Warn, "known", at(2)));
    }
}
