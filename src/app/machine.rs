//! What the machine is like: its memory, its cores, the address it is reached at.

use crate::base::Bytes;
use std::fs;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;

/// Memory we may use at all: the lowest limit of the cgroup we are in and of those above it (systemd's `MemoryMax`, a container's
/// limit), else the machine's memory. `None` when nothing says.
#[must_use]
pub fn memory() -> Option<Bytes> {
    let ours = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = cgroup_limits(Path::new("/sys/fs/cgroup"), &ours);
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    // "No limit" of cgroup v1 is a number beyond every machine.
    limits.into_iter().chain(total).min().map(Bytes)
}

/// The limits that bind the cgroup `ours` names (`/proc/self/cgroup`), of both versions. In a container the path may be the host's:
/// then what is seen at the root binds.
fn cgroup_limits(root: &Path, ours: &str) -> Vec<u64> {
    let of_line = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (hierarchy, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let above = Path::new(path.trim_start_matches('/')).ancestors().map(move |dir| hierarchy.join(dir).join(file));
        Some(above.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok()).collect::<Vec<u64>>())
    };
    ours.lines().filter_map(of_line).flatten().collect()
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024)
}

/// Cores we may run on, at least 1.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The address packets towards `endpoint` leave from: a route is looked up, nothing is sent. Falls back to the route
/// to a public address when the endpoint's name cannot be resolved (yet): an edge device often starts without DNS.
#[must_use]
pub fn address_towards(endpoint: Option<&str>) -> Option<String> {
    let authority =
        endpoint.map(|e| e.split_once("://").map_or(e, |(_, rest)| rest)).map(|e| e.split('/').next().unwrap_or(e));
    let with_port = |a: &str| {
        if a.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok()) { a.to_owned() } else { format!("{a}:80") }
    };
    let there = authority.map(with_port).and_then(|a| a.to_socket_addrs().ok()?.next());
    // A documentation address (RFC 5737): the default route answers for it, and nobody lives there.
    let anywhere = "192.0.2.1:9".to_socket_addrs().ok()?.next();
    there.into_iter().chain(anywhere).find_map(|to| {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).ok()?;
        socket.connect(to).ok()?;
        let from: IpAddr = socket.local_addr().ok()?.ip();
        (!from.is_unspecified()).then(|| from.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory_and_cores() {
        assert!(memory().expect("Linux says").0 > 16 << 20);
        assert!(cores() >= 1);
        assert_eq!(mem_total("MemFree: 1 kB\nMemTotal:       250000 kB\n"), Some(256_000_000));
        assert_eq!(mem_total("MemTotal: many"), None);
    }

    /// A unit's limit stands at its own cgroup, or at a slice above it, and not at the root.
    #[test]
    #[rustfmt::skip]
    fn the_limit_of_the_own_cgroup_and_of_those_above_binds() {
        let root = tempfile::tempdir().expect("a directory");
        for (file, text) in [
            ("system.slice/memory.max",                      "134217728\n"),
            ("system.slice/agent.service/memory.max",        "100663296\n"),
            ("user.slice/memory.max",                        "max\n"),
            ("memory/memory.limit_in_bytes",                 "9223372036854771712\n"),
            ("memory/docker/0123/memory.limit_in_bytes",     "67108864\n"),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("below the root")).expect("space");
            fs::write(path, text).expect("space");
        }
        for (ours, expected) in [
            ("0::/system.slice/agent.service",               Some(100_663_296)),
            ("0::/system.slice/other.service",               Some(134_217_728)),
            ("0::/user.slice",                               None),
            ("5:cpu,cpuacct:/\n4:memory:/docker/0123\n0::/", Some(67_108_864)),
            ("4:memory:/a/path/of/the/host",                 Some(9_223_372_036_854_771_712)),
            ("nonsense\n\n1:cpu:/",                          None),
        ] {
            assert_eq!(cgroup_limits(root.path(), ours).into_iter().min(), expected, "{ours}");
        }
    }

    #[test]
    fn the_address_is_the_one_of_the_route() {
        assert_eq!(address_towards(Some("http://127.0.0.1:4318/otlp")).as_deref(), Some("127.0.0.1"));
        assert_eq!(address_towards(Some("127.0.0.1")).as_deref(), Some("127.0.0.1"));
    }
}
