//! `extensions.health_check` (reference §2.13).

use crate::config::{HttpServer, Listen};
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
    /// `check_collector_pipeline`: broken in the original (reference §2.13). Parsed, without effect.
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
    /// `interval`, 5 min.
    pub interval: Duration,
    /// `exporter_failure_threshold`, 5.
    pub exporter_failure_threshold: u32,
}

impl Default for PipelineCheck {
    fn default() -> PipelineCheck {
        PipelineCheck { enabled: false, interval: Duration::from_secs(300), exporter_failure_threshold: 5 }
    }
}
