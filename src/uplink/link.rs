//! Is anybody there? The belief that decides when to send, when to rest and when to knock.
//!
//! ```text
//!        silence               rest is over
//!   Up ───────────▶ Resting ─────────────────▶ Probing
//!   ▲                  ▲                         │ │
//!   │                  └──────── silence ────────┘ │
//!   └───────────────────── answer ─────────────────┘
//! ```
//!
//! The same belief is held twice: of the far end as a whole (is there an answer at all?), and of each lane (does it
//! take *this* signal's data?), for a collector may refuse logs all day and take traces.

use crate::base::Dice;
use crate::base::backoff::Curve;
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// What the uplink believes about the far end.
///
/// `Resting` sends nothing before `until`. `Probing` has at most one upload out and holds the others until its fate
/// is known. `tries` counts the failures in a row, the first included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// It takes what we send.
    #[default]
    Up,
    /// It did not; we wait.
    Resting {
        /// Until then nothing is sent.
        until: Instant,
        /// Failures in a row.
        tries: u32,
        /// The last of them.
        trouble: Trouble,
    },
    /// It did not; one upload finds out.
    Probing {
        /// Failures in a row.
        tries: u32,
        /// The last of them.
        trouble: Trouble,
    },
}

/// Why it is believed to be down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// No connection could be made: refused, no route, no such name, TLS failed.
    Unreachable,
    /// There was a connection and no answer: timeout, reset.
    NoAnswer,
    /// Somebody else answers in its place: a captive portal.
    Portal,
    /// It asked to wait: 429, 502, 503, 504, or it failed: 500.
    Busy,
    /// It does not let us: 401, 403, 404, a redirect. A person must mend it.
    Held,
    /// It refuses everything we send as bad.
    Refusing,
}

impl Trouble {
    /// For logs, labels and the status page.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Trouble::Unreachable => "unreachable",
            Trouble::NoAnswer => "no_answer",
            Trouble::Portal => "captive_portal",
            Trouble::Busy => "busy",
            Trouble::Held => "held",
            Trouble::Refusing => "refusing",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It answered (or, for a lane: it took an upload).
    Answer,
    /// It did not.
    Silence {
        /// How it failed.
        trouble: Trouble,
        /// `Retry-After`: not before that.
        floor: Option<Duration>,
    },
    /// Time passed.
    Tick,
}

impl Link {
    /// The belief after `seen`.
    ///
    /// A `Retry-After` is a floor of the rest, and some chance is added on top: a fleet that was told the same second
    /// must not come in the same second.
    #[must_use]
    pub fn after(self, seen: Seen, now: Instant, curve: &Curve, dice: &mut Dice) -> Link {
        let asked = |floor: Option<Duration>, dice: &mut Dice| {
            floor.map_or(Duration::ZERO, |floor| floor + dice.around(floor / 20, 1.0))
        };
        let rest = |tries: u32, trouble: Trouble, floor: Option<Duration>, dice: &mut Dice| {
            let pause = curve.jittered(tries, dice);
            Link::Resting { until: now + pause.max(asked(floor, dice)), tries, trouble }
        };
        match (self, seen) {
            (_, Seen::Answer) => Link::Up,
            (Link::Up, Seen::Silence { trouble, floor }) => rest(1, trouble, floor, dice),
            (Link::Probing { tries, .. }, Seen::Silence { trouble, floor }) => {
                rest(tries.saturating_add(1), trouble, floor, dice)
            }
            (Link::Resting { until, tries, trouble }, Seen::Tick) if now >= until => Link::Probing { tries, trouble },
            // A request sent before the rest began may still fail late. That is no news, but for the patience it asks.
            (Link::Resting { until, tries, trouble }, Seen::Silence { floor, .. }) => {
                Link::Resting { until: until.max(now + asked(floor, dice)), tries, trouble }
            }
            (same, Seen::Tick) => same,
        }
    }

    /// The same belief, and a rest that is longer by so much.
    #[must_use]
    pub fn longer_by(self, more: Duration) -> Link {
        match self {
            Link::Resting { until, tries, trouble } => Link::Resting { until: until + more, tries, trouble },
            other => other,
        }
    }

    /// Nothing speaks against sending.
    #[must_use]
    pub fn is_up(self) -> bool {
        self == Link::Up
    }

    /// Why it is not up.
    #[must_use]
    pub fn trouble(self) -> Option<Trouble> {
        match self {
            Link::Up => None,
            Link::Resting { trouble, .. } | Link::Probing { trouble, .. } => Some(trouble),
        }
    }

    /// For logs, labels and the status page.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Link::Up => "up",
            Link::Resting { .. } => "resting",
            Link::Probing { .. } => "probing",
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.trouble() {
            None => f.write_str(self.name()),
            Some(trouble) => write!(f, "{} ({trouble})", self.name()),
        }
    }
}

/// How long something was up: a clock that stands still while it is not (promise P3).
#[derive(Debug, Clone, Copy, Default)]
pub struct UpTime {
    total: Duration,
    since: Option<Instant>,
}

impl UpTime {
    /// From `now` on it is up, or not.
    pub fn set(&mut self, up: bool, now: Instant) {
        self.total = self.at(now);
        self.since = up.then_some(now);
    }

    /// The reading at `now`.
    #[must_use]
    pub fn at(&self, now: Instant) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn curve() -> Curve {
        Curve { initial: 10 * S, multiplier: 2.0, max: 60 * S, randomization_factor: 0.0 }
    }

    #[test]
    #[rustfmt::skip]
    fn the_belief_moves_as_in_the_picture() {
        let now = Instant::now();
        let (busy, away) = (Trouble::Busy, Trouble::Unreachable);
        let silence = Seen::Silence { trouble: away, floor: None };
        let pushed = |s: u32| Seen::Silence { trouble: busy, floor: Some(s * S) };
        let resting = |until: u32, tries, trouble| Link::Resting { until: now + until * S, tries, trouble };
        let over = |tries| Link::Resting { until: now, tries, trouble: away };
        let probing = |tries| Link::Probing { tries, trouble: away };
        for (before, seen, after) in [
            (Link::Up,              Seen::Answer, Link::Up),
            (Link::Up,              Seen::Tick,   Link::Up),
            (Link::Up,              silence,      resting(10, 1, away)),
            (Link::Up,              pushed(7),    resting(10, 1, busy)), // our rest is longer than what it asks
            (resting(10, 1, away),  Seen::Tick,   resting(10, 1, away)),
            (resting(10, 1, away),  silence,      resting(10, 1, away)), // a late failure is no news
            (resting(10, 1, away),  pushed(7),    resting(10, 1, away)),
            (resting(10, 1, away),  Seen::Answer, Link::Up),             // a late success is
            (over(3),               Seen::Tick,   probing(3)),
            (probing(3),            Seen::Tick,   probing(3)),
            (probing(1),            silence,      resting(20, 2, away)),
            (probing(2),            silence,      resting(40, 3, away)),
            (probing(9),            silence,      resting(60, 10, away)),
            (probing(u32::MAX),     silence,      resting(60, u32::MAX, away)),
            (probing(9),            Seen::Answer, Link::Up),
        ] {
            assert_eq!(before.after(seen, now, &curve(), &mut Dice::seeded(1)), after, "{before:?} {seen:?}");
        }
    }

    /// Goal: Retry-After is a floor, never undercut by chance, and a fleet told the same second is spread; also where it
    /// comes with a failure that is late, while the link rests already.
    #[test]
    fn retry_after_is_honoured_and_a_fleet_is_spread_above_it() {
        let now = Instant::now();
        let resting = Link::Resting { until: now + 10 * S, tries: 1, trouble: Trouble::Unreachable };
        for before in [Link::Up, resting] {
            let rests: Vec<Duration> = (0..200)
                .map(|agent| {
                    let seen = Seen::Silence { trouble: Trouble::Busy, floor: Some(120 * S) };
                    match before.after(seen, now, &Curve::default(), &mut Dice::seeded(agent)) {
                        Link::Resting { until, .. } => until - now,
                        other => panic!("{other:?}"),
                    }
                })
                .collect();
            let (least, most) = (rests.iter().min().expect("200"), rests.iter().max().expect("200"));
            assert!(*least >= 120 * S && *most <= 132 * S, "{before}: {least:?} to {most:?}");
            assert!(*most - *least > 5 * S, "{before}: {least:?} to {most:?}");
        }
    }

    #[test]
    fn up_time_stands_still_while_it_is_down() {
        let start = Instant::now();
        let mut clock = UpTime::default();
        assert_eq!(clock.at(start + 5 * S), Duration::ZERO);
        clock.set(true, start);
        clock.set(true, start + S);
        clock.set(false, start + 3 * S);
        clock.set(false, start + 1_000 * S);
        clock.set(true, start + 2_000 * S);
        assert_eq!(clock.at(start + 2_004 * S), 7 * S);
    }
}
