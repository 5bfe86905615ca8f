//! Whether there is memory for more: the decision, and when memory was last looked at.
//!
//! What is measured is what is *live* (allocated bytes, from the allocator, and bytes of requests in flight), not the
//! resident size: allocators keep pages, and a page cache is nobody's data (architecture §4, "Memory").

use super::config::MemoryLimiterConfig;
use crate::base::{Bytes, Clock};
use crate::otlp::{Signal, all_below};
use crate::telemetry::ProcessorMetrics;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Measures live bytes.
pub type Gauge = Arc<dyn Fn() -> u64 + Send + Sync>;

/// One `memory_limiter` of the configuration, shared by every pipeline that names it, as in the original.
///
/// ```text
/// 0                         near        soft         hard
/// ├──── all pass ───────────┼───────────┼────────────┼──▶ live bytes
///                           └ only what is severe    └ nothing passes from soft on; what was let in before may still
///                             (`refuse_first_below`)   grow as far as here
/// ```
pub struct Limiter {
    /// Half a spike below `soft`.
    near: Bytes,
    soft: Bytes,
    hard: Bytes,
    interval_ms: u64,
    measure: Gauge,
    clock: Clock,
    metrics: ProcessorMetrics,
    /// Monotonic time of the last look, ms; 0 for never.
    looked_ms: AtomicU64,
    /// A [`Pressure`].
    pressure: AtomicU8,
    /// Whose turn is first when memory is near the soft limit.
    first_below: Option<u8>,
}

/// What the last look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pressure {
    None,
    Near,
    Above,
}

impl Pressure {
    const ALL: [Pressure; 3] = [Pressure::None, Pressure::Near, Pressure::Above];

    /// At the soft limit is above it (v0.88.0, `memorylimiter.go`).
    fn of(live: Bytes, near: Bytes, soft: Bytes) -> Pressure {
        match live {
            live if live >= soft => Pressure::Above,
            live if live >= near => Pressure::Near,
            _ => Pressure::None,
        }
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("soft", &self.soft).field("hard", &self.hard).finish_non_exhaustive()
    }
}

/// Above the soft limit: the client is asked to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("data refused due to high memory usage")] // the original's words: users grep for them
pub struct HighMemory;

impl Limiter {
    /// On a machine (or in a cgroup) with `total` memory.
    #[must_use]
    pub fn new(
        config: &MemoryLimiterConfig,
        total: Bytes,
        measure: Gauge,
        clock: Clock,
        metrics: ProcessorMetrics,
    ) -> Limiter {
        let (hard, soft) = config.limits(total);
        let interval_ms = u64::try_from(config.check_interval.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(limit = %hard, soft_limit = %soft, check_interval_ms = interval_ms, "Memory limiter configured");
        let near = Bytes(soft.0.saturating_sub((hard.0 - soft.0) / 2));
        let first_below = config.refuse_first_below;
        let (looked_ms, pressure) = (0.into(), (Pressure::None as u8).into());
        Limiter { near, soft, hard, interval_ms, measure, clock, metrics, looked_ms, pressure, first_below }
    }

    /// The most that may be live.
    #[must_use]
    pub fn hard(&self) -> Bytes {
        self.hard
    }

    /// Lets a request of `items` through, or not, by the last look; looks again when that is older than
    /// `check_interval`. Nothing is looked at while nobody asks, so an idle agent stays idle.
    ///
    /// A request is let through whole or not at all: its client comes back with all of it.
    ///
    /// # Errors
    /// When memory in use is above the soft limit, or near it and the request is one of those that go first.
    pub fn admit(&self, signal: Signal, items: u32, request: &[u8]) -> Result<(), HighMemory> {
        let now = self.clock.now().mono_ms.max(1);
        let looked = self.looked_ms.load(Relaxed);
        if looked == 0 || now.saturating_sub(looked) >= self.interval_ms {
            self.looked_ms.store(now, Relaxed);
            self.look();
        }
        let refused = match Pressure::ALL[usize::from(self.pressure.load(Relaxed))] {
            Pressure::None => false,
            Pressure::Near => {
                signal == Signal::Logs && self.first_below.is_some_and(|severity| all_below(request, severity))
            }
            Pressure::Above => true,
        };
        if refused {
            self.metrics.refused(signal, items.into());
            return Err(HighMemory);
        }
        self.metrics.accepted(signal, items.into());
        Ok(())
    }

    fn look(&self) {
        let live = Bytes((self.measure)());
        let now = Pressure::of(live, self.near, self.soft);
        let before = Pressure::ALL[usize::from(self.pressure.swap(now as u8, Relaxed))];
        let soft_limit = self.soft;
        match (before, now) {
            (Pressure::Above, Pressure::Above) => {}
            (_, Pressure::Above) => {
                tracing::warn!(%live, %soft_limit, "Memory usage is above soft limit. Refusing data.");
            }
            (Pressure::Above, _) => {
                tracing::info!(%live, "Memory usage back within limits. Resuming normal operation.");
            }
            _ => {}
        }
        if let Some(below) = self.first_below.filter(|_| now == Pressure::Near && before != now) {
            tracing::info!(%live, %soft_limit, below, "Memory usage is near soft limit. Refusing logs of low severity.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Stamp;
    use crate::processors::memory_limiter::config::Limit;
    use crate::telemetry::Metrics;
    use std::time::Duration;

    #[test]
    fn data_is_refused_above_the_soft_limit_until_a_later_look_finds_less() {
        let live = Arc::new(AtomicU64::new(0));
        let measured = live.clone();
        let clock = Clock::by_hand(Stamp { wall_ns: 0, mono_ms: 5_000 });
        let config = MemoryLimiterConfig {
            check_interval: Duration::from_secs(1),
            limit: Limit::Fixed { limit: Bytes::mib(100), spike: Bytes::mib(20) },
            refuse_first_below: None,
        };
        let metrics = ProcessorMetrics::new(&Metrics::detached(), "memory_limiter");
        let limiter =
            Limiter::new(&config, Bytes::mib(256), Arc::new(move || measured.load(Relaxed)), clock.clone(), metrics);
        let admit = || limiter.admit(Signal::Logs, 5, &[]).is_ok();
        assert!(admit());
        live.store(80 << 20, Relaxed);
        assert!(admit(), "between two looks the last one counts");
        clock.advance(Duration::from_secs(1));
        assert!(!admit());
        live.store((80 << 20) - 1, Relaxed);
        assert!(!admit(), "between two looks the last one counts");
        clock.advance(Duration::from_secs(1));
        assert!(admit());
    }

    /// Goal: when memory grows short, what is said only for the record comes back later, so that what is severe has room.
    /// Method: every pressure, and requests from harmless to severe; with and without the key.
    #[test]
    #[rustfmt::skip]
    fn near_the_soft_limit_requests_without_severe_records_are_refused_first() {
        let records = |severities: &[u8]| {
            let records: Vec<u8> = severities.iter().flat_map(|n| if *n == 0 { vec![0x12, 0] } else { vec![0x12, 2, 0x10, *n] }).collect();
            let len = u8::try_from(records.len()).expect("short");
            [&[0x0a, len + 2, 0x12, len], &records[..]].concat()
        };
        for (first_below, live_mib, signal, severities, expected) in [
            (Some(13), 69, Signal::Logs,   &[5, 9][..],  true),
            (Some(13), 70, Signal::Logs,   &[5, 9],      false), // 100 − 20 − 20/2
            (Some(13), 79, Signal::Logs,   &[5, 9],      false),
            (Some(13), 79, Signal::Logs,   &[5, 13, 9],  true),  // a request is taken whole or not at all
            (Some(13), 79, Signal::Logs,   &[5, 0],      true),  // nobody knows how severe that is
            (Some(13), 79, Signal::Traces, &[5, 9],      true),  // which say nothing of the kind
            (Some(13), 80, Signal::Logs,   &[21],        false), // above it all are alike
            (None,     79, Signal::Logs,   &[5, 9],      true),
        ] {
            let config = MemoryLimiterConfig {
                check_interval: Duration::from_secs(1),
                limit: Limit::Fixed { limit: Bytes::mib(100), spike: Bytes::mib(20) },
                refuse_first_below: first_below,
            };
            let metrics = ProcessorMetrics::new(&Metrics::detached(), "memory_limiter");
            let clock = Clock::by_hand(Stamp { wall_ns: 0, mono_ms: 5_000 });
            let limiter = Limiter::new(&config, Bytes::mib(256), Arc::new(move || live_mib << 20), clock, metrics);
            let request = records(severities);
            assert_eq!(limiter.admit(signal, 1, &request).is_ok(), expected, "{first_below:?} at {live_mib}: {severities:?}");
        }
    }
}
