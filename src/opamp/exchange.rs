//! Where a configuration that a server offers waits for the process to look at it, and where it is said what became of it.
//!
//! What always holds: one offer waits at most, the last one; and an offer whose hash is known is no offer, so a server that says the
//! same with every answer costs nothing.

use super::messages::{AgentConfigMap, AgentRemoteConfig, RemoteConfigStatus};
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// Longest hash of a configuration, bytes: one of 512 bits.
const HASH_MAX: usize = 64;

/// A configuration that is offered.
#[derive(Debug, Clone, PartialEq)]
pub struct Offered {
    /// By which the server knows it.
    pub hash: Vec<u8>,
    /// Its files.
    pub files: AgentConfigMap,
}

/// What became of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is in force and has proved itself.
    Applied,
    /// It is being looked at, or in force and has not proved itself yet.
    Applying,
    /// It is not in force.
    Failed,
}

/// The same, of which one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// By which the server knows it.
    pub hash: Vec<u8>,
    /// How far it came.
    pub stage: Stage,
    /// Why it failed.
    pub why: String,
}

impl Status {
    /// As it is told.
    #[must_use]
    pub fn message(&self) -> RemoteConfigStatus {
        RemoteConfigStatus {
            last_remote_config_hash: self.hash.clone().into(),
            status: match self.stage {
                Stage::Applied => 1,
                Stage::Applying => 2,
                Stage::Failed => 3,
            },
            error_message: self.why.clone(),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    offered: watch::Sender<Option<Arc<Offered>>>,
    status: watch::Sender<Option<Status>>,
    heard: watch::Sender<Option<Instant>>,
}

impl Default for Exchange {
    fn default() -> Exchange {
        Exchange {
            offered: watch::Sender::new(None),
            status: watch::Sender::new(None),
            heard: watch::Sender::new(None),
        }
    }
}

impl Exchange {
    /// A server offers this, the bytes of an [`AgentRemoteConfig`]. False: nothing can be made of it.
    pub fn offer(&self, bytes: &[u8]) -> bool {
        let Ok(AgentRemoteConfig { config, config_hash: hash }) = AgentRemoteConfig::decode(bytes) else {
            return false;
        };
        if hash.is_empty() || hash.len() > HASH_MAX {
            return false;
        }
        let is_known =
            |offered: &Option<Arc<Offered>>| offered.as_ref().is_some_and(|known| known.hash[..] == hash[..]);
        if self.status.borrow().as_ref().is_none_or(|status| status.hash[..] != hash[..]) {
            self.offered.send_if_modified(|offered| {
                let is_new = !is_known(offered);
                if is_new {
                    *offered = Some(Arc::new(Offered { hash: hash.to_vec(), files: config.unwrap_or_default() }));
                }
                is_new
            });
        }
        true
    }

    /// What is offered, one after the other.
    #[must_use]
    pub fn offers(&self) -> watch::Receiver<Option<Arc<Offered>>> {
        self.offered.subscribe()
    }

    /// It is looked at: what is known of it from now on is its status.
    pub fn forget_offer(&self) {
        self.offered.send_if_modified(|offered| {
            *offered = None;
            false
        });
    }

    /// It is so far.
    pub fn set(&self, status: Option<Status>) {
        self.status.send_if_modified(|known| {
            let is_new = *known != status;
            *known = status;
            is_new
        });
    }

    /// How far it is; wakes who waits for another stage.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Option<Status>> {
        self.status.subscribe()
    }

    /// The server took a message.
    pub fn heard(&self) {
        self.heard.send_replace(Some(Instant::now()));
    }

    /// When it last did.
    #[must_use]
    pub fn last_heard(&self) -> Option<Instant> {
        *self.heard.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(hash: &[u8]) -> Vec<u8> {
        AgentRemoteConfig { config: None, config_hash: hash.to_vec().into() }.encode_to_vec()
    }

    /// Goal: what is known by its hash does not come again; the last word counts.
    #[test]
    fn what_is_known_is_no_offer() {
        let exchange = Exchange::default();
        let mut offers = exchange.offers();
        let mut next = || {
            let is_new = offers.has_changed().expect("it is there");
            let offered = offers.borrow_and_update().clone();
            is_new.then(|| offered.expect("one").hash.clone())
        };
        assert!(exchange.offer(&offer(b"a")) && exchange.offer(&offer(b"b")));
        assert_eq!(next(), Some(b"b".to_vec()));
        assert!(exchange.offer(&offer(b"b")));
        assert_eq!(next(), None);
        exchange.set(Some(Status { hash: b"c".to_vec(), stage: Stage::Failed, why: "no".to_owned() }));
        exchange.forget_offer();
        assert!(exchange.offer(&offer(b"c")));
        assert_eq!(next(), None);
        assert!(exchange.offer(&offer(b"b")));
        assert_eq!(next(), Some(b"b".to_vec()));
        for bytes in [&b"\xff\xff"[..], &offer(b""), &offer(&[1; 65])] {
            assert!(!exchange.offer(bytes));
        }
        assert_eq!(next(), None);
    }

    #[test]
    fn a_stage_is_told_when_it_is_another() {
        let exchange = Exchange::default();
        let mut status = exchange.status();
        let of = |stage| Some(Status { hash: vec![1], stage, why: String::new() });
        exchange.set(of(Stage::Applying));
        assert!(status.has_changed().expect("it is there"));
        assert_eq!(status.borrow_and_update().clone().map(|status| status.message().status), Some(2));
        exchange.set(of(Stage::Applying));
        assert!(!status.has_changed().expect("it is there"));
    }
}
