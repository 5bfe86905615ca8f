//! `receivers.otlp`: which of the two protocols listen, and where (reference §2.2).

use crate::base::Bytes;
use crate::config::{HttpServer, Id, Listen, TlsServer};
use std::time::Duration;

/// Only the protocols that stand in the file are served; `grpc:` alone means no HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpReceiverConfig {
    /// `protocols.grpc`.
    pub grpc: Option<GrpcConfig>,
    /// `protocols.http`.
    pub http: Option<HttpConfig>,
}

/// `protocols.grpc`.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcConfig {
    /// `endpoint`, `0.0.0.0:4317`.
    pub endpoint: Listen,
    /// `tls`; None: plain text.
    pub tls: Option<TlsServer>,
    /// `max_recv_msg_size_mib`, 4 MiB of the inflated message; 0 in the file means that too.
    pub max_recv_msg_size: Bytes,
    /// `max_concurrent_streams` of one connection; None (0 in the file): no limit of its own.
    pub max_concurrent_streams: Option<u32>,
    /// `read_buffer_size`, 512 KiB. A hint to grpc-go; parsed, not acted on.
    pub read_buffer_size: Bytes,
    /// `write_buffer_size`, 32 KiB. A hint to grpc-go; parsed, not acted on.
    pub write_buffer_size: Bytes,
    /// `keepalive.server_parameters`.
    pub keepalive: Keepalive,
    /// `keepalive.enforcement_policy`. Parsed, not acted on yet.
    pub enforcement: Enforcement,
    /// `auth.authenticator`. Parsed, not acted on yet.
    pub auth: Option<Id>,
    /// `include_metadata`: hand request metadata to processors and batches. Parsed, not acted on yet.
    pub include_metadata: bool,
}

/// `keepalive.server_parameters`: when a quiet connection is asked, and when it is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepalive {
    /// `max_connection_idle`; None (0): for ever.
    pub max_connection_idle: Option<Duration>,
    /// `max_connection_age`; None (0): for ever.
    pub max_connection_age: Option<Duration>,
    /// `max_connection_age_grace`: how long requests of an aged connection may still run; None (0): for ever.
    pub max_connection_age_grace: Option<Duration>,
    /// `time`, 2 h: after so much silence the client is pinged.
    pub time: Duration,
    /// `timeout`, 20 s: a ping unanswered for so long closes the connection.
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        Keepalive {
            max_connection_idle: None,
            max_connection_age: None,
            max_connection_age_grace: None,
            time: Duration::from_secs(7_200),
            timeout: Duration::from_secs(20),
        }
    }
}

/// `keepalive.enforcement_policy`: how often a client may ping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforcement {
    /// `min_time`, 5 min: a client that pings oftener is sent away.
    pub min_time: Duration,
    /// `permit_without_stream`: pings are allowed while no request runs.
    pub permit_without_stream: bool,
}

impl Default for Enforcement {
    fn default() -> Enforcement {
        Enforcement { min_time: Duration::from_secs(300), permit_without_stream: false }
    }
}

impl Default for GrpcConfig {
    fn default() -> GrpcConfig {
        GrpcConfig {
            endpoint: Listen::new("0.0.0.0", 4317),
            tls: None,
            max_recv_msg_size: Bytes::mib(4),
            max_concurrent_streams: None,
            read_buffer_size: Bytes(512 << 10),
            write_buffer_size: Bytes(32 << 10),
            keepalive: Keepalive::default(),
            enforcement: Enforcement::default(),
            auth: None,
            include_metadata: false,
        }
    }
}

/// `protocols.http`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpConfig {
    /// What every HTTP server has; `endpoint` is `0.0.0.0:4318`.
    pub server: HttpServer,
    /// `traces_url_path`, `/v1/traces`; begins with a slash.
    pub traces_url_path: String,
    /// `metrics_url_path`, `/v1/metrics`.
    pub metrics_url_path: String,
    /// `logs_url_path`, `/v1/logs`.
    pub logs_url_path: String,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig {
            server: HttpServer::at(Listen::new("0.0.0.0", 4318)),
            traces_url_path: "/v1/traces".to_owned(),
            metrics_url_path: "/v1/metrics".to_owned(),
            logs_url_path: "/v1/logs".to_owned(),
        }
    }
}
