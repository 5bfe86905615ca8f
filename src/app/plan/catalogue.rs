//! Every component type there is: what it is called, which signals it takes, and how its section is read.

use super::{ExporterConfig, ExtensionConfig, ProcessorConfig, ReceiverConfig};
use crate::config::Section;
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
use crate::uplink::config::{DebugConfig, LoadBalancingConfig, OAuth2Config, OtlpGrpcConfig, OtlpHttpConfig};

/// One component type.
#[derive(Debug)]
pub struct Kind<T: 'static> {
    /// Its name in 0.88 first, then newer ones.
    pub names: &'static [&'static str],
    /// What may flow through it.
    pub signals: &'static [Signal],
    /// Reads its section; `None`: the product knows it, this build does not have it.
    pub read: Option<fn(&Section<'_>) -> T>,
}

/// All components of one class.
#[derive(Debug)]
pub struct Class<T: 'static> {
    /// The key of the class: `receivers`.
    pub key: &'static str,
    /// One of it: `receiver`.
    pub one: &'static str,
    /// Its types.
    pub kinds: &'static [Kind<T>],
}

impl<T> Class<T> {
    /// The type of this name.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<&'static Kind<T>> {
        self.kinds.iter().find(|kind| kind.names.contains(&name))
    }

    /// The names of the types this build has.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.kinds.iter().filter(|kind| kind.read.is_some()).flat_map(|kind| kind.names.iter().copied())
    }
}

const ALL: &[Signal] = &Signal::ALL;

/// `receivers`.
pub static RECEIVERS: Class<ReceiverConfig> = Class {
    key: "receivers",
    one: "receiver",
    kinds: &[
        Kind {
            names: &["otlp"],
            signals: ALL,
            read: Some(|s| ReceiverConfig::Otlp(Box::new(OtlpReceiverConfig::read(s)))),
        },
        Kind { names: &["self"], signals: &[Signal::Metrics], read: Some(|s| ReceiverConfig::Own(OwnConfig::read(s))) },
        Kind { names: &["prometheus"], signals: &[Signal::Metrics], read: None },
        Kind { names: &["filelog"], signals: &[Signal::Logs], read: None },
        Kind { names: &["fluentforward", "fluent_forward"], signals: &[Signal::Logs], read: None },
    ],
};

/// `processors`.
pub static PROCESSORS: Class<ProcessorConfig> = Class {
    key: "processors",
    one: "processor",
    kinds: &[
        Kind { names: &["batch"], signals: ALL, read: Some(|s| ProcessorConfig::Batch(BatchConfig::read(s))) },
        Kind {
            names: &["memory_limiter"],
            signals: ALL,
            read: Some(|s| ProcessorConfig::MemoryLimiter(MemoryLimiterConfig::read(s))),
        },
        Kind { names: &["resource"], signals: ALL, read: Some(|s| ProcessorConfig::Resource(ResourceConfig::read(s))) },
        Kind {
            names: &["attributes"],
            signals: ALL,
            read: Some(|s| ProcessorConfig::Attributes(Box::new(AttributesConfig::read(s)))),
        },
        Kind {
            names: &["filter"],
            signals: ALL,
            read: Some(|s| ProcessorConfig::Filter(Box::new(FilterConfig::read(s)))),
        },
        Kind {
            names: &["probabilistic_sampler"],
            signals: &[Signal::Traces, Signal::Logs],
            read: Some(|s| ProcessorConfig::Sampler(SamplerConfig::read(s))),
        },
    ],
};

/// `exporters`.
pub static EXPORTERS: Class<ExporterConfig> = Class {
    key: "exporters",
    one: "exporter",
    kinds: &[
        Kind {
            names: &["otlphttp", "otlp_http"],
            signals: ALL,
            read: Some(|s| ExporterConfig::OtlpHttp(Box::new(OtlpHttpConfig::read(s)))),
        },
        Kind {
            names: &["otlp", "otlp_grpc"],
            signals: ALL,
            read: Some(|s| ExporterConfig::OtlpGrpc(Box::new(OtlpGrpcConfig::read(s)))),
        },
        Kind { names: &["logging"], signals: ALL, read: Some(|s| ExporterConfig::Debug(DebugConfig::read(s, true))) },
        Kind { names: &["debug"], signals: ALL, read: Some(|s| ExporterConfig::Debug(DebugConfig::read(s, false))) },
        Kind {
            names: &["loadbalancing", "load_balancing"],
            signals: ALL,
            read: Some(|s| ExporterConfig::LoadBalancing(Box::new(LoadBalancingConfig::read(s)))),
        },
    ],
};

/// `extensions`; no telemetry flows through them.
pub static EXTENSIONS: Class<ExtensionConfig> = Class {
    key: "extensions",
    one: "extension",
    kinds: &[
        Kind {
            names: &["health_check"],
            signals: &[],
            read: Some(|s| ExtensionConfig::HealthCheck(Box::new(HealthCheckConfig::read(s)))),
        },
        Kind {
            names: &["file_storage"],
            signals: &[],
            read: Some(|s| ExtensionConfig::FileStorage(FileStorageConfig::read(s))),
        },
        Kind {
            names: &["bearertokenauth", "bearer_token_auth"],
            signals: &[],
            read: Some(|s| ExtensionConfig::BearerToken(BearerTokenConfig::read(s))),
        },
        Kind {
            names: &["basicauth", "basic_auth"],
            signals: &[],
            read: Some(|s| ExtensionConfig::BasicAuth(BasicAuthConfig::read(s))),
        },
        Kind {
            names: &["oauth2client", "oauth2_client"],
            signals: &[],
            read: Some(|s| ExtensionConfig::OAuth2(Box::new(OAuth2Config::read(s)))),
        },
        Kind {
            names: &["headers_setter"],
            signals: &[],
            read: Some(|s| ExtensionConfig::HeadersSetter(HeadersSetterConfig::read(s))),
        },
        Kind { names: &["zpages"], signals: &[], read: Some(|s| ExtensionConfig::Idle(IdleConfig::zpages(s))) },
        Kind { names: &["pprof"], signals: &[], read: Some(|s| ExtensionConfig::Idle(IdleConfig::pprof(s))) },
        Kind {
            names: &["memory_ballast"],
            signals: &[],
            read: Some(|s| ExtensionConfig::Idle(IdleConfig::memory_ballast(s))),
        },
        Kind {
            names: &["opamp"],
            signals: &[],
            read: Some(|s| ExtensionConfig::Opamp(Box::new(OpampConfig::read(s)))),
        },
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_names_mean_the_same_type() {
        let same = |a, b| std::ptr::eq(EXPORTERS.kind(a).expect("known"), EXPORTERS.kind(b).expect("known"));
        assert!(same("otlphttp", "otlp_http") && same("otlp", "otlp_grpc"));
        assert!(RECEIVERS.kind("fluent_forward").is_some() && RECEIVERS.kind("jaeger").is_none());
        assert_eq!(
            EXPORTERS.names().collect::<Vec<_>>(),
            ["otlphttp", "otlp_http", "otlp", "otlp_grpc", "logging", "debug", "loadbalancing", "load_balancing"]
        );
    }
}
