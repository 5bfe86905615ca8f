//! What the wire path costs: requests of 1,000 log records of about 390 bytes, as the architecture's goals say.
//!
//! `cargo bench --bench wire`. Measured is the CPU time of the thread, not the clock on the wall, because the goals
//! are CPU-seconds and the machine is seldom ours alone; the second line of each result is CPU-s per million records.

use bytes::Bytes;
use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use std::hint::black_box;
use tfo_otel_agent::config::{Any, Pattern};
use tfo_otel_agent::otlp::{self, Action, Cutter, Only, REQUEST_MAX, Rewriter, Rule, Sieve, Signal, Target, Value};
use tfo_otel_agent::processors::attributes::matching::{Matching, Property, SeverityAtLeast, Text, Wanted};
use tfo_otel_agent::processors::probabilistic_sampler::config::SamplerConfig;
use tfo_otel_agent::processors::{conditions, probabilistic_sampler};
use tfo_otel_agent::telemetry::Metrics;

/// CPU time of this thread, seconds.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = f64;
    type Value = f64;

    fn start(&self) -> f64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
    }

    fn end(&self, start: f64) -> f64 {
        self.start() - start
    }

    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for CpuTime {
    fn scale_values(&self, _typical: f64, values: &mut [f64]) -> &'static str {
        values.iter_mut().for_each(|value| *value *= 1e6);
        "µs of CPU"
    }

    fn scale_throughputs(&self, _typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        if let Throughput::Elements(records) = throughput {
            values.iter_mut().for_each(|value| *value *= 1e6 / *records as f64);
        }
        "CPU-s per million records"
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        self.scale_values(0.0, values)
    }
}

fn text(value: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) })
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: text(value), key_strindex: 0 }
}

/// One request of a gateway: a device's resource, and records such as a PLC driver writes them.
fn request(records: u64) -> Bytes {
    let log_records = (0..records)
        .map(|n| LogRecord {
            time_unix_nano: 1_795_000_000_000_000_000 + n * 1_000_000,
            observed_time_unix_nano: 1_795_000_000_050_000_000 + n * 1_000_000,
            severity_number: 9,
            severity_text: "INFO".to_owned(),
            body: text(&format!(
                "register 40{:04} of unit {} read in {} ms over line 2, value {}.{:02} is within limits",
                n % 9_973,
                n % 17,
                n % 90,
                n % 400,
                n % 100
            )),
            attributes: vec![
                attribute("log.file.name", "modbus-driver.log"),
                attribute("code.function.name", "poll_registers"),
                attribute("device.id", &format!("plc-{:05}", n % 64)),
                attribute("network.peer.address", &format!("10.20.{}.{}", n % 7, n % 251)),
                KeyValue {
                    key: "poll.sequence".to_owned(),
                    value: Some(AnyValue { value: Some(any_value::Value::IntValue(i64::try_from(n).expect("small"))) }),
                    key_strindex: 0,
                },
                attribute("thread.name", "poller-3"),
                attribute("site", "pumping-station-north"),
                attribute("unit", "kilopascal"),
            ],
            trace_id: (u128::from(n) << 64 | 0x0af7_6519_16cd_43dd).to_be_bytes().to_vec(),
            span_id: (n | 0x00f0_67aa_0000_0000).to_be_bytes().to_vec(),
            flags: 1,
            ..LogRecord::default()
        })
        .collect();
    let scope =
        Some(InstrumentationScope { name: "modbus".to_owned(), version: "2.4.1".to_owned(), ..Default::default() });
    let scope_logs = vec![ScopeLogs { scope, log_records, schema_url: String::new() }];
    let resource = Some(Resource {
        attributes: vec![
            attribute("service.name", "modbus-driver"),
            attribute("service.instance.id", "0f6f5b1e-9a55-4a0e-8c56-0f2b6d1c7a11"),
            attribute("telemetry.sdk.language", "python"),
            attribute("telemetry.sdk.name", "opentelemetry"),
            attribute("telemetry.sdk.version", "1.38.0"),
        ],
        ..Resource::default()
    });
    let resource_logs = vec![ResourceLogs { resource, scope_logs, schema_url: String::new() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec().into()
}

/// The same records as OTLP/JSON, as an exporter of the Web writes them.
fn json(records: u64) -> String {
    let decoded = ExportLogsServiceRequest::decode(request(records)).expect("just written");
    let string = |text: &str| serde_json::Value::from(text).to_string();
    let value = |value: &Option<AnyValue>| match value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => format!(r#"{{"stringValue":{}}}"#, string(text)),
        Some(any_value::Value::IntValue(n)) => format!(r#"{{"intValue":"{n}"}}"#),
        _ => "{}".to_owned(),
    };
    let list = |pairs: &[KeyValue]| {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|pair| format!(r#"{{"key":{},"value":{}}}"#, string(&pair.key), value(&pair.value)))
            .collect();
        pairs.join(",")
    };
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let logs = &decoded.resource_logs[0];
    let records: Vec<String> = logs.scope_logs[0]
        .log_records
        .iter()
        .map(|record| {
            format!(
                r#"{{"timeUnixNano":"{}","observedTimeUnixNano":"{}","severityNumber":{},"severityText":{},"body":{},"attributes":[{}],"flags":{},"traceId":"{}","spanId":"{}"}}"#,
                record.time_unix_nano,
                record.observed_time_unix_nano,
                record.severity_number,
                string(&record.severity_text),
                value(&record.body),
                list(&record.attributes),
                record.flags,
                hex(&record.trace_id),
                hex(&record.span_id)
            )
        })
        .collect();
    let resource = list(&logs.resource.as_ref().expect("just written").attributes);
    format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":[{resource}]}},"scopeLogs":[{{"scope":{{"name":"modbus"}},"logRecords":[{}]}}]}}]}}"#,
        records.join(",")
    )
}

/// The seed's Production processors: two resource upserts and three item upserts.
fn production() -> Rewriter {
    let upsert = |key: &str, value: &str| Action::upsert(key, Value::Text(value.to_owned()));
    let resource = vec![upsert("host.name", "gw-0173.site-12.example"), upsert("host.ip", "10.20.0.1")];
    let items = vec![
        upsert("telemetryflow.workspace.id", "ws-2f6c9a54"),
        upsert("telemetryflow.tenant.id", "tenant-8841"),
        upsert("agent.version", "1.0.0-CE"),
    ];
    let rule = |target, actions| Rule { target, actions, only: Only::default() };
    Rewriter::new(vec![rule(Target::Resource, resource), rule(Target::Items, items)]).expect("flat values")
}

/// The three item upserts of [`production`], for the items meant.
fn production_only(include: Matching) -> Rewriter {
    let actions = (0..3).map(|n| Action::upsert(&format!("telemetryflow.{n}"), Value::Text("ws-2f6c9a54".to_owned())));
    let only = conditions::only(Some(&include), None, Signal::Logs);
    Rewriter::new(vec![Rule { target: Target::Items, actions: actions.collect(), only }]).expect("flat values")
}

/// Conditions from cheap to dear: all hold for each record, so that all the work is done.
fn conditions_of_logs() -> [(&'static str, Matching); 5] {
    let none = Matching::default;
    let property = |key: &str, value: Wanted| vec![Property { key: key.to_owned(), value: Some(value) }];
    let pattern = |text: &str| Pattern::new(text).expect("a pattern");
    let resources = property("service.name", Wanted::Same(Any::Text("modbus-driver".to_owned())));
    let attributes = property("unit", Wanted::Same(Any::Text("kilopascal".to_owned())));
    let peers = property("network.peer.address", Wanted::Pattern(pattern(r"^10\.20\.")));
    let min = Some(SeverityAtLeast { min: 9, match_undefined: false });
    [
        ("rewrite, include a resource", Matching { resources, ..none() }),
        ("rewrite, include a severity", Matching { log_severity_number: min, ..none() }),
        ("rewrite, include the last attribute, strict", Matching { attributes, ..none() }),
        ("rewrite, include an attribute, a pattern for the engine", Matching { attributes: peers, ..none() }),
        (
            "rewrite, include a body, a pattern that is a text",
            Matching { log_bodies: vec![Text::Pattern(pattern("within"))], ..none() },
        ),
    ]
}

fn wire(c: &mut Criterion<CpuTime>) {
    let request = request(1_000);
    assert_eq!(request.len() / 10_000, 39, "the goals are for records of about 390 bytes");
    let production = production();
    let rewritten = production.rewrite(Signal::Logs, &request, &|_| None, REQUEST_MAX).expect("valid");
    let mut group = c.benchmark_group("1000 records");
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("walk", |b| b.iter(|| otlp::walk(Signal::Logs, black_box(&request))));
    group.bench_function("count", |b| b.iter(|| otlp::count(Signal::Logs, black_box(&request))));
    group.bench_function("rewrite, no key is there", |b| {
        b.iter(|| production.rewrite(Signal::Logs, black_box(&request), &|_| None, REQUEST_MAX))
    });
    group.bench_function("rewrite, every key is there", |b| {
        b.iter(|| production.rewrite(Signal::Logs, black_box(&rewritten), &|_| None, REQUEST_MAX))
    });
    for (name, include) in conditions_of_logs() {
        let rewriter = production_only(include);
        let meant = rewriter.rewrite(Signal::Logs, &request, &|_| None, REQUEST_MAX).expect("valid");
        assert!(meant.len() > request.len() + 1_000 * 60, "{name}: every record is meant");
        group.bench_function(name, |b| {
            b.iter(|| rewriter.rewrite(Signal::Logs, black_box(&request), &|_| None, REQUEST_MAX))
        });
    }
    let severe = Matching {
        log_severity_number: Some(SeverityAtLeast { min: 9, match_undefined: false }),
        ..Matching::default()
    };
    let all = Sieve::keeping(conditions::only(Some(&severe), None, Signal::Logs));
    group.bench_function("sift by severity, all are kept", |b| b.iter(|| all.sift(Signal::Logs, black_box(&request))));
    let sampler = SamplerConfig { percentage: 50.0, ..SamplerConfig::default() };
    let half = Sieve::keeping(probabilistic_sampler::keeps(&sampler, Signal::Logs, &Metrics::detached()));
    let left = half.sift(Signal::Logs, &request).and_then(|left| otlp::count(Signal::Logs, &left)).expect("valid");
    assert!((400..600).contains(&left), "{left} of 1000 are half");
    group.bench_function("sample half", |b| b.iter(|| half.sift(Signal::Logs, black_box(&request))));
    group.bench_function("cut in 8", |b| {
        b.iter(|| {
            let cutter = Cutter::of(Signal::Logs, black_box(&request)).expect("it is valid");
            (0..8).map(|i| cutter.take(i * 125..(i + 1) * 125).expect("a thousand items").len()).sum::<usize>()
        })
    });
    group.bench_function("take the second half", |b| {
        b.iter(|| Cutter::of(Signal::Logs, black_box(&request)).and_then(|cutter| cutter.take(500..1_000)))
    });
    let pieces: Vec<Bytes> = (0..10).map(|_| self::request(100)).collect();
    group.bench_function("merge 10 requests of 100", |b| b.iter(|| otlp::merge(black_box(&pieces))));
    let text = json(1_000);
    let read = otlp::from_json(Signal::Logs, text.as_bytes()).expect("valid");
    assert_eq!(otlp::count(Signal::Logs, &read), Ok(1_000));
    group.bench_function("read JSON", |b| b.iter(|| otlp::from_json(Signal::Logs, black_box(text.as_bytes()))));
    group.bench_function("prost decodes (for comparison)", |b| {
        b.iter(|| ExportLogsServiceRequest::decode(black_box(request.clone())))
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = wire
}
criterion_main!(benches);
