//! What gives way before anybody had it: by age, by size, by signal, for the rest of the machine.

use super::*;
use crate::spool::disk::{Limits, Shed, allocated};
use std::fs;

/// A store and its clock: in step with the world's for long.
struct Place {
    dir: tempfile::TempDir,
    clock: Clock,
    settings: DiskSettings,
}

const TODAY: u64 = 1_795_737_600_000_000_000;
const YEARS_10: u64 = 10 * 365 * 86_400 * 1_000_000_000;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

impl Place {
    fn new(change: impl FnOnce(&mut DiskSettings)) -> Place {
        let (dir, clock) = (scratch(), Clock::by_hand(Stamp { wall_ns: TODAY, mono_ms: 30_000 }));
        clock.set_synced(true);
        let mut settings = settings(dir.path());
        change(&mut settings);
        Place { dir, clock, settings }
    }

    fn open(&self) -> Spool {
        Spool::on_disk(self.settings.clone(), self.clock.clone(), Dice::seeded(7)).expect("a directory")
    }

    /// Bytes on the disk.
    fn size(&self) -> u64 {
        allocated(&self.dir.path().join("spool"))
    }

    /// Time passes, and house is kept meanwhile.
    fn pass(&self, store: &Spool, time: Duration) {
        for _ in 0..20 {
            self.clock.advance(time / 20);
            keep(store);
        }
    }
}

fn keep(store: &Spool) {
    for _ in 0..1_000 {
        if !store.upkeep().expect("there is space") {
            return;
        }
    }
    panic!("housekeeping comes to an end");
}

fn lost(store: &Spool, lane: &str, reason: Reason) -> u64 {
    store.books().iter().filter(|b| b.lane == lane).map(|b| b.lost[reason as usize]).sum()
}

fn waiting(store: &Spool, lane: &str) -> u64 {
    store.books().iter().filter(|b| b.lane == lane).map(|b| b.waiting).sum()
}

/// `n` blocks of twenty items, from `from` on.
fn put(store: &Spool, lane: Lane, signal: Signal, clock: &Clock, from: u64, n: u64) {
    for at in 0..n {
        let items: Vec<u64> = (from + at * 20..from + at * 20 + 20).collect();
        let id = u128::from(lane.0) << 64 | u128::from(from + at * 20);
        let new = NewBlock { signal, ..block(lane, &items, id, clock) };
        store.commit(vec![new]).expect("there is space");
    }
}

/// Goal: what has waited longer than `max_age` is lost{expired} and gives its space back; nothing younger is.
/// Method: an hour's data, then two hours; segments expire whole, and one in part.
#[test]
fn what_is_too_old_gives_way_and_nothing_else() {
    let place = Place::new(|s| s.max_age = Some(2 * HOUR));
    let store = place.open();
    let lane = store.lane("logs", Signal::Logs);
    store.own("otlphttp", &[lane]);
    put(&store, lane, Signal::Logs, &place.clock, 0, 60);
    place.pass(&store, HOUR);
    put(&store, lane, Signal::Logs, &place.clock, 1_200, 60);
    let full = store.usage().segments;
    place.pass(&store, HOUR - Duration::from_secs(1));
    assert_eq!((lost(&store, "logs", Reason::Expired), waiting(&store, "logs")), (0, 2_400), "not a second early");
    place.pass(&store, Duration::from_secs(20));
    assert_eq!((lost(&store, "logs", Reason::Expired), waiting(&store, "logs")), (1_200, 1_200));
    assert!(store.usage().segments < full, "{} of {full} segments are left", store.usage().segments);
    drop(store);
    let store = place.open();
    assert_eq!(
        (lost(&store, "logs", Reason::Expired), waiting(&store, "logs")),
        (1_200, 1_200),
        "and it is written down"
    );
    let owner = store.own("otlphttp", &[lane]);
    assert_eq!(drain_all(&store, owner, lane), (1_200..2_400).collect::<Vec<u64>>());
    assert_eq!(lost(&store, "logs", Reason::Corrupt), 0);
}

/// Goal: a block that stands in another segment than its neighbours is too old, and not missing.
#[test]
fn what_stands_elsewhere_expires_and_is_not_taken_for_a_hole() {
    let place = Place::new(|s| s.max_age = Some(HOUR));
    let store = place.open();
    let lane = store.lane("logs", Signal::Logs);
    store.own("otlphttp", &[lane]);
    put(&store, lane, Signal::Logs, &place.clock, 0, 60);
    drop(store);
    let dir = place.dir.path().join("spool");
    let entries = fs::read_dir(&dir).expect("there").map(|e| e.expect("readable").path());
    let mut segments: Vec<_> =
        entries.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("seg-"))).collect();
    segments.sort();
    assert!(segments.len() > 3, "{segments:?}");
    for (from, to) in [(&segments[0], &dir.join("x")), (&segments[1], &segments[0]), (&dir.join("x"), &segments[1])] {
        fs::rename(from, to).expect("there is space");
    }
    let store = place.open();
    place.pass(&store, 2 * HOUR);
    let lost = [Reason::Expired, Reason::Corrupt].map(|reason| lost(&store, "logs", reason));
    assert_eq!((lost, waiting(&store, "logs")), ([1_200, 0], 0));
}

/// Goal: no jump of the clock and no reboot makes anything old that is not, and what became old while the machine was off is
/// known to be as soon as the clock is in step again.
#[test]
fn jumps_and_reboots_expire_nothing_wrongly_and_keep_nothing_for_ever() {
    let place = Place::new(|s| s.max_age = Some(DAY));
    let lane = Lane(0);
    let expired = |store: &Spool| lost(store, "logs", Reason::Expired);
    let open = || {
        let store = place.open();
        store.own("otlphttp", &[store.lane("logs", Signal::Logs)]);
        store
    };
    let store = open();
    place.pass(&store, HOUR);
    put(&store, lane, Signal::Logs, &place.clock, 0, 10);
    for wall_ns in [TODAY + YEARS_10, TODAY - YEARS_10, 0] {
        place.clock.set_wall_ns(wall_ns);
        place.clock.set_synced(false); // as the kernel does
        place.pass(&store, HOUR);
        assert_eq!(expired(&store), 0, "the clock jumped to {wall_ns}");
    }
    // Off for three days; nobody knows that yet.
    drop(store);
    place.clock.reboot(3 * DAY, 5_000_000_000);
    let store = open();
    put(&store, lane, Signal::Logs, &place.clock, 200, 10);
    place.pass(&store, HOUR);
    assert_eq!(expired(&store), 0, "for all that is known it was on for five hours");
    place.clock.set_wall_ns(TODAY + YEARS_10); // by hand, and wrong
    place.pass(&store, HOUR);
    assert_eq!(expired(&store), 0, "a clock that is not in step proves nothing");
    place.clock.set_wall_ns(TODAY + 3 * 86_400_000_000_000 + 6 * 3_600_000_000_000);
    place.clock.set_synced(true);
    place.pass(&store, Duration::from_secs(180));
    assert_eq!((expired(&store), waiting(&store, "logs")), (200, 200), "now it is: the first ones are three days old");
    // What came in before the clock was set is as old as it is.
    place.pass(&store, 21 * HOUR);
    assert_eq!(expired(&store), 200);
    place.pass(&store, 2 * HOUR);
    assert_eq!((expired(&store), waiting(&store, "logs")), (400, 0));
}

/// Without a clock, ever: what was on for long enough is old, over any number of reboots.
#[test]
fn without_a_clock_everything_grows_old_by_the_time_the_machine_is_on() {
    let place = Place::new(|s| s.max_age = Some(DAY));
    place.clock.set_synced(false);
    for boot in 0..13 {
        let store = place.open();
        let lane = store.lane("logs", Signal::Logs);
        store.own("otlphttp", &[lane]);
        if boot == 0 {
            put(&store, lane, Signal::Logs, &place.clock, 0, 10);
        }
        place.pass(&store, 2 * HOUR); // and cut off, without an orderly stop
        let expired = lost(&store, "logs", Reason::Expired);
        assert_eq!(expired, if boot < 12 { 0 } else { 200 }, "after {} hours", 2 * (boot + 1));
        drop(store);
        place.clock.reboot(HOUR, 5_000_000_000);
    }
}

/// What was parked, also over a reboot, is as old as it was.
#[test]
fn parked_data_does_not_grow_young() {
    let place = Place::new(|s| s.max_age = Some(6 * HOUR));
    let store = place.open();
    let lane = store.lane("logs", Signal::Logs);
    store.own("otlphttp", &[lane]);
    put(&store, lane, Signal::Logs, &place.clock, 0, 1);
    place.pass(&store, 2 * HOUR);
    drop(store);
    place.clock.reboot(Duration::from_secs(10), 0);
    let store = place.open();
    let owner = store.own("otlphttp", &[lane]);
    place.pass(&store, 2 * HOUR);
    let lease = store.lease(owner, lane, CUT).expect("readable").expect("it waits");
    let (range, items) = part_of(&lease, 0, usize::MAX).expect("all of it");
    let (items, raw) = (u32::try_from(items.len()).expect("few"), lease.blocks[0].raw.clone());
    store.settle(vec![Settlement { owner, lane, range, items, outcome: Outcome::Parked { raw } }]).expect("out");
    put(&store, lane, Signal::Logs, &place.clock, 20, 1);
    place.pass(&store, HOUR);
    assert_eq!((lost(&store, "logs", Reason::Expired), waiting(&store, "logs")), (0, 40));
    // How long the first boot lasted is written every ten minutes.
    place.pass(&store, HOUR + Duration::from_secs(900));
    assert_eq!(
        (lost(&store, "logs", Reason::Expired), waiting(&store, "logs")),
        (20, 20),
        "six hours after it came in"
    );
}

/// An upload that is out expires under its owner: what it says later changes nothing, and the rest of the window goes on.
#[test]
fn what_is_out_expires_and_is_not_counted_twice() {
    let place = Place::new(|s| s.max_age = Some(HOUR));
    let store = place.open();
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    put(&store, lane, Signal::Logs, &place.clock, 0, 1);
    place.pass(&store, HOUR / 2);
    put(&store, lane, Signal::Logs, &place.clock, 20, 1);
    let cut = Cut { enough_items: 40, max_items: 0, max_bytes: 1 << 20 };
    let lease = store.lease(owner, lane, cut).expect("readable").expect("it waits");
    assert_eq!(lease.blocks.len(), 2);
    place.pass(&store, HOUR / 2 + Duration::from_secs(60));
    assert_eq!((lost(&store, "logs", Reason::Expired), waiting(&store, "logs")), (20, 20));
    for b in &lease.blocks {
        let range = Pos { index: b.index, item: 0 }..Pos { index: b.index + 1, item: 0 };
        let outcome = Outcome::Delivered { rejected: 0 };
        let _ = store.settle(vec![Settlement { owner, lane, range, items: b.items, outcome }]);
    }
    let book = store.books().remove(0);
    assert_eq!((book.accepted, book.delivered, book.lost[Reason::Expired as usize], book.waiting), (40, 20, 20, 0));
}

/// What the disk lost before it grew old has its own reason.
#[test]
fn a_hole_is_not_called_old() {
    let place = Place::new(|s| s.max_age = Some(HOUR));
    let store = place.open();
    let lane = store.lane("logs", Signal::Logs);
    store.own("otlphttp", &[lane]);
    put(&store, lane, Signal::Logs, &place.clock, 0, 100);
    keep(&store);
    drop(store);
    let mut segments: Vec<_> = std::fs::read_dir(place.dir.path().join("spool"))
        .expect("there")
        .map(|e| e.expect("there").path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("seg-")))
        .collect();
    segments.sort();
    std::fs::remove_dir_all(&segments[1]).expect("it is there");
    let store = place.open();
    store.own("otlphttp", &[lane]);
    place.pass(&store, HOUR + Duration::from_secs(60));
    let (expired, corrupt) = (lost(&store, "logs", Reason::Expired), lost(&store, "logs", Reason::Corrupt));
    assert_eq!(expired + corrupt, 2_000, "{expired} expired, {corrupt} corrupt");
    assert!(corrupt > 0 && corrupt < 1_000, "one segment: {corrupt}");
    assert_eq!(waiting(&store, "logs"), 0);
}

/// An age that is set while the agent runs counts from then on for what lies there.
#[test]
fn max_age_may_come_later() {
    let place = Place::new(|_| {});
    let store = place.open();
    let lane = store.lane("logs", Signal::Logs);
    store.own("otlphttp", &[lane]);
    put(&store, lane, Signal::Logs, &place.clock, 0, 10);
    place.pass(&store, HOUR);
    assert_eq!(lost(&store, "logs", Reason::Expired), 0);
    store.limit(Limits { max_age: Some(HOUR / 2), ..place.settings.limits() });
    place.pass(&store, Duration::from_secs(20));
    assert_eq!(lost(&store, "logs", Reason::Expired), 200);
}

/// A spool with traces, logs and few metrics in every segment, at its limit.
fn mixed(shed: &[Signal], traces: usize, others: usize) -> (Place, Spool) {
    let place = Place::new(|s| {
        s.max = Bytes::mib(10);
        s.segment_min = Bytes(512 << 10);
        s.segment_max = Bytes(512 << 10);
        s.shed = Shed::in_order(shed);
    });
    let store = place.open();
    let lanes = Signal::ALL.map(|signal| store.lane(signal.name(), signal));
    store.own("otlphttp", &lanes);
    for round in 0..80 {
        for (lane, signal) in lanes.iter().zip(Signal::ALL) {
            let n = if signal == Signal::Traces { traces } else { others };
            for at in (round * 10_000..).step_by(200).take(n) {
                let items: Vec<u64> = (at..at + 200).collect();
                let new = NewBlock {
                    signal,
                    ..block(*lane, &items, u128::from(lane.0) << 64 | u128::from(at), &place.clock)
                };
                store.commit(vec![new]).expect("there is space");
            }
        }
        place.clock.advance(Duration::from_secs(20));
        keep(&store);
    }
    (place, store)
}

fn evicted(store: &Spool) -> [u64; 3] {
    Signal::ALL.map(|signal| lost(store, signal.name(), Reason::Evicted))
}

/// Goal: at the limit the first signal named gives way, oldest first, and the others stay whole and in order.
#[test]
fn the_signal_that_is_missed_least_gives_way_first() {
    let (place, store) = mixed(&[Signal::Traces, Signal::Logs], 20, 8);
    let [traces, metrics, logs] = evicted(&store);
    assert!(traces > 1_000, "traces gave way: {traces}");
    assert_eq!((metrics, logs), (0, 0), "and nobody else");
    assert!(store.usage().bytes.0 <= place.settings.max.0 + (1 << 20), "{:?}", store.usage());
    // After a restart too: what was copied is there, in order.
    drop(store);
    let store = place.open();
    let lanes = Signal::ALL.map(|signal| store.lane(signal.name(), signal));
    let owner = store.own("otlphttp", &lanes);
    let expected: Vec<u64> = (0..80).flat_map(|round| round * 10_000..round * 10_000 + 1_600).collect();
    for lane in [lanes[1], lanes[2]] {
        assert_eq!(drain_all(&store, owner, lane), expected);
    }
    let all: Vec<u64> = (0..80).flat_map(|round| round * 10_000..round * 10_000 + 4_000).collect();
    let got = drain_all(&store, owner, lanes[0]);
    assert_eq!(got, all[usize::try_from(traces).expect("small")..], "of the traces the oldest went");
    assert_eq!(evicted(&store), [traces, 0, 0]);
    assert_eq!(lost(&store, "traces", Reason::Corrupt), 0);
}

/// When nothing of the first is left to give, the next one is next; and without an order the oldest goes, whatever it is.
#[test]
fn the_next_signal_is_next_and_without_an_order_the_oldest_goes() {
    let (_, store) = mixed(&[Signal::Logs, Signal::Traces], 20, 8);
    let [traces, metrics, logs] = evicted(&store);
    assert!(logs > 0 || traces > 0, "{logs} {traces}");
    assert_eq!(metrics, 0, "nobody named them");
    let (_, store) = mixed(&[], 20, 8);
    let [traces, metrics, logs] = evicted(&store);
    assert!(traces > 0 && metrics > 0 && logs > 0, "{traces} {metrics} {logs}");
}

/// A segment of which more than half would have to be kept is not copied: the oldest goes.
#[test]
fn shedding_a_little_out_of_much_is_not_done() {
    let (place, store) = mixed(&[Signal::Traces], 2, 17);
    let names =
        std::fs::read_dir(place.dir.path().join("spool")).expect("there").map(|e| e.expect("there").file_name());
    let copies: Vec<_> = names.filter(|name| name.to_string_lossy().ends_with(".1")).collect();
    assert!(copies.is_empty(), "{copies:?}");
    let [traces, metrics, logs] = evicted(&store);
    assert!(traces > 0 && metrics > 0 && logs > 0, "{traces} {metrics} {logs}");
}

/// Goal: somebody else fills the disk; the spool gives up what is above a quarter of its size, and then nothing more for that,
/// but goes on: what comes in takes the place of the oldest.
/// Method: no filesystem has so much free as is asked.
#[test]
fn the_rest_of_the_machine_gets_three_quarters_and_no_more() {
    let place = Place::new(|s| {
        s.max = Bytes::mib(8);
        s.segment_min = Bytes(128 << 10);
        s.segment_max = Bytes(128 << 10);
    });
    let store = place.open();
    let lane = store.lane("logs", Signal::Logs);
    store.own("otlphttp", &[lane]);
    let mut next = 0;
    let mut fill_to = |store: &Spool, bytes: u64| {
        while store.usage().bytes.0 < bytes {
            put(store, lane, Signal::Logs, &place.clock, next, 20);
            next += 400;
            place.clock.advance(Duration::from_secs(3));
            keep(store);
        }
    };
    fill_to(&store, 4 << 20);
    assert_eq!(lost(&store, "logs", Reason::Evicted), 0);
    let short = Limits { min_free: Bytes(1 << 60), ..place.settings.limits() };
    store.limit(short);
    place.pass(&store, Duration::from_secs(60));
    let floor = 2 << 20;
    let used = store.usage().bytes.0;
    assert!(used >= floor && used < floor + (512 << 10), "{used} of {floor}");
    let (before, gone) = (lost(&store, "logs", Reason::Evicted), waiting(&store, "logs"));
    place.pass(&store, HOUR);
    assert_eq!((lost(&store, "logs", Reason::Evicted), waiting(&store, "logs")), (before, gone), "nothing more goes");
    for round in 0..100 {
        put(&store, lane, Signal::Logs, &place.clock, 10_000_000 + round * 400, 20);
        place.clock.advance(Duration::from_secs(3));
        keep(&store);
        let used = store.usage().bytes.0;
        assert!(used >= floor - (64 << 10) && used < floor + (512 << 10), "{used}: a ring of the size it has");
    }
    assert!(lost(&store, "logs", Reason::Evicted) > before);
}

/// With `refuse` the cap holds: what does not fit is not taken, whatever its size, and what fits still is.
#[test]
fn what_is_refused_never_goes_beyond_the_cap() {
    for size in [1, 20, 300, 3_000] {
        let place = Place::new(|s| {
            s.max = Bytes::mib(1);
            s.segment_min = Bytes(64 << 10);
            s.segment_max = Bytes(64 << 10);
            s.when_full = WhenFull::Refuse;
        });
        let store = place.open();
        let lane = store.lane("logs", Signal::Logs);
        let owner = store.own("otlphttp", &[lane]);
        let (mut taken, mut refused) = (0_u64, 0);
        for n in 0..60_000_u64 {
            let items: Vec<u64> = (n * size..(n + 1) * size).collect();
            match store.commit(vec![block(lane, &items, u128::from(n) + 1, &place.clock)]) {
                Ok(()) => taken += size,
                Err(CommitError::Full { used, budget }) => {
                    assert!(used <= budget, "{used} of {budget}");
                    refused += 1;
                    if refused == 3 {
                        break;
                    }
                }
                Err(other) => panic!("{other}"),
            }
            assert!(store.usage().bytes <= place.settings.max, "{:?}", store.usage());
            if n % 64 == 63 || size > 1_000 {
                place.clock.advance(Duration::from_secs(3));
                keep(&store);
                assert!(store.usage().bytes <= place.settings.max, "{:?}", store.usage());
                assert!(place.size() <= place.settings.max.0 + (64 << 10), "{}", place.size());
            }
        }
        assert_eq!(refused, 3, "it was filled");
        assert!(store.usage().bytes.0 > place.settings.max.0 / 2, "and used: {:?}", store.usage());
        assert_eq!(u64::try_from(drain_all(&store, owner, lane).len()).expect("small"), taken);
    }
}
