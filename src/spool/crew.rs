//! The spool's actors: each owns a thread, because the disk blocks.
//!
//! ```text
//! batcher ── Commit ──▶ SpoolWriter ─┐
//! uplink ─── Settle ──▶              ├──▶ Spool (one, shared)
//! uplink ─── LeaseNext ▶ SpoolReader ┤
//!            (timer) ─▶  SpoolKeeper ┘     seals, deletes, copies, makes spare segments
//! ```
//!
//! They hold no state of their own but what they said last: a fall costs the answer of one message, and the spool knows what it did.

use super::store::Spool;
use super::{CommitError, Cut, Lane, Lease, LeaseError, Loss, NewBlock, Owner, Pick, Settlement, Store as _};
use crate::supervise::{Drain, beat};
use crate::supervised;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Histogram;
use actix::{Actor, AsyncContext as _, Context, Handler, Message, WrapFuture as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A start answers its first client before it keeps house, which makes a segment, with as many syncs as that answer takes, and asks what
/// each segment of the backlog occupies (promise P5). Where nobody comes it waits no longer than this.
const FIRST: Duration = Duration::from_millis(250);
/// A pause between two rounds of housekeeping, so that a busy spool is looked after a few times a second.
const ROUND: Duration = Duration::from_millis(100);
/// The pause after a round that found nothing to do while there is space: at a gateway's rate nearly all of them.
const REST: Duration = Duration::from_millis(500);
/// Housekeeping that waits for time to pass (sealing, the idle segment) is looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// While nothing can be kept it is tried so often whether that has changed: health must not wait for the next client.
const AGAIN: Duration = Duration::from_secs(1);

/// Keep these blocks safe.
///
/// `Batcher` → [`SpoolWriter`]. `Ok` is sent after stable storage has all of them, never before. On `Err` nothing was
/// kept; the sender still owns the data. No answer (the writer fell) means unknown: offer the same ids again.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), CommitError>")]
pub struct Commit(pub Vec<NewBlock>);

/// This became of these uploads.
///
/// `Uplink` → [`SpoolWriter`]. On an error the parts count as still out.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), LeaseError>")]
pub struct Settle(pub Vec<Settlement>);

/// What is this exporter's far end to be told? Synced before it is answered.
///
/// `Uplink` → [`SpoolWriter`].
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<Loss>, LeaseError>")]
pub struct ToTell(pub Owner);

/// The far end of this exporter has acknowledged to know of these losses.
///
/// `Uplink` → [`SpoolWriter`]. Should the answer get lost, they are told once more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct NoteTold {
    /// Whose far end.
    pub owner: Owner,
    /// Of what.
    pub losses: Vec<Loss>,
}

/// What is next in this lane?
///
/// `Uplink` → [`SpoolReader`]. `None`: nothing waits. A lease whose answer is lost comes back when the owner changes.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Option<Lease>, LeaseError>")]
pub struct LeaseNext {
    /// Who asks.
    pub owner: Owner,
    /// Of which lane.
    pub lane: Lane,
    /// How a new window is to be cut.
    pub cut: Cut,
    /// Which of what waits.
    pub pick: Pick,
}

/// Says how a store's disk is, in health and in the log: when that changes, and again when the reason does.
#[derive(Debug, Clone)]
pub struct Witness {
    health: Health,
    store: Arc<str>,
    said: Arc<Mutex<Said>>,
}

/// What was said last, of keeping data and of keeping house.
#[derive(Debug, Default)]
struct Said {
    keeps: Option<String>,
    house: Option<String>,
}

impl Witness {
    /// `store` is the component in health; of housekeeping `spool-keeper/<store>` is.
    #[must_use]
    pub fn new(health: Health, store: &str) -> Witness {
        Witness { health, store: store.into(), said: Arc::default() }
    }

    /// Whether data is kept now, and why not.
    fn keeps(&self, trouble: Option<String>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.keeps == trouble {
            return;
        }
        match &trouble {
            Some(why) => {
                tracing::error!(storage = %self.store, %why, "Data cannot be kept. Clients are asked to come back.");
                self.health
                    .degraded(&self.store, &format!("data cannot be kept, clients are asked to come back: {why}"));
            }
            None => {
                tracing::info!(storage = %self.store, "Data is kept again.");
                self.health.recovered(&self.store);
            }
        }
        said.keeps = trouble;
    }

    /// Whether the last round of housekeeping failed, and why.
    fn house(&self, trouble: Option<String>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.house == trouble {
            return;
        }
        let post = format!("spool-keeper/{}", self.store);
        match &trouble {
            Some(why) => {
                tracing::warn!(post, %why, "Spool housekeeping failed and is tried again.");
                self.health.degraded(&post, &format!("housekeeping failed and is tried again: {why}"));
            }
            None => {
                tracing::info!(post, "Spool housekeeping works again.");
                self.health.recovered(&post);
            }
        }
        said.house = trouble;
    }
}

/// Writes. Vital: without it nothing can be acknowledged.
#[derive(Debug)]
pub struct SpoolWriter {
    /// The spool.
    pub spool: Arc<Spool>,
    /// Told how long each commit took, fdatasync included, in seconds.
    pub commits: Histogram,
    /// Told how each went.
    pub witness: Witness,
}

impl Actor for SpoolWriter {
    type Context = Context<Self>;
}
supervised!(SpoolWriter, drain: own);

impl Handler<Commit> for SpoolWriter {
    type Result = Result<(), CommitError>;

    fn handle(&mut self, Commit(blocks): Commit, _: &mut Self::Context) -> Self::Result {
        let began = std::time::Instant::now();
        let outcome = self.spool.commit(blocks);
        self.commits.observe(began.elapsed().as_secs_f64());
        self.witness.keeps(self.spool.trouble());
        outcome
    }
}

impl Handler<Settle> for SpoolWriter {
    type Result = Result<(), LeaseError>;

    fn handle(&mut self, Settle(settlements): Settle, _: &mut Self::Context) -> Self::Result {
        self.spool.settle(settlements)
    }
}

impl Handler<ToTell> for SpoolWriter {
    type Result = Result<Vec<Loss>, LeaseError>;

    fn handle(&mut self, ToTell(owner): ToTell, _: &mut Self::Context) -> Self::Result {
        self.spool.to_tell(owner)
    }
}

impl Handler<NoteTold> for SpoolWriter {
    type Result = ();

    fn handle(&mut self, NoteTold { owner, losses }: NoteTold, _: &mut Self::Context) {
        self.spool.told(owner, &losses);
    }
}

impl Handler<Drain> for SpoolWriter {
    type Result = ();

    /// Everything said so far is synced; what comes after this still works.
    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        if let Err(error) = self.spool.close() {
            tracing::warn!(error, "spool could not be closed in order; its last cursors may be repeated");
        }
    }
}

/// Reads and decompresses.
#[derive(Debug)]
pub struct SpoolReader(Arc<Spool>);

impl SpoolReader {
    /// For the factory: what an earlier life was reading comes back and is suspect.
    #[must_use]
    pub fn new(spool: Arc<Spool>) -> SpoolReader {
        spool.reader_fell();
        SpoolReader(spool)
    }
}

impl Actor for SpoolReader {
    type Context = Context<Self>;
}
supervised!(SpoolReader);

impl Handler<LeaseNext> for SpoolReader {
    type Result = Result<Option<Lease>, LeaseError>;

    fn handle(&mut self, ask: LeaseNext, _: &mut Self::Context) -> Self::Result {
        self.0.pick(ask.owner, ask.lane, ask.pick, ask.cut)
    }
}

/// Keeps house.
#[derive(Debug)]
pub struct SpoolKeeper {
    /// The spool.
    pub spool: Arc<Spool>,
    /// Told how each round went, and when data is kept again.
    pub witness: Witness,
}

impl Actor for SpoolKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (spool, witness) = (self.spool.clone(), self.witness.clone());
        let mut work = spool.work();
        let rounds = async move {
            if !spool.usage().is_nearly_full() {
                let _ = tokio::time::timeout(FIRST, work.changed()).await;
            }
            loop {
                let calm = !keep_house(&spool, &witness).await && !spool.usage().is_nearly_full();
                spool.try_again();
                witness.keeps(spool.trouble());
                tokio::time::sleep(if calm { REST } else { ROUND }).await;
                // Nothing to do until somebody commits or settles, or enough time has passed.
                let look = if spool.trouble().is_some() { AGAIN } else { LOOK };
                let _ = tokio::time::timeout(look, work.changed()).await;
            }
        };
        ctx.spawn(rounds.into_actor(self));
    }
}
supervised!(SpoolKeeper);

/// Whether there was something to do.
async fn keep_house(spool: &Spool, witness: &Witness) -> bool {
    let mut did_something = false;
    loop {
        match spool.upkeep() {
            Ok(true) => did_something = true,
            Ok(false) => {
                witness.house(None);
                return did_something;
            }
            Err(error) => {
                witness.house(Some(error));
                return did_something;
            }
        }
        beat();
        tokio::task::yield_now().await; // pings are answered between two pieces
    }
}
