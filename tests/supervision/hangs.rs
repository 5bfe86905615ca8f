//! Hangs: an actor that handles nothing, a thread that stands still, and what is not one.

use crate::toys::*;
use actix::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tfo_otel_agent::supervise::{
    End, Exit, Fallen, Handle, Reason, Roster, Sabotage, Settings, SignOfLife, State, Supervisor,
};

#[actix::test]
async fn an_actor_that_handles_nothing_is_rebuilt_and_its_queue_is_answered() {
    for post in ["strict", "strict-own"] {
        let (lives, supervisor) = (Arc::default(), supervisor());
        let handle = supervisor.post(row(post), "", worker(&lives));
        assert_eq!(soon("first", handle.ask(Add)).await, Ok(1));
        assert!(supervisor.lookout().sabotage(post, Sabotage::HangSoft));
        for n in 1..=5 {
            assert_eq!(soon("queued behind the hang", handle.ask(Add)).await, Ok(n), "{post}: a new value counts");
        }
        until_running(&supervisor, post, 1).await;
        let seat = seat(&supervisor, post);
        assert_eq!((seat.falls, seat.last_reason), (1, Some(Reason::Hung { after: MS(200) })));
    }
}

/// Goal: what works long and says so is not called hung, what works as long and is silent is.
#[actix::test]
async fn a_pulse_from_another_thread_keeps_a_waiting_actor_from_being_called_hung() {
    for (with_pulse, expected) in [(true, 0), (false, 1)] {
        let (lives, supervisor) = (Arc::default(), supervisor());
        let handle = supervisor.post(row("steady"), "", worker(&lives));
        assert_eq!(soon("wait", handle.ask(WaitFor { time: MS(3_000), with_pulse })).await, Ok(()));
        assert!(soon("behind it", handle.ask(Add)).await.is_ok());
        assert_eq!(falls(&supervisor, "steady"), expected, "with a pulse: {with_pulse}");
    }
}

#[actix::test]
async fn a_long_handler_that_beats_is_not_called_blocked() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let handle = supervisor.post(row("replaced"), "", worker(&lives));
    assert_eq!(soon("work", handle.ask(WorkFor(MS(2_500)))).await, Ok(()));
    let seat = seat(&supervisor, "replaced");
    assert_eq!((seat.falls, seat.replaced), (0, 0));
}

/// Goal: when somebody else keeps the shared thread busy for longer than an actor's soft deadline, the actor is not
/// blamed: silence counts only while its guard had a chance to look.
#[actix::test]
async fn a_neighbour_that_keeps_the_thread_busy_is_not_this_actors_hang() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let handle = supervisor.post(row("strict"), "", worker(&lives));
    assert_eq!(soon("first", handle.ask(Add)).await, Ok(1));
    for _ in 0..5 {
        tokio::time::sleep(MS(30)).await; // its guard has just asked, or is about to
        std::thread::sleep(MS(450)); // longer than the soft deadline, shorter than the hard one
    }
    assert_eq!(soon("same life", handle.ask(Add)).await, Ok(2));
    assert_eq!(falls(&supervisor, "strict"), 0);
}

/// Goal: a thread that stands still is given up for a new one behind the same handle; who asked the old one learns
/// soon that there will be no answer; when it wakes it handles nothing of what was queued, not even news.
#[actix::test]
async fn a_blocked_thread_is_replaced_and_the_one_that_wakes_is_fenced() {
    let (lives, supervisor) = (Arc::<Lives>::default(), supervisor());
    let handle = supervisor.post(row("replaced"), "", worker(&lives));
    assert_eq!(soon("first", handle.ask(Add)).await, Ok(1));

    let start = Instant::now();
    let asking = |handle: Handle<Worker>| actix_rt::spawn(async move { handle.ask(BlockFor(MS(5_000))).await });
    let blocked = asking(handle.clone());
    tokio::time::sleep(MS(50)).await;
    let queued = actix_rt::spawn({
        let handle = handle.clone();
        async move { handle.ask(Add).await }
    });
    for _ in 0..3 {
        assert_eq!(handle.tell(Add), Ok(()));
    }
    let name = || "replaced".into();
    assert_eq!(soon("given up", blocked).await.expect("lives"), Err(Fallen::Unanswered(name())));
    assert_eq!(soon("given up", queued).await.expect("lives"), Err(Fallen::Unanswered(name())));
    assert!(start.elapsed() < MS(4_500), "nobody waits for the old thread: {:?}", start.elapsed());

    assert_eq!(soon("the new one", handle.ask(Add)).await, Ok(1), "a new value");
    let view = seat(&supervisor, "replaced");
    assert_eq!((view.falls, view.replaced, supervisor.watch().abandoned_threads), (1, 1, 1));
    let reason = view.last_reason.expect("a reason").to_string();
    assert!(reason.starts_with("thread blocked for 1") && reason.ends_with("in BlockFor"), "{reason}");

    until("the old thread comes back and ends", || supervisor.watch().abandoned_threads == 0).await;
    assert_eq!(lives.handled.load(SeqCst), 2, "the first Add and the one to the new thread");
    assert_eq!(soon("still the new one", handle.ask(Add)).await, Ok(2));
    assert_eq!(seat(&supervisor, "replaced").state, State::Running);
}

#[actix::test]
async fn more_threads_that_stand_still_than_can_be_borne_end_the_process() {
    let (lives, mut supervisor) = (Arc::default(), supervisor());
    for n in 0..5 {
        let seat = n.to_string();
        let handle: Handle<Worker> = supervisor.post(row("replaced"), &seat, worker(&lives));
        handle.tell(BlockFor(Duration::from_secs(6))).expect("room for one");
    }
    let end = soon("the end", supervisor.run_until_end()).await;
    assert!(matches!(&end, End::Blocked { post, .. } if post.starts_with("replaced/")), "{end}");
    assert_eq!(supervisor.watch().abandoned_threads, 4);
}

#[actix::test]
async fn a_blocked_owner_ends_the_process_in_order_when_the_main_thread_hears_of_it() {
    let (mut supervisor, resorts) = supervisor_with(Duration::from_secs(30));
    let lives = Arc::default();
    let handle: Handle<Worker> = supervisor.post(row("strict-own"), "", worker(&lives));
    handle.tell(BlockFor(MS(4_000))).expect("room");
    let end = soon("the end", supervisor.run_until_end()).await;
    assert!(matches!(&end, End::Blocked { post, .. } if post == "strict-own"), "{end}");
    assert_eq!(end.exit(), Exit::Blocked);
    // A thread of its own enters it in the books, so that a log that blocks cannot hold the watchdog up.
    soon("the books", async {
        while seat(&supervisor, "strict-own").state != State::Blocked {
            tokio::time::sleep(MS(5)).await;
        }
    })
    .await;
    assert!(!supervisor.watch().is_well());
    tokio::time::sleep(MS(1_000)).await; // more than the grace
    assert_eq!(*resorts.lock().expect("not poisoned"), [], "the main thread took it up");
}

#[actix::test]
async fn a_blocked_owner_ends_the_process_by_the_last_resort_when_nobody_takes_it_up() {
    let (supervisor, resorts) = supervisor_with(Duration::from_secs(30));
    let lives = Arc::default();
    let handle: Handle<Worker> = supervisor.post(row("strict-own"), "", worker(&lives));
    handle.tell(BlockFor(MS(4_000))).expect("room");
    until("the last resort", || resorts.lock().expect("not poisoned").len() == 1).await;
    assert!(matches!(&resorts.lock().expect("not poisoned")[0], End::Blocked { post, .. } if post == "strict-own"));
}

/// Goal: systemd hears that the agent lives, also through an ordered stop, and no more once something vital stands still, so that it
/// ends a process that cannot end itself. What is not vital may stand still.
#[actix::test]
async fn a_sign_of_life_is_given_until_something_vital_stands_still() {
    let signs = Arc::<AtomicUsize>::default();
    let given = signs.clone();
    let give = Arc::new(move || {
        given.fetch_add(1, SeqCst);
    });
    let sign_of_life = Some(SignOfLife { within: MS(300), give });
    let settings = Settings { last_resort: Arc::new(|_| ()), sign_of_life, ..Settings::default() };
    let supervisor = Supervisor::start(Roster(&ROSTER), settings).expect("a watchdog");
    let lives = Arc::default();
    let spare: Handle<Worker> = supervisor.post(row("spare"), "", worker(&lives));
    let vital: Handle<Worker> = supervisor.post(row("strict-own"), "", worker(&lives));
    until("signs", || signs.load(SeqCst) > 3).await;
    supervisor.lookout().ask_to_stop("nobody in particular");
    spare.tell(BlockFor(MS(2_000))).expect("room");
    let before = signs.load(SeqCst);
    tokio::time::sleep(MS(1_500)).await;
    assert!(signs.load(SeqCst) > before + 5, "{before}, and a second and a half later {}", signs.load(SeqCst));
    vital.tell(BlockFor(MS(3_000))).expect("room");
    until("it is seen", || seat(&supervisor, "strict-own").state == State::Blocked).await;
    let before = signs.load(SeqCst);
    tokio::time::sleep(MS(800)).await;
    assert_eq!(signs.load(SeqCst), before, "it stands still");
}

/// The handler runs on this test's own thread, which is the main thread of its system.
#[actix::test]
async fn a_blocked_main_thread_ends_the_process_by_the_last_resort_which_names_the_culprit() {
    let (supervisor, resorts) = supervisor_with(Duration::from_secs(30));
    let lives = Arc::default();
    let innocent: Handle<Worker> = supervisor.post(row("strict"), "innocent", worker(&lives));
    let culprit = supervisor.post(row("strict"), "culprit", worker(&lives));
    assert!(soon("first", innocent.ask(Add)).await.is_ok());
    assert_eq!(soon("blocked", culprit.ask(BlockFor(MS(2_500)))).await, Ok(0), "nobody really exited");
    let resorts = resorts.lock().expect("not poisoned").clone();
    let Some(End::Blocked { post, reason: Reason::Blocked { during, after } }) = resorts.first() else {
        panic!("{resorts:?}")
    };
    assert_eq!((post.as_str(), *during), ("strict/culprit", Some("BlockFor")));
    assert!(*after > MS(1_000) && *after < MS(2_500), "{after:?}");
}

#[actix::test]
async fn a_main_thread_that_nobody_is_posted_on_is_watched_too() {
    let (supervisor, resorts) = supervisor_with(MS(1_000));
    tokio::time::sleep(MS(50)).await;
    std::thread::sleep(MS(2_500));
    let resorts = resorts.lock().expect("not poisoned").clone();
    assert!(matches!(resorts.first(), Some(End::Blocked { post, .. }) if post == "main"), "{resorts:?}");
    drop(supervisor);
}

/// Goal: a flood does not keep a thread from its other work. An actor that tells itself one message per message
/// would, in stock actix, be polled for ever.
#[actix::test]
async fn a_flood_leaves_room_for_timers_neighbours_and_the_guard() {
    let (lives, supervisor) = (Arc::<Lives>::default(), supervisor());
    let flooded = supervisor.post(row("strict"), "", worker(&lives));
    assert_eq!(flooded.tell(Flood(flooded.clone())), Ok(()));
    let ticks = lives.ticked.load(SeqCst);
    until("its timer ticks", || lives.ticked.load(SeqCst) > ticks + 10).await;
    assert!(lives.handled.load(SeqCst) > 1_000, "the flood goes on");
    assert_eq!(falls(&supervisor, "strict"), 0);
}

/// Tells its handler to tell itself the same again.
#[derive(Message)]
#[rtype(result = "()")]
struct Flood(Handle<Worker>);

impl Handler<Flood> for Worker {
    type Result = ();

    fn handle(&mut self, Flood(handle): Flood, _: &mut Self::Context) {
        self.lives.handled.fetch_add(1, SeqCst);
        let _ = handle.clone().tell(Flood(handle)); // `Down` when the test is over
    }
}

/// Blocked threads are falls like others: they spend the same budget.
#[actix::test]
async fn a_post_whose_threads_block_too_often_rests_or_ends_the_process() {
    let (lives, mut supervisor) = (Arc::default(), supervisor());
    let spare: Handle<Worker> = supervisor.post(row("fragile-spare"), "", worker(&lives));
    assert!(soon("first", spare.ask(Add)).await.is_ok());
    assert_eq!(spare.tell(BlockFor(MS(2_500))), Ok(()));
    until("it is down", || seat(&supervisor, "fragile-spare").state == State::Down).await;
    assert_eq!(soon("refused", spare.ask(Add)).await, Err(Fallen::Down("fragile-spare".into())));
    until("it is back on a new thread", || seat(&supervisor, "fragile-spare").state == State::Running).await;
    assert_eq!(soon("again", spare.ask(Add)).await, Ok(1));
    let view = seat(&supervisor, "fragile-spare");
    assert_eq!((view.falls, view.escalations, view.replaced), (1, 1, 1));

    let vital: Handle<Worker> = supervisor.post(row("fragile"), "", worker(&lives));
    assert!(soon("first", vital.ask(Add)).await.is_ok());
    assert_eq!(vital.tell(BlockFor(MS(2_500))), Ok(()));
    let end = soon("the end", supervisor.run_until_end()).await;
    let End::Escalated { post, reason: Reason::Blocked { during, .. } } = end else { panic!("{end}") };
    assert_eq!((post.as_str(), during), ("fragile", Some("BlockFor")));
}
