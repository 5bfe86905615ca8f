//! What the process says of itself. A file of its own: other tests would move the numbers.

use std::time::Duration;
use tfo_otel_agent::telemetry::process::{cpu_time, memory};

/// Method: occupy 64 MiB and 50 ms of a processor, and see the numbers follow.
#[test]
fn the_numbers_follow_what_the_process_does() {
    const MIB: u64 = 1 << 20;
    let (before, cpu_before) = (memory().expect("/proc is mounted"), cpu_time());
    // Asked for, not touched: data of ours, but in nobody's RAM.
    let reserved = std::hint::black_box(Vec::<u8>::with_capacity(64 << 20));
    let with = memory().expect("/proc is mounted");
    assert!(with.data_bytes - before.data_bytes > 60 * MIB, "{before:?} {with:?}");
    assert!(with.resident_bytes - before.resident_bytes < 8 * MIB, "{before:?} {with:?}");
    drop(reserved);

    let block = std::hint::black_box(vec![1_u8; 64 << 20]);
    let with = memory().expect("/proc is mounted");
    for (name, grown) in
        [("resident", with.resident_bytes - before.resident_bytes), ("data", with.data_bytes - before.data_bytes)]
    {
        assert!((60 * MIB..80 * MIB).contains(&grown), "{name}: {grown} more with 64 MiB in use");
    }
    drop(block);
    let after = memory().expect("/proc is mounted");
    assert!(after.resident_bytes < before.resident_bytes + 8 * MIB, "{before:?} {after:?}");

    let began = std::time::Instant::now();
    while cpu_time() < cpu_before + Duration::from_millis(50) {
        assert!(began.elapsed() < Duration::from_secs(30), "the time of this loop is not counted");
        std::hint::black_box(began.elapsed());
    }
}
