//! Housekeeping of the row, one piece at a time: what is consumed goes, what stays is sealed, what is mostly consumed is
//! copied forward, and at the limit the oldest gives way.
//!
//! One thread at a time does this ([`super`]); each step takes the locks it needs, in the order told there.

use super::look::spans_of;
use super::{Disk, Entry, IDLE_KEEP, No, Span, Spans, State, WhenFull, allocated, extend, name};
use crate::base::Bytes;
use crate::spool::block::{self, Header};
use crate::spool::cursor::Fate;
use crate::spool::ledger::{Record, block_key, parse_block_key};
use crate::spool::phase::{Phase, during};
use crate::spool::segment::Segment;
use crate::spool::shelf::{Bookkeeper, Shelf as _, ShelfError, lock};
use crate::spool::{Lane, Reason, summary};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Nothing was accepted for this long: until then the segment may as well be filled.
const IDLE_AFTER: Duration = Duration::from_secs(5);
/// A closed segment whose data still waits after this time is sealed; with two of them the older one is sealed at once.
const SEAL_AFTER: Duration = Duration::from_secs(5);
/// How often upkeep asks the filesystem what it has given us: some thirty calls per open segment.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
/// A segment is copied forward when less than this part of it is live.
const COPY_BELOW: u64 = 4;

impl Disk {
    /// The next step that finds something to do; `true` when there may be more.
    pub(super) fn keep_house(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        type Step = fn(&Disk, &dyn Bookkeeper) -> Result<bool, ShelfError>;
        let steps: [Step; 8] = [
            Disk::keep_home,
            Disk::replace_idle,
            |disk, _| disk.learn_front(),
            Disk::delete_consumed,
            Disk::evict_one,
            |disk, _| disk.make_spare(),
            |disk, _| if disk.settings.seal { disk.seal_one() } else { Ok(false) },
            |disk, books| if disk.settings.compact { disk.copy_one(books) } else { Ok(false) },
        ];
        // What fails keeps nothing else from being done, and neither does a bin that fills as fast as it is emptied: on a full
        // disk that is every segment somebody tries to make.
        let (mut failed, more) = match self.empty_bin() {
            Ok(more) => (None, more),
            Err(error) => (Some(ShelfError::Unavailable(error.to_string())), false),
        };
        for step in steps {
            match step(self, books) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        self.measure();
        failed.map_or(Ok(more), Err)
    }

    fn empty_bin(&self) -> io::Result<bool> {
        if !self.binned.swap(false, Relaxed) {
            return Ok(false);
        }
        let unbinned = std::mem::take(&mut *lock(&self.unbinned));
        // The number of one that could not be made comes again.
        let left = unbinned.into_iter().filter(|no| !lock(&self.row).contains_key(no) && self.try_bin(*no).is_err());
        let left: Vec<No> = left.collect();
        if !left.is_empty() {
            self.binned.store(true, Relaxed);
            lock(&self.unbinned).extend(left);
        }
        for entry in fs::read_dir(&self.settings.directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("trash-") {
                let _phase = during(Phase::Delete);
                self.binned.store(true, Relaxed); // there may be more, or this fails and is tried again
                fs::remove_dir_all(entry.path())?;
                self.reserve.is_repaid(); // before anybody else takes what became free
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
        let done = |spans: &Spans| spans.iter().all(|(lane, s)| books.needed(Lane(*lane), &s.indices()) == 0);
        old.into_iter().filter(|(_, spans)| done(spans)).map(|(no, _)| no).collect()
    }

    fn delete(&self, gone: &[No]) {
        let _phase = during(Phase::Delete);
        for no in gone {
            let entry = lock(&self.row).remove(no);
            self.bin(*no);
            if let Some(entry) = entry {
                self.used.fetch_sub(entry.bytes.min(self.used.load(Relaxed)), Relaxed);
                // fjall writes what a failed write left in its buffer when it closes a journal: into the bin, then.
                *lock(&entry.door) = None;
            }
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
        spans.iter().all(|(lane, s)| books.needed(Lane(*lane), &s.indices()) == 0)
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
            None => match self.open_again(no)? {
                Some(segment) => Arc::new(segment),
                None => return Ok(true),
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
            // An upper bound first, from the cursors alone.
            let left = |lane: u32, s: &Span| books.needed(Lane(lane), &s.indices());
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
        let live = self.with(no, |segment, _| {
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
                    unread_since: None,
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
    pub(super) fn is_over(&self) -> bool {
        let limits = self.limits.get();
        self.used.load(Relaxed) > limits.max.0
            || free(&self.settings.directory).is_some_and(|free| free < limits.min_free.0)
    }

    /// The oldest data gives way.
    fn evict_one(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        let needed = self.is_over() || self.choked.load(Relaxed);
        if self.limits.get().when_full != WhenFull::DropOldest || !needed {
            return Ok(false);
        }
        let old = |e: &Entry| matches!(e.state, State::Closed | State::Sealed | State::Broken);
        let oldest = lock(&self.row).iter().find(|(_, e)| old(e)).map(|(no, e)| (*no, e.spans.clone()));
        let Some((no, spans)) = oldest else { return Ok(false) };
        let Some(spans) = spans else {
            self.learn(no)?;
            return Ok(true);
        };
        let dates = self.dates_of(no, &spans);
        let evict = |(lane, s): (&u32, &Span)| {
            let lost = books.evict(Lane(*lane), s.last + 1, s.totals.1, Fate::Lost(Reason::Evicted));
            books.date(Lane(*lane), Reason::Evicted, dates.get(lane).copied());
            lost
        };
        let lost: u64 = spans.iter().map(evict).sum();
        if lost > 0 {
            tracing::warn!(segment = %name(no), items = lost, used = %Bytes(self.used.load(Relaxed)), budget = %self.limits.get().max, "spool is full and its oldest segment gives way");
        }
        self.append(Vec::new(), books, true)?; // the books that say so, synced
        self.delete(&[no]);
        self.choked.store(false, Relaxed);
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
        drop(row);
        if self.is_home() {
            let least = self.limits.get().min_free.0;
            self.reserve.restore(free(&self.settings.directory).map(|free| free.saturating_sub(least)));
        }
    }
}

/// Bytes free to us on the filesystem of `dir`; `None` when it does not say.
fn free(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
