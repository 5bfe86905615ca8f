//! `health`: asks a running agent how it is, for containers that have nothing else to ask with (`HEALTHCHECK`, probes, a person
//! with `docker exec`).

use crate::app::plan::{Config, ExtensionConfig};
use crate::app::run;
use crate::config::{Listen, Locations};
use crate::supervise::Exit;
use crate::uplink::client::install_provider;
use clap::Args;
use std::error::Error as _;
use std::io::Write as _;
use std::time::Duration;

/// Whom to ask.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Take the place of `health_check` from this configuration, as the agent was given it; else 127.0.0.1:13133 is asked.
    #[arg(long = "config", value_name = "LOCATION")]
    configs: Vec<String>,
    /// Ask here instead: http://127.0.0.1:13133/ready.
    #[arg(long, value_name = "URL", conflicts_with = "configs")]
    url: Option<String>,
    /// Seconds an answer may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
}

/// Prints what the agent says; 0 when it is well, 1 when not, and when nobody answers.
pub(super) fn main(options: &Options) -> Exit {
    match ask(options) {
        Ok((well, body)) => {
            // A closed pipe hears nothing, and that is no reason to fail.
            let _ = writeln!(std::io::stdout(), "{}", body.trim_end());
            if well { Exit::Clean } else { Exit::Config }
        }
        Err(why) => {
            super::tell(why.trim_end());
            Exit::Config
        }
    }
}

fn ask(options: &Options) -> Result<(bool, String), String> {
    let url = match &options.url {
        Some(url) => url.clone(),
        None if options.configs.is_empty() => "http://127.0.0.1:13133/".to_owned(),
        None => {
            let outcome = run::load(&Locations { configs: options.configs.clone(), sets: Vec::new() });
            place(&outcome.config.ok_or_else(|| outcome.report.to_string())?)?
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(answer(&url, Duration::from_secs(options.timeout)))
}

async fn answer(url: &str, within: Duration) -> Result<(bool, String), String> {
    let told = |error: reqwest::Error| {
        let cause = std::iter::successors(error.source(), |cause| (**cause).source()).last();
        format!("{url}: {}", cause.map_or_else(|| error.to_string(), ToString::to_string))
    };
    install_provider();
    // It is this machine's own agent that is asked: whose name its certificate has, and who signed it, is no matter.
    let client = reqwest::Client::builder().no_proxy().timeout(within).tls_danger_accept_invalid_certs(true);
    let answer = client.build().map_err(told)?.get(url).send().await.map_err(told)?;
    let status = answer.status();
    let body = answer.text().await.map_err(told)?;
    let body = if body.trim().is_empty() { status.to_string() } else { body };
    Ok((status.is_success(), body))
}

/// Where the first `health_check` that is started listens, from the same machine.
fn place(config: &Config) -> Result<String, String> {
    let mut started = config.service.extensions.iter().filter_map(|id| config.extensions.get(id));
    let check = started.find_map(|extension| match extension {
        ExtensionConfig::HealthCheck(check) => Some(check),
        _ => None,
    });
    let check = check.ok_or("service.extensions has no health_check; the agent cannot be asked")?;
    let Listen { host, port } = &check.server.endpoint;
    let host = match host.as_str() {
        "" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "[::1]".to_owned(),
        v6 if v6.contains(':') => format!("[{v6}]"),
        other => other.to_owned(),
    };
    let scheme = if check.server.tls.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{host}:{port}{}", check.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of(section: &str, started: &str) -> Result<String, String> {
        let text = format!(
            "yaml:{{receivers: {{otlp: {{protocols: {{http: {{}}}}}}}}, exporters: {{debug: {{}}}}, extensions: {{health_check: {section}}}, \
             service: {{extensions: {started}, pipelines: {{logs: {{receivers: [otlp], exporters: [debug]}}}}}}}}"
        );
        let outcome = run::load(&Locations { configs: vec![text], sets: Vec::new() });
        place(&outcome.config.unwrap_or_else(|| panic!("{}", outcome.report)))
    }

    #[test]
    #[rustfmt::skip]
    fn the_configuration_says_where_to_ask() {
        for (section, started, expected) in [
            ("{}",                                       "[health_check]", Ok("http://127.0.0.1:13133/")),
            ("{endpoint: ':7', path: /health}",          "[health_check]", Ok("http://127.0.0.1:7/health")),
            ("{endpoint: '[::]:7'}",                     "[health_check]", Ok("http://[::1]:7/")),
            ("{endpoint: '[fe80::1]:7'}",                "[health_check]", Ok("http://[fe80::1]:7/")),
            ("{endpoint: 'gateway:7'}",                  "[health_check]", Ok("http://gateway:7/")),
            ("{}",                                       "[]",             Err("service.extensions has no health_check; the agent cannot be asked")),
        ] {
            let place = place_of(section, started);
            assert_eq!(place.as_deref().map_err(String::as_str), expected, "{section}");
        }
    }

    /// Goal: what a probe reads is the exit code, and what a person reads says what is the matter.
    #[test]
    fn nobody_there_is_not_well() {
        let port = crate::testing::child::free_port().expect("a port");
        let url = format!("http://127.0.0.1:{port}/");
        let options = Options { configs: Vec::new(), url: Some(url.clone()), timeout: 5 };
        let why = ask(&options).expect_err("nobody listens");
        assert!(why.starts_with(&url) && why.contains("refused"), "{why}");
        assert_eq!(main(&options), Exit::Config);
    }
}
