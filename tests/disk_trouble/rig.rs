//! The agent under the injector, with numbered telemetry in front of it and a far end behind it, and the books of all.

use super::injector::{Injector, Life};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::child::{self, free_port, metric};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{Load, Running, until};
use tfo_otel_agent::testing::{FarEnd, Tally};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What differs between the cases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// Keys of `file_storage` beside its directory.
    pub(crate) storage: &'static str,
    /// Segments of so many KiB; 0: as shipped.
    pub(crate) segment_kib: u64,
    /// Reads can fail too.
    pub(crate) reads: bool,
    /// Items a second.
    pub(crate) rate: u64,
}

impl Wish {
    pub(crate) const USUAL: Wish = Wish { storage: "max_size_mib: 64", segment_kib: 192, reads: false, rate: 4_000 };
}

pub(crate) struct Rig {
    pub(crate) injector: Arc<Injector>,
    pub(crate) far_end: FarEnd,
    life: Option<Life>,
    kills: u32,
    wish: Wish,
    dir: tempfile::TempDir,
    port: u16,
    metrics: u16,
    health: u16,
}

impl Rig {
    /// An agent that runs, with a far end that refuses.
    pub(crate) async fn start(wish: Wish) -> Rig {
        let [port, metrics, health] = [(); 3].map(|()| free_port().expect("a port"));
        let far_end = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
        // On a real disk, where a sync takes its time.
        let dir = tempfile::tempdir().expect("a temporary directory");
        let injector = Injector::below(dir.path(), wish.reads);
        let mut rig = Rig { injector, far_end, life: None, kills: 0, wish, dir, port, metrics, health };
        rig.configure(60);
        rig.begin().await;
        rig
    }

    /// Writes the configuration; a `batch` timeout makes it another one.
    pub(crate) fn configure(&self, timeout_ms: u32) {
        let Rig { port, metrics, health, wish, .. } = self;
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: {timeout_ms}ms, send_batch_size: 500, send_batch_max_size: 1000}}}}
exporters: {{otlphttp: {{endpoint: '{}', sending_queue: {{storage: file_storage}}, retry_on_failure: {{initial_interval: 50ms, max_interval: 200ms}}}}}}
extensions: {{file_storage: {{directory: '{}', {}}}, health_check: {{endpoint: '127.0.0.1:{health}'}}}}
service:
  extensions: [file_storage, health_check]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}, logs: {{output_paths: ['{}'], error_output_paths: ['{}']}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
            self.far_end.endpoint(),
            self.spool().display(),
            wish.storage,
            self.path("own.log").display(),
            self.path("own.log").display(),
        );
        std::fs::write(self.path("agent.yaml"), text).expect("space");
    }

    /// A life of the agent begins.
    pub(crate) async fn begin(&mut self) {
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        let mut command = child::agent(binary, &self.path("agent.yaml"), &self.path("agent.log")).expect("space");
        command.env("TFO_LAST_GOOD", self.path("last-good"));
        if self.wish.segment_kib > 0 {
            command.env("TFO_TEST_SEGMENT_KIB", self.wish.segment_kib.to_string());
        }
        self.life = Some(self.injector.start(command).expect("the binary cargo built for this test"));
        let health = self.health;
        let end = std::time::Instant::now() + PATIENCE;
        while !ask(health).await.is_some_and(|answer| answer.contains("Server available")) {
            assert!(self.is_alive() && std::time::Instant::now() < end, "it always starts\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL, and the next life.
    pub(crate) async fn kill_and_begin(&mut self) {
        self.injector.lift();
        self.kill_and_begin_failing().await;
    }

    /// The same while something fails.
    pub(crate) async fn kill_and_begin_failing(&mut self) {
        self.kills += 1;
        let life = self.life.take().expect("it lives");
        tokio::task::spawn_blocking(move || life.kill()).await.expect("it does not panic");
        self.begin().await;
    }

    /// SIGTERM: it ends by itself, with this code.
    pub(crate) async fn stop(&mut self, code: i32) {
        let life = self.life.take().expect("it lives");
        let status = tokio::task::spawn_blocking(move || life.terminate()).await.expect("it does not panic");
        assert_eq!((status & 0x7f, status >> 8), (0, code), "{}", self.log());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.path("spool")
    }

    pub(crate) fn life(&self) -> &Life {
        self.life.as_ref().expect("it lives")
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.life.as_ref().is_some_and(Life::is_alive)
    }

    /// What it complained of last.
    pub(crate) fn log(&self) -> String {
        let read = |name: &str| std::fs::read(self.path(name)).unwrap_or_default();
        let log = [read("agent.log"), read("own.log")].concat();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().filter(|l| !l.contains("\tinfo\t")).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub(crate) fn load(&self) -> Running {
        self.load_from(1)
    }

    /// Clients of other numbers.
    pub(crate) fn load_from(&self, first_source: u32) -> Running {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let rate = self.wish.rate;
        Load { endpoint, signals: vec![Signal::Logs], rate, request_items: 50, clients: 3, first_source }.start()
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        metric(self.metrics, name).await.unwrap_or_else(|e| panic!("it listens: {e}\n{}", self.log())) as u64
    }

    async fn lost(&self, reason: &str) -> u64 {
        let series = format!("tfo_agent_items_lost{{exporter=\"otlphttp\",pipeline=\"logs\",reason=\"{reason}\"");
        self.metric(&series).await
    }

    /// What health says about what is not as it should be.
    pub(crate) async fn health(&self) -> String {
        let answer = ask(self.health).await.unwrap_or_default();
        answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())
    }

    /// Waits until health says this.
    pub(crate) async fn health_says(&self, what: &str) {
        let end = std::time::Instant::now() + PATIENCE;
        while !self.health().await.contains(what) {
            let health = self.health().await;
            assert!(std::time::Instant::now() < end, "health does not say {what:?} but {health}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until health has nothing to say about the spool.
    pub(crate) async fn health_is_well(&self) {
        let end = std::time::Instant::now() + PATIENCE;
        while self.health().await.contains("file_storage") {
            let health = self.health().await;
            assert!(std::time::Instant::now() < end, "health says {health}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many more items were acknowledged.
    pub(crate) async fn takes(&self, load: &Running, items: u64) {
        let before = load.acknowledged();
        let taken = until(PATIENCE, || load.acknowledged() >= before + items || !self.is_alive()).await;
        assert!(taken && self.is_alive(), "it takes data; alive {}\n{}", self.is_alive(), self.log());
    }

    /// The books of the clients and of the far end.
    fn books(&self, loads: &[&Running]) -> Tally {
        let mut books = Tally::default();
        loads.iter().for_each(|load| books.merge(&load.tally()));
        self.far_end.with(|collector| books.merge(collector.tally()));
        books
    }

    /// The far end is there and the load is over: what was acknowledged has arrived, or is told as lost for one of these
    /// reasons, to the item. Clients heard success or "come back", and no journal was written after it had failed.
    pub(crate) async fn ends_well(&mut self, loads: &[&Running], reasons: &[&str]) {
        loads.iter().for_each(|load| load.stop());
        self.far_end.play(Script::new());
        let end = std::time::Instant::now() + PATIENCE;
        let (mut missing, mut told) = (0, 0);
        while std::time::Instant::now() < end {
            assert!(self.is_alive(), "{}", self.log());
            told = 0;
            for reason in reasons {
                told += self.lost(reason).await;
            }
            missing = self.books(loads).report().lost();
            if missing <= told && self.metric("tfo_agent_items_waiting").await == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let kept = self.kept_if(missing > told);
        assert!(missing <= told, "acknowledged and not arrived {missing}, told as lost {told}{kept}\n{}", self.log());
        assert_eq!(self.books(loads).report().never_issued(), 0, "nothing is invented");
        assert_eq!(self.metric("tfo_agent_items_waiting").await, 0, "nothing waits\n{}", self.log());
        assert_eq!(self.metric("tfo_agent_items_lost").await, told, "nothing is lost otherwise\n{}", self.log());
        for load in loads {
            let mut answers = load.answers();
            let unheard = answers.remove(&0).filter(|_| self.kills == 0);
            assert_eq!(unheard, None, "requests without an answer");
            let heard: BTreeSet<u16> = answers.into_keys().collect();
            assert!(heard.is_subset(&[200, 503].into()), "clients heard {:?}", load.answers());
        }
        assert_eq!(self.injector.offences(), [""; 0], "a journal was written after it had failed");
    }

    /// Where the directory is kept, for a red test.
    fn kept_if(&self, red: bool) -> String {
        if !red {
            return String::new();
        }
        let kept = self.dir.path().with_extension("kept");
        let copied = std::process::Command::new("cp").arg("-a").arg(self.dir.path()).arg(&kept).status();
        format!("; kept in {} ({copied:?})", kept.display())
    }
}

/// Health's whole answer; `None`: nobody listens.
async fn ask(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}
