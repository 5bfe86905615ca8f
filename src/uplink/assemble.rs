//! From a lease to uploads: which items of which blocks go together, always the same for the same window.
//!
//! ```text
//! window 4..7   block 4 (600)    block 5 (600)    block 6 (300)        cut: at most 1,000 items
//!               ├───────────── part 1 (750) ─┼─ part 2 (750) ─────┤
//!               4.0                         5.150                7.0    ids: <spool>/<lane>/4.0-5.150, 5.150-7.0
//! ```
//!
//! What always holds:
//! * The parts tile the window: each begins where the one before ends, so that settling all of them settles all of it.
//! * The same blocks and the same [`Cut`] give the same parts, also in the next life of the process; what is settled
//!   is taken out *after* the cut. So an upload offered twice bears the same id, and the far end may know it again.
//! * No part has more items than `max_items`; none is known to have more bytes than `max_bytes` unless it is one item.

use crate::otlp::{Cutter, Malformed, Signal};
use crate::spool::{Cut, Lane, Lease, LeasedBlock, Pos};
use crate::supervise::{PanicReport, Wire, contained, tripwire};
use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// Some items of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The block.
    pub index: u64,
    /// Which of its items.
    pub items: Range<u32>,
}

/// What one upload carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its place in the lane.
    pub range: Range<Pos>,
    /// Its items, oldest first.
    pub pieces: Vec<Piece>,
}

impl Part {
    /// How many items.
    #[must_use]
    pub fn items(&self) -> u32 {
        self.pieces.iter().map(|piece| piece.items.end - piece.items.start).sum()
    }

    /// The id of the upload: the same whenever it is offered again.
    #[must_use]
    pub fn upload_id(&self, spool: &str, lane: Lane) -> String {
        format!("{spool}/{}/{}-{}", lane.0, self.range.start, self.range.end)
    }

    /// Two parts of nearly equal size, the first the smaller; `None` for a single item.
    #[must_use]
    pub fn halve(&self) -> Option<(Part, Part)> {
        self.cut(self.items() / 2)
    }

    /// The first `items` items and the rest; `None` when one of the two would be empty.
    #[must_use]
    pub fn cut(&self, items: u32) -> Option<(Part, Part)> {
        (0 < items && items < self.items()).then(|| self.split_at(items))
    }

    /// The first `items` items and the rest.
    fn split_at(&self, items: u32) -> (Part, Part) {
        let (mut front, mut back) = (Vec::new(), Vec::new());
        let mut left = items;
        for piece in &self.pieces {
            let here = left.min(piece.items.end - piece.items.start);
            let middle = piece.items.start + here;
            if here > 0 {
                front.push(Piece { index: piece.index, items: piece.items.start..middle });
            }
            if middle < piece.items.end {
                back.push(Piece { index: piece.index, items: middle..piece.items.end });
            }
            left -= here;
        }
        let middle = back.first().map_or(self.range.end, |piece| Pos { index: piece.index, item: piece.items.start });
        (Part { range: self.range.start..middle, pieces: front }, Part { range: middle..self.range.end, pieces: back })
    }

    /// What is left of it without `settled`: nothing, itself, or several runs.
    fn without(&self, settled: &[Range<Pos>]) -> Vec<Part> {
        let mut runs: Vec<Part> = Vec::new();
        let mut from = self.range.start;
        for hole in settled.iter().filter(|hole| hole.start < self.range.end && hole.end > self.range.start) {
            runs.push(self.clip(from..hole.start.max(from)));
            from = from.max(hole.end);
        }
        runs.push(self.clip(from..self.range.end.max(from)));
        runs.retain(|run| !run.pieces.is_empty());
        runs
    }

    fn clip(&self, to: Range<Pos>) -> Part {
        let pieces = self.pieces.iter().filter_map(|piece| {
            let at = |pos: Pos| match pos.index.cmp(&piece.index) {
                std::cmp::Ordering::Less => piece.items.start,
                std::cmp::Ordering::Equal => pos.item.clamp(piece.items.start, piece.items.end),
                std::cmp::Ordering::Greater => piece.items.end,
            };
            let items = at(to.start)..at(to.end);
            (!items.is_empty()).then_some(Piece { index: piece.index, items })
        });
        Part { pieces: pieces.collect(), range: to }
    }
}

/// What the plan needs to know of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The block.
    pub index: u64,
    /// Its items.
    pub items: u32,
    /// Its length, uncompressed.
    pub bytes: u64,
}

impl From<&LeasedBlock> for Size {
    fn from(block: &LeasedBlock) -> Size {
        Size { index: block.index, items: block.items, bytes: block.raw.len() as u64 }
    }
}

/// The uploads of a window, without what is settled. Empty when nothing is left (or nothing was in it).
#[must_use]
pub fn plan(window: &Range<u64>, blocks: &[Size], cut: Cut, settled: &[Range<Pos>]) -> Vec<Part> {
    let border = |index| Pos { index, item: 0 };
    let whole = Part {
        range: border(window.start)..border(window.end),
        pieces: blocks.iter().filter(|b| b.items > 0).map(|b| Piece { index: b.index, items: 0..b.items }).collect(),
    };
    let mut settled = settled.to_vec();
    settled.sort_unstable_by_key(|hole| hole.start);
    let parts = evenly(whole, share_count(blocks, cut));
    parts.into_iter().flat_map(|part| fitting(part, blocks, cut)).flat_map(|part| part.without(&settled)).collect()
}

/// Into how many parts the window goes: as few as the limits allow.
fn share_count(blocks: &[Size], cut: Cut) -> u64 {
    let items: u64 = blocks.iter().map(|b| u64::from(b.items)).sum();
    let bytes: u64 = blocks.iter().map(|b| b.bytes).sum();
    let by = |sum: u64, max: u32| if max == 0 { 1 } else { sum.div_ceil(u64::from(max)) };
    by(items, cut.max_items).max(by(bytes, cut.max_bytes)).clamp(1, items.max(1))
}

/// Nearly equal parts: the last upload of a window is no crumb.
fn evenly(whole: Part, parts: u64) -> Vec<Part> {
    let items = u64::from(whole.items());
    let mut rest = whole;
    let mut cut = Vec::new();
    for i in 1..parts {
        let share = items * i / parts - items * (i - 1) / parts;
        let (front, back) = rest.split_at(u32::try_from(share).expect("a share of a u32"));
        cut.push(front);
        rest = back;
    }
    cut.push(rest);
    cut
}

/// Halves again what seems too large, should the bytes lie unevenly over the blocks.
fn fitting(part: Part, blocks: &[Size], cut: Cut) -> Vec<Part> {
    let too_large = cut.max_bytes > 0 && estimate(&part, blocks) > u64::from(cut.max_bytes);
    match part.halve() {
        Some((front, back)) if too_large => {
            let mut parts = fitting(front, blocks, cut);
            parts.extend(fitting(back, blocks, cut));
            parts
        }
        _ => vec![part],
    }
}

/// Its bytes, if a block's items are of equal size.
fn estimate(part: &Part, blocks: &[Size]) -> u64 {
    let piece_bytes = |piece: &Piece| {
        let found = blocks.iter().find(|block| block.index == piece.index);
        let Size { items, bytes, .. } = found.expect("a piece is made of one of the blocks");
        (bytes * u64::from(piece.items.end - piece.items.start)).div_ceil(u64::from(*items))
    };
    part.pieces.iter().map(piece_bytes).sum()
}

/// The blocks of a lease, as their requests are cut: each is mapped once, when something is first cut out of it.
///
/// A panic over a block is that block's (promise P8): it is caught here and makes the block unreadable.
#[derive(Debug)]
pub struct Blocks<'a> {
    signal: Signal,
    blocks: &'a [LeasedBlock],
    /// What is known of each block.
    maps: Vec<Map>,
}

#[derive(Debug)]
enum Map {
    /// Nothing yet.
    Unseen,
    /// It is taken as a whole.
    Whole,
    /// It can be cut.
    Cut(Cutter),
    /// It cannot be used at all, and why.
    Bad(String),
}

/// A block that cannot be cut, which the receivers made sure of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The block.
    pub index: u64,
    /// Why.
    pub why: String,
}

impl<'a> Blocks<'a> {
    /// Nothing is read yet.
    #[must_use]
    pub fn of(lease: &'a Lease) -> Blocks<'a> {
        Blocks { signal: lease.signal, blocks: &lease.blocks, maps: lease.blocks.iter().map(|_| Map::Unseen).collect() }
    }

    /// The serialized request of a part.
    ///
    /// # Errors
    /// Which block cannot be read.
    pub fn serialize(&mut self, part: &Part) -> Result<Bytes, Unreadable> {
        let mut pieces = Vec::with_capacity(part.pieces.len());
        for piece in &part.pieces {
            let at = self.find(piece.index);
            let raw = &self.blocks[at].raw;
            let taken = match self.map(at, piece) {
                Map::Cut(cutter) => contained("cut a block", || cutter.take(piece.items.clone())),
                Map::Unseen | Map::Whole => Ok(Ok(raw.clone())),
                Map::Bad(why) => return Err(Unreadable { index: piece.index, why: why.clone() }),
            };
            match told(taken) {
                Ok(taken) => pieces.push(taken),
                Err(why) => {
                    self.maps[at] = Map::Bad(why.clone());
                    return Err(Unreadable { index: piece.index, why });
                }
            }
        }
        Ok(join(&pieces))
    }

    /// Would the halves of this part be hardly smaller, because each of its items brings so many bytes of envelopes
    /// along?
    pub fn is_mostly_envelope(&mut self, part: &Part, bytes: usize) -> bool {
        part.pieces.iter().all(|piece| {
            let at = self.find(piece.index);
            if matches!(self.maps[at], Map::Whole) {
                self.maps[at] = self.read(at, true);
            }
            match &self.maps[at] {
                Map::Cut(cutter) => cutter.least_envelope(piece.items.clone()) >= bytes,
                Map::Unseen | Map::Whole | Map::Bad(_) => false,
            }
        })
    }

    /// The block of this index, as it came.
    #[must_use]
    pub fn raw(&self, index: u64) -> Bytes {
        self.blocks[self.find(index)].raw.clone()
    }

    fn find(&self, index: u64) -> usize {
        self.blocks.iter().position(|block| block.index == index).expect("a part is made of the blocks of its lease")
    }

    fn map(&mut self, at: usize, piece: &Piece) -> &Map {
        let cut = piece.items != (0..self.blocks[at].items);
        if matches!((&self.maps[at], cut), (Map::Unseen, _) | (Map::Whole, true)) {
            self.maps[at] = self.read(at, cut);
        }
        &self.maps[at]
    }

    fn read(&self, at: usize, cut: bool) -> Map {
        let raw = &self.blocks[at].raw;
        let read = contained("read a block", || {
            tripwire(Wire::Block, raw);
            cut.then(|| Cutter::of(self.signal, raw)).transpose()
        });
        match told(read) {
            Ok(Some(cutter)) => Map::Cut(cutter),
            Ok(None) => Map::Whole,
            Err(why) => Map::Bad(why),
        }
    }
}

/// One answer of a step that may fail in two ways.
fn told<T>(outcome: Result<Result<T, Malformed>, PanicReport>) -> Result<T, String> {
    match outcome {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(malformed)) => Err(malformed.to_string()),
        Err(panic) => Err(format!("panic: {panic}")),
    }
}

/// Serialized requests of one signal one after the other are a request.
fn join(pieces: &[Bytes]) -> Bytes {
    if let [only] = pieces {
        return only.clone();
    }
    let mut joined = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        joined.extend_from_slice(piece);
    }
    joined.freeze()
}

/// The serialized requests of the two ends of a request.
///
/// # Errors
/// When the request cannot be read, which the receivers made sure of.
pub fn ends_of(signal: Signal, raw: &Bytes, [front, back]: [&Part; 2]) -> Result<[Bytes; 2], Malformed> {
    let cutter = Cutter::of(signal, raw)?;
    let middle = front.items();
    Ok([cutter.take(0..middle)?, cutter.take(middle..middle + back.items())?])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init)] // a list of ranges that happens to have one
    use super::*;
    use crate::base::{Dice, Stamp};
    use crate::testing::numbered::{Numbered, Source, numbers};

    fn cut(max_items: u32, max_bytes: u32) -> Cut {
        Cut { enough_items: 1, max_items, max_bytes }
    }

    fn sizes(items: &[u32]) -> Vec<Size> {
        items.iter().zip(4..).map(|(&items, index)| Size { index, items, bytes: u64::from(items) * 100 }).collect()
    }

    fn pos(index: u64, item: u32) -> Pos {
        Pos { index, item }
    }

    fn shown(parts: &[Part]) -> Vec<String> {
        parts.iter().map(|part| format!("{}-{}: {}", part.range.start, part.range.end, part.items())).collect()
    }

    #[test]
    #[rustfmt::skip]
    fn a_window_is_cut_into_as_few_and_as_equal_parts_as_the_limits_allow() {
        for (blocks, limits, expected) in [
            (&[600, 600, 300][..], cut(1_000, 0),     &["4.0-5.150: 750", "5.150-7.0: 750"][..]),
            (&[600, 600, 300],     cut(0, 0),         &["4.0-7.0: 1500"]),
            (&[600, 600, 300],     cut(1_500, 0),     &["4.0-7.0: 1500"]),
            (&[5],                 cut(2, 0),         &["4.0-4.1: 1", "4.1-4.3: 2", "4.3-5.0: 2"]),
            (&[2, 2],              cut(2, 0),         &["4.0-5.0: 2", "5.0-6.0: 2"]),
            (&[600, 600, 300],     cut(0, 100_000),   &["4.0-5.150: 750", "5.150-7.0: 750"]),
            (&[3],                 cut(0, 50),        &["4.0-4.1: 1", "4.1-4.2: 1", "4.2-5.0: 1"]), // one item alone is allowed
            (&[0, 7, 0],           cut(0, 0),         &["4.0-7.0: 7"]), // blocks without items belong to their neighbours
            (&[0, 4, 0, 4, 0],     cut(4, 0),         &["4.0-7.0: 4", "7.0-9.0: 4"]),
            (&[0],                 cut(0, 0),         &[]),
            (&[],                  cut(10, 10),       &[]),
        ] {
            let window = 4..4 + blocks.len() as u64;
            assert_eq!(shown(&plan(&window, &sizes(blocks), limits, &[])), expected, "{blocks:?} {limits:?}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn what_is_settled_is_left_out_and_the_rest_keeps_its_borders() {
        let all = pos(0, 0)..pos(99, 0);
        for (settled, expected) in [
            (vec![],                                                  &["4.0-5.150: 750", "5.150-7.0: 750"][..]),
            (vec![pos(4, 0)..pos(5, 150)],                            &["5.150-7.0: 750"]),
            (vec![pos(5, 150)..pos(7, 0)],                            &["4.0-5.150: 750"]),
            (vec![pos(4, 0)..pos(4, 375)],                            &["4.375-5.150: 375", "5.150-7.0: 750"]), // half of a split
            (vec![pos(4, 10)..pos(4, 11), pos(4, 20)..pos(4, 21)],    &["4.0-4.10: 10", "4.11-4.20: 9", "4.21-5.150: 729", "5.150-7.0: 750"]),
            (vec![pos(4, 20)..pos(4, 21), pos(4, 10)..pos(4, 11)],    &["4.0-4.10: 10", "4.11-4.20: 9", "4.21-5.150: 729", "5.150-7.0: 750"]),
            (vec![pos(4, 600)..pos(5, 600)],                          &["4.0-4.600: 600", "6.0-7.0: 300"]), // the other spelling of a border
            (vec![pos(4, 0)..pos(7, 0)],                              &[]),
            (vec![all],                                               &[]),
        ] {
            let parts = plan(&(4..7), &sizes(&[600, 600, 300]), cut(1_000, 0), &settled);
            let shown = shown(&parts);
            // The other spelling of the same place may come back as it was given.
            let same: Vec<_> = shown.iter().map(|s| s.replace("5.600-", "6.0-")).collect();
            assert_eq!(same, expected, "{settled:?}");
        }
    }

    /// Goal: whatever the blocks and limits, the parts tile the window, carry each item once and in order, respect the
    /// limits, and are the same the second time; so do their halves.
    #[test]
    fn parts_tile_the_window_whatever_it_holds() {
        let mut dice = Dice::seeded(11);
        for _ in 0..2_000 {
            let blocks: Vec<Size> = (0..dice.within(0..6))
                .map(|i| Size { index: 9 + i, items: dice.within(0..50) as u32, bytes: dice.within(1..5_000) })
                .collect();
            let window = 9..9 + blocks.len() as u64;
            let limits = cut(dice.within(0..40) as u32, dice.within(0..3_000) as u32);
            let parts = plan(&window, &blocks, limits, &[]);
            assert_eq!(parts, plan(&window, &blocks, limits, &[]));
            let mut at = pos(window.start, 0);
            let mut items = Vec::new();
            for part in &parts {
                assert_eq!(part.range.start, at);
                at = part.range.end;
                assert!(part.items() > 0 && (limits.max_items == 0 || part.items() <= limits.max_items));
                assert!(
                    part.items() == 1 || limits.max_bytes == 0 || estimate(part, &blocks) <= limits.max_bytes.into()
                );
                items.extend(part.pieces.iter().flat_map(|p| p.items.clone().map(|item| (p.index, item))));
                if let Some((front, back)) = part.halve() {
                    assert!(back.items() - front.items() <= 1 && front.items() + back.items() == part.items());
                    assert_eq!(
                        (front.range.start, front.range.end, back.range.end),
                        (part.range.start, back.range.start, part.range.end)
                    );
                }
            }
            let expected: Vec<_> = blocks.iter().flat_map(|b| (0..b.items).map(|item| (b.index, item))).collect();
            assert_eq!(items, expected);
            assert!(parts.is_empty() == expected.is_empty() && (parts.is_empty() || at == pos(window.end, 0)));
        }
    }

    fn leased(index: u64, made: &mut Numbered, items: u32) -> LeasedBlock {
        LeasedBlock { index, items, accepted: Stamp::default(), raw: made.request(items).bytes.into() }
    }

    fn seqs(signal: Signal, raw: &[u8]) -> Vec<u64> {
        let mut seqs = Vec::new();
        numbers(signal, raw, |mark| seqs.push(mark.expect("numbered").seq)).expect("a request");
        seqs
    }

    /// Goal: the bytes of a part are the items its plan names, of every signal, and so are the bytes of its halves.
    #[test]
    fn a_part_is_serialized_with_exactly_its_items() {
        for signal in Signal::ALL {
            let mut made = Numbered::new(signal, Source(1));
            let blocks: Vec<_> = [20, 1, 30].iter().zip(4..).map(|(&n, i)| leased(i, &mut made, n)).collect();
            let sizes: Vec<Size> = blocks.iter().map(Size::from).collect();
            let lease = Lease {
                lane: Lane(1),
                signal,
                window: 4..7,
                cut: cut(12, 0),
                settled: Vec::new(),
                age: std::time::Duration::ZERO,
                blocks,
            };
            let parts = plan(&lease.window, &sizes, lease.cut, &[]);
            let mut blocks = Blocks::of(&lease);
            let raw: Vec<Bytes> = parts.iter().map(|part| blocks.serialize(part).expect("ours")).collect();
            let all: Vec<u64> = raw.iter().flat_map(|raw| seqs(signal, raw)).collect();
            assert_eq!(all, (0..51).collect::<Vec<_>>());
            for (part, raw) in parts.iter().zip(&raw) {
                let (front, back) = part.halve().expect("many items");
                let ends = ends_of(signal, raw, [&front, &back]).expect("ours");
                let halves = ends.each_ref().map(|end| seqs(signal, end));
                assert_eq!(halves[0].len(), front.items() as usize);
                assert_eq!(halves.concat(), seqs(signal, raw));
            }
        }
    }

    #[test]
    fn an_upload_is_named_by_its_place() {
        let parts = plan(&(4..7), &sizes(&[600, 600, 300]), cut(1_000, 0), &[]);
        assert_eq!(parts[1].upload_id("3f2a", Lane(2)), "3f2a/2/5.150-7.0");
    }
}
