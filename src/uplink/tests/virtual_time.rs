//! The actor in virtual time: days pass in moments, and the spool itself is in trouble.

use super::fake::{FakeStore, told};
use super::world::{SOURCE, lines, settings};
use crate::base::{Clock, Stamp};
use crate::otlp::Signal;
use crate::spool::{Lane, Store as _};
use crate::supervise::Drain;
use crate::telemetry::Metrics;
use crate::testing::far_end::{self, Act, Collector, Script, UPLOAD_ID};
use crate::testing::numbered::{Mark, Numbered};
use crate::uplink::actor::Uplink;
use crate::uplink::depot::Direct;
use crate::uplink::otlp_http::HttpRecipe;
use crate::uplink::pack::{Encoding, UNPACKED};
use crate::uplink::retry::{OnExpiry, Retry};
use crate::uplink::transport::{Parcel, Transport};
use crate::uplink::verdict::Verdict;
use crate::uplink::wiring::UplinkSettings;
use actix::{Actor as _, Addr};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, advance, sleep};

const S: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// The scripted far end without a socket.
#[derive(Debug, Clone)]
struct InProcess {
    collector: Arc<Mutex<Collector>>,
    clock: Clock,
}

impl Transport for InProcess {
    fn send(&self, parcel: Parcel) -> BoxFuture<'static, Verdict> {
        let mut request = far_end::post(parcel.signal, &parcel.body.bytes);
        if parcel.body.encoding == Encoding::Gzip {
            request.headers.push(("Content-Encoding".to_owned(), "gzip".to_owned()));
        }
        request.headers.push((UPLOAD_ID.to_owned(), parcel.upload_id));
        let answer = self.collector.lock().expect("nobody panics in there").answer(Instant::now(), &request);
        let (after, verdict) = told(&answer, 30 * S, self.clock.now().wall_ns);
        async move {
            sleep(after + Duration::from_millis(20)).await;
            verdict
        }
        .boxed()
    }
}

struct Quiet {
    collector: Arc<Mutex<Collector>>,
    store: Arc<FakeStore>,
    clock: Clock,
    lanes: Vec<Lane>,
    made: Vec<Numbered>,
    settings: Arc<UplinkSettings>,
    lines: crate::uplink::wiring::Lines,
    metrics: Metrics,
}

impl Quiet {
    fn new(script: Script, set: impl FnOnce(&mut UplinkSettings)) -> Quiet {
        tokio::time::pause();
        let clock = Clock::by_hand(Stamp { wall_ns: 1_700_000_000_000_000_000, mono_ms: 1_000 });
        let store = FakeStore::new(clock.clone());
        let mut settings = settings(&*store);
        settings.retry = Retry { max_elapsed: Some(HOUR), on_expiry: OnExpiry::Drop, ..Retry::default() };
        set(&mut settings);
        let collector = Arc::new(Mutex::new(Collector::new(script)));
        let depot = Arc::new(Direct::new(store.clone(), "spool"));
        let unused = HttpRecipe::new(&super::world::config("http://127.0.0.1:1"), 4, clock.clone(), None);
        let (mut lines, metrics, _) = lines(depot, unused, clock.clone());
        let transport = InProcess { collector: collector.clone(), clock: clock.clone() };
        lines.transport = Arc::new(move || Arc::new(transport.clone()));
        let lanes = settings.lanes.iter().map(|lane| lane.lane).collect();
        let made = settings.lanes.iter().map(|lane| Numbered::new(lane.signal, SOURCE)).collect();
        Quiet { collector, store, clock, lanes, made, settings: Arc::new(settings), lines, metrics }
    }

    fn begin(&self) -> Addr<Uplink> {
        Uplink::new(self.settings.clone(), self.lines.clone(), crate::base::Dice::seeded(1)).start()
    }

    fn put(&mut self, items: u32) {
        (0..self.lanes.len()).for_each(|lane| self.put_into(lane, items));
    }

    fn put_into(&mut self, lane: usize, items: u32) {
        let request = self.made[lane].request(items);
        let mut collector = self.collector.lock().expect("nobody panics in there");
        collector.tally().acknowledged(self.made[lane].signal(), SOURCE, request.seqs);
        drop(collector);
        self.store.put(self.lanes[lane], request.bytes);
    }

    /// Lets time pass on all clocks. What answers to an answer happens once in each step.
    async fn pass(&self, time: Duration) {
        let end = Instant::now() + time;
        let step = if time > 600 * S { 10 * S } else { S / 20 };
        while Instant::now() < end {
            let step = (end - Instant::now()).min(step);
            self.clock.advance(step);
            advance(step).await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The value of a series, by its beginning; 0 when it is not there.
    fn shown(&self, series: &str) -> u64 {
        let text = self.metrics.text();
        let line = text.lines().find(|line| line.starts_with(series));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }

    #[track_caller]
    fn assert_all_delivered(&self) {
        self.store.assert_books();
        let report = self.collector.lock().expect("nobody panics in there").tally().report();
        assert!(report.is_whole() && report.arrived() == report.acknowledged(), "{report}");
        assert_eq!(self.store.waiting_items(), 0);
    }
}

fn run(test: impl Future<Output = ()>) {
    actix_rt::System::new().block_on(test);
}

/// Promise P3, with the actor itself: 88 hours down, a window of one hour, everything arrives.
#[test]
fn the_actor_sits_out_88_hours() {
    run(async {
        let mut quiet = Quiet::new(Script::new().lasting(88 * HOUR, Act::Refuse), |_| {});
        let uplink = quiet.begin();
        quiet.pass(S).await;
        for _ in 0..87 {
            quiet.put(10);
            quiet.pass(HOUR).await;
        }
        assert_eq!(quiet.store.outcomes().delivered, 0);
        // The seed's alerts look at this: every window of the outage is told, for what is in hand.
        let failed = quiet.shown("otelcol_exporter_send_failed_log_records{");
        assert!((10 * 60..=10 * 3 * 88).contains(&failed), "{failed}");
        quiet.pass(HOUR).await;
        quiet.pass(120 * S).await;
        quiet.assert_all_delivered();
        assert_eq!(quiet.store.outcomes().lost, 0);
        assert!(uplink.connected());
    });
}

/// Goal: what the far end took is entered when the spool is well again, once.
#[test]
fn a_sick_spool_is_asked_again() {
    run(async {
        let mut quiet = Quiet::new(Script::new(), |_| {});
        let _uplink = quiet.begin();
        quiet.pass(S).await;
        for round in 0..20 {
            quiet.store.sicken(round % 5);
            quiet.put(10);
            quiet.pass(S * 2).await;
        }
        quiet.pass(60 * S).await;
        quiet.assert_all_delivered();
        let report = quiet.collector.lock().expect("nobody panics in there").tally().report();
        assert_eq!(report.duplicated(), 0, "a settlement that could not be entered is no reason to send again");
    });
}

/// Goal: a spool that cannot answer is asked once a second, however much comes in meanwhile.
#[test]
fn news_does_not_hurry_a_sick_spool() {
    run(async {
        let mut quiet = Quiet::new(Script::new(), |_| {});
        let _uplink = quiet.begin();
        quiet.pass(S).await;
        quiet.store.sicken(1_000);
        for _ in 0..100 {
            quiet.put(1);
            quiet.pass(S / 10).await;
        }
        let asked = 1_000 - quiet.store.sick_left();
        assert!((3 * 8..=3 * 11).contains(&asked), "three lanes in ten seconds: {asked}");
        quiet.store.sicken(0);
        quiet.pass(20 * S).await;
        quiet.assert_all_delivered();
    });
}

/// Goal: lanes number their blocks alike, and one settlement that the spool no longer knows takes no other lane's with
/// it. Method: the spool is away while the answers of three lanes come, so that their settlements go in one call; one of
/// them was evicted meanwhile.
#[test]
fn an_evicted_upload_costs_no_other_lane_its_settlement() {
    for evicted in 0..3 {
        run(async move {
            let mut quiet = Quiet::new(Script::new(), |_| {});
            let _uplink = quiet.begin();
            quiet.pass(S).await;
            quiet.put(10);
            tokio::task::yield_now().await;
            while quiet.store.leases() < 3 {
                tokio::task::yield_now().await;
            }
            quiet.store.sicken(1);
            quiet.store.evict_leased(quiet.lanes[evicted]);
            quiet.pass(60 * S).await;
            let outcomes = quiet.store.outcomes();
            assert_eq!((outcomes.delivered, outcomes.lost, quiet.store.waiting_items()), (20, 10, 0), "lane {evicted}");
            quiet.store.assert_books();
        });
    }
}

/// Goal: on a full disk what was delivered is still entered, for that is what makes room; what has to be moved waits.
#[test]
fn a_full_disk_does_not_keep_the_delivered_from_making_room() {
    run(async {
        let guilty = Mark { source: SOURCE, seq: 3 };
        let mut quiet = Quiet::new(Script::new().poison(Signal::Logs, guilty), |_| {});
        let _uplink = quiet.begin();
        quiet.pass(S).await;
        quiet.store.fill(true);
        for _ in 0..10 {
            quiet.put(10);
            quiet.pass(2 * S).await;
        }
        quiet.pass(30 * S).await;
        let outcomes = quiet.store.outcomes();
        assert_eq!((outcomes.delivered, outcomes.dead.len(), quiet.store.waiting_items()), (299, 0, 1));
        quiet.store.fill(false);
        quiet.pass(5 * S).await;
        assert_eq!((quiet.store.outcomes().dead.len(), quiet.store.waiting_items()), (1, 0));
        quiet.store.assert_books();
    });
}

/// Goal: a disk that stays full does not fill the memory with what waits to be moved to it.
/// Method: ten uploads are dead letters and find no room for a minute; each stays packed but for the moment in which the
/// spool is asked.
#[test]
fn what_waits_for_room_on_the_disk_stays_packed() {
    run(async {
        let guilty = (0..10).map(|n| Mark { source: SOURCE, seq: 2 * n });
        let script = guilty.fold(Script::new(), |script, mark| script.poison(Signal::Logs, mark));
        let mut quiet = Quiet::new(script, |_| {});
        let _uplink = quiet.begin();
        quiet.pass(S).await;
        quiet.store.fill(true);
        let unpacked = UNPACKED.get();
        for _ in 0..21 {
            quiet.put(1);
            quiet.pass(S).await;
        }
        quiet.pass(60 * S).await;
        let (outcomes, asked) = (quiet.store.outcomes(), quiet.store.moves());
        assert_eq!((outcomes.delivered, outcomes.dead.len(), quiet.store.waiting_items()), (53, 0, 10));
        assert!(asked >= 60, "once a second: {asked}");
        assert_eq!(UNPACKED.get() - unpacked, asked, "once for each time the spool was asked");
        quiet.store.fill(false);
        quiet.pass(20 * S).await;
        assert_eq!((quiet.store.outcomes().dead.len(), quiet.store.waiting_items()), (10, 0));
        quiet.store.assert_books();
    });
}

/// Goal: an uplink that was replaced behind its back (a thread given up that wakes) settles nothing and sends nothing
/// more; the new one has everything.
#[test]
fn a_retired_uplink_falls_silent() {
    run(async {
        let mut quiet = Quiet::new(Script::new().times(3, Act::Slow(5 * S)), |_| {});
        let old = quiet.begin();
        quiet.pass(S).await;
        quiet.put(10);
        quiet.pass(S).await;
        let owner = quiet.store.usurp();
        quiet.pass(30 * S).await;
        assert_eq!(quiet.store.outcomes().delivered, 0, "the old one's answers count for nothing");
        let sent = quiet.collector.lock().expect("nobody panics in there").counts().requests;
        quiet.put(10);
        quiet.pass(60 * S).await;
        assert_eq!(quiet.collector.lock().expect("nobody panics in there").counts().requests, sent);
        assert_eq!(quiet.store.waiting(owner, quiet.lanes[0]).items, 20);
        assert!(old.connected());
        let _new = quiet.begin();
        quiet.pass(30 * S).await;
        quiet.assert_all_delivered();
        let report = quiet.collector.lock().expect("nobody panics in there").tally().report();
        assert_eq!(report.duplicated(), 30, "what had arrived under the old one arrived again: {report}");
    });
}

/// Goal: with everything delivered nothing happens: no timer runs, nobody polls.
#[test]
fn an_idle_uplink_does_nothing() {
    run(async {
        let mut quiet = Quiet::new(Script::new(), |_| {});
        let _uplink = quiet.begin();
        quiet.pass(S).await;
        quiet.put(10);
        quiet.pass(60 * S).await;
        let (leases, requests) = (quiet.store.leases(), quiet.collector.lock().expect("free").counts().requests);
        quiet.pass(24 * HOUR).await;
        let after = quiet.collector.lock().expect("free").counts().requests;
        assert_eq!((quiet.store.leases(), after), (leases, requests));
        assert_eq!(quiet.settings.lanes[0].signal, Signal::Logs);
    });
}

/// Promises P6 and P9. Goal: what waited at the start of a process goes in its turn, by lane; what comes in goes at once, also
/// beside what waits.
#[test]
fn a_backlog_at_the_start_waits_for_its_turn() {
    run(async {
        let mut quiet = Quiet::new(Script::new(), |settings| {
            settings.first_at = Some(Instant::now() + 100 * S);
            settings.flush_at_stop = true;
        });
        quiet.put_into(0, 10);
        quiet.pass(60 * S).await;
        let uplink = quiet.begin();
        quiet.pass(S).await;
        quiet.put_into(1, 10);
        quiet.pass(30 * S).await;
        assert_eq!(quiet.store.outcomes().delivered, 10, "the other lane");
        quiet.put_into(0, 10);
        quiet.pass(2 * S).await;
        assert_eq!(quiet.store.outcomes().delivered, 20, "fresh data waits for no turn");
        quiet.pass(6 * S).await;
        assert_eq!(quiet.store.outcomes().delivered, 20);
        quiet.pass(3 * S).await;
        quiet.assert_all_delivered();
        assert!(uplink.connected());
    });
}

/// Goal: a stop waits for what is just being leased, which the spool does not call waiting any more and nobody has in hand yet.
/// Method: it is asked for in the moment of a commit, so that the spool's news are heard between the lease and its answer.
#[test]
fn a_stop_waits_for_a_lease_that_is_under_way() {
    run(async {
        let mut quiet = Quiet::new(Script::new(), |settings| settings.flush_at_stop = true);
        let uplink = quiet.begin();
        quiet.pass(S).await;
        quiet.put_into(0, 10);
        uplink.send(Drain).await.expect("it lives");
        quiet.assert_all_delivered();
    });
}

/// Goal: a stop waits for no turn: what would be lost with the process is sent at once.
#[test]
fn a_stop_waits_for_no_turn() {
    run(async {
        let mut quiet = Quiet::new(Script::new(), |settings| {
            settings.first_at = Some(Instant::now() + HOUR);
            settings.flush_at_stop = true;
        });
        quiet.put_into(0, 10);
        let uplink = quiet.begin();
        quiet.pass(S).await;
        uplink.do_send(Drain);
        quiet.pass(S).await;
        quiet.assert_all_delivered();
    });
}
