//! Cutting requests: at item borders, order kept, every part a whole request with the envelopes of its items.
//!
//! ```text
//! Resource A ─ Scope a ─ 1 2 3 4 5        cut(max_items 4)       A ─ a ─ 1 2 3 4   │  A ─ a ─ 5
//! Resource B ─ Scope b ─ 6 7              ───────────────▶                         │  B ─ b ─ 6 7
//! ```
//!
//! What always holds:
//! * Every item is in exactly one part; the parts in order give the items in order.
//! * A part carries resource, scope, schema urls, a metric's name, unit, metadata and temporality, and the unknown
//!   fields of all of them. A metric's data points may go to different parts.
//! * No part has more items or bytes than asked for, unless one item alone (with its envelopes) does.
//! * The same request and limits give the same parts.
//! * A part that lies in the request as it must be sent is a slice of it, not a copy.
//!
//! Containers without items, and data a metric has replaced (a oneof written twice), travel only in such slices.

use super::outline::{Leaf, Outline};
use super::wire::{Malformed, Open, What, bad, varint_len};
use super::{Signal, count};
use bytes::Bytes;
use std::ops::Range;

/// How large a part may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Most items of a part; 0: any number. `n` items become ⌈n / max⌉ parts of nearly equal size.
    pub max_items: u32,
    /// Most bytes of a part; 0: any number.
    pub max_bytes: u32,
}

/// One request made of a part of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which items of the whole it has.
    pub items: Range<u32>,
    /// The request.
    pub bytes: Bytes,
}

/// Cuts a request that [`walk`](super::walk()) has accepted.
///
/// A request without items is one part: itself.
///
/// # Errors
/// When the containers cannot be read; a request that was accepted can.
pub fn cut(signal: Signal, request: &Bytes, at: Limits) -> Result<Vec<Part>, Malformed> {
    let items = count(signal, request)?;
    let fits_in_bytes = at.max_bytes == 0 || request.len() <= at.max_bytes as usize;
    let fits_in_items = at.max_items == 0 || items <= at.max_items;
    if items == 0 || (fits_in_bytes && fits_in_items) {
        return Ok(vec![Part { items: 0..items, bytes: request.clone() }]);
    }
    let outline = Outline::of(signal, request)?;
    let mut parts = Vec::new();
    let mut from = 0;
    while from < items {
        let to = from + fitting(&outline, from, at);
        parts.push(Part { items: from..to, bytes: build(&outline, request, from..to, at.max_bytes) });
        from = to;
    }
    Ok(parts)
}

/// The request with exactly the items `items` of a request that [`walk`](super::walk()) has accepted.
///
/// # Errors
/// [`What::NoSuchItems`] when there are not so many; otherwise as [`cut`].
pub fn take(signal: Signal, request: &Bytes, items: Range<u32>) -> Result<Bytes, Malformed> {
    let has = count(signal, request)?;
    if items.start > items.end || items.end > has {
        return bad(0, What::NoSuchItems { from: items.start, to: items.end, has });
    }
    if items == (0..has) {
        return Ok(request.clone());
    }
    if items.is_empty() {
        return Ok(Bytes::new()); // the empty request
    }
    Ok(build(&Outline::of(signal, request)?, request, items, 0))
}

/// How many items from `from` on the next part takes: at least one.
fn fitting(outline: &Outline, from: u32, at: Limits) -> u32 {
    let rest = &outline.leaves[from as usize..];
    #[allow(clippy::cast_possible_truncation)] // fewer items than bytes, at most 2 GiB
    let left = rest.len() as u32;
    // Nearly equal parts: of ⌈left / max⌉ parts this one takes its share, rounded up.
    let share = if at.max_items == 0 { left } else { left.div_ceil(left.div_ceil(at.max_items)) };
    if at.max_bytes == 0 {
        return share;
    }
    let mut here = Path::default();
    let mut size = envelope_len(outline, REQUEST);
    for (taken, leaf) in rest[..share as usize].iter().enumerate() {
        if here.parent() != Some(leaf.parent) {
            size += here.go(outline, leaf.parent);
        }
        size += (leaf.end - leaf.start) as usize;
        if size > at.max_bytes as usize && taken > 0 {
            #[allow(clippy::cast_possible_truncation)] // less than `share`
            return taken as u32;
        }
    }
    share
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

/// Makes the request with the leaves `items`, which are at least one.
fn build(outline: &Outline, request: &Bytes, items: Range<u32>, max_bytes: u32) -> Bytes {
    if let Some(slice) = as_it_lies(outline, items.clone())
        && (max_bytes == 0 || slice.len() <= max_bytes as usize)
    {
        return request.slice(slice);
    }
    let leaves = &outline.leaves[items.start as usize..items.end as usize];
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
