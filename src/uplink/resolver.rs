//! Who the endpoints of a `loadbalancing` exporter are: a list, the addresses of a name, or the pods behind a service.

use super::client::{Names, system_names};
use super::config::ResolverConfig;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// See the module.
#[derive(Clone)]
pub(super) enum Resolver {
    /// `static`.
    List(Arc<[String]>),
    /// `dns`: the system is asked, as for every connection.
    Dns { host: Arc<str>, port: u16, interval: Duration, timeout: Duration, names: Names },
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("kind", &self.kind()).finish_non_exhaustive()
    }
}

impl Resolver {
    pub(super) fn new(config: &ResolverConfig) -> Resolver {
        match config {
            ResolverConfig::Static { hostnames } => Resolver::List(sorted(hostnames.iter().cloned()).into()),
            ResolverConfig::Dns { hostname, port, interval, timeout } => Resolver::Dns {
                host: hostname.as_str().into(),
                port: *port,
                interval: *interval,
                timeout: *timeout,
                names: system_names,
            },
        }
    }

    /// As the original calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Resolver::List(_) => "static",
            Resolver::Dns { .. } => "dns",
        }
    }

    /// How often it is asked; `None`: once.
    pub(super) fn interval(&self) -> Option<Duration> {
        match self {
            Resolver::List(_) => None,
            Resolver::Dns { interval, .. } => Some(*interval),
        }
    }

    /// The endpoints, `host:port`, sorted; at least one.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) async fn look(&self) -> Result<Vec<String>, String> {
        let found = match self {
            Resolver::List(hostnames) => hostnames.to_vec(),
            Resolver::Dns { host, port, timeout, names, .. } => {
                let asked = tokio::time::timeout(*timeout, names(host.clone(), *port));
                let answer = asked.await.map_err(|_| format!("no answer about {host} within {timeout:?}"))?;
                let found = answer.map_err(|e| format!("{host}: {e}"))?;
                sorted(found.into_iter().map(|address| address.to_string()))
            }
        };
        if found.is_empty() { Err("no endpoint was found".to_owned()) } else { Ok(found) }
    }
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}
