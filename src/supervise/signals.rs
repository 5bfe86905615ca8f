//! SIGTERM and SIGINT: the first asks for an ordered stop, the second does not wait for it.
//!
//! What is acknowledged is on the disk, so the impatient second Ctrl-C costs duplicates, never data.

use super::{Exit, Lookout};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

/// The two signals a person or systemd stops a service with.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM: `systemctl stop`, `docker stop`, `kill`.
    Term,
    /// SIGINT: Ctrl-C.
    Int,
}

impl StopSignal {
    /// As in the manual.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            StopSignal::Term => "SIGTERM",
            StopSignal::Int => "SIGINT",
        }
    }

    /// How the process ends when this comes for the second time: what the shell shows for a death by it.
    #[must_use]
    pub const fn exit(self) -> Exit {
        match self {
            StopSignal::Term => Exit::Terminated,
            StopSignal::Int => Exit::Interrupted,
        }
    }
}

/// SIGHUP: `systemctl reload`, `kill -HUP`. Several that come while nobody listens are one.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// From here on the signal no longer kills the process. Needs a running runtime.
    ///
    /// # Errors
    /// The handler cannot be installed.
    pub fn listen() -> std::io::Result<Hangups> {
        signal(SignalKind::hangup()).map(Hangups)
    }

    /// The next one.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await; // the runtime is ending
        }
    }
}

impl Signals {
    /// From here on the signals no longer kill the process. Needs a running runtime.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// The next one.
    pub async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.term.recv() => StopSignal::Term,
            _ = self.int.recv() => StopSignal::Int,
        }
    }

    /// The first one asks for the stop, the second ends the process with [`StopSignal::exit`]. Spawn this.
    pub async fn obey(mut self, lookout: Lookout) {
        let first = self.next().await;
        info!(signal = first.name(), "stop requested");
        lookout.ask_to_stop(first.name());
        let second = self.next().await;
        warn!(signal = second.name(), "second signal, not waiting any longer");
        second.exit().now()
    }
}
