//! A damaged segment as it is read: not by fjall, which cuts it at the first damaged byte, refuses it whole, or ends the process
//! over it, but block by block from where they stand, as a walk that goes on behind damage found them
//! ([`survey`](super::survey)). Nothing of it is ever written, so it is read on a full disk too, and looks the same at every start.
//!
//! Memory holds the place of each block (some 50 bytes), not the blocks.

use super::disk::Spans;
use super::ledger::{block_key, parse_block_key};
use super::source::{Reading, Source, is_trouble};
use super::survey::{Contents, Reach};
use super::{Lane, disk};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;

/// See the module.
#[derive(Debug)]
pub(crate) struct Wreck {
    files: Vec<PathBuf>,
    places: BTreeMap<(u32, u64), Place>,
    spans: Spans,
    how: Reading,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    at: u64,
    len: usize,
    /// Nothing says that it was ever acknowledged.
    is_tail: bool,
}

/// A block's key and value.
type Record = (Bytes, Bytes);

impl Wreck {
    /// What a walk found of it.
    ///
    /// # Errors
    /// When a block that nothing but its own checksum speaks for cannot be read.
    pub(crate) fn of(contents: &Contents, how: Reading) -> io::Result<Wreck> {
        let mut wreck = Wreck { files: Vec::new(), places: BTreeMap::new(), spans: Spans::new(), how };
        for (key, spot) in contents.handed_out()? {
            let path = contents.path(&spot);
            let file = wreck.files.iter().position(|known| known == path).unwrap_or_else(|| {
                wreck.files.push(path.to_owned());
                wreck.files.len() - 1
            });
            disk::extend(&mut wreck.spans, &spot.header);
            let is_tail = spot.reach == Reach::Tail;
            wreck.places.insert(key, Place { file, at: spot.at, len: spot.len, is_tail });
        }
        Ok(wreck)
    }

    /// What it holds.
    pub(crate) fn spans(&self) -> &Spans {
        &self.spans
    }

    /// The first block in `from..=to`.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn first(&self, from: &[u8], to: &[u8]) -> io::Result<Option<Record>> {
        self.range(from, to).next().map(|(key, place)| self.read(*key, place)).transpose()
    }

    /// The last block in `from..=to`.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<Record>> {
        self.range(from, to).next_back().map(|(key, place)| self.read(*key, place)).transpose()
    }

    /// Whether the block stands at a journal's damaged end, where a block that was never acknowledged may stand too.
    pub(crate) fn is_tail(&self, lane: Lane, index: u64) -> bool {
        self.places.get(&(lane.0, index)).is_some_and(|place| place.is_tail)
    }

    fn range(&self, from: &[u8], to: &[u8]) -> impl DoubleEndedIterator<Item = (&(u32, u64), &Place)> {
        let bounds = match (parse_block_key(from), parse_block_key(to)) {
            (Some((from, first)), Some((to, last))) if (from.0, first) <= (to.0, last) => {
                (Bound::Included((from.0, first)), Bound::Included((to.0, last)))
            }
            _ => (Bound::Included((0, 0)), Bound::Excluded((0, 0))), // control records are read at the start alone
        };
        self.places.range(bounds)
    }

    fn read(&self, (lane, index): (u32, u64), place: &Place) -> io::Result<Record> {
        let mut value = vec![0; place.len];
        let read =
            Source::open(&self.files[place.file], self.how).and_then(|file| file.read_exact_at(&mut value, place.at));
        match read {
            Err(error) if is_trouble(&error) => return Err(error),
            // It was there a while ago. A value without a header is passed over as damaged.
            Err(_) => value.clear(),
            Ok(()) => {}
        }
        Ok((Bytes::copy_from_slice(&block_key(Lane(lane), index)), value.into()))
    }
}
