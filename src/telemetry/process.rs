//! What the process costs: the `otelcol_process_…` families, read when somebody scrapes.
//!
//! Names and texts are 0.88's, though the texts speak of Go: they are compared. What the numbers mean here:
//!
//! | family | source |
//! |---|---|
//! | `uptime` | the clock that does not jump, since [`register`] |
//! | `cpu_seconds` | `CLOCK_PROCESS_CPUTIME_ID`: one call, nanoseconds; `/proc/self/stat` counts hundredths |
//! | `memory_rss` | `/proc/self/statm`, resident pages |
//! | `runtime_heap_alloc_bytes` | [`alloc::live_bytes`] |
//! | `runtime_total_alloc_bytes` | [`alloc::total_bytes`] |
//! | `runtime_total_sys_memory_bytes` | `/proc/self/statm`, data and stack pages: asked of the system, touched or not |

use super::alloc;
use super::metrics::{Metrics, Pulled};
use crate::base::{Clock, Stamp};
use std::time::Duration;

/// Hangs the process's families into `metrics`; uptime counts from `started`.
pub fn register(metrics: &Metrics, clock: Clock, started: Stamp) {
    let number = |kind, name, help, read: fn() -> Option<u64>| {
        metrics.pull(kind, name, help, &[], move |samples| {
            if let Some(count) = read() {
                samples.push_count(&[], count);
            }
        });
    };
    let seconds = |name, help, read: Box<dyn Fn() -> Duration + Send>| {
        metrics.pull(Pulled::Counter, name, help, &[], move |samples| samples.push(&[], read().as_secs_f64()));
    };
    seconds("otelcol_process_uptime", "Uptime of the process", Box::new(move || clock.now().since(started)));
    seconds("otelcol_process_cpu_seconds", "Total CPU user and system time in seconds", Box::new(cpu_time));
    number(Pulled::Gauge, "otelcol_process_memory_rss", "Total physical memory (resident set size)", || {
        Some(memory()?.resident_bytes)
    });
    number(
        Pulled::Gauge,
        "otelcol_process_runtime_heap_alloc_bytes",
        "Bytes of allocated heap objects (see 'go doc runtime.MemStats.HeapAlloc')",
        || Some(alloc::live_bytes() as u64),
    );
    number(
        Pulled::Counter,
        "otelcol_process_runtime_total_alloc_bytes",
        "Cumulative bytes allocated for heap objects (see 'go doc runtime.MemStats.TotalAlloc')",
        || Some(alloc::total_bytes()),
    );
    number(
        Pulled::Gauge,
        "otelcol_process_runtime_total_sys_memory_bytes",
        "Total bytes of memory obtained from the OS (see 'go doc runtime.MemStats.Sys')",
        || Some(memory()?.data_bytes),
    );
}

/// What the kernel says of our memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// In RAM now, code and shared pages included.
    pub resident_bytes: u64,
    /// Heap and stacks as mapped, whether touched or not.
    pub data_bytes: u64,
}

/// Our memory; `None` where `/proc` is not mounted. About 5 µs.
#[must_use]
pub fn memory() -> Option<Memory> {
    parse_statm(&std::fs::read_to_string("/proc/self/statm").ok()?, rustix::param::page_size() as u64)
}

/// Time all threads have spent on processors, in user and kernel mode.
#[must_use]
pub fn cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    // The kernel's answer is never negative and its nanoseconds are below 10^9.
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// proc(5): `size resident shared text lib data dt`, in pages.
fn parse_statm(statm: &str, page_bytes: u64) -> Option<Memory> {
    let pages = |nth| Some(statm.split_ascii_whitespace().nth(nth)?.parse::<u64>().ok()?.saturating_mul(page_bytes));
    Some(Memory { resident_bytes: pages(1)?, data_bytes: pages(5)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn statm_is_read_by_its_columns() {
        for (text, expected) in [
            ("5123 2345 1200 310 0 987 0\n", Some((2_345 * 4_096, 987 * 4_096))),
            ("5123 2345 1200",               None),
            ("",                             None),
            ("a b c d e f g",                None),
        ] {
            let read = parse_statm(text, 4_096).map(|m| (m.resident_bytes, m.data_bytes));
            assert_eq!(read, expected, "{text:?}");
        }
    }

    /// Method: occupy 64 MiB and 50 ms of a processor, and see the numbers follow.
    #[test]
    fn the_numbers_follow_what_the_process_does() {
        let (memory_before, cpu_before) = (memory().expect("/proc is mounted"), cpu_time());
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let grown = memory().expect("/proc is mounted");
        // Other tests run beside this one and free what they hold: half is enough.
        assert!(grown.resident_bytes > memory_before.resident_bytes + (32 << 20), "{memory_before:?} {grown:?}");
        assert!(grown.data_bytes > memory_before.data_bytes + (32 << 20), "{memory_before:?} {grown:?}");
        drop(block);
        while cpu_time() < cpu_before + Duration::from_millis(50) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn uptime_is_that_of_the_clock_that_does_not_jump() {
        let clock = Clock::by_hand(Stamp { wall_ns: 1, mono_ms: 5_000 });
        let metrics = Metrics::detached();
        register(&metrics, clock.clone(), clock.now());
        clock.advance(Duration::from_millis(37_347));
        clock.set_wall_ns(0);
        let text = metrics.text();
        let line = text.lines().find(|l| l.starts_with("otelcol_process_uptime{")).expect("it is registered");
        assert!(line.ends_with("} 37.347"), "{line}");
    }
}
