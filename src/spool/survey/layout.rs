//! Which names stand in a segment's directory. fjall panics over some that are none of its own, and a panic in the middle of its
//! opening ends the process (`fjall-3.1.13/src/recovery.rs`, `db.rs`: its `Drop` meets the poisoned lock); others it deletes, or
//! waits for without end. So they are asked for first.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

/// A name inside the segment's directory, and what is wrong with it.
pub(super) type Stranger = (String, &'static str);

const NO_FILE: &str = "what stands there is no file";
const NO_NAME: &str = "no name of fjall's";
const NO_KEYSPACE: &str = "what stands there is no keyspace";

/// The keyspaces that are there or must be, fjall's own notes last, and what stands where it must not.
///
/// # Errors
/// When a directory cannot be read.
pub(super) fn of(segment: &Path) -> io::Result<(Vec<u64>, Vec<Stranger>)> {
    let mut strangers: Vec<Stranger> = Vec::new();
    for entry in entries(segment)? {
        let name = entry.file_name();
        let is_journal = Path::new(&name).extension().is_some_and(|e| e.eq_ignore_ascii_case("jnl"));
        let what = match name.to_str() {
            None => Some(NO_NAME),
            Some(text) if is_journal && text.strip_suffix(".jnl").and_then(number).is_none() => Some(NO_NAME),
            // fjall asks for a file, and a link is none.
            Some(_) if is_journal && !entry.file_type()?.is_file() => Some(NO_FILE),
            Some("lock" | "version") if !fs::metadata(entry.path()).is_ok_and(|m| m.is_file()) => Some(NO_FILE),
            Some(_) => None,
        };
        strangers.extend(what.map(|what| (shown(&name), what)));
    }
    let (mut keyspaces, mut has_first) = (Vec::new(), false);
    for entry in entries(&segment.join("keyspaces"))? {
        if entry.file_type()?.is_file() {
            continue; // fjall passes over them
        }
        let name = entry.file_name();
        match name.to_str().and_then(number).filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            Some(keyspace) => {
                has_first |= keyspace == 1;
                keyspaces.extend((keyspace > 1).then_some(keyspace));
                of_keyspace(&entry.path(), &format!("keyspaces/{keyspace}"), &mut strangers)?;
            }
            None => strangers.push((format!("keyspaces/{}", shown(&name)), NO_KEYSPACE)),
        }
    }
    // A kill in the middle of a segment's making can leave a first one that fjall's notes do not know: it deletes that, and makes a
    // second one.
    if has_first || keyspaces.is_empty() {
        keyspaces.insert(0, 1);
    }
    keyspaces.push(0);
    Ok((keyspaces, strangers))
}

fn of_keyspace(home: &Path, inside: &str, strangers: &mut Vec<Stranger>) -> io::Result<()> {
    for entry in entries(home)? {
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let what = match name.to_str() {
            Some("tables") if !kind.is_dir() => Some("what stands there is no directory"),
            Some("tables") => None,
            // Values apart from their keys, which we do not have.
            Some("blobs") | None => Some(NO_NAME),
            Some(_) if !kind.is_file() => Some(NO_FILE),
            Some(_) => None,
        };
        strangers.extend(what.map(|what| (format!("{inside}/{}", shown(&name)), what)));
    }
    for entry in entries(&home.join("tables"))? {
        let name = entry.file_name();
        let what = match name.to_str().and_then(number) {
            None => Some(NO_NAME),
            Some(_) if !entry.file_type()?.is_file() => Some(NO_FILE),
            Some(_) => None,
        };
        strangers.extend(what.map(|what| (format!("{inside}/tables/{}", shown(&name)), what)));
    }
    Ok(())
}

/// Digits and nothing else: fjall takes `+1` for 1 as well, and would know the same file by two names.
fn number(name: &str) -> Option<u64> {
    name.bytes().all(|b| b.is_ascii_digit()).then(|| name.parse().ok()).flatten()
}

fn shown(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

/// What a directory holds; one that is not there, or is none, holds nothing: that something is missing is told elsewhere.
fn entries(dir: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(dir) {
        Ok(found) => found.collect(),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}
