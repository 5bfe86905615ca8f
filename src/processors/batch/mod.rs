//! Decides what one upload is; data is safe on disk before.

pub mod config;
pub mod groups;
