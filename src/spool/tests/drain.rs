//! Promise P6 in the store: what comes in is handed out before a backlog, and no book, restart, eviction or damage minds.

use super::*;

const STALE: Duration = Duration::from_secs(10);
const LIVE: Pick = Pick::Live { stale: STALE };
const OLDER: Pick = Pick::Backlog { newest: false };
const NEWER: Pick = Pick::Backlog { newest: true };
const MINUTE: Duration = Duration::from_secs(60);

struct Place {
    dir: tempfile::TempDir,
    clock: Clock,
    disk: bool,
    next: u64,
}

impl Place {
    fn new(disk: bool) -> Place {
        let clock = Clock::by_hand(Stamp { wall_ns: 1_700_000_000_000_000_000, mono_ms: 5_000 });
        Place { dir: scratch(), clock, disk, next: 0 }
    }

    fn open(&self) -> Spool {
        self.open_with(|_| {})
    }

    fn open_with(&self, set: impl FnOnce(&mut DiskSettings)) -> Spool {
        let mut settings = settings(self.dir.path());
        set(&mut settings);
        if self.disk {
            Spool::on_disk(settings, self.clock.clone(), Dice::seeded(7)).expect("nothing keeps it from starting")
        } else {
            Spool::in_memory(Bytes::mib(64), self.clock.clone(), Dice::seeded(7))
        }
    }

    /// `n` blocks of twenty items come in.
    fn put(&mut self, store: &Spool, lane: Lane, n: u64) {
        for _ in 0..n {
            let items: Vec<u64> = (self.next..self.next + 20).collect();
            self.next += 20;
            store.commit(vec![block(lane, &items, u128::from(self.next), &self.clock)]).expect("there is space");
        }
    }
}

/// Blocks of twenty make a window each.
fn take(store: &Spool, owner: Owner, lane: Lane, pick: Pick) -> Option<Lease> {
    let lease = store.pick(owner, lane, pick, Cut { enough_items: 20, ..CUT }).expect("readable")?;
    store.handled(owner, lane, lease.window.clone());
    Some(lease)
}

fn deliver(store: &Spool, owner: Owner, lease: &Lease) -> Vec<u64> {
    for b in &lease.blocks {
        let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
        let outcome = Outcome::Delivered { rejected: 0 };
        store.settle(vec![Settlement { owner, lane: lease.lane, range, items: b.items, outcome }]).expect("it is out");
    }
    lease.blocks.iter().flat_map(|b| items_of(&b.raw)).collect()
}

/// Takes and delivers one window; the first item of it.
fn go(store: &Spool, owner: Owner, lane: Lane, pick: Pick) -> Option<u64> {
    let lease = take(store, owner, lane, pick)?;
    deliver(store, owner, &lease).first().copied()
}

fn book(store: &Spool) -> Book {
    store.books().into_iter().next().expect("one lane, one exporter")
}

/// Goal: after an outage what comes in is handed out at once, in order, the backlog beside it, oldest first, and each item once;
/// so after a restart in the middle of it.
#[test]
fn what_comes_in_goes_before_a_backlog() {
    for disk in [false, true] {
        let mut place = Place::new(disk);
        let mut store = place.open();
        let lane = store.lane("logs", Signal::Logs);
        let mut owner = store.own("otlphttp", &[lane]);
        place.put(&store, lane, 3);
        assert_eq!((0..3).map(|_| go(&store, owner, lane, LIVE)).collect::<Vec<_>>(), [Some(0), Some(20), Some(40)]);
        place.put(&store, lane, 100); // 60 to 2,059, nobody takes it
        place.clock.advance(MINUTE);
        assert_eq!(store.waiting(owner, lane).live, 2_000, "nobody said yet that it is a backlog");
        assert_eq!(go(&store, owner, lane, LIVE), None, "nothing came in since");
        let waiting = store.waiting(owner, lane);
        assert_eq!((waiting.items, waiting.live, waiting.oldest), (2_000, 0, waiting.oldest));
        place.put(&store, lane, 2);
        assert_eq!(store.waiting(owner, lane).live, 40);
        assert_eq!(go(&store, owner, lane, LIVE), Some(2_060));
        assert_eq!((go(&store, owner, lane, OLDER), go(&store, owner, lane, OLDER)), (Some(60), Some(80)));
        assert_eq!((go(&store, owner, lane, LIVE), go(&store, owner, lane, LIVE)), (Some(2_080), None));
        if disk {
            drop(store);
            store = place.open();
            owner = store.own("otlphttp", &[lane]);
        }
        place.put(&store, lane, 1);
        assert_eq!(go(&store, owner, lane, LIVE), Some(2_100), "disk {disk}: who it was before the restart, is");
        let older: Vec<Option<u64>> = (0..98).map(|_| go(&store, owner, lane, OLDER)).collect();
        assert_eq!(older, (0..98).map(|n| Some(100 + n * 20)).collect::<Vec<_>>());
        assert_eq!((go(&store, owner, lane, OLDER), book(&store).waiting), (None, 0));
        assert_eq!((book(&store).accepted, book(&store).delivered), (place.next, place.next));
        let cursor = store.cursor(owner, lane);
        assert_eq!((cursor.windows.len(), cursor.unread().len()), (0, 1), "nothing is left of it: {cursor:?}");
    }
}

/// Goal: what is young when a backlog is left behind stays live, and what one window holds is not left behind at all.
#[test]
fn only_what_is_old_becomes_a_backlog() {
    let mut place = Place::new(false);
    let store = place.open();
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    place.put(&store, lane, 1);
    place.clock.advance(MINUTE);
    assert_eq!(go(&store, owner, lane, LIVE), Some(0), "it is a window");
    place.put(&store, lane, 5); // from 20 on
    place.clock.advance(MINUTE);
    place.put(&store, lane, 2); // from 120 on
    assert_eq!(
        [LIVE, LIVE, LIVE, OLDER].map(|pick| go(&store, owner, lane, pick)),
        [Some(120), Some(140), None, Some(20)]
    );
}

/// Goal: newest_first hands out the youngest segment first, and within it in order.
#[test]
fn the_newest_segment_goes_first_if_that_is_wanted() {
    let mut place = Place::new(true);
    let store = place.open();
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    for _ in 0..10 {
        place.put(&store, lane, 10);
        upkeep(&store);
    }
    assert!(store.usage().segments > 5);
    place.clock.advance(MINUTE);
    assert_eq!(go(&store, owner, lane, LIVE), None);
    let first = go(&store, owner, lane, NEWER).expect("it waits");
    assert!(first >= 1_000, "of the young half: {first}");
    drop(store); // its places are on the disk
    let store = place.open();
    let owner = store.own("otlphttp", &[lane]);
    assert_eq!(go(&store, owner, lane, LIVE), None, "what is left is old");
    let rest: Vec<u64> = std::iter::from_fn(|| go(&store, owner, lane, NEWER)).collect();
    let mut falls = 0;
    for pair in [first].iter().chain(&rest).collect::<Vec<_>>().windows(2) {
        assert!(*pair[1] == pair[0] + 20 || pair[1] < pair[0], "on in a segment, or to an older one: {rest:?}");
        falls += usize::from(pair[1] < pair[0]);
    }
    assert!(falls >= 4, "segment by segment: {rest:?}");
    assert_eq!((rest.len(), book(&store).delivered, book(&store).waiting), (99, place.next, 0));
}

/// Goal: many outages of which none is caught up with cost a bounded record; at the bound what is closest to be finished is, and
/// then fresh data goes first again; nothing gets lost of it, over restarts too.
#[test]
fn outages_behind_one_another_are_bounded() {
    let mut place = Place::new(true);
    let mut store = place.open();
    let lane = store.lane("logs", Signal::Logs);
    let mut owner = store.own("otlphttp", &[lane]);
    let unread = |store: &Spool, owner: Owner| store.cursor(owner, lane).unread().len();
    for round in 0..100_u64 {
        place.put(&store, lane, 3);
        place.clock.advance(MINUTE);
        place.put(&store, lane, 1);
        let fresh = place.next - 20;
        let got = go(&store, owner, lane, LIVE);
        assert_eq!(got == Some(fresh), round < 63, "round {round}: {got:?}, fresh is {fresh}");
        if round % 20 == 7 {
            upkeep(&store);
            drop(store);
            store = place.open();
            owner = store.own("otlphttp", &[lane]);
        }
    }
    assert_eq!(unread(&store, owner), 64);
    let record = store.cursor(owner, lane).write();
    assert!(record.len() < 5_000, "{} B", record.len());
    assert!((0..3).all(|_| go(&store, owner, lane, OLDER).is_some()), "it waits");
    place.clock.advance(MINUTE);
    place.put(&store, lane, 1);
    assert_eq!(
        go(&store, owner, lane, LIVE),
        Some(place.next - 20),
        "one of them is finished, and fresh data is fresh"
    );
    while go(&store, owner, lane, OLDER).or_else(|| go(&store, owner, lane, LIVE)).is_some() {}
    assert_eq!((book(&store).delivered, book(&store).waiting, unread(&store, owner)), (place.next, 0, 1));
}

/// Goal: what gives way for space or for its age is the old, counted once, whatever was handed out before it; what is live goes on.
#[test]
fn a_backlog_gives_way_in_its_turn() {
    for by_age in [false, true] {
        let mut place = Place::new(true);
        let store = place.open_with(|s| {
            s.max = Bytes::mib(if by_age { 512 } else { 1 });
            s.max_age = by_age.then_some(MINUTE * 30);
        });
        let lane = store.lane("logs", Signal::Logs);
        let owner = store.own("otlphttp", &[lane]);
        let (mut live, mut rounds) = (0, 0);
        while book(&store).lost.iter().sum::<u64>() == 0 || rounds < 40 {
            rounds += 1;
            assert!(rounds < 300, "by age {by_age}: something gives way: {:?}", store.usage());
            place.put(&store, lane, 20);
            place.clock.advance(MINUTE);
            place.put(&store, lane, 1);
            let out = take(&store, owner, lane, OLDER);
            assert_eq!(go(&store, owner, lane, LIVE), Some(place.next - 20), "round {rounds}");
            live += 20;
            upkeep(&store);
            if let Some(lease) = out {
                store.give_back(owner, lane, lease.window);
            }
            upkeep(&store);
        }
        let now = book(&store);
        let reason = if by_age { Reason::Expired } else { Reason::Evicted };
        let lost = now.lost[reason as usize];
        assert_eq!((now.delivered, now.lost.iter().sum::<u64>(), lost > 0), (live, lost, true), "{now:?}");
        let rest: Vec<u64> = std::iter::from_fn(|| go(&store, owner, lane, OLDER)).collect();
        assert!(rest.is_sorted() && rest.first().is_some_and(|n| *n >= lost), "the oldest gave way: {rest:?}");
        while go(&store, owner, lane, LIVE).is_some() {}
        let end = book(&store);
        assert_eq!((end.waiting, end.delivered + lost, end.accepted), (0, place.next, place.next), "{end:?}");
        upkeep(&store);
        assert!(store.usage().segments <= 3, "nothing is held for what was delivered: {:?}", store.usage());
    }
}

/// Goal: what is parked, set aside or given up out of the middle of a backlog is counted once and keeps to its lane.
#[test]
fn what_leaves_a_backlog_sideways_is_counted_once() {
    for disk in [false, true] {
        let mut place = Place::new(disk);
        let mut store = place.open();
        let lane = store.lane("logs", Signal::Logs);
        let mut owner = store.own("otlphttp", &[lane]);
        store.park_lane(owner, lane);
        place.put(&store, lane, 10);
        place.clock.advance(MINUTE);
        place.put(&store, lane, 4);
        let fates = [
            (LIVE, Outcome::Parked { raw: bytes::Bytes::from(vec![7; 24]) }),
            (OLDER, Outcome::DeadLetter { raw: bytes::Bytes::from(vec![7; 24]), answer: "400 no".into() }),
            (LIVE, Outcome::Lost(Reason::RetryExpired)),
            (OLDER, Outcome::Delivered { rejected: 5 }),
        ];
        for (pick, outcome) in fates {
            let lease = take(&store, owner, lane, pick).expect("it waits");
            let range = Pos { index: lease.window.start, item: 0 }..Pos { index: lease.window.end, item: 0 };
            store.settle(vec![Settlement { owner, lane, range, items: 20, outcome }]).expect("it is out");
        }
        for again in [false, true] {
            let book = book(&store);
            assert_eq!((book.dead_letters, book.delivered, book.waiting), (20, 15, 20 * 14 - 60), "{again}: {book:?}");
            assert_eq!(book.lost, [0, 20, 0, 0, 5, 0], "{again}: {book:?}");
            if disk && !again {
                drop(store);
                store = place.open();
                owner = store.own("otlphttp", &[lane]);
            }
        }
        let given_up = store.discard(crate::spool::store::What::Waiting { anyway: true }, &Default::default());
        assert_eq!(given_up.expect("the disk is well").iter().map(|m| m.items).sum::<u64>(), 220);
        let book = book(&store);
        assert_eq!((book.waiting, book.lost), (0, [0, 20, 0, 0, 5, 220]), "{book:?}");
        place.put(&store, lane, 1);
        assert_eq!(go(&store, owner, lane, LIVE), Some(280), "and what comes in goes on");
    }
}

/// Goal: a block that cannot be read in a backlog is lost, alone and once; one in what comes in too.
#[test]
fn damage_in_a_backlog_costs_what_is_damaged() {
    let mut place = Place::new(true);
    let store = place.open_with(|s| s.compact = Compaction::NEVER);
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    for _ in 0..12 {
        place.put(&store, lane, 10);
        upkeep(&store);
    }
    place.clock.advance(MINUTE);
    place.put(&store, lane, 3);
    assert_eq!((go(&store, owner, lane, LIVE), go(&store, owner, lane, OLDER)), (Some(2_400), Some(0)));
    drop(store);
    let mut segments: Vec<_> = std::fs::read_dir(place.dir.path().join("spool"))
        .expect("there")
        .map(|e| e.expect("readable").path())
        .filter(|p| p.join("version").exists())
        .collect();
    segments.sort();
    std::fs::remove_dir_all(&segments[2]).expect("ours");
    let store = place.open();
    let owner = store.own("otlphttp", &[lane]);
    place.put(&store, lane, 1);
    let live: Vec<u64> = std::iter::from_fn(|| go(&store, owner, lane, LIVE)).collect();
    let older: Vec<u64> = std::iter::from_fn(|| go(&store, owner, lane, OLDER)).collect();
    let end = book(&store);
    let lost = end.lost[Reason::Corrupt as usize];
    assert!(lost > 0 && lost < 1_000 && older.is_sorted(), "{lost} lost: {older:?}");
    assert_eq!((end.delivered + lost, end.waiting, end.accepted), (place.next, 0, place.next), "{live:?} {end:?}");
    gaps::assert_dated(&store);
}
