//! Looking into one message of an accepted request, without decoding it: what `include`, `exclude`, `filter` and the
//! sampler ask of resources, scopes, metrics and items.
//!
//! A field is read as prost and Go would have it after decoding: of a singular one the last writing counts, the pieces of
//! an `AnyValue` merge, and of two attributes of one name the first is meant (as in pdata's `Map.Get`). On bytes that
//! were never walked a question has a meaningless answer, and no panic.

use super::edits::Value;
use super::value;
use super::wire::{FIXED64, LEN, Pieces, VARINT, varint};
use std::borrow::Cow;
use std::ops::Range;

/// A serialized message.
#[derive(Debug, Clone, Copy)]
pub struct Peek<'a>(pub &'a [u8]);

impl<'a> Peek<'a> {
    /// A text; empty when it is not there.
    #[must_use]
    pub fn text(self, number: u32) -> &'a str {
        std::str::from_utf8(self.bytes(number)).unwrap_or_default()
    }

    /// Bytes; none when they are not there.
    #[must_use]
    pub fn bytes(self, number: u32) -> &'a [u8] {
        self.last(number, LEN).map_or(&[], |at| &self.0[at])
    }

    /// An enum; 0 when it is not there.
    #[must_use]
    pub fn number(self, number: u32) -> i32 {
        let read = self.last(number, VARINT).and_then(|at| varint(self.0, at.start, at.end).ok());
        #[allow(clippy::cast_possible_truncation)] // protobuf keeps the low 32 bits of an enum
        read.map_or(0, |(value, _)| value as i32)
    }

    /// The `AnyValue` at a field; empty when it is not there.
    #[must_use]
    pub fn any(self, number: u32) -> PeekAny<'a> {
        let mut found = Cow::Borrowed(&[][..]);
        let mut pieces = Pieces::of(self.0, 0..self.0.len());
        while let Ok(Some(piece)) = pieces.next() {
            if piece.is(number) {
                match piece.value() {
                    at if found.is_empty() => found = Cow::Borrowed(&self.0[at]),
                    at => found.to_mut().extend_from_slice(&self.0[at]),
                }
            }
        }
        PeekAny(found)
    }

    /// The first attribute of this name in the list at field `list`.
    #[must_use]
    pub fn attribute(self, list: u32, key: &str) -> Option<PeekAny<'a>> {
        let mut pieces = Pieces::of(self.0, 0..self.0.len());
        while let Ok(Some(piece)) = pieces.next() {
            // A `KeyValue` that holds the key is longer than it.
            if piece.is(list) && piece.value().len() >= key.len() {
                let pair = Peek(&self.0[piece.value()]);
                if pair.bytes(1) == key.as_bytes() {
                    return Some(pair.any(2));
                }
            }
        }
        None
    }

    /// The attributes in the list at field `list`, sorted by name; of two of one name the first.
    #[must_use]
    pub fn attributes(self, list: u32) -> Vec<(&'a str, PeekAny<'a>)> {
        let mut found = Vec::new();
        let mut pieces = Pieces::of(self.0, 0..self.0.len());
        while let Ok(Some(piece)) = pieces.next() {
            if piece.is(list) {
                let pair = Peek(&self.0[piece.value()]);
                found.push((pair.text(1), pair.any(2)));
            }
        }
        found.sort_by_key(|(name, _)| *name);
        found.dedup_by_key(|(name, _)| *name);
        found
    }

    /// Where the value of the last writing of a field stands.
    #[inline(always)]
    fn last(self, number: u32, wire: u8) -> Option<Range<usize>> {
        let mut found = None;
        let mut pieces = Pieces::of(self.0, 0..self.0.len());
        while let Ok(Some(piece)) = pieces.next() {
            if piece.number == number && piece.wire == wire {
                found = Some(piece.value());
            }
        }
        found
    }
}

/// A serialized `AnyValue`.
#[derive(Debug, Clone)]
pub struct PeekAny<'a>(Cow<'a, [u8]>);

/// What an `AnyValue` is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Leaf<'a> {
    /// Nothing was said.
    Empty,
    /// `string_value`.
    Text(&'a str),
    /// `bool_value`.
    Bool(bool),
    /// `int_value`.
    Int(i64),
    /// `double_value`.
    Double(f64),
    /// `bytes_value`.
    Bytes(&'a [u8]),
    /// A list or a map.
    Nested,
}

impl PeekAny<'_> {
    /// What it is: the last member written counts.
    #[must_use]
    pub fn leaf(&self) -> Leaf<'_> {
        let mut found = Leaf::Empty;
        let bytes = &*self.0;
        let mut pieces = Pieces::of(bytes, 0..bytes.len());
        while let Ok(Some(piece)) = pieces.next() {
            let number = || varint(bytes, piece.body, piece.end).map_or(0, |(value, _)| value);
            found = match (piece.number, piece.wire) {
                (1, LEN) => Leaf::Text(std::str::from_utf8(&bytes[piece.value()]).unwrap_or_default()),
                (2, VARINT) => Leaf::Bool(number() != 0),
                #[allow(clippy::cast_possible_wrap)] // protobuf writes an int64 as its two's complement
                (3, VARINT) => Leaf::Int(number() as i64),
                (4, FIXED64) => {
                    Leaf::Double(f64::from_le_bytes(bytes[piece.value()].try_into().expect("FIXED64 is eight bytes")))
                }
                (5 | 6, LEN) => Leaf::Nested,
                (7, LEN) => Leaf::Bytes(&bytes[piece.value()]),
                (8, VARINT) => Leaf::Empty, // a reference into a table that OTLP over the network does not have
                _ => found,
            };
        }
        found
    }

    /// pdata's `AsString`.
    #[must_use]
    pub fn to_text(&self) -> Cow<'_, str> {
        match self.leaf() {
            Leaf::Text(text) => Cow::Borrowed(text),
            _ => Cow::Owned(value::shown(&self.0)),
        }
    }

    /// Is it this, in type and in value?
    #[must_use]
    pub fn is(&self, wanted: &Value) -> bool {
        match (self.leaf(), wanted) {
            (Leaf::Text(text), Value::Text(wanted)) => text == wanted,
            (Leaf::Bool(yes), Value::Bool(wanted)) => yes == *wanted,
            (Leaf::Int(n), Value::Int(wanted)) => n == *wanted,
            #[allow(clippy::float_cmp)] // as the original: what stands in the file is what is compared with
            (Leaf::Double(n), Value::Double(wanted)) => n == *wanted,
            (Leaf::Nested, Value::List(_) | Value::Map(_)) => value::equals(&self.0, wanted),
            _ => false,
        }
    }
}
