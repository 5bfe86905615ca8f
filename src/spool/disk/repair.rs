//! Making a damaged directory whole, by hand and while no agent has it: what can still be read of a damaged segment is copied into
//! one that takes its place, and the damaged one is kept in `quarantine/`.
//!
//! ```text
//!   seg-08 (damaged)  ──▶  seg-08.1: its readable blocks that somebody needs, and the book if it was the one
//!          └────────────▶  quarantine/seg-08
//! ```
//!
//! Blocks keep index, total and accept time, so a lane's order and the books stay what they are; what could not be read is a
//! hole, which the agent counts as lost by corruption when it comes to it. A crash in between leaves the copy and the
//! original, of which the next start takes the copy.

use super::start::take_lock;
use super::{StartError, name, parse_name, set_aside};
use crate::spool::Lane;
use crate::spool::block::{FLAG_COPIED, Header, relabel};
use crate::spool::ledger::{Record, block_key};
use crate::spool::segment::{Segment, SegmentError};
use crate::spool::survey::{Contents, Found, Reach, Spot, Survey, TheBook};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What became of a damaged segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repaired {
    /// Its name.
    pub(crate) segment: String,
    /// What took its place; `None`: nothing of it could be read or was needed.
    pub(crate) copy: Option<String>,
    pub(crate) blocks: u64,
    pub(crate) items: u64,
    /// Where it is kept.
    pub(crate) kept: PathBuf,
}

/// Why a directory could not be repaired.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepairError {
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("{0}")]
    Segment(#[from] SegmentError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Totals of a lane that readable blocks hold.
type Covered = BTreeMap<Lane, Vec<Range<u64>>>;

/// Repairs a directory. Without damage nothing is done.
///
/// # Errors
/// When an agent has the directory, or the disk does not take the copies. What was repaired until then is.
pub(crate) fn repair(dir: &Path, progress: &dyn Fn(u64)) -> Result<Vec<Repaired>, RepairError> {
    let _lock = take_lock(dir)?;
    let mut survey = Survey::of(dir)?;
    survey.holder = None; // it is us
    let mut book = survey.book(progress);
    let (mut covered, mut damaged) = (Covered::new(), Vec::new());
    for found in survey.filled() {
        let contents = survey.contents(found, progress).unwrap_or_default();
        let mut is_damaged = !contents.damage.is_empty();
        for spot in contents.blocks.values() {
            match contents.request(spot) {
                Ok(Ok(_)) if spot.reach < Reach::Loose => cover(&mut covered, &spot.header),
                Ok(Ok(_)) => {}
                _ => is_damaged = true,
            }
        }
        if is_damaged {
            damaged.push(found);
        }
    }
    let mut repaired = Vec::new();
    for found in damaged {
        let contents = survey.contents(found, progress).unwrap_or_default();
        repaired.push(replace(dir, found, &contents, &mut book, &mut covered)?);
    }
    for found in &survey.quarantine {
        let contents = survey.contents(found, progress).unwrap_or_default();
        repaired.extend(bring_back(dir, found, &contents, &book, &mut covered)?);
    }
    Ok(repaired)
}

fn cover(covered: &mut Covered, h: &Header) {
    covered.entry(h.lane).or_default().push(h.accepted_before()..h.accepted_total);
}

/// Whether the block is worth copying: it can be read, somebody needs it, and no other block has its place.
fn is_wanted(contents: &Contents, spot: &Spot, book: &TheBook, covered: &Covered) -> bool {
    let h = &spot.header;
    let totals = h.accepted_before()..h.accepted_total;
    let taken = |r: &Range<u64>| r.start < totals.end && totals.start < r.end;
    let mut readers = book.ledger.readers(h.lane).peekable();
    let needed =
        readers.peek().is_none() || readers.any(|(no, _)| !book.ledger.open(no, h.lane, totals.clone()).is_empty());
    // What nothing but its own sum speaks for may be a commit that was never answered, and its place another's by now.
    let free = spot.reach < Reach::Loose || !covered.get(&h.lane).is_some_and(|ranges| ranges.iter().any(taken));
    needed && free && contents.request(spot).is_ok_and(|request| request.is_ok())
}

fn copy_of(contents: &Contents, spot: &Spot) -> io::Result<Record> {
    let header = Header { flags: spot.header.flags | FLAG_COPIED, ..spot.header };
    Ok((block_key(header.lane, header.index).to_vec(), relabel(&contents.value(spot)?, &header)))
}

fn replace(
    dir: &Path,
    found: &Found,
    contents: &Contents,
    book: &mut TheBook,
    covered: &mut Covered,
) -> Result<Repaired, RepairError> {
    let wanted: Vec<&Spot> = contents.blocks.values().filter(|spot| is_wanted(contents, spot, book, covered)).collect();
    let has_book = book.segment.as_ref() == Some(&found.name);
    let mut records = if has_book { book.ledger.take_records(true) } else { Vec::new() };
    for spot in &wanted {
        records.push(copy_of(contents, spot)?);
        cover(covered, &spot.header);
    }
    let copy = write(dir, &found.name, records)?;
    let kept = set_aside(dir, &found.name)?;
    Ok(Repaired { segment: found.name.clone(), copy, blocks: wanted.len() as u64, items: items(&wanted), kept })
}

/// A segment that was set aside once: what of it somebody still waits for, because nobody has come to the hole yet.
fn bring_back(
    dir: &Path,
    found: &Found,
    contents: &Contents,
    book: &TheBook,
    covered: &mut Covered,
) -> Result<Option<Repaired>, RepairError> {
    let has_place = |spot: &Spot| {
        let (from, to) = (spot.header.accepted_before(), spot.header.accepted_total);
        !covered.get(&spot.header.lane).is_some_and(|ranges| ranges.iter().any(|r| r.start < to && from < r.end))
    };
    let wanted: Vec<&Spot> = contents
        .blocks
        .values()
        .filter(|spot| has_place(spot) && is_wanted(contents, spot, book, covered))
        .filter(|spot| book.ledger.readers(spot.header.lane).next().is_some())
        .collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let records = wanted.iter().map(|spot| copy_of(contents, spot)).collect::<io::Result<Vec<Record>>>()?;
    wanted.iter().for_each(|spot| cover(covered, &spot.header));
    let copy = write(dir, found.name.trim_start_matches("quarantine/"), records)?;
    let kept = found.path.clone();
    Ok(Some(Repaired { segment: found.name.clone(), copy, blocks: wanted.len() as u64, items: items(&wanted), kept }))
}

fn items(spots: &[&Spot]) -> u64 {
    spots.iter().map(|spot| u64::from(spot.header.items)).sum()
}

/// Makes the segment that takes a place in the row; none for nothing.
fn write(dir: &Path, of: &str, records: Vec<Record>) -> Result<Option<String>, RepairError> {
    let Some((number, mut copies)) = parse_name(of).filter(|_| !records.is_empty()) else { return Ok(None) };
    copies += 1;
    while dir.join(name((number, copies))).exists() {
        copies += 1;
    }
    let copy = name((number, copies));
    Segment::create(&dir.join(&copy))?.append(records, true)?;
    Ok(Some(copy))
}
