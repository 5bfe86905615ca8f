//! What gives way before anybody has had it: what is too old, and at the limit the oldest, or that of the signal the operator
//! misses least.
//!
//! ```text
//!  limit reached ─▶ has a signal of `shed` something in a segment of which at most half would have to be copied?
//!                     │ yes: the others are copied forward, the signal's blocks are lost{evicted}
//!                     └ no (or no space for the copy): the oldest segment is lost{evicted}, whatever it holds
//! ```

use super::start::clear;
use super::upkeep::Evidence;
use super::{Disk, Entry, Limits, No, Span, Spans, State, WhenFull, name};
use crate::base::{Bytes, Stamp};
use crate::otlp::Signal;
use crate::spool::block::Header;
use crate::spool::cursor::Fate;
use crate::spool::gaps::Dates;
use crate::spool::ledger::OpenLane;
use crate::spool::shelf::{Bookkeeper, Shelf as _, ShelfError, lock};
use crate::spool::{Lane, Reason};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// How often ages are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most blocks of a lane that expire in one step: a few milliseconds of reading.
const EXPIRE_MAX: usize = 256;
/// For the sake of `min_free_mib` the spool gives way down to this part of its own size. Somebody who takes every byte there is
/// would otherwise empty it, and have no more space for it than one segment lasts.
const FLOOR: u64 = 4;
/// A segment is copied for shedding when at most this part of it must be kept: more, and writing would cost more than it gives.
const KEEP_AT_MOST: u64 = 2;
/// A new segment around what is copied, beside what an empty one takes: the journal's frames, and a book that is written meanwhile.
const COPY_ROOM: u64 = 256 << 10;
/// What an empty segment takes at most, with room for the frames of its first batch; some 130 KiB on ext4.
const EMPTY_ROOM: u64 = 192 << 10;
/// What is set by for records at least: an empty segment, and a book of 32 KiB in it twice.
const NOTE_ROOM: u64 = 256 << 10;
/// And at most: a book of a thousand cursors.
const NOTE_ROOM_MAX: u64 = 768 << 10;
/// Inodes that are set by, the file of the bytes included: those of a segment (twelve), and a few.
const INODES: u32 = 16;
/// Nothing is taken in into the last bytes of a disk: a write that fails there costs its segment, and the next one another.
const LAST_BYTES: u64 = 128 << 10;
/// Enough is free again for so long: what comes after is another shortage.
const CALM: Duration = Duration::from_secs(600);
/// So long the bin's space is waited for while no block finds any. Each segment that is begun in vain goes into the bin as well, so that
/// under load it may never be empty.
const BIN_PATIENCE: Duration = Duration::from_secs(5);
/// A spool that is smaller (only tests make one) sets nothing by.
const SMALL: u64 = 6 << 20;
/// Filesystems give whole blocks; few have larger ones.
const BLOCK: u64 = 4 << 10;
/// What a batch and its items take in fjall's journal beside keys and values, bytes.
const FRAMES: u64 = 64;

/// What a segment is larger for being sealed: the files of its table, each rounded up to blocks. Measured: 8 to 16 KiB.
const SEAL_ADDS: u64 = 24 << 10;

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct Retention {
    looked: Mutex<Option<Stamp>>,
    /// The oldest block of each lane, when it was found not to be old enough.
    young: Mutex<BTreeMap<Lane, Header>>,
    short: Mutex<Option<Short>>,
    /// The disk had no byte for an append since something gave way for that.
    pub(super) refused: AtomicBool,
    /// What the books say of this segment is not carried out yet.
    shedding: Mutex<Option<No>>,
    /// The reserve is in use.
    lent: AtomicBool,
    /// Since when blocks find no space, as housekeeping saw it.
    choked_since: Mutex<Option<Stamp>>,
    /// Something was not taken in since what is kept aside was last asked to make room.
    crowded: AtomicBool,
    /// The filesystem gives none.
    no_reserve: AtomicBool,
}

/// Somebody else has taken the free space that is the rest of the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Short {
    /// Bytes in use when it began.
    began: u64,
    /// What had been written when something went below the floor, for the disk had no byte for what came in.
    paid: Option<u64>,
    /// It was told that no more gives way.
    told: bool,
    /// Since when there is enough again.
    calm: Option<Stamp>,
}

impl Short {
    /// What a look makes of it. What gave way makes enough for a moment, until somebody takes that too: only a while of it ends it.
    fn after(before: Option<Short>, is_short: bool, used: u64, now: Stamp) -> Option<Short> {
        match before {
            Some(short) if is_short => Some(Short { calm: None, ..short }),
            None if is_short => Some(Short { began: used, paid: None, told: false, calm: None }),
            Some(short) if short.calm.is_some_and(|since| now.since(since) >= CALM) => None,
            Some(short) => Some(Short { calm: short.calm.or(Some(now)), ..short }),
            None => None,
        }
    }

    /// Whether `bytes` may go below the floor, so that what comes in has a place: once, and again when half of it at least came to
    /// us and not to somebody else. `written`: bytes so far.
    fn helps(&self, bytes: u64, written: u64) -> bool {
        self.paid.is_none_or(|then| written - then >= bytes / 2)
    }
}

/// How many bytes must stay, whatever gives way; `None`: nothing has to. `short`: bytes in use when the free space became too
/// little.
fn least_kept(used: u64, free: Option<u64>, limits: &Limits, short: u64) -> Option<u64> {
    let is_short = free.is_some_and(|free| free < limits.min_free.0);
    if used > limits.max.0 {
        Some(0)
    } else {
        // Below the floor it pays for what it writes itself, and for nobody else.
        is_short.then(|| short.min(limits.max.0 / FLOOR))
    }
}

/// Whether blocks have found no space for longer than the bin is waited for.
fn is_in_vain(since: &mut Option<Stamp>, choked: bool, now: Stamp) -> bool {
    *since = choked.then(|| since.unwrap_or(now));
    since.is_some_and(|since| now.since(since) >= BIN_PATIENCE)
}

/// What is set by for records, when a book takes so many bytes. In steps: a lane more does not make it anew.
fn note_room(book: u64) -> u64 {
    (EMPTY_ROOM + 2 * book).next_multiple_of(NOTE_ROOM).min(NOTE_ROOM_MAX)
}

/// What is set by: with room for a copy where that fits, else for records alone, of a large book or a small one, else nothing.
/// `spare`: what could be.
fn wanted(max: u64, copy: u64, note: u64, spare: u64) -> u64 {
    let sizes = [note + copy, note, NOTE_ROOM].map(|size| size.next_multiple_of(BLOCK));
    let fits = sizes.into_iter().find(|size| *size <= spare);
    fits.filter(|_| max >= SMALL).unwrap_or(0)
}

/// A segment as shedding sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holding {
    no: No,
    bytes: u64,
    /// By lane: what it carries (a lane the books do not know is nobody's, and stays), and bytes that are still needed, about.
    lanes: Vec<(Lane, Option<Signal>, u64)>,
}

/// Whether this segment is worth shedding `signal` from: it has something of it, and not too much else.
fn is_worth(holding: &Holding, signal: Signal) -> bool {
    let sum = |is_it: bool| {
        let of = holding.lanes.iter().filter(move |(_, s, _)| (*s == Some(signal)) == is_it);
        of.map(|(_, _, bytes)| bytes).sum::<u64>()
    };
    sum(true) > 0 && sum(false) * KEEP_AT_MOST <= holding.bytes
}

impl Disk {
    /// Over the budget, or too little left for the rest of the machine.
    pub(super) fn is_over(&self) -> bool {
        let limits = self.limits.get();
        self.used.load(Relaxed) > limits.max.0
            || free(&self.settings.directory).is_some_and(|free| free < limits.min_free.0)
    }

    /// Whether a segment may be made ahead: not when it takes the place of data.
    pub(super) fn may_prepare(&self) -> bool {
        !self.is_over() && self.used.load(Relaxed) + self.empty.load(Relaxed) <= self.limits.get().max.0
    }

    /// Whether a segment of so many bytes can be written once more, as its table.
    pub(super) fn has_space_to_seal(&self, bytes: u64) -> bool {
        let free = free(&self.settings.directory).unwrap_or(u64::MAX);
        !self.retention.lent.load(Relaxed) && free >= bytes + SEAL_ADDS + LAST_BYTES
    }

    /// Whether these blocks may be taken: never while space is just being made, nor without a byte for them; where the oldest gives
    /// way always else, and otherwise when they fit. `rolls`: a segment is
    /// begun with them.
    pub(super) fn has_room(&self, blocks: &[(Header, Vec<u8>)], rolls: bool) -> bool {
        if self.retention.lent.load(Relaxed) {
            return false;
        }
        let limits = self.limits.get();
        let free = free(&self.settings.directory).unwrap_or(u64::MAX);
        let (unsealed, begun) = {
            let row = lock(&self.row);
            let unsealed = row.values().filter(|e| matches!(e.state, State::Active | State::Closed)).count() as u64;
            (unsealed, rolls && row.last_key_value().is_none_or(|(_, e)| !e.is_to_be()))
        };
        let segment = if begun { self.empty.load(Relaxed) + SEAL_ADDS } else { 0 };
        let blocks: u64 = blocks.iter().map(|(_, value)| value.len() as u64 + FRAMES).sum();
        let has_bytes = free >= segment + blocks + LAST_BYTES;
        if !has_bytes {
            self.retention.refused.store(true, Relaxed);
        }
        let more = segment + blocks + unsealed * SEAL_ADDS;
        let fits = self.used.load(Relaxed) + more <= limits.max.0 && free >= limits.min_free.0.saturating_add(more);
        let taken = has_bytes && (fits || limits.when_full == WhenFull::DropOldest);
        self.retention.crowded.fetch_or(!taken, Relaxed);
        taken
    }

    /// What is older than `max_age` gives way, lane by lane from its oldest block on. What only lies behind something younger
    /// (in lanes of what was set aside) waits for that.
    pub(super) fn expire_some(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        let Some(max_age) = self.limits.get().max_age else { return Ok(false) };
        let now = self.clock.now();
        if lock(&self.retention.looked).is_some_and(|then| now.since(then) < LOOK_EVERY) {
            return Ok(false);
        }
        for open in books.open_lanes() {
            if self.expire_in(open, max_age, books)? {
                return Ok(true);
            }
        }
        *lock(&self.retention.looked) = Some(now);
        Ok(false)
    }

    fn expire_in(&self, open: OpenLane, max_age: Duration, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        let OpenLane { lane, from: (mut index, mut total), end } = open;
        let young = lock(&self.retention.young).remove(&lane);
        if let Some(young) = young.filter(|young| young.index >= index && books.age(young) <= max_age) {
            lock(&self.retention.young).insert(lane, young);
            return Ok(false);
        }
        let mut lost = 0;
        for _ in 0..EXPIRE_MAX {
            let found = self.next_of(lane, index, total)?.filter(|(header, _)| header.index < end);
            let Some((header, _)) = found else { break };
            if books.age(&header) <= max_age {
                lock(&self.retention.young).insert(lane, header);
                break;
            }
            if header.accepted_before() > total {
                // What should stand before it is not there: that has another reason.
                books.evict(lane, header.index, header.accepted_before(), Fate::Lost(Reason::Corrupt));
                books.date(lane, Reason::Corrupt, Dates::of(&header));
            }
            (index, total) = (header.index + 1, header.accepted_total);
            lost += books.evict(lane, index, total, Fate::Lost(Reason::Expired));
            books.date(lane, Reason::Expired, Dates::of(&header));
        }
        if lost > 0 {
            tracing::warn!(lane = lane.0, items = lost, ?max_age, "spool items are older than max_age and give way");
        }
        Ok(index > open.from.0)
    }

    /// How many bytes must stay, whatever gives way; `None`: nothing has to.
    fn pressed(&self) -> Option<u64> {
        let (limits, used) = (self.limits.get(), self.used.load(Relaxed));
        let free = free(&self.settings.directory);
        let mut short = lock(&self.retention.short);
        // No limit is reached, and a block found no space all the same: others have it, or the last inode.
        let choked = self.choked.load(Relaxed);
        let is_short = choked || free.is_some_and(|free| free < limits.min_free.0);
        let now = self.clock.now();
        let in_vain = is_in_vain(&mut lock(&self.retention.choked_since), choked, now);
        if is_short && used <= limits.max.0 && self.emptying.load(Relaxed) && !in_vain {
            return None; // the bin is being emptied, and what was in it is free then
        }
        *short = Short::after(*short, is_short, used, now);
        let began = short.map_or(used, |short| short.began);
        least_kept(used, free, &limits, began).or(choked.then(|| began.min(limits.max.0 / FLOOR)))
    }

    /// At the limit: the signals of `shed` give way, or else the oldest.
    pub(super) fn evict_one(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        if (self.retention.crowded.swap(false, Relaxed) || self.is_over()) && self.yield_aside() {
            return Ok(true); // what nobody sends any more goes first
        }
        if self.limits.get().when_full != WhenFull::DropOldest {
            return Ok(false);
        }
        let Some(least) = self.pressed() else { return Ok(false) };
        match self.shed_one(least, books) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "spool cannot shed by signal now; the oldest gives way"),
        }
        let oldest = {
            let row = lock(&self.row);
            row.iter().find(|(_, e)| is_old(e)).map(|(no, e)| (*no, e.spans.clone(), e.bytes))
        };
        let Some((no, spans, bytes)) = oldest else { return Ok(false) };
        if !self.may_go(bytes, least) {
            return Ok(false);
        }
        let Some(spans) = spans else {
            self.learn(no)?;
            return Ok(true);
        };
        let dates = self.dates_of(no, &spans);
        let evict = |(lane, span): (&u32, &Span)| evict(Lane(*lane), span, dates.get(lane).copied(), books);
        let lost: u64 = spans.iter().map(evict).sum();
        tracing::warn!(segment = %name(no), items = lost, used = %Bytes(self.used.load(Relaxed)), budget = %self.limits.get().max, "spool is full and its oldest segment gives way");
        self.note(books)?;
        self.delete(&[no], Evidence::Gone);
        self.choked.store(false, Relaxed);
        Ok(true)
    }

    /// Whether so much may go and leave what must stay. When it may not, somebody else takes the disk; that is said once.
    fn may_go(&self, bytes: u64, least: u64) -> bool {
        let (used, written) = (self.used.load(Relaxed), self.written.load(Relaxed));
        if least == 0 || used.saturating_sub(bytes) >= least {
            return true;
        }
        let mut short = lock(&self.retention.short);
        let Some(short) = short.as_mut() else { return true };
        if self.retention.refused.load(Relaxed) && short.helps(bytes, written) {
            self.retention.refused.store(false, Relaxed);
            short.paid = Some(written);
            return true;
        }
        if !std::mem::replace(&mut short.told, true) {
            tracing::warn!(used = %Bytes(used), min_free = %self.limits.get().min_free, "somebody else fills the disk: the spool gives up no more for min_free_mib than it writes");
        }
        false
    }

    /// One segment's part of the first signal that has something to give.
    fn shed_one(&self, least: u64, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        if self.finish_shedding(books)? {
            return Ok(true);
        }
        for signal in self.limits.get().shed.signals() {
            let row: Vec<(No, Option<Spans>, u64)> = {
                let row = lock(&self.row);
                let fit = row.iter().filter(|(_, e)| is_old(e) && !e.unfit && e.state != State::Broken);
                fit.map(|(no, e)| (*no, e.spans.clone(), e.bytes)).collect()
            };
            for (no, spans, bytes) in row {
                let Some(spans) = spans else {
                    self.learn(no)?;
                    return Ok(true);
                };
                let holding = Holding { no, bytes, lanes: held(&spans, books) };
                if is_worth(&holding, signal) && self.shed(&holding, &spans, signal, least, books)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn shed(
        &self,
        holding: &Holding,
        spans: &Spans,
        signal: Signal,
        least: u64,
        books: &dyn Bookkeeper,
    ) -> Result<bool, ShelfError> {
        let Holding { no, bytes, lanes } = holding;
        let of = |is_it: bool| {
            let lanes = lanes.iter().filter(move |(_, s, _)| (*s == Some(signal)) == is_it);
            lanes.filter_map(|(lane, ..)| Some((*lane, *spans.get(&lane.0)?))).collect::<Vec<_>>()
        };
        let (goes, stays) = (of(true), of(false));
        let Some(live) = self.live_of(*no, &stays, bytes / KEEP_AT_MOST, books)? else {
            if let Some(entry) = lock(&self.row).get_mut(no) {
                entry.unfit = true;
            }
            return Ok(false);
        };
        let size: u64 = live.values().map(|value| value.len() as u64).sum();
        if !self.may_go(bytes.saturating_sub(size), least) || !self.has_space_for(size) {
            return Ok(false);
        }
        *lock(&self.retention.shedding) = Some(*no);
        let dates = self.dates_of(*no, spans);
        let lost: u64 = goes.iter().map(|(lane, span)| evict(*lane, span, dates.get(&lane.0).copied(), books)).sum();
        tracing::warn!(segment = %name(*no), signal = signal.name(), items = lost, kept = %Bytes(size), used = %Bytes(self.used.load(Relaxed)), budget = %self.limits.get().max, "spool is full and a signal gives way");
        self.finish_shedding(books)
    }

    /// Carries out what the books say already: what is left of the segment is copied, and the segment goes. A disk that does not
    /// take it is asked again before anything else gives way.
    fn finish_shedding(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        let Some(no) = *lock(&self.retention.shedding) else { return Ok(false) };
        let entry = lock(&self.row).get(&no).and_then(|e| Some((e.spans.clone()?, e.bytes)));
        if let Some((spans, bytes)) = entry {
            let lanes: Vec<(Lane, Span)> = spans.into_iter().map(|(lane, span)| (Lane(lane), span)).collect();
            let live = self.live_of(no, &lanes, u64::MAX, books)?;
            self.note(books)?;
            match live {
                Some(live) if live.is_empty() => self.delete(&[no], Evidence::Gone),
                Some(live) => self.replace(&[no], bytes, live)?,
                None => {} // it was set aside
            }
        }
        *lock(&self.retention.shedding) = None;
        Ok(true)
    }

    /// Whether a copy of so many bytes can be made, if need be with what was set by for it.
    fn has_space_for(&self, bytes: u64) -> bool {
        let has = || {
            bytes == 0
                || free(&self.settings.directory)
                    .is_none_or(|free| free >= bytes + COPY_ROOM + self.empty.load(Relaxed))
        };
        has() || (self.use_reserve() && has())
    }

    fn reserve_path(&self) -> PathBuf {
        self.settings.directory.join("reserve")
    }

    /// Gives the reserve back to the filesystem; works with no byte free. Until it is set by again nothing is taken in, or what comes
    /// in would have the bytes before they make space.
    fn use_reserve(&self) -> bool {
        let bytes = self.reserve.swap(0, Relaxed);
        if bytes == 0 {
            return false;
        }
        self.retention.lent.store(true, Relaxed);
        self.used.fetch_sub(bytes.min(self.used.load(Relaxed)), Relaxed);
        self.remove_inodes();
        if let Err(error) = fs::remove_file(self.reserve_path()) {
            tracing::warn!(%error, "spool reserve cannot be used");
        }
        true
    }

    fn inodes(&self) -> impl Iterator<Item = PathBuf> {
        let dir = self.settings.directory.clone();
        (1..INODES).map(move |n| dir.join(format!("reserve-{n}")))
    }

    fn remove_inodes(&self) {
        self.inodes().for_each(|path| drop(fs::remove_file(path))); // those that are there
    }

    /// The directory is another one.
    pub(super) fn look_at_reserve(&self) {
        self.reserve.store(fs::metadata(self.reserve_path()).map_or(0, |m| m.blocks() * 512), Relaxed);
    }

    /// What the books say, synced, so that something may be deleted on their word. Without a byte free even that has no place but
    /// what was set by for it.
    pub(super) fn note(&self, books: &dyn Bookkeeper) -> Result<(), ShelfError> {
        match self.append(Vec::new(), books, true) {
            Err(ShelfError::Full { .. }) if self.use_reserve() => self.append(Vec::new(), books, true),
            noted => noted,
        }
    }

    /// Sets space by for what makes space on a full disk: the records that say so, in a new segment if need be, and the largest copy
    /// that shedding makes. Best effort: a filesystem that copies on write promises nothing by it.
    pub(super) fn keep_reserve(&self) -> Result<bool, ShelfError> {
        let limits = self.limits.get();
        let sheds = limits.when_full == WhenFull::DropOldest && limits.shed.signals().next().is_some();
        let copy = if sheds { limits.segment_max.0 / KEEP_AT_MOST + COPY_ROOM } else { 0 };
        let there = self.reserve.load(Relaxed);
        let free = free(&self.settings.directory).unwrap_or(u64::MAX);
        let spare = limits.max.0.saturating_sub(self.used.load(Relaxed)).min(free) + there;
        // How large the book is, the first one of this life shows.
        let note = match self.book.load(Relaxed) {
            0 => there.saturating_sub(copy).clamp(NOTE_ROOM, NOTE_ROOM_MAX),
            book => note_room(book),
        };
        let wanted = wanted(limits.max.0, copy, note, spare);
        let possible = limits.max.0 >= SMALL && !self.retention.no_reserve.load(Relaxed);
        if wanted != there {
            if there > 0 {
                self.use_reserve(); // it has another size than these limits want
            }
            if possible && wanted > 0 {
                self.set_by(wanted);
            }
        }
        // What was deleted may still lie in the bin.
        if !possible || self.reserve.load(Relaxed) > 0 || !self.binned.load(Relaxed) {
            self.retention.lent.store(false, Relaxed);
        }
        Ok(false)
    }

    fn set_by(&self, bytes: u64) {
        // A pipe there would make us wait for whoever reads it.
        let create = |path: PathBuf| {
            clear(&path);
            fs::File::create(path)
        };
        let inodes = self.inodes().try_for_each(|path| create(path).map(drop));
        let made = inodes
            .and_then(|()| create(self.reserve_path()))
            .and_then(|file| Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?));
        match made {
            Ok(()) => {
                self.reserve.store(bytes, Relaxed);
                self.used.fetch_add(bytes, Relaxed);
            }
            Err(error) => {
                let _ = fs::remove_file(self.reserve_path());
                self.remove_inodes();
                if error.kind() == std::io::ErrorKind::Unsupported {
                    self.retention.no_reserve.store(true, Relaxed);
                    tracing::info!(%error, "spool sets no space by: a full disk may have to wait for a free byte");
                }
            }
        }
    }
}

fn is_old(e: &Entry) -> bool {
    matches!(e.state, State::Closed | State::Sealed | State::Broken)
}

/// Everything of the lane up to the end of this span is lost{evicted}; it came from then.
fn evict(lane: Lane, span: &Span, dates: Option<Dates>, books: &dyn Bookkeeper) -> u64 {
    let lost = books.evict(lane, span.last + 1, span.totals.1, Fate::Lost(Reason::Evicted));
    books.date(lane, Reason::Evicted, dates);
    lost
}

/// What of a segment is still needed, by lane.
fn held(spans: &Spans, books: &dyn Bookkeeper) -> Vec<(Lane, Option<Signal>, u64)> {
    let held = spans.iter().map(|(lane, span)| {
        let (lane, blocks) = (Lane(*lane), span.last + 1 - span.first);
        let needed = books.needed(lane, &span.indices());
        (lane, books.signal(lane), span.bytes / blocks.max(1) * needed)
    });
    held.filter(|(_, _, bytes)| *bytes > 0).collect()
}

/// Bytes free to us on the filesystem of `dir`; `None` when it does not say.
fn free(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::super::Shed;
    use super::*;

    /// Seconds. A bin that fills as fast as it is emptied holds off for a while what would give way, and not for ever.
    #[test]
    fn the_bin_is_waited_for_as_long_as_it_may_help() {
        let mut since = None;
        for (at, choked, expected) in [
            (0, false, false),
            (10, true, false),
            (14, true, false),
            (15, true, true),
            (16, true, true),
            (17, false, false), // something was taken in, or gave way
            (18, true, false),
            (22, true, false),
            (23, true, true),
        ] {
            let now = Stamp { wall_ns: 0, mono_ms: at * 1_000 };
            assert_eq!(is_in_vain(&mut since, choked, now), expected, "at {at}");
        }
    }

    /// Sizes in MiB. The cap binds whatever else; for others' sake the spool gives three quarters of its size, and below that
    /// only what it writes.
    #[test]
    #[rustfmt::skip]
    fn how_much_stays_is_said_by_who_is_too_large() {
        let mib = |n: u64| n << 20;
        let limits = Limits {
            max: Bytes::mib(100), min_free: Bytes::mib(10), when_full: WhenFull::DropOldest,
            shed: Shed::default(), max_age: None, segment_max: Bytes::mib(2),
        };
        for (used, free, short, expected) in [
            (50,  Some(11), 50, None),
            (50,  Some(10), 50, None),
            (50,  None,     50, None),
            (100, Some(50), 99, None),
            (101, Some(50), 99, Some(0)),  // the cap
            (101, Some(0),  99, Some(0)),
            (100, Some(9),  99, Some(25)), // somebody else
            (50,  Some(0),  50, Some(25)),
            (20,  Some(0),  20, Some(20)), // a ring of the size it had
            (22,  Some(0),  20, Some(20)),
        ] {
            let least = least_kept(mib(used), free.map(mib), &limits, mib(short));
            assert_eq!(least, expected.map(mib), "{used} used, {free:?} free, {short} when it began");
        }
    }

    /// A neighbour who takes what became free is the same neighbour.
    #[test]
    fn a_shortage_ends_when_there_is_enough_for_a_while() {
        let at = |s: u64| Stamp { wall_ns: 0, mono_ms: s * 1_000 };
        let look = |short, is_short, s| Short::after(short, is_short, s, at(s));
        let short = look(None, true, 100);
        assert_eq!(short.map(|s| s.began), Some(100));
        let short = look(look(look(short, false, 101), true, 102), false, 103);
        assert_eq!(short.map(|s| (s.began, s.calm)), Some((100, Some(at(103)))));
        let short = look(short, false, 702);
        assert!(short.is_some());
        assert_eq!(look(short, false, 703), None);
        assert_eq!(look(None, false, 704), None);
    }

    #[test]
    fn what_is_set_by_is_what_fits() {
        let (small, copy) = (SMALL - 1, 24 << 20);
        let (note, most) = (NOTE_ROOM, NOTE_ROOM_MAX);
        for (max, copy, note, spare, expected) in [
            (1 << 30, 0, note, 1 << 30, note),
            (1 << 30, copy, note, 1 << 30, note + copy),
            (1 << 30, copy, most, note + copy, most), // better little than nothing
            (1 << 30, copy, most, most - 1, note),
            (1 << 30, copy, note, note - 1, 0),
            (small, 0, note, 1 << 30, 0),
        ] {
            assert_eq!(wanted(max, copy, note, spare), expected, "{max} {copy} {note} {spare}");
        }
        let rooms = [1, 32 << 10, (32 << 10) + 1, 160 << 10, 10 << 20].map(note_room);
        assert_eq!(rooms, [note, note, 2 * note, 2 * note, most]);
    }

    #[test]
    fn below_the_floor_a_segment_goes_when_the_last_one_helped() {
        let short = Short { began: 10, paid: None, told: false, calm: None };
        assert!(short.helps(100, 1_000), "once");
        let short = Short { paid: Some(1_000), ..short };
        assert!(!short.helps(100, 1_000) && !short.helps(100, 1_049), "somebody else took it");
        assert!(short.helps(100, 1_050), "it came to us");
    }

    #[test]
    #[rustfmt::skip]
    fn a_segment_is_worth_shedding_from_when_at_most_half_must_be_kept() {
        use Signal::{Logs, Metrics, Traces};
        for (lanes, expected) in [
            (vec![],                                                                     false),
            (vec![(Traces, 10)],                                                         true),
            (vec![(Traces, 1), (Logs, 50)],                                              true),
            (vec![(Traces, 40), (Logs, 30), (Metrics, 20)],                              true),
            (vec![(Traces, 40), (Logs, 31), (Metrics, 20)],                              false),
            (vec![(Logs, 10)],                                                           false),
        ] {
            let lanes = lanes.into_iter().zip(0..).map(|((s, bytes), no)| (Lane(no), Some(s), bytes)).collect();
            let holding = Holding { no: (1, 0), bytes: 100, lanes };
            assert_eq!(is_worth(&holding, Traces), expected, "{holding:?}");
        }
        let strange = Holding { no: (1, 0), bytes: 100, lanes: vec![(Lane(1), Some(Traces), 10), (Lane(2), None, 60)] };
        assert!(!is_worth(&strange, Traces), "what the books do not know stays");
    }
}
