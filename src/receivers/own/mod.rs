//! The `self` receiver: the agent's own numbers go through a pipeline like anybody's, so that a fleet is watched where
//! its data is, without a scrape of each gateway.
//!
//! What an outage holds back waits in the spool like other telemetry, so the far end sees what the agent went through.

pub mod config;

use crate::base::{Clock, Stamp};
use crate::batcher::budget::Charge;
use crate::otlp::Signal;
use crate::receivers::intake::Intake;
use crate::supervise::Drain;
use crate::supervised;
use crate::telemetry::{Metrics, ReceiverMetrics, own};
use actix::{Actor, AsyncContext as _, Context, Handler, SpawnHandle, WrapFuture as _};
use bytes::Bytes;
use config::OwnConfig;
use std::sync::Arc;

/// Reads the registry at its interval and offers what it read. Cloned for each life of the post.
#[derive(Debug, Clone)]
pub struct OwnMetrics {
    /// Its section.
    pub config: OwnConfig,
    /// What is read.
    pub metrics: Metrics,
    /// What is counted as received.
    pub counts: ReceiverMetrics,
    /// Where it goes.
    pub intake: Arc<Intake>,
    /// For the time of each round.
    pub clock: Clock,
    /// When the process began, which is when its sums did.
    pub started: Stamp,
    /// The rounds of this life.
    pub rounds: Option<SpawnHandle>,
}

impl OwnMetrics {
    fn round(&self) -> impl Future<Output = ()> + use<> {
        let request = own::request(&self.metrics, self.started.wall_ns, self.clock.now().wall_ns);
        let (intake, counts) = (self.intake.clone(), self.counts.clone());
        async move {
            let mut charge: Charge = intake.budget.open();
            if charge.grow(request.len()).is_err() {
                return tracing::debug!("no room for the agent's own metrics; the next round has them");
            }
            let taken = intake.take(Signal::Metrics, Bytes::from(request), charge, None, &counts);
            if let Err(refusal) = taken.await {
                tracing::debug!(%refusal, "the agent's own metrics were not taken; the next round has them");
            }
        }
    }
}

impl Actor for OwnMetrics {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let rounds = ctx.run_interval(self.config.collection_interval, |this, ctx| {
            let round = this.round();
            ctx.spawn(round.into_actor(this));
        });
        self.rounds = Some(rounds);
    }
}
supervised!(OwnMetrics, drain: own);

impl Handler<Drain> for OwnMetrics {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.rounds.take().map(|rounds| ctx.cancel_future(rounds));
    }
}
