//! The real binary behind bad links, each in network namespaces of its own: loss, delay, 9.6 kbit/s, an MTU black hole. What was
//! acknowledged arrives, and the books agree with the far end's count.
//!
//! `TFO_CASE` takes those whose name has it. `tests/netem/run` is the bounded form with its table, `tests/netem/run --long` the long one (`TFO_NETEM=long`). Where no network
//! namespace can be made it says SKIPPED and proves nothing.

#![allow(clippy::print_stdout)] // it is a table

mod link;

use link::{Link, Weather};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};
use tfo_otel_agent::base::Dice;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::books::{self, Bound};
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::load::{Load, Running};
use tfo_otel_agent::testing::numbered::{Mark, Source};
use tfo_otel_agent::testing::{FarEnd, Tally};
use tokio::time::sleep;

/// Tells the test that it runs inside a namespace of its own.
const INSIDE: &str = "TFO_TEST_NETNS";
const TEST: &str = "what_was_acknowledged_arrives_over_every_link";
/// Records of a request.
const ITEMS: u32 = 20;

/// A link, and what is sent over it.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    weather: Weather,
    /// `timeout` of the exporter.
    timeout: Duration,
    /// Log records a second, for so long, before, during and after the outage.
    rate: u64,
    part: Duration,
    /// How long nothing comes through at all.
    outage: Duration,
}

fn cases(long: bool) -> Vec<Case> {
    let fine = Weather::FINE;
    let s = Duration::from_secs;
    let case = |name, weather, timeout, rate| Case { name, weather, timeout, rate, part: s(3), outage: s(4) };
    let mut cases = vec![
        case("fine (20 ms)", fine, s(30), 400),
        case("10 % lost", Weather { loss: 10, ..fine }, s(30), 400),
        case("30 % lost", Weather { loss: 30, ..fine }, s(30), 200),
        case("2 s each way", Weather { delay: s(2), ..fine }, s(20), 100),
        // gRPC's default timeout, nearly: enough for 5 KB.
        case(
            "9.6 kbit/s",
            Weather { bits: 9_600, delay: Duration::from_millis(200), ..fine },
            Duration::from_millis(4_500),
            12,
        ),
        case("MTU black hole", Weather { swallows_above: 1_280, ..fine }, Duration::from_millis(4_500), 40),
    ];
    if long {
        for case in &mut cases {
            (case.part, case.outage) = (s(60), s(120));
            case.timeout = case.timeout.max(s(10));
        }
        let extra = cases[4];
        let bad = Weather { loss: 10, delay: s(1), bits: 64_000, ..fine };
        // TCP makes some 2 KB/s of that (a segment in 2 s and more, by the root of the loss).
        cases.push(Case { name: "64 kbit/s, 1 s, 10 % lost", weather: bad, rate: 20, ..extra });
    }
    cases
}

/// What came of a case.
#[derive(Debug)]
struct Row {
    name: &'static str,
    records: u64,
    /// From the first request to the last arrival.
    took: Duration,
    fresh: Duration,
    duplicates: u64,
    requests: u64,
    wire_bytes: u64,
    packets: (u64, u64),
    /// Bytes of packets, carried and counted by the agent (`tfo_agent_link_bytes`). Carried 0: the kernel's link counts none.
    link_bytes: (u64, u64),
}

#[test]
fn what_was_acknowledged_arrives_over_every_link() {
    if std::env::var_os(INSIDE).is_none() {
        return inside();
    }
    let long = std::env::var("TFO_NETEM").is_ok_and(|form| form == "long");
    let seed =
        std::env::var("TFO_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| Dice::shaken().seed() >> 8);
    let kernel = match std::env::var("TFO_LINK").as_deref() {
        Ok("kernel") => true,
        Ok("ours") => false,
        _ => link::kernel_has_netem(),
    };
    let whose = if kernel { "the kernel's (tc netem)" } else { "ours over TUN: this kernel has no netem" };
    println!("seed {seed} (TFO_SEED); the link is {whose}");
    // At once: they wait more than they work.
    let one = |(n, case): (usize, Case)| thread::spawn(move || measured(case, kernel, seed + 10 * n as u64));
    let only = std::env::var("TFO_CASE").unwrap_or_default();
    let wanted = cases(long).into_iter().filter(|case| case.name.contains(&only));
    let running: Vec<_> = wanted.enumerate().map(one).collect();
    println!(
        "| link | records | took, s | records/s | first fresh record after the outage, s | sent twice | requests | body bytes | packets carried, lost | bytes carried, counted |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut wrong = Vec::new();
    for case in running {
        match case.join().expect("a case says what is wrong in words") {
            Ok(row) => println!(
                "| {} | {} | {:.1} | {:.0} | {:.1} | {} | {} | {} | {}, {} | {}, {} |",
                row.name,
                row.records,
                row.took.as_secs_f64(),
                row.records as f64 / row.took.as_secs_f64(),
                row.fresh.as_secs_f64(),
                row.duplicates,
                row.requests,
                row.wire_bytes,
                row.packets.0,
                row.packets.1,
                row.link_bytes.0,
                row.link_bytes.1,
            ),
            Err(why) => wrong.push(why),
        }
    }
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
}

/// Runs this test again in a network namespace; the threads of that process make more of them.
fn inside() {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let probe = "ip link set lo up && test -w /dev/net/tun && test -r /dev/net/tun || exit 77; exec \"$@\"";
    let binary = std::env::current_exe().expect("this binary");
    command
        .args(["--net", "sh", "-c", probe, "sh"])
        .arg(binary)
        .args(["--exact", TEST, "--nocapture"])
        .env(INSIDE, "1");
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) if matches!(status.code(), Some(1 | 77)) => {
            println!("SKIPPED: no network namespace with a link in it can be made here ({status})");
        }
        Ok(status) => panic!("inside the namespace: {status}"),
        Err(error) => println!("SKIPPED: unshare: {error}"),
    }
}

fn measured(case: Case, kernel: bool, seed: u64) -> Result<Row, String> {
    let wrong = |why: String| format!("{}: {why}", case.name);
    let (link, far_end) = link::lay(kernel, seed).map_err(|e| wrong(e.to_string()))?;
    let dir = tempfile::tempdir().map_err(|e| wrong(e.to_string()))?;
    let run = async { Rig::start(&case, dir.path(), &far_end).await?.measure(&case, &link, &far_end).await };
    let row = actix_rt::System::new().block_on(run).map_err(wrong);
    row.inspect_err(|_| println!("what {} said is in {}", case.name, dir.keep().display()))
}

struct Rig {
    _agent: Child,
    port: u16,
    metrics: u16,
    log: PathBuf,
}

impl Rig {
    async fn start(case: &Case, dir: &Path, far_end: &FarEnd) -> Result<Rig, String> {
        let (port, metrics) = (free_port().map_err(|e| e.to_string())?, free_port().map_err(|e| e.to_string())?);
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: 200ms, send_batch_size: 2000}}}}
exporters:
  otlphttp:
    endpoint: '{}'
    timeout: {}ms
    retry_on_failure: {{initial_interval: 300ms, max_interval: 2s}}
    sending_queue: {{storage: file_storage}}
extensions: {{file_storage: {{directory: '{}'}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
            far_end.endpoint(),
            case.timeout.as_millis(),
            dir.join("spool").display(),
        );
        let (config, log) = (dir.join("agent.yaml"), dir.join("agent.log"));
        std::fs::write(&config, text).map_err(|e| e.to_string())?;
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        let mut command = child::agent(binary, &config, &log).map_err(|e| e.to_string())?;
        command.env("TFO_LAST_GOOD", dir.join("last-good"));
        let agent = Child::spawn(&mut command).map_err(|e| e.to_string())?;
        let rig = Rig { _agent: agent, port, metrics, log };
        let end = Instant::now() + Duration::from_secs(60);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if Instant::now() > end {
                return Err(format!("it does not listen: {}", std::fs::read_to_string(&rig.log).unwrap_or_default()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(rig)
    }

    async fn measure(&self, case: &Case, link: &Link, far_end: &FarEnd) -> Result<Row, String> {
        let be = |weather| link.be(weather).map_err(|e| e.to_string());
        be(case.weather)?;
        let began = Instant::now();
        let load = Load {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            signals: vec![Signal::Logs],
            rate: case.rate,
            request_items: ITEMS,
            clients: 1,
            first_source: 1,
        };
        let load = load.start();
        sleep(case.part).await;
        be(Weather::NONE)?;
        sleep(case.outage).await;
        be(case.weather)?;
        // What is issued from now on is fresh.
        let (back, next) = (Instant::now(), issued(&load));
        let patience = 30 * case.timeout + 10 * case.part + 2 * case.outage;
        let fresh = |far_end: &FarEnd, next| {
            let mark = |seq| Mark { source: Source(1), seq };
            far_end.with(|c| (next..next + 20_000).step_by(1).any(|seq| c.tally().has(Signal::Logs, mark(seq))))
        };
        let mut stopped = None;
        while !fresh(far_end, next) {
            if back.elapsed() > patience {
                return Err(format!("nothing fresh after {patience:?}\n{}", self.said(far_end, &load)));
            }
            if back.elapsed() > case.part && stopped.is_none() {
                load.stop();
                stopped = Some(());
            }
            sleep(Duration::from_millis(20)).await;
        }
        let fresh = back.elapsed();
        sleep(case.part.saturating_sub(fresh)).await;
        load.stop();
        let whole = || {
            let report = tally(&load, far_end).report();
            load.is_over() && report.lost() == 0 && report.arrived() >= load.acknowledged()
        };
        while !whole() {
            if back.elapsed() > 2 * patience {
                return Err(format!("not all arrived after {:?}\n{}", 2 * patience, self.said(far_end, &load)));
            }
            sleep(Duration::from_millis(20)).await;
        }
        let took = began.elapsed();
        let agreed = books::agree(self.metrics, "otlphttp", Bound::default(), patience, || tally(&load, far_end)).await;
        let agreed = agreed.map_err(|no| format!("the books: {no}\n{}", self.said(far_end, &load)))?;
        if agreed.values().any(|book| book.lost + book.held > 0) {
            return Err(format!("something is lost or held: {agreed:?}\n{}", self.said(far_end, &load)));
        }
        let (report, counts) = (tally(&load, far_end).report(), far_end.with(|c| c.counts()));
        let counted = child::metric(self.metrics, "tfo_agent_link_bytes").await.map_err(|e| e.to_string())?;
        let link_bytes = (link.counts.bytes.load(Relaxed), counted as u64);
        // What is lost and sent again is not seen, and a link that is away ends connections in ways of its own.
        let ratio = link_bytes.1 as f64 / link_bytes.0.max(1) as f64;
        if case.weather == Weather::FINE && link_bytes.0 > 0 && !(0.9..=1.1).contains(&ratio) {
            return Err(format!("{} bytes were carried and {counted} counted", link_bytes.0));
        }
        Ok(Row {
            name: case.name,
            records: load.acknowledged(),
            took,
            fresh,
            duplicates: report.duplicated(),
            requests: counts.requests,
            wire_bytes: counts.wire_bytes,
            packets: (link.counts.carried.load(Relaxed), link.counts.lost.load(Relaxed)),
            link_bytes,
        })
    }

    fn said(&self, far_end: &FarEnd, load: &Running) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("{}\n{:?}\n{last}", tally(load, far_end).report(), far_end.with(|c| c.counts()))
    }
}

fn tally(load: &Running, far_end: &FarEnd) -> Tally {
    far_end.with(|collector| {
        let mut all = collector.tally().clone();
        all.merge(&load.tally());
        all
    })
}

fn issued(load: &Running) -> u64 {
    load.tally().report().streams.iter().map(|stream| stream.issued).sum()
}
