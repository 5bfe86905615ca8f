//! A client's connection, whoever serves it: its place among those there may be, TLS in the time it may take, and an end
//! to waiting for a client that does not read.
//!
//! ```text
//! accepted ─▶ a place? ─ no ─▶ closed at once, counted
//!               └─ yes ─▶ TLS within handshake_timeout? ─ no ─▶ closed, counted
//!                            └─ yes ─▶ Socket: a write that makes no progress for write_timeout fails
//! ```

use super::tls::Face;
use crate::config::Limits;
use crate::telemetry::ListenerMetrics;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, timeout};
use tokio_rustls::server::TlsStream;

/// Who lets clients in at one port.
#[derive(Debug, Clone)]
pub struct Entrance {
    face: Option<Arc<Face>>,
    places: Arc<Semaphore>,
    handshake: Duration,
    write: Duration,
    metrics: ListenerMetrics,
}

impl Entrance {
    /// With TLS, if there is a face to show.
    #[must_use]
    pub fn new(face: Option<Face>, limits: &Limits, metrics: ListenerMetrics) -> Entrance {
        Entrance {
            face: face.map(Arc::new),
            places: Arc::new(Semaphore::new(limits.max_connections as usize)),
            handshake: limits.handshake_timeout,
            write: limits.write_timeout,
            metrics,
        }
    }

    /// Makes an accepted connection one that can be served. `None`: it was closed, and counted.
    pub async fn greet(&self, stream: TcpStream) -> Option<Socket> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
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

/// A connection that is served.
#[derive(Debug)]
pub struct Socket {
    stream: Either,
    patience: Patience,
    _place: OwnedSemaphorePermit,
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
