//! Falls: every kind of panic, what it costs, and what the next life finds.

use crate::toys::*;
use actix::prelude::*;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use tfo_otel_agent::supervise::{Handle, Sabotage, State, panic_counts};
use tfo_otel_agent::supervised;

/// Goal: whatever panics, the messages queued behind it are answered by the rebuilt actor, and the fall is in the
/// books with its reason.
#[actix::test]
async fn every_kind_of_panic_costs_one_fall_and_no_queued_message() {
    #[rustfmt::skip]
    let kinds = [
        // what blows up                    its own answer is lost   what the books say
        (Bomb::Handler,                     true,                    "panic while handling Blow: in a handler at "),
        (Bomb::Spawned,                     false,                   "panic: in ctx.spawn at "),
        (Bomb::Later,                       false,                   "panic: in run_later at "),
        (Bomb::Interval,                    false,                   "panic: in run_interval at "),
        (Bomb::Response,                    false,                   "panic: in a ResponseFuture at "),
        (Bomb::ActResponse,                 true,                    "panic: in a ResponseActFuture at "),
        (Bomb::Atomic,                      false,                   "panic: in ctx.wait at "),
        (Bomb::Stop,                        false,                   "stopped by itself"),
    ];
    for post in ["main", "own"] {
        for (bomb, answer_lost, reason) in kinds {
            let (lives, supervisor) = (Arc::default(), supervisor());
            let handle = supervisor.post(row(post), "", worker(&lives));
            assert_eq!(soon("first answer", handle.ask(Add)).await, Ok(1));
            let ask = |handle: Handle<Worker>| actix_rt::spawn(async move { handle.ask(Add).await });
            let blown = {
                let handle = handle.clone();
                actix_rt::spawn(async move { handle.ask(Blow(bomb)).await })
            };
            tokio::task::yield_now().await;
            let queued: Vec<_> = (0..8).map(|_| ask(handle.clone())).collect();
            for (n, answer) in queued.into_iter().enumerate() {
                let answer = soon("a queued answer", answer).await.expect("the task lives");
                assert!(answer.is_ok(), "{post} {bomb:?}: queued message {n} got {answer:?}");
            }
            assert_eq!(
                soon("the bomb's answer", blown).await.expect("the task lives").is_err(),
                answer_lost,
                "{bomb:?}"
            );
            until("the fall is mended", || {
                let watch = supervisor.watch();
                watch.seats[0].falls == 1 && watch.seats[0].state == State::Running
            })
            .await;
            let seat = supervisor.watch().seats.remove(0);
            let said = seat.last_reason.expect("a reason").to_string();
            assert!(said.starts_with(reason), "{post} {bomb:?}: {said}");
            assert_eq!(reason.ends_with("at "), said.contains("toys.rs:"), "the place is told: {said}");
            assert_eq!((lives.built.load(SeqCst), lives.let_go.load(SeqCst)), (2, 1), "{post} {bomb:?}");
            assert!(soon("after", handle.ask(Add)).await.is_ok());
        }
    }
}

#[actix::test]
async fn a_panic_in_a_stream_is_a_fall_and_the_next_life_winds_its_own_stream() {
    let (lives, supervisor) = (Arc::new(Lives { streams: true, ..Lives::default() }), supervisor());
    let handle = supervisor.post(row("main"), "", worker(&lives));
    assert!(soon("answer", handle.ask(Add)).await.is_ok());
    until("the second life's whole stream", || lives.streamed.load(SeqCst) == 2 + 5).await;
    assert_eq!(lives.started.load(SeqCst), 2);
}

#[actix::test]
async fn panics_in_started_and_in_the_factory_are_falls_and_the_first_message_waits_through_them() {
    for (bad_builds, bad_starts) in [(2, 0), (0, 2), (1, 1)] {
        let lives =
            Arc::new(Lives { bad_builds: bad_builds.into(), bad_starts: bad_starts.into(), ..Lives::default() });
        let supervisor = supervisor();
        let handle = supervisor.post(row("own"), "", worker(&lives));
        assert_eq!(soon("answer", handle.ask(Add)).await, Ok(1), "factory {bad_builds}, started {bad_starts}");
        until_running(&supervisor, "own", 2).await;
        assert_eq!(falls(&supervisor, "own"), 2);
    }
}

/// Goal: actix's leftover cancellations (see `absorb_cancellations`) do not stop a timer of the next life.
#[actix::test]
async fn a_timer_cancelled_just_before_a_panic_ticks_in_the_next_life() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let handle: Handle<Worker> = supervisor.post(row("main"), "", worker(&lives));
    assert!(soon("first", handle.ask(Add)).await.is_ok());
    assert!(soon("the bomb", handle.ask(Blow(Bomb::CancelTimerThenPanic))).await.is_err());
    assert!(soon("rebuilt", handle.ask(Add)).await.is_ok());
    let ticks = lives.ticked.load(SeqCst);
    until("the new timer ticks", || lives.ticked.load(SeqCst) > ticks + 3).await;
}

#[actix::test]
async fn a_panic_that_a_request_caused_is_answered_and_charged_to_nobody() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let handle = supervisor.post(row("own"), "", worker(&lives));
    let before = panic_counts().contained;
    for _ in 0..100 {
        assert_eq!(soon("refused", handle.ask(BadRequest)).await, Ok(Err("depth 65".to_owned())));
    }
    assert_eq!((falls(&supervisor, "own"), lives.built.load(SeqCst)), (0, 1));
    assert!(panic_counts().contained >= before + 100);
}

/// Holds a port, which only one may.
struct Owner {
    port: Option<TcpListener>,
}

supervised!(Owner, let_go: |owner: &mut Owner| {
    drop(owner.port.take());
    panic!("a panic while letting go is borne");
});

impl Actor for Owner {
    type Context = Context<Owner>;
}

#[derive(Message)]
#[rtype(result = "u16")]
struct WhichPort;

impl Handler<WhichPort> for Owner {
    type Result = u16;

    fn handle(&mut self, _: WhichPort, _: &mut Self::Context) -> u16 {
        self.port.as_ref().and_then(|port| port.local_addr().ok()).map_or(0, |address| address.port())
    }
}

/// The new value is built while the old one exists: without `let_go` the port would be taken.
#[actix::test]
async fn what_only_one_may_hold_is_let_go_before_the_next_life_takes_it() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let supervisor = supervisor();
    let owner = supervisor.post(row("own"), "", move || Owner {
        port: Some(TcpListener::bind(("127.0.0.1", port)).expect("the port is free again")),
    });
    assert_eq!(soon("first", owner.ask(WhichPort)).await, Ok(port));
    assert!(supervisor.lookout().sabotage("own", Sabotage::PanicInHandler));
    until_running(&supervisor, "own", 1).await;
    assert_eq!(soon("the next life", owner.ask(WhichPort)).await, Ok(port));
    assert_eq!(falls(&supervisor, "own"), 1);
}
