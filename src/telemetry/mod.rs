//! What the agent says about itself: numbers, log lines, health.
//!
//! ```text
//! component ── …Metrics ──┬──▶ metrics ──▶ :8888/metrics        who counts also logs: one method, one event
//!                         ├──▶ logs ─────▶ stderr, files
//!                         └──▶ health ───▶ health_check, status page, sd_notify
//! allocator, /proc ───────────▶ process ──▶ metrics
//! ```
//!
//! What always holds:
//! * Names, types, labels and shapes are otelcol 0.88's; what is ours begins with `tfo_agent_`.
//! * Nobody who tells waits for anybody who listens: no disk, no socket, no reader on the data path.
//! * Everything is bounded: label values come from the configuration, lines and queues have their limits.
//!
//! A component's own `…Metrics` (beside the component, style §7):
//!
//! ```
//! use tfo_otel_agent::otlp::Signal;
//! use tfo_otel_agent::telemetry::{ExporterMetrics, Metrics, metrics::Counter};
//!
//! struct UplinkMetrics {
//!     otelcol: ExporterMetrics,
//!     parked: Counter,
//!     span: tracing::Span,
//! }
//!
//! impl UplinkMetrics {
//!     fn new(metrics: &Metrics, exporter: &str) -> UplinkMetrics {
//!         let parked = metrics.counters("tfo_agent_uploads_parked", "Uploads set aside.", &["exporter"]);
//!         UplinkMetrics {
//!             otelcol: ExporterMetrics::new(metrics, exporter),
//!             parked: parked.with(&[exporter]),
//!             span: tracing::info_span!("component", kind = "exporter", name = exporter),
//!         }
//!     }
//!
//!     fn parked(&self, signal: Signal, items: u64) {
//!         self.parked.inc();
//!         self.otelcol.send_failed(signal, items);
//!         tracing::warn!(parent: &self.span, data_type = signal.name(), items, "upload was parked");
//!     }
//! }
//! # UplinkMetrics::new(&Metrics::detached(), "otlphttp").parked(Signal::Traces, 3);
//! ```
//!
//! | file | what |
//! |---|---|
//! | `metrics.rs` | the registry, and families for components |
//! | `otelcol.rs` | the families of the original |
//! | `process.rs` | what the process costs |
//! | `alloc.rs` | the counting allocator |
//! | `logs/` | lines |
//! | `health.rs` | the board: who is how |
//! | `serve.rs` | `:8888` |
//! | `gotime.rs` | times as Go writes them |

pub mod alloc;
pub mod config;
pub mod gotime;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod otelcol;
pub mod own;
pub mod process;
pub mod serve;

pub use health::Health;
pub use logs::{LogSettings, Logs};
pub use metrics::{CONTENT_TYPE, Level, Metrics, Resource};
pub use otelcol::{
    BatchMetrics, ExporterMetrics, ListenerMetrics, ProcessorMetrics, Queue, ReceiverMetrics, SamplerMetrics, Trigger,
    queues,
};
