//! From locations to a [`Config`]: components by class, then what `service` says of them, then what must hold
//! between them.

use super::catalogue::{Class, EXPORTERS, EXTENSIONS, PROCESSORS, RECEIVERS};
use super::{Config, ExtensionConfig, PipelineConfig, ServiceConfig, check};
use crate::config::problems::{At, Problems, Report, quote};
use crate::config::tree::Node;
use crate::config::{Given, Host, Id, Locations, Reading, Section, load_from, load_given, print};
use crate::extensions::health_check::config::HealthCheckConfig;
use crate::otlp::Signal;
use crate::registrar::config::RegistrationConfig;
use crate::telemetry::config::TelemetryConfig;
use std::collections::{BTreeMap, BTreeSet};

/// What reading came to.
#[derive(Debug)]
pub struct Outcome {
    /// The configuration; `None` when an error stands in the report.
    pub config: Option<Config>,
    /// Everything to tell, warnings too.
    pub report: Report,
    /// Every key the readers asked for (see [`Reading::asked`]).
    pub asked: BTreeSet<String>,
    /// The configuration as it was read: merged, its references resolved, what nobody shall see masked; as YAML.
    pub effective: String,
    /// What it was read from; whole when there is a configuration.
    pub given: Given,
}

/// Reads a configuration whole.
#[must_use]
pub fn read(locations: &Locations, host: &dyn Host) -> Outcome {
    let problems = Problems::new();
    let (root, given) = load_from(locations, host, &problems);
    understand(root, given, host, problems)
}

/// [`read`] of what is there already.
#[must_use]
pub fn read_given(given: &Given, host: &dyn Host) -> Outcome {
    let problems = Problems::new();
    let root = load_given(given, host, &problems);
    understand(root, given.clone(), host, problems)
}

fn understand(root: Option<Node>, given: Given, host: &dyn Host, problems: Problems) -> Outcome {
    let mut asked = BTreeSet::new();
    let mut effective = String::new();
    let config = root.map(|root| {
        let reading = Reading::new(&problems, host);
        let config = Section::read(&reading, &root, "", "", read_top);
        asked = reading.asked();
        if !problems.is_partial() {
            effective = print(&root, &reading);
        }
        config
    });
    let config = config.filter(|_| !problems.has_errors());
    Outcome { config, report: problems.into_report(), asked, effective, given }
}

fn read_top(top: &Section<'_>) -> Config {
    let mut defined = Defined {
        receivers: Components::read(top, &RECEIVERS),
        processors: Components::read(top, &PROCESSORS),
        exporters: Components::read(top, &EXPORTERS),
        extensions: Components::read(top, &EXTENSIONS),
    };
    top.refuse("connectors", "connectors are not available in this build");
    top.moot("resources", "it belongs to the Kubernetes manifest of the pod, not to the agent");
    for (class, none) in [("receivers", defined.receivers.is_empty()), ("exporters", defined.exporters.is_empty())] {
        if none {
            top.error(class, format!("there are no {class}; an agent needs at least one"));
        }
    }
    let service = top.section("service", |s| read_service(s, &mut defined));
    let is_there = top.has("registration");
    let registration = top.section("registration", |s| RegistrationConfig::read(s, is_there));
    let mut config = Config {
        receivers: defined.receivers.into_present(top),
        processors: defined.processors.into_present(top),
        exporters: defined.exporters.into_present(top),
        extensions: defined.extensions.into_present(top),
        registration,
        service,
    };
    check::check(&mut config, top);
    config
}

/// What stands under the four classes.
struct Defined {
    receivers: Components<super::ReceiverConfig>,
    processors: Components<super::ProcessorConfig>,
    exporters: Components<super::ExporterConfig>,
    extensions: Components<super::ExtensionConfig>,
}

impl Defined {
    /// Which class has this id, for those who look in the wrong one.
    fn class_with(&self, id: &Id) -> Option<&'static str> {
        let classes = [
            ("receivers", self.receivers.all.contains_key(id)),
            ("processors", self.processors.all.contains_key(id)),
            ("exporters", self.exporters.all.contains_key(id)),
            ("extensions", self.extensions.all.contains_key(id)),
        ];
        classes.into_iter().find(|(_, has)| *has).map(|(class, _)| class)
    }
}

/// The components of one class.
struct Components<T: 'static> {
    class: &'static Class<T>,
    all: BTreeMap<Id, Component<T>>,
}

struct Component<T> {
    at: At,
    /// `None`: its type is not in this build, or not known.
    config: Option<T>,
    used: bool,
}

impl<T> Components<T> {
    fn read(top: &Section<'_>, class: &'static Class<T>) -> Components<T> {
        let mut all = BTreeMap::new();
        let reading = top.reading();
        let problems = reading.problems;
        for entry in top.map(class.key) {
            let at = entry.key_at;
            let path = format!("{}.{}", class.key, entry.key);
            let id = match Id::parse(&entry.key) {
                Ok(id) => id,
                Err(e) => {
                    problems.error(at, &path, e.to_string());
                    continue;
                }
            };
            let kind = class.kind(id.kind());
            if kind.is_none() {
                tell_unknown(problems, at, &path, class, id.kind());
            }
            if kind.is_none_or(|kind| kind.read.is_none()) {
                reading.is_unread(path.clone());
            }
            let config = kind.and_then(|kind| {
                let pattern = format!("{}.{}", class.key, kind.names[0]);
                Some(Section::read(reading, &entry.value, &path, &pattern, kind.read?))
            });
            // What is not known is told; that nobody uses it need not be.
            let component = Component { at, config, used: kind.is_none() };
            if all.insert(id, component).is_some() {
                problems.error(at, &path, "is the same id as one above, but for blanks");
            }
        }
        Components { class, all }
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those this build has. The others are told, unless a pipeline that uses them already did.
    fn into_present(self, top: &Section<'_>) -> BTreeMap<Id, T> {
        let present = self.all.into_iter().filter_map(|(id, component)| {
            if component.config.is_none() && !component.used && !top.reading().problems.is_partial() {
                let message = format!(
                    "the {} {} is not available in this build; nothing uses it",
                    self.class.one,
                    quote(id.kind())
                );
                top.reading().problems.warn(component.at, &format!("{}.{id}", self.class.key), message);
            }
            Some((id, component.config?))
        });
        present.collect()
    }
}

fn tell_unknown<T>(problems: &Problems, at: At, path: &str, class: &Class<T>, kind: &str) {
    let meant = problems.meant(kind, class.kinds.iter().flat_map(|kind| kind.names.iter().copied()));
    let names: Vec<_> = class.names().collect();
    let message = format!("{} is no {} type; there are {}", quote(kind), class.one, names.join(", "));
    problems.error_meaning(at, path, message, meant);
}

fn read_service(s: &Section<'_>, defined: &mut Defined) -> ServiceConfig {
    let extensions = read_extensions(s, defined);
    let pipelines = read_pipelines(s, defined);
    ServiceConfig { extensions, pipelines, telemetry: s.section("telemetry", TelemetryConfig::read) }
}

fn read_extensions(s: &Section<'_>, defined: &mut Defined) -> Vec<Id> {
    let mut listed = Vec::new();
    let health_check = Id::of("health_check");
    for (text, at) in s.texts_if_given("extensions").unwrap_or_default() {
        let is_health_check = Id::parse(&text).is_ok_and(|id| id == health_check);
        if is_health_check && !defined.extensions.all.contains_key(&health_check) {
            let config = HealthCheckConfig::default();
            let message = format!(
                "`health_check` is not defined under extensions; it is taken with its defaults, at {}",
                config.server.endpoint
            );
            if !s.reading().problems.is_partial() {
                s.reading().problems.warn(at, &s.path_of("extensions"), message);
            }
            let config = Some(ExtensionConfig::HealthCheck(Box::new(config)));
            defined.extensions.all.insert(health_check.clone(), Component { at, config, used: true });
        }
        let id = refer(s, "extensions", (&text, at), None, defined, |d| &mut d.extensions);
        listed.extend(id.filter(|id| !listed.contains(id)));
    }
    listed
}

fn read_pipelines(s: &Section<'_>, defined: &mut Defined) -> Vec<PipelineConfig> {
    let entries = s.map("pipelines");
    if entries.is_empty() {
        s.error("pipelines", "there are no pipelines; a service needs at least one");
    }
    let mut pipelines: Vec<PipelineConfig> = Vec::new();
    for entry in entries {
        let path = format!("{}.{}", s.path_of("pipelines"), entry.key);
        let Some((signal, name)) = pipeline_id(s, &entry.key, entry.key_at, &path) else { continue };
        if pipelines.iter().any(|p| p.signal == signal && p.name == name) {
            s.reading().problems.error(entry.key_at, &path, "is the same pipeline as one above, but for blanks");
            continue;
        }
        let pattern = "service.pipelines.*";
        pipelines.push(Section::read(s.reading(), &entry.value, &path, pattern, |s| {
            read_pipeline(s, entry.key_at, signal, name, defined)
        }));
    }
    pipelines
}

fn pipeline_id(s: &Section<'_>, text: &str, at: At, path: &str) -> Option<(Signal, String)> {
    let problems = s.reading().problems;
    let id = Id::parse(text).map_err(|e| problems.error(at, path, e.to_string())).ok()?;
    let signal = Signal::ALL.into_iter().find(|signal| signal.name() == id.kind());
    if signal.is_none() {
        let meant = problems.meant(id.kind(), Signal::ALL.map(Signal::name));
        let message =
            format!("{} is no signal; a pipeline is one of traces, metrics, logs, maybe with /name", quote(id.kind()));
        problems.error_meaning(at, path, message, meant);
    }
    Some((signal?, id.name().to_owned()))
}

fn read_pipeline(s: &Section<'_>, at: At, signal: Signal, name: String, defined: &mut Defined) -> PipelineConfig {
    let receivers = refer_all(s, &RECEIVERS, signal, defined, |d| &mut d.receivers);
    let processors = refer_all(s, &PROCESSORS, signal, defined, |d| &mut d.processors);
    let exporters = refer_all(s, &EXPORTERS, signal, defined, |d| &mut d.exporters);
    for (key, one) in [("receivers", "receiver"), ("exporters", "exporter")] {
        let lacks = s.texts_if_given(key).is_none_or(|texts| texts.is_empty());
        if lacks && !s.reading().problems.is_partial() {
            s.reading().problems.error(at, &s.path_of(key), format!("a pipeline needs at least one {one}"));
        }
    }
    PipelineConfig { signal, name, receivers, processors, exporters }
}

fn refer_all<T: 'static>(
    s: &Section<'_>,
    class: &'static Class<T>,
    signal: Signal,
    defined: &mut Defined,
    of: impl Fn(&mut Defined) -> &mut Components<T>,
) -> Vec<Id> {
    let mut ids = Vec::new();
    for (text, at) in s.texts_if_given(class.key).unwrap_or_default() {
        let Some(id) = refer(s, class.key, (&text, at), Some(signal), defined, &of) else { continue };
        if !ids.contains(&id) {
            ids.push(id);
            continue;
        }
        let (problems, path, twice) =
            (s.reading().problems, s.path_of(class.key), format!("{} stands here twice", quote(&text)));
        match class.key {
            "processors" => problems.error(at, &path, format!("{twice}; a processor acts once in a pipeline")),
            _ => problems.warn(at, &path, format!("{twice}; it is taken once")),
        }
    }
    ids
}

/// The component a text names; told when there is none, or when it cannot serve here.
fn refer<T: 'static>(
    s: &Section<'_>,
    key: &'static str,
    (text, at): (&str, At),
    signal: Option<Signal>,
    defined: &mut Defined,
    of: impl Fn(&mut Defined) -> &mut Components<T>,
) -> Option<Id> {
    let (problems, path) = (s.reading().problems, s.path_of(key));
    let id = Id::parse(text).map_err(|e| problems.error(at, &path, e.to_string())).ok()?;
    let elsewhere = defined.class_with(&id);
    let components = of(defined);
    let class = components.class;
    let Some(component) = components.all.get_mut(&id) else {
        if problems.is_partial() {
            return None; // it may stand in the source that cannot be read
        }
        let ids: Vec<String> = components.all.keys().map(Id::to_string).collect();
        let meant = problems.meant_id(text, &ids);
        let hint = elsewhere.map(|class| format!(" (it is defined under {class})")).unwrap_or_default();
        problems.error_meaning(at, &path, format!("{} is not defined under {}{hint}", quote(text), class.key), meant);
        return None;
    };
    let known = class.kind(id.kind());
    if component.config.is_none() && known.is_some() {
        problems.error(at, &path, format!("the {} {} is not available in this build", class.one, quote(id.kind())));
    }
    component.used = true;
    let fits = |signal| known.is_none_or(|kind| kind.signals.contains(&signal));
    if let Some(signal) = signal.filter(|signal| !fits(*signal)) {
        problems.error(at, &path, format!("{} does not serve {signal}", quote(text)));
    }
    Some(id)
}
