//! The office, the actor and the herald with a platform that misbehaves on command: in virtual time, and over a real socket.

use super::actor::Locate;
use super::answer::{Answer, Heard};
use super::api::{self, Api};
use super::herald::Announced;
use super::identity::{Body, Identity, Record};
use super::letter::{Letter, Place, Profile};
use super::line::{Line, Lines};
use super::metrics::RegistrarMetrics;
use super::office::{DRAIN_RATE_MIN, Office, Settings};
use super::standing::{Call, Do, Rhythm, State, Why};
use super::{Registrar, export};
use crate::base::{Clock, Dice, Stamp};
use crate::otlp::Signal;
use crate::telemetry::metrics::Series;
use crate::telemetry::{Health, Metrics};
use crate::testing::far_end::{self, Act, Collector, FarEnd, Manner, Request, Script, UPLOAD_ID};
use crate::testing::platform::{Door, Fault, OFFLINE_AFTER, Platform};
use crate::uplink::config::OtlpHttpConfig;
use crate::uplink::link::Trouble;
use crate::uplink::otlp_http::OtlpHttp;
use crate::uplink::pack::Body as Packed;
use crate::uplink::transport::{Parcel, Transport};
use crate::uplink::verdict::{HttpAnswer, Verdict};
use actix::{Actor as _, Addr};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use serde_json::json;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, advance, sleep};

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const RHYTHM: Rhythm = Rhythm { interval: MINUTE, offline_after: Duration::from_secs(900) };
const START: Call = Call::Register(Why::Start);
const WORKSPACE: &str = "550e8400-e29b-41d4-a716-446655440000";

/// Whom the office speaks of, and what it was told to do.
struct Rig {
    office: Arc<Office>,
    rates: Arc<Mutex<Vec<Option<u64>>>>,
    metrics: Metrics,
    health: Health,
    clock: Clock,
}

impl Rig {
    fn new(is_trusted: bool, file: Option<PathBuf>) -> Rig {
        let clock = Clock::by_hand(Stamp { wall_ns: 1_765_620_000_000_000_000, mono_ms: 1_000 });
        let (metrics, health) = (Metrics::detached(), Health::starting(clock.clone()));
        let rates: Arc<Mutex<Vec<Option<u64>>>> = Arc::default();
        let set = rates.clone();
        let kept = file.as_ref().and_then(|file| Record::read(file).expect("whole, or not there"));
        let settings = Settings {
            identity: Identity::settle(None, kept, &Body::new("8d2c", "gw-7"), file.is_some(), &mut Dice::seeded(1)),
            file,
            profile: Profile {
                workspace_id: Some(WORKSPACE.to_owned()),
                tenant_id: None,
                capabilities: vec!["otlp_http".to_owned()],
                os_description: "Linux".to_owned(),
            },
            place: Place { hostname: "gw-7".to_owned(), ip_address: Some("10.0.0.7".to_owned()) },
            rhythm: RHYTHM,
            is_trusted,
            max_rate: None,
            throttle: Arc::new(move |rate| set.lock().expect("nobody panics in there").push(rate)),
        };
        let told = RegistrarMetrics::new(&metrics, &health);
        let office = Office::open(settings, &metrics, told, (clock.clone(), clock.now()), Dice::seeded(7));
        office.begin();
        Rig { office: Arc::new(office), rates, metrics, health, clock }
    }

    fn rates(&self) -> Vec<Option<u64>> {
        self.rates.lock().expect("nobody panics in there").clone()
    }

    /// The sum of a metric's series with these label values.
    fn shown(&self, name: &str, labels: &[&str]) -> f64 {
        let has = |series: &Series| labels.iter().all(|value| series.labels.iter().any(|(_, v)| v == value));
        self.metrics
            .look(&[name])
            .iter()
            .filter(|series| has(series))
            .map(|series| series.value)
            .fold(0.0, |a, b| a + b)
    }

    fn troubles(&self) -> Vec<String> {
        self.health.look().0.degraded.into_keys().collect()
    }

    /// Starts the actor in this thread, without a guard.
    fn begin(&self, line: &Arc<dyn Line>, locate: Locate) -> Addr<Registrar> {
        let line = line.clone();
        let lines: Lines = Arc::new(move || line.clone());
        Registrar::new(self.office.clone(), &lines, locate).start()
    }

    /// Lets time pass on all clocks.
    async fn pass(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let step = (end - Instant::now()).min(S);
            self.clock.advance(step);
            advance(step).await;
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn here() -> Locate {
    Arc::new(|| Place { hostname: "gw-7".to_owned(), ip_address: Some("10.0.0.7".to_owned()) })
}

/// The far end without a socket, by either way.
#[derive(Debug, Clone)]
struct InProcess {
    collector: Arc<Mutex<Collector>>,
    direct: bool,
}

impl InProcess {
    fn new(direct: bool, script: Script) -> InProcess {
        InProcess { collector: Arc::new(Mutex::new(Collector::new(script))), direct }
    }

    fn platform<T>(&self, look: impl FnOnce(&mut Platform) -> T) -> T {
        look(self.collector.lock().expect("nobody panics in there").platform())
    }
}

impl Line for InProcess {
    fn say(&self, letter: &Letter) -> BoxFuture<'static, Answer> {
        let mut request = if self.direct {
            let body = api::body(letter).to_string().into_bytes().into();
            Request { method: "POST".to_owned(), path: api::path(letter), body, headers: Vec::new() }
        } else {
            far_end::post(Signal::Metrics, &export::request(letter))
        };
        request.headers.push((UPLOAD_ID.to_owned(), letter.upload_id()));
        request.headers.push(("X-Workspace-Id".to_owned(), WORKSPACE.to_owned()));
        let told = self.collector.lock().expect("nobody panics in there").answer(Instant::now(), &request);
        let header =
            |name: &str| told.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
        let http = HttpAnswer {
            status: told.status,
            content_type: header("content-type"),
            retry_after: header("retry-after"),
            body: told.body.clone().into(),
            ..HttpAnswer::default()
        };
        let answer = match told.manner {
            Manner::Refused => Answer::of(Heard::Silent(Trouble::Unreachable), "nobody is there"),
            Manner::Never | Manner::Reset => Answer::of(Heard::Silent(Trouble::NoAnswer), "no answer"),
            _ if self.direct => Answer::of_api(&http, 0),
            _ => Answer::of_export(&Verdict::of_http(&http, 0)),
        };
        async move {
            sleep(Duration::from_millis(20)).await;
            answer
        }
        .boxed()
    }
}

fn run(test: impl Future<Output = ()>) {
    actix_rt::System::new().block_on(test);
}

/// Goal: a platform sees an agent that was away for three days as the seed says: online, offline after 15 minutes, and online
/// again by one registration; nothing of the three days comes after it.
/// Method: the actor, both ways, time virtual.
#[test]
fn three_days_without_a_link_end_with_one_registration() {
    for direct in [false, true] {
        run(async {
            tokio::time::pause();
            let (rig, day) = (Rig::new(true, None), MINUTE * 60 * 24);
            let far = InProcess::new(direct, Script::new());
            let _registrar = rig.begin(&(Arc::new(far.clone()) as Arc<dyn Line>), here());
            rig.pass(MINUTE * 10).await;
            let id = rig.office.agent_id();
            let row = far.platform(|platform| platform.agents()[&id].clone());
            assert_eq!(row.registrations, 1);
            assert!((8..=10).contains(&row.heartbeats), "{row:?}");
            assert_eq!(row.metadata["ip_address"], "10.0.0.7");
            assert_eq!(
                (rig.office.state(), rig.shown("tfo_agent_registration", &["registered"])),
                (State::Registered, 1.0)
            );

            let lost = Instant::now();
            far.collector.lock().expect("whole").play(Script::new().lasting(day * 3, Act::Refuse));
            let answered = far.platform(|platform| platform.visits().count());
            rig.pass(OFFLINE_AFTER - MINUTE).await;
            assert_eq!(rig.office.state(), State::Registered);
            assert_eq!(rig.troubles(), Vec::<String>::new());
            rig.pass(MINUTE * 2).await;
            assert!(matches!(rig.office.state(), State::Offline | State::Registering), "{}", rig.office.state());
            assert_eq!(rig.troubles(), ["registration"]);
            assert!(!far.platform(|platform| platform.agents()[&id].is_online(Instant::now())));
            rig.pass(lost + day * 3 - Instant::now()).await;
            assert_eq!(far.platform(|platform| platform.visits().count()), answered, "nobody was there");

            let back = Instant::now();
            rig.pass(MINUTE * 4).await;
            let visits: Vec<_> = far.platform(|platform| platform.visits().skip(answered).cloned().collect());
            assert_eq!(visits[0].door, Door::Register, "{visits:?}");
            // 90 s, and what the thread that looks for the address takes meanwhile: it knows no virtual time.
            assert!(visits[0].at - back <= MINUTE * 3, "{:?}", visits[0].at - back);
            assert!(visits[1..].iter().all(|visit| visit.door == Door::Heartbeat) && visits.len() <= 5, "{visits:?}");
            assert!(far.platform(|platform| platform.agents()[&id].is_online(Instant::now())));
            assert_eq!((rig.office.state(), rig.troubles()), (State::Registered, Vec::new()));
        });
    }
}

/// Heartbeats are 60 s apart, and a platform that forgets the agent has it back within one interval and a quarter.
#[test]
fn a_platform_that_lost_its_table_has_the_agent_back() {
    run(async {
        tokio::time::pause();
        let rig = Rig::new(true, None);
        let far = InProcess::new(true, Script::new());
        let _registrar = rig.begin(&(Arc::new(far.clone()) as Arc<dyn Line>), here());
        rig.pass(MINUTE * 5).await;
        let beats: Vec<Instant> = far.platform(|platform| {
            platform.visits().filter(|visit| visit.door == Door::Heartbeat).map(|visit| visit.at).collect()
        });
        for pair in beats.windows(2) {
            let apart = pair[1] - pair[0];
            // Where the machine is, is asked on a thread in real time, so virtual time passes meanwhile.
            assert!(MINUTE <= apart && apart <= MINUTE * 5 / 4, "{apart:?}");
        }
        let id = rig.office.agent_id();
        far.platform(|platform| platform.forget(&id));
        rig.pass(MINUTE * 2).await;
        let last: Vec<_> =
            far.platform(|platform| platform.visits().rev().take(3).map(|v| (v.door, v.status)).collect());
        assert!(last.contains(&(Door::Heartbeat, 404)) && last.contains(&(Door::Register, 201)), "{last:?}");
        assert_eq!(rig.shown("tfo_agent_registrar_calls", &["heartbeat", "forgotten"]), 1.0);
    });
}

/// A machine that gets another address says so with its next heartbeat; the series stay those of one agent.
#[test]
fn an_agent_that_roams_says_where_it_is() {
    run(async {
        tokio::time::pause();
        let rig = Rig::new(true, None);
        let far = InProcess::new(false, Script::new());
        let address = Arc::new(Mutex::new("10.0.0.7".to_owned()));
        let of = address.clone();
        let locate: Locate = Arc::new(move || Place {
            hostname: "gw-7".to_owned(),
            ip_address: Some(of.lock().expect("whole").clone()),
        });
        let _registrar = rig.begin(&(Arc::new(far.clone()) as Arc<dyn Line>), locate);
        rig.pass(MINUTE).await;
        "192.168.1.9".clone_into(&mut address.lock().expect("whole"));
        // Where the machine is, is asked on another thread, in real time.
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(10));
            rig.pass(MINUTE).await;
        }
        let id = rig.office.agent_id();
        assert_eq!(far.platform(|p| p.agents()[&id].metadata["ip_address"].clone()), "192.168.1.9");
        assert_eq!(far.platform(|p| p.agents().len()), 1);
    });
}

/// The contract with the API over a real socket, status by status, for both calls: what is believed, what is done next, and
/// that a person can see it.
#[test]
fn every_status_of_the_api_is_acted_on() {
    struct Case(Door, Fault, State, Heard, Option<Call>);
    let fault = |status| Fault::status(status);
    let given = |status| Fault { body: json!({"agent_id": "p-1"}), ..Fault::status(status) };
    let later = |status| Fault { retry_after: Some("120".to_owned()), ..Fault::status(status) };
    let two_minutes = Heard::Later(Some(S * 120));
    let (none, known) = (State::Unregistered, State::Registered);
    run(async {
        for Case(door, fault, state, heard, next) in [
            Case(Door::Register, given(201), known, Heard::Taken, None),
            Case(Door::Register, fault(200), known, Heard::Taken, None),
            Case(Door::Register, fault(401), none, Heard::Held, None),
            Case(Door::Register, fault(403), none, Heard::Held, None),
            Case(Door::Register, fault(404), none, Heard::Forgotten, None),
            Case(Door::Register, given(409), none, Heard::Renamed, Some(Call::Register(Why::Renamed))),
            Case(Door::Register, later(429), none, two_minutes, None),
            Case(Door::Register, later(503), none, two_minutes, None),
            Case(Door::Heartbeat, fault(404), none, Heard::Forgotten, None),
            Case(Door::Heartbeat, fault(410), none, Heard::Forgotten, None),
            Case(Door::Heartbeat, fault(401), known, Heard::Held, None),
            Case(Door::Heartbeat, fault(403), known, Heard::Held, None),
            Case(Door::Heartbeat, given(409), none, Heard::Renamed, Some(Call::Register(Why::Renamed))),
            Case(Door::Heartbeat, later(429), known, two_minutes, None),
            Case(Door::Heartbeat, later(503), known, two_minutes, None),
        ] {
            let what = format!("{door:?} {}", fault.status);
            let (far_end, rig) = (FarEnd::start(Script::new()).expect("a port"), Rig::new(true, None));
            let line = over_http(&far_end, &rig.clock);
            if door == Door::Heartbeat {
                assert_eq!(rig.office.say(&*line, START).await.heard, Heard::Taken, "{what}");
            }
            let was = rig.office.agent_id();
            far_end.with(|c| c.platform().fail(door, 1, &fault));
            let call = if door == Door::Heartbeat { Call::Heartbeat } else { START };
            let answer = rig.office.say(&*line, call).await;
            assert_eq!((answer.heard, rig.office.state()), (heard, state), "{what}");
            assert_eq!(rig.office.agent_id() != was, fault.body != serde_json::Value::Null, "{what}");
            match (rig.office.next(), next) {
                (Do::Say(call), Some(wanted)) => assert_eq!(call, wanted, "{what}"),
                (Do::Rest(until), None) => {
                    let floor = if heard == two_minutes { S * 119 } else { Duration::ZERO };
                    assert!(until >= Instant::now() + floor, "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
            let is_unknown = state == none && matches!(heard, Heard::Later(_));
            let shown = is_unknown || matches!(heard, Heard::Held | Heard::Forgotten);
            assert_eq!(rig.troubles().contains(&"registration".to_owned()), shown, "{what}");
            // And afterwards it goes on, under the id that counts.
            assert_eq!(rig.office.say(&*line, Call::Register(Why::Renamed)).await.heard, Heard::Taken, "{what}");
            assert_eq!(rig.office.say(&*line, Call::Heartbeat).await.heard, Heard::Taken, "{what}");
            let id = rig.office.agent_id();
            assert!(far_end.with(|c| c.platform().agents().contains_key(&id)), "{what}");
        }
    });
}

fn over_http(far_end: &FarEnd, clock: &Clock) -> Arc<dyn Line> {
    let config = OtlpHttpConfig {
        endpoint: Some(far_end.endpoint()),
        headers: vec![("X-Workspace-Id".to_owned(), crate::config::Secret::new(WORKSPACE))],
        timeout: Some(S * 5),
        ..OtlpHttpConfig::default()
    };
    let of = clock.clone();
    Arc::new(Api::new(Arc::new(move || OtlpHttp::new(&config, 1, of.clone())), clock.clone()))
}

/// An API that is not answered is asked anew over another connection, and one that goes away is silence.
#[test]
fn an_api_that_does_not_answer_is_silent() {
    run(async {
        let (far_end, rig) = (FarEnd::start(Script::new()).expect("a port"), Rig::new(true, None));
        let line = over_http(&far_end, &rig.clock);
        assert_eq!(rig.office.say(&*line, START).await.heard, Heard::Taken);
        far_end.play(Script::new().times(1, Act::ResetMidRequest));
        assert_eq!(rig.office.say(&*line, Call::Heartbeat).await.heard, Heard::Silent(Trouble::NoAnswer));
        assert_eq!(rig.office.say(&*line, Call::Heartbeat).await.heard, Heard::Taken);
        far_end.play(Script::new().times(1, Act::Portal));
        assert_eq!(rig.office.say(&*line, Call::Heartbeat).await.heard, Heard::Silent(Trouble::Portal));
        far_end.play(Script::new().always(Act::Refuse));
        sleep(Duration::from_millis(50)).await;
        assert_eq!(rig.office.say(&*line, Call::Heartbeat).await.heard, Heard::Silent(Trouble::Unreachable));
    });
}

/// An answer's orders: obeyed down to the floor, only where nobody between could have written them, until an answer does not
/// say them any more or none comes.
#[test]
fn a_platform_slows_the_backlog_down_within_bounds() {
    run(async {
        tokio::time::pause();
        for is_trusted in [true, false] {
            let rig = Rig::new(is_trusted, None);
            let far = InProcess::new(true, Script::new());
            assert_eq!(rig.office.say(&far, START).await.heard, Heard::Taken);
            let beat = async |orders: serde_json::Value| {
                far.platform(|platform| platform.order(orders));
                assert_eq!(rig.office.say(&far, Call::Heartbeat).await.heard, Heard::Taken);
            };
            beat(json!({"drain_rate": 250_000, "config_revision": "r7", "message": "hello"})).await;
            beat(json!({"drain_rate": 250_000})).await;
            beat(json!({"drain_rate": 1})).await;
            beat(json!({})).await;
            beat(json!({"drain_rate": 40_000})).await;
            rig.pass(MINUTE * 16).await;
            assert_eq!(rig.office.owes(), Some(Call::Register(Why::Offline)));
            let wanted = [Some(250_000), Some(DRAIN_RATE_MIN), None, Some(40_000), None];
            assert_eq!(rig.rates(), if is_trusted { &wanted[..] } else { &[] }, "trusted: {is_trusted}");
            assert_eq!(rig.shown("tfo_agent_registration_drain_rate", &[]), 0.0);
        }
    });
}

/// What the platform calls us survives the process, and the file is there after the first minute.
#[test]
fn the_id_is_kept_and_so_is_one_the_platform_gave() {
    run(async {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("agent-identity");
        let rig = Rig::new(true, Some(file.clone()));
        let derived = rig.office.agent_id();
        let far = InProcess::new(true, Script::new());
        let given = Fault { body: json!({"agent_id": "p-1"}), ..Fault::status(409) };
        far.platform(|platform| platform.fail(Door::Register, 1, &given));
        let registrar = rig.begin(&(Arc::new(far.clone()) as Arc<dyn Line>), here());
        let begin = Instant::now();
        while rig.office.to_keep().is_some() || rig.office.state() != State::Registered {
            assert!(begin.elapsed() < S * 10, "{:?}", rig.office);
            sleep(Duration::from_millis(10)).await;
            if rig.office.agent_id() == "p-1" && rig.office.state() == State::Registered {
                break;
            }
        }
        assert_eq!(Record::read(&file).expect("whole").expect("written").agent_id, derived);
        drop(registrar);
        // The next writing is a while after the first; a life begins at once.
        let _next = rig.begin(&(Arc::new(far.clone()) as Arc<dyn Line>), here());
        while rig.office.to_keep().is_some() {
            assert!(begin.elapsed() < S * 20, "{:?}", rig.office);
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(Rig::new(true, Some(file)).office.agent_id(), "p-1");
    });
}

/// Goal: over plain http nobody renames an agent for good, and a heartbeat's success renames nobody anywhere.
#[test]
fn a_platform_that_is_not_trusted_gives_an_id_for_this_process_only() {
    run(async {
        for (is_trusted, kept) in [(true, "p-1"), (false, "derived")] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let rig = Rig::new(is_trusted, Some(dir.path().join("agent-identity")));
            let derived = rig.office.agent_id();
            let far = InProcess::new(true, Script::new());
            for (call, door, status, id) in [
                (START, Door::Register, 201, "p-0"),
                (Call::Heartbeat, Door::Heartbeat, 200, "p-0"),
                (Call::Heartbeat, Door::Heartbeat, 409, "p-1"),
            ] {
                let says = if id == "p-1" {
                    "p-1"
                } else if call == START {
                    "p-0"
                } else {
                    "p-9"
                };
                let fault = Fault { body: json!({"agent_id": says}), ..Fault::status(status) };
                far.platform(|platform| platform.fail(door, 1, &fault));
                rig.office.say(&far, call).await;
                assert_eq!(rig.office.agent_id(), id, "{call:?} {status}, trusted: {is_trusted}");
            }
            let (_, record) = rig.office.to_keep().expect("nothing is written yet");
            assert_eq!(record.agent_id, if kept == "p-1" { "p-1" } else { &derived }, "trusted: {is_trusted}");
        }
    });
}

/// Takes uploads and says so, or says nothing.
#[derive(Debug, Default)]
struct Inner {
    sent: AtomicU32,
}

impl Transport for Inner {
    fn send(&self, _: Parcel) -> BoxFuture<'static, Verdict> {
        self.sent.fetch_add(1, SeqCst);
        std::future::ready(Verdict::Accepted { rejected: 0, message: String::new(), oddity: None }).boxed()
    }
}

/// Says what it is told to, or panics.
#[derive(Debug)]
struct Scripted {
    said: Arc<AtomicU32>,
    heard: Option<Heard>,
}

impl Line for Scripted {
    fn say(&self, _: &Letter) -> BoxFuture<'static, Answer> {
        self.said.fetch_add(1, SeqCst);
        let heard = self.heard;
        async move {
            tokio::task::yield_now().await;
            Answer::of(heard.expect("told to fall"), "scripted")
        }
        .boxed()
    }
}

/// Goal: a registration goes before data and costs it nothing: whoever answers lets it go, a panic lets it go, and silence
/// stops it only where the data would have been met with silence too.
#[test]
#[rustfmt::skip]
fn a_registration_goes_before_data_and_never_in_its_way() {
    use Heard::{Held, Later, Refused, Silent, Taken};
    let (away, mute) = (Silent(Trouble::Unreachable), Silent(Trouble::NoAnswer));
    run(async {
        for (heard, same_way, said, sent) in [
            (Some(Taken),       true,  1, 6),
            (Some(Held),        true,  1, 6),
            (Some(Refused),     true,  1, 6),
            (Some(Later(None)), true,  1, 6),
            (None,              true,  1, 6), // a panic
            (Some(away),        true,  2, 0), // what comes together shares one letter, as the uplink's probe
            (Some(mute),        true,  2, 3),
            (Some(away),        false, 1, 6), // another way tells nothing, and is not tried before each upload
            (Some(mute),        false, 1, 6),
        ] {
            let (rig, inner, count) = (Rig::new(true, None), Arc::new(Inner::default()), Arc::new(AtomicU32::new(0)));
            let line = Arc::new(Scripted { said: count.clone(), heard });
            let transport = Announced::new(inner.clone(), rig.office.clone(), line, same_way);
            let parcel = || Parcel { signal: Signal::Logs, body: Packed::default(), upload_id: "x".to_owned(), origin: None };
            for _ in 0..2 {
                // One of each signal, as an uplink begins.
                for verdict in join_all((0..3).map(|_| transport.send(parcel()))).await {
                    let taken = matches!(verdict, Verdict::Accepted { .. });
                    assert!(taken || matches!(verdict, Verdict::Silence { .. }), "{heard:?}: {verdict:?}");
                }
            }
            assert_eq!((count.load(SeqCst), inner.sent.load(SeqCst)), (said, sent), "{heard:?} {same_way}");
        }
    });
}

/// Goal: at a black hole the uploads that begin together wait for one letter, not one behind another; and where data is answered
/// they wait for two at most, whatever comes meanwhile.
/// Method: virtual time; each letter takes the timeout of a real one.
#[test]
fn silence_is_waited_for_once() {
    /// Takes as long as a call may, and is met with silence.
    #[derive(Debug)]
    struct Hole(Heard);
    impl Line for Hole {
        fn say(&self, _: &Letter) -> BoxFuture<'static, Answer> {
            let heard = self.0;
            async move {
                sleep(S * 15).await;
                Answer::of(heard, "a black hole")
            }
            .boxed()
        }
    }
    for (trouble, goes) in [(Trouble::Unreachable, false), (Trouble::NoAnswer, true)] {
        run(async {
            tokio::time::pause();
            let (rig, inner) = (Rig::new(true, None), Arc::new(Inner::default()));
            let transport =
                Announced::new(inner.clone(), rig.office.clone(), Arc::new(Hole(Heard::Silent(trouble))), true);
            let parcel =
                || Parcel { signal: Signal::Logs, body: Packed::default(), upload_id: "x".to_owned(), origin: None };
            let begin = Instant::now();
            // Three lanes and what they have parked.
            let verdicts = join_all((0..6).map(|_| transport.send(parcel()))).await;
            assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Silence { .. })), "{verdicts:?}");
            assert!(begin.elapsed() < S * 16, "{trouble}: {:?}", begin.elapsed());
            // The uplink rests, and knocks with one.
            let probe = transport.send(parcel()).await;
            assert_eq!(matches!(probe, Verdict::Accepted { .. }), goes, "{trouble}: {probe:?}");
            assert!(begin.elapsed() < S * 31, "{trouble}: {:?}", begin.elapsed());
            join_all((0..6).map(|_| transport.send(parcel()))).await;
            let bound = if goes { S * 31 } else { S * 46 };
            assert!(begin.elapsed() < bound, "{trouble}: {:?}", begin.elapsed());
            assert_eq!(inner.sent.load(SeqCst), if goes { 7 } else { 0 });
        });
    }
}

/// Whoever falls while it says something leaves nothing behind that others would wait for.
#[test]
fn a_call_that_is_given_up_in_the_middle_is_made_again() {
    run(async {
        let rig = Rig::new(true, None);
        #[derive(Debug)]
        struct Mute;
        impl Line for Mute {
            fn say(&self, _: &Letter) -> BoxFuture<'static, Answer> {
                std::future::pending().boxed()
            }
        }
        let saying = rig.office.say(&Mute, START);
        assert!(tokio::time::timeout(Duration::from_millis(10), saying).await.is_err());
        assert_eq!(rig.office.state(), State::Unregistered);
        assert!(matches!(rig.office.next(), Do::Rest(_)));
        let far = InProcess::new(false, Script::new());
        assert_eq!(rig.office.say(&far, START).await.heard, Heard::Taken);
    });
}
