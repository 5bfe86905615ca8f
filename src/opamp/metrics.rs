//! What the extension says about itself: each event is one method, which counts, logs and tells the board.

use super::answer::{Answer, Heard, Offer};
use super::uid::Uid;
use crate::telemetry::metrics::{Counters, Gauge};
use crate::telemetry::{Health, Metrics};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{Span, debug, error, info, warn};

/// Counts, logs and tells the board.
#[derive(Debug, Clone)]
pub struct OpampMetrics {
    messages: Counters,
    connected: Gauge,
    /// That nobody answers was told since somebody last did.
    is_silence_told: Arc<AtomicBool>,
    /// What was offered and told.
    offered: Arc<Mutex<BTreeSet<Offer>>>,
    /// A configuration that is offered is looked at.
    takes_config: bool,
    health: Health,
    /// The extension's id: its name on the board.
    name: Arc<str>,
    span: Span,
}

impl OpampMetrics {
    /// Shown from now on. `name`: the extension's id.
    #[must_use]
    pub fn new(metrics: &Metrics, health: &Health, name: &str) -> OpampMetrics {
        let messages = "Messages to the OpAMP server by what it made of them: taken, later, held, refused, silent.";
        let connected = "1 while the OpAMP server takes what it is told.";
        OpampMetrics {
            messages: metrics.counters("tfo_agent_opamp_messages", messages, &["outcome"]),
            connected: metrics.gauges("tfo_agent_opamp_connected", connected, &[]).with(&[]),
            is_silence_told: Arc::default(),
            offered: Arc::default(),
            takes_config: false,
            health: health.clone(),
            name: name.into(),
            span: tracing::info_span!("component", kind = "extension", name),
        }
    }

    /// A configuration that is offered is looked at.
    #[must_use]
    pub fn taking_configurations(self) -> OpampMetrics {
        OpampMetrics { takes_config: true, ..self }
    }

    /// A configuration was offered of which nothing can be made.
    pub fn senseless(&self) {
        warn!(parent: &self.span, "OpAMP server offers a configuration without a hash, or one that is no message; it is ignored");
    }

    /// Under which the extension's own trouble stands on the board.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A process or a configuration begins with this uid.
    pub fn begun(&self, uid: Uid, is_copy: bool) {
        self.connected.set_count(0);
        match is_copy {
            false => info!(parent: &self.span, instance_uid = %uid, "agent has its instance uid"),
            true => {
                warn!(parent: &self.span, instance_uid = %uid, "image was copied from another machine; this one has an instance uid of its own now");
            }
        }
    }

    /// It is over: nothing of it is true any more.
    pub fn given_up(&self) {
        self.connected.set_count(0);
        self.health.recovered(&self.name);
    }

    /// The file of the uid is there and says nothing.
    pub fn unreadable(&self, file: &dyn Display, why: &dyn Display) {
        warn!(parent: &self.span, %file, error = %why, "instance uid cannot be read; another one is drawn");
    }

    /// It was written, or not.
    pub fn kept(&self, file: &dyn Display, outcome: &std::io::Result<bool>) {
        match outcome {
            Ok(_) => debug!(parent: &self.span, %file, "instance uid is kept"),
            Err(error) => warn!(parent: &self.span, %file, %error, "instance uid cannot be kept; it is tried again"),
        }
    }

    /// The server has another uid for us, for good if it `is_trusted`.
    pub fn renamed(&self, before: Uid, now: Uid, is_trusted: bool) {
        if is_trusted {
            info!(parent: &self.span, from = %before, to = %now, "server gives this agent another instance uid, which is taken over");
        } else {
            warn!(parent: &self.span, from = %before, to = %now, "server gives another instance uid over plain http, which anybody could do; it counts until the process ends and is not kept");
        }
    }

    /// Something was said, and this was made of it. `changed`: it is heard and was not before, or the other way round.
    pub fn heard(&self, answer: &Answer, changed: bool) {
        self.messages.with(&[answer.heard.name()]).inc();
        self.tell(answer, changed);
    }

    /// The server said something without being asked, or is gone.
    pub fn pushed(&self, answer: &Answer, changed: bool) {
        // What it asks for is told by what is said then.
        if answer.heard == Heard::Taken {
            self.offered(&answer.offers);
        } else {
            self.tell(answer, changed);
        }
    }

    fn tell(&self, answer: &Answer, changed: bool) {
        let (why, is_heard) = (&answer.why, answer.heard == Heard::Taken);
        self.connected.set_count(u64::from(is_heard));
        match answer.heard {
            Heard::Taken => {
                self.is_silence_told.store(false, Relaxed);
                self.health.recovered(&self.name);
                if changed {
                    info!(parent: &self.span, "OpAMP server takes what it is told");
                }
            }
            Heard::Held | Heard::Refused => {
                error!(parent: &self.span, error = why, "OpAMP server refuses us; it is asked again, rarely. Data is not touched by this");
                self.health.degraded(&self.name, &format!("server refuses us: {why}"));
            }
            Heard::Later(_) => info!(parent: &self.span, error = why, "OpAMP server asks to come back"),
            Heard::Silent(trouble) => {
                self.health.degraded(&self.name, &format!("server does not answer: {why}"));
                // Once in an outage.
                if self.is_silence_told.swap(true, Relaxed) {
                    debug!(parent: &self.span, %trouble, error = why, "OpAMP server does not answer");
                } else {
                    warn!(parent: &self.span, %trouble, error = why, "OpAMP server does not answer; it is asked again");
                }
            }
        }
        self.offered(&answer.offers);
    }

    /// Each kind is told once in a process: a server may offer it with every answer.
    fn offered(&self, offers: &[Offer]) {
        let mut known = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let in_vain = offers.iter().filter(|offer| !(self.takes_config && **offer == Offer::RemoteConfig));
        for offer in in_vain.filter(|offer| known.insert(**offer)) {
            warn!(parent: &self.span, offer = offer.name(), "OpAMP server offers what this agent does not take; it is ignored");
        }
    }

    /// The server was told that this is the end.
    pub fn farewell(&self, heard: Heard) {
        debug!(parent: &self.span, outcome = heard.name(), "OpAMP server was told that the agent stops");
    }
}
