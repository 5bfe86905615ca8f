//! Edits resource attributes.

pub mod config;
