//! One segment: one small fjall database. The only file that names fjall.
//!
//! ```text
//!   create ─▶ empty ─▶ append … append ─▶ seal ─▶ (closed) ─▶ open ─▶ read … ─▶ removed whole
//!                          └ an error: never written again, read on
//! ```
//!
//! One database per segment, because that is the only way fjall gives disk space back to a queue (architecture §5,
//! measured). The settings below kept a whole process at 14–20 MB. Traps that are stepped around here:
//! * `insert` may never return (four sealed memtables and a dead worker), so everything goes through `batch`;
//! * a journal is never deleted, only truncated: without it the sequence number restarts and the next synced write is
//!   lost at the opening after that;
//! * recovery believes lengths, so every journal is walked ([`super::journal`]) and cut before fjall sees it;
//! * what is damaged fjall does not get at all: it is read as a [`Wreck`], and never written.

use super::disk::{identity, is_still};
use super::journal::{self, Stop};
use super::ledger::Record;
use super::source::{Reading, is_trouble};
use super::wreck::Wreck;
use crate::spool::Lane;
use bytes::Bytes;
use fjall::config::{BlockSizePolicy, CompressionPolicy, FilterPolicy};
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Longest a flush may take before the seal is given up for now. A 48 MiB table at 1 MB/s, the slowest card.
const FLUSH_MAX: Duration = Duration::from_secs(60);

/// What went wrong in a segment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SegmentError {
    /// The disk's answer. After it the segment is never written again.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// fjall's answer, or a journal that is no journal.
    #[error("{0}")]
    Damaged(String),
    /// A flush that did not end in time.
    #[error("flush still running after {0:?}")]
    Slow(Duration),
}

impl From<fjall::Error> for SegmentError {
    fn from(e: fjall::Error) -> SegmentError {
        match e {
            fjall::Error::Io(e) | fjall::Error::Storage(lsm_tree::Error::Io(e)) => SegmentError::Io(e),
            // A handle of ours that is still being dropped.
            fjall::Error::Locked => SegmentError::Io(io::ErrorKind::ResourceBusy.into()),
            other => SegmentError::Damaged(format!("{other:?}")),
        }
    }
}

impl SegmentError {
    /// An answer of the disk that may be another one later: nothing is damaged.
    pub(crate) fn is_passing(&self) -> bool {
        use io::ErrorKind as Kind;
        let SegmentError::Io(e) = self else { return false };
        matches!(
            e.kind(),
            Kind::Interrupted
                | Kind::OutOfMemory
                | Kind::QuotaExceeded
                | Kind::ReadOnlyFilesystem
                | Kind::ResourceBusy
                | Kind::StorageFull
                | Kind::TimedOut
        ) || is_trouble(e)
            || e.raw_os_error().is_some_and(|n| [libc::EMFILE, libc::ENFILE].contains(&n))
    }

    /// The disk's answer to a read of a place it cannot read, now or ever.
    pub(crate) fn is_trouble(&self) -> bool {
        matches!(self, SegmentError::Io(e) if is_trouble(e))
    }

    /// Whether there was no space (or no inode) left.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, SegmentError::Io(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// An open segment. Reading and appending may go on from several threads; the caller keeps appends in order.
pub(crate) struct Segment {
    path: PathBuf,
    /// The journal it appends to, and which file that is; `None`: it is never written.
    journal: Option<(PathBuf, (u64, u64))>,
    body: Body,
    /// Bytes of keys and values appended in this life.
    appended: AtomicU64,
    /// It was there before, maybe from a life that was killed before it had synced all of it.
    found: bool,
}

/// Who reads it.
enum Body {
    Whole { q: Keyspace, db: Database },
    Damaged(Wreck),
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Segment {
    /// Makes an empty segment: when this returns it is there after a power cut. A crash in between leaves a directory
    /// that is not [`is_whole`], or an empty segment.
    ///
    /// # Errors
    /// The disk's; what was made so far may be removed.
    pub(crate) fn create(path: &Path) -> Result<Segment, SegmentError> {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        fs::create_dir(path)?; // fjall would make the directory it stands in as well, and nobody had taken that
        let segment = Segment::reopen(path)?;
        // fjall syncs neither the directory it stands in nor `keyspaces` after it put the keyspaces there.
        for dir in [&path.join("keyspaces"), path, path.parent().unwrap_or(path)] {
            sync_dir(dir)?;
        }
        Ok(segment)
    }

    /// Opens a segment of an earlier life, or a sealed one. Its journal is cut at the last whole batch first.
    ///
    /// # Errors
    /// When it cannot be read or fjall refuses it; the caller sets it aside.
    pub(crate) fn open(path: &Path, value_max: usize) -> Result<Segment, SegmentError> {
        for journal in journals(path)? {
            let walk = journal::walk(&journal, value_max, |_, _| 0, |_| {})?;
            if let Stop::Broken(why) = &walk.stop {
                tracing::warn!(journal = %journal.display(), proved_bytes = walk.proved_len, %why, "spool journal cut at its last whole batch");
                let file = OpenOptions::new().write(true).open(&journal)?;
                file.set_len(walk.proved_len)?;
                file.sync_all()?;
            }
        }
        // fjall refuses a whole database for the want of its empty lock file.
        OpenOptions::new().append(true).create(true).open(path.join("lock"))?;
        Ok(Segment { found: true, ..Segment::reopen(path)? })
    }

    /// A damaged segment, to be read as far as a walk came.
    pub(crate) fn wreck(path: &Path, wreck: Wreck) -> Segment {
        Segment {
            path: path.to_owned(),
            journal: None,
            body: Body::Damaged(wreck),
            appended: AtomicU64::new(0),
            found: true,
        }
    }

    fn reopen(path: &Path) -> Result<Segment, SegmentError> {
        let (db, q) = open_db(path)?;
        let journal = journals(path)?.pop().ok_or_else(gone)?;
        let file = identity(&File::open(&journal)?)?;
        Ok(Segment {
            path: path.to_owned(),
            journal: Some((journal, file)),
            body: Body::Whole { q, db },
            appended: AtomicU64::new(0),
            found: false,
        })
    }

    /// What a damaged one holds; `None` of a whole one.
    pub(crate) fn damaged(&self) -> Option<&Wreck> {
        match &self.body {
            Body::Damaged(wreck) => Some(wreck),
            Body::Whole { .. } => None,
        }
    }

    /// Whether nothing says that the block was ever acknowledged, see [`Wreck::is_tail`].
    pub(crate) fn is_tail(&self, lane: Lane, index: u64) -> bool {
        self.damaged().is_some_and(|wreck| wreck.is_tail(lane, index))
    }

    /// fjall's handles.
    ///
    /// # Errors
    /// It is damaged, and never written.
    pub(crate) fn whole(&self) -> Result<(&Keyspace, &Database), SegmentError> {
        match &self.body {
            Body::Whole { q, db } => Ok((q, db)),
            Body::Damaged(_) => Err(SegmentError::Damaged("a damaged segment is not written".into())),
        }
    }

    /// Appends all records or none. With `sync`, `Ok` means stable storage, and that the next life finds it there: open files
    /// take what nobody can reach any more. After an error: never again.
    ///
    /// # Errors
    /// The disk's, or the segment is gone. What was appended may be there all the same.
    pub(crate) fn append(&self, records: Vec<Record>, sync: bool) -> Result<(), SegmentError> {
        let bytes: usize = records.iter().map(|(k, v)| k.len() + v.len()).sum();
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let (q, db) = self.whole()?;
        let mut batch = db.batch().durability(Some(mode));
        for (key, value) in records {
            batch.insert(q, key, value);
        }
        #[cfg(test)]
        fault::trip(fault::At::BeforeCommit);
        batch.commit()?;
        #[cfg(test)]
        fault::trip(fault::At::AfterCommit);
        if sync {
            self.is_reachable()?;
        }
        self.appended.fetch_add(bytes as u64, Relaxed);
        Ok(())
    }

    /// Everything appended is on stable storage when this returns.
    ///
    /// # Errors
    /// The disk's; the segment must not be written again.
    pub(crate) fn sync(&self) -> Result<(), SegmentError> {
        self.whole()?.1.persist(PersistMode::SyncData)?;
        self.is_reachable()
    }

    /// Whether the next life finds what is appended.
    fn is_reachable(&self) -> Result<(), SegmentError> {
        let there = self.journal.as_ref().is_some_and(|(path, file)| is_still(path, *file));
        if there { Ok(()) } else { Err(gone().into()) }
    }

    /// Bytes of keys and values appended in this life.
    pub(crate) fn appended(&self) -> u64 {
        self.appended.load(Relaxed)
    }

    /// The first key in `from..=to` and its value.
    ///
    /// # Errors
    /// When the table that holds it is damaged.
    pub(crate) fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, SegmentError> {
        match &self.body {
            Body::Damaged(wreck) => Ok(wreck.first(from, to)?),
            Body::Whole { q, .. } => {
                self.trip()?;
                q.range(from..=to).next().map(pair).transpose()
            }
        }
    }

    /// The last key in `from..=to` and its value.
    ///
    /// # Errors
    /// As [`Segment::first`].
    pub(crate) fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, SegmentError> {
        match &self.body {
            Body::Damaged(wreck) => Ok(wreck.last(from, to)?),
            Body::Whole { q, .. } => {
                self.trip()?;
                q.range(from..=to).next_back().map(pair).transpose()
            }
        }
    }

    /// A read error on command: fjall reads by itself.
    fn trip(&self) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        super::source::fault::trip(&self.path, 0..1)?;
        Ok(())
    }

    /// Moves everything from the journal into fjall's table and gives the journal's space back. The segment is closed
    /// after it, whatever comes out.
    ///
    /// # Errors
    /// When the flush fails or does not end; the journal is intact then and the segment opens as before.
    pub(crate) fn seal(self) -> Result<(), SegmentError> {
        let (q, db) = self.whole()?;
        q.rotate_memtable()?;
        let started = std::time::Instant::now(); // measures one flush, decides nothing but patience
        while q.tree.sealed_memtable_count() > 0 {
            // A worker that died is seen only here: it poisons the database.
            db.persist(PersistMode::Buffer)?;
            if started.elapsed() > FLUSH_MAX {
                return Err(SegmentError::Slow(FLUSH_MAX));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if q.tree.get_highest_memtable_seqno().is_some() {
            return Err(SegmentError::Damaged("the memtable is not empty after its flush".into()));
        }
        let (path, found) = (self.path.clone(), self.found);
        drop(self);
        if found {
            sync_all(&path)?; // a table that a killed life flushed is not flushed again, and may not be synced
        }
        for journal in journals(&path)? {
            let file = OpenOptions::new().write(true).open(&journal)?;
            file.set_len(0)?;
            file.sync_all()?;
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the segment was removed or moved away")
}

fn pair(guard: fjall::Guard) -> Result<(Bytes, Bytes), SegmentError> {
    let (key, value) = guard.into_inner()?;
    Ok((key.into(), value.into()))
}

/// Makes of an empty segment what a kill leaves in the middle of [`Segment::create`]: a keyspace that fjall's notes do not know yet.
#[cfg(test)]
pub(crate) fn half_made(segment: &Path) {
    let other = segment.with_extension("half");
    drop(Database::builder(&other).open().expect("space"));
    let notes = |of: &Path| of.join(format!("keyspaces/{META}"));
    fs::remove_dir_all(notes(segment)).expect("there");
    fs::rename(notes(&other), notes(segment)).expect("beside it");
    fs::remove_dir_all(&other).expect("there");
}

fn open_db(path: &Path) -> Result<(Database, Keyspace), SegmentError> {
    let db = Database::builder(path)
        .worker_threads(1)
        .cache_size(1 << 20)
        .max_cached_files(Some(16))
        .max_journaling_size(64 << 20)
        .journal_compression(fjall::CompressionType::None)
        .manual_journal_persist(true) // every append says itself how far it must go
        .open()?;
    let options = || {
        KeyspaceCreateOptions::default()
            .data_block_compression_policy(CompressionPolicy::disabled())
            .index_block_compression_policy(CompressionPolicy::disabled())
            .filter_policy(FilterPolicy::disabled())
            .data_block_size_policy(BlockSizePolicy::all(16 << 10))
            .expect_point_read_hits(true)
            .manual_journal_persist(true)
            .max_memtable_size(1 << 30) // larger than any segment: no flush in mid-segment
    };
    let q = db.keyspace("q", options)?;
    Ok((db, q))
}

/// All of a segment is on stable storage when this returns. A life that was killed between its writes and its syncs leaves
/// what can be read and may be gone after a power cut: before anything is built on it, it is synced. Costs next to nothing
/// when it was.
///
/// # Errors
/// The disk's.
pub(crate) fn sync_all(path: &Path) -> io::Result<()> {
    sync_below(path)?;
    sync_dir(path.parent().unwrap_or(path))
}

fn sync_below(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?;
    if kind.is_dir() {
        entries(path)?.iter().try_for_each(|entry| sync_below(entry))?;
    }
    // What is neither holds nothing of ours, and opening a pipe would wait for somebody who writes.
    if kind.is_dir() || kind.is_file() { File::open(path)?.sync_all() } else { Ok(()) }
}

/// The same for the journals alone.
///
/// # Errors
/// The disk's.
pub(crate) fn sync_journals(path: &Path) -> io::Result<()> {
    journals(path)?.iter().try_for_each(|journal| File::open(journal)?.sync_all())
}

/// What fjall's marker holds.
pub(super) const VERSION: &[u8] = b"FJL\x03";

/// fjall's keyspace for its own notes.
pub(super) const META: u64 = 0;

/// Whether a directory is a whole fjall database: fjall writes `version` last.
pub(crate) fn is_whole(path: &Path) -> bool {
    path.join("version").is_file()
}

/// What was ever appended to a segment that is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing: no byte in a journal, and no table.
    None,
    /// A batch that was torn off, and nothing else; or no journal.
    Torn,
    /// At least one whole batch, or a table.
    Some,
}

/// Looks without opening.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn content(path: &Path) -> io::Result<Content> {
    let journals = journals(path)?;
    // Every segment is made with a journal of preallocated length. Where it is gone or cut to nothing, something was lost; and
    // without it fjall counts anew, so that what is written next would be lost at the opening after that.
    let is_there = |journal: &PathBuf| fs::metadata(journal).is_ok_and(|m| m.len() > 0);
    let mut found = if journals.iter().any(is_there) { Content::None } else { Content::Torn };
    for journal in journals {
        let mut seen = Content::None;
        journal::walk_on(
            &journal,
            Reading::Strict,
            usize::MAX,
            |_, _| 0,
            |met| match met {
                journal::Met::Batch(items) if items.iter().all(|item| item.keyspace == META) => {}
                journal::Met::Batch(_) | journal::Met::Gap { in_form: true, .. } => seen = Content::Some,
                journal::Met::Gap { .. } if seen == Content::None => seen = Content::Torn,
                journal::Met::Gap { .. } => {}
            },
        )?;
        match seen {
            Content::None => {}
            Content::Torn => found = Content::Torn,
            Content::Some => return Ok(Content::Some),
        }
    }
    // Ours is 1, or a later one when a power cut left the segment without it and it was made again.
    for keyspace in entries(&path.join("keyspaces"))? {
        let is_meta = keyspace.file_name().is_some_and(|name| name == "0");
        if !is_meta && !entries(&keyspace.join("tables"))?.is_empty() {
            return Ok(Content::Some);
        }
    }
    Ok(found)
}

/// What a directory holds; one that is not there holds nothing.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(found) => found.map(|entry| Ok(entry?.path())).collect(),
        Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The journal files, oldest first.
pub(super) fn journals(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".jnl"))
            .and_then(|n| n.parse::<u64>().ok());
        // Anything else of that name (a pipe would never be read to its end) is none.
        if let Some(number) = number.filter(|_| path.is_file()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Directory entries made, renamed or removed in `dir` are on stable storage when this returns.
///
/// # Errors
/// The disk's.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A panic of fjall on command.
#[cfg(test)]
pub(crate) mod fault {
    use std::cell::Cell;

    /// Where an append of this thread panics.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum At {
        /// Nothing is in the journal.
        BeforeCommit,
        /// All of it is.
        AfterCommit,
    }

    thread_local! {
        static NEXT: Cell<Option<At>> = const { Cell::new(None) };
    }

    /// The next append of this thread that comes by there panics.
    pub(crate) fn arm(at: At) {
        NEXT.set(Some(at));
    }

    pub(super) fn trip(at: At) {
        if NEXT.get() == Some(at) {
            NEXT.set(None);
            panic!("a fault on command: {at:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path, name: &str) -> Segment {
        Segment::create(&dir.join(name)).expect("a temporary directory takes a segment")
    }
    fn rec(key: &[u8], value: &[u8]) -> Record {
        (key.to_vec(), value.to_vec())
    }
    const MAX: usize = 64 << 20;

    #[test]
    fn what_was_appended_is_there_after_sealing_and_opening() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a");
        let s = make(dir.path(), "a");
        assert!(is_whole(&path));
        assert_eq!(content(&path).expect("readable"), Content::None);
        s.append(vec![rec(b"k1", &[1; 100_000]), rec(&[0xFF, 0xFF, 0xFF, 0xFF, 1], b"c")], true).expect("space");
        s.append(vec![rec(b"k2", b"two")], false).expect("space");
        assert_eq!(content(&path).expect("readable"), Content::Some);
        s.seal().expect("a flush of 100 kB");
        assert_eq!(fs::metadata(path.join("0.jnl")).expect("never deleted").len(), 0);
        assert_eq!(content(&path).expect("readable"), Content::Some, "a sealed segment is no spare");
        let s = Segment::open(&path, MAX).expect("whole");
        let (key, value) = s.first(b"k0", b"kz").expect("intact").expect("there");
        assert_eq!((&key[..], value.len()), (&b"k1"[..], 100_000));
        assert_eq!(&s.last(b"k0", b"kz").expect("intact").expect("there").1[..], b"two");
        assert_eq!(s.first(b"k3", b"kz").expect("intact"), None);
        s.append(vec![rec(b"k3", b"after the seal")], true).expect("the sequence number goes on");
        drop(s);
        let s = Segment::open(&path, MAX).expect("whole");
        assert!(s.first(b"k3", b"k3").expect("intact").is_some(), "a truncated journal loses nothing later");
    }

    #[test]
    fn a_length_flipped_in_the_journal_costs_its_batch_and_not_the_memory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a");
        let s = make(dir.path(), "a");
        for n in 0..3_u8 {
            s.append(vec![rec(&[n], &[n; 1_000])], true).expect("space");
        }
        drop(s);
        let journal = path.join("0.jnl");
        let mut bytes = fs::read(&journal).expect("readable");
        // The last item's value length: 12 bytes behind its keyspace, 1,000 bytes before the batch's end.
        let at = bytes.windows(4).rposition(|w| w == 1_000_u32.to_le_bytes()).expect("two lengths of 1,000 per item");
        bytes[at + 3] = 0x7F;
        bytes[at - 1] = 0x7F; // both the same: a 2 GB value
        fs::write(&journal, &bytes).expect("writable");
        let s = Segment::open(&path, MAX).expect("what is before it is whole");
        assert!(s.first(&[1], &[1]).expect("intact").is_some());
        assert!(s.first(&[2], &[2]).expect("intact").is_none());
    }

    /// What the disk may answer otherwise later is no damage, also where it comes wrapped by the tree below fjall: a
    /// segment that is set aside for it would be acknowledged data out of reach.
    #[test]
    #[rustfmt::skip]
    fn what_passes_is_told_from_what_is_damaged() {
        let os = io::Error::from_raw_os_error;
        for (number, passing, full) in [
            (libc::EINTR,  true,  false),
            (libc::ENOMEM, true,  false),
            (libc::EDQUOT, true,  true),
            (libc::EROFS,  true,  false),
            (libc::EBUSY,  true,  false),
            (libc::ENOSPC, true,  true),
            (libc::ETIMEDOUT, true, false),
            (libc::EMFILE, true,  false),
            (libc::ENFILE, true,  false),
            (libc::EIO,    true,  false), // a sector may be read at the next try; how long is Disk's patience
            (libc::ENOENT, false, false),
            (libc::EACCES, false, false),
            (libc::EINVAL, false, false),
        ] {
            let wrapped: [SegmentError; 3] = [
                os(number).into(),
                fjall::Error::Io(os(number)).into(),
                fjall::Error::Storage(lsm_tree::Error::Io(os(number))).into(),
            ];
            for error in wrapped {
                assert!(matches!(error, SegmentError::Io(_)), "{error:?}");
                assert_eq!((error.is_passing(), error.is_full()), (passing, full), "{error:?}");
            }
        }
        let locked = SegmentError::from(fjall::Error::Locked);
        assert!(locked.is_passing() && !locked.is_full(), "a handle of ours that is still being dropped: {locked:?}");
        for damaged in [
            fjall::Error::Poisoned,
            fjall::Error::Unrecoverable,
            fjall::Error::InvalidTrailer,
            fjall::Error::KeyspaceDeleted,
            fjall::Error::Storage(lsm_tree::Error::Unrecoverable),
            fjall::Error::Storage(lsm_tree::Error::InvalidHeader("Block")),
        ] {
            let error = SegmentError::from(damaged);
            assert!(matches!(error, SegmentError::Damaged(_)), "{error:?}");
            assert!(!error.is_passing() && !error.is_full(), "{error:?}");
        }
        assert!(!SegmentError::Slow(FLUSH_MAX).is_passing());
    }

    /// fjall writes `version` before our keyspace is there, so a power cut can leave a segment that is whole for fjall and
    /// has its keyspace made again when it is opened, under another number.
    #[test]
    fn a_sealed_segment_is_no_spare_whatever_the_number_of_its_keyspace() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a");
        drop(make(dir.path(), "a"));
        let keyspaces = path.join("keyspaces");
        fs::rename(keyspaces.join("1"), keyspaces.join("2")).expect("writable");
        assert_eq!(content(&path).expect("readable"), Content::None);
        fs::write(keyspaces.join("2/tables/0"), b"t").expect("space");
        assert_eq!(content(&path).expect("readable"), Content::Some);
    }

    /// Without its lock file fjall refuses the database, with everything in it.
    #[test]
    fn a_lock_file_that_is_gone_costs_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a");
        make(dir.path(), "a").append(vec![rec(b"k", b"v")], true).expect("space");
        assert_eq!(fs::read(path.join("version")).expect("fjall made it"), VERSION);
        fs::remove_file(path.join("lock")).expect("fjall made it");
        let s = Segment::open(&path, MAX).expect("whole");
        assert!(s.first(b"k", b"k").expect("intact").is_some());
    }

    #[test]
    fn a_half_made_segment_is_made_anew() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join("a/keyspaces")).expect("space");
        let s = make(dir.path(), "a");
        s.append(vec![rec(b"k", b"v")], true).expect("space");
    }
}
