//! May these bytes be kept? One pass over a request, down to the last leaf.
//!
//! Blocks are merged from the requests of many clients, and a far end refuses or drops a block as a whole; so what
//! one client sends must be decodable by everybody before it may lie beside the data of others. The walk accepts a
//! request only if prost decodes it *and* the Go collector does (architecture §4). It is stricter than prost in:
//!
//! * trace ids are 0 or 16 bytes, span ids 0 or 8, wherever they occur (Go refuses others);
//! * groups are refused (see [`wire`](super::wire)); prost skips them where it knows no such field;
//! * field 1000 of `ResourceSpans`, `ResourceMetrics`, `ResourceLogs` must be a valid `Scope…`: Go decodes it, prost
//!   does not know it. Its items are not counted: Go uses them only where field 2 is missing;
//! * more than 2 GiB, more than [`PARTS_MAX`] items and containers.
//!
//! Everywhere else it accepts exactly what prost 0.14.6 accepts: UTF-8 in strings, varints of at most 10 bytes and
//! 64 bits (over-long ones are legal), unknown fields, fields in any order, repeated singular ones, packed and
//! unpacked numbers, [`DEPTH_MAX`] messages inside each other (unknown fields not in the innermost of them).
//!
//! ```text
//! key byte ──▶ STEPS[message][key] ──▶ a number: check, go on
//!                                  ──▶ text, id: check, go on
//!                                  ──▶ a message: put the outer one on the pile, go on inside
//! ```
//!
//! Both are tried: property tests hold the walk against prost, and `fuzz/pdata` asks the collector's own code.
//!
//! There is no recursion, so that no request can overflow a thread's stack.

use super::Signal;
use super::schema::{DEPRECATED_SCOPES, Kind, MESSAGE_COUNT, MESSAGES, Msg};
use super::wire::{
    DEPTH_MAX, FIXED32, FIXED64, LEN, Malformed, PARTS_MAX, Place, Read, VARINT, What, bad, check_size, is_utf8, key,
    skip, span, varint,
};

/// What the walk saw of a valid request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Walked {
    /// Spans, metric data points or log records.
    pub items: u32,
    /// Earliest and latest time an item names, ns since 1970; `(0, 0)` when none names one.
    ///
    /// A span counts with its start and its end, a data point with its time, a log record with its time or, when
    /// that is 0, the time it was observed.
    pub data_ns: (u64, u64),
}

/// Checks a serialized `Export…ServiceRequest` to the leaf and counts its items.
///
/// # Errors
/// Where the request is malformed, and how. The request must be refused.
pub fn walk(signal: Signal, request: &[u8]) -> Result<Walked, Malformed> {
    check_size(request)?;
    let mut tally = Tally::default();
    message(&mut tally, request, Frame { end: request.len(), msg: Msg::request(signal) as u8 }, 0, 0)?;
    Ok(Walked { items: tally.items, data_ns: tally.range.unwrap_or_default() })
}

/// A message that is being walked, or waits until one inside it is done.
#[derive(Clone, Copy)]
struct Frame {
    end: usize,
    msg: u8,
}

/// Counts items as prost would find them after decoding.
#[derive(Default)]
struct Tally {
    items: u32,
    range: Option<(u64, u64)>,
    /// The times of the item being walked, last one wins: a time, and a span's end or a record's observed time.
    times: [u64; 2],
    /// Repeated members of `Metric.data` merge while they are of one kind; another kind replaces what was there.
    member: u8,
    before: (u32, Option<(u64, u64)>),
    /// Everything a map of the request would have an entry for, items included.
    parts: u32,
}

impl Tally {
    #[inline(always)]
    fn open(&mut self, msg: u8) {
        let role = ROLES[msg as usize];
        self.parts += u32::from(role != Role::Plain);
        match role {
            Role::Plain | Role::Box => {}
            Role::Item | Role::Span | Role::Log => self.times = [0; 2],
            Role::Metric => {
                self.member = 0; // no member of the oneof: message 0 is a request
                self.before = (self.items, self.range);
            }
            Role::Data => {
                if self.member != msg {
                    self.member = msg;
                    (self.items, self.range) = self.before;
                }
            }
        }
    }

    #[inline(always)]
    fn close(&mut self, msg: u8) {
        let role = ROLES[msg as usize];
        if matches!(role, Role::Item | Role::Span | Role::Log) {
            self.items += 1;
            let [time, other] = self.times;
            match role {
                Role::Log => self.saw(if time != 0 { time } else { other }),
                Role::Span => {
                    self.saw(time);
                    self.saw(other);
                }
                _ => self.saw(time),
            }
        }
    }

    #[inline(always)]
    fn saw(&mut self, ns: u64) {
        if ns != 0 {
            let (first, last) = self.range.unwrap_or((ns, ns));
            self.range = Some((first.min(ns), last.max(ns)));
        }
    }
}

/// What a message is to the tally.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Plain,
    /// A container, or what describes one.
    Box,
    /// A data point.
    Item,
    Span,
    Log,
    Metric,
    /// A member of the oneof `Metric.data`.
    Data,
}

static ROLES: [Role; MESSAGE_COUNT] = roles();

const fn roles() -> [Role; MESSAGE_COUNT] {
    let mut roles = [Role::Plain; MESSAGE_COUNT];
    let mut container = Msg::ResourceSpans as usize;
    while container <= Msg::InstrumentationScope as usize {
        roles[container] = Role::Box; // Resource…, Scope…, Resource and InstrumentationScope stand in a row
        container += 1;
    }
    roles[Msg::Span as usize] = Role::Span;
    roles[Msg::LogRecord as usize] = Role::Log;
    roles[Msg::Metric as usize] = Role::Metric;
    roles[Msg::Gauge as usize] = Role::Data;
    roles[Msg::Sum as usize] = Role::Data;
    roles[Msg::Histogram as usize] = Role::Data;
    roles[Msg::ExponentialHistogram as usize] = Role::Data;
    roles[Msg::Summary as usize] = Role::Data;
    roles[Msg::NumberDataPoint as usize] = Role::Item;
    roles[Msg::HistogramDataPoint as usize] = Role::Item;
    roles[Msg::ExponentialHistogramDataPoint as usize] = Role::Item;
    roles[Msg::SummaryDataPoint as usize] = Role::Item;
    roles
}

/// What to do after a key of one byte. Values from [`ENTER`] on enter message `step - ENTER`.
type Step = u8;
const UNKNOWN: Step = 0;
/// A known field in a foreign wire type, or the field number 0.
const WRONG: Step = 1;
const NUMBER: Step = 2;
const EIGHT: Step = 3;
const FOUR: Step = 4;
const TEXT: Step = 5;
const BLOB: Step = 6;
const ID16: Step = 7;
const ID8: Step = 8;
const PACKED_NUMBERS: Step = 9;
const PACKED_EIGHTS: Step = 10;
const TIME: Step = 11;
const OTHER_TIME: Step = 12;
const ENTER: Step = 64;

/// The step for every message and every key of one byte (fields 1–15).
static STEPS: [[Step; 128]; MESSAGE_COUNT] = steps();

const fn steps() -> [[Step; 128]; MESSAGE_COUNT] {
    let mut all = [[UNKNOWN; 128]; MESSAGE_COUNT];
    let mut msg = 0;
    while msg < MESSAGE_COUNT {
        let mut wire = 0;
        while wire < 8 {
            all[msg][wire] = WRONG; // field number 0
            wire += 1;
        }
        let fields = MESSAGES[msg].fields;
        let mut f = 0;
        while f < fields.len() {
            let number = fields[f].number as usize;
            let mut wire = 0;
            while wire < 8 && number < 16 {
                #[allow(clippy::cast_possible_truncation)] // below MESSAGE_COUNT and 8
                let step = step(msg as u8, fields[f].number, fields[f].kind, fields[f].repeated, wire as u8);
                all[msg][number << 3 | wire] = step;
                wire += 1;
            }
            f += 1;
        }
        msg += 1;
    }
    all
}

const fn step(msg: u8, number: u32, kind: Kind, repeated: bool, wire: u8) -> Step {
    if wire != kind.wire() {
        return match (repeated, kind.wire(), wire) {
            (true, VARINT, LEN) => PACKED_NUMBERS,
            (true, FIXED64, LEN) => PACKED_EIGHTS,
            _ => WRONG,
        };
    }
    match kind {
        Kind::Message(inner) => ENTER + inner as u8,
        Kind::Text => TEXT,
        Kind::Bytes => BLOB,
        Kind::TraceId => ID16,
        Kind::SpanId => ID8,
        _ if is_time(msg, number, 0) => TIME,
        _ if is_time(msg, number, 1) => OTHER_TIME,
        _ => match kind.wire() {
            VARINT => NUMBER,
            FIXED64 => EIGHT,
            _ => FOUR,
        },
    }
}

/// Is this field the time of an item (`nth` 0), or its other time (1)?
const fn is_time(msg: u8, number: u32, nth: u8) -> bool {
    const SPAN: u8 = Msg::Span as u8;
    const LOG: u8 = Msg::LogRecord as u8;
    const NUMBER_POINT: u8 = Msg::NumberDataPoint as u8;
    const HISTOGRAM_POINT: u8 = Msg::HistogramDataPoint as u8;
    const EXPONENTIAL_POINT: u8 = Msg::ExponentialHistogramDataPoint as u8;
    const SUMMARY_POINT: u8 = Msg::SummaryDataPoint as u8;
    match (msg, nth) {
        (SPAN, 0) => number == 7,
        (SPAN, _) => number == 8,
        (LOG, 0) => number == 1,
        (LOG, _) => number == 11,
        (NUMBER_POINT | HISTOGRAM_POINT | EXPONENTIAL_POINT | SUMMARY_POINT, 0) => number == 3,
        _ => false,
    }
}

/// Walks one message that begins at `at` and lies `outer_depth` messages deep.
fn message(tally: &mut Tally, bytes: &[u8], whole: Frame, mut at: usize, outer_depth: usize) -> Read<()> {
    let mut pile = [Frame { end: 0, msg: 0 }; DEPTH_MAX];
    let mut depth = outer_depth;
    let mut now = whole;
    loop {
        while at == now.end {
            tally.close(now.msg);
            if depth == outer_depth {
                return Ok(());
            }
            depth -= 1;
            now = pile[depth];
        }
        let start = at;
        let (step, wire);
        match bytes[at] {
            short if short < 0x80 => {
                step = STEPS[now.msg as usize][short as usize];
                wire = short & 7;
                at += 1;
            }
            _ => {
                let number;
                (number, wire, at) = key(bytes, at, now.end)?;
                step = step_of_long_key(now.msg, number, wire);
                if number == DEPRECATED_SCOPES && step >= ENTER {
                    at = deprecated_scopes(tally, bytes, at, now.end, step - ENTER, depth)?;
                    continue;
                }
            }
        }
        match step {
            TEXT => {
                let (from, to) = span(bytes, at, now.end)?;
                if !is_utf8(&bytes[from..to]) {
                    return bad(start, What::Utf8(place(bytes, start, now)));
                }
                at = to;
            }
            EIGHT | TIME | OTHER_TIME => {
                if now.end - at < 8 {
                    return bad(start, What::Truncated);
                }
                if step != EIGHT {
                    let ns = bytes[at..at + 8].try_into().expect("eight bytes were asked for");
                    tally.times[usize::from(step - TIME)] = u64::from_le_bytes(ns);
                }
                at += 8;
            }
            NUMBER => (_, at) = varint(bytes, at, now.end)?,
            FOUR => at = skip(bytes, FIXED32, at, now.end)?,
            BLOB => (_, at) = span(bytes, at, now.end)?,
            ID16 | ID8 => {
                let (from, to) = span(bytes, at, now.end)?;
                let wanted = if step == ID16 { 16 } else { 8 };
                if from != to && to - from != usize::from(wanted) {
                    return bad(start, What::Id { place: place(bytes, start, now), len: to - from, wanted });
                }
                at = to;
            }
            PACKED_NUMBERS => {
                let (mut from, to) = span(bytes, at, now.end)?;
                while from < to {
                    (_, from) = varint(bytes, from, to)?;
                }
                at = to;
            }
            PACKED_EIGHTS => {
                let (from, to) = span(bytes, at, now.end)?;
                if (to - from) % 8 != 0 {
                    return bad(start, What::Packed { place: place(bytes, start, now), len: to - from });
                }
                at = to;
            }
            UNKNOWN => {
                if depth == DEPTH_MAX {
                    return bad(start, What::Depth); // prost counts skipping as one more
                }
                at = skip(bytes, wire, at, now.end)?;
            }
            WRONG => return wrong(bytes, start, now),
            _ => {
                let (from, to) = span(bytes, at, now.end)?;
                if depth == DEPTH_MAX {
                    return bad(start, What::Depth);
                }
                pile[depth] = now;
                depth += 1;
                now = Frame { end: to, msg: step - ENTER };
                tally.open(now.msg);
                if tally.parts > PARTS_MAX {
                    return bad(start, What::Parts);
                }
                at = from;
            }
        }
    }
}

/// Fields above 15, and keys written longer than they need be.
#[cold]
fn step_of_long_key(msg: u8, number: u32, wire: u8) -> Step {
    let fields = MESSAGES[msg as usize].fields;
    fields
        .iter()
        .find(|field| field.number == number)
        .map_or(UNKNOWN, |field| step(msg, number, field.kind, field.repeated, wire))
}

/// Validates scopes at field 1000 without counting what is in them.
#[cold]
fn deprecated_scopes(tally: &mut Tally, bytes: &[u8], at: usize, end: usize, msg: u8, depth: usize) -> Read<usize> {
    let (from, to) = span(bytes, at, end)?;
    let mut inside = Tally { parts: tally.parts, ..Tally::default() };
    message(&mut inside, bytes, Frame { end: to, msg }, from, depth + 1)?;
    tally.parts = inside.parts;
    Ok(to)
}

/// The name of the known field whose key begins at `start`.
#[cold]
fn place(bytes: &[u8], start: usize, now: Frame) -> Place {
    let message = &MESSAGES[now.msg as usize];
    let number = key(bytes, start, now.end).map_or(0, |(number, ..)| number);
    let field = message.fields.iter().find(|field| field.number == number);
    Place { message: message.name, field: field.map_or("?", |field| field.name) }
}

#[cold]
fn wrong(bytes: &[u8], start: usize, now: Frame) -> Read<()> {
    let (number, found, _) = key(bytes, start, now.end)?;
    let field = MESSAGES[now.msg as usize].fields.iter().find(|field| field.number == number);
    match (found, field) {
        (3 | 4, _) => bad(start, What::Group),
        (6 | 7, _) => bad(start, What::WireType(found)),
        (_, Some(field)) => {
            bad(start, What::Form { place: place(bytes, start, now), found, wanted: field.kind.wire() })
        }
        (_, None) => bad(start, What::Key(u64::from(number))), // unreachable: only known fields can be wrong
    }
}
