//! A spool's directory as it lies there, and disks that do not answer: what a test of damage asks.

use crate::spool::block::HEADER_LEN;
use crate::spool::source;
use crate::spool::survey::Survey;
use crate::spool::{Book, Lane};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A block that can be read.
#[derive(Debug, Clone)]
pub struct Block {
    /// The segment it stands in.
    pub segment: String,
    /// Its lane's number and name; without a name nobody knows the lane.
    pub lane: (Lane, String),
    /// Its number in the lane.
    pub index: u64,
    /// Its items, counted since the lane began.
    pub totals: Range<u64>,
    /// Its request.
    pub raw: bytes::Bytes,
    /// What of `totals` an exporter has not settled, by its name.
    pub open: Vec<(String, Vec<Range<u64>>)>,
}

/// What can be seen.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Everything that an agent hands out.
    pub blocks: Vec<Block>,
    /// The books as a start would read them.
    pub books: Vec<Book>,
    /// The total at each lane's tip.
    pub tips: Vec<(String, u64)>,
    /// Files of segments that count, from the directory.
    pub files: Vec<PathBuf>,
}

/// Looks, and changes nothing.
///
/// # Errors
/// When the directory cannot be listed.
pub fn look(directory: &Path) -> io::Result<Look> {
    let survey = Survey::of(directory)?;
    let book = survey.book(&|_| {});
    let mut look = Look { books: book.ledger.books_as_they_are(), ..Look::default() };
    look.tips = book.ledger.lanes().map(|(_, name, _, tip)| (name.to_owned(), tip)).collect();
    for found in survey.filled() {
        files(directory, &found.path, &mut look.files);
        let Ok(contents) = survey.contents(found, &|_| {}) else { continue };
        for spot in contents.handed_out()?.values() {
            let Ok(raw) = contents.request(spot)? else { continue };
            let header = &spot.header;
            let totals = header.accepted_before()..header.accepted_total;
            let open = book
                .ledger
                .readers(header.lane)
                .map(|(no, name)| (name.to_owned(), book.ledger.open(no, header.lane, totals.clone())));
            look.blocks.push(Block {
                segment: found.name.clone(),
                lane: (header.lane, book.ledger.lane_name(header.lane).to_owned()),
                index: header.index,
                open: open.collect(),
                totals,
                raw,
            });
        }
    }
    Ok(look)
}

fn files(base: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(base, &path, found);
        } else {
            found.extend(path.strip_prefix(base).map(Path::to_owned));
        }
    }
}

/// Block headers that stand anywhere in these bytes, found without any of the walks: lane and totals. What they prove was
/// accepted.
#[must_use]
pub fn headers(bytes: &[u8]) -> Vec<(Lane, Range<u64>)> {
    let begins = bytes.windows(HEADER_LEN).filter(|window| window.starts_with(b"TB\x01"));
    let headers = begins.filter_map(|window| crate::spool::block::Header::read(window).ok());
    headers.map(|h| (h.lane, h.accepted_before()..h.accepted_total)).collect()
}

/// The next `times` reads of these bytes of a file at or below this path answer EIO, fjall's own reads excepted: of those all
/// do that concern a segment at or below it.
pub fn fail_reads(below: &Path, bytes: Range<u64>, times: u64) {
    source::fault::arm(below, bytes, times);
}
