//! `soak small`: a day of a small gateway, made shorter. The agent runs by a configuration of `configs/` in a cgroup of its own, with little
//! memory and little CPU; as many records, outages, heartbeats and scrapes as a day has pass in less time, so what it has to do in a
//! second is more than it ever has to.
//!
//! ```text
//! a quarter of the day:  ──────── away ──────────── a w a y ──────── all at once ────
//!                                 1/72           1/6, killed or        1/360
//!                                                restarted in it
//! ```

use crate::agent::{Agent, Figures, Rig, Seen};
use crate::cgroup::{Cgroup, Counted};
use crate::profile::{Ports, Profile};
use crate::runs::until;
use crate::shim::{Shim, Trouble};
use clap::Args;
use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tfo_otel_agent::testing::child::{self, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{Load, Running};
use tfo_otel_agent::testing::{FarEnd, Tally};

/// A day, and what to give for it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Small {
    /// Of `configs/`.
    #[arg(long, value_enum, default_value = "low-resource")]
    profile: Profile,
    /// Records a second that the gateway has, all signals together.
    #[arg(long, default_value_t = 20)]
    rate: u64,
    /// Records of one request.
    #[arg(long, default_value_t = 10)]
    request: u32,
    /// Hours of the gateway's time.
    #[arg(long, default_value_t = 24.0)]
    hours: f64,
    /// How many times faster they pass.
    #[arg(long, default_value_t = 96.0)]
    faster: f64,
    /// Limit of memory, the page cache included, MiB.
    #[arg(long, default_value_t = 64)]
    memory_mib: u64,
    /// Limit of CPU, cores.
    #[arg(long, default_value_t = 0.2)]
    cores: f64,
}

/// Between two looks at the agent.
const LOOK: Duration = Duration::from_millis(200);
/// How long the end of a day may take to go out.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two heartbeats, scrapes and looks at its health, in the gateway's time.
const HEARTBEAT_S: f64 = 60.0;
const SCRAPE_S: f64 = 15.0;
const HEALTH_S: f64 = 10.0;
/// When all send at once: clients of each signal, and records of a request.
const CROWD: (u32, u32) = (8, 500);
/// The least that all send at once: shorter it would not be felt.
const CROWD_LEAST: Duration = Duration::from_secs(2);

/// What happens, and at which part of a quarter.
#[derive(Debug, Clone, Copy)]
enum Event {
    Away,
    Back,
    /// Killed in the first and third quarter, asked to stop in the others; then started again.
    Again,
    AllAtOnce,
    Over,
}

const QUARTER: [(f64, Event); 7] = [
    (0.25, Event::Away),
    (0.25 + 1.0 / 72.0, Event::Back),
    (0.45, Event::Away),
    (0.53, Event::Again),
    (0.45 + 1.0 / 6.0, Event::Back),
    (0.8, Event::AllAtOnce),
    (1.0, Event::Over),
];

/// What all lives of the agent took.
#[derive(Debug, Default)]
struct Lives {
    starts: u32,
    before: Seen,
    last: Seen,
    peak_mib: f64,
    own_mib: f64,
}

impl Lives {
    fn see(&mut self, seen: Seen) {
        self.last = seen;
        self.peak_mib = self.peak_mib.max(seen.peak_mib);
        self.own_mib = self.own_mib.max(seen.own_mib);
    }

    /// This life is over.
    fn end(&mut self) {
        self.before = self.all();
        self.last = Seen::default();
    }

    fn all(&self) -> Seen {
        let (a, b) = (self.before, self.last);
        Seen {
            cpu_s: a.cpu_s + b.cpu_s,
            written: a.written + b.written,
            to_device: a.to_device + b.to_device,
            ..Seen::default()
        }
    }
}

struct Day<'a> {
    rig: &'a Rig,
    group: &'a Cgroup,
    agent: Option<Agent>,
    lives: Lives,
}

impl Day<'_> {
    async fn start(&mut self) -> io::Result<()> {
        let mut agent = self.rig.start()?;
        self.rig.listens(&mut agent).await?;
        self.lives.starts += 1;
        self.agent = Some(agent);
        Ok(())
    }

    fn look(&mut self) -> io::Result<()> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        if let Some(status) = agent.ended()? {
            let kills = self.group.counted()?.oom_kills;
            let log = fs::read_to_string(self.rig.dir().join("agent.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(10)..].join("\n");
            return Err(io::Error::other(format!("the agent ended ({status}), {kills} killed for memory:\n{last}")));
        }
        self.lives.see(agent.see()?);
        Ok(())
    }

    /// Lets it die, or asks it to stop; and starts it again.
    async fn again(&mut self, kill: bool) -> io::Result<()> {
        self.look()?;
        let Some(agent) = self.agent.take() else { return Ok(()) };
        if kill {
            agent.kill()?;
        } else {
            agent.end().await?;
        }
        self.lives.end();
        self.start().await
    }

    async fn pass(&mut self, end: Instant) -> io::Result<()> {
        loop {
            self.look()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    /// Until this is so.
    async fn wait(&mut self, what: &str, mut holds: impl AsyncFnMut() -> bool) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !holds().await {
            if Instant::now() > end {
                return Err(io::Error::other(format!("{what} did not happen within {PATIENCE:?}")));
            }
            self.pass(Instant::now() + LOOK).await?;
        }
        Ok(())
    }
}

/// Asks for something again and again, until dropped; how often it was answered.
struct Asking(Rc<Cell<u64>>);

impl Asking {
    fn every(pause: Duration, port: u16, path: &'static str) -> Asking {
        let answered = Rc::new(Cell::new(0));
        let ours = Rc::downgrade(&answered);
        tokio::task::spawn_local(async move {
            let mut pace = tokio::time::interval(pause);
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                let said = child::get(port, path).await;
                let Some(answered) = ours.upgrade() else { return };
                answered.set(answered.get() + u64::from(said.is_ok_and(|text| text.starts_with("HTTP/1.1 "))));
            }
        });
        Asking(answered)
    }

    fn answered(&self) -> f64 {
        self.0.get() as f64
    }
}

/// Somebody else: on a thread and runtime of its own, which is made where no other one runs.
fn far_end(script: Script) -> io::Result<FarEnd> {
    let made = std::thread::spawn(|| FarEnd::on_own_thread(script)).join();
    made.map_err(|_| io::Error::other("the far end does not start"))?
}

/// A program that runs the agent in the cgroup.
fn launcher(rig: &mut Rig, group: &Cgroup) -> io::Result<()> {
    let groups: Vec<String> = group.groups().map(|g| format!("'{}'", g.join("cgroup.procs").display())).collect();
    let binary = fs::canonicalize(rig.binary())?;
    let text = format!(
        "#!/bin/sh\nfor procs in {}; do echo $$ >\"$procs\" || exit 96; done\nexec '{}' \"$@\"\n",
        groups.join(" "),
        binary.display()
    );
    let path = rig.dir().join("in-cgroup");
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    rig.run_by(&path);
    Ok(())
}

/// A day. An error of the kind `Unsupported` is a reason why it cannot be had here.
pub(crate) async fn small(rig: &mut Rig, small: &Small) -> io::Result<Figures> {
    let group = Cgroup::make(small.memory_mib << 20, small.cores)
        .map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why.to_string()))?;
    launcher(rig, &group)?;
    let far_end = far_end(Script::new())?;
    let ports = Ports { grpc: free_port()?, health: free_port()? };
    let real = |seconds: f64| Duration::from_secs_f64(seconds / small.faster);
    small.profile.configure(rig, ports, &far_end.endpoint(), real(HEARTBEAT_S))?;
    let mut day = Day { rig, group: &group, agent: None, lives: Lives::default() };
    day.start().await?;
    let asking =
        (Asking::every(real(SCRAPE_S), rig.metrics, "/metrics"), Asking::every(real(HEALTH_S), ports.health, "/"));
    let rate = (small.rate as f64 * small.faster) as u64;
    let load = load(rig, small.profile, rate, small.request, 1);
    let (began, mut crowd) = (Instant::now(), Vec::new());
    let quarter_s = small.hours * 900.0;
    for quarter in 0..4 {
        let at = |part: f64| began + real(quarter_s * (f64::from(quarter) + part));
        for (part, event) in QUARTER {
            day.pass(at(part)).await?;
            match event {
                Event::Away => far_end.play(Script::new().always(Act::Refuse)),
                Event::Back => far_end.play(Script::new()),
                Event::Again => day.again(quarter % 2 == 0).await?,
                Event::AllAtOnce => {
                    let all = all_at_once(rig, small.profile, crowd.len());
                    day.pass(Instant::now() + real(quarter_s / 360.0).max(CROWD_LEAST)).await?;
                    all.stop();
                    crowd.push(all);
                }
                Event::Over => {}
            }
        }
    }
    load.stop();
    let seconds = began.elapsed().as_secs_f64();
    day.wait("the last answer", async || load.is_over() && crowd.iter().all(Running::is_over)).await?;
    let nothing_waits = async || rig.metric("tfo_agent_items_waiting").await.is_ok_and(|n| n < 1.0);
    day.wait("the end of the drain", nothing_waits).await?;
    let drain_s = began.elapsed().as_secs_f64() - seconds;
    rustix::fs::sync(); // what lies in the page cache goes to the device now
    day.look()?;
    let books = child::metrics(rig.metrics).await?;
    let agent = day.agent.take().ok_or_else(|| io::Error::other("there is no agent"))?;
    let lives = &mut day.lives;
    lives.see(agent.see()?);
    agent.end().await?;
    let counted = group.counted()?;
    let mut all: Vec<&Running> = crowd.iter().collect();
    all.push(&load);
    let report = far_end.with(|collector| {
        let mut tally: Tally = collector.tally().clone();
        all.iter().for_each(|one| tally.merge(&one.tally()));
        tally.report()
    });
    let beats: u64 = far_end.with(|c| c.platform().agents().values().map(|row| row.heartbeats).sum());
    let bytes: f64 = all.iter().map(|one| one.acknowledged_bytes() as f64).sum();
    let spent = lives.all();
    let mut figures = Figures::default();
    figures.add("the gateway's hours", small.hours);
    figures.add("  that took, s", seconds);
    figures.add("  then until nothing waited, s", drain_s);
    figures.add("records acknowledged", report.acknowledged() as f64);
    figures.add("  of these by all at once", crowd.iter().map(Running::acknowledged).sum::<u64>() as f64);
    figures.add("  of OTLP, MB", bytes / 1e6);
    figures.add("requests asked to come back", all.iter().map(|one| one.refused()).sum::<u64>() as f64);
    figures.add("heartbeats", beats as f64);
    figures.add("scrapes answered", asking.0.answered());
    figures.add("looks at its health answered", asking.1.answered());
    figures.add("outages", 8.0);
    figures.add("starts", lives.starts.into());
    figures.add("lost", report.lost() as f64);
    figures.add("never sent, and there", report.never_issued() as f64);
    figures.add("there twice", report.duplicated() as f64);
    figures.add("lost by the books", child::sum(&books, "tfo_agent_items_lost"));
    memory_and_cpu(&mut figures, small, lives, &counted);
    figures.add("to the device, B per B of OTLP accepted", spent.to_device / bytes);
    figures.add("write(2), B per B of OTLP accepted", spent.written / bytes);
    figures.add("to the device, MB", spent.to_device / 1e6);
    let broken = [
        (report.lost() > 0, "something is lost"),
        (report.never_issued() > 0, "something arrived that nobody sent"),
        (child::sum(&books, "tfo_agent_items_lost") > 0.0, "the books tell of losses"),
        (counted.oom_kills > 0, "it was killed for memory"),
    ];
    match broken.iter().find(|(is_so, _)| *is_so) {
        Some((_, what)) => Err(io::Error::other(format!("{what}\n{figures}"))),
        None => Ok(figures),
    }
}

fn memory_and_cpu(figures: &mut Figures, small: &Small, lives: &Lives, counted: &Counted) {
    let spent = lives.all();
    figures.add("killed for memory", counted.oom_kills as f64);
    figures.add("limit of memory, MiB", small.memory_mib as f64);
    figures.add("  most of it at once, page cache included, MiB", counted.peak_mib);
    figures.add("  times that something was given back for more", counted.reclaims as f64);
    figures.add("peak RSS, MiB", lives.peak_mib);
    figures.add("  most of its own (anonymous), MiB", lives.own_mib);
    figures.add("CPU-s", spent.cpu_s);
    figures.add("  of a core, as the gateway sees it, %", spent.cpu_s / (small.hours * 36.0));
    figures.add("limit of CPU, % of a core", small.cores * 100.0);
    let part = counted.throttled as f64 / (counted.periods as f64).max(1.0);
    figures.add("  periods of 100 ms in which it was used up, %", part * 100.0);
    figures.add("  threads stood still for it, s", counted.throttled_s);
}

fn load(rig: &Rig, profile: Profile, rate: u64, request_items: u32, first_source: u32) -> Running {
    let (endpoint, signals) = (format!("http://127.0.0.1:{}", rig.http), profile.signals());
    // Each waits for its answer, up to a second with the `commit_interval` of the smallest.
    let clients = rate.div_ceil(u64::from(request_items) * signals.len() as u64) + 1;
    let clients = u32::try_from(clients).unwrap_or(u32::MAX);
    Load { endpoint, signals, rate, request_items, clients, first_source }.start()
}

fn all_at_once(rig: &Rig, profile: Profile, before: usize) -> Running {
    let (endpoint, signals) = (format!("http://127.0.0.1:{}", rig.http), profile.signals());
    let (clients, request_items) = CROWD;
    let first_source = 1_000_000 + u32::try_from(before).unwrap_or(0) * 1_000;
    Load { endpoint, signals, rate: 0, request_items, clients, first_source }.start()
}

/// What reaches the disk of each profile under a gateway's load, in real time: the link is up, then away.
pub(crate) async fn profiles(rig: &Rig, seconds: u64, rate: u64, request: u32) -> io::Result<Figures> {
    let mut figures = Figures::default();
    let shim = Shim::new(rig.dir())?;
    shim.set(Trouble::default())?;
    for profile in Profile::ALL {
        for away in [false, true] {
            let link = if away { "away" } else { "up" };
            eprintln!("soak: {}, link {link}", profile.name());
            let worn = worn(rig, &shim, profile, away, (seconds, rate, request)).await?;
            for (what, value) in worn {
                figures.add(&format!("{}, link {link}: {what}", profile.name()), value);
            }
        }
    }
    Ok(figures)
}

async fn worn(
    rig: &Rig,
    shim: &Shim,
    profile: Profile,
    away: bool,
    (seconds, rate, request): (u64, u64, u32),
) -> io::Result<[(&'static str, f64); 4]> {
    rig.forget_spool()?;
    let far_end = far_end(if away { Script::new().always(Act::Refuse) } else { Script::new() })?;
    let ports = Ports { grpc: free_port()?, health: free_port()? };
    profile.configure(rig, ports, &far_end.endpoint(), Duration::from_secs_f64(HEARTBEAT_S))?;
    let spool = rig.spool();
    let mut agent = rig.start_with(|command| shim.apply(command, &spool))?;
    rig.listens(&mut agent).await?;
    tokio::time::sleep(Duration::from_secs(2)).await; // the spare segment is made
    let (before, syncs, written) = (agent.see()?, shim.syncs(), shim.written());
    let load = load(rig, profile, rate, request, 1);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    load.stop();
    until("the last answers", async || Ok(load.is_over())).await?;
    tokio::time::sleep(Duration::from_secs(8)).await; // a backlog is sealed
    rustix::fs::sync();
    let (after, bytes) = (agent.see()?, load.acknowledged_bytes() as f64);
    let figures = [
        ("records/s", load.acknowledged() as f64 / seconds as f64),
        ("syncs/s", (shim.syncs() - syncs) as f64 / seconds as f64),
        ("write(2), B per B accepted", (shim.written() - written) as f64 / bytes),
        ("to the device, B per B accepted", (after.to_device - before.to_device) / bytes),
    ];
    agent.kill()?;
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_in_order_and_ends_with_the_link_up() {
        assert!(QUARTER.windows(2).all(|pair| pair[0].0 < pair[1].0), "{QUARTER:?}");
        let is_up = QUARTER.iter().fold(true, |up, (_, event)| match event {
            Event::Away => false,
            Event::Back => true,
            _ => up,
        });
        assert!(is_up);
    }
}
