//! Tokens a server takes.

use super::Mark;
use super::config::{BearerTokenConfig, with_scheme};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, fs, io};
use subtle::Choice;
use tokio::time::Instant;

/// So often at most the file is read again, and only when a client comes. Tokens of Kubernetes change every hour.
const EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub struct Bearer {
    scheme: String,
    file: Option<PathBuf>,
    now: Mutex<Now>,
}

struct Now {
    /// Of whole values of the header.
    taken: Vec<Mark>,
    read_at: Instant,
    /// The file could not be read the last time.
    stale: bool,
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Bearer {
    /// With the tokens of the section, or of its file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds none.
    pub fn new(config: &BearerTokenConfig) -> io::Result<Bearer> {
        let scheme = config.scheme.clone();
        let taken = match &config.filename {
            Some(path) => tokens(path, &scheme)?,
            None => config.tokens.iter().map(|token| mark(&scheme, token.reveal())).collect(),
        };
        let now = Now { taken, read_at: Instant::now(), stale: false };
        Ok(Bearer { scheme, file: config.filename.clone(), now: Mutex::new(now) })
    }

    /// Whether the header's value is one of ours.
    #[must_use]
    pub fn admits(&self, value: &[u8]) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = self.file.as_ref().filter(|_| now.read_at.elapsed() >= EVERY) {
            now.read_at = Instant::now();
            self.read_again(path, &mut now);
        }
        let mark = Mark::of(value);
        now.taken.iter().fold(Choice::from(0), |found, taken| found | taken.is(&mark)).into()
    }

    fn read_again(&self, path: &Path, now: &mut Now) {
        match tokens(path, &self.scheme) {
            Ok(taken) => (now.taken, now.stale) = (taken, false),
            Err(_) if now.stale => {}
            Err(reason) => {
                tracing::warn!(%reason, file = %path.display(), "tokens cannot be read again; those of before count");
                now.stale = true;
            }
        }
    }
}

/// One a line; blanks around it are none of it.
fn tokens(path: &Path, scheme: &str) -> io::Result<Vec<Mark>> {
    let text = fs::read_to_string(path)?;
    let all: Vec<_> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(|token| mark(scheme, token)).collect();
    if all.is_empty() { Err(io::Error::new(io::ErrorKind::InvalidData, "there is no token in it")) } else { Ok(all) }
}

fn mark(scheme: &str, token: &str) -> Mark {
    Mark::of(with_scheme(scheme, token).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn config(tokens: &[&str], filename: Option<PathBuf>) -> BearerTokenConfig {
        let tokens = tokens.iter().map(|token| Secret::new(*token)).collect();
        BearerTokenConfig { scheme: "Bearer".to_owned(), tokens, filename, header: "Authorization".to_owned() }
    }

    #[test]
    fn one_of_the_tokens_and_nothing_else_is_let_in() {
        let bearer = Bearer::new(&config(&["one", "two"], None)).expect("no file");
        for (value, admitted) in [
            (&b"Bearer one"[..], true),
            (b"Bearer two", true),
            (b"Bearer three", false),
            (b"Bearer one ", false),
            (b"bearer one", false), // the original compares it as it is written
            (b"one", false),
            (b"", false),
        ] {
            assert_eq!(bearer.admits(value), admitted, "{value:?}");
        }
    }

    #[actix::test]
    async fn a_file_is_read_again_and_one_that_is_gone_changes_nothing() {
        tokio::time::pause();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tokens");
        fs::write(&path, "one\n two \n\n").expect("written");
        let bearer = Bearer::new(&config(&[], Some(path.clone()))).expect("readable");
        assert!(bearer.admits(b"Bearer one") && bearer.admits(b"Bearer two"));
        fs::write(&path, "three").expect("written");
        assert!(bearer.admits(b"Bearer one"), "not looked at yet");
        tokio::time::advance(EVERY).await;
        assert!(!bearer.admits(b"Bearer one") && bearer.admits(b"Bearer three"));
        fs::remove_file(&path).expect("removed");
        tokio::time::advance(EVERY).await;
        assert!(bearer.admits(b"Bearer three"));
        assert!(Bearer::new(&config(&[], Some(path))).is_err());
    }
}
