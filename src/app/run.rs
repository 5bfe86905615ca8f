//! The life of a process: load, check, start, run, stop; one exit code at the end.

use super::control::Control;
use super::last_good::LastGood;
use super::machine::address_towards;
use super::plan::{Config, ExporterConfig, Outcome, read};
use super::reload::Reloaded;
use super::remote::{Due, Found, Looked, Present, Remote};
use super::status::Told;
use super::stop::last_look;
use super::wire::{Agent, StartError};
use crate::base::Clock;
use crate::config::problems::{Report, Severity};
use crate::config::{Any, Given, Host, Locations, Machine};
use crate::supervise::{Exit, Hangups, Settings, Signals, install_hook};
use crate::telemetry::Metrics;
use crate::telemetry::alloc;
use crate::telemetry::logs::{LogSettings, Logs};
use crate::telemetry::metrics::{Counters, Gauge};
use std::sync::Arc;
use std::time::Duration;

/// How long one stage of the stop may take. Six stages stay far below systemd's 90 s.
const STAGE: Duration = Duration::from_secs(5);

/// Reads and checks a configuration on this machine.
#[must_use]
pub fn load(locations: &Locations) -> Outcome {
    read(locations, &machine())
}

pub(super) fn machine() -> impl Host {
    Machine::new(|| address_towards(std::env::var("TELEMETRYFLOW_ENDPOINT").ok().as_deref()))
}

/// By what an agent is to run.
#[derive(Debug, Clone)]
pub struct Orders {
    /// The configuration it is given.
    pub locations: Locations,
    /// Where the last good one is kept, and used when the one given is invalid at the start.
    pub last_good: Option<LastGood>,
}

/// What it begins with.
struct Begin {
    /// The local configuration.
    local: Found,
    /// What it was read from, and what a server set over it, when it is the one given.
    given: Option<(Given, Looked)>,
    /// Why it is not the one given.
    fallback: Option<String>,
}

impl Begin {
    /// The configuration given, or the last good one.
    ///
    /// # Errors
    /// What an operator must read: there is nothing to run by.
    fn by(orders: &Orders, outcome: Outcome) -> Result<(Begin, Vec<Report>), String> {
        let Outcome { config, report, given, effective, .. } = outcome;
        if let Some(config) = config {
            let looked = Looked::at(&config, &given, None);
            let local = Found { config, effective };
            return Ok((Begin { local, given: Some((given, looked)), fallback: None }, vec![report]));
        }
        let Some(kept) = &orders.last_good else { return Err(report.to_string()) };
        let at = kept.path().display();
        match kept.read(&machine()) {
            Ok((config, outcome)) => {
                let fallback = format!("{}; the last good configuration is in force, from {at}", in_short(&report));
                let local = Found { config, effective: outcome.effective };
                Ok((Begin { local, given: None, fallback: Some(fallback) }, vec![report, outcome.report]))
            }
            Err(error) => Err(format!("{report}\nand the last good configuration, {at}: {error}")),
        }
    }
}

/// How many errors there are, and the first: for where there is one line.
pub(super) fn in_short(report: &Report) -> String {
    let mut errors = report.problems().iter().filter(|problem| problem.severity == Severity::Error);
    let Some(first) = errors.next() else { return "it cannot be read".to_owned() };
    let at = format!("{}:{}:{}", report.source_of(first.at), first.at.line, first.at.column);
    let path = if first.path.is_empty() { String::new() } else { format!(" {}:", first.path) };
    match errors.count() {
        0 => format!("it has an error: {at}{path} {}", first.told()),
        more => format!("it has {} errors, the first: {at}{path} {}", more + 1, first.told()),
    }
}

/// Runs the agent until it is told to stop or cannot go on. `told` gets what an operator must read although there is
/// no log yet.
pub fn run(orders: &Orders, mut told: impl FnMut(&str)) -> Exit {
    alloc::calm_glibc();
    install_hook();
    let (begin, reports) = match Begin::by(orders, load(&orders.locations)) {
        Ok(begun) => begun,
        Err(why) => {
            told(&why);
            return Exit::Config;
        }
    };
    let clock = Clock::system();
    let logs = match Logs::install(&log_settings(&begin.local.config), &clock) {
        Ok(logs) => logs,
        Err(error) => {
            told(&format!("log cannot be started: {error}"));
            return Exit::Config;
        }
    };
    reports.iter().for_each(log_problems);
    let exit = actix::System::new().block_on(live(begin, orders, &clock, &logs));
    logs.flush(Duration::from_secs(1));
    exit
}

async fn live(begin: Begin, orders: &Orders, clock: &Clock, logs: &Logs) -> Exit {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), cores = super::machine::cores(), "Starting tfo-otel-agent...");
    let (signals, mut hangups) = match (Signals::listen(), Hangups::listen()) {
        (Ok(signals), Ok(hangups)) => (signals, hangups),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be heard");
            return Exit::Config;
        }
    };
    let Begin { local, mut given, fallback } = begin;
    let found = match &mut given {
        Some((_, looked)) => looked.take_found(local.clone()),
        None => local.clone(),
    };
    let mut told = Told::begin();
    let settings = Settings { sign_of_life: told.sign_of_life(), ..Settings::default() };
    let mut agent = match start(&found.config, clock, settings) {
        Ok(agent) => agent,
        Err(error) => {
            tracing::error!(%error, "agent cannot start");
            return Exit::Config;
        }
    };
    agent.works_by(&found.effective);
    if found.config.service.telemetry != local.config.service.telemetry {
        logs.change(&log_settings(&found.config));
    }
    let mut remote = Remote::begin(agent.exchange.clone(), &agent.metrics);
    logs.register(&agent.metrics);
    actix_rt::spawn(signals.obey(agent.supervisor.lookout()));
    let reloads = Reloads::new(&agent.metrics);
    reloads.fallback.set_count(u64::from(fallback.is_some()));
    if let Some(why) = fallback {
        tracing::error!(why, "the configuration given is invalid");
        agent.health.degraded(CONFIGURATION, &why);
    }
    let mut control = Control::default();
    control.follow(&agent.stores);
    tracing::info!("Everything is ready. Begin running and processing data.");
    told.ready();
    let keeper = Keeper::new(orders);
    if let Some((given, looked)) = given {
        remote.follow((local, given.clone()), looked);
        keeper.keep(given);
    }
    let end = loop {
        tokio::select! {
            end = agent.supervisor.run_until_end() => break end,
            () = hangups.next() => {
                told.reloading();
                logs.reopen();
                reload(&mut agent, orders, &reloads, &keeper, &mut remote, logs).await;
                control.follow(&agent.stores);
                told.ready();
                told.look(&agent.stores, &agent.health);
            }
            due = remote.next() => {
                match due {
                    Due::Offer(offered) => remote.take(&offered, &mut agent, logs).await,
                    Due::Look => remote.look(&mut agent, logs).await,
                }
                control.follow(&agent.stores);
            }
            () = told.due() => told.look(&agent.stores, &agent.health),
        }
    };
    agent.health.stopping();
    told.stopping();
    drop(control);
    if end.exit() != Exit::Clean {
        return end.exit();
    }
    let drained = agent.supervisor.drain(STAGE).await;
    let exit = last_look(&agent.stores, &drained, STAGE).await;
    tracing::info!(missed = drained.missed.len(), %exit, "Shutdown complete.");
    exit
}

/// Keeps configurations that are in service for the next start, one after the other.
struct Keeper {
    kept: Option<LastGood>,
    /// Taken in the order of asking.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Keeper {
    fn new(orders: &Orders) -> Keeper {
        Keeper { kept: orders.last_good.clone(), turn: Arc::default() }
    }

    /// Begins to keep it. The disk may stand still; nobody waits for it. That it cannot be kept is no reason not to run.
    fn keep(&self, given: Given) {
        let Some(kept) = self.kept.clone() else { return };
        let turn = self.turn.clone().lock_owned();
        actix_rt::spawn(async move {
            let _turn = turn.await;
            let file = kept.path().display().to_string();
            match actix_rt::task::spawn_blocking(move || kept.keep(&given)).await {
                Ok(Ok(true)) => tracing::info!(file, "this configuration is kept as the last good one"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::error!(file, %error, "this configuration cannot be kept as the last good one")
                }
                Err(error) => tracing::error!(file, %error, "this configuration cannot be kept as the last good one"),
            }
        });
    }
}

/// How reloads went, for metrics.
struct Reloads {
    outcomes: Counters,
    fallback: Gauge,
}

impl Reloads {
    fn new(metrics: &Metrics) -> Reloads {
        let text = "Reloads of the configuration (SIGHUP) by outcome: applied, unchanged, refused.";
        let counters = metrics.counters("tfo_agent_config_reloads", text, &["outcome"]);
        ["applied", "unchanged", "refused"].iter().for_each(|outcome| counters.with(&[outcome]).add(0));
        let text =
            "1 while the configuration in force is the last good one, because the one given was invalid at the start.";
        Reloads { outcomes: counters, fallback: metrics.gauges("tfo_agent_config_fallback", text, &[]).with(&[]) }
    }
}

/// What is on the status board while the last configuration is not the one in force.
const CONFIGURATION: &str = "configuration";

/// Reads the configuration again and carries it out, or says why not.
async fn reload(
    agent: &mut Agent,
    orders: &Orders,
    reloads: &Reloads,
    keeper: &Keeper,
    remote: &mut Remote,
    logs: &Logs,
) {
    tracing::info!("reload requested");
    let (locations, present) = (orders.locations.clone(), remote.present());
    // Files may lie on a disk that stands still; the main thread must not.
    let Ok((outcome, looked)) = actix_rt::task::spawn_blocking(move || load_over(&locations, present)).await else {
        return tracing::error!("configuration could not be read; the old one stays in force");
    };
    log_problems(&outcome.report);
    let given = outcome.given;
    let told = match outcome.config.zip(looked) {
        None => Err(in_short(&outcome.report)),
        Some((config, mut looked)) => {
            let local = Found { config, effective: outcome.effective };
            let found = looked.take_found(local.clone());
            let told = carry_out(agent, found, logs).await;
            if told.is_ok() {
                remote.follow((local, given.clone()), looked);
            }
            told
        }
    };
    let outcome = match told {
        Ok(Reloaded::Unchanged) => {
            tracing::info!("configuration is unchanged");
            "unchanged"
        }
        Ok(Reloaded::Applied { exporters }) => {
            tracing::info!(?exporters, "configuration is in force");
            "applied"
        }
        Err(why) => {
            tracing::error!(why, "configuration is not carried out; the old one stays in force");
            agent.health.degraded(CONFIGURATION, &why);
            reloads.outcomes.with(&["refused"]).inc();
            return;
        }
    };
    agent.health.recovered(CONFIGURATION);
    reloads.outcomes.with(&[outcome]).inc();
    reloads.fallback.set_count(0);
    keeper.keep(given);
    if let Some(offered) = remote.again() {
        remote.take(&offered, agent, logs).await;
    }
}

/// Reads the configuration given, and what a server set over it.
fn load_over(locations: &Locations, present: Option<Present>) -> (Outcome, Option<Looked>) {
    let outcome = load(locations);
    let looked = outcome.config.as_ref().map(|local| Looked::at(local, &outcome.given, present));
    (outcome, looked)
}

/// Puts a configuration into the place of the one in force.
pub(super) async fn carry_out(agent: &mut Agent, found: Found, logs: &Logs) -> Result<Reloaded, String> {
    let (settings, before) = (log_settings(&found.config), agent.telemetry().clone());
    let told = agent.reload(found.config).await.map_err(|error| error.to_string())?;
    agent.works_by(&found.effective);
    if before != *agent.telemetry() {
        logs.change(&settings);
    }
    Ok(told)
}

/// Tells problems of a configuration in the log.
fn log_problems(report: &Report) {
    for problem in report.problems() {
        let at = format!("{}:{}", report.source_of(problem.at), problem.at.line);
        match problem.severity {
            Severity::Warning => {
                tracing::warn!(path = problem.path, at, "{}", problem.told().trim_start_matches("warning: "))
            }
            Severity::Error => tracing::error!(path = problem.path, at, "{}", problem.told()),
        }
    }
}

#[cfg(not(feature = "testing"))]
fn start(config: &Config, clock: &Clock, settings: Settings) -> Result<Agent, StartError> {
    Agent::start_with(config, clock, super::roster::roster(), settings)
}

/// As in a release; and, for tests of the process as a whole, with short deadlines and a fault:
/// `TFO_TEST_ROSTER=hurried`, `TFO_TEST_SABOTAGE=<seat> guard` or `<seat> block`.
#[cfg(feature = "testing")]
fn start(config: &Config, clock: &Clock, settings: Settings) -> Result<Agent, StartError> {
    use crate::supervise::Sabotage;
    let told = |name: &str| std::env::var(name).ok();
    let hurried = told("TFO_TEST_ROSTER").is_some_and(|which| which == "hurried");
    let roster = if hurried { super::roster::hurried() } else { super::roster::roster() };
    let agent = Agent::start_with(config, clock, roster, settings)?;
    if let Some((seat, fault)) = told("TFO_TEST_SABOTAGE").as_deref().and_then(|order| order.split_once(' ')) {
        let case =
            if fault == "guard" { Sabotage::PanicInGuard } else { Sabotage::BlockThread(Duration::from_secs(3_600)) };
        let hit = agent.supervisor.lookout().sabotage(seat, case);
        tracing::warn!(seat, ?case, hit, "sabotage");
    }
    Ok(agent)
}

fn log_settings(config: &Config) -> LogSettings {
    use crate::telemetry::config::{Encoding as Wanted, Level, Output};
    use crate::telemetry::logs::{Encoding, Sampling, Severity};
    let section = &config.service.telemetry.logs;
    let path = |o: &Output| match o {
        Output::Stdout => "stdout".to_owned(),
        Output::Stderr => "stderr".to_owned(),
        Output::File(path) => path.display().to_string(),
    };
    LogSettings {
        level: match section.level {
            Level::Debug => Severity::Debug,
            Level::Info => Severity::Info,
            Level::Warn => Severity::Warn,
            Level::Error => Severity::Error,
        },
        encoding: match section.encoding {
            Wanted::Console => Encoding::Console,
            Wanted::Json => Encoding::Json,
        },
        disable_caller: section.disable_caller,
        sampling: section.sampling.as_ref().map(|s| Sampling {
            tick: s.tick,
            initial: s.initial.into(),
            thereafter: s.thereafter.into(),
        }),
        output_paths: section.output_paths.iter().map(path).collect(),
        error_output_paths: section.error_output_paths.iter().map(path).collect(),
        initial_fields: section.initial_fields.iter().map(|(k, v)| (k.clone(), json(v))).collect(),
        ..LogSettings::default()
    }
}

fn json(value: &Any) -> serde_json::Value {
    match value {
        Any::Text(text) => text.clone().into(),
        Any::Int(n) => (*n).into(),
        Any::Double(n) => (*n).into(),
        Any::Bool(b) => (*b).into(),
        Any::List(all) => all.iter().map(json).collect(),
        Any::Map(all) => serde_json::Value::Object(all.iter().map(|(k, v)| (k.clone(), json(v))).collect()),
    }
}

/// Whether any exporter of a configuration keeps what it has on a disk.
#[must_use]
pub fn is_durable(config: &Config) -> bool {
    config.exporters.values().filter_map(ExporterConfig::queue).any(|queue| queue.storage.is_some())
}
