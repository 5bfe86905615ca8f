//! What gathers while a commit is under way: pure, but for the compression it asks for.

use super::OfferError;
use super::budget::Charge;
use crate::base::Stamp;
use crate::otlp::{Signal, Walked};
use crate::spool::block::frame;
use crate::spool::{Lane, NewBlock};
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Requests of a lane are merged into one block up to so many bytes. Serialized requests of one signal concatenate to
/// a valid request. 1 MiB: a reader decompresses a whole block at once, and lz4 gains nothing beyond its 64 KiB window.
const BLOCK_RAW: usize = 1 << 20;

/// One request for one lane.
#[derive(Debug, Clone)]
pub struct Part {
    /// Where it goes.
    pub lane: Lane,
    /// The lane of its pipeline: the same, but for one of a group of `metadata_keys`.
    pub pipeline: Lane,
    /// What it is.
    pub signal: Signal,
    /// The serialized request, validated.
    pub raw: Bytes,
    /// What the walk counted in it.
    pub walked: Walked,
}

/// The offer's answer, given when the last draft that holds a part of it is answered.
#[derive(Debug)]
struct Ticket {
    left: AtomicUsize,
    answer: Mutex<Answer>,
    /// Given back with the last part, whether or not anybody still waits for the answer.
    _charge: Arc<Charge>,
}

/// What was said so far, and to whom it is told in the end.
#[derive(Debug)]
struct Answer {
    so_far: Outcome,
    to: Option<oneshot::Sender<Outcome>>,
}

/// What an offer is told.
pub(super) type Outcome = Result<(), OfferError>;

impl Ticket {
    fn settle(&self, outcome: &Outcome) {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if answer.so_far.is_ok() {
            answer.so_far.clone_from(outcome);
        }
        if self.left.fetch_sub(1, SeqCst) == 1
            && let Some(send) = answer.to.take()
        {
            // A client that hung up hears nothing; what it sent is kept all the same.
            let _ = send.send(answer.so_far.clone());
        }
    }
}

/// A block that is to be: parts of one lane, and who waits for them.
#[derive(Debug)]
pub(super) struct Draft {
    parts: Vec<(Part, Arc<Ticket>)>,
    bytes: usize,
    /// The block's id and accept time: given when it first becomes one, kept for every further try.
    name: (u128, Stamp),
}

/// Drafts that nobody works at yet.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    drafts: Vec<Draft>,
    bytes: usize,
}

impl Gathered {
    /// Takes an offer in; what is returned tells its outcome.
    pub(super) fn add(&mut self, parts: Vec<Part>, charge: Arc<Charge>) -> oneshot::Receiver<Outcome> {
        let (send, receive) = oneshot::channel();
        let ticket = Arc::new(Ticket {
            left: parts.len().into(),
            answer: Mutex::new(Answer { so_far: Ok(()), to: Some(send) }),
            _charge: charge,
        });
        if parts.is_empty() {
            ticket.left.store(1, SeqCst);
            ticket.settle(&Ok(()));
        }
        for part in parts {
            self.bytes += part.raw.len();
            let len = part.raw.len();
            let entry = (part, ticket.clone());
            let fits = |d: &&mut Draft| d.parts[0].0.lane == entry.0.lane && d.bytes + len <= BLOCK_RAW;
            match self.drafts.iter_mut().rev().find(fits) {
                Some(draft) => {
                    draft.bytes += len;
                    draft.parts.push(entry);
                }
                None => self.drafts.push(Draft { parts: vec![entry], bytes: len, name: Default::default() }),
            }
        }
        receive
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn take(&mut self) -> Vec<Draft> {
        self.bytes = 0;
        std::mem::take(&mut self.drafts)
    }
}

impl Draft {
    /// Compresses it into a block, the same every time.
    pub(super) fn block(&self) -> NewBlock {
        let (first, _) = &self.parts[0];
        let merged: Vec<u8>;
        let raw: &[u8] = match &self.parts[..] {
            [(one, _)] => &one.raw,
            all => {
                merged = all.iter().fold(Vec::with_capacity(self.bytes), |mut to, (p, _)| {
                    to.extend_from_slice(&p.raw);
                    to
                });
                &merged
            }
        };
        let known = |ns: &u64| *ns > 0;
        NewBlock {
            lane: first.lane,
            signal: first.signal,
            block_id: self.name.0,
            items: self.parts.iter().map(|(p, _)| p.walked.items).sum(),
            raw_len: u32::try_from(raw.len()).expect("requests are bounded far below 4 GiB"),
            accepted: self.name.1,
            boot: None,
            data_ns: (
                self.parts.iter().map(|(p, _)| p.walked.data_ns.0).filter(known).min().unwrap_or(0),
                self.parts.iter().map(|(p, _)| p.walked.data_ns.1).max().unwrap_or(0),
            ),
            framed: frame(raw),
        }
    }

    /// Names the block it will be.
    pub(super) fn named(mut self, id: u128, now: Stamp) -> Draft {
        self.name = (id, now);
        self
    }

    /// Every offer in these drafts hears this outcome.
    pub(super) fn answer_all(drafts: Vec<Draft>, outcome: &Outcome) {
        for (_, ticket) in drafts.into_iter().flat_map(|d| d.parts) {
            ticket.settle(outcome);
        }
    }

    /// The same parts, one offer at a time: each inner list is one offer, whole.
    pub(super) fn take_apart(drafts: Vec<Draft>, mut id: impl FnMut() -> u128) -> Vec<Vec<Draft>> {
        let mut offers: Vec<(Arc<Ticket>, Vec<Draft>)> = Vec::new();
        for draft in drafts {
            let now = draft.name.1;
            for (part, ticket) in draft.parts {
                let alone = Draft { bytes: part.raw.len(), parts: vec![(part, ticket.clone())], name: (id(), now) };
                match offers.iter_mut().find(|(t, _)| Arc::ptr_eq(t, &ticket)) {
                    Some((_, drafts)) => drafts.push(alone),
                    None => offers.push((ticket, vec![alone])),
                }
            }
        }
        offers.into_iter().map(|(_, drafts)| drafts).collect()
    }
}
