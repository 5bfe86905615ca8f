//! Settings of the spool.

pub mod config;
