//! Copying forward: what is still needed of mostly consumed segments goes into one that takes their place, and they go.
//!
//! ```text
//!   seg-08   seg-09   seg-0a   seg-0b            seg-08.1   seg-0b
//!   ▪·····   ·····▪   ··▪···   ▪▪▪▪▪▪    ──▶     ▪▪▪        ▪▪▪▪▪▪
//! ```
//!
//! Usually a segment of which less than a quarter is needed is copied alone: it costs less than it gives. Small ones, such as one dead
//! letter leaves, cost the disk their frame (some 130 KiB) and not their data, so four neighbours go together. *Eager* is more than
//! usual: at a start if `on_start` says so, and on a rebound (much is allocated, little is live).
//!
//! A copy is made beside the active segment, so that intake waits for no more than the commit that syncs the cursors. It lies in
//! memory while it is made. So what is being read to its end is left alone: the last quarter of each segment would be copied for
//! nothing, in every drain at random, and memory would follow how long the drain lasts (promise P5).

use super::upkeep::Evidence;
use super::{Compaction, Disk, Door, Entry, No, Span, Spans, State, allocated, extend, name};
use crate::base::Bytes;
use crate::spool::Lane;
use crate::spool::block::{self, Header};
use crate::spool::ledger::{Record, block_key, parse_block_key};
use crate::spool::phase::{Phase, during};
use crate::spool::segment::Segment;
use crate::spool::shelf::{Bookkeeper, ShelfError, lock};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A segment is copied when less than this part of its blocks is needed,
const USUAL: (u64, u64) = (1, 4);
/// or, eagerly, than this.
const EAGER: (u64, u64) = (3, 4);
/// So many small neighbours are made one; eagerly two. Each time a block is copied its segment grows fourfold, so it is copied seldom.
const TOGETHER: usize = 4;
/// A small segment has less than this part of what the smallest segments begin with: 256 KiB, of which its frame is a good part more.
const SMALL: u64 = 8;
/// A copy holds at most this part of the largest segment: it lies in memory while it is made.
const COPY_AT_MOST: u64 = 4;

/// So little is copied at once. More than that only out of a segment that stands still.
const AT_ONCE: u64 = 1 << 20;
/// A segment of which nothing was consumed for so long stands still: longer than one upload takes on a link worth the name.
const STILL: Duration = Duration::from_secs(30);

/// Blocks by their keys.
pub(super) type Live = BTreeMap<Vec<u8>, bytes::Bytes>;

/// A segment, its lanes of which something is needed, and how it looks.
type Weighed = (No, Vec<(Lane, Span)>, Candidate);

/// A segment, as far as copying minds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Candidate {
    /// It may be copied at all: sealed, and it is known what is in it.
    fit: bool,
    /// Somebody is reading it to its end, or may be.
    moves: bool,
    /// On the disk.
    bytes: u64,
    blocks: u64,
    /// Blocks that are needed, at most.
    needed: u64,
    /// Their bytes, about.
    live: u64,
}

impl Candidate {
    fn is_consumed(&self, part: (u64, u64)) -> bool {
        self.needed * part.1 < self.blocks * part.0
    }

    fn may_go(&self) -> bool {
        self.fit && !self.moves && self.needed > 0
    }
}

/// Which neighbours are copied next: into one segment of at most `most` bytes.
fn plan(row: &[Candidate], small: u64, most: u64, eager: bool) -> Option<Range<usize>> {
    let (part, together) = if eager { (EAGER, 2) } else { (USUAL, TOGETHER) };
    let joins = |c: &Candidate| c.may_go() && (c.is_consumed(part) || c.live < small);
    let mut from = 0;
    while from < row.len() {
        let (mut to, mut sum) = (from, 0);
        // One that is mostly consumed is worth its copy however large it is.
        let fits = |next: &Candidate, sum: u64| sum + next.live <= most || (sum == 0 && next.is_consumed(part));
        while let Some(next) = row.get(to).filter(|next| joins(next) && fits(next, sum)) {
            sum += next.live;
            to += 1;
        }
        if to - from >= together {
            return Some(from..to);
        }
        if let Some(alone) = (from..to).find(|at| row[*at].is_consumed(part)) {
            return Some(alone..alone + 1);
        }
        from = to.max(from + 1);
    }
    None
}

impl Disk {
    /// Copies what is next to be copied, if anything is.
    pub(super) fn copy_some(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        let Compaction { enabled, on_rebound, .. } = self.settings.compact;
        if !enabled {
            return Ok(false);
        }
        type Seen = (No, Option<Spans>, u64, Option<u64>);
        let row: Vec<Seen> = {
            let row = lock(&self.row);
            let of = |(no, e): (&No, &Entry)| {
                let spans = e.spans.clone().filter(|_| e.state == State::Sealed && !e.damaged);
                (*no, spans, e.bytes, e.heavy)
            };
            row.iter().map(of).collect()
        };
        // An upper bound, from the cursors alone.
        let weigh = |(no, spans, bytes, heavy): Seen| {
            let mut candidate = Candidate { fit: spans.is_some(), bytes, ..Candidate::default() };
            let mut lanes = Vec::new();
            for (lane, span) in spans.unwrap_or_default() {
                let (blocks, needed) = (span.last + 1 - span.first, books.needed(Lane(lane), &span.indices()));
                candidate.blocks += blocks;
                candidate.needed += needed;
                candidate.live += span.bytes / blocks.max(1) * needed;
                if needed > 0 {
                    lanes.push((Lane(lane), span));
                }
            }
            candidate.fit &= heavy != Some(candidate.needed);
            (no, lanes, candidate)
        };
        let mut row: Vec<Weighed> = row.into_iter().map(weigh).collect();
        self.watch(&mut row);
        let live: u64 = row.iter().map(|(_, _, c)| if c.fit { c.live } else { c.bytes }).sum();
        let is_rebound =
            on_rebound.is_some_and(|(needed, trigger)| self.used.load(Relaxed) > needed.0 && live < trigger.0);
        let eager = is_rebound || self.eager.load(Relaxed);
        let small = self.settings.segment_min.0 / SMALL;
        let most = (self.limits.get().segment_max.0 / COPY_AT_MOST).max(small);
        let candidates: Vec<Candidate> = row.iter().map(|(_, _, c)| *c).collect();
        let Some(range) = plan(&candidates, small, most, eager) else {
            // What was found at the start is done, but for what could not be told yet.
            let all_told = !candidates.iter().any(|c| c.fit && c.moves && c.is_consumed(EAGER));
            self.eager.fetch_and(!all_told, Relaxed);
            return Ok(false);
        };
        self.copy(&row[range], most, books)
    }

    /// Notes how much is needed of each, and finds out which of them move.
    fn watch(&self, weighed: &mut [Weighed]) {
        let now = self.clock.now();
        let mut row = lock(&self.row);
        for (no, _, candidate) in weighed.iter_mut().filter(|(_, _, c)| c.fit && c.live > AT_ONCE) {
            let Some(entry) = row.get_mut(no) else { continue };
            let (needed, since) = *entry.stood.get_or_insert((candidate.needed, now));
            if needed != candidate.needed {
                entry.stood = Some((candidate.needed, now));
            }
            candidate.moves = needed != candidate.needed || now.since(since) < STILL;
        }
    }

    fn copy(&self, segments: &[Weighed], most: u64, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        let (mut gone, mut live, mut bytes, mut size) = (Vec::new(), Live::new(), 0, 0);
        for (no, lanes, candidate) in segments {
            // The estimate may have been too low; a copy twice as large is no harm, and then it is enough.
            let most = (most * 2).max(candidate.bytes / 2);
            let Some(more) = self.live_of(*no, lanes, most.saturating_sub(size), books)? else {
                if let Some(entry) = lock(&self.row).get_mut(no) {
                    entry.heavy = Some(candidate.needed); // not again before something of it is consumed
                }
                break;
            };
            size += more.values().map(|value| value.len() as u64).sum::<u64>();
            bytes += candidate.bytes;
            live.extend(more);
            gone.push(*no);
        }
        if gone.is_empty() {
            return Ok(true); // the next in the row, if there is one
        }
        // What is not copied is gone: the cursors that say so come first.
        self.note(books)?;
        self.replace(&gone, bytes, live)?;
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
    ) -> Result<Option<Live>, ShelfError> {
        let live = self.with(no, |segment| {
            let (mut live, mut size) = (Live::new(), 0);
            for (lane, span) in lanes {
                let mut at = span.first;
                while let Some((key, value)) = segment.first(&block_key(*lane, at), &block_key(*lane, span.last))? {
                    let Some((_, index)) = parse_block_key(&key) else { break };
                    if books.is_live(*lane, index) {
                        size += value.len() as u64;
                        if size > most {
                            return Ok(None);
                        }
                        live.insert(key.to_vec(), value);
                    }
                    at = index + 1;
                }
            }
            Ok(Some(live))
        })?;
        Ok(live.flatten())
    }

    /// A copy with these blocks takes the place in the row of neighbours that take `bytes` now. The cursors that say that nothing
    /// else of them is needed are synced.
    pub(super) fn replace(&self, gone: &[No], bytes: u64, live: Live) -> Result<(), ShelfError> {
        let _phase = during(Phase::Compaction);
        let Some(no) = gone.first() else { return Ok(()) };
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
                let door = Arc::new(Mutex::new(Some(Arc::new(copy))));
                let entry = Entry::new(State::Closed, Some(spans), size, door, self.clock.now());
                lock(&self.row).insert(to, entry);
                tracing::info!(from = %name(*no), segments = gone.len(), to = %name(to), before = %Bytes(bytes), after = %Bytes(size), "spool segment copied forward");
                self.delete(gone, Evidence::Kept);
                Ok(())
            }
            Err(error) => {
                self.bin(to, Door::default());
                Err(ShelfError::Unavailable(format!("segment not copied forward: {error}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes in KiB.
    fn of(bytes: u64, blocks: u64, needed: u64) -> Candidate {
        let bytes = bytes << 10;
        Candidate { fit: true, moves: false, bytes, blocks, needed, live: bytes * needed / blocks.max(1) }
    }

    #[test]
    #[rustfmt::skip]
    fn what_is_mostly_consumed_goes_alone_and_small_neighbours_together() {
        let (full, most, small) = (of(2_048, 100, 100), of(2_048, 100, 20), of(130, 1, 1));
        let (half, unfit) = (of(2_048, 100, 60), Candidate { fit: false, ..of(130, 1, 1) });
        let moves = Candidate { moves: true, ..most };
        for (row, usual, eager) in [
            (vec![],                                        None,       None),
            (vec![full, full],                              None,       None),
            (vec![full, most, full],                        Some(1..2), Some(1..2)),
            (vec![most, most],                              Some(0..1), Some(0..2)),
            (vec![half, full],                              None,       Some(0..1)),
            (vec![half, half],                              None,       Some(0..1)), // together they are more than a copy holds
            (vec![of(9_000, 100, 20), full],                Some(0..1), Some(0..1)),
            (vec![small, small, small],                     None,       Some(0..3)),
            (vec![full, small, small, small, small, full],  Some(1..5), Some(1..5)),
            (vec![small, small, full, small, small],        None,       Some(0..2)),
            (vec![small, small, unfit, small, small],       None,       Some(0..2)),
            (vec![small, most, small, small],               Some(0..4), Some(0..4)),
            (vec![small],                                   None,       None),
            (vec![of(400, 10, 5), full],                    None,       Some(0..1)),
            (vec![moves, full],                             None,       None),
            (vec![moves, most],                             Some(1..2), Some(1..2)),
        ] {
            assert_eq!(plan(&row, 256 << 10, 1_024 << 10, false), usual, "{row:?}");
            assert_eq!(plan(&row, 256 << 10, 1_024 << 10, true), eager, "eager: {row:?}");
        }
        assert_eq!(plan(&[small; 20], 256 << 10, 1_024 << 10, false), Some(0..7), "as many as a copy holds");
    }
}
