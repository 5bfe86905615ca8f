//! Ends: budgets, escalation, and supervision's own failures.

use crate::toys::*;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tfo_otel_agent::supervise::{End, Exit, Fallen, Handle, Reason, Roster, Sabotage, Settings, State, Supervisor};

#[actix::test]
async fn a_vital_post_that_spends_its_budget_ends_the_process_and_leaves_nobody_waiting() {
    for post in ["main", "own"] {
        let (lives, mut supervisor) = (Arc::<Lives>::default(), supervisor());
        let handle = supervisor.post(row(post), "", worker(&lives));
        for n in 1..=3 {
            assert!(soon("a bomb", handle.ask(Blow(Bomb::Handler))).await.is_err(), "bomb {n} is within the budget");
        }
        assert!(soon("alive", handle.ask(Add)).await.is_ok(), "three falls are borne");
        let bombed = actix_rt::spawn({
            let handle = handle.clone();
            async move { (handle.ask(Blow(Bomb::Handler)).await, handle.ask(Add).await) }
        });
        let end = soon("the end", supervisor.run_until_end()).await;
        let End::Escalated { post: name, reason } = &end else { panic!("{end}") };
        assert_eq!(name, post);
        assert!(reason.to_string().starts_with("panic while handling Blow: in a handler at "), "{reason}");
        assert_eq!((end.exit(), Exit::Escalated.code()), (Exit::Escalated, 70));
        let (bomb, behind) = soon("answers", bombed).await.expect("the task lives");
        assert_eq!((bomb.is_err(), behind), (true, Err(Fallen::Down(post.into()))), "{post}");
        let seat = seat(&supervisor, post);
        assert_eq!((seat.state, seat.falls, seat.escalations), (State::Down, 4, 1));
        assert!(!supervisor.watch().is_well());
        assert_eq!(lives.built.load(SeqCst), 4, "it was not rebuilt a fourth time");
    }
}

/// Everybody queued behind the last straw learns at once that there will be no answer.
#[actix::test]
async fn those_queued_at_a_post_that_goes_down_are_told_at_once() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let handle: Handle<Worker> = supervisor.post(row("spare"), "", worker(&lives));
    let asks: Vec<_> = (0..4)
        .map(|_| {
            let handle = handle.clone();
            actix_rt::spawn(async move { handle.ask(Blow(Bomb::Handler)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let behind = actix_rt::spawn({
        let handle = handle.clone();
        async move { handle.ask(Add).await }
    });
    for ask in asks {
        assert!(soon("bombs", ask).await.expect("lives").is_err());
    }
    assert_eq!(soon("queued", behind).await.expect("lives"), Err(Fallen::Unanswered("spare".into())));
}

#[actix::test]
async fn a_post_that_is_not_vital_goes_down_visibly_and_comes_back_after_a_long_rest() {
    for post in ["spare", "spare-main"] {
        let (lives, supervisor) = (Arc::default(), supervisor());
        let lookout = supervisor.lookout();
        let handle: Handle<Worker> = supervisor.post(row(post), "", worker(&lives));
        for n in 0..4 {
            until_running(&supervisor, post, n).await;
            assert!(lookout.sabotage(post, Sabotage::PanicInHandler));
        }
        until("it is down", || seat(&supervisor, post).state == State::Down).await;
        let down = seat(&supervisor, post);
        assert_eq!((down.falls, down.escalations, down.is_well()), (4, 1, false));
        assert!(supervisor.watch().is_well(), "only vital posts decide about the process");
        assert_eq!(soon("refused", handle.ask(Add)).await, Err(Fallen::Down(post.into())));
        assert_eq!(soon("refused", handle.ask_again(9, MS(9_000), || Add)).await, Err(Fallen::Down(post.into())));
        assert!(!lookout.sabotage(post, Sabotage::PanicInHandler), "nobody sits there");

        until("it is back", || seat(&supervisor, post).state == State::Running).await;
        assert_eq!(soon("the same handle", handle.ask(Add)).await, Ok(1));
        for n in 5..=7 {
            assert!(soon("a bomb", handle.ask(Blow(Bomb::Handler))).await.is_err());
            until_running(&supervisor, post, n).await; // its budget is whole again
        }
    }
}

/// Supervision that fails is not trusted to go on, whatever the post is worth.
#[actix::test]
async fn a_panic_of_the_guard_itself_escalates_even_for_a_post_that_is_not_vital() {
    for post in ["spare", "spare-main"] {
        let (lives, mut supervisor) = (Arc::default(), supervisor());
        let handle: Handle<Worker> = supervisor.post(row(post), "", worker(&lives));
        assert!(soon("first", handle.ask(Add)).await.is_ok());
        assert!(supervisor.lookout().sabotage(post, Sabotage::PanicInGuard));
        let end = soon("the end", supervisor.run_until_end()).await;
        assert!(matches!(&end, End::Escalated { reason: Reason::Guard(_), .. }), "{end}");
        assert!(end.to_string().contains("sabotage: in the guard"), "{end}");
        assert_eq!(soon("nobody", handle.ask(Add)).await, Err(Fallen::Down(post.into())));
        assert_eq!(seat(&supervisor, post).state, State::Down);
    }
}

#[actix::test]
async fn a_runtime_that_goes_away_under_a_guard_escalates() {
    let (lives, mut supervisor) = (Arc::default(), supervisor());
    let handle: Handle<Worker> = supervisor.post(row("spare"), "", worker(&lives));
    assert_eq!(handle.tell(StopThread), Ok(()));
    let end = soon("the end", supervisor.run_until_end()).await;
    assert_eq!(end, End::Escalated { post: "spare".into(), reason: Reason::Left });
    assert_eq!(soon("nobody", handle.ask(Add)).await, Err(Fallen::Down("spare".into())));
}

#[actix::test]
async fn the_first_end_counts_and_a_stop_that_is_asked_for_is_clean() {
    let mut supervisor = supervisor();
    supervisor.lookout().ask_to_stop("SIGTERM");
    supervisor.lookout().ask_to_stop("somebody else");
    let end = soon("the end", supervisor.run_until_end()).await;
    assert_eq!(end, End::Asked { by: "SIGTERM".into() });
    assert_eq!((end.exit(), supervisor.run_until_end().await), (Exit::Clean, end));
}

#[actix::test]
async fn dropping_the_supervisor_stops_every_actor_and_ends_every_thread() {
    let threads = |name: &str| {
        let tasks = std::fs::read_dir("/proc/self/task").expect("proc is mounted").flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|comm| comm.trim_end() == name).count()
    };
    static LONELY: [tfo_otel_agent::supervise::Post; 1] =
        [tfo_otel_agent::supervise::Post { name: "lonely-thread-of-test", ..OWN }];
    let lives = Arc::default();
    let supervisor = Supervisor::start(Roster(&LONELY), Settings::default()).expect("a watchdog");
    let lookout = supervisor.lookout();
    let handle: Handle<Worker> = supervisor.post(&LONELY[0], "", worker(&lives));
    assert!(soon("first", handle.ask(Add)).await.is_ok());
    assert_eq!(threads("lonely-thread-o"), 1, "named after its post, as much of it as Linux shows");
    let asked = actix_rt::spawn({
        let handle = handle.clone();
        async move {
            handle.ask(WaitFor { time: Duration::from_secs(60), with_pulse: false }).await?;
            handle.ask(Add).await
        }
    });
    tokio::time::sleep(MS(50)).await;
    drop(supervisor);
    assert_eq!(soon("told", asked).await.expect("lives"), Err(Fallen::Unanswered("lonely-thread-of-test".into())));
    assert_eq!(soon("refused", handle.ask(Add)).await, Err(Fallen::Down("lonely-thread-of-test".into())));
    assert_eq!(lookout.watch().seats[0].state, State::Stopped);
    until("its thread ends", || threads("lonely-thread-o") == 0).await;
}

#[actix::test]
#[should_panic(expected = "post `main` is a row of the roster")]
async fn a_post_without_a_row_cannot_exist() {
    static STRANGER: tfo_otel_agent::supervise::Post = tfo_otel_agent::supervise::Post { mailbox: 99, ..MAIN };
    let lives = Arc::default();
    let _ = supervisor().post(&STRANGER, "", worker(&lives));
}

#[actix::test]
async fn rows_that_nobody_was_posted_to_are_named() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    for post in &ROSTER[1..] {
        assert!(supervisor.unstaffed().contains(&post.name));
        let _ = supervisor.post(post, "", worker(&lives));
    }
    assert_eq!(supervisor.unstaffed(), ["main"]);
}

/// Goal: after `stop` nothing is left of the actors or their factories, so that what they held can be had again.
#[actix::test]
async fn a_stop_waits_until_actors_and_factories_are_gone() {
    for post in ["main", "own"] {
        let (lives, supervisor) = (Arc::<Lives>::default(), supervisor());
        let lookout = supervisor.lookout();
        let handle = supervisor.post(row(post), "", worker(&lives));
        assert!(soon("first", handle.ask(Add)).await.is_ok());
        assert!(Arc::strong_count(&lives) > 1, "the actor and its factory hold it");
        assert_eq!(soon("stopped", supervisor.stop(Duration::from_secs(15))).await, Vec::<String>::new());
        assert_eq!(Arc::strong_count(&lives), 1, "{post}: nobody holds it any more");
        assert_eq!(lookout.watch().seats[0].state, State::Stopped);
    }
}

#[actix::test]
async fn a_stop_names_those_who_would_not() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let blocked: Handle<Worker> = supervisor.post(row("own"), "blocked", worker(&lives));
    let _: Handle<Worker> = supervisor.post(row("own"), "free", worker(&lives));
    blocked.tell(BlockFor(Duration::from_secs(3))).expect("room");
    tokio::time::sleep(MS(100)).await;
    assert_eq!(soon("stopped", supervisor.stop(MS(500))).await, ["own/blocked"]);
}

#[actix::test]
async fn an_end_that_the_main_thread_does_not_take_up_is_carried_out_by_the_last_resort() {
    let (supervisor, resorts) = supervisor_with(Duration::from_secs(30));
    let lives = Arc::default();
    let _: Handle<Worker> = supervisor.post(row("own"), "", worker(&lives));
    supervisor.lookout().ask_to_stop("nobody in particular");
    tokio::time::sleep(MS(1_000)).await;
    assert_eq!(*resorts.lock().expect("not poisoned"), [], "a stop that was asked for can wait");
    drop(supervisor);

    let (supervisor, resorts) = supervisor_with(Duration::from_secs(30));
    let _: Handle<Worker> = supervisor.post(row("own"), "", worker(&lives));
    assert!(supervisor.lookout().sabotage("own", Sabotage::PanicInGuard));
    until("the last resort", || !resorts.lock().expect("not poisoned").is_empty()).await;
    assert_eq!(resorts.lock().expect("not poisoned")[0].exit(), Exit::Escalated);
}
