//! What the uplink asks of the spool, whoever carries it there.
//!
//! With a disk the questions that may block go to the spool's own actors ([`Posted`]); a store in memory is asked on the
//! spot ([`Direct`]). Every answer may be missing: an actor that fell leaves the outcome unknown, which the uplink treats as
//! "not done" and the spool, asked again, as "done already" ([`LeaseError::NotLeased`]).

use crate::spool::crew::{LeaseNext, NoteTold, Settle, SpoolReader, SpoolWriter, ToTell};
use crate::spool::store::Spool;
use crate::spool::{Cut, Lane, Lease, LeaseError, Loss, Owner, Pick, Settlement, Store, Waiting};
use crate::supervise::{Fallen, Handle};
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::watch;

/// An answer to come.
pub type Reply<T> = BoxFuture<'static, Result<T, LeaseError>>;

/// Where an uplink fetches and settles; see [`Store`] for what each call promises.
pub trait Depot: Send + Sync + fmt::Debug {
    /// Takes over from the exporter's former uplink.
    fn own(&self, exporter: &str, lanes: &[Lane]) -> Reply<Owner>;

    /// The lane where parked parts of `lane` wait.
    fn park_lane(&self, owner: Owner, lane: Lane) -> Reply<Lane>;

    /// What waits unleased. On the spot: no disk is asked.
    fn waiting(&self, owner: Owner, lane: Lane) -> Waiting;

    /// A window nobody has out.
    fn pick(&self, owner: Owner, lane: Lane, pick: Pick, cut: Cut) -> Reply<Option<Lease>>;

    /// The window was made ready without accident; see [`Store::handled`].
    fn handled(&self, owner: Owner, lane: Lane, window: Range<u64>) -> Reply<()>;

    /// Returns a window unsent, or sent in part.
    fn give_back(&self, owner: Owner, lane: Lane, window: Range<u64>) -> Reply<()>;

    /// Enters what became of uploads: all of them or none.
    fn settle(&self, settlements: Vec<Settlement>) -> Reply<()>;

    /// All losses, if the far end does not know of some of them.
    fn to_tell(&self, owner: Owner) -> Reply<Vec<Loss>>;

    /// The far end knows of these.
    fn told(&self, owner: Owner, losses: Vec<Loss>) -> Reply<()>;

    /// Changes with every commit.
    fn news(&self) -> watch::Receiver<u64>;

    /// The spool's uuid, for the ids of uploads; made with its directory.
    fn spool_id(&self) -> Arc<str>;
}

/// A store asked on the spot: for memory, and for tests.
#[derive(Debug, Clone)]
pub struct Direct {
    store: Arc<dyn Store>,
    spool_id: Arc<str>,
}

impl Direct {
    /// `spool_id`: as [`Depot::spool_id`].
    #[must_use]
    pub fn new(store: Arc<dyn Store>, spool_id: &str) -> Direct {
        Direct { store, spool_id: spool_id.into() }
    }

    /// A spool in memory.
    #[must_use]
    pub fn to(spool: Arc<Spool>) -> Direct {
        let id = format!("{:032x}", spool.uuid());
        Direct::new(spool, &id)
    }
}

fn now<T: Send + 'static>(answer: Result<T, LeaseError>) -> Reply<T> {
    ready(answer).boxed()
}

impl Depot for Direct {
    fn own(&self, exporter: &str, lanes: &[Lane]) -> Reply<Owner> {
        now(Ok(self.store.own(exporter, lanes)))
    }

    fn park_lane(&self, owner: Owner, lane: Lane) -> Reply<Lane> {
        now(Ok(self.store.park_lane(owner, lane)))
    }

    fn waiting(&self, owner: Owner, lane: Lane) -> Waiting {
        self.store.waiting(owner, lane)
    }

    fn pick(&self, owner: Owner, lane: Lane, pick: Pick, cut: Cut) -> Reply<Option<Lease>> {
        now(self.store.pick(owner, lane, pick, cut))
    }

    fn handled(&self, owner: Owner, lane: Lane, window: Range<u64>) -> Reply<()> {
        self.store.handled(owner, lane, window);
        now(Ok(()))
    }

    fn give_back(&self, owner: Owner, lane: Lane, window: Range<u64>) -> Reply<()> {
        self.store.give_back(owner, lane, window);
        now(Ok(()))
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Reply<()> {
        now(self.store.settle(settlements))
    }

    fn to_tell(&self, owner: Owner) -> Reply<Vec<Loss>> {
        now(self.store.to_tell(owner))
    }

    fn told(&self, owner: Owner, losses: Vec<Loss>) -> Reply<()> {
        self.store.told(owner, &losses);
        now(Ok(()))
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.store.news()
    }

    fn spool_id(&self) -> Arc<str> {
        self.spool_id.clone()
    }
}

/// A spool on a disk: what reads goes to its reader, what writes to its writer, the rest is asked on the spot.
#[derive(Debug, Clone)]
pub struct Posted {
    direct: Direct,
    reader: Handle<SpoolReader>,
    writer: Handle<SpoolWriter>,
}

impl Posted {
    /// By way of these posts.
    #[must_use]
    pub fn new(spool: Arc<Spool>, reader: Handle<SpoolReader>, writer: Handle<SpoolWriter>) -> Posted {
        Posted { direct: Direct::to(spool), reader, writer }
    }
}

/// Nobody answered: the outcome is unknown.
fn unanswered(fallen: Fallen) -> LeaseError {
    LeaseError::Unavailable(fallen.to_string())
}

impl Depot for Posted {
    fn own(&self, exporter: &str, lanes: &[Lane]) -> Reply<Owner> {
        self.direct.own(exporter, lanes)
    }

    fn park_lane(&self, owner: Owner, lane: Lane) -> Reply<Lane> {
        self.direct.park_lane(owner, lane)
    }

    fn waiting(&self, owner: Owner, lane: Lane) -> Waiting {
        self.direct.waiting(owner, lane)
    }

    fn pick(&self, owner: Owner, lane: Lane, pick: Pick, cut: Cut) -> Reply<Option<Lease>> {
        let reader = self.reader.clone();
        async move { reader.ask(LeaseNext { owner, lane, pick, cut }).await.map_err(unanswered)? }.boxed()
    }

    fn handled(&self, owner: Owner, lane: Lane, window: Range<u64>) -> Reply<()> {
        self.direct.handled(owner, lane, window)
    }

    fn give_back(&self, owner: Owner, lane: Lane, window: Range<u64>) -> Reply<()> {
        self.direct.give_back(owner, lane, window)
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Reply<()> {
        let writer = self.writer.clone();
        async move { writer.ask(Settle(settlements)).await.map_err(unanswered)? }.boxed()
    }

    fn to_tell(&self, owner: Owner) -> Reply<Vec<Loss>> {
        let writer = self.writer.clone();
        async move { writer.ask(ToTell(owner)).await.map_err(unanswered)? }.boxed()
    }

    fn told(&self, owner: Owner, losses: Vec<Loss>) -> Reply<()> {
        let writer = self.writer.clone();
        async move { writer.ask(NoteTold { owner, losses }).await.map_err(unanswered) }.boxed()
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.direct.news()
    }

    fn spool_id(&self) -> Arc<str> {
        self.direct.spool_id()
    }
}
