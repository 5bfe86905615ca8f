//! The counting allocator as `main.rs` declares it. A file of its own: every test in a process counts.

use std::hint::black_box;
use tfo_otel_agent::telemetry::alloc::{Counting, calm_glibc, give_back, live_bytes, total_bytes};

#[global_allocator]
static ALLOC: Counting = Counting::new();

const MIB: usize = 1 << 20;

/// Goal: memory_limiter sees what we hold, to the byte, whoever allocates and however it is allocated.
/// Method: the numbers of the allocator against those of the layouts; one test, because the counts are the process's.
#[test]
fn live_and_total_bytes_are_those_of_the_blocks_in_use() {
    calm_glibc();
    // Threads, thread-locals and the harness's own strings come and go: warm them up, then allow them 64 KiB.
    std::thread::spawn(|| black_box(vec![1_u8; MIB])).join().expect("it only allocates");
    let slack = 64 * 1_024;
    let close = |a: usize, b: usize| a.abs_diff(b) < slack;
    let (live, total) = (live_bytes(), total_bytes());
    assert!(live > 0, "the harness itself holds something");

    // alloc, alloc_zeroed, realloc up and down.
    let written = black_box(vec![1_u8; 10 * MIB]);
    let mut zeroed = black_box(vec![0_u8; 20 * MIB]);
    assert!(close(live_bytes() - live, 30 * MIB), "{}", live_bytes() - live);
    zeroed.reserve_exact(20 * MIB);
    assert!(close(live_bytes() - live, 50 * MIB), "{}", live_bytes() - live);
    zeroed.truncate(5 * MIB);
    zeroed.shrink_to_fit();
    assert!(close(live_bytes() - live, 15 * MIB), "{}", live_bytes() - live);
    assert!(close(usize::try_from(total_bytes() - total).expect("50 MiB"), 50 * MIB), "growth counts once");

    // Freed elsewhere than allocated.
    std::thread::spawn(move || drop((written, zeroed))).join().expect("it only frees");
    assert!(close(live_bytes(), live), "{} and {live}", live_bytes());

    // 4 threads, 250 requests of 1 MB each, eight alive at a time; what stays behind is nothing.
    let before = total_bytes();
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let mut held = std::collections::VecDeque::new();
                for _ in 0..250 {
                    held.push_back(black_box(vec![0_u8; MIB]));
                    if held.len() > 8 {
                        held.pop_front();
                    }
                }
            });
        }
    });
    assert!(close(live_bytes(), live), "{} and {live}", live_bytes());
    let burst = usize::try_from(total_bytes() - before).expect("1,000 MiB");
    assert!(close(burst, 1_000 * MIB), "{burst}");

    // A request decoded into many small objects leaves pages behind that only `give_back` fetches.
    let small: Vec<Box<[u8; 64]>> = (0..500_000).map(|_| Box::new([1; 64])).collect();
    let last: Vec<_> = small.into_iter().enumerate().filter_map(|(i, b)| (i % 1_000 == 0).then_some(b)).collect();
    let kept = resident_bytes();
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        assert!(give_back(), "free pages lay between the blocks that stayed");
        let saved = kept.saturating_sub(resident_bytes());
        assert!(saved > 20 * MIB, "{saved} of {kept}: 40 MiB of small blocks were freed");
    }
    drop(last);
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("statm's second field")
        * rustix::param::page_size()
}
