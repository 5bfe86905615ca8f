//! Registration with the real binary, a scripted far end and its platform: who is told what, in which order, and that the data
//! path never waits for it.

#![allow(clippy::print_stdout)] // figures of a run

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::registrar::identity::{Origin, Record};
use tfo_otel_agent::testing::FarEnd;
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Collector, Script, Seen};
use tfo_otel_agent::testing::load::{install_client, until};
use tfo_otel_agent::testing::numbered::{Numbered, Source};
use tfo_otel_agent::testing::platform::{Door, Fault};

const PATIENCE: Duration = Duration::from_secs(60);
const AGENT: &str = env!("CARGO_BIN_EXE_tfo-otel-agent");
const WORKSPACE: &str = "550e8400-e29b-41d4-a716-446655440000";
const TENANT: &str = "660e8400-e29b-41d4-a716-446655440001";

struct Rig {
    dir: tempfile::TempDir,
    far_end: FarEnd,
    port: u16,
    metrics: u16,
    made: Numbered,
    vars: Vec<(&'static str, &'static str)>,
}

impl Rig {
    /// `headers`: of the exporter; `registration`: the section, if there is one.
    fn new(headers: &str, registration: &str) -> Rig {
        let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: 20ms}}}}
exporters:
  otlphttp:
    endpoint: '{}'
    headers: {{{headers}}}
    retry_on_failure: {{initial_interval: 100ms, max_interval: 300ms}}
    sending_queue: {{storage: file_storage}}
extensions: {{file_storage: {{directory: '{}'}}}}
{registration}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
            far_end.endpoint(),
            dir.path().join("spool").display(),
        );
        std::fs::write(dir.path().join("agent.yaml"), text).expect("space");
        Rig { dir, far_end, port, metrics, made: Numbered::new(Signal::Logs, Source(1)), vars: Vec::new() }
    }

    /// As the seed configures it.
    fn seed(registration: &str) -> Rig {
        Rig::new(&format!("X-Workspace-Id: {WORKSPACE}, X-Tenant-Id: {TENANT}"), registration)
    }

    async fn start(&self) -> Child {
        let (config, log) = (self.dir.path().join("agent.yaml"), self.dir.path().join("agent.log"));
        let mut command = child::agent(Path::new(AGENT), &config, &log).expect("space");
        for name in ["AGENT_HOSTNAME", "AGENT_IP", "HOSTNAME", "HOST_IP", "TELEMETRYFLOW_WORKSPACE_ID"] {
            command.env_remove(name);
        }
        command.envs(self.vars.iter().copied());
        let agent = Child::spawn(&mut command).expect("cargo built it");
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
        self.far_end.with(|c| c.tally().acknowledged(Signal::Logs, Source(1), request.seqs));
    }

    async fn all_arrives(&self) {
        let arrived =
            self.far_end.until(PATIENCE, |c| c.tally().report().lost() == 0 && c.tally().report().arrived() > 0).await;
        assert!(arrived, "{}\n{}", self.far_end.report(), self.log());
    }

    /// What the far end got, in order: `register`, `heartbeat`, or the signal.
    fn story(&self) -> Vec<String> {
        let told = |seen: &Seen| match (&seen.upload_id, seen.path.as_str()) {
            (_, "/api/v1/agents/register") => "register".to_owned(),
            (_, path) if path.starts_with("/api/") => "heartbeat".to_owned(),
            (Some(id), _) if id.ends_with("/register") => "register".to_owned(),
            (Some(id), _) if id.ends_with("/heartbeat") => "heartbeat".to_owned(),
            (_, path) => path.trim_start_matches("/v1/").to_owned(),
        };
        self.far_end.seen().iter().map(told).collect()
    }

    fn agents(&self) -> Vec<(String, serde_json::Value)> {
        self.far_end
            .with(|c| c.platform().agents().iter().map(|(id, row)| (id.clone(), row.metadata.clone())).collect())
    }

    async fn registered(&self, times: u64) {
        let done = self
            .far_end
            .until(PATIENCE, |c| c.platform().agents().values().map(|row| row.registrations).sum::<u64>() >= times)
            .await;
        assert!(done, "{:?}\n{}", self.story(), self.log());
    }

    async fn metric(&self, name: &str) -> f64 {
        child::metric(self.metrics, name).await.expect("it serves metrics")
    }
}

/// Goal: the configuration of the seed registers by itself, with the metadata of the seed; heartbeats follow; and the numbers
/// of the agent are in it.
#[actix::test]
async fn the_seeds_configuration_registers_by_itself_and_beats() {
    install_client();
    let mut rig = Rig::seed("registration: {interval: 200ms, offline_after: 2s}");
    rig.vars = vec![("AGENT_HOSTNAME", "prod-node-01"), ("AGENT_IP", "10.0.1.15")];
    let agent = rig.start().await;
    rig.registered(1).await;
    rig.send(10).await;
    let beats = |c: &mut Collector| c.platform().agents().values().all(|row| row.heartbeats >= 3);
    assert!(rig.far_end.until(PATIENCE, beats).await, "{:?}\n{}", rig.story(), rig.log());
    let [(id, metadata)] = &rig.agents()[..] else { panic!("one agent: {:?}", rig.agents()) };
    assert!(id.starts_with("tfo-agent-prod-node-01"), "{id}");
    for (key, value) in [
        ("hostname", "prod-node-01"),
        ("ip_address", "10.0.1.15"),
        ("workspace_id", WORKSPACE),
        ("tenant_id", TENANT),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(metadata[key], value, "{metadata:#}");
    }
    assert_eq!(metadata["capabilities"], serde_json::json!(["otlp_http"]));
    let metrics: Vec<&str> =
        metadata["metrics"].as_array().expect("a list").iter().filter_map(|m| m.as_str()).collect();
    for name in
        ["tfo.agent.up", "tfo.agent.uptime", "tfo.agent.backlog.items", "tfo.agent.backlog.bytes", "tfo.agent.link.up"]
    {
        assert!(metrics.contains(&name), "{name}: {metrics:?}");
    }
    rig.all_arrives().await;
    // It is no data: neither the far end's count nor the books know of it.
    assert_eq!(rig.far_end.with(|c| c.counts().items), 10);
    assert_eq!(rig.metric("tfo_agent_items_accepted").await, 10.0);
    let shown = child::metrics(rig.metrics).await.expect("it serves metrics");
    let state = shown.lines().find(|line| line.contains("state=\"registered\"")).expect("it is shown");
    assert!(state.starts_with("tfo_agent_registration{") && state.ends_with(" 1"), "{state}");
    // The id outlives the process.
    agent.kill().expect("our child");
    let agent = rig.start().await;
    rig.registered(2).await;
    assert_eq!(rig.agents().len(), 1, "{:?}", rig.agents());
    assert!(rig.dir.path().join("spool/agent-identity").exists());
    agent.kill().expect("our child");
}

/// Goal: with a backlog from before, and after an outage longer than `offline_after`, a registration arrives before the first
/// batch; data that comes before the platform has marked us waits for none.
#[actix::test]
async fn a_registration_arrives_before_the_first_batch_of_a_backlog() {
    install_client();
    for registration in ["", "registration: {mode: direct, offline_after: 1500ms, interval: 1s}"] {
        let mut rig = Rig::seed(registration);
        // A life that never reaches anybody leaves a backlog.
        rig.far_end.play(Script::new().always(Act::Refuse));
        let agent = rig.start().await;
        for _ in 0..20 {
            rig.send(50).await;
        }
        agent.kill().expect("our child");
        assert_eq!(rig.story(), Vec::<String>::new());
        rig.far_end.play(Script::new());
        tokio::time::sleep(Duration::from_millis(50)).await;
        let agent = rig.start().await;
        rig.all_arrives().await;
        let story = rig.story();
        assert_eq!(story[0], "register", "{registration}: {story:?}");
        assert!(story.contains(&"logs".to_owned()));
        if !registration.is_empty() {
            // The same in one life, by the outage's length; whoever of actor and uplink is first.
            for round in 0..3 {
                rig.registered(round + 1).await;
                rig.far_end.play(Script::new().always(Act::Refuse));
                tokio::time::sleep(Duration::from_millis(100)).await;
                let before = rig.story().len();
                for _ in 0..5 {
                    rig.send(20).await;
                }
                tokio::time::sleep(Duration::from_millis(2_000)).await;
                rig.far_end.play(Script::new());
                rig.all_arrives().await;
                let story = rig.story().split_off(before);
                assert_eq!(story[0], "register", "{story:?}\n{}", rig.log());
            }
        }
        agent.kill().expect("our child");
    }
}

/// Goal: a far end that refuses registrations, or never answers them, gets its data all the same.
#[actix::test]
async fn a_far_end_that_wants_no_registration_gets_its_data() {
    install_client();
    for act in [Act::status(404), Act::status(400), Act::status(503)] {
        let mut rig = Rig::seed("");
        rig.far_end.play(Script::new().for_signal(Signal::Metrics, act.clone()));
        let agent = rig.start().await;
        rig.send(10).await;
        rig.all_arrives().await;
        assert_eq!(rig.agents().len(), 0, "{act:?}");
        agent.kill().expect("our child");
    }
    let mut rig = Rig::seed("registration: {mode: direct}");
    rig.far_end.with(|c| c.platform().fail(Door::Register, 1_000, &Fault::status(401)));
    let agent = rig.start().await;
    rig.send(10).await;
    rig.all_arrives().await;
    let told = || rig.log().contains("platform refuses us");
    assert!(until(PATIENCE, told).await, "{}", rig.log());
    agent.kill().expect("our child");
}

/// Who names no workspace is registered nowhere; whoever names it, in a header or a variable, is; and who says no is not.
#[actix::test]
async fn whoever_names_a_workspace_is_registered_and_nobody_else() {
    install_client();
    let named = format!("x-workspace-id: {WORKSPACE}");
    let by_var = ("TELEMETRYFLOW_WORKSPACE_ID", WORKSPACE);
    for (headers, registration, var, registers) in [
        ("", "", None, false),
        ("X-Workspace-Id: ''", "", None, false),
        (&named[..], "registration: {enabled: false}", None, false),
        (&named[..], "", None, true),
        ("", "", Some(by_var), true),
        ("", "registration:", None, true),
    ] {
        let mut rig = Rig::new(headers, registration);
        rig.vars.extend(var);
        let agent = rig.start().await;
        rig.send(5).await;
        rig.all_arrives().await;
        if registers {
            rig.registered(1).await;
            let header = |seen: &Seen| seen.header("x-workspace-id").unwrap_or_default().to_owned();
            let first = rig.far_end.seen().first().map(header).expect("it registered first");
            let wanted = if headers.is_empty() && var.is_none() { "" } else { WORKSPACE };
            assert_eq!(first, wanted, "{headers} {registration}");
        } else {
            tokio::time::sleep(Duration::from_millis(2_200)).await; // longer than the first one would take
            assert_eq!(rig.agents().len(), 0, "{headers} {registration}");
        }
        assert_eq!(
            rig.metric("tfo_agent_post_up{post=\"registrar\"").await > 0.0,
            registers,
            "{headers} {registration}"
        );
        agent.kill().expect("our child");
    }
}

/// SIGHUP: another id registers anew, the heartbeats of the former end; without a registration nobody speaks any more, and
/// data goes on all the while.
#[actix::test]
async fn a_reload_changes_who_is_registered() {
    install_client();
    let mut rig = Rig::seed("registration: {agent_id: first, interval: 200ms, offline_after: 2s}");
    let agent = rig.start().await;
    rig.registered(1).await;
    let rewrite = |from: &str, to: &str| {
        let path = rig.dir.path().join("agent.yaml");
        let text = std::fs::read_to_string(&path).expect("ours");
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).expect("space");
        rustix::process::kill_process(agent.pid(), rustix::process::Signal::HUP).expect("our child");
    };
    rewrite("agent_id: first", "agent_id: second");
    rig.registered(2).await;
    let beats = |id: &str| rig.far_end.with(|c| c.platform().agents().get(id).map_or(0, |row| row.heartbeats));
    assert!(until(PATIENCE, || beats("second") >= 2).await, "{}", rig.log());
    let of_first = beats("first");
    assert!(until(PATIENCE, || beats("second") >= 5).await, "{}", rig.log());
    assert_eq!(beats("first"), of_first);
    rewrite("registration: {", "registration: {enabled: false, ");
    assert!(until(PATIENCE, || rig.log().matches("configuration is in force").count() == 2).await, "{}", rig.log());
    let of_second = beats("second");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(beats("second"), of_second);
    assert_eq!(rig.metric("tfo_agent_registration").await, 0.0);
    rig.send(10).await;
    rig.all_arrives().await;
    agent.kill().expect("our child");
}

/// An `otlp` exporter registers over gRPC, with the same header and the same metadata.
#[actix::test]
async fn an_exporter_of_grpc_registers_too() {
    install_client();
    let mut rig = Rig::seed("registration: {interval: 200ms, offline_after: 2s}");
    let path = rig.dir.path().join("agent.yaml");
    let text = std::fs::read_to_string(&path).expect("ours");
    let endpoint = rig.far_end.endpoint();
    let text = text.replace("  otlphttp:\n", "  otlp:\n    tls: {insecure: true}\n").replace("[otlphttp]", "[otlp]");
    std::fs::write(&path, text.replace(&endpoint, endpoint.trim_start_matches("http://"))).expect("space");
    let agent = rig.start().await;
    rig.registered(1).await;
    rig.send(10).await;
    rig.all_arrives().await;
    let beats = |c: &mut Collector| c.platform().agents().values().any(|row| row.heartbeats >= 2);
    assert!(rig.far_end.until(PATIENCE, beats).await, "{:?}\n{}", rig.story(), rig.log());
    assert_eq!(rig.agents()[0].1["workspace_id"], WORKSPACE);
    assert_eq!(rig.story()[0], "register");
    agent.kill().expect("our child");
}

/// A card that was written on another machine: the agent on this one is another agent, and says whose card it was; one whose id an
/// operator wrote stays what he wrote, and the board says that there are two.
#[actix::test]
async fn a_copied_image_is_another_agent() {
    install_client();
    let has_id = std::fs::read_to_string("/etc/machine-id").is_ok_and(|id| !id.trim().is_empty());
    for (section, id, shared) in [("", None, false), ("registration: {agent_id: elsewhere}", Some("elsewhere"), true)] {
        let rig = Rig::seed(section);
        let spool = rig.dir.path().join("spool");
        std::fs::create_dir_all(&spool).expect("space");
        let machine = Some("0123456789abcdef".to_owned());
        let kept = Record { agent_id: "elsewhere".to_owned(), origin: Origin::Derived, machine };
        kept.keep(&spool.join("agent-identity")).expect("space");
        let agent = rig.start().await;
        rig.registered(1).await;
        let [(now, _)] = &rig.agents()[..] else { panic!("one agent: {:?}", rig.agents()) };
        if has_id {
            assert_eq!(
                (now == "elsewhere", rig.log().contains("image was copied")),
                (id.is_some(), true),
                "{}",
                rig.log()
            );
            assert_eq!(rig.metric("tfo_agent_identity_copied").await, 1.0);
            let two = "tfo_agent_degraded{component=\"registration/identity\"";
            assert_eq!(rig.metric(two).await, f64::from(u8::from(shared)));
        } else {
            assert_eq!(now, "elsewhere", "nobody knows of another machine");
        }
        agent.kill().expect("our child");
        // What lies beside the segments is none of the spool's business.
        let seen = Command::new(AGENT).args(["spool", "verify"]).arg(&spool).output().expect("it runs");
        assert!(seen.status.success(), "{seen:?}");
    }
}

/// Goal: a wrong `identity_file` costs nobody's file: the agent registers under the id it derives, the same at each start, and says
/// whose file it left alone.
#[actix::test]
async fn a_file_that_is_no_identity_is_left_alone() {
    install_client();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("precious");
    std::fs::write(&file, "root:x:0:0\n").expect("space");
    let rig = Rig::seed(&format!("registration: {{identity_file: '{}', interval: 200ms}}", file.display()));
    for lives in 1..=2 {
        let agent = rig.start().await;
        rig.registered(lives).await;
        let beats = |c: &mut Collector| c.platform().agents().values().all(|row| row.heartbeats > 0);
        assert!(rig.far_end.until(PATIENCE, beats).await, "{}", rig.log());
        agent.kill().expect("our child");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "root:x:0:0\n");
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 1, "nothing lies beside it");
    let told = rig.log().lines().any(|line| line.contains("identity is not kept") && line.contains("precious"));
    assert!(told, "{}", rig.log());
    if std::fs::read_to_string("/etc/machine-id").is_ok_and(|id| !id.trim().is_empty()) {
        assert_eq!(rig.agents().len(), 1, "{:?}", rig.agents());
    }
}

/// Goal: a platform that asks for it has the backlog come slowly, and as fast as it can when it no longer asks.
/// Method: 300 KiB wait until they are a backlog, in uploads of 20 KiB, and the platform allows 64 KiB a second.
#[actix::test]
async fn a_platform_slows_a_backlog_down() {
    const RATE: u64 = 64 << 10;
    install_client();
    let mut rig = Rig::seed("registration: {mode: direct, interval: 200ms, offline_after: 1m}");
    let path = rig.dir.path().join("agent.yaml");
    let text = std::fs::read_to_string(&path).expect("ours");
    let text = text.replace("{timeout: 20ms}", "{timeout: 20ms, send_batch_size: 50, send_batch_max_size: 50}");
    std::fs::write(&path, text.replace("    headers:", "    compression: none\n    headers:")).expect("space");
    rig.far_end.with(|c| c.platform().order(serde_json::json!({"drain_rate": RATE})));
    rig.far_end.play(Script::new().for_signal(Signal::Logs, Act::status(503)));
    let agent = rig.start().await;
    rig.registered(1).await;
    for _ in 0..16 {
        rig.send(50).await;
    }
    tokio::time::sleep(Duration::from_secs(6)).await; // from then on it is a backlog
    assert_eq!(rig.metric("tfo_agent_registration_drain_rate").await, RATE as f64);
    let before = rig.far_end.with(|c| c.counts().raw_bytes);
    rig.far_end.play(Script::new());
    assert!(rig.far_end.until(PATIENCE, |c| c.counts().items > 0).await);
    let begin = Instant::now();
    rig.all_arrives().await;
    let bytes = rig.far_end.with(|c| c.counts().raw_bytes) - before;
    // The first second's worth is there at once, and the last upload may be larger than what is left.
    let least = (bytes.saturating_sub(RATE + (32 << 10))) as f64 / RATE as f64;
    let took = begin.elapsed().as_secs_f64();
    assert!(bytes > 3 * RATE && took >= least, "{bytes} bytes in {took} s, at least {least}");
    println!("{bytes} bytes took {took:.2} s at {RATE} bytes a second; at least {least:.2}");
    rig.far_end.with(|c| c.platform().order(serde_json::Value::Null));
    let lifted = || rig.log().matches("platform sets how fast the backlog may leave").count() == 2;
    assert!(until(PATIENCE, lifted).await, "{}", rig.log());
    agent.kill().expect("our child");
}
