//! What was used, kept over restarts.
//!
//! ```text
//! tfo-otel-agent link-budget 1 <16 hex: xxh3 of what follows>
//! {"ahead":65536,"book":{"day":[{"first_day":20784,"by":[0,5120,99000,300]}],"month":[…]}}
//! ```
//!
//! What always holds:
//! * The file counts as used what may be sent before it is written next (`ahead`): after a crash or a power cut too much is
//!   counted, at most that, and never too little.
//! * A disk that does not take it stops nothing: what is sent makes room on it. It is counted in memory, and told.
//! * All uplinks that name the file share one account: while an exporter is exchanged there are two.

use super::book::{Book, Calendar, Period};
use super::{CLASSES, Use};
use crate::config::{replace_file, sealed, unsealed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// Rest after a write that failed: 30 s.
const FAILED_REST: Duration = Duration::from_secs(30);
/// First words of the file.
const SEAL: &str = "tfo-otel-agent link-budget 1 ";
/// Least that is counted in advance: 64 KiB, so that a busy link costs the flash a write for each of these at most.
const AHEAD_MIN: u64 = 64 << 10;
/// Parts of the smallest limit that are counted in advance.
const AHEAD_PART: u64 = 256;

/// See the module.
#[derive(Debug)]
pub struct Account {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    book: Book,
    /// What may still be sent before the file is written again.
    ahead: u64,
    /// Used since what is being written was made up; `None`: nothing is being written.
    meanwhile: Option<u64>,
    /// The last write failed, then.
    failed: Option<Instant>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    ahead: u64,
    book: Book,
}

static OPEN: Mutex<BTreeMap<PathBuf, Weak<Account>>> = Mutex::new(BTreeMap::new());

impl Account {
    /// The account that this file keeps; without one it lasts as long as the process.
    #[must_use]
    pub fn at(path: Option<&Path>) -> Arc<Account> {
        let Some(path) = path else { return Arc::new(Account { path: None, state: Mutex::default() }) };
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, account| account.strong_count() > 0);
        if let Some(account) = open.get(path).and_then(Weak::upgrade) {
            return account;
        }
        let state = State { book: read(path), ..State::default() };
        let account = Arc::new(Account { path: Some(path.to_owned()), state: Mutex::new(state) });
        open.insert(path.to_owned(), Arc::downgrade(&account));
        account
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is that time now, and so many bytes more were used, by class.
    pub fn spend(&self, calendar: Calendar, wall_ns: u64, bytes: [u64; CLASSES]) {
        let mut state = self.lock();
        state.book.turn_to(calendar, wall_ns);
        for (class, bytes) in bytes.into_iter().enumerate() {
            state.book.spend(class, bytes);
            state.ahead = state.ahead.saturating_sub(bytes);
            state.meanwhile = state.meanwhile.map(|used| used.saturating_add(bytes));
        }
    }

    /// So many bytes were not used after all. (The file counts them until it is written again.)
    pub fn give_back(&self, class: usize, bytes: u64) {
        self.lock().book.give_back(class, bytes);
    }

    /// How the present period stands.
    #[must_use]
    pub fn of(&self, period: Period, limit: u64, calendar: Calendar, wall_ns: u64) -> Use {
        self.lock().book.of(period, limit, calendar, wall_ns)
    }

    /// Nothing may be sent before the file is written.
    #[must_use]
    pub fn is_to_be_written(&self) -> bool {
        let state = self.lock();
        self.path.is_some() && state.ahead == 0 && state.failed.is_none()
    }

    /// What to write now, so that nobody waits for it; then call [`Account::write`], where a disk may take its time.
    /// `limit`: the smallest.
    #[must_use]
    pub fn due(&self, limit: u64, now: Instant) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let ahead = advance(limit);
        let rests = state.failed.is_some_and(|at| now < at + FAILED_REST);
        if self.path.is_none() || state.meanwhile.is_some() || rests || state.ahead > ahead / 2 {
            return None;
        }
        state.meanwhile = Some(0);
        Some(bytes(&state.book, ahead))
    }

    /// Writes what is due.
    pub fn write(&self, bytes: &[u8], limit: u64, now: Instant) {
        let Some(path) = &self.path else { return };
        let written = replace_file(path, bytes);
        let mut state = self.lock();
        let meanwhile = state.meanwhile.take().unwrap_or(0);
        match written {
            Ok(_) => {
                state.ahead = advance(limit).saturating_sub(meanwhile);
                if state.failed.take().is_some() {
                    info!(path = %path.display(), "what the link was used for can be kept again");
                }
            }
            Err(error) => state.tell(path, &error, now),
        }
    }

    /// The end: writes what was used, and nothing in advance.
    pub fn close(&self) {
        let Some(path) = &self.path else { return };
        let bytes = bytes(&self.lock().book, 0);
        let written = replace_file(path, &bytes);
        let mut state = self.lock();
        state.ahead = 0;
        if let Err(error) = written {
            state.tell(path, &error, Instant::now());
        }
    }
}

impl State {
    fn tell(&mut self, path: &Path, error: &io::Error, now: Instant) {
        if self.failed.replace(now).is_none() {
            warn!(path = %path.display(), %error, "what the link was used for cannot be kept (link_budget); it is counted, and forgotten at the next start");
        }
    }
}

fn advance(limit: u64) -> u64 {
    (limit / AHEAD_PART).max(AHEAD_MIN)
}

fn bytes(book: &Book, ahead: u64) -> Vec<u8> {
    let kept = Kept { ahead, book: book.clone() };
    sealed(SEAL, &serde_json::to_vec(&kept).expect("numbers in lists are JSON"))
}

fn read(path: &Path) -> Book {
    let kept = match std::fs::read(path) {
        Ok(bytes) => unsealed(SEAL, &bytes).and_then(|inner| serde_json::from_slice::<Kept>(inner).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Book::default(),
        Err(error) => {
            warn!(path = %path.display(), %error, "what the link was used for cannot be read (link_budget); it is counted from now on");
            return Book::default();
        }
    };
    let Some(Kept { ahead, mut book }) = kept else {
        warn!(path = %path.display(), "file of link_budget is damaged; what the link was used for is counted from now on");
        return Book::default();
    };
    book.spend(CLASSES - 1, ahead);
    book
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 100 << 20;
    const NOW: u64 = 1_800_000_000_000_000_000;

    fn used(account: &Account) -> u64 {
        account.of(Period::Day, LIMIT, Calendar::default(), NOW).used()
    }

    fn spend(account: &Account, bytes: u64) {
        account.spend(Calendar::default(), NOW, [0, bytes, 0, 0]);
    }

    /// Goal: a process that is killed counts more than it sent and never less; one that is stopped exactly that.
    #[test]
    fn what_was_sent_is_never_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("link-budget");
        let mut sent = 0;
        for life in 0..20 {
            let account = Account::at(Some(&path));
            let before = used(&account);
            assert!(sent <= before && before <= sent + life * (advance(LIMIT)), "{sent} sent, {before} counted");
            for _ in 0..50 {
                if let Some(bytes) = account.due(LIMIT, Instant::now()) {
                    account.write(&bytes, LIMIT, Instant::now());
                }
                assert!(!account.is_to_be_written());
                sent += 50_000;
                spend(&account, 50_000);
            }
        } // killed
        let account = Account::at(Some(&path));
        let counted = used(&account);
        account.close();
        drop(account);
        assert_eq!(used(&Account::at(Some(&path))), counted);
    }

    /// What is used while the file is written is covered by it.
    #[test]
    fn a_slow_disk_gives_nothing_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("link-budget");
        let account = Account::at(Some(&path));
        let bytes = account.due(LIMIT, Instant::now()).expect("nothing was written yet");
        spend(&account, 100_000);
        account.write(&bytes, LIMIT, Instant::now());
        spend(&account, advance(LIMIT) - 100_000);
        assert!(account.is_to_be_written());
        let sent = used(&account);
        drop(account);
        assert_eq!(used(&Account::at(Some(&path))), sent);
    }

    #[test]
    fn two_uplinks_share_one_account() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("link-budget");
        let (one, other) = (Account::at(Some(&path)), Account::at(Some(&path)));
        spend(&one, 7);
        assert_eq!(used(&other), 7);
    }

    /// Goal: neither a disk that takes nothing nor a file that is damaged stops the sending, and both are told.
    #[test]
    fn a_file_that_is_no_use_stops_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = Account::at(Some(&dir.path().join("not/there")));
        assert!(missing.is_to_be_written());
        let now = Instant::now();
        let bytes = missing.due(LIMIT, now).expect("nothing was written yet");
        missing.write(&bytes, LIMIT, now);
        assert!(!missing.is_to_be_written(), "it failed, and nobody waits for it");
        assert!(missing.due(LIMIT, now + FAILED_REST / 2).is_none(), "nor is it tried without end");
        assert!(missing.due(LIMIT, now + FAILED_REST).is_some(), "but again");

        let path = dir.path().join("link-budget");
        let account = Account::at(Some(&path));
        spend(&account, 1_000);
        account.close();
        drop(account);
        let mut bytes = std::fs::read(&path).expect("it was written");
        let last = bytes.len() - 20;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("a file");
        assert_eq!(used(&Account::at(Some(&path))), 0);
    }
}
