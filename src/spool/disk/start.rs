//! Taking over what an earlier life left: the lock, the row of segments as it lies there, and the newest book.
//!
//! Nothing of it is a reason not to start, but the directory itself (promise P4).

use super::{Entry, No, Spans, State, allocated, name, parse_name};
use crate::base::Stamp;
use crate::spool::ledger::last_epoch;
use crate::spool::segment::{self, Content};
use crate::spool::slots;
use crate::spool::source::{Reading, is_trouble};
use crate::spool::survey::{self, Contents, Found};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A disk that answers a read of the book with an error is asked again so often, over all segments: what it says after a
/// second is what there is to start with, and intake does not wait longer.
const READ_TRIES: u32 = 10;
const READ_PAUSE: Duration = Duration::from_millis(100);

/// What an earlier life left.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The book.
    pub(crate) read: survey::Read,
    /// Above it lies no index.
    pub(crate) epoch_floor: u32,
}

/// Why the spool cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used at all.
    #[error("spool directory {path} cannot be used: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A newer agent wrote it, in a format that this one would misread. Nothing was changed.
    #[error(
        "spool directory {path} was written by a newer tfo-otel-agent (its format is {found}, this one knows {known}); nothing was changed: \
         run the newer one again, or give this one another directory"
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// Another agent has it.
    #[error("spool directory {path} is in use by {holder}")]
    InUse {
        /// Which.
        path: PathBuf,
        /// Who, as its lock file says.
        holder: String,
    },
}

pub(super) fn take_lock(dir: &Path) -> Result<File, StartError> {
    let bad = |source| StartError::Directory { path: dir.to_owned(), source };
    understood(dir)?;
    let path = dir.join("lock");
    clear(&path);
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(bad)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder: String = holder.trim().chars().filter(|c| !c.is_control()).take(HOLDER_MAX).collect();
            let holder = if holder.is_empty() { "another process".into() } else { holder };
            return Err(StartError::InUse { path: dir.to_owned(), holder });
        }
        Err(fs::TryLockError::Error(e)) => return Err(bad(e)),
    }
    // Only for people; with a full disk it stays what it was.
    let _ = file.set_len(0).and_then(|()| io::Write::write_all(&mut &file, ourselves().as_bytes()));
    Ok(file)
}

/// Before anything in a directory is changed: that we know its format. The one content that is a reason not to start: it is whole,
/// and we would harm it.
///
/// # Errors
/// [`StartError::Newer`].
pub(in crate::spool) fn understood(dir: &Path) -> Result<(), StartError> {
    match slots::newer(&dir.join("slots")) {
        Some(found) => Err(StartError::Newer { path: dir.to_owned(), found, known: slots::FORMAT }),
        None => Ok(()),
    }
}

/// What stands where a file of ours must be and is none (a directory, a pipe) is moved aside, under a name that shows it: no
/// content of the directory is a reason not to start (promise P4). Should that fail, opening the file tells why.
pub(crate) fn clear(path: &Path) {
    // Where a link leads counts; the link is what is moved.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) || leads_nowhere(path) {
        move_aside(path);
    }
}

/// The same for a directory.
pub(super) fn clear_for_a_directory(path: &Path) {
    if fs::metadata(path).is_ok_and(|found| !found.is_dir()) || leads_nowhere(path) {
        move_aside(path);
    }
}

/// A link to itself, or to what is not there.
fn leads_nowhere(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok() && fs::metadata(path).is_err_and(|e| e.kind() != io::ErrorKind::PermissionDenied)
}

fn move_aside(path: &Path) {
    let aside = |n: u32| path.with_extension(format!("set-aside-{n}"));
    let to = (0..u32::MAX).map(aside).find(|to| fs::symlink_metadata(to).is_err());
    let moved = to.map_or(Ok(()), |to| fs::rename(path, to));
    tracing::error!(path = %path.display(), ?moved, "something else stands where the spool keeps a file or a directory; it is moved aside");
}

/// Longest a lock file is believed, characters.
const HOLDER_MAX: usize = 400;

/// `process 14746 of gateway-7 (/usr/bin/tfo-otel-agent)`: a number alone says nothing where two containers share a
/// directory, and each is process 1.
fn ourselves() -> String {
    let host = rustix::system::uname();
    let program = std::env::current_exe().map(|path| format!(" ({})", path.display())).unwrap_or_default();
    format!("process {} of {}{program}", std::process::id(), host.nodename().to_string_lossy())
}

/// So many of the newest segments a start looks at, before it takes anything: a book is in the last one or two, and what a kill
/// leaves unfinished too.
const NEWEST: usize = 8;

/// How a directory's segments lie there. Nothing was changed.
#[derive(Debug, Default)]
pub(in crate::spool) struct Arranged {
    /// Those that count, in order.
    pub(in crate::spool) row: BTreeMap<No, State>,
    /// Those of them that were not looked at, and are taken for whole and sealed.
    pub(in crate::spool) unseen: BTreeSet<No>,
    /// Half-made ones, and originals that have a whole copy.
    pub(in crate::spool) bin: Vec<No>,
    /// Bytes of otelcol's own queue files.
    pub(in crate::spool) foreign: u64,
}

/// Looks which segments count; where there is no hurry, at all of them (`newest` is `usize::MAX`).
///
/// # Errors
/// When the directory cannot be listed.
pub(in crate::spool) fn arrange(dir: &Path, newest: usize) -> io::Result<Arranged> {
    let mut found = Vec::new();
    let mut arranged = Arranged::default();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file_name = entry.file_name();
        match file_name.to_str().and_then(parse_name) {
            Some(no) => found.push(no),
            None if file_name.to_string_lossy().starts_with("exporter_") => {
                arranged.foreign += entry.metadata().map_or(0, |m| m.len())
            }
            None => {}
        }
    }
    found.sort_unstable();
    let Arranged { row, bin, unseen, .. } = &mut arranged;
    let last = found.last().copied();
    let hurried = found.len().saturating_sub(newest);
    for (at, no) in found.iter().copied().enumerate() {
        // A look at each is three calls, and a client waits for all of them (promise P5): housekeeping does it, first of all. Of a
        // copy and its original one goes.
        if at < hurried && no.1 == 0 && found.get(at + 1).is_none_or(|next| next.0 != no.0) {
            row.insert(no, State::Sealed);
            unseen.insert(no);
            continue;
        }
        let path = dir.join(name(no));
        if is_half_made(&path) {
            bin.push(no);
            continue;
        }
        let is_copy = no.1 > 0;
        let looked = if is_copy || Some(no) == last { segment::content(&path).ok() } else { None };
        if is_copy {
            // A copy is one batch: whole, or its original still counts. Without an original it is all there is.
            let original = (no.0, no.1 - 1);
            let found = Found { name: name(no), path: path.clone(), state: State::Closed, bytes: 0 };
            if row.contains_key(&original) && !Contents::check(&found).is_ok_and(|damage| damage.is_empty()) {
                bin.push(no);
                continue;
            }
            // Whoever made it may have been killed before it was synced, and the original is all there is for certain.
            let looked = looked.filter(|found| *found != Content::Some || segment::sync_all(&path).is_ok());
            match looked {
                Some(Content::Some) if row.remove(&original).is_some() => bin.push(original),
                Some(Content::Some) => {}
                // It cannot be looked into now, or was damaged, and its original went long ago: it is all there is.
                None | Some(Content::Torn) if !row.contains_key(&original) => {}
                _ => {
                    bin.push(no);
                    continue;
                }
            }
        }
        let state = if looked == Some(Content::None) {
            // A kill in the middle of its making leaves a keyspace without a list. fjall would make another one beside it, and what
            // is written there then lies in a segment that looks damaged.
            let found = Found { name: name(no), path: path.clone(), state: State::Spare, bytes: 0 };
            if !Contents::check(&found).is_ok_and(|damage| damage.is_empty()) {
                bin.push(no);
                continue;
            }
            State::Spare
        } else if is_sealed(&path) {
            State::Sealed
        } else {
            State::Closed
        };
        row.insert(no, state);
    }
    Ok(arranged)
}

/// Nothing was ever written to one that is still being made; one that lost its marker has its data all the same.
/// What the disk does not tell is no reason to throw a segment away.
pub(super) fn is_half_made(path: &Path) -> bool {
    let is_gone = |e: io::Error| [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind());
    let has_no_marker = fs::metadata(path.join("version")).map_or_else(is_gone, |marker| !marker.is_file());
    has_no_marker && segment::content(path).is_ok_and(|content| content != Content::Some)
}

/// The segments of a directory. Half-made ones and originals that have a whole copy go to the bin.
pub(super) fn list(dir: &Path, newest: usize) -> io::Result<BTreeMap<No, Entry>> {
    let arranged = arrange(dir, newest)?;
    if arranged.foreign > 0 {
        tracing::warn!(directory = %dir.display(), bytes = arranged.foreign, "otelcol's own queue files are here and stay as they are; run otelcol once more to send them, then remove them");
    }
    for no in arranged.bin {
        let _ = fs::rename(dir.join(name(no)), dir.join(format!("trash-{}", &name(no)["seg-".len()..])));
    }
    let Arranged { row, unseen, .. } = arranged;
    let looked = row.iter().filter(|(no, state)| **state == State::Sealed && !unseen.contains(no));
    let tables: BTreeMap<No, u64> = looked.filter_map(|(no, _)| Some((*no, table(&dir.join(name(*no)))?))).collect();
    let least = tables.values().copied().min().unwrap_or(0);
    let entry = |(no, state)| {
        let spans = (state == State::Spare).then(Spans::new);
        let guess = if unseen.contains(&no) { Some(least) } else { tables.get(&no).copied() };
        let bytes = guess.unwrap_or_else(|| allocated(&dir.join(name(no))));
        let entry = Entry::new(state, spans, bytes, Arc::default(), Stamp::default());
        (no, Entry { guessed: guess.is_some(), unseen: unseen.contains(&no), ..entry })
    };
    Ok(row.into_iter().map(entry).collect())
}

/// What a sealed segment occupies at least: its table. To ask it of each of its files and directories takes fifty calls, 0.1 ms a
/// segment, and the first client would wait for all of them (promise P5); it is the first thing that housekeeping does. `None`:
/// its table has another name than most.
fn table(path: &Path) -> Option<u64> {
    // Ours is the second keyspace; a flush that was not finished may have taken the first number.
    let tables = path.join("keyspaces/1/tables");
    let table = ["0", "1"].into_iter().find_map(|n| fs::metadata(tables.join(n)).ok().filter(|m| m.blocks() > 0))?;
    Some(table.blocks() * 512)
}

pub(super) fn is_sealed(path: &Path) -> bool {
    fs::metadata(path.join("0.jnl")).is_ok_and(|m| m.len() == 0)
}

/// The row and the book. Where the newest segment is not what it should be, files may have changed places, and the book lies anywhere:
/// then all segments are looked at.
///
/// # Errors
/// When the directory cannot be listed.
pub(super) fn take_over(dir: &Path) -> io::Result<(BTreeMap<No, Entry>, Recovered)> {
    let mut row = list(dir, NEWEST)?;
    let recovered = read_book(dir, &mut row);
    if recovered.read.is_straight || !row.values().any(|entry| entry.unseen) {
        return Ok((row, recovered));
    }
    tracing::warn!(directory = %dir.display(), "the spool's newest segment is not whole; all of them are looked at");
    let mut row = list(dir, usize::MAX)?;
    let recovered = read_book(dir, &mut row);
    Ok((row, recovered))
}

/// Reads the control records that count, and the headers of the newest blocks beside them. fjall is not asked: what it does with a
/// damaged segment is no way to start.
fn read_book(dir: &Path, row: &mut BTreeMap<No, Entry>) -> Recovered {
    let filled: Vec<Found> = row
        .iter()
        .filter(|(_, e)| e.state != State::Spare)
        .map(|(no, e)| Found { name: name(*no), path: dir.join(name(*no)), state: e.state, bytes: e.bytes })
        .collect();
    let mut patience = READ_TRIES;
    let mut given_up = BTreeSet::new();
    let read = survey::read(&filled.iter().collect::<Vec<_>>(), |found| {
        // What is read here is repeated in the next book, which is synced: a block must not be less lasting than the cursor
        // that says it moved there.
        if !is_sealed(&found.path)
            && let Err(error) = segment::sync_journals(&found.path)
        {
            tracing::warn!(segment = found.name, %error, "spool segment of an earlier life cannot be synced");
        }
        loop {
            match Contents::of(found, Reading::Strict, &|_| {}) {
                Err(error) if is_trouble(&error) && patience > 0 => {
                    patience -= 1;
                    std::thread::sleep(READ_PAUSE);
                }
                Err(error) if is_trouble(&error) => {
                    tracing::error!(segment = found.name, %error, "spool segment's book is read without what the disk does not give");
                    given_up.insert(found.name.clone());
                    return Contents::of(found, Reading::Whatever, &|_| {});
                }
                contents => return contents,
            }
        }
    });
    for problem in &read.problems {
        tracing::error!(%problem, "spool segment's book cannot be read; the one before it is tried");
    }
    for (no, entry) in row.iter_mut().filter(|(no, _)| !given_up.contains(&name(**no))) {
        if let Some(spans) = read.spans.get(&name(*no)) {
            entry.spans = Some(spans.clone());
        }
    }
    let of_blocks = read.headers.iter().map(|h| h.index >> 32).max().unwrap_or(0);
    let epoch_floor = u32::try_from(of_blocks).unwrap_or(u32::MAX).max(last_epoch(&read.records));
    if read.is_partial {
        tracing::error!(
            "the disk does not give all of the spool's newest book; what it gives later is delivered, and what it never gives at the end of a lane is not counted"
        );
    }
    Recovered { read, epoch_floor }
}
