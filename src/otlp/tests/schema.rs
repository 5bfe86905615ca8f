//! The table of messages is the one of opentelemetry-proto.

use super::tree::{Node, fields};
use super::walk::agrees;
use crate::otlp::Signal;
use crate::otlp::schema::{DEPRECATED_SCOPES, Field, Kind, MESSAGES, Msg};
use std::collections::{BTreeMap, BTreeSet};

fn all(nodes: &[Node], number: u64) -> Vec<&Node> {
    nodes.iter().filter(|node| node.number == number).collect()
}

fn text(nodes: &[Node], number: u64) -> String {
    all(nodes, number).last().map_or_else(String::new, |node| String::from_utf8_lossy(&node.value).into_owned())
}

fn number(nodes: &[Node], number: u64) -> u64 {
    all(nodes, number).last().map_or(0, |node| node.value.iter().rev().fold(0, |n, b| n << 7 | u64::from(b & 0x7f)))
}

/// Collects messages and enums of a `DescriptorProto` or a `FileDescriptorProto` (google/protobuf/descriptor.proto):
/// a message's line lists its fields as `number name type repeated oneof`.
fn collect(nodes: &[Node], (messages, enums): (u64, u64), found: &mut BTreeMap<String, Vec<String>>) {
    for node in all(nodes, messages) {
        let message = fields(&node.value).expect("a descriptor");
        let mut lines: Vec<String> = all(&message, 2)
            .into_iter()
            .map(|field| {
                let field = fields(&field.value).expect("a descriptor");
                let last = |path: String| path.rsplit('.').next().unwrap_or_default().to_owned();
                let kind = match number(&field, 5) {
                    1 => "double".to_owned(),
                    3 => "int64".to_owned(),
                    4 => "uint64".to_owned(),
                    5 => "int32".to_owned(),
                    6 => "fixed64".to_owned(),
                    7 => "fixed32".to_owned(),
                    8 => "bool".to_owned(),
                    9 => "string".to_owned(),
                    11 | 14 => last(text(&field, 6)),
                    12 => "bytes".to_owned(),
                    13 => "uint32".to_owned(),
                    16 => "sfixed64".to_owned(),
                    17 => "sint32".to_owned(),
                    other => format!("type {other}"),
                };
                let repeated = number(&field, 4) == 3;
                // `optional` is a oneof of its own in descriptors (proto3_optional, field 17).
                let oneof = !all(&field, 9).is_empty() && number(&field, 17) == 0;
                format!("{} {} {kind} {repeated} {oneof}", number(&field, 3), text(&field, 1))
            })
            .collect();
        lines.sort();
        found.insert(text(&message, 1), lines);
        collect(&message, (3, 4), found);
    }
    for node in all(nodes, enums) {
        let names = fields(&node.value).expect("a descriptor");
        let values = all(&names, 2).into_iter().map(|value| {
            let value = fields(&value.value).expect("a descriptor");
            format!("{} {}", number(&value, 2), text(&value, 1))
        });
        found.insert(text(&names, 1), values.collect());
    }
}

fn kind_name(message: &str, field: &Field, enums: &BTreeMap<String, Vec<String>>) -> String {
    match field.kind {
        Kind::Message(inner) => inner.get().name.to_owned(),
        Kind::Text => "string".to_owned(),
        Kind::Bytes | Kind::TraceId | Kind::SpanId => "bytes".to_owned(),
        Kind::Bool => "bool".to_owned(),
        Kind::Int32 => "int32".to_owned(),
        Kind::Int64 => "int64".to_owned(),
        Kind::UInt32 => "uint32".to_owned(),
        Kind::UInt64 => "uint64".to_owned(),
        Kind::SInt32 => "sint32".to_owned(),
        Kind::Fixed32 => "fixed32".to_owned(),
        Kind::Fixed64 => "fixed64".to_owned(),
        Kind::SFixed64 => "sfixed64".to_owned(),
        Kind::Double => "double".to_owned(),
        Kind::Enum(names) => {
            let ours: Vec<String> = names.iter().map(|(name, n)| format!("{n} {name}")).collect();
            let theirs = enums.iter().find(|(_, values)| **values == ours);
            theirs.map_or_else(|| format!("no enum like that of {message}.{}", field.name), |(name, _)| name.clone())
        }
    }
}

/// Goal: no field is missing, misnamed or of another type.
/// Method: the descriptors that come with the crate opentelemetry-proto, read and compared line by line.
#[test]
fn every_message_is_as_in_the_protocol() {
    let mut theirs = BTreeMap::new();
    for file in fields(opentelemetry_proto::DESCRIPTORS).expect("a descriptor") {
        let file = fields(&file.value).expect("a descriptor");
        if !text(&file, 2).contains("profiles") {
            collect(&file, (4, 5), &mut theirs);
        }
    }
    for message in &MESSAGES {
        let kept = message.fields.iter().filter(|field| field.number != DEPRECATED_SCOPES);
        let mut ours: Vec<String> = kept
            .map(|field| {
                let kind = kind_name(message.name, field, &theirs);
                format!("{} {} {kind} {} {}", field.number, field.name, field.repeated, field.oneof)
            })
            .collect();
        ours.sort();
        assert_eq!(Some(&ours), theirs.get(message.name), "{}", message.name);
    }
    let ids: BTreeSet<&str> = MESSAGES
        .iter()
        .flat_map(|message| message.fields)
        .filter(|field| matches!(field.kind, Kind::TraceId | Kind::SpanId))
        .map(|field| field.name)
        .collect();
    assert_eq!(ids, BTreeSet::from(["parent_span_id", "span_id", "trace_id"]));
    assert!(theirs.values().flatten().filter(|line| line.contains("_id bytes")).count() > 0);
}

/// Goal: every field number of every message is judged as prost judges it, in every wire type.
/// Method: for each message, all numbers up to 20 and 1,000, all wire types, and contents that tell the kinds apart.
#[test]
fn every_field_in_every_form_is_judged_as_prost_judges_it() {
    let contents: [&[u8]; 7] = [b"", b"abc", b"\xff", b"0123456789abcdef", b"01234567", &[0x09; 9], &[0x80; 11]];
    for signal in Signal::ALL {
        for (msg, path) in ways_to(Msg::request(signal)) {
            for field in (1..=20).chain([999, DEPRECATED_SCOPES, 1_001]) {
                for wire in 0..8 {
                    for content in contents {
                        let node = Node { number: u64::from(field), wire, value: content.to_vec() };
                        let request = path.iter().rev().fold(node.canonical(), |inner, &number| {
                            Node { number: u64::from(number), wire: 2, value: inner }.canonical()
                        });
                        agrees(signal, &request).unwrap_or_else(|why| {
                            panic!("{} field {field} wire type {wire} {content:?}: {why}", msg.get().name)
                        });
                    }
                }
            }
        }
    }
}

/// The messages inside a request, each with the field numbers of one way to it.
fn ways_to(request: Msg) -> Vec<(Msg, Vec<u32>)> {
    let mut found = vec![(request, Vec::new())];
    let mut seen = BTreeSet::from([request as u8]);
    let mut next = 0;
    while next < found.len() {
        let (msg, path) = found[next].clone();
        for field in msg.get().fields {
            if let Kind::Message(inner) = field.kind
                && seen.insert(inner as u8)
            {
                found.push((inner, [path.clone(), vec![field.number]].concat()));
            }
        }
        next += 1;
    }
    found
}
