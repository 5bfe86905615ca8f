//! `extensions.health_check` (reference §2.13).

use crate::config::problems::quote;
use crate::config::{HttpServer, Listen, Section};
use std::time::Duration;

/// Answers 200 while the agent serves, 503 before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheckConfig {
    /// What every HTTP server has; `endpoint` is `0.0.0.0:13133`.
    pub server: HttpServer,
    /// `path`, `/` (which answers under every path); begins with a slash.
    pub path: String,
    /// `response_body`: texts instead of the JSON. None: the JSON of the original.
    pub response_body: Option<ResponseBody>,
    /// `check_collector_pipeline`: the original never finds anything (reference §2.13). Here `/ready`, and it alone, is
    /// 503 when enough uploads failed: a dead link is no reason to restart an agent that keeps what it has.
    pub check_collector_pipeline: PipelineCheck,
}

impl Default for HealthCheckConfig {
    fn default() -> HealthCheckConfig {
        HealthCheckConfig {
            server: HttpServer::at(Listen::new("0.0.0.0", 13_133)),
            path: "/".to_owned(),
            response_body: None,
            check_collector_pipeline: PipelineCheck::default(),
        }
    }
}

/// `response_body`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseBody {
    /// `healthy`: the body of a 200.
    pub healthy: String,
    /// `unhealthy`: the body of a 503.
    pub unhealthy: String,
}

/// `check_collector_pipeline`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineCheck {
    /// `enabled`, false.
    pub enabled: bool,
    /// `interval`, 5 min: how far back failures are counted.
    pub interval: Duration,
    /// `exporter_failure_threshold`, 5: so many of one exporter are enough.
    pub exporter_failure_threshold: u32,
}

impl Default for PipelineCheck {
    fn default() -> PipelineCheck {
        PipelineCheck { enabled: false, interval: Duration::from_secs(300), exporter_failure_threshold: 5 }
    }
}

impl HealthCheckConfig {
    /// Reads `extensions.health_check`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> HealthCheckConfig {
        let default = HealthCheckConfig::default();
        let body = s.section("response_body", |s| ResponseBody {
            healthy: s.text("healthy", ""),
            unhealthy: s.text("unhealthy", ""),
        });
        let config = HealthCheckConfig {
            server: HttpServer::read(s, default.server.endpoint),
            path: s.text("path", &default.path),
            response_body: Some(body).filter(|body| *body != ResponseBody::default()),
            check_collector_pipeline: s.section("check_collector_pipeline", PipelineCheck::read),
        };
        s.unless(config.path.starts_with('/'), "path", || {
            format!("{} does not begin with a slash", quote(&config.path))
        });
        s.moot_all(&["use_v2", "http", "grpc", "component_health"], "there is one kind of health check here");
        config
    }
}

impl PipelineCheck {
    fn read(s: &Section<'_>) -> PipelineCheck {
        let default = PipelineCheck::default();
        let check = PipelineCheck {
            enabled: s.flag("enabled", default.enabled),
            interval: s.duration("interval", default.interval),
            exporter_failure_threshold: s.number(
                "exporter_failure_threshold",
                default.exporter_failure_threshold,
                1..=u32::MAX,
            ),
        };
        s.warn_unless(!check.enabled, "enabled", || {
            "acts on /ready alone (the original never finds anything): an outage is no reason to restart this agent"
                .to_owned()
        });
        check
    }
}
