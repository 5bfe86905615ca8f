//! Which items of uploads that went several ways were taken already, so that they do not go again.
//!
//! ```text
//! upload 4.0–5.150 ─┬─ a: taken        remembered: these items of blocks 4 and 5
//!                   └─ b: later        offered again, whole or in halves: only what b did not take goes
//! ```
//!
//! What always holds:
//! * It is remembered by items and not by uploads, so it outlives a cut.
//! * Memory alone: after a crash what was taken of uploads under way goes again (at least once).
//! * Bounded: beyond [`RUNS_MAX`] the oldest is forgotten, which costs duplicates and nothing else.

use super::assemble::Piece;
use super::transport::Origin;
use crate::spool::Lane;
use std::collections::BTreeMap;
use std::ops::Range;

/// Runs of items that are remembered, 16 bytes each: 2 MiB. Ten uploads of 8,192 items, each of them in turn taken and
/// not, make 40,960.
const RUNS_MAX: usize = 1 << 17;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Taken {
    blocks: BTreeMap<(Lane, u64), Vec<Run>>,
    runs: usize,
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
            let start = known.len();
            known.resize(start + piece.items.len(), Known::Nothing);
            for run in self.blocks.get(&(origin.lane, piece.index)).into_iter().flatten() {
                let items = run.items.start.max(piece.items.start)..run.items.end.min(piece.items.end);
                for item in items {
                    let at = start + (item - piece.items.start) as usize;
                    known[at] = if run.rejected { Known::Rejected } else { Known::Taken };
                }
            }
        }
        known
    }

    /// Remembers these, of the items an upload has.
    pub(super) fn remember(&mut self, origin: &Origin, known: &[Known]) {
        let mut known = known.iter();
        for Piece { index, items } in &origin.pieces {
            let runs = runs(items.clone(), &mut known);
            let before = match self.blocks.get_mut(&(origin.lane, *index)) {
                Some(before) => before,
                None if runs.is_empty() => continue,
                None => self.blocks.entry((origin.lane, *index)).or_default(),
            };
            self.runs -= before.len();
            cut_out(before, items);
            before.extend(runs);
            self.runs += before.len();
        }
        while self.runs > RUNS_MAX {
            let Some((_, oldest)) = self.blocks.pop_first() else { break };
            self.runs -= oldest.len();
        }
    }

    /// The upload is gone: nothing of it needs to be known any more.
    pub(super) fn forget(&mut self, origin: &Origin) {
        for piece in &origin.pieces {
            let key = (origin.lane, piece.index);
            let Some(runs) = self.blocks.get_mut(&key) else { continue };
            self.runs -= runs.len();
            cut_out(runs, &piece.items);
            self.runs += runs.len();
            if runs.is_empty() {
                self.blocks.remove(&key);
            }
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

    #[test]
    fn what_was_taken_is_known_of_the_upload_and_of_its_halves() {
        let mut taken = Taken::default();
        let whole = origin(&[(4, 7..10), (5, 0..4)]);
        assert_eq!(taken.of(&whole), [N; 7]);
        taken.remember(&whole, &[T, N, R, R, T, N, N]);
        assert_eq!(taken.of(&whole), [T, N, R, R, T, N, N]);
        assert_eq!(taken.of(&origin(&[(4, 7..9)])), [T, N]);
        assert_eq!(taken.of(&origin(&[(4, 9..10), (5, 0..4)])), [R, R, T, N, N]);
        assert_eq!(taken.of(&Origin { lane: Lane(2), ..whole.clone() }), [N; 7], "another lane");
        taken.remember(&origin(&[(5, 2..4)]), &[T, N]);
        assert_eq!(taken.of(&whole), [T, N, R, R, T, T, N]);
        taken.forget(&origin(&[(4, 7..10), (5, 0..1)]));
        assert_eq!(taken.of(&whole), [N, N, N, N, T, T, N]);
        taken.forget(&whole);
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
                taken.forget(&part);
                table[places].fill(N);
            } else {
                let known: Vec<Known> =
                    table[places.clone()].iter().map(|before| if dice.chance(1, 2) { T } else { *before }).collect();
                taken.remember(&part, &known);
                table[places].copy_from_slice(&known);
            }
            assert_eq!(taken.of(&origin(&[(0, 0..100), (1, 0..100), (2, 0..100), (3, 0..100)])), table);
            assert_eq!(taken.runs, taken.blocks.values().map(Vec::len).sum::<usize>());
        }
        let checkered: Vec<Known> = (0..100_000).map(|n| if n % 2 == 0 { T } else { N }).collect();
        for index in 0..20 {
            taken.remember(&origin(&[(index, 0..100_000)]), &checkered);
            assert!(taken.runs <= RUNS_MAX);
        }
        assert_eq!(taken.of(&origin(&[(19, 0..2)])), [T, N], "the newest is known");
    }
}
