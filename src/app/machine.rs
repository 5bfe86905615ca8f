//! What the machine is like: its memory, its cores, the address it is reached at.

use crate::base::Bytes;
use std::fs;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};

/// Memory we may use at all: the cgroup's limit where there is one, else the machine's memory. `None` when neither
/// says.
#[must_use]
pub fn memory() -> Option<Bytes> {
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = cgroup.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    // "No limit" of cgroup v1 is a number beyond every machine.
    limits.chain(total).min().map(Bytes)
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

    #[test]
    fn the_address_is_the_one_of_the_route() {
        assert_eq!(address_towards(Some("http://127.0.0.1:4318/otlp")).as_deref(), Some("127.0.0.1"));
        assert_eq!(address_towards(Some("127.0.0.1")).as_deref(), Some("127.0.0.1"));
    }
}
