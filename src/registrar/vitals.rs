//! How the agent is, for the platform: read from the same numbers that `:8888/metrics` shows, so that both say the same and
//! nobody on the data path has to tell anything twice.

use crate::telemetry::Metrics;
use crate::telemetry::metrics::Series;
use std::collections::BTreeMap;

/// The numbers of one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vitals {
    /// Items that wait for a far end.
    pub backlog_items: u64,
    /// Bytes the spools occupy.
    pub backlog_bytes: u64,
    /// Seconds the oldest of these items has waited.
    pub oldest_s: f64,
    /// Seconds until the first spool is full at the present rate; None: nothing comes in.
    pub time_to_full_s: Option<f64>,
    /// Most bytes a second the backlog may leave with; None: no limit.
    pub link_budget: Option<u64>,
    /// What is left of the link's budgets, bytes, by exporter and period.
    pub link_left: Vec<(String, String, u64)>,
    /// Exporters, and whether their far ends take data.
    pub links: Vec<(String, bool)>,
    /// Falls of posts since the process began.
    pub restarts: u64,
    /// Items that will never arrive, by reason.
    pub lost: Vec<(String, u64)>,
}

const ITEMS: &str = "tfo_agent_items_waiting";
const BYTES: &str = "tfo_agent_spool_bytes";
const OLDEST: &str = "tfo_agent_oldest_waiting_seconds";
const FULL: &str = "tfo_agent_spool_seconds_to_full";
const UP: &str = "tfo_agent_uplink_up";
const LEFT: &str = "tfo_agent_link_budget_left_bytes";
const FALLS: &str = "tfo_agent_post_falls";
const LOST: &str = "tfo_agent_items_lost";

impl Vitals {
    /// As they are now.
    #[must_use]
    pub fn read(metrics: &Metrics) -> Vitals {
        let mut vitals = Vitals::default();
        let mut lost = BTreeMap::<String, u64>::new();
        for series in metrics.look(&[ITEMS, BYTES, OLDEST, FULL, UP, LEFT, FALLS, LOST]) {
            let Series { name, value, .. } = &series;
            let (label, count) = (|key: &str| series.label(key).unwrap_or_default().to_owned(), whole(*value));
            match name.as_str() {
                ITEMS => vitals.backlog_items += count,
                BYTES => vitals.backlog_bytes += count,
                OLDEST => vitals.oldest_s = vitals.oldest_s.max(*value),
                FULL => vitals.time_to_full_s = Some(vitals.time_to_full_s.unwrap_or(f64::MAX).min(*value)),
                UP => vitals.links.push((label("exporter"), *value > 0.0)),
                LEFT => vitals.link_left.push((label("exporter"), label("period"), count)),
                FALLS => vitals.restarts += count,
                _ => *lost.entry(label("reason")).or_default() += count,
            }
        }
        vitals.lost = lost.into_iter().filter(|(_, items)| *items > 0).collect();
        vitals
    }
}

/// The registry holds counts as numbers with a fraction.
fn whole(value: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts; what is none becomes 0
    let whole = value as u64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Pulled;

    /// The names are those of `app::numbers`, `uplink::metrics`; `tests/registration.rs` sees them with the real binary.
    #[test]
    fn what_is_shown_is_added_up() {
        let metrics = Metrics::detached();
        assert_eq!(Vitals::read(&metrics), Vitals::default());
        let of_exporter: &'static [&'static str] = &["pipeline", "exporter"];
        for (name, labels, series) in [
            (ITEMS, of_exporter, vec![(vec!["logs", "a"], 5), (vec!["traces", "a"], 7)]),
            (BYTES, &["storage"], vec![(vec!["x"], 100), (vec!["y"], 50)]),
            (OLDEST, of_exporter, vec![(vec!["logs", "a"], 3), (vec!["traces", "a"], 90)]),
            (FULL, &["storage"], vec![(vec!["x"], 900), (vec!["y"], 60)]),
            (FALLS, &["post"], vec![(vec!["uplink/a"], 1), (vec!["batcher/x"], 2)]),
            (
                LOST,
                &["pipeline", "reason"],
                vec![(vec!["logs", "evicted"], 4), (vec!["logs", "corrupt"], 0), (vec!["traces", "evicted"], 6)],
            ),
        ] {
            metrics.pull(Pulled::Gauge, name, "Help.", labels, move |samples| {
                series.iter().for_each(|(values, count)| samples.push_count(values, *count));
            });
        }
        metrics.gauges(UP, "Help.", &["exporter"]).with(&["a"]).set_count(1);
        metrics.gauges(LEFT, "Help.", &["exporter", "period"]).with(&["a", "day"]).set_count(900);
        let wanted = Vitals {
            backlog_items: 12,
            backlog_bytes: 150,
            oldest_s: 90.0,
            time_to_full_s: Some(60.0),
            link_budget: None,
            link_left: vec![("a".to_owned(), "day".to_owned(), 900)],
            links: vec![("a".to_owned(), true)],
            restarts: 3,
            lost: vec![("evicted".to_owned(), 10)],
        };
        assert_eq!(Vitals::read(&metrics), wanted);
    }
}
