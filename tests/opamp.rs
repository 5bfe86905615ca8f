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
}

impl Rig {
    fn new() -> Rig {
        let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let start = || FarEnd::start(Script::new()).expect("a port");
        let made = Numbered::new(Signal::Logs, Source(1));
        let rig = Rig { dir, far_end: start(), console: start(), port, metrics, made };
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
service:
  extensions: [file_storage, opamp]
  telemetry: {{metrics: {{address: '127.0.0.1:{}'}}, resource: {{site: {site}}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
            self.port,
            self.far_end.endpoint(),
            self.dir.path().join("spool").display(),
            self.console.endpoint(),
            self.metrics,
        );
        std::fs::write(self.dir.path().join("agent.yaml"), text).expect("space");
    }

    async fn start(&self) -> Child {
        let (config, log) = (self.dir.path().join("agent.yaml"), self.dir.path().join("agent.log"));
        let mut command = child::agent(Path::new(AGENT), &config, &log).expect("space");
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
