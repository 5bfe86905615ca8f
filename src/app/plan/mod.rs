//! The checked whole of a configuration: every component with its settings, and how they are wired.
//!
//! It stands in `app` and not in `config` because it names every component, and imports run one way: `config`
//! knows trees, positions and problems; each section lives beside its component; only `app` knows them all.
//!
//! ```text
//! Locations, Host ─▶ config::load ─▶ tree ─▶ read: classes, service, references ─▶ check: ports, storages, … ─▶ Config
//!                                                         └──────── Problems ────────┘                      └▶ Report
//! ```
//!
//! What always holds of a [`Config`]: every id in a pipeline is defined and in this build; every pipeline has a
//! receiver and an exporter; every storage an exporter names is a `file_storage` and in `service.extensions`; every
//! signal has a URL at the exporters it goes to; no two servers share a port, no two storages a directory.
//!
//! | file | holds |
//! |---|---|
//! | `mod` | the checked configuration |
//! | `catalogue` | every component type by name, with the signals it takes and its reader |
//! | `read` | the four classes and `service`, and who refers to whom |
//! | `check` | what must hold between components |

mod catalogue;
mod check;
mod read;

pub use catalogue::{Class, EXPORTERS, EXTENSIONS, Kind, PROCESSORS, RECEIVERS};
pub use read::{Outcome, read, read_given};

use crate::config::Id;
use crate::extensions::authenticators::config::{BasicAuthConfig, BearerTokenConfig};
use crate::extensions::file_storage::config::FileStorageConfig;
use crate::extensions::headers_setter::HeadersSetterConfig;
use crate::extensions::health_check::config::HealthCheckConfig;
use crate::extensions::idle::IdleConfig;
use crate::opamp::config::OpampConfig;
use crate::otlp::Signal;
use crate::processors::attributes::config::AttributesConfig;
use crate::processors::batch::config::BatchConfig;
use crate::processors::filter::config::FilterConfig;
use crate::processors::memory_limiter::config::MemoryLimiterConfig;
use crate::processors::probabilistic_sampler::config::SamplerConfig;
use crate::processors::resource::config::ResourceConfig;
use crate::receivers::otlp::config::OtlpReceiverConfig;
use crate::receivers::own::config::OwnConfig;
use crate::registrar::config::RegistrationConfig;
use crate::telemetry::config::TelemetryConfig;
use crate::uplink::config::{
    DebugConfig, LoadBalancingConfig, OAuth2Config, OtlpGrpcConfig, OtlpHttpConfig, QueueConfig,
};
use crate::uplink::drain::Drain;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A configuration in which every reference leads somewhere.
///
/// Components no pipeline uses are here too: they were checked, and nothing starts them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// `receivers`.
    pub receivers: BTreeMap<Id, ReceiverConfig>,
    /// `processors`.
    pub processors: BTreeMap<Id, ProcessorConfig>,
    /// `exporters`.
    pub exporters: BTreeMap<Id, ExporterConfig>,
    /// `extensions`, those assumed included.
    pub extensions: BTreeMap<Id, ExtensionConfig>,
    /// `registration`, ours.
    pub registration: RegistrationConfig,
    /// `service`.
    pub service: ServiceConfig,
}

/// One of `receivers`.
#[derive(Debug, Clone, PartialEq)]
pub enum ReceiverConfig {
    /// `otlp`.
    Otlp(Box<OtlpReceiverConfig>),
    /// `self`.
    Own(OwnConfig),
}

/// One of `processors`.
#[derive(Debug, Clone, PartialEq)]
pub enum ProcessorConfig {
    /// `batch`.
    Batch(BatchConfig),
    /// `memory_limiter`.
    MemoryLimiter(MemoryLimiterConfig),
    /// `resource`.
    Resource(ResourceConfig),
    /// `attributes`.
    Attributes(Box<AttributesConfig>),
    /// `filter`.
    Filter(Box<FilterConfig>),
    /// `probabilistic_sampler`.
    Sampler(SamplerConfig),
}

/// One of `exporters`.
#[derive(Debug, Clone, PartialEq)]
pub enum ExporterConfig {
    /// `otlphttp`, `otlp_http`.
    OtlpHttp(Box<OtlpHttpConfig>),
    /// `otlp`, `otlp_grpc`.
    OtlpGrpc(Box<OtlpGrpcConfig>),
    /// `loadbalancing`.
    LoadBalancing(Box<LoadBalancingConfig>),
    /// `logging`, `debug`.
    Debug(DebugConfig),
}

impl ExporterConfig {
    /// What it sends waits here; `None` for one that does not send.
    #[must_use]
    pub fn queue(&self) -> Option<&QueueConfig> {
        match self {
            ExporterConfig::OtlpHttp(exporter) => Some(&exporter.sending_queue),
            ExporterConfig::OtlpGrpc(exporter) => Some(&exporter.sending_queue),
            ExporterConfig::LoadBalancing(exporter) => Some(exporter.protocol.queue()),
            ExporterConfig::Debug(_) => None,
        }
    }

    /// How its backlog leaves; `None` for one that does not send, or has no section of its own for it.
    #[must_use]
    pub fn drain(&self) -> Option<&Drain> {
        match self {
            ExporterConfig::OtlpHttp(exporter) => Some(&exporter.drain),
            ExporterConfig::OtlpGrpc(exporter) => Some(&exporter.drain),
            ExporterConfig::LoadBalancing(_) | ExporterConfig::Debug(_) => None,
        }
    }

    /// Where this key of an `otlp` exporter stands in its section.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        match self {
            ExporterConfig::LoadBalancing(exporter) if !(exporter.owns_queue && key.starts_with("sending_queue")) => {
                format!("protocol.{}.{key}", exporter.protocol.key())
            }
            _ => key.to_owned(),
        }
    }

    /// Whose credentials it sends.
    #[must_use]
    pub fn auth(&self) -> Option<&Id> {
        match self {
            ExporterConfig::OtlpHttp(exporter) => exporter.auth.as_ref(),
            ExporterConfig::OtlpGrpc(exporter) => exporter.auth.as_ref(),
            ExporterConfig::LoadBalancing(exporter) => exporter.protocol.auth(),
            ExporterConfig::Debug(_) => None,
        }
    }
}

/// One of `extensions`.
#[derive(Debug, Clone, PartialEq)]
pub enum ExtensionConfig {
    /// `health_check`.
    HealthCheck(Box<HealthCheckConfig>),
    /// `file_storage`.
    FileStorage(FileStorageConfig),
    /// `bearertokenauth`.
    BearerToken(BearerTokenConfig),
    /// `basicauth`.
    BasicAuth(BasicAuthConfig),
    /// `oauth2client`.
    OAuth2(Box<OAuth2Config>),
    /// `headers_setter`.
    HeadersSetter(HeadersSetterConfig),
    /// `opamp`.
    Opamp(Box<OpampConfig>),
    /// `zpages`, `pprof`, `memory_ballast`: understood, and never started.
    Idle(IdleConfig),
}

/// `service`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServiceConfig {
    /// `extensions`: which of them start, in order; storages that exporters use included.
    pub extensions: Vec<Id>,
    /// `pipelines`, in the order of the file.
    pub pipelines: Vec<PipelineConfig>,
    /// `telemetry`.
    pub telemetry: TelemetryConfig,
}

/// One of `service.pipelines`.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineConfig {
    /// What flows in it.
    pub signal: Signal,
    /// The part after the slash of its id, or nothing.
    pub name: String,
    /// At least one; each once.
    pub receivers: Vec<Id>,
    /// In the order in which they act; each once.
    pub processors: Vec<Id>,
    /// At least one; each once.
    pub exporters: Vec<Id>,
}

impl Config {
    /// The one `opamp` extension that starts.
    #[must_use]
    pub fn opamp(&self) -> Option<(&Id, &OpampConfig)> {
        self.service.extensions.iter().find_map(|id| match self.extensions.get_key_value(id) {
            Some((id, ExtensionConfig::Opamp(section))) => Some((id, &**section)),
            _ => None,
        })
    }

    /// The authenticators by which servers ask that start: receivers of a pipeline, and extensions.
    #[must_use]
    pub fn asked_by_servers(&self) -> BTreeSet<Id> {
        let receivers = self.service.pipelines.iter().flat_map(|pipeline| &pipeline.receivers);
        let of_receivers = receivers.filter_map(|id| match self.receivers.get(id) {
            Some(ReceiverConfig::Otlp(otlp)) => Some(otlp),
            _ => None,
        });
        let of_receivers = of_receivers.flat_map(|otlp| {
            let grpc = otlp.grpc.as_ref().and_then(|grpc| grpc.auth.clone());
            grpc.into_iter().chain(otlp.http.as_ref().and_then(|http| http.server.auth.clone()))
        });
        let of_extensions = self.service.extensions.iter().filter_map(|id| match self.extensions.get(id) {
            Some(ExtensionConfig::HealthCheck(health)) => health.server.auth.clone(),
            _ => None,
        });
        of_receivers.chain(of_extensions).collect()
    }
}

impl PipelineConfig {
    /// The pipeline's id: `logs` or `logs/audit`.
    #[must_use]
    pub fn id(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for PipelineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "{}", self.signal),
            name => write!(f, "{}/{name}", self.signal),
        }
    }
}
