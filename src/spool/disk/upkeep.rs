//! Housekeeping of the row, one piece at a time: what is consumed goes, what stays is sealed, and what is mostly consumed is
//! copied forward ([`super::compaction`]). What gives way before it is consumed is said in [`super::retention`].
//!
//! One thread at a time does this ([`super`]); each step takes the locks it needs, in the order told there.

use super::look::spans_of;
use super::start::{is_half_made, is_sealed};
use super::{Disk, Door, Entry, IDLE_KEEP, No, Spans, State, allocated};
use crate::spool::phase::{Phase, during};
use crate::spool::shelf::{Bookkeeper, Shelf as _, ShelfError, lock, try_lock};
use crate::spool::{Lane, summary};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Nothing was accepted for this long: until then the segment may as well be filled.
const IDLE_AFTER: Duration = Duration::from_secs(5);
/// At most one block in so many is still needed of an active segment that is replaced, and one byte.
const IDLE_REST: u64 = 8;
/// A closed segment whose data still waits after this time is sealed; with two of them the older one is sealed at once.
const SEAL_AFTER: Duration = Duration::from_secs(5);
/// How often upkeep asks the filesystem what it has given us: some thirty calls per open segment.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
impl Disk {
    /// The next step that finds something to do; `true` when there may be more.
    pub(super) fn keep_house(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        type Step = fn(&Disk, &dyn Bookkeeper) -> Result<bool, ShelfError>;
        let steps: [Step; 10] = [
            Disk::keep_home,
            |disk, _| disk.keep_reserve(), // first of all who takes what became free
            Disk::replace_idle,
            |disk, _| disk.learn_front(),
            Disk::delete_consumed,
            Disk::expire_some,
            Disk::evict_one,
            |disk, _| disk.make_spare(),
            |disk, _| if disk.settings.seal { disk.seal_one() } else { Ok(false) },
            Disk::copy_some,
        ];
        self.look_at_the_unseen();
        if lock(&self.row).values().any(|e| e.guessed) {
            self.count(); // nothing gives way for what was guessed at the start
        }
        // What fails keeps nothing else from being done, and neither does a bin that fills as fast as it is emptied: on a full
        // disk that is every segment somebody tries to make.
        let (mut failed, more) = match self.empty_bin() {
            Ok(more) => (None, more),
            Err(error) => (Some(ShelfError::Unavailable(error.to_string())), false),
        };
        // What lies in the bin is space already: nothing gives way for free space before it is emptied, if that goes on.
        self.emptying.store(more, Relaxed);
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
        let is_left = |(no, _): &(No, Door)| !lock(&self.row).contains_key(no) && self.try_bin(*no).is_err();
        let left: Vec<(No, Door)> = unbinned.into_iter().filter(is_left).collect();
        if !left.is_empty() {
            self.binned.store(true, Relaxed);
            lock(&self.unbinned).extend(left);
        }
        for entry in fs::read_dir(&self.settings.directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("trash-") {
                let _phase = during(Phase::Delete);
                self.binned.store(true, Relaxed); // there may be more, or this fails and is tried again
                remove(&entry.path())?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a start had no time for: whether the segments far behind the newest are what their place says.
    fn look_at_the_unseen(&self) {
        if !self.is_home() {
            return; // of what is away nothing can be seen
        }
        let unseen: Vec<No> = lock(&self.row).iter().filter(|(_, e)| e.unseen).map(|(no, _)| *no).collect();
        for no in unseen {
            let path = self.path(no);
            if is_half_made(&path) {
                let entry = lock(&self.row).remove(&no);
                self.bin(no, entry.map(|entry| entry.door).unwrap_or_default());
                continue;
            }
            let sealed = is_sealed(&path);
            if let Some(entry) = lock(&self.row).get_mut(&no) {
                entry.unseen = false;
                if !sealed && entry.state == State::Sealed {
                    entry.state = State::Closed;
                }
            }
        }
    }

    /// When next to nothing waits and nothing comes, the active segment gives way to an empty one.
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
        self.delete(&gone, Evidence::Kept);
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

    pub(super) fn delete(&self, gone: &[No], evidence: Evidence) {
        let _phase = during(Phase::Delete);
        for no in gone {
            let entry = lock(&self.row).remove(no);
            let bytes = entry.as_ref().map_or(0, |entry| entry.bytes);
            self.used.fetch_sub(bytes.min(self.used.load(Relaxed)), Relaxed);
            match entry {
                Some(entry) if entry.damaged && evidence == Evidence::Kept => {
                    *lock(&entry.door) = None;
                    // Where there is no space to keep it, it is space that is needed.
                    if !self.keep_aside(*no) {
                        self.bin(*no, Door::default());
                    }
                }
                entry => self.bin(*no, entry.map(|entry| entry.door).unwrap_or_default()),
            }
        }
    }

    /// The active segment is consumed, or nearly, and worth replacing. What is still needed of it (dead letters, what waits for one
    /// of several exporters) is copied forward once it is closed.
    fn is_idle(&self, books: &dyn Bookkeeper) -> bool {
        let active = lock(&self.active);
        let Some((no, segment)) = &active.open else { return false };
        if self.clock.now().since(active.last_block) < IDLE_AFTER {
            return false;
        }
        let row = lock(&self.row);
        let Some((spans, on_disk)) = row.get(no).and_then(|e| Some((e.spans.clone()?, e.bytes))) else { return false };
        // What fjall writes around thousands of small records is more than a third of the file.
        let size = segment.appended().max(on_disk);
        if size < IDLE_KEEP {
            return false;
        }
        drop((row, active));
        let needed = spans.iter().map(|(lane, span)| (books.needed(Lane(*lane), &span.indices()), span));
        let (mut blocks, mut still, mut live) = (0, 0, 0);
        for (needed, span) in needed {
            let all = span.last + 1 - span.first;
            blocks += all;
            still += needed;
            live += span.bytes / all.max(1) * needed;
        }
        still == 0 || (self.settings.compact.enabled && still * IDLE_REST <= blocks && live * IDLE_REST <= size)
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
        let (no, door, spans, bytes) = {
            let row = lock(&self.row);
            let mut closed = row.iter().filter(|(_, e)| e.state == State::Closed);
            let Some((no, e)) = closed.next() else { return Ok(false) };
            if closed.next().is_none() && self.clock.now().since(e.since) < SEAL_AFTER {
                return Ok(false);
            }
            (*no, e.door.clone(), e.spans.clone(), e.bytes)
        };
        if !self.has_space_to_seal(bytes) {
            // A table that finds no space leaves half of itself there, and nobody could write at all.
            self.let_memory_go();
            return Ok(false);
        }
        let _phase = during(Phase::Seal);
        let mut door = lock(&door);
        let segment = match door.take() {
            Some(open) => open,
            None if self.open_at(no, &mut door)? => door.take().expect("opened into it"),
            None => return Ok(true),
        };
        if segment.damaged().is_some() {
            *door = Some(segment); // it is broken from now on, and stays as it is
            return Ok(true);
        }
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
        summary::write(&self.path(no), no, &spans);
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

    /// Closes what is not sealed and not read next: it is in memory whole as long as it is open.
    fn let_memory_go(&self) {
        let row = lock(&self.row);
        let closed = row.iter().skip(1).filter(|(_, e)| e.state == State::Closed);
        let mut doors: Vec<_> = closed.map(|(_, e)| e.door.clone()).collect();
        drop(row);
        doors.pop(); // the newest is sealed last, and may be the one that is written to its end
        for door in doors {
            if let Some(mut door) = try_lock(&door) {
                *door = None;
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
        self.count();
    }

    fn count(&self) {
        let changes = |e: &Entry| e.state != State::Sealed || e.guessed;
        let nos: Vec<No> = lock(&self.row).iter().filter(|(_, e)| changes(e)).map(|(no, _)| *no).collect();
        let sizes: Vec<(No, u64)> = nos.into_iter().map(|no| (no, allocated(&self.path(no)))).collect();
        let mut row = lock(&self.row);
        for (no, bytes) in sizes {
            if let Some(entry) = row.get_mut(&no) {
                (entry.bytes, entry.guessed) = (bytes, false);
            }
        }
        let (reserve, aside) = (self.reserve.load(Relaxed), self.aside_bytes.load(Relaxed));
        self.used.store(reserve + row.values().map(|e| e.bytes).sum::<u64>() + aside, Relaxed);
    }
}

/// What becomes of a damaged segment that nobody needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    Kept,
    /// Its space is needed.
    Gone,
}

/// Removes whatever stands there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}
