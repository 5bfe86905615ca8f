//! A disk without a free byte, or without a free inode, under load, and the real binary: what happens to what was
//! acknowledged, and whether it comes back by itself. And one that the kernel has made read-only after an error.
//!
//! Each case runs in a mount namespace of its own on a small tmpfs, or on an ext4 in a file; where the system gives none, it
//! says SKIPPED and proves nothing.

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
    mounted(test, &format!("mount -t tmpfs -o {options} tfo-test \"$0\""))
}

/// The same after another command, which mounts something at `$0`.
fn mounted(test: &str, command: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return Some(dir.into());
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mount = format!("{{ {command}; }} || exit 77; exec \"$@\"");
    let binary = std::env::current_exe().expect("this binary");
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &mount])
        .arg(dir.path())
        .arg(binary)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, dir.path())
        .status();
    drop(std::fs::remove_file(dir.path().with_extension("img"))); // where there was one
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
    disk: PathBuf,
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
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}, logs: {{output_paths: [stderr, '{}'], error_output_paths: ['{}']}}}}
  pipelines:
    logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
    traces: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
",
            far_end.endpoint(),
            dir.join("spool").display(),
            dir.join("own.log").display(),
            dir.join("own.log").display(),
        );
        // Not on the small disk: the configuration and what the test reads of the log are not what is tried.
        let beside = std::env::temp_dir().join(format!("tfo-disk-full-{port}"));
        std::fs::create_dir_all(&beside).expect("a temporary directory");
        std::fs::write(beside.join("agent.yaml"), text).expect("space");
        let child = Rig::run(&beside, dir);
        Rig { child, dir: beside, disk: dir.to_owned(), far_end, port, metrics }
    }

    fn run(beside: &Path, disk: &Path) -> Child {
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        let (config, log) = (beside.join("agent.yaml"), beside.join("agent.log"));
        let mut command = child::agent(binary, &config, &log).expect("space");
        Child::spawn(command.env("TFO_LAST_GOOD", disk.join("last-good"))).expect("cargo built it")
    }

    /// SIGKILL, `meanwhile`, and the next life, which is ready when this returns.
    async fn kill_and_begin(&mut self, meanwhile: impl FnOnce(&Path)) {
        rustix::process::kill_process(self.child.pid(), rustix::process::Signal::KILL).expect("our child");
        self.child.wait().expect("our child");
        meanwhile(&self.disk);
        let ready = self.log().matches("Everything is ready").count();
        self.child = Rig::run(&self.dir, &self.disk);
        let is_ready = || self.log().matches("Everything is ready").count() > ready;
        assert!(until(PATIENCE, is_ready).await, "it always starts: {}", self.log());
    }

    /// Segments of the spool, empty ones included.
    fn segments(&self) -> usize {
        let names = std::fs::read_dir(self.disk.join("spool")).expect("there").flatten().map(|e| e.file_name());
        names.filter(|name| name.to_string_lossy().starts_with("seg-")).count()
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
        let waiting = self.metric("tfo_agent_items_waiting").await;
        assert_eq!(missing, 0, "acknowledged, not arrived, not told as lost; {waiting} wait; {}", self.log());
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

/// Goal: an agent that is started on a full disk with a backlog on it delivers the backlog, gives its space back and takes data
/// again, all of it while whoever filled the disk stays: deleting needs a place for the books that say so, and that is set aside.
/// The agent's own log and its last good configuration lie on the same disk.
async fn starts_on_a_full_disk(test: &str, options: &str, fill: fn(&Path) -> PathBuf) {
    let Some(disk) = tmpfs(test, options) else { return };
    let mut rig = Rig::start(&disk, "max_size_mib: 40, min_free_mib: 0, when_full: refuse");
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    assert!(until(PATIENCE, || load.acknowledged() > 80_000).await, "{}", rig.log());
    fill(&disk);
    // What is left in half-written pages and in a segment made ahead is used up, too.
    assert!(until(PATIENCE, || load.refused() > 20).await, "{}", rig.log());
    for life in 1..=3 {
        rig.kill_and_begin(|disk| drop(fill(disk))).await;
        let refused = load.refused();
        assert!(until(PATIENCE, || load.refused() > refused + 20).await, "life {life}: {}", rig.log());
    }
    let before = rig.segments();
    rig.far_end.play(Script::new());
    let taken = load.acknowledged();
    let again = until(PATIENCE, || load.acknowledged() > taken + 20_000).await;
    println!(
        "{test}: {before} segments on the full disk, {} after, {} items taken",
        rig.segments(),
        load.acknowledged() - taken
    );
    assert!(again, "what is delivered makes room: {}", rig.log());
    load.stop();
    rig.ends_well(&load).await;
}

#[actix::test]
async fn an_agent_starts_without_a_free_byte_and_drains_and_frees() {
    let name = "an_agent_starts_without_a_free_byte_and_drains_and_frees";
    starts_on_a_full_disk(name, "size=48m", fill_bytes).await;
}

#[actix::test]
async fn an_agent_starts_without_a_free_inode_and_drains_and_frees() {
    let name = "an_agent_starts_without_a_free_inode_and_drains_and_frees";
    starts_on_a_full_disk(name, "size=64m,nr_inodes=500", fill_inodes).await;
}

/// With `drop_oldest` and not a byte kept free, the oldest gives way to what comes in, while whoever filled the disk stays.
async fn gives_way_while_it_is_full(test: &str, options: &str, fill: fn(&Path) -> PathBuf, items: u64) {
    let Some(disk) = tmpfs(test, options) else { return };
    let mut rig = Rig::start(&disk, "max_size_mib: 40, min_free_mib: 0, when_full: drop_oldest");
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    assert!(until(PATIENCE, || load.acknowledged() > 80_000).await, "{}", rig.log());
    fill(&disk);
    let before = load.acknowledged();
    assert!(until(PATIENCE, || load.acknowledged() > before + items).await, "intake goes on: {}", rig.log());
    let evicted = rig.metric("tfo_agent_items_lost{exporter=\"otlphttp\",pipeline=\"logs\",reason=\"evicted\"").await;
    println!("{test}: {evicted} items evicted");
    assert!(evicted > 0 && rig.is_alive());
    load.stop();
    rig.ends_well(&load).await;
}

#[actix::test]
async fn without_a_free_byte_intake_goes_on_while_the_disk_stays_full() {
    let name = "without_a_free_byte_intake_goes_on_while_the_disk_stays_full";
    gives_way_while_it_is_full(name, "size=48m", fill_bytes, 40_000).await;
}

#[actix::test]
async fn without_a_free_inode_intake_goes_on_while_the_disk_stays_full() {
    let name = "without_a_free_inode_intake_goes_on_while_the_disk_stays_full";
    // One segment may grow to four times its size before another one is needed.
    gives_way_while_it_is_full(name, "size=64m,nr_inodes=500", fill_inodes, 140_000).await;
}

/// What the last fdatasync before the error was for. The kernel (6.18) may answer it with success and not have it on the disk: a
/// program of ten lines that writes, syncs and counts loses its last record in the same way, in 10 tries of 40. Two
/// clients, one request each.
const LAST_SYNC: u64 = 2 * 100;

/// Goal: an error of the filesystem makes the disk read-only, for good, as an SD card does that wears out. Clients are asked to come
/// back, the agent stays and says why; when somebody has mounted it anew, nothing that was acknowledged is missing.
#[actix::test]
async fn a_disk_that_the_kernel_made_read_only_keeps_what_was_acknowledged() {
    let name = "a_disk_that_the_kernel_made_read_only_keeps_what_was_acknowledged";
    let make = "truncate -s 96M \"$0.img\" && mkfs.ext4 -q -F \"$0.img\" && mount -o loop,errors=remount-ro \"$0.img\" \"$0\" && test -w /sys/fs/ext4";
    let Some(disk) = mounted(name, make) else { return };
    let mounts = std::fs::read_to_string("/proc/mounts").expect("Linux has it");
    let line = mounts.lines().find(|l| l.contains(&*disk.to_string_lossy())).expect("it was mounted");
    let device = line.split(' ').next().expect("a device").trim_start_matches("/dev/");
    let trigger = PathBuf::from(format!("/sys/fs/ext4/{device}/trigger_fs_error"));

    let mut rig = Rig::start(&disk, "max_size_mib: 40, min_free_mib: 2, when_full: refuse");
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    assert!(until(PATIENCE, || load.acknowledged() > 40_000).await, "{}", rig.log());
    std::fs::write(trigger, "a test").expect("root may");
    let refused = load.refused();
    assert!(until(PATIENCE, || load.refused() > refused + 20).await, "clients are asked to come back: {}", rig.log());
    assert!(rig.log().contains("Data cannot be kept"), "{}", rig.log());
    assert!(rig.metric("tfo_agent_degraded{component=\"file_storage\"").await == 1);
    assert!(rig.is_alive());
    rig.kill_and_begin(|disk| {
        let image = disk.with_extension("img");
        let again = "umount \"$1\" && { e2fsck -p \"$2\" >/dev/null; test $? -le 1; } && mount -o loop \"$2\" \"$1\"";
        let status = Command::new("sh").args(["-c", again, "sh"]).arg(disk).arg(&image).status().expect("a shell");
        assert!(status.success(), "mounted anew: {status}");
    })
    .await;
    let before = load.acknowledged();
    assert!(until(PATIENCE, || load.acknowledged() > before + 20_000).await, "intake goes on: {}", rig.log());
    load.stop();
    rig.far_end.play(Script::new());
    let mut left = (u64::MAX, u64::MAX);
    for _ in 0..600 {
        left = (rig.books(&load).report().lost(), rig.metric("tfo_agent_items_waiting").await);
        if left.0 <= LAST_SYNC && left.1 == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("read-only by the kernel: {} items missing, {} waiting", left.0, left.1);
    assert!(left.0 <= LAST_SYNC && left.1 == 0, "missing and waiting: {left:?}; {}", rig.log());
    assert_eq!(rig.books(&load).report().never_issued(), 0);
    assert_eq!(rig.metric("tfo_agent_items_lost").await, 0);
    assert!(rig.is_alive(), "{}", rig.log());
    drop(std::fs::remove_dir_all(&rig.dir));
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
