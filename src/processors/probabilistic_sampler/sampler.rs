//! Whether an item is kept: 0.88's hash and rules, so that an agent and a collector behind it choose the same traces.
//!
//! ```text
//! kept  ⇔  fnv1a32(seed, little-endian ++ trace id) mod 16,384  <  ⌊percentage · 163.84⌋
//! ```
//!
//! One departure: of a log record with neither a trace id nor `from_attribute` the original hashes nothing at all, so
//! that all such records are kept or all are lost, as the seed wills. Here they are kept unless the percentage is 0: the
//! original counts them as `always_sampling`, so that was meant.

use super::config::SamplerConfig;
use crate::otlp::{Leaf, Level, Only, Peek, PeekAny, Signal, Test};
use crate::telemetry::{Metrics, SamplerMetrics};

/// A power of two, so that nothing is divided (contrib v0.88.0, `tracesprocessor.go`).
const BUCKETS: u32 = 0x4000;
/// Buckets for each percent.
const SCALE: f32 = 163.84;

/// What it keeps in a pipeline of this signal. Each decision is counted as the original counts it.
#[must_use]
pub fn keeps(config: &SamplerConfig, signal: Signal, metrics: &Metrics) -> Only {
    let config = config.clone();
    let policies =
        ["sampling_priority", "trace_id_hash", "always_sampling"].into_iter().chain(config.from_attribute.as_deref());
    let metrics = SamplerMetrics::new(metrics, signal, &policies.collect::<Vec<_>>());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // more than all is all
    let rate = (config.percentage * SCALE) as u32;
    let test = match signal {
        Signal::Traces => Test::default().and(Level::Item, move |span| {
            let priority = span.attribute(9, "sampling.priority").and_then(|it| priority_of_span(&it));
            if priority == Some(false) {
                metrics.decided("sampling_priority", false);
                return false;
            }
            metrics.decided("sampling_priority", true);
            let kept = priority == Some(true) || bucket(trace_id(span, 1).as_ref(), config.seed) < rate;
            metrics.decided("trace_id_hash", kept);
            kept
        }),
        Signal::Logs => Test::default().and(Level::Item, move |record| {
            let (policy, kept) = decide(&config, rate, record);
            metrics.decided(policy, kept);
            kept
        }),
        Signal::Metrics => Test::default(), // the catalogue keeps it out of metrics pipelines, as the original does
    };
    Only::default().including(test)
}

/// `sampling.priority`: greater than 0 keeps the span, 0 drops it, everything else leaves it to the hash.
fn priority_of_span(value: &PeekAny<'_>) -> Option<bool> {
    let number = match value.leaf() {
        Leaf::Int(n) => return (n >= 0).then_some(n > 0),
        Leaf::Double(n) => n,
        Leaf::Text(text) => text.parse().ok()?,
        _ => return None,
    };
    (number >= 0.0).then_some(number > 0.0)
}

/// Under which name a record's decision is counted, and what it is.
fn decide<'a>(config: &'a SamplerConfig, rate: u32, record: Peek<'_>) -> (&'a str, bool) {
    let own = config.priority.as_ref().and_then(|key| record.attribute(6, key));
    let rate = own.and_then(|it| rate_of_record(&it)).unwrap_or(rate);
    let id = trace_id(record, 9);
    if !config.by_record && id != [0; 16] {
        return ("trace_id_hash", bucket(&id, config.seed) < rate);
    }
    let from = config.from_attribute.as_ref().and_then(|key| Some((key, record.attribute(6, key)?)));
    match from {
        Some((key, value)) => {
            let kept = match value.leaf() {
                Leaf::Bytes(bytes) => bucket(bytes, config.seed) < rate,
                _ => bucket(value.to_text().as_bytes(), config.seed) < rate,
            };
            (key, kept)
        }
        None => ("always_sampling", rate > 0),
    }
}

/// A record's own percentage, when it is a number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn rate_of_record(value: &PeekAny<'_>) -> Option<u32> {
    let percentage = match value.leaf() {
        Leaf::Double(n) => n,
        Leaf::Int(n) => n as f64,
        _ => return None,
    };
    // Below zero counts as much, as Go's conversion on amd64 has it: through 64 bits.
    let buckets = percentage * 163.84;
    Some(if buckets < 0.0 { buckets as i64 as u32 } else { buckets as u32 })
}

/// The trace id at a field; zeros when there is none.
fn trace_id(item: Peek<'_>, number: u32) -> [u8; 16] {
    item.bytes(number).try_into().unwrap_or_default()
}

/// FNV-1a in 32 bits over seed and id (`fnvhasher.go`), as one of the buckets.
fn bucket(id: &[u8], seed: u32) -> u32 {
    let bytes = seed.to_le_bytes().into_iter().chain(id.iter().copied());
    bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619)) % BUCKETS
}

#[cfg(test)]
mod tests;
