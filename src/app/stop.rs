//! The last look of an ordered stop: is everything that was in hand safe?
//!
//! What a drain missed need not be a loss: requests nobody answered are still their clients', and what a spool on a disk
//! has acknowledged is there. Two things are one: acknowledged data in a store in memory, which ends with the process,
//! and a spool that could not be closed.

use super::roster::WRITER_;
use super::stores::{Stored, Stores};
use crate::spool::Store as _;
use crate::supervise::{Drained, Exit};
use std::time::Duration;

/// How a store was left.
#[derive(Debug)]
struct Left {
    store: String,
    /// Acknowledged items that end with the process.
    in_memory: u64,
    closed: Result<(), String>,
}

/// Looks at every store after the drain, and says what the process tells its parent. What is not safe is logged.
pub async fn last_look(stores: &Stores, drained: &Drained, patience: Duration) -> Exit {
    let mut all_safe = true;
    for stored in &stores.all {
        for fault in faults(&left(stored, drained, patience).await) {
            tracing::error!(store = stored.name, fault, "stopped, and not everything in hand is safe");
            all_safe = false;
        }
    }
    if all_safe { Exit::Clean } else { Exit::Unsafe }
}

async fn left(stored: &Stored, drained: &Drained, patience: Duration) -> Left {
    let waiting = || stored.spool.books().iter().map(|book| book.waiting).sum();
    let in_memory = if stored.durable { 0 } else { waiting() };
    let writer = format!("{}/{}", WRITER_.name, stored.name);
    let missed = drained.missed.iter().find(|(post, _)| *post == writer);
    let closed = match missed {
        Some((_, why)) => Err(why.clone()),
        None if !stored.durable => Ok(()),
        // Its writer has closed it; should that have failed, it fails again here. The disk may stand still.
        None => {
            let spool = stored.spool.clone();
            let closing = actix_rt::task::spawn_blocking(move || spool.close());
            match tokio::time::timeout(patience, closing).await {
                Ok(Ok(closed)) => closed,
                Ok(Err(panic)) => Err(panic.to_string()),
                Err(_) => Err(format!("no answer from the disk within {patience:?}")),
            }
        }
    };
    Left { store: stored.name.clone(), in_memory, closed }
}

fn faults(left: &Left) -> Vec<String> {
    let mut faults = Vec::new();
    if left.in_memory > 0 {
        let items = left.in_memory;
        faults.push(format!("{items} acknowledged items were in memory only and are lost with this process"));
    }
    if let Err(why) = &left.closed {
        faults.push(format!(
            "`{}` was not closed: {why}; what it acknowledged is on disk, some may be sent twice",
            left.store
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn what_is_not_safe_is_said() {
        for (in_memory, closed, expected) in [
            (0, Ok(()),                     &[][..]),
            (7, Ok(()),                     &["7 acknowledged items"]),
            (0, Err("disk full".to_owned()), &["`file_storage` was not closed: disk full"]),
            (7, Err("disk full".to_owned()), &["7 acknowledged items", "`file_storage` was not closed: disk full"]),
        ] {
            let faults = faults(&Left { store: "file_storage".to_owned(), in_memory, closed });
            assert_eq!(faults.len(), expected.len(), "{faults:?}");
            assert!(faults.iter().zip(expected).all(|(fault, begin)| fault.starts_with(begin)), "{faults:?}");
        }
    }
}
