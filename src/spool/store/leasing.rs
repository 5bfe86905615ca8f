//! Handing out windows nobody has out: the oldest one, or of what comes in now, or of a backlog; read again or newly cut, without
//! what is burnt, damaged or set aside.

use super::books::Books;
use super::{Out, Spool, subtract};
use crate::otlp::Signal;
use crate::spool::block::{Header, unframe};
use crate::spool::cursor::{Fate, Window};
use crate::spool::gaps::Dates;
use crate::spool::ledger::{Came, Front, Plan};
use crate::spool::shelf::{ShelfError, lock};
use crate::spool::{Cut, Lane, Lease, LeaseError, LeasedBlock, Owner, Pick, Pos, Reason, Store as _};
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Most blocks of one window, whatever their size: bounds the window's bookkeeping. 4 MiB of requests of one record.
const WINDOW_BLOCKS_MAX: usize = 8_192;

impl Spool {
    /// The body of [`Store::pick`](crate::spool::Store::pick).
    pub(super) fn next_lease(
        &self,
        owner: Owner,
        lane: Lane,
        pick: Pick,
        cut: Cut,
    ) -> Result<Option<Lease>, LeaseError> {
        let life = self.reader_life.load(SeqCst);
        // Each round that gives no lease has passed over something damaged or set aside; there is an end to that.
        for _ in 0..WINDOW_BLOCKS_MAX {
            match self.try_lease(owner, lane, pick, cut, life)? {
                Tried::Lease(lease) => return Ok(Some(lease)),
                Tried::Nothing => return Ok(None),
                Tried::Passed => {}
            }
        }
        Ok(None)
    }

    /// Reads a window that was out before. What of it cannot be read any more is lost to corruption.
    fn read_again(
        &self,
        owner: Owner,
        lane: Lane,
        index: &Range<u64>,
        totals: &Range<u64>,
    ) -> Result<Vec<(Header, bytes::Bytes)>, LeaseError> {
        let mut blocks = Vec::new();
        let (mut at, mut total) = (index.start, totals.start);
        // Of the last block that could be read; else of the first that could not.
        let (mut before, mut damaged) = (None, None);
        while let Some((header, value)) = self.next_block(lane, at, total)?.filter(|(h, _)| h.index < index.end) {
            at = header.index + 1;
            let dates = Dates::of(&header);
            if self.take_out_suspect(owner, lane, &header, &value)? {
                continue;
            }
            match unframe(&header, &value) {
                Ok(raw) => {
                    self.lose(owner, lane, total..header.accepted_before(), Dates::between(before.or(damaged), dates));
                    (before, damaged) = (dates, None);
                    total = header.accepted_total;
                    blocks.push((header, raw));
                }
                Err(error) => {
                    damaged = damaged.or(dates);
                    tracing::error!(lane = lane.0, index = header.index, %error, "spool block's payload is damaged")
                }
            }
        }
        self.lose(owner, lane, total..totals.end, Dates::between(before.or(damaged), damaged));
        Ok(blocks)
    }

    /// Settles what of `part` is not settled yet as lost to corruption.
    fn lose(&self, owner: Owner, lane: Lane, part: Range<u64>, dates: Option<Dates>) {
        if part.is_empty() {
            return;
        }
        let mut ledger = lock(&self.ledger);
        let Some(cursor) = ledger.cursor_mut(owner.exporter, lane) else { return };
        let taken = cursor.taken();
        let mut lost = 0;
        for open in subtract(part, &taken) {
            if let Ok(open) = cursor.settle(&open, Fate::Lost(Reason::Corrupt)) {
                cursor.confirm(&open);
                lost += open.end - open.start;
            }
        }
        if lost > 0 {
            ledger.date(owner.exporter, lane, Reason::Corrupt, dates);
            tracing::error!(lane = lane.0, items = lost, "spool lost items to corruption");
        }
    }

    /// The next block of the lane that is not burnt. `total` items of the lane lie before it, if nothing is missing: before a hole
    /// is believed, everything that is there is asked.
    fn next_block(&self, lane: Lane, from: u64, total: u64) -> Result<Option<(Header, bytes::Bytes)>, LeaseError> {
        let unavailable = |e: ShelfError| LeaseError::Unavailable(e.to_string());
        let mut from = from;
        loop {
            let Some((header, value)) = self.shelf.next(lane, from).map_err(unavailable)? else { return Ok(None) };
            if header.accepted_before() > total {
                let nearer = self.shelf.nearer(lane, from..header.index).map_err(unavailable)?;
                if let Some(nearer) = nearer.filter(|(header, _)| self.counts(header)) {
                    return Ok(Some(nearer));
                }
            }
            if self.counts(&header) {
                return Ok(Some((header, value)));
            }
            from = header.index + 1;
        }
    }

    /// Whether the block that was found is not burnt. Then the books know of it from now on.
    fn counts(&self, header: &Header) -> bool {
        let mut ledger = lock(&self.ledger);
        let is_burnt = ledger.is_burnt(header);
        if !is_burnt {
            ledger.found(header);
        }
        !is_burnt
    }

    /// Reads new blocks from this front on, as many as one window takes; passes over what is damaged.
    fn read_new(
        &self,
        owner: Owner,
        lane: Lane,
        front: Front,
        cut: Cut,
    ) -> Result<Vec<(Header, bytes::Bytes)>, LeaseError> {
        let mut blocks: Vec<(Header, bytes::Bytes)> = Vec::new();
        let Front { index: mut at, mut total, mut floats, .. } = front;
        let (mut items, mut bytes) = (0_u64, 0_u64);
        let (end_index, end) = lock(&self.ledger).end(owner.exporter, lane, total);
        while blocks.len() < WINDOW_BLOCKS_MAX && total < end {
            self.mark(owner, lane, &(at..at + 1));
            let found = self.next_block(lane, at, total);
            self.unmark(owner, lane, &(at..at + 1));
            let found = found?;
            let behind = found.as_ref().and_then(|(header, _)| Dates::of(header));
            // What lies beyond came in since, while this exporter was away, or was handed out before.
            let Some((header, value)) = found.filter(|(header, _)| header.index < end_index) else {
                // The books say there is more, and the shelf has nothing: it is gone.
                if blocks.is_empty() {
                    self.pass_rest(owner, lane, (at, total), (end_index, end), behind);
                }
                break;
            };
            if header.accepted_total > lock(&self.ledger).end(owner.exporter, lane, total).1 {
                // Its commit is not answered yet; or it has the place of what was handed out before.
                if blocks.is_empty() && lock(&self.ledger).is_backlog(owner.exporter, lane, total) {
                    self.pass_rest(owner, lane, (at, total), (end_index, end), behind);
                }
                break;
            }
            let one_more = bytes + u64::from(header.raw_len);
            if !blocks.is_empty()
                && (header.accepted_before() != total
                    || one_more > u64::from(cut.max_bytes)
                    || self.is_suspect(owner, lane, header.index))
            {
                break;
            }
            if self.take_out_suspect_new(owner, lane, floats, &header, &value)? {
                (at, total, floats) = (header.index + 1, header.accepted_total, false);
                continue;
            }
            let this = header.index..header.index + 1;
            self.mark(owner, lane, &this);
            let unframed = unframe(&header, &value);
            self.unmark(owner, lane, &this);
            let raw = match unframed {
                Ok(raw) => raw,
                Err(_) if !blocks.is_empty() => break, // it begins the next window, and is passed there
                Err(error) => {
                    tracing::error!(lane = lane.0, index = header.index, items = header.items, %error, "spool block's payload is damaged");
                    let from = if floats { (header.index, header.accepted_before()) } else { (at, total) };
                    let (to, fate) = ((header.index + 1, header.accepted_total), Fate::Lost(Reason::Corrupt));
                    let (dates, mut ledger) = (Dates::of(&header), lock(&self.ledger));
                    ledger.pass(owner.exporter, lane, from, to, fate);
                    ledger.date(owner.exporter, lane, Reason::Corrupt, dates);
                    ledger.reach(owner.exporter, lane, &(from.1..to.1), dates);
                    drop(ledger);
                    (at, total, floats) = (to.0, to.1, false);
                    continue;
                }
            };
            let suspect = self.is_suspect(owner, lane, header.index);
            items += u64::from(header.items);
            bytes = one_more;
            (at, total) = (header.index + 1, header.accepted_total);
            blocks.push((header, raw));
            if items >= u64::from(cut.enough_items) || bytes >= u64::from(cut.max_bytes) || suspect {
                break;
            }
        }
        Ok(blocks)
    }

    /// Nothing can be found between these places, index and total: what is unread there is lost. `behind`: dates of what was found
    /// beyond, if anything was.
    fn pass_rest(&self, owner: Owner, lane: Lane, from: (u64, u64), to: (u64, u64), behind: Option<Dates>) {
        let mut ledger = lock(&self.ledger);
        let lost = ledger.pass(owner.exporter, lane, from, to, Fate::Lost(Reason::Corrupt));
        ledger.date_hole(owner.exporter, lane, from.1, behind);
        if lost > 0 {
            tracing::error!(lane = lane.0, items = lost, "spool lost items to corruption");
        }
    }

    /// The youngest segment's part of what is unread at this front, if it does not lie in one segment: what is wanted newest first
    /// is read so.
    ///
    /// # Errors
    /// The disk's.
    fn youngest_piece(&self, owner: Owner, lane: Lane, front: Front) -> Result<Option<Front>, LeaseError> {
        let (end_index, end) = lock(&self.ledger).end(owner.exporter, lane, front.total);
        let piece = self.shelf.youngest(lane, front.index..end_index);
        let piece = piece.map_err(|e| LeaseError::Unavailable(e.to_string()))?;
        let inside = piece.filter(|(index, total)| *index > front.index && (front.total + 1..end).contains(total));
        Ok(inside.map(|(index, total)| Front { index, total, floats: true, newest: true }))
    }

    /// The blocks at this front, and the front that they were read from.
    fn read_front(
        &self,
        owner: Owner,
        lane: Lane,
        front: Front,
        cut: Cut,
    ) -> Result<(Front, Vec<(Header, bytes::Bytes)>), LeaseError> {
        if front.newest
            && let Some(piece) = self.youngest_piece(owner, lane, front)?
        {
            let blocks = self.read_new(owner, lane, piece, cut)?;
            let totals = blocks.first().zip(blocks.last()).map(|((first, _), (last, _))| {
                let (from, to) = (first.accepted_before(), last.accepted_total);
                from..to
            });
            if totals.is_some_and(|totals| lock(&self.ledger).is_unread(owner, lane, &totals)) {
                return Ok((piece, blocks));
            }
        }
        Ok((front, self.read_new(owner, lane, front, cut)?))
    }

    /// Whether the reader of this life still is the reader. What one that was given up began to read came back when it
    /// was, and may be out elsewhere: nothing of it is its own any more.
    ///
    /// # Errors
    /// It is not.
    fn is_present(&self, life: u64) -> Result<(), LeaseError> {
        let present = self.reader_life.load(SeqCst) == life;
        present.then_some(()).ok_or_else(|| LeaseError::Unavailable("this reader was replaced".into()))
    }

    fn try_lease(&self, owner: Owner, lane: Lane, pick: Pick, cut: Cut, life: u64) -> Result<Tried, LeaseError> {
        self.is_present(life)?;
        let plan = lock(&self.ledger).plan(owner, lane, pick, cut.enough_items.into(), self.clock.now())?;
        let Some(signal) = lock(&self.ledger).lane_signal(lane) else { return Ok(Tried::Nothing) };
        match plan {
            Plan::Nothing => Ok(Tried::Nothing),
            Plan::Again(window) => {
                self.mark(owner, lane, &window.index);
                let blocks = self.read_again(owner, lane, &window.index, &window.totals);
                self.is_present(life)?;
                let blocks = blocks.inspect_err(|_| self.give_back(owner, lane, window.index.clone()))?;
                if window.settled.is_empty() && blocks.len() > 1 && self.is_suspect(owner, lane, window.index.start) {
                    // Which of them is it? They go out one by one, each with its own evidence.
                    let places: Vec<_> = blocks.iter().map(|(h, _)| (h.index, h.accepted_before())).collect();
                    if let Some(cursor) = lock(&self.ledger).cursor_mut(owner.exporter, lane) {
                        cursor.split(&window.index, &places);
                    }
                    self.unmark(owner, lane, &window.index);
                    return Ok(Tried::Passed);
                }
                // What was lost or set aside while reading changed the window.
                let now = lock(&self.ledger).cursor_mut(owner.exporter, lane).and_then(|c| c.window(&window.index));
                match now {
                    Some(now) if !now.done() => self.lease_of(owner, lane, signal, now, blocks, life).map(Tried::Lease),
                    _ => {
                        self.forget(owner, lane, window.index);
                        Ok(Tried::Passed)
                    }
                }
            }
            Plan::From(front) => {
                let (Front { total, floats, .. }, blocks) = self.read_front(owner, lane, front, cut)?;
                let (Some((first, _)), Some((last, _))) = (blocks.first(), blocks.last()) else {
                    return Ok(Tried::Passed);
                };
                let (range, totals) = (first.index..last.index + 1, first.accepted_before()..last.accepted_total);
                let (begin, end) = (Dates::of(first), Dates::of(last));
                if floats && !lock(&self.ledger).is_unread(owner, lane, &totals) {
                    lock(&self.ledger).forget_jump(owner.exporter, lane); // it is found again from the last window on
                    return Ok(Tried::Passed);
                }
                if totals.start < total && !floats {
                    // Only a damaged book can make two blocks share a place. Said loudly, counted, and not read for ever.
                    tracing::error!(
                        lane = lane.0,
                        index = first.index,
                        items = last.accepted_total - first.accepted_before(),
                        "spool blocks have a place that is taken; they are passed over"
                    );
                    let mut ledger = lock(&self.ledger);
                    let (from, to) = ((front.index, total), (range.end, totals.end));
                    ledger.pass(owner.exporter, lane, from, to, Fate::Lost(Reason::Corrupt));
                    if let Some(cursor) = ledger.cursor_mut(owner.exporter, lane) {
                        cursor.lose_beside(totals.end.min(total) - totals.start);
                    }
                    ledger.date(owner.exporter, lane, Reason::Corrupt, Dates::hull(begin, end));
                    return Ok(Tried::Passed);
                }
                self.mark(owner, lane, &range);
                let taken = {
                    let mut ledger = lock(&self.ledger);
                    // Asked under the lock that a reader's fall is entered under.
                    let is_ours = self.reader_life.load(SeqCst) == life;
                    let take = || ledger.take_new(owner, lane, floats, range.clone(), totals.clone(), cut);
                    let taken = is_ours.then(take).flatten();
                    if taken.is_some() {
                        ledger.date_hole(owner.exporter, lane, total, begin);
                        ledger.reach(owner.exporter, lane, &totals, end);
                    }
                    taken
                };
                let Some(window) = taken else {
                    self.forget(owner, lane, range);
                    return Ok(Tried::Passed);
                };
                // Written before the first send; unsynced is enough (docs/spool-format.md §1).
                if let Err(error) = self.shelf.append(Vec::new(), &Books::of(self), false) {
                    tracing::debug!(%error, "spool cursor not written; the next commit does");
                }
                self.lease_of(owner, lane, signal, window, blocks, life).map(Tried::Lease)
            }
        }
    }

    fn lease_of(
        &self,
        owner: Owner,
        lane: Lane,
        signal: Signal,
        window: Window,
        blocks: Vec<(Header, bytes::Bytes)>,
        life: u64,
    ) -> Result<Lease, LeaseError> {
        let places: Vec<(u64, u64)> = blocks.iter().map(|(h, _)| (h.index, h.accepted_before())).collect();
        let dates = blocks.iter().map(|(h, _)| Dates::of(h)).collect();
        let came = blocks.iter().map(|(h, _)| Came::from(h)).next();
        let now = self.clock.reading();
        let age = came.map_or(Duration::ZERO, |came| lock(&self.ledger).age(came, &now));
        let settled = window.settled.iter().map(|s| pos_of(&places, s.start)..pos_of(&places, s.end)).collect();
        {
            let _ledger = lock(&self.ledger); // a reader's fall is entered under it
            self.is_present(life)?;
            if let Some(came) = came {
                lock(&self.out).insert((owner.exporter, lane, window.index.end), Out { places, came, dates });
            }
        }
        let blocks = blocks
            .into_iter()
            .map(|(h, raw)| LeasedBlock { index: h.index, items: h.items, accepted: h.accepted, raw })
            .collect();
        Ok(Lease { lane, signal, window: window.index, cut: window.cut, settled, age, blocks })
    }
}

/// What one round of leasing came to.
enum Tried {
    Lease(Lease),
    /// Nothing this round, but what is unread or a window changed: try again.
    Passed,
    Nothing,
}

/// The total `at` as a place: blocks are given as index and total before.
fn pos_of(places: &[(u64, u64)], at: u64) -> Pos {
    let after = places.partition_point(|(_, before)| *before <= at);
    let Some((index, before)) = after.checked_sub(1).and_then(|i| places.get(i)) else { return Pos::default() };
    Pos { index: *index, item: u32::try_from(at - before).unwrap_or(u32::MAX) }
}
