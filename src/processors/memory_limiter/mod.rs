//! Refuses data while memory is short.

pub mod config;
