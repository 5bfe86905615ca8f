//! What an uplink says about itself: each event is one method, which counts *and* logs, so that the two always agree.
//!
//! The numbers of otelcol 0.88 keep their meaning: `sent` counts items the far end took, `send_failed` items of a window that
//! ended (though the upload may be kept) and of a refusal, once and not per try. Texts that people search for are the original's.

use super::fate::Blame;
use super::gap::{Heard, speaker};
use super::link::{Link, Trouble};
use super::pack::Body;
use super::verdict::Verdict;
use crate::otlp::Signal;
use crate::spool::Loss;
use crate::telemetry::metrics::{Counter, Counters, Gauge, Gauges, Histograms};
use crate::telemetry::{ExporterMetrics, Health, Metrics};
use std::time::Duration;
use tracing::{Span, error, info, warn};

/// Counts, logs and tells the board.
#[derive(Debug, Clone)]
pub struct UplinkMetrics {
    exporter: String,
    all: Metrics,
    otelcol: ExporterMetrics,
    requests: Counters,
    items: Counters,
    moves: Counters,
    reports: Counters,
    up: Gauge,
    wire_bytes: Counter,
    raw_bytes: Counter,
    health: Health,
    span: Span,
}

impl UplinkMetrics {
    /// For the exporter of this id.
    #[must_use]
    pub fn new(metrics: &Metrics, health: &Health, exporter: &str) -> UplinkMetrics {
        let counters = |name, help, labels| metrics.counters(name, help, labels);
        const ALONE: &[&str] = &["exporter"];
        let up = metrics.gauges("tfo_agent_uplink_up", "1 while the far end is believed to take data.", ALONE);
        let up = up.with(&[exporter]);
        UplinkMetrics {
            exporter: exporter.to_owned(),
            all: metrics.clone(),
            otelcol: ExporterMetrics::new(metrics, exporter),
            requests: counters(
                "tfo_agent_uplink_requests",
                "Requests by what their answer meant: taken, again (the upload's own fault), lane (the far end does not take its signal), link (no far end), refused.",
                &["exporter", "verdict"],
            ),
            items: counters(
                "tfo_agent_uplink_items",
                "Items by what became of them: delivered, rejected, parked, dropped, dead_letter.",
                &["exporter", "outcome"],
            ),
            moves: counters(
                "tfo_agent_uplink_link_moves",
                "Changes of the belief about the far end as a whole.",
                &["exporter", "to"],
            ),
            reports: counters(
                "tfo_agent_gap_reports",
                "Reports of losses to the far end by what its answer meant: known, again, refused.",
                &["exporter", "outcome"],
            ),
            up,
            wire_bytes: counters("tfo_agent_uplink_wire_bytes", "Bytes of request bodies sent.", ALONE)
                .with(&[exporter]),
            raw_bytes: counters("tfo_agent_uplink_raw_bytes", "The same before compression.", ALONE).with(&[exporter]),
            health: health.clone(),
            span: tracing::info_span!("component", kind = "exporter", name = exporter),
        }
    }

    /// For the endpoints of an exporter that has several.
    #[must_use]
    pub fn endpoints(&self) -> EndpointMetrics {
        let counters = |name, help, labels| self.all.counters(name, help, labels);
        EndpointMetrics {
            exporter: self.exporter.clone(),
            requests: counters(
                "tfo_agent_endpoint_requests",
                "Requests to one endpoint of several: taken, not_taken.",
                &["exporter", "endpoint", "outcome"],
            ),
            moves: counters(
                "tfo_agent_endpoint_moves",
                "Changes of the belief about one endpoint of several: up, away.",
                &["exporter", "endpoint", "to"],
            ),
            original: None,
            health: self.health.clone(),
            span: self.span.clone(),
        }
    }

    /// For those of a `loadbalancing` exporter, counted under the original's names too; and for what is found of them.
    #[must_use]
    pub fn backends(&self) -> (EndpointMetrics, BackendMetrics) {
        let counters = |name, help, labels| self.all.counters(name, help, labels);
        let outcomes = counters(
            "otelcol_loadbalancer_backend_outcome",
            "Requests to each endpoint by whether they were taken.",
            &["endpoint", "success"],
        );
        let text = "Time of a request to each endpoint, ms.";
        let latency =
            self.all.histograms("otelcol_loadbalancer_backend_latency", text, &["endpoint"], &LATENCY_BUCKETS_MS);
        let found = BackendMetrics {
            resolutions: counters(
                "otelcol_loadbalancer_num_resolutions",
                "Looks for endpoints by whether they found some.",
                &["resolver", "success"],
            ),
            updates: counters(
                "otelcol_loadbalancer_num_backend_updates",
                "Looks that found other endpoints than the one before.",
                &["resolver"],
            ),
            count: self.all.gauges("otelcol_loadbalancer_num_backends", "Endpoints found.", &["resolver"]),
            health: self.health.clone(),
            exporter: self.exporter.clone(),
            span: self.span.clone(),
        };
        (EndpointMetrics { original: Some((outcomes, latency)), ..self.endpoints() }, found)
    }

    /// A new life begins and believes the best; what an earlier one put on the board is its own.
    pub fn begun<'a>(&self, lanes: impl Iterator<Item = &'a str>) {
        self.up.set_count(1);
        self.health.recovered(&self.exporter);
        lanes.for_each(|lane| self.health.recovered(&self.lane_on_board(lane)));
    }

    /// A lane was added, of which the best is believed.
    pub fn joined(&self, lane: &str) {
        self.health.recovered(&self.lane_on_board(lane));
    }

    /// The configuration has it no more: nothing it said on the board is true any longer.
    pub fn given_up<'a>(&self, lanes: impl Iterator<Item = &'a str>) {
        self.begun(lanes);
        self.health.forget_failures(&self.exporter);
        self.up.set_count(0);
    }

    fn lane_on_board(&self, lane: &str) -> String {
        format!("{}/{lane}", self.exporter)
    }

    /// A request leaves.
    pub fn sent(&self, body: &Body) {
        self.wire_bytes.add(body.bytes.len() as u64);
        self.raw_bytes.add(body.raw_len.into());
    }

    /// The far end took an upload, but for `rejected` items.
    pub fn delivered(&self, signal: Signal, items: u32, rejected: u32, message: &str, oddity: Option<&'static str>) {
        self.verdict("taken");
        self.outcome("delivered", items - rejected);
        self.otelcol.sent(signal, u64::from(items - rejected));
        if rejected > 0 {
            self.outcome("rejected", rejected);
            self.otelcol.send_failed(signal, rejected.into());
            error!(parent: &self.span, data_type = signal.name(), rejected, items, message, "far end rejected items of a batch it took");
        } else if !message.is_empty() {
            warn!(parent: &self.span, data_type = signal.name(), message, "far end took a batch with a warning");
        }
        if let Some(oddity) = oddity {
            warn!(parent: &self.span, data_type = signal.name(), oddity, "far end took a batch and answered oddly");
        }
    }

    /// Items of an upload that is parked, set aside or given up, which an endpoint of several took before.
    pub fn delivered_before(&self, signal: Signal, items: u32, rejected: u32) {
        self.outcome("delivered", items);
        self.otelcol.sent(signal, items.into());
        if rejected > 0 {
            self.outcome("rejected", rejected);
            self.otelcol.send_failed(signal, rejected.into());
        }
    }

    /// An upload failed and stays in hand.
    pub fn kept(&self, signal: Signal, items: u32, blame: &Blame, why: &str) {
        let (verdict, rest) = match blame {
            Blame::Upload { rest } => ("again", Some(*rest)),
            Blame::Lane => ("lane", None),
            Blame::Link => ("link", None),
        };
        self.verdict(verdict);
        self.health.upload_failed(&self.exporter);
        let interval = rest.map(|rest| tracing::field::display(seconds(rest)));
        info!(parent: &self.span, data_type = signal.name(), error = why, interval, items, "Exporting failed. Will retry the request after interval.");
    }

    /// An upload that stays in hand has failed for a whole window, or for another one. The original gives up here and counts,
    /// and alerts wait for that; nothing is given up here while nobody takes anything.
    pub fn failed_for_a_window(&self, signal: Signal, items: u32) {
        self.otelcol.send_failed(signal, items.into());
    }

    /// What waited at the start waits for its turn.
    pub fn held_back(&self, lane: &str, rest: Duration) {
        info!(parent: &self.span, lane, interval = seconds(rest), "backlog waits for its turn (reconnect_spread)");
    }

    /// An upload was refused and is sent in halves from now on, or kept as a suspect.
    pub fn refused(&self, signal: Signal, items: u32, why: &str) {
        self.verdict("refused");
        self.health.upload_failed(&self.exporter);
        info!(parent: &self.span, data_type = signal.name(), items, error = why, "far end refused a batch; the guilty item is sought");
    }

    /// An item was found guilty, or a batch could not be read.
    pub fn dead_letter(&self, signal: Signal, items: u32, why: &str) {
        self.outcome("dead_letter", items);
        self.otelcol.send_failed(signal, items.into());
        error!(parent: &self.span, data_type = signal.name(), items, error = why, "items refused for good are kept as dead letters");
    }

    /// An upload failed alone for its whole window and waits in the park lane.
    pub fn parked(&self, signal: Signal, items: u32, why: &str) {
        self.outcome("parked", items);
        self.otelcol.send_failed(signal, items.into());
        warn!(parent: &self.span, data_type = signal.name(), items, error = why, "batch that fails while others succeed is parked");
    }

    /// An upload failed alone for its whole window, and the operator wants it dropped.
    pub fn dropped(&self, signal: Signal, items: u32, why: &str) {
        self.outcome("dropped", items);
        self.otelcol.send_failed(signal, items.into());
        error!(parent: &self.span, data_type = signal.name(), dropped_items = items, error = why, "Exporting failed. No more retries left. Dropping data.");
    }

    /// The belief about the far end as a whole changed.
    pub fn link_moved(&self, before: Link, after: Link, why: &str) {
        self.moves.with(&[&self.exporter, after.name()]).inc();
        self.up.set_count(u64::from(after.is_up()));
        if after.is_up() {
            self.health.recovered(&self.exporter);
            info!(parent: &self.span, from = %before, to = %after, "link moved");
        } else if before.is_up() {
            self.health.degraded(&self.exporter, &format!("far end is {}: {why}", trouble(after)));
            warn!(parent: &self.span, from = %before, to = %after, error = why, "link moved");
        }
        // Resting to probing and back happens every half minute of an outage: counted, not told.
    }

    /// What the far end does with one lane changed.
    pub fn lane_moved(&self, lane: &str, before: Link, after: Link, why: &str) {
        let what = self.lane_on_board(lane);
        if after.is_up() {
            self.health.recovered(&what);
            info!(parent: &self.span, lane, from = %before, to = %after, "lane moved");
        } else if before.is_up() || before.trouble() != after.trouble() {
            self.health.degraded(&what, &format!("far end does not take it ({}): {why}", trouble(after)));
            error!(parent: &self.span, lane, from = %before, to = %after, error = why, "lane moved; its data is kept");
        }
    }

    /// Who speaks in a report of losses.
    #[must_use]
    pub fn speaker(&self, spool: &str) -> Vec<(String, String)> {
        speaker(self.all.resource().iter(), spool)
    }

    /// Losses were reported to the far end.
    pub fn reported(&self, losses: &[Loss], heard: Heard, why: &str, rest: Duration) {
        let (items, next) = (losses.iter().map(|loss| loss.items).sum::<u64>(), seconds(rest));
        let outcome = match heard {
            Heard::Known => {
                info!(parent: &self.span, items, "far end was told what is lost");
                "known"
            }
            Heard::Again => {
                info!(parent: &self.span, items, error = why, next, "report of losses did not get through; it goes again");
                "again"
            }
            Heard::Refused => {
                warn!(parent: &self.span, items, error = why, next, "far end refuses the report of losses (gap_report); its data goes on");
                "refused"
            }
        };
        self.reports.with(&[&self.exporter, outcome]).inc();
    }

    /// The spool did not do what it was asked.
    pub fn spool_failed(&self, what: &'static str, why: &dyn std::fmt::Display) {
        warn!(parent: &self.span, what, error = %why, "spool did not answer the uplink as asked; it is asked again");
    }

    /// The spool no longer has what was sent: evicted meanwhile, or settled by an answer that got lost.
    pub fn settled_already(&self, why: &dyn std::fmt::Display) {
        info!(parent: &self.span, error = %why, "upload was settled before");
    }

    /// Another uplink has taken over.
    pub fn retired(&self) {
        warn!(parent: &self.span, "uplink was replaced and stops");
    }

    fn verdict(&self, verdict: &str) {
        self.requests.with(&[&self.exporter, verdict]).inc();
    }

    fn outcome(&self, outcome: &str, items: u32) {
        self.items.with(&[&self.exporter, outcome]).add(items.into());
    }
}

/// As in 0.88 (contrib, `exporter/loadbalancingexporter/metrics.go`).
const LATENCY_BUCKETS_MS: [f64; 10] = [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0];

/// What is said of each endpoint of an exporter that has several.
#[derive(Debug, Clone)]
pub struct EndpointMetrics {
    exporter: String,
    requests: Counters,
    moves: Counters,
    /// The original's of `loadbalancing`.
    original: Option<(Counters, Histograms)>,
    health: Health,
    span: Span,
}

impl EndpointMetrics {
    /// A request was answered there, or was not, after so long.
    pub fn answered(&self, endpoint: &str, verdict: &Verdict, took: Duration) {
        let is_taken = matches!(verdict, Verdict::Accepted { .. });
        let outcome = if is_taken { "taken" } else { "not_taken" };
        self.requests.with(&[&self.exporter, endpoint, outcome]).inc();
        if let Some((outcomes, latency)) = &self.original {
            outcomes.with(&[endpoint, if is_taken { "true" } else { "false" }]).inc();
            latency.with(&[endpoint]).observe(took.as_secs_f64() * 1_000.0);
        }
    }

    /// The belief about it changed; `None`: it is up.
    pub fn moved(&self, endpoint: &str, before: Option<Trouble>, after: Option<Trouble>, why: &str) {
        match (before, after) {
            (_, None) => {
                self.moves.with(&[&self.exporter, endpoint, "up"]).inc();
                self.health.recovered(&self.on_board(endpoint));
                info!(parent: &self.span, endpoint, "endpoint is used again");
            }
            (before, Some(trouble)) => {
                let reason = format!("endpoint is {trouble}: {why}; others are used in its place");
                self.health.degraded(&self.on_board(endpoint), &reason);
                if before.is_none() {
                    self.moves.with(&[&self.exporter, endpoint, "away"]).inc();
                    warn!(parent: &self.span, endpoint, %trouble, error = why, "endpoint is away; others are used in its place");
                }
            }
        }
    }

    /// It is none of the exporter's any more, or of a life that is over.
    pub fn gone(&self, endpoint: &str) {
        self.health.recovered(&self.on_board(endpoint));
    }

    fn on_board(&self, endpoint: &str) -> String {
        format!("{}/{endpoint}", self.exporter)
    }
}

/// What is said of looking for endpoints.
#[derive(Debug, Clone)]
pub struct BackendMetrics {
    resolutions: Counters,
    updates: Counters,
    count: Gauges,
    health: Health,
    exporter: String,
    span: Span,
}

impl BackendMetrics {
    /// These were found.
    pub fn found(&self, resolver: &str, endpoints: &[String], is_new: bool) {
        self.resolutions.with(&[resolver, "true"]).inc();
        self.health.recovered(&self.on_board());
        if is_new {
            self.updates.with(&[resolver]).inc();
            self.count.with(&[resolver]).set_count(endpoints.len() as u64);
            info!(parent: &self.span, resolver, endpoints = endpoints.join(" "), "endpoints were found");
        }
    }

    /// Nothing was found; those of before stay. `is_news`: it was not said before.
    pub fn not_found(&self, resolver: &str, why: &str, is_news: bool) {
        self.resolutions.with(&[resolver, "false"]).inc();
        if is_news {
            self.health.degraded(&self.on_board(), &format!("endpoints cannot be looked for ({resolver}): {why}"));
            warn!(parent: &self.span, resolver, error = why, "endpoints cannot be looked for; those of before stay");
        }
    }

    /// The exporter is gone, or its life is over.
    pub fn gone(&self) {
        self.health.recovered(&self.on_board());
    }

    fn on_board(&self) -> String {
        format!("{}/resolver", self.exporter)
    }
}

fn trouble(link: Link) -> &'static str {
    link.trouble().map_or("up", |trouble| trouble.name())
}

fn seconds(rest: Duration) -> String {
    format!("{:.3}s", rest.as_secs_f64())
}
