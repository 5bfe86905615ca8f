//! `receivers.self`: the agent's own numbers as telemetry.

use crate::config::Section;
use std::time::Duration;

/// Sends what `:8888/metrics` shows into its pipelines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnConfig {
    /// `collection_interval`, 60 s: how often.
    pub collection_interval: Duration,
}

impl Default for OwnConfig {
    fn default() -> OwnConfig {
        OwnConfig { collection_interval: Duration::from_secs(60) }
    }
}

impl OwnConfig {
    /// Reads `receivers.self`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> OwnConfig {
        let default = OwnConfig::default();
        OwnConfig { collection_interval: s.duration_above_zero("collection_interval", default.collection_interval) }
    }
}
