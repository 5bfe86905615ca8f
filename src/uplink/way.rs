//! The way to one of several endpoints: sends there, remembers how it went, and asks whether it is back.

use super::endpoint::{Endpoint, Rules};
use super::link::Trouble;
use super::metrics::EndpointMetrics;
use super::transport::{Parcel, Transport};
use super::verdict::Verdict;
use crate::base::Dice;
use crate::otlp::Signal;
use crate::supervise::contain;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// See the module.
pub(super) struct Way {
    /// For people.
    pub(super) name: String,
    transport: Arc<dyn Transport>,
    rules: Rules,
    belief: Mutex<(Endpoint, Dice)>,
    metrics: EndpointMetrics,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Way {
    pub(super) fn new(
        name: String,
        transport: Arc<dyn Transport>,
        rules: Rules,
        metrics: EndpointMetrics,
        dice: Dice,
    ) -> Arc<Way> {
        Arc::new(Way { name, transport, rules, belief: Mutex::new((Endpoint::default(), dice)), metrics })
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().0.is_open(Instant::now())
    }

    /// What it would answer now, by its own word: it is not asked.
    pub(super) fn refusal(&self) -> Option<Verdict> {
        self.wants_rest().map(|rest| Verdict::Later { after: Some(rest), why: "it asked for patience".to_owned() })
    }

    fn wants_rest(&self) -> Option<Duration> {
        self.lock().0.wants_rest(Instant::now())
    }

    /// What it alone refuses may be at fault.
    pub(super) fn is_credible(&self) -> bool {
        self.lock().0.is_credible()
    }

    /// Sends an upload; with what was answered, and whether it is to go elsewhere. What a refusal says of it is not heard before
    /// it is known what others make of the same items: [`Way::upheld`] or [`Way::overruled`].
    pub(super) async fn carry(&self, parcel: Parcel) -> (Verdict, bool) {
        let (waiting, start) = (Waiting::of(self), Instant::now());
        let verdict = self.transport.send(parcel).await;
        drop(waiting);
        self.metrics.answered(&self.name, &verdict, start.elapsed());
        let elsewhere = !matches!(verdict, Verdict::Split { .. }) && self.hear(&verdict);
        (verdict, elsewhere)
    }

    /// It refused what others refuse too, or what nobody else could be asked about.
    pub(super) fn upheld(&self, refusal: &Verdict) {
        self.hear(refusal);
    }

    /// It refused what another one took.
    pub(super) fn overruled(&self, refusal: &Verdict) {
        self.learn(refusal, Endpoint::overruled);
    }

    fn hear(&self, verdict: &Verdict) -> bool {
        self.learn(verdict, |endpoint, rules, now, dice| endpoint.heard(verdict, rules, now, dice))
    }

    /// Asks whether it is back, when it is time. What it is asked is about one signal: some take only some.
    pub(super) fn look(self: &Arc<Self>, signal: Signal) {
        if !self.lock().0.asks(Instant::now()) {
            return;
        }
        let way = self.clone();
        // Ends within the timeout of its request.
        tokio::spawn(async move {
            let asked = contain("ask an endpoint", way.transport.send(Parcel::question(signal))).await;
            let fell = |panic| Verdict::Silence { trouble: Trouble::NoAnswer, why: format!("panic: {panic}") };
            let verdict = asked.unwrap_or_else(fell);
            way.learn(&verdict, |endpoint, rules, now, dice| endpoint.answered(&verdict, rules, now, dice));
        });
    }

    fn learn<R>(&self, verdict: &Verdict, f: impl FnOnce(&mut Endpoint, &Rules, Instant, &mut Dice) -> R) -> R {
        let (learned, before, after) = {
            let (endpoint, dice) = &mut *self.lock();
            let before = endpoint.trouble();
            let learned = f(endpoint, &self.rules, Instant::now(), dice);
            (learned, before, endpoint.trouble())
        };
        if before != after {
            self.metrics.moved(&self.name, before, after, verdict.why());
        }
        learned
    }

    fn lock(&self) -> MutexGuard<'_, (Endpoint, Dice)> {
        self.belief.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What several endpoints say that took nothing: one's wish for patience is kept there, and is the exporter's only when all of
/// them have it; then until the first can be asked.
pub(super) fn together(ways: &[Arc<Way>], verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Later { why, .. } => {
            let rests: Option<Vec<Duration>> = ways.iter().map(|way| way.wants_rest()).collect();
            Verdict::Later { after: rests.and_then(|rests| rests.into_iter().min()), why }
        }
        other => other,
    }
}

impl Drop for Way {
    /// What is said of it on the board is true no longer.
    fn drop(&mut self) {
        self.metrics.gone(&self.name);
    }
}

/// An upload is out; a future that is dropped ends that too.
struct Waiting<'a>(&'a Way);

impl<'a> Waiting<'a> {
    fn of(way: &'a Way) -> Waiting<'a> {
        way.lock().0.sent();
        Waiting(way)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().0.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Clock;
    use crate::base::backoff::Curve;
    use crate::telemetry::{Health, Metrics};
    use crate::uplink::metrics::UplinkMetrics;
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use tokio::time::sleep;

    /// Silent, then a panic, then well.
    #[derive(Debug, Default)]
    struct Troubled(AtomicU32);

    impl Transport for Troubled {
        fn send(&self, _: Parcel) -> BoxFuture<'static, Verdict> {
            let n = self.0.fetch_add(1, SeqCst);
            async move {
                match n {
                    0 => Verdict::Silence { trouble: Trouble::Unreachable, why: String::new() },
                    1 => panic!("over an answer"),
                    _ => Verdict::Accepted { rejected: 0, message: String::new(), oddity: None },
                }
            }
            .boxed()
        }
    }

    /// Goal: a question that falls is a question that was not answered, and the next one is asked.
    #[tokio::test(start_paused = true)]
    async fn one_is_asked_again_after_a_panic() {
        let (metrics, second) = (Metrics::detached(), Duration::from_secs(1));
        let metrics = UplinkMetrics::new(&metrics, &Health::starting(Clock::system()), "lb").endpoints();
        let rules = Rules { after: second, curve: Curve { initial: second, max: second, ..Curve::default() } };
        let transport = Arc::new(Troubled::default());
        let way = Way::new("a:1".to_owned(), transport.clone(), rules, metrics, Dice::seeded(1));
        way.carry(Parcel::question(Signal::Logs)).await;
        for asked in [2, 3] {
            sleep(second * 3).await;
            assert!(!way.is_open());
            way.look(Signal::Logs);
            sleep(second / 10).await;
            assert_eq!(transport.0.load(SeqCst), asked);
        }
        assert!(way.is_open());
    }
}
