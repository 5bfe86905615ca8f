//! What every HTTP server does before and after its own answer: cross-origin rules, credentials, response headers; in the
//! order of the original, where CORS stands before the credentials (a browser's preflight carries none).
//!
//! | request | answer |
//! |---|---|
//! | whose head is larger than `limits.max_header_list_size` | 431, and the connection is closed |
//! | preflight: `OPTIONS` with `Access-Control-Request-Method` | 204, with `Access-Control-Allow-*` if all of it is allowed |
//! | without credentials that are right | 401 `Unauthorized`, as text |
//! | with some that could not be checked now | 503, `Retry-After` |
//! | other | the server's own, with `Access-Control-Allow-Origin` if the origin is allowed |

use super::COME_BACK;
use super::guard::{Admission, Guard, Told};
use crate::config::{Cors, HttpServer};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse};

/// Taken without being named, when `allowed_headers` names none (rs/cors v1.10).
const HEADERS_ALLOWED: [&str; 4] = ["origin", "accept", "content-type", "x-requested-with"];
/// The original leaves rs/cors its defaults.
const METHODS_ALLOWED: [&str; 3] = ["GET", "POST", "HEAD"];

/// Before a server's own answer and after it.
#[derive(Debug)]
pub struct Doorstep {
    cors: Option<Cors>,
    guard: Option<Guard>,
    response_headers: Vec<(HeaderName, HeaderValue)>,
    head_max: usize,
}

impl Doorstep {
    /// As the section says; `guard` is its authenticator.
    #[must_use]
    pub fn new(server: &HttpServer, guard: Option<Guard>) -> Doorstep {
        // Names and values were checked when they were read.
        let header = |(name, value): &(String, crate::config::Secret)| {
            Some((HeaderName::try_from(name.as_str()).ok()?, HeaderValue::from_str(value.reveal()).ok()?))
        };
        let response_headers = server.response_headers.iter().filter_map(header).collect();
        let head_max = server.max_header_list_size as usize;
        Doorstep { cors: server.cors.clone(), guard, response_headers, head_max }
    }

    /// Lets a request in, or answers it.
    ///
    /// # Errors
    /// The answer of one that stays outside.
    pub async fn enter(&self, request: &HttpRequest) -> Result<Told, HttpResponse> {
        if list_size(request) > self.head_max {
            let mut answer = HttpResponse::build(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            answer.content_type("text/plain; charset=utf-8").force_close();
            return Err(answer.body("431 request header fields too large\n"));
        }
        if let Some(cors) = self.cors.as_ref().filter(|_| is_preflight(request)) {
            return Err(preflight(cors, request));
        }
        let Some(guard) = &self.guard else { return Ok(Told::new()) };
        let value = request.headers().get(&*guard.header).map(HeaderValue::as_bytes);
        match guard.admits(value).await {
            Admission::In(told) => Ok(told),
            Admission::Out => Err(HttpResponse::build(StatusCode::UNAUTHORIZED)
                .content_type("text/plain; charset=utf-8")
                .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                .insert_header((header::WWW_AUTHENTICATE, guard.scheme))
                .body("Unauthorized\n")),
            Admission::Busy => Err(HttpResponse::build(StatusCode::SERVICE_UNAVAILABLE)
                .content_type("text/plain; charset=utf-8")
                .insert_header((header::RETRY_AFTER, COME_BACK.as_secs()))
                .body("too many credentials are being checked\n")),
        }
    }

    /// Adds what every answer has.
    pub fn leave(&self, request: &HttpRequest, answer: &mut HttpResponse) {
        let headers = answer.headers_mut();
        if let Some(cors) = self.cors.as_ref().filter(|_| !is_preflight(request)) {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
            let origin = text(request, &header::ORIGIN);
            if METHODS_ALLOWED.contains(&request.method().as_str()) && allows_origin(cors, origin) {
                allow_origin(cors, origin, headers);
            }
        }
        for (name, value) in &self.response_headers {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// As HTTP/2 counts it (RFC 9113, 6.5.2): names, values, and 32 bytes for each; the target is one of them there.
fn list_size(request: &HttpRequest) -> usize {
    let size = |name: usize, value: usize| name + value + 32;
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter().map(|(name, value)| size(name.as_str().len(), value.len()));
    headers.sum::<usize>() + size(":path".len(), target)
}

fn is_preflight(request: &HttpRequest) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// A browser's question whether it may ask. One that may not gets no permission, and no error.
fn preflight(cors: &Cors, request: &HttpRequest) -> HttpResponse {
    let mut answer = HttpResponse::build(StatusCode::NO_CONTENT).finish();
    let headers = answer.headers_mut();
    for varies in ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"] {
        headers.append(header::VARY, HeaderValue::from_static(varies));
    }
    let (origin, wanted) = (text(request, &header::ORIGIN), text(request, &header::ACCESS_CONTROL_REQUEST_HEADERS));
    let method = text(request, &header::ACCESS_CONTROL_REQUEST_METHOD).to_ascii_uppercase();
    let wanted: Vec<_> = wanted.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let allowed = allows_origin(cors, origin)
        && METHODS_ALLOWED.contains(&method.as_str())
        && wanted.iter().all(|name| allows_header(cors, name));
    if allowed {
        allow_origin(cors, origin, headers);
        let mut insert = |name, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        };
        insert(header::ACCESS_CONTROL_ALLOW_METHODS, method);
        if !wanted.is_empty() {
            insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.join(", "));
        }
        if !cors.max_age.is_zero() {
            insert(header::ACCESS_CONTROL_MAX_AGE, cors.max_age.as_secs().to_string());
        }
    }
    answer
}

fn allow_origin(cors: &Cors, origin: &str, headers: &mut HeaderMap) {
    let all = cors.allowed_origins.iter().any(|allowed| allowed == "*");
    if let Ok(value) = HeaderValue::from_str(if all { "*" } else { origin }) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// `*` alone is everybody; one in the middle stands for anything, also nothing. Case does not matter.
fn allows_origin(cors: &Cors, origin: &str) -> bool {
    let origin = origin.to_ascii_lowercase();
    let allows = |allowed: &String| match allowed.to_ascii_lowercase().split_once('*') {
        None => allowed.eq_ignore_ascii_case(&origin),
        Some((before, after)) => {
            origin.len() >= before.len() + after.len() && origin.starts_with(before) && origin.ends_with(after)
        }
    };
    !origin.is_empty() && cors.allowed_origins.iter().any(allows)
}

fn allows_header(cors: &Cors, name: &str) -> bool {
    let named = |allowed: &String| allowed == "*" || allowed.eq_ignore_ascii_case(name);
    match cors.allowed_headers.as_slice() {
        [] => HEADERS_ALLOWED.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)),
        allowed => name.eq_ignore_ascii_case("origin") || allowed.iter().any(named),
    }
}

fn text<'a>(request: &'a HttpRequest, name: &HeaderName) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], headers: &[&str]) -> Cors {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        Cors { allowed_origins: texts(origins), allowed_headers: texts(headers), ..Cors::default() }
    }

    #[test]
    #[rustfmt::skip]
    fn origins_are_allowed_by_name_or_by_wildcard() {
        for (allowed, origin, expected) in [
            ("https://a.example",   "https://a.example",     true),
            ("https://a.example",   "HTTPS://A.example",     true),
            ("https://a.example",   "https://b.example",     false),
            ("https://a.example",   "https://a.example.com", false),
            ("https://*.example",   "https://x.y.example",   true),
            ("https://*.example",   "https://.example",      true),
            ("https://*.example",   "https://example",       false),
            ("https://*e",          "https://",              false),
            ("*",                   "null",                  true),
            ("*",                   "",                      false),
        ] {
            assert_eq!(allows_origin(&cors(&[allowed], &[]), origin), expected, "{allowed} {origin}");
        }
    }

    #[test]
    fn headers_are_allowed_by_name_and_a_few_without() {
        for (allowed, name, expected) in [
            (&[][..], "Content-Type", true),
            (&[], "x-api-key", false),
            (&["X-Api-Key"], "x-api-key", true),
            (&["X-Api-Key"], "origin", true),
            (&["X-Api-Key"], "content-type", false), // whoever names some names all
            (&["*"], "anything", true),
        ] {
            assert_eq!(allows_header(&cors(&["*"], allowed), name), expected, "{allowed:?} {name}");
        }
    }
}
