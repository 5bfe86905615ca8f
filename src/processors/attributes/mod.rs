//! Edits attributes of spans, log records and metric data points.

pub mod action;
pub mod config;
pub mod matching;
