//! Names and passwords a server takes.
//!
//! ```text
//! proven before, or wrong before? ── yes ─▶ at once
//!   └─ no ─▶ a place among those of this name? ── no ─▶ Busy: come back
//!              └─ yes ─▶ its turn (one bcrypt at a time) ─▶ right: remembered · wrong: remembered, a few of them
//! ```
//!
//! A name has [`PLACES`] places, and all names that nobody has share as many. So a flood of guesses costs one thread, and
//! whoever has another name waits at most for [`PLACES`] of each name before him. That somebody who probes a name many
//! times at once can learn whether it is anybody's is the price: made-up names must not keep real ones waiting.

use super::Mark;
use super::config::HtpasswdConfig;
use super::htpasswd::{self, BadLine, Kept};
use super::watched::Watched;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};
use tokio::sync::Semaphore;

/// Passwords of one name that wait for bcrypt or are with it. A client that opens some connections at once needs as many.
const PLACES: usize = 4;
/// Wrong passwords that are remembered, so that a client which goes on sending one costs nothing. Few: who guesses never
/// sends one twice.
const WRONG_MAX: usize = 64;

/// See the module.
pub struct Basic {
    inline: String,
    now: Mutex<Now>,
    /// bcrypt of one client at a time: who guesses shall not have all the CPU.
    turn: Arc<Semaphore>,
    /// Of this process: what is remembered is of no use elsewhere.
    key: hmac::Key,
}

struct Now {
    known: BTreeMap<String, Kept>,
    file: Option<Watched>,
    /// A password that was right, for each name; under the key. Only what is slow to ask is remembered.
    right: BTreeMap<String, Mark>,
    /// Names with passwords that were wrong, the newest last.
    wrong: VecDeque<Mark>,
    /// By name; `None` for all that nobody has.
    waiting: BTreeMap<Option<String>, usize>,
}

/// So many guess at this name that there is no place for one more: not a no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many credentials are being checked")]
pub struct Busy;

/// Why there is nobody to let in.
#[derive(Debug, thiserror::Error)]
pub enum NoNames {
    /// The file cannot be read.
    #[error("htpasswd.file: {0}")]
    File(#[from] io::Error),
    /// What it says, or `inline`, is of no use.
    #[error("htpasswd: {0}")]
    Line(#[from] BadLine),
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Basic").field("names", &self.now().known.len()).finish_non_exhaustive()
    }
}

/// One of the places of a name, until it is dropped.
struct Place {
    basic: Arc<Basic>,
    of: Option<String>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut now = self.basic.now();
        if let Some(waiting) = now.waiting.get_mut(&self.of) {
            *waiting -= 1;
            if *waiting == 0 {
                now.waiting.remove(&self.of);
            }
        }
    }
}

impl Basic {
    /// By the file and what stands in the section; where a name stands in both, the latter counts.
    ///
    /// # Errors
    /// See [`NoNames`].
    pub fn new(config: &HtpasswdConfig) -> Result<Basic, NoNames> {
        let inline = config.inline.as_ref().map_or("", |inline| inline.reveal()).to_owned();
        let (file, text) = config.file.as_ref().map(|path| Watched::read(path)).unzip();
        let known = names(text.transpose()?.as_deref(), &inline)?;
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the kernel has random bytes");
        let now = Now { known, file, right: BTreeMap::new(), wrong: VecDeque::new(), waiting: BTreeMap::new() };
        Ok(Basic { inline, now: Mutex::new(now), turn: Arc::new(Semaphore::new(1)), key })
    }

    /// The name of the one whose name and password the header's value has; `None`: nobody's.
    ///
    /// # Errors
    /// [`Busy`], which says nothing of the credentials.
    pub async fn admits(self: Arc<Basic>, value: &[u8]) -> Result<Option<String>, Busy> {
        let Some((name, password)) = credentials(value) else { return Ok(None) };
        let (kept, is_known) = {
            let mut now = self.now();
            self.look_again(&mut now);
            let found = now.known.get(&name);
            // A name nobody has costs what the slowest kind costs that anybody has.
            let slow = || now.known.values().find(|kept| matches!(kept, Kept::Bcrypt(_)));
            let Some(kept) = found.or_else(slow).or_else(|| now.known.values().next()) else { return Ok(None) };
            (kept.clone(), found.is_some())
        };
        let is_right = match &kept {
            Kept::Bcrypt(_) => self.is_right(&name, is_known, password, kept).await?,
            Kept::Sha { .. } | Kept::Plain(_) => kept.is(&password),
        };
        Ok((is_right && is_known).then_some(name))
    }

    async fn is_right(
        self: &Arc<Basic>,
        name: &str,
        is_known: bool,
        password: Vec<u8>,
        kept: Kept,
    ) -> Result<bool, Busy> {
        let mark = self.mark(name, &password);
        if let Some(is_right) = self.now().remembers(name, &mark) {
            return Ok(is_right);
        }
        let place = self.place(is_known.then(|| name.to_owned()))?;
        let Ok(turn) = self.turn.clone().acquire_owned().await else { return Err(Busy) };
        // Somebody before us may have asked the same.
        if let Some(is_right) = self.now().remembers(name, &mark) {
            return Ok(is_right);
        }
        let (basic, name) = (self.clone(), name.to_owned());
        // Turn and place go along: whoever hangs up meanwhile frees neither for the next guess.
        let checked = tokio::task::spawn_blocking(move || {
            let is_right = kept.is(&password);
            basic.now().learn(name, &kept, mark, is_right);
            drop((turn, place));
            is_right
        });
        Ok(checked.await.unwrap_or(false))
    }

    fn place(self: &Arc<Basic>, of: Option<String>) -> Result<Place, Busy> {
        let mut now = self.now();
        let waiting = now.waiting.entry(of.clone()).or_default();
        if *waiting >= PLACES {
            return Err(Busy);
        }
        *waiting += 1;
        drop(now);
        Ok(Place { basic: self.clone(), of })
    }

    fn mark(&self, name: &str, password: &[u8]) -> Mark {
        // No name has a colon.
        Mark::of(hmac::sign(&self.key, &[name.as_bytes(), b":", password].concat()).as_ref())
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever was proven by a line that is the same in the new file stays so.
    fn look_again(&self, now: &mut Now) {
        let Some(file) = &mut now.file else { return };
        let Some(news) = file.news() else { return };
        let path = file.path().display();
        match news.map_err(NoNames::from).and_then(|text| Ok(names(Some(&text), &self.inline)?)) {
            Ok(known) => {
                tracing::info!(file = %path, names = known.len(), "names and passwords were read again");
                now.right.retain(|name, _| known.contains_key(name) && known.get(name) == now.known.get(name));
                now.wrong.clear();
                now.known = known;
            }
            Err(reason) => {
                tracing::error!(%reason, file = %path, "new names and passwords cannot be used; those of before count");
            }
        }
    }
}

impl Now {
    /// Whether this was right or wrong before; `None`: nobody knows.
    fn remembers(&self, name: &str, mark: &Mark) -> Option<bool> {
        if self.right.get(name).is_some_and(|right| right.is(mark).into()) {
            return Some(true);
        }
        let wrong = self.wrong.iter().fold(subtle::Choice::from(0), |found, wrong| found | wrong.is(mark));
        bool::from(wrong).then_some(false)
    }

    fn learn(&mut self, name: String, kept: &Kept, mark: Mark, is_right: bool) {
        let is_still = self.known.get(&name).is_some_and(|known| known == kept);
        match is_right {
            true if is_still => drop(self.right.insert(name, mark)),
            false if is_still || !self.known.contains_key(&name) => {
                if self.wrong.len() == WRONG_MAX {
                    self.wrong.pop_front();
                }
                self.wrong.push_back(mark);
            }
            // The file has changed since, or nobody has this name.
            _ => {}
        }
    }
}

fn names(file: Option<&str>, inline: &str) -> Result<BTreeMap<String, Kept>, BadLine> {
    let mut known = BTreeMap::new();
    for text in file.into_iter().chain(Some(inline).filter(|inline| !inline.is_empty())) {
        known.extend(htpasswd::parse(text)?);
    }
    Ok(known)
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

    fn basic(inline: &str, file: Option<&std::path::Path>) -> Arc<Basic> {
        let config = HtpasswdConfig {
            file: file.map(ToOwned::to_owned),
            inline: (!inline.is_empty()).then(|| crate::config::Secret::new(inline)),
        };
        Arc::new(Basic::new(&config).expect("whole"))
    }

    fn hashed(password: &str, cost: u32) -> String {
        bcrypt::hash_with_salt(password, cost, [7; 16]).expect("a hash").to_string()
    }

    #[actix::test]
    async fn a_name_with_its_password_is_let_in_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("htpasswd");
        std::fs::write(&file, format!("a:old\nslow:{}", hashed("slow", 4))).expect("written");
        let basic = basic("a:secret\nb:p:w", Some(&file));
        for (name, password, admitted) in [
            ("a", "secret", true),
            ("a", "old", false), // what stands in the section counts
            ("b", "p:w", true),
            ("slow", "slow", true),
            ("slow", "slow", true), // by memory
            ("slow", "fast", false),
            ("slow", "fast", false), // by memory
            ("slow", "slow", true),
            ("c", "secret", false), // a name nobody has costs what the slow ones cost
            ("", "", false),
        ] {
            let who = basic.clone().admits(&header(name, password)).await;
            assert_eq!(who, Ok(admitted.then(|| name.to_owned())), "{name} {password}");
        }
        let lower = String::from_utf8(header("a", "secret")).expect("ASCII").replace("Basic", "basic");
        assert!(basic.clone().admits(lower.as_bytes()).await.is_ok_and(|who| who.is_some()));
        for garbage in [&b""[..], b"Basic", b"Basic ", b"Basic ***", b"Basic YQ==", b"Bearer YTpzWNyZXQ="] {
            assert_eq!(basic.clone().admits(garbage).await, Ok(None), "{garbage:?}");
        }
        let now = basic.now();
        assert_eq!((now.right.len(), now.wrong.len()), (1, 3), "what is slow, names nobody has included, and once");
    }

    /// Goal: whoever guesses keeps nobody out but himself: who was proven is let in at once, who has another name after a
    /// few turns, and what cannot be asked now is not taken for wrong. What is remembered has an end.
    #[actix::test]
    async fn a_flood_of_guesses_does_not_stop_those_who_know() {
        // Slow enough that the flood is here before the first is through.
        let (a, b) = (hashed("right a", 8), hashed("right b", 8));
        let basic = basic(&format!("a:{a}\nb:{b}"), None);
        let ask = |name: &str, password: &str| {
            let (basic, value) = (basic.clone(), header(name, password));
            actix_rt::spawn(async move { basic.admits(&value).await })
        };
        assert_eq!(ask("a", "right a").await.expect("not aborted"), Ok(Some("a".to_owned())));
        let mine: Vec<_> = (0..40).map(|n| ask("a", &format!("guess {n}"))).collect();
        let nobodys: Vec<_> = (0..40).map(|n| ask(&format!("x{n}"), "guess")).collect();
        tokio::task::yield_now().await;
        let begun = std::time::Instant::now();
        assert_eq!(ask("a", "right a").await.expect("not aborted"), Ok(Some("a".to_owned())), "by memory");
        assert_eq!(basic.turn.available_permits(), 0, "while the others wait: {:?}", begun.elapsed());
        assert_eq!(ask("b", "right b").await.expect("not aborted"), Ok(Some("b".to_owned())), "in its turn");
        for flood in [mine, nobodys] {
            let mut outcomes = Vec::new();
            for guess in flood {
                outcomes.push(guess.await.expect("not aborted"));
            }
            let (no, busy) = (outcomes.iter().filter(|it| **it == Ok(None)).count(), Err(Busy));
            assert_eq!((no, outcomes.iter().filter(|it| **it == busy).count()), (PLACES, 40 - PLACES));
        }
        let mut now = basic.now();
        assert!(now.waiting.is_empty(), "{:?}", now.waiting);
        for n in 0..100 {
            let (known, mark) = (now.known["a"].clone(), basic.mark("a", format!("{n}").as_bytes()));
            now.learn("a".to_owned(), &known, mark, false);
        }
        assert_eq!(now.wrong.len(), WRONG_MAX);
    }

    /// Goal: a client that hangs up while bcrypt works for it does not make room for the next guess.
    #[actix::test]
    async fn whoever_hangs_up_frees_neither_turn_nor_place() {
        let basic = basic(&format!("a:{}", hashed("right", 9)), None);
        let (asked, value) = (basic.clone(), header("a", "wrong"));
        let client = actix_rt::spawn(async move { asked.admits(&value).await });
        tokio::task::yield_now().await;
        client.abort();
        tokio::task::yield_now().await;
        let held = || (basic.turn.available_permits(), basic.now().waiting.len());
        assert_eq!(held(), (0, 1));
        while held() != (1, 0) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(basic.now().wrong.len(), 1, "what was asked is known");
    }

    /// Goal: a file that is changed counts without a restart; one that is broken or gone changes nothing; whoever is in it as
    /// before need not be proven again, and whoever is not any more is out.
    #[actix::test]
    async fn a_file_is_read_again_and_a_broken_one_changes_nothing() {
        tokio::time::pause();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("htpasswd");
        let (kept, changed) = (hashed("kept", 4), hashed("changed", 4));
        std::fs::write(&path, format!("k:{kept}\nc:{kept}\ngone:x")).expect("written");
        let basic = basic("i:inline", Some(&path));
        let admits = |name: &'static str, password: &'static str| {
            let (basic, value) = (basic.clone(), header(name, password));
            async move { basic.admits(&value).await.expect("a place").is_some() }
        };
        assert!(admits("k", "kept").await && admits("c", "kept").await && admits("gone", "x").await);
        std::fs::write(&path, format!("k:{kept}\nc:{changed}\nnew:y")).expect("written");
        assert!(admits("gone", "x").await, "not looked at yet");
        tokio::time::advance(super::super::watched::EVERY).await;
        assert!(!admits("gone", "x").await && admits("new", "y").await && admits("i", "inline").await);
        assert_eq!(basic.now().right.keys().collect::<Vec<_>>(), ["k"]);
        assert!(!admits("c", "kept").await && admits("c", "changed").await && admits("k", "kept").await);
        for broken in [Some("k:$apr1$x$y"), Some(""), None] {
            match broken {
                Some(text) => std::fs::write(&path, text).expect("written"),
                None => std::fs::remove_file(&path).expect("removed"),
            }
            tokio::time::advance(super::super::watched::EVERY).await;
            assert!(admits("new", "y").await && admits("c", "changed").await, "{broken:?}");
        }
    }
}
