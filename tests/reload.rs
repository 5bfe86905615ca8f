//! SIGHUP to the real binary under load: what changes, what does not, and that no request notices; and log files that
//! are moved away.

use std::path::{Path, PathBuf};
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::Script;
use tfo_otel_agent::testing::load::{Load, Running, until};
use tfo_otel_agent::testing::{FarEnd, Tally};

const PATIENCE: Duration = Duration::from_secs(60);
const IN_FORCE: &str = "configuration is in force";
const NOT_IN_FORCE: &str = "configuration is not carried out";

struct Rig {
    child: Child,
    dir: tempfile::TempDir,
    log: PathBuf,
    port: u16,
    metrics: u16,
}

/// What differs between the configurations of a test.
#[derive(Clone)]
struct Wish {
    /// Under `processors` and in every pipeline.
    processors: Vec<(&'static str, &'static str)>,
    /// Name, endpoint and storage.
    exporters: Vec<(&'static str, String, Option<&'static str>)>,
    storages: Vec<&'static str>,
    /// Added to the receiver's.
    receiver: &'static str,
    /// More receivers, pipelines and telemetry.
    receivers: &'static str,
    also: &'static str,
    telemetry: String,
}

impl Wish {
    fn to(endpoint: String) -> Wish {
        Wish {
            processors: vec![("batch", "{timeout: 50ms}")],
            exporters: vec![("otlphttp", endpoint, Some("file_storage"))],
            storages: vec!["file_storage"],
            receiver: "",
            receivers: "",
            also: "",
            telemetry: String::new(),
        }
    }
}

impl Rig {
    fn start(wish: &Wish) -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
        let (config, log) = (dir.path().join("agent.yaml"), dir.path().join("agent.log"));
        write(dir.path(), port, metrics, wish);
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        let mut command = child::agent(binary, &config, &log).expect("space");
        let child = Child::spawn(&mut command).expect("the binary cargo built for this test");
        Rig { child, dir, log, port, metrics }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Hangs up, and waits until `told` was said once more.
    async fn reload(&self, wish: &Wish, told: &str) {
        write(self.dir.path(), self.port, self.metrics, wish);
        let before = self.log().matches(told).count();
        rustix::process::kill_process(self.child.pid(), rustix::process::Signal::HUP).expect("our child");
        let said = || self.log().matches(told).count() > before;
        assert!(until(PATIENCE, said).await, "it says {told:?}:\n{}", self.log());
    }

    fn load(&self) -> Running {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let signals = Signal::ALL.to_vec();
        Load { endpoint, signals, rate: 20_000, request_items: 50, clients: 2, first_source: 1 }.start()
    }

    async fn metric(&self, name: &str) -> u64 {
        child::metric(self.metrics, name).await.expect("it listens") as u64
    }
}

fn write(dir: &Path, port: u16, metrics: u16, wish: &Wish) {
    let lines = |all: Vec<String>| all.join("");
    let processors = lines(wish.processors.iter().map(|(id, text)| format!("  {id}: {text}\n")).collect());
    let exporters = lines(
        wish.exporters
            .iter()
            .map(|(id, endpoint, storage)| {
                let queue = storage.map_or(String::new(), |s| format!(", sending_queue: {{storage: {s}}}"));
                let retry = "retry_on_failure: {initial_interval: 50ms, max_interval: 200ms}";
                format!("  {id}: {{endpoint: '{endpoint}', {retry}{queue}}}\n")
            })
            .collect(),
    );
    let storages = lines(
        wish.storages
            .iter()
            .map(|id| format!("  {id}: {{directory: '{}'}}\n", dir.join(id.replace('/', "-")).display()))
            .collect(),
    );
    let names = |all: Vec<&str>| all.join(", ");
    let pipeline = format!(
        "{{receivers: [otlp], processors: [{}], exporters: [{}]}}",
        names(wish.processors.iter().map(|p| p.0).collect()),
        names(wish.exporters.iter().map(|e| e.0).collect()),
    );
    let text = format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'{}}}}}}}{}}}
processors:
{processors}exporters:
{exporters}extensions:
{storages}service:
  extensions: [{}]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}{}}}
  pipelines: {{logs: {pipeline}, traces: {pipeline}, metrics: {pipeline}{}}}
",
        wish.receiver,
        wish.receivers,
        names(wish.storages.clone()),
        wish.telemetry,
        wish.also,
    );
    std::fs::write(dir.join("agent.yaml"), text).expect("space");
}

/// What was acknowledged, and what either of them has.
fn books(load: &Running, far_ends: &[&FarEnd]) -> Tally {
    let mut books = load.tally();
    far_ends.iter().for_each(|end| end.with(|collector| books.merge(collector.tally())));
    books
}

/// Requests of every client are answered meanwhile.
async fn goes_on(load: &Running) {
    let before = load.acknowledged();
    assert!(until(PATIENCE, || load.acknowledged() > before + 2_000).await, "the load goes on");
}

/// Goal: under load every kind of change comes into force; 0 requests are refused, 0 items lost.
#[actix::test]
async fn reloads_under_load_lose_and_refuse_nothing() {
    let [a, b] = [(); 2].map(|()| FarEnd::start(Script::new()).expect("a port"));
    let first = Wish::to(a.endpoint());
    let mut rig = Rig::start(&first);
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    let stamp = ("attributes", "{actions: [{key: site, value: north, action: upsert}]}");
    let with_site =
        Wish { processors: vec![stamp, ("batch", "{timeout: 20ms, send_batch_size: 500}")], ..first.clone() };
    let elsewhere = Wish { exporters: vec![("otlphttp", b.endpoint(), Some("file_storage"))], ..with_site.clone() };
    let both = Wish {
        exporters: vec![elsewhere.exporters[0].clone(), ("otlphttp/two", a.endpoint(), Some("file_storage/two"))],
        storages: vec!["file_storage", "file_storage/two"],
        ..first.clone()
    };
    let in_memory = Wish {
        exporters: vec![elsewhere.exporters[0].clone(), ("otlphttp/memory", a.endpoint(), None)],
        ..both.clone()
    };
    for wish in [&with_site, &elsewhere, &both, &in_memory, &first, &both, &first] {
        goes_on(&load).await;
        rig.reload(wish, IN_FORCE).await;
        // Whoever is named gets what comes from now on.
        for end in [&a, &b].into_iter().filter(|end| wish.exporters.iter().any(|(_, to, _)| *to == end.endpoint())) {
            let arrivals = || end.with(|end| end.tally().arrivals(Signal::Logs));
            let before = arrivals();
            assert!(until(PATIENCE, || arrivals() > before).await, "{:?}:\n{}", wish.exporters, rig.log());
        }
    }
    goes_on(&load).await;
    let _ = rig.metric("tfo_agent_spool_seconds_to_full").await; // there is a rate from the second scrape on
    load.stop();
    let whole = || books(&load, &[&a, &b]).report().lost() == 0;
    assert!(until(PATIENCE, whole).await, "{:?}\n{}", books(&load, &[&a, &b]).report(), rig.log());
    assert!(b.with(|b| b.tally().arrivals(Signal::Logs)) > 0, "the second far end took part");
    assert_eq!(load.refused(), 0, "{}", rig.log());
    assert!(load.acknowledged() > 10_000, "{}", load.acknowledged());
    assert_eq!(rig.metric("tfo_agent_config_reloads{outcome=\"applied\"").await, 7, "{}", rig.log());
    assert!(rig.metric("tfo_agent_spool_commit_seconds_count").await > 10);
    assert!(rig.metric("tfo_agent_spool_seconds_to_full").await > 60, "data came in since the scrape before");
    assert!(!rig.log().contains("fell"), "a post that is given up is no fall:\n{}", rig.log());
    rustix::process::kill_process(rig.child.pid(), rustix::process::Signal::TERM).expect("our child");
    let status = rig.child.wait().expect("our child");
    assert_eq!(status.code(), Some(0), "{}", rig.log());
}

/// Goal: while the far end is away a new endpoint is what gets the data out.
#[actix::test]
async fn what_waits_goes_by_the_new_settings() {
    let dead = format!("http://127.0.0.1:{}", free_port().expect("a port"));
    let b = FarEnd::start(Script::new()).expect("a port");
    let rig = Rig::start(&Wish::to(dead));
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    assert!(until(PATIENCE, || load.acknowledged() > 5_000).await);
    load.stop();
    rig.reload(&Wish::to(b.endpoint()), IN_FORCE).await;
    let whole = || books(&load, &[&b]).report().lost() == 0;
    assert!(until(PATIENCE, whole).await, "{:?}\n{}", books(&load, &[&b]).report(), rig.log());
    assert_eq!(load.refused(), 0);
}

/// Goal: what cannot be carried out changes nothing, and says why; what is the same does nothing.
#[actix::test]
async fn what_cannot_be_carried_out_changes_nothing() {
    let a = FarEnd::start(Script::new()).expect("a port");
    let first = Wish::to(a.endpoint());
    let rig = Rig::start(&first);
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    rig.reload(&Wish { processors: vec![("batch", "{timeout: 50 parsecs}")], ..first.clone() }, NOT_IN_FORCE).await;
    assert!(rig.log().contains("processors.batch.timeout"), "{}", rig.log());
    rig.reload(&Wish { receiver: ", max_request_body_size: 1000", ..first.clone() }, NOT_IN_FORCE).await;
    assert!(rig.log().contains("a change of receivers.otlp needs a restart"), "{}", rig.log());
    assert_eq!(rig.metric("tfo_agent_config_reloads{outcome=\"refused\"").await, 2);
    rig.reload(&first, "configuration is unchanged").await;
    goes_on(&load).await;
    load.stop();
    let whole = || books(&load, &[&a]).report().lost() == 0;
    assert!(until(PATIENCE, whole).await, "{:?}\n{}", books(&load, &[&a]).report(), rig.log());
    assert_eq!(load.refused(), 0);
}

/// Goal: a log file that was moved away (logrotate) is made anew.
#[actix::test]
async fn log_files_are_opened_anew() {
    let a = FarEnd::start(Script::new()).expect("a port");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = dir.path().join("own.log");
    let mut wish = Wish::to(a.endpoint());
    wish.telemetry = format!(", logs: {{output_paths: ['{}']}}", log.display());
    let rig = Rig::start(&wish);
    let said = |what: &str| std::fs::read_to_string(&log).is_ok_and(|text| text.contains(what));
    assert!(until(PATIENCE, || said("Everything is ready")).await, "{}", rig.log());
    std::fs::rename(&log, dir.path().join("own.log.1")).expect("the same directory");
    rustix::process::kill_process(rig.child.pid(), rustix::process::Signal::HUP).expect("our child");
    assert!(until(PATIENCE, || said("configuration is unchanged")).await, "{}", rig.log());
    assert!(!said("Everything is ready"), "it is a new file");
}

/// Goal: the agent's own metrics arrive like anybody's, with what changes while they are sent.
#[actix::test]
async fn own_metrics_go_through_a_pipeline() {
    let a = FarEnd::start(Script::new()).expect("a port");
    let mut wish = Wish::to(a.endpoint());
    wish.receivers = ", self: {collection_interval: 100ms}";
    wish.also = ", metrics/own: {receivers: [self], exporters: [otlphttp]}";
    let rig = Rig::start(&wish);
    let arrived = || a.with(|a| a.tally().unnumbered(Signal::Metrics));
    assert!(until(PATIENCE, || arrived() > 100).await, "{}", rig.log());
    assert!(rig.metric("otelcol_receiver_accepted_metric_points{receiver=\"self\"").await > 100);
}
