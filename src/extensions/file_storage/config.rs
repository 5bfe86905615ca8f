//! `extensions.file_storage`: where batches wait while the far end is away (reference §2.14, architecture §5).

use crate::base::Bytes;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStorageConfig {
    /// `directory` of the segments, created when absent.
    pub directory: PathBuf,
    /// `directory_permissions` of a directory we create, 0700 (0750 in the original: queues hold customers' data).
    pub directory_permissions: u32,
    /// `timeout`, 1 s: how long to wait for another process to let go of the directory.
    pub timeout: Duration,
    /// `compaction`.
    pub compaction: CompactionConfig,
    /// `max_size_mib`, ours: most the spool may occupy on disk, MiB of allocated blocks. None (0 in the file):
    /// 10 GiB or half the filesystem, whichever is less.
    pub max_size: Option<Bytes>,
    /// `min_free_mib`, ours, 64: free space left to the rest of the machine, whatever `max_size_mib` says. Enough
    /// for a journal and a package manager to go on.
    pub min_free: Bytes,
    /// `when_full`, ours: who gives way when the size is reached.
    pub when_full: WhenFull,
    /// `commit_interval`, ours, 0: the least time between two syncs. Zero: the next sync starts when the last one
    /// ends. Flash that must live long wants seconds, and clients wait as long.
    pub commit_interval: Duration,
}

/// Smallest `max_size_mib`: three segments of the smallest size, 2 MiB (architecture §5).
pub const SIZE_MIN: Bytes = Bytes::mib(6);

impl Default for FileStorageConfig {
    fn default() -> FileStorageConfig {
        FileStorageConfig {
            directory: PathBuf::from("/var/lib/otelcol/file_storage"),
            directory_permissions: 0o700,
            timeout: Duration::from_secs(1),
            compaction: CompactionConfig::default(),
            max_size: None,
            min_free: Bytes::mib(64),
            when_full: WhenFull::EvictOldest,
            commit_interval: Duration::ZERO,
        }
    }
}

/// `when_full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// `evict_oldest`: the oldest data is removed, counted as lost{evicted}.
    EvictOldest,
    /// `refuse`: clients are told to come back, as otelcol does.
    Refuse,
}

/// `compaction`: when live blocks of mostly consumed segments are copied together, so that the disk gets space back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionConfig {
    /// `on_start`, false.
    pub on_start: bool,
    /// `on_rebound`, false: when the two thresholds say so.
    pub on_rebound: bool,
    /// `rebound_needed_threshold_mib`, 100: only while more than this is allocated.
    pub rebound_needed_threshold: Bytes,
    /// `rebound_trigger_threshold_mib`, 10: only while live data is below this.
    pub rebound_trigger_threshold: Bytes,
    /// `max_transaction_size`, 65,536: the most blocks copied in one commit. None (0): no limit.
    pub max_transaction_size: Option<u32>,
    /// `check_interval`, 5 s: how often the thresholds are looked at.
    pub check_interval: Duration,
}

impl Default for CompactionConfig {
    fn default() -> CompactionConfig {
        CompactionConfig {
            on_start: false,
            on_rebound: false,
            rebound_needed_threshold: Bytes::mib(100),
            rebound_trigger_threshold: Bytes::mib(10),
            max_transaction_size: Some(65_536),
            check_interval: Duration::from_secs(5),
        }
    }
}
