//! The last configuration that was put into service, on disk: what an agent runs by when the one it is given is wrong, and
//! nobody is there to mend it.
//!
//! ```text
//! tfo-otel-agent last good configuration 1 <16 hex: xxh3 of what follows>
//! {"sources":[{"name":"/etc/…/agent.yaml","form":"yaml","text":"…"}],"sets":["…"]}
//! ```
//!
//! What always holds:
//! * It holds the sources as they were given, so no secret that a reference leads to; and it is its owner's alone (0600).
//! * It is replaced as a whole: a power cut leaves the one before or this one.
//! * What is not whole is not used, and said.

use super::plan::{Config, Outcome, read_given};
use crate::config::{Given, Host, replace_file};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const HEAD: &str = "tfo-otel-agent last good configuration 1 ";
/// Largest file that is read: sixteen sources of the largest size, each letter written as six.
const SIZE_MAX: u64 = 6 * 16 * crate::config::FILE_MAX as u64;

/// Why there is none to run by.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is none, or the disk does not give it.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Something happened to it.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It was good; what it names is not there any more, or this build is another one.
    #[error("it is not good any more:\n{0}")]
    NotGood(String),
}

/// Where it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastGood(PathBuf);

impl LastGood {
    /// In this file (`--last-good`).
    #[must_use]
    pub fn at(path: PathBuf) -> LastGood {
        LastGood(path)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads it as a configuration. What it refers to (variables, files) is what it is now.
    ///
    /// # Errors
    /// See [`Unusable`].
    pub fn read(&self, host: &dyn Host) -> Result<(Config, Outcome), Unusable> {
        let mut bytes = Vec::new();
        File::open(&self.0)?.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
        let given = unpack(&bytes).map_err(Unusable::Damaged)?;
        let mut outcome = read_given(&given, host);
        let config = outcome.config.take().ok_or_else(|| Unusable::NotGood(outcome.report.to_string()))?;
        Ok((config, outcome))
    }

    /// Keeps this one from now on, on stable storage; false when it is there already.
    ///
    /// # Errors
    /// The disk's. The one before is there then, or this one.
    pub fn keep(&self, given: &Given) -> io::Result<bool> {
        replace_file(&self.0, &pack(given)?)
    }
}

fn pack(given: &Given) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(given)?;
    let mut bytes = format!("{HEAD}{:016x}\n", xxh3_64(&json)).into_bytes();
    bytes.extend_from_slice(&json);
    Ok(bytes)
}

fn unpack(bytes: &[u8]) -> Result<Given, String> {
    let rest = bytes.strip_prefix(HEAD.as_bytes()).ok_or("it does not begin as one that this agent wrote")?;
    let (sum, json) = rest.split_at_checked(17).ok_or("it ends too early")?;
    let sum = std::str::from_utf8(sum.trim_ascii_end()).ok().and_then(|sum| u64::from_str_radix(sum, 16).ok());
    if sum != Some(xxh3_64(json)) {
        return Err("its checksum is another one".to_owned());
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Form, Source};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn given(text: &str) -> Given {
        let source = |name: &str, form, text: &str| Source { name: name.to_owned(), form, text: text.to_owned() };
        let sources = vec![source("a.yaml", Form::Yaml, text), source("b.toml", Form::Toml, "a = \"${env:SECRET}\"")];
        Given { sources, sets: vec!["x.y=1".to_owned()] }
    }

    #[test]
    fn what_is_kept_comes_back_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kept = LastGood::at(dir.path().join("last-good"));
        fs::write(dir.path().join("last-good.new"), "of an earlier life").expect("space");
        for text in ["one: 1", "one: 1", "two: \"é\"\n", "two: \"é\"\n"] {
            let known = fs::read(kept.path()).is_ok_and(|bytes| unpack(&bytes) == Ok(given(text)));
            assert_eq!(kept.keep(&given(text)).expect("space"), !known, "{text}");
            let bytes = fs::read(kept.path()).expect("kept");
            assert_eq!(unpack(&bytes), Ok(given(text)));
        }
        assert_eq!(fs::metadata(kept.path()).expect("kept").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("ours").count(), 1, "nothing is left behind");
        assert!(LastGood::at(dir.path().join("gone/last-good")).keep(&given("")).is_err());
    }

    #[test]
    fn whatever_happened_to_the_file_it_is_used_whole_or_not_at_all() {
        let whole = pack(&given("one: 1")).expect("texts");
        for cut in 0..whole.len() {
            assert!(unpack(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            // The case of a hex digit and the blank behind the sum say nothing.
            assert!(unpack(&bent).map_or(true, |found| found == given("one: 1")), "bent at {at}");
        }
        for (other, why) in
            [(&b""[..], "does not begin"), (b"receivers: {}", "does not begin"), (&whole[..45], "ends too early")]
        {
            assert!(unpack(other).is_err_and(|told| told.contains(why)), "{why}");
        }
    }
}
