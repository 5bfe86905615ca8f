//! Spools that earlier versions wrote, opened by this one: all that waited arrives, once, and the books go on. And one of a newer
//! format, which this version refuses without touching it.
//!
//! The spools lie below `tests/upgrade/`, a folder for each version that changed the format, and are kept for good.
//! `tests/upgrade/make NAME` writes those of the present version; what is in them stands in [`case`].

#![allow(clippy::print_stdout)] // it says what was written

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{install_client, until};
use tfo_otel_agent::testing::{FarEnd, Mark, Numbered, Source};
use xxhash_rust::xxh3::xxh3_64;

const PATIENCE: Duration = Duration::from_secs(120);
const SOURCE: Source = Source(1);
const AGENT: &str = env!("CARGO_BIN_EXE_tfo-otel-agent");
/// The spool's format that this version writes (docs/spool-format.md §4).
const FORMAT: u32 = 2;
/// Items of a request.
const ITEMS: u32 = 10;

/// What a spool holds of one signal: the first so many items were delivered, of these but the dead ones; of the others those from
/// and below `ahead`; the rest waits.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
struct Holds {
    acknowledged: u64,
    settled: u64,
    dead: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ahead: Vec<(u64, u64)>,
}

impl Holds {
    fn waits(&self, seq: u64) -> bool {
        seq >= self.settled && !self.ahead.iter().any(|(from, to)| (*from..*to).contains(&seq))
    }

    fn waiting(&self) -> u64 {
        (0..self.acknowledged).filter(|seq| self.waits(*seq)).count() as u64
    }
}

type Held = BTreeMap<String, Holds>;

/// How a spool comes about. Each holds all three signals.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    /// Requests that are settled.
    settled: u32,
    /// Of logs, items the far end refuses.
    dead: &'static [u64],
    /// Requests that wait then, for each life of the agent.
    wait: &'static [u32],
    /// The last life ends in order.
    clean: bool,
    /// Requests of one life more: of logs and traces they are delivered while most of what waits does not get its turn.
    live: u32,
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { name: "outage",  settled: 0,  dead: &[],      wait: &[12, 6, 6], clean: false, live: 0 },
    Case { name: "settled", settled: 12, dead: &[],      wait: &[9],        clean: true,  live: 0 },
    Case { name: "dead",    settled: 12, dead: &[3, 17], wait: &[6],        clean: false, live: 0 },
    Case { name: "live",    settled: 6,  dead: &[],      wait: &[180],      clean: false, live: 9 },
];

fn spool(args: &[&str], dir: &Path) -> Output {
    spool_as(AGENT, args, dir)
}

fn spool_as(agent: &str, args: &[&str], dir: &Path) -> Output {
    Command::new(agent).arg("spool").arg(args[0]).arg(dir).args(&args[1..]).output().expect("it was built")
}

/// The sum of what the books say, or of one pipeline's.
fn books(dir: &Path, pipeline: Option<&str>, what: &str) -> u64 {
    let output = spool(&["stat", "--json"], dir);
    let stat: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let books = stat["books"].as_array().expect("books").iter();
    books.filter(|book| pipeline.is_none_or(|name| book["lane"] == name)).filter_map(|book| book[what].as_u64()).sum()
}

struct Place {
    dir: tempfile::TempDir,
    http: u16,
}

impl Place {
    fn new(endpoint: &str) -> Place {
        let place =
            Place { dir: tempfile::tempdir().expect("a temporary directory"), http: free_port().expect("a port") };
        place.configure(endpoint, "{}");
        place
    }

    /// With an account of the link, which lies in the spool too.
    fn configure(&self, endpoint: &str, drain: &str) {
        let text = child::plain_config(self.http, endpoint, &self.spool());
        let queue = "    sending_queue: {storage: file_storage}\n";
        let more = format!("{queue}    drain: {drain}\n    link_budget: {{per_month: 10GiB, paced: false}}\n");
        std::fs::write(self.dir.path().join("agent.yaml"), text.replace(queue, &more)).expect("space");
    }

    fn spool(&self) -> PathBuf {
        self.dir.path().join("queue")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    fn begin_as(&self, agent: &str) -> Child {
        let (config, log) = (self.dir.path().join("agent.yaml"), self.dir.path().join("agent.log"));
        Child::spawn(&mut child::agent(Path::new(agent), &config, &log).expect("space")).expect("it was built")
    }

    async fn start(&self) -> Child {
        let mut child = self.begin_as(AGENT);
        let end = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.http)).await.is_err() {
            assert!(child.try_wait().expect("our child").is_none() && Instant::now() < end, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        child
    }

    /// So many requests, one signal after the other; all acknowledged.
    async fn takes(&self, made: &mut BTreeMap<Signal, Numbered>, requests: u32, held: &mut Held) {
        install_client();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        for n in 0..requests {
            let signal = Signal::ALL[n as usize % 3];
            let request = made.get_mut(&signal).expect("all three").request(ITEMS);
            let url = format!("http://127.0.0.1:{}/v1/{signal}", self.http);
            let sent = client.post(url).header("content-type", "application/x-protobuf").body(request.bytes);
            assert_eq!(sent.send().await.expect("it listens").status(), 200);
            held.entry(signal.to_string()).or_default().acknowledged += request.seqs.end - request.seqs.start;
        }
    }
}

fn numbered() -> BTreeMap<Signal, Numbered> {
    Signal::ALL.map(|signal| (signal, Numbered::new(signal, SOURCE).starting_at(0))).into()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade")
}

/// Writes the spool of a case as the present version leaves it.
async fn make(case: &Case, into: &Path) {
    let mut script = Script::new().poison_status(400);
    for seq in case.dead {
        script = script.poison(Signal::Logs, Mark { source: SOURCE, seq: *seq });
    }
    let far_end = FarEnd::start(script).expect("a port");
    let place = Place::new(&far_end.endpoint());
    let (mut made, mut held) = (numbered(), Held::new());
    let dead = case.dead.len() as u64;
    if case.settled > 0 {
        let agent = place.start().await;
        place.takes(&mut made, case.settled, &mut held).await;
        for holds in held.values_mut() {
            holds.settled = holds.acknowledged;
        }
        held.get_mut("logs").expect("all three").dead = case.dead.to_vec();
        let total = u64::from(case.settled * ITEMS);
        let is_settled = || {
            let dir = place.spool();
            books(&dir, None, "delivered") == total - dead && books(&dir, None, "dead_letters") == dead
        };
        assert!(until(PATIENCE, is_settled).await, "{}", place.log());
        assert!(agent.stop(PATIENCE).await.expect("our child").is_some());
    }
    far_end.play(Script::new().always(Act::Refuse));
    for (n, requests) in case.wait.iter().enumerate() {
        let agent = place.start().await;
        place.takes(&mut made, *requests, &mut held).await;
        let is_last = n + 1 == case.wait.len();
        if is_last && case.clean {
            assert!(agent.stop(PATIENCE).await.expect("our child").is_some());
        } else {
            agent.kill().expect("our child");
        }
    }
    if case.live > 0 {
        live(case, &place, &far_end, &mut made, &mut held).await;
    }
    let lean = place.dir.path().join("lean");
    copy(&place.spool(), &lean.join("queue"));
    std::fs::create_dir_all(into).expect("space");
    let tar = into.join(format!("{}.tar.gz", case.name));
    // The same spool gives the same bytes but for its times and names.
    let packed = Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "-C"])
        .arg(&lean)
        .args(["-czf"])
        .arg(&tar)
        .arg("queue")
        .status();
    assert!(packed.is_ok_and(|status| status.success()), "tar packs it");
    let text = serde_json::to_string_pretty(&held).expect("plain") + "\n";
    std::fs::write(into.join(format!("{}.json", case.name)), text).expect("space");
    println!("{}: {} bytes", tar.display(), std::fs::metadata(&tar).map_or(0, |meta| meta.len()));
}

/// The link is back: what comes in goes out at once, the backlog hardly, and then the agent dies.
async fn live(case: &Case, place: &Place, far_end: &FarEnd, made: &mut BTreeMap<Signal, Numbered>, held: &mut Held) {
    tokio::time::sleep(Duration::from_secs(7)).await; // what waits is a backlog now
    place.configure(&far_end.endpoint(), "{max_rate: 1KiB/s}");
    far_end.play(Script::new());
    let agent = place.start().await;
    let before = held.clone();
    place.takes(made, case.live, held).await;
    let has = |signal: Signal, seq| far_end.with(|c| c.tally().has(signal, Mark { source: SOURCE, seq }));
    let fresh_is_out = || {
        [Signal::Logs, Signal::Traces].iter().all(|signal| {
            let of = |held: &Held| held[&signal.to_string()].acknowledged;
            (of(&before)..of(held)).all(|seq| has(*signal, seq))
        })
    };
    assert!(until(PATIENCE, fresh_is_out).await, "{}", place.log());
    far_end.play(Script::new().always(Act::Refuse));
    let arrived = || far_end.with(|c| Signal::ALL.iter().map(|signal| c.tally().arrivals(*signal)).sum::<u64>());
    // Whatever was under way is settled.
    let is_settled = || books(&place.spool(), None, "delivered") == arrived();
    assert!(until(PATIENCE, is_settled).await, "{}", place.log());
    agent.kill().expect("our child");
    for signal in Signal::ALL {
        let holds = held.get_mut(&signal.to_string()).expect("all three");
        for seq in holds.settled..holds.acknowledged {
            match holds.ahead.last_mut() {
                _ if !has(signal, seq) => {}
                Some((_, to)) if *to == seq => *to += 1,
                _ => holds.ahead.push((seq, seq + 1)),
            }
        }
        let kept = holds.waiting();
        assert!(kept > 0, "{signal}: {holds:?}");
        let is_ahead = holds.ahead.last().is_some_and(|(_, to)| *to == holds.acknowledged);
        assert_eq!(is_ahead, signal != Signal::Metrics, "{signal}: {holds:?}");
    }
}

/// Copies a spool without what means nothing: most of a journal's 64 MiB of preallocated zeros, and what is set by.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("space");
    for entry in std::fs::read_dir(from).expect("readable") {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("readable");
        let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("reserve") {
            continue;
        }
        if from.is_dir() {
            copy(&from, &to);
            continue;
        }
        let mut bytes = std::fs::read(&from).expect("readable");
        if name.ends_with(".jnl") {
            let end = bytes.chunks(4_096).rposition(|page| page != &[0; 4_096][..page.len()]);
            bytes.truncate(end.map_or(4_096, |at| (at + 2) * 4_096).min(bytes.len()));
        }
        std::fs::write(to, bytes).expect("space");
    }
}

/// Lays a kept spool into a place.
fn lay(kept: &Path, place: &Place) {
    let unpacked = Command::new("tar").arg("-C").arg(place.dir.path()).arg("-xzf").arg(kept).status();
    assert!(unpacked.is_ok_and(|status| status.success()), "tar unpacks {}", kept.display());
}

/// All that was kept of earlier versions: folder, case, and what it holds.
fn kept() -> Vec<(PathBuf, Held)> {
    let mut found = Vec::new();
    for version in std::fs::read_dir(fixtures()).expect("there are some").filter_map(|entry| Some(entry.ok()?.path())) {
        for file in std::fs::read_dir(version).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
            if file.extension().is_some_and(|e| e == "json") {
                let text = std::fs::read_to_string(&file).expect("readable");
                let held = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
                found.push((file.with_extension("tar.gz"), held));
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// With `TFO_WRITE` set to a name the spools of this version are written and kept under it.
#[actix::test]
async fn spools_of_this_version_can_be_kept() {
    let Ok(name) = std::env::var("TFO_WRITE") else { return };
    for case in CASES {
        make(case, &fixtures().join(&name)).await;
    }
}

/// Goal: who upgrades loses nothing and sends nothing twice, from whatever version.
/// Method: each kept spool is laid into a new place, verified, and taken over by this version's agent; the far end counts.
#[actix::test]
async fn what_an_earlier_version_kept_arrives() {
    let kept = kept();
    assert!(kept.len() >= CASES.len(), "{kept:?}");
    for (tar, held) in kept {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let place = Place::new(&far_end.endpoint());
        lay(&tar, &place);
        let verified = spool(&["verify"], &place.spool());
        assert!(verified.status.success(), "{}: {verified:?}", tar.display());
        let agent = place.start().await;
        let waiting: u64 = held.values().map(Holds::waiting).sum();
        let arrived = || far_end.with(|c| Signal::ALL.iter().map(|signal| c.tally().arrivals(*signal)).sum::<u64>());
        assert!(
            until(PATIENCE, || arrived() >= waiting).await,
            "{}: {} of {waiting}\n{}",
            tar.display(),
            arrived(),
            place.log()
        );
        let all = |what: &str| books(&place.spool(), None, what);
        let acknowledged: u64 = held.values().map(|holds| holds.acknowledged).sum();
        let dead: u64 = held.values().map(|holds| holds.dead.len() as u64).sum();
        assert!(until(PATIENCE, || all("waiting") == 0).await, "{}", place.log());
        assert_eq!(arrived(), waiting, "{}: each once", tar.display());
        for signal in Signal::ALL {
            let holds = held.get(&signal.to_string()).cloned().unwrap_or_default();
            for seq in 0..holds.acknowledged {
                let is_here = far_end.with(|c| c.tally().has(signal, Mark { source: SOURCE, seq }));
                assert_eq!(is_here, holds.waits(seq), "{}: {signal} {seq}", tar.display());
            }
        }
        assert_eq!((all("accepted"), all("delivered"), all("dead_letters")), (acknowledged, acknowledged - dead, dead));
        // Of the account of the link, too, nothing is strange to it.
        assert!(!place.log().contains("(link_budget)"), "{}", place.log());
        assert!(!place.log().contains("file of link_budget"), "{}", place.log());
        // What was set aside is there too, and goes out when a person says so.
        if dead > 0 {
            let requeued = spool(&["requeue", "--dead"], &place.spool());
            assert!(requeued.status.success(), "{requeued:?}");
            assert!(until(PATIENCE, || arrived() == waiting + dead).await, "{}", place.log());
            for (signal, holds) in Signal::ALL.iter().filter_map(|s| Some((*s, held.get(&s.to_string())?))) {
                for seq in &holds.dead {
                    assert!(
                        far_end.with(|c| c.tally().has(signal, Mark { source: SOURCE, seq: *seq })),
                        "{signal} {seq}"
                    );
                }
            }
        }
        assert!(agent.stop(PATIENCE).await.expect("our child").is_some_and(|status| status.success()));
        println!("{}: {waiting} arrived, {dead} set aside", tar.display());
    }
}

type Files = BTreeMap<PathBuf, (SystemTime, Vec<u8>)>;

fn files(dir: &Path) -> Files {
    let mut found = Files::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("there");
        let modified = meta.modified().expect("this system has it");
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
            found.insert(path, (modified, Vec::new()));
        } else {
            found.insert(path.clone(), (modified, std::fs::read(&path).expect("readable")));
        }
    }
    found
}

/// Goal: an agent that was set back to an older version says what is the matter and harms nothing; the newer one goes on later.
/// Method: the slots of a kept spool say a later format, as `docs/spool-format.md` §4 has it; every way in is tried.
#[actix::test]
async fn a_newer_format_is_refused_and_nothing_is_changed() {
    let (tar, held) = kept().into_iter().next().expect("there are some");
    let far_end = FarEnd::start(Script::new()).expect("a port");
    let place = Place::new(&far_end.endpoint());
    lay(&tar, &place);
    let slots = std::fs::File::options().read(true).write(true).open(place.spool().join("slots")).expect("there");
    let mut was = [[0; 58]; 2];
    for (slot, at) in was.iter_mut().zip([0, 4_096]) {
        slots.read_exact_at(slot, at).expect("it has its size");
        let mut newer = *slot;
        newer[8] = u8::MAX;
        let sum = xxh3_64(&newer[..50]);
        newer[50..].copy_from_slice(&sum.to_le_bytes());
        slots.write_all_at(&newer, at).expect("space");
    }
    refuses(AGENT, &place, u8::MAX.into()).await;
    // The newer one is back.
    for (slot, at) in was.iter().zip([0, 4_096]) {
        slots.write_all_at(slot, at).expect("space");
    }
    delivers(&place, &far_end, &held).await;
}

/// Every way in is tried: an agent of an older format ends, says why, and changes nothing.
async fn refuses(older: &str, place: &Place, format: u32) {
    let before = files(&place.spool());
    let mut agent = place.begin_as(older);
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = agent.try_wait().expect("our child") {
            break status;
        }
        assert!(Instant::now() < end, "it does not end\n{}", place.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let words = format!("was written by a newer tfo-otel-agent (its format is {format}, this one knows");
    assert_eq!(status.code(), Some(1), "{}", place.log());
    assert!(place.log().contains(&words) && place.log().contains("nothing was changed"), "{}", place.log());
    for args in [
        &["ls"][..],
        &["stat"],
        &["verify"],
        &["peek"],
        &["repair"],
        &["requeue", "--dead"],
        &["drop", "--dead", "--yes"],
    ] {
        let refused = spool_as(older, args, &place.spool());
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(&words), "{args:?}: {refused:?}");
    }
    assert!(files(&place.spool()) == before, "not a byte, not a time");
}

/// All that waits arrives, from an agent of this version.
async fn delivers(place: &Place, far_end: &FarEnd, held: &Held) {
    let _agent = place.start().await;
    let waiting: u64 = held.values().map(Holds::waiting).sum();
    let arrived = || far_end.with(|c| Signal::ALL.iter().map(|signal| c.tally().arrivals(*signal)).sum::<u64>());
    assert!(until(PATIENCE, || arrived() == waiting).await, "{} of {waiting}\n{}", arrived(), place.log());
}

/// Goal: the same of a real older agent, and a spool that this one has just written. Method: `TFO_OLDER` names one, of a format before
/// [`FORMAT`]; `tests/upgrade/older` builds it from this repository's history.
#[actix::test]
async fn an_older_agent_refuses_what_this_one_wrote() {
    let Ok(older) = std::env::var("TFO_OLDER") else {
        println!("SKIPPED: TFO_OLDER names no older agent; tests/upgrade/older builds one");
        return;
    };
    let made = tempfile::tempdir().expect("a temporary directory");
    for case in CASES {
        make(case, made.path()).await;
        let text = std::fs::read_to_string(made.path().join(format!("{}.json", case.name))).expect("it was written");
        let held: Held = serde_json::from_str(&text).expect("it was written");
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let place = Place::new(&far_end.endpoint());
        lay(&made.path().join(format!("{}.tar.gz", case.name)), &place);
        // Keys that came later would be a reason of their own.
        let plain = child::plain_config(place.http, &far_end.endpoint(), &place.spool());
        std::fs::write(place.dir.path().join("agent.yaml"), plain).expect("space");
        refuses(&older, &place, FORMAT).await;
        delivers(&place, &far_end, &held).await;
        println!("ok: {}: refused by {older}, then delivered", case.name);
    }
}
