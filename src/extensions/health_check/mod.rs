//! Tells an orchestrator whether the agent serves.

pub mod config;
