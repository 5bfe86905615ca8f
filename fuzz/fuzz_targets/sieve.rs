//! What `filter` and `probabilistic_sampler` leave of a request is what a decoding collector would leave, and never a
//! panic on anything.
#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use tfo_otel_agent::config::{Any, Pattern};
use tfo_otel_agent::otlp::slow::Request;
use tfo_otel_agent::otlp::wild::KEYS;
use tfo_otel_agent::otlp::{Only, Sieve, Signal, walk};
use tfo_otel_agent::processors::attributes::matching::{Library, Matching, Property, SeverityAtLeast, Text, Wanted};
use tfo_otel_agent::processors::filter::config::{FilterConfig, Kept, MetricMatching};
use tfo_otel_agent::processors::probabilistic_sampler::config::SamplerConfig;
use tfo_otel_agent::processors::{filter, probabilistic_sampler};
use tfo_otel_agent::telemetry::Metrics;

const PATTERNS: [&str; 8] = ["^a", "o", "x{3}", "", "^$", "KIND_(IN|CL)", "service", "^-?[0-9]+$"];

/// A few conditions out of a few bytes; zeros when there are none left.
struct Wishes<'a>(std::slice::Iter<'a, u8>);

impl Wishes<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn key(&mut self) -> String {
        KEYS[usize::from(self.byte()) % KEYS.len()].to_owned()
    }

    fn pattern(&mut self) -> Pattern {
        Pattern::new(PATTERNS[usize::from(self.byte()) % PATTERNS.len()]).expect("it is one")
    }

    fn text(&mut self) -> Text {
        if self.byte() & 1 == 0 { Text::Strict(self.key()) } else { Text::Pattern(self.pattern()) }
    }

    fn some<T>(&mut self, one: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..self.byte() % 3).map(|_| one(self)).collect()
    }

    fn texts(&mut self) -> Vec<Text> {
        self.some(Wishes::text)
    }

    fn properties(&mut self) -> Vec<Property> {
        self.some(|w| {
            let key = w.key();
            let value = match w.byte() % 6 {
                0 => None,
                1 => Some(Wanted::Same(Any::Text(w.key()))),
                2 => Some(Wanted::Same(Any::Int(i64::from(w.byte()) - 1))),
                3 => Some(Wanted::Same(Any::Bool(w.byte() & 1 == 1))),
                4 => Some(Wanted::Same(Any::Double(0.0))),
                _ => Some(Wanted::Pattern(w.pattern())),
            };
            Property { key, value }
        })
    }

    fn matching(&mut self, signal: Signal) -> Matching {
        let mut matching =
            Matching { resources: self.properties(), attributes: self.properties(), ..Matching::default() };
        if signal == Signal::Traces {
            (matching.services, matching.span_names, matching.span_kinds) = (self.texts(), self.texts(), self.texts());
            matching.libraries =
                self.some(|w| Library { name: w.text(), version: (w.byte() & 1 == 1).then(|| w.text()) });
        } else {
            (matching.log_bodies, matching.log_severity_texts) = (self.texts(), self.texts());
            let severity = SeverityAtLeast { min: self.byte() % 25, match_undefined: self.byte() & 1 == 1 };
            matching.log_severity_number = (self.byte() & 1 == 1).then_some(severity);
        }
        matching
    }

    fn kept<M>(&mut self, one: impl Fn(&mut Self) -> M) -> Kept<M> {
        let given = self.byte();
        Kept { include: (given & 1 == 1).then(|| one(self)), exclude: (given & 2 == 2).then(|| one(self)) }
    }

    fn filter(&mut self, signal: Signal) -> FilterConfig {
        let mut config = FilterConfig::default();
        match signal {
            Signal::Traces => config.spans = self.kept(|w| w.matching(signal)),
            Signal::Logs => config.logs = self.kept(|w| w.matching(signal)),
            Signal::Metrics => {
                config.metrics =
                    self.kept(|w| MetricMatching { metric_names: w.texts(), resource_attributes: w.properties() });
            }
        }
        config
    }

    fn sampler(&mut self) -> SamplerConfig {
        SamplerConfig {
            percentage: f32::from(self.byte()) / 2.0,
            seed: self.byte().into(),
            by_record: self.byte() & 1 == 1,
            from_attribute: (self.byte() & 1 == 1).then(|| self.key()),
            priority: (self.byte() & 1 == 1).then(|| self.key()),
        }
    }
}

/// Every item with what stands around it, as prost has it.
fn items(request: &Request) -> Vec<[Vec<u8>; 4]> {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    let mut all = Vec::new();
    match request {
        Request::Traces(request) => {
            for r in &request.resource_spans {
                for s in &r.scope_spans {
                    all.extend(s.spans.iter().map(|it| around(&r.resource, &s.scope, Vec::new(), it)));
                }
            }
        }
        Request::Logs(request) => {
            for r in &request.resource_logs {
                for s in &r.scope_logs {
                    all.extend(s.log_records.iter().map(|it| around(&r.resource, &s.scope, Vec::new(), it)));
                }
            }
        }
        Request::Metrics(request) => {
            for r in &request.resource_metrics {
                for s in &r.scope_metrics {
                    for m in &s.metrics {
                        let named =
                            [m.name.as_bytes(), b"\0", m.description.as_bytes(), b"\0", m.unit.as_bytes()].concat();
                        match &m.data {
                            Some(Data::Gauge(data)) => all.extend(
                                data.data_points.iter().map(|it| around(&r.resource, &s.scope, named.clone(), it)),
                            ),
                            Some(Data::Sum(data)) => all.extend(
                                data.data_points.iter().map(|it| around(&r.resource, &s.scope, named.clone(), it)),
                            ),
                            Some(Data::Histogram(data)) => all.extend(
                                data.data_points.iter().map(|it| around(&r.resource, &s.scope, named.clone(), it)),
                            ),
                            Some(Data::ExponentialHistogram(data)) => all.extend(
                                data.data_points.iter().map(|it| around(&r.resource, &s.scope, named.clone(), it)),
                            ),
                            Some(Data::Summary(data)) => all.extend(
                                data.data_points.iter().map(|it| around(&r.resource, &s.scope, named.clone(), it)),
                            ),
                            None => {}
                        }
                    }
                }
            }
        }
    }
    all
}

fn around(
    resource: &Option<impl prost::Message>,
    scope: &Option<impl prost::Message>,
    metric: Vec<u8>,
    item: &impl prost::Message,
) -> [Vec<u8>; 4] {
    let encoded = |it: &dyn Fn() -> Option<Vec<u8>>| it().unwrap_or_default();
    [
        encoded(&|| resource.as_ref().map(prost::Message::encode_to_vec)),
        encoded(&|| scope.as_ref().map(prost::Message::encode_to_vec)),
        metric,
        item.encode_to_vec(),
    ]
}

fuzz_target!(|data: ([u8; 48], &[u8])| {
    let Some((signal, request)) = input::request(data.1) else { return };
    let mut wishes = Wishes(data.0.iter());
    let samples = wishes.byte() & 3 == 0 && signal != Signal::Metrics;
    let only: Only = if samples {
        probabilistic_sampler::keeps(&wishes.sampler(), signal, &Metrics::detached())
    } else {
        filter::keeps(&wishes.filter(signal), signal).unwrap_or_default()
    };
    let sieve = Sieve::keeping(only.clone());
    let sifted = sieve.sift(signal, &request);
    let Ok(walked) = walk(signal, &request) else { return };
    let sifted = sifted.expect("what is accepted can be sifted");
    let before = Request::decode(signal, &request).expect("what is accepted is decodable");
    let meant = before.meant(&only);
    assert_eq!(meant.len(), walked.items as usize);
    let left = walk(signal, &sifted).expect("it stays valid").items as usize;
    assert_eq!(left, meant.iter().filter(|kept| **kept).count());
    let after = Request::decode(signal, &sifted).expect("it stays decodable");
    let mut kept = meant.iter();
    let expected: Vec<_> = items(&before).into_iter().filter(|_| *kept.next().expect("as many items")).collect();
    assert!(items(&after) == expected, "the items meant, as they were");
    assert!(sifted.len() <= request.len());
    assert_eq!(sieve.sift(signal, &sifted).as_ref(), Ok(&sifted), "what was kept once is kept");
});
