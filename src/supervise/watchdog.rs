//! The watchdog: one thread outside of every runtime, because a blocked thread cannot report itself.
//!
//! ```text
//!  every round (at most 5 s): did each guard's thread move?
//!     own thread, `Replace`       ─▶ fence it, a new thread behind the same handles
//!     own thread, `ExitProcess`   ─▶ End::Blocked, for the main thread to act on
//!     the main thread             ─▶ last resort: log, exit 71; nobody else could
//!  and: an end that the main thread does not take up within the grace ─▶ last resort
//! ```

use super::house::{House, Office};
use super::seat::Reason;
use super::shift::{Shift, lock};
use super::vitals::{Eye, Sight};
use super::{Crew, End, Exit, OnHang, Roster};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tracing::error;

/// Longest time between two rounds.
const ROUND_MAX: Duration = Duration::from_secs(5);

/// Rounds within the shortest deadline: a block is noticed at most a quarter late.
const ROUNDS_PER_DEADLINE: u32 = 4;

/// Stack of the thread, bytes: it formats log lines and starts threads, nothing deep. (glibc's default is 8 MiB of
/// address space, which counts on a 32-bit gateway.)
const STACK: usize = 64 << 10;

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
    let round = round(roster, house.settings.main_deadline);
    let bell = Arc::<Bell>::default();
    let (system, bell_there) = (actix_rt::System::current(), bell.clone());
    let thread = std::thread::Builder::new().name("watchdog".into()).stack_size(STACK).spawn(move || {
        actix_rt::System::set_current(system); // new arbiters are started from here
        let mut watch = Rounds { house, eyes: Vec::new(), heart: Eye::default(), waited: Duration::ZERO };
        while !bell_there.wait(round) {
            watch.go(round);
        }
    })?;
    Ok(Watchdog { bell, thread: Some(thread) })
}

/// From the whole roster, so that a post is watched as closely as its row says from its first moment.
fn round(roster: Roster, main_deadline: Duration) -> Duration {
    let deadlines = roster.0.iter().map(|post| post.policy.hard_deadline);
    let shortest = deadlines.fold(main_deadline, Duration::min);
    (shortest / ROUNDS_PER_DEADLINE).min(ROUND_MAX)
}

struct Rounds {
    house: Arc<House>,
    /// One per seat, in the order of the house; and whose shift it watches.
    eyes: Vec<(Arc<Shift>, Eye)>,
    heart: Eye,
    /// How long the main thread has not taken up an end.
    waited: Duration,
}

impl Rounds {
    fn go(&mut self, round: Duration) {
        let offices = self.house.offices();
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
            if eye.look(shift.movement(), round, office.seat().post.policy.hard_deadline) == Sight::Blocked {
                let after = eye.quiet();
                self.blocked(office, &offices, &shift, after);
            }
        }
        let deadline = self.house.settings.main_deadline;
        if self.heart.look(self.house.movement(), round, deadline) == Sight::Blocked {
            self.last_resort(&offices, self.heart.quiet());
        }
        self.see_that_the_end_is_taken_up(round);
    }

    fn blocked(&mut self, office: &Arc<dyn Office>, all: &[Arc<dyn Office>], shift: &Arc<Shift>, after: Duration) {
        let policy = office.seat().post.policy;
        match (office.seat().post.crew, policy.on_hang) {
            (Crew::Main, _) => self.last_resort(all, after),
            (Crew::Own, OnHang::Replace) => {
                let reason = Reason::Blocked { during: shift.doing(), after };
                office.seat().blocked(reason.clone());
                office.replace(shift, reason);
            }
            (Crew::Own, OnHang::ExitProcess) => {
                let reason = Reason::Blocked { during: shift.doing(), after };
                office.seat().blocked(reason.clone());
                self.house.end(End::Blocked { post: office.seat().name.clone(), reason });
            }
        }
    }

    /// The main thread stands still. Everybody on it looks blocked; the one inside its own code is.
    fn last_resort(&self, offices: &[Arc<dyn Office>], after: Duration) {
        let on_main = offices.iter().map(|office| office.seat()).filter(|seat| seat.post.crew == Crew::Main);
        let culprit = on_main.into_iter().find(|seat| seat.shift().is_inside());
        let reason = Reason::Blocked { during: culprit.and_then(|seat| seat.shift().doing()), after };
        let post = culprit.map_or_else(|| "main".to_owned(), |seat| seat.name.clone());
        if let Some(seat) = culprit {
            seat.blocked(reason.clone());
        }
        let end = End::Blocked { post, reason };
        error!(%end, exit = %Exit::Blocked, "the main thread is blocked, the process ends now");
        self.house.end(end.clone());
        (self.house.settings.last_resort)(&end);
    }

    fn see_that_the_end_is_taken_up(&mut self, round: Duration) {
        let Some(end) = self.house.end_not_taken_up() else { return };
        self.waited = self.waited.saturating_add(round);
        if self.waited > self.house.settings.grace {
            self.waited = Duration::ZERO;
            error!(%end, exit = %end.exit(), "nobody takes up that supervision has ended, the process ends now");
            (self.house.settings.last_resort)(&end);
        }
    }
}
