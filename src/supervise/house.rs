//! The house: all seats of one supervisor, and what their guards, the watchdog and the supervisor share.

use super::budget::Charge;
use super::guard::{Opening, Staff, begin_shift};
use super::seat::{Reason, Seat};
use super::shift::{Shift, lock};
use super::watch::SeatView;
use super::{Drain, End, Fallen, Handle, Member, Settings};
use actix::{Arbiter, ArbiterHandle};
use futures_util::future::BoxFuture;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tracing::error;

/// Threads that may stand still, given up, at the same time. Each holds a stack, a runtime and what it was doing;
/// more than four means that replacing does not help.
const ABANDONED_MAX: usize = 4;

/// What all posts of one supervisor share.
pub(super) struct House {
    pub(super) settings: Settings,
    pub(super) main: ArbiterHandle,
    /// Moves while the main thread does, whoever is posted there.
    heart: Shift,
    offices: Mutex<Vec<Arc<dyn Office>>>,
    /// How the seats were when they were stopped.
    stopped: Mutex<Vec<SeatView>>,
    /// Guards at work, those of abandoned threads included.
    tenures: watch::Sender<usize>,
    end: watch::Sender<Option<End>>,
    taken_up: AtomicBool,
    abandoned: AtomicUsize,
}

impl House {
    pub(super) fn new(settings: Settings) -> House {
        House {
            settings,
            main: Arbiter::current(),
            heart: Shift::default(),
            offices: Mutex::default(),
            stopped: Mutex::default(),
            tenures: watch::Sender::new(0),
            end: watch::Sender::new(None),
            taken_up: AtomicBool::new(false),
            abandoned: AtomicUsize::new(0),
        }
    }

    pub(super) fn offices(&self) -> Vec<Arc<dyn Office>> {
        lock(&self.offices).clone()
    }

    /// Adds a seat.
    ///
    /// # Panics
    /// When there is one of this name.
    pub(super) fn add(&self, office: Arc<dyn Office>) {
        let (mut offices, name) = (lock(&self.offices), &office.seat().name);
        assert!(offices.iter().all(|other| other.seat().name != *name), "seat `{name}` is free");
        offices.push(office);
    }

    /// Stops one and forgets it: its name is free again.
    pub(super) fn dismiss(&self, name: &str) -> Option<Arc<dyn Office>> {
        let mut offices = lock(&self.offices);
        let at = offices.iter().position(|office| office.seat().name == name)?;
        let office = offices.remove(at);
        drop(offices);
        office.stop();
        Some(office)
    }

    /// Stops everybody and forgets them: factories hold handles and resources, which must not outlive this.
    pub(super) fn stop(&self) {
        let offices = std::mem::take(&mut *lock(&self.offices));
        offices.iter().for_each(|office| office.stop());
        lock(&self.stopped).extend(offices.iter().map(|office| office.view()));
    }

    pub(super) fn views(&self) -> Vec<SeatView> {
        let mut views = lock(&self.stopped).clone();
        views.extend(self.offices().iter().map(|office| office.view()));
        views
    }

    /// Counts a guard until the result is dropped.
    pub(super) fn tenure(self: &Arc<House>, seat: &Arc<Seat>) -> Tenure {
        seat.occupied(1);
        self.tenures.send_modify(|n| *n += 1);
        Tenure { house: self.clone(), seat: seat.clone() }
    }

    /// Waits until no guard is at work.
    pub(super) async fn until_empty(&self) {
        // The sender lives as long as `self`, so the only outcome is an empty house.
        let _ = self.tenures.subscribe().wait_for(|n| *n == 0).await;
    }

    /// The first end is the one that counts.
    pub(super) fn end(&self, end: End) {
        self.end.send_if_modified(|present| {
            let first = present.is_none();
            if first {
                *present = Some(end);
            }
            first
        });
    }

    /// Ready when it is over; from then on the watchdog relies on the main thread to act on it.
    pub(super) async fn until_end(&self) -> End {
        let mut news = self.end.subscribe();
        let end = news.wait_for(Option::is_some).await.map(|end| end.clone());
        self.taken_up.store(true, SeqCst);
        end.ok().flatten().expect("this house keeps the sender, and waited for `Some`")
    }

    /// An end that the main thread must act on and has not taken up.
    pub(super) fn end_not_taken_up(&self) -> Option<End> {
        let open = !self.taken_up.load(SeqCst);
        self.ended().filter(|end| open && !matches!(end, End::Asked { .. }))
    }

    /// The main thread's own sign of life, besides those of the posts on it.
    pub(super) async fn beat(self: Arc<House>) {
        let mut ticks = tokio::time::interval(self.settings.main_deadline / 4);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.heart.turn();
        }
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Moves when the main thread does.
    pub(super) fn movement(&self) -> u32 {
        self.heart.movement()
    }

    pub(super) fn abandoned(&self) -> usize {
        self.abandoned.load(SeqCst)
    }

    /// An own thread came to its end; if it had been given up, it came back after all.
    pub(super) fn thread_ended(&self, shift: &Shift) {
        if shift.was_abandoned() {
            let _ = self.abandoned.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        }
    }
}

/// A guard at work.
pub(super) struct Tenure {
    house: Arc<House>,
    seat: Arc<Seat>,
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.seat.occupied(-1);
        self.house.tenures.send_modify(|n| *n = n.saturating_sub(1));
    }
}

/// One seat and what can be done to it, whatever its actor's type.
pub(super) trait Office: Send + Sync {
    fn seat(&self) -> &Arc<Seat>;
    fn view(&self) -> SeatView;
    /// Gives up the thread of `old` and goes on with a new one.
    fn replace(&self, old: &Arc<Shift>, reason: Reason);
    fn drain(&self) -> BoxFuture<'static, Result<(), Fallen>>;
    fn stop(&self);
    /// False when nobody sits there.
    #[cfg(any(test, feature = "testing"))]
    fn sabotage(&self, case: super::Sabotage) -> bool;
}

impl<A: Member> Office for Staff<A> {
    fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    fn view(&self) -> SeatView {
        self.seat.view(self.slot.waiting())
    }

    fn replace(&self, old: &Arc<Shift>, reason: Reason) {
        let Some(charge) = self.seat.fell(old, reason.clone()) else { return };
        let opening = match charge {
            Charge::Pause(pause) => Opening::After(pause),
            Charge::Spent if self.seat.post.vital => {
                self.slot.close();
                old.retire();
                return self.house.end(End::Escalated { post: self.seat.name.clone(), reason });
            }
            Charge::Spent => {
                self.slot.close();
                Opening::AfterRest(self.seat.post.policy.long_rest)
            }
        };
        if self.house.abandoned.load(SeqCst) >= ABANDONED_MAX {
            error!(post = self.seat.name, limit = ABANDONED_MAX, "too many threads stand still, the process ends");
            return self.house.end(End::Blocked { post: self.seat.name.clone(), reason });
        }
        old.abandon(); // before it can end, so that its end is counted back
        let abandoned = self.house.abandoned.fetch_add(1, SeqCst) + 1;
        let shift = self.seat.relieve(old);
        match begin_shift(self, shift.clone(), opening) {
            Ok(()) => self.seat.replaced(abandoned),
            Err(error) => self.unguarded(&shift, Reason::NoThread(error.to_string())),
        }
    }

    fn drain(&self) -> BoxFuture<'static, Result<(), Fallen>> {
        let (handle, seat) = (Handle::new(self.slot.clone()), self.seat.clone());
        Box::pin(async move {
            loop {
                seat.draining();
                match handle.ask(Drain).await {
                    // It fell while draining: it comes back after its pause. The stage's timeout is the bound.
                    Err(Fallen::Unanswered(_) | Fallen::Late(_)) => {}
                    Ok(()) => {
                        seat.drained();
                        return Ok(());
                    }
                    Err(down @ Fallen::Down(_)) => return Err(down),
                }
            }
        })
    }

    fn stop(&self) {
        // In this order: an actor that nobody can speak to any more ends, and that is no fall of a stopped seat.
        self.seat.stop();
        self.slot.close();
    }

    #[cfg(any(test, feature = "testing"))]
    fn sabotage(&self, case: super::Sabotage) -> bool {
        self.slot.addr().inspect(|addr| addr.do_send(case)).is_some()
    }
}
