//! A seat is one instance of a post: its name, its state, and its books over all shifts.
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
use super::shift::{Shift, lock};
use super::watch::SeatView;
use crate::base::Dice;
use std::fmt;
use std::sync::atomic::{AtomicIsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
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

/// One instance of a post.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) post: &'static Post,
    pub(super) instance: String,
    /// `post` or `post/instance`.
    pub(super) name: String,
    shift: Mutex<Arc<Shift>>,
    /// Guards at work here: more than one while an abandoned thread has not come back.
    occupied: AtomicIsize,
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
        Seat {
            post,
            instance: instance.to_owned(),
            name,
            shift: Mutex::default(),
            occupied: AtomicIsize::new(0),
            books: Mutex::new(books),
        }
    }

    pub(super) fn shift(&self) -> Arc<Shift> {
        lock(&self.shift).clone()
    }

    /// Retires the present shift and begins the next, which in a stopped seat is over before it began.
    pub(super) fn relieve(&self, old: &Shift) -> Arc<Shift> {
        let mut present = lock(&self.shift);
        old.retire();
        *present = Arc::default();
        if self.books().state == State::Stopped {
            present.retire();
        }
        present.clone()
    }

    /// Retires the present shift for good.
    pub(super) fn stop(&self) {
        let present = lock(&self.shift);
        let mut books = self.books(); // held: what is entered from now on is entered by a retired shift, and is not
        books.state = State::Stopped;
        present.retire();
    }

    pub(super) fn occupied(&self, more: isize) {
        self.occupied.fetch_add(more, SeqCst);
    }

    pub(super) fn is_occupied(&self) -> bool {
        self.occupied.load(SeqCst) > 0
    }

    /// How it is, with so many messages in its mailbox.
    pub(super) fn view(&self, waiting: usize) -> SeatView {
        let (post, books) = (self.post, self.books());
        SeatView {
            name: self.name.clone(),
            post: post.name,
            instance: self.instance.clone(),
            vital: post.vital,
            state: books.state,
            falls: books.falls,
            escalations: books.escalations,
            replaced: books.replaced,
            last_reason: books.reason.clone(),
            quiet_for: books.progress.elapsed(),
            patience: post.policy.soft_deadline.max(post.policy.hard_deadline) + post.policy.heartbeat * 2,
            waiting,
            mailbox: post.mailbox,
        }
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    /// The books, for the present shift alone.
    fn books_of(&self, shift: &Shift) -> Option<MutexGuard<'_, Books>> {
        let books = self.books();
        (!shift.is_retired()).then_some(books)
    }

    // --- events: each counts and logs. The log may block (a full pipe), so the books are given back before it.

    pub(super) fn started(&self, shift: &Shift) {
        let Some(mut books) = self.books_of(shift) else { return };
        books.progress = Instant::now();
        let before = books.state;
        if before != State::Draining {
            books.state = State::Running; // one rebuilt in mid-drain is asked to drain again
        }
        let falls = books.falls;
        drop(books);
        match before {
            State::Starting => info!(post = self.name, "post started"),
            _ => info!(post = self.name, falls, "post is back"),
        }
    }

    pub(super) fn progressed(&self, shift: &Shift) {
        if let Some(mut books) = self.books_of(shift) {
            books.progress = Instant::now();
        }
    }

    /// A fall: enters it and says what it costs; `None` for a retired shift, which has nothing to say any more.
    pub(super) fn fell(&self, shift: &Shift, reason: Reason) -> Option<Charge> {
        let policy = &self.post.policy;
        let mut books = self.books_of(shift)?;
        let Books { budget, dice, .. } = &mut *books;
        let charge = budget.charge(Instant::now(), policy, dice);
        books.falls += 1;
        books.reason = Some(reason.clone());
        match charge {
            Charge::Pause(_) if books.state == State::Draining => {}
            Charge::Pause(_) => books.state = State::Pausing,
            Charge::Spent => {
                books.escalations += 1;
                books.state = State::Down;
            }
        }
        let falls = books.falls;
        drop(books);
        let (budget, window, rest) = (policy.budget, policy.window, policy.long_rest);
        match charge {
            Charge::Pause(pause) => warn!(post = self.name, %reason, falls, ?pause, "post fell and will be rebuilt"),
            Charge::Spent if self.post.vital => {
                error!(post = self.name, %reason, falls, budget, ?window, "vital post fell too often, the process ends");
            }
            Charge::Spent => {
                error!(post = self.name, %reason, falls, budget, ?window, ?rest, "post fell too often and rests");
            }
        }
        Some(charge)
    }

    /// Its guard panicked, or its runtime went away: nobody looks after the seat any more.
    pub(super) fn unguarded(&self, shift: &Shift, reason: Reason) {
        let Some(mut books) = self.books_of(shift) else { return };
        books.escalations += 1;
        books.state = State::Down;
        books.reason = Some(reason.clone());
        drop(books);
        error!(post = self.name, %reason, "post has lost its guard, the process ends");
    }

    pub(super) fn blocked(&self, reason: &Reason) {
        let mut books = self.books();
        books.state = State::Blocked;
        books.reason = Some(reason.clone());
        drop(books);
        error!(post = self.name, %reason, on_hang = %self.post.policy.on_hang, "post blocks its thread");
    }

    pub(super) fn replaced(&self, abandoned: usize) {
        let mut books = self.books();
        books.replaced += 1;
        let replaced = books.replaced;
        drop(books);
        warn!(post = self.name, replaced, abandoned, "post goes on on a new thread");
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
}
