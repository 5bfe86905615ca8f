//! Copying forward on a real shelf: what it gives back, that neighbours go together, and what a crash in it leaves.

use super::*;
use crate::spool::disk::{Compaction, allocated};
use std::fs;
use std::path::PathBuf;

const FAST: &str = "logs";
const SLOW: &str = "metrics";

fn by_hand() -> Clock {
    Clock::by_hand(Stamp { wall_ns: 1 << 60, mono_ms: 5_000 })
}

struct Run {
    clock: Clock,
    store: Spool,
    lanes: [Lane; 2],
    owners: [Owner; 2],
}

fn start(dir: &Path, clock: &Clock, compact: Compaction) -> Run {
    let settings = DiskSettings { compact, ..settings(dir) };
    let store = Spool::on_disk(settings, clock.clone(), Dice::seeded(7)).expect("it always starts");
    let lanes = [FAST, SLOW].map(|name| store.lane(name, Signal::Logs));
    let owners = [store.own("fast", &lanes[..1]), store.own("slow", &lanes[1..])];
    Run { clock: clock.clone(), store, lanes, owners }
}

impl Run {
    /// So many blocks of the fast lane, among every twenty of them one of the slow lane.
    fn fill(&self, blocks: u64) -> Vec<u64> {
        let mut slow = Vec::new();
        for n in 0..blocks {
            let items: Vec<u64> = (n * 20..n * 20 + 20).collect();
            self.store.commit(vec![block(self.lanes[0], &items, u128::from(n) + 1, &self.clock)]).expect("space");
            if n % 20 == 7 {
                let one = block(self.lanes[1], &[n], u128::from(n) + 100_000, &self.clock);
                self.store.commit(vec![one]).expect("space");
                slow.push(n);
                self.clock.advance(Duration::from_secs(1));
                upkeep(&self.store);
            }
        }
        slow
    }

    fn drain(&self, which: usize) -> Vec<u64> {
        drain_all(&self.store, self.owners[which], self.lanes[which])
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("spool")).expect("there").map(|e| e.expect("readable").path());
    let mut found: Vec<PathBuf> =
        entries.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("seg-"))).collect();
    found.sort();
    found
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("space");
    for entry in fs::read_dir(from).expect("there").map(|e| e.expect("readable")) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("space");
        }
    }
}

/// Goal: what one slow reader has left in each of many segments does not keep a segment each; it comes, in order and once, also
/// after a restart; and a segment that has everything to give stays as it is.
#[test]
fn small_neighbours_become_one() {
    let (dir, clock) = (scratch(), by_hand());
    let run = start(dir.path(), &clock, Compaction::USUAL);
    let slow = run.fill(600);
    upkeep(&run.store);
    let before = run.store.usage();
    assert_eq!(run.drain(0).len(), 600 * 20);
    clock.advance(Duration::from_secs(60));
    upkeep(&run.store);
    let after = run.store.usage();
    assert!(before.segments > 20, "{before:?}");
    assert!(after.segments < before.segments / 4 && after.bytes.0 < before.bytes.0 / 2, "{before:?} {after:?}");
    drop(run);
    let run = start(dir.path(), &clock, Compaction::USUAL);
    assert_eq!(run.drain(1), slow, "each once, in order");
    upkeep(&run.store);
    assert!(run.store.books().iter().all(|b| b.accepted == b.delivered), "{:?}", run.store.books());
}

/// Goal: a crash after a copy is whole and before its originals are gone costs nothing and repeats nothing.
/// Method: the originals are put back, each alone and all, and the next life begins.
#[test]
fn originals_that_stay_beside_their_copy_change_nothing() {
    for put_back in [vec![0], vec![1], vec![2], vec![0, 1, 2, 3], vec![1, 2, 3]] {
        let (dir, clock) = (scratch(), by_hand());
        let run = start(dir.path(), &clock, Compaction::USUAL);
        let slow = run.fill(400);
        upkeep(&run.store);
        assert_eq!(run.drain(0).len(), 400 * 20);
        run.store.close().expect("space"); // the cursors are down, nothing is copied yet
        let originals = segments(dir.path());
        let kept = dir.path().join("kept");
        originals.iter().for_each(|o| copy_dir(o, &kept.join(o.file_name().expect("named"))));
        upkeep(&run.store);
        drop(run);
        let gone: Vec<&PathBuf> = originals.iter().filter(|o| !o.exists()).collect();
        assert!(gone.len() > 8 && segments(dir.path()).iter().any(|s| s.extension().is_some_and(|e| e == "1")));
        for at in &put_back {
            let original = gone[*at];
            copy_dir(&kept.join(original.file_name().expect("named")), original);
        }
        let run = start(dir.path(), &clock, Compaction::USUAL);
        upkeep(&run.store);
        assert_eq!((run.drain(0), run.drain(1)), (vec![], slow), "{put_back:?}");
        upkeep(&run.store);
        assert!(run.store.books().iter().all(|b| b.accepted == b.delivered), "{put_back:?}: {:?}", run.store.books());
    }
}

/// Goal: the thresholds of the seed's `compaction` do what they say: on a rebound, and after a start, segments are copied that
/// usually are not worth it; without them they stay.
#[test]
fn a_rebound_copies_what_usually_stays() {
    let (kib, never) = (|n: u64| Bytes(n << 10), Bytes(u64::MAX));
    let rebound = |needed, trigger| Compaction { on_rebound: Some((needed, trigger)), ..Compaction::USUAL };
    let on_start = Compaction { on_start: true, ..Compaction::USUAL };
    for (name, compact, again, expected) in [
        ("usual", Compaction::USUAL, Compaction::USUAL, false),
        ("never", Compaction::NEVER, Compaction::NEVER, false),
        ("rebound", rebound(kib(64), kib(4_096)), Compaction::USUAL, true),
        ("too little is allocated", rebound(never, kib(4_096)), Compaction::USUAL, false),
        ("too much is live", rebound(kib(64), kib(1)), Compaction::USUAL, false),
        ("on start", Compaction::USUAL, on_start, true),
    ] {
        let (dir, clock) = (scratch(), by_hand());
        let run = start(dir.path(), &clock, compact);
        // Half of each segment is needed: every second block goes to each lane.
        for n in 0..30 {
            for lane in run.lanes {
                let items: Vec<u64> = (n * 20..n * 20 + 20).collect();
                let id = u128::from(n) * 2 + u128::from(lane.0) * 1_000 + 1;
                run.store.commit(vec![block(lane, &items, id, &clock)]).expect("space");
            }
        }
        upkeep(&run.store);
        assert_eq!(run.drain(0).len(), 600);
        run.store.close().expect("space");
        upkeep(&run.store);
        drop(run);
        let run = start(dir.path(), &clock, again);
        clock.advance(Duration::from_secs(10));
        upkeep(&run.store);
        let copies = segments(dir.path()).iter().filter(|s| s.extension().is_some()).count();
        assert_eq!(copies > 0, expected, "{name}: {:?}", segments(dir.path()));
        assert_eq!(run.drain(1), (0..600).collect::<Vec<u64>>(), "{name}");
    }
}

/// Goal: one large block that is needed does not keep smaller things behind it from being copied.
#[test]
fn a_large_block_is_passed_over() {
    let (dir, clock) = (scratch(), by_hand());
    let run = start(dir.path(), &clock, Compaction::USUAL);
    let large: Vec<u64> = (900_000..901_500).collect();
    run.store.commit(vec![block(run.lanes[1], &large, 7_000_000, &clock)]).expect("space");
    let slow = run.fill(400);
    assert_eq!(run.drain(0).len(), 400 * 20);
    clock.advance(Duration::from_secs(60));
    upkeep(&run.store);
    assert!(run.store.usage().segments < 10, "{:?}", segments(dir.path()));
    assert_eq!(run.drain(1), [large, slow].concat());
}

/// Goal: a segment that is being read to its end is not copied meanwhile, for memory would hold the copy; one whose reader has
/// stopped is.
/// Method: one segment of 8 MiB, its blocks settled one after the other. Of its last quarter a reader is at work until he rests.
#[test]
fn what_is_read_to_its_end_is_not_copied_meanwhile() {
    const BLOCKS: u64 = 60;
    const ITEMS: u64 = 8_000;
    let (dir, clock) = (scratch(), by_hand());
    let begin = || {
        let settings =
            DiskSettings { segment_min: Bytes::mib(32), segment_max: Bytes::mib(48), ..settings(dir.path()) };
        let store = Spool::on_disk(settings, clock.clone(), Dice::seeded(7)).expect("it always starts");
        let lane = store.lane(FAST, Signal::Logs);
        let owner = store.own("fast", &[lane]);
        (store, lane, owner)
    };
    let (store, lane, _) = begin();
    for n in 0..BLOCKS {
        let items: Vec<u64> = (n * ITEMS..(n + 1) * ITEMS).collect();
        store.commit(vec![block(lane, &items, u128::from(n) + 1, &clock)]).expect("space");
    }
    drop(store);
    let (store, lane, owner) = begin();
    let read_one = || {
        let cut = Cut { enough_items: 1, ..CUT };
        let lease = store.lease(owner, lane, cut).expect("readable").expect("there is more");
        store.handled(owner, lane, lease.window.clone());
        let range = Pos { index: lease.window.start, item: 0 }..Pos { index: lease.window.end, item: 0 };
        let items = lease.blocks.iter().map(|b| b.items).sum();
        let outcome = Outcome::Delivered { rejected: 0 };
        store.settle(vec![Settlement { owner, lane, range, items, outcome }]).expect("ours");
    };
    let copies = || segments(dir.path()).iter().filter(|s| s.extension().is_some()).count();
    for _ in 0..48 {
        read_one();
        clock.advance(Duration::from_secs(7));
        upkeep(&store);
        assert_eq!(copies(), 0, "somebody reads it");
    }
    clock.advance(Duration::from_secs(29));
    upkeep(&store);
    assert_eq!(copies(), 0, "he may come back");
    clock.advance(Duration::from_secs(2));
    upkeep(&store);
    assert_eq!(copies(), 1, "{:?}", segments(dir.path()));
    assert_eq!(drain_all(&store, owner, lane), (48 * ITEMS..BLOCKS * ITEMS).collect::<Vec<u64>>());
}

/// Goal: the cursors that a long drain writes are not kept in memory for as long as nothing comes in.
/// Method: 4,000 windows of one block are leased and settled; every version of a cursor is a record in the open segment.
#[test]
fn a_long_drain_leaves_its_notes_behind() {
    let (dir, clock) = (scratch(), by_hand());
    let settings = DiskSettings { segment_min: Bytes::mib(32), segment_max: Bytes::mib(48), ..settings(dir.path()) };
    let store = Spool::on_disk(settings, clock.clone(), Dice::seeded(7)).expect("it always starts");
    let lane = store.lane(FAST, Signal::Logs);
    let owner = store.own("fast", &[lane]);
    fill(&store, lane, &clock, 4_000, 0);
    let numbers = || segments(dir.path()).len();
    let (before, written) = (numbers(), store.usage().written.0);
    assert_eq!(drain_all(&store, owner, lane).len(), 4_000 * 20);
    let notes = store.usage().written.0 - written;
    assert!(notes > 1 << 20, "{notes} bytes of cursors: too few to tell");
    assert_eq!(numbers() - before, usize::try_from(notes >> 20).expect("few"), "a segment for each MiB of them");
    upkeep(&store);
    assert!(numbers() <= 3, "what holds nothing but old cursors goes: {:?}", segments(dir.path()));
}

/// Goal: thousands of small records make a file of more than 512 KiB, and what is left of a drained spool stays small all the same.
/// Method: requests of one item, each delivered at once, until the file is that large and what was appended to it is not.
#[test]
fn a_consumed_segment_of_small_records_is_replaced_by_the_size_of_its_file() {
    let (dir, clock) = (scratch(), by_hand());
    let settings = DiskSettings { segment_min: Bytes::mib(4), segment_max: Bytes::mib(4), ..settings(dir.path()) };
    let store = Spool::on_disk(settings, clock.clone(), Dice::seeded(7)).expect("starts");
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    let size = || segments(dir.path()).iter().map(|segment| allocated(segment)).max().unwrap_or(0);
    let mut n = 0;
    while size() < 600 << 10 {
        store.commit(vec![block(lane, &[n], u128::from(n) + 1, &clock)]).expect("space");
        n += 1;
        assert_eq!(drain_all(&store, owner, lane).len(), 1);
    }
    let appended = store.usage().written.0;
    assert!(appended < 512 << 10, "{appended} bytes of {n} records: they would do without the size of the file");
    upkeep(&store);
    for _ in 0..2 {
        clock.advance(Duration::from_secs(6));
        upkeep(&store);
    }
    assert!(size() < 200 << 10, "{} bytes in the largest segment", size());
}

/// Goal: a few dead letters do not keep the disk space of the segment that they lie in, when nothing else comes.
/// Method: one block in a hundred is refused for good, the others are delivered; the segment is not full. Some seconds later it gave
/// way to a copy of the few, which are sent again by hand.
#[test]
fn a_few_dead_letters_do_not_hold_the_segment_that_is_written_to() {
    let (dir, clock) = (scratch(), by_hand());
    let settings = DiskSettings { segment_min: Bytes::mib(4), segment_max: Bytes::mib(4), ..settings(dir.path()) };
    let store = Spool::on_disk(settings, clock.clone(), Dice::seeded(7)).expect("starts");
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    fill(&store, lane, &clock, 1_500, 0);
    while let Some(lease) = store.lease(owner, lane, CUT).expect("readable") {
        store.handled(owner, lane, lease.window.clone());
        for b in &lease.blocks {
            let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
            let outcome = match b.index % 100 {
                0 => Outcome::DeadLetter { raw: b.raw.clone(), answer: "no".into() },
                _ => Outcome::Delivered { rejected: 0 },
            };
            store.settle(vec![Settlement { owner, lane, range, items: b.items, outcome }]).expect("out");
        }
    }
    let size = || segments(dir.path()).iter().map(|segment| allocated(segment)).sum::<u64>();
    upkeep(&store);
    let (before, book) = (size(), store.books().remove(0));
    assert!(before > 700 << 10 && book.dead_letters == 300 && book.waiting == 0, "{before} {book:?}");
    for _ in 0..5 {
        clock.advance(Duration::from_secs(6));
        upkeep(&store);
    }
    assert!(size() < 300 << 10, "{before} before, {} after", size());
    assert_eq!(store.books().remove(0), book);
}
