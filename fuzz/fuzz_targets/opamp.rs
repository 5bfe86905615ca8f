//! Whatever an OpAMP server, or whoever stands in its place, answers: nothing panics, words are one capped line without control
//! characters, a uid is 16 bytes or none and is kept only if it may be believed, no rest is longer than an hour and what chance adds,
//! and two messages are never closer than a second. What is said next is a message that the reader of the far side understands. A
//! configuration that is offered is refused, or holds keys of the list alone.
//!
//! Answers stand one behind the other: a byte for the status, one for the kind of the body, two for its length, the body.
#![no_main]

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tfo_otel_agent::base::{Clock, Dice, Stamp};
use tfo_otel_agent::opamp::{Desk, Exchange};
use tfo_otel_agent::opamp::answer::{Answer, Heard};
use tfo_otel_agent::opamp::desk::Settings;
use tfo_otel_agent::opamp::exchange::Offered;
use tfo_otel_agent::opamp::line::Line;
use tfo_otel_agent::opamp::messages::{AgentConfigFile, AgentConfigMap, AgentToServer};
use tfo_otel_agent::opamp::metrics::OpampMetrics;
use tfo_otel_agent::opamp::overlay::Overlay;
use tfo_otel_agent::opamp::report::Profile;
use tfo_otel_agent::opamp::talk::Do;
use tfo_otel_agent::opamp::uid::{Instance, Uid};
use tfo_otel_agent::registrar::letter::Place;
use tfo_otel_agent::telemetry::{Health, Metrics};
use tfo_otel_agent::uplink::verdict::HttpAnswer;
use tokio::sync::watch;

const REST_MAX: Duration = Duration::from_secs(3_600 * 3 / 2);
const STATUSES: [u16; 12] = [200, 200, 200, 200, 401, 404, 429, 500, 503, 511, 302, 400];
const KINDS: [Option<&str>; 4] =
    [Some("application/x-protobuf"), None, Some("text/html"), Some("application/x-protobuf; a=b")];
const NOW: Stamp = Stamp { wall_ns: 1_765_620_000_000_000_000, mono_ms: 1_000 };

/// Answers with these bytes, whatever it is asked.
#[derive(Debug)]
struct Says {
    answer: HttpAnswer,
    made: Mutex<Option<Answer>>,
    numbers: Arc<Mutex<Vec<u64>>>,
}

impl Line for Says {
    fn say(&self, uid: Uid, message: Bytes) -> BoxFuture<'static, Answer> {
        let said = AgentToServer::decode(message).expect("it is a message");
        assert_eq!(said.instance_uid[..], uid.bytes()[..]);
        self.numbers.lock().expect("nobody panics in there").push(said.sequence_num);
        let answer = Answer::of_http(&self.answer, uid, NOW.wall_ns);
        *self.made.lock().expect("nobody panics in there") = Some(answer.clone());
        ready(answer).boxed()
    }
}

fn desk(is_trusted: bool) -> (Desk, Option<Arc<Exchange>>) {
    let (clock, metrics) = (Clock::by_hand(NOW), Metrics::detached());
    let health = Health::starting(clock);
    let (_, effective) = watch::channel(Arc::from("a: 1\n"));
    let settings = Settings {
        instance: Instance::settle(None, None, Some("8d2c"), true, (NOW, &mut Dice::seeded(1))),
        file: Some(PathBuf::from("/nowhere/opamp-instance")),
        profile: Profile::default(),
        place: Place::default(),
        interval: Duration::from_secs(30),
        is_trusted,
        reports_health: true,
        reports_config: true,
        exchange: is_trusted.then(Arc::default),
        effective,
        agent_id: Arc::new(|| None),
    };
    let told = OpampMetrics::new(&metrics, &health, "opamp");
    let exchange = settings.exchange.clone();
    let desk = Desk::open(settings, health, told, Dice::seeded(7));
    desk.begin();
    (desk, exchange)
}

/// What a server may set reads back as the same, and nothing that is not on the list gets through.
fn look_at(offered: &Offered) {
    let Ok(overlay) = Overlay::read(&offered.files) else { return };
    let text = overlay.text();
    assert!(!text.contains("endpoint") && !text.contains('$') && !text.contains("directory"), "{text}");
    let body = Bytes::from(text);
    let file = AgentConfigFile { body, content_type: String::new() };
    let again = AgentConfigMap { config_map: [(String::new(), file)].into() };
    assert_eq!(Overlay::read(&again), Ok(overlay));
}

fuzz_target!(|data: &[u8]| {
    let mut answers = Vec::new();
    let mut rest = data;
    while let [status, kind, a, b, behind @ ..] = rest {
        if answers.len() == 16 {
            break;
        }
        let (body, next) = behind.split_at(behind.len().min(usize::from(u16::from_le_bytes([*a, *b]))));
        answers.push(HttpAnswer {
            status: STATUSES[usize::from(*status) % STATUSES.len()],
            content_type: KINDS[usize::from(*kind) % KINDS.len()].map(str::to_owned),
            // The same bytes stand for what a header says.
            retry_after: std::str::from_utf8(body).ok().map(str::to_owned),
            body: Bytes::copy_from_slice(body),
            ..HttpAnswer::default()
        });
        rest = next;
    }
    for is_trusted in [true, false] {
        let ((desk, exchange), numbers) = (desk(is_trusted), Arc::<Mutex<Vec<u64>>>::default());
        let own = desk.uid();
        for answer in &answers {
            let before = desk.uid();
            let line = Says { answer: answer.clone(), made: Mutex::default(), numbers: numbers.clone() };
            let heard = desk.say(&line).now_or_never().expect("it waits for nobody");
            let made = line.made.lock().expect("nobody panics in there").take().expect("it was asked");
            assert!(!made.why.contains(char::is_control) && made.why.chars().count() <= 257, "{:?}", made.why);
            assert!(desk.uid() == before || (heard == Heard::Taken && Some(desk.uid()) == made.renamed));
            assert_ne!(desk.uid().bytes(), &[0; 16]);
            if let Some(offered) = exchange.as_ref().and_then(|exchange| exchange.offers().borrow().clone()) {
                look_at(&offered);
            }
            let now = tokio::time::Instant::now();
            match desk.next() {
                Do::Rest(until) => assert!(until <= now + REST_MAX && until >= now + Duration::from_millis(500)),
                other => panic!("{other:?} at once"),
            }
        }
        let numbers = numbers.lock().expect("nobody panics in there").clone();
        assert!(numbers.iter().copied().eq(1..=answers.len() as u64), "{numbers:?}");
        let (_, kept) = desk.to_keep().expect("it is new");
        assert!(is_trusted || format!("{kept:?}").contains(&own.to_string()), "{kept:?}");
    }
});
