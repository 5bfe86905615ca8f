//! Reading and writing protobuf's wire format, bounds-checked, and the one error that refuses a request.
//!
//! ```text
//! key = varint(number << 3 | type)      type 0 varint · 1 eight bytes · 2 length, then bytes · 5 four bytes
//! ```
//!
//! Groups (types 3 and 4) are refused everywhere: OTLP has none, and pdata v1.70.0 cannot skip one that ends its
//! message (`internal/proto/unmarshal.go`, `ConsumeUnknown`), so a far end could choke on what we took.

use std::fmt;
use std::ops::Range;

/// Why bytes are no request: where, and what is wrong there.
///
/// There is one thing to do with it: tell this client (400 or INVALID_ARGUMENT) and keep nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {what}")]
pub struct Malformed {
    /// Byte in the request where the offending part begins.
    pub offset: usize,
    /// What is wrong with it.
    pub what: What,
}

/// A field, for people: `LogRecord.span_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The message as in the .proto.
    pub message: &'static str,
    /// The field as in the .proto.
    pub field: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.message, self.field)
    }
}

/// What is wrong with the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// A length, or a number, reaches beyond the end of its message.
    #[error("field reaches beyond the end of its message")]
    Truncated,
    /// More than 10 bytes, or more than 64 bits.
    #[error("varint is longer than 64 bits")]
    Varint,
    /// Field number 0, or a key of more than 32 bits.
    #[error("field key {0} has no valid field number")]
    Key(u64),
    /// Wire types 6 and 7 do not exist.
    #[error("wire type {0} does not exist")]
    WireType(u8),
    /// Wire types 3 and 4.
    #[error("groups are not part of OTLP")]
    Group,
    /// A known field in a foreign form.
    #[error("{place} has wire type {found}, must be {wanted}")]
    Form {
        /// Which field.
        place: Place,
        /// As it came.
        found: u8,
        /// As it must be.
        wanted: u8,
    },
    /// Proto3 strings are UTF-8.
    #[error("{0} is not valid UTF-8")]
    Utf8(Place),
    /// A trace or span id of the wrong size.
    #[error("{place} is {len} bytes, must be 0 or {wanted}")]
    Id {
        /// Which field.
        place: Place,
        /// Its size, bytes.
        len: usize,
        /// What it must be when it is there.
        wanted: u8,
    },
    /// Packed eight-byte numbers that do not fill their run.
    #[error("{place} is packed in {len} bytes, must be a multiple of 8")]
    Packed {
        /// Which field.
        place: Place,
        /// Size of the run, bytes.
        len: usize,
    },
    /// More than [`DEPTH_MAX`] messages inside each other.
    #[error("messages are nested more than {DEPTH_MAX} deep")]
    Depth,
    /// More bytes than are looked at ([`REQUEST_MAX`]), or than the edits of a pipeline may make of it.
    #[error("request is larger than {0} bytes")]
    Size(usize),
    /// More than [`PARTS_MAX`].
    #[error("request has more than {PARTS_MAX} items, metrics, scopes and resources")]
    Parts,
    /// More than [`CONCERNED_MAX`] attributes of one list that an action is about.
    #[error("more than {CONCERNED_MAX} attributes of one list are to be edited")]
    Attributes,
    /// `take` was asked for items that are not there.
    #[error("items {from}..{to} were asked for, the request has {has}")]
    NoSuchItems {
        /// First one asked for.
        from: u32,
        /// One after the last one asked for.
        to: u32,
        /// Items of the request.
        has: u32,
    },
}

/// Most messages inside each other, the request itself not counted: 100.
///
/// prost's `RECURSION_LIMIT` (prost-0.14.6/src/lib.rs) and the default of protobuf's C++ and Java readers; Go has
/// none. It leaves 47 arrays or 31 maps inside each other in the attribute of a metric's point.
pub const DEPTH_MAX: usize = 100;

/// Largest request that is looked at: 2 GiB, protobuf's own limit. Positions fit in 32 bits.
pub const REQUEST_MAX: usize = 0x7fff_ffff;

/// Most items, metrics, scopes and resources together that one request may have: 1,048,576.
///
/// Each costs whoever cuts the request a map entry of 12 to 40 bytes, and each can be written in two bytes: 20 KB of
/// gzip say ten million. 20 MiB of the smallest real data points (20 bytes) are just as many.
pub const PARTS_MAX: u32 = 1 << 20;

/// Most attributes of one list that actions may be about: 65,536. Each costs about 100 bytes while the list is edited,
/// and five bytes say one.
pub const CONCERNED_MAX: usize = 1 << 16;

pub(crate) const VARINT: u8 = 0;
pub(crate) const FIXED64: u8 = 1;
pub(crate) const LEN: u8 = 2;
pub(crate) const FIXED32: u8 = 5;

impl Malformed {
    /// It is well-formed, but more than is taken: 413 or RESOURCE_EXHAUSTED.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self.what, What::Size(_) | What::Parts | What::Attributes)
    }
}

pub(crate) type Read<T> = Result<T, Malformed>;

#[cold]
pub(crate) fn bad<T>(offset: usize, what: What) -> Read<T> {
    Err(Malformed { offset, what })
}

/// Refuses what positions of 32 bits cannot hold.
pub(crate) fn check_size(request: &[u8]) -> Read<()> {
    if request.len() > REQUEST_MAX { bad(0, What::Size(REQUEST_MAX)) } else { Ok(()) }
}

/// Reads a varint of the bytes before `end`; gives its value and where the next byte is.
#[inline(always)]
pub(crate) fn varint(bytes: &[u8], at: usize, end: usize) -> Read<(u64, usize)> {
    let bytes = &bytes[..end];
    match bytes.get(at) {
        Some(&b0) if b0 < 0x80 => Ok((u64::from(b0), at + 1)),
        Some(&b0) => match bytes.get(at + 1) {
            Some(&b1) if b1 < 0x80 => Ok((u64::from(b0 & 0x7f) | u64::from(b1) << 7, at + 2)),
            _ => long_varint(bytes, at),
        },
        None => bad(at, What::Truncated),
    }
}

#[inline(never)]
fn long_varint(bytes: &[u8], at: usize) -> Read<(u64, usize)> {
    let mut value = 0;
    for n in 0..10 {
        let Some(&byte) = bytes.get(at + n) else { return bad(at, What::Truncated) };
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte < 0x80 {
            // The tenth byte has room for one bit; prost refuses more (Go lets them fall off).
            return if n == 9 && byte > 1 { bad(at, What::Varint) } else { Ok((value, at + n + 1)) };
        }
    }
    bad(at, What::Varint)
}

/// Reads a length and checks that so many bytes follow before `end`; gives where they begin and end.
#[inline(always)]
pub(crate) fn span(bytes: &[u8], at: usize, end: usize) -> Read<(usize, usize)> {
    let (len, start) = varint(bytes, at, end)?;
    // `start <= end`: the varint was read before `end`.
    if len > (end - start) as u64 {
        return bad(at, What::Truncated);
    }
    #[allow(clippy::cast_possible_truncation)] // not more than `end - start`
    Ok((start, start + len as usize))
}

/// Reads a key; gives field number, wire type and where the value begins.
#[inline(always)]
pub(crate) fn key(bytes: &[u8], at: usize, end: usize) -> Read<(u32, u8, usize)> {
    let (key, next) = varint(bytes, at, end)?;
    let number = key >> 3;
    if number == 0 || key > u64::from(u32::MAX) {
        return bad(at, What::Key(key));
    }
    #[allow(clippy::cast_possible_truncation)] // below 2^29, and three bits
    Ok((number as u32, (key & 7) as u8, next))
}

/// Where the value of a field ends whose key was just read.
#[inline(always)]
pub(crate) fn skip(bytes: &[u8], wire: u8, at: usize, end: usize) -> Read<usize> {
    let next = match wire {
        VARINT => return varint(bytes, at, end).map(|(_, next)| next),
        LEN => return span(bytes, at, end).map(|(_, next)| next),
        FIXED64 => at + 8,
        FIXED32 => at + 4,
        3 | 4 => return bad(at, What::Group),
        _ => return bad(at, What::WireType(wire)),
    };
    if next > end { bad(at, What::Truncated) } else { Ok(next) }
}

/// One field as it lies in the buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) number: u32,
    pub(crate) wire: u8,
    /// Where its key begins.
    pub(crate) start: usize,
    /// Where its value begins: for `LEN` after the length.
    pub(crate) body: usize,
    /// Where the next field begins.
    pub(crate) end: usize,
}

impl Piece {
    /// The whole field, key included.
    pub(crate) fn whole(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The value.
    pub(crate) fn value(&self) -> Range<usize> {
        self.body..self.end
    }

    /// Is it field `number`, length-delimited? A known field in a foreign form is an error to every caller.
    #[inline(always)]
    pub(crate) fn is(&self, number: u32) -> bool {
        self.number == number && self.wire == LEN
    }
}

/// The fields of one message, shallow, in order.
#[derive(Debug, Clone)]
pub(crate) struct Pieces<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Pieces<'a> {
    /// The fields of the message at `range` of `bytes`.
    pub(crate) fn of(bytes: &'a [u8], range: Range<usize>) -> Pieces<'a> {
        Pieces { bytes, at: range.start, end: range.end }
    }

    #[inline(always)]
    pub(crate) fn next(&mut self) -> Read<Option<Piece>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let start = self.at;
        let (number, wire, value) = key(self.bytes, start, self.end)?;
        let (body, end) = if wire == LEN {
            span(self.bytes, value, self.end)?
        } else {
            (value, skip(self.bytes, wire, value, self.end)?)
        };
        self.at = end;
        Ok(Some(Piece { number, wire, start, body, end }))
    }
}

/// Bytes of a varint.
#[inline(always)]
pub(crate) const fn varint_len(value: u64) -> usize {
    // Seven bits a byte; a zero takes one byte too.
    (63 - (value | 1).leading_zeros() as usize) / 7 + 1
}

#[inline(always)]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[allow(clippy::cast_possible_truncation)] // the low seven bits
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[allow(clippy::cast_possible_truncation)] // below 0x80
    out.push(value as u8);
}

pub(crate) fn put_key(out: &mut Vec<u8>, number: u32, wire: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire));
}

/// Writes a length-delimited field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_key(out, number, LEN);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A length-delimited field whose length is known only when it is written: room is left for a length as long as
/// the guess, and what follows is moved when the guess was wrong by a byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    /// Where the length stands.
    len_at: usize,
    /// Where the content begins.
    body: usize,
}

impl Open {
    pub(crate) fn field(out: &mut Vec<u8>, number: u32, guess_len: usize) -> Open {
        put_key(out, number, LEN);
        let len_at = out.len();
        let body = len_at + varint_len(guess_len as u64);
        out.resize(body, 0);
        Open { len_at, body }
    }

    pub(crate) fn close(self, out: &mut Vec<u8>) {
        let len = out.len() - self.body;
        let (has, needs) = (self.body - self.len_at, varint_len(len as u64));
        if needs > has {
            out.splice(self.body..self.body, std::iter::repeat_n(0, needs - has));
        } else if needs < has {
            out.drain(self.len_at + needs..self.body);
        }
        let mut value = len;
        for slot in &mut out[self.len_at..self.len_at + needs] {
            #[allow(clippy::cast_possible_truncation)] // the low seven bits
            let low = value as u8 & 0x7f;
            value >>= 7;
            *slot = if value == 0 { low } else { low | 0x80 };
        }
    }
}

/// Is it UTF-8? Short ASCII, which is nearly everything, is decided eight bytes at a time.
#[inline(always)]
pub(crate) fn is_utf8(text: &[u8]) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut chunks = text.chunks_exact(8);
    let mut high = 0;
    for chunk in &mut chunks {
        high |= u64::from_ne_bytes(chunk.try_into().expect("chunks_exact gives eight"));
    }
    let mut tail = 0;
    for &byte in chunks.remainder() {
        tail |= byte;
    }
    (high & HIGH == 0 && tail < 0x80) || std::str::from_utf8(text).is_ok()
}
