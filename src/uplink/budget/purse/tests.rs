//! A purse over hours: what is sent is paid once, over kills and outages, and said.

use super::*;
use crate::base::Stamp;
use crate::uplink::budget::Wire;
use Signal::{Logs, Traces};

const S: Duration = Duration::from_secs(1);
/// 2026-11-27, noon.
const NOON: u64 = 1_795_780_800_000_000_000;

struct Rig {
    metrics: Metrics,
    health: Health,
    clock: Clock,
    meter: Meter,
    now: Instant,
}

impl Rig {
    fn new() -> Rig {
        let (metrics, clock) = (Metrics::detached(), Clock::by_hand(Stamp { wall_ns: NOON, mono_ms: 0 }));
        let (health, meter) = (Health::starting(clock.clone()), Meter::new(&metrics, "otlphttp"));
        Rig { metrics, health, clock, meter, now: Instant::now() }
    }

    fn purse(&self, rules: LinkBudget, file: Option<&Path>) -> Purse {
        let board = (&self.metrics, &self.health, "otlphttp");
        Purse::new(rules, self.meter.clone(), file, self.clock.clone(), board, self.now)
    }

    fn shown(&self, what: &str) -> Vec<(String, f64)> {
        let name = format!("tfo_agent_link_budget_{what}_bytes");
        let series = self.metrics.look(&["tfo_agent_link_budget_left_bytes", "tfo_agent_link_budget_used_bytes"]);
        let of = series.into_iter().filter(|series| series.name == name);
        of.map(|series| (series.label("period").unwrap_or_default().to_owned(), series.value)).collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.clock.advance(time);
    }
}

fn a_day(limit: u64) -> LinkBudget {
    LinkBudget { per_day: Some(limit), ..LinkBudget::default() }
}

/// Goal: an upload is paid for once, with all that it cost on the wire, and the day's end gives everything back.
#[test]
fn what_is_sent_is_paid_once_and_a_new_day_begins_with_nothing_used() {
    let mut rig = Rig::new();
    let purse = rig.purse(LinkBudget { per_month: Some(100_000), ..a_day(10_000) }, None);
    assert_eq!(purse.gates(rig.now)[2].most, u64::MAX, "nothing was used");
    purse.pay(Logs, 4_000, rig.now);
    assert_eq!(purse.gates(rig.now)[2].most, 6_000, "before the client has counted it");
    rig.meter.message(Some(Logs), Wire::Plain, 4_000); // 4,260 on the wire
    assert_eq!(purse.gates(rig.now)[2].most, 5_740);
    purse.pay(Logs, 5_740, rig.now);
    let shut = purse.gates(rig.now)[2];
    assert_eq!((shut.most, shut.live_from), (0, Some(rig.now + 60 * S)));
    rig.pass(S);
    let _ = purse.gates(rig.now);
    assert_eq!(rig.shown("left"), [("day".to_owned(), 0.0), ("month".to_owned(), 90_000.0)]);
    let said = format!("{:?}", rig.health.look());
    assert!(said.contains("are used; traces, metrics, logs wait in the spool"), "{said}");
    rig.pass(12 * 3_600 * S);
    let open = purse.gates(rig.now)[2];
    assert_eq!((open.most, open.live_from), (90_000, None), "of the month");
    assert_eq!(rig.shown("used"), [("day".to_owned(), 0.0), ("month".to_owned(), 10_000.0)]);
    let said = format!("{:?}", rig.health.look());
    assert!(!said.contains("are used"), "{said}");
}

/// What is left and too little for the next upload is told as used up, of the period that is in the way.
#[test]
fn a_rest_that_is_no_use_is_none() {
    let mut rig = Rig::new();
    let purse = rig.purse(LinkBudget { per_month: Some(1_000_000), ..a_day(10_000) }, None);
    purse.pay(Logs, 9_000, rig.now);
    let said = |rig: &Rig| format!("{:?}", rig.health.look());
    let _ = purse.gates(rig.now);
    assert!(!said(&rig).contains("are used"), "{}", said(&rig));
    purse.held([false, false, true], rig.now);
    rig.pass(S);
    let _ = purse.gates(rig.now);
    assert!(said(&rig).contains("of 9.8 KiB a day are used; logs wait"), "{}", said(&rig));
    assert!(!said(&rig).contains("a month"), "{}", said(&rig));
    rig.pass(2 * LASTS);
    purse.held([false; 3], rig.now);
    let _ = purse.gates(rig.now);
    assert!(!said(&rig).contains("are used"), "{}", said(&rig));
}

/// Goal: an outage of hours, in which every knock finds nobody, uses nothing of the day.
#[test]
fn what_never_left_is_not_paid() {
    let rig = Rig::new();
    let purse = rig.purse(LinkBudget { rate: Some(1_000), ..a_day(100_000) }, None);
    for _ in 0..1_000 {
        purse.pay(Logs, 90_000, rig.now);
        assert!(purse.gates(rig.now)[2].live_from.is_some());
        purse.give_back(Logs, 90_000, rig.now);
    }
    assert_eq!(purse.gates(rig.now), [Gate::OPEN; 3]);
}

/// Goal: over a minute no more than the rate goes, whatever the sizes, and not less either.
#[test]
fn the_rate_holds_for_everything() {
    let mut rig = Rig::new();
    let purse = rig.purse(LinkBudget { rate: Some(10_000), ..LinkBudget::default() }, None);
    let (start, mut sent) = (rig.now, 0_u64);
    for upload in 0.. {
        let signal = if upload % 2 == 0 { Logs } else { Traces };
        let gate = purse.gates(rig.now)[signal as usize - 1];
        assert_eq!(gate.live_from, gate.backlog_from);
        if let Some(from) = gate.live_from {
            rig.pass(from - rig.now);
        }
        if rig.now >= start + 60 * S {
            break;
        }
        let before = rig.meter.read().iter().sum::<u64>();
        purse.pay(signal, 3_000, rig.now);
        rig.meter.message(Some(signal), Wire::Tls, 3_000);
        sent += rig.meter.read().iter().sum::<u64>() - before;
    }
    let a_second = sent / (rig.now - start).as_secs();
    assert!((9_800..=10_300).contains(&a_second), "{a_second} B/s");
}

/// Goal: nothing is sent before the file counts it, and what a killed process sent counts in the next.
#[test]
fn a_restart_forgets_nothing() {
    let (rig, dir) = (Rig::new(), tempfile::tempdir().expect("a directory"));
    let file = dir.path().join("link-budget-otlphttp");
    let purse = rig.purse(a_day(1_000_000), Some(&file));
    let closed = purse.gates(rig.now)[2];
    assert_eq!(closed.live_from, Some(rig.now + SHOW), "the file comes first");
    purse.due(rig.now).expect("nothing was written yet")();
    assert_eq!(purse.gates(rig.now)[2].live_from, None);
    purse.pay(Logs, 40_000, rig.now);
    drop(purse); // killed
    let purse = rig.purse(a_day(1_000_000), Some(&file));
    purse.due(rig.now).expect("nothing was written yet")();
    let may = purse.gates(rig.now)[0].most;
    assert!(may <= 960_000 || may == u64::MAX, "{may}");
    let left = purse.rules.may_send(Logs, &purse.account.of(Period::Day, 1_000_000, purse.calendar(), NOON));
    assert!((890_000..=960_000).contains(&left), "{left}");
    purse.close();
    drop(purse); // stopped
    let purse = rig.purse(a_day(1_000_000), Some(&file));
    let after = purse.rules.may_send(Logs, &purse.account.of(Period::Day, 1_000_000, purse.calendar(), NOON));
    assert_eq!(after, left);
}
