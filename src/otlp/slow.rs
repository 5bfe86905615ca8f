//! The slow path: everything the wire path does, done on decoded messages. The oracle of its tests.
//!
//! Written to be obviously right rather than fast: each function decodes with prost, does the plain thing to plain
//! vectors, and encodes again. Unknown fields do not survive it.

use super::edits::{Action, Groups, Keys, Source, Value, When};
use super::{Context, Item, Only, Rule, Signal, Target, Walked, value};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::{DecodeError, Message};
use std::collections::BTreeSet;

/// A decoded request.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Spans.
    Traces(ExportTraceServiceRequest),
    /// Data points.
    Metrics(ExportMetricsServiceRequest),
    /// Log records.
    Logs(ExportLogsServiceRequest),
}

/// What is done to every item: see [`Request::each_item`].
type Visit<'a> = dyn FnMut(&Item<'_>, Times, &mut Vec<KeyValue>) + 'a;

/// The times an item names; `observed` counts only where `time` is 0.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    time: u64,
    end: u64,
    observed: u64,
}

impl Request {
    /// Decodes.
    ///
    /// # Errors
    /// When prost cannot.
    pub fn decode(signal: Signal, bytes: &[u8]) -> Result<Request, DecodeError> {
        match signal {
            Signal::Traces => ExportTraceServiceRequest::decode(bytes).map(Request::Traces),
            Signal::Metrics => ExportMetricsServiceRequest::decode(bytes).map(Request::Metrics),
            Signal::Logs => ExportLogsServiceRequest::decode(bytes).map(Request::Logs),
        }
    }

    /// Encodes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Request::Traces(request) => request.encode_to_vec(),
            Request::Metrics(request) => request.encode_to_vec(),
            Request::Logs(request) => request.encode_to_vec(),
        }
    }

    /// Counts items and finds their first and last time.
    #[must_use]
    pub fn walked(&self) -> Walked {
        let mut items = 0;
        let mut times = Vec::new();
        self.clone().each_item(&mut |_, seen, _| {
            items += 1;
            times.extend([if seen.time == 0 { seen.observed } else { seen.time }, seen.end]);
        });
        times.retain(|&ns| ns != 0);
        let data_ns = times.iter().min().zip(times.iter().max()).map_or((0, 0), |(first, last)| (*first, *last));
        Walked { items, data_ns }
    }

    /// Carries processors out. An absent resource is an empty one to every reader, and left out afterwards.
    pub fn rewrite(&mut self, rules: &[Rule], context: &Context<'_>) {
        for rule in rules {
            match rule.target {
                Target::Resource => self.each_resource(&mut |resource| {
                    apply(&mut resource.get_or_insert_default().attributes, &rule.actions, context);
                }),
                Target::Items => self.each_item(&mut |item, _, attributes| {
                    if rule.only.holds(item) {
                        apply(attributes, &rule.actions, context);
                    }
                }),
            }
        }
        self.forget_empty_resources();
    }

    /// Which items are meant, in their order.
    #[must_use]
    pub fn meant(&self, only: &Only) -> Vec<bool> {
        let mut meant = Vec::new();
        self.clone().each_item(&mut |item, _, _| meant.push(only.holds(item)));
        meant
    }

    /// Makes an empty resource an absent one, which means the same.
    pub fn forget_empty_resources(&mut self) {
        self.each_resource(&mut |resource| {
            if *resource == Some(Resource::default()) {
                *resource = None;
            }
        });
    }

    fn each_resource(&mut self, visit: &mut dyn FnMut(&mut Option<Resource>)) {
        match self {
            Request::Traces(request) => request.resource_spans.iter_mut().for_each(|it| visit(&mut it.resource)),
            Request::Metrics(request) => request.resource_metrics.iter_mut().for_each(|it| visit(&mut it.resource)),
            Request::Logs(request) => request.resource_logs.iter_mut().for_each(|it| visit(&mut it.resource)),
        }
    }

    fn each_item(&mut self, visit: &mut Visit<'_>) {
        match self {
            Request::Traces(request) => {
                for spans in &mut request.resource_spans {
                    for scope in &mut spans.scope_spans {
                        for span in &mut scope.spans {
                            let times =
                                Times { time: span.start_time_unix_nano, end: span.end_time_unix_nano, observed: 0 };
                            let around = Around::of(&spans.resource, &scope.scope, None, span);
                            visit(&around.item(), times, &mut span.attributes);
                        }
                    }
                }
            }
            Request::Logs(request) => {
                for logs in &mut request.resource_logs {
                    for scope in &mut logs.scope_logs {
                        for record in &mut scope.log_records {
                            let times =
                                Times { time: record.time_unix_nano, end: 0, observed: record.observed_time_unix_nano };
                            let around = Around::of(&logs.resource, &scope.scope, None, record);
                            visit(&around.item(), times, &mut record.attributes);
                        }
                    }
                }
            }
            Request::Metrics(request) => {
                for metrics in &mut request.resource_metrics {
                    for scope in &mut metrics.scope_metrics {
                        for metric in &mut scope.metrics {
                            let whole = metric.clone();
                            let around =
                                |point: &dyn Encode| Around::of(&metrics.resource, &scope.scope, Some(&whole), point);
                            each_point(metric, &around, visit);
                        }
                    }
                }
            }
        }
    }
}

fn each_point(metric: &mut Metric, around: &dyn Fn(&dyn Encode) -> Around, visit: &mut Visit<'_>) {
    macro_rules! points {
        ($data:expr) => {
            for point in &mut $data.data_points {
                let times = Times { time: point.time_unix_nano, ..Times::default() };
                let seen = around(point);
                visit(&seen.item(), times, &mut point.attributes);
            }
        };
    }
    match &mut metric.data {
        Some(Data::Gauge(data)) => points!(data),
        Some(Data::Sum(data)) => points!(data),
        Some(Data::Histogram(data)) => points!(data),
        Some(Data::ExponentialHistogram(data)) => points!(data),
        Some(Data::Summary(data)) => points!(data),
        None => {}
    }
}

/// Anything that can be encoded, as an object.
trait Encode {
    fn bytes(&self) -> Vec<u8>;
}

impl<M: Message> Encode for M {
    fn bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

/// What a condition is shown, owned.
struct Around {
    resource: Vec<u8>,
    scope: Vec<u8>,
    metric: Option<Vec<u8>>,
    item: Vec<u8>,
}

impl Around {
    fn of(
        resource: &Option<Resource>,
        scope: &Option<InstrumentationScope>,
        metric: Option<&Metric>,
        item: &dyn Encode,
    ) -> Around {
        Around {
            resource: resource.as_ref().map(Encode::bytes).unwrap_or_default(),
            scope: scope.as_ref().map(Encode::bytes).unwrap_or_default(),
            metric: metric.map(Encode::bytes),
            item: item.bytes(),
        }
    }

    fn item(&self) -> Item<'_> {
        Item { levels: [Some(&self.resource), Some(&self.scope), self.metric.as_deref(), Some(&self.item)] }
    }
}

fn any(value: &Value) -> AnyValue {
    AnyValue::decode(value.encode().as_slice()).expect("a configured value is a valid AnyValue")
}

fn bytes(pair: &KeyValue) -> Vec<u8> {
    pair.value.as_ref().map(Encode::bytes).unwrap_or_default()
}

/// Carries actions out on one list.
fn apply(list: &mut Vec<KeyValue>, actions: &[Action], context: &Context<'_>) {
    for action in actions {
        match action {
            Action::Set { key, source, when } => {
                let value = match source {
                    Source::Value(value) => Some(any(value)),
                    Source::Attribute(from) => {
                        list.iter().find(|pair| pair.key == *from).map(|pair| pair.value.clone().unwrap_or_default())
                    }
                    Source::Context(name) => context(name).map(|text| any(&Value::Text(text))),
                };
                if let Some(value) = value {
                    set(list, key, value, *when);
                }
            }
            Action::Delete(keys) => list.retain(|pair| !chosen(keys, &pair.key)),
            Action::Hash(keys) => {
                let names: BTreeSet<String> = list.iter().map(|pair| pair.key.clone()).collect();
                for key in names.iter().filter(|key| chosen(keys, key)) {
                    let first = list.iter().find(|pair| pair.key == *key).expect("the name was found in the list");
                    let hashed = any(&Value::Text(value::hashed(&bytes(first))));
                    set(list, key, hashed, When::Present);
                }
            }
            Action::Extract { key, groups: Groups { names, find } } => {
                let text = list.iter().find(|pair| pair.key == *key).and_then(|pair| value::text(&bytes(pair)));
                for (name, found) in names.iter().zip(text.and_then(|text| find(&text)).unwrap_or_default()) {
                    set(list, name, any(&Value::Text(found)), When::Always);
                }
            }
            Action::Convert { key, to } => {
                let first = list.iter().find(|pair| pair.key == *key);
                if let Some(value) = first.and_then(|pair| value::converted(&bytes(pair), *to)) {
                    set(list, key, any(&value), When::Present);
                }
            }
        }
    }
}

fn chosen(Keys { key, pattern }: &Keys, name: &str) -> bool {
    key.as_deref() == Some(name) || pattern.as_ref().is_some_and(|pattern| (pattern.0)(name))
}

/// Sets the first of a name and removes the others, or adds one.
fn set(list: &mut Vec<KeyValue>, key: &str, value: AnyValue, when: When) {
    let first = list.iter().position(|pair| pair.key == key);
    match (first, when) {
        (Some(_), When::Absent) | (None, When::Present) => {}
        (None, _) => list.push(KeyValue { key: key.to_owned(), value: Some(value), key_strindex: 0 }),
        (Some(first), _) => {
            list[first].value = Some(value);
            let mut n = 0;
            list.retain(|pair| {
                n += 1;
                n - 1 <= first || pair.key != key
            });
        }
    }
}
