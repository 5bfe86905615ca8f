//! What each signal may send, by rules and use.

use super::*;
use crate::otlp::Signal::{Logs, Metrics, Traces};

const S: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

fn day(limit: u64, by: [u64; CLASSES], passed: f64) -> Use {
    Use { limit, by, passed, length: DAY, left: DAY.mul_f64(1.0 - passed) }
}

/// What traces, metrics and logs may still send of 1,000 bytes.
#[test]
#[rustfmt::skip]
fn shares_are_promised_and_what_stops_first_leaves_a_reserve() {
    let none = || LinkBudget { per_day: Some(1_000), ..LinkBudget::default() };
    let shares = || LinkBudget { shares: [0.0, 0.3, 0.2], ..none() };
    let shed = || LinkBudget { shed: vec![Traces, Logs], reserve: 0.2, ..none() };
    let both = || LinkBudget { shed: vec![Traces, Logs], reserve: 0.2, ..shares() };
    for (rules, what, by, expected) in [
        (none(),   "no shares",                          [0, 0, 0, 0],       [1_000, 1_000, 1_000]),
        (none(),   "what is no upload counts too",       [100, 200, 300, 400], [0, 0, 0]),
        (shares(), "promised to others",                 [0, 0, 0, 0],       [500, 800, 700]),
        (shares(), "others have used theirs",            [0, 300, 200, 0],   [500, 500, 500]),
        (shares(), "traces took what is for all",        [500, 0, 0, 0],     [0, 300, 200]),
        (shares(), "more than there is: a late answer",  [900, 0, 0, 0],     [0, 100, 100]),
        (shed(),   "traces leave 20 %, logs 10 %",       [0, 0, 0, 0],       [800, 1_000, 900]),
        (shed(),   "traces stop",                        [800, 0, 0, 0],     [0, 200, 100]),
        (shed(),   "logs stop",                          [0, 900, 0, 0],     [0, 100, 0]),
        (both(),   "what is promised is not shed",       [300, 0, 0, 0],     [0, 500, 300]),
        (both(),   "of what is for all only so much",    [0, 300, 100, 0],   [300, 500, 500]),
    ] {
        let may = Signal::ALL.map(|signal| rules.may_send(signal, &day(1_000, by, 0.5)));
        assert_eq!(may, expected, "{what}: {by:?}");
    }
}

/// Goal: a backlog never goes ahead of an even use, live data does, and nothing goes that does not fit.
#[test]
fn a_backlog_keeps_pace_and_live_data_goes_ahead() {
    let (rules, now) = (LinkBudget { per_day: Some(1_000), ..LinkBudget::default() }, Instant::now());
    let of = |used: u64, passed: f64| rules.gate(Logs, &day(1_000, [0, 0, used, 0], passed), now);
    let shut = of(475, 0.4);
    assert_eq!((shut.live_from, shut.most), (None, 525));
    assert_eq!(shut.backlog_from, Some(now + 60 * S), "in 2.4 hours; but it is looked again");
    assert_eq!(of(475, 0.4999).backlog_from.map(|at| (at - now).as_secs()), Some(8));
    assert_eq!(of(475, 0.5), Gate { backlog_from: None, ..shut }, "an even use of 95 % has come to it");
    assert_eq!(of(1_000, 0.9).live_from, Some(now + 60 * S));
    assert_eq!(of(1_000, 0.9999).live_from.map(|at| (at - now).as_secs()), Some(8), "the day ends");
    // What nothing was sent of fits, whatever its length.
    assert_eq!(of(0, 0.5).most, u64::MAX);
    let free = LinkBudget { paced: false, ..rules.clone() };
    assert_eq!(free.gate(Logs, &day(1_000, [0, 0, 999, 0], 0.0), now).backlog_from, None);
    // The stricter one counts.
    let month = Gate { most: 10, again: Some(now + S), ..Gate::OPEN };
    assert_eq!(shut.and(month), Gate { most: 10, again: Some(now + S), ..shut });
}

#[test]
fn a_signal_without_a_share_gets_what_is_left() {
    let of = |shares: [f64; 3]| LinkBudget { shares, ..LinkBudget::default() }.weights();
    assert_eq!(of([0.0; 3]), None);
    assert_eq!(of([0.0, 0.5, 0.0]), Some([0.25, 0.5, 0.25]));
    assert_eq!(of([0.5, 0.5, 0.0]), Some([0.5, 0.5, LEAST_WEIGHT]));
    assert_eq!(Metrics as usize - 1, 1, "as the gates are ordered");
}
