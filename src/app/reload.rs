//! SIGHUP: another configuration for an agent that runs.
//!
//! ```text
//!  read ─▶ what may not change? ─▶ sockets, stores, pipelines, clients ─▶ ┆ servers and receivers do the new thing
//!          (all or nothing)        everything that can fail               ┆ ─▶ who goes answers what he has
//!                                                                         ┆ ─▶ give up changed uplinks ─▶ post
//!                                                                         ┆ nothing can fail any more
//! ```
//!
//! Which key counts from when on stands in the README ("Run it"); the parts are in [`super::servers`] (receivers,
//! `health_check`, metrics), [`super::stores`] (storages) and here (the rest). One key is refused: the `directory` of a
//! storage that is open.
//!
//! What always holds:
//! * No request is refused or lost, no connection of what did not change is closed, and a place that is still wanted is
//!   listened at all the while.
//! * What waits keeps its lane and goes by the new settings of its exporter. An exporter whose settings did not change
//!   goes on undisturbed; one that changed brings home what it has out first.
//! * A configuration that cannot be carried out changes nothing.

use super::exporters::{self, Task};
use super::opamp::{self, Opamp};
use super::plan::{Config, ExtensionConfig};
use super::registration::{Parts, Plan, Registration};
use super::roster::{OPAMP, REGISTRAR};
use super::servers::{Around, Laid};
use super::stores::Stores;
use super::wire::{Agent, Fed, StartError, man_stores, outlets, pipes, plan_of, shown};
use crate::config::Id;
use crate::processors::Pipe;
use crate::spool::{Book, Store as _};
use crate::telemetry::config::TelemetryConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long an uplink may take to bring home what it has out; what is out then is sent again by its successor.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether requests that were under way at a reload have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The configuration is the same; files it names (certificates, credentials) were read again.
    Unchanged,
    /// It is in force. The exporters whose uplinks were replaced, begun or given up.
    Applied {
        /// By id.
        exporters: BTreeSet<String>,
    },
}

/// Why a configuration is not carried out; the old one stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// These keys are read at the start only.
    #[error("a change of {} needs a restart; nothing was changed", .0.join(", "))]
    Restart(Vec<String>),
    /// Something in it cannot be built.
    #[error("{0}; nothing was changed")]
    Start(#[from] StartError),
}

/// Who still goes the ways of an earlier configuration: requests under way.
#[derive(Debug, Default)]
pub(super) struct Ways {
    present: Vec<Weak<Pipe>>,
    former: Vec<Weak<Pipe>>,
    /// The last reload there was.
    latest: Arc<AtomicU64>,
}

impl Ways {
    /// At the start.
    pub(super) fn begin(pipes: &[Fed]) -> Ways {
        Ways { present: pipes.iter().map(|(_, pipe)| Arc::downgrade(pipe)).collect(), ..Ways::default() }
    }

    /// A reload begins to let exporters join: whoever still waits to part by an earlier one knows too little from now on.
    fn join(&self) {
        self.latest.fetch_add(1, SeqCst);
    }

    /// What comes in from now on comes by these.
    fn turn(&mut self, pipes: &[Fed]) {
        let present = pipes.iter().map(|(_, pipe)| Arc::downgrade(pipe)).collect();
        self.former.append(&mut std::mem::replace(&mut self.present, present));
        self.former.retain(|pipe| pipe.strong_count() > 0);
    }

    /// Nothing can come in by a pipeline of before any more.
    fn empty(&self) -> impl Future<Output = ()> + 'static {
        let former = self.former.clone();
        async move {
            while former.iter().any(|pipe| pipe.strong_count() > 0) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// When the former ways are empty, exporters that are gone part with their lanes: until then a request under way may
    /// still be theirs to send.
    fn part(&self, stores: Arc<Stores>) {
        let (empty, latest) = (self.empty(), self.latest.clone());
        let this = latest.load(SeqCst);
        actix::spawn(async move {
            empty.await;
            // A later reload knows better who reads what.
            if latest.load(SeqCst) == this {
                stores.part_ways();
            }
        });
    }
}

impl Agent {
    /// `service.telemetry` as it is in force.
    #[must_use]
    pub fn telemetry(&self) -> &TelemetryConfig {
        &self.config.service.telemetry
    }

    /// Takes over another configuration.
    ///
    /// # Errors
    /// See [`ReloadError`]; nothing has changed then.
    pub async fn reload(&mut self, config: Config) -> Result<Reloaded, ReloadError> {
        let is_same = config == self.config;
        let fixed = self.fixed(&config);
        if !fixed.is_empty() {
            return Err(ReloadError::Restart(fixed));
        }
        // Everything that can fail.
        let laid = Laid::out(&config, &self.servers)?;
        let stores = self.stores.follow(&config, &self.clock).map_err(StartError::from)?;
        let pipes = pipes(&config, &stores, &self.metrics, &self.clock)?;
        let parts = Parts { metrics: &self.metrics, health: &self.health, clock: &self.clock, started: self.started };
        let plan = plan_of(&config)?;
        let tasks = exporters::tasks(&config, &stores, plan.as_ref());
        let told_of = opamp::plan(&config, plan.as_ref());
        let (registration, registers_anew) = self.registers(plan, &parts)?;
        let another = self.tells(told_of, registration.as_ref(), &parts)?;
        let changed: BTreeSet<Id> = changed(&self.tasks, &tasks);
        let mut crews = self.crews.clone();
        crews.extend(man_stores(
            &self.supervisor,
            &stores.all[crews.len()..],
            &self.metrics,
            &self.health,
            &self.clock,
        ));
        let begin = tasks.iter().filter(|(id, _)| changed.contains(id));
        let ready = exporters::prepare(begin, &stores, &crews, registration.as_ref(), &parts);
        // A store that was opened has its crew, whatever follows.
        self.crews = crews;
        let mut ready = match ready {
            Ok(ready) => ready,
            Err(error) => {
                self.keep_open(stores);
                return Err(error.into());
            }
        };
        // Nothing that can fail.
        let stores = Arc::new(stores);
        self.ways.join();
        stores.join();
        ready.iter_mut().for_each(|ready| exporters::enlist(ready, &stores));
        stores.limit(&config);
        let around = Around {
            supervisor: &self.supervisor,
            pipes: &pipes,
            outlets: outlets(&stores, &self.crews, &self.metrics),
            metrics: &self.metrics,
            health: &self.health,
            clock: &self.clock,
            started: self.started,
        };
        let leaving = self.servers.open(&config, laid, &around);
        // Before uplinks go: what a receiver that goes still takes is theirs to send.
        self.servers.part(leaving, &around).await;
        self.addresses = self.servers.addresses();
        self.ways.turn(&pipes);
        let mut going = changed.iter().filter(|id| self.tasks.contains_key(id)).peekable();
        if going.peek().is_some() {
            // So that who goes and has no disk can send what the last of them bring.
            let _ = tokio::time::timeout(PATIENCE, self.ways.empty()).await;
        }
        for id in going {
            self.supervisor.dismiss(&exporters::seat(id), PATIENCE).await;
            if let Some(task) = self.tasks.get(id).filter(|_| !tasks.contains_key(id)) {
                exporters::forget(id, task, &stores, &self.metrics, &self.health);
            }
        }
        if registers_anew {
            self.register_by(registration).await;
        }
        for ready in ready {
            exporters::post(&self.supervisor, ready);
        }
        if let Some(another) = another {
            self.tell_by(another).await;
        }
        let (labels, level) = shown(&config);
        self.metrics.change(&self.metrics.resource().changed(&labels), level);
        super::numbers::register(&config, &self.metrics, &stores, self.supervisor.lookout());
        self.stores = stores;
        self.tasks = tasks;
        self.config = config;
        self.ways.part(self.stores.clone());
        if is_same {
            return Ok(Reloaded::Unchanged);
        }
        self.tell_the_orphaned();
        Ok(Reloaded::Applied { exporters: changed.iter().map(Id::to_string).collect() })
    }

    /// The registration of this plan: the one there is, if it is the same, and whether it is another one.
    fn registers(&self, plan: Option<Plan>, parts: &Parts<'_>) -> Result<(Option<Registration>, bool), StartError> {
        if self.registration.as_ref().map(Registration::plan) == plan.as_ref() {
            return Ok((self.registration.clone(), false));
        }
        let registration = plan.map(|plan| Registration::prepare(plan, parts)).transpose()?;
        Ok((registration, true))
    }

    /// From now on the platform is told by this one.
    async fn register_by(&mut self, registration: Option<Registration>) {
        if let Some(former) = std::mem::replace(&mut self.registration, registration) {
            self.supervisor.dismiss(REGISTRAR.name, PATIENCE).await;
            former.close();
        }
        self.registration.iter().for_each(|registration| registration.post(&self.supervisor));
    }

    /// What tells an OpAMP server by this plan; `None`: the one there is goes on.
    fn tells(
        &self,
        plan: Option<opamp::Plan>,
        registration: Option<&Registration>,
        parts: &Parts<'_>,
    ) -> Result<Option<Option<Opamp>>, StartError> {
        if self.opamp.as_ref().map(Opamp::plan) == plan.as_ref() {
            return Ok(None);
        }
        let prepare = |plan| {
            let (former, effective) = (self.opamp.as_ref(), self.effective.subscribe());
            Opamp::prepare(plan, former, registration, effective, &self.exchange, parts)
        };
        plan.map(prepare).transpose().map(Some)
    }

    /// From now on the OpAMP server is told by this one.
    async fn tell_by(&mut self, opamp: Option<Opamp>) {
        if let Some(former) = std::mem::replace(&mut self.opamp, opamp) {
            self.supervisor.dismiss(OPAMP.name, PATIENCE).await;
            former.close();
        }
        self.opamp.iter().for_each(|opamp| opamp.post(&self.supervisor));
    }

    /// Keys that differ and are read at the start only.
    fn fixed(&self, new: &Config) -> Vec<String> {
        let mut fixed = Vec::new();
        for (id, section) in &new.extensions {
            let ExtensionConfig::FileStorage(wanted) = section else { continue };
            // It is opened when an exporter needs it, and stays where it was opened.
            if self.stores.directory(id).is_some_and(|open| open != wanted.directory) {
                fixed.push(format!("extensions.{id}.directory"));
            }
        }
        fixed
    }

    /// Stores that were opened for a configuration that is not carried out stay open, under their numbers.
    fn keep_open(&mut self, opened: Stores) {
        let mut stores = (*self.stores).clone();
        stores.adopt(opened);
        self.stores = Arc::new(stores);
    }

    /// Data that waits in a storage for an exporter that does not read there any more goes nowhere until it comes back.
    fn tell_the_orphaned(&self) {
        for (no, stored) in self.stores.all.iter().enumerate() {
            let is_read = |book: &Book| {
                self.tasks.iter().any(|(id, task)| id.to_string() == book.exporter && task.reads(no, &book.lane))
            };
            let books = stored.spool.books();
            for book in books.iter().filter(|book| book.waiting > 0 && !is_read(book)) {
                tracing::warn!(
                    storage = stored.name,
                    exporter = book.exporter,
                    pipeline = book.lane,
                    items = book.waiting,
                    "data waits for an exporter that does not read here any more"
                );
            }
        }
    }
}

fn changed(old: &BTreeMap<Id, Task>, new: &BTreeMap<Id, Task>) -> BTreeSet<Id> {
    let ids: BTreeSet<&Id> = old.keys().chain(new.keys()).collect();
    ids.into_iter().filter(|id| old.get(id) != new.get(id)).cloned().collect()
}
