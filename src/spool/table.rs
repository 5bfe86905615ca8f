//! A walk over a table of fjall's tree that believes no length: the sealed counterpart of [`super::journal`].
//!
//! fjall's own opening truncates, creates and locks, so it must not be pointed at a directory that is only to be looked at;
//! and it ends at the first damaged byte it meets. Layout as in lsm-tree 3.1.10, `src/table/block/header.rs` and
//! `src/table/data_block/mod.rs`; the version is pinned, and our keyspace neither compresses nor filters.
//!
//! ```text
//! table = block*  …index, filter, meta…  trailer ("SFA!" and 34 bytes)
//! block = "LSM\x03" type:u8 xxh3-128(data) data_len:u32 raw_len:u32 low32(xxh3-128(what is before)) data
//! data  = item*  255  binary index…  trailer of 31 bytes, its first the restart interval
//! item  = type:u8 seqno:varint  key_len:varint key                      value_len:varint value   first of an interval
//!       | type:u8 seqno:varint  shared:varint rest_len:varint key rest  value_len:varint value   the others
//! ```

use super::source::{Reading, Source};
use std::io::{self, Read as _};
use std::path::Path;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

const MAGIC: [u8; 4] = *b"LSM\x03";
/// magic, type, sum, two lengths, sum.
const HEADER_LEN: usize = 4 + 1 + 16 + 4 + 4 + 4;
const DATA: u8 = 0;
/// The last block type lsm-tree knows.
const TYPE_MAX: u8 = META;
const META: u8 = 3;
const BLOCK_TRAILER_LEN: usize = 31;
const END_OF_ITEMS: u8 = 255;
const VALUE: u8 = 0;
const FILE_MAGIC: [u8; 4] = *b"SFA!";
const FILE_TRAILER_LEN: u64 = 4 + 1 + 1 + 16 + 8 + 8;

/// Beside its last value a block of data holds less than this: 16 KiB of others, keys, its index.
const BESIDE: usize = 1 << 20;

/// How much of a damaged file is searched at a time for the next block.
const SEARCH: usize = 64 << 10;

/// What the walk meets, in order.
#[derive(Debug)]
pub(crate) enum Met<'a> {
    /// A key and its value.
    Item {
        key: Vec<u8>,
        value: &'a [u8],
        /// Where the value stands in the file.
        at: u64,
        /// Its block's checksum holds: fjall reads it.
        proved: bool,
    },
    /// Bytes that are no block, or a block that is not what its checksum says.
    Broken { at: u64, why: &'static str },
}

/// Walks the table at `path`, handing on what it meets. Returns whether the file ends as a finished table does: without that
/// it is a flush that was never finished, and its data is in the journal.
///
/// # Errors
/// Only when the file cannot be read.
pub(crate) fn walk(path: &Path, how: Reading, value_max: usize, mut met: impl FnMut(Met<'_>)) -> io::Result<bool> {
    let file = Source::open(path, how)?;
    let len = file.len();
    let (mut at, mut data, mut behind_data, mut has_meta) = (0, Vec::new(), false, false);
    let finished = is_finished(&file, len)?;
    while let Some(head) = read_head(&file, at, len)? {
        let Some(block) = Block::parse(&head, len - at, value_max) else {
            let next = search(&file, at + 1, len, value_max)?;
            // Behind index and filters stand sections without a header of their own.
            if !(behind_data && finished) {
                met(Met::Broken { at, why: "no block begins where one should" });
            }
            let Some(next) = next else { break };
            at = next;
            continue;
        };
        data.resize(block.data_len, 0);
        file.read_exact_at(&mut data, at + HEADER_LEN as u64)?;
        let proved = xxh3_128(&data) == block.sum;
        if !proved {
            met(Met::Broken { at, why: "checksum of the block does not match" });
        }
        behind_data |= block.kind != DATA;
        has_meta |= block.kind == META;
        if block.kind == DATA {
            items(&data, at + HEADER_LEN as u64, value_max, proved, &mut met);
        }
        at += (HEADER_LEN + block.data_len) as u64;
    }
    if finished && !(behind_data && has_meta && is_listed(&file, len)?) {
        met(Met::Broken { at: len, why: "the table's index, notes or list of contents is damaged" });
    }
    Ok(finished)
}

struct Block {
    kind: u8,
    sum: u128,
    data_len: usize,
}

impl Block {
    /// Reads a header whose checksum holds and whose block lies in the file.
    fn parse(head: &[u8; HEADER_LEN], left: u64, value_max: usize) -> Option<Block> {
        let (body, sum) = head.split_at(HEADER_LEN - 4);
        #[allow(clippy::cast_possible_truncation)] // as lsm-tree does
        let whole = (xxh3_128(body) as u32).to_le_bytes() == *sum;
        let u32_at = |i: usize| u32::from_le_bytes(body[i..i + 4].try_into().expect("four of 33 bytes")) as usize;
        let data_len = u32_at(21);
        let fits = (HEADER_LEN + data_len) as u64 <= left && data_len <= value_max + BESIDE;
        (whole && body[..4] == MAGIC && body[4] <= TYPE_MAX && u32_at(25) == data_len && fits).then(|| Block {
            kind: body[4],
            sum: u128::from_le_bytes(body[5..21].try_into().expect("sixteen of 33 bytes")),
            data_len,
        })
    }
}

fn read_head(file: &Source, at: u64, len: u64) -> io::Result<Option<[u8; HEADER_LEN]>> {
    if len.saturating_sub(at) < HEADER_LEN as u64 {
        return Ok(None);
    }
    let mut head = [0; HEADER_LEN];
    file.read_exact_at(&mut head, at)?;
    Ok(Some(head))
}

fn is_finished(file: &Source, len: u64) -> io::Result<bool> {
    let mut magic = [0; 4];
    match len.checked_sub(FILE_TRAILER_LEN) {
        Some(at) => file.read_exact_at(&mut magic, at).map(|()| magic == FILE_MAGIC),
        None => Ok(false),
    }
}

/// Whether the list of contents is what the trailer says of it.
fn is_listed(file: &Source, len: u64) -> io::Result<bool> {
    /// Five sections or so, of 18 bytes and a name each.
    const MOST: usize = 4_096;
    let mut trailer = [0; FILE_TRAILER_LEN as usize];
    let end = len - FILE_TRAILER_LEN;
    file.read_exact_at(&mut trailer, end)?;
    let sum = u128::from_le_bytes(trailer[6..22].try_into().expect("sixteen bytes"));
    let from = u64::from_le_bytes(trailer[22..30].try_into().expect("eight bytes"));
    let Some(list_len) = end.checked_sub(from).and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= MOST) else {
        return Ok(false);
    };
    let mut list = vec![0; list_len];
    file.read_exact_at(&mut list, from)?;
    Ok(xxh3_128(&list) == sum)
}

/// The tables that a list of tables (`v0`, `v1`, …: lsm-tree's `version/mod.rs`) names, each with the xxh3-128 of its file.
/// `None`: it is none.
pub(crate) fn listed(list: &[u8]) -> Option<Vec<(u64, u128)>> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(list.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(list.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let trailer = list.len().checked_sub(FILE_TRAILER_LEN as usize)?;
    if list[trailer..trailer + 4] != FILE_MAGIC {
        return None;
    }
    // Contents: "TOC!" count:u32, and for each section where:u64 len:u64 name_len:u16 name.
    let mut entry = usize::try_from(u64_at(trailer + 22)?).ok()?;
    if list.get(entry..entry.checked_add(4)?)? != b"TOC!" {
        return None;
    }
    let sections = u32_at(entry + 4)?;
    entry += 8;
    for _ in 0..sections {
        let (from, len) = (usize::try_from(u64_at(entry)?).ok()?, usize::try_from(u64_at(entry + 8)?).ok()?);
        let name_len = usize::from(u16::from_le_bytes(list.get(entry + 16..entry + 18)?.try_into().ok()?));
        let name = list.get(entry + 18..entry + 18 + name_len)?;
        if name == b"tables" {
            return tables_of(list.get(from..from.checked_add(len)?)?);
        }
        entry += 18 + name_len;
    }
    None
}

/// levels:u8, in each runs:u8, in each tables:u32, each id:u64 kind:u8 xxh3-128 seqno:u64.
fn tables_of(section: &[u8]) -> Option<Vec<(u64, u128)>> {
    let mut tape = Tape { data: section, at: 0 };
    let mut found = Vec::new();
    for _ in 0..tape.u8()? {
        for _ in 0..tape.u8()? {
            for _ in 0..u32::from_le_bytes(tape.take(4)?.try_into().ok()?) {
                let entry = tape.take(8 + 1 + 16 + 8)?;
                let id = u64::from_le_bytes(entry[..8].try_into().ok()?);
                found.push((id, u128::from_le_bytes(entry[9..25].try_into().ok()?)));
            }
        }
    }
    Some(found)
}

/// xxh3-128 of a file.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn sum(path: &Path, how: Reading) -> io::Result<u128> {
    let mut file = Source::open(path, how)?;
    let (mut sum, mut piece) = (Xxh3::new(), vec![0; SEARCH]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(sum.digest128()),
            n => sum.update(&piece[..n]),
        }
    }
}

/// The next place from `at` on where a block begins whose header is whole.
fn search(file: &Source, at: u64, len: u64, value_max: usize) -> io::Result<Option<u64>> {
    let mut room = vec![0; SEARCH];
    let mut at = at;
    while len.saturating_sub(at) >= HEADER_LEN as u64 {
        let n = usize::try_from(len - at).unwrap_or(SEARCH).min(SEARCH);
        file.read_exact_at(&mut room[..n], at)?;
        for (i, head) in room[..n].windows(HEADER_LEN).enumerate() {
            let here = at + i as u64;
            if head.starts_with(&MAGIC)
                && Block::parse(head.try_into().expect("a window of this size"), len - here, value_max).is_some()
            {
                return Ok(Some(here));
            }
        }
        at += (n - HEADER_LEN + 1) as u64;
    }
    Ok(None)
}

/// The items of a block of data. Of a block that is not `proved` as many as can be made out.
fn items(data: &[u8], data_at: u64, value_max: usize, proved: bool, met: &mut impl FnMut(Met<'_>)) {
    let mut read = || -> Option<()> {
        let interval = usize::from(*data.get(data.len().checked_sub(BLOCK_TRAILER_LEN)?)?).max(1);
        let mut tape = Tape { data, at: 0 };
        let mut base: &[u8] = &[];
        for nth in 0.. {
            let kind = tape.u8()?;
            if kind == END_OF_ITEMS {
                return Some(());
            }
            tape.varint()?; // the sequence number: our keys are written once, and the newest version stands first
            let key = if nth % interval == 0 {
                let len = tape.len()?;
                base = tape.take(len)?;
                base.to_vec()
            } else {
                let (shared, rest) = (tape.len()?, tape.len()?);
                let rest = tape.take(rest)?;
                [base.get(..shared)?, rest].concat()
            };
            if kind != VALUE {
                continue; // we remove no keys
            }
            let len = tape.len().filter(|len| *len <= value_max)?;
            let at = data_at + tape.at as u64;
            met(Met::Item { key, value: tape.take(len)?, at, proved });
        }
        None
    };
    if read().is_none() && proved {
        met(Met::Broken { at: data_at, why: "a block whose checksum holds does not hold what it should" });
    }
}

struct Tape<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Tape<'a> {
    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let taken = self.data.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(taken)
    }

    fn len(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut n = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            n |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(n);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::segment::Segment;
    use proptest::prelude::*;
    use std::path::PathBuf;
    use std::sync::OnceLock;

    type Record = (Vec<u8>, Vec<u8>);

    fn records() -> Vec<Record> {
        (0..200_u16)
            .map(|n| {
                let key = [b"lane".as_slice(), &n.to_be_bytes()].concat();
                // Small ones share a block, large ones have one each.
                (key, vec![n.to_le_bytes()[0]; if n % 20 == 0 { 50_000 } else { usize::from(n) * 7 }])
            })
            .collect()
    }

    /// A table made by fjall itself: the layout is theirs, so the test asks them.
    fn table() -> &'static [u8] {
        static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
        TABLE.get_or_init(|| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let segment = Segment::create(&dir.path().join("s")).expect("space");
            segment.append(records(), true).expect("space");
            segment.seal().expect("a flush of half a megabyte");
            let mut tables = std::fs::read_dir(dir.path().join("s/keyspaces/1/tables")).expect("there");
            std::fs::read(tables.next().expect("one table").expect("readable").path()).expect("readable")
        })
    }

    fn walk_bytes(bytes: &[u8]) -> (Vec<(Record, bool)>, Vec<u64>, bool) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path: PathBuf = dir.path().join("0");
        std::fs::write(&path, bytes).expect("space");
        let (mut found, mut broken) = (Vec::new(), Vec::new());
        let finished = walk(&path, Reading::Strict, 1 << 20, |met| match met {
            Met::Item { key, value, at, proved } => {
                let at = usize::try_from(at).expect("small");
                assert_eq!(&bytes[at..at + value.len()], value, "it stands where it says");
                found.push(((key, value.to_vec()), proved));
            }
            Met::Broken { at, .. } => broken.push(at),
        });
        (found, broken, finished.expect("readable"))
    }

    #[test]
    fn the_walk_sees_what_fjall_wrote() {
        let (found, broken, finished) = walk_bytes(table());
        assert_eq!((broken, finished), (vec![], true));
        assert!(found.iter().all(|(_, proved)| *proved));
        assert_eq!(found.into_iter().map(|(record, _)| record).collect::<Vec<_>>(), records());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// A flip costs the block it is in; what the walk calls proved is what fjall wrote.
        #[test]
        fn a_flipped_byte_costs_one_block(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut bytes = table().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let (found, broken, _) = walk_bytes(&bytes);
            let all = records();
            let proved: Vec<Record> = found.into_iter().filter(|(_, proved)| *proved).map(|(record, _)| record).collect();
            prop_assert!(proved.iter().all(|record| all.contains(record)));
            prop_assert!(all.len() - proved.len() <= 60, "{} of {}", proved.len(), all.len());
            prop_assert!(proved.len() == all.len() || !broken.is_empty(), "what is missing is told");
        }

        #[test]
        fn a_table_cut_anywhere_gives_its_whole_blocks(keep in any::<prop::sample::Index>()) {
            let bytes = table();
            let (found, _, finished) = walk_bytes(&bytes[..keep.index(bytes.len())]);
            prop_assert!(!finished);
            let all = records();
            prop_assert!(found.iter().all(|(record, proved)| *proved && all.contains(record)));
        }

        #[test]
        fn garbage_is_no_table(garbage in prop::collection::vec(any::<u8>(), 0..3_000)) {
            let (found, _, _) = walk_bytes(&garbage);
            prop_assert!(found.is_empty());
        }
    }
}
