//! Numbered telemetry: every item bears who made it and its number, so that lost, duplicated and reordered are
//! not opinions.
//!
//! ```text
//! Numbered ── request(1_000) ──▶ Export…ServiceRequest bytes ── agent ──▶ far end ── numbers() ──▶ Tally
//!            items 0, 1, 2, …    attributes tfo.source, tfo.seq                       (source, seq) of each item
//! ```
//!
//! What always holds:
//! * The same signal, source and number give the same bytes, on every machine: chance comes from the number itself.
//! * A request is written from stencils: one copy and a few patches per item, nothing is decoded or encoded by prost,
//!   so that a load generator stays far ahead of the agent it drives.
//! * Log records are 390 B serialized and shrink like real ones (137 B by lz4, 103 B by gzip in requests of 1,000):
//!   they carry random ids, a session and numbers; without such bytes a compressor would flatter itself.

mod stencils;

use super::wire::{self, NotProtobuf, put_varint, varint_len};
use crate::otlp::Signal;
use std::ops::Range;

/// The attribute that bears an item's number, an int.
pub const SEQ_KEY: &str = "tfo.seq";
/// The attribute that bears who made the item, an int.
pub const SOURCE_KEY: &str = "tfo.source";

/// Who makes the items: numbers are unique within one source and signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Source(pub u32);

/// One item's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    /// Who made it.
    pub source: Source,
    /// Its number there.
    pub seq: u64,
}

/// A maker of numbered requests of one signal.
#[derive(Debug, Clone)]
pub struct Numbered {
    signal: Signal,
    source: Source,
    next: u64,
    start_ns: u64,
    envelope: Envelope,
    stencils: Vec<Stencil>,
}

/// One request and the numbers in it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The serialized Export…ServiceRequest.
    pub bytes: Vec<u8>,
    /// The numbers of its items.
    pub seqs: Range<u64>,
}

/// The first item's time: 2026-01-01T00:00:00Z. Each later one is a millisecond younger, so data times tell order too.
pub const START_NS: u64 = 1_767_225_600_000_000_000;
/// Time between two items, ns.
pub const STEP_NS: u64 = 1_000_000;

impl Numbered {
    /// Begins at number 0.
    #[must_use]
    pub fn new(signal: Signal, source: Source) -> Numbered {
        let stencils = match signal {
            Signal::Traces => vec![stencils::span(source)],
            Signal::Metrics => stencils::points(source),
            Signal::Logs => vec![stencils::log_record(source)],
        };
        Numbered { signal, source, next: 0, start_ns: START_NS, envelope: stencils::envelope(), stencils }
    }

    /// Goes on at `seq`.
    #[must_use]
    pub fn starting_at(mut self, seq: u64) -> Numbered {
        self.next = seq;
        self
    }

    /// Item 0 happened at `start_ns`, ns since 1970.
    #[must_use]
    pub fn since(mut self, start_ns: u64) -> Numbered {
        self.start_ns = start_ns;
        self
    }

    /// What it makes.
    #[must_use]
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// Who makes it.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// The number of the next item.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// The next `items` items as one request.
    pub fn request(&mut self, items: u32) -> Request {
        let mut bytes = Vec::new();
        let seqs = self.write(items, &mut bytes);
        Request { bytes, seqs }
    }

    /// [`Numbered::request`], appended to `out`, which a load generator keeps.
    pub fn write(&mut self, items: u32, out: &mut Vec<u8>) -> Range<u64> {
        let seqs = self.next..self.next.saturating_add(u64::from(items));
        self.next = seqs.end;
        let chunks = chunks(&seqs, self.stencils.len());
        let groups = || self.stencils.iter().zip(&chunks).filter(|(_, seqs)| !seqs.is_empty());

        // Lengths inside out, then one pass outside in: no byte is moved twice.
        let items_len: usize = groups().map(|(stencil, seqs)| stencil.group_len(seqs)).sum();
        let scope_len = self.envelope.scope.len() + items_len;
        let resource_len = self.envelope.resource.len() + 1 + varint_len(scope_len as u64) + scope_len;
        out.reserve(1 + varint_len(resource_len as u64) + resource_len);
        put_len(out, RESOURCES, resource_len);
        out.extend_from_slice(&self.envelope.resource);
        put_len(out, SCOPES, scope_len);
        out.extend_from_slice(&self.envelope.scope);
        for (stencil, seqs) in groups() {
            stencil.write_group(seqs, self.source, self.start_ns, out);
        }
        seqs
    }
}

// Field tags of the three request types, which share their outer shape (opentelemetry-proto, collector/*/v1).
const RESOURCES: u8 = 0x0a; // Export…ServiceRequest.resource_x = 1
const SCOPES: u8 = 0x12; // ResourceX.scope_x = 2
const ITEMS: u8 = 0x12; // ScopeX.spans, .log_records, .metrics = 2

/// `seqs` in `n` runs of nearly equal length, in order.
fn chunks(seqs: &Range<u64>, n: usize) -> Vec<Range<u64>> {
    let (n, len) = (n as u64, seqs.end - seqs.start);
    (0..n).map(|i| seqs.start + len * i / n..seqs.start + len * (i + 1) / n).collect()
}

fn put_len(out: &mut Vec<u8>, tag: u8, len: usize) {
    out.push(tag);
    put_varint(out, len as u64);
}

/// What stands around the items: the same in every request.
#[derive(Debug, Clone)]
struct Envelope {
    resource: Vec<u8>,
    scope: Vec<u8>,
}

/// An item with holes in it, and the metric around it if it is a data point.
#[derive(Debug, Clone)]
struct Stencil {
    /// The item without its number, which comes last because its length varies.
    bytes: Vec<u8>,
    /// What changes from item to item, by offset in `bytes`.
    holes: Vec<(usize, Hole)>,
    /// Tag of the item's attribute list.
    attributes: u8,
    metric: Option<Metric>,
}

#[derive(Debug, Clone, Copy)]
enum Hole {
    /// The item's time, fixed64.
    Time,
    /// A double that grows with the number.
    Value,
    /// Random bytes.
    Raw(usize),
    /// Random hexadecimal digits.
    Hex(usize),
    /// Random decimal digits.
    Digits(usize),
}

/// The metric around data points of one kind: `Metric { head, data: Kind { points…, tail } }`.
#[derive(Debug, Clone)]
struct Metric {
    head: Vec<u8>,
    kind: u8,
    tail: Vec<u8>,
}

impl Stencil {
    /// Serialized length of the items (and their metric), with their tags.
    fn group_len(&self, seqs: &Range<u64>) -> usize {
        match &self.metric {
            None => self.items_len(seqs),
            Some(metric) => {
                let len = self.metric_len(metric, seqs);
                1 + varint_len(len as u64) + len
            }
        }
    }

    fn metric_len(&self, metric: &Metric, seqs: &Range<u64>) -> usize {
        let data = self.items_len(seqs) + metric.tail.len();
        metric.head.len() + 1 + varint_len(data as u64) + data
    }

    fn items_len(&self, seqs: &Range<u64>) -> usize {
        // A number's varint has 1 to 10 bytes; all numbers of one length make items of one length.
        (1..=10_u32)
            .map(|len| {
                let low = if len == 1 { 0 } else { 1 << (7 * (len - 1)) };
                let high = if len == 10 { u64::MAX } else { (1 << (7 * len)) - 1 };
                let (low, high) = (low.max(seqs.start), high.min(seqs.end.saturating_sub(1)));
                let many = if seqs.is_empty() || low > high { 0 } else { high - low + 1 };
                let item = self.item_len(len as usize);
                usize::try_from(many).expect("a request's items fit in memory") * (1 + varint_len(item as u64) + item)
            })
            .sum()
    }

    /// Length of an item whose number takes `seq_len` bytes.
    fn item_len(&self, seq_len: usize) -> usize {
        self.bytes.len() + SEQ_ATTRIBUTE_LEN + seq_len
    }

    fn write_group(&self, seqs: &Range<u64>, source: Source, start_ns: u64, out: &mut Vec<u8>) {
        let tag = match &self.metric {
            None => ITEMS,
            Some(metric) => {
                put_len(out, ITEMS, self.metric_len(metric, seqs));
                out.extend_from_slice(&metric.head);
                put_len(out, metric.kind, self.items_len(seqs) + metric.tail.len());
                POINTS
            }
        };
        for seq in seqs.clone() {
            self.write_item(tag, Mark { source, seq }, start_ns, out);
        }
        if let Some(metric) = &self.metric {
            out.extend_from_slice(&metric.tail);
        }
    }

    fn write_item(&self, tag: u8, mark: Mark, start_ns: u64, out: &mut Vec<u8>) {
        let seq_len = varint_len(mark.seq);
        put_len(out, tag, self.item_len(seq_len));
        let base = out.len();
        out.extend_from_slice(&self.bytes);
        let mut noise = Noise(mark.seq ^ u64::from(mark.source.0).rotate_left(32));
        for &(offset, hole) in &self.holes {
            let at = &mut out[base + offset..];
            match hole {
                Hole::Time => {
                    let ns = start_ns.wrapping_add(mark.seq.wrapping_mul(STEP_NS));
                    at[..8].copy_from_slice(&ns.to_le_bytes());
                }
                #[allow(clippy::cast_precision_loss)] // a value to look at, not to compute with
                Hole::Value => at[..8].copy_from_slice(&(mark.seq as f64 * 0.25).to_le_bytes()),
                Hole::Raw(n) => noise.raw(&mut at[..n]),
                Hole::Hex(n) => noise.digits::<16>(&mut at[..n]),
                Hole::Digits(n) => noise.digits::<10>(&mut at[..n]),
            }
        }
        // attributes: KeyValue { key: "tfo.seq", value: AnyValue { int_value: seq } }; no length here reaches 128.
        let any = u8::try_from(1 + seq_len).expect("a varint has at most ten bytes");
        out.extend_from_slice(&[self.attributes, 11 + any, 0x0a, 7]);
        out.extend_from_slice(SEQ_KEY.as_bytes());
        out.extend_from_slice(&[0x12, any, 0x18]);
        put_varint(out, mark.seq);
    }
}

const POINTS: u8 = 0x0a; // Gauge, Sum, …: data_points = 1
/// Bytes of the number's attribute beside the varint itself: two tags and lengths, key, value, int.
const SEQ_ATTRIBUTE_LEN: usize = 2 + 2 + 7 + 2 + 1;

/// Chance that depends on the item alone (splitmix64).
struct Noise(u64);

impl Noise {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn raw(&mut self, to: &mut [u8]) {
        for chunk in to.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
    }

    fn digits<const RADIX: u64>(&mut self, to: &mut [u8]) {
        let mut word = self.word();
        for digit in to {
            *digit = b"0123456789abcdef"[usize::try_from(word % RADIX).expect("a digit")];
            word /= RADIX;
        }
    }
}

/// Calls `each` for every item of a serialized request, in order; with `None` for an item that bears no number
/// (an agent's own heartbeats and gap reports travel the same road).
///
/// The number and the source may also be decimal texts, as a foreign client or a log file may bear them.
///
/// # Errors
/// When the bytes are no protobuf; items before the fault were told already.
pub fn numbers(signal: Signal, request: &[u8], mut each: impl FnMut(Option<Mark>)) -> Result<(), NotProtobuf> {
    for resource in wire::messages(request, 1) {
        for scope in wire::messages(resource?, 2) {
            for item in wire::messages(scope?, 2) {
                match signal {
                    Signal::Traces => each(mark(item?, 9)?),
                    Signal::Logs => each(mark(item?, 6)?),
                    Signal::Metrics => points(item?, &mut each)?,
                }
            }
        }
    }
    Ok(())
}

/// The data points of a metric: field of the data → field of a point's attributes.
const POINT_KINDS: [(u32, u32); 5] = [(5, 7), (7, 7), (9, 9), (10, 1), (11, 7)];

fn points(metric: &[u8], each: &mut impl FnMut(Option<Mark>)) -> Result<(), NotProtobuf> {
    for field in wire::fields(metric) {
        let (number, value) = field?;
        let Some(&(_, attributes)) = POINT_KINDS.iter().find(|(kind, _)| *kind == number) else { continue };
        let wire::Value::Bytes(data) = value else { return Err(NotProtobuf) };
        for point in wire::messages(data, 1) {
            each(mark(point?, attributes)?);
        }
    }
    Ok(())
}

fn mark(item: &[u8], attributes: u32) -> Result<Option<Mark>, NotProtobuf> {
    let (mut seq, mut source) = (None, Source::default());
    for attribute in wire::messages(item, attributes) {
        let attribute = attribute?;
        // Most attributes are neither: look at the key before reading the value.
        if attribute.get(2..6) != Some(b"tfo.") {
            continue;
        }
        let (mut key, mut value) = (&b""[..], None);
        for field in wire::fields(attribute) {
            match field? {
                (1, wire::Value::Bytes(k)) => key = k,
                (2, wire::Value::Bytes(v)) => value = number(v)?,
                _ => {}
            }
        }
        if key == SEQ_KEY.as_bytes() {
            seq = value;
        } else if key == SOURCE_KEY.as_bytes() {
            source = Source(value.and_then(|v| u32::try_from(v).ok()).unwrap_or_default());
        }
    }
    Ok(seq.map(|seq| Mark { source, seq }))
}

fn number(any_value: &[u8]) -> Result<Option<u64>, NotProtobuf> {
    let mut found = None;
    for field in wire::fields(any_value) {
        match field? {
            (3, wire::Value::Varint(n)) => found = Some(n),
            (1, wire::Value::Bytes(text)) => found = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    };
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use prost::Message as _;

    fn read(signal: Signal, request: &[u8]) -> Vec<Option<Mark>> {
        let mut marks = Vec::new();
        numbers(signal, request, |mark| marks.push(mark)).expect("we wrote it");
        marks
    }

    /// Goal: the far end reads back exactly what was written, also where a number grows by a byte (127 → 128,
    /// 16,383 → 16,384), at the last number there is, and in requests glued together.
    #[test]
    fn every_item_bears_its_number_in_order() {
        for signal in Signal::ALL {
            for (start, items) in [(0, 1), (0, 0), (120, 20), (16_380, 9), (u64::MAX - 5, 5), (1 << 62, 300)] {
                let mut made = Numbered::new(signal, Source(7)).starting_at(start);
                let request = made.request(items);
                assert_eq!(request.seqs, start..start + u64::from(items));
                let expected: Vec<_> = request.seqs.map(|seq| Some(Mark { source: Source(7), seq })).collect();
                assert_eq!(read(signal, &request.bytes), expected, "{signal} from {start}");
            }
            let mut made = Numbered::new(signal, Source(u32::MAX));
            let mut glued = made.request(6).bytes;
            made.write(7, &mut glued);
            assert_eq!(
                read(signal, &glued).into_iter().flatten().map(|m| m.seq).collect::<Vec<_>>(),
                (0..13).collect::<Vec<_>>()
            );
        }
    }

    /// Goal: what we write is OTLP to others, not only to our own reader. Method: prost decodes it, sees every item
    /// and nothing it does not know (re-encoding gives the same length).
    #[test]
    fn a_request_is_what_prost_calls_one() {
        let logs = Numbered::new(Signal::Logs, Source(1)).request(130).bytes;
        let decoded = ExportLogsServiceRequest::decode(&logs[..]).expect("logs");
        let records = &decoded.resource_logs[0].scope_logs[0].log_records;
        assert_eq!((records.len(), records[3].trace_id.len(), records[3].span_id.len()), (130, 16, 8));
        assert_ne!(records[3].trace_id, records[4].trace_id);
        assert_eq!(records[5].time_unix_nano, START_NS + 5 * STEP_NS);
        assert_eq!(decoded.encoded_len(), logs.len());

        let traces = Numbered::new(Signal::Traces, Source(1)).request(130).bytes;
        let decoded = ExportTraceServiceRequest::decode(&traces[..]).expect("traces");
        assert_eq!(decoded.resource_spans[0].scope_spans[0].spans.len(), 130);
        assert_eq!(decoded.encoded_len(), traces.len());

        let metrics = Numbered::new(Signal::Metrics, Source(1)).request(133).bytes;
        let decoded = ExportMetricsServiceRequest::decode(&metrics[..]).expect("metrics");
        let kinds: Vec<_> = decoded.resource_metrics[0].scope_metrics[0]
            .metrics
            .iter()
            .map(|metric| match metric.data.as_ref().expect("every metric has data") {
                Data::Gauge(m) => ("gauge", m.data_points.len()),
                Data::Sum(m) => ("sum", m.data_points.len()),
                Data::Histogram(m) => ("histogram", m.data_points.len()),
                Data::ExponentialHistogram(m) => ("exponential", m.data_points.len()),
                Data::Summary(m) => ("summary", m.data_points.len()),
            })
            .collect();
        assert_eq!(kinds, [("gauge", 26), ("sum", 27), ("histogram", 26), ("exponential", 27), ("summary", 27)]);
        assert_eq!(decoded.encoded_len(), metrics.len());
    }

    /// The budgets of the issue are per "390-byte record" that lz4 brings to 136 B, so ours must be one.
    #[test]
    fn a_log_record_weighs_390_bytes_and_shrinks_like_a_real_one() {
        let request = Numbered::new(Signal::Logs, Source(1)).starting_at(1_000_000).request(1_000);
        let each = request.bytes.len() / 1_000;
        assert!((385..=395).contains(&each), "{each} B");
        let small = lz4_flex::compress(&request.bytes).len() / 1_000;
        assert!((130..=145).contains(&small), "{small} B");
    }

    #[test]
    fn an_item_without_a_number_is_told_as_such_and_texts_count_as_numbers() {
        use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
        let text = |key: &str, value: &str| KeyValue {
            key: key.into(),
            value: Some(AnyValue { value: Some(Value::StringValue(value.into())) }),
            ..KeyValue::default()
        };
        let mut decoded =
            ExportLogsServiceRequest::decode(&Numbered::new(Signal::Logs, Source(1)).request(3).bytes[..])
                .expect("logs");
        let records = &mut decoded.resource_logs[0].scope_logs[0].log_records;
        records[0].attributes.clear();
        records[1].attributes = vec![text(SOURCE_KEY, "9"), text(SEQ_KEY, "44")];
        let marks = read(Signal::Logs, &decoded.encode_to_vec());
        assert_eq!(marks[0], None);
        assert_eq!(marks[1], Some(Mark { source: Source(9), seq: 44 }));
        assert_eq!(marks[2], Some(Mark { source: Source(1), seq: 2 }));
    }

    #[test]
    fn bytes_that_are_no_request_are_refused_and_never_panic() {
        let whole = Numbered::new(Signal::Metrics, Source(3)).request(40).bytes;
        let mut refused = 0;
        for end in 0..whole.len() {
            refused += usize::from(numbers(Signal::Metrics, &whole[..end], |_| {}).is_err());
        }
        assert!(refused > whole.len() - 10, "a cut request is no request: {refused} of {}", whole.len());
        let mut dice = crate::base::Dice::seeded(5);
        for _ in 0..20_000 {
            let mut torn = whole.clone();
            for _ in 0..4 {
                let at = usize::try_from(dice.within(0..torn.len() as u64)).expect("an offset");
                torn[at] = dice.u64().to_le_bytes()[0];
            }
            for signal in Signal::ALL {
                let _ = numbers(signal, &torn, |_| {});
            }
        }
    }

    #[test]
    fn the_same_number_gives_the_same_bytes() {
        let at_once = Numbered::new(Signal::Traces, Source(2)).starting_at(50).request(1);
        let mut later = Numbered::new(Signal::Traces, Source(2)).starting_at(49);
        later.request(1);
        assert_eq!(later.request(1).bytes, at_once.bytes);
        assert_ne!(Numbered::new(Signal::Traces, Source(3)).starting_at(50).request(1).bytes, at_once.bytes);
    }
}
