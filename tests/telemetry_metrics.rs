//! What `:8888/metrics` says, against what otelcol-contrib 0.88.0 said.
//!
//! The facts in `MEASURED` are those of a scrape of the original (reference `measured/metrics_8888_v0.88.0.txt`): one
//! otlp and one filelog receiver, memory_limiter, batch, otlphttp with a queue of three, logging; eight spans and five
//! log records went through in four batches.

use std::collections::{BTreeMap, BTreeSet};
use tfo_otel_agent::base::{Clock, Dice};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::telemetry::metrics::Pulled;
use tfo_otel_agent::telemetry::{
    BatchMetrics, ExporterMetrics, Level, Metrics, ProcessorMetrics, Queue, ReceiverMetrics, Resource, Trigger,
    process, queues,
};

/// Family, type, text, and its samples: labels but the service's, value (`*`: not compared).
type Fact = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

#[rustfmt::skip]
const MEASURED: &[Fact] = &[
    ("otelcol_exporter_queue_capacity", "gauge", "Fixed capacity of the retry queue (in batches)", &[("exporter=otlphttp", "3")]),
    ("otelcol_exporter_queue_size", "gauge", "Current size of the retry queue (in batches)", &[("exporter=otlphttp", "0")]),
    ("otelcol_exporter_sent_log_records", "counter", "Number of log record successfully sent to destination.", &[("exporter=logging", "5"), ("exporter=otlphttp", "5")]),
    ("otelcol_exporter_sent_spans", "counter", "Number of spans successfully sent to destination.", &[("exporter=logging", "8"), ("exporter=otlphttp", "8")]),
    ("otelcol_process_cpu_seconds", "counter", "Total CPU user and system time in seconds", &[("", "*")]),
    ("otelcol_process_memory_rss", "gauge", "Total physical memory (resident set size)", &[("", "*")]),
    ("otelcol_process_runtime_heap_alloc_bytes", "gauge", "Bytes of allocated heap objects (see 'go doc runtime.MemStats.HeapAlloc')", &[("", "*")]),
    ("otelcol_process_runtime_total_alloc_bytes", "counter", "Cumulative bytes allocated for heap objects (see 'go doc runtime.MemStats.TotalAlloc')", &[("", "*")]),
    ("otelcol_process_runtime_total_sys_memory_bytes", "gauge", "Total bytes of memory obtained from the OS (see 'go doc runtime.MemStats.Sys')", &[("", "*")]),
    ("otelcol_process_uptime", "counter", "Uptime of the process", &[("", "*")]),
    ("otelcol_processor_accepted_log_records", "counter", "Number of log records successfully pushed into the next component in the pipeline.", &[("processor=memory_limiter", "5")]),
    ("otelcol_processor_accepted_spans", "counter", "Number of spans successfully pushed into the next component in the pipeline.", &[("processor=memory_limiter", "8")]),
    ("otelcol_processor_batch_batch_send_size", "histogram", "Number of units in the batch", &[
        ("_bucket processor=batch le=10", "4"), ("_bucket processor=batch le=25", "4"), ("_bucket processor=batch le=50", "4"),
        ("_bucket processor=batch le=75", "4"), ("_bucket processor=batch le=100", "4"), ("_bucket processor=batch le=250", "4"),
        ("_bucket processor=batch le=500", "4"), ("_bucket processor=batch le=750", "4"), ("_bucket processor=batch le=1000", "4"),
        ("_bucket processor=batch le=2000", "4"), ("_bucket processor=batch le=3000", "4"), ("_bucket processor=batch le=4000", "4"),
        ("_bucket processor=batch le=5000", "4"), ("_bucket processor=batch le=6000", "4"), ("_bucket processor=batch le=7000", "4"),
        ("_bucket processor=batch le=8000", "4"), ("_bucket processor=batch le=9000", "4"), ("_bucket processor=batch le=10000", "4"),
        ("_bucket processor=batch le=20000", "4"), ("_bucket processor=batch le=30000", "4"), ("_bucket processor=batch le=50000", "4"),
        ("_bucket processor=batch le=100000", "4"), ("_bucket processor=batch le=+Inf", "4"),
        ("_sum processor=batch", "13"), ("_count processor=batch", "4"),
    ]),
    ("otelcol_processor_batch_timeout_trigger_send", "counter", "Number of times the batch was sent due to a timeout trigger", &[("processor=batch", "4")]),
    ("otelcol_processor_dropped_log_records", "counter", "Number of log records that were dropped.", &[("processor=memory_limiter", "0")]),
    ("otelcol_processor_dropped_spans", "counter", "Number of spans that were dropped.", &[("processor=memory_limiter", "0")]),
    ("otelcol_processor_refused_log_records", "counter", "Number of log records that were rejected by the next component in the pipeline.", &[("processor=memory_limiter", "0")]),
    ("otelcol_processor_refused_spans", "counter", "Number of spans that were rejected by the next component in the pipeline.", &[("processor=memory_limiter", "0")]),
    ("otelcol_receiver_accepted_log_records", "counter", "Number of log records successfully pushed into the pipeline.", &[("receiver=filelog transport=", "5")]),
    ("otelcol_receiver_accepted_spans", "counter", "Number of spans successfully pushed into the pipeline.", &[("receiver=otlp transport=http", "8")]),
    ("otelcol_receiver_refused_log_records", "counter", "Number of log records that could not be pushed into the pipeline.", &[("receiver=filelog transport=", "0")]),
    ("otelcol_receiver_refused_spans", "counter", "Number of spans that could not be pushed into the pipeline.", &[("receiver=otlp transport=http", "0")]),
];

/// Goal: a dashboard made for the original shows the same here.
/// Method: what went through the original goes through our families; name, type, text, labels, their order, the order
/// of the families and every value that is not the process's own are compared, and nothing else may be there.
#[test]
fn a_scrape_has_the_families_of_the_original_and_no_other() {
    let metrics = Metrics::detached();
    process::register(&metrics, Clock::system(), Clock::system().now());
    let otlp = ReceiverMetrics::new(&metrics, "otlp", "http");
    let filelog = ReceiverMetrics::new(&metrics, "filelog", "");
    let limiter = ProcessorMetrics::new(&metrics, "memory_limiter");
    let batch = BatchMetrics::new(&metrics, "batch");
    let exporters = ["otlphttp", "logging"].map(|id| ExporterMetrics::new(&metrics, id));
    queues(&metrics, || vec![Queue { exporter: "otlphttp".into(), size: 0, capacity: 3 }]);
    for (receiver, signal, items) in [
        (&filelog, Signal::Logs, 5),
        (&otlp, Signal::Traces, 2),
        (&otlp, Signal::Traces, 2),
        (&otlp, Signal::Traces, 4),
    ] {
        receiver.accepted(signal, items);
        limiter.accepted(signal, items);
        batch.sent(items, 99, Trigger::Timeout);
        for exporter in &exporters {
            exporter.sent(signal, items);
        }
    }

    let scraped = parse(&metrics.text());
    assert_eq!(
        scraped.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
        MEASURED.iter().map(|f| f.0).collect::<Vec<_>>()
    );
    for (family, (name, kind, help, samples)) in scraped.iter().zip(MEASURED) {
        assert_eq!((family.kind.as_str(), family.help.as_str()), (*kind, *help), "{name}");
        assert_eq!(family.samples.len(), samples.len(), "{name}");
        for (sample, (labels, value)) in family.samples.iter().zip(*samples) {
            let expected: Vec<&str> = labels.split(' ').collect();
            assert_eq!(sample.shown(), expected, "{name}");
            assert!(*value == "*" || sample.value == *value, "{name}: {} for {value}", sample.value);
            // The original's order: by name, but the encoder's own `le` at the end.
            let names: Vec<&str> = sample.labels.iter().map(|(name, _)| name.as_str()).filter(|n| *n != "le").collect();
            assert!(names.is_sorted(), "{name}: {names:?}");
            assert_eq!(sample.service(), ["service_instance_id", "service_name", "service_version"], "{name}");
        }
    }
}

/// The families that the measured run had no reason to show. Texts: opentelemetry-collector v0.88.0,
/// `internal/obsreportconfig/obsmetrics/*.go` and `processor/batchprocessor/metrics.go`.
#[test]
#[rustfmt::skip]
fn the_families_of_other_runs_have_the_texts_of_the_original() {
    let metrics = Metrics::new(&Resource::new(&BTreeMap::new(), &mut Dice::seeded(1)), Level::Detailed);
    let (receiver, processor) = (ReceiverMetrics::new(&metrics, "r", "grpc"), ProcessorMetrics::new(&metrics, "p"));
    let exporter = ExporterMetrics::new(&metrics, "e");
    for signal in Signal::ALL {
        receiver.refused(signal, 1);
        processor.dropped(signal, 1);
        exporter.send_failed(signal, 1);
        exporter.enqueue_failed(signal, 1);
    }
    BatchMetrics::new(&metrics, "batch").sent(8_192, 1_500_000, Trigger::Size);

    let scraped = parse(&metrics.text());
    for (name, labels, help) in [
        ("otelcol_exporter_enqueue_failed_log_records",     "exporter",           "Number of log records failed to be added to the sending queue."),
        ("otelcol_exporter_enqueue_failed_metric_points",   "exporter",           "Number of metric points failed to be added to the sending queue."),
        ("otelcol_exporter_enqueue_failed_spans",           "exporter",           "Number of spans failed to be added to the sending queue."),
        ("otelcol_exporter_send_failed_log_records",        "exporter",           "Number of log records in failed attempts to send to destination."),
        ("otelcol_exporter_send_failed_metric_points",      "exporter",           "Number of metric points in failed attempts to send to destination."),
        ("otelcol_exporter_send_failed_spans",              "exporter",           "Number of spans in failed attempts to send to destination."),
        ("otelcol_exporter_sent_metric_points",             "exporter",           "Number of metric points successfully sent to destination."),
        ("otelcol_processor_accepted_metric_points",        "processor",          "Number of metric points successfully pushed into the next component in the pipeline."),
        ("otelcol_processor_batch_batch_size_trigger_send", "processor",          "Number of times the batch was sent due to a size trigger"),
        ("otelcol_processor_dropped_metric_points",         "processor",          "Number of metric points that were dropped."),
        ("otelcol_processor_refused_metric_points",         "processor",          "Number of metric points that were rejected by the next component in the pipeline."),
        ("otelcol_receiver_accepted_metric_points",         "receiver transport", "Number of metric points successfully pushed into the pipeline."),
        ("otelcol_receiver_refused_metric_points",          "receiver transport", "Number of metric points that could not be pushed into the pipeline."),
    ] {
        let family = scraped.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("{name} is missing"));
        let own: Vec<&str> = family.samples[0].labels.iter().map(|l| l.0.as_str()).filter(|l| !l.starts_with("service_")).collect();
        assert_eq!((family.kind.as_str(), own.join(" ").as_str(), family.help.as_str()), ("counter", labels, help), "{name}");
    }
    let bytes = scraped.iter().find(|f| f.name == "otelcol_processor_batch_batch_send_size_bytes").expect("the level is detailed");
    assert_eq!((bytes.kind.as_str(), bytes.help.as_str()), ("histogram", "Number of bytes in batch that was sent"));
    let (below, above): (Vec<_>, Vec<_>) = bytes.samples.iter().filter(|s| s.suffix == "_bucket").partition(|s| s.value == "0");
    assert_eq!((below.len(), above[0].shown()[2], above.last().expect("+Inf").shown()[2]), (31, "le=2000000", "le=+Inf"));
    assert_eq!(above.len(), 9);
}

#[test]
fn a_series_appears_with_its_first_event_and_its_zero_companions() {
    type Event = fn(&Metrics);
    let cases: [(Event, &[&str]); 8] = [
        (
            |m| {
                // Built, nothing happened yet.
                let _ = (ReceiverMetrics::new(m, "r", "grpc"), ExporterMetrics::new(m, "e"), BatchMetrics::new(m, "b"));
            },
            &[],
        ),
        (
            |m| ReceiverMetrics::new(m, "r", "grpc").accepted(Signal::Metrics, 1),
            &["receiver_accepted_metric_points 1", "receiver_refused_metric_points 0"],
        ),
        (
            |m| ReceiverMetrics::new(m, "r", "grpc").refused(Signal::Logs, 2),
            &["receiver_accepted_log_records 0", "receiver_refused_log_records 2"],
        ),
        (
            |m| ProcessorMetrics::new(m, "p").refused(Signal::Traces, 3),
            &["processor_accepted_spans 0", "processor_dropped_spans 0", "processor_refused_spans 3"],
        ),
        (|m| ExporterMetrics::new(m, "e").sent(Signal::Traces, 4), &["exporter_sent_spans 4"]),
        (
            |m| ExporterMetrics::new(m, "e").send_failed(Signal::Traces, 5),
            &["exporter_send_failed_spans 5", "exporter_sent_spans 0"],
        ),
        (|m| ExporterMetrics::new(m, "e").enqueue_failed(Signal::Logs, 6), &["exporter_enqueue_failed_log_records 6"]),
        (
            |m| queues(m, || vec![Queue { exporter: "e".into(), size: 7, capacity: 8 }]),
            &["exporter_queue_capacity 8", "exporter_queue_size 7"],
        ),
    ];
    for (event, expected) in cases {
        let metrics = Metrics::detached();
        event(&metrics);
        let shown: Vec<String> = parse(&metrics.text())
            .iter()
            .flat_map(|f| f.samples.iter().map(|s| format!("{} {}", &f.name["otelcol_".len()..], s.value)))
            .collect();
        assert_eq!(shown, expected);
    }
}

#[test]
fn an_actor_built_anew_goes_on_counting() {
    let metrics = Metrics::detached();
    for _ in 0..3 {
        ReceiverMetrics::new(&metrics, "otlp", "grpc").accepted(Signal::Traces, 5);
    }
    let text = metrics.text();
    assert!(text.lines().any(|l| l.starts_with("otelcol_receiver_accepted_spans{") && l.ends_with(" 15")), "{text}");
}

#[test]
#[rustfmt::skip]
fn the_resource_of_the_configuration_becomes_labels() {
    let some = |v: &str| Some(v.to_owned());
    for (changes, expected) in [
        (vec![],                                            "service_name=tfo-otel-agent service_version=VERSION"),
        (vec![("service.name", some("gw")), ("service.version", None)], "service_name=gw"),
        (vec![("host.name", some("cellar \"7\"\n"))],       "host_name=cellar \\\"7\\\"\\n service_name=tfo-otel-agent service_version=VERSION"),
        (vec![("2nd key-é", some("x"))],                    "_2nd_key__=x service_name=tfo-otel-agent service_version=VERSION"),
        // A label that names the exporter twice would make Prometheus refuse the whole scrape.
        (vec![("exporter", some("evil"))],                  "service_name=tfo-otel-agent service_version=VERSION"),
    ] {
        let changes: BTreeMap<_, _> = changes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let metrics = Metrics::new(&Resource::new(&changes, &mut Dice::seeded(1)), Level::Basic);
        ExporterMetrics::new(&metrics, "e").sent(Signal::Logs, 1);
        let family = parse(&metrics.text()).remove(0);
        let shown: Vec<String> = family.samples[0].labels.iter().map(|(k, v)| format!("{k}={v}"))
            .filter(|l| l != "exporter=e" && !l.starts_with("service_instance_id=")).collect();
        assert_eq!(shown.join(" "), expected.replace("VERSION", env!("CARGO_PKG_VERSION")));
    }
}

/// Goal: labels and level change while counters go on; the instance stays the same one.
#[test]
fn what_is_shown_changes_while_the_process_runs() {
    let metrics = Metrics::new(&Resource::new(&BTreeMap::new(), &mut Dice::seeded(1)), Level::Basic);
    let batch = BatchMetrics::new(&metrics, "b");
    batch.sent(1, 10, Trigger::Size);
    let instance = metrics.resource().get("service.instance.id").expect("automatic").to_owned();
    assert!(!metrics.text().contains("batch_send_size_bytes"));
    let changes = BTreeMap::from([("site".to_owned(), Some("north".to_owned())), ("service.version".to_owned(), None)]);
    metrics.change(&metrics.resource().changed(&changes), Level::Detailed);
    batch.sent(1, 10, Trigger::Size);
    let text = metrics.text();
    let counted = "otelcol_processor_batch_batch_send_size_bytes_count";
    let line = text.lines().find(|l| l.starts_with(counted)).expect("shown");
    assert!(line.contains("site=\"north\"") && line.contains(&instance) && line.ends_with(" 2"), "{line}");
    assert!(!text.contains("service_version"), "{text}");
    metrics.change(&metrics.resource().changed(&BTreeMap::new()), Level::Basic);
    let text = metrics.text();
    assert!(text.contains("service_version") && !text.contains("site=") && !text.contains("send_size_bytes"), "{text}");
}

/// RFC 9562, version 4: the digits 13 and 17 are fixed, everything else is chance.
#[test]
fn the_instance_id_is_a_new_version_4_uuid_at_each_start() {
    let ids: BTreeSet<String> = (0..200)
        .map(|seed| {
            let resource = Resource::new(&BTreeMap::new(), &mut Dice::seeded(seed));
            resource.get("service.instance.id").expect("nothing removed it").to_owned()
        })
        .collect();
    assert_eq!(ids.len(), 200);
    for id in ids {
        let parts: Vec<&str> = id.split('-').collect();
        assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
        assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{id}");
        assert!(parts.concat().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
    }
}

#[test]
fn a_component_adds_its_own_families_pushed_or_pulled() {
    let metrics = Metrics::detached();
    let lost = metrics.counters("tfo_agent_items_lost", "Items that will never arrive.", &["lane", "reason"]);
    lost.with(&["traces", "evicted"]).add(3);
    for waiting in [10, 20] {
        // The second asking replaces the reader: the rebuilt spool is asked, not the fallen one.
        metrics.pull(Pulled::Gauge, "tfo_agent_items_waiting", "Items that wait.", &["lane"], move |samples| {
            samples.push_count(&["traces"], waiting);
            samples.push_count(&["logs"], waiting + 1);
        });
    }
    metrics.pull(Pulled::Counter, "tfo_agent_never", "Shows nothing.", &[], |_| ());
    let scraped = parse(&metrics.text());
    for sample in scraped.iter().flat_map(|f| &f.samples) {
        assert!(sample.labels.is_sorted(), "{:?}", sample.labels);
    }
    let shown: Vec<String> = scraped
        .iter()
        .flat_map(|f| f.samples.iter().map(|s| format!("{} {} {} {}", f.name, f.kind, s.shown().join(","), s.value)))
        .collect();
    assert_eq!(
        shown,
        [
            "tfo_agent_items_lost counter lane=traces,reason=evicted 3",
            "tfo_agent_items_waiting gauge lane=logs 21",
            "tfo_agent_items_waiting gauge lane=traces 20",
        ]
    );
}

#[test]
#[should_panic(expected = "metric tfo_agent_x has one shape wherever it is asked for")]
fn two_components_cannot_mean_different_things_by_one_name() {
    let metrics = Metrics::detached();
    let _ = metrics.counters("tfo_agent_x", "One.", &["lane"]);
    let _ = metrics.gauges("tfo_agent_x", "Two.", &["lane"]);
}

#[derive(Debug)]
struct Family {
    name: String,
    kind: String,
    help: String,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    suffix: String,
    labels: Vec<(String, String)>,
    shown: Vec<String>,
    value: String,
}

impl Sample {
    /// `_bucket processor=batch le=10`, without the service's labels.
    fn shown(&self) -> Vec<&str> {
        let shown: Vec<&str> = self.shown.iter().map(String::as_str).collect();
        if shown.is_empty() { vec![""] } else { shown }
    }

    fn service(&self) -> Vec<&str> {
        self.labels.iter().map(|l| l.0.as_str()).filter(|l| l.starts_with("service_")).collect()
    }
}

/// Prometheus's text format 0.0.4, read strictly: HELP, then TYPE, then samples.
fn parse(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a text follows the name");
            families.push(Family { name: name.into(), kind: String::new(), help: help.into(), samples: Vec::new() });
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type follows the name");
            let family = families.last_mut().expect("HELP came first");
            assert_eq!(family.name, name);
            kind.clone_into(&mut family.kind);
        } else {
            let family = families.last_mut().expect("HELP came first");
            let (name, rest) = line.split_once('{').expect("every series has labels");
            let (labels, value) = rest.rsplit_once("} ").expect("a value follows the labels");
            value.parse::<f64>().expect("a number");
            let labels: Vec<(String, String)> = labels
                .strip_suffix('"')
                .expect("the last value is quoted too")
                .split("\",")
                .map(|l| l.split_once("=\"").map(|(k, v)| (k.to_owned(), v.to_owned())).expect("name=\"value\""))
                .collect();
            let suffix = name.strip_prefix(family.name.as_str()).expect("a sample of its family").to_owned();
            let own = labels.iter().filter(|l| !l.0.starts_with("service_")).map(|(k, v)| format!("{k}={v}"));
            let shown = Some(suffix.clone()).filter(|s| !s.is_empty()).into_iter().chain(own).collect();
            family.samples.push(Sample { suffix, labels, shown, value: value.to_owned() });
        }
    }
    families
}
