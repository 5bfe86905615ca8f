//! The ledger against the plainest bookkeeping: one lane, one exporter that comes and goes, commits that fail, evictions
//! and restarts in any order.

use super::*;
use crate::spool::Reason;
use proptest::prelude::*;

const CUT: Cut = Cut { enough_items: 100, max_items: 0, max_bytes: 1 << 20 };
/// A total beyond any.
const TIP: u64 = u64::MAX - 1;
const LOST: usize = Reason::Evicted as usize;

#[derive(Debug, Clone)]
enum Op {
    Commit(u8),
    /// A commit that was answered with an error; whether its block is found on the disk all the same.
    Fail(u8, bool),
    Leave,
    Return,
    /// Takes a window of at most so many blocks, of this kind.
    Take(usize, Pick),
    Settle(prop::sample::Index),
    GiveBack(prop::sample::Index),
    /// Everything up to this block goes.
    Evict(prop::sample::Index),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let i = || any::<prop::sample::Index>();
    prop_oneof![
        8 => (1..9_u8).prop_map(Op::Commit),
        2 => (1..9_u8, any::<bool>()).prop_map(|(n, found)| Op::Fail(n, found)),
        3 => Just(Op::Leave),
        3 => Just(Op::Return),
        6 => (1..5_usize, kind()).prop_map(|(n, pick)| Op::Take(n, pick)),
        5 => i().prop_map(Op::Settle),
        1 => i().prop_map(Op::GiveBack),
        1 => i().prop_map(Op::Evict),
        1 => Just(Op::Reopen),
    ]
}

/// Nothing of this lane is young: each live window leaves a backlog behind.
fn kind() -> impl Strategy<Value = Pick> {
    let stale = Duration::ZERO;
    prop_oneof![
        3 => Just(Pick::Oldest),
        4 => Just(Pick::Live { stale }),
        2 => any::<bool>().prop_map(|newest| Pick::Backlog { newest }),
    ]
}

/// A block, as somebody who looks at everything knows it.
#[derive(Debug, Clone)]
struct Plain {
    index: u64,
    totals: Range<u64>,
    /// It was acknowledged.
    stands: bool,
    /// It can be found.
    there: bool,
    /// The exporter read the lane when it came in.
    own: bool,
    delivered: bool,
    lost: bool,
}

impl Plain {
    fn items(&self) -> u64 {
        self.totals.end - self.totals.start
    }

    fn waits(&self) -> bool {
        self.stands && self.own && !self.delivered && !self.lost
    }
}

struct Run {
    ledger: Ledger,
    epoch: u32,
    lane: Lane,
    owner: Owner,
    away: bool,
    blocks: Vec<Plain>,
    /// Indices of windows that are out.
    out: Vec<Range<u64>>,
}

impl Run {
    fn start() -> Run {
        let mut ledger = Ledger::new(1);
        let lane = ledger.lane("logs", Signal::Logs);
        let owner = ledger.own("otlphttp", &[lane]);
        Run { ledger, epoch: 1, lane, owner, away: false, blocks: Vec::new(), out: Vec::new() }
    }

    fn commit(&mut self, items: u8, stands: bool, there: bool) {
        let block = NewBlock {
            lane: self.lane,
            signal: Signal::Logs,
            block_id: 0,
            items: items.into(),
            raw_len: 1,
            accepted: Stamp::default(),
            boot: None,
            data_ns: (0, 0),
            framed: crate::spool::block::frame(b"x"),
        };
        let numbered = self.ledger.number(vec![block], BootId::default());
        let header = numbered.blocks[0].0;
        if stands {
            self.ledger.committed(&[header])
        } else {
            self.ledger.failed(&[header])
        }
        self.blocks.push(Plain {
            index: header.index,
            totals: header.accepted_before()..header.accepted_total,
            stands,
            there,
            own: !self.away,
            delivered: false,
            lost: false,
        });
    }

    /// As the store reads: what is there, from where it is unread on, up to a gap, to its own end, or to enough.
    fn take(&mut self, most: usize, pick: Pick) {
        let now = Stamp { wall_ns: 0, mono_ms: 1_000 };
        match self.ledger.plan(self.owner, self.lane, pick, 10, now).expect("it is the owner") {
            Plan::Nothing => {}
            Plan::Again(window) => self.out.push(window.index),
            Plan::From(Front { index, total, floats, .. }) => {
                let (end_index, end) = self.ledger.end(self.owner.exporter, self.lane, total);
                let mut taken: Vec<Plain> = Vec::new();
                let burnt = |b: &Plain| overlap(&self.ledger.lanes[&self.lane.0].burnt, &b.totals) > 0;
                let found = self.blocks.iter().filter(|b| b.there && !b.lost && b.index >= index && !burnt(b));
                for block in found.filter(|b| b.index < end_index) {
                    let follows =
                        taken.last().map_or(block.totals.start >= total, |l| l.totals.end == block.totals.start);
                    if !follows || taken.len() == most || block.totals.end > end {
                        break;
                    }
                    taken.push(block.clone());
                }
                let (Some(first), Some(last)) = (taken.first(), taken.last()) else {
                    let (from, to) = ((index, total), (end_index, end));
                    self.ledger.pass(self.owner.exporter, self.lane, from, to, Fate::Lost(Reason::Corrupt));
                    return;
                };
                for block in &taken {
                    assert!(block.waits(), "what is handed out waits for it: {block:?}");
                }
                let (index, totals) = (first.index..last.index + 1, first.totals.start..last.totals.end);
                let window = self.ledger.take_new(self.owner, self.lane, floats, index, totals, CUT);
                self.out.push(window.expect("nothing moved").index);
            }
        }
    }

    fn settle(&mut self, at: usize) {
        let index = self.out.swap_remove(at);
        let cursor = self.ledger.cursor_mut(self.owner.exporter, self.lane).expect("it reads the lane");
        let Some(window) = cursor.window(&index).filter(|w| w.out) else { return }; // evicted meanwhile
        assert!(window.settled.is_empty());
        cursor.settle(&window.totals, Fate::Delivered { rejected: 0 }).expect("it is out");
        cursor.confirm(&window.totals);
        let inside = self.blocks.iter_mut().filter(|b| window.totals.contains(&b.totals.start) && b.stands && b.own);
        inside.for_each(|b| b.delivered = true);
    }

    fn evict(&mut self, at: usize) {
        let last = self.blocks[at].clone();
        self.ledger.evict(self.lane, last.index + 1, last.totals.end, Fate::Lost(Reason::Evicted));
        for block in &mut self.blocks[..=at] {
            block.there = false;
            block.lost |= block.waits();
        }
    }

    /// Everything that was said is written, and read back by the next life.
    fn reopen(&mut self) {
        self.epoch += 1;
        let mut next = Ledger::new(self.epoch);
        for (key, record) in self.ledger.take_records(true) {
            next.restore(&key, &record).expect("just written");
        }
        next.heal();
        self.owner = next.own("otlphttp", &[]); // it joins nothing: who is away stays so
        self.ledger = next;
        self.out.clear();
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Commit(n) => self.commit(*n, true, true),
            Op::Fail(n, there) => self.commit(*n, false, *there),
            Op::Leave => {
                self.ledger.leave_all(|_, _| false);
                self.away = self.ledger.cursor_mut(self.owner.exporter, self.lane).expect("it joined").is_away();
            }
            Op::Return => {
                self.ledger.admit("otlphttp", &[self.lane]);
                self.away = false;
            }
            Op::Take(most, pick) => self.take(*most, *pick),
            Op::Settle(at) if !self.out.is_empty() => self.settle(at.index(self.out.len())),
            Op::GiveBack(at) if !self.out.is_empty() => {
                let index = self.out.swap_remove(at.index(self.out.len()));
                self.ledger.cursor_mut(self.owner.exporter, self.lane).expect("it joined").give_back(&index);
            }
            Op::Evict(at) if !self.blocks.is_empty() => self.evict(at.index(self.blocks.len())),
            Op::Settle(_) | Op::GiveBack(_) | Op::Evict(_) => {}
            Op::Reopen => self.reopen(),
        }
        self.check();
    }

    fn check(&mut self) {
        let sum = |which: fn(&&Plain) -> bool| self.blocks.iter().filter(which).map(Plain::items).sum::<u64>();
        let book = self.ledger.books().pop().expect("one lane, one exporter");
        let mut lost = [0; Reason::ALL.len()];
        lost[LOST] = sum(|b| b.lost);
        assert_eq!(
            (book.accepted, book.delivered, book.lost, book.waiting),
            (sum(|b| b.stands && b.own), sum(|b| b.delivered), lost, sum(|b| b.waits())),
        );
        for block in &self.blocks {
            let one = block.index..block.index + 1;
            if block.waits() {
                assert!(self.ledger.is_live(self.lane, block.index), "it waits: {block:?}");
                assert!(self.ledger.needed(self.lane, &one) > 0, "it waits: {block:?}");
            } else if block.stands && !block.own {
                assert_eq!(self.ledger.needed(self.lane, &one), 0, "nobody was there: {block:?}");
                assert!(!self.ledger.is_live(self.lane, block.index), "nobody was there: {block:?}");
            }
        }
        self.ledger.cursor_mut(self.owner.exporter, self.lane).expect("it joined").audit();
    }

    /// What waits gets out, also to one that is away; and then nothing is needed any more.
    fn drain(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the drain has an end: {:?}", self.ledger);
            let before = self.ledger.books();
            self.take(3, [Pick::Oldest, Pick::Backlog { newest: true }][round % 2]);
            if let Some(last) = self.out.len().checked_sub(1) {
                self.settle(last);
            } else if self.ledger.waiting_items() == 0 && before == self.ledger.books() {
                break;
            }
            self.check();
        }
        let all = self.blocks.first().map(|b| b.index).zip(self.blocks.last().map(|b| b.index));
        if let Some((first, last)) = all {
            (0..3).for_each(|_| self.take(1, Pick::Oldest)); // passes what is left of burnt items
            assert_eq!(self.ledger.needed(self.lane, &(first..last + 1)), 0, "{:?}", self.ledger);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..crate::spool::tests::cases(1_024) })]

    #[test]
    fn the_ledger_agrees_with_plain_bookkeeping(ops in prop::collection::vec(op(), 1..120)) {
        let mut run = Run::start();
        for op in &ops {
            run.apply(op);
        }
        run.drain();
    }
}

/// What a start restores of these books' records, but for those under `without`; for them `older` ones stand in.
fn restored(newer: Vec<Record>, older: &[Record], without: &[Vec<u8>]) -> Ledger {
    let records = newer.into_iter().map(|(key, record)| match without.contains(&key) {
        false => Some((key, record)),
        true => older.iter().find(|(known, _)| *known == key).cloned(),
    });
    let read = crate::spool::survey::Read { records: records.flatten().collect(), ..Default::default() };
    let mut ledger = Ledger::new(2);
    assert!(ledger.restore_all(&read).is_empty());
    ledger
}

/// Goal: the books add up whichever record of a commit was lost, so that an older one stands in for it: what left its lane and
/// stands nowhere is lost, and nothing stands in two places.
#[test]
fn records_of_different_times_make_books_that_add_up() {
    let mut run = Run::start();
    (0..4).for_each(|_| run.commit(5, true, true));
    let park = run.ledger.side_lane(Side::Park, run.owner.exporter, run.lane);
    let older = run.ledger.take_records(true);
    // Two blocks are parked, and one of them delivered from there.
    for n in 0..2 {
        let b = run.blocks[n].clone();
        let window = run
            .ledger
            .take_new(run.owner, run.lane, false, b.index..b.index + 1, b.totals.clone(), CUT)
            .expect("there");
        let cursor = run.ledger.cursor_mut(run.owner.exporter, run.lane).expect("it reads");
        let part = cursor.settle(&window.totals, Fate::Parked).expect("out");
        cursor.confirm(&part);
        let header = run.ledger.number(vec![five_items(park)], BootId::default()).blocks[0].0;
        run.ledger.committed(&[header]);
    }
    let (_, end) = run.ledger.end(run.owner.exporter, park, TIP);
    let (first, _) = run.ledger.cursor_mut(run.owner.exporter, park).expect("it reads").frontier();
    let window = run.ledger.take_new(run.owner, park, false, first..first + 1, end - 10..end - 5, CUT).expect("there");
    let cursor = run.ledger.cursor_mut(run.owner.exporter, park).expect("it reads");
    let part = cursor.settle(&window.totals, Fate::Delivered { rejected: 0 }).expect("out");
    cursor.confirm(&part);
    let newer = run.ledger.take_records(true);
    let keys: Vec<Vec<u8>> = newer.iter().map(|(key, _)| key.clone()).collect();
    let whole = run.ledger.books();
    let (mut lost, mut back) = (0, 0);
    for chosen in 0..1_u32 << keys.len() {
        let without: Vec<Vec<u8>> =
            keys.iter().enumerate().filter(|(n, _)| chosen & (1 << n) != 0).map(|(_, key)| key.clone()).collect();
        let books = restored(newer.clone(), &older, &without).books(); // it audits itself
        let book = &books[0];
        assert_eq!(book.sum(), book.accepted, "without {without:?}: {book:?}");
        assert_eq!(book.accepted, whole[0].accepted, "without {without:?}: {book:?}");
        lost += u64::from(book.lost[Reason::Corrupt as usize] > 0);
        back += u64::from(book.waiting > whole[0].waiting);
    }
    assert!(lost > 0 && back > 0, "both happened: {lost}, {back}");
}

/// Goal: what gives way and was not known of was accepted: the books add up, and what comes in next has a place of its own.
#[test]
fn what_gives_way_beyond_the_tip_was_accepted() {
    let mut run = Run::start();
    run.commit(5, true, true);
    let (index, tip) = run.ledger.end(run.owner.exporter, run.lane, TIP);
    assert_eq!(run.ledger.evict(run.lane, index + 3, tip + 30, Fate::Lost(Reason::Evicted)), 35);
    let book = run.ledger.books().remove(0); // it audits itself
    assert_eq!((book.accepted, book.sum(), book.lost[LOST]), (35, 35, 35), "{book:?}");
    run.commit(5, true, true);
    let next = run.blocks.last().expect("committed");
    assert_eq!((next.index, next.totals.clone()), (index + 3, 35..40));
}

/// Goal: where the disk did not give the newest book, new totals begin behind all it may hold, what is found there counts and the
/// rest does not, at the next start too; in a side lane nothing does, for by this book its items stand in their own.
#[test]
fn what_a_disk_did_not_give_counts_when_it_is_found() {
    let mut run = Run::start();
    (0..2).for_each(|_| run.commit(5, true, true));
    let park = run.ledger.side_lane(Side::Park, run.owner.exporter, run.lane);
    let records = run.ledger.take_records(true);
    (0..3).for_each(|_| run.commit(5, true, true)); // in the book that is not given
    let hidden = run.blocks[3].clone();
    let read = crate::spool::survey::Read { records, is_partial: true, ..Default::default() };
    let mut ledger = Ledger::new(2);
    assert!(ledger.restore_all(&read).is_empty());
    let (_, tip) = ledger.end(run.owner.exporter, run.lane, TIP);
    let (books, waiting) = (ledger.books(), ledger.waiting_items());
    assert!(tip > 1 << 40 && ledger.lane("another", Signal::Logs).0 > 1_000, "{ledger:?}");
    assert_eq!((books[0].accepted, waiting), (10, 10), "{books:?}");
    let mut header = ledger.number(vec![five_items(run.lane)], BootId::default()).blocks[0].0;
    assert_eq!(header.accepted_before(), tip);
    (header.index, header.accepted_total) = (hidden.index, hidden.totals.end);
    ledger.found(&header);
    assert_eq!(ledger.books()[0].accepted, 20, "with the block before it");
    let (_, park_tip) = ledger.end(run.owner.exporter, park, TIP);
    let in_park = Header { lane: park, accepted_total: 5, ..header };
    assert!(park_tip > 1 << 40 && ledger.is_burnt(&in_park) && !ledger.is_burnt(&header));
    let read = crate::spool::survey::Read { records: ledger.take_records(true), ..Default::default() };
    let mut again = Ledger::new(3);
    assert!(again.restore_all(&read).is_empty());
    assert_eq!((again.books(), again.end(run.owner.exporter, run.lane, TIP).1), (ledger.books(), tip));
}

/// Goal: a block whose place another one has is counted as accepted and lost, also by who reads from the lane's beginning on.
#[test]
fn what_has_no_place_of_its_own_is_counted() {
    let mut run = Run::start();
    run.commit(5, true, true);
    run.ledger.cursor_mut(run.owner.exporter, run.lane).expect("it reads").lose_beside(7);
    for _ in 0..2 {
        let book = run.ledger.books().remove(0); // it audits itself
        assert_eq!((book.accepted, book.sum(), book.lost[Reason::Corrupt as usize]), (12, 12, 7), "{book:?}");
        run.ledger = restored(run.ledger.take_records(true), &[], &[]);
    }
}

/// A block of five items.
fn five_items(lane: Lane) -> NewBlock {
    NewBlock {
        lane,
        signal: Signal::Logs,
        block_id: 0,
        items: 5,
        raw_len: 1,
        accepted: Stamp::default(),
        boot: None,
        data_ns: (0, 0),
        framed: crate::spool::block::frame(b"x"),
    }
}
