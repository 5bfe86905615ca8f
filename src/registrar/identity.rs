//! Who we are: one id for the life of an installation, and the file that keeps it.
//!
//! ```text
//! tfo-otel-agent identity 1 <16 hex: xxh3 of what follows>
//! {"agent_id":"tfo-agent-gw-7-3f9c01d2","origin":"derived","machine":"8c1f…"}
//! ```
//!
//! | configured | kept | machine | the id is |
//! |---|---|---|---|
//! | yes | | | the configured one; kept by another machine under the same id: a copy, which is told at every start |
//! | no | yes | the same, or nobody knows | the kept one |
//! | no | yes | another one | a copied image: a new one, and the former one is told to the platform |
//! | no | no, or damaged | | derived from the machine: the same again, as long as its name is |
//!
//! What always holds:
//! * An id of a platform whose answers anybody between could write counts until the process ends, and is not kept.
//! * The same machine comes to the same id without the file too, so a lost file costs nothing.
//! * The machine's id itself is told to nobody (machine-id(5) asks for that); only a digest of it is kept and shown.
//! * The file is replaced as a whole, and one that is not whole counts as none.
//! * What lies there and does not begin as ours does is somebody else's: it is neither read nor written over.

use super::answer::is_id;
use crate::base::Dice;
use crate::config::{replace_file, sealed, unsealed};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Where the id came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `registration.agent_id`.
    Configured,
    /// From the machine.
    Derived,
    /// From the platform.
    Given,
}

/// What the file keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The id.
    pub agent_id: String,
    /// Where it came from.
    pub origin: Origin,
    /// A digest of the machine's id; None: it had none.
    pub machine: Option<String>,
}

/// The machine, as far as an id is made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// A digest of its id, 16 hex digits; None: it has none, as many containers.
    pub digest: Option<String>,
    /// Its name.
    pub hostname: String,
}

impl Body {
    /// By the contents of `/etc/machine-id`, or what stands in its place.
    #[must_use]
    pub fn new(machine_id: &str, hostname: &str) -> Body {
        let id = machine_id.trim();
        // Images are shipped with an empty one, or with this word (machine-id(5)).
        let digest = (!id.is_empty() && id != "uninitialized").then(|| digest_of(id));
        Body { digest, hostname: hostname.to_owned() }
    }

    fn derive(&self, can_keep: bool, dice: &mut Dice) -> String {
        let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let host: String = self.hostname.chars().map(fits).take(HOST_MAX).collect();
        let end = match &self.digest {
            Some(digest) => Some(digest[..8].to_owned()),
            // Names are given out twice, so without an id of the machine it is drawn, if it can be kept.
            None => can_keep.then(|| format!("{:08x}", dice.within(0..1 << 32))),
        };
        let parts = [Some("tfo-agent".to_owned()), Some(host).filter(|host| !host.is_empty()), end];
        parts.into_iter().flatten().collect::<Vec<_>>().join("-")
    }
}

/// Most of a machine's name in an id, characters.
const HOST_MAX: usize = 64;

/// As machine-id(5) asks: keyed, so that it tells nothing of the id and is another one than any other program's.
fn digest_of(machine_id: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, machine_id.as_bytes());
    let tag = ring::hmac::sign(&key, b"tfo-otel-agent identity");
    tag.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What the file is to say, and what is in force but for `guest`.
    pub record: Record,
    /// The platform's id for us that is not to be believed for longer than this process.
    pub guest: Option<String>,
    /// The file is to be written.
    pub is_new: bool,
    /// The file came from another machine; under this id.
    pub copied_from: Option<String>,
}

impl Identity {
    /// By the table of the module.
    #[must_use]
    pub fn settle(
        configured: Option<&str>,
        kept: Option<Record>,
        body: &Body,
        can_keep: bool,
        dice: &mut Dice,
    ) -> Identity {
        let elsewhere =
            |record: &Record| record.machine.is_some() && body.digest.is_some() && record.machine != body.digest;
        let record = |agent_id: String, origin| Record { agent_id, origin, machine: body.digest.clone() };
        match (configured, kept) {
            (Some(id), Some(kept)) if kept.agent_id == id && elsewhere(&kept) => {
                // Not written: it is told until a person gives one of the two another id.
                Identity {
                    is_new: false,
                    guest: None,
                    copied_from: Some(id.to_owned()),
                    record: record(id.to_owned(), Origin::Configured),
                }
            }
            (Some(id), kept) => {
                let record = record(id.to_owned(), Origin::Configured);
                Identity { is_new: kept.as_ref() != Some(&record), guest: None, copied_from: None, record }
            }
            (None, Some(kept)) if elsewhere(&kept) => Identity {
                record: record(body.derive(can_keep, dice), Origin::Derived),
                guest: None,
                is_new: true,
                copied_from: Some(kept.agent_id),
            },
            (None, Some(kept)) => {
                let record = Record { machine: body.digest.clone().or_else(|| kept.machine.clone()), ..kept.clone() };
                Identity { is_new: record != kept, guest: None, copied_from: None, record }
            }
            (None, None) => Identity {
                record: record(body.derive(can_keep, dice), Origin::Derived),
                guest: None,
                is_new: true,
                copied_from: None,
            },
        }
    }

    /// Another agent has the same id, and nothing but a person can change that.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.copied_from.as_ref() == Some(&self.record.agent_id)
    }

    /// The id by which we speak.
    #[must_use]
    pub fn agent_id(&self) -> &str {
        self.guest.as_deref().unwrap_or(&self.record.agent_id)
    }

    /// The platform knows us under this id, for good if it `is_trusted`. True when that is another one than before.
    pub fn take_over(&mut self, id: &str, is_trusted: bool) -> bool {
        if self.agent_id() == id {
            return false;
        }
        self.guest = (!is_trusted && self.record.agent_id != id).then(|| id.to_owned());
        if self.agent_id() == id {
            return true;
        }
        // What the operator wrote is asked for again by the next life, so that taking it out is not needed to be heard.
        self.is_new = self.record.origin != Origin::Configured;
        self.record.agent_id = id.to_owned();
        self.record.origin = if self.is_new { Origin::Given } else { Origin::Configured };
        true
    }
}

const HEAD: &str = "tfo-otel-agent identity 1 ";
/// How all of ours begin, of whatever version.
const OURS: &[u8] = b"tfo-otel-agent identity ";
/// Longest file that is read: an id, an origin, a digest.
const SIZE_MAX: u64 = 1_024;

impl Record {
    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// It is there and cannot be read, or is not whole.
    pub fn read(path: &Path) -> io::Result<Option<Record>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
        unpack(&bytes).map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not whole"))
    }

    /// Whether a file of ours may be written there.
    ///
    /// # Errors
    /// Something lies there, or where it is written first, that is not ours, or that nobody can tell to be.
    pub fn may_be_at(path: &Path) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        is_ours(path)?;
        is_ours(Path::new(&beside))
    }

    /// Writes the file; false when it says so already.
    ///
    /// # Errors
    /// The disk's; and what [`Record::may_be_at`] says.
    pub fn keep(&self, path: &Path) -> io::Result<bool> {
        Record::may_be_at(path)?;
        replace_file(path, &self.pack()?)
    }

    fn pack(&self) -> io::Result<Vec<u8>> {
        let json = serde_json::to_string(self)? + "\n";
        Ok(sealed(HEAD, json.as_bytes()))
    }
}

/// A file that a power cut left short is ours too, and so is an empty one.
fn is_ours(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut start = Vec::new();
    file.take(OURS.len() as u64).read_to_end(&mut start)?;
    let other = || io::Error::new(io::ErrorKind::AlreadyExists, "it is no identity of an agent");
    OURS.starts_with(&start).then_some(()).ok_or_else(other)
}

fn unpack(bytes: &[u8]) -> Option<Record> {
    let record: Record = serde_json::from_slice(unsealed(HEAD, bytes)?).ok()?;
    is_id(&record.agent_id).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn body(machine: &str) -> Body {
        Body::new(machine, "gw-7")
    }

    fn settle(configured: Option<&str>, kept: Option<&Identity>, body: &Body) -> Identity {
        Identity::settle(configured, kept.map(|kept| kept.record.clone()), body, true, &mut Dice::seeded(1))
    }

    /// The table of the module.
    #[test]
    fn an_installation_keeps_its_id_and_a_copy_gets_its_own() {
        let (here, there) = (body("8d2c"), body("77aa"));
        let first = settle(None, None, &here);
        assert!(first.is_new && first.copied_from.is_none() && is_id(&first.record.agent_id), "{first:?}");
        assert!(first.record.agent_id.starts_with("tfo-agent-gw-7-"));
        // The same machine: another name, a reinstalled binary, a lost file.
        let renamed = Body { hostname: "other".to_owned(), ..here.clone() };
        assert_eq!(settle(None, Some(&first), &renamed), Identity { is_new: false, ..first.clone() });
        assert_eq!(settle(None, None, &here).record, first.record);
        // Another machine with the same card.
        let copy = settle(None, Some(&first), &there);
        assert_eq!(copy.copied_from.as_ref(), Some(&first.record.agent_id));
        assert!(copy.is_new && !copy.is_shared() && copy.record.agent_id != first.record.agent_id, "{copy:?}");
        assert_eq!(settle(None, Some(&copy), &there).copied_from, None, "it is told once");
        // A configured id is the operator's: it stays, and the copy is told until somebody acts.
        let mine = settle(Some("gw-7"), Some(&first), &here);
        assert_eq!((mine.record.agent_id.as_str(), mine.is_new, mine.is_shared()), ("gw-7", true, false));
        let shared = settle(Some("gw-7"), Some(&mine), &there);
        assert!(shared.is_shared() && !shared.is_new, "{shared:?}");
        assert_eq!(settle(None, Some(&mine), &here).record.agent_id, "gw-7", "taken out again, it is the same agent");
    }

    #[test]
    fn a_machine_without_an_id_draws_one_if_it_can_be_kept() {
        for nothing in ["", "\n", "uninitialized\n"] {
            let bare = Body::new(nothing, "gw 7/ä");
            let mut dice = Dice::seeded(1);
            let mut derive = |can_keep| Identity::settle(None, None, &bare, can_keep, &mut dice).record.agent_id;
            assert_eq!(derive(false), "tfo-agent-gw-7--");
            assert_ne!(derive(true), derive(true));
            // And what was kept counts, whatever the machine.
            let kept = settle(None, None, &bare);
            assert_eq!(settle(None, Some(&kept), &body("8d2c")).record.agent_id, kept.record.agent_id);
        }
        let digest = body("8d2c").digest.expect("it has an id");
        assert!(digest.len() == 16 && !digest.contains("8d2c"), "{digest}");
    }

    #[test]
    fn an_id_of_the_platform_is_kept_unless_the_operator_wrote_one() {
        let here = body("8d2c");
        let mut derived = settle(None, None, &here);
        assert!(derived.take_over("p-1", true) && derived.is_new && derived.record.origin == Origin::Given);
        assert!(!derived.take_over("p-1", true));
        assert_eq!(settle(None, Some(&derived), &here).record.agent_id, "p-1");
        let mut configured = settle(Some("gw-7"), None, &here);
        assert!(configured.take_over("p-1", true) && !configured.is_new);
        assert_eq!(configured.record.agent_id, "p-1");
    }

    /// Goal: who stands between us and a platform can rename us until we start again, and no longer.
    #[test]
    fn an_id_of_whoever_answers_is_a_guest() {
        let here = body("8d2c");
        let first = settle(None, None, &here);
        let mut renamed = first.clone();
        assert!(renamed.take_over("p-1", false) && !renamed.take_over("p-1", false));
        assert_eq!((renamed.agent_id(), &renamed.record, renamed.is_new), ("p-1", &first.record, first.is_new));
        assert!(renamed.take_over(&first.record.agent_id, false));
        assert_eq!(renamed, first, "its own again");
        assert!(renamed.take_over("p-2", false) && renamed.take_over("p-3", true));
        assert_eq!((renamed.agent_id(), renamed.record.agent_id.as_str(), renamed.is_new), ("p-3", "p-3", true));
    }

    #[test]
    fn the_file_is_whole_or_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("agent-identity");
        assert_eq!(Record::read(&path).expect("there is none"), None);
        let record = settle(None, None, &body("8d2c")).record;
        assert!(record.keep(&path).expect("space") && !record.keep(&path).expect("space"));
        assert_eq!(Record::read(&path).expect("it is whole"), Some(record.clone()));
        let whole = fs::read(&path).expect("it is there");
        for cut in 0..whole.len() {
            assert_eq!(unpack(&whole[..cut]), None, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            assert!(unpack(&bent).is_none_or(|found| found == record), "bent at {at}"); // the case of a hex digit says nothing
        }
        fs::write(&path, &whole[..20]).expect("space");
        assert!(Record::read(&path).is_err());
        assert!(record.keep(&path).expect("a short one of ours is written anew"));
    }

    /// Goal: a wrong `identity_file` costs nobody's file, nor does one beside it.
    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (path, record) = (dir.path().join("passwd"), settle(None, None, &body("8d2c")).record);
        let beside = dir.path().join("passwd.new");
        for (name, theirs) in
            [(&path, &b"root:x:0:0"[..]), (&path, b"t"), (&path, b"tfo-otel-agent:x:7"), (&beside, b"x")]
        {
            let is_short = OURS.starts_with(theirs);
            fs::write(name, theirs).expect("space");
            assert_eq!(Record::may_be_at(&path).is_ok(), is_short, "{theirs:?}");
            assert_eq!(record.keep(&path).is_ok(), is_short, "{theirs:?}");
            assert_eq!(fs::read(name).expect("it is there") == theirs, !is_short, "{theirs:?}");
            fs::remove_file(name).expect("it is there");
        }
        assert!(record.keep(dir.path()).is_err(), "a directory");
        assert!(record.keep(&path).expect("nothing is in the way"));
        fs::write(&path, b"tfo-otel-agent identity 2 of a later version").expect("space");
        assert!(record.keep(&path).expect("it is ours"));
    }
}
