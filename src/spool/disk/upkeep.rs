//! Housekeeping of the row, one piece at a time: what is consumed goes, what stays is sealed, and what is mostly consumed is
//! copied forward. What gives way before it is consumed is said in [`super::retention`].
//!
//! One thread at a time does this ([`super`]); each step takes the locks it needs, in the order told there.

use super::look::{guarded_open, spans_of};
use super::{Disk, Entry, IDLE_KEEP, No, Span, Spans, State, allocated, extend, name};
use crate::base::Bytes;
use crate::spool::block::{self, Header};
use crate::spool::ledger::{Record, block_key, parse_block_key};
use crate::spool::phase::{Phase, during};
use crate::spool::segment::Segment;
use crate::spool::shelf::{Bookkeeper, Shelf as _, ShelfError, lock};
use crate::spool::{Lane, summary};
use std::fs;
use std::io;
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

/// A block's key and value.
pub(super) type Live = (Vec<u8>, bytes::Bytes);

impl Disk {
    /// The next step that finds something to do; `true` when there may be more.
    pub(super) fn keep_house(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        type Step = fn(&Disk, &dyn Bookkeeper) -> Result<bool, ShelfError>;
        let steps: [Step; 9] = [
            |disk, _| disk.keep_reserve(), // first of all who takes what became free
            Disk::replace_idle,
            |disk, _| disk.learn_front(),
            Disk::delete_consumed,
            Disk::expire_some,
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
        self.note(books)?; // the cursors that say so
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

    pub(super) fn delete(&self, gone: &[No]) {
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
        spans.iter().all(|(lane, s)| books.needed(Lane(*lane), &s.indices()) == 0)
    }

    fn make_spare(&self) -> Result<bool, ShelfError> {
        if lock(&self.row).last_key_value().is_some_and(|(_, e)| e.is_to_be()) || !self.may_prepare() {
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
        let Some(live) = self.live_of(no, lanes, bytes / COPY_BELOW, books)? else { return Ok(false) };
        // What is not copied is gone: the cursors that say so come first.
        self.note(books)?;
        self.replace(no, bytes, live)?;
        Ok(true)
    }

    /// The blocks of these lanes in a segment that are still needed; `None` when they are more than `most` bytes, or the segment
    /// was set aside.
    pub(super) fn live_of(
        &self,
        no: No,
        lanes: &[(Lane, Span)],
        most: u64,
        books: &dyn Bookkeeper,
    ) -> Result<Option<Vec<Live>>, ShelfError> {
        let live = self.with(no, |segment| {
            let (mut live, mut size) = (Vec::new(), 0);
            for (lane, span) in lanes {
                let mut at = span.first;
                while let Some((key, value)) = segment.first(&block_key(*lane, at), &block_key(*lane, span.last))? {
                    let Some((_, index)) = parse_block_key(&key) else { break };
                    if books.is_live(*lane, index) {
                        size += value.len() as u64;
                        if size > most {
                            return Ok(None);
                        }
                        live.push((key.to_vec(), value));
                    }
                    at = index + 1;
                }
            }
            Ok(Some(live))
        })?;
        Ok(live.flatten())
    }

    /// A copy with these blocks takes the segment's place in the row. The cursors that say that nothing else of it is needed
    /// are synced.
    pub(super) fn replace(&self, no: No, bytes: u64, live: Vec<Live>) -> Result<(), ShelfError> {
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
                    unfit: false,
                };
                lock(&self.row).insert(to, entry);
                tracing::info!(from = %name(no), to = %name(to), before = %Bytes(bytes), after = %Bytes(size), "spool segment copied forward");
                self.delete(&[no]);
                Ok(())
            }
            Err(error) => {
                self.bin(to);
                Err(ShelfError::Unavailable(format!("segment not copied forward: {error}")))
            }
        }
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
        self.used.store(self.reserve.load(Relaxed) + row.values().map(|e| e.bytes).sum::<u64>(), Relaxed);
    }
}
