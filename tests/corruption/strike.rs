//! What happens to files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tfo_otel_agent::base::Dice;

/// What was done to one file.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    /// From the spool's directory.
    pub(crate) file: PathBuf,
    pub(crate) how: How,
    /// The other file, if two changed places.
    pub(crate) other: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum How {
    Flip(Vec<(usize, u8)>),
    Cut(usize),
    Zeros(usize, usize),
    AllZeros,
    Gone,
    Garbage(usize),
    GarbageAt(usize, usize),
    Longer(usize),
    Swapped,
    Directory,
    Pipe,
    Link,
}

impl How {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            How::Flip(_) => "flip",
            How::Cut(_) => "cut",
            How::Zeros(..) => "zeros",
            How::AllZeros => "all zeros",
            How::Gone => "gone",
            How::Garbage(_) => "garbage",
            How::GarbageAt(..) => "in part",
            How::Longer(_) => "longer",
            How::Swapped => "swapped",
            How::Directory => "directory",
            How::Pipe => "pipe",
            How::Link => "link",
        }
    }
}

impl Hit {
    /// Segments of which a file was hit.
    pub(crate) fn segments(&self) -> BTreeSet<String> {
        let segment = |path: &PathBuf| path.iter().next().map(|name| name.to_string_lossy().into_owned());
        [Some(&self.file), self.other.as_ref()].into_iter().flatten().filter_map(segment).collect()
    }
}

/// Hits one file, or two.
pub(crate) fn strike(dir: &Path, dice: &mut Dice) -> Vec<Hit> {
    (0..1 + u64::from(dice.chance(1, 4))).map(|_| hit(dir, dice)).collect()
}

fn files(base: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        let kind = fs::symlink_metadata(&path).expect("there");
        if kind.is_dir() {
            files(base, &path, found);
        } else if kind.is_file() {
            found.push(path.strip_prefix(base).expect("inside").to_owned());
        }
    }
}

fn hit(dir: &Path, dice: &mut Dice) -> Hit {
    let mut all = Vec::new();
    files(dir, dir, &mut all);
    all.sort();
    // Where the data is, half of the time.
    let is_data = |path: &&PathBuf| {
        path.extension().is_some_and(|e| e == "jnl") || path.to_string_lossy().contains("keyspaces/1/tables")
    };
    let mut pool: Vec<&PathBuf> =
        if dice.chance(1, 2) { all.iter().filter(is_data).collect() } else { all.iter().collect() };
    if pool.is_empty() {
        pool = all.iter().collect();
    }
    let file = pool[pick(dice, pool.len())].clone();
    let path = dir.join(&file);
    let bytes = fs::read(&path).unwrap_or_default();
    // The zeros behind a journal's end are not worth hitting.
    let len = bytes.iter().rposition(|b| *b != 0).map_or(bytes.len(), |at| at + 1).max(1);
    let how = match dice.within(0..24) {
        0..9 => How::Flip((0..dice.within(1..4)).map(|_| (pick(dice, len), byte(dice))).collect()),
        9..12 => How::Cut(pick(dice, len)),
        12..14 => How::Zeros(pick(dice, len), 1 + pick(dice, 5_000)),
        14 => How::AllZeros,
        15 | 16 => How::Gone,
        17 => How::Garbage(pick(dice, len.min(20_000))),
        18 | 19 => How::GarbageAt(pick(dice, len), 1 + pick(dice, 5_000)),
        20 => How::Longer(1 + pick(dice, 5_000)),
        21 => How::Swapped,
        22 => How::Directory,
        _ => {
            if dice.chance(1, 2) {
                How::Pipe
            } else {
                How::Link
            }
        }
    };
    let other = (how == How::Swapped).then(|| swap(dir, &file, &all, dice)).flatten();
    if how != How::Swapped {
        put(&path, bytes, &how, dice);
    }
    Hit { file, how, other }
}

/// With the file of the same place in another segment.
fn swap(dir: &Path, file: &Path, all: &[PathBuf], dice: &mut Dice) -> Option<PathBuf> {
    let inside = |path: &Path| path.iter().skip(1).collect::<PathBuf>();
    let others: Vec<&PathBuf> = all
        .iter()
        .filter(|path| *path != file && inside(path) == inside(file) && !inside(file).as_os_str().is_empty())
        .collect();
    let other = (*others.get(pick(dice, others.len().max(1)))?).clone();
    let aside = dir.join("aside");
    fs::rename(dir.join(file), &aside).expect("ours");
    fs::rename(dir.join(&other), dir.join(file)).expect("ours");
    fs::rename(aside, dir.join(&other)).expect("ours");
    Some(other)
}

fn put(path: &Path, mut bytes: Vec<u8>, how: &How, dice: &mut Dice) {
    let over = |bytes: &mut Vec<u8>, at: usize, n: usize, mut with: Box<dyn FnMut() -> u8 + '_>| {
        bytes.iter_mut().skip(at).take(n).for_each(|byte| *byte = with());
    };
    match how {
        How::Flip(flips) => flips.iter().for_each(|(at, flip)| {
            if let Some(byte) = bytes.get_mut(*at) {
                *byte ^= flip;
            }
        }),
        How::Cut(at) => bytes.truncate(*at),
        How::Zeros(at, n) => over(&mut bytes, *at, *n, Box::new(|| 0)),
        How::AllZeros => bytes.fill(0),
        How::Garbage(n) => bytes = (0..*n).map(|_| byte(dice)).collect(),
        How::GarbageAt(at, n) => over(&mut bytes, *at, *n, Box::new(|| byte(dice))),
        How::Longer(n) => bytes.extend((0..*n).map(|_| byte(dice))),
        How::Gone | How::Directory | How::Pipe | How::Link | How::Swapped => {
            fs::remove_file(path).expect("ours");
            match how {
                How::Directory => fs::create_dir_all(path.join("inside")).expect("space"),
                How::Pipe => rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                    .expect("a pipe"),
                How::Link => std::os::unix::fs::symlink("/dev/zero", path).expect("a link"),
                _ => {}
            }
            return;
        }
    }
    // Holes stay holes, or every copy of a journal would have its 64 MiB.
    fs::write(path, bytes).expect("space");
}

fn pick(dice: &mut Dice, n: usize) -> usize {
    usize::try_from(dice.within(0..n as u64)).expect("small")
}

fn byte(dice: &mut Dice) -> u8 {
    u8::try_from(dice.within(1..256)).expect("a byte")
}
