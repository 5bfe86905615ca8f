//! Room set aside for making room: nothing is deleted before the books that say so are on the disk, so a disk without a free
//! byte, or without a free inode, would stay as it is for ever.
//!
//! ```text
//!            ENOSPC, and something may go          something went
//!   held ─────────────────────────────────▶ owed ─────────────────▶ held
//!                                             blocks are refused: what becomes free is the reserve's first
//! ```
//!
//! On a filesystem that copies on write, or beside somebody who takes every byte at once, it is worth less: then the spool
//! stays as it is until there is space again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Its bytes: an empty segment (64 KiB) and all control records of some hundred lanes.
const BYTES: u64 = 512 << 10;
/// Its inodes: those of a segment (twelve) and of its directories.
const FILES: u32 = 16;
/// For the first time it is made when so much more is free.
const AMPLE: u64 = 8 * BYTES;

/// See the module.
#[derive(Debug)]
pub(super) struct Reserve {
    dir: PathBuf,
    held: AtomicBool,
    /// It was used, by this life or one before, and comes before everything else that wants space.
    owed: AtomicBool,
}

impl Reserve {
    /// What an earlier life left, or nothing yet. `used`: there was one, so it is owed when it is not there.
    pub(super) fn of(spool: &Path, used: bool) -> Reserve {
        let dir = spool.join("reserve");
        let held = is_whole(&dir);
        Reserve { dir, held: AtomicBool::new(held), owed: AtomicBool::new(used && !held) }
    }

    /// The directory is another one, and what was owed there is not owed here.
    pub(super) fn look_again(&self) {
        self.held.store(is_whole(&self.dir), SeqCst);
        self.owed.store(false, SeqCst);
    }

    /// Gives the room free; `false` when there is none any more.
    pub(super) fn release(&self) -> bool {
        let held = self.held.swap(false, SeqCst);
        if held {
            tracing::warn!("the disk is full; what the spool has set aside for deleting is used");
            self.owed.store(true, SeqCst);
            if let Err(error) = fs::remove_dir_all(&self.dir) {
                tracing::error!(%error, "what the spool has set aside cannot be given free");
            }
        }
        held
    }

    /// Whether somebody else may have space: nothing is owed, or it could be set aside again just now.
    pub(super) fn is_repaid(&self) -> bool {
        if !self.owed.load(SeqCst) {
            return true;
        }
        match self.make() {
            Ok(()) => {
                tracing::info!("room for deleting is set aside again");
                self.held.store(true, SeqCst);
            }
            Err(error) => {
                let _ = fs::remove_dir_all(&self.dir); // half of it serves nobody
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                    return false;
                }
                tracing::warn!(%error, "no room for deleting can be set aside");
            }
        }
        self.owed.store(false, SeqCst);
        true
    }

    /// Sets room aside for the first time, when there is ample of it. Should that fail, there is no reserve.
    pub(super) fn restore(&self, free: Option<u64>) {
        let wanted = !self.held.load(SeqCst) && !self.owed.load(SeqCst);
        if !wanted || free.is_none_or(|free| free < AMPLE) {
            return;
        }
        match self.make() {
            Ok(()) => self.held.store(true, SeqCst),
            Err(error) => {
                tracing::debug!(%error, "no room could be set aside for deleting");
                let _ = fs::remove_dir_all(&self.dir);
            }
        }
    }

    fn make(&self) -> io::Result<()> {
        // What lies there is half of one, or no directory at all.
        let _ = fs::remove_dir_all(&self.dir);
        fs::create_dir(&self.dir)?;
        for n in (0..FILES).rev() {
            let mut file = File::create(self.dir.join(n.to_string()))?;
            if n == 0 && rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BYTES).is_err() {
                file.write_all(&vec![0; usize::try_from(BYTES).expect("half a MiB")])?;
            }
        }
        Ok(())
    }
}

/// The file with the bytes is made last.
fn is_whole(dir: &Path) -> bool {
    fs::metadata(dir.join("0")).is_ok_and(|room| room.len() >= BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_set_aside_once_and_given_free_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let reserve = Reserve::of(dir.path(), false);
        assert!(!reserve.release() && reserve.is_repaid(), "there is none yet");
        reserve.restore(Some(AMPLE - 1));
        assert!(!dir.path().join("reserve").exists(), "there is little room");
        reserve.restore(Some(AMPLE));
        assert!(super::super::allocated(&dir.path().join("reserve")) >= BYTES);
        assert_eq!(fs::read_dir(dir.path().join("reserve")).expect("made").count(), FILES as usize);
        // The next life finds it.
        let reserve = Reserve::of(dir.path(), true);
        assert!(reserve.release() && !reserve.release());
        assert!(!dir.path().join("reserve").exists());
        reserve.restore(Some(AMPLE));
        assert!(!dir.path().join("reserve").exists(), "it is owed, and comes before all else");
        // A life that ends then leaves the debt to the next one, and half of a reserve is none.
        fs::create_dir(dir.path().join("reserve")).expect("room");
        let reserve = Reserve::of(dir.path(), true);
        assert!(!reserve.release() && reserve.is_repaid());
        assert!(reserve.release());
    }
}
