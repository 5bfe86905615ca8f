//! One lane's uploads, and what to do next with them.
//!
//! ```text
//!            leased                    sent                  taken, parked, dropped, dead-lettered
//! spool ──▶ Ready(at) ──────────────▶ Out ─────────────────▶ Settling ──▶ gone
//!              ▲  ▲                    │ │
//!              │  └── it failed ───────┘ └── refused: two halves, Ready
//! ```
//!
//! Whose fault is a failure? If others fared better meanwhile, it is one's own.
//!
//! | others of its signal were taken since it last failed | | to blame |
//! |---|---|---|
//! | yes | | the upload: it rests alone, and its window runs |
//! | no | it is the lane's first failure in a row | nobody yet: it rests alone |
//! | no | there was an answer, or another signal's upload was taken since it was sent | the lane: it rests, then one upload probes |
//! | no | there was no answer | the link: all lanes rest, then one upload probes |
//!
//! Live data and backlog (`drain.rs`) are uploads of one lane: what is believed of the far end, the slow return and the memory are
//! theirs together; whose turn it is and what is fetched next is decided apart.
//!
//! What always holds:
//! * A lane that keeps its order sends at least as fast as its data comes in: what holds backlogs back (`max_rate`, `priority`, the
//!   pace of a link budget) holds back what is more than that. Else such a lane, once behind, would fall behind for good.
//! * A lane in strict order has one upload out. An upload is passed over only as a suspect of poison, or when it has held
//!   the lane up for a window (at most [`PARK_AFTER`](super::retry::PARK_AFTER)): then the next *item* finds out whether it
//!   is the upload or the far end. So what the far end gets out of order at its return is one item, and a bad upload
//!   holds the lane up for that long and then for its window, measured while others are taken.
//! * In any order a probe is an upload not tried since the lane went down, while there is memory for one more; then the
//!   one tried longest ago. So bad ones, even many in a row, do not keep a lane down.
//! * More uploads are out at a time only while answers come nearly as fast as to one alone; else one alone is next.
//! * What was not answered in time, long as it was, goes in smaller pieces: on a link of 9.6 kbit/s nothing large ever
//!   arrives. The size grows again when a piece arrives quickly, or with time.
//! * While nobody can be reached two windows of each lane stay in memory; the others are given back to the spool. So are
//!   those of a lane that rests with more than its share of a memory that is used up.

use super::assemble::Part;
use super::drain::{LOOK, Manner, Turns};
use super::fate::{Blame, Fate};
use super::hand::{Hand, State, Upload};
use super::link::{Link, Seen, Trouble};
use super::pace::{SLOW, Size, Tempo, Timely};
use super::pack::Body;
use super::retry::{Clocks, Next, OnExpiry, Retry};
use super::split::{Hearing, Sentence};
use super::verdict::Verdict;
use crate::base::Dice;
use crate::base::backoff::Curve;
use crate::otlp::Signal;
use crate::spool::{Pick, Pos};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// Whether the far end minds the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Logs and traces: several uploads at a time.
    Any,
    /// Metrics: far ends refuse samples older than the last.
    Strict,
}

/// Rests of a park lane: what failed alone for a whole window is tried again after 5 min, then less and less, up to
/// hourly. Each new try that fails writes it to the disk once more, to its tail, so that the next is not held up.
pub const PARKED: Curve = Curve {
    initial: Duration::from_secs(300),
    multiplier: 2.0,
    max: Duration::from_secs(3_600),
    randomization_factor: 0.2,
};

/// Windows a resting lane keeps in memory: two, so that a probe can alternate.
const WINDOWS_KEPT: usize = 2;

/// Failures while others were taken after which an upload may be parked to make room, before its window ends: with the
/// original's rests that is 40 s, longer than a far end takes to restart. (While the lane is down one such failure is
/// enough: else as many bad uploads as memory holds would keep it down for ever.)
const ROOM_AFTER: u32 = 4;

/// For how long a size that was too large is remembered: 10 min. A limit that stays costs a few refusals each time, one
/// that was lifted is noticed soon.
const CEILING_LASTS: Duration = Duration::from_secs(600);

/// One lane.
#[derive(Debug)]
pub struct Desk {
    signal: Signal,
    order: Order,
    most: u32,
    parked: bool,
    asked: u64,
    link: Link,
    /// Uploads that may be out just now: grows with each one taken, so that a return is gentle (promise P9).
    ramp: u32,
    clocks: Clocks,
    hand: Hand,
    windows: Vec<Range<u64>>,
    manner: Manner,
    turns: Turns,
    /// When it was last looked what has grown old.
    looked: Option<Instant>,
    /// When the spool has enough for an upload; `None`: not before there is news.
    due: Option<Instant>,
    /// The same of the backlog.
    backlog_due: Option<Instant>,
    /// The spool could not answer: it is left alone until then, whatever the news.
    not_before: Option<Instant>,
    /// The backlog waits for its turn in the fleet until then.
    backlog_not_before: Option<Instant>,
    /// Items that came in and may go at once, in a lane that keeps its order.
    keeps_up: u64,
    /// Items that were fetched, ever, less those given back.
    fetched: u64,
    /// The same and those that wait in the spool, when it was last looked.
    known: Option<u64>,
    leasing: bool,
    /// Guilty items found, by hunt; a hunt is named by where the refused upload began.
    hunts: BTreeMap<Pos, u32>,
    /// Uncompressed uploads of this size are thought too large.
    ceiling: Option<(u32, Instant)>,
    /// How large an upload the link carries in time.
    size: Size,
    /// How long answers take.
    tempo: Tempo,
    /// Probes so far: they take turns.
    probes: u32,
    /// Failures since the last upload was taken.
    failures: u32,
    /// Since when it is down.
    down_since: Option<Instant>,
}

/// What a desk must know of the rest.
#[derive(Debug)]
pub struct World<'a> {
    /// Now.
    pub now: Instant,
    /// The far end as a whole is believed to be up.
    pub link_up: bool,
    /// Uploads of this signal that were taken, ever.
    pub taken: u64,
    /// Uploads of all signals that were taken, ever.
    pub taken_of_all: u64,
    /// The memory for bodies is not used up; for a lane that is down: its share of it.
    pub room: bool,
    /// The same of the half of it that backlogs may use,
    pub backlog_room: bool,
    /// and with half as much more, for a window of live data where there is none.
    pub live_room: bool,
    /// From when on something of a backlog may be sent; `None`: not before the backlogs of other lanes.
    pub backlog_from: Option<Instant>,
    /// The memory for bodies is used up, and the lane is down and holds more than its share.
    pub crowds: bool,
    /// Nobody else is leasing.
    pub may_lease: bool,
    /// The operator's rules.
    pub retry: &'a Retry,
    /// Chance.
    pub dice: &'a mut Dice,
}

/// What a desk wants done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this upload.
    Send(Pos),
    /// Fetch the next window from the spool, of this kind.
    Lease(Pick),
    /// Cut this upload after so many items before anything of it is sent.
    Cut(Pos, u32),
    /// Give this window back to the spool.
    GiveBack(Range<u64>),
    /// Park this upload before its window ends: those that fail alone have used up the memory.
    Park(Pos),
    /// Nothing until then, or until something happens.
    Rest(Option<Instant>),
}

impl Desk {
    /// `most`: uploads out at one time (one in strict order). `parked`: a park lane, which has time.
    #[must_use]
    pub fn new(signal: Signal, order: Order, most: u32, parked: bool) -> Desk {
        let most = if order == Order::Strict || parked { 1 } else { most.max(1) };
        Desk {
            signal,
            order,
            most,
            parked,
            asked: 0,
            link: Link::Up,
            ramp: 1, // nobody has answered yet
            clocks: Clocks::default(),
            hand: Hand::default(),
            windows: Vec::new(),
            manner: Manner::default(),
            turns: Turns::new(0.0),
            looked: None,
            due: None,
            backlog_due: None,
            not_before: None,
            backlog_not_before: None,
            keeps_up: 0,
            fetched: 0,
            known: None,
            leasing: false,
            hunts: BTreeMap::new(),
            ceiling: None,
            size: Size::default(),
            tempo: Tempo::default(),
            probes: 0,
            failures: 0,
            down_since: None,
        }
    }

    /// Drained so.
    #[must_use]
    pub fn draining(self, manner: Manner) -> Desk {
        Desk { manner, turns: Turns::new(manner.share), ..self }
    }

    /// How it is drained.
    #[must_use]
    pub fn manner(&self) -> Manner {
        self.manner
    }

    /// What it carries.
    #[must_use]
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// What it believes of the far end.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// Is it a park lane?
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.parked
    }

    /// Nothing is in hand.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hand.is_empty()
    }

    /// Uploads that wait for an answer.
    #[must_use]
    pub fn out(&self) -> usize {
        self.hand.out()
    }

    /// Memory in use.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.hand.bytes()
    }

    /// The upload that begins there.
    #[must_use]
    pub fn upload(&self, key: Pos) -> Option<&Upload> {
        self.hand.get(key)
    }

    /// Where the first upload in hand begins.
    #[cfg(test)]
    pub(super) fn first_key(&self) -> Option<Pos> {
        self.hand.iter().next().map(|(key, _)| key)
    }

    /// Uncompressed size from which on an upload is halved before it is sent at all.
    #[must_use]
    pub fn ceiling(&self, now: Instant) -> Option<u32> {
        self.ceiling.filter(|(_, since)| now < *since + CEILING_LASTS).map(|(bytes, _)| bytes)
    }

    /// When the spool will have enough for an upload.
    pub fn set_due(&mut self, due: Option<Instant>) {
        // In a lane that keeps its order live data cannot overtake what waits for its turn.
        let turn = self.backlog_not_before.filter(|_| !self.manner.splits());
        self.due = due.map(|due| due.max(self.not_before.max(turn).unwrap_or(due)));
    }

    /// When it will have enough of the backlog.
    pub fn set_backlog_due(&mut self, due: Option<Instant>) {
        self.backlog_due = due.map(|due| due.max(self.not_before.max(self.backlog_not_before).unwrap_or(due)));
    }

    /// So many items wait in the spool.
    pub fn waits(&mut self, items: u64) {
        if self.leasing {
            return; // those are neither there nor here
        }
        let known = items.saturating_add(self.fetched);
        let came = self.known.map_or(0, |before| known.saturating_sub(before));
        self.known = Some(known);
        // What came in while nobody took anything is a backlog like any other.
        self.keeps_up = if self.link.is_up() { self.keeps_up.saturating_add(came) } else { 0 };
    }

    /// Nothing could be sent for a while: what came in meanwhile is a backlog too.
    pub fn falls_behind(&mut self) {
        self.keeps_up = 0;
    }

    /// The spool could not answer: it is not asked before that, whatever the news.
    pub fn leave_the_spool_until(&mut self, at: Instant) {
        self.not_before = Some(at);
        self.set_due(Some(at));
        self.set_backlog_due(Some(at));
    }

    /// Its backlog waits for its turn in the fleet until then.
    pub fn leave_the_backlog_until(&mut self, at: Instant) {
        self.backlog_not_before = Some(at);
    }

    /// When the spool will have enough for an upload, of whatever kind.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.backlog_due).min()
    }

    /// Something of a backlog is on its way or could go, and the far end takes what this lane has.
    #[must_use]
    pub fn has_backlog(&self, now: Instant) -> bool {
        let goes = |(_, upload): (Pos, &Upload)| upload.backlog && upload.is_under_way(now);
        self.link.is_up() && (self.backlog_due.is_some_and(|due| due <= now) || self.hand.iter().any(goes))
    }

    /// A lease was asked for, and has not come yet.
    #[must_use]
    pub fn is_leasing(&self) -> bool {
        self.leasing
    }

    /// A lease was asked for.
    pub fn leasing(&mut self) {
        self.leasing = true;
    }

    /// The lease came (or did not), made into uploads of data that came in so long ago.
    pub fn leased(&mut self, window: Range<u64>, uploads: Vec<(Part, Body)>, age: Duration, now: Instant) {
        self.leasing = false;
        if uploads.is_empty() {
            return;
        }
        self.windows.push(window);
        self.fetched += uploads.iter().map(|(part, _)| u64::from(part.items())).sum::<u64>();
        let fresh_until = self.manner.fresh_until(age, now);
        for (part, body) in uploads {
            self.hand.put(Upload::new(part, body, fresh_until, now));
        }
    }

    /// Time passes: a rest may be over, and the clock of the windows runs or stands.
    pub fn tick(&mut self, world: &mut World<'_>) {
        if self.looked.is_none_or(|at| world.now >= at + LOOK) {
            self.hand.grow_old(world.now);
            self.looked = Some(world.now);
        }
        self.observe(Seen::Tick, world);
    }

    fn observe(&mut self, seen: Seen, world: &mut World<'_>) {
        let curve = if self.parked { PARKED } else { world.retry.curve };
        self.link = self.link.after(seen, world.now, &curve, world.dice);
        if self.link.is_up() {
            self.down_since = None;
        } else {
            self.ramp = 1;
            self.down_since.get_or_insert(world.now);
        }
        self.clocks.taking.set(world.link_up && self.link.is_up(), world.now);
        self.clocks.answering.set(world.link_up, world.now);
    }

    /// A person has had held data sent again, so often by now: a park lane does not finish its rest.
    pub fn asked(&mut self, times: u64, now: Instant) {
        if self.asked == times {
            return;
        }
        self.asked = times;
        if let Link::Resting { until, .. } = &mut self.link
            && self.parked
        {
            *until = (*until).min(now);
        }
    }

    /// Something was parked here: it has just been tried for a whole window.
    pub fn let_it_lie(&mut self, world: &mut World<'_>) {
        if self.link.is_up() && self.hand.is_empty() {
            self.observe(Seen::Silence { trouble: Trouble::Busy, floor: None }, world);
        }
    }

    /// The far end was away: begin gently.
    pub fn slow_start(&mut self) {
        self.ramp = 1;
        self.falls_behind();
    }

    /// What to do next while the far end is up.
    #[must_use]
    pub fn next(&self, world: &World<'_>) -> Step {
        match self.link {
            Link::Resting { until, .. } if world.crowds => self.rest(until),
            Link::Resting { until, .. } => Step::Rest(Some(until)),
            Link::Probing { .. } => self.probe(self.down_since, world),
            Link::Up if self.manner.splits() => self.send_or_fetch_split(world),
            Link::Up => self.send_or_fetch(world),
        }
    }

    /// What to do while nobody can be reached, until then.
    #[must_use]
    pub fn rest(&self, until: Instant) -> Step {
        self.surplus().map_or(Step::Rest(Some(until)), Step::GiveBack)
    }

    /// Which upload to probe with. `down_since`: look for one that was not tried since then; without it (nobody can be
    /// reached, whatever is sent) any will do.
    #[must_use]
    pub fn probe(&self, down_since: Option<Instant>, world: &World<'_>) -> Step {
        if self.out() > 0 {
            return Step::Rest(None);
        }
        if self.order == Order::Strict {
            return self.probe_in_order(world);
        }
        if let Some(key) = self.fitting_probe(world) {
            return self.send(key, world);
        }
        // One that failed while others were taken tells nothing of the far end.
        let untried = |(_, u): &(Pos, &Upload)| u.solo == 0 && u.tried.is_none_or(|at| Some(at) < down_since);
        let (fresh, tried): (Vec<_>, Vec<_>) = self.hand.ready().partition(untried);
        let wants_another = fresh.is_empty() && (down_since.is_some() || tried.is_empty());
        if wants_another && self.can_lease(world) {
            return Step::Lease(Pick::Oldest);
        }
        if let Some(key) = self.in_the_way(1, world).filter(|_| wants_another) {
            return Step::Park(key);
        }
        let longest_ago = tried.into_iter().min_by_key(|(key, upload)| (upload.tried, *key));
        fresh.into_iter().next().or(longest_ago).map_or(self.wait(world), |(key, _)| self.send(key, world))
    }

    /// Nothing to send: until there is enough. A date that has passed waits for something else, room or another's lease.
    fn wait(&self, world: &World<'_>) -> Step {
        Step::Rest(self.due().filter(|at| *at > world.now))
    }

    /// The first upload; or one item behind those that may be passed over, in turn with them.
    fn probe_in_order(&self, world: &World<'_>) -> Step {
        let passed = |upload: &Upload| {
            upload.suspect_since.is_some() || upload.patience.holds_up(world.retry, &self.clocks, world.now)
        };
        let (ends, rest): (Vec<_>, Vec<_>) = self.hand.ready().partition(|(_, upload)| passed(upload));
        let next = rest.first();
        if next.is_none() && self.can_lease(world) {
            return Step::Lease(Pick::Oldest);
        }
        let longest_ago = ends.into_iter().chain(next.copied()).min_by_key(|(key, upload)| (upload.tried, *key));
        let first = self.hand.ready().next().map(|(key, _)| key);
        match longest_ago {
            None => self.wait(world),
            Some((key, upload)) if Some(key) != first && !passed(upload) && upload.part.items() > 1 => {
                Step::Cut(key, 1)
            }
            Some((key, _)) => self.send(key, world),
        }
    }

    fn send_or_fetch(&self, world: &World<'_>) -> Step {
        let out = self.out();
        if out >= self.ramp.min(self.most) as usize {
            return Step::Rest(None);
        }
        let open = world.backlog_from.is_some_and(|from| from <= world.now) || self.keeps_up > 0;
        let may = |backlog: bool| !backlog || open;
        if let Some(key) = self.sendable(world, |upload| may(upload.backlog)) {
            return self.send(key, world);
        }
        let lingers = |(_, upload): (Pos, &Upload)| upload.lingers(world.now, world.taken);
        let fetches = self.can_lease(world) && may(self.due.is_none_or(|due| due > world.now));
        if fetches && (self.order == Order::Any || self.hand.ready().all(lingers)) {
            return Step::Lease(Pick::Oldest);
        }
        if let Some(key) = self.in_the_way(ROOM_AFTER, world).filter(|_| out == 0) {
            return Step::Park(key);
        }
        self.rest_until_something(world)
    }

    /// Live data first, a share for the backlog.
    fn send_or_fetch_split(&self, world: &World<'_>) -> Step {
        let out = self.out();
        if out >= self.ramp.min(self.most) as usize {
            return Step::Rest(None);
        }
        let live_waits = self.hand.count(false) > 0;
        let free = self.turns.places(self.most, live_waits) as usize;
        let open = world.backlog_from.is_some_and(|from| from <= world.now) && self.hand.backlog_out() < free;
        // It comes beside what is sent meanwhile.
        if open && self.turns.is_backlogs() && self.hand.count(true) == 0 && self.can_lease_of(true, world) {
            return Step::Lease(self.manner.pick(true));
        }
        let live = if live_waits { self.sendable(world, |upload| !upload.backlog) } else { None };
        let backlog = if open { self.sendable(world, |upload| upload.backlog) } else { None };
        if let (Some(_), Some(backlog)) = (live, backlog)
            && self.turns.is_backlogs()
        {
            return self.send(backlog, world);
        }
        if let Some(live) = live {
            return self.send(live, world);
        }
        if self.can_lease_of(false, world) {
            return Step::Lease(self.manner.pick(false));
        }
        if let Some(backlog) = backlog {
            return self.send(backlog, world);
        }
        if open && self.can_lease_of(true, world) {
            return Step::Lease(self.manner.pick(true));
        }
        if let Some(key) = self.in_the_way(ROOM_AFTER, world).filter(|_| out == 0) {
            return Step::Park(key);
        }
        self.rest_until_something(world)
    }

    fn rest_until_something(&self, world: &World<'_>) -> Step {
        let timers = self.hand.ready().filter_map(|(_, upload)| upload.at());
        let backlog = world.backlog_from.filter(|_| self.hand.count(true) > 0 || self.backlog_due.is_some());
        let timers = timers.chain(self.due).chain(self.backlog_due).chain(backlog);
        Step::Rest(timers.filter(|at| *at > world.now).min())
    }

    fn send(&self, key: Pos, world: &World<'_>) -> Step {
        let upload = self.hand.get(key).expect("it was found in this hand");
        let too_large = self.ceiling(world.now).is_some_and(|bytes| upload.body.raw_len >= bytes);
        let items = upload.part.items();
        if items > 1 && too_large {
            return Step::Cut(key, items / 2);
        }
        self.too_long(upload, world).map_or(Step::Send(key), |items| Step::Cut(key, items))
    }

    /// How many of its items to send first on a link that is thought to carry no more in time. Of two probes one goes as it is:
    /// it may be something else.
    fn too_long(&self, upload: &Upload, world: &World<'_>) -> Option<u32> {
        let up = world.link_up && self.link.is_up();
        let first = self.size.first(upload.part.items(), upload.body.bytes.len(), world.now);
        first.filter(|_| up || self.order == Order::Strict || self.probes.is_multiple_of(2))
    }

    /// Of what fits a slow link, what was tried longest ago: a probe cuts nothing while there is such a piece, so that an
    /// outage does not leave everything in pieces.
    fn fitting_probe(&self, world: &World<'_>) -> Option<Pos> {
        self.size.most(world.now).filter(|_| self.probes.is_multiple_of(2))?;
        let fits = self
            .hand
            .ready()
            .filter(|(_, upload)| upload.suspect_since.is_none() && self.too_long(upload, world).is_none());
        fits.min_by_key(|(key, upload)| (upload.tried, *key)).map(|(key, _)| key)
    }

    /// It was not answered; whose fault that is is asked elsewhere. A timeout is the latest of all answers: whatever the line is
    /// full of, one at a time goes over it from here on.
    fn not_answered(&mut self, key: Pos, now: Instant) {
        let sent = self.hand.get(key).and_then(|upload| Some((upload.tried?, upload.body.bytes.len())));
        let Some((sent, len)) = sent else { return };
        // Beside others it was perhaps the line they shared.
        let alone = self.ramp == 1 && !self.tempo.is_old(sent);
        if now >= sent + SLOW {
            self.ramp = 1;
            self.tempo.gave_up(now - sent, now);
        }
        if alone {
            self.size.not_answered(sent, len, now);
        }
    }

    /// It was taken: more may be out at a time, or fewer.
    fn answered_in_time(&mut self, sent: Instant, len: usize, now: Instant) {
        self.size.taken(now.saturating_duration_since(sent), len, now);
        let alone = self.ramp == 1 && self.out() == 0;
        self.ramp = match self.tempo.heard(sent, now, alone) {
            Timely::InTime => self.ramp.saturating_add(1).min(self.most),
            Timely::Same => self.ramp,
            Timely::Late => 1,
        };
    }

    /// The upload whose turn it is among these, if it may go now.
    fn sendable(&self, world: &World<'_>, which: impl Fn(&Upload) -> bool) -> Option<Pos> {
        let mut in_line = self.hand.ready();
        let may_go = |(_, upload): &(Pos, &Upload)| which(upload) && upload.may_go(world.now, world.taken);
        let found = match self.order {
            Order::Any => in_line.find(may_go),
            Order::Strict => in_line.find(|(_, u)| !u.lingers(world.now, world.taken)).filter(may_go),
        };
        found.map(|(key, _)| key)
    }

    /// Memory is used up and the spool has more: the upload that failed alone most often, at least so often.
    fn in_the_way(&self, times: u32, world: &World<'_>) -> Option<Pos> {
        let wants = self.order == Order::Any && self.due().is_some_and(|due| due <= world.now) && !world.room;
        let bad = self.hand.ready().filter(|(_, u)| wants && u.solo >= times && u.suspect_since.is_none());
        bad.max_by_key(|(_, upload)| upload.solo).map(|(key, _)| key)
    }

    fn can_lease(&self, world: &World<'_>) -> bool {
        let due = self.due().is_some_and(|due| due <= world.now);
        due && !self.leasing && world.may_lease && (world.room || self.hand.is_empty())
    }

    /// A window of live data, or of the backlog. One of each has a place whatever the other holds.
    fn can_lease_of(&self, backlog: bool, world: &World<'_>) -> bool {
        let has_none = self.hand.count(backlog) == 0;
        let (due, room) = if backlog {
            (self.backlog_due, world.backlog_room || has_none && world.room)
        } else {
            (self.due, world.room || has_none && world.live_room)
        };
        let due = due.is_some_and(|due| due <= world.now);
        due && !self.leasing && world.may_lease && (room || self.hand.is_empty())
    }

    /// A window that need not wait here: nothing of it is out, settled in part, or under suspicion.
    fn surplus(&self) -> Option<Range<u64>> {
        let idle = |window: &Range<u64>| self.hand.within(window).all(|(_, u)| u.is_ready() && u.hunt.is_none());
        self.windows.iter().skip(WINDOWS_KEPT).rfind(|window| idle(window)).cloned()
    }

    /// The window was given back.
    pub fn gave_back(&mut self, window: &Range<u64>, now: Instant) {
        self.windows.retain(|other| other != window);
        let keys: Vec<Pos> = self.hand.within(window).map(|(key, _)| key).collect();
        let items = keys.into_iter().filter_map(|key| self.hand.take(key)).map(|upload| u64::from(upload.part.items()));
        self.fetched = self.fetched.saturating_sub(items.sum());
        *(if self.manner.splits() { &mut self.backlog_due } else { &mut self.due }) = Some(now);
    }

    /// The upload is on its way.
    pub fn sent(&mut self, key: Pos, world: &World<'_>) {
        self.hand.set(key, State::Out { taken: world.taken, taken_of_all: world.taken_of_all });
        self.probes = self.probes.wrapping_add(u32::from(!(world.link_up && self.link.is_up())));
        if let Some(upload) = self.hand.get_mut(key) {
            upload.keeps_up = self.keeps_up > 0 && !self.manner.splits();
            if upload.tried.is_none() {
                self.keeps_up = self.keeps_up.saturating_sub(upload.part.items().into());
            }
            upload.tried = Some(world.now);
            let (backlog, bytes) = (upload.backlog, upload.body.bytes.len());
            let other = self.hand.count(!backlog) > 0 || (!backlog && self.backlog_due.is_some());
            self.turns.sent(backlog, bytes, other);
        }
    }

    /// What becomes of an upload with this verdict; `None` if it is none of ours (any more).
    pub fn answered(&mut self, key: Pos, verdict: &Verdict, world: &mut World<'_>) -> Option<Fate> {
        let up = self.link.is_up() && world.link_up;
        let State::Out { taken, taken_of_all } = self.hand.get(key)?.state() else { return None };
        if matches!(verdict, Verdict::Silence { trouble: Trouble::NoAnswer, .. }) {
            self.not_answered(key, world.now);
        }
        let upload = self.hand.get_mut(key)?;
        let solo = world.taken > upload.failed_at.unwrap_or(taken);
        let alone = up && solo;
        let others = world.link_up && world.taken_of_all > taken_of_all;
        upload.failed_at = Some(world.taken);
        upload.failing.get_or_insert((world.now, 0));
        upload.solo += u32::from(solo);
        self.hand.set(key, State::Ready { at: world.now });
        Some(match verdict {
            Verdict::Accepted { rejected, .. } => self.taken(key, *rejected, world),
            Verdict::Silence { trouble: Trouble::NoAnswer, .. } if alone => self.fell_alone(key, None, true, world),
            Verdict::Silence { trouble: trouble @ Trouble::NoAnswer, .. } if others => {
                self.fell_with_all(key, *trouble, None, world)
            }
            Verdict::Silence { .. } => {
                self.begin_window(key, world.now);
                Fate::Kept(Blame::Link)
            }
            Verdict::Later { after, .. } if alone => {
                self.ramp = (self.ramp / 2).max(1);
                if after.is_some() {
                    // It asks for patience in so many words, whoever is to blame.
                    self.observe(Seen::Silence { trouble: Trouble::Busy, floor: *after }, world);
                }
                self.fell_alone(key, *after, true, world)
            }
            Verdict::Later { after: None, .. } if up && self.failures == 0 => self.fell_first(key, world),
            Verdict::Later { after, .. } => self.fell_with_all(key, Trouble::Busy, *after, world),
            Verdict::Hold { .. } if alone => self.fell_alone(key, None, false, world),
            Verdict::Hold { .. } if up && self.failures == 0 => self.fell_first(key, world),
            Verdict::Hold { .. } => self.fell_with_all(key, Trouble::Held, None, world),
            Verdict::Split { too_large, .. } => {
                if !alone {
                    self.ramp = 1; // nothing else was taken since: search with one upload at a time
                }
                self.refused(key, *too_large, up, solo, world)
            }
        })
    }

    fn taken(&mut self, key: Pos, rejected: u64, world: &mut World<'_>) -> Fate {
        self.hand.set(key, State::Settling);
        let upload = self.hand.get(key);
        let known = upload.map(|upload| (upload.part.items(), upload.body.bytes.len(), upload.tried));
        let (items, len, sent) = known.unwrap_or_default();
        if let Some(sent) = upload.filter(|upload| upload.backlog).and_then(|upload| upload.tried) {
            self.turns.took(world.now.saturating_duration_since(sent), self.most);
        }
        self.failures = 0;
        self.answered_in_time(sent.unwrap_or(world.now), len, world.now);
        self.observe(Seen::Answer, world);
        Fate::Delivered { rejected: u32::try_from(rejected).unwrap_or(u32::MAX).min(items) }
    }

    /// One failure after a success is no sign yet: it rests, and the next upload finds out.
    fn fell_first(&mut self, key: Pos, world: &mut World<'_>) -> Fate {
        self.failures += 1;
        let rest = world.retry.curve.jittered(1, world.dice);
        self.begin_window(key, world.now);
        self.hand.set(key, State::Ready { at: world.now + rest });
        Fate::Kept(Blame::Upload { rest })
    }

    fn fell_alone(&mut self, key: Pos, floor: Option<Duration>, may_drop: bool, world: &mut World<'_>) -> Fate {
        let retry = if self.parked { &Retry { enabled: false, ..*world.retry } } else { world.retry };
        let upload = self.hand.get_mut(key).expect("answered() has just found it");
        match upload.patience.fell_alone(retry, &self.clocks, world.now, floor, world.dice) {
            Next::Again(rest) => {
                self.hand.set(key, State::Ready { at: world.now + rest });
                Fate::Kept(Blame::Upload { rest })
            }
            Next::Expired => {
                self.hand.set(key, State::Settling);
                if self.parked {
                    self.observe(Seen::Silence { trouble: Trouble::Busy, floor }, world);
                }
                let drop = may_drop && !self.parked && retry.expiry() == OnExpiry::Drop;
                Fate::Expired(if drop { OnExpiry::Drop } else { OnExpiry::Park })
            }
        }
    }

    fn fell_with_all(&mut self, key: Pos, trouble: Trouble, floor: Option<Duration>, world: &mut World<'_>) -> Fate {
        self.begin_window(key, world.now);
        self.failures = self.failures.saturating_add(1);
        self.observe(Seen::Silence { trouble, floor }, world);
        Fate::Kept(Blame::Lane)
    }

    fn begin_window(&mut self, key: Pos, now: Instant) {
        if let Some(upload) = self.hand.get_mut(key) {
            upload.patience.fell_with_all(&self.clocks, now);
        }
    }

    fn refused(&mut self, key: Pos, too_large: bool, up: bool, solo: bool, world: &mut World<'_>) -> Fate {
        let alone = |(other, u): &(Pos, &Upload)| *other != key && u.suspect_since == Some(world.taken);
        let fellow_suspects = self.hand.iter().filter(alone).count();
        let upload = self.hand.get_mut(key).expect("answered() has just found it");
        upload.refused_at = Some(world.taken);
        let hearing = Hearing {
            items: upload.part.items(),
            taken: world.taken,
            suspect_since: upload.suspect_since,
            guilty: upload.hunt.and_then(|hunt| self.hunts.get(&hunt)).copied().unwrap_or(0),
            link_up: up,
            fellow_suspects,
        };
        let (hunt, raw_len) = (upload.hunt, upload.body.raw_len);
        // Only where others fit is it a limit; a far end that takes nothing has told no size.
        if too_large && hearing.items > 1 && (solo || upload.cut_at.is_some_and(|then| world.taken > then)) {
            self.ceiling = Some((self.ceiling(world.now).unwrap_or(u32::MAX).min(raw_len), world.now));
        }
        match hearing.sentence() {
            Sentence::Halve => {
                self.hand.set(key, State::Settling); // until it is cut
                Fate::Halve
            }
            Sentence::Guilty => {
                self.hand.set(key, State::Settling);
                if let Some(hunt) = hunt {
                    *self.hunts.entry(hunt).or_default() += 1;
                }
                Fate::DeadLetter
            }
            Sentence::Suspect => {
                self.suspect(key, world.taken);
                self.hand.set(key, State::Ready { at: world.now + world.retry.curve.jittered(1, world.dice) });
                Fate::Suspect
            }
            Sentence::AllRefused => {
                if hearing.items <= 1 {
                    self.suspect(key, world.taken);
                }
                self.fell_with_all(key, Trouble::Refusing, None, world)
            }
        }
    }

    fn suspect(&mut self, key: Pos, taken: u64) {
        if let Some(upload) = self.hand.get_mut(key) {
            upload.suspect_since.get_or_insert(upload.cut_at.unwrap_or(taken));
        }
    }

    /// Has an upload that stays in hand failed for another whole window, by the clock on the wall? True once for each. Its own
    /// window may stand still meanwhile; who watches `send_failed` shall hear of an outage all the same.
    pub fn another_window(&mut self, key: Pos, retry: &Retry, now: Instant) -> bool {
        let Some((since, counted)) = self.hand.get_mut(key).and_then(|upload| upload.failing.as_mut()) else {
            return false;
        };
        let (failing, window) = (now.saturating_duration_since(*since), retry.window());
        let over = failing.as_secs_f64() / window.as_secs_f64().max(f64::MIN_POSITIVE);
        if over < f64::from(*counted) + 1.0 {
            return false;
        }
        *counted = if window.is_zero() { counted.saturating_add(1) } else { over as u32 };
        true
    }

    /// Nobody waits for better times any more: the end is near.
    pub fn hurry(&mut self) {
        (self.not_before, self.backlog_not_before) = (None, None);
    }

    /// An upload is two now: it was refused, or said to be cut.
    pub fn cut(&mut self, key: Pos, parts: [(Part, Body); 2], now: Instant) {
        let Some(whole) = self.hand.take(key) else { return };
        for (part, body) in parts {
            self.hand.put(whole.piece(part, body, now));
        }
    }

    /// The upload is being settled whatever its answer: it could not be made ready, or had to make room.
    pub fn settling(&mut self, key: Pos) {
        self.hand.set(key, State::Settling);
    }

    /// The spool knows what became of the upload.
    pub fn settled(&mut self, key: Pos) {
        if self.hand.take(key).is_none() {
            return;
        }
        let hand = &self.hand;
        self.windows.retain(|window| hand.within(window).next().is_some());
        self.hunts.retain(|hunt, _| hand.iter().any(|(_, upload)| upload.hunt == Some(*hunt)));
    }
}
