//! What a person decides about data that waits for one: it is sent again, or given up.

use super::{Books, Spool, subtract};
use crate::otlp::{Cutter, count};
use crate::spool::gaps::Dates;
use crate::spool::ledger::{Beside, Ledger, Side};
use crate::spool::shelf::lock;
use crate::spool::{Cut, ExporterNo, Lane, Lease, LeaseError, Outcome, Pos, Reason, Settlement, Store as _};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;

/// Block by block: what cannot be sent stays where it is, alone.
const ONE: Cut = Cut { enough_items: 1, max_items: 0, max_bytes: 0 };

/// What is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// What the far end refused.
    DeadLetters,
    /// What nobody could handle.
    Quarantine,
    /// What waits for an exporter that reads its lane no more; with `anyway`, for any.
    Waiting { anyway: bool },
}

/// Whose.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Which {
    /// Every exporter's without.
    pub(crate) exporter: Option<String>,
    /// Every pipeline's without.
    pub(crate) pipeline: Option<String>,
}

/// What was done to one exporter's data of one pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mended {
    pub(crate) exporter: String,
    pub(crate) pipeline: String,
    pub(crate) items: u64,
    /// Items that had to stay.
    pub(crate) left: u64,
}

impl Which {
    fn is(&self, lane: &Beside) -> bool {
        self.exporter.as_ref().is_none_or(|name| *name == lane.exporter)
            && self.pipeline.as_ref().is_none_or(|name| *name == lane.pipeline)
    }
}

/// The lanes that are meant, as far as there is something in them.
fn lanes_of(ledger: &Ledger, what: What, which: &Which) -> Vec<Beside> {
    let mut lanes = match what {
        What::DeadLetters => ledger.beside(Side::Dead),
        What::Quarantine => ledger.beside(Side::Quarantine),
        What::Waiting { anyway } => {
            let own = ledger.own_lanes().into_iter().filter(|(_, away)| anyway || *away);
            let own: Vec<Beside> = own.map(|(lane, _)| lane).collect();
            let is_of = |park: &Beside| {
                own.iter().any(|lane| (&lane.exporter, &lane.pipeline) == (&park.exporter, &park.pipeline))
            };
            let parked: Vec<Beside> = ledger.beside(Side::Park).into_iter().filter(is_of).collect();
            own.into_iter().chain(parked).collect()
        }
    };
    lanes.retain(|lane| which.is(lane) && lane.items > 0);
    lanes
}

/// What `what` and `which` mean by these books, with how many items there are.
pub(crate) fn meant(ledger: &Ledger, what: What, which: &Which) -> Vec<Mended> {
    let lanes = lanes_of(ledger, what, which).into_iter();
    lanes.map(|l| Mended { exporter: l.exporter, pipeline: l.pipeline, items: l.items, left: 0 }).collect()
}

impl Spool {
    fn lanes_of(&self, what: What, which: &Which) -> Vec<Beside> {
        lanes_of(&lock(&self.ledger), what, which)
    }

    /// Dead letters or quarantined blocks wait again: each moves to its exporter's park lane, in one commit with the cursor that
    /// says so, and nobody else gets it. What is no request, or is one of which a part was settled before it was set aside, stays.
    /// `progress` hears of each move how many items it was. Others may work on the spool meanwhile.
    ///
    /// # Errors
    /// The disk's, as text. What was moved until then is moved.
    pub(crate) fn requeue(&self, what: What, which: &Which, progress: &dyn Fn(u64)) -> Result<Vec<Mended>, String> {
        let done = self.lanes_of(what, which).into_iter().map(|lane| self.requeue_lane(lane, progress)).collect();
        self.asked.fetch_add(1, SeqCst);
        self.news.send_modify(|n| *n += 1);
        done
    }

    /// [`meant`] by the books of now.
    pub(crate) fn meant(&self, what: What, which: &Which) -> Vec<Mended> {
        meant(&lock(&self.ledger), what, which)
    }

    fn requeue_lane(&self, from: Beside, progress: &dyn Fn(u64)) -> Result<Mended, String> {
        let mut done = Mended { exporter: from.exporter, pipeline: from.pipeline, items: 0, left: 0 };
        let mut stays: Vec<Range<u64>> = Vec::new();
        let text = |error: LeaseError| error.to_string();
        let moved = loop {
            if done.items + done.left >= from.items {
                break Ok(()); // what comes back meanwhile, refused again, is not sent round in a circle
            }
            let lease = match self.lease(from.owner, from.lane, ONE) {
                Ok(Some(lease)) => lease,
                Ok(None) => break Ok(()),
                Err(error) => break Err(text(error)),
            };
            self.handled(from.owner, from.lane, lease.window.clone());
            let (settlements, left) = moves(&lease, from.owner);
            let items: u64 = settlements.iter().map(|s| u64::from(s.items)).sum();
            if left > 0 {
                stays.push(lease.window.clone()); // out until the end, or it would come again and again
            }
            done.left += left;
            if let Err(error) = self.settle(settlements) {
                stays.push(lease.window.clone());
                break Err(text(error));
            }
            done.items += items;
            progress(items);
        };
        stays.into_iter().for_each(|window| self.give_back(from.owner, from.lane, window));
        moved.map(|()| done)
    }

    /// Dates of the oldest block of the lane that the exporter is not done with, as far as it can be read.
    fn oldest(&self, exporter: ExporterNo, lane: Lane) -> Option<Dates> {
        let below = lock(&self.ledger).cursor_mut(exporter, lane)?.below;
        let (header, _) = self.shelf.next(lane, below).ok()??;
        Dates::of(&header)
    }

    /// Given up: lost, by the reason `dropped`. On stable storage when this returns.
    ///
    /// # Errors
    /// The disk's, as text. The books in memory say it all the same, and the next commit does.
    pub(crate) fn discard(&self, what: What, which: &Which) -> Result<Vec<Mended>, String> {
        let lanes = self.lanes_of(what, which);
        let _gate = lock(&self.gate);
        let first: Vec<Option<Dates>> = lanes.iter().map(|lane| self.oldest(lane.owner.exporter, lane.lane)).collect();
        let mut done = Vec::new();
        {
            let mut ledger = lock(&self.ledger);
            for (lane, first) in lanes.into_iter().zip(first) {
                let items = ledger.discard(lane.owner.exporter, lane.lane);
                let dates = Dates::hull(first, ledger.newest(lane.lane));
                ledger.date(lane.owner.exporter, lane.lane, Reason::Dropped, dates);
                tracing::warn!(
                    exporter = lane.exporter,
                    pipeline = lane.pipeline,
                    items,
                    ?what,
                    "items were given up by hand"
                );
                done.push(Mended { exporter: lane.exporter, pipeline: lane.pipeline, items, left: 0 });
            }
        }
        self.shelf.append(Vec::new(), &Books::of(self), true).map_err(|error| error.to_string())?;
        self.forget_done();
        self.work.send_modify(|n| *n += 1);
        Ok(done)
    }
}

/// What of a lease moves to be sent again, and how many items must stay.
fn moves(lease: &Lease, owner: crate::spool::Owner) -> (Vec<Settlement>, u64) {
    let (mut settlements, mut left) = (Vec::new(), 0);
    for block in &lease.blocks {
        let at = |pos: Pos| {
            if pos.index < block.index {
                0
            } else if pos.index > block.index {
                block.items
            } else {
                pos.item
            }
        };
        let settled: Vec<Range<u64>> =
            lease.settled.iter().map(|r| u64::from(at(r.start))..u64::from(at(r.end))).collect();
        let open = subtract(0..u64::from(block.items), &settled);
        let whole = count(lease.signal, &block.raw).is_ok_and(|items| items == block.items);
        let cutter = Cutter::of(lease.signal, &block.raw).ok().filter(|_| whole);
        for part in open {
            let small = |n: u64| u32::try_from(n).expect("no more than the block's items");
            let (start, end) = (small(part.start), small(part.end));
            let Some(raw) = cutter.as_ref().and_then(|cutter| cutter.take(start..end).ok()) else {
                left += part.end - part.start;
                continue;
            };
            let place = |item| Pos { index: block.index, item };
            let range =
                place(start)..if end == block.items { Pos { index: block.index + 1, item: 0 } } else { place(end) };
            let outcome = Outcome::Parked { raw };
            settlements.push(Settlement { owner, lane: lease.lane, range, items: end - start, outcome });
        }
    }
    (settlements, left)
}
