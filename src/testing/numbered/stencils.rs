//! The shapes of the items: a gateway's log records, spans and data points, built once with one small writer.

use super::{Envelope, Hole, Metric, SOURCE_KEY, Source, Stencil, put_len};
use crate::testing::wire::put_varint;

/// Writes a message field by field and remembers where its holes are.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    holes: Vec<(usize, Hole)>,
}

impl Writer {
    fn bytes(mut self, field: u8, value: &[u8]) -> Writer {
        put_len(&mut self.bytes, field << 3 | 2, value.len());
        self.bytes.extend_from_slice(value);
        self
    }
    fn text(self, field: u8, value: &str) -> Writer {
        self.bytes(field, value.as_bytes())
    }
    fn number(mut self, field: u8, value: u64) -> Writer {
        self.bytes.push(field << 3);
        put_varint(&mut self.bytes, value);
        self
    }
    fn fixed64(mut self, field: u8, value: u64) -> Writer {
        self.bytes.push(field << 3 | 1);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn fixed32(mut self, field: u8, value: u32) -> Writer {
        self.bytes.push(field << 3 | 5);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn message(mut self, field: u8, value: &Writer) -> Writer {
        put_len(&mut self.bytes, field << 3 | 2, value.bytes.len());
        let base = self.bytes.len();
        self.holes.extend(value.holes.iter().map(|&(offset, hole)| (base + offset, hole)));
        self.bytes.extend_from_slice(&value.bytes);
        self
    }
    /// A field of eight bytes that changes with the item.
    fn hole64(mut self, field: u8, hole: Hole) -> Writer {
        self.holes.push((self.bytes.len() + 1, hole));
        self.fixed64(field, 0)
    }
    fn ids(self, trace: u8, span: u8) -> Writer {
        self.id(trace, 16).id(span, 8)
    }
    fn id(mut self, field: u8, len: usize) -> Writer {
        self.holes.push((self.bytes.len() + 2, Hole::Raw(len)));
        self.bytes(field, &[0; 16][..len])
    }
    /// A text in which `{x8}` is eight random hexadecimal digits and `{d3}` three decimal ones.
    fn holed_text(mut self, field: u8, value: &str) -> Writer {
        let mut plain = Vec::new();
        let mut holes = Vec::new();
        let mut rest = value;
        while let Some((before, (hole, after))) = rest.split_once('{').and_then(|(b, a)| Some((b, a.split_once('}')?)))
        {
            plain.extend_from_slice(before.as_bytes());
            let len: usize = hole[1..].parse().expect("a hole is written {x8} or {d3}");
            holes.push((plain.len(), if hole.starts_with('x') { Hole::Hex(len) } else { Hole::Digits(len) }));
            plain.resize(plain.len() + len, b'0');
            rest = after;
        }
        plain.extend_from_slice(rest.as_bytes());
        put_len(&mut self.bytes, field << 3 | 2, plain.len());
        let base = self.bytes.len();
        self.holes.extend(holes.into_iter().map(|(offset, hole)| (base + offset, hole)));
        self.bytes.extend_from_slice(&plain);
        self
    }
    /// `KeyValue { key, string_value }` in the list `field`.
    fn attribute(self, field: u8, key: &str, value: &str) -> Writer {
        let value = Writer::default().holed_text(1, value);
        self.message(field, &Writer::default().text(1, key).message(2, &value))
    }
    fn source(self, field: u8, source: Source) -> Writer {
        let value = Writer::default().number(3, source.0.into());
        self.message(field, &Writer::default().text(1, SOURCE_KEY).message(2, &value))
    }
    fn stencil(self, attributes: u8, metric: Option<Metric>) -> Stencil {
        Stencil { bytes: self.bytes, holes: self.holes, attributes: attributes << 3 | 2, metric }
    }
}

pub(super) fn envelope() -> Envelope {
    let resource = Writer::default()
        .attribute(1, "service.name", "numbered")
        .attribute(1, "service.version", "1.4.2")
        .attribute(1, "deployment.environment", "field");
    let scope = Writer::default().text(1, "io.telemetryflow.numbered").text(2, "1");
    Envelope {
        resource: Writer::default().message(1, &resource).bytes,
        scope: Writer::default().message(1, &scope).bytes,
    }
}

/// A log record of a gateway's proxy, about 390 B.
pub(super) fn log_record(source: Source) -> Stencil {
    let body = "request {x8}-{x4}-{x4}-{x4}-{x12}: {d3} readings of pump-station-{d3} taken, session {x16}, \
                upstream answered in {d6} us";
    Writer::default()
        .hole64(1, Hole::Time)
        .hole64(11, Hole::Time)
        .number(2, 9)
        .text(3, "INFO")
        .message(5, &Writer::default().holed_text(1, body))
        .attribute(6, "http.request.method", "POST")
        .attribute(6, "url.path", "/api/v1/devices/readings")
        .attribute(6, "network.peer.address", "10.20.{d2}.{d2}")
        .attribute(6, "thread.name", "ingest-worker-{d1}")
        .ids(9, 10)
        .fixed32(8, 1)
        .source(6, source)
        .stencil(6, None)
}

pub(super) fn span(source: Source) -> Stencil {
    Writer::default()
        .ids(1, 2)
        .id(4, 8)
        .text(5, "POST /api/v1/devices/readings")
        .number(6, 2)
        .hole64(7, Hole::Time)
        .hole64(8, Hole::Time)
        .attribute(9, "http.request.method", "POST")
        .attribute(9, "url.path", "/api/v1/devices/readings")
        .attribute(9, "network.peer.address", "10.20.{d2}.{d2}")
        .attribute(9, "device.id", "pump-station-{d3}")
        .message(15, &Writer::default().number(3, 1))
        .source(9, source)
        .stencil(9, None)
}

/// Data points of all five kinds; a request spreads its items evenly over them.
pub(super) fn points(source: Source) -> Vec<Stencil> {
    let device = |writer: Writer, field| writer.attribute(field, "device.id", "pump-station-{d3}");
    let timed = |field_start, field_time| {
        Writer::default().fixed64(field_start, super::START_NS).hole64(field_time, Hole::Time)
    };
    let metric = |name: &str, unit: &str, kind: u8, tail: Writer| {
        let head = Writer::default().text(1, name).text(2, "numbered readings").text(3, unit).bytes;
        Some(Metric { head, kind: kind << 3 | 2, tail: tail.bytes })
    };
    let cumulative = || Writer::default().number(2, 2);

    let gauge = device(timed(2, 3), 7).hole64(4, Hole::Value);
    let sum = device(timed(2, 3), 7).hole64(6, Hole::Raw(6));
    let doubles = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let counts = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let histogram = device(timed(2, 3), 9)
        .fixed64(4, 6)
        .hole64(5, Hole::Value)
        .bytes(6, &counts(&[1, 2, 3]))
        .bytes(7, &doubles(&[0.5, 5.0]));
    let exponential = device(timed(2, 3), 1)
        .fixed64(4, 6)
        .hole64(5, Hole::Value)
        .number(6, 4)
        .fixed64(7, 1)
        .message(8, &Writer::default().number(1, 3).bytes(2, &[1, 4]));
    let quantile = |q: f64, v: f64| Writer::default().fixed64(1, q.to_bits()).fixed64(2, v.to_bits());
    let summary = device(timed(2, 3), 7)
        .fixed64(4, 6)
        .hole64(5, Hole::Value)
        .message(6, &quantile(0.5, 1.5))
        .message(6, &quantile(0.99, 9.5));
    vec![
        gauge.source(7, source).stencil(7, metric("numbered.level", "m", 5, Writer::default())),
        sum.source(7, source).stencil(7, metric("numbered.flow", "L", 7, cumulative().number(3, 1))),
        histogram.source(9, source).stencil(9, metric("numbered.latency", "ms", 9, cumulative())),
        exponential.source(1, source).stencil(1, metric("numbered.size", "By", 10, cumulative())),
        summary.source(7, source).stencil(7, metric("numbered.pressure", "Pa", 11, Writer::default())),
    ]
}
