//! The directory itself: whether it still is the one that was taken over, and what is done when somebody removed it, moved it
//! away, or put another one in its place while we were at work.
//!
//! What is not reachable by its name any more is gone for the next life, whatever the open files say; so nothing is
//! acknowledged there ([`Segment::append`](crate::spool::segment::Segment::append)), and the spool goes on in a directory of
//! that name: an empty one, or its own that is back. What is gone is counted where its readers miss it.

use super::start::{StartError, list, take_lock};
use super::{Active, Disk, No, State, name};
use crate::spool::segment;
use crate::spool::shelf::{Bookkeeper, ShelfError, lock, try_lock};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

/// Makes the directory and those that lead to it, on stable storage.
///
/// # Errors
/// The disk's.
pub(super) fn make_directory(dir: &Path) -> io::Result<()> {
    let first_new = dir.ancestors().take_while(|d| !d.exists()).last().map(Path::to_owned);
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if let Some(first_new) = first_new {
        // The entries that lead here must survive a power cut too.
        let made = dir.ancestors().take_while(|d| d.starts_with(&first_new)).filter_map(Path::parent);
        made.for_each(|parent| drop(segment::sync_dir(parent))); // some filesystems refuse; nothing more can be done
    }
    Ok(())
}

/// Nobody's spool is in it, and it is ours: then it is nobody else's to read either. While somebody removes the directory fjall makes it
/// again on the way to what it makes in it, as open as the process makes any.
fn close_to_others(dir: &Path) -> io::Result<()> {
    let there = fs::metadata(dir)?;
    if there.uid() == rustix::process::geteuid().as_raw() && there.mode() & 0o077 != 0 && !dir.join("lock").exists() {
        fs::set_permissions(dir, Permissions::from_mode(there.mode() & 0o700))?;
    }
    Ok(())
}

/// Whether what stands at `path` is this file. When the disk does not say, it is.
pub(crate) fn is_still(path: &Path, (device, number): (u64, u64)) -> bool {
    match fs::metadata(path) {
        Ok(there) => (there.dev(), there.ino()) == (device, number),
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// A file, whatever its name is by now.
pub(crate) fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|m| (m.dev(), m.ino()))
}

impl Disk {
    /// Whether the directory is the one we hold: the lock lies in it.
    pub(super) fn is_home(&self) -> bool {
        identity(&lock(&self.lock)).is_ok_and(|ours| is_still(&self.settings.directory.join("lock"), ours))
    }

    /// Housekeeping's look at it, so that a directory is missed before the next client comes.
    pub(super) fn keep_home(&self, books: &dyn Bookkeeper) -> Result<bool, ShelfError> {
        if self.is_home() {
            return Ok(false);
        }
        lock(&self.active).full_at = 0; // the next append turns to the next segment: this one is it
        use super::Shelf as _;
        self.append(Vec::new(), books, true)?;
        Ok(true)
    }

    /// Before a segment is made: a directory that is not ours any more is taken anew, and the row is what lies in it and
    /// what can still be read of the former one. Nothing is done when it is ours.
    ///
    /// # Errors
    /// When it cannot be made or taken, or when it is another spool's.
    pub(super) fn come_home(&self, active: &mut Active, books: &dyn Bookkeeper) -> Result<(), ShelfError> {
        if self.is_home() {
            return Ok(());
        }
        let dir = &self.settings.directory;
        if let Some((no, _)) = active.open.take()
            && let Some(entry) = lock(&self.row).get_mut(&no)
        {
            entry.state = State::Broken;
        }
        let bad =
            |error: io::Error| ShelfError::Unavailable(format!("{} cannot be taken anew: {error}", dir.display()));
        make_directory(dir).and_then(|()| close_to_others(dir)).map_err(bad)?;
        let held = take_lock(dir).map_err(|error| match error {
            StartError::Directory { source, .. } => bad(source),
            other @ (StartError::InUse { .. } | StartError::Newer { .. }) => ShelfError::Unavailable(other.to_string()),
        })?;
        let found = list(dir, usize::MAX).map_err(bad)?;
        let strange = found.keys().any(|no| !lock(&self.row).contains_key(no));
        books.moved(strange).map_err(bad)?;
        let gone = self.forget_gone();
        let mut row = lock(&self.row);
        let back = found.into_iter().filter(|(no, _)| !row.contains_key(no)).collect::<Vec<_>>();
        tracing::error!(directory = %dir.display(), gone, back = back.len(), "the spool's directory was removed or replaced; the spool goes on in a new one");
        row.extend(back);
        drop(row);
        *lock(&self.lock) = held;
        self.look_at_reserve();
        self.binned.store(true, Relaxed);
        Ok(())
    }

    /// Takes out of the row what is not there any more; what is open can still be read and stays. How many went.
    fn forget_gone(&self) -> usize {
        let mut row = lock(&self.row);
        let is_there = |no: No| self.settings.directory.join(name(no)).exists();
        let before = row.len();
        row.retain(|no, entry| {
            if is_there(*no) {
                return true;
            }
            // A door that is held: somebody is making or sealing it, and will see for himself.
            let open = try_lock(&entry.door).is_none_or(|door| door.is_some());
            if entry.is_to_be() {
                return try_lock(&entry.door).is_none();
            }
            entry.state = State::Broken;
            open
        });
        before - row.len()
    }
}
