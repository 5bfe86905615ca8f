//! How long the oldest data has waited. Nothing is read from the disk for it: what is out was read, and what is new is
//! remembered.

use super::Spool;
use crate::spool::shelf::lock;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the oldest item has waited that one exporter has still to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Age {
    /// The pipeline's lane.
    pub lane: String,
    /// The exporter.
    pub exporter: String,
    /// Since it was accepted, or the least that is known of it ([`crate::spool::chronicle`]).
    pub age: Duration,
}

impl Spool {
    /// One for each lane and exporter for which something waits, parked uploads included, as far as it is known: what an uplink
    /// has out, and new blocks of this life. Of a backlog with more new blocks than are remembered, the age is that of the oldest
    /// remembered: at least that.
    #[must_use]
    pub fn ages(&self) -> Vec<Age> {
        let now = self.clock.reading();
        let ledger = lock(&self.ledger);
        let mut oldest = BTreeMap::<_, Duration>::new();
        for waits in ledger.waits() {
            let out = lock(&self.out);
            let theirs = out.iter().filter(|((exporter, lane, _), _)| (*exporter, *lane) == waits.at);
            let out = theirs.map(|(_, out)| ledger.age(out.came, &now)).max();
            let recent = waits.recent.map(|came| ledger.age(came, &now));
            let Some(age) = out.into_iter().chain(recent).max() else { continue };
            let known = oldest.entry((waits.pipeline.to_owned(), waits.exporter.to_owned())).or_default();
            *known = age.max(*known);
        }
        oldest.into_iter().map(|((lane, exporter), age)| Age { lane, exporter, age }).collect()
    }
}
