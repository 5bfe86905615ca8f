//! The walk: every post of a roster × every sabotage, injected by name, and what its row says must follow.

use crate::toys::*;
use std::sync::Arc;
use std::time::Duration;
use tfo_otel_agent::supervise::{
    Crew, End, Exit, Handle, OnHang, Policy, Post, Reason, Roster, Sabotage, Settings, Stage, State, Supervisor,
};

const QUICK: Policy = Policy { budget: 5, ..STRICT };
static POSTS: [Post; 4] = [
    Post { name: "receiver", policy: QUICK, stop: Stage(1), ..MAIN },
    Post { name: "spool-writer", policy: QUICK, stop: Stage(3), ..OWN },
    Post { name: "uplink", vital: false, policy: Policy { on_hang: OnHang::Replace, ..QUICK }, stop: Stage(2), ..OWN },
    Post { name: "registrar", vital: false, policy: QUICK, stop: Stage(4), ..MAIN },
];

/// What must follow.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// It works again, after so many falls.
    Back { falls: u64, replaced: u64 },
    /// The process ends in order.
    Ended(Exit),
    /// The watchdog ends the process.
    LastResort,
}

fn expected(post: &Post, case: Sabotage) -> Outcome {
    match case {
        Sabotage::PanicInGuard => Outcome::Ended(Exit::Escalated),
        Sabotage::PanicAtNextStart => Outcome::Back { falls: 2, replaced: 0 },
        Sabotage::BlockThread(_) => match (post.crew, post.policy.on_hang) {
            (Crew::Main, _) => Outcome::LastResort,
            (Crew::Own, OnHang::ExitProcess) => Outcome::Ended(Exit::Blocked),
            (Crew::Own, OnHang::Replace) => Outcome::Back { falls: 1, replaced: 1 },
        },
        _ => Outcome::Back { falls: 1, replaced: 0 },
    }
}

#[actix::test]
async fn every_post_survives_every_sabotage_or_ends_the_process_as_its_row_says() {
    for case in [
        Sabotage::PanicInHandler,
        Sabotage::PanicInSpawned,
        Sabotage::PanicInTimer,
        Sabotage::PanicInResponse,
        Sabotage::PanicAtNextStart,
        Sabotage::HangSoft,
        Sabotage::BlockThread(MS(2_500)),
        Sabotage::StopItself,
        Sabotage::PanicInGuard,
    ] {
        for post in &POSTS {
            println!("{} × {case:?}", post.name); // shown when it is red
            let seen = hit(post, case).await;
            assert_eq!(seen, expected(post, case), "{} × {case:?}", post.name);
        }
    }
}

/// Hits one seat of a fully staffed roster and sees what becomes of it; the others must not notice.
async fn hit(post: &'static Post, case: Sabotage) -> Outcome {
    let resorts = Resorts::default();
    let written = resorts.clone();
    let last_resort = Arc::new(move |end: &End| written.lock().expect("not poisoned").push(end.clone()));
    let patient = Duration::from_secs(30);
    let settings = Settings { main_deadline: patient, grace: patient, last_resort, sign_of_life: None };
    let mut supervisor = Supervisor::start(Roster(&POSTS), settings).expect("a watchdog");
    let lives = Arc::default();
    let handles: Vec<Handle<Worker>> = POSTS.iter().map(|row| supervisor.post(row, "x", worker(&lives))).collect();
    for handle in &handles {
        assert!(soon("everybody is there", handle.ask(Add)).await.is_ok());
    }
    let name = format!("{}/x", post.name);
    assert!(supervisor.lookout().sabotage(&name, case), "{name} is there");
    let hit = handles.iter().find(|handle| handle.name() == name).expect("it was posted").clone();
    let back = async {
        until("something happens", || falls(&supervisor, &name) > 0 || !resorts.lock().expect("whole").is_empty())
            .await;
        soon("it works again", hit.ask_again(100, MS(15_000), || Add)).await.expect("it works again");
        until_running(&supervisor, &name, 1).await;
    };
    let lookout = supervisor.lookout();
    let ended = {
        // An end wins over an answer; both are looked for until one is there.
        let mut over = supervisor_end(&lookout);
        tokio::select! {
            biased;
            end = &mut over => Some(end),
            () = back => None,
        }
    };
    for other in POSTS.iter().filter(|other| other.name != post.name) {
        let other = format!("{}/x", other.name);
        assert_eq!(falls(&supervisor, &other), 0, "{other} does not notice that {name} was hit by {case:?}");
    }
    if !resorts.lock().expect("not poisoned").is_empty() {
        return Outcome::LastResort;
    }
    if ended.is_some() {
        let end = soon("the end", supervisor.run_until_end()).await;
        return Outcome::Ended(end.exit());
    }
    let seat = seat(&supervisor, &name);
    assert_eq!(seat.state, State::Running);
    Outcome::Back { falls: seat.falls, replaced: seat.replaced }
}

/// Ready when the supervision is over, without taking the end up.
fn supervisor_end(lookout: &tfo_otel_agent::supervise::Lookout) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    let lookout = lookout.clone();
    Box::pin(async move {
        while lookout.end().is_none() {
            tokio::time::sleep(MS(5)).await;
        }
    })
}

/// The reasons are sentences an operator can act on.
#[actix::test]
async fn the_watch_reads_as_a_table() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let own: Handle<Worker> = supervisor.post(row("own"), "", worker(&lives));
    let _: Handle<Worker> = supervisor.post(row("spare"), "otlphttp", worker(&lives));
    assert!(soon("first", own.ask(Add)).await.is_ok());
    assert!(supervisor.lookout().sabotage("spare/otlphttp", Sabotage::PanicInSpawned));
    until_running(&supervisor, "spare/otlphttp", 1).await;
    let watch = supervisor.watch();
    let seat = watch.seat("spare/otlphttp").expect("posted");
    assert_eq!((seat.post, seat.instance.as_str(), seat.vital), ("spare", "otlphttp", false));
    assert!(matches!(&seat.last_reason, Some(Reason::Panic { during: None, .. })), "{:?}", seat.last_reason);
    assert!(seat.quiet_for < Duration::from_secs(20), "{:?}", seat.quiet_for);
    let table = watch.to_string();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows[0], "post            state     falls    waiting    quiet  last fall");
    assert_eq!(rows[1], "own             running       0       0/16       0s");
    let fallen = "spare/otlphttp  running       1       0/16       0s  panic: sabotage: in a spawned future at src/";
    assert!(rows[2].starts_with(fallen), "{}", rows[2]);
}
