//! Core: who is alive. Two questions, two observers, no clock.
//!
//! Both count their *own* rounds in which the other did not move, instead of comparing times. So a suspended
//! laptop, a stopped process (SIGSTOP), a jumping clock or a thread that somebody else kept busy does not make
//! everybody look dead at once: a silence only counts while the observer itself was running.

use std::time::Duration;

/// The guard's view of its actor: does it still handle what it is given? (A soft hang: the thread runs, the
/// actor does not.)
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Patience {
    beats: u32,
    asked: bool,
    waited: Duration,
}

/// What the guard does at a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tick {
    /// It moved by itself since the last heartbeat: nothing to ask.
    Moving,
    /// It was quiet: send a ping, so that a quiet actor and a dead one can be told apart.
    Ask,
    /// The ping is still unanswered, the deadline has not passed.
    Waiting,
    /// Unanswered for the whole soft deadline.
    Hung,
}

impl Patience {
    /// Patience afresh, for an actor that has come so far.
    pub(super) fn since(beats: u32) -> Patience {
        Patience { beats, ..Patience::default() }
    }

    /// One heartbeat; `beats` is the actor's progress counter (it may wrap).
    pub(super) fn tick(&mut self, beats: u32, heartbeat: Duration, deadline: Duration) -> Tick {
        if beats != self.beats {
            *self = Patience::since(beats);
            return Tick::Moving;
        }
        if !self.asked {
            self.asked = true;
            return Tick::Ask;
        }
        self.waited = self.waited.saturating_add(heartbeat);
        if self.waited >= deadline { Tick::Hung } else { Tick::Waiting }
    }
}

/// The watchdog's view of a thread: does its guard still come by? (A hard hang: the thread itself stands still.)
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Eye {
    turns: u32,
    quiet: Duration,
    told: bool,
}

/// What the watchdog sees in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// It moved, or has not been quiet for long.
    Alive,
    /// Quiet for longer than the deadline, for the first time.
    Blocked,
    /// As `Blocked`, but that was said before.
    StillBlocked,
}

impl Eye {
    /// One round of the watchdog, `round` after the last; `turns` is the thread's counter (it may wrap).
    pub(super) fn look(&mut self, turns: u32, round: Duration, deadline: Duration) -> Sight {
        if turns != self.turns {
            *self = Eye { turns, ..Eye::default() };
            return Sight::Alive;
        }
        self.quiet = self.quiet.saturating_add(round);
        match (self.quiet > deadline, std::mem::replace(&mut self.told, self.quiet > deadline)) {
            (false, _) => Sight::Alive,
            (true, false) => Sight::Blocked,
            (true, true) => Sight::StillBlocked,
        }
    }

    /// How long it has been quiet, in rounds of the watchdog.
    pub(super) fn quiet(&self) -> Duration {
        self.quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// Heartbeat 5 s, soft deadline 15 s; each column is one heartbeat's progress counter.
    #[test]
    #[rustfmt::skip]
    fn an_actor_is_hung_only_when_a_ping_stays_unanswered_for_the_whole_deadline() {
        use Tick::{Ask, Hung, Moving, Waiting};
        for (beats, expected) in [
            (vec![0, 0, 0, 0, 0],       vec![Ask, Waiting, Waiting, Hung, Hung]),
            (vec![0, 1, 1, 2, 2],       vec![Ask, Moving, Ask, Moving, Ask]),           // idle, answering pings
            (vec![5, 9, 17, 40, 99],    vec![Moving; 5]),                               // busy: no ping needed
            (vec![0, 0, 0, 1, 1],       vec![Ask, Waiting, Waiting, Moving, Ask]),      // slow but alive
            (vec![u32::MAX, 0, 0, 0],   vec![Moving, Moving, Ask, Waiting]),            // the counter wraps
        ] {
            let mut patience = Patience::default();
            let seen: Vec<_> = beats.iter().map(|&b| patience.tick(b, S(5), S(15))).collect();
            assert_eq!(seen, expected, "beats {beats:?}");
        }
    }

    /// Rounds of 10 s, deadline 30 s.
    #[test]
    #[rustfmt::skip]
    fn a_thread_is_blocked_when_it_was_quiet_for_more_rounds_than_its_deadline_and_that_is_said_once() {
        use Sight::{Alive, Blocked, StillBlocked};
        for (turns, expected) in [
            (vec![0, 0, 0, 0, 0, 0],    vec![Alive, Alive, Alive, Blocked, StillBlocked, StillBlocked]),
            (vec![1, 2, 3, 4],          vec![Alive; 4]),
            (vec![1, 1, 1, 1, 2, 2],    vec![Alive; 6]),                                // it came back in time
            (vec![0, 0, 0, 0, 7, 7],    vec![Alive, Alive, Alive, Blocked, Alive, Alive]),
        ] {
            let mut eye = Eye::default();
            let seen: Vec<_> = turns.iter().map(|&t| eye.look(t, S(10), S(30))).collect();
            assert_eq!(seen, expected, "turns {turns:?}");
        }
    }
}
