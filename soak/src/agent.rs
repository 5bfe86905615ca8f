//! The agent as a child, and what the kernel says of it.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tokio::net::TcpStream;

/// Named figures, in the order they were measured.
#[derive(Debug, Default)]
pub(crate) struct Figures(pub(crate) Vec<(String, f64)>);

impl Figures {
    pub(crate) fn add(&mut self, name: &str, value: f64) {
        self.0.push((name.to_owned(), value));
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in &self.0 {
            let digits = match value.abs() {
                v if v >= 1_000.0 => 0,
                v if v >= 10.0 => 1,
                _ => 3,
            };
            writeln!(f, "{name:width$}  {value:>14.digits$}")?;
        }
        Ok(())
    }
}

/// Where agents are run.
pub(crate) struct Rig {
    binary: PathBuf,
    dir: tempfile::TempDir,
    pub(crate) http: u16,
    pub(crate) metrics: u16,
}

/// A running agent.
pub(crate) struct Agent {
    child: Child,
    pub(crate) began: Instant,
}

/// What the kernel says of a process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) cpu_s: f64,
    pub(crate) rss_mib: f64,
    /// Of these its own; the rest is pages of the binary and the C library, which the kernel can drop.
    pub(crate) own_mib: f64,
    pub(crate) peak_mib: f64,
    /// Bytes given to write(2) and its like.
    pub(crate) written: f64,
    /// Bytes that reached the block layer.
    pub(crate) to_device: f64,
}

impl Rig {
    pub(crate) fn new(binary: &Path, dir: Option<&Path>) -> io::Result<Rig> {
        if !binary.is_file() {
            let text = format!("there is no agent at {}; cargo build --release makes one", binary.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        let dir = match dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        }?;
        Ok(Rig { binary: binary.to_owned(), dir, http: free_port()?, metrics: free_port()? })
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.dir.path().join("queue")
    }

    /// A configuration, with the seed's Production processors or none; `max_mib` limits the spool.
    pub(crate) fn configure(&self, far_end: &str, production: bool, max_mib: Option<u64>) -> io::Result<()> {
        let max = max_mib.map(|mib| format!(", max_size_mib: {mib}")).unwrap_or_default();
        self.configure_with(far_end, production, &max)
    }

    /// The same with more keys for the spool.
    pub(crate) fn configure_with(&self, far_end: &str, production: bool, spool: &str) -> io::Result<()> {
        let (definitions, names) = if production {
            (
                "
  memory_limiter: {limit_mib: 256, spike_limit_mib: 64, check_interval: 1s}
  resource:
    attributes:
      - {key: host.name, value: gateway-0173, action: upsert}
      - {key: host.ip, value: 10.20.0.1, action: upsert}
  attributes:
    actions:
      - {key: telemetryflow.workspace.id, value: 550e8400-e29b-41d4-a716-446655440000, action: upsert}
      - {key: telemetryflow.tenant.id, value: 660e8400-e29b-41d4-a716-446655440001, action: upsert}
      - {key: agent.version, value: 1.0.0-CE, action: upsert}
      - {key: agent.type, value: tfo-otel-agent, action: upsert}",
                "memory_limiter, resource, attributes, ",
            )
        } else {
            ("", "")
        };
        let (http, metrics, queue) = (self.http, self.metrics, self.spool());
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{http}'}}}}}}}}
processors:{definitions}
  batch: {{}}
exporters:
  otlphttp:
    endpoint: {far_end}
    retry_on_failure: {{initial_interval: 100ms, max_interval: 500ms}}
    sending_queue: {{storage: file_storage}}
extensions: {{file_storage: {{directory: '{}'{spool}}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [{names}batch], exporters: [otlphttp]}}}}
",
            queue.display()
        );
        self.write_config(&text)
    }

    /// Logs alone, drained in this order, batched as the seed does it at the edge but for its timeout.
    pub(crate) fn configure_drain(&self, far_end: &str, order: &str, max_mib: u64) -> io::Result<()> {
        let (http, metrics, queue) = (self.http, self.metrics, self.spool());
        self.write_config(&format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{http}'}}}}}}}}
processors: {{batch: {{timeout: 200ms, send_batch_size: 2000, send_batch_max_size: 4000}}}}
exporters:
  otlphttp:
    endpoint: {far_end}
    retry_on_failure: {{initial_interval: 100ms, max_interval: 500ms}}
    sending_queue: {{storage: file_storage}}
    drain: {{order: {order}}}
extensions: {{file_storage: {{directory: '{}', max_size_mib: {max_mib}}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
            queue.display()
        ))
    }

    /// Logs and metrics, so that one can be consumed and the other not.
    pub(crate) fn configure_lanes(&self, far_end: &str, spool: &str) -> io::Result<()> {
        let (http, metrics, queue) = (self.http, self.metrics, self.spool());
        self.write_config(&format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{http}'}}}}}}}}
processors: {{batch: {{}}}}
exporters:
  otlphttp:
    endpoint: {far_end}
    retry_on_failure: {{initial_interval: 100ms, max_interval: 500ms}}
    sending_queue: {{storage: file_storage}}
extensions: {{file_storage: {{directory: '{}'{spool}}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines:
    logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
    metrics: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
",
            queue.display()
        ))
    }

    /// What the next start runs with.
    pub(crate) fn write_config(&self, text: &str) -> io::Result<()> {
        fs::write(self.dir.path().join("agent.yaml"), text)
    }

    /// The agent's.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// From now on this program runs the agent: it is given the same arguments.
    pub(crate) fn run_by(&mut self, program: &Path) {
        program.clone_into(&mut self.binary);
    }

    /// Where everything of this run lies.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the directory behind, for a person to look into.
    pub(crate) fn keep(self) -> PathBuf {
        self.dir.keep()
    }

    /// Starts it; does not wait for anything.
    pub(crate) fn start(&self) -> io::Result<Agent> {
        self.start_with(|_| ())
    }

    /// The same, with something changed about the command.
    pub(crate) fn start_with(&self, change: impl FnOnce(&mut Command)) -> io::Result<Agent> {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = child::agent(&self.binary, &at("agent.yaml"), &at("agent.log"))?;
        change(&mut command);
        let began = Instant::now();
        Ok(Agent { child: Child::spawn(&mut command)?, began })
    }

    /// Waits until it listens.
    pub(crate) async fn listens(&self, agent: &mut Agent) -> io::Result<()> {
        self.connected(agent).await.map(drop)
    }

    /// A connection to it, as soon as it listens.
    pub(crate) async fn connected(&self, agent: &mut Agent) -> io::Result<TcpStream> {
        loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.http)).await {
                return Ok(stream);
            }
            if let Some(status) = agent.child.try_wait()? {
                let log = fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default();
                return Err(io::Error::other(format!("the agent ended ({status}):\n{log}")));
            }
            if agent.began.elapsed() > Duration::from_secs(20) {
                return Err(io::Error::other("the agent does not listen"));
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    /// Bytes the filesystem has given to the spool.
    pub(crate) fn allocated(&self) -> u64 {
        allocated(&self.spool())
    }

    /// The same without what was set aside as damaged: that is kept as evidence, up to a limit of its own.
    pub(crate) fn left(&self) -> u64 {
        self.allocated().saturating_sub(allocated(&self.spool().join("quarantine")))
    }

    pub(crate) fn forget_spool(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.spool()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// One of the agent's own metrics, summed over its series.
    pub(crate) async fn metric(&self, name: &str) -> io::Result<f64> {
        child::metric(self.metrics, name).await
    }
}

impl Agent {
    pub(crate) fn see(&self) -> io::Result<Seen> {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let stat = fs::read_to_string(proc.join("stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        let cpu_s = (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64;
        let status = fs::read_to_string(proc.join("status"))?;
        let kib = |name: &str| named(&status, name) / 1_024.0;
        let io = fs::read_to_string(proc.join("io"))?;
        Ok(Seen {
            cpu_s,
            rss_mib: kib("VmRSS:"),
            own_mib: kib("RssAnon:"),
            peak_mib: kib("VmHWM:"),
            written: named(&io, "wchar:"),
            to_device: named(&io, "write_bytes:"),
        })
    }

    /// From now on the peak of its memory is that of what follows.
    pub(crate) fn forget_peak(&self) -> io::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")
    }

    pub(crate) fn kill(self) -> io::Result<()> {
        self.child.kill()
    }

    /// SIGTERM; how long it took to stop.
    pub(crate) async fn stop(self) -> io::Result<Duration> {
        let began = Instant::now();
        self.end().await?;
        Ok(began.elapsed())
    }

    /// SIGTERM; how it ended. `None`: it did not within a minute, and was killed.
    pub(crate) async fn end(self) -> io::Result<Option<ExitStatus>> {
        self.child.stop(Duration::from_secs(60)).await
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process(self.child.pid(), signal)?)
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

fn named(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

fn allocated(path: &Path) -> u64 {
    let own = fs::symlink_metadata(path).map_or(0, |m| m.blocks() * 512);
    let Ok(entries) = fs::read_dir(path) else { return own };
    own + entries.flatten().map(|e| allocated(&e.path())).sum::<u64>()
}
