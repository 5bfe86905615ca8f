//! The agent's disk and clock, made to fail on command: a small library that is preloaded (`shim.c`, compiled here by the
//! system's C compiler), commanded by a page that both share.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SOURCE: &str = include_str!("shim.c");

/// `errno` of the faults, as on every Linux.
pub(crate) const EIO: u64 = 5;
pub(crate) const ENOSPC: u64 = 28;
pub(crate) const EROFS: u64 = 30;

/// What the agent suffers; [`Trouble::default`] is nothing. In the order of `struct page`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Trouble {
    /// Milliseconds that each sync takes longer.
    pub(crate) sync_ms: u64,
    /// What each sync fails with; 0 does not.
    pub(crate) sync_errno: u64,
    /// The same for writes.
    pub(crate) write_errno: u64,
    /// The same for creating, renaming and removing.
    pub(crate) name_errno: u64,
    /// Seconds the wall clock is ahead.
    pub(crate) wall_s: i64,
    /// What each read fails with.
    pub(crate) read_errno: u64,
}

/// The library and its page.
#[derive(Debug)]
pub(crate) struct Shim {
    library: PathBuf,
    path: PathBuf,
    page: File,
}

const SYNCS_AT: u64 = 48;
const FAILED_AT: u64 = 56;
const WRITTEN_AT: u64 = 64;

impl Shim {
    /// Compiles it into `dir`. An error is a reason why those faults cannot be had here.
    pub(crate) fn new(dir: &Path) -> io::Result<Shim> {
        let (source, library, path) = (dir.join("shim.c"), dir.join("shim.so"), dir.join("page"));
        fs::write(&source, SOURCE)?;
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source).arg("-ldl").stdin(Stdio::null());
        let made = command.output()?;
        if !made.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        let mut page = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
        page.write_all(&[0; 4_096])?;
        Ok(Shim { library, path, page })
    }

    /// For the agent that is to suffer, with what lies below `spool`.
    pub(crate) fn apply(&self, command: &mut Command, spool: &Path) {
        command.env("LD_PRELOAD", &self.library).env("TFO_SOAK_PAGE", &self.path).env("TFO_SOAK_DIR", spool);
    }

    /// From now on.
    pub(crate) fn set(&self, trouble: Trouble) -> io::Result<()> {
        let Trouble { sync_ms, sync_errno, write_errno, name_errno, wall_s, read_errno } = trouble;
        let mut bytes = [0; SYNCS_AT as usize];
        let fields = [sync_ms, sync_errno, write_errno, name_errno, wall_s.cast_unsigned(), read_errno];
        for (to, field) in bytes.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_ne_bytes());
        }
        self.page.write_all_at(&bytes, 0)
    }

    /// Syncs since the beginning, of all lives.
    pub(crate) fn syncs(&self) -> u64 {
        self.number(SYNCS_AT)
    }

    /// Calls that were made to fail.
    pub(crate) fn failed(&self) -> u64 {
        self.number(FAILED_AT)
    }

    /// Bytes given to write(2) and its like in the spool, of all lives.
    pub(crate) fn written(&self) -> u64 {
        self.number(WRITTEN_AT)
    }

    fn number(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.page.read_exact_at(&mut bytes, at).map_or(0, |()| u64::from_ne_bytes(bytes))
    }
}
