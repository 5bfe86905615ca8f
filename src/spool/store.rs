//! The store: a ledger above a shelf. One body for disk and memory, so that both keep the same contract.
//!
//! ```text
//!  commit ─┐                       ┌─ append ─▶ ┌───────┐
//!  settle ─┼─▶ gate ─▶ ledger ─────┤            │ shelf │
//!  lease ──┘   (one at a time)     └─ next ───▶ └───────┘
//! ```
//!
//! The *gate* keeps [number blocks, append them, publish them] in one piece. The shelf takes the changed control records
//! under its own lock, so what is on the disk is never older than what was said last. The ledger's lock is held for
//! moments only, never while the disk works.

use super::block::{Header, frame, unframe};
use super::cursor::Fate;
use super::disk::{Disk, DiskSettings, StartError};
use super::ledger::{Ledger, Plan, Record, Side};
use super::shelf::{Bookkeeper, Memory, Shelf, ShelfError, Usage, lock};
use super::slots::{Mark, Slots};
use super::{
    Book, CommitError, Cut, ExporterNo, Lane, Lease, LeaseError, LeasedBlock, NewBlock, Outcome, Owner, Pos, Reason,
    Settlement, Store, Waiting,
};
use crate::base::{Bytes, Clock, Dice};
use crate::otlp::Signal;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Mutex;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

/// Block ids of the latest commits, to know one that is offered again. 4,096 of 16 bytes; the batcher offers again
/// within seconds or not at all.
const IDS_MAX: usize = 4_096;

/// Most blocks of one window, whatever their size: bounds the window's bookkeeping. 4 MiB of requests of one record.
const WINDOW_BLOCKS_MAX: usize = 8_192;

/// Evidence against a block, at which it is set aside: two panics, or four deaths of the process while it was being
/// handled (kills and power cuts happen, so a death alone proves little).
const EVIDENCE_MAX: u8 = 4;
const PANIC_EVIDENCE: u8 = 2;
const DEATH_EVIDENCE: u8 = 1;

/// See the module.
pub struct Spool {
    shelf: Box<dyn Shelf>,
    ledger: Mutex<Ledger>,
    gate: Mutex<Gate>,
    /// Blocks of windows that are out: index and total before each.
    out: Mutex<HashMap<(ExporterNo, Lane, u64), Places>>,
    suspects: Mutex<Suspects>,
    news: watch::Sender<u64>,
    /// Changes with every commit and settlement: there may be something to keep house about.
    work: watch::Sender<u64>,
    clock: Clock,
    dice: Mutex<Dice>,
    uuid: u128,
}

/// Index of each block of a window and the lane's total before it, in order.
type Places = Vec<(u64, u64)>;

#[derive(Debug, Default)]
struct Gate {
    ids: VecDeque<u128>,
}

/// Blocks that are being handled, and the evidence against those whose handling ended badly.
#[derive(Debug, Default)]
struct Suspects {
    slots: Option<Slots>,
    marks: Vec<Mark>,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("shelf", &self.shelf).finish_non_exhaustive()
    }
}

impl Spool {
    /// A spool on disk. Blocks until the newest segment's book is read; old segments are not looked into.
    ///
    /// # Errors
    /// Only when the directory itself cannot be used (promise P4).
    pub fn on_disk(settings: DiskSettings, clock: Clock, mut dice: Dice) -> Result<Spool, StartError> {
        let directory = settings.directory.clone();
        let (disk, recovered) = Disk::open(settings, clock.clone())?;
        let machine = xxh3_64(std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().as_bytes());
        let slots = Slots::begin(&directory.join("slots"), machine, recovered.epoch_floor, || dice.id128())
            .map_err(|source| StartError::Directory { path: directory.clone(), source })?;
        let mut ledger = Ledger::new(slots.now().epoch);
        for (key, record) in &recovered.records {
            if let Err(error) = ledger.restore(key, record) {
                tracing::error!(%error, "spool control record is damaged and passed over");
            }
        }
        for header in &recovered.headers {
            ledger.restore_tip(header);
        }
        ledger.heal();
        let marks = slots.marks().into_iter().map(|m| m.ended_badly(DEATH_EVIDENCE)).collect();
        let uuid = slots.now().uuid;
        let suspects = Suspects { slots: Some(slots), marks };
        Ok(Spool::new(Box::new(disk), ledger, suspects, clock, dice, uuid))
    }

    /// A spool in memory, for exporters without storage: an answer means "in memory".
    #[must_use]
    pub fn in_memory(budget: Bytes, clock: Clock, mut dice: Dice) -> Spool {
        let uuid = dice.id128();
        Spool::new(Box::new(Memory::new(budget)), Ledger::new(1), Suspects::default(), clock, dice, uuid)
    }

    fn new(shelf: Box<dyn Shelf>, ledger: Ledger, suspects: Suspects, clock: Clock, dice: Dice, uuid: u128) -> Spool {
        Spool {
            shelf,
            ledger: Mutex::new(ledger),
            gate: Mutex::default(),
            out: Mutex::default(),
            suspects: Mutex::new(suspects),
            news: watch::Sender::new(0),
            work: watch::Sender::new(0),
            clock,
            dice: Mutex::new(dice),
            uuid,
        }
    }

    /// The spool's own name; the first part of every upload id.
    #[must_use]
    pub fn uuid(&self) -> u128 {
        self.uuid
    }

    /// Bytes and segments in use.
    #[must_use]
    pub fn usage(&self) -> SpoolUsage {
        let Usage { bytes, budget, segments, written, block_bytes } = self.shelf.usage();
        SpoolUsage {
            bytes: Bytes(bytes),
            budget: Bytes(budget),
            segments,
            written: Bytes(written),
            block_bytes: Bytes(block_bytes),
        }
    }

    /// Items that wait, over all lanes and exporters.
    #[must_use]
    pub fn waiting_items(&self) -> u64 {
        lock(&self.ledger).waiting_items()
    }

    /// Changes when there may be something to keep house about.
    #[must_use]
    pub fn work(&self) -> watch::Receiver<u64> {
        self.work.subscribe()
    }

    /// Does one piece of housekeeping; `true` when there is more to do. May block on the disk for as long as a
    /// segment takes to write; call it from one thread.
    ///
    /// # Errors
    /// The disk's, as text; ask again later.
    pub fn upkeep(&self) -> Result<bool, String> {
        self.shelf.upkeep(&Books(self)).map_err(|e| e.to_string())
    }

    /// Everything said so far is on stable storage, and the next start knows that this one stopped in order.
    ///
    /// # Errors
    /// The disk's, as text.
    pub fn close(&self) -> Result<(), String> {
        let _gate = lock(&self.gate);
        if lock(&self.ledger).is_dirty() {
            self.append(Vec::new(), true).map_err(|e| e.to_string())?;
        }
        match &mut lock(&self.suspects).slots {
            Some(slots) => slots.stop_clean().map_err(|e| e.to_string()),
            None => Ok(()),
        }
    }

    /// Callers hold the gate.
    fn append(&self, blocks: Vec<(Header, Vec<u8>)>, sync: bool) -> Result<(), ShelfError> {
        self.shelf.append(blocks, &Books(self), sync)
    }

    /// Numbers blocks, puts them down with what changed, and enters the outcome. Callers hold the gate.
    fn put(&self, blocks: Vec<NewBlock>) -> Result<(), ShelfError> {
        let numbered = lock(&self.ledger).number(blocks, self.clock.boot_id());
        self.append(numbered.blocks, true)?;
        self.news.send_modify(|n| *n += 1);
        self.work.send_modify(|n| *n += 1);
        Ok(())
    }

    // ---- leasing ---------------------------------------------------------------------------------------------

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
        while let Some((header, value)) = self.next_block(lane, at)?.filter(|(h, _)| h.index < index.end) {
            at = header.index + 1;
            if self.take_out_suspect(owner, lane, &header, &value) {
                continue;
            }
            match unframe(&header, &value) {
                Ok(raw) => {
                    self.lose(owner, lane, total..header.accepted_before());
                    total = header.accepted_total;
                    blocks.push((header, raw));
                }
                Err(error) => {
                    tracing::error!(lane = lane.0, index = header.index, %error, "spool block's payload is damaged")
                }
            }
        }
        self.lose(owner, lane, total..totals.end);
        Ok(blocks)
    }

    /// Settles what of `part` is not settled yet as lost to corruption.
    fn lose(&self, owner: Owner, lane: Lane, part: Range<u64>) {
        if part.is_empty() {
            return;
        }
        let mut ledger = lock(&self.ledger);
        let Some(cursor) = ledger.cursor_mut(owner.exporter, lane) else { return };
        let settled: Vec<Range<u64>> = cursor.windows.iter().flat_map(|w| w.settled.iter().cloned()).collect();
        let mut lost = 0;
        for open in subtract(part, &settled) {
            if cursor.settle(&open, Fate::Lost(Reason::Corrupt)).is_ok() {
                cursor.confirm();
                lost += open.end - open.start;
            }
        }
        if lost > 0 {
            tracing::error!(lane = lane.0, items = lost, "spool lost items to corruption");
        }
    }

    /// The next block of the lane that is not burnt.
    fn next_block(&self, lane: Lane, from: u64) -> Result<Option<(Header, bytes::Bytes)>, LeaseError> {
        let mut from = from;
        loop {
            let found = self.shelf.next(lane, from).map_err(|e| LeaseError::Unavailable(e.to_string()))?;
            let Some((header, value)) = found else { return Ok(None) };
            if !lock(&self.ledger).is_burnt(&header) {
                return Ok(Some((header, value)));
            }
            from = header.index + 1;
        }
    }

    /// Reads new blocks from the frontier, as many as one window takes; passes over what is damaged.
    fn read_new(
        &self,
        owner: Owner,
        lane: Lane,
        index: u64,
        total: u64,
        cut: Cut,
    ) -> Result<Vec<(Header, bytes::Bytes)>, LeaseError> {
        let mut blocks: Vec<(Header, bytes::Bytes)> = Vec::new();
        let (mut at, mut total) = (index, total);
        let (mut items, mut bytes) = (0_u64, 0_u64);
        let (next_index, tip) = lock(&self.ledger).tip(lane);
        while blocks.len() < WINDOW_BLOCKS_MAX && total < tip {
            let Some((header, value)) = self.next_block(lane, at)? else {
                // The tip says there is more, and the shelf has nothing: it is gone.
                if blocks.is_empty() {
                    let lost =
                        lock(&self.ledger).pass(owner.exporter, lane, next_index, tip, Fate::Lost(Reason::Corrupt));
                    tracing::error!(lane = lane.0, items = lost, "spool lost items to corruption");
                }
                break;
            };
            let one_more = bytes + u64::from(header.raw_len);
            if !blocks.is_empty()
                && (header.accepted_before() != total
                    || one_more > u64::from(cut.max_bytes)
                    || self.is_suspect(owner, lane, header.index))
            {
                break;
            }
            if self.take_out_suspect_new(owner, lane, &header, &value) {
                (at, total) = (header.index + 1, header.accepted_total);
                continue;
            }
            let raw = match unframe(&header, &value) {
                Ok(raw) => raw,
                Err(_) if !blocks.is_empty() => break, // it begins the next window, and is passed there
                Err(error) => {
                    tracing::error!(lane = lane.0, index = header.index, items = header.items, %error, "spool block's payload is damaged");
                    lock(&self.ledger).pass(
                        owner.exporter,
                        lane,
                        header.index + 1,
                        header.accepted_total,
                        Fate::Lost(Reason::Corrupt),
                    );
                    (at, total) = (header.index + 1, header.accepted_total);
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

    fn try_lease(&self, owner: Owner, lane: Lane, cut: Cut) -> Result<Tried, LeaseError> {
        let plan = lock(&self.ledger).plan(owner, lane)?;
        let Some(signal) = lock(&self.ledger).lane_signal(lane) else { return Ok(Tried::Nothing) };
        match plan {
            Plan::Nothing => Ok(Tried::Nothing),
            Plan::Again(window) => {
                self.mark(owner, lane, &window.index);
                let blocks = self.read_again(owner, lane, &window.index, &window.totals);
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
                    Some(now) if !now.done() => Ok(Tried::Lease(self.lease_of(owner, lane, signal, now, blocks))),
                    _ => {
                        self.forget(owner, lane, window.index);
                        Ok(Tried::Passed)
                    }
                }
            }
            Plan::From { index, total } => {
                let reading = index..index.saturating_add(WINDOW_BLOCKS_MAX as u64);
                self.mark(owner, lane, &reading);
                let blocks = self.read_new(owner, lane, index, total, cut);
                self.unmark(owner, lane, &reading);
                let blocks = blocks?;
                let (Some((first, _)), Some((last, _))) = (blocks.first(), blocks.last()) else {
                    return Ok(Tried::Passed);
                };
                let (range, totals) = (first.index..last.index + 1, first.accepted_before()..last.accepted_total);
                if totals.start < total {
                    // Only a damaged book can make two blocks share a place. Said loudly, and not read for ever.
                    tracing::error!(
                        lane = lane.0,
                        index = first.index,
                        items = last.accepted_total - first.accepted_before(),
                        "spool blocks have a place that is taken; they are passed over"
                    );
                    lock(&self.ledger).pass(owner.exporter, lane, range.end, total, Fate::Lost(Reason::Corrupt));
                    return Ok(Tried::Passed);
                }
                self.mark(owner, lane, &range);
                let Some(window) = lock(&self.ledger).take_new(owner, lane, range.clone(), totals, cut) else {
                    self.forget(owner, lane, range);
                    return Ok(Tried::Passed);
                };
                // Written before the first send; unsynced is enough (docs/spool-format.md §1).
                if let Err(error) = self.append(Vec::new(), false) {
                    tracing::debug!(%error, "spool cursor not written; the next commit does");
                }
                Ok(Tried::Lease(self.lease_of(owner, lane, signal, window, blocks)))
            }
        }
    }

    fn lease_of(
        &self,
        owner: Owner,
        lane: Lane,
        signal: Signal,
        window: super::cursor::Window,
        blocks: Vec<(Header, bytes::Bytes)>,
    ) -> Lease {
        let places: Vec<(u64, u64)> = blocks.iter().map(|(h, _)| (h.index, h.accepted_before())).collect();
        let settled = window.settled.iter().map(|s| pos_of(&places, s.start)..pos_of(&places, s.end)).collect();
        lock(&self.out).insert((owner.exporter, lane, window.index.start), places);
        let blocks = blocks
            .into_iter()
            .map(|(h, raw)| LeasedBlock { index: h.index, items: h.items, accepted: h.accepted, raw })
            .collect();
        Lease { lane, signal, window: window.index, cut: window.cut, settled, blocks }
    }

    // ---- suspects: promise P8, a block that makes us fall does so at most twice ---------------------------------

    fn evidence(&self, owner: Owner, lane: Lane, index: u64) -> u8 {
        let suspects = lock(&self.suspects);
        let about = |m: &&Mark| m.exporter == owner.exporter.0 && m.lane == lane.0 && (m.from..m.to).contains(&index);
        suspects.marks.iter().filter(about).map(|m| m.evidence).max().unwrap_or(0)
    }

    fn is_suspect(&self, owner: Owner, lane: Lane, index: u64) -> bool {
        self.evidence(owner, lane, index) > 0
    }

    /// Sets a block aside whose evidence is complete: it moves to the quarantine lane, in one commit with the cursor.
    /// For a block inside a window.
    fn take_out_suspect(&self, owner: Owner, lane: Lane, header: &Header, value: &[u8]) -> bool {
        if self.evidence(owner, lane, header.index) < EVIDENCE_MAX {
            return false;
        }
        let part = header.accepted_before()..header.accepted_total;
        let open: Vec<Range<u64>> = {
            let mut ledger = lock(&self.ledger);
            let Some(cursor) = ledger.cursor_mut(owner.exporter, lane) else { return false };
            let settled: Vec<Range<u64>> = cursor.windows.iter().flat_map(|w| w.settled.iter().cloned()).collect();
            subtract(part, &settled)
        };
        let items: u64 = open.iter().map(|r| r.end - r.start).sum();
        let moved = self.set_aside(
            owner,
            lane,
            header,
            value,
            u32::try_from(items).unwrap_or(u32::MAX),
            &open,
            Side::Quarantine,
            Fate::Quarantined,
        );
        self.forget(owner, lane, header.index..header.index + 1);
        moved
    }

    /// The same for a block at the frontier: a window of its own, settled at once.
    fn take_out_suspect_new(&self, owner: Owner, lane: Lane, header: &Header, value: &[u8]) -> bool {
        if self.evidence(owner, lane, header.index) < EVIDENCE_MAX {
            return false;
        }
        let cut = Cut { enough_items: 0, max_items: 0, max_bytes: 0 };
        let range = header.index..header.index + 1;
        let taken = lock(&self.ledger).take_new(
            owner,
            lane,
            range.clone(),
            header.accepted_before()..header.accepted_total,
            cut,
        );
        let moved = taken.is_some() && self.take_out_suspect(owner, lane, header, value);
        if let (false, Some(cursor)) = (moved, lock(&self.ledger).cursor_mut(owner.exporter, lane)) {
            cursor.give_back(&range);
        }
        moved
    }

    #[allow(clippy::too_many_arguments)] // one private step of two callers
    fn set_aside(
        &self,
        owner: Owner,
        lane: Lane,
        header: &Header,
        value: &[u8],
        items: u32,
        open: &[Range<u64>],
        side: Side,
        fate: Fate,
    ) -> bool {
        let _gate = lock(&self.gate);
        let block = {
            let mut ledger = lock(&self.ledger);
            let to = ledger.side_lane(side, owner.exporter, lane);
            let Some(cursor) = ledger.cursor_mut(owner.exporter, lane) else { return false };
            for part in open {
                if cursor.settle(part, fate).is_err() {
                    return false;
                }
            }
            NewBlock {
                lane: to,
                signal: header.signal,
                block_id: header.block_id,
                items,
                raw_len: header.raw_len,
                accepted: header.accepted,
                data_ns: header.data_ns,
                framed: value.to_vec(),
            }
        };
        let done = self.put(vec![block]);
        if let Some(cursor) = lock(&self.ledger).cursor_mut(owner.exporter, lane) {
            for part in open {
                if done.is_ok() { cursor.confirm() } else { cursor.unsettle(part, fate) }
            }
        }
        match done {
            Ok(()) => tracing::error!(
                lane = lane.0,
                index = header.index,
                items,
                "spool block set aside: handling it ended badly every time"
            ),
            Err(error) => tracing::warn!(%error, "spool block could not be set aside"),
        }
        true
    }

    /// Notes that the window is being handled from now on, on the disk too: a death is noticed by the next life.
    fn mark(&self, owner: Owner, lane: Lane, window: &Range<u64>) {
        let mut suspects = lock(&self.suspects);
        let mark = Mark {
            exporter: owner.exporter.0,
            lane: lane.0,
            from: window.start,
            to: window.end,
            evidence: 0,
            active: true,
        };
        let known = suspects.marks.iter().filter(|m| m.overlaps(&mark)).map(|m| m.evidence).max().unwrap_or(0);
        suspects.marks.retain(|m| !m.is_of(&mark));
        suspects.marks.push(Mark { evidence: known, ..mark });
        suspects.save();
    }

    /// Takes exactly this mark back: what it covered is marked more exactly now. A suspicion stays one.
    fn unmark(&self, owner: Owner, lane: Lane, range: &Range<u64>) {
        let this = Mark {
            exporter: owner.exporter.0,
            lane: lane.0,
            from: range.start,
            to: range.end,
            evidence: 0,
            active: false,
        };
        let mut suspects = lock(&self.suspects);
        suspects.marks.retain(|m| !m.is_of(&this) || m.evidence > 0);
        suspects.marks.iter_mut().filter(|m| m.is_of(&this)).for_each(|m| m.active = false);
    }

    /// The window was handled without accident. Other blocks of a larger suspicion stay under it.
    fn forget(&self, owner: Owner, lane: Lane, window: Range<u64>) {
        let this = Mark {
            exporter: owner.exporter.0,
            lane: lane.0,
            from: window.start,
            to: window.end,
            evidence: 0,
            active: false,
        };
        let mut suspects = lock(&self.suspects);
        let (over, mut rest): (Vec<Mark>, Vec<Mark>) = suspects.marks.iter().partition(|m| m.overlaps(&this));
        if over.is_empty() {
            return;
        }
        for m in over {
            let around = [m.from..this.from.min(m.to), this.to.max(m.from)..m.to];
            rest.extend(around.into_iter().filter(|r| !r.is_empty() && m.evidence > 0).map(|r| Mark {
                from: r.start,
                to: r.end,
                ..m
            }));
        }
        suspects.marks = rest;
        suspects.save();
    }

    /// The owner fell: whatever it was handling is suspect.
    fn accuse(&self, exporter: ExporterNo) {
        let mut suspects = lock(&self.suspects);
        let mut any = false;
        for m in suspects.marks.iter_mut().filter(|m| m.exporter == exporter.0 && m.active) {
            *m = m.ended_badly(PANIC_EVIDENCE);
            any = true;
        }
        if any {
            suspects.save();
        }
    }
}

impl Mark {
    fn is_of(&self, other: &Mark) -> bool {
        (self.exporter, self.lane, self.from, self.to) == (other.exporter, other.lane, other.from, other.to)
    }

    fn overlaps(&self, other: &Mark) -> bool {
        (self.exporter, self.lane) == (other.exporter, other.lane) && self.from < other.to && other.from < self.to
    }

    /// Whoever handled these fell over it, if it was being done.
    fn ended_badly(self, evidence: u8) -> Mark {
        Mark { evidence: self.evidence.saturating_add(if self.active { evidence } else { 0 }), active: false, ..self }
    }
}

impl Suspects {
    fn save(&self) {
        if let Some(slots) = &self.slots
            && let Err(error) = slots.set_marks(&self.marks)
        {
            tracing::debug!(%error, "spool marks not written");
        }
    }
}

/// What one round of leasing came to.
enum Tried {
    Lease(Lease),
    /// Nothing this round, but the frontier or a window moved: try again.
    Passed,
    Nothing,
}

/// What is in use, for metrics and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpoolUsage {
    /// Allocated on the medium.
    pub bytes: Bytes,
    /// Most it may be.
    pub budget: Bytes,
    /// Segments, the spare one included.
    pub segments: u64,
    /// Given to write(2) since the start: blocks and control records.
    pub written: Bytes,
    /// Of these, blocks.
    pub block_bytes: Bytes,
}

/// The total `at` as a place: blocks are given as index and total before.
fn pos_of(places: &[(u64, u64)], at: u64) -> Pos {
    let after = places.partition_point(|(_, before)| *before <= at);
    let Some((index, before)) = after.checked_sub(1).and_then(|i| places.get(i)) else { return Pos::default() };
    Pos { index: *index, item: u32::try_from(at - before).unwrap_or(u32::MAX) }
}

/// The place as a total; `None` for a block that is not out.
fn total_of(places: &[(u64, u64)], at: Pos) -> Option<u64> {
    let i = places.binary_search_by_key(&at.index, |(index, _)| *index).ok()?;
    Some(places[i].1 + u64::from(at.item))
}

/// What of `part` lies in none of `ranges`, which are sorted.
fn subtract(part: Range<u64>, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut open = Vec::new();
    let mut at = part.start;
    for r in ranges.iter().filter(|r| r.start < part.end && part.start < r.end) {
        if at < r.start {
            open.push(at..r.start);
        }
        at = at.max(r.end);
    }
    if at < part.end {
        open.push(at..part.end);
    }
    open
}

/// The ledger as upkeep sees it: each question takes its lock for a moment.
struct Books<'a>(&'a Spool);

impl Bookkeeper for Books<'_> {
    fn committed(&self, headers: &[Header]) {
        lock(&self.0.ledger).committed(headers);
    }
    fn failed(&self, headers: &[Header]) {
        lock(&self.0.ledger).failed(headers);
    }
    fn needed_from(&self, lane: Lane) -> Option<u64> {
        lock(&self.0.ledger).needed_from(lane)
    }
    fn is_live(&self, lane: Lane, index: u64) -> bool {
        lock(&self.0.ledger).is_live(lane, index)
    }
    fn evict(&self, lane: Lane, index: u64, total: u64, fate: Fate) -> u64 {
        lock(&self.0.ledger).evict(lane, index, total, fate)
    }
    fn records(&self, all: bool) -> Vec<Record> {
        lock(&self.0.ledger).take_records(all)
    }
}

impl From<ShelfError> for CommitError {
    fn from(e: ShelfError) -> CommitError {
        match e {
            ShelfError::Full { used, budget } => CommitError::Full { used, budget },
            ShelfError::Unavailable(why) => CommitError::Unavailable(why),
        }
    }
}

impl Store for Spool {
    fn lane(&self, name: &str, signal: Signal) -> Lane {
        lock(&self.ledger).lane(name, signal)
    }

    fn own(&self, exporter: &str, lanes: &[Lane]) -> Owner {
        let owner = lock(&self.ledger).own(exporter, lanes);
        lock(&self.out).retain(|(exporter, _, _), _| *exporter != owner.exporter);
        self.accuse(owner.exporter);
        owner
    }

    fn park_lane(&self, owner: Owner, lane: Lane) -> Lane {
        lock(&self.ledger).side_lane(Side::Park, owner.exporter, lane)
    }

    fn commit(&self, blocks: Vec<NewBlock>) -> Result<(), CommitError> {
        let mut gate = lock(&self.gate);
        let blocks: Vec<NewBlock> = blocks.into_iter().filter(|b| !gate.ids.contains(&b.block_id)).collect();
        if blocks.is_empty() {
            return Ok(()); // all of it was committed before: its answer was lost on the way
        }
        let ids: Vec<u128> = blocks.iter().map(|b| b.block_id).collect();
        self.put(blocks)?;
        gate.ids.extend(ids);
        let surplus = gate.ids.len().saturating_sub(IDS_MAX);
        gate.ids.drain(..surplus);
        Ok(())
    }

    fn waiting(&self, owner: Owner, lane: Lane) -> Waiting {
        lock(&self.ledger).waiting(owner, lane)
    }

    fn lease(&self, owner: Owner, lane: Lane, cut: Cut) -> Result<Option<Lease>, LeaseError> {
        // Each round that gives no lease has passed over something damaged or set aside; there is an end to that.
        for _ in 0..WINDOW_BLOCKS_MAX {
            match self.try_lease(owner, lane, cut)? {
                Tried::Lease(lease) => return Ok(Some(lease)),
                Tried::Nothing => return Ok(None),
                Tried::Passed => {}
            }
        }
        Ok(None)
    }

    fn handled(&self, owner: Owner, lane: Lane, window: Range<u64>) {
        self.forget(owner, lane, window);
    }

    fn give_back(&self, owner: Owner, lane: Lane, window: Range<u64>) {
        let mut ledger = lock(&self.ledger);
        if !ledger.is_current(owner) {
            return;
        }
        if let Some(cursor) = ledger.cursor_mut(owner.exporter, lane) {
            cursor.give_back(&window);
        }
        drop(ledger);
        lock(&self.out).remove(&(owner.exporter, lane, window.start));
        self.forget(owner, lane, window);
        self.news.send_modify(|n| *n += 1);
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Result<(), LeaseError> {
        let _gate = lock(&self.gate);
        let mut entered: Vec<(Owner, Lane, Range<u64>, Fate)> = Vec::new();
        let mut blocks = Vec::new();
        let mut refused = None;
        for s in settlements {
            match self.enter(s, &mut blocks) {
                Ok(done) => entered.push(done),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        // Without blocks of its own a settlement needs no disk now: the cursor goes with the next commit.
        let moves = !blocks.is_empty();
        let put = match (&refused, moves) {
            (Some(_), _) => Ok(()),
            (None, true) => self.put(blocks),
            (None, false) => self.append(Vec::new(), false),
        };
        let stands = refused.is_none() && (put.is_ok() || !moves);
        let mut ledger = lock(&self.ledger);
        for (owner, lane, part, fate) in entered {
            if let Some(cursor) = ledger.cursor_mut(owner.exporter, lane) {
                if stands { cursor.confirm() } else { cursor.unsettle(&part, fate) }
            }
        }
        drop(ledger);
        self.forget_done();
        self.work.send_modify(|n| *n += 1);
        match (put, refused) {
            (_, Some(refused)) => Err(refused),
            (Err(error), None) if !stands => Err(LeaseError::Unavailable(error.to_string())),
            _ => Ok(()),
        }
    }

    fn reader_fell(&self) {
        let exporters = lock(&self.ledger).exporter_numbers();
        for exporter in exporters {
            self.accuse(exporter);
            let out: Vec<(Lane, u64)> =
                lock(&self.out).keys().filter(|(e, _, _)| *e == exporter).map(|(_, l, from)| (*l, *from)).collect();
            lock(&self.ledger).give_back_unknown(exporter, &out);
        }
    }

    fn books(&self) -> Vec<Book> {
        lock(&self.ledger).books()
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

impl Spool {
    /// Enters one settlement provisionally; what it moves elsewhere is added to `blocks`.
    fn enter(&self, s: Settlement, blocks: &mut Vec<NewBlock>) -> Result<(Owner, Lane, Range<u64>, Fate), LeaseError> {
        let not_leased = LeaseError::NotLeased(s.lane, s.range.start, s.range.end);
        let part = {
            let out = lock(&self.out);
            let place = |at: Pos| {
                out.iter()
                    .filter(|((e, l, _), _)| *e == s.owner.exporter && *l == s.lane)
                    .find_map(|(_, places)| total_of(places, at))
            };
            match place(s.range.start) {
                Some(start) => start..start + u64::from(s.items),
                None => return Err(not_leased),
            }
        };
        let mut ledger = lock(&self.ledger);
        if !ledger.is_current(s.owner) {
            return Err(LeaseError::Retired);
        }
        let signal = ledger.lane_signal(s.lane).unwrap_or(Signal::Logs);
        let (fate, moved) = match s.outcome {
            Outcome::Delivered { rejected } => (Fate::Delivered { rejected: rejected.into() }, None),
            Outcome::Lost(reason) => (Fate::Lost(reason), None),
            Outcome::Parked { raw } => (Fate::Parked, Some((Side::Park, raw))),
            Outcome::DeadLetter { raw, answer } => {
                tracing::warn!(lane = ledger.lane_name(s.lane), items = s.items, %answer, "items refused by the far end are kept as dead letters");
                (Fate::DeadLetter, Some((Side::Dead, raw)))
            }
        };
        ledger
            .cursor_mut(s.owner.exporter, s.lane)
            .ok_or(LeaseError::Retired)?
            .settle(&part, fate)
            .map_err(|_| not_leased)?;
        if let Some((side, raw)) = moved {
            let lane = ledger.side_lane(side, s.owner.exporter, s.lane);
            drop(ledger); // compression takes a while
            blocks.push(NewBlock {
                lane,
                signal,
                block_id: lock(&self.dice).id128(),
                items: s.items,
                raw_len: u32::try_from(raw.len()).unwrap_or(u32::MAX),
                accepted: self.clock.now(),
                data_ns: (0, 0),
                framed: frame(&raw),
            });
        }
        Ok((s.owner, s.lane, part, fate))
    }

    /// Drops the places of windows that are done.
    fn forget_done(&self) {
        let mut ledger = lock(&self.ledger);
        lock(&self.out).retain(|(exporter, lane, from), _| {
            let cursor = ledger.cursor_mut(*exporter, *lane);
            cursor.is_some_and(|c| c.windows.iter().any(|w| w.index.start == *from && w.out && !w.done()))
        });
    }
}
