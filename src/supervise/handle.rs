//! What peers hold instead of a bare `Addr`: it survives rebuilding, replacement and a long rest.
//!
//! ```text
//!  asker ── ask ──▶ a place in the mailbox (counted) ──▶ errand ──▶ actor ──▶ answer
//!                        │ none free: the asker waits         │ fell, or its thread was given up
//!  teller ── tell ─▶     │ none free: `Untold::Full`          └──────────▶ `Fallen::Unanswered`
//! ```
//!
//! Actix's own bound is none for this use: every clone of an `Addr` has a slot of its own, so a thousand clones
//! put a thousand messages into a mailbox of sixteen. Here the places are counted and freed when handling begins.

use super::Member;
use super::shift::Current;
use actix::dev::MessageResponse as _;
use actix::dev::channel::{AddressReceiver, channel};
use actix::prelude::SendError;
use actix::{Actor, ActorContext as _, Addr, AsyncContext as _, Context, Handler, Message};
use futures_util::future::BoxFuture;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fallen {
    /// Unknown outcome: the post had the message and fell, or its thread was given up. Offer it again with the
    /// same id, but not for ever: it may be what made the post fall.
    #[error("`{0}` fell before it answered")]
    Unanswered(Arc<str>),
    /// Unknown outcome: the time for an answer is over.
    #[error("`{0}` did not answer in time")]
    Late(Arc<str>),
    /// Nothing happened: nobody sits there, and not soon. Refuse, or do without.
    #[error("`{0}` is down")]
    Down(Arc<str>),
}

/// Why news could not be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// Its mailbox is full; the next news will say what this one would have.
    #[error("the mailbox of `{0}` is full")]
    Full(Arc<str>),
    /// Nobody sits there.
    #[error("`{0}` is down")]
    Down(Arc<str>),
}

/// A stable way to reach one post.
pub struct Handle<A: Actor>(Arc<Slot<A>>);

impl<A: Member> Handle<A> {
    /// Asks once and waits for the answer, however long it takes.
    ///
    /// While the post is rebuilt the message waits in its mailbox. Dropping the future before the message is
    /// handled takes it back.
    ///
    /// # Errors
    /// No answer; see [`Fallen`] for what is known then.
    pub async fn ask<M>(&self, message: M) -> Result<M::Result, Fallen>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
    {
        let name = || self.0.name.clone();
        let (answer, mut answered) = oneshot::channel();
        let mut errand = Errand::asking(message, answer);
        let mut opening = self.0.opening.subscribe();
        loop {
            let Some(open) = opening.borrow_and_update().clone() else { return Err(Fallen::Down(name())) };
            let place = tokio::select! {
                biased;
                place = open.places.clone().acquire_owned() => place.expect("places are never closed"),
                _ = opening.changed() => continue, // replaced or down meanwhile; the message is still ours
            };
            errand.place = Some(place);
            match open.addr.try_send(errand) {
                Ok(()) => break,
                Err(SendError::Full(back) | SendError::Closed(back)) => errand = back,
            }
            // Closed but still announced: the moment between the fall and its announcement, or the end of a runtime.
            if !opening.has_changed().unwrap_or(false) {
                return Err(Fallen::Down(name()));
            }
        }
        tokio::select! {
            biased;
            answer = &mut answered => answer.map_err(|_| Fallen::Unanswered(name())),
            _ = opening.changed() => answered.try_recv().map_err(|_| Fallen::Unanswered(name())),
        }
    }

    /// Asks at most `tries` times, each time for at most `each`, whoever sits there by then.
    ///
    /// Every try is a new message, so what it does must be safe to do twice. A post that is down ends it at once.
    ///
    /// # Errors
    /// How the last try ended.
    pub async fn ask_again<M>(&self, tries: u32, each: Duration, make: impl Fn() -> M) -> Result<M::Result, Fallen>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
    {
        let mut last = Fallen::Late(self.0.name.clone());
        for _ in 0..tries.max(1) {
            // No pause between tries: a post that fell keeps its mailbox shut for its own pause.
            match tokio::time::timeout(each, self.ask(make())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(down @ Fallen::Down(_))) => return Err(down),
                Ok(Err(fallen)) => last = fallen,
                Err(_) => last = Fallen::Late(self.0.name.clone()),
            }
        }
        Err(last)
    }

    /// Tells without waiting: for news that the next news replaces.
    ///
    /// # Errors
    /// When there is no place for it, or nobody to hear it. It was not delivered then.
    pub fn tell<M>(&self, message: M) -> Result<(), Untold>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
    {
        let name = || self.0.name.clone();
        let open = self.0.opening.borrow().clone().ok_or_else(|| Untold::Down(name()))?;
        let place = open.places.clone().try_acquire_owned().map_err(|_| Untold::Full(name()))?;
        let mut errand = Errand::telling(message);
        errand.place = Some(place);
        open.addr.try_send(errand).map_err(|_| Untold::Down(name()))
    }

    /// One kind of message to this post, for a peer that need not know who handles it.
    #[must_use]
    pub fn line<M>(&self) -> Line<M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
    {
        let handle = self.clone();
        Line::new(move |message| {
            let handle = handle.clone();
            async move { handle.ask(message).await }
        })
    }
}

impl<A: Actor> Handle<A> {
    pub(super) fn new(slot: Arc<Slot<A>>) -> Handle<A> {
        Handle(slot)
    }

    /// `post` or `post/instance`, as in logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

impl<A: Actor> Clone for Handle<A> {
    fn clone(&self) -> Handle<A> {
        Handle(self.0.clone())
    }
}

impl<A: Actor> fmt::Debug for Handle<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.0.name).finish()
    }
}

/// One kind of message to somebody: a [`Handle`] without the actor's type, or any function in a test.
pub struct Line<M: Message>(Arc<Speak<M>>);

type Speak<M> = dyn Fn(M) -> BoxFuture<'static, Result<<M as Message>::Result, Fallen>> + Send + Sync;

impl<M: Message + 'static> Line<M> {
    /// A line to whatever `speak` does.
    pub fn new<F>(speak: impl Fn(M) -> F + Send + Sync + 'static) -> Line<M>
    where
        F: Future<Output = Result<M::Result, Fallen>> + Send + 'static,
    {
        Line(Arc::new(move |message| Box::pin(speak(message))))
    }

    /// As [`Handle::ask`].
    ///
    /// # Errors
    /// No answer; see [`Fallen`].
    pub async fn ask(&self, message: M) -> Result<M::Result, Fallen> {
        (self.0)(message).await
    }
}

impl<M: Message> Clone for Line<M> {
    fn clone(&self) -> Line<M> {
        Line(self.0.clone())
    }
}

impl<M: Message> fmt::Debug for Line<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Line").field(&short_type_name::<M>()).finish()
    }
}

/// Where the handles of one seat look up whom to speak to.
pub(super) struct Slot<A: Actor> {
    name: Arc<str>,
    mailbox: usize,
    /// `None`: nobody sits there. Every change means that the former mailbox is gone or fenced.
    opening: watch::Sender<Option<Arc<Open<A>>>>,
}

struct Open<A: Actor> {
    addr: Addr<A>,
    places: Arc<Semaphore>,
}

impl<A: Actor> Slot<A> {
    pub(super) fn new(name: &str, mailbox: usize) -> Arc<Slot<A>> {
        Arc::new(Slot { name: name.into(), mailbox, opening: watch::Sender::new(None) })
    }

    /// A new mailbox, announced to all handles.
    pub(super) fn open(&self) -> AddressReceiver<A> {
        let (sender, receiver) = channel(0); // 0: no bound of actix's own; the places are the bound
        let places = Arc::new(Semaphore::new(self.mailbox));
        self.opening.send_replace(Some(Arc::new(Open { addr: Addr::new(sender), places })));
        receiver
    }

    /// Nobody sits there from now on.
    pub(super) fn close(&self) {
        self.opening.send_replace(None);
    }

    /// The address behind the slot just now.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn addr(&self) -> Option<Addr<A>> {
        self.opening.borrow().as_ref().map(|open| open.addr.clone())
    }

    /// Messages that wait in the mailbox.
    pub(super) fn waiting(&self) -> usize {
        self.opening.borrow().as_ref().map_or(0, |open| self.mailbox.saturating_sub(open.places.available_permits()))
    }
}

type Job<A> = Box<dyn FnOnce(&mut A, &mut Context<A>) + Send>;

/// Messages an actor handles before the others on its thread have their turn.
///
/// Actix empties a mailbox in one go (`mailbox.rs:88`), so senders on other threads that refill it fast enough keep
/// an actor's timers, its neighbours and its guard waiting for ever. 64 cheap messages take less than 0.1 ms.
const BURST: u32 = 64;

/// A message on its way, with its place in the mailbox.
pub struct Errand<A: Actor<Context = Context<A>>> {
    what: &'static str,
    place: Option<OwnedSemaphorePermit>,
    job: Job<A>,
}

impl<A: Actor<Context = Context<A>>> Message for Errand<A> {
    type Result = ();
}

impl<A: Actor<Context = Context<A>>> Errand<A> {
    fn asking<M>(message: M, answer: oneshot::Sender<M::Result>) -> Errand<A>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
    {
        Errand::new::<M>(move |actor: &mut A, ctx| {
            if !answer.is_closed() {
                actor.handle(message, ctx).handle(ctx, Some(answer));
            }
        })
    }

    fn telling<M>(message: M) -> Errand<A>
    where
        M: Message + Send + 'static,
        A: Handler<M>,
    {
        Errand::new::<M>(move |actor: &mut A, ctx| actor.handle(message, ctx).handle(ctx, None))
    }

    fn new<M>(job: impl FnOnce(&mut A, &mut Context<A>) + Send + 'static) -> Errand<A> {
        Errand { what: short_type_name::<M>(), place: None, job: Box::new(job) }
    }

    /// What `supervised!` makes the handler of errands do.
    pub fn run(self, actor: &mut A, ctx: &mut Context<A>) {
        let Errand { what, place, job } = self;
        drop(place);
        let Some(current) = Current::get() else { return job(actor, ctx) };
        if current.shift.is_retired() {
            return ctx.terminate(); // the fence: a woken thread handles nothing that its successor may have
        }
        current.shift.begin(Some(what));
        job(actor, ctx);
        current.shift.begin(None);
        current.shift.beat();
        if current.shift.one_more_in_this_turn() >= BURST {
            // While a future is waited for the mailbox is left alone: this one is over at the actor's next turn.
            ctx.wait(actix::fut::wrap_future(tokio::task::yield_now()));
        }
    }
}

/// `tfo_otel_agent::spool::Commit` is `Commit` in a log.
fn short_type_name<T>() -> &'static str {
    let full = std::any::type_name::<T>();
    let generics = full.find('<').unwrap_or(full.len());
    full[..generics].rfind("::").map_or(full, |at| &full[at + 2..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_as_people_say_them() {
        assert_eq!(short_type_name::<std::time::Duration>(), "Duration");
        assert_eq!(short_type_name::<Option<std::time::Duration>>(), "Option<core::time::Duration>");
        assert_eq!(short_type_name::<u8>(), "u8");
    }
}
