//! How everyone is, on one board: components write on it, health_check, the status page and systemd read it.
//!
//! ```text
//!            ready()              stopping()
//! starting ──────────▶ ready ───────────────▶ stopping      available = ready and nobody vital is dead
//!                                                            degraded: shown, changes no code
//! ```
//!
//! It stands here and not in the extension, because whoever notices something (spool, uplink, supervisor) lies below
//! the extension; nobody waits for a reader.
//!
//! What always holds: a load balancer takes us out only when we cannot take data. A dead link or a backlog is what the
//! spool is for, so it degrades and keeps the code at 200.

use super::metrics::{Metrics, Pulled};
use crate::base::{Clock, Stamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::{error, info};

/// Longest reason kept, bytes: a sentence or two. Reasons may carry a far end's words.
pub const REASON_MAX: usize = 512;

/// Where in its life the agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all receivers listen yet.
    Starting,
    /// Begin running and processing data.
    Ready,
    /// Receivers are closed; what was accepted is being brought to safety.
    Stopping,
}

/// The board as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Where in its life the agent is.
    pub phase: Phase,
    /// When it began.
    pub started: Stamp,
    /// Since when it has been available without a break.
    pub available_since: Option<Stamp>,
    /// Vital posts that cannot live, and why.
    pub dead: BTreeMap<String, String>,
    /// What is not as it should be though data is taken and kept, and why.
    pub degraded: BTreeMap<String, String>,
}

/// Something that changes the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News<'a> {
    /// The receivers listen.
    Ready,
    /// The end has begun.
    Stopping,
    /// A vital post cannot live.
    Dead(&'a str, &'a str),
    /// It lives again.
    Alive(&'a str),
    /// Something is not as it should be.
    Degraded(&'a str, &'a str),
    /// It is again.
    Recovered(&'a str),
}

impl State {
    /// At the start of the process.
    #[must_use]
    pub fn starting(now: Stamp) -> State {
        State {
            phase: Phase::Starting,
            started: now,
            available_since: None,
            dead: BTreeMap::new(),
            degraded: BTreeMap::new(),
        }
    }

    /// Whether data is taken.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.phase == Phase::Ready && self.dead.is_empty()
    }

    /// The board after the news.
    #[must_use]
    pub fn after(mut self, news: News<'_>, now: Stamp) -> State {
        match news {
            // Who has begun to stop does not become ready again: the last receiver to answer may be late.
            News::Ready if self.phase == Phase::Stopping => {}
            News::Ready => self.phase = Phase::Ready,
            News::Stopping => self.phase = Phase::Stopping,
            News::Dead(post, why) => drop(self.dead.insert(post.to_owned(), short(why))),
            News::Alive(post) => drop(self.dead.remove(post)),
            News::Degraded(what, why) => drop(self.degraded.insert(what.to_owned(), short(why))),
            News::Recovered(what) => drop(self.degraded.remove(what)),
        }
        self.available_since = self.is_available().then(|| self.available_since.unwrap_or(now));
        self
    }
}

/// Failed uploads of one exporter are counted in steps of this: 5 s.
const STEP: Duration = Duration::from_secs(5);
/// So many steps with failures are remembered, at least an hour and a half of them.
const STEPS_MAX: usize = 1_024;

/// When uploads failed, by exporter: the beginning of each step, and how many.
type Failures = BTreeMap<String, VecDeque<(Stamp, u32)>>;

/// The board. Clones are the same board.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<Mutex<State>>,
    failures: Arc<Mutex<Failures>>,
    clock: Clock,
}

impl Health {
    /// A board that says "starting".
    #[must_use]
    pub fn starting(clock: Clock) -> Health {
        Health { state: Arc::new(Mutex::new(State::starting(clock.now()))), failures: Arc::default(), clock }
    }

    /// An upload of this exporter failed, for now or for good.
    pub fn upload_failed(&self, exporter: &str) {
        let now = self.clock.now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if !failures.contains_key(exporter) {
            failures.insert(exporter.to_owned(), VecDeque::new());
        }
        let Some(steps) = failures.get_mut(exporter) else { return };
        match steps.back_mut().filter(|(began, _)| now.since(*began) < STEP) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => {
                if steps.len() == STEPS_MAX {
                    steps.pop_front();
                }
                steps.push_back((now, 1));
            }
        }
    }

    /// The exporter is gone, and with it what it failed at.
    pub fn forget_failures(&self, exporter: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(exporter);
    }

    /// Exporters with at least `threshold` failed uploads within `interval` (to 5 s), and how many they had.
    #[must_use]
    pub fn failing(&self, interval: Duration, threshold: u32) -> Vec<(String, u64)> {
        let now = self.clock.now();
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |steps: &VecDeque<(Stamp, u32)>| {
            steps.iter().rev().take_while(|(began, _)| now.since(*began) < interval).map(|(_, n)| u64::from(*n)).sum()
        };
        let counts = failures.iter().map(|(exporter, steps)| (exporter.clone(), count(steps)));
        counts.filter(|(_, count)| *count >= u64::from(threshold)).collect()
    }

    /// The board now, and now.
    #[must_use]
    pub fn look(&self) -> (State, Stamp) {
        (self.lock().clone(), self.clock.now())
    }

    /// Whether data is taken.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.lock().is_available()
    }

    /// The receivers listen.
    pub fn ready(&self) {
        self.tell(News::Ready);
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.tell(News::Stopping);
    }

    /// A vital post cannot live: we are no longer available.
    pub fn dead(&self, post: &str, why: &str) {
        self.tell(News::Dead(post, why));
    }

    /// The post lives again.
    pub fn alive(&self, post: &str) {
        self.tell(News::Alive(post));
    }

    /// `what` (a component's id) is not as it should be; saying it again replaces the reason.
    pub fn degraded(&self, what: &str, why: &str) {
        self.tell(News::Degraded(what, why));
    }

    /// `what` is as it should be again.
    pub fn recovered(&self, what: &str) {
        self.tell(News::Recovered(what));
    }

    /// Shows `tfo_agent_available` and `tfo_agent_degraded`.
    pub fn register(&self, metrics: &Metrics) {
        let health = self.clone();
        let text = "1 while data is taken, else 0.";
        metrics.pull(Pulled::Gauge, "tfo_agent_available", text, &[], move |samples| {
            samples.push_count(&[], u64::from(health.is_available()));
        });
        let health = self.clone();
        let text = "1 for each component that is not as it should be though data is taken and kept.";
        metrics.pull(Pulled::Gauge, "tfo_agent_degraded", text, &["component"], move |samples| {
            health.lock().degraded.keys().for_each(|what| samples.push_count(&[what], 1));
        });
    }

    fn tell(&self, news: News<'_>) {
        let (before, after) = {
            let mut state = self.lock();
            let before = state.is_available();
            *state = state.clone().after(news, self.clock.now());
            (before, state.is_available())
        };
        if let News::Dead(post, reason) = news {
            error!(kind = "extension", name = "health_check", post, reason, "A vital post is dead.");
        }
        if before != after {
            // The original's words, which people search for.
            let status = if after { "ready" } else { "unavailable" };
            info!(kind = "extension", name = "health_check", status, "Health Check state change");
        }
    }

    /// A board whose writer panicked still says what was written last.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn short(why: &str) -> String {
    if why.len() <= REASON_MAX {
        return why.to_owned();
    }
    let mut end = REASON_MAX;
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &why[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Stamp {
        Stamp { wall_ns: mono_ms * 1_000_000, mono_ms }
    }

    #[test]
    #[rustfmt::skip]
    fn the_board_is_available_only_while_ready_and_everyone_vital_lives() {
        use News::{Alive, Dead, Degraded, Ready, Recovered, Stopping};
        let mut state = State::starting(at(0));
        for (second, (news, phase, available_since)) in (1..).zip([
            (Degraded("otlphttp", "link is down"), Phase::Starting, None),
            (Ready,                                Phase::Ready,    Some(2)),
            (Ready,                                Phase::Ready,    Some(2)),
            (Recovered("otlphttp"),                Phase::Ready,    Some(2)),
            (Dead("spool-writer", "hangs"),        Phase::Ready,    None),
            (Dead("batcher", "fell"),              Phase::Ready,    None),
            (Alive("spool-writer"),                Phase::Ready,    None),
            (Alive("batcher"),                     Phase::Ready,    Some(8)),
            (Alive("nobody"),                      Phase::Ready,    Some(8)),
            (Degraded("otlphttp", "link is down"), Phase::Ready,    Some(8)),
            (Stopping,                             Phase::Stopping, None),
            (Ready,                                Phase::Stopping, None),
        ]) {
            state = state.after(news, at(second * 1_000));
            let since = available_since.map(|second| at(second * 1_000));
            assert_eq!((state.phase, state.available_since), (phase, since), "{second}: {news:?}");
            assert_eq!(state.is_available(), since.is_some());
        }
        assert_eq!(state.degraded, BTreeMap::from([("otlphttp".to_owned(), "link is down".to_owned())]));
    }

    #[test]
    fn failed_uploads_are_counted_over_a_time() {
        let clock = Clock::by_hand(at(1_000_000));
        let health = Health::starting(clock.clone());
        let (minute, failing) =
            (Duration::from_secs(60), |threshold| health.failing(Duration::from_secs(60), threshold));
        for _ in 0..3 {
            health.upload_failed("otlphttp");
            clock.advance(minute / 4);
        }
        health.upload_failed("otlphttp/b");
        assert_eq!(failing(4), []);
        assert_eq!(failing(3), [("otlphttp".to_owned(), 3)]);
        assert_eq!(failing(1), [("otlphttp".to_owned(), 3), ("otlphttp/b".to_owned(), 1)]);
        clock.advance(minute / 4);
        assert_eq!(failing(2), [("otlphttp".to_owned(), 2)], "the first is a minute old");
        for _ in 0..100_000 {
            health.upload_failed("otlphttp");
            clock.advance(Duration::from_millis(100));
        }
        assert_eq!(failing(500), [("otlphttp".to_owned(), 550)], "to a step");
        assert_eq!(health.failures.lock().expect("whole")["otlphttp"].len(), STEPS_MAX);
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let state = State::starting(at(0)).after(News::Dead("x", &"é".repeat(1_000)), at(0));
        assert_eq!(state.dead["x"], format!("{}…", "é".repeat(256)));
        let state = state.after(News::Dead("x", &format!("a{}", "é".repeat(1_000))), at(0));
        assert_eq!(state.dead["x"], format!("a{}…", "é".repeat(255)));
    }

    #[test]
    fn the_board_shows_in_the_metrics() {
        let health = Health::starting(Clock::by_hand(at(0)));
        let metrics = Metrics::detached();
        health.register(&metrics);
        let shown = |metrics: &Metrics| -> Vec<String> {
            let text = metrics.text();
            text.lines()
                .filter(|l| !l.starts_with('#'))
                .map(|l| format!("{}{}", &l[..l.find('{').expect("labels")], &l[l.rfind('}').expect("labels") + 1..]))
                .collect()
        };
        assert_eq!(shown(&metrics), ["tfo_agent_available 0"]);
        health.ready();
        health.degraded("otlphttp", "link is down");
        assert_eq!(shown(&metrics), ["tfo_agent_available 1", "tfo_agent_degraded 1"]);
    }
}
