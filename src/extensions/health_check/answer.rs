//! What is answered to whom: plain functions.

use crate::base::Stamp;
use crate::telemetry::gotime::{duration, rfc3339_nano};
use crate::telemetry::health::State;
use serde::Serialize;
use std::time::Duration;

/// What `extensions.health_check` says about answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheckSettings {
    /// Where the original's answer is; begins with `/`.
    pub path: String,
    /// Texts instead of the JSON.
    pub response_body: Option<ResponseBody>,
    /// `check_collector_pipeline`: so many failed uploads of an exporter within such a time make `/ready` say no.
    pub failures: Option<(Duration, u32)>,
}

/// Texts instead of the original's JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseBody {
    /// While available.
    pub healthy: String,
    /// While not.
    pub unhealthy: String,
}

impl Default for HealthCheckSettings {
    /// 0.88's.
    fn default() -> HealthCheckSettings {
        HealthCheckSettings { path: "/".into(), response_body: None, failures: None }
    }
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The original's question, on `path`.
    Health,
    /// `/ready`: the same, always as JSON; and whether uploads succeed, if that is asked for.
    Ready,
    /// `/live`: would a restart help? 503 only when somebody vital is dead.
    Live,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 503.
    pub status: u16,
    /// `None` for an empty text, as Go's server leaves it.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: String,
}

impl HealthCheckSettings {
    /// What a path asks; `None` for a path nobody answers. As Go's mux: `/` is everything, a path that ends with `/`
    /// is everything below it, any other is itself alone. A configured path goes before ours, but `/` behind them.
    #[must_use]
    pub fn probe(&self, path: &str) -> Option<Probe> {
        match path {
            path if path == self.path => Some(Probe::Health),
            "/ready" => Some(Probe::Ready),
            "/live" => Some(Probe::Live),
            path if self.path.ends_with('/') && path.starts_with(&self.path) => Some(Probe::Health),
            _ => None,
        }
    }
}

/// The keys of the original in its order, then ours.
#[derive(Debug, Serialize)]
struct Body<'a> {
    status: &'a str,
    #[serde(rename = "upSince")]
    up_since: String,
    uptime: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    degraded: Vec<String>,
}

/// The answer to a probe. `failing`: exporters whose uploads fail, and how often they did. `offset_s` tells how far east of
/// Greenwich a moment is shown.
#[must_use]
pub fn answer(
    probe: Probe,
    settings: &HealthCheckSettings,
    state: &State,
    failing: &[(String, u64)],
    now: Stamp,
    offset_s: impl Fn(u64) -> i32,
) -> Answer {
    let (since, words) = match probe {
        Probe::Ready if !failing.is_empty() => (None, ["", "Server not available"]),
        Probe::Health | Probe::Ready => (state.available_since, ["Server available", "Server not available"]),
        Probe::Live => (state.dead.is_empty().then_some(state.started), ["Server alive", "Server not alive"]),
    };
    let (status, word) = if since.is_some() { (200, words[0]) } else { (503, words[1]) };
    if let (Probe::Health, Some(texts)) = (probe, &settings.response_body) {
        let body = if since.is_some() { &texts.healthy } else { &texts.unhealthy }.clone();
        // Go guesses the type from the text; what is no markup is this.
        return Answer { status, content_type: (!body.is_empty()).then_some("text/plain; charset=utf-8"), body };
    }
    let list = |of: &std::collections::BTreeMap<String, String>| -> Vec<String> {
        of.iter().map(|(k, v)| format!("{k}: {v}")).collect()
    };
    let failing = failing.iter().filter(|_| probe == Probe::Ready);
    let failed = failing.map(|(exporter, count)| format!("{exporter}: {count} failed uploads"));
    let body = Body {
        status: word,
        up_since: since.map_or_else(
            || "0001-01-01T00:00:00Z".to_owned(), // Go's zero time
            |since| {
                let wall_ns = wall_of(since, now);
                rfc3339_nano(wall_ns, offset_s(wall_ns))
            },
        ),
        uptime: since.map_or_else(String::new, |since| duration(now.since(since))),
        reasons: list(&state.dead).into_iter().chain(failed).collect(),
        degraded: list(&state.degraded),
    };
    let body = serde_json::to_string(&body).expect("texts and lists of texts always serialize");
    Answer { status, content_type: Some("application/json"), body }
}

/// When that was by the wall clock of now: a gateway without a battery starts in 1970 and learns the time later. The
/// stamp itself is kept while it agrees, so that the answer does not tremble by the clocks' rounding.
fn wall_of(then: Stamp, now: Stamp) -> u64 {
    const AGREES: Duration = Duration::from_secs(2);
    let passed_ns = u64::try_from(now.since(then).as_nanos()).unwrap_or(u64::MAX);
    let derived = now.wall_ns.saturating_sub(passed_ns);
    if u128::from(derived.abs_diff(then.wall_ns)) <= AGREES.as_nanos() { then.wall_ns } else { derived }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::health::News;

    const START: Stamp = Stamp { wall_ns: 1_795_412_561_700_000_000, mono_ms: 60_000 };

    fn after_ms(ms: u64) -> Stamp {
        Stamp { wall_ns: START.wall_ns + ms * 1_000_000, mono_ms: START.mono_ms + ms }
    }

    fn ask(probe: Probe, state: &State, now: Stamp) -> (u16, String) {
        let answer = answer(probe, &HealthCheckSettings::default(), state, &[], now, |_| 0);
        assert_eq!(answer.content_type, Some("application/json"));
        (answer.status, answer.body)
    }

    /// Bodies of the original: reference §2.13. Ready came 0.1 s after the start, and 35.05 s have passed since.
    #[test]
    #[rustfmt::skip]
    fn the_answer_is_the_originals_with_the_reasons_behind_it() {
        let starting = State::starting(START);
        let ready = starting.clone().after(News::Ready, after_ms(101));
        let degraded = ready.clone().after(News::Degraded("otlphttp", "link is down since \"3 m\""), after_ms(200));
        let dead = degraded.clone().after(News::Dead("spool-writer", "hangs"), after_ms(300));
        let stopping = ready.clone().after(News::Stopping, after_ms(400));
        let down = r#"{"status":"Server not available","upSince":"0001-01-01T00:00:00Z","uptime":"""#;
        let up = r#"{"status":"Server available","upSince":"2026-11-23T05:42:41.801Z","uptime":"35.05s""#;
        let live = r#"{"status":"Server alive","upSince":"2026-11-23T05:42:41.7Z","uptime":"35.151s""#;
        let not_live = r#"{"status":"Server not alive","upSince":"0001-01-01T00:00:00Z","uptime":"""#;
        let link = r#","degraded":["otlphttp: link is down since \"3 m\""]"#;
        let why = r#","reasons":["spool-writer: hangs"]"#;
        for (name, state, code, body, live_code, live_body) in [
            ("starting", &starting, 503, format!("{down}}}"),          200, format!("{live}}}")),
            ("ready",    &ready,    200, format!("{up}}}"),            200, format!("{live}}}")),
            ("degraded", &degraded, 200, format!("{up}{link}}}"),      200, format!("{live}{link}}}")),
            ("dead",     &dead,     503, format!("{down}{why}{link}}}"), 503, format!("{not_live}{why}{link}}}")),
            ("stopping", &stopping, 503, format!("{down}}}"),          200, format!("{live}}}")),
        ] {
            let now = after_ms(35_151);
            assert_eq!(ask(Probe::Health, state, now), (code, body.clone()), "{name}");
            assert_eq!(ask(Probe::Ready, state, now), (code, body), "{name}");
            assert_eq!(ask(Probe::Live, state, now), (live_code, live_body), "{name}");
        }
    }

    #[test]
    fn a_time_is_shown_in_the_zone_of_the_machine() {
        let ready = State::starting(START).after(News::Ready, START);
        let answer = answer(Probe::Health, &HealthCheckSettings::default(), &ready, &[], START, |_| 7_200);
        assert!(answer.body.contains(r#""upSince":"2026-11-23T07:42:41.7+02:00","uptime":"0s""#), "{}", answer.body);
    }

    /// Goal: whoever asks for it takes an agent out whose uploads fail; nobody kills it for that.
    #[test]
    fn failing_uploads_make_an_agent_not_ready_and_nothing_else() {
        let ready = State::starting(START).after(News::Ready, START);
        let failing = [("otlphttp".to_owned(), 7)];
        let ask = |probe| answer(probe, &HealthCheckSettings::default(), &ready, &failing, START, |_| 0);
        let told = ask(Probe::Ready);
        assert_eq!(told.status, 503);
        assert!(told.body.ends_with(r#","reasons":["otlphttp: 7 failed uploads"]}"#), "{}", told.body);
        for probe in [Probe::Health, Probe::Live] {
            assert_eq!((ask(probe).status, ask(probe).body.contains("reasons")), (200, false), "{probe:?}");
        }
    }

    /// Goal: a gateway that booted in 1970 and heard of NTP an hour later does not say "up since 1970".
    #[test]
    fn up_since_is_right_also_when_the_clock_was_set_later() {
        let booted = Stamp { wall_ns: 5_000_000_000, mono_ms: 5_000 };
        let ready = State::starting(booted).after(News::Ready, booted);
        let now = Stamp { wall_ns: START.wall_ns, mono_ms: 3_605_000 };
        assert_eq!(
            ask(Probe::Health, &ready, now).1,
            r#"{"status":"Server available","upSince":"2026-11-23T04:42:41.7Z","uptime":"1h0m0s"}"#
        );
        // And back: the clock fell to 1970, where an hour ago there was no time yet.
        let fallen = Stamp { wall_ns: 1_000_000_000, mono_ms: START.mono_ms + 3_600_000 };
        let ready = State::starting(START).after(News::Ready, START);
        assert!(ask(Probe::Health, &ready, fallen).1.contains(r#""upSince":"1970-01-01T00:00:00Z","uptime":"1h0m0s""#));
        // A millisecond of rounding is no news.
        let trembling = Stamp { wall_ns: START.wall_ns + 999_999, mono_ms: START.mono_ms };
        assert!(ask(Probe::Health, &ready, trembling).1.contains("2026-11-23T05:42:41.7Z"));
    }

    #[test]
    #[rustfmt::skip]
    fn configured_texts_replace_the_json_on_the_path_alone() {
        let texts = ResponseBody { healthy: "I'm good".into(), unhealthy: String::new() };
        let settings = HealthCheckSettings { response_body: Some(texts), ..HealthCheckSettings::default() };
        let starting = State::starting(START);
        let ready = starting.clone().after(News::Ready, START);
        let plain = Some("text/plain; charset=utf-8");
        for (probe, state, status, content_type, body) in [
            (Probe::Health, &ready,    200, plain,                    "I'm good"),
            (Probe::Health, &starting, 503, None,                     ""),
            (Probe::Ready,  &starting, 503, Some("application/json"), "{"),
        ] {
            let answer = answer(probe, &settings, state, &[], START, |_| 0);
            assert_eq!((answer.status, answer.content_type), (status, content_type));
            assert!(answer.body == body || body == "{" && answer.body.starts_with('{'), "{}", answer.body);
        }
    }

    #[test]
    #[rustfmt::skip]
    fn paths_are_matched_as_gos_mux_matches_them() {
        let (health, ready, live) = (Some(Probe::Health), Some(Probe::Ready), Some(Probe::Live));
        for (path, asked, expected) in [
            ("/",        "/",             health), ("/",        "/anything/at/all", health),
            ("/",        "/ready",        ready),  ("/",        "/live",            live),
            ("/",        "/ready/",       health), ("/",        "/readyz",          health),
            ("/health",  "/health",       health), ("/health",  "/health/",         None),
            ("/health",  "/",             None),   ("/health",  "/healthz",         None),
            ("/health",  "/ready",        ready),  ("/health/", "/health/live",     health),
            ("/health/", "/health",       None),   ("/live",    "/live",            health),
        ] {
            let settings = HealthCheckSettings { path: path.into(), ..HealthCheckSettings::default() };
            assert_eq!(settings.probe(asked), expected, "{asked} with {path}");
        }
    }
}
