//! Those who do not come back: a panic inside fjall, a reader and a keeper that were given up.

use super::{CUT, block, drain_all, items_of, open, scratch, upkeep};
use crate::base::{Bytes, Clock};
use crate::otlp::Signal;
use crate::spool::block::Header;
use crate::spool::disk::Limits;
use crate::spool::segment::fault::{At, arm};
use crate::spool::shelf::{Bookkeeper, Memory, Shelf, ShelfError, Usage};
use crate::spool::store::Spool;
use crate::spool::{Lane, LeaseError, Outcome, Owner, Pos, Settlement, Store as _};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Name and bytes of every journal.
fn journals(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let segments = std::fs::read_dir(dir.join("spool")).expect("there").map(|e| e.expect("readable").path());
    let written = segments.filter(|path| path.join("0.jnl").exists());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    written.map(|path| (name(&path), std::fs::read(path.join("0.jnl")).expect("readable"))).collect()
}

/// Goal: what is on the disk after a panic inside fjall is unknown. Nothing is written there again, no place of it is
/// used again, and what was acknowledged before and after it is there, once.
/// Method: the panic comes before or after the data is in the journal; the client offers the same again, as the batcher
/// does; then it is read at once, or by the next life.
#[test]
fn a_panic_inside_a_commit_costs_its_answer_and_nothing_else() {
    for (at, reopened) in [At::BeforeCommit, At::AfterCommit].into_iter().flat_map(|at| [(at, false), (at, true)]) {
        let (dir, clock) = (scratch(), Clock::system());
        let mut store = open(dir.path(), &clock);
        let lane = store.lane("logs", Signal::Logs);
        let mut owner = store.own("otlphttp", &[lane]);
        store.commit(vec![block(lane, &[0, 1, 2], 1, &clock)]).expect("space");
        let before = journals(dir.path());
        let [broken] = &before.keys().cloned().collect::<Vec<_>>()[..] else { panic!("one segment") };
        arm(at);
        let fallen = catch_unwind(AssertUnwindSafe(|| store.commit(vec![block(lane, &[3, 4], 2, &clock)])));
        assert!(fallen.is_err(), "it is not swallowed: the writer falls, and the batcher hears no answer");
        assert_eq!(store.books()[0].accepted, 3, "{at:?}: nobody was told that it is kept");
        let fell = journals(dir.path());
        assert_eq!(fell[broken] == before[broken], at == At::BeforeCommit, "the fault is where it is said to be");

        store.commit(vec![block(lane, &[3, 4], 2, &clock)]).expect("the same again, into another segment");
        store.commit(vec![block(lane, &[5], 3, &clock)]).expect("space");
        upkeep(&store);
        let after = journals(dir.path());
        assert!(after.keys().any(|name| name > broken), "{at:?}: {:?}", after.keys());
        assert!(after[broken] == fell[broken], "{at:?}: the abandoned segment is not touched again");
        assert_eq!(store.books()[0].accepted, 6);
        if reopened {
            drop(store);
            store = open(dir.path(), &clock);
            let again = store.lane("logs", Signal::Logs);
            assert_eq!(again, lane);
            owner = store.own("otlphttp", &[lane]);
        }
        let mut found = Vec::new();
        while let Some(lease) = store.lease(owner, lane, CUT).expect("readable") {
            found.extend(lease.blocks.iter().map(|b| (b.index, items_of(&b.raw))));
            store.handled(owner, lane, lease.window.clone());
            for b in &lease.blocks {
                deliver(&store, owner, lane, b.index, b.items);
            }
        }
        let items: Vec<u64> = found.iter().flat_map(|(_, items)| items.clone()).collect();
        assert_eq!(items, [0, 1, 2, 3, 4, 5], "{at:?}, reopened {reopened}: each once, in order");
        assert!(found[1].0 > found[0].0 + 1, "{at:?}: the place of the panic is not used again: {found:?}");
        let book = store.books().remove(0);
        assert_eq!((book.accepted, book.delivered, book.waiting), (6, 6, 0), "{at:?}, reopened {reopened}: {book:?}");
    }
}

fn deliver(store: &Spool, owner: Owner, lane: Lane, index: u64, items: u32) {
    let range = Pos { index, item: 0 }..Pos { index: index + 1, item: 0 };
    let outcome = Outcome::Delivered { rejected: 0 };
    store.settle(vec![Settlement { owner, lane, range, items, outcome }]).expect("it is out");
}

/// What a stuck shelf is told and tells.
#[derive(Debug, Default)]
struct Snag {
    /// Wanted: the next one is caught. Caught: it stands there. Free: it goes on. Doomed: it panics.
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Wanted,
    Caught,
    Doomed,
}

impl Snag {
    fn set(&self, state: State) {
        *self.state.lock().expect("whole") = state;
        self.moved.notify_all();
    }

    fn wait_until(&self, is: impl Fn(State) -> bool) {
        let state = self.state.lock().expect("whole");
        let (_state, late) =
            self.moved.wait_timeout_while(state, Duration::from_secs(20), |state| !is(*state)).expect("whole");
        assert!(!late.timed_out(), "somebody comes by");
    }

    /// Whoever comes by first while somebody is wanted stands still here, or panics.
    fn pass(&self) {
        let mut state = self.state.lock().expect("whole");
        if *state == State::Doomed {
            *state = State::Free;
            drop(state);
            panic!("as ordered");
        }
        if *state == State::Wanted {
            *state = State::Caught;
            drop(state);
            self.moved.notify_all();
            self.wait_until(|state| state == State::Free);
        }
    }
}

/// Memory whose reads and whose housekeeping can stand still.
#[derive(Debug)]
struct Stuck {
    memory: Memory,
    reading: Arc<Snag>,
    keeping: Arc<Snag>,
}

impl Shelf for Stuck {
    fn is_taking(&self, books: &dyn Bookkeeper) -> Result<(), ShelfError> {
        self.memory.is_taking(books)
    }
    fn append(&self, blocks: Vec<(Header, Vec<u8>)>, books: &dyn Bookkeeper, sync: bool) -> Result<(), ShelfError> {
        self.memory.append(blocks, books, sync)
    }

    fn next(&self, lane: Lane, from: u64) -> Result<Option<(Header, bytes::Bytes)>, ShelfError> {
        let found = self.memory.next(lane, from);
        self.reading.pass();
        found
    }

    fn upkeep(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        self.keeping.pass();
        self.memory.upkeep(books)
    }

    fn limit(&self, limits: Limits) {
        self.memory.limit(limits);
    }

    fn usage(&self) -> Usage {
        self.memory.usage()
    }
}

/// A spool above it, with six items in three blocks for one exporter.
fn stuck() -> (Spool, Arc<Snag>, Arc<Snag>, Owner, Lane) {
    let (reading, keeping) = (Arc::<Snag>::default(), Arc::<Snag>::default());
    let shelf = Stuck { memory: Memory::new(Bytes::mib(1)), reading: reading.clone(), keeping: keeping.clone() };
    let clock = Clock::system();
    let store = Spool::over(Box::new(shelf), clock.clone());
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    for n in 0..3 {
        store.commit(vec![block(lane, &[2 * n, 2 * n + 1], u128::from(n) + 1, &clock)]).expect("space");
    }
    (store, reading, keeping, owner, lane)
}

/// Goal: a reader that was given up in the middle of a read and wakes takes nothing, neither new data nor a window that
/// came back, whether its successor was there first or not.
#[test]
fn a_reader_that_was_given_up_and_wakes_takes_nothing() {
    for (returned, late) in [(false, false), (false, true), (true, false), (true, true)] {
        let (store, reading, _, owner, lane) = stuck();
        if returned {
            let lease = store.lease(owner, lane, CUT).expect("readable").expect("it waits");
            store.give_back(owner, lane, lease.window);
        }
        let mut got = Vec::new();
        let mut take_one = |store: &Spool| {
            let lease = store.lease(owner, lane, CUT).expect("readable").expect("it waits");
            store.handled(owner, lane, lease.window.clone());
            got.extend(lease.blocks.iter().flat_map(|b| items_of(&b.raw)));
            lease
        };
        std::thread::scope(|threads| {
            reading.set(State::Wanted);
            let old = threads.spawn(|| store.lease(owner, lane, CUT));
            reading.wait_until(|state| state == State::Caught);
            store.reader_fell();
            let first = late.then(|| take_one(&store));
            reading.set(State::Free);
            let woken = old.join().expect("it does not panic");
            assert!(
                matches!(woken, Err(LeaseError::Unavailable(_))),
                "returned {returned}, late {late}: it hears that it was replaced: {woken:?}"
            );
            let lease = first.unwrap_or_else(|| take_one(&store));
            for b in &lease.blocks {
                deliver(&store, owner, lane, b.index, b.items);
            }
        });
        got.extend(drain_all(&store, owner, lane));
        assert_eq!(got, [0, 1, 2, 3, 4, 5], "returned {returned}, late {late}: each once, in order");
        let book = store.books().remove(0);
        assert_eq!((book.delivered, book.waiting), (6, 0), "returned {returned}, late {late}: {book:?}");
    }
}

/// Goal: a keeper that was given up and its successor are never at work at the same time.
#[test]
fn a_keeper_that_was_given_up_keeps_its_successor_out_until_it_wakes() {
    let (store, _, keeping, owner, lane) = stuck();
    drain_all(&store, owner, lane);
    let held = store.usage().bytes;
    std::thread::scope(|threads| {
        keeping.set(State::Wanted);
        let old = threads.spawn(|| store.upkeep());
        keeping.wait_until(|state| state == State::Caught);
        assert_eq!(store.upkeep(), Ok(false), "nothing to do for the successor, and it does not wait");
        assert_eq!(store.usage().bytes, held, "it did nothing");
        keeping.set(State::Free);
        assert_eq!(old.join().expect("it does not panic"), Ok(false));
        assert_eq!(store.usage().bytes, Bytes(0));
    });
    store.commit(vec![block(lane, &[9], 9, &Clock::system())]).expect("space");
    assert_eq!(drain_all(&store, owner, lane), [9]);
    assert_eq!(store.upkeep(), Ok(false), "the successor works from now on");
    assert_eq!(store.usage().bytes, Bytes(0));
}

/// Goal: a keeper that panics is followed by one that works.
#[test]
fn a_keeper_that_panics_leaves_the_house_to_its_successor() {
    let (store, _, keeping, owner, lane) = stuck();
    drain_all(&store, owner, lane);
    keeping.set(State::Doomed);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.upkeep())).expect_err("it panics");
    assert!(store.usage().bytes > Bytes(0), "it did nothing");
    while store.upkeep().expect("it works") {}
    assert_eq!(store.usage().bytes, Bytes(0), "what is consumed is gone");
}
