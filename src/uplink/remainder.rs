//! What is left of an upload when it is parked, set aside or given up after several endpoints took some of it.
//!
//! ```text
//! uplink ── Parked(1000) ──▶ Remainder ── 600 delivered before, Parked(400) ──▶ spool
//!                               │ ▲
//!                               ▼ │ which of them?
//!                             Taken ◀── what endpoints took ── Balanced
//! ```
//!
//! What always holds:
//! * What an endpoint has does not go again from a park lane or from the dead letters, and is not counted as given up.
//! * What was taken is forgotten when the books have it, not before: an uplink that falls between the two sends nothing again.
//! * What cannot be told apart is left whole: then some of it arrives twice, and nothing is missing.

use super::depot::{Depot, Reply};
use super::metrics::UplinkMetrics;
use super::taken::{Known, Taken};
use crate::otlp::{Cutter, Signal};
use crate::spool::{Cut, Lane, Lease, LeaseError, Loss, Outcome, Owner, Pick, Pos, Settlement, Waiting};
use crate::supervise::contained;
use bytes::Bytes;
use futures_util::future::FutureExt as _;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// See the module.
#[derive(Debug)]
pub(super) struct Remainder {
    inner: Arc<dyn Depot>,
    taken: Arc<Mutex<Taken>>,
    metrics: UplinkMetrics,
}

impl Remainder {
    pub(super) fn new(inner: Arc<dyn Depot>, taken: Arc<Mutex<Taken>>, metrics: UplinkMetrics) -> Remainder {
        Remainder { inner, taken, metrics }
    }

    fn apart(&self, settlement: Settlement) -> (Settlement, Option<Before>) {
        let known = lock(&self.taken).within(settlement.lane, &settlement.range, settlement.items);
        let Some((signal, known)) = known else { return (settlement, None) };
        let Settlement { outcome, .. } = &settlement;
        let Ok(Some((before, outcome))) =
            contained("leave out what was taken", || in_part(signal, &known, outcome.clone()))
        else {
            return (settlement, None);
        };
        (Settlement { outcome, ..settlement }, Some(before))
    }
}

/// What was taken of an upload that is not settled as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Before {
    signal: Signal,
    delivered: u32,
    rejected: u32,
}

/// The outcome of an upload of which this is known; `None` when it is as it was.
fn in_part(signal: Signal, known: &[Known], outcome: Outcome) -> Option<(Before, Outcome)> {
    let count = |what: Known| u32::try_from(known.iter().filter(|known| **known == what).count()).ok();
    let before = Before { signal, delivered: count(Known::Taken)?, rejected: count(Known::Rejected)? };
    let left = |raw: &Bytes| {
        let cutter = Cutter::of(signal, raw).ok().filter(|cutter| cutter.items() as usize == known.len())?;
        Some(cutter.pick(|item| known[item as usize] == Known::Nothing))
    };
    let rest = match outcome {
        Outcome::Parked { raw } => Outcome::Parked { raw: left(&raw)? },
        Outcome::DeadLetter { raw, answer } => Outcome::DeadLetter { raw: left(&raw)?, answer },
        Outcome::Lost(reason) => Outcome::Lost(reason),
        Outcome::Delivered { .. } | Outcome::InPart { .. } => return None,
    };
    let Before { delivered, rejected, .. } = before;
    Some((before, Outcome::InPart { delivered, rejected, rest: Box::new(rest) }))
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Depot for Remainder {
    fn settle(&self, settlements: Vec<Settlement>) -> Reply<()> {
        let ranges: Vec<(Lane, Range<Pos>)> = settlements.iter().map(|s| (s.lane, s.range.clone())).collect();
        let (told, before): (Vec<_>, Vec<_>) = settlements.into_iter().map(|s| self.apart(s)).unzip();
        let (settled, taken, metrics) = (self.inner.settle(told), self.taken.clone(), self.metrics.clone());
        async move {
            let answer = settled.await;
            match &answer {
                Ok(()) => {
                    ranges.iter().for_each(|(lane, range)| lock(&taken).forget(*lane, range));
                    for before in before.into_iter().flatten() {
                        metrics.delivered_before(before.signal, before.delivered, before.rejected);
                    }
                }
                // It is none of ours any more.
                Err(LeaseError::NotLeased(lane, from, to)) => lock(&taken).forget(*lane, &(*from..*to)),
                Err(LeaseError::Retired | LeaseError::Unavailable(_)) => {}
            }
            answer
        }
        .boxed()
    }

    fn own(&self, exporter: &str, lanes: &[Lane]) -> Reply<Owner> {
        self.inner.own(exporter, lanes)
    }

    fn park_lane(&self, owner: Owner, lane: Lane) -> Reply<Lane> {
        self.inner.park_lane(owner, lane)
    }

    fn waiting(&self, owner: Owner, lane: Lane) -> Waiting {
        self.inner.waiting(owner, lane)
    }

    fn pick(&self, owner: Owner, lane: Lane, pick: Pick, cut: Cut) -> Reply<Option<Lease>> {
        self.inner.pick(owner, lane, pick, cut)
    }

    fn handled(&self, owner: Owner, lane: Lane, window: Range<u64>) -> Reply<()> {
        self.inner.handled(owner, lane, window)
    }

    fn give_back(&self, owner: Owner, lane: Lane, window: Range<u64>) -> Reply<()> {
        self.inner.give_back(owner, lane, window)
    }

    fn to_tell(&self, owner: Owner) -> Reply<Vec<Loss>> {
        self.inner.to_tell(owner)
    }

    fn told(&self, owner: Owner, losses: Vec<Loss>) -> Reply<()> {
        self.inner.told(owner, losses)
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.inner.news()
    }

    fn spool_id(&self) -> Arc<str> {
        self.inner.spool_id()
    }
}

#[cfg(test)]
mod tests {
    use super::Known::{Nothing as N, Rejected as R, Taken as T};
    use super::*;
    use crate::spool::Reason;
    use crate::testing::numbered::{Numbered, Source, numbers};

    fn seqs(raw: &Bytes) -> Vec<u64> {
        let mut seqs = Vec::new();
        numbers(Signal::Logs, raw, |mark| seqs.push(mark.expect("numbered").seq)).expect("a request");
        seqs
    }

    /// Goal: what moves or is given up is what nobody took; what was delivered is as it was.
    #[test]
    fn what_was_taken_is_left_out() {
        let raw: Bytes = Numbered::new(Signal::Logs, Source(1)).request(5).bytes.into();
        let known = [T, N, R, T, N];
        let of = |outcome| in_part(Signal::Logs, &known, outcome);
        for outcome in [
            Outcome::Parked { raw: raw.clone() },
            Outcome::DeadLetter { raw: raw.clone(), answer: "bad".to_owned() },
            Outcome::Lost(Reason::RetryExpired),
        ] {
            let (before, told) = of(outcome.clone()).expect("some of it was taken");
            assert_eq!(before, Before { signal: Signal::Logs, delivered: 2, rejected: 1 });
            let Outcome::InPart { delivered: 2, rejected: 1, rest } = told else { panic!("{told:?}") };
            match (outcome, *rest) {
                (Outcome::Parked { .. }, Outcome::Parked { raw }) => assert_eq!(seqs(&raw), [1, 4]),
                (Outcome::DeadLetter { .. }, Outcome::DeadLetter { raw, answer }) => {
                    assert_eq!((seqs(&raw), answer.as_str()), (vec![1, 4], "bad"));
                }
                (Outcome::Lost(a), Outcome::Lost(b)) => assert_eq!(a, b),
                (outcome, rest) => panic!("{outcome:?} became {rest:?}"),
            }
        }
        assert!(of(Outcome::Delivered { rejected: 1 }).is_none());
        assert!(of(Outcome::Parked { raw: Bytes::from_static(b"\xff") }).is_none(), "it is left whole");
        assert!(in_part(Signal::Logs, &known[1..], Outcome::Parked { raw }).is_none(), "so is what has another number");
    }
}
