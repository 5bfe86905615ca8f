//! Where what was taken goes.

use super::answers::{client, field, logs};
use super::rig::{PATIENCE, PROTOBUF, Rig, read, yaml};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tfo_otel_agent::app::plan::Config;
use tfo_otel_agent::config::{Imagined, Locations};
use tfo_otel_agent::otlp::{Signal, Status};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::until;
use tfo_otel_agent::testing::{Numbered, Source};
use tonic::{Code, IntoRequest as _};

const TELEMETRY: &str = "telemetry: {metrics: {address: '127.0.0.1:0'}}";

async fn accepted(rig: &Rig, signal: Signal, body: Vec<u8>) -> bool {
    rig.post(&format!("/v1/{signal}"), &[("content-type", PROTOBUF)], body).await.status().as_u16() == 200
}

#[actix::test]
async fn a_receiver_in_two_pipelines_feeds_both_with_one_request() {
    let rig = Rig::start(|endpoint, dir| {
        yaml(&format!(
            "exporters: {{otlphttp: {{endpoint: '{endpoint}', sending_queue: {{storage: file_storage}}}}}}, \
             extensions: {{file_storage: {{directory: '{}'}}}}, \
             service: {{extensions: [file_storage], {TELEMETRY}, pipelines: {{\
               logs: {{receivers: [otlp], exporters: [otlphttp]}}, logs/audit: {{receivers: [otlp], exporters: [otlphttp]}}}}}}",
            dir.join("queue").display()
        ))
    })
    .await;
    let request = Numbered::new(Signal::Logs, Source(1)).request(6);
    assert!(accepted(&rig, Signal::Logs, request.bytes).await);
    let lanes: BTreeMap<String, u64> = rig.books().into_iter().map(|b| (b.lane, b.accepted)).collect();
    assert_eq!(lanes, BTreeMap::from([("logs".to_owned(), 6), ("logs/audit".to_owned(), 6)]));
    assert!(rig.far_end.until(PATIENCE, |c| c.counts().items == 12).await, "{:?}", rig.books());
    assert_eq!(rig.number("otelcol_receiver_accepted_log_records", &[]).await, 6.0);
}

/// Processors act in the order of the pipeline, each on what the one before it left; what they drop is in the numbers and
/// in no lane.
#[actix::test]
async fn what_is_filtered_and_sampled_away_is_counted_and_goes_nowhere() {
    let rig = Rig::start(|endpoint, dir| {
        yaml(&format!(
            "processors: {{\
               attributes: {{actions: [{{key: level, value: high, action: insert}}], \
                             include: {{match_type: strict, log_severity_number: {{min: 17}}}}}}, \
               filter/debug: {{logs: {{include: {{severity_number: {{min: INFO}}}}}}}}, \
               filter/low: {{logs: {{include: {{match_type: strict, record_attributes: [{{key: level, value: high}}]}}}}}}, \
               probabilistic_sampler: {{sampling_percentage: 100}}}}, \
             exporters: {{otlphttp: {{endpoint: '{endpoint}', sending_queue: {{storage: file_storage}}}}}}, \
             extensions: {{file_storage: {{directory: '{}'}}}}, \
             service: {{extensions: [file_storage], {TELEMETRY}, pipelines: {{logs: {{receivers: [otlp], \
               processors: [filter/debug, attributes, filter/low, probabilistic_sampler], exporters: [otlphttp]}}}}}}",
            dir.join("queue").display()
        ))
    })
    .await;
    let records = |severities: &[u8]| {
        let record = |severity: &u8| field(2, &[0x10, *severity]);
        field(1, &field(2, &severities.iter().flat_map(record).collect::<Vec<u8>>()))
    };
    assert!(accepted(&rig, Signal::Logs, records(&[5, 9, 17, 1, 21])).await);
    assert!(accepted(&rig, Signal::Logs, records(&[5])).await, "of this one nothing is left");
    let kept: u64 = rig.books().iter().map(|b| b.accepted).sum();
    assert_eq!(kept, 2);
    assert!(rig.far_end.until(PATIENCE, |c| c.counts().items == 2).await, "{:?}", rig.books());
    assert_eq!(rig.number("otelcol_receiver_accepted_log_records", &[]).await, 6.0);
    for (processor, kept, dropped) in
        [("filter/debug", 3.0, 3.0), ("filter/low", 2.0, 1.0), ("probabilistic_sampler", 2.0, 0.0)]
    {
        let labels = [&*format!("processor=\"{processor}\"")];
        assert_eq!(rig.number("otelcol_processor_accepted_log_records", &labels).await, kept, "{processor}");
        assert_eq!(rig.number("otelcol_processor_dropped_log_records", &labels).await, dropped, "{processor}");
    }
    let sampled = "otelcol_processor_probabilistic_sampler_count_logs_sampled";
    assert_eq!(rig.number(sampled, &["policy=\"always_sampling\"", "sampled=\"true\""]).await, 2.0);
}

/// One megabyte that lz4 cannot shrink, as the body of one log record.
fn incompressible(seed: u64) -> Vec<u8> {
    let mut dice = tfo_otel_agent::base::Dice::seeded(seed);
    let noise: Vec<u8> = (0..1 << 17).flat_map(|_| dice.u64().to_le_bytes()).collect();
    field(1, &field(2, &field(2, &field(5, &field(7, &noise)))))
}

/// Two exporters to a far end that is silent; `memory`'s has a storage or not. The memory store holds 8 MiB.
fn beside(endpoint: &str, dir: &Path, exporters: &str) -> Config {
    yaml(&format!(
        "processors: {{memory_limiter: {{limit_mib: 32, check_interval: 1s}}}}, \
         exporters: {{otlphttp/disk: {{endpoint: '{endpoint}', sending_queue: {{storage: file_storage}}}}, \
                      otlphttp/memory: {{endpoint: '{endpoint}'}}}}, \
         extensions: {{file_storage: {{directory: '{}'}}}}, \
         service: {{extensions: [file_storage], {TELEMETRY}, \
           pipelines: {{logs: {{receivers: [otlp], exporters: [{exporters}]}}}}}}",
        dir.join("queue").display()
    ))
}

/// Goal: a memory-only exporter beside a stored one loses for itself, counted; the client is not refused for it.
#[actix::test]
async fn a_full_memory_store_beside_a_disk_costs_no_client_anything() {
    let rig = Rig::start(|endpoint, dir| beside(endpoint, dir, "otlphttp/disk, otlphttp/memory")).await;
    rig.far_end.play(Script::new().always(Act::Hang));
    for n in 0..12 {
        assert!(accepted(&rig, Signal::Logs, incompressible(n)).await, "request {n}");
    }
    let failed = "otelcol_exporter_enqueue_failed_log_records";
    assert!(rig.number(failed, &["otlphttp/memory"]).await >= 4.0, "8 MiB hold no twelve");
    assert_eq!(rig.number(failed, &["otlphttp/disk"]).await, 0.0);
    assert_eq!(rig.number("otelcol_receiver_accepted_log_records", &[]).await, 12.0);
    let disk: u64 = rig.books().iter().filter(|b| b.exporter == "otlphttp/disk").map(|b| b.accepted).sum();
    assert_eq!(disk, 12);
}

#[actix::test]
async fn where_all_stores_are_memory_a_full_one_refuses_the_client() {
    let rig = Rig::start(|endpoint, dir| beside(endpoint, dir, "otlphttp/memory")).await;
    rig.far_end.play(Script::new().always(Act::Hang));
    let mut answers = Vec::new();
    for n in 0..12 {
        let answer = rig.post("/v1/logs", &[("content-type", PROTOBUF)], incompressible(n)).await;
        answers.push(answer.status().as_u16());
    }
    assert_eq!((answers[0], answers[11]), (200, 503), "{answers:?}");
    let refused = answers.iter().filter(|a| **a == 503).count() as f64;
    assert_eq!(rig.number("otelcol_exporter_enqueue_failed_log_records", &["otlphttp/memory"]).await, refused);
    assert_eq!(rig.number("otelcol_receiver_refused_log_records", &[]).await, refused);
}

/// Goal: what the store can never keep is refused for good, over both protocols: a client that came back with it would
/// come back for ever. Method: ten megabytes that do not compress, for a store of eight.
#[actix::test]
async fn what_no_store_could_ever_keep_is_refused_for_good() {
    let rig = Rig::start(|endpoint, _| {
        let ports = "{grpc: {endpoint: '127.0.0.1:0', max_recv_msg_size_mib: 16}, http: {endpoint: '127.0.0.1:0'}}";
        let text = format!(
            "yaml:{{receivers: {{otlp: {{protocols: {ports}}}}}, \
             processors: {{memory_limiter: {{limit_mib: 32, check_interval: 1s}}}}, \
             exporters: {{otlphttp: {{endpoint: '{endpoint}'}}}}, \
             service: {{{TELEMETRY}, pipelines: {{logs: {{receivers: [otlp], exporters: [otlphttp]}}}}}}}}"
        );
        read(&Locations::of(&text), &Imagined::with(&[]))
    })
    .await;
    let huge: Vec<u8> = (0..10).flat_map(incompressible).collect();
    let answer = rig.post("/v1/logs", &[("content-type", PROTOBUF)], huge.clone()).await;
    assert_eq!((answer.status().as_u16(), answer.headers().get("retry-after")), (413, None));
    let said = Status::decode(&answer.bytes().await.expect("a body")).expect("a Status");
    assert_eq!((said.code, said.retry_delay), (8, None), "{said:?}");
    let refused = client(&rig).await.export(logs(&huge).into_request()).await.expect_err("more than is ever kept");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.details().is_empty(), "RetryInfo would make the client come back with it");
    for transport in ["http", "grpc"] {
        let transport = format!("transport=\"{transport}\"");
        assert_eq!(rig.number("tfo_agent_requests_refused", &["too_large", &transport]).await, 1.0);
        assert_eq!(rig.number("otelcol_receiver_refused_log_records", &[&transport]).await, 10.0);
    }
    assert_eq!(rig.number("otelcol_exporter_enqueue_failed_log_records", &[]).await, 20.0);
    assert_eq!(rig.books()[0].accepted, 0);
    assert!(accepted(&rig, Signal::Logs, incompressible(1)).await, "others are taken as before");
}

/// The seed's own files; only ports, directories and the far end's address are ours.
#[actix::test]
async fn the_seeds_configurations_start_take_and_deliver() {
    for (name, signals, items) in [
        ("minimal", &Signal::ALL[..], 512),
        ("production", &Signal::ALL[..], 512),
        ("edge-gateway", &[Signal::Metrics][..], 2_048),
    ] {
        let rig = Rig::start(|endpoint, dir| seed(name, endpoint, dir)).await;
        for signal in signals {
            let mut numbered = Numbered::new(*signal, Source(1));
            let request = numbered.request(items);
            rig.far_end.with(|c| c.tally().issued(*signal, Source(1), request.seqs.clone()));
            assert!(accepted(&rig, *signal, request.bytes).await, "{name} {signal}");
            rig.far_end.with(|c| c.tally().acknowledged(*signal, Source(1), request.seqs.clone()));
        }
        let arrived = rig.far_end.until(PATIENCE, |c| c.tally().report().lost() == 0).await;
        assert!(arrived, "{name}: {:?}", rig.far_end.report());
        if name != "edge-gateway" {
            let seen = rig.far_end.seen();
            assert_eq!(seen[0].header("x-workspace-id"), Some("550e8400"), "{name}");
        }
        let health = rig.http.get(rig.at("health_check")).send().await.expect("an answer");
        assert_eq!(health.status().as_u16(), 200, "{name}");
        rig.agent.supervisor.drain(std::time::Duration::from_secs(2)).await;
    }
}

fn seed(name: &str, endpoint: &str, dir: &Path) -> Config {
    let path = format!("configs/{name}.yaml");
    let text = std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect("it is shipped");
    let host = Imagined {
        files: BTreeMap::from([(path.clone(), text)]),
        name: Some("gw-7".to_owned()),
        ip: Some("10.1.2.3".to_owned()),
        ..Imagined::with(&[
            ("TELEMETRYFLOW_ENDPOINT", endpoint),
            ("TELEMETRYFLOW_WORKSPACE_ID", "550e8400"),
            ("TELEMETRYFLOW_TENANT_ID", "0123"),
        ])
    };
    let queue = dir.join("queue");
    let mut sets = vec![
        "receivers.otlp.protocols.grpc.endpoint=0.0.0.0:0".to_owned(),
        "receivers.otlp.protocols.http.endpoint=0.0.0.0:0".to_owned(),
        "extensions.health_check.endpoint=0.0.0.0:0".to_owned(),
        "service.telemetry.metrics.address=127.0.0.1:0".to_owned(),
    ];
    if name != "minimal" {
        sets.push(format!("extensions.file_storage.directory={}", queue.display()));
    }
    if name == "production" {
        sets.push(format!("extensions.file_storage.compaction.directory={}", queue.display()));
    }
    read(&Locations { configs: vec![path], sets }, &host)
}

/// What a scrape of otelcol-contrib 0.88.0 had after eight spans and five log records (reference
/// `measured/metrics_8888_v0.88.0.txt`): family, type, label names but the service's.
#[rustfmt::skip]
const MEASURED: &[(&str, &str, &str)] = &[
    ("otelcol_exporter_queue_capacity", "gauge", "exporter"),
    ("otelcol_exporter_queue_size", "gauge", "exporter"),
    ("otelcol_exporter_sent_log_records", "counter", "exporter"),
    ("otelcol_exporter_sent_spans", "counter", "exporter"),
    ("otelcol_process_cpu_seconds", "counter", ""),
    ("otelcol_process_memory_rss", "gauge", ""),
    ("otelcol_process_runtime_heap_alloc_bytes", "gauge", ""),
    ("otelcol_process_runtime_total_alloc_bytes", "counter", ""),
    ("otelcol_process_runtime_total_sys_memory_bytes", "gauge", ""),
    ("otelcol_process_uptime", "counter", ""),
    ("otelcol_processor_accepted_log_records", "counter", "processor"),
    ("otelcol_processor_accepted_spans", "counter", "processor"),
    ("otelcol_processor_batch_batch_send_size", "histogram", "le processor"),
    ("otelcol_processor_batch_timeout_trigger_send", "counter", "processor"),
    ("otelcol_processor_dropped_log_records", "counter", "processor"),
    ("otelcol_processor_dropped_spans", "counter", "processor"),
    ("otelcol_processor_refused_log_records", "counter", "processor"),
    ("otelcol_processor_refused_spans", "counter", "processor"),
    ("otelcol_receiver_accepted_log_records", "counter", "receiver transport"),
    ("otelcol_receiver_accepted_spans", "counter", "receiver transport"),
    ("otelcol_receiver_refused_log_records", "counter", "receiver transport"),
    ("otelcol_receiver_refused_spans", "counter", "receiver transport"),
];

/// Goal: a dashboard made for the original finds the same series on the wired agent, after the same traffic.
#[actix::test]
async fn a_scrape_of_the_wired_agent_has_the_families_of_the_original_and_no_other() {
    let rig = Rig::start(|endpoint, _| {
        let pipe = "{receivers: [otlp], processors: [memory_limiter, batch], exporters: [otlphttp, logging]}";
        yaml(&format!(
            "processors: {{memory_limiter: {{limit_mib: 4096, check_interval: 1s}}, batch: {{timeout: 200ms}}}}, \
             exporters: {{otlphttp: {{endpoint: '{endpoint}'}}, logging: {{}}}}, \
             service: {{{TELEMETRY}, pipelines: {{traces: {pipe}, logs: {pipe}}}}}"
        ))
    })
    .await;
    for (signal, items) in [(Signal::Traces, 8), (Signal::Logs, 5)] {
        assert!(accepted(&rig, signal, Numbered::new(signal, Source(1)).request(items).bytes).await);
    }
    assert!(rig.far_end.until(PATIENCE, |c| c.counts().items == 13).await);
    assert!(until(PATIENCE, || rig.books().iter().all(|b| b.waiting == 0)).await);
    let text = rig.scrape().await;
    let mut found: BTreeMap<&str, (&str, BTreeSet<&str>)> = BTreeMap::new();
    for line in text.lines().filter(|l| !l.starts_with("# HELP")) {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            found.insert(name, (kind, BTreeSet::new()));
            continue;
        }
        let (name, rest) = line.split_once('{').expect("every series has labels");
        let base =
            ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).filter(|b| found.contains_key(b));
        let (_, labels) = found.get_mut(base.unwrap_or(name)).expect("TYPE came first");
        let (inside, _) = rest.rsplit_once('}').expect("closed");
        labels.extend(
            inside.split("\",").map(|l| l.split('=').next().expect("a name")).filter(|l| !l.starts_with("service_")),
        );
    }
    let ours: Vec<(String, String, String)> = found
        .iter()
        .filter(|(name, _)| !name.starts_with("tfo_agent_"))
        .map(|(name, (kind, labels))| {
            let labels: Vec<&str> = labels.iter().copied().collect();
            ((*name).to_owned(), (*kind).to_owned(), labels.join(" "))
        })
        .collect();
    let theirs: Vec<(String, String, String)> =
        MEASURED.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned())).collect();
    assert_eq!(ours, theirs);
    assert_eq!(rig.number("otelcol_exporter_sent_spans", &["logging"]).await, 8.0, "the tee shows what was taken");
}

/// An exporter without a queue has no queue gauges.
#[actix::test]
async fn an_exporter_without_a_queue_shows_none() {
    let rig = Rig::start(|endpoint, _| {
        yaml(&format!(
            "exporters: {{otlphttp: {{endpoint: '{endpoint}', sending_queue: {{enabled: false}}}}}}, \
             service: {{{TELEMETRY}, pipelines: {{logs: {{receivers: [otlp], exporters: [otlphttp]}}}}}}"
        ))
    })
    .await;
    assert!(accepted(&rig, Signal::Logs, Numbered::new(Signal::Logs, Source(1)).request(1).bytes).await);
    assert!(!rig.scrape().await.contains("otelcol_exporter_queue_"));
}
