//! What becomes of an upload with its answer, and who is to blame when nothing good does.

use super::hand::Upload;
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

impl Fate {
    /// What the books are told; `None` while the upload stays in hand.
    #[must_use]
    pub fn outcome(&self, upload: &Upload, verdict: &Verdict) -> Option<Outcome> {
        match self {
            Fate::Delivered { rejected } => Some(Outcome::Delivered { rejected: *rejected }),
            Fate::DeadLetter => {
                Some(Outcome::DeadLetter { raw: upload.body.unpack(), answer: verdict.why().to_owned() })
            }
            Fate::Expired(OnExpiry::Park) => Some(Outcome::Parked { raw: upload.body.unpack() }),
            Fate::Expired(OnExpiry::Drop) => Some(Outcome::Lost(Reason::RetryExpired)),
            Fate::Kept(_) | Fate::Halve | Fate::Suspect => None,
        }
    }
}
