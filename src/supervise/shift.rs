//! A shift: one thread's time in a seat; and whose code is running on a thread.

use super::roster::Policy;
use super::seat::Seat;
use futures_util::task::AtomicWaker;
use std::any::Any;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

/// One thread's time in a seat: what guard, watchdog and actor share without a lock.
#[derive(Debug, Default)]
pub(super) struct Shift {
    /// Moves with everything the actor handles and every [`beat`].
    beats: AtomicU32,
    /// Moves whenever the guard comes by; together with `beats` it tells whether the thread runs.
    turns: AtomicU32,
    /// Whether the thread is inside the actor's code just now: on a shared thread this names the culprit.
    inside: AtomicBool,
    retired: AtomicBool,
    /// Retired while its thread stood still; the thread is counted until it comes back.
    abandoned: AtomicBool,
    guard: AtomicWaker,
    /// Messages handled since the guard last let the actor run.
    in_this_turn: AtomicU32,
    /// The message being handled.
    doing: Mutex<Option<&'static str>>,
    /// Threads beside its own that work for the post.
    helpers: Mutex<Vec<Weak<Beats>>>,
    /// What the sabotage of a test asked the guard to do.
    pub(super) orders: super::sabotage::Orders,
}

impl Shift {
    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Relaxed);
    }

    pub(super) fn beats(&self) -> u32 {
        self.beats.load(Relaxed)
    }

    pub(super) fn turn(&self) {
        self.turns.fetch_add(1, Relaxed);
    }

    /// Moves when the thread does. May wrap; only differences count.
    pub(super) fn movement(&self) -> u32 {
        self.turns.load(Relaxed).wrapping_add(self.beats())
    }

    pub(super) fn is_inside(&self) -> bool {
        self.inside.load(Relaxed)
    }

    /// The guard lets its actor run.
    pub(super) fn new_turn(&self) {
        self.in_this_turn.store(0, Relaxed);
    }

    /// Counts a message handled; how many it were in this turn.
    pub(super) fn one_more_in_this_turn(&self) -> u32 {
        self.in_this_turn.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// The helpers that still exist.
    pub(super) fn helpers(&self) -> Vec<Arc<Beats>> {
        let mut helpers = lock(&self.helpers);
        helpers.retain(|helper| helper.strong_count() > 0);
        helpers.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn doing(&self) -> Option<&'static str> {
        *lock(&self.doing)
    }

    pub(super) fn begin(&self, what: Option<&'static str>) {
        *lock(&self.doing) = what;
    }

    /// Fences this shift: its actor is not given another message, its guard ends when it next comes by.
    pub(super) fn retire(&self) {
        self.retired.store(true, SeqCst);
        self.guard.wake();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(SeqCst)
    }

    pub(super) fn abandon(&self) {
        self.abandoned.store(true, SeqCst);
    }

    pub(super) fn was_abandoned(&self) -> bool {
        self.abandoned.load(SeqCst)
    }

    /// Ready when the shift was retired.
    pub(super) fn poll_retired(&self, cx: &Context<'_>) -> Poll<()> {
        self.guard.register(cx.waker());
        if self.is_retired() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Whose code is running: set around every entry into an actor.
pub(super) struct Current {
    pub(super) seat: Arc<Seat>,
    pub(super) shift: Arc<Shift>,
    /// An `Arc<dyn Fn() -> A + Send + Sync>` of the actor's own type.
    pub(super) factory: Box<dyn Any + Send + Sync>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Current>>> = const { RefCell::new(None) };
}

impl Current {
    /// Whose code is running on this thread; `None` outside of every post.
    pub(super) fn get() -> Option<Arc<Current>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Runs `f` as this post's code. A panic passes through; the caller catches it outside.
    pub(super) fn enter<T>(self: &Arc<Self>, f: impl FnOnce() -> T) -> T {
        struct Leave<'a>(&'a Current, Option<Arc<Current>>);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.shift.inside.store(false, Relaxed);
                CURRENT.set(self.1.take());
            }
        }
        let _leave = Leave(self, CURRENT.replace(Some(self.clone())));
        self.shift.inside.store(true, Relaxed);
        f()
    }
}

/// Marks progress of the post whose code is running: for handlers and loops that take long.
///
/// Everything handled is progress by itself; this is for what takes longer than the post's deadlines. On a thread
/// that belongs to no post it does nothing; take a [`Pulse`] along to such a thread.
pub fn beat() {
    CURRENT.with_borrow(|current| {
        if let Some(current) = current {
            current.shift.beat();
        }
    });
}

/// Marks progress of a post from elsewhere: a blocking thread or a task that works for it.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Option<Arc<Shift>>);

impl Pulse {
    /// The pulse of the post whose code is running; of nobody outside of every post.
    #[must_use]
    pub fn of_this_post() -> Pulse {
        Pulse(Current::get().map(|current| current.shift.clone()))
    }

    /// The post is alive as long as this is called within its deadlines.
    pub fn beat(&self) {
        if let Some(shift) = &self.0 {
            shift.beat();
        }
    }
}

/// A helper's sign of life.
#[derive(Debug)]
pub(super) struct Beats {
    pub(super) name: &'static str,
    count: AtomicU32,
}

impl Beats {
    /// Moves when the helper does. May wrap; only differences count.
    pub(super) fn count(&self) -> u32 {
        self.count.load(Relaxed)
    }
}

/// A thread that works for a post beside the post's own, for example the one on which a server answers: when it stands
/// still for the post's hard deadline, that is treated as the post's own thread standing still.
///
/// Made on the post's thread and given to the helper's, which lets it beat once in every [`Helper::period`]; watched
/// from then until it is dropped, by a task of that thread or with it.
#[derive(Debug)]
pub struct Helper {
    beats: Arc<Beats>,
    period: Duration,
}

impl Helper {
    /// A helper of the post whose code is running; outside of every post nobody watches it.
    #[must_use]
    pub fn of_this_post(name: &'static str) -> Helper {
        let beats = Arc::new(Beats { name, count: AtomicU32::new(0) });
        let current = Current::get();
        if let Some(current) = &current {
            lock(&current.shift.helpers).push(Arc::downgrade(&beats));
        }
        let policy = current.map_or(Policy::STANDARD, |current| current.seat.post.policy);
        Helper { beats, period: policy.heartbeat }
    }

    /// How often it beats.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.period
    }

    /// It is alive.
    pub fn beat(&self) {
        self.beats.count.fetch_add(1, Relaxed);
    }
}

/// A lock that a panic elsewhere does not take away: what is behind it is written in one piece.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
