//! What does a damaged directory cost? Every file of it flipped, cut, zeroed, removed, replaced, at random: the spool starts
//! at once and takes new data, delivers every block that is still proved, invents nothing, and counts what is missing.
//!
//! ```text
//! base directories ──copy──▶ strike one or two files ──▶ open ─▶ commit ─▶ drain ─▶ open again
//!   (made once)                  │                         └──────── judged against the base ───────┘
//!                                └ replayed by TFO_CORRUPT_SEED and TFO_CORRUPT_CASE
//! ```
//!
//! | file | what |
//! |---|---|
//! | `main.rs` | thousands of cases at the library, with an allocator that is watched |
//! | `world.rs` | directories with something of everything, and how they are drained |
//! | `strike.rs` | what happens to files |
//! | `judge.rs` | what must be true afterwards |
//! | `processes.rs` | the real binary on such directories |
//!
//! `TFO_CORRUPT_CASES=5000 cargo test --test corruption -- --nocapture` is the long form.

#![allow(clippy::print_stdout)] // a red run is replayed from what it printed
#![allow(unsafe_code)] // a global allocator is an unsafe trait

mod judge;
mod processes;
mod strike;
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tfo_otel_agent::base::Dice;

/// The system's malloc with the highest mark of what was held.
struct Watched;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOC: Watched = Watched;

/// What the one holds is not counted against the other.
pub(crate) static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Most that a case may hold at a time, beyond what was held before: the directories have less than a megabyte.
const HELD_MAX: usize = 64 << 20;
/// Longest a start may take: a second is promised, and debug builds on a busy machine are slow.
const START_MAX: Duration = Duration::from_secs(5);

pub(crate) fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// Goal: as the module says.
/// Method: cases from one seed; those that fail are told with their number, and the run goes on to the others.
#[test]
fn a_damaged_directory_costs_what_is_damaged_and_no_more() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cases = env("TFO_CORRUPT_CASES").unwrap_or(400);
    let seed = env("TFO_CORRUPT_SEED").unwrap_or_else(|| Dice::shaken().seed() >> 16);
    let only = env("TFO_CORRUPT_CASE");
    println!("seed {seed} (TFO_CORRUPT_SEED), {cases} cases (TFO_CORRUPT_CASES)");
    let bases: Vec<world::Base> = (0..4).map(|n| world::Base::made(seed.wrapping_add(n))).collect();
    let mut failed = Vec::new();
    let mut sums = BTreeMap::<&'static str, judge::Cost>::new();
    let mut slowest = Duration::ZERO;
    let mut most = 0;
    for case in only.map_or(0..cases, |case| case..case + 1) {
        let mut dice = Dice::seeded(seed ^ case.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let base = &bases[usize::try_from(case % 4).expect("small")];
        let copy = base.copy();
        let hits = strike::strike(copy.path(), &mut dice);
        if only.is_some() {
            let kept = base.copy().keep();
            strike::strike(&kept, &mut Dice::seeded(seed ^ case.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            println!("{hits:?}, kept in {}", kept.display());
        }
        let held = LIVE.load(Relaxed);
        PEAK.store(held, Relaxed);
        let judged = catch_unwind(AssertUnwindSafe(|| judge::case(base, copy.path(), &hits)));
        let peak = PEAK.load(Relaxed).saturating_sub(held);
        most = most.max(peak);
        let verdict = match judged {
            Ok(Ok(_)) if peak > HELD_MAX => Err(format!("{peak} bytes were held at a time")),
            Ok(Ok(cost)) if cost.start > START_MAX => Err(format!("the start took {:?}", cost.start)),
            Ok(verdict) => verdict,
            Err(_) => Err("it panicked, see above".to_owned()),
        };
        match verdict {
            Ok(cost) => {
                slowest = slowest.max(cost.start);
                for hit in &hits {
                    *sums.entry(hit.how.name()).or_default() += cost;
                }
            }
            Err(why) => {
                println!("case {case} FAILED: {hits:?}: {why}");
                failed.push(case);
            }
        }
    }
    println!("{:10} {:>6} {:>8} {:>8} {:>9} {:>7}", "damage", "files", "open", "lost", "delivered", "again");
    for (how, cost) in &sums {
        println!("{how:10} {:6} {:8} {:8} {:9} {:7}", cost.cases, cost.open, cost.lost, cost.delivered, cost.again);
    }
    println!("slowest start {slowest:?}, most held at a time {} KiB", most >> 10);
    assert!(failed.is_empty(), "seed {seed}: {} of {cases} cases failed: {failed:?}", failed.len());
    assert!(only.is_some() || cases < 100 || sums.values().any(|cost| cost.lost > 0), "something was hit");
}
