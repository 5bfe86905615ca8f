//! The gap report: what will never arrive, said to the far end (`docs/gap-report.md`).
//!
//! ```text
//! spool ── losses the far end does not know ──▶ request() ──▶ POST …/v1/metrics ──▶ Pace::after(verdict)
//!   ▲                                                                                  │ acknowledged
//!   └────────────────────────── told: not said again, also not by the next life ◀──────┘
//! ```
//!
//! What always holds:
//! * It says cumulative counts, so one that is said twice changes nothing, and one that got lost is in the next.
//! * It goes beside the lanes: never into the spool, never behind the backlog, and what becomes of it moves no belief about the
//!   far end. A far end that refuses it goes on getting its data.
//! * Nothing is sent while nothing was lost that the far end does not know of.

use super::verdict::Verdict;
use crate::base::Dice;
use crate::base::backoff::Curve;
use crate::spool::{Loss, Stretch};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar,
    metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use std::collections::BTreeMap;
use std::time::Duration;

/// The sum of lost items.
pub const LOST: &str = "tfo.agent.lost";
/// When the first of them came from, and the last.
pub const LOST_FROM: &str = "tfo.agent.lost.from";
/// See [`LOST_FROM`].
pub const LOST_UNTIL: &str = "tfo.agent.lost.until";

/// Rests after a refusal: a far end that takes no metrics, or none of these, writes at most one line into its log an hour, and
/// soon one a day.
const REFUSED: Curve = Curve {
    initial: Duration::from_secs(3_600),
    multiplier: 2.0,
    max: Duration::from_secs(86_400),
    randomization_factor: 0.2,
};

/// Longest rest while it is not refused but does not get through.
const SILENT_MAX: Duration = Duration::from_secs(3_600);

const INSTANCE: &str = "service.instance.id";

/// Who speaks: attributes of the resource. The spool's own name takes the place of the process's, since these counts are the
/// spool's and go on with it.
#[must_use]
pub fn speaker<'a>(process: impl Iterator<Item = (&'a str, &'a str)>, spool: &str) -> Vec<(String, String)> {
    let host = rustix::system::uname();
    let mut speaker = BTreeMap::from([("host.name".to_owned(), host.nodename().to_string_lossy().into_owned())]);
    speaker.extend(process.map(|(key, value)| (key.to_owned(), value.to_owned())));
    speaker.insert(INSTANCE.to_owned(), spool.to_owned());
    speaker.into_iter().collect()
}

/// When the next report may go.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    failures: u32,
}

/// What an answer to a report means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The far end knows.
    Known,
    /// It may know or not: once more.
    Again,
    /// It does not want to know: once more, rarely.
    Refused,
}

impl Heard {
    /// What this verdict says about it.
    #[must_use]
    pub fn of(verdict: &Verdict) -> Heard {
        match verdict {
            Verdict::Accepted { rejected: 0, .. } => Heard::Known,
            Verdict::Accepted { .. } | Verdict::Split { .. } | Verdict::Hold { .. } => Heard::Refused,
            Verdict::Later { .. } | Verdict::Silence { .. } => Heard::Again,
        }
    }
}

impl Pace {
    /// With so much time between two reports, at least.
    #[must_use]
    pub fn new(interval: Duration) -> Pace {
        Pace { interval, failures: 0 }
    }

    /// Before the first look of a life: a fleet that comes back together does not report together.
    #[must_use]
    pub fn first(&self, dice: &mut Dice) -> Duration {
        dice.around(self.interval / 2, 1.0)
    }

    /// Until the next look when there was nothing to say, or nobody to say it to.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.interval
    }

    /// What this verdict means, and until when nothing more is said.
    pub fn after(&mut self, verdict: &Verdict, dice: &mut Dice) -> (Heard, Duration) {
        let heard = Heard::of(verdict);
        let curve = match heard {
            Heard::Known => {
                self.failures = 0;
                return (heard, self.interval);
            }
            Heard::Again => self.silent(),
            Heard::Refused => REFUSED,
        };
        let floor = if let Verdict::Later { after: Some(after), .. } = verdict { *after } else { Duration::ZERO };
        self.failures = self.failures.saturating_add(1);
        (heard, curve.jittered(self.failures, dice).max(floor))
    }

    fn silent(&self) -> Curve {
        Curve { initial: self.interval, multiplier: 2.0, max: SILENT_MAX.max(self.interval), randomization_factor: 0.2 }
    }
}

/// The report, serialized. Times in ns since 1970.
#[must_use]
pub fn request(losses: &[Loss], speaker: &[(String, String)], now_ns: u64) -> Bytes {
    let attributes = speaker.iter().map(|(key, value)| text(key, value)).collect();
    let sum = Sum {
        data_points: losses.iter().map(|loss| count(loss, now_ns)).collect(),
        aggregation_temporality: AggregationTemporality::Cumulative as i32,
        is_monotonic: true,
    };
    let bound = |of: fn(&Loss) -> Option<u64>| Gauge {
        data_points: losses.iter().filter_map(|loss| Some(time(loss, of(loss)?, now_ns))).collect(),
    };
    let from = bound(|loss| loss.stretches.first().map(|s| s.from));
    let until = bound(|loss| loss.stretches.last().map(|s| s.to));
    let metrics = [
        (LOST, "Items this agent acknowledged and the far end will not get.", "{item}", metric::Data::Sum(sum)),
        (LOST_FROM, "When the first of the lost items came from, seconds since 1970.", "s", metric::Data::Gauge(from)),
        (LOST_UNTIL, "When the last of the lost items came from, seconds since 1970.", "s", metric::Data::Gauge(until)),
    ];
    let metric = |(name, description, unit, data): (&str, &str, &str, metric::Data)| Metric {
        name: name.to_owned(),
        description: description.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    };
    let export = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: format!("{}/gap_report", env!("CARGO_PKG_NAME")),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                metrics: metrics.into_iter().filter(|(.., data)| !is_empty(data)).map(metric).collect(),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    export.encode_to_vec().into()
}

/// A gauge without points says nothing, and some far ends mind it.
fn is_empty(data: &metric::Data) -> bool {
    matches!(data, metric::Data::Gauge(gauge) if gauge.data_points.is_empty())
}

fn count(loss: &Loss, now_ns: u64) -> NumberDataPoint {
    NumberDataPoint {
        exemplars: loss.stretches.iter().map(exemplar).collect(),
        value: Some(number_data_point::Value::AsInt(i64::try_from(loss.items).unwrap_or(i64::MAX))),
        ..point(loss, now_ns)
    }
}

fn time(loss: &Loss, ns: u64, now_ns: u64) -> NumberDataPoint {
    let seconds = Duration::from_nanos(ns).as_secs_f64();
    NumberDataPoint { value: Some(number_data_point::Value::AsDouble(seconds)), ..point(loss, now_ns) }
}

/// The attributes stay the same for ever, so each exporter, lane and reason is one series.
fn point(loss: &Loss, now_ns: u64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: vec![
            text("exporter", &loss.exporter),
            text("lane", &loss.lane),
            text("reason", loss.reason.name()),
        ],
        start_time_unix_nano: loss.since.min(now_ns),
        time_unix_nano: now_ns,
        ..NumberDataPoint::default()
    }
}

/// A stretch of the losses. An exemplar, for as an attribute it would make a series of its own.
fn exemplar(s: &Stretch) -> Exemplar {
    let number = |key: &str, ns: u64| {
        let value = any_value::Value::IntValue(i64::try_from(ns).unwrap_or(i64::MAX));
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    };
    Exemplar {
        filtered_attributes: vec![number("from_unix_nano", s.from), number("until_unix_nano", s.to)],
        time_unix_nano: s.to,
        value: Some(exemplar::Value::AsInt(i64::try_from(s.items).unwrap_or(i64::MAX))),
        ..Exemplar::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::super::link::Trouble;
    use super::*;
    use crate::otlp::{Signal, walk};
    use crate::spool::Reason;

    fn loss(reason: Reason, items: u64, stretches: &[(u64, u64, u64)]) -> Loss {
        let stretches = stretches.iter().map(|&(from, to, items)| Stretch { from, to, items }).collect();
        Loss { lane: "logs".into(), exporter: "otlphttp".into(), reason, items, told: 0, since: 5, stretches }
    }

    /// The example of `docs/gap-report.md`, field by field.
    #[test]
    fn the_report_says_counts_with_their_times() {
        const S: u64 = 1_000_000_000;
        let who = speaker([("service.name", "gw"), (INSTANCE, "of the process")].into_iter(), "abc");
        let losses =
            [loss(Reason::Evicted, 12, &[(10 * S, 20 * S, 5), (90 * S, 95 * S, 7)]), loss(Reason::Rejected, 3, &[])];
        let raw = request(&losses, &who, 100 * S);
        assert_eq!(walk(Signal::Metrics, &raw).expect("it is OTLP").items, 4, "two sums, a from and an until");
        let sent = ExportMetricsServiceRequest::decode(raw).expect("it is OTLP");
        let [of_resource] = &sent.resource_metrics[..] else { panic!("{sent:?}") };
        let resource = &of_resource.resource.as_ref().expect("who speaks").attributes;
        let of =
            |key: &str| resource.iter().filter(|a| a.key == key).map(|a| format!("{:?}", a.value)).collect::<Vec<_>>();
        assert!(of(INSTANCE).len() == 1 && of(INSTANCE)[0].contains("abc"), "{resource:?}");
        assert!(of("service.name")[0].contains("gw") && of("host.name").len() == 1, "{resource:?}");
        let [lost, from, until] = &of_resource.scope_metrics[0].metrics[..] else { panic!("{of_resource:?}") };
        assert_eq!([&lost.name[..], &from.name, &until.name], [LOST, LOST_FROM, LOST_UNTIL]);
        let Some(metric::Data::Sum(sum)) = &lost.data else { panic!("{lost:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == AggregationTemporality::Cumulative as i32);
        let [evicted, rejected] = &sum.data_points[..] else { panic!("{sum:?}") };
        assert_eq!((evicted.start_time_unix_nano, evicted.time_unix_nano), (5, 100 * S));
        assert_eq!(evicted.value, Some(number_data_point::Value::AsInt(12)));
        let items: Vec<_> = evicted.exemplars.iter().map(|e| (e.time_unix_nano, e.value)).collect();
        assert_eq!(items, [(20 * S, Some(exemplar::Value::AsInt(5))), (95 * S, Some(exemplar::Value::AsInt(7)))]);
        assert_eq!((rejected.value, rejected.exemplars.len()), (Some(number_data_point::Value::AsInt(3)), 0));
        for (metric, seconds) in [(from, 10.0), (until, 95.0)] {
            let Some(metric::Data::Gauge(gauge)) = &metric.data else { panic!("{metric:?}") };
            let values: Vec<_> = gauge.data_points.iter().map(|p| p.value).collect();
            assert_eq!(values, [Some(number_data_point::Value::AsDouble(seconds))]);
        }
    }

    #[test]
    #[rustfmt::skip]
    fn an_answer_decides_when_the_report_goes_again() {
        let why = String::new;
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let taken = |rejected| Verdict::Accepted { rejected, message: why(), oddity: None };
        for (verdict, heard, least, most) in [
            (taken(0),                                                       Heard::Known,   minutes(1),  minutes(1)),
            (taken(1),                                                       Heard::Refused, minutes(48), minutes(72)),
            (Verdict::Hold { why: why() },                                   Heard::Refused, minutes(48), minutes(72)),
            (Verdict::Split { too_large: false, why: why() },                Heard::Refused, minutes(48), minutes(72)),
            (Verdict::Later { after: None, why: why() },                     Heard::Again,   minutes(1) * 4 / 5, minutes(1) * 6 / 5),
            (Verdict::Later { after: Some(minutes(7)), why: why() },         Heard::Again,   minutes(7),  minutes(7)),
            (Verdict::Silence { trouble: Trouble::NoAnswer, why: why() },    Heard::Again,   minutes(1) * 4 / 5, minutes(1) * 6 / 5),
        ] {
            let (got, rest) = Pace::new(minutes(1)).after(&verdict, &mut Dice::seeded(1));
            assert!(got == heard && least <= rest && rest <= most, "{verdict:?}: {got:?} {rest:?}");
        }
        // Again and again: less and less, and not for ever less.
        for (verdict, most) in [(Verdict::Hold { why: why() }, minutes(24 * 60)), (Verdict::Later { after: None, why: why() }, minutes(60))] {
            let (mut pace, mut dice) = (Pace::new(minutes(1)), Dice::seeded(1));
            let rests: Vec<Duration> = (0..40).map(|_| pace.after(&verdict, &mut dice).1).collect();
            assert!(rests[39] >= most * 4 / 5 && rests.iter().all(|rest| *rest <= most * 6 / 5), "{rests:?}");
            assert_eq!(pace.after(&taken(0), &mut dice), (Heard::Known, minutes(1)));
        }
    }
}
