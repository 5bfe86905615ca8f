//! Does the platform know us? The belief that decides when to register, when to beat and when to rest.
//!
//! ```text
//!                 rest is over              taken
//!  Unregistered ───────────────▶ Registering ────▶ Registered ──┐ every interval: a heartbeat
//!   ▲   ▲                        │     ▲              │   ▲     │
//!   │   └── not taken: rest ─────┤     │              │   └─────┘
//!   │                            ▼     │              │ nothing taken for offline_after:
//!   │          not taken: rest, Offline ◀─────────────┘ the platform has marked us
//!   └────────────────────── it does not know the id (404, 410) ── from anywhere
//! ```
//!
//! What always holds:
//! * A heartbeat that was not taken is not sent again: the next one says more. Nothing of this is ever spooled.
//! * After `offline_after` without a word the next thing said is a registration, whatever the heartbeats before it were.
//! * Every rest has jitter: what a fleet lost together it does not take up together.
//! * At most one registration in a spell of silence is owed before data goes ([`Standing::owes`]), and a far end that answers
//!   data but not registrations is owed none.

use super::answer::Heard;
use crate::base::Dice;
use crate::base::backoff::Curve;
use crate::uplink::link::Trouble;
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// What we believe the platform believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It does not know us.
    Unregistered,
    /// A registration is on its way.
    Registering,
    /// It knows us and hears us.
    Registered,
    /// It knew us and has heard nothing for so long that it has marked us as offline.
    Offline,
}

impl State {
    /// All of them.
    pub const ALL: [State; 4] = [State::Unregistered, State::Registering, State::Registered, State::Offline];

    /// As in labels, logs and on the status board.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Unregistered => "unregistered",
            State::Registering => "registering",
            State::Registered => "registered",
            State::Offline => "offline",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something to be said to the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// Who we are, because of this.
    Register(Why),
    /// That we are there.
    Heartbeat,
}

/// Why we register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// The process began.
    Start,
    /// We were silent for too long.
    Offline,
    /// The platform does not know the id (any more).
    Forgotten,
    /// The platform gave us another id.
    Renamed,
}

impl Why {
    /// As in logs and in what is sent.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Why::Start => "start",
            Why::Offline => "offline",
            Why::Forgotten => "forgotten",
            Why::Renamed => "renamed",
        }
    }
}

/// Times of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// Between two heartbeats.
    pub interval: Duration,
    /// After so long without a word the platform marks an agent as offline.
    pub offline_after: Duration,
}

/// First registration of a process: within 2 s, so that a fleet that gets its power back together does not come in one second,
/// and an agent without data is seen soon.
const START_WITHIN: Duration = Duration::from_secs(2);
/// Rests while nobody answers a registration: 1,000 agents then knock about 17 times a second, and a link that is back is seen
/// within a minute and a half also when no data waits for it.
const SILENT: Curve =
    Curve { initial: Duration::from_secs(5), multiplier: 2.0, max: Duration::from_secs(60), randomization_factor: 0.5 };
/// Rests while we are refused, which a person must mend: soon enough that the person sees it mended, and at most one line an
/// hour in the log of a far end that wants none of this.
const REFUSED: Curve = Curve {
    initial: Duration::from_secs(60),
    multiplier: 2.0,
    max: Duration::from_secs(3_600),
    randomization_factor: 0.2,
};
/// How often in a row another id is taken over at once.
const RENAMED_MAX: u32 = 1;
/// Registrations of one spell that stay without an answer though there was a connection; then data goes without one.
const UNANSWERED_MAX: u32 = 2;

/// See the module.
#[derive(Debug)]
pub struct Standing {
    rhythm: Rhythm,
    /// Known to be [`State::Registered`] or not; being asked for is `out`.
    settled: State,
    out: Option<Call>,
    why: Why,
    /// When the platform last took something.
    known_at: Option<Instant>,
    next_at: Instant,
    /// Calls not taken, in a row.
    failures: u32,
    renamed: u32,
    owed: bool,
    unanswered: u32,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Do {
    /// Say this.
    Say(Call),
    /// Nothing before that.
    Rest(Instant),
    /// Nothing before an answer is there.
    Await,
}

impl Standing {
    /// At the beginning of a process.
    #[must_use]
    pub fn new(rhythm: Rhythm, now: Instant, dice: &mut Dice) -> Standing {
        Standing {
            rhythm,
            settled: State::Unregistered,
            out: None,
            why: Why::Start,
            known_at: None,
            next_at: now + dice.around(START_WITHIN / 2, 1.0),
            failures: 0,
            renamed: 0,
            owed: true,
            unanswered: 0,
        }
    }

    /// What is believed.
    #[must_use]
    pub fn state(&self) -> State {
        match self.out {
            Some(Call::Register(_)) => State::Registering,
            _ => self.settled,
        }
    }

    /// For how long nothing was taken; `None`: nothing ever was.
    #[must_use]
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        self.known_at.map(|at| now.saturating_duration_since(at))
    }

    /// Time passes: who was silent for too long is offline.
    fn tick(&mut self, now: Instant) {
        let is_over = self.silent_for(now).is_some_and(|silent| silent >= self.rhythm.offline_after);
        if self.settled == State::Registered && is_over {
            self.settled = State::Offline;
            self.why = Why::Offline;
            self.owe();
        }
    }

    fn owe(&mut self) {
        (self.owed, self.unanswered) = (true, 0);
    }

    /// What to do now.
    #[must_use]
    pub fn next(&mut self, now: Instant) -> Do {
        self.tick(now);
        if self.out.is_some() {
            return Do::Await;
        }
        if now < self.next_at {
            // It is told when it happens.
            let marked = self.known_at.filter(|_| self.settled == State::Registered);
            let marked = marked.map(|at| at + self.rhythm.offline_after);
            return Do::Rest(marked.map_or(self.next_at, |at| at.min(self.next_at)));
        }
        Do::Say(if self.settled == State::Registered { Call::Heartbeat } else { Call::Register(self.why) })
    }

    /// The registration that is to be said before data goes, if one is.
    #[must_use]
    pub fn owes(&mut self, now: Instant) -> Option<Call> {
        self.tick(now);
        (self.owed && self.settled != State::Registered).then_some(Call::Register(self.why))
    }

    /// What is owed is owed no more.
    pub fn waive(&mut self) {
        self.owed = false;
    }

    /// It is being said. One that others say beside it changes nothing: each says the same.
    pub fn begin(&mut self, call: Call) {
        self.out = Some(call);
    }

    /// Whoever was saying something fell: nobody knows whether it was heard.
    pub fn interrupted(&mut self, now: Instant, dice: &mut Dice) {
        if self.out.take().is_some() {
            self.next_at = now + SILENT.jittered(1, dice);
        }
    }

    /// What the platform made of it.
    pub fn heard(&mut self, call: Call, heard: &Heard, now: Instant, dice: &mut Dice) {
        self.out = None;
        self.tick(now);
        let registering = matches!(call, Call::Register(_));
        if registering {
            self.count_towards_the_owed(heard);
        }
        match heard {
            Heard::Taken => self.taken(registering, now, dice),
            Heard::Forgotten if !registering => {
                self.forget(Why::Forgotten);
                // A platform that lost its table tells a whole fleet within one interval.
                self.next_at = now + dice.around(self.rhythm.interval / 4, 1.0);
            }
            Heard::Renamed if self.renamed < RENAMED_MAX => {
                self.renamed += 1;
                self.forget(Why::Renamed);
                self.next_at = now;
            }
            Heard::Held | Heard::Refused | Heard::Forgotten | Heard::Renamed => self.rest(&REFUSED, None, now, dice),
            Heard::Later(after) => self.rest(&SILENT, *after, now, dice),
            // The next heartbeat says what this one said.
            Heard::Silent(_) if self.settled == State::Registered => {
                self.failures = self.failures.saturating_add(1);
                self.next_at = now + self.rhythm.interval;
            }
            Heard::Silent(_) => self.rest(&SILENT, None, now, dice),
        }
    }

    fn count_towards_the_owed(&mut self, heard: &Heard) {
        match heard {
            // Data could not go either. A page in place of an answer says nothing of data: it meets the same page, or none.
            Heard::Silent(Trouble::Unreachable) => {}
            Heard::Silent(_) => {
                self.unanswered += 1;
                self.owed &= self.unanswered < UNANSWERED_MAX;
            }
            _ => self.owed = false,
        }
    }

    fn taken(&mut self, registering: bool, now: Instant, dice: &mut Dice) {
        self.settled = State::Registered;
        self.known_at = Some(now);
        (self.failures, self.renamed, self.owed) = (0, 0, false);
        // Agents that registered together beat apart from then on.
        let interval = self.rhythm.interval;
        self.next_at = now + if registering { dice.around(interval * 3 / 4, 1.0 / 3.0) } else { interval };
    }

    fn forget(&mut self, why: Why) {
        self.settled = State::Unregistered;
        self.why = why;
    }

    fn rest(&mut self, curve: &Curve, floor: Option<Duration>, now: Instant, dice: &mut Dice) {
        self.failures = self.failures.saturating_add(1);
        let rest = curve.jittered(self.failures, dice);
        let rest = if self.settled == State::Registered { rest.max(self.rhythm.interval) } else { rest };
        // A fleet that was told the same second must not come in the same second.
        let floor = floor.map_or(Duration::ZERO, |floor| floor + dice.around(floor / 20, 1.0));
        self.next_at = now + rest.max(floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const RHYTHM: Rhythm = Rhythm { interval: MINUTE, offline_after: Duration::from_secs(900) };
    const START: Call = Call::Register(Why::Start);

    struct Told {
        standing: Standing,
        dice: Dice,
        now: Instant,
    }

    impl Told {
        fn new(seed: u64) -> Told {
            let (now, mut dice) = (Instant::now(), Dice::seeded(seed));
            Told { standing: Standing::new(RHYTHM, now, &mut dice), dice, now }
        }

        fn hear(&mut self, call: Call, heard: &Heard) {
            self.standing.begin(call);
            self.standing.heard(call, heard, self.now, &mut self.dice);
        }

        /// Waits until there is something to say; after how long, and what.
        fn until_due(&mut self) -> (Duration, Call) {
            let begin = self.now;
            loop {
                match self.standing.next(self.now) {
                    Do::Say(call) => return (self.now - begin, call),
                    Do::Rest(at) => self.now = at,
                    Do::Await => panic!("nothing is out"),
                }
            }
        }
    }

    /// The picture of the module, and the contract of every answer: what is believed afterwards, what is said next and when.
    #[test]
    #[rustfmt::skip]
    fn every_answer_leads_where_the_picture_says() {
        use Heard::{Forgotten, Held, Later, Refused, Renamed, Silent, Taken};
        let (unreachable, unanswered) = (Silent(Trouble::Unreachable), Silent(Trouble::NoAnswer));
        use State::{Registered, Unregistered};
        let again = |why| Call::Register(why);
        let beat = Call::Heartbeat;
        for (registered, call, heard, state, next, least, most) in [
            (false, START, Taken,                  Registered,   beat,                  30,   60),
            (false, START, Forgotten,              Unregistered, START,                 48,   72), // no such path: a person
            (false, START, Held,                   Unregistered, START,                 48,   72),
            (false, START, Refused,                Unregistered, START,                 48,   72),
            (false, START, Renamed,                Unregistered, again(Why::Renamed),    0,    0),
            (false, START, Later(None),            Unregistered, START,                  2,    8),
            (false, START, Later(Some(S * 120)),   Unregistered, START,                120,  132),
            (false, START, unreachable,            Unregistered, START,                  2,    8),
            (false, START, unanswered,             Unregistered, START,                  2,    8),
            (true,  beat,  Taken,                  Registered,   beat,                  60,   60),
            (true,  beat,  Forgotten,              Unregistered, again(Why::Forgotten),  0,   30),
            (true,  beat,  Held,                   Registered,   beat,                  60,   72),
            (true,  beat,  Refused,                Registered,   beat,                  60,   72),
            (true,  beat,  Renamed,                Unregistered, again(Why::Renamed),    0,    0),
            (true,  beat,  Later(None),            Registered,   beat,                  60,   60),
            (true,  beat,  Later(Some(S * 120)),   Registered,   beat,                 120,  132),
            (true,  beat,  unreachable,            Registered,   beat,                  60,   60),
            (true,  beat,  unanswered,             Registered,   beat,                  60,   60),
        ] {
            let mut told = Told::new(7);
            if registered {
                told.hear(START, &Taken);
            }
            told.hear(call, &heard);
            assert_eq!(told.standing.state(), state, "{call:?} {heard:?}");
            let (rest, said) = told.until_due();
            assert_eq!(said, next, "{call:?} {heard:?}");
            assert!(S * least <= rest && rest <= S * most, "{call:?} {heard:?}: {rest:?}");
        }
    }

    #[test]
    fn a_registration_that_is_out_shows_and_comes_back() {
        let mut told = Told::new(1);
        told.standing.begin(START);
        assert_eq!((told.standing.state(), told.standing.next(told.now)), (State::Registering, Do::Await));
        told.standing.interrupted(told.now, &mut told.dice);
        assert_eq!(told.standing.state(), State::Unregistered);
        assert_eq!(told.until_due().1, START);
    }

    /// Goal: after three days without a link, and no sooner than after 15 minutes, the next thing said is a registration; the
    /// heartbeats of those days are neither kept nor resent; and a fleet does not come back in one second.
    #[test]
    fn after_three_days_the_first_thing_said_is_one_registration() {
        let mut back = Vec::new();
        for agent in 0..50 {
            let mut told = Told::new(agent);
            told.hear(START, &Heard::Taken);
            let (lost, mut beats, mut marked) = (told.now, 0, None);
            let returns = lost + 72 * 60 * MINUTE;
            let (now, call) = loop {
                let (_, call) = told.until_due();
                if told.now >= returns {
                    break (told.now, call);
                }
                if told.standing.state() == State::Offline {
                    marked.get_or_insert(told.now - lost);
                    assert_eq!(call, Call::Register(Why::Offline));
                } else {
                    beats += 1;
                    assert_eq!(call, Call::Heartbeat);
                }
                told.hear(call, &Heard::Silent(Trouble::Unreachable));
            };
            let marked = marked.expect("it is offline by then");
            assert!(MINUTE * 15 <= marked && marked <= MINUTE * 17, "{marked:?}");
            assert!((14..=16).contains(&beats), "{beats}");
            assert_eq!(told.standing.state(), State::Offline);
            // The link is back.
            assert_eq!(told.standing.owes(now), Some(Call::Register(Why::Offline)), "data waits for it");
            assert_eq!(call, Call::Register(Why::Offline));
            back.push(now - returns);
            told.hear(call, &Heard::Taken);
            assert_eq!((told.standing.state(), told.standing.owes(told.now)), (State::Registered, None));
            assert_eq!(told.until_due().1, Call::Heartbeat);
        }
        let (first, last) = (back.iter().min().expect("50"), back.iter().max().expect("50"));
        assert!(*last - *first > MINUTE / 2 && *last <= MINUTE * 3 / 2, "{first:?} to {last:?}");
    }

    /// Data waits for a registration only as long as the answer tells something about the way that data goes.
    #[test]
    fn a_registration_is_owed_until_somebody_answers_or_only_data_is_answered() {
        for (heard, owed) in [
            (Heard::Taken, [false; 3]),
            (Heard::Held, [false; 3]),
            (Heard::Refused, [false; 3]),
            (Heard::Later(None), [false; 3]),
            (Heard::Silent(Trouble::Unreachable), [true; 3]),
            (Heard::Silent(Trouble::NoAnswer), [true, false, false]),
            (Heard::Silent(Trouble::Portal), [true, false, false]),
        ] {
            let mut told = Told::new(3);
            assert_eq!(told.standing.owes(told.now), Some(START), "nothing goes before the first");
            for owed in owed {
                told.hear(START, &heard);
                assert_eq!(told.standing.owes(told.now).is_some(), owed, "{heard:?}");
            }
        }
    }

    #[test]
    fn refusals_rest_longer_and_longer_and_a_second_renaming_is_one() {
        let mut told = Told::new(5);
        for _ in 0..20 {
            told.hear(START, &Heard::Held);
            told.until_due();
        }
        told.hear(START, &Heard::Held);
        let (rest, _) = told.until_due();
        assert!(MINUTE * 48 <= rest && rest <= MINUTE * 72, "{rest:?}");
        told.hear(START, &Heard::Renamed);
        assert_eq!(told.until_due(), (Duration::ZERO, Call::Register(Why::Renamed)));
        told.hear(START, &Heard::Renamed);
        assert!(told.until_due().0 > MINUTE, "an id that is never the right one is no reason to hurry");
    }
}
