//! Handles: what is promised to whoever asks.

use crate::toys::*;
use actix::prelude::*;
use std::collections::HashSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tfo_otel_agent::base::Dice;
use tfo_otel_agent::supervise::{Fallen, Handle, Line, Untold};
use tfo_otel_agent::supervised;

/// The actor shares this test's thread, so nothing is handled before the test awaits.
#[actix::test]
async fn a_full_mailbox_refuses_news_and_makes_askers_wait() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let handle: Handle<Worker> = supervisor.post(row("narrow"), "", worker(&lives));
    let clones: Vec<_> = (0..10).map(|_| handle.clone()).collect();
    let told: Vec<_> = clones.iter().map(|handle| handle.tell(Add)).collect();
    let full = || Err(Untold::Full("narrow".into()));
    assert_eq!(told, [Ok(()), Ok(()), full(), full(), full(), full(), full(), full(), full(), full()]);
    assert_eq!((seat(&supervisor, "narrow").waiting, seat(&supervisor, "narrow").mailbox), (2, 2));

    let asked: Vec<_> =
        clones.into_iter().map(|handle| actix_rt::spawn(async move { handle.ask(Add).await })).collect();
    for (n, answer) in asked.into_iter().enumerate() {
        assert!(seat(&supervisor, "narrow").waiting <= 2);
        assert_eq!(soon("an answer", answer).await.expect("lives"), Ok(n + 3), "in the order they asked");
    }
    assert_eq!(seat(&supervisor, "narrow").waiting, 0);
    assert_eq!(handle.tell(Add), Ok(()));
}

#[actix::test]
async fn a_question_that_is_dropped_before_it_is_handled_is_withdrawn_and_frees_its_place() {
    let (lives, supervisor) = (Arc::<Lives>::default(), supervisor());
    let handle = supervisor.post(row("narrow"), "", worker(&lives));
    for _ in 0..10 {
        assert!(futures_util::FutureExt::now_or_never(handle.ask(Add)).is_none(), "it is on its way");
        assert!(futures_util::FutureExt::now_or_never(handle.ask(Add)).is_none(), "so is this");
        assert!(futures_util::FutureExt::now_or_never(handle.ask(Add)).is_none(), "and this waits for a place");
        tokio::time::sleep(MS(5)).await;
    }
    assert_eq!(soon("answer", handle.ask(Add)).await, Ok(1), "none of the thirty was handled");
}

#[actix::test]
async fn asking_again_is_bounded_in_tries_and_in_time() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let handle: Handle<Worker> = supervisor.post(row("tireless-main"), "", worker(&lives));
    let poison = soon("poison", handle.ask_again(3, MS(9_000), || Blow(Bomb::Handler))).await;
    assert_eq!(poison, Err(Fallen::Unanswered("tireless-main".into())));
    until_running(&supervisor, "tireless-main", 3).await;
    assert_eq!(falls(&supervisor, "tireless-main"), 3, "one per try");
    let late = soon("late", handle.ask_again(2, MS(50), || Slowly(Duration::from_secs(60)))).await;
    assert_eq!(late, Err(Fallen::Late("tireless-main".into())));
    assert_eq!(soon("in time", handle.ask_again(1, MS(9_000), || Slowly(MS(5)))).await, Ok(7));
}

#[actix::test]
async fn a_line_carries_one_kind_of_message_to_a_post_or_to_a_test() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let handle: Handle<Worker> = supervisor.post(row("own"), "", worker(&lives));
    let (real, fake) = (handle.line::<Add>(), Line::new(|_: Add| async { Err(Fallen::Down("nobody".into())) }));
    assert_eq!(soon("answer", real.clone().ask(Add)).await, Ok(1));
    assert_eq!(fake.ask(Add).await, Err(Fallen::Down("nobody".into())));
    assert_eq!((handle.name(), format!("{real:?}").as_str()), ("own", "Line(\"Add\")"));
}

#[test]
fn handles_and_lines_may_cross_threads() {
    fn crosses<T: Send + Sync + Clone + 'static>() {}
    crosses::<Handle<Worker>>();
    crosses::<Line<Add>>();
    crosses::<tfo_otel_agent::supervise::Lookout>();
}

// --- a writer like the spool's

/// Writes numbers to a file: the answer means that it is on the disk. Crashes by the dice, before or after.
struct Writer {
    file: std::fs::File,
    dice: Arc<Mutex<Dice>>,
}

supervised!(Writer);

impl Actor for Writer {
    type Context = Context<Writer>;
}

#[derive(Message)]
#[rtype(result = "u64")]
struct Put(u64);

impl Handler<Put> for Writer {
    type Result = u64;

    fn handle(&mut self, Put(n): Put, ctx: &mut Self::Context) -> u64 {
        let throw = self.dice.lock().map_or(0, |mut dice| dice.within(0..100));
        assert!(throw != 1, "before the write of {n}");
        if throw == 2 {
            ctx.spawn(async { panic!("beside the write") }.into_actor(self));
        }
        self.file.write_all(&n.to_le_bytes()).expect("the disk of the test has room");
        assert!(throw != 3, "after the write of {n}");
        n
    }
}

/// Goal: among crashes every question ends, and an answer is never a lie.
/// Method: eight askers put 500 numbers each, one try at a time; four crashes in a hundred, before, beside and
/// after the write; then the file is read back.
#[actix::test]
async fn of_4000_questions_among_crashes_each_is_answered_or_fallen_and_no_answer_is_lost() {
    let seed = Dice::shaken().seed();
    println!("seed {seed}");
    let (dice, directory) = (Arc::new(Mutex::new(Dice::seeded(seed))), tempfile::tempdir().expect("a directory"));
    let path = directory.path().join("numbers");
    for post in ["tireless", "tireless-main"] {
        let supervisor = supervisor();
        let (path_there, dice) = (path.clone(), dice.clone());
        let writer = supervisor.post(row(post), "", move || {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(&path_there);
            Writer { file: file.expect("the directory is there"), dice: dice.clone() }
        });
        let fallen = Arc::new(AtomicU64::new(0));
        let askers: Vec<_> = (0..8_u64)
            .map(|asker| {
                let (writer, fallen) = (writer.clone(), fallen.clone());
                actix_rt::spawn(async move {
                    let mut answered = Vec::new();
                    for n in asker * 1_000..asker * 1_000 + 500 {
                        match writer.ask(Put(n)).await {
                            Ok(stored) => answered.push(stored),
                            Err(_) => drop(fallen.fetch_add(1, SeqCst)),
                        }
                    }
                    answered
                })
            })
            .collect();
        let mut answered = Vec::new();
        for asker in askers {
            answered.extend(tokio::time::timeout(Duration::from_secs(120), asker).await.expect("ends").expect("lives"));
        }
        let bytes = std::fs::read(&path).expect("it was written");
        let stored: HashSet<u64> =
            bytes.chunks_exact(8).map(|n| u64::from_le_bytes(n.try_into().expect("eight bytes"))).collect();
        let (fallen, falls) = (fallen.load(SeqCst), falls(&supervisor, post));
        println!("{post}: {} answered, {fallen} fallen, {falls} falls", answered.len());
        assert_eq!(answered.len() as u64 + fallen, 4_000);
        assert!(answered.iter().all(|n| stored.contains(n)), "an answered number is in the file");
        assert!(falls > 60 && fallen > 30 && fallen <= falls, "it crashed, and a crash costs at most one answer");
        std::fs::remove_file(&path).expect("it was there");
    }
}

/// As above, but the askers ask again, as the batcher does: then everything is stored.
#[actix::test]
async fn who_asks_again_gets_everything_stored() {
    let dice = Arc::new(Mutex::new(Dice::seeded(7)));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("numbers");
    let (supervisor, path_there) = (supervisor(), path.clone());
    let writer = supervisor.post(row("tireless"), "", move || {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path_there);
        Writer { file: file.expect("the directory is there"), dice: dice.clone() }
    });
    for n in 0..1_000 {
        let answer = soon("an answer", writer.ask_again(10, MS(15_000), || Put(n))).await;
        assert_eq!(answer, Ok(n));
    }
    assert!(falls(&supervisor, "tireless") > 10, "it did crash");
    assert!(std::fs::read(&path).expect("written").len() >= 8_000);
}
