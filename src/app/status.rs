//! What systemd hears of the agent while it runs: one line, as `systemctl status` shows it.

use super::stores::Stores;
use crate::base::Bytes;
use crate::spool::Store as _;
use crate::supervise::{News, NoEar, SignOfLife, Systemd};
use crate::telemetry::Health;
use crate::telemetry::health::{Phase, State};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often the line is made anew.
const EVERY: Duration = Duration::from_secs(10);

/// Tells systemd, when it listens.
pub(super) struct Told {
    systemd: Option<Arc<Systemd>>,
    ticks: Interval,
    /// The books are being looked at, by a thread that a disk may hold up.
    looking: Option<tokio::task::JoinHandle<()>>,
}

impl Told {
    /// By the environment. That nobody can be told is a warning: the agent does its work all the same. Needs a runtime.
    pub(super) fn begin() -> Told {
        let systemd = Systemd::listening().unwrap_or_else(|error: NoEar| {
            tracing::warn!(%error, "systemd cannot be told how it goes");
            None
        });
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Told { systemd: systemd.map(Arc::new), ticks, looking: None }
    }

    /// For the watchdog.
    pub(super) fn sign_of_life(&self) -> Option<SignOfLife> {
        self.systemd.as_ref()?.sign_of_life()
    }

    /// When [`Told::look`] is due.
    pub(super) async fn due(&mut self) {
        match self.systemd {
            Some(_) => drop(self.ticks.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Receivers listen, and the reload is done.
    pub(super) fn ready(&self) {
        self.tell(News::Ready, None);
    }

    /// A reload has begun.
    pub(super) fn reloading(&self) {
        self.tell(News::Reloading, Some("reading the configuration again"));
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.tell(News::Stopping, Some("stopping; what is in hand is brought to safety"));
    }

    /// Begins to tell how it goes now; the last line must have been told.
    pub(super) fn look(&mut self, stores: &Arc<Stores>, health: &Health) {
        let Some(systemd) = self.systemd.clone() else { return };
        if self.looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return;
        }
        let (stores, health) = (stores.clone(), health.clone());
        self.looking = Some(actix_rt::task::spawn_blocking(move || {
            let waiting = stores.all.iter().flat_map(|s| s.spool.books()).map(|book| book.waiting).sum();
            let on_disk = stores.all.iter().filter(|s| s.durable).map(|s| s.spool.usage().bytes.0).sum();
            let told = line(&health.look().0, waiting, Bytes(on_disk));
            let _ = systemd.tell(News::Status, Some(&told)); // the next line says more
        }));
    }

    fn tell(&self, news: News, status: Option<&str>) {
        let Some(Err(error)) = self.systemd.as_ref().map(|systemd| systemd.tell(news, status)) else { return };
        tracing::warn!(?news, %error, "systemd could not be told");
    }
}

/// `waiting` is items, of all exporters.
fn line(state: &State, waiting: u64, on_disk: Bytes) -> String {
    let does = match (state.phase, state.dead.is_empty()) {
        (Phase::Starting, _) => "starting",
        (Phase::Stopping, _) => "stopping",
        (Phase::Ready, true) => "taking data",
        (Phase::Ready, false) => "not taking data",
    };
    let mut line = format!("{does}; {waiting} items wait, {on_disk} on disk");
    for (what, why) in &state.dead {
        line.push_str(&format!("; dead: {what}: {why}"));
    }
    for (what, why) in &state.degraded {
        line.push_str(&format!("; degraded: {what}: {why}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Stamp;
    use crate::telemetry::health::News::{Dead, Degraded, Ready, Stopping};

    #[test]
    #[rustfmt::skip]
    fn the_line_says_how_it_goes() {
        let now = Stamp::default();
        let after = |news: &[_]| news.iter().fold(State::starting(now), |state, news| state.after(*news, now));
        for (news, expected) in [
            (&[][..],                                                "starting; 7 items wait, 2.0 MiB on disk"),
            (&[Ready],                                               "taking data; 7 items wait, 2.0 MiB on disk"),
            (&[Ready, Degraded("otlphttp", "link is down")],         "taking data; 7 items wait, 2.0 MiB on disk; degraded: otlphttp: link is down"),
            (&[Ready, Dead("web", "fell"), Degraded("a", "b")],      "not taking data; 7 items wait, 2.0 MiB on disk; dead: web: fell; degraded: a: b"),
            (&[Ready, Stopping],                                     "stopping; 7 items wait, 2.0 MiB on disk"),
        ] {
            assert_eq!(line(&after(news), 7, Bytes::mib(2)), expected);
        }
    }
}
