//! Goes before the data: at a start and after a long outage the first thing a far end gets is a registration.
//!
//! ```text
//! uplink ── upload ──▶ Announced ── does the platform know us? ── yes ──▶ the far end
//!                                        │ no
//!                                        ▼
//!                         a registration: somebody answers ─▶ the upload follows
//!                                         nobody does ──────▶ to the uplink that is its probe, and it failed
//! ```
//!
//! An uplink knocks with one upload while its far end is silent (promise P9); after `offline_after` this knocks with a letter
//! of a kilobyte in its place. So the platform has the agent in its table before the backlog comes, whoever notices first that
//! the link is back.
//!
//! What always holds:
//! * Data waits for no actor: the letter is said from the uplink's own thread, on a client of its own, and a panic over it
//!   costs nothing but the letter.
//! * One letter at a time, and silence is waited for once: what comes while a letter is out shares what came of it. So six uploads that
//!   begin at a black hole wait for one timeout and not for six.
//! * Any answer lets the data go, also a refusal. Without an answer the data goes at once if the letter's way is another one
//!   than the data's, else after the second letter that found a connection and no answer. The actor goes on asking.

use super::answer::{Answer, Heard};
use super::line::Line;
use super::office::Office;
use crate::supervise::contain;
use crate::uplink::link::Trouble;
use crate::uplink::transport::{Parcel, Transport};
use crate::uplink::verdict::Verdict;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A transport before which a registration goes when one is owed.
#[derive(Debug, Clone)]
pub struct Announced {
    inner: Arc<dyn Transport>,
    office: Arc<Office>,
    line: Arc<dyn Line>,
    /// Letter and data go to the same place: silence of the one is silence of the other.
    is_same_way: bool,
    /// One letter at a time; with the last one that was met with silence.
    turn: Arc<Mutex<Option<Silence>>>,
}

/// A letter that nobody answered.
#[derive(Debug)]
struct Silence {
    /// When that was known.
    at: Instant,
    trouble: Trouble,
    why: String,
}

impl Announced {
    /// Over `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Transport>, office: Arc<Office>, line: Arc<dyn Line>, is_same_way: bool) -> Announced {
        Announced { inner, office, line, is_same_way, turn: Arc::default() }
    }

    /// Says what is owed. The verdict on data that cannot go.
    async fn announce(&self) -> Option<Verdict> {
        let came = Instant::now();
        let mut last = self.turn.lock().await;
        let call = self.office.owes()?;
        if let Some(Silence { trouble, why, .. }) = last.as_ref().filter(|last| last.at > came) {
            return Some(Verdict::Silence { trouble: *trouble, why: why.clone() });
        }
        let Ok(answer) = contain("registration", self.office.say(&*self.line, call)).await else {
            self.office.waive();
            return None;
        };
        let Answer { heard: Heard::Silent(trouble), why, .. } = answer else { return None };
        if !self.is_same_way {
            self.office.waive(); // it tells nothing of the way that data goes, which must not wait for each upload again
        }
        *last = Some(Silence { at: Instant::now(), trouble, why: why.clone() });
        self.office.owes().map(|_| Verdict::Silence { trouble, why })
    }
}

impl Transport for Announced {
    fn send(&self, parcel: Parcel) -> BoxFuture<'static, Verdict> {
        if self.office.owes().is_none() {
            return self.inner.send(parcel);
        }
        let this = self.clone();
        async move {
            match this.announce().await {
                Some(silence) => silence,
                None => this.inner.send(parcel).await,
            }
        }
        .boxed()
    }
}
