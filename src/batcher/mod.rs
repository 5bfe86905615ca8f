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
//!   taken apart, and the offer that does it is refused for good (promise P8).

mod gather;

pub use gather::Part;

use crate::base::{Clock, Dice, Stamp};
use crate::spool::crew::{Commit, SpoolWriter};
use crate::spool::{CommitError, NewBlock};
use crate::supervise::{Drain, Fallen, Handle};
use crate::supervised;
use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseFuture, WrapFuture as _,
};
use gather::{Draft, Gathered};
use std::cell::Cell;
use std::time::Duration;
use tokio::sync::oneshot;

/// So many bytes gathered are made into blocks while the sync before them is still running: compression and the disk
/// then work side by side.
const EAGER: usize = 256 << 10;

/// Tries of one commit whose answer does not come.
const TRIES: u32 = 2;

/// How long one try may take. A card that syncs for longer is waited for by the watchdog's patience, not ours: the
/// outcome is unknown then and the client is asked to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why an offer was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Ask the client to come back: the spool is full, busy or being mended.
    #[error("{0}")]
    Later(String),
    /// No retry can help this offer.
    #[error("{0}")]
    Never(String),
}

impl From<&CommitError> for OfferError {
    fn from(e: &CommitError) -> OfferError {
        match e {
            CommitError::Full { .. } | CommitError::Unavailable(_) => OfferError::Later(e.to_string()),
            CommitError::TooLarge { .. } => OfferError::Never(e.to_string()),
        }
    }
}

/// Keep this request: one part per lane it goes to, all or none.
///
/// Receivers → [`Batcher`]. `Ok` means stable storage (or, with a memory store, memory).
#[derive(Debug, Message)]
#[rtype(result = "Result<(), OfferError>")]
pub struct Offer(pub Vec<Part>);

/// See the module.
#[derive(Debug)]
pub struct Batcher {
    writer: Handle<SpoolWriter>,
    clock: Clock,
    dice: Dice,
    gathered: Gathered,
    /// Compressed already, waiting for the writer.
    ready: Vec<(NewBlock, Draft)>,
    under_way: bool,
    /// `commit_interval`: least time from the beginning of one commit to the next.
    interval: Duration,
    /// When the last one began, and whether somebody will wake us when the interval is over.
    began: Option<Stamp>,
    rests: bool,
    /// Somebody drains us and waits for the last answer.
    drained: Vec<oneshot::Sender<()>>,
}

impl Batcher {
    /// For the factory.
    #[must_use]
    pub fn new(writer: Handle<SpoolWriter>, clock: Clock, interval: Duration) -> Batcher {
        Batcher {
            writer,
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
        let left = self.interval.saturating_sub(since);
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
        ctx.spawn(commit.into_actor(self).map(|(), batcher, ctx| {
            batcher.under_way = false;
            batcher.go_on(ctx);
        }));
    }
}

/// Brings one commit to its end and answers every offer in it.
async fn carry(writer: Handle<SpoolWriter>, blocks: Vec<NewBlock>, drafts: Vec<Draft>, mut dice: Dice) {
    let (outcome, drafts) = commit(&writer, blocks, drafts).await;
    match outcome {
        Ok(Ok(())) => Draft::answer_all(drafts, &Ok(())),
        Ok(Err(error)) => Draft::answer_all(drafts, &Err((&error).into())),
        Err(fallen) => {
            tracing::error!(%fallen, blocks = drafts.len(), "commit has no answer; its offers are tried one by one");
            for alone in Draft::take_apart(drafts, || dice.id128()) {
                let (outcome, alone) = commit(&writer, Vec::new(), alone).await;
                let answer = match outcome {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err((&error).into()),
                    Err(Fallen::Down(_) | Fallen::Late(_)) => {
                        Err(OfferError::Later("the spool's writer is down".into()))
                    }
                    Err(Fallen::Unanswered(_)) => {
                        Err(OfferError::Never("the spool's writer fell over this request every time".into()))
                    }
                };
                Draft::answer_all(alone, &answer);
            }
        }
    }
}

type Outcome = Result<Result<(), CommitError>, Fallen>;

/// One commit, tried again under the same ids while its outcome is unknown. The first try takes `blocks`; later ones
/// are made anew, since a block belongs to whoever has it.
async fn commit(writer: &Handle<SpoolWriter>, blocks: Vec<NewBlock>, drafts: Vec<Draft>) -> (Outcome, Vec<Draft>) {
    let first = Cell::new(Some(blocks).filter(|b| !b.is_empty()));
    let make = || Commit(first.take().unwrap_or_else(|| drafts.iter().map(Draft::block).collect()));
    let outcome = writer.ask_again(TRIES, PATIENCE, make).await;
    (outcome, drafts)
}

impl Actor for Batcher {
    type Context = Context<Self>;
}
supervised!(Batcher, drain: own);

impl Handler<Offer> for Batcher {
    type Result = ResponseFuture<Result<(), OfferError>>;

    fn handle(&mut self, Offer(parts): Offer, ctx: &mut Self::Context) -> Self::Result {
        let answer = self.gathered.add(parts);
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
