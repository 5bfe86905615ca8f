//! The desk, the actor and the line with a server that misbehaves on command: in virtual time, and over a real socket.

use super::answer::{Answer, Heard, PROTOBUF};
use super::desk::Settings;
use super::line::{Line, Lines, Polling};
use super::messages::{
    AgentIdentification, AgentToServer, REPORT_FULL_STATE, RetryInfo, ServerErrorResponse, ServerToAgent, UNAVAILABLE,
};
use super::metrics::OpampMetrics;
use super::report::Profile;
use super::socket::{Socket, accept_of};
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
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use prost::Message as _;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

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
            exchange: None,
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

/// What a server does with the next connection.
#[derive(Debug, Clone)]
enum Play {
    /// Takes what it is told.
    Serve,
    /// Answers the handshake with this.
    Http(&'static str),
    /// Agrees, with this proof or extension.
    Agree(&'static str),
    /// Answers a message with these frames.
    Say(Vec<Message>),
    /// Reads, answers pings, and has no word for anything.
    Mute,
    /// Does not read.
    Deaf,
}

/// The head of each handshake, and what was said after it.
type Heads = Arc<Mutex<Vec<(String, Vec<AgentToServer>)>>>;

/// A server of WebSockets.
struct Far {
    addr: SocketAddr,
    plays: Arc<Mutex<VecDeque<Play>>>,
    heard: Heads,
}

impl Far {
    async fn start(plays: Vec<Play>) -> Far {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("it is bound");
        let far = Far { addr, plays: Arc::new(Mutex::new(plays.into())), heard: Arc::default() };
        let (plays, heard) = (far.plays.clone(), far.heard.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let play = plays.lock().expect("whole").pop_front().unwrap_or(Play::Serve);
                tokio::spawn(Far::attend(socket, play, heard.clone()));
            }
        });
        far
    }

    async fn attend(mut socket: TcpStream, play: Play, heard: Heads) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.expect("a head"));
        }
        let head = String::from_utf8(head).expect("ASCII");
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let proof = accept_of(&header("sec-websocket-key").expect("a key"));
        assert_eq!(header("upgrade").as_deref(), Some("websocket"));
        let number = {
            let mut heard = heard.lock().expect("whole");
            heard.push((head.clone(), Vec::new()));
            heard.len() - 1
        };
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        let answer = match &play {
            Play::Http(answer) => format!("HTTP/1.1 {answer}"),
            Play::Agree(with) => format!("{agreed}{}\r\n\r\n", with.replace("PROOF", &proof)),
            _ => format!("{agreed}Sec-WebSocket-Accept: {proof}\r\n\r\n"),
        };
        socket.write_all(answer.as_bytes()).await.expect("it listens");
        match play {
            Play::Http(_) => return,
            Play::Deaf => return std::future::pending().await,
            _ => {}
        }
        let mut stream = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
        while let Some(Ok(frame)) = stream.next().await {
            let Message::Binary(bytes) = frame else { continue };
            assert_eq!(bytes[0], 0, "the header of a message");
            let said = AgentToServer::decode(&bytes[1..]).expect("a message");
            heard.lock().expect("whole")[number].1.push(said.clone());
            let taken =
                ServerToAgent { instance_uid: said.instance_uid, capabilities: 0x5, ..ServerToAgent::default() };
            let frames = match &play {
                Play::Mute => Vec::new(),
                Play::Say(frames) => frames.clone(),
                _ => vec![framed(&taken)],
            };
            for frame in frames {
                if stream.send(frame).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What came over each connection: how much of everything was in it.
    fn heard(&self) -> Vec<Vec<[bool; 3]>> {
        let heard = self.heard.lock().expect("whole");
        heard.iter().map(|(_, said)| said.iter().map(parts).collect()).collect()
    }
}

fn framed(said: &ServerToAgent) -> Message {
    let mut bytes = vec![0];
    bytes.extend(said.encode_to_vec());
    Message::Binary(bytes.into())
}

fn over_a_socket(addr: SocketAddr, patience: Duration) -> Arc<dyn Line> {
    let config = OtlpHttpConfig {
        endpoint: Some(format!("http://{addr}{PATH}")),
        headers: vec![("X-Key".to_owned(), crate::config::Secret::new("k"))],
        timeout: Some(S * 5),
        ..OtlpHttpConfig::default()
    };
    let clock = Clock::by_hand(NOW);
    let of = clock.clone();
    Arc::new(Socket::new(Arc::new(move || OtlpHttp::switching(&config, of.clone())), clock, patience))
}

/// Goal: over a WebSocket the same is said, over one connection, and what the server asks without being asked is heard.
#[test]
fn over_a_websocket_the_same_is_said() {
    run(async {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "RFC 6455, 1.3");
        let wants = ServerToAgent { flags: REPORT_FULL_STATE, ..ServerToAgent::default() };
        let pushes = Play::Say(vec![framed(&ServerToAgent::default()), framed(&wants)]);
        let (far, rig) = (Far::start(vec![Play::Serve, pushes]).await, Rig::new(true, None));
        let line = over_a_socket(far.addr, S * 5);
        for _ in 0..3 {
            assert_eq!(rig.desk.say(&*line).await, Heard::Taken);
        }
        assert_eq!(far.heard(), [vec![ALL, NONE, NONE]]);
        let (head, said) = far.heard.lock().expect("whole")[0].clone();
        let head = head.to_ascii_lowercase();
        for line in ["get /v1/opamp http/1.1", "x-key: k", &format!("opamp-instance-uid: {}", rig.desk.uid())] {
            assert!(head.contains(line), "{line}: {head}");
        }
        assert_eq!(said.iter().map(|said| said.sequence_num).collect::<Vec<_>>(), [1, 2, 3]);
        // Without the actor nobody listens, so another line shows what is pushed.
        let (rig, line) = (Rig::new(true, None), over_a_socket(far.addr, S * 5));
        assert_eq!(rig.desk.say(&*line).await, Heard::Taken);
        let pushed = line.pushed().await;
        assert!(pushed.wants_all, "{pushed:?}");
        rig.desk.pushed(&pushed);
        assert!(matches!(rig.desk.next(), Do::Rest(until) if until <= Instant::now() + S * 2));
        assert_eq!(rig.desk.say(&*line).await, Heard::Taken);
        assert_eq!(far.heard()[1], [ALL, ALL]);
    });
}

/// The contract over a WebSocket, case by case: what is made of it, and that the next message says everything, over a new connection
/// unless it was taken.
#[test]
fn everything_that_a_websocket_can_do_is_acted_on() {
    let says = |frames: Vec<Message>| Play::Say(frames);
    let error = |kind| {
        let error = ServerErrorResponse { kind, error_message: "no".to_owned(), retry_info: None };
        framed(&ServerToAgent { error_response: Some(error), ..ServerToAgent::default() })
    };
    let closed = Message::Close(Some(CloseFrame { code: CloseCode::Policy, reason: "go \u{1b}[31maway".into() }));
    let (portal, gone) = (Heard::Silent(Trouble::Portal), Heard::Silent(Trouble::NoAnswer));
    let cases = [
        (Play::Http("401 Unauthorized\r\nContent-Length: 0\r\n\r\n"), Heard::Held),
        (Play::Http("404 Not Found\r\nContent-Length: 0\r\n\r\n"), Heard::Refused),
        (Play::Http("200 OK\r\nContent-Length: 0\r\n\r\n"), Heard::Refused),
        (Play::Http("200 OK\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<a>"), portal),
        (Play::Http("503 Busy\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n"), Heard::Later(Some(S * 120))),
        (Play::Agree("Sec-WebSocket-Accept: bm90IHRoZSBwcm9vZg=="), Heard::Refused),
        (Play::Agree("X: y"), Heard::Refused),
        (Play::Agree("Sec-WebSocket-Accept: PROOF\r\nSec-WebSocket-Extensions: permessage-deflate"), Heard::Refused),
        (says(vec![Message::Text("hello".into())]), Heard::Refused),
        (says(vec![Message::Binary(Bytes::from_static(b"\x00\xff\xff"))]), portal),
        (says(vec![Message::Binary(vec![0x52; 70_000].into())]), gone),
        (says(vec![closed]), gone),
        (says(vec![error(UNAVAILABLE)]), Heard::Later(None)),
        (says(vec![error(1)]), Heard::Refused),
        (Play::Deaf, gone),
        (says(vec![Message::Ping(Bytes::new()), framed(&ServerToAgent::default())]), Heard::Taken),
        // As servers did before the header.
        (
            says(vec![Message::Binary(
                ServerToAgent { capabilities: 5, ..ServerToAgent::default() }.encode_to_vec().into(),
            )]),
            Heard::Taken,
        ),
        (Play::Mute, Heard::Taken),
    ];
    run(async {
        for (play, heard) in cases {
            let what = format!("{play:?}").chars().take(200).collect::<String>();
            let (far, rig) = (Far::start(vec![play]).await, Rig::new(true, None));
            let line = over_a_socket(far.addr, S);
            assert_eq!(rig.desk.say(&*line).await, heard, "{what}");
            assert_eq!(rig.desk.say(&*line).await, Heard::Taken, "{what}");
            let said = far.heard();
            match heard {
                Heard::Taken => assert_eq!(said, [vec![ALL, NONE]], "{what}"),
                _ => assert_eq!((said.len(), &said[1]), (2, &vec![ALL]), "{what}"),
            }
        }
        let (line, rig) = (over_a_socket(([127, 0, 0, 1], 1).into(), S), Rig::new(true, None));
        assert_eq!(rig.desk.say(&*line).await, Heard::Silent(Trouble::Unreachable));
    });
}

/// Goal: a connection that ends while nobody speaks is noticed and made again, with everything; one on which a server shouts is heard
/// a little at a time, and does not make the agent speak more.
#[test]
fn a_connection_is_made_again_and_a_server_that_shouts_is_not_obeyed_more() {
    run(async {
        let closes = Play::Say(vec![framed(&ServerToAgent::default()), Message::Close(None)]);
        let (far, rig) = (Far::start(vec![closes]).await, Rig::new(true, None));
        let _messenger = rig.begin(&over_a_socket(far.addr, S * 5));
        rig.until("a second connection", || far.heard().len() == 2 && !far.heard()[1].is_empty()).await;
        assert_eq!(far.heard(), [vec![ALL], vec![ALL]]);

        let wants = ServerToAgent { flags: REPORT_FULL_STATE, ..ServerToAgent::default() };
        let shouts = Play::Say(vec![framed(&wants); 5_000]);
        let (far, rig) = (Far::start(vec![shouts]).await, Rig::new(true, None));
        let line = over_a_socket(far.addr, S * 5);
        let _messenger = rig.begin(&line);
        rig.until("it is heard", || !far.heard().is_empty() && !far.heard()[0].is_empty()).await;
        sleep(S * 6).await;
        let said = far.heard()[0].len();
        assert!((2..=3).contains(&said), "{said} messages in six seconds of shouting");
    });
}
