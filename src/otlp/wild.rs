//! Requests as no exporter would write them: legal protobuf at its oddest, and nearly legal.
//!
//! A generator for property tests and fuzzers, driven by a string of bytes ("choices") so that what finds an error
//! can shrink it: fewer bytes make a smaller request, and no bytes the empty one. It writes raw wire format after
//! [`schema`](super::schema), not prost structs, because the interesting requests are those prost would never write:
//! unknown fields, fields out of order, singular messages and oneof members repeated, over-long varints, numbers
//! packed and not, defaults written out, duplicate keys, values nested around the limit. With defects allowed, also
//! groups, wrong wire types, ids of wrong length, bytes that are not UTF-8, lengths that lie, unknown wire types.

use super::Signal;
use super::schema::{Field, Kind, Msg};
use super::wire::{FIXED32, FIXED64, LEN, VARINT};

/// Choices, one byte each; zeros when there are none left.
#[derive(Debug, Clone)]
pub struct Choices<'a> {
    bytes: &'a [u8],
    /// One in so many fields is defective; 0: none is.
    defects: u8,
}

/// Attribute names that occur often, so that keys collide with each other and with the actions of the tests.
pub const KEYS: [&str; 6] = ["a", "b", "host.name", "agent.version", "", "ключ"];

impl<'a> Choices<'a> {
    /// Makes only requests that the walk accepts, up to their depth.
    #[must_use]
    pub fn lawful(bytes: &'a [u8]) -> Choices<'a> {
        Choices { bytes, defects: 0 }
    }

    /// Makes about one field in 100 defective.
    #[must_use]
    pub fn defective(bytes: &'a [u8]) -> Choices<'a> {
        Choices { bytes, defects: 100 }
    }

    fn byte(&mut self) -> u8 {
        match self.bytes {
            [first, rest @ ..] => {
                self.bytes = rest;
                *first
            }
            [] => 0,
        }
    }

    /// True once in `of`; false when there are no choices left.
    fn once_in(&mut self, of: u8) -> bool {
        self.byte() % of == of - 1
    }

    fn below(&mut self, of: usize) -> usize {
        usize::from(self.byte()) % of
    }

    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::from(self.byte()),
            2 => u64::MAX,
            3 => 1_795_000_000_000_000_000 + u64::from(self.byte()),
            4 => u64::from(self.byte()) << 7,
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// A request.
    #[must_use]
    pub fn request(&mut self, signal: Signal) -> Vec<u8> {
        self.message(Msg::request(signal), 0)
    }

    fn message(&mut self, msg: Msg, depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..self.below(6) {
            if self.defects > 0 && self.once_in(self.defects) {
                self.defect(&mut out, msg);
            } else if self.once_in(12) {
                self.unknown(&mut out);
            } else {
                let field = self.pick(msg);
                self.field(&mut out, field, depth);
            }
        }
        out
    }

    /// A known field of the message; of a container every other time one that leads to items.
    fn pick(&mut self, msg: Msg) -> &'static Field {
        let fields = msg.get().fields;
        let leads = |field: &&Field| {
            matches!(field.kind, Kind::Message(inner) if inner as u8 > msg as u8 && !matches!(inner,
                Msg::Resource | Msg::InstrumentationScope | Msg::EntityRef | Msg::KeyValue | Msg::AnyValue))
        };
        let is_container = !matches!(msg, Msg::Span | Msg::LogRecord) && (msg as u8) < Msg::NumberDataPoint as u8;
        if is_container && self.once_in(2) {
            let on: Vec<&Field> = fields.iter().filter(leads).filter(|field| field.number < 1_000).collect();
            if !on.is_empty() {
                return on[self.below(on.len())];
            }
        }
        &fields[self.below(fields.len())]
    }

    fn field(&mut self, out: &mut Vec<u8>, field: &Field, depth: usize) {
        if field.repeated && field.kind.wire() != LEN && self.once_in(2) {
            let mut packed = Vec::new();
            for _ in 0..self.below(4) {
                self.scalar(&mut packed, field.kind.wire());
            }
            if self.defects > 0 && self.once_in(8) {
                packed.push(0x80); // half a number more
            }
            self.len_field(out, field.number, &packed);
            return;
        }
        match field.kind {
            Kind::Message(inner) => {
                let content = if inner == Msg::AnyValue && self.once_in(40) {
                    self.deep_value()
                } else if depth > 12 {
                    Vec::new()
                } else {
                    self.message(inner, depth + 1)
                };
                self.len_field(out, field.number, &content);
            }
            Kind::Text => {
                let text = self.text();
                self.len_field(out, field.number, text.as_bytes());
            }
            Kind::Bytes => {
                let blob: Vec<u8> = (0..self.below(5)).map(|_| self.byte()).collect();
                self.len_field(out, field.number, &blob);
            }
            Kind::TraceId => self.id(out, field.number, 16),
            Kind::SpanId => self.id(out, field.number, 8),
            _ => {
                self.key(out, field.number, field.kind.wire());
                self.scalar(out, field.kind.wire());
            }
        }
    }

    fn id(&mut self, out: &mut Vec<u8>, number: u32, len: usize) {
        let len = if self.once_in(3) { 0 } else { len };
        let id: Vec<u8> = (0..len).map(|_| self.byte()).collect();
        self.len_field(out, number, &id);
    }

    fn text(&mut self) -> String {
        match self.below(4) {
            0 | 1 => KEYS[self.below(KEYS.len())].to_owned(),
            2 => "x".repeat(self.below(160)), // some lengths take two bytes
            _ => "äé漢🦀 ".repeat(self.below(5)),
        }
    }

    /// Lists or maps inside each other, around the depth where prost gives up.
    fn deep_value(&mut self) -> Vec<u8> {
        let maps = self.once_in(2);
        let levels = if maps { 24 + self.below(12) } else { 36 + self.below(18) };
        let mut value = Vec::new();
        for _ in 0..levels {
            let mut inner = Vec::new();
            if maps {
                let mut pair = Vec::new();
                self.len_field(&mut pair, 2, &value);
                self.len_field(&mut inner, 1, &pair);
            } else {
                self.len_field(&mut inner, 1, &value);
            }
            value.clear();
            self.len_field(&mut value, if maps { 6 } else { 5 }, &inner);
        }
        value
    }

    fn scalar(&mut self, out: &mut Vec<u8>, wire: u8) {
        let n = self.number();
        match wire {
            FIXED64 => out.extend_from_slice(&n.to_le_bytes()),
            #[allow(clippy::cast_possible_truncation)] // any four bytes will do
            FIXED32 => out.extend_from_slice(&(n as u32).to_le_bytes()),
            _ => self.varint(out, n),
        }
    }

    /// A field number nobody knows, or one known elsewhere.
    fn unknown(&mut self, out: &mut Vec<u8>) {
        let number = [17, 500, 999, 1_001, 70_000, (1 << 29) - 1][self.below(6)];
        let wire = [VARINT, FIXED64, LEN, FIXED32][self.below(4)];
        if wire == LEN {
            let blob: Vec<u8> = (0..self.below(6)).map(|_| self.byte()).collect();
            self.len_field(out, number, &blob);
        } else {
            self.key(out, number, wire);
            self.scalar(out, wire);
        }
    }

    fn defect(&mut self, out: &mut Vec<u8>, msg: Msg) {
        let fields = msg.get().fields;
        let field = &fields[self.below(fields.len())];
        match self.below(10) {
            9 => {
                let ids: Vec<&Field> =
                    fields.iter().filter(|field| matches!(field.kind, Kind::TraceId | Kind::SpanId)).collect();
                if !ids.is_empty() {
                    let (number, len) = (ids[self.below(ids.len())].number, self.below(18));
                    self.id(out, number, len);
                }
            }
            0 => self.group(out, 4),
            1 => {
                let wire = self.byte() % 8;
                self.key(out, field.number, wire);
                self.scalar(out, VARINT);
            }
            2 => {
                let blob: Vec<u8> = (0..self.below(20)).map(|_| self.byte()).collect();
                self.len_field(out, field.number, &blob);
            }
            3 => {
                self.key(out, field.number, LEN);
                let lie = self.number();
                self.varint(out, lie);
            }
            4 => out.extend_from_slice(&[0xff; 10][..self.below(11)]),
            5 => {
                let key = self.byte() % 8;
                self.varint(out, u64::from(key)); // field number 0
            }
            6 => {
                let key = u64::from(u32::MAX) + self.number() % 3;
                self.varint(out, key);
            }
            7 => self.key(out, field.number, field.kind.wire()), // and then whatever comes
            _ => {
                // A varint of ten bytes, at the edge of 64 bits.
                self.key(out, field.number, VARINT);
                out.extend_from_slice(&[0x80; 9]);
                out.push(self.byte() % 4);
            }
        }
    }

    fn group(&mut self, out: &mut Vec<u8>, levels: usize) {
        let number = [3, 17, 500][self.below(3)];
        self.key(out, number, 3);
        if levels > 0 && self.once_in(2) {
            self.group(out, levels - 1);
        }
        if self.once_in(2) {
            self.unknown(out);
        }
        let end = if self.once_in(6) { 9 } else { number };
        self.key(out, end, 4);
    }

    fn key(&mut self, out: &mut Vec<u8>, number: u32, wire: u8) {
        self.varint(out, u64::from(number) << 3 | u64::from(wire));
    }

    fn len_field(&mut self, out: &mut Vec<u8>, number: u32, content: &[u8]) {
        self.key(out, number, LEN);
        self.varint(out, content.len() as u64);
        out.extend_from_slice(content);
    }

    /// A varint, one in 30 longer than it need be.
    fn varint(&mut self, out: &mut Vec<u8>, value: u64) {
        super::wire::put_varint(out, value);
        if self.once_in(30) {
            let len = super::wire::varint_len(value);
            let longer = self.below(11 - len);
            if longer > 0 {
                let last = out.len() - 1;
                out[last] |= 0x80;
                out.resize(last + longer, 0x80);
                out.push(0);
            }
        }
    }
}
