//! Values that an action computes from another value: rare, so through prost.

use super::edits::{Type, Value};
use base64::Engine as _;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use prost::Message as _;
use ring::digest::{SHA256, digest};
use std::fmt::Write as _;

/// The text of an `AnyValue` that is one.
pub(super) fn text(value: &[u8]) -> Option<String> {
    match decode(value) {
        Some(Any::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// What `hash` makes of an `AnyValue`. An empty text stays empty, as in otelcol.
pub(super) fn hashed(value: &[u8]) -> String {
    let bytes = match decode(value) {
        Some(Any::StringValue(text)) => text.into_bytes(),
        Some(Any::IntValue(n)) => n.to_le_bytes().to_vec(),
        Some(Any::DoubleValue(n)) => n.to_le_bytes().to_vec(),
        Some(Any::BoolValue(yes)) => vec![u8::from(yes)],
        _ => Vec::new(),
    };
    if bytes.is_empty() {
        return String::new();
    }
    digest(&SHA256, &bytes).as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
        hex
    })
}

/// What `convert` makes of an `AnyValue`; `None` when it stays as it is.
pub(super) fn converted(value: &[u8], to: Type) -> Option<Value> {
    let value = decode(value);
    match (to, value) {
        (Type::Text, Some(Any::StringValue(_)))
        | (Type::Int, Some(Any::IntValue(_)))
        | (Type::Double, Some(Any::DoubleValue(_))) => None,
        (Type::Text, value) => Some(Value::Text(value.map_or_else(String::new, as_text))),
        // Rust's `as` truncates towards zero like Go's, and saturates where Go's result is undefined.
        #[allow(clippy::cast_possible_truncation)]
        (Type::Int, Some(Any::DoubleValue(n))) => Some(Value::Int(n as i64)),
        (Type::Int, Some(Any::BoolValue(yes))) => Some(Value::Int(yes.into())),
        (Type::Int, Some(Any::StringValue(text))) => text.parse().ok().map(Value::Int),
        #[allow(clippy::cast_precision_loss)] // as Go's float64(n)
        (Type::Double, Some(Any::IntValue(n))) => Some(Value::Double(n as f64)),
        (Type::Double, Some(Any::BoolValue(yes))) => Some(Value::Double(yes.into())),
        (Type::Double, Some(Any::StringValue(text))) => text.parse().ok().map(Value::Double),
        (Type::Int | Type::Double, _) => None,
    }
}

/// pdata's `AsString` of an `AnyValue`.
pub(super) fn shown(value: &[u8]) -> String {
    decode(value).map_or_else(String::new, as_text)
}

/// Is an `AnyValue` this one? Maps are equal whatever the order of their keys (contrib v0.88.0, `pdatautil/hash.go`).
pub(super) fn equals(value: &[u8], wanted: &Value) -> bool {
    same(decode(value), wanted)
}

fn same(value: Option<Any>, wanted: &Value) -> bool {
    match (value, wanted) {
        (None, Value::Empty) => true,
        (Some(Any::StringValue(text)), Value::Text(wanted)) => text == *wanted,
        (Some(Any::BoolValue(yes)), Value::Bool(wanted)) => yes == *wanted,
        (Some(Any::IntValue(n)), Value::Int(wanted)) => n == *wanted,
        (Some(Any::DoubleValue(n)), Value::Double(wanted)) => n.to_bits() == wanted.to_bits(),
        (Some(Any::ArrayValue(list)), Value::List(wanted)) => {
            list.values.len() == wanted.len() && list.values.into_iter().zip(wanted).all(|(a, b)| same(a.value, b))
        }
        (Some(Any::KvlistValue(mut map)), Value::Map(wanted)) => {
            let mut wanted: Vec<&(String, Value)> = wanted.iter().collect();
            wanted.sort_by(|a, b| a.0.cmp(&b.0));
            map.values.sort_by(|a, b| a.key.cmp(&b.key));
            map.values.len() == wanted.len()
                && map
                    .values
                    .into_iter()
                    .zip(wanted)
                    .all(|(pair, (key, value))| pair.key == *key && same(pair.value.and_then(|any| any.value), value))
        }
        _ => false,
    }
}

fn decode(value: &[u8]) -> Option<Any> {
    AnyValue::decode(value).ok().and_then(|any| any.value)
}

/// pdata's `Value.AsString`: numbers in base 10, bytes in base64, lists and maps as JSON with sorted keys.
fn as_text(value: Any) -> String {
    match value {
        Any::StringValue(text) => text,
        Any::BoolValue(yes) => yes.to_string(),
        Any::IntValue(n) => n.to_string(),
        Any::DoubleValue(n) => double_text(n),
        Any::BytesValue(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes),
        Any::StringValueStrindex(_) => String::new(),
        list_or_map => json(Some(list_or_map)).to_string(),
    }
}

/// As encoding/json writes a float64.
fn double_text(n: f64) -> String {
    let size = n.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) || !n.is_finite() {
        return n.to_string();
    }
    let text = format!("{n:e}");
    if size < 1.0 { text } else { text.replace('e', "e+") }
}

fn json(value: Option<Any>) -> serde_json::Value {
    match value {
        None => serde_json::Value::Null,
        Some(Any::BoolValue(yes)) => yes.into(),
        Some(Any::IntValue(n)) => n.into(),
        Some(Any::DoubleValue(n)) => n.into(),
        Some(Any::ArrayValue(list)) => list.values.into_iter().map(|any| json(any.value)).collect(),
        Some(Any::KvlistValue(map)) => {
            map.values.into_iter().map(|pair| (pair.key, json(pair.value.and_then(|any| any.value)))).collect()
        }
        Some(other) => as_text(other).into(),
    }
}
