//! The uploads of one lane that are in memory, by their place in the lane.
//!
//! Counts what the next step is decided by, so that a window of a thousand small uploads costs no more to look at than
//! one of ten large ones: only [`Hand::set`] moves an upload from state to state.

use super::assemble::Part;
use super::pack::Body;
use super::retry::Patience;
use crate::spool::Pos;
use std::collections::BTreeMap;
use std::ops::Range;
use tokio::time::Instant;

/// Bytes of memory an upload takes beside its body.
const OVERHEAD: usize = 512;

/// One request on its way.
#[derive(Debug)]
pub struct Upload {
    /// What it carries.
    pub part: Part,
    /// The request.
    pub body: Body,
    /// It has waited for too long to be fresh (`drain.rs`),
    pub backlog: bool,
    /// or will have then.
    fresh_until: Instant,
    /// It went as fast as its lane's data comes in, whatever a backlog may.
    pub keeps_up: bool,
    state: State,
    pub(super) patience: Patience,
    /// When it was sent last.
    pub(super) tried: Option<Instant>,
    /// When it first failed, and how many whole windows of that were counted.
    pub(super) failing: Option<(Instant, u32)>,
    /// Uploads of its signal that were taken, ever, when it last failed.
    pub(super) failed_at: Option<u64>,
    /// The same when it was last refused as bad.
    pub(super) refused_at: Option<u64>,
    /// The same when the upload it was cut from was refused.
    pub(super) cut_at: Option<u64>,
    /// It was refused as an item alone; the same as `cut_at`, or when that happened.
    pub(super) suspect_since: Option<u64>,
    /// Failures after which others had been taken since the one before.
    pub(super) solo: u32,
    /// The refused upload it is a part of, by where that began.
    pub(super) hunt: Option<Pos>,
}

/// Where an upload is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum State {
    /// Here; it may go at that time.
    Ready { at: Instant },
    /// On its way; so many uploads of its signal, and of all signals, were taken before.
    Out { taken: u64, taken_of_all: u64 },
    /// Its fate is decided; the spool is being told.
    Settling,
}

impl Upload {
    pub(super) fn new(part: Part, body: Body, fresh_until: Instant, now: Instant) -> Upload {
        Upload {
            part,
            body,
            backlog: fresh_until <= now,
            fresh_until,
            keeps_up: false,
            state: State::Ready { at: now },
            patience: Patience::default(),
            tried: None,
            failing: None,
            failed_at: None,
            refused_at: None,
            cut_at: None,
            suspect_since: None,
            solo: 0,
            hunt: None,
        }
    }

    /// A part of it, in its place. What was not refused is under no suspicion.
    pub(super) fn piece(&self, part: Part, body: Body, now: Instant) -> Upload {
        Upload {
            patience: self.patience,
            failing: self.failing,
            cut_at: self.refused_at.or(self.cut_at),
            hunt: self.hunt.or(self.refused_at.map(|_| self.part.range.start)),
            ..Upload::new(part, body, self.fresh_until, now)
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// It waits for its answer, or could go by now. What the spool is being told of is neither.
    pub(super) fn is_under_way(&self, now: Instant) -> bool {
        match self.state {
            State::Out { .. } => true,
            State::Ready { at } => at <= now,
            State::Settling => false,
        }
    }

    /// When it may go, if it is here.
    pub(super) fn at(&self) -> Option<Instant> {
        match self.state {
            State::Ready { at } => Some(at),
            State::Out { .. } | State::Settling => None,
        }
    }

    /// It rests as a suspect, and nothing of its signal was taken since: others go first.
    pub(super) fn lingers(&self, now: Instant, taken: u64) -> bool {
        self.suspect_since.is_some() && !self.may_go(now, taken)
    }

    /// Its time has come; for a suspect also when there is evidence.
    pub(super) fn may_go(&self, now: Instant, taken: u64) -> bool {
        let evidence = self.suspect_since.is_some() && self.failed_at.is_some_and(|then| taken > then);
        evidence || self.at().is_some_and(|at| at <= now)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Hand {
    uploads: BTreeMap<Pos, Upload>,
    out: usize,
    bytes: usize,
    /// Those of a backlog,
    backlog: usize,
    /// and of these those that wait for an answer.
    backlog_out: usize,
}

impl Hand {
    pub(super) fn put(&mut self, upload: Upload) {
        self.bytes += OVERHEAD + upload.body.bytes.len();
        self.backlog += usize::from(upload.backlog);
        let former = self.uploads.insert(upload.part.range.start, upload);
        assert!(former.is_none(), "windows do not overlap, and a part is cut once");
    }

    pub(super) fn take(&mut self, key: Pos) -> Option<Upload> {
        let upload = self.uploads.remove(&key)?;
        self.bytes -= OVERHEAD + upload.body.bytes.len();
        let was_out = usize::from(matches!(upload.state, State::Out { .. }));
        self.out -= was_out;
        if upload.backlog {
            self.backlog -= 1;
            self.backlog_out -= was_out;
        }
        Some(upload)
    }

    pub(super) fn set(&mut self, key: Pos, state: State) {
        if let Some(upload) = self.uploads.get_mut(&key) {
            let was_out = usize::from(matches!(upload.state, State::Out { .. }));
            let is_out = usize::from(matches!(state, State::Out { .. }));
            self.out = self.out + is_out - was_out;
            if upload.backlog {
                self.backlog_out = self.backlog_out + is_out - was_out;
            }
            upload.state = state;
        }
    }

    pub(super) fn get(&self, key: Pos) -> Option<&Upload> {
        self.uploads.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: Pos) -> Option<&mut Upload> {
        self.uploads.get_mut(&key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.uploads.is_empty()
    }

    /// Uploads that wait for an answer.
    pub(super) fn out(&self) -> usize {
        self.out
    }

    /// What has waited for too long by now is a backlog, wherever it is.
    pub(super) fn grow_old(&mut self, now: Instant) {
        for upload in self.uploads.values_mut().filter(|u| !u.backlog && u.fresh_until <= now) {
            upload.backlog = true;
            self.backlog += 1;
            self.backlog_out += usize::from(matches!(upload.state, State::Out { .. }));
        }
    }

    /// Uploads of this kind.
    pub(super) fn count(&self, backlog: bool) -> usize {
        if backlog { self.backlog } else { self.uploads.len() - self.backlog }
    }

    /// Uploads of a backlog that wait for an answer.
    pub(super) fn backlog_out(&self) -> usize {
        self.backlog_out
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Pos, &Upload)> {
        self.uploads.iter().map(|(key, upload)| (*key, upload))
    }

    /// Those that are here, oldest first.
    pub(super) fn ready(&self) -> impl Iterator<Item = (Pos, &Upload)> {
        self.iter().filter(|(_, upload)| upload.is_ready())
    }

    /// Those that begin in these blocks.
    pub(super) fn within(&self, window: &Range<u64>) -> impl Iterator<Item = (Pos, &Upload)> {
        let border = |index| Pos { index, item: 0 };
        self.uploads.range(border(window.start)..border(window.end)).map(|(key, upload)| (*key, upload))
    }
}
