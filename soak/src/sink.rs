//! A far end that costs next to nothing: takes every body, counts its bytes, says 200. What it must not be is the
//! bottleneck; whether everything arrived is the business of the tests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    requests: AtomicU64,
    away: AtomicBool,
    metrics_away: AtomicBool,
}

/// The far end.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
}

impl Sink {
    /// On a thread and runtime of its own.
    pub(crate) fn start() -> io::Result<Sink> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let sink = Sink { address: listener.local_addr()?, counts: Arc::default() };
        let counts = sink.counts.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("sink".into()).spawn(move || runtime.block_on(serve(listener, counts)))?;
        Ok(sink)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on every request is answered with 503, or no longer.
    pub(crate) fn be_away(&self, away: bool) {
        self.counts.away.store(away, Relaxed);
    }

    /// The same for metrics alone.
    pub(crate) fn refuse_metrics(&self, away: bool) {
        self.counts.metrics_away.store(away, Relaxed);
    }

    /// Bytes of bodies, and requests, that were taken.
    pub(crate) fn taken(&self) -> (u64, u64) {
        (self.counts.bytes.load(Relaxed), self.counts.requests.load(Relaxed))
    }
}

async fn serve(listener: std::net::TcpListener, counts: Arc<Counts>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(talk(stream, counts.clone()));
    }
}

/// One connection: heads are short and come in one piece or a few, bodies are thrown away as they come.
async fn talk(mut stream: TcpStream, counts: Arc<Counts>) -> Option<()> {
    let mut buffer = vec![0_u8; 256 << 10];
    let mut filled = 0;
    loop {
        let (head, length) = loop {
            if let Some(found) = head_of(&buffer[..filled]) {
                break found;
            }
            let n = stream.read(&mut buffer[filled..]).await.ok().filter(|n| *n > 0)?;
            filled += n;
        };
        let is_metrics = buffer[..head].starts_with(b"POST /v1/metrics");
        let mut left = length.saturating_sub(filled - head);
        let surplus = (filled - head).saturating_sub(length);
        while left > 0 {
            let most = left.min(buffer.len());
            left -= stream.read(&mut buffer[..most]).await.ok().filter(|n| *n > 0)?;
        }
        buffer.copy_within(filled - surplus..filled, 0);
        filled = surplus;
        let answer: &[u8] = if counts.away.load(Relaxed) || (is_metrics && counts.metrics_away.load(Relaxed)) {
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
        } else {
            counts.bytes.fetch_add(length as u64, Relaxed);
            counts.requests.fetch_add(1, Relaxed);
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
        };
        stream.write_all(answer).await.ok()?;
    }
}

/// Where the head ends, and how long the body is.
fn head_of(bytes: &[u8]) -> Option<(usize, usize)> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let length = head.lines().find_map(|l| {
        let (name, value) = l.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Some((end, length.unwrap_or(0)))
}
