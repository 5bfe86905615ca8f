//! The `logging` and `debug` exporters: one line for what passes by, and nothing else.
//!
//! A tee at intake without cursor and queue (architecture §4, "Fan-out"): it keeps nothing, waits for nobody, cannot
//! fail and is not in the books. The line is the original's (reference §2.12): `LogsExporter {"resource logs": 1,
//! "log records": 5}`. It is written for each request, where the original wrote one for each batch, and sampled by the
//! original's settings. `detailed` writes the same line; the dump of the items is not in this build.

use super::config::DebugConfig;
use crate::otlp::Signal;
use crate::telemetry::logs::DUMP;
use crate::telemetry::{ExporterMetrics, Metrics};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// One such exporter.
#[derive(Debug)]
pub struct DebugExporter {
    name: String,
    sampling: (u32, u32),
    metrics: ExporterMetrics,
    /// By signal: each writes a line of its own.
    sampled: Mutex<[Sampler; 3]>,
}

impl DebugExporter {
    /// For the exporter of this id.
    #[must_use]
    pub fn new(config: &DebugConfig, metrics: &Metrics, exporter: &str) -> DebugExporter {
        DebugExporter {
            name: exporter.to_owned(),
            sampling: (config.sampling_initial, config.sampling_thereafter),
            metrics: ExporterMetrics::new(metrics, exporter),
            sampled: Mutex::default(),
        }
    }

    /// A validated request of `items` items passes by.
    pub fn tee(&self, signal: Signal, request: &[u8], items: u64) {
        self.metrics.sent(signal, items);
        let mut sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
        let written = sampled[signal as usize - 1].writes(Instant::now(), self.sampling);
        drop(sampled);
        if !written {
            return;
        }
        let (name, Passing { resources, metrics }) = (&self.name, look(signal, request));
        let (kind, data_type) = ("exporter", signal.name());
        match signal {
            Signal::Traces => {
                info!(target: DUMP, kind, data_type, name, "resource spans" = resources, "spans" = items, "TracesExporter");
            }
            Signal::Metrics => {
                info!(target: DUMP, kind, data_type, name, "resource metrics" = resources, metrics, "data points" = items, "MetricsExporter");
            }
            Signal::Logs => {
                info!(target: DUMP, kind, data_type, name, "resource logs" = resources, "log records" = items, "LogsExporter");
            }
        }
    }
}

/// What is counted beside the items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Passing {
    resources: u64,
    metrics: u64,
}

/// Counts the containers of a request. It was validated, so what cannot be read here is passed over.
fn look(signal: Signal, request: &[u8]) -> Passing {
    let mut passing = Passing::default();
    for resource in children(request, 1) {
        passing.resources += 1;
        if signal == Signal::Metrics {
            passing.metrics += children(resource, 2).map(|scope| children(scope, 2).count() as u64).sum::<u64>();
        }
    }
    passing
}

/// The messages in one field of a message.
fn children(message: &[u8], field: u64) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            let key = varint(&mut rest)?;
            let len = match key & 7 {
                0 => varint(&mut rest).map(|_| 0)?,
                1 => 8,
                5 => 4,
                2 => usize::try_from(varint(&mut rest)?).ok()?,
                _ => return None,
            };
            let (value, after) = rest.split_at_checked(len)?;
            rest = after;
            if key == field << 3 | 2 {
                return Some(value);
            }
        }
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for i in 0..10 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// zap's sampler: of equal lines within a second the first few, then every so manieth.
#[derive(Debug, Clone, Copy, Default)]
struct Sampler {
    tick: Option<Instant>,
    seen: u32,
}

impl Sampler {
    fn writes(&mut self, now: Instant, (initial, thereafter): (u32, u32)) -> bool {
        if self.tick.is_none_or(|tick| now >= tick + Duration::from_secs(1)) {
            *self = Sampler { tick: Some(now), seen: 0 };
        }
        self.seen = self.seen.saturating_add(1);
        self.seen <= initial || (thereafter > 0 && (self.seen - initial).is_multiple_of(thereafter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbered::{Numbered, Source};

    #[test]
    fn containers_are_counted_as_the_original_counts_them() {
        for (signal, metrics) in [(Signal::Logs, 0), (Signal::Traces, 0), (Signal::Metrics, 5)] {
            let mut made = Numbered::new(signal, Source(1));
            let mut request = made.request(20).bytes;
            made.write(20, &mut request);
            assert_eq!(look(signal, &request), Passing { resources: 2, metrics: 2 * metrics }, "{signal}");
            (0..request.len()).for_each(|end| _ = look(signal, &request[..end])); // never panics
        }
    }

    #[test]
    fn equal_lines_are_sampled_each_second_anew() {
        let (start, mut sampler) = (Instant::now(), Sampler::default());
        let mut written = |ms: u64| sampler.writes(start + Duration::from_millis(ms), (2, 5));
        let first: Vec<bool> = (0..12).map(&mut written).collect();
        assert_eq!(first.iter().map(|w| u8::from(*w)).collect::<Vec<_>>(), [1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
        assert!(!written(999) && written(1_000) && written(1_001) && !written(1_002));
        let mut silent = Sampler::default();
        assert!((0..5).all(|_| !silent.writes(start, (0, 0))));
    }

    /// Goal: the line is the original's, word for word (reference/measured/run1_console_v0.88.0.log).
    #[test]
    fn the_line_is_the_originals() {
        use std::sync::Arc;
        use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

        #[derive(Clone, Default)]
        struct Seen(Arc<Mutex<Vec<String>>>);
        impl<S: tracing::Subscriber> Layer<S> for Seen {
            fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
                struct Line(String);
                impl tracing::field::Visit for Line {
                    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                        self.0 += &format!("{}={value:?};", field.name());
                    }
                }
                let mut line = Line(String::new());
                event.record(&mut line);
                self.0.lock().expect("free").push(line.0);
            }
        }
        let seen = Seen::default();
        let metrics = Metrics::detached();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(seen.clone()), || {
            let exporter = DebugExporter::new(&DebugConfig::default(), &metrics, "logging");
            for signal in Signal::ALL {
                let request = Numbered::new(signal, Source(1)).request(20).bytes;
                (0..4).for_each(|_| exporter.tee(signal, &request, 20));
            }
        });
        let mut lines = seen.0.lock().expect("free").clone();
        lines.dedup();
        let expected = [
            "message=TracesExporter;kind=\"exporter\";data_type=\"traces\";name=\"logging\";resource spans=1;spans=20;",
            "message=MetricsExporter;kind=\"exporter\";data_type=\"metrics\";name=\"logging\";resource metrics=1;metrics=5;data points=20;",
            "message=LogsExporter;kind=\"exporter\";data_type=\"logs\";name=\"logging\";resource logs=1;log records=20;",
        ];
        assert_eq!(lines, expected, "two of each, then silence");
        assert!(
            metrics.text().lines().any(|l| l.starts_with("otelcol_exporter_sent_log_records{") && l.ends_with(" 80"))
        );
    }
}
