//! The ordered stop: stage by stage, bounded, and through a fall.

use crate::toys::*;
use actix::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tfo_otel_agent::supervise::{Drain, Handle, Line, Sabotage, Stage, State};
use tfo_otel_agent::supervised;

type Story = Arc<Mutex<Vec<String>>>;

/// Holds what it was given until it is drained; then it hands it on.
struct Holder {
    name: &'static str,
    held: Vec<u32>,
    next: Option<Line<Keep>>,
    story: Story,
    falls_while_draining: Arc<AtomicUsize>,
}

supervised!(Holder, drain: own, let_go: Self::close);

impl Actor for Holder {
    type Context = Context<Holder>;
}

impl Holder {
    fn tell(&self, what: &str) {
        self.story.lock().expect("not poisoned").push(format!("{} {what}", self.name));
    }

    fn close(&mut self) {
        self.tell("lets go");
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Keep(u32);

impl Handler<Keep> for Holder {
    type Result = ();

    fn handle(&mut self, Keep(n): Keep, _: &mut Self::Context) {
        self.held.push(n);
        self.tell(&format!("keeps {n}"));
    }
}

impl Handler<Drain> for Holder {
    type Result = ResponseActFuture<Holder, ()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        self.tell("drains");
        let falls = &self.falls_while_draining;
        assert!(falls.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_err(), "falls while it drains");
        let (next, held) = (self.next.clone(), std::mem::take(&mut self.held));
        let handing_on = async move {
            for n in held {
                if let Some(next) = &next {
                    next.ask(Keep(n)).await.expect("the next stage is still there");
                }
            }
        };
        Box::pin(handing_on.into_actor(self).map(|(), holder, _| holder.tell("is drained")))
    }
}

fn holder(
    name: &'static str,
    story: &Story,
    next: Option<Line<Keep>>,
    falls: usize,
) -> impl Fn() -> Holder + Send + Sync + 'static {
    let (story, falls) = (story.clone(), Arc::new(AtomicUsize::new(falls)));
    move || {
        let (next, story, falls_while_draining) = (next.clone(), story.clone(), falls.clone());
        Holder { name, held: Vec::new(), next, story, falls_while_draining }
    }
}

/// Goal: a later stage is drained after an earlier one has handed on to it.
#[actix::test]
async fn stages_are_drained_in_order_and_a_later_stage_still_works_for_an_earlier_one() {
    let (story, supervisor) = (Story::default(), supervisor());
    let spool = supervisor.post(row("spare"), "", holder("spool", &story, None, 0));
    let batcher = supervisor.post(row("main"), "", holder("batcher", &story, Some(spool.line()), 0));
    for n in 1..=2 {
        assert_eq!(soon("kept", batcher.ask(Keep(n))).await, Ok(()));
    }
    let drained = soon("drained", supervisor.drain(Duration::from_secs(10))).await;
    assert_eq!(
        *story.lock().expect("not poisoned"),
        [
            "batcher keeps 1",
            "batcher keeps 2",
            "batcher drains",
            "spool keeps 1",
            "spool keeps 2",
            "batcher is drained",
            "spool drains",
            "spool is drained",
        ]
    );
    let stages: Vec<_> = drained.stages.iter().map(|(stage, done)| (*stage, done.join(" "))).collect();
    assert_eq!(stages, [(Stage(1), "main".into()), (Stage(2), "spare".into()), (Stage(3), String::new())]);
    assert_eq!(drained.missed, []);
    assert!(supervisor.watch().seats.iter().all(|seat| seat.state == State::Drained));
}

#[actix::test]
async fn who_does_not_drain_in_time_or_is_down_is_left_behind_and_named() {
    let (story, supervisor) = (Story::default(), supervisor());
    let lost = Line::new(|_: Keep| std::future::pending());
    let stuck: Handle<Holder> = supervisor.post(row("strict"), "", holder("stuck", &story, Some(lost), 0));
    assert_eq!(soon("kept", stuck.ask(Keep(1))).await, Ok(()));
    let _: Handle<Holder> = supervisor.post(row("main"), "", holder("fine", &story, None, 0));
    let _: Handle<Holder> = supervisor.post(row("spare"), "", holder("down", &story, None, usize::MAX));
    let drained = soon("drained", supervisor.drain(MS(1_500))).await;
    assert_eq!(drained.stages[0], (Stage(1), vec!["main".to_owned()]));
    let missed: Vec<_> = drained.missed.iter().map(|(post, why)| format!("{post}: {why}")).collect();
    assert_eq!(missed, ["strict: no answer within 1.5s", "spare: `spare` is down"]);
    assert_eq!(falls(&supervisor, "strict"), 0, "a long drain is not a hang");
}

#[actix::test]
async fn a_post_that_falls_while_it_drains_is_asked_again() {
    let (story, supervisor) = (Story::default(), supervisor());
    let _: Handle<Holder> = supervisor.post(row("own"), "", holder("own", &story, None, 2));
    let drained = soon("drained", supervisor.drain(Duration::from_secs(10))).await;
    assert_eq!(drained.missed, []);
    assert_eq!((falls(&supervisor, "own"), seat(&supervisor, "own").state), (2, State::Drained));
    let story = story.lock().expect("not poisoned").join(", ");
    assert_eq!(story, "own drains, own lets go, own drains, own lets go, own drains, own is drained");
}

/// A post between fall and rebuilding is drained when it is back.
#[actix::test]
async fn a_pausing_post_is_drained_after_its_pause_by_the_default_drain() {
    let (lives, supervisor) = (Arc::default(), supervisor());
    let handle: Handle<Worker> = supervisor.post(row("own"), "", worker(&lives));
    assert!(soon("first", handle.ask(Add)).await.is_ok());
    assert!(supervisor.lookout().sabotage("own", Sabotage::PanicInHandler));
    until("it fell", || falls(&supervisor, "own") == 1).await;
    let drained = soon("drained", supervisor.drain(Duration::from_secs(10))).await;
    assert_eq!(drained.missed, []);
}
