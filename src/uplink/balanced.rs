//! One upload to several endpoints, each item to the one its key belongs to: the `loadbalancing` exporter.
//!
//! ```text
//!                       ┌─ items of a ─▶ a ── taken ────────────────────┐
//! Parcel ─ keys, ring ──┼─ items of b ─▶ b ── silence ─▶ a, c: taken ───┼─▶ all taken? Accepted
//!                       └─ items of c ─▶ c ── later ────────────────────┘   else the verdict that helps; what was taken
//!                                                                           is remembered and does not go again
//! ```
//!
//! What always holds:
//! * The uplink sees one far end: it is away when no endpoint answers. The books and the spool know uploads as they were
//!   leased; one is settled when all of it was taken.
//! * The share of an endpoint that is away goes to the others on the ring, and back to it when it is back.
//! * A part bears the upload's id and a digest of what is in it, so that a part that is sent again is known again.
//! * What was taken of an upload is known until the books know it, and is left out of what is parked or set aside
//!   ([`super::remainder`]). After a crash it goes again: at worst what was leased.

use super::backends::{Backends, Fleet, Path};
use super::config::{ResolverConfig, RoutingKey};
use super::depot::Depot;
use super::endpoint::Rules;
use super::link::Trouble;
use super::metrics::{BackendMetrics, EndpointMetrics, UplinkMetrics};
use super::pack::Packer;
use super::remainder::Remainder;
use super::resolver::Resolver;
use super::ring::places;
use super::taken::{Known, Taken};
use super::transport::{Parcel, Transport};
use super::verdict::Verdict;
use crate::base::Dice;
use crate::otlp::{Cutter, Malformed};
use crate::supervise::contained;
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

/// What all lives of one such exporter share.
#[derive(Debug, Clone)]
pub struct Balance {
    routing: Option<RoutingKey>,
    rules: Rules,
    taken: Arc<Mutex<Taken>>,
}

impl Balance {
    /// `routing`; `None`: the original's choice for each signal.
    #[must_use]
    pub fn new(routing: Option<RoutingKey>, rules: Rules) -> Balance {
        Balance { routing, rules, taken: Arc::default() }
    }

    /// Settles by way of `depot`, but for what was taken already.
    #[must_use]
    pub fn settling(&self, depot: Arc<dyn Depot>, metrics: UplinkMetrics) -> Arc<dyn Depot> {
        Arc::new(Remainder::new(depot, self.taken.clone(), metrics))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Balanced(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    balance: Balance,
    backends: Arc<Backends>,
    packer: Mutex<Packer>,
}

impl Balanced {
    /// For one life of an uplink. `packer`: as the uplink's own.
    #[must_use]
    pub fn new(
        balance: &Balance,
        resolver: &ResolverConfig,
        path: Path,
        packer: Packer,
        metrics: (EndpointMetrics, BackendMetrics),
        dice: Dice,
    ) -> Balanced {
        Balanced::over(balance, Resolver::new(resolver), path, packer, metrics, dice)
    }

    pub(super) fn over(
        balance: &Balance,
        resolver: Resolver,
        path: Path,
        packer: Packer,
        metrics: (EndpointMetrics, BackendMetrics),
        dice: Dice,
    ) -> Balanced {
        let backends = Arc::new(Backends::new(resolver, path, balance.rules, metrics, dice));
        Balanced(Arc::new(Inner { balance: balance.clone(), backends, packer: Mutex::new(packer) }))
    }
}

impl Transport for Balanced {
    fn send(&self, parcel: Parcel) -> BoxFuture<'static, Verdict> {
        let inner = self.0.clone();
        async move { inner.distribute(parcel).await }.boxed()
    }
}

/// What became of the items of one upload so far.
#[derive(Debug, Default)]
struct Outcome {
    known: Vec<Known>,
    /// Answered with something that only time, a person or a cut can change.
    stuck: Vec<bool>,
    /// Endpoints that are not asked again, by their place in the fleet.
    closed: Vec<bool>,
    /// What those say that want nothing for a while.
    refusals: Vec<Option<Verdict>>,
    /// Of what is stuck, and of what found nobody.
    verdicts: [Option<Verdict>; 2],
    message: String,
    oddity: Option<&'static str>,
}

/// Some items of an upload on their way to one endpoint.
struct Share {
    to: usize,
    /// By their number in the upload.
    items: Vec<u32>,
    parcel: Parcel,
}

impl Inner {
    async fn distribute(&self, parcel: Parcel) -> Verdict {
        let fleet = match self.backends.fleet().await {
            Ok(fleet) => fleet,
            Err(why) => return Verdict::Silence { trouble: Trouble::Unreachable, why },
        };
        // While none is open, uploads themselves find out.
        if fleet.ways.iter().any(|way| way.is_open()) {
            fleet.ways.iter().for_each(|way| way.look(parcel.signal));
        }
        let mut outcome = Outcome { closed: vec![false; fleet.ways.len()], ..Outcome::default() };
        if let Some(origin) = &parcel.origin {
            outcome.known = self.taken().of(origin);
        }
        loop {
            outcome.hear_refusals(&fleet);
            let shares = match self.shares(&parcel, &fleet, &mut outcome) {
                Ok(shares) => shares,
                Err(why) => return Verdict::Split { too_large: false, why },
            };
            if shares.is_empty() {
                break;
            }
            let carried = shares.into_iter().map(|share| {
                let way = fleet.ways[share.to].clone();
                async move {
                    let (verdict, elsewhere) = way.carry(share.parcel).await;
                    (share.to, share.items, verdict, elsewhere)
                }
            });
            for (at, items, verdict, elsewhere) in join_all(carried).await {
                outcome.learn(&fleet, at, &items, verdict, elsewhere);
            }
            if let Some(origin) = &parcel.origin {
                self.taken().remember(parcel.signal, origin, &outcome.known);
            }
        }
        outcome.verdict()
    }

    /// What goes where next; nothing when all of it went, or can go nowhere.
    fn shares(&self, parcel: &Parcel, fleet: &Fleet, outcome: &mut Outcome) -> Result<Vec<Share>, String> {
        let raw = parcel.body.unpack();
        let cut = contained("split an upload by its keys", || {
            let cutter = Cutter::of(parcel.signal, &raw)?;
            let routing = self.balance.routing.unwrap_or(RoutingKey::of(parcel.signal));
            let places = places(routing, parcel.signal, &cutter);
            Ok::<_, Malformed>((cutter, places))
        });
        let (cutter, places) = match cut {
            Ok(Ok(cut)) => cut,
            Ok(Err(malformed)) => return Err(format!("it cannot be split by its keys: {malformed}")),
            Err(panic) => return Err(format!("it cannot be split by its keys: panic: {panic}")),
        };
        outcome.is_of(places.len());
        let mut by_way: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (n, place) in (0..).zip(&places) {
            if outcome.is_open(n)
                && let Some(to) = outcome.owner(fleet, *place)
            {
                by_way.entry(to).or_default().push(n);
            }
        }
        by_way.retain(|to, items| !outcome.is_refused(fleet, *to, items));
        let share = |(to, items): (usize, Vec<u32>)| {
            let parcel = if items.len() == places.len() { parcel.clone() } else { self.part(parcel, &cutter, &items) };
            Share { to, items, parcel }
        };
        Ok(by_way.into_iter().map(share).collect())
    }

    fn part(&self, whole: &Parcel, cutter: &Cutter, items: &[u32]) -> Parcel {
        let raw = cutter.pick(|n| items.binary_search(&n).is_ok());
        let upload_id = format!("{}/{:016x}", whole.upload_id, xxh3_64(&raw));
        let body = self.packer.lock().unwrap_or_else(PoisonError::into_inner).pack(&raw);
        Parcel { signal: whole.signal, body, upload_id, origin: None }
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.balance.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outcome {
    /// The upload has so many items. (What is known of a wrong number of them is nothing.)
    fn is_of(&mut self, items: usize) {
        if self.known.len() != items {
            self.known = vec![Known::Nothing; items];
        }
        self.stuck.resize(items, false);
    }

    fn is_open(&self, item: u32) -> bool {
        self.known[item as usize] == Known::Nothing && !self.stuck[item as usize]
    }

    fn is_done(&self) -> bool {
        self.known.iter().all(|known| *known != Known::Nothing)
    }

    /// Whose it is: of those that are open, else of those that were not asked yet.
    fn owner(&self, fleet: &Fleet, place: u32) -> Option<usize> {
        let open = |at: usize| !self.closed[at] && fleet.ways[at].is_open();
        fleet.ring.owner(place, open).or_else(|| fleet.ring.owner(place, |at| !self.closed[at]))
    }

    /// Asks no endpoint that asked for patience.
    fn hear_refusals(&mut self, fleet: &Fleet) {
        self.refusals = vec![None; fleet.ways.len()];
        for (at, way) in fleet.ways.iter().enumerate() {
            match way.refusal() {
                _ if self.closed[at] => {}
                None => {}
                Some((verdict, true)) => {
                    self.closed[at] = true;
                    self.told(1, verdict.at(&way.name));
                }
                Some((verdict, false)) => self.refusals[at] = Some(verdict),
            }
        }
    }

    fn is_refused(&mut self, fleet: &Fleet, to: usize, items: &[u32]) -> bool {
        let Some(verdict) = self.refusals[to].take() else { return false };
        self.learn(fleet, to, items, verdict, false);
        true
    }

    fn learn(&mut self, fleet: &Fleet, at: usize, items: &[u32], verdict: Verdict, elsewhere: bool) {
        let each = items.iter().map(|item| *item as usize);
        match verdict {
            Verdict::Accepted { rejected, message, oddity } => {
                // Which of them it does not say; the count is right.
                let kept = items.len() - items.len().min(usize::try_from(rejected).unwrap_or(usize::MAX));
                for (n, item) in each.enumerate() {
                    self.known[item] = if n < kept { Known::Taken } else { Known::Rejected };
                }
                if self.message.is_empty() {
                    self.message = message;
                }
                self.oddity = self.oddity.or(oddity);
            }
            verdict if elsewhere => {
                self.closed[at] = true;
                self.told(1, verdict.at(&fleet.ways[at].name));
            }
            verdict => {
                each.for_each(|item| self.stuck[item] = true);
                self.told(0, verdict.at(&fleet.ways[at].name));
            }
        }
    }

    fn told(&mut self, of: usize, verdict: Verdict) {
        self.verdicts[of] = Some(match self.verdicts[of].take() {
            Some(before) => before.and(verdict),
            None => verdict,
        });
    }

    fn verdict(mut self) -> Verdict {
        if self.is_done() {
            let rejected = self.known.iter().filter(|known| **known == Known::Rejected).count() as u64;
            return Verdict::Accepted { rejected, message: self.message, oddity: self.oddity };
        }
        let [stuck, nobody] = self.verdicts.each_mut().map(Option::take);
        let nothing = || Verdict::Silence { trouble: Trouble::Unreachable, why: "there is no endpoint".to_owned() };
        match stuck.or(nobody).unwrap_or_else(nothing) {
            // One endpoint's wish is not the lane's: the others go on, and it is kept there.
            Verdict::Later { why, .. } if self.known.iter().any(|known| *known != Known::Nothing) => {
                Verdict::Later { after: None, why }
            }
            verdict => verdict,
        }
    }
}
