//! `:8888`: the scrape, and Go's 404 for everything else.
//!
//! Plain functions and one `configure` for actix-web; who mounts them, on which server and port, is `app`'s affair
//! (one server for all ports, architecture §6).

use super::metrics::{CONTENT_TYPE, Metrics};
use actix_web::http::header::{CONTENT_TYPE as CONTENT_TYPE_HEADER, X_CONTENT_TYPE_OPTIONS};
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};

/// Where the metrics are, as in the original.
pub const PATH: &str = "/metrics";

/// Mounts the scrape: `/metrics` by any method, as Go's handler answers, and 404 elsewhere.
pub fn configure(cfg: &mut ServiceConfig, metrics: &Metrics) {
    let metrics = metrics.clone();
    cfg.default_service(web::to(move |request: HttpRequest| {
        let answer = respond(request.path(), &metrics);
        async move { answer }
    }));
}

/// The answer for a path.
#[must_use]
pub fn respond(path: &str, metrics: &Metrics) -> HttpResponse {
    if path != PATH {
        return not_found();
    }
    HttpResponse::Ok().insert_header((CONTENT_TYPE_HEADER, CONTENT_TYPE)).body(metrics.text())
}

/// What Go's `http.NotFound` answers, to the byte (reference `measured/http_responses_v0.88.0.txt`).
#[must_use]
pub fn not_found() -> HttpResponse {
    HttpResponse::NotFound()
        .insert_header((CONTENT_TYPE_HEADER, "text/plain; charset=utf-8"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body("404 page not found\n")
}
