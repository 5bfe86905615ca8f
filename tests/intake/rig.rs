//! An agent on the current system, a far end, and clients.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tfo_otel_agent::app::plan::{self, Config};
use tfo_otel_agent::app::roster::roster;
use tfo_otel_agent::app::wire::Agent;
use tfo_otel_agent::base::Clock;
use tfo_otel_agent::config::{Imagined, Locations};
use tfo_otel_agent::spool::{Book, Store as _};
use tfo_otel_agent::supervise::{SeatView, Settings};
use tfo_otel_agent::testing::load::{install_client, until};
use tfo_otel_agent::testing::{FarEnd, far_end::Script};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PROTOBUF: &str = "application/x-protobuf";

pub(crate) struct Rig {
    pub(crate) agent: Agent,
    pub(crate) far_end: FarEnd,
    pub(crate) http: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// `config` gets the far end's address and a directory of its own.
    pub(crate) async fn start(config: impl FnOnce(&str, &Path) -> Config) -> Rig {
        install_client();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let config = config(&far_end.endpoint(), dir.path());
        let settings =
            Settings { main_deadline: PATIENCE, grace: PATIENCE, last_resort: Arc::new(|_| {}), ..Settings::default() };
        let agent = Agent::start_with(&config, &Clock::system(), roster(), settings).expect("it starts");
        let seats = || agent.supervisor.watch().seats;
        assert!(until(PATIENCE, || seats().iter().all(SeatView::is_well)).await, "everybody starts: {:?}", seats());
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        Rig { agent, far_end, http, _dir: dir }
    }

    /// One pipeline per signal, from otlp to the far end by way of a disk.
    pub(crate) async fn plain() -> Rig {
        Rig::start(|endpoint, dir| plain(endpoint, dir, "")).await
    }

    /// `http://127.0.0.1:port` of a receiver or page.
    pub(crate) fn at(&self, who: &str) -> String {
        format!("http://127.0.0.1:{}", self.agent.addresses[who].port())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.at("otlp/http"))
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> reqwest::Response {
        let request = headers.iter().fold(self.http.post(self.url(path)), |to, (name, value)| to.header(*name, *value));
        request.body(body).send().await.expect("an answer")
    }

    pub(crate) async fn scrape(&self) -> String {
        let answer = self.http.get(format!("{}/metrics", self.at("metrics"))).send().await.expect("an answer");
        answer.text().await.expect("a text")
    }

    /// The value of the one series whose name and labels contain all of these; 0 when there is none.
    pub(crate) async fn number(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.scrape().await;
        let is_it = |line: &&str| line.starts_with(&format!("{name}{{")) && labels.iter().all(|l| line.contains(l));
        let line = text.lines().find(is_it);
        line.map_or(0.0, |line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
    }

    pub(crate) fn books(&self) -> Vec<Book> {
        self.agent.stores.all.iter().flat_map(|s| s.spool.books()).collect()
    }
}

pub(crate) fn read(locations: &Locations, host: &Imagined) -> Config {
    let outcome = plan::read(locations, host);
    outcome.config.unwrap_or_else(|| panic!("{}", outcome.report))
}

/// A configuration as YAML in one line, with ports of the kernel's choice.
pub(crate) fn yaml(rest: &str) -> Config {
    let ports = "receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}, http: {endpoint: '127.0.0.1:0'}}}}";
    read(&Locations::of(&format!("yaml:{{{ports}, {rest}}}")), &Imagined::with(&[]))
}

/// See [`Rig::plain`]; `processors` is a YAML list of those of every pipeline.
pub(crate) fn plain(endpoint: &str, dir: &Path, processors: &str) -> Config {
    let pipe = format!("{{receivers: [otlp], processors: [{processors}], exporters: [otlphttp]}}");
    yaml(&format!(
        "processors: {{memory_limiter: {{limit_mib: 1, check_interval: 1s}}}}, \
         exporters: {{otlphttp: {{endpoint: '{endpoint}', sending_queue: {{storage: file_storage}}}}}}, \
         extensions: {{file_storage: {{directory: '{}'}}}}, \
         service: {{extensions: [file_storage], telemetry: {{metrics: {{address: '127.0.0.1:0'}}}}, \
           pipelines: {{logs: {pipe}, traces: {pipe}, metrics: {pipe}}}}}",
        dir.join("queue").display()
    ))
}
