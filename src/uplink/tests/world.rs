//! One exporter between a spool in memory and a scripted far end.

use crate::base::backoff::Curve;
use crate::base::{Bytes, Clock, Dice};
use crate::otlp::{Signal, walk};
use crate::spool::block::frame;
use crate::spool::store::Spool;
use crate::spool::{Book, Cut, Lane, NewBlock, Store};
use crate::supervise::{Crew, Drained, Handle, OnHang, Policy, Post, Roster, Settings, Stage, Supervisor};
use crate::telemetry::{Health, Metrics};
use crate::testing::far_end::{FarEnd, Script};
use crate::testing::numbered::{Mark, Numbered, Source};
use crate::uplink::actor::Uplink;
use crate::uplink::client::{Maker, Recipe};
use crate::uplink::config::OtlpHttpConfig;
use crate::uplink::depot::{Depot, Direct};
use crate::uplink::drain::Drain;
use crate::uplink::flow::BUDGET;
use crate::uplink::metrics::UplinkMetrics;
use crate::uplink::otlp_http::HttpRecipe;
use crate::uplink::pack::{Encoding, LEVEL};
use crate::uplink::retry::Retry;
use crate::uplink::transport::Transport;
use crate::uplink::wiring::{LaneSettings, Lines, UplinkSettings, View};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SOURCE: Source = Source(1);
pub(super) const LOGS: usize = 0;
pub(super) const TRACES: usize = 1;
pub(super) const METRICS: usize = 2;
const LANES: [Signal; 3] = [Signal::Logs, Signal::Traces, Signal::Metrics];
/// Longer than anything takes, shorter than nobody waits.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const POST: Post = Post {
    name: "uplink",
    crew: Crew::Own,
    policy: Policy {
        pause: Curve { initial: Duration::from_millis(20), ..Policy::STANDARD.pause },
        on_hang: OnHang::Replace,
        ..Policy::STANDARD
    },
    vital: false,
    mailbox: 64,
    stop: Stage(3),
};
static ROSTER: [Post; 1] = [POST];

/// Rests of 30 to 100 ms.
pub(super) fn quick() -> Retry {
    let curve = Curve { initial: 30 * MS, multiplier: 1.5, max: 100 * MS, randomization_factor: 0.2 };
    Retry { curve, reconnect_spread: 30 * MS, ..Retry::default() }
}

pub(super) fn settings(store: &dyn Store) -> UplinkSettings {
    let lanes = LANES.map(|signal| LaneSettings {
        lane: store.lane(signal.name(), signal),
        name: signal.name().to_owned(),
        signal,
        cut: Cut { enough_items: 1, max_items: 0, max_bytes: 4 << 20 },
        batch_timeout: Duration::ZERO,
        batch: None,
    });
    UplinkSettings {
        exporter: "otlphttp".to_owned(),
        lanes: lanes.to_vec(),
        added: watch::Sender::new(Vec::new()).subscribe(),
        retry: quick(),
        consumers: 4,
        encoding: Encoding::Gzip,
        level: LEVEL,
        budget: BUDGET,
        drain: Drain::default(),
        ceiling: watch::Sender::new(None).subscribe(),
        gap_interval: Some(40 * MS),
        first_at: None,
        flush_at_stop: false,
    }
}

pub(super) fn config(endpoint: &str) -> OtlpHttpConfig {
    OtlpHttpConfig {
        endpoint: Some(endpoint.to_owned()),
        timeout: Some(Duration::from_secs(5)),
        ..OtlpHttpConfig::default()
    }
}

/// Makes a way to the far end for each life of an uplink.
pub(super) type Ways = Arc<dyn Fn() -> Arc<dyn Transport> + Send + Sync>;

/// Lines to a depot and a far end, with metrics that nobody scrapes but the test.
pub(super) fn lines(depot: Arc<dyn Depot>, recipe: impl Recipe, clock: Clock) -> (Lines, Metrics, Health) {
    lines_by(depot, clock, |_, depot| (ways(recipe), depot))
}

fn ways(recipe: impl Recipe) -> Ways {
    let maker = Arc::new(Maker::new(recipe).expect("a client for the test's far end"));
    Arc::new(move || maker.make())
}

fn lines_by(
    depot: Arc<dyn Depot>,
    clock: Clock,
    make: impl FnOnce(&UplinkMetrics, Arc<dyn Depot>) -> (Ways, Arc<dyn Depot>),
) -> (Lines, Metrics, Health) {
    let metrics = Metrics::detached();
    let health = Health::starting(clock.clone());
    let own = UplinkMetrics::new(&metrics, &health, "otlphttp");
    let (transport, depot) = make(&own, depot);
    let view = Arc::new(watch::Sender::new(View::default()));
    let lines = Lines { depot, transport, metrics: own, clock, purse: None, view };
    (lines, metrics, health)
}

pub(super) struct World {
    pub(super) far_end: FarEnd,
    pub(super) spool: Arc<Spool>,
    pub(super) supervisor: Supervisor,
    /// Held: it lives as long as somebody can speak to it.
    _uplink: Handle<Uplink>,
    pub(super) metrics: Metrics,
    health: Health,
    pub(super) view: watch::Receiver<View>,
    lanes: Vec<Lane>,
    made: Vec<Numbered>,
    dice: Dice,
    clock: Clock,
}

impl World {
    pub(super) fn start(script: Script) -> World {
        World::with(script, |_| {}, |_| {})
    }

    pub(super) fn with(
        script: Script,
        set: impl FnOnce(&mut UplinkSettings),
        configure: impl FnOnce(&mut OtlpHttpConfig),
    ) -> World {
        World::over(script, set, |endpoint, clock| {
            let mut config = config(endpoint);
            configure(&mut config);
            HttpRecipe::new(&config, 4, clock, None)
        })
    }

    /// With any client, which is told the far end's URL.
    pub(super) fn over<R: Recipe>(
        script: Script,
        set: impl FnOnce(&mut UplinkSettings),
        recipe: impl FnOnce(&str, Clock) -> R,
    ) -> World {
        World::by(script, set, |far_end, clock, _| ways(recipe(&far_end.endpoint(), clock)))
    }

    /// With anything that sends.
    pub(super) fn by(
        script: Script,
        set: impl FnOnce(&mut UplinkSettings),
        ways: impl FnOnce(&FarEnd, Clock, &UplinkMetrics) -> Ways,
    ) -> World {
        World::around(script, set, |far_end, clock, metrics, depot| (ways(far_end, clock, metrics), depot))
    }

    /// With anything that sends, and something around the spool.
    pub(super) fn around(
        script: Script,
        set: impl FnOnce(&mut UplinkSettings),
        make: impl FnOnce(&FarEnd, Clock, &UplinkMetrics, Arc<dyn Depot>) -> (Ways, Arc<dyn Depot>),
    ) -> World {
        let far_end = FarEnd::start(script).expect("a port");
        let clock = Clock::system();
        let spool = Arc::new(Spool::in_memory(Bytes::mib(256), clock.clone(), Dice::seeded(3)));
        let mut settings = settings(&*spool);
        set(&mut settings);
        let lanes: Vec<Lane> = settings.lanes.iter().map(|lane| lane.lane).collect();
        // A new exporter starts at the tip: join before the first item comes.
        spool.own("otlphttp", &lanes);
        let depot = Arc::new(Direct::to(spool.clone()));
        let (lines, metrics, health) =
            lines_by(depot, clock.clone(), |metrics, depot| make(&far_end, clock.clone(), metrics, depot));
        let view = lines.view.subscribe();
        let supervisor = Supervisor::start(Roster(&ROSTER), Settings::default()).expect("a watchdog");
        let settings = Arc::new(settings);
        let uplink = supervisor
            .post(&ROSTER[0], "otlphttp", move || Uplink::new(settings.clone(), lines.clone(), Dice::seeded(9)));
        let made = LANES.iter().map(|signal| Numbered::new(*signal, SOURCE)).collect();
        World {
            far_end,
            spool,
            supervisor,
            _uplink: uplink,
            metrics,
            health,
            view,
            lanes,
            made,
            dice: Dice::seeded(4),
            clock,
        }
    }

    /// A client's request is accepted.
    pub(super) fn put(&mut self, lane: usize, items: u32) {
        let signal = LANES[lane];
        let request = self.made[lane].request(items);
        self.far_end.with(|c| c.tally().acknowledged(signal, SOURCE, request.seqs));
        let walked = walk(signal, &request.bytes).expect("numbered requests are valid");
        let block = NewBlock {
            lane: self.lanes[lane],
            signal,
            block_id: self.dice.id128(),
            items: walked.items,
            raw_len: u32::try_from(request.bytes.len()).expect("small"),
            accepted: self.clock.now(),
            boot: None,
            data_ns: walked.data_ns,
            framed: frame(&request.bytes),
        };
        self.spool.commit(vec![block]).expect("there is room");
    }

    /// Waits until it is so.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str, mut is: impl FnMut(&mut World) -> bool) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        let start = Instant::now();
        async move {
            while !is(self) {
                assert!(start.elapsed() < PATIENCE, "{place}: waited in vain until {what}\n{self:?}");
                sleep(5 * MS).await;
            }
        }
    }

    /// Waits until the spool holds nothing for the exporter any more.
    pub(super) async fn until_dry(&mut self) {
        self.until("the spool is empty", |world| world.booked(|book| book.waiting) == 0).await;
    }

    /// The sum over all lanes of one entry of the books.
    pub(super) fn booked(&self, entry: impl Fn(&Book) -> u64) -> u64 {
        self.spool.books().iter().map(entry).sum()
    }

    /// Promise P2, and the far end agrees: what the books call delivered arrived, and what they call accepted is
    /// delivered, waiting, held or lost.
    #[track_caller]
    pub(super) fn assert_books_equal_the_far_end(&self) {
        for book in self.spool.books() {
            let held = book.dead_letters + book.quarantined;
            let lost: u64 = book.lost.iter().sum();
            assert_eq!(book.accepted, book.delivered + book.waiting + held + lost, "{book:?}");
        }
        let report = self.far_end.report();
        assert_eq!(self.booked(|book| book.delivered), report.arrived(), "{report}\n{:?}", self.spool.books());
        assert_eq!(report.never_issued(), 0, "{report}");
    }

    #[track_caller]
    pub(super) fn assert_all_delivered(&self) {
        self.assert_books_equal_the_far_end();
        let report = self.far_end.report();
        assert!(report.is_whole() && report.arrived() == report.acknowledged(), "{report}");
    }

    /// The value of a series on `:8888/metrics`, by its beginning; 0 when it is not there.
    pub(super) fn shown(&self, series: &str) -> u64 {
        let text = self.metrics.text();
        let values = text.lines().filter(|line| line.starts_with(series)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<u64>().expect("a count")).sum()
    }

    /// What the board says of this exporter and its lanes.
    pub(super) fn troubles(&self) -> Vec<(String, String)> {
        self.health.look().0.degraded.into_iter().collect()
    }

    pub(super) fn statuses(&self) -> Vec<u16> {
        self.far_end.seen().iter().map(|seen| seen.status).collect()
    }

    pub(super) fn has(&self, signal: Signal, seq: u64) -> bool {
        self.far_end.with(|c| c.tally().has(signal, Mark { source: SOURCE, seq }))
    }

    pub(super) async fn drain(&self) -> Drained {
        self.supervisor.drain(PATIENCE).await
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:?}", self.spool.books())?;
        writeln!(f, "{:?}", *self.view.borrow())?;
        for seen in self.far_end.seen().iter().rev().take(20) {
            writeln!(f, "{} {} {:?} {:?}", seen.path, seen.status, seen.manner, seen.upload_id)?;
        }
        write!(f, "{}", self.far_end.report())
    }
}

/// A test's own actix system.
pub(super) fn run(test: impl Future<Output = ()>) {
    actix_rt::System::new().block_on(test);
}
