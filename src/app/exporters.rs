//! What sends: an uplink per exporter, a tee per `debug`.

use super::plan::Config;
use super::stores::Stores;
use super::wire::{Crew, StartError};
use crate::base::Clock;
use crate::config::Id;
use crate::processors::Tee;
use crate::supervise::Supervisor;
use crate::telemetry::Metrics;
use crate::telemetry::health::Health;
use crate::uplink::config::DebugConfig;
use std::sync::Arc;

/// Fills the uplinks' posts.
///
/// # Errors
/// When a client cannot be built from its section.
pub fn start(
    _: &Config,
    _: &Supervisor,
    _: &Arc<Stores>,
    _: &[Crew],
    _: &Metrics,
    _: &Health,
    _: &Clock,
) -> Result<(), StartError> {
    Ok(())
}

/// The tee of a `debug` exporter.
pub fn tee(_: &Id, _: &DebugConfig, _: &Metrics, _: &Clock) -> Tee {
    Arc::new(|_, _, _| {})
}
