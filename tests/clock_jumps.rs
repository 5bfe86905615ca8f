//! The real binary, while its clock jumps by decades, begins in 1970 after a reboot, and comes into step: nothing expires before
//! its time, and nothing stays for ever.
//!
//! | part | how the clock is moved |
//! |---|---|
//! | a story over a reboot | `TFO_TEST_CLOCK` (feature `testing`): wall clock, monotonic clock, boot id, in step or not |
//! | jumps of the libc clock | libfaketime, from the system or from apt; else SKIPPED |
//! | in the sandbox of the shipped unit | `systemd-run` with what `systemd/` says; SKIPPED without systemd: `tests/systemd/run --clock` boots one for it |

#![allow(clippy::print_stdout)] // it says SKIPPED, and why

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tfo_otel_agent::base::Clock;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::FarEnd;
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{Load, until};

const PATIENCE: Duration = Duration::from_secs(60);
const YEARS_10_S: i64 = 10 * 365 * 86_400;
const HOUR_S: i64 = 3_600;

struct Rig {
    dir: tempfile::TempDir,
    far_end: FarEnd,
    port: u16,
    metrics: u16,
    sources: u32,
}

impl Rig {
    fn new(max_age: &str) -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
        let far_end = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: 50ms}}}}
exporters: {{otlphttp: {{endpoint: '{}', sending_queue: {{storage: file_storage}}, retry_on_failure: {{initial_interval: 50ms, max_interval: 200ms}}}}}}
extensions: {{file_storage: {{directory: '{}', max_age: {max_age}}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}}}
",
            far_end.endpoint(),
            dir.path().join("spool").display(),
        );
        std::fs::write(dir.path().join("agent.yaml"), text).expect("space");
        Rig { dir, far_end, port, metrics, sources: 1 }
    }

    fn command(&self) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        child::agent(binary, &self.dir.path().join("agent.yaml"), &self.dir.path().join("agent.log")).expect("space")
    }

    /// What the agent said, without its tries to export.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default();
        log.lines().filter(|line| !line.contains("Exporting failed")).map(|line| format!("{line}\n")).collect()
    }

    async fn listens(&self) {
        let there = || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        assert!(until(PATIENCE, there).await, "{}", self.log());
    }

    /// So many items at least are acknowledged; returns how many.
    async fn send(&mut self, items: u64) -> u64 {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let first_source = self.sources;
        self.sources += 10;
        let load =
            Load { endpoint, signals: vec![Signal::Logs], rate: 2_000, request_items: 50, clients: 1, first_source };
        let running = load.start();
        assert!(until(PATIENCE, || running.acknowledged() >= items).await, "{}", self.log());
        running.stop();
        tokio::time::sleep(Duration::from_millis(500)).await; // what is under way
        running.acknowledged()
    }

    async fn metric(&self, name: &str) -> u64 {
        child::metric(self.metrics, name).await.expect("it listens") as u64
    }

    async fn expired(&self) -> u64 {
        self.metric("tfo_agent_items_lost{exporter=\"otlphttp\",pipeline=\"logs\",reason=\"expired\"").await
    }

    /// For a few rounds of housekeeping nothing expires.
    async fn keeps(&self, items: u64, why: &str) {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            assert_eq!(self.expired().await, items, "{why}\n{}", self.log());
        }
    }

    async fn expires(&self, items: u64, why: &str) {
        for _ in 0..200 {
            if self.expired().await >= items {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(self.expired().await, items, "{why}\n{}", self.log());
    }

    /// The far end is back: what did not expire arrives, once in the books, and nothing is lost for another reason.
    async fn ends_well(&self, accepted: u64, expired: u64) {
        self.far_end.play(Script::new());
        let mut waiting = u64::MAX;
        for _ in 0..300 {
            waiting = self.metric("tfo_agent_items_waiting").await;
            if waiting == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(waiting, 0, "{}", self.log());
        assert_eq!(self.metric("tfo_agent_items_lost").await, expired, "{}", self.log());
        let arrived = self.far_end.with(|collector| collector.counts().items);
        // An upload that was on its way when its data expired may arrive all the same; that changes nothing in the books.
        assert!(
            (accepted - expired..=accepted).contains(&arrived),
            "{arrived} of {accepted}, {expired} expired\n{}",
            self.log()
        );
    }
}

/// The file of `TFO_TEST_CLOCK`.
struct Hands {
    file: std::fs::File,
    path: PathBuf,
    wall_s: i64,
    mono_s: i64,
    boot: u8,
    synced: bool,
}

impl Hands {
    fn new(dir: &Path) -> Hands {
        let path = dir.join("clock");
        let file = std::fs::File::create(&path).expect("space");
        let hands = Hands { file, path, wall_s: 0, mono_s: 0, boot: 1, synced: false };
        hands.show();
        hands
    }

    fn show(&self) {
        let mut page = Vec::with_capacity(33);
        page.extend_from_slice(&(self.wall_s * 1_000_000_000).to_le_bytes());
        page.extend_from_slice(&(self.mono_s * 1_000).to_le_bytes());
        page.extend_from_slice(&[self.boot; 16]);
        page.push(self.synced.into());
        self.file.write_all_at(&page, 0).expect("space");
    }

    fn set(&mut self, change: impl FnOnce(&mut Hands)) {
        change(self);
        self.show();
    }

    /// Time passes on both clocks.
    fn pass(&mut self, seconds: i64) {
        self.set(|h| (h.wall_s, h.mono_s) = (h.wall_s + seconds, h.mono_s + seconds));
    }

    /// The clock comes into step, and stays so for long enough to be believed.
    async fn in_step(&mut self, wall_s: i64) {
        self.set(|h| (h.wall_s, h.synced) = (wall_s, true));
        tokio::time::sleep(Duration::from_secs(6)).await; // the keeper looks every 5 s
        self.pass(70);
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
}

/// Goal: an hour is an hour, whatever the clocks say: over jumps, a kill, three hours without power, a clock that begins in 1970 and
/// one that somebody sets wrong.
#[actix::test]
async fn an_hour_is_an_hour_over_jumps_and_a_reboot() {
    let mut rig = Rig::new("1h");
    let mut hands = Hands::new(rig.dir.path());
    let start = |rig: &Rig, hands: &Hands| {
        let mut command = rig.command();
        Child::spawn(command.env("TFO_TEST_CLOCK", &hands.path)).expect("cargo built it")
    };
    let agent = start(&rig, &hands);
    rig.listens().await;
    let first = rig.send(500).await;
    hands.in_step(0).await;
    for (jump, why) in [(YEARS_10_S, "+10 years"), (-YEARS_10_S, "-10 years"), (-60 * 365 * 86_400, "before 1970")] {
        hands.set(|h| (h.wall_s, h.synced) = (jump, false));
        rig.keeps(0, why).await;
    }
    let oldest = rig.metric("tfo_agent_oldest_waiting_seconds").await;
    assert!(oldest < 600, "minutes have passed, not {oldest} s");
    // Cut off; three hours later it begins with 1970 on the clock, and nobody there who knows better.
    agent.kill().expect("our child");
    let up = i64::try_from(Clock::system().now().mono_ms / 1_000).expect("small");
    let now = i64::try_from(Clock::system().now().wall_ns / 1_000_000_000).expect("small");
    let truth = 3 * HOUR_S;
    hands.set(|h| (h.boot, h.mono_s, h.wall_s, h.synced) = (2, -up + 5, -now + 5, false));
    let agent = start(&rig, &hands);
    rig.listens().await;
    let second = rig.send(500).await;
    rig.keeps(0, "for all that is known some minutes have passed").await;
    hands.set(|h| h.wall_s = YEARS_10_S);
    rig.keeps(0, "set by hand, and wrong").await;
    let waits = rig.metric("tfo_agent_items_waiting").await;
    assert_eq!(waits, first + second);
    hands.in_step(truth).await;
    rig.expires(first, "now it is known that it was hours ago").await;
    hands.pass(HOUR_S / 2);
    rig.keeps(first, "what came in before the clock was set is half an hour old").await;
    rig.ends_well(first + second, first).await;
    assert!(agent.stop(PATIENCE).await.expect("our child").is_some_and(|status| status.success()), "{}", rig.log());
}

/// Without any clock that can be believed, the time it was on is what counts.
#[actix::test]
async fn without_a_clock_the_time_it_was_on_counts() {
    let mut rig = Rig::new("1h");
    let mut hands = Hands::new(rig.dir.path());
    let mut command = rig.command();
    let _agent = Child::spawn(command.env("TFO_TEST_CLOCK", &hands.path)).expect("cargo built it");
    rig.listens().await;
    let first = rig.send(500).await;
    hands.pass(HOUR_S - 120);
    rig.keeps(0, "not before its time").await;
    let second = rig.send(500).await;
    hands.pass(180);
    rig.expires(first, "an hour").await;
    rig.ends_well(first + second, first).await;
}

/// libfaketime: installed, or unpacked from what apt has, beside the test and nowhere else.
fn faketime(dir: &Path) -> Result<PathBuf, String> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
    let named = |root: &Path| {
        let at = |place: &&str| root.join(place.trim_start_matches('/')).join("faketime/libfaketime.so.1");
        places.iter().map(at).find(|path| path.exists())
    };
    if let Some(found) = named(Path::new("/")) {
        return Ok(found);
    }
    let told = |done: std::io::Result<std::process::ExitStatus>, what: &str| match done {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(error) => Err(format!("{what}: {error}")),
    };
    let fetch = Command::new("timeout").args(["60", "apt-get", "download", "libfaketime"]).current_dir(dir).status();
    told(fetch, "apt-get download libfaketime")?;
    let unpack = Command::new("sh").args(["-c", "dpkg -x libfaketime_*.deb faketime"]).current_dir(dir).status();
    told(unpack, "dpkg -x")?;
    named(&dir.join("faketime")).ok_or_else(|| "the package has no libfaketime.so.1".into())
}

/// The clock that libc gives jumps by ten years, there and back, under a binary that knows nothing of it; half a minute is half a
/// minute.
#[actix::test]
async fn half_a_minute_is_half_a_minute_while_the_clock_of_libc_jumps() {
    let mut rig = Rig::new("30s");
    let library = match faketime(rig.dir.path()) {
        Ok(library) => library,
        Err(why) => return println!("SKIPPED: jumps of the clock of libc: {why}"),
    };
    let hand = rig.dir.path().join("faketime.rc");
    std::fs::write(&hand, "+0\n").expect("space");
    let mut command = rig.command();
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &hand).env("FAKETIME_NO_CACHE", "1");
    let _agent = Child::spawn(command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1")).expect("cargo built it");
    rig.listens().await;
    let began = std::time::Instant::now();
    let first = rig.send(500).await;
    for jump in ["+3650d\n", "-3650d\n", "+3650d\n"] {
        std::fs::write(&hand, jump).expect("space");
        rig.keeps(0, jump).await;
        if began.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    rig.expires(first, "half a minute").await;
    assert!(began.elapsed() > Duration::from_secs(29), "after {:?}", began.elapsed());
    // That the clock jumped at all is seen in the log: it was the year of then, and ten years later.
    let year = |line: &str| line.get(..4).and_then(|y| y.parse::<u32>().ok());
    let years: std::collections::BTreeSet<u32> = rig.log().lines().filter_map(year).collect();
    let span = years.last().zip(years.first()).map(|(last, first)| last - first);
    assert!(span.is_some_and(|span| span >= 9), "the library moved the clock: {years:?}");
    let second = rig.send(500).await;
    rig.ends_well(first + second, first).await;
}

/// The same inside the sandbox of the unit that is shipped, as the user it names if there is one.
#[test]
fn in_the_sandbox_of_the_shipped_unit() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let entries = std::fs::read_dir(&units).expect("a unit is shipped");
    let units: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "service"))
        .collect();
    for unit in units {
        let text = std::fs::read_to_string(&unit).expect("it is there");
        let takes = |line: &str| {
            let on =
                |key: &str| line.strip_prefix(key).is_some_and(|v| matches!(v.trim(), "yes" | "true" | "on" | "1"));
            on("ProtectClock=") || (line.starts_with("SystemCallFilter=~") && line.contains("@clock"))
        };
        assert!(!text.lines().any(takes), "{}: max_age must count time without power", unit.display());
        if !Path::new("/run/systemd/system").exists() {
            println!("SKIPPED: clock jumps in the sandbox of {}: systemd does not run here", unit.display());
            continue;
        }
        // Every setting of its [Service] that makes the sandbox, and this test again inside of it.
        let mut sandbox = vec![
            "Protect",
            "Private",
            "Restrict",
            "SystemCall",
            "NoNew",
            "Lock",
            "MemoryDeny",
            "Capability",
            "Ambient",
            "DevicePolicy",
            "RemoveIPC",
            "UMask",
        ];
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = text.lines().find_map(|line| line.strip_prefix("User="));
        if user.is_some_and(|user| users.lines().any(|line| line.starts_with(&format!("{user}:")))) {
            sandbox.extend(["User=", "Group="]);
        }
        let binary = std::env::current_exe().expect("this binary");
        let mut run = Command::new("systemd-run");
        run.args(["--wait", "--pipe", "--quiet", "--collect"]);
        for line in text.lines().filter(|line| sandbox.iter().any(|key| line.starts_with(key))) {
            run.arg("-p").arg(line);
        }
        run.arg(binary).args(["--nocapture", "--exact", "an_hour_is_an_hour_over_jumps_and_a_reboot"]);
        run.arg("half_a_minute_is_half_a_minute_while_the_clock_of_libc_jumps");
        match run.status() {
            Ok(status) => assert!(status.success(), "in the sandbox of {}: {status}", unit.display()),
            Err(error) => println!("SKIPPED: clock jumps in the sandbox of {}: {error}", unit.display()),
        }
    }
}
