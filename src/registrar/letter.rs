//! What is said of the agent: who it is, where it is, how it is. The same for both ways; each writes it down in its own manner.

use super::standing::Call;
use super::vitals::Vitals;
use crate::telemetry::gotime::rfc3339_nano;
use std::time::Duration;

/// What does not change while the configuration stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// `X-Workspace-Id`.
    pub workspace_id: Option<String>,
    /// `X-Tenant-Id`.
    pub tenant_id: Option<String>,
    /// The receivers that are on: `otlp_grpc`, `otlp_http`, `prometheus_scrape`.
    pub capabilities: Vec<String>,
    /// `Ubuntu 22.04`.
    pub os_description: String,
}

/// What the agent calls itself.
pub const AGENT: &str = env!("CARGO_PKG_NAME");
/// Its version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the agent is: what a router or a person may change under it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The machine's name.
    pub hostname: String,
    /// The address by which it reaches the platform.
    pub ip_address: Option<String>,
}

/// Everything that is said at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// What for.
    pub call: Call,
    /// The id.
    pub agent_id: String,
    /// The id under which the agent was known before its image was copied.
    pub copied_from: Option<String>,
    /// Who.
    pub profile: Profile,
    /// Where.
    pub place: Place,
    /// How.
    pub vitals: Vitals,
    /// Wall clock, ns: when the process began.
    pub started_ns: u64,
    /// Wall clock, ns: when it registered; now, when it does.
    pub registered_ns: u64,
    /// Wall clock, ns.
    pub now_ns: u64,
    /// Since the process began.
    pub uptime: Duration,
}

impl Letter {
    /// Names it among uploads: `<agent id>/register`, `<agent id>/heartbeat`.
    #[must_use]
    pub fn upload_id(&self) -> String {
        let what = if matches!(self.call, Call::Register(_)) { "register" } else { "heartbeat" };
        format!("{}/{what}", self.agent_id)
    }

    /// `resource_attributes`: what OpenTelemetry calls these.
    #[must_use]
    pub fn resource_attributes(&self) -> [(&'static str, &str); 5] {
        [
            ("os.type", std::env::consts::OS),
            ("os.description", &self.profile.os_description),
            ("host.arch", crate::uplink::client::arch()),
            ("service.name", AGENT),
            ("service.version", VERSION),
        ]
    }
}

/// To the second, in UTC: `2025-12-13T10:00:00Z`.
#[must_use]
pub fn time(wall_ns: u64) -> String {
    rfc3339_nano(wall_ns - wall_ns % 1_000_000_000, 0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::standing::Why;
    use super::*;

    /// The agent of the seed.
    pub(in crate::registrar) fn example(call: Call) -> Letter {
        Letter {
            call,
            agent_id: "tfo-agent-prod-node-01".to_owned(),
            copied_from: None,
            profile: Profile {
                workspace_id: Some("550e8400-e29b-41d4-a716-446655440000".to_owned()),
                tenant_id: Some("660e8400-e29b-41d4-a716-446655440001".to_owned()),
                capabilities: ["otlp_grpc", "otlp_http", "prometheus_scrape"].map(str::to_owned).into(),
                os_description: "Ubuntu 22.04".to_owned(),
            },
            place: Place { hostname: "prod-node-01".to_owned(), ip_address: Some("10.0.1.15".to_owned()) },
            vitals: Vitals {
                backlog_items: 1_200,
                backlog_bytes: 4_096,
                oldest_s: 61.5,
                time_to_full_s: Some(86_400.0),
                link_budget: None,
                link_left: vec![("otlphttp".to_owned(), "day".to_owned(), 4_000_000)],
                links: vec![("otlphttp".to_owned(), true)],
                restarts: 2,
                lost: vec![("evicted".to_owned(), 7)],
            },
            started_ns: 1_765_619_900_000_000_000,
            registered_ns: 1_765_620_000_900_000_000,
            now_ns: 1_765_620_060_000_000_000,
            uptime: Duration::from_secs(160),
        }
    }

    #[test]
    fn an_upload_of_ours_can_be_told_from_data() {
        assert_eq!(example(Call::Heartbeat).upload_id(), "tfo-agent-prod-node-01/heartbeat");
        assert_eq!(example(Call::Register(Why::Start)).upload_id(), "tfo-agent-prod-node-01/register");
        assert_eq!(time(1_765_620_000_900_000_000), "2025-12-13T10:00:00Z");
    }
}
