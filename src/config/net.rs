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
    /// `cors`; None: cross-origin requests get no headers, `OPTIONS` is refused. Parsed, not acted on yet.
    pub cors: Option<Cors>,
    /// `auth.authenticator`: an extension that checks requests. Parsed, not acted on yet.
    pub auth: Option<Id>,
    /// `max_request_body_size`, bytes after inflation; 0 in the file means [`BODY_MAX`] too.
    pub max_request_body_size: Bytes,
    /// `include_metadata`: hand request headers to processors and batches. Parsed, not acted on yet.
    pub include_metadata: bool,
    /// `response_headers`: added to every answer. Parsed, not acted on yet.
    pub response_headers: Headers,
    /// `read_header_timeout`, 1 min: how long a client may take to send the head of a request; 0: for ever. One server
    /// serves all ports, so the longest of them counts.
    pub read_header_timeout: Duration,
    /// `idle_timeout`, 1 min: how long a connection may rest between requests; 0: for ever. As above.
    pub idle_timeout: Duration,
}

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
        };
        s.not_available("tls", server.tls.is_none());
        s.not_acted_on("cors", server.cors.is_none());
        s.not_acted_on("include_metadata", !server.include_metadata);
        s.not_acted_on("response_headers", server.response_headers.is_empty());
        s.moot_all(&["read_timeout", "write_timeout"], "a request is bounded by its size and by idle_timeout");
        s.moot("compression_algorithms", "gzip, zlib, deflate and zstd are taken, anything else is refused");
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

/// `auth.authenticator`. To serve or send without the check somebody asked for would be wrong, so it is an error.
#[must_use]
pub fn authenticator(s: &Section<'_>) -> Option<Id> {
    let id = s.section("auth", |s| s.id_if_given("authenticator"));
    s.not_available("auth", id.is_none());
    id
}
