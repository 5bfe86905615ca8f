//! What the real binary tells its parent at every kind of end, and what it says about it.
//!
//! The child is the binary cargo built for this test, with the feature `testing`: it takes orders to fall.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{install_client, until};
use tfo_otel_agent::testing::{FarEnd, Numbered, Source};

const PATIENCE: Duration = Duration::from_secs(60);

struct Agent {
    child: Child,
    log: PathBuf,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Agent {
    /// `stored`: with a spool on the disk. `order`: see `app::run`.
    async fn start(endpoint: &str, stored: bool, order: Option<&str>) -> Agent {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port().expect("a port");
        let (config, log) = (dir.path().join("agent.yaml"), dir.path().join("agent.log"));
        let queue = dir.path().join("queue");
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
exporters: {{otlphttp: {{endpoint: '{endpoint}'{}}}}}
extensions: {{file_storage: {{directory: '{}'}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{logs: {{receivers: [otlp], exporters: [otlphttp]}}}}
",
            if stored { ", sending_queue: {storage: file_storage}" } else { "" },
            queue.display(),
        );
        std::fs::write(&config, text).expect("space");
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        let mut command = child::agent(binary, &config, &log).expect("space");
        if let Some(order) = order {
            command.env("TFO_TEST_ROSTER", "hurried").env("TFO_TEST_SABOTAGE", order);
        }
        let child = Child::spawn(&mut command).expect("the binary cargo built for this test");
        Agent { child, log, port, _dir: dir }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn says(&self, what: &str) {
        assert!(until(PATIENCE, || self.log().contains(what)).await, "it says {what:?}:\n{}", self.log());
    }

    async fn is_ready(&self) {
        self.says("Everything is ready").await;
    }

    /// Ten log records are acknowledged.
    async fn takes_logs(&self) {
        install_client();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let body = Numbered::new(Signal::Logs, Source(1)).request(10).bytes;
        let url = format!("http://127.0.0.1:{}/v1/logs", self.port);
        let sent = client.post(url).header("content-type", "application/x-protobuf").body(body).send().await;
        assert_eq!(sent.expect("it listens").status(), 200);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.child.pid(), signal).expect("our child");
    }

    /// How it ends.
    async fn code(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status.code();
            }
            assert!(Instant::now() < end, "it ends:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

use rustix::process::Signal as Kill;

#[actix::test]
async fn a_stop_that_was_asked_for_ends_with_0() {
    for (signal, stored) in [(Kill::TERM, true), (Kill::INT, true), (Kill::TERM, false)] {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let mut agent = Agent::start(&far_end.endpoint(), stored, None).await;
        agent.is_ready().await;
        agent.takes_logs().await;
        agent.signal(signal);
        assert_eq!(agent.code().await, Some(0), "{signal:?}, stored: {stored}\n{}", agent.log());
        let log = agent.log();
        let (_, after) = log.split_once("Shutdown complete.").expect("it says so");
        // A post that is stopped does not fall: nobody who reads the log is to look for a fault.
        assert_eq!(after.lines().skip(1).collect::<Vec<_>>(), [""; 0], "{log}");
        assert!(!log.contains("post fell") && !log.contains("lost its guard"), "{log}");
        assert!(stored || far_end.with(|c| c.tally().arrivals(Signal::Logs)) == 10, "what is in memory is sent first");
    }
}

/// Goal: what waits on a disk is safe; what waits in memory is lost, and neither log nor code keep silent about it.
#[actix::test]
async fn a_stop_that_loses_acknowledged_data_says_so() {
    for (stored, expected) in [(true, 0), (false, 74)] {
        let far_end = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
        let mut agent = Agent::start(&far_end.endpoint(), stored, None).await;
        agent.is_ready().await;
        agent.takes_logs().await;
        agent.says("link moved").await;
        agent.signal(Kill::TERM);
        assert_eq!(agent.code().await, Some(expected), "stored: {stored}\n{}", agent.log());
        let told = agent.log().contains("10 acknowledged items were in memory only");
        assert_eq!(told, !stored, "{}", agent.log());
    }
}

/// Goal: the second signal does not wait for what the first began.
#[actix::test]
async fn a_second_signal_ends_it_at_once() {
    for (first, second, expected) in
        [(Kill::TERM, Kill::TERM, 143), (Kill::INT, Kill::INT, 130), (Kill::TERM, Kill::INT, 130)]
    {
        let far_end = FarEnd::start(Script::new().always(Act::Hang)).expect("a port");
        let mut agent = Agent::start(&far_end.endpoint(), true, None).await;
        agent.is_ready().await;
        agent.takes_logs().await;
        assert!(until(PATIENCE, || far_end.seen().len() == 1).await, "an upload is out, and the stop waits for it");
        agent.signal(first);
        agent.says("stop requested").await;
        let asked = Instant::now();
        agent.signal(second);
        assert_eq!(agent.code().await, Some(expected), "{}", agent.log());
        assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
        assert!(!agent.log().contains("Shutdown complete."));
    }
}

/// Goal: what cannot go on ends by itself, with the code systemd restarts after.
#[actix::test]
async fn what_cannot_go_on_ends_with_70_or_71() {
    let far_end = FarEnd::start(Script::new()).expect("a port");
    for (order, expected) in [
        ("uplink/otlphttp guard", 70),
        ("spool-writer/file_storage block", 71), // an own thread that must not be replaced
        ("doorman block", 71),                   // the main thread
    ] {
        let mut agent = Agent::start(&far_end.endpoint(), true, Some(order)).await;
        assert_eq!(agent.code().await, Some(expected), "{order}\n{}", agent.log());
        assert!(agent.log().contains("sabotage"), "{order}: it was the order");
    }
}

#[test]
fn what_only_a_person_can_mend_ends_with_1_or_2() {
    for (args, expected) in [(&["run", "--config", "yaml:{}"][..], 1), (&["run", "--no-such-flag"], 2)] {
        let output = Command::new(env!("CARGO_BIN_EXE_tfo-otel-agent")).args(args).output().expect("it runs");
        assert_eq!(output.status.code(), Some(expected), "{args:?}: {output:?}");
    }
}
