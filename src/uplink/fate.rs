//! What becomes of an upload with its answer, and who is to blame when nothing good does.

use super::pack::Body;
use super::retry::OnExpiry;
use super::verdict::Verdict;
use crate::spool::{Outcome, Reason};
use std::time::Duration;

/// Who is to blame for a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Itself; it rests alone.
    Upload {
        /// For so long.
        rest: Duration,
    },
    /// The far end, for this lane's data.
    Lane,
    /// The far end as a whole.
    Link,
}

/// What became of an upload with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The far end has it, but for `rejected` items.
    Delivered {
        /// Never more than it has.
        rejected: u32,
    },
    /// It will be sent again.
    Kept(Blame),
    /// It is refused: send its halves (then say [`Desk::cut`](super::desk::Desk::cut)).
    Halve,
    /// It is a suspect of poison and kept.
    Suspect,
    /// It is guilty.
    DeadLetter,
    /// Its window is over.
    Expired(OnExpiry),
}

/// What the books are to be told of an upload. Its bytes are unpacked when they are told, not before: until then they
/// wait compressed in hand, however long the disk is full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The far end has it, but for `rejected` items.
    Delivered {
        /// Never more than it has.
        rejected: u32,
    },
    /// It waits in the park lane from now on.
    Parked,
    /// It is kept for a person.
    DeadLetter {
        /// What the far end said of it.
        answer: String,
    },
    /// It is given up.
    Lost(Reason),
}

impl Told {
    /// Needs room on the disk.
    #[must_use]
    pub fn moves(&self) -> bool {
        matches!(self, Told::Parked | Told::DeadLetter { .. })
    }

    /// As the spool wants to hear it.
    #[must_use]
    pub fn outcome(&self, body: &Body) -> Outcome {
        match self {
            Told::Delivered { rejected } => Outcome::Delivered { rejected: *rejected },
            Told::Parked => Outcome::Parked { raw: body.unpack() },
            Told::DeadLetter { answer } => Outcome::DeadLetter { raw: body.unpack(), answer: answer.clone() },
            Told::Lost(reason) => Outcome::Lost(*reason),
        }
    }
}

impl Fate {
    /// What the books are told; `None` while the upload stays in hand.
    #[must_use]
    pub fn told(&self, verdict: &Verdict) -> Option<Told> {
        match self {
            Fate::Delivered { rejected } => Some(Told::Delivered { rejected: *rejected }),
            Fate::DeadLetter => Some(Told::DeadLetter { answer: verdict.why().to_owned() }),
            Fate::Expired(OnExpiry::Park) => Some(Told::Parked),
            Fate::Expired(OnExpiry::Drop) => Some(Told::Lost(Reason::RetryExpired)),
            Fate::Kept(_) | Fate::Halve | Fate::Suspect => None,
        }
    }
}
