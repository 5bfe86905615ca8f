//! What changes or refuses telemetry on its way to the batcher.

pub mod attributes;
pub mod batch;
pub mod memory_limiter;
pub mod resource;
