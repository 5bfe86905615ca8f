//! The supervisor: fills the posts, hears how they are, and says when it is over. It never awaits a child.

use super::guard::{Opening, Staff, begin_shift};
use super::handle::Slot;
use super::house::House;
use super::panics::panic_counts;
use super::seat::{Reason, Seat};
use super::watch::Watch;
use super::watchdog::{self, Watchdog};
use super::{Exit, Handle, Member, Post, Roster, Stage};
use futures_util::future::join_all;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// What the supervision as a whole goes by.
#[derive(Clone)]
pub struct Settings {
    /// A main thread that stands still for so long ends the process.
    pub main_deadline: Duration,
    /// Time the main thread has to take up that a post is blocked.
    pub grace: Duration,
    /// What ends the process when nobody else can: `exit(71)`, or something a test can see.
    pub last_resort: Arc<dyn Fn(&End) + Send + Sync>,
    /// Who beyond the process wants to hear that it lives.
    pub sign_of_life: Option<SignOfLife>,
}

/// Given in each round of the watchdog in which everybody vital moves and nothing has come to an end that nobody asked for.
/// A disk that is slow withholds it only when its post's own deadline is over.
#[derive(Clone)]
pub struct SignOfLife {
    /// It is expected within this time; a round is at most a third of it.
    pub within: Duration,
    /// Gives it, from the watchdog's thread: must not block.
    pub give: Arc<dyn Fn() + Send + Sync>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            main_deadline: Duration::from_secs(60),
            grace: Duration::from_secs(10),
            last_resort: Arc::new(|end| end.exit().now()),
            sign_of_life: None,
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
        let house = Arc::new(House::new(settings));
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
        house.add(Arc::new(staff.clone()));
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
        let end = self.lookout.house.until_end().await;
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

    /// Takes a seat away while the others go on: asks it to bring to an end what it has in hand, for at most `within`,
    /// then stops it. Its name is free afterwards. False when it did not finish, or there is no such seat.
    pub async fn dismiss(&self, name: &str, within: Duration) -> bool {
        let house = &self.lookout.house;
        let Some(office) = house.offices().into_iter().find(|office| office.seat().name == name) else { return false };
        let drained = tokio::time::timeout(within, office.drain()).await;
        house.dismiss(name);
        let finished = matches!(drained, Ok(Ok(())));
        info!(post = name, finished, "post was given up");
        finished
    }

    /// Stops everybody and waits until their actors are gone, at most for `within`; the names of those who are not.
    ///
    /// For who goes on afterwards and needs what they held: files, ports, threads. Drain first.
    pub async fn stop(self, within: Duration) -> Vec<String> {
        let house = self.lookout.house.clone();
        let offices = house.offices();
        drop(self);
        let _ = tokio::time::timeout(within, house.until_empty()).await; // who is left is the answer
        offices.iter().map(|office| office.seat()).filter(|seat| seat.is_occupied()).map(|s| s.name.clone()).collect()
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
        self.lookout.house.stop();
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
        Watch { seats: self.house.views(), panics: panic_counts(), abandoned_threads: self.house.abandoned() }
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
