//! The `resource` and `attributes` processors on wire bytes: several of them in one pass over the request.
//!
//! ```text
//! LogRecord  time  attributes{a} attributes{b}  body          upsert c
//!            ──────────────── copied ────────────────  + attributes{c}      nobody has `c`: one memcpy, one append
//! LogRecord  time  attributes{a} attributes{c}  body          upsert c, delete a
//!            ── copied ──        attributes{c′} ─ copied ─                  else: the list is edited entry by entry
//! ```
//!
//! What always holds:
//! * What the actions do not name survives byte for byte and in order, unknown fields too; the lengths around it
//!   are written anew.
//! * Only these lists are touched: of `Resource` 1, Span 9, LogRecord 6, NumberDataPoint 7, HistogramDataPoint 9,
//!   ExponentialHistogramDataPoint 1, SummaryDataPoint 7. Scopes, span events and links, exemplars and a metric's
//!   metadata stay.
//! * An absent `resource` is made when an action adds something to it; a repeated one is edited as the one message
//!   it stands for, and written once.
//! * A request that [`walk`](super::walk()) accepts is still accepted afterwards, with the same items.

use super::Signal;
use super::edits::{Action, VALUE_DEPTH_MAX};
use super::list::{Actions, Context, Suffix};
use super::only::{Level, Only, Standing};
use super::wire::{LEN, Malformed, Open, Pieces, REQUEST_MAX, Read, What, bad, check_size};
use bytes::Bytes;
use std::ops::Range;

/// Which lists a processor edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `resource`: the attributes of resources.
    Resource,
    /// `attributes`: those of spans, data points and log records.
    Items,
}

/// One processor.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Which lists.
    pub target: Target,
    /// What is done to each, in order; each sees what the one before it did.
    pub actions: Vec<Action>,
    /// For which items. Without effect on [`Target::Resource`]: that processor has no conditions in otelcol either.
    pub only: Only,
}

/// A configured value nests deeper than [`VALUE_DEPTH_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("value is nested more than {VALUE_DEPTH_MAX} levels deep")]
pub struct TooDeep;

/// The processors of a pipeline, ready to run.
#[derive(Debug, Clone)]
pub struct Rewriter {
    passes: Vec<Pass>,
}

/// Rules that can be carried out together: a condition looks at what the rules before it have made.
#[derive(Debug, Clone, Default)]
struct Pass {
    resource: Actions,
    items: Actions,
    only: Only,
}

impl Rewriter {
    /// Takes the processors in the pipeline's order.
    ///
    /// # Errors
    /// When a value is nested so deep that no far end would decode it.
    pub fn new(rules: Vec<Rule>) -> Result<Rewriter, TooDeep> {
        let mut passes: Vec<Pass> = Vec::new();
        for rule in rules.into_iter().filter(|rule| !rule.actions.is_empty()) {
            if rule.actions.iter().filter_map(Action::value).any(|value| value.depth() > VALUE_DEPTH_MAX) {
                return Err(TooDeep);
            }
            let only = if rule.target == Target::Items { rule.only } else { Only::default() };
            if passes.last().is_none_or(|last| only.has_conditions() || last.only.has_conditions()) {
                passes.push(Pass { only, ..Pass::default() });
            }
            let pass = passes.last_mut().expect("one was pushed when there was none");
            match rule.target {
                Target::Resource => pass.resource.extend(rule.actions),
                Target::Items => pass.items.extend(rule.actions),
            }
        }
        Ok(Rewriter { passes })
    }

    /// Carries the processors out on a request that [`walk`](super::walk()) has accepted. `context` gives the
    /// value of a `from_context`, if the request has one. Writing ends at `limit` bytes: two bytes that say "one more
    /// item" become as many as the actions add to it.
    ///
    /// # Errors
    /// When the containers cannot be read, a list has more attributes to edit than
    /// [`CONCERNED_MAX`](super::CONCERNED_MAX), or the result would be larger than `limit`.
    pub fn rewrite(
        &self,
        signal: Signal,
        request: &Bytes,
        context: &Context<'_>,
        limit: usize,
    ) -> Result<Bytes, Malformed> {
        let mut bytes = request.clone();
        for pass in &self.passes {
            bytes = pass.run(signal, &bytes, context, limit.min(REQUEST_MAX))?.into();
        }
        Ok(bytes)
    }
}

impl Pass {
    fn run(&self, signal: Signal, bytes: &[u8], context: &Context<'_>, limit: usize) -> Read<Vec<u8>> {
        check_size(bytes)?;
        let suffixes = Suffixes {
            resource: self.resource.suffix(1, context),
            one: self.items.suffix(1, context),
            six: self.items.suffix(6, context),
            seven: self.items.suffix(7, context),
            nine: self.items.suffix(9, context),
        };
        // A guess: as much again for items of 400 bytes that get three attributes.
        let out = Vec::with_capacity(bytes.len() + bytes.len() / 3 + 256);
        let mut run = Run { pass: self, signal, bytes, context, limit, suffixes, out };
        run.request()?;
        run.check(bytes.len())?;
        Ok(run.out)
    }
}

/// What is appended to a list in which no named key occurs, by the list's field number.
struct Suffixes {
    resource: Suffix,
    one: Suffix,
    six: Suffix,
    seven: Suffix,
    nine: Suffix,
}

/// One pass over one request.
struct Run<'a> {
    pass: &'a Pass,
    signal: Signal,
    bytes: &'a [u8],
    context: &'a Context<'a>,
    /// Most bytes `out` may have.
    limit: usize,
    suffixes: Suffixes,
    out: Vec<u8>,
}

impl Run<'_> {
    /// Everything that adds bytes asks this after each piece of its work, so that `out` is never longer than the limit
    /// and one edited message.
    fn check(&self, at: usize) -> Read<()> {
        if self.out.len() > self.limit { bad(at, What::Size(self.limit)) } else { Ok(()) }
    }

    fn request(&mut self) -> Read<()> {
        let mut pieces = Pieces::of(self.bytes, 0..self.bytes.len());
        while let Some(piece) = pieces.next()? {
            if piece.is(1) {
                let open = Open::field(&mut self.out, 1, piece.value().len());
                self.container(piece.value())?;
                open.close(&mut self.out);
            } else {
                self.copy(piece.whole());
            }
        }
        Ok(())
    }

    /// `ResourceSpans`, `ResourceMetrics`, `ResourceLogs`.
    fn container(&mut self, range: Range<usize>) -> Read<()> {
        let members = members(self.bytes, range.clone(), 1)?;
        self.check(range.start)?;
        let only = &self.pass.only;
        let standing = match only.start() {
            open if only.asks(Level::Resource) => only.ask(open, Level::Resource, &gather(self.bytes, &members)),
            open => open,
        };
        if members.is_empty() && !self.suffixes.resource.is_empty() {
            super::wire::put_bytes(&mut self.out, 1, self.suffixes.resource.as_bytes());
        }
        let edit = !self.pass.resource.is_empty();
        let mut written = false;
        let mut pieces = Pieces::of(self.bytes, range);
        while let Some(piece) = pieces.next()? {
            if edit && piece.is(1) {
                if !written {
                    written = true;
                    match members.as_slice() {
                        [one] => self.pass.resource.edit(
                            self.bytes,
                            one.clone(),
                            (1, 1),
                            &self.suffixes.resource,
                            self.context,
                            &mut self.out,
                        )?,
                        many => {
                            let merged = gather(self.bytes, many);
                            self.pass.resource.edit(
                                &merged,
                                0..merged.len(),
                                (1, 1),
                                &self.suffixes.resource,
                                self.context,
                                &mut self.out,
                            )?;
                        }
                    }
                }
            } else if piece.is(2) && !self.pass.items.is_empty() && standing != Standing::NotMeant {
                let open = Open::field(&mut self.out, 2, piece.value().len());
                self.scope(piece.value(), standing)?;
                open.close(&mut self.out);
            } else {
                self.copy(piece.whole());
            }
        }
        Ok(())
    }

    /// `ScopeSpans`, `ScopeMetrics`, `ScopeLogs`.
    fn scope(&mut self, range: Range<usize>, mut standing: Standing) -> Read<()> {
        if self.pass.only.asks(Level::Scope) {
            let scope = gather(self.bytes, &members(self.bytes, range.clone(), 1)?);
            standing = self.pass.only.ask(standing, Level::Scope, &scope);
        }
        let mut pieces = Pieces::of(self.bytes, range);
        while let Some(piece) = pieces.next()? {
            if !piece.is(2) || standing == Standing::NotMeant {
                self.copy(piece.whole());
            } else if self.signal == Signal::Metrics {
                let open = Open::field(&mut self.out, 2, piece.value().len());
                self.metric(piece.value(), standing)?;
                open.close(&mut self.out);
            } else {
                let list = if self.signal == Signal::Traces { 9 } else { 6 };
                self.item(2, list, piece.value(), standing)?;
            }
        }
        Ok(())
    }

    fn metric(&mut self, range: Range<usize>, standing: Standing) -> Read<()> {
        let standing = self.pass.only.ask(standing, Level::Metric, &self.bytes[range.clone()]);
        if standing == Standing::NotMeant {
            self.copy(range);
            return Ok(());
        }
        let mut pieces = Pieces::of(self.bytes, range);
        while let Some(piece) = pieces.next()? {
            let list = match piece.number {
                5 | 7 | 11 => 7,
                9 => 9,
                10 => 1,
                _ => 0,
            };
            if list == 0 || piece.wire != LEN {
                self.copy(piece.whole());
                continue;
            }
            let open = Open::field(&mut self.out, piece.number, piece.value().len());
            let mut inner = Pieces::of(self.bytes, piece.value());
            while let Some(point) = inner.next()? {
                if point.is(1) {
                    self.item(1, list, point.value(), standing)?;
                } else {
                    self.copy(point.whole());
                }
            }
            open.close(&mut self.out);
        }
        Ok(())
    }

    /// An item at field `number`, whose attributes are at field `list`.
    fn item(&mut self, number: u32, list: u32, item: Range<usize>, standing: Standing) -> Read<()> {
        self.check(item.start)?;
        if self.pass.only.ask(standing, Level::Item, &self.bytes[item.clone()]) == Standing::NotMeant {
            super::wire::put_bytes(&mut self.out, number, &self.bytes[item]);
            return Ok(());
        }
        let suffix = match list {
            1 => &self.suffixes.one,
            6 => &self.suffixes.six,
            7 => &self.suffixes.seven,
            _ => &self.suffixes.nine,
        };
        self.pass.items.edit(self.bytes, item, (number, list), suffix, self.context, &mut self.out)
    }

    fn copy(&mut self, range: Range<usize>) {
        self.out.extend_from_slice(&self.bytes[range]);
    }
}

/// The contents of all occurrences of a singular message.
pub(super) fn members(bytes: &[u8], range: Range<usize>, number: u32) -> Read<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut pieces = Pieces::of(bytes, range);
    while let Some(piece) = pieces.next()? {
        if piece.is(number) {
            found.push(piece.value());
        }
    }
    Ok(found)
}

/// Occurrences of a singular message one after the other: what they merge to.
pub(super) fn gather(bytes: &[u8], members: &[Range<usize>]) -> Vec<u8> {
    members.iter().flat_map(|member| &bytes[member.clone()]).copied().collect()
}
