//! The control records that count. The newest segment with a commit is the one book (`docs/spool-format.md` §1); where its first
//! commit, which carries all records, is damaged, the one before it is the ground it stands on.

use super::{Contents, Found, Reach};
use crate::spool::Lane;
use crate::spool::block::Header;
use crate::spool::disk::{Spans, State, extend};
use crate::spool::ledger::{Record, next_index};
use std::collections::BTreeMap;
use std::io;

/// Segments with records that are read when none of them has all: damage to so many neighbours at once is no accident of a disk.
const BOOKS_MAX: usize = 4;
/// Journals beside them that are walked: a backlog is sealed, so there are one or two.
const JOURNALS_MAX: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Oldest first: for each key the last one counts.
    pub(crate) records: Vec<Record>,
    /// The newest blocks of each lane in the segments that were read, of those that are whole.
    pub(crate) headers: Vec<Header>,
    /// Headers that stand in damaged places, and how many bytes of these there are.
    pub(crate) hints: (Vec<Header>, u64),
    /// The newest segment holds a whole book, and nothing in it is damaged.
    pub(crate) is_straight: bool,
    /// The disk did not give all that may belong to the newest book.
    pub(crate) is_partial: bool,
    /// Which segment the newest book stands in.
    pub(crate) segment: Option<String>,
    /// What could not be read.
    pub(crate) problems: Vec<String>,
    /// What the segments hold that were read, by name.
    pub(crate) spans: BTreeMap<String, Spans>,
}

/// Reads the book from the newest segments on. `look` reads one of them.
///
/// Journals that are older than the book are read too, for their blocks alone: should files have changed places, what is written
/// next must not take a total that a block has.
pub(crate) fn read(filled: &[&Found], mut look: impl FnMut(&Found) -> io::Result<Contents>) -> Read {
    let mut read = Read::default();
    // By the index that was to be next: that is the order in which they were written, wherever they stand.
    let mut books: Vec<(u64, Vec<Record>)> = Vec::new();
    let (mut has_all, mut journals) = (false, 0);
    for (at, found) in filled.iter().rev().enumerate() {
        let done = has_all || books.len() >= BOOKS_MAX;
        if done && (found.state == State::Sealed || journals >= JOURNALS_MAX) {
            continue;
        }
        journals += usize::from(done);
        let contents = match look(found) {
            Ok(contents) => contents,
            Err(error) => {
                read.is_partial |= !done;
                read.problems.push(format!("{} cannot be read: {error}", found.name));
                continue;
            }
        };
        read.is_partial |= !done && contents.is_partial();
        read.is_straight |= at == 0 && contents.has_all_records && contents.damage.is_empty();
        let (mut spans, mut newest) = (Spans::new(), BTreeMap::<Lane, Header>::new());
        for spot in contents.blocks.values() {
            extend(&mut spans, &spot.header);
            if spot.reach >= Reach::Loose {
                continue;
            }
            newest.insert(spot.header.lane, spot.header); // by index, so the last one stays
        }
        read.spans.insert(found.name.clone(), spans);
        let last = newest.values().map(|header| header.index.saturating_add(1)).max().unwrap_or(0);
        let last = last.max(next_index(&contents.control));
        read.headers.extend(newest.into_values());
        if !contents.hints.is_empty() {
            read.hints.0.extend(&contents.hints);
            read.hints.1 += found.bytes;
        }
        if contents.control.is_empty() {
            continue;
        }
        read.segment.get_or_insert_with(|| found.name.clone());
        has_all |= contents.has_all_records;
        if !done {
            books.push((last, contents.control));
        } else if books.iter().all(|(of, _)| *of < last) {
            books.push((last, contents.control)); // it stands before a book that is older
        }
    }
    books.reverse();
    books.sort_by_key(|(last, _)| *last);
    read.records = books.into_iter().flat_map(|(_, records)| records).collect();
    read
}
