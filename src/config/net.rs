//! What every server and every client of HTTP writes: endpoints, headers, cross-origin rules.

use super::{Id, Listen, Secret, TlsServer};
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
    /// `read_header_timeout`, 1 min: how long a client may take to send the head of a request.
    pub read_header_timeout: Duration,
    /// `idle_timeout`, 1 min: how long a connection may rest between requests.
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
