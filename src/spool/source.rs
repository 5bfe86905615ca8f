//! Files as the walks read them: by position, never by a length that the file itself names, and never from what is no file (a
//! pipe would be waited for without end).
//!
//! A disk that answers a read with EIO may answer it later: so the walks end with the error, and whoever asked comes again.
//! Only when that went on for long enough ([`Reading::Whatever`]) a page that cannot be read counts as zeros, which
//! every walk takes for damage and goes on behind.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What is read at once of a file that answers EIO, and taken for zeros where it does.
const PAGE: usize = 4_096;

/// Longest a file may be that is read whole: lists of tables and summaries have a few hundred bytes.
const SMALL_MAX: u64 = 1 << 20;

/// What becomes of a read error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It is the answer.
    Strict,
    /// What cannot be read is zeros.
    Whatever,
}

/// A file that is read, see the module.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    len: u64,
    at: u64,
    how: Reading,
    #[cfg(any(test, feature = "testing"))]
    path: std::path::PathBuf,
}

impl Source {
    /// Opens a file. A directory or a pipe is none.
    ///
    /// # Errors
    /// When it cannot be opened, or is no file.
    pub(crate) fn open(path: &Path, how: Reading) -> io::Result<Source> {
        let (file, meta) = open(path)?;
        Ok(Source {
            len: meta.len(),
            file,
            at: 0,
            how,
            #[cfg(any(test, feature = "testing"))]
            path: path.to_owned(),
        })
    }

    /// Its length when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `to` with what stands at `at`.
    ///
    /// # Errors
    /// The disk's; the file's end, should it have become shorter.
    pub(crate) fn read_exact_at(&self, to: &mut [u8], at: u64) -> io::Result<()> {
        match self.ask(to, at) {
            Err(error) if self.how == Reading::Whatever && is_trouble(&error) => {
                for (n, page) in to.chunks_mut(PAGE).enumerate() {
                    match self.ask(page, at + (n * PAGE) as u64) {
                        Err(error) if is_trouble(&error) => page.fill(0),
                        read => read?,
                    }
                }
                Ok(())
            }
            read => read,
        }
    }

    fn ask(&self, to: &mut [u8], at: u64) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        fault::trip(&self.path, at..at + to.len() as u64)?;
        self.file.read_exact_at(to, at)
    }

    /// Where data begins at or after `at`: most of a journal is a hole, and zeros that nobody wrote need no reading.
    pub(crate) fn next_data(&self, at: u64) -> u64 {
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data.clamp(at, self.len.max(at)),
            Err(rustix::io::Errno::NXIO) => self.len.max(at), // nothing but holes
            Err(_) => at,                                     // the filesystem does not say
        }
    }
}

impl Read for Source {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let n = to.len().min(left);
        self.read_exact_at(&mut to[..n], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// An answer of the disk about a place of it that may be another one later.
pub(crate) fn is_trouble(error: &io::Error) -> bool {
    // The last ones are how ext4 and xfs say that they do not believe what they read, and how a card that is gone answers.
    let trouble = [libc::EIO, libc::EUCLEAN, libc::EBADMSG, libc::ENODEV, libc::ENXIO, libc::ESTALE];
    error.raw_os_error().is_some_and(|code| trouble.contains(&code))
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Opening a pipe would wait for somebody who writes.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what stands there is no file"));
    }
    Ok((file, meta))
}

/// A file of a few hundred bytes; `None`: it is not there, is no file, or is far too long to be one.
///
/// # Errors
/// The disk's.
pub(crate) fn small(path: &Path, how: Reading) -> io::Result<Option<Vec<u8>>> {
    let source = match Source::open(path, how) {
        Ok(source) if source.len() <= SMALL_MAX => source,
        Ok(_) => return Ok(None),
        Err(error) if is_trouble(&error) || error.raw_os_error() == Some(libc::EMFILE) => return Err(error),
        Err(_) => return Ok(None),
    };
    let mut bytes = vec![0; usize::try_from(source.len()).unwrap_or(0)];
    match source.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Read errors on command.
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fault {
    use std::io;
    use std::ops::Range;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, PoisonError};

    struct Rule {
        below: PathBuf,
        bytes: Range<u64>,
        times: u64,
    }

    static RULES: Mutex<Vec<Rule>> = Mutex::new(Vec::new());

    /// The next `times` reads of these bytes of a file at or below this path answer EIO.
    pub(crate) fn arm(below: &Path, bytes: Range<u64>, times: u64) {
        let mut rules = RULES.lock().unwrap_or_else(PoisonError::into_inner);
        rules.retain(|rule| rule.below != below);
        rules.push(Rule { below: below.to_owned(), bytes, times });
    }

    pub(in crate::spool) fn trip(path: &Path, bytes: Range<u64>) -> io::Result<()> {
        let mut rules = RULES.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = rules.iter_mut().find(|rule| {
            rule.times > 0
                && path.starts_with(&rule.below)
                && rule.bytes.start < bytes.end
                && bytes.start < rule.bytes.end
        });
        match hit {
            Some(rule) => {
                rule.times -= 1;
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_cannot_be_read_is_the_answer_or_zeros() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 3 * PAGE]).expect("space");
        fault::arm(&path, PAGE as u64..PAGE as u64 + 1, 3);
        let mut room = vec![1; 3 * PAGE];
        let strict = Source::open(&path, Reading::Strict).expect("there");
        assert!(strict.read_exact_at(&mut room, 0).is_err_and(|error| is_trouble(&error)));
        let whatever = Source::open(&path, Reading::Whatever).expect("there");
        whatever.read_exact_at(&mut room, 0).expect("zeros in its place");
        assert!(room[..PAGE] == [7; PAGE] && room[PAGE..2 * PAGE] == [0; PAGE] && room[2 * PAGE..] == [7; PAGE]);
        strict.read_exact_at(&mut room, 0).expect("the disk has come round");
        assert!(room.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        for path in [&pipe, dir.path(), &dir.path().join("nothing")] {
            assert!(Source::open(path, Reading::Strict).is_err(), "{}", path.display());
            assert_eq!(small(path, Reading::Strict).expect("no trouble of the disk"), None, "{}", path.display());
        }
    }

    #[test]
    fn holes_are_passed_over() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        let file = File::create(&path).expect("space");
        file.set_len(8 << 20).expect("space");
        file.write_all_at(b"data", 4 << 20).expect("space");
        let source = Source::open(&path, Reading::Strict).expect("there");
        // A filesystem without holes says 0, which is right too.
        assert!([0, 4 << 20].contains(&source.next_data(0)));
        assert!(source.next_data(5 << 20) >= 5 << 20);
    }
}
