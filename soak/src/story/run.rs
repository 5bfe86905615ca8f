//! Tells the story to the real agent.

use super::judge::{Books, Broken, Limits, Outcome, judge};
use super::plan::{Chapter, Fault, story};
use super::report::{Report, Told};
use super::samples::{Sample, Series};
use crate::agent::{Agent, Rig};
use crate::shim::{EIO, ENOSPC, EROFS, Shim, Trouble};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::Signal as Kill;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tfo_otel_agent::base::Dice;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::spool::Reason;
use tfo_otel_agent::testing::child;
use tfo_otel_agent::testing::far_end::Script;
use tfo_otel_agent::testing::load::{Load, Running};
use tfo_otel_agent::testing::{FarEnd, Source};

/// What to tell.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long the disturbances last together; drains come on top.
    #[arg(long, default_value_t = 60, conflicts_with = "hours", value_parser = clap::value_parser!(u64).range(10..))]
    seconds: u64,
    /// The same in hours: 72 is a field rehearsal. Outages are minutes instead of days; that their length does not matter is
    /// shown in virtual time (src/uplink/flow/tests.rs).
    #[arg(long)]
    hours: Option<f64>,
    /// Tells the same story again. Default: a new one.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the report goes: `story-<seed>.html` and `.json`.
    #[arg(long, default_value = "target/soak")]
    report: PathBuf,
    /// Most resident memory, MiB.
    #[arg(long, default_value_t = 64.0)]
    memory_mib: f64,
    /// Longest start, ms. The machine's other load counts too.
    #[arg(long, default_value_t = 1_000)]
    start_ms: u64,
    /// Most that is left on the disk after a full drain, KiB.
    #[arg(long, default_value_t = 1_024)]
    left_kib: u64,
    /// A line per chapter, and the report's place, instead of a bar.
    #[arg(long)]
    verbose: bool,
}

impl Options {
    /// Where the report for a person lies.
    pub(crate) fn page(&self, report: &Report) -> PathBuf {
        report.path(&self.report, "html")
    }
}

/// How long a drain may take, and clients to hear their last answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// A look costs an HTTP request and a walk over the spool.
const LOOK: Duration = Duration::from_millis(200);
const TEN_YEARS_S: i64 = 315_576_000;

enum Ended {
    Io(io::Error),
    Broken(Broken),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Io(error)
    }
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Ended {
        Ended::Broken(broken)
    }
}

/// Tells it; the report says how it ended, an error that it could not be told.
pub(crate) fn run(rig: Rig, options: &Options) -> io::Result<Report> {
    // The far end has a thread and a runtime of its own: it is somebody else.
    let far_end = FarEnd::on_own_thread(Script::new())?;
    actix_rt::System::new().block_on(tell(rig, far_end, options))
}

async fn tell(rig: Rig, far_end: FarEnd, options: &Options) -> io::Result<Report> {
    let seed = options.seed.unwrap_or_else(|| Dice::shaken().seed());
    let length =
        options.hours.map_or(Duration::from_secs(options.seconds), |h| Duration::from_secs_f64(h.max(0.01) * 3_600.0));
    let chapters = story(seed, length);
    let shim = Shim::new(rig.dir());
    let mut tale = Tale {
        no_shim: shim.as_ref().err().map(|e| format!("no library to preload: {e}")),
        shim: shim.ok(),
        dice: Dice::seeded(seed ^ 0x5EED),
        bar: bar(options, length),
        begun: Instant::now(),
        rig,
        far_end,
        agent: None,
        outcome: Outcome::default(),
        series: Series::default(),
        before: Before::default(),
        acknowledged: 0,
        source: 1,
    };
    tale.configure("")?;
    let limits = Limits {
        memory_mib: options.memory_mib,
        start: Duration::from_millis(options.start_ms),
        left_bytes: options.left_kib << 10,
    };
    let mut told = Vec::new();
    let mut books = Books::default();
    let mut broken = None;
    for (n, chapter) in chapters.iter().enumerate() {
        let began = tale.begun.elapsed();
        tale.outcome = Outcome { books: (books, books), ..Outcome::default() };
        tale.say(options, &format!("{} of {}: {chapter}", n + 1, chapters.len()));
        let ended = match tale.tell(chapter).await {
            Ok(()) => judge(chapter, &tale.outcome, &limits),
            Err(Ended::Broken(broken)) => Err(broken),
            Err(Ended::Io(error)) => return Err(error),
        };
        books = tale.outcome.books.1;
        let outcome = std::mem::take(&mut tale.outcome);
        told.push(Told { chapter: *chapter, outcome, from: began, until: tale.begun.elapsed() });
        if let Err(error) = ended {
            broken = Some(error);
            break;
        }
        tale.far_end.with(|collector| collector.tally().close(Source(tale.source)));
        tale.bar.set_position(told.iter().map(|t| u64::try_from(t.chapter.lasts.as_millis()).unwrap_or(0)).sum());
    }
    tale.bar.finish_and_clear();
    let mut report = Report {
        seed,
        length,
        told,
        broken,
        planned: chapters.len(),
        series: std::mem::take(&mut tale.series),
        kept: None,
    };
    if report.broken.is_some() {
        drop(tale.agent.take());
        report.kept = Some(tale.rig.keep());
    } else if let Some(agent) = tale.agent.take() {
        agent.end().await?;
    }
    report.write(&options.report)?;
    Ok(report)
}

/// What the last look saw, for rates.
#[derive(Default)]
struct Before {
    at: f64,
    cpu_s: f64,
    acknowledged: f64,
    delivered: f64,
    syncs: f64,
}

struct Tale {
    rig: Rig,
    far_end: FarEnd,
    shim: Option<Shim>,
    no_shim: Option<String>,
    agent: Option<Agent>,
    dice: Dice,
    series: Series,
    before: Before,
    outcome: Outcome,
    bar: ProgressBar,
    begun: Instant,
    /// Of the chapters before.
    acknowledged: u64,
    /// The number of the next load's first client.
    source: u32,
}

impl Tale {
    /// `storage`: what the storage is told beside what it is told anyway.
    fn configure(&self, storage: &str) -> io::Result<()> {
        let (http, metrics, queue) = (self.rig.http, self.rig.metrics, self.rig.spool());
        self.rig.write_config(&format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{http}'}}}}}}}}
processors: {{batch: {{timeout: 200ms}}}}
exporters:
  otlphttp:
    endpoint: {}
    timeout: 2s
    retry_on_failure: {{initial_interval: 100ms, max_interval: 500ms}}
    sending_queue: {{storage: file_storage}}
extensions:
  file_storage:
    directory: '{}'
    compaction: {{on_start: true, on_rebound: true, rebound_needed_threshold_mib: 4, rebound_trigger_threshold_mib: 2}}
    {}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
    metrics: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
    logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
",
            self.far_end.endpoint(),
            queue.display(),
            storage,
        ))
    }

    fn say(&self, options: &Options, text: &str) {
        if options.verbose {
            self.bar.suspend(|| eprintln!("{:7.1} s  {text}", self.begun.elapsed().as_secs_f64()));
        }
        self.bar.set_message(text.to_owned());
    }

    async fn tell(&mut self, chapter: &Chapter) -> Result<(), Ended> {
        if self.agent.is_none() {
            self.start().await?;
        }
        let requests = self.far_end.with(|c| c.counts().requests);
        let failed = self.shim.as_ref().map_or(0, Shim::failed);
        let first = |n: u32| Source(self.source + n * chapter.shape.clients);
        let sources = [0, 1, 2].map(|n| (Signal::ALL[n as usize], first(n)));
        self.far_end.play(chapter.link.script(chapter.lasts, sources));
        let end = Instant::now() + chapter.lasts;
        let load = self.load(chapter);
        self.pass(chapter.fault_after, &load).await?;
        self.strike(chapter, &load).await?;
        self.pass(end.saturating_duration_since(Instant::now()), &load).await?;
        self.outcome.requests = self.far_end.with(|c| c.counts().requests) - requests;
        self.outcome.failed_calls = self.shim.as_ref().map_or(0, Shim::failed) - failed;
        self.calm(&load).await?;
        self.send_again(&load).await?;
        self.shrink(&load).await?;
        self.count(&load).await?;
        Ok(())
    }

    /// What the far end refused for good is set aside, no more and no less; it comes when a person has it sent again.
    async fn send_again(&mut self, load: &Running) -> Result<(), Ended> {
        let aside = async |tale: &Tale| tale.rig.metric("tfo_agent_items_dead_letters").await.map(|n| n as u64);
        self.outcome.set_aside = aside(self).await?;
        if self.outcome.set_aside == 0 {
            return Ok(());
        }
        let mut command = Command::new(self.rig.binary());
        command.args(["spool", "requeue", "--dead", "--json"]).arg(self.rig.spool()).stdin(Stdio::null());
        let done = command.output()?;
        if !done.status.success() {
            let text = format!("spool requeue: {}", String::from_utf8_lossy(&done.stderr));
            return Err(Broken::new("P7", text).into());
        }
        let begun = Instant::now();
        while aside(self).await? > 0 || self.waiting().await.is_none_or(|n| n >= 1.0) {
            if begun.elapsed() > PATIENCE {
                return Err(Broken::new("P7", "what was sent again does not arrive").into());
            }
            self.pass(LOOK, load).await?;
        }
        Ok(())
    }

    /// What lies in each segment, as `spool ls` sees it while no agent runs.
    fn items_by_segment(&self) -> Result<BTreeMap<String, u64>, Ended> {
        let mut command = Command::new(self.rig.binary());
        let listed = command.args(["spool", "ls", "--json"]).arg(self.rig.spool()).stdin(Stdio::null()).output()?;
        let listed: Value = serde_json::from_slice(&listed.stdout).map_err(io::Error::from)?;
        let segments = listed["segments"].as_array().into_iter().flatten();
        let of = |s: &Value| Some((s["segment"].as_str()?.to_owned(), s["items"].as_u64()?));
        Ok(segments.filter_map(of).collect())
    }

    /// Other settings of the storage, taken up by the running agent.
    async fn set_storage(&mut self, storage: &str) -> Result<(), Ended> {
        self.configure(storage)?;
        let reloads = async |tale: &Tale| tale.rig.metric("tfo_agent_config_reloads").await;
        let before = reloads(self).await?;
        self.agent()?.signal(Kill::HUP)?;
        let begun = Instant::now();
        while reloads(self).await? <= before {
            if begun.elapsed() > PATIENCE {
                return Err(Broken::new("P10", "a reload is not carried out").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn load(&mut self, chapter: &Chapter) -> Running {
        let shape = chapter.shape;
        let load = Load {
            endpoint: format!("http://127.0.0.1:{}", self.rig.http),
            signals: Signal::ALL.into(),
            rate: shape.rate,
            request_items: shape.request,
            clients: shape.clients,
            first_source: self.source,
        };
        self.source += shape.clients * 3;
        load.start()
    }

    async fn start(&mut self) -> Result<(), Ended> {
        let (shim, spool) = (&self.shim, self.rig.spool());
        let mut agent = self.rig.start_with(|command| {
            if let Some(shim) = shim {
                shim.apply(command, &spool);
            }
        })?;
        if let Err(error) = self.rig.listens(&mut agent).await {
            return Err(Broken::new("P4", error.to_string()).into());
        }
        let took = agent.began.elapsed();
        self.outcome.starts += 1;
        self.outcome.start = self.outcome.start.max(took);
        self.before.cpu_s = 0.0;
        self.agent = Some(agent);
        Ok(())
    }

    fn set(&self, trouble: Trouble) -> io::Result<()> {
        self.shim.as_ref().map_or(Ok(()), |shim| shim.set(trouble))
    }

    fn agent(&mut self) -> io::Result<&mut Agent> {
        self.agent.as_mut().ok_or_else(|| io::Error::other("there is no agent"))
    }

    fn kill(&mut self) -> io::Result<()> {
        self.agent.take().map_or(Ok(()), Agent::kill)
    }

    async fn strike(&mut self, chapter: &Chapter, load: &Running) -> Result<(), Ended> {
        let fault = chapter.fault;
        if let Some(why) = self.no_shim.as_ref().filter(|_| fault.needs_shim()) {
            self.outcome.skipped = Some(why.clone());
            return Ok(());
        }
        let trouble = Trouble::default();
        let trouble = match fault {
            Fault::Nothing => return Ok(()),
            Fault::Kill => {
                self.kill()?;
                return self.start().await;
            }
            Fault::KillAgain => {
                for _ in 0..3 {
                    self.kill()?;
                    self.start().await?;
                }
                return Ok(());
            }
            Fault::Restart => return self.restart().await,
            Fault::Reload => return Ok(self.agent()?.signal(Kill::HUP)?),
            Fault::Freeze => {
                self.agent()?.signal(Kill::STOP)?;
                tokio::time::sleep(chapter.fault_lasts).await; // it cannot be asked how it is
                return Ok(self.agent()?.signal(Kill::CONT)?);
            }
            Fault::Corruption => {
                self.kill()?;
                let held = self.items_by_segment()?;
                match flip(&self.rig.spool(), &mut self.dice)? {
                    Some(segment) => self.outcome.at_stake = held.get(&segment).copied().unwrap_or(0),
                    None => self.outcome.skipped = Some("there was no segment".to_owned()),
                }
                return self.start().await;
            }
            Fault::Cramped | Fault::Refusing | Fault::Aging => {
                self.set_storage(fault.storage()).await?;
                self.pass(chapter.fault_lasts, load).await?;
                return self.set_storage("").await;
            }
            Fault::ReadFails => Trouble { read_errno: EIO, ..trouble },
            Fault::SlowDisk => Trouble { sync_ms: 300, ..trouble },
            Fault::StalledDisk => Trouble { sync_ms: 6_000, ..trouble },
            Fault::SyncFails => Trouble { sync_errno: EIO, ..trouble },
            Fault::WriteFails => Trouble { write_errno: EIO, ..trouble },
            Fault::DiskFull => Trouble { write_errno: ENOSPC, name_errno: ENOSPC, ..trouble },
            Fault::ReadOnly => Trouble { write_errno: EROFS, name_errno: EROFS, ..trouble },
            Fault::ClockAhead => Trouble { wall_s: TEN_YEARS_S, ..trouble },
            Fault::ClockBehind => Trouble { wall_s: -TEN_YEARS_S, ..trouble },
        };
        self.set(trouble)?;
        self.pass(chapter.fault_lasts, load).await?;
        Ok(self.set(Trouble::default())?)
    }

    async fn restart(&mut self) -> Result<(), Ended> {
        let Some(agent) = self.agent.take() else { return Ok(()) };
        // 74: not everything in hand was safe when it had to go; what was acknowledged is.
        match agent.end().await?.map(|status| status.code()) {
            Some(Some(0 | 74)) => self.start().await,
            other => Err(Broken::new("P8", format!("asked to stop, it ended with {other:?}")).into()),
        }
    }

    /// The link is up, nobody sends, nothing waits.
    async fn calm(&mut self, load: &Running) -> Result<(), Ended> {
        self.far_end.play(Script::new());
        load.stop();
        let begun = Instant::now();
        while !(load.is_over() && self.waiting().await.is_some_and(|n| n < 1.0)) {
            if begun.elapsed() > PATIENCE {
                let (over, waiting) = (load.is_over(), self.waiting().await);
                let text =
                    format!("{PATIENCE:?} after the trouble: clients have their answers: {over}, waiting: {waiting:?}");
                return Err(Broken::new("P3", text).into());
            }
            self.pass(LOOK, load).await?;
        }
        self.outcome.drain = begun.elapsed();
        Ok(())
    }

    /// Everything is sent, dead letters too: housekeeping gives the disk back a few seconds later.
    async fn shrink(&mut self, load: &Running) -> Result<(), Ended> {
        let begun = Instant::now();
        while self.rig.left() > 1 << 20 && begun.elapsed() < Duration::from_secs(20) {
            self.pass(LOOK, load).await?;
        }
        self.outcome.left_bytes = self.rig.left();
        Ok(())
    }

    async fn waiting(&self) -> Option<f64> {
        self.rig.metric("tfo_agent_items_waiting").await.ok()
    }

    async fn lost(&self) -> io::Result<[u64; 6]> {
        let text = child::metrics(self.rig.metrics).await?;
        Ok(Reason::ALL.map(|reason| {
            let label = format!("reason=\"{}\"", reason.name());
            let of = |line: &str| {
                let value = line.rsplit(' ').next()?.parse::<f64>().ok()?;
                (line.starts_with("tfo_agent_items_lost{") && line.contains(&label)).then_some(value as u64)
            };
            text.lines().filter_map(of).sum()
        }))
    }

    async fn count(&mut self, load: &Running) -> io::Result<()> {
        let of = async |name: &str| self.rig.metric(name).await.map(|v| v as u64);
        let books = Books {
            accepted: of("tfo_agent_items_accepted").await?,
            delivered: of("tfo_agent_items_delivered").await?,
            waiting: of("tfo_agent_items_waiting").await?,
            dead_letters: of("tfo_agent_items_dead_letters").await?,
            quarantined: of("tfo_agent_items_quarantined").await?,
            lost: self.lost().await?,
        };
        let report = self.far_end.with(|collector| {
            let mut all = collector.tally().clone();
            all.merge(&load.tally());
            all.report()
        });
        self.acknowledged += load.acknowledged();
        let outcome = &mut self.outcome;
        outcome.books.1 = books;
        outcome.acknowledged = load.acknowledged();
        outcome.refused = load.refused();
        (outcome.missing, outcome.invented, outcome.duplicates) =
            (report.lost(), report.never_issued(), report.duplicated());
        Ok(())
    }

    /// Lets time go by, looking.
    async fn pass(&mut self, time: Duration, load: &Running) -> Result<(), Ended> {
        let end = Instant::now() + time;
        loop {
            if let Some(status) = self.agent()?.ended()? {
                let log = fs::read_to_string(self.rig.dir().join("agent.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(10)..].join("\n");
                return Err(Broken::new("P8", format!("the agent ended by itself ({status}):\n{last}")).into());
            }
            self.look(load).await;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    async fn look(&mut self, load: &Running) {
        let at = self.begun.elapsed().as_secs_f64();
        let seconds = at - self.before.at;
        if seconds < LOOK.as_secs_f64() / 2.0 {
            return;
        }
        let Some(seen) = self.agent.as_ref().and_then(|a| a.see().ok()) else { return };
        // What does not answer in time is frozen, or waits for its disk.
        let asked = tokio::time::timeout(LOOK, self.rig.metric("tfo_agent_items_waiting")).await;
        let waiting = asked.ok().and_then(Result::ok).unwrap_or(f64::NAN);
        let now = Before {
            at,
            cpu_s: seen.cpu_s,
            acknowledged: (self.acknowledged + load.acknowledged()) as f64,
            delivered: self.far_end.with(|c| c.counts().items) as f64,
            syncs: self.shim.as_ref().map_or(0, Shim::syncs) as f64,
        };
        let rate = |of: fn(&Before) -> f64| ((of(&now) - of(&self.before)) / seconds).max(0.0);
        self.series.add(Sample {
            at,
            rss_mib: seen.rss_mib,
            cpu: rate(|b| b.cpu_s) * 100.0,
            disk_mib: self.rig.allocated() as f64 / 1_048_576.0,
            waiting,
            accepted: rate(|b| b.acknowledged),
            delivered: rate(|b| b.delivered),
            syncs: rate(|b| b.syncs),
        });
        self.outcome.peak_mib = self.outcome.peak_mib.max(seen.peak_mib);
        self.before = now;
    }
}

/// Flips one to four bytes in a file of a segment; which segment, if there is one.
fn flip(spool: &Path, dice: &mut Dice) -> io::Result<Option<String>> {
    let mut files = Vec::new();
    let mut dirs: Vec<PathBuf> = fs::read_dir(spool)?.flatten().map(|e| e.path()).collect();
    dirs.retain(|d| d.file_name().is_some_and(|n| n.to_string_lossy().starts_with("seg-")));
    dirs.sort();
    while let Some(path) = dirs.pop() {
        let what = fs::symlink_metadata(&path)?;
        if what.is_dir() {
            dirs.extend(fs::read_dir(&path)?.flatten().map(|e| e.path()));
        } else if what.len() > 0 {
            files.push((path, what.len()));
        }
    }
    files.sort();
    if files.is_empty() {
        return Ok(None);
    }
    let (path, len) = &files[usize::try_from(dice.within(0..files.len() as u64)).unwrap_or(0)];
    let file = File::options().read(true).write(true).open(path)?;
    // Journals look 64 MiB long; what is in them stands at the beginning.
    let written = (*len).min(2 << 20);
    for _ in 0..dice.within(1..5) {
        let (at, mut byte) = (dice.within(0..written), [0]);
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ (1 << dice.within(0..8))], at)?;
    }
    let segment = path.strip_prefix(spool).ok().and_then(|inside| inside.iter().next());
    Ok(segment.map(|name| name.to_string_lossy().into_owned()))
}

fn bar(options: &Options, length: Duration) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed} / eta {eta}  {msg}") {
        bar.set_style(style);
    }
    if !options.verbose {
        bar.enable_steady_tick(Duration::from_millis(500));
    }
    bar
}
