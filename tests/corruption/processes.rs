//! The real binary on damaged directories: it comes up, listens soon, takes new data and sends it, and ends in order. No damage
//! ends it: fjall's opening can, which is why it gets only what is whole.

use crate::strike::strike;
use crate::world::{copy, scratch};
use crate::{ONE_AT_A_TIME, START_MAX, env};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tfo_otel_agent::base::Dice;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{install_client, until};
use tfo_otel_agent::testing::{FarEnd, Mark, Numbered, Source};

const PATIENCE: Duration = Duration::from_secs(60);

struct Agent {
    child: Child,
    log: PathBuf,
    port: u16,
    /// From the start to the first connection.
    listened: Duration,
}

impl Agent {
    async fn start(place: &Path, endpoint: &str) -> Agent {
        let port = free_port().expect("a port");
        let (config, log) = (place.join("agent.yaml"), place.join("agent.log"));
        let text = child::plain_config(port, endpoint, &place.join("queue"));
        std::fs::write(&config, text).expect("space");
        let mut command = child::agent(Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent")), &config, &log).expect("space");
        command.env("TFO_TEST_SEGMENT_KIB", "32");
        let began = Instant::now();
        let mut child = Child::spawn(&mut command).expect("the binary cargo built for this test");
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let ended = child.try_wait().expect("our child");
            assert!(ended.is_none() && began.elapsed() < PATIENCE, "it always starts: {ended:?}\n{}", said(&log));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Agent { child, log, port, listened: began.elapsed() }
    }

    /// Acknowledged.
    async fn takes(&self, client: &reqwest::Client, maker: &mut Numbered, items: u32) -> std::ops::Range<u64> {
        let request = maker.request(items);
        let url = format!("http://127.0.0.1:{}/v1/{}", self.port, maker.signal());
        let sent = client.post(url).header("content-type", "application/x-protobuf").body(request.bytes).send().await;
        assert_eq!(sent.expect("it listens").status(), 200, "{}", said(&self.log));
        request.seqs
    }
}

fn said(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

/// Goal: as the module says. `TFO_CORRUPT_STARTS` cases; 24 without.
#[actix::test]
#[allow(clippy::await_holding_lock)] // nobody else runs on this thread
async fn the_agent_starts_on_a_damaged_directory_and_sends_what_is_new() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let starts = env("TFO_CORRUPT_STARTS").unwrap_or(24);
    let seed = env("TFO_CORRUPT_SEED").unwrap_or_else(|| Dice::shaken().seed() >> 16);
    println!("seed {seed} (TFO_CORRUPT_SEED), {starts} starts (TFO_CORRUPT_STARTS)");
    install_client();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let far_end = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
    let base = scratch();
    let mut makers = [Signal::Logs, Signal::Traces].map(|signal| Numbered::new(signal, Source(1)));
    {
        let agent = Agent::start(base.path(), &far_end.endpoint()).await;
        for n in 0..60 {
            let maker = &mut makers[n % 2];
            let seqs = agent.takes(&client, maker, 40).await;
            far_end.with(|c| c.tally().issued(maker.signal(), Source(1), seqs));
        }
        let is_sealed =
            |entry: std::fs::DirEntry| std::fs::metadata(entry.path().join("0.jnl")).is_ok_and(|m| m.len() == 0);
        let sealed = || std::fs::read_dir(base.path().join("queue")).expect("there").flatten().any(is_sealed);
        assert!(until(PATIENCE, sealed).await, "a backlog is sealed\n{}", said(&agent.log));
        for maker in &mut makers {
            let seqs = agent.takes(&client, maker, 40).await;
            far_end.with(|c| c.tally().issued(maker.signal(), Source(1), seqs));
        }
        agent.child.kill().expect("our child");
    }
    far_end.play(Script::new());
    let mut maker = Numbered::new(Signal::Logs, Source(2));
    let mut slowest = Duration::ZERO;
    for case in 0..starts {
        let mut dice = Dice::seeded(seed ^ case.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let place = scratch();
        copy(&base.path().join("queue"), &place.path().join("queue"));
        let hits = strike(&place.path().join("queue"), &mut dice);
        let mut agent = Agent::start(place.path(), &far_end.endpoint()).await;
        slowest = slowest.max(agent.listened);
        let tell = |agent: &Agent| format!("seed {seed}, case {case}: {hits:?}\n{}", said(&agent.log));
        assert!(agent.listened < START_MAX, "it listens soon, not after {:?}: {}", agent.listened, tell(&agent));
        let seqs = agent.takes(&client, &mut maker, 20).await;
        far_end.with(|c| c.tally().issued(Signal::Logs, Source(2), seqs.clone()));
        let has = |seq| far_end.with(|c| c.tally().has(Signal::Logs, Mark { source: Source(2), seq }));
        let came = until(PATIENCE, || seqs.clone().all(has)).await;
        assert!(came, "what is new is sent: {}", tell(&agent));
        let ended = agent.child.try_wait().expect("our child");
        assert!(ended.is_none(), "{ended:?}: {}", tell(&agent));
        let words = said(&agent.log);
        assert!(!words.contains("panicked"), "nobody panics: {}", tell(&agent));
        let Agent { child, log, .. } = agent;
        let status = child.stop(PATIENCE).await.expect("our child").expect("it hears");
        assert_eq!(status.code(), Some(0), "seed {seed}, case {case}: {hits:?}\n{}", said(&log));
    }
    let report = far_end.report();
    println!(
        "slowest start {slowest:?}; {} items came, {} of them never issued",
        report.arrived(),
        report.never_issued()
    );
    assert_eq!(report.never_issued(), 0, "seed {seed}: nothing is invented");
}
