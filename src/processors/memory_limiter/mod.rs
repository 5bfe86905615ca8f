//! `memory_limiter`: refuses data, in a way that makes clients come back, before memory runs out.

pub mod config;
pub mod limiter;

pub use limiter::{HighMemory, Limiter};
