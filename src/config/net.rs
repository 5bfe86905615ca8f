//! What every server and every client of HTTP writes: endpoints, headers, cross-origin rules.

use super::{Id, Listen, Secret, Section, TlsServer};
use crate::base::Bytes;
use std::time::Duration;

/// Header names as written with their values, in order.
pub type Headers = Vec<(String, Secret)>;

/// The largest request body a server takes when nothing is said: 20 MiB, counted after inflation.
///
/// 0.88 has no limit, which a machine of 256 MB cannot offer; 20 MiB is what otelcol has since 0.102.
pub const BODY_MAX: Bytes = Bytes::mib(20);

/// A server of HTTP (confighttp, reference §2.2).
#[derive(Debug, Clone, PartialEq)]
pub struct HttpServer {
    /// `endpoint`.
    pub endpoint: Listen,
    /// `tls`; None: plain text.
    pub tls: Option<TlsServer>,
    /// `cors`; None: cross-origin requests get no headers, `OPTIONS` is refused.
    pub cors: Option<Cors>,
    /// `auth.authenticator`: an extension that asks clients for their credentials.
    pub auth: Option<Id>,
    /// `max_request_body_size`, bytes after inflation; 0 in the file means [`BODY_MAX`] too.
    pub max_request_body_size: Bytes,
    /// `include_metadata`: hand request headers to processors and batches.
    pub include_metadata: bool,
    /// `response_headers`: added to every answer.
    pub response_headers: Headers,
    /// `read_header_timeout`, 1 min: how long a client may take to send the head of a request; 0: for ever.
    pub read_header_timeout: Duration,
    /// `idle_timeout`, 1 min: how long a connection may rest between requests; 0: for ever.
    pub idle_timeout: Duration,
    /// `limits`, ours.
    pub limits: Limits,
    /// `limits.max_header_list_size`, 16 KiB as HTTP/2 counts them (each header and 32 bytes): a head that is larger is
    /// answered with 431 and the connection closed, as over gRPC. Whatever it says, a head has at most 128 KiB and 96
    /// headers.
    pub max_header_list_size: u32,
}

/// The most a head of HTTP/1.1 may ever have, as it is sent: 128 KiB. It is actix-http's buffer, which nobody can set
/// (3.20, `h1/decoder.rs`); its table of 96 headers stands beside it.
const HEAD_MAX: u32 = 128 << 10;
/// What hyper grants a head over gRPC.
const HEADER_LIST_MAX: u32 = 16 << 10;

impl HttpServer {
    /// A server with the defaults, at this place.
    #[must_use]
    pub fn at(endpoint: Listen) -> HttpServer {
        HttpServer {
            endpoint,
            tls: None,
            cors: None,
            auth: None,
            max_request_body_size: BODY_MAX,
            include_metadata: false,
            response_headers: Headers::new(),
            read_header_timeout: Duration::from_secs(60), // otelcol since 0.138
            idle_timeout: Duration::from_secs(60),
            limits: Limits::default(),
            max_header_list_size: HEADER_LIST_MAX,
        }
    }
}

/// `limits` of a server, ours: what one client may take of it, and all of them together. The original has none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `max_connections`, 1,024: what comes after is closed at once. More devices than one gateway has, and few
    /// enough for its file descriptors.
    pub max_connections: u32,
    /// `handshake_timeout`, 10 s: for TLS, and over gRPC for the first frame.
    pub handshake_timeout: Duration,
    /// `write_timeout`, 30 s: a client that reads nothing of its answers for so long is closed; 0: never.
    pub write_timeout: Duration,
    /// `body_idle_timeout`, 30 s: no byte of a body or message for so long, and the request is refused.
    pub body_idle_timeout: Duration,
    /// `body_timeout`, 10 min: a whole body must be there then. 20 MiB at 280 kbit/s.
    pub body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 1_024,
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            body_idle_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(600),
        }
    }
}

impl Limits {
    /// Reads the keys both kinds of server have; those of gRPC may stand beside them.
    #[must_use]
    pub fn read(s: &Section<'_>) -> Limits {
        let default = Limits::default();
        Limits {
            max_connections: s.number("max_connections", default.max_connections, 1..=1_000_000),
            handshake_timeout: s.duration_above_zero("handshake_timeout", default.handshake_timeout),
            write_timeout: s.duration("write_timeout", default.write_timeout),
            body_idle_timeout: s.duration_above_zero("body_idle_timeout", default.body_idle_timeout),
            body_timeout: s.duration_above_zero("body_timeout", default.body_timeout),
        }
    }
}

/// `cors` of a server.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cors {
    /// `allowed_origins`, with `*` as wildcard.
    pub allowed_origins: Vec<String>,
    /// `allowed_headers`, beside the simple ones.
    pub allowed_headers: Vec<String>,
    /// `max_age`: how long a browser may remember the answer, seconds; 0: the browser's default.
    pub max_age: Duration,
}

impl HttpServer {
    /// Reads the keys every HTTP server has; the component's own keys may stand beside them.
    #[must_use]
    pub fn read(s: &Section<'_>, endpoint: Listen) -> HttpServer {
        let default = HttpServer::at(endpoint);
        let (limits, max_header_list_size) = s.section("limits", |s| {
            let size = s.number("max_header_list_size", default.max_header_list_size, 1_024..=HEAD_MAX);
            (Limits::read(s), size)
        });
        let body_max = s.number("max_request_body_size", 0, 0..=i64::MAX.unsigned_abs());
        let server = HttpServer {
            endpoint: s.listen("endpoint", default.endpoint),
            tls: s.section("tls", TlsServer::read),
            cors: s.section("cors", Cors::read),
            auth: authenticator(s),
            max_request_body_size: if body_max == 0 { BODY_MAX } else { Bytes(body_max) },
            include_metadata: s.flag("include_metadata", false),
            response_headers: s.headers("response_headers"),
            read_header_timeout: s.duration("read_header_timeout", default.read_header_timeout),
            idle_timeout: s.duration("idle_timeout", default.idle_timeout),
            limits,
            max_header_list_size,
        };
        s.moot("read_timeout", "limits.body_idle_timeout and limits.body_timeout bound the body of a request");
        s.moot("write_timeout", "limits.write_timeout bounds how long a client may not read its answer");
        s.moot("compression_algorithms", "gzip, zlib, deflate, zstd and snappy are taken, anything else is refused");
        s.moot("dialer", "a server dials nobody");
        s.moot("keep_alives_enabled", "connections are kept for the next request");
        s.refuse("middlewares", "middlewares are not available in this build");
        server
    }
}

impl Cors {
    /// Reads the block; `None` when it allows nobody.
    fn read(s: &Section<'_>) -> Option<Cors> {
        let cors = Cors {
            allowed_origins: s.texts("allowed_origins", &[]),
            allowed_headers: s.texts("allowed_headers", &[]),
            max_age: Duration::from_secs(s.number("max_age", 0, 0..=u32::MAX).into()),
        };
        s.moot("exposed_headers", "no answer has headers a browser would have to be shown");
        (!cors.allowed_origins.is_empty()).then_some(cors)
    }
}

/// `auth.authenticator`; that there is such an extension is checked when all of them are read.
#[must_use]
pub fn authenticator(s: &Section<'_>) -> Option<Id> {
    s.section("auth", |s| {
        s.moot("request_params", "credentials are looked for in headers");
        s.id_if_given("authenticator")
    })
}
