//! `exporters.otlphttp` (also `otlp_http`), `exporters.logging` and `exporters.debug` (reference §2.9–2.12).

use crate::base::backoff::Curve;
use crate::config::{Headers, Id, TlsClient};
use crate::otlp::Signal;
use std::time::Duration;

/// OTLP over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpHttpConfig {
    /// `endpoint`: the base URL, without a slash at its end; `/v1/<signal>` is added.
    pub endpoint: Option<String>,
    /// `traces_endpoint`: used verbatim.
    pub traces_endpoint: Option<String>,
    /// `metrics_endpoint`: used verbatim.
    pub metrics_endpoint: Option<String>,
    /// `logs_endpoint`: used verbatim.
    pub logs_endpoint: Option<String>,
    /// `headers`: sent with every request, over our own.
    pub headers: Headers,
    /// `compression`, gzip.
    pub compression: Compression,
    /// `timeout`, 30 s: for a whole request, its answer included. None (0 in the file): no end.
    pub timeout: Option<Duration>,
    /// `max_idle_conns_per_host`, 2: connections kept open for the next upload.
    pub max_idle_conns_per_host: u32,
    /// `max_conns_per_host`; None (0): as many as `num_consumers`. Parsed, not acted on.
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
    /// `tls`.
    pub tls: TlsClient,
    /// `retry_on_failure`.
    pub retry_on_failure: RetryConfig,
    /// `sending_queue`.
    pub sending_queue: QueueConfig,
}

impl Default for OtlpHttpConfig {
    fn default() -> OtlpHttpConfig {
        OtlpHttpConfig {
            endpoint: None,
            traces_endpoint: None,
            metrics_endpoint: None,
            logs_endpoint: None,
            headers: Headers::new(),
            compression: Compression::Gzip,
            timeout: Some(Duration::from_secs(30)),
            max_idle_conns_per_host: 2, // Go's default, which 0.88 leaves alone
            max_conns_per_host: None,
            idle_conn_timeout: Some(Duration::from_secs(90)),
            disable_keep_alives: false,
            http2_read_idle_timeout: None,
            http2_ping_timeout: Duration::from_secs(15),
            proxy_url: None,
            tls: TlsClient::default(),
            retry_on_failure: RetryConfig::default(),
            sending_queue: QueueConfig::default(),
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
        let base = || self.endpoint.as_ref().map(|base| format!("{}/v1/{signal}", base.trim_end_matches('/')));
        own.clone().or_else(base)
    }
}

/// `compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `none` or an empty text.
    None,
    /// `gzip`.
    Gzip,
}

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
        }
    }
}

/// `sending_queue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// `enabled`, true. When false the client's request waits for the far end's answer.
    pub enabled: bool,
    /// `num_consumers`, 10: uploads on the way at one time.
    pub num_consumers: u32,
    /// `queue_size`, 1,000 uploads in memory. With storage bytes count instead: `max_size_mib` of the storage.
    pub queue_size: u64,
    /// `storage`: the `file_storage` extension that keeps the queue. None: memory, gone with the process.
    pub storage: Option<Id>,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig { enabled: true, num_consumers: 10, queue_size: 1_000, storage: None }
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
    /// The data itself, too.
    Detailed,
}
