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
use super::plan::{Config, ExtensionConfig};
use super::servers::{Around, Laid};
use super::wire::{Agent, StartError, man_stores, outlets, pipes, shown};
use crate::config::Id;
use crate::spool::{Book, Store as _};
use crate::telemetry::config::TelemetryConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long an uplink may take to bring home what it has out; what is out then is sent again by its successor.
const PATIENCE: Duration = Duration::from_secs(5);

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
        let tasks = exporters::tasks(&config, &stores);
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
        let ready = exporters::prepare(begin, &stores, &crews, &self.metrics, &self.health, &self.clock);
        // A store that was opened has its crew, whatever follows.
        self.crews = crews;
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) => {
                self.keep_open(stores);
                return Err(error.into());
            }
        };
        // Nothing that can fail.
        let stores = Arc::new(stores);
        stores.join();
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
        for id in changed.iter().filter(|id| self.tasks.contains_key(id)) {
            self.supervisor.dismiss(&exporters::seat(id), PATIENCE).await;
            if let Some(task) = self.tasks.get(id).filter(|_| !tasks.contains_key(id)) {
                exporters::forget(id, task, &self.metrics, &self.health);
            }
        }
        for ready in ready {
            exporters::post(&self.supervisor, ready);
        }
        let (labels, level) = shown(&config);
        self.metrics.change(&self.metrics.resource().changed(&labels), level);
        super::numbers::register(&config, &self.metrics, &stores, self.supervisor.lookout());
        self.stores = stores;
        self.tasks = tasks;
        self.config = config;
        if is_same {
            return Ok(Reloaded::Unchanged);
        }
        self.tell_the_orphaned();
        Ok(Reloaded::Applied { exporters: changed.iter().map(Id::to_string).collect() })
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
    fn keep_open(&mut self, opened: super::stores::Stores) {
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
