//! What supervision costs when nothing happens.

use crate::toys::MAIN;
use actix::prelude::*;
use std::time::Duration;
use tfo_otel_agent::supervise::{Crew, OnHang, Policy, Post, Roster, Settings, Supervisor};
use tfo_otel_agent::supervised;

static IDLERS: [Post; 2] = [
    Post { name: "idle-main", policy: Policy { on_hang: OnHang::ExitProcess, ..Policy::STANDARD }, ..MAIN },
    Post { name: "idle-own", crew: Crew::Own, policy: Policy::STANDARD, ..MAIN },
];

/// Goal: idling, ten posts (four with threads of their own) and the watchdog cost less than 0.02 % of a core.
/// Method: user and system time of this process over 20 s. Alone: `cargo test --release --test supervision --
/// --ignored ten_idle`.
#[test]
#[ignore = "takes 20 s and wants the process for itself"]
fn ten_idle_posts_cost_next_to_nothing() {
    struct Idler;
    supervised!(Idler);
    impl Actor for Idler {
        type Context = Context<Idler>;
    }

    let spent = || {
        let usage = |who| std::fs::read_to_string(who).expect("proc is mounted");
        // utime and stime are fields 14 and 15, in ticks; too coarse, so the exact sum of all threads' sched stats.
        let mut ns = 0_u64;
        for task in std::fs::read_dir("/proc/self/task").expect("proc is mounted").flatten() {
            let stat = usage(task.path().join("schedstat"));
            ns += stat.split(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number");
        }
        Duration::from_nanos(ns)
    };
    System::new().block_on(async {
        let supervisor = Supervisor::start(Roster(&IDLERS), Settings::default()).expect("a watchdog");
        for n in 0..10 {
            let row = &IDLERS[usize::from(n >= 6)];
            drop(supervisor.post(row, &n.to_string(), || Idler));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = spent();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let cost = spent() - before;
        println!("ten idle posts: {cost:?} of CPU in 20 s, {:.4} % of a core", cost.as_secs_f64() / 20.0 * 100.0);
        assert!(supervisor.watch().seats.iter().all(|seat| seat.falls == 0), "{}", supervisor.watch());
        assert!(cost < Duration::from_millis(4), "{cost:?}");
    });
}
