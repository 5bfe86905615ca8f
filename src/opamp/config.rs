//! `extensions.opamp`: keys and defaults are those of otelcol-contrib's extension (0.140); `proxy_url` is ours.

use super::uid::Uid;
use crate::config::{Headers, Id, Section, TlsClient};
use std::time::Duration;

/// Tells an OpAMP server who the agent is, how it is and by what it works.
#[derive(Debug, Clone, PartialEq)]
pub struct OpampConfig {
    /// `server`.
    pub server: OpampServer,
    /// `instance_uid`; None: kept beside the identity, or made of the machine.
    pub instance_uid: Option<Uid>,
    /// `capabilities.reports_effective_config`, true.
    pub reports_effective_config: bool,
    /// `capabilities.reports_health`, true.
    pub reports_health: bool,
    /// `capabilities.accepts_remote_config`, false: a server may set the keys of `overlay.rs`.
    pub accepts_remote_config: bool,
    /// `agent_description.non_identifying_attributes`: texts beside ours, which they replace.
    pub attributes: Vec<(String, String)>,
    /// `agent_description.include_resource_attributes`, false: `service.telemetry.resource` too.
    pub include_resource_attributes: bool,
}

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `server.http`: a request for each.
    Http,
    /// `server.ws`: over a WebSocket.
    WebSocket,
}

/// `server.http` or `server.ws`.
#[derive(Debug, Clone, PartialEq)]
pub struct OpampServer {
    /// Which of them.
    pub way: Way,
    /// `endpoint`: the URL, to which nothing is added. Needed.
    pub endpoint: String,
    /// `headers`.
    pub headers: Headers,
    /// `tls`.
    pub tls: TlsClient,
    /// `auth`: an extension whose credentials are sent.
    pub auth: Option<Id>,
    /// `proxy_url`, ours; None: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` decide.
    pub proxy_url: Option<String>,
    /// `polling_interval` of `http`, 30 s: between two messages. Over a WebSocket 30 s, which the protocol calls a heartbeat.
    pub polling_interval: Duration,
}

/// As the protocol recommends.
const POLLING_INTERVAL: Duration = Duration::from_secs(30);
/// Shortest time between two messages.
const POLLING_MIN: Duration = Duration::from_secs(1);

impl OpampConfig {
    /// Reads `extensions.opamp`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> OpampConfig {
        let server = s.section("server", |s| {
            let both = s.gives("ws") && s.gives("http");
            s.unless(!both, "ws", || "stands beside http; give one of them".to_owned());
            if s.gives("ws") {
                s.accept(&["http"]);
                s.section("ws", |s| OpampServer::read(s, Way::WebSocket))
            } else {
                s.section("http", |s| OpampServer::read(s, Way::Http))
            }
        });
        let uid = s.text_if_given("instance_uid");
        let instance_uid = uid.as_deref().and_then(Uid::parse);
        s.unless(uid.is_none() || instance_uid.is_some(), "instance_uid", || {
            "is no UUID such as 0193c1a2-7b4e-7c3d-9f10-2a6b8c4d5e6f (version 7 is recommended)".to_owned()
        });
        let (reports_effective_config, reports_health, accepts_remote_config) = s.section("capabilities", |s| {
            let (config, health) = (s.flag("reports_effective_config", true), s.flag("reports_health", true));
            // The original reports them by default; who writes it out wants to see them.
            let components = s.flag("reports_available_components", false);
            s.warn_unless(!components, "reports_available_components", || {
                "has no effect: the receivers, processors and exporters there are stand in the effective configuration"
                    .to_owned()
            });
            (config, health, s.flag("accepts_remote_config", false))
        });
        let (attributes, include_resource_attributes) = s.section("agent_description", |s| {
            let attributes = s.texts_by_name("non_identifying_attributes");
            (attributes, s.flag("include_resource_attributes", false))
        });
        s.moot_all(
            &["ppid", "ppid_poll_interval"],
            "nobody starts this agent as a child to be watched; systemd ends it",
        );
        OpampConfig {
            server,
            instance_uid,
            reports_effective_config,
            reports_health,
            accepts_remote_config,
            attributes,
            include_resource_attributes,
        }
    }
}

impl OpampServer {
    fn read(s: &Section<'_>, way: Way) -> OpampServer {
        let endpoint = match way {
            Way::Http => s.url_if_given("endpoint"),
            Way::WebSocket => s.web_socket_url_if_given("endpoint"),
        };
        if !s.fills("endpoint") {
            s.error("endpoint", "there is no server: give its URL, such as https://opamp.example.com/v1/opamp");
        }
        let polling_interval = match way {
            Way::Http => s.duration("polling_interval", POLLING_INTERVAL),
            Way::WebSocket => POLLING_INTERVAL,
        };
        // 0 is the default, as in the original.
        let polling_interval = if polling_interval.is_zero() { POLLING_INTERVAL } else { polling_interval };
        s.unless(polling_interval >= POLLING_MIN, "polling_interval", || {
            format!("{polling_interval:?} is shorter than {POLLING_MIN:?}")
        });
        OpampServer {
            way,
            endpoint: endpoint.unwrap_or_default(),
            headers: s.headers("headers"),
            tls: s.section("tls", TlsClient::read),
            auth: s.id_if_given("auth"),
            proxy_url: s.url_if_given("proxy_url"),
            polling_interval,
        }
    }

    /// The URL that is asked for it.
    #[must_use]
    pub fn url(&self) -> String {
        match (self.way, self.endpoint.split_once("://")) {
            (Way::WebSocket, Some((scheme, rest))) if scheme.eq_ignore_ascii_case("wss") => format!("https://{rest}"),
            (Way::WebSocket, Some((_, rest))) => format!("http://{rest}"),
            _ => self.endpoint.clone(),
        }
    }

    /// Where it stands in the section.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self.way {
            Way::Http => "server.http",
            Way::WebSocket => "server.ws",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, try_out};

    fn read(yaml: &str) -> (OpampConfig, String) {
        try_out(yaml, &[], OpampConfig::read)
    }

    #[test]
    fn what_is_written_is_read_and_defaults_are_the_originals() {
        let (config, told) = read("{server: {http: {endpoint: 'https://c/v1/opamp'}}}");
        let plain = OpampConfig {
            server: OpampServer {
                way: Way::Http,
                endpoint: "https://c/v1/opamp".to_owned(),
                headers: Headers::new(),
                tls: TlsClient::default(),
                auth: None,
                proxy_url: None,
                polling_interval: Duration::from_secs(30),
            },
            instance_uid: None,
            reports_effective_config: true,
            reports_health: true,
            accepts_remote_config: false,
            attributes: Vec::new(),
            include_resource_attributes: false,
        };
        assert_eq!((config, told.as_str()), (plain.clone(), ""));
        let (config, told) = read(
            "{server: {http: {endpoint: 'http://c', headers: {X-Key: k}, tls: {insecure_skip_verify: true}, auth: basicauth, \
              proxy_url: 'http://p:1', polling_interval: 5s}}, instance_uid: 0193C1A2-7b4e-7c3d-9f10-2a6b8c4d5e6f, \
              capabilities: {reports_effective_config: false, reports_health: false, reports_available_components: false, \
              accepts_remote_config: true}, agent_description: {include_resource_attributes: true, \
              non_identifying_attributes: {site: north, rack: 07, nothing: }}}",
        );
        let wanted = OpampConfig {
            server: OpampServer {
                way: Way::Http,
                endpoint: "http://c".to_owned(),
                headers: vec![("X-Key".to_owned(), Secret::new("k"))],
                tls: TlsClient { insecure_skip_verify: true, ..TlsClient::default() },
                auth: Some(Id::of("basicauth")),
                proxy_url: Some("http://p:1".to_owned()),
                polling_interval: Duration::from_secs(5),
            },
            instance_uid: Uid::parse("0193c1a2-7b4e-7c3d-9f10-2a6b8c4d5e6f"),
            reports_effective_config: false,
            reports_health: false,
            accepts_remote_config: true,
            attributes: [("site", "north"), ("rack", "07"), ("nothing", "")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            include_resource_attributes: true,
        };
        assert_eq!((config, told.as_str()), (wanted, ""));
        let (config, told) = read("{server: {http: {endpoint: 'https://c/v1/opamp', polling_interval: 0}}}");
        assert_eq!((config, told.as_str()), (plain.clone(), ""));
        for (url, asked) in [
            ("ws://c:1/v1/opamp", "http://c:1/v1/opamp"),
            ("wss://c", "https://c"),
            ("WSS://[::1]:2/x?a=b", "https://[::1]:2/x?a=b"),
        ] {
            let (config, told) = read(&format!("{{server: {{ws: {{endpoint: '{url}'}}, http: }}}}"));
            let server = OpampServer { way: Way::WebSocket, endpoint: url.to_owned(), ..plain.server.clone() };
            assert_eq!((config.server.url().as_str(), told.as_str()), (asked, ""));
            assert_eq!(config, OpampConfig { server, ..plain.clone() });
        }
    }

    /// What is not here is told, as an error where it would be wrong to run without it. (With its path: `tests/config_broken.rs`.)
    #[test]
    #[rustfmt::skip]
    fn what_cannot_be_meant_is_told() {
        let server = "server: {http: {endpoint: 'https://c'}}";
        for (yaml, what) in [
            ("".to_owned(),                                                      "there is no server"),
            ("server: {http: {endpoint: c}}".to_owned(),                         "has no scheme"),
            ("server: {ws: {endpoint: 'https://c'}}".to_owned(),                 "did you mean `wss://c`"),
            ("server: {ws: {endpoint: c}}".to_owned(),                           "it must begin with ws:// or wss://"),
            ("server: {ws: {endpoint: 'ws://c:0'}}".to_owned(),                  "`0` is not a port"),
            ("server: {ws: {endpoint: 'ws://c', polling_interval: 5s}}".to_owned(), "is not a key here"),
            ("server: {ws: {endpoint: 'ws://c'}, http: {endpoint: 'http://c'}}".to_owned(), "stands beside http"),
            ("server: {http: {endpoint: 'https://c', polling_interval: 10ms}}".to_owned(), "10ms is shorter than 1s"),
            (format!("{server}, instance_uid: 01ARZ3NDEKTSV4RRFFQ69G5FAV"),      "is no UUID"),
            (format!("{server}, capabilities: {{reports_available_components: true}}"), "has no effect: the receivers"),
            (format!("{server}, capabilities: {{accepts_packages: true}}"),      "is not a key here"),
            (format!("{server}, agent_description: {{non_identifying_attributes: {{a: [b]}}}}"), "it must be a text"),
            (format!("{server}, ppid: 7"),                                       "has no effect: nobody starts"),
        ] {
            let (_, told) = read(&format!("{{{yaml}}}"));
            assert!(told.contains(what) && told.lines().count() == 1, "{yaml}: {told}");
        }
    }
}
