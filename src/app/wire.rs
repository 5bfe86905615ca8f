//! From a checked configuration to a running agent: binds, opens, wires, fills the posts.
//!
//! ```text
//! bind ports ─▶ open stores ─▶ lanes, exporters join ─▶ writer, reader, keeper, batcher ─▶ uplinks ─▶ intakes ─▶ servers
//! ```
//!
//! Everything that can fail for a reason of the machine fails before the first post is filled.

use super::exporters;
use super::listen::NoPort;
use super::machine;
use super::opamp::{self, Opamp};
use super::plan::{Config, ExporterConfig, PipelineConfig, ProcessorConfig};
use super::registration::{self, Parts, Plan, Registration};
use super::roster::{BATCHER, KEEPER, READER, WRITER_, roster, row};
use super::servers::{Around, Laid, Servers};
use super::stores::{Stored, Stores, batch_of};
use crate::base::{Bytes, Clock, Dice, Stamp};
use crate::batcher::{Batcher, Offer};
use crate::config::Id;
use crate::opamp::Exchange;
use crate::otlp::{Rewriter, Rule, Sieve, TooDeep};
use crate::processors::batch::groups::Groups;
use crate::processors::memory_limiter::Limiter;
use crate::processors::pipe::{Pipe, Step, StoreNo};
use crate::processors::{edits, filter, probabilistic_sampler};
use crate::receivers::intake::Outlet;
use crate::spool::crew::{SpoolKeeper, SpoolReader, SpoolWriter, Witness};
use crate::spool::disk;
use crate::supervise::{Handle, Line, Roster, Settings, Supervisor};
use crate::telemetry::config::MetricsLevel;
use crate::telemetry::health::Health;
use crate::telemetry::{ExporterMetrics, Level, Metrics, ProcessorMetrics, Resource, alloc, process};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken.
    #[error(transparent)]
    Port(#[from] NoPort),
    /// A spool's directory cannot be used.
    #[error(transparent)]
    Spool(#[from] disk::StartError),
    /// A component cannot be built from its section.
    #[error("{id}: {why}")]
    Component {
        /// Which.
        id: String,
        /// Why not.
        why: String,
    },
    /// The system gave no thread.
    #[error("no thread for the watchdog: {0}")]
    Thread(std::io::Error),
}

/// A running agent, on the current actix system.
#[derive(Debug)]
pub struct Agent {
    /// Everybody.
    pub supervisor: Supervisor,
    /// What is told to orchestrators.
    pub health: Health,
    /// The numbers.
    pub metrics: Metrics,
    /// The stores, for the books.
    pub stores: Arc<Stores>,
    /// By what it works.
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) started: Stamp,
    /// By [`StoreNo`].
    pub(super) crews: Vec<Crew>,
    pub(super) tasks: BTreeMap<Id, super::exporters::Task>,
    pub(super) servers: Servers,
    pub(super) ways: super::reload::Ways,
    pub(super) registration: Option<Registration>,
    pub(super) opamp: Option<Opamp>,
    /// The configuration in force as `print-config` shows it; empty until somebody says.
    pub(super) effective: Arc<watch::Sender<Arc<str>>>,
    /// Where an OpAMP server's configurations wait to be looked at.
    pub(super) exchange: Arc<Exchange>,
    /// Where each receiver, extension and the metrics listen, by name: `otlp/grpc`, `otlp/http`, `health_check`,
    /// `metrics`.
    pub addresses: BTreeMap<String, SocketAddr>,
}

impl Agent {
    /// Starts everything. Needs a running actix system; returns when the posts are filled.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing runs then.
    pub fn start(config: &Config, clock: &Clock) -> Result<Agent, StartError> {
        Agent::start_with(config, clock, roster(), Settings::default())
    }

    /// [`Agent::start`] by another roster: one whose deadlines a test can wait for.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_with(config: &Config, clock: &Clock, roster: Roster, settings: Settings) -> Result<Agent, StartError> {
        let started = clock.now();
        crate::uplink::client::install_provider();
        let mut servers = Servers::none();
        let laid = Laid::out(config, &servers)?;
        let metrics = metrics_of(config, clock, started);
        let health = Health::starting(clock.clone());
        health.register(&metrics);
        let stores = Arc::new(Stores::open(config, clock)?);
        let pipes = pipes(config, &stores, &metrics, clock)?;
        let supervisor = Supervisor::start(roster, settings).map_err(StartError::Thread)?;
        let crews = man_stores(&supervisor, &stores.all, &metrics, &health, clock);
        let parts = Parts { metrics: &metrics, health: &health, clock, started };
        let plan = plan_of(config)?;
        let tasks = exporters::tasks(config, &stores, plan.as_ref());
        let told_of = opamp::plan(config, plan.as_ref());
        let registration = plan.map(|plan| Registration::prepare(plan, &parts)).transpose()?;
        let effective = Arc::new(watch::Sender::new(Arc::from("")));
        let exchange = Arc::<Exchange>::default();
        let prepare =
            |plan| Opamp::prepare(plan, None, registration.as_ref(), effective.subscribe(), &exchange, &parts);
        let opamp = told_of.map(prepare).transpose()?;
        for mut ready in exporters::prepare(&tasks, &stores, &crews, registration.as_ref(), &parts)? {
            exporters::enlist(&mut ready, &stores);
            exporters::take_turns(&mut ready);
            exporters::post(&supervisor, ready);
        }
        registration.iter().for_each(|registration| registration.post(&supervisor));
        opamp.iter().for_each(|opamp| opamp.post(&supervisor));
        let around = Around {
            supervisor: &supervisor,
            pipes: &pipes,
            outlets: outlets(&stores, &crews, &metrics),
            metrics: &metrics,
            health: &health,
            clock,
            started,
        };
        servers.open(config, laid, &around);
        servers.post_doorman(&supervisor);
        super::numbers::register(config, &metrics, &stores, supervisor.lookout());
        for post in supervisor.unstaffed() {
            tracing::debug!(post, "nobody needed in this post");
        }
        health.ready();
        let (config, clock) = (config.clone(), clock.clone());
        let (addresses, ways) = (servers.addresses(), super::reload::Ways::begin(&pipes));
        Ok(Agent {
            supervisor,
            health,
            metrics,
            stores,
            config,
            clock,
            started,
            crews,
            tasks,
            servers,
            ways,
            registration,
            opamp,
            effective,
            exchange,
            addresses,
        })
    }

    /// The configuration in force, as `print-config` shows it: what is told of it.
    pub fn works_by(&self, effective: &str) {
        self.effective.send_if_modified(|known| {
            let is_new = **known != *effective;
            if is_new {
                *known = effective.into();
            }
            is_new
        });
    }
}

/// Whether and how this configuration registers at a platform.
pub(super) fn plan_of(config: &Config) -> Result<Option<Plan>, StartError> {
    let id = || "registration".to_owned();
    registration::plan(config, &registration::var)
        .map_err(|no| StartError::Component { id: id(), why: format!("{}: {no}", no.key) })
}

fn metrics_of(config: &Config, clock: &Clock, started: Stamp) -> Metrics {
    let (changes, level) = shown(config);
    let metrics = Metrics::new(&Resource::new(&changes, &mut Dice::shaken()), level);
    process::register(&metrics, clock.clone(), started);
    metrics
}

/// Labels of every series, and how much is shown.
pub(super) fn shown(config: &Config) -> (BTreeMap<String, Option<String>>, Level) {
    let telemetry = &config.service.telemetry;
    let level = match telemetry.metrics.level {
        MetricsLevel::None | MetricsLevel::Basic => Level::Basic,
        MetricsLevel::Normal => Level::Normal,
        MetricsLevel::Detailed => Level::Detailed,
    };
    (telemetry.resource.iter().cloned().collect(), level)
}

/// A pipeline and the receivers that feed it.
pub(super) type Fed = (Vec<Id>, Arc<Pipe>);

/// The pipelines, ready to take requests.
pub(super) fn pipes(
    config: &Config,
    stores: &Stores,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<Vec<Fed>, StartError> {
    let total = machine::memory().unwrap_or(Bytes::mib(256));
    let mut limiters: BTreeMap<Id, Arc<Limiter>> = BTreeMap::new();
    let mut pipes = Vec::new();
    for pipeline in &config.service.pipelines {
        let (mut mine, mut steps) = (Vec::new(), Steps::default());
        let sift = |id: &Id, keeps| Step::Sift(Sieve::keeping(keeps), ProcessorMetrics::new(metrics, &id.to_string()));
        for id in &pipeline.processors {
            match config.processors.get(id) {
                Some(ProcessorConfig::MemoryLimiter(section)) => {
                    let shared = limiters.entry(id.clone()).or_insert_with(|| {
                        let counted = ProcessorMetrics::new(metrics, &id.to_string());
                        Arc::new(Limiter::new(section, total, Arc::new(live_bytes), clock.clone(), counted))
                    });
                    mine.push(shared.clone());
                }
                Some(ProcessorConfig::Resource(section)) => steps.rules.push(edits::of_resource(section)),
                Some(ProcessorConfig::Attributes(section)) => {
                    steps.rules.push(edits::of_attributes(section, pipeline.signal));
                }
                Some(ProcessorConfig::Filter(section)) => {
                    if let Some(keeps) = filter::keeps(section, pipeline.signal) {
                        steps.push(sift(id, keeps)).map_err(|e| deep(pipeline, e))?;
                    }
                }
                Some(ProcessorConfig::Sampler(section)) => {
                    let keeps = probabilistic_sampler::keeps(section, pipeline.signal, metrics);
                    steps.push(sift(id, keeps)).map_err(|e| deep(pipeline, e))?;
                }
                Some(ProcessorConfig::Batch(_)) | None => {}
            }
        }
        let steps = steps.end().map_err(|e| deep(pipeline, e))?;
        let tees = pipeline.exporters.iter().filter_map(|id| match config.exporters.get(id) {
            Some(ExporterConfig::Debug(section)) => Some(super::exporters::tee(id, section, metrics)),
            _ => None,
        });
        let pipe = Pipe {
            name: pipeline.id(),
            signal: pipeline.signal,
            limiters: mine,
            steps,
            lanes: stores.lanes.get(&pipeline.id()).cloned().unwrap_or_default(),
            groups: groups(config, pipeline, stores, metrics),
            tees: tees.collect(),
        };
        pipes.push((pipeline.receivers.clone(), Arc::new(pipe)));
    }
    Ok(pipes)
}

/// What `metadata_keys` of the pipeline's `batch` says.
fn groups(config: &Config, pipeline: &PipelineConfig, stores: &Stores, metrics: &Metrics) -> Option<Groups> {
    let (id, batch) = batch_of(config, pipeline).filter(|(_, batch)| !batch.metadata_keys.is_empty())?;
    let (branches, name, limit) = (stores.branches.clone(), pipeline.id(), batch.metadata_cardinality_limit);
    let told = super::numbers::refused_groups(metrics, &id.to_string());
    let open = move |group: &str| branches.open(&name, group, limit).inspect_err(&told);
    Some(Groups::new(&pipeline.id(), &batch.metadata_keys, Arc::new(open)))
}

fn deep(pipeline: &PipelineConfig, e: TooDeep) -> StartError {
    StartError::Component { id: pipeline.id(), why: e.to_string() }
}

/// The steps of a pipeline as they are gathered: edits that stand side by side become one.
#[derive(Default)]
struct Steps {
    done: Vec<Step>,
    rules: Vec<Rule>,
}

impl Steps {
    fn push(&mut self, step: Step) -> Result<(), TooDeep> {
        self.close()?;
        self.done.push(step);
        Ok(())
    }

    fn end(mut self) -> Result<Vec<Step>, TooDeep> {
        self.close()?;
        Ok(self.done)
    }

    fn close(&mut self) -> Result<(), TooDeep> {
        let rules: Vec<Rule> = std::mem::take(&mut self.rules).into_iter().filter(|r| !r.actions.is_empty()).collect();
        if !rules.is_empty() {
            self.done.push(Step::Edit(Rewriter::new(rules)?));
        }
        Ok(())
    }
}

fn live_bytes() -> u64 {
    alloc::live_bytes() as u64
}

/// The actors of one store.
#[derive(Debug, Clone)]
pub struct Crew {
    /// Writes it.
    pub writer: Handle<SpoolWriter>,
    /// Reads it.
    pub reader: Handle<SpoolReader>,
    /// Stands before it.
    pub batcher: Line<Offer>,
}

pub(super) fn man_stores(
    supervisor: &Supervisor,
    stores: &[Stored],
    metrics: &Metrics,
    health: &Health,
    clock: &Clock,
) -> Vec<Crew> {
    let man = |stored: &Stored| {
        let spool = stored.spool.clone();
        let commits = super::numbers::commit_times(metrics, &stored.name);
        let witness = Witness::new(health.clone(), &stored.name);
        let told = witness.clone();
        let writer = supervisor.post(row(supervisor, &WRITER_), &stored.name, move || SpoolWriter {
            spool: spool.clone(),
            commits: commits.clone(),
            witness: told.clone(),
        });
        let spool = stored.spool.clone();
        let reader = supervisor.post(row(supervisor, &READER), &stored.name, move || SpoolReader::new(spool.clone()));
        let spool = stored.spool.clone();
        supervisor.post(row(supervisor, &KEEPER), &stored.name, move || SpoolKeeper {
            spool: spool.clone(),
            witness: witness.clone(),
        });
        let (to, health, clock) = (writer.line(), health.clone(), clock.clone());
        let (name, interval) = (stored.name.clone(), stored.commit_interval.clone());
        let batcher = supervisor.post(row(supervisor, &BATCHER), &stored.name, move || {
            Batcher::new(to.clone(), &name, health.clone(), clock.clone(), interval.clone())
        });
        Crew { writer, reader, batcher: batcher.line() }
    };
    stores.iter().map(man).collect()
}

/// The stores as receivers see them.
pub(super) fn outlets(stores: &Stores, crews: &[Crew], metrics: &Metrics) -> Vec<Outlet> {
    let outlet = |(n, (stored, crew)): (usize, (&Stored, &Crew))| {
        let here = stores.exporters.iter().filter(|(_, (no, _))| *no == StoreNo(n));
        let reads = here.flat_map(|(id, (_, sources))| sources.iter().map(move |source| (source.lane, id)));
        let readers = reads.map(|(lane, id)| (lane, ExporterMetrics::new(metrics, &id.to_string()))).collect();
        let losses = (!stored.durable).then(|| stored.spool.clone());
        Outlet { batcher: crew.batcher.clone(), durable: stored.durable, losses, readers }
    };
    stores.all.iter().zip(crews).enumerate().map(outlet).collect()
}

/// The pipelines a receiver feeds.
pub(super) fn fed_by(pipes: &[Fed], receiver: &Id) -> Vec<Arc<Pipe>> {
    pipes.iter().filter(|(receivers, _)| receivers.contains(receiver)).map(|(_, pipe)| pipe.clone()).collect()
}
