//! What survives: accepted telemetry, kept until every exporter of its pipeline is done with it.
//!
//! ```text
//!               Commit                      Lease / Settle
//! batcher ───────────────▶ ┌───────────┐ ◀───────────────── uplink
//!          ◀─ durable ──── │   Store   │ ── blocks ───────▶
//!                          └─────┬─────┘
//!            ledger: lanes, cursors, windows, books      (core, no I/O)
//!            shelf:  fjall segments · memory             (where the blocks are)
//! ```
//!
//! What always holds:
//! * `commit` returns `Ok` only after stable storage has every block of it, or (memory) says at start that it has none.
//! * A block's index is never used twice in a lane, also not after a lost tail.
//! * accepted = delivered + waiting + held + lost, per lane and exporter, at every moment (promise P2).

pub mod block;
pub(crate) mod chronicle;
pub(crate) mod codec;
pub(crate) mod cursor;
pub mod disk;
pub mod gaps;
pub(crate) mod journal;
pub(crate) mod ledger;
pub mod phase;
pub(crate) mod segment;
pub(crate) mod shelf;
pub(crate) mod slots;
pub(crate) mod source;
pub mod store;
pub(crate) mod summary;
pub(crate) mod survey;
pub(crate) mod table;
#[cfg(test)]
mod tests;
pub(crate) mod wreck;

pub use codec::Damage;
pub use gaps::{Loss, Stretch};

pub mod crew;

use crate::base::{BootId, Bytes, Stamp};
use crate::otlp::Signal;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// A pipeline's durable number in one spool; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(pub u32);

/// An exporter's durable number in one spool; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExporterNo(pub u32);

/// A place in a lane: before item `item` of block `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Pos {
    /// The block.
    pub index: u64,
    /// How many of its items lie before this place.
    pub item: u32,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.item)
    }
}

/// A block on its way to the disk: merged requests of one lane, compressed, not yet numbered.
#[derive(Debug, Clone)]
pub struct NewBlock {
    /// Whose data it is.
    pub lane: Lane,
    /// What it carries.
    pub signal: Signal,
    /// Chosen by the batcher; the same when the block is offered again after an unknown outcome.
    pub block_id: u128,
    /// Spans, data points or log records in it.
    pub items: u32,
    /// Length of the serialized request before compression, bytes.
    pub raw_len: u32,
    /// When its first request was accepted,
    pub accepted: Stamp,
    /// and in which boot; `None`: in this one.
    pub boot: Option<BootId>,
    /// Earliest and latest time the data itself names, ns since 1970; 0 when it names none.
    pub data_ns: (u64, u64),
    /// [`block::HEADER_LEN`](crate::spool::block) bytes of room for the header, then the lz4 payload.
    pub framed: Vec<u8>,
}

/// Who leases: a retired owner's leases return by themselves and it can settle nothing (architecture §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The exporter.
    pub exporter: ExporterNo,
    /// Grows each time the exporter's uplink is built anew.
    pub generation: u64,
}

/// How an uplink wants its data cut. Recorded with the window, so that the same uploads come out after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Enough: stop adding blocks at so many items (`send_batch_size`).
    pub enough_items: u32,
    /// No upload carries more items (`send_batch_max_size`); 0: no limit.
    pub max_items: u32,
    /// No upload carries more uncompressed bytes, unless one item alone does.
    pub max_bytes: u32,
}

/// Which of what waits is wanted (promise P6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// What was there first: what came back, then what nobody had yet, in the order of the lane.
    Oldest,
    /// What comes in now. Should the oldest of that have waited for longer than this, it becomes a backlog but for what is
    /// younger, and the lane's live data begins there from now on.
    Live {
        /// Longer than data waits while all is well.
        stale: Duration,
    },
    /// What lies before the live data, and what came back.
    Backlog {
        /// The youngest of it first, by the segment; within a segment in the order of the lane.
        newest: bool,
    },
}

/// Whole blocks of a lane that one uplink has out.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Whose they are.
    pub lane: Lane,
    /// What they carry.
    pub signal: Signal,
    /// The window in the lane: every block in it is in `blocks`.
    pub window: Range<u64>,
    /// How this window is to be cut, maybe by an uplink of an earlier life.
    pub cut: Cut,
    /// Parts of the window that are settled already.
    pub settled: Vec<Range<Pos>>,
    /// How long ago the first block came in, at least.
    pub age: Duration,
    /// The blocks, oldest first.
    pub blocks: Vec<LeasedBlock>,
}

/// One block, decompressed and checked.
#[derive(Debug, Clone)]
pub struct LeasedBlock {
    /// Its number in the lane.
    pub index: u64,
    /// Its items.
    pub items: u32,
    /// When it was accepted.
    pub accepted: Stamp,
    /// The serialized Export…ServiceRequest.
    pub raw: bytes::Bytes,
}

/// What became of a part of a window.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Must be the exporter's present owner.
    pub owner: Owner,
    /// Where.
    pub lane: Lane,
    /// Exactly one upload's part, inside one leased window.
    pub range: Range<Pos>,
    /// Items in `range`.
    pub items: u32,
    /// What became of them.
    pub outcome: Outcome,
}

/// The fate of an upload, as the books know it.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The far end has it, but for `rejected` items (partial success), which are lost{rejected}.
    Delivered {
        /// Items the far end said it threw away.
        rejected: u32,
    },
    /// It waits in the exporter's park lane from now on (same commit).
    Parked {
        /// The upload, serialized.
        raw: bytes::Bytes,
    },
    /// It stays in the dead-letter lane, for a person.
    DeadLetter {
        /// The upload, serialized.
        raw: bytes::Bytes,
        /// What the far end said of it.
        answer: String,
    },
    /// Given up, and said so.
    Lost(Reason),
    /// Some of them were taken before, by one of several endpoints; what is said of the others is all that moves or is given up.
    InPart {
        /// The far end has so many,
        delivered: u32,
        /// and threw away so many, which are lost{rejected}.
        rejected: u32,
        /// What became of the others.
        rest: Box<Outcome>,
    },
}

/// Why accepted items will never arrive (promise P2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// Older than the operator's retention.
    Expired = 0,
    /// `on_expiry: drop` and the retry window ended.
    RetryExpired = 1,
    /// The byte cap was reached and older data gave way.
    Evicted = 2,
    /// The disk gave back something else than it was given.
    Corrupt = 3,
    /// The far end took the request and refused these items of it.
    Rejected = 4,
    /// A person gave them up: `spool drop`.
    Dropped = 5,
}

impl Reason {
    /// All of them; `ALL[r as usize] == r`.
    pub const ALL: [Reason; 6] =
        [Reason::Expired, Reason::RetryExpired, Reason::Evicted, Reason::Corrupt, Reason::Rejected, Reason::Dropped];

    /// As in labels and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::RetryExpired => "retry_expired",
            Reason::Evicted => "evicted",
            Reason::Corrupt => "corrupt",
            Reason::Rejected => "rejected",
            Reason::Dropped => "dropped",
        }
    }
}

/// What waits for one exporter in one lane and is not leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Items nobody has out.
    pub items: u64,
    /// Accept time of the oldest of them, when known without reading the disk; `None` with `items > 0` means old.
    pub oldest: Option<Stamp>,
    /// Those of the items that [`Pick::Live`] is for.
    pub live: u64,
    /// Accept time of the oldest of these, as above.
    pub live_oldest: Option<Stamp>,
    /// How often a person has had held data sent again, since the store was opened: what rests is tried at once then.
    pub asked: u64,
}

/// The books of one lane and exporter (promise P2): `accepted == delivered + waiting + held() + lost()`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Book {
    /// The pipeline's name.
    pub lane: String,
    /// The exporter's name.
    pub exporter: String,
    /// Items taken in since this exporter joined the lane.
    pub accepted: u64,
    /// Items the far end has.
    pub delivered: u64,
    /// Items that wait, leased ones and the park lane included.
    pub waiting: u64,
    /// Items in the dead-letter lane.
    pub dead_letters: u64,
    /// Items set aside because handling their block failed twice.
    pub quarantined: u64,
    /// Items lost, by [`Reason`].
    pub lost: [u64; Reason::ALL.len()],
}

impl Book {
    /// What `accepted` must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.delivered + self.waiting + self.dead_letters + self.quarantined + self.lost.iter().sum::<u64>()
    }
}

/// Why a commit did not happen. Nothing of it was kept, unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Ask the client to come back: `UNAVAILABLE` with `RetryInfo`, or 503 with `Retry-After`.
    #[error("spool is full ({used} of {budget})")]
    Full {
        /// Bytes in use.
        used: Bytes,
        /// Bytes allowed.
        budget: Bytes,
    },
    /// No retry can help: `RESOURCE_EXHAUSTED` without `RetryInfo`, or 413.
    #[error("block is {size}, the most we keep is {limit}")]
    TooLarge {
        /// Its size.
        size: Bytes,
        /// The limit.
        limit: Bytes,
    },
    /// The store is being reopened: `UNAVAILABLE`, or 503. The blocks may be kept all the same (a duplicate, not a loss).
    #[error("spool store is unavailable: {0}")]
    Unavailable(String),
}

/// Why a lease was not given or a settlement not taken.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The asker was replaced; it must stop.
    #[error("owner was retired")]
    Retired,
    /// The store cannot read just now; ask again later.
    #[error("spool store is unavailable: {0}")]
    Unavailable(String),
    /// The settlement names no window that is out: a bug of the caller, or a late answer for evicted data.
    /// The lane belongs to it: lanes share the numbers of their blocks.
    #[error("range {1}..{2} of lane {n} is not leased", n = .0.0)]
    NotLeased(Lane, Pos, Pos),
}

/// Where batches wait. One contract, two kinds: fjall segments on a disk, and memory.
///
/// Every method may be called from any thread; `commit`, `settle` and `upkeep` may block on the disk, so they
/// belong on the spool's own threads.
pub trait Store: Send + Sync + fmt::Debug {
    /// The lane's number, made when the name is new; durable with the next commit.
    fn lane(&self, name: &str, signal: Signal) -> Lane;

    /// Registers an exporter's interest in `lanes` and retires its former owner, whose leases return.
    /// A new exporter starts at each lane's tip.
    fn own(&self, exporter: &str, lanes: &[Lane]) -> Owner;

    /// The lane where this exporter's parked parts of `lane` wait.
    fn park_lane(&self, owner: Owner, lane: Lane) -> Lane;

    /// Makes the blocks durable: all or none.
    ///
    /// # Errors
    /// See [`CommitError`].
    fn commit(&self, blocks: Vec<NewBlock>) -> Result<(), CommitError>;

    /// What waits unleased.
    fn waiting(&self, owner: Owner, lane: Lane) -> Waiting;

    /// Hands out the oldest window nobody has out; `None` when nothing waits.
    ///
    /// # Errors
    /// See [`LeaseError`].
    fn lease(&self, owner: Owner, lane: Lane, cut: Cut) -> Result<Option<Lease>, LeaseError> {
        self.pick(owner, lane, Pick::Oldest, cut)
    }

    /// Hands out a window nobody has out, this one of them; `None` when nothing of the kind waits.
    ///
    /// # Errors
    /// See [`LeaseError`].
    fn pick(&self, owner: Owner, lane: Lane, pick: Pick, cut: Cut) -> Result<Option<Lease>, LeaseError>;

    /// The window was decoded, cut and compressed without accident. Until this is said, a fall of the owner (or of the
    /// process) counts against the window's blocks: after two they are set aside (promise P8).
    fn handled(&self, owner: Owner, lane: Lane, window: Range<u64>);

    /// Gives a window back unsent, or sent in part.
    fn give_back(&self, owner: Owner, lane: Lane, window: Range<u64>);

    /// Enters what became of uploads, all of them or none. Durable at the latest with the next commit; parked and dead letters at once.
    ///
    /// # Errors
    /// See [`LeaseError`]; on error the parts count as still out.
    fn settle(&self, settlements: Vec<Settlement>) -> Result<(), LeaseError>;

    /// Whoever calls [`Store::lease`] fell while doing so: what was being read is suspect, and comes back.
    fn reader_fell(&self);

    /// The books, one per lane and exporter.
    fn books(&self) -> Vec<Book>;

    /// What was lost, one per lane, exporter and reason, with when it came from.
    fn losses(&self) -> Vec<Loss>;

    /// All losses of an exporter, if its far end does not know of some of them; else nothing. They are on stable storage, so that
    /// no power cut takes back what was told.
    ///
    /// # Errors
    /// See [`LeaseError`].
    fn to_tell(&self, owner: Owner) -> Result<Vec<Loss>, LeaseError>;

    /// The far end has acknowledged to know of these. Remembered over restarts; a crash may forget it, and then they are told
    /// once more.
    fn told(&self, owner: Owner, losses: &[Loss]);

    /// Changes with every commit: wait on it instead of polling.
    fn news(&self) -> tokio::sync::watch::Receiver<u64>;
}
