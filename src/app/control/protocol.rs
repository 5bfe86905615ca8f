//! What is said on the socket: the command one [`Request`], the agent [`Answer`]s, the last of which is no progress.

use crate::spool::store::{Mended, What, Which};
use crate::spool::{Book, Reason};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Grows when an older side would misunderstand; one that does not know it says so.
pub(crate) const VERSION: u32 = 1;
/// Longest line, bytes: names of a few thousand lanes.
pub(crate) const LINE_MAX: u64 = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: u32,
    pub(crate) order: Order,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// The books as they are now.
    Books,
    /// What an order would mean.
    Meant {
        what: Vec<What>,
        which: Which,
    },
    Requeue {
        what: Vec<What>,
        which: Which,
    },
    Drop {
        what: Vec<What>,
        which: Which,
    },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Books {
        uuid: String,
        books: Vec<LiveBook>,
    },
    /// So many items so far; more comes.
    Progress(u64),
    Done(Vec<Done>),
    /// It went wrong; what was done until then is done.
    Failed(String),
}

/// What was done to one exporter's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) what: What,
    #[serde(flatten)]
    pub(crate) mended: Mended,
}

/// The books of one lane and exporter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LiveBook {
    pub(crate) lane: String,
    pub(crate) exporter: String,
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
    pub(crate) waiting: u64,
    pub(crate) dead_letters: u64,
    pub(crate) quarantined: u64,
    /// By the reason's name.
    pub(crate) lost: BTreeMap<String, u64>,
    /// Seconds the oldest has waited; `None`: nothing waits.
    pub(crate) oldest_s: Option<f64>,
}

impl LiveBook {
    pub(crate) fn of(book: Book, oldest_s: Option<f64>) -> LiveBook {
        let lost = Reason::ALL.iter().map(|r| (r.name().to_owned(), book.lost[*r as usize])).collect();
        LiveBook {
            lane: book.lane,
            exporter: book.exporter,
            accepted: book.accepted,
            delivered: book.delivered,
            waiting: book.waiting,
            dead_letters: book.dead_letters,
            quarantined: book.quarantined,
            lost,
            oldest_s,
        }
    }
}
