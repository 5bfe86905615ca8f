//! The actor: says what is due, when it is due, and keeps the identity's file. Nobody waits for it.

use super::letter::Place;
use super::line::{Line, Lines};
use super::office::Office;
use super::standing::{Call, Do};
use crate::supervise::Drain;
use crate::supervised;
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, WrapFuture as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Asks the machine where it is; may block (names are looked up).
pub type Locate = Arc<dyn Fn() -> Place + Send + Sync>;

/// How long the machine may think about where it is: longer than a name server that is asked three times. What was known
/// before is said then.
const LOCATE: Duration = Duration::from_secs(10);
/// Between two tries to write the identity: a full disk is left alone.
const KEEP_AGAIN: Duration = Duration::from_secs(600);

/// See the module.
pub struct Registrar {
    office: Arc<Office>,
    line: Arc<dyn Line>,
    locate: Locate,
    /// The next time something is due.
    wake: Option<SpawnHandle>,
    /// Something is being said, or looked up to be said.
    is_busy: bool,
    is_keeping: bool,
    keep_after: Instant,
    /// The end has begun: nothing new is said.
    is_closed: bool,
}

impl Registrar {
    /// For the factory: a new life that knows what the office knows.
    #[must_use]
    pub fn new(office: Arc<Office>, lines: &Lines, locate: Locate) -> Registrar {
        Registrar {
            office,
            line: lines(),
            locate,
            wake: None,
            is_busy: false,
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
        if self.is_busy || self.is_closed {
            return;
        }
        match self.office.next() {
            Do::Say(call) => self.say(call, ctx),
            Do::Rest(until) => {
                let rest = until.saturating_duration_since(Instant::now());
                self.wake = Some(ctx.run_later(rest, Self::step));
            }
            // The herald is saying something; its end is news.
            Do::Await => {}
        }
    }

    fn say(&mut self, call: Call, ctx: &mut Context<Self>) {
        self.is_busy = true;
        let (office, line, locate) = (self.office.clone(), self.line.clone(), self.locate.clone());
        let said = async move {
            if let Ok(Ok(place)) = timeout(LOCATE, actix_rt::task::spawn_blocking(move || locate())).await {
                office.locate(place);
            }
            office.say(&*line, call).await;
        };
        ctx.spawn(said.into_actor(self).map(|(), registrar, ctx| {
            registrar.is_busy = false;
            registrar.step(ctx);
        }));
    }

    /// Writes the identity when there is something to write; the disk may stand still, and nobody waits for it.
    fn keep(&mut self, ctx: &mut Context<Self>) {
        let is_time = !self.is_keeping && Instant::now() >= self.keep_after;
        let Some((file, record)) = self.office.to_keep().filter(|_| is_time) else { return };
        self.is_keeping = true;
        let office = self.office.clone();
        let kept = async move {
            let written = record.clone();
            let outcome = match actix_rt::task::spawn_blocking(move || written.keep(&file)).await {
                Ok(outcome) => outcome,
                Err(error) => Err(std::io::Error::other(error)),
            };
            office.kept(&record, &outcome);
        };
        ctx.spawn(kept.into_actor(self).map(|(), registrar, _| {
            registrar.is_keeping = false;
            registrar.keep_after = Instant::now() + KEEP_AGAIN;
        }));
    }

    fn listen(&mut self, mut news: watch::Receiver<u64>, ctx: &mut Context<Self>) {
        let heard = async move { news.changed().await.map(|()| news) };
        ctx.spawn(heard.into_actor(self).map(|heard, registrar, ctx| {
            // An error: the office is gone, and we with it.
            if let Ok(news) = heard {
                registrar.listen(news, ctx);
                registrar.step(ctx);
            }
        }));
    }
}

impl Actor for Registrar {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let news = self.office.news();
        self.listen(news, ctx);
        self.step(ctx);
    }
}
supervised!(Registrar, drain: own);

/// What is out may come home or not: nothing of it is worth waiting for.
impl Handler<Drain> for Registrar {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.is_closed = true;
        self.wake.take().map(|wake| ctx.cancel_future(wake));
    }
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar").field("office", &self.office).finish_non_exhaustive()
    }
}
