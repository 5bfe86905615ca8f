//! Lanes that come up while the agent runs: one for each group of `batch.metadata_keys`.
//!
//! ```text
//! request ─▶ Pipe ─ open(name) ─▶ Branches ─┬─▶ spool: lane, exporters join it
//!                                           └─▶ uplinks: one lane more
//! ```
//!
//! What always holds:
//! * Every exporter of the pipeline has joined a lane before anything is put into it, also during a reload.
//! * There are never more groups than the limit; a lane that was empty at the start is given to the next group that needs one.

use super::stores::Stored;
use crate::processors::batch::groups::{MARK, TooMany};
use crate::processors::pipe::StoreNo;
use crate::spool::Lane;
use crate::spool::store::Spool;
use crate::uplink::wiring::LaneSettings;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Lanes of a group, one in each store that an exporter of its pipeline reads.
type Lanes = Vec<(StoreNo, Lane)>;

/// See the module. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Branches(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// By exporter.
    readers: BTreeMap<String, Reader>,
    /// By pipeline, then name.
    known: BTreeMap<String, BTreeMap<String, Lanes>>,
}

/// An exporter that sends pipelines which may have groups.
#[derive(Debug)]
struct Reader {
    store: StoreNo,
    spool: Arc<Spool>,
    /// The pipelines' own lanes, of which a group's is a copy.
    bases: Vec<LaneSettings>,
    added: watch::Sender<Vec<LaneSettings>>,
}

impl Branches {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exporter reads these lanes from now on, and every group of their pipelines: those that are known, those in
    /// which something waits from an earlier life, and those to come. What is returned tells its uplink.
    pub fn enlist(
        &self,
        exporter: &str,
        store: StoreNo,
        stored: &Stored,
        bases: &[LaneSettings],
    ) -> watch::Receiver<Vec<LaneSettings>> {
        let mut inner = self.inner();
        let reader =
            Reader { store, spool: stored.spool.clone(), bases: bases.to_vec(), added: watch::Sender::new(Vec::new()) };
        for base in bases {
            let known = inner.known.entry(base.name.clone()).or_default();
            for (name, _) in reader.spool.branches(&prefix(&base.name)).into_iter().filter(|(_, spent)| !spent) {
                known.entry(name).or_default();
            }
            let names: Vec<String> = known.keys().cloned().collect();
            names.iter().for_each(|name| reader.join(exporter, base, name, known));
        }
        let added = reader.added.subscribe();
        inner.readers.insert(exporter.to_owned(), reader);
        added
    }

    /// The exporter is gone; returns what it read besides.
    pub fn dismiss(&self, exporter: &str) -> Vec<String> {
        let reader = self.inner().readers.remove(exporter);
        reader.map_or(Vec::new(), |r| r.added.borrow().iter().map(|lane| lane.name.clone()).collect())
    }

    /// The lanes of a group, made when it is new.
    ///
    /// # Errors
    /// When the pipeline has `limit` groups already; 0: no limit.
    pub fn open(&self, pipeline: &str, name: &str, limit: u32) -> Result<Lanes, TooMany> {
        let mut inner = self.inner();
        let Inner { readers, known } = &mut *inner;
        let known = known.entry(pipeline.to_owned()).or_default();
        if let Some(lanes) = known.get(name) {
            return Ok(lanes.clone());
        }
        if limit > 0 && known.len() >= limit as usize {
            return Err(TooMany(limit));
        }
        known.insert(name.to_owned(), Vec::new());
        for (exporter, reader) in readers {
            for base in reader.bases.iter().filter(|base| base.name == pipeline) {
                reader.join(exporter, base, name, known);
            }
        }
        Ok(known.get(name).cloned().unwrap_or_default())
    }

    /// How many groups a pipeline has.
    #[must_use]
    pub fn count(&self, pipeline: &str) -> usize {
        self.inner().known.get(pipeline).map_or(0, BTreeMap::len)
    }
}

impl Reader {
    fn join(&self, exporter: &str, base: &LaneSettings, name: &str, known: &mut BTreeMap<String, Lanes>) {
        let is_free = |other: &str| !known.contains_key(other);
        let lane = self.spool.branch(name, base.signal, &prefix(&base.name), is_free);
        self.spool.admit(exporter, &[lane]);
        let lanes = known.entry(name.to_owned()).or_default();
        if !lanes.contains(&(self.store, lane)) {
            lanes.push((self.store, lane));
        }
        let settings = LaneSettings { lane, name: name.to_owned(), ..base.clone() };
        self.added.send_modify(|added| added.push(settings));
    }
}

/// How the names of a pipeline's groups begin.
fn prefix(pipeline: &str) -> String {
    format!("{pipeline}{MARK}")
}

/// Whether a lane is the pipeline's own or one of its groups'.
#[must_use]
pub fn is_of(lane: &str, pipeline: &str) -> bool {
    lane.strip_prefix(pipeline).is_some_and(|rest| rest.is_empty() || rest.starts_with(MARK))
}
