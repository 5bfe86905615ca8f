//! What an OpAMP server sets, laid over the local configuration and carried out as a reload is (`docs/opamp.md`).
//!
//! ```text
//!  offer ─▶ on the list? ─▶ over the local configuration, read whole ─▶ kept as tried ─▶ carried out ─▶ looked after
//!             └─ no ─▶ failed    └─ no ─▶ failed                         └─ no ─▶ failed      │
//!                              proved, and kept as such  ◀─ nobody fell, and it is heard, for a minute ──┤
//!                              the proved one again, failed ◀─ a post fell ──────────────────────────────┘
//! ```
//!
//! What always holds:
//! * The local configuration alone decides whether the agent starts: what a server set is laid over it where it fits, and else left out.
//! * Nothing is carried out of which stable storage does not know that it is tried.
//! * `--last-good` keeps the local configuration without it.

use super::opamp;
use super::plan::{Config, Outcome, read_given};
use super::run::{carry_out, in_short, machine};
use super::wire::{Agent, plan_of};
use crate::config::{Form, Given, Id, Source};
use crate::opamp::Exchange;
use crate::opamp::exchange::{Offered, Stage, Status};
use crate::opamp::overlay::Overlay;
use crate::opamp::trial::{Layer, Trial};
use crate::supervise::SeatView;
use crate::telemetry::Metrics;
use crate::telemetry::logs::Logs;
use crate::telemetry::metrics::Counters;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a configuration must be in force before it has proved itself.
const WINDOW: Duration = Duration::from_secs(60);
/// How often it is looked at in that time.
const LOOK: Duration = Duration::from_secs(5);
/// As reports name it.
const NAME: &str = "opamp remote configuration";

/// A configuration that can be carried out.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) config: Config,
    /// The same as `print-config` shows it.
    pub(super) effective: String,
}

/// Where what a server set is kept, if it may set anything.
fn place_of(config: &Config) -> Option<PathBuf> {
    config.opamp().filter(|(_, section)| section.accepts_remote_config)?;
    opamp::plan(config, plan_of(config).ok().flatten().as_ref())?.remote_file()
}

/// Lays it over the local configuration, if it fits.
fn lay(layer: &Layer, local: &Config, given: &Given) -> Result<Option<Found>, String> {
    let overlay = layer.overlay()?;
    fits(&overlay, local)?;
    if overlay.is_empty() {
        return Ok(None);
    }
    let mut given = given.clone();
    given.sources.push(Source { name: NAME.to_owned(), form: Form::Yaml, text: layer.text.clone() });
    let Outcome { config, report, effective, .. } = read_given(&given, &machine());
    config.map(|config| Some(Found { config, effective })).ok_or_else(|| in_short(&report))
}

/// Every component it speaks of is there.
fn fits(overlay: &Overlay, local: &Config) -> Result<(), String> {
    let is_there = |class: &str, id: &Id| match class {
        "receivers" => local.receivers.contains_key(id),
        "processors" => local.processors.contains_key(id),
        "exporters" => local.exporters.contains_key(id),
        _ => local.opamp().is_some_and(|(own, _)| own == id),
    };
    let missing = overlay.components().into_iter().find(|(class, id)| !is_there(class, id));
    missing.map_or(Ok(()), |(class, id)| Err(format!("{class}.{id}: there is none here")))
}

/// What the disk and the local configuration say, read by a thread that may wait for them.
pub(super) struct Looked {
    place: Option<PathBuf>,
    trial: Trial,
    /// It was read from the file, and not known before.
    is_read: bool,
    /// The file cannot be used.
    trouble: Option<String>,
    /// What lies over the local configuration, or why it does not.
    laid: Result<Option<Found>, String>,
    /// The one of which `laid` tells.
    layer: Option<Layer>,
}

/// What is in force before a reload.
#[derive(Clone)]
pub(super) struct Present {
    place: PathBuf,
    trial: Trial,
    over: Option<Layer>,
}

impl Looked {
    /// For a local configuration that is whole. `present`: what was in force, if this process ran already.
    pub(super) fn at(local: &Config, given: &Given, present: Option<Present>) -> Looked {
        let place = place_of(local);
        let known = present.filter(|present| place.as_ref() == Some(&present.place));
        let (is_read, mut trouble) = (known.is_none(), None);
        let (trial, layer) = match (known, &place) {
            (Some(known), _) => (known.trial, known.over),
            (None, None) => (Trial::default(), None),
            (None, Some(place)) => {
                let trial = Trial::read(place).unwrap_or_else(|error| {
                    trouble = Some(error.to_string());
                    Trial::default()
                });
                let layer = trial.proved().cloned();
                (trial, layer)
            }
        };
        let laid = layer.as_ref().map_or(Ok(None), |layer| lay(layer, local, given));
        Looked { place, trial, is_read, trouble, laid, layer }
    }

    /// What to carry out: the local configuration, or what lies over it.
    pub(super) fn take_found(&mut self, local: Found) -> Found {
        match &mut self.laid {
            Ok(found) => found.take().unwrap_or(local),
            Err(_) => local,
        }
    }
}

/// What there is to do.
pub(super) enum Due {
    /// A server offers something.
    Offer(Arc<Offered>),
    /// What is tried is to be looked at.
    Look,
}

/// See the module.
pub(super) struct Remote {
    exchange: Arc<Exchange>,
    offers: watch::Receiver<Option<Arc<Offered>>>,
    /// The local configuration in force, and what it was read from; none: it is not the one given, and nothing is laid over it.
    local: Option<(Found, Given)>,
    place: Option<PathBuf>,
    trial: Trial,
    /// What lies over the local configuration.
    over: Option<Layer>,
    /// Since when it is tried; none: it has proved itself, or there is nothing.
    since: Option<Instant>,
    next_look: Instant,
    /// How often each post had fallen when it began to be tried.
    falls: BTreeMap<String, u64>,
    window: Duration,
    outcomes: Counters,
}

impl Remote {
    /// At the start of an agent.
    pub(super) fn begin(exchange: Arc<Exchange>, metrics: &Metrics) -> Remote {
        let text = "Configurations of an OpAMP server by what became of them: applied, failed, rolled_back.";
        let outcomes = metrics.counters("tfo_agent_opamp_remote_configs", text, &["outcome"]);
        ["applied", "failed", "rolled_back"].iter().for_each(|outcome| outcomes.with(&[outcome]).add(0));
        let (offers, now) = (exchange.offers(), Instant::now());
        Remote {
            exchange,
            offers,
            local: None,
            place: None,
            trial: Trial::default(),
            over: None,
            since: None,
            next_look: now,
            falls: BTreeMap::new(),
            window: window(),
            outcomes,
        }
    }

    /// What is in force, for who reads the local configuration again.
    pub(super) fn present(&self) -> Option<Present> {
        let place = self.place.clone()?;
        Some(Present { place, trial: self.trial.clone(), over: self.over.clone() })
    }

    /// This local configuration is in force, with what was looked up for it laid over it.
    pub(super) fn follow(&mut self, local: (Found, Given), looked: Looked) {
        let Looked { place, trial, is_read, trouble, laid, layer } = looked;
        self.local = Some(local);
        if let Some(why) = trouble {
            tracing::warn!(
                error = why,
                "what an OpAMP server set cannot be read; the local configuration is in force without it"
            );
        }
        (self.place, self.trial, self.over) = (place, trial, layer);
        if is_read {
            self.since = None;
        }
        if self.place.is_none() {
            self.exchange.set(None);
            return;
        }
        let unfit = laid.err();
        if let Some(why) = unfit {
            let hash = self.over.take().map(|layer| layer.hash()).unwrap_or_default();
            self.since = None;
            self.failed(&hash, &why);
        } else if is_read {
            let tried = self.trial.trying().filter(|_| self.trial.is_spoiled()).map(Layer::hash);
            match (tried, &self.over) {
                (Some(hash), _) => self.exchange.set(Some(failure(&hash, SPOILED))),
                (None, Some(layer)) => self.exchange.set(Some(status(&layer.hash(), Stage::Applied))),
                (None, None) => self.exchange.set(None),
            }
        }
    }

    /// What is to be looked at again after a reload: an offer that failed may fit another local configuration.
    pub(super) fn again(&self) -> Option<Arc<Offered>> {
        let status = self.exchange.status();
        let failed = status.borrow().as_ref().filter(|status| status.stage == Stage::Failed).map(|s| s.hash.clone())?;
        self.offers.borrow().clone().filter(|offered| offered.hash == failed)
    }

    /// The next thing to do.
    pub(super) async fn next(&mut self) -> Due {
        loop {
            let look = async {
                match self.since {
                    Some(_) => sleep_until(self.next_look).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.offers.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await; // the agent is gone
                    }
                    if let Some(offered) = self.offers.borrow_and_update().clone() {
                        return Due::Offer(offered);
                    }
                }
                () = look => return Due::Look,
            }
        }
    }

    /// Takes what a server offers, or says why not.
    pub(super) async fn take(&mut self, offered: &Offered, agent: &mut Agent, logs: &Logs) {
        let hash = &offered.hash[..];
        let Some(place) = self.place.clone() else {
            return self.failed(hash, NO_LOCAL);
        };
        let is_present = |layer: &Option<&Layer>| layer.is_some_and(|layer| layer.hash() == hash);
        if self.since.is_none() && is_present(&self.over.as_ref()) {
            return self.exchange.set(Some(status(hash, Stage::Applied)));
        }
        self.exchange.set(Some(status(hash, Stage::Applying)));
        let is_proved = is_present(&self.trial.proved());
        let outcome = match is_proved {
            true => self.return_to_proved(agent, logs).await,
            false => self.try_out(offered, &place, agent, logs).await,
        };
        match outcome {
            Err(why) => self.failed(hash, &why),
            Ok(()) if is_proved => {
                self.outcomes.with(&["applied"]).inc();
                self.exchange.set(Some(status(hash, Stage::Applied)));
            }
            Ok(()) => {}
        }
    }

    async fn try_out(&mut self, offered: &Offered, place: &Path, agent: &mut Agent, logs: &Logs) -> Result<(), String> {
        let layer = Layer::new(&offered.hash, &Overlay::read(&offered.files)?);
        let mut trial = self.trial.clone();
        trial.begin(layer.clone()).map_err(|_| SPOILED.to_owned())?;
        let found = self.found(&layer).await?;
        keep(&trial, place).await?;
        self.trial = trial;
        carry_out(agent, found, logs).await?;
        tracing::info!("what an OpAMP server set is in force; it is kept when it has proved itself");
        self.over = Some(layer);
        self.falls = agent.supervisor.watch().seats.into_iter().map(|seat| (seat.name, seat.falls)).collect();
        let now = Instant::now();
        (self.since, self.next_look) = (Some(now), now + self.look_every());
        Ok(())
    }

    /// The local configuration with this over it.
    async fn found(&self, layer: &Layer) -> Result<Found, String> {
        let (local, given) = self.local.clone().ok_or(NO_LOCAL)?;
        let layer = layer.clone();
        // References may lead to files on a disk that stands still.
        let laid = actix_rt::task::spawn_blocking(move || {
            lay(&layer, &local.config, &given).map(|found| found.unwrap_or(local))
        });
        laid.await.map_err(|error| error.to_string())?
    }

    async fn return_to_proved(&mut self, agent: &mut Agent, logs: &Logs) -> Result<(), String> {
        let layer = self.trial.proved().cloned();
        let found = match &layer {
            Some(layer) => self.found(layer).await?,
            None => self.local.clone().ok_or(NO_LOCAL)?.0,
        };
        carry_out(agent, found, logs).await?;
        (self.over, self.since) = (layer, None);
        Ok(())
    }

    /// Looks after what is tried.
    pub(super) async fn look(&mut self, agent: &mut Agent, logs: &Logs) {
        let (Some(since), Some(place)) = (self.since, self.place.clone()) else { return };
        self.next_look = Instant::now() + self.look_every();
        let watch = agent.supervisor.watch();
        let has_fallen = |seat: &&SeatView| seat.falls > self.falls.get(&seat.name).copied().unwrap_or_default();
        let hash = self.over.as_ref().map(Layer::hash).unwrap_or_default();
        if let Some(seat) = watch.seats.iter().find(has_fallen) {
            self.trial.spoil();
            if let Err(why) = keep(&self.trial, &place).await {
                tracing::warn!(error = why, "it cannot be kept that what an OpAMP server set is not to be tried again");
            }
            let why = match self.return_to_proved(agent, logs).await {
                Ok(()) => format!("{} fell under it; what was in force before is again", seat.name),
                Err(error) => {
                    self.since = None;
                    format!("{} fell under it, and it cannot be taken back before a restart: {error}", seat.name)
                }
            };
            tracing::error!(why, "what an OpAMP server set is taken back");
            self.outcomes.with(&["rolled_back"]).inc();
            return self.exchange.set(Some(failure(&hash, &why)));
        }
        let is_heard = self.exchange.last_heard().is_some_and(|heard| heard > since);
        if since.elapsed() < self.window || !is_heard {
            return;
        }
        let mut trial = self.trial.clone();
        trial.prove();
        match keep(&trial, &place).await {
            // It is tried until it can be kept.
            Err(why) => tracing::warn!(error = why, "what an OpAMP server set has proved itself and cannot be kept"),
            Ok(()) => {
                (self.trial, self.since) = (trial, None);
                tracing::info!("what an OpAMP server set has proved itself, and is kept");
                self.outcomes.with(&["applied"]).inc();
                self.exchange.set(Some(status(&hash, Stage::Applied)));
            }
        }
    }

    fn look_every(&self) -> Duration {
        LOOK.min(self.window / 4)
    }

    fn failed(&self, hash: &[u8], why: &str) {
        tracing::warn!(why, "what an OpAMP server set is not carried out");
        self.outcomes.with(&["failed"]).inc();
        self.exchange.set(Some(failure(hash, why)));
    }
}

/// Why nothing is laid over it.
const NO_LOCAL: &str = "the local configuration that was given is not in force";
/// Why one that was tried is not tried again.
const SPOILED: &str = "the agent ended three times, or a post fell, under it; it is not tried again";

fn status(hash: &[u8], stage: Stage) -> Status {
    Status { hash: hash.to_vec(), stage, why: String::new() }
}

fn failure(hash: &[u8], why: &str) -> Status {
    Status { hash: hash.to_vec(), stage: Stage::Failed, why: why.to_owned() }
}

async fn keep(trial: &Trial, place: &Path) -> Result<(), String> {
    let (trial, place) = (trial.clone(), place.to_owned());
    let kept = actix_rt::task::spawn_blocking(move || {
        trial.keep(&place).map_err(|error| format!("it cannot be kept: {error}"))
    });
    kept.await.map_err(|error| error.to_string())?
}

#[cfg(not(feature = "testing"))]
fn window() -> Duration {
    WINDOW
}

/// As in a release; for tests of the process as a whole `TFO_TEST_REMOTE_WINDOW`, seconds.
#[cfg(feature = "testing")]
fn window() -> Duration {
    let told = std::env::var("TFO_TEST_REMOTE_WINDOW").ok().and_then(|told| told.parse().ok());
    told.map_or(WINDOW, Duration::from_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::plan::read;
    use crate::app::roster::roster;
    use crate::base::Clock;
    use crate::config::{Imagined, Locations};
    use crate::opamp::messages::{AgentConfigFile, AgentConfigMap};
    use crate::supervise::{Sabotage, Settings};
    use crate::telemetry::logs::LogSettings;
    use crate::testing::load::until;

    const PATIENCE: Duration = Duration::from_secs(30);

    struct Rig {
        dir: tempfile::TempDir,
        agent: Agent,
        remote: Remote,
        logs: Logs,
    }

    /// The storage is not open: a process has one in it for good, and here an agent starts several times in one.
    fn local(dir: &Path, more: &str) -> (Found, Given) {
        let yaml = format!(
            "yaml:{{receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:0'}}}}}}}}, \
             processors: {{batch: {{timeout: 1s}}{more}}}, \
             exporters: {{otlphttp: {{endpoint: 'http://127.0.0.1:1'}}}}, \
             extensions: {{file_storage: {{directory: '{}'}}, \
               opamp: {{server: {{http: {{endpoint: 'http://127.0.0.1:1/'}}}}, capabilities: {{accepts_remote_config: true}}}}}}, \
             service: {{extensions: [file_storage, opamp], telemetry: {{metrics: {{level: none}}}}, \
               pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}}}}}",
            dir.join("spool").display()
        );
        let outcome = read(&Locations::of(&yaml), &Imagined::with(&[]));
        let config = outcome.config.unwrap_or_else(|| panic!("{}", outcome.report));
        (Found { config, effective: outcome.effective }, outcome.given)
    }

    fn offered(hash: u8, text: &str) -> Offered {
        let body = bytes::Bytes::copy_from_slice(text.as_bytes());
        let file = AgentConfigFile { body, content_type: "text/yaml".to_owned() };
        Offered { hash: vec![hash], files: AgentConfigMap { config_map: BTreeMap::from([(String::new(), file)]) } }
    }

    const SLOWER: &str = "processors: {batch: {timeout: 7s}}";

    impl Rig {
        /// A process that starts in this directory.
        async fn start(dir: tempfile::TempDir, more: &str) -> Rig {
            std::fs::create_dir_all(dir.path().join("spool")).expect("space");
            let (found, given) = local(dir.path(), more);
            let mut looked = Looked::at(&found.config, &given, None);
            let in_force = looked.take_found(found.clone());
            let settings = Settings { last_resort: Arc::new(|_| {}), grace: PATIENCE, ..Settings::default() };
            let agent = Agent::start_with(&in_force.config, &Clock::system(), roster(), settings).expect("it starts");
            agent.works_by(&in_force.effective);
            let seats = || agent.supervisor.watch().seats;
            assert!(until(PATIENCE, || seats().iter().all(SeatView::is_well)).await, "{:?}", seats());
            let mut remote = Remote::begin(agent.exchange.clone(), &agent.metrics);
            remote.window = Duration::from_millis(200);
            remote.follow((found, given), looked);
            let (logs, _) = Logs::start(&LogSettings::default(), &Clock::system()).expect("a thread");
            Rig { dir, agent, remote, logs }
        }

        async fn end(self) -> tempfile::TempDir {
            let _ = self.agent.supervisor.drain(PATIENCE).await;
            self.dir
        }

        async fn take(&mut self, hash: u8, text: &str) {
            self.remote.take(&offered(hash, text), &mut self.agent, &self.logs).await;
        }

        async fn look(&mut self) {
            self.remote.look(&mut self.agent, &self.logs).await;
        }

        /// The hash of which the server is told, and how far it is.
        fn told(&self) -> Option<(Vec<u8>, Stage)> {
            let status = self.agent.exchange.status();
            status.borrow().as_ref().map(|status| (status.hash.clone(), status.stage))
        }

        fn why(&self) -> String {
            self.agent.exchange.status().borrow().as_ref().map(|status| status.why.clone()).unwrap_or_default()
        }

        /// What a batch waits, of the configuration in force.
        fn timeout(&self) -> u64 {
            let batch = Id::of("batch");
            match &self.agent.config.processors[&batch] {
                crate::app::plan::ProcessorConfig::Batch(batch) => batch.timeout.as_secs(),
                other => panic!("{other:?}"),
            }
        }

        async fn proves(&mut self) {
            tokio::time::sleep(Duration::from_millis(250)).await;
            self.agent.exchange.heard();
            self.look().await;
        }
    }

    fn new_dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    /// Goal: what is offered is in force at once, counts over a start when it has proved itself, and not before.
    #[actix::test]
    async fn what_proves_itself_outlives_a_start_and_what_does_not_does_not() {
        let mut rig = Rig::start(new_dir(), "").await;
        assert_eq!((rig.told(), rig.timeout()), (None, 1));
        rig.take(1, SLOWER).await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Applying)), 7));
        // Time alone is not enough: the server must have been heard.
        tokio::time::sleep(Duration::from_millis(250)).await;
        rig.look().await;
        assert_eq!(rig.told(), Some((vec![1], Stage::Applying)));
        let mut rig = Rig::start(rig.end().await, "").await;
        assert_eq!((rig.told(), rig.timeout()), (None, 1));
        rig.take(1, SLOWER).await;
        // Nor is it, to be heard.
        rig.agent.exchange.heard();
        rig.look().await;
        assert_eq!(rig.told(), Some((vec![1], Stage::Applying)));
        rig.proves().await;
        assert_eq!(rig.told(), Some((vec![1], Stage::Applied)));
        rig.take(2, "processors: {batch: {timeout: 9s}}").await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![2], Stage::Applying)), 9));
        // The server thinks again: what has proved itself once need not do so again.
        rig.take(1, SLOWER).await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Applied)), 7));
        rig.take(2, "processors: {batch: {timeout: 9s}}").await;
        let mut rig = Rig::start(rig.end().await, "").await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Applied)), 7));
        rig.take(3, "").await;
        rig.proves().await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![3], Stage::Applied)), 1));
        let rig = Rig::start(rig.end().await, "").await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![3], Stage::Applied)), 1));
        rig.end().await;
    }

    /// Goal: three starts under it are enough, and so is one post that falls.
    #[actix::test]
    async fn what_does_harm_is_taken_back_and_not_tried_again() {
        let mut dir = new_dir();
        for _ in 0..crate::opamp::trial::TRIES_MAX {
            let mut rig = Rig::start(dir, "").await;
            assert_eq!((rig.told(), rig.timeout()), (None, 1));
            rig.take(1, SLOWER).await;
            assert_eq!(rig.timeout(), 7);
            dir = rig.end().await;
        }
        let mut rig = Rig::start(dir, "").await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Failed)), 1));
        rig.take(1, SLOWER).await;
        assert_eq!((rig.told(), rig.timeout(), rig.why()), (Some((vec![1], Stage::Failed)), 1, SPOILED.to_owned()));
        rig.take(2, SLOWER).await;
        assert_eq!(rig.timeout(), 7);
        let seat = rig.agent.supervisor.watch().seats[0].name.clone();
        assert!(rig.agent.supervisor.lookout().sabotage(&seat, Sabotage::PanicInHandler));
        let fell = || rig.agent.supervisor.watch().seat(&seat).is_some_and(|seat| seat.falls > 0);
        assert!(until(PATIENCE, fell).await);
        rig.proves().await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![2], Stage::Failed)), 1));
        assert!(rig.why().starts_with(&format!("{seat} fell under it")), "{}", rig.why());
        rig.take(2, SLOWER).await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![2], Stage::Failed)), 1));
        // An earlier fall is not held against another one.
        rig.take(3, SLOWER).await;
        rig.proves().await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![3], Stage::Applied)), 7));
        rig.end().await;
    }

    /// Goal: what does not fit, or cannot be kept, changes nothing; it is looked at again when it may fit.
    #[actix::test]
    async fn what_cannot_be_carried_out_changes_nothing() {
        let mut rig = Rig::start(new_dir(), "").await;
        for (hash, text, why) in [
            (
                1,
                "exporters: {otlphttp: {endpoint: 'http://127.0.0.1:2'}}",
                "exporters.otlphttp.endpoint: a server may not set this",
            ),
            (2, "processors: {batch/b: {timeout: 2s}}", "processors.batch/b: there is none here"),
            (
                3,
                "processors: {batch: {send_batch_size: 500, send_batch_max_size: 200}}",
                "200 is less than send_batch_size",
            ),
            (
                4,
                "extensions: {opamp/b: {server: {http: {polling_interval: 9s}}}}",
                "extensions.opamp/b: there is none here",
            ),
        ] {
            rig.take(hash, text).await;
            assert_eq!((rig.told(), rig.timeout()), (Some((vec![hash], Stage::Failed)), 1), "{text}");
            assert!(rig.why().contains(why), "{text}: {}", rig.why());
        }
        let file = rig.dir.path().join("spool/opamp-remote-config");
        assert!(!file.exists(), "it is not tried");
        std::fs::create_dir_all(&file).expect("space");
        rig.take(5, SLOWER).await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![5], Stage::Failed)), 1));
        assert!(rig.why().contains("it cannot be kept"), "{}", rig.why());
        std::fs::remove_dir(&file).expect("ours");
        // Another local configuration, to which it fits.
        let exchange = rig.agent.exchange.clone();
        let message = crate::opamp::messages::AgentRemoteConfig {
            config: Some(offered(6, "processors: {batch/b: {timeout: 2s}}").files),
            config_hash: vec![6].into(),
        };
        assert!(exchange.offer(&prost::Message::encode_to_vec(&message)));
        let Due::Offer(offer) = rig.remote.next().await else { panic!("it is offered") };
        rig.remote.take(&offer, &mut rig.agent, &rig.logs).await;
        assert_eq!(rig.told(), Some((vec![6], Stage::Failed)));
        let (found, given) = local(rig.dir.path(), ", batch/b: {timeout: 3s}");
        let looked = Looked::at(&found.config, &given, rig.remote.present());
        carry_out(&mut rig.agent, found.clone(), &rig.logs).await.expect("it is whole");
        rig.remote.follow((found, given), looked);
        let offer = rig.remote.again().expect("it may fit now");
        rig.remote.take(&offer, &mut rig.agent, &rig.logs).await;
        assert_eq!(rig.told(), Some((vec![6], Stage::Applying)));
        rig.proves().await;
        assert_eq!(rig.told(), Some((vec![6], Stage::Applied)));
        // And one to which it does not: after a start, and after a reload.
        let mut rig = Rig::start(rig.end().await, "").await;
        assert_eq!(rig.told(), Some((vec![6], Stage::Failed)));
        assert!(rig.remote.again().is_none());
        let (found, given) = local(rig.dir.path(), "");
        let looked = Looked::at(&found.config, &given, rig.remote.present());
        rig.remote.follow((found, given), looked);
        assert_eq!(rig.told(), Some((vec![6], Stage::Failed)));
        rig.take(7, SLOWER).await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![7], Stage::Applying)), 7));
        rig.end().await;
    }

    /// A file that is not whole is left out; the agent starts, and takes the next offer.
    #[actix::test]
    async fn a_damaged_file_is_not_used() {
        let dir = new_dir();
        std::fs::create_dir_all(dir.path().join("spool")).expect("space");
        std::fs::write(dir.path().join("spool/opamp-remote-config"), "tfo-otel-agent opamp remote").expect("space");
        let mut rig = Rig::start(dir, "").await;
        assert_eq!((rig.told(), rig.timeout()), (None, 1));
        rig.take(1, SLOWER).await;
        rig.proves().await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Applied)), 7));
        rig.end().await;
    }
}
