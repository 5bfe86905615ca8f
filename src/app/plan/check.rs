//! What must hold between components: ports, directories, storages, endpoints.

use super::{Config, ExporterConfig, ExtensionConfig, PipelineConfig, ProcessorConfig, ReceiverConfig};
use crate::app::registration;
use crate::app::stores::batch_of;
use crate::config::problems::{At, Problems, quote};
use crate::config::{Id, Listen, Section, TlsServer};
use crate::extensions::authenticators::htpasswd;
use crate::otlp::Signal;
use crate::processors::attributes::action::Action;
use crate::processors::attributes::matching::Matching;
use crate::processors::batch::groups::MARK;
use crate::receivers::tls;
use crate::telemetry::config::MetricsLevel;
use crate::uplink::budget::LinkBudget;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Tells every breach; what can be lived with is repaired in `config` and told as a warning.
pub(super) fn check(config: &mut Config, top: &Section<'_>) {
    let used = |ids: fn(&super::PipelineConfig) -> &Vec<Id>, config: &Config| -> BTreeSet<Id> {
        config.service.pipelines.iter().flat_map(|p| ids(p).iter().cloned()).collect()
    };
    let (receivers, exporters) = (used(|p| &p.receivers, config), used(|p| &p.exporters, config));
    check_conditions(config, top);
    // What these miss may stand in a source that could not be read.
    if !top.reading().problems.is_partial() {
        check_urls(config, top);
        check_routing(config, top);
        check_groups(config, top);
        link_storages(config, &exporters, top);
        link_authenticators(config, &receivers, &exporters, top);
        check_registration(config, top);
    }
    check_opamp(config, top);
    check_credentials(config, top);
    check_contexts(config, top);
    check_directories(config, top);
    check_ports(config, &receivers, top);
    check_faces(config, &receivers, top);
}

/// Tells something about a key of a component.
fn tell(top: &Section<'_>, class: &str, id: &Id, key: &str, how: impl FnOnce(&Problems, At, &str)) {
    let id = id.to_string();
    let keys: Vec<&str> = [class, id.as_str()].into_iter().chain(key.split('.').filter(|k| !k.is_empty())).collect();
    how(top.reading().problems, top.locate(&keys), &keys.join("."));
}

/// Who wants to register can; and what the platform may not find is told.
fn check_registration(config: &Config, top: &Section<'_>) {
    let var = |name: &str| top.reading().host.var(name);
    match registration::plan(config, &var) {
        Err(no) => {
            let path = format!("registration.{}", no.key);
            top.reading().problems.error(top.locate(&["registration", no.key]), &path, no.why);
        }
        Ok(Some(plan)) => {
            for (header, doubt) in plan.doubts(&var) {
                tell(top, "exporters", &plan.exporter, &format!("headers.{header}"), |s, at, path| {
                    s.warn(at, path, doubt);
                });
            }
        }
        Ok(None) => {}
    }
}

/// One server manages an agent; of two each would be told half of what changes.
fn check_opamp(config: &Config, top: &Section<'_>) {
    let is_opamp = |id: &&Id| matches!(config.extensions.get(*id), Some(ExtensionConfig::Opamp(_)));
    let is_storage = |id: &Id| matches!(config.extensions.get(id), Some(ExtensionConfig::FileStorage(_)));
    let mut all = config.service.extensions.iter().filter(is_opamp);
    let Some(first) = all.next() else { return };
    for second in all {
        let message = format!("there is one OpAMP server for an agent, and `{first}` names it");
        tell(top, "extensions", second, "", |s, at, path| s.error(at, path, message));
    }
    let Some((id, section)) = config.opamp().filter(|(_, section)| section.accepts_remote_config) else { return };
    let server = &section.server;
    // What goes through a proxy in clear text is nobody's word, wherever it is said to go.
    let is_encrypted =
        matches!(server.endpoint.split_once("://"), Some((scheme, _)) if scheme.to_ascii_lowercase().ends_with('s'));
    let is_direct = is_encrypted || server.proxy_url.is_none();
    let why = if !is_direct || !registration::is_trusted(&server.endpoint, Some(&server.tls)) {
        "needs a server over https with a checked certificate, or on this machine: anybody between could set the configuration"
    } else if !config.service.extensions.iter().any(is_storage) {
        "needs a file_storage in service.extensions, where what the server sets is kept"
    } else {
        return;
    };
    tell(top, "extensions", id, "capabilities.accepts_remote_config", |s, at, path| s.error(at, path, why));
}

/// Every signal that is sent to an exporter has a place to go.
fn check_urls(config: &Config, top: &Section<'_>) {
    for pipeline in &config.service.pipelines {
        for id in &pipeline.exporters {
            let Some(ExporterConfig::OtlpHttp(exporter)) = config.exporters.get(id) else { continue };
            let has_any = Signal::ALL.iter().any(|signal| exporter.url(*signal).is_some());
            if has_any && exporter.url(pipeline.signal).is_none() {
                let message =
                    format!("the pipeline `{pipeline}` sends here; give endpoint or {}_endpoint", pipeline.signal);
                tell(top, "exporters", id, "", |s, at, path| s.error(at, path, message));
            }
        }
    }
}

/// What is sent to a `loadbalancing` exporter has the key it goes by.
fn check_routing(config: &Config, top: &Section<'_>) {
    for pipeline in &config.service.pipelines {
        for id in &pipeline.exporters {
            let Some(ExporterConfig::LoadBalancing(exporter)) = config.exporters.get(id) else { continue };
            let unfit = exporter.routing_key.filter(|key| !key.suits(pipeline.signal));
            if let Some(key) = unfit {
                let message = format!(
                    "{} is no key of {}, and the pipeline `{pipeline}` sends here",
                    quote(key.name()),
                    pipeline.signal
                );
                tell(top, "exporters", id, "routing_key", |s, at, path| s.error(at, path, message));
            }
        }
    }
}

/// What `include` and `exclude` ask can be asked in the pipelines that name them.
fn check_conditions(config: &Config, top: &Section<'_>) {
    let mut seen = BTreeSet::new();
    for pipeline in &config.service.pipelines {
        let signal = pipeline.signal;
        for id in pipeline.processors.iter().filter(|id| seen.insert((*id, signal))) {
            let Some(ProcessorConfig::Attributes(attributes)) = config.processors.get(id) else { continue };
            for (key, matching) in [("include", &attributes.include), ("exclude", &attributes.exclude)] {
                if let Some(matching) = matching {
                    check_matching(matching, (id, key), pipeline, top);
                }
            }
        }
    }
}

/// `metadata_keys` can tell requests apart, and names of lanes are not ambiguous.
fn check_groups(config: &Config, top: &Section<'_>) {
    let tells = |id: &Id| match config.receivers.get(id) {
        Some(ReceiverConfig::Otlp(otlp)) => {
            otlp.grpc.as_ref().is_some_and(|grpc| grpc.include_metadata)
                || otlp.http.as_ref().is_some_and(|http| http.server.include_metadata)
        }
        _ => false,
    };
    for pipeline in &config.service.pipelines {
        let Some((id, _)) = batch_of(config, pipeline).filter(|(_, batch)| !batch.metadata_keys.is_empty()) else {
            continue;
        };
        let key = "metadata_keys";
        if !pipeline.receivers.iter().any(tells) {
            let message = format!("has no effect: no receiver of the pipeline `{pipeline}` has include_metadata");
            tell(top, "processors", id, key, |s, at, path| s.warn(at, path, message));
        }
        if pipeline.id().contains(MARK) {
            let message =
                format!("cannot be kept apart from the name of the pipeline `{pipeline}`, which has a `{MARK}`");
            tell(top, "processors", id, key, |s, at, path| s.error(at, path, message));
        }
    }
}

/// 0.88 refuses some criteria in a pipeline of another signal, and overlooks the others in silence.
fn check_matching(matching: &Matching, (id, key): (&Id, &str), pipeline: &PipelineConfig, top: &Section<'_>) {
    let signal = pipeline.signal;
    for unfit in matching.unfit(signal) {
        let (key, message) = match unfit {
            Some(criterion) => (
                format!("{key}.{criterion}"),
                format!("cannot be asked of {signal}, and the pipeline `{pipeline}` does"),
            ),
            None => (key.to_owned(), format!("asks nothing of {signal}, and the pipeline `{pipeline}` needs that")),
        };
        tell(top, "processors", id, &key, |s, at, path| s.error(at, path, message));
    }
    let overlooked = |criterion: &&str| {
        !Matching::asks(signal, criterion) && (signal == Signal::Metrics || *criterion == "metric_names")
    };
    for criterion in matching.given().filter(overlooked) {
        let message = format!("is not asked of {signal} (nor in otelcol), and the pipeline `{pipeline}` names it");
        tell(top, "processors", id, &format!("{key}.{criterion}"), |s, at, path| s.warn(at, path, message));
    }
}

/// Every storage an exporter names is there, is one, and starts.
fn link_storages(config: &mut Config, exporters: &BTreeSet<Id>, top: &Section<'_>) {
    for id in exporters {
        let Some(exporter) = config.exporters.get(id) else { continue };
        let Some(queue) = exporter.queue() else { continue };
        let is_kept = queue.enabled && queue.storage.is_some();
        if !is_kept && crate::app::exporters::link_budget(exporter).is_some_and(LinkBudget::has_periods) {
            let key = &*exporter.path_of("link_budget");
            let message = "is counted from zero after each restart and each change of this section: what was used is kept beside the queue, and `sending_queue.storage` is not given";
            tell(top, "exporters", id, key, |s, at, path| s.warn(at, path, message));
        }
        let Some(storage) = queue.storage.as_ref().filter(|_| queue.enabled) else { continue };
        let key = &*exporter.path_of("sending_queue.storage");
        match config.extensions.get(storage) {
            None => {
                let ids: Vec<String> = config.extensions.keys().map(Id::to_string).collect();
                let meant = top.reading().problems.meant_id(&storage.to_string(), &ids);
                let message = format!("{} is not defined under extensions", quote(&storage.to_string()));
                tell(top, "exporters", id, key, |s, at, path| s.error_meaning(at, path, message, meant));
            }
            Some(ExtensionConfig::FileStorage(_)) if config.service.extensions.contains(storage) => {}
            Some(ExtensionConfig::FileStorage(_)) => {
                let message = format!(
                    "{} is not listed in service.extensions; it is started all the same",
                    quote(&storage.to_string())
                );
                tell(top, "exporters", id, key, |s, at, path| s.warn(at, path, message));
                config.service.extensions.push(storage.clone());
            }
            Some(_) => {
                let message = format!("{} is not a storage; a file_storage is", quote(&storage.to_string()));
                tell(top, "exporters", id, key, |s, at, path| s.error(at, path, message));
            }
        }
    }
}

/// Every authenticator a component names is there, is one of its kind, and starts. To serve or send without the check
/// somebody asked for would be wrong, so everything else is an error.
fn link_authenticators(config: &mut Config, receivers: &BTreeSet<Id>, exporters: &BTreeSet<Id>, top: &Section<'_>) {
    // The class, the component, its key, and whom it names; whether it sends.
    let mut named: Vec<(&'static str, Id, String, Id, bool)> = Vec::new();
    for id in receivers {
        if let Some(ReceiverConfig::Otlp(otlp)) = config.receivers.get(id) {
            let grpc =
                otlp.grpc.as_ref().and_then(|grpc| Some(("protocols.grpc.auth.authenticator", grpc.auth.clone()?)));
            let http =
                otlp.http.as_ref().and_then(|h| Some(("protocols.http.auth.authenticator", h.server.auth.clone()?)));
            named.extend(
                grpc.into_iter().chain(http).map(|(key, auth)| ("receivers", id.clone(), key.to_owned(), auth, false)),
            );
        }
    }
    for id in &config.service.extensions {
        let (auth, key, sends) = match config.extensions.get(id) {
            Some(ExtensionConfig::HealthCheck(health)) => (&health.server.auth, "auth.authenticator".to_owned(), false),
            Some(ExtensionConfig::Opamp(opamp)) => (&opamp.server.auth, format!("{}.auth", opamp.server.key()), true),
            _ => continue,
        };
        named.extend(auth.clone().map(|auth| ("extensions", id.clone(), key, auth, sends)));
    }
    for id in exporters {
        let Some(exporter) = config.exporters.get(id) else { continue };
        let (auth, key) = (exporter.auth().cloned(), exporter.path_of("auth.authenticator"));
        named.extend(auth.map(|auth| ("exporters", id.clone(), key, auth, true)));
    }
    for (class, id, key, auth, sends) in named {
        let name = quote(&auth.to_string());
        if let Err(why) = fits(config.extensions.get(&auth), sends) {
            let ids: Vec<String> = config.extensions.keys().map(Id::to_string).collect();
            let missing = !config.extensions.contains_key(&auth);
            let meant = top.reading().problems.meant_id(&auth.to_string(), &ids);
            let meant = meant.filter(|_| missing);
            tell(top, class, &id, &key, |s, at, path| s.error_meaning(at, path, format!("{name} {why}"), meant));
        } else if !config.service.extensions.contains(&auth) {
            let message = format!("{name} is not listed in service.extensions; it is started all the same");
            tell(top, class, &id, &key, |s, at, path| s.warn(at, path, message));
            config.service.extensions.push(auth);
        }
    }
}

/// Whether an extension can ask clients, or speak for an exporter.
fn fits(extension: Option<&ExtensionConfig>, sends: bool) -> Result<(), &'static str> {
    match extension {
        None => Err("is not defined under extensions"),
        Some(
            ExtensionConfig::HealthCheck(_)
            | ExtensionConfig::FileStorage(_)
            | ExtensionConfig::Opamp(_)
            | ExtensionConfig::Idle(_),
        ) => Err("is no authenticator; bearertokenauth, basicauth, oauth2client and headers_setter are"),
        Some(ExtensionConfig::BasicAuth(basic)) if sends && basic.client_auth.is_none() => {
            Err("has no client_auth, which is what an exporter sends")
        }
        Some(ExtensionConfig::BasicAuth(basic)) if !sends && basic.htpasswd.is_none() => {
            Err("has no htpasswd, which is what a server asks by")
        }
        Some(ExtensionConfig::OAuth2(_) | ExtensionConfig::HeadersSetter(_)) if !sends => {
            Err("is for exporters; a server asks by bearertokenauth or basicauth")
        }
        Some(
            ExtensionConfig::BearerToken(_)
            | ExtensionConfig::BasicAuth(_)
            | ExtensionConfig::OAuth2(_)
            | ExtensionConfig::HeadersSetter(_),
        ) => Ok(()),
    }
}

/// Files of credentials are there and understood. A token that only exporters send may come later.
fn check_credentials(config: &Config, top: &Section<'_>) {
    let asked = config.asked_by_servers();
    let by_opamp = config.opamp().and_then(|(_, opamp)| opamp.server.auth.as_ref());
    let sent: BTreeSet<&Id> = config.exporters.values().filter_map(ExporterConfig::auth).chain(by_opamp).collect();
    let files = config.service.extensions.iter().flat_map(|id| {
        let of = |key, path: Option<&'_ PathBuf>| path.map(|path| (id, key, path.clone()));
        match config.extensions.get(id) {
            Some(ExtensionConfig::BearerToken(bearer)) => vec![of("filename", bearer.filename.as_ref())],
            Some(ExtensionConfig::BasicAuth(basic)) => {
                vec![of("htpasswd.file", basic.htpasswd.as_ref().and_then(|htpasswd| htpasswd.file.as_ref()))]
            }
            Some(ExtensionConfig::OAuth2(oauth2)) => vec![
                of("client_id_file", oauth2.client_id.file()),
                of("client_secret_file", oauth2.client_secret.file()),
            ],
            _ => Vec::new(),
        }
    });
    for (id, key, path) in files.flatten() {
        let is_htpasswd = key == "htpasswd.file";
        let told = match top.reading().host.read(&path) {
            Err(e) => Some(format!("`{}` cannot be read: {e}", path.display())),
            Ok(bytes) if is_htpasswd => htpasswd::parse(&String::from_utf8_lossy(&bytes)).err().map(|e| e.to_string()),
            Ok(bytes) => bytes.trim_ascii().is_empty().then(|| {
                format!("`{}` holds {}", path.display(), if key == "filename" { "no token" } else { "nothing" })
            }),
        };
        match told {
            Some(told) if sent.contains(id) && !asked.contains(id) => {
                let told = format!("{told}; exporters keep their data until there is a token");
                tell(top, "extensions", id, key, |s, at, path| s.warn(at, path, told));
            }
            Some(told) => tell(top, "extensions", id, key, |s, at, path| s.error(at, path, told)),
            None => {}
        }
    }
}

/// What `from_context` names is told by some receiver; else the action never does anything, and nothing says so.
fn check_contexts(config: &Config, top: &Section<'_>) {
    for (id, processor) in &config.processors {
        let (key, actions) = match processor {
            ProcessorConfig::Attributes(attributes) => ("actions", &attributes.actions),
            ProcessorConfig::Resource(resource) => ("attributes", &resource.actions),
            _ => continue,
        };
        let pipelines: Vec<_> = config.service.pipelines.iter().filter(|p| p.processors.contains(id)).collect();
        let told = |name: &str| {
            let mut receivers = pipelines.iter().flat_map(|pipeline| &pipeline.receivers);
            receivers.any(|id| config.receivers.get(id).is_some_and(|receiver| tells(receiver, name)))
        };
        let missing = actions.iter().filter_map(Action::context).find(|name| !pipelines.is_empty() && !told(name));
        if let Some(name) = missing {
            let needed = match name.strip_prefix("auth.") {
                Some(_) => "asks for credentials (auth.authenticator)",
                None => "has `include_metadata: true`",
            };
            let ids: Vec<String> = pipelines.iter().map(|pipeline| pipeline.id()).collect();
            let message =
                format!("from_context {} is never there: no receiver of {} {needed}", quote(name), ids.join(", "));
            tell(top, "processors", id, key, |s, at, path| s.warn(at, path, message));
        }
    }
}

/// Whether it could tell this of a client.
fn tells(receiver: &ReceiverConfig, name: &str) -> bool {
    let ReceiverConfig::Otlp(otlp) = receiver else { return false };
    let (grpc, http) = (otlp.grpc.as_ref(), otlp.http.as_ref().map(|http| &http.server));
    if name.starts_with("auth.") {
        grpc.is_some_and(|grpc| grpc.auth.is_some()) || http.is_some_and(|http| http.auth.is_some())
    } else {
        grpc.is_some_and(|grpc| grpc.include_metadata) || http.is_some_and(|http| http.include_metadata)
    }
}

/// No spool inside another, and a word about a directory that will be made.
fn check_directories(config: &Config, top: &Section<'_>) {
    let host = top.reading().host;
    let mut seen: Vec<(&Id, PathBuf)> = Vec::new();
    for id in &config.service.extensions {
        let Some(ExtensionConfig::FileStorage(storage)) = config.extensions.get(id) else { continue };
        let (directory, key) = (&storage.directory, "directory");
        let place = host.resolved(directory);
        let clash = seen.iter().find(|(_, other)| place.starts_with(other) || other.starts_with(&place));
        if let Some((other, _)) = clash {
            let message = format!(
                "{} and the directory of {other} are one, or one lies in the other; each storage needs its own",
                quote(&directory.display().to_string())
            );
            tell(top, "extensions", id, key, |s, at, path| s.error(at, path, message));
        }
        if host.is_no_dir(directory) {
            let message = format!("{} is there and is no directory", quote(&directory.display().to_string()));
            tell(top, "extensions", id, key, |s, at, path| s.error(at, path, message));
        } else if clash.is_none() && directory.is_absolute() && !host.is_dir(directory) {
            let message = format!(
                "{} is not there; it will be created ({:04o})",
                quote(&directory.display().to_string()),
                storage.directory_permissions
            );
            tell(top, "extensions", id, key, |s, at, path| s.warn(at, path, message));
        }
        seen.push((id, place));
    }
}

/// No two servers at one port.
fn check_ports(config: &Config, receivers: &BTreeSet<Id>, top: &Section<'_>) {
    let mut servers: Vec<(&'static str, Id, &'static str, Listen)> = Vec::new();
    for id in receivers {
        if let Some(ReceiverConfig::Otlp(otlp)) = config.receivers.get(id) {
            let grpc = otlp.grpc.as_ref().map(|grpc| ("protocols.grpc.endpoint", grpc.endpoint.clone()));
            let http = otlp.http.as_ref().map(|http| ("protocols.http.endpoint", http.server.endpoint.clone()));
            servers.extend(grpc.into_iter().chain(http).map(|(key, listen)| ("receivers", id.clone(), key, listen)));
        }
    }
    for id in &config.service.extensions {
        if let Some(ExtensionConfig::HealthCheck(health)) = config.extensions.get(id) {
            servers.push(("extensions", id.clone(), "endpoint", health.server.endpoint.clone()));
        }
    }
    let metrics = &config.service.telemetry.metrics;
    if metrics.level != MetricsLevel::None {
        servers.push(("service", Id::of("telemetry"), "metrics.address", metrics.address.clone()));
    }
    for (n, (class, id, key, listen)) in servers.iter().enumerate() {
        let clash = servers[..n].iter().find(|(.., other)| listen.collides_with(other));
        if let Some((other_class, other_id, other_key, other)) = clash {
            let message = format!("{listen} is taken by {other_class}.{other_id}.{other_key} ({other})");
            tell(top, class, id, key, |s, at, path| s.error(at, path, message));
        }
    }
}

/// Every server that is to speak TLS can, by the files as they are now.
fn check_faces(config: &Config, receivers: &BTreeSet<Id>, top: &Section<'_>) {
    let mut faces: Vec<(&'static str, &Id, &'static str, &TlsServer)> = Vec::new();
    for id in receivers {
        if let Some((id, ReceiverConfig::Otlp(otlp))) = config.receivers.get_key_value(id) {
            let grpc = otlp.grpc.as_ref().and_then(|grpc| Some(("protocols.grpc.tls", grpc.tls.as_ref()?)));
            let http = otlp.http.as_ref().and_then(|http| Some(("protocols.http.tls", http.server.tls.as_ref()?)));
            faces.extend(grpc.into_iter().chain(http).map(|(key, tls)| ("receivers", id, key, tls)));
        }
    }
    for id in &config.service.extensions {
        if let Some(ExtensionConfig::HealthCheck(health)) = config.extensions.get(id) {
            faces.extend(health.server.tls.as_ref().map(|tls| ("extensions", id, "tls", tls)));
        }
    }
    for (class, id, key, face) in faces {
        let unknown: Vec<_> = face.cipher_suites.iter().filter(|name| !tls::is_suite(name)).map(|n| quote(n)).collect();
        if !unknown.is_empty() {
            let message = format!("{} are not offered here: rustls has only sound ones", unknown.join(", "));
            tell(top, class, id, &format!("{key}.cipher_suites"), |s, at, path| s.warn(at, path, message));
        }
        // What lacks its key or its certificate was told when it was read.
        let is_whole = face.common.cert.is_some() && face.common.key.is_some();
        if let Some(fault) = is_whole.then(|| tls::check(face, &|path| top.reading().host.read(path)).err()).flatten() {
            tell(top, class, id, &format!("{key}.{}", fault.key), |s, at, path| s.error(at, path, fault.why));
        }
    }
}
