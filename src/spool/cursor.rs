//! One exporter's place in one lane: what is settled, what is out, what is lost. Pure: no clock, no disk.
//!
//! ```text
//!  total   0 ········ below ────────┬── window ──┬─────────────┬── window ──┬──────────── tip
//!          settled, all of it       │ out        │ unread:     │ back       │ unread: what comes in now
//!                                   │            │ a backlog   │            │
//!                                   └ settled parts inside are listed       └ after an outage from `jump` on
//! ```
//!
//! Places are kept in *totals*, items counted since the lane began, so every question of the books is a subtraction.
//! What lies in no window is *unread*: nobody had it yet. In the order of the lane there is one such stretch, at the end;
//! when fresh data goes first (promise P6) an older one stays behind for each outage that is not caught up with.
//!
//! What always holds (checked by [`Cursor::audit`]):
//! * windows lie above `below`, in order, and do not overlap;
//! * (`below` − `base`) + settled in windows = delivered + moved + lost + burnt.
//!
//! A settlement that moves data (parked, dead letter, quarantine) is *held* while the block it moves to is on its way
//! to the disk: reserved, but not settled. A record that somebody else writes meanwhile knows nothing of it; the record
//! in its own commit does. So no crash leaves a cursor that is past data whose new place does not exist.

use super::codec::{Damage, Eye, Pen};
use super::ledger::subtract;
use super::{Cut, Reason};
use std::ops::Range;

/// What became of settled items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Arrived, but for `rejected` of them.
    Delivered {
        /// Refused by the far end in a partial success.
        rejected: u64,
    },
    /// Lives on in the park lane.
    Parked,
    /// Lives on in the dead-letter lane.
    DeadLetter,
    /// Lives on in the quarantine lane.
    Quarantined,
    /// Gone.
    Lost(Reason),
    /// Never was: its commit was answered with an error.
    Burnt,
}

/// Items of a settlement that had a fate of their own before: one of several endpoints took them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Before {
    /// Arrived.
    pub(crate) delivered: u64,
    /// Refused by that endpoint in a partial success.
    pub(crate) rejected: u64,
}

impl Before {
    pub(crate) fn items(self) -> u64 {
        self.delivered + self.rejected
    }

    /// No more than there are.
    pub(crate) fn of(self, items: u32) -> Before {
        let delivered = self.delivered.min(items.into());
        Before { delivered, rejected: self.rejected.min(u64::from(items) - delivered) }
    }
}

/// Counters of settled items, by fate. They never fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) delivered: u64,
    pub(crate) parked: u64,
    pub(crate) dead_letters: u64,
    pub(crate) quarantined: u64,
    pub(crate) burnt: u64,
    pub(crate) lost: [u64; Reason::ALL.len()],
}

impl Counts {
    pub(crate) fn settled(&self) -> u64 {
        self.delivered + self.parked + self.dead_letters + self.quarantined + self.burnt + self.lost.iter().sum::<u64>()
    }

    fn each(&mut self, items: u64, fate: Fate, mut change: impl FnMut(&mut u64, u64)) {
        match fate {
            Fate::Delivered { rejected } => {
                let rejected = rejected.min(items);
                change(&mut self.delivered, items - rejected);
                change(&mut self.lost[Reason::Rejected as usize], rejected);
            }
            Fate::Parked => change(&mut self.parked, items),
            Fate::DeadLetter => change(&mut self.dead_letters, items),
            Fate::Quarantined => change(&mut self.quarantined, items),
            Fate::Lost(reason) => change(&mut self.lost[reason as usize], items),
            Fate::Burnt => change(&mut self.burnt, items),
        }
    }

    fn add(&mut self, items: u64, fate: Fate) {
        self.each(items, fate, |to, n| *to += n);
    }
}

/// Blocks that were handed out together, and what of them is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// The blocks, by index.
    pub(crate) index: Range<u64>,
    /// The same in totals.
    pub(crate) totals: Range<u64>,
    /// How it is cut into uploads, for ever.
    pub(crate) cut: Cut,
    /// Settled parts in totals: sorted, not touching.
    pub(crate) settled: Vec<Range<u64>>,
    /// Somebody has it now. Not stored: nobody has anything after a restart.
    pub(crate) out: bool,
    /// Its beginning was evicted since it went out: who has it does not know.
    pub(crate) trimmed: bool,
}

impl Window {
    pub(crate) fn items(&self) -> u64 {
        len(&self.totals)
    }
    pub(crate) fn settled_items(&self) -> u64 {
        self.settled.iter().map(len).sum()
    }
    pub(crate) fn done(&self) -> bool {
        self.settled_items() == self.items()
    }
}

fn len(r: &Range<u64>) -> u64 {
    r.end - r.start
}

/// How much of `a` lies in `b`.
fn common(a: &Range<u64>, b: &Range<u64>) -> u64 {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

/// A settlement whose commit is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    part: Range<u64>,
    fate: Fate,
    /// Those of its items that have another fate already.
    before: Before,
    /// The commit being written is its own: the record in it says that the part is settled.
    writing: bool,
    /// What became of that of it which gave way meanwhile, should the settlement fail.
    gone: Fate,
}

/// A stretch of the lane that came in while the exporter did not read it: nothing of it is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Absence {
    /// The blocks; without an end while it is still away.
    pub(crate) index: Range<u64>,
    /// The same in totals.
    pub(crate) totals: Range<u64>,
}

/// What nobody had yet, between two windows or beyond the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    /// The blocks; without an end beyond the last window.
    pub(crate) index: Range<u64>,
    /// The same in totals.
    pub(crate) totals: Range<u64>,
}

impl Unread {
    /// Where it begins: index and total.
    pub(crate) fn start(&self) -> (u64, u64) {
        (self.index.start, self.totals.start)
    }

    /// Something of a later place was handed out before it, or will be.
    pub(crate) fn is_backlog(&self) -> bool {
        self.totals.end < u64::MAX
    }
}

/// Most unread stretches at a time: so many outages may be behind one another of which none is caught up with. Beyond them what
/// came in during the last one goes before what comes in now. 64 of them make a record of 4 KiB, written with each settlement.
pub(crate) const UNREAD_MAX: usize = 64;

/// Most absences that are remembered at a time: so often may an exporter leave and return with data of its own between
/// that it has not sent. Beyond them it does not leave any more, and what comes in waits for it.
const ABSENCES_MAX: usize = 64;

/// The place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Every block of a lower index is settled.
    pub(crate) below: u64,
    /// Every item of a lower total is settled.
    pub(crate) below_total: u64,
    /// The lane's total when the exporter joined.
    pub(crate) base: u64,
    pub(crate) counts: Counts,
    pub(crate) windows: Vec<Window>,
    /// In what is unread, in order; the last without an end if the exporter is away.
    pub(crate) absences: Vec<Absence>,
    /// From here on (index and total) the last unread stretch is read, and the part before is a backlog, although nothing was
    /// handed out there yet. Not stored: the first window that is taken there says it too.
    pub(crate) jump: Option<(u64, u64)>,
    /// Must be written again.
    pub(crate) dirty: bool,
    held: Vec<Held>,
}

/// Why a settlement is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotOut;

impl Cursor {
    /// An exporter that joins at the lane's tip.
    pub(crate) fn at_tip(next_index: u64, tip: u64) -> Cursor {
        Cursor {
            below: next_index,
            below_total: tip,
            base: tip,
            counts: Counts::default(),
            windows: Vec::new(),
            absences: Vec::new(),
            jump: None,
            dirty: true,
            held: Vec::new(),
        }
    }

    /// Nobody reads the lane for this exporter any more.
    pub(crate) fn is_away(&self) -> bool {
        self.absences.last().is_some_and(|a| a.totals.end == u64::MAX)
    }

    /// What comes in from here on is not its own. `false`: it has left too often and stays.
    pub(crate) fn leave(&mut self, next_index: u64, tip: u64) -> bool {
        if self.is_away() {
            return true;
        }
        self.jump = None; // nothing comes in for it
        let count = self.absences.len();
        match self.absences.last_mut() {
            // Nothing came in since it was back.
            Some(last) if last.totals.end == tip => (last.index.end, last.totals.end) = (u64::MAX, u64::MAX),
            _ if count == ABSENCES_MAX => return false,
            _ => self.absences.push(Absence { index: next_index..u64::MAX, totals: tip..u64::MAX }),
        }
        self.dirty = true;
        true
    }

    /// What comes in from here on is its own again.
    pub(crate) fn come_back(&mut self, next_index: u64, tip: u64) {
        if !self.is_away() {
            return;
        }
        let last = self.absences.last_mut().expect("it is away");
        (last.index.end, last.totals.end) = (next_index.max(last.index.start), tip.max(last.totals.start));
        if last.totals.is_empty() {
            self.absences.pop();
        }
        self.dirty = true;
        self.skip_absences();
    }

    /// Moves what is unread over absences that it begins with.
    pub(crate) fn skip_absences(&mut self) {
        while !self.absences.is_empty() {
            let unread = self.unread();
            let begins = |a: &Absence, u: &Unread| a.totals.end < u64::MAX && a.totals.contains(&u.totals.start);
            let found = unread.iter().find_map(|u| Some((u, self.absences.iter().position(|a| begins(a, u))?)));
            let Some((from, at)) = found else { break };
            let absence = self.absences.remove(at);
            let to = (absence.index.end, absence.totals.end);
            self.pass(from.start(), to, absence.totals.end - from.totals.start, Fate::Burnt);
        }
    }

    /// What nobody had yet, in order; the last one is what comes in.
    pub(crate) fn unread(&self) -> Vec<Unread> {
        let mut unread = Vec::new();
        let (mut index, mut total) = (self.below, self.below_total);
        for w in &self.windows {
            if w.totals.start > total {
                unread.push(Unread { index: index..w.index.start, totals: total..w.totals.start });
            }
            (index, total) = (w.index.end, w.totals.end);
        }
        if let Some((to_index, to)) = self.jump.filter(|(_, to)| *to > total) {
            unread.push(Unread { index: index..to_index, totals: total..to });
            (index, total) = (to_index, to);
        }
        unread.push(Unread { index: index..u64::MAX, totals: total..u64::MAX });
        unread
    }

    /// The unread stretch that this total lies in.
    pub(crate) fn unread_at(&self, total: u64) -> Option<Unread> {
        self.unread().into_iter().find(|u| u.totals.contains(&total))
    }

    /// Where what can be read from this total on ends, in a lane with this end: index and total.
    pub(crate) fn end(&self, from: u64, next_index: u64, tip: u64) -> (u64, u64) {
        let around = self.unread_at(from).filter(Unread::is_backlog);
        let border = around.as_ref().map_or((next_index, tip), |u| (u.index.end, u.totals.end));
        // What comes in ends where it left, although nothing may have come in since.
        let before = |a: &&Absence| a.totals.start >= from && (a.totals.start < border.1 || around.is_none());
        self.absences.iter().find(before).map_or(border, |a| (a.index.start, a.totals.start))
    }

    /// How many of these blocks it may still need, at most.
    pub(crate) fn needed(&self, blocks: &Range<u64>) -> u64 {
        let open = blocks.start.max(self.below)..blocks.end;
        let done = self.windows.iter().filter(|w| w.done()).map(|w| common(&w.index, &open)).sum::<u64>();
        let away: u64 = self.absences.iter().map(|a| common(&a.index, &open)).sum();
        open.end.saturating_sub(open.start) - away - done
    }

    /// The end of the last window, index and total: everything from there on nobody had yet.
    pub(crate) fn frontier(&self) -> (u64, u64) {
        self.windows.last().map_or((self.below, self.below_total), |w| (w.index.end, w.totals.end))
    }

    /// Items handed out before and not settled, in windows nobody has now.
    pub(crate) fn returned_items(&self) -> u64 {
        self.windows.iter().filter(|w| !w.out).map(|w| w.items() - w.settled_items()).sum()
    }

    /// Items in windows that are not settled, those included whose settlement is held.
    pub(crate) fn unsettled_items(&self) -> u64 {
        self.windows.iter().map(|w| w.items() - w.settled_items()).sum::<u64>() + self.evicted_while_held()
    }

    /// Items of held settlements that were evicted meanwhile. What became of them is said when the settlement ends.
    fn evicted_while_held(&self) -> u64 {
        self.held.iter().map(|h| common(&h.part, &(0..self.below_total))).sum()
    }

    /// Parts of totals that are settled or about to be: nobody may settle them again.
    pub(crate) fn taken(&self) -> Vec<Range<u64>> {
        let settled = self.windows.iter().flat_map(|w| w.settled.iter().cloned());
        let mut taken: Vec<Range<u64>> = settled.chain(self.held.iter().map(|h| h.part.clone())).collect();
        taken.sort_by_key(|r| r.start);
        taken
    }

    /// The oldest window that came back and is not done, or the newest; it becomes `out`.
    pub(crate) fn take_returned(&mut self, newest: bool) -> Option<Window> {
        let mut back = self.windows.iter_mut().filter(|w| !w.out && !w.done());
        let window = if newest { back.next_back() } else { back.next() }?;
        window.out = true;
        Some(window.clone())
    }

    /// Hands out something unread. What is left before it stays so: a hole there the caller has passed.
    pub(crate) fn take_new(&mut self, index: Range<u64>, totals: Range<u64>, cut: Cut) -> Window {
        let window = Window { index, totals, cut, settled: Vec::new(), out: true, trimmed: false };
        self.put(window.clone());
        window
    }

    /// A window among the others, by its place.
    fn put(&mut self, window: Window) {
        let place = |w: &Window| (w.totals.start, w.index.start);
        let at = self.windows.partition_point(|w| place(w) < place(&window));
        self.windows.insert(at, window);
        self.dirty = true;
    }

    /// The window of these blocks. Its end names it: its beginning moves when it is evicted.
    pub(crate) fn window(&self, index: &Range<u64>) -> Option<Window> {
        self.windows.iter().find(|w| w.index.end == index.end).cloned()
    }

    /// Replaces a window of which nothing is settled by one per block (index and total before), all of them back.
    pub(crate) fn split(&mut self, index: &Range<u64>, places: &[(u64, u64)]) {
        let Some(at) = self.windows.iter().position(|w| w.index == *index && w.settled.is_empty()) else { return };
        let whole = self.windows[at].clone();
        if self.held.iter().any(|h| common(&h.part, &whole.totals) > 0) {
            return;
        }
        let mut starts = places.to_vec();
        if let Some(first) = starts.first_mut() {
            *first = (whole.index.start, whole.totals.start); // a hole in front stays part of the first
        }
        let ends = starts.iter().skip(1).copied().chain([(whole.index.end, whole.totals.end)]);
        let parts = starts.iter().copied().zip(ends).map(|((i, t), (i_end, t_end))| Window {
            index: i..i_end,
            totals: t..t_end,
            out: false,
            trimmed: false,
            settled: Vec::new(),
            cut: whole.cut,
        });
        let parts: Vec<Window> = parts.collect();
        self.windows.splice(at..=at, parts);
        self.dirty = true;
    }

    /// Gives a window back. What of it is settled stays so.
    pub(crate) fn give_back(&mut self, index: &Range<u64>) {
        if let Some(w) = self.windows.iter_mut().find(|w| w.index.end == index.end) {
            (w.out, w.trimmed) = (false, false);
        }
        self.collapse();
    }

    /// Everything that is out comes back: its owner was retired.
    pub(crate) fn give_back_all(&mut self) {
        for w in &mut self.windows {
            (w.out, w.trimmed) = (false, false);
        }
        self.collapse();
    }

    /// Reserves a part of a window that is out for this fate. It is settled by [`Cursor::confirm`] (its commit is down)
    /// and free again by [`Cursor::release`] (that failed); one of the two must follow.
    ///
    /// Returns what is reserved: the part, without its beginning if that was evicted since the window went out. A late
    /// success changes nothing about evicted items, and what moves elsewhere is not moved in halves: the caller looks.
    pub(crate) fn settle(&mut self, part: &Range<u64>, fate: Fate) -> Result<Range<u64>, NotOut> {
        let window = self.windows.iter().find(|w| w.out && common(&w.totals, part) > 0).ok_or(NotOut)?;
        let start = if window.trimmed { part.start.max(window.totals.start) } else { part.start };
        let part = start..part.end;
        let inside = window.totals.start <= part.start && part.end <= window.totals.end;
        let taken = window.settled.iter().chain(self.held.iter().map(|h| &h.part)).any(|s| common(s, &part) > 0);
        if !inside || taken {
            return Err(NotOut);
        }
        let gone = Fate::Lost(Reason::Evicted);
        self.held.push(Held { part: part.clone(), fate, before: Before::default(), writing: false, gone });
        Ok(part)
    }

    /// Some of what [`Cursor::settle`] reserved arrived before; its fate is that of the others.
    pub(crate) fn in_part(&mut self, part: &Range<u64>, before: Before) {
        self.held.iter_mut().filter(|h| h.part == *part).for_each(|h| h.before = before);
    }

    /// The fate of what [`Cursor::settle`] reserved is another one.
    pub(crate) fn refate(&mut self, part: &Range<u64>, fate: Fate) {
        self.held.iter_mut().filter(|h| h.part == *part).for_each(|h| h.fate = fate);
    }

    /// The commit of a held settlement is being written, or no longer is. Told by whoever writes it, while nobody else
    /// can write: only the record in that very commit may say that the part is settled.
    pub(crate) fn writing(&mut self, part: &Range<u64>, writing: bool) {
        for h in self.held.iter_mut().filter(|h| h.part == *part) {
            h.writing = writing;
            self.dirty = true;
        }
    }

    /// A held settlement is final.
    pub(crate) fn confirm(&mut self, part: &Range<u64>) {
        if let Some(at) = self.held.iter().position(|h| h.part == *part) {
            let held = self.held.swap_remove(at);
            self.apply(&held);
            self.dirty |= !held.writing; // its own commit said so already
        }
        self.collapse();
    }

    fn apply(&mut self, held: &Held) {
        for w in &mut self.windows {
            let here = held.part.start.max(w.totals.start)..held.part.end.min(w.totals.end);
            if !here.is_empty() {
                insert(&mut w.settled, here);
            }
        }
        let Before { delivered, rejected } = held.before;
        self.counts.add(delivered + rejected, Fate::Delivered { rejected });
        self.counts.add(len(&held.part) - held.before.items(), held.fate);
    }

    /// A held settlement failed: the part waits again. What of it was evicted meanwhile is lost.
    pub(crate) fn release(&mut self, part: &Range<u64>) {
        if let Some(at) = self.held.iter().position(|h| h.part == *part) {
            let held = self.held.swap_remove(at);
            self.give_up(&held);
        }
    }

    fn give_up(&mut self, held: &Held) {
        self.counts.add(common(&held.part, &(0..self.below_total)), held.gone);
        self.dirty = true;
    }

    /// So many items were accepted under totals that others have, and are lost to corruption. As totals are all spoken for, the
    /// exporter joined so much earlier, be it before the lane began.
    pub(crate) fn lose_beside(&mut self, items: u64) {
        self.base = self.base.wrapping_sub(items);
        self.counts.add(items, Fate::Lost(Reason::Corrupt));
        self.dirty = true;
    }

    /// As much of these places, index and total, as lies in the unread stretch that the first of them is in.
    pub(crate) fn clip(&self, from: (u64, u64), to: (u64, u64)) -> Option<[(u64, u64); 2]> {
        let unread = self.unread_at(from.1).filter(|u| u.index.start <= from.0)?;
        let to = (to.0.max(from.0).min(unread.index.end), to.1.max(from.1).min(unread.totals.end));
        Some([from, to])
    }

    /// What is unread between these places, index and total, will never be read: `burnt` items of it never were, the others have
    /// this fate.
    pub(crate) fn pass(&mut self, from: (u64, u64), to: (u64, u64), burnt: u64, fate: Fate) {
        let Some([(from_index, from_total), (index, total)]) = self.clip(from, to) else { return };
        let burnt = burnt.min(total - from_total);
        self.counts.add(burnt, Fate::Burnt);
        self.counts.add(total - from_total - burnt, fate);
        let cut = Cut { enough_items: 0, max_items: 0, max_bytes: 0 };
        let mut passed = Window {
            index: from_index..index,
            totals: from_total..total,
            cut,
            settled: Vec::new(),
            out: false,
            trimmed: false,
        };
        if total > from_total {
            passed.settled.push(passed.totals.clone());
        }
        if index > from_index || total > from_total {
            self.put(passed);
        }
        self.collapse();
    }

    /// Everything below `index`/`total` is gone (its segment was evicted); what of it was not settled has this fate,
    /// but for `burnt` unread items that never were. Returns how many items have the fate.
    pub(crate) fn evict_below(&mut self, index: u64, total: u64, burnt: u64, fate: Fate) -> u64 {
        if index <= self.below {
            return 0;
        }
        let unread = self.unread().iter().map(|u| common(&u.totals, &(0..total))).sum::<u64>();
        let burnt = burnt.min(unread);
        self.counts.add(burnt, Fate::Burnt);
        let mut gone = unread - burnt;
        for w in &mut self.windows {
            if w.totals.start >= total {
                continue;
            }
            let end = w.totals.end.min(total);
            let going = w.totals.start..end;
            let spoken_for = w.settled.iter().chain(self.held.iter().map(|h| &h.part));
            gone += len(&going) - spoken_for.map(|s| common(s, &going)).sum::<u64>();
            w.settled.retain_mut(|s| {
                s.start = s.start.max(end);
                s.start < s.end
            });
            w.trimmed = w.out;
            w.totals.start = end;
            w.index.start = w.index.start.max(index).min(w.index.end);
        }
        self.held.iter_mut().filter(|h| h.part.start < total).for_each(|h| h.gone = fate);
        self.windows.retain(|w| w.totals.end > total || w.index.end > index);
        self.counts.add(gone, fate);
        self.below = index;
        self.below_total = self.below_total.max(total);
        self.dirty = true;
        self.collapse();
        let (at, below) = (self.below, self.below_total);
        self.absences.retain_mut(|a| {
            a.index.start = a.index.start.max(at);
            a.totals.start = a.totals.start.max(below);
            a.totals.start < a.totals.end
        });
        self.skip_absences();
        gone
    }

    /// Up to `items` that are in windows and not settled have this fate, the newest first. For restoring: nothing is out
    /// and nothing held. Returns how many.
    pub(crate) fn write_off(&mut self, items: u64, fate: Fate) -> u64 {
        let mut left = items;
        for w in self.windows.iter_mut().rev() {
            for open in subtract(w.totals.clone(), &w.settled).into_iter().rev() {
                let part = open.end - len(&open).min(left)..open.end;
                left -= len(&part);
                if !part.is_empty() {
                    insert(&mut w.settled, part);
                }
            }
        }
        self.counts.add(items - left, fate);
        self.collapse();
        items - left
    }

    /// Moves `below` up over windows that are done and merges neighbours that are.
    pub(crate) fn collapse(&mut self) {
        let mut done = 0;
        for w in &self.windows {
            if !w.done() || w.totals.start > self.below_total {
                break;
            }
            self.below = w.index.end;
            self.below_total = w.totals.end;
            done += 1;
        }
        if done > 0 {
            self.windows.drain(..done);
            self.dirty = true;
        }
        self.jump = self.jump.filter(|(_, total)| *total > self.frontier().1);
        self.windows.dedup_by(|next, prev| {
            // Between their indices there may be some that no block has: a new start begins with a new number.
            let merge = prev.done() && next.done() && prev.totals.end == next.totals.start;
            if merge {
                prev.index.end = next.index.end;
                prev.totals.end = next.totals.end;
                prev.settled.clear();
                if !prev.totals.is_empty() {
                    prev.settled.push(prev.totals.clone());
                }
            }
            merge
        });
    }

    /// Whether this exporter is done with the block.
    pub(crate) fn is_settled(&self, index: u64) -> bool {
        index < self.below
            || self.windows.iter().any(|w| w.index.contains(&index) && w.done())
            || self.absences.iter().any(|a| a.index.contains(&index))
    }

    /// The identity of the books, inside one cursor.
    ///
    /// # Panics
    /// When it does not hold: only our own mistake can do that.
    pub(crate) fn audit(&self) {
        let settled = self.windows.iter().map(Window::settled_items).sum::<u64>();
        assert_eq!(
            self.below_total.wrapping_sub(self.base) + settled,
            self.counts.settled() + self.evicted_while_held(),
            "what is settled has a fate: {self:?}"
        );
        let mut at = (self.below, self.below_total);
        for w in &self.windows {
            assert!(at.0 <= w.index.start && at.1 <= w.totals.start, "windows are in order: {self:?}");
            assert!(w.index.start <= w.index.end && w.totals.start <= w.totals.end, "windows are ranges: {self:?}");
            let mut last = w.totals.start;
            for s in &w.settled {
                assert!(
                    last <= s.start && s.start < s.end && s.end <= w.totals.end,
                    "settled parts are in order: {self:?}"
                );
                last = s.end;
            }
            at = (w.index.end, w.totals.end);
        }
        at = (self.below, self.below_total);
        for a in &self.absences {
            assert!(at.1 <= a.totals.start && a.totals.start < a.totals.end, "absences are in order: {self:?}");
            assert!(at.0 <= a.index.start && a.index.start <= a.index.end, "absences are ranges: {self:?}");
            let windows = self.windows.iter().map(|w| common(&w.totals, &a.totals)).sum::<u64>();
            assert_eq!(windows, 0, "nothing is handed out of an absence: {self:?}");
            at = (a.index.end, a.totals.end);
        }
    }

    /// The record of `docs/spool-format.md` §1. Of held settlements it knows those whose own commit it goes with.
    pub(crate) fn write(&self) -> Vec<u8> {
        if self.held.is_empty() {
            return self.record();
        }
        let mut then = self.clone();
        for held in std::mem::take(&mut then.held) {
            if held.writing { then.apply(&held) } else { then.give_up(&held) }
        }
        then.record()
    }

    fn is_before_a_window(&self, unread: &Unread) -> bool {
        self.windows.last().is_some_and(|w| unread.totals.end <= w.totals.start)
    }

    fn record(&self) -> Vec<u8> {
        let mut pen = Pen::default();
        // Who does not know of backlogs must not read of one: to him it would be settled.
        pen.u8(if self.unread().iter().any(|u| u.is_backlog() && self.is_before_a_window(u)) { 4 } else { 3 });
        for n in [self.below, self.below_total, self.base] {
            pen.u64(n);
        }
        let c = &self.counts;
        for n in [c.delivered, c.parked, c.dead_letters, c.quarantined, c.burnt].into_iter().chain(c.lost) {
            pen.u64(n);
        }
        pen.count(self.windows.len());
        for w in &self.windows {
            for n in [w.index.start, w.index.end, w.totals.start, w.totals.end] {
                pen.u64(n);
            }
            for n in [w.cut.enough_items, w.cut.max_items, w.cut.max_bytes] {
                pen.u32(n);
            }
            pen.count(w.settled.len());
            for s in &w.settled {
                pen.u64(s.start);
                pen.u64(s.end);
            }
        }
        pen.count(self.absences.len());
        for a in &self.absences {
            for n in [a.index.start, a.index.end, a.totals.start, a.totals.end] {
                pen.u64(n);
            }
        }
        pen.seal()
    }

    /// Reads [`Cursor::write`]'s record.
    pub(crate) fn read(record: &[u8]) -> Result<Cursor, Damage> {
        let mut eye = Eye::unseal(record)?;
        let version = eye.u8()?;
        if !(1..=4).contains(&version) {
            return Err(Damage::Unknown { what: "cursor version", found: version.into() });
        }
        let mut cursor = Cursor {
            below: eye.u64()?,
            below_total: eye.u64()?,
            base: eye.u64()?,
            counts: Counts::default(),
            windows: Vec::new(),
            absences: Vec::new(),
            jump: None,
            dirty: false,
            held: Vec::new(),
        };
        let c = &mut cursor.counts;
        // Nobody could drop anything before version 3.
        let reasons = if version < 3 { Reason::Dropped as usize } else { c.lost.len() };
        for n in [&mut c.delivered, &mut c.parked, &mut c.dead_letters, &mut c.quarantined, &mut c.burnt]
            .into_iter()
            .chain(&mut c.lost[..reasons])
        {
            *n = eye.u64()?;
        }
        for _ in 0..eye.count(48)? {
            let (index, totals) = (eye.u64()?..eye.u64()?, eye.u64()?..eye.u64()?);
            let cut = Cut { enough_items: eye.u32()?, max_items: eye.u32()?, max_bytes: eye.u32()? };
            let mut settled = Vec::new();
            for _ in 0..eye.count(16)? {
                settled.push(eye.u64()?..eye.u64()?);
            }
            cursor.windows.push(Window { index, totals, cut, settled, out: false, trimmed: false });
        }
        if version > 1 {
            for _ in 0..eye.count(32)? {
                cursor.absences.push(Absence { index: eye.u64()?..eye.u64()?, totals: eye.u64()?..eye.u64()? });
            }
        }
        cursor.collapse();
        Ok(cursor)
    }
}

/// Adds a range to sorted, disjoint ranges, merging those it touches.
fn insert(ranges: &mut Vec<Range<u64>>, new: Range<u64>) {
    let at = ranges.partition_point(|r| r.start < new.start);
    ranges.insert(at, new);
    ranges.dedup_by(|next, prev| {
        let touch = prev.end == next.start;
        if touch {
            prev.end = next.end;
        }
        touch
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CUT: Cut = Cut { enough_items: 512, max_items: 1_024, max_bytes: 4 << 20 };

    /// A lane of blocks of `sizes` items, and what the plainest bookkeeping says of every item.
    struct Plain {
        /// Total before each block, and the end.
        starts: Vec<u64>,
        fates: Vec<Option<Fate>>,
    }

    impl Plain {
        fn of(sizes: &[u8]) -> Plain {
            let mut starts = vec![0];
            for n in sizes {
                starts.push(starts[starts.len() - 1] + u64::from(*n));
            }
            let items = usize::try_from(starts[starts.len() - 1]).expect("small");
            Plain { starts, fates: vec![None; items] }
        }
        fn set(&mut self, part: Range<u64>, fate: Option<Fate>) {
            for t in part {
                self.fates[usize::try_from(t).expect("small")] = fate;
            }
        }
        fn counts(&self) -> Counts {
            let mut c = Counts::default();
            for fate in self.fates.iter().flatten() {
                c.add(1, *fate);
            }
            c
        }
    }

    /// What gives way while its settlement is on the way to the disk has the reason it gave way for, should that fail.
    #[test]
    fn what_expires_while_it_is_held_is_expired() {
        for (fate, reason) in
            [(Fate::Lost(Reason::Expired), Reason::Expired), (Fate::Lost(Reason::Evicted), Reason::Evicted)]
        {
            let mut c = Cursor::at_tip(0, 0);
            c.take_new(0..2, 0..20, CUT);
            let part = c.settle(&(0..10), Fate::Parked).expect("it is out");
            assert_eq!(c.evict_below(1, 10, 0, fate), 0, "what becomes of it is said when the settlement ends");
            c.release(&part);
            c.audit();
            assert_eq!((c.counts.lost[reason as usize], c.counts.settled()), (10, 10), "{fate:?}");
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        /// From which unread stretch, how many blocks.
        Take(prop::sample::Index, usize),
        /// Live data begins so many blocks beyond the last window.
        Jump(usize),
        TakeReturned(bool),
        GiveBack(prop::sample::Index),
        GiveBackAll,
        Settle(prop::sample::Index, prop::sample::Index, prop::sample::Index, usize),
        SettleAndFail(prop::sample::Index, prop::sample::Index, prop::sample::Index),
        Pass(prop::sample::Index, usize),
        Evict(prop::sample::Index),
        Reload,
    }

    fn op() -> impl Strategy<Value = Op> {
        let i = || any::<prop::sample::Index>();
        prop_oneof![
            4 => (i(), 1..4_usize).prop_map(|(u, n)| Op::Take(u, n)),
            2 => (0..5_usize).prop_map(Op::Jump),
            2 => any::<bool>().prop_map(Op::TakeReturned),
            2 => i().prop_map(Op::GiveBack),
            1 => Just(Op::GiveBackAll),
            8 => (i(), i(), i(), 0..5_usize).prop_map(|(w, a, b, f)| Op::Settle(w, a, b, f)),
            2 => (i(), i(), i()).prop_map(|(w, a, b)| Op::SettleAndFail(w, a, b)),
            1 => (i(), 1..3_usize).prop_map(|(u, n)| Op::Pass(u, n)),
            1 => i().prop_map(Op::Evict),
            1 => Just(Op::Reload),
        ]
    }

    const FATES: [Fate; 5] = [
        Fate::Delivered { rejected: 0 },
        Fate::Parked,
        Fate::DeadLetter,
        Fate::Quarantined,
        Fate::Lost(Reason::RetryExpired),
    ];

    /// A part of an out window that no settlement touches yet, chosen by three dice.
    fn free_part(
        c: &Cursor,
        w: prop::sample::Index,
        a: prop::sample::Index,
        b: prop::sample::Index,
    ) -> Option<Range<u64>> {
        let out: Vec<_> = c.windows.iter().filter(|w| w.out && !w.totals.is_empty()).collect();
        let w = out.get(w.index(out.len().max(1)))?;
        let n = usize::try_from(w.items()).expect("small");
        let (a, b) = (a.index(n) as u64, b.index(n) as u64);
        let part = w.totals.start + a.min(b)..w.totals.start + a.max(b) + 1;
        (!w.settled.iter().any(|s| s.start < part.end && part.start < s.end)).then_some(part)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        /// Whatever is done to a cursor, its counters say what item-by-item bookkeeping says, and it reads back.
        #[test]
        fn the_cursor_agrees_with_plain_bookkeeping(sizes in prop::collection::vec(1..6_u8, 1..20), ops in prop::collection::vec(op(), 1..60)) {
            let mut plain = Plain::of(&sizes);
            let mut c = Cursor::at_tip(0, 0);
            let blocks = sizes.len() as u64;
            let total = |plain: &Plain, index: u64| plain.starts[usize::try_from(index).expect("small")];
            for op in ops {
                match op {
                    Op::Take(u, n) => {
                        let unread = u.get(&c.unread()).clone();
                        let (from, at) = unread.start();
                        let to = (from + n as u64).min(blocks).min(unread.index.end);
                        if to > from { c.take_new(from..to, at..total(&plain, to), CUT); }
                    }
                    Op::Jump(n) => {
                        let to = (c.frontier().0 + n as u64).min(blocks);
                        c.jump = Some((to, total(&plain, to)));
                        c.collapse();
                    }
                    Op::TakeReturned(newest) => { c.take_returned(newest); }
                    Op::GiveBack(i) => {
                        let out: Vec<_> = c.windows.iter().filter(|w| w.out).map(|w| w.index.clone()).collect();
                        if let Some(index) = out.get(i.index(out.len().max(1))) { c.give_back(index); }
                    }
                    Op::GiveBackAll => c.give_back_all(),
                    Op::Settle(w, a, b, f) => if let Some(part) = free_part(&c, w, a, b) {
                        prop_assert_eq!(c.settle(&part, FATES[f]), Ok(part.clone()));
                        prop_assert_eq!(c.settle(&part, FATES[f]), Err(NotOut), "twice");
                        c.confirm(&part);
                        plain.set(part, Some(FATES[f]));
                    },
                    Op::SettleAndFail(w, a, b) => if let Some(part) = free_part(&c, w, a, b) {
                        let before = Cursor::read(&c.write()).expect("just written");
                        c.settle(&part, Fate::Parked).expect("it is free");
                        prop_assert_eq!(&Cursor::read(&c.write()).expect("just written"), &before, "others' records know nothing of it");
                        c.writing(&part, true);
                        let own = Cursor::read(&c.write()).expect("just written");
                        prop_assert_eq!(own.counts.parked, c.counts.parked + len(&part), "its own does");
                        own.audit();
                        c.writing(&part, false);
                        c.give_back_all(); // the reader does this from another thread
                        c.audit();
                        c.release(&part);
                    },
                    Op::Pass(u, n) => {
                        let unread = u.get(&c.unread()).clone();
                        let (from, at) = unread.start();
                        let to = (from + n as u64).min(blocks);
                        c.pass((from, at), (to, total(&plain, to)), 1, Fate::Lost(Reason::Corrupt));
                        let end = total(&plain, to).min(unread.totals.end);
                        if end > at {
                            plain.set(at..at + 1, Some(Fate::Burnt));
                            plain.set(at + 1..end, Some(Fate::Lost(Reason::Corrupt)));
                        }
                    }
                    Op::Evict(i) => {
                        let to = i.index(sizes.len() + 1) as u64;
                        let end = total(&plain, to);
                        let mut gone = 0;
                        for t in 0..end {
                            let fate = &mut plain.fates[usize::try_from(t).expect("small")];
                            if fate.is_none() { *fate = Some(Fate::Lost(Reason::Evicted)); gone += 1; }
                        }
                        prop_assert_eq!(c.evict_below(to, end, 0, Fate::Lost(Reason::Evicted)), gone);
                    }
                    Op::Reload => {
                        let read = Cursor::read(&c.write()).expect("just written");
                        c.give_back_all();
                        (c.dirty, c.jump) = (false, None);
                        prop_assert_eq!(&read, &c);
                    }
                }
                let unread = c.unread();
                let fates = &plain.fates;
                for u in unread {
                    let items = u.totals.start..u.totals.end.min(fates.len() as u64);
                    prop_assert!(items.into_iter().all(|t| fates[usize::try_from(t).expect("small")].is_none()), "nobody had it: {:?}", c);
                }
                c.audit();
                prop_assert_eq!(c.counts, plain.counts());
                for (index, pair) in plain.starts.windows(2).enumerate() {
                    let open = (pair[0]..pair[1]).any(|t| plain.fates[usize::try_from(t).expect("small")].is_none());
                    prop_assert!(!(open && c.is_settled(index as u64)), "block {} has open items: {:?}", index, c);
                }
            }
        }

        /// Goal: eviction beside a commit that is under way, and under a window that is out, keeps the books.
        #[test]
        fn what_is_evicted_is_counted_once(sizes in prop::collection::vec(1..6_u8, 2..10), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), moved in any::<bool>(), stands in any::<bool>()) {
            let plain = Plain::of(&sizes);
            let (blocks, all) = (sizes.len() as u64, plain.fates.len() as u64);
            let mut c = Cursor::at_tip(0, 0);
            c.take_new(0..blocks, 0..all, CUT);
            let n = plain.fates.len();
            let (a, b) = (a.index(n) as u64, b.index(n) as u64);
            let part = a.min(b)..a.max(b) + 1;
            let fate = if moved { Fate::Parked } else { Fate::Delivered { rejected: 0 } };
            c.settle(&part, fate).expect("it is out");
            let to = to.index(sizes.len() + 1);
            let (index, end) = (to as u64, plain.starts[to]);
            let gone = c.evict_below(index, end, 0, Fate::Lost(Reason::Evicted));
            prop_assert_eq!(gone, end - common(&part, &(0..end)));
            c.audit();
            prop_assert_eq!(c.unsettled_items() + c.counts.settled(), all, "nothing is counted twice or not at all");
            Cursor::read(&c.write()).expect("just written").audit();
            if stands { c.confirm(&part) } else { c.release(&part) }
            c.audit();
            prop_assert_eq!(c.unsettled_items() + c.counts.settled(), all);
            // Whoever has the window settles what he has, whole; nothing stays out for ever.
            let rest: Vec<_> = (0..all).filter(|t| !stands || !part.contains(t)).collect();
            for t in rest {
                match c.settle(&(t..t + 1), Fate::Delivered { rejected: 0 }) {
                    Ok(part) => c.confirm(&part),
                    Err(NotOut) => prop_assert!(t < end, "{} was not evicted: {:?}", t, c),
                }
            }
            prop_assert_eq!((c.unsettled_items(), c.below), (0, blocks), "{:?}", &c);
        }

        #[test]
        fn garbage_is_no_cursor(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Cursor::read(&garbage).is_err());
        }
    }

    /// Goal: older agents, which know of no backlog, do not take one for settled; and an agent without one can be replaced by an older
    /// one. Method: the version byte, which they refuse above 3.
    #[test]
    fn a_record_is_of_the_oldest_version_that_can_say_it() {
        let mut c = Cursor::at_tip(0, 0);
        c.take_new(0..2, 0..20, CUT);
        c.jump = Some((4, 40));
        assert_eq!(c.write()[0], 3, "nothing was taken behind the backlog");
        c.take_new(5..6, 50..60, CUT);
        assert_eq!((c.write()[0], c.unread().len()), (4, 2), "a backlog, and what comes in: {c:?}");
        assert_eq!(Cursor::read(&c.write()).map(|read| read.unread()), Ok(c.unread()));
        for totals in [0..20, 50..60] {
            c.settle(&totals, Fate::Delivered { rejected: 0 }).expect("it is out");
            c.confirm(&totals);
        }
        assert_eq!((c.below, c.windows.len()), (2, 1), "what lies behind the backlog stays settled: {c:?}");
        c.take_new(2..5, 20..50, CUT);
        c.settle(&(20..50), Fate::Delivered { rejected: 0 }).expect("it is out");
        c.confirm(&(20..50));
        assert_eq!((c.below, c.below_total, c.windows.len(), c.write()[0]), (6, 60, 0, 3), "{c:?}");
    }

    /// Records of older agents read back, without what they could not say.
    #[test]
    fn records_of_older_versions_read_back() {
        let mut c = Cursor::at_tip(7, 70);
        c.counts.lost = [0; Reason::ALL.len()];
        let now = c.write();
        // Version, three numbers, five counts, the reasons; then what follows.
        let (reasons, rest) = (1 + 8 * 8, 1 + 8 * 8 + 8 * Reason::ALL.len());
        for version in [1, 2] {
            let mut pen = Pen(now[..reasons + 8 * 5].to_vec());
            pen.0[0] = version;
            let end = now.len() - 8 - if version == 1 { 4 } else { 0 };
            pen.0.extend_from_slice(&now[rest..end]);
            assert_eq!(Cursor::read(&pen.seal()), Ok(Cursor { dirty: false, ..c.clone() }), "version {version}");
        }
    }

    /// An upload that reaches over the border of an eviction: its evicted items are lost already, the others arrived.
    #[test]
    fn a_late_success_settles_what_was_not_evicted() {
        let mut c = Cursor::at_tip(0, 0);
        c.take_new(0..4, 0..40, CUT);
        c.evict_below(2, 20, 0, Fate::Lost(Reason::Evicted));
        assert_eq!(c.settle(&(0..20), Fate::Delivered { rejected: 0 }), Err(NotOut), "all of it is gone");
        let part = c.settle(&(10..30), Fate::Delivered { rejected: 0 }).expect("half of it is there");
        assert_eq!(part, 20..30);
        c.confirm(&part);
        let part = c.settle(&(30..40), Fate::Delivered { rejected: 0 }).expect("it is there");
        c.confirm(&part);
        c.audit();
        assert_eq!((c.below, c.counts.delivered, c.counts.lost[Reason::Evicted as usize]), (4, 20, 20));
    }

    #[test]
    fn windows_that_are_done_do_not_pile_up_behind_one_that_is_not() {
        let mut c = Cursor::at_tip(0, 0);
        for i in 0..100 {
            c.take_new(i..i + 1, i * 10..i * 10 + 10, CUT);
        }
        for i in 1..100 {
            c.settle(&(i * 10..i * 10 + 10), Fate::Delivered { rejected: 0 }).expect("out");
            c.confirm(&(i * 10..i * 10 + 10));
        }
        assert_eq!(c.windows.len(), 2, "the first, and one for all the others");
        c.settle(&(0..10), Fate::Delivered { rejected: 3 }).expect("out");
        c.confirm(&(0..10));
        assert_eq!((c.windows.len(), c.below, c.below_total), (0, 100, 1_000));
        assert_eq!((c.counts.delivered, c.counts.lost[Reason::Rejected as usize]), (997, 3));
    }
}
