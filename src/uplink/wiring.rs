//! What an uplink is told at its start: what to send, how, and whom it speaks to.

use super::budget::Purse;
use super::depot::Depot;
use super::drain::Drain;
use super::link::Link;
use super::metrics::UplinkMetrics;
use super::pack::Encoding;
use super::retry::Retry;
use super::transport::Transport;
use crate::base::Clock;
use crate::otlp::Signal;
use crate::spool::{Cut, Lane};
use crate::telemetry::BatchMetrics;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// One lane this exporter sends.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// Its number in the spool.
    pub lane: Lane,
    /// The pipeline, for people.
    pub name: String,
    /// What it carries.
    pub signal: Signal,
    /// `send_batch_size` and `send_batch_max_size` of the pipeline's batch processor; one request is one upload without.
    pub cut: Cut,
    /// Its `timeout`.
    pub batch_timeout: Duration,
    /// Where its batches are counted. The lane's first exporter counts them.
    pub batch: Option<BatchMetrics>,
}

/// What one uplink is to do.
#[derive(Debug, Clone)]
pub struct UplinkSettings {
    /// The exporter's id: its name in the spool.
    pub exporter: String,
    /// What it sends.
    pub lanes: Vec<LaneSettings>,
    /// What it sends besides, as it comes up: grows at its end only.
    pub added: watch::Receiver<Vec<LaneSettings>>,
    /// `retry_on_failure`.
    pub retry: Retry,
    /// `sending_queue.num_consumers`: uploads out at one time, in each lane.
    pub consumers: u32,
    /// `compression`.
    pub encoding: Encoding,
    /// Level of gzip; [`super::pack::LEVEL`] unless the link is paid by the byte.
    pub level: i32,
    /// Bytes of bodies in memory; [`super::flow::BUDGET`].
    pub budget: usize,
    /// `drain`.
    pub drain: Drain,
    /// What the platform lets backlogs send, bytes a second; the lower of this and `drain.max_rate` counts.
    pub ceiling: watch::Receiver<Option<u64>>,
    /// `gap_report`: least time between two reports of what is lost; `None`: the far end is not told.
    pub gap_interval: Option<Duration>,
    /// A lane that has a backlog when it begins sends nothing before: its turn in a fleet that was started in one moment.
    pub first_at: Option<Instant>,
    /// What waits at a stop would be lost (a spool in memory): send all of it first while the far end takes it.
    pub flush_at_stop: bool,
}

/// Whom an uplink speaks to.
#[derive(Clone)]
pub struct Lines {
    /// The spool.
    pub depot: Arc<dyn Depot>,
    /// Makes the way to the far end, anew for each life: connections belong to a thread.
    pub transport: Arc<dyn Fn() -> Arc<dyn Transport> + Send + Sync>,
    /// What is counted and logged.
    pub metrics: UplinkMetrics,
    /// Stamps.
    pub clock: Clock,
    /// `link_budget`; `None`: the link costs nothing.
    pub purse: Option<Arc<Purse>>,
    /// Where the present view of the far end is shown.
    pub view: Arc<watch::Sender<View>>,
}

/// How an uplink is, for the status page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The far end as a whole.
    pub link: Link,
    /// What was last said of a failure.
    pub last_failure: String,
    /// The lanes, then their park lanes.
    pub lanes: Vec<LaneView>,
}

/// One lane of a [`View`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneView {
    /// The pipeline.
    pub name: String,
    /// A park lane.
    pub parked: bool,
    /// What the far end does with it.
    pub link: Link,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("depot", &self.depot).finish_non_exhaustive()
    }
}
