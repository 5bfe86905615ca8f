//! What changes, drops or refuses telemetry on its way to the batcher.
//!
//! ```text
//! request ─▶ memory_limiter ─▶ Pipe: Step ─▶ Step ─▶ … ─▶ batcher          batch: how the uplink cuts uploads
//!            (all pipelines)   Edit: resource, attributes   Sift: filter, probabilistic_sampler
//! ```
//!
//! What always holds: a request is let in whole or not at all; steps act in the order of the file, each on what the one
//! before it left; what a step drops is counted once the request was taken, and nothing else gets lost here.
//!
//! | file | |
//! |---|---|
//! | `pipe.rs` | one pipeline's way |
//! | `attributes/` `resource/` `filter/` `probabilistic_sampler/` `memory_limiter/` `batch/` | the components, each with its section |
//! | `edits.rs` `conditions.rs` | from sections to edits, and to tests, on wire bytes |
//! | `origin.rs` `severity.rs` | who sent a request; severities as people write them |
//!
//! `batch` stands in the list of processors as users write it, but acts in the uplink: its sizes decide what one
//! upload is, not when data is safe (architecture §4).

pub mod attributes;
pub mod batch;
pub mod conditions;
pub mod edits;
pub mod filter;
pub mod memory_limiter;
pub mod pipe;
pub mod probabilistic_sampler;
pub mod resource;
pub mod severity;

pub use pipe::{Passed, Pipe, Refusal, Step, Tee};
