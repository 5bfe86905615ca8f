//! Suspects: promise P8, a block that makes us fall does so at most twice, and one over which the process dies at most eight times.

use super::{Entered, Spool, subtract};
use crate::spool::block::Header;
use crate::spool::cursor::Fate;
use crate::spool::gaps::Dates;
use crate::spool::ledger::Side;
use crate::spool::shelf::lock;
use crate::spool::slots::{Mark, Slots};
use crate::spool::{Cut, ExporterNo, Lane, LeaseError, NewBlock, Owner};
use std::ops::Range;
/// Evidence against a block, at which it is set aside: two panics, or eight deaths of the process while it was being handled. Kills
/// and power cuts happen, so a death alone proves little: of a thousand kills at random, on a machine that was busy, four in a row fell
/// into the handling of one block.
const EVIDENCE_MAX: u8 = 8;
const PANIC_EVIDENCE: u8 = 4;
pub(super) const DEATH_EVIDENCE: u8 = 1;

/// Blocks that are being handled, and the evidence against those whose handling ended badly.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    pub(super) slots: Option<Slots>,
    pub(super) marks: Vec<Mark>,
}

impl Spool {
    fn evidence(&self, owner: Owner, lane: Lane, index: u64) -> u8 {
        let suspects = lock(&self.suspects);
        let about = |m: &&Mark| m.exporter == owner.exporter.0 && m.lane == lane.0 && (m.from..m.to).contains(&index);
        suspects.marks.iter().filter(about).map(|m| m.evidence).max().unwrap_or(0)
    }

    pub(super) fn is_suspect(&self, owner: Owner, lane: Lane, index: u64) -> bool {
        self.evidence(owner, lane, index) > 0
    }

    /// Sets a block aside whose evidence is complete: it moves to the quarantine lane, in one commit with the cursor.
    /// For a block inside a window that is out. `true`: it is set aside, what of it was not settled already.
    ///
    /// # Errors
    /// When the disk did not take it. It stays where it is then, and must not be handed out.
    pub(super) fn take_out_suspect(
        &self,
        owner: Owner,
        lane: Lane,
        header: &Header,
        value: &[u8],
    ) -> Result<bool, LeaseError> {
        if self.evidence(owner, lane, header.index) < EVIDENCE_MAX {
            return Ok(false);
        }
        let part = header.accepted_before()..header.accepted_total;
        self.set_aside(owner, lane, header, value, part)?;
        self.forget(owner, lane, header.index..header.index + 1);
        Ok(true)
    }

    /// The same for a block that nobody had yet: a window of its own, settled at once.
    pub(super) fn take_out_suspect_new(
        &self,
        owner: Owner,
        lane: Lane,
        floats: bool,
        header: &Header,
        value: &[u8],
    ) -> Result<bool, LeaseError> {
        if self.evidence(owner, lane, header.index) < EVIDENCE_MAX {
            return Ok(false);
        }
        let cut = Cut { enough_items: 0, max_items: 0, max_bytes: 0 };
        let range = header.index..header.index + 1;
        let totals = header.accepted_before()..header.accepted_total;
        if lock(&self.ledger).take_new(owner, lane, floats, range.clone(), totals, cut).is_none() {
            return Err(LeaseError::Unavailable("its place moved".into()));
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
        let dates = Dates::of(header);
        let to = {
            let mut ledger = lock(&self.ledger);
            let to = ledger.side_lane(Side::Quarantine, owner.exporter, lane);
            let cursor = ledger.cursor_mut(owner.exporter, lane).ok_or(LeaseError::Retired)?;
            let taken = cursor.taken();
            for open in subtract(part, &taken) {
                // Not out: somebody gave the window back meanwhile, and it will come again.
                if let Ok(part) = cursor.settle(&open, Fate::Quarantined) {
                    entered.push(Entered { exporter: owner.exporter, lane, part, dates, also_loses: false });
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
            boot: Some(header.boot),
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
    pub(super) fn mark(&self, owner: Owner, lane: Lane, window: &Range<u64>) {
        let mut suspects = lock(&self.suspects);
        let mark = Mark { active: true, ..Mark::over(owner, lane, window) };
        let known = suspects.marks.iter().filter(|m| m.overlaps(&mark)).map(|m| m.evidence).max().unwrap_or(0);
        suspects.marks.retain(|m| !m.is_of(&mark));
        suspects.marks.push(Mark { evidence: known, ..mark });
        suspects.save();
    }

    /// Takes exactly this mark back: what it covered is marked more exactly now. A suspicion stays one.
    pub(super) fn unmark(&self, owner: Owner, lane: Lane, range: &Range<u64>) {
        let this = Mark::over(owner, lane, range);
        let mut suspects = lock(&self.suspects);
        suspects.marks.retain(|m| !m.is_of(&this) || m.evidence > 0);
        suspects.marks.iter_mut().filter(|m| m.is_of(&this)).for_each(|m| m.active = false);
    }

    /// The window was handled without accident. Other blocks of a larger suspicion stay under it.
    pub(super) fn forget(&self, owner: Owner, lane: Lane, window: Range<u64>) {
        let this = Mark::over(owner, lane, &window);
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
    pub(super) fn accuse(&self, exporter: ExporterNo) {
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
    /// Of these blocks, without evidence, and nobody at work on them.
    fn over(owner: Owner, lane: Lane, blocks: &Range<u64>) -> Mark {
        let (exporter, lane) = (owner.exporter.0, lane.0);
        Mark { exporter, lane, from: blocks.start, to: blocks.end, evidence: 0, active: false }
    }

    fn is_of(&self, other: &Mark) -> bool {
        (self.exporter, self.lane, self.from, self.to) == (other.exporter, other.lane, other.from, other.to)
    }

    fn overlaps(&self, other: &Mark) -> bool {
        (self.exporter, self.lane) == (other.exporter, other.lane) && self.from < other.to && other.from < self.to
    }

    /// Whoever handled these fell over it, if it was being done.
    pub(super) fn ended_badly(self, evidence: u8) -> Mark {
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
