//! Toy posts and tools.

use actix::prelude::*;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tfo_otel_agent::base::backoff::Curve;
use tfo_otel_agent::supervise::{
    Crew, End, OnHang, Policy, Post, Pulse, Roster, SeatView, Settings, Stage, State, Supervisor, beat, contained,
    install_hook, respond,
};
use tfo_otel_agent::supervised;

pub const MS: fn(u64) -> Duration = Duration::from_millis;

/// Pauses of 20 to 100 ms.
const QUICK: Curve = Curve {
    initial: Duration::from_millis(20),
    multiplier: 2.0,
    max: Duration::from_millis(100),
    randomization_factor: 0.2,
};
const ONE_MS: Curve = Curve { initial: Duration::from_millis(1), max: Duration::from_millis(2), ..QUICK };
/// Three falls and a long rest of 0.3 s; never called hung by a busy machine.
pub const PATIENT: Policy = Policy {
    pause: QUICK,
    budget: 3,
    window: Duration::from_secs(60),
    long_rest: Duration::from_millis(300),
    heartbeat: Duration::from_millis(20),
    soft_deadline: Duration::from_secs(20),
    hard_deadline: Duration::from_secs(30),
    on_hang: OnHang::ExitProcess,
};
/// Notices a hang after 0.2 s (of its own heartbeats, so a busy machine does not matter) and a blocked thread
/// after a second (which a busy machine should not take to let a thread run).
pub const STRICT: Policy =
    Policy { soft_deadline: Duration::from_millis(200), hard_deadline: Duration::from_secs(1), ..PATIENT };
const TIRELESS: Policy = Policy { budget: u32::MAX, pause: ONE_MS, ..PATIENT };
const FRAGILE: Policy = Policy { budget: 0, on_hang: OnHang::Replace, ..STRICT };

pub const MAIN: Post =
    Post { name: "main", crew: Crew::Main, policy: PATIENT, vital: true, mailbox: 16, stop: Stage(1) };
pub const OWN: Post = Post { name: "own", crew: Crew::Own, ..MAIN };

pub static ROSTER: [Post; 13] = [
    MAIN,
    OWN,
    Post { name: "spare", vital: false, stop: Stage(2), ..OWN },
    Post { name: "spare-main", vital: false, stop: Stage(3), ..MAIN },
    Post { name: "strict", policy: STRICT, ..MAIN },
    Post { name: "strict-own", policy: STRICT, ..OWN },
    Post { name: "replaced", policy: Policy { on_hang: OnHang::Replace, ..STRICT }, ..OWN },
    Post { name: "tireless", policy: TIRELESS, ..OWN },
    Post { name: "tireless-main", policy: TIRELESS, ..MAIN },
    Post { name: "fragile", policy: FRAGILE, ..OWN },
    Post { name: "fragile-spare", policy: FRAGILE, vital: false, ..OWN },
    Post { name: "narrow", mailbox: 2, ..MAIN },
    Post { name: "steady", policy: Policy { soft_deadline: Duration::from_secs(1), ..PATIENT }, ..OWN },
];

pub fn row(name: &str) -> &'static Post {
    Roster(&ROSTER).find(name).expect("a row of this test's roster")
}

/// What the lives of one worker have in common: they count into the same places.
#[derive(Default)]
pub struct Lives {
    pub built: AtomicUsize,
    pub started: AtomicUsize,
    pub handled: AtomicUsize,
    pub streamed: AtomicUsize,
    pub ticked: AtomicUsize,
    pub let_go: AtomicUsize,
    pub stopped: AtomicUsize,
    /// Building or starting panics so many times more.
    pub bad_builds: AtomicUsize,
    pub bad_starts: AtomicUsize,
    /// Streams five numbers at every start; the first life panics at the third.
    pub streams: bool,
}

pub fn less_one(n: &AtomicUsize) -> bool {
    n.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok()
}

pub struct Worker {
    pub lives: Arc<Lives>,
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

    fn stopped(&mut self, _: &mut Self::Context) {
        self.lives.stopped.fetch_add(1, SeqCst);
    }
}

pub struct Numbered {
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

pub fn worker(lives: &Arc<Lives>) -> impl Fn() -> Worker + Send + Sync + 'static {
    let lives = lives.clone();
    move || {
        lives.built.fetch_add(1, SeqCst);
        assert!(!less_one(&lives.bad_builds), "in the factory");
        Worker { lives: lives.clone(), count: 0, timer: SpawnHandle::default() }
    }
}

#[derive(Message)]
#[rtype(result = "usize")]
pub struct Add;

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
pub enum Bomb {
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
pub struct Blow(pub Bomb);

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
pub struct Slowly(pub Duration);

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
pub struct BlockFor(pub Duration);

impl Handler<BlockFor> for Worker {
    type Result = usize;

    fn handle(&mut self, BlockFor(time): BlockFor, _: &mut Self::Context) -> usize {
        std::thread::sleep(time);
        0
    }
}

/// Waits in `ctx.wait` for so long, maybe with a thread that beats for it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WaitFor {
    pub time: Duration,
    pub with_pulse: bool,
}

impl Handler<WaitFor> for Worker {
    type Result = ();

    fn handle(&mut self, WaitFor { time, with_pulse }: WaitFor, ctx: &mut Self::Context) {
        ctx.wait(tokio::time::sleep(time).into_actor(self));
        if with_pulse {
            let pulse = Pulse::of_this_post();
            std::thread::spawn(move || {
                for _ in 0..time.as_millis() / 10 {
                    std::thread::sleep(MS(10));
                    pulse.beat();
                }
            });
        }
    }
}

/// Works for so long without returning, and says that it does.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkFor(pub Duration);

impl Handler<WorkFor> for Worker {
    type Result = ();

    fn handle(&mut self, WorkFor(time): WorkFor, _: &mut Self::Context) {
        for _ in 0..time.as_millis() / 10 {
            std::thread::sleep(MS(10));
            beat();
        }
    }
}

/// A request that is bad in itself.
#[derive(Message)]
#[rtype(result = "Result<usize, String>")]
pub struct BadRequest;

impl Handler<BadRequest> for Worker {
    type Result = Result<usize, String>;

    fn handle(&mut self, _: BadRequest, _: &mut Self::Context) -> Self::Result {
        contained("a bad request", || -> usize { panic!("depth 65") }).map_err(|report| report.message)
    }
}

/// Takes the runtime away from under everybody on this thread.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopThread;

impl Handler<StopThread> for Worker {
    type Result = ();

    fn handle(&mut self, _: StopThread, _: &mut Self::Context) {
        Arbiter::current().stop();
    }
}

// --- tools

/// What the last resort was called with.
pub type Resorts = Arc<Mutex<Vec<End>>>;

pub fn supervisor() -> Supervisor {
    let (supervisor, _) = supervisor_with(Duration::from_secs(30));
    supervisor
}

/// With its last resort written down instead of carried out.
pub fn supervisor_with(main_deadline: Duration) -> (Supervisor, Resorts) {
    install_hook();
    let resorts = Resorts::default();
    let written = resorts.clone();
    let last_resort = Arc::new(move |end: &End| written.lock().expect("not poisoned").push(end.clone()));
    let settings = Settings { main_deadline, grace: MS(300), last_resort, sign_of_life: None };
    (Supervisor::start(Roster(&ROSTER), settings).expect("a thread for the watchdog"), resorts)
}

/// Waits for `true`, at most 20 s.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(MS(5)).await;
    }
    panic!("not in 20 s: {what}");
}

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("not in 20 s: {what}"))
}

pub fn seat(supervisor: &Supervisor, name: &str) -> SeatView {
    supervisor.watch().seat(name).expect("a seat of this test").clone()
}

pub fn falls(supervisor: &Supervisor, name: &str) -> u64 {
    seat(supervisor, name).falls
}

pub async fn until_running(supervisor: &Supervisor, name: &str, falls: u64) {
    until("it fell and is back", || {
        let seat = seat(supervisor, name);
        seat.falls >= falls && seat.state == State::Running
    })
    .await;
}
