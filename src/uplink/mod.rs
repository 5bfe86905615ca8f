//! Exporters: what sends.

pub mod actor;
pub mod assemble;
pub mod config;
pub mod depot;
pub mod desk;
pub mod due;
pub mod flow;
pub mod link;
pub mod metrics;
pub mod otlp_http;
pub mod pack;
pub mod prepare;
pub mod retry;
pub mod split;
pub mod transport;
pub mod verdict;
pub mod wiring;

#[cfg(test)]
mod tests;
