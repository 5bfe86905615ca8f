//! What can happen to an upload, one by one, on a real socket, with the books compared to the far end's count.

use super::world::{LOGS, METRICS, MS, SOURCE, TRACES, World, run};
use crate::otlp::Signal;
use crate::spool::Reason;
use crate::supervise::Sabotage;
use crate::testing::far_end::{Act, Manner, Script};
use crate::testing::numbered::Mark;
use crate::uplink::link::{Link, Trouble};
use crate::uplink::retry::{OnExpiry, Retry};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

fn guilty(seq: u64) -> Mark {
    Mark { source: SOURCE, seq }
}

#[test]
fn what_was_accepted_arrives_once_and_is_counted() {
    run(async {
        let mut world = World::start(Script::new());
        for _ in 0..20 {
            (0..3).for_each(|lane| world.put(lane, 50));
        }
        world.until_dry().await;
        world.assert_all_delivered();
        assert_eq!(world.far_end.report().duplicated(), 0);
        let sent =
            ["spans", "metric_points", "log_records"].map(|i| world.shown(&format!("otelcol_exporter_sent_{i}{{")));
        assert_eq!(sent, [1_000; 3]);
        assert_eq!(world.shown("tfo_agent_uplink_items{exporter=\"otlphttp\",outcome=\"delivered\""), 3_000);
        let counts = world.far_end.with(|c| c.counts());
        assert_eq!(world.shown("tfo_agent_uplink_wire_bytes{"), counts.wire_bytes);
        assert_eq!(world.shown("tfo_agent_uplink_raw_bytes{"), counts.raw_bytes);
        assert!(!world.metrics.text().contains("send_failed"), "nothing failed, so nothing is shown as failed");
    });
}

/// Goal: the timeout and the sizes of the batch processor decide what one upload is.
#[test]
fn requests_are_batched_by_size_and_by_time() {
    run(async {
        let batch = |settings: &mut crate::uplink::wiring::UplinkSettings| {
            for lane in &mut settings.lanes {
                lane.cut = crate::spool::Cut { enough_items: 100, max_items: 120, max_bytes: 4 << 20 };
                lane.batch_timeout = 400 * MS;
            }
        };
        let mut world = World::with(Script::new(), batch, |_| {});
        for _ in 0..25 {
            world.put(LOGS, 10);
        }
        let start = Instant::now();
        world.until("two batches by size", |w| w.far_end.report().arrived() == 200).await;
        assert!(start.elapsed() < 350 * MS, "they did not wait for the timeout");
        world.until_dry().await;
        assert!(start.elapsed() >= 390 * MS, "the rest did: {:?}", start.elapsed());
        let items: Vec<_> = world.far_end.seen().iter().map(|seen| seen.items).collect();
        assert_eq!(items, [100, 100, 50]);
        world.assert_all_delivered();
    });
}

#[test]
fn what_waits_while_nobody_listens_arrives_when_somebody_does() {
    run(async {
        let mut world = World::start(Script::new().always(Act::Refuse));
        sleep(20 * MS).await;
        for _ in 0..20 {
            (0..3).for_each(|lane| world.put(lane, 50));
        }
        world.until("the link is down", |w| w.view.borrow().link.trouble() == Some(Trouble::Unreachable)).await;
        sleep(500 * MS).await;
        assert_eq!((world.far_end.report().arrived(), world.booked(|book| book.waiting)), (0, 3_000));
        assert_eq!(world.shown("tfo_agent_uplink_up{"), 0);
        let troubles = world.troubles();
        assert_eq!(troubles.len(), 1, "{troubles:?}");
        assert!(troubles[0].0 == "otlphttp" && troubles[0].1.starts_with("far end is unreachable: "), "{troubles:?}");
        world.far_end.play(Script::new());
        world.until_dry().await;
        world.assert_all_delivered();
        assert_eq!(world.far_end.report().duplicated(), 0);
        assert_eq!((world.shown("tfo_agent_uplink_up{"), world.view.borrow().link), (1, Link::Up));
        assert_eq!(world.troubles(), []);
    });
}

/// Goal: nothing comes before the second that was named, whoever named it.
#[test]
fn retry_after_is_waited_out() {
    for code in [503, 429] {
        run(async move {
            let mut world = World::start(Script::new().times(1, Act::status(code).retry_after(1)));
            let start = Instant::now();
            world.put(METRICS, 10);
            world.put(METRICS, 10);
            world.until_dry().await;
            assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
            assert_eq!(world.statuses(), [code, 200, 200]);
            world.assert_all_delivered();
            assert_eq!(world.far_end.report().reordered(), 0);
        });
    }
}

#[test]
fn a_busy_far_end_gets_everything_in_the_end() {
    for code in [429, 500, 502, 503, 504, 408] {
        run(async move {
            let mut world = World::start(Script::new().times(7, Act::status(code)));
            (0..3).for_each(|lane| (0..4).for_each(|_| world.put(lane, 10)));
            world.until_dry().await;
            world.assert_all_delivered();
            assert_eq!(world.far_end.report().duplicated(), 0);
        });
    }
}

#[test]
fn what_is_too_large_is_sent_in_pieces() {
    run(async {
        let mut world = World::start(Script::new().max_items(60));
        (0..3).for_each(|lane| world.put(lane, 500));
        world.until_dry().await;
        world.assert_all_delivered();
        let report = world.far_end.report();
        assert_eq!((report.duplicated(), world.booked(|book| book.dead_letters)), (0, 0));
        // The pieces of metrics came in order.
        assert_eq!(report.streams.iter().find(|s| s.signal == Signal::Metrics).map(|s| s.reordered), Some(0));
    });
}

#[test]
fn the_guilty_item_is_set_aside_and_the_rest_goes_on() {
    for lane in [LOGS, TRACES, METRICS] {
        run(async move {
            let signal = [Signal::Logs, Signal::Traces, Signal::Metrics][lane];
            let mut world = World::start(Script::new().poison(signal, guilty(123)).poison(signal, guilty(777)));
            (0..4).for_each(|_| world.put(lane, 250));
            world.until("two dead letters", |w| w.booked(|book| book.dead_letters) == 2).await;
            world.until_dry().await;
            world.assert_books_equal_the_far_end();
            let lost: Vec<_> = world.far_end.report().streams.iter().flat_map(|s| s.lost.clone()).collect();
            assert_eq!(lost, [123..124, 777..778]);
            assert_eq!(world.shown("otelcol_exporter_send_failed_"), 2);
        });
    }
}

/// Goal: a missing token holds the data, said so, and mending it is enough.
#[test]
fn a_far_end_that_does_not_let_us_in_is_waited_for() {
    for code in [401, 403, 404, 405, 407, 415, 302] {
        run(async move {
            let mut world = World::start(Script::new().always(Act::status(code)));
            (0..3).for_each(|lane| (0..3).for_each(|_| world.put(lane, 10)));
            let held = |view: &crate::uplink::wiring::View| {
                let lanes = view.lanes.iter().filter(|lane| !lane.parked);
                lanes.clone().count() == 3 && lanes.into_iter().all(|lane| lane.link.trouble() == Some(Trouble::Held))
            };
            world.until("all lanes are held", |w| held(&w.view.borrow())).await;
            assert!(world.view.borrow().last_failure.starts_with(&code.to_string()));
            let troubles = world.troubles();
            assert!(
                troubles.iter().any(|(who, why)| who == "otlphttp/logs" && why.contains(&code.to_string())),
                "{troubles:?}"
            );
            sleep(300 * MS).await;
            assert_eq!(world.booked(|book| book.waiting), 90);
            world.far_end.play(Script::new());
            world.until_dry().await;
            world.assert_all_delivered();
            assert_eq!(world.troubles(), []);
        });
    }
}

/// Goal: what a fallen uplink had put on the board does not stay there for ever.
#[test]
fn a_new_life_begins_with_a_clean_board() {
    run(async {
        let mut world = World::start(Script::new().always(Act::status(401)));
        (0..3).for_each(|_| world.put(LOGS, 10));
        world.until("it is on the board", |w| !w.troubles().is_empty()).await;
        world.far_end.play(Script::new());
        assert!(world.supervisor.lookout().sabotage("uplink/otlphttp", Sabotage::PanicInHandler));
        world.until("it is gone", |w| w.troubles().is_empty()).await;
        world.until_dry().await;
        world.assert_all_delivered();
    });
}

#[test]
fn a_far_end_that_hangs_costs_its_timeout_and_nothing_else() {
    run(async {
        let script = Script::new().times(2, Act::Hang);
        let mut world = World::with(script, |_| {}, |config| config.timeout = Some(300 * MS));
        (0..3).for_each(|_| world.put(LOGS, 10));
        world.until_dry().await;
        world.assert_all_delivered();
        assert_eq!(world.far_end.report().duplicated(), 0, "what hung was not taken");
    });
}

/// Goal: a late success is a success the far end knows of and we do not: it arrives twice, under the same id.
#[test]
fn an_answer_that_comes_too_late_costs_a_duplicate_under_the_same_id() {
    run(async {
        let script = Script::new().times(1, Act::Slow(Duration::from_secs(3)));
        let mut world = World::with(script, |_| {}, |config| config.timeout = Some(300 * MS));
        world.put(LOGS, 10);
        world.until_dry().await;
        world.assert_all_delivered();
        assert_eq!(world.far_end.report().duplicated(), 10);
        let ids: BTreeSet<_> = world.far_end.seen().iter().map(|seen| seen.upload_id.clone()).collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
    });
}

#[test]
fn a_connection_that_breaks_loses_nothing() {
    run(async {
        // In the request's body; after the data was taken; in the middle of the answer.
        let script =
            Script::new().times(2, Act::ResetMidRequest).times(1, Act::TakeAndReset).times(1, Act::ResetMidAnswer);
        let mut world = World::start(script);
        (0..4).for_each(|_| world.put(LOGS, 2_000));
        world.until_dry().await;
        world.assert_all_delivered();
        let report = world.far_end.report();
        assert_eq!(report.duplicated(), 2_000, "only what was taken without an answer came twice: {report}");
        let cut = world.far_end.seen().iter().filter(|seen| seen.manner == Manner::ResetMidAnswer).count();
        assert_eq!(cut, 1, "its status said yes, so it was not sent again");
    });
}

#[test]
fn a_captive_portal_is_not_the_far_end() {
    run(async {
        let mut world = World::start(Script::new().always(Act::Portal));
        (0..3).for_each(|lane| world.put(lane, 10));
        world.until("the portal is known", |w| w.view.borrow().link.trouble() == Some(Trouble::Portal)).await;
        sleep(200 * MS).await;
        assert_eq!((world.booked(|book| book.delivered), world.booked(|book| book.waiting)), (0, 30));
        world.far_end.play(Script::new().always(Act::ok_with("text/plain", b"OK")));
        sleep(200 * MS).await;
        assert_eq!(world.booked(|book| book.delivered), 0, "a text is no answer either");
        world.far_end.play(Script::new());
        world.until_dry().await;
        world.assert_all_delivered();
    });
}

#[test]
fn what_the_far_end_rejects_of_a_batch_is_lost_and_counted() {
    run(async {
        let mut world = World::start(Script::new().times(1, Act::partial(3, "too old")));
        world.put(LOGS, 10);
        world.until_dry().await;
        world.assert_books_equal_the_far_end();
        assert_eq!(world.booked(|book| book.lost[Reason::Rejected as usize]), 3);
        assert_eq!(world.shown("otelcol_exporter_sent_log_records{"), 7);
        assert_eq!(world.shown("otelcol_exporter_send_failed_log_records{"), 3);
        assert_eq!(world.statuses(), [200]);
    });
}

#[test]
fn odd_answers_of_success_are_successes() {
    run(async {
        let script = Script::new()
            .times(1, Act::ok_with("application/x-protobuf", b"\xff\xff\xff"))
            .times(1, Act::ok_with("application/json", b"{\"partialSuccess\":{}}"))
            .times(1, Act::Verbatim { code: 204, content_type: None, body: Vec::new() })
            .times(1, Act::ok_with("application/x-protobuf", &vec![0x0a; 300_000]));
        let mut world = World::start(script);
        for _ in 0..4 {
            world.put(METRICS, 5);
        }
        world.until_dry().await;
        assert_eq!(world.booked(|book| book.delivered), 20);
        assert_eq!(world.far_end.seen().len(), 4, "none was sent twice");
    });
}

/// Goal: a batch that fails while others succeed steps aside at the end of its window: parked, or dropped if so wanted.
#[test]
fn a_window_that_ends_parks_or_drops() {
    for on_expiry in [OnExpiry::Park, OnExpiry::Drop] {
        run(async move {
            let script = Script::new().poison(Signal::Logs, guilty(5)).poison_status(500);
            let short = |settings: &mut crate::uplink::wiring::UplinkSettings| {
                settings.retry = Retry { max_elapsed: Some(400 * MS), on_expiry, ..settings.retry };
            };
            let mut world = World::with(script, short, |_| {});
            let lost = |world: &World| world.booked(|book| book.lost[Reason::RetryExpired as usize]);
            let start = Instant::now();
            while world.shown("otelcol_exporter_send_failed_log_records{") == 0 {
                world.put(LOGS, 10);
                sleep(10 * MS).await;
                assert!(start.elapsed() < Duration::from_secs(20), "{world:?}");
            }
            if on_expiry == OnExpiry::Drop {
                world.until_dry().await;
                assert_eq!(lost(&world), 10);
            } else {
                world.until("the others are delivered", |w| w.booked(|book| book.waiting) == 10).await;
                assert_eq!(lost(&world), 0);
                // Mended, and started anew: what is parked arrives.
                world.far_end.play(Script::new());
                assert!(world.supervisor.lookout().sabotage("uplink/otlphttp", Sabotage::PanicInHandler));
                world.until_dry().await;
                world.assert_all_delivered();
            }
            world.assert_books_equal_the_far_end();
        });
    }
}

/// Promise P8. Goal: an uplink that falls with uploads out begins a new life with the same uploads under the same ids;
/// the spool takes nothing from the old one.
#[test]
fn an_uplink_that_falls_takes_its_uploads_up_again() {
    run(async {
        let mut world = World::start(Script::new().times(4, Act::Hang));
        for _ in 0..4 {
            (0..3).for_each(|lane| world.put(lane, 50));
        }
        world.until("four are out", |w| w.far_end.seen().len() >= 4).await;
        let hung = |seen: &crate::testing::far_end::Seen| seen.manner == Manner::Never;
        let out: Vec<_> = world.far_end.seen().into_iter().filter(hung).map(|seen| seen.upload_id).collect();
        assert_eq!(out.len(), 4);
        for case in [Sabotage::PanicInHandler, Sabotage::PanicInSpawned, Sabotage::PanicAtNextStart] {
            assert!(world.supervisor.lookout().sabotage("uplink/otlphttp", case));
            (0..3).for_each(|lane| world.put(lane, 50));
            sleep(100 * MS).await;
        }
        world.until_dry().await;
        world.assert_all_delivered();
        let falls = world.supervisor.watch().seat("uplink/otlphttp").map(|seat| seat.falls);
        assert_eq!(falls, Some(4), "one for each, and one at the start");
        let seen = world.far_end.seen();
        for id in out {
            let answers: Vec<_> = seen.iter().filter(|seen| seen.upload_id == id).map(|seen| seen.status).collect();
            assert!(answers.len() >= 2 && answers.last() == Some(&200), "{id:?}: {answers:?}");
        }
    });
}

/// Goal: at a stop what is out comes home; what waits in a spool that would be lost is sent first, what waits in one
/// that stays is left.
#[test]
fn a_stop_brings_home_what_is_out() {
    for flush in [false, true] {
        run(async move {
            let wait = |settings: &mut crate::uplink::wiring::UplinkSettings| {
                settings.flush_at_stop = flush;
                settings.lanes[LOGS].cut.enough_items = 1_000;
                settings.lanes[LOGS].batch_timeout = Duration::from_secs(600);
            };
            let mut world = World::with(Script::new().times(1, Act::Slow(300 * MS)), wait, |_| {});
            world.put(METRICS, 10);
            world.until("it is out", |w| w.far_end.seen().len() == 1).await;
            world.put(LOGS, 20); // waits for company
            let drained = world.drain().await;
            assert!(drained.missed.is_empty(), "{drained:?}");
            world.assert_books_equal_the_far_end();
            assert_eq!(world.booked(|book| book.waiting), if flush { 0 } else { 20 });
            assert!(world.has(Signal::Metrics, 9));
        });
    }
}

/// Goal: a stop does not wait for a far end that is not there.
#[test]
fn a_stop_does_not_wait_for_a_far_end_that_is_away() {
    run(async {
        let flush = |settings: &mut crate::uplink::wiring::UplinkSettings| settings.flush_at_stop = true;
        let mut world = World::with(Script::new().always(Act::Refuse), flush, |_| {});
        sleep(20 * MS).await;
        world.put(LOGS, 20);
        world.until("the link is down", |w| !w.view.borrow().link.is_up()).await;
        let start = Instant::now();
        assert!(world.drain().await.missed.is_empty());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

/// Goal: a far end that goes by the ids has every item once, whatever happened on the way: answers that get lost or come late,
/// uploads that are halved, cut for poison, cut to size, offered by another life. (Killed processes: `tests/kill9.rs`.)
#[test]
fn a_far_end_that_goes_by_the_ids_has_every_item_once() {
    for (n, lane) in [LOGS, TRACES, METRICS].into_iter().enumerate() {
        run(async move {
            let signal = [Signal::Logs, Signal::Traces, Signal::Metrics][n];
            let poisoned = |script: Script| script.poison(signal, guilty(123));
            let mut world = World::with(poisoned(Script::new()), |_| {}, |config| config.timeout = Some(300 * MS));
            world.far_end.with(crate::testing::far_end::Collector::go_by_ids);
            let late = Act::Slow(Duration::from_millis(600));
            for (round, act) in [Act::TakeAndReset, late, Act::ResetMidAnswer].into_iter().cycle().take(6).enumerate() {
                // Taken, and nobody hears of it; then what was taken whole comes in halves, or in another life, or both.
                world.far_end.play(poisoned(Script::new().times(3, act)));
                (0..5).for_each(|_| world.put(lane, 50));
                sleep(60 * MS).await;
                if round % 2 == 1 {
                    world.far_end.play(poisoned(Script::new().times(2, Act::TakeAndReset).max_items(30)));
                }
                if round % 3 == 1 {
                    assert!(world.supervisor.lookout().sabotage("uplink/otlphttp", Sabotage::PanicInHandler));
                }
                sleep(60 * MS).await;
            }
            world.far_end.play(poisoned(Script::new().max_items(40)));
            world.until_dry().await;
            world.until("the guilty one is found", |w| w.booked(|book| book.dead_letters) == 1).await;
            world.assert_books_equal_the_far_end();
            let (report, again) = (world.far_end.report(), world.far_end.with(|c| c.again()));
            assert_eq!((report.arrived(), report.duplicated()), (1_499, 0), "{again:?} {report}");
            assert!(again.known > 0, "{again:?}");
        });
    }
}
