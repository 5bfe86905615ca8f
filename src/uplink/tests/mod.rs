//! The uplink as it runs: a supervised actor, a spool, a real socket to a far end that misbehaves on command.
//!
//! Waiting is for a condition, with a generous limit, so that a busy machine makes a test slow, not red. What takes
//! hours is proved in virtual time beside the decisions (`flow/tests.rs`).

pub(crate) mod fake;
mod gaps;
mod grpc;
mod http;
mod json;
mod misfortunes;
mod tls;
mod troubles;
mod virtual_time;
mod world;
