//! The gap report between a spool and a far end: said, repeated, acknowledged, refused, and in nobody's way.

use super::world::{LOGS, METRICS, MS, World, run};
use crate::spool::Store as _;
use crate::testing::far_end::{Act, Script, Seen};
use crate::uplink::link::{Link, Trouble};
use std::time::Duration;
use tokio::time::sleep;

/// Ten intervals of the world's reports.
const LONG: Duration = Duration::from_millis(400);

fn reports(world: &World) -> Vec<Seen> {
    let is_report = |seen: &Seen| seen.upload_id.as_ref().is_some_and(|id| id.ends_with("/gaps"));
    world.far_end.seen().into_iter().filter(is_report).collect()
}

/// What the far end was told is what the books say.
#[track_caller]
fn assert_told(world: &World, items: u64) {
    let told = world.far_end.with(|c| c.told().clone());
    let spool = format!("{:032x}", world.spool.uuid());
    for loss in world.spool.losses() {
        let key = [spool.clone(), loss.exporter, loss.lane, loss.reason.name().to_owned()];
        assert_eq!(told.get(&key), Some(&loss.items), "{told:?}");
    }
    assert_eq!(told.values().sum::<u64>(), items, "{told:?}");
}

fn outcome(world: &World, outcome: &str) -> u64 {
    world.shown(&format!("tfo_agent_gap_reports{{exporter=\"otlphttp\",outcome=\"{outcome}\""))
}

/// Goal: said once when something is lost, and once more when more is; not while nothing is.
#[test]
fn a_loss_is_reported_once_and_a_second_one_with_it() {
    run(async {
        let mut world = World::start(Script::new().times(1, Act::partial(3, "old")));
        world.put(LOGS, 10);
        world.until("the far end was told", |w| outcome(w, "known") == 1).await;
        assert_told(&world, 3);
        sleep(LONG).await;
        assert_eq!(reports(&world).len(), 1, "it knows");
        world.far_end.play(Script::new().times(1, Act::partial(4, "old")));
        world.put(LOGS, 10);
        world.until("the far end was told", |w| outcome(w, "known") == 2).await;
        assert_told(&world, 7);
        sleep(LONG).await;
        assert_eq!(reports(&world).len(), 2);
        let seen = &reports(&world)[0];
        assert_eq!((&seen.path[..], seen.items), ("/v1/metrics", 3), "a sum, and its two times");
        world.assert_books_equal_the_far_end();
    });
}

#[test]
fn while_nothing_is_lost_nothing_is_said() {
    run(async {
        let mut world = World::start(Script::new());
        (0..3).for_each(|lane| world.put(lane, 10));
        world.until_dry().await;
        sleep(LONG).await;
        assert_eq!((reports(&world).len(), world.far_end.seen().len()), (0, 3));
    });
}

/// Goal: what was not acknowledged is said again, also if the far end took it and the answer got lost; none of it is held against
/// the far end, and data goes on.
#[test]
fn a_report_is_repeated_until_it_is_acknowledged() {
    run(async {
        let script =
            Script::new().times(1, Act::partial(3, "old")).times(2, Act::status(503)).times(1, Act::TakeAndReset);
        let mut world = World::start(script);
        world.put(LOGS, 10);
        world.until("the far end was told", |w| outcome(w, "known") == 1).await;
        let statuses: Vec<u16> = reports(&world).iter().map(|seen| seen.status).collect();
        assert_eq!((&statuses[..], outcome(&world, "again")), (&[503, 503, 200, 200][..], 3));
        assert_told(&world, 3);
        assert_eq!(world.shown("tfo_agent_uplink_link_moves{"), 0, "nobody believes it away");
        sleep(LONG).await;
        assert_eq!(reports(&world).len(), 4, "it knows");
        assert_eq!((world.view.borrow().link, world.troubles()), (Link::Up, vec![]));
    });
}

/// Goal: a far end that takes no metrics, or not these, or only in part, gets its data all the same, and is not asked again soon.
#[test]
fn a_refused_report_holds_nothing() {
    for refusal in
        [Act::status(404), Act::status(400), Act::status(413), Act::status(401), Act::partial(1, "none of these")]
    {
        run(async move {
            let script = Script::new().times(1, Act::partial(3, "old")).times(1, refusal);
            let mut world = World::start(script);
            world.put(LOGS, 10);
            world.until("the report was refused", |w| outcome(w, "refused") == 1).await;
            for _ in 0..5 {
                (0..3).for_each(|lane| world.put(lane, 10));
            }
            world.until_dry().await;
            sleep(LONG).await;
            assert_eq!(reports(&world).len(), 1, "not again for an hour");
            assert_eq!(world.booked(|book| book.dead_letters), 0);
            assert!(world.spool.losses()[0].is_news(), "it was not acknowledged");
            assert_eq!((world.view.borrow().link, world.troubles()), (Link::Up, vec![]));
            world.assert_books_equal_the_far_end();
        });
    }
}

/// Goal: while the far end is away no report knocks beside the one probe; at its return it comes.
#[test]
fn nothing_is_reported_into_an_outage() {
    run(async {
        let mut world =
            World::with(Script::new().times(1, Act::partial(3, "old")), |s| s.gap_interval = Some(500 * MS), |_| {});
        world.put(LOGS, 10);
        world.until("some are lost", |w| w.booked(|book| book.lost.iter().sum()) == 3).await;
        world.far_end.play(Script::new().always(Act::Refuse));
        world.put(METRICS, 10);
        world.until("the link is down", |w| w.view.borrow().link.trouble() == Some(Trouble::Unreachable)).await;
        let before = outcome(&world, "again") + outcome(&world, "known");
        sleep(Duration::from_millis(1_500)).await;
        assert_eq!(outcome(&world, "again") + outcome(&world, "known"), before);
        world.far_end.play(Script::new());
        world.until("the far end was told", |w| outcome(w, "known") == 1).await;
        assert_told(&world, 3);
        world.until_dry().await;
        world.assert_books_equal_the_far_end();
    });
}

#[test]
fn who_does_not_want_reports_gets_none() {
    run(async {
        let mut world = World::with(Script::new().times(1, Act::partial(3, "old")), |s| s.gap_interval = None, |_| {});
        world.put(LOGS, 10);
        world.until_dry().await;
        sleep(LONG).await;
        assert_eq!(world.far_end.seen().len(), 1);
    });
}
