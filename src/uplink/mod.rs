//! Exporters: what sends.

pub mod config;
