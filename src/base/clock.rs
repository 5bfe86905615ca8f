//! What time it is: the only file that asks.
//!
//! A gateway without a battery-backed clock boots in 1970 and jumps by decades when NTP answers, so every
//! age in this program is measured on the monotonic clock and every stored time carries both, with the boot
//! it belongs to (architecture §5). Timers are `tokio::time`, which tests pause; this clock is for *stamps*.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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

/// A source of stamps: the machine's, or a hand-driven one for tests.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<Hands>>);

#[derive(Debug, Default)]
struct Hands {
    wall_ns: AtomicU64,
    mono_ms: AtomicU64,
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
        Clock(Some(Arc::new(Hands { wall_ns: start.wall_ns.into(), mono_ms: start.mono_ms.into() })))
    }

    /// Now, on both clocks.
    #[must_use]
    pub fn now(&self) -> Stamp {
        match &self.0 {
            Some(hands) => Stamp { wall_ns: hands.wall_ns.load(Relaxed), mono_ms: hands.mono_ms.load(Relaxed) },
            None => Stamp { wall_ns: system_wall_ns(), mono_ms: system_mono_ms() },
        }
    }

    /// Which boot the monotonic part of [`Clock::now`] belongs to.
    #[must_use]
    pub fn boot_id(&self) -> BootId {
        match &self.0 {
            Some(_) => BootId(*b"a-clock-by-hand!"),
            None => system_boot_id(),
        }
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

fn system_wall_ns() -> u64 {
    // A clock before 1970 is as unset as one at 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
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

    #[test]
    fn the_machine_tells_its_boot_and_moves_forward() {
        let clock = Clock::system();
        assert_ne!(clock.boot_id(), BootId::default(), "/proc/sys/kernel/random/boot_id is there on every Linux");
        let before = clock.now();
        assert!(before.wall_ns > 1_600_000_000_000_000_000, "this machine's clock is set");
        assert!(clock.now().mono_ms >= before.mono_ms);
    }
}
