//! One pipeline's way from a validated request to what the batchers are offered.

use super::batch::groups::Groups;
use super::memory_limiter::Limiter;
use crate::batcher::Part;
use crate::batcher::budget::Charge;
use crate::otlp::{Caller, Context, Malformed, Rewriter, Sieve, Signal, Walked, walk};
use crate::spool::Lane;
use crate::telemetry::ProcessorMetrics;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// Somebody who is shown what passes, and has no say: the `debug` exporter.
pub type Tee = Arc<dyn Fn(Signal, &Walked, &Bytes) + Send + Sync>;

/// Most bytes the edits of one pipeline may add to a request: 16 MiB. Three attributes of 60 bytes on each of 90,000
/// items; a request of the default 4 MiB has that many only of the very smallest.
const GROWTH_MAX: usize = 16 << 20;

/// What is done to a request, in the order of the pipeline.
#[derive(Debug, Clone)]
pub enum Step {
    /// `resource` and `attributes`, as many as stand side by side.
    Edit(Rewriter),
    /// `filter` or `probabilistic_sampler`.
    Sift(Sieve, ProcessorMetrics),
}

/// Which of the agent's stores; `app` numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreNo(pub usize);

/// A pipeline between receiver and batcher.
pub struct Pipe {
    /// Its id: `logs` or `logs/audit`.
    pub name: String,
    /// What flows in it.
    pub signal: Signal,
    /// `memory_limiter`s, in order.
    pub limiters: Vec<Arc<Limiter>>,
    /// The processors that change a request, in order.
    pub steps: Vec<Step>,
    /// Its lane in each store an exporter of it reads.
    pub lanes: Vec<(StoreNo, Lane)>,
    /// `batch.metadata_keys`: whose requests have lanes of their own there.
    pub groups: Option<Groups>,
    /// `debug` exporters.
    pub tees: Vec<Tee>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("name", &self.name).field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

/// A request as a pipeline's processors have left it.
#[derive(Debug, Clone)]
pub struct Passed {
    /// Its bytes; none when no item is left.
    pub raw: Bytes,
    /// What is in it.
    pub walked: Walked,
    /// By step that sifted: how many items it kept, and how many it dropped.
    sifted: Vec<(usize, u32, u32)>,
}

/// Why a request does not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Ask the client to come back.
    #[error("{0}")]
    Later(String),
    /// The request is not what it should be; no retry helps.
    #[error("{0}")]
    Never(String),
    /// The request is more than is taken; no retry helps.
    #[error("{0}")]
    TooLarge(String),
    /// Handling it made us fall; no retry helps.
    #[error("{0}")]
    Fell(String),
}

impl From<Malformed> for Refusal {
    fn from(e: Malformed) -> Refusal {
        if e.is_too_large() { Refusal::TooLarge(e.to_string()) } else { Refusal::Never(e.to_string()) }
    }
}

impl Pipe {
    /// Asks whether there is room. Asked of every pipeline before any of them works.
    ///
    /// # Errors
    /// [`Refusal::Later`].
    pub fn admit(&self, items: u32, request: &[u8]) -> Result<(), Refusal> {
        let admit = |limiter: &Arc<Limiter>| {
            limiter.admit(self.signal, items, request).map_err(|e| Refusal::Later(e.to_string()))
        };
        self.limiters.iter().try_for_each(admit)
    }

    /// Does to a request what the pipeline says, charging what it comes to.
    ///
    /// # Errors
    /// When there is no room for it, or it would be too large.
    pub fn process(
        &self,
        request: &Bytes,
        walked: Walked,
        context: &Context<'_>,
        charge: &mut Charge,
    ) -> Result<Passed, Refusal> {
        let mut passed = Passed { raw: request.clone(), walked, sifted: Vec::new() };
        for (n, step) in self.steps.iter().enumerate() {
            match step {
                Step::Edit(rewriter) => {
                    let limit = request.len() + GROWTH_MAX;
                    passed.raw = rewriter.rewrite(self.signal, &passed.raw, context, limit)?;
                }
                Step::Sift(sieve, _) => {
                    passed.raw = sieve.sift(self.signal, &passed.raw)?;
                    let before = passed.walked.items;
                    passed.walked = walk(self.signal, &passed.raw)?;
                    passed.sifted.push((n, passed.walked.items, before - passed.walked.items));
                }
            }
        }
        if passed.raw.as_ptr() != request.as_ptr() {
            charge.grow(passed.raw.len()).map_err(|e| Refusal::Later(e.to_string()))?;
        }
        Ok(passed)
    }

    /// Where what is left of the request goes; nowhere when nothing is.
    ///
    /// # Errors
    /// [`Refusal::Later`] when its sender would be one group too many.
    pub fn parts(&self, passed: &Passed, caller: Option<&Caller>) -> Result<Vec<(StoreNo, Part)>, Refusal> {
        if passed.walked.items == 0 {
            return Ok(Vec::new());
        }
        let groups = self.groups.as_ref().map(|groups| groups.lanes(caller)).transpose();
        let group = groups.map_err(|e| Refusal::Later(e.to_string()))?.flatten();
        let part = |(store, pipeline): &(StoreNo, Lane)| {
            let theirs = group.iter().flatten().find(|(at, _)| at == store);
            let lane = theirs.map_or(*pipeline, |(_, lane)| *lane);
            let (signal, raw, walked) = (self.signal, passed.raw.clone(), passed.walked);
            (*store, Part { lane, pipeline: *pipeline, signal, raw, walked })
        };
        Ok(self.lanes.iter().map(part).collect())
    }

    /// Is there anything to count or to show when the request was taken?
    #[must_use]
    pub fn looks_back(&self) -> bool {
        !self.tees.is_empty() || self.steps.iter().any(|step| matches!(step, Step::Sift(..)))
    }

    /// Counts what was dropped, now that the client was told that its request was taken: one that it offers again was
    /// not dropped twice.
    pub fn count_dropped(&self, passed: &Passed) {
        for (n, kept, dropped) in &passed.sifted {
            if let Some(Step::Sift(_, metrics)) = self.steps.get(*n) {
                metrics.accepted(self.signal, u64::from(*kept));
                metrics.dropped(self.signal, u64::from(*dropped));
            }
        }
    }

    /// Shows what was taken to whoever only looks.
    pub fn show(&self, passed: &Passed) {
        if passed.walked.items > 0 {
            self.tees.iter().for_each(|tee| tee(self.signal, &passed.walked, &passed.raw));
        }
    }
}
