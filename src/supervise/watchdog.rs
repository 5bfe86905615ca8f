//! The watchdog: one thread outside of every runtime, because a blocked thread cannot report itself.
//!
//! ```text
//!  every round (at most 5 s): did each guard's thread move?
//!     own thread, `Replace`       ─▶ fence it, a new thread behind the same handles
//!     own thread, `ExitProcess`   ─▶ End::Blocked, for the main thread to act on
//!     a helper's thread           ─▶ as the post's own would be; the main thread can hear of it
//!     the main thread             ─▶ last resort: log, exit 71; nobody else could
//!  and: an end that the main thread does not take up within the grace ─▶ last resort
//!  else: a sign of life to whoever asked for it (systemd), which ends what cannot even end itself
//! ```
//!
//! It never logs by itself. What blocks a thread may be the log (a pipe nobody reads), and whoever then speaks is
//! blocked too; so a short-lived thread speaks for it, and it acts with or without having been heard.

use super::house::{House, Office};
use super::seat::Reason;
use super::shift::{Beats, Shift, lock};
use super::vitals::{Eye, Sight};
use super::{Crew, End, OnHang, Roster, Settings};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tracing::error;

/// Longest time between two rounds.
const ROUND_MAX: Duration = Duration::from_secs(5);

/// Shortest time between two rounds, whatever anybody asks for.
const ROUND_MIN: Duration = Duration::from_millis(10);

/// Signs of life within the time in which one is expected: two may be lost or late.
const SIGNS_IN_TIME: u32 = 3;

/// Rounds within the shortest deadline: a block is noticed at most a quarter late.
const ROUNDS_PER_DEADLINE: u32 = 4;

/// Stack of the thread, bytes: it counts and starts threads, nothing deep. (Rust's default of 2 MiB is address space
/// that counts on a 32-bit gateway.)
const STACK: usize = 64 << 10;

/// Stack of a thread that speaks for the watchdog, bytes: it formats log lines.
const STACK_TO_SPEAK: usize = 256 << 10;

/// Longest time the watchdog waits for its words. A second is long for a line and short for a blocked agent.
const WORDS_WITHIN: Duration = Duration::from_secs(1);

/// Stops the watchdog when dropped, and waits for it: a round is short.
pub(super) struct Watchdog {
    bell: Arc<Bell>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Bell {
    over: Mutex<bool>,
    rung: Condvar,
}

impl Bell {
    /// Sleeps for a round; true when it is over.
    fn wait(&self, round: Duration) -> bool {
        let over = self.rung.wait_timeout_while(lock(&self.over), round, |over| !*over);
        over.map_or(true, |(over, _)| *over)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *lock(&self.bell.over) = true;
        self.bell.rung.notify_all();
        // A watchdog that panicked has said so through the hook; there is nothing to add here.
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Starts the thread.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn start(house: Arc<House>, roster: Roster) -> std::io::Result<Watchdog> {
    let round = round(roster, &house.settings);
    let bell = Arc::<Bell>::default();
    let (system, bell_there) = (actix_rt::System::current(), bell.clone());
    let thread = std::thread::Builder::new().name("watchdog".into()).stack_size(STACK).spawn(move || {
        let mut watch = Rounds {
            house,
            system,
            eyes: Vec::new(),
            helpers: Vec::new(),
            heart: Eye::default(),
            waited: Duration::ZERO,
        };
        while !bell_there.wait(round) {
            watch.go(round);
        }
    })?;
    Ok(Watchdog { bell, thread: Some(thread) })
}

/// From the whole roster, so that a post is watched as closely as its row says from its first moment.
fn round(roster: Roster, settings: &Settings) -> Duration {
    let deadlines = roster.0.iter().map(|post| post.policy.hard_deadline);
    let shortest = deadlines.fold(settings.main_deadline, Duration::min);
    let sign = settings.sign_of_life.as_ref().map_or(ROUND_MAX, |sign| sign.within / SIGNS_IN_TIME);
    (shortest / ROUNDS_PER_DEADLINE).min(sign).clamp(ROUND_MIN, ROUND_MAX)
}

struct Rounds {
    house: Arc<House>,
    system: actix_rt::System,
    /// One per seat, in the order of the house; and whose shift it watches.
    eyes: Vec<(Arc<Shift>, Eye)>,
    /// The same for each helper.
    helpers: Vec<(Arc<Beats>, Eye)>,
    heart: Eye,
    /// How long the main thread has not taken up an end.
    waited: Duration,
}

impl Rounds {
    fn go(&mut self, round: Duration) {
        let offices = self.house.offices();
        let mut all_move = true;
        // Whose only owner is this list is gone.
        self.helpers.retain(|(beats, _)| Arc::strong_count(beats) > 1);
        for (n, office) in offices.iter().enumerate() {
            let shift = office.seat().shift();
            if self.eyes.len() <= n {
                self.eyes.push((shift.clone(), Eye::default()));
            }
            let (watched, eye) = &mut self.eyes[n];
            if !Arc::ptr_eq(watched, &shift) {
                (*watched, *eye) = (shift.clone(), Eye::default());
            }
            if shift.is_retired() {
                continue;
            }
            self.look_at_helpers(office, &shift, round);
            let (_, eye) = &mut self.eyes[n];
            let sight = eye.look(shift.movement(), round, office.seat().post.policy.hard_deadline);
            all_move &= sight == Sight::Alive || !office.seat().post.vital;
            if sight == Sight::Blocked {
                let after = eye.quiet();
                self.blocked(office, &offices, &shift, after);
            }
        }
        let deadline = self.house.settings.main_deadline;
        let heart = self.heart.look(self.house.movement(), round, deadline);
        all_move &= heart == Sight::Alive;
        if heart == Sight::Blocked {
            self.last_resort(&offices, self.heart.quiet());
        }
        self.see_that_the_end_is_taken_up(round);
        if all_move && self.house.ended().is_none_or(|end| matches!(end, End::Asked { .. })) {
            self.house.settings.sign_of_life.iter().for_each(|sign| (sign.give)());
        }
    }

    fn look_at_helpers(&mut self, office: &Arc<dyn Office>, shift: &Arc<Shift>, round: Duration) {
        for beats in shift.helpers() {
            let known = self.helpers.iter().position(|(other, _)| Arc::ptr_eq(other, &beats));
            let at = known.unwrap_or_else(|| {
                self.helpers.push((beats.clone(), Eye::default()));
                self.helpers.len() - 1
            });
            let (_, eye) = &mut self.helpers[at];
            if eye.look(beats.count(), round, office.seat().post.policy.hard_deadline) == Sight::Blocked {
                let reason = Reason::Blocked { during: Some(beats.name), after: eye.quiet() };
                match office.seat().post.policy.on_hang {
                    OnHang::Replace => self.replace(office, shift, reason),
                    OnHang::ExitProcess => self.end_in_order(office, reason),
                }
            }
        }
    }

    fn blocked(&self, office: &Arc<dyn Office>, all: &[Arc<dyn Office>], shift: &Arc<Shift>, after: Duration) {
        let reason = Reason::Blocked { during: shift.doing(), after };
        let post = office.seat().post;
        match (post.crew, post.policy.on_hang) {
            (Crew::Main, _) => self.last_resort(all, after),
            (Crew::Own, OnHang::Replace) => self.replace(office, shift, reason),
            (Crew::Own, OnHang::ExitProcess) => self.end_in_order(office, reason),
        }
    }

    fn replace(&self, office: &Arc<dyn Office>, shift: &Arc<Shift>, reason: Reason) {
        let (office, shift) = (office.clone(), shift.clone());
        let end = End::Blocked { post: office.seat().name.clone(), reason: reason.clone() };
        let begun = self.aside(move || {
            office.seat().blocked(&reason);
            office.replace(&shift, reason);
        });
        if !begun {
            self.house.end(end); // a machine without a thread for this has none for a new actor
        }
    }

    fn end_in_order(&self, office: &Arc<dyn Office>, reason: Reason) {
        self.house.end(End::Blocked { post: office.seat().name.clone(), reason: reason.clone() });
        let office = office.clone();
        let _ = self.aside(move || office.seat().blocked(&reason)); // with or without words
    }

    /// The main thread stands still. Everybody on it looks blocked; the one inside its own code is.
    fn last_resort(&self, offices: &[Arc<dyn Office>], after: Duration) {
        let culprit = offices
            .iter()
            .map(|office| office.seat())
            .find(|seat| seat.post.crew == Crew::Main && seat.shift().is_inside())
            .cloned();
        let reason = Reason::Blocked { during: culprit.as_ref().and_then(|seat| seat.shift().doing()), after };
        let post = culprit.as_ref().map_or_else(|| "main".to_owned(), |seat| seat.name.clone());
        let end = End::Blocked { post, reason: reason.clone() };
        self.house.end(end.clone());
        let said = end.clone();
        let _ = self.aside(move || {
            if let Some(seat) = culprit {
                seat.blocked(&reason);
            }
            error!(end = %said, exit = %said.exit(), "the main thread is blocked, the process ends now");
        });
        (self.house.settings.last_resort)(&end);
    }

    /// Does what may block on a thread of its own, and waits for it a little; false when there is no thread.
    fn aside(&self, work: impl FnOnce() + Send + 'static) -> bool {
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let system = self.system.clone();
        let thread = std::thread::Builder::new().name("watchdog-aside".into()).stack_size(STACK_TO_SPEAK);
        let begun = thread.spawn(move || {
            actix_rt::System::set_current(system); // new arbiters are started from here
            work();
            drop(done);
        });
        let _ = ended.recv_timeout(WORDS_WITHIN); // ends when `done` is dropped, or in vain
        begun.is_ok()
    }

    fn see_that_the_end_is_taken_up(&mut self, round: Duration) {
        let Some(end) = self.house.end_not_taken_up() else { return };
        self.waited = self.waited.saturating_add(round);
        if self.waited > self.house.settings.grace {
            self.waited = Duration::ZERO;
            let said = end.clone();
            let _ = self.aside(move || {
                error!(end = %said, exit = %said.exit(), "nobody takes up that supervision has ended, the process ends now");
            });
            (self.house.settings.last_resort)(&end);
        }
    }
}
