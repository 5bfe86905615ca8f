//! The batch processor's second half: when is there enough to send?
//!
//! The sizes and the timeout of `batch` decide what one upload is, not when data is safe (architecture §4).

use crate::base::Stamp;
use crate::spool::{Cut, Waiting};
use crate::telemetry::Trigger;
use std::time::Duration;
use tokio::time::Instant;

/// When the next upload of a lane is due, if nothing else happens; `None` while nothing waits.
///
/// `timeout` counts from the acceptance of the oldest item, so no item waits longer for company than that. What is old
/// already (a backlog, or stamped in another boot) is due now.
#[must_use]
pub fn due(waiting: Waiting, cut: Cut, timeout: Duration, stamp: Stamp, now: Instant) -> Option<Instant> {
    if waiting.items == 0 {
        return None;
    }
    let left = match (trigger(waiting.items, cut), waiting.oldest) {
        (Trigger::Size, _) | (_, None) => Duration::ZERO,
        (Trigger::Timeout, Some(oldest)) => timeout.saturating_sub(stamp.since(oldest)),
    };
    Some(now + left)
}

/// What makes so many items leave.
#[must_use]
pub fn trigger(items: u64, cut: Cut) -> Trigger {
    if items >= u64::from(cut.enough_items) { Trigger::Size } else { Trigger::Timeout }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn an_upload_is_due_when_it_is_large_or_its_oldest_item_old_enough() {
        let (s, now) = (Duration::from_secs(1), Instant::now());
        let cut = Cut { enough_items: 512, max_items: 1_024, max_bytes: 4 << 20 };
        let stamp = |mono_ms| Stamp { wall_ns: 0, mono_ms };
        for (items, oldest, timeout, expected) in [
            (0,     None,                10 * s, None),
            (1,     Some(stamp(60_000)), 10 * s, Some(10 * s)),
            (1,     Some(stamp(57_000)), 10 * s, Some(7 * s)),
            (1,     Some(stamp(50_000)), 10 * s, Some(Duration::ZERO)),
            (1,     Some(stamp(0)),      10 * s, Some(Duration::ZERO)),
            (1,     None,                10 * s, Some(Duration::ZERO)), // old, by how much is not known
            (511,   Some(stamp(60_000)), 10 * s, Some(10 * s)),
            (512,   Some(stamp(60_000)), 10 * s, Some(Duration::ZERO)),
            (1,     Some(stamp(60_000)), Duration::ZERO, Some(Duration::ZERO)),
            (1,     Some(stamp(99_000)), 10 * s, Some(10 * s)), // from the future: a clock of another boot
        ] {
            let due = due(Waiting { items, oldest, asked: 0 }, cut, timeout, stamp(60_000), now);
            assert_eq!(due.map(|at| at - now), expected, "{items} items, oldest {oldest:?}");
        }
    }
}
