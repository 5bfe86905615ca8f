//! What the agent says about itself: numbers, log lines, health.

pub mod metrics;
pub mod otelcol;

pub use metrics::{CONTENT_TYPE, Level, Metrics, Resource};
pub use otelcol::{BatchMetrics, ExporterMetrics, ProcessorMetrics, ReceiverMetrics, Trigger};
