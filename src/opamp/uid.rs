//! The instance uid: 16 bytes by which a server knows this agent, and the file that keeps them.
//!
//! ```text
//! tfo-otel-agent opamp 1 <16 hex: xxh3 of what follows>
//! {"instance_uid":"0193c1a2-…","machine":"8c1f…"}
//! ```
//!
//! | configured | file | the uid is |
//! |---|---|---|
//! | yes | | the configured one; nothing is written |
//! | no | of this machine, or nobody knows | the kept one |
//! | no | of another machine: a copied image | a new one |
//! | no | none, and one can be | a new one: version 7 of RFC 9562, the time and 74 bits of chance |
//! | no | none, and none can be | made of machine-id, so the same at every start: version 8; without machine-id drawn at each start |
//!
//! What always holds: a uid of a server whose answers anybody between could write counts until the process ends and is not kept,
//! and one beside a configured one neither.

use crate::base::{Dice, Stamp};
use crate::config::{replace_file, sealed, unsealed};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// 16 bytes, written as a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uid([u8; 16]);

impl Uid {
    /// `0193c1a2-7b4e-7c3d-9f10-2a6b8c4d5e6f`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Uid> {
        let is_in_place = |(n, c): (usize, u8)| if matches!(n, 8 | 13 | 18 | 23) { c == b'-' } else { c != b'-' };
        if text.len() != 36 || !text.bytes().enumerate().all(is_in_place) {
            return None;
        }
        let digits = text.replace('-', "");
        // A sign would be read as part of a number.
        let number =
            digits.bytes().all(|c| c.is_ascii_hexdigit()).then(|| u128::from_str_radix(&digits, 16).ok())??;
        Uid::of(&number.to_be_bytes())
    }

    /// What a server calls us. Sixteen zeros are nobody's (RFC 9562, 5.9).
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Uid> {
        <[u8; 16]>::try_from(bytes).ok().filter(|bytes| *bytes != [0; 16]).map(Uid)
    }

    /// A new one, version 7: milliseconds of the wall clock, then chance.
    #[must_use]
    pub fn draw(now: Stamp, dice: &mut Dice) -> Uid {
        let ms = (now.wall_ns / 1_000_000).to_be_bytes();
        let mut bytes = dice.id128().to_be_bytes();
        bytes[..6].copy_from_slice(&ms[2..]);
        Uid(marked(bytes, 7))
    }

    /// Of the machine, version 8. `digest`: of its id.
    #[must_use]
    pub fn of_machine(digest: &str) -> Uid {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"tfo-otel-agent opamp");
        let tag = ring::hmac::sign(&key, digest.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&tag.as_ref()[..16]);
        Uid(marked(bytes, 8))
    }

    /// As it is sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// With the version and the variant of RFC 9562.
fn marked(mut bytes: [u8; 16], version: u8) -> [u8; 16] {
    bytes[6] = (bytes[6] & 0x0f) | (version << 4);
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if matches!(n, 4 | 6 | 8 | 10) { "-" } else { "" })?;
        }
        Ok(())
    }
}

/// What the file keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// As text.
    instance_uid: String,
    /// A digest of the machine's id; None: it had none.
    machine: Option<String>,
}

const HEAD: &str = "tfo-otel-agent opamp 1 ";
/// Longest file that is read: a uid and a digest.
const SIZE_MAX: u64 = 1_024;

impl Kept {
    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// It is there and cannot be read, or is not whole.
    pub fn read(path: &Path) -> io::Result<Option<Kept>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
        let kept: Option<Kept> = unsealed(HEAD, &bytes).and_then(|text| serde_json::from_slice(text).ok());
        let kept = kept.filter(|kept| Uid::parse(&kept.instance_uid).is_some());
        kept.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not whole"))
    }

    /// Writes the file, as a whole and on stable storage; false when it says so already.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, path: &Path) -> io::Result<bool> {
        let json = serde_json::to_string(self)? + "\n";
        replace_file(path, &sealed(HEAD, json.as_bytes()))
    }
}

/// By which uid we speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    uid: Uid,
    machine: Option<String>,
    /// It stands in the configuration.
    is_configured: bool,
    /// What a server that is not to be believed for longer than this process calls us.
    guest: Option<Uid>,
    /// The file is to be written.
    is_new: bool,
    /// The file came from another machine.
    is_copy: bool,
}

impl Instance {
    /// By the table of the module. `machine`: a digest of the machine's id.
    #[must_use]
    pub fn settle(
        configured: Option<Uid>,
        kept: Option<&Kept>,
        machine: Option<&str>,
        can_keep: bool,
        (now, dice): (Stamp, &mut Dice),
    ) -> Instance {
        let is_elsewhere =
            |kept: &Kept| kept.machine.is_some() && machine.is_some() && kept.machine.as_deref() != machine;
        let found = kept.and_then(|kept| Some((Uid::parse(&kept.instance_uid)?, is_elsewhere(kept))));
        let is_copy = configured.is_none() && found.is_some_and(|(_, is_elsewhere)| is_elsewhere);
        let known = configured.or(found.filter(|_| !is_copy).map(|(uid, _)| uid));
        let uid = known.unwrap_or_else(|| match machine.filter(|_| !can_keep) {
            Some(digest) => Uid::of_machine(digest),
            None => Uid::draw(now, dice),
        });
        Instance {
            uid,
            machine: machine.map(str::to_owned),
            is_configured: configured.is_some(),
            guest: None,
            is_new: known.is_none() && can_keep,
            is_copy,
        }
    }

    /// By which we speak.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.guest.unwrap_or(self.uid)
    }

    /// The file came from another machine, and this one has a uid of its own now.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// A server calls us so, for good if it `is_trusted` and the operator says nothing else. True when that is another name than before.
    pub fn take_over(&mut self, uid: Uid, is_trusted: bool) -> bool {
        if self.uid() == uid {
            return false;
        }
        self.guest = None;
        if is_trusted && !self.is_configured {
            (self.uid, self.is_new) = (uid, true);
        } else if self.uid != uid {
            self.guest = Some(uid);
        }
        true
    }

    /// The same process by another configuration: the uid stays, wherever it is kept.
    #[must_use]
    pub fn goes_on(self, can_keep: bool) -> Instance {
        Instance { is_new: can_keep && !self.is_configured, ..self }
    }

    /// What is to be written, if anything is.
    #[must_use]
    pub fn to_keep(&self) -> Option<Kept> {
        let kept = Kept { instance_uid: self.uid.to_string(), machine: self.machine.clone() };
        Some(kept).filter(|_| self.is_new)
    }

    /// It was written.
    pub fn kept(&mut self, kept: &Kept) {
        self.is_new &= kept.instance_uid != self.uid.to_string();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Stamp = Stamp { wall_ns: 1_765_620_000_123_456_789, mono_ms: 1_000 };

    fn settle(configured: Option<Uid>, kept: Option<&Kept>, machine: Option<&str>, can_keep: bool) -> Instance {
        Instance::settle(configured, kept, machine, can_keep, (NOW, &mut Dice::seeded(1)))
    }

    fn version(uid: Uid) -> (u8, u8) {
        (uid.bytes()[6] >> 4, uid.bytes()[8] >> 6)
    }

    #[test]
    fn a_uid_is_a_uuid_of_version_7_with_the_time_in_front() {
        let uid = Uid::draw(NOW, &mut Dice::seeded(7));
        assert_eq!(version(uid), (7, 2));
        assert_eq!(u64::from_str_radix(&uid.to_string().replace('-', "")[..12], 16), Ok(NOW.wall_ns / 1_000_000));
        assert_eq!(Uid::parse(&uid.to_string()), Some(uid));
        assert_ne!(Uid::draw(NOW, &mut Dice::seeded(8)), uid);
        assert_eq!(version(Uid::of_machine("8d2c")), (8, 2));
        assert_ne!(Uid::of_machine("8d2c"), Uid::of_machine("8d2d"));
    }

    #[test]
    fn what_is_no_uid_is_none() {
        for text in [
            "",
            "00000000-0000-0000-0000-000000000000",
            "0193c1a27b4e7c3d9f102a6b8c4d5e6f",
            "0193c1a2-7b4e-7c3d-9f10-2a6b8c4d5e6",
            "0193c1a2-7b4e-7c3d-9f10-2a6b8c4d5e6g",
            "+193c1a2-7b4e-7c3d-9f10-2a6b8c4d5e6f",
            "0193c1a2-7b4e-7c3d-9f10--a6b8c4d5e6f",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "ééé3c1a2-7b4e-7c3d-9f10-2a6b8c4d5e",
        ] {
            assert_eq!(Uid::parse(text), None, "{text}");
        }
        for bytes in [&[][..], &[1; 15], &[1; 17], &[0; 16]] {
            assert_eq!(Uid::of(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn the_same_installation_has_the_same_uid_and_a_copy_another() {
        let first = settle(None, None, Some("here"), true);
        assert_eq!((version(first.uid()), first.is_copy()), ((7, 2), false));
        let kept = first.to_keep().expect("it is new");
        let again = settle(None, Some(&kept), Some("here"), true);
        assert_eq!((again.uid(), again.to_keep(), again.is_copy()), (first.uid(), None, false));
        assert_eq!(settle(None, Some(&kept), None, true).uid(), first.uid(), "nobody knows where");
        let copy = Instance::settle(None, Some(&kept), Some("there"), true, (NOW, &mut Dice::seeded(2)));
        assert!(copy.is_copy() && copy.uid() != first.uid() && copy.to_keep().is_some());
        // Nothing can be kept: of the machine, the same each time.
        let bare = settle(None, None, Some("here"), false);
        assert_eq!((bare.uid(), bare.to_keep()), (Uid::of_machine("here"), None));
        let mine = Uid::parse("0193c1a2-7b4e-7c3d-9f10-2a6b8c4d5e6f");
        let configured = settle(mine, Some(&kept), Some("there"), true);
        assert_eq!((Some(configured.uid()), configured.to_keep(), configured.is_copy()), (mine, None, false));
    }

    /// Goal: who stands between us and a server can rename us until we start again, and no longer.
    #[test]
    fn a_uid_of_whoever_answers_is_a_guest() {
        let other = Uid::of(&[7; 16]).expect("16 bytes");
        let first = settle(None, None, Some("here"), true);
        let mut instance = first.clone();
        assert!(instance.take_over(other, false) && !instance.take_over(other, false));
        assert_eq!((instance.uid(), instance.to_keep()), (other, first.to_keep()));
        assert!(instance.take_over(first.uid(), false));
        assert_eq!(instance, first, "its own again");
        assert!(instance.take_over(other, true));
        assert_eq!(instance.to_keep().expect("it is written").instance_uid, other.to_string());
        assert_eq!(instance.clone().goes_on(true).to_keep(), instance.to_keep());
        assert_eq!(instance.goes_on(false).to_keep(), None);
        // What the operator wrote is asked for again by the next life.
        let mut configured = settle(Some(first.uid()), None, Some("here"), true);
        assert!(configured.take_over(other, true));
        assert_eq!((configured.uid(), configured.to_keep()), (other, None));
    }

    #[test]
    fn the_file_is_whole_or_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("opamp-instance");
        assert_eq!(Kept::read(&path).expect("there is none"), None);
        let mut instance = settle(None, None, Some("here"), true);
        let kept = instance.to_keep().expect("it is new");
        assert!(kept.keep(&path).expect("space") && !kept.keep(&path).expect("space"));
        instance.kept(&kept);
        assert_eq!((Kept::read(&path).expect("it is whole"), instance.to_keep()), (Some(kept), None));
        let whole = std::fs::read(&path).expect("it is there");
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("space");
            assert!(Kept::read(&path).is_err(), "cut at {cut}");
        }
        let no_uid = sealed(HEAD, br#"{"instance_uid":"x","machine":null}"#);
        std::fs::write(&path, no_uid).expect("space");
        assert!(Kept::read(&path).is_err());
    }
}
