//! Where what is known lies, beside the actor: a fall of it costs no knowledge, no number twice and no uid.

use super::answer::{Answer, Heard};
use super::exchange::{Exchange, Status};
use super::line::Line;
use super::messages::{AgentDisconnect, AgentToServer, capability};
use super::metrics::OpampMetrics;
use super::report::{self, Profile};
use super::talk::{Do, Talk};
use super::uid::{Instance, Kept, Uid};
use crate::base::Dice;
use crate::registrar::letter::Place;
use crate::telemetry::Health;
use bytes::Bytes;
use prost::Message as _;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// What the desk is told at its beginning.
pub struct Settings {
    /// By which uid we speak.
    pub instance: Instance,
    /// Where it is kept.
    pub file: Option<PathBuf>,
    /// What does not change.
    pub profile: Profile,
    /// Where we are.
    pub place: Place,
    /// Between two messages.
    pub interval: Duration,
    /// Nobody between can have changed an answer: https, or this machine.
    pub is_trusted: bool,
    /// `capabilities.reports_health`.
    pub reports_health: bool,
    /// `capabilities.reports_effective_config`.
    pub reports_config: bool,
    /// `capabilities.accepts_remote_config`: where offers go, and what became of them is read.
    pub exchange: Option<Arc<Exchange>>,
    /// The configuration in force, masked; empty: nobody has said yet.
    pub effective: watch::Receiver<Arc<str>>,
    /// By which the platform knows us, if it does.
    pub agent_id: Arc<dyn Fn() -> Option<String> + Send + Sync>,
}

/// See the module.
pub struct Desk {
    settings: Settings,
    board: Health,
    told: OpampMetrics,
    sheet: Mutex<Sheet>,
}

#[derive(Debug)]
struct Sheet {
    talk: Talk,
    instance: Instance,
    place: Place,
    known: Known,
    /// The server has a use for the configuration; true until it says no.
    takes_config: bool,
    dice: Dice,
}

/// What the server knows, by digests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    description: Option<u64>,
    health: Option<u64>,
    config: Option<u64>,
    remote: Option<u64>,
}

/// A message, and what the server knows when it has it.
struct Written {
    uid: Uid,
    bytes: Bytes,
    known: Known,
}

impl Desk {
    /// Opens it: nothing was said yet.
    #[must_use]
    pub fn open(settings: Settings, board: Health, told: OpampMetrics, mut dice: Dice) -> Desk {
        let told = if settings.exchange.is_some() { told.taking_configurations() } else { told };
        let sheet = Sheet {
            talk: Talk::new(settings.interval, Instant::now(), &mut dice),
            instance: settings.instance.clone(),
            place: settings.place.clone(),
            known: Known::default(),
            takes_config: true,
            dice,
        };
        Desk { settings, board, told, sheet: Mutex::new(sheet) }
    }

    /// It is the one that counts from now on.
    pub fn begin(&self) {
        let (uid, is_copy) = {
            let sheet = self.sheet();
            (sheet.instance.uid(), sheet.instance.is_copy())
        };
        self.told.begun(uid, is_copy);
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self) -> Do {
        self.sheet().talk.next(Instant::now())
    }

    /// By which we speak.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.sheet().instance.uid()
    }

    /// The same, with what is known of it, for who goes on.
    #[must_use]
    pub fn instance(&self) -> Instance {
        self.sheet().instance.clone()
    }

    /// Wakes who waits for another configuration.
    #[must_use]
    pub fn effective(&self) -> watch::Receiver<Arc<str>> {
        self.settings.effective.clone()
    }

    /// Wakes who waits for another stage of a configuration that was offered; none where none is taken.
    #[must_use]
    pub fn remote(&self) -> Option<watch::Receiver<Option<Status>>> {
        self.settings.exchange.as_ref().map(|exchange| exchange.status())
    }

    /// The configuration is another one, or what was offered has come further.
    pub fn changed(&self) {
        self.sheet().talk.hurry(Instant::now());
    }

    /// Where the machine is now.
    pub fn locate(&self, place: Place) {
        self.sheet().place = place;
    }

    /// Says what is due and takes in what is answered. When this is given up in the middle, nobody knows what was heard.
    pub async fn say(&self, line: &dyn Line) -> Heard {
        let written = self.write();
        let saying = Saying { desk: self, is_over: false };
        let answer = line.say(written.uid, written.bytes.clone()).await;
        saying.end(&written, &answer);
        answer.heard
    }

    /// Says that this is the end, to a server that listens.
    pub async fn part(&self, line: &dyn Line) {
        let (uid, bytes) = {
            let mut sheet = self.sheet();
            if !sheet.talk.is_heard() {
                return;
            }
            let message =
                AgentToServer { agent_disconnect: Some(AgentDisconnect {}), ..self.begin_message(&mut sheet) };
            (sheet.instance.uid(), message.encode_to_vec().into())
        };
        let answer = line.say(uid, bytes).await;
        self.told.farewell(answer.heard);
    }

    /// With the next number, and nothing else that could be left out.
    fn begin_message(&self, sheet: &mut Sheet) -> AgentToServer {
        let bit = |does, bit| if does { bit } else { 0 };
        AgentToServer {
            instance_uid: Bytes::copy_from_slice(sheet.instance.uid().bytes()),
            sequence_num: sheet.talk.begin(),
            capabilities: capability::REPORTS_STATUS
                | bit(
                    self.settings.exchange.is_some(),
                    capability::ACCEPTS_REMOTE_CONFIG | capability::REPORTS_REMOTE_CONFIG,
                )
                | bit(self.settings.reports_health, capability::REPORTS_HEALTH)
                | bit(self.settings.reports_config, capability::REPORTS_EFFECTIVE_CONFIG),
            ..AgentToServer::default()
        }
    }

    /// What the server does not know.
    fn write(&self) -> Written {
        let settings = &self.settings;
        // Others are asked before the sheet is taken: nobody waits for them at it.
        let agent_id = (settings.agent_id)();
        let (state, now) = self.board.look();
        let health =
            settings.reports_health.then(|| report::health(&state, now, &settings.profile.exporters, self.told.name()));
        let effective = settings.effective.borrow().clone();
        // Also that there is none: a server takes what is not there for what it was told before, by another life maybe.
        let remote = settings.exchange.as_ref().map(|exchange| exchange.status().borrow().clone());
        let remote = remote.map(|status| status.map_or_else(Default::default, |status| status.message()));
        let mut sheet = self.sheet();
        let uid = sheet.instance.uid();
        let description = report::description(&settings.profile, &sheet.place, uid, agent_id.as_deref());
        let tells_config = settings.reports_config && sheet.takes_config && !effective.is_empty();
        let known = Known {
            description: Some(report::digest(&description)),
            health: health.as_ref().map(report::digest_of_health),
            config: tells_config.then(|| xxh3_64(effective.as_bytes())),
            remote: remote.as_ref().map(report::digest),
        };
        let before = if sheet.talk.owes_all() { Known::default() } else { sheet.known };
        let message = AgentToServer {
            agent_description: Some(description).filter(|_| known.description != before.description),
            health: health.filter(|_| known.health != before.health),
            effective_config: tells_config
                .then(|| report::config(&effective))
                .filter(|_| known.config != before.config),
            remote_config_status: remote.filter(|_| known.remote != before.remote),
            ..self.begin_message(&mut sheet)
        };
        Written { uid, bytes: message.encode_to_vec().into(), known }
    }

    fn take_in(&self, written: &Written, answer: &Answer) {
        let changed = self.learn(answer, |sheet| {
            if answer.heard == Heard::Taken {
                sheet.known = written.known;
            }
            let Sheet { talk, dice, .. } = sheet;
            talk.heard(answer, Instant::now(), dice)
        });
        self.told.heard(answer, changed);
    }

    /// The server says something without being asked, or is gone.
    pub fn pushed(&self, answer: &Answer) {
        let changed = self.learn(answer, |sheet| {
            let Sheet { talk, dice, .. } = sheet;
            talk.pushed(answer, Instant::now(), dice)
        });
        self.told.pushed(answer, changed);
    }

    /// What an answer says beside what it means for the talk.
    fn learn(&self, answer: &Answer, talk: impl FnOnce(&mut Sheet) -> bool) -> bool {
        let (changed, renamed) = {
            let mut sheet = self.sheet();
            let changed = talk(&mut sheet);
            sheet.takes_config = answer.takes_config.unwrap_or(sheet.takes_config);
            let before = sheet.instance.uid();
            let renamed = answer.renamed.filter(|uid| sheet.instance.take_over(*uid, self.settings.is_trusted));
            (changed, renamed.map(|uid| (before, uid)))
        };
        if let Some(exchange) = &self.settings.exchange {
            if answer.heard == Heard::Taken {
                exchange.heard();
            }
            if answer.remote.as_ref().is_some_and(|offered| !exchange.offer(offered)) {
                self.told.senseless();
            }
        }
        if let Some((before, uid)) = renamed {
            self.told.renamed(before, uid, self.settings.is_trusted);
        }
        changed
    }

    /// What is to be written, and where, if anything is.
    #[must_use]
    pub fn to_keep(&self) -> Option<(PathBuf, Kept)> {
        self.settings.file.clone().zip(self.sheet().instance.to_keep())
    }

    /// It was written, or not.
    pub fn kept(&self, kept: &Kept, outcome: &std::io::Result<bool>) {
        if let Some(file) = &self.settings.file {
            self.told.kept(&file.display(), outcome);
        }
        if outcome.is_ok() {
            self.sheet().instance.kept(kept);
        }
    }

    /// Its configuration is gone: nothing of what it said counts any more.
    pub fn close(&self) {
        self.told.given_up();
    }

    /// Whoever held it when it panicked left it whole: nothing in there is changed in two steps.
    fn sheet(&self) -> MutexGuard<'_, Sheet> {
        self.sheet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something is being said.
struct Saying<'a> {
    desk: &'a Desk,
    is_over: bool,
}

impl Saying<'_> {
    fn end(mut self, written: &Written, answer: &Answer) {
        self.is_over = true;
        self.desk.take_in(written, answer);
    }
}

impl Drop for Saying<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut sheet = self.desk.sheet();
            let Sheet { talk, dice, .. } = &mut *sheet;
            talk.interrupted(Instant::now(), dice);
        }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("sheet", &self.sheet).finish_non_exhaustive()
    }
}
