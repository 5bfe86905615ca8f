//! How much is held for a person: the caps of dead letters, of quarantined blocks and of segments that were set aside.

use super::gaps::assert_dated;
use super::*;
use crate::spool::gaps::Stretch;
use crate::spool::ledger::Side;
use crate::spool::store::Caps;

const START: u64 = 1_700_000_000_000_000_000;

/// What a block of ten items weighs, within a few bytes.
const BLOCK: u64 = 335;

/// Commits and refuses blocks of ten items.
fn refuse(store: &Spool, clock: &Clock, owner: Owner, lane: Lane, blocks: Range<u64>) {
    for n in blocks {
        clock.advance(Duration::from_secs(60));
        let items: Vec<u64> = (n * 10..n * 10 + 10).collect();
        store.commit(vec![block(lane, &items, u128::from(n) + 1, clock)]).expect("space");
        let lease = store.lease(owner, lane, CUT).expect("readable").expect("it waits");
        store.handled(owner, lane, lease.window.clone());
        let b = &lease.blocks[0];
        let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
        let outcome = Outcome::DeadLetter { raw: b.raw.clone(), answer: "no".into() };
        store.settle(vec![Settlement { owner, lane, range, items: b.items, outcome }]).expect("out");
    }
}

fn capped(bytes: u64) -> Caps {
    Caps { dead_letters: Some(Bytes(bytes)), quarantine: Some(Bytes(bytes)) }
}

fn book(store: &Spool) -> Book {
    let book = store.books().into_iter().find(|b| b.exporter == "otlphttp").expect("it reads the lane");
    assert_eq!(book.accepted, book.sum(), "{book:?}");
    assert_dated(store);
    book
}

fn rejected(book: &Book) -> u64 {
    book.lost[Reason::Rejected as usize]
}

/// Goal: the oldest dead letters beyond the cap are lost{rejected}, dated, and gone from the medium; the newest are still there, also
/// in the next life, which goes on by the same cap.
#[test]
fn dead_letters_beyond_their_cap_are_given_up_oldest_first() {
    for disk in [false, true] {
        let (dir, clock) = (scratch(), Clock::by_hand(Stamp { wall_ns: START, mono_ms: 5_000 }));
        let begin = |store: &Spool| {
            let lane = store.lane("logs", Signal::Logs);
            (store.own("otlphttp", &[lane]), lane)
        };
        let mut store = if disk {
            open(dir.path(), &clock)
        } else {
            Spool::in_memory(Bytes(600_000), clock.clone(), Dice::seeded(1))
        };
        let (mut owner, mut lane) = begin(&store);
        refuse(&store, &clock, owner, lane, 0..100);
        upkeep(&store);
        assert_eq!(book(&store).dead_letters, 1_000, "below the cap nothing goes");
        let weight = 100 * BLOCK;
        store.cap(capped(weight / 4));
        upkeep(&store);
        let first = book(&store);
        assert!((200..=260).contains(&first.dead_letters), "{first:?}");
        assert_eq!(rejected(&first), 1_000 - first.dead_letters);
        let loss = store.losses().remove(0);
        let gone = Stretch {
            from: START + 60_000_000_000,
            to: START + rejected(&first) / 10 * 60_000_000_000,
            items: rejected(&first),
        };
        assert_eq!((loss.reason, loss.stretches), (Reason::Rejected, vec![gone]), "the oldest went");
        if disk {
            drop(store);
            store = open(dir.path(), &clock);
            assert_eq!(book(&store), first, "it is on the disk");
            (owner, lane) = begin(&store);
            store.cap(capped(weight / 4));
        }
        refuse(&store, &clock, owner, lane, 100..110);
        upkeep(&store);
        let then = book(&store);
        assert!((200..=260).contains(&then.dead_letters) && rejected(&then) + then.dead_letters == 1_100, "{then:?}");
        let dead = drain_all(&store, owner, store.side_lane(Side::Dead, owner, lane));
        let all: Vec<u64> = (0..1_100).collect();
        assert_eq!(dead, all[all.len() - dead.len()..], "the newest stayed");
        upkeep(&store);
        assert!(store.usage().bytes.0 < 20_000 || disk, "memory is free again: {:?}", store.usage());
    }
}

/// Goal: by default a tenth of the budget: poison does not fill a memory, and what is new still finds room.
#[test]
fn poison_without_end_does_not_fill_the_memory() {
    let clock = Clock::by_hand(Stamp { wall_ns: START, mono_ms: 5_000 });
    let store = Spool::in_memory(Bytes(100_000), clock.clone(), Dice::seeded(1));
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    for n in 0..50 {
        refuse(&store, &clock, owner, lane, n * 20..n * 20 + 20);
        upkeep(&store);
    }
    let book = book(&store);
    assert!(store.usage().bytes.0 <= 10_000, "{:?}", store.usage());
    assert!(book.dead_letters > 200 && book.dead_letters + rejected(&book) == 10_000, "{book:?}");
}

/// Goal: what a person has sent again just now does not go under his hands; when he is done, the cap counts again.
#[test]
fn what_is_being_sent_again_is_not_given_up() {
    let clock = Clock::by_hand(Stamp { wall_ns: START, mono_ms: 5_000 });
    let store = Spool::in_memory(Bytes::mib(4), clock.clone(), Dice::seeded(1));
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    refuse(&store, &clock, owner, lane, 0..20);
    let dead = store.side_lane(Side::Dead, owner, lane);
    let out = store.lease(owner, dead, CUT).expect("readable").expect("it is held");
    store.cap(capped(5 * BLOCK));
    upkeep(&store);
    assert_eq!(book(&store).dead_letters, 200);
    store.give_back(owner, dead, out.window);
    upkeep(&store);
    assert!((30..=60).contains(&book(&store).dead_letters), "{:?}", book(&store));
}

/// Goal: one exporter's poison costs nobody else's dead letters.
#[test]
fn the_fullest_lane_gives_way() {
    let clock = Clock::by_hand(Stamp { wall_ns: START, mono_ms: 5_000 });
    let store = Spool::in_memory(Bytes::mib(4), clock.clone(), Dice::seeded(1));
    let lane = store.lane("logs", Signal::Logs);
    let (few, many) = (store.own("few", &[lane]), store.own("otlphttp", &[lane]));
    refuse(&store, &clock, few, lane, 0..10);
    drain_all(&store, many, lane);
    refuse(&store, &clock, many, lane, 10..100);
    store.cap(capped(30 * BLOCK));
    upkeep(&store);
    let held: BTreeMap<String, u64> = store.books().into_iter().map(|b| (b.exporter, b.dead_letters)).collect();
    assert_eq!(held["few"], 100);
    assert!((190..=210).contains(&held["otlphttp"]), "{held:?}");
}

/// Goal: quarantined blocks have their own cap, and are lost{corrupt} beyond it.
#[test]
fn quarantined_blocks_have_a_cap() {
    let clock = Clock::by_hand(Stamp { wall_ns: START, mono_ms: 5_000 });
    let store = Spool::in_memory(Bytes::mib(4), clock.clone(), Dice::seeded(1));
    let lane = store.lane("logs", Signal::Logs);
    let mut owner = store.own("otlphttp", &[lane]);
    for n in 0..10_u64 {
        store.commit(vec![block(lane, &[n], u128::from(n) + 1, &clock)]).expect("space");
        for _ in 0..2 {
            store.lease(owner, lane, CUT).expect("readable").expect("it waits");
            owner = store.own("otlphttp", &[lane]); // the former one fell
        }
        assert!(store.lease(owner, lane, CUT).expect("readable").is_none(), "set aside");
    }
    assert_eq!(book(&store).quarantined, 10);
    store.cap(capped(5 * 150));
    upkeep(&store);
    let book = book(&store);
    assert_eq!((book.quarantined, book.lost[Reason::Corrupt as usize], book.dead_letters), (5, 5, 0), "{book:?}");
}

/// Goal: of segments that were set aside the oldest go, by bytes and by number, and the books do not count them again.
#[test]
fn segments_set_aside_are_few() {
    let (dir, clock) = (scratch(), Clock::by_hand(Stamp { wall_ns: START, mono_ms: 5_000 }));
    let aside = dir.path().join("spool/quarantine");
    let names = || -> BTreeSet<String> {
        let entries = std::fs::read_dir(&aside).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    };
    let set_aside = |n: u32, bytes: usize| {
        let segment = aside.join(format!("seg-{n:016x}"));
        std::fs::create_dir_all(&segment).expect("space");
        std::fs::write(segment.join("0.jnl"), vec![1; bytes]).expect("space");
    };
    (1..=20).for_each(|n| set_aside(n, 10));
    std::fs::write(aside.join("notes.txt"), "a person's").expect("space");
    let store = open(dir.path(), &clock);
    upkeep(&store);
    let newest: BTreeSet<String> = (5..=20).map(|n| format!("seg-{n:016x}")).chain(["notes.txt".to_owned()]).collect();
    assert_eq!(names(), newest, "sixteen, and what is none of ours");
    assert!(store.losses().is_empty());
    drop(store);
    set_aside(21, 200_000);
    set_aside(22, 200_000);
    let store = open(dir.path(), &clock);
    store.cap(capped(300_000));
    upkeep(&store);
    assert_eq!(names(), BTreeSet::from([format!("seg-{:016x}", 22), "notes.txt".to_owned()]));
}
