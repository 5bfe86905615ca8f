//! Where what is known of the registration lies, for those who say letters: the actor at its times, and the herald before data
//! goes. It outlives both, so a fall of the actor costs no knowledge.

use super::answer::{Answer, Heard, Orders};
use super::identity::{Identity, Record};
use super::letter::{Letter, Place, Profile};
use super::line::Line;
use super::metrics::RegistrarMetrics;
use super::standing::{Call, Do, Rhythm, Standing, State};
use super::vitals::Vitals;
use crate::base::{Clock, Dice, Stamp};
use crate::telemetry::Metrics;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;

/// Least bytes a second a platform can slow the backlog to: 16 KiB/s. At less a mistaken platform, or somebody in its place,
/// could make a day's backlog last for months, which is as good as dropping it.
pub const DRAIN_RATE_MIN: u64 = 16 * 1_024;

/// Lets the backlog leave with at most so many bytes a second; `None`: no limit of the platform's.
pub type Throttle = Arc<dyn Fn(Option<u64>) + Send + Sync>;

/// What the office is told at its beginning.
pub struct Settings {
    /// Who we are.
    pub identity: Identity,
    /// Where that is kept.
    pub file: Option<PathBuf>,
    /// What does not change.
    pub profile: Profile,
    /// Where we are.
    pub place: Place,
    /// When something is said.
    pub rhythm: Rhythm,
    /// Nobody between can have changed an answer: https, or this machine.
    pub is_trusted: bool,
    /// What the operator lets the backlog leave with, bytes a second.
    pub max_rate: Option<u64>,
    /// Carries out `drain_rate`.
    pub throttle: Throttle,
}

/// See the module.
pub struct Office {
    profile: Profile,
    file: Option<PathBuf>,
    is_trusted: bool,
    max_rate: Option<u64>,
    throttle: Throttle,
    started: Stamp,
    clock: Clock,
    numbers: Metrics,
    told: RegistrarMetrics,
    desk: Mutex<Desk>,
    /// Counts what happened, for the actor, which need not have done it.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Desk {
    standing: Standing,
    identity: Identity,
    place: Place,
    registered_ns: u64,
    orders: Orders,
    dice: Dice,
}

impl Office {
    /// Opens it: nobody is registered yet, and nothing is told before [`Office::begin`].
    #[must_use]
    pub fn open(
        settings: Settings,
        numbers: &Metrics,
        told: RegistrarMetrics,
        (clock, started): (Clock, Stamp),
        mut dice: Dice,
    ) -> Office {
        let Settings { identity, file, profile, place, rhythm, is_trusted, max_rate, throttle } = settings;
        let standing = Standing::new(rhythm, Instant::now(), &mut dice);
        let desk = Desk { standing, identity, place, registered_ns: 0, orders: Orders::default(), dice };
        Office {
            profile,
            file,
            is_trusted,
            max_rate,
            throttle,
            started,
            clock,
            numbers: numbers.clone(),
            told,
            desk: Mutex::new(desk),
            news: watch::Sender::new(0),
        }
    }

    /// It is the one that counts from now on.
    pub fn begin(&self) {
        let (identity, state) = {
            let desk = self.desk();
            (desk.identity.clone(), desk.standing.state())
        };
        self.told.begun(&identity);
        self.told.show(state);
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self) -> Do {
        self.watched(|standing| standing.next(Instant::now()))
    }

    /// The registration that is to be said before data goes.
    #[must_use]
    pub fn owes(&self) -> Option<Call> {
        self.watched(|standing| standing.owes(Instant::now()))
    }

    /// What is believed.
    #[must_use]
    pub fn state(&self) -> State {
        self.desk().standing.state()
    }

    /// The id by which we speak.
    #[must_use]
    pub fn agent_id(&self) -> String {
        self.desk().identity.agent_id().to_owned()
    }

    /// Wakes who waits for something to happen here.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Asks the standing, in which time may have passed.
    fn watched<T>(&self, ask: impl FnOnce(&mut Standing) -> T) -> T {
        let (before, answer, after) = {
            let mut desk = self.desk();
            let before = desk.standing.state();
            (before, ask(&mut desk.standing), desk.standing.state())
        };
        if before != after {
            self.told.marked(before, after);
            self.lift_when_offline(after);
        }
        answer
    }

    /// A platform that is not heard any more sets no limits.
    fn lift_when_offline(&self, state: State) {
        if state == State::Offline {
            self.obey(Orders::default());
        }
    }

    /// Where the machine is now.
    pub fn locate(&self, place: Place) {
        let mut desk = self.desk();
        if desk.place != place {
            let before = std::mem::replace(&mut desk.place, place.clone());
            drop(desk);
            self.told.moved(&before, &place);
        }
    }

    /// Says something and takes in what is answered. When this is given up in the middle, nobody knows what was heard.
    pub async fn say(&self, line: &dyn Line, call: Call) -> Answer {
        let letter = self.write(call);
        let saying = Saying { office: self, is_over: false };
        self.told.show(self.state());
        let answer = line.say(&letter).await;
        saying.end(call, &letter, &answer);
        answer
    }

    fn write(&self, call: Call) -> Letter {
        // The numbers ask the spools, which may take a moment; nobody waits for the desk meanwhile.
        let mut vitals = Vitals::read(&self.numbers);
        let now = self.clock.now();
        let mut desk = self.desk();
        vitals.link_budget = [self.max_rate, self.rate(&desk.orders)].into_iter().flatten().min();
        desk.standing.begin(call);
        let registers = matches!(call, Call::Register(_));
        Letter {
            call,
            agent_id: desk.identity.agent_id().to_owned(),
            copied_from: desk.identity.copied_from.clone(),
            profile: self.profile.clone(),
            place: desk.place.clone(),
            vitals,
            started_ns: self.started.wall_ns,
            registered_ns: if registers { now.wall_ns } else { desk.registered_ns },
            now_ns: now.wall_ns,
            uptime: now.since(self.started),
        }
    }

    fn take_in(&self, call: Call, letter: &Letter, answer: &Answer) {
        let (before, after, renamed) = {
            let mut desk = self.desk();
            let before = desk.standing.state();
            let Desk { standing, dice, .. } = &mut *desk;
            standing.heard(call, &answer.heard, Instant::now(), dice);
            if answer.heard == Heard::Taken && matches!(call, Call::Register(_)) {
                desk.registered_ns = letter.registered_ns;
            }
            // A heartbeat's success names nobody.
            let names = matches!(call, Call::Register(_)) || answer.heard == Heard::Renamed;
            let given = answer.agent_id.as_ref().filter(|_| names);
            let renamed = given.filter(|id| desk.identity.take_over(id, self.is_trusted)).cloned();
            (before, desk.standing.state(), renamed)
        };
        if let Some(id) = renamed {
            self.told.renamed(&letter.agent_id, &id, self.is_trusted);
        }
        self.told.heard(call, answer, before, after);
        if answer.heard == Heard::Taken {
            self.obey(answer.orders.clone());
        }
        self.lift_when_offline(after);
        self.news.send_modify(|n| *n += 1);
    }

    /// What an answer does not say any more is not wanted any more.
    fn obey(&self, orders: Orders) {
        let before = std::mem::replace(&mut self.desk().orders, orders.clone());
        if before == orders {
            return;
        }
        let obeyed = self.rate(&orders);
        if self.rate(&before) != obeyed {
            (self.throttle)(obeyed);
        }
        self.told.ordered(&before, &orders, obeyed, self.is_trusted);
    }

    /// What is made of a `drain_rate`.
    fn rate(&self, orders: &Orders) -> Option<u64> {
        // What was read is above zero and finite; what is larger than a u64 is that.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        orders.drain_rate.filter(|_| self.is_trusted).map(|rate| (rate as u64).max(DRAIN_RATE_MIN))
    }

    /// What is to be written, and where, if anything is.
    #[must_use]
    pub fn to_keep(&self) -> Option<(PathBuf, Record)> {
        let desk = self.desk();
        Some((self.file.clone()?, desk.identity.record.clone())).filter(|_| desk.identity.is_new)
    }

    /// It was written, or not.
    pub fn kept(&self, record: &Record, outcome: &std::io::Result<bool>) {
        if let Some(file) = &self.file {
            self.told.kept(&file.display(), outcome);
        }
        let mut desk = self.desk();
        desk.identity.is_new &= outcome.is_err() || desk.identity.record != *record;
    }

    /// What is owed before data is owed no more: data goes without.
    pub fn waive(&self) {
        self.desk().standing.waive();
    }

    /// Its configuration is gone: nothing of what it said counts any more.
    pub fn close(&self) {
        (self.throttle)(None);
        self.told.given_up();
    }

    /// Whoever held it when it panicked left it whole: nothing in there is changed in two steps.
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something is being said.
struct Saying<'a> {
    office: &'a Office,
    is_over: bool,
}

impl Saying<'_> {
    fn end(mut self, call: Call, letter: &Letter, answer: &Answer) {
        self.is_over = true;
        self.office.take_in(call, letter, answer);
    }
}

impl Drop for Saying<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut desk = self.office.desk();
            let Desk { standing, dice, .. } = &mut *desk;
            standing.interrupted(Instant::now(), dice);
            let state = standing.state();
            drop(desk);
            self.office.told.show(state);
            self.office.news.send_modify(|n| *n += 1);
        }
    }
}

impl fmt::Debug for Office {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Office").field("desk", &self.desk).finish_non_exhaustive()
    }
}
