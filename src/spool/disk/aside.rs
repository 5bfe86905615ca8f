//! Segments that were set aside stay for a person, but not for ever: at most so many, and so many bytes. What they held was
//! counted as lost when somebody came to the hole, so nothing is counted when they go.

use super::upkeep::remove;
use super::{Disk, No, QUARANTINE, allocated, name, set_aside};
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
        let found = self.list_aside()?;
        let sum: u64 = found.iter().map(|(_, bytes)| bytes).sum();
        let too_much = found.len() > ASIDE_MAX || sum > most.0;
        // Segments are numbered upwards.
        let Some((name, bytes)) = found.into_iter().min().filter(|_| too_much) else { return Ok(false) };
        self.remove_aside(&name, bytes)?;
        tracing::warn!(segment = %name.to_string_lossy(), bytes = %Bytes(bytes), "a segment that was set aside is removed: there are too many; its items were counted as lost when they were missed");
        Ok(true)
    }

    /// The oldest of them goes because there is no space for what is sent. `false`: there is none, or it stays.
    pub(super) fn yield_aside(&self) -> bool {
        let Some((name, bytes)) = self.list_aside().unwrap_or_default().into_iter().min() else { return false };
        let removed = self.remove_aside(&name, bytes);
        tracing::warn!(segment = %name.to_string_lossy(), bytes = %Bytes(bytes), ?removed, "a segment that was set aside is removed for its space");
        removed.is_ok()
    }

    /// Moves a segment out of the row, to be kept for whoever wants to know what happened to it. `false`: it stays where it is.
    pub(super) fn keep_aside(&self, no: No) -> bool {
        self.aside.store(true, Relaxed);
        match set_aside(&self.settings.directory, &name(no)) {
            Ok(kept) => {
                let bytes = allocated(&kept);
                self.aside_bytes.fetch_add(bytes, Relaxed);
                self.used.fetch_add(bytes, Relaxed);
                true
            }
            Err(error) => {
                tracing::warn!(segment = %name(no), %error, "spool segment cannot be set aside");
                false
            }
        }
    }

    fn list_aside(&self) -> io::Result<Vec<(OsString, u64)>> {
        let dir = self.settings.directory.join(QUARANTINE);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if name.to_string_lossy().starts_with("seg-") {
                let bytes = allocated(&dir.join(&name));
                found.push((name, bytes));
            }
        }
        Ok(found)
    }

    fn remove_aside(&self, name: &OsString, bytes: u64) -> io::Result<()> {
        let _phase = during(Phase::Delete);
        remove(&self.settings.directory.join(QUARANTINE).join(name))?;
        for sum in [&self.aside_bytes, &self.used] {
            sum.fetch_sub(bytes.min(sum.load(Relaxed)), Relaxed);
        }
        Ok(())
    }
}
