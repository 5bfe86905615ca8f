//! A management server that speaks OpAMP over HTTP, as far as agents see it: a table of what they told, and answers on command
//! (`docs/opamp.md` is what it holds an agent to).
//!
//! ```text
//! messenger ── AgentToServer ──▶ /v1/opamp ──▶ table: uid · number · description · health · configuration
//!           ◀── ServerToAgent ── a scripted answer, or the truth: a gap in the numbers asks for everything
//! ```

use super::far_end::{Answer, Manner, Request};
use crate::opamp::answer::PROTOBUF;
use crate::opamp::messages::{
    AgentConfigFile, AgentConfigMap, AgentDescription, AgentRemoteConfig, AgentToServer, ComponentHealth,
    REPORT_FULL_STATE, RemoteConfigStatus, ServerToAgent, any_value,
};
use crate::uplink::pack::{Encoding, inflate};
use bytes::Bytes;
use prost::Message as _;
use std::collections::{BTreeMap, VecDeque};

/// Where agents come to.
pub const PATH: &str = "/v1/opamp";
/// Most a message may inflate to.
const MESSAGE_MAX: usize = 4 << 20;
/// Messages that are remembered.
const MESSAGES_MAX: usize = 1_000;

/// What an agent told.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Of the last message.
    pub sequence_num: u64,
    /// Of the last message.
    pub capabilities: u64,
    /// Who it is.
    pub description: Option<AgentDescription>,
    /// How it is.
    pub health: Option<ComponentHealth>,
    /// By what it works.
    pub config: Option<String>,
    /// What it told last of a configuration that was offered.
    pub remote: Option<RemoteConfigStatus>,
    /// It said that it goes.
    pub is_gone: bool,
    /// How often it was asked for everything.
    pub asked: u64,
}

impl Row {
    /// An attribute of the description.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&str> {
        let description = self.description.as_ref()?;
        let mut all = description.identifying_attributes.iter().chain(&description.non_identifying_attributes);
        match all.find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()? {
            any_value::Value::StringValue(text) => Some(text),
            _ => None,
        }
    }
}

/// Something said instead of the truth.
#[derive(Debug, Clone)]
pub enum Reply {
    /// The message is entered if there is no error in this.
    Message(Box<ServerToAgent>),
    /// Nothing is entered.
    Http {
        /// The status.
        status: u16,
        /// The header.
        retry_after: Option<String>,
        /// The body's type and the body.
        body: Option<(String, Bytes)>,
    },
}

impl Reply {
    /// A message.
    #[must_use]
    pub fn message(said: ServerToAgent) -> Reply {
        Reply::Message(Box::new(said))
    }

    /// A status without words.
    #[must_use]
    pub fn status(status: u16) -> Reply {
        Reply::Http { status, retry_after: None, body: None }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Console {
    agents: BTreeMap<Vec<u8>, Row>,
    replies: VecDeque<Reply>,
    messages: VecDeque<(AgentToServer, Vec<(String, String)>)>,
    offered: Option<AgentRemoteConfig>,
}

impl Console {
    /// Says this to the next message that nothing else is said to.
    pub fn reply(&mut self, reply: Reply) {
        self.replies.push_back(reply);
    }

    /// From now on this configuration is offered to every agent that does not tell of its hash.
    pub fn offer(&mut self, hash: &[u8], text: &str) {
        let file =
            AgentConfigFile { body: Bytes::copy_from_slice(text.as_bytes()), content_type: "text/yaml".to_owned() };
        let config = AgentConfigMap { config_map: BTreeMap::from([(String::new(), file)]) };
        let config_hash = Bytes::copy_from_slice(hash);
        self.offered = Some(AgentRemoteConfig { config: Some(config), config_hash });
    }

    /// What agents told, by uid.
    #[must_use]
    pub fn agents(&self) -> &BTreeMap<Vec<u8>, Row> {
        &self.agents
    }

    /// The last messages with their headers, oldest first, taken or not.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &(AgentToServer, Vec<(String, String)>)> {
        self.messages.iter()
    }

    /// It was started anew, and kept nothing.
    pub fn forget(&mut self) {
        self.agents.clear();
    }

    /// A request to [`PATH`].
    pub fn answer(&mut self, request: &Request) -> Answer {
        if request.header("content-type") != Some(PROTOBUF) {
            return answer(415, None, None);
        }
        let encoding = match request.header("content-encoding") {
            None => Some(Encoding::Identity),
            Some(name) => Encoding::named(name),
        };
        let raw = encoding.and_then(|encoding| inflate(encoding, &request.body, MESSAGE_MAX));
        let Some(said) = raw.and_then(|raw| AgentToServer::decode(raw).ok()) else { return answer(400, None, None) };
        if said.instance_uid.len() != 16 {
            return answer(400, None, None);
        }
        if self.messages.len() == MESSAGES_MAX {
            self.messages.pop_front();
        }
        self.messages.push_back((said.clone(), request.headers.clone()));
        let reply = match self.replies.pop_front() {
            Some(Reply::Http { status, retry_after, body }) => return answer(status, retry_after, body),
            Some(Reply::Message(message)) => Some(*message),
            None => None,
        };
        let is_taken = reply.as_ref().is_none_or(|reply| reply.error_response.is_none());
        let truth = if is_taken { self.enter(&said) } else { ServerToAgent::default() };
        let body = reply.unwrap_or(truth).encode_to_vec();
        answer(200, None, Some((PROTOBUF.to_owned(), body.into())))
    }

    fn enter(&mut self, said: &AgentToServer) -> ServerToAgent {
        let is_known = self.agents.contains_key(&said.instance_uid[..]);
        let row = self.agents.entry(said.instance_uid.to_vec()).or_default();
        let is_missed = is_known && said.sequence_num != row.sequence_num + 1;
        row.sequence_num = said.sequence_num;
        row.capabilities = said.capabilities;
        row.is_gone = said.agent_disconnect.is_some();
        row.description = said.agent_description.clone().or(row.description.take());
        row.health = said.health.clone().or(row.health.take());
        let config = said.effective_config.as_ref().and_then(|config| config.config_map.as_ref()?.config_map.get(""));
        row.remote = said.remote_config_status.clone().or(row.remote.take());
        let known = row.remote.as_ref().map(|told| &told.last_remote_config_hash);
        let offered = self.offered.as_ref().filter(|offered| Some(&offered.config_hash) != known && !row.is_gone);
        row.config = config.map(|file| String::from_utf8_lossy(&file.body).into_owned()).or(row.config.take());
        let lacks = row.description.is_none() || (is_missed && said.agent_description.is_none());
        let flags = if lacks && !row.is_gone { REPORT_FULL_STATE } else { 0 };
        row.asked += u64::from(flags != 0);
        ServerToAgent {
            instance_uid: said.instance_uid.clone(),
            flags,
            capabilities: 0x7,
            remote_config: offered.map(|offered| offered.encode_to_vec().into()),
            ..ServerToAgent::default()
        }
    }
}

fn answer(status: u16, retry_after: Option<String>, body: Option<(String, Bytes)>) -> Answer {
    let (kind, body) = body.map_or((None, Bytes::new()), |(kind, body)| (Some(kind), body));
    let headers = [("Content-Type", kind), ("Retry-After", retry_after)];
    let headers = headers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    Answer { status, headers, body: body.into(), manner: Manner::AtOnce }
}
