//! `exporters.loadbalancing`: items go to several endpoints, by a key (reference §2.11).

use super::otlp_grpc::parse;
use super::{Endpoint, FailoverConfig, OtlpGrpcConfig, OtlpHttpConfig, Place, QueueConfig, RetryConfig};
use crate::config::problems::At;
use crate::config::{Headers, Id, Secret, Section};
use crate::otlp::Signal;
use std::time::Duration;

/// `failover.after`: an endpoint that takes nothing keeps parts of all uploads, so it has less time than where it is one of
/// two in a row.
const AFTER: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadBalancingConfig {
    /// `protocol`: how each endpoint is spoken to. `timeout`, `retry_on_failure` and `sending_queue` of the exporter itself,
    /// where they are given, stand in it.
    pub protocol: Protocol,
    /// `resolver`: who the endpoints are.
    pub resolver: ResolverConfig,
    /// `routing_key`; None: traceID for traces and logs, service for metrics.
    pub routing_key: Option<RoutingKey>,
    /// `failover`, ours: when the share of an endpoint goes to others; its `endpoints` has no meaning here.
    pub failover: FailoverConfig<()>,
    /// The exporter has a `sending_queue` of its own.
    pub owns_queue: bool,
}

/// `protocol`.
#[derive(Debug, Clone, PartialEq)]
pub enum Protocol {
    /// `otlp`: gRPC.
    Grpc(OtlpGrpcConfig),
    /// `otlphttp`, ours.
    Http(OtlpHttpConfig),
}

/// `resolver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolverConfig {
    /// `static`.
    Static {
        /// `hostnames`, each with its port.
        hostnames: Vec<String>,
    },
    /// `dns`: all addresses of a name.
    Dns {
        /// `hostname`.
        hostname: String,
        /// `port`, 4317 (4318 for HTTP): of each address.
        port: u16,
        /// `interval`, 5 s: between two looks.
        interval: Duration,
        /// `timeout`, 1 s: of a look.
        timeout: Duration,
    },
    /// `k8s`: the pods behind a service.
    K8s {
        /// `service`: a name, or `name.namespace`.
        service: String,
        /// `ports`, 4317 (4318 for HTTP): each of them of each pod.
        ports: Vec<u16>,
        /// `timeout`, 1 s: of a look.
        timeout: Duration,
    },
}

/// `routing_key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutingKey {
    /// `traceID`.
    TraceId,
    /// `service`: `service.name`.
    Service,
    /// `resource`: all attributes of the resource, and the metric's name.
    Resource,
    /// `metric`: its name.
    Metric,
    /// `streamID`: resource, name and attributes of a data point.
    StreamId,
}

impl RoutingKey {
    /// What the original takes when nothing is said.
    #[must_use]
    pub fn of(signal: Signal) -> RoutingKey {
        if signal == Signal::Metrics { RoutingKey::Service } else { RoutingKey::TraceId }
    }

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RoutingKey::TraceId => "traceID",
            RoutingKey::Service => "service",
            RoutingKey::Resource => "resource",
            RoutingKey::Metric => "metric",
            RoutingKey::StreamId => "streamID",
        }
    }

    /// Whether items of this signal have it.
    #[must_use]
    pub fn suits(self, signal: Signal) -> bool {
        match self {
            RoutingKey::Service => true,
            RoutingKey::TraceId => signal != Signal::Metrics,
            RoutingKey::Resource | RoutingKey::Metric | RoutingKey::StreamId => signal == Signal::Metrics,
        }
    }
}

impl Protocol {
    /// Its key below `protocol`.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Protocol::Grpc(_) => "otlp",
            Protocol::Http(_) => "otlphttp",
        }
    }

    /// `retry_on_failure`.
    #[must_use]
    pub fn retry(&self) -> &RetryConfig {
        match self {
            Protocol::Grpc(config) => &config.retry_on_failure,
            Protocol::Http(config) => &config.retry_on_failure,
        }
    }

    /// `sending_queue`.
    #[must_use]
    pub fn queue(&self) -> &QueueConfig {
        match self {
            Protocol::Grpc(config) => &config.sending_queue,
            Protocol::Http(config) => &config.sending_queue,
        }
    }

    /// `auth.authenticator`.
    #[must_use]
    pub fn auth(&self) -> Option<&Id> {
        match self {
            Protocol::Grpc(config) => config.auth.as_ref(),
            Protocol::Http(config) => config.auth.as_ref(),
        }
    }

    /// `timeout`.
    pub fn timeout_mut(&mut self) -> &mut Option<Duration> {
        match self {
            Protocol::Grpc(config) => &mut config.timeout,
            Protocol::Http(config) => &mut config.timeout,
        }
    }

    /// `headers`.
    #[must_use]
    pub fn headers(&self) -> &[(String, Secret)] {
        match self {
            Protocol::Grpc(config) => &config.headers,
            Protocol::Http(config) => &config.headers,
        }
    }

    /// `headers`.
    pub fn headers_mut(&mut self) -> &mut Headers {
        match self {
            Protocol::Grpc(config) => &mut config.headers,
            Protocol::Http(config) => &mut config.headers,
        }
    }

    /// Where it is served when no port is given.
    fn port(&self) -> u16 {
        match self {
            Protocol::Grpc(_) => 4_317,
            Protocol::Http(_) => 4_318,
        }
    }
}

impl LoadBalancingConfig {
    /// As an exporter to the endpoint of this name, `host:port`, alone.
    #[must_use]
    pub fn to(&self, name: &str) -> Protocol {
        match &self.protocol {
            Protocol::Grpc(template) => {
                let place = parse(name).map_or_else(|_| Place::Net { host: name.to_owned(), port: 4_317 }, |f| f.place);
                Protocol::Grpc(template.to(Endpoint { place, https: false }))
            }
            Protocol::Http(template) => {
                let scheme = if template.tls.insecure { "http" } else { "https" };
                Protocol::Http(OtlpHttpConfig { endpoint: Some(format!("{scheme}://{name}")), ..template.clone() })
            }
        }
    }

    /// Reads `exporters.loadbalancing`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> LoadBalancingConfig {
        let mut protocol = s.section("protocol", read_protocol);
        let owns_queue = s.has("sending_queue");
        let (timeout, retry, queue) = (
            s.duration_or_never("timeout", None),
            s.section_if_there("retry_on_failure", RetryConfig::read),
            s.section_if_there("sending_queue", QueueConfig::read),
        );
        match &mut protocol {
            Protocol::Grpc(OtlpGrpcConfig { timeout: t, retry_on_failure: r, sending_queue: q, .. })
            | Protocol::Http(OtlpHttpConfig { timeout: t, retry_on_failure: r, sending_queue: q, .. }) => {
                *t = if s.gives("timeout") { timeout } else { *t };
                *r = retry.unwrap_or_else(|| r.clone());
                *q = queue.unwrap_or_else(|| q.clone());
            }
        }
        let keys =
            [RoutingKey::TraceId, RoutingKey::Service, RoutingKey::Resource, RoutingKey::Metric, RoutingKey::StreamId];
        let key = s.choice("routing_key", None, &keys.map(|key| (key.name(), Some(key))));
        s.refuse("routing_attributes", "routing by attributes is not available in this build");
        LoadBalancingConfig {
            resolver: s.section("resolver", |s| read_resolver(s, &protocol)),
            protocol,
            routing_key: key,
            failover: s.section("failover", |s| {
                s.refuse("endpoints", "has no place here: which endpoints there are the resolver says");
                FailoverConfig::read_over(s, FailoverConfig { after: AFTER, ..FailoverConfig::default() })
            }),
            owns_queue,
        }
    }
}

fn read_protocol(s: &Section<'_>) -> Protocol {
    let grpc = s.section_if_there("otlp", OtlpGrpcConfig::template);
    let http = s.section_if_there("otlphttp", OtlpHttpConfig::template);
    s.unless(grpc.is_none() || http.is_none(), "otlphttp", || {
        "stands beside otlp; an endpoint is spoken to in one of them".to_owned()
    });
    match (grpc, http) {
        (None, Some(http)) => Protocol::Http(http),
        (grpc, _) => Protocol::Grpc(grpc.unwrap_or_default()),
    }
}

fn read_resolver(s: &Section<'_>, protocol: &Protocol) -> ResolverConfig {
    let hostnames = s.section_if_there("static", |s| read_hostnames(s, protocol));
    let dns = s.section_if_there("dns", |s| {
        let hostname = s.text_if_given("hostname");
        s.unless(hostname.is_some(), "hostname", || "is needed: whose addresses are the endpoints".to_owned());
        let hostname = hostname.unwrap_or_default();
        s.unless(!hostname.contains([':', '/']), "hostname", || {
            "is not a name alone; its port is given by port".to_owned()
        });
        let port = s.number("port", protocol.port(), 1..=u16::MAX);
        tell_foreign_port(s, "port", port, protocol);
        s.moot("quarantine", "an endpoint that does not answer is left alone for a while, whoever found it");
        ResolverConfig::Dns {
            hostname,
            port,
            interval: s.duration_above_zero("interval", Duration::from_secs(5)),
            timeout: s.duration_above_zero("timeout", Duration::from_secs(1)),
        }
    });
    let k8s = s.section_if_there("k8s", |s| read_k8s(s, protocol));
    s.refuse("aws_cloud_map", "is not available in this build; static, dns and k8s are");
    let hostnames = hostnames.map(|hostnames| ResolverConfig::Static { hostnames });
    let given = [("static", hostnames), ("dns", dns), ("k8s", k8s)];
    let given: Vec<_> = given.into_iter().filter_map(|(key, resolver)| Some((key, resolver?))).collect();
    if let [(first, _), (second, _), ..] = given[..] {
        s.error(second, format!("stands beside {first}; give one resolver"));
    }
    let only = given.into_iter().next().map(|(_, resolver)| resolver);
    if only.is_none() && !s.has("aws_cloud_map") {
        s.error_here("there is no resolver; give static with hostnames, dns with a hostname, or k8s with a service");
    }
    only.unwrap_or(ResolverConfig::Static { hostnames: Vec::new() })
}

fn read_k8s(s: &Section<'_>, protocol: &Protocol) -> ResolverConfig {
    let service = s.text_if_given("service");
    let is_name = |name: &String| {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        name.split('.').all(|part| !part.is_empty() && part.chars().all(letters))
    };
    s.unless(service.as_ref().is_some_and(is_name), "service", || match &service {
        None => "is needed: the service whose pods are the endpoints".to_owned(),
        Some(name) => format!("`{name}` is not a service; it is a name, or name.namespace"),
    });
    let mut ports = Vec::new();
    for (text, _) in s.texts_if_given("ports").unwrap_or_default() {
        match text.trim().parse::<u16>() {
            Ok(port) if port > 0 => ports.push(port),
            _ => s.error("ports", format!("`{text}` is not a port")),
        }
    }
    if ports.is_empty() {
        ports.push(protocol.port());
    }
    if ports.iter().any(|port| is_foreign(*port, protocol)) {
        tell_foreign(s, "ports", protocol);
    }
    s.moot("return_hostnames", "pods are spoken to by their addresses");
    ResolverConfig::K8s {
        service: service.unwrap_or_default(),
        ports,
        timeout: s.duration_above_zero("timeout", Duration::from_secs(1)),
    }
}

/// `hostnames`, each with a port, as the original names them on its ring.
fn read_hostnames(s: &Section<'_>, protocol: &Protocol) -> Vec<String> {
    let written = s.texts_if_given("hostnames").unwrap_or_default();
    s.unless(!written.is_empty(), "hostnames", || "is empty; give the endpoints, host:port each".to_owned());
    let mut hostnames: Vec<String> = Vec::new();
    let mut foreign = 0;
    for (n, (name, at)) in written.iter().enumerate() {
        let (problems, path) = (s.reading().problems, format!("{}[{n}]", s.path_of("hostnames")));
        let whole = if name.contains(':') { name.clone() } else { format!("{name}:{}", protocol.port()) };
        let tell = |at: At, what: &str| problems.error(at, &path, format!("`{name}` {what}"));
        match parse(&whole) {
            Ok(found) if found.place.to_string() == whole => {
                foreign += usize::from(matches!(found.place, Place::Net { port, .. } if is_foreign(port, protocol)));
            }
            Ok(_) => tell(*at, "is not host:port"),
            Err(why) => tell(*at, &why),
        }
        match hostnames.contains(&whole) {
            true => problems.warn(*at, &path, format!("`{name}` stands here twice; it is taken once")),
            false => hostnames.push(whole),
        }
    }
    if foreign > 0 {
        tell_foreign(s, "hostnames", protocol);
    }
    hostnames
}

fn is_foreign(port: u16, protocol: &Protocol) -> bool {
    match protocol {
        Protocol::Grpc(_) => port == 4_318,
        Protocol::Http(_) => port == 4_317,
    }
}

fn tell_foreign_port(s: &Section<'_>, key: &'static str, port: u16, protocol: &Protocol) {
    if is_foreign(port, protocol) {
        tell_foreign(s, key, protocol);
    }
}

/// The document this product comes from has such a block: otelcol takes it and never gets a connection.
fn tell_foreign(s: &Section<'_>, key: &'static str, protocol: &Protocol) {
    s.warn(key, match protocol {
        Protocol::Grpc(config) => {
            let tls = if config.encrypted() { " over TLS" } else { "" };
            format!(
                "has the port 4318, where OTLP/HTTP is served, and protocol.otlp speaks gRPC{tls}, as in otelcol, which finds nobody to talk to there; give 4317, or write protocol.otlphttp in the place of protocol.otlp (with tls.insecure: true for http://)"
            )
        }
        Protocol::Http(_) => {
            "has the port 4317, where gRPC is served, and protocol.otlphttp speaks HTTP; give 4318, or write protocol.otlp in its place".to_owned()
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    /// Goal: the block of the seed is taken as it is, and what is said of it says what to change.
    #[test]
    fn the_block_of_the_seed_says_what_to_change() {
        let yaml = "\
protocol:
  otlp:
    endpoint: dummy  # Required but not used
resolver:
  static:
    hostnames:
      - tfo-collector-1.example.com:4318
      - tfo-collector-2.example.com:4318
      - tfo-collector-3.example.com:4318
";
        let (config, told) = try_out(yaml, &[], LoadBalancingConfig::read);
        assert_eq!(
            told,
            "warning: has the port 4318, where OTLP/HTTP is served, and protocol.otlp speaks gRPC over TLS, as in otelcol, which finds nobody to talk to there; give 4317, or write protocol.otlphttp in the place of protocol.otlp (with tls.insecure: true for http://)"
        );
        let hostnames: Vec<String> = (1..=3).map(|n| format!("tfo-collector-{n}.example.com:4318")).collect();
        let expected = LoadBalancingConfig {
            protocol: Protocol::Grpc(OtlpGrpcConfig::default()),
            resolver: ResolverConfig::Static { hostnames },
            routing_key: None,
            failover: FailoverConfig { after: AFTER, ..FailoverConfig::default() },
            owns_queue: false,
        };
        assert_eq!(config, expected);
        // Each of the two changes ends the warning.
        for (from, to) in [("4318", "4317"), ("  otlp:", "  otlphttp:")] {
            let (_, told) = try_out(&yaml.replace(from, to), &[], LoadBalancingConfig::read);
            assert_eq!(told, "", "{to}");
        }
    }

    #[test]
    fn every_key_of_the_exporter_arrives() {
        let yaml = "{protocol: {otlp: {endpoint: x, timeout: 9s, tls: {insecure: true}, sending_queue: {num_consumers: 2}, headers: {a: b}}}, \
                    resolver: {dns: {hostname: c, port: 5, interval: 6s, timeout: 7s}}, routing_key: streamID, timeout: 0, \
                    retry_on_failure: {enabled: false}, sending_queue: {num_consumers: 3, storage: file_storage}, \
                    failover: {after: 8s, probe_interval: 9s}}";
        let (config, told) = try_out(yaml, &[], LoadBalancingConfig::read);
        assert_eq!(told, "");
        let secs = Duration::from_secs;
        let resolver = ResolverConfig::Dns { hostname: "c".to_owned(), port: 5, interval: secs(6), timeout: secs(7) };
        assert_eq!((config.resolver.clone(), config.routing_key), (resolver, Some(RoutingKey::StreamId)));
        assert_eq!((config.failover.after, config.failover.probe_interval), (secs(8), secs(9)));
        let Protocol::Grpc(grpc) = config.to("10.0.0.1:5") else { panic!("{config:?}") };
        assert_eq!(grpc.endpoint, Some(Place::Net { host: "10.0.0.1".to_owned(), port: 5 }));
        assert!(grpc.timeout.is_none() && grpc.tls.insecure && !grpc.retry_on_failure.enabled);
        assert_eq!((grpc.sending_queue.num_consumers, grpc.sending_queue.storage), (3, Some(Id::of("file_storage"))));
        assert!(config.owns_queue && grpc.headers.len() == 1);
        let yaml = "{protocol: {otlphttp: {tls: {insecure: true}}}, resolver: {static: {hostnames: 'h'}}}";
        let (config, told) = try_out(yaml, &[], LoadBalancingConfig::read);
        assert_eq!(
            (told.as_str(), &config.resolver),
            ("", &ResolverConfig::Static { hostnames: vec!["h:4318".to_owned()] })
        );
        let Protocol::Http(http) = config.to("h:4318") else { panic!("{config:?}") };
        assert_eq!(http.url(Signal::Logs).as_deref(), Some("http://h:4318/v1/logs"));
    }

    #[test]
    #[rustfmt::skip]
    fn what_cannot_be_meant_is_told() {
        for (yaml, told) in [
            ("{}",                                                               "there is no resolver; give static with hostnames, dns with a hostname, or k8s with a service"),
            ("{resolver: {static: {hostnames: []}}}",                            "is empty; give the endpoints, host:port each"),
            ("{resolver: {static: {hostnames: [a, 'a:4317']}}}",                 "warning: `a:4317` stands here twice; it is taken once"),
            ("{resolver: {static: {hostnames: ['http://a:1']}}}",                "`http://a:1` is not host:port"),
            ("{resolver: {static: {hostnames: ['a:x']}}}",                       "`a:x` has `x` where a port should be"),
            ("{resolver: {static: {hostnames: [a]}, dns: {hostname: b}}}",       "stands beside static; give one resolver"),
            ("{resolver: {dns: {}}}",                                            "is needed: whose addresses are the endpoints"),
            ("{resolver: {dns: {hostname: 'a:4317'}}}",                          "is not a name alone; its port is given by port"),
            ("{resolver: {k8s: {service: a.b}}}",                                ""),
            ("{resolver: {k8s: {service: 'a/b', ports: [x]}}}",                  "`a/b` is not a service; it is a name, or name.namespace | `x` is not a port"),
            ("{resolver: {static: {hostnames: [a]}, k8s: {service: b}}}",        "stands beside static; give one resolver"),
            ("{resolver: {aws_cloud_map: {}}}",                                  "is not available in this build; static, dns and k8s are"),
            ("{resolver: {static: {hostnames: [a]}}, routing_key: span}",        "`span` is not one of traceID, service, resource, metric, streamID"),
            ("{resolver: {static: {hostnames: [a]}}, protocol: {otlp: {failover: {endpoints: [b]}}}}", "has no place here: which endpoints there are the resolver says"),
            ("{resolver: {static: {hostnames: [a]}}, protocol: {otlp: {}, otlphttp: {}}}", "stands beside otlp; an endpoint is spoken to in one of them"),
        ] {
            let (_, said) = try_out(yaml, &[], LoadBalancingConfig::read);
            assert_eq!(said, told, "{yaml}");
        }
    }
}
