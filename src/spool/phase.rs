//! What the spool is doing at this moment, told to a kill harness: a byte in a file that outlives the process.
//!
//! In a release this is nothing at all. With the feature `testing` and the variable `TFO_TEST_PHASE_FILE` set, every
//! phase writes its number on entry and 0 on exit, so that a harness that sends SIGKILL knows where it fell.

/// The phases a kill can fall into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Blocks on their way into the journal, up to the end of the sync.
    Commit = 1,
    /// Flushing a closed segment to its table and truncating its journal.
    Seal = 2,
    /// Making a segment, or writing the first commit of one.
    Roll = 3,
    /// Removing a segment.
    Delete = 4,
    /// Copying live blocks forward.
    Compaction = 5,
    /// Writing cursors without blocks.
    Cursor = 6,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 6] =
        [Phase::Commit, Phase::Seal, Phase::Roll, Phase::Delete, Phase::Compaction, Phase::Cursor];
}

/// Lasts as long as the phase. Phases of different threads overlap; each has a byte of its own.
#[derive(Debug)]
pub(crate) struct During(#[cfg_attr(not(feature = "testing"), allow(dead_code))] Phase);

#[cfg(not(feature = "testing"))]
pub(crate) fn during(phase: Phase) -> During {
    During(phase)
}

#[cfg(feature = "testing")]
pub(crate) use real::during;

#[cfg(feature = "testing")]
mod real {
    use super::{During, Phase};
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::OnceLock;

    fn file() -> Option<&'static File> {
        static FILE: OnceLock<Option<File>> = OnceLock::new();
        let open = || File::options().write(true).open(std::env::var_os("TFO_TEST_PHASE_FILE")?).ok();
        FILE.get_or_init(open).as_ref()
    }

    fn put(phase: Phase, byte: u8) {
        if let Some(file) = file() {
            // A harness that cannot be told sees a phase too few, and fails by its own count.
            let _ = file.write_all_at(&[byte], phase as u64);
        }
    }

    pub(crate) fn during(phase: Phase) -> During {
        put(phase, 1);
        During(phase)
    }

    impl Drop for During {
        fn drop(&mut self) {
            put(self.0, 0);
        }
    }
}
