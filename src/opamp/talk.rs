//! What is due when: the rhythm of the conversation, and the numbers of its messages.
//!
//! ```text
//!          taken                    every interval: what changed
//! Unheard ───────▶ Heard ───────────────────────────────────────┐
//!  ▲ │  ▲           │  ▲                                        │
//!  │ └──┘ rest      │  └────────────────────────────────────────┘
//!  └────────────────┘ not taken: rest; then everything is said again
//! ```
//!
//! What always holds:
//! * Each message has the number after that of the one before, also one that was not taken.
//! * After a message that was not taken, or of which nobody knows, the next one says everything: the server need not ask.
//! * Whatever a server asks for, two messages are never closer than a second, and of those in a row only one is said out of turn:
//!   one that always wants everything gets it at every turn. One that asks without being asked is heard out of turn once in an interval.
//! * Every rest after a failure has jitter, and no server can make it longer than an hour and a twentieth.

use super::answer::{Answer, Heard};
use crate::base::Dice;
use crate::base::backoff::Curve;
use std::time::Duration;
use tokio::time::Instant;

/// First message of a process: within 2 s, so that a fleet that gets its power back together does not come in one second.
const START_WITHIN: Duration = Duration::from_secs(2);
/// Before what is said out of turn.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Rests while nobody answers, or while the server has no time.
const SILENT: Curve =
    Curve { initial: Duration::from_secs(5), multiplier: 2.0, max: Duration::from_secs(60), randomization_factor: 0.5 };
/// Rests while we are refused, which a person must mend.
const REFUSED: Curve = Curve {
    initial: Duration::from_secs(60),
    multiplier: 2.0,
    max: Duration::from_secs(3_600),
    randomization_factor: 0.2,
};
/// Messages in a row that are said out of turn.
const HASTE_MAX: u32 = 1;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Do {
    /// Say something.
    Say,
    /// Nothing before that.
    Rest(Instant),
    /// Nothing before an answer is there.
    Await,
}

/// See the module.
#[derive(Debug)]
pub struct Talk {
    interval: Duration,
    sequence: u64,
    next_at: Instant,
    is_out: bool,
    is_heard: bool,
    /// The next message says everything.
    owes_all: bool,
    /// Messages not taken, in a row.
    failures: u32,
    /// Messages said out of turn, in a row.
    haste: u32,
    /// The server asked for everything while a message was under way.
    is_asked: bool,
    /// Something changed while a message was under way, which may not tell of it.
    is_changed: bool,
    /// Before that nothing is said out of turn because a server asks without being asked.
    calm_until: Instant,
}

impl Talk {
    /// At the beginning of a process.
    #[must_use]
    pub fn new(interval: Duration, now: Instant, dice: &mut Dice) -> Talk {
        Talk {
            interval,
            sequence: 0,
            next_at: now + dice.around(START_WITHIN / 2, 1.0),
            is_out: false,
            is_heard: false,
            owes_all: true,
            failures: 0,
            haste: 0,
            is_asked: false,
            is_changed: false,
            calm_until: now,
        }
    }

    /// The server took the last message.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// The next message says everything.
    #[must_use]
    pub fn owes_all(&self) -> bool {
        self.owes_all
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self, now: Instant) -> Do {
        match (self.is_out, now < self.next_at) {
            (true, _) => Do::Await,
            (false, true) => Do::Rest(self.next_at),
            (false, false) => Do::Say,
        }
    }

    /// Something changed that is worth a message out of turn, to a server that listens. (How often that can be is bounded by who
    /// changes it: an operator, and `Purse` in `app/remote.rs`.)
    pub fn hurry(&mut self, now: Instant) {
        self.is_changed |= self.is_out;
        if self.is_heard && self.failures == 0 {
            self.next_at = self.next_at.min(now + AT_ONCE);
        }
    }

    /// It is being said, under this number.
    pub fn begin(&mut self) -> u64 {
        self.is_out = true;
        self.sequence += 1;
        self.sequence
    }

    /// Whoever was saying something fell: nobody knows whether it was heard.
    pub fn interrupted(&mut self, now: Instant, dice: &mut Dice) {
        if std::mem::take(&mut self.is_out) {
            self.owes_all = true;
            self.next_at = now + SILENT.jittered(1, dice);
        }
    }

    /// What the server made of it. True when it is heard and was not before, or the other way round.
    pub fn heard(&mut self, answer: &Answer, now: Instant, dice: &mut Dice) -> bool {
        self.is_out = false;
        let is_changed = std::mem::take(&mut self.is_changed);
        let before = std::mem::replace(&mut self.is_heard, answer.heard == Heard::Taken);
        match answer.heard {
            Heard::Taken => self.taken(answer, before, now, dice),
            Heard::Held | Heard::Refused => self.rest(&REFUSED, None, now, dice),
            Heard::Later(after) => self.rest(&SILENT, after, now, dice),
            Heard::Silent(_) => self.rest(&SILENT, None, now, dice),
        }
        if is_changed {
            self.hurry(now);
        }
        before != self.is_heard
    }

    /// The server says something without being asked, or is gone. True as with [`Talk::heard`].
    pub fn pushed(&mut self, answer: &Answer, now: Instant, dice: &mut Dice) -> bool {
        match answer.heard {
            Heard::Taken if answer.wants_all || answer.renamed.is_some() => {
                (self.owes_all, self.is_asked) = (true, self.is_out);
                if self.is_heard && self.failures == 0 && now >= self.calm_until {
                    self.calm_until = now + self.interval;
                    self.next_at = self.next_at.min(now + AT_ONCE + dice.up_to(AT_ONCE));
                }
                false
            }
            Heard::Taken => false,
            // What is under way ends too, and says so.
            _ if self.is_out => false,
            _ => self.heard(answer, now, dice),
        }
    }

    fn taken(&mut self, answer: &Answer, was_heard: bool, now: Instant, dice: &mut Dice) {
        self.failures = 0;
        self.owes_all = std::mem::take(&mut self.is_asked) || answer.wants_all || answer.renamed.is_some();
        let is_hasty = self.owes_all && self.haste < HASTE_MAX;
        self.haste = if !self.owes_all { 0 } else { self.haste + u32::from(is_hasty) };
        self.next_at = now
            + match is_hasty {
                true => AT_ONCE + dice.up_to(AT_ONCE),
                // Agents that were heard together speak apart from then on.
                false if !was_heard => dice.around(self.interval * 3 / 4, 1.0 / 3.0).max(AT_ONCE),
                false => self.interval,
            };
    }

    fn rest(&mut self, curve: &Curve, floor: Option<Duration>, now: Instant, dice: &mut Dice) {
        self.owes_all = true;
        self.failures = self.failures.saturating_add(1);
        // A fleet that was told the same second must not come in the same second.
        let floor = floor.map_or(Duration::ZERO, |floor| floor + dice.up_to(floor / 20));
        self.next_at = now + curve.jittered(self.failures, dice).max(floor);
    }
}

#[cfg(test)]
mod tests {
    use super::super::uid::Uid;
    use super::*;
    use crate::uplink::link::Trouble;

    const S: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_secs(30);

    struct Told {
        talk: Talk,
        dice: Dice,
        now: Instant,
    }

    impl Told {
        fn new(seed: u64) -> Told {
            let (now, mut dice) = (Instant::now(), Dice::seeded(seed));
            Told { talk: Talk::new(INTERVAL, now, &mut dice), dice, now }
        }

        /// Says the next message when it is due, and returns its number and how long that took.
        fn say(&mut self, answer: &Answer) -> (u64, Duration) {
            let before = self.now;
            if let Do::Rest(until) = self.talk.next(self.now) {
                self.now = until;
            }
            assert_eq!(self.talk.next(self.now), Do::Say);
            let number = self.talk.begin();
            assert_eq!(self.talk.next(self.now), Do::Await);
            self.talk.heard(answer, self.now, &mut self.dice);
            (number, self.now - before)
        }
    }

    fn taken() -> Answer {
        Answer::of(Heard::Taken, "")
    }

    #[test]
    fn what_is_taken_is_said_again_when_its_time_has_come() {
        for seed in 0..50 {
            let mut told = Told::new(seed);
            assert!(told.talk.owes_all() && !told.talk.is_heard());
            let (number, rest) = told.say(&taken());
            assert!(number == 1 && rest <= START_WITHIN && !told.talk.owes_all() && told.talk.is_heard());
            let (number, rest) = told.say(&taken());
            assert!(number == 2 && rest >= INTERVAL / 2 && rest <= INTERVAL, "{rest:?}");
            assert_eq!(told.say(&taken()), (3, INTERVAL));
        }
    }

    /// Goal: a server that asks for everything gets it at once, and one that asks again and again cannot make us hurry.
    #[test]
    fn who_wants_everything_gets_it_once_out_of_turn() {
        let mut told = Told::new(1);
        told.say(&taken());
        for wants in [Answer { wants_all: true, ..taken() }, Answer { renamed: Uid::of(&[8; 16]), ..taken() }] {
            told.say(&wants);
            assert!(told.talk.owes_all());
            let (_, rest) = told.say(&wants);
            assert!(rest >= AT_ONCE && rest <= 2 * AT_ONCE, "{rest:?}");
            assert!((0..5).all(|_| told.say(&wants).1 == INTERVAL && told.talk.owes_all()));
            told.say(&taken());
            assert!(!told.talk.owes_all());
        }
    }

    #[test]
    fn who_does_not_take_it_hears_everything_later() {
        for (heard, least, most) in [
            (Heard::Silent(Trouble::NoAnswer), 2, 8),
            (Heard::Later(None), 2, 8),
            (Heard::Later(Some(100 * S)), 100, 105),
            (Heard::Later(Some(3_600 * S)), 3_600, 3_780),
            (Heard::Held, 48, 72),
            (Heard::Refused, 48, 72),
        ] {
            for seed in 0..20 {
                let mut told = Told::new(seed);
                told.say(&taken());
                told.say(&Answer::of(heard, ""));
                assert!(told.talk.owes_all() && !told.talk.is_heard(), "{heard:?}");
                let before = told.now;
                told.talk.hurry(before);
                let (number, rest) = told.say(&taken());
                assert!(number == 3 && rest >= least * S && rest <= most * S, "{heard:?}: {rest:?}");
                assert!(!told.talk.owes_all());
            }
        }
        let mut told = Told::new(3);
        let long: Vec<_> = (0..40).map(|_| told.say(&Answer::of(Heard::Refused, "")).1).collect();
        assert!(long.iter().all(|rest| *rest <= 3_600 * S * 6 / 5) && long[39] >= 2_880 * S, "{long:?}");
    }

    /// Goal: a server that asks over and over, without being asked, hears twice in an interval at most.
    #[test]
    fn who_asks_without_being_asked_is_heard_once_out_of_turn() {
        let wants = Answer { wants_all: true, ..taken() };
        let mut told = Told::new(1);
        told.say(&taken());
        told.say(&taken());
        assert!(!told.talk.pushed(&wants, told.now, &mut told.dice) && told.talk.owes_all());
        let (_, rest) = told.say(&taken());
        assert!(rest >= AT_ONCE && rest <= 2 * AT_ONCE && !told.talk.owes_all(), "{rest:?}");
        told.talk.pushed(&wants, told.now, &mut told.dice);
        let (_, rest) = told.say(&taken());
        assert!(rest >= INTERVAL && !told.talk.owes_all(), "{rest:?}");
        // What is asked while a message is under way is owed by the next.
        let Do::Rest(until) = told.talk.next(told.now) else { panic!("it rests") };
        told.now = until;
        told.talk.begin();
        told.talk.pushed(&wants, told.now, &mut told.dice);
        told.talk.heard(&taken(), told.now, &mut told.dice);
        assert!(told.talk.owes_all());
        told.say(&taken());
        assert!(!told.talk.owes_all());
    }

    #[test]
    fn a_connection_that_is_lost_is_silence_and_one_that_is_lost_twice_too() {
        let gone = Answer::of(Heard::Silent(Trouble::NoAnswer), "");
        let mut told = Told::new(2);
        told.say(&taken());
        assert!(told.talk.pushed(&gone, told.now, &mut told.dice) && told.talk.owes_all() && !told.talk.is_heard());
        assert!(!told.talk.pushed(&gone, told.now, &mut told.dice));
        let (number, rest) = told.say(&taken());
        assert!(number == 2 && rest >= 2 * S && rest <= 15 * S, "{rest:?}");
    }

    #[test]
    fn a_change_is_said_soon_and_a_fall_says_everything_again() {
        let mut told = Told::new(5);
        told.say(&taken());
        told.talk.hurry(told.now);
        assert_eq!(told.say(&taken()), (2, AT_ONCE));
        // What changes while a message is under way is said after it.
        let Do::Rest(until) = told.talk.next(told.now) else { panic!("it rests") };
        told.now = until;
        told.talk.begin();
        told.talk.hurry(told.now);
        told.talk.heard(&taken(), told.now, &mut told.dice);
        assert_eq!(told.say(&taken()), (4, AT_ONCE));
        if let Do::Rest(until) = told.talk.next(told.now) {
            told.now = until;
        }
        told.talk.begin();
        told.talk.interrupted(told.now, &mut told.dice);
        told.talk.interrupted(told.now, &mut told.dice);
        assert!(told.talk.owes_all());
        let (number, rest) = told.say(&taken());
        assert!(number == 6 && rest >= 2 * S && rest <= 8 * S, "{rest:?}");
    }
}
