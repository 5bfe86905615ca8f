//! An agent in this process, and a server that offers it one thing after the other.

use super::*;
use crate::app::plan::read;
use crate::app::roster::roster;
use crate::base::Clock;
use crate::config::{Imagined, Locations};
use crate::opamp::messages::{AgentConfigFile, AgentConfigMap};
use crate::supervise::{Sabotage, Settings};
use crate::telemetry::logs::LogSettings;
use crate::testing::load::until;

const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    dir: tempfile::TempDir,
    agent: Agent,
    remote: Remote,
    logs: Logs,
}

/// The storage is not open: a process has one in it for good, and here an agent starts several times in one.
fn local(dir: &Path, more: &str) -> (Found, Given) {
    let yaml = format!(
        "yaml:{{receivers: {{self: {{collection_interval: 1m}}, otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:0'}}}}}}}}, \
         processors: {{batch: {{timeout: 1s}}{more}}}, \
         exporters: {{otlphttp: {{endpoint: 'http://127.0.0.1:1', drain: {{max_rate: 1MiB}}}}}}, \
         extensions: {{file_storage: {{directory: '{}'}}, \
           opamp: {{server: {{http: {{endpoint: 'http://127.0.0.1:1/'}}}}, capabilities: {{accepts_remote_config: true}}}}}}, \
         service: {{extensions: [file_storage, opamp], telemetry: {{metrics: {{level: none}}}}, \
           pipelines: {{metrics: {{receivers: [self], exporters: [otlphttp]}}, logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}}}}}",
        dir.join("spool").display()
    );
    let outcome = read(&Locations::of(&yaml), &Imagined::with(&[]));
    let config = outcome.config.unwrap_or_else(|| panic!("{}", outcome.report));
    (Found { config, effective: outcome.effective }, outcome.given)
}

fn offered(hash: u8, text: &str) -> Offered {
    let body = bytes::Bytes::copy_from_slice(text.as_bytes());
    let file = AgentConfigFile { body, content_type: "text/yaml".to_owned() };
    Offered { hash: vec![hash], files: AgentConfigMap { config_map: BTreeMap::from([(String::new(), file)]) } }
}

const SLOWER: &str = "processors: {batch: {timeout: 7s}}";

impl Rig {
    /// A process that starts in this directory.
    async fn start(dir: tempfile::TempDir, more: &str) -> Rig {
        std::fs::create_dir_all(dir.path().join("spool")).expect("space");
        let (found, given) = local(dir.path(), more);
        let mut looked = Looked::at(&found.config, &given, None);
        let in_force = looked.take_found(found.clone());
        let settings = Settings { last_resort: Arc::new(|_| {}), grace: PATIENCE, ..Settings::default() };
        let agent = Agent::start_with(&in_force.config, &Clock::system(), roster(), settings).expect("it starts");
        agent.works_by(&in_force.effective);
        let seats = || agent.supervisor.watch().seats;
        assert!(until(PATIENCE, || seats().iter().all(SeatView::is_well)).await, "{:?}", seats());
        let mut remote = Remote::begin(agent.exchange.clone(), &agent.metrics);
        remote.window = Duration::from_millis(200);
        remote.follow((found, given), looked);
        let (logs, _) = Logs::start(&LogSettings::default(), &Clock::system()).expect("a thread");
        Rig { dir, agent, remote, logs }
    }

    async fn end(self) -> tempfile::TempDir {
        let _ = self.agent.supervisor.drain(PATIENCE).await;
        self.dir
    }

    async fn take(&mut self, hash: u8, text: &str) {
        self.remote.take(&Arc::new(offered(hash, text)), &mut self.agent, &self.logs).await;
    }

    /// SIGHUP, without what is looked at again after it.
    async fn reload(&mut self, more: &str) {
        let (found, given) = local(self.dir.path(), more);
        let mut looked = Looked::at(&found.config, &given, self.remote.present());
        let in_force = looked.take_found(found.clone());
        carry_out(&mut self.agent, in_force, &self.logs).await.expect("it is whole");
        self.remote.follow((found, given), looked);
    }

    async fn next_offer(&mut self) -> Arc<Offered> {
        match timeout(PATIENCE, self.remote.next()).await {
            Ok(Due::Offer(offered)) => offered,
            _ => panic!("it is offered"),
        }
    }

    async fn look(&mut self) {
        self.remote.look(&mut self.agent, &self.logs).await;
    }

    /// The hash of which the server is told, and how far it is.
    fn told(&self) -> Option<(Vec<u8>, Stage)> {
        let status = self.agent.exchange.status();
        status.borrow().as_ref().map(|status| (status.hash.clone(), status.stage))
    }

    fn why(&self) -> String {
        self.agent.exchange.status().borrow().as_ref().map(|status| status.why.clone()).unwrap_or_default()
    }

    /// What a batch waits, of the configuration in force.
    fn timeout(&self) -> u64 {
        let batch = Id::of("batch");
        match &self.agent.config.processors[&batch] {
            crate::app::plan::ProcessorConfig::Batch(batch) => batch.timeout.as_secs(),
            other => panic!("{other:?}"),
        }
    }

    async fn proves(&mut self) {
        tokio::time::sleep(Duration::from_millis(250)).await;
        self.agent.exchange.heard();
        self.look().await;
    }
}

fn new_dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Goal: what is offered is in force at once, counts over a start when it has proved itself, and not before.
#[actix::test]
async fn what_proves_itself_outlives_a_start_and_what_does_not_does_not() {
    let mut rig = Rig::start(new_dir(), "").await;
    assert_eq!((rig.told(), rig.timeout()), (None, 1));
    rig.take(1, SLOWER).await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Applying)), 7));
    // Time alone is not enough: the server must have been heard.
    tokio::time::sleep(Duration::from_millis(250)).await;
    rig.look().await;
    assert_eq!(rig.told(), Some((vec![1], Stage::Applying)));
    let mut rig = Rig::start(rig.end().await, "").await;
    assert_eq!((rig.told(), rig.timeout()), (None, 1));
    rig.take(1, SLOWER).await;
    // Nor is it, to be heard.
    rig.agent.exchange.heard();
    rig.look().await;
    assert_eq!(rig.told(), Some((vec![1], Stage::Applying)));
    rig.proves().await;
    assert_eq!(rig.told(), Some((vec![1], Stage::Applied)));
    rig.take(2, "processors: {batch: {timeout: 9s}}").await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![2], Stage::Applying)), 9));
    // The server thinks again: what has proved itself once need not do so again.
    rig.take(1, SLOWER).await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Applied)), 7));
    rig.take(2, "processors: {batch: {timeout: 9s}}").await;
    let mut rig = Rig::start(rig.end().await, "").await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Applied)), 7));
    rig.take(3, "").await;
    rig.proves().await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![3], Stage::Applied)), 1));
    let rig = Rig::start(rig.end().await, "").await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![3], Stage::Applied)), 1));
    rig.end().await;
}

/// Goal: three starts under it are enough, and so is one post that falls.
#[actix::test]
async fn what_does_harm_is_taken_back_and_not_tried_again() {
    let mut dir = new_dir();
    for _ in 0..crate::opamp::trial::TRIES_MAX {
        let mut rig = Rig::start(dir, "").await;
        assert_eq!((rig.told(), rig.timeout()), (None, 1));
        rig.take(1, SLOWER).await;
        assert_eq!(rig.timeout(), 7);
        dir = rig.end().await;
    }
    let mut rig = Rig::start(dir, "").await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Failed)), 1));
    rig.take(1, SLOWER).await;
    assert_eq!((rig.told(), rig.timeout(), rig.why()), (Some((vec![1], Stage::Failed)), 1, SPOILED.to_owned()));
    rig.take(2, SLOWER).await;
    assert_eq!(rig.timeout(), 7);
    let seat = rig.agent.supervisor.watch().seats[0].name.clone();
    assert!(rig.agent.supervisor.lookout().sabotage(&seat, Sabotage::PanicInHandler));
    let fell = || rig.agent.supervisor.watch().seat(&seat).is_some_and(|seat| seat.falls > 0);
    assert!(until(PATIENCE, fell).await);
    rig.proves().await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![2], Stage::Failed)), 1));
    assert!(rig.why().starts_with(&format!("{seat} fell under it")), "{}", rig.why());
    rig.take(2, SLOWER).await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![2], Stage::Failed)), 1));
    // An earlier fall is not held against another one.
    rig.take(3, SLOWER).await;
    rig.proves().await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![3], Stage::Applied)), 7));
    rig.end().await;
}

/// Goal: what does not fit, or cannot be kept, changes nothing; it is looked at again when it may fit.
#[actix::test]
async fn what_cannot_be_carried_out_changes_nothing() {
    let mut rig = Rig::start(new_dir(), "").await;
    for (hash, text, why) in [
        (
            1,
            "exporters: {otlphttp: {endpoint: 'http://127.0.0.1:2'}}",
            "exporters.otlphttp.endpoint: a server may not set this",
        ),
        (2, "processors: {batch/b: {timeout: 4s}}", "processors.batch/b: there is none here"),
        (
            3,
            "processors: {batch: {send_batch_size: 500, send_batch_max_size: 200}}",
            "200 is less than send_batch_size",
        ),
        (8, "processors: {batch: {timeout: 500ms}}", "processors.batch.timeout: 500ms is less than the local 1s"),
        (
            9,
            "processors: {batch: {send_batch_size: 500}}",
            "processors.batch.send_batch_size: 500 is less than the local 8192",
        ),
        (10, "receivers: {self: {collection_interval: 10s}}", "collection_interval: 10s is less than the local 60s"),
        (
            11,
            "exporters: {otlphttp: {drain: {max_rate: 2MiB}}}",
            "drain.max_rate: 2097152 is more than the local 1048576",
        ),
        (
            12,
            "extensions: {opamp: {server: {http: {polling_interval: 5s}}}}",
            "polling_interval: 5s is less than the local 30s",
        ),
        (
            4,
            "extensions: {opamp/b: {server: {http: {polling_interval: 9s}}}}",
            "extensions.opamp/b: there is none here",
        ),
    ] {
        rig.take(hash, text).await;
        assert_eq!((rig.told(), rig.timeout()), (Some((vec![hash], Stage::Failed)), 1), "{text}");
        assert!(rig.why().contains(why), "{text}: {}", rig.why());
    }
    let file = rig.dir.path().join("spool/opamp-remote-config");
    assert!(!file.exists(), "it is not tried");
    std::fs::create_dir_all(&file).expect("space");
    rig.take(5, SLOWER).await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![5], Stage::Failed)), 1));
    assert!(rig.why().contains("it cannot be kept"), "{}", rig.why());
    std::fs::remove_dir(&file).expect("ours");
    // Another local configuration, to which it fits.
    let exchange = rig.agent.exchange.clone();
    let message = crate::opamp::messages::AgentRemoteConfig {
        config: Some(offered(6, "processors: {batch/b: {timeout: 4s}}").files),
        config_hash: vec![6].into(),
    };
    assert!(exchange.offer(&prost::Message::encode_to_vec(&message)));
    let offer = rig.next_offer().await;
    rig.remote.take(&offer, &mut rig.agent, &rig.logs).await;
    assert_eq!(rig.told(), Some((vec![6], Stage::Failed)));
    rig.reload(", batch/b: {timeout: 3s}").await;
    let offer = rig.remote.again().expect("it may fit now");
    rig.remote.take(&offer, &mut rig.agent, &rig.logs).await;
    assert_eq!(rig.told(), Some((vec![6], Stage::Applying)));
    rig.proves().await;
    assert_eq!(rig.told(), Some((vec![6], Stage::Applied)));
    // And one to which it does not: after a start, and after a reload.
    let mut rig = Rig::start(rig.end().await, "").await;
    assert_eq!(rig.told(), Some((vec![6], Stage::Failed)));
    rig.reload("").await;
    assert_eq!(rig.told(), Some((vec![6], Stage::Failed)));
    // Until the component is there again.
    rig.reload(", batch/b: {timeout: 3s}").await;
    assert_eq!(rig.told(), Some((vec![6], Stage::Applied)));
    assert_eq!(rig.remote.over.as_ref().map(Layer::hash), Some(vec![6]));
    rig.reload("").await;
    assert_eq!(rig.told(), Some((vec![6], Stage::Failed)));
    rig.take(7, SLOWER).await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![7], Stage::Applying)), 7));
    rig.end().await;
}

/// A file that is not whole is left out; the agent starts, and takes the next offer.
#[actix::test]
async fn a_damaged_file_is_not_used() {
    let dir = new_dir();
    std::fs::create_dir_all(dir.path().join("spool")).expect("space");
    std::fs::write(dir.path().join("spool/opamp-remote-config"), "tfo-otel-agent opamp remote").expect("space");
    let mut rig = Rig::start(dir, "").await;
    assert_eq!((rig.told(), rig.timeout()), (None, 1));
    rig.take(1, SLOWER).await;
    rig.proves().await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Applied)), 7));
    rig.end().await;
}

/// Goal: what is said of one is not taken for another, whatever comes between.
#[actix::test]
async fn one_that_is_refused_while_another_is_tried_is_told_of() {
    let mut rig = Rig::start(new_dir(), "").await;
    rig.take(1, SLOWER).await;
    rig.take(2, "registration: {enabled: false}").await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![2], Stage::Failed)), 7));
    rig.proves().await;
    assert_eq!(rig.told(), Some((vec![2], Stage::Failed)), "the server would offer it again and again");
    // The one that was in force all the while has proved itself.
    let rig = Rig::start(rig.end().await, "").await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Applied)), 7));
    rig.end().await;
}

/// Goal: one that is forgotten can be offered again: after it was switched off and on, and after a start by the last good one.
#[actix::test]
async fn what_was_looked_at_can_be_offered_again() {
    let mut rig = Rig::start(new_dir(), "").await;
    let exchange = rig.agent.exchange.clone();
    let message = crate::opamp::messages::AgentRemoteConfig {
        config: Some(offered(1, SLOWER).files),
        config_hash: vec![1].into(),
    };
    let bytes = prost::Message::encode_to_vec(&message);
    // As after a start by the last good one.
    (rig.remote.local, rig.remote.place) = (None, None);
    exchange.offer(&bytes);
    let offer = rig.next_offer().await;
    rig.remote.take(&offer, &mut rig.agent, &rig.logs).await;
    assert_eq!((rig.told(), rig.why()), (Some((vec![1], Stage::Failed)), NO_LOCAL.to_owned()));
    rig.reload("").await;
    assert_eq!(rig.told(), None);
    assert!(rig.remote.again().is_some(), "it is looked at at once");
    exchange.offer(&bytes);
    let offer = rig.next_offer().await;
    rig.remote.take(&offer, &mut rig.agent, &rig.logs).await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Applying)), 7));
    rig.end().await;
}

/// Goal: a disk that stands still holds up neither the stop nor what comes after, and its late writes change nothing.
#[actix::test]
async fn a_file_that_cannot_be_written_in_time_is_not_waited_for() {
    let mut rig = Rig::start(new_dir(), "").await;
    let turn = rig.remote.turn.clone().lock_owned().await; // somebody writes, and does not end
    let began = Instant::now();
    rig.take(1, SLOWER).await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![1], Stage::Failed)), 1));
    assert!(began.elapsed() < DISK * 2 && rig.why().contains("does not answer"), "{}", rig.why());
    drop(turn);
    rig.take(2, SLOWER).await;
    rig.proves().await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![2], Stage::Applied)), 7));
    let rig = Rig::start(rig.end().await, "").await;
    assert_eq!((rig.told(), rig.timeout()), (Some((vec![2], Stage::Applied)), 7));
    rig.end().await;
}

/// Goal: a server that has another one with every answer is looked at five times, and then three times an hour.
#[tokio::test(start_paused = true)]
async fn offers_are_bounded() {
    let mut purse = Purse { offers: OFFERS_AT_ONCE, since: Instant::now() };
    let (began, mut taken) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(24 * 3_600) {
        sleep_until(purse.opens()).await;
        tokio::time::advance(Duration::from_secs(1)).await;
        purse.spend();
        taken += 1;
    }
    assert!((5 + 71..=5 + 72).contains(&taken), "{taken} in a day");
    tokio::time::advance(OFFER_EVERY * 20).await;
    let mut at_once = 0;
    while purse.opens() <= Instant::now() {
        purse.spend();
        at_once += 1;
    }
    assert_eq!(at_once, 5, "who was quiet has them all again, and not more");
}
