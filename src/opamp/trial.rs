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
        let byte = |at: usize| u8::from_str_radix(self.hash.get(at..at + 2)?, 16).ok();
        (0..self.hash.len()).step_by(2).map(byte).collect::<Option<_>>().unwrap_or_default()
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

/// It was tried often enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoiled;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// In force after a start.
    proved: Option<Layer>,
    /// Tried, and not proved.
    trying: Option<Layer>,
    /// How often.
    tries: u32,
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

    /// What was tried last and did not prove itself.
    #[must_use]
    pub fn trying(&self) -> Option<&Layer> {
        self.trying.as_ref()
    }

    /// The one that was tried last is not to be tried again.
    #[must_use]
    pub fn is_spoiled(&self) -> bool {
        self.trying.is_some() && self.tries >= TRIES_MAX
    }

    /// This one is tried from now on.
    ///
    /// # Errors
    /// [`Spoiled`].
    pub fn begin(&mut self, layer: Layer) -> Result<(), Spoiled> {
        let is_known = self.trying.as_ref().is_some_and(|known| known.hash == layer.hash);
        if is_known && self.tries >= TRIES_MAX {
            return Err(Spoiled);
        }
        self.tries = if is_known { self.tries + 1 } else { 1 };
        self.trying = Some(layer);
        Ok(())
    }

    /// The one that is tried has proved itself.
    pub fn prove(&mut self) {
        if let Some(layer) = self.trying.take() {
            (self.proved, self.tries) = (Some(layer), 0);
        }
    }

    /// The one that is tried is not tried again.
    pub fn spoil(&mut self) {
        self.tries = TRIES_MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn layer(hash: u8, text: &str) -> Layer {
        Layer { hash: format!("{hash:02x}ff"), text: text.to_owned() }
    }

    /// Goal: one that ends the process three times is not tried a fourth time; one that proves itself counts from then on.
    #[test]
    fn three_starts_are_enough() {
        let mut trial = Trial::default();
        for _ in 0..TRIES_MAX {
            assert!(!trial.is_spoiled());
            assert_eq!(trial.begin(layer(1, "a")), Ok(()));
        }
        assert!(trial.is_spoiled() && trial.proved().is_none());
        assert_eq!(trial.begin(layer(1, "a")), Err(Spoiled));
        assert_eq!(trial.begin(layer(2, "b")), Ok(()));
        trial.prove();
        assert_eq!((trial.proved(), trial.trying()), (Some(&layer(2, "b")), None));
        trial.begin(layer(3, "c")).expect("it is new");
        trial.spoil();
        assert_eq!((trial.begin(layer(3, "c")), trial.proved()), (Err(Spoiled), Some(&layer(2, "b"))));
        assert_eq!(layer(2, "b").hash(), [2, 255]);
        assert_eq!(Layer { hash: "0g".to_owned(), text: String::new() }.hash(), Vec::<u8>::new());
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_not_whole_does_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("opamp-remote-config");
        assert_eq!(Trial::read(&path).expect("none"), Trial::default());
        let mut trial = Trial::default();
        trial.begin(layer(1, "{\"a\":\"é\"}")).expect("it is new");
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
