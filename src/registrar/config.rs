//! `registration`: whether and how the agent makes itself known to the platform. Ours; otelcol has nothing of the kind.

use super::answer::{ID_MAX, is_id};
use super::standing::Rhythm;
use crate::config::{Id, Section};
use std::path::PathBuf;
use std::time::Duration;

/// Says who we are and that we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationConfig {
    /// `enabled`; None: when there is a platform to register at, see `app::registration`.
    pub enabled: Option<bool>,
    /// `mode`, collector.
    pub mode: Mode,
    /// `exporter`: whose address, headers, credentials and TLS are used; None: the first that sends `X-Workspace-Id`, or the
    /// first there is.
    pub exporter: Option<Id>,
    /// `endpoint`: base URL of the API, in direct mode; None: the exporter's.
    pub endpoint: Option<String>,
    /// `agent_id`; None: derived from the machine, or what the platform gave.
    pub agent_id: Option<String>,
    /// `identity_file`: where the id is kept; None: `agent-identity` in the exporter's storage, or nowhere.
    pub identity_file: Option<PathBuf>,
    /// `interval`, 60 s: between two heartbeats.
    pub interval: Duration,
    /// `offline_after`, 15 min: silence after which the platform marks an agent as offline.
    pub offline_after: Duration,
}

/// `registration.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As OTLP metrics to the collector, which tells the platform.
    Collector,
    /// To the platform's API itself.
    Direct,
}

impl Default for RegistrationConfig {
    fn default() -> RegistrationConfig {
        RegistrationConfig {
            enabled: None,
            mode: Mode::Collector,
            exporter: None,
            endpoint: None,
            agent_id: None,
            identity_file: None,
            interval: Duration::from_secs(60),       // the seed, "Heartbeat Monitoring"
            offline_after: Duration::from_secs(900), // the same
        }
    }
}

impl RegistrationConfig {
    /// Times of the conversation.
    #[must_use]
    pub fn rhythm(&self) -> Rhythm {
        Rhythm { interval: self.interval, offline_after: self.offline_after }
    }

    /// Reads `registration`. Whoever writes the section wants to be registered.
    #[must_use]
    pub fn read(s: &Section<'_>, is_there: bool) -> RegistrationConfig {
        let default = RegistrationConfig::default();
        let enabled = s.flag("enabled", true);
        let config = RegistrationConfig {
            enabled: is_there.then_some(enabled),
            mode: s.choice("mode", default.mode, &[("collector", Mode::Collector), ("direct", Mode::Direct)]),
            exporter: s.id_if_given("exporter"),
            endpoint: s.url_if_given("endpoint"),
            agent_id: s.text_if_given("agent_id"),
            identity_file: s.path_if_given("identity_file"),
            interval: s.duration_above_zero("interval", default.interval),
            offline_after: s.duration_above_zero("offline_after", default.offline_after),
        };
        s.unless(config.agent_id.as_deref().is_none_or(is_id), "agent_id", || {
            format!("is no id: letters, digits and `. _ - :`, {ID_MAX} at most")
        });
        s.unless(config.identity_file.as_ref().is_none_or(|path| path.is_absolute()), "identity_file", || {
            "is relative; a service has no place of its own".to_owned()
        });
        s.unless(config.offline_after > config.interval, "offline_after", || {
            format!("{:?} is not longer than interval ({:?})", config.offline_after, config.interval)
        });
        s.warn_unless(config.endpoint.is_none() || config.mode == Mode::Direct, "endpoint", || {
            "has no effect: with `mode: collector` the exporter's endpoint is used".to_owned()
        });
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    fn read(yaml: &str) -> (RegistrationConfig, String) {
        try_out(yaml, &[], |s| RegistrationConfig::read(s, true))
    }

    #[test]
    fn what_is_written_is_read_and_what_cannot_be_meant_is_told_with_its_path() {
        let (config, told) = read("{}");
        assert_eq!((config, told.as_str()), (RegistrationConfig { enabled: Some(true), ..Default::default() }, ""));
        let (config, told) = read(
            "{enabled: false, mode: direct, exporter: otlphttp/api, endpoint: 'https://api.example.com', agent_id: gw-7, \
             identity_file: /var/lib/agent/id, interval: 30s, offline_after: 5m}",
        );
        let wanted = RegistrationConfig {
            enabled: Some(false),
            mode: Mode::Direct,
            exporter: Some(Id::parse("otlphttp/api").expect("an id")),
            endpoint: Some("https://api.example.com".to_owned()),
            agent_id: Some("gw-7".to_owned()),
            identity_file: Some("/var/lib/agent/id".into()),
            interval: Duration::from_secs(30),
            offline_after: Duration::from_secs(300),
        };
        assert_eq!((config, told.as_str()), (wanted, ""));
        for (yaml, expected) in [
            ("{agent_id: 'a/b'}", "is no id"),
            ("{identity_file: id}", "is relative"),
            ("{interval: 20m}", "is not longer than interval"),
            ("{mode: carrier_pigeon}", "is not one of collector, direct"),
            ("{endpoint: 'http://api'}", "has no effect"),
            ("{interval: 0s}", "0 is not a duration"),
            ("{inteval: 5s}", "interval"),
        ] {
            let (_, told) = read(yaml);
            assert!(told.contains(expected), "{yaml}: {told}");
        }
    }
}
