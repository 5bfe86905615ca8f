//! What changes or refuses telemetry on its way to the batcher.
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
