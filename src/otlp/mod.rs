//! OTLP as bytes: what every other part needs to know of the wire, and nothing of who sent it.
//!
//! A request is never decoded into objects on the hot path (architecture §4): on a gateway of 256 MB the objects cost
//! several times the bytes, and most of them would be written back unchanged.
//!
//! ```text
//!   JSON ──from_json──┐
//!                     ▼
//!   protobuf ──▶ walk ──▶ Rewriter ──▶ merge ──▶ ‖ spool ‖ ──▶  Cutter   ──▶ protobuf
//!                 │ refuses,   edits                           count         out
//!                 │ counts     lists
//!                 ▼
//!              Malformed → 400, to this client alone
//! ```
//!
//! What always holds:
//! * What [`walk()`] accepts, prost decodes and the Go collector decodes; everything after it relies on that, and
//!   nothing after it can make such a request undecodable.
//! * Items are neither lost nor doubled by [`merge()`], a [`Cutter`] or a [`Rewriter`], and keep their order; only a
//!   [`Sieve`] drops some, which is what it is for.
//! * Unknown fields travel on with what they were found in.
//! * No function panics, overflows a stack or reads outside its input, whatever the bytes. The shallow ones (all but
//!   `walk` and `from_json`) may give a meaningless result for bytes that were never walked.
//!
//! Two corners of protobuf, so that nobody is surprised: of the oneof `Metric.data` the last kind written counts, and
//! its pieces merge (as prost does; Go would keep the last piece alone); and scopes at field 1000, which only Go knows,
//! are validated and passed on but are no items (see [`is_deprecated`]).
//!
//! | file | |
//! |---|---|
//! | `walk.rs` | may these bytes be kept, and how many items are they |
//! | `merge.rs` | many requests in one |
//! | `split.rs` `outline.rs` | cutting at item borders; where the items lie |
//! | `rewrite.rs` `list.rs` | processors on wire bytes; one list of attributes |
//! | `sieve.rs` | dropping items |
//! | `only.rs` `peek.rs` | for which items; looking into a message without decoding it |
//! | `edits.rs` `value.rs` | the actions; values computed from values |
//! | `json/` | OTLP/JSON to protobuf, and back |
//! | `answer.rs` | what is answered to an export request |
//! | `schema.rs` | the messages of OTLP as one table |
//! | `wire.rs` | varints, keys, lengths; the error |
//! | `slow.rs` `wild.rs` | for tests: the same through prost; requests at their oddest |

#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub mod slow;
#[cfg(any(test, feature = "testing"))]
pub mod wild;

mod answer;
mod caller;
mod edits;
mod json;
mod list;
mod merge;
mod only;
mod outline;
mod peek;
mod rewrite;
mod schema;
mod sieve;
mod split;
mod value;
mod walk;
mod wire;

pub use answer::{Encoding, Partial, Status, success};
pub use caller::Caller;
pub use edits::{Action, Find, Groups, Keys, Pattern, Source, Type, VALUE_DEPTH_MAX, Value, When};
pub use json::{BadJson, PIECE, each_item, from_json, from_json_within, put_text, to_json, to_json_in_pieces};
pub use list::Context;
pub use merge::merge;
#[cfg(any(test, feature = "testing"))]
pub use only::Item;
pub use only::{Level, Look, Only, Test};
pub use outline::{all_below, count, is_deprecated};
pub use peek::{Leaf, Peek, PeekAny};
pub use rewrite::{Rewriter, Rule, Target, TooDeep};
pub use sieve::Sieve;
pub use split::Cutter;
pub use walk::{Walked, walk};
pub use wire::{CONCERNED_MAX, DEPTH_MAX, Malformed, PARTS_MAX, Place, REQUEST_MAX, What};

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

    /// All of them under the names by which a configuration knows them.
    pub const NAMED: [(&str, Signal); 3] =
        [("traces", Signal::Traces), ("metrics", Signal::Metrics), ("logs", Signal::Logs)];

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
