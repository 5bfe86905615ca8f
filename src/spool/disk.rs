//! The shelf on a disk: a row of segments, of which one is written, a few are open, and the oldest go when nobody
//! needs them.
//!
//! ```text
//!   seg-07  seg-08.1  seg-09   seg-0a    seg-0b
//!   sealed  copy      closed   active    spare
//!   ◀── read from here          append ──▶
//! ```
//!
//! What always holds:
//! * along the row, a lane's indices grow (a copy takes the place of its original, `seg-08.1` of `seg-08`);
//! * what is not the active segment is never appended to;
//! * a segment is removed only after the control records that say so are synced in another one.
//!
//! Locks, in this order: `active`, then one segment's `door`, then `row`; nobody waits for a door with the row locked,
//! or for any of them with the ledger locked. Upkeep is done by one thread at a time.
//!
//! | file | what |
//! |---|---|
//! | `disk/home.rs` | whether the directory still is ours, and what to do when it is not |
//! | `disk/start.rs` | taking over what an earlier life left |
//! | `disk/look.rs` | reading the row: which segment, opening it, what is in it |
//! | `disk/upkeep.rs` | housekeeping, one piece at a time |
//! | `disk/aside.rs` | how much of what was set aside is kept |
//! | `disk/compaction.rs` | copying what is live out of what is mostly consumed |
//! | `disk/retention.rs` | what gives way: by size, by age, by signal |
//! | `disk/repair.rs` | making a damaged directory whole by hand, while no agent has it |

mod aside;
mod compaction;
mod home;
mod look;
mod repair;
mod retention;
mod start;
mod upkeep;

use self::home::make_directory;
pub(crate) use self::home::{identity, is_still};
use self::look::{Trust, first_readable, guarded_open};
pub(crate) use self::repair::{Repaired, repair};
use self::retention::Retention;
pub use self::start::StartError;
pub(crate) use self::start::{Recovered, clear};
pub(super) use self::start::{arrange, understood};
use self::start::{clear_for_a_directory, take_lock, take_over};
use super::Lane;
use super::block::{self, HEADER_LEN, Header};
use super::ledger::block_key;
use super::phase::{Phase, during};
use super::segment::{self, Segment, SegmentError};
use super::shelf::{Bookkeeper, Shelf, ShelfError, Usage, lock};
use crate::base::{Bytes, Clock, Stamp, Swap};
use crate::otlp::Signal;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Most bytes of a value we ever write: a block at its limit, barely compressible, and its header.
pub(crate) const VALUE_MAX: usize = block::RAW_MAX + (block::RAW_MAX >> 6) + HEADER_LEN;

/// A segment that filled faster than this is followed by one of twice the size: 45 syncs per segment must stay rare.
const FILL_FAST: Duration = Duration::from_secs(10);
/// A segment that took longer is followed by one of half the size, so that memory and the price of one bad byte shrink.
const FILL_SLOW: Duration = Duration::from_secs(120);
/// A consumed active segment larger than this is replaced when nothing waits, so that a drained spool is small.
const IDLE_KEEP: u64 = 512 << 10;
/// So many bytes of control records make the active segment full, however few blocks are in it. Cursors are written with every window,
/// and fjall keeps every version of them in memory: a drain would grow by what it has drained (some 500 bytes a window and write).
const NOTES_MAX: u64 = 1 << 20;
/// When no new segment can be made, the active one grows to so many times its size, and then intake is refused.
const TOO_LARGE: u64 = 4;

/// How the shelf behaves.
#[derive(Debug, Clone)]
pub struct DiskSettings {
    /// The spool's directory.
    pub directory: PathBuf,
    /// Most it may occupy, allocated blocks.
    pub max: Bytes,
    /// Free space left to the rest of the machine.
    pub min_free: Bytes,
    /// What happens at the limit.
    pub when_full: WhenFull,
    /// Whose data gives way first there.
    pub shed: Shed,
    /// What is older gives way; `None`: nothing does for its age.
    pub max_age: Option<Duration>,
    /// Segments begin with this size,
    pub segment_min: Bytes,
    /// and grow to this one while intake is fast.
    pub segment_max: Bytes,
    /// Seal a closed segment that still has data to send.
    pub seal: bool,
    /// When live blocks are copied out of segments that are mostly consumed.
    pub compact: Compaction,
}

/// When live blocks are copied out of segments that are mostly consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// At all.
    pub enabled: bool,
    /// More of them than usual after a start.
    pub on_start: bool,
    /// And when more than the first is allocated while less than the second is live.
    pub on_rebound: Option<(Bytes, Bytes)>,
}

impl Compaction {
    /// Where it costs less than it gives.
    pub const USUAL: Compaction = Compaction { enabled: true, on_start: false, on_rebound: None };
    /// Not at all.
    pub const NEVER: Compaction = Compaction { enabled: false, ..Compaction::USUAL };
}

impl DiskSettings {
    /// What may change while it is open.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let DiskSettings { max, min_free, when_full, shed, max_age, segment_max, .. } = *self;
        Limits { max, min_free, when_full, shed, max_age, segment_max }
    }
}

/// What of [`DiskSettings`] may change while the spool is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most it may occupy.
    pub max: Bytes,
    /// Free space left to the rest of the machine.
    pub min_free: Bytes,
    /// What happens at the limit.
    pub when_full: WhenFull,
    /// Whose data gives way first there.
    pub shed: Shed,
    /// What is older gives way.
    pub max_age: Option<Duration>,
    /// The largest size of a segment; counts for the next one.
    pub segment_max: Bytes,
}

/// Who gives way at the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest segment, counted as lost{evicted}.
    DropOldest,
    /// The client, who is asked to come back.
    Refuse,
}

/// Signals in the order in which they give way at the limit; of the others, and without any, the oldest goes whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shed([Option<Signal>; 3]);

impl Shed {
    /// In this order; of a signal that stands there twice the first place counts.
    #[must_use]
    pub fn in_order(signals: &[Signal]) -> Shed {
        let mut shed = Shed::default();
        for signal in signals {
            if !shed.0.contains(&Some(*signal))
                && let Some(free) = shed.0.iter_mut().find(|place| place.is_none())
            {
                *free = Some(*signal);
            }
        }
        shed
    }

    /// The first one first.
    pub fn signals(&self) -> impl Iterator<Item = Signal> {
        self.0.into_iter().flatten()
    }
}

/// A segment's place in the row: its number and how often it was copied.
pub(crate) type No = (u64, u32);

/// What a segment holds of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The lane's total before the first and after the last block.
    pub(crate) totals: (u64, u64),
    /// Of their values.
    pub(crate) bytes: u64,
}

impl Span {
    /// The blocks, by index.
    pub(crate) fn indices(&self) -> Range<u64> {
        self.first..self.last + 1
    }
}

pub(crate) type Spans = BTreeMap<u32, Span>;

/// Adds a block to what a segment holds.
pub(crate) fn extend(spans: &mut Spans, h: &Header) {
    let new =
        Span { first: h.index, last: h.index, totals: (h.accepted_before(), h.accepted_total), bytes: h.value_len() };
    widen(spans, h.lane.0, new);
}

/// Adds several.
fn widen(spans: &mut Spans, lane: u32, new: Span) {
    spans
        .entry(lane)
        .and_modify(|s| {
            s.last = s.last.max(new.last);
            s.first = s.first.min(new.first);
            s.totals = (s.totals.0.min(new.totals.0), s.totals.1.max(new.totals.1));
            s.bytes += new.bytes;
        })
        .or_insert(new);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Not whole yet.
    Making,
    /// Whole and empty, waiting for its turn.
    Spare,
    Active,
    /// No longer written; its data is in the journal.
    Closed,
    /// No longer written; its data is in the table.
    Sealed,
    /// No longer written, after an error: what could be read is read, nothing else is done to it.
    Broken,
}

/// The open segment, if it is open. Whoever seals it holds the door.
type Door = Arc<Mutex<Option<Arc<Segment>>>>;

#[derive(Debug)]
struct Entry {
    state: State,
    /// `None`: not looked into in this life.
    spans: Option<Spans>,
    /// Allocated on the disk, as last measured.
    bytes: u64,
    /// That is a guess: it was not measured in this life.
    guessed: bool,
    /// Nor was it looked at: by its place in the row it is whole and sealed.
    unseen: bool,
    door: Door,
    /// When it got its state.
    since: Stamp,
    /// More of it would have to be copied than shedding is worth, as was seen when it was tried.
    unfit: bool,
    /// So many blocks of it were needed when they were found to be too much for a copy.
    heavy: Option<u64>,
    /// So many blocks of it were needed at every look since then.
    stood: Option<(u64, Stamp)>,
    /// Every byte of it was read in this life, and was what it should be.
    proved: bool,
    /// It is damaged: it is read as a wreck, and kept for whoever wants to know why.
    damaged: bool,
    /// Since when the disk has answered reads of it with errors.
    trouble: Option<Stamp>,
}

impl Entry {
    fn new(state: State, spans: Option<Spans>, bytes: u64, door: Door, since: Stamp) -> Entry {
        Entry {
            state,
            spans,
            bytes,
            guessed: false,
            unseen: false,
            door,
            since,
            unfit: false,
            heavy: None,
            stood: None,
            proved: false,
            damaged: false,
            trouble: None,
        }
    }

    /// Nothing was ever written to it.
    fn is_to_be(&self) -> bool {
        matches!(self.state, State::Spare | State::Making)
    }
}

#[derive(Debug, Default)]
struct Active {
    open: Option<(No, Arc<Segment>)>,
    /// Turn to the next segment when so many bytes were appended.
    full_at: u64,
    /// Bytes of control records appended since it began with the whole book.
    notes: u64,
    /// When the last block was appended.
    last_block: Stamp,
    /// It is full and written all the same, which was said.
    overfull: bool,
}

impl Active {
    /// `book`: bytes of all control records, with which the next segment begins.
    fn is_full(&self, book: u64) -> bool {
        self.notes >= NOTES_MAX.max(book * 4) || self.open.as_ref().is_none_or(|(_, s)| s.appended() >= self.full_at)
    }
}

/// Segments of one number that may lie in the bin at a time.
const BINNED_MAX: u32 = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Disk {
    settings: DiskSettings,
    /// Those of the settings until they are changed.
    limits: Swap<Limits>,
    clock: Clock,
    active: Mutex<Active>,
    row: Mutex<BTreeMap<No, Entry>>,
    target: AtomicU64,
    written: AtomicU64,
    blocks: AtomicU64,
    block_bytes: AtomicU64,
    /// Bytes in use, as upkeep last counted, and what was appended since.
    used: AtomicU64,
    /// Bytes of these in `quarantine/`.
    aside_bytes: AtomicU64,
    /// When it last did.
    measured: Mutex<Option<Stamp>>,
    /// Something may lie in the bin.
    binned: AtomicBool,
    /// Something may lie in `quarantine/` that was not counted yet.
    aside: AtomicBool,
    /// What an empty segment takes, as the last one did.
    empty: AtomicU64,
    /// Bytes of the last whole book; 0 before the first one of this life.
    book: AtomicU64,
    /// Bytes set by for a copy on a full disk; in use like the others.
    reserve: AtomicU64,
    retention: Retention,
    /// What was found at the start is copied where the least is won.
    eager: AtomicBool,
    /// The last round of housekeeping removed something from the bin, and there may be more.
    emptying: AtomicBool,
    /// Held while we live; the kernel releases it with us.
    lock: Mutex<File>,
    /// Segments nobody needs that could not be moved into the bin yet.
    unbinned: Mutex<Vec<(No, Door)>>,
    /// A block found no space, whatever the limits say, and nothing gave way for it yet.
    choked: AtomicBool,
}

impl Disk {
    /// Takes the directory over: locks it, sets aside what is half made, and reads the newest segment's book.
    ///
    /// # Errors
    /// Only when the directory itself cannot be used; damaged contents never are a reason (promise P4).
    pub(crate) fn open(settings: DiskSettings, clock: Clock) -> Result<(Disk, Recovered), StartError> {
        let dir = settings.directory.clone();
        let bad = |source| StartError::Directory { path: dir.clone(), source };
        make_directory(&dir).map_err(bad)?;
        let held = take_lock(&dir)?;
        let (row, recovered) = take_over(&dir).map_err(bad)?;
        let reserve = fs::metadata(dir.join("reserve")).map_or(0, |m| m.blocks() * 512);
        let quarantine = dir.join(QUARANTINE);
        clear_for_a_directory(&quarantine);
        let aside = allocated(&quarantine);
        let used = reserve + row.values().map(|e| e.bytes).sum::<u64>() + aside;
        let eager = settings.compact.on_start;
        let disk = Disk {
            target: AtomicU64::new(settings.segment_min.0),
            limits: Swap::new(settings.limits()),
            settings,
            clock,
            active: Mutex::default(),
            row: Mutex::new(row),
            written: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            block_bytes: AtomicU64::new(0),
            used: AtomicU64::new(used),
            aside_bytes: AtomicU64::new(aside),
            measured: Mutex::default(),
            binned: AtomicBool::new(true),
            lock: Mutex::new(held),
            unbinned: Mutex::default(),
            choked: AtomicBool::new(false),
            aside: AtomicBool::new(true),
            empty: AtomicU64::new(0),
            book: AtomicU64::new(0),
            reserve: AtomicU64::new(reserve),
            retention: Retention::default(),
            eager: AtomicBool::new(eager),
            emptying: AtomicBool::new(false),
        };
        Ok((disk, recovered))
    }

    fn path(&self, no: No) -> PathBuf {
        self.settings.directory.join(name(no))
    }

    /// Turns to the next segment: the spare, or a new one. The former active one is closed.
    fn roll(&self, active: &mut Active) -> Result<(), SegmentError> {
        let _phase = during(Phase::Roll);
        let (no, segment) = self.take_spare()?;
        let is_filled = active.open.as_ref().is_some_and(|(_, s)| s.appended() >= active.full_at);
        let mut row = lock(&self.row);
        let later = row.range((Excluded(no), Unbounded)).any(|(_, e)| !e.is_to_be());
        assert!(!later, "the active segment stands behind every segment that was written: the last book counts");
        if let Some((old, _)) = active.open.take()
            && let Some(entry) = row.get_mut(&old)
        {
            if is_filled {
                self.resize(self.clock.now().since(entry.since));
            }
            entry.state = State::Closed;
            entry.since = self.clock.now();
        }
        let door = Arc::new(Mutex::new(Some(segment.clone())));
        let entry = Entry::new(State::Active, Some(Spans::new()), 0, door, self.clock.now());
        row.insert(no, entry);
        *active = Active {
            open: Some((no, segment)),
            full_at: self.target.load(Relaxed),
            notes: 0,
            last_block: active.last_block,
            overfull: false,
        };
        Ok(())
    }

    fn resize(&self, filled_in: Duration) {
        let now = self.target.load(Relaxed);
        let next = match filled_in {
            t if t < FILL_FAST => now * 2,
            t if t > FILL_SLOW => now / 2,
            _ => now,
        };
        self.target.store(next.clamp(self.settings.segment_min.0, self.limits.get().segment_max.0), Relaxed);
    }

    /// The next segment of the row. The spare one, if it stands at the row's end: along the row lie the books, and the
    /// last one counts. One that is just being made is waited for.
    fn take_spare(&self) -> Result<(No, Arc<Segment>), SegmentError> {
        let spare = lock(&self.row).last_key_value().filter(|(_, e)| e.is_to_be()).map(|(no, e)| (*no, e.door.clone()));
        if let Some((no, door)) = spare {
            let made = {
                let mut door = lock(&door);
                let there = lock(&self.row).contains_key(&no); // unless making it failed
                match door.take() {
                    Some(open) => Some(Ok(open)),
                    None => there.then(|| {
                        let segment = guarded_open(&self.path(no), Trust::Unproved)?;
                        segment.whole()?;
                        segment::sync_all(&self.path(no))?; // whoever made it may have been killed before
                        Ok::<_, SegmentError>(Arc::new(segment))
                    }),
                }
            };
            match made {
                Some(Ok(segment)) => return Ok((no, segment)),
                Some(Err(error)) => {
                    tracing::warn!(segment = %name(no), %error, "spool spare segment cannot be used");
                    lock(&self.row).remove(&no);
                    self.bin(no, Door::default());
                }
                None => {}
            }
        }
        self.make(State::Making)
    }

    /// Makes the next segment of the row. Its number is taken first, and whoever finds its entry waits at its door.
    fn make(&self, becomes: State) -> Result<(No, Arc<Segment>), SegmentError> {
        let door = Door::default();
        let mut open = lock(&door);
        let no = {
            let mut row = lock(&self.row);
            let no = (row.last_key_value().map_or(1, |((n, _), _)| n + 1), 0);
            let (spans, since) = (Some(Spans::new()), self.clock.now());
            row.insert(no, Entry::new(State::Making, spans, 0, door.clone(), since));
            no
        };
        match Segment::create(&self.path(no)).map(Arc::new) {
            Ok(segment) => {
                *open = Some(segment.clone());
                let bytes = allocated(&self.path(no));
                self.used.fetch_add(bytes, Relaxed);
                self.empty.store(bytes, Relaxed);
                if let Some(entry) = lock(&self.row).get_mut(&no) {
                    entry.state = becomes;
                    entry.bytes = bytes;
                }
                Ok((no, segment))
            }
            Err(error) => {
                lock(&self.row).remove(&no);
                self.bin(no, Door::default());
                Err(error)
            }
        }
    }

    /// After an error nothing is written to the active segment again; what it holds is still read.
    fn abandon(&self, active: &mut Active, error: &SegmentError) {
        if let Some((no, _)) = active.open.take() {
            tracing::error!(segment = %name(no), %error, "spool segment is closed after an error");
            if let Some(entry) = lock(&self.row).get_mut(&no) {
                entry.state = State::Broken;
            }
        }
    }

    /// Renames a segment out of the row; upkeep removes it. Works with no byte free. It is closed after that: fjall writes what a
    /// failed write left in its buffer when it closes a journal.
    fn bin(&self, no: No, door: Door) {
        if let Err(error) = self.try_bin(no) {
            tracing::warn!(segment = %name(no), %error, "spool segment cannot be moved away and is tried again");
            lock(&self.unbinned).push((no, door));
        }
        self.binned.store(true, Relaxed);
    }

    fn try_bin(&self, no: No) -> std::io::Result<()> {
        use std::io::ErrorKind::{AlreadyExists, DirectoryNotEmpty};
        let from = self.path(no);
        if !from.exists() {
            return Ok(()); // it could not even be begun, or somebody removed it
        }
        let number = &name(no)["seg-".len()..];
        // A number that was not used comes again, maybe before the bin is emptied.
        let names = (0..BINNED_MAX).map(|n| self.settings.directory.join(format!("trash-{number}-{n}")));
        let taken = |e: &std::io::Error| matches!(e.kind(), DirectoryNotEmpty | AlreadyExists);
        let mut moved = names.map(|to| fs::rename(&from, to)).skip_while(|moved| moved.as_ref().is_err_and(taken));
        moved.next().unwrap_or(Ok(()))
    }
}

impl Shelf for Disk {
    fn append(&self, blocks: Vec<(Header, Vec<u8>)>, books: &dyn Bookkeeper, sync: bool) -> Result<(), ShelfError> {
        let _phase = during(if blocks.is_empty() { Phase::Cursor } else { Phase::Commit });
        let mut active = lock(&self.active);
        let full = active.is_full(self.book.load(Relaxed));
        if !blocks.is_empty() && !self.has_room(&blocks, full) {
            self.choked.store(true, Relaxed);
            return Err(self.full());
        }
        let mut all = false;
        if full {
            self.come_home(&mut active, books)?;
            match self.roll(&mut active) {
                Ok(()) => all = true,
                // Better a segment that is too large than data that is not kept; but its memtable lies in memory.
                Err(error)
                    if active
                        .open
                        .as_ref()
                        .is_some_and(|(_, s)| s.appended() < active.full_at.max(IDLE_KEEP) * TOO_LARGE) =>
                {
                    if !active.overfull {
                        tracing::warn!(%error, "spool cannot turn to a new segment yet");
                    }
                    active.overfull = true;
                }
                Err(error) if error.is_full() => {
                    self.choked.fetch_or(!blocks.is_empty(), Relaxed);
                    self.retention.refused.store(true, Relaxed);
                    return Err(self.full());
                }
                Err(error) => return Err(ShelfError::Unavailable(error.to_string())),
            }
        }
        let _roll = all.then(|| during(Phase::Roll));
        let (no, segment) = active.open.clone().expect("rolled, or there before");
        let mut records = books.records(all);
        if records.is_empty() && blocks.is_empty() {
            return if sync { segment.sync().map_err(|e| self.lost_active(&mut active, &e)) } else { Ok(()) };
        }
        let notes: u64 = records.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum();
        if all {
            self.book.store(notes, Relaxed);
        }
        let headers: Vec<Header> = blocks.iter().map(|(h, _)| *h).collect();
        let block_bytes: u64 = blocks.iter().map(|(_, v)| v.len() as u64).sum();
        records.extend(blocks.into_iter().map(|(h, value)| (block_key(h.lane, h.index).to_vec(), value)));
        let bytes: u64 = records.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum();
        let appended = catch_unwind(AssertUnwindSafe(|| segment.append(records, sync || all)));
        match appended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                books.failed(&headers);
                self.choked.fetch_or(error.is_full() && !headers.is_empty(), Relaxed);
                return Err(self.lost_active(&mut active, &error));
            }
            Err(panic) => {
                // What is on the disk is unknown: as after an error, these places are never used again.
                books.failed(&headers);
                self.abandon(&mut active, &SegmentError::Damaged("fjall panicked".into()));
                drop(active);
                resume_unwind(panic);
            }
        }
        active.notes += if all { 0 } else { notes };
        // The blocks can be found before the books name them: a reader that is told of them must not miss them.
        if let Some(entry) = lock(&self.row).get_mut(&no) {
            entry.bytes += bytes;
            let spans = entry.spans.get_or_insert_default();
            headers.iter().for_each(|h| extend(spans, h));
        }
        // Before anybody can append again.
        books.committed(&headers);
        self.written.fetch_add(bytes, Relaxed);
        self.blocks.fetch_add(headers.len() as u64, Relaxed);
        self.block_bytes.fetch_add(block_bytes, Relaxed);
        self.used.fetch_add(bytes, Relaxed);
        if !headers.is_empty() {
            active.last_block = self.clock.now();
            self.choked.store(false, Relaxed);
        }
        Ok(())
    }

    fn next(&self, lane: Lane, from: u64) -> Result<Option<(Header, bytes::Bytes)>, ShelfError> {
        let mut from = from;
        loop {
            let Some((no, known)) = self.candidate(lane, from) else { return Ok(None) };
            if !known {
                self.learn(no)?;
                continue;
            }
            let Some(last) = lock(&self.row).get(&no).and_then(|e| e.spans.as_ref()?.get(&lane.0).map(|s| s.last))
            else {
                continue;
            };
            let found = self.with(no, |segment| {
                let found = first_readable(segment, lane, from, last)?;
                Ok(found.map(|found| (segment.is_tail(lane, found.0.index), found)))
            })?;
            match found {
                // Was it acknowledged? Not if what was written behind it has its place.
                Some(Some((true, (header, _)))) if self.is_overwritten(&header)? => from = header.index + 1,
                Some(Some((_, found))) => return Ok(Some(found)),
                // Set aside, or nothing readable from here on: the ledger sees the gap.
                Some(None) => from = last + 1,
                None => {}
            }
        }
    }

    fn nearer(&self, lane: Lane, indices: Range<u64>) -> Result<Option<(Header, bytes::Bytes)>, ShelfError> {
        self.first_anywhere(lane, indices)
    }

    fn youngest(&self, lane: Lane, indices: Range<u64>) -> Result<Option<(u64, u64)>, ShelfError> {
        self.youngest_of(lane, &indices)
    }

    fn upkeep(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        self.keep_house(books)
    }

    fn is_taking(&self, books: &dyn Bookkeeper) -> Result<(), ShelfError> {
        let rolls = lock(&self.active).open.is_none();
        if !self.has_room(&[], rolls) {
            return Err(self.full());
        }
        self.append(Vec::new(), books, true)
    }

    fn trim_quarantine(&self, most: Bytes) -> Result<bool, ShelfError> {
        self.trim_aside(most)
    }

    fn limit(&self, limits: Limits) {
        self.limits.set(limits);
        self.aside.store(true, Relaxed);
    }

    fn usage(&self) -> Usage {
        Usage {
            bytes: self.used.load(Relaxed),
            budget: self.limits.get().max.0,
            segments: lock(&self.row).len() as u64,
            written: self.written.load(Relaxed),
            blocks: self.blocks.load(Relaxed),
            block_bytes: self.block_bytes.load(Relaxed),
        }
    }
}

impl Disk {
    fn full(&self) -> ShelfError {
        ShelfError::Full { used: Bytes(self.used.load(Relaxed)), budget: self.limits.get().max }
    }

    fn lost_active(&self, active: &mut Active, error: &SegmentError) -> ShelfError {
        self.abandon(active, error);
        if error.is_full() {
            self.retention.refused.store(true, Relaxed);
            self.full()
        } else {
            ShelfError::Unavailable(error.to_string())
        }
    }
}

pub(super) fn name((number, copy): No) -> String {
    if copy == 0 { format!("seg-{number:016x}") } else { format!("seg-{number:016x}.{copy}") }
}

/// Where damaged segments are kept.
pub(super) const QUARANTINE: &str = "quarantine";

/// Whether a segment of this name holds what another one held before.
pub(super) fn is_copy(name: &str) -> bool {
    parse_name(name.trim_start_matches("quarantine/")).is_some_and(|(_, copy)| copy > 0)
}

/// Moves a segment into `quarantine/`, where it stays until somebody removes it or its place is needed. Both directories are
/// synced. Returns where it is.
fn set_aside(dir: &Path, segment: &str) -> std::io::Result<PathBuf> {
    let aside = dir.join(QUARANTINE);
    // The directory itself is not made anew here, should it go in this moment.
    fs::create_dir(&aside).or_else(|e| if e.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })?;
    let free = (0..).map(|n| aside.join(if n == 0 { segment.to_owned() } else { format!("{segment}-{n}") }));
    let kept = free.into_iter().find(|path| fs::symlink_metadata(path).is_err()).expect("some number is free");
    fs::rename(dir.join(segment), &kept)?;
    segment::sync_dir(&aside)?;
    segment::sync_dir(dir)?;
    Ok(kept)
}

fn parse_name(name: &str) -> Option<No> {
    let rest = name.strip_prefix("seg-")?;
    let (number, copy) = rest.split_once('.').map_or((rest, Some(0)), |(n, c)| (n, c.parse().ok()));
    (number.len() == 16).then_some(())?;
    Some((u64::from_str_radix(number, 16).ok()?, copy?))
}

/// Bytes the filesystem has given a directory and all in it.
pub(crate) fn allocated(path: &Path) -> u64 {
    let Ok(own) = fs::symlink_metadata(path) else { return 0 };
    let Some(entries) = own.is_dir().then(|| fs::read_dir(path).ok()).flatten() else { return own.blocks() * 512 };
    own.blocks() * 512 + entries.flatten().map(|e| allocated(&e.path())).sum::<u64>()
}
