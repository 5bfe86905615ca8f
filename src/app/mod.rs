//! Knows everybody: load, check, wire, run, stop.

pub mod machine;
pub mod plan;
pub mod roster;
pub mod web;
