//! Faults on command, so that a test can walk the roster and see every post fall in every way.
//!
//! Compiled for tests and with the feature `testing`; in a release there is nothing to give an order to.

#[cfg(not(any(test, feature = "testing")))]
pub(super) use never::Orders;
#[cfg(not(any(test, feature = "testing")))]
pub use never::Saboteur;
#[cfg(any(test, feature = "testing"))]
pub(super) use on_command::Orders;
#[cfg(any(test, feature = "testing"))]
pub use on_command::{Sabotage, Saboteur, carry_out};

#[cfg(any(test, feature = "testing"))]
mod on_command {
    use super::super::Member;
    use super::super::guard::respond;
    use super::super::shift::Current;
    use actix::{AsyncContext as _, Context, WrapFuture as _};
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::Duration;

    /// A way to fall. The post is hit when it handles this, in turn with its other messages.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Sabotage {
        /// `panic!` in a message handler.
        PanicInHandler,
        /// `panic!` in a future given to `ctx.spawn`.
        PanicInSpawned,
        /// `panic!` in a timer (`ctx.run_later`).
        PanicInTimer,
        /// `panic!` in a `ResponseFuture` made by [`respond`](crate::supervise::respond).
        PanicInResponse,
        /// `panic!` in the handler and once more while it is rebuilt: two falls.
        PanicAtNextStart,
        /// `panic!` in the handler and once more as the next life's `started` ends, with all that it has begun: two falls.
        PanicAsItStarts,
        /// The actor waits for something that never comes; its thread runs on.
        HangSoft,
        /// The thread sleeps in the handler.
        BlockThread(Duration),
        /// The actor calls `ctx.stop()`, which no post may.
        StopItself,
        /// The guard itself panics.
        PanicInGuard,
    }

    impl actix::Message for Sabotage {
        type Result = ();
    }

    /// Orders that the guard carries out itself.
    #[derive(Debug, Default)]
    pub(crate) struct Orders {
        fail_next_start: AtomicBool,
        fail_started: AtomicBool,
        fail_guard: AtomicBool,
    }

    impl Orders {
        pub(crate) fn at_start(&self) {
            assert!(!self.fail_next_start.swap(false, SeqCst), "sabotage: while being rebuilt");
        }

        /// The new value is there and has not started yet. A future that is spawned now runs right after `started`.
        pub(crate) fn before_started<A: Member>(&self, ctx: &mut Context<A>) {
            if self.fail_started.swap(false, SeqCst) {
                ctx.spawn(actix::fut::wrap_future(async { panic!("sabotage: as it starts") }));
            }
        }

        pub(crate) fn in_guard(&self) {
            assert!(!self.fail_guard.swap(false, SeqCst), "sabotage: in the guard");
        }
    }

    /// A type that can be sabotaged: every supervised one.
    pub trait Saboteur: actix::Actor + actix::Handler<Sabotage> {}
    impl<A: actix::Actor + actix::Handler<Sabotage>> Saboteur for A {}

    /// What `supervised!` makes the handler of [`Sabotage`] do.
    ///
    /// # Panics
    /// When told to.
    pub fn carry_out<A: Member>(case: Sabotage, actor: &mut A, ctx: &mut Context<A>) {
        let orders = |set: fn(&Orders)| Current::get().iter().for_each(|current| set(&current.shift.orders));
        match case {
            Sabotage::PanicInHandler => panic!("sabotage: in a handler"),
            Sabotage::PanicInSpawned => {
                ctx.spawn(async { panic!("sabotage: in a spawned future") }.into_actor(actor));
            }
            Sabotage::PanicInTimer => {
                ctx.run_later(Duration::from_millis(1), |_, _| panic!("sabotage: in a timer"));
            }
            Sabotage::PanicInResponse => {
                actix_rt::spawn(respond(ctx, async { panic!("sabotage: in a response") }));
            }
            Sabotage::PanicAtNextStart => {
                orders(|orders| orders.fail_next_start.store(true, SeqCst));
                panic!("sabotage: in a handler, and again at the next start");
            }
            Sabotage::PanicAsItStarts => {
                orders(|orders| orders.fail_started.store(true, SeqCst));
                panic!("sabotage: in a handler, and again as it starts");
            }
            Sabotage::HangSoft => ctx.wait(std::future::pending::<()>().into_actor(actor)),
            Sabotage::BlockThread(time) => std::thread::sleep(time),
            Sabotage::StopItself => actix::ActorContext::stop(ctx),
            Sabotage::PanicInGuard => orders(|orders| orders.fail_guard.store(true, SeqCst)),
        }
    }
}

#[cfg(not(any(test, feature = "testing")))]
mod never {
    /// Nobody gives orders in a release.
    #[derive(Debug, Default)]
    pub(crate) struct Orders;

    impl Orders {
        pub(crate) fn at_start(&self) {}
        pub(crate) fn before_started<C>(&self, _: &mut C) {}
        pub(crate) fn in_guard(&self) {}
    }

    /// Asks nothing of anybody in a release.
    pub trait Saboteur {}
    impl<A> Saboteur for A {}
}

/// The part of `supervised!` that exists only where sabotage does.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __supervised_sabotage {
    ([$($param:tt)*] $t:ty) => {
        impl<$($param)*> ::actix::Handler<$crate::supervise::Sabotage> for $t {
            type Result = ();

            fn handle(&mut self, case: $crate::supervise::Sabotage, ctx: &mut Self::Context) {
                $crate::supervise::carry_out(case, self, ctx);
            }
        }
    };
}

/// The part of `supervised!` that exists only where sabotage does.
#[cfg(not(any(test, feature = "testing")))]
#[doc(hidden)]
#[macro_export]
macro_rules! __supervised_sabotage {
    ([$($param:tt)*] $t:ty) => {};
}
