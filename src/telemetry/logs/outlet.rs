//! One place where lines end up: standard output, standard error or a file, and what happens when it takes no more.

use crate::base::Stamp;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// How often a full non-blocking pipe is asked again before the lines are given up, and how long in between: 100 ms in
/// all. Its reader is slow or gone; the lines that wait behind these are worth more.
const AGAIN_MAX: u32 = 10;
const AGAIN_PAUSE: Duration = Duration::from_millis(10);

/// How long a file that could not be opened is left alone: 60 s. Its directory may come back with the next mount.
const OPEN_AGAIN: Duration = Duration::from_secs(60);

/// How often a file is asked whether it was moved away: 1 s. A rotation costs no line, only that second.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// At most so often an outlet's trouble is told on the error outputs: 10 s, zap's sampling tick.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Lines, back to back, and where each ends.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) bytes: Vec<u8>,
    pub(super) ends: Vec<usize>,
}

impl Lines {
    /// Adds a line, which brings its own newline.
    pub(super) fn push(&mut self, line: &str) {
        self.bytes.extend_from_slice(line.as_bytes());
        self.ends.push(self.bytes.len());
    }

    /// The first so many lines; the rest stays.
    pub(super) fn take_first(&mut self, lines: usize) -> Lines {
        let lines = lines.min(self.ends.len());
        let bytes = if lines == 0 { 0 } else { self.ends[lines - 1] };
        let rest = self.bytes.split_off(bytes);
        let ends = self.ends.split_off(lines).into_iter().map(|end| end - bytes).collect();
        std::mem::replace(self, Lines { bytes: rest, ends })
    }

    /// Empty again; the room a flood has taken is given back.
    pub(super) fn clear(&mut self) {
        /// More than this is kept only by a flood: 16 KiB are a hundred lines.
        const ROOM: usize = 16 << 10;
        self.bytes.clear();
        self.bytes.shrink_to(ROOM);
        self.ends.clear();
        self.ends.shrink_to(ROOM / 128);
    }
}

/// What a writer took.
#[derive(Debug)]
pub(super) struct Taken {
    /// Lines that did not get through, the torn one included.
    pub(super) lost: u64,
    /// The last line it took is half a line.
    pub(super) torn: bool,
    /// Why it took no more.
    pub(super) error: Option<io::Error>,
}

/// Writes all lines, or as many as the writer takes. `again` is called before a full pipe is asked again.
pub(super) fn write_lines(to: &mut impl Write, lines: &Lines, mut again: impl FnMut()) -> Taken {
    let (mut done, mut asked) = (0, 0);
    let error = loop {
        match to.write(&lines.bytes[done..]) {
            _ if done == lines.bytes.len() => break None,
            Ok(0) => break Some(ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock && asked < AGAIN_MAX => {
                asked += 1;
                again();
            }
            Err(e) => break Some(e),
        }
    };
    let whole = lines.ends.partition_point(|&end| end <= done);
    let last_end = if whole == 0 { 0 } else { lines.ends[whole - 1] };
    Taken { lost: (lines.ends.len() - whole) as u64, torn: last_end < done, error }
}

/// Where an output path leads, as zap reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// `stdout`
    Stdout,
    /// `stderr`
    Stderr,
    /// A path, or `file://` and an absolute path.
    File(PathBuf),
}

impl Place {
    /// Reads an entry of `output_paths`.
    #[must_use]
    pub(super) fn parse(path: &str) -> Place {
        match path {
            "stdout" => Place::Stdout,
            "stderr" => Place::Stderr,
            path => Place::File(path.strip_prefix("file://").unwrap_or(path).into()),
        }
    }

    fn open(&self) -> io::Result<File> {
        // A duplicate of the descriptor: std's own handles buffer, lock and, printing, panic.
        match self {
            Place::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            Place::Stderr => io::stderr().as_fd().try_clone_to_owned().map(File::from),
            // 0666 less the umask, as zap.
            Place::File(path) => OpenOptions::new().append(true).create(true).open(path),
        }
    }
}

/// A place, open or not, and its troubles.
#[derive(Debug)]
pub(super) struct Outlet {
    name: String,
    place: Place,
    file: Option<File>,
    tried: Option<Stamp>,
    /// When it was last seen that the path still leads to the file.
    looked: Option<Stamp>,
    torn: bool,
    told: Option<Stamp>,
    /// Lines this outlet missed and has not been told of.
    missed: u64,
}

impl Outlet {
    /// Opened when first written to: a FIFO without a reader must not hold up the start.
    #[must_use]
    pub(super) fn new(path: &str) -> Outlet {
        let place = Place::parse(path);
        let name = path.to_owned();
        Outlet { name, place, file: None, tried: None, looked: None, torn: false, told: None, missed: 0 }
    }

    /// Lets go of a file that was moved away or removed, as a rotation does.
    fn follow(&mut self, now: Stamp) {
        let Place::File(path) = &self.place else { return };
        if self.file.is_none() || self.looked.is_some_and(|looked| now.since(looked) < LOOK_AGAIN) {
            return;
        }
        self.looked = Some(now);
        let id = |found: std::fs::Metadata| (found.dev(), found.ino());
        let ours = self.file.as_ref().and_then(|file| file.metadata().ok()).map(id);
        // A path that cannot be asked (its filesystem is away) tells nothing of the file.
        let moved = match std::fs::metadata(path) {
            Ok(found) => Some(id(found)) != ours,
            Err(e) => e.kind() == ErrorKind::NotFound,
        };
        if moved {
            self.reopen();
        }
    }

    /// As in the configuration.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Lets go of a file, so that the next line opens the path anew: log rotation.
    pub(super) fn reopen(&mut self) {
        if matches!(self.place, Place::File(_)) {
            (self.file, self.tried, self.torn) = (None, None, false);
        }
    }

    /// Writes the lines; gives back how many were lost here and, when it is time to tell somebody, why.
    /// `report` makes the line that says how many were missed, once lines get through again.
    pub(super) fn write(
        &mut self,
        lines: &Lines,
        now: Stamp,
        report: impl Fn(&str, u64) -> String,
    ) -> (u64, Option<String>) {
        self.follow(now);
        let taken = match self.opened(now) {
            Ok(None) => Taken { lost: lines.ends.len() as u64, torn: false, error: None },
            Err(e) => Taken { lost: lines.ends.len() as u64, torn: false, error: Some(e) },
            Ok(Some(_)) => self.write_opened(lines),
        };
        self.missed += taken.lost;
        if taken.lost == 0 && self.missed > 0 {
            let mut after = Lines::default();
            after.push(&report(&self.name, self.missed));
            if self.write_opened(&after).lost == 0 {
                self.missed = 0;
            }
        }
        let due = self.told.is_none_or(|told| now.since(told) >= TELL_AGAIN);
        let trouble = taken.error.filter(|_| due).map(|e| format!("write error: {}: {e}", self.name));
        if trouble.is_some() {
            self.told = Some(now);
        }
        (taken.lost, trouble)
    }

    /// `Ok(None)`: it could not be opened a moment ago and is left alone.
    fn opened(&mut self, now: Stamp) -> io::Result<Option<&File>> {
        let due = self.tried.is_none_or(|tried| now.since(tried) >= OPEN_AGAIN);
        if self.file.is_none() && due {
            (self.tried, self.looked) = (Some(now), Some(now));
            self.file = Some(self.place.open()?);
        }
        Ok(self.file.as_ref())
    }

    fn write_opened(&mut self, lines: &Lines) -> Taken {
        let Some(mut file) = self.file.as_ref() else {
            return Taken { lost: lines.ends.len() as u64, torn: false, error: None };
        };
        if self.torn {
            // The half line that a full disk left ends here, so that the next is whole. Fails: so will the lines.
            self.torn = file.write(b"\n").is_err();
        }
        let taken = write_lines(&mut file, lines, || std::thread::sleep(AGAIN_PAUSE));
        self.torn |= taken.torn;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that follows a script: so many bytes taken, or an error.
    struct Scripted(Vec<Result<usize, ErrorKind>>, Vec<u8>);

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = if self.0.is_empty() { Ok(usize::MAX) } else { self.0.remove(0) }?.min(bytes.len());
            self.1.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(texts: &[&str]) -> Lines {
        let mut lines = Lines::default();
        texts.iter().for_each(|text| lines.push(text));
        lines
    }

    #[test]
    #[rustfmt::skip]
    fn what_a_writer_does_not_take_is_counted_by_the_line() {
        use ErrorKind::{BrokenPipe, Interrupted, StorageFull, WouldBlock};
        let again = |n| vec![Err(WouldBlock); n];
        for (script, lost, torn, written, error) in [
            (vec![],                                     0, false, "one\ntwo\nthree\n", None),
            (vec![Ok(2), Err(Interrupted), Ok(4)],       0, false, "one\ntwo\nthree\n", None),
            (vec![Ok(4), Err(StorageFull)],              2, false, "one\n",             Some(StorageFull)),
            (vec![Ok(6), Err(StorageFull)],              2, true,  "one\ntw",           Some(StorageFull)),
            (vec![Err(BrokenPipe)],                      3, false, "",                  Some(BrokenPipe)),
            (vec![Ok(0)],                                3, false, "",                  Some(ErrorKind::WriteZero)),
            (again(10),                                  0, false, "one\ntwo\nthree\n", None),
            (again(11),                                  3, false, "",                  Some(WouldBlock)),
        ] {
            let mut to = Scripted(script.clone(), Vec::new());
            let mut pauses = 0;
            let taken = write_lines(&mut to, &lines(&["one\n", "two\n", "three\n"]), || pauses += 1);
            let error_kind = taken.error.map(|e| e.kind());
            assert_eq!((taken.lost, taken.torn, error_kind), (lost, torn, error), "{script:?}");
            assert_eq!(String::from_utf8_lossy(&to.1), written, "{script:?}");
            assert!(pauses <= 10);
        }
        let taken = write_lines(&mut Scripted(vec![], vec![]), &Lines::default(), || ());
        assert!(taken.lost == 0 && taken.error.is_none(), "nothing to write is no error");
    }

    #[test]
    fn paths_are_read_as_zap_reads_them() {
        for (path, place) in [
            ("stdout", Place::Stdout),
            ("stderr", Place::Stderr),
            ("/var/log/otel-agent/agent.log", Place::File("/var/log/otel-agent/agent.log".into())),
            ("file:///tmp/x.log", Place::File("/tmp/x.log".into())),
            ("./stdout", Place::File("./stdout".into())),
        ] {
            assert_eq!(Place::parse(path), place);
        }
    }

    fn at(mono_s: u64) -> Stamp {
        Stamp { wall_ns: 0, mono_ms: mono_s * 1_000 }
    }

    fn report(name: &str, missed: u64) -> String {
        format!("{missed} missed by {}\n", name.rsplit('/').next().expect("a split has a last part"))
    }

    #[test]
    fn an_outlet_that_cannot_be_opened_is_told_once_and_tried_again_after_a_minute() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("later/agent.log");
        let mut outlet = Outlet::new(path.to_str().expect("a temporary path is text"));
        let mut write = |second| outlet.write(&lines(&["x\n"]), at(second), report);

        let (lost, trouble) = write(0);
        assert_eq!(lost, 1);
        assert!(trouble.expect("the directory is missing").contains("agent.log: No such file or directory"));
        assert_eq!(write(1), (1, None), "left alone");
        std::fs::create_dir(dir.path().join("later")).expect("it was missing");
        assert_eq!(write(59), (1, None), "still left alone");
        assert_eq!(write(60), (0, None), "tried again");
        let written = std::fs::read_to_string(&path).expect("the file is there now");
        assert_eq!(written, "x\n3 missed by agent.log\n");
        assert_eq!(write(61), (0, None));
        assert_eq!(std::fs::read_to_string(&path).expect("as before"), "x\n3 missed by agent.log\nx\n");
    }

    /// Method: `/dev/full` refuses every byte with ENOSPC, as a full disk does.
    #[test]
    fn a_full_disk_is_counted_and_told_at_most_every_ten_seconds() {
        let mut outlet = Outlet::new("/dev/full");
        let told: Vec<(u64, bool)> = [0, 1, 9, 10, 11, 25]
            .map(|second| outlet.write(&lines(&["a\n", "b\n"]), at(second), report))
            .map(|(lost, trouble)| (lost, trouble.is_some_and(|t| t.contains("/dev/full: No space left"))))
            .into();
        assert_eq!(told, [(2, true), (2, false), (2, false), (2, true), (2, false), (2, true)]);
    }

    #[test]
    fn a_half_line_is_ended_before_the_next_begins() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("agent.log");
        let mut outlet = Outlet::new(path.to_str().expect("a temporary path is text"));
        assert_eq!(outlet.write(&lines(&["whole\n", "ha"]), at(0), report).0, 0);
        outlet.torn = true; // as after ENOSPC in mid-line
        assert_eq!(outlet.write(&lines(&["next\n"]), at(0), report).0, 0);
        assert_eq!(std::fs::read_to_string(&path).expect("written"), "whole\nha\nnext\n");
    }
}
