//! Whether there is memory for more: the decision, and when memory was last looked at.
//!
//! What is measured is what is *live* (allocated bytes, from the allocator, and bytes of requests in flight), not the
//! resident size: allocators keep pages, and a page cache is nobody's data (architecture §4, "Memory").

use super::config::MemoryLimiterConfig;
use crate::base::{Bytes, Clock};
use crate::otlp::Signal;
use crate::telemetry::ProcessorMetrics;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Measures live bytes.
pub type Gauge = Arc<dyn Fn() -> u64 + Send + Sync>;

/// One `memory_limiter` of the configuration, shared by every pipeline that names it, as in the original.
pub struct Limiter {
    soft: Bytes,
    hard: Bytes,
    interval_ms: u64,
    measure: Gauge,
    clock: Clock,
    metrics: ProcessorMetrics,
    /// Monotonic time of the last look, ms; 0 for never.
    looked_ms: AtomicU64,
    refusing: AtomicBool,
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
        Limiter { soft, hard, interval_ms, measure, clock, metrics, looked_ms: 0.into(), refusing: false.into() }
    }

    /// The most that may be live.
    #[must_use]
    pub fn hard(&self) -> Bytes {
        self.hard
    }

    /// Lets `items` of a request through, or not, by the last look; looks again when that is older than
    /// `check_interval`. Nothing is looked at while nobody asks, so an idle agent stays idle.
    ///
    /// # Errors
    /// When memory in use is above the soft limit.
    pub fn admit(&self, signal: Signal, items: u32) -> Result<(), HighMemory> {
        let now = self.clock.now().mono_ms.max(1);
        let looked = self.looked_ms.load(Relaxed);
        if looked == 0 || now.saturating_sub(looked) >= self.interval_ms {
            self.looked_ms.store(now, Relaxed);
            self.look();
        }
        if self.refusing.load(Relaxed) {
            self.metrics.refused(signal, items.into());
            return Err(HighMemory);
        }
        self.metrics.accepted(signal, items.into());
        Ok(())
    }

    fn look(&self) {
        let live = Bytes((self.measure)());
        let above = live > self.soft;
        if self.refusing.swap(above, Relaxed) != above {
            if above {
                tracing::warn!(%live, soft_limit = %self.soft, "Memory usage is above soft limit. Refusing data.");
            } else {
                tracing::info!(%live, "Memory usage back within limits. Resuming normal operation.");
            }
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
        };
        let metrics = ProcessorMetrics::new(&Metrics::detached(), "memory_limiter");
        let limiter =
            Limiter::new(&config, Bytes::mib(256), Arc::new(move || measured.load(Relaxed)), clock.clone(), metrics);
        let admit = || limiter.admit(Signal::Logs, 5).is_ok();
        assert!(admit());
        live.store(81 << 20, Relaxed);
        assert!(admit(), "between two looks the last one counts");
        clock.advance(Duration::from_secs(1));
        assert!(!admit());
        live.store(79 << 20, Relaxed);
        assert!(!admit(), "between two looks the last one counts");
        clock.advance(Duration::from_secs(1));
        assert!(admit());
    }
}
