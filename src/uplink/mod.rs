//! Exporters: what sends.

pub mod assemble;
pub mod config;
pub mod link;
pub mod pack;
pub mod retry;
pub mod split;
pub mod verdict;
