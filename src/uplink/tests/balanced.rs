//! Items to several endpoints by a key, each endpoint a real socket that speaks gRPC.

use super::world::{LOGS, METRICS, MS, SOURCE, TRACES, Ways, World, quick, run};
use crate::base::{Clock, Dice};
use crate::config::TlsClient;
use crate::otlp::Signal;
use crate::supervise::Sabotage;
use crate::testing::far_end::{Act, FarEnd, Script};
use crate::testing::numbered::Mark;
use crate::uplink::backends::Path;
use crate::uplink::balanced::{Balance, Balanced};
use crate::uplink::budget::Meter;
use crate::uplink::client::{Maker, system_names};
use crate::uplink::config::{Endpoint, OtlpGrpcConfig, Place};
use crate::uplink::endpoint::Rules;
use crate::uplink::metrics::UplinkMetrics;
use crate::uplink::otlp_grpc::GrpcRecipe;
use crate::uplink::pack::{Encoding, LEVEL, Packer};
use crate::uplink::resolver::Resolver;
use crate::uplink::retry::{OnExpiry, Retry};
use crate::uplink::verdict::Verdict;
use crate::uplink::wiring::UplinkSettings;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

fn ways(resolver: Resolver, after: Duration, clock: &Clock, metrics: &UplinkMetrics) -> Ways {
    made(resolver, after, clock, metrics).0
}

/// As `app` makes it of the section, with short rests.
fn made(resolver: Resolver, after: Duration, clock: &Clock, metrics: &UplinkMetrics) -> (Ways, Balance) {
    let clock = clock.clone();
    let path: Path = Arc::new(move |name| {
        let addr: SocketAddr = name.parse().expect("an address");
        let template = OtlpGrpcConfig {
            tls: TlsClient { insecure: true, ..TlsClient::default() },
            timeout: Some(400 * MS),
            ..OtlpGrpcConfig::default()
        };
        let place = Place::Net { host: addr.ip().to_string(), port: addr.port() };
        let config = template.to(Endpoint { place, https: false });
        let recipe = GrpcRecipe { config, clock: clock.clone(), shown: None, meter: Meter::default() };
        Arc::new(Maker::new(recipe).expect("a client")).make()
    });
    let balance = Balance::new(None, Rules { after, curve: quick().curve });
    let (metrics, shared) = (metrics.backends(), balance.clone());
    let ways: Ways = Arc::new(move || {
        let packer = Packer::new(Encoding::Gzip, LEVEL);
        let dice = Dice::seeded(5);
        Arc::new(Balanced::over(&shared, resolver.clone(), path.clone(), packer, metrics.clone(), dice))
    });
    (ways, balance)
}

fn list(ends: &[SocketAddr]) -> Resolver {
    let mut names: Vec<String> = ends.iter().map(SocketAddr::to_string).collect();
    names.sort_unstable();
    Resolver::List(names.into())
}

/// An uplink with these beside its first far end.
fn world(script: Script, others: &[&FarEnd], after: Duration) -> World {
    world_with(script, others, after, |_| {})
}

fn world_with(script: Script, others: &[&FarEnd], after: Duration, set: impl FnOnce(&mut UplinkSettings)) -> World {
    World::around(script, set, |first, clock, metrics, depot| {
        let ends: Vec<SocketAddr> = std::iter::once(first.addr()).chain(others.iter().map(|end| end.addr())).collect();
        let (ways, balance) = made(list(&ends), after, &clock, metrics);
        (ways, balance.settling(depot, metrics.clone()))
    })
}

fn put_all(world: &mut World, times: u32, items: u32) {
    for _ in 0..times {
        [LOGS, TRACES, METRICS].into_iter().for_each(|lane| world.put(lane, items));
    }
}

fn others(n: usize) -> Vec<FarEnd> {
    (0..n).map(|_| FarEnd::start(Script::new()).expect("a port")).collect()
}

fn taken(end: &FarEnd) -> u64 {
    end.with(|c| c.counts().items)
}

/// At how many of them each of the first `items` items of each signal is; and no end has one twice.
#[track_caller]
fn homes(ends: &[&FarEnd], items: u64) -> Vec<usize> {
    assert!(ends.iter().all(|end| end.report().duplicated() == 0), "an item came twice to the same endpoint");
    let has = |end: &&&FarEnd, signal, seq| end.with(|c| c.tally().has(signal, Mark { source: SOURCE, seq }));
    let of = |signal| (0..items).map(move |seq| ends.iter().filter(|end| has(end, signal, seq)).count());
    Signal::ALL.into_iter().flat_map(of).collect()
}

#[track_caller]
fn assert_each_arrived_once(ends: &[&FarEnd], items: u64) {
    let homes = homes(ends, items);
    assert!(homes.iter().all(|homes| *homes == 1), "{homes:?}");
}

/// Goal: all items arrive, each at one endpoint; every endpoint has its share of what has keys of its own, and what has one
/// key is at one place.
#[test]
fn every_item_is_at_the_endpoint_its_key_belongs_to() {
    run(async {
        let others = others(2);
        let mut world = world(Script::new(), &[&others[0], &others[1]], 200 * MS);
        put_all(&mut world, 4, 100);
        world.until_dry().await;
        let ends = [&world.far_end, &others[0], &others[1]];
        assert_each_arrived_once(&ends, 400);
        for signal in [Signal::Logs, Signal::Traces] {
            let shares = ends.map(|end| end.with(|c| c.tally().arrivals(signal)));
            assert!(shares.iter().all(|share| *share > 20), "{signal}: {shares:?}");
        }
        let metrics = ends.map(|end| end.with(|c| c.tally().arrivals(Signal::Metrics)));
        assert!(metrics.contains(&400), "one service is at one place: {metrics:?}");
        let ids: Vec<String> = ends.iter().flat_map(|end| end.seen()).filter_map(|seen| seen.upload_id).collect();
        let unique: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "no two parts bear one id: {ids:?}");
        assert_eq!(world.shown("otelcol_loadbalancer_num_backends{"), 3);
        assert_eq!(world.booked(|book| book.delivered), 1_200);
    });
}

/// Goal: whatever an endpoint does but take data, its share goes to the others, each item once, and back to it when it works;
/// the link is up all the time.
#[test]
fn the_share_of_one_that_is_away_goes_to_the_others_and_comes_back() {
    for act in [Act::Refuse, Act::Hang, Act::Portal, Act::ResetMidRequest, Act::status(503), Act::status(401)] {
        run(async {
            let others = others(2);
            let mut world = world(Script::new().always(act.clone()), &[&others[0], &others[1]], 200 * MS);
            sleep(20 * MS).await;
            put_all(&mut world, 4, 100);
            world.until_dry().await;
            assert_eq!(taken(&world.far_end), 0, "{act:?}");
            assert_each_arrived_once(&[&others[0], &others[1]], 400);
            assert!(world.view.borrow().link.is_up(), "{act:?}");
            let away = format!("otlphttp/{}", world.far_end.addr());
            let told = world.troubles();
            assert!(matches!(&told[..], [(what, _)] if *what == away), "{act:?}: {told:?}");
            world.far_end.play(Script::new());
            world
                .until("it has its share again", |w| {
                    w.put(LOGS, 10);
                    w.troubles().is_empty() && taken(&w.far_end) > 0
                })
                .await;
            world.until_dry().await;
            let accepted = world.booked(|book| book.accepted);
            let arrived: u64 = [&world.far_end, &others[0], &others[1]].iter().map(|end| end.report().arrived()).sum();
            assert_eq!((world.booked(|book| book.delivered), arrived), (accepted, accepted), "{act:?}: each once");
        });
    }
}

/// Goal: one that refuses everything costs nobody's data: no item is a dead letter, each is at another endpoint, the board names
/// who it is, and it has its share again when it takes something.
#[test]
fn one_that_refuses_what_the_others_take_is_the_guilty_one() {
    for status in [400, 413] {
        run(async {
            let others = others(2);
            let mut world = world(Script::new().always(Act::status(status)), &[&others[0], &others[1]], 100 * MS);
            let away = format!("otlphttp/{}", world.far_end.addr());
            let mut rounds = 0;
            world
                .until("it is on the board", |w| {
                    put_all(w, 1, 40);
                    rounds += 1;
                    w.troubles().iter().any(|(what, why)| *what == away && why.contains("refus"))
                })
                .await;
            world.until_dry().await;
            assert_eq!(world.booked(|book| book.dead_letters), 0, "{status}");
            assert_each_arrived_once(&[&others[0], &others[1]], rounds * 40);
            assert!(world.view.borrow().link.is_up(), "{status}");
            world.far_end.play(Script::new());
            world
                .until("it has its share again", |w| {
                    w.put(LOGS, 10);
                    w.troubles().is_empty() && taken(&w.far_end) > 0
                })
                .await;
            world.until_dry().await;
            assert_eq!(world.booked(|book| book.delivered), world.booked(|book| book.accepted), "{status}");
        });
    }
}

/// Goal: the word of one whom others overruled condemns nothing, while those others cannot be asked.
#[test]
fn one_that_was_overruled_condemns_nothing_alone() {
    run(async {
        let others = others(1);
        let mut world = world(Script::new().always(Act::status(400)), &[&others[0]], 60_000 * MS);
        world
            .until("it was overruled", |w| {
                w.put(LOGS, 40);
                w.far_end.seen().len() > 2
            })
            .await;
        world.until_dry().await;
        others[0].play(Script::new().always(Act::Refuse));
        sleep(20 * MS).await;
        (0..10).for_each(|_| world.put(LOGS, 40));
        sleep(400 * MS).await;
        others[0].play(Script::new());
        world.until_dry().await;
        assert_eq!(world.booked(|book| book.dead_letters), 0);
        assert_eq!(world.booked(|book| book.delivered), world.booked(|book| book.accepted));
    });
}

/// Goal: an upload of which a part was not taken is settled when all of it was; what was taken does not go again, also where
/// the upload is cut meanwhile.
#[test]
fn what_was_taken_of_an_upload_does_not_go_again() {
    for (act, times) in [(Act::status(503), 6), (Act::status(429).retry_after(0), 3), (Act::status(413), 2)] {
        run(async {
            let others = others(2);
            // It is borne with for longer than it lasts.
            let mut world = world(Script::new().times(times, act.clone()), &[&others[0], &others[1]], 60_000 * MS);
            put_all(&mut world, 3, 200);
            world.until_dry().await;
            let ends = [&world.far_end, &others[0], &others[1]];
            assert_each_arrived_once(&ends, 600);
            assert_eq!(world.booked(|book| book.delivered), 1_800, "{act:?}");
            assert!(world.troubles().is_empty(), "{act:?}: {:?}", world.troubles());
        });
    }
}

/// Goal: of an upload that steps aside (parked, given up, a dead letter) only what nobody took does so; nothing goes twice, also
/// not from the park lane in another life of the uplink, and the books agree with the endpoints.
/// Method: whatever bears one item is refused, so that the others of its upload are taken and it is not; three answers, of
/// which the first two end its window and the last is about the item.
#[test]
fn only_what_nobody_took_of_an_upload_steps_aside() {
    const GUILTY: Mark = Mark { source: SOURCE, seq: 37 };
    for (status, expiry) in [(503, OnExpiry::Park), (503, OnExpiry::Drop), (400, OnExpiry::Park)] {
        run(async {
            let poison = || Script::new().poison(Signal::Logs, GUILTY).poison_status(status);
            let others = others(2);
            others.iter().for_each(|end| end.play(poison()));
            let mut world = world_with(poison(), &[&others[0], &others[1]], 60_000 * MS, |settings| {
                settings.retry = Retry { max_elapsed: Some(100 * MS), on_expiry: expiry, ..settings.retry };
            });
            let stepped = |w: &World| match (status, expiry) {
                (400, _) => w.booked(|book| book.dead_letters),
                (_, OnExpiry::Drop) => w.booked(|book| book.lost.iter().sum()),
                _ => w.shown("tfo_agent_uplink_items{exporter=\"otlphttp\",outcome=\"parked\""),
            };
            for _ in 0..2_000 {
                world.put(LOGS, 100);
                sleep(5 * MS).await;
                if stepped(&world) > 0 {
                    break;
                }
            }
            world.until("all is settled but what stepped aside", |w| w.booked(|book| book.waiting) < 100).await;
            sleep(400 * MS).await;
            let what = format!("{status} {expiry:?}");
            let ends = [&world.far_end, &others[0], &others[1]];
            let arrived: u64 = ends.iter().map(|end| end.report().arrived()).sum();
            let accepted = world.booked(|book| book.accepted);
            let aside = accepted - world.booked(|book| book.delivered);
            assert!(0 < aside && aside < 100, "{what}: {aside} of {accepted}");
            assert_eq!(arrived, world.booked(|book| book.delivered), "{what}: what arrived is booked");
            let sent = world.shown("otelcol_exporter_sent_log_records{");
            assert_eq!(sent, world.booked(|book| book.delivered), "{what}: and counted");
            // Another life begins with what is parked.
            ends.iter().for_each(|end| end.play(Script::new()));
            assert!(world.supervisor.lookout().sabotage("uplink/otlphttp", Sabotage::PanicInHandler));
            world.until_dry().await;
            let homes = homes(&[&world.far_end, &others[0], &others[1]], accepted);
            let (twice, once) =
                (homes.iter().any(|homes| *homes > 1), homes.iter().filter(|homes| **homes == 1).count());
            assert!(!twice, "{what}: {homes:?}");
            let parked = (status, expiry) == (503, OnExpiry::Park);
            assert_eq!(once as u64, if parked { accepted } else { accepted - aside }, "{what}");
        });
    }
}

/// Goal: one that asks for patience gets nothing until then, its share goes to the others at once, and it has its share again.
#[test]
fn one_that_asks_for_patience_does_not_stop_the_others() {
    run(async {
        let others = others(2);
        let busy = Script::new().times(1, Act::status(429).retry_after(2));
        let mut world = world(busy, &[&others[0], &others[1]], 60_000 * MS);
        world.put(LOGS, 200);
        world.until("it said so", |w| !w.far_end.seen().is_empty()).await;
        let start = Instant::now();
        world.put(LOGS, 200);
        world.until_dry().await;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(world.far_end.seen().len(), 1, "it is left alone");
        assert_eq!(others.iter().map(taken).sum::<u64>(), 400);
        world
            .until("it has its share again", |w| {
                w.put(LOGS, 10);
                taken(&w.far_end) > 0
            })
            .await;
        assert!(start.elapsed() > Duration::from_millis(1_500), "{:?}", start.elapsed());
    });
}

/// Goal: an hour of patience for one endpoint is no rest of the exporter, also where one key has all of an upload.
#[test]
fn the_patience_of_one_is_not_the_exporters() {
    run(async {
        let others = others(2);
        let hour = Script::new().always(Act::status(429).retry_after(3_600));
        let mut world = world(hour, &[&others[0], &others[1]], 5_000 * MS);
        for _ in 0..10 {
            let start = Instant::now();
            put_all(&mut world, 1, 20);
            world.until_dry().await;
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        }
        // One for each signal may be out when it says so.
        assert!((1..=3).contains(&world.far_end.seen().len()), "{}", world.far_end.seen().len());
        assert_each_arrived_once(&[&others[0], &others[1]], 200);
    });
}

/// Goal: when all ask for patience, none of them is asked before the first can be.
#[test]
fn when_all_ask_for_patience_the_exporter_has_it() {
    run(async {
        let others = others(1);
        let hour = || Script::new().always(Act::status(429).retry_after(3_600));
        others[0].play(hour());
        let mut world = world(hour(), &[&others[0]], 5_000 * MS);
        let ends = [&world.far_end.addr(), &others[0].addr()].map(|addr| format!("otlphttp/{addr}"));
        // Metrics have one key here, and so one endpoint.
        world.put(METRICS, 20);
        world.until("both have been asked", |w| w.troubles().len() >= 2).await;
        assert!(ends.iter().all(|end| world.troubles().iter().any(|(what, _)| what == end)), "{:?}", world.troubles());
        let seen = |w: &World| w.far_end.seen().len() + others[0].seen().len();
        (0..10).for_each(|_| world.put(LOGS, 10));
        sleep(400 * MS).await;
        assert_eq!(seen(&world), 2, "one upload each, and no question before its time");
    });
}

/// Goal: the guilty item is found in the part of one endpoint, and nothing of the other parts goes twice for that; what is
/// rejected is counted, whenever that was.
#[test]
fn the_guilty_are_found_and_the_rejected_counted_in_parts() {
    run(async {
        let guilty = Mark { source: SOURCE, seq: 37 };
        let poison = || Script::new().poison(Signal::Logs, guilty);
        let others = others(2);
        others.iter().for_each(|end| end.play(poison()));
        let mut world = world(poison(), &[&others[0], &others[1]], 60_000 * MS);
        (0..4).for_each(|_| world.put(LOGS, 100));
        world.until_dry().await;
        assert_eq!((world.booked(|book| book.dead_letters), world.booked(|book| book.delivered)), (1, 399));
        let ends = [&world.far_end, &others[0], &others[1]];
        assert_eq!(homes(&ends, 400)[800..].iter().filter(|homes| **homes == 1).count(), 399);
        // One takes all but three; another does not take its part until the second try.
        world.far_end.play(Script::new().times(1, Act::partial(3, "too old")));
        others[0].play(Script::new().times(1, Act::status(503)));
        others[1].play(Script::new());
        world.put(TRACES, 200);
        world.until_dry().await;
        assert_eq!(world.booked(|book| book.lost.iter().sum::<u64>()), 3);
        assert_eq!(world.booked(|book| book.delivered), 399 + 197);
    });
}

/// Goal: while no endpoint is there the link is down; when they come back everything arrives once.
#[test]
fn when_none_is_there_the_link_is_down() {
    run(async {
        let others = others(2);
        others.iter().for_each(|end| end.play(Script::new().always(Act::Refuse)));
        let mut world = world(Script::new().always(Act::Refuse), &[&others[0], &others[1]], 200 * MS);
        sleep(20 * MS).await;
        put_all(&mut world, 2, 100);
        world.until("the link is down", |w| !w.view.borrow().link.is_up()).await;
        others[1].play(Script::new());
        world.until_dry().await;
        world.until("the link is up", |w| w.view.borrow().link.is_up()).await;
        assert_each_arrived_once(&[&others[1]], 200);
    });
}

static ANSWER: Mutex<Option<Vec<SocketAddr>>> = Mutex::new(None);

/// What a name server would say.
fn answer(_: Arc<str>, _: u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
    let answer = ANSWER.lock().expect("free").clone();
    async move {
        sleep(5 * MS).await;
        answer.ok_or_else(|| std::io::Error::other("no such name"))
    }
    .boxed()
}

/// Goal: endpoints come and go with the addresses of a name; when nothing is answered those of before stay.
#[test]
fn endpoints_follow_the_addresses_of_a_name() {
    run(async {
        let others = others(2);
        let resolver = Resolver::Dns {
            host: "collectors.example".into(),
            port: 4_317,
            interval: 30 * MS,
            timeout: 100 * MS,
            names: answer,
        };
        let mut world =
            World::by(Script::new(), |_| {}, |_, clock, metrics| ways(resolver.clone(), 200 * MS, &clock, metrics));
        let set = |ends: Option<&[&FarEnd]>| {
            *ANSWER.lock().expect("free") = ends.map(|ends| ends.iter().map(|end| end.addr()).collect());
        };
        world.put(LOGS, 50);
        world.until("nobody is found", |w| !w.view.borrow().link.is_up()).await;
        let why = world.view.borrow().last_failure.clone();
        assert_eq!(why, "collectors.example: no such name");
        assert!(world.troubles().iter().any(|(what, _)| what == "otlphttp/resolver"), "{:?}", world.troubles());
        set(Some(&[&world.far_end]));
        world.until_dry().await;
        assert_eq!(taken(&world.far_end), 50);
        set(Some(&[&world.far_end, &others[0], &others[1]]));
        world
            .until("the new ones have shares", |w| {
                w.put(LOGS, 10);
                others.iter().all(|end| taken(end) > 0)
            })
            .await;
        set(None);
        sleep(100 * MS).await;
        world.put(LOGS, 100);
        world.until_dry().await;
        assert!(world.view.borrow().link.is_up(), "those of before stay");
        set(Some(&[&others[1]]));
        world
            .until("the others are left", |w| {
                w.put(LOGS, 10);
                w.shown("otelcol_loadbalancer_num_backends{") == 1
            })
            .await;
        world.until_dry().await;
        let before = (taken(&world.far_end), taken(&others[0]));
        world.put(LOGS, 100);
        world.until_dry().await;
        assert_eq!((taken(&world.far_end), taken(&others[0])), before);
        let arrived: u64 = [&world.far_end, &others[0], &others[1]].iter().map(|end| end.report().arrived()).sum();
        assert_eq!(arrived, world.booked(|book| book.accepted), "each once");
    });
}

static LOOKS: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

/// Says the first address of those that are left each time, and panics where there is none.
fn falls(_: Arc<str>, _: u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
    async {
        let next = LOOKS.lock().expect("nobody panics in there").pop();
        Ok(vec![next.filter(|addr| addr.port() != 0).expect("an address")])
    }
    .boxed()
}

/// Goal: a look that falls is followed by the next one.
#[test]
fn endpoints_are_looked_for_again_after_a_panic() {
    run(async {
        let others = others(1);
        let resolver = Resolver::Dns {
            host: "collectors.example".into(),
            port: 4_317,
            interval: 20 * MS,
            timeout: 100 * MS,
            names: falls,
        };
        let mut world =
            World::by(Script::new(), |_| {}, |_, clock, metrics| ways(resolver.clone(), 200 * MS, &clock, metrics));
        let nothing = SocketAddr::from(([127, 0, 0, 1], 0));
        // Last first: at the beginning it falls too, and then in the middle.
        LOOKS.lock().expect("free").extend([others[0].addr(), nothing, world.far_end.addr(), nothing]);
        world
            .until("the last one is found", |w| {
                w.put(LOGS, 10);
                taken(&others[0]) > 0
            })
            .await;
        assert_eq!(world.supervisor.watch().seat("uplink/otlphttp").map(|seat| seat.falls), Some(0));
        assert!(taken(&world.far_end) > 0, "the one before");
        world.until_dry().await;
    });
}

#[test]
fn the_system_is_asked_for_a_name() {
    run(async {
        let of = |host: &str| Resolver::Dns {
            host: host.into(),
            port: 4_317,
            interval: MS,
            timeout: 5_000 * MS,
            names: system_names,
        };
        assert!(of("localhost").look().await.expect("it is known").contains(&"127.0.0.1:4317".to_owned()));
        assert!(of("no-such-host.invalid").look().await.is_err());
    });
}

/// Goal: what cannot be split is nobody's end.
#[test]
fn what_is_no_request_is_a_refusal() {
    use crate::uplink::transport::Parcel;
    run(async {
        let end = FarEnd::start(Script::new()).expect("a port");
        let metrics = crate::telemetry::Metrics::detached();
        let health = crate::telemetry::Health::starting(Clock::system());
        let own = UplinkMetrics::new(&metrics, &health, "lb");
        let balanced = ways(list(&[end.addr()]), MS, &Clock::system(), &own)();
        let body = Packer::new(Encoding::Gzip, LEVEL).pack(&bytes::Bytes::from_static(b"\xff\xff"));
        let parcel = Parcel { signal: Signal::Logs, body, upload_id: "x".to_owned(), origin: None };
        let verdict = balanced.send(parcel).await;
        assert!(matches!(verdict, Verdict::Split { too_large: false, .. }), "{verdict:?}");
        assert!(end.seen().is_empty());
    });
}
