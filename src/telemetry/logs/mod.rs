//! Log lines in otelcol's shapes (reference §3.3), because people and programs already read those.
//!
//! ```text
//! info!(…) ─┐ who is heard     line        the first ten, then    256 KiB      one thread
//! warn!(…) ─┼──▶ layer ──▶ rendered once ──▶ each hundredth ──▶ queue ──▶ outlets: stdout, stderr, files
//! log crate ┘                                                    └─ full: counted, said later
//! ```
//!
//! How components speak (style §2, §7): a method of the component's `…Metrics` counts *and* logs. Context fields come
//! from a span the component keeps, named as parent, never entered (an entered span does not survive an await):
//!
//! ```
//! # use tracing::{info, info_span};
//! let span = info_span!("component", kind = "exporter", name = "otlphttp");
//! info!(parent: &span, from = %"up", to = %"resting", "link moved");
//! // …⇥info⇥uplink/link.rs:84⇥link moved⇥{"kind": "exporter", "name": "otlphttp", "from": "up", "to": "resting"}
//! ```
//!
//! Durations are floats of seconds (`interval = pause.as_secs_f64()`), errors are given as errors
//! (`error = &e as &dyn std::error::Error`): the causes below are written too. Field names may hold spaces
//! (`"resource spans" = 2`).
//!
//! What always holds:
//! * A line never panics and never waits for a disk or a reader; what had to be left out is counted.
//! * No value can forge a line or a terminal sequence ([`mod@line`]).
//! * Memory is bounded whatever is logged: values, messages, the queue and the sampler's table have their limits.
//! * One outlet that hangs holds up the others' lines too (there is one writer), but nobody else.
//!
//! | file | what |
//! |---|---|
//! | `line.rs` | core: what a line looks like |
//! | `sampling.rs` | core: which of many equal lines are written |
//! | `outlet.rs` | a place lines go to, and what happens when it takes no more |
//! | `queue.rs` | shell: the buffer and its writer thread |
//! | `layer.rs` | shell: from an event of `tracing` to a line |

pub mod layer;
pub mod line;
mod outlet;
mod queue;
pub mod sampling;
#[cfg(test)]
mod tests;

pub use layer::LogLayer;
pub use line::{Encoding, Severity};
pub use queue::Counts;
pub use sampling::Sampling;

use self::layer::{Rule, Style};
use self::line::Head;
use self::queue::{Outputs, Queue, Voice};
use self::sampling::Sampler;
use super::gotime;
use super::metrics::{Metrics, Pulled};
use crate::base::{Clock, Swap};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt as _;

/// Target of the `logging`/`debug` exporter's output: `info!(target: DUMP, "{text}")`. Its lines have no caller and
/// are not sampled (the exporter samples by itself), and on a console its newlines stay, all as in the original.
pub const DUMP: &str = "tfo_otel_agent::dump";

/// `service.telemetry.logs`. (`development` and `disable_stacktrace` change nothing here: there are no Go stacks.)
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Least grave line that is written.
    pub level: Severity,
    /// The shape of a line.
    pub encoding: Encoding,
    /// Leave out who said it.
    pub disable_caller: bool,
    /// `None`: every line is written (`sampling.enabled: false`).
    pub sampling: Option<Sampling>,
    /// `stdout`, `stderr`, paths, `file://` URLs.
    pub output_paths: Vec<String>,
    /// Where trouble with the others is told.
    pub error_output_paths: Vec<String>,
    /// Added to each line.
    pub initial_fields: BTreeMap<String, serde_json::Value>,
    /// What times are shown in; no key of the configuration.
    pub zone: Zone,
}

impl Default for LogSettings {
    /// 0.88's: info, console, sampled, to standard error.
    fn default() -> LogSettings {
        LogSettings {
            level: Severity::Info,
            encoding: Encoding::Console,
            disable_caller: false,
            sampling: Some(Sampling::default()),
            output_paths: vec!["stderr".into()],
            error_output_paths: vec!["stderr".into()],
            initial_fields: BTreeMap::new(),
            zone: Zone::Local,
        }
    }
}

/// Which zone times are shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Zone {
    /// The machine's, as the original.
    #[default]
    Local,
    /// Greenwich.
    Utc,
}

impl Zone {
    fn offset_s(self, wall_ns: u64) -> i32 {
        match self {
            Zone::Local => gotime::local_offset_s(wall_ns),
            Zone::Utc => 0,
        }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The system gave no thread: nothing will run here.
    #[error("log writer has no thread: {0}")]
    Thread(#[source] io::Error),
    /// The process already has a log; use that one.
    #[error("a log is installed already")]
    Installed,
}

/// The handle: dropped, it writes out what waits (for a second at most) and lets the writer end.
#[derive(Debug)]
pub struct Logs {
    queue: Arc<Queue>,
    suppressed: Suppressed,
    clock: Clock,
}

/// Lines held back by samplers: those of rules that are not in force any more, and the present one's.
#[derive(Debug, Clone)]
struct Suppressed {
    before: Arc<AtomicU64>,
    rule: Arc<Swap<Rule>>,
}

impl Suppressed {
    fn count(&self) -> u64 {
        self.before.load(Relaxed) + self.rule.get().suppressed()
    }
}

impl Rule {
    fn new(settings: &LogSettings, clock: &Clock) -> Rule {
        let style = Arc::new(Style {
            encoding: settings.encoding,
            callers: !settings.disable_caller,
            zone: settings.zone,
            clock: clock.clone(),
            initial: settings.initial_fields.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
        });
        let sampler = settings.sampling.map(|rule| Mutex::new(Sampler::new(rule)));
        Rule { style, severity: settings.level, sampler, foreign: Mutex::new(Sampler::new(FOREIGN)) }
    }

    fn suppressed(&self) -> u64 {
        let count = |sampler: &Mutex<Sampler>| sampler.lock().unwrap_or_else(PoisonError::into_inner).suppressed();
        self.sampler.as_ref().map_or(0, count) + count(&self.foreign)
    }
}

/// What other crates may say, of one target: five lines a minute. Some of it strangers can make them say, as often as they
/// like, and most of it says the same of another peer.
const FOREIGN: Sampling = Sampling { tick: Duration::from_secs(60), initial: 5, thereafter: 0 };

impl Logs {
    /// Starts the writer and makes the layer for a subscriber: for tests, and for programs with more layers.
    /// Outlets are opened by the writer; one that cannot be opened is told on the error outputs, not here, because a
    /// gateway with a read-only disk must start all the same.
    ///
    /// # Errors
    /// [`LogError::Thread`].
    pub fn start(settings: &LogSettings, clock: &Clock) -> Result<(Logs, LogLayer), LogError> {
        let rule = Rule::new(settings, clock);
        let queue = Queue::start(Outputs::of(settings, &rule.style), clock.clone()).map_err(LogError::Thread)?;
        let rule = Arc::new(Swap::new(rule));
        let suppressed = Suppressed { before: Arc::default(), rule: rule.clone() };
        Ok((Logs { queue: queue.clone(), suppressed, clock: clock.clone() }, LogLayer { rule, queue }))
    }

    /// From now on by these settings. Lines said before go where they were to go.
    pub fn change(&self, settings: &LogSettings) {
        let rule = Rule::new(settings, &self.clock);
        self.queue.change(Outputs::of(settings, &rule.style));
        let Suppressed { before, rule: present } = &self.suppressed;
        before.fetch_add(present.get().suppressed(), Relaxed);
        present.set(rule);
        tracing::callsite::rebuild_interest_cache(); // the level may be another one
    }

    /// [`Logs::start`], and from now on every event of the process and every record of the `log` crate goes there.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn install(settings: &LogSettings, clock: &Clock) -> Result<Logs, LogError> {
        let (logs, layer) = Logs::start(settings, clock)?;
        // First, because half a failure must leave no subscriber behind whose writer ends with `logs`. The level is
        // cheaper here than asking the layer about each debug line of fjall and rustls; it would refuse them anyway.
        tracing_log::LogTracer::builder()
            .with_max_level(tracing_log::log::LevelFilter::Warn)
            .init()
            .map_err(|_| LogError::Installed)?;
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
            .map_err(|_| LogError::Installed)?;
        Ok(logs)
    }

    /// Opens files anew: after log rotation has renamed them (SIGHUP). Every later line goes to the new file.
    pub fn reopen(&self) {
        self.queue.reopen();
    }

    /// Waits until everything said so far is written, at most so long; true if it is. Before the process exits.
    pub fn flush(&self, most: Duration) -> bool {
        self.queue.flush(most)
    }

    /// What became of lines, since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.queue.counts()
    }

    /// Lines that sampling held back, since the start.
    #[must_use]
    pub fn suppressed(&self) -> u64 {
        self.suppressed.count()
    }

    /// Shows the counts as `tfo_agent_log_lines…`.
    pub fn register(&self, metrics: &Metrics) {
        let queue = Arc::clone(&self.queue);
        metrics.pull(Pulled::Counter, "tfo_agent_log_lines", "Log lines handed to the writer.", &[], move |samples| {
            samples.push_count(&[], queue.counts().accepted);
        });
        let suppressed = self.suppressed.clone();
        let text = "Log lines held back by sampling.";
        metrics.pull(Pulled::Counter, "tfo_agent_log_lines_suppressed", text, &[], move |samples| {
            samples.push_count(&[], suppressed.count());
        });
        let queue = Arc::clone(&self.queue);
        let text = "Log lines that did not reach an output, by reason: queue_full, write_failed.";
        metrics.pull(Pulled::Counter, "tfo_agent_log_lines_lost", text, &["reason"], move |samples| {
            let counts = queue.counts();
            samples.push_count(&["queue_full"], counts.overflowed);
            samples.push_count(&["write_failed"], counts.failed);
        });
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        /// A reader that hangs must not keep the process from ending.
        const PATIENCE: Duration = Duration::from_secs(1);
        self.queue.flush(PATIENCE);
        self.queue.close();
    }
}

impl Outputs {
    fn of(settings: &LogSettings, style: &Arc<Style>) -> Outputs {
        Outputs {
            paths: settings.output_paths.clone(),
            error_paths: settings.error_output_paths.clone(),
            voice: Box::new(WriterVoice(style.clone())),
        }
    }
}

/// What the writer says by itself.
struct WriterVoice(Arc<Style>);

impl Voice for WriterVoice {
    fn missed(&self, outlet: &str, lines: u64) -> String {
        let style = &*self.0;
        let now = style.clock.now();
        let (mut name, mut out) = (String::new(), String::new());
        line::put_json_string(&mut name, outlet);
        let lines = lines.to_string();
        let initial = style.initial.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let fields: Vec<_> = initial.chain([("output", name.as_str()), ("lines", lines.as_str())]).collect();
        let head = Head {
            wall_ns: now.wall_ns,
            offset_s: style.zone.offset_s(now.wall_ns),
            severity: Severity::Warn,
            logger: None,
            caller: style.callers.then_some((file!(), line!())),
            message: "Log lines were lost.",
        };
        line::write_line(&mut out, style.encoding, &head, &fields);
        out
    }

    /// As zap says it: the time, and no dress.
    fn trouble(&self, what: &str) -> String {
        let wall_ns = self.0.clock.now().wall_ns;
        let mut out = gotime::iso8601_ms(wall_ns, self.0.zone.offset_s(wall_ns));
        out.push(' ');
        line::put(&mut out, line::Form::Column, line::VALUE_MAX, what);
        out.push('\n');
        out
    }
}

fn json(value: &serde_json::Value) -> String {
    let mut out = String::new();
    line::put_json_value(&mut out, value);
    out
}
