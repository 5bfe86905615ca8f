//! The endpoints of a `loadbalancing` exporter: who is there, as the resolver finds them, and the ways to them.
//!
//! What always holds:
//! * Nothing found, or nobody to ask, changes nothing: those of before stay.
//! * A look goes beside the uploads; only the very first is waited for. One at a time, and one that fell is followed by the next.
//! * An endpoint that stays keeps its way, with its connections and what is believed of it.

use super::endpoint::Rules;
use super::metrics::{BackendMetrics, EndpointMetrics};
use super::resolver::Resolver;
use super::ring::Ring;
use super::transport::Transport;
use super::way::Way;
use crate::base::Dice;
use crate::supervise::contain;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::time::Instant;

/// Makes the transport to the endpoint of this name.
pub type Path = Arc<dyn Fn(&str) -> Arc<dyn Transport> + Send + Sync>;

/// See the module.
pub(super) struct Backends {
    resolver: Resolver,
    path: Path,
    rules: Rules,
    endpoints: EndpointMetrics,
    metrics: BackendMetrics,
    now: Mutex<Now>,
}

struct Now {
    fleet: Option<Arc<Fleet>>,
    /// When the last look ended.
    looked_at: Option<Instant>,
    looking: bool,
    /// Why the last look found nothing.
    told: Option<String>,
    dice: Dice,
}

/// Those there are now, sorted by name, and the ring of them.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    pub(super) ring: Ring,
    pub(super) ways: Vec<Arc<Way>>,
}

impl fmt::Debug for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backends").field("resolver", &self.resolver).finish_non_exhaustive()
    }
}

impl Backends {
    pub(super) fn new(
        resolver: Resolver,
        path: Path,
        rules: Rules,
        (endpoints, metrics): (EndpointMetrics, BackendMetrics),
        dice: Dice,
    ) -> Backends {
        let now = Now { fleet: None, looked_at: None, looking: false, told: None, dice };
        Backends { resolver, path, rules, endpoints, metrics, now: Mutex::new(now) }
    }

    /// Those there are.
    ///
    /// # Errors
    /// When none were ever found: why.
    pub(super) async fn fleet(self: &Arc<Self>) -> Result<Arc<Fleet>, String> {
        match self.known() {
            (Some(fleet), false) => Ok(fleet),
            (Some(fleet), true) => {
                let (resolver, looking) = (self.resolver.clone(), Looking(Arc::downgrade(self)));
                // Ends by itself; it may wait for minutes until something changes, and holds nobody.
                tokio::spawn(async move {
                    let found = look(&resolver).await;
                    looking.0.upgrade().map(|this| this.learn(found))
                });
                Ok(fleet)
            }
            (None, _) => {
                let found = look(&self.resolver).await;
                self.learn(found)
            }
        }
    }

    /// Those that are known, and whether it is time to look: whoever is told so looks.
    fn known(&self) -> (Option<Arc<Fleet>>, bool) {
        let mut now = self.lock();
        let fleet = now.fleet.clone();
        let due = self
            .resolver
            .interval(now.told.is_some())
            .is_some_and(|every| now.looked_at.is_none_or(|at| at.elapsed() >= every));
        let looks = fleet.is_some() && due && !now.looking;
        now.looking |= looks;
        (fleet, looks)
    }

    fn learn(&self, found: Result<Vec<String>, String>) -> Result<Arc<Fleet>, String> {
        let mut now = self.lock();
        now.looked_at = Some(Instant::now());
        let kind = self.resolver.kind();
        match found {
            Ok(names) => {
                now.told = None;
                let is_new = now.fleet.as_ref().is_none_or(|fleet| !fleet.is_of(&names));
                self.metrics.found(kind, &names, is_new);
                if is_new {
                    now.fleet = Some(Arc::new(self.fleet_of(&names, &mut now)));
                }
            }
            Err(why) => {
                self.metrics.not_found(kind, &why, now.told.as_ref() != Some(&why));
                now.told = Some(why);
            }
        }
        now.fleet.clone().ok_or_else(|| now.told.clone().unwrap_or_default())
    }

    fn fleet_of(&self, names: &[String], now: &mut Now) -> Fleet {
        let known = now.fleet.clone().unwrap_or_default();
        let way = |name: &String| match known.ways.iter().find(|way| way.name == *name) {
            Some(way) => way.clone(),
            None => {
                let dice = Dice::seeded(now.dice.u64());
                Way::new(name.clone(), (self.path)(name), self.rules, self.endpoints.clone(), dice)
            }
        };
        Fleet { ring: Ring::of(names), ways: names.iter().map(way).collect() }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A panic over an answer is an answer that could not be read: those of before stay, and it is asked again.
async fn look(resolver: &Resolver) -> Result<Vec<String>, String> {
    contain("look for endpoints", resolver.look()).await.unwrap_or_else(|panic| Err(format!("panic: {panic}")))
}

/// Somebody looks; however that ends, the next one may.
struct Looking(Weak<Backends>);

impl Drop for Looking {
    fn drop(&mut self) {
        if let Some(backends) = self.0.upgrade() {
            backends.lock().looking = false;
        }
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.metrics.gone();
    }
}

impl Fleet {
    fn is_of(&self, names: &[String]) -> bool {
        self.ways.iter().map(|way| &way.name).eq(names)
    }
}
