//! OpAMP with the real binary and a scripted server: who is told what over the life of an agent, and that the data path never waits
//! for it. (Against the reference implementation: `tests/opamp/run`.)

use std::path::Path;
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::FarEnd;
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::console::{PATH, Row};
use tfo_otel_agent::testing::far_end::{Act, Collector, Script};
use tfo_otel_agent::testing::load::{install_client, until};
use tfo_otel_agent::testing::numbered::{Numbered, Source};

const PATIENCE: Duration = Duration::from_secs(60);
const AGENT: &str = env!("CARGO_BIN_EXE_tfo-otel-agent");

struct Rig {
    dir: tempfile::TempDir,
    far_end: FarEnd,
    console: FarEnd,
    port: u16,
    metrics: u16,
    made: Numbered,
    /// `capabilities.accepts_remote_config`.
    accepts: bool,
}

impl Rig {
    fn new() -> Rig {
        Rig::accepting(false)
    }

    fn accepting(accepts: bool) -> Rig {
        let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let start = || FarEnd::start(Script::new()).expect("a port");
        let made = Numbered::new(Signal::Logs, Source(1));
        let rig = Rig { dir, far_end: start(), console: start(), port, metrics, made, accepts };
        rig.write("1s", "north");
        rig
    }

    fn write(&self, every: &str, site: &str) {
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{}'}}}}}}}}
processors: {{batch: {{timeout: 20ms}}}}
exporters:
  otlphttp: {{endpoint: '{}', headers: {{Authorization: Bearer hidden}}, sending_queue: {{storage: file_storage}}}}
extensions:
  file_storage: {{directory: '{}'}}
  opamp:
    server: {{http: {{endpoint: '{}{PATH}', polling_interval: {every}}}}}
    agent_description: {{include_resource_attributes: true}}
    capabilities: {{accepts_remote_config: {}}}
service:
  extensions: [file_storage, opamp]
  telemetry: {{metrics: {{address: '127.0.0.1:{}'}}, resource: {{site: {site}}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
            self.port,
            self.far_end.endpoint(),
            self.dir.path().join("spool").display(),
            self.console.endpoint(),
            self.accepts,
            self.metrics,
        );
        std::fs::write(self.dir.path().join("agent.yaml"), text).expect("space");
    }

    async fn start(&self) -> Child {
        self.start_with("60").await
    }

    /// `window`: how long a server's configuration must be in force before it has proved itself, seconds.
    async fn start_with(&self, window: &str) -> Child {
        let (config, log) = (self.dir.path().join("agent.yaml"), self.dir.path().join("agent.log"));
        let mut command = child::agent(Path::new(AGENT), &config, &log).expect("space");
        // A proxy of the environment is nobody's way to this machine.
        command.env("TFO_TEST_REMOTE_WINDOW", window).env("HTTP_PROXY", "http://127.0.0.1:1").env_remove("NO_PROXY");
        let agent = Child::spawn(&mut command).expect("cargo built it");
        let listens = || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        assert!(until(PATIENCE, listens).await, "{}", self.log());
        agent
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    async fn send(&mut self, items: u32) {
        let request = self.made.request(items);
        let client = reqwest::Client::builder().no_proxy().build().expect("a client without TLS");
        let post = client.post(format!("http://127.0.0.1:{}/v1/logs", self.port)).body(request.bytes);
        let answer = post.header("content-type", "application/x-protobuf").send().await.expect("it listens");
        assert_eq!(answer.status(), 200);
        self.far_end.with(|c| c.tally().acknowledged(Signal::Logs, Source(1), request.seqs));
    }

    /// Waits until the one agent in the table is so.
    async fn is_told(&self, what: &str, holds: impl Fn(&Row) -> bool) -> (Vec<u8>, Row) {
        let found = |c: &mut Collector| c.console().agents().values().any(&holds);
        assert!(self.console.until(PATIENCE, found).await, "{what}\n{}", self.log());
        self.console.with(|c| {
            let agents = c.console().agents();
            assert_eq!(agents.len(), 1, "{what}: {agents:?}");
            let (uid, row) = agents.iter().next().expect("one");
            (uid.clone(), row.clone())
        })
    }
}

fn reload(agent: &Child) {
    rustix::process::kill_process(agent.pid(), rustix::process::Signal::HUP).expect("it runs");
}

/// Goal: over a reload, a stop and a kill a server sees one agent, its configuration as it is in force, and its leave.
#[actix::test]
async fn one_agent_is_seen_over_reloads_stops_and_kills() {
    install_client();
    let rig = Rig::new();
    let agent = rig.start().await;
    let (uid, told) = rig.is_told("the start", |row| row.config.is_some()).await;
    let config = told.config.clone().expect("it is told");
    assert!(config.contains("Authorization:") && !config.contains("hidden"), "{config}");
    assert_eq!(told.attribute("site"), Some("north"));
    assert!(told.health.as_ref().is_some_and(|health| health.healthy), "{told:?}");
    assert!(rig.dir.path().join("spool/opamp-instance").exists());
    // Another configuration: first one of which the extension itself knows nothing, then one that is about it.
    std::fs::write(
        rig.dir.path().join("agent.yaml"),
        std::fs::read_to_string(rig.dir.path().join("agent.yaml")).expect("it is there").replace("20ms", "30ms"),
    )
    .expect("space");
    reload(&agent);
    let (_, row) = rig.is_told("a reload", |row| row.config.as_ref().is_some_and(|c| c.contains("30ms"))).await;
    assert!(row.sequence_num > told.sequence_num && row.asked == 0, "{row:?}");
    rig.write("2s", "south");
    reload(&agent);
    let (same, _) = rig.is_told("another reload", |row| row.attribute("site") == Some("south")).await;
    assert_eq!(same, uid);
    assert_eq!(agent.stop(PATIENCE).await.expect("our child").and_then(|status| status.code()), Some(0));
    rig.is_told("the stop", |row| row.is_gone).await;
    let agent = rig.start().await;
    let (same, _) = rig.is_told("a start after a stop", |row| !row.is_gone).await;
    assert_eq!(same, uid);
    agent.kill().expect("our child");
    rig.console.with(|c| c.console().forget());
    let agent = rig.start().await;
    let (same, _) = rig.is_told("a start after a kill", |row| row.config.is_some()).await;
    assert_eq!(same, uid);
    agent.kill().expect("our child");
}

/// A uid that cannot be kept is the same until the process ends, whatever is configured meanwhile.
#[actix::test]
async fn a_uid_that_cannot_be_kept_outlives_a_reload() {
    install_client();
    let rig = Rig::new();
    let in_the_way = rig.dir.path().join("spool/opamp-instance");
    std::fs::create_dir_all(&in_the_way).expect("space");
    let agent = rig.start().await;
    let (uid, _) = rig.is_told("the start", |row| row.config.is_some()).await;
    rig.write("2s", "south");
    reload(&agent);
    let (same, _) = rig.is_told("a reload", |row| row.attribute("site") == Some("south")).await;
    assert_eq!(same, uid);
    assert!(in_the_way.is_dir() && rig.log().contains("instance uid cannot be kept"), "{}", rig.log());
    agent.kill().expect("our child");
}

/// Goal: a server that hangs, refuses or is a portal costs the data nothing, holds up no stop for long, and stands on the board.
#[actix::test]
async fn a_server_in_trouble_costs_the_data_nothing() {
    install_client();
    for script in
        [Script::new().always(Act::Hang), Script::new().always(Act::Portal), Script::new().always(Act::Refuse)]
    {
        let mut rig = Rig::new();
        rig.console.play(script);
        let agent = rig.start().await;
        for _ in 0..20 {
            rig.send(10).await;
        }
        let arrived =
            rig.far_end.until(PATIENCE, |c| c.tally().report().lost() == 0 && c.tally().report().arrived() > 0).await;
        assert!(arrived, "{}\n{}", rig.far_end.report(), rig.log());
        assert_eq!(child::metric(rig.metrics, "tfo_agent_opamp_connected").await.expect("it serves metrics"), 0.0);
        assert_eq!(agent.stop(PATIENCE).await.expect("our child").and_then(|status| status.code()), Some(0));
        assert!(rig.log().contains("Shutdown complete."), "{}", rig.log());
    }
}

/// A status of a configuration that is offered (opamp-spec, `RemoteConfigStatuses`).
const APPLIED: i32 = 1;
const APPLYING: i32 = 2;
const FAILED: i32 = 3;

fn tells(row: &Row, hash: &[u8], status: i32, config: &str) -> bool {
    let remote = row.remote.as_ref();
    remote.is_some_and(|told| told.last_remote_config_hash[..] == *hash && told.status == status)
        && row.config.as_ref().is_some_and(|text| text.contains(config))
}

/// Goal: what a server sets is in force while data goes on, outlives a kill when it has proved itself, and is taken back; what it
/// may not set is refused with its path.
#[actix::test]
async fn what_a_server_sets_is_carried_out_and_kept() {
    install_client();
    let mut rig = Rig::accepting(true);
    let agent = rig.start_with("1").await;
    rig.send(10).await;
    rig.console.with(|c| {
        c.console().offer(b"one", "{processors: {batch: {timeout: 33ms}}, service: {telemetry: {logs: {level: warn}}}}")
    });
    rig.is_told("it is in force", |row| tells(row, b"one", APPLYING, "33ms")).await;
    rig.send(10).await;
    rig.is_told("it has proved itself", |row| tells(row, b"one", APPLIED, "33ms")).await;
    let evil = "{processors: {batch: {timeout: 44ms}}, exporters: {otlphttp: {endpoint: 'http://127.0.0.1:9'}}}";
    rig.console.with(|c| c.console().offer(b"two", evil));
    let (_, row) = rig.is_told("it is refused", |row| tells(row, b"two", FAILED, "33ms")).await;
    let why = row.remote.expect("it is told").error_message;
    assert_eq!(why, "exporters.otlphttp.endpoint: a server may not set this");
    rig.console.with(|c| c.console().offer(b"one", "processors: {batch: {timeout: 33ms}}"));
    rig.is_told("the server thinks again", |row| tells(row, b"one", APPLIED, "33ms")).await;
    agent.kill().expect("our child");
    rig.console.with(|c| c.console().forget());
    let agent = rig.start_with("1").await;
    let (_, row) = rig.is_told("a start after a kill", |row| row.config.is_some()).await;
    assert!(tells(&row, b"one", APPLIED, "33ms") && row.capabilities & 0x1002 == 0x1002, "{row:?}");
    // What the operator changes counts beside it.
    rig.write("1s", "south");
    reload(&agent);
    rig.is_told("a reload", |row| row.attribute("site") == Some("south") && tells(row, b"one", APPLIED, "33ms")).await;
    rig.console.with(|c| c.console().offer(b"none", ""));
    rig.is_told("it is taken back", |row| tells(row, b"none", APPLIED, "20ms")).await;
    rig.send(10).await;
    let arrived = rig.far_end.until(PATIENCE, |c| c.tally().report().lost() == 0 && c.tally().report().arrived() == 30);
    assert!(arrived.await, "{}\n{}", rig.far_end.report(), rig.log());
    let counted = child::metric(rig.metrics, "tfo_agent_opamp_remote_configs").await.expect("it serves metrics");
    assert_eq!(counted, 1.0, "in this life one proved itself: the one that sets nothing");
    assert_eq!(agent.stop(PATIENCE).await.expect("our child").and_then(|status| status.code()), Some(0));
}

/// Goal: a configuration under which the agent ends before it has proved itself is not in force after the start, and after three
/// such ends not at all.
#[actix::test]
async fn what_ends_the_agent_is_not_in_force_after_its_start() {
    install_client();
    let rig = Rig::accepting(true);
    // The server keeps what it was told: that nothing is in force any more must be said to it.
    for life in 0..3 {
        rig.console.with(|c| c.console().offer(&[life], "processors: {batch: {timeout: 33ms}}"));
        let agent = rig.start_with("600").await;
        rig.is_told("another one is in force", |row| tells(row, &[life], APPLYING, "33ms")).await;
        rig.console.with(|c| c.console().offer(b"one", "processors: {batch: {timeout: 33ms}}"));
        rig.is_told("it is in force", |row| tells(row, b"one", APPLYING, "33ms")).await;
        agent.kill().expect("our child");
    }
    let agent = rig.start_with("600").await;
    let (_, row) = rig.is_told("the fourth start", |row| tells(row, b"one", FAILED, "20ms")).await;
    assert!(row.remote.is_some_and(|told| told.error_message.contains("three times")), "{}", rig.log());
    agent.kill().expect("our child");
}

/// Goal: a server is not let at the configuration by whoever runs an agent without knowing of it.
#[actix::test]
async fn without_leave_nothing_is_taken() {
    install_client();
    let rig = Rig::new();
    rig.console.with(|c| c.console().offer(b"one", "processors: {batch: {timeout: 33ms}}"));
    let agent = rig.start_with("1").await;
    let (_, row) = rig.is_told("several turns", |row| row.sequence_num > 3 && row.config.is_some()).await;
    assert!(row.remote.is_none() && row.capabilities & 0x1002 == 0, "{row:?}");
    assert!(row.config.is_some_and(|config| config.contains("20ms")), "{}", rig.log());
    assert!(rig.log().contains("offers what this agent does not take"), "{}", rig.log());
    assert!(!rig.dir.path().join("spool/opamp-remote-config").exists());
    agent.kill().expect("our child");
}
