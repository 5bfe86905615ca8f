//! `soak scale`: does anything grow with the backlog? (P5) `soak wear`: what reaches the disk, by the size of requests and
//! the interval of commits.

use crate::agent::{Agent, Rig, Seen};
use crate::plot::{Plot, page};
use crate::runs::{first_answer, load, until};
use crate::shim::{Shim, Trouble};
use crate::sink::Sink;
use clap::Args;
use serde_json::{Map, Value, json};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tfo_otel_agent::testing::child;

/// How far to go.
#[derive(Debug, Clone, Args)]
pub(crate) struct Scale {
    /// Backlogs, MiB on the disk.
    ///
    /// All of them lie there at once.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1024,4096,20480")]
    mib: Vec<u64>,
    /// Only how long a start takes: no drain.
    #[arg(long)]
    starts: bool,
    /// Where `scale.html` and `scale.json` go.
    #[arg(long, default_value = "target/soak")]
    report: PathBuf,
}

/// What to wear the disk with.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wear {
    /// Seconds of load of each row.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Of the configurations in `configs/` instead.
    #[arg(long)]
    pub(crate) profiles: bool,
    /// Records a second, with `--profiles`.
    #[arg(long, default_value_t = 20, requires = "profiles")]
    pub(crate) rate: u64,
    /// Records of one request, with `--profiles`.
    #[arg(long, default_value_t = 10, requires = "profiles")]
    pub(crate) request: u32,
}

/// Rows of figures under the same names.
#[derive(Debug, Default)]
pub(crate) struct Table {
    names: Vec<&'static str>,
    rows: Vec<Vec<f64>>,
}

impl Table {
    fn add(&mut self, row: &[(&'static str, f64)]) {
        self.names = row.iter().map(|(name, _)| *name).collect();
        self.rows.push(row.iter().map(|(_, value)| *value).collect());
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Vec<f64>| -> Value {
            let named = self.names.iter().zip(row).map(|(name, value)| ((*name).to_owned(), json!(value)));
            named.collect::<Map<String, Value>>().into()
        };
        self.rows.iter().map(row).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = |v: f64| match v.abs() {
            a if a >= 100.0 || v.fract() == 0.0 => 0,
            a if a >= 10.0 => 1,
            _ => 2,
        };
        writeln!(f, "| {} |\n|{}", self.names.join(" | "), "---:|".repeat(self.names.len()))?;
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|v| format!("{v:.*}", digits(*v))).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

/// One backlog after the other, from empty; starts on each of them in turn; one drain after the other.
pub(crate) async fn scale(rig: &Rig, scale: &Scale) -> io::Result<Table> {
    let sink = Sink::start()?;
    rig.configure(&sink.endpoint(), false, Some(scale.mib.iter().max().unwrap_or(&0) * 2 + 1_024))?;
    sink.be_away(true);
    let mut backlogs = Vec::new();
    for mib in &scale.mib {
        eprintln!("soak: a backlog of {mib} MiB");
        backlogs.push(fill(rig, *mib).await?);
    }
    starts(rig, &mut backlogs).await?;
    let mut table = Table::default();
    let mut drains = Vec::new();
    for mut backlog in backlogs {
        backlog.lay(rig)?;
        if !scale.starts {
            eprintln!("soak: drains {} MiB", backlog.mib);
            drains.push((backlog.mib, drain(rig, &sink, &mut backlog.row).await?));
        }
        rig.forget_spool()?;
        table.add(&backlog.row);
    }
    fs::create_dir_all(&scale.report)?;
    fs::write(scale.report.join("scale.json"), serde_json::to_string_pretty(&table.json())?)?;
    fs::write(scale.report.join("scale.html"), html(&table, &drains)?)?;
    Ok(table)
}

/// One look at an agent that drains.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// Millions of records drained by then.
    drained: f64,
    rss_mib: f64,
    /// MiB that are allocated: the rest of RSS is the binary's, the stacks', and what the allocator keeps.
    in_use_mib: f64,
}

/// Waits until nothing waits; what memory was like meanwhile.
async fn watch(rig: &Rig, agent: &Agent, waiting: f64) -> io::Result<Vec<Look>> {
    let mut looks = Vec::new();
    until("the drain", async || {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let metrics = child::metrics(rig.metrics).await?;
        let left = child::sum(&metrics, "tfo_agent_items_waiting");
        looks.push(Look {
            drained: (waiting - left) / 1e6,
            rss_mib: agent.see()?.rss_mib,
            in_use_mib: child::sum(&metrics, "otelcol_process_runtime_heap_alloc_bytes") / 1_048_576.0,
        });
        Ok(left < 1.0)
    })
    .await?;
    Ok(looks)
}

type Row = Vec<(&'static str, f64)>;

/// A spool with a backlog, out of the agent's way until it is its turn.
#[derive(Debug)]
struct Backlog {
    mib: u64,
    aside: PathBuf,
    row: Row,
}

impl Backlog {
    /// Where the agent looks for it.
    fn lay(&self, rig: &Rig) -> io::Result<()> {
        fs::rename(&self.aside, rig.spool())
    }

    fn take_away(&self, rig: &Rig) -> io::Result<()> {
        fs::rename(rig.spool(), &self.aside)
    }
}

async fn fill(rig: &Rig, mib: u64) -> io::Result<Backlog> {
    rig.forget_spool()?;
    let mut agent = rig.start()?;
    rig.listens(&mut agent).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, began) = (agent.see()?, Instant::now());
    let load = load(rig, 0, 1_000, 4);
    let spooled = async || Ok(rig.metric("tfo_agent_spool_bytes").await? >= (mib << 20) as f64);
    until(&format!("a backlog of {mib} MiB"), spooled).await?;
    load.stop();
    let accepting = began.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(8)).await; // the last segment is sealed after five
    let (taken_in, records, blocks) =
        (agent.see()?, load.acknowledged() as f64, rig.metric("tfo_agent_spool_block_bytes").await?);
    // What goes to a socket goes by write(2) too, and the far end refuses some megabytes of uploads meanwhile. The meter counts the heads
    // of TCP and IP with them, 3 % of a full packet.
    let said = rig.metric("tfo_agent_link_bytes").await? * 0.97;
    let on_disk = rig.allocated() as f64;
    agent.kill()?;
    let millions = records / 1e6;
    let row = vec![
        ("backlog, MiB", on_disk / 1_048_576.0),
        ("records, M", millions),
        ("intake, k records/s", records / accepting / 1e3),
        ("intake, CPU-s/M", (taken_in.cpu_s - before.cpu_s) / millions),
        ("intake, peak RSS MiB", taken_in.peak_mib),
        ("disk, B/record", on_disk / records),
        ("write(2) over blocks", (taken_in.written - before.written - said) / blocks.max(1.0)),
    ];
    let backlog = Backlog { mib, aside: rig.dir().join(format!("backlog-{mib}")), row };
    backlog.take_away(rig)?;
    Ok(backlog)
}

/// Starts on each backlog, of which the middle one counts. A quarter of them take 3 ms more than the middle one and a quarter 3 ms less: of
/// 41 the middle is known to a millisecond, of 15 it is not.
const STARTS: usize = 41;

/// In turn, so that whatever else the machine does meanwhile is the same for all.
async fn starts(rig: &Rig, backlogs: &mut [Backlog]) -> io::Result<()> {
    let mut answers = vec![Vec::new(); backlogs.len()];
    for round in 1..=STARTS {
        eprintln!("soak: start {round} of {STARTS} on each");
        for (backlog, answers) in backlogs.iter().zip(&mut answers) {
            backlog.lay(rig)?;
            rustix::fs::sync(); // else its commits wait for the backlog that is still being written back
            let (agent, times) = first_answer(rig).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            agent.kill()?;
            backlog.take_away(rig)?;
            answers.push(times.1);
        }
    }
    for (backlog, mut answers) in backlogs.iter_mut().zip(answers) {
        answers.sort_by(f64::total_cmp);
        backlog.row.push(("first durable answer, ms", answers[answers.len() / 2]));
    }
    Ok(())
}

async fn drain(rig: &Rig, sink: &Sink, row: &mut Row) -> io::Result<Vec<Look>> {
    sink.be_away(true);
    let (agent, _) = first_answer(rig).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (resting, waiting) = (agent.see()?, rig.metric("tfo_agent_items_waiting").await?);
    agent.forget_peak()?;
    sink.be_away(false);
    let began = Instant::now();
    let looks = watch(rig, &agent, waiting).await?;
    let (drain, after) = (began.elapsed().as_secs_f64(), agent.see()?);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let left = rig.allocated() as f64;
    agent.stop().await?;
    row.extend([
        ("start, peak RSS MiB", resting.peak_mib),
        ("resting RSS, MiB", resting.rss_mib),
        ("drain, k records/s", waiting / drain / 1e3),
        ("drain, CPU-s/M", (after.cpu_s - resting.cpu_s) / (waiting / 1e6)),
        ("drain, peak RSS MiB", after.peak_mib),
        ("drain, peak in use MiB", looks.iter().map(|look| look.in_use_mib).fold(0.0, f64::max)),
        ("left, KiB", left / 1_024.0),
    ]);
    Ok(looks)
}

/// What a plot shows of a look.
type Of = fn(&Look) -> f64;

fn html(table: &Table, drains: &[(u64, Vec<Look>)]) -> io::Result<String> {
    let mut body =
        "<h1>What grows with the backlog</h1>\n<p>One run of <code>soak scale</code>; x is logarithmic.</p>\n"
            .to_owned();
    for (column, name) in table.names.iter().enumerate().skip(2) {
        let (title, unit) = name.split_once(", ").unwrap_or((name, ""));
        let points = table.rows.iter().map(|row| (row[0], row[column])).collect();
        let plot = Plot {
            title: title.to_owned(),
            x: "MiB of backlog".to_owned(),
            unit: unit.to_owned(),
            points,
            shades: Vec::new(),
            span: None,
            log_x: true,
        };
        body += &plot.svg()?;
    }
    body += "<h1>Memory while it drains</h1>\n";
    let of: [(&str, Of); 2] = [("Resident", |look| look.rss_mib), ("In use", |look| look.in_use_mib)];
    for ((mib, looks), (what, value)) in drains.iter().flat_map(|drain| of.map(|of| (drain, of))) {
        let plot = Plot {
            title: format!("{what}, of {mib} MiB"),
            x: "million records drained".to_owned(),
            unit: "MiB".to_owned(),
            points: looks.iter().map(|look| (look.drained, value(look))).collect(),
            shades: Vec::new(),
            span: None,
            log_x: false,
        };
        body += &plot.svg()?;
    }
    body += &format!("<pre>{table}</pre>");
    Ok(page("soak scale", &body))
}

/// Loads of a gateway: requests of one record, of a hundred, of a thousand.
const LOADS: [(u64, u32); 3] = [(100, 1), (2_000, 100), (10_000, 1_000)];
/// `commit_interval`, ms.
const INTERVALS: [u64; 3] = [0, 200, 1_000];

/// What reaches the disk.
pub(crate) async fn wear(rig: &Rig, wear: &Wear) -> io::Result<Table> {
    let mut table = Table::default();
    let shim = Shim::new(rig.dir())?;
    shim.set(Trouble::default())?;
    for away in [false, true] {
        for (rate, request) in LOADS {
            for interval_ms in INTERVALS {
                eprintln!(
                    "soak: {rate} records/s in requests of {request}, commit_interval {interval_ms} ms, far end away: {away}"
                );
                table.add(&worn(rig, &shim, wear.seconds, (rate, request), interval_ms, away).await?);
            }
        }
    }
    Ok(table)
}

async fn worn(
    rig: &Rig,
    shim: &Shim,
    seconds: u64,
    (rate, request): (u64, u32),
    interval_ms: u64,
    away: bool,
) -> io::Result<Vec<(&'static str, f64)>> {
    rig.forget_spool()?;
    let sink = Sink::start()?;
    sink.be_away(away);
    rig.configure_with(&sink.endpoint(), false, &format!(", commit_interval: {interval_ms}ms"))?;
    let spool = rig.spool();
    let mut agent = rig.start_with(|command| shim.apply(command, &spool))?;
    rig.listens(&mut agent).await?;
    tokio::time::sleep(Duration::from_secs(2)).await; // the spare segment is made
    let seen = |agent: &Agent| -> io::Result<(Seen, u64, f64, f64)> {
        Ok((agent.see()?, shim.syncs(), device(rig.dir())?, shim.written() as f64))
    };
    let before = seen(&agent)?;
    // A client waits for each answer, so as many of them as the interval asks for.
    let clients = u32::try_from((rate / u64::from(request) * interval_ms).div_ceil(1_000) + 1).unwrap_or(1);
    let load = load(rig, rate, request, clients);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    load.stop();
    until("the last answers", async || Ok(load.is_over())).await?;
    tokio::time::sleep(Duration::from_secs(if away { 8 } else { 1 })).await;
    rustix::fs::sync();
    let after = seen(&agent)?;
    let (records, blocks) = (load.acknowledged() as f64, rig.metric("tfo_agent_spool_block_bytes").await?.max(1.0));
    let disk = rig.allocated() as f64;
    agent.kill()?;
    Ok(vec![
        ("request", request.into()),
        ("commit_interval, ms", interval_ms as f64),
        ("sealed backlog", u8::from(away).into()),
        ("records/s", records / seconds as f64),
        ("syncs/s", (after.1 - before.1) as f64 / seconds as f64),
        ("CPU, %", (after.0.cpu_s - before.0.cpu_s) / seconds as f64 * 100.0),
        ("block, B/record", blocks / records),
        ("write(2) over blocks", (after.3 - before.3) / blocks),
        ("to device, B/record", (after.0.to_device - before.0.to_device) / records),
        ("whole device, B/record", (after.2 - before.2) / records),
        ("on disk, B/record", disk / records),
    ])
}

/// Bytes written to the device that holds `path`, by everybody: with what the filesystem writes for itself.
fn device(path: &Path) -> io::Result<f64> {
    let device = fs::metadata(path)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
    let sectors = stat.split_whitespace().nth(6).and_then(|n| n.parse::<f64>().ok());
    Ok(sectors.map_or(f64::NAN, |n| n * 512.0))
}
