//! A value that is replaced as a whole while others use it.

use std::sync::{Arc, PoisonError, RwLock};

/// Whoever took the value before a change goes on with what he took.
#[derive(Debug, Default)]
pub struct Swap<T>(RwLock<Arc<T>>);

impl<T> Swap<T> {
    /// Holds this.
    #[must_use]
    pub fn new(value: T) -> Swap<T> {
        Swap(RwLock::new(Arc::new(value)))
    }

    /// What it holds now.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        // Nobody panics while it is locked; and what is behind it is one pointer.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this.
    pub fn set(&self, value: T) {
        let value = Arc::new(value);
        let before = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), value);
        drop(before); // outside of the lock: it may hold much
    }
}
