//! What sends: an uplink per exporter, a tee per `debug`.

use super::branches::is_of;
use super::plan::{Config, ExporterConfig};
use super::registration::{Parts, Plan, Registration};
use super::roster::{UPLINK, row};
use super::stores::{Source, Stored, Stores};
use super::wire::{Crew, StartError};
use crate::base::{Clock, Dice};
use crate::config::Id;
use crate::extensions::authenticators::config::BearerTokenConfig;
use crate::otlp::Signal;
use crate::processors::Tee;
use crate::processors::pipe::StoreNo;
use crate::supervise::Supervisor;
use crate::telemetry::health::Health;
use crate::telemetry::{BatchMetrics, Metrics};
use crate::uplink::actor::Uplink;
use crate::uplink::client::{ClientError, Maker, Recipe, Shown};
use crate::uplink::config::{Compression, DebugConfig, RetryConfig};
use crate::uplink::debug::DebugExporter;
use crate::uplink::depot::{Depot, Direct, Posted};
use crate::uplink::drain::Drain;
use crate::uplink::flow::BUDGET;
use crate::uplink::metrics::UplinkMetrics;
use crate::uplink::otlp_grpc::GrpcRecipe;
use crate::uplink::otlp_http::HttpRecipe;
use crate::uplink::pack::{Encoding, LEVEL};
use crate::uplink::transport::Transport;
use crate::uplink::wiring::{LaneSettings, Lines, UplinkSettings, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What one uplink works by: as long as it stays the same, a reload leaves the uplink alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    section: ExporterConfig,
    /// What is sent of a file that may change.
    token: Option<BearerTokenConfig>,
    store: StoreNo,
    sources: Vec<Source>,
    /// The pipelines whose batches it counts: each pipeline's are counted once, by its first exporter.
    counted: BTreeSet<String>,
    /// What goes before its data when the platform does not know us.
    announced: Option<Plan>,
}

impl Task {
    /// Whether it reads this lane in the store of this number.
    #[must_use]
    pub fn reads(&self, store: usize, lane: &str) -> bool {
        self.store.0 == store && self.sources.iter().any(|source| is_of(lane, &source.pipeline))
    }
}

/// What each sending exporter has to do.
#[must_use]
pub fn tasks(config: &Config, stores: &Stores, registration: Option<&Plan>) -> BTreeMap<Id, Task> {
    let mut taken = BTreeSet::new();
    let mut tasks = BTreeMap::new();
    for (id, (no, sources)) in &stores.exporters {
        let Some(section) = config.exporters.get(id).filter(|section| section.queue().is_some()) else { continue };
        let batched = sources.iter().filter(|s| s.batch.is_some());
        let counted = batched.filter(|s| taken.insert(s.pipeline.clone())).map(|s| s.pipeline.clone()).collect();
        let token = section.auth().and_then(|auth| super::guards::followed(config, auth));
        let section = with_credentials(section.clone(), config);
        let announced = registration.filter(|plan| plan.exporter == *id).cloned();
        let task = Task { section, token, store: *no, sources: sources.clone(), counted, announced };
        tasks.insert(id.clone(), task);
    }
    tasks
}

/// With what its authenticator sends among its headers. The last one of a name is sent, so an authenticator's is.
pub(super) fn with_credentials(mut section: ExporterConfig, config: &Config) -> ExporterConfig {
    let sent = section.auth().and_then(|auth| super::guards::sent(config, auth));
    match &mut section {
        ExporterConfig::OtlpHttp(section) => section.headers.extend(sent),
        ExporterConfig::OtlpGrpc(section) => section.headers.extend(sent),
        ExporterConfig::Debug(_) => {}
    }
    section
}

/// An uplink that can be posted; nothing can go wrong any more.
#[derive(Debug)]
pub struct Ready {
    /// The exporter.
    pub id: Id,
    settings: UplinkSettings,
    store: StoreNo,
    lines: Lines,
}

/// Makes ready what `tasks` say.
///
/// # Errors
/// When a client cannot be built from its section.
pub fn prepare<'a>(
    tasks: impl IntoIterator<Item = (&'a Id, &'a Task)>,
    stores: &Stores,
    crews: &[Crew],
    registration: Option<&Registration>,
    parts: &Parts<'_>,
) -> Result<Vec<Ready>, StartError> {
    let one = |(id, task): (&Id, &Task)| {
        let (stored, crew) = (&stores.all[task.store.0], &crews[task.store.0]);
        let settings = settings(id, task, stored, parts.metrics);
        let registration = registration.filter(|_| task.announced.is_some());
        let lines = lines(id, task, stored, crew, registration, parts)?;
        Ok(Ready { id: id.clone(), settings, store: task.store, lines })
    };
    tasks.into_iter().map(one).collect()
}

/// From now on the exporter reads every lane that comes up. Before anything is let in by the pipelines that say so.
pub fn enlist(ready: &mut Ready, stores: &Stores) {
    let Ready { id, settings, store, .. } = ready;
    settings.added = stores.branches.enlist(&id.to_string(), *store, &stores.all[store.0], &settings.lanes);
}

/// The process begins, and perhaps those of a whole fleet with it: power is back, or an update was rolled out. What waited
/// goes in its turn.
pub fn take_turns(ready: &mut Ready) {
    let spread = ready.settings.retry.reconnect_spread;
    ready.settings.first_at = Some(Instant::now() + Dice::shaken().up_to(spread));
}

/// Fills the post of one uplink.
pub fn post(supervisor: &Supervisor, ready: Ready) {
    let Ready { id, settings, lines, .. } = ready;
    let settings = Arc::new(settings);
    supervisor.post(row(supervisor, &UPLINK), &id.to_string(), move || {
        Uplink::new(settings.clone(), lines.clone(), Dice::shaken())
    });
}

/// Takes what an uplink that is gone for good said of itself from the status board.
pub fn forget(id: &Id, task: &Task, stores: &Stores, metrics: &Metrics, health: &Health) {
    let besides = stores.branches.dismiss(&id.to_string());
    let lanes = task.sources.iter().map(|s| s.pipeline.as_str()).chain(besides.iter().map(String::as_str));
    UplinkMetrics::new(metrics, health, &id.to_string()).given_up(lanes);
}

/// The seat of an exporter's uplink.
#[must_use]
pub fn seat(id: &Id) -> String {
    format!("{}/{id}", UPLINK.name)
}

fn settings(id: &Id, task: &Task, stored: &Stored, metrics: &Metrics) -> UplinkSettings {
    let section = &task.section;
    let (retry, encoding, level) = manner(section);
    let lane = |source: &Source| {
        let first = source.batch.as_ref().filter(|_| task.counted.contains(&source.pipeline));
        LaneSettings {
            lane: source.lane,
            name: source.pipeline.clone(),
            signal: source.signal,
            cut: source.cut,
            batch_timeout: source.timeout,
            batch: first.map(|batch| BatchMetrics::new(metrics, batch)),
        }
    };
    UplinkSettings {
        exporter: id.to_string(),
        lanes: task.sources.iter().map(lane).collect(),
        added: watch::Sender::new(Vec::new()).subscribe(), // until it is enlisted
        retry: retry.into(),
        consumers: consumers(section),
        encoding,
        level,
        budget: BUDGET,
        drain: drain(section),
        // Where there is no address for metrics nothing can be reported.
        gap_interval: gap_interval(section),
        first_at: None,
        flush_at_stop: !stored.durable,
    }
}

/// How it tries, and what an upload is packed with.
pub(super) fn manner(section: &ExporterConfig) -> (&RetryConfig, Encoding, i32) {
    let (retry, compression, level) = match section {
        ExporterConfig::OtlpHttp(s) => (&s.retry_on_failure, s.compression, s.compression_level),
        ExporterConfig::OtlpGrpc(s) => (&s.retry_on_failure, s.compression, s.compression_level),
        ExporterConfig::Debug(_) => unreachable!("tasks() has none that does not send"),
    };
    let encoding = match compression {
        Compression::None => Encoding::Identity,
        Compression::Gzip => Encoding::Gzip,
        Compression::Zlib => Encoding::Zlib,
        Compression::Deflate => Encoding::Deflate,
        Compression::Snappy => Encoding::Snappy,
        Compression::Zstd => Encoding::Zstd,
    };
    (retry, encoding, level.unwrap_or(LEVEL))
}

/// What goes first.
fn drain(section: &ExporterConfig) -> Drain {
    match section {
        ExporterConfig::OtlpHttp(s) => s.drain.clone(),
        ExporterConfig::OtlpGrpc(s) => s.drain.clone(),
        ExporterConfig::Debug(_) => unreachable!("tasks() has none that does not send"),
    }
}

/// Least time between two gap reports, where the exporter has a place for them.
fn gap_interval(section: &ExporterConfig) -> Option<Duration> {
    let (report, has_place) = match section {
        ExporterConfig::OtlpHttp(s) => (&s.gap_report, s.url(Signal::Metrics).is_some()),
        ExporterConfig::OtlpGrpc(s) => (&s.gap_report, true),
        ExporterConfig::Debug(_) => return None,
    };
    Some(report.interval).filter(|_| report.enabled && has_place)
}

/// Uploads of a lane on the way at one time.
fn consumers(section: &ExporterConfig) -> u32 {
    section.queue().filter(|queue| queue.enabled).map_or(1, |queue| queue.num_consumers.max(1))
}

/// Makes a way to the far end for each life.
pub(super) type Ways = Arc<dyn Fn() -> Arc<dyn Transport> + Send + Sync>;

pub(super) fn ways(section: &ExporterConfig, clock: &Clock, shown: Option<Shown>) -> Result<Ways, ClientError> {
    fn of(recipe: impl Recipe) -> Result<Ways, ClientError> {
        let maker = Arc::new(Maker::new(recipe)?);
        Ok(Arc::new(move || maker.make()))
    }
    match section {
        ExporterConfig::OtlpHttp(section) => {
            let consumers = section.sending_queue.num_consumers.max(1);
            of(HttpRecipe::new(section, consumers, clock.clone(), shown))
        }
        ExporterConfig::OtlpGrpc(section) => {
            of(GrpcRecipe { config: section.as_ref().clone(), clock: clock.clone(), shown })
        }
        ExporterConfig::Debug(_) => unreachable!("tasks() has none that does not send"),
    }
}

fn lines(
    id: &Id,
    task: &Task,
    stored: &Stored,
    crew: &Crew,
    registration: Option<&Registration>,
    parts: &Parts<'_>,
) -> Result<Lines, StartError> {
    let shown = task.token.as_ref().and_then(super::guards::shown);
    let transport = ways(&task.section, parts.clock, shown)
        .map_err(|e| StartError::Component { id: id.to_string(), why: e.to_string() })?;
    let transport = registration.map_or(transport.clone(), |registration| registration.before(transport));
    let depot: Arc<dyn Depot> = if stored.durable {
        Arc::new(Posted::new(stored.spool.clone(), crew.reader.clone(), crew.writer.clone()))
    } else {
        Arc::new(Direct::to(stored.spool.clone()))
    };
    Ok(Lines {
        depot,
        transport,
        metrics: UplinkMetrics::new(parts.metrics, parts.health, &id.to_string()),
        clock: parts.clock.clone(),
        view: Arc::new(watch::Sender::new(View::default())),
    })
}

/// The tee of a `debug` exporter. A pipeline with two of them has two; one exporter in two pipelines counts for both.
pub fn tee(id: &Id, section: &DebugConfig, metrics: &Metrics) -> Tee {
    let exporter = DebugExporter::new(section, metrics, &id.to_string());
    Arc::new(move |signal, walked, request| exporter.tee(signal, request, walked.items.into()))
}
