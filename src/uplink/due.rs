//! The batch processor's second half: when is there enough to send?
//!
//! The sizes and the timeout of `batch` decide what one upload is, not when data is safe (architecture §4).

use super::drain::Manner;
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
pub fn due(
    items: u64,
    oldest: Option<Stamp>,
    cut: Cut,
    timeout: Duration,
    stamp: Stamp,
    now: Instant,
) -> Option<Instant> {
    if items == 0 {
        return None;
    }
    let left = match (trigger(items, cut), oldest) {
        (Trigger::Size, _) | (_, None) => Duration::ZERO,
        (Trigger::Timeout, Some(oldest)) => timeout.saturating_sub(stamp.since(oldest)),
    };
    Some(now + left)
}

/// The same of live data, and of the backlog. In a lane that is drained in its order all is of one kind: a backlog, when the oldest
/// has waited for too long.
#[must_use]
pub fn dues(
    waiting: Waiting,
    manner: Manner,
    cut: Cut,
    timeout: Duration,
    stamp: Stamp,
    now: Instant,
) -> [Option<Instant>; 2] {
    if manner.splits() {
        let live = due(waiting.live, waiting.live_oldest, cut, timeout, stamp, now);
        return [live, (waiting.items > waiting.live).then_some(now)];
    }
    let due = due(waiting.items, waiting.oldest, cut, timeout, stamp, now);
    let is_backlog = waiting.oldest.is_none_or(|oldest| stamp.since(oldest) > manner.stale);
    if is_backlog { [None, due] } else { [due, None] }
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
            let due = due(items, oldest, cut, timeout, stamp(60_000), now);
            assert_eq!(due.map(|at| at - now), expected, "{items} items, oldest {oldest:?}");
        }
    }

    /// Live data waits for company, a backlog does not; in a lane that keeps its order the age of the oldest says which it is.
    #[test]
    #[rustfmt::skip]
    fn a_backlog_is_due_at_once() {
        use crate::uplink::drain::DrainOrder::{LiveFirst, OldestFirst};
        let (s, none, now) = (Duration::from_secs(1), Duration::ZERO, Instant::now());
        let cut = Cut { enough_items: 512, max_items: 1_024, max_bytes: 4 << 20 };
        let stamp = |mono_ms| Stamp { wall_ns: 0, mono_ms };
        let (fresh, old) = (Some(stamp(59_000)), Some(stamp(40_000)));
        for (order, items, oldest, live, live_oldest, expected) in [
            (LiveFirst,   0,     None,  0,  None,  [None,        None]),
            (LiveFirst,   10,    fresh, 10, fresh, [Some(9 * s), None]),
            (LiveFirst,   9_000, None,  10, fresh, [Some(9 * s), Some(none)]),
            (LiveFirst,   9_000, None,  0,  None,  [None,        Some(none)]),
            (OldestFirst, 10,    fresh, 10, fresh, [Some(9 * s), None]),
            (OldestFirst, 10,    old,   10, old,   [None,        Some(none)]),
            (OldestFirst, 9_000, None,  10, fresh, [None,        Some(none)]),
        ] {
            let waiting = Waiting { items, oldest, live, live_oldest, asked: 0 };
            let manner = Manner { order, stale: 15 * s, ..Manner::default() };
            let due = dues(waiting, manner, cut, 10 * s, stamp(60_000), now).map(|due| due.map(|at| at - now));
            assert_eq!(due, expected, "{order:?} {items} {live}");
        }
    }
}
