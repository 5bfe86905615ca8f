//! `processors.memory_limiter`: how much memory may be in use before data is refused (reference §2.7).

use crate::base::Bytes;
use std::time::Duration;

/// Above `limit − spike` new data is refused until a check finds less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimiterConfig {
    /// `check_interval`: how often memory is measured. 0.88 demands it; here 1 s with a warning.
    pub check_interval: Duration,
    /// What the limit is measured against.
    pub limit: Limit,
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
        /// 1 to 100, below `limit_percent`; a fifth of it when the file says 0.
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
            Limit::Share { limit_percent, spike_percent } => (part(limit_percent), part(spike_percent)),
        };
        (Bytes(limit), Bytes(limit.saturating_sub(spike)))
    }
}
