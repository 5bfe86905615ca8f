//! How fresh what comes in is at the far end, and a link that is slow enough for that to be a question (promise P6).

use super::far_end::FarEnd;
use super::numbered::{Mark, Numbered, Source};
use super::tally::Tally;
use crate::otlp::Signal;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, sleep_until};

/// What goes through the link in one piece.
const PIECE: usize = 4 << 10;
/// What the kernel holds of a connection before the link: or it would take what the link cannot.
const BUFFER: u32 = 16 << 10;
/// Between two requests of [`freshness`].
const PAUSE: Duration = Duration::from_millis(100);
/// Records of each.
const RECORDS: u32 = 5;

/// A way to a far end that lets so many bytes a second through, all connections together; of answers as many as there are.
#[derive(Debug, Clone)]
pub struct SlowLink {
    address: SocketAddr,
    rate: Arc<AtomicU64>,
    carried: Arc<AtomicU64>,
    /// When the last piece that was let in is through.
    busy: Arc<Mutex<Instant>>,
}

impl SlowLink {
    /// Between whoever comes and this far end. It is down. On the current runtime, which must have a local set (actix's).
    ///
    /// # Errors
    /// When no port can be had.
    pub fn to(far_end: SocketAddr) -> io::Result<SlowLink> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(BUFFER)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = socket.local_addr()?;
        let busy = Arc::new(Mutex::new(Instant::now()));
        let link = SlowLink { address, rate: Arc::default(), carried: Arc::default(), busy };
        let (serving, listener) = (link.clone(), socket.listen(64)?);
        tokio::task::spawn_local(async move {
            while let Ok((client, _)) = listener.accept().await {
                if serving.rate.load(Relaxed) > 0
                    && let Ok(server) = TcpStream::connect(far_end).await
                {
                    tokio::task::spawn_local(serving.clone().carry(client, server));
                }
            }
        });
        Ok(link)
    }

    /// Where to send.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on so many bytes a second; 0: it is down, for connections that are there too.
    pub fn set(&self, bytes_a_second: u64) {
        self.rate.store(bytes_a_second, Relaxed);
    }

    /// Bytes that went to the far end.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.carried.load(Relaxed)
    }

    async fn carry(self, client: TcpStream, server: TcpStream) {
        let ((mut from, mut back), (mut answers, mut to)) = (client.into_split(), server.into_split());
        let returning = tokio::task::spawn_local(async move { tokio::io::copy(&mut answers, &mut back).await });
        let mut piece = vec![0; PIECE];
        while let Ok(n) = from.read(&mut piece).await {
            let rate = self.rate.load(Relaxed);
            if n == 0 || rate == 0 {
                break;
            }
            sleep_until(self.through(n, rate)).await;
            if to.write_all(&piece[..n]).await.is_err() {
                break;
            }
            self.carried.fetch_add(n as u64, Relaxed);
        }
        drop(to);
        let _ = returning.await; // the far end has said what it had to say
    }

    /// When the next piece is through, as one link carries one after the other.
    fn through(&self, bytes: usize, rate: u64) -> Instant {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        #[allow(clippy::cast_precision_loss)] // a piece is short, and a rate below 2^53
        let time = Duration::from_secs_f64(bytes as f64 / rate as f64);
        *busy = Instant::now().max(*busy) + time;
        *busy
    }
}

/// How long what was sent took from its answer to the far end.
#[derive(Debug, Clone, Default)]
pub struct Freshness {
    /// Of each request, in order of length.
    took: Vec<Duration>,
    /// What was acknowledged.
    pub sent: Tally,
}

impl Freshness {
    /// So many percent of the requests took no longer.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let at = (self.took.len() * percent / 100).min(self.took.len().saturating_sub(1));
        self.took.get(at).copied().unwrap_or_default()
    }

    /// Requests.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.took.len()
    }
}

/// Sends the agent at this port a request of five log records every 100 ms, for so long, and looks when they are at the far end. What
/// has not arrived by then counts with the time it has waited.
///
/// # Panics
/// When the agent does not take a request: it has a spool.
pub async fn freshness(port: u16, far_end: &FarEnd, source: Source, time: Duration) -> Freshness {
    super::load::install_client();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client without TLS to set up");
    let url = format!("http://127.0.0.1:{port}/v1/logs");
    let (mut made, mut fresh) = (Numbered::new(Signal::Logs, source), Freshness::default());
    let (start, mut open) = (Instant::now(), Vec::<(u64, Instant)>::new());
    let mut next = start;
    while start.elapsed() < time {
        if Instant::now() >= next {
            next += PAUSE;
            let request = made.request(RECORDS);
            let post = client.post(&url).header("content-type", "application/x-protobuf").body(request.bytes);
            let answer = post.send().await.expect("the agent listens");
            assert_eq!(answer.status(), 200, "the agent has a spool, whatever the link");
            fresh.sent.acknowledged(Signal::Logs, source, request.seqs.clone());
            open.push((request.seqs.start, Instant::now()));
        }
        far_end.with(|collector| {
            let tally = collector.tally();
            open.retain(|(seq, at)| {
                let arrived = tally.has(Signal::Logs, Mark { source, seq: *seq });
                fresh.took.extend(arrived.then(|| at.elapsed()));
                !arrived
            });
        });
        sleep(Duration::from_millis(10)).await;
    }
    fresh.took.extend(open.iter().map(|(_, at)| at.elapsed()));
    fresh.took.sort();
    fresh
}
