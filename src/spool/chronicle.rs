//! How long ago something was, over reboots and jumps of the clock. Pure: it is told what the clocks say.
//!
//! ```text
//!            boot 7, clock in step          boot 8, never in step     boot 9, in step
//!  ──────────●═══════════●──── off ─────────●════════●──── off ───────●═══════▶ now
//!          seen    block └ last seen
//!          └──────────── the wall clocks of 7 and 9 tell this whole way ──────┘
//! ```
//!
//! Inside one boot the monotonic clock tells an age exactly, whatever the wall clock does. From one boot to another there are
//! two witnesses, and each proves only that *at least* so much has passed:
//! * what the boots between were seen to last (time switched off is not in it);
//! * between two boots in which the wall clock was in step for a while, the difference of the two.
//!
//! The age is the most that is proved, so nothing is called old that is not; and as time passes with the machine on,
//! everything becomes old one day, whether a clock is ever set or not. What a boot's wall clock said is corrected when it
//! comes into step: its blocks carry the monotonic time, and the boot's record says what that was worth.

use super::block::CLOCK_SET_NS;
use super::codec::{Damage, Eye, Pen};
use crate::base::{BootId, Reading, Stamp};
use std::time::Duration;

/// Boots that are remembered, the latest. A gateway that loses its power five times a day has three weeks of them, and 128
/// records of 60 bytes are nothing beside a segment. What came in before them is as old as the first of them at least.
const BOOTS_MAX: usize = 128;
/// A clock that says it is in step is believed when it has said the same for so long: whoever sets it wrong by hand and
/// right again needs a moment, and a daemon that has only begun sets it in one step.
const SETTLED_MS: u64 = 60_000;
/// Two readings are the same clock when they differ by less, ns: slewing moves 500 ppm, and nobody keeps seconds for it.
const SAME_NS: u64 = 1_000_000_000;
/// How far back a clock in step may lie behind what earlier boots prove, ns, before it is not believed.
const BEHIND_NS: i64 = 60_000_000_000;
/// A record says again how long the boot has lasted when it is so much more, ms: with the next commit,
const NOTE_MS: u64 = 60_000;
/// or without one after so long, or when the clock came into step.
const NOTE_ALONE_MS: u64 = 600_000;

/// One boot, as far as this spool saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Boot {
    id: BootId,
    /// Its first start here; the high half of the indices of all that came in before it is lower.
    epoch: u32,
    /// Monotonic time when it was first seen, ms,
    from_ms: u64,
    /// and last.
    until_ms: u64,
    /// Wall clock less monotonic clock, ns, when the wall clock was last believed.
    offset_ns: Option<i64>,
    /// `until_ms` as it was last written.
    noted_ms: u64,
    dirty: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Chronicle {
    /// In their order; the last one is the present one as soon as [`Chronicle::observe`] was called.
    boots: Vec<Boot>,
    /// What a clock that says it is in step has said since this monotonic time.
    candidate: Option<(i64, u64)>,
    /// A clock was believed that was not before: rare, and worth a record of its own.
    news: bool,
}

impl Chronicle {
    /// This is what the clocks say now, in the life with this epoch.
    pub(crate) fn observe(&mut self, now: &Reading, epoch: u32) {
        let ms = now.stamp.mono_ms;
        if self.boots.last().is_none_or(|boot| boot.id != now.boot) {
            // A card that was in another machine meanwhile: what that one saw is not counted twice.
            let known = self.boots.iter().position(|boot| boot.id == now.boot).map(|at| self.boots.remove(at));
            let offset_ns = known.and_then(|boot| boot.offset_ns);
            self.boots.push(Boot {
                id: now.boot,
                epoch,
                from_ms: ms,
                until_ms: ms,
                offset_ns,
                noted_ms: ms,
                dirty: true,
            });
            self.boots.drain(..self.boots.len().saturating_sub(BOOTS_MAX));
            self.candidate = None;
        }
        let boot = self.boots.last_mut().expect("pushed above, or there before");
        boot.until_ms = boot.until_ms.max(ms);
        boot.dirty |= boot.until_ms - boot.noted_ms >= NOTE_MS;
        let Some(offset) = now.synced_ns.filter(|ns| *ns >= CLOCK_SET_NS).map(|ns| offset(ns, ms)) else {
            self.candidate = None;
            return;
        };
        match self.candidate {
            Some((said, since)) if said.abs_diff(offset) < SAME_NS => {
                if ms.saturating_sub(since) >= SETTLED_MS {
                    self.believe(said);
                }
            }
            _ => self.candidate = Some((offset, ms)),
        }
    }

    fn believe(&mut self, offset: i64) {
        let behind = self.proved(self.boots.len() - 1).is_some_and(|least| offset.saturating_add(BEHIND_NS) < least);
        let boot = self.boots.last_mut().expect("observed before");
        if behind {
            return; // either was wrong, and nobody knows which
        }
        if boot.offset_ns.is_none_or(|known| known.abs_diff(offset) >= SAME_NS) {
            boot.offset_ns = Some(offset);
            (boot.dirty, self.news) = (true, true);
        }
    }

    /// The least offset the boot at `at` can have, by the boots before it.
    fn proved(&self, at: usize) -> Option<i64> {
        let known = self.boots[..at].iter().filter_map(|boot| boot.offset_ns.map(|o| wall(o, boot.until_ms))).max()?;
        Some(known.saturating_sub(ns_of(self.boots[at].from_ms)))
    }

    /// How long ago it was at least: what came in at `accepted` in `boot`, under this index.
    pub(crate) fn age(&self, accepted: Stamp, boot: BootId, index: u64, now: &Reading) -> Duration {
        if boot == now.boot {
            return now.stamp.since(accepted);
        }
        let epoch = u32::try_from(index >> 32).unwrap_or(u32::MAX);
        let known = self.boots.iter().position(|b| b.id == boot);
        // Of a boot that is not remembered only this is known: later ones came later.
        let first = known.unwrap_or_else(|| self.boots.partition_point(|b| b.epoch <= epoch));
        let Some(begun) = self.boots.get(first) else { return Duration::ZERO };
        // What has passed since, at the beginning of each boot; negative before it was accepted.
        let mut passed = if known.is_some() { ns_of(begun.from_ms) - ns_of(accepted.mono_ms) } else { 0 };
        let mut believed: Option<(i64, i64)> = None;
        for b in &self.boots[first..] {
            if let Some(offset) = b.offset_ns {
                let begins = wall(offset, b.from_ms);
                let by_clock = believed.map(|(then, passed_then)| passed_then + begins.saturating_sub(then));
                passed = by_clock.map_or(passed, |by_clock| passed.max(by_clock));
                believed = Some((begins, passed));
            }
            let until = if b.id == now.boot { now.stamp.mono_ms.max(b.from_ms) } else { b.until_ms };
            passed = passed.saturating_add(ns_of(until - b.from_ms));
        }
        Duration::from_nanos(u64::try_from(passed).unwrap_or(0))
    }

    /// Whether the wall clock is certainly wrong: before our time, or before what earlier boots prove to be over.
    pub(crate) fn is_unset(&self, accepted: Stamp, boot: BootId) -> bool {
        let at = self.boots.iter().position(|b| b.id == boot);
        let least = at.and_then(|at| self.proved(at));
        let said = offset(accepted.wall_ns, accepted.mono_ms);
        accepted.wall_ns < CLOCK_SET_NS || least.is_some_and(|least| said.saturating_add(BEHIND_NS) < least)
    }

    /// What the wall clock would have said, had it been in step then; `None` when it never was in that boot.
    pub(crate) fn corrected_ns(&self, accepted: Stamp, boot: BootId) -> Option<u64> {
        let offset = self.boots.iter().find(|b| b.id == boot)?.offset_ns?;
        u64::try_from(wall(offset, accepted.mono_ms)).ok()
    }

    /// Whether it is the boot of the last look.
    pub(crate) fn is_present(&self, boot: BootId) -> bool {
        self.boots.last().is_none_or(|last| last.id == boot)
    }

    /// Something is to be written that should not wait for a commit, or has for long: a machine that is on and idle must not
    /// seem to be off.
    pub(crate) fn is_overdue(&self) -> bool {
        self.news || self.boots.last().is_some_and(|boot| boot.until_ms - boot.noted_ms >= NOTE_ALONE_MS)
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.boots.iter().any(|boot| boot.dirty)
    }

    /// The records that changed, or all, by epoch.
    pub(crate) fn take_records(&mut self, all: bool) -> Vec<(u32, Vec<u8>)> {
        self.news = false;
        let due = self.boots.iter_mut().filter(|boot| all || boot.dirty);
        due.map(|boot| {
            (boot.dirty, boot.noted_ms) = (false, boot.until_ms);
            let mut pen = Pen::default();
            pen.u8(1);
            pen.0.extend_from_slice(&boot.id.0);
            pen.u64(boot.from_ms);
            pen.u64(boot.until_ms);
            pen.u8(boot.offset_ns.is_some().into());
            pen.u64(boot.offset_ns.unwrap_or(0).cast_unsigned());
            (boot.epoch, pen.seal())
        })
        .collect()
    }

    /// Reads [`Chronicle::take_records`]'s record back.
    pub(crate) fn restore(&mut self, epoch: u32, record: &[u8]) -> Result<(), Damage> {
        let mut eye = Eye::unseal(record)?;
        match eye.u8()? {
            1 => {}
            other => return Err(Damage::Unknown { what: "boot version", found: other.into() }),
        }
        let (id, from_ms, until_ms) = (BootId(eye.id()?), eye.u64()?, eye.u64()?);
        let (known, offset) = (eye.u8()? == 1, eye.u64()?.cast_signed());
        if until_ms < from_ms {
            return Err(Damage::Range("time of a boot"));
        }
        let offset_ns = known.then_some(offset);
        let boot = Boot { id, epoch, from_ms, until_ms, offset_ns, noted_ms: until_ms, dirty: false };
        // A boot that was seen again stands where it was seen last; what a segment says of it twice, the last counts.
        self.boots.retain(|b| b.epoch != epoch && (b.id != id || b.epoch > epoch));
        if self.boots.iter().all(|b| b.id != id) {
            self.boots.insert(self.boots.partition_point(|b| b.epoch < epoch), boot);
        }
        self.boots.drain(..self.boots.len().saturating_sub(BOOTS_MAX));
        Ok(())
    }
}

fn ns_of(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000)
}

fn offset(wall_ns: u64, mono_ms: u64) -> i64 {
    i64::try_from(wall_ns).unwrap_or(i64::MAX).saturating_sub(ns_of(mono_ms))
}

fn wall(offset_ns: i64, mono_ms: u64) -> i64 {
    offset_ns.saturating_add(ns_of(mono_ms))
}

#[cfg(test)]
mod tests;
