//! When lost items came from, and what of the losses the far end knows. Pure: no clock, no disk.
//!
//! The *counts* of losses are the cursor's (`cursor.rs`) and are never less than what is lost. What stands here are their dates,
//! as far as headers say them, and the counts the far end has acknowledged. Both lie in a record of their own
//! (`docs/spool-format.md` §1), written with the same commits as the cursor.
//!
//! What always holds:
//! * at most [`STRETCHES_MAX`] stretches for each reason, in order, not touching; together they cover every date that was told;
//! * what was told to the far end is no more than what it acknowledged.

use super::Reason;
use super::block::{FLAG_CLOCK_UNSET, Header};
use super::codec::{Damage, Eye, Pen};

/// Stretches that are remembered for each reason. Of more, the two that lie closest together become one.
pub const STRETCHES_MAX: usize = 8;

/// Stretches with less than this between them are one: a minute, the resolution people look at an outage with.
const TOUCHES_NS: u64 = 60 * 1_000_000_000;

/// How far the times in the data may lie before the time it was accepted, and be believed: 31 days, longer than devices buffer.
/// What is further off is a device whose clock was not set; the accept time is better.
const DATA_AGE_MAX_NS: u64 = 31 * 86_400 * 1_000_000_000;

/// From when to when, ns since 1970, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dates {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Dates {
    /// What a block says: the times in its data as far as they can be believed, else when it was accepted; `None` when neither
    /// clock was set.
    pub(crate) fn of(h: &Header) -> Option<Dates> {
        let (first, last) = h.data_ns;
        if h.flags & FLAG_CLOCK_UNSET != 0 {
            let named = first > 0 && last >= first;
            return named.then_some(Dates { from: first, to: last });
        }
        let accepted = h.accepted.wall_ns;
        let believed =
            |at: u64| if (accepted.saturating_sub(DATA_AGE_MAX_NS)..=accepted).contains(&at) { at } else { accepted };
        let (from, to) = (believed(first), believed(last));
        Some(Dates { from: from.min(to), to: to.max(from) })
    }

    /// From the first date of the one to the last of the other.
    pub(crate) fn hull(a: Option<Dates>, b: Option<Dates>) -> Option<Dates> {
        match (a, b) {
            (Some(a), Some(b)) => Some(Dates { from: a.from.min(b.from), to: a.to.max(b.to) }),
            (one, none) => one.or(none),
        }
    }

    /// A hole's, by its neighbours: behind the last of the one, before the first of the other.
    pub(crate) fn between(before: Option<Dates>, behind: Option<Dates>) -> Option<Dates> {
        let (from, to) = match (before, behind) {
            (Some(before), Some(behind)) => (before.to, behind.from),
            (Some(one), None) => (one.to, one.to),
            (None, Some(one)) => (one.from, one.from),
            (None, None) => return None,
        };
        Some(Dates { from: from.min(to), to: to.max(from) })
    }
}

/// Lost items and the time they came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first of them, ns since 1970.
    pub from: u64,
    /// The last of them.
    pub to: u64,
    /// How many.
    pub items: u64,
}

/// The dates of one exporter's losses in one lane, and what its far end knows of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Gaps {
    /// Nothing was lost before this, ns since 1970; 0: not known.
    pub(crate) since: u64,
    /// By [`Reason`].
    pub(crate) stretches: [Vec<Stretch>; Reason::ALL.len()],
    /// What the far end has acknowledged, by [`Reason`]; of a pipeline and its side lanes, kept with the pipeline's.
    pub(crate) told: [u64; Reason::ALL.len()],
    /// Lost items that have been dated, or never will be. Not stored: what is there at a start has its dates or has none.
    pub(crate) dated: [u64; Reason::ALL.len()],
    /// Items that never were in the lane, and count as accepted and evicted: a store in memory did not take them. Not stored.
    pub(crate) missed: u64,
    /// Must be written again.
    pub(crate) dirty: bool,
}

impl Gaps {
    /// So many items are lost by now; those that are new came from then.
    pub(crate) fn date(&mut self, reason: Reason, lost: u64, dates: Option<Dates>) {
        let dated = &mut self.dated[reason as usize];
        let items = lost.saturating_sub(*dated);
        *dated = lost;
        if let Some(Dates { from, to }) = dates.filter(|_| items > 0) {
            add(&mut self.stretches[reason as usize], Stretch { from, to, items });
            self.dirty = true;
        }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut pen = Pen::default();
        pen.u8(1);
        pen.u64(self.since);
        pen.count(Reason::ALL.len());
        for (told, stretches) in self.told.iter().zip(&self.stretches) {
            pen.u64(*told);
            pen.count(stretches.len());
            for s in stretches {
                for n in [s.from, s.to, s.items] {
                    pen.u64(n);
                }
            }
        }
        pen.seal()
    }

    /// Reads [`Gaps::write`]'s record.
    pub(crate) fn read(record: &[u8]) -> Result<Gaps, Damage> {
        let mut eye = Eye::unseal(record)?;
        match eye.u8()? {
            1 => {}
            other => return Err(Damage::Unknown { what: "gaps version", found: other.into() }),
        }
        let mut gaps = Gaps { since: eye.u64()?, ..Gaps::default() };
        for reason in 0..eye.count(12)? {
            let told = eye.u64()?;
            let mut stretches = Vec::new();
            for _ in 0..eye.count(24)? {
                add(&mut stretches, Stretch { from: eye.u64()?, to: eye.u64()?, items: eye.u64()? });
            }
            // A reason of a newer agent is nothing we could show.
            if let (Some(t), Some(s)) = (gaps.told.get_mut(reason), gaps.stretches.get_mut(reason)) {
                (*t, *s) = (told, stretches);
            }
        }
        Ok(gaps)
    }
}

/// Adds a stretch, keeping them in order, apart, and few.
pub(crate) fn add(stretches: &mut Vec<Stretch>, new: Stretch) {
    let new = Stretch { from: new.from.min(new.to), to: new.to.max(new.from), ..new };
    let at = stretches.partition_point(|s| s.from < new.from);
    stretches.insert(at, new);
    stretches.dedup_by(|next, prev| {
        let touch = next.from <= prev.to.saturating_add(TOUCHES_NS);
        if touch {
            join(prev, *next);
        }
        touch
    });
    while stretches.len() > STRETCHES_MAX {
        let apart = |i: &usize| stretches[i + 1].from - stretches[*i].to;
        let closest = (0..stretches.len() - 1).min_by_key(apart).expect("more than eight");
        let next = stretches.remove(closest + 1);
        join(&mut stretches[closest], next);
    }
}

fn join(a: &mut Stretch, b: Stretch) {
    a.to = a.to.max(b.to);
    a.items = a.items.saturating_add(b.items);
}

/// What one exporter's far end will never get of one pipeline, by one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The pipeline's lane.
    pub lane: String,
    /// The exporter.
    pub exporter: String,
    /// Why.
    pub reason: Reason,
    /// How many items, ever.
    pub items: u64,
    /// How many of them the far end has acknowledged to know of.
    pub told: u64,
    /// None was lost before this, ns since 1970; 0: not known.
    pub since: u64,
    /// When they came from, as far as it is known: in order, apart, at most [`STRETCHES_MAX`].
    pub stretches: Vec<Stretch>,
}

impl Loss {
    /// The far end does not know of all of them.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.items > self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BootId, Stamp};
    use crate::otlp::Signal;
    use crate::spool::Lane;
    use proptest::prelude::*;

    const MINUTE: u64 = TOUCHES_NS;

    fn stretch(from: u64, to: u64, items: u64) -> Stretch {
        Stretch { from, to, items }
    }

    /// Whole hours that are apart stay apart while there is room; what touches is one.
    #[test]
    fn stretches_that_touch_are_one() {
        let mut s = Vec::new();
        add(&mut s, stretch(10 * MINUTE, 11 * MINUTE, 1));
        add(&mut s, stretch(20 * MINUTE, 21 * MINUTE, 2));
        assert_eq!(s.len(), 2);
        add(&mut s, stretch(12 * MINUTE, 13 * MINUTE, 4));
        assert_eq!(s, [stretch(10 * MINUTE, 13 * MINUTE, 5), stretch(20 * MINUTE, 21 * MINUTE, 2)]);
        add(&mut s, stretch(9 * MINUTE, 30 * MINUTE, 8));
        assert_eq!(s, [stretch(9 * MINUTE, 30 * MINUTE, 15)]);
    }

    #[test]
    fn of_too_many_the_closest_two_become_one() {
        let mut s = Vec::new();
        for i in 0..8 {
            add(&mut s, stretch(i * 100 * MINUTE, i * 100 * MINUTE, 1));
        }
        add(&mut s, stretch(250 * MINUTE, 250 * MINUTE, 1));
        assert_eq!(s.len(), 8);
        assert_eq!(s[2], stretch(200 * MINUTE, 250 * MINUTE, 2));
    }

    #[test]
    #[rustfmt::skip]
    fn a_blocks_dates_are_its_datas_where_they_can_be_believed() {
        let day = 86_400_000_000_000;
        let now = 20_000 * day;
        let header = |flags, data_ns| Header {
            signal: Signal::Logs, flags, lane: Lane(0), items: 1, index: 0, accepted_total: 1, block_id: 0, raw_len: 0,
            payload_len: 0, accepted: Stamp { wall_ns: now, mono_ms: 0 }, boot: BootId::default(), data_ns, payload_sum: 0,
        };
        for (flags, data, expected) in [
            (0, (0, 0),                       Some((now, now))),
            (0, (now - day, now - 5),         Some((now - day, now - 5))),
            (0, (7, now - 5),                 Some((now - 5, now))), // a device in 1970 among others
            (0, (now - 5, now + day),         Some((now - 5, now))), // one in the future
            (0, (now - 40 * day, now - 40 * day), Some((now, now))),
            (FLAG_CLOCK_UNSET, (0, 0),        None),
            (FLAG_CLOCK_UNSET, (now, now + 1), Some((now, now + 1))),
        ] {
            let dates = Dates::of(&header(flags, data)).map(|d| (d.from, d.to));
            assert_eq!(dates, expected, "{flags} {data:?}");
        }
    }

    proptest! {
        /// Whatever is added: in order, apart, at most eight; every date told is covered, and no item is left out.
        #[test]
        fn stretches_cover_all_that_was_told(told in prop::collection::vec((0..10_000_u64, 0..300_u64, 1..9_u64), 1..60)) {
            let mut gaps = Gaps::default();
            let mut lost = 0;
            for (from, len, items) in &told {
                lost += items;
                let dates = Dates { from: from * MINUTE, to: (from + len) * MINUTE };
                gaps.date(Reason::Evicted, lost, Some(dates));
                gaps.date(Reason::Evicted, lost, Some(dates)); // nothing new
            }
            let s = &gaps.stretches[Reason::Evicted as usize];
            prop_assert!(s.len() <= STRETCHES_MAX && s.windows(2).all(|w| w[0].to + MINUTE < w[1].from));
            prop_assert_eq!(s.iter().map(|s| s.items).sum::<u64>(), lost);
            for (from, len, _) in told {
                let covered = s.iter().any(|s| s.from <= from * MINUTE && (from + len) * MINUTE <= s.to);
                prop_assert!(covered, "{} {} in {:?}", from, len, s);
            }
            let read = Gaps::read(&gaps.write()).expect("just written");
            prop_assert_eq!(read.stretches, gaps.stretches);
        }

        #[test]
        fn garbage_is_no_record(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Gaps::read(&garbage).is_err());
        }
    }
}
