//! The pods behind a service, as the API of Kubernetes tells them (the `k8s` resolver).
//!
//! ```text
//! look ── first ─▶ list ───────────────────────────────▶ addresses
//!      ── then ──▶ watch, until something changes ─▶ list ─▶ addresses
//! ```
//!
//! What always holds:
//! * What is known comes from a list; a watch says only that it is time for the next. So nothing is put together from events, and one
//!   that is missed costs [`WATCHED`].
//! * `EndpointSlice`s are asked for; where a role knows only `endpoints`, as 0.88's does, those.
//! * Pods that are not ready, or about to end, are no endpoints.

use super::client::{CONNECT_MAX, TCP_KEEPALIVE, install_provider, reasons, with_tls};
use crate::config::{Pem, TlsClient};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Client, Response, Url, redirect};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A watch that says nothing ends after so long, 4 min, and the list is read again. Servers grant 5 to 10 min.
const WATCHED: Duration = Duration::from_secs(240);
/// Rest where a watch is not to be had: a fleet of agents that polls is felt by the server.
const POLLED: Duration = Duration::from_secs(30);
/// Most of a list that is read: 16 MiB, thousands of pods.
const LIST_MAX: usize = 16 << 20;

/// Where a pod finds its own credentials.
pub(super) const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// One service.
#[derive(Debug, Clone)]
pub(super) struct Service {
    name: Arc<str>,
    namespace: Option<Arc<str>>,
    ports: Arc<[u16]>,
    timeout: Duration,
    /// Of the API; `None`: the one of the pod's environment.
    base: Option<Url>,
    /// With `token`, `ca.crt` and `namespace`.
    account: Arc<Path>,
    /// What the last list was, for the watch that follows.
    known: Arc<Mutex<Option<Known>>>,
}

#[derive(Debug, Clone)]
struct Known {
    kind: Kind,
    version: String,
}

/// Which objects are asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Slices,
    Endpoints,
}

impl Service {
    /// `service`: a name, or `name.namespace`.
    pub(super) fn new(service: &str, ports: &[u16], timeout: Duration) -> Service {
        Service::at(None, Path::new(ACCOUNT), service, ports, timeout)
    }

    pub(super) fn at(base: Option<Url>, account: &Path, service: &str, ports: &[u16], timeout: Duration) -> Service {
        let (name, namespace) = match service.split_once('.') {
            Some((name, namespace)) => (name, Some(namespace.split('.').next().unwrap_or_default())),
            None => (service, None),
        };
        Service {
            name: name.into(),
            namespace: namespace.map(Into::into),
            ports: ports.into(),
            timeout,
            base,
            account: account.into(),
            known: Arc::default(),
        }
    }

    /// The addresses with their ports, as soon as they may have changed; the first time at once.
    ///
    /// # Errors
    /// Why they cannot be told.
    pub(super) async fn look(&self) -> Result<Vec<String>, String> {
        let api = Api::of(self)?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(known) = &known {
            api.watch(known).await;
        }
        let preferred = known.map_or(Kind::Slices, |known| known.kind);
        let asked = timeout(self.timeout, api.list(preferred)).await;
        let (kind, list) = asked.map_err(|_| format!("no answer of the API within {:?}", self.timeout))??;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Known { kind, version });
        let addresses = addresses(&list);
        Ok(addresses.iter().flat_map(|ip| self.ports.iter().map(|port| at(ip, *port))).collect())
    }
}

fn at(ip: &IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(*ip, port).to_string()
}

/// The API, for one look.
struct Api {
    client: Client,
    base: Url,
    namespace: String,
    name: Arc<str>,
    token: PathBuf,
}

impl Api {
    fn of(service: &Service) -> Result<Api, String> {
        install_provider();
        let base = match &service.base {
            Some(base) => base.clone(),
            None => in_cluster()?,
        };
        let mut tls = TlsClient::default();
        tls.common.ca = Some(Pem::File(service.account.join("ca.crt")));
        let builder = Client::builder()
            .no_proxy() // it is in the cluster
            .redirect(redirect::Policy::none())
            .connect_timeout(service.timeout.min(CONNECT_MAX))
            .timeout(WATCHED + Duration::from_secs(30))
            .tcp_keepalive(TCP_KEEPALIVE);
        let builder = with_tls(builder, &tls, base.scheme() == "https").map_err(|e| e.to_string())?;
        let own = || std::fs::read_to_string(service.account.join("namespace")).unwrap_or_default();
        let namespace = service.namespace.as_deref().map_or_else(own, str::to_owned);
        let namespace = match namespace.trim() {
            "" => "default".to_owned(),
            namespace => namespace.to_owned(),
        };
        Ok(Api {
            client: builder.build().map_err(|e| e.to_string())?,
            base,
            namespace,
            name: service.name.clone(),
            token: service.account.join("token"),
        })
    }

    /// With what was asked for in the end.
    async fn list(&self, kind: Kind) -> Result<(Kind, Value), String> {
        let response = self.get(kind, &[]).await?;
        match (response.status().as_u16(), kind) {
            (200, _) => Ok((kind, read_list(response).await?)),
            (403 | 404, Kind::Slices) => {
                let older = self.get(Kind::Endpoints, &[]).await?;
                match older.status().as_u16() {
                    200 => Ok((Kind::Endpoints, read_list(older).await?)),
                    _ => Err(refusal(response).await),
                }
            }
            _ => Err(refusal(response).await),
        }
    }

    /// Returns when something may have changed.
    async fn watch(&self, known: &Known) {
        let seconds = WATCHED.as_secs().to_string();
        let more = [("watch", "true"), ("resourceVersion", &*known.version), ("timeoutSeconds", &*seconds)];
        match self.get(known.kind, &more).await {
            // The first piece of an event is news enough; so is the end.
            Ok(mut response) if response.status().as_u16() == 200 => drop(response.chunk().await),
            // Too old a version: read anew.
            Ok(response) if response.status().as_u16() == 410 => {}
            Ok(_) | Err(_) => sleep(POLLED).await,
        }
    }

    async fn get(&self, kind: Kind, more: &[(&str, &str)]) -> Result<Response, String> {
        let (path, selector, which) = match kind {
            Kind::Slices => (
                format!("apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", self.namespace),
                "labelSelector",
                format!("kubernetes.io/service-name={}", self.name),
            ),
            Kind::Endpoints => (
                format!("api/v1/namespaces/{}/endpoints", self.namespace),
                "fieldSelector",
                format!("metadata.name={}", self.name),
            ),
        };
        let mut url = self.base.join(&path).map_err(|e| e.to_string())?;
        url.query_pairs_mut().append_pair(selector, &which).extend_pairs(more);
        let mut request = self.client.get(url).header(ACCEPT, "application/json");
        // It changes every hour.
        if let Ok(token) = std::fs::read_to_string(&self.token)
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        {
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(|error| format!("the API cannot be asked: {}", reasons(&error)))
    }
}

fn in_cluster() -> Result<Url, String> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (host, port) = var("KUBERNETES_SERVICE_HOST")
        .zip(var("KUBERNETES_SERVICE_PORT"))
        .ok_or("this is no pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Url::parse(&format!("https://{host}:{port}/")).map_err(|e| format!("KUBERNETES_SERVICE_HOST: {e}"))
}

async fn read_list(mut response: Response) -> Result<Value, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| reasons(&error))? {
        if body.len() + chunk.len() > LIST_MAX {
            return Err("the API's list is longer than 16 MiB".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|e| format!("the API's list cannot be read: {e}"))
}

async fn refusal(response: Response) -> String {
    let status = response.status();
    let said = read_list(response).await.unwrap_or_default();
    let message = said["message"].as_str().unwrap_or_default();
    super::verdict::printable(&format!(
        "the API refuses us: {status} {message} (the role needs get, list and watch of endpointslices)"
    ))
}

/// Of both kinds of lists.
fn addresses(list: &Value) -> BTreeSet<IpAddr> {
    let each = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let mut found = BTreeSet::new();
    for item in each(&list["items"]) {
        let slice = each(&item["endpoints"]);
        let ready = slice.iter().filter(|endpoint| {
            let conditions = &endpoint["conditions"];
            conditions["ready"].as_bool() != Some(false) && conditions["terminating"].as_bool() != Some(true)
        });
        let of_slices = ready.flat_map(|endpoint| each(&endpoint["addresses"]));
        let subsets = each(&item["subsets"]);
        let of_subsets = subsets.iter().flat_map(|subset| each(&subset["addresses"])).map(|a| a["ip"].clone());
        let all = of_slices.chain(of_subsets);
        found.extend(all.filter_map(|ip| ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;
    use tokio::sync::Notify;

    /// A stand-in for the API: answers lists from a queue whose last stays, and watches when something is said to have changed.
    #[derive(Default)]
    struct Stand {
        lists: Mutex<VecDeque<(u16, String)>>,
        asked: Mutex<Vec<String>>,
        changed: Notify,
    }

    async fn stand(lists: &[(u16, String)]) -> (Url, Arc<Stand>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = Url::parse(&format!("http://{}/", listener.local_addr().expect("bound"))).expect("a URL");
        let stand = Arc::new(Stand { lists: Mutex::new(lists.iter().cloned().collect()), ..Stand::default() });
        let served = stand.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stand = served.clone();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let (mut head, mut line) = (String::new(), String::new());
                    while stream.read_line(&mut line).await.is_ok_and(|n| n > 2) {
                        head.push_str(&std::mem::take(&mut line));
                    }
                    stand.asked.lock().expect("free").push(head.clone());
                    let watches = head.lines().next().unwrap_or_default().contains("watch=true");
                    let (status, body) = if watches {
                        stand.changed.notified().await;
                        (200, "{\"type\": \"MODIFIED\"}\n".to_owned())
                    } else {
                        let mut lists = stand.lists.lock().expect("free");
                        if lists.len() > 1 { lists.pop_front().expect("two") } else { lists[0].clone() }
                    };
                    let answer = format!(
                        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        (base, stand)
    }

    fn slices(version: u32, endpoints: &[(&str, &str)]) -> (u16, String) {
        let each = endpoints
            .iter()
            .map(|(ip, conditions)| format!("{{\"addresses\": [\"{ip}\"], \"conditions\": {{{conditions}}}}}"));
        let list = each.collect::<Vec<_>>().join(", ");
        (
            200,
            format!(
                "{{\"metadata\": {{\"resourceVersion\": \"{version}\"}}, \"items\": [{{\"endpoints\": [{list}]}}]}}"
            ),
        )
    }

    fn account() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("token"), "of-the-pod\n").expect("space");
        std::fs::write(dir.path().join("namespace"), "own").expect("space");
        dir
    }

    /// Goal: pods that are ready are found at once, and then when something changes, without asking meanwhile.
    #[actix::test]
    async fn a_change_is_told_by_a_watch_and_read_from_a_list() {
        let dir = account();
        let (base, stand) = stand(&[
            slices(7, &[("10.0.0.2", "\"ready\": true"), ("10.0.0.1", ""), ("10.0.0.3", "\"ready\": false")]),
            slices(
                9,
                &[
                    ("10.0.0.2", "\"ready\": true"),
                    ("10.0.0.4", "\"ready\": true, \"terminating\": true"),
                    ("fd00::1", ""),
                ],
            ),
        ])
        .await;
        let second = Duration::from_secs(1);
        let service = Service::at(Some(base), dir.path(), "collectors.telemetry", &[4_317, 4_319], 5 * second);
        let found = service.look().await.expect("it is told");
        assert_eq!(found, ["10.0.0.1:4317", "10.0.0.1:4319", "10.0.0.2:4317", "10.0.0.2:4319"]);
        let next = tokio::spawn({
            let service = service.clone();
            async move { service.look().await }
        });
        sleep(Duration::from_millis(200)).await;
        assert!(!next.is_finished(), "nothing changed");
        stand.changed.notify_one();
        let found = next.await.expect("it ends").expect("it is told");
        assert_eq!(found, ["10.0.0.2:4317", "10.0.0.2:4319", "[fd00::1]:4317", "[fd00::1]:4319"]);
        let asked = stand.asked.lock().expect("free").clone();
        let path = "GET /apis/discovery.k8s.io/v1/namespaces/telemetry/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dcollectors";
        let watch = format!("{path}&watch=true&resourceVersion=7&timeoutSeconds=240 HTTP/1.1");
        let starts: Vec<&str> = asked.iter().filter_map(|head| head.lines().next()).collect();
        assert_eq!(starts, [format!("{path} HTTP/1.1"), watch, format!("{path} HTTP/1.1")]);
        assert!(
            asked.iter().all(|head| head.to_lowercase().contains("authorization: bearer of-the-pod\r\n")),
            "{asked:?}"
        );
    }

    /// Goal: a role as 0.88 needs it is enough; one that is not says what it lacks; so does who is no pod.
    #[actix::test]
    async fn an_older_role_is_enough_and_none_is_told() {
        let dir = account();
        let forbidden = || (403, "{\"message\": \"endpointslices is forbidden\"}".to_owned());
        let subsets = "{\"metadata\": {\"resourceVersion\": \"3\"}, \"items\": [{\"subsets\": [{\"addresses\": [{\"ip\": \"10.0.0.1\"}], \
                       \"notReadyAddresses\": [{\"ip\": \"10.0.0.2\"}]}]}]}";
        let (base, stood) = stand(&[forbidden(), (200, subsets.to_owned())]).await;
        let second = Duration::from_secs(1);
        let service = Service::at(Some(base), dir.path(), "collectors", &[4_317], 5 * second);
        assert_eq!(service.look().await.expect("it is told"), ["10.0.0.1:4317"]);
        let asked = stood.asked.lock().expect("free").clone();
        assert!(
            asked[1].starts_with("GET /api/v1/namespaces/own/endpoints?fieldSelector=metadata.name%3Dcollectors HTTP"),
            "{asked:?}"
        );

        let (base, _) = stand(&[forbidden()]).await;
        let service = Service::at(Some(base), dir.path(), "collectors", &[4_317], 5 * second);
        let why = service.look().await.expect_err("it is refused");
        assert!(
            why.contains("403") && why.contains("endpointslices is forbidden") && why.contains("list and watch"),
            "{why}"
        );

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mute = Url::parse(&format!("http://{}/", listener.local_addr().expect("bound"))).expect("a URL");
        let service = Service::at(Some(mute), dir.path(), "collectors", &[4_317], second / 5);
        assert_eq!(service.look().await, Err("no answer of the API within 200ms".to_owned()));
        assert!(in_cluster().is_err_and(|why| why.starts_with("this is no pod: ")), "tests run in no pod");
    }
}
