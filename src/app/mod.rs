//! Knows everybody: load, check, wire, run, stop.

pub mod plan;
