//! The agent as a child process: on ports of its own, killed or asked to stop, and never left behind.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// How often a child that was asked to stop is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A child process that ends with this value at the latest, whatever went wrong.
#[derive(Debug)]
pub struct Child(process::Child);

impl Child {
    /// Starts it.
    ///
    /// # Errors
    /// The system's.
    pub fn spawn(command: &mut Command) -> io::Result<Child> {
        command.spawn().map(Child)
    }

    /// What signals are sent to.
    #[must_use]
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.0)
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }

    /// SIGTERM; waits at most `patience`. `None`: it was still there then, and was killed.
    ///
    /// # Errors
    /// The system's.
    pub async fn stop(mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM)?;
        let end = Instant::now() + patience;
        loop {
            let status = self.0.try_wait()?;
            if status.is_some() || Instant::now() >= end {
                return Ok(status);
            }
            sleep(LOOK).await;
        }
    }
}

impl Deref for Child {
    type Target = process::Child;

    fn deref(&self) -> &process::Child {
        &self.0
    }
}

impl DerefMut for Child {
    fn deref_mut(&mut self) -> &mut process::Child {
        &mut self.0
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both say no when it ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `<binary> run --config <config>`; what it says goes to the end of `log`.
///
/// # Errors
/// When the log cannot be opened.
pub fn agent(binary: &Path, config: &Path, log: &Path) -> io::Result<Command> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(binary);
    command.args(["run", "--config"]).arg(config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

/// A port of 127.0.0.1 that nobody has at this moment; the agent takes it a moment later. It is below those the kernel gives out by itself
/// (32,768 and above, `ip_local_port_range`): of such a port an outgoing connection may take possession meanwhile, and whoever asks
/// again and again whether somebody listens there may at last be connected with himself. No two calls in a process have the same.
///
/// # Errors
/// The system's: all are taken.
pub fn free_port() -> io::Result<u16> {
    const FIRST: u32 = 14_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id().wrapping_mul(1_009);
    let mut taken = None;
    for _ in 0..COUNT {
        let at = own.wrapping_add(NEXT.fetch_add(1, Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + at).map_err(io::Error::other)?;
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) => taken = Some(error),
        }
    }
    Err(taken.unwrap_or_else(|| io::Error::other("there is no port")))
}

/// One of an agent's own metrics, summed over its series. `name` may go on with labels: `up{exporter="a"`.
///
/// # Errors
/// When nobody serves metrics at that port of 127.0.0.1.
pub async fn metric(port: u16, name: &str) -> io::Result<f64> {
    Ok(sum(&metrics(port).await?, name))
}

/// An agent as plain as can be: OTLP over HTTP in at `http`, `otlphttp` out to `endpoint`, every signal kept in `queue`; no metrics
/// port. What is taken is batched by a hundred and offered again within a moment.
#[must_use]
pub fn plain_config(http: u16, endpoint: &str, queue: &Path) -> String {
    format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{http}'}}}}}}}}
processors: {{batch: {{timeout: 50ms, send_batch_size: 100, send_batch_max_size: 200}}}}
exporters:
  otlphttp:
    endpoint: {endpoint}
    retry_on_failure: {{initial_interval: 50ms, max_interval: 200ms}}
    sending_queue: {{storage: file_storage}}
extensions: {{file_storage: {{directory: '{}'}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
    traces: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
    metrics: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
",
        queue.display()
    )
}

/// All of an agent's own metrics.
///
/// # Errors
/// As [`metric`].
pub async fn metrics(port: u16) -> io::Result<String> {
    get(port, "/metrics").await
}

/// What is answered at a port of 127.0.0.1, head and body.
///
/// # Errors
/// When nobody listens there, or what comes back is cut or no text.
pub async fn get(port: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// One metric in what [`metrics`] gave, summed over its series.
#[must_use]
pub fn sum(text: &str, name: &str) -> f64 {
    let ends = |rest: &str| rest.starts_with(['{', ' ', ',', '}']);
    let values = text.lines().filter(|line| line.strip_prefix(name).is_some_and(ends));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_there(pid: rustix::process::Pid) -> bool {
        rustix::process::test_kill_process(pid).is_ok()
    }

    #[test]
    fn a_free_port_is_given_once_and_no_connection_of_the_kernels_takes_it() {
        let mut ports: Vec<u16> = (0..100).map(|_| free_port().expect("a port")).collect();
        assert!(ports.iter().all(|port| *port < 32_768), "{ports:?}");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 100);
    }

    #[test]
    fn a_metric_is_the_sum_of_its_series_and_of_no_other() {
        let text = "# HELP up u\nup{a=\"x\",b=\"y\"} 1\nup{a=\"z\"} 2\nupper 4\nup 8\n";
        for (name, expected) in [("up", 11.0), ("up{a=\"x\"", 1.0), ("upper", 4.0), ("down", 0.0)] {
            assert_eq!(sum(text, name), expected, "{name}");
        }
    }

    /// Killed, stopped, deaf or forgotten: no child of ours stays behind.
    #[actix::test]
    async fn no_child_stays_behind() {
        let sleeper = || Child::spawn(Command::new("sleep").arg("600")).expect("every system has it");
        let (killed, stopped, forgotten) = (sleeper(), sleeper(), sleeper());
        let mut deaf = Child::spawn(
            Command::new("sh").args(["-c", "trap '' TERM; echo; while :; do sleep 1; done"]).stdout(Stdio::piped()),
        )
        .expect("every system has it");
        let mut ready = [0];
        io::Read::read_exact(&mut deaf.stdout.take().expect("piped"), &mut ready).expect("it says a line");
        let pids = [killed.pid(), stopped.pid(), forgotten.pid(), deaf.pid()];
        assert!(pids.into_iter().all(is_there));
        killed.kill().expect("our child");
        let status = stopped.stop(Duration::from_secs(20)).await.expect("our child").expect("it hears");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
        assert_eq!(deaf.stop(Duration::from_millis(100)).await.expect("our child"), None);
        drop(forgotten);
        assert!(!pids.into_iter().any(is_there));
    }
}
