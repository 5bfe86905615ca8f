//! The stream below hyper: sees every frame of an HTTP/2 connection, sends a client away that behaves ill, and ends what
//! does not begin.
//!
//! ```text
//! client ─ TLS ─ Socket ─ Watched ─ hyper (h2) ─ OtlpGrpc
//!                            └─ Conduct: what it heard and said; an offence ─▶ GOAWAY, close, a second to read it
//! ```
//!
//! hyper lets nobody send a GOAWAY with a reason; it is written here, between two frames of ours.

use super::conduct::{Conduct, Frames, Rules};
use crate::receivers::socket::Socket;
use crate::telemetry::ListenerMetrics;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

/// A client that was sent away may take so long to read why: what it still sends would otherwise make the kernel throw
/// the reason away.
const LINGER: Duration = Duration::from_secs(1);

/// How long things may take at the beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The first frame.
    pub(super) handshake: Duration,
    /// The head of a request.
    pub(super) header: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watched {
    socket: Socket,
    heard: Frames,
    said: Frames,
    conduct: Conduct,
    patience: Patience,
    since: Instant,
    /// Armed while something must come.
    sleep: Option<Pin<Box<Sleep>>>,
    leave: Option<Leave>,
    /// Since when no request runs.
    quiet: watch::Sender<Option<Instant>>,
    metrics: ListenerMetrics,
}

/// The steps of sending a client away.
#[derive(Debug)]
enum Leave {
    /// This is yet to be written.
    Tell(Vec<u8>),
    /// So is what the socket holds.
    Flush,
    /// The client hears that nothing follows.
    Shut,
    /// What it still sends is thrown away, until then.
    Linger,
}

impl Watched {
    pub(super) fn new(
        socket: Socket,
        rules: Rules,
        patience: Patience,
        quiet: watch::Sender<Option<Instant>>,
        metrics: ListenerMetrics,
    ) -> Watched {
        Watched {
            socket,
            heard: Frames::of_client(),
            said: Frames::of_server(),
            conduct: Conduct::new(rules),
            patience,
            since: Instant::now(),
            sleep: None,
            leave: None,
            quiet,
            metrics,
        }
    }

    /// When what is on its way must be here.
    fn due(&self) -> Option<Instant> {
        let begin = self.conduct.is_new().then(|| self.since + self.patience.handshake);
        begin.or_else(|| self.conduct.head_since().map(|since| since + self.patience.header))
    }

    fn poll_until(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx)
    }

    /// Goes through what came; whether it may go on.
    fn hear(&mut self, bytes: &[u8]) -> bool {
        let (now, conduct, mut offence) = (Instant::now(), &mut self.conduct, None);
        self.heard.pass(bytes, |edge| offence = offence.or_else(|| conduct.heard(edge, now).err()));
        self.tell_whether_quiet(now);
        let Some(offence) = offence else { return true };
        self.metrics.connection_refused(offence.name());
        // In the middle of one of our frames the reason would be taken for a part of it.
        let farewell = self.said.at_edge().then(|| Leave::Tell(self.conduct.farewell(offence)));
        self.leave = Some(farewell.unwrap_or(Leave::Flush));
        false
    }

    fn tell_whether_quiet(&self, now: Instant) {
        let is_quiet = self.conduct.is_quiet();
        self.quiet.send_if_modified(|since| {
            let changes = since.is_some() != is_quiet;
            if changes {
                *since = is_quiet.then_some(now);
            }
            changes
        });
    }

    /// Ends the connection; what hyper hears at the end of it is an error.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(leave) = &mut self.leave {
            let socket = Pin::new(&mut self.socket);
            match leave {
                Leave::Tell(frame) if frame.is_empty() => *leave = Leave::Flush,
                Leave::Tell(frame) => {
                    let written = ready!(socket.poll_write(cx, frame))?;
                    frame.drain(..written);
                }
                Leave::Flush => {
                    ready!(socket.poll_flush(cx))?;
                    *leave = Leave::Shut;
                }
                Leave::Shut => {
                    ready!(socket.poll_shutdown(cx))?;
                    *leave = Leave::Linger;
                    self.since = Instant::now();
                }
                Leave::Linger => {
                    let mut scrap = [0; 4_096];
                    let mut scrap = ReadBuf::new(&mut scrap);
                    if socket.poll_read(cx, &mut scrap)?.is_ready() {
                        if scrap.filled().is_empty() {
                            break;
                        }
                        continue;
                    }
                    ready!(self.poll_until(self.since + LINGER, cx));
                    break;
                }
            }
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client was sent away")))
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.leave.is_some() {
            return this.poll_leave(cx);
        }
        let before = buf.filled().len();
        if Pin::new(&mut this.socket).poll_read(cx, buf)?.is_ready() {
            if this.hear(&buf.filled()[before..]) {
                return Poll::Ready(Ok(()));
            }
            buf.set_filled(before); // nothing of it is done any more
            return this.poll_leave(cx);
        }
        let Some(due) = this.due() else { return Poll::Pending };
        ready!(this.poll_until(due, cx));
        this.metrics.connection_refused("slow");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client did not go on")))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.leave.is_some() {
            return Poll::Ready(Ok(buf.len())); // nobody hears it any more
        }
        let written = ready!(Pin::new(&mut this.socket).poll_write(cx, buf))?;
        let conduct = &mut this.conduct;
        this.said.pass(&buf[..written], |edge| conduct.said(edge));
        this.tell_whether_quiet(Instant::now());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.leave.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.leave.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}
