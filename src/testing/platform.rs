//! The platform, as far as agents see it: its API, what its collector makes of an export, and the table of agents, with faults
//! on command (`docs/registration.md` is the protocol). Time is the caller's, so that a day passes in a moment.
//!
//! ```text
//! registrar ── export ──▶ the scripted collector ── noted() ──┐
//! registrar ── JSON ────▶ /api/v1/agents/… ──────── api() ────┴──▶ table: id · workspace · online?
//! ```

use super::far_end::{Answer, Manner, Request, UPLOAD_ID};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use prost::Message as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// After so long without a word an agent is marked as offline (the seed, "Heartbeat Monitoring").
pub const OFFLINE_AFTER: Duration = Duration::from_secs(900);
/// Visits that are remembered.
const VISITS_MAX: usize = 10_000;
const AGENTS: &str = "/api/v1/agents/";

/// What an agent wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// To be entered into the table.
    Register,
    /// To be seen.
    Heartbeat,
}

/// Something said instead of the truth.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    /// The status.
    pub status: u16,
    /// The header.
    pub retry_after: Option<String>,
    /// The body; null: none.
    pub body: Value,
}

impl Fault {
    /// A status without words.
    #[must_use]
    pub fn status(status: u16) -> Fault {
        Fault { status, ..Fault::default() }
    }
}

/// An agent in the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it said of itself, in the shape of a registration.
    pub metadata: Value,
    /// `X-Workspace-Id`.
    pub workspace: Option<String>,
    /// Registrations taken.
    pub registrations: u64,
    /// Heartbeats taken.
    pub heartbeats: u64,
    /// The last word.
    pub last_seen: Instant,
}

impl Row {
    /// Whether it was heard lately enough.
    #[must_use]
    pub fn is_online(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_seen) < OFFLINE_AFTER
    }
}

/// One call of an agent, taken or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// For what.
    pub door: Door,
    /// Who it said it is.
    pub agent_id: String,
    /// What it was answered.
    pub status: u16,
    /// When.
    pub at: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Platform {
    agents: BTreeMap<String, Row>,
    faults: BTreeMap<Door, VecDeque<Fault>>,
    orders: Value,
    visits: VecDeque<Visit>,
}

impl Platform {
    /// Says this to the next so many of these calls.
    pub fn fail(&mut self, door: Door, times: usize, fault: &Fault) {
        self.faults.entry(door).or_default().extend(std::iter::repeat_n(fault.clone(), times));
    }

    /// What heartbeats are answered with from now on.
    pub fn order(&mut self, orders: Value) {
        self.orders = orders;
    }

    /// Loses an agent from the table.
    pub fn forget(&mut self, agent_id: &str) {
        self.agents.remove(agent_id);
    }

    /// The table.
    #[must_use]
    pub fn agents(&self) -> &BTreeMap<String, Row> {
        &self.agents
    }

    /// The last calls, oldest first.
    pub fn visits(&self) -> impl DoubleEndedIterator<Item = &Visit> {
        self.visits.iter()
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self, now: Instant) -> String {
        let mut table =
            String::from("AGENT                                    STATE    REGISTERED  HEARTBEATS  ADDRESS\n");
        for (id, row) in &self.agents {
            let state = if row.is_online(now) { "online" } else { "offline" };
            let address = row.metadata["ip_address"].as_str().unwrap_or("-");
            let (registered, beats) = (row.registrations, row.heartbeats);
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{id:<40} {state:<8} {registered:>10}  {beats:>10}  {address}");
        }
        table
    }

    /// The API.
    pub fn api(&mut self, now: Instant, request: &Request) -> Answer {
        if request.method != "POST" {
            return answer(405, &Value::Null);
        }
        let said: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let below = request.path.strip_prefix(AGENTS).unwrap_or_default();
        let (door, agent_id) = match below.strip_suffix("/heartbeat") {
            Some(id) => (Door::Heartbeat, id.to_owned()),
            None if below == "register" => (Door::Register, said["agent_id"].as_str().unwrap_or_default().to_owned()),
            None => return answer(404, &Value::Null),
        };
        let answer = self.answer(now, door, &agent_id, said, request);
        self.visited(now, door, agent_id, answer.status);
        answer
    }

    fn answer(&mut self, now: Instant, door: Door, agent_id: &str, said: Value, request: &Request) -> Answer {
        if let Some(fault) = self.faults.get_mut(&door).and_then(VecDeque::pop_front) {
            let mut told = answer(fault.status, &fault.body);
            told.headers.extend(fault.retry_after.map(|value| ("Retry-After".to_owned(), value)));
            return told;
        }
        if request.header("x-workspace-id").is_none_or(str::is_empty) {
            return answer(401, &json!({"message": "X-Workspace-Id is missing"}));
        }
        match door {
            Door::Register if agent_id.is_empty() => answer(400, &json!({"message": "agent_id is missing"})),
            Door::Register => {
                let is_known = self.agents.contains_key(agent_id);
                self.enter(now, door, agent_id, said, request);
                answer(if is_known { 200 } else { 201 }, &json!({"agent_id": agent_id}))
            }
            Door::Heartbeat if !self.agents.contains_key(agent_id) => answer(404, &json!({"message": "no such agent"})),
            Door::Heartbeat => {
                self.enter(now, door, agent_id, said, request);
                answer(200, &self.orders)
            }
        }
    }

    fn enter(&mut self, now: Instant, door: Door, agent_id: &str, said: Value, request: &Request) {
        let row = self.agents.entry(agent_id.to_owned()).or_insert_with(|| Row {
            metadata: Value::Null,
            workspace: None,
            registrations: 0,
            heartbeats: 0,
            last_seen: now,
        });
        row.last_seen = now;
        row.workspace = request.header("x-workspace-id").map(str::to_owned);
        match (door, &mut row.metadata) {
            (Door::Heartbeat, Value::Object(known)) => {
                row.heartbeats += 1;
                known.extend(said.as_object().cloned().unwrap_or_default());
            }
            (Door::Heartbeat, metadata) => {
                row.heartbeats += 1;
                *metadata = said;
            }
            (Door::Register, metadata) => {
                row.registrations += 1;
                *metadata = said;
            }
        }
    }

    fn visited(&mut self, at: Instant, door: Door, agent_id: String, status: u16) {
        if self.visits.len() == VISITS_MAX {
            self.visits.pop_front();
        }
        self.visits.push_back(Visit { door, agent_id, status, at });
    }

    /// The collector took an export: true when it was a registrar's and no data, which is told to the API then.
    pub fn noted(&mut self, now: Instant, request: &Request, raw: &[u8]) -> bool {
        let Some(door) = request.header(UPLOAD_ID).and_then(|id| Some((id.rsplit_once('/')?.1, id))).and_then(door)
        else {
            return false;
        };
        let Some(said) = ExportMetricsServiceRequest::decode(raw).ok().as_ref().and_then(metadata) else {
            return false;
        };
        let agent_id = said["agent_id"].as_str().unwrap_or_default().to_owned();
        self.enter(now, door, &agent_id, said, request);
        self.visited(now, door, agent_id, 200);
        true
    }
}

fn door((what, _): (&str, &str)) -> Option<Door> {
    match what {
        "register" => Some(Door::Register),
        "heartbeat" => Some(Door::Heartbeat),
        _ => None,
    }
}

/// The resource of an export in the shape of a registration.
fn metadata(export: &ExportMetricsServiceRequest) -> Option<Value> {
    let of_resource = export.resource_metrics.first()?;
    let attributes = &of_resource.resource.as_ref()?.attributes;
    let of = |key: &str| attributes.iter().find(|attribute| attribute.key == key).map_or(Value::Null, plain);
    let standard = ["os.type", "os.description", "host.arch", "service.name", "service.version"];
    let metrics = of_resource.scope_metrics.iter().flat_map(|scope| &scope.metrics);
    Some(json!({
        "agent_id": of("agent.id").as_str()?,
        "version": of("agent.version"),
        "hostname": of("host.name"),
        "ip_address": of("host.ip"),
        "workspace_id": of("telemetryflow.workspace.id"),
        "tenant_id": of("telemetryflow.tenant.id"),
        "capabilities": of("agent.capabilities"),
        "resource_attributes": standard.iter().map(|key| ((*key).to_owned(), of(key))).collect::<serde_json::Map<_, _>>(),
        "metrics": metrics.map(|metric| metric.name.as_str()).collect::<Vec<_>>(),
    }))
}

fn plain(attribute: &KeyValue) -> Value {
    let text = |value: &any_value::Value| match value {
        any_value::Value::StringValue(text) => Value::from(text.as_str()),
        _ => Value::Null,
    };
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::ArrayValue(list)) => {
            list.values.iter().filter_map(|value| value.value.as_ref()).map(text).collect()
        }
        Some(value) => text(value),
        None => Value::Null,
    }
}

fn answer(status: u16, body: &Value) -> Answer {
    let (headers, body) = match body {
        Value::Null => (Vec::new(), Vec::new()),
        body => (vec![("Content-Type".to_owned(), "application/json".to_owned())], body.to_string().into_bytes()),
    };
    Answer { status, headers, body, manner: Manner::AtOnce }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(platform: &mut Platform, now: Instant, path: &str, body: &Value) -> (u16, Value) {
        let request = Request {
            method: "POST".to_owned(),
            path: path.to_owned(),
            headers: vec![("X-Workspace-Id".to_owned(), "w".to_owned())],
            body: body.to_string().into_bytes().into(),
        };
        let answer = platform.api(now, &request);
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    #[test]
    fn an_agent_is_entered_seen_marked_and_forgotten() {
        let (mut platform, now) = (Platform::default(), Instant::now());
        let (register, beat) = ("/api/v1/agents/register", "/api/v1/agents/a/heartbeat");
        let me = json!({"agent_id": "a", "ip_address": "10.0.0.1"});
        assert_eq!(ask(&mut platform, now, beat, &me).0, 404);
        assert_eq!(ask(&mut platform, now, register, &json!({})).0, 400);
        assert_eq!(ask(&mut platform, now, register, &me), (201, json!({"agent_id": "a"})));
        assert_eq!(ask(&mut platform, now, register, &me).0, 200);
        platform.order(json!({"drain_rate": 1000}));
        assert_eq!(ask(&mut platform, now, beat, &me), (200, json!({"drain_rate": 1000})));
        assert!(platform.table(now).contains("online") && platform.table(now).contains("10.0.0.1"));
        assert!(platform.agents()["a"].is_online(now + OFFLINE_AFTER / 2));
        assert!(platform.table(now + OFFLINE_AFTER).contains("offline"));
        platform.fail(Door::Heartbeat, 1, &Fault::status(503));
        assert_eq!(ask(&mut platform, now, beat, &me).0, 503);
        platform.forget("a");
        assert_eq!(ask(&mut platform, now, beat, &me).0, 404);
        assert_eq!(platform.visits().count(), 7);
    }
}
