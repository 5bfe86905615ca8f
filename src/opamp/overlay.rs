//! What a management server may set when the operator lets it: the keys of [`KEYS`] and nothing else, each in its range.
//!
//! Nobody signs what OpAMP carries, so a server that was broken into says what its attacker likes. None of these keys names a file, a
//! command, a listener, an address or a credential; none drops an item, shortens how long it is kept, or stops it from being sent. What
//! would make the agent say more than the operator had it say is bounded by the local value (`app/remote.rs`). The worst they do is to
//! make a backlog slow, by the same floor as the platform's `drain_rate`.
//!
//! What always holds:
//! * An overlay holds these keys alone, as they were understood here: what is laid over the configuration is written anew from the
//!   values, so two readers of one text cannot disagree about it.
//! * It holds no reference: a server learns nothing of the machine by `${env:…}`.

use super::messages::AgentConfigMap;
use crate::base::units::{parse_bytes, parse_duration};
use crate::config::problems::{Problems, quote};
use crate::config::tree::{Node, Scalar, Typed, Value};
use crate::config::{Id, parse_text};
use crate::registrar::answer::{MESSAGE_MAX, short};
use crate::registrar::office::DRAIN_RATE_MIN;
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a key's value may be, bytes.
const VALUE_MAX: usize = 32;
/// Problems that are told of one overlay.
const PROBLEMS_MAX: usize = 3;

/// What a key takes.
#[derive(Debug, Clone, Copy)]
enum Takes {
    /// A duration between these.
    Duration(Duration, Duration),
    /// A whole number between these.
    Number(i64, i64),
    /// A number between these.
    Decimal(f64, f64),
    /// Bytes a second, at least so many.
    Rate(u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Some of these words.
    Words(&'static [&'static str]),
}

/// A key: where it stands, and what it takes. In a class of components its second part is an id of one of these types.
#[derive(Debug, Clone, Copy)]
struct Key {
    class: &'static str,
    kinds: &'static [&'static str],
    path: &'static str,
    takes: Takes,
}

const fn key(class: &'static str, kinds: &'static [&'static str], path: &'static str, takes: Takes) -> Key {
    Key { class, kinds, path, takes }
}

const HOUR: Duration = Duration::from_secs(3_600);
const OTLP: &[&str] = &["otlphttp", "otlp_http", "otlp", "otlp_grpc"];
const ORDERS: &[&str] = &["oldest_first", "live_first", "newest_first"];

/// The closed list (`docs/opamp.md` tells why each may be on it).
const KEYS: [Key; 10] = [
    key("processors", &["batch"], "timeout", Takes::Duration(Duration::ZERO, Duration::from_secs(60))),
    key("processors", &["batch"], "send_batch_size", Takes::Number(100, 100_000)),
    key("processors", &["batch"], "send_batch_max_size", Takes::Number(100, 100_000)),
    key("exporters", OTLP, "drain.order", Takes::Word(ORDERS)),
    key("exporters", OTLP, "drain.backlog_share", Takes::Decimal(0.05, 0.95)),
    key("exporters", OTLP, "drain.max_rate", Takes::Rate(DRAIN_RATE_MIN)),
    key("exporters", OTLP, "drain.priority", Takes::Words(&["traces", "metrics", "logs"])),
    key("receivers", &["self"], "collection_interval", Takes::Duration(Duration::from_secs(5), HOUR)),
    key("extensions", &["opamp"], "server.http.polling_interval", Takes::Duration(Duration::from_secs(5), HOUR)),
    key("service", &[], "telemetry.logs.level", Takes::Word(&["debug", "info", "warn", "error"])),
];

/// What a server sets, understood and in range.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overlay {
    /// By path: class, id, keys.
    values: BTreeMap<Vec<String>, Json>,
}

impl Overlay {
    /// Reads what a server offers: one file of YAML or none; without a file, or an empty one, nothing is set.
    ///
    /// # Errors
    /// Why it is not taken, in a line of [`MESSAGE_MAX`] characters.
    pub fn read(files: &AgentConfigMap) -> Result<Overlay, String> {
        let mut all = files.config_map.iter();
        let Some((_, file)) = all.next() else { return Ok(Overlay::default()) };
        if all.next().is_some() {
            return Err(format!("there are {} files; one is taken", files.config_map.len()));
        }
        let kind = file.content_type.split(';').next().unwrap_or_default().trim();
        if !matches!(kind, "" | "text/yaml" | "application/yaml" | "text/x-yaml" | "application/x-yaml") {
            return Err(short(&format!("the file is {}, not text/yaml", quote(kind)), MESSAGE_MAX));
        }
        let Ok(text) = std::str::from_utf8(&file.body) else { return Err("the file is not UTF-8".to_owned()) };
        Overlay::of_text(text).map_err(|why| short(&why, MESSAGE_MAX))
    }

    fn of_text(text: &str) -> Result<Overlay, String> {
        if text.contains('$') {
            return Err("there is a `$` in it: references are not taken from a server".to_owned());
        }
        let problems = Problems::new();
        let root = parse_text(text, "remote configuration", &problems);
        let report = problems.into_report();
        let Some(root) = root.filter(|_| report.errors() == 0) else {
            let first = report.problems().first().map(|problem| (problem.at, problem.told()));
            let (at, told) = first.ok_or("it is no YAML")?;
            return Err(format!("line {}, column {}: {told}", at.line, at.column));
        };
        let mut reading = Reading::default();
        reading.walk(&root, &mut Vec::new());
        match reading.problems.is_empty() {
            true => Ok(Overlay { values: reading.values }),
            false => Err(reading.told()),
        }
    }

    /// Nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The components it speaks of, by class. They must be there: nothing is made by it.
    #[must_use]
    pub fn components(&self) -> BTreeSet<(&str, Id)> {
        let named = self.values.keys().filter(|path| path[0] != "service");
        named.filter_map(|path| Some((path[0].as_str(), Id::parse(&path[1]).ok()?))).collect()
    }

    /// As YAML to lay over a configuration; empty when nothing is set.
    #[must_use]
    pub fn text(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let mut root = Map::new();
        for (path, value) in &self.values {
            let Some((last, above)) = path.split_last() else { continue };
            let mut at = &mut root;
            for key in above {
                let below = at.entry(key.clone()).or_insert_with(|| Json::Object(Map::new()));
                // A value never stands above another one: no path of the list begins another.
                let Json::Object(map) = below else { return String::new() };
                at = map;
            }
            at.insert(last.clone(), value.clone());
        }
        Json::Object(root).to_string()
    }
}

#[derive(Debug, Default)]
struct Reading {
    values: BTreeMap<Vec<String>, Json>,
    problems: Vec<String>,
}

impl Reading {
    fn walk(&mut self, node: &Node, path: &mut Vec<String>) {
        if let Some(key) = (path.len() > 2).then(|| key_at(path)).flatten() {
            match value(key.takes, &node.value) {
                Ok(value) => drop(self.values.insert(path.clone(), value)),
                Err(why) => self.refuse(path, &why),
            }
            return;
        }
        match &node.value {
            Value::Map(entries) if leads_on(path) => {
                for entry in entries {
                    path.push(entry.key.clone());
                    self.walk(&entry.value, path);
                    path.pop();
                }
            }
            _ if node.is_null() && leads_on(path) => {}
            _ if path.is_empty() => self.problems.push("it is no map of keys".to_owned()),
            _ => self.refuse(path, "a server may not set this"),
        }
    }

    fn refuse(&mut self, path: &[String], why: &str) {
        let path = short(&path.join("."), 2 * VALUE_MAX);
        self.problems.push(format!("{path}: {why}"));
    }

    fn told(&self) -> String {
        let mut told = self.problems.iter().take(PROBLEMS_MAX).cloned().collect::<Vec<_>>().join("; ");
        if self.problems.len() > PROBLEMS_MAX {
            told = format!("{told}; and {} more", self.problems.len() - PROBLEMS_MAX);
        }
        told
    }
}

/// A path by the list: its class, whether its id is of a type that is on it, and its keys.
fn parts(path: &[String]) -> Option<(&str, Option<Id>, &[String])> {
    match path {
        [class, keys @ ..] if class == "service" => Some((class, None, keys)),
        [class, id, keys @ ..] => {
            Some((class, Some(Id::parse(id).ok().filter(|known| known.to_string() == *id)?), keys))
        }
        _ => None,
    }
}

fn is_of(key: &Key, class: &str, id: Option<&Id>) -> bool {
    key.class == class && id.is_none_or(|id| key.kinds.contains(&id.kind()))
}

fn key_at(path: &[String]) -> Option<&'static Key> {
    let (class, id, keys) = parts(path)?;
    KEYS.iter().find(|key| is_of(key, class, id.as_ref()) && key.path.split('.').eq(keys.iter().map(String::as_str)))
}

/// Something of the list may stand below this path.
fn leads_on(path: &[String]) -> bool {
    match path {
        [] => true,
        [class] => KEYS.iter().any(|key| key.class == class),
        _ => parts(path).is_some_and(|(class, id, keys)| {
            KEYS.iter().filter(|key| is_of(key, class, id.as_ref())).any(|key| {
                let mut wanted = key.path.split('.');
                keys.iter().all(|key| wanted.next() == Some(key)) && wanted.next().is_some()
            })
        }),
    }
}

/// A value in its range, as it is written anew.
fn value(takes: Takes, found: &Value) -> Result<Json, String> {
    if let (Takes::Words(words), Value::Seq(items)) = (takes, found) {
        let word = |item: &Node| match &item.value {
            Value::Scalar(scalar) => one_of(words, scalar),
            _ => Err(format!("must be some of {}", words.join(", "))),
        };
        let all: Vec<Json> = items.iter().map(word).collect::<Result<_, _>>()?;
        let distinct: BTreeSet<&str> = all.iter().filter_map(Json::as_str).collect();
        return if distinct.len() == all.len() { Ok(Json::Array(all)) } else { Err("names one twice".to_owned()) };
    }
    let Value::Scalar(scalar) = found else { return Err(format!("must be {}", wanted(takes))) };
    let text = scalar.text.trim();
    let no = || format!("{} is not {}", quote(&short(text, VALUE_MAX)), wanted(takes));
    if text.len() > VALUE_MAX {
        return Err(no());
    }
    match takes {
        Takes::Duration(least, most) => {
            let found = parse_duration(text).ok().filter(|found| (least..=most).contains(found));
            found.map(|_| Json::from(text)).ok_or_else(no)
        }
        Takes::Rate(least) => {
            let found = text.strip_suffix("/s").or(Some(text)).and_then(parse_bytes).filter(|found| found.0 >= least);
            found.map(|found| Json::from(found.0)).ok_or_else(no)
        }
        Takes::Number(least, most) => match scalar.typed() {
            Typed::Int(found) if (least..=most).contains(&found) => Ok(Json::from(found)),
            _ => Err(no()),
        },
        Takes::Decimal(least, most) => match scalar.typed() {
            Typed::Float(found) if (least..=most).contains(&found) => Ok(Json::from(found)),
            _ => Err(no()),
        },
        Takes::Word(words) => one_of(words, scalar),
        Takes::Words(_) => Err(no()),
    }
}

fn one_of(words: &[&'static str], scalar: &Scalar) -> Result<Json, String> {
    let found = words.iter().find(|word| word.eq_ignore_ascii_case(scalar.text.trim()));
    let no = || format!("{} is not one of {}", quote(&short(&scalar.text, VALUE_MAX)), words.join(", "));
    found.map(|word| Json::from(*word)).ok_or_else(no)
}

fn wanted(takes: Takes) -> String {
    match takes {
        Takes::Duration(least, most) => format!("a duration from {least:?} to {most:?}"),
        Takes::Number(least, most) => format!("a number from {least} to {most}"),
        Takes::Decimal(least, most) => format!("a number from {least} to {most}"),
        Takes::Rate(least) => format!("bytes a second, {least} or more"),
        Takes::Word(words) => format!("one of {}", words.join(", ")),
        Takes::Words(words) => format!("a list of some of {}", words.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::AgentConfigFile;
    use super::*;
    use bytes::Bytes;

    fn files(all: &[(&str, &str, &[u8])]) -> AgentConfigMap {
        let file = |(name, kind, body): &(&str, &str, &[u8])| {
            let file = AgentConfigFile { body: Bytes::copy_from_slice(body), content_type: (*kind).to_owned() };
            ((*name).to_owned(), file)
        };
        AgentConfigMap { config_map: all.iter().map(file).collect() }
    }

    fn read(text: &str) -> Result<Overlay, String> {
        Overlay::read(&files(&[("", "text/yaml", text.as_bytes())]))
    }

    #[test]
    fn what_is_on_the_list_is_taken_and_written_anew() {
        let all = "
processors:
  batch: {timeout: 5s, send_batch_size: 1000}
  batch/big: {send_batch_max_size: 0x2710}
exporters:
  otlphttp: {drain: {order: LIVE_FIRST, backlog_share: .5, max_rate: 64 KiB/s, priority: [logs, Metrics]}}
  otlp/b: {drain: {max_rate: 16384}}
receivers: {self: {collection_interval: 1m}}
extensions: {opamp: {server: {http: {polling_interval: 10s}}}}
service: {telemetry: {logs: {level: debug}}}
";
        let overlay = read(all).expect("it is on the list");
        let written: Json = serde_json::from_str(&overlay.text()).expect("it is JSON");
        let wanted = serde_json::json!({
            "processors": {"batch": {"timeout": "5s", "send_batch_size": 1000}, "batch/big": {"send_batch_max_size": 10_000}},
            "exporters": {
                "otlphttp": {"drain": {
                    "order": "live_first", "backlog_share": 0.5, "max_rate": 65_536,
                    "priority": ["logs", "metrics"],
                }},
                "otlp/b": {"drain": {"max_rate": 16_384}},
            },
            "receivers": {"self": {"collection_interval": "1m"}},
            "extensions": {"opamp": {"server": {"http": {"polling_interval": "10s"}}}},
            "service": {"telemetry": {"logs": {"level": "debug"}}},
        });
        assert_eq!(written, wanted);
        let named: Vec<String> = overlay.components().into_iter().map(|(class, id)| format!("{class}.{id}")).collect();
        assert_eq!(
            named,
            [
                "exporters.otlp/b",
                "exporters.otlphttp",
                "extensions.opamp",
                "processors.batch",
                "processors.batch/big",
                "receivers.self"
            ]
        );
        // What was written reads back as the same.
        assert_eq!(read(&overlay.text()), Ok(overlay));
    }

    #[test]
    fn nothing_is_set_by_nothing() {
        for files in [files(&[]), files(&[("", "", b"")]), files(&[("a", "text/yaml; charset=utf-8", b"# empty\n")])] {
            assert_eq!(Overlay::read(&files), Ok(Overlay::default()), "{files:?}");
        }
        for text in ["{}", "exporters:", "exporters: {otlphttp: {drain: }}", "processors: {batch: {}}"] {
            assert_eq!(read(text), Ok(Overlay::default()), "{text}");
        }
        assert_eq!(Overlay::default().text(), "");
    }

    /// Goal: whatever else a server says is refused whole, with the path, and says nothing of the machine.
    #[test]
    #[rustfmt::skip]
    fn what_is_not_on_the_list_is_refused_with_its_path() {
        for (text, why) in [
            ("exporters: {otlphttp: {endpoint: 'http://evil'}}",             "exporters.otlphttp.endpoint: a server may not set this"),
            ("exporters: {otlphttp: {drain: {max_rate: 1}}}",                "drain.max_rate: `1` is not bytes a second, 16384 or more"),
            ("exporters: {otlphttp: {drain: {max_rate: 64KiB, x: 1}}}",      "exporters.otlphttp.drain.x: a server may not set this"),
            // Samples that come after newer ones are refused by many far ends.
            ("exporters: {otlphttp: {drain: {metrics_order: newest_first}}}", "drain.metrics_order: a server may not set this"),
            ("exporters: {otlphttp: {drain: 5}}",                            "exporters.otlphttp.drain: a server may not set this"),
            ("exporters: {otlphttp: {drain: [5]}}",                          "exporters.otlphttp.drain: a server may not set this"),
            ("exporters: {debug: {drain: {order: live_first}}}",             "exporters.debug: a server may not set this"),
            ("exporters: {otlphttp: {drain: {backlog_share: 0}}}",           "`0` is not a number from 0.05 to 0.95"),
            ("exporters: {otlphttp: {drain: {backlog_share: '.5'}}}",        "is not a number from 0.05"),
            ("exporters: {otlphttp: {drain: {backlog_share: .nan}}}",        "is not a number from 0.05"),
            ("exporters: {otlphttp: {drain: {order: sideways}}}",            "`sideways` is not one of oldest_first"),
            ("exporters: {otlphttp: {drain: {order: {a: b}}}}",              "must be one of oldest_first"),
            ("exporters: {otlphttp: {drain: {priority: logs}}}",             "is not a list of some of"),
            ("exporters: {otlphttp: {drain: {priority: [logs, logs]}}}",     "names one twice"),
            ("exporters: {otlphttp: {drain: {priority: [profiles]}}}",       "`profiles` is not one of"),
            ("exporters: {otlphttp::drain::max_rate: 64KiB}",                "a server may not set this"),
            ("exporters::otlphttp::endpoint: a",                             "a server may not set this"),
            ("exporters: {' otlphttp': {drain: {order: live_first}}}",       "a server may not set this"),
            ("processors: {batch: {timeout: 2m}}",                           "processors.batch.timeout: `2m` is not a duration from 0ns to 60s"),
            ("processors: {batch: {timeout: 5}}",                            "is not a duration"),
            ("processors: {batch: {send_batch_size: 1}}",                    "is not a number from 100 to 100000"),
            ("processors: {batch: {send_batch_size: '1000'}}",               "is not a number from 100"),
            ("processors: {filter: {logs: {}}}",                             "processors.filter: a server may not set this"),
            ("receivers: {otlp: {protocols: {http: {endpoint: 'a:1'}}}}",    "receivers.otlp: a server may not set this"),
            ("extensions: {file_storage: {directory: /etc}}",                "extensions.file_storage: a server may not set this"),
            ("extensions: {opamp: {server: {http: {endpoint: 'http://x'}}}}", "extensions.opamp.server.http.endpoint: a server may not"),
            ("extensions: {opamp: {server: {http: {polling_interval: 1s}}}}", "is not a duration from 5s"),
            ("service: {pipelines: {logs: {}}}",                             "service.pipelines: a server may not set this"),
            ("service: {telemetry: {logs: {output_paths: [/etc/x]}}}",       "service.telemetry.logs.output_paths: a server may not"),
            ("registration: {enabled: false}",                               "registration: a server may not set this"),
            ("service: {telemetry: {logs: {level: '${env:HOME}'}}}",         "references are not taken"),
            ("a: 1\na: 2\n",                                                 "line 2"),
            ("[a]",                                                          "the document is a list"),
            ("a: [",                                                         "line "),
        ] {
            let told = read(text).expect_err(text);
            assert!(told.contains(why) && told.chars().count() <= MESSAGE_MAX + 1, "{text}: {told}");
        }
        let many: String = (0..50).map(|n| format!("k{n}: 1\n")).collect();
        assert!(read(&many).is_err_and(|told| told.ends_with("; and 47 more")));
        let long = format!("exporters: {{otlphttp: {{drain: {{order: '{}\\n\u{1b}[2J'}}}}}}", "x".repeat(5_000));
        assert!(read(&long).is_err_and(|told| told.len() < 300 && !told.contains(char::is_control)));
        for (files, why) in [
            (files(&[("a", "", b"{}"), ("b", "", b"{}")]),                   "there are 2 files"),
            (files(&[("", "application/toml", b"")]),                        "not text/yaml"),
            (files(&[("", "text/yaml", b"\xff")]),                           "is not UTF-8"),
        ] {
            assert!(Overlay::read(&files).is_err_and(|told| told.contains(why)), "{why}");
        }
    }
}
