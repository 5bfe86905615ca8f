//! What is said of the agent: who it is, how it is, by which configuration it works. Plain functions of what is known.

use super::messages::{
    AgentConfigFile, AgentConfigMap, AgentDescription, AnyValue, ComponentHealth, EffectiveConfig, KeyValue, any_value,
};
use super::uid::Uid;
use crate::base::Stamp;
use crate::registrar::letter::{AGENT, Place, VERSION};
use crate::telemetry::health::{Phase, REASON_MAX, State};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// Longest configuration that is told, bytes. A longer one is said to be too long: half of one would be another one.
pub const CONFIG_MAX: usize = 256 * 1024;

/// What does not change while the configuration stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// `Ubuntu 22.04`.
    pub os_description: String,
    /// `agent_description.non_identifying_attributes`, before which `service.telemetry.resource` if that is wanted. They win over ours.
    pub attributes: Vec<(String, String)>,
    /// Exporters that send, by id: parts whose health is told also when nothing is wrong with them.
    pub exporters: Vec<String>,
}

/// Who the agent is. `agent_id`: by which the platform knows it.
#[must_use]
pub fn description(profile: &Profile, place: &Place, uid: Uid, agent_id: Option<&str>) -> AgentDescription {
    let uid = uid.to_string();
    let identifying = [("service.name", AGENT), ("service.version", VERSION), ("service.instance.id", &uid)];
    let ours = [
        ("os.type", Some(std::env::consts::OS)),
        ("os.description", Some(&*profile.os_description)),
        ("host.arch", Some(crate::uplink::client::arch())),
        ("host.name", Some(&*place.hostname)),
        ("host.ip", place.ip_address.as_deref()),
        ("agent.id", agent_id),
    ];
    let ours = ours.into_iter().filter_map(|(key, value)| Some((key, value.filter(|value| !value.is_empty())?)));
    let said = profile.attributes.iter().map(|(key, value)| (&**key, &**value));
    // The last one of a name counts.
    let others: BTreeMap<&str, &str> = ours.chain(said).collect();
    AgentDescription {
        identifying_attributes: identifying.into_iter().map(attribute).collect(),
        non_identifying_attributes: others.into_iter().map(attribute).collect(),
    }
}

fn attribute((key, value): (&str, &str)) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// How the agent is, by the board. What stands there under `own` is the extension's own trouble: a server that reads this has none
/// of it.
#[must_use]
pub fn health(state: &State, now: Stamp, exporters: &[String], own: &str) -> ComponentHealth {
    let part = |healthy, status: &str, error: &str| ComponentHealth {
        healthy,
        // By the protocol: what does not run was not started.
        start_time_unix_nano: if status == DEAD { 0 } else { state.started.wall_ns },
        last_error: error.to_owned(),
        status: status.to_owned(),
        status_time_unix_nano: now.wall_ns,
        component_health_map: BTreeMap::new(),
    };
    let well = exporters.iter().map(|id| (id.clone(), part(true, "ok", "")));
    let degraded = state.degraded.iter().filter(|(what, _)| *what != own);
    let degraded = degraded.map(|(what, why)| (what.clone(), part(false, "degraded", why)));
    let dead = state.dead.iter().map(|(post, why)| (post.clone(), part(false, DEAD, why)));
    let parts: BTreeMap<String, ComponentHealth> = well.chain(degraded).chain(dead).collect();
    let status = match state.phase {
        Phase::Starting => "starting",
        Phase::Stopping => "stopping",
        Phase::Ready if !state.dead.is_empty() => DEAD,
        Phase::Ready if parts.values().any(|part| !part.healthy) => "degraded",
        Phase::Ready => "ok",
    };
    let why = match state.phase {
        Phase::Ready => state.dead.iter().map(|(post, why)| format!("{post}: {why}")).collect::<Vec<_>>().join("; "),
        phase if state.dead.is_empty() => {
            format!("the agent is {}", if phase == Phase::Starting { "starting" } else { "stopping" })
        }
        _ => state.dead.keys().cloned().collect::<Vec<_>>().join(", "),
    };
    ComponentHealth {
        healthy: state.is_available(),
        start_time_unix_nano: state.started.wall_ns,
        last_error: why.chars().take(REASON_MAX).collect(),
        status: status.to_owned(),
        status_time_unix_nano: now.wall_ns,
        component_health_map: parts,
    }
}

/// A vital post cannot live.
const DEAD: &str = "dead";

/// The configuration in force, as `print-config` shows it.
#[must_use]
pub fn config(effective: &str) -> EffectiveConfig {
    let body = if effective.len() <= CONFIG_MAX {
        Bytes::copy_from_slice(effective.as_bytes())
    } else {
        format!("# {} bytes long; not told beyond {CONFIG_MAX}\n", effective.len()).into()
    };
    let file = AgentConfigFile { body, content_type: "text/yaml".to_owned() };
    EffectiveConfig { config_map: Some(AgentConfigMap { config_map: BTreeMap::from([(String::new(), file)]) }) }
}

/// By which it is known whether something changed; when it was looked at is no change.
#[must_use]
pub fn digest(message: &impl Message) -> u64 {
    xxh3_64(&message.encode_to_vec())
}

/// [`digest`] of a health.
#[must_use]
pub fn digest_of_health(health: &ComponentHealth) -> u64 {
    let mut still = health.clone();
    still.status_time_unix_nano = 0;
    still.component_health_map.values_mut().for_each(|part| part.status_time_unix_nano = 0);
    digest(&still)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::health::News;

    const START: Stamp = Stamp { wall_ns: 1_765_620_000_000_000_000, mono_ms: 1_000 };
    const NOW: Stamp = Stamp { wall_ns: 1_765_620_060_000_000_000, mono_ms: 61_000 };

    fn said(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
        attributes
            .iter()
            .map(|a| match a.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(any_value::Value::StringValue(value)) => (&*a.key, &**value),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn an_agent_is_described_and_the_operator_has_the_last_word() {
        let profile = Profile {
            os_description: "Ubuntu 22.04".to_owned(),
            attributes: [("site", "north"), ("host.name", "mine"), ("site", "south")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            exporters: Vec::new(),
        };
        let place = Place { hostname: "gw-7".to_owned(), ip_address: None };
        let uid = Uid::parse("0193c1a2-7b4e-7c3d-9f10-2a6b8c4d5e6f").expect("a uid");
        let description = description(&profile, &place, uid, Some("tfo-agent-gw-7"));
        assert_eq!(
            said(&description.identifying_attributes),
            [
                ("service.name", "tfo-otel-agent"),
                ("service.version", VERSION),
                ("service.instance.id", "0193c1a2-7b4e-7c3d-9f10-2a6b8c4d5e6f"),
            ]
        );
        assert_eq!(
            said(&description.non_identifying_attributes),
            [
                ("agent.id", "tfo-agent-gw-7"),
                ("host.arch", crate::uplink::client::arch()),
                ("host.name", "mine"),
                ("os.description", "Ubuntu 22.04"),
                ("os.type", std::env::consts::OS),
                ("site", "south"),
            ]
        );
    }

    #[test]
    fn health_is_what_the_board_says_but_for_our_own_trouble() {
        let starting = State::starting(START);
        let ready = starting.clone().after(News::Ready, START);
        let degraded = ready
            .clone()
            .after(News::Degraded("otlphttp", "link is down"), NOW)
            .after(News::Degraded("opamp", "server does not answer"), NOW);
        let dead = degraded.clone().after(News::Dead("spool-writer", "hangs"), NOW);
        let exporters = ["otlphttp".to_owned(), "otlphttp/b".to_owned()];
        let show = |state: &State| {
            let health = health(state, NOW, &exporters, "opamp");
            let part = |(what, part): (&String, &ComponentHealth)| {
                format!("{what} {} {} {}", part.healthy, part.status, part.last_error).trim_end().to_owned()
            };
            let parts: Vec<_> = health.component_health_map.iter().map(part).collect();
            (health.healthy, health.status, health.last_error, parts.join(", "))
        };
        let of = |healthy, status: &str, why: &str, parts: &str| {
            (healthy, status.to_owned(), why.to_owned(), parts.to_owned())
        };
        let well = "otlphttp true ok, otlphttp/b true ok";
        assert_eq!(show(&starting), of(false, "starting", "the agent is starting", well));
        assert_eq!(show(&ready), of(true, "ok", "", well));
        let link = "otlphttp false degraded link is down, otlphttp/b true ok";
        assert_eq!(show(&degraded), of(true, "degraded", "", link));
        let writer = format!("{link}, spool-writer false dead hangs");
        assert_eq!(show(&dead), of(false, "dead", "spool-writer: hangs", &writer));
        let told = health(&dead, NOW, &exporters, "opamp");
        assert_eq!(told.component_health_map["spool-writer"].start_time_unix_nano, 0);
        assert_eq!(told.start_time_unix_nano, START.wall_ns);
        // Time alone is no news.
        let later = health(&dead, Stamp { wall_ns: NOW.wall_ns + 1, ..NOW }, &exporters, "opamp");
        assert_ne!(digest(&told), digest(&later));
        assert_eq!(digest_of_health(&told), digest_of_health(&later));
        assert_ne!(digest_of_health(&told), digest_of_health(&health(&degraded, NOW, &exporters, "opamp")));
    }

    #[test]
    fn a_configuration_is_told_whole_or_said_to_be_too_long() {
        let body = |text: &str| {
            let map = config(text).config_map.expect("it is there").config_map;
            assert_eq!(map[""].content_type, "text/yaml");
            String::from_utf8(map[""].body.to_vec()).expect("a text")
        };
        assert_eq!(body("a: 1\n"), "a: 1\n");
        assert_eq!(body(&"x".repeat(CONFIG_MAX)).len(), CONFIG_MAX);
        assert_eq!(body(&"x".repeat(CONFIG_MAX + 1)), "# 262145 bytes long; not told beyond 262144\n");
    }
}
