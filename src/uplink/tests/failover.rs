//! Several endpoints of one exporter, each a real socket: whoever is there gets the data, the preferred one first.

use super::world::{LOGS, METRICS, MS, SOURCE, TRACES, Ways, World, config, quick, run};
use crate::base::{Clock, Dice};
use crate::config::TlsClient;
use crate::otlp::Signal;
use crate::testing::far_end::{Act, FarEnd, Script};
use crate::testing::numbered::Mark;
use crate::uplink::budget::Meter;
use crate::uplink::client::{Maker, Recipe};
use crate::uplink::config::{FailoverConfig, OtlpGrpcConfig, OtlpHttpConfig, Place};
use crate::uplink::endpoint::Rules;
use crate::uplink::failover::Failover;
use crate::uplink::metrics::UplinkMetrics;
use crate::uplink::otlp_grpc::GrpcRecipe;
use crate::uplink::otlp_http::HttpRecipe;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy)]
enum Speech {
    Http,
    Grpc,
}

const BOTH: [Speech; 2] = [Speech::Http, Speech::Grpc];

/// As `app` makes it of the section, with short rests.
fn ways(speech: Speech, timeout: Duration, ends: &[SocketAddr], clock: &Clock, metrics: &UplinkMetrics) -> Ways {
    match speech {
        Speech::Http => {
            let url = |addr: &SocketAddr| format!("http://{addr}");
            let failover =
                FailoverConfig { endpoints: ends[1..].iter().map(url).collect(), ..FailoverConfig::default() };
            let section = OtlpHttpConfig { failover, timeout: Some(timeout), ..config(&url(&ends[0])) };
            let each = section.each().into_iter();
            of(each.map(|(name, alone)| (name, HttpRecipe::new(&alone, 4, clock.clone(), None))), metrics)
        }
        Speech::Grpc => {
            let place = |addr: &SocketAddr| Place::Net { host: addr.ip().to_string(), port: addr.port() };
            let endpoint = |addr| crate::uplink::config::Endpoint { place: place(addr), https: false };
            let section = OtlpGrpcConfig {
                endpoint: Some(place(&ends[0])),
                failover: FailoverConfig {
                    endpoints: ends[1..].iter().map(endpoint).collect(),
                    ..FailoverConfig::default()
                },
                tls: TlsClient { insecure: true, ..TlsClient::default() },
                timeout: Some(timeout),
                ..OtlpGrpcConfig::default()
            };
            let recipe = |config| GrpcRecipe { config, clock: clock.clone(), shown: None, meter: Meter::default() };
            of(section.each().into_iter().map(|(name, alone)| (name, recipe(alone))), metrics)
        }
    }
}

fn of<R: Recipe>(each: impl Iterator<Item = (String, R)>, metrics: &UplinkMetrics) -> Ways {
    let makers: Vec<_> = each.map(|(name, r)| (name, Arc::new(Maker::new(r).expect("a client")))).collect();
    let (rules, metrics) = (Rules { after: 200 * MS, curve: quick().curve }, metrics.endpoints());
    Arc::new(move || {
        let made = makers.iter().map(|(name, maker)| (name.clone(), maker.make()));
        Arc::new(Failover::new(made, rules, &metrics, Dice::seeded(5)))
    })
}

/// An uplink with these behind its first far end.
fn world(speech: Speech, script: Script, others: &[&FarEnd]) -> World {
    world_with(speech, 400 * MS, script, others)
}

fn world_with(speech: Speech, timeout: Duration, script: Script, others: &[&FarEnd]) -> World {
    World::by(
        script,
        |_| {},
        |first, clock, metrics| {
            let others = others.iter().map(|end| end.addr());
            let ends: Vec<SocketAddr> = std::iter::once(first.addr()).chain(others).collect();
            ways(speech, timeout, &ends, &clock, metrics)
        },
    )
}

/// Each of the first `items` items of each signal is at one of them at least.
#[track_caller]
fn assert_all_are_somewhere(ends: &[&FarEnd], items: u64) {
    for signal in Signal::ALL {
        for seq in 0..items {
            let is_at = |end: &&FarEnd| end.with(|c| c.tally().has(signal, Mark { source: SOURCE, seq }));
            assert!(ends.iter().any(is_at), "{signal} {seq} is nowhere");
        }
    }
}

fn put_all(world: &mut World, items: u32) {
    [LOGS, TRACES, METRICS].into_iter().for_each(|lane| world.put(lane, items));
}

fn taken(end: &FarEnd) -> u64 {
    end.with(|c| c.counts().items)
}

/// Goal: whatever the preferred one does but take data, the next one gets it; no lane and no link is down meanwhile, the
/// board says whose place is taken, and the preferred one is used again when it works.
#[test]
fn whoever_is_there_gets_the_data_and_the_preferred_one_when_it_is_back() {
    for speech in BOTH {
        for act in [
            Act::Refuse,
            Act::Hang,
            Act::Portal,
            Act::ResetMidRequest,
            Act::status(503),
            Act::status(401),
            Act::status(404),
        ] {
            run(async {
                let second = FarEnd::start(Script::new()).expect("a port");
                let mut world = world(speech, Script::new().always(act.clone()), &[&second]);
                sleep(20 * MS).await;
                (0..4).for_each(|_| put_all(&mut world, 25));
                world.until_dry().await;
                assert_eq!((taken(&world.far_end), taken(&second)), (0, 300), "{speech:?} {act:?}");
                assert_all_are_somewhere(&[&second], 100);
                assert!(world.view.borrow().link.is_up(), "{speech:?} {act:?}: {:?}", world.view.borrow().link);
                let preferred = world.far_end.addr();
                let told = world.troubles();
                assert!(
                    matches!(&told[..], [(what, why)] if *what == format!("otlphttp/{preferred}") && why.starts_with("endpoint is ")),
                    "{speech:?} {act:?}: {told:?}"
                );

                world.far_end.play(Script::new());
                world
                    .until("the preferred one is used again", |w| {
                        w.put(LOGS, 1);
                        w.troubles().is_empty() && taken(&w.far_end) > 0
                    })
                    .await;
                world.until_dry().await;
                let before = taken(&second);
                (0..4).for_each(|_| put_all(&mut world, 25));
                world.until_dry().await;
                assert_eq!(taken(&second), before, "{speech:?} {act:?}: the preferred one has them all");
                assert_all_are_somewhere(&[&world.far_end, &second], 200);
                assert_eq!(world.booked(|book| book.delivered), world.booked(|book| book.accepted));
            });
        }
    }
}

/// Goal: a preferred one that asks for an hour's patience has it, and nobody else waits for that; when all ask, the exporter rests.
#[test]
fn the_patience_of_the_preferred_one_is_not_the_exporters() {
    for speech in BOTH {
        run(async {
            let busy = || Script::new().always(Act::status(429).retry_after(3_600));
            let second = FarEnd::start(Script::new()).expect("a port");
            let mut world = world(speech, busy(), &[&second]);
            let start = Instant::now();
            for _ in 0..10 {
                put_all(&mut world, 10);
                world.until_dry().await;
            }
            assert!(start.elapsed() < Duration::from_secs(3), "{speech:?}: {:?}", start.elapsed());
            assert_eq!(taken(&second), 300, "{speech:?}");
            let asked = world.far_end.seen().len();
            assert!((1..=3).contains(&asked), "{speech:?}: one for each signal that was out, not {asked}");
            second.play(busy());
            let before = second.seen().len();
            (0..10).for_each(|_| put_all(&mut world, 10));
            sleep(500 * MS).await;
            assert_eq!(world.far_end.seen().len(), asked, "{speech:?}");
            let more = second.seen().len() - before;
            assert!((1..=9).contains(&more), "{speech:?}: as many as may be out, not {more}");
            assert!(world.booked(|book| book.waiting) > 0);
        });
    }
}

/// Goal: a preferred one that refuses everything holds nothing up and costs nobody's data; what both refuse is a dead letter.
#[test]
fn what_the_preferred_one_refuses_is_offered_to_the_next() {
    for speech in BOTH {
        run(async {
            let guilty = Mark { source: SOURCE, seq: 3 };
            let second = FarEnd::start(Script::new().poison(Signal::Logs, guilty)).expect("a port");
            let mut world = world(speech, Script::new().always(Act::status(400)), &[&second]);
            let preferred = format!("otlphttp/{}", world.far_end.addr());
            world
                .until("the preferred one is on the board", |w| {
                    put_all(w, 10);
                    w.troubles().iter().any(|(what, why)| *what == preferred && why.contains("refus"))
                })
                .await;
            world.until_dry().await;
            let (dead, delivered) = (world.booked(|book| book.dead_letters), world.booked(|book| book.delivered));
            assert_eq!((dead, delivered), (1, world.booked(|book| book.accepted) - 1), "{speech:?}");
            assert_eq!((taken(&world.far_end), taken(&second)), (0, delivered), "{speech:?}");
        });
    }
}

/// Goal: while none is there the link is down, as with one endpoint; whichever comes back first gets what waited.
#[test]
fn when_none_is_there_the_link_is_down() {
    for speech in BOTH {
        run(async {
            let second = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
            let third = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
            let mut world = world(speech, Script::new().always(Act::Refuse), &[&second, &third]);
            sleep(20 * MS).await;
            (0..4).for_each(|_| put_all(&mut world, 25));
            world.until("the link is down", |w| !w.view.borrow().link.is_up()).await;
            world.until("each of them is told", |w| w.troubles().len() == 4).await;
            let why = world.view.borrow().last_failure.clone();
            assert!([second.addr(), third.addr()].iter().all(|end| why.contains(&format!("{end}: "))), "{why}");
            assert_eq!(world.booked(|book| book.waiting), 300);
            third.play(Script::new());
            world.until_dry().await;
            assert_all_are_somewhere(&[&third], 100);
            world.until("the link is up", |w| w.view.borrow().link.is_up()).await;
            assert_eq!(taken(&third), 300);
        });
    }
}

/// Goal: a preferred one that takes questions and no data gets one upload for each question, never more.
#[test]
fn one_that_takes_only_questions_is_left_alone() {
    run(async {
        let second = FarEnd::start(Script::new()).expect("a port");
        let picky = (0..400).fold(Script::new().poison_status(503), |script, seq| {
            script.poison(Signal::Logs, Mark { source: SOURCE, seq })
        });
        let mut world = world(Speech::Http, picky, &[&second]);
        for _ in 0..200 {
            world.put(LOGS, 2);
            sleep(5 * MS).await;
        }
        world.until_dry().await;
        assert_eq!((taken(&world.far_end), taken(&second)), (0, 400));
        let seen = world.far_end.seen();
        let after_the_first = seen.iter().skip_while(|seen| seen.items > 0).map(|seen| seen.items > 0);
        let story: Vec<bool> = after_the_first.collect();
        assert!(story.len() > 4, "it was asked again: {story:?}");
        assert!(story.windows(2).all(|pair| pair != [true, true]), "{story:?}");
    });
}

/// Goal: what goes out while the preferred one hangs is not held up by looking whether it is back.
#[test]
fn nobody_waits_for_the_question() {
    run(async {
        let second = FarEnd::start(Script::new()).expect("a port");
        let patience = Duration::from_secs(3);
        let mut world = world_with(Speech::Http, patience, Script::new().always(Act::Hang), &[&second]);
        world.put(METRICS, 1);
        world.until_dry().await; // it has found out
        world
            .until("it is asked", |w| {
                w.put(METRICS, 1);
                w.far_end.seen().iter().any(|seen| seen.items == 0 && seen.upload_id.is_none())
            })
            .await;
        // Metrics go one by one: one that waited for the question would take as long as that.
        for _ in 0..20 {
            let start = Instant::now();
            world.put(METRICS, 1);
            world.until_dry().await;
            assert!(start.elapsed() < patience / 2, "{:?}", start.elapsed());
        }
    });
}
