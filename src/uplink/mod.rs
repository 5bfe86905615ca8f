//! Exporters: what sends.

pub mod assemble;
pub mod config;
pub mod depot;
pub mod desk;
#[cfg(test)]
mod fake;
pub mod flow;

pub mod link;
pub mod pack;
pub mod prepare;
pub mod retry;
pub mod split;
pub mod verdict;
