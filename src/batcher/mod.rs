//! The batcher: group commit in front of the disk.
//!
//! ```text
//! receivers ── Offer ──▶ gathered ──┐ while one commit is under way, what arrives gathers
//!     ▲                             ▼
//!     └──── committed ────── one Commit: a block per lane and 1 MiB, all or none ──▶ spool writer
//! ```
//!
//! Nobody waits for a timer (but for `commit_interval`, where flash must live long): with nothing under way an offer goes at once; with a sync under way everything that came
//! meanwhile goes with the next one (architecture §4, "Commit window").
//!
//! What always holds:
//! * An offer is answered `Ok` only after the commit that holds all its parts was.
//! * All parts of one offer go with one commit.
//! * A commit without an answer is offered again with the same block ids; one that fells the writer every time is
//!   taken apart, and the offer that does it is refused for good (promise P8). So is one with a block that is too large.

pub mod budget;
mod gather;
#[cfg(test)]
mod tests;

pub use gather::Part;

use crate::base::{Clock, Dice, Stamp, Swap};
use crate::otlp::Caller;
use crate::spool::crew::Commit;
use crate::spool::{CommitError, NewBlock};
use crate::supervise::{Drain, Fallen, Line};
use crate::supervised;
use crate::telemetry::health::Health;
use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseFuture, WrapFuture as _,
};
use budget::Charge;
use gather::{Draft, Gathered};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::oneshot;

/// So many bytes gathered are made into blocks while the sync before them is still running: compression and the disk
/// then work side by side.
const EAGER: usize = 256 << 10;

/// Tries of one commit whose answer does not come.
const TRIES: u32 = 2;

/// A commit that is out for so long is a stall of the disk: what comes meanwhile is refused at once, and health says so
/// (architecture §5, "Slow disks"). The commit itself is waited for as long as the watchdog waits for the writer: to
/// offer it again meanwhile would only put it twice into the writer's mailbox.
const STALL: Duration = Duration::from_secs(5);

/// Why an offer was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Ask the client to come back: the spool is full, busy or being mended.
    #[error("{0}")]
    Later(String),
    /// No retry can help this offer: it is larger than what is kept.
    #[error("{0}")]
    TooLarge(String),
    /// No retry can help this offer: it makes the writer fall.
    #[error("{0}")]
    Never(String),
}

impl From<&CommitError> for OfferError {
    fn from(e: &CommitError) -> OfferError {
        match e {
            CommitError::Full { .. } | CommitError::Unavailable(_) => OfferError::Later(e.to_string()),
            CommitError::TooLarge { .. } => OfferError::TooLarge(e.to_string()),
        }
    }
}

/// Keep this request: one part per lane it goes to, all or none.
///
/// Receivers → [`Batcher`]. `Ok` means stable storage (or, with a memory store, memory).
#[derive(Debug, Message)]
#[rtype(result = "Result<(), OfferError>")]
pub struct Offer {
    /// What.
    pub parts: Vec<Part>,
    /// The bytes they are charged with, for as long as anybody holds them.
    pub charge: Arc<Charge>,
    /// Who sent it, where somebody may ask; for `metadata_keys`.
    pub caller: Option<Arc<Caller>>,
}

/// See the module.
#[derive(Debug)]
pub struct Batcher {
    writer: Line<Commit>,
    /// Whom a stall is told about, under the store's name.
    health: Health,
    store: Arc<str>,
    /// A commit has been out for longer than [`STALL`].
    stalled: Arc<AtomicBool>,
    clock: Clock,
    dice: Dice,
    gathered: Gathered,
    /// Compressed already, waiting for the writer.
    ready: Vec<(NewBlock, Draft)>,
    under_way: bool,
    /// `commit_interval`: least time from the beginning of one commit to the next.
    interval: Arc<Swap<Duration>>,
    /// When the last one began, and whether somebody will wake us when the interval is over.
    began: Option<Stamp>,
    rests: bool,
    /// Somebody drains us and waits for the last answer.
    drained: Vec<oneshot::Sender<()>>,
}

impl Batcher {
    /// For the factory. `store` names it in health.
    #[must_use]
    pub fn new(
        writer: Line<Commit>,
        store: &str,
        health: Health,
        clock: Clock,
        interval: Arc<Swap<Duration>>,
    ) -> Batcher {
        Batcher {
            writer,
            health,
            store: format!("spool-writer/{store}").into(),
            stalled: Arc::default(),
            clock,
            dice: Dice::shaken(),
            gathered: Gathered::default(),
            ready: Vec::new(),
            under_way: false,
            interval,
            began: None,
            rests: false,
            drained: Vec::new(),
        }
    }

    /// Makes blocks of what is gathered.
    fn draw_up(&mut self) {
        for draft in self.gathered.take() {
            let draft = draft.named(self.dice.id128(), self.clock.now());
            self.ready.push((draft.block(), draft));
        }
    }

    /// Whether `commit_interval` has not passed yet; somebody wakes us then. A drain does not wait for it.
    fn is_resting(&mut self, ctx: &mut Context<Self>) -> bool {
        let since = self.began.map_or(Duration::MAX, |began| self.clock.now().since(began));
        let left = self.interval.get().saturating_sub(since);
        if left.is_zero() || !self.drained.is_empty() {
            return false;
        }
        if !self.rests {
            self.rests = true;
            ctx.run_later(left, |batcher, ctx| {
                batcher.rests = false;
                batcher.go_on(ctx);
            });
        }
        true
    }

    /// Sends a commit if none is under way and something waits.
    fn go_on(&mut self, ctx: &mut Context<Self>) {
        if self.under_way || self.is_resting(ctx) {
            if self.gathered.bytes() >= EAGER {
                self.draw_up();
            }
            return;
        }
        self.draw_up();
        if self.ready.is_empty() {
            for done in self.drained.drain(..) {
                let _ = done.send(()); // whoever drained us may have stopped waiting
            }
            return;
        }
        self.under_way = true;
        self.began = Some(self.clock.now());
        let (blocks, drafts): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ready).into_iter().unzip();
        let commit = carry(self.writer.clone(), blocks, drafts, Dice::seeded(self.dice.u64()));
        let stall = Stall { stalled: self.stalled.clone(), health: self.health.clone(), store: self.store.clone() };
        ctx.spawn(watched(commit, stall).into_actor(self).map(|(), batcher, ctx| {
            batcher.under_way = false;
            batcher.go_on(ctx);
        }));
    }
}

/// Says that the disk stalls, and, however it ends, that it does no longer.
struct Stall {
    stalled: Arc<AtomicBool>,
    health: Health,
    store: Arc<str>,
}

impl Stall {
    fn begin(&self) {
        self.stalled.store(true, Relaxed);
        tracing::warn!(post = %self.store, "A commit takes longer than 5 s. Refusing data until it ends.");
        self.health.degraded(&self.store, "a commit takes longer than 5 s; data is refused until it ends");
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        if self.stalled.swap(false, Relaxed) {
            tracing::info!(post = %self.store, "The commit has ended. Resuming normal operation.");
            self.health.recovered(&self.store);
        }
    }
}

async fn watched(commit: impl Future<Output = ()>, stall: Stall) {
    let mut commit = std::pin::pin!(commit);
    if tokio::time::timeout(STALL, &mut commit).await.is_err() {
        stall.begin();
        commit.await;
    }
}

/// Brings one commit to its end and answers every offer in it.
async fn carry(writer: Line<Commit>, blocks: Vec<NewBlock>, drafts: Vec<Draft>, mut dice: Dice) {
    let (outcome, drafts) = commit(&writer, blocks, drafts).await;
    match outcome {
        Ok(Ok(())) => Draft::answer_all(drafts, &Ok(())),
        Ok(Err(error @ CommitError::TooLarge { .. })) => {
            // One block of them is; who happens to go with it is not to blame.
            let offers = Draft::take_apart(drafts, || dice.id128());
            match <[_; 1]>::try_from(offers) {
                Ok([alone]) => Draft::answer_all(alone, &Err((&error).into())),
                Err(offers) => one_by_one(&writer, offers).await,
            }
        }
        Ok(Err(error)) => Draft::answer_all(drafts, &Err((&error).into())),
        Err(Fallen::Down(_) | Fallen::Late(_)) => Draft::answer_all(drafts, &Err(down())),
        Err(fallen @ Fallen::Unanswered(_)) => {
            tracing::error!(%fallen, blocks = drafts.len(), "commit has no answer; its offers are tried one by one");
            one_by_one(&writer, Draft::take_apart(drafts, || dice.id128())).await;
        }
    }
}

/// Each offer in a commit of its own, answered for itself.
async fn one_by_one(writer: &Line<Commit>, offers: Vec<Vec<Draft>>) {
    for alone in offers {
        let (outcome, alone) = commit(writer, Vec::new(), alone).await;
        let answer = match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err((&error).into()),
            Err(Fallen::Down(_) | Fallen::Late(_)) => Err(down()),
            Err(Fallen::Unanswered(_)) => {
                Err(OfferError::Never("the spool's writer fell over this request every time".into()))
            }
        };
        Draft::answer_all(alone, &answer);
    }
}

fn down() -> OfferError {
    OfferError::Later("the spool's writer is down".into())
}

type Outcome = Result<Result<(), CommitError>, Fallen>;

/// One commit, tried again under the same ids while its outcome is unknown. The first try takes `blocks`; later ones
/// are made anew, since a block belongs to whoever has it.
async fn commit(writer: &Line<Commit>, blocks: Vec<NewBlock>, drafts: Vec<Draft>) -> (Outcome, Vec<Draft>) {
    let first = Cell::new(Some(blocks).filter(|b| !b.is_empty()));
    let make = || Commit(first.take().unwrap_or_else(|| drafts.iter().map(Draft::block).collect()));
    let mut outcome = writer.ask(make()).await;
    for _ in 1..TRIES {
        if !matches!(outcome, Err(Fallen::Unanswered(_) | Fallen::Late(_))) {
            break;
        }
        outcome = writer.ask(make()).await;
    }
    (outcome, drafts)
}

impl Actor for Batcher {
    type Context = Context<Self>;
}
supervised!(Batcher, drain: own);

impl Handler<Offer> for Batcher {
    type Result = ResponseFuture<Result<(), OfferError>>;

    fn handle(&mut self, Offer { parts, charge, .. }: Offer, ctx: &mut Self::Context) -> Self::Result {
        if self.stalled.load(Relaxed) {
            return Box::pin(async { Err(OfferError::Later("the disk takes too long".into())) });
        }
        let answer = self.gathered.add(parts, charge);
        self.go_on(ctx);
        Box::pin(async move {
            // Dropped unanswered: this batcher fell with the offer in hand. The outcome is unknown, so the client
            // is asked to come back.
            answer.await.unwrap_or_else(|_| Err(OfferError::Later("the batcher fell".into())))
        })
    }
}

impl Handler<Drain> for Batcher {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) -> Self::Result {
        let (done, drained) = oneshot::channel();
        self.drained.push(done);
        self.go_on(ctx);
        Box::pin(async move { drop(drained.await) })
    }
}
