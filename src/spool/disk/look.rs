//! Reading the row: which segment may hold a block, opening it with care, and what is in it.

use super::{Disk, Entry, No, Span, Spans, State, VALUE_MAX, extend, name};
use crate::spool::block::Header;
use crate::spool::gaps::Dates;
use crate::spool::ledger::{block_key, parse_block_key};
use crate::spool::segment::{Segment, SegmentError};
use crate::spool::shelf::{ShelfError, lock, try_lock};
use crate::spool::{Lane, summary};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Sealed segments whose table stays open for the reader: the head, and one more while it moves on.
const OPEN_MAX: usize = 2;
/// So many deaths of the process in a row while one segment was being opened are not bad luck (kills, power cuts) any more.
const DEATHS_MAX: u64 = 5;

impl Disk {
    /// The first segment of the row that may hold a block of `lane` at or after `from`.
    pub(super) fn candidate(&self, lane: Lane, from: u64) -> Option<(No, bool)> {
        let row = lock(&self.row);
        row.iter().filter(|(_, e)| !e.is_to_be()).find_map(|(no, e)| match &e.spans {
            None => Some((*no, false)),
            Some(spans) => spans.get(&lane.0).is_some_and(|s| s.last >= from).then_some((*no, true)),
        })
    }

    /// Runs `look` on an open segment, opening it if need be; a segment that cannot be opened is set aside.
    pub(super) fn with<T>(
        &self,
        no: No,
        look: impl FnOnce(&Segment) -> Result<T, SegmentError>,
    ) -> Result<Option<T>, ShelfError> {
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

    /// When what a segment holds came from, by lane, as far as its first and last blocks can be read. It is about to go, so one that
    /// cannot be opened is not set aside for it.
    pub(super) fn dates_of(&self, no: No, spans: &Spans) -> BTreeMap<u32, Dates> {
        let Some(door) = lock(&self.row).get(&no).map(|e| e.door.clone()) else { return BTreeMap::new() };
        let open = lock(&door).clone();
        let Some(segment) = open.or_else(|| guarded_open(&self.path(no)).ok().map(Arc::new)) else {
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
        lock(&self.row).remove(&no);
        self.aside.store(true, Relaxed);
        let dir = self.settings.directory.join("quarantine");
        let moved = fs::create_dir_all(&dir).and_then(|()| fs::rename(self.path(no), dir.join(name(no))));
        if let Err(error) = moved {
            tracing::warn!(segment = %name(no), %error, "spool segment cannot be set aside and is passed over");
        }
    }
}

/// A block as it lies there.
pub(super) type Found = (Header, bytes::Bytes);

/// The first block in `from..=last` that can be read; damaged ones are passed over.
///
/// # Errors
/// When the disk does not answer now: nothing is damaged, ask again later.
pub(super) fn first_readable(
    segment: &Segment,
    lane: Lane,
    from: u64,
    last: u64,
) -> Result<Option<Found>, SegmentError> {
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

/// What an open segment holds; how many bytes of each lane is an estimate.
pub(super) fn spans_of(segment: &Segment) -> Result<Spans, SegmentError> {
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

/// Opens a segment with a marker beside it that grows by a byte per try and goes when one succeeds: a segment that
/// kills the process again and again is set aside. One that panics is damaged.
pub(super) fn guarded_open(path: &Path) -> Result<Segment, SegmentError> {
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
