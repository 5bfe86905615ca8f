//! The shipped configurations: they load, they say exactly what they say, and the reference holds every key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use tfo_otel_agent::app::plan::{
    self, Config, ExporterConfig, ExtensionConfig, Outcome, ProcessorConfig, ReceiverConfig,
};
use tfo_otel_agent::app::registration;
use tfo_otel_agent::base::Bytes;
use tfo_otel_agent::config::problems::{Problems, Severity};
use tfo_otel_agent::config::tree::{Node, Value};
use tfo_otel_agent::config::{Any, Id, Imagined, Listen, Locations, Secret, load};
use tfo_otel_agent::extensions::file_storage::config::{CompactionConfig, FileStorageConfig};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::processors::attributes::action::{Action, Source};
use tfo_otel_agent::processors::batch::config::BatchConfig;
use tfo_otel_agent::processors::memory_limiter::config::{Limit, MemoryLimiterConfig};
use tfo_otel_agent::receivers::otlp::config::{GrpcConfig, HttpConfig, OtlpReceiverConfig};
use tfo_otel_agent::receivers::own::config::OwnConfig;
use tfo_otel_agent::registrar::config::RegistrationConfig;
use tfo_otel_agent::telemetry::config::TelemetryConfig;
use tfo_otel_agent::uplink::budget::LinkBudget;
use tfo_otel_agent::uplink::config::{
    DebugConfig, OtlpGrpcConfig, OtlpHttpConfig, Place, Protocol, QueueConfig, ResolverConfig, RetryConfig,
};

/// What the seed's installation instructions set.
const SEED_VARS: [(&str, &str); 5] = [
    ("TELEMETRYFLOW_ENDPOINT", "http://tfo-collector:4318"),
    ("TELEMETRYFLOW_WORKSPACE_ID", "550e8400-e29b-41d4-a716-446655440000"),
    ("TELEMETRYFLOW_TENANT_ID", TENANT),
    ("HOSTNAME", "prod-node-01"),
    ("HOST_IP", "10.0.1.15"),
];
const TENANT: &str = "660e8400-e29b-41d4-a716-446655440001";
const QUEUE: &str = "/var/lib/otel-agent/queue";

fn machine(name: &str, vars: &[(&str, &str)], dirs: &[&str]) -> (Locations, Imagined) {
    let path = format!("configs/{name}.yaml");
    let text = std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect("it is shipped");
    let host = Imagined {
        files: BTreeMap::from([(path.clone(), text)]),
        dirs: dirs.iter().map(|d| (*d).to_owned()).collect(),
        name: Some("gw-7".to_owned()),
        ip: Some("10.1.2.3".to_owned()),
        ..Imagined::with(vars)
    };
    (Locations::of(&path), host)
}

fn read(name: &str, vars: &[(&str, &str)], dirs: &[&str]) -> Outcome {
    let (locations, host) = machine(name, vars, dirs);
    plan::read(&locations, &host)
}

fn id(text: &str) -> Id {
    Id::parse(text).expect("the test writes ids")
}

fn ids(texts: &[&str]) -> Vec<Id> {
    texts.iter().map(|t| id(t)).collect()
}

/// `signal: receivers → processors → exporters`, in the order of the file.
fn pipelines(config: &Config) -> Vec<String> {
    let list = |ids: &[Id]| ids.iter().map(Id::to_string).collect::<Vec<_>>().join(" ");
    let show = |p: &plan::PipelineConfig| {
        format!("{p}: {} → {} → {}", list(&p.receivers), list(&p.processors), list(&p.exporters))
    };
    config.service.pipelines.iter().map(show).collect()
}

fn exporter(config: &Config) -> &OtlpHttpConfig {
    match config.exporters.get(&id("otlphttp")) {
        Some(ExporterConfig::OtlpHttp(exporter)) => exporter,
        other => panic!("otlphttp is {other:?}"),
    }
}

fn upsert(key: &str, value: &str) -> Action {
    Action::Upsert { key: key.to_owned(), from: Source::Value(Any::Text(value.to_owned())) }
}

#[test]
fn the_minimal_configuration_runs_without_a_word() {
    let outcome = read("minimal", &SEED_VARS, &[]);
    assert_eq!(outcome.report.to_string(), "");
    let config = outcome.config.expect("nothing is wrong");
    assert_eq!(
        pipelines(&config),
        [
            "metrics: otlp → memory_limiter attributes batch → otlphttp",
            "logs: otlp → memory_limiter attributes batch → otlphttp",
            "traces: otlp → memory_limiter attributes batch → otlphttp",
        ]
    );
    assert_eq!(config.service.extensions, ids(&["health_check"]));
    let sent = exporter(&config);
    assert_eq!(sent.url(Signal::Logs).as_deref(), Some("http://tfo-collector:4318/v1/logs"));
    // otlphttp alone would queue in memory: no storage is written.
    assert_eq!(sent.sending_queue, QueueConfig::default());
    assert_eq!(sent.retry_on_failure, RetryConfig::default());
    // Nothing is said of registration, and the platform is named: it registers.
    assert_eq!(config.registration, RegistrationConfig::default());
    assert!(registration::plan(&config, &|_| None).expect("it can").is_some());
}

/// The seed's placeholders start, and so does a tenant that is a number; a platform that asks for UUIDs would not find either.
/// The tenant is text: 0.88 would send 83 (reference §0).
#[test]
fn ids_that_are_no_uuids_are_told_with_their_variables_and_sent_as_they_are() {
    let vars = [
        ("TELEMETRYFLOW_ENDPOINT", "http://c"),
        ("TELEMETRYFLOW_WORKSPACE_ID", "your-workspace-id"),
        ("TELEMETRYFLOW_TENANT_ID", "0123"),
    ];
    let outcome = read("minimal", &vars, &[]);
    let expected = "\
configs/minimal.yaml: 2 warnings
  31:23  exporters.otlphttp.headers.X-Workspace-Id  warning: is no UUID (from the variable `TELEMETRYFLOW_WORKSPACE_ID`); a platform that asks for one will not register this agent
  32:20  exporters.otlphttp.headers.X-Tenant-Id     warning: is no UUID (from the variable `TELEMETRYFLOW_TENANT_ID`); a platform that asks for one will not register this agent
";
    assert_eq!(outcome.report.to_string(), expected);
    let config = outcome.config.expect("it starts");
    let tenant = ("X-Tenant-Id".to_owned(), Secret::new("0123"));
    assert!(exporter(&config).headers.contains(&tenant), "{:?}", exporter(&config).headers);
    let Some(ProcessorConfig::Attributes(attributes)) = config.processors.get(&id("attributes")) else {
        panic!("attributes is there")
    };
    assert_eq!(attributes.actions[1], upsert("telemetryflow.tenant.id", "0123"));
}

/// Who writes that he wants to register is told when that cannot be; who does not is not.
#[test]
#[rustfmt::skip]
fn a_registration_that_cannot_be_is_told_with_its_path() {
    for (section, path) in [
        ("exporter: otlphttp/b",              "registration.exporter"),
        ("mode: direct, exporter: otlp",      "registration.mode"),
        ("exporter: otlphttp/logs",           "registration.exporter"), // no place for metrics
        ("mode: direct, exporter: otlphttp/logs", "registration.endpoint"),
    ] {
        let of = |section: &str| format!(
            "yaml:{{receivers: {{otlp: {{protocols: {{grpc: {{}}}}}}}}, \
              exporters: {{otlp: {{endpoint: 'c:4317'}}, otlphttp/logs: {{logs_endpoint: 'http://c/v1/logs', headers: {{x-workspace-id: {TENANT}}}}}}}, \
              {section}service: {{pipelines: {{logs: {{receivers: [otlp], exporters: [otlp, otlphttp/logs]}}}}}}}}"
        );
        let outcome = plan::read(&Locations::of(&of(&format!("registration: {{{section}}}, "))), &Imagined::with(&[]));
        let errors: Vec<_> = outcome.report.problems().iter().filter(|p| p.severity == Severity::Error).map(|p| p.path.clone()).collect();
        assert_eq!(errors, [path], "{section}: {}", outcome.report);
        let outcome = plan::read(&Locations::of(&of("")), &Imagined::with(&[]));
        assert!(outcome.config.is_some(), "{}", outcome.report);
    }
}

#[test]
fn the_production_configuration_runs_and_tells_of_one_key() {
    let outcome = read("production", &SEED_VARS, &[QUEUE]);
    let expected = "\
configs/production.yaml: 1 warning
  69:7  extensions.file_storage.compaction.directory  warning: has no effect: copies are made inside the storage's own directory, so that they need no second filesystem
";
    assert_eq!(outcome.report.to_string(), expected);
    let config = outcome.config.expect("nothing is wrong");
    let all = "memory_limiter resource attributes batch";
    assert_eq!(
        pipelines(&config),
        [
            format!("metrics: otlp → {all} → otlphttp"),
            format!("logs: otlp → {all} → otlphttp"),
            format!("traces: otlp → {all} → otlphttp")
        ]
    );
    let batch = BatchConfig {
        timeout: Duration::from_secs(10),
        send_batch_size: 512,
        send_batch_max_size: 1_024,
        ..BatchConfig::default()
    };
    let limiter = MemoryLimiterConfig {
        check_interval: Duration::from_secs(1),
        limit: Limit::Fixed { limit: Bytes::mib(256), spike: Bytes::mib(64) },
        refuse_first_below: None,
    };
    assert_eq!(config.processors.get(&id("batch")), Some(&ProcessorConfig::Batch(batch)));
    assert_eq!(config.processors.get(&id("memory_limiter")), Some(&ProcessorConfig::MemoryLimiter(limiter)));
    let Some(ProcessorConfig::Resource(resource)) = config.processors.get(&id("resource")) else {
        panic!("resource is there")
    };
    assert_eq!(resource.actions, [upsert("host.name", "prod-node-01"), upsert("host.ip", "10.0.1.15")]);
    let queue = QueueConfig { queue_size: 5_000, storage: Some(id("file_storage")), ..QueueConfig::default() };
    assert_eq!(exporter(&config).sending_queue, queue);
    assert_eq!(exporter(&config).retry_on_failure, RetryConfig::default());
    let storage = FileStorageConfig {
        directory: PathBuf::from(QUEUE),
        timeout: Duration::from_secs(10),
        compaction: CompactionConfig { on_start: true, on_rebound: true, ..CompactionConfig::default() },
        ..FileStorageConfig::default()
    };
    assert_eq!(config.extensions.get(&id("file_storage")), Some(&ExtensionConfig::FileStorage(storage)));
}

/// The seed's "Low-Resource Environments", made whole: with storage, and a disk that is spared.
#[test]
fn the_low_resource_configuration_is_clean_and_spares_its_disk() {
    let outcome = read("low-resource", &SEED_VARS, &["/var/lib/otel-agent/queue"]);
    assert_eq!(outcome.report.to_string(), "");
    let config = outcome.config.expect("nothing is wrong");
    let limit = Limit::Fixed { limit: Bytes::mib(64), spike: Bytes::mib(16) };
    let limiter = MemoryLimiterConfig { check_interval: Duration::from_secs(1), limit, refuse_first_below: None };
    assert_eq!(config.processors.get(&id("memory_limiter")), Some(&ProcessorConfig::MemoryLimiter(limiter)));
    let Some(ExtensionConfig::FileStorage(storage)) = config.extensions.get(&id("file_storage")) else {
        panic!("it has one")
    };
    assert_eq!((storage.commit_interval, storage.max_size), (Duration::from_secs(1), Some(Bytes::mib(256))));
}

/// Reference §0: 0.88 refuses this block three times over; here each slip is one warning.
#[test]
fn the_edge_gateway_configuration_runs_and_tells_what_it_left_open() {
    let outcome = read("edge-gateway", &SEED_VARS, &[]);
    let expected = "\
configs/edge-gateway.yaml: 3 warnings
  15:5   processors.memory_limiter.check_interval  warning: check_interval is not given (otelcol refuses that); 1s is assumed
  35:16  extensions.file_storage.directory         warning: `/var/lib/otel-agent/queue` is not there; it will be created (0700)
  47:16  service.extensions                        warning: `health_check` is not defined under extensions; it is taken with its defaults, at 0.0.0.0:13133
";
    assert_eq!(outcome.report.to_string(), expected);
    let config = outcome.config.expect("nothing is wrong");
    assert_eq!(pipelines(&config), ["metrics: otlp → memory_limiter batch → otlphttp"]);
    assert_eq!(config.service.extensions, ids(&["health_check", "file_storage"]));
    let health = ExtensionConfig::HealthCheck(Box::default());
    assert_eq!(config.extensions.get(&id("health_check")), Some(&health));
    let retry = RetryConfig {
        initial_interval: Duration::from_secs(10),
        reconnect_spread: Duration::from_secs(10),
        max_interval: Duration::from_secs(300),
        max_elapsed_time: Some(Duration::from_secs(3_600)),
        ..RetryConfig::default()
    };
    assert_eq!(exporter(&config).retry_on_failure, retry);
    assert_eq!(exporter(&config).timeout, Some(Duration::from_secs(60)));
    let limiter = MemoryLimiterConfig {
        check_interval: Duration::from_secs(1),
        limit: Limit::Fixed { limit: Bytes::mib(512), spike: Bytes(Bytes::mib(512).0 / 5) },
        refuse_first_below: None,
    };
    assert_eq!(config.processors.get(&id("memory_limiter")), Some(&ProcessorConfig::MemoryLimiter(limiter)));
}

#[test]
fn without_its_variables_the_production_configuration_tells_each_of_them() {
    let outcome = read("production", &[], &[QUEUE]);
    let expected = "\
configs/production.yaml: 1 problem, 7 warnings
  24:16  processors.resource.attributes[0].value       warning: the variable `HOSTNAME` is not set; the machine's name is taken: `gw-7`
  27:16  processors.resource.attributes[1].value       warning: the variable `HOST_IP` is not set; the address packets leave from is taken: `10.1.2.3`
  33:16  processors.attributes.actions[0].value        warning: the variable `TELEMETRYFLOW_WORKSPACE_ID` is not set; the action is left out
  36:16  processors.attributes.actions[1].value        warning: the variable `TELEMETRYFLOW_TENANT_ID` is not set; the action is left out
  44:15  exporters.otlphttp.endpoint                   the variable `TELEMETRYFLOW_ENDPOINT` is not set; without it there is no endpoint
  46:23  exporters.otlphttp.headers.X-Workspace-Id     warning: the variable `TELEMETRYFLOW_WORKSPACE_ID` is not set; it is read as empty
  47:20  exporters.otlphttp.headers.X-Tenant-Id        warning: the variable `TELEMETRYFLOW_TENANT_ID` is not set; it is read as empty
  69:7   extensions.file_storage.compaction.directory  warning: has no effect: copies are made inside the storage's own directory, so that they need no second filesystem
";
    assert_eq!(outcome.report.to_string(), expected);
    assert_eq!(outcome.config, None);
}

#[test]
fn an_action_whose_variable_is_not_set_is_left_out_and_the_others_stay() {
    let vars = [("TELEMETRYFLOW_ENDPOINT", "http://c"), ("AGENT_IP", "192.0.2.7"), ("AGENT_HOSTNAME", "edge-1")];
    let config = read("production", &vars, &[QUEUE]).config.expect("there are only warnings");
    let Some(ProcessorConfig::Attributes(attributes)) = config.processors.get(&id("attributes")) else {
        panic!("attributes is there")
    };
    assert_eq!(attributes.actions, [upsert("agent.version", "1.0.0-CE")]);
    let Some(ProcessorConfig::Resource(resource)) = config.processors.get(&id("resource")) else {
        panic!("resource is there")
    };
    assert_eq!(resource.actions, [upsert("host.name", "edge-1"), upsert("host.ip", "192.0.2.7")]);
}

/// The seed's snippets are laid over a whole configuration, as its readers do.
#[test]
#[rustfmt::skip]
fn the_seeds_snippets_run_on_top_of_a_whole_configuration() {
    let low = "yaml:{processors: {batch: {timeout: 15s, send_batch_size: 256}, memory_limiter: {limit_mib: 64, spike_limit_mib: 16}}, \
               exporters: {otlphttp: {compression: gzip, sending_queue: {queue_size: 1000}}}, \
               resources: {requests: {memory: 64Mi, cpu: 50m}, limits: {memory: 128Mi, cpu: 200m}}}";
    let debug = "yaml:{service: {telemetry: {logs: {level: debug, development: true, encoding: json, output_paths: [stdout, /var/log/otel-agent/agent.log]}}}}";
    let logging = "yaml:{exporters: {logging: {loglevel: info}}, service: {pipelines: {logs: {exporters: [otlphttp, logging]}}}}";
    let balanced = "yaml:{exporters: {loadbalancing: {protocol: {otlp: {endpoint: dummy}}, resolver: {static: {hostnames: \
                    [tfo-collector-1.example.com:4318, tfo-collector-2.example.com:4318, tfo-collector-3.example.com:4318]}}}}, \
                    service: {pipelines: {logs: {exporters: [loadbalancing]}}}}";
    for (snippet, expected) in [
        (balanced, "1:98  exporters.loadbalancing.resolver.static.hostnames  warning: has the port 4318, where OTLP/HTTP is served, and protocol.otlp speaks gRPC over TLS, as in otelcol, which finds nobody to talk to there; give 4317, or write protocol.otlphttp in the place of protocol.otlp (with tls.insecure: true for http://)"),
        (low,     "1:194  resources  warning: has no effect: it belongs to the Kubernetes manifest of the pod, not to the agent"),
        (debug,   "1:58  service.telemetry.logs.development  warning: true has no effect: in otelcol it adds stack traces to warnings, and no line here has one"),
        (logging, "1:34  exporters.logging.loglevel  warning: is the old name; taken as verbosity: normal"),
    ] {
        let (mut locations, host) = machine("minimal", &SEED_VARS, &["/var/log/otel-agent"]);
        locations.configs.push(snippet.to_owned());
        let outcome = plan::read(&locations, &host);
        let told = outcome.report.to_string();
        let told: Vec<_> = told.lines().skip(1).map(str::trim).collect();
        assert_eq!((told.join("\n"), outcome.config.is_some()), (expected.to_owned(), true), "{snippet}");
    }
}

#[test]
fn the_reference_loads_without_a_word_and_holds_the_defaults() {
    let outcome = read("reference", &[], &["/var/lib/otelcol/file_storage"]);
    assert_eq!(outcome.report.to_string(), "");
    let config = outcome.config.expect("nothing is wrong");
    let otlp = OtlpReceiverConfig { grpc: Some(GrpcConfig::default()), http: Some(HttpConfig::default()) };
    let own = ReceiverConfig::Own(OwnConfig::default());
    assert_eq!(
        config.receivers,
        BTreeMap::from([(id("otlp"), ReceiverConfig::Otlp(Box::new(otlp))), (id("self"), own)])
    );
    assert_eq!(config.processors.get(&id("batch")), Some(&ProcessorConfig::Batch(BatchConfig::default())));
    let slow = LinkBudget { rate: Some(512 << 10), shares: [0.0, 0.3, 0.2], ..LinkBudget::default() };
    let sent = OtlpHttpConfig {
        // What has no default is an example.
        link_budget: Some(LinkBudget {
            per_day: Some(100_000_000),
            per_month: Some(2_000_000_000),
            shed: vec![Signal::Traces, Signal::Logs],
            ..slow.clone()
        }),
        endpoint: Some("https://collector.example.com:4318".to_owned()),
        headers: vec![("X-Tenant-Id".to_owned(), Secret::new(TENANT))],
        sending_queue: QueueConfig { storage: Some(id("file_storage")), ..QueueConfig::default() },
        ..OtlpHttpConfig::default()
    };
    assert_eq!(config.exporters.get(&id("otlphttp")), Some(&ExporterConfig::OtlpHttp(Box::new(sent))));
    let sent = OtlpGrpcConfig {
        endpoint: Some(Place::Net { host: "collector.example.com".to_owned(), port: 4317 }),
        headers: vec![("x-tenant-id".to_owned(), Secret::new("0123"))],
        link_budget: Some(slow.clone()),
        ..OtlpGrpcConfig::default()
    };
    assert_eq!(config.exporters.get(&id("otlp")), Some(&ExporterConfig::OtlpGrpc(Box::new(sent))));
    for (balancing, key, port) in [("loadbalancing", "otlp", 4_317), ("loadbalancing/http", "otlphttp", 4_318)] {
        let Some(ExporterConfig::LoadBalancing(sent)) = config.exporters.get(&id(balancing)) else {
            panic!("{balancing} is there")
        };
        let protocol = match key {
            "otlp" => Protocol::Grpc(OtlpGrpcConfig { link_budget: Some(slow.clone()), ..OtlpGrpcConfig::default() }),
            _ => Protocol::Http(OtlpHttpConfig { link_budget: Some(slow.clone()), ..OtlpHttpConfig::default() }),
        };
        let resolver = match key {
            "otlp" => ResolverConfig::Static {
                hostnames: [1, 2].map(|n| format!("collector-{n}.example.com:{port}")).to_vec(),
            },
            _ => ResolverConfig::Dns {
                hostname: "collectors.example.com".to_owned(),
                port,
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(1),
            },
        };
        assert_eq!((&sent.protocol, &sent.resolver, sent.routing_key), (&protocol, &resolver, None));
    }
    for debug in ["logging", "debug"] {
        assert_eq!(config.exporters.get(&id(debug)), Some(&ExporterConfig::Debug(DebugConfig::default())));
    }
    let health = ExtensionConfig::HealthCheck(Box::default());
    assert_eq!(config.extensions.get(&id("health_check")), Some(&health));
    let storage = ExtensionConfig::FileStorage(FileStorageConfig::default());
    assert_eq!(config.extensions.get(&id("file_storage")), Some(&storage));
    let registration =
        RegistrationConfig { enabled: Some(true), exporter: Some(id("otlphttp")), ..RegistrationConfig::default() };
    assert_eq!(config.registration, registration);
    assert_eq!(config.service.telemetry, TelemetryConfig::default());
    assert_eq!(config.service.telemetry.metrics.address, Listen::new("", 8_888));
}

/// The README holds the reference of every key: `configs/reference.yaml`, whose completeness the test above shows.
/// `TFO_WRITE=1` writes it anew.
#[test]
fn the_readme_holds_the_reference() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("it is shipped");
    let reference = std::fs::read_to_string(root.join("configs/reference.yaml")).expect("it is shipped");
    let (begin, end) = ("<!-- reference: begin -->\n", "<!-- reference: end -->");
    let (before, rest) = readme.split_once(begin).expect("the README has a place for it");
    let (held, after) = rest.split_once(end).expect("which ends");
    let wanted = format!("```yaml\n{reference}```\n");
    if std::env::var_os("TFO_WRITE").is_some() {
        std::fs::write(root.join("README.md"), format!("{before}{begin}{wanted}{end}{after}")).expect("space");
    } else {
        assert!(held == wanted, "`TFO_WRITE=1 cargo test --test config_golden` brings the README up to date");
    }
}

/// What `print-config` prints is the same configuration but for headers and credentials, which nobody shall see.
#[test]
fn what_is_printed_is_the_configuration_that_was_read() {
    for name in ["minimal", "production", "edge-gateway", "low-resource", "reference"] {
        let outcome = read(name, &SEED_VARS, &[QUEUE]);
        let (mut before, text) = (outcome.config.expect(name), outcome.effective);
        assert!(!text.contains("${"), "{text}");
        let text = text.replace("inline: \"[REDACTED]\"", "inline: name:word"); // what is masked is no list of names
        let again = plan::read(&Locations::of(&format!("yaml:{text}")), &Imagined::with(&[]));
        let mut after = again.config.unwrap_or_else(|| panic!("{name}: {}\n{text}", again.report));
        for config in [&mut before, &mut after] {
            config
                .extensions
                .retain(|id, _| !["auth", "headers_setter"].iter().any(|secret| id.kind().contains(secret))); // nothing but secrets
            for exporter in config.exporters.values_mut() {
                let headers = match exporter {
                    ExporterConfig::OtlpHttp(exporter) => &mut exporter.headers,
                    ExporterConfig::OtlpGrpc(exporter) => &mut exporter.headers,
                    ExporterConfig::LoadBalancing(exporter) => exporter.protocol.headers_mut(),
                    ExporterConfig::Debug(_) => continue,
                };
                headers.iter_mut().for_each(|(_, value)| *value = Secret::new(""));
            }
        }
        assert_eq!(before, after, "{name}:\n{text}");
    }
}

/// Every key the readers ask for stands in the reference; that nothing else stands there, the test above shows.
#[test]
fn every_key_stands_in_the_reference() {
    let (locations, host) = machine("reference", &[], &[]);
    let asked = plan::read(&locations, &host).asked;
    let root = load(&locations, &host, &Problems::new()).expect("it is YAML");
    let mut written = BTreeSet::new();
    collect(&root, "", 0, &mut written);
    let missing: Vec<_> = asked.iter().filter(|key| !written.contains(key.trim_end_matches(".*"))).collect();
    assert!(missing.is_empty(), "these keys are read and do not stand in configs/reference.yaml: {missing:#?}");
    assert!(asked.len() > 150, "only {} keys were asked for", asked.len());
}

/// The keys of a tree as `Reading::asked` notes them: types for ids, `*` for pipelines, `[]` for items.
fn collect(node: &Node, path: &str, depth: usize, into: &mut BTreeSet<String>) {
    match &node.value {
        Value::Scalar(_) => {}
        Value::Seq(items) => items.iter().for_each(|item| collect(item, &format!("{path}[]"), depth + 1, into)),
        Value::Map(entries) => {
            for entry in entries {
                let key = match (depth, path) {
                    (1, "receivers" | "processors" | "exporters" | "extensions") => entry.key.split('/').next(),
                    (2, "service.pipelines") => Some("*"),
                    _ => None,
                };
                let key = key.unwrap_or(&entry.key);
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                collect(&entry.value, &path, depth + 1, into);
                into.insert(path);
            }
        }
    }
}
