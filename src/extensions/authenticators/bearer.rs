//! Tokens a server takes, and the token an exporter sends when it stands in a file.

use super::Mark;
use super::config::{BearerTokenConfig, with_scheme};
use super::watched::Watched;
use crate::config::Secret;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::{fmt, io};
use subtle::Choice;

/// The tokens a server takes.
pub struct Bearer {
    scheme: String,
    now: Mutex<Now>,
}

struct Now {
    /// Of whole values of the header.
    taken: Vec<Mark>,
    file: Option<Watched>,
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl Bearer {
    /// With the tokens of the section, or of its file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds none.
    pub fn new(config: &BearerTokenConfig) -> io::Result<Bearer> {
        let scheme = config.scheme.clone();
        let now = match &config.filename {
            Some(path) => {
                let (file, text) = Watched::read(path);
                Now { taken: marks(&text?, &scheme)?, file: Some(file) }
            }
            None => {
                Now { taken: config.tokens.iter().map(|token| mark(&scheme, token.reveal())).collect(), file: None }
            }
        };
        Ok(Bearer { scheme, now: Mutex::new(now) })
    }

    /// Whether the header's value is one of ours.
    #[must_use]
    pub fn admits(&self, value: &[u8]) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        self.look_again(&mut now);
        let mark = Mark::of(value);
        now.taken.iter().fold(Choice::from(0), |found, taken| found | taken.is(&mark)).into()
    }

    fn look_again(&self, now: &mut Now) {
        let Some(file) = &mut now.file else { return };
        let Some(news) = file.news() else { return };
        match news.and_then(|text| marks(&text, &self.scheme)) {
            Ok(taken) => now.taken = taken,
            Err(reason) => {
                let path = file.path().display();
                tracing::warn!(%reason, file = %path, "tokens cannot be read again; those of before count");
            }
        }
    }
}

/// The token an exporter sends, from a file that may not be there yet.
pub struct Token {
    scheme: String,
    now: Mutex<(Watched, Result<Secret, String>)>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl Token {
    /// The first one in this file.
    #[must_use]
    pub fn of(path: &Path, scheme: &str) -> Token {
        let (file, text) = Watched::read(path);
        let first = text.and_then(|text| first(&text, scheme)).map_err(|reason| {
            tracing::warn!(%reason, file = %path.display(), "there is no token to send yet; the exporter waits for it");
            reason.to_string()
        });
        Token { scheme: scheme.to_owned(), now: Mutex::new((file, first)) }
    }

    /// What stands in the header now. When the file cannot be read any more, what stood there.
    ///
    /// # Errors
    /// Why there is none, and never was.
    pub fn value(&self) -> Result<Secret, String> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, token) = &mut *now;
        match file.news().map(|news| news.and_then(|text| first(&text, &self.scheme))) {
            None => {}
            Some(Ok(new)) => {
                tracing::info!(file = %file.path().display(), "the token to send was read again");
                *token = Ok(new);
            }
            Some(Err(reason)) => {
                let path = file.path().display();
                tracing::warn!(%reason, file = %path, "the token to send cannot be read; the one before is sent, if any");
                if token.is_err() {
                    *token = Err(reason.to_string());
                }
            }
        }
        let path = file.path().display();
        token.clone().map_err(|reason| format!("there is no token to send: `{path}`: {reason}"))
    }
}

/// One a line; blanks around it are none of it.
fn tokens(text: &str) -> io::Result<impl Iterator<Item = &str>> {
    let mut all = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
    match all.peek() {
        Some(_) => Ok(all),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "there is no token in it")),
    }
}

fn marks(text: &str, scheme: &str) -> io::Result<Vec<Mark>> {
    Ok(tokens(text)?.map(|token| mark(scheme, token)).collect())
}

fn first(text: &str, scheme: &str) -> io::Result<Secret> {
    let token = tokens(text)?.next().unwrap_or_default(); // there is one
    if token.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the token has a byte that no header can carry"));
    }
    Ok(Secret::new(with_scheme(scheme, token)))
}

fn mark(scheme: &str, token: &str) -> Mark {
    Mark::of(with_scheme(scheme, token).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::watched::EVERY;
    use super::*;
    use std::fs;
    use std::path::PathBuf;

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

    /// Goal: an exporter's token may come later, change, and go; what was good is sent until something better is there.
    #[actix::test]
    async fn a_token_to_send_is_waited_for_followed_and_kept() {
        tokio::time::pause();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        let token = Token::of(&path, "Bearer");
        let value = || token.value().map(|token| token.reveal().to_owned());
        let later = || tokio::time::advance(EVERY);
        assert!(value().expect_err("not there").contains("No such file"), "{:?}", value());
        fs::write(&path, " \n").expect("written");
        later().await;
        assert!(value().expect_err("empty").ends_with("there is no token in it"), "{:?}", value());
        fs::write(&path, " first \nsecond\n").expect("written");
        assert!(value().is_err(), "not looked at yet");
        later().await;
        assert_eq!(value().as_deref(), Ok("Bearer first"));
        fs::write(&path, "third").expect("written");
        later().await;
        assert_eq!(value().as_deref(), Ok("Bearer third"));
        for bad in ["", "a\u{7}b"] {
            fs::write(&path, bad).expect("written");
            later().await;
            assert_eq!(value().as_deref(), Ok("Bearer third"), "{bad:?}");
        }
        fs::remove_file(&path).expect("removed");
        later().await;
        assert_eq!(value().as_deref(), Ok("Bearer third"));
        assert!(!format!("{token:?}").contains("third"));
    }
}
