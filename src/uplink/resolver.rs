//! Who the endpoints of a `loadbalancing` exporter are: a list, the addresses of a name, or the pods behind a service.

use super::client::{Names, system_names};
use super::config::ResolverConfig;
use super::k8s::Service;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at the API, each of which waits until something changes: 1 s, so that a rollout is not read pod by pod.
const K8S_REST: Duration = Duration::from_secs(1);
/// The same after one that failed: 10 s. A fleet of agents asks an API that is in trouble.
const K8S_AGAIN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone)]
pub(super) enum Resolver {
    /// `static`.
    List(Arc<[String]>),
    /// `dns`: the system is asked, as for every connection.
    Dns { host: Arc<str>, port: u16, interval: Duration, timeout: Duration, names: Names },
    /// `k8s`.
    K8s(Service),
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
            ResolverConfig::K8s { service, ports, timeout } => Resolver::K8s(Service::new(service, ports, *timeout)),
        }
    }

    /// As the original calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Resolver::List(_) => "static",
            Resolver::Dns { .. } => "dns",
            Resolver::K8s(_) => "k8s",
        }
    }

    /// How often it is asked, after a look that failed or did not; `None`: once.
    pub(super) fn interval(&self, failed: bool) -> Option<Duration> {
        match self {
            Resolver::List(_) => None,
            Resolver::Dns { interval, .. } => Some(*interval),
            Resolver::K8s(_) => Some(if failed { K8S_AGAIN } else { K8S_REST }),
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
            Resolver::K8s(service) => sorted(service.look().await?.into_iter()),
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
