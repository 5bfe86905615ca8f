//! The books of numbered telemetry: what was issued, what was acknowledged, what arrived; a bit per item and book.
//!
//! Lost is what was acknowledged and did not arrive. What was issued and not acknowledged may arrive or not: an
//! answer that got lost on its way back is nobody's fault. What arrived and was never issued is invented.

use super::numbered::{Mark, Source};
use crate::otlp::Signal;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// A set of numbers, 4,096 to a page: dense runs cost a bit each, and one wild number costs one page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    pages: BTreeMap<u64, Box<[u64; PAGE_WORDS]>>,
    len: u64,
}

const PAGE_WORDS: usize = 64;
const PAGE_BITS: u64 = 64 * PAGE_WORDS as u64;

impl Bits {
    /// Adds `n`; false when it was there already.
    pub fn insert(&mut self, n: u64) -> bool {
        let page = self.pages.entry(n / PAGE_BITS).or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let (word, bit) = place(n);
        let new = page[word] & bit == 0;
        page[word] |= bit;
        self.len += u64::from(new);
        new
    }

    /// Adds all of `range`.
    pub fn insert_all(&mut self, range: Range<u64>) {
        for n in range {
            self.insert(n);
        }
    }

    /// Adds all of `other`, word by word: a judge that asks all the time holds up whom it asks. How many of them were there already.
    pub fn absorb(&mut self, other: &Bits) -> u64 {
        let before = self.len;
        for (&page, theirs) in &other.pages {
            let mine = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_WORDS]));
            for (mine, theirs) in mine.iter_mut().zip(theirs.iter()) {
                self.len += u64::from((theirs & !*mine).count_ones());
                *mine |= theirs;
            }
        }
        other.len - (self.len - before)
    }

    /// Is `n` in it?
    #[must_use]
    pub fn contains(&self, n: u64) -> bool {
        let (word, bit) = place(n);
        self.pages.get(&(n / PAGE_BITS)).is_some_and(|page| page[word] & bit != 0)
    }

    /// How many numbers are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is in this one and not in `other`, ascending, as runs.
    #[must_use]
    pub fn without(&self, other: &Bits) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (&page, words) in &self.pages {
            let theirs = other.pages.get(&page);
            for (word, &mine) in words.iter().enumerate() {
                let mut left = mine & !theirs.map_or(0, |words| words[word]);
                while left != 0 {
                    let n = page * PAGE_BITS + word as u64 * 64 + u64::from(left.trailing_zeros());
                    left &= left - 1;
                    match runs.last_mut() {
                        Some(run) if run.end == n => run.end = n + 1,
                        _ => runs.push(n..n + 1),
                    }
                }
            }
        }
        runs
    }
}

fn place(n: u64) -> (usize, u64) {
    let within = n % PAGE_BITS;
    (usize::try_from(within / 64).expect("a word of a page"), 1 << (within % 64))
}

/// The books of every stream.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    streams: BTreeMap<(Signal, Source), Stream>,
    /// Items that bore no number, by signal: heartbeats, gap reports, foreign clients.
    unnumbered: BTreeMap<Signal, u64>,
    /// Sources below are closed; see [`Tally::close`].
    closed: u32,
    /// Arrivals of closed sources.
    late: u64,
}

#[derive(Debug, Clone, Default)]
struct Stream {
    issued: Bits,
    acknowledged: Bits,
    arrived: Bits,
    highest: Option<u64>,
    duplicated: u64,
    reordered: u64,
}

impl Tally {
    /// The client made these.
    pub fn issued(&mut self, signal: Signal, source: Source, seqs: Range<u64>) {
        self.stream(signal, source).issued.insert_all(seqs);
    }

    /// The agent answered for these: it owes them to the far end. Counts as issued too.
    pub fn acknowledged(&mut self, signal: Signal, source: Source, seqs: Range<u64>) {
        let stream = self.stream(signal, source);
        stream.issued.insert_all(seqs.clone());
        stream.acknowledged.insert_all(seqs);
    }

    /// The far end took this; `None` for an item without a number.
    pub fn arrived(&mut self, signal: Signal, mark: Option<Mark>) {
        let Some(mark) = mark else {
            *self.unnumbered.entry(signal).or_default() += 1;
            return;
        };
        if mark.source.0 < self.closed {
            self.late += 1;
            return;
        }
        let stream = self.stream(signal, mark.source);
        if !stream.arrived.insert(mark.seq) {
            stream.duplicated += 1;
            return;
        }
        if stream.highest.is_some_and(|highest| mark.seq < highest) {
            stream.reordered += 1;
        }
        stream.highest = stream.highest.max(Some(mark.seq));
    }

    /// Closes the books of every source below `first`: what was counted of them is forgotten, and what still arrives is
    /// [`Tally::late`]. For runs of days, whose bits would add up.
    pub fn close(&mut self, first: Source) {
        self.closed = self.closed.max(first.0);
        let closed = self.closed;
        self.streams.retain(|(_, source), _| source.0 >= closed);
    }

    /// Arrivals of sources whose books were closed.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Has this item arrived?
    #[must_use]
    pub fn has(&self, signal: Signal, mark: Mark) -> bool {
        self.streams.get(&(signal, mark.source)).is_some_and(|stream| stream.arrived.contains(mark.seq))
    }

    /// Different items of this signal that arrived, of all sources.
    #[must_use]
    pub fn arrivals(&self, signal: Signal) -> u64 {
        self.streams.iter().filter(|((s, _), _)| *s == signal).map(|(_, stream)| stream.arrived.len()).sum()
    }

    /// Items without a number that arrived.
    #[must_use]
    pub fn unnumbered(&self, signal: Signal) -> u64 {
        self.unnumbered.get(&signal).copied().unwrap_or_default()
    }

    /// Adds what another tally knows: the sender's books and the far end's make one. Orders are not compared.
    pub fn merge(&mut self, other: &Tally) {
        for (&(signal, source), theirs) in &other.streams {
            let stream = self.stream(signal, source);
            stream.issued.absorb(&theirs.issued);
            stream.acknowledged.absorb(&theirs.acknowledged);
            stream.duplicated += stream.arrived.absorb(&theirs.arrived);
            stream.duplicated += theirs.duplicated;
            stream.reordered += theirs.reordered;
            stream.highest = stream.highest.max(theirs.highest);
        }
        for (&signal, &items) in &other.unnumbered {
            *self.unnumbered.entry(signal).or_default() += items;
        }
    }

    /// What became of everything.
    #[must_use]
    pub fn report(&self) -> Report {
        let streams = self.streams.iter().map(|(&(signal, source), stream)| StreamReport {
            signal,
            source,
            issued: stream.issued.len(),
            acknowledged: stream.acknowledged.len(),
            arrived: stream.arrived.len(),
            lost: stream.acknowledged.without(&stream.arrived),
            never_issued: stream.arrived.without(&stream.issued),
            duplicated: stream.duplicated,
            reordered: stream.reordered,
        });
        Report { streams: streams.collect() }
    }

    fn stream(&mut self, signal: Signal, source: Source) -> &mut Stream {
        self.streams.entry((signal, source)).or_default()
    }
}

/// What became of one source's items of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReport {
    /// Of what.
    pub signal: Signal,
    /// Whose.
    pub source: Source,
    /// Items made.
    pub issued: u64,
    /// Items the agent answered for.
    pub acknowledged: u64,
    /// Different items that arrived.
    pub arrived: u64,
    /// Answered for and not there.
    pub lost: Vec<Range<u64>>,
    /// There and made by nobody.
    pub never_issued: Vec<Range<u64>>,
    /// Arrivals beyond the first.
    pub duplicated: u64,
    /// First arrivals after one with a higher number.
    pub reordered: u64,
}

/// [`Tally::report`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// One for each signal and source.
    pub streams: Vec<StreamReport>,
}

impl Report {
    /// Items lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sum(|stream| count(&stream.lost))
    }

    /// Items nobody made.
    #[must_use]
    pub fn never_issued(&self) -> u64 {
        self.sum(|stream| count(&stream.never_issued))
    }

    /// Arrivals beyond the first.
    #[must_use]
    pub fn duplicated(&self) -> u64 {
        self.sum(|stream| stream.duplicated)
    }

    /// First arrivals out of order.
    #[must_use]
    pub fn reordered(&self) -> u64 {
        self.sum(|stream| stream.reordered)
    }

    /// Different items that arrived.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.sum(|stream| stream.arrived)
    }

    /// Items the agent answered for.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.sum(|stream| stream.acknowledged)
    }

    /// Nothing lost and nothing invented; duplicates are allowed (at least once).
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.lost() == 0 && self.never_issued() == 0
    }

    fn sum(&self, of: impl Fn(&StreamReport) -> u64) -> u64 {
        self.streams.iter().map(of).sum()
    }
}

fn count(runs: &[Range<u64>]) -> u64 {
    runs.iter().map(|run| run.end - run.start).sum()
}

/// Runs shown before "and so many more": enough to see a pattern.
const RUNS_SHOWN: usize = 5;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for s in &self.streams {
            write!(
                f,
                "{} of source {}: {} issued, {} acknowledged, {} arrived, {} duplicated, {} reordered",
                s.signal, s.source.0, s.issued, s.acknowledged, s.arrived, s.duplicated, s.reordered
            )?;
            for (what, runs) in [("lost", &s.lost), ("never issued", &s.never_issued)] {
                if !runs.is_empty() {
                    write!(f, ", {} {what}:", count(runs))?;
                    for run in runs.iter().take(RUNS_SHOWN) {
                        write!(f, " {}..{}", run.start, run.end)?;
                    }
                    if runs.len() > RUNS_SHOWN {
                        write!(f, " and {} runs more", runs.len() - RUNS_SHOWN)?;
                    }
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init)] // a list of runs that happens to have one
    use super::*;

    const SOURCE: Source = Source(4);

    fn tally(acknowledged: Range<u64>, arrivals: &[u64]) -> StreamReport {
        let mut tally = Tally::default();
        tally.acknowledged(Signal::Logs, SOURCE, acknowledged);
        for &seq in arrivals {
            tally.arrived(Signal::Logs, Some(Mark { source: SOURCE, seq }));
        }
        tally.report().streams.remove(0)
    }

    #[test]
    #[rustfmt::skip]
    fn what_became_of_each_item_is_decided() {
        for (arrivals, lost, never, duplicated, reordered) in [
            (&[0, 1, 2, 3][..],    vec![],           vec![],         0, 0),
            (&[0, 3],              vec![1..3],       vec![],         0, 0),
            (&[],                  vec![0..4],       vec![],         0, 0),
            (&[0, 1, 1, 2, 3, 0],  vec![],           vec![],         2, 0),
            (&[3, 2, 1, 0],        vec![],           vec![],         0, 3),
            (&[0, 2, 1, 2, 3],     vec![],           vec![],         1, 1),
            (&[0, 1, 2, 3, 9],     vec![],           vec![9..10],    0, 0),
            (&[1, 1 << 60],        vec![0..1, 2..4], vec![1 << 60..(1 << 60) + 1], 0, 0),
        ] {
            let s = tally(0..4, arrivals);
            assert_eq!((s.lost, s.never_issued, s.duplicated, s.reordered), (lost, never, duplicated, reordered), "{arrivals:?}");
        }
    }

    #[test]
    fn streams_are_told_apart_and_an_unacknowledged_item_is_not_lost() {
        let mut tally = Tally::default();
        tally.issued(Signal::Logs, SOURCE, 0..10);
        tally.acknowledged(Signal::Logs, SOURCE, 0..5);
        tally.acknowledged(Signal::Traces, SOURCE, 0..5);
        for seq in 0..7 {
            tally.arrived(Signal::Logs, Some(Mark { source: SOURCE, seq }));
        }
        tally.arrived(Signal::Logs, None);
        let report = tally.report();
        assert_eq!((report.lost(), report.never_issued(), report.arrived()), (5, 0, 7), "{report}");
        assert!(!report.is_whole());
        assert_eq!((tally.arrivals(Signal::Logs), tally.unnumbered(Signal::Logs)), (7, 1));
        assert!(
            report.to_string().contains(
                "traces of source 4: 5 issued, 5 acknowledged, 0 arrived, 0 duplicated, 0 reordered, 5 lost: 0..5"
            ),
            "{report}"
        );
    }

    #[test]
    fn a_closed_source_is_forgotten_and_what_comes_late_is_nobodys_invention() {
        let mut tally = Tally::default();
        for source in [Source(1), Source(2)] {
            tally.acknowledged(Signal::Logs, source, 0..5);
        }
        tally.close(Source(2));
        tally.arrived(Signal::Logs, Some(Mark { source: Source(1), seq: 3 }));
        let report = tally.report();
        assert_eq!((report.streams.len(), report.lost(), report.never_issued(), tally.late()), (1, 5, 0, 1));
    }

    #[test]
    fn two_books_make_one() {
        let (mut sender, mut far_end) = (Tally::default(), Tally::default());
        sender.acknowledged(Signal::Metrics, SOURCE, 0..5_000);
        for seq in (0..5_000).filter(|seq| *seq != 4_096) {
            far_end.arrived(Signal::Metrics, Some(Mark { source: SOURCE, seq }));
        }
        sender.merge(&far_end);
        assert_eq!(sender.report().streams[0].lost, [4_096..4_097]);
        sender.merge(&far_end);
        let twice = &sender.report().streams[0];
        assert_eq!((twice.acknowledged, twice.arrived, twice.duplicated), (5_000, 4_999, 4_999));
    }

    #[test]
    fn millions_of_items_cost_a_bit_each_and_a_wild_number_one_page() {
        let mut bits = Bits::default();
        bits.insert_all(0..1_000_000);
        assert!(!bits.insert(999_999) && bits.insert(u64::MAX));
        assert_eq!((bits.len(), bits.pages.len()), (1_000_001, 245 + 1));
        let mut other = bits.clone();
        other.insert_all(2_000_000..2_000_003);
        assert_eq!(other.without(&bits), [2_000_000..2_000_003]);
        assert!(bits.without(&other).is_empty());
    }
}
