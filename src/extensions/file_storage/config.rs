//! `extensions.file_storage`: where batches wait while the far end is away (reference §2.14, architecture §5).

use crate::base::Bytes;
use crate::base::units::MIB;
use crate::config::Section;
use crate::config::problems::quote;
use crate::otlp::Signal;
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
    /// for a journal and a package manager to go on. For this the spool gives way down to a quarter of its own size and no
    /// further; what it writes then it makes room for itself.
    pub min_free: Bytes,
    /// `when_full`, ours: who gives way when the size is reached.
    pub when_full: WhenFull,
    /// `dead_letter_max_mib`, ours: most MiB of what the far end refused, kept for a person; beyond it the oldest is
    /// lost{rejected}. None (0 in the file): a tenth of the spool's size, at most 64 MiB.
    pub dead_letter_max: Option<Bytes>,
    /// `quarantine_max_mib`, ours: the same for blocks that nobody could handle, lost{corrupt} beyond it; and as much
    /// again, beside `max_size_mib`, for segments that cannot be opened.
    pub quarantine_max: Option<Bytes>,
    /// `shed`, ours, none: signals in the order in which they give way then, before the oldest does whatever it is.
    pub shed: Vec<Signal>,
    /// `max_age`, ours, 0 (None): what has waited longer is removed, counted as lost{expired}. Time during which the machine
    /// was off counts as far as its clock was in step with the world's before and after.
    pub max_age: Option<Duration>,
    /// `commit_interval`, ours, 0: the least time between two syncs. Zero: the next sync starts when the last one
    /// ends. Flash that must live long wants seconds, and clients wait as long.
    pub commit_interval: Duration,
}

/// Smallest `max_size_mib`: three segments of the smallest size, 2 MiB (architecture §5).
pub const SIZE_MIN: Bytes = Bytes::mib(6);

/// Largest size one may write: an exbibyte.
const SIZE_MAX_MIB: u64 = 1 << 40;

impl Default for FileStorageConfig {
    fn default() -> FileStorageConfig {
        FileStorageConfig {
            directory: PathBuf::from("/var/lib/otelcol/file_storage"),
            directory_permissions: 0o700,
            timeout: Duration::from_secs(1),
            compaction: CompactionConfig::default(),
            max_size: None,
            min_free: Bytes::mib(64),
            when_full: WhenFull::DropOldest,
            dead_letter_max: None,
            quarantine_max: None,
            shed: Vec::new(),
            max_age: None,
            commit_interval: Duration::ZERO,
        }
    }
}

/// `when_full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// `drop_oldest`: the oldest data is removed, counted as lost{evicted}.
    DropOldest,
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

/// Longest `commit_interval` without a warning: OTLP clients give up after 10 s by default.
const COMMIT_INTERVAL_LONG: Duration = Duration::from_secs(5);

/// Shortest `max_age` without a warning: links are away for minutes, and that is what a spool is for.
const AGE_SHORT: Duration = Duration::from_secs(300);

impl FileStorageConfig {
    /// Reads `extensions.file_storage`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> FileStorageConfig {
        let default = FileStorageConfig::default();
        let whens = [("drop_oldest", WhenFull::DropOldest), ("refuse", WhenFull::Refuse)];
        let config = FileStorageConfig {
            directory: s.path_if_given("directory").unwrap_or(default.directory),
            directory_permissions: permissions(s).unwrap_or(default.directory_permissions),
            timeout: s.duration("timeout", default.timeout),
            compaction: s.section("compaction", CompactionConfig::read),
            max_size: max_size(s),
            min_free: Bytes::mib(s.number("min_free_mib", default.min_free.0 / MIB, 0..=SIZE_MAX_MIB)),
            when_full: s.choice("when_full", default.when_full, &whens),
            dead_letter_max: held_max(s, "dead_letter_max_mib"),
            quarantine_max: held_max(s, "quarantine_max_mib"),
            shed: s.choices("shed", &Signal::NAMED),
            max_age: Some(s.duration("max_age", Duration::ZERO)).filter(|age| !age.is_zero()),
            commit_interval: s.duration("commit_interval", default.commit_interval),
        };
        let refuses = config.when_full == WhenFull::Refuse;
        s.warn_unless(config.shed.is_empty() || !refuses, "shed", || {
            "has no effect: with `when_full: refuse` nothing gives way".to_owned()
        });
        let short = config.max_age.filter(|age| *age < AGE_SHORT);
        s.warn_unless(short.is_none(), "max_age", || {
            format!("an outage of more than {:?} loses data", short.unwrap_or_default())
        });
        s.unless(config.directory.is_absolute(), "directory", || {
            format!("{} is relative; a service has no place of its own", quote(&config.directory.display().to_string()))
        });
        let interval = config.commit_interval;
        s.warn_unless(interval <= COMMIT_INTERVAL_LONG, "commit_interval", || {
            format!("clients wait {interval:?} for their answer; many give up after 10s and send again")
        });
        s.warn_unless(s.flag("fsync", true), "fsync", || {
            "false has no effect: what is acknowledged here is synced".to_owned()
        });
        s.moot("create_directory", "the directory is created when it is absent");
        s.moot("recreate", "damaged parts are set aside and counted, and the rest goes on");
        config
    }
}

fn held_max(s: &Section<'_>, key: &'static str) -> Option<Bytes> {
    Some(s.number(key, 0, 0..=SIZE_MAX_MIB)).filter(|mib| *mib > 0).map(Bytes::mib)
}

/// Octal, as in `chmod`, with or without quotes.
fn permissions(s: &Section<'_>) -> Option<u32> {
    let text = s.text_if_given("directory_permissions")?;
    let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o777);
    s.unless(mode.is_some(), "directory_permissions", || format!("{} is not from 0000 to 0777 in octal", quote(&text)));
    let usable = mode.is_none_or(|mode| mode & 0o700 == 0o700);
    s.unless(usable, "directory_permissions", || {
        format!("{} keeps the agent itself out; it must begin with 07", quote(&text))
    });
    mode
}

/// `max_size_mib`, or the original's `max_size` in its place.
fn max_size(s: &Section<'_>) -> Option<Bytes> {
    let ours_mib = s.number("max_size_mib", 0, 0..=SIZE_MAX_MIB);
    let theirs = s.number("max_size", 0, 0..=i64::MAX.unsigned_abs());
    let theirs_mib = theirs.div_ceil(MIB);
    if theirs > 0 && ours_mib > 0 {
        s.warn("max_size", "has no effect: max_size_mib goes before it");
    } else if theirs > 0 {
        s.warn(
            "max_size",
            format!("caps one file of otelcol; taken as max_size_mib: {theirs_mib}, which caps the whole directory"),
        );
    }
    let (key, mib) = if ours_mib > 0 { ("max_size_mib", ours_mib) } else { ("max_size", theirs_mib) };
    s.unless(mib == 0 || Bytes::mib(mib) >= SIZE_MIN, key, || {
        format!("{mib} MiB is less than {} MiB, three of the smallest segments", SIZE_MIN.0 / MIB)
    });
    (mib > 0).then_some(Bytes::mib(mib))
}

impl CompactionConfig {
    fn read(s: &Section<'_>) -> CompactionConfig {
        let default = CompactionConfig::default();
        let mib = |key, default: Bytes| Bytes::mib(s.number(key, default.0 / MIB, 0..=SIZE_MAX_MIB));
        let blocks = s.number("max_transaction_size", default.max_transaction_size.unwrap_or(0), 0..=u32::MAX);
        let config = CompactionConfig {
            on_start: s.flag("on_start", default.on_start),
            on_rebound: s.flag("on_rebound", default.on_rebound),
            rebound_needed_threshold: mib("rebound_needed_threshold_mib", default.rebound_needed_threshold),
            rebound_trigger_threshold: mib("rebound_trigger_threshold_mib", default.rebound_trigger_threshold),
            max_transaction_size: (blocks > 0).then_some(blocks),
            check_interval: s.duration_above_zero("check_interval", default.check_interval),
        };
        s.moot(
            "directory",
            "copies are made inside the storage's own directory, so that they need no second filesystem",
        );
        s.moot("cleanup_on_start", "half-made copies are always removed at start");
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    #[test]
    #[rustfmt::skip]
    fn the_cap_is_ours_or_the_originals_rounded_up() {
        let mib = |n| Some(Bytes::mib(n));
        for (yaml, expected, told) in [
            ("{}",                                   None,      ""),
            ("{max_size_mib: 0, max_size: 0}",       None,      ""),
            ("{max_size_mib: 100}",                  mib(100),  ""),
            ("{max_size: 10485761}",                 mib(11),   "warning: caps one file of otelcol; taken as max_size_mib: 11, which caps the whole directory"),
            ("{max_size: 10485760, max_size_mib: 9}", mib(9),   "warning: has no effect: max_size_mib goes before it"),
            ("{max_size_mib: 6}",                    mib(6),    ""),
            ("{max_size_mib: 5}",                    mib(5),    "5 MiB is less than 6 MiB, three of the smallest segments"),
        ] {
            let (config, said) = try_out(yaml, &[], FileStorageConfig::read);
            assert_eq!((config.max_size, said.as_str()), (expected, told), "{yaml}");
        }
    }

    #[test]
    fn what_is_held_has_caps() {
        let (config, told) = try_out("{dead_letter_max_mib: 7, quarantine_max_mib: 3}", &[], FileStorageConfig::read);
        let mib = |n| Some(Bytes::mib(n));
        assert_eq!((config.dead_letter_max, config.quarantine_max, &told[..]), (mib(7), mib(3), ""));
        let (config, told) = try_out("{dead_letter_max_mib: 0}", &[], FileStorageConfig::read);
        assert_eq!((config.dead_letter_max, config.quarantine_max, &told[..]), (None, None, ""));
    }

    #[test]
    #[rustfmt::skip]
    fn what_gives_way_is_read_with_its_reasons() {
        use Signal::{Logs, Metrics, Traces};
        let h = |n: u64| Some(Duration::from_secs(n * 3_600));
        for (yaml, shed, max_age, told) in [
            ("{}",                                     vec![],                      None,   ""),
            ("{max_age: 0s, shed: []}",                vec![],                      None,   ""),
            ("{max_age: 72h}",                         vec![],                      h(72),  ""),
            ("{max_age: 10s}",                         vec![],                      Some(Duration::from_secs(10)), "warning: an outage of more than 10s loses data"),
            ("{shed: [traces, Logs, metrics]}",        vec![Traces, Logs, Metrics], None,   ""),
            ("{shed: traces}",                         vec![Traces],                None,   ""),
            ("{shed: [traces, traces]}",               vec![Traces],                None,   "`traces` stands there twice"),
            ("{shed: [traces, log]}",                  vec![Traces],                None,   "`log` is not one of traces, metrics, logs; did you mean `logs`?"),
            ("{shed: [traces], when_full: refuse}",    vec![Traces],                None,   "warning: has no effect: with `when_full: refuse` nothing gives way"),
        ] {
            let (config, said) = try_out(yaml, &[], FileStorageConfig::read);
            assert_eq!((config.shed, config.max_age, said.as_str()), (shed, max_age, told), "{yaml}");
        }
    }

    #[test]
    fn the_compaction_is_read_with_its_thresholds() {
        let yaml = "compaction: {on_start: true, on_rebound: true, rebound_needed_threshold_mib: 7, \
                    rebound_trigger_threshold_mib: 3, max_transaction_size: 0, check_interval: 9s}";
        let (config, told) = try_out(yaml, &[], FileStorageConfig::read);
        let expected = CompactionConfig {
            on_start: true,
            on_rebound: true,
            rebound_needed_threshold: Bytes::mib(7),
            rebound_trigger_threshold: Bytes::mib(3),
            max_transaction_size: None,
            check_interval: Duration::from_secs(9),
        };
        assert_eq!((config.compaction, told.as_str()), (expected, ""));
    }

    #[test]
    #[rustfmt::skip]
    fn permissions_are_octal_with_or_without_quotes() {
        for (yaml, expected) in [
            ("{directory_permissions: \"0750\"}",  0o750),
            ("{directory_permissions: 0700}",      0o700), // YAML would make a number of it
            ("{directory_permissions: '700'}",     0o700),
            ("{directory_permissions: 0o755}",     0o755),
        ] {
            let (config, told) = try_out(yaml, &[], FileStorageConfig::read);
            assert_eq!((config.directory_permissions, told.as_str()), (expected, ""), "{yaml}");
        }
    }
}
