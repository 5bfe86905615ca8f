//! What every receiver hands its requests to: walk, admit, edit, offer, count. An answer from here is an answer to
//! the client.

use crate::base::Swap;
use crate::batcher::budget::{Budget, Charge};
use crate::batcher::{Offer, OfferError, Part};
use crate::otlp::{Caller, Signal, Walked, is_deprecated, walk};
use crate::processors::pipe::{Passed, Pipe, Refusal, StoreNo};
use crate::spool::Lane;
use crate::spool::store::Spool;
use crate::supervise::{Fallen, Line, Wire, contained, tripwire};
use crate::telemetry::{ExporterMetrics, ReceiverMetrics};
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
    /// Where requests go from now on; those under way go where they were sent.
    routes: Swap<Routes>,
    /// Bytes in flight, over all receivers.
    pub budget: Budget,
    door: Door,
}

/// Where a receiver's requests go.
#[derive(Debug)]
struct Routes {
    /// The pipelines this receiver feeds, by signal.
    pipes: BTreeMap<Signal, Vec<Arc<Pipe>>>,
    /// By [`StoreNo`].
    outlets: Vec<Outlet>,
}

/// One store, as a receiver sees it.
#[derive(Debug, Clone)]
pub struct Outlet {
    /// Where its batcher is told.
    pub batcher: Line<Offer>,
    /// On disk. A store in memory beside one on disk loses for itself (architecture §4, "Fan-out").
    pub durable: bool,
    /// Where its losses are counted; `None`: on disk, where it takes all or nothing of a request is taken.
    pub losses: Option<Arc<Spool>>,
    /// Who reads which pipeline's lane, for `enqueue_failed`.
    pub readers: Vec<(Lane, ExporterMetrics)>,
}

/// What a request came to: where its parts go, and what is counted and shown afterwards.
#[derive(Debug)]
struct Work {
    routes: Arc<Routes>,
    walked: Walked,
    offers: BTreeMap<StoreNo, Vec<Part>>,
    passed: Vec<(Arc<Pipe>, Passed)>,
    charge: Charge,
    caller: Option<Arc<Caller>>,
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
    /// Over these pipelines; `outlets` by [`StoreNo`].
    #[must_use]
    pub fn new(pipes: impl IntoIterator<Item = Arc<Pipe>>, outlets: Vec<Outlet>, budget: Budget) -> Intake {
        let routes = Swap::new(Routes::new(pipes, outlets));
        Intake { routes, budget, door: Door(watch::Sender::new((false, 0))) }
    }

    /// From now on requests go through these pipelines. Those under way are not touched.
    pub fn reroute(&self, pipes: impl IntoIterator<Item = Arc<Pipe>>, outlets: Vec<Outlet>) {
        self.routes.set(Routes::new(pipes, outlets));
    }

    /// Whether any pipeline takes this signal from this receiver; if not, the receiver does not serve it.
    #[must_use]
    pub fn serves(&self, signal: Signal) -> bool {
        self.routes.get().pipes.contains_key(&signal)
    }

    /// Takes a request: when what is returned gives `Ok`, every part of it that a disk is to keep is on stable storage.
    /// `charge` holds the request's bytes and stays with them, wherever they wait.
    ///
    /// A panic that this request causes ends here: the client hears that no retry helps, and nobody else does. What is
    /// offered is brought to its end and counted also when the client hangs up: dropping the future changes nothing.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing was acknowledged then.
    pub fn take(
        self: &Arc<Self>,
        signal: Signal,
        request: Bytes,
        charge: Charge,
        caller: Option<Arc<Caller>>,
        metrics: &ReceiverMetrics,
    ) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let inside = self.door.enter();
        let worked = match &inside {
            Some(_) => contained("request", || self.work(signal, &request, charge, caller)),
            None => Ok(Err((0, Refusal::Later("the agent is stopping".into())))),
        };
        drop(request); // its parts are what is held from here on
        let metrics = metrics.clone();
        async move {
            match worked {
                Ok(Ok(work)) if work.walked.items == 0 => Ok(()), // otelcol does not call the pipeline for it
                Ok(Ok(work)) => {
                    let brought = tokio::spawn(async move {
                        let _inside = inside;
                        bring(signal, work, &metrics).await
                    });
                    match tokio::time::timeout(PATIENCE, brought).await {
                        Ok(Ok(outcome)) => outcome,
                        Ok(Err(_)) => Err(Refusal::Later("the receiver fell".into())),
                        Err(_) => Err(Refusal::Later("the disk takes too long".into())),
                    }
                }
                Ok(Err((items, refusal))) => {
                    if items > 0 {
                        metrics.refused(signal, items);
                    }
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

    /// Everything that needs no waiting. On an error: how many items the refusal is about.
    fn work(
        &self,
        signal: Signal,
        request: &Bytes,
        mut charge: Charge,
        caller: Option<Arc<Caller>>,
    ) -> Result<Work, (u64, Refusal)> {
        tripwire(Wire::Request, request);
        let routes = self.routes.get();
        let context = |name: &str| caller.as_ref().and_then(|caller| caller.value(name));
        let walked = walk(signal, request).map_err(|e| (0, e.into()))?;
        let items = u64::from(walked.items);
        let (mut offers, mut kept) = (BTreeMap::<StoreNo, Vec<Part>>::new(), Vec::new());
        if items == 0 {
            let lost = "items stand in instrumentation_library_* (field 1000) only, which OTLP removed in 0.15";
            let refused = is_deprecated(request).then(|| (0, Refusal::Never(lost.into())));
            return refused.map_or(Ok(Work { routes, walked, offers, passed: kept, charge, caller }), Err);
        }
        let pipes = routes.pipes.get(&signal).map_or(&[][..], Vec::as_slice);
        if pipes.is_empty() {
            // A reload took the last one away while this request came in: it must not be answered with success.
            return Err((items, Refusal::Later("no pipeline takes this signal any more".into())));
        }
        pipes.iter().try_for_each(|pipe| pipe.admit(walked.items, request)).map_err(|e| (items, e))?;
        for pipe in pipes {
            let passed = pipe.process(request, walked, &context, &mut charge).map_err(|e| (items, e))?;
            for (store, part) in pipe.parts(&passed, caller.as_deref()).map_err(|e| (items, e))? {
                offers.entry(store).or_default().push(part);
            }
            if pipe.looks_back() {
                kept.push((pipe.clone(), passed));
            }
        }
        Ok(Work { routes, walked, offers, passed: kept, charge, caller })
    }
}

impl Routes {
    fn new(pipes: impl IntoIterator<Item = Arc<Pipe>>, outlets: Vec<Outlet>) -> Routes {
        let mut by_signal: BTreeMap<Signal, Vec<Arc<Pipe>>> = BTreeMap::new();
        for pipe in pipes {
            by_signal.entry(pipe.signal).or_default().push(pipe);
        }
        Routes { pipes: by_signal, outlets }
    }

    /// Stores on a disk first, up to the first that does not take it: nothing was promised then. What a store in memory
    /// does not take after that is its own loss, counted; where there is no other, the client is told.
    async fn offer(
        &self,
        signal: Signal,
        offers: BTreeMap<StoreNo, Vec<Part>>,
        charge: Arc<Charge>,
        caller: Option<Arc<Caller>>,
    ) -> Result<(), Refusal> {
        let outlet = |(no, parts): (StoreNo, Vec<Part>)| Some((self.outlets.get(no.0)?, parts));
        let mut offers: Vec<(&Outlet, Vec<Part>)> = offers.into_iter().filter_map(outlet).collect();
        offers.sort_by_key(|(outlet, _)| !outlet.durable);
        let mut kept = false;
        for (outlet, parts) in offers {
            let sizes: Vec<(Lane, u32)> = parts.iter().map(|part| (part.pipeline, part.walked.items)).collect();
            let refusal =
                match outlet.batcher.ask(Offer { parts, charge: charge.clone(), caller: caller.clone() }).await {
                    Ok(Ok(())) => {
                        kept |= outlet.durable;
                        continue;
                    }
                    Ok(Err(error)) => Refusal::from(error),
                    Err(fallen) => fallen.into(),
                };
            outlet.count_failed(signal, &sizes);
            if outlet.durable || !kept {
                return Err(refusal);
            }
            if let Some(spool) = &outlet.losses {
                sizes.iter().for_each(|(lane, items)| spool.missed(*lane, (*items).into()));
            }
            tracing::warn!(%refusal, signal = %signal, "an exporter without storage lost what others keep");
        }
        Ok(())
    }
}

/// Offers, counts, shows.
async fn bring(signal: Signal, work: Work, metrics: &ReceiverMetrics) -> Result<(), Refusal> {
    let Work { routes, walked, offers, passed, charge, caller } = work;
    let outcome = routes.offer(signal, offers, Arc::new(charge), caller).await;
    match &outcome {
        Ok(()) => metrics.accepted(signal, walked.items.into()),
        Err(_) => metrics.refused(signal, walked.items.into()),
    }
    if outcome.is_ok() {
        passed.iter().for_each(|(pipe, passed)| pipe.count_dropped(passed));
        // Contained: a panic of somebody who only looks is counted there and is no reason to refuse.
        let _ = contained("debug exporter", || passed.iter().for_each(|(pipe, passed)| pipe.show(passed)));
    }
    outcome
}

impl Outlet {
    fn count_failed(&self, signal: Signal, sizes: &[(Lane, u32)]) {
        for (lane, exporter) in &self.readers {
            let items: u64 = sizes.iter().filter(|(of, _)| of == lane).map(|(_, items)| u64::from(*items)).sum();
            if items > 0 {
                exporter.enqueue_failed(signal, items);
            }
        }
    }
}

impl From<OfferError> for Refusal {
    fn from(e: OfferError) -> Refusal {
        match e {
            OfferError::Later(why) => Refusal::Later(why),
            OfferError::TooLarge(why) => Refusal::TooLarge(why),
            OfferError::Never(why) => Refusal::Fell(why),
        }
    }
}

impl From<Fallen> for Refusal {
    fn from(e: Fallen) -> Refusal {
        Refusal::Later(e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Bytes as Size, Clock, Dice};
    use crate::spool::{Reason, Store as _};
    use crate::telemetry::Metrics;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use tokio::sync::oneshot;

    type Waiting = Arc<Mutex<Vec<(Offer, oneshot::Sender<Result<(), OfferError>>)>>>;

    /// A store whose batcher is the test.
    fn outlet(durable: bool) -> (Outlet, Waiting) {
        let waiting = Waiting::default();
        let told = waiting.clone();
        let batcher = Line::new(move |offer: Offer| {
            let (answer, answered) = oneshot::channel();
            told.lock().expect("whole").push((offer, answer));
            async move { answered.await.map_err(|_| Fallen::Down("batcher".into())) }
        });
        let losses = (!durable).then(|| Arc::new(Spool::in_memory(Size::mib(1), Clock::system(), Dice::seeded(1))));
        (Outlet { batcher, durable, losses, readers: Vec::new() }, waiting)
    }

    fn pipe(stores: usize, shown: &Arc<AtomicUsize>) -> Arc<Pipe> {
        let shown = shown.clone();
        Arc::new(Pipe {
            name: "logs".into(),
            signal: Signal::Logs,
            limiters: Vec::new(),
            steps: Vec::new(),
            lanes: (0..stores).map(|n| (StoreNo(n), Lane(1))).collect(),
            groups: None,
            tees: vec![Arc::new(move |_, _, _| {
                shown.fetch_add(1, SeqCst);
            })],
        })
    }

    /// One log record.
    const REQUEST: &[u8] = &[0x0a, 7, 0x12, 5, 0x12, 3, 0x1a, 1, b'x'];

    fn accepted(metrics: &Metrics) -> u64 {
        let text = metrics.text();
        let line = text.lines().find(|l| l.starts_with("otelcol_receiver_accepted_log_records{"));
        line.map_or(0, |l| l.rsplit(' ').next().expect("a value").parse().expect("a number"))
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    /// Goal: a client that hangs up changes neither what is counted nor what memory is known to be held.
    #[actix::test]
    async fn what_was_committed_is_counted_though_the_client_hung_up() {
        let (outlet, waiting) = outlet(true);
        let (budget, shown, metrics) = (Budget::new(Size(1_000)), Arc::default(), Metrics::detached());
        let intake = Arc::new(Intake::new([pipe(1, &shown)], vec![outlet], budget.clone()));
        let mut charge = budget.open();
        charge.grow(REQUEST.len()).expect("room");
        let counts = ReceiverMetrics::new(&metrics, "otlp", "http");
        let client = actix_rt::spawn(intake.take(Signal::Logs, Bytes::from_static(REQUEST), charge, None, &counts));
        settle().await;
        client.abort();
        settle().await;
        assert_eq!((budget.used(), accepted(&metrics), shown.load(SeqCst)), (REQUEST.len(), 0, 0));
        let (offer, answer) = waiting.lock().expect("whole").pop().expect("it was offered");
        answer.send(Ok(())).expect("still waited for");
        drop(offer);
        settle().await;
        assert_eq!((budget.used(), accepted(&metrics), shown.load(SeqCst)), (0, 1, 1));
    }

    /// Disk first, whatever its number; a store in memory is asked after it and cannot refuse the client; what nobody
    /// took is shown to nobody.
    #[actix::test]
    #[rustfmt::skip]
    async fn stores_on_a_disk_decide_for_the_client() {
        let full = || Err(OfferError::Later("full".into()));
        for (disk, memory, taken) in [
            (Ok(()),  Some(Ok(())),  true),
            (Ok(()),  Some(full()),  true),
            (full(),  None,          false), // memory is not even asked
        ] {
            let ((in_memory, asked_memory), (on_disk, asked_disk)) = (outlet(false), outlet(true));
            let (shown, metrics) = (Arc::default(), Metrics::detached());
            let kept = in_memory.losses.clone().expect("it is in memory");
            kept.lane("traces", Signal::Traces);
            kept.own("otlphttp", &[kept.lane("logs", Signal::Logs)]); // lane 1, as the pipe has it
            let lost = u64::from(taken && memory.as_ref().is_some_and(Result::is_err));
            let intake = Arc::new(Intake::new([pipe(2, &shown)], vec![in_memory, on_disk], Budget::new(Size(1_000))));
            let counts = ReceiverMetrics::new(&metrics, "otlp", "http");
            let charge = intake.budget.open();
            let client = actix_rt::spawn(intake.take(Signal::Logs, Bytes::from_static(REQUEST), charge, None, &counts));
            settle().await;
            assert!(asked_memory.lock().expect("whole").is_empty(), "the disk comes first");
            let (_, answer) = asked_disk.lock().expect("whole").pop().expect("asked");
            answer.send(disk.clone()).expect("waited for");
            settle().await;
            let asked = asked_memory.lock().expect("whole").pop();
            assert_eq!(asked.is_some(), memory.is_some(), "{disk:?}");
            if let (Some((_, answer)), Some(memory)) = (asked, memory) {
                answer.send(memory).expect("waited for");
            }
            assert_eq!(client.await.expect("not aborted").is_ok(), taken);
            assert_eq!((accepted(&metrics), shown.load(SeqCst)), (u64::from(taken), usize::from(taken)));
            let book = kept.books().remove(0);
            let losses = kept.losses();
            assert_eq!((book.accepted, book.sum(), book.lost[Reason::Evicted as usize]), (lost, lost, lost));
            assert_eq!(losses.iter().map(|loss| loss.items).sum::<u64>(), lost, "it is in the gap report: {losses:?}");
        }
    }

    /// Goal: what a processor drops is counted once, when the client was told that its request was taken; a request of
    /// which nothing is left is taken, and offered to nobody.
    #[actix::test]
    #[rustfmt::skip]
    async fn what_a_processor_drops_is_counted_when_the_request_was_taken() {
        use crate::otlp::{Level, Only, Sieve, Test};
        use crate::processors::pipe::Step;
        use crate::telemetry::ProcessorMetrics;
        /// Two log records: `x` and `y`.
        const TWO: &[u8] = &[0x0a, 12, 0x12, 10, 0x12, 3, 0x1a, 1, b'x', 0x12, 3, 0x1a, 1, b'y'];
        let (shown, metrics) = (Arc::default(), Metrics::detached());
        let counts = ReceiverMetrics::new(&metrics, "otlp", "http");
        let intake = |wanted: &'static str| {
            let (outlet, asked) = outlet(true);
            let keeps = Only::default().including(Test::default().and(Level::Item, move |record| record.text(3) == wanted));
            let mut pipe = Arc::into_inner(pipe(1, &shown)).expect("nobody else has it");
            pipe.steps = vec![Step::Sift(Sieve::keeping(keeps), ProcessorMetrics::new(&metrics, "filter"))];
            (Arc::new(Intake::new([Arc::new(pipe)], vec![outlet], Budget::new(Size(1_000)))), asked)
        };
        let dropped = || {
            let text = metrics.text();
            let of = |what: &str| text.lines().find(|l| l.starts_with(&format!("otelcol_processor_{what}_log_records{{"))).map(|l| l.rsplit(' ').next().expect("a value").to_owned());
            (of("accepted"), of("dropped"))
        };
        let counted = |kept: &str, gone: &str| (Some(kept.to_owned()), Some(gone.to_owned()));

        let (one_left, asked) = intake("x");
        for (answer, expected) in [(Err(OfferError::Later("full".into())), (None, None)), (Ok(()), counted("1", "1"))] {
            let client = actix_rt::spawn(one_left.take(Signal::Logs, Bytes::from_static(TWO), one_left.budget.open(), None, &counts));
            settle().await;
            let (offer, told) = asked.lock().expect("whole").pop().expect("asked");
            assert_eq!((&offer.parts[0].raw[..], offer.parts[0].walked.items), (REQUEST, 1));
            told.send(answer.clone()).expect("waited for");
            assert_eq!(client.await.expect("not aborted").is_ok(), answer.is_ok());
            assert_eq!(dropped(), expected);
        }
        assert_eq!((accepted(&metrics), shown.load(SeqCst)), (2, 1));

        let (none_left, asked) = intake("z");
        let taken = none_left.take(Signal::Logs, Bytes::from_static(TWO), none_left.budget.open(), None, &counts).await;
        assert_eq!((taken, asked.lock().expect("whole").len(), dropped()), (Ok(()), 0, counted("1", "3")));
        assert_eq!((accepted(&metrics), shown.load(SeqCst)), (4, 1));
    }

    /// A request that came in while a reload took its pipeline away is not answered with success.
    #[actix::test]
    async fn what_no_pipeline_takes_any_more_is_refused() {
        let (outlet, _) = outlet(true);
        let (shown, metrics) = (Arc::default(), Metrics::detached());
        let intake = Arc::new(Intake::new([pipe(1, &shown)], vec![outlet], Budget::new(Size(1_000))));
        intake.reroute([], Vec::new());
        let counts = ReceiverMetrics::new(&metrics, "otlp", "http");
        let charge = intake.budget.open();
        let taken = intake.take(Signal::Logs, Bytes::from_static(REQUEST), charge, None, &counts).await;
        assert!(matches!(taken, Err(Refusal::Later(_))), "{taken:?}");
    }
}
