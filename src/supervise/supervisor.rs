//! The supervisor: fills the posts, hears how they are, and says when it is over. It never awaits a child.

use super::budget::Charge;
use super::guard::{Opening, Staff, begin_shift};
use super::handle::Slot;
use super::panics::panic_counts;
use super::seat::{Reason, Seat, Shift, lock};
use super::watch::{SeatView, Watch};
use super::watchdog::{self, Watchdog};
use super::{Drain, Exit, Fallen, Handle, Member, Post, Roster, Stage};
use actix::{Arbiter, ArbiterHandle};
use futures_util::future::{BoxFuture, join_all};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tracing::{error, info, warn};

/// Threads that may stand still, given up, at the same time. Each holds a stack, a runtime and what it was doing;
/// more than four means that replacing does not help.
const ABANDONED_MAX: usize = 4;

/// What the supervision as a whole goes by.
#[derive(Clone)]
pub struct Settings {
    /// A main thread that stands still for so long ends the process.
    pub main_deadline: Duration,
    /// Time the main thread has to take up that a post is blocked.
    pub grace: Duration,
    /// What ends the process when nobody else can: `exit(71)`, or something a test can see.
    pub last_resort: Arc<dyn Fn(&End) + Send + Sync>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            main_deadline: Duration::from_secs(60),
            grace: Duration::from_secs(10),
            last_resort: Arc::new(|end| end.exit().now()),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { main_deadline, grace, .. } = self;
        f.debug_struct("Settings").field("main_deadline", main_deadline).field("grace", grace).finish_non_exhaustive()
    }
}

/// Why it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Somebody asked for it.
    Asked {
        /// Who, for the log: `SIGTERM`.
        by: String,
    },
    /// A vital post spent its budget, or a post lost its guard.
    Escalated {
        /// The seat's name.
        post: String,
        /// Why it fell last.
        reason: Reason,
    },
    /// A thread stands still and may not be replaced.
    Blocked {
        /// The seat's name.
        post: String,
        /// Where, and for how long.
        reason: Reason,
    },
}

impl End {
    /// What the process tells its parent.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            End::Asked { .. } => Exit::Clean,
            End::Escalated { .. } => Exit::Escalated,
            End::Blocked { .. } => Exit::Blocked,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Asked { by } => write!(f, "asked to stop by {by}"),
            End::Escalated { post, reason } => write!(f, "post `{post}` fell too often, last: {reason}"),
            End::Blocked { post, reason } => write!(f, "post `{post}` is blocked: {reason}"),
        }
    }
}

/// What all posts of one supervisor share.
pub(super) struct House {
    pub(super) settings: Settings,
    pub(super) main: ArbiterHandle,
    /// Moves while the main thread does, whoever is posted there.
    pub(super) heart: Shift,
    offices: Mutex<Vec<Arc<dyn Office>>>,
    end: watch::Sender<Option<End>>,
    taken_up: AtomicBool,
    abandoned: AtomicUsize,
}

impl House {
    pub(super) fn offices(&self) -> Vec<Arc<dyn Office>> {
        lock(&self.offices).clone()
    }

    /// The first end is the one that counts.
    pub(super) fn end(&self, end: End) {
        self.end.send_if_modified(|present| {
            let first = present.is_none();
            if first {
                *present = Some(end);
            }
            first
        });
    }

    /// The main thread's own sign of life, besides those of the posts on it.
    async fn beat(self: Arc<House>) {
        let mut ticks = tokio::time::interval(self.settings.main_deadline / 4);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.heart.turn();
        }
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    pub(super) fn end_is_taken_up(&self) -> bool {
        self.taken_up.load(SeqCst)
    }

    /// An own thread came to its end; if it had been given up, it came back after all.
    pub(super) fn thread_ended(&self, shift: &Shift) {
        if shift.was_abandoned() {
            let _ = self.abandoned.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        }
    }
}

/// One seat and what can be done to it, whatever its actor's type.
pub(super) trait Office: Send + Sync {
    fn seat(&self) -> &Arc<Seat>;
    fn waiting(&self) -> usize;
    /// Gives up the thread of `old` and goes on with a new one.
    fn replace(&self, old: &Arc<Shift>, reason: Reason);
    fn drain(&self) -> BoxFuture<'static, Result<(), Fallen>>;
    fn stop(&self);
    /// False when nobody sits there.
    #[cfg(any(test, feature = "testing"))]
    fn sabotage(&self, case: super::Sabotage) -> bool;
}

impl<A: Member> Office for Staff<A> {
    fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    fn waiting(&self) -> usize {
        self.slot.waiting()
    }

    fn replace(&self, old: &Arc<Shift>, reason: Reason) {
        let Some(charge) = self.seat.fell(old, reason.clone()) else { return };
        let opening = match charge {
            Charge::Pause(pause) => Opening::After(pause),
            Charge::Spent if self.seat.post.vital => {
                self.slot.close();
                old.retire();
                return self.house.end(End::Escalated { post: self.seat.name.clone(), reason });
            }
            Charge::Spent => {
                self.slot.close();
                Opening::AfterRest(self.seat.post.policy.long_rest)
            }
        };
        if self.house.abandoned.load(SeqCst) >= ABANDONED_MAX {
            error!(post = self.seat.name, limit = ABANDONED_MAX, "too many threads stand still, the process ends");
            return self.house.end(End::Blocked { post: self.seat.name.clone(), reason });
        }
        old.abandon(); // before it can end, so that its end is counted back
        let abandoned = self.house.abandoned.fetch_add(1, SeqCst) + 1;
        let shift = self.seat.relieve(old);
        match begin_shift(self, shift.clone(), opening) {
            Ok(()) => self.seat.replaced(abandoned),
            Err(error) => self.unguarded(&shift, Reason::NoThread(error.to_string())),
        }
    }

    fn drain(&self) -> BoxFuture<'static, Result<(), Fallen>> {
        let (handle, seat) = (Handle::new(self.slot.clone()), self.seat.clone());
        Box::pin(async move {
            loop {
                seat.draining();
                match handle.ask(Drain).await {
                    // It fell while draining: it comes back after its pause. The stage's timeout is the bound.
                    Err(Fallen::Unanswered(_) | Fallen::Late(_)) => {}
                    Ok(()) => {
                        seat.drained();
                        return Ok(());
                    }
                    Err(down @ Fallen::Down(_)) => return Err(down),
                }
            }
        })
    }

    fn stop(&self) {
        self.slot.close();
        self.seat.shift().retire();
        self.seat.stopped();
    }

    #[cfg(any(test, feature = "testing"))]
    fn sabotage(&self, case: super::Sabotage) -> bool {
        self.slot.addr().inspect(|addr| addr.do_send(case)).is_some()
    }
}

/// The owner of all posts; dropping it stops them. Made and kept on the main thread.
pub struct Supervisor {
    lookout: Lookout,
    heart: tokio::task::JoinHandle<()>,
    watchdog: Option<Watchdog>,
}

impl Supervisor {
    /// Begins to supervise, on the current thread's arbiter and with one watchdog thread. Fills no post yet.
    ///
    /// # Errors
    /// There is no thread for the watchdog.
    ///
    /// # Panics
    /// Outside of an actix system, and when the roster holds a row that cannot work ([`Roster::problems`]).
    pub fn start(roster: Roster, settings: Settings) -> std::io::Result<Supervisor> {
        let problems = roster.problems();
        assert!(problems.is_empty(), "every row of the roster can work: {problems:?}");
        let house = Arc::new(House {
            settings,
            main: Arbiter::current(),
            heart: Shift::default(),
            offices: Mutex::default(),
            end: watch::Sender::new(None),
            taken_up: AtomicBool::new(false),
            abandoned: AtomicUsize::new(0),
        });
        let watchdog = Some(watchdog::start(house.clone(), roster)?);
        let heart = actix_rt::spawn(house.clone().beat());
        Ok(Supervisor { lookout: Lookout { roster, house }, heart, watchdog })
    }

    /// Fills a post. `instance` tells several of one post apart (`otlphttp` gives `uplink/otlphttp`); empty for a
    /// post that exists once. The factory runs on the post's own thread, now and after every fall; a panic in it is
    /// a fall.
    ///
    /// The handle can be used at once: what is asked before the actor is built waits in its mailbox. When no thread
    /// can be had the post is down and the process is to end ([`End::Escalated`]).
    ///
    /// # Panics
    /// When the post is not in the roster or the seat is taken: both are mistakes of the program.
    pub fn post<A: Member>(
        &self,
        post: &'static Post,
        instance: &str,
        factory: impl Fn() -> A + Send + Sync + 'static,
    ) -> Handle<A> {
        let Lookout { roster, house } = &self.lookout;
        assert!(roster.find(post.name) == Some(post), "post `{}` is a row of the roster", post.name);
        let seat = Arc::new(Seat::new(post, instance));
        let slot = Slot::new(&seat.name, post.mailbox);
        let staff = Staff { seat, slot, factory: Arc::new(factory), house: house.clone() };
        {
            let mut offices = lock(&house.offices);
            assert!(offices.iter().all(|o| o.seat().name != staff.seat.name), "seat `{}` is free", staff.seat.name);
            offices.push(Arc::new(staff.clone()));
        }
        let shift = staff.seat.shift();
        if let Err(error) = begin_shift(&staff, shift.clone(), Opening::After(Duration::ZERO)) {
            staff.unguarded(&shift, Reason::NoThread(error.to_string()));
        }
        Handle::new(staff.slot)
    }

    /// Rows of the roster nobody was posted to.
    #[must_use]
    pub fn unstaffed(&self) -> Vec<&'static str> {
        let offices = self.lookout.house.offices();
        let staffed = |post: &Post| offices.iter().any(|office| office.seat().post.name == post.name);
        self.lookout.roster.0.iter().filter(|post| !staffed(post)).map(|post| post.name).collect()
    }

    /// Waits until it is over: somebody asked for a stop, a vital post escalated, or a thread is blocked for good.
    ///
    /// Whoever awaits this must act on the answer: the watchdog stops waiting for the main thread when it is given.
    pub async fn run_until_end(&mut self) -> End {
        let mut news = self.lookout.house.end.subscribe();
        let end = news.wait_for(Option::is_some).await.map(|end| end.clone());
        self.lookout.house.taken_up.store(true, SeqCst);
        let end = end.ok().flatten().expect("the house keeps the sender, and waited for `Some`");
        info!(%end, exit = %end.exit(), "supervision ends");
        end
    }

    /// Asks every seat to bring to an end what it has in hand, stage by stage in the order of the roster.
    ///
    /// Seats of one stage are asked together and have `per_stage` to answer; whoever does not is noted and left
    /// behind. Nobody is stopped: later stages may still need them. Dropping the supervisor stops everybody.
    pub async fn drain(&self, per_stage: Duration) -> Drained {
        let mut all = Drained::default();
        for stage in self.lookout.roster.stages() {
            let offices = self.lookout.house.offices();
            let asked =
                offices.into_iter().filter(|office| office.seat().post.stop == stage).map(|office| async move {
                    let name = office.seat().name.clone();
                    match tokio::time::timeout(per_stage, office.drain()).await {
                        Ok(Ok(())) => Ok(name),
                        Ok(Err(fallen)) => Err((name, fallen.to_string())),
                        Err(_) => Err((name, format!("no answer within {per_stage:?}"))),
                    }
                });
            let (mut done, mut missed) = (Vec::new(), Vec::new());
            for outcome in join_all(asked).await {
                match outcome {
                    Ok(name) => done.push(name),
                    Err(why) => missed.push(why),
                }
            }
            for (post, why) in &missed {
                warn!(post, why, %stage, "post was not drained");
            }
            info!(%stage, done = done.len(), missed = missed.len(), "stage drained");
            all.stages.push((stage, done));
            all.missed.extend(missed);
        }
        all
    }

    /// A view to give away.
    #[must_use]
    pub fn lookout(&self) -> Lookout {
        self.lookout.clone()
    }

    /// How everybody is; see [`Lookout::watch`].
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.lookout.watch()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.watchdog.take()); // joined: it must not start a thread for a post that is being stopped
        self.heart.abort();
        for office in self.lookout.house.offices() {
            office.stop();
        }
    }
}

/// How an ordered stop went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// Who answered, by stage, in the order of the stop.
    pub stages: Vec<(Stage, Vec<String>)>,
    /// Who did not, and why.
    pub missed: Vec<(String, String)>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Supervisor").field(&self.lookout).finish()
    }
}

/// A view of the supervision that can be given away: to metrics, health, signals and tests.
#[derive(Clone)]
pub struct Lookout {
    roster: Roster,
    house: Arc<House>,
}

impl fmt::Debug for Lookout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lookout").field(&self.watch()).finish()
    }
}

impl Lookout {
    /// How everybody is. Takes short locks; cheap enough for every scrape.
    #[must_use]
    pub fn watch(&self) -> Watch {
        let seats = self.house.offices().iter().map(|office| view(office.as_ref())).collect();
        Watch { seats, panics: panic_counts(), abandoned_threads: self.house.abandoned.load(SeqCst) }
    }

    /// Ends [`Supervisor::run_until_end`] with [`End::Asked`]; the first end counts.
    pub fn ask_to_stop(&self, by: impl Into<String>) {
        self.house.end(End::Asked { by: by.into() });
    }

    /// Whether and why it is over, without waiting for it.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.house.ended()
    }

    /// The rows.
    #[must_use]
    pub fn roster(&self) -> Roster {
        self.roster
    }

    /// Makes a seat fall, for tests that walk the roster; false when nobody sits there, or there is no such seat.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn sabotage(&self, seat: &str, case: super::Sabotage) -> bool {
        let offices = self.house.offices();
        let office = offices.iter().find(|office| office.seat().name == seat);
        office.is_some_and(|office| office.sabotage(case))
    }
}

fn view(office: &dyn Office) -> SeatView {
    let seat = office.seat();
    let (post, books) = (seat.post, seat.books());
    SeatView {
        name: seat.name.clone(),
        post: post.name,
        instance: seat.instance.clone(),
        vital: post.vital,
        state: books.state,
        falls: books.falls,
        escalations: books.escalations,
        replaced: books.replaced,
        last_reason: books.reason.clone(),
        quiet_for: books.progress.elapsed(),
        patience: post.policy.soft_deadline.max(post.policy.hard_deadline) + post.policy.heartbeat * 2,
        waiting: office.waiting(),
        mailbox: post.mailbox,
    }
}
