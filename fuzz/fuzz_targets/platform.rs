//! Whatever a platform, or whoever stands in its place, answers to registrations and heartbeats: nothing panics, what is shown is
//! one capped line without control characters, an id is one that fits a path or none, and orders keep to their bounds.
//!
//! Answers are written as HTTP would be, one after the other with `---` between. The first line names the call (`register`,
//! `heartbeat`; with a `c` before it through the collector, with a `g` the same over gRPC) and the status; what gRPC says in trailers
//! stands among the headers:
//!
//! ```text
//! heartbeat 200
//! content-type: application/json
//!
//! {"drain_rate": 1}
//! ---
//! gregister 200
//! grpc-status: 14
//! ```
#![no_main]

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tfo_otel_agent::base::{Clock, Dice};
use tfo_otel_agent::registrar::answer::{Answer, Heard, is_id};
use tfo_otel_agent::registrar::identity::{Body, Identity};
use tfo_otel_agent::registrar::letter::{Letter, Place, Profile};
use tfo_otel_agent::registrar::line::Line;
use tfo_otel_agent::registrar::metrics::RegistrarMetrics;
use tfo_otel_agent::registrar::office::{DRAIN_RATE_MIN, Office, Settings};
use tfo_otel_agent::registrar::standing::{Call, Do, Rhythm, Why};
use tfo_otel_agent::registrar::{api, export};
use tfo_otel_agent::telemetry::{Health, Metrics};
use tfo_otel_agent::uplink::verdict::grpc::GrpcAnswer;
use tfo_otel_agent::uplink::verdict::{HttpAnswer, Verdict};
use tonic::{Code, Status};

/// A rest is never longer than an hour and what chance adds to it.
const REST_MAX: Duration = Duration::from_secs(3_600 * 3 / 2);

/// Says one thing, to whatever letter.
#[derive(Debug)]
struct Says(Answer);

impl Line for Says {
    fn say(&self, letter: &Letter) -> BoxFuture<'static, Answer> {
        // What was heard before is in what is said next.
        assert!(is_id(&letter.agent_id));
        let at = format!("https://api.example.com{}", api::path(letter));
        assert_eq!(at.parse::<http::Uri>().expect("an id fits a path").path(), api::path(letter));
        drop((api::body(letter), export::request(letter)));
        ready(self.0.clone()).boxed()
    }
}

fn office(is_trusted: bool, rates: &Arc<Mutex<Vec<Option<u64>>>>) -> Office {
    let (clock, metrics, rates) = (Clock::system(), Metrics::detached(), rates.clone());
    let settings = Settings {
        identity: Identity::settle(None, None, &Body::new("8d2c", "gw-7"), true, &mut Dice::seeded(1)),
        file: Some(PathBuf::from("/nowhere/agent-identity")),
        profile: Profile {
            workspace_id: None,
            tenant_id: None,
            capabilities: Vec::new(),
            os_description: String::new(),
        },
        place: Place::default(),
        rhythm: Rhythm { interval: Duration::from_secs(60), offline_after: Duration::from_secs(900) },
        is_trusted,
        max_rate: None,
        throttle: Arc::new(move |rate| rates.lock().expect("nobody panics in there").push(rate)),
    };
    let told = RegistrarMetrics::new(&metrics, &Health::starting(clock.clone()));
    let office = Office::open(settings, &metrics, told, (clock.clone(), clock.now()), Dice::seeded(7));
    office.begin();
    office
}

/// A call and what it is answered; `None` for what is no answer.
fn read(text: &[u8]) -> Option<(Call, Answer)> {
    let at = text.windows(2).position(|pair| pair == b"\n\n").unwrap_or(text.len());
    let (head, body) = (&text[..at], text.get(at + 2..).unwrap_or_default());
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let mut words = first.split(' ');
    let call = words.next()?;
    let way = call.chars().next()?;
    let call = if call.ends_with("heartbeat") { Call::Heartbeat } else { Call::Register(Why::Start) };
    let (body, len) = (Bytes::copy_from_slice(body), body.len() as u64);
    let mut answer = HttpAnswer { status: words.next()?.parse().ok()?, body, ..HttpAnswer::default() };
    let (mut encoding, mut code, mut message, mut details) = (None, None, None, Bytes::new());
    for line in lines {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        // As the client takes them in.
        let value = http::HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok();
        let value = value.and_then(|value| Some(value.to_str().ok()?.to_owned()));
        match &line[..at] {
            b"content-type" => answer.content_type = value,
            b"retry-after" => answer.retry_after = value,
            b"date" => answer.date = value,
            b"location" => answer.location = value,
            b"grpc-encoding" => encoding = value,
            b"grpc-status" => code = value.and_then(|value| value.parse().ok()),
            b"grpc-message" => message = value,
            b"details" => details = Bytes::copy_from_slice(&line[at + 1..]),
            _ => {}
        }
    }
    let read = match way {
        'g' => {
            let status = |code| Status::with_details(Code::from_i32(code), message.unwrap_or_default(), details);
            let broke = answer.location.take();
            let answer = GrpcAnswer { http: answer, encoding, len, status: code.map(status), broke };
            Answer::of_export(&Verdict::of_grpc_answer(&answer, 0))
        }
        'c' => Answer::of_export(&Verdict::of_http(&answer, 0)),
        _ => Answer::of_api(&answer, 0),
    };
    Some((call, read))
}

fn assert_fit_to_be_shown(text: &str, most: usize) {
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(text.chars().count() <= most, "{} characters: {text:?}", text.chars().count());
}

fuzz_target!(|data: &[u8]| {
    let mut said = Vec::new();
    let mut rest = data;
    while said.len() < 16 && !rest.is_empty() {
        let at = rest.windows(5).position(|five| five == b"\n---\n").unwrap_or(rest.len());
        said.extend(read(&rest[..at]));
        rest = rest.get(at + 5..).unwrap_or_default();
    }
    for is_trusted in [true, false] {
        let rates: Arc<Mutex<Vec<Option<u64>>>> = Arc::default();
        let office = office(is_trusted, &rates);
        let own = office.agent_id();
        for (call, answer) in &said {
            assert!(answer.agent_id.as_deref().is_none_or(is_id), "{:?}", answer.agent_id);
            assert_fit_to_be_shown(&answer.why, 400);
            assert_fit_to_be_shown(answer.orders.message.as_deref().unwrap_or_default(), 257);
            assert_fit_to_be_shown(answer.orders.config_revision.as_deref().unwrap_or_default(), 65);
            let before = office.agent_id();
            let heard = office.say(&Says(answer.clone()), *call).now_or_never().expect("it waits for nobody").heard;
            let now = office.agent_id();
            assert!(now == before || (is_id(&now) && Some(&now) == answer.agent_id.as_ref()), "{now}");
            assert!(now == before || *call != Call::Heartbeat || heard == Heard::Renamed, "a heartbeat renames nobody");
            match office.next() {
                Do::Rest(until) => assert!(until <= tokio::time::Instant::now() + REST_MAX),
                Do::Say(_) => {}
                Do::Await => panic!("nothing is out"),
            }
        }
        let (_, kept) = office.to_keep().expect("it is new");
        assert!(is_id(&kept.agent_id) && (is_trusted || kept.agent_id == own), "{}", kept.agent_id);
        for rate in rates.lock().expect("nobody panics in there").iter() {
            assert!(rate.is_none_or(|rate| is_trusted && rate >= DRAIN_RATE_MIN), "{rate:?}");
        }
    }
});
