//! The actor: carries out what the flow decides.
//!
//! ```text
//! spool news ─┐                      ┌─▶ Lease ──▶ depot ──▶ prepare ──▶ leased
//! timer ──────┼─▶ step ── flow.next ─┼─▶ Send ───▶ transport ─▶ Verdict ─▶ answered ─▶ Settle ─▶ depot
//! answer ─────┘                      └─▶ Cut · Park · GiveBack · Rest until
//! ```
//!
//! What always holds:
//! * It keeps nothing that cannot be lost: a new life takes over the leases of the old one, and the same uploads come
//!   out under the same ids.
//! * An upload leaves memory only after the spool has entered what became of it.
//! * What was delivered is entered without room on the disk; what is moved (parked, dead letters) needs some. They go
//!   apart, so that a full disk never keeps the one from making room for the other.

use super::desk::{Desk, Order};
use super::drain::{Drain as HowToDrain, DrainOrder, Manner};
use super::due::{dues, trigger};
use super::fate::{Fate, Told};
use super::flow::{Do, Flow};
use super::gap::{self, Heard, Pace};
use super::link::{Link, Trouble};
use super::pack::Packer;
use super::prepare::{cut, prepare};
use super::retry::OnExpiry;
use super::transport::{Origin, Parcel, Transport};
use super::verdict::Verdict;
use super::wiring::{LaneSettings, LaneView, Lines, UplinkSettings, View};
use crate::base::Dice;
use crate::otlp::Signal;
use crate::spool::{Cut, Lane, Lease, LeaseError, Loss, Outcome, Owner, Pick, Pos, Settlement};
use crate::supervise::{Drain, contained};
use crate::supervised;
use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, SpawnHandle, WrapFuture as _,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// Steps in one turn before others (answers, pings) are heard.
const STEPS_MAX: usize = 64;
/// Rest before the spool is asked again after it could not answer.
const SPOOL_REST: Duration = Duration::from_secs(1);
/// Settlements without data that go in one call; those with data go one by one.
const SETTLE_MAX: usize = 256;

/// One exporter's uplink.
pub struct Uplink {
    settings: Arc<UplinkSettings>,
    lines: Lines,
    transport: Arc<dyn Transport>,
    /// The lanes, then the park lane of each; then both of each that was added.
    lanes: Vec<LaneSettings>,
    /// Where the park lane of each is; `None`: it is one.
    parks: Vec<Option<usize>>,
    /// How many of the added lanes are known, or on their way to be.
    added: usize,
    owner: Option<Owner>,
    flow: Flow,
    packer: Packer,
    dice: Dice,
    /// Decided and not entered yet: what moves no data, and what does.
    plain: Pending,
    moving: Pending,
    wake: Option<(Instant, SpawnHandle)>,
    /// What the view shows of the links.
    shown: Option<(Link, Vec<Link>)>,
    last_failure: String,
    /// When losses are reported next; `None`: they are not.
    gaps: Option<Pace>,
    /// Who waits for everything to come home.
    drained: Vec<oneshot::Sender<()>>,
}

/// What the books are owed.
#[derive(Debug)]
struct Owed {
    /// The desk it belongs to.
    at: usize,
    range: Range<Pos>,
    items: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    /// Of the upload in hand that begins there.
    Upload(Told),
    /// Of a block that never became an upload.
    Block { raw: Bytes, answer: String },
}

/// What the books are owed and not told yet.
#[derive(Debug, Default)]
struct Pending {
    waiting: VecDeque<Owed>,
    /// One call at a time; what is decided meanwhile goes with the next. Also while resting after a failure.
    under_way: bool,
}

impl Uplink {
    /// For the factory: a new life with nothing in hand.
    #[must_use]
    pub fn new(settings: Arc<UplinkSettings>, lines: Lines, mut dice: Dice) -> Uplink {
        let packer = Packer::new(settings.encoding, settings.level);
        let transport = (lines.transport)();
        let desks = settings.lanes.iter().map(|lane| desk(lane, &settings));
        let parks = settings.lanes.iter().map(|lane| park_desk(lane, &settings.drain));
        let desks = desks.chain(parks).collect();
        let flow = Flow::new(desks, settings.retry, settings.budget, Dice::seeded(dice.u64()))
            .limited(settings.drain.max_rate, Instant::now())
            .weighing(lines.purse.as_ref().and_then(|purse| purse.rules().weights()));
        let count = settings.lanes.len();
        Uplink {
            lanes: settings.lanes.clone(),
            parks: (count..2 * count).map(Some).chain((0..count).map(|_| None)).collect(),
            added: 0,
            settings,
            lines,
            transport,
            owner: None,
            flow,
            packer,
            dice,
            plain: Pending::default(),
            moving: Pending::default(),
            wake: None,
            shown: None,
            last_failure: String::new(),
            gaps: None,
            drained: Vec::new(),
        }
    }

    fn take_over(&mut self, ctx: &mut Context<Self>) {
        let (depot, exporter) = (self.lines.depot.clone(), self.settings.exporter.clone());
        let lanes: Vec<Lane> = self.settings.lanes.iter().map(|lane| lane.lane).collect();
        let taking = async move {
            let owner = depot.own(&exporter, &lanes).await?;
            let mut parks = Vec::new();
            for lane in lanes {
                parks.push(depot.park_lane(owner, lane).await?);
            }
            Ok::<_, LeaseError>((owner, parks))
        };
        ctx.spawn(taking.into_actor(self).map(|taken, uplink, ctx| match taken {
            Ok((owner, parks)) => uplink.begin(owner, &parks, ctx),
            Err(error) => {
                uplink.lines.metrics.spool_failed("own", &error);
                ctx.run_later(SPOOL_REST, Self::take_over);
            }
        }));
    }

    fn begin(&mut self, owner: Owner, parks: &[Lane], ctx: &mut Context<Self>) {
        self.owner = Some(owner);
        self.lines.metrics.begun(self.settings.lanes.iter().map(|lane| &lane.name[..]));
        let parked = self.settings.lanes.iter().zip(parks).map(|(of, park)| park_of(of, *park));
        self.lanes.truncate(self.settings.lanes.len());
        self.lanes.extend(parked);
        let news = self.lines.depot.news();
        self.listen(news, ctx);
        self.take_in(ctx);
        self.listen_for_lanes(self.settings.added.clone(), ctx);
        (0..self.lanes.len()).for_each(|at| self.hold_back(at));
        self.heed(self.settings.ceiling.clone(), ctx);
        if let Some(interval) = self.settings.gap_interval {
            let pace = Pace::new(interval);
            ctx.run_later(pace.first(&mut self.dice), Self::report_gaps);
            self.gaps = Some(pace);
        }
        self.look(ctx);
    }

    /// Takes in the lanes that were added since it was last asked.
    fn take_in(&mut self, ctx: &mut Context<Self>) {
        let Some(owner) = self.owner else { return };
        let fresh = self.settings.added.borrow().get(self.added..).unwrap_or_default().to_vec();
        self.added += fresh.len();
        if fresh.is_empty() {
            return;
        }
        let depot = self.lines.depot.clone();
        let asked = async move {
            let mut parks = Vec::new();
            for lane in &fresh {
                parks.push(depot.park_lane(owner, lane.lane).await);
            }
            (fresh, parks)
        };
        ctx.spawn(asked.into_actor(self).map(move |(fresh, parks), uplink, ctx| {
            if uplink.owner != Some(owner) {
                return; // it was replaced meanwhile, and has nothing any more
            }
            for (lane, park) in fresh.into_iter().zip(parks) {
                uplink.add(lane, park);
            }
            uplink.look(ctx);
        }));
    }

    fn add(&mut self, lane: LaneSettings, park: Result<Lane, LeaseError>) {
        self.lines.metrics.joined(&lane.name);
        let at = self.flow.add(desk(&lane, &self.settings));
        // Asked on the spot; should it fail all the same, what must be parked stays in hand.
        let park = park.inspect_err(|error| self.lines.metrics.spool_failed("park lane", error)).ok();
        let beside = park.map(|park| (self.flow.add(park_desk(&lane, &self.settings.drain)), park_of(&lane, park)));
        debug_assert_eq!(at, self.lanes.len());
        self.lanes.push(lane);
        self.parks.push(beside.as_ref().map(|(at, _)| *at));
        if let Some((_, park)) = beside {
            self.lanes.push(park);
            self.parks.push(None);
        }
        (at..self.lanes.len()).for_each(|at| self.hold_back(at));
    }

    /// A lane with a backlog waits for its turn in the fleet; one without is in nobody's way.
    fn hold_back(&mut self, at: usize) {
        let (Some(owner), Some(first)) = (self.owner, self.settings.first_at) else { return };
        let waits = self.lines.depot.waiting(owner, self.lanes[at].lane).items > 0;
        if waits && first > Instant::now() {
            self.lines.metrics.held_back(&self.lanes[at].name, first - Instant::now());
            self.flow.desk_mut(at).leave_the_backlog_until(first);
            self.look_at(at);
        }
    }

    /// Goes by what the platform lets backlogs send, now and when it says something else.
    fn heed(&mut self, mut ceiling: watch::Receiver<Option<u64>>, ctx: &mut Context<Self>) {
        let rates = [self.settings.drain.max_rate, *ceiling.borrow_and_update()];
        self.flow.limit(rates.into_iter().flatten().min(), Instant::now());
        let heard = async move { ceiling.changed().await.map(|()| ceiling) };
        ctx.spawn(heard.into_actor(self).map(|heard, uplink, ctx| {
            // An error: there is no platform that could say something.
            if let Ok(ceiling) = heard {
                uplink.heed(ceiling, ctx);
                uplink.step(ctx);
            }
        }));
    }

    fn listen_for_lanes(&mut self, mut added: watch::Receiver<Vec<LaneSettings>>, ctx: &mut Context<Self>) {
        let heard = async move { added.changed().await.map(|()| added) };
        ctx.spawn(heard.into_actor(self).map(|heard, uplink, ctx| {
            // An error: whoever adds lanes speaks to our successor now.
            if let Ok(added) = heard {
                uplink.listen_for_lanes(added, ctx);
                uplink.take_in(ctx);
            }
        }));
    }

    /// Looks what waits whenever the spool has news.
    fn listen(&mut self, mut news: watch::Receiver<u64>, ctx: &mut Context<Self>) {
        let heard = async move { news.changed().await.map(|()| news) };
        ctx.spawn(heard.into_actor(self).map(|heard, uplink, ctx| {
            // An error: the spool is gone, and with it the process.
            if let Ok(news) = heard {
                uplink.listen(news, ctx);
                uplink.look(ctx);
            }
        }));
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        (0..self.lanes.len()).for_each(|at| self.look_at(at));
        self.step(ctx);
    }

    fn look_at(&mut self, at: usize) {
        let Some(owner) = self.owner else { return };
        let lane = &self.lanes[at];
        let waiting = self.lines.depot.waiting(owner, lane.lane);
        let timeout = if self.drained.is_empty() { lane.batch_timeout } else { Duration::ZERO };
        let (cut, now) = (lane.cut, self.lines.clock.now());
        let desk = self.flow.desk_mut(at);
        let [due, backlog] = dues(waiting, desk.manner(), cut, timeout, now, Instant::now());
        if !self.drained.is_empty() {
            desk.hurry();
        }
        desk.set_due(due);
        desk.set_backlog_due(backlog);
        desk.waits(waiting.items);
        desk.asked(waiting.asked, Instant::now());
    }

    /// Does all there is to do now.
    fn step(&mut self, ctx: &mut Context<Self>) {
        if self.owner.is_none() {
            return;
        }
        let mut rest = Some(Instant::now()); // more to do, after others were heard
        for _ in 0..STEPS_MAX {
            self.count_money(ctx);
            match self.flow.next(Instant::now()) {
                Do::Send(at, key) => self.send(at, key, ctx),
                Do::Lease(at, pick) => self.lease(at, pick, ctx),
                Do::Cut(at, key, items) => self.cut(at, key, items, "cut to size"),
                Do::Park(at, key) => {
                    let why = self.last_failure.clone();
                    self.decide(at, key, &Fate::Expired(OnExpiry::Park), &Verdict::Later { after: None, why });
                }
                Do::GiveBack(at, window) => self.give_back(at, window, ctx),
                Do::Rest(until) => {
                    rest = until;
                    break;
                }
            }
        }
        if let Some(purse) = &self.lines.purse {
            purse.held(self.flow.too_long(), Instant::now());
        }
        self.wake_at(rest, ctx);
        self.settle(false, ctx);
        self.settle(true, ctx);
        self.show();
        self.tell_those_who_drain();
    }

    /// What the link budget lets through by now, after what was sent.
    fn count_money(&mut self, ctx: &mut Context<Self>) {
        let Some(purse) = &self.lines.purse else { return };
        self.flow.set_gates(purse.gates(Instant::now()));
        if let Some(write) = purse.due(Instant::now()) {
            let written = tokio::task::spawn_blocking(write);
            ctx.spawn(written.into_actor(self).map(|_, uplink, ctx| uplink.step(ctx)));
        }
    }

    fn wake_at(&mut self, rest: Option<Instant>, ctx: &mut Context<Self>) {
        if self.wake.map(|(at, _)| at) == rest {
            return;
        }
        if let Some((_, wake)) = self.wake.take() {
            ctx.cancel_future(wake);
        }
        self.wake = rest.map(|at| {
            let wake = ctx.run_later(at.saturating_duration_since(Instant::now()), |uplink, ctx| {
                uplink.wake = None;
                uplink.step(ctx);
            });
            (at, wake)
        });
    }

    fn lease(&mut self, at: usize, pick: Pick, ctx: &mut Context<Self>) {
        let Some(owner) = self.owner else { return };
        let lane = &self.lanes[at];
        let asked = self.lines.depot.pick(owner, lane.lane, pick, lane.cut);
        ctx.spawn(asked.into_actor(self).map(move |answer, uplink, ctx| uplink.leased(at, answer, ctx)));
    }

    fn leased(&mut self, at: usize, answer: Result<Option<Lease>, LeaseError>, ctx: &mut Context<Self>) {
        let now = Instant::now();
        match answer {
            Ok(Some(lease)) => self.unpack(at, lease, ctx),
            Ok(None) => self.flow.leased(at, 0..0, Vec::new(), Duration::ZERO, now),
            Err(LeaseError::Retired) => return self.retire(),
            Err(error) => {
                self.lines.metrics.spool_failed("lease", &error);
                self.flow.leased(at, 0..0, Vec::new(), Duration::ZERO, now);
                self.flow.desk_mut(at).leave_the_spool_until(now + SPOOL_REST);
                return self.step(ctx);
            }
        }
        self.look_at(at);
        self.step(ctx);
    }

    /// A window becomes uploads. A panic over one of its blocks costs that block alone; what ends the whole process over
    /// it does so twice at most: the spool counts (promise P8).
    fn unpack(&mut self, at: usize, lease: Lease, ctx: &mut Context<Self>) {
        let Some(owner) = self.owner else { return };
        let now = Instant::now();
        let prepared = prepare(&lease, self.flow.desk(at).ceiling(now), &mut self.packer);
        if let Some(batch) = &self.lanes[at].batch {
            for (part, body) in &prepared.uploads {
                let items = u64::from(part.items());
                batch.sent(items, body.raw_len.into(), trigger(items, lease.cut));
            }
        }
        for (part, raw, answer) in prepared.unreadable {
            self.lines.metrics.dead_letter(lease.signal, part.items(), &answer);
            let items = part.items();
            self.pend(Owed { at, range: part.range, items, what: What::Block { raw, answer } });
        }
        let handled = self.lines.depot.handled(owner, lease.lane, lease.window.clone());
        ctx.spawn(handled.into_actor(self).map(|_, _, _| ()));
        self.flow.leased(at, lease.window, prepared.uploads, lease.age, now);
    }

    fn give_back(&mut self, at: usize, window: Range<u64>, ctx: &mut Context<Self>) {
        let Some(owner) = self.owner else { return };
        let given = self.lines.depot.give_back(owner, self.lanes[at].lane, window);
        // Should it get lost, the window comes back when the owner changes.
        ctx.spawn(given.into_actor(self).map(|_, _, _| ()));
    }

    fn send(&mut self, at: usize, key: Pos, ctx: &mut Context<Self>) {
        let Some(upload) = self.flow.desk(at).upload(key) else { return };
        let parcel = Parcel {
            signal: self.lanes[at].signal,
            body: upload.body.clone(),
            upload_id: upload.part.upload_id(&self.lines.depot.spool_id(), self.lanes[at].lane),
            origin: Some(Origin { lane: self.lanes[at].lane, pieces: upload.part.pieces.clone() }),
        };
        self.lines.metrics.sent(&parcel.body);
        if let Some(purse) = &self.lines.purse {
            purse.pay(parcel.signal, parcel.body.bytes.len(), Instant::now());
        }
        let sent = self.transport.send(parcel);
        ctx.spawn(sent.into_actor(self).map(move |verdict, uplink, ctx| uplink.answered(at, key, &verdict, ctx)));
    }

    fn answered(&mut self, at: usize, key: Pos, verdict: &Verdict, ctx: &mut Context<Self>) {
        let before = self.links();
        if let (Some(purse), Verdict::Silence { trouble: Trouble::Unreachable, .. }) = (&self.lines.purse, verdict)
            && let Some(upload) = self.flow.desk(at).upload(key)
        {
            purse.give_back(self.lanes[at].signal, upload.body.bytes.len(), Instant::now());
        }
        if !matches!(verdict, Verdict::Accepted { .. }) {
            verdict.why().clone_into(&mut self.last_failure);
        }
        if let Some(fate) = self.flow.answered(at, key, verdict, Instant::now()) {
            self.decide(at, key, &fate, verdict);
        }
        self.tell_moves(&before);
        self.step(ctx);
    }

    /// Carries out what becomes of an upload.
    fn decide(&mut self, at: usize, key: Pos, fate: &Fate, verdict: &Verdict) {
        let Some(upload) = self.flow.desk(at).upload(key) else { return };
        let (signal, items, why) = (self.lanes[at].signal, upload.part.items(), verdict.why());
        let metrics = &self.lines.metrics;
        match fate {
            Fate::Delivered { rejected } => {
                let oddity = if let Verdict::Accepted { oddity, .. } = verdict { *oddity } else { None };
                metrics.delivered(signal, items, *rejected, why, oddity);
            }
            Fate::Kept(_) | Fate::Suspect => {
                match fate {
                    Fate::Kept(blame) => metrics.kept(signal, items, blame, why),
                    _ => metrics.refused(signal, items, why),
                }
                if self.flow.desk_mut(at).another_window(key, &self.settings.retry, Instant::now()) {
                    metrics.failed_for_a_window(signal, items);
                }
                return;
            }
            Fate::Halve => {
                metrics.refused(signal, items, why);
                return self.cut(at, key, items / 2, why);
            }
            Fate::DeadLetter => metrics.dead_letter(signal, items, why),
            Fate::Expired(OnExpiry::Park) => metrics.parked(signal, items, why),
            Fate::Expired(OnExpiry::Drop) => metrics.dropped(signal, items, why),
        }
        if let Some(told) = fate.told(verdict) {
            self.enter(at, key, told);
        }
        if let (Fate::Expired(OnExpiry::Park), Some(park)) = (fate, self.parks[at]) {
            self.flow.let_it_lie(park, Instant::now());
        }
    }

    /// One upload becomes two. What cannot be cut, though it was accepted, is a dead letter as a whole.
    fn cut(&mut self, at: usize, key: Pos, items: u32, why: &str) {
        let Some(upload) = self.flow.desk(at).upload(key) else { return };
        let (signal, packer) = (self.lanes[at].signal, &mut self.packer);
        let parts = contained("cut", || cut(signal, &upload.part, &upload.body, items, packer));
        if let Ok(Some(parts)) = parts {
            return self.flow.desk_mut(at).cut(key, parts, Instant::now());
        }
        let answer = format!("{why} (and the batch cannot be cut)");
        self.lines.metrics.dead_letter(signal, upload.part.items(), &answer);
        self.flow.desk_mut(at).settling(key);
        self.enter(at, key, Told::DeadLetter { answer });
    }

    fn enter(&mut self, at: usize, key: Pos, told: Told) {
        let Some(upload) = self.flow.desk(at).upload(key) else { return };
        let (range, items) = (upload.part.range.clone(), upload.part.items());
        self.pend(Owed { at, range, items, what: What::Upload(told) });
    }

    fn pend(&mut self, owed: Owed) {
        let moves = match &owed.what {
            What::Upload(told) => told.moves(),
            What::Block { .. } => true,
        };
        self.pending(moves).waiting.push_back(owed);
    }

    /// As the spool hears it; `None` when the upload is gone, which then is nobody's any more.
    fn settlement(&self, owner: Owner, owed: &Owed) -> Option<Settlement> {
        let outcome = match &owed.what {
            What::Upload(told) => told.outcome(&self.flow.desk(owed.at).upload(owed.range.start)?.body),
            What::Block { raw, answer } => Outcome::DeadLetter { raw: raw.clone(), answer: answer.clone() },
        };
        let (lane, range, items) = (self.lanes[owed.at].lane, owed.range.clone(), owed.items);
        Some(Settlement { owner, lane, range, items, outcome })
    }

    fn pending(&mut self, moving: bool) -> &mut Pending {
        if moving { &mut self.moving } else { &mut self.plain }
    }

    fn settle(&mut self, moving: bool, ctx: &mut Context<Self>) {
        let Some(owner) = self.owner else { return };
        let pending = self.pending(moving);
        if pending.under_way || pending.waiting.is_empty() {
            return;
        }
        pending.under_way = true;
        let some = if moving { 1 } else { pending.waiting.len().min(SETTLE_MAX) };
        let batch: Vec<_> = pending.waiting.drain(..some).collect();
        let told = batch.iter().filter_map(|owed| self.settlement(owner, owed)).collect();
        let asked = self.lines.depot.settle(told);
        ctx.spawn(asked.into_actor(self).map(move |answer, uplink, ctx| uplink.settled(moving, batch, answer, ctx)));
    }

    fn settled(&mut self, moving: bool, mut batch: Vec<Owed>, answer: Result<(), LeaseError>, ctx: &mut Context<Self>) {
        self.pending(moving).under_way = false;
        match answer {
            Ok(()) => {
                for owed in batch {
                    self.flow.desk_mut(owed.at).settled(owed.range.start);
                }
            }
            Err(LeaseError::Retired) => return self.retire(),
            Err(error @ LeaseError::NotLeased(lane, from, to)) => {
                // One of them is none of ours any more, and none of the others was entered.
                let named = |owed: &Owed| self.lanes[owed.at].lane == lane && owed.range == (from..to);
                match batch.iter().position(named) {
                    Some(gone) => {
                        self.lines.metrics.settled_already(&error);
                        let owed = batch.remove(gone);
                        self.flow.desk_mut(owed.at).settled(owed.range.start);
                        self.pending(moving).waiting.extend(batch);
                    }
                    // Not one we asked about: nothing is forgotten on such a word.
                    None => self.settle_later(moving, batch, &error, ctx),
                }
            }
            Err(error @ LeaseError::Unavailable(_)) => self.settle_later(moving, batch, &error, ctx),
        }
        self.step(ctx);
    }

    /// The spool could not enter it: the same again after a rest.
    fn settle_later(&mut self, moving: bool, batch: Vec<Owed>, why: &LeaseError, ctx: &mut Context<Self>) {
        self.lines.metrics.spool_failed("settle", why);
        let pending = self.pending(moving);
        pending.waiting.extend(batch);
        pending.under_way = true; // until the rest is over
        ctx.run_later(SPOOL_REST, move |uplink, ctx| {
            uplink.pending(moving).under_way = false;
            uplink.step(ctx);
        });
    }

    /// Tells the far end what it will not get, if it does not know; the next look is after a rest. Beside the lanes: neither their
    /// links nor their uploads know of it.
    fn report_gaps(&mut self, ctx: &mut Context<Self>) {
        let (Some(owner), Some(pace)) = (self.owner, &self.gaps) else { return };
        let metrics = self.flow.desks().iter().position(|desk| desk.signal() == Signal::Metrics);
        let may = metrics.is_none_or(|at| self.flow.lets_through(at, Instant::now()));
        if !self.flow.link().is_up() || !may {
            ctx.run_later(pace.idle(), Self::report_gaps);
            return;
        }
        let asked = self.lines.depot.to_tell(owner);
        ctx.spawn(asked.into_actor(self).map(|losses, uplink, ctx| uplink.report(losses, ctx)));
    }

    fn report(&mut self, losses: Result<Vec<Loss>, LeaseError>, ctx: &mut Context<Self>) {
        let (Some(owner), Some(pace)) = (self.owner, &self.gaps) else { return };
        let losses = match losses {
            Ok(losses) => losses,
            Err(LeaseError::Retired) => return, // its successor reports
            Err(error) => {
                self.lines.metrics.spool_failed("gap report", &error);
                Vec::new()
            }
        };
        if losses.is_empty() {
            ctx.run_later(pace.idle(), Self::report_gaps);
            return;
        }
        let spool = self.lines.depot.spool_id();
        let raw = gap::request(&losses, &self.lines.metrics.speaker(&spool), self.lines.clock.now().wall_ns);
        let body = self.packer.pack(&raw);
        let parcel = Parcel { signal: Signal::Metrics, body, upload_id: format!("{spool}/gaps"), origin: None };
        self.lines.metrics.sent(&parcel.body);
        let (sent, depot) = (self.transport.send(parcel), self.lines.depot.clone());
        let told = async move {
            let verdict = sent.await;
            let known = Heard::of(&verdict) == Heard::Known;
            // Should this get lost, they are told once more.
            let noted = if known { depot.told(owner, losses.clone()).await } else { Ok(()) };
            (losses, verdict, noted)
        };
        ctx.spawn(told.into_actor(self).map(|(losses, verdict, noted), uplink, ctx| {
            let Some(pace) = &mut uplink.gaps else { return };
            let (heard, rest) = pace.after(&verdict, &mut uplink.dice);
            uplink.lines.metrics.reported(&losses, heard, verdict.why(), rest);
            if let Err(error) = noted {
                uplink.lines.metrics.spool_failed("gap report", &error);
            }
            ctx.run_later(rest, Self::report_gaps);
        }));
    }

    /// Another uplink has taken over: nothing of this one counts any more.
    fn retire(&mut self) {
        self.lines.metrics.retired();
        let Uplink { settings, lines, dice, drained, .. } = self;
        let drained = std::mem::take(drained);
        *self = Uplink::new(settings.clone(), lines.clone(), Dice::seeded(dice.u64()));
        drop(drained); // they wait for nobody: a dropped sender ends their wait
    }

    fn links(&self) -> (Link, Vec<Link>) {
        (self.flow.link(), self.flow.desks().iter().map(Desk::link).collect())
    }

    fn tell_moves(&self, (link, lanes): &(Link, Vec<Link>)) {
        if !same(*link, self.flow.link()) {
            self.lines.metrics.link_moved(*link, self.flow.link(), &self.last_failure);
        }
        for ((before, desk), lane) in lanes.iter().zip(self.flow.desks()).zip(&self.lanes) {
            if !desk.is_parked() && !same(*before, desk.link()) {
                self.lines.metrics.lane_moved(&lane.name, *before, desk.link(), &self.last_failure);
            }
        }
    }

    fn show(&mut self) {
        let links = self.links();
        if self.shown.as_ref() == Some(&links) {
            return;
        }
        let lanes = self.lanes.iter().zip(self.flow.desks());
        self.lines.view.send_replace(View {
            link: self.flow.link(),
            last_failure: self.last_failure.clone(),
            lanes: lanes
                .map(|(lane, desk)| LaneView { name: lane.name.clone(), parked: desk.is_parked(), link: desk.link() })
                .collect(),
        });
        self.shown = Some(links);
    }

    fn tell_those_who_drain(&mut self) {
        let pending = |pending: &Pending| pending.under_way || !pending.waiting.is_empty();
        if self.drained.is_empty() || self.flow.out() > 0 || pending(&self.plain) || pending(&self.moving) {
            return;
        }
        // What is being leased waits no more and is not in hand yet.
        let has = |desk: &Desk| desk.due().is_some() || desk.is_leasing() || !desk.is_empty();
        let takes = |desk: &Desk| !desk.is_parked() && desk.link().is_up() && has(desk);
        let now = Instant::now();
        let some =
            self.flow.desks().iter().enumerate().any(|(at, desk)| takes(desk) && self.flow.lets_through(at, now));
        let flushing = self.settings.flush_at_stop && self.flow.link().is_up() && some;
        if !flushing {
            self.flow.close(true);
            for done in self.drained.drain(..) {
                let _ = done.send(()); // who asked may have stopped waiting
            }
        }
    }
}

fn desk(lane: &LaneSettings, settings: &UplinkSettings) -> Desk {
    let manner = settings.drain.of(lane.signal, lane.batch_timeout);
    let order = order(lane.signal, manner, settings.consumers);
    Desk::new(lane.signal, order, settings.consumers, false).draining(manner)
}

/// What was parked goes in its order, and is never fresh.
fn park_desk(lane: &LaneSettings, drain: &HowToDrain) -> Desk {
    let of = drain.of(lane.signal, Duration::ZERO);
    let manner = Manner { order: DrainOrder::OldestFirst, stale: Duration::ZERO, ..of };
    Desk::new(lane.signal, Order::Any, 1, true).draining(manner)
}

fn park_of(of: &LaneSettings, park: Lane) -> LaneSettings {
    LaneSettings {
        lane: park,
        // Each parked upload is a block, and was cut already.
        cut: Cut { enough_items: 1, ..of.cut },
        batch_timeout: Duration::ZERO,
        batch: None,
        ..of.clone()
    }
}

/// Resting and probing take turns; that is no news.
fn same(a: Link, b: Link) -> bool {
    a.is_up() == b.is_up() && a.trouble() == b.trouble()
}

/// Far ends refuse samples that are older than the last one (promise P6). And who asks for one upload of logs at a time, in order,
/// gets them in order, whatever fails between.
pub(super) fn order(signal: Signal, manner: Manner, consumers: u32) -> Order {
    let in_order = !manner.splits() && (signal == Signal::Metrics || consumers == 1);
    if in_order { Order::Strict } else { Order::Any }
}

impl std::fmt::Debug for Uplink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uplink")
            .field("exporter", &self.settings.exporter)
            .field("flow", &self.flow)
            .finish_non_exhaustive()
    }
}

impl Actor for Uplink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.take_over(ctx);
    }
}
supervised!(Uplink, drain: own);

/// Answered when nothing is out and the spool knows of everything. What was accepted and not sent stays in the spool;
/// if that would be lost with the process, it is sent first.
impl Handler<Drain> for Uplink {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) -> Self::Result {
        let (done, drained) = oneshot::channel();
        self.drained.push(done);
        self.flow.close(!self.settings.flush_at_stop);
        self.flow.hurry();
        if self.owner.is_none() {
            self.drained.clear(); // it has never begun
        }
        self.look(ctx);
        let purse = self.lines.purse.clone();
        Box::pin(async move {
            drop(drained.await);
            if let Some(purse) = purse {
                drop(tokio::task::spawn_blocking(move || purse.close()).await);
            }
        })
    }
}
