//! The ledger as the shelf sees it.

use super::{Entered, Spool};
use crate::otlp::Signal;
use crate::spool::block::Header;
use crate::spool::cursor::Fate;
use crate::spool::gaps::Dates;
use crate::spool::ledger::{Ledger, OpenLane, Record};
use crate::spool::shelf::{Bookkeeper, lock};
use crate::spool::{Lane, Reason};
use std::io;
use std::ops::Range;
use std::time::Duration;

/// The ledger as the shelf sees it: each question takes its lock for a moment.
pub(super) struct Books<'a> {
    pub(super) spool: &'a Spool,
    /// The settlements this append carries out.
    pub(super) entered: &'a [Entered],
}

impl<'a> Books<'a> {
    pub(super) fn of(spool: &'a Spool) -> Books<'a> {
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
        self.entered.iter().for_each(|e| e.end(&mut ledger, true));
    }
    fn failed(&self, headers: &[Header]) {
        let mut ledger = lock(&self.spool.ledger);
        ledger.failed(headers);
        self.writing(&mut ledger, false);
    }
    fn needed(&self, lane: Lane, blocks: &Range<u64>) -> u64 {
        lock(&self.spool.ledger).needed(lane, blocks)
    }
    fn is_live(&self, lane: Lane, index: u64) -> bool {
        lock(&self.spool.ledger).is_live(lane, index)
    }
    fn evict(&self, lane: Lane, index: u64, total: u64, fate: Fate) -> u64 {
        lock(&self.spool.ledger).evict(lane, index, total, fate)
    }
    fn moved(&self, found: bool) -> io::Result<()> {
        let floor = lock(&self.spool.ledger).epoch();
        match &mut lock(&self.spool.suspects).slots {
            Some(slots) => slots.move_in(floor, found),
            None => Ok(()),
        }
    }
    fn date(&self, lane: Lane, reason: Reason, dates: Option<Dates>) {
        lock(&self.spool.ledger).date_for_all(lane, reason, dates);
    }
    fn signal(&self, lane: Lane) -> Option<Signal> {
        lock(&self.spool.ledger).lane_signal(lane)
    }
    fn open_lanes(&self) -> Vec<OpenLane> {
        lock(&self.spool.ledger).open_lanes()
    }
    fn age(&self, header: &Header) -> Duration {
        lock(&self.spool.ledger).age(header.into(), &self.spool.clock.reading())
    }
    fn records(&self, all: bool) -> Vec<Record> {
        let mut ledger = lock(&self.spool.ledger);
        self.writing(&mut ledger, true);
        ledger.take_records(all)
    }
}
