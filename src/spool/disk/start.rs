//! Taking over what an earlier life left: the lock, the row of segments as it lies there, and the newest book.
//!
//! Nothing of it is a reason not to start, but the directory itself (promise P4).

use super::look::{first_readable, guarded_open, spans_of};
use super::{Entry, No, Spans, State, VALUE_MAX, allocated, extend, name, parse_name};
use crate::base::Stamp;
use crate::spool::Lane;
use crate::spool::block::{HEADER_LEN, Header};
use crate::spool::ledger::{is_control_key, parse_block_key};
use crate::spool::segment::{self, Content, SegmentError};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What an earlier life left.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Control records, oldest first.
    pub(crate) records: Vec<(Vec<u8>, Vec<u8>)>,
    /// The newest block of each lane beside them.
    pub(crate) headers: Vec<Header>,
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

/// What stands where a file of ours must be and is none (a directory, a pipe) is moved aside, under a name that shows it: no
/// content of the directory is a reason not to start (promise P4). Should that fail, opening the file tells why.
pub(crate) fn clear(path: &Path) {
    // Where a link leads counts; the link is what is moved.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let aside = |n: u32| path.with_extension(format!("set-aside-{n}"));
        let to = (0..u32::MAX).map(aside).find(|to| fs::symlink_metadata(to).is_err());
        let moved = to.map_or(Ok(()), |to| fs::rename(path, to));
        tracing::error!(path = %path.display(), ?moved, "something that is no file stands where the spool keeps one; it is moved aside");
    }
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

/// How a directory's segments lie there. Nothing was changed.
#[derive(Debug, Default)]
pub(in crate::spool) struct Arranged {
    /// Those that count, in order.
    pub(in crate::spool) row: BTreeMap<No, State>,
    /// Half-made ones, and originals that have a whole copy.
    pub(in crate::spool) bin: Vec<No>,
    /// Bytes of otelcol's own queue files.
    pub(in crate::spool) foreign: u64,
}

/// Looks which segments count.
///
/// # Errors
/// When the directory cannot be listed.
pub(in crate::spool) fn arrange(dir: &Path) -> io::Result<Arranged> {
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
    let Arranged { row, bin, .. } = &mut arranged;
    let newest = found.last().copied();
    for no in found {
        let path = dir.join(name(no));
        // Nothing was ever written to one that is still being made; one that lost its marker has its data all the same.
        if !segment::is_whole(&path) && !segment::content(&path).is_ok_and(|content| content == Content::Some) {
            bin.push(no);
            continue;
        }
        let is_copy = no.1 > 0;
        let looked = if is_copy || Some(no) == newest { segment::content(&path).ok() } else { None };
        if is_copy {
            // A copy is one batch: whole, or its original still counts.
            let original = (no.0, no.1 - 1);
            // Whoever made it may have been killed before it was synced, and the original is all there is for certain.
            let looked = looked.filter(|found| *found != Content::Some || segment::sync_all(&path).is_ok());
            match looked {
                Some(Content::Some) if row.remove(&original).is_some() => bin.push(original),
                Some(Content::Some) => {}
                // It cannot be looked into now, and its original went long ago: it is all there is.
                None if !row.contains_key(&original) => {}
                _ => {
                    bin.push(no);
                    continue;
                }
            }
        }
        let state = if looked == Some(Content::None) {
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

/// The segments of a directory. Half-made ones and originals that have a whole copy go to the bin.
pub(super) fn list(dir: &Path) -> io::Result<BTreeMap<No, Entry>> {
    let arranged = arrange(dir)?;
    if arranged.foreign > 0 {
        tracing::warn!(directory = %dir.display(), bytes = arranged.foreign, "otelcol's own queue files are here and stay as they are; run otelcol once more to send them, then remove them");
    }
    for no in arranged.bin {
        let _ = fs::rename(dir.join(name(no)), dir.join(format!("trash-{}", &name(no)["seg-".len()..])));
    }
    let entry = |(no, state)| {
        let spans = (state == State::Spare).then(Spans::new);
        let bytes = allocated(&dir.join(name(no)));
        (no, Entry { state, spans, bytes, door: Arc::default(), since: Stamp::default(), unfit: false })
    };
    Ok(arranged.row.into_iter().map(entry).collect())
}

fn is_sealed(path: &Path) -> bool {
    fs::metadata(path.join("0.jnl")).is_ok_and(|m| m.len() == 0)
}

/// Reads the control records of the newest segment that has some, and the headers of it and those after it.
pub(super) fn read_book(dir: &Path, row: &mut BTreeMap<No, Entry>) -> Recovered {
    let mut recovered = Recovered::default();
    let nos: Vec<No> = row.iter().filter(|(_, e)| e.state != State::Spare).map(|(no, _)| *no).rev().collect();
    for no in nos {
        let path = dir.join(name(no));
        let mut spans = Spans::new();
        let (mut records, mut newest) = (Vec::new(), BTreeMap::<Lane, Header>::new());
        let sealed = row.get(&no).is_some_and(|e| e.state == State::Sealed);
        let read = if sealed {
            guarded_open(&path).and_then(|s| {
                records = s.control()?.into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
                spans = spans_of(&s)?;
                for (lane, span) in &spans {
                    if let Some((header, _)) = first_readable(&s, Lane(*lane), span.last, span.last)? {
                        newest.insert(header.lane, header);
                    }
                }
                Ok(())
            })
        } else {
            // What is read here is repeated in the next book, which is synced: a block must not be less lasting than the
            // cursor that says it moved there.
            if let Err(error) = segment::sync_journals(&path) {
                tracing::warn!(segment = %name(no), %error, "spool segment of an earlier life cannot be synced");
            }
            let keep = |key: &[u8], len: usize| if is_control_key(key) { len } else { HEADER_LEN };
            let walked = segment::read_journals(&path, VALUE_MAX, keep, |item| match parse_block_key(&item.key) {
                Some(_) => {
                    if let Ok(header) = Header::read(&item.head) {
                        extend(&mut spans, &header);
                        newest.insert(header.lane, header); // in order, so the last one stays
                    }
                }
                None if is_control_key(&item.key) => records.push((item.key, item.head)),
                None => {}
            });
            walked.map(drop).map_err(SegmentError::Io)
        };
        if let Err(error) = read {
            tracing::error!(segment = %name(no), %error, "spool segment's book cannot be read; the one before it is tried");
            continue;
        }
        if let Some(entry) = row.get_mut(&no) {
            entry.spans = Some(spans);
        }
        let floor = newest.values().map(|h| h.index >> 32).max().unwrap_or(0);
        recovered.epoch_floor = recovered.epoch_floor.max(u32::try_from(floor).unwrap_or(u32::MAX));
        recovered.headers.extend(newest.into_values());
        if !records.is_empty() {
            recovered.records = records;
            break;
        }
    }
    recovered
}
