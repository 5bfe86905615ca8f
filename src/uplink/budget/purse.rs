//! What one exporter may send now: its rules, its account and its meter.

use super::account::Account;
use super::book::{Calendar, Period};
use super::meter::Meter;
use super::{CLASSES, Gate, LinkBudget, Use};
use crate::base::{Bytes, Clock};
use crate::otlp::Signal;
use crate::telemetry::metrics::{Gauge, Gauges};
use crate::telemetry::{Health, Metrics};
use crate::uplink::drain::Bucket;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Span, info, warn};

/// What does not fit is asked about again within [`super::LOOK_AGAIN`]; when nobody asked for longer than that, it went.
const LASTS: Duration = Duration::from_secs(90);
/// How often what is used is shown.
const SHOW: Duration = Duration::from_secs(1);

/// See the module. Lives as long as the exporter's section, over all lives of its uplink.
#[derive(Debug)]
pub struct Purse {
    rules: LinkBudget,
    meter: Meter,
    account: Arc<Account>,
    clock: Clock,
    state: Mutex<State>,
    board: Board,
}

#[derive(Debug)]
struct State {
    /// Of the meter, what is in the account.
    seen: [u64; CLASSES],
    /// Paid when it was sent, and not metered yet.
    prepaid: [u64; CLASSES],
    bucket: Option<Bucket>,
    shown: Option<Instant>,
    /// Signals that have something longer than what is left, and since when that is so.
    too_long: [Option<Instant>; 3],
    /// Used up, as far as the board knows.
    spent: Vec<(Period, Signal)>,
}

impl Purse {
    /// Of the exporter of this id. `file`: where it is kept what was used.
    #[must_use]
    pub fn new(
        rules: LinkBudget,
        meter: Meter,
        file: Option<&Path>,
        clock: Clock,
        board: (&Metrics, &Health, &str),
        now: Instant,
    ) -> Purse {
        let bucket = rules.rate.map(|rate| Bucket::new(rate, now));
        let state = State {
            seen: meter.read(),
            prepaid: [0; CLASSES],
            bucket,
            shown: None,
            too_long: [None; 3],
            spent: Vec::new(),
        };
        let account = Account::at(file.filter(|_| rules.has_periods()));
        Purse { board: Board::new(board), rules, meter, account, clock, state: Mutex::new(state) }
    }

    /// By what it goes.
    #[must_use]
    pub fn rules(&self) -> &LinkBudget {
        &self.rules
    }

    fn calendar(&self) -> Calendar {
        Calendar { utc_offset_s: self.rules.utc_offset_s, month_starts_on: self.rules.month_starts_on }
    }

    fn limits(&self) -> impl Iterator<Item = (Period, u64)> {
        let limits = [(Period::Day, self.rules.per_day), (Period::Month, self.rules.per_month)];
        limits.into_iter().filter_map(|(period, limit)| Some((period, limit?)))
    }

    /// An upload of so many bytes goes. Paid at once, so that none goes for the same bytes; the meter says what it cost in the end.
    pub fn pay(&self, signal: Signal, bytes: usize, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (class, bytes) = (signal as usize - 1, bytes as u64);
        state.prepaid[class] = state.prepaid[class].saturating_add(bytes);
        let mut by = [0; CLASSES];
        by[class] = bytes;
        self.spend(&mut state, by, now);
    }

    /// An upload that was paid for never left: there was nobody to connect to.
    pub fn give_back(&self, signal: Signal, bytes: usize, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (class, bytes) = (signal as usize - 1, bytes as u64);
        let bytes = bytes.min(state.prepaid[class]);
        state.prepaid[class] -= bytes;
        self.account.give_back(class, bytes);
        if let Some(bucket) = &mut state.bucket {
            bucket.give_back(bytes, now);
        }
    }

    fn spend(&self, state: &mut State, by: [u64; CLASSES], now: Instant) {
        self.account.spend(self.calendar(), self.clock.now().wall_ns, by);
        if let Some(bucket) = &mut state.bucket {
            let bytes = by.iter().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
            bucket.owe(bytes, now);
        }
    }

    /// What each signal may send now.
    #[must_use]
    pub fn gates(&self, now: Instant) -> [Gate; 3] {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let metered = self.meter.read();
        let by = std::array::from_fn(|class| {
            let more = metered[class].saturating_sub(state.seen[class]);
            let paid = more.min(state.prepaid[class]);
            state.prepaid[class] -= paid;
            more - paid
        });
        state.seen = metered;
        self.spend(&mut state, by, now);

        let wall_ns = self.clock.now().wall_ns;
        let uses: Vec<(Period, Use)> = self
            .limits()
            .map(|(period, limit)| (period, self.account.of(period, limit, self.calendar(), wall_ns)))
            .collect();
        let ready = state.bucket.as_mut().map(|bucket| bucket.ready_at(now)).filter(|at| *at > now);
        // The file comes in a moment.
        let written = self.rules.has_periods() && self.account.is_to_be_written();
        let from = ready.max(written.then(|| now + SHOW));
        let common = Gate { live_from: from, backlog_from: from, ..Gate::OPEN };
        let gates = Signal::ALL
            .map(|signal| uses.iter().fold(common, |gate, (_, spent)| gate.and(self.rules.gate(signal, spent, now))));
        self.show(&mut state, &uses, now);
        gates
    }

    /// What to write of the account, and how; where a disk may take its time.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<impl FnOnce() + Send + 'static> {
        let limit = self.limits().map(|(_, limit)| limit).min()?;
        let bytes = self.account.due(limit, now)?;
        let account = self.account.clone();
        Some(move || account.write(&bytes, limit, Instant::now()))
    }

    /// The end: keeps exactly what was used. A disk may take its time.
    pub fn close(&self) {
        if self.rules.has_periods() {
            self.account.close();
        }
    }

    /// These signals have something to send that does not fit any more: a small rest that nobody can use is as good as none.
    pub fn held(&self, too_long: [bool; 3], now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (known, is) in state.too_long.iter_mut().zip(too_long) {
            *known = if is { Some(now) } else { known.filter(|at| now < *at + LASTS) };
        }
    }

    fn show(&self, state: &mut State, uses: &[(Period, Use)], now: Instant) {
        if state.shown.is_some_and(|at| now < at + SHOW) {
            return;
        }
        state.shown = Some(now);
        self.board.show(uses);
        let held = state.too_long;
        let is_spent = |signal: Signal, spent: &Use| {
            let may = self.rules.may_send(signal, spent);
            // The smallest of them is in the way.
            let least = uses.iter().all(|(_, other)| may <= self.rules.may_send(signal, other));
            may == 0 || (held[signal as usize - 1].is_some() && least)
        };
        let spent: Vec<(Period, Signal)> = uses
            .iter()
            .flat_map(|(period, spent)| Signal::ALL.map(|signal| (*period, signal, is_spent(signal, spent))))
            .filter_map(|(period, signal, is_spent)| is_spent.then_some((period, signal)))
            .collect();
        if spent != state.spent {
            self.board.tell(&spent, uses);
            state.spent = spent;
        }
    }
}

/// Where it is shown.
#[derive(Debug)]
struct Board {
    exporter: String,
    limit: Gauges,
    used: Gauges,
    left: Gauges,
    health: Health,
    span: Span,
}

impl Board {
    fn new((metrics, health, exporter): (&Metrics, &Health, &str)) -> Board {
        let gauges = |name, help| metrics.gauges(name, help, &["exporter", "period"]);
        Board {
            exporter: exporter.to_owned(),
            limit: gauges("tfo_agent_link_budget_limit_bytes", "What the link may be used for: day, month."),
            used: gauges("tfo_agent_link_budget_used_bytes", "What the link was used for, of the limit."),
            left: gauges("tfo_agent_link_budget_left_bytes", "What is left of the limit."),
            health: health.clone(),
            span: tracing::info_span!("component", kind = "exporter", name = exporter),
        }
    }

    fn of(&self, gauges: &Gauges, period: Period) -> Gauge {
        gauges.with(&[&self.exporter, period.name()])
    }

    fn show(&self, uses: &[(Period, Use)]) {
        for (period, spent) in uses {
            self.of(&self.limit, *period).set_count(spent.limit);
            self.of(&self.used, *period).set_count(spent.used());
            self.of(&self.left, *period).set_count(spent.unused());
        }
    }

    fn tell(&self, spent: &[(Period, Signal)], uses: &[(Period, Use)]) {
        let what = format!("{}/link_budget", self.exporter);
        let text = |(period, of): &(Period, Use)| {
            let signals: Vec<&str> = spent.iter().filter(|(p, _)| p == period).map(|(_, s)| s.name()).collect();
            let (used, limit, left) = (Bytes(of.used()), Bytes(of.limit), of.left.as_secs().div_ceil(60));
            let name = period.name();
            (!signals.is_empty()).then(|| {
                format!(
                    "{used} of {limit} a {name} are used; {} wait in the spool, {left} min until the {name} ends",
                    signals.join(", ")
                )
            })
        };
        let texts: Vec<String> = uses.iter().filter_map(text).collect();
        if texts.is_empty() {
            self.health.recovered(&what);
            info!(parent: &self.span, "link budget lets everything through again");
        } else {
            self.health.degraded(&what, &texts.join("; "));
            warn!(parent: &self.span, why = texts.join("; "), "link budget is used up");
        }
    }
}

#[cfg(test)]
mod tests;
