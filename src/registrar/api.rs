//! A letter to the platform's own API (`mode: direct`): paths, bodies, and the client that carries them.
//!
//! ```text
//! POST <endpoint>/api/v1/agents/register           the metadata ─▶ 201 {"agent_id"}
//! POST <endpoint>/api/v1/agents/<id>/heartbeat     how it is ────▶ 200 {"drain_rate", "config_revision", "message"}
//! ```

use super::answer::{Answer, Heard};
use super::letter::{Letter, VERSION, time};
use super::line::Line;
use super::standing::Call;
use crate::base::Clock;
use crate::uplink::client::ClientError;
use crate::uplink::link::Trouble;
use crate::uplink::otlp_http::OtlpHttp;
use crate::uplink::verdict::Verdict;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// Makes a client by the exporter's settings and the files they name, as these are now.
pub type MakeClient = Arc<dyn Fn() -> Result<OtlpHttp, ClientError> + Send + Sync>;

/// The way to the API. A client that was not answered is not used again: its connections may lead nowhere.
pub struct Api {
    make: MakeClient,
    client: Arc<Mutex<Option<OtlpHttp>>>,
    clock: Clock,
}

impl Api {
    /// By these clients.
    #[must_use]
    pub fn new(make: MakeClient, clock: Clock) -> Api {
        Api { make, client: Arc::default(), clock }
    }

    fn client(&self) -> Result<OtlpHttp, ClientError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match &*client {
            Some(client) => Ok(client.clone()),
            None => Ok(client.insert((self.make)()?).clone()),
        }
    }
}

impl Line for Api {
    fn say(&self, letter: &Letter) -> BoxFuture<'static, Answer> {
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => return std::future::ready(Answer::of(Heard::Held, error.to_string())).boxed(),
        };
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let asked = client.ask(&path(letter), headers, body(letter).to_string().into());
        let (kept, clock) = (self.client.clone(), self.clock.clone());
        async move {
            match asked.await {
                Ok(answer) => Answer::of_api(&answer, clock.now().wall_ns),
                Err(verdict) => {
                    if matches!(verdict, Verdict::Silence { trouble: Trouble::NoAnswer, .. }) {
                        kept.lock().unwrap_or_else(PoisonError::into_inner).take();
                    }
                    Answer::of_export(&verdict)
                }
            }
        }
        .boxed()
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// Below the endpoint.
#[must_use]
pub fn path(letter: &Letter) -> String {
    match letter.call {
        Call::Register(_) => "/api/v1/agents/register".to_owned(),
        // An id is made of what a path takes ([`is_id`](super::answer::is_id)).
        Call::Heartbeat => format!("/api/v1/agents/{}/heartbeat", letter.agent_id),
    }
}

/// What is said.
#[must_use]
pub fn body(letter: &Letter) -> Value {
    match letter.call {
        Call::Register(why) => {
            let mut body = metadata(letter);
            body["reason"] = why.name().into();
            if let Some(former) = &letter.copied_from {
                body["copied_from"] = former.as_str().into();
            }
            body
        }
        Call::Heartbeat => json!({
            "agent_id": letter.agent_id,
            "version": VERSION,
            "hostname": letter.place.hostname,
            "ip_address": letter.place.ip_address,
            "last_seen_at": time(letter.now_ns),
            "metrics": numbers(letter),
        }),
    }
}

/// The metadata of the seed.
fn metadata(letter: &Letter) -> Value {
    let attributes: Map<String, Value> =
        letter.resource_attributes().into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    json!({
        "agent_id": letter.agent_id,
        "version": VERSION,
        "hostname": letter.place.hostname,
        "ip_address": letter.place.ip_address,
        "workspace_id": letter.profile.workspace_id,
        "tenant_id": letter.profile.tenant_id,
        "capabilities": letter.profile.capabilities,
        "resource_attributes": attributes,
        "registered_at": time(letter.registered_ns),
        "last_seen_at": time(letter.now_ns),
    })
}

fn numbers(letter: &Letter) -> Value {
    let vitals = &letter.vitals;
    let links: Map<String, Value> = vitals.links.iter().map(|(id, up)| (id.clone(), (*up).into())).collect();
    let lost: Map<String, Value> =
        vitals.lost.iter().map(|(reason, items)| (reason.clone(), (*items).into())).collect();
    let left: Map<String, Value> = vitals
        .link_left
        .iter()
        .map(|(exporter, period, bytes)| (format!("{exporter} {period}"), (*bytes).into()))
        .collect();
    json!({
        "uptime_seconds": letter.uptime.as_secs(),
        "backlog_items": vitals.backlog_items,
        "backlog_bytes": vitals.backlog_bytes,
        "oldest_seconds": vitals.oldest_s,
        "seconds_to_full": vitals.time_to_full_s,
        "link_budget": vitals.link_budget,
        "link_left_bytes": left,
        "links": links,
        "restarts": vitals.restarts,
        "lost": lost,
    })
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests::example;
    use super::super::standing::Why;
    use super::*;

    /// The seed, "Agent Metadata", with our version.
    #[test]
    fn a_registration_is_the_metadata_of_the_seed() {
        let letter = example(Call::Register(Why::Start));
        let wanted = json!({
            "agent_id": "tfo-agent-prod-node-01",
            "version": VERSION,
            "hostname": "prod-node-01",
            "ip_address": "10.0.1.15",
            "workspace_id": "550e8400-e29b-41d4-a716-446655440000",
            "tenant_id": "660e8400-e29b-41d4-a716-446655440001",
            "capabilities": ["otlp_grpc", "otlp_http", "prometheus_scrape"],
            "resource_attributes": {
                "os.type": "linux",
                "os.description": "Ubuntu 22.04",
                "host.arch": crate::uplink::client::arch(),
                "service.name": "tfo-otel-agent",
                "service.version": VERSION,
            },
            "registered_at": "2025-12-13T10:00:00Z",
            "last_seen_at": "2025-12-13T10:01:00Z",
            "reason": "start",
        });
        assert_eq!((path(&letter), body(&letter)), ("/api/v1/agents/register".to_owned(), wanted));
        let copy = Letter { copied_from: Some("former".to_owned()), ..letter };
        assert_eq!(body(&copy)["copied_from"], "former");
    }

    /// As `docs/registration.md` shows it.
    #[test]
    fn a_heartbeat_says_where_and_how_the_agent_is() {
        let letter = example(Call::Heartbeat);
        let wanted = json!({
            "agent_id": "tfo-agent-prod-node-01",
            "version": VERSION,
            "hostname": "prod-node-01",
            "ip_address": "10.0.1.15",
            "last_seen_at": "2025-12-13T10:01:00Z",
            "metrics": {
                "uptime_seconds": 160,
                "backlog_items": 1_200,
                "backlog_bytes": 4_096,
                "oldest_seconds": 61.5,
                "seconds_to_full": 86_400.0,
                "link_budget": null,
                "link_left_bytes": {"otlphttp day": 4_000_000},
                "links": {"otlphttp": true},
                "restarts": 2,
                "lost": {"evicted": 7},
            },
        });
        let at = "/api/v1/agents/tfo-agent-prod-node-01/heartbeat".to_owned();
        assert_eq!((path(&letter), body(&letter)), (at, wanted));
    }
}
