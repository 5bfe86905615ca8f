//! Counts what is allocated, so that memory_limiter can act on what we hold and not on what the allocator keeps.
//!
//! RSS follows the largest burst of the last hours, because allocators keep pages; the cgroup's number contains the
//! page cache of our own spool. Live bytes are the only measure that falls when we let go (architecture §4, "Memory").
//!
//! ```text
//! alloc(n) ──▶ this thread's slot: allocated += n     live  = Σ allocated − Σ freed     (asked once a second)
//! free(n)  ──▶ this thread's slot: freed     += n     total = Σ allocated
//! ```
//!
//! What always holds:
//! * The first [`SLOTS`] threads have a slot each and add to it by a plain load and store, no locked instruction;
//!   later ones share the last slot and add atomically. So short-lived threads cost a little more, and what they
//!   counted is not lost when they end: a block may be freed by another thread than the one that asked for it.
//!   Measured: malloc and free of 64 to 127 bytes 8.4 ns, counted 9.4 ns, in the shared slot 17 ns (one atomic for
//!   all threads: 16 ns alone, 31 to 140 ns for two threads).
//! * Counts are exact, not sampled: every number of [`Tally`] is right once the threads that move it are quiet.
//! * A word of the machine is enough for a slot: differences survive a wrap, and on 32 bits wraps are counted beside.
//!
//! The base is glibc's malloc, calmed by [`calm_glibc`] and trimmed by [`give_back`], not jemalloc. Measured
//! (x86_64, glibc 2.36, jemalloc 5.3.1, four threads, 1,000 buffers of 1 MB, MiB of RSS; "objects": each also decoded
//! into 19,000 small ones, 32 small blocks per thread survive):
//!
//! ```text
//!                                       idle   after, plain   after, objects   objects, after give_back
//! glibc as it is                         2.0        13 – 23        122 – 127                  4.9 – 6.2
//! glibc, calm_glibc                      2.0            2.1          78 – 94                  3.5 – 4.5
//! jemalloc narenas:1 dirty_decay_ms:0    2.7            3.2          8.0 – 8.8                         –
//! ```
//!
//! jemalloc needs nobody to trim it, but costs 0.7 MiB at rest and 0.5 MB of binary, and aborts on a kernel with
//! larger pages than the machine had that built it (16 and 64 KiB on ARM). glibc trimmed is smaller than either.

#![allow(unsafe_code)] // a global allocator is an unsafe trait, and mallopt and malloc_trim are C functions

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Threads with a slot of their own. The agent's long-lived threads are about ten (arbiters, spool writer, fjall's
/// workers, watchdog, log writer), and they are the first to start; 32 slots take 2 KiB.
pub const SLOTS: usize = 32;

/// The allocator to declare in `main.rs`: `#[global_allocator] static ALLOC: Counting = Counting::new();`.
#[derive(Debug, Default)]
pub struct Counting<A = System>(A);

impl Counting<System> {
    /// The system's malloc, counted.
    #[must_use]
    pub const fn new() -> Counting<System> {
        Counting(System)
    }
}

static TALLY: Tally = Tally::new();

/// Bytes that are allocated now, as asked for (the allocator's own overhead is not in it). 0 when the program does not
/// declare [`Counting`] as its allocator.
#[must_use]
pub fn live_bytes() -> usize {
    TALLY.live()
}

/// Bytes allocated since the start; a block that grows counts its growth.
#[must_use]
pub fn total_bytes() -> u64 {
    TALLY.total()
}

// SAFETY: every method passes its arguments on unchanged to an allocator that keeps the contract and gives back what
// that one gave; the tally allocates nothing, so it cannot come back in here.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those `A` asks for.
        let block = unsafe { self.0.alloc(layout) };
        if !block.is_null() {
            TALLY.allocated(layout.size());
        }
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as `alloc`. Passed on, because calloc knows which pages are zero already.
        let block = unsafe { self.0.alloc_zeroed(layout) };
        if !block.is_null() {
            TALLY.allocated(layout.size());
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as `alloc`.
        unsafe { self.0.dealloc(block, layout) };
        TALLY.freed(layout.size());
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as `alloc`. Passed on, because mremap moves large blocks without copying them.
        let moved = unsafe { self.0.realloc(block, layout, size) };
        if !moved.is_null() {
            match size.checked_sub(layout.size()) {
                Some(growth) => TALLY.allocated(growth),
                None => TALLY.freed(layout.size() - size),
            }
        }
        moved
    }
}

/// The counts of all threads.
#[derive(Debug)]
pub struct Tally([Slot; SLOTS + 1]);

/// One thread's counts, alone on its cache line (64 bytes on the machines we build for).
#[derive(Debug)]
#[repr(align(64))]
struct Slot {
    allocated: Count,
    freed: Count,
}

impl Tally {
    /// Nothing counted yet.
    #[must_use]
    #[allow(clippy::new_without_default)] // it lives in a static
    pub const fn new() -> Tally {
        Tally([const { Slot { allocated: Count::new(), freed: Count::new() } }; SLOTS + 1])
    }

    /// `bytes` more are in use.
    #[inline]
    pub fn allocated(&self, bytes: usize) {
        let slot = my_slot();
        self.0[slot].allocated.add(bytes, slot < SLOTS);
    }

    /// `bytes` less are in use.
    #[inline]
    pub fn freed(&self, bytes: usize) {
        let slot = my_slot();
        self.0[slot].freed.add(bytes, slot < SLOTS);
    }

    /// Bytes in use. Others may count meanwhile: what was freed is read first, so that a block freed between the two
    /// reads is counted as still in use instead of as less than nothing.
    #[must_use]
    pub fn live(&self) -> usize {
        let sum = |of: fn(&Slot) -> &Count| self.0.iter().fold(0_usize, |sum, slot| sum.wrapping_add(of(slot).low()));
        let freed = sum(|slot| &slot.freed);
        let live = sum(|slot| &slot.allocated).wrapping_sub(freed);
        // Half of the address space cannot be in use; such a number is a small negative one, read in mid-change.
        if live > isize::MAX as usize { 0 } else { live }
    }

    /// Bytes ever allocated.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0_u64, |sum, slot| sum.wrapping_add(slot.allocated.whole()))
    }
}

/// A counter of one machine word that counts its wraps: 64-bit atomics are a loop of exclusive loads and stores on
/// armv7 and do not exist on smaller machines. On 64 bits the wrap never comes.
#[derive(Debug)]
struct Count {
    low: AtomicUsize,
    wraps: AtomicUsize,
}

impl Count {
    const fn new() -> Count {
        Count { low: AtomicUsize::new(0), wraps: AtomicUsize::new(0) }
    }

    #[inline]
    fn add(&self, bytes: usize, mine_alone: bool) {
        let before = if mine_alone {
            let before = self.low.load(Relaxed);
            self.low.store(before.wrapping_add(bytes), Relaxed);
            before
        } else {
            self.low.fetch_add(bytes, Relaxed)
        };
        if before.wrapping_add(bytes) < before {
            self.wraps.fetch_add(1, Relaxed);
        }
    }

    fn low(&self) -> usize {
        self.low.load(Relaxed)
    }

    fn whole(&self) -> u64 {
        let low = self.low() as u64;
        // On 64 bits the shift would be by 64: no wrap can have happened.
        (self.wraps.load(Relaxed) as u64).checked_shl(usize::BITS).unwrap_or(0).wrapping_add(low)
    }
}

/// This thread's slot: its own for the first [`SLOTS`] threads, the shared last one for the others.
#[inline]
fn my_slot() -> usize {
    const UNKNOWN: usize = usize::MAX;
    // Constant and without destructor: touching it allocates nothing, and it is there until the thread's very end.
    thread_local!(static MINE: Cell<usize> = const { Cell::new(UNKNOWN) });
    static NEXT: AtomicUsize = AtomicUsize::new(0);

    #[cold]
    fn take() -> usize {
        // Compare-and-swap instead of add: it must not wrap after four billion short-lived threads.
        NEXT.fetch_update(Relaxed, Relaxed, |next| (next < SLOTS).then_some(next + 1)).unwrap_or(SLOTS)
    }

    MINE.try_with(|mine| {
        if mine.get() == UNKNOWN {
            mine.set(take());
        }
        mine.get()
    })
    .unwrap_or(SLOTS)
}

/// Makes glibc keep little: one arena for all threads instead of eight per core, and blocks from 128 KiB up in a
/// mapping of their own, which goes back to the system when freed. Without it glibc raises both thresholds to 32 MiB
/// by itself after the first large block. Called once, first thing in `main`; nothing on other C libraries.
///
/// The price: a 1 MB buffer costs 0.25 ms of page faults each time instead of none (250 pages; 1,000 buffers: 0.25 s
/// instead of 0.04 s on one x86 core).
pub fn calm_glibc() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// glibc's default for both, which setting them pins.
        const THRESHOLD: libc::c_int = 128 * 1_024;
        /// malloc.h; the crate `libc` has no name for it.
        const M_ARENA_MAX: libc::c_int = -8;
        // SAFETY: mallopt takes two numbers and locks by itself. It answers 0 to a number it does not know, and then
        // nothing has changed.
        unsafe {
            libc::mallopt(M_ARENA_MAX, 1);
            libc::mallopt(libc::M_TRIM_THRESHOLD, THRESHOLD);
            libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD);
        }
    }
}

/// Pages held without use that are worth fetching back: 16 MiB, a sixteenth of the smallest gateway.
pub const SLACK_MAX: u64 = 16 << 20;

/// Whether [`give_back`] is due: what the process occupies beyond what it uses has grown over [`SLACK_MAX`].
/// Code and stacks are in the slack too: about 8 MiB of ours.
#[must_use]
pub fn is_slack(resident_bytes: u64, live_bytes: u64) -> bool {
    resident_bytes.saturating_sub(live_bytes) > SLACK_MAX
}

/// Gives free pages back to the system, also those between blocks in use; true if there were any. What Go's forced
/// garbage collection is to memory_limiter. Takes 5 to 12 ms after a burst of 120 MB (x86), during which other
/// threads wait for memory; nothing on other C libraries.
pub fn give_back() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: malloc_trim takes a number of bytes to leave and locks by itself.
        unsafe { libc::malloc_trim(0) != 0 }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_thread_allocates_and_another_frees_is_live_in_between() {
        let tally = Tally::new();
        tally.allocated(1_000);
        assert_eq!((tally.live(), tally.total()), (1_000, 1_000));
        std::thread::scope(|s| {
            s.spawn(|| tally.freed(400));
        });
        assert_eq!((tally.live(), tally.total()), (600, 1_000));
    }

    /// More threads than slots, so that the shared one is used by many at once.
    #[test]
    fn no_byte_is_lost_however_many_threads_count() {
        const THREADS: usize = 3 * SLOTS;
        let tally = Tally::new();
        std::thread::scope(|s| {
            for _ in 0..THREADS {
                s.spawn(|| {
                    for _ in 0..20_000 {
                        tally.allocated(3);
                        tally.freed(2);
                    }
                });
            }
        });
        assert_eq!(tally.live(), THREADS * 20_000);
        assert_eq!(tally.total(), THREADS as u64 * 60_000);
    }

    /// A slot that is about to wrap, as on 32 bits after 4 GiB.
    #[test]
    fn a_wrap_of_the_word_changes_neither_live_nor_total() {
        let tally = Tally::new();
        let brink = usize::MAX - 10;
        tally.allocated(brink);
        tally.freed(brink);
        tally.allocated(100);
        assert_eq!(tally.live(), 100);
        let count = &tally.0[my_slot()].allocated;
        assert_eq!((count.wraps.load(Relaxed), count.low()), (1, 89));
        #[cfg(target_pointer_width = "32")]
        assert_eq!(tally.total(), brink as u64 + 100);
    }

    #[test]
    fn a_free_seen_before_its_allocation_does_not_make_the_limiter_panic() {
        let tally = Tally::new();
        tally.freed(1);
        assert_eq!(tally.live(), 0);
    }

    #[test]
    fn only_large_slack_is_fetched_back() {
        let mib = |n: u64| n << 20;
        for (resident, live, due) in
            [(mib(20), mib(10), false), (mib(27), mib(10), true), (mib(26), mib(10), false), (0, mib(10), false)]
        {
            assert_eq!(is_slack(resident, live), due, "{resident} resident, {live} live");
        }
    }
}
