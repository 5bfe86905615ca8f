//! `service.telemetry`: the agent's own logs and metrics (reference §1.7, §3.3).

use crate::config::problems::{At, quote};
use crate::config::tree::{Entry, Node, Value};
use crate::config::{Any, Host, Listen, Section};
use std::path::{Path, PathBuf};
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

impl TelemetryConfig {
    /// Reads `service.telemetry`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> TelemetryConfig {
        s.moot("traces", "the agent makes no traces of its own");
        TelemetryConfig {
            logs: s.section("logs", LogsConfig::read),
            metrics: s.section("metrics", MetricsConfig::read),
            resource: resource(s),
        }
    }
}

/// `resource`: texts, and null to take an automatic label away.
fn resource(s: &Section<'_>) -> Vec<(String, Option<String>)> {
    let one = |entry: &Entry| {
        let path = format!("{}.{}", s.path_of("resource"), entry.key);
        match s.any(&entry.value, &path, "the label is left out") {
            Some(Any::Text(text)) => Some((entry.key.clone(), Some(text))),
            Some(Any::Int(_) | Any::Double(_) | Any::Bool(_)) => Some((entry.key.clone(), Some(written(&entry.value)))),
            Some(Any::List(_) | Any::Map(_)) => {
                s.reading().problems.error(entry.value.at, &path, "a label is a text");
                None
            }
            None if entry.value.hangs_on_missing() => None,
            None => Some((entry.key.clone(), None)),
        }
    };
    let mut labels = Vec::new();
    for entry in s.free("resource") {
        match (entry.key.as_str(), entry.value.as_seq()) {
            // The form of the collectors since 0.124: `attributes: [{name: site, value: north}]`.
            ("attributes", Some(items)) => labels.extend(items.iter().enumerate().filter_map(|(n, item)| {
                let path = format!("{}.attributes[{n}]", s.path_of("resource"));
                Section::read(s.reading(), item, &path, "service.telemetry.resource.attributes[]", pair)
            })),
            ("schema_url" | "detection/development" | "attributes_list", _) => {
                let path = format!("{}.{}", s.path_of("resource"), entry.key);
                let message = "has no effect: labels are taken from attributes, or stand here as `name: value`";
                s.reading().problems.warn(entry.key_at, &path, message);
            }
            _ => labels.extend(one(entry)),
        }
    }
    labels
}

/// One of `resource.attributes`: `name`, `value`, and a `type` that says nothing new, for a label is a text.
fn pair(s: &Section<'_>) -> Option<(String, Option<String>)> {
    s.accept(&["type"]);
    let (name, value) = (s.text_if_given("name"), s.any_if_given("value", "the label is left out"));
    if name.is_none() {
        s.error_here("a label needs a name");
    }
    let text = match value? {
        Any::Text(text) => text,
        Any::Int(_) | Any::Double(_) | Any::Bool(_) => s.text_if_given("value")?,
        Any::List(_) | Any::Map(_) => {
            s.error("value", "a label is a text");
            return None;
        }
    };
    Some((name?, Some(text)))
}

fn written(node: &Node) -> String {
    match &node.value {
        Value::Scalar(scalar) => scalar.text.clone(),
        Value::Seq(_) | Value::Map(_) => String::new(),
    }
}

impl LogsConfig {
    fn read(s: &Section<'_>) -> LogsConfig {
        let default = LogsConfig::default();
        let levels = [
            ("debug", Level::Debug),
            ("info", Level::Info),
            ("warn", Level::Warn),
            ("error", Level::Error),
            ("dpanic", Level::Error),
            ("panic", Level::Error),
            ("fatal", Level::Error),
        ];
        s.moot("processors", "the agent's logs go to output_paths");
        let fields = s.free("initial_fields").iter();
        let field = |e: &Entry| {
            let path = format!("{}.{}", s.path_of("initial_fields"), e.key);
            Some((e.key.clone(), s.any(&e.value, &path, "the field is left out")?))
        };
        let config = LogsConfig {
            level: s.choice("level", default.level, &levels),
            development: s.flag("development", default.development),
            encoding: s.choice(
                "encoding",
                default.encoding,
                &[("console", Encoding::Console), ("json", Encoding::Json)],
            ),
            disable_caller: s.flag("disable_caller", default.disable_caller),
            disable_stacktrace: s.flag("disable_stacktrace", default.disable_stacktrace),
            sampling: s.section("sampling", Sampling::read),
            output_paths: outputs(s, "output_paths").unwrap_or(default.output_paths),
            error_output_paths: outputs(s, "error_output_paths").unwrap_or(default.error_output_paths),
            initial_fields: fields.filter_map(field).collect(),
        };
        s.warn_unless(!config.development, "development", || {
            "true has no effect: in otelcol it adds stack traces to warnings, and no line here has one".to_owned()
        });
        s.warn_unless(!config.disable_stacktrace, "disable_stacktrace", || {
            "true has no effect: no line here has a stack trace".to_owned()
        });
        config
    }
}

impl Sampling {
    fn read(s: &Section<'_>) -> Option<Sampling> {
        let default = Sampling::default();
        let enabled = s.flag("enabled", true);
        let sampling = Sampling {
            tick: s.duration("tick", default.tick),
            initial: s.number("initial", default.initial, 0..=u32::MAX),
            thereafter: s.number("thereafter", default.thereafter, 0..=u32::MAX),
        };
        s.unless(!enabled || !sampling.tick.is_zero(), "tick", || {
            "0 is not a tick; write `enabled: false` for no sampling".to_owned()
        });
        enabled.then_some(sampling)
    }
}

fn outputs(s: &Section<'_>, key: &'static str) -> Option<Vec<Output>> {
    let one = |(text, at): (String, At)| match text.as_str() {
        "stdout" => Some(Output::Stdout),
        "stderr" => Some(Output::Stderr),
        path => {
            let path = path.strip_prefix("file://").unwrap_or(path);
            if path.is_empty() || path.contains("://") {
                let message =
                    format!("{} is none of stdout, stderr, a path, file:// and an absolute path", quote(&text));
                s.reading().problems.error(at, &s.path_of(key), message);
                return None;
            }
            let path = PathBuf::from(path);
            if let Some(why) = unopenable(s.reading().host, &path) {
                let message = format!("{} cannot be opened: {why}; lines for it are missed until it can", quote(&text));
                s.reading().problems.warn(at, &s.path_of(key), message);
            }
            Some(Output::File(path))
        }
    };
    Some(s.texts_if_given(key)?.into_iter().filter_map(one).collect())
}

/// Why a file could not be appended to or made, as far as a look can tell: nothing is made or opened for it.
fn unopenable(host: &dyn Host, path: &Path) -> Option<String> {
    if host.is_dir(path) {
        return Some("it is a directory".to_owned());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty())?;
    (!host.is_dir(parent)).then(|| format!("{} is no directory", quote(&parent.display().to_string())))
}

impl MetricsConfig {
    fn read(s: &Section<'_>) -> MetricsConfig {
        let default = MetricsConfig::default();
        let levels = [
            ("none", MetricsLevel::None),
            ("basic", MetricsLevel::Basic),
            ("normal", MetricsLevel::Normal),
            ("detailed", MetricsLevel::Detailed),
        ];
        s.moot("views", "every metric is served as it is");
        let from_readers = readers(s);
        let address = s.listen("address", from_readers.unwrap_or(default.address));
        MetricsConfig { level: s.choice("level", default.level, &levels), address }
    }
}

/// Where metrics are served when `readers` stand there without a place: what otelcol has since 0.111. Whoever writes
/// `readers` did not ask for every interface.
const READERS_HOST: &str = "localhost";
const READERS_PORT: u16 = 8_888;

/// `readers`, the form of the collectors since 0.111: the first that Prometheus pulls from says what `address` says,
/// the others are told. None: `address` or its default counts.
fn readers(s: &Section<'_>) -> Option<Listen> {
    let is_given = s.gives("readers");
    let all = s.items("readers", |s| (s.path().to_owned(), s.at(), pulled(s)));
    if !is_given {
        return None;
    }
    if s.fills("address") {
        s.warn("readers", "has no effect: address goes before it");
        return None;
    }
    let chosen = all.iter().position(|(.., listen)| listen.is_some());
    let listen = chosen.and_then(|n| all[n].2.clone()).unwrap_or_else(|| Listen::new(READERS_HOST, READERS_PORT));
    s.warn_unless(chosen.is_some(), "readers", || {
        format!("names none that Prometheus pulls from; metrics are served at {listen}, and `level: none` serves none")
    });
    for (_, (path, at, _)) in all.iter().enumerate().filter(|(n, _)| Some(*n) != chosen) {
        let message = format!("is set aside: metrics are served at one place, {listen}");
        s.reading().problems.warn(*at, path, message);
    }
    Some(listen)
}

/// The place of a reader that is pulled from; None: it is another one.
fn pulled(s: &Section<'_>) -> Option<Listen> {
    s.accept(&["periodic"]);
    let prometheus = |s: &Section<'_>| {
        let host = s.text("host", READERS_HOST);
        let port = s.number("port", READERS_PORT, 0..=u16::MAX);
        s.accept(&["without_type_suffix", "without_units", "without_scope_info"]);
        s.accept(&["with_resource_constant_labels", "translation_strategy"]);
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        let listen = Listen::new(bare, port);
        // As `address` would be read.
        Listen::parse(&listen.to_string()).map_err(|why| s.error("host", why)).unwrap_or(listen)
    };
    let exporter = |s: &Section<'_>| {
        let newer = s.section_if_there("prometheus/development", prometheus);
        s.section_if_there("prometheus", prometheus).or(newer)
    };
    let pull = |s: &Section<'_>| {
        s.accept(&["producers", "cardinality_limits"]);
        s.section_if_there("exporter", exporter).flatten()
    };
    s.section_if_there("pull", pull).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    #[test]
    fn the_whole_section_is_read() {
        let yaml = "{logs: {level: WARN, encoding: json, disable_caller: true, sampling: {enabled: false}, \
                            output_paths: [stdout, /a.log, 'file:///b'], initial_fields: {site: 7, id: '${N}'}}, \
                     metrics: {level: detailed, address: 'localhost:9999'}, \
                     resource: {site: north, n: 7, service.instance.id: ~}}";
        let (config, told) = try_out(yaml, &[("N", "0123")], TelemetryConfig::read);
        assert_eq!(told, "");
        let logs = LogsConfig {
            level: Level::Warn,
            encoding: Encoding::Json,
            disable_caller: true,
            sampling: None,
            output_paths: vec![Output::Stdout, Output::File("/a.log".into()), Output::File("/b".into())],
            initial_fields: vec![("site".into(), Any::Int(7)), ("id".into(), Any::Text("0123".into()))],
            ..LogsConfig::default()
        };
        let metrics = MetricsConfig { level: MetricsLevel::Detailed, address: Listen::new("localhost", 9_999) };
        let label = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        let resource = vec![label("site", Some("north")), label("n", Some("7")), label("service.instance.id", None)];
        assert_eq!(config, TelemetryConfig { logs, metrics, resource });
    }

    #[test]
    #[rustfmt::skip]
    fn a_reader_that_is_pulled_from_says_where_metrics_are_served() {
        let pull = |place: &str| format!("{{pull: {{exporter: {{prometheus: {{{place}}}}}}}}}");
        let periodic = "{periodic: {interval: 10000, exporter: {otlp: {protocol: http/protobuf, endpoint: 'http://x'}}}}";
        let aside = "warning: is set aside: metrics are served at one place, ";
        for (readers, address, told) in [
            (pull("host: 127.0.0.1, port: 9999"),                   "127.0.0.1:9999", String::new()),
            (pull("host: '0.0.0.0', port: 9999, without_units: true"), "0.0.0.0:9999", String::new()),
            (pull("host: '::1', port: '1'"),                        "[::1]:1",        String::new()),
            (pull(""),                                              "localhost:8888", String::new()),
            (pull("host: '${GONE}'"),                               "localhost:8888", "warning: the variable `GONE` is not set; the default stays".to_owned()),
            (format!("{periodic}, {}, {}", pull("host: a, port: 2"), pull("port: 3")), "a:2", format!("{aside}a:2 | {aside}a:2")),
            (periodic.to_owned(),                                   "localhost:8888", format!("warning: names none that Prometheus pulls from; metrics are served at localhost:8888, and `level: none` serves none | {aside}localhost:8888")),
            (String::new(),                                         "localhost:8888", "warning: names none that Prometheus pulls from; metrics are served at localhost:8888, and `level: none` serves none".to_owned()),
            (pull("host: 'u:SECRET@h'"),                            "[u:SECRET@h]:8888", "`REDACTED@h]:8888` is not `host:port`".to_owned()),
            (pull("prot: 1"),                                       "localhost:8888", "`prot` is not a key here; did you mean `port`?".to_owned()),
        ] {
            let (config, said) = try_out(&format!("{{readers: [{readers}]}}"), &[], MetricsConfig::read);
            assert_eq!((config.address.to_string().as_str(), said), (address, told), "{readers}");
        }
        let (config, told) = try_out(&format!("{{address: ':1', readers: [{}]}}", pull("host: a")), &[], MetricsConfig::read);
        assert_eq!((config.address, told.as_str()), (Listen::new("", 1), "warning: has no effect: address goes before it"));
        let (config, told) = try_out("{readers: }", &[], MetricsConfig::read);
        assert_eq!((config, told.as_str()), (MetricsConfig::default(), ""));
    }

    #[test]
    fn labels_may_be_a_list_of_names_and_values() {
        let yaml = "{resource: {site: north, attributes: [{name: n, value: 7, type: int}, {name: o, value: '0123'}, \
                    {value: x}, {name: l, value: [1]}, {name: gone, value: '${GONE}'}], schema_url: x}}";
        let (config, told) = try_out(yaml, &[], TelemetryConfig::read);
        let label = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        assert_eq!(config.resource, [label("site", "north"), label("n", "7"), label("o", "0123")]);
        assert_eq!(
            told,
            "a label needs a name | a label is a text | warning: the variable `GONE` is not set; the label is left out | \
             warning: has no effect: labels are taken from attributes, or stand here as `name: value`"
        );
        // A label may be called so.
        let (config, told) = try_out("{resource: {attributes: x}}", &[], TelemetryConfig::read);
        assert_eq!((config.resource, told.as_str()), (vec![label("attributes", "x")], ""));
    }

    #[test]
    fn a_label_without_its_variable_is_left_out_and_not_taken_away() {
        let (config, told) = try_out("{resource: {service.name: '${GONE}'}}", &[], TelemetryConfig::read);
        assert_eq!(
            (config.resource, told.as_str()),
            (vec![], "warning: the variable `GONE` is not set; the label is left out")
        );
    }
}
