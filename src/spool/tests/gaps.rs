//! When lost items came from, and what the far end was told of them, on a real shelf and over restarts.

use super::*;
use crate::spool::block::Header;
use crate::spool::gaps::Stretch;
use crate::spool::shelf::{Bookkeeper, Memory, Shelf, ShelfError, Usage};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const START: u64 = 1_700_000_000_000_000_000;
const MINUTE: u64 = 60_000_000_000;

/// Every lost item is in the losses, with a date; and they agree with the books.
#[track_caller]
pub(super) fn assert_dated(store: &Spool) {
    let losses = store.losses();
    for loss in &losses {
        let dated: u64 = loss.stretches.iter().map(|s| s.items).sum();
        assert_eq!(dated, loss.items, "{loss:?}");
        assert!(loss.stretches.windows(2).all(|w| w[0].to + MINUTE < w[1].from), "in order and apart: {loss:?}");
    }
    for book in store.books() {
        for reason in Reason::ALL {
            let theirs =
                losses.iter().filter(|l| (&l.lane, &l.exporter, l.reason) == (&book.lane, &book.exporter, reason));
            assert_eq!(theirs.map(|l| l.items).sum::<u64>(), book.lost[reason as usize], "{book:?} {losses:?}");
        }
    }
}

fn clock() -> Clock {
    Clock::by_hand(Stamp { wall_ns: START, mono_ms: 5_000 })
}

fn only(losses: Vec<Loss>) -> Loss {
    assert_eq!(losses.len(), 1, "{losses:?}");
    losses.into_iter().next().expect("one")
}

/// One block of a lane, that many minutes after the start, whose data is of the minute before.
fn put(store: &Spool, lane: Lane, clock: &Clock, minute: u64, items: u64) {
    clock.set_wall_ns(START + minute * MINUTE);
    let numbers: Vec<u64> = (0..items).collect();
    let data_ns = (clock.now().wall_ns - MINUTE, clock.now().wall_ns - MINUTE / 2);
    store.commit(vec![NewBlock { data_ns, ..block(lane, &numbers, u128::from(minute) + 1, clock) }]).expect("space");
}

fn settle(store: &Spool, owner: Owner, lane: Lane, outcome: Outcome) {
    let lease = store.lease(owner, lane, Cut { enough_items: 1, ..CUT }).expect("readable").expect("it waits");
    store.handled(owner, lane, lease.window.clone());
    let b = &lease.blocks[0];
    let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
    store.settle(vec![Settlement { owner, lane, range, items: b.items, outcome }]).expect("out");
}

/// Goal: a loss has the times of the blocks it was in, on disk over a restart too; what was parked keeps its times.
#[test]
fn a_loss_is_dated_by_the_blocks_it_was_in() {
    let dir = scratch();
    for disk in [false, true] {
        let clock = clock();
        let store = if disk {
            open(dir.path(), &clock)
        } else {
            Spool::in_memory(Bytes::mib(4), clock.clone(), Dice::seeded(1))
        };
        let lane = store.lane("logs", Signal::Logs);
        let owner = store.own("otlphttp", &[lane]);
        for minute in [10, 40, 90] {
            put(&store, lane, &clock, minute, 5);
        }
        clock.set_wall_ns(START + 500 * MINUTE);
        settle(&store, owner, lane, Outcome::Delivered { rejected: 2 });
        settle(&store, owner, lane, Outcome::Delivered { rejected: 0 });
        settle(&store, owner, lane, Outcome::Parked { raw: vec![1; 24 * 5].into() });
        let park = store.park_lane(owner, lane);
        clock.set_wall_ns(START + 900 * MINUTE);
        settle(&store, owner, park, Outcome::Lost(Reason::RetryExpired));
        let of = |minute: u64, items| {
            [Stretch { from: START + (minute - 1) * MINUTE, to: START + minute * MINUTE - MINUTE / 2, items }]
        };
        let check = |store: &Spool| {
            assert_dated(store);
            let losses = store.losses();
            assert_eq!(
                (losses[0].reason, &losses[0].stretches[..]),
                (Reason::RetryExpired, &of(90, 5)[..]),
                "{losses:?}"
            );
            assert_eq!((losses[1].reason, &losses[1].stretches[..]), (Reason::Rejected, &of(10, 2)[..]), "{losses:?}");
        };
        check(&store);
        if disk {
            drop(store); // killed
            check(&open(dir.path(), &clock));
        }
    }
}

/// Goal: what gives way to a smaller cap is dated by the segment it lay in, and stays so in the next life, whose losses are added.
#[test]
fn what_is_evicted_is_dated_by_its_segment() {
    let (dir, clock) = (scratch(), clock());
    let evict_to = |store: &Spool, max: u64| {
        let settings = DiskSettings { max: Bytes(max), ..settings(dir.path()) };
        store.limit(settings.limits());
        upkeep(store);
    };
    let first = {
        let store = open(dir.path(), &clock);
        let lane = store.lane("logs", Signal::Logs);
        store.own("otlphttp", &[lane]);
        for minute in 1..200 {
            put(&store, lane, &clock, minute, 20);
        }
        upkeep(&store);
        evict_to(&store, 400_000); // what is set by for a full disk goes first
        assert_dated(&store);
        let loss = only(store.losses());
        assert_eq!((loss.reason, loss.stretches[0].from), (Reason::Evicted, START), "the data of the first minute");
        let minutes = (loss.stretches[0].to - START) / MINUTE + 1;
        assert_eq!((loss.stretches.len(), loss.items), (1, minutes * 20), "one stretch, without a hole: {loss:?}");
        loss
    };
    let store = open(dir.path(), &clock);
    assert_eq!(only(store.losses()), first, "it is on the disk");
    evict_to(&store, 1);
    let loss = only(store.losses());
    assert!(loss.items > first.items && loss.stretches[0].to > first.stretches[0].to, "{loss:?}");
    assert_dated(&store);
}

/// Memory in which the second of three blocks cannot be found any more, or the last.
#[derive(Debug)]
struct Holey {
    memory: Memory,
    gone: Arc<AtomicU64>,
}

impl Shelf for Holey {
    fn is_taking(&self, books: &dyn Bookkeeper) -> Result<(), ShelfError> {
        self.memory.is_taking(books)
    }

    fn append(&self, blocks: Vec<(Header, Vec<u8>)>, books: &dyn Bookkeeper, sync: bool) -> Result<(), ShelfError> {
        self.memory.append(blocks, books, sync)
    }

    fn next(&self, lane: Lane, from: u64) -> Result<Option<(Header, bytes::Bytes)>, ShelfError> {
        let gone = self.gone.load(SeqCst);
        match self.memory.next(lane, from)? {
            Some((header, _)) if header.index & 0xFFFF == gone => self.memory.next(lane, header.index + 1),
            found => Ok(found),
        }
    }

    fn upkeep(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        self.memory.upkeep(books)
    }

    fn limit(&self, _: crate::spool::disk::Limits) {}

    fn usage(&self) -> Usage {
        self.memory.usage()
    }
}

/// Goal: a hole has the times of its neighbours, whether it was ever handed out or not; one at the end that of the newest block.
#[test]
fn a_hole_is_dated_by_its_neighbours() {
    let between =
        |from: u64, to: u64| Stretch { from: START + from * MINUTE - MINUTE / 2, to: START + to * MINUTE, items: 5 };
    for (gone, handed_out, hole) in [
        (1, false, between(10, 199)),
        (1, true, between(10, 199)),
        (2, false, Stretch { from: START + 100 * MINUTE - MINUTE / 2, to: START + 199 * MINUTE, items: 5 }),
    ] {
        let clock = clock();
        let from_now = Arc::new(AtomicU64::new(u64::MAX));
        let shelf = Holey { memory: Memory::new(Bytes::mib(4)), gone: from_now.clone() };
        let store = Spool::over(Box::new(shelf), clock.clone());
        let lane = store.lane("logs", Signal::Logs);
        let owner = store.own("otlphttp", &[lane]);
        for minute in [10, 100, 200] {
            put(&store, lane, &clock, minute, 5);
        }
        if handed_out {
            let lease =
                store.lease(owner, lane, Cut { enough_items: 100, ..CUT }).expect("readable").expect("it waits");
            assert_eq!(lease.blocks.len(), 3);
            store.give_back(owner, lane, lease.window);
        }
        from_now.store(gone, SeqCst);
        assert_eq!(drain_all(&store, owner, lane).len(), 10);
        let loss = only(store.losses());
        assert_eq!((loss.reason, &loss.stretches[..]), (Reason::Corrupt, &[hole][..]), "{gone} {handed_out}");
    }
}

/// Goal: what the far end has acknowledged is not told again, by this life or the next; what comes on top is, with all before.
#[test]
fn what_was_told_is_remembered() {
    let (dir, clock) = (scratch(), clock());
    let begin = |store: &Spool| {
        let lane = store.lane("logs", Signal::Logs);
        (store.own("otlphttp", &[lane]), lane)
    };
    let lose = |store: &Spool, owner, lane, minute| {
        put(store, lane, &clock, minute, 5);
        settle(store, owner, lane, Outcome::Lost(Reason::RetryExpired));
    };
    let news_of = |store: &Spool, owner| store.to_tell(owner).expect("it is the owner, and the disk is well");
    let told = {
        let store = open(dir.path(), &clock);
        let (owner, lane) = begin(&store);
        assert_eq!(news_of(&store, owner), [], "nothing is lost");
        lose(&store, owner, lane, 10);
        let news = news_of(&store, owner);
        assert_eq!(news_of(&store, owner), news, "until it is acknowledged");
        let loss = only(news.clone());
        assert_eq!((loss.items, loss.since), (5, START + 9 * MINUTE), "nothing was lost before the first item");
        lose(&store, owner, lane, 20); // while the report is under way
        store.told(owner, &news);
        let more = only(news_of(&store, owner));
        assert_eq!((more.items, more.told, more.since), (10, 5, loss.since), "cumulative");
        store.told(owner, &[more]);
        assert_eq!(news_of(&store, owner), []);
        store.told(owner, &news);
        assert_eq!(news_of(&store, owner), [], "an old acknowledgement that comes late takes nothing back");
        loss.since
    };
    let store = open(dir.path(), &clock); // the former life was killed
    let (owner, lane) = begin(&store);
    assert_eq!(news_of(&store, owner), [], "over a restart");
    lose(&store, owner, lane, 300);
    let loss = only(news_of(&store, owner));
    assert_eq!((loss.items, loss.told, loss.since), (15, 10, told));
    let retired = owner;
    begin(&store);
    assert!(matches!(store.to_tell(retired), Err(LeaseError::Retired)), "who was retired says nothing");
}
