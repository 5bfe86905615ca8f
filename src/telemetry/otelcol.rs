//! The families otelcol 0.88 shows, name for name and text for text, so that its dashboards and alerts go on working
//! (reference §3.1; texts from opentelemetry-collector v0.88.0, `internal/obsreportconfig/obsmetrics`).
//!
//! Which series appear together is the original's too: `refused` with `accepted`; for memory_limiter also `dropped`;
//! `sent` with `send_failed` but not the other way round; queue gauges only for an exporter that has a queue.
//!
//! These types count and say nothing. A component wraps them in its own `…Metrics`, whose methods count *and* log.

use super::metrics::{Counter, Counters, Histogram, Metrics, Pulled};
use crate::otlp::Signal;
use std::sync::Arc;

/// What one receiver took in over one transport.
#[derive(Debug, Clone)]
pub struct ReceiverMetrics {
    accepted: PerSignal,
    refused: PerSignal,
    /// Ours: requests, of which the original says nothing before their items are counted.
    requests_refused: Counters,
    labels: [String; 2],
}

impl ReceiverMetrics {
    /// `transport` is `grpc` or `http` for otlp, `http` for prometheus and fluentforward, empty for filelog.
    #[must_use]
    pub fn new(metrics: &Metrics, receiver: &str, transport: &str) -> ReceiverMetrics {
        let family = |name: [&'static str; 3], text: &str| {
            PerSignal::new(metrics, name, text, &["receiver", "transport"], &[receiver, transport])
        };
        ReceiverMetrics {
            requests_refused: metrics.counters(
                "tfo_agent_requests_refused",
                "Requests that were answered with an error, by reason.",
                &["receiver", "transport", "reason"],
            ),
            labels: [receiver.to_owned(), transport.to_owned()],
            accepted: family(
                [
                    "otelcol_receiver_accepted_spans",
                    "otelcol_receiver_accepted_metric_points",
                    "otelcol_receiver_accepted_log_records",
                ],
                "Number of {items} successfully pushed into the pipeline.",
            ),
            refused: family(
                [
                    "otelcol_receiver_refused_spans",
                    "otelcol_receiver_refused_metric_points",
                    "otelcol_receiver_refused_log_records",
                ],
                "Number of {items} that could not be pushed into the pipeline.",
            ),
        }
    }

    /// Items that were answered with success.
    pub fn accepted(&self, signal: Signal, items: u64) {
        self.accepted.add(signal, items);
        self.refused.add(signal, 0);
    }

    /// A request that was answered with an error, whether or not its items were ever counted.
    pub fn request_refused(&self, reason: &'static str) {
        let [receiver, transport] = &self.labels;
        self.requests_refused.with(&[receiver, transport, reason]).inc();
    }

    /// Items that were answered with an error.
    pub fn refused(&self, signal: Signal, items: u64) {
        self.refused.add(signal, items);
        self.accepted.add(signal, 0);
    }
}

/// Whom one listener did not serve.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    connections_refused: Counters,
    listener: String,
}

impl ListenerMetrics {
    /// `listener`: `otlp/grpc`, `otlp/http`, `health_check`, `metrics`.
    #[must_use]
    pub fn new(metrics: &Metrics, listener: &str) -> ListenerMetrics {
        let family = metrics.counters(
            "tfo_agent_connections_refused",
            "Connections that were closed for what their clients did or did not do, by reason.",
            &["listener", "reason"],
        );
        ListenerMetrics { connections_refused: family, listener: listener.to_owned() }
    }

    /// A connection that was closed: `full`, `tls`, `slow`, or what was too many.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.with(&[&self.listener, reason]).inc();
        tracing::debug!(listener = %self.listener, reason, "a connection was refused");
    }
}

/// What memory_limiter let through, and what a processor dropped.
#[derive(Debug, Clone)]
pub struct ProcessorMetrics {
    accepted: PerSignal,
    refused: PerSignal,
    dropped: PerSignal,
}

impl ProcessorMetrics {
    /// In 0.88 only memory_limiter has these; another processor that drops items may use them as well.
    #[must_use]
    pub fn new(metrics: &Metrics, processor: &str) -> ProcessorMetrics {
        let family =
            |name: [&'static str; 3], text: &str| PerSignal::new(metrics, name, text, &["processor"], &[processor]);
        ProcessorMetrics {
            accepted: family(
                [
                    "otelcol_processor_accepted_spans",
                    "otelcol_processor_accepted_metric_points",
                    "otelcol_processor_accepted_log_records",
                ],
                "Number of {items} successfully pushed into the next component in the pipeline.",
            ),
            refused: family(
                [
                    "otelcol_processor_refused_spans",
                    "otelcol_processor_refused_metric_points",
                    "otelcol_processor_refused_log_records",
                ],
                "Number of {items} that were rejected by the next component in the pipeline.",
            ),
            dropped: family(
                [
                    "otelcol_processor_dropped_spans",
                    "otelcol_processor_dropped_metric_points",
                    "otelcol_processor_dropped_log_records",
                ],
                "Number of {items} that were dropped.",
            ),
        }
    }

    /// Items that went on to the next component.
    pub fn accepted(&self, signal: Signal, items: u64) {
        self.count(signal, items, 0, 0);
    }

    /// Items that were sent back to whoever brought them.
    pub fn refused(&self, signal: Signal, items: u64) {
        self.count(signal, 0, items, 0);
    }

    /// Items that went nowhere.
    pub fn dropped(&self, signal: Signal, items: u64) {
        self.count(signal, 0, 0, items);
    }

    fn count(&self, signal: Signal, accepted: u64, refused: u64, dropped: u64) {
        self.accepted.add(signal, accepted);
        self.refused.add(signal, refused);
        self.dropped.add(signal, dropped);
    }
}

/// What probabilistic_sampler decided.
#[derive(Debug, Clone)]
pub struct SamplerMetrics {
    /// By policy: kept, not kept.
    policies: Vec<(String, [Counter; 2])>,
}

impl SamplerMetrics {
    /// All samplers of a signal count together, as in the original; there are as many series as policies.
    #[must_use]
    pub fn new(metrics: &Metrics, signal: Signal, policies: &[&str]) -> SamplerMetrics {
        let (name, help) = match signal {
            Signal::Logs => {
                ("otelcol_processor_probabilistic_sampler_count_logs_sampled", "Count of logs that were sampled or not")
            }
            Signal::Traces | Signal::Metrics => (
                "otelcol_processor_probabilistic_sampler_count_traces_sampled",
                "Count of traces that were sampled or not",
            ),
        };
        let counters = metrics.counters(name, help, &["policy", "sampled"]);
        let both = |policy: &&str| {
            ((*policy).to_owned(), [counters.with(&[policy, "true"]), counters.with(&[policy, "false"])])
        };
        SamplerMetrics { policies: policies.iter().map(both).collect() }
    }

    /// One item was kept, or not, by one of the policies.
    pub fn decided(&self, policy: &str, kept: bool) {
        if let Some((_, [yes, no])) = self.policies.iter().find(|(name, _)| name == policy) {
            if kept { yes.inc() } else { no.inc() }
        }
    }
}

/// What made a batch leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// `send_batch_size` was reached.
    Size,
    /// `timeout` had passed.
    Timeout,
}

/// What the batch processor put together.
#[derive(Debug, Clone)]
pub struct BatchMetrics {
    send_size: Histogram,
    send_size_bytes: Histogram,
    by_size: Counter,
    by_timeout: Counter,
}

/// Upper bounds of `batch_send_size`, items (v0.88.0, `processor/batchprocessor/metrics.go`).
#[rustfmt::skip]
pub const BATCH_SIZES: [f64; 22] = [
    10., 25., 50., 75., 100., 250., 500., 750., 1_000., 2_000., 3_000., 4_000., 5_000., 6_000., 7_000., 8_000., 9_000.,
    10_000., 20_000., 30_000., 50_000., 100_000.,
];

/// Upper bounds of `batch_send_size_bytes` (same place).
#[rustfmt::skip]
pub const BATCH_BYTES: [f64; 39] = [
    10., 25., 50., 75., 100., 250., 500., 750., 1_000., 2_000., 3_000., 4_000., 5_000., 6_000., 7_000., 8_000., 9_000.,
    10_000., 20_000., 30_000., 50_000., 100_000., 200_000., 300_000., 400_000., 500_000., 600_000., 700_000., 800_000.,
    900_000., 1e6, 2e6, 3e6, 4e6, 5e6, 6e6, 7e6, 8e6, 9e6,
];

impl BatchMetrics {
    /// For the processor of this id.
    #[must_use]
    pub fn new(metrics: &Metrics, processor: &str) -> BatchMetrics {
        const LABELS: &[&str] = &["processor"];
        let histogram =
            |name, help, buckets: &[f64]| metrics.histograms(name, help, LABELS, buckets).with(&[processor]);
        let counter = |name, help| metrics.counters(name, help, LABELS).with(&[processor]);
        BatchMetrics {
            send_size: histogram(
                "otelcol_processor_batch_batch_send_size",
                "Number of units in the batch",
                &BATCH_SIZES,
            ),
            send_size_bytes: histogram(
                "otelcol_processor_batch_batch_send_size_bytes",
                "Number of bytes in batch that was sent",
                &BATCH_BYTES,
            ),
            by_size: counter(
                "otelcol_processor_batch_batch_size_trigger_send",
                "Number of times the batch was sent due to a size trigger",
            ),
            by_timeout: counter(
                "otelcol_processor_batch_timeout_trigger_send",
                "Number of times the batch was sent due to a timeout trigger",
            ),
        }
    }

    /// One batch left: `items` in it, `bytes` long when serialized.
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53
    pub fn sent(&self, items: u64, bytes: u64, trigger: Trigger) {
        self.send_size.observe(items as f64);
        self.send_size_bytes.observe(bytes as f64);
        match trigger {
            Trigger::Size => self.by_size.inc(),
            Trigger::Timeout => self.by_timeout.inc(),
        }
    }
}

/// What one exporter sent.
#[derive(Debug, Clone)]
pub struct ExporterMetrics {
    sent: PerSignal,
    send_failed: PerSignal,
    enqueue_failed: PerSignal,
}

impl ExporterMetrics {
    /// For the exporter of this id.
    #[must_use]
    pub fn new(metrics: &Metrics, exporter: &str) -> ExporterMetrics {
        const LABELS: &[&str] = &["exporter"];
        let family = |name: [&'static str; 3], text: &str| PerSignal::new(metrics, name, text, LABELS, &[exporter]);
        ExporterMetrics {
            sent: family(
                [
                    "otelcol_exporter_sent_spans",
                    "otelcol_exporter_sent_metric_points",
                    "otelcol_exporter_sent_log_records",
                ],
                "Number of {items} successfully sent to destination.",
            ),
            send_failed: family(
                [
                    "otelcol_exporter_send_failed_spans",
                    "otelcol_exporter_send_failed_metric_points",
                    "otelcol_exporter_send_failed_log_records",
                ],
                "Number of {items} in failed attempts to send to destination.",
            ),
            enqueue_failed: family(
                [
                    "otelcol_exporter_enqueue_failed_spans",
                    "otelcol_exporter_enqueue_failed_metric_points",
                    "otelcol_exporter_enqueue_failed_log_records",
                ],
                "Number of {items} failed to be added to the sending queue.",
            ),
        }
    }

    /// Items the far end has taken.
    pub fn sent(&self, signal: Signal, items: u64) {
        self.sent.add(signal, items);
    }

    /// Items of an upload that was given up for this time: once per final outcome, not per try.
    pub fn send_failed(&self, signal: Signal, items: u64) {
        self.sent.add(signal, 0);
        self.send_failed.add(signal, items);
    }

    /// Items that found the queue full.
    pub fn enqueue_failed(&self, signal: Signal, items: u64) {
        self.enqueue_failed.add(signal, items);
    }
}

/// One exporter's queue at one moment, in batches, over all signals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The exporter's id.
    pub exporter: String,
    /// Batches that wait.
    pub size: u64,
    /// Batches that would fit.
    pub capacity: u64,
}

/// Shows the queues, read when somebody asks. 0.88 shows one number per exporter and lets its three queues overwrite
/// each other (reference §3.1); ours is their sum, under the same labels.
pub fn queues(metrics: &Metrics, read: impl Fn() -> Vec<Queue> + Send + Sync + 'static) {
    let read = Arc::new(read);
    type Of = fn(&Queue) -> u64;
    let families: [(&'static str, &str, Of); 2] = [
        ("otelcol_exporter_queue_size", "Current size of the retry queue (in batches)", |q| q.size),
        ("otelcol_exporter_queue_capacity", "Fixed capacity of the retry queue (in batches)", |q| q.capacity),
    ];
    for (name, help, of) in families {
        let read = read.clone();
        metrics.pull(Pulled::Gauge, name, help, &["exporter"], move |samples| {
            read().iter().for_each(|queue| samples.push_count(&[&queue.exporter], of(queue)));
        });
    }
}

/// One counter for each signal, under three names.
#[derive(Debug, Clone)]
struct PerSignal([Counter; 3]);

impl PerSignal {
    /// `names` in the order of [`Signal::ALL`]; `{items}` in `text` becomes the signal's word.
    fn new(
        metrics: &Metrics,
        names: [&'static str; 3],
        text: &str,
        labels: &'static [&'static str],
        values: &[&str],
    ) -> PerSignal {
        let make = |signal: Signal| {
            let name = names[index(signal)];
            debug_assert!(name.ends_with(signal.items()), "{name} counts {}", signal.items());
            let words = match (signal, name) {
                (Signal::Traces, _) => "spans",
                (Signal::Metrics, _) => "metric points",
                // The original's slip, kept because the text is compared.
                (Signal::Logs, "otelcol_exporter_sent_log_records") => "log record",
                (Signal::Logs, _) => "log records",
            };
            metrics.counters(name, &text.replace("{items}", words), labels).with(values)
        };
        PerSignal(Signal::ALL.map(make))
    }

    fn add(&self, signal: Signal, items: u64) {
        self.0[index(signal)].add(items);
    }
}

const fn index(signal: Signal) -> usize {
    signal as usize - 1
}
