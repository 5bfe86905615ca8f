//! How a client behaves on an HTTP/2 connection, frame by frame, and when it is sent away: plain data, no clock, no
//! socket. hyper and h2 bound what one client can make us hold; this bounds what it can make us do.
//!
//! | what | most | then |
//! |---|---|---|
//! | pings oftener than `min_time`, or than every 2 h while nothing runs | 2, begun anew when we say something | GOAWAY `too_many_pings` |
//! | requests that the client takes back (`RST_STREAM`) | `max_resets` in 10 s | GOAWAY `too_many_resets` |
//! | frames that carry nothing (`PING`, `SETTINGS`, `PRIORITY`, `WINDOW_UPDATE`, unknown ones, `DATA` and `CONTINUATION` of no bytes) | `max_control_frames` in 10 s, and 4 for every answer | GOAWAY `too_many_control_frames` |
//!
//! The pings are judged as grpc-go judges them (internal/transport, `handlePing`), so that a client that was content with
//! the original is content here; its clients measure the line with a ping for an answer now and then, and those are free.

use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// What every connection begins with: `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`.
const PREFACE: usize = 24;
/// Resets and control frames are counted over so long.
const SPAN: Duration = Duration::from_secs(10);
/// While nothing runs and pings are not permitted then, as in grpc-go.
const PING_WITHOUT_STREAM: Duration = Duration::from_secs(7_200);
/// As in grpc-go: the third is one too many.
const STRIKES_MAX: u32 = 2;
/// An answer may draw a ping, its acknowledgement and the windows of the connection and a stream.
const FRAMES_PER_ANSWER: u32 = 4;

pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const CONTINUATION: u8 = 9;
}
/// `END_STREAM` of DATA and HEADERS; `ACK` of PING and SETTINGS.
const FLAG_1: u8 = 1;
const END_HEADERS: u8 = 4;

/// The nine bytes before a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes that follow.
    pub len: u32,
    /// DATA, HEADERS, …
    pub kind: u8,
    /// Of this kind.
    pub flags: u8,
    /// 0: the connection.
    pub stream: u32,
}

/// Part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Its head is here.
    Begun(Head),
    /// Its last byte is.
    Ended(Head),
}

/// Finds the frames in a stream of bytes, wherever it is cut.
#[derive(Debug)]
pub struct Frames {
    /// Bytes to pass over: the preface, or the rest of a frame.
    skip: usize,
    head: [u8; 9],
    have: usize,
    within: Option<Head>,
}

impl Frames {
    /// Of a client: a preface comes first.
    #[must_use]
    pub fn of_client() -> Frames {
        Frames { skip: PREFACE, ..Frames::of_server() }
    }

    /// Of a server.
    #[must_use]
    pub fn of_server() -> Frames {
        Frames { skip: 0, head: [0; 9], have: 0, within: None }
    }

    /// Between two frames.
    #[must_use]
    pub fn at_edge(&self) -> bool {
        self.skip == 0 && self.have == 0 && self.within.is_none()
    }

    /// Goes through the next bytes.
    pub fn pass(&mut self, mut bytes: &[u8], mut found: impl FnMut(Edge)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            if self.skip > 0 {
                return;
            }
            if let Some(head) = self.within.take() {
                found(Edge::Ended(head));
            }
            let taken = (9 - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            (self.have, bytes) = (self.have + taken, &bytes[taken..]);
            if self.have < 9 {
                return;
            }
            let [a, b, c, kind, flags, stream @ ..] = self.head;
            let len = u32::from_be_bytes([0, a, b, c]);
            let head = Head { len, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff };
            (self.have, self.skip, self.within) = (0, len as usize, Some(head));
            found(Edge::Begun(head));
        }
    }
}

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// `keepalive.enforcement_policy.min_time`.
    pub min_ping: Duration,
    /// `keepalive.enforcement_policy.permit_without_stream`.
    pub pings_without_stream: bool,
    /// `limits.max_resets`.
    pub max_resets: u32,
    /// `limits.max_control_frames`.
    pub max_control_frames: u32,
    /// Requests that may run, and some more which h2 refuses. One that opens others after its farewell gets no refusal,
    /// and what is remembered of it has an end all the same.
    pub max_open: usize,
}

/// What it did too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// Pings.
    Pings,
    /// Requests begun and taken back.
    Resets,
    /// Frames that carry nothing.
    ControlFrames,
}

impl Offence {
    /// As the client is told. grpc's clients know the first one and ping half as often after it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Offence::Pings => "too_many_pings",
            Offence::Resets => "too_many_resets",
            Offence::ControlFrames => "too_many_control_frames",
        }
    }
}

/// Something that may happen so often in [`SPAN`].
#[derive(Debug, Default)]
struct Often {
    since: Option<Instant>,
    count: u32,
}

impl Often {
    /// Whether this once more is too often.
    fn again(&mut self, most: u32, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= SPAN) {
            *self = Often { since: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count > most
    }
}

/// One client on one connection.
#[derive(Debug)]
pub struct Conduct {
    rules: Rules,
    /// Requests that run.
    open: BTreeSet<u32>,
    /// The newest request there was.
    last: u32,
    pinged: Option<Instant>,
    strikes: u32,
    /// We said something since the last ping.
    answered: bool,
    resets: Often,
    controls: Often,
    /// Since when a request's head is on its way.
    head_since: Option<Instant>,
    /// The first frame is here.
    began: bool,
}

impl Conduct {
    /// It has not begun.
    #[must_use]
    pub fn new(rules: Rules) -> Conduct {
        Conduct {
            rules,
            open: BTreeSet::new(),
            last: 0,
            pinged: None,
            strikes: 0,
            answered: false,
            resets: Often::default(),
            controls: Often::default(),
            head_since: None,
            began: false,
        }
    }

    /// The client sent this.
    ///
    /// # Errors
    /// When that is once too often.
    pub fn heard(&mut self, edge: Edge, now: Instant) -> Result<(), Offence> {
        let head = match edge {
            Edge::Begun(head) => head,
            Edge::Ended(head) => {
                self.began = true;
                if matches!(head.kind, kind::HEADERS | kind::CONTINUATION) && head.flags & END_HEADERS != 0 {
                    self.head_since = None;
                }
                return Ok(());
            }
        };
        let acknowledges = head.flags & FLAG_1 != 0;
        match head.kind {
            kind::HEADERS => {
                self.head_since = Some(now);
                if head.stream > self.last {
                    self.last = head.stream;
                    self.open.insert(head.stream);
                }
                if self.open.len() > self.rules.max_open { Err(Offence::ControlFrames) } else { Ok(()) }
            }
            kind::DATA | kind::CONTINUATION if head.len > 0 => Ok(()),
            kind::DATA if acknowledges => Ok(()), // the end of a request
            kind::PING | kind::SETTINGS if acknowledges => Ok(()),
            kind::RST_STREAM => {
                self.open.remove(&head.stream);
                if self.resets.again(self.rules.max_resets, now) { Err(Offence::Resets) } else { Ok(()) }
            }
            kind::PING => {
                self.ping(now)?;
                self.control(now)
            }
            _ => self.control(now),
        }
    }

    fn control(&mut self, now: Instant) -> Result<(), Offence> {
        if self.controls.again(self.rules.max_control_frames, now) { Err(Offence::ControlFrames) } else { Ok(()) }
    }

    fn ping(&mut self, now: Instant) -> Result<(), Offence> {
        let before = self.pinged.replace(now);
        if std::mem::take(&mut self.answered) {
            self.strikes = 0;
            return Ok(());
        }
        let idle = self.open.is_empty() && !self.rules.pings_without_stream;
        let least = if idle { PING_WITHOUT_STREAM } else { self.rules.min_ping };
        if before.is_some_and(|before| now.duration_since(before) < least) {
            self.strikes += 1;
        }
        if self.strikes > STRIKES_MAX { Err(Offence::Pings) } else { Ok(()) }
    }

    /// We sent this.
    pub fn said(&mut self, edge: Edge) {
        let Edge::Begun(head) = edge else { return };
        match head.kind {
            kind::DATA | kind::HEADERS => {
                self.answered = true;
                if head.kind == kind::HEADERS {
                    self.controls.count = self.controls.count.saturating_sub(FRAMES_PER_ANSWER);
                }
                if head.flags & FLAG_1 != 0 {
                    self.open.remove(&head.stream);
                }
            }
            kind::RST_STREAM => {
                self.open.remove(&head.stream);
            }
            _ => {}
        }
    }

    /// Whether no request runs.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether the client has yet to begin.
    #[must_use]
    pub fn is_new(&self) -> bool {
        !self.began
    }

    /// Since when a request's head is on its way.
    #[must_use]
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// The last frame such a client gets: ENHANCE_YOUR_CALM.
    #[must_use]
    pub fn farewell(&self, offence: Offence) -> Vec<u8> {
        let why = offence.name().as_bytes();
        let len = u32::try_from(8 + why.len()).expect("a few bytes").to_be_bytes();
        let mut frame = vec![len[1], len[2], len[3], kind::GOAWAY, 0, 0, 0, 0, 0];
        frame.extend_from_slice(&self.last.to_be_bytes());
        frame.extend_from_slice(&11_u32.to_be_bytes());
        frame.extend_from_slice(why);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        min_ping: Duration::from_secs(300),
        pings_without_stream: false,
        max_resets: 3,
        max_control_frames: 5,
        max_open: 9,
    };

    fn head(kind: u8, flags: u8, stream: u32, len: u32) -> Head {
        Head { len, kind, flags, stream }
    }

    fn bytes(head: Head) -> Vec<u8> {
        let [_, a, b, c] = head.len.to_be_bytes();
        let mut out = vec![a, b, c, head.kind, head.flags];
        out.extend_from_slice(&head.stream.to_be_bytes());
        out.extend(std::iter::repeat_n(0, head.len as usize));
        out
    }

    /// Goal: frames are found wherever the network cuts the stream.
    #[test]
    fn frames_are_found_in_any_pieces() {
        let all = [head(kind::SETTINGS, 0, 0, 6), head(kind::HEADERS, 4, 1, 20), head(kind::DATA, 1, 1, 0)];
        let stream: Vec<u8> = [0; PREFACE].into_iter().chain(all.into_iter().flat_map(bytes)).collect();
        let expected: Vec<Edge> = all.into_iter().flat_map(|h| [Edge::Begun(h), Edge::Ended(h)]).collect();
        for size in 1..=stream.len() {
            let (mut frames, mut found) = (Frames::of_client(), Vec::new());
            for piece in stream.chunks(size) {
                frames.pass(piece, |edge| found.push(edge));
            }
            assert_eq!(found, expected, "in pieces of {size}");
            assert!(frames.at_edge());
        }
        let mut frames = Frames::of_server();
        frames.pass(&bytes(all[1])[..12], |_| {});
        assert!(!frames.at_edge());
    }

    /// Seconds since the beginning, and what happens.
    enum Now {
        Hears(u64, Head),
        Says(Head),
    }
    use Now::{Hears, Says};

    /// What it comes to: after how many of these, and why.
    fn judged(rules: Rules, story: &[Now]) -> Option<(usize, Offence)> {
        let start = Instant::now();
        let mut conduct = Conduct::new(rules);
        story.iter().enumerate().find_map(|(n, now)| match now {
            Hears(at, head) => {
                conduct.heard(Edge::Begun(*head), start + Duration::from_secs(*at)).err().map(|why| (n + 1, why))
            }
            Says(head) => {
                conduct.said(Edge::Begun(*head));
                None
            }
        })
    }

    #[test]
    fn pings_are_judged_as_grpc_go_judges_them() {
        let rules = Rules { max_control_frames: 99, ..RULES };
        let ping = |at| Hears(at, head(kind::PING, 0, 0, 8));
        let begins = || Hears(0, head(kind::HEADERS, 4, 1, 9));
        let answer = || Says(head(kind::DATA, 0, 1, 7));
        let ends = || Says(head(kind::HEADERS, 5, 1, 7));
        let too_many = |n| Some((n, Offence::Pings));
        // The first is free, two too early are borne, the third is not.
        assert_eq!(judged(rules, &[ping(0), ping(1), ping(2), ping(3)]), too_many(4));
        // While nothing runs, min_time is not enough.
        assert_eq!(judged(rules, &[ping(0), ping(400), ping(800), ping(1200)]), too_many(4));
        let permitted = Rules { pings_without_stream: true, ..rules };
        assert_eq!(judged(permitted, &[ping(0), ping(400), ping(800), ping(1200)]), None);
        assert_eq!(judged(rules, &[begins(), ping(0), ping(400), ping(800), ping(1200)]), None);
        assert_eq!(judged(rules, &[begins(), ends(), ping(0), ping(400), ping(800)]), None, "one is free");
        assert_eq!(judged(rules, &[begins(), ends(), ping(0), ping(4), ping(8), ping(12)]), too_many(6));
        // What we say makes all of it forgotten.
        let measured = [begins(), ping(0), ping(1), ping(2), answer(), ping(3), ping(4), ping(5)];
        assert_eq!(judged(rules, &measured), None);
        let acknowledged = || Hears(0, head(kind::PING, 1, 0, 8));
        assert_eq!(judged(rules, &[acknowledged(), acknowledged(), acknowledged(), acknowledged()]), None);
    }

    #[test]
    fn resets_and_empty_frames_are_counted_over_ten_seconds() {
        let reset = |at, stream| Hears(at, head(kind::RST_STREAM, 0, stream, 4));
        assert_eq!(judged(RULES, &[reset(0, 1), reset(1, 3), reset(2, 5), reset(9, 7)]), Some((4, Offence::Resets)));
        assert_eq!(judged(RULES, &[reset(0, 1), reset(1, 3), reset(2, 5), reset(10, 7)]), None);
        for empty in [(kind::SETTINGS, 0), (2, 5), (8, 4), (kind::DATA, 0), (kind::CONTINUATION, 0), (77, 9)] {
            let flood = |n| (0..n).map(move |_| Hears(0, head(empty.0, 0, 1, empty.1))).collect::<Vec<_>>();
            assert_eq!(judged(RULES, &flood(5)), None, "{empty:?}");
            assert_eq!(judged(RULES, &flood(6)), Some((6, Offence::ControlFrames)), "{empty:?}");
            let mut answered = flood(5);
            answered.push(Says(head(kind::HEADERS, 4, 1, 3)));
            answered.extend(flood(4));
            assert_eq!(judged(RULES, &answered), None, "{empty:?}");
        }
        let works: Vec<_> = (0..100).map(|_| Hears(0, head(kind::DATA, 0, 1, 9))).collect();
        assert_eq!(judged(RULES, &works), None, "bytes are what it is there for");
    }

    #[test]
    fn a_connection_knows_whether_something_runs_and_whether_a_head_is_on_its_way() {
        let now = Instant::now();
        let mut conduct = Conduct::new(RULES);
        let settings = head(kind::SETTINGS, 0, 0, 0);
        assert!(conduct.is_new() && conduct.heard(Edge::Begun(settings), now).is_ok() && conduct.is_new());
        assert!(conduct.heard(Edge::Ended(settings), now).is_ok() && !conduct.is_new() && conduct.is_quiet());
        let (first, rest) = (head(kind::HEADERS, 0, 1, 9), head(kind::CONTINUATION, END_HEADERS, 1, 9));
        for edge in [Edge::Begun(first), Edge::Ended(first), Edge::Begun(rest)] {
            assert_eq!(conduct.heard(edge, now), Ok(()));
            assert_eq!(conduct.head_since(), Some(now), "{edge:?}");
        }
        assert_eq!(conduct.heard(Edge::Ended(rest), now), Ok(()));
        assert_eq!((conduct.head_since(), conduct.is_quiet()), (None, false));
        conduct.said(Edge::Begun(head(kind::HEADERS, END_HEADERS, 1, 9)));
        assert!(!conduct.is_quiet());
        conduct.said(Edge::Begun(head(kind::HEADERS, END_HEADERS | FLAG_1, 1, 9)));
        assert!(conduct.is_quiet());
        let told = conduct.farewell(Offence::Pings);
        assert_eq!(told[..17], [0, 0, 22, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 11]);
        assert_eq!(&told[17..], b"too_many_pings");
    }
}
