//! Which configuration of a server counts over restarts, and the file that says so (`opamp-remote-config`).
//!
//! ```text
//!  offered ─▶ trying ─ nothing fell, and it was heard, for a while ─▶ proved ─▶ in force after every start
//!                └─ a restart, before it had proved itself ─▶ the proved one is in force; it may try again, three times in all
//!                └─ a post of the agent fell under it ─▶ spoiled: not again
//! ```
//!
//! What always holds:
//! * It is on stable storage that one is tried before it is carried out: one that ends the process is not in force after the start.
//! * A file that is not whole is not used.

use super::messages::{AgentConfigFile, AgentConfigMap};
use super::overlay::Overlay;
use crate::config::{replace_file, sealed, unsealed};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

const HEAD: &str = "tfo-otel-agent opamp remote configuration 1 ";
/// Largest file that is read: two overlays, of which each came in an answer of 64 KiB.
const SIZE_MAX: u64 = 1024 * 1024;
/// Starts under a configuration that did not prove itself.
pub const TRIES_MAX: u32 = 3;
/// Configurations of which it is known how often they were tried.
const TRIED_MAX: usize = 8;

/// A configuration of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// By which the server knows it, in hexadecimal digits.
    hash: String,
    /// [`Overlay::text`].
    pub text: String,
}

impl Layer {
    /// Of an overlay.
    #[must_use]
    pub fn new(hash: &[u8], overlay: &Overlay) -> Layer {
        Layer { hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(), text: overlay.text() }
    }

    /// By which the server knows it; empty when something happened to it.
    #[must_use]
    pub fn hash(&self) -> Vec<u8> {
        bytes_of(&self.hash)
    }

    /// What it sets: it is read as if it came from a server again, for the list may be another one since.
    ///
    /// # Errors
    /// As [`Overlay::read`].
    pub fn overlay(&self) -> Result<Overlay, String> {
        let file = AgentConfigFile { body: Bytes::copy_from_slice(self.text.as_bytes()), content_type: String::new() };
        Overlay::read(&AgentConfigMap { config_map: BTreeMap::from([(String::new(), file)]) })
    }
}

fn bytes_of(digits: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(byte).collect::<Option<_>>().unwrap_or_default()
}

/// It was tried often enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoiled;

/// How often one was tried that has not proved itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tried {
    hash: String,
    times: u32,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// In force after a start.
    proved: Option<Layer>,
    /// The last ones that were tried, the last one last.
    tried: Vec<Tried>,
}

impl Trial {
    /// Reads the file; none where there is none.
    ///
    /// # Errors
    /// The disk's, and `InvalidData` for what is not whole.
    pub fn read(path: &Path) -> io::Result<Trial> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(SIZE_MAX).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Trial::default()),
            Err(error) => return Err(error),
        };
        let trial = unsealed(HEAD, &bytes).and_then(|text| serde_json::from_slice(text).ok());
        trial.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not whole"))
    }

    /// Writes the file, as a whole and on stable storage.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, path: &Path) -> io::Result<()> {
        let json = serde_json::to_string(self)? + "\n";
        replace_file(path, &sealed(HEAD, json.as_bytes())).map(drop)
    }

    /// What is in force after a start.
    #[must_use]
    pub fn proved(&self) -> Option<&Layer> {
        self.proved.as_ref()
    }

    /// The hash of the one that was tried last, if it is not to be tried again.
    #[must_use]
    pub fn spoiled(&self) -> Option<Vec<u8>> {
        self.tried.last().filter(|tried| tried.times >= TRIES_MAX).map(|tried| bytes_of(&tried.hash))
    }

    /// This one is tried from now on.
    ///
    /// # Errors
    /// [`Spoiled`].
    pub fn begin(&mut self, layer: &Layer) -> Result<(), Spoiled> {
        let times = self.tried.iter().find(|known| known.hash == layer.hash).map_or(0, |known| known.times);
        if times >= TRIES_MAX {
            return Err(Spoiled);
        }
        self.enter(layer, times + 1);
        Ok(())
    }

    fn enter(&mut self, layer: &Layer, times: u32) {
        self.tried.retain(|known| known.hash != layer.hash);
        self.tried.push(Tried { hash: layer.hash.clone(), times });
        self.tried.drain(..self.tried.len().saturating_sub(TRIED_MAX));
    }

    /// This one has proved itself.
    pub fn prove(&mut self, layer: &Layer) {
        self.tried.retain(|known| known.hash != layer.hash);
        self.proved = Some(layer.clone());
    }

    /// This one is not tried again.
    pub fn spoil(&mut self, layer: &Layer) {
        self.enter(layer, TRIES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn layer(hash: u8, text: &str) -> Layer {
        Layer { hash: format!("{hash:02x}ff"), text: text.to_owned() }
    }

    /// Goal: one that ends the process three times is not tried a fourth time, also not after others; one that proves itself counts
    /// from then on.
    #[test]
    fn three_starts_are_enough() {
        let mut trial = Trial::default();
        for _ in 0..TRIES_MAX {
            assert!(trial.spoiled().is_none());
            assert_eq!(trial.begin(&layer(1, "a")), Ok(()));
            if trial.spoiled().is_none() {
                trial.begin(&layer(9, "another")).expect("it was tried less often");
                trial.prove(&layer(9, "another"));
            }
        }
        assert_eq!(trial.spoiled(), Some(vec![1, 255]));
        assert_eq!(trial.begin(&layer(1, "a")), Err(Spoiled));
        assert_eq!(trial.begin(&layer(2, "b")), Ok(()));
        assert!(trial.spoiled().is_none());
        trial.prove(&layer(2, "b"));
        assert_eq!(trial.proved(), Some(&layer(2, "b")));
        assert_eq!(trial.begin(&layer(1, "a")), Err(Spoiled));
        trial.spoil(&layer(3, "c"));
        assert_eq!((trial.begin(&layer(3, "c")), trial.proved()), (Err(Spoiled), Some(&layer(2, "b"))));
        for other in 10..30 {
            trial.begin(&layer(other, "")).expect("it is new");
        }
        assert_eq!(trial.tried.len(), TRIED_MAX);
        assert_eq!(layer(2, "b").hash(), [2, 255]);
        assert_eq!(Layer { hash: "0g".to_owned(), text: String::new() }.hash(), Vec::<u8>::new());
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_not_whole_does_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("opamp-remote-config");
        assert_eq!(Trial::read(&path).expect("none"), Trial::default());
        let mut trial = Trial::default();
        trial.begin(&layer(1, "a")).expect("it is new");
        trial.prove(&layer(2, "{\"a\":\"é\"}"));
        trial.keep(&path).expect("space");
        assert_eq!(Trial::read(&path).expect("kept"), trial);
        let whole = fs::read(&path).expect("kept");
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            fs::write(&path, &bent).expect("space");
            assert!(Trial::read(&path).map_or(true, |read| read == trial), "bent at {at}");
            fs::write(&path, &whole[..at]).expect("space");
            assert!(Trial::read(&path).is_err(), "cut at {at}");
        }
        fs::remove_file(&path).expect("it is there");
        fs::create_dir(&path).expect("space");
        assert!(Trial::read(&path).is_err());
    }
}
