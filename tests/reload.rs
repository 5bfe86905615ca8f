//! SIGHUP to the real binary under load: what changes, what does not, and that no request notices; and log files that
//! are moved away.

use std::path::{Path, PathBuf};
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::books::{self, Bound};
use tfo_otel_agent::testing::child::{self, Child, free_port};
use tfo_otel_agent::testing::far_end::Script;
use tfo_otel_agent::testing::load::{Load, Running, until};
use tfo_otel_agent::testing::{FarEnd, Tally};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);
const IN_FORCE: &str = "configuration is in force";
const NOT_IN_FORCE: &str = "configuration is not carried out";

struct Rig {
    child: Child,
    dir: tempfile::TempDir,
    log: PathBuf,
    port: u16,
    metrics: u16,
}

/// What differs between the configurations of a test.
#[derive(Clone)]
struct Wish {
    /// Under `processors` and in every pipeline.
    processors: Vec<(&'static str, &'static str)>,
    /// Name, endpoint and storage.
    exporters: Vec<(&'static str, String, Option<&'static str>)>,
    storages: Vec<&'static str>,
    /// Added to the receiver's.
    receiver: &'static str,
    /// More receivers, pipelines and telemetry.
    receivers: String,
    also: String,
    /// More extensions, and which of them start.
    extensions: String,
    started: &'static str,
    telemetry: String,
    metrics_more: &'static str,
}

impl Wish {
    fn to(endpoint: String) -> Wish {
        Wish {
            processors: vec![("batch", "{timeout: 50ms}")],
            exporters: vec![("otlphttp", endpoint, Some("file_storage"))],
            storages: vec!["file_storage"],
            receiver: "",
            receivers: String::new(),
            also: String::new(),
            extensions: String::new(),
            started: "",
            telemetry: String::new(),
            metrics_more: "",
        }
    }
}

impl Rig {
    fn start(wish: &Wish) -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (port, metrics) = (free_port().expect("a port"), free_port().expect("a port"));
        let (config, log) = (dir.path().join("agent.yaml"), dir.path().join("agent.log"));
        write(dir.path(), port, metrics, wish);
        let binary = Path::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
        let mut command = child::agent(binary, &config, &log).expect("space");
        let child = Child::spawn(&mut command).expect("the binary cargo built for this test");
        Rig { child, dir, log, port, metrics }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Hangs up, and waits until `told` was said once more.
    async fn reload(&self, wish: &Wish, told: &str) {
        write(self.dir.path(), self.port, self.metrics, wish);
        let before = self.log().matches(told).count();
        rustix::process::kill_process(self.child.pid(), rustix::process::Signal::HUP).expect("our child");
        let said = || self.log().matches(told).count() > before;
        assert!(until(PATIENCE, said).await, "it says {told:?}:\n{}", self.log());
    }

    fn load(&self) -> Running {
        self.load_from(1)
    }

    fn load_from(&self, first_source: u32) -> Running {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let signals = Signal::ALL.to_vec();
        Load { endpoint, signals, rate: 20_000, request_items: 50, clients: 2, first_source }.start()
    }

    async fn metric(&self, name: &str) -> u64 {
        child::metric(self.metrics, name).await.expect("it listens") as u64
    }
}

fn write(dir: &Path, port: u16, metrics: u16, wish: &Wish) {
    let lines = |all: Vec<String>| all.join("");
    let processors = lines(wish.processors.iter().map(|(id, text)| format!("  {id}: {text}\n")).collect());
    let exporters = lines(
        wish.exporters
            .iter()
            .map(|(id, endpoint, storage)| {
                let queue = storage.map_or(String::new(), |s| format!(", sending_queue: {{storage: {s}}}"));
                let retry = "retry_on_failure: {initial_interval: 50ms, max_interval: 200ms}";
                format!("  {id}: {{endpoint: '{endpoint}', {retry}{queue}}}\n")
            })
            .collect(),
    );
    let storages = lines(
        wish.storages
            .iter()
            .map(|id| format!("  {id}: {{directory: '{}'}}\n", dir.join(id.replace('/', "-")).display()))
            .collect(),
    );
    let names = |all: Vec<&str>| all.join(", ");
    let pipeline = format!(
        "{{receivers: [otlp], processors: [{}], exporters: [{}]}}",
        names(wish.processors.iter().map(|p| p.0).collect()),
        names(wish.exporters.iter().map(|e| e.0).collect()),
    );
    let text = format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'{}}}}}}}{}}}
processors:
{processors}exporters:
{exporters}extensions:
{storages}{}service:
  extensions: [{}{}]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'{}}}{}}}
  pipelines: {{logs: {pipeline}, traces: {pipeline}, metrics: {pipeline}{}}}
",
        wish.receiver,
        wish.receivers,
        wish.extensions,
        wish.started,
        names(wish.storages.clone()),
        wish.metrics_more,
        wish.telemetry,
        wish.also,
    );
    std::fs::write(dir.join("agent.yaml"), text).expect("space");
}

/// What was acknowledged, and what either of them has.
fn books_of(load: &Running, far_ends: &[&FarEnd]) -> Tally {
    let mut books = load.tally();
    far_ends.iter().for_each(|end| end.with(|collector| books.merge(collector.tally())));
    books
}

/// The exporter's books, and the count of its one far end; no answer was lost, so they are the same.
async fn books_agree(rig: &Rig, exporter: &str, load: &Running, far_end: &FarEnd) {
    let agreed = books::agree(rig.metrics, exporter, Bound::default(), PATIENCE, || books_of(load, &[far_end])).await;
    if let Err(no) = agreed {
        panic!("the books and the far end: {no}\n{}", rig.log());
    }
}

/// Requests of every client are answered meanwhile.
async fn goes_on(load: &Running) {
    let before = load.acknowledged();
    assert!(until(PATIENCE, || load.acknowledged() > before + 2_000).await, "the load goes on");
}

/// Goal: under load every kind of change comes into force; 0 requests are refused, 0 items lost.
#[actix::test]
async fn reloads_under_load_lose_and_refuse_nothing() {
    let [a, b] = [(); 2].map(|()| FarEnd::start(Script::new()).expect("a port"));
    let first = Wish::to(a.endpoint());
    let mut rig = Rig::start(&first);
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    let stamp = ("attributes", "{actions: [{key: site, value: north, action: upsert}]}");
    let with_site =
        Wish { processors: vec![stamp, ("batch", "{timeout: 20ms, send_batch_size: 500}")], ..first.clone() };
    let elsewhere = Wish { exporters: vec![("otlphttp", b.endpoint(), Some("file_storage"))], ..with_site.clone() };
    let both = Wish {
        exporters: vec![elsewhere.exporters[0].clone(), ("otlphttp/two", a.endpoint(), Some("file_storage/two"))],
        storages: vec!["file_storage", "file_storage/two"],
        ..first.clone()
    };
    let in_memory = Wish {
        exporters: vec![elsewhere.exporters[0].clone(), ("otlphttp/memory", a.endpoint(), None)],
        ..both.clone()
    };
    for wish in [&with_site, &elsewhere, &both, &in_memory, &first, &both, &first] {
        goes_on(&load).await;
        rig.reload(wish, IN_FORCE).await;
        // Whoever is named gets what comes from now on.
        for end in [&a, &b].into_iter().filter(|end| wish.exporters.iter().any(|(_, to, _)| *to == end.endpoint())) {
            let arrivals = || end.with(|end| end.tally().arrivals(Signal::Logs));
            let before = arrivals();
            assert!(until(PATIENCE, || arrivals() > before).await, "{:?}:\n{}", wish.exporters, rig.log());
        }
    }
    goes_on(&load).await;
    let _ = rig.metric("tfo_agent_spool_seconds_to_full").await; // there is a rate from the second scrape on
    load.stop();
    let whole = || books_of(&load, &[&a, &b]).report().lost() == 0;
    assert!(until(PATIENCE, whole).await, "{:?}\n{}", books_of(&load, &[&a, &b]).report(), rig.log());
    assert!(b.with(|b| b.tally().arrivals(Signal::Logs)) > 0, "the second far end took part");
    for exporter in ["otlphttp", "otlphttp/two", "otlphttp/memory"] {
        for (signal, book) in books::shown(rig.metrics, exporter).await.expect("it listens") {
            assert!(book.accepted > 0 && book.adds_up(), "{exporter} {signal}: {book:?}");
        }
    }
    assert_eq!(load.refused(), 0, "{}", rig.log());
    assert!(load.acknowledged() > 10_000, "{}", load.acknowledged());
    assert_eq!(rig.metric("tfo_agent_config_reloads{outcome=\"applied\"").await, 7, "{}", rig.log());
    assert!(rig.metric("tfo_agent_spool_commit_seconds_count").await > 10);
    assert!(rig.metric("tfo_agent_spool_seconds_to_full").await > 60, "data came in since the scrape before");
    assert!(!rig.log().contains("fell"), "a post that is given up is no fall:\n{}", rig.log());
    rustix::process::kill_process(rig.child.pid(), rustix::process::Signal::TERM).expect("our child");
    let status = rig.child.wait().expect("our child");
    assert_eq!(status.code(), Some(0), "{}", rig.log());
}

/// A connection of HTTP/1.1 that is kept.
struct Kept(TcpStream);

impl Kept {
    async fn to(port: u16) -> Kept {
        Kept(TcpStream::connect(("127.0.0.1", port)).await.expect("it listens"))
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("it is open");
    }

    /// The next answer, its head and what is there of its body.
    async fn answer(&mut self) -> String {
        let mut answer = String::new();
        let mut piece = [0; 1_024];
        while !answer.contains("\r\n\r\n") {
            let read = tokio::time::timeout(PATIENCE, self.0.read(&mut piece)).await.expect("in time").expect("open");
            assert_ne!(read, 0, "it was closed after {answer:?}");
            answer.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        answer
    }

    /// An empty request and the status of its answer.
    async fn ask(&mut self) -> String {
        self.send(&format!("{HEAD}content-length: 0\r\n\r\n")).await;
        self.answer().await[9..12].to_owned()
    }

    async fn is_closed(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.0.read(&mut [0; 64])).await.expect("in time");
        matches!(read, Ok(0) | Err(_))
    }
}

const HEAD: &str = "POST /v1/logs HTTP/1.1\r\nhost: test\r\ncontent-type: application/x-protobuf\r\n";

/// A connection of HTTP/2 that is kept: its preface, and pings that are answered.
struct Pinged(TcpStream);

impl Pinged {
    async fn to(port: u16) -> Pinged {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        let begin = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        stream.write_all(&begin).await.expect("it is open");
        Pinged(stream)
    }

    async fn answers(&mut self) -> bool {
        self.0.write_all(&[&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], b"are you?"].concat()).await.expect("it is open");
        let answered = async {
            loop {
                let mut head = [0; 9];
                self.0.read_exact(&mut head).await?;
                let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
                self.0.read_exact(&mut payload).await?;
                match (head[3], head[4]) {
                    (6, 1) => return Ok(true),                          // PING, ACK
                    (7, _) => return Ok::<bool, std::io::Error>(false), // GOAWAY
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.expect("in time").unwrap_or(false)
    }
}

fn ports<const N: usize>() -> [u16; N] {
    // Bound together: one after the other might be the same.
    let all = [(); N].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    all.map(|listener| listener.local_addr().expect("bound").port())
}

fn load_on(port: u16, first_source: u32) -> Running {
    let endpoint = format!("http://127.0.0.1:{port}");
    Load { endpoint, signals: vec![Signal::Logs], rate: 5_000, request_items: 50, clients: 2, first_source }.start()
}

/// More receivers, each in a pipeline of its own.
fn with_receivers(first: &Wish, receivers: &[(&str, String)]) -> Wish {
    let mut wish = first.clone();
    wish.receivers =
        receivers.iter().map(|(name, protocols)| format!(", otlp/{name}: {{protocols: {protocols}}}")).collect();
    let names: Vec<String> = receivers.iter().map(|(name, _)| format!("otlp/{name}")).collect();
    if !names.is_empty() {
        let exporters: Vec<&str> = first.exporters.iter().map(|e| e.0).collect();
        wish.also =
            format!(", logs/more: {{receivers: [{}], exporters: [{}]}}", names.join(", "), exporters.join(", "));
    }
    wish
}

/// Goal: receivers are added, changed, moved and removed, and so is where metrics and health are served, while clients
/// send: 0 refused, 0 lost, and no connection of what did not change is closed.
#[actix::test]
async fn receivers_come_change_and_go_under_load() {
    let a = FarEnd::start(Script::new()).expect("a port");
    let [changed, fresh, gone, grpc, health, metrics] = ports();
    let mut first = Wish::to(a.endpoint());
    first.extensions =
        format!("  health_check: {{endpoint: '127.0.0.1:{health}'}}\n  bearertokenauth: {{token: s3cret}}\n");
    first.started = "health_check, ";
    let http = |port: u16, more: &str| format!("{{http: {{endpoint: '127.0.0.1:{port}'{more}}}}}");
    let both = |more: &str, limits: &str| {
        format!("{{http: {{endpoint: '127.0.0.1:{changed}'{more}}}, grpc: {{endpoint: '127.0.0.1:{grpc}'{limits}}}}}")
    };
    let begin = with_receivers(&first, &[("changed", both("", "")), ("gone", http(gone, ""))]);
    let mut rig = Rig::start(&begin);
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let (load, load_changed, load_gone) = (rig.load(), load_on(changed, 100), load_on(gone, 200));
    let (mut kept, mut kept_changed, mut kept_gone) =
        (Kept::to(rig.port).await, Kept::to(changed).await, Kept::to(gone).await);
    let (mut pinged, mut scrapes) = (Pinged::to(grpc).await, Kept::to(rig.metrics).await);
    assert_eq!([kept.ask().await, kept_changed.ask().await, kept_gone.ask().await], ["200"; 3]);
    assert!(pinged.answers().await);

    // Changed: what a request may be counts for the next one, on connections that are there too.
    let smaller = ", max_request_body_size: 100000, response_headers: {x-site: north}";
    let step =
        with_receivers(&first, &[("changed", both(smaller, ", max_recv_msg_size_mib: 2")), ("gone", http(gone, ""))]);
    rig.reload(&step, IN_FORCE).await;
    kept_changed.send(&format!("{HEAD}content-length: 0\r\n\r\n")).await;
    assert!(kept_changed.answer().await.contains("x-site: north"));
    assert!(pinged.answers().await, "a connection of gRPC stays too");
    assert_eq!(kept.ask().await, "200");

    // Added; who asks for credentials asks on connections that are there.
    let guarded = ", auth: {authenticator: bearertokenauth}";
    let step = with_receivers(
        &first,
        &[("changed", both("", guarded)), ("gone", http(gone, "")), ("fresh", http(fresh, guarded))],
    );
    rig.reload(&step, IN_FORCE).await;
    assert_eq!(Kept::to(fresh).await.ask().await, "401");
    let step =
        with_receivers(&first, &[("changed", both("", "")), ("gone", http(gone, "")), ("fresh", http(fresh, ""))]);
    rig.reload(&step, IN_FORCE).await;
    let load_fresh = load_on(fresh, 300);
    goes_on(&load_fresh).await;

    // Removed: what is under way is answered, and then nobody listens.
    load_gone.stop();
    let mut slow = Kept::to(gone).await;
    slow.send(&format!("{HEAD}content-length: 9\r\n\r\n\n\x07\x12")).await;
    goes_on(&load_fresh).await;
    let without = with_receivers(&first, &[("changed", both("", "")), ("fresh", http(fresh, ""))]);
    write(rig.dir.path(), rig.port, rig.metrics, &without);
    rustix::process::kill_process(rig.child.pid(), rustix::process::Signal::HUP).expect("our child");
    assert!(kept_gone.is_closed().await, "a connection at rest is closed");
    assert!(std::net::TcpStream::connect(("127.0.0.1", gone)).is_err(), "nobody listens");
    slow.send("\x05\x12\x03\x1a\x01x").await;
    let last = slow.answer().await;
    assert!(last.starts_with("HTTP/1.1 200") && last.contains("connection: close"), "{last}");
    assert!(slow.is_closed().await);
    let applied = rig.metric("tfo_agent_config_reloads{outcome=\"applied\"").await;
    assert!(until(PATIENCE, || rig.log().matches(IN_FORCE).count() == 4).await, "{applied}: {}", rig.log());

    drop(pinged); // it answers no pings, so that nobody could say goodbye to it in less than 10 s
    // Moved, on one port: from one interface to all of them, and back.
    for host in ["0.0.0.0", "127.0.0.1"] {
        let moved = both("", "").replace("127.0.0.1", host);
        rig.reload(&with_receivers(&first, &[("changed", moved), ("fresh", http(fresh, ""))]), IN_FORCE).await;
        goes_on(&load_changed).await;
    }
    // Receivers that change places: each gets what comes to its new one.
    let swapped = [("changed", http(fresh, "")), ("fresh", http(changed, ""))];
    rig.reload(&with_receivers(&first, &swapped), IN_FORCE).await;
    assert!(std::net::TcpStream::connect(("127.0.0.1", grpc)).is_err(), "it has no gRPC any more");
    goes_on(&load_changed).await;
    goes_on(&load_fresh).await;

    // Health and metrics.
    let mut elsewhere = with_receivers(&first, &swapped);
    elsewhere.extensions = elsewhere.extensions.replace("'}", "', path: /healthy}");
    assert!(Kept::to(health).await.ask().await.starts_with("200"));
    let old_metrics = std::mem::replace(&mut rig.metrics, metrics);
    rig.reload(&elsewhere, IN_FORCE).await;
    assert!(Kept::to(health).await.ask().await.starts_with("404"), "the path is another one");
    assert!(scrapes.is_closed().await && std::net::TcpStream::connect(("127.0.0.1", old_metrics)).is_err());
    assert_eq!(kept.ask().await, "200", "through all of it");

    // Logs: level, shape and place; labels and level of the metrics.
    let own = rig.dir.path().join("own.log");
    let logs = format!(", logs: {{level: debug, encoding: json, output_paths: ['{}']}}", own.display());
    let told = Wish {
        telemetry: format!("{logs}, resource: {{site: north}}"),
        metrics_more: ", level: detailed",
        ..elsewhere.clone()
    };
    write(rig.dir.path(), rig.port, rig.metrics, &told);
    rustix::process::kill_process(rig.child.pid(), rustix::process::Signal::HUP).expect("our child");
    let said = || std::fs::read_to_string(&own).unwrap_or_default();
    assert!(until(PATIENCE, || said().contains(r#""msg":"configuration is in force""#)).await, "{}", said());
    assert!(rig.metric("otelcol_receiver_accepted_log_records{receiver=\"otlp/changed\"").await > 0);
    let scrape = rig.scrape().await;
    assert!(scrape.contains("site=\"north\"") && scrape.contains("batch_send_size_bytes"), "{scrape}");
    rig.reload(&elsewhere, IN_FORCE).await;
    assert!(!rig.scrape().await.contains("site=\"north\""));

    // A port that is taken: refused before anything is changed.
    let holds = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holds.local_addr().expect("bound").port();
    let no =
        with_receivers(&first, &[("changed", http(changed, "")), ("fresh", http(fresh, "")), ("no", http(taken, ""))]);
    rig.reload(&no, NOT_IN_FORCE).await;
    assert!(rig.log().contains("receiver otlp/no (http) cannot listen at"), "{}", rig.log());
    goes_on(&load_changed).await;

    let all = [load, load_changed, load_gone, load_fresh];
    all.iter().for_each(Running::stop);
    let tally = || {
        let mut books = books_of(&all[0], &[&a]);
        all[1..].iter().for_each(|load| books.merge(&load.tally()));
        books
    };
    assert!(until(PATIENCE, || tally().report().lost() == 0).await, "{:?}\n{}", tally().report(), rig.log());
    assert_eq!(all.each_ref().map(Running::refused), [0; 4], "{}", rig.log());
    assert!(!rig.log().contains("fell"), "{}", rig.log());
    rustix::process::kill_process(rig.child.pid(), rustix::process::Signal::TERM).expect("our child");
    assert_eq!(rig.child.wait().expect("our child").code(), Some(0), "{}", rig.log());
}

/// What a process holds: threads, file descriptors, posts.
struct Holds {
    threads: usize,
    files: usize,
    posts: u64,
}

impl Rig {
    async fn holds(&self) -> Holds {
        let count = |what: &str| {
            let path = format!("/proc/{}/{what}", self.child.pid().as_raw_nonzero());
            std::fs::read_dir(path).expect("it runs").count()
        };
        Holds { threads: count("task"), files: count("fd"), posts: self.metric("tfo_agent_post_up").await }
    }

    async fn scrape(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).await.expect("it listens");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
            .await
            .expect("it is open");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        text
    }
}

/// Goal: 50 reloads by chance leave nothing behind, and nobody who sends meanwhile is refused.
/// Method: what the first configuration holds is counted when everything that stays open was opened once, and again at
/// the end. A leak of one for each reload would be 50.
#[actix::test]
async fn many_reloads_leave_nothing_behind() {
    let [a, b] = [(); 2].map(|()| FarEnd::start(Script::new()).expect("a port"));
    let places: [u16; 5] = ports();
    let first = Wish::to(a.endpoint());
    let rig = Rig::start(&first);
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let endpoint = format!("http://127.0.0.1:{}", rig.port);
    let load =
        Load { endpoint, signals: vec![Signal::Logs], rate: 2_000, request_items: 50, clients: 1, first_source: 1 };
    let load = load.start();
    let seed = u64::from(std::process::id());
    let mut dice = tfo_otel_agent::base::Dice::seeded(seed);
    let mut any = |n: u64| dice.u64() % n;
    let mut chosen = |all: bool| {
        let mut chance = |n: u64| if all { 0 } else { any(n) };
        let mut receivers = Vec::new();
        for (name, place) in ["one", "two", "three"].into_iter().zip(0..) {
            let more = ["", ", max_request_body_size: 1000000", ", include_metadata: true"][chance(3) as usize];
            let at = places[(place + chance(2) as usize * 3) % 3];
            let text = format!("{{http: {{endpoint: '127.0.0.1:{at}'{more}}}}}");
            if chance(2) == 0 && !receivers.iter().any(|(_, other): &(&str, String)| other.contains(&format!(":{at}'")))
            {
                receivers.push((name, text));
            }
        }
        if chance(2) == 0 {
            let more = ["", ", max_recv_msg_size_mib: 2"][chance(2) as usize];
            receivers.push((
                "four",
                format!("{{grpc: {{endpoint: '127.0.0.1:{}'{more}}}}}", places[3 + chance(2) as usize]),
            ));
        }
        let mut wish = with_receivers(&first, &receivers);
        if chance(2) == 0 {
            wish.exporters.push(("otlphttp/two", b.endpoint(), Some("file_storage/two")));
            wish.storages.push("file_storage/two");
        }
        if chance(2) == 0 {
            wish.exporters.push(("otlphttp/memory", b.endpoint(), None));
        }
        if chance(2) == 0 {
            wish.receivers.push_str(", self: {collection_interval: 100ms}");
            wish.also.push_str(", metrics/own: {receivers: [self], exporters: [otlphttp]}");
        }
        if chance(2) == 0 {
            wish.metrics_more = ", level: detailed";
            wish.telemetry = ", logs: {level: debug}".to_owned();
        }
        wish
    };
    const DONE: &str = "configuration is ";
    for wish in [&chosen(true), &first] {
        rig.reload(wish, DONE).await;
    }
    goes_on(&load).await;
    let before = rig.holds().await;
    for n in 0..50 {
        rig.reload(&chosen(false), DONE).await;
        assert!(!rig.log().contains(NOT_IN_FORCE), "{n} of {seed}: {}", rig.log());
    }
    rig.reload(&first, DONE).await;
    goes_on(&load).await;
    // Threads that were given up take a moment to end, and a segment more or less is open: it has files, and a thread of fjall's.
    for _ in 0..200 {
        let now = rig.holds().await;
        if now.threads <= before.threads + 1 && now.files <= before.files + 12 && now.posts <= before.posts {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let now = rig.holds().await;
    assert!(now.threads <= before.threads + 1, "{} and {} threads, seed {seed}", before.threads, now.threads);
    assert_eq!(now.posts, before.posts, "seed {seed}");
    assert!(now.files <= before.files + 12, "{} and {} files, seed {seed}", before.files, now.files);
    load.stop();
    let whole = || books_of(&load, &[&a]).report().lost() == 0;
    assert!(until(PATIENCE, whole).await, "{:?}\n{}", books_of(&load, &[&a]).report(), rig.log());
    assert_eq!(load.refused(), 0, "seed {seed}: {}", rig.log());
}

/// Goal: while the far end is away a new endpoint is what gets the data out.
#[actix::test]
async fn what_waits_goes_by_the_new_settings() {
    let dead = format!("http://127.0.0.1:{}", free_port().expect("a port"));
    let b = FarEnd::start(Script::new()).expect("a port");
    let rig = Rig::start(&Wish::to(dead));
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    assert!(until(PATIENCE, || load.acknowledged() > 5_000).await);
    load.stop();
    rig.reload(&Wish::to(b.endpoint()), IN_FORCE).await;
    let whole = || books_of(&load, &[&b]).report().lost() == 0;
    assert!(until(PATIENCE, whole).await, "{:?}\n{}", books_of(&load, &[&b]).report(), rig.log());
    assert_eq!(load.refused(), 0);
    books_agree(&rig, "otlphttp", &load, &b).await;
}

/// Goal: an exporter that a reload takes out holds nobody up: what came in before waits for its return, what comes in
/// meanwhile does not, and its return begins there.
#[actix::test]
async fn an_exporter_that_goes_keeps_what_it_had_and_no_more() {
    let dead = format!("http://127.0.0.1:{}", free_port().expect("a port"));
    let (a, b) = (FarEnd::start(Script::new()).expect("a port"), FarEnd::start(Script::new()).expect("a port"));
    let mut both = Wish::to(a.endpoint());
    both.exporters.push(("otlphttp/b", dead, Some("file_storage")));
    let rig = Rig::start(&both);
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let accepted = || rig.metric("tfo_agent_items_accepted{exporter=\"otlphttp/b\"");
    let load = rig.load();
    assert!(until(PATIENCE, || load.acknowledged() > 5_000).await);
    rig.reload(&Wish::to(a.endpoint()), IN_FORCE).await;
    // The requests that were under way have ended soon after.
    let mut before = accepted().await;
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = accepted().await;
        if std::mem::replace(&mut before, now) == now {
            break;
        }
    }
    let had = before;
    goes_on(&load).await;
    load.stop();
    let whole = || books_of(&load, &[&a]).report().lost() == 0;
    assert!(until(PATIENCE, whole).await, "{:?}\n{}", books_of(&load, &[&a]).report(), rig.log());
    books_agree(&rig, "otlphttp", &load, &a).await;
    assert_eq!(accepted().await, had, "what comes in while it is away is not its own");
    assert_eq!(rig.metric("tfo_agent_items_waiting{exporter=\"otlphttp/b\"").await, had);

    both.exporters[1].1 = b.endpoint();
    rig.reload(&both, IN_FORCE).await;
    let later = rig.load_from(100);
    assert!(until(PATIENCE, || later.acknowledged() > 5_000).await);
    later.stop();
    // What is fresh may be at the far end before its client knows that it was taken.
    assert!(until(PATIENCE, || later.is_over()).await);
    let whole = || books_of(&later, &[&b]).report().lost() == 0;
    assert!(until(PATIENCE, whole).await, "{:?}\n{}", books_of(&later, &[&b]).report(), rig.log());
    let all = had + later.acknowledged();
    assert!(until(PATIENCE, || b.with(|c| c.counts().items) >= all).await);
    assert_eq!(b.with(|c| c.counts().items), all, "nothing of its absence");
}

/// Goal: what cannot be carried out changes nothing, and says why; what is the same does nothing.
#[actix::test]
async fn what_cannot_be_carried_out_changes_nothing() {
    let a = FarEnd::start(Script::new()).expect("a port");
    let first = Wish::to(a.endpoint());
    let rig = Rig::start(&first);
    assert!(until(PATIENCE, || rig.log().contains("Everything is ready")).await, "{}", rig.log());
    let load = rig.load();
    rig.reload(&Wish { processors: vec![("batch", "{timeout: 50 parsecs}")], ..first.clone() }, NOT_IN_FORCE).await;
    assert!(rig.log().contains("processors.batch.timeout"), "{}", rig.log());
    let elsewhere = rig.dir.path().join("elsewhere");
    let moved = format!("  file_storage: {{directory: '{}'}}\n", elsewhere.display());
    rig.reload(&Wish { storages: Vec::new(), extensions: moved, ..first.clone() }, NOT_IN_FORCE).await;
    assert!(rig.log().contains("a change of extensions.file_storage.directory needs a restart"), "{}", rig.log());
    assert_eq!(rig.metric("tfo_agent_config_reloads{outcome=\"refused\"").await, 2);
    rig.reload(&first, "configuration is unchanged").await;
    goes_on(&load).await;
    load.stop();
    let whole = || books_of(&load, &[&a]).report().lost() == 0;
    assert!(until(PATIENCE, whole).await, "{:?}\n{}", books_of(&load, &[&a]).report(), rig.log());
    assert_eq!(load.refused(), 0);
    books_agree(&rig, "otlphttp", &load, &a).await;
}

/// Goal: a log file that was moved away (logrotate) is made anew.
#[actix::test]
async fn log_files_are_opened_anew() {
    let a = FarEnd::start(Script::new()).expect("a port");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = dir.path().join("own.log");
    let mut wish = Wish::to(a.endpoint());
    wish.telemetry = format!(", logs: {{output_paths: ['{}']}}", log.display());
    let rig = Rig::start(&wish);
    let said = |what: &str| std::fs::read_to_string(&log).is_ok_and(|text| text.contains(what));
    assert!(until(PATIENCE, || said("Everything is ready")).await, "{}", rig.log());
    std::fs::rename(&log, dir.path().join("own.log.1")).expect("the same directory");
    rustix::process::kill_process(rig.child.pid(), rustix::process::Signal::HUP).expect("our child");
    assert!(until(PATIENCE, || said("configuration is unchanged")).await, "{}", rig.log());
    assert!(!said("Everything is ready"), "it is a new file");
}

/// Goal: the agent's own metrics arrive like anybody's, with what changes while they are sent.
#[actix::test]
async fn own_metrics_go_through_a_pipeline() {
    let a = FarEnd::start(Script::new()).expect("a port");
    let mut wish = Wish::to(a.endpoint());
    wish.receivers = ", self: {collection_interval: 100ms}".to_owned();
    wish.also = ", metrics/own: {receivers: [self], exporters: [otlphttp]}".to_owned();
    let rig = Rig::start(&wish);
    let arrived = || a.with(|a| a.tally().unnumbered(Signal::Metrics));
    assert!(until(PATIENCE, || arrived() > 100).await, "{}", rig.log());
    assert!(rig.metric("otelcol_receiver_accepted_metric_points{receiver=\"self\"").await > 100);
}
