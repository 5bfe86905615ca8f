//! Protobuf to OTLP/JSON, by the same table that reads it: for people and for files, never on the data path.
//!
//! Two manners:
//! * *exact* ([`to_json`]): OTLP/JSON as its specification has it and otelcol's `fileexporter` writes it: lowerCamelCase, ids
//!   in hex, other bytes in base64, 64-bit integers as strings, enums as numbers, `"NaN"` and `"Infinity"`. What it gives,
//!   [`from_json`](super::from_json) and otelcol's readers take, and it means the same. Unknown fields stay behind.
//! * *plain* ([`each_item`]): one object for each item, with its resource, scope and metric beside it, and attributes as
//!   plain objects (`{"host.name":"a"}`): for eyes, `grep` and `jq`.
//!
//! What always holds:
//! * A field is written as every reader has it after decoding: of a singular one the last writing counts, the pieces of a
//!   message merge, of a oneof the last member counts.
//! * The text is one line of valid JSON and holds nothing a terminal acts on: control characters (C1 and DEL too), and
//!   characters that turn or hide text, are escaped.
//! * Bytes that were never walked give an error or something meaningless, never a panic, and no deep recursion.

use crate::otlp::Signal;
use crate::otlp::schema::{DEPRECATED_SCOPES, Field, Kind, Msg};
use crate::otlp::wire::{DEPTH_MAX, FIXED64, LEN, Piece, Pieces, Place, Read, VARINT, What, bad, varint};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::fmt::Write as _;

/// A request that [`walk`](crate::otlp::walk()) has accepted as OTLP/JSON, in one line.
///
/// # Errors
/// When it is none.
pub fn to_json(signal: Signal, request: &[u8]) -> Result<String, crate::otlp::Malformed> {
    let mut writer = Writer { out: String::with_capacity(request.len() * 2), plain: false, drain: None };
    writer.message(Msg::request(signal), request, 0)?;
    Ok(writer.out)
}

/// The same text in pieces of about [`PIECE`], so that it never lies in memory as a whole.
///
/// # Errors
/// When it is none; pieces before the damage were handed out.
pub fn to_json_in_pieces(
    signal: Signal,
    request: &[u8],
    mut each: impl FnMut(&str),
) -> Result<(), crate::otlp::Malformed> {
    let mut writer = Writer { out: String::with_capacity(2 * PIECE), plain: false, drain: Some(&mut each) };
    writer.message(Msg::request(signal), request, 0)?;
    let rest = std::mem::take(&mut writer.out);
    drop(writer);
    each(&rest);
    Ok(())
}

/// A text is handed on when there is so much of it.
pub const PIECE: usize = 32 << 10;

/// Each item of a request that [`walk`](crate::otlp::walk()) has accepted, as the members of one JSON object without its
/// braces: `"resource":{…},"scope":{…},"metric":{…},"point":{…}` (or `"span"`, `"record"`).
///
/// # Errors
/// When it is none; items before the damage were handed out.
pub fn each_item(signal: Signal, request: &[u8], mut each: impl FnMut(&str)) -> Result<(), crate::otlp::Malformed> {
    let (resources, scopes, item, name) = match signal {
        Signal::Traces => (Msg::ResourceSpans, Msg::ScopeSpans, Msg::Span, "span"),
        Signal::Metrics => (Msg::ResourceMetrics, Msg::ScopeMetrics, Msg::Metric, "metric"),
        Signal::Logs => (Msg::ResourceLogs, Msg::ScopeLogs, Msg::LogRecord, "record"),
    };
    for resource in children(Msg::request(signal), request, 1)? {
        let around = envelope("resource", resources, resource, Msg::Resource)?;
        for scope in children(resources, resource, 2)? {
            let mut around = around.clone();
            around.push(',');
            around += &envelope("scope", scopes, scope, Msg::InstrumentationScope)?;
            for found in children(scopes, scope, 2)? {
                if item == Msg::Metric {
                    each_point(found, &around, &mut each)?;
                    continue;
                }
                let mut line = Writer { out: format!("{around},\"{name}\":"), plain: true, drain: None };
                line.message(item, found, 3)?;
                each(&line.out);
            }
        }
    }
    Ok(())
}

/// Points of a metric: those of the data member that is alive.
fn each_point(metric: &[u8], around: &str, each: &mut impl FnMut(&str)) -> Read<()> {
    let pieces = pieces(metric)?;
    let Some((field, data)) = alive(Msg::Metric, metric, &pieces) else { return Ok(()) };
    let Kind::Message(kind) = field.kind else { return Ok(()) };
    let Some(points) = kind.get().fields.iter().find(|field| field.number == 1) else { return Ok(()) };
    let Kind::Message(point) = points.kind else { return Ok(()) };
    let mut head = Writer { out: format!("{around},\"metric\":"), plain: true, drain: None };
    head.out.push('{');
    let mut first = true;
    let plain = |field: &&Field| !field.oneof;
    for field in Msg::Metric.get().fields.iter().filter(plain) {
        head.member(Msg::Metric, field, metric, &pieces, 3, &mut first)?;
    }
    head.comma(&mut first);
    head.key("type");
    head.out.push('"');
    head.camel(field.name);
    head.out.push('"');
    let inside = self::pieces(&data)?;
    for field in kind.get().fields.iter().filter(|field| field.number != 1) {
        head.member(kind, field, &data, &inside, 4, &mut first)?;
    }
    head.out.push_str("},\"point\":");
    for found in children(kind, &data, 1)? {
        let mut line = Writer { out: head.out.clone(), plain: true, drain: None };
        line.message(point, found, 5)?;
        each(&line.out);
    }
    Ok(())
}

/// `"name":{…}` of the message at field 1.
fn envelope(name: &str, msg: Msg, bytes: &[u8], inner: Msg) -> Read<String> {
    let mut writer = Writer { out: format!("\"{name}\":"), plain: true, drain: None };
    let pieces = pieces(bytes)?;
    let field = msg.get().fields.iter().find(|field| field.number == 1).expect("Resource… and Scope… begin with it");
    writer.message(inner, &merged(msg, field, bytes, &pieces)?, 2)?;
    Ok(writer.out)
}

/// The messages of a repeated field.
fn children(msg: Msg, bytes: &[u8], number: u32) -> Read<Vec<&[u8]>> {
    let mut found = Vec::new();
    for piece in pieces(bytes)?.iter().filter(|piece| piece.number == number) {
        is_len(msg, piece)?;
        found.push(&bytes[piece.value()]);
    }
    Ok(found)
}

fn is_len(msg: Msg, piece: &Piece) -> Read<()> {
    if piece.wire == LEN { Ok(()) } else { foreign(msg, piece, LEN) }
}

fn pieces(bytes: &[u8]) -> Read<Vec<Piece>> {
    let mut found = Vec::new();
    let mut pieces = Pieces::of(bytes, 0..bytes.len());
    while let Some(piece) = pieces.next()? {
        found.push(piece);
    }
    Ok(found)
}

/// The bytes of a singular message, its pieces put together.
fn merged<'a>(msg: Msg, field: &Field, bytes: &'a [u8], pieces: &[Piece]) -> Read<Cow<'a, [u8]>> {
    let mut whole = Cow::Borrowed(&[][..]);
    for piece in pieces.iter().filter(|piece| piece.number == field.number) {
        is_len(msg, piece)?;
        match &bytes[piece.value()] {
            part if whole.is_empty() => whole = Cow::Borrowed(part),
            part => whole.to_mut().extend_from_slice(part),
        }
    }
    Ok(whole)
}

/// The member of the message's oneof that counts, and its bytes if it is a message: the last one written, with the pieces of
/// the same kind that stand before it and behind every other member.
fn alive<'a>(msg: Msg, bytes: &'a [u8], pieces: &[Piece]) -> Option<(&'static Field, Cow<'a, [u8]>)> {
    let member = |piece: &Piece| msg.get().fields.iter().find(|field| field.oneof && field.number == piece.number);
    let last = pieces.iter().rev().find_map(member)?;
    let run: Vec<&Piece> = pieces.iter().filter(|piece| member(piece).is_some()).collect();
    let from = run.iter().rposition(|piece| piece.number != last.number).map_or(0, |other| other + 1);
    let mut whole = Cow::Borrowed(&[][..]);
    for piece in &run[from..] {
        match &bytes[piece.value()] {
            part if whole.is_empty() || !matches!(last.kind, Kind::Message(_)) => whole = Cow::Borrowed(part),
            part => whole.to_mut().extend_from_slice(part),
        }
    }
    Some((last, whole))
}

#[cold]
fn foreign<T>(msg: Msg, piece: &Piece, wanted: u8) -> Read<T> {
    let message = msg.get();
    let field = message.fields.iter().find(|field| field.number == piece.number).map_or("?", |field| field.name);
    bad(piece.start, What::Form { place: Place { message: message.name, field }, found: piece.wire, wanted })
}

struct Writer<'a> {
    out: String,
    /// Attributes as objects, values as they are.
    plain: bool,
    /// Takes the text as it grows.
    drain: Option<&'a mut dyn FnMut(&str)>,
}

impl Writer<'_> {
    /// Writes a message that lies `depth` messages deep.
    fn message(&mut self, msg: Msg, bytes: &[u8], depth: usize) -> Read<()> {
        if depth > DEPTH_MAX {
            return bad(0, What::Depth);
        }
        if self.plain && msg == Msg::AnyValue {
            return self.value(bytes, depth);
        }
        let pieces = pieces(bytes)?;
        self.out.push('{');
        let mut first = true;
        for field in msg.get().fields.iter().filter(|field| field.number != DEPRECATED_SCOPES && !field.oneof) {
            self.member(msg, field, bytes, &pieces, depth, &mut first)?;
        }
        if let Some((field, whole)) = alive(msg, bytes, &pieces) {
            self.comma(&mut first);
            self.key(field.name);
            let piece = pieces.iter().rev().find(|piece| piece.number == field.number).expect("it is alive");
            if piece.wire != field.kind.wire() {
                return foreign(msg, piece, field.kind.wire());
            }
            self.one(field.kind, &whole, depth)?;
        }
        self.out.push('}');
        Ok(())
    }

    /// Writes a field that is no member of a oneof, if it is there.
    fn member(
        &mut self,
        msg: Msg,
        field: &Field,
        bytes: &[u8],
        pieces: &[Piece],
        depth: usize,
        first: &mut bool,
    ) -> Read<()> {
        let Some(last) = pieces.iter().rev().find(|piece| piece.number == field.number) else { return Ok(()) };
        self.comma(first);
        self.key(field.name);
        match field.kind {
            _ if field.repeated && self.plain && field.kind == Kind::Message(Msg::KeyValue) => {
                self.attributes(msg, field, bytes, pieces, depth)
            }
            kind if field.repeated => {
                self.out.push('[');
                let mut first = true;
                for piece in pieces.iter().filter(|piece| piece.number == field.number) {
                    self.spill();
                    let value = &bytes[piece.value()];
                    if piece.wire == kind.wire() {
                        self.comma(&mut first);
                        self.one(kind, value, depth)?;
                    } else if piece.wire == LEN {
                        self.packed(kind, value, &mut first)?;
                    } else {
                        return foreign(msg, piece, kind.wire());
                    }
                }
                self.out.push(']');
                Ok(())
            }
            Kind::Message(inner) => self.message(inner, &merged(msg, field, bytes, pieces)?, depth + 1),
            kind if last.wire == kind.wire() => self.one(kind, &bytes[last.value()], depth),
            kind => foreign(msg, last, kind.wire()),
        }
    }

    /// A run of packed numbers.
    fn packed(&mut self, kind: Kind, run: &[u8], first: &mut bool) -> Read<()> {
        let mut at = 0;
        while at < run.len() {
            let end = match kind.wire() {
                VARINT => varint(run, at, run.len())?.1,
                FIXED64 => at + 8,
                _ => at + 4,
            };
            let Some(value) = run.get(at..end) else { return bad(at, What::Truncated) };
            self.spill();
            self.comma(first);
            self.one(kind, value, 0)?;
            at = end;
        }
        Ok(())
    }

    /// One value; `bytes` are those of its wire form without key and length.
    fn one(&mut self, kind: Kind, bytes: &[u8], depth: usize) -> Read<()> {
        let bits = match kind.wire() {
            VARINT => varint(bytes, 0, bytes.len())?.0,
            LEN => 0,
            _ => bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)),
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
        // as protobuf does
        match kind {
            Kind::Message(inner) => return self.message(inner, bytes, depth + 1),
            Kind::Text => put_text(&mut self.out, &String::from_utf8_lossy(bytes)),
            Kind::Bytes => {
                self.out.push('"');
                STANDARD.encode_string(bytes, &mut self.out);
                self.out.push('"');
            }
            Kind::TraceId | Kind::SpanId => {
                self.out.push('"');
                bytes.iter().for_each(|byte| self.put(format_args!("{byte:02x}")));
                self.out.push('"');
            }
            Kind::Bool => self.put(format_args!("{}", bits != 0)),
            Kind::Enum(_) | Kind::Int32 => self.put(format_args!("{}", bits as i32)),
            Kind::UInt32 | Kind::Fixed32 => self.put(format_args!("{}", bits as u32)),
            Kind::SInt32 => self.put(format_args!("{}", (bits as u32 >> 1) as i32 ^ -((bits & 1) as i32))),
            Kind::Int64 | Kind::SFixed64 => self.put(format_args!("\"{}\"", bits as i64)),
            Kind::UInt64 | Kind::Fixed64 => self.put(format_args!("\"{bits}\"")),
            Kind::Double => self.double(f64::from_bits(bits)),
        }
        Ok(())
    }

    fn double(&mut self, n: f64) {
        match n {
            n if n.is_nan() => self.out.push_str("\"NaN\""),
            n if n.is_infinite() => self.put(format_args!("\"{}Infinity\"", if n < 0.0 { "-" } else { "" })),
            n => self.put(format_args!("{n:?}")), // the shortest text that reads back as the same number
        }
    }

    /// Attributes as one object. Names that come twice come twice.
    fn attributes(&mut self, msg: Msg, field: &Field, bytes: &[u8], all: &[Piece], depth: usize) -> Read<()> {
        self.out.push('{');
        let mut first = true;
        for piece in all.iter().filter(|piece| piece.number == field.number) {
            is_len(msg, piece)?;
            self.comma(&mut first);
            self.pair(&bytes[piece.value()], depth + 1)?;
        }
        self.out.push('}');
        Ok(())
    }

    fn pair(&mut self, pair: &[u8], depth: usize) -> Read<()> {
        let pieces = pieces(pair)?;
        let key = pieces.iter().rev().find(|piece| piece.is(1)).map_or(&[][..], |piece| &pair[piece.value()]);
        put_text(&mut self.out, &String::from_utf8_lossy(key));
        self.out.push(':');
        let field = &Msg::KeyValue.get().fields[1];
        self.message(Msg::AnyValue, &merged(Msg::KeyValue, field, pair, &pieces)?, depth + 1)
    }

    /// A plain value: what the oneof holds, without its name.
    fn value(&mut self, bytes: &[u8], depth: usize) -> Read<()> {
        /// Beyond these a double cannot tell integers apart, and most readers of JSON have nothing else.
        const EXACT: std::ops::RangeInclusive<i64> = -(1 << 53)..=1 << 53;
        let pieces = pieces(bytes)?;
        let Some((field, whole)) = alive(Msg::AnyValue, bytes, &pieces) else {
            self.out.push_str("null");
            return Ok(());
        };
        match field.kind {
            Kind::Int64 => {
                #[allow(clippy::cast_possible_wrap)] // protobuf writes an int64 as its two's complement
                let n = varint(&whole, 0, whole.len())?.0 as i64;
                if EXACT.contains(&n) {
                    self.put(format_args!("{n}"))
                } else {
                    self.put(format_args!("\"{n}\""))
                }
                Ok(())
            }
            Kind::Message(Msg::ArrayValue) => {
                self.out.push('[');
                let mut first = true;
                for value in children(Msg::ArrayValue, &whole, 1)? {
                    self.comma(&mut first);
                    self.message(Msg::AnyValue, value, depth + 2)?;
                }
                self.out.push(']');
                Ok(())
            }
            Kind::Message(Msg::KeyValueList) => {
                let list = &Msg::KeyValueList.get().fields[0];
                self.attributes(Msg::KeyValueList, list, &whole, &self::pieces(&whole)?, depth + 1)
            }
            kind => self.one(kind, &whole, depth),
        }
    }

    fn spill(&mut self) {
        if let Some(drain) = self.drain.as_mut().filter(|_| self.out.len() >= PIECE) {
            drain(&self.out);
            self.out.clear();
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a string takes every text");
    }

    fn comma(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(',');
        }
    }

    /// `"lowerCamelCase":` of a snake_case name.
    fn key(&mut self, name: &str) {
        self.out.push('"');
        self.camel(name);
        self.out.push_str("\":");
    }

    fn camel(&mut self, name: &str) {
        let mut upper = false;
        for letter in name.chars() {
            match letter {
                '_' => upper = true,
                letter if std::mem::take(&mut upper) => self.out.push(letter.to_ascii_uppercase()),
                letter => self.out.push(letter),
            }
        }
    }
}

/// Appends a text as a JSON string that no terminal acts on.
pub fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_active(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("a string takes every text");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Characters that do something instead of being shown: C0, DEL, C1; line and paragraph separators; what turns the direction
/// of text or has no width.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
