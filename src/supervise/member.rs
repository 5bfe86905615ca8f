//! What an actor brings along to be supervised, and the macro that brings it.

use super::panics;
use super::sabotage::Saboteur;
use super::shift::Current;
use super::{Errand, PanicReport};
use actix::{Actor, AsyncContext as _, Context, Handler, Message, Supervised};
use std::sync::Arc;
use tracing::warn;

/// Builds an actor, as often as it takes.
pub(super) type Factory<A> = Arc<dyn Fn() -> A + Send + Sync>;

/// An actor that can be supervised. [`supervised!`](crate::supervised) implements all of it.
pub trait Member:
    Actor<Context = Context<Self>>
    + Supervised
    + LetGo
    + Saboteur
    + Handler<Ping>
    + Handler<Crash>
    + Handler<Drain>
    + Handler<Errand<Self>>
{
}

impl<A> Member for A where
    A: Actor<Context = Context<A>>
        + Supervised
        + LetGo
        + Saboteur
        + Handler<Ping>
        + Handler<Crash>
        + Handler<Drain>
        + Handler<Errand<A>>
{
}

/// Releases what only one may hold (a lock file, a port, an open database) before a fallen actor is rebuilt.
///
/// The new value is built while the old one still exists, so what the factory opens exclusively must be let go
/// here. May be called more than once, on a value that panicked at any point; a panic here is logged and borne.
pub trait LetGo {
    /// Nothing to let go, unless the actor says otherwise.
    fn let_go(&mut self) {}
}

/// Bring to an end what you have in hand; answer when it is safe.
///
/// `Supervisor` → every post, stage by stage, at a stop. Asked again when the post falls meanwhile. New messages
/// may still come after the answer, from posts of later stages. Never `ctx.stop()`: that drops the mailbox.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Drain;

/// Guard → its own actor: are you there? Handling it is the answer.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Ping;

/// A detached future of the actor → the actor: I panicked; fall.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Crash(pub(super) PanicReport);

impl Crash {
    /// What `supervised!` makes the handler of this do.
    ///
    /// # Panics
    /// Always: that is what it is for. The hook is not called again.
    pub fn happen(self) -> ! {
        panics::throw_on(self.0)
    }
}

/// Makes an actor a [`crate::supervise::Member`].
///
/// ```ignore
/// supervised!(Uplink);                                        // nothing to drain, nothing to let go
/// supervised!(Batcher, drain: own);                           // implements Handler<Drain> itself
/// supervised!(SpoolWriter, drain: own, let_go: Self::close);  // fn close(&mut self)
/// supervised!(Lock, let_go: |lock: &mut Lock| drop(lock.file.take()));
/// supervised!([D: Depot] Uplink<D>, drain: own);              // type parameters in front
/// ```
#[macro_export]
macro_rules! supervised {
    (@drain [own] [$($param:tt)*] $t:ty) => {};
    (@drain [] [$($param:tt)*] $t:ty) => {
        impl<$($param)*> ::actix::Handler<$crate::supervise::Drain> for $t {
            type Result = ();

            fn handle(&mut self, _: $crate::supervise::Drain, _: &mut Self::Context) {}
        }
    };
    ([$($param:tt)*] $t:ty $(, drain: $drain:ident)? $(, let_go: $let_go:expr)?) => {
        $crate::supervised!(@drain [$($drain)?] [$($param)*] $t);

        impl<$($param)*> $crate::supervise::LetGo for $t {
            $(
                fn let_go(&mut self) {
                    ($let_go)(self);
                }
            )?
        }

        impl<$($param)*> ::actix::Supervised for $t {
            fn restarting(&mut self, ctx: &mut Self::Context) {
                $crate::supervise::rebuild(self, ctx);
            }
        }

        impl<$($param)*> ::actix::Handler<$crate::supervise::Errand<$t>> for $t {
            type Result = ();

            fn handle(&mut self, errand: $crate::supervise::Errand<$t>, ctx: &mut Self::Context) {
                errand.run(self, ctx);
            }
        }

        impl<$($param)*> ::actix::Handler<$crate::supervise::Ping> for $t {
            type Result = ();

            fn handle(&mut self, _: $crate::supervise::Ping, _: &mut Self::Context) {
                $crate::supervise::beat();
            }
        }

        impl<$($param)*> ::actix::Handler<$crate::supervise::Crash> for $t {
            type Result = ();

            fn handle(&mut self, crash: $crate::supervise::Crash, _: &mut Self::Context) {
                crash.happen()
            }
        }

        $crate::__supervised_sabotage!([$($param)*] $t);
    };
    ($t:ty $(, drain: $drain:ident)? $(, let_go: $let_go:expr)?) => {
        $crate::supervised!([] $t $(, drain: $drain)? $(, let_go: $let_go)?);
    };
}

/// What `supervised!` makes `Supervised::restarting` do: let go, then `*self = factory()`.
///
/// # Panics
/// When the factory does (that is a fall like any other), or outside of a guard.
pub fn rebuild<A: Member>(actor: &mut A, ctx: &mut Context<A>) {
    let current = Current::get().expect("only a guard restarts a supervised actor");
    absorb_cancellations(ctx);
    if let Err(report) = panics::catch(|| actor.let_go()) {
        warn!(post = current.seat.name, panic = %report, "post panicked while it let go");
    }
    current.shift.orders.at_start();
    let factory = current.factory.downcast_ref::<Factory<A>>().expect("the guard entered with this actor's factory");
    *actor = factory();
    current.shift.orders.before_started(ctx);
}

/// Most futures of an earlier life that a cancellation left over from it can name; see [`absorb_cancellations`].
const ABSORBED: usize = 64;

/// Keeps cancellations of the former life away from the futures of the next.
///
/// `ContextParts::restart` (actix 0.13.5, `context_impl.rs:162`) begins to count spawn handles from one again but
/// keeps the list of handles to be cancelled: a handler that calls `cancel_future(h)` and then panics would
/// silently cancel the new life's future number `h`, for example its first timer. Those that still stand are
/// carried out right after `started`, so empty futures take the low numbers before it. A timer wound at the start
/// of a life has a low number; a higher one is taken only by bad luck within one poll.
fn absorb_cancellations<A: Member>(ctx: &mut Context<A>) {
    for _ in 0..ABSORBED {
        ctx.spawn(actix::fut::wrap_future(std::future::ready(())));
    }
}
