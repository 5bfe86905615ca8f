//! `processors.memory_limiter`: how much memory may be in use before data is refused (reference §2.7).

use crate::base::Bytes;
use crate::config::Section;
use crate::processors::severity;
use std::time::Duration;

/// Above `limit − spike` new data is refused until a check finds less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimiterConfig {
    /// `check_interval`: how often memory is measured. 0.88 demands it; here 1 s with a warning.
    pub check_interval: Duration,
    /// What the limit is measured against.
    pub limit: Limit,
    /// `refuse_first_below`: while memory is near the soft limit, requests in which every log record is less severe than
    /// this are refused before the others; None: all alike, as in the original, which does not have it.
    pub refuse_first_below: Option<u8>,
}

/// The two ways to write the limit; `limit_mib` wins when both stand in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    /// `limit_mib`, `spike_limit_mib`.
    Fixed {
        /// Never use more.
        limit: Bytes,
        /// Room for what arrives between two checks; a fifth of `limit` when the file says 0.
        spike: Bytes,
    },
    /// `limit_percentage`, `spike_limit_percentage`: of the cgroup's limit, or of the machine's memory.
    Share {
        /// 1 to 100.
        limit_percent: u8,
        /// Below `limit_percent`; 0: a fifth of the limit.
        spike_percent: u8,
    },
}

impl MemoryLimiterConfig {
    /// The hard and the soft limit, in bytes, on a machine (or in a cgroup) with so much memory.
    #[must_use]
    pub fn limits(&self, total: Bytes) -> (Bytes, Bytes) {
        let part = |percent: u8| total.0 / 100 * u64::from(percent);
        let (limit, spike) = match self.limit {
            Limit::Fixed { limit, spike } => (limit.0, spike.0),
            Limit::Share { limit_percent, spike_percent: 0 } => (part(limit_percent), part(limit_percent) / SPIKE_PART),
            Limit::Share { limit_percent, spike_percent } => (part(limit_percent), part(spike_percent)),
        };
        (Bytes(limit), Bytes(limit.saturating_sub(spike)))
    }
}

/// What `check_interval` is when nobody says it: otelcol's own documents recommend it.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Largest `limit_mib`: a million GiB.
const LIMIT_MAX_MIB: u64 = 1 << 40;
/// The part of the limit that is the spike when nobody says it.
const SPIKE_PART: u64 = 5;

impl MemoryLimiterConfig {
    /// Reads `processors.memory_limiter`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> MemoryLimiterConfig {
        let given = s.duration("check_interval", Duration::ZERO);
        if given.is_zero() {
            s.warn("check_interval", "check_interval is not given (otelcol refuses that); 1s is assumed");
        }
        s.moot_all(
            &[
                "min_gc_interval_when_soft_limited",
                "min_gc_interval_when_hard_limited",
                "max_gc_interval_when_soft_limited",
                "max_gc_interval_when_hard_limited",
                "ballast_size_mib",
            ],
            "memory is freed at once here; there is no garbage collector",
        );
        MemoryLimiterConfig {
            check_interval: if given.is_zero() { CHECK_INTERVAL } else { given },
            limit: Limit::read(s),
            refuse_first_below: refuse_first_below(s),
        }
    }
}

fn refuse_first_below(s: &Section<'_>) -> Option<u8> {
    let written = s.text_if_given("refuse_first_below")?;
    let number = severity::number(&written);
    s.unless(number.is_some(), "refuse_first_below", severity::none_such);
    number
}

impl Limit {
    fn read(s: &Section<'_>) -> Limit {
        let limit = s.number("limit_mib", 0, 0..=LIMIT_MAX_MIB);
        let spike = s.number("spike_limit_mib", 0, 0..=LIMIT_MAX_MIB);
        let limit_percent = s.number("limit_percentage", 0, 0..=100_u8);
        let spike_percent = s.number("spike_limit_percentage", 0, 0..=100_u8);
        if limit == 0 && limit_percent == 0 {
            s.error_here("there is no limit; give limit_mib or limit_percentage");
        }
        if limit > 0 {
            s.warn_unless(limit_percent == 0, "limit_percentage", || {
                "has no effect: limit_mib goes before it".to_owned()
            });
            let too_much = || format!("{spike} is not less than limit_mib ({limit}); all data would be refused");
            s.unless(spike < limit, "spike_limit_mib", too_much);
            let spike = if spike == 0 { Bytes(Bytes::mib(limit).0 / SPIKE_PART) } else { Bytes::mib(spike) };
            return Limit::Fixed { limit: Bytes::mib(limit), spike };
        }
        let too_much = || {
            format!("{spike_percent} is not less than limit_percentage ({limit_percent}); all data would be refused")
        };
        s.unless(limit_percent == 0 || spike_percent < limit_percent, "spike_limit_percentage", too_much);
        Limit::Share { limit_percent, spike_percent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    #[test]
    #[rustfmt::skip]
    fn the_spike_is_a_fifth_unless_it_is_given() {
        let mib = Bytes::mib;
        for (yaml, expected) in [
            ("{limit_mib: 100}",                                   Limit::Fixed { limit: mib(100), spike: mib(20) }),
            ("{limit_mib: 100, spike_limit_mib: 30}",              Limit::Fixed { limit: mib(100), spike: mib(30) }),
            ("{limit_percentage: 75}",                             Limit::Share { limit_percent: 75, spike_percent: 0 }),
            ("{limit_percentage: 75, spike_limit_percentage: 25}", Limit::Share { limit_percent: 75, spike_percent: 25 }),
        ] {
            let yaml = format!("{{check_interval: 2s, {}", &yaml[1..]);
            let expected = MemoryLimiterConfig { check_interval: Duration::from_secs(2), limit: expected, refuse_first_below: None };
            assert_eq!(try_out(&yaml, &[], MemoryLimiterConfig::read), (expected, String::new()), "{yaml}");
        }
        let (read, told) = try_out("{check_interval: 1s, limit_mib: 9, refuse_first_below: warn}", &[], MemoryLimiterConfig::read);
        assert_eq!((read.refuse_first_below, told.as_str()), (Some(13), ""));
        let (_, told) = try_out("{check_interval: 1s, limit_mib: 9, refuse_first_below: high}", &[], MemoryLimiterConfig::read);
        assert!(told.starts_with("is no severity"), "{told}");
        let (_, told) = try_out("{check_interval: 1s, limit_percentage: 20, spike_limit_percentage: 20}", &[], MemoryLimiterConfig::read);
        assert_eq!(told, "20 is not less than limit_percentage (20); all data would be refused");
    }

    #[test]
    #[rustfmt::skip]
    fn the_limits_are_fixed_or_a_share_of_the_machine() {
        let mib = Bytes::mib;
        for (limit, total, expected) in [
            (Limit::Fixed { limit: mib(256), spike: mib(64) },         mib(1_000), (mib(256), mib(192))),
            (Limit::Fixed { limit: mib(256), spike: mib(64) },         mib(1),     (mib(256), mib(192))),
            (Limit::Share { limit_percent: 80, spike_percent: 25 },    mib(100),   (mib(80), mib(55))),
            (Limit::Share { limit_percent: 75, spike_percent: 0 },     mib(100),   (mib(75), mib(60))),
            (Limit::Share { limit_percent: 4, spike_percent: 0 },      mib(500),   (mib(20), mib(16))), // a fifth of bytes, not of percents
        ] {
            let config = MemoryLimiterConfig { check_interval: CHECK_INTERVAL, limit, refuse_first_below: None };
            assert_eq!(config.limits(total), expected, "{config:?}");
        }
    }
}
