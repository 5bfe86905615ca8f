//! `kill -9` under load: at random moments and in the middle of every step of a segment's life. What was acknowledged
//! must be at the far end when everything is over; nothing may arrive that was never sent.
//!
//! The agent is the real binary as a child process (with the feature `testing`, which lets it say what the spool is
//! doing in a file that outlives it). `TFO_KILLS=1000 cargo test --test kill9 -- --nocapture` is the long form; with `TFO_OUT=grpc`
//! the agent sends over gRPC.

#![allow(clippy::print_stdout)] // a red run is replayed from what it printed

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tfo_otel_agent::base::Dice;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::spool::phase::Phase;
use tfo_otel_agent::testing::books::{self, Bound};
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Collector, Script};
use tfo_otel_agent::testing::load::{Load, Running, install_client, until};
use tfo_otel_agent::testing::{FarEnd, Numbered, Report, Source, Tally};

const PATIENCE: Duration = Duration::from_secs(120);
/// Clients of each signal, and items of each of their requests.
const CLIENTS: u32 = 2;
const ITEMS: u32 = 50;

struct Agent {
    child: Child,
}

/// The orders of `drain`, of which each life has one: what one leaves in the spool the next must go on with.
const ORDERS: [&str; 4] = ["live_first", "live_first", "newest_first", "oldest_first"];

struct Place {
    /// The configuration, but for the order.
    text: String,
    /// What sends: `otlphttp`, or `otlp` with `TFO_OUT=grpc`.
    exporter: &'static str,
    dir: tempfile::TempDir,
    config: PathBuf,
    phases: PathBuf,
    log: PathBuf,
    port: u16,
    metrics: u16,
}

impl Place {
    fn new(far_end: &FarEnd) -> Place {
        let (exporter, way) = match std::env::var("TFO_OUT").as_deref() {
            Ok("grpc") => ("otlp", format!("{{endpoint: '{}', tls: {{insecure: true}},", far_end.addr())),
            _ => ("otlphttp", format!("{{endpoint: '{}',", far_end.endpoint())),
        };
        // On a real disk: a sync takes its time there, and a kill can fall into it.
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = || free_port().expect("a free port");
        let (port, metrics) = (port(), port());
        let at = |name: &str| dir.path().join(name);
        let config = at("agent.yaml");
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: 50ms, send_batch_size: 500, send_batch_max_size: 1000}}}}
exporters:
  {exporter}:
    {way}
     retry_on_failure: {{initial_interval: 50ms, max_interval: 200ms}},
     sending_queue: {{storage: file_storage}},
     drain: {{order: ORDER}}}}
extensions: {{file_storage: {{directory: '{}'}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines:
    logs: {{receivers: [otlp], processors: [batch], exporters: [{exporter}]}}
    metrics: {{receivers: [otlp], processors: [batch], exporters: [{exporter}]}}
",
            at("queue").display()
        );
        Place { text, exporter, config, phases: at("phases"), log: at("agent.log"), port, metrics, dir }
    }

    fn start(&self, order: &str) -> Agent {
        std::fs::write(&self.config, self.text.replace("ORDER", order)).expect("space");
        std::fs::write(&self.phases, [0; 16]).expect("space");
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        let mut command = child::agent(binary, &self.config, &self.log).expect("space");
        command.env("TFO_TEST_PHASE_FILE", &self.phases).env("TFO_TEST_SEGMENT_KIB", "192");
        Agent { child: Child::spawn(&mut command).expect("the binary cargo built for this test") }
    }

    async fn listens(&self, agent: &mut Agent) {
        let end = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            let ended = agent.child.try_wait().expect("our child");
            assert!(ended.is_none() && Instant::now() < end, "it always starts: {ended:?}\n{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What the agents complained of, each sentence once per second at most, and where everything lies.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let complaints: Vec<&str> = log.lines().filter(|l| !l.contains("\tinfo\t")).collect();
        let kept = self.dir.path().with_extension("kept");
        let copied = Command::new("cp").arg("-a").arg(self.dir.path()).arg(&kept).status();
        let last = &complaints[complaints.len().saturating_sub(60)..];
        format!("{}\nspool and log: {} ({copied:?})", last.join("\n"), kept.display())
    }
}

impl Agent {
    /// SIGKILL, at once or when the spool is in `aim`.
    async fn kill(mut self, phases: &Path, aim: Option<Phase>, delay: Duration) {
        tokio::time::sleep(delay).await;
        let (phases, pid) = (phases.to_owned(), self.child.pid());
        // A thread that does nothing but look: the shortest phases last for microseconds.
        let shot = tokio::task::spawn_blocking(move || {
            let file = File::open(&phases).expect("we made it");
            let end = Instant::now() + Duration::from_millis(1_500);
            let mut byte = [0; 1];
            while let Some(phase) = aim.filter(|_| Instant::now() < end) {
                file.read_exact_at(&mut byte, phase as u64).expect("sixteen bytes");
                if byte[0] == 1 {
                    break;
                }
            }
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("our child");
        });
        shot.await.expect("it does not panic");
        self.child.wait().expect("our child");
    }
}

fn phases_at_death(path: &Path) -> Vec<Phase> {
    let bytes = std::fs::read(path).expect("we made it");
    Phase::ALL.into_iter().filter(|p| bytes[*p as usize] == 1).collect()
}

fn load(port: u16, signal: Signal, rate: u64, first: u32) -> Running {
    let endpoint = format!("http://127.0.0.1:{port}");
    Load { endpoint, signals: vec![signal], rate, request_items: ITEMS, clients: CLIENTS, first_source: first }.start()
}

fn tally(loads: &[Running], far_end: &FarEnd) -> Tally {
    // The far end answers nobody while it is looked at.
    let mut all = far_end.with(|collector| collector.tally().clone());
    loads.iter().for_each(|l| all.merge(&l.tally()));
    all
}

fn report(loads: &[Running], far_end: &FarEnd) -> Report {
    tally(loads, far_end).report()
}

/// What the far end does next: away, so that a backlog is sealed; there, so that segments are consumed; picky, so that one
/// lane holds segments the other is done with, which are copied forward.
fn weather(dice: &mut Dice) -> Script {
    match dice.within(0..10) {
        0..3 => Script::new().always(Act::Refuse),
        3..6 => Script::new().for_signal(Signal::Metrics, Act::status(503)),
        _ => Script::new(),
    }
}

#[actix::test]
async fn no_acknowledged_item_is_lost_however_often_and_whenever_it_is_killed() {
    let kills: usize = std::env::var("TFO_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(120);
    let seed = std::env::var("TFO_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| Dice::shaken().seed());
    println!("seed {seed} (TFO_SEED), {kills} kills (TFO_KILLS)");
    let mut dice = Dice::seeded(seed);
    let far_end = FarEnd::start(Script::new()).expect("a port");
    let place = Place::new(&far_end);
    // Many log records and few data points: what a metrics lane holds is the small rest of a segment.
    let loads = [load(place.port, Signal::Logs, 12_000, 1), load(place.port, Signal::Metrics, 600, 11)];
    let mut fell_in = [0_usize; Phase::ALL.len()];
    let mut outside = 0;
    let mut done = 0;
    // The rare phases are aimed at until each was hit; there is an end to that.
    while done < kills || (fell_in.contains(&0) && done < kills * 4) {
        far_end.play(weather(&mut dice));
        let mut agent = place.start(ORDERS[dice.within(0..4) as usize]);
        place.listens(&mut agent).await;
        let rarest = (0..Phase::ALL.len()).min_by_key(|i| fell_in[*i]).map(|i| Phase::ALL[i]);
        let aim = rarest.filter(|_| dice.chance(1, 2));
        agent.kill(&place.phases, aim, Duration::from_millis(dice.within(10..500))).await;
        let hit = phases_at_death(&place.phases);
        outside += usize::from(hit.is_empty());
        hit.into_iter().for_each(|p| fell_in[p as usize - 1] += 1);
        done += 1;
    }
    // The last life is not disturbed: everything comes home.
    far_end.play(Script::new());
    let mut agent = place.start(ORDERS[0]);
    place.listens(&mut agent).await;
    loads.iter().for_each(Running::stop);
    let home = until(PATIENCE, || report(&loads, &far_end).lost() == 0).await;
    let report = report(&loads, &far_end);
    println!("killed {done} times; fell in {}; in none {outside}", shown(&fell_in));
    println!(
        "acknowledged {}, lost {}, duplicated {}, never issued {}",
        report.acknowledged(),
        report.lost(),
        report.duplicated(),
        report.never_issued()
    );
    assert!(home, "seed {seed}: acknowledged and lost: {report:?}\n{}", place.last_words());
    assert_eq!(report.never_issued(), 0, "seed {seed}: nothing is invented");
    // Each kill cuts off the answers of the requests that are under way, one of each of a signal's clients.
    let bound = Bound { twice: done as u64 * u64::from(CLIENTS) * u64::from(ITEMS), late: 0 };
    let tally = || tally(&loads, &far_end);
    let agreed = books::agree(place.metrics, place.exporter, bound, PATIENCE, tally).await;
    let agreed =
        agreed.unwrap_or_else(|no| panic!("seed {seed}: the books and the far end: {no}\n{}", place.last_words()));
    println!("the books: {agreed:?}");
    assert!(
        agreed.values().all(|book| book.lost + book.held == 0),
        "seed {seed}: nothing is lost for the books: {agreed:?}"
    );
    assert!(report.acknowledged() > 100 * done as u64, "seed {seed}: there was load between the kills: {report:?}");
    assert!(!fell_in.contains(&0), "seed {seed}: some phase was never hit: {}", shown(&fell_in));
}

fn shown(fell_in: &[usize]) -> String {
    let each = Phase::ALL.iter().zip(fell_in).map(|(phase, n)| format!("{phase:?} {n}").to_lowercase());
    each.collect::<Vec<_>>().join(", ")
}

/// A client's request, until it is acknowledged.
async fn offered(http: &reqwest::Client, port: u16, numbered: &mut Numbered, far_end: &FarEnd) {
    let (signal, request) = (numbered.signal(), numbered.request(200));
    let url = format!("http://127.0.0.1:{port}/v1/{signal}");
    let sent = http.post(url).header("content-type", "application/x-protobuf").body(request.bytes).send().await;
    assert!(sent.as_ref().is_ok_and(|answer| answer.status().is_success()), "nothing is wrong with the disk: {sent:?}");
    far_end.with(|c| {
        c.tally().issued(signal, numbered.source(), request.seqs.clone());
        c.tally().acknowledged(signal, numbered.source(), request.seqs);
    });
}

/// Goal: a far end that goes by the ids of uploads (`docs/upload-id.md`) has every item once, however often the agent is killed
/// while it sends.
/// Method: the requests of a round are acknowledged before the kill, so that no client has to offer one twice. The far end takes
/// uploads and does not say so, and takes now larger, now smaller ones.
#[actix::test]
async fn a_far_end_that_goes_by_the_ids_has_every_item_once() {
    let kills: u64 = std::env::var("TFO_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(120) / 6;
    let seed = std::env::var("TFO_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| Dice::shaken().seed());
    println!("seed {seed} (TFO_SEED), {kills} kills (a sixth of TFO_KILLS)");
    let mut dice = Dice::seeded(seed);
    let far_end = FarEnd::start(Script::new()).expect("a port");
    far_end.with(Collector::go_by_ids);
    let place = Place::new(&far_end);
    install_client();
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut clients = [Numbered::new(Signal::Logs, Source(1)), Numbered::new(Signal::Metrics, Source(2))];
    for _ in 0..kills {
        let script = Script::new().times(u32::try_from(dice.within(0..4)).expect("few"), Act::TakeAndReset);
        far_end.play(match dice.within(0..3) {
            0 => script.max_items(150),
            1 => script.times(2, Act::status(503)).times(3, Act::TakeAndReset),
            _ => script,
        });
        let mut agent = place.start(ORDERS[dice.within(0..4) as usize]);
        place.listens(&mut agent).await;
        for _ in 0..dice.within(1..6) {
            for client in &mut clients {
                offered(&http, place.port, client, &far_end).await;
            }
        }
        agent.kill(&place.phases, None, Duration::from_millis(dice.within(0..200))).await;
    }
    far_end.play(Script::new());
    let mut agent = place.start(ORDERS[0]);
    place.listens(&mut agent).await;
    let home = until(PATIENCE, || far_end.report().lost() == 0).await;
    let agreed =
        books::agree(place.metrics, place.exporter, Bound::default(), PATIENCE, || far_end.with(|c| c.tally().clone()));
    let agreed = agreed.await.unwrap_or_else(|no| panic!("seed {seed}: {no}\n{}", place.last_words()));
    let (report, again) = (far_end.report(), far_end.with(|c| c.again()));
    println!("acknowledged {}, duplicated {}, {again:?}", report.acknowledged(), report.duplicated());
    println!("the books: {agreed:?}");
    assert!(home && report.arrived() == report.acknowledged(), "seed {seed}: {report}\n{}", place.last_words());
    assert_eq!((report.duplicated(), report.never_issued()), (0, 0), "seed {seed}: {again:?} {report}");
    assert!(again.known > 0, "seed {seed}: uploads came again, and were known: {again:?}");
}
