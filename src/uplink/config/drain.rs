//! `drain`: fresh data or the backlog, and how fast.

use crate::config::Section;
use crate::otlp::Signal;
use crate::uplink::drain::{Drain, DrainOrder};

/// The words of `order` and `metrics_order`.
const ORDERS: [(&str, DrainOrder); 3] = [
    ("oldest_first", DrainOrder::OldestFirst),
    ("live_first", DrainOrder::LiveFirst),
    ("newest_first", DrainOrder::NewestFirst),
];

impl Drain {
    /// Reads `drain`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> Drain {
        let default = Drain::default();
        let drain = Drain {
            order: s.choice("order", default.order, &ORDERS),
            metrics_order: s.choice("metrics_order", default.metrics_order, &ORDERS),
            backlog_share: s.decimal("backlog_share", default.backlog_share, 0.0..=0.95),
            max_rate: s.bytes_a_second_if_given("max_rate"),
            priority: s.choices("priority", &Signal::NAMED),
        };
        let splits = [drain.order, drain.metrics_order].iter().any(|order| *order != DrainOrder::OldestFirst);
        s.warn_unless(splits || !s.gives("backlog_share"), "backlog_share", || {
            "has no effect: with oldest_first there is no live data beside the backlog".to_owned()
        });
        drain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    #[test]
    #[rustfmt::skip]
    fn what_makes_no_sense_is_said_with_its_path() {
        for (yaml, expected) in [
            ("{}",                                        ""),
            ("{order: LIVE_FIRST}",                       ""),
            ("{order: live}",                             "`live` is not one of oldest_first, live_first, newest_first"),
            ("{backlog_share: 1}",                        "1 is not from 0 to 0.95"),
            ("{order: oldest_first, backlog_share: 0.3}", "warning: has no effect: with oldest_first there is no live data beside the backlog"),
            ("{metrics_order: newest_first}",             ""),
            ("{max_rate: 64KiB}",                         ""),
            ("{max_rate: 0}",                             "must be more than 0; without the key there is no limit"),
            ("{max_rate: fast}",                          "`fast` is not a number of bytes; write for example 512KiB"),
            ("{priority: [metrics, metric]}",             "`metric` is not one of traces, metrics, logs; did you mean `metrics`?"),
        ] {
            assert_eq!(try_out(yaml, &[], Drain::read).1, expected, "{yaml}");
        }
    }
}
