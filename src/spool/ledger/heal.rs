//! Restoring the books from records of which some may be damaged: what they say of each other must fit again.
//!
//! Each record has a checksum, so what is restored was written once; but where one is missing an older one stands in for it, and
//! two that were written in one commit may be of different times. Then a move to a side lane (a parked upload, a dead letter) is
//! known to one side only. Items that left their lane and stand nowhere are lost by corruption; items that stand in both
//! places are taken back in the side lane, for they are sent from the first one again.

use super::{BOOT_RECORD, LANE_RECORD, LaneState, Ledger, Record, overlap, push_range};
use crate::spool::block::Header;
use crate::spool::codec::Eye;
use crate::spool::cursor::{Cursor, Fate};
use crate::spool::gaps::Dates;
use crate::spool::survey::Read;
use crate::spool::{Lane, Reason};

/// Most items of a block that is believed without proof: as many as a request of the doors may have.
const HINT_ITEMS_MAX: u32 = 1 << 20;

/// More items than the segments can hold that a disk did not give at a start: four of 2 GiB have 2^26 blocks of a header alone, of
/// 2^20 items at most. Totals last for 2^18 such starts.
const DOUBT: u64 = 1 << 46;
/// Ranges that are remembered as doubtful: one for each start at which the disk gave nothing for a second.
const DOUBTS_MAX: usize = 64;
/// More lanes than were made within such a book.
const LANES_DOUBT: u32 = 1 << 12;
/// No spool sees so many starts: an epoch in a damaged key.
const EPOCH_MAX: u32 = 1 << 31;

/// The last life that these records know of.
pub(crate) fn last_epoch(records: &[Record]) -> u32 {
    let of_boot = |(key, _): &Record| {
        let mut eye = Eye::open(key);
        eye.take(super::CONTROL.len()).ok()?;
        let is_boot = eye.u8().ok()? == BOOT_RECORD;
        is_boot.then(|| eye.u32().ok()).flatten().map(u32::swap_bytes)
    };
    let lanes = u32::try_from(next_index(records) >> 32).unwrap_or(u32::MAX);
    let epochs = records.iter().filter_map(of_boot).chain([lanes]);
    epochs.filter(|epoch| *epoch < EPOCH_MAX).max().unwrap_or(0)
}

/// The highest index that the lane records among these say was to be next.
pub(crate) fn next_index(records: &[Record]) -> u64 {
    let of_lane = |(key, record): &Record| {
        let mut eye = Eye::open(key);
        let is_lane = eye.take(super::CONTROL.len()).is_ok() && eye.u8() == Ok(LANE_RECORD);
        is_lane.then(|| LaneState::read(record, 0).ok()).flatten().map(|lane| lane.next_index)
    };
    records.iter().filter_map(of_lane).max().unwrap_or(0)
}

impl Ledger {
    /// Restores control records, and what the newest blocks beside them say. Returns what is damaged.
    pub(crate) fn restore_all(&mut self, read: &Read) -> Vec<String> {
        let restored = read.records.iter().map(|(key, record)| self.restore(key, record));
        let problems = restored.filter_map(Result::err).map(|error| format!("a control record is damaged: {error}"));
        let problems = problems.collect();
        read.headers.iter().for_each(|header| self.restore_tip(header));
        let (mut hints, bytes) = (read.hints.0.clone(), read.hints.1);
        hints.sort_by_key(|header| header.accepted_total);
        hints.iter().for_each(|header| self.restore_hint(header, bytes));
        self.heal();
        if read.is_partial {
            self.doubt();
        }
        problems
    }

    /// The disk did not give all of the newest book: lanes may hold blocks that are not known of. What is accepted from now on
    /// stands behind any of them. In a side lane they are burnt: by this book their items stand in the lane they came from.
    fn doubt(&mut self) {
        // A lane that no book names keeps its blocks, as nobody's, and its number.
        self.lane_floor = self.lanes.keys().last().map_or(0, |no| no + 1).max(self.lane_floor) + LANES_DOUBT;
        let sides: Vec<u32> = self.lanes.keys().copied().filter(|no| self.is_aside(Lane(*no))).collect();
        for (no, lane) in &mut self.lanes {
            let end = lane.tip.saturating_add(DOUBT);
            if sides.contains(no) {
                lane.burn_to(end);
                continue;
            }
            if lane.doubtful.len() == DOUBTS_MAX {
                lane.doubtful.remove(0);
            }
            push_range(&mut lane.doubtful, lane.tip..end);
            (lane.tip, lane.dirty) = (end, true);
        }
    }

    /// A header that stands in a damaged place proves that so much was accepted, if no more is missing before it than so
    /// many bytes can have held: an item takes one at least.
    fn restore_hint(&mut self, h: &Header, bytes: u64) {
        if let Some(lane) = self.lanes.get_mut(&h.lane.0)
            && h.accepted_total > lane.tip
            && h.accepted_before() <= lane.tip.saturating_add(bytes)
            && h.items <= HINT_ITEMS_MAX
        {
            lane.tip = h.accepted_total;
            lane.newest = Dates::of(h).into_iter().chain(lane.newest).max_by_key(|dates| dates.to);
            lane.dirty = true;
        }
    }

    /// The last step of restoring: whatever was damaged, no exporter is ahead of its lane.
    pub(crate) fn heal(&mut self) {
        for ((_, lane), cursor) in &self.cursors {
            if let Some(lane) = self.lanes.get_mut(lane) {
                let mut known = vec![cursor.frontier()];
                for absence in &cursor.absences {
                    known.push((absence.index.start, absence.totals.start));
                    known.push((absence.index.end, absence.totals.end));
                }
                for (index, total) in known.into_iter().filter(|(_, total)| *total < u64::MAX) {
                    lane.tip = lane.tip.max(total);
                    lane.next_index = lane.next_index.max(index);
                }
            }
        }
        let lanes = &self.lanes;
        self.cursors.retain(|(_, lane), _| lanes.contains_key(lane));
        self.balance();
        self.heal_gaps();
    }

    /// The books of each pipeline and exporter add up again, see the module.
    fn balance(&mut self) {
        let by_name = self.by_name();
        let wrong = |(exporter, lane): &(u32, u32)| {
            let book = self.book_of(*exporter, *lane, &by_name).filter(|book| book.accepted != book.sum())?;
            let sides = self.sides(*exporter, *lane, &by_name).into_iter().flatten().collect::<Vec<u32>>();
            Some((*exporter, *lane, sides, book))
        };
        let wrong: Vec<_> = self.cursors.keys().filter_map(wrong).collect();
        for (exporter, lane, sides, book) in wrong {
            tracing::error!(
                pipeline = book.lane,
                exporter = book.exporter,
                book.accepted,
                sum = book.sum(),
                "spool records of one commit are of different times; what moved is counted anew"
            );
            let mut missing = book.accepted.saturating_sub(book.sum());
            for lane in [lane].iter().chain(&sides) {
                if let Some(cursor) = self.cursors.get_mut(&(exporter, *lane)) {
                    missing -= cursor.lose_moved(missing);
                }
            }
            let mut surplus = book.sum().saturating_sub(book.accepted);
            for lane in &sides {
                surplus -= self.take_back(exporter, *lane, surplus);
            }
        }
    }

    /// Takes back up to `items` that stand in a side lane and in their own too: the newest first, for the record that
    /// knows of them is the older one.
    fn take_back(&mut self, exporter: u32, lane: u32, items: u64) -> u64 {
        let (Some(cursor), Some(state)) = (self.cursors.get_mut(&(exporter, lane)), self.lanes.get_mut(&lane)) else {
            return 0;
        };
        let last = cursor.unread().pop();
        let fresh = last.map_or(0, |last| state.fresh_of(cursor, &last)).min(items);
        let tail = state.tip - fresh..state.tip;
        let mut back = 0;
        if fresh > 0 && overlap(&state.burnt, &tail) == 0 && cursor.absences.is_empty() {
            push_range(&mut state.burnt, tail);
            state.dirty = true;
            back = fresh;
        }
        back + cursor.take_back(items - back)
    }
}

impl Cursor {
    /// Up to `items` of what moved away from here are lost by corruption: where they went nothing is known of them.
    fn lose_moved(&mut self, items: u64) -> u64 {
        let counts = &mut self.counts;
        let mut left = items;
        for moved in [&mut counts.parked, &mut counts.dead_letters, &mut counts.quarantined] {
            let lost = left.min(*moved);
            *moved -= lost;
            left -= lost;
        }
        counts.lost[Reason::Corrupt as usize] += items - left;
        self.dirty |= items > left;
        items - left
    }

    /// Up to `items` never were this side lane's: of what it has out, then of what it has settled.
    fn take_back(&mut self, items: u64) -> u64 {
        let mut left = items - self.write_off(items, Fate::Burnt);
        let counts = &mut self.counts;
        for settled in [&mut counts.delivered].into_iter().chain(&mut counts.lost) {
            let back = left.min(*settled);
            *settled -= back;
            counts.burnt += back;
            left -= back;
        }
        self.dirty |= items > left;
        items - left
    }
}
