//! How much is held for a person: dead letters, quarantined blocks and quarantined segments have caps, and beyond them the oldest
//! goes. So poison, of which there may be any amount, fills neither disk nor memory for ever.
//!
//! What the lanes weigh is worked out by reading their headers, a few at a time, since a block's length stands nowhere else: once
//! after a start, and of what is added since. Nothing of it is stored.

use super::Spool;
use crate::base::Bytes;
use crate::base::units::MIB;
use crate::spool::block::{HEADER_LEN, Header};
use crate::spool::cursor::Fate;
use crate::spool::gaps::Dates;
use crate::spool::ledger::{Beside, Side};
use crate::spool::shelf::{ShelfError, lock};
use crate::spool::{Lane, Reason};
use std::collections::HashMap;

/// Caps of what is held, unless the operator says more: a tenth of the spool, at most 64 MiB.
const HELD_MAX: u64 = 64 * MIB;
/// Blocks that are read, or given up, in one piece of housekeeping.
const PIECE: usize = 64;

/// Most bytes of each kind; `None`: a tenth of the spool's budget, at most 64 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    /// Dead letters of all exporters together. Beyond it they are lost{rejected}.
    pub dead_letters: Option<Bytes>,
    /// Quarantined blocks of all exporters together, lost{corrupt} beyond it; and as many bytes of quarantined segments, whose items
    /// are counted already.
    pub quarantine: Option<Bytes>,
}

impl Caps {
    fn of(self, side: Side, budget: u64) -> u64 {
        let said = if side == Side::Dead { self.dead_letters } else { self.quarantine };
        said.map_or((budget / 10).min(HELD_MAX), |cap| cap.0)
    }
}

/// What is known of the weight of a lane.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Weight {
    /// Of the blocks from here,
    from: u64,
    /// to here
    to: u64,
    /// so many bytes.
    bytes: u64,
}

pub(super) type Weights = HashMap<Lane, Weight>;

impl Spool {
    /// From now on by these caps; what is beyond them goes at the next housekeeping, which begins now.
    pub fn cap(&self, caps: Caps) {
        *lock(&self.caps) = caps;
        self.work.send_modify(|n| *n += 1);
    }

    /// One piece of keeping to the caps; `true` when there is more to do.
    ///
    /// # Errors
    /// The shelf's.
    pub(super) fn keep_to_caps(&self) -> Result<bool, ShelfError> {
        let (caps, budget) = (*lock(&self.caps), self.shelf.usage().budget);
        let mut more = self.shelf.trim_quarantine(Bytes(caps.of(Side::Quarantine, budget)))?;
        for (side, reason) in [(Side::Dead, Reason::Rejected), (Side::Quarantine, Reason::Corrupt)] {
            more |= self.keep_side(side, reason, caps.of(side, budget))?;
        }
        Ok(more)
    }

    fn keep_side(&self, side: Side, reason: Reason, cap: u64) -> Result<bool, ShelfError> {
        let mut lanes = lock(&self.ledger).beside(side);
        lanes.retain(|lane| lane.items > 0);
        let mut sum = 0;
        for lane in &lanes {
            match self.weigh(lane.lane)? {
                Some(bytes) => sum += bytes,
                None => return Ok(true), // go on weighing
            }
        }
        // The fullest lane gives way, so that one exporter's poison does not cost another's dead letters.
        let weight = |lane: &Beside| lock(&self.weights).get(&lane.lane).map_or(0, |w| w.bytes);
        let Some(fullest) = lanes.iter().max_by_key(|lane| weight(lane)).filter(|_| sum > cap) else {
            return Ok(false);
        };
        self.give_up_oldest(fullest, side, reason, sum - cap)
    }

    /// Bytes of a lane from its cursor on; `None`: not all of it is weighed yet.
    fn weigh(&self, lane: Lane) -> Result<Option<u64>, ShelfError> {
        let (below, end) = lock(&self.ledger).held_range(lane);
        let mut known = lock(&self.weights).get(&lane).copied().unwrap_or_default();
        if known.from != below {
            known = Weight { from: below, to: below, bytes: 0 }; // it was sent again, or its segment was evicted
        }
        for _ in 0..PIECE {
            if known.to >= end {
                break;
            }
            match self.shelf.next(lane, known.to)? {
                Some((header, _)) if header.index < end => {
                    known.bytes += len(&header);
                    known.to = header.index + 1;
                }
                _ => known.to = end,
            }
        }
        lock(&self.weights).insert(lane, known);
        Ok((known.to >= end).then_some(known.bytes))
    }

    /// The oldest blocks of the lane go, until so many bytes are gone.
    fn give_up_oldest(&self, held: &Beside, side: Side, reason: Reason, too_much: u64) -> Result<bool, ShelfError> {
        let (lane, _gate) = (held.lane, lock(&self.gate)); // nobody sends them again meanwhile
        let (mut gone, mut items, mut dates) = (0, 0, None);
        let (mut below, end) = lock(&self.ledger).held_range(lane);
        for _ in 0..PIECE {
            if gone >= too_much {
                break;
            }
            let Some((found, _)) = self.shelf.next(lane, below)?.filter(|(header, _)| header.index < end) else {
                break;
            };
            // Before it nothing is given up that only stands elsewhere.
            let nearer = if found.index > below { self.shelf.nearer(lane, below..found.index)? } else { None };
            let header = nearer.map_or(found, |(header, _)| header);
            let mut ledger = lock(&self.ledger);
            if ledger.is_out(lane) {
                break; // a person has them sent again just now
            }
            items += ledger.evict(lane, header.index + 1, header.accepted_total, Fate::Lost(reason));
            dates = Dates::hull(dates, Dates::of(&header));
            ledger.date_for_all(lane, reason, Dates::of(&header));
            below = ledger.held_range(lane).0;
            drop(ledger);
            gone += len(&header);
        }
        if gone == 0 {
            return Ok(false);
        }
        if let Some(weight) = lock(&self.weights).get_mut(&lane) {
            weight.from = below;
            weight.bytes = weight.bytes.saturating_sub(gone);
        }
        let held_as = side.name();
        tracing::warn!(exporter = held.exporter, pipeline = held.pipeline, items, bytes = %Bytes(gone), held_as, reason = reason.name(), "more is held for a person than its cap allows, and the oldest is given up");
        self.work.send_modify(|n| *n += 1); // what they lay in may be deleted now
        Ok(true)
    }
}

fn len(header: &Header) -> u64 {
    HEADER_LEN as u64 + u64::from(header.payload_len)
}
