//! The gap report with the real binary: what is lost for good is said to the far end until it is acknowledged, also by the next
//! life, and then not again; a person sees the same in the spool.

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::books::{self, Bound};
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script, Seen};
use tfo_otel_agent::testing::load::{install_client, until};
use tfo_otel_agent::testing::numbered::{Mark, Numbered, Source};
use tfo_otel_agent::testing::{FarEnd, Tally};

const PATIENCE: Duration = Duration::from_secs(60);
const AGENT: &str = env!("CARGO_BIN_EXE_tfo-otel-agent");
/// Ten times the interval of its reports.
const LONG: Duration = Duration::from_secs(2);

struct Rig {
    dir: tempfile::TempDir,
    far_end: FarEnd,
    port: u16,
    metrics: u16,
    made: Numbered,
    acknowledged: Tally,
}

impl Rig {
    fn new(storage: &str) -> Rig {
        let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: 20ms}}}}
exporters: {{otlphttp: {{endpoint: '{}', sending_queue: {{storage: file_storage}}, gap_report: {{interval: 200ms}}}}}}
extensions: {{file_storage: {{directory: '{}'{storage}}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
            far_end.endpoint(),
            dir.path().join("spool").display(),
        );
        std::fs::write(dir.path().join("agent.yaml"), text).expect("space");
        let (made, acknowledged) = (Numbered::new(Signal::Logs, Source(1)), Tally::default());
        Rig { dir, far_end, port, metrics, made, acknowledged }
    }

    async fn start(&self) -> Child {
        let (config, log) = (self.dir.path().join("agent.yaml"), self.dir.path().join("agent.log"));
        let command = &mut child::agent(Path::new(AGENT), &config, &log).expect("space");
        let agent = Child::spawn(command).expect("cargo built it");
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
        self.acknowledged.acknowledged(Signal::Logs, Source(1), request.seqs);
    }

    fn reports(&self) -> Vec<Seen> {
        let is_report = |seen: &Seen| seen.upload_id.as_ref().is_some_and(|id| id.ends_with("/gaps"));
        self.far_end.seen().into_iter().filter(is_report).collect()
    }

    /// What the far end was told, by reason.
    fn told(&self, reason: &str) -> u64 {
        let told = self.far_end.with(|c| c.told().clone());
        told.iter().filter(|([_, _, _, of], _)| of == reason).map(|(_, items)| items).sum()
    }

    async fn books_agree(&self) {
        let both = || {
            let mut both = self.acknowledged.clone();
            self.far_end.with(|collector| both.merge(collector.tally()));
            both
        };
        let agreed = books::agree(self.metrics, "otlphttp", Bound::default(), PATIENCE, both).await;
        if let Err(no) = agreed {
            panic!("{no}\n{}", self.log());
        }
    }

    fn spool(&self, args: &[&str]) -> serde_json::Value {
        let dir = self.dir.path().join("spool");
        let said = Command::new(AGENT).arg("spool").args(args).arg(&dir).arg("--json").output().expect("it runs");
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }
}

/// Goal: a loss is said until the far end has it, also when the agent is killed between; then never again; books, far end and
/// `spool stat` say the same.
#[actix::test]
async fn a_loss_is_said_once_however_often_the_agent_is_killed() {
    install_client();
    let mut rig = Rig::new("");
    let busy = || Script::new().for_signal(Signal::Metrics, Act::status(503));
    rig.far_end.play(busy().times(1, Act::partial(7, "too old")));
    let agent = rig.start().await;
    rig.send(50).await;
    assert!(until(PATIENCE, || rig.reports().len() >= 2).await, "it is said again: {}", rig.log());
    rig.books_agree().await;
    assert_eq!(rig.told("rejected"), 0);
    agent.kill().expect("our child");

    rig.far_end.play(Script::new());
    let agent = rig.start().await;
    assert!(until(PATIENCE, || rig.told("rejected") == 7).await, "the next life says it: {}", rig.log());
    let known = || child::metric(rig.metrics, "tfo_agent_gap_reports{exporter=\"otlphttp\",outcome=\"known\"");
    while known().await.expect("it listens") < 1.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let said = rig.reports().len();
    agent.kill().expect("our child");

    let agent = rig.start().await;
    rig.send(50).await;
    tokio::time::sleep(LONG).await;
    assert_eq!(rig.reports().len(), said, "the far end knows: {}", rig.log());
    rig.books_agree().await;
    agent.kill().expect("our child");
    let stat = rig.spool(&["stat"]);
    let loss = &stat["losses"][0];
    assert_eq!((&loss["reason"], &loss["items"], &loss["told"]), (&"rejected".into(), &7.into(), &7.into()), "{stat}");
    assert_eq!(loss["stretches"][0]["items"], 7, "{stat}");
}

/// Goal: what the far end refused is listed, exported, and sent again when a person says so; held is not lost, so nothing is said.
#[actix::test]
async fn dead_letters_are_listed_exported_and_sent_again() {
    install_client();
    let mut rig = Rig::new(", dead_letter_max_mib: 1, quarantine_max_mib: 1");
    let guilty = (0..5).map(|n| Mark { source: Source(1), seq: n * 20 });
    rig.far_end.play(guilty.fold(Script::new(), |script, mark| script.poison(Signal::Logs, mark)));
    let agent = rig.start().await;
    for _ in 0..10 {
        rig.send(10).await;
    }
    let shown = || async { books::shown(rig.metrics, "otlphttp").await.expect("it listens")[&Signal::Logs] };
    let mut book = shown().await;
    for _ in 0..600 {
        if book.held + book.delivered == 100 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        book = shown().await;
    }
    assert_eq!((book.accepted, book.held, book.lost, book.waiting), (100, 5, 0, 0), "{}", rig.log());
    rig.books_agree().await;
    assert_eq!(rig.reports().len(), 0, "what is held is not lost");
    agent.kill().expect("our child");
    let dead = |listed: serde_json::Value| -> u64 {
        let segments = listed["segments"].as_array().expect("segments").clone();
        let lanes = segments.iter().flat_map(|s| s["lanes"].as_array().expect("lanes").clone());
        lanes.filter(|lane| *lane == "dead/otlphttp/logs").count() as u64
    };
    assert!(dead(rig.spool(&["ls"])) > 0);
    let out = rig.dir.path().join("out");
    let exported = rig.spool(&["export", "--dead", "--to", &out.to_string_lossy()]);
    assert_eq!(exported["items"]["logs"], 5, "{exported}");
    let requeued = rig.spool(&["requeue", "--dead"]);
    assert_eq!(requeued["requeued"][0]["items"], 5, "{requeued}");
    rig.far_end.play(Script::new());
    let _agent = rig.start().await;
    assert!(until(PATIENCE, || rig.far_end.report().arrived() == 100).await, "{}", rig.log());
    rig.books_agree().await;
}
