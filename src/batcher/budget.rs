//! Bytes in flight: charged as they arrive, before any handler sees a whole message, and given back when the bytes are:
//! the charge goes with the offer into the batcher. Without it, a hundred slow uploads of 4 MiB would be the memory of
//! the gateway; and were it given back with the answer, clients that hang up during a stall of the disk would be.

use crate::base::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The bytes all requests together may hold. Counted in `usize`: memory is, on 32-bit machines too.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: AtomicUsize,
    used: AtomicUsize,
}

/// Too much is in flight: the client is asked to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many bytes of requests in flight (at most {0})")]
pub struct Crowded(pub Bytes);

/// What one request holds; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// At most `max` bytes at a time. One request is always let in, whatever its size: limits of single requests are
    /// the receiver's.
    #[must_use]
    pub fn new(max: Bytes) -> Budget {
        Budget(Arc::new(Inner { max: AtomicUsize::new(of(max)), used: AtomicUsize::new(0) }))
    }

    /// From now on so many. What is in flight already stays.
    pub fn set_max(&self, max: Bytes) {
        self.0.max.store(of(max), Relaxed);
    }

    /// Nothing yet.
    #[must_use]
    pub fn open(&self) -> Charge {
        Charge { budget: self.clone(), bytes: 0 }
    }

    /// Bytes in flight now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Relaxed)
    }
}

fn of(bytes: Bytes) -> usize {
    usize::try_from(bytes.0).unwrap_or(usize::MAX)
}

impl Charge {
    /// Charges more.
    ///
    /// # Errors
    /// When others hold so much that this would not fit. Nothing is charged then.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Crowded> {
        let Inner { max, used } = &*self.budget.0;
        let max = max.load(Relaxed);
        let before = used.fetch_add(bytes, Relaxed);
        let others = before.saturating_sub(self.bytes);
        if others > 0 && before.saturating_add(bytes) > max {
            used.fetch_sub(bytes, Relaxed);
            return Err(Crowded(Bytes(max as u64)));
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Charge {
    /// Gives back all but `bytes`: what was compressed is gone, what came of it stays.
    pub fn shrink_to(&mut self, bytes: usize) {
        let gone = self.bytes.saturating_sub(bytes);
        self.bytes -= gone;
        self.budget.0.used.fetch_sub(gone, Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_what_ends_is_given_back() {
        let budget = Budget::new(Bytes(100));
        let (mut a, mut b) = (budget.open(), budget.open());
        assert_eq!(a.grow(70), Ok(()));
        assert_eq!(b.grow(40), Err(Crowded(Bytes(100))));
        assert_eq!(b.grow(30), Ok(()));
        assert_eq!(budget.used(), 100);
        drop(a);
        assert_eq!((b.grow(70), budget.used()), (Ok(()), 100));
        b.shrink_to(40);
        b.shrink_to(70);
        assert_eq!(budget.used(), 40);
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_lone_request_larger_than_the_budget_is_let_in() {
        let budget = Budget::new(Bytes(100));
        let mut lone = budget.open();
        assert_eq!(lone.grow(500), Ok(()));
        assert!(budget.open().grow(1).is_err());
    }
}
