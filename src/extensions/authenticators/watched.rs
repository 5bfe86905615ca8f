//! A file of credentials, read again when somebody asks and it may have changed.
//!
//! Contents are compared, not times: a file that is replaced within a tick of the clock, by one as long, is another all the
//! same, and such files are small.

use super::Mark;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// So often at most the file is read again, and only when somebody asks. Tokens of Kubernetes change every hour.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// Largest file of credentials: some ten thousand names.
const LARGEST: u64 = 1 << 20;

/// See the module.
pub(super) struct Watched {
    path: PathBuf,
    read_at: Instant,
    /// Its contents, as they were; or why it could not be read, which is told once.
    seen: Result<Mark, String>,
}

impl Watched {
    /// Reads it for the first time.
    pub(super) fn read(path: &Path) -> (Watched, io::Result<String>) {
        let text = read(path);
        (Watched { path: path.to_owned(), read_at: Instant::now(), seen: seen(&text) }, text)
    }

    /// What is new: other contents, or that it cannot be read any more. `None`: nothing is, or it was looked at just now.
    pub(super) fn news(&mut self) -> Option<io::Result<String>> {
        if self.read_at.elapsed() < EVERY {
            return None;
        }
        self.read_at = Instant::now();
        let text = read(&self.path);
        let (before, now) = (&self.seen, seen(&text));
        let is_same = match (before, &now) {
            (Ok(before), Ok(now)) => before.is(now).into(),
            (Err(before), Err(now)) => before == now,
            _ => false,
        };
        self.seen = now;
        (!is_same).then_some(text)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Its contents. They are read where requests are answered, so nothing is waited for but the page cache: a pipe has no
/// contents, and what is larger than any such file is none.
fn read(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = String::new();
    match file.take(LARGEST + 1).read_to_string(&mut text)? as u64 > LARGEST {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB")),
        false => Ok(text),
    }
}

fn seen(text: &io::Result<String>) -> Result<Mark, String> {
    text.as_ref().map(|text| Mark::of(text.as_bytes())).map_err(ToString::to_string)
}
