//! `failover` of an exporter, ours: endpoints for when the first one is away.

use crate::config::Section;
use std::time::Duration;

/// See the module. `E`: how the exporter names an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverConfig<E> {
    /// `endpoints`: behind `endpoint`, in order of preference. None: there is one endpoint.
    pub endpoints: Vec<E>,
    /// `after`, 30 s: one that answers and takes nothing for so long is away too. Silence sends uploads on at once.
    pub after: Duration,
    /// `probe_interval`, 30 s: longest time between two looks whether one that is away is back.
    pub probe_interval: Duration,
}

impl<E> Default for FailoverConfig<E> {
    fn default() -> FailoverConfig<E> {
        FailoverConfig {
            endpoints: Vec::new(),
            after: Duration::from_secs(30),
            probe_interval: Duration::from_secs(30),
        }
    }
}

impl<E> FailoverConfig<E> {
    /// Reads `failover`, with what the exporter makes of `endpoints`.
    pub(super) fn read(s: &Section<'_>, endpoints: impl FnOnce(&Section<'_>) -> Vec<E>) -> FailoverConfig<E> {
        FailoverConfig::read_over(s, FailoverConfig { endpoints: endpoints(s), ..FailoverConfig::default() })
    }

    /// Reads all but `endpoints`.
    pub(super) fn read_over(s: &Section<'_>, default: FailoverConfig<E>) -> FailoverConfig<E> {
        FailoverConfig {
            after: s.duration("after", default.after),
            probe_interval: s.duration_above_zero("probe_interval", default.probe_interval),
            endpoints: default.endpoints,
        }
    }
}
