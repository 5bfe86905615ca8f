//! One segment, read without opening it.

use super::{Found, Progress, layout};
use crate::spool::Lane;
use crate::spool::block::{HEADER_BEGINS, HEADER_LEN, Header, unframe};
use crate::spool::codec::Damage;
use crate::spool::disk::{State, VALUE_MAX, is_copy};
use crate::spool::journal::{self, Item};
use crate::spool::ledger::{Record, is_control_key, parse_block_key};
use crate::spool::segment::{self, META};
use crate::spool::source::{Reading, Source, small};
use crate::spool::table;
use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

/// Who gets at a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// Whoever opens the segment.
    Read,
    /// Its batch is whole, but stands behind damage in the journal: fjall does not get there, an agent does.
    Beyond,
    /// Its own checksums are all that speaks for it; what it was written with is damaged.
    Loose,
    /// The same at a journal's end, with nothing behind it: whether it was ever acknowledged is not known.
    Tail,
}

/// Where a block is, and what it says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    pub(crate) file: usize,
    /// Where its value begins in the file.
    pub(crate) at: u64,
    pub(crate) len: usize,
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

/// What is asked of a look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum How {
    /// All there is to say.
    #[default]
    All,
    /// The same, and what cannot be read is zeros.
    Whatever,
    /// Only whether it is whole: no block is entered.
    Check,
}

impl How {
    fn reading(self) -> Reading {
        if self == How::Whatever { Reading::Whatever } else { Reading::Strict }
    }
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
    /// Its first commit, which carries all of them, is whole: no older segment has to be asked.
    pub(crate) has_all_records: bool,
    /// Of a damaged one: block headers that stand anywhere in its files. Nothing is proved of their blocks, but that so much was
    /// accepted; and that only as far as it is likely, for what was accepted may hold bytes that look like one.
    pub(crate) hints: Vec<Header>,
    how: How,
    /// Of a check: blocks in tables, if there is a journal too.
    keys: BTreeSet<(Lane, u64)>,
    /// By file: from here on stands a commit that was never answered.
    torn: BTreeMap<usize, u64>,
    /// It was there when the directory was listed, and is not any more.
    pub(crate) vanished: bool,
}

impl Contents {
    /// Everything a segment holds, as far as it can be read.
    ///
    /// # Errors
    /// The disk's. With [`Reading::Whatever`] what answers EIO counts as damaged.
    pub(crate) fn of(found: &Found, reading: Reading, progress: Progress<'_>) -> io::Result<Contents> {
        let how = if reading == Reading::Whatever { How::Whatever } else { How::All };
        Contents::look(found, how, progress)
    }

    /// What speaks against opening a segment with fjall: every byte it will read is what was written, or this says what is not.
    /// Each file is read once, and nothing is kept.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn check(found: &Found) -> io::Result<Vec<Damaged>> {
        Ok(Contents::look(found, How::Check, &|_| {})?.damage)
    }

    /// What the disk did not give counts as zeros.
    pub(crate) fn is_partial(&self) -> bool {
        self.how == How::Whatever
    }

    fn look(found: &Found, how: How, progress: Progress<'_>) -> io::Result<Contents> {
        let mut contents = Contents { how, ..Contents::default() };
        match contents.read(found, progress) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !segment::is_whole(&found.path) => {
                Ok(Contents { vanished: true, ..Contents::default() })
            }
            read => read.map(|()| contents),
        }
    }

    fn read(&mut self, found: &Found, progress: Progress<'_>) -> io::Result<()> {
        if found.state == State::Spare && self.how != How::Check {
            return Ok(());
        }
        let journals = segment::journals(&found.path)?;
        let written: u64 = journals.iter().map(|path| fs::metadata(path).map_or(0, |m| m.len())).sum();
        let (keyspaces, strangers) = layout::of(&found.path)?;
        for (inside, what) in strangers {
            self.damaged(&format!("{}/{inside}", found.name), 0, what);
        }
        if small(&found.path.join("version"), self.how.reading())?
            .is_none_or(|text| !text.starts_with(segment::VERSION))
        {
            self.damaged(&format!("{}/version", found.name), 0, "the file is missing, or is not fjall 3's");
        }
        // Ours, and the one of fjall's own notes, without which it opens nothing.
        let mut tables = Vec::new();
        for keyspace in keyspaces {
            let listed = self.read_list(found, keyspace)?;
            tables.extend(listed.into_iter().map(|table| (table, keyspace)));
        }
        let is_empty = tables.iter().all(|(_, keyspace)| *keyspace == META);
        if written == 0 && is_empty && !journals.is_empty() {
            // A kill while it was made leaves that. Had it held anything, what is missing shows in the totals.
            self.notes.push(format!("{}: nothing was written to it", found.name));
        } else if written == 0 && is_empty {
            self.damaged(&found.name, 0, "neither journal nor table hold anything");
        }
        let before = self.damage.len();
        for (table, keyspace) in &tables {
            self.read_table(found, table, *keyspace, written > 0)?;
            progress(len(&table.path));
        }
        self.has_all_records = !self.control.is_empty() && self.damage.len() == before;
        for path in journals {
            self.read_journal(found, &path)?;
            progress(len(&path).min(found.bytes));
        }
        if self.how != How::Check && !self.damage.is_empty() {
            for (file, (path, _)) in self.files.iter().enumerate() {
                let end = self.torn.get(&file).copied().unwrap_or(u64::MAX);
                headers_in(path, end, self.how.reading(), &mut self.hints)?;
            }
        }
        Ok(())
    }

    /// The tables of a keyspace by its list; without a list that is whole, those that are there.
    fn read_list(&mut self, found: &Found, keyspace: u64) -> io::Result<Vec<Table>> {
        let home = found.path.join(format!("keyspaces/{keyspace}"));
        let shown = format!("{}/keyspaces/{keyspace}", found.name);
        let there = tables(&home)?;
        let current = small(&home.join("current"), self.how.reading())?.unwrap_or_default();
        let version = current.first_chunk::<8>().map(|n| u64::from_le_bytes(*n));
        let sum = current.get(8..24).and_then(|n| Some(u128::from_le_bytes(n.try_into().ok()?)));
        let listed = match (version, sum) {
            (Some(version), Some(sum)) => {
                let list = small(&home.join(format!("v{version}")), self.how.reading())?;
                list.filter(|list| xxh3_128(list) == sum).and_then(|list| table::listed(&list))
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

    fn read_table(&mut self, found: &Found, table: &Table, keyspace: u64, has_journal: bool) -> io::Result<()> {
        let path = &table.path;
        let (file, shown) = self.add_file(found, path);
        let reading = self.how.reading();
        let is_as_listed = || Ok::<_, io::Error>(table.sum == Some(table::sum(path, reading)?));
        if self.how == How::Check {
            if !is_as_listed()? {
                self.damaged(&shown, 0, "the table is not what its checksum says");
            } else if has_journal && keyspace != META {
                table::walk(path, reading, VALUE_MAX, |met| {
                    if let table::Met::Item { key, .. } = met {
                        self.keys.extend(parse_block_key(&key));
                    }
                })?;
            }
            return Ok(());
        }
        let (mut blocks, mut control) = (Vec::new(), BTreeMap::new());
        let mut damage = Vec::new();
        let finished = table::walk(path, reading, VALUE_MAX, |met| match met {
            table::Met::Item { key, value, at, proved } if parse_block_key(&key).is_some() => {
                let item = Item { keyspace: 1, key, head: head_of(value), value_len: value.len(), value_at: at };
                blocks.push((item, if proved { Reach::Read } else { Reach::Loose }));
            }
            // Newest versions stand first. Each record has a checksum of its own.
            table::Met::Item { key, value, .. } if is_control_key(&key) => {
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
        if finished && damage.is_empty() && table.sum.is_some() && !is_as_listed()? {
            self.damaged(&shown, 0, "the table is not what its checksum says");
        }
        damage.iter().for_each(|(at, why)| self.damaged(&shown, *at, why));
        if keyspace == META {
            return Ok(());
        }
        blocks.into_iter().for_each(|(item, reach)| self.add(file, &shown, &item, reach));
        self.control.extend(control);
        Ok(())
    }

    fn read_journal(&mut self, found: &Found, path: &Path) -> io::Result<()> {
        let (file, shown) = self.add_file(found, path);
        let check = self.how == How::Check;
        let keep = |key: &[u8], len: usize| match is_control_key(key) {
            _ if check => 0,
            true => len,
            false => HEADER_LEN,
        };
        let mut begun = false;
        let mut cut = false;
        let mut torn = None;
        let mut strange = false;
        journal::walk_on(path, self.how.reading(), VALUE_MAX, keep, |met| match met {
            journal::Met::Batch(items) => {
                for item in items.into_iter().filter(|item| item.keyspace != META) {
                    // fjall takes a table's word for everything of its age: what a crash in the middle of sealing left is in both.
                    strange |= !self.keys.is_empty()
                        && parse_block_key(&item.key).is_some_and(|key| !self.keys.contains(&key));
                    if parse_block_key(&item.key).is_some() {
                        self.add(file, &shown, &item, if cut { Reach::Beyond } else { Reach::Read });
                    } else if is_control_key(&item.key) && !check {
                        self.has_all_records |= !begun;
                        self.control.push((item.key, item.head));
                    }
                }
                begun = true;
            }
            journal::Met::Gap { from, next, why, in_form, items } => {
                (cut, begun) = (true, true);
                if next.is_none() && !in_form {
                    torn = Some(from);
                    self.notes
                        .push(format!("{shown} ends in a commit that was never finished, and never answered ({why})"));
                    return;
                }
                let what = match next {
                    Some(next) => format!("{why}; whole batches follow at byte {next}"),
                    None => why,
                };
                self.damaged(&shown, from, &what);
                // A batch is begun when the one before it is answered, and a copy is a batch of what was answered long ago.
                let reach = if next.is_some() || is_copy(&found.name) { Reach::Loose } else { Reach::Tail };
                for item in items {
                    if is_control_key(&item.key) && !check {
                        self.control.push((item.key, item.head)); // it has a checksum of its own
                    } else {
                        self.add(file, &shown, &item, reach);
                    }
                }
            }
        })?;
        self.torn.extend(torn.map(|from| (file, from)));
        if strange {
            self.damaged(&shown, 0, "the segment's tables do not know what its journal holds");
        }
        Ok(())
    }

    /// Enters a block, if it is one.
    fn add(&mut self, file: usize, shown: &str, item: &Item, reach: Reach) {
        let Some((lane, index)) = parse_block_key(&item.key).filter(|_| self.how != How::Check) else { return };
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
                if reach >= Reach::Loose {
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
        Source::open(&self.files[spot.file].0, self.how.reading())?.read_exact_at(&mut value, spot.at)?;
        Ok(value)
    }

    /// What an agent hands out of it: what was written whole, and what its own checksums prove, if nothing else has its place.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn handed_out(&self) -> io::Result<BTreeMap<(u32, u64), Spot>> {
        let whole = self.blocks.iter().filter(|(_, spot)| spot.reach < Reach::Loose);
        let mut given: BTreeMap<(u32, u64), Spot> = whole.map(|(key, spot)| (*key, *spot)).collect();
        for ((lane, index), spot) in self.blocks.iter().filter(|(_, spot)| spot.reach >= Reach::Loose) {
            let totals = spot.header.accepted_before()..spot.header.accepted_total;
            let before = given.range((*lane, 0)..(*lane, *index)).next_back();
            let behind = given.range((*lane, *index)..=(*lane, u64::MAX)).next();
            let fits = before.is_none_or(|(_, b)| b.header.accepted_total <= totals.start)
                && behind.is_none_or(|(_, b)| totals.end <= b.header.accepted_before());
            if fits && self.request(spot)?.is_ok() {
                given.insert((*lane, *index), *spot);
            }
        }
        Ok(given)
    }

    /// Path of a file a block stands in.
    pub(crate) fn path(&self, spot: &Spot) -> &Path {
        &self.files[spot.file].0
    }

    /// The file a block stands in, from the spool's directory.
    pub(crate) fn file(&self, spot: &Spot) -> &str {
        &self.files[spot.file].1
    }
}

/// Block headers with a checksum that holds, wherever they stand in a file before `end`.
fn headers_in(path: &Path, end: u64, reading: Reading, found: &mut Vec<Header>) -> io::Result<()> {
    const PIECE: usize = 256 << 10;
    let file = Source::open(path, reading)?;
    let end = file.len().min(end);
    let mut piece = vec![0; PIECE];
    let mut at = file.next_data(0);
    while at + HEADER_LEN as u64 <= end {
        let n = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        file.read_exact_at(&mut piece[..n], at)?;
        let begins = piece[..n].windows(HEADER_LEN).filter(|window| window.starts_with(&HEADER_BEGINS));
        found.extend(begins.filter_map(|window| Header::read(window).ok()));
        at = file.next_data(at + (n + 1 - HEADER_LEN) as u64);
    }
    Ok(())
}

fn head_of(value: &[u8]) -> Vec<u8> {
    value[..value.len().min(HEADER_LEN)].to_vec()
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
