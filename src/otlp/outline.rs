//! Where the items of a request lie and what envelopes they stand in: the map that cuts follow.
//!
//! ```text
//! request ── ResourceLogs ── ScopeLogs ── LogRecord          a leaf: one item
//!            │ resource      │ scope                          an envelope: everything that is no child
//!            │ schema_url    │ schema_url
//! request ── ResourceMetrics ── ScopeMetrics ── Metric ── Gauge … ── data point
//! ```
//!
//! The walk is shallow: it reads keys and lengths of the containers and skips over the items. It is for requests
//! that [`walk`](super::walk()) has accepted; on anything else it gives an error or a map of what it could read,
//! and never reaches outside the bytes.

use super::Signal;
use super::peek::Peek;
use super::schema::{DEPRECATED_SCOPES, Msg};
use super::wire::{LEN, Pieces, Place, Read, What, bad, check_size};
use std::ops::Range;

/// One item: its whole field in the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf {
    pub(super) start: u32,
    pub(super) end: u32,
    /// Which container it stands in.
    pub(super) parent: u32,
}

/// A container of items or of other containers.
#[derive(Debug, Clone)]
pub(super) struct Parent {
    /// Its own container; its own number for the request.
    pub(super) up: u32,
    /// Its field number there.
    pub(super) number: u32,
    /// Bytes of its content as it came; a part's is never longer.
    pub(super) content: u32,
    /// Its envelope: which of [`Outline::ranges`].
    pub(super) envelope: Range<u32>,
    /// Its whole field, for those directly below the request.
    pub(super) whole: Range<u32>,
}

impl Parent {
    /// The field of the attributes of its items, if it is a kind of a metric's data.
    pub(super) fn attributes(&self) -> u32 {
        match self.number {
            9 => 9,  // HistogramDataPoint
            10 => 1, // ExponentialHistogramDataPoint
            _ => 7,  // NumberDataPoint, SummaryDataPoint
        }
    }
}

/// The map of one request. Parents stand before their children; number 0 is the request itself.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub(super) leaves: Vec<Leaf>,
    pub(super) parents: Vec<Parent>,
    /// Pieces of the request that belong to envelopes.
    pub(super) ranges: Vec<Range<u32>>,
    /// Envelope pieces of the containers that are being read, innermost last.
    unfinished: Vec<Range<u32>>,
}

/// A level of containers: the children's field number, and what they are.
#[derive(Clone, Copy)]
enum Level {
    Request,
    Resource,
    Scope,
    MetricScope,
}

impl Outline {
    pub(super) fn of(signal: Signal, bytes: &[u8]) -> Read<Outline> {
        check_size(bytes)?;
        let mut outline = Outline::default();
        outline.container(signal, bytes, Level::Request, 0, 0, 0..bytes.len())?;
        Ok(outline)
    }

    fn open(&mut self, up: u32, number: u32, content: usize) -> (u32, usize) {
        let parent = Parent { up, number, content: small(content), envelope: 0..0, whole: 0..0 };
        self.parents.push(parent);
        (small(self.parents.len() - 1), self.unfinished.len())
    }

    fn close(&mut self, me: u32, base: usize) {
        let from = small(self.ranges.len());
        self.ranges.extend(self.unfinished.drain(base..));
        self.parents[me as usize].envelope = from..small(self.ranges.len());
    }

    /// Adds a field to the envelope being read, as one piece with the field before it where they touch.
    fn keep(&mut self, base: usize, field: Range<usize>) {
        let field = small(field.start)..small(field.end);
        match self.unfinished[base..].last_mut() {
            Some(last) if last.end == field.start => last.end = field.end,
            _ => self.unfinished.push(field),
        }
    }

    /// Reads a container whose children are at most three levels above the items: the depth of this recursion.
    fn container(
        &mut self,
        signal: Signal,
        bytes: &[u8],
        level: Level,
        up: u32,
        number: u32,
        range: Range<usize>,
    ) -> Read<u32> {
        let (me, base) = self.open(up, number, range.len());
        let child = child_number(level);
        let mut pieces = Pieces::of(bytes, range);
        while let Some(piece) = pieces.next()? {
            if piece.number != child {
                self.keep(base, piece.whole());
                continue;
            }
            if piece.wire != LEN {
                return foreign(signal, level, piece.start, piece.wire);
            }
            match level {
                Level::Request => {
                    let child = self.container(signal, bytes, Level::Resource, me, child, piece.value())?;
                    self.parents[child as usize].whole = small(piece.start)..small(piece.end);
                }
                Level::Resource if signal == Signal::Metrics => {
                    self.container(signal, bytes, Level::MetricScope, me, child, piece.value())?;
                }
                Level::Resource => {
                    self.container(signal, bytes, Level::Scope, me, child, piece.value())?;
                }
                Level::MetricScope => self.metric(bytes, me, piece.value())?,
                Level::Scope => self.leaf(piece.whole(), me),
            }
        }
        self.close(me, base);
        Ok(me)
    }

    /// Reads a metric. Of the oneof `data` only the last run of members of one kind is alive: they merge, and
    /// replaced whatever another kind held before (protobuf, "Last One Wins").
    fn metric(&mut self, bytes: &[u8], up: u32, range: Range<usize>) -> Read<()> {
        let (me, base) = self.open(up, 2, range.len());
        let alive = live_data(bytes, range.clone())?;
        let mut pieces = Pieces::of(bytes, range.clone());
        while let Some(piece) = pieces.next()? {
            if data_name(piece.number).is_none() {
                self.keep(base, piece.whole());
            }
        }
        if let Some((number, from)) = alive {
            let (data, data_base) = self.open(me, number, range.end - from);
            let mut pieces = Pieces::of(bytes, from..range.end);
            while let Some(piece) = pieces.next()? {
                if piece.number == number {
                    let mut inner = Pieces::of(bytes, piece.value());
                    while let Some(point) = inner.next()? {
                        if point.is(1) {
                            self.leaf(point.whole(), data);
                        } else {
                            self.keep(data_base, point.whole());
                        }
                    }
                }
            }
            self.close(data, data_base);
        }
        self.close(me, base);
        Ok(())
    }

    fn leaf(&mut self, field: Range<usize>, parent: u32) {
        self.leaves.push(Leaf { start: small(field.start), end: small(field.end), parent });
    }
}

/// Counts the items of a request that [`walk`](super::walk()) has accepted, by lengths alone.
///
/// # Errors
/// When the containers cannot be read; a request that was accepted can.
pub fn count(signal: Signal, request: &[u8]) -> Result<u32, super::Malformed> {
    check_size(request)?;
    let mut items = 0;
    each(signal, request, Level::Request, 0..request.len(), &mut |resource| {
        each(signal, request, Level::Resource, resource, &mut |scope| {
            if signal == Signal::Metrics {
                each(signal, request, Level::MetricScope, scope, &mut |metric| {
                    items += points(request, metric)?;
                    Ok(())
                })
            } else {
                each(signal, request, Level::Scope, scope, &mut |_| {
                    items += 1;
                    Ok(())
                })
            }
        })
    })?;
    Ok(items)
}

/// Does a request that [`walk`](super::walk()) has accepted use `instrumentation_library_*` (field 1000), which OTLP
/// removed in 0.15? Without items elsewhere it must be refused: nobody counts or cuts what stands there, so it would be
/// acknowledged and lost.
#[must_use]
pub fn is_deprecated(request: &[u8]) -> bool {
    let mut found = false;
    let read = each(Signal::Logs, request, Level::Request, 0..request.len(), &mut |resource| {
        let mut pieces = Pieces::of(request, resource);
        while let Some(piece) = pieces.next()? {
            found |= piece.number == DEPRECATED_SCOPES && !piece.value().is_empty();
        }
        Ok(())
    });
    found && read.is_ok()
}

/// Does every log record of a request that [`walk`](super::walk()) has accepted name a severity, and one below this?
#[must_use]
pub fn all_below(request: &[u8], severity: u8) -> bool {
    let mut below = true;
    let read = each(Signal::Logs, request, Level::Request, 0..request.len(), &mut |resource| {
        each(Signal::Logs, request, Level::Resource, resource, &mut |scope| {
            each(Signal::Logs, request, Level::Scope, scope, &mut |record| {
                // One is enough to know; of those behind it only the lengths are read.
                below = below && (1..i32::from(severity)).contains(&Peek(&request[record]).number(2));
                Ok(())
            })
        })
    });
    below && read.is_ok()
}

fn each(
    signal: Signal,
    bytes: &[u8],
    level: Level,
    range: Range<usize>,
    found: &mut dyn FnMut(Range<usize>) -> Read<()>,
) -> Read<()> {
    let child = child_number(level);
    let mut pieces = Pieces::of(bytes, range);
    while let Some(piece) = pieces.next()? {
        if piece.number == child {
            if piece.wire != LEN {
                return foreign(signal, level, piece.start, piece.wire);
            }
            found(piece.value())?;
        }
    }
    Ok(())
}

fn points(bytes: &[u8], metric: Range<usize>) -> Read<u32> {
    let mut items = 0;
    let Some((number, from)) = live_data(bytes, metric.clone())? else { return Ok(0) };
    let mut pieces = Pieces::of(bytes, from..metric.end);
    while let Some(piece) = pieces.next()? {
        if piece.number == number {
            let mut inner = Pieces::of(bytes, piece.value());
            while let Some(point) = inner.next()? {
                items += u32::from(point.is(1));
            }
        }
    }
    Ok(items)
}

/// The kind of data a metric has in the end, and where its first living piece begins.
fn live_data(bytes: &[u8], metric: Range<usize>) -> Read<Option<(u32, usize)>> {
    let mut alive = None;
    let mut pieces = Pieces::of(bytes, metric);
    while let Some(piece) = pieces.next()? {
        let Some(field) = data_name(piece.number) else { continue };
        if piece.wire != LEN {
            let place = Place { message: "Metric", field };
            return bad(piece.start, What::Form { place, found: piece.wire, wanted: LEN });
        }
        if alive.is_none_or(|(number, _)| number != piece.number) {
            alive = Some((piece.number, piece.start));
        }
    }
    Ok(alive)
}

/// The members of the oneof `Metric.data`.
const fn data_name(number: u32) -> Option<&'static str> {
    match number {
        5 => Some("gauge"),
        7 => Some("sum"),
        9 => Some("histogram"),
        10 => Some("exponential_histogram"),
        11 => Some("summary"),
        _ => None,
    }
}

const fn child_number(level: Level) -> u32 {
    match level {
        Level::Request => 1,
        Level::Resource | Level::Scope | Level::MetricScope => 2,
    }
}

#[cold]
fn foreign<T>(signal: Signal, level: Level, at: usize, found: u8) -> Read<T> {
    let up = match level {
        Level::Request => 0,
        Level::Resource => 3, // ResourceSpans… follow the three requests in `Msg`, Scope… follow them
        Level::Scope | Level::MetricScope => 6,
    };
    let message = &super::schema::MESSAGES[Msg::request(signal) as usize + up];
    let field = message.fields.iter().find(|field| field.number == child_number(level));
    let place = Place { message: message.name, field: field.map_or("?", |field| field.name) };
    bad(at, What::Form { place, found, wanted: LEN })
}

fn small(n: usize) -> u32 {
    u32::try_from(n).expect("requests are at most 2 GiB (check_size), and nothing is counted that has no bytes")
}
