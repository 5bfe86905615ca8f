//! What the agent tells about itself.

pub mod config;
