//! The far end on a real socket, for OTLP/HTTP and, by its beginning, for OTLP/gRPC (grpc.rs): HTTP/1.1 by hand, because no server library resets a connection in the middle of an
//! answer when told to.
//!
//! The port stays ours while nobody listens: a second socket is bound to it and never listens, so that connecting is
//! refused and no other process of the machine is given the port meanwhile.

use super::{Answer, Collector, Manner, Request, Script, Seen};
use crate::testing::tally::Report;
use bytes::Bytes;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Longest head of a request.
const HEAD_MAX: usize = 64 << 10;
/// Longest body, as sent.
const BODY_MAX: usize = 64 << 20;
/// Headers in a request.
const HEADERS_MAX: usize = 64;
/// Between the half of an answer and the reset: the client shall have seen the half.
pub(super) const HALF_SEEN: Duration = Duration::from_millis(30);

/// A scripted collector, at `127.0.0.1` unless told otherwise, for as long as this lives.
#[derive(Debug)]
pub struct FarEnd {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Holds the port while nobody listens.
    _place: TcpSocket,
    server: Server,
}

#[derive(Debug)]
enum Server {
    Task(JoinHandle<()>),
    Thread(Option<thread::JoinHandle<()>>),
}

#[derive(Debug)]
pub(super) struct Shared {
    collector: Mutex<Collector>,
    /// Another script is played, or the end has come.
    turned: Notify,
    /// Counts the requests, for those who wait for something to happen.
    news: watch::Sender<u64>,
    ended: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn collector(&self) -> MutexGuard<'_, Collector> {
        self.collector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FarEnd {
    /// Serves on the runtime of the caller.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(script: Script) -> io::Result<FarEnd> {
        FarEnd::open(HERE, script, |addr, shared| {
            // Listening before this returns: a caller that connects at once finds somebody.
            let listener = listen(addr)?;
            Ok(Server::Task(tokio::spawn(serve(addr, listener, shared))))
        })
    }

    /// Serves on a thread of its own: for demos and measurements, where the agent's thread is not to be shared.
    ///
    /// # Errors
    /// When no port, thread or runtime can be had.
    pub fn on_own_thread(script: Script) -> io::Result<FarEnd> {
        FarEnd::on_own_thread_at(HERE, script)
    }

    /// The same at another address of this machine, or of the network namespace the caller is in.
    ///
    /// # Errors
    /// As [`FarEnd::on_own_thread`].
    pub fn on_own_thread_at(address: Ipv4Addr, script: Script) -> io::Result<FarEnd> {
        FarEnd::open(address, script, |addr, shared| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let listener = runtime.block_on(async { listen(addr) })?;
            let thread = thread::Builder::new()
                .name("far-end".to_owned())
                .spawn(move || runtime.block_on(serve(addr, listener, shared)))?;
            Ok(Server::Thread(Some(thread)))
        })
    }

    fn open(
        address: Ipv4Addr,
        script: Script,
        server: impl FnOnce(SocketAddr, Arc<Shared>) -> io::Result<Server>,
    ) -> io::Result<FarEnd> {
        let place = bound(SocketAddr::from((address, 0)))?;
        let addr = place.local_addr()?;
        let shared = Arc::new(Shared {
            collector: Mutex::new(Collector::new(script)),
            turned: Notify::new(),
            news: watch::Sender::new(0),
            ended: watch::Sender::new(false),
        });
        let server = server(addr, shared.clone())?;
        Ok(FarEnd { addr, shared, _place: place, server })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://<address>:<port>`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Behaves as another script says from now on.
    pub fn play(&self, script: Script) {
        self.shared.collector().play(script);
        self.shared.turned.notify_one();
    }

    /// Looks at the collector, or enters something into its books.
    pub fn with<R>(&self, look: impl FnOnce(&mut Collector) -> R) -> R {
        look(&mut self.shared.collector())
    }

    /// What became of every numbered item.
    #[must_use]
    pub fn report(&self) -> Report {
        self.with(|collector| collector.tally().report())
    }

    /// The requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.with(|collector| collector.seen().cloned().collect())
    }

    /// Waits until `what` is so; false when it is not after `patience`.
    pub async fn until(&self, patience: Duration, mut what: impl FnMut(&mut Collector) -> bool) -> bool {
        let mut news = self.shared.news.subscribe();
        let waiting = async {
            while !self.with(&mut what) {
                // The sender lives in `self`; an error cannot happen before we are gone.
                if news.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(patience, waiting).await.is_ok()
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.shared.ended.send_replace(true);
        match &mut self.server {
            Server::Task(task) => task.abort(),
            Server::Thread(thread) => {
                if let Some(thread) = thread.take() {
                    // A panic in there was printed by its hook; there is nobody left to tell.
                    let _ = thread.join();
                }
            }
        }
    }
}

fn bound(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?; // both ours, and only one of them ever listens
    socket.bind(addr)?;
    Ok(socket)
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    bound(addr)?.listen(1_024)
}

async fn serve(addr: SocketAddr, listener: TcpListener, shared: Arc<Shared>) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut ended = shared.ended.subscribe();
    loop {
        let (listening, change) = shared.collector().listening(Instant::now());
        if !listening {
            listener = None;
            connections.shutdown().await;
        } else if listener.is_none() {
            listener = listen(addr).ok();
        }
        tokio::select! {
            Some(stream) = accept(listener.as_ref()) => { connections.spawn(converse(stream, shared.clone())); }
            Some(_) = connections.join_next() => {}
            () = until(change) => {}
            () = shared.turned.notified() => {}
            _ = ended.wait_for(|ended| *ended) => return,
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.ok().map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn until(change: Option<Instant>) {
    match change {
        Some(change) => sleep_until(change).await,
        None => std::future::pending().await,
    }
}

async fn converse(mut stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    match speaks_http2(&stream).await {
        Ok(true) => return super::grpc::converse(stream, shared).await,
        Ok(false) => {}
        Err(_) => return, // it left without a word
    }
    let mut received = Vec::with_capacity(16 << 10);
    // An error here is the client's departure.
    while let Ok(true) = exchange(&mut stream, &mut received, &shared).await {}
}

/// Whether a client begins with HTTP/2's preface.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const BEGINNING: &[u8] = b"PRI";
    let mut begins = [0; BEGINNING.len()];
    loop {
        match stream.peek(&mut begins).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n if n == begins.len() || begins[..n] != BEGINNING[..n] => return Ok(begins == BEGINNING),
            _ => sleep(Duration::from_millis(1)).await,
        }
    }
}

/// One request and its answer; true when the connection may serve another.
async fn exchange(stream: &mut TcpStream, received: &mut Vec<u8>, shared: &Shared) -> io::Result<bool> {
    let Some(head) = read_head(stream, received).await? else { return Ok(false) };
    if head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let cut = shared.collector().cuts_the_body(Instant::now());
    if cut {
        let half = body_len(&head).unwrap_or(2) / 2;
        while received.len() < half {
            fill(stream, received).await?;
        }
        news(shared);
        stream.set_zero_linger()?;
        return Ok(false);
    }
    let body = read_body(stream, received, &head).await?;
    let keep = !head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let answer = shared.collector().answer(Instant::now(), &Request { body, ..head });
    news(shared);
    Ok(perform(stream, answer).await? && keep)
}

pub(super) fn news(shared: &Shared) {
    shared.news.send_modify(|n| *n += 1);
}

async fn perform(stream: &mut TcpStream, answer: Answer) -> io::Result<bool> {
    match answer.manner {
        Manner::AtOnce => {}
        Manner::After(pause) => sleep(pause).await,
        Manner::Never => {
            // Silent until the client hangs up.
            while stream.read(&mut [0; 1_024]).await? > 0 {}
            return Ok(false);
        }
        Manner::Reset | Manner::Refused | Manner::ResetStream(_) => {
            stream.set_zero_linger()?;
            return Ok(false);
        }
        Manner::ResetMidAnswer => {
            let half = write_out(&answer);
            stream.write_all(&half[..half.len() - answer.body.len() / 2]).await?;
            sleep(HALF_SEEN).await;
            stream.set_zero_linger()?;
            return Ok(false);
        }
    }
    stream.write_all(&write_out(&answer)).await?;
    Ok(true)
}

fn write_out(answer: &Answer) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {} scripted\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    let mut out = out.into_bytes();
    out.extend_from_slice(&answer.body);
    out
}

/// Reads more; the end of the stream is an error, because something is awaited.
async fn fill(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(received).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// The next request without its body; `None` when the client left between two.
async fn read_head(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        if let Some((request, len)) = parse_head(received)? {
            received.drain(..len);
            return Ok(Some(request));
        }
        if received.len() > HEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
}

fn parse_head(received: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let status = parsed.parse(received).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let httparse::Status::Complete(len) = status else { return Ok(None) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: origin_form(parsed.path.unwrap_or_default()).to_owned(),
        headers: parsed.headers.iter().map(|h| (h.name.to_owned(), text(h.value))).collect(),
        body: Bytes::new(),
    };
    Ok(Some((request, len)))
}

/// The path alone, also where a proxy asks for a whole URL (RFC 9112 §3.2.2).
fn origin_form(target: &str) -> &str {
    match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    }
}

fn body_len(head: &Request) -> Option<usize> {
    head.header("content-length").and_then(|value| value.trim().parse().ok())
}

async fn read_body(stream: &mut TcpStream, received: &mut Vec<u8>, head: &Request) -> io::Result<Bytes> {
    if head.header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
        return read_chunks(stream, received).await;
    }
    let len = body_len(head).unwrap_or(0);
    if len > BODY_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    received.reserve(len.saturating_sub(received.len()));
    while received.len() < len {
        fill(stream, received).await?;
    }
    Ok(received.drain(..len).collect())
}

async fn read_chunks(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Bytes> {
    let mut body = Vec::new();
    loop {
        let (start, len) = loop {
            match httparse::parse_chunk_size(received) {
                Ok(httparse::Status::Complete(found)) => break found,
                Ok(httparse::Status::Partial) => fill(stream, received).await?,
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        };
        let len =
            usize::try_from(len).ok().filter(|len| body.len() + len <= BODY_MAX).ok_or(io::ErrorKind::InvalidData)?;
        // The last chunk is empty; we know of no client that sends trailers after it.
        while received.len() < start + len + 2 {
            fill(stream, received).await?;
        }
        body.extend_from_slice(&received[start..start + len]);
        received.drain(..start + len + 2);
        if len == 0 {
            return Ok(body.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::Signal;
    use crate::testing::far_end::Act;
    use crate::testing::numbered::{Numbered, Source};

    /// A client of plain TCP: what it gets is what was sent.
    async fn ask(far_end: &FarEnd, request: &[u8]) -> io::Result<String> {
        let mut stream = TcpStream::connect(far_end.addr()).await?;
        stream.write_all(request).await?;
        read_answer(&mut stream).await
    }

    async fn read_answer(stream: &mut TcpStream) -> io::Result<String> {
        let mut answer = Vec::new();
        loop {
            match stream.read_buf(&mut answer).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if answer.is_empty() => return Err(e),
                Err(_) => return Ok(String::from_utf8_lossy(&answer).into_owned() + " reset"),
            }
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let len = head.split("Content-Length: ").nth(1).and_then(|rest| rest.lines().next()).expect("a length");
                if body.len() >= len.parse::<usize>().expect("a number") {
                    break;
                }
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn logs(items: u32) -> Vec<u8> {
        let body = Numbered::new(Signal::Logs, Source(1)).request(items).bytes;
        let mut request = format!(
            "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(body);
        request
    }

    #[tokio::test]
    async fn requests_follow_each_other_on_one_connection_whole_or_in_chunks() {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let mut stream = TcpStream::connect(far_end.addr()).await.expect("it listens");
        stream.write_all(&logs(10)).await.expect("sent");
        assert!(read_answer(&mut stream).await.expect("answered").starts_with("HTTP/1.1 200"));
        let body = Numbered::new(Signal::Logs, Source(2)).request(3).bytes;
        let (front, back) = body.split_at(100);
        let head =
            "POST /v1/logs HTTP/1.1\r\ncontent-type: application/x-protobuf\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("sent");
        for chunk in [front, back, b""] {
            stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.expect("sent");
            stream.write_all(chunk).await.expect("sent");
            stream.write_all(b"\r\n").await.expect("sent");
        }
        assert!(read_answer(&mut stream).await.expect("answered").starts_with("HTTP/1.1 200"));
        assert_eq!(far_end.report().arrived(), 13);
    }

    #[tokio::test]
    async fn nobody_listens_while_it_refuses_and_the_port_stays_its_own() {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let mut open = TcpStream::connect(far_end.addr()).await.expect("it listens");
        far_end.play(Script::new().lasting(Duration::from_millis(300), Act::Refuse));
        sleep(Duration::from_millis(50)).await;
        let refused = ask(&far_end, &logs(1)).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(open.read(&mut [0; 9]).await.unwrap_or(0), 0, "open connections were closed");
        sleep(Duration::from_millis(400)).await;
        assert!(ask(&far_end, &logs(1)).await.expect("it is back").starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn it_resets_hangs_and_dawdles_on_command() {
        let script = Script::new()
            .times(1, Act::ResetMidRequest)
            .times(1, Act::TakeAndReset)
            .times(1, Act::ResetMidAnswer)
            .times(1, Act::Slow(Duration::from_millis(120)))
            .times(1, Act::Hang);
        let far_end = FarEnd::start(script).expect("a port");
        let taken = || far_end.with(|collector| collector.counts().taken);
        let request = logs(2_000);
        assert!(ask(&far_end, &request).await.is_err());
        assert_eq!(taken(), 0);
        assert_eq!(ask(&far_end, &request).await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(taken(), 1);
        let half = ask(&far_end, &request).await.expect("half an answer");
        assert!(half.starts_with("HTTP/1.1 200") && half.ends_with("reset"), "{half}");
        assert_eq!(taken(), 2);
        let start = Instant::now();
        assert!(ask(&far_end, &request).await.expect("late").starts_with("HTTP/1.1 200"));
        assert!(start.elapsed() >= Duration::from_millis(120));
        assert!(timeout(Duration::from_millis(200), ask(&far_end, &request)).await.is_err());
        assert_eq!(taken(), 3);
        assert_eq!(far_end.report().duplicated(), 4_000);
    }

    #[test]
    fn it_serves_on_a_thread_of_its_own_and_ends_with_its_owner() {
        let far_end = FarEnd::on_own_thread(Script::new()).expect("a port");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let addr = far_end.addr();
        runtime.block_on(async {
            assert!(ask(&far_end, &logs(5)).await.expect("answered").starts_with("HTTP/1.1 200"));
            assert!(far_end.until(Duration::from_secs(5), |c| c.counts().items == 5).await);
            assert!(!far_end.until(Duration::from_millis(20), |c| c.counts().items == 6).await);
        });
        drop(far_end);
        assert!(std::net::TcpStream::connect(addr).is_err());
    }
}
