//! `probabilistic_sampler`: keeps a share of traces and log records, chosen by a hash that every agent computes alike.

pub mod config;
pub mod sampler;

pub use sampler::keeps;
