//! A seat is one instance of a post; a shift is one thread's time in that seat.
//!
//! ```text
//!   seat "uplink/otlphttp"   shift 1 ──fall──rebuilt──┐ thread stands still: retired, fenced
//!   (name, books, state)                              └─▶ shift 2, on a new thread ─▶ …
//! ```
//!
//! Only the present shift may write the seat's books; a retired one that wakes up changes nothing.

use super::budget::{Budget, Charge};
use super::panics::PanicReport;
use super::roster::Post;
use crate::base::Dice;
use futures_util::task::AtomicWaker;
use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, info, warn};

/// How a seat is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Its actor is being built for the first time.
    Starting,
    /// Its actor works.
    Running,
    /// It fell and waits out its pause; what is sent to it waits in the mailbox.
    Pausing,
    /// It spent its budget. Asking it fails at once. Not vital: it is tried again after a long rest.
    Down,
    /// Its thread stands still.
    Blocked,
    /// It was told to bring to an end what it has in hand.
    Draining,
    /// It did.
    Drained,
    /// It was stopped in order.
    Stopped,
}

impl State {
    /// As in labels and on the status page.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Pausing => "pausing",
            State::Down => "down",
            State::Blocked => "blocked",
            State::Draining => "draining",
            State::Drained => "drained",
            State::Stopped => "stopped",
        }
    }

    /// Whether an actor sits there and works.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, State::Running | State::Draining | State::Drained)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why an actor had to be built anew, or its thread given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It panicked, maybe while handling this message.
    Panic {
        /// The type of the message, its path shortened.
        during: Option<&'static str>,
        /// What was said, and where.
        report: PanicReport,
    },
    /// It handled nothing for its soft deadline.
    Hung {
        /// The deadline.
        after: Duration,
    },
    /// Its thread stood still for its hard deadline.
    Blocked {
        /// The message it was handling.
        during: Option<&'static str>,
        /// How long the watchdog saw no movement.
        after: Duration,
    },
    /// It stopped by itself, which no post may.
    Left,
    /// No thread could be had for it.
    NoThread(String),
    /// The guard itself panicked: a bug in supervision, which is not trusted to go on.
    Guard(PanicReport),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Panic { during: Some(what), report } => write!(f, "panic while handling {what}: {report}"),
            Reason::Panic { during: None, report } => write!(f, "panic: {report}"),
            Reason::Hung { after } => write!(f, "no progress for {after:?}"),
            Reason::Blocked { during: Some(what), after } => write!(f, "thread blocked for {after:?} in {what}"),
            Reason::Blocked { during: None, after } => write!(f, "thread blocked for {after:?}"),
            Reason::Left => f.write_str("stopped by itself"),
            Reason::NoThread(why) => write!(f, "no thread: {why}"),
            Reason::Guard(report) => write!(f, "the guard panicked: {report}"),
        }
    }
}

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

/// One instance of a post.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) post: &'static Post,
    pub(super) instance: String,
    /// `post` or `post/instance`.
    pub(super) name: String,
    shift: Mutex<Arc<Shift>>,
    books: Mutex<Books>,
}

/// What happened in a seat, over all shifts.
#[derive(Debug, Clone)]
pub(super) struct Books {
    pub(super) state: State,
    pub(super) falls: u64,
    pub(super) escalations: u64,
    pub(super) replaced: u64,
    pub(super) reason: Option<Reason>,
    pub(super) progress: Instant,
    budget: Budget,
    dice: Dice,
}

impl Seat {
    pub(super) fn new(post: &'static Post, instance: &str) -> Seat {
        let name = if instance.is_empty() { post.name.to_owned() } else { format!("{}/{instance}", post.name) };
        let books = Books {
            state: State::Starting,
            falls: 0,
            escalations: 0,
            replaced: 0,
            reason: None,
            progress: Instant::now(),
            budget: Budget::default(),
            dice: Dice::shaken(),
        };
        Seat { post, instance: instance.to_owned(), name, shift: Mutex::default(), books: Mutex::new(books) }
    }

    pub(super) fn shift(&self) -> Arc<Shift> {
        lock(&self.shift).clone()
    }

    /// Retires the present shift and begins the next.
    pub(super) fn relieve(&self, old: &Shift) -> Arc<Shift> {
        let mut present = lock(&self.shift);
        old.retire();
        *present = Arc::default();
        present.clone()
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    /// The books, for the present shift alone.
    fn books_of(&self, shift: &Shift) -> Option<MutexGuard<'_, Books>> {
        let books = self.books();
        (!shift.is_retired()).then_some(books)
    }

    // --- events: each counts and logs

    pub(super) fn started(&self, shift: &Shift) {
        let Some(mut books) = self.books_of(shift) else { return };
        books.progress = Instant::now();
        match std::mem::replace(&mut books.state, State::Running) {
            State::Starting => info!(post = self.name, "post started"),
            State::Draining => books.state = State::Draining, // rebuilt in mid-drain: it is asked to drain again
            _ => info!(post = self.name, falls = books.falls, "post is back"),
        }
    }

    pub(super) fn progressed(&self, shift: &Shift) {
        if let Some(mut books) = self.books_of(shift) {
            books.progress = Instant::now();
        }
    }

    /// A fall: enters it and says what it costs; `None` for a retired shift, which has nothing to say any more.
    pub(super) fn fell(&self, shift: &Shift, reason: Reason) -> Option<Charge> {
        let mut books = self.books_of(shift)?;
        let Books { budget, dice, .. } = &mut *books;
        let charge = budget.charge(Instant::now(), &self.post.policy, dice);
        books.falls += 1;
        match charge {
            Charge::Pause(pause) => {
                warn!(post = self.name, %reason, falls = books.falls, ?pause, "post fell and will be rebuilt");
                if books.state != State::Draining {
                    books.state = State::Pausing;
                }
            }
            Charge::Spent => self.escalated(&mut books, &reason),
        }
        books.reason = Some(reason);
        Some(charge)
    }

    fn escalated(&self, books: &mut Books, reason: &Reason) {
        books.escalations += 1;
        books.state = State::Down;
        let (falls, budget, window) = (books.falls, self.post.policy.budget, self.post.policy.window);
        if self.post.vital {
            error!(post = self.name, %reason, falls, budget, ?window, "vital post fell too often, the process ends");
        } else {
            let rest = self.post.policy.long_rest;
            error!(post = self.name, %reason, falls, budget, ?window, ?rest, "post fell too often and rests");
        }
    }

    /// Its guard panicked, or its runtime went away: nobody looks after the seat any more.
    pub(super) fn unguarded(&self, shift: &Shift, reason: Reason) {
        let Some(mut books) = self.books_of(shift) else { return };
        books.escalations += 1;
        books.state = State::Down;
        error!(post = self.name, %reason, "post has lost its guard, the process ends");
        books.reason = Some(reason);
    }

    pub(super) fn blocked(&self, reason: Reason) {
        let mut books = self.books();
        books.state = State::Blocked;
        error!(post = self.name, %reason, on_hang = %self.post.policy.on_hang, "post blocks its thread");
        books.reason = Some(reason);
    }

    pub(super) fn replaced(&self, abandoned: usize) {
        let mut books = self.books();
        books.replaced += 1;
        warn!(post = self.name, replaced = books.replaced, abandoned, "post goes on on a new thread");
    }

    pub(super) fn draining(&self) {
        let mut books = self.books();
        if books.state != State::Down {
            books.state = State::Draining;
        }
    }

    pub(super) fn drained(&self) {
        self.books().state = State::Drained;
    }

    pub(super) fn is_draining(&self) -> bool {
        self.books().state == State::Draining
    }

    pub(super) fn stopped(&self) {
        self.books().state = State::Stopped;
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

/// A lock that a panic elsewhere does not take away: what is behind it is written in one piece.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
