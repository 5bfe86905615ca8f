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

use super::block::{self, HEADER_LEN, Header};
use super::cursor::Fate;
use super::ledger::{Record, block_key, is_control_key, parse_block_key};
use super::phase::{Phase, during};
use super::segment::{self, Content, Segment, SegmentError};
use super::shelf::{Bookkeeper, Shelf, ShelfError, Usage, lock};
use super::{Lane, Reason, summary};
use crate::base::{Bytes, Clock, Stamp};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Bound::{Excluded, Unbounded};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
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
/// Nothing was accepted for this long: until then the segment may as well be filled.
const IDLE_AFTER: Duration = Duration::from_secs(5);
/// Sealed segments whose table stays open for the reader: the head, and one more while it moves on.
const OPEN_MAX: usize = 2;
/// A closed segment whose data still waits after this time is sealed; with two of them the older one is sealed at once.
const SEAL_AFTER: Duration = Duration::from_secs(5);
/// So many deaths of the process in a row while one segment was being opened are not bad luck (kills, power cuts) any more.
const DEATHS_MAX: u64 = 5;
/// How often upkeep asks the filesystem what it has given us: some thirty calls per open segment.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
/// When no new segment can be made, the active one grows to so many times its size, and then intake is refused.
const TOO_LARGE: u64 = 4;
/// A segment is copied forward when less than this part of it is live.
const COPY_BELOW: u64 = 4;

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
    /// Segments begin with this size,
    pub segment_min: Bytes,
    /// and grow to this one while intake is fast.
    pub segment_max: Bytes,
    /// Seal a closed segment that still has data to send.
    pub seal: bool,
    /// Copy live blocks out of segments that are mostly consumed.
    pub compact: bool,
}

/// Who gives way at the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest segment, counted as lost{evicted}.
    DropOldest,
    /// The client, who is asked to come back.
    Refuse,
}

/// A segment's place in the row: its number and how often it was copied.
type No = (u64, u32);

/// What a segment holds of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The lane's total before the first and after the last block.
    pub(crate) totals: (u64, u64),
}

pub(crate) type Spans = BTreeMap<u32, Span>;

/// Adds a block to what a segment holds.
pub(crate) fn extend(spans: &mut Spans, h: &Header) {
    let new = Span { first: h.index, last: h.index, totals: (h.accepted_before(), h.accepted_total) };
    spans
        .entry(h.lane.0)
        .and_modify(|s| {
            s.last = s.last.max(h.index);
            s.first = s.first.min(h.index);
            s.totals = (s.totals.0.min(new.totals.0), s.totals.1.max(new.totals.1));
        })
        .or_insert(new);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
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
    door: Door,
    /// When it got its state.
    since: Stamp,
}

impl Entry {
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
    /// When the last block was appended.
    last_block: Stamp,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Disk {
    settings: DiskSettings,
    clock: Clock,
    active: Mutex<Active>,
    row: Mutex<BTreeMap<No, Entry>>,
    target: AtomicU64,
    written: AtomicU64,
    block_bytes: AtomicU64,
    /// Bytes in use, as upkeep last counted, and what was appended since.
    used: AtomicU64,
    /// When it last did.
    measured: Mutex<Option<Stamp>>,
    /// Something may lie in the bin.
    binned: AtomicBool,
    /// Held while we live; the kernel releases it with us.
    _lock: File,
}

/// What an earlier life left.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Control records, oldest first.
    pub(crate) records: Vec<(Vec<u8>, Vec<u8>)>,
    /// The newest block of each lane beside them.
    pub(crate) headers: Vec<Header>,
    /// Above it lies no index.
    pub(crate) epoch_floor: u32,
}

/// Why the spool cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used at all.
    #[error("spool directory {path} cannot be used: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("spool directory {path} is in use by {holder}")]
    InUse {
        /// Which.
        path: PathBuf,
        /// Who, as its lock file says.
        holder: String,
    },
}

impl Disk {
    /// Takes the directory over: locks it, sets aside what is half made, and reads the newest segment's book.
    ///
    /// # Errors
    /// Only when the directory itself cannot be used; damaged contents never are a reason (promise P4).
    pub(crate) fn open(settings: DiskSettings, clock: Clock) -> Result<(Disk, Recovered), StartError> {
        let dir = settings.directory.clone();
        let bad = |source| StartError::Directory { path: dir.clone(), source };
        let first_new = dir.ancestors().take_while(|d| !d.exists()).last().map(Path::to_owned);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(bad)?;
        if let Some(first_new) = first_new {
            // The entries that lead here must survive a power cut too.
            let made = dir.ancestors().take_while(|d| d.starts_with(&first_new)).filter_map(Path::parent);
            made.for_each(|parent| drop(segment::sync_dir(parent))); // some filesystems refuse; nothing more can be done
        }
        let lock = take_lock(&dir)?;
        let mut row = list(&dir).map_err(bad)?;
        let recovered = read_book(&dir, &mut row);
        let used: u64 = row.values().map(|e| e.bytes).sum();
        let disk = Disk {
            target: AtomicU64::new(settings.segment_min.0),
            settings,
            clock,
            active: Mutex::default(),
            row: Mutex::new(row),
            written: AtomicU64::new(0),
            block_bytes: AtomicU64::new(0),
            used: AtomicU64::new(used),
            measured: Mutex::default(),
            binned: AtomicBool::new(true),
            _lock: lock,
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
        let mut row = lock(&self.row);
        let later = row.range((Excluded(no), Unbounded)).any(|(_, e)| !e.is_to_be());
        assert!(!later, "the active segment stands behind every segment that was written: the last book counts");
        if let Some((old, _)) = active.open.take()
            && let Some(entry) = row.get_mut(&old)
        {
            let filled_in = self.clock.now().since(entry.since);
            self.resize(filled_in);
            entry.state = State::Closed;
            entry.since = self.clock.now();
        }
        let entry = Entry {
            state: State::Active,
            spans: Some(Spans::new()),
            bytes: 0,
            door: Arc::new(Mutex::new(Some(segment.clone()))),
            since: self.clock.now(),
        };
        row.insert(no, entry);
        *active =
            Active { open: Some((no, segment)), full_at: self.target.load(Relaxed), last_block: active.last_block };
        Ok(())
    }

    fn resize(&self, filled_in: Duration) {
        let now = self.target.load(Relaxed);
        let next = match filled_in {
            t if t < FILL_FAST => now * 2,
            t if t > FILL_SLOW => now / 2,
            _ => now,
        };
        self.target.store(next.clamp(self.settings.segment_min.0, self.settings.segment_max.0), Relaxed);
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
                    None => there.then(|| guarded_open(&self.path(no)).map(Arc::new)),
                }
            };
            match made {
                Some(Ok(segment)) => return Ok((no, segment)),
                Some(Err(error)) => {
                    tracing::warn!(segment = %name(no), %error, "spool spare segment cannot be used");
                    lock(&self.row).remove(&no);
                    self.bin(no);
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
            row.insert(no, Entry { state: State::Making, spans, bytes: 0, door: door.clone(), since });
            no
        };
        match Segment::create(&self.path(no)).map(Arc::new) {
            Ok(segment) => {
                *open = Some(segment.clone());
                let bytes = allocated(&self.path(no));
                self.used.fetch_add(bytes, Relaxed);
                if let Some(entry) = lock(&self.row).get_mut(&no) {
                    entry.state = becomes;
                    entry.bytes = bytes;
                }
                Ok((no, segment))
            }
            Err(error) => {
                lock(&self.row).remove(&no);
                self.bin(no);
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

    /// Renames a segment out of the row; upkeep removes it. Works with no byte free.
    fn bin(&self, no: No) {
        let from = self.path(no);
        let to = self.settings.directory.join(format!("trash-{}", &name(no)["seg-".len()..]));
        if let Err(error) = fs::rename(&from, &to) {
            tracing::warn!(segment = %name(no), %error, "spool segment cannot be moved away");
        }
        self.binned.store(true, Relaxed);
    }

    fn quarantine(&self, no: No, error: &SegmentError) {
        tracing::error!(segment = %name(no), %error, "spool segment cannot be opened and is set aside");
        lock(&self.row).remove(&no);
        let dir = self.settings.directory.join("quarantine");
        let moved = fs::create_dir_all(&dir).and_then(|()| fs::rename(self.path(no), dir.join(name(no))));
        if let Err(error) = moved {
            tracing::warn!(segment = %name(no), %error, "spool segment cannot be set aside and is passed over");
        }
    }

    /// The first segment of the row that may hold a block of `lane` at or after `from`.
    fn candidate(&self, lane: Lane, from: u64) -> Option<(No, bool)> {
        let row = lock(&self.row);
        row.iter().filter(|(_, e)| !e.is_to_be()).find_map(|(no, e)| match &e.spans {
            None => Some((*no, false)),
            Some(spans) => spans.get(&lane.0).is_some_and(|s| s.last >= from).then_some((*no, true)),
        })
    }

    /// Runs `look` on an open segment, opening it if need be; a segment that cannot be opened is set aside.
    fn with<T>(&self, no: No, look: impl FnOnce(&Segment) -> Result<T, SegmentError>) -> Result<Option<T>, ShelfError> {
        let Some(door) = lock(&self.row).get(&no).map(|e| e.door.clone()) else { return Ok(None) };
        let mut door = lock(&door);
        if door.is_none() {
            self.close_others(no);
            match guarded_open(&self.path(no)) {
                Ok(segment) => *door = Some(Arc::new(segment)),
                Err(error) if error.is_passing() => return Err(ShelfError::Unavailable(error.to_string())),
                Err(error) => {
                    drop(door);
                    self.quarantine(no, &error);
                    return Ok(None);
                }
            }
        }
        let segment = door.as_ref().expect("opened above");
        look(segment).map(Some).map_err(|e| ShelfError::Unavailable(e.to_string()))
    }

    /// Keeps at most `OPEN_MAX` old segments open, `keep` among them: the ones at the front of the row are read next.
    fn close_others(&self, keep: No) {
        let row = lock(&self.row);
        let old = |e: &Entry| matches!(e.state, State::Sealed | State::Closed);
        let open = row
            .iter()
            .filter(|(no, e)| **no != keep && old(e))
            .filter(|(_, e)| e.door.try_lock().is_ok_and(|d| d.is_some()));
        let doors: Vec<_> =
            open.skip(OPEN_MAX - 1).filter(|(_, e)| e.state == State::Sealed).map(|(_, e)| e.door.clone()).collect();
        drop(row);
        for door in doors {
            if let Ok(mut door) = door.try_lock() {
                *door = None;
            }
        }
    }

    /// Looks into a segment of an earlier life.
    fn learn(&self, no: No) -> Result<(), ShelfError> {
        let spans = match summary::read(&self.path(no)) {
            Some(spans) => Some(spans),
            None => match self.with(no, |segment| Ok(spans_of(segment)))? {
                Some(Err(error)) if error.is_passing() => return Err(ShelfError::Unavailable(error.to_string())),
                Some(Err(error)) => {
                    self.quarantine(no, &error);
                    return Ok(());
                }
                Some(Ok(spans)) => Some(spans),
                None => None,
            },
        };
        if let Some(entry) = lock(&self.row).get_mut(&no) {
            entry.spans = Some(spans.unwrap_or_default());
        }
        Ok(())
    }

    // ---- upkeep, one piece at a time -------------------------------------------------------------------------

    fn empty_bin(&self) -> io::Result<bool> {
        if !self.binned.swap(false, Relaxed) {
            return Ok(false);
        }
        for entry in fs::read_dir(&self.settings.directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("trash-") {
                let _phase = during(Phase::Delete);
                self.binned.store(true, Relaxed); // there may be more, or this fails and is tried again
                fs::remove_dir_all(entry.path())?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// When nothing waits and nothing comes, the active segment gives way to an empty one.
    fn replace_idle(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        if !self.is_idle(books) {
            return Ok(false);
        }
        lock(&self.active).full_at = 0; // the next append turns to the next segment: this one is it
        self.append(Vec::new(), books, true)?;
        Ok(true)
    }

    /// Old segments are looked into when their turn comes; the front one's turn is now.
    fn learn_front(&self) -> Result<bool, ShelfError> {
        let front = lock(&self.row).iter().next().filter(|(_, e)| e.spans.is_none()).map(|(no, _)| *no);
        let Some(no) = front else { return Ok(false) };
        self.learn(no)?;
        Ok(true)
    }

    fn delete_consumed(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        let gone = self.consumed(books);
        if gone.is_empty() {
            return Ok(false);
        }
        self.append(Vec::new(), books, true)?; // the cursors that say so, synced
        self.delete(&gone);
        Ok(true)
    }

    /// Old segments nobody needs.
    fn consumed(&self, books: &dyn Bookkeeper) -> Vec<No> {
        let old: Vec<(No, Spans)> = {
            let row = lock(&self.row);
            let old = |e: &Entry| matches!(e.state, State::Closed | State::Sealed | State::Broken);
            row.iter().filter(|(_, e)| old(e)).filter_map(|(no, e)| Some((*no, e.spans.clone()?))).collect()
        };
        let done = |spans: &Spans| {
            spans.iter().all(|(lane, s)| books.needed_from(Lane(*lane)).is_some_and(|needed| s.last < needed))
        };
        old.into_iter().filter(|(_, spans)| done(spans)).map(|(no, _)| no).collect()
    }

    fn delete(&self, gone: &[No]) {
        let _phase = during(Phase::Delete);
        for no in gone {
            let entry = lock(&self.row).remove(no);
            if let Some(entry) = entry {
                self.used.fetch_sub(entry.bytes.min(self.used.load(Relaxed)), Relaxed);
                *lock(&entry.door) = None;
            }
            self.bin(*no);
        }
    }

    /// The active segment is all consumed and worth replacing.
    fn is_idle(&self, books: &dyn Bookkeeper) -> bool {
        let active = lock(&self.active);
        let Some((no, segment)) = &active.open else { return false };
        if segment.appended() < IDLE_KEEP || self.clock.now().since(active.last_block) < IDLE_AFTER {
            return false;
        }
        let row = lock(&self.row);
        let Some(spans) = row.get(no).and_then(|e| e.spans.clone()) else { return false };
        drop((row, active));
        spans.iter().all(|(lane, s)| books.needed_from(Lane(*lane)).is_some_and(|needed| s.last < needed))
    }

    fn make_spare(&self) -> Result<bool, ShelfError> {
        if lock(&self.row).last_key_value().is_some_and(|(_, e)| e.is_to_be()) || self.is_over() {
            return Ok(false);
        }
        let _phase = during(Phase::Roll);
        let made =
            self.make(State::Spare).map_err(|error| ShelfError::Unavailable(format!("no spare segment: {error}")));
        made.map(|_| false)
    }

    /// A closed segment that will stay for a while: seal it. In the steady state a segment is consumed before.
    fn seal_one(&self) -> Result<bool, ShelfError> {
        let (no, door, spans) = {
            let row = lock(&self.row);
            let mut closed = row.iter().filter(|(_, e)| e.state == State::Closed);
            let Some((no, e)) = closed.next() else { return Ok(false) };
            if closed.next().is_none() && self.clock.now().since(e.since) < SEAL_AFTER {
                return Ok(false);
            }
            (*no, e.door.clone(), e.spans.clone())
        };
        let _phase = during(Phase::Seal);
        let mut door = lock(&door);
        let segment = match door.take() {
            Some(open) => open,
            None => match guarded_open(&self.path(no)) {
                Ok(segment) => Arc::new(segment),
                Err(error) if error.is_passing() => return Err(ShelfError::Unavailable(error.to_string())),
                Err(error) => {
                    drop(door);
                    self.quarantine(no, &error);
                    return Ok(true);
                }
            },
        };
        let spans = match spans {
            Some(spans) => spans,
            None => spans_of(&segment).map_err(|e| ShelfError::Unavailable(e.to_string()))?,
        };
        let segment = match Arc::try_unwrap(segment) {
            Ok(segment) => segment,
            Err(still_shared) => {
                *door = Some(still_shared);
                return Ok(false);
            }
        };
        let sealed = segment.seal();
        summary::write(&self.path(no), &spans);
        let bytes = allocated(&self.path(no));
        let mut row = lock(&self.row);
        if let Some(entry) = row.get_mut(&no) {
            self.used.fetch_add(bytes, Relaxed);
            self.used.fetch_sub(entry.bytes.min(self.used.load(Relaxed)), Relaxed);
            entry.bytes = bytes;
            entry.spans = Some(spans);
            entry.state = if sealed.is_ok() { State::Sealed } else { State::Broken };
        }
        sealed.map(|()| true).map_err(|e| ShelfError::Unavailable(format!("segment not sealed: {e}")))
    }

    /// Copies what is live out of a segment that is mostly consumed; the copy takes its place in the row.
    fn copy_one(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        let old: Vec<(No, Spans, u64)> = {
            let row = lock(&self.row);
            row.iter()
                .filter(|(_, e)| e.state == State::Sealed)
                .filter_map(|(no, e)| Some((*no, e.spans.clone()?, e.bytes)))
                .collect()
        };
        for (no, spans, bytes) in old {
            // An upper bound first, from the cursors alone: what lies behind the slowest exporter of each lane.
            let left = |lane: u32, s: &Span| {
                let from = books.needed_from(Lane(lane)).map_or(s.first, |needed| needed.max(s.first));
                (s.last + 1).saturating_sub(from)
            };
            let all: u64 = spans.values().map(|s| s.last + 1 - s.first).sum();
            let lanes: Vec<_> =
                spans.iter().filter(|(lane, s)| left(**lane, s) > 0).map(|(lane, s)| (Lane(*lane), *s)).collect();
            let rest: u64 = spans.iter().map(|(lane, s)| left(*lane, s)).sum();
            if rest > 0 && rest * COPY_BELOW < all && self.copy(no, bytes, &lanes, books)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn copy(&self, no: No, bytes: u64, lanes: &[(Lane, Span)], books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        let most = bytes / COPY_BELOW;
        let live = self.with(no, |segment| {
            let (mut copied, mut size) = (Vec::new(), 0);
            for (lane, span) in lanes {
                let mut at = span.first;
                while let Some((key, value)) = segment.first(&block_key(*lane, at), &block_key(*lane, span.last))? {
                    let Some((_, index)) = parse_block_key(&key) else { break };
                    if books.is_live(*lane, index) {
                        size += value.len() as u64;
                        if size > most {
                            return Ok(None);
                        }
                        copied.push((key.to_vec(), value));
                    }
                    at = index + 1;
                }
            }
            Ok(Some(copied))
        })?;
        let Some(Some(live)) = live else { return Ok(false) };
        // What is not copied is gone: the cursors that say so come first.
        self.append(Vec::new(), books, true)?;
        let _phase = during(Phase::Compaction);
        let to: No = (no.0, no.1 + 1);
        let mut spans = Spans::new();
        let mut records: Vec<Record> = Vec::with_capacity(live.len());
        for (key, value) in live {
            if let Ok(header) = Header::read(&value) {
                let header = Header { flags: header.flags | block::FLAG_COPIED, ..header };
                extend(&mut spans, &header);
                records.push((key, block::relabel(&value, &header)));
            }
        }
        let made = Segment::create(&self.path(to))
            .and_then(|copy| if records.is_empty() { Ok(()) } else { copy.append(records, true) }.map(|()| copy));
        match made {
            Ok(copy) => {
                let size = allocated(&self.path(to));
                self.used.fetch_add(size, Relaxed);
                self.written.fetch_add(copy.appended(), Relaxed);
                let entry = Entry {
                    state: State::Closed,
                    spans: Some(spans),
                    bytes: size,
                    door: Arc::new(Mutex::new(Some(Arc::new(copy)))),
                    since: self.clock.now(),
                };
                lock(&self.row).insert(to, entry);
                tracing::info!(from = %name(no), to = %name(to), before = %Bytes(bytes), after = %Bytes(size), "spool segment copied forward");
                self.delete(&[no]);
                Ok(true)
            }
            Err(error) => {
                self.bin(to);
                Err(ShelfError::Unavailable(format!("segment not copied forward: {error}")))
            }
        }
    }

    /// Over the budget, or too little left for the rest of the machine.
    fn is_over(&self) -> bool {
        self.used.load(Relaxed) > self.settings.max.0
            || free(&self.settings.directory).is_some_and(|free| free < self.settings.min_free.0)
    }

    /// The oldest data gives way.
    fn evict_one(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        if self.settings.when_full != WhenFull::DropOldest || !self.is_over() {
            return Ok(false);
        }
        let old = |e: &Entry| matches!(e.state, State::Closed | State::Sealed | State::Broken);
        let oldest = lock(&self.row).iter().find(|(_, e)| old(e)).map(|(no, e)| (*no, e.spans.clone()));
        let Some((no, spans)) = oldest else { return Ok(false) };
        let Some(spans) = spans else {
            self.learn(no)?;
            return Ok(true);
        };
        let lost: u64 = spans
            .iter()
            .map(|(lane, s)| books.evict(Lane(*lane), s.last + 1, s.totals.1, Fate::Lost(Reason::Evicted)))
            .sum();
        tracing::warn!(segment = %name(no), items = lost, used = %Bytes(self.used.load(Relaxed)), budget = %self.settings.max, "spool is full and its oldest segment gives way");
        self.append(Vec::new(), books, true)?; // the books that say so, synced
        self.delete(&[no]);
        Ok(true)
    }

    /// Counts what is on the disk, now and then: between two looks it is what was appended. A sealed segment does not
    /// change any more.
    fn measure(&self) {
        let now = self.clock.now();
        {
            let mut measured = lock(&self.measured);
            if measured.is_some_and(|then| now.since(then) < MEASURE_EVERY) {
                return;
            }
            *measured = Some(now);
        }
        let nos: Vec<No> =
            lock(&self.row).iter().filter(|(_, e)| e.state != State::Sealed).map(|(no, _)| *no).collect();
        let sizes: Vec<(No, u64)> = nos.into_iter().map(|no| (no, allocated(&self.path(no)))).collect();
        let mut row = lock(&self.row);
        for (no, bytes) in sizes {
            if let Some(entry) = row.get_mut(&no) {
                entry.bytes = bytes;
            }
        }
        self.used.store(row.values().map(|e| e.bytes).sum(), Relaxed);
    }
}

impl Shelf for Disk {
    fn append(&self, blocks: Vec<(Header, Vec<u8>)>, books: &dyn Bookkeeper, sync: bool) -> Result<(), ShelfError> {
        let _phase = during(if blocks.is_empty() { Phase::Cursor } else { Phase::Commit });
        if !blocks.is_empty() && self.settings.when_full == WhenFull::Refuse && self.is_over() {
            return Err(ShelfError::Full { used: Bytes(self.used.load(Relaxed)), budget: self.settings.max });
        }
        let mut active = lock(&self.active);
        let full = active.open.as_ref().is_none_or(|(_, s)| s.appended() >= active.full_at);
        let mut all = false;
        if full {
            match self.roll(&mut active) {
                Ok(()) => all = true,
                // Better a segment that is too large than data that is not kept; but its memtable lies in memory.
                Err(error)
                    if active
                        .open
                        .as_ref()
                        .is_some_and(|(_, s)| s.appended() < active.full_at.max(IDLE_KEEP) * TOO_LARGE) =>
                {
                    tracing::warn!(%error, "spool cannot turn to a new segment yet")
                }
                Err(error) if error.is_full() => {
                    return Err(ShelfError::Full { used: Bytes(self.used.load(Relaxed)), budget: self.settings.max });
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
        let headers: Vec<Header> = blocks.iter().map(|(h, _)| *h).collect();
        let block_bytes: u64 = blocks.iter().map(|(_, v)| v.len() as u64).sum();
        records.extend(blocks.into_iter().map(|(h, value)| (block_key(h.lane, h.index).to_vec(), value)));
        let bytes: u64 = records.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum();
        let appended = catch_unwind(AssertUnwindSafe(|| segment.append(records, sync || all)));
        match appended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                books.failed(&headers);
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
        // The blocks can be found before the books name them: a reader that is told of them must not miss them.
        if let Some(entry) = lock(&self.row).get_mut(&no) {
            entry.bytes += bytes;
            let spans = entry.spans.get_or_insert_default();
            headers.iter().for_each(|h| extend(spans, h));
        }
        // Before anybody can append again.
        books.committed(&headers);
        self.written.fetch_add(bytes, Relaxed);
        self.block_bytes.fetch_add(block_bytes, Relaxed);
        self.used.fetch_add(bytes, Relaxed);
        if !headers.is_empty() {
            active.last_block = self.clock.now();
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
            let found = self.with(no, |segment| first_readable(segment, lane, from, last))?;
            match found {
                Some(Some(found)) => return Ok(Some(found)),
                // Set aside, or nothing readable from here on: the ledger sees the gap.
                Some(None) => from = last + 1,
                None => {}
            }
        }
    }

    fn upkeep(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        type Step = fn(&Disk, &dyn Bookkeeper) -> Result<bool, ShelfError>;
        let steps: [Step; 8] = [
            |disk, _| disk.empty_bin().map_err(|e| ShelfError::Unavailable(e.to_string())),
            Disk::replace_idle,
            |disk, _| disk.learn_front(),
            Disk::delete_consumed,
            Disk::evict_one,
            |disk, _| disk.make_spare(),
            |disk, _| if disk.settings.seal { disk.seal_one() } else { Ok(false) },
            |disk, books| if disk.settings.compact { disk.copy_one(books) } else { Ok(false) },
        ];
        // What fails keeps nothing else from being done.
        let mut failed = None;
        for step in steps {
            match step(self, books) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        self.measure();
        failed.map_or(Ok(false), Err)
    }

    fn usage(&self) -> Usage {
        Usage {
            bytes: self.used.load(Relaxed),
            budget: self.settings.max.0,
            segments: lock(&self.row).len() as u64,
            written: self.written.load(Relaxed),
            block_bytes: self.block_bytes.load(Relaxed),
        }
    }
}

impl Disk {
    fn lost_active(&self, active: &mut Active, error: &SegmentError) -> ShelfError {
        self.abandon(active, error);
        if error.is_full() {
            ShelfError::Full { used: Bytes(self.used.load(Relaxed)), budget: self.settings.max }
        } else {
            ShelfError::Unavailable(error.to_string())
        }
    }
}

/// A block as it lies there.
type Found = (Header, bytes::Bytes);

/// The first block in `from..=last` that can be read; damaged ones are passed over.
///
/// # Errors
/// When the disk does not answer now: nothing is damaged, ask again later.
fn first_readable(segment: &Segment, lane: Lane, from: u64, last: u64) -> Result<Option<Found>, SegmentError> {
    let mut from = from;
    while from <= last {
        let found = match segment.first(&block_key(lane, from), &block_key(lane, last)) {
            Ok(found) => found,
            Err(error) if error.is_passing() => return Err(error),
            Err(error) => {
                // The table does not say which key is damaged: try them one by one. Indices inside a segment are dense.
                tracing::error!(lane = lane.0, index = from, %error, "spool block cannot be read");
                let one = |index: u64| segment.first(&block_key(lane, index), &block_key(lane, index)).ok().flatten();
                (from + 1..=last).find_map(one)
            }
        };
        let Some((key, value)) = found else { return Ok(None) };
        let Some((_, index)) = parse_block_key(&key) else { return Ok(None) };
        match Header::read(&value) {
            Ok(header) if header.lane == lane && header.index == index => return Ok(Some((header, value))),
            Ok(header) => {
                tracing::error!(lane = lane.0, index, found = ?(header.lane, header.index), "spool block is another one than its key says")
            }
            Err(error) => tracing::error!(lane = lane.0, index, %error, "spool block's header is damaged"),
        }
        from = index + 1;
    }
    Ok(None)
}

/// What an open segment holds.
fn spans_of(segment: &Segment) -> Result<Spans, SegmentError> {
    let mut spans = Spans::new();
    let mut at = 0_u32;
    let end = block_key(Lane(0xFFFE_FFFF), u64::MAX);
    while let Some((key, _)) = segment.first(&block_key(Lane(at), 0), &end)? {
        let Some((lane, _)) = parse_block_key(&key) else { break };
        let (from, to) = (block_key(lane, 0), block_key(lane, u64::MAX));
        for (_, value) in [segment.first(&from, &to)?, segment.last(&from, &to)?].into_iter().flatten() {
            if let Ok(header) = Header::read(&value) {
                extend(&mut spans, &header);
            }
        }
        let Some(next) = lane.0.checked_add(1) else { break };
        at = next;
    }
    Ok(spans)
}

/// Opens a segment with a marker beside it that grows by a byte per try and goes when one succeeds: a segment that
/// kills the process again and again is set aside. One that panics is damaged.
fn guarded_open(path: &Path) -> Result<Segment, SegmentError> {
    let marker = path.join("attempt");
    let deaths = fs::metadata(&marker).map_or(0, |m| m.len());
    if deaths >= DEATHS_MAX {
        return Err(SegmentError::Damaged(format!("{deaths} processes died opening it")));
    }
    // With no space left the try goes unmarked, which is better than not to read.
    let _ =
        File::options().append(true).create(true).open(&marker).and_then(|mut f| io::Write::write_all(&mut f, b"."));
    let opened = std::panic::catch_unwind(|| Segment::open(path, VALUE_MAX));
    let _ = fs::remove_file(&marker);
    opened.unwrap_or_else(|_| Err(SegmentError::Damaged("fjall panicked opening it".into())))
}

fn take_lock(dir: &Path) -> Result<File, StartError> {
    let bad = |source| StartError::Directory { path: dir.to_owned(), source };
    let path = dir.join("lock");
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(bad)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder =
                if holder.trim().is_empty() { "another process".into() } else { format!("process {}", holder.trim()) };
            return Err(StartError::InUse { path: dir.to_owned(), holder });
        }
        Err(fs::TryLockError::Error(e)) => return Err(bad(e)),
    }
    // Only for people; with a full disk it stays what it was.
    let _ = file.set_len(0).and_then(|()| io::Write::write_all(&mut &file, std::process::id().to_string().as_bytes()));
    Ok(file)
}

fn name((number, copy): No) -> String {
    if copy == 0 { format!("seg-{number:016x}") } else { format!("seg-{number:016x}.{copy}") }
}

fn parse_name(name: &str) -> Option<No> {
    let rest = name.strip_prefix("seg-")?;
    let (number, copy) = rest.split_once('.').map_or((rest, Some(0)), |(n, c)| (n, c.parse().ok()));
    (number.len() == 16).then_some(())?;
    Some((u64::from_str_radix(number, 16).ok()?, copy?))
}

/// The segments of a directory. Half-made ones and originals that have a whole copy go to the bin.
fn list(dir: &Path) -> io::Result<BTreeMap<No, Entry>> {
    let mut found = Vec::new();
    let mut foreign = 0_u64;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file_name = entry.file_name();
        match file_name.to_str().and_then(parse_name) {
            Some(no) => found.push(no),
            None if file_name.to_string_lossy().starts_with("exporter_") => {
                foreign += entry.metadata().map_or(0, |m| m.len())
            }
            None => {}
        }
    }
    if foreign > 0 {
        tracing::warn!(directory = %dir.display(), bytes = foreign, "otelcol's own queue files are here and stay as they are; run otelcol once more to send them, then remove them");
    }
    found.sort_unstable();
    let bin = |no: No| {
        let _ = fs::rename(dir.join(name(no)), dir.join(format!("trash-{}", &name(no)["seg-".len()..])));
    };
    let mut row = BTreeMap::new();
    let newest = found.last().copied();
    for no in found {
        let path = dir.join(name(no));
        if !segment::is_whole(&path) {
            bin(no);
            continue;
        }
        let is_copy = no.1 > 0;
        let looked = if is_copy || Some(no) == newest { segment::content(&path).ok() } else { None };
        if is_copy {
            // A copy is one batch: whole, or its original still counts.
            let original = (no.0, no.1 - 1);
            match looked {
                Some(Content::Some) if row.remove(&original).is_some() => bin(original),
                Some(Content::Some) => {}
                // It cannot be looked into now, and its original went long ago: it is all there is.
                None if !row.contains_key(&original) => {}
                _ => {
                    bin(no);
                    continue;
                }
            }
        }
        let empty = looked == Some(Content::None);
        let state = if empty {
            State::Spare
        } else if is_sealed(&path) {
            State::Sealed
        } else {
            State::Closed
        };
        let bytes = allocated(&path);
        row.insert(
            no,
            Entry { state, spans: empty.then(Spans::new), bytes, door: Arc::default(), since: Stamp::default() },
        );
    }
    Ok(row)
}

fn is_sealed(path: &Path) -> bool {
    fs::metadata(path.join("0.jnl")).is_ok_and(|m| m.len() == 0)
}

/// Reads the control records of the newest segment that has some, and the headers of it and those after it.
fn read_book(dir: &Path, row: &mut BTreeMap<No, Entry>) -> Recovered {
    let mut recovered = Recovered::default();
    let nos: Vec<No> = row.iter().filter(|(_, e)| e.state != State::Spare).map(|(no, _)| *no).rev().collect();
    for no in nos {
        let path = dir.join(name(no));
        let mut spans = Spans::new();
        let (mut records, mut newest) = (Vec::new(), BTreeMap::<Lane, Header>::new());
        let sealed = row.get(&no).is_some_and(|e| e.state == State::Sealed);
        let read = if sealed {
            guarded_open(&path).and_then(|s| {
                records = s.control()?.into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
                spans = spans_of(&s)?;
                for (lane, span) in &spans {
                    if let Some((header, _)) = first_readable(&s, Lane(*lane), span.last, span.last)? {
                        newest.insert(header.lane, header);
                    }
                }
                Ok(())
            })
        } else {
            let keep = |key: &[u8], len: usize| if is_control_key(key) { len } else { HEADER_LEN };
            let walked = segment::read_journals(&path, VALUE_MAX, keep, |item| match parse_block_key(&item.key) {
                Some(_) => {
                    if let Ok(header) = Header::read(&item.head) {
                        extend(&mut spans, &header);
                        newest.insert(header.lane, header); // in order, so the last one stays
                    }
                }
                None if is_control_key(&item.key) => records.push((item.key, item.head)),
                None => {}
            });
            walked.map(drop).map_err(SegmentError::Io)
        };
        if let Err(error) = read {
            tracing::error!(segment = %name(no), %error, "spool segment's book cannot be read; the one before it is tried");
            continue;
        }
        if let Some(entry) = row.get_mut(&no) {
            entry.spans = Some(spans);
        }
        let floor = newest.values().map(|h| h.index >> 32).max().unwrap_or(0);
        recovered.epoch_floor = recovered.epoch_floor.max(u32::try_from(floor).unwrap_or(u32::MAX));
        recovered.headers.extend(newest.into_values());
        if !records.is_empty() {
            recovered.records = records;
            break;
        }
    }
    recovered
}

/// Bytes the filesystem has given a directory and all in it.
pub(crate) fn allocated(path: &Path) -> u64 {
    let Ok(own) = fs::symlink_metadata(path) else { return 0 };
    let Some(entries) = own.is_dir().then(|| fs::read_dir(path).ok()).flatten() else { return own.blocks() * 512 };
    own.blocks() * 512 + entries.flatten().map(|e| allocated(&e.path())).sum::<u64>()
}

/// Bytes free to us on the filesystem of `dir`; `None` when it does not say.
fn free(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
