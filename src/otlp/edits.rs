//! What the `resource` and `attributes` processors may do to a list of attributes.
//!
//! otelcol's actions (reference §2.8; contrib v0.88.0, `internal/coreinternal/attraction`), with one rule of our
//! own: where a key occurs twice, setting it sets the first and removes the others, and deleting it deletes all,
//! so that no reader can find the old value behind the new one.

use super::wire::{FIXED64, LEN, VARINT, put_bytes, put_key, put_varint};
use std::fmt;
use std::sync::Arc;

/// What an attribute is set to, as configured.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `string_value`.
    Text(String),
    /// `int_value`.
    Int(i64),
    /// `double_value`.
    Double(f64),
    /// `bool_value`.
    Bool(bool),
    /// `array_value`.
    List(Vec<Value>),
    /// `kvlist_value`, in this order.
    Map(Vec<(String, Value)>),
    /// A value that says nothing (YAML's null inside a list or map).
    Empty,
}

/// Lists and maps inside each other that a configured value may have: 16.
///
/// An attribute of a data point lies seven messages deep and a map takes three a level; the walk ends at 100.
pub const VALUE_DEPTH_MAX: usize = 16;

impl Value {
    /// The value as the content of an `AnyValue`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Value::Text(text) => put_bytes(out, 1, text.as_bytes()),
            Value::Bool(yes) => put_number(out, 2, u64::from(*yes)),
            #[allow(clippy::cast_sign_loss)] // protobuf writes an int64 as its two's complement
            Value::Int(n) => put_number(out, 3, *n as u64),
            Value::Double(n) => {
                put_key(out, 4, FIXED64);
                out.extend_from_slice(&n.to_le_bytes());
            }
            Value::List(values) => {
                let mut inner = Vec::new();
                for value in values {
                    put_bytes(&mut inner, 1, &value.encode());
                }
                put_bytes(out, 5, &inner);
            }
            Value::Map(pairs) => {
                let mut inner = Vec::new();
                for (key, value) in pairs {
                    put_bytes(&mut inner, 1, &key_value(key, &value.encode()));
                }
                put_bytes(out, 6, &inner);
            }
            Value::Empty => {}
        }
    }

    /// Levels of lists and maps in it.
    #[must_use]
    pub fn depth(&self) -> usize {
        match self {
            Value::List(values) => 1 + values.iter().map(Value::depth).max().unwrap_or(0),
            Value::Map(pairs) => 1 + pairs.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }
}

fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    put_key(out, number, VARINT);
    put_varint(out, value);
}

/// The content of a `KeyValue`.
pub(super) fn key_value(key: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + value.len() + 8);
    put_bytes(&mut out, 1, key.as_bytes());
    put_bytes(&mut out, 2, value);
    debug_assert_eq!(u32::from(LEN), 2, "both are length-delimited");
    out
}

/// Where a value comes from. A source that has none makes the action do nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// `value`.
    Value(Value),
    /// `from_attribute`: the first attribute of that name in the same list, as it is at that moment.
    Attribute(String),
    /// `from_context`: as the context of the request gives it.
    Context(String),
}

/// When a key is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// `insert`.
    Absent,
    /// `update`.
    Present,
    /// `upsert`.
    Always,
}

/// A test of attribute names: the `pattern` of `delete` and `hash`.
#[derive(Clone)]
pub struct Pattern(pub Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pattern")
    }
}

/// Which attributes an action is about: those of this name, those the pattern matches, or both.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// This name.
    pub key: Option<String>,
    /// These names.
    pub pattern: Option<Pattern>,
}

impl Keys {
    /// Those of one name.
    #[must_use]
    pub fn named(key: &str) -> Keys {
        Keys { key: Some(key.to_owned()), pattern: None }
    }
}

/// The `pattern` of `extract`: gives the text of each group, in the order of the names, or `None` without a match.
#[derive(Clone)]
pub struct Groups {
    /// The names of the groups: the attributes that are set.
    pub names: Vec<String>,
    /// Applied to the value; as many texts as there are names.
    pub find: Find,
}

/// See [`Groups::find`].
pub type Find = Arc<dyn Fn(&str) -> Option<Vec<String>> + Send + Sync>;

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Groups").field(&self.names).finish()
    }
}

/// `converted_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `int`.
    Int,
    /// `double`.
    Double,
    /// `string`.
    Text,
}

/// One action on a list of attributes.
#[derive(Debug, Clone)]
pub enum Action {
    /// `insert`, `update`, `upsert`.
    Set {
        /// The attribute.
        key: String,
        /// What it becomes.
        source: Source,
        /// On which condition.
        when: When,
    },
    /// `delete`.
    Delete(Keys),
    /// `hash`: the value becomes the lower-case hex of its SHA-256; of its bytes, 8 bytes little-endian, or one
    /// byte; what is neither text, number nor bool becomes an empty text.
    Hash(Keys),
    /// `extract`: sets attributes from the groups of a pattern that matches a text.
    Extract {
        /// The attribute that is read.
        key: String,
        /// What is set.
        groups: Groups,
    },
    /// `convert`: a value that cannot be converted stays.
    Convert {
        /// The attribute.
        key: String,
        /// What it becomes.
        to: Type,
    },
}

impl Action {
    /// `upsert` of a constant: what nearly every configuration does.
    #[must_use]
    pub fn upsert(key: &str, value: Value) -> Action {
        Action::Set { key: key.to_owned(), source: Source::Value(value), when: When::Always }
    }

    /// `delete` of one name.
    #[must_use]
    pub fn delete(key: &str) -> Action {
        Action::Delete(Keys::named(key))
    }

    /// The configured value, if the action has one.
    pub(super) fn value(&self) -> Option<&Value> {
        match self {
            Action::Set { source: Source::Value(value), .. } => Some(value),
            _ => None,
        }
    }
}
