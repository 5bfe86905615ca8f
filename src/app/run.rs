//! The life of a process: load, check, start, run, stop; one exit code at the end.

use super::machine::address_towards;
use super::plan::{Config, ExporterConfig, Outcome, read};
use super::reload::Reloaded;
use super::stop::last_look;
use super::wire::{Agent, StartError};
use crate::base::Clock;
use crate::config::problems::{Report, Severity};
use crate::config::{Any, Locations, Machine};
use crate::supervise::{Exit, Hangups, Signals, install_hook};
use crate::telemetry::Metrics;
use crate::telemetry::alloc;
use crate::telemetry::logs::{LogSettings, Logs};
use crate::telemetry::metrics::Counters;
use std::time::Duration;

/// How long one stage of the stop may take. Six stages stay far below systemd's 90 s.
const STAGE: Duration = Duration::from_secs(5);

/// Reads and checks a configuration on this machine.
#[must_use]
pub fn load(locations: &Locations) -> Outcome {
    read(locations, &Machine::new(|| address_towards(std::env::var("TELEMETRYFLOW_ENDPOINT").ok().as_deref())))
}

/// Runs the agent until it is told to stop or cannot go on. `told` gets what an operator must read although there is
/// no log yet.
pub fn run(locations: &Locations, mut told: impl FnMut(&str)) -> Exit {
    alloc::calm_glibc();
    install_hook();
    let outcome = load(locations);
    let Some(config) = outcome.config else {
        told(&format!("{}", outcome.report));
        return Exit::Config;
    };
    let clock = Clock::system();
    let logs = match Logs::install(&log_settings(&config), &clock) {
        Ok(logs) => logs,
        Err(error) => {
            told(&format!("log cannot be started: {error}"));
            return Exit::Config;
        }
    };
    log_problems(&outcome.report);
    let exit = actix::System::new().block_on(live(&config, locations, &clock, &logs));
    logs.flush(Duration::from_secs(1));
    exit
}

async fn live(config: &Config, locations: &Locations, clock: &Clock, logs: &Logs) -> Exit {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), cores = super::machine::cores(), "Starting tfo-otel-agent...");
    let (signals, mut hangups) = match (Signals::listen(), Hangups::listen()) {
        (Ok(signals), Ok(hangups)) => (signals, hangups),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be heard");
            return Exit::Config;
        }
    };
    let mut agent = match start(config, clock) {
        Ok(agent) => agent,
        Err(error) => {
            tracing::error!(%error, "agent cannot start");
            return Exit::Config;
        }
    };
    logs.register(&agent.metrics);
    actix_rt::spawn(signals.obey(agent.supervisor.lookout()));
    tracing::info!("Everything is ready. Begin running and processing data.");
    let reloads = Reloads::new(&agent.metrics);
    let end = loop {
        tokio::select! {
            end = agent.supervisor.run_until_end() => break end,
            () = hangups.next() => {
                logs.reopen();
                reload(&mut agent, locations, &reloads, logs).await;
            }
        }
    };
    agent.health.stopping();
    if end.exit() != Exit::Clean {
        return end.exit();
    }
    let drained = agent.supervisor.drain(STAGE).await;
    let exit = last_look(&agent.stores, &drained, STAGE).await;
    tracing::info!(missed = drained.missed.len(), %exit, "Shutdown complete.");
    exit
}

/// How reloads went, for metrics.
struct Reloads(Counters);

impl Reloads {
    fn new(metrics: &Metrics) -> Reloads {
        let text = "Reloads of the configuration (SIGHUP) by outcome: applied, unchanged, refused.";
        let counters = metrics.counters("tfo_agent_config_reloads", text, &["outcome"]);
        ["applied", "unchanged", "refused"].iter().for_each(|outcome| counters.with(&[outcome]).add(0));
        Reloads(counters)
    }
}

/// What is on the status board while the last configuration is not the one in force.
const CONFIGURATION: &str = "configuration";

/// Reads the configuration again and carries it out, or says why not.
async fn reload(agent: &mut Agent, locations: &Locations, reloads: &Reloads, logs: &Logs) {
    tracing::info!("reload requested");
    let locations = locations.clone();
    // Files may lie on a disk that stands still; the main thread must not.
    let Ok(outcome) = actix_rt::task::spawn_blocking(move || load(&locations)).await else {
        return tracing::error!("configuration could not be read; the old one stays in force");
    };
    log_problems(&outcome.report);
    let told = match outcome.config {
        None => Err("it has errors; see the log".to_owned()),
        Some(config) => {
            let (settings, before) = (log_settings(&config), agent.telemetry().clone());
            let told = agent.reload(config).await;
            if told.is_ok() && before != *agent.telemetry() {
                logs.change(&settings);
            }
            told.map_err(|error| error.to_string())
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
            reloads.0.with(&["refused"]).inc();
            return;
        }
    };
    agent.health.recovered(CONFIGURATION);
    reloads.0.with(&[outcome]).inc();
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
fn start(config: &Config, clock: &Clock) -> Result<Agent, StartError> {
    Agent::start(config, clock)
}

/// As in a release; and, for tests of the process as a whole, with short deadlines and a fault:
/// `TFO_TEST_ROSTER=hurried`, `TFO_TEST_SABOTAGE=<seat> guard` or `<seat> block`.
#[cfg(feature = "testing")]
fn start(config: &Config, clock: &Clock) -> Result<Agent, StartError> {
    use crate::supervise::{Sabotage, Settings};
    let told = |name: &str| std::env::var(name).ok();
    let hurried = told("TFO_TEST_ROSTER").is_some_and(|which| which == "hurried");
    let roster = if hurried { super::roster::hurried() } else { super::roster::roster() };
    let agent = Agent::start_with(config, clock, roster, Settings::default())?;
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
    config.exporters.values().any(|e| matches!(e, ExporterConfig::OtlpHttp(e) if e.sending_queue.storage.is_some()))
}
