//! The desk, the actor and the line with a server that misbehaves on command: in virtual time, and over a real socket.

use super::answer::{Answer, Heard, PROTOBUF};
use super::desk::Settings;
use super::line::{Line, Lines, Polling};
use super::messages::{
    AgentIdentification, AgentToServer, REPORT_FULL_STATE, RetryInfo, ServerErrorResponse, ServerToAgent, UNAVAILABLE,
};
use super::metrics::OpampMetrics;
use super::report::Profile;
use super::talk::Do;
use super::uid::{Instance, Kept, Uid};
use super::{Desk, Messenger};
use crate::base::{Clock, Dice, Stamp};
use crate::registrar::actor::Locate;
use crate::registrar::letter::Place;
use crate::supervise::Drain;
use crate::telemetry::metrics::Series;
use crate::telemetry::{Health, Metrics};
use crate::testing::console::{PATH, Reply, Row};
use crate::testing::far_end::{Act, Collector, FarEnd, Script};
use crate::uplink::config::OtlpHttpConfig;
use crate::uplink::link::Trouble;
use crate::uplink::otlp_http::OtlpHttp;
use actix::{Actor as _, Addr};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use prost::Message as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const S: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(30);
const NOW: Stamp = Stamp { wall_ns: 1_765_620_000_000_000_000, mono_ms: 1_000 };
const YAML: &str = "exporters:\n  otlphttp:\n    headers:\n      Authorization: \"***\"\n";

/// What the desk speaks of.
struct Rig {
    desk: Arc<Desk>,
    effective: watch::Sender<Arc<str>>,
    metrics: Metrics,
    health: Health,
}

impl Rig {
    fn new(is_trusted: bool, file: Option<PathBuf>) -> Rig {
        Rig::every(INTERVAL, is_trusted, file)
    }

    fn every(interval: Duration, is_trusted: bool, file: Option<PathBuf>) -> Rig {
        let clock = Clock::by_hand(NOW);
        let (metrics, health) = (Metrics::detached(), Health::starting(clock));
        health.ready();
        let (effective, known) = watch::channel(Arc::from(YAML));
        let kept = file.as_ref().and_then(|file| Kept::read(file).expect("whole, or not there"));
        let settings = Settings {
            instance: Instance::settle(None, kept.as_ref(), Some("8d2c"), file.is_some(), (NOW, &mut Dice::seeded(1))),
            file,
            profile: Profile { exporters: vec!["otlphttp".to_owned()], ..Profile::default() },
            place: here(),
            interval,
            is_trusted,
            reports_health: true,
            reports_config: true,
            effective: known,
            agent_id: Arc::new(|| Some("tfo-agent-gw-7".to_owned())),
        };
        let told = OpampMetrics::new(&metrics, &health, "opamp");
        let desk = Arc::new(Desk::open(settings, health.clone(), told, Dice::seeded(7)));
        desk.begin();
        Rig { desk, effective, metrics, health }
    }

    /// The sum of a metric's series with these label values.
    fn shown(&self, name: &str, labels: &[&str]) -> f64 {
        let has = |series: &Series| labels.iter().all(|value| series.labels.iter().any(|(_, v)| v == value));
        let all = self.metrics.look(&[name]);
        all.iter().filter(|series| has(series)).map(|series| series.value).fold(0.0, |a, b| a + b)
    }

    fn troubles(&self) -> Vec<String> {
        self.health.look().0.degraded.into_keys().collect()
    }

    /// Starts the actor in this thread, without a guard.
    fn begin(&self, line: &Arc<dyn Line>) -> Addr<Messenger> {
        let (line, locate): (_, Locate) = (line.clone(), Arc::new(here));
        let lines: Lines = Arc::new(move || line.clone());
        Messenger::new(self.desk.clone(), &lines, locate).start()
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < S * 20, "{what}: {:?}", self.desk);
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn here() -> Place {
    Place { hostname: "gw-7".to_owned(), ip_address: Some("10.0.0.7".to_owned()) }
}

fn over_http(far_end: &FarEnd) -> Arc<dyn Line> {
    let config = OtlpHttpConfig {
        endpoint: Some(format!("{}{PATH}", far_end.endpoint())),
        headers: vec![("X-Key".to_owned(), crate::config::Secret::new("k"))],
        timeout: Some(S * 5),
        ..OtlpHttpConfig::default()
    };
    let clock = Clock::by_hand(NOW);
    let of = clock.clone();
    Arc::new(Polling::new(Arc::new(move || OtlpHttp::new(&config, 1, of.clone())), clock))
}

fn run(test: impl Future<Output = ()>) {
    actix_rt::System::new().block_on(test);
}

/// What the server knows of the one agent it knows.
fn row(collector: &mut Collector) -> Row {
    let agents = collector.console().agents();
    assert_eq!(agents.len(), 1, "{agents:?}");
    agents.values().next().expect("one").clone()
}

fn last(collector: &mut Collector) -> AgentToServer {
    collector.console().messages().next_back().expect("one came").0.clone()
}

/// Which of description, health and configuration are in a message.
fn parts(message: &AgentToServer) -> [bool; 3] {
    [message.agent_description.is_some(), message.health.is_some(), message.effective_config.is_some()]
}

const ALL: [bool; 3] = [true; 3];
const NONE: [bool; 3] = [false; 3];

/// Goal: the first message says everything, the next ones what changed; each has the next number, the uid and the operator's headers.
#[test]
fn a_server_is_told_everything_once_and_then_what_changes() {
    run(async {
        let (far_end, rig) = (FarEnd::start(Script::new()).expect("a port"), Rig::new(true, None));
        let line = over_http(&far_end);
        assert_eq!(rig.desk.say(&*line).await, Heard::Taken);
        let told = far_end.with(row);
        assert_eq!((told.sequence_num, told.capabilities, told.is_gone), (1, 0x805, false));
        for (key, value) in [
            ("service.name", "tfo-otel-agent"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", &rig.desk.uid().to_string()),
            ("host.name", "gw-7"),
            ("host.ip", "10.0.0.7"),
            ("agent.id", "tfo-agent-gw-7"),
        ] {
            assert_eq!(told.attribute(key), Some(value), "{key}");
        }
        assert_eq!(told.config.as_deref(), Some(YAML));
        let health = told.health.expect("it is told");
        assert!(health.healthy && health.component_health_map["otlphttp"].healthy, "{health:?}");
        let headers = far_end.with(|c| c.console().messages().next().expect("one").1.clone());
        for (name, value) in
            [("content-type", PROTOBUF), ("opamp-instance-uid", &rig.desk.uid().to_string()), ("x-key", "k")]
        {
            let of_name = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
            assert_eq!(of_name.collect::<Vec<_>>(), [value], "{name}");
        }
        assert_eq!(rig.desk.say(&*line).await, Heard::Taken);
        let message = far_end.with(last);
        assert_eq!((parts(&message), message.sequence_num, message.capabilities), (NONE, 2, 0x805));
        rig.health.degraded("otlphttp", "link is down");
        rig.desk.say(&*line).await;
        assert_eq!(parts(&far_end.with(last)), [false, true, false]);
        let health = far_end.with(row).health.expect("it is told");
        assert_eq!(health.component_health_map["otlphttp"].last_error, "link is down");
        rig.effective.send_replace(Arc::from("a: 1\n"));
        rig.desk.say(&*line).await;
        assert_eq!(parts(&far_end.with(last)), [false, false, true]);
        assert_eq!(far_end.with(row).config.as_deref(), Some("a: 1\n"));
        assert_eq!(far_end.with(row).asked, 0);
        assert_eq!(
            (rig.shown("tfo_agent_opamp_connected", &[]), rig.shown("tfo_agent_opamp_messages", &["taken"])),
            (1.0, 4.0)
        );
    });
}

/// What is long is packed; what is short is not worth it.
#[test]
fn a_long_message_is_packed() {
    run(async {
        let (far_end, rig) = (FarEnd::start(Script::new()).expect("a port"), Rig::new(true, None));
        let (line, long) = (over_http(&far_end), "# a long one\n".repeat(10_000));
        rig.desk.say(&*line).await;
        rig.effective.send_replace(Arc::from(&*long));
        assert_eq!(rig.desk.say(&*line).await, Heard::Taken);
        assert_eq!(far_end.with(row).config.as_deref(), Some(&*long));
        let seen = far_end.seen();
        let packed: Vec<_> =
            seen.iter().map(|seen| (seen.header("content-encoding"), seen.wire_bytes < 2_000)).collect();
        assert_eq!(packed, [(None, true), (Some("gzip"), true)]);
    });
}

/// Goal: a server that was started anew, or lost a message, has everything with the next one.
#[test]
fn who_asks_for_everything_gets_it() {
    run(async {
        let (far_end, rig) = (FarEnd::start(Script::new()).expect("a port"), Rig::new(true, None));
        let line = over_http(&far_end);
        rig.desk.say(&*line).await;
        far_end.with(|c| c.console().forget());
        rig.desk.say(&*line).await;
        assert_eq!((parts(&far_end.with(last)), far_end.with(row).asked), (NONE, 1));
        assert!(matches!(rig.desk.next(), Do::Rest(until) if until <= Instant::now() + S * 2));
        rig.desk.say(&*line).await;
        assert_eq!(parts(&far_end.with(last)), ALL);
        assert_eq!(far_end.with(row).config.as_deref(), Some(YAML));
        // A message of which nobody knows whether it came is followed by one that says everything.
        far_end.play(Script::new().times(1, Act::ResetMidRequest));
        assert_eq!(rig.desk.say(&*line).await, Heard::Silent(Trouble::NoAnswer));
        assert_eq!(rig.desk.say(&*line).await, Heard::Taken);
        let message = far_end.with(last);
        assert_eq!((parts(&message), message.sequence_num), (ALL, 5));
        assert_eq!(far_end.with(row).asked, 1, "nobody had to ask");
    });
}

/// The contract over a real socket, answer by answer: what is made of it, when it is said again, and that a person can see it.
#[test]
fn every_answer_is_acted_on() {
    let error = |kind, after: Option<Duration>| {
        let nanoseconds = after.map(|after| u64::try_from(after.as_nanos()).expect("short"));
        let retry_info = nanoseconds.map(|n| RetryInfo { retry_after_nanoseconds: n });
        let error = ServerErrorResponse { kind, error_message: "no".to_owned(), retry_info };
        Reply::message(ServerToAgent { error_response: Some(error), ..ServerToAgent::default() })
    };
    let http = |status, kind: &str, body: &'static [u8]| Reply::Http {
        status,
        retry_after: None,
        body: Some((kind.to_owned(), Bytes::from_static(body))),
    };
    let later = |status| Reply::Http { status, retry_after: Some("120".to_owned()), body: None };
    let two_minutes = Heard::Later(Some(S * 120));
    let long: &'static [u8] = Vec::leak(vec![0x52; 100_000]);
    let for_another = ServerToAgent { instance_uid: Bytes::from_static(&[9; 16]), ..ServerToAgent::default() };
    let cases = [
        (Reply::status(401), Heard::Held),
        (Reply::status(403), Heard::Held),
        (Reply::status(404), Heard::Refused),
        (Reply::status(400), Heard::Refused),
        (Reply::status(500), Heard::Later(None)),
        (later(429), two_minutes),
        (later(503), two_minutes),
        (error(UNAVAILABLE, Some(S * 120)), two_minutes),
        (error(UNAVAILABLE, None), Heard::Later(None)),
        (error(1, None), Heard::Refused),
        (error(0, None), Heard::Refused),
        (Reply::message(for_another), Heard::Refused),
        (http(200, "text/html", b"<!doctype html>"), Heard::Silent(Trouble::Portal)),
        (http(200, PROTOBUF, b"\x0a\x7f"), Heard::Silent(Trouble::Portal)),
        (http(200, PROTOBUF, long), Heard::Refused),
    ];
    run(async {
        for (reply, heard) in cases {
            let what = format!("{reply:?}").chars().take(200).collect::<String>();
            let (far_end, rig) = (FarEnd::start(Script::new()).expect("a port"), Rig::new(true, None));
            let line = over_http(&far_end);
            assert_eq!(rig.desk.say(&*line).await, Heard::Taken, "{what}");
            far_end.with(|c| c.console().reply(reply));
            assert_eq!(rig.desk.say(&*line).await, heard, "{what}");
            let floor = match heard {
                Heard::Later(Some(after)) => after - S,
                Heard::Held | Heard::Refused => S * 40,
                _ => S,
            };
            assert!(matches!(rig.desk.next(), Do::Rest(until) if until >= Instant::now() + floor), "{what}");
            assert_eq!(rig.troubles().contains(&"opamp".to_owned()), !matches!(heard, Heard::Later(_)), "{what}");
            assert_eq!(rig.shown("tfo_agent_opamp_messages", &[heard.name()]), 1.0, "{what}");
            assert_eq!(rig.shown("tfo_agent_opamp_connected", &[]), 0.0, "{what}");
            // And afterwards it goes on, with everything.
            assert_eq!(rig.desk.say(&*line).await, Heard::Taken, "{what}");
            assert_eq!(parts(&far_end.with(last)), ALL, "{what}");
            assert_eq!((rig.troubles(), rig.shown("tfo_agent_opamp_connected", &[])), (Vec::new(), 1.0), "{what}");
        }
    });
}

/// A server that goes away is silence, and its trouble is not told to it as a trouble of the agent.
#[test]
fn a_server_that_is_away_is_silent() {
    run(async {
        let (far_end, rig) = (FarEnd::start(Script::new().always(Act::Refuse)).expect("a port"), Rig::new(true, None));
        let line = over_http(&far_end);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(rig.desk.say(&*line).await, Heard::Silent(Trouble::Unreachable));
        assert_eq!(rig.troubles(), ["opamp"]);
        far_end.play(Script::new());
        rig.until("it is back", || std::net::TcpStream::connect(far_end.addr()).is_ok()).await;
        assert_eq!(rig.desk.say(&*line).await, Heard::Taken);
        let health = far_end.with(row).health.expect("it is told");
        assert!(!health.component_health_map.contains_key("opamp"), "{health:?}");
        assert_eq!(health.status, "ok");
    });
}

fn named(uid: &[u8]) -> Reply {
    let named = AgentIdentification { new_instance_uid: Bytes::copy_from_slice(uid) };
    Reply::message(ServerToAgent { agent_identification: Some(named), ..ServerToAgent::default() })
}

/// Goal: another uid is taken over at once, told everything under, and kept if nobody between can have given it.
#[test]
fn a_server_gives_another_uid() {
    run(async {
        for is_trusted in [true, false] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let file = dir.path().join("opamp-instance");
            let (far_end, rig) =
                (FarEnd::start(Script::new()).expect("a port"), Rig::new(is_trusted, Some(file.clone())));
            let (line, mine) = (over_http(&far_end), rig.desk.uid());
            for short in [&[8; 15][..], &[0; 16], b""] {
                far_end.with(|c| c.console().reply(named(short)));
                rig.desk.say(&*line).await;
                assert_eq!(rig.desk.uid(), mine, "{short:?}");
            }
            far_end.with(|c| c.console().reply(named(&[8; 16])));
            rig.desk.say(&*line).await;
            assert_eq!(Some(rig.desk.uid()), Uid::of(&[8; 16]));
            rig.desk.say(&*line).await;
            let message = far_end.with(last);
            assert_eq!((parts(&message), &message.instance_uid[..]), (ALL, &[8; 16][..]));
            let (_, kept) = rig.desk.to_keep().expect("the first is not written yet");
            kept.keep(&file).expect("space");
            let next = Rig::new(is_trusted, Some(file)).desk.uid();
            assert_eq!(next, if is_trusted { rig.desk.uid() } else { mine }, "trusted: {is_trusted}");
        }
    });
}

/// What a server offers and nobody takes changes nothing, and a server without a use for configurations gets none.
#[test]
fn offers_are_not_taken_and_a_configuration_is_not_told_to_who_does_not_want_it() {
    run(async {
        let (far_end, rig) = (FarEnd::start(Script::new()).expect("a port"), Rig::new(true, None));
        let line = over_http(&far_end);
        let bytes = Some(Bytes::from_static(b"\x0a\x04evil"));
        far_end.with(|c| {
            c.console().reply(Reply::message(ServerToAgent {
                remote_config: bytes.clone(),
                connection_settings: bytes.clone(),
                packages_available: bytes.clone(),
                command: bytes.clone(),
                custom_message: bytes,
                capabilities: 0x1,
                flags: REPORT_FULL_STATE,
                ..ServerToAgent::default()
            }));
        });
        assert_eq!(rig.desk.say(&*line).await, Heard::Taken);
        assert_eq!(rig.desk.say(&*line).await, Heard::Taken);
        assert_eq!(parts(&far_end.with(last)), [true, true, false]);
        assert_eq!(rig.troubles(), Vec::<String>::new());
    });
}

/// Goal: the actor keeps its times and the uid's file, tells a change soon, and says good-bye at a stop.
#[test]
fn the_messenger_keeps_time_and_takes_leave() {
    run(async {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("opamp-instance");
        let (far_end, rig) = (FarEnd::start(Script::new()).expect("a port"), Rig::every(S, true, Some(file.clone())));
        let messenger = rig.begin(&over_http(&far_end));
        let numbers = || far_end.with(|c| c.console().messages().map(|(m, _)| m.sequence_num).collect::<Vec<_>>());
        rig.until("three messages", || numbers().len() >= 3).await;
        assert_eq!(numbers()[..3], [1, 2, 3]);
        rig.until("the uid is kept", || file.exists()).await;
        assert_eq!(Rig::new(true, Some(file)).desk.uid(), rig.desk.uid());
        messenger.send(Drain).await.expect("it lives");
        let told = far_end.with(row);
        assert!(told.is_gone && told.asked == 0, "{told:?}");
        let count = numbers().len();
        sleep(S * 2).await;
        assert_eq!(numbers().len(), count, "nothing is said after the last word");
    });
}

#[test]
fn a_change_of_the_configuration_is_told_before_its_turn() {
    run(async {
        let (far_end, rig) = (FarEnd::start(Script::new()).expect("a port"), Rig::new(true, None));
        let _messenger = rig.begin(&over_http(&far_end));
        rig.until("it is heard", || far_end.with(|c| c.console().agents().len() == 1)).await;
        rig.effective.send_replace(Arc::from("a: 1\n"));
        // Half an interval at least would be its turn.
        let begin = Instant::now();
        rig.until("it is told", || far_end.with(|c| row(c).config.as_deref() == Some("a: 1\n"))).await;
        assert!(begin.elapsed() < S * 8, "{:?}", begin.elapsed());
    });
}

/// Says what it is told to, or panics.
#[derive(Debug)]
struct Scripted {
    said: AtomicU32,
    falls: u32,
    heard: Mutex<Vec<(u64, bool)>>,
}

impl Line for Scripted {
    fn say(&self, _: Uid, message: Bytes) -> BoxFuture<'static, Answer> {
        let said = AgentToServer::decode(message).expect("a message");
        let number = self.said.fetch_add(1, SeqCst);
        self.heard.lock().expect("nobody panics in there").push((said.sequence_num, parts(&said) == ALL));
        let falls = number < self.falls;
        async move {
            tokio::task::yield_now().await;
            assert!(!falls, "told to fall");
            Answer::of(Heard::Taken, "")
        }
        .boxed()
    }
}

/// Goal: a message in which somebody fell is followed by one that says everything, under the next number; nothing waits for ever.
#[test]
fn a_fall_in_the_middle_of_a_message_loses_no_number() {
    run(async {
        let rig = Rig::new(true, None);
        let line = Scripted { said: AtomicU32::new(0), falls: 1, heard: Mutex::default() };
        let fell = std::panic::AssertUnwindSafe(rig.desk.say(&line)).catch_unwind().await;
        assert!(fell.is_err());
        assert!(matches!(rig.desk.next(), Do::Rest(_)), "{:?}", rig.desk.next());
        assert_eq!(rig.desk.say(&line).await, Heard::Taken);
        assert_eq!(rig.desk.say(&line).await, Heard::Taken);
        assert_eq!(*line.heard.lock().expect("whole"), [(1, true), (2, true), (3, false)]);
    });
}
