//! What is missing between the blocks that are there: each block says how many items its lane had before it, so a hole is a
//! known number of items, and which of them somebody still waited for is in the cursors.

use super::TheBook;
use crate::base::Stamp;
use crate::spool::block::Header;
use crate::spool::{ExporterNo, Lane};
use std::collections::BTreeMap;
use std::ops::Range;

/// Items of an exporter that no readable block holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) lane: Lane,
    pub(crate) exporter: ExporterNo,
    /// How many.
    pub(crate) items: u64,
    /// Between which blocks: the index behind the last one that is there, and that of the next one.
    pub(crate) indices: Range<u64>,
    /// In totals of the lane.
    pub(crate) totals: Range<u64>,
    /// Accepted after the one before it, and before the one behind it, as far as these are there.
    pub(crate) accepted: (Option<Stamp>, Option<Stamp>),
}

/// Told of the readable blocks of all segments, in the row's order.
#[derive(Debug, Default)]
pub(crate) struct Holes {
    lanes: BTreeMap<u32, Place>,
    found: Vec<Hole>,
}

#[derive(Debug, Default)]
struct Place {
    /// Everything of the lane below is there, or was told as a hole.
    total: u64,
    index: u64,
    accepted: Option<Stamp>,
}

impl Holes {
    /// This block is there and can be read.
    pub(crate) fn pass(&mut self, header: &Header, book: &TheBook) {
        let place = self.lanes.entry(header.lane.0).or_default();
        let before = header.accepted_before();
        if before > place.total {
            let hole = place.total..before;
            let (indices, accepted) = (place.index..header.index, (place.accepted, Some(header.accepted)));
            self.found.extend(for_each_reader(header.lane, hole, indices, accepted, book));
        }
        if header.accepted_total > place.total {
            *place = Place {
                total: header.accepted_total,
                index: header.index.saturating_add(1),
                accepted: Some(header.accepted),
            };
        }
    }

    /// There is no further block: what the books know beyond is missing.
    pub(crate) fn end(mut self, book: &TheBook) -> Vec<Hole> {
        for (lane, _, _, tip) in book.ledger.lanes() {
            let place = self.lanes.remove(&lane.0).unwrap_or_default();
            if tip > place.total {
                let (indices, accepted) = (place.index..u64::MAX, (place.accepted, None));
                self.found.extend(for_each_reader(lane, place.total..tip, indices, accepted, book));
            }
        }
        self.found
    }
}

fn for_each_reader(
    lane: Lane,
    hole: Range<u64>,
    indices: Range<u64>,
    accepted: (Option<Stamp>, Option<Stamp>),
    book: &TheBook,
) -> Vec<Hole> {
    let missing = |(exporter, _): (ExporterNo, &str)| {
        let open = book.ledger.open(exporter, lane, hole.clone());
        let items = open.iter().map(|r| r.end - r.start).sum();
        let totals = open.first()?.start..open.last()?.end;
        Some(Hole { lane, exporter, items, indices: indices.clone(), totals, accepted })
    };
    book.ledger.readers(lane).filter_map(missing).collect()
}
