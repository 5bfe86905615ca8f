//! What systemd is told (`sd_notify(3)`): that we take data, that we live, how it goes, that it ends.
//!
//! One datagram each to the socket that `NOTIFY_SOCKET` names; podman and others that start services speak the same.
//! `WATCHDOG_USEC` says how often it wants to hear that we live: it kills and starts anew who does not say so. What the
//! house sees it mends by itself; systemd is for what it cannot see, a process that stands still as a whole.

use super::supervisor::SignOfLife;
use rustix::time::{ClockId, clock_gettime};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// What must be heard is tried for so long while systemd's queue is full (it holds hundreds): then systemd hangs.
const TRIES: u32 = 100;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest line of status, bytes: a person reads it in `systemctl status`.
const STATUS_MAX: usize = 400;

/// Why nobody can be told although somebody asked for it.
#[derive(Debug, thiserror::Error)]
pub enum NoEar {
    /// Only unix sockets are spoken to.
    #[error("NOTIFY_SOCKET `{0}` names no unix socket")]
    Name(String),
    /// The system gave no socket.
    #[error("no socket to notify systemd: {0}")]
    Socket(#[from] io::Error),
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Receivers listen; also after a reload, whatever came of it.
    Ready,
    /// The configuration is being read again.
    Reloading,
    /// The end has begun.
    Stopping,
    /// How it goes.
    Status,
    /// Everybody vital moves.
    Alive,
}

impl News {
    /// Of these the next one does not make up for one that was lost.
    fn must_be_heard(self) -> bool {
        matches!(self, News::Ready | News::Reloading | News::Stopping)
    }

    /// `mono_us`: `CLOCK_MONOTONIC`, by which systemd tells the answer to its signal from an earlier one.
    fn message(self, status: Option<&str>, mono_us: u64) -> String {
        let mut message = match self {
            News::Ready => "READY=1\n".to_owned(),
            News::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={mono_us}\n"),
            News::Stopping => "STOPPING=1\n".to_owned(),
            News::Status => String::new(),
            News::Alive => "WATCHDOG=1\n".to_owned(),
        };
        if let Some(status) = status {
            message.push_str("STATUS=");
            // A line: what stands in it may be a far end's words.
            let mut left = STATUS_MAX;
            for c in status.chars().map(|c| if c.is_control() { ' ' } else { c }) {
                let Some(rest) = left.checked_sub(c.len_utf8()) else { break };
                left = rest;
                message.push(c);
            }
            message.push('\n');
        }
        message
    }
}

/// Who started us and wants to hear how it goes.
#[derive(Debug)]
pub struct Systemd {
    socket: UnixDatagram,
    to: SocketAddr,
    /// It wants a sign of life within this time.
    within: Option<Duration>,
}

impl Systemd {
    /// By the environment; `None`: nobody wants to hear.
    ///
    /// # Errors
    /// See [`NoEar`].
    pub fn listening() -> Result<Option<Systemd>, NoEar> {
        Systemd::by(|name| std::env::var_os(name), std::process::id())
    }

    fn by(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Result<Option<Systemd>, NoEar> {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
        let to = address(&name)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let within = within(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref(), pid);
        Ok(Some(Systemd { socket, to, within }))
    }

    /// Tells it. Never waits, but for news that must be heard, and then a second at most.
    ///
    /// # Errors
    /// Nobody heard it.
    pub fn tell(&self, news: News, status: Option<&str>) -> io::Result<()> {
        let now = clock_gettime(ClockId::Monotonic);
        let mono_us = Duration::try_from(now).map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        let message = news.message(status, mono_us);
        let mut tries = if news.must_be_heard() { TRIES } else { 1 };
        loop {
            tries -= 1;
            match self.socket.send_to_addr(message.as_bytes(), &self.to) {
                Err(error) if tries > 0 && error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                sent => return sent.map(drop),
            }
        }
    }

    /// For the watchdog; `None`: it is not asked for.
    #[must_use]
    pub fn sign_of_life(self: &Arc<Systemd>) -> Option<SignOfLife> {
        let systemd = self.clone();
        let give = move || {
            let _ = systemd.tell(News::Alive, None); // the next round says it again
        };
        self.within.map(|within| SignOfLife { within, give: Arc::new(give) })
    }
}

/// A path, or `@` and an abstract name.
fn address(name: &OsStr) -> Result<SocketAddr, NoEar> {
    match name.as_bytes() {
        [b'@', rest @ ..] => Ok(SocketAddr::from_abstract_name(rest)?),
        [b'/', ..] => Ok(SocketAddr::from_pathname(name)?),
        _ => Err(NoEar::Name(name.to_string_lossy().into_owned())),
    }
}

/// What `WATCHDOG_USEC` asks of the process `pid`; it may be inherited and meant for another.
fn within(usec: Option<&str>, of: Option<&str>, pid: u32) -> Option<Duration> {
    let is_ours = of.is_none_or(|of| of.parse() == Ok(pid));
    let usec: u64 = usec?.parse().ok()?;
    (is_ours && usec > 0).then(|| Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn a_message_is_lines_that_systemd_knows() {
        for (news, status, expected) in [
            (News::Ready,     None,           "READY=1\n"),
            (News::Ready,     Some("so so"),  "READY=1\nSTATUS=so so\n"),
            (News::Reloading, None,           "RELOADING=1\nMONOTONIC_USEC=7\n"),
            (News::Stopping,  Some("a\nREADY=1"), "STOPPING=1\nSTATUS=a READY=1\n"),
            (News::Status,    Some("well"),   "STATUS=well\n"),
            (News::Alive,     None,           "WATCHDOG=1\n"),
        ] {
            assert_eq!(news.message(status, 7), expected);
        }
        let long = News::Status.message(Some(&"é".repeat(1_000)), 0);
        assert_eq!(long, format!("STATUS={}\n", "é".repeat(200)));
    }

    #[test]
    #[rustfmt::skip]
    fn a_watchdog_is_ours_when_it_names_us_or_nobody() {
        let minute = Some(Duration::from_secs(60));
        for (usec, of, expected) in [
            (Some("60000000"), None,       minute),
            (Some("60000000"), Some("12"), minute),
            (Some("60000000"), Some("13"), None),
            (Some("60000000"), Some("x"),  None),
            (Some("0"),        None,       None),
            (Some("soon"),     None,       None),
            (None,             Some("12"), None),
        ] {
            assert_eq!(within(usec, of, 12), expected, "{usec:?} {of:?}");
        }
    }

    /// Goal: what is told arrives, over a path and over an abstract name; without a name nobody is told.
    /// Method: a real socket in systemd's place.
    #[test]
    fn what_is_told_arrives() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notify");
        let abstract_name = format!("tfo-otel-agent-test-{}", std::process::id());
        let ears = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).expect("a place")),
            (
                format!("@{abstract_name}").into(),
                SocketAddr::from_abstract_name(abstract_name.as_bytes())
                    .and_then(|at| UnixDatagram::bind_addr(&at))
                    .expect("a name of its own"),
            ),
        ];
        for (name, ear) in ears {
            let variable = |key: &str| match key {
                "NOTIFY_SOCKET" => Some(name.clone()),
                "WATCHDOG_USEC" => Some("3000000".into()),
                _ => None,
            };
            let systemd = Arc::new(Systemd::by(variable, 1).expect("it is a socket").expect("it is named"));
            systemd.tell(News::Ready, Some("well")).expect("somebody listens");
            let sign = systemd.sign_of_life().expect("it is asked for");
            assert_eq!(sign.within, Duration::from_secs(3));
            (sign.give)();
            let mut heard = [0; 100];
            for expected in ["READY=1\nSTATUS=well\n", "WATCHDOG=1\n"] {
                let n = ear.recv(&mut heard).expect("it was sent");
                assert_eq!(std::str::from_utf8(&heard[..n]), Ok(expected));
            }
        }
        for nobody in [None, Some(OsString::new())] {
            assert!(Systemd::by(|_| nobody.clone(), 1).expect("that is no error").is_none());
        }
        let error = Systemd::by(|_| Some("vsock:2:1234".into()), 1).expect_err("no unix socket").to_string();
        assert_eq!(error, "NOTIFY_SOCKET `vsock:2:1234` names no unix socket");
    }

    /// Goal: systemd that does not read blocks nobody for long.
    #[test]
    fn a_full_queue_costs_a_second_at_most() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).expect("a place");
        let systemd = Systemd::by(|key| (key == "NOTIFY_SOCKET").then(|| path.clone().into_os_string()), 1);
        let systemd = systemd.expect("it is a socket").expect("it is named");
        let told = (0..100_000).map(|_| systemd.tell(News::Alive, None)).find(Result::is_err);
        assert_eq!(told.and_then(Result::err).map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        let began = std::time::Instant::now();
        systemd.tell(News::Stopping, None).expect_err("nobody reads");
        assert!(began.elapsed() >= PAUSE * (TRIES - 1) && began.elapsed() < Duration::from_secs(20));
    }
}
