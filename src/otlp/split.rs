//! Cutting requests: at item borders, order kept, every part a whole request with the envelopes of its items.
//!
//! ```text
//! Resource A ─ Scope a ─ 1 2 3 4 5        take(0..4)             A ─ a ─ 1 2 3 4
//! Resource B ─ Scope b ─ 6 7              take(4..7)             A ─ a ─ 5, B ─ b ─ 6 7
//! ```
//!
//! What always holds:
//! * A part has exactly the items asked for, in order: ranges that tile the request give each item once, and so do picks.
//! * A part carries resource, scope, schema urls, a metric's name, unit, metadata and temporality, and the unknown
//!   fields of all of them. A metric's data points may go to different parts.
//! * The same request and range give the same part.
//! * A part that lies in the request as it must be sent is a slice of it, not a copy.
//! * The request is mapped once, whatever the number of parts.
//!
//! Containers without items, and data a metric has replaced (a oneof written twice), travel only in such slices.

use super::Signal;
use super::outline::{Leaf, Outline};
use super::peek::Peek;
use super::wire::{Malformed, Open, Pieces, What, bad, varint_len};
use bytes::Bytes;
use std::ops::Range;

/// An item and what stands around it.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// `Resource`.
    pub resource: Peek<'a>,
    /// `Metric` without its points; empty for other signals.
    pub metric: Peek<'a>,
    /// `Span`, `LogRecord` or a data point.
    pub item: Peek<'a>,
    /// Of a data point: where its attributes are.
    pub attributes: u32,
    /// The one before stands in something else.
    pub is_first: bool,
}

/// A request that [`walk`](super::walk()) has accepted, with the map that cuts follow.
#[derive(Debug)]
pub struct Cutter {
    request: Bytes,
    outline: Outline,
}

impl Cutter {
    /// Maps a request.
    ///
    /// # Errors
    /// When the containers cannot be read; a request that was accepted can.
    pub fn of(signal: Signal, request: &Bytes) -> Result<Cutter, Malformed> {
        Ok(Cutter { request: request.clone(), outline: Outline::of(signal, request)? })
    }

    /// Items in the request.
    #[must_use]
    pub fn items(&self) -> u32 {
        u32::try_from(self.outline.leaves.len()).expect("fewer items than bytes, at most 2 GiB (check_size)")
    }

    /// The request with exactly the items `items`.
    ///
    /// # Errors
    /// [`What::NoSuchItems`] when there are not so many.
    pub fn take(&self, items: Range<u32>) -> Result<Bytes, Malformed> {
        let has = self.items();
        if items.start > items.end || items.end > has {
            return bad(0, What::NoSuchItems { from: items.start, to: items.end, has });
        }
        if items == (0..has) {
            return Ok(self.request.clone());
        }
        if items.is_empty() {
            return Ok(Bytes::new()); // the empty request
        }
        if let Some(slice) = as_it_lies(&self.outline, items.clone()) {
            return Ok(self.request.slice(slice));
        }
        Ok(build(&self.outline, &self.request, &self.outline.leaves[items.start as usize..items.end as usize]))
    }

    /// The request with those of the items that are wanted, by their number.
    #[must_use]
    pub fn pick(&self, wanted: impl Fn(u32) -> bool) -> Bytes {
        let chosen: Vec<Leaf> =
            (0..self.items()).zip(&self.outline.leaves).filter(|(n, _)| wanted(*n)).map(|(_, leaf)| *leaf).collect();
        match chosen.len() {
            0 => Bytes::new(), // the empty request
            all if all == self.outline.leaves.len() => self.request.clone(),
            _ => build(&self.outline, &self.request, &chosen),
        }
    }

    /// Shows every item with what stands around it, in order.
    pub fn each(&self, mut see: impl FnMut(Around<'_>)) {
        for run in self.outline.leaves.chunk_by(|a, b| a.parent == b.parent) {
            let path = Path::to(&self.outline, run[0].parent);
            let resource = self.resource(path.containers()[0]);
            let metric = if path.depth == Path::DEPTH { self.own_fields(path.containers()[2]) } else { Vec::new() };
            let attributes = self.outline.parents[run[0].parent as usize].attributes();
            for (n, leaf) in run.iter().enumerate() {
                let field = leaf.start as usize..leaf.end as usize;
                let item = Pieces::of(&self.request, field).next().ok().flatten().map_or(0..0, |piece| piece.value());
                let item = Peek(&self.request[item]);
                let (resource, metric) = (Peek(&resource), Peek(&metric));
                see(Around { resource, metric, item, attributes, is_first: n == 0 });
            }
        }
    }

    /// The `Resource` of a container directly below the request: its occurrences one after the other, which is how they merge.
    fn resource(&self, container: u32) -> Vec<u8> {
        let mut resource = Vec::new();
        for piece in envelope(&self.outline, container) {
            let mut pieces = Pieces::of(&self.request, piece.start as usize..piece.end as usize);
            while let Ok(Some(piece)) = pieces.next() {
                if piece.is(1) {
                    resource.extend_from_slice(&self.request[piece.value()]);
                }
            }
        }
        resource
    }

    fn own_fields(&self, container: u32) -> Vec<u8> {
        let mut fields = Vec::new();
        put_envelope(&self.outline, &self.request, container, &mut fields);
        fields
    }

    /// Bytes of envelopes that every part with any of these items is longer than, however few it has; 0 without items.
    ///
    /// Where they are more than a limit allows no cut will help.
    #[must_use]
    pub fn least_envelope(&self, items: Range<u32>) -> usize {
        let leaves = self.outline.leaves.get(items.start as usize..items.end as usize).unwrap_or_default();
        let alone = |run: &[Leaf]| {
            let containers = Path::to(&self.outline, run[0].parent);
            containers.containers().iter().map(|&parent| envelope_len(&self.outline, parent)).sum::<usize>()
        };
        let least = leaves.chunk_by(|a, b| a.parent == b.parent).map(alone).min();
        least.map_or(0, |least| least + envelope_len(&self.outline, REQUEST))
    }
}

/// Bytes of key and length before a container: an upper bound, for in a part it is never longer than it came.
fn header_len(outline: &Outline, parent: u32) -> usize {
    1 + varint_len(u64::from(outline.parents[parent as usize].content)) // containers are fields 1–11: one byte of key
}

fn envelope(outline: &Outline, parent: u32) -> &[Range<u32>] {
    let which = &outline.parents[parent as usize].envelope;
    &outline.ranges[which.start as usize..which.end as usize]
}

fn envelope_len(outline: &Outline, parent: u32) -> usize {
    envelope(outline, parent).iter().map(|piece| piece.len()).sum()
}

fn put_envelope(outline: &Outline, request: &[u8], parent: u32, out: &mut Vec<u8>) {
    for piece in envelope(outline, parent) {
        out.extend_from_slice(&request[piece.start as usize..piece.end as usize]);
    }
}

/// Makes the request with these leaves, which are at least one and in order.
fn build(outline: &Outline, request: &Bytes, leaves: &[Leaf]) -> Bytes {
    let mut out = Vec::with_capacity(capacity(outline, leaves));
    put_envelope(outline, request, REQUEST, &mut out);
    let mut here = Path::default();
    let mut open: Vec<Open> = Vec::with_capacity(Path::DEPTH);
    for run in leaves.chunk_by(|a, b| a.parent == b.parent && a.end == b.start) {
        let there = Path::to(outline, run[0].parent);
        let shared = here.shared(&there);
        close_down_to(shared, &mut open, &mut out);
        for &parent in &there.containers()[shared..] {
            let container = &outline.parents[parent as usize];
            open.push(Open::field(&mut out, container.number, container.content as usize));
            put_envelope(outline, request, parent, &mut out);
        }
        here = there;
        out.extend_from_slice(&request[run[0].start as usize..run[run.len() - 1].end as usize]);
    }
    close_down_to(0, &mut open, &mut out);
    Bytes::from(out)
}

fn close_down_to(depth: usize, open: &mut Vec<Open>, out: &mut Vec<u8>) {
    for field in open.drain(depth..).rev() {
        field.close(out);
    }
}

/// Where the part lies in the request, when it can be sent from there: whole children of the request, and nothing
/// of the request's own to repeat.
fn as_it_lies(outline: &Outline, items: Range<u32>) -> Option<Range<usize>> {
    let leaves = &outline.leaves;
    let top = |item: u32| leaves.get(item as usize).map(|leaf| Path::to(outline, leaf.parent).containers()[0]);
    let (first, last) = (top(items.start)?, top(items.end - 1)?);
    let begins = items.start == 0 || top(items.start - 1) != Some(first);
    let ends = top(items.end) != Some(last);
    if !begins || !ends || envelope_len(outline, REQUEST) > 0 {
        return None;
    }
    let field = |parent: u32| &outline.parents[parent as usize].whole;
    Some(field(first).start as usize..field(last).end as usize)
}

/// Room for the part's items and envelopes, so that the buffer need not grow: each container counted once.
fn capacity(outline: &Outline, leaves: &[Leaf]) -> usize {
    let mut here = Path::default();
    let mut size = envelope_len(outline, REQUEST);
    for leaf in leaves {
        size += (leaf.end - leaf.start) as usize;
        if here.parent() != Some(leaf.parent) {
            size += here.go(outline, leaf.parent);
        }
    }
    size
}

/// The request itself among [`Outline::parents`].
const REQUEST: u32 = 0;

/// The containers around an item, outermost first, the request left out.
#[derive(Debug, Clone, Copy, Default)]
struct Path {
    containers: [u32; Path::DEPTH],
    depth: usize,
}

impl Path {
    /// Resource, scope, metric, data.
    const DEPTH: usize = 4;

    fn to(outline: &Outline, parent: u32) -> Path {
        let mut path = Path::default();
        let mut at = parent;
        while at != REQUEST {
            path.containers[path.depth] = at;
            path.depth += 1;
            at = outline.parents[at as usize].up;
        }
        path.containers[..path.depth].reverse();
        path
    }

    /// Moves on to the items of `parent`; gives the bytes of the containers opened for that.
    fn go(&mut self, outline: &Outline, parent: u32) -> usize {
        let there = Path::to(outline, parent);
        let shared = self.shared(&there);
        *self = there;
        let opened = &self.containers()[shared..];
        opened.iter().map(|&parent| header_len(outline, parent) + envelope_len(outline, parent)).sum()
    }

    fn containers(&self) -> &[u32] {
        &self.containers[..self.depth]
    }

    fn parent(&self) -> Option<u32> {
        self.containers().last().copied()
    }

    /// How many containers two paths have in common.
    fn shared(&self, other: &Path) -> usize {
        self.containers().iter().zip(other.containers()).take_while(|(a, b)| a == b).count()
    }
}
