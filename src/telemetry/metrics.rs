//! The one registry of numbers, and the families components hang into it.
//!
//! A dashboard that worked on otelcol 0.88 must work here, so what leaves `:8888/metrics` has 0.88's names, types,
//! labels and texts (reference §3.1): no `_total`, no unit suffix, and constant labels that say who speaks.
//!
//! ```text
//! component ── XMetrics ──▶ Counter / Gauge / Histogram ──┐
//!                                                         ├──▶ registry ──▶ text()
//! books, /proc, allocator ◀── asked at each scrape ─ pull ┘
//! ```
//!
//! What always holds:
//! * A series appears with its first event, not before, as in the original.
//! * Asking for a family again gives the same family: an actor built anew goes on counting where the fallen one
//!   stopped.
//! * Label values come from the configuration (component ids), never from telemetry, so their number is bounded.

use crate::base::{Dice, Swap};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TEXT_FORMAT, TextEncoder,
};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The media type of [`Metrics::text`], to the letter what 0.88 answers (reference §3.1). The encoder's own constant
/// stops before the charset.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How much is measured: `service.telemetry.metrics.level` (reference §1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Nothing is served.
    None,
    /// The default of 0.88.
    #[default]
    Basic,
    /// The default since 0.99; the same as `Basic` here.
    Normal,
    /// Also `otelcol_processor_batch_batch_send_size_bytes`.
    Detailed,
}

/// Who this process says it is: the resource attributes of its own telemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    attributes: BTreeMap<String, String>,
    /// The automatic `service.instance.id`, whether or not it is among them.
    instance: String,
}

const INSTANCE: &str = "service.instance.id";

impl Resource {
    /// The automatic attributes, changed by `service.telemetry.resource`: a text replaces or adds, `None` removes.
    ///
    /// `service.instance.id` is a UUIDv4 drawn anew at each start, as the original's, so that a restart shows.
    #[must_use]
    pub fn new(changes: &BTreeMap<String, Option<String>>, dice: &mut Dice) -> Resource {
        let instance = uuid_v4(dice.id128());
        let mut attributes = BTreeMap::from([
            (INSTANCE.to_owned(), instance.clone()),
            ("service.name".to_owned(), env!("CARGO_PKG_NAME").to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        for (key, change) in changes {
            match change {
                Some(value) => attributes.insert(key.clone(), value.clone()),
                None => attributes.remove(key),
            };
        }
        Resource { attributes, instance }
    }

    /// The same process by other changes.
    #[must_use]
    pub fn changed(&self, changes: &BTreeMap<String, Option<String>>) -> Resource {
        let mut resource = Resource::new(changes, &mut Dice::seeded(0));
        if !changes.contains_key(INSTANCE) {
            resource.attributes.insert(INSTANCE.to_owned(), self.instance.clone());
        }
        Resource { instance: self.instance.clone(), ..resource }
    }

    /// An attribute by its dotted name, unless it was removed.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// The root of all numbers. Clones are handles on the same registry.
#[derive(Clone)]
pub struct Metrics(Arc<Root>);

struct Root {
    registry: Registry,
    shown: Swap<Shown>,
    families: Mutex<HashMap<&'static str, Family>>,
}

/// One series as it is shown, for [`Metrics::look`].
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Of the family.
    pub name: String,
    /// Without those that all series have.
    pub labels: Vec<(String, String)>,
    /// Now.
    pub value: f64,
}

impl Series {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// How it is shown: what may change while the process runs.
#[derive(Debug, Clone)]
struct Shown {
    level: Level,
    resource: Resource,
    constant_labels: BTreeMap<String, String>,
}

/// Families that are shown from a level on; the others always are.
const FROM: [(&str, Level); 1] = [("otelcol_processor_batch_batch_send_size_bytes", Level::Detailed)];

impl Shown {
    fn new(resource: &Resource, level: Level) -> Shown {
        let constant_labels = resource.iter().map(|(key, value)| (label_name(key), value.to_owned())).collect();
        Shown { level, resource: resource.clone(), constant_labels }
    }

    fn has(&self, family: &MetricFamily) -> bool {
        FROM.iter().all(|(name, level)| *name != family.name() || self.level >= *level)
    }

    /// Adds the constant labels. A resource attribute that has the name of a label of the family gives way to it: a
    /// series that names one label twice is refused by Prometheus as a whole.
    fn label(&self, family: &mut MetricFamily) {
        for metric in family.mut_metric() {
            let mut labels = metric.take_label();
            for (key, value) in self.constant_labels.iter().filter(|(key, _)| *key != "le") {
                if !labels.iter().any(|label| label.name() == key) {
                    let mut pair = LabelPair::default();
                    pair.set_name(key.clone());
                    pair.set_value(value.clone());
                    labels.push(pair);
                }
            }
            labels.sort();
            metric.set_label(labels);
        }
    }
}

/// A family as it was asked for; `shape` is compared when it is asked for again.
struct Family {
    shape: Shape,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
struct Shape {
    kind: &'static str,
    labels: &'static [&'static str],
}

enum Kind {
    Counters(IntCounterVec),
    Gauges(GaugeVec),
    Histograms(HistogramVec),
    Pulled(Arc<Mutex<Puller>>),
}

/// What a family measures, for [`Metrics::pull`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulled {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

type Puller = Box<dyn Fn(&mut Samples) + Send>;

impl Metrics {
    /// An empty registry whose series all carry `resource` as labels.
    #[must_use]
    pub fn new(resource: &Resource, level: Level) -> Metrics {
        let shown = Swap::new(Shown::new(resource, level));
        Metrics(Arc::new(Root { registry: Registry::new(), shown, families: Mutex::default() }))
    }

    /// From now on all series carry these labels, and so much is shown.
    pub fn change(&self, resource: &Resource, level: Level) {
        self.0.shown.set(Shown::new(resource, level));
    }

    /// A registry for a test or a tool: basic level, and an instance id that does not change.
    #[must_use]
    pub fn detached() -> Metrics {
        Metrics::new(&Resource::new(&BTreeMap::new(), &mut Dice::seeded(0)), Level::Basic)
    }

    /// Who speaks.
    #[must_use]
    pub fn resource(&self) -> Resource {
        self.0.shown.get().resource.clone()
    }

    /// Everything now, families by name, without the labels every series has.
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let shown = self.0.shown.get();
        self.0.registry.gather().into_iter().filter(|family| shown.has(family)).collect()
    }

    /// The counts and values of these families now, for who asks in place of a scrape.
    #[must_use]
    pub fn look(&self, names: &[&str]) -> Vec<Series> {
        let mut found = Vec::new();
        for family in self.families().iter().filter(|family| names.contains(&family.name())) {
            for metric in family.get_metric() {
                let value = match family.get_field_type() {
                    MetricType::COUNTER => metric.get_counter().get_value(),
                    MetricType::GAUGE => metric.get_gauge().get_value(),
                    _ => continue,
                };
                let labels = metric.get_label().iter().map(|label| (label.name().to_owned(), label.value().to_owned()));
                found.push(Series { name: family.name().to_owned(), labels: labels.collect(), value });
            }
        }
        found
    }

    /// How much is to be measured.
    #[must_use]
    pub fn level(&self) -> Level {
        self.0.shown.get().level
    }

    /// Numbers that only grow, one for each combination of `labels`.
    ///
    /// # Panics
    /// When the same name was asked for in another shape, or is no metric name: a mistake of ours, found by any test
    /// that builds the component.
    #[must_use]
    pub fn counters(&self, name: &'static str, help: &str, labels: &'static [&'static str]) -> Counters {
        let family = self.family(name, Shape { kind: "counter", labels }, |root| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels).expect(WELL_FORMED);
            root.registry.register(Box::new(vec.clone())).expect(FIRST);
            Kind::Counters(vec)
        });
        match family {
            Kind::Counters(vec) => Counters(vec),
            _ => unreachable!("the shape was compared"),
        }
    }

    /// Numbers that go up and down.
    ///
    /// # Panics
    /// As [`Metrics::counters`].
    #[must_use]
    pub fn gauges(&self, name: &'static str, help: &str, labels: &'static [&'static str]) -> Gauges {
        let family = self.family(name, Shape { kind: "gauge", labels }, |root| {
            let vec = GaugeVec::new(Opts::new(name, help), labels).expect(WELL_FORMED);
            root.registry.register(Box::new(vec.clone())).expect(FIRST);
            Kind::Gauges(vec)
        });
        match family {
            Kind::Gauges(vec) => Gauges(vec),
            _ => unreachable!("the shape was compared"),
        }
    }

    /// Distributions; `buckets` are upper bounds, growing, `+Inf` is added.
    ///
    /// # Panics
    /// As [`Metrics::counters`].
    #[must_use]
    pub fn histograms(
        &self,
        name: &'static str,
        help: &str,
        labels: &'static [&'static str],
        buckets: &[f64],
    ) -> Histograms {
        let family = self.family(name, Shape { kind: "histogram", labels }, |root| {
            let opts = HistogramOpts::from(Opts::new(name, help)).buckets(buckets.to_vec());
            let vec = HistogramVec::new(opts, labels).expect(WELL_FORMED);
            root.registry.register(Box::new(vec.clone())).expect(FIRST);
            Kind::Histograms(vec)
        });
        match family {
            Kind::Histograms(vec) => Histograms(vec),
            _ => unreachable!("the shape was compared"),
        }
    }

    /// A family whose samples are read when somebody asks, from what is kept elsewhere anyway (the spool's books,
    /// `/proc`). `read` runs on the server's thread: it must not block. Asking again replaces `read`.
    ///
    /// # Panics
    /// As [`Metrics::counters`].
    pub fn pull(
        &self,
        kind: Pulled,
        name: &'static str,
        help: &str,
        labels: &'static [&'static str],
        read: impl Fn(&mut Samples) + Send + 'static,
    ) {
        let read: Puller = Box::new(read);
        let word = match kind {
            Pulled::Counter => "pulled counter",
            Pulled::Gauge => "pulled gauge",
        };
        let family = self.family(name, Shape { kind: word, labels }, |root| {
            let names = labels.iter().map(|&label| label.to_owned()).collect();
            let desc = Desc::new(name.to_owned(), help.to_owned(), names, HashMap::new()).expect(WELL_FORMED);
            let puller = Arc::new(Mutex::new(Box::new(|_: &mut Samples| {}) as Puller));
            let collector = PullCollector { desc, kind, puller: Arc::clone(&puller) };
            root.registry.register(Box::new(collector)).expect(FIRST);
            Kind::Pulled(puller)
        });
        match family {
            Kind::Pulled(puller) => *lock(&puller) = read,
            _ => unreachable!("the shape was compared"),
        }
    }

    /// Everything, in Prometheus's text format, families by name.
    #[must_use]
    pub fn text(&self) -> String {
        debug_assert!(CONTENT_TYPE.starts_with(TEXT_FORMAT));
        let mut text = String::new();
        let (shown, mut families) = (self.0.shown.get(), self.families());
        families.iter_mut().for_each(|family| shown.label(family));
        // The encoder refuses only families without name or samples; the registry leaves those out.
        let encoded = TextEncoder::new().encode_utf8(&families, &mut text);
        debug_assert!(encoded.is_ok());
        text
    }

    /// The family of this name, made by `make` if nobody asked for it before.
    fn family(&self, name: &'static str, shape: Shape, make: impl FnOnce(&Root) -> Kind) -> Kind {
        let mut families = lock(&self.0.families);
        let family = families.entry(name).or_insert_with(|| Family { shape: shape.clone(), kind: make(&self.0) });
        assert_eq!(family.shape, shape, "metric {name} has one shape wherever it is asked for");
        match &family.kind {
            Kind::Counters(vec) => Kind::Counters(vec.clone()),
            Kind::Gauges(vec) => Kind::Gauges(vec.clone()),
            Kind::Histograms(vec) => Kind::Histograms(vec.clone()),
            Kind::Pulled(puller) => Kind::Pulled(Arc::clone(puller)),
        }
    }
}

const WELL_FORMED: &str = "metric and label names are literals that a test has seen";
const FIRST: &str = "the map of families lets each name register once";

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metrics({} families)", lock(&self.0.families).len())
    }
}

/// A family of numbers that only grow.
#[derive(Debug, Clone)]
pub struct Counters(IntCounterVec);

impl Counters {
    /// The counter with these label values, which is not shown before it is first added to.
    #[must_use]
    pub fn with(&self, values: &[&str]) -> Counter {
        Counter(Arc::new(Lazy::new(self.0.clone(), values)))
    }
}

/// One number that only grows.
#[derive(Debug, Clone)]
pub struct Counter(Arc<Lazy<IntCounterVec, IntCounter>>);

impl Counter {
    /// Counts `n` more; 0 makes the series appear.
    pub fn add(&self, n: u64) {
        self.0.get(|vec, values| vec.with_label_values(values)).inc_by(n);
    }

    /// Counts one more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// The count of this process.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.cell.get().map_or(0, IntCounter::get)
    }
}

/// A family of numbers that go up and down.
#[derive(Debug, Clone)]
pub struct Gauges(GaugeVec);

impl Gauges {
    /// The gauge with these label values, which is not shown before it is first set.
    #[must_use]
    pub fn with(&self, values: &[&str]) -> Gauge {
        Gauge(Arc::new(Lazy::new(self.0.clone(), values)))
    }
}

/// One number that goes up and down.
#[derive(Debug, Clone)]
pub struct Gauge(Arc<Lazy<GaugeVec, prometheus::Gauge>>);

impl Gauge {
    /// What it is now.
    pub fn set(&self, value: f64) {
        self.0.get(|vec, values| vec.with_label_values(values)).set(value);
    }

    /// What it is now, for a count.
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53, and a scrape knows only doubles
    pub fn set_count(&self, count: u64) {
        self.set(count as f64);
    }
}

/// A family of distributions.
#[derive(Debug, Clone)]
pub struct Histograms(HistogramVec);

impl Histograms {
    /// The distribution with these label values, which is not shown before its first sample.
    #[must_use]
    pub fn with(&self, values: &[&str]) -> Histogram {
        Histogram(Arc::new(Lazy::new(self.0.clone(), values)))
    }
}

/// One distribution.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Lazy<HistogramVec, prometheus::Histogram>>);

impl Histogram {
    /// One more sample.
    pub fn observe(&self, value: f64) {
        self.0.get(|vec, values| vec.with_label_values(values)).observe(value);
    }
}

/// A child of a family, made when first used: the vectors of the `prometheus` crate show a child once it is made.
#[derive(Debug)]
struct Lazy<V, C> {
    vec: V,
    values: Vec<String>,
    cell: OnceLock<C>,
}

impl<V, C> Lazy<V, C> {
    fn new(vec: V, values: &[&str]) -> Lazy<V, C> {
        Lazy { vec, values: values.iter().map(|&value| value.to_owned()).collect(), cell: OnceLock::new() }
    }

    fn get(&self, make: impl FnOnce(&V, &[String]) -> C) -> &C {
        self.cell.get_or_init(|| make(&self.vec, &self.values))
    }
}

/// Where a [`Metrics::pull`] puts what it read.
#[derive(Debug)]
pub struct Samples {
    kind: Pulled,
    desc: Desc,
    metrics: Vec<Metric>,
}

impl Samples {
    /// One sample; `values` in the order of the family's labels.
    ///
    /// # Panics
    /// In debug builds, when the number of values is not that of the labels.
    pub fn push(&mut self, values: &[&str], value: f64) {
        debug_assert_eq!(values.len(), self.desc.variable_labels.len(), "{}", self.desc.fq_name);
        let mut pairs = self.desc.const_label_pairs.clone();
        for (name, value) in self.desc.variable_labels.iter().zip(values) {
            let mut pair = LabelPair::default();
            pair.set_name(name.clone());
            pair.set_value((*value).to_owned());
            pairs.push(pair);
        }
        pairs.sort();
        let mut metric = Metric::from_label(pairs);
        match self.kind {
            Pulled::Counter => {
                let mut counter = prometheus::proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Pulled::Gauge => {
                let mut gauge = prometheus::proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }

    /// One sample of a count.
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53, and a scrape knows only doubles
    pub fn push_count(&mut self, values: &[&str], count: u64) {
        self.push(values, count as f64);
    }
}

struct PullCollector {
    desc: Desc,
    kind: Pulled,
    puller: Arc<Mutex<Puller>>,
}

impl Collector for PullCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut samples = Samples { kind: self.kind, desc: self.desc.clone(), metrics: Vec::new() };
        (lock(&self.puller))(&mut samples);
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(match self.kind {
            Pulled::Counter => MetricType::COUNTER,
            Pulled::Gauge => MetricType::GAUGE,
        });
        family.set_metric(samples.metrics);
        vec![family]
    }
}

/// A resource attribute's name as a label: what is no ASCII letter, digit or `_` becomes `_`, as in 0.88
/// (service/telemetry.go, `sanitizePrometheusKey`); a digit in front, which Prometheus refuses, gets a `_` before it.
fn label_name(key: &str) -> String {
    let mut name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}

/// A random 128-bit number in the dress of RFC 9562's version 4.
fn uuid_v4(random: u128) -> String {
    let id = random & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let hex = format!("{id:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A lock whose holder panicked guards numbers that are right all the same.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
