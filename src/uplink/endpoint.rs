//! One of several endpoints of an exporter: whether it is used just now.
//!
//! ```text
//!         silence, or nothing taken for `after`                rest is over
//!   Up ───────────────────────────────────────────▶ Away ────────────────────▶ Asked     (with an empty request,
//!   ▲                                                ▲  ▲                       │  │       beside the data)
//!   │                                                │  └───── not taken ───────┘  │ taken
//!   └──────────── taken ─────────── Trial ───────────┘ ◀───────────────────────────┘
//!                                   (the next upload, alone)
//! ```
//!
//! What always holds:
//! * No upload waits to find out whether an endpoint is back: an empty request does, which OTLP wants answered with
//!   success (opentelemetry-proto, docs/specification.md). Some far ends take that and nothing else, so one upload goes
//!   next, alone.
//! * Failures in a row count until an upload was taken, so one that comes and goes is asked less and less.
//! * One that asks for patience gets nothing until then; what is meant for it goes to others at once.
//! * A refusal is about the upload, unless another endpoint takes the same items: then it is about the endpoint, which takes
//!   nothing, and its word alone condemns nothing until it takes something again.

use super::link::Trouble;
use super::verdict::Verdict;
use crate::base::Dice;
use crate::base::backoff::Curve;
use std::time::Duration;
use tokio::time::Instant;

/// When an endpoint is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// One that answers and takes nothing for so long is away too.
    pub after: Duration,
    /// Rests before it is asked.
    pub curve: Curve,
}

impl Rules {
    /// First rest of one that is away: 5 s, as of an upload (`retry_on_failure.initial_interval`).
    const FIRST: Duration = Duration::from_secs(5);

    /// `longest`: between two questions, before jitter.
    #[must_use]
    pub fn new(after: Duration, longest: Duration) -> Rules {
        let curve = Curve { initial: Rules::FIRST.min(longest), multiplier: 2.0, max: longest, ..Curve::default() };
        Rules { after, curve }
    }
}

/// What is believed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Up,
    Away { until: Instant, tries: u32, trouble: Trouble },
    Asked { tries: u32, trouble: Trouble },
    Trial { out: bool, tries: u32, trouble: Trouble },
}

/// See the module.
#[derive(Debug)]
pub struct Endpoint {
    standing: Standing,
    /// Since when it has answered and taken nothing.
    unwilling: Option<Instant>,
    /// Until then it wants nothing (`Retry-After`, `RetryInfo`).
    not_before: Option<Instant>,
    /// Another one took what it refused, and it has taken nothing since.
    overruled: bool,
}

impl Default for Endpoint {
    fn default() -> Endpoint {
        Endpoint { standing: Standing::Up, unwilling: None, not_before: None, overruled: false }
    }
}

impl Endpoint {
    /// An upload may go there.
    #[must_use]
    pub fn is_open(&self, now: Instant) -> bool {
        matches!(self.standing, Standing::Up | Standing::Trial { out: false, .. }) && self.wants_rest(now).is_none()
    }

    /// For how long it wants nothing, by its own word.
    #[must_use]
    pub fn wants_rest(&self, now: Instant) -> Option<Duration> {
        self.not_before.map(|then| then.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
    }

    /// What it alone refuses may be at fault.
    #[must_use]
    pub fn is_credible(&self) -> bool {
        !self.overruled
    }

    /// Why it is not used.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        match self.standing {
            Standing::Up => None,
            Standing::Away { trouble, .. } | Standing::Asked { trouble, .. } | Standing::Trial { trouble, .. } => {
                Some(trouble)
            }
        }
    }

    /// An upload goes there. What [`Endpoint::heard`] says, or [`Endpoint::forget`], ends a trial.
    pub fn sent(&mut self) {
        if let Standing::Trial { out, .. } = &mut self.standing {
            *out = true;
        }
    }

    /// Nobody waits for the answer any more.
    pub fn forget(&mut self) {
        if let Standing::Trial { out, .. } = &mut self.standing {
            *out = false;
        }
    }

    /// What an upload was answered there; whether it is to go elsewhere.
    pub fn heard(&mut self, verdict: &Verdict, rules: &Rules, now: Instant, dice: &mut Dice) -> bool {
        let (trouble, floor) = match verdict {
            Verdict::Accepted { .. } => {
                *self = Endpoint::default();
                return false;
            }
            // A refusal is about the upload, from somebody who works.
            Verdict::Split { .. } => {
                if !self.overruled {
                    *self = Endpoint::default();
                }
                return false;
            }
            Verdict::Silence { trouble, .. } => {
                self.fell(*trouble, None, rules, now, dice);
                return true;
            }
            Verdict::Later { after, .. } => {
                self.not_before = after.map(|after| now + after).max(self.not_before);
                (Trouble::Busy, *after)
            }
            Verdict::Hold { .. } => (Trouble::Held, None),
        };
        self.takes_nothing(trouble, floor, rules, now, dice)
    }

    /// It refused what another one took.
    pub fn overruled(&mut self, rules: &Rules, now: Instant, dice: &mut Dice) {
        self.overruled = true;
        self.takes_nothing(Trouble::Refusing, None, rules, now, dice);
    }

    /// It is borne with for a while. Whether that is over, or it asks for patience: then others can be asked at once.
    fn takes_nothing(
        &mut self,
        trouble: Trouble,
        floor: Option<Duration>,
        rules: &Rules,
        now: Instant,
        dice: &mut Dice,
    ) -> bool {
        let since = *self.unwilling.get_or_insert(now);
        let is_patient = now.saturating_duration_since(since) < rules.after;
        // A longer rest than that is told to people, and ends with a question.
        let is_short = floor.is_none_or(|floor| floor < rules.after);
        if self.standing == Standing::Up && is_patient && is_short {
            return self.wants_rest(now).is_some();
        }
        self.fell(trouble, floor, rules, now, dice);
        true
    }

    fn fell(&mut self, trouble: Trouble, floor: Option<Duration>, rules: &Rules, now: Instant, dice: &mut Dice) {
        let tries = match self.standing {
            Standing::Up => 1,
            Standing::Asked { tries, .. } | Standing::Trial { tries, .. } => tries.saturating_add(1),
            // Sent before it fell, or for want of another: no news.
            Standing::Away { .. } => return,
        };
        let rest = rules.curve.jittered(tries, dice).max(floor.unwrap_or_default());
        self.standing = Standing::Away { until: now + rest, tries, trouble };
    }

    /// Whether it is time to ask. Whoever is told so asks.
    pub fn asks(&mut self, now: Instant) -> bool {
        let Standing::Away { until, tries, trouble } = self.standing else { return false };
        if now < until {
            return false;
        }
        self.standing = Standing::Asked { tries, trouble };
        true
    }

    /// What the question was answered.
    pub fn answered(&mut self, verdict: &Verdict, rules: &Rules, now: Instant, dice: &mut Dice) {
        let Standing::Asked { tries, trouble } = self.standing else { return }; // an upload said more meanwhile
        match verdict {
            Verdict::Accepted { .. } | Verdict::Split { .. } => {
                self.standing = Standing::Trial { out: false, tries, trouble };
            }
            Verdict::Silence { trouble, .. } => self.fell(*trouble, None, rules, now, dice),
            Verdict::Later { after, .. } => self.fell(Trouble::Busy, *after, rules, now, dice),
            Verdict::Hold { .. } => self.fell(Trouble::Held, None, rules, now, dice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn rules() -> Rules {
        let curve = Curve { randomization_factor: 0.0, ..Rules::new(30 * S, 20 * S).curve };
        Rules { curve, ..Rules::new(30 * S, 20 * S) }
    }

    fn why() -> String {
        "why".to_owned()
    }

    fn taken() -> Verdict {
        Verdict::Accepted { rejected: 0, message: why(), oddity: None }
    }

    fn silence() -> Verdict {
        Verdict::Silence { trouble: Trouble::Unreachable, why: why() }
    }

    #[test]
    fn silence_sends_it_away_and_it_comes_back_by_a_question_and_one_upload() {
        let (mut endpoint, mut dice, start) = (Endpoint::default(), Dice::seeded(1), Instant::now());
        let mut rest = 5 * S;
        let mut now = start;
        assert!(endpoint.is_open(now) && endpoint.heard(&silence(), &rules(), now, &mut dice));
        for _ in 0..4 {
            assert!(!endpoint.is_open(now) && !endpoint.asks(now + rest - S / 10));
            now += rest;
            assert!(endpoint.asks(now) && !endpoint.asks(now), "one question at a time");
            endpoint.answered(&taken(), &rules(), now, &mut dice);
            assert!(endpoint.is_open(now) && endpoint.trouble().is_some());
            endpoint.sent();
            assert!(!endpoint.is_open(now), "one upload at a time");
            endpoint.forget();
            assert!(endpoint.is_open(now));
            endpoint.sent();
            // It takes nothing but questions.
            assert!(endpoint.heard(&silence(), &rules(), now, &mut dice));
            rest = (rest * 2).min(20 * S);
        }
        now += rest;
        assert!(endpoint.asks(now));
        endpoint.answered(&taken(), &rules(), now, &mut dice);
        assert!(!endpoint.heard(&taken(), &rules(), now, &mut dice));
        assert!(endpoint.is_open(now) && endpoint.trouble().is_none());
        endpoint.heard(&silence(), &rules(), now, &mut dice);
        assert!(endpoint.asks(now + 5 * S), "the count begins anew");
    }

    #[test]
    fn one_that_answers_and_takes_nothing_is_borne_with_for_a_while() {
        let later = || Verdict::Later { after: None, why: why() };
        let hold = || Verdict::Hold { why: why() };
        let split = || Verdict::Split { too_large: false, why: why() };
        for no in [later, hold] {
            let (mut endpoint, mut dice, start) = (Endpoint::default(), Dice::seeded(1), Instant::now());
            let mut heard = |verdict: Verdict, s: u32| endpoint.heard(&verdict, &rules(), start + s * S, &mut dice);
            assert!(!heard(no(), 0) && !heard(no(), 29));
            assert!(!heard(split(), 29), "a refusal of the data is an answer of somebody who works");
            assert!(!heard(no(), 40) && !heard(no(), 69) && heard(no(), 70));
            assert!(!endpoint.is_open(start + 70 * S));
        }
    }

    /// Goal: one that refuses what others take is away in the end, and alone it condemns nothing; one that refuses what is bad
    /// is as good as it was.
    #[test]
    fn one_that_refuses_what_others_take_is_unwilling() {
        let split = Verdict::Split { too_large: false, why: why() };
        let (mut endpoint, mut dice, start) = (Endpoint::default(), Dice::seeded(1), Instant::now());
        let at = |s: u32| start + s * S;
        endpoint.overruled(&rules(), at(0), &mut dice);
        assert!(endpoint.is_open(at(0)) && !endpoint.is_credible());
        assert!(!endpoint.heard(&split, &rules(), at(20), &mut dice), "this time another one agreed");
        endpoint.overruled(&rules(), at(29), &mut dice);
        assert!(endpoint.is_open(at(29)));
        endpoint.overruled(&rules(), at(30), &mut dice);
        assert_eq!((endpoint.is_open(at(30)), endpoint.trouble()), (false, Some(Trouble::Refusing)));
        assert!(endpoint.asks(at(40)));
        endpoint.answered(&split, &rules(), at(40), &mut dice);
        endpoint.sent();
        endpoint.overruled(&rules(), at(41), &mut dice);
        assert!(!endpoint.is_open(at(41)), "its trial was no success");
        endpoint.heard(&taken(), &rules(), at(60), &mut dice);
        assert!(endpoint.is_open(at(60)) && endpoint.is_credible());
        endpoint.overruled(&rules(), at(70), &mut dice);
        assert!(endpoint.is_open(at(70)), "the count begins anew");
    }

    #[test]
    fn one_that_asks_for_patience_has_it() {
        let (mut endpoint, mut dice, start) = (Endpoint::default(), Dice::seeded(1), Instant::now());
        let later = |s: u32| Verdict::Later { after: Some(s * S), why: why() };
        let at = |s: u32| start + s * S;
        assert!(endpoint.heard(&later(7), &rules(), start, &mut dice), "what was meant for it goes elsewhere");
        assert!(!endpoint.is_open(at(3)) && endpoint.trouble().is_none());
        assert_eq!(endpoint.wants_rest(at(3)), Some(4 * S));
        assert!(endpoint.is_open(at(7)) && endpoint.wants_rest(at(7)).is_none());
        assert!(
            !endpoint.heard(&later(0), &rules(), at(7), &mut dice) && endpoint.is_open(at(7)),
            "at once is no rest"
        );
        endpoint.heard(&later(7), &rules(), at(8), &mut dice);
        endpoint.heard(&taken(), &rules(), at(9), &mut dice);
        assert!(endpoint.is_open(at(9)), "it took one after all");
        assert!(endpoint.heard(&later(30), &rules(), at(10), &mut dice), "for longer than it is borne with");
        assert_eq!((endpoint.is_open(at(41)), endpoint.trouble()), (false, Some(Trouble::Busy)));
        assert!(!endpoint.asks(at(39)) && endpoint.asks(at(40)), "it is asked then");
    }

    #[test]
    #[rustfmt::skip]
    fn a_question_is_answered_by_whoever_takes_it() {
        let start = Instant::now();
        for (verdict, open, next) in [
            (taken(),                                                   true,  0),
            (Verdict::Split { too_large: false, why: why() },           true,  0), // it minds that the request is empty
            (Verdict::Later { after: None, why: why() },                false, 10),
            (Verdict::Later { after: Some(60 * S), why: why() },        false, 60),
            (Verdict::Hold { why: why() },                              false, 10),
            (silence(),                                                 false, 10),
        ] {
            let (mut endpoint, mut dice) = (Endpoint::default(), Dice::seeded(1));
            endpoint.heard(&silence(), &rules(), start, &mut dice);
            assert!(endpoint.asks(start + 5 * S));
            endpoint.answered(&verdict, &rules(), start + 5 * S, &mut dice);
            assert_eq!(endpoint.is_open(start + 5 * S), open, "{verdict:?}");
            if !open {
                let at = |s: u32| start + (5 + s) * S;
                assert!(!endpoint.asks(at(next) - S / 10) && endpoint.asks(at(next)), "{verdict:?}");
            }
        }
    }

    #[test]
    fn what_is_late_is_no_news_but_a_success() {
        let (mut endpoint, mut dice, start) = (Endpoint::default(), Dice::seeded(1), Instant::now());
        endpoint.heard(&silence(), &rules(), start, &mut dice);
        assert!(endpoint.heard(&silence(), &rules(), start + 4 * S, &mut dice));
        assert!(endpoint.asks(start + 5 * S), "its rest is no longer for that");
        assert!(!endpoint.heard(&taken(), &rules(), start + 6 * S, &mut dice) && endpoint.is_open(start + 6 * S));
        endpoint.answered(&silence(), &rules(), start + 7 * S, &mut dice);
        assert!(
            endpoint.is_open(start + 7 * S) && endpoint.trouble().is_none(),
            "the upload said more than the question"
        );
    }
}
