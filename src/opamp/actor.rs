//! The actor: says what is due, when it is due, keeps the uid's file, and says good-bye. Nobody waits for it but the stop, for a
//! moment, when all data is safe.

use super::desk::Desk;
use super::line::{Line, Lines};
use super::talk::Do;
use crate::registrar::actor::Locate;
use crate::supervise::Drain;
use crate::supervised;
use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, SpawnHandle, WrapFuture as _,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long the machine may think about where it is.
const LOCATE: Duration = Duration::from_secs(10);
/// Between two tries to write the uid: a full disk is left alone.
const KEEP_AGAIN: Duration = Duration::from_secs(600);
/// How long a stop waits for the server to take leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// See the module.
pub struct Messenger {
    desk: Arc<Desk>,
    line: Arc<dyn Line>,
    locate: Locate,
    /// The next time something is due.
    wake: Option<SpawnHandle>,
    /// Something is being said, or looked up to be said.
    saying: Option<SpawnHandle>,
    is_keeping: bool,
    keep_after: Instant,
    /// The end has begun: nothing new is said.
    is_closed: bool,
}

impl Messenger {
    /// For the factory: a new life that knows what the desk knows.
    #[must_use]
    pub fn new(desk: Arc<Desk>, lines: &Lines, locate: Locate) -> Messenger {
        Messenger {
            desk,
            line: lines(),
            locate,
            wake: None,
            saying: None,
            is_keeping: false,
            keep_after: Instant::now(),
            is_closed: false,
        }
    }

    fn step(&mut self, ctx: &mut Context<Self>) {
        if let Some(wake) = self.wake.take() {
            ctx.cancel_future(wake);
        }
        self.keep(ctx);
        if self.saying.is_some() || self.is_closed {
            return;
        }
        match self.desk.next() {
            Do::Say => self.say(ctx),
            Do::Rest(until) => {
                let rest = until.saturating_duration_since(Instant::now());
                self.wake = Some(ctx.run_later(rest, Self::step));
            }
            // Of a life that fell while it was saying something: its end gives the word back.
            Do::Await => self.wake = Some(ctx.run_later(Duration::from_secs(1), Self::step)),
        }
    }

    fn say(&mut self, ctx: &mut Context<Self>) {
        let (desk, line, locate) = (self.desk.clone(), self.line.clone(), self.locate.clone());
        let said = async move {
            if let Ok(Ok(place)) = timeout(LOCATE, actix_rt::task::spawn_blocking(move || locate())).await {
                desk.locate(place);
            }
            desk.say(&*line).await;
        };
        self.saying = Some(ctx.spawn(said.into_actor(self).map(|(), messenger, ctx| {
            messenger.saying = None;
            messenger.step(ctx);
        })));
    }

    /// Writes the uid when there is something to write; the disk may stand still, and nobody waits for it.
    fn keep(&mut self, ctx: &mut Context<Self>) {
        let is_time = !self.is_keeping && Instant::now() >= self.keep_after;
        let Some((file, record)) = self.desk.to_keep().filter(|_| is_time) else { return };
        self.is_keeping = true;
        let desk = self.desk.clone();
        let kept = async move {
            let written = record.clone();
            let outcome = match actix_rt::task::spawn_blocking(move || written.keep(&file)).await {
                Ok(outcome) => outcome,
                Err(error) => Err(std::io::Error::other(error)),
            };
            desk.kept(&record, &outcome);
            outcome.is_ok()
        };
        ctx.spawn(kept.into_actor(self).map(|is_kept, messenger, _| {
            messenger.is_keeping = false;
            if !is_kept {
                messenger.keep_after = Instant::now() + KEEP_AGAIN;
            }
        }));
    }

    /// What the server says without being asked.
    fn hear(&mut self, ctx: &mut Context<Self>) {
        let said = self.line.pushed();
        ctx.spawn(said.into_actor(self).map(|answer, messenger, ctx| {
            messenger.desk.pushed(&answer);
            messenger.hear(ctx);
            messenger.step(ctx);
        }));
    }

    fn listen<T: 'static>(&mut self, mut changing: watch::Receiver<T>, ctx: &mut Context<Self>) {
        let heard = async move { changing.changed().await.map(|()| changing) };
        ctx.spawn(heard.into_actor(self).map(|heard, messenger, ctx| {
            // An error: the agent is gone, and we with it.
            if let Ok(changing) = heard {
                messenger.listen(changing, ctx);
                messenger.desk.changed();
                messenger.step(ctx);
            }
        }));
    }
}

impl Actor for Messenger {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.listen(self.desk.effective(), ctx);
        if let Some(remote) = self.desk.remote() {
            self.listen(remote, ctx);
        }
        self.hear(ctx);
        self.step(ctx);
    }
}
supervised!(Messenger, drain: own);

impl Handler<Drain> for Messenger {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) -> Self::Result {
        // Asked again by a supervisor that lost the answer, it has been said.
        if std::mem::replace(&mut self.is_closed, true) {
            return Box::pin(std::future::ready(()));
        }
        // What is out may come home or not: the last word counts.
        for handle in [self.wake.take(), self.saying.take()].into_iter().flatten() {
            ctx.cancel_future(handle);
        }
        let (desk, line) = (self.desk.clone(), self.line.clone());
        Box::pin(async move {
            drop(timeout(FAREWELL, desk.part(&*line)).await);
        })
    }
}

impl std::fmt::Debug for Messenger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messenger").field("desk", &self.desk).finish_non_exhaustive()
    }
}
