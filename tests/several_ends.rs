//! Exporters with several endpoints, with the real binary and its spool on a disk: endpoints come and go under load, and the
//! agent is killed between; nothing that was acknowledged is lost, and what comes twice has its bound.

use std::path::Path;
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::books;
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{Load, Running, until};
use tfo_otel_agent::testing::{FarEnd, Report, Tally};

const PATIENCE: Duration = Duration::from_secs(60);
/// Items of each request, and clients of each signal.
const ITEMS: u32 = 50;
const CLIENTS: u32 = 2;

struct Rig {
    dir: tempfile::TempDir,
    ends: Vec<FarEnd>,
    exporter: &'static str,
    port: u16,
    metrics: u16,
    loads: Vec<Running>,
}

impl Rig {
    /// `section`: of the exporter, made of its endpoints.
    fn new(ends: usize, exporter: &'static str, section: impl FnOnce(&[FarEnd]) -> String) -> Rig {
        Rig::with(ends, exporter, section, |_| String::new())
    }

    /// `extensions`: further ones, each with a comma behind it.
    fn with(
        ends: usize,
        exporter: &'static str,
        section: impl FnOnce(&[FarEnd]) -> String,
        extensions: impl FnOnce(&[FarEnd]) -> String,
    ) -> Rig {
        let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
        let ends: Vec<FarEnd> = (0..ends).map(|_| FarEnd::start(Script::new()).expect("a port")).collect();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: 50ms, send_batch_size: 500, send_batch_max_size: 1000}}}}
exporters: {{{exporter}: {{{}, sending_queue: {{storage: file_storage, num_consumers: 4}}, retry_on_failure: {{initial_interval: 50ms, max_interval: 200ms}}}}}}
extensions: {{{}file_storage: {{directory: '{}'}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines:
    logs: {{receivers: [otlp], processors: [batch], exporters: [{exporter}]}}
    traces: {{receivers: [otlp], processors: [batch], exporters: [{exporter}]}}
",
            section(&ends),
            extensions(&ends),
            dir.path().join("spool").display(),
        );
        std::fs::write(dir.path().join("agent.yaml"), text).expect("space");
        Rig { dir, ends, exporter, port, metrics, loads: Vec::new() }
    }

    async fn start(&self) -> Child {
        let (config, log) = (self.dir.path().join("agent.yaml"), self.dir.path().join("agent.log"));
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        let child = Child::spawn(&mut child::agent(binary, &config, &log).expect("space")).expect("cargo built it");
        for _ in 0..1_000 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return child;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody listens: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    /// Sends for so long, each time as other clients.
    async fn load(&mut self, time: Duration) {
        let first_source = u32::try_from(self.loads.len()).expect("few") * 100;
        let load = Load {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            signals: vec![Signal::Logs, Signal::Traces],
            rate: 8_000,
            request_items: ITEMS,
            clients: CLIENTS,
            first_source,
        }
        .start();
        tokio::time::sleep(time).await;
        load.stop();
        assert!(until(PATIENCE, || load.is_over()).await, "every client has its answer");
        self.loads.push(load);
    }

    fn tally(&self) -> Tally {
        let mut all = Tally::default();
        self.ends.iter().for_each(|end| all.merge(&end.with(|c| c.tally().clone())));
        self.loads.iter().for_each(|load| all.merge(&load.tally()));
        all
    }

    fn report(&self) -> Report {
        self.tally().report()
    }

    async fn waiting(&self) -> u64 {
        child::metric(self.metrics, "tfo_agent_items_waiting").await.expect("it listens") as u64
    }

    /// Everything that was acknowledged is at some endpoint, and the books say so.
    async fn comes_home(&self) -> Report {
        let home = until(PATIENCE, || self.report().lost() == 0).await;
        let report = self.report();
        assert!(home && report.never_issued() == 0, "{report}\n{}", self.log());
        books::agree(self.metrics, self.exporter, books::Bound::default(), PATIENCE, || self.tally())
            .await
            .unwrap_or_else(|no| panic!("{no}\n{}", self.log()));
        report
    }
}

/// Goal: an exporter shows what its authenticators say: a token that a server gives, and headers that are set.
#[actix::test]
async fn an_exporter_shows_what_its_authenticators_say() {
    for (authenticator, header, expected) in
        [("oauth2client", "authorization", "Bearer of-the-server"), ("headers_setter", "x-tenant", "acme")]
    {
        let mut rig = Rig::with(
            2,
            "otlphttp",
            |ends| format!("endpoint: '{}', auth: {{authenticator: {authenticator}}}", ends[0].endpoint()),
            |ends| {
                format!(
                    "oauth2client: {{token_url: '{}/v1/logs', client_id: i, client_secret: s}}, headers_setter: {{headers: [{{key: X-Tenant, value: acme}}]}}, ",
                    ends[1].endpoint()
                )
            },
        );
        let token = br#"{"access_token": "of-the-server", "token_type": "Bearer", "expires_in": 3600}"#;
        rig.ends[1].play(Script::new().always(Act::ok_with("application/json", token)));
        let child = rig.start().await;
        rig.load(Duration::from_millis(200)).await;
        rig.comes_home().await;
        let seen = rig.ends[0].seen();
        assert!(seen.iter().all(|seen| seen.header(header) == Some(expected)), "{seen:?}");
        drop(child);
    }
}

/// Goal: the preferred endpoint goes and comes back under load, and the agent is killed meanwhile: nothing is lost, there is
/// one set of books, and the preferred one has the data again at the end.
#[actix::test]
async fn a_kill_in_the_middle_of_a_failover_loses_nothing() {
    let mut rig = Rig::new(3, "otlphttp", |ends| {
        let others: Vec<String> = ends[1..].iter().map(|end| format!("'{}'", end.endpoint())).collect();
        format!(
            "endpoint: '{}', timeout: 200ms, failover: {{endpoints: [{}], after: 200ms, probe_interval: 300ms}}",
            ends[0].endpoint(),
            others.join(", ")
        )
    });
    for (round, act) in [Act::Refuse, Act::status(503), Act::Hang].into_iter().enumerate() {
        rig.ends[0].play(Script::new().always(act));
        if round == 2 {
            rig.ends[1].play(Script::new().always(Act::Refuse));
        }
        let child = rig.start().await;
        rig.load(Duration::from_millis(600)).await;
        child.kill().expect("our child");
    }
    rig.ends[0].play(Script::new());
    let child = rig.start().await;
    let before = rig.ends[0].with(|c| c.counts().items);
    rig.load(Duration::from_millis(600)).await;
    rig.comes_home().await;
    assert!(rig.ends[0].with(|c| c.counts().items) > before, "the preferred one is used");
    assert!(rig.ends[2].with(|c| c.counts().items) > 0, "the last one was used");
    drop(child);
}

/// Goal: an agent that is killed while uploads are at some endpoints and not at others sends those again and no others: what
/// comes twice is at most what waited at the kill, for all of it may have been leased.
#[actix::test]
async fn what_comes_twice_after_a_kill_is_at_most_what_was_leased() {
    let mut rig = Rig::new(3, "loadbalancing", |ends| {
        let hostnames: Vec<String> = ends.iter().map(|end| format!("'{}'", end.addr())).collect();
        format!(
            "protocol: {{otlp: {{tls: {{insecure: true}}}}}}, resolver: {{static: {{hostnames: [{}]}}}}, failover: {{after: 60s, probe_interval: 300ms}}",
            hostnames.join(", ")
        )
    });
    let mut bound = 0;
    for _ in 0..4 {
        // One takes nothing, so every upload is at the others and not there.
        rig.ends[0].play(Script::new().always(Act::status(503)));
        let child = rig.start().await;
        rig.load(Duration::from_millis(500)).await;
        bound += rig.waiting().await;
        child.kill().expect("our child");
    }
    assert!(bound > 0, "something was under way");
    rig.ends[0].play(Script::new());
    let child = rig.start().await;
    rig.load(Duration::from_millis(300)).await;
    let report = rig.comes_home().await;
    assert!(report.duplicated() <= bound, "{} of {bound}: {report}", report.duplicated());
    assert!(report.duplicated() > 0, "the kills were felt: {report}");
    let shares: Vec<u64> = rig.ends.iter().map(|end| end.with(|c| c.counts().items)).collect();
    assert!(shares.iter().all(|share| *share > 100), "{shares:?}");
    drop(child);
}
