//! A second reader of the wire format, as plain as can be, that keeps what prost throws away.

use crate::otlp::Signal;
use crate::otlp::schema::{Kind, Msg};
use crate::otlp::slow::Request;

/// One field with its bytes: key, length and value as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) number: u64,
    pub(super) wire: u8,
    /// For length-delimited fields the content, else the value's bytes; for groups all of it.
    pub(super) value: Vec<u8>,
}

impl Node {
    /// In the shortest form there is, so that over-long lengths do not count as differences.
    pub(super) fn canonical(&self) -> Vec<u8> {
        let mut out = varint_bytes(self.number << 3 | u64::from(self.wire));
        if self.wire == 2 {
            out.extend(varint_bytes(self.value.len() as u64));
        }
        out.extend(&self.value);
        out
    }
}

fn varint_bytes(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push((n % 0x80) as u8 | 0x80);
        n /= 0x80;
    }
    out.push(n as u8);
    out
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n: u128 = 0;
    for shift in 0..10 {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u128::from(first & 0x7f) << (7 * shift);
        if first & 0x80 == 0 {
            return u64::try_from(n).ok();
        }
    }
    None
}

/// The fields of a message, or `None` when it cannot be read.
pub(super) fn fields(mut bytes: &[u8]) -> Option<Vec<Node>> {
    let mut nodes = Vec::new();
    while !bytes.is_empty() {
        nodes.push(field(&mut bytes)?);
    }
    Some(nodes)
}

fn field(bytes: &mut &[u8]) -> Option<Node> {
    let key = read_varint(bytes)?;
    let (number, wire) = (key >> 3, (key & 7) as u8);
    if number == 0 || key > u64::from(u32::MAX) {
        return None;
    }
    let before = *bytes;
    let len = match wire {
        0 => {
            read_varint(bytes)?;
            0
        }
        1 => 8,
        5 => 4,
        2 => usize::try_from(read_varint(bytes)?).ok()?,
        3 => {
            // Whether its end has the right number is prost's to say.
            while field(bytes)?.wire != 4 {}
            0
        }
        4 => 0,
        _ => return None,
    };
    let rest = bytes.get(len..)?;
    let value = if wire == 2 { &bytes[..len] } else { &before[..before.len() - rest.len()] };
    let node = Node { number, wire, value: value.to_vec() };
    *bytes = rest;
    Some(node)
}

/// Whether a request that prost accepts keeps the rules in which the walk is stricter.
pub(super) fn strict(signal: Signal, bytes: &[u8]) -> bool {
    message_is_strict(signal, Msg::request(signal), bytes)
}

fn message_is_strict(signal: Signal, msg: Msg, bytes: &[u8]) -> bool {
    let Some(nodes) = fields(bytes) else { return false };
    nodes.iter().all(|node| {
        let known = msg.get().fields.iter().find(|field| u64::from(field.number) == node.number);
        match known.map(|field| field.kind) {
            _ if node.wire == 3 || node.wire == 4 => false,
            None => true,
            Some(_) if node.number == 1_000 => {
                node.wire == 2 && {
                    let scope = Node { number: 2, ..node.clone() }.canonical();
                    let request = Node { number: 1, wire: 2, value: scope }.canonical();
                    Request::decode(signal, &request).is_ok() && strict(signal, &request)
                }
            }
            Some(Kind::TraceId) => node.value.is_empty() || node.value.len() == 16,
            Some(Kind::SpanId) => node.value.is_empty() || node.value.len() == 8,
            Some(Kind::Message(inner)) if node.wire == 2 => message_is_strict(signal, inner, &node.value),
            Some(_) => true,
        }
    })
}

/// One item, and of each container around it everything that is not its children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    envelopes: Vec<Vec<Node>>,
    item: Vec<u8>,
}

/// All items of a valid request, in order.
pub(super) fn items(signal: Signal, bytes: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let levels: &[u64] = if signal == Signal::Metrics { &[1, 2, 2] } else { &[1, 2] };
    descend(signal, bytes, levels, &mut Vec::new(), &mut found);
    found
}

fn descend(signal: Signal, bytes: &[u8], levels: &[u64], around: &mut Vec<Vec<Node>>, found: &mut Vec<Found>) {
    let nodes = fields(bytes).expect("a valid request");
    match levels {
        [child, rest @ ..] => {
            let (children, envelope): (Vec<Node>, _) = nodes.into_iter().partition(|node| node.number == *child);
            around.push(envelope);
            for node in children {
                descend(signal, &node.value, rest, around, found);
            }
            around.pop();
        }
        [] if signal == Signal::Metrics => {
            let is_data = |node: &Node| [5, 7, 9, 10, 11].contains(&node.number);
            let (data, envelope): (Vec<Node>, _) = nodes.into_iter().partition(is_data);
            // The last kind wins; what of it came in one run is one message.
            let kind = data.last().map_or(0, |node| node.number);
            let run: Vec<Node> = data.into_iter().rev().take_while(|node| node.number == kind).collect();
            let merged: Vec<u8> = run.into_iter().rev().flat_map(|node| node.value).collect();
            let inner = fields(&merged).expect("a valid request");
            let (points, mut data_envelope): (Vec<Node>, Vec<Node>) =
                inner.into_iter().partition(|node| node.number == 1);
            data_envelope.push(Node { number: kind, wire: 0, value: Vec::new() });
            around.extend([envelope, data_envelope]);
            found.extend(points.into_iter().map(|node| Found { envelopes: around.clone(), item: node.value }));
            around.truncate(around.len() - 2);
        }
        [] => {
            let (items, envelope): (Vec<Node>, _) = nodes.into_iter().partition(|node| node.number == 2);
            around.push(envelope);
            found.extend(items.into_iter().map(|node| Found { envelopes: around.clone(), item: node.value }));
            around.pop();
        }
    }
}

/// Which list of attributes the processors edit, if any.
fn edited_list(msg: Msg) -> Option<u64> {
    match msg {
        Msg::Resource | Msg::ExponentialHistogramDataPoint => Some(1),
        Msg::Span | Msg::HistogramDataPoint => Some(9),
        Msg::LogRecord => Some(6),
        Msg::NumberDataPoint | Msg::SummaryDataPoint => Some(7),
        _ => None,
    }
}

/// What an edit of attributes named in `keys` must not change: everything else, in its order. Repeated resources are
/// read as the one they stand for, and a resource of which nothing is left is none.
pub(super) fn skeleton(signal: Signal, bytes: &[u8], keys: &[&str]) -> Vec<u8> {
    message_skeleton(Msg::request(signal), bytes, keys)
}

fn message_skeleton(msg: Msg, bytes: &[u8], keys: &[&str]) -> Vec<u8> {
    let mut nodes = fields(bytes).expect("a valid request");
    if matches!(msg, Msg::ResourceSpans | Msg::ResourceMetrics | Msg::ResourceLogs) {
        let merged = nodes.iter().filter(|node| node.number == 1).flat_map(|node| node.value.clone()).collect();
        nodes.retain(|node| node.number != 1);
        nodes.insert(0, Node { number: 1, wire: 2, value: merged });
    }
    let mut out = Vec::new();
    for node in nodes {
        let known = msg.get().fields.iter().find(|field| u64::from(field.number) == node.number);
        let value = match known.map(|field| field.kind) {
            Some(Kind::Message(Msg::KeyValue)) if Some(node.number) == edited_list(msg) => {
                if keys.contains(&key_of(&node.value).as_str()) {
                    continue;
                }
                node.value
            }
            Some(Kind::Message(inner)) if has_edited_lists(inner) => message_skeleton(inner, &node.value, keys),
            _ => node.value,
        };
        if node.number == 1 && value.is_empty() && matches!(known.map(|f| f.kind), Some(Kind::Message(Msg::Resource))) {
            continue;
        }
        out.extend(Node { value, ..node }.canonical());
    }
    out
}

fn has_edited_lists(msg: Msg) -> bool {
    edited_list(msg).is_some()
        || matches!(
            msg,
            Msg::ResourceSpans
                | Msg::ResourceMetrics
                | Msg::ResourceLogs
                | Msg::ScopeSpans
                | Msg::ScopeMetrics
                | Msg::ScopeLogs
                | Msg::Metric
                | Msg::Gauge
                | Msg::Sum
                | Msg::Histogram
                | Msg::ExponentialHistogram
                | Msg::Summary
        )
}

fn key_of(pair: &[u8]) -> String {
    let nodes = fields(pair).expect("a valid request");
    let last = nodes.into_iter().rfind(|node| node.number == 1);
    String::from_utf8(last.map(|node| node.value).unwrap_or_default()).expect("a valid request")
}
