//! `processors.batch`: how large an upload grows and how long it waits for more (reference §2.6).
//!
//! In otelcol these numbers also decide how much a crash loses. Here they decide only what one upload is: the
//! data is on disk before (architecture §4).

use crate::config::Section;
use crate::config::problems::quote;
use std::collections::BTreeSet;
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
    /// `send_batch_max_bytes`, just under 4 MiB: the most bytes of one upload, uncompressed; 0: no limit. One item alone
    /// is sent whatever its size. The original does not have it and sends what gRPC servers refuse.
    pub send_batch_max_bytes: u32,
    /// `metadata_keys`: requests that differ in these headers are not put into one upload. Lower case.
    pub metadata_keys: Vec<String>,
    /// `metadata_cardinality_limit`, 1,000: how many groups there may be; 0: no limit. A group more is refused and
    /// may come back (the original refuses it for good).
    pub metadata_cardinality_limit: u32,
}

/// What gRPC servers take by default is 4 MiB (reference §2.2); less 4 KiB for whatever frames it.
const SEND_BATCH_MAX_BYTES: u32 = 4 * 1_024 * 1_024 - 4_096;

impl Default for BatchConfig {
    fn default() -> BatchConfig {
        BatchConfig {
            timeout: Duration::from_millis(200),
            send_batch_size: 8_192,
            send_batch_max_size: 0,
            send_batch_max_bytes: SEND_BATCH_MAX_BYTES,
            metadata_keys: Vec::new(),
            metadata_cardinality_limit: 1_000,
        }
    }
}

impl BatchConfig {
    /// Reads `processors.batch`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> BatchConfig {
        let default = BatchConfig::default();
        let keys = s.texts("metadata_keys", &[]);
        let config = BatchConfig {
            timeout: s.duration("timeout", default.timeout),
            send_batch_size: s.number("send_batch_size", default.send_batch_size, 0..=u32::MAX),
            send_batch_max_size: s.number("send_batch_max_size", default.send_batch_max_size, 0..=u32::MAX),
            send_batch_max_bytes: s.number("send_batch_max_bytes", default.send_batch_max_bytes, 0..=u32::MAX),
            metadata_keys: keys.iter().map(|key| key.to_ascii_lowercase()).collect(),
            metadata_cardinality_limit: s.number(
                "metadata_cardinality_limit",
                default.metadata_cardinality_limit,
                0..=u32::MAX,
            ),
        };
        let (size, max) = (config.send_batch_size, config.send_batch_max_size);
        s.unless(max == 0 || max >= size, "send_batch_max_size", || {
            format!("{max} is less than send_batch_size ({size})")
        });
        let mut seen = BTreeSet::new();
        let twice = config.metadata_keys.iter().find(|key| !seen.insert(key.as_str()));
        s.unless(twice.is_none(), "metadata_keys", || {
            format!("names {} twice (upper and lower case are the same)", quote(twice.map_or("", String::as_str)))
        });
        config
    }
}
