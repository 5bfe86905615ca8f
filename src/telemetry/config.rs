//! `service.telemetry`: the agent's own logs and metrics (reference §1.7, §3.3).

use crate::config::{Any, Listen};
use std::path::PathBuf;
use std::time::Duration;

/// `service.telemetry`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TelemetryConfig {
    /// `logs`.
    pub logs: LogsConfig,
    /// `metrics`.
    pub metrics: MetricsConfig,
    /// `resource`: labels of every metric; None takes one of the automatic ones away (`service.name`,
    /// `service.instance.id`, `service.version`).
    pub resource: Vec<(String, Option<String>)>,
}

/// `service.telemetry.logs`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogsConfig {
    /// `level`, info.
    pub level: Level,
    /// `development`, false. In the original it adds stack traces; here it changes nothing.
    pub development: bool,
    /// `encoding`, console.
    pub encoding: Encoding,
    /// `disable_caller`, false: leave out which file wrote a line.
    pub disable_caller: bool,
    /// `disable_stacktrace`, false. We write none anyway.
    pub disable_stacktrace: bool,
    /// `sampling`; None when `enabled: false`.
    pub sampling: Option<Sampling>,
    /// `output_paths`, stderr.
    pub output_paths: Vec<Output>,
    /// `error_output_paths`, stderr: where troubles of the log itself go.
    pub error_output_paths: Vec<Output>,
    /// `initial_fields`: added to every line.
    pub initial_fields: Vec<(String, Any)>,
}

impl Default for LogsConfig {
    fn default() -> LogsConfig {
        LogsConfig {
            level: Level::Info,
            development: false,
            encoding: Encoding::Console,
            disable_caller: false,
            disable_stacktrace: false,
            sampling: Some(Sampling::default()),
            output_paths: vec![Output::Stderr],
            error_output_paths: vec![Output::Stderr],
            initial_fields: Vec::new(),
        }
    }
}

/// `level`; `dpanic`, `panic` and `fatal` of the original have no lines here and mean `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Debug,
    /// What an operator wants to read afterwards.
    Info,
    /// What may become trouble.
    Warn,
    /// What is trouble.
    Error,
}

/// `encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Tab-separated lines.
    Console,
    /// One JSON object a line.
    Json,
}

/// `sampling`: per level and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampling {
    /// `tick`, 10 s.
    pub tick: Duration,
    /// `initial`, 10: so many lines of each tick are written …
    pub initial: u32,
    /// `thereafter`, 100: … and then one of so many; 0: none.
    pub thereafter: u32,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { tick: Duration::from_secs(10), initial: 10, thereafter: 100 }
    }
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `stdout`.
    Stdout,
    /// `stderr`.
    Stderr,
    /// A path, or `file://` and an absolute one; appended to.
    File(PathBuf),
}

/// `service.telemetry.metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// `level`, basic.
    pub level: MetricsLevel,
    /// `address`, `:8888`.
    pub address: Listen,
}

impl Default for MetricsConfig {
    fn default() -> MetricsConfig {
        MetricsConfig { level: MetricsLevel::Basic, address: Listen::new("", 8_888) }
    }
}

/// `service.telemetry.metrics.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricsLevel {
    /// No `:8888` at all.
    None,
    /// The default of 0.88.
    Basic,
    /// The default since 0.99.
    Normal,
    /// Everything there is.
    Detailed,
}
