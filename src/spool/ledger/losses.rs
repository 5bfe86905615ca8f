//! The ledger's losses: when what was lost came from, and what of it the far ends know.

use super::{GAPS_RECORD, Ledger, Record, Side, control_key, main_lane_name};
use crate::spool::cursor::UNREAD_MAX;
use crate::spool::gaps::{Dates, Gaps, Loss, Stretch, add};
use crate::spool::{ExporterNo, Lane, Reason};
use std::collections::HashMap;
use std::ops::Range;

impl Ledger {
    /// What this exporter lost in the lane by this reason, and was not dated yet, came from then. Told under the same lock as the
    /// loss itself, or soon after it: a loss without dates is counted all the same.
    pub(crate) fn date(&mut self, exporter: ExporterNo, lane: Lane, reason: Reason, dates: Option<Dates>) {
        let at = (exporter.0, lane.0);
        let Some(lost) = self.cursors.get(&at).map(|c| c.counts.lost[reason as usize]) else { return };
        if lost > 0 {
            self.gaps.entry(at).or_default().date(reason, lost, dates);
        }
    }

    /// The same for every reader of the lane.
    pub(crate) fn date_for_all(&mut self, lane: Lane, reason: Reason, dates: Option<Dates>) {
        let readers: Vec<ExporterNo> = self.readers(lane).map(|(no, _)| no).collect();
        readers.into_iter().for_each(|exporter| self.date(exporter, lane, reason, dates));
    }

    /// Items of a lane in memory that were not taken at all, now.
    pub(crate) fn missed(&mut self, lane: Lane, items: u64, now_ns: u64) {
        let readers: Vec<u32> = self.readers(lane).map(|(no, _)| no.0).collect();
        for exporter in readers {
            let gaps = self.gaps.entry((exporter, lane.0)).or_default();
            gaps.missed += items;
            add(&mut gaps.stretches[Reason::Evicted as usize], Stretch { from: now_ns, to: now_ns, items });
        }
    }

    /// See [`Ledger::missed`].
    pub(super) fn missed_of(&self, exporter: u32, lane: u32) -> u64 {
        self.gaps.get(&(exporter, lane)).map_or(0, |gaps| gaps.missed)
    }

    /// A hole that began at this total, before this block or (`None`) before the lane's end, was passed over and is dated by its
    /// neighbours.
    pub(crate) fn date_hole(&mut self, exporter: ExporterNo, lane: Lane, from: u64, behind: Option<Dates>) {
        let reached = self.reached.get(&(exporter.0, lane.0)).into_iter().flatten();
        let before = reached.filter(|(at, _)| *at <= from).max_by_key(|(at, _)| *at).map(|(_, dates)| *dates);
        let behind = behind.or_else(|| self.newest(lane));
        self.date(exporter, lane, Reason::Corrupt, Dates::between(before, behind));
    }

    /// Blocks of these totals, the last of this date, were handed out to the exporter, or passed.
    pub(crate) fn reach(&mut self, exporter: ExporterNo, lane: Lane, totals: &Range<u64>, dates: Option<Dates>) {
        let Some(dates) = dates else { return };
        let reached = self.reached.entry((exporter.0, lane.0)).or_default();
        // The end of the last window before goes with it: nothing is unread there any more.
        let before = reached.iter().filter(|(at, _)| *at <= totals.start).map(|(at, _)| *at).max();
        reached.retain(|(at, _)| Some(*at) != before);
        if reached.len() > UNREAD_MAX {
            reached.remove(0);
        }
        reached.push((totals.end, dates));
    }

    /// Dates of the newest block of the lane that this life knows.
    pub(crate) fn newest(&self, lane: Lane) -> Option<Dates> {
        self.lanes.get(&lane.0)?.newest
    }

    /// The last step of restoring: what was lost by then has the dates it has.
    pub(super) fn heal_gaps(&mut self) {
        for (at, cursor) in self.cursors.iter().filter(|(_, c)| c.counts.lost.iter().any(|n| *n > 0)) {
            self.gaps.entry(*at).or_default().dated = cursor.counts.lost;
        }
        let cursors = &self.cursors;
        self.gaps.retain(|at, _| cursors.contains_key(at));
    }

    pub(super) fn gaps_records(&mut self, all: bool) -> Vec<Record> {
        let says = |gaps: &Gaps| {
            gaps.since > 0 || gaps.told.iter().any(|n| *n > 0) || gaps.stretches.iter().any(|s| !s.is_empty())
        };
        let changed = self.gaps.iter_mut().filter(|(_, gaps)| (all || gaps.dirty) && says(gaps));
        let record = |((exporter, lane), gaps): (&(u32, u32), &mut Gaps)| {
            gaps.dirty = false;
            (control_key(GAPS_RECORD, &[*exporter, *lane]), gaps.write())
        };
        changed.map(record).collect()
    }

    /// What was lost, by pipeline, exporter and reason; side lanes count with their pipeline. Of one exporter, or of all.
    pub(crate) fn losses(&self, of: Option<ExporterNo>) -> Vec<Loss> {
        let by_name: HashMap<&str, u32> = self.lanes.iter().map(|(no, lane)| (&lane.name[..], *no)).collect();
        let mut losses = Vec::new();
        for ((exporter, lane), cursor) in &self.cursors {
            let (Some(owner), Some(state)) = (self.exporters.get(exporter), self.lanes.get(lane)) else { continue };
            if main_lane_name(&state.name, &owner.name) != state.name || of.is_some_and(|no| no.0 != *exporter) {
                continue;
            }
            let side = |side: Side| by_name.get(&format!("{}/{}/{}", side.name(), owner.name, state.name)[..]).copied();
            let beside: Vec<u32> = [Side::Park, Side::Dead, Side::Quarantine].into_iter().filter_map(side).collect();
            let main = self.gaps.get(&(*exporter, *lane));
            for reason in Reason::ALL {
                let mut items = cursor.counts.lost[reason as usize];
                if reason == Reason::Evicted {
                    items += self.missed_of(*exporter, *lane);
                }
                let mut stretches: Vec<Stretch> = main.map_or_else(Vec::new, |g| g.stretches[reason as usize].clone());
                for no in &beside {
                    items += self.cursors.get(&(*exporter, *no)).map_or(0, |c| c.counts.lost[reason as usize]);
                    let theirs = self.gaps.get(&(*exporter, *no)).map(|gaps| &gaps.stretches[reason as usize]);
                    theirs.into_iter().flatten().for_each(|s| add(&mut stretches, *s));
                }
                if items > 0 {
                    losses.push(Loss {
                        lane: state.name.clone(),
                        exporter: owner.name.clone(),
                        reason,
                        items,
                        told: main.map_or(0, |gaps| gaps.told[reason as usize]),
                        since: main.map_or(0, |gaps| gaps.since),
                        stretches,
                    });
                }
            }
        }
        losses
    }

    /// What is to be told to an exporter's far end: all its losses, if it does not know of some of them. Its series begin now, if
    /// they have not begun: where the first of the lost items came from, for there nothing was lost yet.
    pub(crate) fn untold(&mut self, exporter: ExporterNo, now_ns: u64) -> Vec<Loss> {
        let mut losses = self.losses(Some(exporter));
        if !losses.iter().any(Loss::is_news) {
            return Vec::new();
        }
        let first = |lane: &str| {
            let theirs = losses.iter().filter(|loss| loss.lane == lane).flat_map(|loss| &loss.stretches);
            theirs.map(|s| s.from).min().unwrap_or(now_ns).min(now_ns)
        };
        let begun: Vec<(String, u64)> =
            losses.iter().filter(|loss| loss.since == 0).map(|loss| (loss.lane.clone(), first(&loss.lane))).collect();
        for (name, since) in begun {
            self.gaps_of(exporter, &name, |gaps| {
                if gaps.since == 0 {
                    (gaps.since, gaps.dirty) = (since, true);
                }
            });
            losses.iter_mut().filter(|loss| loss.lane == name).for_each(|loss| loss.since = since);
        }
        losses
    }

    /// The far end has acknowledged to know of these.
    pub(crate) fn told(&mut self, exporter: ExporterNo, losses: &[Loss]) {
        for loss in losses {
            self.gaps_of(exporter, &loss.lane, |gaps| {
                let told = &mut gaps.told[loss.reason as usize];
                if *told < loss.items {
                    (*told, gaps.dirty) = (loss.items, true);
                }
            });
        }
    }

    fn gaps_of(&mut self, exporter: ExporterNo, lane: &str, change: impl FnOnce(&mut Gaps)) {
        let Some(no) = self.lanes.iter().find(|(_, state)| state.name == lane).map(|(no, _)| *no) else { return };
        let Some(cursor) = self.cursors.get(&(exporter.0, no)) else { return };
        // One that is made only now has no dates of what was lost before.
        let fresh = || Gaps { dated: cursor.counts.lost, ..Gaps::default() };
        change(self.gaps.entry((exporter.0, no)).or_insert_with(fresh));
    }
}
