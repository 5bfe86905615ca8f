//! Where blocks are: the part of a store that touches a medium. Two kinds obey it, [`super::disk::Disk`] and
//! [`Memory`]; the ledger above is the same for both, so their books cannot differ.

use super::block::Header;
use super::cursor::Fate;
use super::disk::Limits;
use super::gaps::Dates;
use super::ledger::{OpenLane, Record};
use super::{Lane, Reason};
use crate::base::Bytes;
use crate::otlp::Signal;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// What went wrong with the medium.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShelfError {
    /// Nothing more fits until something is deleted.
    #[error("full ({used} of {budget})")]
    Full { used: Bytes, budget: Bytes },
    /// The medium failed; the shelf has already turned to another place of it, or will with the next append.
    #[error("{0}")]
    Unavailable(String),
}

/// How much is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// Bytes of the medium, allocated blocks and not file lengths.
    pub(crate) bytes: u64,
    /// Most it may be.
    pub(crate) budget: u64,
    /// Segments, spare included.
    pub(crate) segments: u64,
    /// Bytes given to write(2) for blocks and control records since the start.
    pub(crate) written: u64,
    /// Blocks of these.
    pub(crate) blocks: u64,
    /// Their bytes.
    pub(crate) block_bytes: u64,
}

/// What a shelf asks of the books, and tells them.
pub(crate) trait Bookkeeper {
    /// These blocks are down. Told while nobody else can append: records written after this know of them, and a
    /// reader finds them only after it.
    fn committed(&self, headers: &[Header]);
    /// Putting these blocks down failed; they may be there all the same. Told as [`Bookkeeper::committed`] is.
    fn failed(&self, headers: &[Header]);
    /// How many of these blocks of the lane are still needed, at most.
    fn needed(&self, lane: Lane, blocks: &Range<u64>) -> u64;
    /// Whether the block is still needed.
    fn is_live(&self, lane: Lane, index: u64) -> bool;
    /// Everything of the lane below this place is about to be removed, needed or not.
    fn evict(&self, lane: Lane, index: u64, total: u64, fate: Fate) -> u64;
    /// The shelf's place was gone and is taken anew: what lies there beside the shelf follows. `found`: there is data in it,
    /// which must be ours.
    fn moved(&self, found: bool) -> io::Result<()>;
    /// What was evicted of the lane by this reason, and was not dated yet, came from then.
    fn date(&self, lane: Lane, reason: Reason, dates: Option<Dates>);
    /// What the lane carries; `None` when the books do not know it.
    fn signal(&self, lane: Lane) -> Option<Signal>;
    /// Lanes of which somebody still needs something.
    fn open_lanes(&self) -> Vec<OpenLane>;
    /// How long ago the block came in, at least.
    fn age(&self, header: &Header) -> Duration;
    /// The control records that changed, or all.
    fn records(&self, all: bool) -> Vec<Record>;
}

/// See the module.
pub(crate) trait Shelf: Send + Sync + std::fmt::Debug {
    /// Puts blocks down with the changed control records (all of them, in the first append of a segment): all or
    /// none. With `sync`, `Ok` means stable storage. When this returns, the books have been told of the outcome; on an
    /// error they were told nothing if nothing can have been written.
    fn append(&self, blocks: Vec<(Header, Vec<u8>)>, books: &dyn Bookkeeper, sync: bool) -> Result<(), ShelfError>;

    /// The first readable block of the lane at or after `from`: header and whole value.
    fn next(&self, lane: Lane, from: u64) -> Result<Option<(Header, bytes::Bytes)>, ShelfError>;

    /// The first readable block of the lane in this range, wherever it stands: asked before anything in it is given up.
    fn nearer(&self, lane: Lane, indices: Range<u64>) -> Result<Option<(Header, bytes::Bytes)>, ShelfError> {
        Ok(self.next(lane, indices.start)?.filter(|(header, _)| header.index < indices.end))
    }

    /// Where the youngest of these blocks of the lane begin that lie together (in a segment), index and total; `None` when that
    /// is not known. Only a guess: the blocks themselves say where they are.
    fn youngest(&self, _: Lane, _: Range<u64>) -> Result<Option<(u64, u64)>, ShelfError> {
        Ok(None)
    }

    /// The first block of the lane at or after `from`, before which `total` items of it lie if nothing is missing: a hole is not
    /// believed before everything that is there was asked.
    fn next_of(&self, lane: Lane, from: u64, total: u64) -> Result<Option<(Header, bytes::Bytes)>, ShelfError> {
        match self.next(lane, from)? {
            Some((header, value)) if header.accepted_before() > total => {
                Ok(Some(self.nearer(lane, from..header.index)?.unwrap_or((header, value))))
            }
            found => Ok(found),
        }
    }

    /// Does one piece of housekeeping: deletes, seals, copies forward, makes spare room. `true` when there is more.
    fn upkeep(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError>;

    /// Whether a block would be put down now; tried, as far as that can be.
    fn is_taking(&self, books: &dyn Bookkeeper) -> Result<(), ShelfError>;

    /// Removes the oldest of what was set aside whole, beyond so many bytes. `true` when there may be more.
    fn trim_quarantine(&self, _: Bytes) -> Result<bool, ShelfError> {
        Ok(false)
    }

    /// From now on by these limits; what is too much for them gives way as at any other time.
    fn limit(&self, limits: Limits);

    /// How much is in use.
    fn usage(&self) -> Usage;
}

/// A lock whose holder panicked guards plain data that every method leaves whole: go on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same without waiting; `None` when somebody holds it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(fallen)) => Some(fallen.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Blocks in memory that are read together where the newest come first.
const TOGETHER: usize = 64;

/// Blocks in memory, for exporters without storage.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: BTreeMap<(Lane, u64), (Header, bytes::Bytes)>,
    bytes: u64,
    written: u64,
    count: u64,
}

impl Memory {
    /// At most `budget` bytes of blocks.
    pub(crate) fn new(budget: Bytes) -> Memory {
        Memory { budget: AtomicU64::new(budget.0), kept: Mutex::default() }
    }
}

impl Shelf for Memory {
    fn append(&self, blocks: Vec<(Header, Vec<u8>)>, books: &dyn Bookkeeper, _: bool) -> Result<(), ShelfError> {
        drop(books.records(false)); // nothing outlives this process, but what was taken counts as written
        let mut kept = lock(&self.kept);
        let more: u64 = blocks.iter().map(|(_, value)| value.len() as u64).sum();
        let budget = self.budget.load(Relaxed);
        if kept.bytes + more > budget {
            return Err(ShelfError::Full { used: Bytes(kept.bytes), budget: Bytes(budget) });
        }
        kept.bytes += more;
        kept.written += more;
        kept.count += blocks.len() as u64;
        let headers: Vec<Header> = blocks.iter().map(|(header, _)| *header).collect();
        books.committed(&headers);
        kept.blocks
            .extend(blocks.into_iter().map(|(header, value)| ((header.lane, header.index), (header, value.into()))));
        Ok(())
    }

    fn next(&self, lane: Lane, from: u64) -> Result<Option<(Header, bytes::Bytes)>, ShelfError> {
        Ok(lock(&self.kept).blocks.range((lane, from)..=(lane, u64::MAX)).next().map(|(_, found)| found.clone()))
    }

    fn youngest(&self, lane: Lane, indices: Range<u64>) -> Result<Option<(u64, u64)>, ShelfError> {
        let kept = lock(&self.kept);
        let mut found = kept.blocks.range((lane, indices.start)..(lane, indices.end)).rev().take(TOGETHER);
        let first = found.by_ref().last().map(|(_, (header, _))| (header.index, header.accepted_before()));
        Ok(first)
    }

    fn upkeep(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        let mut kept = lock(&self.kept);
        let gone: Vec<_> = kept.blocks.keys().filter(|(lane, index)| !books.is_live(*lane, *index)).copied().collect();
        for key in gone {
            let (_, value) = kept.blocks.remove(&key).expect("listed above, under the same lock");
            kept.bytes -= value.len() as u64;
        }
        Ok(false)
    }

    fn is_taking(&self, _: &dyn Bookkeeper) -> Result<(), ShelfError> {
        let (used, budget) = (lock(&self.kept).bytes, self.budget.load(Relaxed));
        if used < budget { Ok(()) } else { Err(ShelfError::Full { used: Bytes(used), budget: Bytes(budget) }) }
    }

    fn limit(&self, limits: Limits) {
        self.budget.store(limits.max.0, Relaxed); // of the others none counts in memory
    }

    fn usage(&self) -> Usage {
        let (kept, budget) = (lock(&self.kept), self.budget.load(Relaxed));
        let Kept { bytes, written, count, .. } = *kept;
        Usage { bytes, budget, segments: 0, written, blocks: count, block_bytes: written }
    }
}
