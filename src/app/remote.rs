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
use super::plan::{Config, Outcome, ProcessorConfig, ReceiverConfig, read_given};
use super::run::{carry_out, in_short, machine};
use super::wire::{Agent, plan_of};
use crate::config::problems::Severity;
use crate::config::{Form, Given, Id, Source};
use crate::opamp::Exchange;
use crate::opamp::exchange::{Offered, Stage, Status};
use crate::opamp::overlay::Overlay;
use crate::opamp::trial::{Layer, Spoiled, Trial};
use crate::registrar::answer::{MESSAGE_MAX, short};
use crate::supervise::SeatView;
use crate::telemetry::Metrics;
use crate::telemetry::logs::Logs;
use crate::telemetry::metrics::Counters;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// How long a configuration must be in force before it has proved itself.
const WINDOW: Duration = Duration::from_secs(60);
/// How often it is looked at in that time.
const LOOK: Duration = Duration::from_secs(5);
/// How long a disk may take for a small file.
const DISK: Duration = Duration::from_secs(10);
/// Offers that are looked at one after the other, and then one in so long.
const OFFERS_AT_ONCE: u32 = 5;
const OFFER_EVERY: Duration = Duration::from_secs(1_200);
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
    let Some(config) = config else {
        let mut errors = report.problems().iter().filter(|problem| problem.severity == Severity::Error);
        let own = errors.find(|problem| report.source_of(problem.at) == NAME);
        // What is wrong with the operator's own is the log's.
        tracing::warn!(why = in_short(&report), "the local configuration and what an OpAMP server set are not one");
        return Err(own.map_or_else(
            || "the local configuration has an error now".to_owned(),
            |problem| short(&format!("{}: {}", problem.path, problem.told()), MESSAGE_MAX),
        ));
    };
    says_more(local, &config).map_or(Ok(Some(Found { config, effective })), Err)
}

/// What makes the agent say more, or more often, than the operator had it say: who pays for the link decides that.
fn says_more(local: &Config, over: &Config) -> Option<String> {
    let less = |path: String, now: Duration, before: Duration| {
        (now < before).then(|| format!("{path}: {now:?} is less than the local {before:?}"))
    };
    let batches = over.processors.iter().find_map(|(id, section)| match (section, local.processors.get(id)) {
        (ProcessorConfig::Batch(now), Some(ProcessorConfig::Batch(before))) => {
            let size = (now.send_batch_size < before.send_batch_size).then(|| {
                let (now, before) = (now.send_batch_size, before.send_batch_size);
                format!("processors.{id}.send_batch_size: {now} is less than the local {before}")
            });
            let max = (now.send_batch_max_size < before.send_batch_max_size).then(|| {
                let (now, before) = (now.send_batch_max_size, before.send_batch_max_size);
                format!("processors.{id}.send_batch_max_size: {now} is less than the local {before}")
            });
            less(format!("processors.{id}.timeout"), now.timeout, before.timeout).or(size).or(max)
        }
        _ => None,
    });
    let own = over.receivers.iter().find_map(|(id, section)| match (section, local.receivers.get(id)) {
        (ReceiverConfig::Own(now), Some(ReceiverConfig::Own(before))) => {
            less(format!("receivers.{id}.collection_interval"), now.collection_interval, before.collection_interval)
        }
        _ => None,
    });
    let rates = over.exporters.iter().find_map(|(id, section)| {
        let (now, before) = (section.drain()?.max_rate, local.exporters.get(id)?.drain()?.max_rate?);
        let is_more = now.is_none_or(|now| now > before);
        is_more.then(|| {
            format!("exporters.{id}.drain.max_rate: {} is more than the local {before}", now.unwrap_or(u64::MAX))
        })
    });
    let polls = over.opamp().zip(local.opamp()).and_then(|((id, now), (_, before))| {
        let path = format!("extensions.{id}.server.http.polling_interval");
        less(path, now.server.polling_interval, before.server.polling_interval)
    });
    batches.or(own).or(rates).or(polls)
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
            // One that did not fit before may fit now.
            (Some(known), _) => {
                let layer = known.over.or_else(|| known.trial.proved().cloned());
                (known.trial, layer)
            }
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
    /// A post fell under it: it is to be taken back.
    is_condemned: bool,
    /// The last offer that was not carried out: it may fit another local configuration.
    refused: Option<Arc<Offered>>,
    purse: Purse,
    /// Files are written in the order of asking.
    turn: Arc<tokio::sync::Mutex<()>>,
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
            is_condemned: false,
            refused: None,
            purse: Purse { offers: OFFERS_AT_ONCE, since: now },
            turn: Arc::default(),
            falls: BTreeMap::new(),
            window: window(),
            outcomes,
        }
    }

    /// What is in force, for who reads the local configuration again.
    pub(super) fn present(&self) -> Option<Present> {
        let place = self.place.clone()?;
        let over = self.over.clone().filter(|_| !self.is_condemned);
        Some(Present { place, trial: self.trial.clone(), over })
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
        let is_another = layer != self.over;
        (self.place, self.trial, self.over) = (place, trial, layer);
        if is_read || is_another {
            (self.since, self.is_condemned) = (None, false);
        }
        if self.place.is_none() {
            self.exchange.set(None);
            return;
        }
        if let Err(why) = laid {
            let hash = self.over.take().map(|layer| layer.hash()).unwrap_or_default();
            self.since = None;
            return self.failed(&hash, &why);
        }
        let is_of = |layer: &Layer| self.told_of().is_none_or(|hash| hash == layer.hash());
        match &self.over {
            _ if is_read && self.trial.spoiled().is_some() => {
                self.exchange.set(self.trial.spoiled().map(|hash| failure(&hash, SPOILED)));
            }
            Some(layer) if self.since.is_none() && (is_read || is_of(layer)) => {
                self.exchange.set(Some(status(&layer.hash(), Stage::Applied)));
            }
            None if is_read => self.exchange.set(None),
            _ => {}
        }
    }

    /// The hash of which the server was told last.
    fn told_of(&self) -> Option<Vec<u8>> {
        self.exchange.status().borrow().as_ref().map(|status| status.hash.clone())
    }

    /// What is to be looked at again after a reload: an offer that failed may fit another local configuration.
    pub(super) fn again(&mut self) -> Option<Arc<Offered>> {
        let told = self.told_of();
        self.refused.take().filter(|offered| self.place.is_some() && told.is_none_or(|hash| hash == offered.hash))
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
            let (offers, purse) = (&mut self.offers, &self.purse);
            let offered = async {
                sleep_until(purse.opens()).await;
                offers.changed().await
            };
            tokio::select! {
                changed = offered => {
                    if changed.is_err() {
                        std::future::pending::<()>().await; // the agent is gone
                    }
                    let offered = self.offers.borrow_and_update().clone();
                    if let Some(offered) = offered {
                        self.purse.spend();
                        return Due::Offer(offered);
                    }
                }
                () = look => return Due::Look,
            }
        }
    }

    /// Takes what a server offers, or says why not.
    pub(super) async fn take(&mut self, offered: &Arc<Offered>, agent: &mut Agent, logs: &Logs) {
        let hash = &offered.hash[..];
        let has_proved = self.trial.proved().is_some_and(|layer| layer.hash() == hash);
        if has_proved && self.since.is_none() && self.over.as_ref() == self.trial.proved() {
            self.exchange.set(Some(status(hash, Stage::Applied)));
            return self.exchange.forget_offer();
        }
        self.exchange.set(Some(status(hash, Stage::Applying)));
        self.exchange.forget_offer();
        self.refused = None;
        let outcome = match (has_proved, self.place.clone()) {
            (_, None) => Err(NO_LOCAL.to_owned()),
            (true, _) => self.return_to_proved(agent, logs).await,
            (false, Some(place)) => self.try_out(offered, &place, agent, logs).await,
        };
        match outcome {
            Err(why) => {
                self.refused = Some(offered.clone());
                self.failed(hash, &why);
            }
            Ok(()) if has_proved => {
                self.outcomes.with(&["applied"]).inc();
                self.exchange.set(Some(status(hash, Stage::Applied)));
            }
            Ok(()) => {}
        }
    }

    async fn try_out(
        &mut self,
        offered: &Arc<Offered>,
        place: &Path,
        agent: &mut Agent,
        logs: &Logs,
    ) -> Result<(), String> {
        let asked = offered.clone();
        let read = move || Overlay::read(&asked.files).map(|overlay| Layer::new(&asked.hash, &overlay));
        let layer = in_time(read).await??;
        let before = self.trial.clone();
        let mut trial = before.clone();
        trial.begin(&layer).map_err(|Spoiled| SPOILED.to_owned())?;
        let found = self.found(&layer).await?;
        self.keep(&trial, place).await?;
        if let Err(why) = carry_out(agent, found, logs).await {
            if let Err(why) = self.keep(&before, place).await {
                tracing::warn!(error = why, "it cannot be kept that what an OpAMP server set was not carried out");
            }
            return Err(why);
        }
        tracing::info!("what an OpAMP server set is in force; it is kept when it has proved itself");
        (self.trial, self.over, self.is_condemned) = (trial, Some(layer), false);
        self.falls = agent.supervisor.watch().seats.into_iter().map(|seat| (seat.name, seat.falls)).collect();
        let now = Instant::now();
        (self.since, self.next_look) = (Some(now), now + self.look_every());
        Ok(())
    }

    /// The local configuration with this over it.
    async fn found(&self, layer: &Layer) -> Result<Found, String> {
        let (local, given) = self.local.clone().ok_or(NO_LOCAL)?;
        let layer = layer.clone();
        in_time(move || lay(&layer, &local.config, &given).map(|found| found.unwrap_or(local))).await?
    }

    async fn return_to_proved(&mut self, agent: &mut Agent, logs: &Logs) -> Result<(), String> {
        let layer = self.trial.proved().cloned();
        let found = match &layer {
            Some(layer) => self.found(layer).await?,
            None => self.local.clone().ok_or(NO_LOCAL)?.0,
        };
        carry_out(agent, found, logs).await?;
        (self.over, self.since, self.is_condemned) = (layer, None, false);
        Ok(())
    }

    /// Looks after what is tried.
    pub(super) async fn look(&mut self, agent: &mut Agent, logs: &Logs) {
        let (Some(since), Some(place), Some(layer)) = (self.since, self.place.clone(), self.over.clone()) else {
            return;
        };
        self.next_look = Instant::now() + self.look_every();
        let watch = agent.supervisor.watch();
        let has_fallen = |seat: &&SeatView| seat.falls > self.falls.get(&seat.name).copied().unwrap_or_default();
        let fallen = watch.seats.iter().find(has_fallen).map(|seat| seat.name.clone());
        if self.is_condemned || fallen.is_some() {
            return self.take_back(&layer, &place, fallen.as_deref().unwrap_or("a post"), agent, logs).await;
        }
        let is_heard = self.exchange.last_heard().is_some_and(|heard| heard > since);
        if since.elapsed() < self.window || !is_heard {
            return;
        }
        let mut trial = self.trial.clone();
        trial.prove(&layer);
        match self.keep(&trial, &place).await {
            // It is tried until it can be kept.
            Err(why) => tracing::warn!(error = why, "what an OpAMP server set has proved itself and cannot be kept"),
            Ok(()) => {
                (self.trial, self.since) = (trial, None);
                tracing::info!("what an OpAMP server set has proved itself, and is kept");
                self.outcomes.with(&["applied"]).inc();
                self.tell(&layer, Stage::Applied, "");
            }
        }
    }

    /// Takes back what is tried: first what is in force, then what the disk says. Tried at each look until it succeeds.
    async fn take_back(&mut self, layer: &Layer, place: &Path, seat: &str, agent: &mut Agent, logs: &Logs) {
        let is_first = !std::mem::replace(&mut self.is_condemned, true);
        self.trial.spoil(layer);
        let done = self.return_to_proved(agent, logs).await;
        if let Err(why) = self.keep(&self.trial, place).await {
            tracing::warn!(error = why, "it cannot be kept that what an OpAMP server set is not to be tried again");
        }
        if is_first {
            self.outcomes.with(&["rolled_back"]).inc();
            tracing::error!(seat, "a post fell under what an OpAMP server set; it is taken back");
            self.tell(layer, Stage::Failed, &format!("{seat} fell under it; it is taken back"));
        }
        if let Err(error) = done {
            tracing::error!(error, "what an OpAMP server set cannot be taken back yet");
        }
    }

    /// The server is told of this one, unless it was told of another one since.
    fn tell(&self, layer: &Layer, stage: Stage, why: &str) {
        let hash = layer.hash();
        if self.told_of().is_none_or(|told| told == hash) {
            self.exchange.set(Some(Status { hash, stage, why: why.to_owned() }));
        }
    }

    /// Writes the file, after what is being written.
    async fn keep(&self, trial: &Trial, place: &Path) -> Result<(), String> {
        let (trial, place, turn) = (trial.clone(), place.to_owned(), self.turn.clone());
        in_time(move || {
            let _turn = turn.blocking_lock();
            trial.keep(&place).map_err(|error| format!("it cannot be kept: {error}"))
        })
        .await?
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

/// By a thread that a disk may hold up; nobody waits for it longer than this.
async fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    match timeout(DISK, actix_rt::task::spawn_blocking(work)).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the disk does not answer within {DISK:?}")),
    }
}

/// How many offers are looked at: a server that has another one with every answer must not keep an agent reloading, or telling of it.
#[derive(Debug)]
struct Purse {
    offers: u32,
    /// Since when the next one is put in.
    since: Instant,
}

impl Purse {
    /// When the next offer may be looked at.
    fn opens(&self) -> Instant {
        if self.offers > 0 { self.since } else { self.since + OFFER_EVERY }
    }

    fn spend(&mut self) {
        let now = Instant::now();
        while self.offers < OFFERS_AT_ONCE && now.saturating_duration_since(self.since) >= OFFER_EVERY {
            (self.offers, self.since) = (self.offers + 1, self.since + OFFER_EVERY);
        }
        if self.offers == OFFERS_AT_ONCE {
            self.since = now;
        }
        self.offers = self.offers.saturating_sub(1);
    }
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
mod tests;
