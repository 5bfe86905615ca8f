//! What time it is: the only file that asks.
//!
//! A gateway without a battery-backed clock boots in 1970 and jumps by decades when NTP answers, so every
//! age in this program is measured on the monotonic clock and every stored time carries both, with the boot
//! it belongs to (architecture §5). Timers are `tokio::time`, which tests pause; this clock is for *stamps*.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kernel's name for the time since power-on: monotonic stamps are comparable only within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BootId(pub [u8; 16]);

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Nanoseconds since 1970 by the wall clock, which may be wrong and may jump.
    pub wall_ns: u64,
    /// Milliseconds since power-on (`CLOCK_BOOTTIME`: suspend counts), which never jumps.
    pub mono_ms: u64,
}

/// All that the machine says of the time at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// On both clocks.
    pub stamp: Stamp,
    /// The boot that `stamp.mono_ms` belongs to.
    pub boot: BootId,
    /// The wall clock again, ns, if whoever sets it has told the kernel that it is in step with the world's; see
    /// [`Clock::reading`].
    pub synced_ns: Option<u64>,
}

/// A source of stamps: the machine's, or a hand-driven one for tests.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<Hands>>);

#[derive(Debug, Default)]
struct Hands {
    wall_ns: AtomicU64,
    mono_ms: AtomicU64,
    boots: AtomicU64,
    synced: AtomicBool,
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that moves only when [`Clock::advance`] or [`Clock::set_wall_ns`] says so.
    #[must_use]
    pub fn by_hand(start: Stamp) -> Clock {
        Clock(Some(Arc::new(Hands {
            wall_ns: start.wall_ns.into(),
            mono_ms: start.mono_ms.into(),
            ..Hands::default()
        })))
    }

    /// Now, on both clocks.
    #[must_use]
    pub fn now(&self) -> Stamp {
        match &self.0 {
            Some(hands) => Stamp { wall_ns: hands.wall_ns.load(Relaxed), mono_ms: hands.mono_ms.load(Relaxed) },
            None => scripted().map_or_else(system_stamp, |told| told.stamp),
        }
    }

    /// Now, and whether the wall clock can be believed. Kernels know: `adjtimex` says `STA_UNSYNC` from power-on and after
    /// every setting by hand, until a daemon (NTP, PTP, GPS) says that it keeps the clock, and 16 s of possible error
    /// later again (Linux, kernel/time/ntp.c). Where it may not be asked (seccomp, `ProtectClock=`), nothing is believed.
    #[must_use]
    pub fn reading(&self) -> Reading {
        match &self.0 {
            Some(hands) => {
                let stamp = self.now();
                let synced_ns = hands.synced.load(Relaxed).then_some(stamp.wall_ns);
                Reading { stamp, boot: self.boot_id(), synced_ns }
            }
            None => scripted().unwrap_or_else(system),
        }
    }

    /// Which boot the monotonic part of [`Clock::now`] belongs to.
    #[must_use]
    pub fn boot_id(&self) -> BootId {
        match &self.0 {
            Some(hands) => {
                let mut id = *b"a-clock-by-hand!";
                id[..8].iter_mut().zip(hands.boots.load(Relaxed).to_le_bytes()).for_each(|(to, n)| *to ^= n);
                BootId(id)
            }
            None => scripted().map_or_else(system_boot_id, |told| told.boot),
        }
    }

    /// A clock driven by hand was switched off for so long and begins again: another boot, whose wall clock nobody has set.
    ///
    /// # Panics
    /// On the machine's clock, as [`Clock::advance`].
    pub fn reboot(&self, off: Duration, wall_ns: u64) {
        self.advance(off);
        let hands = self.0.as_ref().expect("reboot() is for a clock driven by hand");
        hands.boots.fetch_add(1, Relaxed);
        hands.mono_ms.store(0, Relaxed);
        hands.synced.store(false, Relaxed);
        hands.wall_ns.store(wall_ns, Relaxed);
    }

    /// Whether a clock driven by hand says that it is in step with the world's.
    ///
    /// # Panics
    /// On the machine's clock, as [`Clock::advance`].
    pub fn set_synced(&self, synced: bool) {
        self.0.as_ref().expect("set_synced() is for a clock driven by hand").synced.store(synced, Relaxed);
    }

    /// Moves both hands of a clock driven by hand.
    ///
    /// # Panics
    /// On the machine's clock: only a test that mixed up its clocks could do that.
    pub fn advance(&self, by: Duration) {
        let hands = self.0.as_ref().expect("advance() is for a clock driven by hand");
        hands.wall_ns.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        hands.mono_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Makes the wall clock of a clock driven by hand jump; the monotonic one stays.
    ///
    /// # Panics
    /// On the machine's clock, as [`Clock::advance`].
    pub fn set_wall_ns(&self, wall_ns: u64) {
        self.0.as_ref().expect("set_wall_ns() is for a clock driven by hand").wall_ns.store(wall_ns, Relaxed);
    }
}

impl Stamp {
    /// How long after `earlier` this stamp was taken, by the clock that never jumps.
    #[must_use]
    pub fn since(self, earlier: Stamp) -> Duration {
        Duration::from_millis(self.mono_ms.saturating_sub(earlier.mono_ms))
    }
}

/// For tests of the real binary: `TFO_TEST_CLOCK` names a file of 33 bytes, which is read at every question: wall clock in
/// ns, monotonic clock in ms (both i64, added to the machine's), boot id, and whether the clock is in step.
#[cfg(feature = "testing")]
fn scripted() -> Option<Reading> {
    use std::os::unix::fs::FileExt as _;
    static FILE: OnceLock<Option<std::fs::File>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::fs::File::open(std::env::var_os("TFO_TEST_CLOCK")?).ok()).as_ref()?;
    let mut page = [0; 33];
    file.read_exact_at(&mut page, 0).ok()?;
    let number = |at: usize| i64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"));
    let stamp = Stamp {
        wall_ns: system_wall_ns().saturating_add_signed(number(0)),
        mono_ms: system_mono_ms().saturating_add_signed(number(8)),
    };
    let boot = BootId(page[16..32].try_into().expect("sixteen bytes"));
    Some(Reading { stamp, boot, synced_ns: (page[32] == 1).then_some(stamp.wall_ns) })
}

#[cfg(not(feature = "testing"))]
fn scripted() -> Option<Reading> {
    None
}

fn system_stamp() -> Stamp {
    Stamp { wall_ns: system_wall_ns(), mono_ms: system_mono_ms() }
}

fn system() -> Reading {
    Reading { stamp: system_stamp(), boot: system_boot_id(), synced_ns: system_synced_ns() }
}

fn system_wall_ns() -> u64 {
    // A clock before 1970 is as unset as one at 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// The wall clock, asked together with its state; `None` when it is not in step or nobody may ask.
#[allow(unsafe_code)] // rustix has no adjtimex
fn system_synced_ns() -> Option<u64> {
    // SAFETY: all zeroes is a `timex` that asks for nothing to be changed, and the kernel fills what it is given.
    let (state, t) = unsafe {
        let mut t: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut t), t)
    };
    if state < 0 || state == libc::TIME_ERROR || t.status & libc::STA_UNSYNC != 0 {
        return None;
    }
    let sub_ns = if t.status & libc::STA_NANO != 0 { 1 } else { 1_000 };
    let seconds = u64::try_from(t.time.tv_sec).ok()?.checked_mul(1_000_000_000)?;
    seconds.checked_add(u64::try_from(t.time.tv_usec).ok()? * sub_ns)
}

fn system_mono_ms() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000
}

fn system_boot_id() -> BootId {
    static ID: OnceLock<BootId> = OnceLock::new();
    *ID.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let hex: Vec<u8> =
            text.bytes().filter_map(|b| char::from(b).to_digit(16)).filter_map(|d| u8::try_from(d).ok()).collect();
        let mut id = [0; 16];
        for (to, pair) in id.iter_mut().zip(hex.chunks_exact(2)) {
            *to = pair[0] << 4 | pair[1];
        }
        BootId(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_jump_does_not_change_an_age() {
        let clock = Clock::by_hand(Stamp { wall_ns: 1_000, mono_ms: 50 });
        let before = clock.now();
        clock.advance(Duration::from_secs(2));
        clock.set_wall_ns(0);
        assert_eq!(clock.now().since(before), Duration::from_secs(2));
    }

    /// A boot begins anew and says so; what it says of the wall clock is believed when it says that too.
    #[test]
    fn a_reboot_is_another_boot_whose_clock_is_not_set() {
        let clock = Clock::by_hand(Stamp { wall_ns: 1_000, mono_ms: 50 });
        clock.set_synced(true);
        let before = clock.reading();
        clock.reboot(Duration::from_secs(9), 7);
        let after = clock.reading();
        assert_eq!(before.synced_ns, Some(1_000));
        assert_eq!((after.stamp, after.synced_ns), (Stamp { wall_ns: 7, mono_ms: 0 }, None));
        assert_ne!(before.boot, after.boot);
    }

    #[test]
    fn a_clock_in_step_is_the_wall_clock() {
        // Whether this machine's is depends on the machine; what it says then must be one clock.
        let Reading { stamp, synced_ns, .. } = Clock::system().reading();
        assert!(synced_ns.is_none_or(|ns| ns.abs_diff(stamp.wall_ns) < 10_000_000_000), "{stamp:?} {synced_ns:?}");
    }

    #[test]
    fn the_machine_tells_its_boot_and_moves_forward() {
        let clock = Clock::system();
        assert_ne!(clock.boot_id(), BootId::default(), "/proc/sys/kernel/random/boot_id is there on every Linux");
        let before = clock.now();
        assert!(before.wall_ns > 1_600_000_000_000_000_000, "this machine's clock is set");
        assert!(clock.now().mono_ms >= before.mono_ms);
    }
}
