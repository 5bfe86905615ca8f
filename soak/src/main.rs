//! Runs the real agent under load and measures it from outside: its CPU time, its memory, its disk, its wire.
//!
//! | command | what it says |
//! |---|---|
//! | `soak speed` | CPU seconds per million records, records accepted a second, bytes per record on disk and wire |
//! | `soak steady` | what a gateway's load costs: CPU and memory at 2,000 records a second |
//! | `soak outage` | memory and disk while the far end is away, and the drain after it |
//! | `soak idle` | what it costs to do nothing |
//! | `soak start` | how long until it listens, and until the first durable answer |
//! | `soak scale` | whether cost, memory, start and drain stay the same from 10 MiB to 20 GiB of backlog |
//! | `soak rebound` | what the disk gets back when one lane is consumed and another stays |
//! | `soak wear` | what reaches the disk, by size of request and `commit_interval`; with `--profiles` by configuration |
//! | `soak small` | a day of a small gateway in 64 MiB and a fifth of a core, made shorter: nobody killed, nothing lost |
//! | `soak fleet` | whether ten thousand agents knock in step; in virtual time, without an agent's binary |
//! | `soak fresh` | how fresh what comes in is at the far end while a backlog drains over a slow link |
//! | `soak story` | whether it keeps its promises while link, disk, clock and process are in trouble by a seeded schedule |
//!
//! Give the agent with `--agent` (a release build); the machine's other load moves wall-clock figures, CPU seconds and
//! bytes repeat.

#![allow(clippy::print_stdout, clippy::print_stderr)] // it is a program of words

mod agent;
mod cgroup;
mod fleet;
mod fresh;
mod plot;
mod profile;
mod runs;
mod scale;
mod shim;
mod sink;
mod small;
mod story;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "soak", version, about = "Measures the real agent from outside")]
struct Cli {
    #[command(subcommand)]
    run: Run,
    /// The agent's binary.
    #[arg(long, global = true, default_value = "target/release/tfo-otel-agent")]
    agent: PathBuf,
    /// Where the spool lies; a temporary directory in it. Default: the system's.
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Run {
    /// Trouble by a schedule, the promises asked in every quiet between; a report with plots.
    Story(story::Options),
    /// Ten thousand agents and one far end, in virtual time; a report with plots.
    Fleet(fleet::Options),
    /// As fast as it goes.
    Speed(Speed),
    /// A gateway's load.
    Steady(Steady),
    /// The far end is away, then back.
    Outage(Steady),
    /// Fresh data beside a backlog.
    Fresh(fresh::Fresh),
    /// Nothing.
    Idle {
        /// Seconds to watch.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// What is given back when one lane is consumed and another stays.
    Rebound {
        /// MiB of backlog, nearly all of it of the lane that is consumed.
        #[arg(long, default_value_t = 300)]
        mib: u64,
    },
    /// The same for growing backlogs: a table, and plots.
    Scale(scale::Scale),
    /// What reaches the disk.
    Wear(scale::Wear),
    /// A day with little memory and little CPU.
    Small(small::Small),
    /// From exec to the first durable answer.
    Start {
        /// Starts to measure, with an empty directory and with a kept one.
        #[arg(long, default_value_t = 5)]
        times: u32,
        /// MiB that are spooled when the kept one is measured.
        #[arg(long, default_value_t = 64)]
        spooled_mib: u64,
    },
}

#[derive(Debug, Clone, Args)]
struct Speed {
    /// Log records to send.
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// Records of one request.
    #[arg(long, default_value_t = 1_000)]
    request: u32,
    /// Requests under way at once.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// With the processors of the seed's Production configuration.
    #[arg(long)]
    production: bool,
    /// The far end is away while the load lasts: intake alone, then drain alone.
    #[arg(long)]
    apart: bool,
}

#[derive(Debug, Clone, Args)]
struct Steady {
    /// Log records a second.
    #[arg(long, default_value_t = 2_000)]
    rate: u64,
    /// Records of one request.
    #[arg(long, default_value_t = 100)]
    request: u32,
    /// Seconds of load.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// What a program ends with that could not do it here.
const SKIPPED: u8 = 77;

/// What a run says in the end.
enum Said {
    Figures(agent::Figures),
    Table(scale::Table),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Run::Fleet(options) = &cli.run {
        return fleet::tell(options, cli.json);
    }
    let rig = agent::Rig::new(&cli.agent, cli.dir.as_deref());
    if let Run::Story(options) = &cli.run {
        return tell(rig, options, cli.json);
    }
    match rig.and_then(|mut rig| actix_rt::System::new().block_on(measure(&mut rig, &cli.run))) {
        Ok(Said::Figures(figures)) if cli.json => {
            println!("{}", serde_json::Value::Object(figures.0.into_iter().map(|(k, v)| (k, v.into())).collect()))
        }
        Ok(Said::Table(table)) if cli.json => println!("{}", table.json()),
        Ok(Said::Figures(figures)) => print!("{figures}"),
        Ok(Said::Table(table)) => print!("{table}"),
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
            println!("SKIPPED: {error}");
            return ExitCode::from(SKIPPED);
        }
        Err(error) => {
            eprintln!("soak: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn measure(rig: &mut agent::Rig, run: &Run) -> std::io::Result<Said> {
    let figures = match run {
        Run::Speed(speed) => runs::speed(rig, speed).await,
        Run::Steady(steady) => runs::steady(rig, steady).await,
        Run::Outage(steady) => runs::outage(rig, steady).await,
        Run::Fresh(fresh) => fresh::fresh(rig, fresh).await,
        Run::Idle { seconds } => runs::idle(rig, *seconds).await,
        Run::Start { times, spooled_mib } => runs::start(rig, *times, *spooled_mib).await,
        Run::Rebound { mib } => runs::rebound(rig, *mib).await,
        Run::Scale(scale) => return scale::scale(rig, scale).await.map(Said::Table),
        Run::Small(small) => small::small(rig, small).await,
        Run::Wear(wear) if wear.profiles => small::profiles(rig, wear.seconds, wear.rate, wear.request).await,
        Run::Wear(wear) => return scale::wear(rig, wear).await.map(Said::Table),
        Run::Story(_) | Run::Fleet(_) => return Err(std::io::Error::other("a story is told, not measured")),
    };
    figures.map(Said::Figures)
}

fn tell(rig: std::io::Result<agent::Rig>, options: &story::Options, json: bool) -> ExitCode {
    match rig.and_then(|rig| story::run(rig, options)) {
        Ok(report) => {
            if json {
                println!("{}", report.json());
            } else {
                print!("{report}");
                println!("report: {}", options.page(&report).display());
            }
            if report.broken.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}
