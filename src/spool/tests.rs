//! The contract of a store, tried on both kinds against the plainest model there is.

mod caps;
mod compaction;
mod crew;
mod drain;
mod faults;
mod gaps;
mod mending;
mod retention;
mod survey;
mod wrecks;

use super::block::frame;
use super::disk::{Compaction, DiskSettings, Shed, WhenFull};
use super::store::Spool;
use super::*;
use crate::base::{Clock, Dice};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

pub(super) const CUT: Cut = Cut { enough_items: 10, max_items: 0, max_bytes: 1 << 20 };

/// A directory in memory where there is one: segments sync 45 times each.
pub(super) fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a temporary directory")
}

pub(super) fn settings(dir: &Path) -> DiskSettings {
    DiskSettings {
        directory: dir.join("spool"),
        max: Bytes::mib(512),
        min_free: Bytes(0),
        when_full: WhenFull::DropOldest,
        shed: Shed::default(),
        max_age: None,
        segment_min: Bytes(4 << 10),
        segment_max: Bytes(16 << 10),
        seal: true,
        compact: Compaction::USUAL,
    }
}

pub(super) fn open(dir: &Path, clock: &Clock) -> Spool {
    Spool::on_disk(settings(dir), clock.clone(), Dice::seeded(7))
        .expect("nothing in a directory keeps a spool from starting")
}

/// Items are numbers; a request is their bytes.
pub(super) fn block(lane: Lane, items: &[u64], id: u128, clock: &Clock) -> NewBlock {
    // Numbers alone compress too well to fill a segment; the noise is worked out from them.
    let raw: Vec<u8> = items
        .iter()
        .flat_map(|n| {
            [*n, n.wrapping_mul(0x9E37_79B9_7F4A_7C15), n.rotate_left(17).wrapping_mul(0xD6E8_FEB8_6659_FD93)]
        })
        .flat_map(u64::to_le_bytes)
        .collect();
    NewBlock {
        lane,
        signal: Signal::Logs,
        block_id: id,
        items: u32::try_from(items.len()).expect("small"),
        raw_len: u32::try_from(raw.len()).expect("small"),
        accepted: clock.now(),
        boot: None,
        data_ns: (0, 0),
        framed: frame(&raw),
    }
}

pub(super) fn items_of(raw: &[u8]) -> Vec<u64> {
    raw.chunks_exact(24).map(|c| u64::from_le_bytes(c[..8].try_into().expect("eight of twenty-four"))).collect()
}

/// The items of a lease that are not settled yet, with their places.
pub(super) fn open_items(lease: &Lease) -> Vec<(Pos, u64)> {
    let all = lease.blocks.iter().flat_map(|b| {
        items_of(&b.raw)
            .into_iter()
            .enumerate()
            .map(|(i, n)| (Pos { index: b.index, item: u32::try_from(i).expect("small") }, n))
    });
    all.filter(|(pos, _)| !lease.settled.iter().any(|s| s.contains(pos))).collect()
}

/// One upload's part: `n` open items of the lease from `at`, as long as they are neighbours.
fn part_of(lease: &Lease, at: usize, n: usize) -> Option<(Range<Pos>, Vec<u64>)> {
    let open = open_items(lease);
    let sizes: BTreeMap<u64, u32> = lease.blocks.iter().map(|b| (b.index, b.items)).collect();
    let after = |p: Pos| {
        let next = Pos { index: p.index, item: p.item + 1 };
        if next.item < sizes[&p.index] {
            next
        } else {
            sizes
                .range(p.index + 1..)
                .next()
                .map_or(Pos { index: p.index + 1, item: 0 }, |(i, _)| Pos { index: *i, item: 0 })
        }
    };
    let mut taken: Vec<(Pos, u64)> = Vec::new();
    for (pos, item) in open.get(at..)?.iter().take(n) {
        if taken.last().is_some_and(|(last, _)| after(*last) != *pos) {
            break;
        }
        taken.push((*pos, *item));
    }
    let (first, last) = (taken.first()?.0, taken.last()?.0);
    Some((first..after(last), taken.into_iter().map(|(_, n)| n).collect()))
}

fn seconds(pairs: Vec<(u32, u64)>) -> Vec<u64> {
    pairs.into_iter().map(|(_, item)| item).collect()
}

#[derive(Debug, Clone)]
enum Op {
    /// To which lanes (bits), how many items each.
    Commit(u8, u8),
    CommitTwice(u8),
    Lease(usize, usize, Pick),
    Settle(prop::sample::Index, prop::sample::Index, u8, u8),
    GiveBack(prop::sample::Index),
    Reown(usize),
    Upkeep,
    Later,
    Reopen,
    /// An exporter leaves a lane, or comes back to it.
    Leave(usize, usize),
    Return(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let i = || any::<prop::sample::Index>();
    prop_oneof![
        8 => (1..4_u8, 1..30_u8).prop_map(|(l, n)| Op::Commit(l, n)),
        1 => (1..9_u8).prop_map(Op::CommitTwice),
        6 => (0..2_usize, 0..2_usize, pick()).prop_map(|(e, l, pick)| Op::Lease(e, l, pick)),
        9 => (i(), i(), 1..20_u8, 0..11_u8).prop_map(|(a, b, n, f)| Op::Settle(a, b, n, f)),
        2 => i().prop_map(Op::GiveBack),
        1 => (0..2_usize).prop_map(Op::Reown),
        4 => Just(Op::Upkeep),
        2 => Just(Op::Later),
        1 => Just(Op::Reopen),
        2 => (0..2_usize, 0..2_usize).prop_map(|(e, l)| Op::Leave(e, l)),
        2 => (0..2_usize, 0..2_usize).prop_map(|(e, l)| Op::Return(e, l)),
    ]
}

/// What has waited for 10 s is stale: half of [`Op::Later`].
fn pick() -> impl Strategy<Value = Pick> {
    let stale = Duration::from_secs(10);
    prop_oneof![
        2 => Just(Pick::Oldest),
        4 => Just(Pick::Live { stale }),
        2 => any::<bool>().prop_map(|newest| Pick::Backlog { newest }),
    ]
}

/// What must be true of the store, kept item by item.
#[derive(Debug, Default)]
struct Model {
    /// By exporter and lane: what came in while it read the lane.
    accepted: BTreeMap<(usize, usize), BTreeSet<u64>>,
    /// Who has left which lane.
    away: BTreeSet<(usize, usize)>,
    /// By exporter and lane: items delivered, dead, lost.
    delivered: BTreeMap<(usize, usize), BTreeSet<u64>>,
    dead: BTreeMap<(usize, usize), u64>,
    lost: BTreeMap<(usize, usize), u64>,
    next: u64,
    id: u128,
}

/// Both exporters read both lanes.
const EXPORTERS: [&str; 2] = ["otlphttp", "otlphttp/2"];

struct Run {
    clock: Clock,
    dir: Option<tempfile::TempDir>,
    store: Option<Spool>,
    lanes: [Lane; 2],
    owners: [Owner; 2],
    /// Exporter, lane, lease; the lane is the pipeline's, also for its park lane.
    leases: Vec<(usize, usize, Lease)>,
    model: Model,
}

impl Run {
    fn start(disk: bool) -> Run {
        let clock = Clock::by_hand(Stamp { wall_ns: 1_700_000_000_000_000_000, mono_ms: 5_000 });
        let dir = disk.then(scratch);
        let none = Owner { exporter: ExporterNo(0), generation: 0 };
        let mut run = Run {
            clock,
            dir,
            store: None,
            lanes: [Lane(0); 2],
            owners: [none; 2],
            leases: Vec::new(),
            model: Model::default(),
        };
        run.open();
        run
    }

    fn open(&mut self) {
        if self.dir.is_none() && self.store.is_some() {
            return; // memory does not outlive its process
        }
        self.leases.clear();
        self.store = None; // closed first: a directory has one holder
        let store = match &self.dir {
            Some(dir) => open(dir.path(), &self.clock),
            None => Spool::in_memory(Bytes::mib(64), self.clock.clone(), Dice::seeded(7)),
        };
        self.lanes = [store.lane("logs", Signal::Logs), store.lane("logs/2", Signal::Logs)];
        self.owners = EXPORTERS.map(|e| store.own(e, &self.lanes));
        self.model.away.clear(); // who owns a lane reads it
        self.store = Some(store);
    }

    fn store(&self) -> &Spool {
        self.store.as_ref().expect("open between operations")
    }

    fn commit(&mut self, lanes: u8, n: u8, twice: bool) {
        let mut blocks = Vec::new();
        for (i, lane) in self.lanes.iter().enumerate().filter(|(i, _)| lanes & (1 << i) != 0) {
            let items: Vec<u64> = (0..u64::from(n)).map(|k| self.model.next + k).collect();
            self.model.next += u64::from(n);
            self.model.id += 1;
            for key in [(0, i), (1, i)] {
                if !self.model.away.contains(&key) {
                    self.model.accepted.entry(key).or_default().extend(&items);
                }
            }
            blocks.push(block(*lane, &items, self.model.id, &self.clock));
        }
        self.store().commit(blocks.clone()).expect("there is space");
        if twice {
            self.store().commit(blocks).expect("offered again, known by its id");
        }
    }

    fn lease(&mut self, exporter: usize, lane: usize, pick: Pick) {
        let owner = self.owners[exporter];
        let park = self.store().park_lane(owner, self.lanes[lane]);
        for (from, pick) in [(self.lanes[lane], pick), (park, Pick::Oldest)] {
            if let Some(lease) = self.store().pick(owner, from, pick, CUT).expect("readable") {
                self.store().handled(owner, from, lease.window.clone());
                self.leases.push((exporter, lane, lease));
            }
        }
    }

    fn settle(&mut self, at: prop::sample::Index, from: prop::sample::Index, n: u8, fate: u8) {
        if self.leases.is_empty() {
            return;
        }
        let at = at.index(self.leases.len());
        let (exporter, lane, lease) = &mut self.leases[at];
        let open = open_items(lease).len();
        if open == 0 {
            self.leases.swap_remove(at);
            return;
        }
        let Some((range, items)) = part_of(lease, from.index(open), n.into()) else { return };
        let key = (*exporter, *lane);
        let all = u32::try_from(items.len()).expect("small");
        // From 8 on every second item was delivered before, but for one that was thrown away.
        let (before, items): (Vec<_>, Vec<_>) = (0..).zip(items).partition(|(n, _)| fate >= 8 && n % 2 == 0);
        let (before, items): (Vec<u64>, Vec<u64>) = (seconds(before), seconds(items));
        let raw: bytes::Bytes =
            items.iter().flat_map(|n| [*n, 0, 0]).flat_map(u64::to_le_bytes).collect::<Vec<u8>>().into();
        let count = items.len() as u64;
        let rest = match fate % 8 {
            0 => Outcome::Parked { raw },
            1 => {
                *self.model.dead.entry(key).or_default() += count;
                Outcome::DeadLetter { raw, answer: "400 no".into() }
            }
            2 => {
                *self.model.lost.entry(key).or_default() += count;
                Outcome::Lost(Reason::RetryExpired)
            }
            _ => {
                self.model.delivered.entry(key).or_default().extend(&items);
                Outcome::Delivered { rejected: 0 }
            }
        };
        let outcome = match before.split_last() {
            None => rest,
            Some((_, delivered)) => {
                self.model.delivered.entry(key).or_default().extend(delivered);
                *self.model.lost.entry(key).or_default() += 1;
                let delivered = u32::try_from(delivered.len()).expect("small");
                Outcome::InPart { delivered, rejected: 1, rest: Box::new(rest) }
            }
        };
        lease.settled.push(range.clone());
        let settlement = Settlement { owner: self.owners[*exporter], lane: lease.lane, range, items: all, outcome };
        self.store().settle(vec![settlement]).expect("the part is out");
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Commit(lanes, n) => self.commit(lanes, n, false),
            Op::CommitTwice(n) => self.commit(1, n, true),
            Op::Lease(e, l, pick) => self.lease(e, l, pick),
            Op::Settle(at, from, n, fate) => self.settle(at, from, n, fate),
            Op::GiveBack(at) if !self.leases.is_empty() => {
                let (exporter, _, lease) = self.leases.swap_remove(at.index(self.leases.len()));
                self.store().give_back(self.owners[exporter], lease.lane, lease.window);
            }
            Op::GiveBack(_) => {}
            Op::Reown(e) => {
                self.owners[e] = self.store().own(EXPORTERS[e], &self.lanes);
                self.model.away.retain(|(exporter, _)| *exporter != e);
                self.leases.retain(|(owner, _, _)| *owner != e);
            }
            Op::Upkeep => drop(self.store().upkeep().expect("the disk is well")),
            Op::Later => self.clock.advance(Duration::from_secs(20)),
            Op::Reopen => self.open(),
            Op::Leave(e, l) => {
                let lane = ["logs", "logs/2"][l];
                self.store().part_ways(|exporter, of| (exporter, of) != (EXPORTERS[e], lane));
                self.model.away.insert((e, l));
            }
            Op::Return(e, l) => {
                self.store().admit(EXPORTERS[e], &[self.lanes[l]]);
                self.model.away.remove(&(e, l));
            }
        }
        self.check_books();
    }

    fn check_books(&self) {
        for book in self.store().books() {
            let lane = usize::from(book.lane != "logs");
            let exporter = EXPORTERS.iter().position(|e| *e == book.exporter).expect("one of ours");
            let key = (exporter, lane);
            assert_eq!(book.accepted, self.model.accepted.get(&key).map_or(0, |a| a.len() as u64), "{book:?}");
            assert_eq!(book.delivered, self.model.delivered.get(&key).map_or(0, |d| d.len() as u64), "{book:?}");
            assert_eq!(book.dead_letters, self.model.dead.get(&key).copied().unwrap_or(0), "{book:?}");
            assert_eq!(book.lost.iter().sum::<u64>(), self.model.lost.get(&key).copied().unwrap_or(0), "{book:?}");
        }
        gaps::assert_dated(self.store());
    }

    /// Everything that waits is delivered; then nothing waits and the disk is nearly empty.
    fn drain(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the drain has an end");
            for exporter in 0..2 {
                for lane in 0..2 {
                    self.lease(exporter, lane, Pick::Oldest);
                }
            }
            if self.leases.is_empty() {
                break;
            }
            for (exporter, lane, mut lease) in std::mem::take(&mut self.leases) {
                while let Some((range, items)) = part_of(&lease, 0, 7) {
                    self.model.delivered.entry((exporter, lane)).or_default().extend(&items);
                    let n = u32::try_from(items.len()).expect("small");
                    lease.settled.push(range.clone());
                    let s = Settlement {
                        owner: self.owners[exporter],
                        lane: lease.lane,
                        range,
                        items: n,
                        outcome: Outcome::Delivered { rejected: 0 },
                    };
                    self.store().settle(vec![s]).expect("the part is out");
                }
            }
        }
        self.check_books();
        assert_eq!(self.store().books().iter().map(|b| b.waiting).sum::<u64>(), 0);
        for (key, delivered) in &self.model.delivered {
            let gone = self.model.dead.get(key).unwrap_or(&0) + self.model.lost.get(key).unwrap_or(&0);
            let accepted = self.model.accepted.get(key).cloned().unwrap_or_default();
            assert_eq!(delivered.len() as u64 + gone, accepted.len() as u64);
            assert!(delivered.is_subset(&accepted), "nothing was invented, nor was what came in while it was away");
        }
    }
}

fn run(disk: bool, ops: Vec<Op>) {
    let mut run = Run::start(disk);
    for op in ops {
        run.apply(op);
    }
    run.drain();
}

/// `TFO_TEST_TIMES=100` makes the long form of a property test.
pub(super) fn cases(n: u32) -> ProptestConfig {
    let times = std::env::var("TFO_TEST_TIMES").ok().and_then(|t| t.parse().ok()).unwrap_or(1);
    ProptestConfig::with_cases(n.saturating_mul(times))
}

proptest! {
    #![proptest_config(cases(300))]
    #[test]
    fn a_store_in_memory_keeps_the_contract(ops in prop::collection::vec(op(), 1..80)) {
        run(false, ops);
    }
}

proptest! {
    #![proptest_config(cases(40))]
    #[test]
    fn a_store_on_disk_keeps_the_same_contract_and_survives_reopening(ops in prop::collection::vec(op(), 1..80)) {
        run(true, ops);
    }
}

pub(super) fn fill(store: &Spool, lane: Lane, clock: &Clock, blocks: u64, first: u64) {
    for n in first..first + blocks {
        let items: Vec<u64> = (n * 20..n * 20 + 20).collect();
        store.commit(vec![block(lane, &items, u128::from(n) + 1, clock)]).expect("there is space");
    }
}

pub(super) fn drain_all(store: &Spool, owner: Owner, lane: Lane) -> Vec<u64> {
    let mut got = Vec::new();
    while let Some(lease) = store.lease(owner, lane, CUT).expect("readable") {
        store.handled(owner, lane, lease.window.clone());
        for b in &lease.blocks {
            got.extend(items_of(&b.raw));
            let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
            store
                .settle(vec![Settlement {
                    owner,
                    lane,
                    range,
                    items: b.items,
                    outcome: Outcome::Delivered { rejected: 0 },
                }])
                .expect("out");
        }
    }
    got
}

pub(super) fn upkeep(store: &Spool) {
    while store.upkeep().expect("the disk is well") {}
}

/// Goal: a start does not walk through every segment of a backlog to learn how large it is; housekeeping does, before anything can
/// give way for it.
#[test]
fn a_start_guesses_how_large_a_backlog_is_and_housekeeping_measures() {
    let (dir, clock) = (scratch(), Clock::by_hand(Stamp { wall_ns: 1 << 60, mono_ms: 5_000 }));
    let store = open(dir.path(), &clock);
    let lane = store.lane("logs", Signal::Logs);
    store.own("otlphttp", &[lane]);
    for round in 0..20 {
        fill(&store, lane, &clock, 20, round * 20);
        clock.advance(Duration::from_secs(10));
        upkeep(&store);
    }
    let (before, segments) = (store.usage().bytes.0, store.usage().segments);
    drop(store);
    let store = open(dir.path(), &clock);
    let guessed = store.usage().bytes.0;
    assert!(segments > 10 && guessed < before, "{segments} segments: {guessed} guessed, {before} measured");
    assert!(guessed > before / 4, "{guessed} guessed, {before} measured");
    store.upkeep().expect("the disk is well");
    let counts = |name: &str| name.starts_with("seg-") || name == "reserve";
    let entries = std::fs::read_dir(dir.path().join("spool")).expect("there").map(|e| e.expect("readable"));
    let counted = entries.filter(|e| counts(&e.file_name().to_string_lossy()));
    let real: u64 = counted.map(|e| super::disk::allocated(&e.path())).sum();
    assert_eq!(store.usage().bytes.0, real, "after the first round of housekeeping");
}

/// A backlog over many segments is sealed, survives a restart, comes back in order, and leaves nothing behind.
#[test]
fn a_drained_spool_gives_its_space_back() {
    let (dir, clock) = (scratch(), Clock::system());
    let store = open(dir.path(), &clock);
    let lane = store.lane("logs", Signal::Logs);
    store.own("otlphttp", &[lane]);
    for round in 0..20 {
        fill(&store, lane, &clock, 20, round * 20);
        upkeep(&store);
    }
    let full = store.usage();
    assert!(full.segments > 5, "{full:?}");
    drop(store);
    let store = open(dir.path(), &clock);
    let owner = store.own("otlphttp", &[lane]);
    assert_eq!(drain_all(&store, owner, lane), (0..8_000).collect::<Vec<_>>());
    upkeep(&store);
    let empty = store.usage();
    assert!(empty.bytes.0 < 1 << 20 && empty.segments <= 3, "{empty:?} after {full:?}");
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("spool")).expect("there").map(|e| e.expect("readable").file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().starts_with("trash-")), "{left:?}");
}

/// One slow lane must not keep the segments of a fast one: what is live is copied forward.
#[test]
fn a_slow_lane_does_not_hold_the_disk_of_a_fast_one() {
    let (dir, clock) = (scratch(), Clock::by_hand(Stamp { wall_ns: 1_700_000_000_000_000_000, mono_ms: 1 }));
    let store = open(dir.path(), &clock);
    let (fast, slow) = (store.lane("logs", Signal::Logs), store.lane("traces", Signal::Logs));
    let owner = store.own("otlphttp", &[fast, slow]);
    for n in 0..30 {
        fill(&store, fast, &clock, 15, 1_000 + n * 15);
        store.commit(vec![block(slow, &[n], 900_000 + u128::from(n), &clock)]).expect("space");
        clock.advance(Duration::from_secs(1));
        upkeep(&store);
    }
    let before = store.usage();
    drain_all(&store, owner, fast);
    clock.advance(Duration::from_secs(60));
    upkeep(&store);
    let names: Vec<_> = std::fs::read_dir(dir.path().join("spool"))
        .expect("there")
        .map(|e| e.expect("readable").file_name().into_string().expect("ascii"))
        .collect();
    assert!(names.iter().any(|n| n.ends_with(".1")), "copies: {names:?} {before:?}");
    drop(store);
    let store = open(dir.path(), &clock);
    let owner = store.own("otlphttp", &[fast, slow]);
    assert_eq!(drain_all(&store, owner, slow), (0..30).collect::<Vec<_>>(), "in order, from copies of copies");
}

/// A crash in the middle of copying leaves a copy with a torn batch: the original still counts.
#[test]
fn a_torn_copy_does_not_replace_its_original() {
    let (dir, clock) = (scratch(), Clock::system());
    let store = open(dir.path(), &clock);
    let lane = store.lane("logs", Signal::Logs);
    store.own("otlphttp", &[lane]);
    for round in 0..4 {
        fill(&store, lane, &clock, 20, round * 20);
        upkeep(&store);
    }
    drop(store);
    let spool = dir.path().join("spool");
    let first = std::fs::read_dir(&spool)
        .expect("there")
        .map(|e| e.expect("readable").path())
        .filter(|p| p.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg-")))
        .min()
        .expect("some");
    // A segment whose only batch ends too early stands where a copy of the first one would.
    let torn = first.with_extension("1");
    let copy = super::segment::Segment::create(&torn).expect("space");
    copy.append(vec![(vec![1; 12], vec![7; 5_000])], true).expect("space");
    drop(copy);
    let journal = std::fs::OpenOptions::new().write(true).open(torn.join("0.jnl")).expect("there");
    journal.set_len(3_000).expect("writable");
    let store = open(dir.path(), &clock);
    let owner = store.own("otlphttp", &[lane]);
    assert_eq!(drain_all(&store, owner, lane), (0..1_600).collect::<Vec<_>>());
    upkeep(&store);
    assert!(!torn.exists());
}

/// The cap removes the oldest and says so; what is left is whole.
#[test]
fn at_the_cap_the_oldest_gives_way_and_is_counted() {
    let (dir, clock) = (scratch(), Clock::system());
    let settings = DiskSettings { max: Bytes::mib(1), ..settings(dir.path()) };
    let store = Spool::on_disk(settings, clock.clone(), Dice::seeded(1)).expect("a fresh directory");
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    for round in 0..60 {
        fill(&store, lane, &clock, 20, round * 20);
        upkeep(&store);
    }
    assert!(store.usage().bytes.0 <= 3 << 19, "{:?}", store.usage());
    let [book] = &store.books()[..] else { panic!("one lane, one exporter") };
    let lost = book.lost[Reason::Evicted as usize];
    assert!(lost > 0 && book.accepted == 24_000 && book.waiting == 24_000 - lost, "{book:?}");
    let got = drain_all(&store, owner, lane);
    assert_eq!(got, (lost..24_000).collect::<Vec<_>>(), "the newest, in order");
}

/// Limits change while the spool is open: a smaller cap evicts at the next housekeeping, and who gives way is asked anew;
/// on a disk and in memory.
#[test]
fn limits_change_while_the_spool_is_open() {
    let (dir, clock) = (scratch(), Clock::system());
    let settings = settings(dir.path());
    let limits = super::disk::Limits { max: Bytes::mib(1), ..settings.limits() };
    let store = Spool::on_disk(settings, clock.clone(), Dice::seeded(1)).expect("a fresh directory");
    let lane = store.lane("logs", Signal::Logs);
    let _owner = store.own("otlphttp", &[lane]);
    for round in 0..60 {
        fill(&store, lane, &clock, 20, round * 20);
        upkeep(&store);
    }
    let lost = || store.books()[0].lost[Reason::Evicted as usize];
    assert!(lost() == 0 && store.usage().bytes > Bytes::mib(1), "{:?}", store.usage());
    store.limit(limits);
    upkeep(&store);
    assert!(lost() > 0 && store.usage().bytes.0 <= 3 << 19, "{:?}", store.usage());
    assert_eq!(store.usage().budget, Bytes::mib(1));
    let before = lost();
    store.limit(super::disk::Limits { max: Bytes(100 << 10), when_full: WhenFull::Refuse, ..limits });
    let refused = store.commit(vec![block(lane, &[1], 1 << 100, &clock)]);
    assert!(matches!(refused, Err(CommitError::Full { .. })), "{refused:?}");
    upkeep(&store);
    assert_eq!(lost(), before);

    let memory = Spool::in_memory(Bytes::mib(1), clock.clone(), Dice::seeded(1));
    let lane = memory.lane("logs", Signal::Logs);
    fill(&memory, lane, &clock, 20, 0);
    memory.limit(super::disk::Limits { max: memory.usage().bytes, ..limits });
    let refused = memory.commit(vec![block(lane, &[1], 1 << 100, &clock)]);
    assert!(matches!(refused, Err(CommitError::Full { .. })), "{refused:?}");
}

/// A tail that was never synced may be gone: its indices are not used again, and nothing is invented.
#[test]
fn an_index_is_never_used_twice_also_not_after_a_lost_tail() {
    let (dir, clock) = (scratch(), Clock::system());
    let mut seen = BTreeSet::new();
    for life in 0..3 {
        let store = open(dir.path(), &clock);
        let lane = store.lane("logs", Signal::Logs);
        let owner = store.own("otlphttp", &[lane]);
        fill(&store, lane, &clock, 3, life * 3);
        while let Some(lease) = store.lease(owner, lane, CUT).expect("readable") {
            for b in lease.blocks {
                seen.insert((b.index, items_of(&b.raw)[0]));
            }
        }
        drop(store);
        // The newest journal loses its last batches.
        let mut segments: Vec<_> = std::fs::read_dir(dir.path().join("spool"))
            .expect("there")
            .map(|e| e.expect("readable").path())
            .filter(|p| p.join("0.jnl").exists())
            .collect();
        segments.sort();
        let journal = segments
            .iter()
            .rev()
            .map(|s| s.join("0.jnl"))
            .find(|j| {
                super::segment::content(j.parent().expect("has one")).is_ok_and(|c| c != super::segment::Content::None)
            })
            .expect("one was written");
        let len = super::journal::walk(&journal, 1 << 20, |_, _| 0, |_| {}).expect("readable").proved_len;
        std::fs::OpenOptions::new().write(true).open(journal).and_then(|f| f.set_len(len * 2 / 3)).expect("writable");
    }
    let indices: BTreeSet<u64> = seen.iter().map(|(i, _)| *i).collect();
    assert_eq!(indices.len(), seen.len(), "one index, one block: {seen:?}");
}

/// Promise P8: a block that makes its handler fall twice is set aside; its neighbours are not.
#[test]
fn a_block_that_fells_its_handler_twice_is_set_aside_alone() {
    for disk in [false, true] {
        let (dir, clock) = (scratch(), Clock::system());
        let store = if disk {
            open(dir.path(), &clock)
        } else {
            Spool::in_memory(Bytes::mib(4), clock.clone(), Dice::seeded(1))
        };
        let lane = store.lane("logs", Signal::Logs);
        let mut owner = store.own("otlphttp", &[lane]);
        for n in 0..6 {
            store.commit(vec![block(lane, &[n], u128::from(n) + 1, &clock)]).expect("space");
        }
        let poison = 3;
        let (mut got, mut falls) = (Vec::new(), 0);
        while let Some(lease) = store.lease(owner, lane, CUT).expect("readable") {
            let items: Vec<u64> = lease.blocks.iter().flat_map(|b| items_of(&b.raw)).collect();
            if items.contains(&poison) {
                falls += 1;
                owner = store.own("otlphttp", &[lane]); // the uplink panicked while cutting, and was rebuilt
                continue;
            }
            store.handled(owner, lane, lease.window.clone());
            for b in &lease.blocks {
                let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
                store
                    .settle(vec![Settlement {
                        owner,
                        lane,
                        range,
                        items: b.items,
                        outcome: Outcome::Delivered { rejected: 0 },
                    }])
                    .expect("out");
            }
            got.extend(items);
        }
        assert_eq!((got, falls), (vec![0, 1, 2, 4, 5], 2), "disk: {disk}");
        let [book] = &store.books()[..] else { panic!("one lane, one exporter") };
        assert_eq!((book.quarantined, book.waiting, book.delivered), (1, 0, 5));
    }
}

/// The same for a reader that falls while reading: what it had taken comes back, and is suspect.
#[test]
fn a_reader_that_fell_loses_nothing() {
    let store = Spool::in_memory(Bytes::mib(4), Clock::system(), Dice::seeded(1));
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    store.commit(vec![block(lane, &[1, 2], 1, &Clock::system())]).expect("space");
    let lease = store.lease(owner, lane, CUT).expect("readable").expect("waits");
    store.give_back(owner, lane, lease.window.clone());
    store.reader_fell();
    assert_eq!(drain_all(&store, owner, lane), [1, 2]);
}

#[test]
fn a_new_exporter_starts_at_the_tip_and_a_retired_owner_can_do_nothing() {
    let clock = Clock::system();
    let store = Spool::in_memory(Bytes::mib(4), clock.clone(), Dice::seeded(1));
    let lane = store.lane("logs", Signal::Logs);
    let first = store.own("a", &[lane]);
    store.commit(vec![block(lane, &[1, 2, 3], 1, &clock)]).expect("space");
    let late = store.own("b", &[lane]);
    store.commit(vec![block(lane, &[4], 2, &clock)]).expect("space");
    assert_eq!(drain_all(&store, late, lane), [4]);
    assert_eq!((store.waiting(first, lane).items, store.waiting(late, lane).items), (4, 0));
    assert!(store.waiting(first, lane).oldest.is_some(), "recent enough to be known");
    let lease = store.lease(first, lane, CUT).expect("readable").expect("waits");
    let second = store.own("a", &[lane]);
    let range = Pos { index: lease.window.start, item: 0 }..Pos { index: lease.window.start + 1, item: 0 };
    let late_news = |owner| {
        store.settle(vec![Settlement {
            owner,
            lane,
            range: range.clone(),
            items: 3,
            outcome: Outcome::Delivered { rejected: 0 },
        }])
    };
    assert!(late_news(first).is_err(), "retired");
    assert!(matches!(store.lease(first, lane, CUT), Err(LeaseError::Retired)));
    assert_eq!(drain_all(&store, second, lane), [1, 2, 3, 4]);
}

/// All or none: a part that is not out takes the others of its call back.
#[test]
fn a_settlement_that_is_refused_changes_nothing() {
    let clock = Clock::system();
    let store = Spool::in_memory(Bytes::mib(4), clock.clone(), Dice::seeded(1));
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("a", &[lane]);
    store.commit(vec![block(lane, &[1, 2, 3], 1, &clock)]).expect("space");
    let lease = store.lease(owner, lane, CUT).expect("readable").expect("waits");
    let at = |item| Pos { index: lease.window.start, item };
    let delivered =
        |range, items| Settlement { owner, lane, range, items, outcome: Outcome::Delivered { rejected: 0 } };
    let refused = store.settle(vec![delivered(at(0)..at(2), 2), delivered(at(1)..at(3), 2)]);
    assert!(matches!(refused, Err(LeaseError::NotLeased(..))), "{refused:?}");
    assert_eq!((store.books()[0].delivered, store.books()[0].waiting), (0, 3));
    store.settle(vec![delivered(at(0)..at(2), 2), delivered(at(2)..at(3), 1)]).expect("both are out");
    assert_eq!((store.books()[0].delivered, store.books()[0].waiting), (3, 0));
}

#[test]
fn a_full_memory_refuses_and_takes_again_when_something_left() {
    let clock = Clock::system();
    let store = Spool::in_memory(Bytes(3_000), clock.clone(), Dice::seeded(1));
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("a", &[lane]);
    let mut kept = 0;
    let refusal = loop {
        match store.commit(vec![block(lane, &[kept; 20], u128::from(kept) + 1, &clock)]) {
            Ok(()) => kept += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, CommitError::Full { .. }) && kept > 0);
    assert_eq!(store.books()[0].accepted, kept * 20, "what was refused is not accepted");
    drain_all(&store, owner, lane);
    upkeep(&store);
    store.commit(vec![block(lane, &[9; 20], 99, &clock)]).expect("space again");
    assert_eq!(drain_all(&store, owner, lane), [9; 20]);
    let book = &store.books()[0];
    assert_eq!((book.accepted, book.delivered, book.waiting), (kept * 20 + 20, kept * 20 + 20, 0));
}

/// Goal: an exporter that was renamed or taken out of the configuration does not fill the disk with what nobody will send,
/// and finds what it had when it comes back, in books that know of its absence.
#[test]
fn who_has_left_a_lane_holds_nobody_up_and_keeps_what_was_its_own() {
    let (dir, clock) = (scratch(), Clock::system());
    let others = |who: &str, _: &str| who != "gone";
    let (lane, kept) = {
        let store = open(dir.path(), &clock);
        let lane = store.lane("logs", Signal::Logs);
        let (gone, stays) = (store.own("gone", &[lane]), store.own("stays", &[lane]));
        fill(&store, lane, &clock, 100, 0);
        store.part_ways(others);
        fill(&store, lane, &clock, 4_000, 100);
        assert_eq!(drain_all(&store, stays, lane).len(), 4_100 * 20);
        upkeep(&store);
        let kept = store.usage().segments;
        assert_eq!(store.waiting(gone, lane).items, 100 * 20);
        let book = |store: &Spool| store.books().into_iter().find(|b| b.exporter == "gone").expect("it was there");
        assert_eq!((book(&store).accepted, book(&store).waiting), (2_000, 2_000));
        (lane, kept)
    };
    assert!(kept <= 10, "{kept} segments for 100 blocks of 4,100, which take 156");
    // It comes back after a restart, to what it had and to what is new.
    let store = open(dir.path(), &clock);
    store.part_ways(others); // the start says so again
    fill(&store, lane, &clock, 10, 5_000);
    let gone = store.own("gone", &[lane]);
    fill(&store, lane, &clock, 5, 6_000);
    let expected: Vec<u64> = (0..2_000).chain(120_000..120_100).collect();
    assert_eq!(drain_all(&store, gone, lane), expected);
    let book = store.books().into_iter().find(|b| b.exporter == "gone").expect("it is there");
    assert_eq!((book.accepted, book.delivered, book.waiting), (2_100, 2_100, 0));
}

/// Goal: an operator sees how old the oldest is, whoever has it: nobody yet, the uplink, the park lane.
#[test]
fn the_oldest_has_an_age_wherever_it_waits() {
    let clock = Clock::by_hand(Stamp { wall_ns: 1_795_412_561_000_000_000, mono_ms: 1_000 });
    let store = Spool::in_memory(Bytes::mib(1), clock.clone(), Dice::seeded(1));
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    let ages = || store.ages().into_iter().map(|a| (a.lane, a.exporter, a.age.as_secs())).collect::<Vec<_>>();
    let of = |seconds| vec![("logs".to_owned(), "otlphttp".to_owned(), seconds)];
    let minute = Duration::from_secs(60);
    assert_eq!(ages(), []);
    fill(&store, lane, &clock, 1, 0);
    clock.advance(minute);
    fill(&store, lane, &clock, 1, 20);
    assert_eq!(ages(), of(60), "nobody had it yet");
    let lease = store.lease(owner, lane, CUT).expect("it can").expect("it waits");
    clock.advance(minute);
    clock.set_wall_ns(0); // a clock that jumps changes no age
    assert_eq!(ages(), of(120), "the uplink has it");
    let (range, items) = part_of(&lease, 0, usize::MAX).expect("all of it");
    let items = u32::try_from(items.len()).expect("few");
    let raw = lease.blocks[0].raw.clone();
    store.settle(vec![Settlement { owner, lane, range, items, outcome: Outcome::Parked { raw } }]).expect("it is out");
    clock.advance(minute);
    assert_eq!(items, 20, "the first block alone is enough");
    assert_eq!(ages(), of(180), "parked, and as old as it was");
}

#[test]
fn a_second_agent_on_the_same_directory_is_refused_by_name_of_the_holder() {
    let dir = scratch();
    let _first = open(dir.path(), &Clock::system());
    let second = Spool::on_disk(settings(dir.path()), Clock::system(), Dice::seeded(1)).expect_err("one holder");
    let host = rustix::system::uname();
    let (id, host) = (std::process::id(), host.nodename().to_string_lossy());
    assert!(second.to_string().contains(&format!("in use by process {id} of {host} (/")), "{second}");
}

/// Goal: nothing that lies in the directory is a reason not to start, and nothing of it is thrown away.
#[test]
fn what_is_no_file_where_a_file_must_be_is_moved_aside() {
    let (dir, clock) = (scratch(), Clock::system());
    let lane = {
        let store = open(dir.path(), &clock);
        let lane = store.lane("logs", Signal::Logs);
        store.own("otlphttp", &[lane]);
        fill(&store, lane, &clock, 3, 0);
        lane
    };
    for round in 0..2 {
        for name in ["lock", "slots"] {
            let path = dir.path().join("spool").join(name);
            std::fs::remove_file(&path).expect("it was there");
            if round == 0 {
                std::fs::create_dir(&path).expect("room");
                std::fs::write(path.join("kept"), "x").expect("room");
            } else {
                let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
                rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("the filesystem knows pipes");
            }
        }
        let store = open(dir.path(), &clock);
        let owner = store.own("otlphttp", &[lane]);
        assert_eq!(store.waiting(owner, lane).items, 60, "round {round}");
        assert!(dir.path().join("spool/slots.set-aside-0/kept").exists());
    }
    assert!(dir.path().join("spool/lock.set-aside-1").exists());
}

/// Goal: nothing is lost or counted wrongly where threads meet: a writer, a reader at the very tip, settlements that
/// park, a keeper, and somebody who reads the books all the time (they check their own identity).
/// Method: all at once on a disk, for so many items; then everything is drained and compared.
#[test]
fn threads_that_meet_lose_nothing_and_the_books_hold_at_every_moment() {
    const COMMITS: u64 = 1_500;
    let (dir, clock) = (scratch(), Clock::system());
    let store = open(dir.path(), &clock);
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    let done = std::sync::atomic::AtomicBool::new(false);
    let finished = || done.load(std::sync::atomic::Ordering::SeqCst);
    let mut got: Vec<u64> = Vec::new();
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| fill(&store, lane, &clock, COMMITS, 0));
        let keeper = threads.spawn(|| {
            while !finished() {
                store.upkeep().expect("the disk is well");
                std::thread::yield_now();
            }
        });
        let reader_of_books = threads.spawn(|| {
            let mut looks = 0_u64;
            while !finished() {
                for book in store.books() {
                    assert_eq!(book.lost.iter().sum::<u64>(), 0, "{book:?}");
                    looks += 1;
                }
            }
            looks
        });
        let park = store.park_lane(owner, lane);
        let mut parked = 0_u32;
        while (got.len() as u64) < COMMITS * 20 {
            for from in [lane, park] {
                let Some(lease) = store.lease(owner, from, CUT).expect("readable") else { continue };
                store.handled(owner, from, lease.window.clone());
                for b in &lease.blocks {
                    let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
                    let outcome = if from == lane && b.index % 3 == 0 {
                        parked += 1;
                        Outcome::Parked { raw: b.raw.clone() }
                    } else {
                        got.extend(items_of(&b.raw));
                        Outcome::Delivered { rejected: 0 }
                    };
                    store
                        .settle(vec![Settlement { owner, lane: from, range, items: b.items, outcome }])
                        .expect("it is out");
                }
            }
        }
        writer.join().expect("the writer does not panic");
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        keeper.join().expect("the keeper does not panic");
        assert!(reader_of_books.join().expect("the books hold") > 10);
        assert!(parked > 100, "there was something to meet: {parked}");
    });
    got.sort_unstable();
    assert_eq!(got, (0..COMMITS * 20).collect::<Vec<_>>(), "each item once");
    let book = &store.books()[0];
    assert_eq!((book.delivered, book.waiting), (COMMITS * 20, 0), "{book:?}");
}

/// Goal: an eviction under an exporter that has the data out strands nothing, however its uploads lie across the border
/// of what was evicted.
#[test]
fn what_is_evicted_while_it_is_out_does_not_pin_the_rest() {
    for upload in [1, 3, usize::MAX] {
        let (dir, clock) = (scratch(), Clock::by_hand(Stamp { wall_ns: 1, mono_ms: 5_000 }));
        let capped = DiskSettings { max: Bytes(300 << 10), ..settings(dir.path()) };
        let store = Spool::on_disk(capped, clock.clone(), Dice::seeded(7)).expect("a directory");
        let lane = store.lane("logs", Signal::Logs);
        let owner = store.own("otlphttp", &[lane]);
        fill(&store, lane, &clock, 40, 0);
        let wide = Cut { enough_items: 700, ..CUT };
        let out = store.lease(owner, lane, wide).expect("readable").expect("there is data");
        assert!(out.blocks.len() >= 30, "a window over several segments");
        let out_items: u64 = out.blocks.iter().map(|b| u64::from(b.items)).sum();
        let mut filled = 40;
        let lost = || store.books()[0].lost.iter().sum::<u64>();
        while lost() == 0 {
            fill(&store, lane, &clock, 20, filled);
            filled += 20;
            upkeep(&store);
            assert!(filled < 4_000, "the cap is reached");
        }
        assert!(lost() < out_items, "some of what is out is left: {} of {out_items}", lost());
        // The far end had all of it, in uploads of so many blocks.
        for blocks in out.blocks.chunks(upload.min(out.blocks.len())) {
            let (first, last) = (blocks[0].index, blocks[blocks.len() - 1].index);
            let range = Pos { index: first, item: 0 }..Pos { index: last + 1, item: 0 };
            let items = blocks.iter().map(|b| b.items).sum();
            let s = Settlement { owner, lane, range, items, outcome: Outcome::Delivered { rejected: 0 } };
            if let Err(error) = store.settle(vec![s]) {
                assert!(matches!(error, LeaseError::NotLeased(..)), "{error}");
            }
        }
        assert_eq!(store.books()[0].delivered, out_items - lost(), "what was left of it, and no more");
        drain_all(&store, owner, lane);
        let book = store.books().remove(0);
        assert_eq!((book.waiting, book.accepted), (0, filled * 20), "nothing is stranded: {book:?}");
    }
}

#[test]
fn a_block_that_could_not_be_read_back_is_refused_and_not_acknowledged() {
    let clock = Clock::system();
    let dir = scratch();
    for store in [open(dir.path(), &clock), Spool::in_memory(Bytes::mib(1), clock.clone(), Dice::seeded(7))] {
        let lane = store.lane("logs", Signal::Logs);
        let huge = NewBlock {
            raw_len: u32::try_from(super::block::RAW_MAX + 1).expect("64 MiB"),
            ..block(lane, &[1], 1, &clock)
        };
        assert!(matches!(store.commit(vec![huge]), Err(CommitError::TooLarge { .. })));
        store.commit(vec![block(lane, &[1], 2, &clock)]).expect("there is space");
    }
    let small = Spool::in_memory(Bytes(50), clock.clone(), Dice::seeded(7));
    let lane = small.lane("logs", Signal::Logs);
    let answer = small.commit(vec![block(lane, &[1; 50], 1, &clock)]);
    assert!(matches!(answer, Err(CommitError::TooLarge { .. })), "it would never fit: {answer:?}");
}

/// Goal: a reader that the books send to a block finds it, however the threads run.
/// Method: the books themselves look, at the moment they are told.
#[test]
fn what_the_books_are_told_of_can_be_found() {
    use super::shelf::{Bookkeeper, Shelf};
    struct Looks<'a>(&'a super::disk::Disk, std::cell::Cell<u32>);
    impl Bookkeeper for Looks<'_> {
        fn committed(&self, headers: &[super::block::Header]) {
            for h in headers {
                let found = self.0.next(h.lane, h.index).expect("readable").expect("it is on the shelf");
                assert_eq!(found.0.index, h.index);
                self.1.set(self.1.get() + 1);
            }
        }
        fn failed(&self, _: &[super::block::Header]) {}
        fn needed(&self, _: Lane, blocks: &Range<u64>) -> u64 {
            blocks.end - blocks.start
        }
        fn is_live(&self, _: Lane, _: u64) -> bool {
            true
        }
        fn evict(&self, _: Lane, _: u64, _: u64, _: super::cursor::Fate) -> u64 {
            0
        }
        fn moved(&self, _: bool) -> std::io::Result<()> {
            Ok(())
        }
        fn date(&self, _: Lane, _: Reason, _: Option<super::gaps::Dates>) {}
        fn signal(&self, _: Lane) -> Option<Signal> {
            None
        }
        fn open_lanes(&self) -> Vec<super::ledger::OpenLane> {
            Vec::new()
        }
        fn age(&self, _: &super::block::Header) -> Duration {
            Duration::ZERO
        }
        fn records(&self, _: bool) -> Vec<super::ledger::Record> {
            Vec::new()
        }
    }
    let (dir, clock) = (scratch(), Clock::system());
    let (disk, _) = super::disk::Disk::open(settings(dir.path()), clock.clone()).expect("a directory");
    let books = Looks(&disk, std::cell::Cell::new(0));
    for n in 0..50 {
        let numbered = block(Lane(0), &[n], u128::from(n), &clock).number(n, n + 1, clock.boot_id(), false);
        disk.append(vec![numbered], &books, true).expect("there is space");
    }
    assert_eq!(books.1.get(), 50);
}
