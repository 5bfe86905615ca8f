//! Promise P6 with the real binary: after an outage fresh data arrives within 2 s (plus the batch's timeout) while the backlog
//! drains beside it over a slow link, and everything arrives once the link is fast.
//!
//! The link is a proxy of our own that lets so many bytes a second through, all connections together, and has small buffers.
//! `TFO_ORDER=oldest_first cargo test --test freshness` shows what it is without; `TFO_BACKLOG=2000000` is a longer form, `soak fresh`
//! the longest.

#![allow(clippy::print_stdout)] // figures

use std::path::Path;
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::books::{self, Bound};
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::Script;
use tfo_otel_agent::testing::fresh::{SlowLink, freshness};
use tfo_otel_agent::testing::load::{Load, install_client, until};
use tfo_otel_agent::testing::{FarEnd, Source};
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(240);
const BATCH_TIMEOUT: Duration = Duration::from_millis(200);
/// Promise P6.
const FRESH: Duration = Duration::from_secs(2);
/// Bytes a second over the link while fresh data is measured: an upload of the backlog takes about half a second.
const SLOW: u64 = 192 << 10;
const FAST: u64 = 1 << 40;
/// For so long fresh data is measured.
const MEASURED: Duration = Duration::from_secs(20);
/// The client whose data is fresh.
const FRESH_SOURCE: Source = Source(90);

fn config(dir: &Path, link: &SlowLink, port: u16, metrics: u16) -> String {
    let order = std::env::var("TFO_ORDER").unwrap_or_else(|_| "live_first".to_owned());
    format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: {}ms, send_batch_size: 2000, send_batch_max_size: 4000}}}}
exporters:
  otlphttp:
    endpoint: {}
    retry_on_failure: {{initial_interval: 100ms, max_interval: 500ms}}
    sending_queue: {{storage: file_storage}}
    drain: {{order: {order}}}
extensions: {{file_storage: {{directory: '{}'}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
        BATCH_TIMEOUT.as_millis(),
        link.endpoint(),
        dir.join("spool").display(),
    )
}

/// Whose work does not slow the link down.
fn far_end() -> FarEnd {
    let made = std::thread::spawn(|| FarEnd::on_own_thread(Script::new())).join();
    made.expect("it does not panic").expect("a port")
}

#[actix::test]
async fn fresh_data_does_not_wait_behind_the_backlog() {
    install_client();
    let records: u64 = std::env::var("TFO_BACKLOG").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let (dir, far_end) = (tempfile::tempdir().expect("a temporary directory"), far_end());
    let link = SlowLink::to(far_end.addr()).expect("a port");
    let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("agent.yaml"), config(dir.path(), &link, port, metrics)).expect("space");
    let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
    let mut command = child::agent(binary, &at("agent.yaml"), &at("agent.log")).expect("space");
    let agent = Child::spawn(&mut command).expect("cargo built it");
    let log = || std::fs::read_to_string(at("agent.log")).unwrap_or_default();
    let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    assert!(until(PATIENCE, listens).await, "{}", log());

    let endpoint = format!("http://127.0.0.1:{port}");
    let signals = vec![Signal::Logs];
    let load = Load { endpoint, signals, rate: 0, request_items: 1_000, clients: 4, first_source: 1 }.start();
    assert!(until(PATIENCE, || load.acknowledged() >= records).await, "{}", log());
    load.stop();
    assert!(until(PATIENCE, || load.is_over()).await);
    sleep(Duration::from_secs(6)).await; // all of it is old: nothing of it is called fresh
    let spooled = child::metric(metrics, "tfo_agent_spool_bytes").await.unwrap_or_default();

    link.set(SLOW);
    assert!(far_end.until(PATIENCE, |c| c.seen().next().is_some()).await, "it knocks again: {}", log());
    let before = far_end.report().arrived();
    let fresh = freshness(port, &far_end, FRESH_SOURCE, MEASURED).await;
    let drained = far_end.report().arrived() - before;
    let all = load.acknowledged() + fresh.sent.report().acknowledged();
    let p99 = fresh.percentile(99);
    println!(
        "backlog {records} records, {spooled} B spooled; fresh: p50 {:?}, p99 {p99:?}, longest {:?} of {} requests; {drained} records in {MEASURED:?}",
        fresh.percentile(50),
        fresh.percentile(100),
        fresh.requests(),
    );
    assert!(p99 <= FRESH + BATCH_TIMEOUT, "p99 {p99:?}\n{}", log());
    let left = all - far_end.report().arrived();
    assert!(drained > 10_000 && left > 10_000, "it drains beside, and is not done: {drained}, {left} left");

    link.set(FAST);
    let tally = || {
        far_end.with(|collector| {
            let mut tally = collector.tally().clone();
            tally.merge(&load.tally());
            tally.merge(&fresh.sent);
            tally
        })
    };
    let end = Instant::now() + PATIENCE;
    while tally().report().lost() > 0 {
        assert!(Instant::now() < end, "{}\n{}", tally().report(), log());
        sleep(Duration::from_millis(500)).await; // seldom: to count is work
    }
    let agreed = books::agree(metrics, "otlphttp", Bound::default(), PATIENCE, tally).await;
    let agreed = agreed.unwrap_or_else(|no| panic!("the books and the far end: {no}\n{}", log()));
    assert!(agreed.values().all(|book| book.lost + book.held == 0), "{agreed:?}");
    assert_eq!(agent.stop(PATIENCE).await.expect("our child").map(|status| status.success()), Some(true), "{}", log());
}
