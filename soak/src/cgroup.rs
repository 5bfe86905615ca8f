//! A cgroup of our own for the agent: so much memory and so much of a core, and what the kernel counted there. Version 2 where its
//! controllers can be had, else version 1.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One period of the CPU's quota, µs.
const PERIOD_US: u64 = 100_000;

/// A place in one hierarchy, or in two of version 1. Removed when it goes; by then nobody may live in it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    memory: PathBuf,
    cpu: PathBuf,
    is_v2: bool,
}

/// What the kernel counted since the cgroup was made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(crate) oom_kills: u64,
    /// Most bytes at once, the page cache of its files included; NaN: this kernel does not say.
    pub(crate) peak_mib: f64,
    /// Times that the limit was met and something had to be given back first.
    pub(crate) reclaims: u64,
    pub(crate) periods: u64,
    /// Of these, in which the quota was used up.
    pub(crate) throttled: u64,
    pub(crate) throttled_s: f64,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) struct NoCgroup(String);

impl fmt::Display for NoCgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no cgroup with limits of memory and CPU can be made here: {}", self.0)
    }
}

impl Cgroup {
    /// A child of the cgroup we live in.
    pub(crate) fn make(memory: u64, cores: f64) -> Result<Cgroup, NoCgroup> {
        let no = |what: &str, error: &io::Error| NoCgroup(format!("{what}: {error}"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| no("/proc/self/mountinfo", &e))?;
        let ours = fs::read_to_string("/proc/self/cgroup").map_err(|e| no("/proc/self/cgroup", &e))?;
        let here = |kind: &str, controller: &str| place(&mounts, &ours, kind, controller);
        let name = format!("tfo-soak-{}", std::process::id());
        let of_two = here("cgroup2", "").filter(|parent| has_both(&parent.join("cgroup.controllers")));
        let made = match of_two {
            Some(parent) => {
                let group = parent.join(&name);
                // Refused where processes live beside; then the group below has no limits to set, which is told.
                let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory +cpu");
                Cgroup { memory: group.clone(), cpu: group, is_v2: true }
            }
            None => match (here("cgroup", "memory"), here("cgroup", "cpu")) {
                (Some(memory), Some(cpu)) => Cgroup { memory: memory.join(&name), cpu: cpu.join(&name), is_v2: false },
                _ => return Err(NoCgroup("neither version has both controllers".to_owned())),
            },
        };
        for group in made.groups() {
            fs::create_dir(group).map_err(|e| no(&group.display().to_string(), &e))?;
        }
        made.limit(memory, cores).map_err(|e| no(&made.memory.display().to_string(), &e))?;
        Ok(made)
    }

    /// Its folders: one, or one of each hierarchy.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Path> {
        [&self.memory, &self.cpu].into_iter().take(if self.is_v2 { 1 } else { 2 }).map(PathBuf::as_path)
    }

    fn limit(&self, memory: u64, cores: f64) -> io::Result<()> {
        let quota = (cores * PERIOD_US as f64) as u64;
        if self.is_v2 {
            fs::write(self.memory.join("memory.max"), memory.to_string())?;
            // Not there where the kernel has no swap.
            let _ = fs::write(self.memory.join("memory.swap.max"), "0");
            return fs::write(self.cpu.join("cpu.max"), format!("{quota} {PERIOD_US}"));
        }
        fs::write(self.memory.join("memory.limit_in_bytes"), memory.to_string())?;
        let _ = fs::write(self.memory.join("memory.memsw.limit_in_bytes"), memory.to_string());
        fs::write(self.cpu.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
        fs::write(self.cpu.join("cpu.cfs_quota_us"), quota.to_string())
    }

    pub(crate) fn counted(&self) -> io::Result<Counted> {
        let read = |group: &Path, file: &str| fs::read_to_string(group.join(file));
        let stat = read(&self.cpu, "cpu.stat")?;
        let (throttled_s, kills, peak, reclaims);
        if self.is_v2 {
            let events = read(&self.memory, "memory.events")?;
            throttled_s = word(&stat, "throttled_usec") as f64 / 1e6;
            (kills, reclaims) = (word(&events, "oom_kill"), word(&events, "max"));
            peak = read(&self.memory, "memory.peak").ok();
        } else {
            throttled_s = word(&stat, "throttled_time") as f64 / 1e9;
            kills = word(&read(&self.memory, "memory.oom_control")?, "oom_kill");
            reclaims = read(&self.memory, "memory.failcnt")?.trim().parse().unwrap_or(0);
            peak = read(&self.memory, "memory.max_usage_in_bytes").ok();
        }
        let peak_mib = peak.and_then(|text| text.trim().parse::<f64>().ok()).map_or(f64::NAN, |b| b / 1_048_576.0);
        let (periods, throttled) = (word(&stat, "nr_periods"), word(&stat, "nr_throttled"));
        Ok(Counted { oom_kills: kills, peak_mib, reclaims, periods, throttled, throttled_s })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Where somebody still lives in it, it stays: an empty folder's worth of kernel memory.
        let _ = self.groups().map(fs::remove_dir).filter(Result::is_err).count();
    }
}

/// The cgroup we live in, of a hierarchy with this controller, as this mount namespace shows it.
fn place(mounts: &str, ours: &str, kind: &str, controller: &str) -> Option<PathBuf> {
    let at = mounts.lines().find_map(|line| {
        // 36 35 98:0 /root /mount options… - type source super-options
        let (left, right) = line.split_once(" - ")?;
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (root, at) = (left.next()?, left.next()?);
        let is_it =
            right.next()? == kind && (controller.is_empty() || right.nth(1)?.split(',').any(|o| o == controller));
        is_it.then(|| (root, PathBuf::from(at)))
    });
    let (root, at) = at?;
    let own = ours.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        controllers.split(',').any(|c| c == controller).then_some(path)
    })?;
    let below = own.strip_prefix(root.trim_end_matches('/')).unwrap_or(own).trim_start_matches('/');
    let whole = at.join(below);
    Some(if whole.is_dir() { whole } else { at })
}

fn has_both(controllers: &Path) -> bool {
    let there = fs::read_to_string(controllers).unwrap_or_default();
    ["memory", "cpu"].iter().all(|c| there.split_whitespace().any(|t| t == *c))
}

/// The number behind a word at the beginning of a line.
fn word(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn the_place_is_that_of_this_namespace() {
        let ours = "9:memory:/box/of/ours\n8:cpu,cpuacct:/\n0::/";
        for (kind, controller, expected) in [
            ("cgroup", "memory", Some("/sys/fs/cgroup/memory")), // of/ours is not there on this machine
            ("cgroup", "cpu", Some("/sys/fs/cgroup/cpu,cpuacct")),
            ("cgroup", "blkio", None),
        ] {
            let found = place(MOUNTS, ours, kind, controller);
            let expected = expected.map(PathBuf::from);
            assert!(
                found == expected || found.as_ref().is_some_and(|f| f.ends_with("of/ours")),
                "{controller}: {found:?}"
            );
        }
        assert!(place(MOUNTS, ours, "cgroup2", "").is_some());
    }

    #[test]
    fn a_number_stands_behind_its_whole_word() {
        let events = "low 0\nmax 17\noom 2\noom_kill 1\n";
        assert_eq!(["max", "oom", "oom_kill", "high"].map(|name| word(events, name)), [17, 2, 1, 0]);
    }
}
