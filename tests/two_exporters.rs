//! Two exporters in one pipeline, the real binary: each has its own place in the spool, and what one has not sent yet stays for it.

use std::path::Path;
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::books::{self, Bound};
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{Load, Running, until};
use tfo_otel_agent::testing::{FarEnd, Tally};

const PATIENCE: Duration = Duration::from_secs(60);

fn tally(load: &Running, far_end: &FarEnd) -> Tally {
    far_end.with(|collector| {
        let mut all = collector.tally().clone();
        all.merge(&load.tally());
        all
    })
}

fn start(dir: &Path) -> Child {
    let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
    let mut command = child::agent(binary, &dir.join("agent.yaml"), &dir.join("agent.log")).expect("space");
    Child::spawn(command.env("TFO_TEST_SEGMENT_KIB", "192")).expect("cargo built it")
}

/// Goal: a far end that is away holds up nobody but itself, also over a kill; what it has not got stays in the spool, and goes
/// when both have it.
/// Method: one takes everything, the other refuses connections; the agent is killed between; then the other is back.
#[actix::test]
async fn a_slow_exporter_holds_up_nobody_and_loses_nothing() {
    let quick = FarEnd::start(Script::new()).expect("a port");
    let away = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
    let section = |far_end: &FarEnd| {
        format!(
            "{{endpoint: '{}', sending_queue: {{storage: file_storage}}, retry_on_failure: {{initial_interval: 50ms, max_interval: 200ms}}}}",
            far_end.endpoint()
        )
    };
    let text = format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: 50ms}}}}
exporters: {{otlphttp/quick: {}, otlphttp/away: {}}}
extensions: {{file_storage: {{directory: '{}'}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp/quick, otlphttp/away]}}}}
",
        section(&quick),
        section(&away),
        dir.path().join("spool").display(),
    );
    std::fs::write(dir.path().join("agent.yaml"), text).expect("space");
    let mut agent = start(dir.path());
    let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    assert!(until(PATIENCE, listens).await, "it always starts");
    let endpoint = format!("http://127.0.0.1:{port}");
    let load =
        Load { endpoint, signals: vec![Signal::Logs], rate: 4_000, request_items: 100, clients: 2, first_source: 1 };
    let load = load.start();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        agent.kill().expect("our child");
        agent = start(dir.path());
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    load.stop();
    assert!(until(PATIENCE, || load.is_over()).await);

    let whole = |far_end: &FarEnd| tally(&load, far_end).report().lost() == 0;
    assert!(until(PATIENCE, || whole(&quick)).await, "nothing waits for the other: {}", tally(&load, &quick).report());
    assert_eq!(away.report().arrived(), 0);
    let bytes = async || child::metric(metrics, "tfo_agent_spool_bytes").await.expect("it is served");
    let kept = bytes().await;
    assert!(kept > 200_000.0, "what the other has not got is kept: {kept}");

    away.play(Script::new());
    assert!(
        until(PATIENCE, || whole(&away)).await,
        "everything goes to the other too: {}",
        tally(&load, &away).report()
    );
    let killed = Bound { twice: 2 * 2 * 100, late: 0 };
    for (exporter, far_end) in [("otlphttp/quick", &quick), ("otlphttp/away", &away)] {
        let agreed = books::agree(metrics, exporter, killed, PATIENCE, || tally(&load, far_end)).await;
        let agreed = agreed.unwrap_or_else(|no| panic!("{exporter}: {no}"));
        assert!(agreed.values().all(|book| book.lost + book.held == 0), "{exporter}: {agreed:?}");
    }
    let end = tokio::time::Instant::now() + PATIENCE;
    while bytes().await > kept / 2.0 {
        assert!(tokio::time::Instant::now() < end, "what both have goes: {} of {kept}", bytes().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
