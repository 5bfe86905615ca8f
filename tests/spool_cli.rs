//! `tfo-otel-agent spool` with the real binary, on directories that the real agent left, runs on, or that were damaged: what it
//! shows is what was acknowledged, and looking changes nothing.

#![allow(clippy::print_stdout)] // what cannot be tried is said

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};
use tfo_otel_agent::base::Dice;
use tfo_otel_agent::otlp::{Signal, from_json};
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{install_client, until};
use tfo_otel_agent::testing::numbered::numbers;
use tfo_otel_agent::testing::{FarEnd, Mark, Numbered, Source};

const PATIENCE: Duration = Duration::from_secs(120);
const SOURCE: Source = Source(1);
/// Debug builds are slow, and other things run here.
const AGENT: &str = env!("CARGO_BIN_EXE_tfo-otel-agent");

fn spool(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(AGENT);
    command.arg("spool").arg(args[0]).arg(dir).args(&args[1..]);
    command.output().expect("the binary cargo built for this test")
}

fn json(args: &[&str], dir: &Path) -> serde_json::Value {
    let output = spool(&[args, &["--json"]].concat(), dir);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"))
}

type Files = BTreeMap<PathBuf, (SystemTime, u64, Vec<u8>)>;

/// Name, time, length and bytes of everything in a directory.
fn files(dir: &Path) -> Files {
    let mut found = Files::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("there");
        let modified = meta.modified().expect("this system has it");
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
            found.insert(path, (modified, 0, Vec::new()));
        } else {
            found.insert(path.clone(), (modified, meta.len(), std::fs::read(&path).expect("readable")));
        }
    }
    found
}

/// Copies a spool; of a journal without most of its 64 MiB of preallocated zeros.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("space");
    for entry in std::fs::read_dir(from).expect("readable") {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("readable");
        if from.is_dir() {
            copy(&from, &to);
            continue;
        }
        let mut bytes = std::fs::read(&from).expect("readable");
        if from.extension().is_some_and(|extension| extension == "jnl") {
            let end = bytes.chunks(4_096).rposition(|page| page != &[0; 4_096][..page.len()]);
            bytes.truncate(end.map_or(4_096, |at| (at + 2) * 4_096).min(bytes.len()));
        }
        std::fs::write(to, bytes).expect("space");
    }
}

struct Agent {
    child: Child,
    place: tempfile::TempDir,
    http: u16,
    client: reqwest::Client,
    made: BTreeMap<Signal, Numbered>,
    /// Acknowledged.
    seqs: BTreeMap<Signal, BTreeSet<u64>>,
}

impl Agent {
    async fn start(endpoint: &str) -> Agent {
        let place = tempfile::tempdir().expect("a temporary directory");
        let http = free_port().expect("a port");
        let text = child::plain_config(http, endpoint, &place.path().join("queue"));
        std::fs::write(place.path().join("agent.yaml"), text).expect("space");
        install_client();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let made = Signal::ALL.map(|signal| (signal, Numbered::new(signal, SOURCE))).into();
        let child = Agent::spawn(place.path());
        let mut agent = Agent { child, place, http, client, made, seqs: BTreeMap::new() };
        agent.listens().await;
        agent
    }

    fn spawn(place: &Path) -> Child {
        let mut command =
            child::agent(Path::new(AGENT), &place.join("agent.yaml"), &place.join("agent.log")).expect("space");
        command.env("TFO_TEST_SEGMENT_KIB", "64");
        Child::spawn(&mut command).expect("the binary cargo built for this test")
    }

    async fn listens(&mut self) {
        let end = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.http)).await.is_err() {
            assert!(self.child.try_wait().expect("our child").is_none() && Instant::now() < end, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("agent.log")).unwrap_or_default()
    }

    fn directory(&self) -> PathBuf {
        self.place.path().join("queue")
    }

    /// So many requests of 50 items, one signal after the other; all acknowledged.
    async fn takes(&mut self, requests: u32) {
        for n in 0..requests {
            let signal = Signal::ALL[n as usize % 3];
            let request = self.made.get_mut(&signal).expect("all three").request(50);
            let url = format!("http://127.0.0.1:{}/v1/{signal}", self.http);
            let sent = self.client.post(url).header("content-type", "application/x-protobuf").body(request.bytes);
            assert_eq!(sent.send().await.expect("it listens").status(), 200);
            self.seqs.entry(signal).or_default().extend(request.seqs);
        }
    }

    fn acknowledged(&self) -> u64 {
        self.seqs.values().map(|seqs| seqs.len() as u64).sum()
    }

    /// Until a book says so.
    async fn shows(&self, what: &str, items: u64) {
        let dir = self.directory();
        let sum = || {
            let stat = json(&["stat"], &dir);
            stat["books"]
                .as_array()
                .expect("books")
                .iter()
                .map(|book| book[what].as_u64().expect("a number"))
                .sum::<u64>()
        };
        assert!(until(PATIENCE, || sum() == items).await, "{what}: {} of {items}\n{}", sum(), self.log());
    }

    /// Killed, so that everything lies as it lay.
    fn kill(self) -> (tempfile::TempDir, PathBuf, BTreeMap<Signal, BTreeSet<u64>>) {
        let dir = self.directory();
        self.child.kill().expect("our child");
        (self.place, dir, self.seqs)
    }
}

/// An agent goes on in a directory; what reached the far end is waited for.
async fn goes_on(place: &tempfile::TempDir, far_end: &FarEnd, items: u64) {
    let _agent = Agent::spawn(place.path());
    let arrived = || far_end.with(|c| Signal::ALL.iter().map(|signal| c.tally().arrivals(*signal)).sum::<u64>());
    let log = || std::fs::read_to_string(place.path().join("agent.log")).unwrap_or_default();
    assert!(until(PATIENCE, || arrived() == items).await, "{} of {items}\n{}", arrived(), log());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(arrived(), items, "and no more");
}

/// The one book of a pipeline.
fn book(dir: &Path, pipeline: &str) -> serde_json::Value {
    let stat = json(&["stat"], dir);
    stat["books"].as_array().expect("books").iter().find(|book| book["lane"] == pipeline).expect("it is there").clone()
}

fn seqs_of(signal: Signal, request: &[u8]) -> Vec<u64> {
    let mut seqs = Vec::new();
    numbers(signal, request, |mark| {
        let Mark { source, seq } = mark.expect("all are numbered");
        assert_eq!(source, SOURCE);
        seqs.push(seq);
    })
    .expect("a request");
    seqs
}

/// What was exported, by signal: as protobuf files, or as JSON lines.
fn exported(out: &Path) -> BTreeMap<Signal, Vec<u64>> {
    let mut found = BTreeMap::<Signal, Vec<u64>>::new();
    for signal in Signal::ALL {
        let lines = std::fs::read_to_string(out.join(format!("{signal}.jsonl"))).unwrap_or_default();
        for line in lines.lines() {
            let request = from_json(signal, line.as_bytes()).expect("OTLP/JSON");
            found.entry(signal).or_default().extend(seqs_of(signal, &request));
        }
        for entry in std::fs::read_dir(out.join(signal.name())).into_iter().flatten() {
            let request = std::fs::read(entry.expect("readable").path()).expect("readable");
            found.entry(signal).or_default().extend(seqs_of(signal, &request));
        }
    }
    found
}

fn is_all(found: &BTreeMap<Signal, Vec<u64>>, expected: &BTreeMap<Signal, BTreeSet<u64>>) -> Result<(), String> {
    let mut wrong = String::new();
    for signal in Signal::ALL {
        let found = found.get(&signal).cloned().unwrap_or_default();
        let once: BTreeSet<u64> = found.iter().copied().collect();
        let expected = expected.get(&signal).cloned().unwrap_or_default();
        if once.len() != found.len() || once != expected {
            let _ = write!(
                wrong,
                "{signal}: {} found, {} different, {} expected; ",
                found.len(),
                once.len(),
                expected.len()
            );
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Goal: on what a killed agent left, every command says what was acknowledged, item by item, and changes nothing: no byte, no
/// name, no length, no time.
#[actix::test]
async fn what_lies_there_is_what_was_acknowledged() {
    let far_end = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
    let mut agent = Agent::start(&far_end.endpoint()).await;
    agent.takes(120).await;
    let sealed = |dir: &Path| json(&["ls"], dir).to_string().contains("\"sealed\"");
    assert!(until(PATIENCE, || sealed(&agent.directory())).await, "a backlog is sealed");
    agent.takes(3).await;
    let total = agent.acknowledged();
    let (place, dir, seqs) = agent.kill();
    let before = files(&dir);

    let ls = json(&["ls"], &dir);
    let segments = ls["segments"].as_array().expect("a list");
    let items: u64 = segments.iter().map(|segment| segment["items"].as_u64().expect("a number")).sum();
    assert_eq!(items, total, "{ls}");
    let states: BTreeSet<&str> = segments.iter().filter_map(|segment| segment["state"].as_str()).collect();
    assert!(states.contains("sealed") && states.contains("journal"), "{states:?}");

    let stat = json(&["stat"], &dir);
    for book in stat["books"].as_array().expect("books") {
        let accepted = seqs.iter().find(|(signal, _)| signal.name() == book["lane"]).map_or(0, |(_, seqs)| seqs.len());
        assert_eq!((book["accepted"].as_u64(), &book["waiting"]), (Some(accepted as u64), &book["accepted"]), "{book}");
        assert_eq!(book["adds_up"], true);
        assert!(book["oldest_age_s"].as_u64().is_some_and(|age| age < 600), "{book}");
    }

    let verify = spool(&["verify"], &dir);
    let said = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert_eq!((verify.status.code(), verify.stderr.len()), (Some(0), 0), "{said}");
    assert!(said.ends_with(&format!("{total} items: whole\n")), "{said}");

    let peek = spool(&["peek", "--limit", "0"], &dir);
    let lines = String::from_utf8(peek.stdout).expect("text");
    let mut seen = BTreeMap::<Signal, Vec<u64>>::new();
    for line in lines.lines() {
        let item: serde_json::Value = serde_json::from_str(line).expect("a JSON object a line");
        let (signal, item) = match (&item["span"], &item["point"], &item["record"]) {
            (span, _, _) if span.is_object() => (Signal::Traces, span),
            (_, point, _) if point.is_object() => (Signal::Metrics, point),
            (_, _, record) => (Signal::Logs, record),
        };
        seen.entry(signal).or_default().push(item["attributes"]["tfo.seq"].as_u64().expect("numbered"));
    }
    is_all(&seen, &seqs).expect("peek shows each item once");
    assert_eq!(spool(&["peek", "--limit", "7"], &dir).stdout.iter().filter(|byte| **byte == b'\n').count(), 7);

    for (format, extra) in [("protobuf", vec![]), ("json", vec![]), ("protobuf", vec!["--max-bytes", "3000"])] {
        let out = place.path().join(format!("out-{format}-{}", extra.len()));
        let to = out.to_string_lossy().into_owned();
        let args = [vec!["export", "--exporter", "otlphttp", "--format", format, "--to", &to], extra.clone()].concat();
        let export = spool(&args, &dir);
        assert_eq!(export.status.code(), Some(0), "{export:?}");
        is_all(&exported(&out), &seqs).expect("export writes each item once");
        if !extra.is_empty() {
            let sizes = files(&out).into_values().map(|(_, len, _)| len);
            assert!(sizes.max() <= Some(3_000), "no file is larger than was asked for");
        }
    }
    let mine = dir.join("out").to_string_lossy().into_owned();
    assert_eq!(spool(&["export", "--to", &mine], &dir).status.code(), Some(1), "not into the spool itself");
    assert!(files(&dir) == before, "looking changes nothing");
}

/// Goal: the same while the agent runs and holds the directory: it is told that the picture moves, and the agent is not
/// disturbed.
#[actix::test]
async fn the_directory_of_a_running_agent_can_be_looked_into() {
    let far_end = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
    let mut agent = Agent::start(&far_end.endpoint()).await;
    agent.takes(60).await;
    let dir = agent.directory();
    // Until its housekeeping has nothing more to do.
    let mut before = files(&dir);
    let end = Instant::now() + PATIENCE;
    loop {
        tokio::time::sleep(Duration::from_secs(7)).await;
        let now = files(&dir);
        if now == before {
            break;
        }
        assert!(Instant::now() < end, "it comes to rest");
        before = now;
    }
    let out = agent.place.path().join("out").to_string_lossy().into_owned();
    for args in [vec!["ls"], vec!["stat"], vec!["verify"], vec!["peek", "--limit", "0"], vec!["export", "--to", &out]] {
        let output = spool(&args, &dir);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        let holder = format!("in use by process {} of", agent.child.id());
        assert!(errors.contains(&holder) && errors.contains("moving picture"), "{args:?}: {errors}");
    }
    is_all(&exported(Path::new(&out)), &agent.seqs).expect("export writes each item once");
    assert!(files(&dir) == before, "looking changes nothing");
    // And while it works: what is called damaged would be.
    for _ in 0..6 {
        agent.takes(12).await;
        let verify = spool(&["verify"], &dir);
        assert_eq!(verify.status.code(), Some(0), "{}", String::from_utf8_lossy(&verify.stdout));
    }
    far_end.play(Script::new());
    let total = agent.acknowledged();
    let arrived = || far_end.with(|c| Signal::ALL.iter().map(|signal| c.tally().arrivals(*signal)).sum::<u64>());
    assert!(until(PATIENCE, || arrived() == total).await, "{} of {total}\n{}", arrived(), agent.log());
}

/// Goal: a damaged directory is looked at by the real binary in bounded memory, without a panic; what is damaged is told with
/// its place, and what is missing to the item.
/// Method: an address space of 1 GiB, files struck at random; a flipped byte in a block of a known size.
#[actix::test]
async fn damage_is_told_with_its_place_and_its_items() {
    let far_end = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
    let mut agent = Agent::start(&far_end.endpoint()).await;
    agent.takes(90).await;
    let sealed = |dir: &Path| json(&["ls"], dir).to_string().contains("\"sealed\"");
    assert!(until(PATIENCE, || sealed(&agent.directory())).await, "a backlog is sealed");
    let (place, dir, seqs) = agent.kill();
    let total: usize = seqs.values().map(BTreeSet::len).sum();

    // One byte of a block's payload in a sealed segment.
    let hurt = place.path().join("hurt");
    copy(&dir, &hurt);
    let table = files(&hurt)
        .into_iter()
        .find(|(path, (_, len, _))| path.to_string_lossy().contains("keyspaces/1/tables/") && *len > 10_000);
    let (path, (_, _, mut bytes)) = table.expect("a sealed segment has a table");
    bytes[5_000] ^= 0x55;
    std::fs::write(&path, bytes).expect("space");
    let verify = json(&["verify"], &hurt);
    assert_eq!(spool(&["verify"], &hurt).status.code(), Some(1));
    assert_eq!(verify["whole"], false);
    let shown = path.strip_prefix(&hurt).expect("inside").to_string_lossy().into_owned();
    let damaged = verify["damaged"].as_array().expect("a list");
    assert!(damaged.iter().all(|place| place["file"] == shown.as_str() && place["offset"].is_u64()), "{verify}");
    assert!(
        damaged.iter().any(|place| place["lane"].is_string() && place["items"] == 50 && place["accepted"].is_string()),
        "{verify}"
    );
    let missing: u64 =
        verify["missing"].as_array().expect("a list").iter().map(|hole| hole["items"].as_u64().expect("items")).sum();
    assert!(missing > 0 && missing.is_multiple_of(50) && missing < 1_000, "{verify}");
    assert!(verify["missing"][0]["accepted_before"].is_string(), "{verify}");
    // What can be rescued is: only the struck block itself is left out.
    let out = place.path().join("rescued");
    let export = spool(&["export", "--to", &out.to_string_lossy()], &hurt);
    assert_eq!(export.status.code(), Some(1), "{export:?}");
    let rescued: usize = exported(&out).values().map(Vec::len).sum();
    assert!(total - rescued <= 50 && total > rescued, "{rescued} of {total}");

    let seed = std::env::var("TFO_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| Dice::shaken().seed());
    let mut dice = Dice::seeded(seed);
    for case in 0..8 {
        let hurt = place.path().join(format!("hurt-{case}"));
        copy(&dir, &hurt);
        let there: Vec<PathBuf> = files(&hurt).into_keys().filter(|path| path.is_file()).collect();
        for path in &there {
            let mut bytes = std::fs::read(path).expect("readable");
            match dice.within(0..8) {
                0 => bytes.truncate(bytes.len() / 2),
                1 => bytes = bytes.iter().rev().copied().collect(),
                2 => std::fs::remove_file(path).expect("ours"),
                3.. if bytes.is_empty() => {}
                3.. => {
                    for _ in 0..4 {
                        let at = usize::try_from(dice.within(0..bytes.len() as u64)).expect("small");
                        bytes[at] ^= 0xFF;
                    }
                }
            }
            if path.exists() {
                std::fs::write(path, bytes).expect("space");
            }
        }
        let before = files(&hurt);
        let to = place.path().join(format!("out-{case}")).to_string_lossy().into_owned();
        for args in
            ["ls", "stat", "verify", "peek --limit 0", "peek --all --otlp-json", &format!("export --all --to {to}")]
        {
            let (command, rest) = args.split_once(' ').unwrap_or((args, ""));
            let line = format!("ulimit -v 1048576; exec {AGENT} spool {command} {} {rest}", hurt.display());
            let output = Command::new("sh").args(["-c", &line]).output().expect("a shell");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                matches!(output.status.code(), Some(0 | 1)),
                "seed {seed}, case {case}, {args}: {:?} {errors}",
                output.status
            );
            assert!(!errors.contains("panicked"), "seed {seed}, case {case}, {args}: {errors}");
        }
        assert!(files(&hurt) == before, "seed {seed}, case {case}: looking changes nothing");
    }
}

/// Goal: what the far end refused is found again, and can be taken out.
#[actix::test]
async fn dead_letters_are_shown_and_exported() {
    let guilty: BTreeSet<u64> = [3, 70, 131].into();
    let script = guilty
        .iter()
        .fold(Script::new(), |script, seq| script.poison(Signal::Logs, Mark { source: SOURCE, seq: *seq }));
    let far_end = FarEnd::start(script).expect("a port");
    let mut agent = Agent::start(&far_end.endpoint()).await;
    agent.takes(9).await;
    agent.shows("dead_letters", 3).await;
    agent.shows("waiting", 0).await;
    let (place, dir, _) = agent.kill();
    let out = place.path().join("out");
    let export = spool(&["export", "--dead", "--to", &out.to_string_lossy()], &dir);
    assert_eq!(export.status.code(), Some(0), "{export:?}");
    is_all(&exported(&out), &[(Signal::Logs, guilty)].into()).expect("the guilty items and nobody else");
    assert_eq!(spool(&["peek", "--dead"], &dir).stdout.iter().filter(|byte| **byte == b'\n').count(), 3);
    assert_eq!(spool(&["peek", "--exporter", "otlphttp"], &dir).stdout, b"", "nothing waits");
    let unknown = spool(&["peek", "--exporter", "nobody"], &dir);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there are otlphttp"), "{unknown:?}");
}

/// Goal: dead letters are sent again, once and to their exporter, or given up, and the books say which.
#[actix::test]
async fn dead_letters_are_sent_again_or_given_up() {
    let guilty: BTreeSet<u64> = [3, 70, 131].into();
    let poison = || {
        let mark = |seq: &u64| Mark { source: SOURCE, seq: *seq };
        guilty.iter().fold(Script::new(), |script, seq| script.poison(Signal::Logs, mark(seq)))
    };
    let far_end = FarEnd::start(poison()).expect("a port");
    let mut agent = Agent::start(&far_end.endpoint()).await;
    agent.takes(9).await;
    agent.shows("dead_letters", 3).await;
    agent.shows("waiting", 0).await;
    let refused = spool(&["repair"], &agent.directory());
    assert_eq!(refused.status.code(), Some(1), "not while an agent runs");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is in use by process"), "{refused:?}");
    let total = agent.acknowledged();
    let (place, dir, _) = agent.kill();

    let before = files(&dir);
    let asked = spool(&["drop", "--dead"], &dir);
    assert_eq!(asked.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&asked.stdout),
        "would be dropped: 3 items (dead_letters) of logs for otlphttp\n"
    );
    assert!(files(&dir) == before, "asking changes nothing");
    assert_eq!(spool(&["drop"], &dir).status.code(), Some(2), "what?");

    // Given up, in a copy.
    let given_up = place.path().join("given-up");
    copy(&dir, &given_up);
    let dropped = json(&["drop", "--dead", "--yes"], &given_up);
    assert_eq!((&dropped["dropped"][0]["items"], &dropped["dropped"][0]["left"]), (&3.into(), &0.into()), "{dropped}");
    let after = book(&given_up, "logs");
    assert_eq!(
        (&after["dead_letters"], &after["lost"]["dropped"], &after["adds_up"]),
        (&0.into(), &3.into(), &true.into()),
        "{after}"
    );
    let verify = json(&["verify"], &given_up);
    assert_eq!(spool(&["verify"], &given_up).status.code(), Some(0), "{verify} {}", json(&["ls"], &given_up));

    // Sent again.
    let requeued = json(&["requeue"], &dir);
    assert_eq!(
        (&requeued["requeued"][0]["items"], &requeued["requeued"][0]["left"]),
        (&3.into(), &0.into()),
        "{requeued}"
    );
    let after = book(&dir, "logs");
    assert_eq!(
        (&after["dead_letters"], &after["waiting"], &after["adds_up"]),
        (&0.into(), &3.into(), &true.into()),
        "{after}"
    );
    assert_eq!(json(&["requeue"], &dir)["requeued"], serde_json::json!([]), "once");
    far_end.play(Script::new());
    goes_on(&place, &far_end, total).await;
    let after = book(&dir, "logs");
    assert_eq!((&after["delivered"], &after["waiting"]), (&after["accepted"], &0.into()), "{after}");
}

/// Goal: an agent that runs does the same itself, under load, and what is refused again does not go round in a circle.
#[actix::test]
async fn a_running_agent_is_asked_to_do_it() {
    let guilty: BTreeSet<u64> = [3, 70, 131].into();
    let poison = || {
        let mark = |seq: &u64| Mark { source: SOURCE, seq: *seq };
        guilty.iter().fold(Script::new(), |script, seq| script.poison(Signal::Logs, mark(seq)))
    };
    let far_end = FarEnd::start(poison()).expect("a port");
    let mut agent = Agent::start(&far_end.endpoint()).await;
    agent.takes(9).await;
    agent.shows("dead_letters", 3).await;
    let dir = agent.directory();
    // Refused again, they are dead letters again, or wait for a rest to end: in no case does the order go on for ever.
    let requeued = json(&["requeue"], &dir);
    let (items, left) = (&requeued["requeued"][0]["items"], &requeued["requeued"][0]["left"]);
    assert_eq!((items, left), (&3.into(), &0.into()), "{requeued}");
    agent.takes(3).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    far_end.play(Script::new());
    assert_eq!(spool(&["requeue", "--exporter", "nobody"], &dir).stdout, b"requeued: nothing\n");
    // Whatever rests is tried at once.
    assert_eq!(spool(&["requeue", "--dead"], &dir).status.code(), Some(0));
    let total = agent.acknowledged();
    let arrived = || far_end.with(|c| Signal::ALL.iter().map(|signal| c.tally().arrivals(*signal)).sum::<u64>());
    assert!(until(PATIENCE, || arrived() == total).await, "{} of {total}\n{}", arrived(), agent.log());

    // Given up: first it is only said.
    far_end
        .play(Script::new().poison(Signal::Logs, Mark { source: SOURCE, seq: agent.seqs[&Signal::Logs].len() as u64 }));
    agent.takes(3).await;
    agent.shows("dead_letters", 1).await;
    let asked = spool(&["drop", "--dead"], &dir);
    assert_eq!(
        (asked.status.code(), asked.stdout.as_slice()),
        (Some(1), &b"would be dropped: 1 items (dead_letters) of logs for otlphttp\n"[..])
    );
    agent.shows("dead_letters", 1).await;
    assert_eq!(json(&["drop", "--dead", "--yes"], &dir)["dropped"][0]["items"], 1);
    let after = book(&dir, "logs");
    assert_eq!(
        (&after["dead_letters"], &after["lost"]["dropped"], &after["adds_up"]),
        (&0.into(), &1.into(), &true.into()),
        "{after}"
    );
    assert_eq!(json(&["stat"], &dir)["live"], true, "its own books, not what the disk has of them");
    // What waits for an exporter that is there is not dropped by mistake, and on request is.
    far_end.play(Script::new().always(Act::Refuse));
    agent.takes(3).await;
    let waiting =
        |args: &[&str]| json(&[&["drop", "--waiting", "--yes", "--exporter", "otlphttp"], args].concat(), &dir);
    assert_eq!(waiting(&[])["dropped"], serde_json::json!([]));
    let dropped = waiting(&["--anyway"]);
    let items: u64 = dropped["dropped"].as_array().expect("a list").iter().filter_map(|d| d["items"].as_u64()).sum();
    assert_eq!(items, 150, "{dropped}");
    far_end.play(Script::new());
    agent.takes(3).await;
    agent.shows("waiting", 0).await;
    // What an uplink had in hand when it was dropped may arrive all the same.
    assert!(until(PATIENCE, || arrived() + 151 >= agent.acknowledged()).await, "{}", agent.log());
}

/// Goal: the socket is for the agent's own user and root, bounded, and answers nonsense with a sentence.
#[actix::test]
async fn the_local_socket_is_nobody_elses() {
    use std::io::{Read as _, Write as _};
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let far_end = FarEnd::start(Script::new()).expect("a port");
    let mut agent = Agent::start(&far_end.endpoint()).await;
    agent.takes(3).await;
    let lock = std::fs::metadata(agent.directory().join("lock")).expect("it runs");
    let name = format!("tfo-otel-agent/{:x}-{:x}", lock.dev(), lock.ino());
    let say = move |text: Vec<u8>| {
        let mut stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).expect("short"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(&text)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    for (text, expected) in [
        (&b"hello\n"[..], "not an order of this agent"),
        (b"", "not an order of this agent"),
        (b"{\"version\": 9, \"order\": \"books\"}\n", "version 1 of the local protocol, not 9"),
        (b"{\"version\": 1, \"order\": \"books\"}\n", "\"books\":["),
        (&[0xff; 5 << 20], ""), // longer than any order; whether it hears the answer is its own affair
    ] {
        let answer = say(text.to_vec()).unwrap_or_default();
        assert!(answer.contains(expected), "{expected}: {answer}");
    }
    if rustix::process::geteuid().is_root() {
        let order = b"{\"version\": 1, \"order\": \"books\"}\n".to_vec();
        let stranger = std::thread::spawn(move || {
            rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65_534)).expect("root may");
            say(order)
        });
        let answer = stranger.join().expect("it does not panic").unwrap_or_default();
        assert_eq!(answer, "", "a stranger hears nothing");
    } else {
        println!("SKIPPED: only root can be a stranger");
    }
    agent.takes(3).await;
}

/// Goal: what waits for an exporter that was taken out of the configuration can be given up, and nothing else by mistake.
#[actix::test]
async fn what_waits_for_an_exporter_that_is_gone_is_given_up() {
    let far_end = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
    let mut agent = Agent::start(&far_end.endpoint()).await;
    agent.takes(9).await;
    let (place, dir, _) = agent.kill();
    let nothing = json(&["drop", "--waiting", "--yes"], &dir);
    assert_eq!(nothing["dropped"], serde_json::json!([]), "it is not gone");
    // Renamed in the configuration.
    let config = place.path().join("agent.yaml");
    let text = std::fs::read_to_string(&config).expect("ours");
    std::fs::write(&config, text.replace("otlphttp", "otlphttp/new")).expect("space");
    {
        let _agent = Agent::spawn(place.path());
        let log = || std::fs::read_to_string(place.path().join("agent.log")).unwrap_or_default();
        assert!(until(PATIENCE, || log().matches("Everything is ready").count() == 2).await, "{}", log());
        // Cursors are written with the next commit, or at an orderly stop.
        rustix::process::kill_process(_agent.pid(), rustix::process::Signal::TERM).expect("our child");
        assert!(until(PATIENCE, || log().contains("Shutdown complete.")).await, "{}", log());
    }
    let dropped = json(&["drop", "--waiting", "--exporter", "otlphttp", "--yes"], &dir);
    let items: u64 =
        dropped["dropped"].as_array().expect("a list").iter().map(|d| d["items"].as_u64().expect("items")).sum();
    assert_eq!(items, 450, "{dropped}");
    let stat = json(&["stat"], &dir);
    for book in stat["books"].as_array().expect("books").iter().filter(|book| book["exporter"] == "otlphttp") {
        assert_eq!(
            (&book["waiting"], &book["lost"]["dropped"], &book["adds_up"]),
            (&0.into(), &150.into(), &true.into()),
            "{book}"
        );
    }
}

/// Goal: after a repair everything that can be read arrives, also what stands behind the damage in a journal, where an agent
/// alone has to stop; what was damaged is kept.
#[actix::test]
async fn a_repair_saves_what_can_be_read() {
    let far_end = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
    let mut agent = Agent::start(&far_end.endpoint()).await;
    agent.takes(90).await;
    let sealed = |dir: &Path| json(&["ls"], dir).to_string().contains("\"sealed\"");
    assert!(until(PATIENCE, || sealed(&agent.directory())).await, "a backlog is sealed");
    agent.takes(6).await;
    let total = agent.acknowledged();
    let (place, dir, _) = agent.kill();
    assert!(String::from_utf8_lossy(&spool(&["repair"], &dir).stdout).contains("nothing was done"));
    // One byte in a sealed table, and one in the middle of the newest journal that holds something.
    let all = files(&dir);
    let has = |path: &Path, what: &str| path.to_string_lossy().contains(what);
    let table =
        all.iter().find(|(path, (_, len, _))| has(path, "keyspaces/1/tables/") && *len > 10_000).expect("sealed");
    let is_filled = |bytes: &[u8]| bytes.len() > 1 << 20 && bytes[20_000..40_000].iter().any(|byte| *byte != 0);
    let journal = all.iter().rfind(|(path, (_, _, bytes))| has(path, "0.jnl") && is_filled(bytes)).expect("a journal");
    for (path, at) in [(table.0, 5_000), (journal.0, 12_000)] {
        let file = std::fs::File::options().read(true).write(true).open(path).expect("ours");
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).expect("long enough");
        std::os::unix::fs::FileExt::write_all_at(&file, &[byte[0] ^ 0x55], at).expect("ours");
    }
    let before = json(&["verify"], &dir);
    let missing = |verify: &serde_json::Value| -> u64 {
        verify["missing"].as_array().expect("a list").iter().map(|hole| hole["items"].as_u64().expect("items")).sum()
    };
    assert!(before["items_behind_damage"].as_u64() > Some(0), "the journal goes on behind its damage: {before}");
    let repaired = json(&["repair"], &dir);
    let repaired = repaired["repaired"].as_array().expect("a list");
    assert_eq!(repaired.len(), 2, "{repaired:?}");
    assert!(repaired.iter().all(|r| Path::new(r["kept"].as_str().expect("a path")).is_dir()), "{repaired:?}");
    let after = json(&["verify"], &dir);
    assert!(missing(&before) == missing(&after) && missing(&after) <= 100 && missing(&after) > 0, "{before}\n{after}");
    let out = place.path().join("out");
    spool(&["export", "--to", &out.to_string_lossy()], &dir);
    let readable: u64 = exported(&out).values().map(|seqs| seqs.len() as u64).sum();
    assert_eq!(readable, total - missing(&after));
    far_end.play(Script::new());
    goes_on(&place, &far_end, readable).await;
    let stat = json(&["stat"], &dir);
    let sum = |key: &str| -> u64 {
        stat["books"].as_array().expect("books").iter().map(|book| book[key].as_u64().expect("a number")).sum()
    };
    assert_eq!((sum("accepted"), sum("delivered"), sum("lost_items")), (total, readable, total - readable), "{stat}");
}

#[test]
fn what_is_no_spool_is_said_to_be_none() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for command in ["ls", "stat", "verify", "peek", "requeue", "repair"] {
        let output = spool(&[command], dir.path());
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no spool lies there"), "{output:?}");
        assert_eq!(spool(&[command], &dir.path().join("nowhere")).status.code(), Some(1));
    }
}
