//! The registry as OTLP: what a scrape shows, as one export request.
//!
//! Sums and distributions are cumulative since the start of the process; `service.instance.id` changes with each, so a
//! restart is no reset to the far end. The labels every series has are the resource's attributes.

use super::metrics::Metrics;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::proto::{LabelPair, MetricFamily, MetricType};
use prost::Message as _;

/// The registry now, serialized. Times in ns since 1970.
#[must_use]
pub fn request(metrics: &Metrics, start_ns: u64, now_ns: u64) -> Vec<u8> {
    let times = Times { start_ns: start_ns.min(now_ns), now_ns };
    let resource = metrics.resource();
    let attributes = resource.iter().map(|(key, value)| text(key, value)).collect();
    let families = metrics.families();
    let export = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: env!("CARGO_PKG_NAME").to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                metrics: families.iter().filter_map(|family| times.family(family)).collect(),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    export.encode_to_vec()
}

#[derive(Clone, Copy)]
struct Times {
    start_ns: u64,
    now_ns: u64,
}

impl Times {
    fn family(self, family: &MetricFamily) -> Option<Metric> {
        let attributes = |labels: &[LabelPair]| -> Vec<KeyValue> {
            labels.iter().map(|label| text(label.name(), label.value())).collect()
        };
        let cumulative = AggregationTemporality::Cumulative as i32;
        let data = match family.get_field_type() {
            MetricType::COUNTER => metric::Data::Sum(Sum {
                data_points: self.numbers(family, |m| m.get_counter().get_value(), attributes),
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
            MetricType::GAUGE => metric::Data::Gauge(Gauge {
                data_points: self.numbers(family, |m| m.get_gauge().get_value(), attributes),
            }),
            MetricType::HISTOGRAM => {
                let points = family.get_metric().iter().map(|m| self.distribution(m, attributes(m.get_label())));
                metric::Data::Histogram(Histogram {
                    data_points: points.collect(),
                    aggregation_temporality: cumulative,
                })
            }
            _ => return None, // the registry holds no others
        };
        Some(Metric {
            name: family.name().to_owned(),
            description: family.help().to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    }

    fn numbers(
        self,
        family: &MetricFamily,
        value: impl Fn(&prometheus::proto::Metric) -> f64,
        attributes: impl Fn(&[LabelPair]) -> Vec<KeyValue>,
    ) -> Vec<NumberDataPoint> {
        let point = |m: &prometheus::proto::Metric| NumberDataPoint {
            attributes: attributes(m.get_label()),
            start_time_unix_nano: self.start_ns,
            time_unix_nano: self.now_ns,
            value: Some(number_data_point::Value::AsDouble(value(m))),
            ..NumberDataPoint::default()
        };
        family.get_metric().iter().map(point).collect()
    }

    /// Prometheus counts each bucket with all below it, OTLP each alone.
    fn distribution(self, m: &prometheus::proto::Metric, attributes: Vec<KeyValue>) -> HistogramDataPoint {
        let histogram = m.get_histogram();
        let bounded = histogram.get_bucket().iter().filter(|b| b.upper_bound().is_finite());
        let (bounds, below): (Vec<f64>, Vec<u64>) = bounded.map(|b| (b.upper_bound(), b.cumulative_count())).unzip();
        let mut counts = Vec::with_capacity(below.len() + 1);
        let mut so_far = 0;
        for count in below.into_iter().chain([histogram.get_sample_count()]) {
            counts.push(count.saturating_sub(so_far));
            so_far = so_far.max(count);
        }
        HistogramDataPoint {
            attributes,
            start_time_unix_nano: self.start_ns,
            time_unix_nano: self.now_ns,
            count: histogram.get_sample_count(),
            sum: Some(histogram.get_sample_sum()),
            bucket_counts: counts,
            explicit_bounds: bounds,
            ..HistogramDataPoint::default()
        }
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Pulled;
    use super::*;

    #[test]
    fn the_registry_is_one_request_with_every_series() {
        let metrics = Metrics::detached();
        metrics.counters("c", "Counts.", &["of"]).with(&["x"]).add(3);
        metrics.gauges("g", "Goes.", &[]).with(&[]).set(-1.5);
        metrics.pull(Pulled::Counter, "p", "Asked.", &["of"], |samples| samples.push_count(&["y"], 7));
        let times = metrics.histograms("h", "Times.", &[], &[1.0, 2.0]).with(&[]);
        [0.5, 1.5, 1.5, 9.0].iter().for_each(|t| times.observe(*t));
        let sent = ExportMetricsServiceRequest::decode(&request(&metrics, 5, 9)[..]).expect("our own");
        let of_resource = &sent.resource_metrics[0];
        let resource = of_resource.resource.as_ref().expect("who speaks");
        assert!(resource.attributes.iter().any(|a| a.key == "service.instance.id"));
        let [c, g, h, p] = &of_resource.scope_metrics[0].metrics[..] else { panic!("four: {sent:?}") };
        let Some(metric::Data::Sum(sum)) = &c.data else { panic!("{c:?}") };
        let point = &sum.data_points[0];
        assert!(sum.is_monotonic && sum.aggregation_temporality == AggregationTemporality::Cumulative as i32);
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5, 9));
        assert_eq!((point.value, point.attributes.len()), (Some(number_data_point::Value::AsDouble(3.0)), 1));
        assert_eq!((c.name.as_str(), c.description.as_str()), ("c", "Counts."));
        let Some(metric::Data::Gauge(gauge)) = &g.data else { panic!("{g:?}") };
        assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(-1.5)));
        let Some(metric::Data::Histogram(histogram)) = &h.data else { panic!("{h:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[1, 2, 1][..], &[1.0, 2.0][..]));
        assert_eq!((point.count, point.sum), (4, Some(12.5)));
        assert!(matches!(&p.data, Some(metric::Data::Sum(sum)) if sum.data_points.len() == 1));
        let walked = crate::otlp::walk(crate::otlp::Signal::Metrics, &request(&metrics, 5, 9)).expect("it walks");
        assert_eq!(walked.items, 4);
    }
}
