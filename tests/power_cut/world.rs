//! The world around the recorded agent: clients that remember on which connection each answer came, and a far end that
//! notes the tick of everything it takes.

use super::recorder::{Log, Recorder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::numbered::numbers;
use tfo_otel_agent::testing::{Mark, Numbered, Source, Tally};

/// Every so manieth log record is one the far end refuses for good, when it is picky.
const POISON_EVERY: u64 = 1_500;

pub(crate) fn is_poison(signal: Signal, mark: Mark) -> bool {
    signal == Signal::Logs && mark.seq % POISON_EVERY == POISON_EVERY - 1
}

/// One request and where its answer came.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Offer {
    signal: String,
    source: u32,
    seqs: Range<u64>,
    /// The client's port, and how many answers came there before.
    answer: Option<(u16, usize)>,
    status: Option<u16>,
    /// When the agent began to send it an answer that says so.
    acknowledged: Option<u64>,
}

/// An item the far end took, and when.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Arrival {
    tick: u64,
    logs: bool,
    source: u32,
    seq: u64,
}

/// What happened outside of the disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Story {
    offers: Vec<Offer>,
    arrivals: Vec<Arrival>,
    /// Highest index of a block in an upload, by lane, and when it was seen.
    uploads: Vec<(u64, u32, u64)>,
    /// The name the spool has in its uploads, and when it was first seen.
    name: Option<(u64, String)>,
}

fn signal_of(name: &str) -> Signal {
    if name == "logs" { Signal::Logs } else { Signal::Metrics }
}

impl Story {
    /// The books at a tick: what was acknowledged and what had arrived. Issued is everything that ever was.
    pub(crate) fn books(&self, tick: u64) -> Tally {
        let mut tally = Tally::default();
        for offer in &self.offers {
            let (signal, source) = (signal_of(&offer.signal), Source(offer.source));
            tally.issued(signal, source, offer.seqs.clone());
            if offer.acknowledged.is_some_and(|sent| sent <= tick) {
                tally.acknowledged(signal, source, offer.seqs.clone());
            }
        }
        for a in self.arrivals.iter().filter(|a| a.tick <= tick) {
            let signal = if a.logs { Signal::Logs } else { Signal::Metrics };
            tally.arrived(signal, Some(Mark { source: Source(a.source), seq: a.seq }));
        }
        tally
    }

    /// Most items of a signal that were in a commit at a tick and never answered: each client has one request under way.
    pub(crate) fn under_way(&self, tick: u64, signal: Signal) -> u64 {
        let mut largest: BTreeMap<u32, u64> = BTreeMap::new();
        let open = |offer: &&Offer| offer.acknowledged.is_none_or(|sent| sent > tick);
        for offer in self.offers.iter().filter(open).filter(|offer| signal_of(&offer.signal) == signal) {
            let items = largest.entry(offer.source).or_default();
            *items = (*items).max(offer.seqs.end - offer.seqs.start);
        }
        largest.values().sum()
    }

    /// Adds what the far end saw, and finds the tick of each answer in the log.
    pub(crate) fn close(&mut self, far_end: Story, log: &Log) {
        self.arrivals.extend(far_end.arrivals);
        self.uploads.extend(far_end.uploads);
        self.name = far_end.name;
        let mut answers: BTreeMap<u16, Vec<(u64, u16)>> = BTreeMap::new();
        log.sent.iter().for_each(|s| answers.entry(s.port).or_default().push((s.tick, s.status)));
        for offer in &mut self.offers {
            let answer = offer.answer.and_then(|(port, n)| answers.get(&port)?.get(n));
            assert_eq!(answer.map(|a| a.1), offer.status, "the recorder sees the answers the clients see: {offer:?}");
            offer.acknowledged = answer.filter(|(_, status)| *status == 200).map(|(tick, _)| *tick);
        }
    }

    /// This story begins on the disk a cut of an earlier one left: what was owed then is owed from the first tick on.
    pub(crate) fn follow(&mut self, earlier: &Story, cut: u64) {
        let owed = |o: &Offer| o.acknowledged.filter(|tick| *tick <= cut).map(|_| 0);
        self.offers.extend(earlier.offers.iter().map(|o| Offer { acknowledged: owed(o), ..o.clone() }));
        self.arrivals.extend(earlier.arrivals.iter().filter(|a| a.tick <= cut).map(|a| Arrival { tick: 0, ..*a }));
        self.uploads.extend(earlier.uploads.iter().filter(|u| u.0 <= cut).map(|u| (0, u.1, u.2)));
        self.name = earlier.name(cut).map(|name| (0, name.to_owned())).or(self.name.take());
    }

    /// What the far end knew the spool by.
    pub(crate) fn name(&self, tick: u64) -> Option<&str> {
        self.name.as_ref().filter(|(seen, _)| *seen <= tick).map(|(_, name)| name.as_str())
    }

    /// The highest index the far end had seen of each lane.
    pub(crate) fn highest(&self, tick: u64) -> BTreeMap<u32, u64> {
        let mut highest = BTreeMap::new();
        for (_, lane, index) in self.uploads.iter().filter(|(seen, _, _)| *seen <= tick) {
            let high: &mut u64 = highest.entry(*lane).or_default();
            *high = (*high).max(*index);
        }
        highest
    }
}

/// What the far end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Weather {
    /// What is poison later is not taken now, and everything else is: parked.
    Moody,
    #[default]
    Fair,
    /// 503 to everything.
    Away,
    /// 503 to metrics.
    NoMetrics,
    /// Like fair, but some log records are refused for good.
    Picky,
}

/// A far end on a port of its own.
#[derive(Debug)]
pub(crate) struct FarEnd {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    weather: Mutex<Weather>,
    story: Mutex<Story>,
    recorder: Mutex<Option<Arc<Recorder>>>,
    over: AtomicBool,
}

impl FarEnd {
    pub(crate) fn start() -> FarEnd {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if theirs.over.load(SeqCst) {
                    return;
                }
                let theirs = theirs.clone();
                std::thread::spawn(move || theirs.serve(stream));
            }
        });
        FarEnd { port, shared }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn weather(&self, weather: Weather) {
        *lock(&self.shared.weather) = weather;
    }

    /// From now on arrivals bear this recorder's time.
    pub(crate) fn follow(&self, recorder: &Arc<Recorder>) {
        *lock(&self.shared.recorder) = Some(recorder.clone());
    }

    /// What it took so far, and forgets.
    pub(crate) fn take(&self) -> Story {
        std::mem::take(&mut lock(&self.shared.story))
    }

    /// What it took so far.
    pub(crate) fn tally(&self) -> Tally {
        lock(&self.shared.story).books(u64::MAX)
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // it looks up and sees
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let Ok(mut answer) = stream.try_clone() else { return };
        let mut reader = BufReader::new(stream);
        while let Ok(Some((line, headers, body))) = read_message(&mut reader) {
            let status = self.take(&line, &headers, &body);
            let told =
                format!("HTTP/1.1 {status} x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n");
            if answer.write_all(told.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn take(&self, line: &str, headers: &[(String, String)], body: &[u8]) -> u16 {
        let signal = if line.contains("/v1/logs") { Signal::Logs } else { Signal::Metrics };
        let mut marks = Vec::new();
        numbers(signal, body, |mark| marks.extend(mark)).expect("what the agent sends is protobuf");
        let weather = *lock(&self.weather);
        match weather {
            Weather::Away => return 503,
            Weather::NoMetrics if signal == Signal::Metrics => return 503,
            Weather::Moody if marks.iter().any(|m| is_poison(signal, *m)) => return 503,
            Weather::Picky if marks.iter().any(|m| is_poison(signal, *m)) => return 400,
            _ => {}
        }
        let tick = lock(&self.recorder).as_ref().map_or(0, |r| r.now());
        let mut story = lock(&self.story);
        let logs = signal == Signal::Logs;
        story.arrivals.extend(marks.iter().map(|m| Arrival { tick, logs, source: m.source.0, seq: m.seq }));
        let id = headers.iter().find(|(name, _)| name == "x-tfo-upload-id").map(|(_, id)| id.clone());
        if let (None, Some((name, _))) = (&story.name, id.as_deref().and_then(|id| id.split_once('/'))) {
            story.name = Some((tick, name.to_owned()));
        }
        story.uploads.extend(id.and_then(|id| last_index(&id)).map(|(lane, index)| (tick, lane, index)));
        200
    }
}

/// `3f2a/2/5.150-7.0`: lane 2, and every index before 7 or, if the end is inside of it, 7.
fn last_index(id: &str) -> Option<(u32, u64)> {
    let mut parts = id.split('/').skip(1);
    let lane = parts.next()?.parse().ok()?;
    let (_, end) = parts.next()?.split_once('-')?;
    let (index, item) = end.split_once('.')?;
    let index: u64 = index.parse().ok()?;
    Some((lane, if item.starts_with('0') { index.saturating_sub(1) } else { index }))
}

type Message = (String, Vec<(String, String)>, Vec<u8>);

/// One HTTP message with a Content-Length; `None` when there are no more.
fn read_message(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Message>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let (mut headers, mut length) = (Vec::new(), 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        if name == "content-length" {
            length = value.parse().map_err(io::Error::other)?;
        }
        headers.push((name, value));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((line, headers, body)))
}

/// Clients that send one request after the other, each on one connection for as long as it holds.
#[derive(Debug)]
pub(crate) struct Clients {
    over: Arc<AtomicBool>,
    still: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Vec<Offer>>>,
}

/// What a client sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habit {
    pub(crate) signal: Signal,
    pub(crate) source: u32,
    pub(crate) items: u32,
    pub(crate) pause: Duration,
}

impl Clients {
    pub(crate) fn start(port: u16, habits: &[Habit]) -> Clients {
        let (over, still) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let acknowledged = Arc::<AtomicU64>::default();
        let threads = habits.iter().map(|habit| {
            let (habit, over, still, acknowledged) = (*habit, over.clone(), still.clone(), acknowledged.clone());
            std::thread::spawn(move || talk(port, habit, &over, &still, &acknowledged))
        });
        let threads = threads.collect();
        Clients { over, still, acknowledged, threads }
    }

    /// Whether they wait instead of sending.
    pub(crate) fn keep_still(&self, still: bool) {
        self.still.store(still, SeqCst);
    }

    /// Items answered with success so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(SeqCst)
    }

    pub(crate) fn stop(self, story: &mut Story) {
        self.over.store(true, SeqCst);
        for thread in self.threads {
            story.offers.extend(thread.join().expect("a client does not panic"));
        }
    }
}

fn talk(port: u16, habit: Habit, over: &AtomicBool, still: &AtomicBool, acknowledged: &AtomicU64) -> Vec<Offer> {
    let mut numbered = Numbered::new(habit.signal, Source(habit.source));
    let mut offers = Vec::new();
    let mut line: Option<Line> = None;
    while !over.load(SeqCst) {
        if still.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let request = numbered.request(habit.items);
        loop {
            let open = line.take().or_else(|| Line::open(port).ok());
            let answered = open.and_then(|mut open| {
                let status = open.offer(habit.signal, &request.bytes).ok()?;
                let place = (open.port, open.answers);
                open.answers += 1;
                line = Some(open);
                Some((status, place))
            });
            offers.push(Offer {
                signal: habit.signal.to_string(),
                source: habit.source,
                seqs: request.seqs.clone(),
                answer: answered.map(|(_, place)| place),
                status: answered.map(|(status, _)| status),
                acknowledged: None,
            });
            if answered.is_some_and(|(status, _)| status == 200) {
                acknowledged.fetch_add(habit.items.into(), SeqCst);
                break;
            }
            if over.load(SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(habit.pause);
    }
    offers
}

struct Line {
    reader: BufReader<TcpStream>,
    port: u16,
    answers: usize,
}

impl Line {
    fn open(port: u16) -> io::Result<Line> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let port = stream.local_addr()?.port();
        Ok(Line { reader: BufReader::new(stream), port, answers: 0 })
    }

    fn offer(&mut self, signal: Signal, body: &[u8]) -> io::Result<u16> {
        let head = format!(
            "POST /v1/{signal} HTTP/1.1\r\nhost: agent\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.reader.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let (line, _, _) = read_message(&mut self.reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        line.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The agent's configuration: where it listens, where it keeps, where it sends.
pub(crate) fn configuration(port: u16, metrics: u16, far_end: &str, queue: &Path, max_size_mib: u64) -> String {
    format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
processors: {{batch: {{timeout: 20ms, send_batch_size: 200, send_batch_max_size: 400}}}}
exporters:
  otlphttp:
    endpoint: {far_end}
    compression: none
    retry_on_failure: {{initial_interval: 20ms, max_interval: 60ms, max_elapsed_time: 300ms}}
    sending_queue: {{storage: file_storage}}
extensions: {{file_storage: {{directory: '{}', max_size_mib: {max_size_mib}, min_free_mib: 0}}}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{address: '127.0.0.1:{metrics}'}}}}
  pipelines:
    logs: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
    metrics: {{receivers: [otlp], processors: [batch], exporters: [otlphttp]}}
",
        queue.display()
    )
}
