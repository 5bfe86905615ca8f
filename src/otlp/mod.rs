//! OTLP as bytes: what every other part needs to know of the wire, and nothing of who sent it.
//!
//! A request is never decoded into objects on the hot path (architecture §4). One bounds-checked walk counts
//! items and finds the attribute lists; rewriting, merging and splitting work on the same bytes.

#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub mod slow;
#[cfg(any(test, feature = "testing"))]
pub mod wild;

mod answer;
mod edits;
mod json;
mod list;
mod merge;
mod outline;
mod rewrite;
mod schema;
mod split;
mod value;
mod walk;
mod wire;

pub use answer::{Encoding, Partial, Status, success};
pub use edits::{Action, Find, Groups, Keys, Pattern, Source, Type, VALUE_DEPTH_MAX, Value, When};
pub use json::{BadJson, from_json};
pub use list::Context;
pub use merge::merge;
pub use outline::count;
pub use rewrite::{Filter, Item, Rewriter, Rule, Target, TooDeep};
pub use split::{Limits, Part, cut, take};
pub use walk::{Walked, walk};
pub use wire::{DEPTH_MAX, Malformed, Place, REQUEST_MAX, What};

use std::fmt;

/// What kind of telemetry a request, a lane or a block carries; never mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Signal {
    /// `ExportTraceServiceRequest`; items are spans.
    Traces = 1,
    /// `ExportMetricsServiceRequest`; items are metric data points.
    Metrics = 2,
    /// `ExportLogsServiceRequest`; items are log records.
    Logs = 3,
}

impl Signal {
    /// All three, in the order of otelcol's documents.
    pub const ALL: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

    /// The name used in pipelines, URLs (`/v1/<name>`) and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
        }
    }

    /// What otelcol's metrics call the items: `otelcol_receiver_accepted_<items>`.
    #[must_use]
    pub const fn items(self) -> &'static str {
        match self {
            Signal::Traces => "spans",
            Signal::Metrics => "metric_points",
            Signal::Logs => "log_records",
        }
    }

    /// The signal of a stored number; `None` for one nobody wrote.
    #[must_use]
    pub const fn from_u8(n: u8) -> Option<Signal> {
        match n {
            1 => Some(Signal::Traces),
            2 => Some(Signal::Metrics),
            3 => Some(Signal::Logs),
            _ => None,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
