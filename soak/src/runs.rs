//! The measurements.

use crate::agent::{Agent, Figures, Rig, Seen};
use crate::sink::Sink;
use crate::{Speed, Steady};
use std::io;
use std::time::{Duration, Instant};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::load::{Load, Running};
use tfo_otel_agent::testing::numbered::{Numbered, Source};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Twenty gigabytes take their time.
const PATIENCE: Duration = Duration::from_secs(1_800);

pub(crate) fn load(rig: &Rig, rate: u64, request_items: u32, clients: u32) -> Running {
    let endpoint = format!("http://127.0.0.1:{}", rig.http);
    Load { endpoint, signals: vec![Signal::Logs], rate, request_items, clients, first_source: 1 }.start()
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> io::Result<bool>) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds().await? {
        if Instant::now() > end {
            return Err(io::Error::other(format!("{what} did not happen within {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

pub(crate) async fn drained(rig: &Rig) -> io::Result<()> {
    until("the drain", async || {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(rig.metric("tfo_agent_items_waiting").await? < 1.0)
    })
    .await
}

/// As fast as it goes.
pub(crate) async fn speed(rig: &Rig, speed: &Speed) -> io::Result<Figures> {
    let sink = Sink::start()?;
    rig.configure(&sink.endpoint(), speed.production, None)?;
    let mut agent = rig.start()?;
    rig.listens(&mut agent).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    sink.be_away(speed.apart);
    let before = agent.see()?;
    let began = Instant::now();
    let load = load(rig, 0, speed.request, speed.clients);
    until("the load", async || Ok(load.acknowledged() >= speed.records)).await?;
    load.stop();
    let (accepting, taken_in) = (began.elapsed().as_secs_f64(), load.acknowledged() as f64);
    let between = agent.see()?;
    let on_disk = rig.allocated() as f64;
    if speed.apart {
        tokio::time::sleep(Duration::from_secs(3)).await; // what was in hand is sealed
    }
    let full = rig.allocated() as f64;
    sink.be_away(false);
    let draining = Instant::now();
    drained(rig).await?;
    let drain = draining.elapsed().as_secs_f64();
    let (records, after) = (load.acknowledged() as f64, agent.see()?);
    let millions = records / 1e6;
    let mut figures = Figures::default();
    figures.add("records", records);
    figures.add("accepted, records/s", taken_in / accepting);
    figures.add("CPU-s per million records", (after.cpu_s - before.cpu_s) / millions);
    if speed.apart {
        figures.add("  of these for intake", (between.cpu_s - before.cpu_s) / millions);
        figures.add("drained, records/s", records / drain);
        figures.add("on disk, B per record", full / records);
    } else {
        figures.add("on disk at the end of the load, MiB", on_disk / 1_048_576.0);
    }
    common(rig, &mut figures, before, after, records, sink.taken().0 as f64).await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    figures.add("left on disk after the drain, KiB", rig.allocated() as f64 / 1_024.0);
    figures.add("stop, ms", agent.stop().await?.as_secs_f64() * 1e3);
    Ok(figures)
}

async fn common(
    rig: &Rig,
    figures: &mut Figures,
    before: Seen,
    after: Seen,
    records: f64,
    wire: f64,
) -> io::Result<()> {
    let (written, blocks) =
        (rig.metric("tfo_agent_spool_written_bytes").await?, rig.metric("tfo_agent_spool_block_bytes").await?);
    figures.add("on the wire, B per record", wire / records);
    figures.add("blocks, B per record", blocks / records);
    figures.add("journal bytes over block bytes", written / blocks.max(1.0));
    figures.add("bytes given to write(2) over block bytes", (after.written - before.written) / blocks.max(1.0));
    figures.add("bytes to the device over block bytes", (after.to_device - before.to_device) / blocks.max(1.0));
    figures.add("peak RSS, MiB", after.peak_mib);
    figures.add("RSS at the end, MiB", after.rss_mib);
    figures.add("  of these its own (anonymous), MiB", after.own_mib);
    Ok(())
}

/// A gateway's load.
pub(crate) async fn steady(rig: &Rig, steady: &Steady) -> io::Result<Figures> {
    let sink = Sink::start()?;
    rig.configure(&sink.endpoint(), false, None)?;
    let mut agent = rig.start()?;
    rig.listens(&mut agent).await?;
    let load = load(rig, steady.rate, steady.request, 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, first, began) = (agent.see()?, load.acknowledged(), Instant::now());
    tokio::time::sleep(Duration::from_secs(steady.seconds)).await;
    let (after, seconds) = (agent.see()?, began.elapsed().as_secs_f64());
    let records = (load.acknowledged() - first) as f64;
    load.stop();
    let mut figures = Figures::default();
    figures.add("records/s", records / seconds);
    figures.add("CPU, % of a core", (after.cpu_s - before.cpu_s) / seconds * 100.0);
    figures.add("CPU-s per million records", (after.cpu_s - before.cpu_s) / records * 1e6);
    let all = load.acknowledged() as f64;
    drained(rig).await?;
    common(rig, &mut figures, before, after, all, sink.taken().0 as f64).await?;
    Ok(figures)
}

/// The far end is away while the load lasts, then back.
pub(crate) async fn outage(rig: &Rig, steady: &Steady) -> io::Result<Figures> {
    let sink = Sink::start()?;
    rig.configure(&sink.endpoint(), false, None)?;
    sink.be_away(true);
    let mut agent = rig.start()?;
    rig.listens(&mut agent).await?;
    let before = agent.see()?;
    let load = load(rig, steady.rate, steady.request, 1);
    tokio::time::sleep(Duration::from_secs(steady.seconds)).await;
    load.stop();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let records = load.acknowledged() as f64;
    let mut figures = Figures::default();
    let away = agent.see()?;
    figures.add("records spooled", records);
    figures.add("peak RSS during the outage, MiB", away.peak_mib);
    figures.add("  of the last its own (anonymous), MiB", away.own_mib);
    figures.add("on disk, B per record", rig.allocated() as f64 / records);
    figures.add("CPU, % of a core", (away.cpu_s - before.cpu_s) / steady.seconds as f64 * 100.0);
    sink.be_away(false);
    let began = Instant::now();
    drained(rig).await?;
    figures.add("drain, records/s (with the retry's rest)", records / began.elapsed().as_secs_f64());
    let after = agent.see()?;
    common(rig, &mut figures, before, after, records, sink.taken().0 as f64).await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    figures.add("left on disk after the drain, KiB", rig.allocated() as f64 / 1_024.0);
    Ok(figures)
}

/// One lane's data is consumed, another's stays: what the disk gets back then, and what intake waits for meanwhile. With the seed's
/// thresholds.
pub(crate) async fn rebound(rig: &Rig, mib: u64) -> io::Result<Figures> {
    let sink = Sink::start()?;
    sink.be_away(true);
    sink.refuse_metrics(true);
    let compaction =
        "{on_start: true, on_rebound: true, rebound_needed_threshold_mib: 100, rebound_trigger_threshold_mib: 10}";
    rig.configure_lanes(&sink.endpoint(), &format!(", compaction: {compaction}"))?;
    let mut agent = rig.start()?;
    rig.listens(&mut agent).await?;
    let of = |signal, rate, items, clients, first_source| {
        let endpoint = format!("http://127.0.0.1:{}", rig.http);
        Load { endpoint, signals: vec![signal], rate, request_items: items, clients, first_source }.start()
    };
    let (logs, few) = (of(Signal::Logs, 60_000, 1_000, 2, 1), of(Signal::Metrics, 200, 10, 1, 9));
    until("the backlog", async || Ok(rig.metric("tfo_agent_spool_bytes").await? >= (mib << 20) as f64)).await?;
    logs.stop();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let mut figures = Figures::default();
    let mib_of = |bytes: u64| bytes as f64 / 1_048_576.0;
    figures.add("logs and few metrics, allocated MiB", mib_of(rig.allocated()));
    sink.be_away(false);
    let began = Instant::now();
    let waiting = "tfo_agent_items_waiting{exporter=\"otlphttp\",pipeline=\"logs\"";
    let mut last = (few.acknowledged(), Instant::now());
    let mut longest = Duration::ZERO;
    let mut settled = 0;
    // Intake goes on; how long it ever stood still while segments were copied.
    while settled < 100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = few.acknowledged();
        if now > last.0 {
            longest = longest.max(last.1.elapsed());
            last = (now, Instant::now());
        }
        settled = if rig.metric(waiting).await? < 1.0 { settled + 1 } else { 0 };
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other("the logs do not drain"));
        }
    }
    few.stop();
    tokio::time::sleep(Duration::from_secs(8)).await;
    figures.add("logs delivered, metrics kept, allocated MiB", mib_of(rig.allocated()));
    figures.add("  metrics that wait, items", rig.metric("tfo_agent_items_waiting").await?);
    figures.add("  segments", rig.metric("tfo_agent_spool_segments").await?);
    figures.add("longest pause of intake meanwhile, ms", longest.as_secs_f64() * 1e3);
    sink.refuse_metrics(false);
    drained(rig).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    figures.add("all delivered, allocated KiB", rig.allocated() as f64 / 1_024.0);
    agent.stop().await?;
    Ok(figures)
}

/// Nothing.
pub(crate) async fn idle(rig: &Rig, seconds: u64) -> io::Result<Figures> {
    let sink = Sink::start()?;
    rig.configure(&sink.endpoint(), false, None)?;
    let mut agent = rig.start()?;
    rig.listens(&mut agent).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = agent.see()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = agent.see()?;
    let mut figures = Figures::default();
    figures.add("CPU, % of a core", (after.cpu_s - before.cpu_s) / seconds as f64 * 100.0);
    figures.add("RSS, MiB", after.rss_mib);
    figures.add("  of these its own (anonymous), MiB", after.own_mib);
    figures.add("peak RSS, MiB", after.peak_mib);
    Ok(figures)
}

/// From exec to the first durable answer, with little and much spooled, and the drain of it.
pub(crate) async fn start(rig: &Rig, times: u32, spooled_mib: u64) -> io::Result<Figures> {
    let sink = Sink::start()?;
    rig.configure(&sink.endpoint(), false, Some(spooled_mib * 2 + 1_024))?;
    let mut figures = Figures::default();
    let mut measured = |name: &str, mut all: Vec<(f64, f64)>| {
        all.sort_by(|a, b| a.1.total_cmp(&b.1));
        figures.add(&format!("{name}: listens, ms (median)"), all[all.len() / 2].0);
        figures.add(&format!("{name}: first durable answer, ms (median)"), all[all.len() / 2].1);
    };
    let mut empty = Vec::new();
    for _ in 0..times.max(1) {
        rig.forget_spool()?;
        let (agent, times) = first_answer(rig).await?;
        agent.kill()?;
        empty.push(times);
    }
    measured("empty directory", empty);
    let mut kept = Vec::new();
    for _ in 0..times.max(1) {
        let (agent, times) = first_answer(rig).await?;
        tokio::time::sleep(Duration::from_millis(500)).await; // a spare segment is made meanwhile
        agent.kill()?;
        kept.push(times);
    }
    measured("kept spare segment", kept);
    sink.be_away(true);
    let mut agent = rig.start()?;
    rig.listens(&mut agent).await?;
    let load = load(rig, 0, 1_000, 4);
    until("the backlog", async || Ok(rig.allocated() > spooled_mib << 20)).await?;
    load.stop();
    tokio::time::sleep(Duration::from_secs(3)).await;
    agent.kill()?;
    let mut full = Vec::new();
    for _ in 0..times.max(1) {
        let (agent, times) = first_answer(rig).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        agent.kill()?;
        full.push(times);
    }
    measured(&format!("{spooled_mib} MiB spooled"), full);
    // Memory must not follow the backlog: looked at before the drain, and at its end.
    let (agent, _) = first_answer(rig).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, waiting) = (agent.see()?, rig.metric("tfo_agent_items_waiting").await?);
    sink.be_away(false);
    let began = Instant::now();
    drained(rig).await?;
    figures.add("records waiting", waiting);
    figures.add("peak RSS before the drain, MiB", before.peak_mib);
    figures.add("drain, records/s (with the retry's rest)", waiting / began.elapsed().as_secs_f64());
    figures.add("peak RSS of the drain, MiB", agent.see()?.peak_mib);
    Ok(figures)
}

/// Starts an agent and sends one request at once; when it listened and when it answered, ms since exec.
///
/// The answer is read where it arrives: a look every 10 ms makes a step of 10 ms of an answer that comes a little later.
pub(crate) async fn first_answer(rig: &Rig) -> io::Result<(Agent, (f64, f64))> {
    let body = Numbered::new(Signal::Logs, Source(1)).request(1).bytes;
    let head = format!(
        "POST /v1/logs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), &body].concat();
    let mut agent = rig.start()?;
    let mut stream = rig.connected(&mut agent).await?;
    let since = |agent: &Agent| agent.began.elapsed().as_secs_f64() * 1e3;
    let listened = since(&agent);
    stream.write_all(&request).await?;
    let mut status = [0; b"HTTP/1.1 200".len()];
    tokio::time::timeout(Duration::from_secs(40), stream.read_exact(&mut status)).await??;
    let answered = since(&agent);
    if &status != b"HTTP/1.1 200" {
        return Err(io::Error::other(format!("the first request is answered with {}", status.escape_ascii())));
    }
    Ok((agent, (listened, answered)))
}
