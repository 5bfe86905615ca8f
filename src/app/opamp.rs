//! Whether this configuration tells an OpAMP server about the agent, with what, and what the messenger speaks of.

use super::guards::Followed;
use super::plan::{Config, ExporterConfig, ExtensionConfig};
use super::registration::{self, Parts, Registration};
use super::roster::{OPAMP, row};
use super::wire::StartError;
use crate::base::Dice;
use crate::config::Id;
use crate::opamp::config::{OpampConfig, Way};
use crate::opamp::desk::Settings;
use crate::opamp::line::{Line, Lines, Polling};
use crate::opamp::metrics::OpampMetrics;
use crate::opamp::report::Profile;
use crate::opamp::socket::{PATIENCE, Socket};
use crate::opamp::uid::{Instance, Kept};
use crate::opamp::{Desk, Exchange, Messenger};
use crate::registrar::actor::Locate;
use crate::supervise::Supervisor;
use crate::uplink::config::OtlpHttpConfig;
use crate::uplink::otlp_http::OtlpHttp;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The file of the instance uid in a storage, or beside the identity.
const FILE: &str = "opamp-instance";
/// The file beside it of what a server sets.
const REMOTE_FILE: &str = "opamp-remote-config";
/// The end of a call: what a satellite needs for a connection, TLS and some kilobytes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the messenger works by: as long as it stays the same, a reload leaves it alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    id: Id,
    /// With what its authenticator sends among its headers.
    section: OpampConfig,
    token: Option<Followed>,
    file: Option<PathBuf>,
    profile: Profile,
    /// By whom the agent has its id.
    registration: Option<registration::Plan>,
}

/// The extension of this configuration, if it has one that starts.
#[must_use]
pub fn plan(config: &Config, registration: Option<&registration::Plan>) -> Option<Plan> {
    let (id, section) = config.opamp()?;
    let mut section = section.clone();
    let token = section.server.auth.as_ref().and_then(|auth| super::guards::followed(config, auth));
    if let Some(auth) = &section.server.auth {
        section.server.headers = super::guards::sent(config, auth, section.server.headers);
    }
    let storage = config.service.extensions.iter().find_map(|id| match config.extensions.get(id) {
        Some(ExtensionConfig::FileStorage(storage)) => Some(storage.directory.clone()),
        _ => None,
    });
    let beside = registration.and_then(registration::Plan::file).and_then(|file| Some(file.parent()?.to_owned()));
    let of_resource = config.service.telemetry.resource.iter();
    let of_resource = of_resource.filter(|_| section.include_resource_attributes);
    let of_resource = of_resource.filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
    let sends = |id: &&Id| config.exporters.get(*id).is_some_and(|section: &ExporterConfig| section.queue().is_some());
    let mut exporters: Vec<String> =
        config.service.pipelines.iter().flat_map(|p| &p.exporters).filter(sends).map(Id::to_string).collect();
    exporters.sort();
    exporters.dedup();
    Some(Plan {
        id: id.clone(),
        token,
        file: beside.or(storage).map(|directory| directory.join(FILE)),
        profile: Profile {
            os_description: registration::os_description(),
            attributes: of_resource.chain(section.attributes.clone()).collect(),
            exporters,
        },
        section,
        registration: registration.cloned(),
    })
}

impl Plan {
    /// Where what a server sets is kept.
    #[must_use]
    pub fn remote_file(&self) -> Option<PathBuf> {
        Some(self.file.as_ref()?.parent()?.join(REMOTE_FILE))
    }

    fn lines(&self, parts: &Parts<'_>) -> Result<Lines, StartError> {
        let no = |why: String| StartError::Component { id: format!("extensions.{}", self.id), why };
        let (clock, server) = (parts.clock.clone(), &self.section.server);
        let shown = self.token.as_ref().map(|token| super::guards::shown(token, &clock));
        let shown = shown.transpose().map_err(|error| no(error.to_string()))?.flatten();
        let http = OtlpHttpConfig {
            endpoint: Some(server.url()),
            headers: server.headers.clone(),
            tls: server.tls.clone(),
            proxy_url: server.proxy_url.clone(),
            timeout: Some(TIMEOUT),
            ..OtlpHttpConfig::default()
        };
        let (of, way) = (clock.clone(), server.way);
        let make = move || {
            let client = match way {
                Way::Http => OtlpHttp::new(&http, 1, of.clone()),
                Way::WebSocket => OtlpHttp::switching(&http, of.clone()),
            };
            Ok(client?.showing(shown.clone()))
        };
        make().map_err(|error: crate::uplink::client::ClientError| no(error.to_string()))?;
        let make = Arc::new(make);
        Ok(Arc::new(move || match way {
            Way::Http => Arc::new(Polling::new(make.clone(), clock.clone())) as Arc<dyn Line>,
            Way::WebSocket => Arc::new(Socket::new(make.clone(), clock.clone(), PATIENCE)),
        }))
    }
}

/// An extension that can be posted; nothing can go wrong any more.
#[derive(Clone)]
pub struct Opamp {
    plan: Plan,
    desk: Arc<Desk>,
    lines: Lines,
    locate: Locate,
}

impl Opamp {
    /// Makes ready what a plan says. `effective`: the configuration in force, masked. `exchange`: where offers go, if any are taken. `former`: who told before, in this process.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn prepare(
        plan: Plan,
        former: Option<&Opamp>,
        registration: Option<&Registration>,
        effective: watch::Receiver<Arc<str>>,
        exchange: &Arc<Exchange>,
        parts: &Parts<'_>,
    ) -> Result<Opamp, StartError> {
        let told = OpampMetrics::new(parts.metrics, parts.health, &plan.id.to_string());
        let (section, lines, place) = (&plan.section, plan.lines(parts)?, registration::place());
        let (can_keep, mut dice) = (plan.file.is_some(), Dice::shaken());
        // It may not be in the file yet, or there is no space for it.
        let former =
            former.filter(|former| former.plan.section.instance_uid.is_none() && section.instance_uid.is_none());
        let instance = match former {
            Some(former) => former.desk.instance().goes_on(can_keep),
            None => {
                let kept = plan.file.as_ref().and_then(|file| {
                    Kept::read(file).inspect_err(|error| told.unreadable(&file.display(), error)).ok().flatten()
                });
                let (machine, drawn) = (registration::body(&place.hostname).digest, (parts.clock.now(), &mut dice));
                Instance::settle(section.instance_uid, kept.as_ref(), machine.as_deref(), can_keep, drawn)
            }
        };
        let settings = Settings {
            instance,
            file: plan.file.clone(),
            profile: plan.profile.clone(),
            place,
            interval: section.server.polling_interval,
            is_trusted: registration::is_trusted(&section.server.endpoint, Some(&section.server.tls)),
            reports_health: section.reports_health,
            reports_config: section.reports_effective_config,
            exchange: section.accepts_remote_config.then(|| exchange.clone()),
            effective,
            agent_id: registration.map_or_else(|| Arc::new(|| None) as _, Registration::agent_id),
        };
        let locate = registration::locate(Some(section.server.url()));
        let desk = Arc::new(Desk::open(settings, parts.health.clone(), told, dice));
        Ok(Opamp { plan, desk, lines, locate })
    }

    /// By what it works.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Fills the post.
    pub fn post(&self, supervisor: &Supervisor) {
        self.desk.begin();
        let Opamp { desk, lines, locate, .. } = self.clone();
        supervisor.post(row(supervisor, &OPAMP), "", move || Messenger::new(desk.clone(), &lines, locate.clone()));
    }

    /// What it said on the board and in the metrics is true no more.
    pub fn close(&self) {
        self.desk.close();
    }
}

impl std::fmt::Debug for Opamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opamp").field("plan", &self.plan).finish_non_exhaustive()
    }
}
