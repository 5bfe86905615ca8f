//! What sends: an uplink per exporter, a tee per `debug`.

use super::branches::is_of;
use super::guards::Followed;
use super::plan::{Config, ExporterConfig, ExtensionConfig};
use super::registration::{Parts, Plan, Registration};
use super::roster::{UPLINK, row};
use super::stores::{Source, Stored, Stores};
use super::wire::{Crew, StartError};
use crate::base::{Clock, Dice};
use crate::config::Id;
use crate::otlp::Signal;
use crate::processors::Tee;
use crate::processors::pipe::StoreNo;
use crate::supervise::Supervisor;
use crate::telemetry::health::Health;
use crate::telemetry::{BatchMetrics, Metrics};
use crate::uplink::actor::Uplink;
use crate::uplink::backends::Path as WayTo;
use crate::uplink::balanced::{Balance, Balanced};
use crate::uplink::budget::{LinkBudget, Meter, Purse};
use crate::uplink::client::{ClientError, Maker, NoClient, Recipe, Shown};
use crate::uplink::config::{
    Compression, DebugConfig, FailoverConfig, LoadBalancingConfig, OtlpGrpcConfig, OtlpHttpConfig, Protocol,
    RetryConfig,
};
use crate::uplink::debug::DebugExporter;
use crate::uplink::depot::{Depot, Direct, Posted};
use crate::uplink::drain::Drain;
use crate::uplink::endpoint::Rules;
use crate::uplink::failover::Failover;
use crate::uplink::flow::BUDGET;
use crate::uplink::metrics::{EndpointMetrics, UplinkMetrics};
use crate::uplink::otlp_grpc::GrpcRecipe;
use crate::uplink::otlp_http::HttpRecipe;
use crate::uplink::pack::{Encoding, LEVEL, Packer};
use crate::uplink::transport::Transport;
use crate::uplink::wiring::{LaneSettings, Lines, UplinkSettings, View};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What one uplink works by: as long as it stays the same, a reload leaves the uplink alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    section: ExporterConfig,
    /// What is asked for at each upload.
    token: Option<Followed>,
    store: StoreNo,
    sources: Vec<Source>,
    /// The pipelines whose batches it counts: each pipeline's are counted once, by its first exporter.
    counted: BTreeSet<String>,
    /// What goes before its data when the platform does not know us.
    announced: Option<Plan>,
    /// Where it is kept what its link was used for.
    spent: Option<PathBuf>,
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
        let spent = link_budget(&section).and(storage(config, &section)).map(|dir| dir.join(file_of(id)));
        let task = Task { section, token, store: *no, sources: sources.clone(), counted, announced, spent };
        tasks.insert(id.clone(), task);
    }
    tasks
}

/// The directory of the exporter's storage.
pub(super) fn storage<'a>(config: &'a Config, section: &ExporterConfig) -> Option<&'a Path> {
    let queue = section.queue().filter(|queue| queue.enabled)?;
    match config.extensions.get(queue.storage.as_ref()?)? {
        ExtensionConfig::FileStorage(storage) => Some(&storage.directory),
        _ => None,
    }
}

/// `link-budget-otlphttp_backup` of `otlphttp/backup`.
fn file_of(id: &Id) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    format!("link-budget-{}", id.to_string().chars().map(fits).collect::<String>())
}

/// With what its authenticator sends among its headers.
pub(super) fn with_credentials(mut section: ExporterConfig, config: &Config) -> ExporterConfig {
    let Some(auth) = section.auth().cloned() else { return section };
    let headers = match &mut section {
        ExporterConfig::OtlpHttp(section) => &mut section.headers,
        ExporterConfig::OtlpGrpc(section) => &mut section.headers,
        ExporterConfig::LoadBalancing(section) => section.protocol.headers_mut(),
        ExporterConfig::Debug(_) => return section,
    };
    *headers = super::guards::sent(config, &auth, std::mem::take(headers));
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
        let registration = registration.filter(|_| task.announced.is_some());
        let settings = settings(id, task, stored, registration, parts.metrics);
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

fn settings(
    id: &Id,
    task: &Task,
    stored: &Stored,
    registration: Option<&Registration>,
    metrics: &Metrics,
) -> UplinkSettings {
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
        drain: drain(section).clone(),
        ceiling: registration.map_or_else(|| watch::Sender::new(None).subscribe(), Registration::ceiling),
        // Where there is no address for metrics nothing can be reported.
        gap_interval: gap_interval(section),
        first_at: None,
        flush_at_stop: !stored.durable,
    }
}

/// What an exporter speaks: its own section, or the one that each of its endpoints is reached by.
enum Spoken<'a> {
    Http(&'a OtlpHttpConfig),
    Grpc(&'a OtlpGrpcConfig),
}

/// `None`: it does not send.
fn spoken(section: &ExporterConfig) -> Option<Spoken<'_>> {
    match section {
        ExporterConfig::OtlpHttp(s) => Some(Spoken::Http(s)),
        ExporterConfig::OtlpGrpc(s) => Some(Spoken::Grpc(s)),
        ExporterConfig::LoadBalancing(s) => Some(match &s.protocol {
            Protocol::Grpc(s) => Spoken::Grpc(s),
            Protocol::Http(s) => Spoken::Http(s),
        }),
        ExporterConfig::Debug(_) => None,
    }
}

/// How it tries, and what an upload is packed with.
pub(super) fn manner(section: &ExporterConfig) -> (&RetryConfig, Encoding, i32) {
    let (retry, compression, level) = match spoken(section).expect("tasks() has none that does not send") {
        Spoken::Http(s) => (&s.retry_on_failure, s.compression, s.compression_level),
        Spoken::Grpc(s) => (&s.retry_on_failure, s.compression, s.compression_level),
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
pub(super) fn drain(section: &ExporterConfig) -> &Drain {
    match spoken(section).expect("tasks() has none that does not send") {
        Spoken::Http(s) => &s.drain,
        Spoken::Grpc(s) => &s.drain,
    }
}

/// What the link may cost.
pub(super) fn link_budget(section: &ExporterConfig) -> Option<&LinkBudget> {
    match spoken(section)? {
        Spoken::Http(s) => s.link_budget.as_ref(),
        Spoken::Grpc(s) => s.link_budget.as_ref(),
    }
}

/// Least time between two gap reports, where the exporter has a place for them.
fn gap_interval(section: &ExporterConfig) -> Option<Duration> {
    let (report, has_place) = match (spoken(section)?, section) {
        (Spoken::Http(s), ExporterConfig::OtlpHttp(_)) => (&s.gap_report, s.url(Signal::Metrics).is_some()),
        (Spoken::Http(s), _) => (&s.gap_report, true),
        (Spoken::Grpc(s), _) => (&s.gap_report, true),
    };
    Some(report.interval).filter(|_| report.enabled && has_place)
}

/// Uploads of a lane on the way at one time.
fn consumers(section: &ExporterConfig) -> u32 {
    section.queue().filter(|queue| queue.enabled).map_or(1, |queue| queue.num_consumers.max(1))
}

/// Makes a way to the far end for each life.
pub(super) type Ways = Arc<dyn Fn() -> Arc<dyn Transport> + Send + Sync>;

/// What clients are made with, beside their section.
#[derive(Clone, Copy)]
pub(super) struct With<'a> {
    /// Stamps.
    pub(super) clock: &'a Clock,
    /// What is asked for at each upload.
    pub(super) shown: Option<&'a Shown>,
    /// Of the exporter's endpoints.
    pub(super) metrics: &'a UplinkMetrics,
    /// Bytes on the wire.
    pub(super) meter: &'a Meter,
}

pub(super) fn ways(section: &ExporterConfig, with: With<'_>) -> Result<Ways, ClientError> {
    let With { clock, shown, metrics, meter } = with;
    match section {
        ExporterConfig::OtlpHttp(section) => {
            let consumers = section.sending_queue.num_consumers.max(1);
            let recipe = |section: OtlpHttpConfig| {
                HttpRecipe::new(&section, consumers, clock.clone(), shown.cloned()).metered(meter.clone())
            };
            let each = section.each().into_iter().map(|(name, section)| (name, recipe(section))).collect();
            // Without a base each signal has its own address, and no other.
            match section.endpoint {
                Some(_) => several(each, &section.failover, metrics.endpoints()),
                None => one(recipe(section.as_ref().clone())),
            }
        }
        ExporterConfig::OtlpGrpc(section) => {
            let recipe =
                |config| GrpcRecipe { config, clock: clock.clone(), shown: shown.cloned(), meter: meter.clone() };
            let each = section.each().into_iter().map(|(name, section)| (name, recipe(section))).collect();
            several(each, &section.failover, metrics.endpoints())
        }
        ExporterConfig::LoadBalancing(section) => balanced(section, &balance(section), with),
        ExporterConfig::Debug(_) => unreachable!("tasks() has none that does not send"),
    }
}

fn one(recipe: impl Recipe) -> Result<Ways, ClientError> {
    let maker = Arc::new(Maker::new(recipe)?);
    Ok(Arc::new(move || maker.make()))
}

/// The preferred one first.
fn several<R: Recipe, E>(
    mut each: Vec<(String, R)>,
    failover: &FailoverConfig<E>,
    metrics: EndpointMetrics,
) -> Result<Ways, ClientError> {
    if each.len() == 1 {
        return one(each.remove(0).1);
    }
    let maker = |(name, recipe)| Ok((name, Arc::new(Maker::new(recipe)?)));
    let makers: Vec<(String, Arc<Maker<R>>)> = each.into_iter().map(maker).collect::<Result<_, ClientError>>()?;
    let rules = Rules::new(failover.after, failover.probe_interval);
    Ok(Arc::new(move || {
        let made = makers.iter().map(|(name, maker)| (name.clone(), maker.make()));
        Arc::new(Failover::new(made, rules, &metrics, Dice::shaken()))
    }))
}

/// What all lives of a `loadbalancing` exporter share.
fn balance(section: &LoadBalancingConfig) -> Balance {
    Balance::new(section.routing_key, Rules::new(section.failover.after, section.failover.probe_interval))
}

/// Each life finds its endpoints anew; what was taken of uploads under way is known to the next.
fn balanced(section: &LoadBalancingConfig, balance: &Balance, with: With<'_>) -> Result<Ways, ClientError> {
    let consumers = section.protocol.queue().num_consumers.max(1);
    let (section, balance) = (Arc::new(section.clone()), balance.clone());
    let (clock, shown, meter) = (with.clock.clone(), with.shown.cloned(), with.meter.clone());
    let (_, encoding, level) = manner(&ExporterConfig::LoadBalancing(Box::new((*section).clone())));
    let one_to = {
        let section = section.clone();
        move |name: &str| match section.to(name) {
            Protocol::Grpc(config) => {
                one(GrpcRecipe { config, clock: clock.clone(), shown: shown.clone(), meter: meter.clone() })
            }
            Protocol::Http(config) => {
                one(HttpRecipe::new(&config, consumers, clock.clone(), shown.clone()).metered(meter.clone()))
            }
        }
    };
    one_to("localhost:4317")?; // a bad certificate is a start that fails with its reason
    let path: WayTo = Arc::new(move |name| match one_to(name) {
        Ok(make) => make(),
        Err(error) => Arc::new(NoClient { why: error.to_string() }),
    });
    let metrics = with.metrics.backends();
    Ok(Arc::new(move || {
        let packer = Packer::new(encoding, level);
        Arc::new(Balanced::new(&balance, &section.resolver, path.clone(), packer, metrics.clone(), Dice::shaken()))
    }))
}

fn lines(
    id: &Id,
    task: &Task,
    stored: &Stored,
    crew: &Crew,
    registration: Option<&Registration>,
    parts: &Parts<'_>,
) -> Result<Lines, StartError> {
    let failed = |e: ClientError| StartError::Component { id: id.to_string(), why: e.to_string() };
    let shown = task.token.as_ref().map(|token| super::guards::shown(token, parts.clock));
    let shown = shown.transpose().map_err(failed)?.flatten();
    let metrics = UplinkMetrics::new(parts.metrics, parts.health, &id.to_string());
    let meter = Meter::new(parts.metrics, &id.to_string());
    let with = With { clock: parts.clock, shown: shown.as_ref(), metrics: &metrics, meter: &meter };
    let (transport, balance) = match &task.section {
        ExporterConfig::LoadBalancing(section) => {
            let balance = balance(section);
            (balanced(section, &balance, with).map_err(failed)?, Some(balance))
        }
        section => (ways(section, with).map_err(failed)?, None),
    };
    let purse = link_budget(&task.section).map(|rules| {
        let (meter, board) = (meter.clone(), (parts.metrics, parts.health, &*id.to_string()));
        Arc::new(Purse::new(rules.clone(), meter, task.spent.as_deref(), parts.clock.clone(), board, Instant::now()))
    });
    let transport = registration.map_or(transport.clone(), |registration| registration.before(transport));
    let depot: Arc<dyn Depot> = if stored.durable {
        Arc::new(Posted::new(stored.spool.clone(), crew.reader.clone(), crew.writer.clone()))
    } else {
        Arc::new(Direct::to(stored.spool.clone()))
    };
    let depot = balance.map_or(depot.clone(), |balance| balance.settling(depot, metrics.clone()));
    let view = Arc::new(watch::Sender::new(View::default()));
    Ok(Lines { depot, transport, metrics, clock: parts.clock.clone(), purse, view })
}

/// The tee of a `debug` exporter. A pipeline with two of them has two; one exporter in two pipelines counts for both.
pub fn tee(id: &Id, section: &DebugConfig, metrics: &Metrics) -> Tee {
    let exporter = DebugExporter::new(section, metrics, &id.to_string());
    Arc::new(move |signal, walked, request| exporter.tee(signal, request, walked.items.into()))
}
