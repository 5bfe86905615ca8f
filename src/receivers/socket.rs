//! A client's connection, whoever serves it: its place among those there may be, TLS in the time it may take, and an end
//! to waiting for a client that does not read.
//!
//! [`attend`] accepts connections until its server parts; [`Entrance::greet`] makes one that can be served:
//!
//! ```text
//! accepted ─▶ a place? ─ no ─▶ closed at once, counted
//!               └─ yes ─▶ TLS within handshake_timeout? ─ no ─▶ closed, counted
//!                            └─ yes ─▶ Socket: a write that makes no progress for write_timeout fails
//! ```

use super::tls::Face;
use crate::config::Limits;
use crate::telemetry::ListenerMetrics;
use futures_util::FutureExt as _;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::server::TlsStream;

/// Who lets clients in at one port.
#[derive(Debug, Clone)]
pub struct Entrance {
    face: Option<Arc<Face>>,
    places: Places,
    handshake: Duration,
    write: Duration,
    metrics: ListenerMetrics,
}

impl Entrance {
    /// With TLS, if there is a face to show.
    #[must_use]
    pub fn new(face: Option<Arc<Face>>, limits: &Limits, metrics: ListenerMetrics) -> Entrance {
        Entrance {
            face,
            places: Places { most: limits.max_connections, taken: Arc::default() },
            handshake: limits.handshake_timeout,
            write: limits.write_timeout,
            metrics,
        }
    }

    /// As this one, where those who are inside the other are counted too.
    #[must_use]
    pub fn after(mut self, other: &Entrance) -> Entrance {
        self.places.taken = other.places.taken.clone();
        self
    }

    /// Makes an accepted connection one that can be served. `None`: it was closed, and counted.
    pub async fn greet(&self, stream: TcpStream) -> Option<Socket> {
        let Some(place) = self.places.take() else {
            self.metrics.connection_refused("full");
            return None;
        };
        let _ = stream.set_nodelay(true); // an answer is one packet; a socket that cannot is one that is gone
        let stream = match &self.face {
            None => Either::Plain(stream),
            Some(face) => match timeout(self.handshake, face.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => Either::Tls(Box::new(stream)),
                Ok(Err(reason)) => {
                    tracing::debug!(%reason, "a TLS handshake failed");
                    self.metrics.connection_refused("tls");
                    return None;
                }
                Err(_) => {
                    self.metrics.connection_refused("slow");
                    return None;
                }
            },
        };
        Some(Socket { stream, patience: Patience::of(self.write), _place: place })
    }
}

/// `limits.max_connections`.
#[derive(Debug, Clone)]
struct Places {
    most: u32,
    taken: Arc<AtomicU32>,
}

/// One of them; free again when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicU32>);

impl Places {
    fn take(&self) -> Option<Place> {
        let one_more = |taken: u32| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Place(self.taken.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Why a server accepts nobody any more; who is connected ends with the requests he has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// Somebody else goes on listening with the same socket.
    HandOver,
    /// Nobody listens there any more: clients that come later are refused by the kernel.
    Close,
}

/// A rest after a connection could not be accepted: most often there are no file descriptors, and asking again at once
/// would only burn the CPU.
const NONE_LEFT: Duration = Duration::from_millis(100);

/// Accepts connections until it is told to part, or nobody could tell it any more. Who was connected by then, and not
/// accepted yet, is let in all the same.
///
/// # Errors
/// When there is no file descriptor for one more handle of the listener.
pub async fn attend(
    listener: &TcpListener,
    mut parting: watch::Receiver<Option<Parting>>,
    mut let_in: impl AsyncFnMut(TcpStream),
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
    let why = loop {
        let accepted = tokio::select! {
            why = parted(&mut parting) => break why,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => let_in(stream).await,
            Err(e) if is_the_clients(&e) => {}
            Err(reason) => {
                tracing::warn!(%reason, "a connection could not be accepted");
                sleep(NONE_LEFT).await;
            }
        }
    };
    if why == Parting::Close {
        while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
            let_in(stream).await;
        }
        // Now, and not when the last handle is dropped: in between clients would wait for nobody. It fails for what is
        // closed already.
        let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Read);
    }
    Ok(())
}

/// Ready when a server parts. One that fell, and cannot say why, leaves its socket to its successor.
pub async fn parted(parting: &mut watch::Receiver<Option<Parting>>) -> Parting {
    let why = parting.wait_for(Option::is_some).await;
    why.ok().and_then(|why| *why).unwrap_or(Parting::HandOver)
}

/// The client went away before it was accepted.
fn is_the_clients(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A connection that is served.
#[derive(Debug)]
pub struct Socket {
    stream: Either,
    patience: Patience,
    _place: Place,
}

#[derive(Debug)]
enum Either {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Waits for a client that should read, and not for ever.
#[derive(Debug)]
struct Patience {
    most: Duration,
    /// Since when it waits; made when it first has to.
    sleep: Option<Pin<Box<Sleep>>>,
    waits: bool,
}

impl Patience {
    fn of(most: Duration) -> Patience {
        Patience { most, sleep: None, waits: false }
    }

    /// What became of a write; or its end.
    fn over<T>(&mut self, wrote: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if wrote.is_ready() || self.most.is_zero() {
            self.waits = false;
            return wrote;
        }
        let end = Instant::now() + self.most;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if !std::mem::replace(&mut self.waits, true) {
            sleep.as_mut().reset(end);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answers")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Either::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Either::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Socket { stream, patience, .. } = self.get_mut();
        let wrote = match stream {
            Either::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Either::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        patience.over(wrote, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Socket { stream, patience, .. } = self.get_mut();
        let flushed = match stream {
            Either::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Either::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        patience.over(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Socket { stream, patience, .. } = self.get_mut();
        let shut = match stream {
            Either::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Either::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        patience.over(shut, cx)
    }
}
