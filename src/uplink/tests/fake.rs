//! Tests only: a store in memory that checks every settlement, and the scripted far end without its socket.

use crate::base::{Clock, Stamp};
use crate::otlp::Signal;
use crate::spool::{
    Book, CommitError, Cut, ExporterNo, Lane, Lease, LeaseError, LeasedBlock, Loss, NewBlock, Outcome, Owner, Pick,
    Pos, Settlement, Store, Waiting,
};
use crate::testing::far_end::{Answer, Manner};
use crate::testing::numbered::numbers;
use crate::uplink::link::Trouble;
use crate::uplink::verdict::{HttpAnswer, Verdict};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct FakeStore {
    inner: Mutex<Inner>,
    news: watch::Sender<u64>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Inner {
    lanes: Vec<FakeLane>,
    generation: u64,
    outcomes: Outcomes,
    /// So many calls answer that the store is unavailable.
    sick: u32,
    /// Nothing can be written.
    full: bool,
    leases: u64,
    /// Settlements that came with data, taken or not.
    moves: u64,
    deepest: usize,
}

/// What became of items, in all lanes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
    pub(crate) rejected: u64,
    pub(crate) parked: u64,
    pub(crate) lost: u64,
    /// Signal, numbers and the far end's words.
    pub(crate) dead: Vec<(Signal, Vec<u64>, String)>,
}

#[derive(Debug)]
struct FakeLane {
    name: String,
    signal: Signal,
    park: Option<usize>,
    /// Index → items, accepted, raw.
    blocks: BTreeMap<u64, (u32, Stamp, Bytes)>,
    next: u64,
    /// Blocks that nobody had yet, their items and when they came; and all these items.
    unread: BTreeMap<u64, (u32, Stamp)>,
    unread_items: u64,
    /// What is live begins here.
    live_from: u64,
    windows: Vec<FakeWindow>,
}

#[derive(Debug)]
struct FakeWindow {
    range: Range<u64>,
    cut: Cut,
    settled: Vec<Range<Pos>>,
    items: u32,
    out: bool,
}

impl FakeStore {
    pub(crate) fn new(clock: Clock) -> Arc<FakeStore> {
        Arc::new(FakeStore { inner: Mutex::default(), news: watch::Sender::new(0), clock })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a test that panicked in here is over")
    }

    pub(crate) fn put(&self, lane: Lane, raw: Vec<u8>) {
        let stamp = self.clock.now();
        let mut inner = self.inner();
        let items = inner.append(lane.0 as usize, raw.into(), stamp);
        inner.outcomes.accepted += u64::from(items);
        drop(inner);
        self.news.send_modify(|n| *n += 1);
    }

    pub(crate) fn outcomes(&self) -> Outcomes {
        self.inner().outcomes.clone()
    }

    /// Items that wait, leased or not, park lanes included.
    pub(crate) fn waiting_items(&self) -> u64 {
        self.inner().waiting_items()
    }

    /// Most windows that were out at one time.
    pub(crate) fn deepest(&self) -> usize {
        self.inner().deepest
    }

    pub(crate) fn leases(&self) -> u64 {
        self.inner().leases
    }

    /// Settlements that came with data, taken or not.
    pub(crate) fn moves(&self) -> u64 {
        self.inner().moves
    }

    /// The next `calls` calls find the store unavailable.
    pub(crate) fn sicken(&self, calls: u32) {
        self.inner().sick = calls;
    }

    /// How many of those calls have not come yet.
    pub(crate) fn sick_left(&self) -> u32 {
        self.inner().sick
    }

    /// There is no room for anything new, or there is again.
    pub(crate) fn fill(&self, full: bool) {
        self.inner().full = full;
    }

    /// What is leased of this lane is evicted behind its owner's back.
    pub(crate) fn evict_leased(&self, lane: Lane) {
        let mut inner = self.inner();
        let Inner { lanes, outcomes, .. } = &mut *inner;
        let lane = &mut lanes[lane.0 as usize];
        let (out, kept) = std::mem::take(&mut lane.windows).into_iter().partition::<Vec<_>, _>(|window| window.out);
        lane.windows = kept;
        for window in out {
            outcomes.lost += u64::from(window.items);
            lane.blocks.retain(|index, _| !window.range.contains(index));
        }
    }

    /// Another uplink takes over: the present one is retired.
    pub(crate) fn usurp(&self) -> Owner {
        let mut inner = self.inner();
        inner.generation += 1;
        inner.lanes.iter_mut().flat_map(|lane| &mut lane.windows).for_each(|window| window.out = false);
        Owner { exporter: ExporterNo(1), generation: inner.generation }
    }

    /// accepted = delivered + rejected + waiting + dead letters + lost (promise P2).
    #[track_caller]
    pub(crate) fn assert_books(&self) {
        let inner = self.inner();
        let o = &inner.outcomes;
        let dead: u64 = o.dead.iter().map(|(_, seqs, _)| seqs.len() as u64).sum();
        let sum = o.delivered + o.rejected + inner.waiting_items() + dead + o.lost;
        assert_eq!(o.accepted, sum, "{o:?}, {} waiting", inner.waiting_items());
    }
}

impl Inner {
    fn append(&mut self, lane: usize, raw: Bytes, stamp: Stamp) -> u32 {
        let lane = &mut self.lanes[lane];
        let mut items = 0;
        numbers(lane.signal, &raw, |_| items += 1).expect("a request");
        lane.blocks.insert(lane.next, (items, stamp, raw));
        lane.unread.insert(lane.next, (items, stamp));
        lane.unread_items += u64::from(items);
        lane.next += 1;
        items
    }

    fn waiting_items(&self) -> u64 {
        let of = |lane: &FakeLane| {
            let all: u64 = lane.blocks.values().map(|(items, _, _)| u64::from(*items)).sum();
            let settled: u64 =
                lane.windows.iter().flat_map(|w| &w.settled).map(|range| u64::from(lane.items_in(range))).sum();
            all - settled
        };
        self.lanes.iter().map(of).sum()
    }

    fn check(&mut self, owner: Owner) -> Result<(), LeaseError> {
        if owner.generation != self.generation {
            return Err(LeaseError::Retired);
        }
        if self.sick > 0 {
            self.sick -= 1;
            return Err(LeaseError::Unavailable("the store is sick".to_owned()));
        }
        Ok(())
    }
}

impl FakeLane {
    /// As the ledger does it: when the oldest of what is live has waited for too long, what is young is live from now on.
    fn turn_to_live(&mut self, stale: Duration, cut: Cut, now: Stamp) {
        let mut live = self.unread.range(self.live_from..);
        let young = |stamp: Stamp| now.since(stamp) <= stale;
        let is_old = live.clone().next().is_some_and(|(_, (_, stamp))| !young(*stamp));
        if is_old && live.clone().map(|(_, (items, _))| items).sum::<u32>() > cut.enough_items {
            self.live_from = live.find(|(_, (_, stamp))| young(*stamp)).map_or(self.next, |(index, _)| *index);
        }
    }

    /// The blocks of a new window that begins there.
    fn window_from(&self, first: u64, cut: Cut) -> (Range<u64>, u32) {
        let (mut range, mut sum) = (first..first, 0);
        for (index, (items, _)) in self.unread.range(first..) {
            if *index != range.end || sum >= cut.enough_items {
                break;
            }
            range.end += 1;
            sum += items;
        }
        (range, sum)
    }

    fn items_in(&self, range: &Range<Pos>) -> u32 {
        let mut sum = 0;
        for (&index, (items, _, _)) in self.blocks.range(range.start.index..=range.end.index) {
            let from = if index == range.start.index { range.start.item } else { 0 };
            let to = if index == range.end.index { range.end.item } else { *items };
            sum += to.min(*items).saturating_sub(from);
        }
        sum
    }
}

impl Store for FakeStore {
    fn lane(&self, name: &str, signal: Signal) -> Lane {
        let mut inner = self.inner();
        let known = inner.lanes.iter().position(|lane| lane.name == name);
        let at = known.unwrap_or_else(|| {
            inner.lanes.push(FakeLane {
                name: name.to_owned(),
                signal,
                park: None,
                blocks: BTreeMap::new(),
                next: 0,
                unread: BTreeMap::new(),
                unread_items: 0,
                live_from: 0,
                windows: Vec::new(),
            });
            inner.lanes.len() - 1
        });
        Lane(u32::try_from(at).expect("few lanes"))
    }

    fn own(&self, _: &str, _: &[Lane]) -> Owner {
        self.usurp()
    }

    fn park_lane(&self, _: Owner, lane: Lane) -> Lane {
        let (name, signal) = {
            let inner = self.inner();
            let of = &inner.lanes[lane.0 as usize];
            (format!("{} (parked)", of.name), of.signal)
        };
        let park = self.lane(&name, signal);
        let mut inner = self.inner();
        inner.lanes[lane.0 as usize].park = Some(park.0 as usize);
        inner.lanes[park.0 as usize].park = Some(park.0 as usize);
        park
    }

    fn commit(&self, _: Vec<NewBlock>) -> Result<(), CommitError> {
        unreachable!("tests put requests, not blocks")
    }

    fn waiting(&self, _: Owner, lane: Lane) -> Waiting {
        let inner = self.inner();
        let lane = &inner.lanes[lane.0 as usize];
        let returned =
            lane.windows.iter().filter(|window| !window.out).map(|window| u64::from(window.items)).sum::<u64>();
        let fresh = |from: u64| lane.unread.range(from..).map(|(_, (n, _))| u64::from(*n)).sum::<u64>();
        let oldest = |from: u64| lane.unread.range(from..).next().map(|(_, (_, stamp))| *stamp);
        Waiting {
            items: returned + lane.unread_items,
            oldest: if returned > 0 { None } else { oldest(0) },
            live: if lane.live_from == 0 { lane.unread_items } else { fresh(lane.live_from) },
            live_oldest: oldest(lane.live_from),
            asked: 0,
        }
    }

    fn pick(&self, owner: Owner, lane: Lane, pick: Pick, cut: Cut) -> Result<Option<Lease>, LeaseError> {
        let now = self.clock.now();
        let mut inner = self.inner();
        inner.check(owner)?;
        inner.leases += 1;
        let state = &mut inner.lanes[lane.0 as usize];
        if let Pick::Live { stale } = pick {
            state.turn_to_live(stale, cut, now);
        }
        let returned = state.windows.iter().position(|window| !window.out);
        let window = match returned.filter(|_| !matches!(pick, Pick::Live { .. })) {
            Some(at) => &mut state.windows[at],
            None => {
                let from = state.live_from;
                let first = match pick {
                    Pick::Oldest => state.unread.keys().next(),
                    Pick::Live { .. } => state.unread.range(from..).next().map(|(index, _)| index),
                    Pick::Backlog { newest: false } => state.unread.keys().next().filter(|index| **index < from),
                    Pick::Backlog { newest: true } => state.unread.range(..from).next_back().map(|(index, _)| index),
                };
                let Some(first) = first.copied() else { return Ok(None) };
                let (range, items) = state.window_from(first, cut);
                state.unread.retain(|index, _| !range.contains(index));
                state.unread_items -= u64::from(items);
                state.windows.push(FakeWindow { range, cut, settled: Vec::new(), items, out: false });
                state.windows.last_mut().expect("just pushed")
            }
        };
        window.out = true;
        let blocks = state.blocks.range(window.range.clone()).map(|(&index, (items, accepted, raw))| LeasedBlock {
            index,
            items: *items,
            accepted: *accepted,
            raw: raw.clone(),
        });
        let lease = Lease {
            lane,
            signal: state.signal,
            window: window.range.clone(),
            cut: window.cut,
            settled: window.settled.clone(),
            age: Duration::ZERO,
            blocks: blocks.collect(),
        };
        let age = lease.blocks.first().map(|block: &LeasedBlock| now.since(block.accepted));
        let lease = Lease { age: age.unwrap_or_default(), ..lease };
        let out = inner.lanes.iter().flat_map(|lane| &lane.windows).filter(|window| window.out).count();
        inner.deepest = inner.deepest.max(out);
        Ok(Some(lease))
    }

    fn handled(&self, _: Owner, _: Lane, _: Range<u64>) {}

    fn reader_fell(&self) {}

    fn give_back(&self, owner: Owner, lane: Lane, window: Range<u64>) {
        let mut inner = self.inner();
        if owner.generation == inner.generation {
            let windows = &mut inner.lanes[lane.0 as usize].windows;
            let found = windows.iter_mut().find(|w| w.range == window).expect("only what was leased is given back");
            found.out = false;
        }
        drop(inner);
        self.news.send_modify(|n| *n += 1);
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Result<(), LeaseError> {
        let mut inner = self.inner();
        let moves = |s: &Settlement| matches!(s.outcome, Outcome::Parked { .. } | Outcome::DeadLetter { .. });
        let moving = settlements.iter().filter(|s| moves(s)).count();
        assert!(moving <= 1, "bodies are unpacked one at a time: {moving}");
        inner.moves += moving as u64;
        if inner.full && moving > 0 {
            return Err(LeaseError::Unavailable("the disk is full".to_owned()));
        }
        // All or none: look at all of them first.
        for s in &settlements {
            inner.check(s.owner)?;
            let lane = &inner.lanes[s.lane.0 as usize];
            let borders = |w: &FakeWindow| Pos { index: w.range.start, item: 0 }..Pos { index: w.range.end, item: 0 };
            let window = lane.windows.iter().find(|w| w.out && borders(w).contains(&s.range.start));
            let Some(window) = window else { return Err(LeaseError::NotLeased(s.lane, s.range.start, s.range.end)) };
            if window.settled.iter().any(|done| done.start < s.range.end && done.end > s.range.start) {
                return Err(LeaseError::NotLeased(s.lane, s.range.start, s.range.end));
            }
            assert!(s.range.end <= borders(window).end, "a part lies in one window: {:?}", s.range);
            assert_eq!(lane.items_in(&s.range), s.items, "a settlement counts what it covers: {:?}", s.range);
        }
        let stamp = self.clock.now();
        for s in settlements {
            inner.enter(s, stamp);
        }
        drop(inner);
        self.news.send_modify(|n| *n += 1); // parked data waits
        Ok(())
    }

    fn books(&self) -> Vec<Book> {
        unreachable!("tests look at the outcomes")
    }

    fn losses(&self) -> Vec<Loss> {
        Vec::new()
    }

    fn to_tell(&self, _: Owner) -> Result<Vec<Loss>, LeaseError> {
        Ok(Vec::new())
    }

    fn told(&self, _: Owner, _: &[Loss]) {}

    fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

impl Inner {
    fn enter(&mut self, s: Settlement, stamp: Stamp) {
        let at = s.lane.0 as usize;
        let signal = self.lanes[at].signal;
        let items = u64::from(s.items);
        match s.outcome {
            Outcome::InPart { .. } => unreachable!("one far end takes an upload or does not"),
            Outcome::Delivered { rejected } => {
                self.outcomes.delivered += items - u64::from(rejected);
                self.outcomes.rejected += u64::from(rejected);
            }
            Outcome::Parked { raw } => {
                let park = self.lanes[at].park.expect("the uplink asked for it at its start");
                let parked = self.append(park, raw, stamp);
                assert_eq!(u64::from(parked), items, "what is parked is what was taken out");
                self.outcomes.parked += items;
            }
            Outcome::DeadLetter { raw, answer } => {
                let mut seqs = Vec::new();
                numbers(signal, &raw, |mark| seqs.push(mark.expect("numbered").seq)).expect("a request");
                self.outcomes.dead.push((signal, seqs, answer));
            }
            Outcome::Lost(_) => self.outcomes.lost += items,
        }
        let lane = &mut self.lanes[at];
        let window = lane.windows.iter_mut().find(|w| w.range.contains(&s.range.start.index)).expect("checked");
        window.settled.push(s.range);
        let done = |lane: &FakeLane, w: &FakeWindow| {
            w.settled.iter().map(|range| lane.items_in(range)).sum::<u32>() == w.items
        };
        let finished: Vec<_> = lane.windows.iter().filter(|w| done(lane, w)).map(|w| w.range.clone()).collect();
        for range in finished {
            lane.windows.retain(|w| w.range != range);
            lane.blocks.retain(|index, _| !range.contains(index));
        }
    }
}

/// The scripted answer as the transport would tell of it, and how long that takes.
pub(crate) fn told(answer: &Answer, timeout: Duration, wall_ns: u64) -> (Duration, Verdict) {
    let header =
        |name: &str| answer.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
    let http = HttpAnswer {
        status: answer.status,
        content_type: header("content-type"),
        retry_after: header("retry-after"),
        date: header("date"),
        location: header("location"),
        body: Bytes::copy_from_slice(&answer.body),
        cut: answer.manner == Manner::ResetMidAnswer,
    };
    let silence = |trouble| Verdict::Silence { trouble, why: "scripted".to_owned() };
    match answer.manner {
        Manner::AtOnce | Manner::ResetMidAnswer => (Duration::ZERO, Verdict::of_http(&http, wall_ns)),
        Manner::After(pause) if pause < timeout => (pause, Verdict::of_http(&http, wall_ns)),
        Manner::After(_) | Manner::Never => (timeout, silence(Trouble::NoAnswer)),
        Manner::Reset | Manner::ResetStream(_) => (Duration::ZERO, silence(Trouble::NoAnswer)),
        Manner::Refused => (Duration::ZERO, silence(Trouble::Unreachable)),
    }
}
