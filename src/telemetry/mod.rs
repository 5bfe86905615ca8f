//! What the agent says about itself: numbers, log lines, health.

pub mod alloc;
pub mod gotime;
pub mod logs;
pub mod metrics;
pub mod otelcol;
pub mod process;

pub use metrics::{CONTENT_TYPE, Level, Metrics, Resource};
pub use otelcol::{BatchMetrics, ExporterMetrics, ProcessorMetrics, ReceiverMetrics, Trigger};
