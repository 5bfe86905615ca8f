//! The messages of OpAMP that are spoken here, by hand (opamp-spec 0.14, `proto/opamp.proto`): field numbers are the protocol's, what
//! is not named is skipped when it is read. Attributes are OTLP's own, whose numbers the protocol repeats.
//!
//! What a server offers and this agent does not take (packages, addresses, commands) is kept as the bytes it came in, to know that it was
//! offered; nobody looks into them. So is a configuration, into which one looks where the operator lets a server set some keys
//! (`overlay.rs`).
//!
//! `tests/opamp` holds them against the reference implementation's own.

pub use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use std::collections::BTreeMap;

/// Agent → server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentToServer {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub instance_uid: bytes::Bytes,
    /// One more with every message.
    #[prost(uint64, tag = "2")]
    pub sequence_num: u64,
    /// Who; not there while the server knows it.
    #[prost(message, optional, tag = "3")]
    pub agent_description: Option<AgentDescription>,
    /// Bits of [`capability`].
    #[prost(uint64, tag = "4")]
    pub capabilities: u64,
    /// How; not there while the server knows it.
    #[prost(message, optional, tag = "5")]
    pub health: Option<ComponentHealth>,
    /// By what; not there while the server knows it.
    #[prost(message, optional, tag = "6")]
    pub effective_config: Option<EffectiveConfig>,
    /// What became of the configuration that was offered; not there while the server knows it.
    #[prost(message, optional, tag = "7")]
    pub remote_config_status: Option<RemoteConfigStatus>,
    /// The last message.
    #[prost(message, optional, tag = "9")]
    pub agent_disconnect: Option<AgentDisconnect>,
}

/// What an agent can, as bits.
pub mod capability {
    /// It reports its status: every agent does.
    pub const REPORTS_STATUS: u64 = 0x1;
    /// It takes a configuration from the server.
    pub const ACCEPTS_REMOTE_CONFIG: u64 = 0x2;
    /// It reports its effective configuration.
    pub const REPORTS_EFFECTIVE_CONFIG: u64 = 0x4;
    /// It reports its health.
    pub const REPORTS_HEALTH: u64 = 0x800;
    /// It reports what became of a configuration that was offered.
    pub const REPORTS_REMOTE_CONFIG: u64 = 0x1000;
}

/// `AgentDisconnect`: nothing is in it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct AgentDisconnect {}

/// Who an agent is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentDescription {
    /// What tells it from others.
    #[prost(message, repeated, tag = "1")]
    pub identifying_attributes: Vec<KeyValue>,
    /// Where it runs, and what the operator says of it.
    #[prost(message, repeated, tag = "2")]
    pub non_identifying_attributes: Vec<KeyValue>,
}

/// How an agent, or a part of it, is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ComponentHealth {
    /// As it should be.
    #[prost(bool, tag = "1")]
    pub healthy: bool,
    /// Since when it is up, ns; 0: it is not.
    #[prost(fixed64, tag = "2")]
    pub start_time_unix_nano: u64,
    /// Why it is not as it should be.
    #[prost(string, tag = "3")]
    pub last_error: String,
    /// In a word.
    #[prost(string, tag = "4")]
    pub status: String,
    /// When it was looked at, ns.
    #[prost(fixed64, tag = "5")]
    pub status_time_unix_nano: u64,
    /// Its parts.
    #[prost(btree_map = "string, message", tag = "6")]
    pub component_health_map: BTreeMap<String, ComponentHealth>,
}

/// By what an agent works.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EffectiveConfig {
    /// Its files.
    #[prost(message, optional, tag = "1")]
    pub config_map: Option<AgentConfigMap>,
}

/// What became of a configuration that was offered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemoteConfigStatus {
    /// Which one.
    #[prost(bytes = "bytes", tag = "1")]
    pub last_remote_config_hash: bytes::Bytes,
    /// 0: nothing was offered, 1: applied, 2: being applied, 3: failed.
    #[prost(int32, tag = "2")]
    pub status: i32,
    /// Why it failed.
    #[prost(string, tag = "3")]
    pub error_message: String,
}

/// A configuration that is offered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentRemoteConfig {
    /// Its files.
    #[prost(message, optional, tag = "1")]
    pub config: Option<AgentConfigMap>,
    /// By which the server knows it.
    #[prost(bytes = "bytes", tag = "2")]
    pub config_hash: bytes::Bytes,
}

/// Files by name; where there is one, it has none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentConfigMap {
    /// The files.
    #[prost(btree_map = "string, message", tag = "1")]
    pub config_map: BTreeMap<String, AgentConfigFile>,
}

/// A file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentConfigFile {
    /// What is in it.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: bytes::Bytes,
    /// `text/yaml`.
    #[prost(string, tag = "2")]
    pub content_type: String,
}

/// Server → agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerToAgent {
    /// Whom it is for.
    #[prost(bytes = "bytes", tag = "1")]
    pub instance_uid: bytes::Bytes,
    /// What went wrong with the message it answers.
    #[prost(message, optional, tag = "2")]
    pub error_response: Option<ServerErrorResponse>,
    /// Offered: `AgentRemoteConfig`.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub remote_config: Option<bytes::Bytes>,
    /// Offered: `ConnectionSettingsOffers`.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub connection_settings: Option<bytes::Bytes>,
    /// Offered: `PackagesAvailable`.
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub packages_available: Option<bytes::Bytes>,
    /// Bits; [`REPORT_FULL_STATE`].
    #[prost(uint64, tag = "6")]
    pub flags: u64,
    /// What the server can, as bits; 0: it does not say. [`ACCEPTS_EFFECTIVE_CONFIG`].
    #[prost(uint64, tag = "7")]
    pub capabilities: u64,
    /// Another name for us.
    #[prost(message, optional, tag = "8")]
    pub agent_identification: Option<AgentIdentification>,
    /// Asked for: `ServerToAgentCommand`.
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub command: Option<bytes::Bytes>,
    /// Said: `CustomMessage`.
    #[prost(bytes = "bytes", optional, tag = "11")]
    pub custom_message: Option<bytes::Bytes>,
}

/// A bit of [`ServerToAgent::flags`]: the server wants to know everything.
pub const REPORT_FULL_STATE: u64 = 0x1;
/// A bit of [`ServerToAgent::capabilities`]: it has a use for [`EffectiveConfig`].
pub const ACCEPTS_EFFECTIVE_CONFIG: u64 = 0x4;

/// What went wrong with a message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerErrorResponse {
    /// 0: nobody knows, 1: the message is malformed, [`UNAVAILABLE`].
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// In words.
    #[prost(string, tag = "2")]
    pub error_message: String,
    /// When to come back.
    #[prost(message, optional, tag = "3")]
    pub retry_info: Option<RetryInfo>,
}

/// [`ServerErrorResponse::kind`]: the server has no time.
pub const UNAVAILABLE: i32 = 2;

/// When to come back.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RetryInfo {
    /// After so long, ns.
    #[prost(uint64, tag = "1")]
    pub retry_after_nanoseconds: u64,
}

/// Another name for an agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentIdentification {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub new_instance_uid: bytes::Bytes,
}
