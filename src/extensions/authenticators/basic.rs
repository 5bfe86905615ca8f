//! Names and passwords a server takes.

use super::Mark;
use super::htpasswd::{self, BadLine, Kept};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// See the module.
pub struct Basic {
    known: BTreeMap<String, Kept>,
    /// bcrypt of one client at a time: who guesses shall not have all the CPU.
    turn: Arc<Semaphore>,
    /// Under a key of this process: a password that was right, for each name. Only what is slow to ask is remembered.
    right: Mutex<BTreeMap<String, Mark>>,
    key: hmac::Key,
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Basic").field("names", &self.known.len()).finish_non_exhaustive()
    }
}

impl Basic {
    /// By these files; what stands in a later one counts.
    ///
    /// # Errors
    /// See [`BadLine`].
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Basic, BadLine> {
        let mut known = BTreeMap::new();
        for text in texts {
            known.extend(htpasswd::parse(text)?);
        }
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the kernel has random bytes");
        Ok(Basic { known, turn: Arc::new(Semaphore::new(1)), right: Mutex::default(), key })
    }

    /// The name of the one whose name and password the header's value has.
    pub async fn admits(self: Arc<Basic>, value: &[u8]) -> Option<String> {
        let (name, password) = credentials(value)?;
        let found = self.known.get(&name);
        // A name nobody has costs what the first one costs.
        let kept = found.or_else(|| self.known.values().next())?.clone();
        let is_right = match &kept {
            Kept::Bcrypt(_) => self.is_right(&name, &password, kept).await,
            Kept::Sha { .. } | Kept::Plain(_) => kept.is(&password),
        };
        (is_right && found.is_some()).then_some(name)
    }

    async fn is_right(self: &Arc<Basic>, name: &str, password: &[u8], kept: Kept) -> bool {
        let mark = Mark::of(hmac::sign(&self.key, password).as_ref());
        let before = self.right.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if before.is_some_and(|right| right.is(&mark).into()) {
            return true;
        }
        let Ok(turn) = self.turn.clone().acquire_owned().await else { return false };
        let password = password.to_vec();
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn; // also when the client hangs up meanwhile
            kept.is(&password)
        });
        let is_right = asked.await.unwrap_or(false);
        if is_right && self.known.contains_key(name) {
            self.right.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), mark);
        }
        is_right
    }
}

/// Of `Basic <base64 of name:password>`. The scheme is told by its letters, whatever their case (RFC 7617).
fn credentials(value: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, coded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let both = STANDARD.decode(coded.trim_ascii()).ok()?;
    let colon = both.iter().position(|byte| *byte == b':')?;
    Some((String::from_utf8(both[..colon].to_vec()).ok()?, both[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, password: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))).into_bytes()
    }

    #[actix::test]
    async fn a_name_with_its_password_is_let_in_by_name() {
        let hash = bcrypt::hash_with_salt("slow", 4, [7; 16]).expect("a hash").to_string();
        let texts = [&*format!("a:old\nslow:{hash}"), "a:secret\nb:p:w"];
        let basic = Arc::new(Basic::new(texts).expect("whole"));
        for (name, password, admitted) in [
            ("a", "secret", true),
            ("a", "old", false), // the later text counts
            ("b", "p:w", true),
            ("slow", "slow", true),
            ("slow", "slow", true), // by memory
            ("slow", "fast", false),
            ("c", "secret", false), // the first one's password, and a name nobody has
            ("", "", false),
        ] {
            let who = basic.clone().admits(&header(name, password)).await;
            assert_eq!(who, admitted.then(|| name.to_owned()), "{name} {password}");
        }
        let lower = String::from_utf8(header("a", "secret")).expect("ASCII").replace("Basic", "basic");
        assert!(basic.clone().admits(lower.as_bytes()).await.is_some());
        for garbage in [&b""[..], b"Basic", b"Basic ", b"Basic ***", b"Basic YQ==", b"Bearer YTpzZWNyZXQ="] {
            assert_eq!(basic.clone().admits(garbage).await, None, "{garbage:?}");
        }
        assert_eq!(basic.right.lock().expect("whole").len(), 1, "only what is slow is remembered");
    }
}
