//! The last good configuration on disk, with the real binary: what is kept, when an agent runs by it, and what is said.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;
use tfo_otel_agent::testing::child::{Child, free_port, metric};
use tfo_otel_agent::testing::load::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_tfo-otel-agent");

struct Rig {
    dir: tempfile::TempDir,
    port: u16,
    health: u16,
    metrics: u16,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [port, health, metrics] = [(); 3].map(|()| free_port().expect("a port"));
        Rig { dir, port, health, metrics }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `batch`: what stands under it; `label`: a label of every metric.
    fn write(&self, batch: &str, label: &str) {
        let Rig { port, health, metrics, .. } = self;
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {batch}}}
exporters: {{otlphttp: {{endpoint: 'http://127.0.0.1:9', headers: {{x-key: '${{env:KEY}}'}}}}}}
extensions: {{health_check: {{endpoint: '127.0.0.1:{health}'}}}}
service:
  extensions: [health_check]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}, resource: {{site: {label}}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
"
        );
        std::fs::write(self.path("agent.yaml"), text).expect("space");
    }

    fn command(&self, how: &str) -> Command {
        let mut command = Command::new(BINARY);
        command.args([how, "--config"]).arg(self.path("agent.yaml")).args(["--set", "processors.batch.timeout=70ms"]);
        command.env("KEY", "hunter2").env("TFO_LAST_GOOD", self.path("last-good"));
        command
    }

    async fn start(&self) -> Child {
        let log = std::fs::File::create(self.path("agent.log")).expect("space");
        let child = Child::spawn(self.command("run").stderr(log)).expect("the binary cargo built for this test");
        assert!(until(PATIENCE, || self.log().contains("Everything is ready")).await, "{}", self.log());
        child
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    /// Hangs up, and waits until `told` was said once more.
    async fn reload(&self, child: &Child, told: &str) {
        let before = self.log().matches(told).count();
        rustix::process::kill_process(child.pid(), rustix::process::Signal::HUP).expect("our child");
        assert!(until(PATIENCE, || self.log().matches(told).count() > before).await, "{told}: {}", self.log());
    }

    async fn health(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.health)).await.expect("it listens");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.expect("it is open");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        text
    }

    async fn metric(&self, name: &str) -> f64 {
        metric(self.metrics, name).await.expect("it listens")
    }

    /// A start that does not come about.
    fn fails(&self) -> String {
        let Output { status, stderr, .. } = self.command("run").output().expect("the binary cargo built for this test");
        assert_eq!(status.code(), Some(1));
        String::from_utf8_lossy(&stderr).into_owned()
    }
}

/// Goal: what was in service is what an agent starts by when the configuration it is given is broken, and everybody who
/// asks hears of it; a reload that mends it ends that.
#[actix::test]
async fn an_agent_starts_by_what_was_in_service() {
    let rig = Rig::new();
    rig.write("{}", "first");
    let child = rig.start().await;
    assert!(until(PATIENCE, || rig.path("last-good").exists()).await, "{}", rig.log());
    let kept = std::fs::read_to_string(rig.path("last-good")).expect("kept");
    assert!(kept.contains("${env:KEY}") && !kept.contains("hunter2") && kept.contains("timeout=70ms"), "{kept}");
    let mode = std::fs::metadata(rig.path("last-good")).expect("kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(rig.metric("tfo_agent_config_fallback").await == 0.0);

    // A reload that is carried out is kept; one that is refused is not, and is shown with its message.
    rig.write("{}", "second");
    rig.reload(&child, "is kept as the last good one").await;
    rig.write("{timeot: 5s, send_batch_size: -1}", "third");
    rig.reload(&child, "configuration is not carried out").await;
    let health = rig.health().await;
    let told = "configuration: it has 2 errors, the first: ";
    assert!(health.contains("200 OK") && health.contains(told) && health.contains("processors.batch."), "{health}");
    assert!(rig.metric("tfo_agent_degraded{component=\"configuration\"").await == 1.0);
    assert!(rig.metric("tfo_agent_config_reloads{outcome=\"refused\"").await == 1.0);
    assert!(rig.metric("tfo_agent_config_fallback").await == 0.0, "what is in force was given");
    let _ = child.stop(PATIENCE).await.expect("our child");

    let child = rig.start().await;
    assert!(rig.metric("tfo_agent_config_fallback").await == 1.0);
    assert!(rig.metric("tfo_agent_degraded{component=\"configuration\"").await == 1.0);
    assert!(rig.metric("tfo_agent_available").await == 1.0);
    let health = rig.health().await;
    assert!(health.contains(told) && health.contains("the last good configuration is in force"), "{health}");
    let log = rig.log();
    let said = |key: &str| log.lines().any(|l| l.contains("\terror\t") && l.contains(&format!("\"path\": \"{key}\"")));
    assert!(said("processors.batch.timeot") && said("processors.batch.send_batch_size"), "{log}");
    let kept = std::fs::read_to_string(rig.path("last-good")).expect("kept");
    assert!(kept.contains("second") && !kept.contains("third"), "{kept}");

    rig.reload(&child, "configuration is not carried out").await;
    assert!(rig.metric("tfo_agent_config_fallback").await == 1.0);
    rig.write("{}", "fourth");
    rig.reload(&child, "is kept as the last good one").await;
    assert!(rig.metric("tfo_agent_config_fallback").await == 0.0);
    assert!(!rig.health().await.contains("degraded"));
    let _ = child.stop(PATIENCE).await.expect("our child");
}

/// Goal: a file that does not help changes nothing: the code is that of the invalid configuration, and both are said.
#[test]
fn without_a_good_one_the_start_fails_as_ever() {
    let rig = Rig::new();
    rig.write("{timeot: 5s}", "x");
    let told = rig.fails();
    assert!(told.contains("processors.batch.timeot") && told.contains("it cannot be read: No such file"), "{told}");
    std::fs::write(rig.path("last-good"), "tfo-otel-agent last good configuration 1 00").expect("space");
    let told = rig.fails();
    assert!(told.contains("processors.batch.timeot") && told.contains("it is damaged: it ends too early"), "{told}");
    let checked = rig.command("validate").output().expect("the binary cargo built for this test");
    let told = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.code() == Some(1) && !told.contains("last good"), "{told}");
}
