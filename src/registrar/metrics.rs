//! What the registrar says about itself: each event is one method, which counts, logs and tells the board.

use super::answer::{Answer, Heard, Orders};
use super::identity::Identity;
use super::letter::Place;
use super::standing::{Call, State};
use crate::telemetry::metrics::{Counters, Gauge, Gauges};
use crate::telemetry::{Health, Metrics};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tracing::{Span, debug, error, info, warn};

/// Its name on the board.
const ON_BOARD: &str = "registration";
/// On the board while another agent has the same id.
const COPY_ON_BOARD: &str = "registration/identity";
/// So many heartbeats are one line in the log: an hour's, a card that wears is written for less.
const BEATS_TOLD: u64 = 60;

/// Counts, logs and tells the board.
#[derive(Debug, Clone)]
pub struct RegistrarMetrics {
    calls: Counters,
    states: Gauges,
    drain_rate: Gauge,
    copied: Gauge,
    /// That nobody answers was told since somebody last did.
    is_silence_told: Arc<AtomicBool>,
    health: Health,
    span: Span,
}

impl RegistrarMetrics {
    /// Shown from now on.
    #[must_use]
    pub fn new(metrics: &Metrics, health: &Health) -> RegistrarMetrics {
        let calls = "Registrations and heartbeats by what the platform made of them: taken, forgotten, renamed, later, held, refused, silent.";
        let states =
            "1 for what we believe the platform believes of us: unregistered, registering, registered, offline.";
        let rate = "Bytes a second the platform lets the backlog leave with; 0: it sets no limit.";
        let copied =
            "1 while another machine has the same agent id, or had it before its image was copied to this one.";
        RegistrarMetrics {
            calls: metrics.counters("tfo_agent_registrar_calls", calls, &["call", "outcome"]),
            states: metrics.gauges("tfo_agent_registration", states, &["state"]),
            drain_rate: metrics.gauges("tfo_agent_registration_drain_rate", rate, &[]).with(&[]),
            copied: metrics.gauges("tfo_agent_identity_copied", copied, &[]).with(&[]),
            is_silence_told: Arc::default(),
            health: health.clone(),
            span: tracing::info_span!("component", kind = "registrar", name = "registration"),
        }
    }

    /// What is believed, for those who scrape.
    pub fn show(&self, state: State) {
        for each in State::ALL {
            self.states.with(&[each.name()]).set_count(u64::from(each == state));
        }
    }

    /// It is over: nothing of it is true any more.
    pub fn given_up(&self) {
        State::ALL.iter().for_each(|state| self.states.with(&[state.name()]).set_count(0));
        self.drain_rate.set_count(0);
        self.copied.set_count(0);
        [ON_BOARD, COPY_ON_BOARD].iter().for_each(|what| self.health.recovered(what));
    }

    /// A process or a configuration begins with this id.
    pub fn begun(&self, identity: &Identity) {
        let (id, shared) = (identity.agent_id(), identity.is_shared());
        self.copied.set_count(u64::from(identity.copied_from.is_some()));
        match &identity.copied_from {
            None => info!(parent: &self.span, agent_id = id, "agent has its id"),
            Some(_) if shared => {
                let why = "the id was kept by another machine: two agents have it, and the platform takes them for one; give one of them another agent_id";
                self.health.degraded(COPY_ON_BOARD, why);
                error!(parent: &self.span, agent_id = id, why, "image was copied");
            }
            Some(former) => {
                warn!(parent: &self.span, agent_id = id, former, "image was copied from another machine; this one has an id of its own now");
            }
        }
        if !shared {
            self.health.recovered(COPY_ON_BOARD);
        }
    }

    /// The file of the identity is there and says nothing.
    pub fn unreadable(&self, file: &dyn Display, why: &dyn Display) {
        warn!(parent: &self.span, %file, error = %why, "identity cannot be read; it is made anew");
    }

    /// Where the identity is to be kept lies something of somebody else.
    pub fn not_ours(&self, file: &dyn Display, why: &dyn Display) {
        warn!(parent: &self.span, %file, error = %why, "identity is not kept: what lies there may be somebody else's and is left alone; the id is derived at each start. Name another identity_file, or take the file away");
    }

    /// It was written, or not.
    pub fn kept(&self, file: &dyn Display, outcome: &std::io::Result<bool>) {
        match outcome {
            Ok(_) => debug!(parent: &self.span, %file, "identity is kept"),
            Err(error) => warn!(parent: &self.span, %file, %error, "identity cannot be kept; it is tried again"),
        }
    }

    /// The machine is somewhere else, or is called otherwise.
    pub fn moved(&self, before: &Place, now: &Place) {
        let address = |place: &Place| place.ip_address.clone().unwrap_or_else(|| "unknown".to_owned());
        info!(
            parent: &self.span,
            hostname = now.hostname,
            ip_address = address(now),
            was = format!("{} {}", before.hostname, address(before)),
            "name or address changed; the platform is told"
        );
    }

    /// The platform has another id for us, for good if it `is_trusted`.
    pub fn renamed(&self, before: &str, now: &str, is_trusted: bool) {
        if is_trusted {
            info!(parent: &self.span, from = before, to = now, "platform knows this agent under another id, which is taken over");
        } else {
            warn!(parent: &self.span, from = before, to = now, "platform gives another id over plain http, which anybody could do; it counts until the process ends and is not kept");
        }
    }

    /// Something was said, and this was made of it.
    pub fn heard(&self, call: Call, answer: &Answer, before: State, after: State) {
        let name = if matches!(call, Call::Register(_)) { "register" } else { "heartbeat" };
        let count = self.calls.with(&[name, answer.heard.name()]);
        count.inc();
        let why = &answer.why;
        match (call, answer.heard) {
            (Call::Register(reason), Heard::Taken) => {
                info!(parent: &self.span, reason = reason.name(), "agent is registered");
            }
            (Call::Heartbeat, Heard::Taken) if count.get() % BEATS_TOLD == 1 => {
                info!(parent: &self.span, heartbeats = count.get(), "heartbeat taken");
            }
            (Call::Heartbeat, Heard::Taken) => debug!(parent: &self.span, "heartbeat taken"),
            (_, Heard::Held | Heard::Refused) => {
                error!(parent: &self.span, call = name, error = why, "platform refuses us; it is asked again, rarely. Data is not touched by this");
            }
            // Once in an outage; what the log has of its end is a registration.
            (_, Heard::Silent(trouble)) if !self.is_silence_told.swap(true, Relaxed) => {
                warn!(parent: &self.span, call = name, %trouble, error = why, "platform does not answer; it is asked again");
            }
            (_, Heard::Silent(trouble)) => {
                debug!(parent: &self.span, call = name, %trouble, error = why, "platform does not answer");
            }
            (_, outcome) => {
                info!(parent: &self.span, call = name, outcome = outcome.name(), error = why, "platform says no");
            }
        }
        self.moved_on(before, after, answer);
    }

    /// Time alone made us offline.
    pub fn marked(&self, before: State, after: State) {
        if before != after && after == State::Offline {
            warn!(parent: &self.span, "platform has heard nothing for so long that it takes this agent for offline; it registers again by itself");
            self.health.degraded(ON_BOARD, "platform takes this agent for offline: it has heard nothing");
        }
        self.show(after);
    }

    fn moved_on(&self, before: State, after: State, answer: &Answer) {
        self.marked(before, after);
        match answer.heard {
            Heard::Taken => {
                self.is_silence_told.store(false, Relaxed);
                self.health.recovered(ON_BOARD);
            }
            Heard::Silent(_) | Heard::Later(_) if after == State::Unregistered => {
                self.health.degraded(ON_BOARD, &format!("platform does not know this agent yet: {}", answer.why));
            }
            Heard::Held | Heard::Refused | Heard::Forgotten => {
                self.health.degraded(ON_BOARD, &format!("platform refuses us: {}", answer.why));
            }
            _ => {}
        }
    }

    /// The platform wants something else than before.
    pub fn ordered(&self, before: &Orders, now: &Orders, obeyed: Option<u64>, is_trusted: bool) {
        if before.drain_rate != now.drain_rate {
            match (now.drain_rate, is_trusted) {
                (Some(rate), false) => {
                    warn!(parent: &self.span, rate, "platform sets a drain_rate over plain http, which anybody could say; it is ignored");
                }
                (wanted, _) => {
                    info!(parent: &self.span, wanted, obeyed, "platform sets how fast the backlog may leave")
                }
            }
        }
        self.drain_rate.set_count(obeyed.unwrap_or(0));
        if let Some(revision) = now.config_revision.as_ref().filter(|_| before.config_revision != now.config_revision) {
            info!(parent: &self.span, revision, "platform would like this agent to have another configuration");
        }
        if let Some(message) = now.message.as_ref().filter(|_| before.message != now.message) {
            info!(parent: &self.span, message, "platform says");
        }
    }
}
