//! One pipeline's way from a validated request to what the batchers are offered.

use super::memory_limiter::Limiter;
use crate::batcher::Part;
use crate::batcher::budget::Charge;
use crate::otlp::{Context, Malformed, Rewriter, Signal, Walked};
use crate::spool::Lane;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// Somebody who is shown what passes, and has no say: the `debug` exporter.
pub type Tee = Arc<dyn Fn(Signal, &Walked, &Bytes) + Send + Sync>;

/// Most bytes the edits of one pipeline may add to a request: 16 MiB. Three attributes of 60 bytes on each of 90,000
/// items; a request of the default 4 MiB has that many only of the very smallest.
const GROWTH_MAX: usize = 16 << 20;

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
    /// `resource` and `attributes`, in order; `None` when there are none.
    pub rewriter: Option<Rewriter>,
    /// Its lane in each store an exporter of it reads.
    pub lanes: Vec<(StoreNo, Lane)>,
    /// `debug` exporters.
    pub tees: Vec<Tee>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("name", &self.name).field("lanes", &self.lanes).finish_non_exhaustive()
    }
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
    pub fn admit(&self, items: u32) -> Result<(), Refusal> {
        let admit =
            |limiter: &Arc<Limiter>| limiter.admit(self.signal, items).map_err(|e| Refusal::Later(e.to_string()));
        self.limiters.iter().try_for_each(admit)
    }

    /// Edits the request, charging what it comes to.
    ///
    /// # Errors
    /// When there is no room for it, or it would be too large.
    pub fn edit(&self, request: &Bytes, context: &Context<'_>, charge: &mut Charge) -> Result<Bytes, Refusal> {
        let raw = match &self.rewriter {
            Some(rewriter) => rewriter.rewrite(self.signal, request, context, request.len() + GROWTH_MAX)?,
            None => return Ok(request.clone()),
        };
        charge.grow(raw.len()).map_err(|e| Refusal::Later(e.to_string()))?;
        Ok(raw)
    }

    /// Where the edited request goes.
    pub fn parts(&self, raw: &Bytes, walked: Walked) -> impl Iterator<Item = (StoreNo, Part)> {
        let part = move |(store, lane): &(StoreNo, Lane)| {
            (*store, Part { lane: *lane, signal: self.signal, raw: raw.clone(), walked })
        };
        self.lanes.iter().map(part)
    }

    /// Shows what was taken to whoever only looks.
    pub fn show(&self, raw: &Bytes, walked: Walked) {
        self.tees.iter().for_each(|tee| tee(self.signal, &walked, raw));
    }
}
