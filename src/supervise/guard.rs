//! The guard: owns one actor's future, catches its panics, rebuilds it, and lets itself be watched.
//!
//! ```text
//!            factory                     panic · hung · left
//!  mailbox ──────────▶ living ──────────────────────────────▶ fell
//!     ▲                  ▲                                      │ budget?
//!     │ new mailbox      │ restart(): *self = factory()         ├─ pause ──┐ the mailbox waits
//!     │                  └──────────────────────────────────────┼──────────┘
//!     └────────────── long rest (not vital) ◀── down ◀──────────┘ spent ──▶ vital: the process ends
//! ```
//!
//! What always holds:
//! * User code (factory, handlers, timers, drop) runs inside [`enter`](Current::enter) and a catch; nothing else does.
//! * The mailbox belongs to the guard's future: a fall costs the message being handled its answer and no other.
//! * A retired guard ends when it next comes by and writes nothing into the books.

use super::budget::Charge;
use super::handle::Slot;
use super::house::House;
use super::member::{Crash, Factory, Ping};
use super::panics;
use super::seat::{Reason, Seat};
use super::shift::{Current, Shift};
use super::vitals::{Patience, Tick};
use super::{Crew, End, Member};
use actix::dev::ContextFut;
use actix::dev::channel::AddressReceiver;
use actix::{ActorContext as _, Arbiter, AsyncContext as _, Context, ResponseFuture};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use tracing::warn;

/// Everything a guard needs to fill a seat, again and again.
pub(super) struct Staff<A: Member> {
    pub(super) seat: Arc<Seat>,
    pub(super) slot: Arc<Slot<A>>,
    pub(super) factory: Factory<A>,
    pub(super) house: Arc<House>,
}

impl<A: Member> Clone for Staff<A> {
    fn clone(&self) -> Staff<A> {
        let Staff { seat, slot, factory, house } = self;
        Staff { seat: seat.clone(), slot: slot.clone(), factory: factory.clone(), house: house.clone() }
    }
}

impl<A: Member> Staff<A> {
    /// Nobody looks after the seat any more, vital or not: the process is to end.
    pub(super) fn unguarded(&self, shift: &Shift, reason: Reason) {
        self.slot.close();
        self.seat.unguarded(shift, reason.clone());
        self.house.end(End::Escalated { post: self.seat.name.clone(), reason });
    }
}

/// How a shift begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Opening {
    /// With its mailbox open, after a pause (zero at the first start).
    After(Duration),
    /// With nobody to talk to until a long rest is over.
    AfterRest(Duration),
}

/// One shift from beginning to end, on the thread it was spawned on. Whatever ends it, somebody learns of it.
pub(super) async fn tenure<A: Member>(
    staff: Staff<A>,
    shift: Arc<Shift>,
    mailbox: Option<AddressReceiver<A>>,
    opening: Opening,
) {
    /// Dropped with the task: the runtime went away under a guard that had not finished.
    struct Unfinished<A: Member>(Option<(Staff<A>, Arc<Shift>)>);
    impl<A: Member> Drop for Unfinished<A> {
        fn drop(&mut self) {
            if let Some((staff, shift)) = self.0.take().filter(|(_, shift)| !shift.is_retired()) {
                staff.unguarded(&shift, Reason::Left);
            }
        }
    }
    let mut unfinished = Unfinished(Some((staff.clone(), shift.clone())));
    let outcome = panics::catch_future(guard(&staff, &shift, mailbox, opening)).await;
    unfinished.0 = None;
    if let Err(report) = outcome {
        staff.unguarded(&shift, Reason::Guard(report));
    }
    shift.retire(); // nobody is here any more; the watchdog need not wait for movement
}

async fn guard<A: Member>(
    staff: &Staff<A>,
    shift: &Arc<Shift>,
    mut mailbox: Option<AddressReceiver<A>>,
    opening: Opening,
) {
    let Staff { seat, slot, factory, house } = staff;
    let heartbeat = seat.post.policy.heartbeat;
    let current =
        Arc::new(Current { seat: seat.clone(), shift: shift.clone(), factory: Box::new(Factory::clone(factory)) });
    let (Opening::After(first) | Opening::AfterRest(first)) = opening;
    if !rest(shift, first, heartbeat).await {
        return;
    }
    let mut life = Life { current, actor: None };
    loop {
        if mailbox.is_none() && life.actor.is_none() {
            mailbox = Some(slot.open());
        }
        let fall = match life.begin(factory, &mut mailbox) {
            Ok(()) => life.live().await,
            Err(fall) => Some(fall),
        };
        let Some(charge) = fall.and_then(|reason| seat.fell(shift, reason)) else { return };
        let pause = match charge {
            Charge::Pause(pause) => pause,
            Charge::Spent => {
                slot.close();
                life.end();
                mailbox = None; // everybody queued learns now that there will be no answer
                if seat.post.vital {
                    let reason = seat.books().reason.clone().unwrap_or(Reason::Left);
                    return house.end(End::Escalated { post: seat.name.clone(), reason });
                }
                seat.post.policy.long_rest
            }
        };
        if !rest(shift, pause, heartbeat).await {
            return;
        }
    }
}

/// Waits, visible to the watchdog all the while; false when the shift was retired meanwhile.
async fn rest(shift: &Shift, time: Duration, heartbeat: Duration) -> bool {
    let start = Instant::now();
    loop {
        shift.turn();
        let left = time.saturating_sub(start.elapsed());
        if left.is_zero() || shift.is_retired() {
            return !shift.is_retired();
        }
        let mut nap = pin!(sleep(left.min(heartbeat)));
        poll_fn(|cx| if shift.poll_retired(cx).is_ready() { Poll::Ready(()) } else { nap.as_mut().poll(cx) }).await;
    }
}

/// The actor as its guard holds it, through any number of rebuildings.
struct Life<A: Member> {
    current: Arc<Current>,
    actor: Option<ContextFut<A, Context<A>>>,
}

impl<A: Member> Life<A> {
    /// Builds the actor: the first time around the mailbox, later in place.
    fn begin(&mut self, factory: &Factory<A>, mailbox: &mut Option<AddressReceiver<A>>) -> Result<(), Reason> {
        let Life { current, actor } = self;
        current.shift.begin(None);
        let built = panics::catch(|| {
            current.enter(|| match actor {
                Some(living) => living.restart(), // keeps the mailbox; `restarting` does `*self = factory()`
                None => {
                    let value = factory(); // may panic: the mailbox is taken only after it
                    *actor = mailbox.take().map(|mailbox| Context::with_receiver(mailbox).into_future(value));
                    true
                }
            })
        });
        match built {
            Ok(true) => Ok(()),
            Ok(false) => Err(Reason::Left), // the slot holds an address as long as there is a mailbox
            Err(report) => Err(Reason::Panic { during: None, report }),
        }
    }

    /// Lives until it falls; `None` when the shift was retired.
    async fn live(&mut self) -> Option<Reason> {
        let Life { current, actor } = self;
        let actor = actor.as_mut()?;
        let (seat, shift, policy) = (&current.seat, &current.shift, &current.seat.post.policy);
        let mut ticks = heartbeats(policy.heartbeat);
        let mut patience = Patience::since(shift.beats());
        let mut told = false;
        poll_fn(|cx| {
            if shift.poll_retired(cx).is_ready() {
                return Poll::Ready(None);
            }
            loop {
                shift.new_turn();
                match panics::catch(|| current.enter(|| Pin::new(&mut *actor).poll(cx))) {
                    Err(report) => return Poll::Ready(Some(Reason::Panic { during: shift.doing(), report })),
                    Ok(Poll::Ready(())) if shift.is_retired() => return Poll::Ready(None),
                    Ok(Poll::Ready(())) => return Poll::Ready(Some(Reason::Left)),
                    Ok(Poll::Pending) => {}
                }
                if !std::mem::replace(&mut told, true) {
                    seat.started(shift);
                }
                shift.orders.in_guard();
                if ticks.poll_tick(cx).is_pending() {
                    return Poll::Pending;
                }
                shift.turn();
                match patience.tick(shift.beats(), policy.heartbeat, policy.soft_deadline) {
                    Tick::Moving => seat.progressed(shift),
                    Tick::Ask => actor.address().do_send(Ping),
                    Tick::Waiting => {}
                    // A drain takes as long as its stage allows; whoever waits for it has a timeout.
                    Tick::Hung if seat.is_draining() => patience = Patience::since(shift.beats()),
                    Tick::Hung => return Poll::Ready(Some(Reason::Hung { after: policy.soft_deadline })),
                }
            }
        })
        .await
    }

    /// Ends it without asking it: a value that panicked is not trusted with `stopping`.
    fn end(&mut self) {
        let Some(mut actor) = self.actor.take() else { return };
        actor.ctx().terminate(); // else ContextFut::drop polls the actor once more
        if let Err(report) = panics::catch(|| self.current.enter(|| drop(actor))) {
            warn!(post = self.current.seat.name, panic = %report, "post panicked while it was dropped");
        }
    }
}

impl<A: Member> Drop for Life<A> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Delay, not burst: after its thread was busy elsewhere an actor gets its chance before the next look.
fn heartbeats(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Answers a message with a future that runs beside the actor; its panic is the actor's own fall.
///
/// A bare `ResponseFuture` is a task of its own: its panic costs one answer and nobody is told. What one request
/// can cause belongs into [`contain`](super::contain) instead, which charges nobody.
pub fn respond<A: Member, T: 'static>(
    ctx: &mut Context<A>,
    work: impl Future<Output = T> + 'static,
) -> ResponseFuture<T> {
    let (actor, current) = (ctx.address(), Current::get());
    Box::pin(async move {
        let mut work = Box::pin(work);
        let as_the_post = poll_fn(|cx| match &current {
            Some(current) => current.enter(|| work.as_mut().poll(cx)),
            None => work.as_mut().poll(cx),
        });
        match panics::catch_future(as_the_post).await {
            Ok(answer) => answer,
            Err(report) => {
                actor.do_send(Crash(report.clone()));
                panics::throw_on(report) // ends this task; whoever asked gets no answer
            }
        }
    })
}

/// Starts a shift of this staff on the thread its crew says.
///
/// # Errors
/// No thread could be had.
pub(super) fn begin_shift<A: Member>(staff: &Staff<A>, shift: Arc<Shift>, opening: Opening) -> std::io::Result<()> {
    let mailbox = match opening {
        Opening::After(_) => Some(staff.slot.open()),
        Opening::AfterRest(_) => None,
    };
    let (ours, post, house) = (staff.clone(), staff.seat.post, staff.house.clone());
    let counted = house.tenure(&staff.seat);
    let begun = match post.crew {
        Crew::Main => staff.house.main.spawn_fn(move || {
            actix_rt::spawn(async move {
                tenure(ours, shift, mailbox, opening).await;
                drop(counted); // after the actor and its factory
            });
        }),
        Crew::Own => {
            let arbiter = Arbiter::try_with_tokio_rt(move || own_runtime(post.name))?;
            arbiter.spawn_fn(move || {
                actix_rt::spawn(async move {
                    tenure(ours, shift.clone(), mailbox, opening).await;
                    house.thread_ended(&shift);
                    drop(counted);
                    Arbiter::current().stop();
                });
            })
        }
    };
    if begun { Ok(()) } else { Err(std::io::Error::other("the arbiter of this thread has stopped")) }
}

/// The runtime of an own thread, made on that thread; names it so that `top -H` and gdb show the post.
fn own_runtime(post: &'static str) -> std::io::Result<tokio::runtime::Runtime> {
    let shown: Vec<u8> = post.bytes().take(15).collect(); // TASK_COMM_LEN is 16 with the final zero
    if let Ok(name) = std::ffi::CString::new(shown) {
        let _ = rustix::thread::set_name(&name); // a nameless thread works as well
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
