//! Supervision, proved on toy posts: every way to fall, on both crews, and what becomes of those who wait.
//!
//! Waiting is for a condition, with a generous limit (`until`), so that a busy machine makes a test slow, not red.

use actix::prelude::*;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tfo_otel_agent::base::backoff::Curve;
use tfo_otel_agent::supervise::{
    Crew, End, Handle, OnHang, Policy, Post, Roster, Settings, Stage, State, Supervisor, install_hook, respond,
};
use tfo_otel_agent::supervised;

const MS: fn(u64) -> Duration = Duration::from_millis;

// --- toy posts

const QUICK: Curve = Curve { initial: MS_20, multiplier: 2.0, max: MS_100, randomization_factor: 0.2 };
const MS_20: Duration = Duration::from_millis(20);
const MS_100: Duration = Duration::from_millis(100);

/// Falls fast, is never called hung by a busy machine.
const PATIENT: Policy = Policy {
    pause: QUICK,
    budget: 3,
    window: Duration::from_secs(60),
    long_rest: Duration::from_millis(300),
    heartbeat: MS_20,
    soft_deadline: Duration::from_secs(20),
    hard_deadline: Duration::from_secs(30),
    on_hang: OnHang::ExitProcess,
};
/// Notices a hang after 0.2 s and a blocked thread after 0.4 s.
const STRICT: Policy = Policy {
    soft_deadline: Duration::from_millis(200),
    hard_deadline: Duration::from_millis(400),
    budget: 1_000,
    ..PATIENT
};
const MAIN: Post = Post { name: "main", crew: Crew::Main, policy: PATIENT, vital: true, mailbox: 16, stop: Stage(1) };

static ROSTER: [Post; 9] = [
    MAIN,
    Post { name: "own", crew: Crew::Own, ..MAIN },
    Post { name: "own-spare", crew: Crew::Own, vital: false, stop: Stage(2), ..MAIN },
    Post { name: "strict", policy: STRICT, ..MAIN },
    Post { name: "strict-own", crew: Crew::Own, policy: STRICT, ..MAIN },
    Post { name: "replaced", crew: Crew::Own, policy: Policy { on_hang: OnHang::Replace, ..STRICT }, ..MAIN },
    Post { name: "tireless", crew: Crew::Own, policy: Policy { budget: u32::MAX, pause: ONE_MS, ..PATIENT }, ..MAIN },
    Post { name: "narrow", mailbox: 2, ..MAIN },
    Post { name: "tireless-main", policy: Policy { budget: u32::MAX, pause: ONE_MS, ..PATIENT }, ..MAIN },
];
const ONE_MS: Curve = Curve {
    initial: Duration::from_millis(1),
    multiplier: 1.0,
    max: Duration::from_millis(2),
    randomization_factor: 0.5,
};

fn row(name: &str) -> &'static Post {
    Roster(&ROSTER).find(name).expect("a row of this test's roster")
}

/// What the lives of one worker have in common: they count into the same places.
#[derive(Default)]
struct Lives {
    built: AtomicUsize,
    started: AtomicUsize,
    handled: AtomicUsize,
    streamed: AtomicUsize,
    ticked: AtomicUsize,
    let_go: AtomicUsize,
    /// Building or starting panics so many times more.
    bad_builds: AtomicUsize,
    bad_starts: AtomicUsize,
    /// Streams five numbers at every start; the first life panics at the third.
    streams: bool,
}

fn less_one(n: &AtomicUsize) -> bool {
    n.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok()
}

struct Worker {
    lives: Arc<Lives>,
    count: usize,
    timer: SpawnHandle,
}

supervised!(Worker, let_go: |worker: &mut Worker| { worker.lives.let_go.fetch_add(1, SeqCst); });

impl Actor for Worker {
    type Context = Context<Worker>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let life = self.lives.started.fetch_add(1, SeqCst);
        assert!(!less_one(&self.lives.bad_starts), "in started");
        self.timer = ctx.run_interval(MS(5), |worker, _| {
            worker.lives.ticked.fetch_add(1, SeqCst);
        });
        if self.lives.streams {
            let numbers = futures_util::stream::iter(0..5_usize);
            ctx.add_stream(futures_util::StreamExt::map(numbers, move |n| Numbered { n, bad: life == 0 && n == 2 }));
        }
    }
}

struct Numbered {
    n: usize,
    bad: bool,
}

impl StreamHandler<Numbered> for Worker {
    fn handle(&mut self, item: Numbered, _: &mut Self::Context) {
        assert!(!item.bad, "in a stream at {}", item.n);
        self.lives.streamed.fetch_add(1, SeqCst);
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

fn worker(lives: &Arc<Lives>) -> impl Fn() -> Worker + Send + Sync + 'static {
    let lives = lives.clone();
    move || {
        lives.built.fetch_add(1, SeqCst);
        assert!(!less_one(&lives.bad_builds), "in the factory");
        Worker { lives: lives.clone(), count: 0, timer: SpawnHandle::default() }
    }
}

#[derive(Message)]
#[rtype(result = "usize")]
struct Add;

impl Handler<Add> for Worker {
    type Result = usize;

    fn handle(&mut self, _: Add, _: &mut Self::Context) -> usize {
        self.lives.handled.fetch_add(1, SeqCst);
        self.count += 1;
        self.count
    }
}

/// Every way an actor of ours can panic at a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bomb {
    Handler,
    Spawned,
    Later,
    Interval,
    Response,
    ActResponse,
    Atomic,
    Stop,
    CancelTimerThenPanic,
}

#[derive(Message)]
#[rtype(result = "usize")]
struct Blow(Bomb);

impl Handler<Blow> for Worker {
    type Result = ActorResponse<Worker, usize>;

    fn handle(&mut self, Blow(bomb): Blow, ctx: &mut Self::Context) -> Self::Result {
        let soon = || async { tokio::task::yield_now().await };
        match bomb {
            Bomb::Handler => panic!("in a handler"),
            Bomb::Spawned => {
                ctx.spawn(async { panic!("in ctx.spawn") }.into_actor(self));
            }
            Bomb::Later => {
                ctx.run_later(MS(1), |_, _| panic!("in run_later"));
            }
            Bomb::Interval => {
                ctx.run_interval(MS(1), |_, _| panic!("in run_interval"));
            }
            Bomb::Response => {
                actix_rt::spawn(respond(ctx, async { panic!("in a ResponseFuture") }));
            }
            Bomb::ActResponse => {
                let late = soon().into_actor(self).map(|(), _, _| panic!("in a ResponseActFuture"));
                return ActorResponse::r#async(late);
            }
            Bomb::Atomic => ctx.wait(soon().into_actor(self).map(|(), _, _| panic!("in ctx.wait"))),
            Bomb::Stop => ctx.stop(),
            Bomb::CancelTimerThenPanic => {
                ctx.cancel_future(self.timer);
                panic!("after cancel_future");
            }
        }
        ActorResponse::reply(0)
    }
}

/// Answers after a while, from a future beside the actor.
#[derive(Message)]
#[rtype(result = "usize")]
struct Slowly(Duration);

impl Handler<Slowly> for Worker {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, Slowly(time): Slowly, ctx: &mut Self::Context) -> Self::Result {
        respond(ctx, async move {
            tokio::time::sleep(time).await;
            7
        })
    }
}

#[derive(Message)]
#[rtype(result = "usize")]
struct BlockFor(Duration);

impl Handler<BlockFor> for Worker {
    type Result = usize;

    fn handle(&mut self, BlockFor(time): BlockFor, _: &mut Self::Context) -> usize {
        std::thread::sleep(time);
        0
    }
}

// --- tools

fn supervisor() -> Supervisor {
    supervisor_with(|_| {})
}

fn supervisor_with(last_resort: impl Fn(&End) + Send + Sync + 'static) -> Supervisor {
    install_hook();
    let settings =
        Settings { main_deadline: Duration::from_secs(30), grace: MS(400), last_resort: Arc::new(last_resort) };
    Supervisor::start(Roster(&ROSTER), settings).expect("a thread for the watchdog")
}

/// Waits for `true`, at most 20 s.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(MS(5)).await;
    }
    panic!("not in 20 s: {what}");
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("not in 20 s: {what}"))
}

fn falls(supervisor: &Supervisor, seat: &str) -> u64 {
    supervisor.watch().seat(seat).expect("a seat").falls
}

// --- falls

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
            assert_eq!(reason.ends_with("at "), said.contains("supervision.rs:"), "the place is told: {said}");
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
        assert_eq!(falls(&supervisor, "own"), 2);
        assert_eq!(supervisor.watch().seats[0].state, State::Running);
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
