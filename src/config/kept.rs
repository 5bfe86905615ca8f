//! A small file that is kept: replaced as a whole, so that a power cut leaves the one before or this one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// A text with its first words and a checksum before it: `words`, 16 hex digits of xxh3, a line's end, `text`.
#[must_use]
pub fn sealed(words: &str, text: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{words}{:016x}\n", xxh3_64(text)).into_bytes();
    bytes.extend_from_slice(text);
    bytes
}

/// The text of such a file; `None`: it is another one, or not whole.
#[must_use]
pub fn unsealed<'a>(words: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, text) = bytes.strip_prefix(words.as_bytes())?.split_at_checked(17)?;
    let sum = u64::from_str_radix(std::str::from_utf8(sum).ok()?.strip_suffix('\n')?, 16).ok()?;
    (sum == xxh3_64(text)).then_some(text)
}

/// Puts these bytes in the place of the file, on stable storage; its owner's alone (0600). False when they are there already,
/// which costs the flash nothing.
///
/// # Errors
/// The disk's. The one before is there then, or this one.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut beside = name.to_owned();
    beside.push(".new");
    let made = path.with_file_name(beside);
    match fs::remove_file(&made) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&made)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&made, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&made); // half a file is of use to nobody
        return Err(error);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()?;
    Ok(true)
}
