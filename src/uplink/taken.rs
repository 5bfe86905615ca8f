//! Which items of uploads that went several ways were taken already, so that they do not go again.
//!
//! ```text
//! upload 4.0–5.150 ─┬─ a: taken        remembered: these items of blocks 4 and 5
//!                   └─ b: later        offered again, whole or in halves: only what b did not take goes
//! ```
//!
//! What always holds:
//! * It is remembered by items and not by uploads, so it outlives a cut; and until the books know ([`super::remainder`]), so it
//!   outlives the uplink's fall.
//! * Memory alone: after a crash what was taken of uploads under way goes again (at least once).
//! * Bounded: beyond [`RUNS_MAX`] the oldest is forgotten, which costs duplicates and nothing else.

use super::assemble::Piece;
use super::transport::Origin;
use crate::otlp::Signal;
use crate::spool::{Lane, Pos};
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

/// Runs of items that are remembered, 16 bytes each: 2 MiB. Ten uploads of 8,192 items, each of them in turn taken and
/// not, make 40,960.
const RUNS_MAX: usize = 1 << 17;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Taken {
    blocks: BTreeMap<(Lane, u64), Block>,
    /// In all of them, and one for each of them.
    runs: usize,
}

#[derive(Debug)]
struct Block {
    signal: Signal,
    /// From the first item that an upload had of it to the last, but for those that are forgotten.
    seen: Range<u32>,
    runs: Vec<Run>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    items: Range<u32>,
    /// The far end that took the request threw them away.
    rejected: bool,
}

/// What is known of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Known {
    /// Nothing: it is to be sent.
    #[default]
    Nothing,
    /// A far end has it.
    Taken,
    /// A far end threw it away.
    Rejected,
}

impl Taken {
    /// What is known of each of these items, in order.
    #[must_use]
    pub(super) fn of(&self, origin: &Origin) -> Vec<Known> {
        let mut known = Vec::new();
        for piece in &origin.pieces {
            let block = self.blocks.get(&(origin.lane, piece.index));
            push(&mut known, &piece.items, block.map_or(&[], |block| &block.runs));
        }
        known
    }

    /// What is known of each of the `items` in this range of a lane, and what they are; `None` when nothing is.
    #[must_use]
    pub(super) fn within(&self, lane: Lane, range: &Range<Pos>, items: u32) -> Option<(Signal, Vec<Known>)> {
        let (mut known, mut signal) = (Vec::new(), None);
        for (index, here) in blocks_of(range, self.blocks.range(span(lane, range)).map(|((_, index), _)| *index)) {
            let block = &self.blocks[&(lane, index)];
            let here = here.start.max(block.seen.start)..here.end.min(block.seen.end);
            if here.start < here.end {
                push(&mut known, &here, &block.runs);
                signal = Some(block.signal);
            }
        }
        // Should it not be all of them, nobody knows which they are.
        let is_known = known.len() == items as usize && known.iter().any(|known| *known != Known::Nothing);
        signal.filter(|_| is_known).map(|signal| (signal, known))
    }

    /// Remembers these, of the items an upload has.
    pub(super) fn remember(&mut self, signal: Signal, origin: &Origin, known: &[Known]) {
        if known.iter().all(|known| *known == Known::Nothing) {
            return;
        }
        let mut known = known.iter();
        for Piece { index, items } in &origin.pieces {
            let runs = runs(items.clone(), &mut known);
            let block = self.blocks.entry((origin.lane, *index)).or_insert_with(|| {
                self.runs += 1;
                Block { signal, seen: items.clone(), runs: Vec::new() }
            });
            block.seen = block.seen.start.min(items.start)..block.seen.end.max(items.end);
            self.runs -= block.runs.len();
            cut_out(&mut block.runs, items);
            block.runs.extend(runs);
            self.runs += block.runs.len();
        }
        while self.runs > RUNS_MAX {
            let Some((_, oldest)) = self.blocks.pop_first() else { break };
            self.runs -= 1 + oldest.runs.len();
        }
    }

    /// The books have what became of this range: nothing of it needs to be known any more.
    pub(super) fn forget(&mut self, lane: Lane, range: &Range<Pos>) {
        let known: Vec<u64> = self.blocks.range(span(lane, range)).map(|((_, index), _)| *index).collect();
        for (index, items) in blocks_of(range, known.into_iter()) {
            let Some(block) = self.blocks.get_mut(&(lane, index)) else { continue };
            self.runs -= block.runs.len();
            cut_out(&mut block.runs, &items);
            self.runs += block.runs.len();
            if items.start <= block.seen.start {
                block.seen.start = block.seen.start.max(items.end);
            }
            if items.end >= block.seen.end {
                block.seen.end = block.seen.end.min(items.start);
            }
            if block.seen.start >= block.seen.end {
                self.runs -= 1 + block.runs.len();
                self.blocks.remove(&(lane, index));
            }
        }
    }
}

/// The keys of the blocks that a range touches.
fn span(lane: Lane, range: &Range<Pos>) -> RangeInclusive<(Lane, u64)> {
    (lane, range.start.index)..=(lane, range.end.index.max(range.start.index))
}

/// Which items of these blocks lie in a range.
fn blocks_of(range: &Range<Pos>, blocks: impl Iterator<Item = u64>) -> impl Iterator<Item = (u64, Range<u32>)> {
    blocks.map(|index| {
        let from = if index == range.start.index { range.start.item } else { 0 };
        let to = if index == range.end.index { range.end.item } else { u32::MAX };
        (index, from..to)
    })
}

/// What these runs say of each of the items.
fn push(known: &mut Vec<Known>, items: &Range<u32>, runs: &[Run]) {
    let start = known.len();
    known.resize(start + items.len(), Known::Nothing);
    for run in runs {
        for item in run.items.start.max(items.start)..run.items.end.min(items.end) {
            let at = start + (item - items.start) as usize;
            known[at] = if run.rejected { Known::Rejected } else { Known::Taken };
        }
    }
}

/// What the next of `known` say of these items.
fn runs<'a>(items: Range<u32>, known: &mut impl Iterator<Item = &'a Known>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (item, known) in items.zip(known) {
        let rejected = *known == Known::Rejected;
        match runs.last_mut() {
            _ if *known == Known::Nothing => {}
            Some(run) if run.items.end == item && run.rejected == rejected => run.items.end = item + 1,
            _ => runs.push(Run { items: item..item + 1, rejected }),
        }
    }
    runs
}

fn cut_out(runs: &mut Vec<Run>, items: &Range<u32>) {
    let around = |run: &Run| {
        let piece = |from: u32, to: u32| (from < to).then(|| Run { items: from..to, ..run.clone() });
        let before = piece(run.items.start, run.items.end.min(items.start));
        let after = piece(run.items.start.max(items.end), run.items.end);
        before.into_iter().chain(after)
    };
    *runs = runs.iter().flat_map(around).collect();
}

#[cfg(test)]
mod tests {
    use super::Known::{Nothing as N, Rejected as R, Taken as T};
    use super::*;
    use crate::base::Dice;

    fn origin(pieces: &[(u64, Range<u32>)]) -> Origin {
        let piece = |(index, items): &(u64, Range<u32>)| Piece { index: *index, items: items.clone() };
        Origin { lane: Lane(1), pieces: pieces.iter().map(piece).collect() }
    }

    fn range(from: (u64, u32), to: (u64, u32)) -> Range<Pos> {
        let pos = |(index, item)| Pos { index, item };
        pos(from)..pos(to)
    }

    #[test]
    fn what_was_taken_is_known_of_the_upload_and_of_its_halves() {
        let mut taken = Taken::default();
        let whole = origin(&[(4, 7..10), (5, 0..4)]);
        assert_eq!(taken.of(&whole), [N; 7]);
        assert_eq!(taken.within(Lane(1), &range((4, 0), (6, 0)), 7), None);
        taken.remember(Signal::Logs, &whole, &[T, N, R, R, T, N, N]);
        assert_eq!(taken.of(&whole), [T, N, R, R, T, N, N]);
        assert_eq!(taken.of(&origin(&[(4, 7..9)])), [T, N]);
        assert_eq!(taken.of(&origin(&[(4, 9..10), (5, 0..4)])), [R, R, T, N, N]);
        assert_eq!(taken.of(&Origin { lane: Lane(2), ..whole.clone() }), [N; 7], "another lane");
        taken.remember(Signal::Logs, &origin(&[(5, 2..4)]), &[T, N]);
        assert_eq!(taken.of(&whole), [T, N, R, R, T, T, N]);
        for (from, to, known) in [
            ((4, 0), (6, 0), Some(&[T, N, R, R, T, T, N][..])), // as a window has it
            ((4, 7), (5, 4), Some(&[T, N, R, R, T, T, N])),
            ((4, 8), (5, 1), Some(&[N, R, R])),
            ((5, 0), (6, 0), Some(&[R, T, T, N])),
            ((5, 3), (6, 0), None), // nothing is known of it
        ] {
            let items = known.map_or(1, |known| u32::try_from(known.len()).expect("few"));
            let found = taken.within(Lane(1), &range(from, to), items);
            assert_eq!(found, known.map(|known| (Signal::Logs, known.to_vec())), "{from:?}..{to:?}");
            assert_eq!(
                taken.within(Lane(1), &range(from, to), items + 1),
                None,
                "of another number nobody knows which"
            );
        }
        taken.forget(Lane(1), &range((4, 7), (5, 1)));
        assert_eq!(taken.of(&whole), [N, N, N, N, T, T, N]);
        assert_eq!(taken.within(Lane(1), &range((5, 1), (6, 0)), 3), Some((Signal::Logs, vec![T, T, N])));
        taken.forget(Lane(1), &range((4, 0), (6, 0)));
        assert!(taken.blocks.is_empty() && taken.runs == 0);
    }

    /// Goal: what is known is what a plain table would hold, and memory is bounded.
    #[test]
    fn it_is_a_table_of_items() {
        let (mut dice, mut taken) = (Dice::seeded(7), Taken::default());
        let mut table = vec![N; 400];
        for _ in 0..3_000 {
            let from = dice.within(0..399);
            let to = dice.within(from + 1..401).min(400);
            let (index, items) = (from / 100, u32::try_from(from % 100).expect("small"));
            let end = u32::try_from(to.min((index + 1) * 100) - index * 100).expect("small");
            let part = origin(&[(index, items..end)]);
            let places =
                usize::try_from(from).expect("small")..usize::try_from(index * 100 + u64::from(end)).expect("small");
            if dice.chance(1, 4) {
                let (from, to) = (Pos { index, item: items }, Pos { index, item: end });
                taken.forget(Lane(1), &(from..to));
                table[places].fill(N);
            } else {
                let known: Vec<Known> =
                    table[places.clone()].iter().map(|before| if dice.chance(1, 2) { T } else { *before }).collect();
                taken.remember(Signal::Logs, &part, &known);
                table[places].copy_from_slice(&known);
            }
            assert_eq!(taken.of(&origin(&[(0, 0..100), (1, 0..100), (2, 0..100), (3, 0..100)])), table);
            assert_eq!(taken.runs, taken.blocks.values().map(|block| 1 + block.runs.len()).sum::<usize>());
        }
        let checkered: Vec<Known> = (0..100_000).map(|n| if n % 2 == 0 { T } else { N }).collect();
        for index in 0..20 {
            taken.remember(Signal::Logs, &origin(&[(index, 0..100_000)]), &checkered);
            assert!(taken.runs <= RUNS_MAX);
        }
        assert_eq!(taken.of(&origin(&[(19, 0..2)])), [T, N], "the newest is known");
    }
}
