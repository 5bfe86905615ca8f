//! A spool directory as it lies there: read, and never written. Not a byte, a name, a length or a time of it changes, so it may
//! be a copy, damaged, or the directory of an agent that runs (then it is a moving picture).
//!
//! ```text
//! Survey::of(dir) ──▶ segments in order ── contents(one) ──▶ its blocks and what is damaged ── value(block) ──▶ bytes
//!                └──▶ book(): the books as a start would read them
//! ```
//!
//! fjall is not asked: its opening truncates, creates and locks. What holds is found by two walks that believe no length,
//! [`journal`](super::journal) and [`table`](super::table). Memory holds the headers of one segment at a time.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the directory: segments, who holds it, the books |
//! | `contents.rs` | one segment: where its blocks are, what of it is damaged |
//! | `layout.rs` | which names stand in it, and which must not |
//! | `book.rs` | the control records that count, of the newest segments |
//! | `holes.rs` | what is missing between the blocks that are there, for whom |

mod book;
mod contents;
mod holes;
mod layout;

pub(crate) use self::book::{Read, read};
pub(crate) use self::contents::{Contents, Damaged, Reach, Spot};
pub(crate) use self::holes::{Hole, Holes};

use super::disk::{No, State, allocated, arrange, name, understood};
use super::ledger::Ledger;
use super::slots::{self, Slot};
use super::source::Reading;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is told of a long look: so many bytes of files were read since it was told last.
pub(crate) type Progress<'a> = &'a dyn Fn(u64);

/// A segment that is being sealed while it is looked at seems damaged: its journal is cut under the look. So often is it looked
/// at again, with such a pause before.
const LIVE_TRIES: u32 = 3;
const LIVE_PAUSE: Duration = Duration::from_millis(100);

/// A segment's directory.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// As in the directory.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) state: State,
    /// Allocated on the disk.
    pub(crate) bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) directory: PathBuf,
    /// Those that count, in order.
    pub(crate) segments: Vec<Found>,
    /// Those that could not be opened once and were set aside.
    pub(crate) quarantine: Vec<Found>,
    /// Half made, replaced or about to be deleted: the next start removes them.
    pub(crate) leftover: Vec<String>,
    /// Bytes of otelcol's own queue files.
    pub(crate) foreign: u64,
    pub(crate) slot: Option<Slot>,
    /// Who runs on it, as far as can be seen from here.
    pub(crate) holder: Option<String>,
}

/// The books, as a start would read them.
#[derive(Debug)]
pub(crate) struct TheBook {
    pub(crate) ledger: Ledger,
    /// Which segment is the last they stand in; `None`: there are none.
    pub(crate) segment: Option<String>,
    /// What could not be read.
    pub(crate) problems: Vec<String>,
}

impl Survey {
    /// Lists a directory.
    ///
    /// # Errors
    /// When it cannot be listed, is no spool's, or is of a newer format.
    pub(crate) fn of(directory: &Path) -> io::Result<Survey> {
        understood(directory).map_err(io::Error::other)?;
        let arranged = arrange(directory, usize::MAX)?;
        let segment = |(no, state): (No, State)| {
            let path = directory.join(name(no));
            Found { name: name(no), bytes: allocated(&path), path, state }
        };
        let segments: Vec<Found> = arranged.row.into_iter().map(segment).collect();
        let mut leftover: Vec<String> = arranged.bin.into_iter().map(name).collect();
        leftover.extend(names(directory)?.into_iter().filter(|name| name.starts_with("trash-")));
        let aside = directory.join("quarantine");
        let quarantine = match arrange(&aside, usize::MAX) {
            Ok(arranged) => {
                let row = arranged.row.into_iter().chain(arranged.bin.into_iter().map(|no| (no, State::Broken)));
                let found = |(no, state)| {
                    let path = aside.join(name(no));
                    Found { name: format!("quarantine/{}", name(no)), bytes: allocated(&path), path, state }
                };
                row.map(found).collect()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let is_spool = !segments.is_empty() || directory.join("slots").exists() || !quarantine.is_empty();
        if !is_spool && leftover.is_empty() {
            return Err(io::Error::other("no spool lies there: neither segments (seg-…) nor slots"));
        }
        Ok(Survey {
            directory: directory.to_owned(),
            segments,
            quarantine,
            leftover,
            foreign: arranged.foreign,
            slot: slots::look(&directory.join("slots")),
            holder: holder(&directory.join("lock")),
        })
    }

    /// Segments that hold something.
    pub(crate) fn filled(&self) -> impl DoubleEndedIterator<Item = &Found> {
        self.segments.iter().filter(|found| found.state != State::Spare)
    }

    /// Bytes of the files a look at all of them reads, for a bar.
    pub(crate) fn len(&self) -> u64 {
        self.segments.iter().map(|found| found.bytes).sum()
    }

    /// What a segment holds.
    ///
    /// # Errors
    /// When its files cannot be read. One that vanishes meanwhile is empty, and says so.
    pub(crate) fn contents(&self, found: &Found, progress: Progress<'_>) -> io::Result<Contents> {
        let mut contents = Contents::of(found, Reading::Strict, progress);
        for _ in 0..LIVE_TRIES {
            let is_calm = contents.as_ref().is_ok_and(|contents| contents.damage.is_empty());
            if is_calm || self.holder.is_none() {
                break;
            }
            std::thread::sleep(LIVE_PAUSE);
            contents = Contents::of(found, Reading::Strict, &|_| {});
        }
        contents
    }

    /// The books: what the newest segments say, and the newest blocks beside and behind it.
    ///
    /// # Errors
    /// Never for what is damaged; that is told.
    pub(crate) fn book(&self, progress: Progress<'_>) -> TheBook {
        let epoch = self.slot.map_or(0, |slot| slot.epoch).saturating_add(1);
        let filled: Vec<&Found> = self.filled().collect();
        let read = read(&filled, |found| self.contents(found, progress));
        let mut book =
            TheBook { ledger: Ledger::new(epoch), segment: read.segment.clone(), problems: read.problems.clone() };
        book.problems.extend(book.ledger.restore_all(&read));
        book
    }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Who holds the lock. The kernel is asked for its list, because trying it, be it for a moment, could keep an agent that starts
/// just then from starting.
fn holder(lock: &Path) -> Option<String> {
    let inode = fs::metadata(lock).ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let holds = |line: &str| {
        let mut words = line.split_whitespace();
        words.nth(1) == Some("FLOCK")
            && words.nth(3).and_then(|place| place.rsplit(':').next()?.parse::<u64>().ok()) == Some(inode)
    };
    locks.lines().any(holds).then(|| {
        let text = fs::read(lock).unwrap_or_default();
        let text: String = String::from_utf8_lossy(&text).chars().filter(|c| !c.is_control()).take(400).collect();
        if text.trim().is_empty() { "another process".to_owned() } else { text.trim().to_owned() }
    })
}
