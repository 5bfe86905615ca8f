//! The uplink's decisions against a scripted far end and a checking store, without actor and socket, in virtual time:
//! weeks pass in milliseconds.

#![allow(clippy::print_stdout)] // figures: what poison and slow links cost

use super::*;
use crate::base::backoff::Curve;
use crate::base::{Clock, Stamp};
use crate::otlp::Signal;
use crate::spool::{Cut, Lane, Owner, Settlement, Store as _, Waiting};
use crate::telemetry::{Health, Metrics};
use crate::testing::far_end::{self, Act, Collector, Script, UPLOAD_ID};
use crate::testing::numbered::{Mark, Numbered, Source};
use crate::uplink::budget::{LinkBudget, Meter, Purse, Wire};
use crate::uplink::desk::Order;
use crate::uplink::drain::{Drain, DrainOrder, Manner};
use crate::uplink::due::dues;
use crate::uplink::pack::{Encoding, LEVEL, Packer};
use crate::uplink::prepare::{cut, prepare};
use crate::uplink::retry::OnExpiry;
use crate::uplink::split::requests_max;
use crate::uplink::tests::fake::{FakeStore, told};
use std::sync::Arc;
use std::time::Duration;

const S: Duration = Duration::from_secs(1);
const SOURCE: Source = Source(1);
/// How long an upload waits for its answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long an answer takes.
const LATENCY: Duration = Duration::from_millis(50);

struct Sim {
    flow: Flow,
    collector: Collector,
    store: Arc<FakeStore>,
    clock: Clock,
    start: Instant,
    now: Instant,
    owner: Owner,
    lanes: Vec<Lane>,
    made: Vec<Numbered>,
    cut: Cut,
    packer: Packer,
    /// When, which lane, which upload, what.
    answers: Vec<(Instant, usize, Pos, Verdict)>,
    /// When each request was sent.
    sent: Vec<Duration>,
    /// The same with more of it.
    loads: Vec<Load>,
    halved: u32,
    /// What the way to the far end is like; `None`: nothing shares it and nothing is long.
    line: Option<Line>,
    /// Most uploads out at a time so far.
    most_out: usize,
    /// Bytes a second, one upload after the other; and when the last one is through.
    link: Option<(u64, Instant)>,
    /// What the link may cost, and where it is counted.
    purse: Option<(Purse, Meter)>,
}

/// A way that carries one request after the other, and when it is free.
struct Line {
    bytes_a_second: f64,
    /// Beside the bytes.
    each: Duration,
    free: Instant,
}

/// A request that was sent.
struct Load {
    at: Duration,
    /// It is through the link.
    through: Duration,
    lane: usize,
    bytes: usize,
    backlog: bool,
}

/// The lanes of a simulation, in this order, then their park lanes.
const LANES: [Signal; 3] = [Signal::Logs, Signal::Traces, Signal::Metrics];
const LOGS: usize = 0;
const TRACES: usize = 1;
const METRICS: usize = 2;

fn retry() -> Retry {
    let curve = Curve { initial: 5 * S, multiplier: 1.5, max: 30 * S, randomization_factor: 0.5 };
    Retry {
        enabled: true,
        curve,
        max_elapsed: Some(300 * S),
        on_expiry: OnExpiry::Park,
        reconnect_spread: Duration::ZERO,
    }
}

impl Sim {
    fn new(script: Script) -> Sim {
        Sim::with(script, retry())
    }

    fn with(script: Script, retry: Retry) -> Sim {
        let clock = Clock::by_hand(Stamp { wall_ns: 1_700_000_000_000_000_000, mono_ms: 1_000 });
        let store = FakeStore::new(clock.clone());
        let own: Vec<Lane> = LANES.iter().map(|signal| store.lane(signal.name(), *signal)).collect();
        let owner = store.own("otlphttp", &own);
        let parks: Vec<Lane> = own.iter().map(|lane| store.park_lane(owner, *lane)).collect();
        let order = |signal| if signal == Signal::Metrics { Order::Strict } else { Order::Any };
        let mut desks: Vec<Desk> = LANES.iter().map(|s| Desk::new(*s, order(*s), 10, false)).collect();
        desks.extend(LANES.iter().map(|s| Desk::new(*s, Order::Any, 1, true)));
        let start = Instant::now();
        Sim {
            flow: Flow::new(desks, retry, BUDGET, Dice::seeded(7)),
            collector: Collector::new(script),
            store,
            clock,
            start,
            now: start,
            owner,
            lanes: own.into_iter().chain(parks).collect(),
            made: LANES.iter().map(|signal| Numbered::new(*signal, SOURCE)).collect(),
            cut: Cut { enough_items: 1, max_items: 0, max_bytes: 0 },
            packer: Packer::new(Encoding::Gzip, LEVEL),
            answers: Vec::new(),
            sent: Vec::new(),
            loads: Vec::new(),
            halved: 0,
            line: None,
            most_out: 0,
            link: None,
            purse: None,
        }
    }

    /// With lanes that are drained so, by so many consumers, over a link of so many bytes a second.
    fn draining(script: Script, drain: &Drain, consumers: u32, rate: u64) -> Sim {
        let mut sim = Sim::with(script, retry());
        let manner = |signal| Manner { stale: 5 * S, ..drain.of(signal, Duration::ZERO) };
        let desk = |signal: &Signal| {
            let order = crate::uplink::actor::order(*signal, manner(*signal), consumers);
            Desk::new(*signal, order, consumers, false).draining(manner(*signal))
        };
        let parked = |signal: &Signal| {
            let rank = manner(*signal).rank;
            Desk::new(*signal, Order::Any, 1, true).draining(Manner { rank, ..Manner::default() })
        };
        let desks = LANES.iter().map(desk).chain(LANES.iter().map(parked)).collect();
        sim.flow = Flow::new(desks, retry(), BUDGET, Dice::seeded(7)).limited(drain.max_rate, sim.start);
        sim.link = Some((rate, sim.start));
        sim.cut = Cut { enough_items: 100, max_items: 0, max_bytes: 4 << 20 };
        sim
    }

    /// Whose link costs what these rules say.
    fn paying(mut self, rules: LinkBudget) -> Sim {
        let metrics = Metrics::detached();
        let (meter, health) = (Meter::new(&metrics, "otlphttp"), Health::starting(self.clock.clone()));
        self.flow = self.flow.weighing(rules.weights());
        let board = (&metrics, &health, "otlphttp");
        self.purse = Some((Purse::new(rules, meter.clone(), None, self.clock.clone(), board, self.now), meter));
        self
    }

    /// From now on: every second a request of ten items into this lane, for so long; how long each took to arrive.
    fn freshness(&mut self, lane: usize, seconds: u32) -> Vec<Duration> {
        let (signal, from) = (LANES[lane], self.now - self.start);
        let mut open: Vec<(Duration, u64)> = Vec::new();
        let mut took = Vec::new();
        for tick in 0..seconds * 20 {
            if tick % 20 == 0 {
                open.push((self.now - self.start, self.made[lane].next_seq()));
                self.put(lane, 10);
            }
            let sent = self.loads.len();
            self.run(from + Duration::from_millis(50) * (tick + 1));
            // The collector counts what is sent; what was sent now arrives with the last of it.
            let through = self.loads[sent..].iter().filter(|load| load.lane == lane).map(|load| load.through).max();
            let tally = self.collector.tally();
            open.retain(|(at, seq)| {
                let arrived = tally.has(signal, Mark { source: SOURCE, seq: *seq });
                took.extend(through.filter(|_| arrived).map(|through| through - *at));
                !arrived
            });
        }
        took.extend(open.iter().map(|(at, _)| self.now - self.start - *at)); // at least
        took.sort();
        took
    }

    /// A client's request is accepted.
    fn put(&mut self, lane: usize, items: u32) {
        let request = self.made[lane].request(items);
        self.collector.tally().acknowledged(LANES[lane], SOURCE, request.seqs);
        self.store.put(self.lanes[lane], request.bytes);
    }

    /// Lets time pass until `until` after the start, doing all there is to do.
    fn run(&mut self, until: Duration) {
        let end = self.start + until;
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 2_000_000, "it spins at {:?}", self.now - self.start);
            self.hear();
            for at in 0..self.lanes.len() {
                let waiting: Waiting = self.store.waiting(self.owner, self.lanes[at]);
                let desk = self.flow.desk_mut(at);
                let due = dues(waiting, desk.manner(), self.cut, Duration::ZERO, self.clock.now(), self.now);
                desk.set_due(due[0]);
                desk.set_backlog_due(due[1]);
                desk.waits(waiting.items);
            }
            if let Some((purse, _)) = &self.purse {
                if self.flow.out() == 0 {
                    purse.settle(self.now);
                }
                purse.held(self.flow.too_long(), self.now);
                self.flow.set_gates(purse.gates(self.now));
            }
            let next = match self.flow.next(self.now) {
                Do::Rest(next) => next,
                step => {
                    self.perform(step);
                    continue;
                }
            };
            let wake = next.into_iter().chain(self.answers.iter().map(|(at, ..)| *at)).min();
            let wake = wake.filter(|at| *at <= end).unwrap_or(end);
            self.clock.advance(wake - self.now);
            self.now = wake;
            if wake == end && !self.answers.iter().any(|(at, ..)| *at <= end) {
                break;
            }
        }
        self.store.assert_books();
    }

    /// [`Sim::run`] until nothing waits any more; the time it took.
    fn run_dry(&mut self, at_most: Duration) -> Duration {
        while self.store.waiting_items() > 0 && self.now - self.start < at_most {
            self.run(self.now - self.start + S);
        }
        self.now - self.start
    }

    fn perform(&mut self, step: Do) {
        match step {
            Do::Send(at, key) => self.send(at, key),
            Do::Lease(at, pick) => {
                let lease = self.store.pick(self.owner, self.lanes[at], pick, self.cut).expect("the store is well");
                let (window, uploads, age) = match lease {
                    Some(lease) => {
                        let prepared = prepare(&lease, self.flow.desk(at).ceiling(self.now), &mut self.packer);
                        assert!(prepared.unreadable.is_empty());
                        (lease.window, prepared.uploads, lease.age)
                    }
                    None => (0..0, Vec::new(), Duration::ZERO),
                };
                self.flow.leased(at, window, uploads, age, self.now);
            }
            Do::Cut(at, key, items) => self.cut(at, key, items),
            Do::GiveBack(at, window) => self.store.give_back(self.owner, self.lanes[at], window),
            Do::Park(at, key) => {
                let none = Verdict::Later { after: None, why: String::new() };
                self.settle(at, key, &Fate::Expired(OnExpiry::Park), &none);
            }
            Do::Rest(_) => unreachable!("run() handles it"),
        }
    }

    fn send(&mut self, at: usize, key: Pos) {
        let upload = self.flow.desk(at).upload(key).expect("it was told to send it");
        let mut request = far_end::post(self.flow.desk(at).signal(), &upload.body.bytes);
        request.headers.push(("Content-Encoding".to_owned(), "gzip".to_owned()));
        request.headers.push((UPLOAD_ID.to_owned(), upload.part.upload_id("spool", self.lanes[at])));
        if let Some((purse, _)) = &self.purse {
            let bytes = upload.body.bytes.len();
            purse.pay(self.flow.desk(at).signal(), bytes, self.now);
        }
        self.sent.push(self.now - self.start);
        self.most_out = self.most_out.max(self.answers.len() + 1);
        let arrives = self.line.as_mut().map_or(self.now, |line| {
            let bytes = S.mul_f64(upload.body.bytes.len() as f64 / line.bytes_a_second);
            // Who gives up hangs up, and what he has not sent takes no more of the line.
            line.free = (line.free.max(self.now) + bytes + line.each).min(line.free.max(self.now + TIMEOUT));
            line.free
        });
        if arrives >= self.now + TIMEOUT {
            let silence = Verdict::Silence { trouble: Trouble::NoAnswer, why: "timed out".to_owned() };
            self.answers.push((self.now + TIMEOUT, at, key, silence));
            return;
        }
        let answer = self.collector.answer(self.now, &request);
        let (after, verdict) = told(&answer, TIMEOUT, self.clock.now().wall_ns);
        if let Some((_, meter)) = &self.purse {
            let (signal, bytes) = (self.flow.desk(at).signal(), upload.body.bytes.len());
            match verdict {
                Verdict::Silence { .. } => {} // nobody was there
                _ => meter.message(Some(signal), Wire::Tls, bytes + 300),
            }
        }
        let mut through = arrives;
        if let Some((rate, free)) = &mut self.link {
            let time = Duration::from_secs_f64(upload.body.bytes.len() as f64 / *rate as f64);
            *free = self.now.max(*free) + time;
            through = *free;
        }
        self.answers.push((through + LATENCY + after, at, key, verdict));
        self.loads.push(Load {
            at: self.now - self.start,
            through: through - self.start,
            lane: at,
            bytes: upload.body.bytes.len(),
            backlog: upload.backlog,
        });
    }

    fn hear(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.answers).into_iter().partition(|(t, ..)| *t <= now);
        self.answers = later;
        for (_, at, key, verdict) in due {
            match self.flow.answered(at, key, &verdict, now).expect("each answer has its upload") {
                Fate::Kept(_) | Fate::Suspect => {}
                Fate::Halve => {
                    self.halved += 1;
                    let items = self.flow.desk(at).upload(key).expect("just answered").part.items();
                    self.cut(at, key, items / 2);
                }
                fate => self.settle(at, key, &fate, &verdict),
            }
        }
    }

    fn cut(&mut self, at: usize, key: Pos, items: u32) {
        let upload = self.flow.desk(at).upload(key).expect("it is in hand");
        let signal = self.flow.desk(at).signal();
        let parts = cut(signal, &upload.part, &upload.body, items, &mut self.packer).expect("ours");
        self.flow.desk_mut(at).cut(key, parts, self.now);
    }

    fn settle(&mut self, at: usize, key: Pos, fate: &Fate, verdict: &Verdict) {
        let upload = self.flow.desk(at).upload(key).expect("just answered");
        let settlement = Settlement {
            owner: self.owner,
            lane: self.lanes[at],
            range: upload.part.range.clone(),
            items: upload.part.items(),
            outcome: fate.told(verdict).expect("a fate to be settled").outcome(&upload.body),
        };
        self.store.settle(vec![settlement]).expect("the store is well");
        self.flow.desk_mut(at).settled(key);
        if matches!(fate, Fate::Expired(OnExpiry::Park)) && at < LANES.len() {
            self.flow.let_it_lie(at + LANES.len(), self.now);
        }
    }

    #[track_caller]
    fn assert_all_delivered(&mut self) {
        let report = self.collector.tally().report();
        assert!(report.is_whole(), "{report}");
        assert_eq!(self.store.waiting_items(), 0);
    }

    /// Requests sent in that span.
    fn requests(&self, from: Duration, to: Duration) -> usize {
        self.sent.iter().filter(|at| (from..to).contains(*at)).count()
    }
}

fn guilty(seq: u64) -> Mark {
    Mark { source: SOURCE, seq }
}

/// Promise P3. Goal: 88 hours without a far end and a window of one hour: everything arrives, nothing is parked; where
/// nobody can be reached, memory holds no more than two windows of each lane, else no more than its budget.
#[test]
fn an_outage_of_88_hours_loses_nothing_though_the_window_is_an_hour() {
    let hour = 3_600 * S;
    for act in
        [Act::Refuse, Act::status(503), Act::status(500), Act::status(401), Act::Portal, Act::Hang, Act::TakeAndReset]
    {
        let script = Script::new().lasting(10 * S, Act::Accept).lasting(88 * hour, act.clone());
        let mut sim = Sim::with(script, Retry { max_elapsed: Some(hour), on_expiry: OnExpiry::Drop, ..retry() });
        sim.flow.budget = 200_000;
        for i in 0..30 {
            (0..3).for_each(|lane| sim.put(lane, 20));
            sim.run(S * i);
        }
        for i in 1..80 {
            (0..3).for_each(|lane| sim.put(lane, 20));
            sim.run(hour * i);
        }
        sim.run(88 * hour);
        let nobody = matches!(act, Act::Refuse | Act::Portal);
        let held = sim.flow.held_bytes();
        assert!(held < if nobody { 20_000 } else { sim.flow.budget + 5_000 }, "{act:?}: {held} B");
        assert!(!nobody || sim.store.deepest() <= 3 * 11, "{}", sim.store.deepest());
        let probes = sim.requests(hour, 87 * hour);
        // One probe of the whole (or one of each lane) about every 30 s; a hang also costs its timeout.
        assert!((86 * 50..=86 * 3 * 135).contains(&probes), "{act:?}: {probes} probes");
        sim.run(88 * hour + 600 * S);
        sim.assert_all_delivered();
        let outcomes = sim.store.outcomes();
        assert_eq!((outcomes.parked, outcomes.lost, outcomes.dead.len()), (0, 0, 0), "{act:?}");
    }
}

/// Promise P9. Goal: while nobody answers one request at a time finds out, whatever the number of lanes; and the return
/// begins with one, not with all.
#[test]
fn one_probe_while_it_is_down_and_a_gentle_return() {
    let mut sim = Sim::new(Script::new().lasting(600 * S, Act::Refuse));
    for _ in 0..40 {
        (0..3).for_each(|lane| sim.put(lane, 10));
    }
    sim.run(600 * S);
    let in_the_first_second = sim.requests(Duration::ZERO, S);
    assert!(in_the_first_second <= 21, "what was on its way when it fell: {in_the_first_second}");
    let spread: Vec<_> = sim.sent.iter().filter(|at| **at > S).collect();
    assert!(spread.windows(2).all(|pair| *pair[1] - *pair[0] >= 2 * S), "{spread:?}");
    assert!((15..=60).contains(&spread.len()), "{}", spread.len());

    let back = sim.sent.len();
    let took = sim.run_dry(700 * S);
    assert!(took <= 650 * S, "everyone knocks within a jittered rest: {took:?}");
    let first = sim.sent[back];
    let mut born = Sim::new(Script::new());
    (0..40).for_each(|_| born.put(LOGS, 10));
    born.run(S);
    let out = |from: u32, to: u32| born.requests(LATENCY * from, LATENCY * to);
    assert_eq!((out(0, 1), out(1, 2)), (1, 2), "so does a birth");
    let crowd = |from: u32, to: u32| sim.requests(first + LATENCY * from, first + LATENCY * to);
    assert_eq!(crowd(0, 1), 1, "one knocks");
    assert!(crowd(1, 2) <= 5, "then a few: {}", crowd(1, 2));
    sim.assert_all_delivered();
}

/// Promise P9. Goal: nothing is sent before the time the far end named, by anybody of that lane.
#[test]
fn retry_after_is_honoured() {
    let mut sim =
        Sim::new(Script::new().times(1, Act::status(503).retry_after(120)).times(1, Act::status(429).retry_after(300)));
    for _ in 0..20 {
        sim.put(METRICS, 5);
    }
    sim.run_dry(1_000 * S);
    sim.assert_all_delivered();
    assert!(sim.sent[1] >= 120 * S && sim.sent[1] < 140 * S, "{:?}", sim.sent);
    assert!(sim.sent[2] - sim.sent[1] >= 300 * S && sim.sent[2] - sim.sent[1] < 340 * S, "{:?}", sim.sent);
}

/// Promise P7. Goal: whatever the number and place of the guilty, exactly they become dead letters, within the promised
/// number of requests; the rest is delivered, and in a strict lane in order.
#[test]
fn poison_is_found_within_the_promised_requests_and_the_rest_goes_on() {
    for (lane, signal) in LANES.into_iter().enumerate() {
        for (items, bad) in [
            (1_000, vec![0]),
            (1_000, vec![999]),
            (1_000, vec![500]),
            (1_000, vec![123, 124]),
            (1_000, vec![1, 333, 700, 998]),
            (7, vec![3]),
            (2, vec![0]),
        ] {
            let script = bad.iter().fold(Script::new(), |script, seq| script.poison(signal, guilty(*seq)));
            let mut sim = Sim::new(script);
            sim.put(lane, items);
            sim.run(20 * S);
            sim.put(lane, 5); // should the guilty be neighbours, the evidence is in what comes later
            sim.run_dry(90 * S);
            let outcomes = sim.store.outcomes();
            let dead: Vec<u64> = outcomes.dead.iter().flat_map(|(_, seqs, _)| seqs.clone()).collect();
            assert_eq!(dead, bad, "{signal} {items}");
            assert!(outcomes.dead.iter().all(|(_, _, why)| why.starts_with("400 Bad Request: item")), "{outcomes:?}");
            assert_eq!(outcomes.delivered, u64::from(items) + 5 - bad.len() as u64);
            let bound = 1 + requests_max(items, u32::try_from(bad.len()).expect("few"));
            assert!(
                sim.sent.len() <= bound as usize,
                "{signal} {items} {bad:?}: {} requests of {bound}",
                sim.sent.len()
            );
            println!(
                "{signal}: {} of {items} items guilty: {} requests, promised at most {bound}",
                bad.len(),
                sim.sent.len()
            );
            let report = sim.collector.tally().report();
            assert_eq!((report.duplicated(), report.lost()), (0, bad.len() as u64), "{report}");
            if lane == METRICS {
                assert_eq!(report.reordered(), 0, "{report}");
            }
        }
    }
}

/// Goal: an item alone in its batch is not convicted before something else was taken, and then it is.
#[test]
fn a_lonely_suspect_waits_for_evidence() {
    for lane in [LOGS, METRICS] {
        let mut sim = Sim::new(Script::new().poison(LANES[lane], guilty(0)));
        sim.put(lane, 1);
        sim.run(3_600 * S);
        assert_eq!((sim.store.outcomes().dead.len(), sim.store.waiting_items()), (0, 1));
        assert!(sim.sent.len() < 250, "it is tried as one tries a far end that is down: {}", sim.sent.len());
        sim.put(lane, 5);
        sim.run(3_700 * S);
        assert_eq!(
            sim.store.outcomes().dead,
            [(LANES[lane], vec![0], "400 Bad Request: item 0 is not valid".to_owned())]
        );
        assert_eq!((sim.store.outcomes().delivered, sim.store.waiting_items()), (5, 0));
    }
}

/// Goal: a far end that refuses everything convicts nobody, is asked rarely, and gets everything when it is mended.
#[test]
fn a_far_end_that_refuses_everything_shreds_nothing() {
    for code in [400, 413, 422] {
        let mut sim = Sim::new(Script::new().lasting(10 * S, Act::Accept).lasting(7_200 * S, Act::status(code)));
        for i in 0..60 {
            (0..3).for_each(|lane| sim.put(lane, 200));
            sim.run(S * i);
        }
        sim.run(7_200 * S);
        assert_eq!(sim.store.outcomes().dead, [], "{code}");
        assert!(sim.halved <= 3 * 30, "a few descents, no shredding: {}", sim.halved);
        let asked = sim.requests(600 * S, 7_200 * S);
        assert!(asked < 3 * 6_600 / 20, "one of each lane about every 30 s: {asked}");
        sim.run_dry(7_200 * S + 900 * S);
        sim.assert_all_delivered();
        let report = sim.collector.tally().report();
        assert_eq!(report.duplicated(), 0, "{report}");
    }
}

/// Promise P7. Goal: with 500 instead of 400 the guilty cannot be searched for, but it steps aside at the end of its
/// window, while all others go on; it waits in the park lane and is tried there, ever less often.
#[test]
fn a_batch_that_fails_while_others_succeed_is_parked_and_nobody_waits_for_it() {
    for lane in [LOGS, METRICS] {
        let mut sim = Sim::new(Script::new().poison(LANES[lane], guilty(7)).poison_status(500));
        let (mut longest, mut accepted) = (Duration::ZERO, 0);
        for i in 0..1_200 {
            sim.put(lane, 10);
            accepted += 10;
            sim.run(S * (i + 1));
            let behind = accepted - sim.store.outcomes().delivered;
            if behind > 10 {
                longest = longest.max(S * u32::try_from(behind / 10).expect("small"));
            }
        }
        let outcomes = sim.store.outcomes();
        assert!(
            outcomes.parked >= 10
                && outcomes.parked.is_multiple_of(10)
                && outcomes.dead.is_empty()
                && outcomes.lost == 0
        );
        assert_eq!((outcomes.delivered, sim.store.waiting_items()), (11_990, 10));
        // Logs never wait for it; metrics, in order, wait until the next may find out, and then for a window.
        let patience = if lane == LOGS { 60 } else { 720 };
        assert!(longest <= patience * S, "{} waited {longest:?}", LANES[lane]);
        let tries = |sim: &Sim, from, to| {
            let bad = |seen: &&far_end::Seen| seen.status == 500;
            let seen: Vec<_> = sim.collector.seen().collect();
            assert_eq!(seen.len(), sim.sent.len(), "all requests are remembered");
            seen.iter().zip(&sim.sent).filter(|(s, at)| bad(s) && (from..to).contains(*at)).count()
        };
        let late = tries(&sim, 900 * S, 1_200 * S);
        assert!(late <= 3, "parked data is tried rarely: {late}");
        // The far end is mended: the park lane empties.
        sim.collector.play(Script::new());
        sim.run_dry(3 * 3_600 * S);
        sim.assert_all_delivered();
    }
}

/// Goal: `on_expiry: drop` drops at the end of the window, counted; and `max_elapsed_time: 0` never does.
#[test]
fn what_the_operator_wants_dropped_is_dropped_and_counted() {
    let poison = || Script::new().poison(Signal::Logs, guilty(7)).poison_status(503);
    let mut drop = Sim::with(poison(), Retry { on_expiry: OnExpiry::Drop, ..retry() });
    let mut keep = Sim::with(poison(), Retry { on_expiry: OnExpiry::Drop, max_elapsed: None, ..retry() });
    let mut once = Sim::with(poison(), Retry { on_expiry: OnExpiry::Drop, enabled: false, ..retry() });
    for sim in [&mut drop, &mut keep, &mut once] {
        for i in 0..600 {
            sim.put(LOGS, 10);
            sim.run(S * (i + 1));
        }
    }
    assert_eq!((drop.store.outcomes().lost, drop.store.outcomes().parked), (10, 0));
    assert_eq!((keep.store.outcomes().lost, keep.store.waiting_items()), (0, 10));
    assert_eq!(once.store.outcomes().lost, 10);
    let tries = once.collector.seen().filter(|seen| seen.status == 503).count();
    assert!(tries <= 2, "tried once while others succeed: {tries}");
}

/// Promise P3. Goal: an outage of one signal alone uses up nothing of its window: one more failure right after the return
/// drops nothing, though the operator wants dropping.
#[test]
fn an_outage_of_one_signal_uses_nothing_of_its_window() {
    for lane in [LOGS, METRICS] {
        let script = Script::new().for_signal(LANES[lane], Act::status(503));
        let mut sim = Sim::with(script, Retry { on_expiry: OnExpiry::Drop, ..retry() });
        for i in 0..120 {
            sim.put(lane, 10);
            sim.put(TRACES, 10);
            sim.run(60 * S * (i + 1));
        }
        assert!(sim.flow.link().is_up() && !sim.flow.desk(lane).link().is_up());
        for _ in 0..3 {
            sim.collector.play(Script::new().times(1, Act::Accept).times(1, Act::status(503)));
            sim.run(sim.now - sim.start + 60 * S);
            sim.put(lane, 10);
        }
        sim.run_dry(9_000 * S);
        sim.assert_all_delivered();
        assert_eq!((sim.store.outcomes().lost, sim.store.outcomes().parked), (0, 0), "{}", LANES[lane]);
    }
}

/// Goal: a signal that is not taken leaves the others their memory, also what it had when its trouble began.
#[test]
fn a_lane_that_is_down_does_not_eat_the_memory_of_the_others() {
    for act in [Act::status(401), Act::status(503)] {
        // Traces are taken slowly, so that there are always some.
        let slow = || Script::new().for_signal(Signal::Traces, Act::Slow(3 * S));
        let mut sim = Sim::new(slow().lasting(5 * S, Act::Slow(4 * S)));
        sim.flow.budget = 90_000;
        for _ in 0..200 {
            sim.put(LOGS, 40);
        }
        for i in 0..900 {
            sim.put(TRACES, 10);
            if i == 5 {
                sim.collector.play(slow().for_signal(Signal::Logs, act.clone()));
            }
            sim.run(S * (i + 1));
            let held = sim.flow.desk(LOGS).held_bytes();
            assert!(i < 60 || held <= 90_000 / 2 + 6_000, "{act:?}: {held} B after {i} s");
        }
        assert!(sim.store.waiting_items() <= 200 * 40 + 10, "traces go on");
        sim.collector.play(Script::new());
        sim.run_dry(1_200 * S);
        sim.assert_all_delivered();
    }
}

/// Goal: a date that has passed is no reason to wake: a lane whose turn it is not waits for what it waits for.
#[test]
fn nobody_waits_for_the_past() {
    for (lane, other) in [(LOGS, TRACES), (METRICS, TRACES)] {
        let mut sim = Sim::new(Script::new().always(Act::status(503)));
        sim.put(lane, 5);
        sim.run(60 * S);
        assert!(!sim.flow.desk(lane).link().is_up());
        // Everything in hand is given up; more waits, and the spool is busy with another lane's lease.
        let keys: Vec<Pos> = (0..9).map(|index| Pos { index, item: 0 }).collect();
        keys.iter().for_each(|key| sim.flow.desk_mut(lane).settled(*key));
        assert!(sim.flow.desk(lane).is_empty());
        let now = sim.now + 60 * S;
        sim.flow.desk_mut(lane).set_due(None);
        sim.flow.desk_mut(other).set_due(Some(now));
        assert_eq!(sim.flow.next(now), Do::Lease(other, Pick::Oldest));
        sim.flow.desk_mut(lane).set_due(Some(now - S));
        match sim.flow.next(now) {
            Do::Rest(until) => assert!(until.is_none_or(|at| at > now), "{}: {until:?}", LANES[lane]),
            step => panic!("{step:?}"),
        }
    }
}

/// Goal: one signal's trouble is its own: a collector without a logs pipeline takes traces and metrics at full speed,
/// and the logs wait for a person, few in memory, rarely tried.
#[test]
fn a_signal_the_far_end_does_not_want_waits_alone() {
    for act in [Act::status(404), Act::status(503), Act::status(500), Act::Hang] {
        let mut sim = Sim::new(Script::new().for_signal(Signal::Logs, act.clone()));
        for i in 0..900 {
            (0..3).for_each(|lane| sim.put(lane, 10));
            sim.run(S * (i + 1));
        }
        sim.run(935 * S);
        let arrived = |signal| sim.collector.tally().arrivals(signal);
        let arrived = [Signal::Logs, Signal::Traces, Signal::Metrics].map(arrived);
        assert_eq!(arrived, [0, 9_000, 9_000], "{act:?}");
        let tried = sim.collector.seen().filter(|seen| seen.signal == Some(Signal::Logs)).count();
        assert!(tried < 120, "{act:?}: {tried}");
        assert!(sim.flow.link().is_up() && !sim.flow.desk(LOGS).link().is_up(), "{act:?}");
        assert!(sim.flow.desk(LOGS).held_bytes() < 100_000, "{act:?}");
        assert_eq!(sim.store.outcomes().parked, 0, "{act:?}");
        sim.collector.play(Script::new());
        sim.run(1_200 * S);
        sim.assert_all_delivered();
    }
}

/// Promise P7. Goal: many bad batches at once (more than fit in flight or in memory) do not stop the good ones.
#[test]
fn many_bad_batches_stop_nobody() {
    let bad: Vec<u64> = (0..300).map(|i| i * 20).collect(); // every second batch of ten
    for code in [400, 500] {
        let script = bad.iter().fold(Script::new().poison_status(code), |s, seq| s.poison(Signal::Logs, guilty(*seq)));
        let mut sim = Sim::new(script);
        sim.flow.budget = 80_000; // about 45 such uploads
        for i in 0..600 {
            sim.put(LOGS, 10);
            sim.run(S * (i + 1) / 4);
        }
        sim.run(900 * S);
        let outcomes = sim.store.outcomes();
        let arrived = sim.collector.tally().arrivals(Signal::Logs);
        if code == 400 {
            assert_eq!((outcomes.dead.len(), arrived), (300, 5_700));
        } else {
            assert_eq!(arrived, 3_000, "all good batches: {outcomes:?}");
        }
    }
}

/// Goal: what the far end rejects of a batch it takes is counted as lost, and never sent again.
#[test]
fn partial_success_is_final() {
    let mut sim = Sim::new(Script::new().times(1, Act::partial(3, "too old")).times(1, Act::partial(99, "all of it")));
    sim.put(LOGS, 10);
    sim.run(S);
    sim.put(LOGS, 10);
    sim.run(2 * S);
    let outcomes = sim.store.outcomes();
    assert_eq!((outcomes.delivered, outcomes.rejected, sim.sent.len()), (7, 13, 2));
}

/// Goal: 413 is learnt: after the first few, uploads are made to fit before they are sent; and it is forgotten when the
/// limit is lifted.
#[test]
fn a_limit_of_the_far_end_is_learnt_and_forgotten() {
    let mut sim = Sim::new(Script::new().max_items(300));
    for _ in 0..100 {
        sim.put(TRACES, 1_000);
    }
    sim.run_dry(200 * S);
    sim.assert_all_delivered();
    let refused = |sim: &Sim, from| sim.collector.seen().skip(from).filter(|seen| seen.status == 413).count();
    let (all, later) = (sim.sent.len(), refused(&sim, 60));
    assert!(refused(&sim, 0) <= 35, "what was on its way or not yet known to be too large: {}", refused(&sim, 0));
    assert_eq!((later, all > 400), (0, true));
    sim.collector.play(Script::new());
    sim.run(900 * S);
    sim.put(TRACES, 1_000);
    sim.run_dry(1_000 * S);
    assert!(sim.collector.seen().next_back().is_some_and(|seen| seen.items == 1_000));
}

/// Goal: metrics arrive in order through every kind of trouble that is not their own. After one that lasts longer than
/// the window a single item may come early: it found out that the far end was back.
#[test]
fn metrics_stay_in_order_through_outages() {
    let script = Script::new()
        .times(2, Act::Accept)
        .times(2, Act::status(503))
        .times(1, Act::ResetMidRequest)
        .lasting(120 * S, Act::Refuse)
        .times(3, Act::Hang)
        .times(1, Act::status(401))
        .lasting(250 * S, Act::status(500))
        .times(200, Act::Accept)
        .lasting(2_000 * S, Act::status(500));
    let mut sim = Sim::new(script);
    for i in 0..4_000 {
        sim.put(METRICS, 7);
        sim.run(S * (i + 1));
    }
    sim.run_dry(5_000 * S);
    sim.assert_all_delivered();
    let report = sim.collector.tally().report();
    // What came after the early item and is older: the upload before it, and items that were tried in vain.
    assert!(report.reordered() <= 7 + 2_000 / 300 && report.duplicated() == 0, "{report}");
    let seen: Vec<_> = sim.collector.seen().collect();
    let back = seen.iter().rposition(|seen| seen.status == 500).expect("an outage") + 1;
    assert!(seen[back].taken == 1 || report.reordered() == 0, "the early one is an item alone");
}

/// Goal: a far end that is merely overloaded (every third request is 503) gets everything, with nothing parked.
#[test]
fn an_overloaded_far_end_is_served_at_its_own_pace() {
    let script = (0..400).fold(Script::new(), |s, _| s.times(2, Act::Accept).times(1, Act::status(503)));
    let mut sim = Sim::new(script);
    for i in 0..600 {
        (0..3).for_each(|lane| sim.put(lane, 10));
        sim.run(S * (i + 1));
    }
    sim.run_dry(1_200 * S);
    sim.assert_all_delivered();
    assert_eq!(sim.store.outcomes().parked, 0);
}

/// Goal: what never arrives whole arrives in pieces: 9.6 kbit/s, uploads that take many times the timeout, three lanes, and
/// most of what the line carries is carried for good.
#[test]
fn a_slow_link_carries_everything_in_pieces() {
    let mut sim = Sim::new(Script::new());
    sim.line = Some(Line { bytes_a_second: 1_200.0, each: S / 2, free: sim.start });
    for lane in [LOGS, TRACES, METRICS] {
        (0..2).for_each(|_| sim.put(lane, 2_000));
    }
    let took = sim.run_dry(6 * 3_600 * S);
    sim.assert_all_delivered();
    let report = sim.collector.tally().report();
    let bytes = sim.collector.counts().wire_bytes;
    let least = S.mul_f64(bytes as f64 / 1_200.0);
    let largest = sim.collector.seen().map(|seen| seen.wire_bytes).max().unwrap_or_default();
    assert!(bytes > 200_000 && took < least * 3, "{took:?} for {bytes} B, which take {least:?}");
    assert!(largest < 36_000, "{largest}");
    let metrics = report.streams.iter().find(|stream| stream.signal == Signal::Metrics).expect("sent");
    assert_eq!((report.duplicated(), metrics.reordered), (0, 0), "{report}");
    println!("9.6 kbit/s: {bytes} B in {took:?}, the line takes {least:?}; largest piece {largest} B");
}

/// Promise P9. Goal: a far end that answers later the more it has to do is not given ten at a time, and is never idle.
#[test]
fn a_far_end_that_answers_late_gets_less_at_a_time() {
    let mut sim = Sim::new(Script::new());
    sim.line = Some(Line { bytes_a_second: f64::INFINITY, each: S, free: sim.start });
    (0..120).for_each(|_| sim.put(LOGS, 10));
    let took = sim.run_dry(300 * S);
    sim.assert_all_delivered();
    assert!((2..=5).contains(&sim.most_out), "{} at a time", sim.most_out);
    assert!(took < 130 * S, "one a second, never idle: {took:?}");
}

/// Promise P9. Goal: the first rest of a fleet whose far end goes away in one moment is spread over `reconnect_spread`; what
/// follows is spread by its jitter.
#[test]
fn the_first_reconnect_of_a_fleet_is_spread() {
    for spread in [Duration::ZERO, 60 * S] {
        let (now, retry) = (Instant::now(), Retry { reconnect_spread: spread, ..retry() });
        let mut rests: Vec<Duration> = (0..1_000)
            .map(|agent| {
                let mut flow = Flow::new(Vec::new(), retry, BUDGET, Dice::seeded(agent));
                flow.observe(Seen::Silence { trouble: Trouble::NoAnswer, floor: None }, now);
                match flow.link() {
                    Link::Resting { until, .. } => until - now,
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        rests.sort_unstable();
        let crowd = rests.windows(100).map(|hundred| hundred[99] - hundred[0]).min().expect("a thousand");
        let span = rests[999] - rests[0];
        match spread.is_zero() {
            true => assert!(span <= 5 * S, "jitter alone: {span:?}"),
            false => assert!(span > 55 * S && crowd > 4 * S, "{span:?}, a tenth of them within {crowd:?}"),
        }
    }
}

/// Goal: who watches `send_failed` hears of an outage: once for each window, by the clock on the wall, though the upload's own
/// window stands still; and not at all of a failure that passes.
#[test]
fn an_upload_that_fails_for_a_window_is_counted_once_for_each() {
    let mut sim = Sim::new(Script::new().times(1, Act::status(503)).lasting(3_100 * S, Act::Refuse));
    sim.put(LOGS, 10);
    let mut counted = Vec::new();
    for second in 1..=2_990 {
        let before = sim.sent.len();
        sim.run(S * second);
        if sim.sent.len() > before {
            let key = sim.flow.desk(LOGS).first_key();
            let (now, retry) = (sim.now, retry());
            if key.is_some_and(|key| sim.flow.desk_mut(LOGS).another_window(key, &retry, now)) {
                counted.push(second);
            }
        }
    }
    assert_eq!(counted.len(), 9, "{counted:?}");
    assert!(counted.iter().zip(1..).all(|(at, n)| (300 * n..300 * n + 60).contains(at)), "{counted:?}");
}

/// Goal: memory for bodies is bounded whatever waits.
#[test]
fn bodies_in_memory_are_bounded() {
    let mut sim = Sim::new(Script::new().lasting(100 * S, Act::Hang));
    sim.flow.budget = 500_000;
    for _ in 0..60 {
        (0..3).for_each(|lane| sim.put(lane, 1_000));
    }
    for i in 0..150 {
        sim.run(S * i);
        let held = sim.flow.held_bytes();
        assert!(held <= 500_000 + 3 * 110_000, "{held} at {i} s");
    }
    sim.run_dry(600 * S);
    sim.assert_all_delivered();
}

/// An outage of ten minutes, in which ten items come in every second; then the link is there.
fn after_an_outage(sim: &mut Sim, lane: usize) {
    for i in 0..600 {
        sim.put(lane, 100);
        sim.run(S * (i + 1));
    }
}

fn p99(took: &[Duration]) -> Duration {
    took[took.len() * 99 / 100]
}

/// Promise P6. Goal: after an outage, over a slow link, what comes in arrives within 2 s while the backlog drains beside it, whatever
/// the number of consumers; and nothing is lost. With oldest_first the same load waits for all of the backlog.
#[test]
fn fresh_data_does_not_wait_behind_the_backlog() {
    let outage = || Script::new().lasting(600 * S, Act::Refuse);
    let orders = [DrainOrder::LiveFirst, DrainOrder::NewestFirst, DrainOrder::OldestFirst];
    for (order, consumers) in orders.into_iter().zip([10, 2, 10]).chain([(DrainOrder::LiveFirst, 1)]) {
        let drain = Drain { order, ..Drain::default() };
        let mut sim = Sim::draining(outage(), &drain, consumers, 40_000);
        after_an_outage(&mut sim, LOGS);
        sim.run(640 * S); // it knocks within a jittered rest
        let before = sim.store.waiting_items();
        let took = sim.freshness(LOGS, 40);
        let after = sim.store.waiting_items();
        let said = format!("{order:?}, {consumers} consumers: p99 {:?}, {before} to {after} waiting", p99(&took));
        if order == DrainOrder::OldestFirst {
            assert!(p99(&took) > 30 * S, "{said}");
            continue;
        }
        assert!(p99(&took) <= 2 * S, "{said}");
        assert!(before > 40_000 && after > 10_000 && after + 6_000 < before, "it drains beside: {said}");
        sim.run_dry(3_000 * S);
        sim.assert_all_delivered();
        assert_eq!(sim.collector.tally().report().duplicated(), 0, "{said}");
    }
}

/// Goal: order within a lane holds for oldest_first with one consumer, whatever fails for a while; it is what live_first gives up.
#[test]
fn oldest_first_with_one_consumer_keeps_the_order() {
    for order in [DrainOrder::OldestFirst, DrainOrder::LiveFirst] {
        let script = Script::new()
            .times(3, Act::Accept)
            .times(1, Act::status(503))
            .lasting(100 * S, Act::Refuse)
            .times(2, Act::Accept)
            .times(1, Act::Hang)
            .times(1, Act::ResetMidRequest);
        let mut sim = Sim::draining(script, &Drain { order, ..Drain::default() }, 1, 100_000);
        for i in 0..200 {
            sim.put(LOGS, 100);
            sim.run(S * (i + 1));
        }
        sim.run_dry(400 * S);
        sim.assert_all_delivered();
        let report = sim.collector.tally().report();
        assert_eq!(report.reordered() == 0, order == DrainOrder::OldestFirst, "{order:?}: {report}");
    }
}

/// Goal: a backlog keeps below `max_rate`, close to it, and what comes in does not.
#[test]
fn a_backlog_keeps_below_its_rate() {
    let drain = Drain { max_rate: Some(5_000), ..Drain::default() };
    let mut sim = Sim::draining(Script::new().lasting(600 * S, Act::Refuse), &drain, 10, 1_000_000);
    after_an_outage(&mut sim, LOGS);
    sim.run(640 * S);
    let from = sim.now - sim.start;
    let took = sim.freshness(LOGS, 120);
    assert!(p99(&took) <= S, "{:?}", p99(&took));
    let rate =
        sim.loads.iter().filter(|load| load.at >= from && load.backlog).map(|load| load.bytes).sum::<usize>() / 120;
    assert!((4_500..=5_200).contains(&rate), "{rate} B/s");
}

/// Goal: `priority` decides whose backlog goes first; what comes in for the others goes all the same.
#[test]
fn the_backlog_of_a_lane_with_priority_goes_first() {
    let drain = Drain { priority: vec![Signal::Traces, Signal::Metrics], ..Drain::default() };
    let mut sim = Sim::draining(Script::new().lasting(300 * S, Act::Refuse), &drain, 4, 40_000);
    for i in 0..300 {
        (0..3).for_each(|lane| sim.put(lane, 100));
        sim.run(S * (i + 1));
    }
    sim.run(340 * S);
    let from = sim.now - sim.start;
    let took = sim.freshness(LOGS, 30);
    assert!(p99(&took) <= 2 * S, "{:?}", p99(&took));
    sim.run_dry(1_000 * S);
    sim.assert_all_delivered();
    let last = |lane: usize| {
        let of = sim.loads.iter().filter(|load| load.at >= from && load.lane == lane && load.backlog);
        (of.clone().map(|load| load.at).min(), of.map(|load| load.at).max())
    };
    let ((_, traces), (metrics_first, metrics), (logs_first, _)) = (last(TRACES), last(METRICS), last(LOGS));
    assert!(
        traces <= metrics_first && metrics <= logs_first,
        "{traces:?} {metrics_first:?} {metrics:?} {logs_first:?}"
    );
}

/// Goal: a link that is short of both gives the backlog its share of the bytes, and a far end that wants patience of one gets it of
/// both.
#[test]
fn the_backlog_gets_its_share_of_a_crowded_link() {
    let drain = Drain { backlog_share: 0.3, ..Drain::default() };
    let mut sim = Sim::draining(Script::new().lasting(600 * S, Act::Refuse), &drain, 1, 8_000);
    after_an_outage(&mut sim, LOGS);
    sim.run(640 * S);
    let from = sim.now - sim.start;
    for i in 0..200 {
        sim.put(LOGS, 100); // more than the link can carry
        sim.run(from + S * (i + 1));
    }
    let of = |backlog: bool| {
        let of = sim.loads.iter().filter(|load| load.at >= from && load.backlog == backlog);
        of.map(|load| load.bytes).sum::<usize>()
    };
    let share = of(true) * 100 / (of(true) + of(false));
    assert!((25..=35).contains(&share), "{share} % of {} B", of(true) + of(false));
    sim.collector.play(Script::new().times(1, Act::status(429).retry_after(100)));
    sim.run(from + 320 * S);
    let asked = sim.collector.seen().position(|seen| seen.status == 429).expect("it said so");
    let when = sim.sent[asked];
    assert_eq!(sim.requests(when + S, when + 99 * S), 0, "neither kind goes before");
    sim.run_dry(3_000 * S);
    sim.assert_all_delivered();
}

/// Goal: a lane that keeps its order never falls behind for what holds its backlog back, and catches up by what is more than that.
#[test]
fn a_lane_in_order_sends_as_fast_as_its_data_comes_in() {
    let drain = Drain { max_rate: Some(300), priority: vec![Signal::Logs], ..Drain::default() };
    let mut sim = Sim::draining(Script::new().lasting(300 * S, Act::Refuse), &drain, 4, 1_000_000);
    let waiting = |sim: &Sim| sim.store.waiting(sim.owner, sim.lanes[METRICS]).items;
    let feed = |sim: &mut Sim, seconds: u32| {
        let from = sim.now - sim.start;
        for i in 0..seconds {
            sim.put(METRICS, 100); // some 3 kB/s, packed: ten times the rate
            sim.put(LOGS, 10);
            sim.run(from + S * (i + 1));
        }
    };
    feed(&mut sim, 340);
    let before = waiting(&sim);
    assert!(before > 20_000, "{before}");
    feed(&mut sim, 300);
    let after = waiting(&sim);
    assert!(after <= before, "{before} waited, {after} do after five minutes");
    assert!(before - after < 4_000, "what came in during the outage is a backlog: {before} to {after}");
    sim.run_dry(9_000 * S);
    sim.assert_all_delivered();
}

/// Goal: one scrape lets one scrape's worth of a backlog through, not an upload of a hundred times that.
#[test]
fn what_comes_in_lets_no_more_through_than_itself() {
    let drain = Drain { max_rate: Some(100), ..Drain::default() };
    let mut sim = Sim::draining(Script::new().lasting(600 * S, Act::Refuse), &drain, 4, 1_000_000);
    sim.cut = Cut { enough_items: 2_000, max_items: 2_000, max_bytes: 4 << 20 };
    let waiting = |sim: &Sim| sim.store.waiting(sim.owner, sim.lanes[METRICS]).items;
    (0..60).for_each(|i| {
        sim.put(METRICS, 1_000);
        sim.run(10 * S * (i + 1));
    });
    sim.run(640 * S);
    let before = waiting(&sim);
    for i in 0..60 {
        sim.put(METRICS, 20);
        sim.run(640 * S + 10 * S * (i + 1));
    }
    let sent = before + 60 * 20 - waiting(&sim);
    // 600 s of the rate and what came in; one upload and one window more.
    let bytes: usize =
        sim.loads.iter().filter(|load| load.at >= 640 * S && load.lane == METRICS).map(|load| load.bytes).sum();
    assert!(sent < 12_000 && bytes < 160_000, "{before} waited; {sent} items, {bytes} bytes in ten minutes");
    assert!(sent >= 60 * 20, "and as much as came in: {sent}");
}

/// Goal: a lane that the link budget holds holds no other one's backlog, and a short upload passes a long one that does not fit.
#[test]
fn what_does_not_fit_holds_nobody_else() {
    let rules = LinkBudget { per_day: Some(100_000), shares: [0.5, 0.0, 0.0], paced: false, ..LinkBudget::default() };
    let drain = Drain { priority: vec![Signal::Logs], ..Drain::default() };
    let mut sim = Sim::draining(Script::new().lasting(60 * S, Act::Refuse), &drain, 4, 1_000_000).paying(rules);
    for i in 0..6 {
        sim.put(LOGS, 200); // 20 kB each: three of them are what logs may have
        sim.put(TRACES, 20);
        sim.run(10 * S * (i + 1));
    }
    sim.run(120 * S);
    let sent = |sim: &Sim, lane: usize| sim.loads.iter().filter(|load| load.lane == lane && load.at >= 60 * S).count();
    assert_eq!((sent(&sim, LOGS), sent(&sim, TRACES)), (2, 1), "logs have half of it, traces the other");
    assert!(sim.store.waiting_items() >= 600, "the rest is kept: {}", sim.store.waiting_items());
    sim.put(LOGS, 2);
    sim.run(140 * S);
    let short = sim.loads.iter().filter(|load| load.at >= 120 * S && load.lane == LOGS).count();
    assert!(short > 0, "two fresh records fit: {:?}", sim.flow.too_long());
}

/// Goal: a budget that is used up is nobody's failure: the window of a batch that failed before does not run meanwhile.
/// Method: dropping is wanted, one batch fails, and the day's bytes are used up a few seconds later, an hour and three quarters before
/// midnight; then everything is tried again.
#[test]
fn a_window_stands_still_while_the_days_bytes_are_used_up() {
    let midnight = 6_400; // it was 22:13:20
    let rules = LinkBudget { per_day: Some(40_000), paced: false, ..LinkBudget::default() };
    let script = Script::new().poison(Signal::Logs, guilty(7)).poison_status(503);
    let mut sim = Sim::with(script, Retry { on_expiry: OnExpiry::Drop, ..retry() }).paying(rules);
    for i in 0..60 {
        sim.put(LOGS, 10);
        sim.run(S * (i + 1));
    }
    let failed = |sim: &Sim| sim.collector.seen().filter(|seen| seen.status == 503).count();
    let before = failed(&sim);
    assert!(before > 0, "it has failed");
    sim.run(S * (midnight - 60));
    assert!(
        sim.requests(S * 60, S * (midnight - 60)) == 0 && sim.store.waiting_items() > 200,
        "the day's bytes are used up"
    );
    sim.run(S * (midnight + 60));
    assert!(failed(&sim) > before, "it was tried again");
    assert_eq!(sim.store.outcomes().lost, 0, "nothing had its five minutes");
}

/// Goal: over three days with an outage the day's budget holds, to the byte on the wire; live data arrives all day, and the backlog
/// takes no more than what is left of an even use.
#[test]
fn a_backlog_leaves_the_days_budget_to_live_data() {
    const DAY: u64 = 86_400;
    const LIMIT: u64 = 2_000_000;
    /// It was 2023-11-14 22:13:20.
    const FIRST_DAY: u64 = 6_400;
    let outage = 26 * 3_600 * S; // until shortly after midnight
    let rules = LinkBudget { per_day: Some(LIMIT), ..LinkBudget::default() };
    let mut sim =
        Sim::draining(Script::new().lasting(outage, Act::Refuse), &Drain::default(), 4, 100_000).paying(rules);
    let mut late = 0;
    for n in 1..=74 * 12 {
        let before = sim.loads.len();
        sim.put(LOGS, 50); // 1.6 MB a day on the wire
        sim.run(300 * S * n);
        let is_fresh = sim.loads[before..].iter().any(|load| !load.backlog);
        late += u32::from(300 * S * n > outage + 300 * S && !is_fresh);
    }
    let mut days = std::collections::BTreeMap::<u64, u64>::new();
    for load in sim.loads.iter().filter(|load| load.at >= outage) {
        *days.entry((load.at.as_secs() + DAY - FIRST_DAY) / DAY).or_default() += load.bytes as u64 + 300;
    }
    let waiting = sim.store.waiting_items();
    println!("bytes by day {days:?}, {waiting} items wait");
    assert!(days.values().all(|bytes| *bytes <= LIMIT), "{days:?}");
    assert_eq!(late, 0, "times without live data; {days:?}");
    assert!(days[&2] > LIMIT / 100 * 85, "the backlog uses what is left: {days:?}");
    assert!(waiting > 1_000, "and no more: {waiting}");
}

/// Goal: on a link that is too slow for both each signal gets its share, and a signal that is idle leaves its own to the others.
#[test]
fn signals_get_their_shares_of_the_link() {
    let rules = LinkBudget { rate: Some(2_000), shares: [0.0, 0.2, 0.6], ..LinkBudget::default() };
    let mut sim = Sim::draining(Script::new(), &Drain::default(), 2, 1_000_000).paying(rules);
    for i in 0..600 {
        (0..3).for_each(|lane| sim.put(lane, 300)); // each alone is more than the link may carry
        sim.run(S * (i + 1));
    }
    let sent = |sim: &Sim, from: Duration| {
        let of = |lane: usize| {
            sim.loads
                .iter()
                .filter(|load| load.lane == lane && load.at >= from)
                .map(|load| load.bytes as u64)
                .sum::<u64>()
        };
        [LOGS, TRACES, METRICS].map(of)
    };
    let by = sent(&sim, 60 * S);
    let all: u64 = by.iter().sum();
    let parts = by.map(|bytes| 100 * bytes / all);
    assert!(
        (55..=65).contains(&parts[0]) && (15..=25).contains(&parts[1]) && (15..=25).contains(&parts[2]),
        "{parts:?} %"
    );
    assert!((1_700..=2_050).contains(&(all / 540)), "{} B/s", all / 540);
}
