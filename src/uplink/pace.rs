//! How much at a time: how large a piece the link carries before a request's time is over, and when answers come late.
//!
//! ```text
//! 800 KB ─ no answer ─▶ 800 KB ─ no answer ─▶ 200 KB ─ no answer ─▶ 50 KB ─ no answer ─▶ 12 KB ─ taken, slowly ─▶ 12 KB … 10 min ▶ 25 KB
//!                                                                                         └────── taken, quickly ─▶ 25 KB ─▶ 50 KB ─▶ …
//! ```
//!
//! A request that is longer than the link can carry within its timeout never arrives, however often it is sent: at 9.6 kbit/s
//! and with 30 s that is anything above 36 KB, and where a tunnel swallows full-size packets (an MTU black hole) anything above
//! one packet. Who is away looks the same from here; what is small arrives at his return, and grows at once.
//!
//! What always holds: sizes shrink only after requests that were out for [`SLOW`] without an answer, two in a row at the
//! beginning (one is an accident), never below [`PIECE_MIN`]; what was taken while something larger was not bounds the growth until [`LASTS`] has passed.

use std::time::Duration;
use tokio::time::Instant;

/// An upload that was out for so long without an answer was perhaps too large for the link: 4 s. gRPC's default timeout is
/// 5 s; a reset of the connection comes earlier, and says nothing of size.
pub const SLOW: Duration = Duration::from_secs(4);
/// Smallest piece, packed: 512 bytes pass with an HTTP head in one packet of 1,280 bytes, which every path carries that
/// carries IPv6 (RFC 8200 §5).
pub const PIECE_MIN: usize = 512;
/// What is sent after it was too slow is so much smaller: with a quarter three timeouts lead from 800 KB to 12 KB.
const SHRINK: usize = 4;
/// A size that was too slow is doubled after so long: 10 min. If it is too slow still, one timeout in ten minutes is the cost.
pub const LASTS: Duration = Duration::from_secs(600);
/// A piece that is answered within so long is small enough for one of twice its size: 2 s,
const QUICK: Duration = Duration::from_secs(2);
/// or half as long again as the quickest one took, where the way alone is longer than that (two satellites, a queue in a modem).
const LONG_WAY: f64 = 1.5;
/// From this size on nothing is cut for the link's sake: 4 MiB, what a batch is at most where nothing else is said.
const LARGE: usize = 4 << 20;

/// The size that the link carries in time, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    known: Option<Known>,
    /// One was not answered, nothing was taken since, and nothing is concluded from that.
    once: Option<Instant>,
    /// What the quickest piece took, since pieces are cut.
    quickest: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// Most bytes of a body, packed.
    bytes: usize,
    since: Instant,
    /// Something was taken since.
    taken: bool,
    /// So much was too much while less was taken; growth ends at half of it.
    too_much: usize,
}

impl Size {
    /// Most packed bytes to send at a time; `None`: whatever there is.
    #[must_use]
    pub fn most(&self, now: Instant) -> Option<usize> {
        let known = self.known?;
        let doublings = now.saturating_duration_since(known.since).as_secs() / LASTS.as_secs();
        let factor = u32::try_from(doublings).ok().and_then(|n| 1_usize.checked_shl(n))?;
        known.bytes.checked_mul(factor).filter(|bytes| *bytes < LARGE)
    }

    /// How many of `items` to send first, of a body of `len` packed bytes; `None`: all of it.
    #[must_use]
    pub fn first(&self, items: u32, len: usize, now: Instant) -> Option<u32> {
        let most = self.most(now).filter(|most| items > 1 && len > most + most / 4)?;
        let share = u64::from(items) * most as u64 / len as u64;
        Some(u32::try_from(share).unwrap_or(items).clamp(1, items - 1))
    }

    /// A body of `len` bytes that was out alone was not answered.
    pub fn not_answered(&mut self, sent: Instant, len: usize, now: Instant) {
        let before = self.known.map(|known| known.since).or(self.once);
        if now.saturating_duration_since(sent) < SLOW || before.is_some_and(|then| sent <= then) {
            return;
        }
        if before.is_none() {
            self.once = Some(now);
            return;
        }
        let most = self.most(now).unwrap_or(usize::MAX);
        let too_much = match self.known {
            // Less was taken, and this is about as much as is sent: it is the size. Else somebody may just be away.
            Some(known) if known.taken && len >= most / 2 => len,
            Some(known) => known.too_much,
            None => usize::MAX,
        };
        let bytes = (most.min(len) / SHRINK).max(PIECE_MIN);
        self.known = Some(Known { bytes, since: now, taken: false, too_much });
    }

    /// A body of `len` bytes was taken after so long.
    pub fn taken(&mut self, took: Duration, len: usize, now: Instant) {
        let most = self.most(now);
        self.once = None;
        let Some((known, most)) = self.known.as_mut().zip(most) else {
            (self.known, self.quickest) = (None, None);
            return;
        };
        known.taken = true;
        if len >= known.too_much {
            known.too_much = usize::MAX; // that was an accident, or is over
        }
        let quickest = self.quickest.map_or(took, |before| before.min(took));
        self.quickest = Some(quickest);
        let larger = len.saturating_mul(2);
        if took <= QUICK.max(quickest.mul_f64(LONG_WAY)) && larger > most && larger <= known.too_much / 2 {
            (known.bytes, known.since) = (larger, now);
        }
    }
}

/// An answer that takes half as long again as that of an upload alone, and so much more, is late: 500 ms. Less is the scatter of
/// radio links, and no sign of a far end or a line that has too much to do.
const LATE: Duration = Duration::from_millis(500);

/// What answers take. The measure is an upload that was out alone, taken anew whenever there is one: beside others each takes
/// longer, and a measure made of those would grow with what it measures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tempo {
    alone: Option<Duration>,
    /// When it was last said to slow down; what was sent before says nothing of what is so since.
    slowed: Option<Instant>,
    /// When more were last let out since then.
    grown: Option<Instant>,
    /// After so long one was given up.
    given_up: Option<Duration>,
}

/// What an answer's time says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timely {
    /// One more may be out.
    InTime,
    /// As many as before: it was sent before the last word on that.
    Same,
    /// From now on one at a time.
    Late,
}

impl Tempo {
    /// A request that was sent then was answered now. `alone`: no other was out meanwhile.
    pub fn heard(&mut self, sent: Instant, now: Instant, alone: bool) -> Timely {
        let took = now.saturating_duration_since(sent);
        let old = self.is_old(sent);
        // On a line that is full of what was given up, one alone takes long too; half of the time that ends it is the limit.
        let too_late = self.given_up.is_some_and(|after| took > after / 2);
        let late = match self.alone.filter(|_| old || !alone) {
            None => {
                self.alone = Some(took);
                too_late
            }
            Some(alone) => took > alone + alone / 2 + LATE || too_late,
        };
        if old || (!late && self.slowed.is_some() && self.grown.is_some_and(|then| sent <= then)) {
            return Timely::Same;
        }
        if late {
            self.slow_down(now);
            return Timely::Late;
        }
        // Until it was once too much, one more with each answer; then one more each time round.
        self.grown = Some(now);
        Timely::InTime
    }

    /// It was sent before the last word on slowing down.
    #[must_use]
    pub fn is_old(&self, sent: Instant) -> bool {
        self.slowed.is_some_and(|then| sent <= then)
    }

    /// One was not answered in so long.
    pub fn gave_up(&mut self, after: Duration, now: Instant) {
        self.given_up = Some(after);
        self.slow_down(now);
    }

    fn slow_down(&mut self, now: Instant) {
        (self.slowed, self.grown) = (Some(now), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// A link of so many bytes a second and so long a way, on which a body longer than `swallows` never arrives.
    struct Path {
        rate: usize,
        way: Duration,
        swallows: usize,
        timeout: Duration,
    }

    impl Path {
        /// Sends bodies of `len` for so long; bytes that arrived, timeouts, and the largest that arrived in the second half.
        fn carry(&self, size: &mut Size, len: usize, start: Instant, lasting: Duration) -> (usize, usize, usize) {
            let (mut now, mut arrived, mut timeouts, mut largest) = (start, 0, 0, 0);
            while now < start + lasting {
                let items = u32::try_from(len / 50).expect("small");
                let body = size.first(items, len, now).map_or(len, |first| len * first as usize / items as usize);
                let took = self.way + S.mul_f64(body as f64 / self.rate as f64);
                let sent = now;
                if took > self.timeout || body > self.swallows {
                    now += self.timeout;
                    timeouts += 1;
                    size.not_answered(sent, body, now);
                } else {
                    now += took;
                    arrived += body;
                    size.taken(took, body, now);
                    largest = if now > start + lasting / 2 { largest.max(body) } else { 0 };
                }
            }
            (arrived, timeouts, largest)
        }
    }

    /// Goal: whatever the link, most of what it can carry arrives, and a size that cannot is tried rarely.
    #[test]
    #[rustfmt::skip]
    fn the_size_follows_the_link() {
        let whole = 800_000;
        for (what, path, at_least, timeouts) in [
            ("fast",         Path { rate: 1_000_000,  way: S / 20, swallows: usize::MAX, timeout: 30 * S }, 0.90,  0),
            ("9.6 kbit/s",   Path { rate: 1_200,      way: S / 2,  swallows: usize::MAX, timeout: 30 * S }, 0.75, 12),
            ("the same, gRPC", Path { rate: 1_200,    way: S / 2,  swallows: usize::MAX, timeout: 5 * S },  0.60, 16),
            ("64 kbit/s",    Path { rate: 8_000,      way: 2 * S,  swallows: usize::MAX, timeout: 30 * S }, 0.60, 12),
            // Of one packet at a time: 50 ms for less than 800 bytes.
            ("black hole",   Path { rate: 1_000_000,  way: S / 20, swallows: 800,        timeout: 30 * S }, 0.00, 20),
        ] {
            let (mut size, start) = (Size::default(), Instant::now());
            let (arrived, tried, _) = path.carry(&mut size, whole, start, 3_600 * S);
            let could = path.rate as f64 * 3_600.0;
            assert!(arrived as f64 >= could * at_least, "{what}: {arrived} of {could}");
            assert!(tried <= timeouts, "{what}: {tried} timeouts in an hour");
            assert!(what != "black hole" || arrived > 512 * 20 * 2_800, "{what}: {arrived}");
        }
    }

    /// Goal: who was only away for days gets large pieces again within seconds, also when the outage began with small ones.
    #[test]
    fn an_outage_leaves_no_small_pieces_behind() {
        for before in [3_000, 800_000] {
            let (mut size, start) = (Size::default(), Instant::now());
            let away = Path { rate: 1, way: 99 * S, swallows: 0, timeout: 30 * S };
            away.carry(&mut size, before, start, 3 * 86_400 * S);
            let back = Path { rate: 10_000_000, way: S / 20, swallows: usize::MAX, timeout: 30 * S };
            let later = start + 3 * 86_400 * S + 60 * S;
            let (_, timeouts, _) = back.carry(&mut size, 800_000, later, 10 * S);
            assert_eq!((timeouts, size.first(16_000, 800_000, later + 10 * S)), (0, None), "{before}");
        }
    }

    /// Goal: where the way alone takes longer than what is quick elsewhere, sizes grow back all the same.
    #[test]
    fn a_long_way_is_no_slow_one() {
        let (mut size, start) = (Size::default(), Instant::now());
        let bad = Path { rate: 100, way: 3 * S, swallows: 700, timeout: 10 * S };
        bad.carry(&mut size, 800_000, start, 900 * S);
        let later = start + 900 * S;
        assert!(size.most(later).is_some_and(|most| most <= 2_000), "{:?}", size.most(later));
        let good = Path { rate: 8_000, way: 3 * S, swallows: usize::MAX, timeout: 10 * S };
        let (arrived, timeouts, largest) = good.carry(&mut size, 800_000, later + LASTS, 120 * S);
        assert!(
            largest >= 8_000 && arrived >= 150_000 && timeouts <= 2,
            "{largest} bytes at a time, {arrived} in all, {timeouts} timeouts"
        );
    }

    /// Goal: what ends early says nothing of its size, ten at once say it once, and one item is never cut.
    #[test]
    fn only_what_was_out_for_long_counts() {
        let (mut size, start) = (Size::default(), Instant::now());
        size.not_answered(start, 800_000, start + S);
        assert_eq!(size.most(start + S), None);
        for i in 0..10 {
            size.not_answered(start, 800_000, start + 30 * S + S * i / 100);
        }
        assert_eq!(size.most(start + 31 * S), None);
        for i in 0..10 {
            size.not_answered(start + 31 * S, 800_000, start + 61 * S + S * i / 100);
        }
        let now = start + 62 * S;
        assert_eq!(size.most(now), Some(200_000));
        assert_eq!([size.first(1, 800_000, now), size.first(8_000, 240_000, now)], [None, None]);
        assert_eq!([size.first(2, 900_000, now), size.first(8_000, 800_000, now)], [Some(1), Some(2_000)]);
        assert_eq!(size.most(now + LASTS), Some(400_000));
        assert_eq!(size.most(now + 30 * LASTS), None);
        assert_eq!(size.most(now + 1_000 * LASTS), None);
    }

    #[test]
    fn an_answer_is_late_beside_one_that_was_alone() {
        use Timely::{InTime, Late, Same};
        let (mut tempo, start) = (Tempo::default(), Instant::now());
        let mut heard =
            |sent: u32, took: Duration, alone| tempo.heard(start + S * sent, start + S * sent + took, alone);
        assert_eq!([heard(0, S / 10, true), heard(0, S / 2, false), heard(0, S / 2, false)], [InTime; 3]);
        assert_eq!([heard(3, S, false), heard(3, 3 * S, false), heard(3, S / 10, false)], [Late, Same, Same]);
        assert_eq!(heard(4, S, true), Same, "it was not alone all the time");
        // One more each time round.
        assert_eq!([heard(7, S / 2, false), heard(7, S / 2, false), heard(8, S / 2, false)], [InTime, Same, InTime]);
        // It is the path: alone it takes as long.
        assert_eq!([heard(10, 3 * S, true), heard(14, 4 * S, false), heard(19, 6 * S, false)], [InTime, InTime, Late]);
        // But nothing is in time that takes more than half of what ended another one.
        tempo.gave_up(5 * S, start + 30 * S);
        let mut heard =
            |sent: u32, took: Duration, alone| tempo.heard(start + S * sent, start + S * sent + took, alone);
        assert_eq!([heard(31, 3 * S, true), heard(35, 3 * S, true), heard(39, 2 * S, true)], [Late, Late, InTime]);
    }
}
