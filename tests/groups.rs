//! `batch.metadata_keys` with the real binary: who is whose lane, how many there may be, and what a crash leaves.

use std::path::Path;
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::FarEnd;
use tfo_otel_agent::testing::books;
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{install_client, until};
use tfo_otel_agent::testing::numbered::{Numbered, Source};

const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    dir: tempfile::TempDir,
    far_end: FarEnd,
    port: u16,
    metrics: u16,
    clients: Vec<Numbered>,
}

impl Rig {
    fn new() -> Rig {
        let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
        let rig = Rig {
            dir: tempfile::tempdir().expect("a temporary directory"),
            far_end: FarEnd::start(Script::new()).expect("a port"),
            port,
            metrics,
            clients: Vec::new(),
        };
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}', include_metadata: true}}}}}}}}
processors: {{batch: {{timeout: 600ms, metadata_keys: [X-Tenant], metadata_cardinality_limit: 2}}}}
exporters: {{otlphttp: {{endpoint: '{}', sending_queue: {{storage: file_storage}}, retry_on_failure: {{initial_interval: 50ms, max_interval: 200ms}}}}}}
extensions: {{file_storage: {{directory: '{}'}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
            rig.far_end.endpoint(),
            rig.dir.path().join("spool").display(),
        );
        std::fs::write(rig.dir.path().join("agent.yaml"), text).expect("space");
        rig
    }

    fn start(&self) -> Child {
        let (config, log) = (self.dir.path().join("agent.yaml"), self.dir.path().join("agent.log"));
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        Child::spawn(&mut child::agent(binary, &config, &log).expect("space")).expect("cargo built it")
    }

    /// Sends numbered records as this tenant until somebody listens; the status of the answer, and its text.
    async fn send(&mut self, tenant: Option<&str>, items: u32) -> (u16, String) {
        let source = Source(u32::try_from(self.clients.len()).expect("few"));
        self.clients.push(Numbered::new(Signal::Logs, source));
        let body = self.clients.last_mut().expect("just pushed").request(items).bytes;
        let client = reqwest::Client::builder().no_proxy().build().expect("a client without TLS");
        for _ in 0..600 {
            let mut request = client.post(format!("http://127.0.0.1:{}/v1/logs", self.port)).body(body.clone());
            request = request.header("content-type", "application/x-protobuf");
            if let Some(tenant) = tenant {
                request = request.header("x-TENANT", tenant);
            }
            if let Ok(answer) = request.send().await {
                let status = answer.status().as_u16();
                return (status, String::from_utf8_lossy(&answer.bytes().await.expect("a body")).into_owned());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody listens: {}", std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default());
    }

    /// How many items each upload that was taken had, in ascending order, when there are `items` in all.
    async fn uploads(&self, items: u64) -> Vec<u64> {
        let all = until(PATIENCE, || self.far_end.with(|c| c.counts().items) >= items).await;
        let mut taken: Vec<u64> = self.far_end.with(|c| c.seen().map(|seen| seen.taken).filter(|n| *n > 0).collect());
        taken.sort_unstable();
        assert!(all, "{taken:?}");
        taken
    }

    async fn metric(&self, name: &str) -> u64 {
        child::metric(self.metrics, name).await.expect("it listens") as u64
    }
}

/// Goal: uploads never mix tenants, also after a crash; a tenant too many may come back and costs nobody anything; a lane
/// that is empty at the start is the next tenant's, whose books begin anew.
#[actix::test]
async fn tenants_travel_apart_and_are_as_many_as_allowed() {
    install_client();
    let mut rig = Rig::new();
    let child = rig.start();
    for _ in 0..3 {
        for (tenant, items) in [(Some("a"), 10), (Some("b"), 1), (None, 100)] {
            assert_eq!(rig.send(tenant, items).await.0, 200);
        }
    }
    assert_eq!(rig.uploads(333).await, [3, 30, 300]);
    let (status, told) = rig.send(Some("c"), 1_000).await;
    assert_eq!(status, 503, "{told}");
    assert!(told.contains("too many batcher metadata-value combinations"), "{told}");
    assert_eq!(rig.metric("tfo_agent_batch_groups_refused").await, 1);
    assert_eq!(rig.metric("otelcol_processor_batch_metadata_cardinality").await, 2);

    rig.far_end.play(Script::new().always(Act::Refuse));
    assert_eq!(rig.send(Some("a"), 5_000).await.0, 200);
    child.kill().expect("our child");
    let child = rig.start();
    // What waits for a is a's; b's lane is empty, so it goes to c; and then there are as many as there may be.
    assert_eq!(rig.send(Some("c"), 2_000).await.0, 200);
    assert_eq!(rig.send(Some("b"), 1).await.0, 503);
    assert_eq!(rig.send(Some("a"), 7_000).await.0, 200);
    rig.far_end.play(Script::new());
    let mut uploads = rig.uploads(14_333).await;
    uploads.retain(|items| *items >= 1_000);
    // a's records may go in one upload or in two, but never with c's.
    assert!(
        uploads == [2_000, 5_000, 7_000] || uploads == [2_000, 3_808, 8_192] || uploads == [2_000, 12_000],
        "{uploads:?}"
    );
    for (lane, delivered) in [("logs", 300), ("logs?x-tenant=a", 12_030), ("logs?x-tenant=c", 2_000)] {
        let name = format!("tfo_agent_items_delivered{{exporter=\"otlphttp\",pipeline=\"{lane}\"");
        let all = || async { rig.metric(&name).await };
        for _ in 0..200 {
            if all().await == delivered {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(all().await, delivered, "{lane}");
    }
    assert_eq!(rig.metric("tfo_agent_items_accepted").await, 14_330);
    // Summed over the groups; b's three went with the books of its lane, which is c's now.
    let books = books::shown(rig.metrics, "otlphttp").await.expect("it listens")[&Signal::Logs];
    assert!(books.adds_up() && books.waiting == 0, "{books:?}");
    assert_eq!(books.delivered + 3, rig.far_end.with(|c| c.counts().items), "{books:?}");
    drop(child);
}
