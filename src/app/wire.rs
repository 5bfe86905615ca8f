//! From a checked configuration to a running agent: binds, opens, wires, fills the posts.
//!
//! ```text
//! bind ports ─▶ open stores ─▶ lanes, exporters join ─▶ writer, reader, keeper, batcher ─▶ uplinks ─▶ intakes ─▶ servers
//! ```
//!
//! Everything that can fail for a reason of the machine fails before the first post is filled.

use super::exporters;
use super::listen::{NoPort, bind};
use super::machine;
use super::plan::{Config, ExporterConfig, ExtensionConfig, PipelineConfig, ProcessorConfig, ReceiverConfig};
use super::roster::{BATCHER, DOORMAN, KEEPER, OTLP_GRPC, READER, SELF_, WEB, WRITER_, roster, row};
use super::stores::{Stored, Stores, batch_of};
use super::web::{Behind, Port, Web};
use crate::base::{Bytes, Clock, Dice, Stamp};
use crate::batcher::budget::Budget;
use crate::batcher::{Batcher, Offer};
use crate::config::{HttpServer, Id, Listen, TlsServer};
use crate::extensions::health_check;
use crate::otlp::{Rewriter, Rule, Sieve, TooDeep};
use crate::processors::batch::groups::Groups;
use crate::processors::memory_limiter::Limiter;
use crate::processors::pipe::{Pipe, Step, StoreNo};
use crate::processors::{edits, filter, probabilistic_sampler};
use crate::receivers::doorstep::Doorstep;
use crate::receivers::guard::Guard;
use crate::receivers::intake::{Intake, Outlet};
use crate::receivers::otlp::config::HttpConfig;
use crate::receivers::otlp::door::{Doorman, GrpcDoor};
use crate::receivers::otlp::grpc::OtlpGrpc;
use crate::receivers::otlp::http::OtlpHttp;
use crate::receivers::own::OwnMetrics;
use crate::receivers::socket::Entrance;
use crate::receivers::tls::{Face, Faulty};
use crate::spool::crew::{SpoolKeeper, SpoolReader, SpoolWriter};
use crate::spool::disk;
use crate::supervise::{Handle, Line, Roster, Settings, Supervisor};
use crate::telemetry::config::MetricsLevel;
use crate::telemetry::health::Health;
use crate::telemetry::{
    ExporterMetrics, Level, ListenerMetrics, Metrics, ProcessorMetrics, ReceiverMetrics, Resource, alloc, process,
    serve,
};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

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
    /// By [`StoreNo`].
    pub(super) crews: Vec<Crew>,
    pub(super) tasks: BTreeMap<Id, super::exporters::Task>,
    pub(super) intakes: BTreeMap<Id, Arc<Intake>>,
    /// Where each receiver, extension and the metrics listen, by name: `otlp/grpc`, `otlp/http`, `health_check`,
    /// `metrics`.
    pub addresses: BTreeMap<String, SocketAddr>,
}

/// A port that was bound, before anything else was done, and what it shows.
struct Bound {
    id: Id,
    listener: TcpListener,
    address: SocketAddr,
    face: Option<Face>,
}

/// All of them.
struct AllBound {
    grpc: Vec<Bound>,
    http: Vec<Bound>,
    health: Vec<Bound>,
    metrics: Option<(TcpListener, SocketAddr)>,
    /// Who asks for credentials at them.
    guards: BTreeMap<Id, Guard>,
}

/// What the gRPC servers speak, and the HTTP servers.
const H2: &[&[u8]] = &[b"h2"];
const H1: &[&[u8]] = &[b"http/1.1"];

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
        crate::uplink::otlp_http::install_provider();
        let bound = AllBound::bind(config)?;
        let metrics = metrics_of(config, clock, started);
        let health = Health::starting(clock.clone());
        health.register(&metrics);
        let stores = Arc::new(Stores::open(config, clock)?);
        let pipes = pipes(config, &stores, &metrics, clock)?;
        let supervisor = Supervisor::start(roster, settings).map_err(StartError::Thread)?;
        let crews = man_stores(&supervisor, &stores.all, &metrics, &health, clock);
        let tasks = exporters::tasks(config, &stores);
        for mut ready in exporters::prepare(&tasks, &stores, &crews, &metrics, &health, clock)? {
            exporters::enlist(&mut ready, &stores);
            exporters::post(&supervisor, ready);
        }
        let addresses = bound.addresses();
        let intakes =
            receive(config, bound, &supervisor, &pipes, outlets(&stores, &crews, &metrics), &metrics, &health);
        watch_ourselves(config, &supervisor, &intakes, &metrics, clock, started);
        super::numbers::register(config, &metrics, &stores, supervisor.lookout());
        for post in supervisor.unstaffed() {
            tracing::debug!(post, "nobody needed in this post");
        }
        health.ready();
        let (config, clock) = (config.clone(), clock.clone());
        Ok(Agent { supervisor, health, metrics, stores, config, clock, crews, tasks, intakes, addresses })
    }
}

impl Bound {
    fn new(
        id: &Id,
        what: &str,
        at: &Listen,
        tls: Option<&TlsServer>,
        alpn: &'static [&'static [u8]],
    ) -> Result<Bound, StartError> {
        let no = |fault: Faulty| StartError::Component { id: what.to_owned(), why: fault.to_string() };
        let face = tls.map(|tls| Face::new(tls, alpn)).transpose().map_err(no)?;
        let (listener, address) = bind(what, at)?;
        Ok(Bound { id: id.clone(), listener, address, face })
    }
}

impl AllBound {
    fn bind(config: &Config) -> Result<AllBound, StartError> {
        let used = |id: &Id| config.service.pipelines.iter().any(|p| p.receivers.contains(id));
        let guards = super::guards::make(config)?;
        let mut bound = AllBound { grpc: Vec::new(), http: Vec::new(), health: Vec::new(), metrics: None, guards };
        for (id, receiver) in config.receivers.iter().filter(|(id, _)| used(id)) {
            let ReceiverConfig::Otlp(otlp) = receiver else { continue };
            if let Some(grpc) = &otlp.grpc {
                let what = format!("receiver {id} (grpc)");
                bound.grpc.push(Bound::new(id, &what, &grpc.endpoint, grpc.tls.as_ref(), H2)?);
            }
            if let Some(HttpConfig { server, .. }) = &otlp.http {
                let what = format!("receiver {id} (http)");
                bound.http.push(Bound::new(id, &what, &server.endpoint, server.tls.as_ref(), H1)?);
            }
        }
        for id in &config.service.extensions {
            if let Some(ExtensionConfig::HealthCheck(health)) = config.extensions.get(id) {
                let (what, server) = (format!("extension {id}"), &health.server);
                bound.health.push(Bound::new(id, &what, &server.endpoint, server.tls.as_ref(), H1)?);
            }
        }
        let telemetry = &config.service.telemetry.metrics;
        if telemetry.level != MetricsLevel::None {
            bound.metrics = Some(bind("service.telemetry.metrics", &telemetry.address)?);
        }
        Ok(bound)
    }

    fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        let named = |all: &[Bound], suffix: &str| -> Vec<(String, SocketAddr)> {
            all.iter().map(|bound| (format!("{}{suffix}", bound.id), bound.address)).collect()
        };
        let metrics = self.metrics.as_ref().map(|(_, address)| ("metrics".to_owned(), *address));
        named(&self.grpc, "/grpc")
            .into_iter()
            .chain(named(&self.http, "/http"))
            .chain(named(&self.health, ""))
            .chain(metrics)
            .collect()
    }
}

fn metrics_of(config: &Config, clock: &Clock, started: Stamp) -> Metrics {
    let telemetry = &config.service.telemetry;
    let changes = telemetry.resource.iter().cloned().collect();
    let level = match telemetry.metrics.level {
        MetricsLevel::None | MetricsLevel::Basic => Level::Basic,
        MetricsLevel::Normal => Level::Normal,
        MetricsLevel::Detailed => Level::Detailed,
    };
    let metrics = Metrics::new(&Resource::new(&changes, &mut Dice::shaken()), level);
    process::register(&metrics, clock.clone(), started);
    metrics
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
        let writer = supervisor.post(row(supervisor, &WRITER_), &stored.name, move || SpoolWriter {
            spool: spool.clone(),
            commits: commits.clone(),
        });
        let spool = stored.spool.clone();
        let reader = supervisor.post(row(supervisor, &READER), &stored.name, move || SpoolReader::new(spool.clone()));
        let spool = stored.spool.clone();
        supervisor.post(row(supervisor, &KEEPER), &stored.name, move || SpoolKeeper(spool.clone()));
        let (to, health, clock) = (writer.line(), health.clone(), clock.clone());
        let (name, interval) = (stored.name.clone(), stored.commit_interval);
        let batcher = supervisor.post(row(supervisor, &BATCHER), &stored.name, move || {
            Batcher::new(to.clone(), &name, health.clone(), clock.clone(), interval)
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
        Outlet { batcher: crew.batcher.clone(), durable: stored.durable, readers }
    };
    stores.all.iter().zip(crews).enumerate().map(outlet).collect()
}

/// Requests in flight may hold an eighth of what memory_limiter allows, within reason.
fn in_flight(pipes: &[Fed]) -> Budget {
    let hard = pipes.iter().flat_map(|(_, p)| &p.limiters).map(|l| l.hard().0).min();
    Budget::new(Bytes(hard.map_or(Bytes::mib(32).0, |hard| (hard / 8).clamp(Bytes::mib(8).0, Bytes::mib(64).0))))
}

fn receive(
    config: &Config,
    bound: AllBound,
    supervisor: &Supervisor,
    pipes: &[Fed],
    outlets: Vec<Outlet>,
    metrics: &Metrics,
    health: &Health,
) -> BTreeMap<Id, Arc<Intake>> {
    let budget = in_flight(pipes);
    debug_assert!(pipes.iter().flat_map(|(_, p)| &p.lanes).all(|(StoreNo(no), _)| *no < outlets.len()));
    let mut intakes: BTreeMap<Id, Arc<Intake>> = BTreeMap::new();
    let mut intake_of = |id: &Id| {
        let mine = fed_by(pipes, id);
        intakes
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Intake::new(mine, outlets.clone(), budget.clone())))
            .clone()
    };
    let listens = |name: &str| ListenerMetrics::new(metrics, name);
    let guard = |auth: &Option<Id>| auth.as_ref().and_then(|id| bound.guards.get(id)).cloned();
    let port = |listener, behind, face, name: &str, server: &HttpServer| Port {
        listener,
        behind,
        doorstep: Arc::new(Doorstep::new(server, guard(&server.auth))),
        entrance: Entrance::new(face, &server.limits, listens(name)),
        places: server.limits.max_connections,
        head: server.read_header_timeout,
        idle: server.idle_timeout,
    };
    let mut ports = Vec::new();
    for Bound { id, listener, address, face } in bound.http {
        let Some(ReceiverConfig::Otlp(otlp)) = config.receivers.get(&id) else { continue };
        let Some(section) = &otlp.http else { continue };
        let endpoint = OtlpHttp::new(section, intake_of(&id), ReceiverMetrics::new(metrics, &id.to_string(), "http"));
        tracing::info!(kind = "receiver", name = %id, endpoint = %address, "Starting HTTP server");
        ports.push(port(listener, Behind::Otlp(Arc::new(endpoint)), face, &format!("{id}/http"), &section.server));
    }
    for Bound { id, listener, face, .. } in bound.health {
        let Some(ExtensionConfig::HealthCheck(section)) = config.extensions.get(&id) else { continue };
        let body = section.response_body.as_ref();
        let settings = health_check::HealthCheckSettings {
            path: section.path.clone(),
            response_body: body
                .map(|b| health_check::ResponseBody { healthy: b.healthy.clone(), unhealthy: b.unhealthy.clone() }),
            failures: Some(&section.check_collector_pipeline)
                .filter(|check| check.enabled)
                .map(|check| (check.interval, check.exporter_failure_threshold)),
        };
        let health = health.clone();
        let page = move |request: &actix_web::HttpRequest| health_check::respond(request.path(), &health, &settings);
        ports.push(port(listener, Behind::Page(Arc::new(page)), face, &id.to_string(), &section.server));
    }
    if let Some((listener, address)) = bound.metrics {
        let (shown, defaults) = (metrics.clone(), HttpServer::at(config.service.telemetry.metrics.address.clone()));
        tracing::info!(%address, "Serving Prometheus metrics");
        let page = move |request: &actix_web::HttpRequest| serve::respond(request.path(), &shown);
        ports.push(port(listener, Behind::Page(Arc::new(page)), None, "metrics", &defaults));
    }
    for Bound { id, listener, address, face } in bound.grpc {
        let Some(ReceiverConfig::Otlp(otlp)) = config.receivers.get(&id) else { continue };
        let Some(section) = otlp.grpc.clone() else { continue };
        let counts = ReceiverMetrics::new(metrics, &id.to_string(), "grpc");
        let service = OtlpGrpc::new(&section, guard(&section.auth), intake_of(&id), counts);
        tracing::info!(kind = "receiver", name = %id, endpoint = %address, "Starting GRPC server");
        let listens = listens(&format!("{id}/grpc"));
        let (listener, entrance) = (Arc::new(listener), Entrance::new(face, &section.limits.common, listens.clone()));
        supervisor.post(row(supervisor, &OTLP_GRPC), &id.to_string(), move || {
            let (entrance, listens) = (entrance.clone(), listens.clone());
            GrpcDoor::new(listener.clone(), service.clone(), section.clone(), entrance, listens)
        });
    }
    for id in config.service.pipelines.iter().flat_map(|p| &p.receivers) {
        if matches!(config.receivers.get(id), Some(ReceiverConfig::Own(_))) {
            intake_of(id);
        }
    }
    // A server without a socket is one actix refuses to start.
    if !ports.is_empty() {
        let ports = Arc::new(ports);
        supervisor.post(row(supervisor, &WEB), "", move || Web::new(ports.clone()));
    }
    let all: Vec<Arc<Intake>> = intakes.values().cloned().collect();
    supervisor.post(row(supervisor, &DOORMAN), "", move || Doorman(all.clone()));
    intakes
}

fn watch_ourselves(
    config: &Config,
    supervisor: &Supervisor,
    intakes: &BTreeMap<Id, Arc<Intake>>,
    metrics: &Metrics,
    clock: &Clock,
    started: Stamp,
) {
    for (id, receiver) in &config.receivers {
        let (ReceiverConfig::Own(section), Some(intake)) = (receiver, intakes.get(id)) else { continue };
        let own = OwnMetrics {
            config: section.clone(),
            metrics: metrics.clone(),
            counts: ReceiverMetrics::new(metrics, &id.to_string(), ""),
            intake: intake.clone(),
            clock: clock.clone(),
            started,
            rounds: None,
        };
        supervisor.post(row(supervisor, &SELF_), &id.to_string(), move || own.clone());
    }
}

/// The pipelines a receiver feeds.
pub(super) fn fed_by(pipes: &[Fed], receiver: &Id) -> Vec<Arc<Pipe>> {
    pipes.iter().filter(|(receivers, _)| receivers.contains(receiver)).map(|(_, pipe)| pipe.clone()).collect()
}
