//! Does the real binary keep to what its link may cost, over kill -9 and restarts, and say what is used and left?

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::Load;
use tfo_otel_agent::testing::{FarEnd, Tally};
use tokio::time::sleep;

/// Bytes a day: some forty uploads of what comes in.
const LIMIT: u64 = 300_000;

struct Rig {
    dir: tempfile::TempDir,
    far_end: FarEnd,
    port: u16,
    metrics: u16,
    lives: u32,
    /// Of the queue.
    storage: &'static str,
}

impl Rig {
    fn new() -> Rig {
        let [port, metrics] = [free_port(), free_port()].map(|port| port.expect("a port"));
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let dir = tempfile::tempdir().expect("a directory");
        Rig { dir, far_end, port, metrics, lives: 0, storage: "storage: file_storage" }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join(format!("agent-{}.log", self.lives))
    }

    /// An agent with this `link_budget`.
    async fn start(&mut self, budget: &str) -> Child {
        self.lives += 1;
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{}'}}}}}}}}
processors: {{batch: {{timeout: 100ms, send_batch_size: 200}}}}
exporters:
  otlphttp:
    endpoint: '{}'
    retry_on_failure: {{initial_interval: 100ms, max_interval: 300ms}}
    sending_queue: {{{}}}
    link_budget: {budget}
extensions: {{file_storage: {{directory: '{}'}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{}'}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
            self.port,
            self.far_end.endpoint(),
            self.storage,
            self.dir.path().join("spool").display(),
            self.metrics,
        );
        let config = self.dir.path().join("agent.yaml");
        std::fs::write(&config, text).expect("a file");
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        let mut command = child::agent(binary, &config, &self.log()).expect("a log");
        let agent = Child::spawn(&mut command).expect("it starts");
        let end = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(Instant::now() < end, "it does not listen: {:?}", std::fs::read_to_string(self.log()));
            sleep(Duration::from_millis(20)).await;
        }
        agent
    }

    /// 200 records a second for so long; what was acknowledged.
    async fn feed(&self, time: Duration, first_source: u32) -> Tally {
        let load = Load {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            signals: vec![Signal::Logs],
            rate: 200,
            request_items: 20,
            clients: 1,
            first_source,
        };
        let load = load.start();
        sleep(time).await;
        load.stop();
        while !load.is_over() {
            sleep(Duration::from_millis(20)).await;
        }
        load.tally()
    }

    fn received(&self) -> u64 {
        self.far_end.with(|collector| collector.counts().wire_bytes)
    }

    async fn metric(&self, name: &str) -> u64 {
        child::metric(self.metrics, name).await.unwrap_or_else(|e| panic!("{name}: {e}")) as u64
    }
}

/// Goal: over three lives, two of which end by kill -9, no more than the day's budget goes over the wire; what waits is kept,
/// and arrives when the operator has bought more. Method: the far end counts the bytes of bodies, the agent all of them.
#[actix::test]
async fn a_days_budget_holds_over_kills_and_nothing_is_lost() {
    let mut rig = Rig::new();
    let budget = format!("{{per_day: {LIMIT}, paced: false}}");
    let mut acknowledged = Tally::default();
    for life in 1..=3 {
        let agent = rig.start(&budget).await;
        acknowledged.merge(&rig.feed(Duration::from_secs(3), life).await);
        let used = rig.metric("tfo_agent_link_budget_used_bytes").await;
        let left = rig.metric("tfo_agent_link_budget_left_bytes").await;
        let limit = rig.metric("tfo_agent_link_budget_limit_bytes").await;
        assert_eq!((limit, left), (LIMIT, LIMIT.saturating_sub(used)), "life {life}");
        // One more second, in which what is used is shown late.
        assert!(rig.received() <= used.max(LIMIT), "life {life}: {} received, {used} used", rig.received());
        if life < 3 { agent.kill().expect("it lives") } else { drop(agent.stop(Duration::from_secs(10)).await) }
    }
    assert!(rig.received() > LIMIT / 3, "it sent nothing to speak of: {}", rig.received());
    assert!(rig.received() <= LIMIT, "{} bytes of bodies alone", rig.received());
    let said = std::fs::read_to_string(rig.log()).expect("a log");
    assert!(said.contains("link budget is used up"), "{said}");

    let _agent = rig.start("{per_day: 100MB, paced: false}").await;
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let mut all = rig.far_end.with(|collector| collector.tally().clone());
        all.merge(&acknowledged);
        let report = all.report();
        if report.is_whole() {
            break;
        }
        assert!(Instant::now() < end, "{report}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Goal: an outage in which every knock finds nobody uses nothing of the budget, and a rate holds.
#[actix::test]
async fn an_outage_costs_nothing_and_a_rate_holds() {
    let mut rig = Rig::new();
    rig.far_end.play(Script::new().always(Act::Refuse));
    let _agent = rig.start("{per_day: 100MB, rate: 20000}").await;
    rig.feed(Duration::from_secs(4), 1).await;
    let used = rig.metric("tfo_agent_link_budget_used_bytes").await;
    assert!(used < 10_000, "{used} bytes for knocks"); // connections are counted, bodies are not
    rig.far_end.play(Script::new());
    let (before, began) = (rig.metric("tfo_agent_link_bytes").await, Instant::now());
    rig.feed(Duration::from_secs(8), 2).await;
    let (bytes, took) = (rig.metric("tfo_agent_link_bytes").await - before, began.elapsed().as_secs_f64());
    let rate = bytes as f64 / took;
    assert!((10_000.0..=26_000.0).contains(&rate), "{bytes} bytes in {took} s");
}

/// Goal: a stop tries to send what only memory holds, but does not wait for a budget that is used up.
#[actix::test]
async fn a_stop_does_not_wait_for_what_the_budget_holds() {
    let mut rig = Rig { storage: "", ..Rig::new() };
    let agent = rig.start("{per_day: 60000, paced: false}").await;
    rig.feed(Duration::from_secs(3), 1).await;
    assert!(rig.metric("tfo_agent_items_waiting").await > 0, "the budget holds something");
    let began = Instant::now();
    let status = agent.stop(Duration::from_secs(60)).await.expect("our child");
    assert!(status.is_some() && began.elapsed() < Duration::from_secs(4), "{status:?} after {:?}", began.elapsed());
}
