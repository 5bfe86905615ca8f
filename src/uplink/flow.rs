//! All lanes of one exporter: whose turn it is, and what the far end as a whole is believed to be.
//!
//! ```text
//!                 ┌─ desk logs ──────┐
//! link ── gate ───┼─ desk traces ────┼── next(): Send · Lease · GiveBack · Park · Rest
//!                 ├─ desk metrics ───┤
//!                 └─ their park lanes ┘      answered(): Fate
//! ```
//!
//! What always holds:
//! * While the far end is away at most one upload is out, of whichever lane (promise P9).
//! * Backlogs are fetched into half of that memory, and live data finds half as much more when it is used up. Backlogs keep below `max_rate` together, and those of a lane that goes before go before.
//! * Lanes take turns, so none waits for another's backlog; bodies in memory stay below `budget` plus one window for
//!   each lane that has nothing in hand. A lane that is down leaves the others that have something their shares of it.
//! * What the link budget does not let through is neither fetched nor sent, nor does it probe (`budget.rs`).

use super::assemble::Part;
use super::budget::Gate;
use super::desk::{Desk, Step, World};
use super::drain::{Bucket, STALE_AFTER};
use super::fate::{Blame, Fate};
use super::link::{Link, Seen, Trouble};
use super::pack::Body;
use super::retry::Retry;
use super::verdict::Verdict;
use crate::base::Dice;
use crate::spool::{Pick, Pos};
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// Compressed bodies in memory before nothing more is fetched: 4 MiB. Ten uploads of 4,000 log records; on a link of
/// 1 Mbit/s half a minute of sending.
pub const BUDGET: usize = 4 << 20;

/// How far behind its part of the link a signal may fall and still catch up: 4 MiB of it.
const OWED_MAX: f64 = (4 << 20) as f64;

/// What the uplink of one exporter has in hand.
#[derive(Debug)]
pub struct Flow {
    link: Link,
    desks: Vec<Desk>,
    retry: Retry,
    dice: Dice,
    budget: usize,
    /// What backlogs may still send; `None`: as much as they like.
    bucket: Option<Bucket>,
    /// What the link budget lets through now, by signal.
    gates: [Gate; 3],
    /// Signals whose next upload is longer than what is left.
    too_long: [bool; 3],
    /// What each signal is to get of the link, and what it got for it; `None`: lanes take turns.
    weights: Option<[f64; 3]>,
    got: [f64; 3],
    /// The end is near, and what stays here is lost.
    hurries: bool,
    down_since: Option<Instant>,
    /// Uploads taken, ever, by signal.
    taken: [u64; 3],
    /// The desk to begin with.
    turn: usize,
    /// The desk whose lease is awaited.
    leasing: Option<usize>,
    /// Nothing new is fetched: the end is near.
    closing: bool,
}

/// What to do next; a desk is named by its place in the list given to [`Flow::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Send this upload.
    Send(usize, Pos),
    /// Fetch the next window of this desk, of this kind.
    Lease(usize, Pick),
    /// Cut this upload after so many items (then say [`Desk::cut`]).
    Cut(usize, Pos, u32),
    /// Give this window back.
    GiveBack(usize, Range<u64>),
    /// Park this upload.
    Park(usize, Pos),
    /// Nothing until then, or until something happens.
    Rest(Option<Instant>),
}

impl Flow {
    /// An uplink of these lanes.
    #[must_use]
    pub fn new(desks: Vec<Desk>, retry: Retry, budget: usize, dice: Dice) -> Flow {
        Flow {
            link: Link::Up,
            desks,
            retry,
            dice,
            budget,
            bucket: None,
            gates: [Gate::OPEN; 3],
            too_long: [false; 3],
            weights: None,
            got: [0.0; 3],
            hurries: false,
            down_since: None,
            taken: [0; 3],
            turn: 0,
            leasing: None,
            closing: false,
        }
    }

    /// Backlogs send no more than so many bytes a second.
    #[must_use]
    pub fn limited(self, max_rate: Option<u64>, now: Instant) -> Flow {
        Flow { bucket: max_rate.map(|rate| Bucket::new(rate, now)), ..self }
    }

    /// The same, while it works.
    pub fn limit(&mut self, max_rate: Option<u64>, now: Instant) {
        match (&mut self.bucket, max_rate) {
            (Some(bucket), Some(rate)) => bucket.turn_to(rate, now),
            (bucket, rate) => *bucket = rate.map(|rate| Bucket::new(rate, now)),
        }
    }

    /// Each signal gets of the link by its weight.
    #[must_use]
    pub fn weighing(self, weights: Option<[f64; 3]>) -> Flow {
        Flow { weights, ..self }
    }

    /// What the link budget lets through from now on.
    pub fn set_gates(&mut self, gates: [Gate; 3]) {
        self.gates = gates;
    }

    /// Signals whose next upload was longer than what is left of the link budget, since it was last asked.
    pub fn too_long(&mut self) -> [bool; 3] {
        std::mem::take(&mut self.too_long)
    }

    /// The link budget lets something of this lane through now, or in a moment.
    #[must_use]
    pub fn lets_through(&self, at: usize, now: Instant) -> bool {
        self.gates[signal_index(&self.desks[at])].live_from.is_none_or(|from| from <= now + STALE_AFTER)
    }

    /// Nothing waits for its turn any more: what is not sent now is lost.
    pub fn hurry(&mut self) {
        self.hurries = true;
    }

    /// One lane more; returns its place.
    pub fn add(&mut self, desk: Desk) -> usize {
        self.desks.push(desk);
        self.desks.len() - 1
    }

    /// What is believed of the far end as a whole.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// One lane.
    #[must_use]
    pub fn desk(&self, at: usize) -> &Desk {
        &self.desks[at]
    }

    /// One lane.
    pub fn desk_mut(&mut self, at: usize) -> &mut Desk {
        &mut self.desks[at]
    }

    /// All lanes.
    #[must_use]
    pub fn desks(&self) -> &[Desk] {
        &self.desks
    }

    /// Bytes of bodies in memory.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.desks.iter().map(Desk::held_bytes).sum()
    }

    /// Uploads that wait for an answer.
    #[must_use]
    pub fn out(&self) -> usize {
        self.desks.iter().map(Desk::out).sum()
    }

    /// Fetches nothing more, or goes on fetching.
    pub fn close(&mut self, closing: bool) {
        self.closing = closing;
    }

    /// What to do next. Told again until it says [`Do::Rest`].
    pub fn next(&mut self, now: Instant) -> Do {
        self.observe(Seen::Tick, now);
        let room = self.held_bytes() < self.budget;
        for at in 0..self.desks.len() {
            self.with_desk_and(at, now, room, |desk, world| desk.tick(world));
        }
        let (link, probing) = (self.link, self.link.trouble().is_some());
        // Whatever is sent, it will not arrive where nobody is; but silence may be about what was sent.
        let explore = self.down_since.filter(|_| link.trouble() == Some(Trouble::NoAnswer));
        let mut rest: Option<Instant> = None;
        for at in self.turns() {
            let gate = self.gates[signal_index(&self.desks[at])];
            if let Some(from) = gate.live_from.filter(|from| *from > now) {
                if from > now + STALE_AFTER {
                    self.desks[at].falls_behind();
                }
                rest = rest.into_iter().chain([from]).min();
                continue;
            }
            let busy = probing && self.out() > 0;
            let step = self.with_desk_and(at, now, room, |desk, world| match link {
                Link::Resting { until, .. } if explore.is_some() => Step::Rest(Some(until)),
                Link::Resting { until, .. } => desk.rest(until),
                Link::Probing { .. } if busy => Step::Rest(None),
                Link::Probing { .. } if desk.link().is_up() => desk.probe(explore, world),
                Link::Probing { .. } | Link::Up => desk.next(world),
            });
            match step {
                Step::Send(key) if self.length(at, key) > gate.most => {
                    self.too_long[signal_index(&self.desks[at])] = true;
                    rest = rest.into_iter().chain(gate.again.filter(|again| *again > now)).min();
                }
                Step::Send(key) => {
                    self.turn = at + 1;
                    self.with_desk(at, now, |desk, world| desk.sent(key, world));
                    self.charge(at, key, now);
                    return Do::Send(at, key);
                }
                Step::Lease(pick) => {
                    self.turn = at + 1;
                    self.leasing = Some(at);
                    self.desks[at].leasing();
                    return Do::Lease(at, pick);
                }
                Step::Cut(key, items) => {
                    self.desks[at].settling(key);
                    return Do::Cut(at, key, items);
                }
                Step::GiveBack(window) => {
                    self.desks[at].gave_back(&window, now);
                    return Do::GiveBack(at, window);
                }
                Step::Park(key) => {
                    self.desks[at].settling(key);
                    return Do::Park(at, key);
                }
                Step::Rest(until) => rest = rest.into_iter().chain(until).min(),
            }
        }
        Do::Rest(rest)
    }

    /// The desks, in the order in which they are asked.
    fn turns(&self) -> Vec<usize> {
        let count = self.desks.len();
        let mut turns: Vec<usize> = (0..count).map(|i| (self.turn + i) % count).collect();
        if self.weights.is_some() {
            // Stable: lanes of one signal go on taking turns.
            let got = |at: &usize| self.got[signal_index(&self.desks[*at])];
            turns.sort_by(|a, b| got(a).total_cmp(&got(b)));
        }
        turns
    }

    /// Bytes of an upload.
    fn length(&self, at: usize, key: Pos) -> u64 {
        self.desks[at].upload(key).map_or(0, |upload| upload.body.bytes.len() as u64)
    }

    /// What goes of a backlog comes out of the bucket; and what goes at all, out of its signal's part of the link.
    fn charge(&mut self, at: usize, key: Pos, now: Instant) {
        let Some(upload) = self.desks[at].upload(key) else { return };
        let bytes = upload.body.bytes.len();
        if let Some(bucket) = self.bucket.as_mut().filter(|_| upload.backlog && !upload.keeps_up) {
            bucket.take(bytes, now);
        }
        if let Some(weights) = self.weights {
            let signal = signal_index(&self.desks[at]);
            #[allow(clippy::cast_precision_loss)] // of bytes in memory
            let got = self.got[signal] + bytes as f64 / weights[signal];
            self.got[signal] = got;
            // Who had nothing to send is not owed what it did not want.
            self.got.iter_mut().for_each(|other| *other = other.max(got - OWED_MAX));
        }
    }

    /// The lease came as these uploads, of data that came in so long ago; or it did not come.
    pub fn leased(&mut self, at: usize, window: Range<u64>, uploads: Vec<(Part, Body)>, age: Duration, now: Instant) {
        if self.leasing == Some(at) {
            self.leasing = None;
        }
        self.desks[at].leased(window, uploads, age, now);
    }

    /// From when on this desk may send something of a backlog; `None`: others go before.
    fn backlog_from(&mut self, at: usize, now: Instant) -> Option<Instant> {
        let rank = self.desks[at].manner().rank;
        let goes_before = |desk: &Desk| desk.manner().rank < rank && desk.has_backlog(now);
        if self.hurries {
            return Some(now);
        }
        if rank > 0 && self.desks.iter().any(goes_before) {
            return None;
        }
        let ready = self.bucket.as_mut().map_or(now, |bucket| bucket.ready_at(now));
        Some(self.gates[signal_index(&self.desks[at])].backlog_from.map_or(ready, |from| from.max(ready)))
    }

    /// What becomes of an upload with this verdict; `None` if it is none of ours (any more).
    pub fn answered(&mut self, at: usize, key: Pos, verdict: &Verdict, now: Instant) -> Option<Fate> {
        // What an answer says of the far end is believed before it is asked whose fault a failure is; silence after.
        let before = self.link;
        if !matches!(verdict, Verdict::Silence { .. }) {
            self.observe(Seen::Answer, now);
        }
        if !before.is_up() && self.link.is_up() {
            self.desks.iter_mut().for_each(Desk::slow_start);
        }
        let was_up = before.is_up();
        let fate = self.with_desk(at, now, |desk, world| {
            world.link_up = was_up || !matches!(verdict, Verdict::Silence { .. });
            desk.answered(key, verdict, world)
        })?;
        match (&fate, verdict) {
            (Fate::Delivered { .. }, _) => self.taken[signal_index(&self.desks[at])] += 1,
            (Fate::Kept(Blame::Link), Verdict::Silence { trouble, .. }) => {
                self.observe(Seen::Silence { trouble: *trouble, floor: None }, now);
            }
            _ => {}
        }
        Some(fate)
    }

    /// Something was parked in this park lane.
    pub fn let_it_lie(&mut self, at: usize, now: Instant) {
        self.with_desk(at, now, |desk, world| desk.let_it_lie(world));
    }

    /// A far end that goes away leaves its whole fleet in one moment, and jitter alone would have all of it back within one
    /// short rest; later rests are longer and long out of step. So the first is spread further.
    fn observe(&mut self, seen: Seen, now: Instant) {
        let was_up = self.link.is_up();
        self.link = self.link.after(seen, now, &self.retry.curve, &mut self.dice);
        if was_up && !self.link.is_up() {
            self.link = self.link.longer_by(self.dice.up_to(self.retry.reconnect_spread));
        }
        self.down_since = if self.link.is_up() { None } else { self.down_since.or(Some(now)) };
    }

    fn with_desk<R>(&mut self, at: usize, now: Instant, f: impl FnOnce(&mut Desk, &mut World<'_>) -> R) -> R {
        let room = self.held_bytes() < self.budget;
        self.with_desk_and(at, now, room, f)
    }

    fn with_desk_and<R>(
        &mut self,
        at: usize,
        now: Instant,
        room: bool,
        f: impl FnOnce(&mut Desk, &mut World<'_>) -> R,
    ) -> R {
        let in_use = |desk: &&Desk| !desk.is_parked() && (!desk.is_empty() || desk.due().is_some());
        let share = self.budget / self.desks.iter().filter(in_use).count().max(1);
        let backlog_from = self.backlog_from(at, now);
        let held_by_all = self.held_bytes();
        let (backlog_room, live_room) = (room && held_by_all < self.budget / 2, held_by_all < self.budget / 2 * 3);
        let desk = &mut self.desks[at];
        let (down, held) = (!desk.link().is_up(), desk.held_bytes());
        let mut world = World {
            now,
            link_up: self.link.is_up(),
            taken: self.taken[signal_index(desk)],
            taken_of_all: self.taken.iter().sum(),
            room: room && !(down && held >= share),
            backlog_room,
            live_room,
            backlog_from,
            crowds: down && held > share && !room,
            may_lease: self.leasing.is_none() && !self.closing,
            retry: &self.retry,
            dice: &mut self.dice,
        };
        f(desk, &mut world)
    }

    /// Why nothing or little is sent: of the far end as a whole, then of the lanes that are down.
    pub fn troubles(&self) -> impl Iterator<Item = Trouble> {
        self.link.trouble().into_iter().chain(self.desks.iter().filter_map(|desk| desk.link().trouble()))
    }
}

fn signal_index(desk: &Desk) -> usize {
    desk.signal() as usize - 1
}

#[cfg(test)]
mod tests;
