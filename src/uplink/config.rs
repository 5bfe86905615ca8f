//! `exporters.otlphttp` (also `otlp_http`), `exporters.otlp` (also `otlp_grpc`), `exporters.loadbalancing`,
//! `exporters.logging` and `exporters.debug` (reference §2.9–2.12).

mod drain;
mod failover;
mod link_budget;
mod load_balancing;
mod oauth2;
mod otlp_grpc;
mod source;

pub use failover::FailoverConfig;
pub use load_balancing::{LoadBalancingConfig, Protocol, ResolverConfig, RoutingKey};
pub use oauth2::{Credential, OAuth2Config};
pub use otlp_grpc::{Balancer, Endpoint, Keepalive, OtlpGrpcConfig, Place};
pub use source::SourceConfig;

use super::budget::LinkBudget;
use super::drain::Drain;
use crate::base::backoff::Curve;
use crate::config::{Headers, Id, Section, TlsClient, authenticator};
use crate::otlp::Signal;
use std::time::Duration;

/// OTLP over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpHttpConfig {
    /// `endpoint`: the base URL; `/v1/<signal>` is added.
    pub endpoint: Option<String>,
    /// `traces_endpoint`: used verbatim.
    pub traces_endpoint: Option<String>,
    /// `metrics_endpoint`: used verbatim.
    pub metrics_endpoint: Option<String>,
    /// `logs_endpoint`: used verbatim.
    pub logs_endpoint: Option<String>,
    /// `failover`, ours: other bases, for when `endpoint` is away.
    pub failover: FailoverConfig<String>,
    /// `headers`: sent with every request, over our own.
    pub headers: Headers,
    /// `encoding`, proto.
    pub format: Format,
    /// `compression`, gzip.
    pub compression: Compression,
    /// `compression_params.level`; None: ours.
    pub compression_level: Option<i32>,
    /// `timeout`, 30 s: for a whole request, its answer included. None (0 in the file): no end.
    pub timeout: Option<Duration>,
    /// `max_idle_conns_per_host`, 2: connections kept open for the next upload.
    pub max_idle_conns_per_host: u32,
    /// `max_conns_per_host`: most uploads on the way at one time, of all signals together. None (0): `num_consumers` of
    /// each.
    pub max_conns_per_host: Option<u32>,
    /// `idle_conn_timeout`, 90 s: when a connection without use is closed. None (0): never.
    pub idle_conn_timeout: Option<Duration>,
    /// `disable_keep_alives`: a new connection for every request.
    pub disable_keep_alives: bool,
    /// `http2_read_idle_timeout`: after so much silence an HTTP/2 connection is pinged. None (0): never.
    pub http2_read_idle_timeout: Option<Duration>,
    /// `http2_ping_timeout`, 15 s: a ping unanswered for so long closes the connection.
    pub http2_ping_timeout: Duration,
    /// `proxy_url`; None: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` decide.
    pub proxy_url: Option<String>,
    /// `interface`, `local_address`.
    pub source: SourceConfig,
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

impl Default for OtlpHttpConfig {
    fn default() -> OtlpHttpConfig {
        OtlpHttpConfig {
            endpoint: None,
            traces_endpoint: None,
            metrics_endpoint: None,
            logs_endpoint: None,
            failover: FailoverConfig::default(),
            headers: Headers::new(),
            format: Format::Proto,
            compression: Compression::Gzip,
            compression_level: None,
            timeout: Some(Duration::from_secs(30)),
            max_idle_conns_per_host: 2, // Go's default, which 0.88 leaves alone
            max_conns_per_host: None,
            idle_conn_timeout: Some(Duration::from_secs(90)),
            disable_keep_alives: false,
            http2_read_idle_timeout: None,
            http2_ping_timeout: Duration::from_secs(15),
            proxy_url: None,
            source: SourceConfig::default(),
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

impl OtlpHttpConfig {
    /// Where a signal goes; `None` when the file names neither a base nor this signal's endpoint.
    #[must_use]
    pub fn url(&self, signal: Signal) -> Option<String> {
        let own = match signal {
            Signal::Traces => &self.traces_endpoint,
            Signal::Metrics => &self.metrics_endpoint,
            Signal::Logs => &self.logs_endpoint,
        };
        let base =
            || self.endpoint.as_ref().map(|base| format!("{}/v1/{signal}", base.strip_suffix('/').unwrap_or(base)));
        own.clone().or_else(base)
    }
}

/// An endpoint in logs and labels: without its scheme and what is a secret in it.
fn name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{host}{}", path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/'))
}

/// `encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `proto`.
    Proto,
    /// `json`: OTLP/JSON.
    Json,
}

/// `compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `none` or an empty text.
    None,
    /// `gzip`.
    Gzip,
    /// `zlib`.
    Zlib,
    /// `deflate`: as HTTP means it, which is zlib.
    Deflate,
    /// `snappy`: in frames, as 0.88 sends it.
    Snappy,
    /// `zstd`.
    Zstd,
}

impl Compression {
    /// Reads `compression`, of which an exporter takes some words.
    fn read(s: &Section<'_>, words: &[&str]) -> Compression {
        let known = [
            ("gzip", Compression::Gzip),
            ("zstd", Compression::Zstd),
            ("snappy", Compression::Snappy),
            ("zlib", Compression::Zlib),
            ("deflate", Compression::Deflate),
            ("none", Compression::None),
            ("", Compression::None),
            ("lz4", Compression::Gzip),
        ];
        let known: Vec<_> = known.into_iter().filter(|(word, _)| words.contains(word)).collect();
        s.warn_unless(s.text_if_given("compression").is_none_or(|word| word != "lz4"), "compression", || {
            "lz4 is not in this build; gzip is sent, which every OTLP server takes".to_owned()
        });
        s.choice("compression", Compression::Gzip, &known)
    }

    /// The highest level there is, from 1; none: it has no levels.
    fn highest_level(self) -> Option<i32> {
        match self {
            Compression::Gzip | Compression::Zlib | Compression::Deflate => Some(9),
            Compression::Zstd => Some(ZSTD_LEVEL_MAX),
            Compression::None | Compression::Snappy => None,
        }
    }
}

/// Higher ones want more memory for an upload than a gateway has for all of them.
const ZSTD_LEVEL_MAX: i32 = 11;

/// `retry_on_failure`. The window stands still while the link is down (promise P3).
#[derive(Debug, Clone, PartialEq)]
pub struct RetryConfig {
    /// `enabled`, true. When false an upload is tried once while the link is up.
    pub enabled: bool,
    /// `initial_interval`, 5 s: rest after the first failure.
    pub initial_interval: Duration,
    /// `randomization_factor`, 0.5: jitter; 0 to 1.
    pub randomization_factor: f64,
    /// `multiplier`, 1.5: growth from rest to rest; at least 1.
    pub multiplier: f64,
    /// `max_interval`, 30 s: the longest rest, before jitter.
    pub max_interval: Duration,
    /// `max_elapsed_time`, 5 min: the window. None (0): it has no end.
    pub max_elapsed_time: Option<Duration>,
    /// `on_expiry`, ours: what becomes of an upload at the end of its window.
    pub on_expiry: OnExpiry,
    /// `reconnect_spread`, ours: drawn evenly from zero to this and added to the first rest after the far end went away,
    /// and waited before the first upload of a start that finds a backlog. As long as `initial_interval` where it is not given.
    pub reconnect_spread: Duration,
}

/// `retry_on_failure.on_expiry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExpiry {
    /// `park`: it waits in the exporter's park lane and is tried again later; nothing is dropped.
    Park,
    /// `drop`: it is dropped and counted as lost, as otelcol does since 0.92.
    Drop,
}

impl RetryConfig {
    /// The rests, as the uplink takes them.
    #[must_use]
    pub fn curve(&self) -> Curve {
        Curve {
            initial: self.initial_interval,
            multiplier: self.multiplier,
            max: self.max_interval,
            randomization_factor: self.randomization_factor,
        }
    }
}

impl Default for RetryConfig {
    fn default() -> RetryConfig {
        RetryConfig {
            enabled: true,
            initial_interval: Duration::from_secs(5),
            randomization_factor: 0.5,
            multiplier: 1.5,
            max_interval: Duration::from_secs(30),
            max_elapsed_time: Some(Duration::from_secs(300)),
            on_expiry: OnExpiry::Park,
            reconnect_spread: Duration::from_secs(5),
        }
    }
}

/// `sending_queue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// `enabled`, true. When false there is no storage, and one upload of each signal is on the way at a time.
    pub enabled: bool,
    /// `num_consumers`, 10: uploads on the way at one time.
    pub num_consumers: u32,
    /// `queue_size`, 1,000. Bytes count instead: with storage its `max_size_mib`, in memory a part of memory_limiter's.
    pub queue_size: u64,
    /// `storage`: the `file_storage` extension that keeps the queue. None: memory, gone with the process.
    pub storage: Option<Id>,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig { enabled: true, num_consumers: 10, queue_size: 1_000, storage: None }
    }
}

/// `gap_report`: what will never arrive is said to the far end, as metrics (`docs/gap-report.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapReportConfig {
    /// `enabled`, true: a loss nobody hears of is a silent one. Nothing is sent while nothing is lost.
    pub enabled: bool,
    /// `interval`, 1 min: least time between two reports.
    pub interval: Duration,
}

impl Default for GapReportConfig {
    fn default() -> GapReportConfig {
        GapReportConfig { enabled: true, interval: Duration::from_secs(60) }
    }
}

/// `exporters.logging` and `exporters.debug`: tells in the log what passes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugConfig {
    /// `verbosity`, normal; or from the old `loglevel`.
    pub verbosity: Verbosity,
    /// `sampling_initial`, 2: so many equal lines in each second are written …
    pub sampling_initial: u32,
    /// `sampling_thereafter`, 500: … and then one of so many.
    pub sampling_thereafter: u32,
}

impl Default for DebugConfig {
    fn default() -> DebugConfig {
        DebugConfig { verbosity: Verbosity::Normal, sampling_initial: 2, sampling_thereafter: 500 }
    }
}

/// `verbosity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// One line with counts.
    Basic,
    /// As `basic` in 0.88.
    Normal,
    /// The data itself in the original; here as `normal`, with a warning.
    Detailed,
}

impl OtlpHttpConfig {
    /// Reads `exporters.otlphttp`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> OtlpHttpConfig {
        let config = OtlpHttpConfig {
            endpoint: s.url_if_given("endpoint"),
            traces_endpoint: s.url_if_given("traces_endpoint"),
            metrics_endpoint: s.url_if_given("metrics_endpoint"),
            logs_endpoint: s.url_if_given("logs_endpoint"),
            failover: s.section("failover", |s| FailoverConfig::read(s, |s| s.urls("endpoints"))),
            ..OtlpHttpConfig::without_endpoint(s)
        };
        config.check_endpoints(s);
        s.moot("profiles_endpoint", "profiles are not a signal of this build");
        config
    }

    /// Reads `exporters.loadbalancing.protocol.otlphttp`, ours: all but where the far end is.
    #[must_use]
    pub fn template(s: &Section<'_>) -> OtlpHttpConfig {
        s.accept(&["endpoint"]); // as in `protocol.otlp`
        for key in ["failover", "traces_endpoint", "metrics_endpoint", "logs_endpoint"] {
            s.refuse(key, "has no place here: which endpoints there are the resolver says");
        }
        OtlpHttpConfig::without_endpoint(s)
    }

    fn without_endpoint(s: &Section<'_>) -> OtlpHttpConfig {
        let default = OtlpHttpConfig::default();
        let compression = Compression::read(s, &["gzip", "zstd", "snappy", "zlib", "deflate", "none", "", "lz4"]);
        s.moot_all(&["read_buffer_size", "write_buffer_size"], "buffers grow and shrink by themselves here");
        s.moot("max_idle_conns", "max_idle_conns_per_host bounds the connections of an exporter, which has one host");
        s.moot("cookies", "answers of a collector set none");
        s.moot("force_attempt_http2", "HTTP/2 is used whenever the far end offers it");
        s.moot("dialer", "`timeout` bounds an upload from the first packet on");
        s.moot("batcher", "the batch processor decides what one upload is");
        s.refuse("middlewares", "middlewares are not available in this build");
        OtlpHttpConfig {
            headers: s.headers("headers"),
            format: s.choice("encoding", Format::Proto, &[("proto", Format::Proto), ("json", Format::Json)]),
            compression,
            compression_level: compression_level(s, compression),
            timeout: s.duration_or_never("timeout", default.timeout),
            max_idle_conns_per_host: s.number("max_idle_conns_per_host", default.max_idle_conns_per_host, 0..=u32::MAX),
            max_conns_per_host: Some(s.number("max_conns_per_host", 0, 0..=u32::MAX)).filter(|n| *n > 0),
            idle_conn_timeout: s.duration_or_never("idle_conn_timeout", default.idle_conn_timeout),
            disable_keep_alives: s.flag("disable_keep_alives", false),
            http2_read_idle_timeout: s.duration_or_never("http2_read_idle_timeout", None),
            http2_ping_timeout: s.duration_above_zero("http2_ping_timeout", default.http2_ping_timeout),
            proxy_url: s.url_if_given("proxy_url"),
            source: SourceConfig::read(s),
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

    /// Each endpoint with its name, the preferred one first, as an exporter with that endpoint alone.
    #[must_use]
    pub fn each(&self) -> Vec<(String, OtlpHttpConfig)> {
        let alone = |url: &String| {
            let failover = FailoverConfig { endpoints: Vec::new(), ..self.failover.clone() };
            (name(url), OtlpHttpConfig { endpoint: Some(url.clone()), failover, ..self.clone() })
        };
        self.endpoint.iter().chain(&self.failover.endpoints).map(alone).collect()
    }

    fn check_failover(&self, s: &Section<'_>) {
        let others = &self.failover.endpoints;
        if others.is_empty() {
            return;
        }
        let own = [&self.traces_endpoint, &self.metrics_endpoint, &self.logs_endpoint];
        s.unless(own.iter().all(|url| url.is_none()), "failover", || {
            "stands beside the endpoint of a signal, which has no others; give endpoint alone".to_owned()
        });
        s.unless(self.endpoint.is_some() || s.fills("endpoint"), "failover", || {
            "has endpoints for when endpoint is away, and there is none".to_owned()
        });
        s.unless(!others.iter().any(|url| url.contains(['?', '#'])), "failover", || {
            "has an endpoint with a query, which would stand in front of /v1/…".to_owned()
        });
        let all: Vec<String> = self.each().into_iter().map(|(name, _)| name).collect();
        let twice = all.iter().enumerate().find(|(n, name)| all[..*n].contains(name));
        s.unless(twice.is_none(), "failover", || {
            format!("has the endpoint {} twice", twice.map_or("", |(_, name)| name))
        });
    }

    fn check_endpoints(&self, s: &Section<'_>) {
        const KEYS: [&str; 4] = ["endpoint", "traces_endpoint", "metrics_endpoint", "logs_endpoint"];
        self.check_failover(s);
        if !KEYS.iter().any(|key| s.fills(key)) {
            s.error_here(format!("at least one endpoint must be given: {}", KEYS.join(", ")));
        }
        if let Some(base) = &self.endpoint {
            s.unless(!base.contains(['?', '#']), "endpoint", || {
                "has a query, which would stand in front of /v1/…; give traces_endpoint, metrics_endpoint and logs_endpoint".to_owned()
            });
            let own = Signal::ALL.iter().find(|signal| base.trim_end_matches('/').ends_with(&format!("/v1/{signal}")));
            s.warn_unless(own.is_none(), "endpoint", || {
                let name = own.map_or("", |signal| signal.name());
                format!("is a base, to which /v1/{name} is added again; meant is probably {name}_endpoint")
            });
        }
        let all = [&self.endpoint, &self.traces_endpoint, &self.metrics_endpoint, &self.logs_endpoint];
        let is_https = |url: &String| url.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"));
        let any_https = all.into_iter().flatten().chain(&self.failover.endpoints).any(is_https);
        let any_url = all.into_iter().flatten().next().is_some();
        let misleading = self.tls.insecure && any_https && !self.tls.insecure_skip_verify;
        s.warn_unless(!misleading, "tls", || {
            "insecure has no effect over HTTP: https stays https and certificates are checked; meant is http://, or insecure_skip_verify".to_owned()
        });
        let unused = TlsClient { insecure: false, ..self.tls.clone() } != TlsClient::default();
        s.warn_unless(any_https || !any_url || !unused, "tls", || {
            "has no effect: no endpoint begins with https://".to_owned()
        });
    }
}

/// Reads `compression_params.level`; 0 and −1 are the default, as in the original.
fn compression_level(s: &Section<'_>, compression: Compression) -> Option<i32> {
    s.section("compression_params", |s| {
        let level = Some(s.number("level", 0, -1..=i32::MAX)).filter(|level| *level > 0)?;
        let highest = compression.highest_level();
        s.unless(highest.is_some_and(|highest| level <= highest), "level", || match highest {
            None => format!("{level} has no meaning: this compression has no levels"),
            Some(highest) => format!("{level} is not one of 1 to {highest}"),
        });
        Some(level)
    })
}

impl RetryConfig {
    /// Reads `retry_on_failure`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> RetryConfig {
        let default = RetryConfig::default();
        let enabled = s.flag("enabled", default.enabled);
        let initial_interval = s.duration_above_zero("initial_interval", default.initial_interval);
        let config = RetryConfig {
            enabled,
            initial_interval,
            randomization_factor: s.decimal("randomization_factor", default.randomization_factor, 0.0..=1.0),
            multiplier: s.decimal("multiplier", default.multiplier, 0.0..=1_000.0),
            max_interval: s.duration_above_zero("max_interval", default.max_interval),
            max_elapsed_time: s.duration_or_never("max_elapsed_time", default.max_elapsed_time),
            on_expiry: s.choice("on_expiry", OnExpiry::Park, &[("park", OnExpiry::Park), ("drop", OnExpiry::Drop)]),
            reconnect_spread: s.duration("reconnect_spread", initial_interval),
        };
        let RetryConfig { initial_interval: initial, max_interval: max, multiplier, .. } = config;
        s.warn_unless(max >= initial, "max_interval", || {
            format!("{max:?} is shorter than initial_interval ({initial:?}); every rest is {max:?}")
        });
        s.warn_unless(multiplier >= 1.0, "multiplier", || {
            format!("{multiplier} would make rests shorter; it counts as 1")
        });
        if let Some(window) = config.max_elapsed_time {
            let longest = initial.max(max);
            s.warn_unless(window >= longest, "max_elapsed_time", || {
                format!("{window:?} is shorter than one rest ({longest:?}); the window ends before a second try")
            });
        }
        config
    }
}

impl GapReportConfig {
    /// Reads `gap_report`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> GapReportConfig {
        let default = GapReportConfig::default();
        GapReportConfig {
            enabled: s.flag("enabled", default.enabled),
            interval: s.duration_above_zero("interval", default.interval),
        }
    }
}

impl QueueConfig {
    /// Reads `sending_queue`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> QueueConfig {
        let default = QueueConfig::default();
        let config = QueueConfig {
            enabled: s.flag("enabled", default.enabled),
            num_consumers: s.number("num_consumers", default.num_consumers, 1..=u32::MAX),
            queue_size: s.number("queue_size", default.queue_size, 1..=i64::MAX.unsigned_abs()),
            storage: s.id_if_given("storage"),
        };
        // With storage the operator has said in bytes what may be kept; in memory this key was meant to.
        let meant = config.storage.is_none() && config.enabled && config.queue_size != default.queue_size;
        s.warn_unless(!meant, "queue_size", || {
            "is not acted on: without storage the queue is bounded in bytes, a quarter of what memory_limiter allows"
                .to_owned()
        });
        s.warn_unless(config.enabled, "enabled", || {
            "false does not make clients wait for the far end here: they are answered when their data is in memory, and what waits there ends with the process".to_owned()
        });
        let unused = !config.enabled && config.storage.is_some();
        s.warn_unless(!unused, "storage", || "has no effect while the queue is not enabled".to_owned());
        s.moot("sizer", "with storage bytes count, without it uploads");
        s.moot_all(&["block_on_overflow", "blocking"], "a client is told to come back when the queue is full");
        s.moot("wait_for_result", "a client is answered when its data is on disk");
        s.moot("batch", "the batch processor decides what one upload is");
        config
    }
}

impl DebugConfig {
    /// Reads `exporters.logging` (`takes_loglevel`) or `exporters.debug`.
    #[must_use]
    pub fn read(s: &Section<'_>, takes_loglevel: bool) -> DebugConfig {
        let default = DebugConfig::default();
        let verbosities =
            [("basic", Verbosity::Basic), ("normal", Verbosity::Normal), ("detailed", Verbosity::Detailed)];
        let mut verbosity = s.choice("verbosity", default.verbosity, &verbosities);
        if takes_loglevel && s.fills("loglevel") {
            // The original's mapping: what used to be a level became an amount.
            let levels = [
                ("debug", Verbosity::Detailed),
                ("info", Verbosity::Normal),
                ("warn", Verbosity::Basic),
                ("error", Verbosity::Basic),
                ("dpanic", Verbosity::Basic),
                ("panic", Verbosity::Basic),
                ("fatal", Verbosity::Basic),
            ];
            verbosity = s.choice("loglevel", verbosity, &levels);
            let name = verbosities.iter().find(|(_, v)| *v == verbosity).map_or("", |(name, _)| *name);
            match s.fills("verbosity") {
                true => s.error("loglevel", "stands beside verbosity; give verbosity alone"),
                false => s.warn("loglevel", format!("is the old name; taken as verbosity: {name}")),
            }
        }
        let key = if takes_loglevel && s.fills("loglevel") { "loglevel" } else { "verbosity" };
        s.warn_unless(verbosity != Verbosity::Detailed, key, || {
            "detailed writes the same lines as normal: no payload goes into a log of this agent".to_owned()
        });
        s.moot("use_internal_logger", "lines go where service.telemetry.logs says");
        s.moot("output_paths", "lines go where service.telemetry.logs says");
        DebugConfig {
            verbosity,
            sampling_initial: s.number("sampling_initial", default.sampling_initial, 0..=u32::MAX),
            sampling_thereafter: s.number("sampling_thereafter", default.sampling_thereafter, 0..=u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, try_out};
    use crate::uplink::drain::DrainOrder;

    #[test]
    #[rustfmt::skip]
    fn the_old_loglevel_says_how_much_is_shown() {
        for (written, expected) in [
            ("debug", Verbosity::Detailed), ("info", Verbosity::Normal), ("WARN", Verbosity::Basic), ("error", Verbosity::Basic),
        ] {
            let (config, told) = try_out(&format!("loglevel: {written}"), &[], |s| DebugConfig::read(s, true));
            assert_eq!(config.verbosity, expected, "{written}");
            assert!(told.contains("warning: is the old name; taken as verbosity: "), "{told}");
        }
        assert_eq!(try_out("verbosity: detailed", &[], |s| DebugConfig::read(s, false)).0.verbosity, Verbosity::Detailed);
    }

    #[test]
    fn every_key_of_the_exporter_arrives() {
        let yaml = "{traces_endpoint: 'http://t', logs_endpoint: 'https://l/x', failover: {after: 1m, probe_interval: 2m}, compression: zlib, compression_params: {level: 9}, encoding: json, timeout: 0s, headers: {a: b}, \
                    max_idle_conns_per_host: 5, max_conns_per_host: 6, idle_conn_timeout: 0, disable_keep_alives: true, \
                    http2_read_idle_timeout: 10s, http2_ping_timeout: 2s, proxy_url: 'http://p:1', interface: wwan0, local_address: 10.0.0.2, tls: {insecure_skip_verify: true}, \
                    retry_on_failure: {enabled: false, initial_interval: 1s, randomization_factor: 0, multiplier: 2, \
                                       max_interval: 9s, max_elapsed_time: 0, on_expiry: drop, reconnect_spread: 1m}, \
                    sending_queue: {enabled: true, num_consumers: 3, queue_size: 4, storage: file_storage/x}, \
                    gap_report: {enabled: false, interval: 7s}, \
                    drain: {order: newest_first, metrics_order: live_first, backlog_share: 0.25, max_rate: 512KiB/s, priority: [metrics, logs]},
                    link_budget: {rate: 1MiB/s}}";
        let (config, told) = try_out(yaml, &[], OtlpHttpConfig::read);
        assert_eq!(told, "");
        let secs = Duration::from_secs;
        let expected = OtlpHttpConfig {
            endpoint: None,
            traces_endpoint: Some("http://t".to_owned()),
            metrics_endpoint: None,
            logs_endpoint: Some("https://l/x".to_owned()),
            failover: FailoverConfig { endpoints: Vec::new(), after: secs(60), probe_interval: secs(120) },
            headers: vec![("a".to_owned(), Secret::new("b"))],
            format: Format::Json,
            compression: Compression::Zlib,
            compression_level: Some(9),
            timeout: None,
            max_idle_conns_per_host: 5,
            max_conns_per_host: Some(6),
            idle_conn_timeout: None,
            disable_keep_alives: true,
            http2_read_idle_timeout: Some(secs(10)),
            http2_ping_timeout: secs(2),
            proxy_url: Some("http://p:1".to_owned()),
            source: SourceConfig {
                interface: Some("wwan0".to_owned()),
                local_address: Some(std::net::IpAddr::from([10, 0, 0, 2])),
            },
            tls: TlsClient { insecure_skip_verify: true, ..TlsClient::default() },
            auth: None,
            retry_on_failure: RetryConfig {
                enabled: false,
                initial_interval: secs(1),
                randomization_factor: 0.0,
                multiplier: 2.0,
                max_interval: secs(9),
                max_elapsed_time: None,
                on_expiry: OnExpiry::Drop,
                reconnect_spread: secs(60),
            },
            sending_queue: QueueConfig {
                enabled: true,
                num_consumers: 3,
                queue_size: 4,
                storage: Some(Id::parse("file_storage/x").expect("it is an id")),
            },
            gap_report: GapReportConfig { enabled: false, interval: secs(7) },
            drain: Drain {
                order: DrainOrder::NewestFirst,
                metrics_order: DrainOrder::LiveFirst,
                backlog_share: 0.25,
                max_rate: Some(512 << 10),
                priority: vec![Signal::Metrics, Signal::Logs],
            },
            link_budget: Some(LinkBudget { rate: Some(1 << 20), ..LinkBudget::default() }),
        };
        assert_eq!(config, expected);
    }

    #[test]
    #[rustfmt::skip]
    fn the_endpoints_of_failover_are_bases_and_no_two_are_one() {
        for (yaml, names, told) in [
            ("{endpoint: 'http://a', failover: {endpoints: ['http://u:s3cret@b:1/x/', 'https://c?']}}", &["a", "b:1/x", "c"][..], "has an endpoint with a query, which would stand in front of /v1/…"),
            ("{endpoint: 'http://a:1', failover: {endpoints: 'http://b'}}",          &["a:1", "b"], ""),
            ("{endpoint: 'http://a:1'}",                                             &["a:1"], ""),
            ("{endpoint: 'http://a:1', failover: {endpoints: ['https://a:1/']}}",    &["a:1", "a:1"], "has the endpoint a:1 twice"),
            ("{endpoint: 'http://a', failover: {endpoints: ['b:4318']}}",            &["a", "b:4318"], "`b:4318` has no scheme; it must begin with http:// or https://; did you mean `http://b:4318`?"),
            ("{logs_endpoint: 'http://a', failover: {endpoints: ['http://b']}}",     &["b"], "has endpoints for when endpoint is away, and there is none | stands beside the endpoint of a signal, which has no others; give endpoint alone"),
        ] {
            let (config, said) = try_out(yaml, &[], OtlpHttpConfig::read);
            let each = config.each();
            assert_eq!(each.iter().map(|(name, _)| name).collect::<Vec<_>>(), names, "{yaml}");
            assert!(each.iter().all(|(_, alone)| alone.each().len() == 1));
            assert_eq!(said, told, "{yaml}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_level_fits_its_compression() {
        for (yaml, level, told) in [
            ("{}",                                                            None,    ""),
            ("{compression_params: {level: 0}}",                              None,    ""),
            ("{compression_params: {level: -1}}",                             None,    ""),
            ("{compression_params: {level: 9}}",                              Some(9), ""),
            ("{compression_params: {level: 10}}",                             Some(10), "10 is not one of 1 to 9"),
            ("{compression: zstd, compression_params: {level: 11}}",          Some(11), ""),
            ("{compression: zstd, compression_params: {level: 12}}",          Some(12), "12 is not one of 1 to 11"),
            ("{compression: snappy, compression_params: {level: 1}}",         Some(1), "1 has no meaning: this compression has no levels"),
            ("{compression: lz4}",                                            None,    "warning: lz4 is not in this build; gzip is sent, which every OTLP server takes"),
        ] {
            let yaml = yaml.replacen('{', "{endpoint: 'http://c', ", 1);
            let (config, said) = try_out(&yaml, &[], OtlpHttpConfig::read);
            assert_eq!((config.compression_level, said.as_str()), (level, told), "{yaml}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_signal_goes_to_its_own_endpoint_or_below_the_base() {
        let config = |base: Option<&str>, logs: Option<&str>| OtlpHttpConfig {
            endpoint: base.map(str::to_owned),
            logs_endpoint: logs.map(str::to_owned),
            ..OtlpHttpConfig::default()
        };
        for (base, logs, expected) in [
            (Some("http://c:4318"),       None,              Some("http://c:4318/v1/logs")),
            (Some("http://c:4318/"),      None,              Some("http://c:4318/v1/logs")),
            (Some("http://c/otlp//"),     None,              Some("http://c/otlp//v1/logs")), // one slash is ours, no more
            (Some("http://c:4318"),       Some("http://l/"), Some("http://l/")), // verbatim
            (None,                        None,              None),
        ] {
            assert_eq!(config(base, logs).url(Signal::Logs).as_deref(), expected, "{base:?} {logs:?}");
        }
        assert_eq!(config(None, Some("http://l")).url(Signal::Traces), None);
    }
}
