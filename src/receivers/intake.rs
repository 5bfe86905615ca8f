//! What every receiver hands its requests to: walk, admit, edit, offer, count. An answer from here is an answer to
//! the client.

use super::budget::Budget;
use crate::batcher::{Offer, OfferError, Part};
use crate::otlp::{Context, Signal, walk};
use crate::processors::pipe::{Pipe, Refusal, StoreNo};
use crate::supervise::{Fallen, Line, Wire, contained, tripwire};
use crate::telemetry::ReceiverMetrics;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Longest a client waits for the disk. After it the outcome is unknown and the client is asked to come back.
const PATIENCE: Duration = Duration::from_secs(30);

/// One receiver's way into the agent.
#[derive(Debug)]
pub struct Intake {
    /// The pipelines this receiver feeds, by signal.
    pipes: BTreeMap<Signal, Vec<Arc<Pipe>>>,
    /// Where each store's batcher is told.
    batchers: Vec<Line<Offer>>,
    /// Bytes in flight, over all receivers.
    pub budget: Budget,
    door: Door,
}

/// Counts who is inside, and can be closed.
#[derive(Debug)]
struct Door(watch::Sender<(bool, usize)>);

/// Somebody is inside until this is dropped.
#[derive(Debug)]
struct Inside(watch::Sender<(bool, usize)>);

impl Door {
    fn enter(&self) -> Option<Inside> {
        let mut open = false;
        self.0.send_if_modified(|(closed, inside)| {
            open = !*closed;
            *inside += usize::from(open);
            false // whoever closes asks again by itself
        });
        open.then(|| Inside(self.0.clone()))
    }

    async fn close(&self) {
        self.0.send_modify(|(closed, _)| *closed = true);
        // The sender lives as long as we do.
        let _ = self.0.subscribe().wait_for(|(_, inside)| *inside == 0).await;
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.send_if_modified(|(closed, inside)| {
            *inside -= 1;
            *closed
        });
    }
}

impl Intake {
    /// Over these pipelines; `batchers` by [`StoreNo`].
    #[must_use]
    pub fn new(pipes: impl IntoIterator<Item = Arc<Pipe>>, batchers: Vec<Line<Offer>>, budget: Budget) -> Intake {
        let mut by_signal: BTreeMap<Signal, Vec<Arc<Pipe>>> = BTreeMap::new();
        for pipe in pipes {
            by_signal.entry(pipe.signal).or_default().push(pipe);
        }
        Intake { pipes: by_signal, batchers, budget, door: Door(watch::Sender::new((false, 0))) }
    }

    /// Whether any pipeline takes this signal from this receiver; if not, the receiver does not serve it.
    #[must_use]
    pub fn serves(&self, signal: Signal) -> bool {
        self.pipes.contains_key(&signal)
    }

    /// Takes a request: when what is returned gives `Ok`, every stored part of it is on stable storage.
    ///
    /// A panic that this request causes ends here: the client hears that no retry helps, and nobody else does.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing was acknowledged then.
    pub fn take(
        self: &Arc<Self>,
        signal: Signal,
        request: Bytes,
        context: &Context<'_>,
        metrics: &ReceiverMetrics,
    ) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let inside = self.door.enter();
        let worked = match &inside {
            Some(_) => contained("request", || self.work(signal, &request, context)),
            None => Ok(Err((0, Refusal::Later("the agent is stopping".into())))),
        };
        drop(request); // its parts are what is held from here on
        let (this, metrics) = (self.clone(), metrics.clone());
        async move {
            let _inside = inside;
            match worked {
                Ok(Ok((0, _))) => Ok(()), // otelcol does not call the pipeline for it
                Ok(Ok((items, offers))) => {
                    let outcome = this.offer(offers).await;
                    match &outcome {
                        Ok(()) => metrics.accepted(signal, items),
                        Err(_) => metrics.refused(signal, items),
                    }
                    outcome
                }
                Ok(Err((items, refusal))) => {
                    metrics.refused(signal, items);
                    Err(refusal)
                }
                Err(report) => Err(Refusal::Fell(format!("this request made the agent fall: {report}"))),
            }
        }
    }

    /// Lets nobody in any more and waits until everybody is out.
    pub async fn close(&self) {
        self.door.close().await;
    }

    async fn offer(&self, offers: BTreeMap<StoreNo, Vec<Part>>) -> Result<(), Refusal> {
        let mut outcome = Ok(());
        for (store, parts) in offers {
            let Some(batcher) = self.batchers.get(store.0) else { continue };
            let answer = tokio::time::timeout(PATIENCE, batcher.ask(Offer(parts))).await;
            outcome = outcome.and(match answer {
                Ok(Ok(answer)) => answer.map_err(Refusal::from),
                Ok(Err(fallen)) => Err(fallen.into()),
                Err(_) => Err(Refusal::Later("the disk takes too long".into())),
            });
        }
        outcome
    }

    /// Everything that needs no waiting. On an error: how many items the refusal is about.
    #[allow(clippy::type_complexity)] // a step of `take`, nobody else's
    fn work(
        &self,
        signal: Signal,
        request: &Bytes,
        context: &Context<'_>,
    ) -> Result<(u64, BTreeMap<StoreNo, Vec<Part>>), (u64, Refusal)> {
        tripwire(Wire::Request, request);
        let walked = walk(signal, request).map_err(|e| (0, e.into()))?;
        let items = u64::from(walked.items);
        let mut offers: BTreeMap<StoreNo, Vec<Part>> = BTreeMap::new();
        if items == 0 {
            return Ok((0, offers));
        }
        let pipes = self.pipes.get(&signal).map_or(&[][..], Vec::as_slice);
        pipes.iter().try_for_each(|pipe| pipe.admit(walked.items)).map_err(|e| (items, e))?;
        for pipe in pipes {
            for (store, part) in pipe.pass(request, walked, context).map_err(|e| (items, e))? {
                offers.entry(store).or_default().push(part);
            }
        }
        Ok((items, offers))
    }
}

impl From<OfferError> for Refusal {
    fn from(e: OfferError) -> Refusal {
        match e {
            OfferError::Later(why) => Refusal::Later(why),
            OfferError::Never(why) => Refusal::Fell(why),
        }
    }
}

impl From<Fallen> for Refusal {
    fn from(e: Fallen) -> Refusal {
        Refusal::Later(e.to_string())
    }
}
