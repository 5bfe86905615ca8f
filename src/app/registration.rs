//! Whether this configuration registers at a platform, with what, and whom the registrar speaks to.
//!
//! | the configuration | it registers |
//! |---|---|
//! | `registration: {enabled: false}` | no |
//! | has a section `registration` | yes, or it is an error that says why not |
//! | has none, and an exporter sends a filled `X-Workspace-Id`, or `TELEMETRYFLOW_WORKSPACE_ID` is set | yes, if it can |
//! | has none, and nothing names a workspace | no: there is no platform |
//!
//! The seed says "automatically registers", and every configuration and every command in it names the workspace in one of
//! these two ways; who sends to any other collector names none, and nothing is said there that nobody asked for.

use super::exporters;
use super::guards::Followed;
use super::machine::address_towards;
use super::plan::{Config, ExporterConfig, ReceiverConfig};
use super::roster::{REGISTRAR, row};
use super::wire::StartError;
use crate::base::{Clock, Dice, Stamp};
use crate::config::{Id, Secret, TlsClient};
use crate::otlp::Signal;
use crate::registrar::actor::Locate;
use crate::registrar::api::Api;
use crate::registrar::config::{Mode, RegistrationConfig};
use crate::registrar::identity::{Body, Identity, Record};
use crate::registrar::letter::{Place, Profile};
use crate::registrar::line::{Line, Lines, Through};
use crate::registrar::metrics::RegistrarMetrics;
use crate::registrar::office::Settings;
use crate::registrar::{Announced, Office, Registrar};
use crate::supervise::Supervisor;
use crate::telemetry::Metrics;
use crate::telemetry::health::Health;
use crate::uplink::budget::Meter;
use crate::uplink::config::{OtlpHttpConfig, Place as GrpcPlace};
use crate::uplink::metrics::UplinkMetrics;
use crate::uplink::otlp_http::OtlpHttp;
use crate::uplink::transport::Transport;
use http::Uri;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Asks for a variable.
pub type Var<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The header that names the workspace, and the variable the seed fills it from.
pub const WORKSPACE: (&str, &str) = ("X-Workspace-Id", "TELEMETRYFLOW_WORKSPACE_ID");
/// The same of the tenant.
pub const TENANT: (&str, &str) = ("X-Tenant-Id", "TELEMETRYFLOW_TENANT_ID");
/// The identity's file in a storage.
const FILE: &str = "agent-identity";
/// The end of a call: what a satellite needs for a connection, TLS and a kilobyte, several times over. Data may wait for it.
const TIMEOUT: Duration = Duration::from_secs(15);

/// This process's variables.
#[must_use]
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What the registrar works by: as long as it stays the same, a reload leaves it alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Whose way is used.
    pub exporter: Id,
    section: ExporterConfig,
    token: Option<Followed>,
    settings: RegistrationConfig,
    file: Option<PathBuf>,
    workspace_id: Option<String>,
    tenant_id: Option<String>,
    capabilities: Vec<String>,
}

/// Why a configuration that wants to register cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NoPlan {
    /// Below `registration`.
    pub key: &'static str,
    /// In words.
    pub why: String,
}

/// What stands at the top of the module.
///
/// # Errors
/// It wants to and cannot.
pub fn plan(config: &Config, var: Var<'_>) -> Result<Option<Plan>, NoPlan> {
    let settings = &config.registration;
    match settings.enabled {
        Some(false) => Ok(None),
        Some(true) => make(config, var).map(Some),
        None => {
            let names = |id: &&Id| config.exporters.get(*id).and_then(|section| named(section, WORKSPACE.0)).is_some();
            let is_meant = sending(config).iter().any(names) || filled(var(WORKSPACE.1)).is_some();
            Ok(make(config, var).ok().filter(|_| is_meant))
        }
    }
}

fn make(config: &Config, var: Var<'_>) -> Result<Plan, NoPlan> {
    let settings = config.registration.clone();
    let no = |key, why: String| Err(NoPlan { key, why });
    let sending = sending(config);
    let names = |id: &&&Id| config.exporters.get(**id).and_then(|section| named(section, WORKSPACE.0)).is_some();
    let (id, section) = match &settings.exporter {
        Some(id) => match config.exporters.get(id).filter(|_| sending.contains(&id)) {
            Some(section) => (id, section),
            None => return no("exporter", format!("`{id}` is no exporter that sends and is used by a pipeline")),
        },
        None => match sending.iter().find(names).or(sending.first()).and_then(|id| config.exporters.get_key_value(*id))
        {
            Some(found) => found,
            None => {
                return no("exporter", "there is no exporter that sends; nothing can be said without one".to_owned());
            }
        },
    };
    match (settings.mode, section) {
        (Mode::Direct, ExporterConfig::OtlpHttp(http)) if settings.endpoint.is_none() && http.endpoint.is_none() => {
            return no("endpoint", format!("is not given, and `{id}` has no endpoint either"));
        }
        (Mode::Direct, ExporterConfig::OtlpHttp(_)) => {}
        (Mode::Direct, _) => {
            return no("mode", format!("`{id}` speaks gRPC and the API does not: name an otlphttp exporter"));
        }
        (Mode::Collector, ExporterConfig::OtlpHttp(http)) if http.url(Signal::Metrics).is_none() => {
            return no("exporter", format!("`{id}` has no place for metrics: give it endpoint or metrics_endpoint"));
        }
        (Mode::Collector, _) => {}
    }
    let [workspace_id, tenant_id] =
        [WORKSPACE, TENANT].map(|(header, name)| named(section, header).or(filled(var(name))));
    let mut section = exporters::with_credentials(section.clone(), config);
    with_ids(&mut section, [(WORKSPACE.0, &workspace_id), (TENANT.0, &tenant_id)]);
    let token = section.auth().and_then(|auth| super::guards::followed(config, auth));
    let file = settings.identity_file.clone().or_else(|| Some(exporters::storage(config, &section)?.join(FILE)));
    let (exporter, capabilities) = (id.clone(), capabilities(config));
    Ok(Plan { exporter, section, token, settings, file, workspace_id, tenant_id, capabilities })
}

/// Exporters that send, in the order of the file's pipelines.
fn sending(config: &Config) -> Vec<&Id> {
    let mut found = Vec::new();
    for id in config.service.pipelines.iter().flat_map(|pipeline| &pipeline.exporters) {
        if !found.contains(&id) && config.exporters.get(id).is_some_and(|section| section.queue().is_some()) {
            found.push(id);
        }
    }
    found
}

fn headers(section: &ExporterConfig) -> &[(String, Secret)] {
    match section {
        ExporterConfig::OtlpHttp(section) => &section.headers,
        ExporterConfig::OtlpGrpc(section) => &section.headers,
        ExporterConfig::LoadBalancing(section) => section.protocol.headers(),
        ExporterConfig::Debug(_) => &[],
    }
}

fn named(section: &ExporterConfig, header: &str) -> Option<String> {
    let value = headers(section).iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(header));
    filled(value.map(|(_, value)| value.reveal().to_owned()))
}

fn filled(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What is known from a variable alone stands in the headers too: there the platform looks for it.
fn with_ids(section: &mut ExporterConfig, ids: [(&str, &Option<String>); 2]) {
    for (header, id) in ids {
        let Some(id) = id.as_ref().filter(|_| named(section, header).is_none()) else { continue };
        match section {
            ExporterConfig::OtlpHttp(section) => section.headers.push((header.to_owned(), Secret::new(id))),
            ExporterConfig::OtlpGrpc(section) => section.headers.push((header.to_owned(), Secret::new(id))),
            ExporterConfig::LoadBalancing(section) => {
                section.protocol.headers_mut().push((header.to_owned(), Secret::new(id)));
            }
            ExporterConfig::Debug(_) => {}
        }
    }
}

/// The receivers that are on, as the seed names them.
fn capabilities(config: &Config) -> Vec<String> {
    let used: BTreeSet<&Id> = config.service.pipelines.iter().flat_map(|pipeline| &pipeline.receivers).collect();
    let mut all = BTreeSet::new();
    for id in used {
        match config.receivers.get(id) {
            Some(ReceiverConfig::Otlp(otlp)) => {
                all.extend(otlp.grpc.is_some().then_some("otlp_grpc"));
                all.extend(otlp.http.is_some().then_some("otlp_http"));
            }
            Some(_) if id.kind() == "prometheus" => drop(all.insert("prometheus_scrape")),
            Some(_) => drop(all.insert(id.kind())),
            None => {}
        }
    }
    all.into_iter().map(str::to_owned).collect()
}

impl Plan {
    /// What the platform may not find, by key of the exporter: workspace and tenant that are no UUIDs.
    #[must_use]
    pub fn doubts(&self, var: Var<'_>) -> Vec<(String, String)> {
        let doubt = |((header, name), id): ((&str, &str), &Option<String>)| {
            let id = id.as_ref().filter(|id| !is_uuid(id))?;
            let from = filled(var(name)).filter(|value| value == id).map(|_| format!(" (from the variable `{name}`)"));
            let key = headers(&self.section).iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(header));
            let key = key.map_or(header, |(name, _)| name.as_str());
            Some((
                key.to_owned(),
                format!(
                    "is no UUID{}; a platform that asks for one will not register this agent",
                    from.unwrap_or_default()
                ),
            ))
        };
        [(WORKSPACE, &self.workspace_id), (TENANT, &self.tenant_id)].into_iter().filter_map(doubt).collect()
    }

    /// Base URL of the API.
    fn api(&self) -> Option<OtlpHttpConfig> {
        let ExporterConfig::OtlpHttp(http) = &self.section else { return None };
        let endpoint = self.settings.endpoint.clone().or_else(|| http.endpoint.clone());
        Some(OtlpHttpConfig {
            endpoint,
            traces_endpoint: None,
            metrics_endpoint: None,
            logs_endpoint: None,
            timeout: Some(http.timeout.map_or(TIMEOUT, |timeout| timeout.min(TIMEOUT))),
            ..(**http).clone()
        })
    }

    /// The exporter's section, for letters.
    fn collector(&self) -> ExporterConfig {
        let mut section = self.section.clone();
        let timeout = match &mut section {
            ExporterConfig::OtlpHttp(section) => &mut section.timeout,
            ExporterConfig::OtlpGrpc(section) => &mut section.timeout,
            ExporterConfig::LoadBalancing(section) => section.protocol.timeout_mut(),
            ExporterConfig::Debug(_) => return section,
        };
        *timeout = Some(timeout.map_or(TIMEOUT, |timeout| timeout.min(TIMEOUT)));
        section
    }

    /// Where letters go.
    fn to(&self) -> Option<String> {
        match (self.settings.mode, &self.section) {
            (Mode::Direct, _) => self.api()?.endpoint,
            (Mode::Collector, ExporterConfig::OtlpHttp(section)) => section.url(Signal::Metrics),
            (Mode::Collector, ExporterConfig::OtlpGrpc(section)) => match &section.endpoint {
                Some(GrpcPlace::Net { host, port }) => Some(format!("http://{host}:{port}")),
                _ => None,
            },
            (Mode::Collector, _) => None,
        }
    }

    /// Letters go where all of the exporter's data goes.
    fn is_same_way(&self) -> bool {
        let letters = self.to().as_deref().and_then(origin);
        match &self.section {
            ExporterConfig::OtlpHttp(section) => {
                let data = Signal::ALL.iter().filter_map(|signal| section.url(*signal));
                // A letter to the API goes to one of several endpoints, and data may go to another.
                let alone = self.settings.mode == Mode::Collector || section.failover.endpoints.is_empty();
                alone && letters.is_some() && data.map(|url| origin(&url)).all(|origin| origin == letters)
            }
            _ => self.settings.mode == Mode::Collector,
        }
    }

    /// Nobody between can have changed an answer: https, or this machine.
    fn is_trusted(&self) -> bool {
        let tls = match &self.section {
            ExporterConfig::OtlpHttp(section) => Some(&section.tls),
            ExporterConfig::OtlpGrpc(section) => Some(&section.tls),
            _ => None,
        };
        self.to().is_some_and(|url| is_trusted(&url, tls))
    }

    fn lines(&self, parts: &Parts<'_>) -> Result<Lines, StartError> {
        let clock = parts.clock;
        let meter = Meter::new(parts.metrics, &self.exporter.to_string()).besides();
        let no = |why: String| StartError::Component { id: format!("registration, by {}", self.exporter), why };
        let shown = self.token.as_ref().map(|token| super::guards::shown(token, clock));
        let shown = shown.transpose().map_err(|error| no(error.to_string()))?.flatten();
        if let (Mode::Direct, Some(api)) = (self.settings.mode, self.api()) {
            let of = clock.clone();
            let make = move || Ok(OtlpHttp::metered(&api, 1, of.clone(), meter.clone())?.showing(shown.clone()));
            make().map_err(|error: crate::uplink::client::ClientError| no(error.to_string()))?;
            let (make, clock) = (Arc::new(make), clock.clone());
            return Ok(Arc::new(move || Arc::new(Api::new(make.clone(), clock.clone())) as Arc<dyn Line>));
        }
        let section = self.collector();
        // Which endpoint is away is said by the exporter itself.
        let quiet = UplinkMetrics::new(&Metrics::detached(), &Health::starting(clock.clone()), "registration");
        let with = exporters::With { clock, shown: shown.as_ref(), metrics: &quiet, meter: &meter };
        let ways = exporters::ways(&section, with).map_err(|error| no(error.to_string()))?;
        let (_, encoding, level) = exporters::manner(&section);
        Ok(Arc::new(move || Arc::new(Through::new(ways(), encoding, level)) as Arc<dyn Line>))
    }

    /// Where the identity is kept, if nobody else's file lies there.
    fn place_of_identity(&self, told: &RegistrarMetrics) -> Option<PathBuf> {
        let file = self.file.clone()?;
        Record::may_be_at(&file).inspect_err(|error| told.not_ours(&file.display(), error)).ok()?;
        Some(file)
    }

    /// Who we are, as far as the file and the machine tell.
    fn identity(&self, hostname: &str, file: Option<&Path>, told: &RegistrarMetrics) -> Identity {
        let kept = file.and_then(|file| {
            Record::read(file).inspect_err(|error| told.unreadable(&file.display(), error)).ok().flatten()
        });
        let (body, can_keep) = (body(hostname), file.is_some());
        Identity::settle(self.settings.agent_id.as_deref(), kept, &body, can_keep, &mut Dice::shaken())
    }

    /// The file of the identity, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// Asks where the machine is, seen from this URL. What variables say of it counts more than what it is called.
pub(super) fn locate(to: Option<String>) -> Locate {
    Arc::new(move || {
        let here = place();
        Place { ip_address: here.ip_address.or_else(|| address_towards(to.as_deref())), ..here }
    })
}

/// Where the machine is, as far as that is known without a name server.
pub(super) fn place() -> Place {
    Place {
        hostname: filled(var("AGENT_HOSTNAME")).or_else(|| filled(var("HOSTNAME"))).unwrap_or_else(nodename),
        ip_address: filled(var("AGENT_IP")).or_else(|| filled(var("HOST_IP"))),
    }
}

/// The machine, as far as an id is made of it.
pub(super) fn body(hostname: &str) -> Body {
    let ids = ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|path| fs::read_to_string(path).ok());
    Body::new(&ids.unwrap_or_default(), hostname)
}

/// Nobody between can have changed what comes from this URL: https whose certificate is checked, or this machine.
pub(super) fn is_trusted(url: &str, tls: Option<&TlsClient>) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let is_checked = tls.is_none_or(|tls| !tls.insecure_skip_verify);
    (matches!(uri.scheme_str(), Some("https" | "wss")) && is_checked) || is_here
}

fn nodename() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    Some((uri.scheme_str()?.to_owned(), uri.authority()?.as_str().to_ascii_lowercase()))
}

/// `550e8400-e29b-41d4-a716-446655440000`.
fn is_uuid(text: &str) -> bool {
    let fits = |(n, c): (usize, u8)| if matches!(n, 8 | 13 | 18 | 23) { c == b'-' } else { c.is_ascii_hexdigit() };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

/// `Ubuntu 22.04`, as os-release(5) says it.
pub(super) fn os_description() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    filled(pretty.map(|name| name.trim().trim_matches(['"', '\'']).to_owned())).unwrap_or_else(|| {
        let uname = rustix::system::uname();
        format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
    })
}

/// A registration that can be posted; nothing can go wrong any more.
#[derive(Clone)]
pub struct Registration {
    plan: Plan,
    office: Arc<Office>,
    /// What the platform lets backlogs send, bytes a second.
    ceiling: Arc<watch::Sender<Option<u64>>>,
    lines: Lines,
    locate: Locate,
}

/// The parts of an agent that a registration is made with.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Where it speaks of itself, and what it tells of.
    pub metrics: &'a Metrics,
    /// The board.
    pub health: &'a Health,
    /// Stamps.
    pub clock: &'a Clock,
    /// When the process began.
    pub started: Stamp,
}

impl Registration {
    /// Makes ready what a plan says.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn prepare(plan: Plan, parts: &Parts<'_>) -> Result<Registration, StartError> {
        let told = RegistrarMetrics::new(parts.metrics, parts.health);
        // The first address is looked up by the actor, which may wait for a name server.
        let (lines, locate, place) = (plan.lines(parts)?, locate(plan.to()), place());
        let ceiling = Arc::new(watch::Sender::new(None));
        let set = ceiling.clone();
        let file = plan.place_of_identity(&told);
        let settings = Settings {
            identity: plan.identity(&place.hostname, file.as_deref(), &told),
            file,
            profile: Profile {
                workspace_id: plan.workspace_id.clone(),
                tenant_id: plan.tenant_id.clone(),
                capabilities: plan.capabilities.clone(),
                os_description: os_description(),
            },
            place,
            rhythm: plan.settings.rhythm(),
            is_trusted: plan.is_trusted(),
            max_rate: exporters::drain(&plan.section).max_rate,
            throttle: Arc::new(move |rate| {
                set.send_replace(rate);
            }),
        };
        let times = (parts.clock.clone(), parts.started);
        let office = Arc::new(Office::open(settings, parts.metrics, told, times, Dice::shaken()));
        Ok(Registration { plan, office, ceiling, lines, locate })
    }

    /// By what it works.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Fills the post.
    pub fn post(&self, supervisor: &Supervisor) {
        self.office.begin();
        let Registration { office, lines, locate, .. } = self.clone();
        supervisor
            .post(row(supervisor, &REGISTRAR), "", move || Registrar::new(office.clone(), &lines, locate.clone()));
    }

    /// What the platform lets backlogs of its exporter send, bytes a second.
    #[must_use]
    pub fn ceiling(&self) -> watch::Receiver<Option<u64>> {
        self.ceiling.subscribe()
    }

    /// The id by which the platform is told of us.
    #[must_use]
    pub fn agent_id(&self) -> Arc<dyn Fn() -> Option<String> + Send + Sync> {
        let office = self.office.clone();
        Arc::new(move || Some(office.agent_id()))
    }

    /// What it said on the board and in the metrics is true no more.
    pub fn close(&self) {
        self.office.close();
    }

    /// A way to the far end before which a registration goes when one is owed.
    #[must_use]
    pub fn before(&self, ways: exporters::Ways) -> exporters::Ways {
        let (office, lines, is_same_way) = (self.office.clone(), self.lines.clone(), self.plan.is_same_way());
        Arc::new(move || Arc::new(Announced::new(ways(), office.clone(), lines(), is_same_way)) as Arc<dyn Transport>)
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration").field("plan", &self.plan).finish_non_exhaustive()
    }
}
