//! Dropping items on wire bytes: what `filter` and `probabilistic_sampler` do.
//!
//! ```text
//! Resource A ─ Scope a ─ 1 2 3                        A ─ a ─ 1 3
//!            └ Scope b ─ 4         keeps odd items             (b has nothing left and goes, and so does B)
//! Resource B ─ Scope c ─ 6
//! ```
//!
//! What always holds:
//! * The items that are meant survive byte for byte, in order, with the envelopes they stood in, unknown fields too.
//! * A metric, a scope or a resource of which nothing is left goes with its items, as in the original.
//! * A request that [`walk`](super::walk()) accepts is still accepted afterwards.
//! * A request of which everything is kept is handed on, not copied.

use super::Signal;
use super::only::{Level, Only, Standing};
use super::rewrite::{gather, members};
use super::wire::{LEN, Malformed, Open, Pieces, Read, check_size};
use bytes::Bytes;
use std::ops::Range;

/// Keeps some items of a request.
#[derive(Debug, Clone)]
pub struct Sieve {
    keeps: Only,
}

impl Sieve {
    /// Keeps those that are meant.
    #[must_use]
    pub fn keeping(keeps: Only) -> Sieve {
        Sieve { keeps }
    }

    /// What is left of a request that [`walk`](super::walk()) has accepted.
    ///
    /// # Errors
    /// When the containers cannot be read; a request that was accepted can.
    pub fn sift(&self, signal: Signal, request: &Bytes) -> Result<Bytes, Malformed> {
        check_size(request)?;
        let out = Vec::with_capacity(request.len());
        let mut run = Run { keeps: &self.keeps, signal, bytes: request, out, dropped: false };
        run.request()?;
        Ok(if run.dropped { run.out.into() } else { request.clone() })
    }
}

/// One pass over one request.
struct Run<'a> {
    keeps: &'a Only,
    signal: Signal,
    bytes: &'a [u8],
    out: Vec<u8>,
    /// Something was left out.
    dropped: bool,
}

impl Run<'_> {
    fn request(&mut self) -> Read<()> {
        let mut pieces = Pieces::of(self.bytes, 0..self.bytes.len());
        while let Some(piece) = pieces.next()? {
            match piece.is(1) {
                true => drop(self.inside(1, piece.value(), |run, range| run.container(range))?),
                false => self.copy(piece.whole()),
            }
        }
        Ok(())
    }

    /// Writes a field whose content `sift` writes; takes it back when nothing is left of it.
    fn inside(
        &mut self,
        number: u32,
        range: Range<usize>,
        sift: impl FnOnce(&mut Self, Range<usize>) -> Read<bool>,
    ) -> Read<bool> {
        let start = self.out.len();
        let open = Open::field(&mut self.out, number, range.len());
        let left = sift(self, range)?;
        if left {
            open.close(&mut self.out);
        } else {
            self.out.truncate(start);
            self.dropped = true;
        }
        Ok(left)
    }

    /// What the first occurrence of field 1 says of all that stands beside it.
    fn ask(&self, standing: Standing, level: Level, range: Range<usize>) -> Read<Standing> {
        if !self.keeps.asks(level) {
            // Without a look at this level its answer is known only where no message need be read for it.
            return Ok(self.keeps.ask(standing, level, &[]));
        }
        let message = gather(self.bytes, &members(self.bytes, range, 1)?);
        Ok(self.keeps.ask(standing, level, &message))
    }

    /// `ResourceSpans`, `ResourceMetrics`, `ResourceLogs`; is anything left?
    fn container(&mut self, range: Range<usize>) -> Read<bool> {
        let standing = self.ask(self.keeps.start(), Level::Resource, range.clone())?;
        self.children(standing, range, |run, piece| run.inside(2, piece, |run, range| run.scope(range, standing)))
    }

    /// `ScopeSpans`, `ScopeMetrics`, `ScopeLogs`.
    fn scope(&mut self, range: Range<usize>, standing: Standing) -> Read<bool> {
        let standing = self.ask(standing, Level::Scope, range.clone())?;
        self.children(standing, range, |run, piece| match run.signal {
            Signal::Metrics => run.inside(2, piece, |run, range| run.metric(range, standing)),
            Signal::Traces | Signal::Logs => Ok(run.item(2, piece, standing)),
        })
    }

    /// Sifts the children at field 2 and copies everything else; is a child left?
    fn children(
        &mut self,
        standing: Standing,
        range: Range<usize>,
        mut sift: impl FnMut(&mut Self, Range<usize>) -> Read<bool>,
    ) -> Read<bool> {
        if let Some(kept) = self.settled(standing, &range) {
            return Ok(kept);
        }
        let mut left = false;
        let mut pieces = Pieces::of(self.bytes, range);
        while let Some(piece) = pieces.next()? {
            match piece.is(2) {
                true => left |= sift(self, piece.value())?,
                false => self.copy(piece.whole()),
            }
        }
        Ok(left)
    }

    fn metric(&mut self, range: Range<usize>, standing: Standing) -> Read<bool> {
        let standing = self.keeps.ask(standing, Level::Metric, &self.bytes[range.clone()]);
        if let Some(kept) = self.settled(standing, &range) {
            return Ok(kept);
        }
        let mut left = false;
        let mut pieces = Pieces::of(self.bytes, range);
        while let Some(piece) = pieces.next()? {
            if piece.wire != LEN || !matches!(piece.number, 5 | 7 | 9 | 10 | 11) {
                self.copy(piece.whole());
                continue;
            }
            // Its kind and temporality are the metric's, also when its points are in another piece.
            let open = Open::field(&mut self.out, piece.number, piece.value().len());
            let mut inner = Pieces::of(self.bytes, piece.value());
            while let Some(point) = inner.next()? {
                match point.is(1) {
                    true => left |= self.item(1, point.value(), standing),
                    false => self.copy(point.whole()),
                }
            }
            open.close(&mut self.out);
        }
        Ok(left)
    }

    /// An item at field `number`; is it kept?
    fn item(&mut self, number: u32, item: Range<usize>, standing: Standing) -> bool {
        let kept = self.keeps.ask(standing, Level::Item, &self.bytes[item.clone()]) != Standing::NotMeant;
        match kept {
            true => super::wire::put_bytes(&mut self.out, number, &self.bytes[item]),
            false => self.dropped = true,
        }
        kept
    }

    /// What is decided for all of `range` needs no further look: kept whole or not at all. `None`: its items decide.
    fn settled(&mut self, standing: Standing, range: &Range<usize>) -> Option<bool> {
        match standing {
            Standing::NotMeant => Some(false),
            Standing::Meant => {
                self.copy(range.clone());
                Some(true)
            }
            Standing::Open(_) => None,
        }
    }

    fn copy(&mut self, range: Range<usize>) {
        self.out.extend_from_slice(&self.bytes[range]);
    }
}
