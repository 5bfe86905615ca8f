//! One segment, read without opening it.

use super::{Found, Progress};
use crate::spool::Lane;
use crate::spool::block::{HEADER_LEN, Header, unframe};
use crate::spool::codec::Damage;
use crate::spool::disk::{State, VALUE_MAX};
use crate::spool::journal::{self, Item};
use crate::spool::ledger::{Record, is_control_key, parse_block_key};
use crate::spool::segment::{self, META};
use crate::spool::table;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

/// Who gets at a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// An agent that opens the segment.
    Read,
    /// Its batch is whole, but stands behind damage in the journal: opening the segment cuts it off.
    Beyond,
    /// Its own checksums are all that speaks for it; what it was written with is damaged.
    Loose,
}

/// Where a block is, and what it says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    file: usize,
    /// Where its value begins in the file.
    pub(crate) at: u64,
    len: usize,
    pub(crate) header: Header,
    pub(crate) reach: Reach,
}

/// Something that is not as it was written.
#[derive(Debug, Clone)]
pub(crate) struct Damaged {
    /// The file, from the spool's directory.
    pub(crate) file: String,
    /// Where in it.
    pub(crate) at: u64,
    pub(crate) what: String,
    /// Which block, as far as that is known.
    pub(crate) key: Option<(Lane, u64)>,
    /// What its header says, if that is whole.
    pub(crate) header: Option<Header>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    files: Vec<(PathBuf, String)>,
    /// By lane and index.
    pub(crate) blocks: BTreeMap<(u32, u64), Spot>,
    pub(crate) damage: Vec<Damaged>,
    /// Things a crash leaves: no damage.
    pub(crate) notes: Vec<String>,
    /// Control records as a start reads them, oldest first.
    pub(crate) control: Vec<Record>,
    /// It was there when the directory was listed, and is not any more.
    pub(crate) vanished: bool,
}

impl Contents {
    pub(super) fn of(found: &Found, progress: Progress<'_>) -> io::Result<Contents> {
        let mut contents = Contents::default();
        match contents.read(found, progress) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !segment::is_whole(&found.path) => {
                Ok(Contents { vanished: true, ..Contents::default() })
            }
            read => read.map(|()| contents),
        }
    }

    fn read(&mut self, found: &Found, progress: Progress<'_>) -> io::Result<()> {
        if found.state == State::Spare {
            return Ok(());
        }
        let journals = segment::journals(&found.path)?;
        let written: u64 = journals.iter().map(|path| fs::metadata(path).map_or(0, |m| m.len())).sum();
        if small(&found.path.join("version"))?.is_none_or(|text| !text.starts_with(segment::VERSION)) {
            self.damaged(&format!("{}/version", found.name), 0, "the file is missing, or is not fjall 3's");
        }
        // Ours, and the one of fjall's own notes, without which it opens nothing.
        let (ours, notes) = (self.read_list(found, 1)?, self.read_list(found, 0)?);
        if written == 0 && ours.is_empty() && !journals.is_empty() {
            // A kill while it was made leaves that. Had it held anything, what is missing shows in the totals.
            self.notes.push(format!("{}: nothing was written to it", found.name));
        } else if written == 0 && ours.is_empty() {
            self.damaged(&found.name, 0, "neither journal nor table hold anything");
        }
        for (table, keyspace) in ours.iter().map(|table| (table, 1)).chain(notes.iter().map(|table| (table, 0))) {
            self.read_table(found, table, keyspace, written > 0)?;
            progress(len(&table.path));
        }
        if written > 0 {
            self.control.clear(); // as a start does it: the journal has them all, also after a crash between flush and cut
        }
        for path in journals {
            self.read_journal(found, &path)?;
            progress(len(&path).min(found.bytes));
        }
        Ok(())
    }

    /// The tables of a keyspace by its list; without a list that is whole, those that are there.
    fn read_list(&mut self, found: &Found, keyspace: u8) -> io::Result<Vec<Table>> {
        let home = found.path.join(format!("keyspaces/{keyspace}"));
        let shown = format!("{}/keyspaces/{keyspace}", found.name);
        let there = tables(&home)?;
        let current = small(&home.join("current"))?.unwrap_or_default();
        let version = current.first_chunk::<8>().map(|n| u64::from_le_bytes(*n));
        let sum = current.get(8..24).and_then(|n| Some(u128::from_le_bytes(n.try_into().ok()?)));
        let listed = match (version, sum) {
            (Some(version), Some(sum)) => {
                let list = small(&home.join(format!("v{version}")))?.filter(|list| xxh3_128(list) == sum);
                list.and_then(|list| table::listed(&list))
            }
            _ => None,
        };
        let Some(listed) = listed else {
            let what = "the list of tables (current, v…) is missing or damaged; fjall does not open the segment, or opens it empty";
            self.damaged(&shown, 0, what);
            return Ok(there.into_iter().map(|(_, path)| Table { path, sum: None }).collect());
        };
        for (number, _) in there.iter().filter(|(number, _)| listed.iter().all(|(id, _)| id != number)) {
            self.notes.push(format!("{shown}/tables/{number} is not listed: a flush that was never finished"));
        }
        for (id, _) in listed.iter().filter(|(id, _)| there.iter().all(|(number, _)| id != number)) {
            self.damaged(&format!("{shown}/tables/{id}"), 0, "the table is missing");
        }
        let sum_of = |number: u64| listed.iter().find(|(id, _)| *id == number).map(|(_, sum)| *sum);
        Ok(there.into_iter().filter_map(|(n, path)| Some(Table { path, sum: Some(sum_of(n)?) })).collect())
    }

    fn damaged(&mut self, file: &str, at: u64, what: &str) {
        self.damage.push(Damaged { file: file.to_owned(), at, what: what.to_owned(), key: None, header: None });
    }

    fn add_file(&mut self, found: &Found, path: &Path) -> (usize, String) {
        let inside = path.strip_prefix(&found.path).unwrap_or(path);
        let shown = format!("{}/{}", found.name, inside.display());
        self.files.push((path.to_owned(), shown.clone()));
        (self.files.len() - 1, shown)
    }

    fn read_table(&mut self, found: &Found, table: &Table, keyspace: u8, has_journal: bool) -> io::Result<()> {
        let path = &table.path;
        let (file, shown) = self.add_file(found, path);
        let (mut blocks, mut control) = (Vec::new(), BTreeMap::new());
        let mut damage = Vec::new();
        let finished = table::walk(path, VALUE_MAX, |met| match met {
            table::Met::Item { key, value, at, proved } if parse_block_key(&key).is_some() => {
                let item = Item { keyspace: 1, key, head: head_of(value), value_len: value.len(), value_at: at };
                blocks.push((item, if proved { Reach::Read } else { Reach::Loose }));
            }
            // Newest versions stand first.
            table::Met::Item { key, value, proved: true, .. } if is_control_key(&key) => {
                control.entry(key).or_insert_with(|| value.to_vec());
            }
            table::Met::Item { .. } => {}
            table::Met::Broken { at, why } => damage.push((at, why)),
        })?;
        if !finished && has_journal && table.sum.is_none() {
            self.notes.push(format!("{shown} was never finished; the journal has its data"));
            return Ok(());
        }
        if !finished {
            self.damaged(&shown, len(path), "the table has no end");
        }
        if finished && damage.is_empty() && table.sum.is_some_and(|sum| table::sum(path).is_ok_and(|now| now != sum)) {
            self.damaged(&shown, 0, "the table is not what its checksum says");
        }
        damage.iter().for_each(|(at, why)| self.damaged(&shown, *at, why));
        if keyspace == 0 {
            return Ok(());
        }
        blocks.into_iter().for_each(|(item, reach)| self.add(file, &shown, &item, reach));
        self.control.extend(control);
        Ok(())
    }

    fn read_journal(&mut self, found: &Found, path: &Path) -> io::Result<()> {
        let (file, shown) = self.add_file(found, path);
        let keep = |key: &[u8], len: usize| if is_control_key(key) { len } else { HEADER_LEN };
        let mut cut = false;
        journal::walk_on(path, VALUE_MAX, keep, |met| match met {
            journal::Met::Batch(items) => {
                for item in items.into_iter().filter(|item| item.keyspace != META) {
                    if parse_block_key(&item.key).is_some() {
                        self.add(file, &shown, &item, if cut { Reach::Beyond } else { Reach::Read });
                    } else if is_control_key(&item.key) && !cut {
                        self.control.push((item.key, item.head));
                    }
                }
            }
            journal::Met::Gap { from, next, why, in_form, items } => {
                cut = true;
                if next.is_none() && !in_form {
                    self.notes
                        .push(format!("{shown} ends in a commit that was never finished, and never answered ({why})"));
                    return;
                }
                let what = match next {
                    Some(next) => {
                        format!("{why}; whole batches follow at byte {next}, which opening the segment cuts off")
                    }
                    None => why,
                };
                self.damaged(&shown, from, &what);
                items.iter().for_each(|item| self.add(file, &shown, item, Reach::Loose));
            }
        })
    }

    /// Enters a block, if it is one.
    fn add(&mut self, file: usize, shown: &str, item: &Item, reach: Reach) {
        let Some((lane, index)) = parse_block_key(&item.key) else { return };
        let broken = |what: String| Damaged {
            file: shown.to_owned(),
            at: item.value_at,
            what,
            key: Some((lane, index)),
            header: None,
        };
        match Header::read(&item.head) {
            Ok(header) if (header.lane, header.index) == (lane, index) => {
                let spot = Spot { file, at: item.value_at, len: item.value_len, header, reach };
                if reach == Reach::Loose {
                    let what = "the block stands in a damaged part of the file".to_owned();
                    self.damage.push(Damaged { header: Some(header), ..broken(what) });
                }
                match self.blocks.entry((lane.0, index)) {
                    Entry::Occupied(mut there) if spot.reach <= there.get().reach => drop(there.insert(spot)),
                    Entry::Occupied(_) => {}
                    Entry::Vacant(place) => drop(place.insert(spot)),
                }
            }
            Ok(other) => {
                let (lane, index) = (other.lane.0, other.index);
                self.damage
                    .push(broken(format!("the block is another one than its key says (lane {lane}, index {index})")));
            }
            Err(damage) => self.damage.push(broken(format!("the block's header is damaged: {damage}"))),
        }
    }

    /// A block's request, checked and decompressed.
    ///
    /// # Errors
    /// When the file cannot be read; inside, when the block is not what its header says.
    pub(crate) fn request(&self, spot: &Spot) -> io::Result<Result<bytes::Bytes, Damage>> {
        Ok(unframe(&spot.header, &self.value(spot)?))
    }

    /// A block as it lies there.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn value(&self, spot: &Spot) -> io::Result<Vec<u8>> {
        let mut value = vec![0; spot.len];
        File::open(&self.files[spot.file].0)?.read_exact_at(&mut value, spot.at)?;
        Ok(value)
    }

    /// The file a block stands in, from the spool's directory.
    pub(crate) fn file(&self, spot: &Spot) -> &str {
        &self.files[spot.file].1
    }
}

fn head_of(value: &[u8]) -> Vec<u8> {
    value[..value.len().min(HEADER_LEN)].to_vec()
}

/// A file of a few hundred bytes; `None`: it is not there, or far too long to be one.
fn small(path: &Path) -> io::Result<Option<Vec<u8>>> {
    const MOST: u64 = 1 << 20;
    match fs::metadata(path) {
        Ok(file) if file.is_file() && file.len() <= MOST => fs::read(path).map(Some),
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// A table's file.
struct Table {
    path: PathBuf,
    /// xxh3-128 of it, as the list says.
    sum: Option<u128>,
}

/// The tables of a keyspace that are there, in the order of their numbers.
fn tables(keyspace: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(keyspace.join("tables")) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u64>().ok());
        found.extend(number.filter(|_| path.is_file()).map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}
