//! `receivers.otlp`: which of the two protocols listen, and where (reference §2.2).

use crate::base::Bytes;
use crate::config::{HttpServer, Id, Limits, Listen, Section, TlsServer};
use std::time::Duration;

/// Largest message one may ask for: what a length of 31 bits, which grpc-go has, can say.
const MESSAGE_MAX_MIB: u64 = 2_047;

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
    /// `keepalive.enforcement_policy`.
    pub enforcement: Enforcement,
    /// `auth.authenticator`: an extension that asks clients for their credentials.
    pub auth: Option<Id>,
    /// `include_metadata`: hand request metadata to processors and batches.
    pub include_metadata: bool,
    /// `limits`, ours.
    pub limits: GrpcLimits,
}

/// `limits` of gRPC: those of HTTP/2 beside those every server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcLimits {
    /// What every server has.
    pub common: Limits,
    /// `header_timeout`, 1 min: how long a client may take for the head of a request.
    pub header_timeout: Duration,
    /// `max_header_list_size`, 16 KiB as HTTP/2 counts them: a head that is larger is answered with 431.
    pub max_header_list_size: u32,
    /// `max_resets`, 256 in 10 s: requests that are begun and taken back; a client with more is sent away. Twice the
    /// streams of a connection: all of them may time out at once.
    pub max_resets: u32,
    /// `max_control_frames`, 1,000 in 10 s, and 4 for every answer: frames that carry nothing. As above.
    pub max_control_frames: u32,
}

impl Default for GrpcLimits {
    fn default() -> GrpcLimits {
        GrpcLimits {
            common: Limits::default(),
            header_timeout: Duration::from_secs(60), // as over HTTP
            max_header_list_size: 16 << 10,          // hyper's
            max_resets: 256,
            max_control_frames: 1_000,
        }
    }
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
            limits: GrpcLimits::default(),
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

impl OtlpReceiverConfig {
    /// Reads `receivers.otlp`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> OtlpReceiverConfig {
        let config = s.section("protocols", |s| OtlpReceiverConfig {
            grpc: s.section_if_there("grpc", GrpcConfig::read),
            http: s.section_if_there("http", HttpConfig::read),
        });
        if config.grpc.is_none() && config.http.is_none() {
            s.error("protocols", "names neither grpc nor http; nothing would listen");
        }
        config
    }
}

impl GrpcConfig {
    fn read(s: &Section<'_>) -> GrpcConfig {
        let default = GrpcConfig::default();
        let size_mib = s.number("max_recv_msg_size_mib", 0, 0..=MESSAGE_MAX_MIB);
        let (keepalive, enforcement) = s.section("keepalive", |s| {
            (s.section("server_parameters", Keepalive::read), s.section("enforcement_policy", Enforcement::read))
        });
        let streams = s.number("max_concurrent_streams", 0, 0..=u32::MAX);
        let config = GrpcConfig {
            endpoint: s.listen("endpoint", default.endpoint),
            tls: s.section("tls", TlsServer::read),
            max_recv_msg_size: if size_mib == 0 { default.max_recv_msg_size } else { Bytes::mib(size_mib) },
            max_concurrent_streams: (streams > 0).then_some(streams),
            read_buffer_size: Bytes(s.number("read_buffer_size", default.read_buffer_size.0, 0..=u32::MAX.into())),
            write_buffer_size: Bytes(s.number("write_buffer_size", default.write_buffer_size.0, 0..=u32::MAX.into())),
            keepalive,
            enforcement,
            auth: crate::config::authenticator(s),
            include_metadata: s.flag("include_metadata", false),
            limits: s.section("limits", GrpcLimits::read),
        };
        s.only("transport", &["tcp"]);
        s.moot("dialer", "a server dials nobody");
        s.refuse("middlewares", "middlewares are not available in this build");
        config
    }
}

impl Keepalive {
    fn read(s: &Section<'_>) -> Keepalive {
        let default = Keepalive::default();
        Keepalive {
            max_connection_idle: s.duration_or_never("max_connection_idle", None),
            max_connection_age: s.duration_or_never("max_connection_age", None),
            max_connection_age_grace: s.duration_or_never("max_connection_age_grace", None),
            time: s.duration_above_zero("time", default.time),
            timeout: s.duration_above_zero("timeout", default.timeout),
        }
    }
}

impl GrpcLimits {
    fn read(s: &Section<'_>) -> GrpcLimits {
        let default = GrpcLimits::default();
        GrpcLimits {
            common: Limits::read(s),
            header_timeout: s.duration_above_zero("header_timeout", default.header_timeout),
            max_header_list_size: s.number("max_header_list_size", default.max_header_list_size, 1_024..=16 << 20),
            max_resets: s.number("max_resets", default.max_resets, 1..=u32::MAX),
            max_control_frames: s.number("max_control_frames", default.max_control_frames, 1..=u32::MAX),
        }
    }
}

impl Enforcement {
    fn read(s: &Section<'_>) -> Enforcement {
        let default = Enforcement::default();
        Enforcement {
            min_time: s.duration("min_time", default.min_time),
            permit_without_stream: s.flag("permit_without_stream", false),
        }
    }
}

impl HttpConfig {
    fn read(s: &Section<'_>) -> HttpConfig {
        let default = HttpConfig::default();
        let config = HttpConfig {
            server: HttpServer::read(s, default.server.endpoint),
            traces_url_path: url_path(s, "traces_url_path", &default.traces_url_path),
            metrics_url_path: url_path(s, "metrics_url_path", &default.metrics_url_path),
            logs_url_path: url_path(s, "logs_url_path", &default.logs_url_path),
        };
        let taken = config.metrics_url_path == config.traces_url_path;
        s.unless(!taken, "metrics_url_path", || "is the path of traces too; one of them would never arrive".to_owned());
        let taken = [&config.traces_url_path, &config.metrics_url_path].contains(&&config.logs_url_path);
        s.unless(!taken, "logs_url_path", || {
            "is the path of another signal too; one of them would never arrive".to_owned()
        });
        s.only("transport", &["tcp"]);
        s.moot("profiles_url_path", "profiles are not a signal of this build");
        config
    }
}

/// As the original: a leading slash is added, a query dropped.
fn url_path(s: &Section<'_>, key: &'static str, default: &str) -> String {
    let path = s.text(key, default);
    let path = path.split('?').next().unwrap_or_default();
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BODY_MAX, try_out};

    fn read(yaml: &str) -> OtlpReceiverConfig {
        let (config, told) = try_out(yaml, &[], OtlpReceiverConfig::read);
        assert_eq!(told, "", "{yaml}");
        config
    }

    #[test]
    fn only_what_stands_in_the_file_listens_and_zero_means_the_default() {
        let config = read("protocols: {grpc: , http: }");
        assert_eq!((config.grpc, config.http), (Some(GrpcConfig::default()), Some(HttpConfig::default())));
        assert_eq!(read("protocols: {grpc: }").http, None);
        let config = read("protocols: {grpc: {max_recv_msg_size_mib: 0}, http: {max_request_body_size: 0}}");
        assert_eq!(config.grpc.map(|grpc| grpc.max_recv_msg_size), Some(Bytes::mib(4)));
        assert_eq!(config.http.map(|http| http.server.max_request_body_size), Some(BODY_MAX));
        let config = read(
            "protocols: {grpc: {max_recv_msg_size_mib: 16, max_concurrent_streams: 8, \
                           keepalive: {server_parameters: {time: 1m, max_connection_age: 1h}}}}",
        );
        let grpc = config.grpc.expect("it stands there");
        assert_eq!((grpc.max_recv_msg_size, grpc.max_concurrent_streams), (Bytes::mib(16), Some(8)));
        assert_eq!((grpc.keepalive.time, grpc.keepalive.max_connection_idle), (Duration::from_secs(60), None));
        assert_eq!(grpc.keepalive.max_connection_age, Some(Duration::from_secs(3_600)));
    }

    #[test]
    fn limits_have_names_and_bounds() {
        let yaml = "protocols: {grpc: {limits: {max_connections: 8, body_idle_timeout: 1s, max_resets: 2}}}";
        let limits = read(yaml).grpc.expect("it stands there").limits;
        let common =
            Limits { max_connections: 8, body_idle_timeout: Duration::from_secs(1), ..GrpcLimits::default().common };
        assert_eq!(limits, GrpcLimits { common, max_resets: 2, ..GrpcLimits::default() });
        let yaml = "protocols: {http: {limits: {max_connections: 0}}, grpc: {limits: {max_header_list_size: 1}}}";
        let (_, told) = try_out(yaml, &[], OtlpReceiverConfig::read);
        assert_eq!(told.matches(" | ").count(), 1, "{told}");
    }

    #[test]
    fn a_path_gets_its_slash_and_loses_its_query() {
        let http =
            read("protocols: {http: {traces_url_path: 't', logs_url_path: '/l?a=b'}}").http.expect("it stands there");
        let paths = [&http.traces_url_path, &http.metrics_url_path, &http.logs_url_path];
        assert_eq!(paths, ["/t", "/v1/metrics", "/l"]);
    }
}
