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
//!
//! | file | what |
//! |---|---|
//! | `store/ages.rs` | how long data has waited |
//! | `store/leasing.rs` | handing out windows |
//! | `store/suspects.rs` | evidence against blocks, and what becomes of those with too much of it |
//! | `store/caps.rs` | how much is held for a person |
//! | `store/books.rs` | the ledger as the shelf sees it |
//! | `store/mending.rs` | what a person decides about held data |

mod ages;
mod books;
mod caps;
mod leasing;
mod mending;
mod suspects;

use self::books::Books;
pub use self::caps::Caps;
use self::caps::Weights;
pub(crate) use self::mending::{Mended, What, Which, meant};
use self::suspects::{DEATH_EVIDENCE, Suspects};
use super::block::{self, frame};
use super::cursor::{Before, Fate};
use super::disk::{Disk, DiskSettings, Limits, StartError, clear};
use super::gaps::{Dates, Loss};
use super::ledger::{Came, Ledger, Side, subtract};
use super::shelf::{Memory, Shelf, ShelfError, Usage, lock, try_lock};
use super::slots::Slots;
use super::{
    Book, CommitError, Cut, ExporterNo, Lane, Lease, LeaseError, NewBlock, Outcome, Owner, Pick, Pos, Reason,
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

/// See the module.
pub struct Spool {
    shelf: Box<dyn Shelf>,
    ledger: Mutex<Ledger>,
    gate: Mutex<Gate>,
    /// Blocks of windows that are out, by the end of their indices (the beginning moves when it is evicted).
    out: Mutex<HashMap<(ExporterNo, Lane, u64), Out>>,
    suspects: Mutex<Suspects>,
    news: watch::Sender<u64>,
    /// Changes with every commit and settlement: there may be something to keep house about.
    work: watch::Sender<u64>,
    clock: Clock,
    dice: Mutex<Dice>,
    uuid: u128,
    /// Grows with each reader that fell: one that was given up and wakes all the same takes nothing any more.
    reader_life: AtomicU64,
    /// Why the last commit was not kept, until one is or would be.
    trouble: Mutex<Option<String>>,
    caps: Mutex<Caps>,
    weights: Mutex<Weights>,
    /// [`Waiting::asked`].
    asked: AtomicU64,
    /// Held by whoever keeps house: a keeper that was given up and wakes must not meet its successor.
    keeping: Mutex<()>,
}

/// A settlement that goes down with the data it moves.
#[derive(Debug)]
struct Entered {
    exporter: ExporterNo,
    lane: Lane,
    part: Range<u64>,
    /// When its items came from.
    dates: Option<Dates>,
    /// It moves data, and some of its items are lost beside that.
    also_loses: bool,
}

impl Entered {
    /// Enters the outcome: it is final, or it is taken back.
    fn end(&self, ledger: &mut Ledger, stands: bool) {
        let Some(cursor) = ledger.cursor_mut(self.exporter, self.lane) else { return };
        if stands {
            cursor.confirm(&self.part)
        } else {
            cursor.release(&self.part)
        }
        for reason in Reason::ALL {
            ledger.date(self.exporter, self.lane, reason, self.dates);
        }
    }
}

/// A window that is out.
#[derive(Debug)]
struct Out {
    /// Index of each block and the lane's total before it, in order.
    places: Vec<(u64, u64)>,
    /// When its first block came in.
    came: Came,
    /// When the items of each block came from.
    dates: Vec<Option<Dates>>,
}

impl Out {
    /// When the items of a range came from.
    fn dates(&self, range: &Range<Pos>) -> Option<Dates> {
        let is_in = |index: u64| range.start.index <= index && (index, 0) < (range.end.index, range.end.item);
        let blocks = self.places.iter().zip(&self.dates).filter(|((index, _), _)| is_in(*index));
        blocks.map(|(_, dates)| *dates).fold(None, Dates::hull)
    }
}

#[derive(Debug, Default)]
struct Gate {
    ids: VecDeque<u128>,
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
        clear(&directory.join("slots"));
        let slots = Slots::begin(&directory.join("slots"), machine, recovered.epoch_floor, || dice.id128())
            .map_err(|source| StartError::Directory { path: directory.clone(), source })?;
        let mut ledger = Ledger::new(slots.now().epoch);
        for problem in ledger.restore_all(&recovered.read) {
            tracing::error!(%problem, "spool control record is damaged and passed over");
        }
        ledger.observe(&clock.reading());
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

    /// A spool above a shelf that a test has made.
    #[cfg(test)]
    pub(super) fn over(shelf: Box<dyn Shelf>, clock: Clock) -> Spool {
        Spool::new(shelf, Ledger::new(1), Suspects::default(), clock, Dice::seeded(7), 7)
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
            trouble: Mutex::default(),
            caps: Mutex::default(),
            weights: Mutex::default(),
            asked: AtomicU64::new(0),
            keeping: Mutex::default(),
        }
    }

    /// The spool's own name; the first part of every upload id.
    #[must_use]
    pub fn uuid(&self) -> u128 {
        self.uuid
    }

    /// Everything committed from now on to these lanes waits for this exporter too. Whoever works for it goes on.
    pub fn admit(&self, exporter: &str, lanes: &[Lane]) {
        lock(&self.ledger).admit(exporter, lanes);
    }

    /// What comes in from now on waits only for those of whom `reads` says (exporter, lane) that they read it; what waits for
    /// the others stays, and they go on with it when they come back. Housekeeping is told.
    pub fn part_ways(&self, reads: impl Fn(&str, &str) -> bool) {
        lock(&self.ledger).leave_all(reads);
        self.work.send_modify(|n| *n += 1);
    }

    /// Lanes whose names begin so, and whether nothing of theirs waits or is held for anybody.
    #[must_use]
    pub fn branches(&self, prefix: &str) -> Vec<(String, bool)> {
        lock(&self.ledger).branches(prefix)
    }

    /// The lane of this name. When there is none, one of the spent lanes that `may_go` says nobody uses becomes it, so that
    /// names that come and go do not make lanes without end; the counts begin anew then. One that lost something keeps its
    /// name, for that is said nowhere else; so there may be more lanes than are in use.
    pub fn branch(&self, name: &str, signal: Signal, prefix: &str, may_go: impl Fn(&str) -> bool) -> Lane {
        let mut ledger = lock(&self.ledger);
        let spare = if ledger.has_lane(name) { None } else { ledger.spare(prefix, may_go) };
        if let Some(spare) = spare {
            ledger.hand_on(&spare, name);
        }
        ledger.lane(name, signal)
    }

    /// From now on by these limits. What is too much for them gives way at the next housekeeping, which begins now.
    pub fn limit(&self, limits: Limits) {
        self.shelf.limit(limits);
        self.work.send_modify(|n| *n += 1);
    }

    /// Items of a lane that this spool, in memory, did not take, while others of the pipeline did: to its exporters they are lost,
    /// as if evicted at once.
    pub fn missed(&self, lane: Lane, items: u64) {
        lock(&self.ledger).missed(lane, items, self.clock.now().wall_ns);
    }

    /// Bytes and segments in use.
    #[must_use]
    pub fn usage(&self) -> SpoolUsage {
        let Usage { bytes, budget, segments, written, blocks, block_bytes } = self.shelf.usage();
        SpoolUsage {
            bytes: Bytes(bytes),
            budget: Bytes(budget),
            segments,
            written: Bytes(written),
            blocks,
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
        // One that fell while it held this left nothing broken in it.
        let Some(_keeping) = try_lock(&self.keeping) else { return Ok(false) };
        // One that fails keeps none of the others from being done.
        let (noted, kept, capped) = (self.note_time(), self.shelf.upkeep(&Books::of(self)), self.keep_to_caps());
        noted.map_err(|e| e.to_string())?;
        Ok(kept.map_err(|e| e.to_string())? | capped.map_err(|e| e.to_string())?)
    }

    /// Why nothing is kept now; `None`: all is well, as far as the last commit tells.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// After a commit that failed: would the next one be kept? Clients come back when they like, and may be few. From
    /// the thread that keeps house.
    pub fn try_again(&self) {
        if self.trouble().is_some() {
            let taking = self.shelf.is_taking(&Books::of(self)).map_err(|e| e.to_string());
            *lock(&self.trouble) = taking.err();
        }
    }

    /// Notes what the clocks say, on the disk too when no commit has done it for long and something waits: the time that the
    /// machine was on counts after a reboot.
    fn note_time(&self) -> Result<(), ShelfError> {
        let overdue = {
            let mut ledger = lock(&self.ledger);
            ledger.observe(&self.clock.reading());
            ledger.chronicle().is_overdue() && ledger.waiting_items() > 0
        };
        if overdue { self.shelf.append(Vec::new(), &Books::of(self), false) } else { Ok(()) }
    }

    /// The lane where this exporter sets things aside.
    #[cfg(test)]
    pub(super) fn side_lane(&self, side: Side, owner: Owner, lane: Lane) -> Lane {
        lock(&self.ledger).side_lane(side, owner.exporter, lane)
    }

    /// The place of an exporter in a lane.
    #[cfg(test)]
    pub(super) fn cursor(&self, owner: Owner, lane: Lane) -> super::cursor::Cursor {
        lock(&self.ledger).cursor_mut(owner.exporter, lane).expect("it reads the lane").clone()
    }

    /// Writes nothing for so long, as a disk that stalls: a fault on command. Blocks the caller, and whoever writes.
    #[cfg(any(test, feature = "testing"))]
    pub fn stand_still(&self, time: std::time::Duration) {
        let _gate = lock(&self.gate);
        std::thread::sleep(time);
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
            self.work.send_modify(|n| *n += 1); // if it was for space: there may be some to make
        }
        put?;
        self.news.send_modify(|n| *n += 1);
        self.work.send_modify(|n| *n += 1);
        Ok(())
    }

    fn write_books(&self) {
        if let Err(error) = self.shelf.append(Vec::new(), &Books::of(self), false) {
            tracing::debug!(%error, "spool cursor not written; the next commit does");
        }
    }

    fn release(&self, entered: &[Entered]) {
        let mut ledger = lock(&self.ledger);
        entered.iter().for_each(|e| e.end(&mut ledger, false));
    }

    fn confirm(&self, entered: &[Entered]) {
        let mut ledger = lock(&self.ledger);
        entered.iter().for_each(|e| e.end(&mut ledger, true));
    }
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
    /// Blocks of these.
    pub blocks: u64,
    /// Their bytes.
    pub block_bytes: Bytes,
}

impl SpoolUsage {
    /// Less than a tenth of the budget is left, or than 32 MiB, which come in within half a second when all is fast:
    /// something may have to give way soon.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.bytes.0 + (self.budget.0 / 10).max(32 << 20) > self.budget.0
    }
}

/// The place as a total; `None` for a block that is not out.
fn total_of(places: &[(u64, u64)], at: Pos) -> Option<u64> {
    let i = places.binary_search_by_key(&at.index, |(index, _)| *index).ok()?;
    Some(places[i].1 + u64::from(at.item))
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
        let put = self.put(blocks, &[]);
        *lock(&self.trouble) = put.as_ref().err().map(ToString::to_string);
        put?;
        gate.ids.extend(ids);
        let surplus = gate.ids.len().saturating_sub(IDS_MAX);
        gate.ids.drain(..surplus);
        Ok(())
    }

    fn waiting(&self, owner: Owner, lane: Lane) -> Waiting {
        Waiting { asked: self.asked.load(SeqCst), ..lock(&self.ledger).waiting(owner, lane) }
    }

    fn pick(&self, owner: Owner, lane: Lane, pick: Pick, cut: Cut) -> Result<Option<Lease>, LeaseError> {
        self.next_lease(owner, lane, pick, cut)
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
                self.write_books();
                Ok(())
            }
            Ok(()) => self.put(blocks, &entered).map_err(|e| LeaseError::Unavailable(e.to_string())).inspect(|()| {
                // Counts are in the commit, dates are made after it.
                if entered.iter().any(|e| e.also_loses) {
                    self.write_books();
                }
            }),
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

    fn losses(&self) -> Vec<Loss> {
        lock(&self.ledger).losses(None)
    }

    fn to_tell(&self, owner: Owner) -> Result<Vec<Loss>, LeaseError> {
        let losses = {
            let mut ledger = lock(&self.ledger);
            if !ledger.is_current(owner) {
                return Err(LeaseError::Retired);
            }
            ledger.untold(owner.exporter, self.clock.now().wall_ns)
        };
        if !losses.is_empty() {
            let synced = self.shelf.append(Vec::new(), &Books::of(self), true);
            synced.map_err(|error| LeaseError::Unavailable(error.to_string()))?;
        }
        Ok(losses)
    }

    fn told(&self, owner: Owner, losses: &[Loss]) {
        lock(&self.ledger).told(owner.exporter, losses);
        // Should this fail, or the power, the far end hears once more what it knows: the counts are cumulative.
        if let Err(error) = self.shelf.append(Vec::new(), &Books::of(self), false) {
            tracing::debug!(%error, "spool gaps not written; the next commit does");
        }
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

impl Spool {
    /// Reserves one settlement's part; what it moves elsewhere is added to `blocks`.
    fn enter(&self, s: Settlement, blocks: &mut Vec<NewBlock>) -> Result<Entered, LeaseError> {
        let not_leased = LeaseError::NotLeased(s.lane, s.range.start, s.range.end);
        let (part, came, dates) = {
            let out = lock(&self.out);
            let place = |at: Pos| {
                out.iter()
                    .filter(|((e, l, _), _)| *e == s.owner.exporter && *l == s.lane)
                    .find_map(|(_, out)| Some((total_of(&out.places, at)?, out.came, out.dates(&s.range))))
            };
            match place(s.range.start) {
                Some((start, came, dates)) => (start..start + u64::from(s.items), came, dates),
                None => return Err(not_leased),
            }
        };
        let mut ledger = lock(&self.ledger);
        if !ledger.is_current(s.owner) {
            return Err(LeaseError::Retired);
        }
        let signal = ledger.lane_signal(s.lane).unwrap_or(Signal::Logs);
        let mut before = Before::default();
        let (fate, moved) = read(s.outcome, &mut before);
        let before = before.of(s.items);
        let items = s.items - u32::try_from(before.items()).expect("no more than there are");
        if let Some((Side::Dead, _, answer)) = &moved {
            tracing::warn!(lane = ledger.lane_name(s.lane), items, %answer, "items refused by the far end are kept as dead letters");
        }
        let cursor = ledger.cursor_mut(s.owner.exporter, s.lane).ok_or(LeaseError::Retired)?;
        let reserved = cursor.settle(&part, fate).map_err(|_| not_leased)?;
        let whole = reserved == part;
        if moved.is_some() && !whole {
            // Its beginning was evicted meanwhile and is counted; moving the rest of a request is not worth its cutting.
            cursor.refate(&reserved, Fate::Lost(Reason::Evicted));
        }
        if whole {
            cursor.in_part(&reserved, before);
        }
        if let Some((side, raw, _)) = moved.filter(|_| whole && items > 0) {
            let lane = ledger.side_lane(side, s.owner.exporter, s.lane);
            drop(ledger); // compression takes a while
            blocks.push(NewBlock {
                lane,
                signal,
                block_id: lock(&self.dice).id128(),
                items,
                raw_len: u32::try_from(raw.len()).unwrap_or(u32::MAX),
                // What moves elsewhere is as old as it was.
                accepted: came.accepted,
                boot: Some(came.boot),
                data_ns: dates.map_or((0, 0), |dates| (dates.from, dates.to)),
                framed: frame(&raw),
            });
        }
        let also_loses = before.rejected > 0;
        Ok(Entered { exporter: s.owner.exporter, lane: s.lane, part: reserved, dates, also_loses })
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

/// The fate an outcome means and what moves where, with the far end's words. What arrived before is added to `before`.
fn read(outcome: Outcome, before: &mut Before) -> (Fate, Option<(Side, bytes::Bytes, String)>) {
    match outcome {
        Outcome::Delivered { rejected } => (Fate::Delivered { rejected: rejected.into() }, None),
        Outcome::Lost(reason) => (Fate::Lost(reason), None),
        Outcome::Parked { raw } => (Fate::Parked, Some((Side::Park, raw, String::new()))),
        Outcome::DeadLetter { raw, answer } => (Fate::DeadLetter, Some((Side::Dead, raw, answer))),
        Outcome::InPart { delivered, rejected, rest } => {
            before.delivered += u64::from(delivered);
            before.rejected += u64::from(rejected);
            read(*rest, before)
        }
    }
}
