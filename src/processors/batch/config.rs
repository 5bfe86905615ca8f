//! `processors.batch`: how large an upload grows and how long it waits for more (reference §2.6).
//!
//! In otelcol these numbers also decide how much a crash loses. Here they decide only what one upload is: the
//! data is on disk before (architecture §4).

use std::time::Duration;

/// Counted in spans, metric data points or log records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchConfig {
    /// `timeout`, 200 ms: the longest an upload waits for more items; zero: it never waits.
    pub timeout: Duration,
    /// `send_batch_size`, 8,192: enough items to send at once; 0: any number is.
    pub send_batch_size: u32,
    /// `send_batch_max_size`: the most items of one upload; 0: no limit. Never below `send_batch_size`.
    pub send_batch_max_size: u32,
    /// `metadata_keys`: requests that differ in these headers are not put into one upload. Lower case.
    /// Parsed, not acted on yet.
    pub metadata_keys: Vec<String>,
    /// `metadata_cardinality_limit`, 1,000: how many groups there may be; 0: no limit. Parsed, not acted on yet.
    pub metadata_cardinality_limit: u32,
}

impl Default for BatchConfig {
    fn default() -> BatchConfig {
        BatchConfig {
            timeout: Duration::from_millis(200),
            send_batch_size: 8_192,
            send_batch_max_size: 0,
            metadata_keys: Vec::new(),
            metadata_cardinality_limit: 1_000,
        }
    }
}
