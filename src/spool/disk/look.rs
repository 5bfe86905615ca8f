//! Reading the row: which segment may hold a block, opening it with care, and what is in it.

use super::{Disk, Entry, No, Span, Spans, State, VALUE_MAX, extend, name, widen};
use crate::spool::block::Header;
use crate::spool::gaps::Dates;
use crate::spool::ledger::{block_key, parse_block_key};
use crate::spool::segment::{Segment, SegmentError};
use crate::spool::shelf::{ShelfError, lock, try_lock};
use crate::spool::source::Reading;
use crate::spool::survey::{self, Contents};
use crate::spool::wreck::Wreck;
use crate::spool::{Lane, summary};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Sealed segments whose table stays open for the reader: the head, and one more while it moves on.
const OPEN_MAX: usize = 2;
/// So many deaths of the process in a row while one segment was being opened are not bad luck (kills, power cuts) any more.
const DEATHS_MAX: u64 = 5;
/// A disk that answers reads with errors is asked again for so long before what it does not give is lost. A card that is reset
/// or moved to another slot is back within seconds; what a minute's tries do not bring, the next hour's will not.
const PATIENCE: Duration = Duration::from_secs(60);

impl Disk {
    /// The first segment of the row that may hold a block of `lane` at or after `from`.
    pub(super) fn candidate(&self, lane: Lane, from: u64) -> Option<(No, bool)> {
        let row = lock(&self.row);
        row.iter().filter(|(_, e)| !e.is_to_be()).find_map(|(no, e)| match &e.spans {
            None => Some((*no, false)),
            Some(spans) => spans.get(&lane.0).is_some_and(|s| s.last >= from).then_some((*no, true)),
        })
    }

    /// Runs `look` on an open segment, opening it if need be. One that turns out to be damaged is looked at again as a wreck;
    /// one of which nothing can be read is set aside.
    ///
    /// # Errors
    /// The disk does not answer now: nothing is damaged, ask again later.
    pub(super) fn with<T>(
        &self,
        no: No,
        mut look: impl FnMut(&Segment) -> Result<T, SegmentError>,
    ) -> Result<Option<T>, ShelfError> {
        let Some(door) = lock(&self.row).get(&no).map(|e| e.door.clone()) else { return Ok(None) };
        let mut door = lock(&door);
        if door.is_none() {
            self.close_others(no);
            if !self.open_at(no, &mut door)? {
                return Ok(None);
            }
        }
        let segment = door.as_ref().expect("opened above");
        let mut looked = look(segment);
        if let Err(error) = &looked
            && !error.is_passing()
            && segment.damaged().is_none()
            && self.is_closed(no)
            && self.is_home()
        {
            tracing::error!(segment = %name(no), %error, "spool segment is damaged after all");
            let segment = wreck(&self.path(no), Reading::Strict).map_err(|e| self.in_trouble(no, &e))?;
            looked = look(&segment);
            self.enter_wreck(no, &segment);
            *door = Some(Arc::new(segment));
        }
        match looked {
            Ok(found) => {
                self.answers(no);
                Ok(Some(found))
            }
            Err(error) => {
                let unavailable = self.in_trouble(no, &error);
                if self.trust(no) == Trust::Whatever && self.is_closed(no) {
                    *door = None; // to be opened with less care
                }
                Err(unavailable)
            }
        }
    }

    /// Opens a segment into its door. `false`: nothing of it can be read, and it is set aside.
    ///
    /// # Errors
    /// The disk's, as long as there is patience with it.
    pub(super) fn open_at(&self, no: No, door: &mut Option<Arc<Segment>>) -> Result<bool, ShelfError> {
        if !self.is_home() {
            // That the whole directory is away says nothing about one segment.
            return Err(ShelfError::Unavailable("the spool's directory is gone or another one".into()));
        }
        match guarded_open(&self.path(no), self.trust(no)) {
            Ok(segment) => {
                match segment.damaged() {
                    Some(_) => self.enter_wreck(no, &segment),
                    None => drop(lock(&self.row).get_mut(&no).map(|entry| entry.proved = true)),
                }
                *door = Some(Arc::new(segment));
                Ok(true)
            }
            Err(error) if error.is_passing() => Err(self.in_trouble(no, &error)),
            Err(error) => {
                self.quarantine(no, &error);
                Ok(false)
            }
        }
    }

    /// How far a segment is believed before it is opened.
    fn trust(&self, no: No) -> Trust {
        let now = self.clock.now();
        match lock(&self.row).get(&no) {
            Some(e) if e.trouble.is_some_and(|since| now.since(since) >= PATIENCE) => Trust::Whatever,
            Some(e) if e.proved && !e.damaged => Trust::Proved,
            _ => Trust::Unproved,
        }
    }

    fn is_closed(&self, no: No) -> bool {
        lock(&self.row).get(&no).is_some_and(|e| !e.is_to_be() && e.state != State::Active)
    }

    /// It is read as far as it can be, and nothing else is done to it.
    fn enter_wreck(&self, no: No, segment: &Segment) {
        if let Some(entry) = lock(&self.row).get_mut(&no) {
            if !entry.damaged {
                tracing::error!(segment = %name(no), "spool segment is damaged; what can be proved of it is handed out");
            }
            (entry.state, entry.damaged) = (State::Broken, true);
            // It may hold something else than it did when it was closed.
            let held = segment.damaged().into_iter().flat_map(|wreck| wreck.spans());
            if let Some(spans) = &mut entry.spans {
                held.for_each(|(lane, span)| widen(spans, *lane, *span));
            }
        }
    }

    /// Notes that the disk does not answer.
    fn in_trouble(&self, no: No, error: &SegmentError) -> ShelfError {
        let now = self.clock.now();
        if let Some(entry) = lock(&self.row).get_mut(&no).filter(|_| error.is_trouble()) {
            if entry.trouble.is_none() {
                tracing::error!(segment = %name(no), %error, patience = ?PATIENCE, "spool segment cannot be read just now; nothing of it is given up yet");
            }
            entry.trouble.get_or_insert(now);
        }
        ShelfError::Unavailable(error.to_string())
    }

    fn answers(&self, no: No) {
        if let Some(entry) = lock(&self.row).get_mut(&no)
            && !entry.damaged
        {
            entry.trouble = None;
        }
    }

    /// Whether the place of this block, which nothing says was ever acknowledged, was given to another one.
    pub(super) fn is_overwritten(&self, header: &Header) -> Result<bool, ShelfError> {
        let lane = header.lane;
        let mut from = header.index + 1;
        while let Some((no, known)) = self.candidate(lane, from) {
            if !known {
                self.learn(no)?;
                continue;
            }
            let last = lock(&self.row).get(&no).and_then(|e| e.spans.as_ref()?.get(&lane.0).map(|s| s.last));
            let Some(last) = last else { continue };
            if let Some(Some((next, _))) = self.with(no, |segment| first_readable(segment, lane, from, last))? {
                return Ok(next.accepted_before() < header.accepted_total);
            }
            from = last + 1;
        }
        Ok(false)
    }

    /// The first readable block of these, in whatever segment: along the row a lane's indices grow, unless files have changed
    /// places.
    pub(super) fn first_anywhere(&self, lane: Lane, indices: Range<u64>) -> Result<Option<Found>, ShelfError> {
        let nos: Vec<No> = lock(&self.row).iter().filter(|(_, e)| !e.is_to_be()).map(|(no, _)| *no).collect();
        let mut first: Option<Found> = None;
        for no in nos {
            if lock(&self.row).get(&no).is_some_and(|e| e.spans.is_none()) {
                self.learn(no)?;
            }
            let span = lock(&self.row).get(&no).and_then(|e| e.spans.as_ref()?.get(&lane.0).copied());
            let end = first.as_ref().map_or(indices.end, |(header, _)| header.index);
            let Some(span) = span.filter(|span| span.first < end && span.last >= indices.start && end > indices.start)
            else {
                continue;
            };
            let last = span.last.min(end - 1);
            let found = self.with(no, |segment| first_readable(segment, lane, indices.start, last))?;
            first = found.flatten().or(first);
        }
        Ok(first)
    }

    /// Where what the last segment of the row holds of these blocks begins, index and total. None is opened for it that was looked into.
    pub(super) fn youngest_of(&self, lane: Lane, indices: &Range<u64>) -> Result<Option<(u64, u64)>, ShelfError> {
        let nos: Vec<No> = lock(&self.row).iter().rev().filter(|(_, e)| !e.is_to_be()).map(|(no, _)| *no).collect();
        for no in nos {
            if lock(&self.row).get(&no).is_some_and(|e| e.spans.is_none()) {
                self.learn(no)?;
            }
            let span = lock(&self.row).get(&no).and_then(|e| e.spans.as_ref()?.get(&lane.0).copied());
            if let Some(span) = span.filter(|span| span.first < indices.end && span.last >= indices.start) {
                return Ok(Some((span.first, span.totals.0)));
            }
        }
        Ok(None)
    }

    /// Keeps at most `OPEN_MAX` old segments open, `keep` among them: the ones at the front of the row are read next.
    fn close_others(&self, keep: No) {
        let row = lock(&self.row);
        let old = |e: &Entry| matches!(e.state, State::Sealed | State::Closed);
        let open = row
            .iter()
            .filter(|(no, e)| **no != keep && old(e))
            .filter(|(_, e)| try_lock(&e.door).is_some_and(|d| d.is_some()));
        let doors: Vec<_> =
            open.skip(OPEN_MAX - 1).filter(|(_, e)| e.state == State::Sealed).map(|(_, e)| e.door.clone()).collect();
        drop(row);
        for door in doors {
            if let Some(mut door) = try_lock(&door) {
                *door = None;
            }
        }
    }

    /// Looks into a segment of an earlier life.
    pub(super) fn learn(&self, no: No) -> Result<(), ShelfError> {
        let spans = match summary::read(&self.path(no), no) {
            Some(spans) => spans,
            // One that is set aside holds nothing.
            None => self.with(no, spans_of)?.unwrap_or_default(),
        };
        if let Some(entry) = lock(&self.row).get_mut(&no) {
            entry.spans = Some(spans);
        }
        Ok(())
    }

    /// When what a segment holds came from, by lane, as far as its first and last blocks can be read. It is about to go, so one that
    /// cannot be opened is not set aside for it.
    pub(super) fn dates_of(&self, no: No, spans: &Spans) -> BTreeMap<u32, Dates> {
        let Some(door) = lock(&self.row).get(&no).map(|e| e.door.clone()) else { return BTreeMap::new() };
        let open = lock(&door).clone();
        let Some(segment) = open.or_else(|| guarded_open(&self.path(no), self.trust(no)).ok().map(Arc::new)) else {
            return BTreeMap::new();
        };
        let of_lane = |(lane, span): (&u32, &Span)| {
            let (from, to) = (block_key(Lane(*lane), span.first), block_key(Lane(*lane), span.last));
            let ends = [segment.first(&from, &to), segment.last(&from, &to)].map(|found| {
                let (_, value) = found.ok()??;
                Dates::of(&Header::read(&value).ok()?)
            });
            Some((*lane, Dates::hull(ends[0], ends[1])?))
        };
        spans.iter().filter_map(of_lane).collect()
    }

    pub(super) fn quarantine(&self, no: No, error: &SegmentError) {
        tracing::error!(segment = %name(no), %error, "spool segment cannot be opened and is set aside");
        let bytes = lock(&self.row).remove(&no).map_or(0, |entry| entry.bytes);
        self.used.fetch_sub(bytes.min(self.used.load(Relaxed)), Relaxed);
        self.keep_aside(no);
    }
}

/// A block as it lies there.
pub(super) type Found = (Header, bytes::Bytes);

/// The first block in `from..=last` that can be read; damaged ones are passed over.
///
/// # Errors
/// When the disk does not answer now, or fjall finds damage: nothing is known of the blocks then.
pub(super) fn first_readable(
    segment: &Segment,
    lane: Lane,
    from: u64,
    last: u64,
) -> Result<Option<Found>, SegmentError> {
    let mut from = from;
    while from <= last {
        let found = segment.first(&block_key(lane, from), &block_key(lane, last))?;
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

/// What an open segment holds; how many bytes of each lane is an estimate.
pub(super) fn spans_of(segment: &Segment) -> Result<Spans, SegmentError> {
    if let Some(wreck) = segment.damaged() {
        return Ok(wreck.spans().clone());
    }
    let mut spans = Spans::new();
    let mut at = 0_u32;
    let end = block_key(Lane(0xFFFE_FFFF), u64::MAX);
    while let Some((key, _)) = segment.first(&block_key(Lane(at), 0), &end)? {
        let Some((lane, _)) = parse_block_key(&key) else { break };
        let (from, to) = (block_key(lane, 0), block_key(lane, u64::MAX));
        let ends = [segment.first(&from, &to)?, segment.last(&from, &to)?].into_iter().flatten();
        let ends: Vec<Header> = ends.filter_map(|(_, value)| Header::read(&value).ok()).collect();
        ends.iter().for_each(|header| extend(&mut spans, header));
        if let Some(span) = spans.get_mut(&lane.0) {
            // Of those between nobody knows without reading them.
            span.bytes = span.bytes / ends.len() as u64 * (span.last + 1 - span.first);
        }
        let Some(next) = lane.0.checked_add(1) else { break };
        at = next;
    }
    Ok(spans)
}

/// How far a segment is believed before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// It was proved in this life.
    Proved,
    /// fjall gets it after every byte of it was read.
    Unproved,
    /// The disk has answered with errors for too long: what cannot be read is given up, and the rest is read as a wreck.
    Whatever,
}

/// Opens a segment. fjall gets only what is whole: over damage it ends the process or is silent. What is not is read as a
/// wreck, and so is what fjall refuses all the same, panics over, or dies of: a marker beside it grows by a byte per try and
/// goes when one succeeds.
///
/// # Errors
/// The disk's. Nothing of it can be read then, now (the error is passing) or ever.
pub(super) fn guarded_open(path: &Path, trust: Trust) -> Result<Segment, SegmentError> {
    match trust {
        Trust::Whatever => return wreck(path, Reading::Whatever),
        Trust::Unproved => {
            let damage = Contents::check(&found(path))?;
            if let Some(first) = damage.first() {
                tracing::error!(
                    file = first.file,
                    at = first.at,
                    what = first.what,
                    places = damage.len(),
                    "spool segment is damaged"
                );
                return wreck(path, Reading::Strict);
            }
        }
        Trust::Proved => {}
    }
    let marker = path.join("attempt");
    // Something else of that name is nobody's death.
    let (deaths, can_mark) = match fs::symlink_metadata(&marker) {
        Ok(meta) => (if meta.is_file() { meta.len() } else { 0 }, meta.is_file()),
        Err(_) => (0, true),
    };
    if deaths >= DEATHS_MAX {
        tracing::error!(segment = %path.display(), deaths, "processes died opening this spool segment; it is read without");
        return wreck(path, Reading::Strict);
    }
    if can_mark {
        // With no space left the try goes unmarked, which is better than not to read.
        let mut options = File::options();
        let _ = options.append(true).create(true).open(&marker).and_then(|mut f| io::Write::write_all(&mut f, b"."));
    }
    let opened = std::panic::catch_unwind(|| Segment::open(path, VALUE_MAX));
    let _ = fs::remove_file(&marker);
    match opened.unwrap_or_else(|_| Err(SegmentError::Damaged("fjall panicked opening it".into()))) {
        Err(error) if !error.is_passing() => {
            tracing::error!(segment = %path.display(), %error, "spool segment looks whole, and cannot be opened; it is read without");
            wreck(path, Reading::Strict)
        }
        opened => opened,
    }
}

fn wreck(path: &Path, how: Reading) -> Result<Segment, SegmentError> {
    let contents = Contents::of(&found(path), how, &|_| {})?;
    Ok(Segment::wreck(path, Wreck::of(&contents, how)?))
}

fn found(path: &Path) -> survey::Found {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    survey::Found { name, path: path.to_owned(), state: State::Closed, bytes: 0 }
}
