//! `health_check`: is the agent available? Load balancers, kubelets and the seed's own scripts ask.
//!
//! ```text
//! Health (telemetry::health) ── look() ──▶ answer (core) ──▶ respond ──▶ actix-web
//! ```
//!
//! What always holds:
//! * On `path` the code, type and body are 0.88's, key for key; what we add (reasons) stands after its keys.
//! * The code says whether data is taken, nothing else: a dead link or a backlog degrades and stays 200. Who wants to know
//!   by a code whether data leaves, too, asks `/ready` with `check_collector_pipeline`.
//! * Asking costs a lock and a copy of the board; it waits for nobody, so it answers while the agent is in trouble.
//!
//! | file | what |
//! |---|---|
//! | `answer.rs` | core: path, state and time to status, type and body |
//! | `config.rs` | the section |
//! | `mod.rs` | shell: the handler |

pub mod answer;
pub mod config;

pub use answer::{Answer, HealthCheckSettings, Probe, ResponseBody};

use crate::telemetry::gotime::local_offset_s;
use crate::telemetry::health::Health;
use crate::telemetry::serve::not_found;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};

/// Mounts the answers for any method and path of this scope; which port it is on is `app`'s affair.
pub fn configure(cfg: &mut ServiceConfig, health: &Health, settings: &HealthCheckSettings) {
    let (health, settings) = (health.clone(), settings.clone());
    cfg.default_service(web::to(move |request: HttpRequest| {
        let answer = respond(request.path(), &health, &settings);
        async move { answer }
    }));
}

/// The answer for a path.
#[must_use]
pub fn respond(path: &str, health: &Health, settings: &HealthCheckSettings) -> HttpResponse {
    let Some(probe) = settings.probe(path) else { return not_found() };
    let (state, now) = health.look();
    let failing = settings.failures.map_or(Vec::new(), |(interval, threshold)| health.failing(interval, threshold));
    let Answer { status, content_type, body } = answer::answer(probe, settings, &state, &failing, now, local_offset_s);
    let mut response =
        HttpResponse::build(StatusCode::from_u16(status).expect("the core answers with 200 and 503 alone"));
    if let Some(content_type) = content_type {
        response.insert_header((CONTENT_TYPE, content_type));
    }
    response.body(body)
}
