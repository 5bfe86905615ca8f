//! One upload to several endpoints, each item to the one its key belongs to: the `loadbalancing` exporter.
//!
//! ```text
//!                       ┌─ items of a ─▶ a ── taken ────────────────────┐
//! Parcel ─ keys, ring ──┼─ items of b ─▶ b ── silence ─▶ a, c: taken ───┼─▶ all taken? Accepted
//!                       └─ items of c ─▶ c ── later ────────────────────┘   else the verdict that helps; what was taken
//!                                        └─ refused ─▶ a, or b: taken       is remembered and does not go again
//!                                                      └─ refused: it is the items
//! ```
//!
//! What always holds:
//! * The uplink sees one far end: it is away when no endpoint answers. The books and the spool know uploads as they were
//!   leased; one is settled when all of it was taken.
//! * The share of an endpoint that is away goes to the others on the ring, and back to it when it is back.
//! * One that asks for patience gets nothing until then: its share goes to the others at once, and the exporter rests for it
//!   only when all of them ask for that.
//! * What one endpoint refuses is offered to another one, once. If that takes it, it is the first that takes nothing; only if
//!   that refuses it too, or nobody else is there, it is the items ([`super::split`]). So a search costs two requests for one.
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
use super::way::together;
use crate::base::Dice;
use crate::otlp::{Cutter, Malformed};
use crate::supervise::contained;
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use std::collections::{BTreeMap, BTreeSet};
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
    /// The endpoint that refused it; a second one is asked before that is believed.
    refused_by: Vec<Option<usize>>,
    /// What each of those said last.
    refusals: BTreeMap<usize, Verdict>,
    /// Endpoints that are not asked again, by their place in the fleet.
    closed: Vec<bool>,
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
            outcome.hear_rests(&fleet);
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
        outcome.verdict(&fleet)
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
        let mut alone: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (n, place) in (0..).zip(&places).filter(|(n, _)| outcome.is_open(*n)) {
            match (outcome.owner(fleet, n, *place), outcome.refused_by[n as usize]) {
                (Some(to), _) => by_way.entry(to).or_default().push(n),
                (None, Some(by)) => alone.entry(by).or_default().push(n),
                (None, None) => {}
            }
        }
        alone.into_iter().for_each(|(by, items)| outcome.stay_refused(fleet, by, &items));
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
        self.refused_by.resize(items, None);
    }

    fn is_open(&self, item: u32) -> bool {
        self.known[item as usize] == Known::Nothing && !self.stuck[item as usize]
    }

    fn is_done(&self) -> bool {
        self.known.iter().all(|known| *known != Known::Nothing)
    }

    /// Whose it is: of those that are open, else of those that were not asked yet. A second opinion is asked of one that is open.
    fn owner(&self, fleet: &Fleet, item: u32, place: u32) -> Option<usize> {
        let refused_by = self.refused_by[item as usize];
        let open = |at: usize| !self.closed[at] && refused_by != Some(at) && fleet.ways[at].is_open();
        let any = |at: usize| !self.closed[at] && refused_by.is_none();
        fleet.ring.owner(place, open).or_else(|| fleet.ring.owner(place, any))
    }

    /// Asks no endpoint that asked for patience.
    fn hear_rests(&mut self, fleet: &Fleet) {
        for (at, way) in fleet.ways.iter().enumerate().filter(|(at, _)| !self.closed[*at]).collect::<Vec<_>>() {
            if let Some(rest) = way.refusal() {
                self.closed[at] = true;
                self.told(1, rest.at(&way.name));
            }
        }
    }

    /// Nobody else can be asked about what this one refused.
    fn stay_refused(&mut self, fleet: &Fleet, by: usize, items: &[u32]) {
        let way = &fleet.ways[by];
        let Some(refusal) = self.refusals.get(&by).cloned() else { return };
        items.iter().for_each(|item| self.stuck[*item as usize] = true);
        if way.is_credible() || fleet.ways.len() == 1 {
            way.upheld(&refusal);
            self.told(0, refusal.at(&way.name));
        } else {
            // Others took what it refused before, and cannot be asked now.
            self.told(0, refusal.in_doubt().at(&way.name));
        }
    }

    /// One endpoint refused these: another one is asked, and what it refuses too is refused.
    fn refused(&mut self, fleet: &Fleet, by: usize, items: &[u32], refusal: Verdict) {
        self.refusals.insert(by, refusal.clone());
        let mut agreed = BTreeSet::new();
        for item in items.iter().map(|item| *item as usize) {
            match self.refused_by[item] {
                None => self.refused_by[item] = Some(by),
                Some(first) => {
                    self.stuck[item] = true;
                    agreed.extend([first, by]);
                }
            }
        }
        for at in agreed {
            let Some(refusal) = self.refusals.get(&at).cloned() else { continue };
            fleet.ways[at].upheld(&refusal);
            self.told(0, refusal.at(&fleet.ways[at].name));
        }
    }

    /// These were taken: whoever refused some of them before is overruled.
    fn overrule(&mut self, fleet: &Fleet, items: &[u32]) {
        let by: BTreeSet<usize> = items.iter().filter_map(|item| self.refused_by[*item as usize]).collect();
        for at in by {
            self.refusals.get(&at).into_iter().for_each(|refusal| fleet.ways[at].overruled(refusal));
        }
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
                self.overrule(fleet, items);
                if self.message.is_empty() {
                    self.message = message;
                }
                self.oddity = self.oddity.or(oddity);
            }
            refusal @ Verdict::Split { .. } => self.refused(fleet, at, items, refusal),
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

    fn verdict(mut self, fleet: &Fleet) -> Verdict {
        if self.is_done() {
            let rejected = self.known.iter().filter(|known| **known == Known::Rejected).count() as u64;
            return Verdict::Accepted { rejected, message: self.message, oddity: self.oddity };
        }
        let [stuck, nobody] = self.verdicts.each_mut().map(Option::take);
        let nothing = || Verdict::Silence { trouble: Trouble::Unreachable, why: "there is no endpoint".to_owned() };
        together(&fleet.ways, stuck.or(nobody).unwrap_or_else(nothing))
    }
}
