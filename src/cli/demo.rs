//! `demo`: the promise, shown. An agent of its own as a child process, real OTLP load, a far end that goes away, a
//! SIGKILL in the middle, and at the end the far end's own count, not the agent's.
//!
//! ```text
//!  0 %        20 %                    45 %            60 %        75 %
//!  link up ───┤ link gone ────────────┤ SIGKILL, start ┤ link back ┤ load ends, backlog drains ─▶ count
//! ```

use crate::otlp::Signal;
use crate::supervise::Exit;
use crate::testing::books::{self, Bound};
use crate::testing::child::{self, Child, free_port};
use crate::testing::far_end::{Act, FarEnd, Script};
use crate::testing::load::{Load, Running};
use crate::testing::tally::{Report, Tally};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// What to show.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// How long the load lasts; the drain comes on top.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=3_600))]
    seconds: u64,
    /// Items a second: log records, spans and data points together.
    #[arg(long, default_value_t = 6_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    rate: u64,
    /// The result as one JSON object instead of sentences.
    #[arg(long)]
    json: bool,
}

/// How long the drain may take after the load.
const DRAIN: Duration = Duration::from_secs(60);
/// How long an agent may take to listen.
const START: Duration = Duration::from_secs(10);
/// How long the agent may take to say what it lost, for the bar.
const LOOK: Duration = Duration::from_millis(100);
/// How long the agent's books may be a moment behind the far end's count.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Items of a request.
const ITEMS: u32 = 100;
/// How long an agent may take to stop.
const STOP: Duration = Duration::from_secs(20);

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the agent did not answer within {START:?}; its log is at {0}")]
    NoAnswer(PathBuf),
    #[error("the agent ended by itself ({0}); its log is at {1}")]
    Ended(std::process::ExitStatus, PathBuf),
}

/// What was counted in the end.
#[derive(Debug)]
struct Outcome {
    /// Items acknowledged to the load by the agent.
    accepted: u64,
    /// Of these, items the far end has.
    delivered: u64,
    lost: u64,
    duplicates: u64,
    /// Items that came and were never sent.
    invented: u64,
    /// Items acknowledged and not delivered when the agent was killed.
    unsent_at_kill: u64,
    killed: bool,
    /// The agent's own books say the same as the far end's count.
    books_agree: bool,
    /// Agents in the platform's table that are online: this one, under one id in both its lives.
    online: usize,
}

impl Outcome {
    fn is_proof(&self) -> bool {
        self.lost == 0
            && self.invented == 0
            && self.delivered == self.accepted
            && self.accepted > 0
            && self.killed
            && self.unsent_at_kill > 0
            && self.books_agree
            && self.online == 1
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { accepted, delivered, lost, duplicates, .. } = self;
        write!(f, "accepted {accepted}, delivered {delivered}, lost {lost}, duplicates {duplicates}")
    }
}

/// Shows it.
pub(super) fn main(options: &Options) -> Exit {
    // The far end has a thread and a runtime of its own: it is somebody else.
    let shown = FarEnd::on_own_thread(Script::new())
        .map_err(Broken::from)
        .and_then(|far_end| actix::System::new().block_on(show(options, &far_end)));
    match shown {
        Ok(outcome) => {
            if options.json {
                let Outcome { accepted, delivered, lost, duplicates, invented, .. } = outcome;
                let Outcome { unsent_at_kill, killed, books_agree, online, .. } = outcome;
                println!(
                    "{}",
                    serde_json::json!({
                        "accepted": accepted, "delivered": delivered, "lost": lost, "duplicates": duplicates,
                        "invented": invented, "unsent_at_kill": unsent_at_kill, "killed": killed,
                        "books_agree": books_agree, "agents_online": online, "proved": outcome.is_proof(),
                    })
                );
            } else {
                println!("{outcome}");
            }
            if outcome.is_proof() { Exit::Clean } else { Exit::Config }
        }
        Err(broken) => {
            eprintln!("demo: {broken}");
            Exit::Config
        }
    }
}

async fn show(options: &Options, far_end: &FarEnd) -> Result<Outcome, Broken> {
    let dir = Scratch::new()?;
    let ports = [free_port()?, free_port()?];
    let config = configure(&dir.0, &far_end.endpoint(), ports)?;
    let mut agent = Agent::start(&dir.0, &config, ports[0]).await?;
    let stage = Stage::new(options, ports[1]);
    stage.say("agent started with an empty spool; link up, load begins");
    let load = Load {
        endpoint: format!("http://127.0.0.1:{}", ports[0]),
        signals: Signal::ALL.into(),
        rate: options.rate,
        request_items: ITEMS,
        clients: 1,
        first_source: 1,
    }
    .start();
    let length = Duration::from_secs(options.seconds);
    let begin = Instant::now();
    let at = |percent: u32| begin + length * percent / 100;
    let (mut unsent_at_kill, mut killed) = (0, false);

    stage.watch_until(at(20), &load, far_end).await;
    far_end.play(Script::new().always(Act::Refuse));
    stage.say("link gone: the far end refuses every connection");
    stage.watch_until(at(45), &load, far_end).await;

    let unsent = |load: &Running| load.acknowledged().saturating_sub(delivered(load, far_end).1.arrived());
    if unsent(&load) > 0 {
        unsent_at_kill = unsent(&load);
        agent.child.kill()?;
        killed = true;
        stage.say(&format!("SIGKILL, with {unsent_at_kill} acknowledged items not delivered yet"));
        sleep(Duration::from_millis(500)).await;
        agent = Agent::start(&dir.0, &config, ports[0]).await?;
        stage.say("agent started again on the same spool");
    }
    stage.watch_until(at(60), &load, far_end).await;
    far_end.play(Script::new());
    stage.say("link back");
    stage.watch_until(at(75), &load, far_end).await;
    load.stop();
    stage.say("load ends; the backlog drains");
    let end = Instant::now() + DRAIN;
    while delivered(&load, far_end).1.lost() > 0 && Instant::now() < end {
        if let Some(status) = agent.child.try_wait()? {
            return Err(Broken::Ended(status, agent.log.clone()));
        }
        stage.watch_until(Instant::now() + Duration::from_millis(250), &load, far_end).await;
    }
    // What was acknowledged last, and what may still come twice.
    sleep(Duration::from_millis(500)).await;
    let (accepted, report) = delivered(&load, far_end);
    stage.end();
    // The kill cut off the answer of one request of each signal: it was offered again.
    let bound = Bound { twice: if killed { ITEMS.into() } else { 0 }, late: 0 };
    let agreed = books::agree(ports[1], "otlphttp", bound, LOOK_AGAIN, || both(&load, far_end)).await;
    if let Err(no) = &agreed {
        eprintln!("demo: the agent's books and the far end's count: {no}");
    }
    let now = Instant::now();
    let (online, table) = far_end.with(|collector| {
        let platform = collector.platform();
        (platform.agents().values().filter(|row| row.is_online(now)).count(), platform.table(now))
    });
    stage.say(&format!("what the platform knows of its agents:\n{table}"));
    agent.child.stop(STOP).await?;
    let outcome = Outcome {
        accepted,
        delivered: accepted - report.lost(),
        lost: report.lost(),
        duplicates: report.duplicated(),
        invented: report.never_issued(),
        unsent_at_kill,
        killed,
        books_agree: agreed.is_ok(),
        online,
    };
    if outcome.is_proof() {
        dir.discard();
    } else {
        eprintln!("demo: not proved; spool, configuration and log stay at {}", dir.0.display());
    }
    Ok(outcome)
}

/// The books of load and far end together.
fn both(load: &Running, far_end: &FarEnd) -> Tally {
    let mut tally = load.tally();
    far_end.with(|collector| tally.merge(collector.tally()));
    tally
}

/// What was acknowledged, and what became of it.
fn delivered(load: &Running, far_end: &FarEnd) -> (u64, Report) {
    let report = both(load, far_end).report();
    (report.acknowledged(), report)
}

/// What a person sees: on a terminal a bar that moves, in a pipe nothing but the last line.
struct Stage {
    bar: ProgressBar,
    begun: Instant,
    /// Where the agent says what it lost. Only shown: what counts in the end is what the far end has.
    metrics: u16,
}

impl Stage {
    fn new(options: &Options, metrics: u16) -> Stage {
        let quiet = options.json || !io::stderr().is_terminal();
        let bar = if quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(5))
        };
        let style = ProgressStyle::with_template("{prefix:>6} backlog [{bar:30}] {msg}").expect("a template of ours");
        bar.set_style(style.progress_chars("=> "));
        Stage { bar, begun: Instant::now(), metrics }
    }

    fn say(&self, what: &str) {
        self.bar.println(format!("{:>5.1}s  {what}", self.begun.elapsed().as_secs_f64()));
    }

    async fn watch_until(&self, end: Instant, load: &Running, far_end: &FarEnd) {
        let (mut last, mut lost) = ((Instant::now(), load.acknowledged()), "-".to_owned());
        while Instant::now() < end {
            sleep((end - Instant::now()).min(Duration::from_millis(200))).await;
            let (accepted, report) = delivered(load, far_end);
            let there = accepted - report.lost();
            let now = (Instant::now(), accepted);
            let rate = (now.1 - last.1) as f64 / (now.0 - last.0).as_secs_f64().max(0.001);
            last = now;
            if let Ok(Ok(items)) = timeout(LOOK, child::metric(self.metrics, "tfo_agent_items_lost")).await {
                lost = items.to_string();
            }
            self.bar.set_prefix(format!("{:.1}s", self.begun.elapsed().as_secs_f64()));
            self.bar.set_length(accepted.max(1));
            self.bar.set_position(accepted - there);
            self.bar.set_message(format!(
                "accepted {accepted} ({rate:.0}/s)   spooled {}   delivered {there}   lost {lost}   refused requests {}",
                accepted - there,
                load.refused()
            ));
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// The agent as a child process.
struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    async fn start(dir: &Path, config: &Path, port: u16) -> Result<Agent, Broken> {
        let log = dir.join("agent.log");
        let child = Child::spawn(&mut child::agent(&std::env::current_exe()?, config, &log)?)?;
        let mut agent = Agent { child, log };
        let end = Instant::now() + START;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = agent.child.try_wait()? {
                return Err(Broken::Ended(status, agent.log.clone()));
            }
            if Instant::now() > end {
                return Err(Broken::NoAnswer(agent.log.clone()));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(agent)
    }
}

fn configure(dir: &Path, endpoint: &str, [http, metrics]: [u16; 2]) -> io::Result<PathBuf> {
    let spool = dir.join("queue");
    let text = format!(
        "receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:{http}
processors:
  batch:
    timeout: 200ms
    send_batch_size: 512
    send_batch_max_size: 1024
exporters:
  otlphttp:
    endpoint: {endpoint}
    headers:
      X-Workspace-Id: 550e8400-e29b-41d4-a716-446655440000
      X-Tenant-Id: 660e8400-e29b-41d4-a716-446655440001
    compression: gzip
    retry_on_failure:
      initial_interval: 250ms
      max_interval: 1s
    sending_queue:
      storage: file_storage
extensions:
  file_storage:
    directory: {}
service:
  extensions: [file_storage]
  telemetry:
    metrics:
      address: 127.0.0.1:{metrics}
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
    metrics: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
    logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
",
        spool.display()
    );
    let path = dir.join("demo.yaml");
    std::fs::write(&path, text)?;
    Ok(path)
}

/// A directory that stays when there is something to be seen in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Scratch> {
        let dir = std::env::temp_dir().join(format!("tfo-otel-agent-demo-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Scratch(dir))
    }

    fn discard(&self) {
        // Left behind at worst; the system's temporary directory is cleaned by others.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn only_a_whole_count_after_a_kill_with_unsent_data_is_a_proof() {
        let whole = || Outcome { accepted: 9, delivered: 9, lost: 0, duplicates: 2, invented: 0, unsent_at_kill: 3, killed: true, books_agree: true, online: 1 };
        assert!(whole().is_proof());
        assert_eq!(whole().to_string(), "accepted 9, delivered 9, lost 0, duplicates 2");
        for no in [
            Outcome { lost: 1, delivered: 8, ..whole() },
            Outcome { delivered: 8, ..whole() },
            Outcome { invented: 1, ..whole() },
            Outcome { accepted: 0, delivered: 0, ..whole() },
            Outcome { killed: false, ..whole() },
            Outcome { unsent_at_kill: 0, ..whole() },
            Outcome { books_agree: false, ..whole() },
            Outcome { online: 0, ..whole() },
            Outcome { online: 2, ..whole() }, // under another id after the kill
        ] {
            assert!(!no.is_proof(), "{no:?}");
        }
    }
}
