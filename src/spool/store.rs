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

use super::block::{self, Header, frame, unframe};
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
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
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
    /// Blocks of windows that are out, by the end of their indices (the beginning moves when it is evicted): index and
    /// total before each.
    out: Mutex<HashMap<(ExporterNo, Lane, u64), Places>>,
    suspects: Mutex<Suspects>,
    news: watch::Sender<u64>,
    /// Changes with every commit and settlement: there may be something to keep house about.
    work: watch::Sender<u64>,
    clock: Clock,
    dice: Mutex<Dice>,
    uuid: u128,
    /// Grows with each reader that fell: one that was given up and wakes all the same takes nothing any more.
    reader_life: AtomicU64,
    /// Held by whoever keeps house: a keeper that was given up and wakes must not meet its successor.
    keeping: Mutex<()>,
}

/// A settlement that goes down with the data it moves.
#[derive(Debug)]
struct Entered {
    exporter: ExporterNo,
    lane: Lane,
    part: Range<u64>,
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
            reader_life: AtomicU64::new(0),
            keeping: Mutex::default(),
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
        let Ok(_keeping) = self.keeping.try_lock() else { return Ok(false) };
        self.shelf.upkeep(&Books::of(self)).map_err(|e| e.to_string())
    }

    /// Everything said so far is on stable storage, and the next start knows that this one stopped in order.
    ///
    /// # Errors
    /// The disk's, as text.
    pub fn close(&self) -> Result<(), String> {
        let _gate = lock(&self.gate);
        // Also when nothing changed since the last record: cursors are written without a sync.
        if lock(&self.ledger).is_dirty() || self.shelf.usage().written > 0 {
            self.shelf.append(Vec::new(), &Books::of(self), true).map_err(|e| e.to_string())?;
        }
        match &mut lock(&self.suspects).slots {
            Some(slots) => slots.stop_clean().map_err(|e| e.to_string()),
            None => Ok(()),
        }
    }

    /// Numbers blocks, puts them down with what changed and with the settlements that moved them here, and enters the
    /// outcome: on an error the settlements are taken back. Callers hold the gate.
    fn put(&self, blocks: Vec<NewBlock>, entered: &[Entered]) -> Result<(), ShelfError> {
        let numbered = lock(&self.ledger).number(blocks, self.clock.boot_id());
        let put = self.shelf.append(numbered.blocks, &Books { spool: self, entered }, true);
        if put.is_err() {
            self.release(entered);
        }
        put?;
        self.news.send_modify(|n| *n += 1);
        self.work.send_modify(|n| *n += 1);
        Ok(())
    }

    fn release(&self, entered: &[Entered]) {
        let mut ledger = lock(&self.ledger);
        for e in entered {
            if let Some(cursor) = ledger.cursor_mut(e.exporter, e.lane) {
                cursor.release(&e.part);
            }
        }
    }

    fn confirm(&self, entered: &[Entered]) {
        let mut ledger = lock(&self.ledger);
        for e in entered {
            if let Some(cursor) = ledger.cursor_mut(e.exporter, e.lane) {
                cursor.confirm(&e.part);
            }
        }
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
            if self.take_out_suspect(owner, lane, &header, &value)? {
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
        let taken = cursor.taken();
        let mut lost = 0;
        for open in subtract(part, &taken) {
            if let Ok(open) = cursor.settle(&open, Fate::Lost(Reason::Corrupt)) {
                cursor.confirm(&open);
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
            self.mark(owner, lane, &(at..at + 1));
            let found = self.next_block(lane, at);
            self.unmark(owner, lane, &(at..at + 1));
            let Some((header, value)) = found? else {
                // The tip says there is more, and the shelf has nothing: it is gone.
                if blocks.is_empty() {
                    let lost =
                        lock(&self.ledger).pass(owner.exporter, lane, next_index, tip, Fate::Lost(Reason::Corrupt));
                    tracing::error!(lane = lane.0, items = lost, "spool lost items to corruption");
                }
                break;
            };
            if header.accepted_total > lock(&self.ledger).tip(lane).1 {
                break; // its commit is not answered yet
            }
            let one_more = bytes + u64::from(header.raw_len);
            if !blocks.is_empty()
                && (header.accepted_before() != total
                    || one_more > u64::from(cut.max_bytes)
                    || self.is_suspect(owner, lane, header.index))
            {
                break;
            }
            if self.take_out_suspect_new(owner, lane, &header, &value)? {
                (at, total) = (header.index + 1, header.accepted_total);
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

    fn try_lease(&self, owner: Owner, lane: Lane, cut: Cut, life: u64) -> Result<Tried, LeaseError> {
        if self.reader_life.load(SeqCst) != life {
            return Err(LeaseError::Unavailable("this reader was replaced".into()));
        }
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
                let blocks = self.read_new(owner, lane, index, total, cut)?;
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
                let taken = {
                    let mut ledger = lock(&self.ledger);
                    // Asked under the lock that a reader's fall is entered under.
                    let is_ours = self.reader_life.load(SeqCst) == life;
                    is_ours.then(|| ledger.take_new(owner, lane, range.clone(), totals, cut)).flatten()
                };
                let Some(window) = taken else {
                    self.forget(owner, lane, range);
                    return Ok(Tried::Passed);
                };
                // Written before the first send; unsynced is enough (docs/spool-format.md §1).
                if let Err(error) = self.shelf.append(Vec::new(), &Books::of(self), false) {
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
        lock(&self.out).insert((owner.exporter, lane, window.index.end), places);
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
    /// For a block inside a window that is out. `true`: it is set aside, what of it was not settled already.
    ///
    /// # Errors
    /// When the disk did not take it. It stays where it is then, and must not be handed out.
    fn take_out_suspect(&self, owner: Owner, lane: Lane, header: &Header, value: &[u8]) -> Result<bool, LeaseError> {
        if self.evidence(owner, lane, header.index) < EVIDENCE_MAX {
            return Ok(false);
        }
        let part = header.accepted_before()..header.accepted_total;
        self.set_aside(owner, lane, header, value, part)?;
        self.forget(owner, lane, header.index..header.index + 1);
        Ok(true)
    }

    /// The same for a block at the frontier: a window of its own, settled at once.
    fn take_out_suspect_new(
        &self,
        owner: Owner,
        lane: Lane,
        header: &Header,
        value: &[u8],
    ) -> Result<bool, LeaseError> {
        if self.evidence(owner, lane, header.index) < EVIDENCE_MAX {
            return Ok(false);
        }
        let cut = Cut { enough_items: 0, max_items: 0, max_bytes: 0 };
        let range = header.index..header.index + 1;
        let totals = header.accepted_before()..header.accepted_total;
        if lock(&self.ledger).take_new(owner, lane, range.clone(), totals, cut).is_none() {
            return Err(LeaseError::Unavailable("the frontier moved".into()));
        }
        let moved = self.take_out_suspect(owner, lane, header, value);
        if let (Err(_), Some(cursor)) = (&moved, lock(&self.ledger).cursor_mut(owner.exporter, lane)) {
            cursor.give_back(&range);
        }
        moved
    }

    /// Moves what is open of `part` to the quarantine lane: the block goes there as it is.
    fn set_aside(
        &self,
        owner: Owner,
        lane: Lane,
        header: &Header,
        value: &[u8],
        part: Range<u64>,
    ) -> Result<(), LeaseError> {
        let _gate = lock(&self.gate);
        let mut entered = Vec::new();
        let to = {
            let mut ledger = lock(&self.ledger);
            let to = ledger.side_lane(Side::Quarantine, owner.exporter, lane);
            let cursor = ledger.cursor_mut(owner.exporter, lane).ok_or(LeaseError::Retired)?;
            let taken = cursor.taken();
            for open in subtract(part, &taken) {
                // Not out: somebody gave the window back meanwhile, and it will come again.
                if let Ok(part) = cursor.settle(&open, Fate::Quarantined) {
                    entered.push(Entered { exporter: owner.exporter, lane, part });
                }
            }
            to
        };
        let items: u64 = entered.iter().map(|e| e.part.end - e.part.start).sum();
        if items == 0 {
            return Ok(());
        }
        let block = NewBlock {
            lane: to,
            signal: header.signal,
            block_id: header.block_id,
            items: u32::try_from(items).expect("no more than the block's"),
            raw_len: header.raw_len,
            accepted: header.accepted,
            data_ns: header.data_ns,
            framed: value.to_vec(),
        };
        self.put(vec![block], &entered).map_err(|e| LeaseError::Unavailable(e.to_string()))?;
        tracing::error!(
            lane = lane.0,
            index = header.index,
            items,
            "spool block set aside: handling it ended badly every time"
        );
        Ok(())
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

impl SpoolUsage {
    /// Over nine tenths of the budget: something may have to give way soon.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.bytes.0 > self.budget.0 / 10 * 9
    }
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

/// The ledger as the shelf sees it: each question takes its lock for a moment.
struct Books<'a> {
    spool: &'a Spool,
    /// The settlements this append carries out.
    entered: &'a [Entered],
}

impl<'a> Books<'a> {
    fn of(spool: &'a Spool) -> Books<'a> {
        Books { spool, entered: &[] }
    }

    fn writing(&self, ledger: &mut Ledger, writing: bool) {
        for e in self.entered {
            if let Some(cursor) = ledger.cursor_mut(e.exporter, e.lane) {
                cursor.writing(&e.part, writing);
            }
        }
    }
}

impl Bookkeeper for Books<'_> {
    fn committed(&self, headers: &[Header]) {
        // In one step: what moved is at no moment in both places or in none.
        let mut ledger = lock(&self.spool.ledger);
        ledger.committed(headers);
        for e in self.entered {
            if let Some(cursor) = ledger.cursor_mut(e.exporter, e.lane) {
                cursor.confirm(&e.part);
            }
        }
    }
    fn failed(&self, headers: &[Header]) {
        let mut ledger = lock(&self.spool.ledger);
        ledger.failed(headers);
        self.writing(&mut ledger, false);
    }
    fn needed_from(&self, lane: Lane) -> Option<u64> {
        lock(&self.spool.ledger).needed_from(lane)
    }
    fn is_live(&self, lane: Lane, index: u64) -> bool {
        lock(&self.spool.ledger).is_live(lane, index)
    }
    fn evict(&self, lane: Lane, index: u64, total: u64, fate: Fate) -> u64 {
        lock(&self.spool.ledger).evict(lane, index, total, fate)
    }
    fn records(&self, all: bool) -> Vec<Record> {
        let mut ledger = lock(&self.spool.ledger);
        self.writing(&mut ledger, true);
        ledger.take_records(all)
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
        let budget = self.shelf.usage().budget;
        for b in &blocks {
            let (size, limit) = (u64::from(b.raw_len), block::RAW_MAX as u64);
            if size > limit || b.framed.len() as u64 > budget {
                return Err(CommitError::TooLarge { size: Bytes(size), limit: Bytes(limit.min(budget)) });
            }
        }
        let mut gate = lock(&self.gate);
        let blocks: Vec<NewBlock> = blocks.into_iter().filter(|b| !gate.ids.contains(&b.block_id)).collect();
        if blocks.is_empty() {
            return Ok(()); // all of it was committed before: its answer was lost on the way
        }
        let ids: Vec<u128> = blocks.iter().map(|b| b.block_id).collect();
        self.put(blocks, &[])?;
        gate.ids.extend(ids);
        let surplus = gate.ids.len().saturating_sub(IDS_MAX);
        gate.ids.drain(..surplus);
        Ok(())
    }

    fn waiting(&self, owner: Owner, lane: Lane) -> Waiting {
        lock(&self.ledger).waiting(owner, lane)
    }

    fn lease(&self, owner: Owner, lane: Lane, cut: Cut) -> Result<Option<Lease>, LeaseError> {
        let life = self.reader_life.load(SeqCst);
        // Each round that gives no lease has passed over something damaged or set aside; there is an end to that.
        for _ in 0..WINDOW_BLOCKS_MAX {
            match self.try_lease(owner, lane, cut, life)? {
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
        lock(&self.out).remove(&(owner.exporter, lane, window.end));
        self.forget(owner, lane, window);
        self.news.send_modify(|n| *n += 1);
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Result<(), LeaseError> {
        let _gate = lock(&self.gate);
        let mut entered = Vec::new();
        let mut blocks = Vec::new();
        let all = settlements.into_iter().try_for_each(|s| {
            entered.push(self.enter(s, &mut blocks)?);
            Ok(())
        });
        let settled = match all {
            Err(refused) => {
                self.release(&entered);
                Err(refused)
            }
            Ok(()) if blocks.is_empty() => {
                // Without data of its own a settlement needs no disk now: the cursor goes with the next commit.
                self.confirm(&entered);
                if let Err(error) = self.shelf.append(Vec::new(), &Books::of(self), false) {
                    tracing::debug!(%error, "spool cursor not written; the next commit does");
                }
                Ok(())
            }
            Ok(()) => self.put(blocks, &entered).map_err(|e| LeaseError::Unavailable(e.to_string())),
        };
        self.forget_done();
        self.work.send_modify(|n| *n += 1);
        settled
    }

    fn reader_fell(&self) {
        let exporters = {
            let ledger = lock(&self.ledger);
            self.reader_life.fetch_add(1, SeqCst);
            ledger.exporter_numbers()
        };
        for exporter in exporters {
            self.accuse(exporter);
            let out: Vec<(Lane, u64)> =
                lock(&self.out).keys().filter(|(e, _, _)| *e == exporter).map(|(_, l, end)| (*l, *end)).collect();
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
    /// Reserves one settlement's part; what it moves elsewhere is added to `blocks`.
    fn enter(&self, s: Settlement, blocks: &mut Vec<NewBlock>) -> Result<Entered, LeaseError> {
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
        let cursor = ledger.cursor_mut(s.owner.exporter, s.lane).ok_or(LeaseError::Retired)?;
        let reserved = cursor.settle(&part, fate).map_err(|_| not_leased)?;
        let whole = reserved == part;
        if moved.is_some() && !whole {
            // Its beginning was evicted meanwhile and is counted; moving the rest of a request is not worth its cutting.
            cursor.refate(&reserved, Fate::Lost(Reason::Evicted));
        }
        if let Some((side, raw)) = moved.filter(|_| whole) {
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
        Ok(Entered { exporter: s.owner.exporter, lane: s.lane, part: reserved })
    }

    /// Drops the places of windows that are done.
    fn forget_done(&self) {
        let mut ledger = lock(&self.ledger);
        lock(&self.out).retain(|(exporter, lane, end), _| {
            let cursor = ledger.cursor_mut(*exporter, *lane);
            cursor.is_some_and(|c| c.windows.iter().any(|w| w.index.end == *end && w.out && !w.done()))
        });
    }
}
