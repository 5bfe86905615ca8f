//! A disk without a free byte, or without a free inode, under load, and the real binary: what happens to what was
//! acknowledged, and whether it comes back by itself.
//!
//! Each case runs in a mount namespace of its own on a small tmpfs; where the system gives none, it says SKIPPED and proves
//! nothing.

#![allow(clippy::print_stdout)] // it says SKIPPED, and why

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::books::{self, Bound};
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{Load, Running, until};
use tfo_otel_agent::testing::{FarEnd, Tally};

const PATIENCE: Duration = Duration::from_secs(60);
/// Items of each request.
const ITEMS: u32 = 100;
/// Most items on the way to the far end at a time: ten uploads of `send_batch_size` and one request more.
const UNDER_WAY: u64 = 10 * (8_192 + ITEMS as u64);
/// Tells the test that it runs inside.
const INSIDE: &str = "TFO_TEST_TMPFS";

/// Where this test's tmpfs is; `None`: it ran in a child, or cannot run here.
fn tmpfs(test: &str, options: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return Some(dir.into());
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mount = format!("mount -t tmpfs -o {options} tfo-test \"$0\" || exit 77; exec \"$@\"");
    let binary = std::env::current_exe().expect("this binary");
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &mount])
        .arg(dir.path())
        .arg(binary)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, dir.path())
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) if matches!(status.code(), Some(1 | 77)) => println!("SKIPPED: {test}: no mount namespace here"),
        Ok(status) => panic!("{test} inside its namespace: {status}"),
        Err(error) => println!("SKIPPED: {test}: {error}"),
    }
    None
}

struct Rig {
    child: Child,
    dir: PathBuf,
    far_end: FarEnd,
    port: u16,
    metrics: u16,
}

impl Rig {
    fn start(dir: &Path, storage: &str) -> Rig {
        let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
        let far_end = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: 50ms}}}}
exporters: {{otlphttp: {{endpoint: '{}', sending_queue: {{storage: file_storage}}, retry_on_failure: {{initial_interval: 50ms, max_interval: 200ms}}}}}}
extensions: {{file_storage: {{directory: '{}', {storage}}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines:
    logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
    traces: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
",
            far_end.endpoint(),
            dir.join("spool").display(),
        );
        // Not on the small disk: the configuration and the log are not what is tried.
        let beside = std::env::temp_dir().join(format!("tfo-disk-full-{port}"));
        std::fs::create_dir_all(&beside).expect("a temporary directory");
        let (config, log) = (beside.join("agent.yaml"), beside.join("agent.log"));
        std::fs::write(&config, text).expect("space");
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        let child = Child::spawn(&mut child::agent(binary, &config, &log).expect("space")).expect("cargo built it");
        Rig { child, dir: beside, far_end, port, metrics }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    fn load(&self) -> Running {
        self.load_of(Signal::Logs, 20_000, 1)
    }

    fn load_of(&self, signal: Signal, rate: u64, first_source: u32) -> Running {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        Load { endpoint, signals: vec![signal], rate, request_items: ITEMS, clients: 2, first_source }.start()
    }

    async fn evicted(&self, pipeline: &str) -> u64 {
        self.metric(&format!("tfo_agent_items_lost{{exporter=\"otlphttp\",pipeline=\"{pipeline}\",reason=\"evicted\""))
            .await
    }

    async fn metric(&self, name: &str) -> u64 {
        child::metric(self.metrics, name).await.expect("it listens") as u64
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// The books of the clients and of the far end.
    fn books(&self, load: &Running) -> Tally {
        let mut books = load.tally();
        self.far_end.with(|collector| books.merge(collector.tally()));
        books
    }

    /// The far end is back: everything that is not told as evicted arrives.
    async fn ends_well(mut self, load: &Running) {
        self.far_end.play(Script::new());
        let mut missing = u64::MAX;
        for _ in 0..600 {
            let evicted =
                self.metric("tfo_agent_items_lost{exporter=\"otlphttp\",pipeline=\"logs\",reason=\"evicted\"").await;
            missing = self.books(load).report().lost().saturating_sub(evicted);
            if missing == 0 && self.metric("tfo_agent_items_waiting").await == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(missing, 0, "acknowledged, not arrived, not told as lost; {}", self.log());
        assert_eq!(self.books(load).report().never_issued(), 0);
        let lost = self.metric("tfo_agent_items_lost").await;
        let evicted =
            self.metric("tfo_agent_items_lost{exporter=\"otlphttp\",pipeline=\"logs\",reason=\"evicted\"").await;
        assert_eq!(lost, evicted, "nothing is lost for another reason; {}", self.log());
        // What the clients heard no success of may be kept all the same; what is evicted may be under way.
        let bound = Bound { twice: load.refused() * u64::from(ITEMS), late: UNDER_WAY };
        let agreed = books::agree(self.metrics, "otlphttp", bound, PATIENCE, || self.books(load)).await;
        if let Err(no) = agreed {
            panic!("the books and the far end: {no}; {}", self.log());
        }
        assert!(self.is_alive(), "{}", self.log());
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// Takes every byte there is.
fn fill_bytes(dir: &Path) -> PathBuf {
    let path = dir.join("somebody-else");
    let mut file = File::options().create(true).append(true).open(&path).expect("an inode");
    for size in [1 << 20, 4 << 10, 1] {
        let bytes = vec![7; size];
        while file.write_all(&bytes).is_ok() {}
    }
    path
}

/// Takes every inode there is.
fn fill_inodes(dir: &Path) -> PathBuf {
    let path = dir.join("somebody-else");
    std::fs::create_dir_all(&path).expect("an inode");
    for n in 0.. {
        if File::create(path.join(n.to_string())).is_err() {
            break;
        }
    }
    path
}

/// Somebody else fills the disk while the far end is away; the oldest gives way, with not a byte free, and intake goes on. While
/// somebody takes whatever becomes free, not everything is given up for nothing.
#[actix::test]
async fn without_a_free_byte_the_oldest_gives_way_and_intake_goes_on() {
    let name = "without_a_free_byte_the_oldest_gives_way_and_intake_goes_on";
    let Some(disk) = tmpfs(name, "size=48m") else { return };
    let mut rig = Rig::start(&disk, "max_size_mib: 40, min_free_mib: 2, when_full: drop_oldest");
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    assert!(until(PATIENCE, || load.acknowledged() > 60_000).await, "{}", rig.log());
    let filler = fill_bytes(&disk);
    // Nobody takes anything any more: what comes in takes the place of the oldest.
    let before = load.acknowledged();
    assert!(until(PATIENCE, || load.acknowledged() > before + 60_000).await, "intake goes on: {}", rig.log());
    let helped = rig.evicted("logs").await;
    assert!(helped > 0, "the oldest gave way without a free byte; {}", rig.log());
    // Somebody is faster than the spool: whatever becomes free is taken at once.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (until_then, at) = (stop.clone(), disk.clone());
    let greedy = std::thread::spawn(move || {
        while !until_then.load(std::sync::atomic::Ordering::Relaxed) {
            fill_bytes(&at);
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(rig.is_alive(), "{}", rig.log());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    greedy.join().expect("it only writes");
    let (gone, waiting) = (rig.evicted("logs").await - helped, rig.metric("tfo_agent_items_waiting").await);
    assert!(waiting > gone, "{waiting} wait, {gone} were given up for somebody who took it all; {}", rig.log());
    std::fs::remove_file(filler).expect("it is there");
    let before = load.acknowledged();
    assert!(until(PATIENCE, || load.acknowledged() > before + 20_000).await, "intake goes on: {}", rig.log());
    load.stop();
    rig.ends_well(&load).await;
}

/// With `refuse` nothing gives way: clients are told to come back until there is space.
#[actix::test]
async fn without_a_free_byte_and_by_refusing_nothing_is_lost() {
    let Some(disk) = tmpfs("without_a_free_byte_and_by_refusing_nothing_is_lost", "size=48m") else { return };
    let mut rig = Rig::start(&disk, "max_size_mib: 40, min_free_mib: 2, when_full: refuse");
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    assert!(until(PATIENCE, || load.acknowledged() > 60_000).await, "{}", rig.log());
    let filler = fill_bytes(&disk);
    assert!(until(PATIENCE, || load.refused() > 10).await, "clients are told to come back");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.is_alive(), "{}", rig.log());
    // The far end is back before there is space: what is delivered goes, with not a byte free.
    rig.far_end.play(Script::new());
    let few = || rig.far_end.with(|c| c.counts().items) > 50_000;
    assert!(until(PATIENCE, few).await, "{}", rig.log());
    std::fs::remove_file(filler).expect("it is there");
    let before = load.acknowledged();
    assert!(until(PATIENCE, || load.acknowledged() > before + 20_000).await, "intake goes on: {}", rig.log());
    load.stop();
    assert_eq!(rig.metric("tfo_agent_items_lost").await, 0);
    rig.ends_well(&load).await;
}

/// No segment can be made any more; when inodes are back, so is intake.
#[actix::test]
async fn without_a_free_inode_nothing_is_lost_and_it_comes_back() {
    let name = "without_a_free_inode_nothing_is_lost_and_it_comes_back";
    let Some(disk) = tmpfs(name, "size=64m,nr_inodes=400") else { return };
    let mut rig = Rig::start(&disk, "max_size_mib: 40, min_free_mib: 2, when_full: drop_oldest");
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    assert!(until(PATIENCE, || load.acknowledged() > 20_000).await, "{}", rig.log());
    let filler = fill_inodes(&disk);
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fill_inodes(&disk);
        assert!(rig.is_alive(), "{}", rig.log());
    }
    std::fs::remove_dir_all(filler).expect("it is there");
    let before = load.acknowledged();
    assert!(until(PATIENCE, || load.acknowledged() > before + 20_000).await, "intake goes on: {}", rig.log());
    load.stop();
    rig.ends_well(&load).await;
}

/// Somebody else fills the disk, to the last byte: traces give way, logs are copied into what was set by, and none is lost.
#[actix::test]
async fn without_a_free_byte_the_signal_that_is_missed_least_gives_way() {
    let Some(disk) = tmpfs("without_a_free_byte_the_signal_that_is_missed_least_gives_way", "size=64m") else { return };
    let mut rig = Rig::start(&disk, "max_size_mib: 56, min_free_mib: 2, when_full: drop_oldest, shed: [traces]");
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let reserve = disk.join("spool/reserve");
    assert!(until(PATIENCE, || reserve.exists()).await, "space is set by; {}", rig.log());
    let traces = rig.load_of(Signal::Traces, 16_000, 1);
    let logs = rig.load_of(Signal::Logs, 4_000, 11);
    let used = || std::fs::read_dir(disk.join("spool")).map_or(0, |dir| dir.count());
    assert!(until(PATIENCE, || traces.acknowledged() > 220_000 && used() > 12).await, "{}", rig.log());
    let filler = fill_bytes(&disk);
    let mut gone = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(rig.is_alive(), "{}", rig.log());
        gone = rig.evicted("traces").await;
        if gone > 20_000 {
            break;
        }
    }
    assert!(gone > 0, "traces gave way without a free byte; {}", rig.log());
    assert_eq!(rig.evicted("logs").await, 0, "and logs did not; {}", rig.log());
    std::fs::remove_file(filler).expect("it is there");
    let before = traces.acknowledged();
    assert!(until(PATIENCE, || traces.acknowledged() > before + 20_000).await, "intake goes on: {}", rig.log());
    traces.stop();
    logs.stop();
    assert_eq!(rig.evicted("logs").await, 0, "{}", rig.log());
    rig.far_end.play(Script::new());
    let mut missing = u64::MAX;
    for _ in 0..600 {
        let mut books = rig.books(&logs);
        books.merge(&traces.tally());
        missing = books.report().lost().saturating_sub(rig.evicted("traces").await);
        if missing == 0 && rig.metric("tfo_agent_items_waiting").await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(missing, 0, "acknowledged, not arrived, not told as lost; {}", rig.log());
    assert_eq!(rig.books(&logs).report().lost(), 0, "every log record arrived; {}", rig.log());
    drop(std::fs::remove_dir_all(&rig.dir));
}
