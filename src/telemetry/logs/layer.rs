//! From an event of `tracing` to a line: who is heard, which fields are its context, and in what dress it is written.

use super::line::{self, Encoding, Field as LineField, Form, Head, Severity};
use super::queue::Queue;
use super::sampling::Sampler;
use super::{DUMP, Zone};
use crate::base::{Clock, Swap};
use std::cell::Cell;
use std::error::Error;
use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Writes events as lines; see the module above.
#[derive(Debug)]
pub struct LogLayer {
    pub(super) rule: Arc<Swap<Rule>>,
    pub(super) queue: Arc<Queue>,
}

/// Which lines are written, and how. Changes as a whole.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) style: Arc<Style>,
    pub(super) severity: Severity,
    pub(super) sampler: Option<Mutex<Sampler>>,
    /// What other crates may say, by target and whatever the message: strangers can make them speak.
    pub(super) foreign: Mutex<Sampler>,
}

/// What every line of this process has in common.
#[derive(Debug)]
pub(super) struct Style {
    pub(super) encoding: Encoding,
    pub(super) callers: bool,
    pub(super) zone: Zone,
    pub(super) clock: Clock,
    /// `initial_fields`, values as JSON.
    pub(super) initial: Vec<(String, String)>,
}

impl LogLayer {
    /// Our own lines from the configured level up; other crates' only from warn up, whatever the level: at debug, an
    /// HTTP/2 library says several lines per request.
    fn hears(&self, metadata: &Metadata<'_>) -> bool {
        let severity_min = self.rule.get().severity;
        let ours = is_ours(metadata.target());
        if metadata.is_span() {
            // Context, not a line: wanted also when only errors are shown.
            return ours && *metadata.level() <= Level::INFO && severity_min < Severity::Fatal;
        }
        let least = if ours { severity_min } else { severity_min.max(Severity::Warn) };
        severity(*metadata.level()).is_some_and(|severity| severity >= least)
    }

    fn write(&self, scratch: &mut Scratch, event: &Event<'_>, context: &[(&'static str, String)]) {
        let foreign = event.normalized_metadata();
        let metadata = foreign.as_ref().unwrap_or_else(|| event.metadata());
        let Some(severity) = severity(*metadata.level()) else { return };
        let dump = metadata.target() == DUMP;
        let rule = self.rule.get();
        let style = &*rule.style;

        scratch.clear();
        event.record(&mut scratch.visitor(style.encoding, dump));
        let now = style.clock.now();
        let admits = |sampler: &Mutex<Sampler>, what: &str| {
            sampler.lock().unwrap_or_else(PoisonError::into_inner).admits(severity, what, now)
        };
        if !is_ours(metadata.target()) && !admits(&rule.foreign, metadata.target()) {
            return;
        }
        if rule.sampler.as_ref().is_some_and(|sampler| !dump && !admits(sampler, &scratch.message)) {
            return;
        }
        let head = Head {
            wall_ns: now.wall_ns,
            offset_s: style.zone.offset_s(now.wall_ns),
            severity,
            logger: (!is_ours(metadata.target())).then_some(metadata.target()),
            caller: metadata.file().zip(metadata.line()).filter(|_| style.callers && !dump),
            message: &scratch.message,
        };
        let initial = style.initial.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let context = context.iter().map(|(name, value)| (*name, value.as_str()));
        let own = scratch.fields.iter().map(|(name, value)| (*name, &scratch.values[value.clone()]));
        let fields: Vec<LineField<'_>> = initial.chain(context).chain(own).collect();
        line::write_line(&mut scratch.line, style.encoding, &head, &fields);
        self.queue.push(&scratch.line);
    }
}

impl<S> Layer<S> for LogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.hears(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.hears(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.rule.get().severity {
            Severity::Debug => LevelFilter::DEBUG,
            Severity::Info | Severity::Warn | Severity::Error => LevelFilter::INFO, // spans
            Severity::Fatal => LevelFilter::OFF,
        })
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = ContextFields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<ContextFields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut around = Vec::new();
        for span in context.event_scope(event).into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(fields) = span.extensions().get::<ContextFields>() {
                around.extend(fields.0.iter().cloned());
            }
        }
        // Taken, not borrowed: a value whose formatting logs comes in here again, and then starts with an empty one.
        thread_local!(static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch::new()) });
        let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
        self.write(&mut scratch, event, &around);
        if scratch.line.capacity() <= SCRATCH_MAX {
            // A thread on its last way has no thread-locals any more; then the buffers go now.
            let _ = SCRATCH.try_with(|cell| cell.set(scratch));
        }
    }
}

/// Buffers kept per thread between lines; a dump's are given back.
const SCRATCH_MAX: usize = 4 << 10;

/// Room for one event.
#[derive(Debug, Default)]
struct Scratch {
    message: String,
    values: String,
    fields: Vec<(&'static str, Range<usize>)>,
    line: String,
}

impl Scratch {
    const fn new() -> Scratch {
        Scratch { message: String::new(), values: String::new(), fields: Vec::new(), line: String::new() }
    }

    fn clear(&mut self) {
        self.message.clear();
        self.values.clear();
        self.fields.clear();
        self.line.clear();
    }

    fn visitor(&mut self, encoding: Encoding, dump: bool) -> EventVisitor<'_> {
        EventVisitor {
            scratch: self,
            form: Form::of_message(encoding, dump),
            message_max: if dump { line::DUMP_MAX } else { line::VALUE_MAX },
        }
    }
}

struct EventVisitor<'a> {
    scratch: &'a mut Scratch,
    form: Form,
    message_max: usize,
}

impl EventVisitor<'_> {
    fn take(&mut self, field: &Field, write: impl FnOnce(&mut String)) {
        // Where a log record came from; it stands in the line's own columns.
        if field.name().starts_with("log.") {
            return;
        }
        let start = self.scratch.values.len();
        write(&mut self.scratch.values);
        self.scratch.fields.push((plain_name(field), start..self.scratch.values.len()));
    }
}

/// Fields of a span, values as JSON.
#[derive(Debug, Default)]
struct ContextFields(Vec<(&'static str, String)>);

impl ContextFields {
    fn take(&mut self, field: &Field, write: impl FnOnce(&mut String)) {
        let mut value = String::new();
        write(&mut value);
        self.0.push((plain_name(field), value));
    }
}

/// The typed half of a visitor, which both kinds have in common.
macro_rules! take_typed_values {
    () => {
        fn record_f64(&mut self, field: &Field, value: f64) {
            self.take(field, |out| line::put_json_f64(out, value));
        }

        fn record_i64(&mut self, field: &Field, value: i64) {
            self.take(field, |out| out.push_str(&value.to_string()));
        }

        fn record_u64(&mut self, field: &Field, value: u64) {
            self.take(field, |out| out.push_str(&value.to_string()));
        }

        fn record_i128(&mut self, field: &Field, value: i128) {
            self.take(field, |out| out.push_str(&value.to_string()));
        }

        fn record_u128(&mut self, field: &Field, value: u128) {
            self.take(field, |out| out.push_str(&value.to_string()));
        }

        fn record_bool(&mut self, field: &Field, value: bool) {
            self.take(field, |out| out.push_str(if value { "true" } else { "false" }));
        }

        fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
            self.take(field, |out| line::put_json_string(out, Chain(value)));
        }
    };
}

impl Visit for EventVisitor<'_> {
    take_typed_values!();

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            line::put(&mut self.scratch.message, self.form, self.message_max, value);
        } else {
            self.take(field, |out| line::put_json_string(out, value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            line::put(&mut self.scratch.message, self.form, self.message_max, format_args!("{value:?}"));
        } else {
            self.take(field, |out| line::put_json_string(out, format_args!("{value:?}")));
        }
    }
}

impl Visit for ContextFields {
    take_typed_values!();

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, |out| line::put_json_string(out, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.take(field, |out| line::put_json_string(out, format_args!("{value:?}")));
    }
}

/// An error and what lies below it, as `spool store is unavailable: no space left on device`.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Deeper than any honest chain; an error that is its own source ends here.
        const DEPTH_MAX: usize = 16;
        let mut shown = self.0.to_string();
        f.write_str(&shown)?;
        let mut below = self.0.source();
        for _ in 0..DEPTH_MAX {
            let Some(error) = below else { break };
            let text = error.to_string();
            // Many errors show their source in their own text already.
            if !shown.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            shown = text;
            below = error.source();
        }
        Ok(())
    }
}

fn plain_name(field: &Field) -> &'static str {
    field.name().strip_prefix("r#").unwrap_or(field.name())
}

fn is_ours(target: &str) -> bool {
    const CRATE: &str = env!("CARGO_CRATE_NAME");
    target.strip_prefix(CRATE).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn severity(level: Level) -> Option<Severity> {
    Some(match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG => Severity::Debug,
        _ => return None, // zap has nothing below debug
    })
}
