//! `exporters.otlp` (also `otlp_grpc`): OTLP over gRPC (reference §2.10).

use super::{Compression, FailoverConfig, GapReportConfig, QueueConfig, RetryConfig, SourceConfig, compression_level};
use crate::config::problems::At;
use crate::config::{Headers, Id, Section, TlsClient, authenticator};
use crate::uplink::budget::LinkBudget;
use crate::uplink::drain::Drain;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// OTLP over gRPC.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpGrpcConfig {
    /// `endpoint`; `None` only where the file was found wanting.
    pub endpoint: Option<Place>,
    /// It began with `https://`: TLS, whatever `tls.insecure` says.
    pub https: bool,
    /// `failover`, ours: others, for when `endpoint` is away.
    pub failover: FailoverConfig<Endpoint>,
    /// `authority`: named to the far end in the place of the endpoint's host.
    pub authority: Option<String>,
    /// `headers`: sent as metadata; what is written under a name in `-bin` is sent in base64.
    pub headers: Headers,
    /// `compression`, gzip.
    pub compression: Compression,
    /// `compression_params.level`; None: ours.
    pub compression_level: Option<i32>,
    /// `timeout`, 5 s: for a whole request, its answer included. None (0 in the file): no end.
    pub timeout: Option<Duration>,
    /// `balancer_name`.
    pub balancer: Balancer,
    /// `proxy_url`, ours: through which TLS goes; None: `HTTPS_PROXY` and `NO_PROXY` decide.
    pub proxy_url: Option<String>,
    /// `interface`, `local_address`, ours.
    pub source: SourceConfig,
    /// `keepalive`. None: no pings.
    pub keepalive: Option<Keepalive>,
    /// `tls`.
    pub tls: TlsClient,
    /// `auth.authenticator`: an extension whose credentials are sent.
    pub auth: Option<Id>,
    /// `retry_on_failure`.
    pub retry_on_failure: RetryConfig,
    /// `sending_queue`.
    pub sending_queue: QueueConfig,
    /// `gap_report`, ours.
    pub gap_report: GapReportConfig,
    /// `drain`, ours.
    pub drain: Drain,
    /// `link_budget`, ours; None: the link costs nothing.
    pub link_budget: Option<LinkBudget>,
}

/// One of several far ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub place: Place,
    /// It began with `https://`.
    pub https: bool,
}

/// Where a far end is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Over the network.
    Net {
        /// A name or an address, without brackets.
        host: String,
        /// 1 to 65,535.
        port: u16,
    },
    /// On this machine.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Net { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Net { host, port } => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// `balancer_name`: which of the addresses of a name is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancer {
    /// `pick_first`: the first that can be reached, until it cannot.
    PickFirst,
    /// `round_robin`: all in turn; one that cannot be reached is passed over.
    RoundRobin,
}

/// `keepalive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// `time`: after so much silence the connection is pinged.
    pub time: Duration,
    /// `timeout`, 20 s: a ping unanswered for so long closes the connection.
    pub timeout: Duration,
    /// `permit_without_stream`: also while no request runs.
    pub permit_without_stream: bool,
}

/// grpc-go pings no more often than that, whatever it is told; servers send away who does.
const PING_MIN: Duration = Duration::from_secs(10);
/// Where OTLP/gRPC is served.
const PORT: u16 = 4317;

impl Default for OtlpGrpcConfig {
    fn default() -> OtlpGrpcConfig {
        OtlpGrpcConfig {
            endpoint: None,
            https: false,
            failover: FailoverConfig::default(),
            authority: None,
            headers: Headers::new(),
            compression: Compression::Gzip,
            compression_level: None,
            timeout: Some(Duration::from_secs(5)),
            balancer: Balancer::PickFirst,
            proxy_url: None,
            source: SourceConfig::default(),
            keepalive: None,
            tls: TlsClient::default(),
            auth: None,
            retry_on_failure: RetryConfig::default(),
            sending_queue: QueueConfig::default(),
            gap_report: GapReportConfig::default(),
            drain: Drain::default(),
            link_budget: None,
        }
    }
}

impl OtlpGrpcConfig {
    /// Whether TLS is spoken. As in the original `http://` does not switch it off, and `insecure` only without a `ca_file`.
    #[must_use]
    pub fn encrypted(&self) -> bool {
        self.https || !self.tls.insecure || self.tls.common.ca.is_some()
    }

    /// Each endpoint with its name, the preferred one first, as an exporter with that endpoint alone.
    #[must_use]
    pub fn each(&self) -> Vec<(String, OtlpGrpcConfig)> {
        let first = self.endpoint.clone().map(|place| Endpoint { place, https: self.https });
        let alone = |Endpoint { place, https }: Endpoint| {
            let failover = FailoverConfig { endpoints: Vec::new(), ..self.failover.clone() };
            (place.to_string(), OtlpGrpcConfig { endpoint: Some(place), https, failover, ..self.clone() })
        };
        first.into_iter().chain(self.failover.endpoints.iter().cloned()).map(alone).collect()
    }

    /// Whether it is on another machine.
    fn is_away(&self) -> bool {
        let Some(Place::Net { host, .. }) = &self.endpoint else { return false };
        host != "localhost" && !host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Reads `exporters.otlp`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> OtlpGrpcConfig {
        let written = s.text_if_given("endpoint").unwrap_or_default();
        let found = parse(&written);
        if written.is_empty() {
            // One that hangs on a variable without a value was told already.
            s.unless(s.fills("endpoint"), "endpoint", || "is needed: the host and port of the far end".to_owned());
        } else if let Err(why) = &found {
            s.error("endpoint", format!("`{written}` {why}"));
        }
        let found = found.ok();
        for remark in found.iter().flat_map(|found| &found.remarks) {
            s.warn("endpoint", remark);
        }
        let config = OtlpGrpcConfig {
            https: found.as_ref().is_some_and(|found| found.https),
            endpoint: found.as_ref().map(|found| found.place.clone()),
            failover: s.section("failover", |s| FailoverConfig::read(s, others)),
            ..OtlpGrpcConfig::without_endpoint(s)
        };
        config.check(s, found.is_some_and(|found| found.http));
        config
    }

    /// Reads `exporters.loadbalancing.protocol.otlp`: all but where the far end is.
    #[must_use]
    pub fn template(s: &Section<'_>) -> OtlpGrpcConfig {
        s.accept(&["endpoint"]); // the original needs one there, and does not use it
        s.refuse("failover", "has no place here: which endpoints there are the resolver says");
        let config = OtlpGrpcConfig::without_endpoint(s);
        config.check(s, false);
        config
    }

    /// As an exporter with this endpoint.
    #[must_use]
    pub fn to(&self, endpoint: Endpoint) -> OtlpGrpcConfig {
        OtlpGrpcConfig { endpoint: Some(endpoint.place), https: endpoint.https, ..self.clone() }
    }

    fn without_endpoint(s: &Section<'_>) -> OtlpGrpcConfig {
        let default = OtlpGrpcConfig::default();
        let compression = Compression::read(s, &["gzip", "snappy", "zstd", "none", ""]);
        s.moot_all(&["read_buffer_size", "write_buffer_size"], "buffers grow and shrink by themselves here");
        s.moot("wait_for_ready", "an upload waits in the queue until the far end takes it, with and without");
        s.moot("batcher", "the batch processor decides what one upload is");
        s.moot("user_agent", "the agent says who it is");
        s.refuse("middlewares", "middlewares are not available in this build");
        OtlpGrpcConfig {
            authority: s.text_if_given("authority"),
            headers: s.headers("headers"),
            compression,
            compression_level: compression_level(s, compression),
            timeout: s.duration_or_never("timeout", default.timeout),
            balancer: s.choice(
                "balancer_name",
                Balancer::PickFirst,
                &[
                    ("", Balancer::PickFirst),
                    ("pick_first", Balancer::PickFirst),
                    ("round_robin", Balancer::RoundRobin),
                ],
            ),
            proxy_url: s.url_if_given("proxy_url"),
            source: SourceConfig::read(s),
            keepalive: s.section("keepalive", keepalive),
            tls: s.section("tls", TlsClient::read),
            auth: authenticator(s),
            retry_on_failure: s.section("retry_on_failure", RetryConfig::read),
            sending_queue: s.section("sending_queue", QueueConfig::read),
            gap_report: s.section("gap_report", GapReportConfig::read),
            drain: s.section("drain", Drain::read),
            link_budget: s.section_if_there("link_budget", LinkBudget::read),
            ..default
        }
    }

    fn check(&self, s: &Section<'_>, http: bool) {
        let all: Vec<String> = self.each().into_iter().map(|(name, _)| name).collect();
        let twice = all.iter().enumerate().find(|(n, name)| all[..*n].contains(name));
        s.unless(twice.is_none(), "failover", || {
            format!("has the endpoint {} twice", twice.map_or("", |(_, name)| name))
        });
        s.warn_unless(!http || !self.encrypted(), "endpoint", || {
            "begins with http:// and is spoken to over TLS all the same, as in otelcol; without TLS: tls.insecure: true"
                .to_owned()
        });
        let overruled = self.tls.insecure && self.encrypted();
        s.warn_unless(!overruled, "tls", || {
            let why = if self.https { "endpoint begins with https://" } else { "ca_file asks for TLS" };
            format!("insecure has no effect: {why}, as in otelcol")
        });
        s.warn_unless(self.proxy_url.is_none() || self.encrypted(), "proxy_url", || {
            "has no effect: a proxy makes a tunnel for TLS only".to_owned()
        });
        let set = |names: [&str; 2]| names.iter().any(|name| s.reading().host.var(name).is_some_and(|v| !v.is_empty()));
        let proxied = set(["HTTPS_PROXY", "https_proxy"]) && !set(["NO_PROXY", "no_proxy"]);
        s.warn_unless(!proxied || self.encrypted() || !self.is_away(), "endpoint", || {
            "is spoken to directly: HTTPS_PROXY makes a tunnel for TLS only (otelcol would take it)".to_owned()
        });
        s.warn_unless(self.auth.is_none() || self.encrypted(), "auth", || {
            "sends credentials without TLS, for everybody on the way to read".to_owned()
        });
        let is_name = self.authority.as_ref().is_none_or(|name| {
            reqwest::Url::parse(&format!("http://{name}")).is_ok_and(|url| url.path() == "/" && url.query().is_none())
        });
        s.unless(is_name, "authority", || "is not a host, with or without a port".to_owned());
        let two = self.authority.is_some() && self.tls.server_name_override.is_some();
        s.unless(!two || self.authority == self.tls.server_name_override, "authority", || {
            "differs from tls.server_name_override, which is sent as authority too; give one of them".to_owned()
        });
    }
}

/// `failover.endpoints`.
fn others(s: &Section<'_>) -> Vec<Endpoint> {
    let one = |(n, (written, at)): (usize, &(String, At))| {
        let (problems, path) = (s.reading().problems, format!("{}[{n}]", s.path_of("endpoints")));
        let found = parse(written).map_err(|why| problems.error(*at, &path, format!("`{written}` {why}"))).ok()?;
        found.remarks.iter().for_each(|remark| problems.warn(*at, &path, remark));
        Some(Endpoint { place: found.place, https: found.https })
    };
    s.texts_if_given("endpoints").unwrap_or_default().iter().enumerate().filter_map(one).collect()
}

fn keepalive(s: &Section<'_>) -> Option<Keepalive> {
    let written = s.duration_or_never("time", None);
    let timeout = s.duration_or_never("timeout", None).unwrap_or(Duration::from_secs(20)); // grpc-go's
    let permit_without_stream = s.flag("permit_without_stream", false);
    let time = written?;
    s.warn_unless(time >= PING_MIN, "time", || format!("{time:?} counts as 10s, as in grpc-go"));
    Some(Keepalive { time: time.max(PING_MIN), timeout, permit_without_stream })
}

/// What an endpoint says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) place: Place,
    http: bool,
    https: bool,
    remarks: Vec<String>,
}

/// The forms of grpc-go that name one place, and URLs.
pub(super) fn parse(written: &str) -> Result<Found, String> {
    let mut found = Found { place: Place::Unix(PathBuf::new()), http: false, https: false, remarks: Vec::new() };
    let lower = written.to_ascii_lowercase();
    let after = |prefix: &str| lower.starts_with(prefix).then(|| &written[prefix.len()..]);
    if let Some(path) = after("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return match path.starts_with('/') {
            true => Ok(Found { place: Place::Unix(path.into()), ..found }),
            false => Err("names no absolute path of a socket".to_owned()),
        };
    }
    let mut rest = written;
    if let Some(after) = after("https://") {
        (found.https, rest) = (true, after.strip_suffix('/').unwrap_or(after));
    } else if let Some(after) = after("http://") {
        (found.http, rest) = (true, after.strip_suffix('/').unwrap_or(after));
    } else if let Some(after) = ["dns:", "passthrough:", "ipv4:", "ipv6:"].into_iter().find_map(after) {
        rest = after;
        if let Some(with_server) = after.strip_prefix("//") {
            let (server, name) = with_server.split_once('/').ok_or("is not of the form dns:///host:port")?;
            if !server.is_empty() {
                found.remarks.push(format!("asks the name server {server}; the system's resolver is asked here"));
            }
            rest = name;
        }
    } else if let Some((scheme, _)) = written.split_once("://") {
        return Err(format!("has the scheme {scheme}, which this build does not know"));
    }
    if rest.contains(['/', '?', '#', '@', ',', ' ']) {
        return Err("is not a host and a port; gRPC has no paths".to_owned());
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']').ok_or("has a bracket that is not closed")?;
            (host, after.strip_prefix(':'))
        }
        None if rest.matches(':').count() > 1 => return Err("is an IPv6 address without brackets".to_owned()),
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None => {
            found.remarks.push(format!("has no port; {PORT} is taken"));
            PORT
        }
        Some(port) => {
            port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("has `{port}` where a port should be"))?
        }
    };
    if host.is_empty() {
        return Err("names no host".to_owned());
    }
    found.place = Place::Net { host: host.to_owned(), port };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, try_out};

    #[test]
    #[rustfmt::skip]
    fn an_endpoint_has_many_forms_and_names_one_place() {
        let net = |host: &str, port| Ok(Place::Net { host: host.to_owned(), port });
        for (written, expected, remarks) in [
            ("c:4317",                     net("c", 4317),                                             0),
            ("10.0.0.1:1",                 net("10.0.0.1", 1),                                         0),
            ("[::1]:4317",                 net("::1", 4317),                                           0),
            ("http://c:4317",              net("c", 4317),                                             0),
            ("https://c:4317/",            net("c", 4317),                                             0),
            ("HTTPS://c:4317",             net("c", 4317),                                             0),
            ("dns:///c:4317",              net("c", 4317),                                             0),
            ("dns:c:4317",                 net("c", 4317),                                             0),
            ("dns://8.8.8.8/c:4317",       net("c", 4317),                                             1),
            ("passthrough:///c:4317",      net("c", 4317),                                             0),
            ("ipv4:10.0.0.1:2",            net("10.0.0.1", 2),                                         0),
            ("ipv6:[::1]:2",               net("::1", 2),                                              0),
            ("c",                          net("c", 4317),                                             1),
            ("[::1]",                      net("::1", 4317),                                           1),
            ("unix:///run/c.sock",         Ok(Place::Unix("/run/c.sock".into())),                      0),
            ("unix:/run/c.sock",           Ok(Place::Unix("/run/c.sock".into())),                      0),
            ("unix:c.sock",                Err("names no absolute path of a socket"),                  0),
            ("xds:///c",                   Err("has the scheme xds, which this build does not know"),  0),
            ("dns://c:4317",               Err("is not of the form dns:///host:port"),                 0),
            ("https://c:4317/v1",          Err("is not a host and a port; gRPC has no paths"),         0),
            ("ipv4:1.2.3.4:1,1.2.3.5:1",   Err("is not a host and a port; gRPC has no paths"),         0),
            ("::1:4317",                   Err("is an IPv6 address without brackets"),                 0),
            ("c:otlp",                     Err("has `otlp` where a port should be"),                   0),
            ("c:0",                        Err("has `0` where a port should be"),                      0),
            ("c:70000",                    Err("has `70000` where a port should be"),                  0),
            (":4317",                      Err("names no host"),                                       0),
            ("[::1",                       Err("has a bracket that is not closed"),                    0),
        ] {
            let found = parse(written);
            assert_eq!(found.as_ref().map_or(0, |found| found.remarks.len()), remarks, "{written}");
            assert_eq!(found.map(|found| found.place), expected.map_err(str::to_owned), "{written}");
        }
    }

    /// As in 0.88's configgrpc: TLS is what happens unless it is switched off, and `ca_file` and https switch it on again.
    #[test]
    #[rustfmt::skip]
    fn tls_is_on_unless_it_is_switched_off() {
        for (yaml, encrypted, told) in [
            ("{endpoint: 'c:1'}",                                      true,  ""),
            ("{endpoint: 'c:1', tls: {insecure: true}}",               false, ""),
            ("{endpoint: 'http://c:1', tls: {insecure: true}}",        false, ""),
            ("{endpoint: 'http://c:1'}",                               true,  "begins with http:// and is spoken to over TLS all the same"),
            ("{endpoint: 'https://c:1'}",                              true,  ""),
            ("{endpoint: 'https://c:1', tls: {insecure: true}}",       true,  "insecure has no effect: endpoint begins with https://"),
            ("{endpoint: 'c:1', tls: {insecure: true, ca_file: /ca}}", true,  "insecure has no effect: ca_file asks for TLS"),
            ("{}",                                                     true,  "is needed: the host and port of the far end"),
        ] {
            let (config, said) = try_out(yaml, &[], OtlpGrpcConfig::read);
            assert_eq!(config.encrypted(), encrypted, "{yaml}");
            assert!(said.contains(told) && said.is_empty() == told.is_empty(), "{yaml}: {said}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_proxy_that_is_not_taken_is_told() {
        let (proxy, spared) = (("HTTPS_PROXY", "http://p:1"), ("no_proxy", "c"));
        for (endpoint, insecure, vars, told) in [
            ("c:1",         true,  &[proxy][..],      true),
            ("c:1",         true,  &[proxy, spared],  false),
            ("c:1",         true,  &[],               false),
            ("c:1",         false, &[proxy],          false),
            ("localhost:1", true,  &[proxy],          false),
            ("127.0.0.1:1", true,  &[proxy],          false),
        ] {
            let yaml = format!("{{endpoint: '{endpoint}', tls: {{insecure: {insecure}}}}}");
            let (_, said) = try_out(&yaml, vars, OtlpGrpcConfig::read);
            assert_eq!(said.contains("is spoken to directly: HTTPS_PROXY"), told, "{endpoint} {insecure} {vars:?}: {said}");
        }
    }

    #[test]
    fn every_key_of_the_exporter_arrives() {
        let yaml = "{endpoint: 'https://c:1', failover: {endpoints: ['d:1'], after: 1m, probe_interval: 2m}, authority: a, headers: {k: v}, compression: zstd, compression_params: {level: 3}, timeout: 0, \
                    balancer_name: round_robin, proxy_url: 'http://p:1', interface: eth1, keepalive: {time: 20s, timeout: 3s, permit_without_stream: true}, \
                    tls: {insecure_skip_verify: true}, retry_on_failure: {enabled: false}, \
                    sending_queue: {num_consumers: 3}, gap_report: {enabled: false, interval: 7s}, drain: {max_rate: 1MB/s}, link_budget: {per_day: 5MB}}";
        let (config, told) = try_out(yaml, &[], OtlpGrpcConfig::read);
        assert_eq!(told, "");
        let secs = Duration::from_secs;
        let expected = OtlpGrpcConfig {
            endpoint: Some(Place::Net { host: "c".to_owned(), port: 1 }),
            https: true,
            failover: FailoverConfig {
                endpoints: vec![Endpoint { place: Place::Net { host: "d".to_owned(), port: 1 }, https: false }],
                after: secs(60),
                probe_interval: secs(120),
            },
            authority: Some("a".to_owned()),
            headers: vec![("k".to_owned(), Secret::new("v"))],
            compression: Compression::Zstd,
            compression_level: Some(3),
            timeout: None,
            balancer: Balancer::RoundRobin,
            proxy_url: Some("http://p:1".to_owned()),
            source: SourceConfig { interface: Some("eth1".to_owned()), local_address: None },
            keepalive: Some(Keepalive { time: secs(20), timeout: secs(3), permit_without_stream: true }),
            tls: TlsClient { insecure_skip_verify: true, ..TlsClient::default() },
            auth: None,
            retry_on_failure: RetryConfig { enabled: false, ..RetryConfig::default() },
            sending_queue: QueueConfig { num_consumers: 3, ..QueueConfig::default() },
            gap_report: GapReportConfig { enabled: false, interval: secs(7) },
            drain: Drain { max_rate: Some(1_000_000), ..Drain::default() },
            link_budget: Some(LinkBudget { per_day: Some(5_000_000), ..LinkBudget::default() }),
        };
        assert_eq!(config, expected);
    }

    #[test]
    #[rustfmt::skip]
    fn what_cannot_be_meant_is_told() {
        for (yaml, told) in [
            ("{endpoint: 'c:1', compression: deflate}",                                    "deflate"),
            ("{endpoint: 'c:1', balancer_name: grpclb}",                                   "grpclb"),
            ("{endpoint: 'c:1', keepalive: {time: 1s}}",                                   "1s counts as 10s, as in grpc-go"),
            ("{endpoint: 'c:1', authority: 'a/b'}",                                        "is not a host, with or without a port"),
            ("{endpoint: 'c:1', authority: a, tls: {server_name_override: b}}",            "differs from tls.server_name_override"),
            ("{endpoint: 'c:1', auth: {authenticator: basicauth}, tls: {insecure: true}}", "sends credentials without TLS"),
            ("{endpoint: 'c:1', failover: {endpoints: ['d']}}",                            "has no port; 4317 is taken"),
            ("{endpoint: 'c:1', failover: {endpoints: ['d:1', 'e:x']}}",                   "`e:x` has `x` where a port should be"),
            ("{endpoint: 'c:1', failover: {endpoints: ['c:1']}}",                          "has the endpoint c:1 twice"),
            ("{endpoint: 'c:1', wait_for_ready: true}",                                    "an upload waits in the queue"),
        ] {
            let (_, said) = try_out(yaml, &[], OtlpGrpcConfig::read);
            assert!(said.contains(told), "{yaml}: {said:?}");
        }
    }
}
