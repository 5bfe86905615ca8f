//! What a person decides about held data, while an uplink works beside it and after a restart.

use super::{CUT, block, open, scratch, upkeep};
use crate::base::{Bytes, Clock, Dice};
use crate::otlp::Signal;
use crate::spool::block::frame;
use crate::spool::store::{Mended, Spool, What, Which};
use crate::spool::{Book, Lane, NewBlock, Outcome, Owner, Pos, Settlement, Store as _};
use crate::testing::numbered::{Numbered, Source, numbers};
use std::collections::BTreeSet;

/// A block of so many numbered log records.
fn numbered(lane: Lane, made: &mut Numbered, items: u32, clock: &Clock) -> NewBlock {
    let raw = made.request(items).bytes;
    let raw_len = u32::try_from(raw.len()).expect("small");
    NewBlock { items, raw_len, framed: frame(&raw), ..block(lane, &[0], u128::from(made.next_seq()), clock) }
}

fn seqs(raw: &[u8]) -> Vec<u64> {
    let mut seqs = Vec::new();
    numbers(Signal::Logs, raw, |mark| seqs.push(mark.expect("numbered").seq)).expect("a request");
    seqs
}

/// Delivers everything of a lane.
fn deliver(store: &Spool, owner: Owner, lane: Lane) -> BTreeSet<u64> {
    let mut got = BTreeSet::new();
    while let Some(lease) = store.lease(owner, lane, CUT).expect("readable") {
        store.handled(owner, lane, lease.window.clone());
        for b in &lease.blocks {
            let items: Vec<u64> = seqs(&b.raw);
            let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
            let outcome = Outcome::Delivered { rejected: 0 };
            store.settle(vec![Settlement { owner, lane, range, items: b.items, outcome }]).expect("out");
            assert!(items.into_iter().all(|seq| got.insert(seq)), "once");
        }
    }
    got
}

fn only(mut books: Vec<Book>) -> Book {
    assert_eq!(books.len(), 1);
    books.remove(0)
}

/// Two blocks are refused, a third fells its handler; a fourth, which is no request, is refused too.
fn with_held(store: &Spool, clock: &Clock) -> (Owner, Lane) {
    let lane = store.lane("logs", Signal::Logs);
    let mut owner = store.own("otlphttp", &[lane]);
    let mut made = Numbered::new(Signal::Logs, Source(1));
    for _ in 0..2 {
        store.commit(vec![numbered(lane, &mut made, 10, clock)]).expect("space");
    }
    store.commit(vec![block(lane, &[7, 8], 99, clock)]).expect("space");
    let refuse = |n: u32| {
        let lease = store.lease(owner, lane, CUT).expect("readable").expect("it waits");
        store.handled(owner, lane, lease.window.clone());
        for b in &lease.blocks {
            let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
            let outcome = Outcome::DeadLetter { raw: b.raw.clone(), answer: "no".into() };
            store.settle(vec![Settlement { owner, lane, range, items: b.items, outcome }]).expect("out");
        }
        assert_eq!(lease.blocks.iter().map(|b| b.items).sum::<u32>(), n);
    };
    refuse(10);
    refuse(10);
    refuse(2);
    store.commit(vec![numbered(lane, &mut made, 10, clock)]).expect("space");
    for _ in 0..2 {
        store.lease(owner, lane, CUT).expect("readable").expect("it waits");
        owner = store.own("otlphttp", &[lane]); // the former one fell
    }
    assert!(store.lease(owner, lane, CUT).expect("readable").is_none(), "set aside");
    (owner, lane)
}

#[test]
fn held_data_is_sent_again_once_and_what_is_no_request_stays() {
    let (dir, clock) = (scratch(), Clock::system());
    for disk in [false, true] {
        let store = if disk {
            open(dir.path(), &clock)
        } else {
            Spool::in_memory(Bytes::mib(4), clock.clone(), Dice::seeded(1))
        };
        let (owner, lane) = with_held(&store, &clock);
        let book = only(store.books());
        assert_eq!((book.dead_letters, book.quarantined, book.waiting), (22, 10, 0));
        let news = *store.news().borrow();
        let mended = |items, left| vec![Mended { exporter: "otlphttp".into(), pipeline: "logs".into(), items, left }];
        let other = Which { exporter: Some("another".into()), pipeline: None };
        assert_eq!(store.requeue(What::DeadLetters, &other, &|_| {}), Ok(vec![]));
        assert_eq!(store.requeue(What::DeadLetters, &Which::default(), &|_| {}), Ok(mended(20, 2)));
        assert_eq!(store.requeue(What::Quarantine, &Which::default(), &|_| {}), Ok(mended(10, 0)));
        assert_eq!(
            store.requeue(What::DeadLetters, &Which::default(), &|_| {}),
            Ok(mended(0, 2)),
            "it still stays, and it ends"
        );
        assert!(*store.news().borrow() > news, "the uplink is told");
        let book = only(store.books());
        assert_eq!((book.dead_letters, book.quarantined, book.waiting), (2, 0, 30), "{book:?}");
        let store = if disk {
            drop(store);
            open(dir.path(), &clock)
        } else {
            store
        };
        let owner = if disk { store.own("otlphttp", &[lane]) } else { owner };
        assert_eq!(deliver(&store, owner, store.park_lane(owner, lane)), (0..30).collect());
        upkeep(&store);
        let book = only(store.books());
        assert_eq!((book.dead_letters, book.waiting, book.delivered), (2, 0, 30), "{book:?}");
    }
}

#[test]
fn what_is_given_up_is_counted_as_dropped_also_under_a_window_that_is_out() {
    let (dir, clock) = (scratch(), Clock::system());
    let dropped = |book: &Book| book.lost[crate::spool::Reason::Dropped as usize];
    {
        let store = open(dir.path(), &clock);
        let (owner, lane) = with_held(&store, &clock);
        let mut made = Numbered::new(Signal::Logs, Source(1)).starting_at(100);
        store
            .commit(vec![numbered(lane, &mut made, 10, &clock), numbered(lane, &mut made, 10, &clock)])
            .expect("space");
        let out = store.lease(owner, lane, CUT).expect("readable").expect("it waits");
        let all = Which::default();
        assert_eq!(store.discard(What::Waiting { anyway: false }, &all), Ok(vec![]), "its exporter is there");
        let done = store.discard(What::Waiting { anyway: true }, &all).expect("the disk is well");
        assert_eq!(done.iter().map(|m| m.items).sum::<u64>(), 20);
        // The upload that was out arrives late: that changes nothing.
        let b = &out.blocks[0];
        let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
        let late = Settlement { owner, lane, range, items: b.items, outcome: Outcome::Delivered { rejected: 0 } };
        assert!(store.settle(vec![late]).is_err());
        let book = only(store.books());
        assert_eq!((book.waiting, dropped(&book), book.dead_letters), (0, 20, 22), "{book:?}");
        for what in [What::DeadLetters, What::Quarantine] {
            store.discard(what, &all).expect("the disk is well");
        }
        assert_eq!(dropped(&only(store.books())), 52);
    }
    let book = only(open(dir.path(), &clock).books());
    assert_eq!(
        (dropped(&book), book.sum(), book.waiting, book.dead_letters),
        (52, 52, 0, 0),
        "it is on the disk: {book:?}"
    );
}
