//! Which stores there are, and who reads which: one spool per `file_storage` that an exporter names, and one in memory
//! for exporters without.

use super::branches::{Branches, is_of};
use super::machine;
use super::plan::{Config, ExporterConfig, ExtensionConfig, PipelineConfig, ProcessorConfig};
use crate::base::units::MIB;
use crate::base::{Bytes, Clock, Dice, Swap};
use crate::config::Id;
use crate::extensions::file_storage::config::{FileStorageConfig, WhenFull as Wanted};
use crate::otlp::Signal;
use crate::processors::batch::config::BatchConfig;
use crate::processors::pipe::StoreNo;
use crate::spool::disk::{Compaction, DiskSettings, Limits, Shed, StartError, WhenFull};
use crate::spool::store::{Caps, Spool};
use crate::spool::{Cut, Lane, Store as _};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a memory store may hold when no memory_limiter says more: a gateway of 256 MB has this to spare.
const MEMORY_STORE: Bytes = Bytes::mib(32);
/// Largest spool by default: 10 GiB, or half the filesystem if that is less (architecture §5).
const SPOOL_MAX: Bytes = Bytes::mib(10 * 1_024);

/// One store and its name in logs: the id of its `file_storage`, or `memory`.
#[derive(Debug, Clone)]
pub struct Stored {
    /// As in logs and seats.
    pub name: String,
    /// On disk, so that an answer means "on stable storage".
    pub durable: bool,
    /// The store.
    pub spool: Arc<Spool>,
    /// Least time between two syncs.
    pub commit_interval: Arc<Swap<Duration>>,
    /// Where it was opened; `None`: memory.
    pub directory: Option<PathBuf>,
}

/// A pipeline as one exporter reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The pipeline's id.
    pub pipeline: String,
    /// What flows in it.
    pub signal: Signal,
    /// Its lane in the exporter's store.
    pub lane: Lane,
    /// How uploads are cut, by the pipeline's `batch`.
    pub cut: Cut,
    /// Longest an item waits for others, by the pipeline's `batch`; zero: not at all.
    pub timeout: Duration,
    /// The `batch` processor's id, for its metrics; `None`: there is none.
    pub batch: Option<String>,
}

/// All stores, and the lines from pipelines to exporters.
#[derive(Debug, Clone)]
pub struct Stores {
    /// By [`StoreNo`].
    pub all: Vec<Stored>,
    /// Each sending exporter's store and what it reads.
    pub exporters: BTreeMap<Id, (StoreNo, Vec<Source>)>,
    /// Each pipeline's lanes.
    pub lanes: BTreeMap<String, Vec<(StoreNo, Lane)>>,
    /// Lanes beside these, which come up while the agent runs.
    pub branches: Branches,
    /// Which storage is which store; `None`: memory.
    by_storage: BTreeMap<Option<Id>, StoreNo>,
}

impl Stores {
    /// Opens every store a pipeline needs, and lets exporters join their lanes.
    ///
    /// # Errors
    /// When a directory cannot be used at all.
    pub fn open(config: &Config, clock: &Clock) -> Result<Stores, StartError> {
        let none = Stores {
            all: Vec::new(),
            exporters: BTreeMap::new(),
            lanes: BTreeMap::new(),
            branches: Branches::default(),
            by_storage: BTreeMap::new(),
        };
        let stores = none.follow(config, clock)?;
        stores.join();
        stores.part_ways();
        Ok(stores)
    }

    /// The stores of another configuration: those that are open stay so, under their numbers, also when nobody reads
    /// them any more; what is new is opened and put behind them. Exporters join their lanes with [`Stores::join`].
    ///
    /// # Errors
    /// As [`Stores::open`]; a store opened before the one that failed is closed again.
    pub fn follow(&self, config: &Config, clock: &Clock) -> Result<Stores, StartError> {
        let mut stores = Stores {
            all: self.all.clone(),
            exporters: BTreeMap::new(),
            lanes: BTreeMap::new(),
            branches: self.branches.clone(),
            by_storage: self.by_storage.clone(),
        };
        let memory = memory_limit(config);
        for pipeline in &config.service.pipelines {
            for id in &pipeline.exporters {
                let Some(queue) = config.exporters.get(id).and_then(ExporterConfig::queue) else { continue };
                let storage = queue.storage.clone().filter(|_| queue.enabled);
                let no = match stores.by_storage.get(&storage) {
                    Some(no) => *no,
                    None => {
                        let no = StoreNo(stores.all.len());
                        stores.all.push(open_one(config, storage.as_ref(), memory, clock)?);
                        stores.by_storage.insert(storage, no);
                        no
                    }
                };
                let lane = stores.all[no.0].spool.lane(&pipeline.id(), pipeline.signal);
                let lanes = stores.lanes.entry(pipeline.id()).or_default();
                if !lanes.contains(&(no, lane)) {
                    lanes.push((no, lane));
                }
                let source = source(config, pipeline, lane);
                stores.exporters.entry(id.clone()).or_insert_with(|| (no, Vec::new())).1.push(source);
            }
        }
        Ok(stores)
    }

    /// From now on what comes in waits for these exporters. Before anything is let in; at a reload, when nothing can fail
    /// any more, for data that waits for an exporter nobody runs goes nowhere.
    pub fn join(&self) {
        for (id, (no, sources)) in &self.exporters {
            let lanes: Vec<Lane> = sources.iter().map(|s| s.lane).collect();
            self.all[no.0].spool.admit(&id.to_string(), &lanes);
        }
    }

    /// From now on what comes in waits for nobody else: an exporter that was taken out or renamed keeps what it had for its
    /// return. When nothing more can come in by an older configuration.
    pub fn part_ways(&self) {
        for (no, stored) in self.all.iter().enumerate() {
            stored.spool.part_ways(|exporter, lane| {
                let theirs = self.exporters.iter().filter(|(id, (at, _))| at.0 == no && id.to_string() == exporter);
                theirs.flat_map(|(_, (_, sources))| sources).any(|source| is_of(lane, &source.pipeline))
            });
        }
    }
}

impl Stores {
    /// Stores that were open before go by the limits of this configuration from now on. One that is not in it any more
    /// keeps its own.
    pub fn limit(&self, config: &Config) {
        let memory = memory_limit(config);
        for (storage, no) in &self.by_storage {
            let stored = &self.all[no.0];
            match storage.as_ref().map(|id| config.extensions.get(id)) {
                Some(Some(ExtensionConfig::FileStorage(section))) => {
                    stored.spool.limit(disk_settings(section, memory).limits());
                    stored.spool.cap(caps(section));
                    stored.commit_interval.set(section.commit_interval);
                }
                Some(_) => {}
                None => {
                    let max = memory_budget(memory);
                    let none = Limits {
                        max,
                        min_free: Bytes(0),
                        when_full: WhenFull::Refuse,
                        shed: Shed::default(),
                        max_age: None,
                        segment_max: max,
                    };
                    stored.spool.limit(none);
                }
            }
        }
    }

    /// Takes over the stores of `others` that are not here yet, which stand behind ours there.
    pub fn adopt(&mut self, others: Stores) {
        self.all = others.all;
        self.by_storage = others.by_storage;
    }

    /// Where an open storage was opened.
    #[must_use]
    pub fn directory(&self, storage: &Id) -> Option<&Path> {
        let no = self.by_storage.get(&Some(storage.clone()))?;
        self.all.get(no.0)?.directory.as_deref()
    }
}

/// What memory_limiter allows, or half of what there is.
fn memory_limit(config: &Config) -> Bytes {
    let total = machine::memory().unwrap_or(Bytes::mib(256));
    let limits = config.processors.values().filter_map(|p| match p {
        ProcessorConfig::MemoryLimiter(limiter) => Some(limiter.limits(total).0),
        _ => None,
    });
    limits.min().unwrap_or(Bytes(total.0 / 2))
}

fn open_one(config: &Config, storage: Option<&Id>, memory: Bytes, clock: &Clock) -> Result<Stored, StartError> {
    let section = storage.and_then(|id| match config.extensions.get(id) {
        Some(ExtensionConfig::FileStorage(section)) => Some((id, section)),
        _ => None,
    });
    let Some((id, section)) = section else {
        let budget = memory_budget(memory);
        tracing::warn!(%budget, "no storage is configured for some exporters: what they acknowledge is in memory and ends with this process");
        let spool = Arc::new(Spool::in_memory(budget, clock.clone(), Dice::shaken()));
        return Ok(Stored {
            name: "memory".into(),
            durable: false,
            spool,
            commit_interval: Arc::default(),
            directory: None,
        });
    };
    let settings = disk_settings(section, memory);
    tracing::info!(storage = %id, directory = %settings.directory.display(), budget = %settings.max, segment_max = %settings.segment_max, "opening spool");
    let spool = Arc::new(Spool::on_disk(settings, clock.clone(), Dice::shaken())?);
    spool.cap(caps(section));
    Ok(Stored {
        name: id.to_string(),
        durable: true,
        spool,
        commit_interval: Arc::new(Swap::new(section.commit_interval)),
        directory: Some(section.directory.clone()),
    })
}

fn memory_budget(memory: Bytes) -> Bytes {
    Bytes((memory.0 / 4).clamp(MEMORY_STORE.0 / 4, MEMORY_STORE.0 * 4))
}

fn caps(section: &FileStorageConfig) -> Caps {
    Caps { dead_letters: section.dead_letter_max, quarantine: section.quarantine_max }
}

fn disk_settings(section: &FileStorageConfig, memory: Bytes) -> DiskSettings {
    let max = section.max_size.unwrap_or_else(|| default_max(section));
    // The active segment lies in memory once, and once more while it is sealed (architecture §5).
    let segment_max = (max.0 / 16).min(memory.0 / 32).clamp(2 * MIB, 48 * MIB);
    DiskSettings {
        directory: section.directory.clone(),
        max,
        min_free: section.min_free,
        when_full: match section.when_full {
            Wanted::DropOldest => WhenFull::DropOldest,
            Wanted::Refuse => WhenFull::Refuse,
        },
        shed: Shed::in_order(&section.shed),
        max_age: section.max_age,
        segment_min: test_segment().unwrap_or(Bytes::mib(2)),
        segment_max: test_segment().unwrap_or(Bytes(segment_max)),
        seal: true,
        compact: Compaction {
            enabled: true,
            on_start: section.compaction.on_start,
            on_rebound: section
                .compaction
                .on_rebound
                .then_some((section.compaction.rebound_needed_threshold, section.compaction.rebound_trigger_threshold)),
        },
    }
}

/// Segments so small that every step of their life happens often: for the kill harness.
#[cfg(feature = "testing")]
fn test_segment() -> Option<Bytes> {
    std::env::var("TFO_TEST_SEGMENT_KIB").ok()?.parse().ok().map(|kib: u64| Bytes(kib << 10))
}

#[cfg(not(feature = "testing"))]
fn test_segment() -> Option<Bytes> {
    None
}

fn default_max(section: &FileStorageConfig) -> Bytes {
    // The directory may not be there yet; its nearest ancestor is on the same filesystem.
    let there = section.directory.ancestors().find(|p| p.exists());
    let half = there.and_then(|p| rustix::fs::statvfs(p).ok()).map(|s| s.f_blocks.saturating_mul(s.f_frsize) / 2);
    Bytes(half.unwrap_or(SPOOL_MAX.0).min(SPOOL_MAX.0))
}

/// The `batch` processor of a pipeline: the first one.
pub(super) fn batch_of<'a>(config: &'a Config, pipeline: &'a PipelineConfig) -> Option<(&'a Id, &'a BatchConfig)> {
    pipeline.processors.iter().find_map(|id| match config.processors.get(id) {
        Some(ProcessorConfig::Batch(batch)) => Some((id, batch)),
        _ => None,
    })
}

fn source(config: &Config, pipeline: &PipelineConfig, lane: Lane) -> Source {
    let batch = batch_of(config, pipeline);
    let (cut, timeout) = match batch {
        Some((_, batch)) => (cut_of(batch), batch.timeout),
        // Without `batch` the original sends each request as it came; here each block.
        None => (cut_of(&BatchConfig { timeout: Duration::ZERO, ..BatchConfig::default() }), Duration::ZERO),
    };
    let batch = batch.map(|(id, _)| id.to_string());
    Source { pipeline: pipeline.id(), signal: pipeline.signal, lane, cut, timeout, batch }
}

fn cut_of(batch: &BatchConfig) -> Cut {
    // A size of 0 or a timeout of 0 means "at once" in the original.
    let enough = if batch.timeout.is_zero() { 1 } else { batch.send_batch_size.max(1) };
    Cut { enough_items: enough, max_items: batch.send_batch_max_size, max_bytes: batch.send_batch_max_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    /// Reference §2.6: a size or a timeout of 0 means "at once", and then only the largest sizes cut.
    #[test]
    #[rustfmt::skip]
    fn batch_says_how_uploads_are_cut() {
        for (yaml, enough_items, max_items, max_bytes) in [
            ("{}",                                                8_192, 0,     4_190_208),
            ("{send_batch_size: 0}",                              1,     0,     4_190_208),
            ("{timeout: 0s}",                                     1,     0,     4_190_208),
            ("{timeout: 0s, send_batch_max_size: 9000}",          1,     9_000, 4_190_208),
            ("{send_batch_size: 500, send_batch_max_size: 600}",  500,   600,   4_190_208),
            ("{send_batch_max_bytes: 1000000}",                   8_192, 0,     1_000_000),
            ("{send_batch_max_bytes: 0}",                         8_192, 0,     0), // no limit
        ] {
            let (batch, told) = try_out(yaml, &[], BatchConfig::read);
            assert_eq!((cut_of(&batch), told.as_str()), (Cut { enough_items, max_items, max_bytes }, ""), "{yaml}");
        }
        let (_, told) = try_out("{send_batch_size: 500, send_batch_max_size: 499}", &[], BatchConfig::read);
        assert_eq!(told, "499 is less than send_batch_size (500)");
    }
}
