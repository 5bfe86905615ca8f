//! Segments that were set aside stay for a person, but not for ever: at most so many, and so many bytes. What they held was
//! counted as lost when somebody came to the hole, so nothing is counted when they go.

use super::{Disk, allocated};
use crate::base::Bytes;
use crate::spool::phase::{Phase, during};
use crate::spool::shelf::ShelfError;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// Most segments in `quarantine/`: enough to see what happened, few enough to look into each.
const ASIDE_MAX: usize = 16;

impl Disk {
    /// Removes the oldest segment that was set aside, if they are too many or too large. `true`: there may be more.
    pub(super) fn trim_aside(&self, most: Bytes) -> Result<bool, ShelfError> {
        if !self.aside.swap(false, Relaxed) {
            return Ok(false);
        }
        let removed = self.remove_oldest_aside(most);
        // Looked at again when that failed, or when there may be more.
        self.aside.store(!matches!(removed, Ok(false)), Relaxed);
        removed.map_err(|error| ShelfError::Unavailable(format!("quarantine not trimmed: {error}")))
    }

    fn remove_oldest_aside(&self, most: Bytes) -> io::Result<bool> {
        let dir = self.settings.directory.join("quarantine");
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            entries => entries?,
        };
        let mut found = Vec::<(OsString, u64)>::new();
        for entry in entries {
            let name = entry?.file_name();
            if name.to_string_lossy().starts_with("seg-") {
                let bytes = allocated(&dir.join(&name));
                found.push((name, bytes));
            }
        }
        let sum: u64 = found.iter().map(|(_, bytes)| bytes).sum();
        let too_much = found.len() > ASIDE_MAX || sum > most.0;
        // Segments are numbered upwards.
        let Some((name, bytes)) = found.into_iter().min().filter(|_| too_much) else { return Ok(false) };
        let _phase = during(Phase::Delete);
        fs::remove_dir_all(dir.join(&name))?;
        tracing::warn!(segment = %name.to_string_lossy(), bytes = %Bytes(bytes), "a segment that was set aside is removed: there are too many; its items were counted as lost when they were missed");
        Ok(true)
    }
}
