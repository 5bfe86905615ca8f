//! `soak fresh`: promise P6 with a backlog as large as one likes.

use crate::agent::{Figures, Rig};
use crate::runs::{drained, load, until};
use clap::Args;
use std::io;
use std::time::{Duration, Instant};
use tfo_otel_agent::testing::far_end::Script;
use tfo_otel_agent::testing::fresh::{Freshness, SlowLink, freshness};
use tfo_otel_agent::testing::{FarEnd, Source};

/// As good as no limit: 1 TiB a second.
const FAST: u64 = 1 << 40;
/// Clients of the load are the first few.
const FRESH: [Source; 2] = [Source(90), Source(91)];

#[derive(Debug, Clone, Args)]
pub(crate) struct Fresh {
    /// MiB that are spooled, allocated on the disk.
    #[arg(long, default_value_t = 1_024)]
    mib: u64,
    /// KiB a second that the link carries while fresh data is measured.
    #[arg(long, default_value_t = 1_024)]
    link_kib: u64,
    /// Seconds to measure, over the slow link and over one without a limit.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// `drain.order`.
    #[arg(long, default_value = "live_first")]
    order: String,
    /// Drain all of it in the end.
    #[arg(long)]
    to_the_end: bool,
}

/// The link is away while a backlog gathers; then it is slow, then fast.
pub(crate) async fn fresh(rig: &Rig, fresh: &Fresh) -> io::Result<Figures> {
    let made = std::thread::spawn(|| FarEnd::on_own_thread(Script::new())).join();
    let far_end = made.map_err(|_| io::Error::other("the far end fell"))??;
    let link = SlowLink::to(far_end.addr())?;
    rig.configure_drain(&link.endpoint(), &fresh.order, fresh.mib * 2 + 1_024)?;
    let mut agent = rig.start()?;
    rig.listens(&mut agent).await?;
    let mut figures = Figures::default();
    let began = Instant::now();
    let load = load(rig, 0, 1_000, 8);
    let wanted = (fresh.mib << 20) as f64;
    until("the backlog", async || Ok(rig.metric("tfo_agent_spool_bytes").await? >= wanted)).await?;
    load.stop();
    tokio::time::sleep(Duration::from_secs(8)).await; // nothing of it is fresh
    let records = load.acknowledged();
    figures.add("records spooled", records as f64);
    figures.add("MiB spooled", rig.allocated() as f64 / 1_048_576.0);
    figures.add("gathered, s", began.elapsed().as_secs_f64());
    let time = Duration::from_secs(fresh.seconds);
    for (name, rate, source) in [("slow link", fresh.link_kib << 10, FRESH[0]), ("fast link", FAST, FRESH[1])] {
        link.set(rate);
        let first = far_end.with(|c| c.seen().count());
        until("the first upload", async || Ok(far_end.with(|c| c.seen().count()) > first)).await?;
        let (before, carried, began) = (far_end.report().arrived(), link.carried(), Instant::now());
        let fresh = freshness(rig.http, &far_end, source, time).await;
        let seconds = began.elapsed().as_secs_f64();
        say(&mut figures, name, &fresh);
        figures.add("  drained beside, records/s", (far_end.report().arrived() - before) as f64 / seconds);
        figures.add("  over the link, KiB/s", (link.carried() - carried) as f64 / 1_024.0 / seconds);
        figures.add("  records that wait still", rig.metric("tfo_agent_items_waiting").await?);
    }
    figures.add("peak RSS, MiB", agent.see()?.peak_mib);
    if fresh.to_the_end {
        let began = Instant::now();
        drained(rig).await?;
        figures.add("the rest, s", began.elapsed().as_secs_f64());
        let report = far_end.with(|collector| {
            let mut tally = collector.tally().clone();
            tally.merge(&load.tally());
            tally.report()
        });
        figures.add("lost, records", report.lost() as f64);
        figures.add("duplicated, records", report.duplicated() as f64);
    }
    agent.stop().await?;
    Ok(figures)
}

fn say(figures: &mut Figures, name: &str, fresh: &Freshness) {
    for (what, percent) in [("p50", 50), ("p99", 99), ("longest", 100)] {
        figures.add(&format!("{name}: fresh {what}, ms"), fresh.percentile(percent).as_secs_f64() * 1e3);
    }
    figures.add("  of so many requests", fresh.requests() as f64);
}
