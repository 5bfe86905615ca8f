//! What a disk may hold after the power failed: the log of a recorder, played up to a tick, under a model that keeps
//! every promise a file system makes and no other.
//!
//! * What an `fsync` or `fdatasync` that ended well before the cut covers is there. Of everything later of that file
//!   any part may be there: each write not at all, whole, or in some of its 512-byte sectors; in any order.
//! * *Lenient* about names: making, renaming, removing and changing lengths happen in order, as in the journal of ext4 or
//!   XFS; up to some moment all of them, after it none. A sync of a file keeps its name and all that happened before.
//! * *Strict* about names: a name is kept by a sync of its directory and by nothing else; what was not synced may be
//!   kept or lost one by one.
//! * After a sync that failed, what it should have covered may never reach the disk, also when a later one succeeds
//!   (Linux marks the pages clean).

use super::recorder::Log;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tfo_otel_agent::base::Dice;

/// A file or directory, whatever it is called at the moment. 0 is the root.
pub(crate) type Node = u64;

/// What is written in one piece, or not.
const SECTOR: u64 = 512;

/// Something that changes files, or makes changes last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum What {
    Make {
        parent: Node,
        name: String,
        node: Node,
        dir: bool,
    },
    Rename {
        from: Node,
        old: String,
        to: Node,
        new: String,
    },
    Unlink {
        parent: Node,
        name: String,
    },
    SetLen {
        node: Node,
        len: u64,
    },
    Write {
        node: Node,
        at: u64,
        #[serde(with = "text")]
        data: Vec<u8>,
    },
    Sync {
        node: Node,
        failed: bool,
    },
}

/// The same with its time and, for a sync, its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Op {
    pub(crate) entered: u64,
    pub(crate) left: u64,
    pub(crate) what: What,
    pub(crate) site: Option<String>,
}

/// What was there before the recording.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Base(Vec<Existing>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Existing {
    parent: Node,
    name: String,
    node: Node,
    /// `None`: a directory.
    content: Option<Content>,
}

impl Base {
    pub(crate) fn add(&mut self, parent: Node, name: String, node: Node, content: Option<Vec<u8>>) {
        let content = content.map(|data| Content { len: data.len() as u64, data });
        self.0.push(Existing { parent, name, node, content });
    }
}

/// A file; behind `data` come zeros up to `len`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    len: u64,
    #[serde(with = "text")]
    data: Vec<u8>,
}

mod text {
    use super::*;
    pub(crate) fn serialize<S: serde::Serializer>(data: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let end = data.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        let text = base64::engine::general_purpose::STANDARD.encode(&data[..end]);
        (data.len(), text).serialize(to)
    }
    pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let (len, text) = <(usize, String)>::deserialize(from)?;
        let mut data = base64::engine::general_purpose::STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        data.resize(len, 0);
        Ok(data)
    }
}

impl Content {
    fn set_len(&mut self, len: u64) {
        self.len = len;
        self.data.truncate(usize::try_from(len).expect("small"));
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        let (from, to) = (usize::try_from(at).expect("small"), usize::try_from(at).expect("small") + data.len());
        if self.data.len() < to {
            self.data.resize(to, 0);
        }
        self.data[from..to].copy_from_slice(data);
        self.len = self.len.max(to as u64);
    }
}

/// Who keeps a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Names {
    Lenient,
    Strict,
}

/// What becomes of what nothing kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Rest {
    /// All of it is gone.
    Nothing,
    /// All of it is there.
    All,
    /// What came before some moment is there; the write at that moment is torn.
    Order,
    /// Any part of it is there.
    Any,
}

/// A sync that does not do what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    /// The call is not in the program.
    Without(String),
    /// It fails every time and the program does not look.
    Ignoring(String),
}

/// How one image is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cut {
    pub(crate) tick: u64,
    pub(crate) names: Names,
    pub(crate) rest: Rest,
    pub(crate) seed: u64,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (names, rest) = (format!("{:?}", self.names).to_lowercase(), format!("{:?}", self.rest).to_lowercase());
        write!(f, "cut at tick {}, names {names}, unsynced: {rest}", self.tick)
    }
}

/// Files and directories by their path below the root.
#[derive(Debug, Default)]
pub(crate) struct Image(pub(crate) BTreeMap<PathBuf, Option<Content>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pending,
    Kept,
    /// A sync of it failed.
    Doomed,
}

#[derive(Default)]
struct FileState {
    base: Content,
    ops: Vec<(usize, Fate)>,
    /// Before it nothing is pending.
    pending_from: usize,
}

/// A change of names, with what it is about.
struct Change {
    op: usize,
    node: Option<Node>,
    kept: bool,
}

impl Log {
    /// The image a cut leaves.
    pub(crate) fn image(&self, cut: Cut, sabotage: &Sabotage) -> Image {
        let mut dice = Dice::seeded(cut.seed);
        let mut files: BTreeMap<Node, FileState> = BTreeMap::new();
        let mut live: BTreeMap<(Node, String), Node> = BTreeMap::new();
        for e in &self.base.0 {
            live.insert((e.parent, e.name.clone()), e.node);
            if let Some(content) = &e.content {
                files.insert(e.node, FileState { base: content.clone(), ..FileState::default() });
            }
        }
        let mut dirs = Dirs(live.clone());
        let mut changes: Vec<Change> = Vec::new();
        // Those of a directory that no sync of it has kept yet.
        let mut unkept: BTreeMap<Node, Vec<usize>> = BTreeMap::new();
        // Names and lengths, in order; of each node the last one that concerns it.
        let mut journal: Vec<usize> = Vec::new();
        let mut last_of: BTreeMap<Node, Vec<usize>> = BTreeMap::new();
        let mut kept_up_to = 0;
        for (i, op) in self.ops.iter().enumerate().filter(|(_, op)| op.entered <= cut.tick) {
            let mut concerns = |nodes: &[Node], journal: &mut Vec<usize>| {
                journal.push(i);
                for node in nodes {
                    last_of.entry(*node).or_default().push(journal.len());
                }
            };
            match &op.what {
                What::Make { parent, name, node, dir } => {
                    if !dir {
                        files.insert(*node, FileState::default());
                    }
                    live.insert((*parent, name.clone()), *node);
                    unkept.entry(*parent).or_default().push(changes.len());
                    changes.push(Change { op: i, node: Some(*node), kept: false });
                    concerns(&[*parent, *node], &mut journal);
                }
                What::Rename { from, old, to, new } => {
                    let node = live.remove(&(*from, old.clone()));
                    if let Some(node) = node {
                        live.insert((*to, new.clone()), node);
                        concerns(&[*from, *to, node], &mut journal);
                    }
                    unkept.entry(*from).or_default().push(changes.len());
                    unkept.entry(*to).or_default().push(changes.len());
                    changes.push(Change { op: i, node, kept: false });
                }
                What::Unlink { parent, name } => {
                    let node = live.remove(&(*parent, name.clone()));
                    unkept.entry(*parent).or_default().push(changes.len());
                    changes.push(Change { op: i, node, kept: false });
                    concerns(&[*parent], &mut journal);
                }
                What::SetLen { node, .. } => {
                    files.entry(*node).or_default().ops.push((i, Fate::Pending));
                    concerns(&[*node], &mut journal);
                }
                What::Write { node, .. } => files.entry(*node).or_default().ops.push((i, Fate::Pending)),
                What::Sync { node, failed } => {
                    let here = |site: &String| op.site.as_ref().is_some_and(|here| is_at(here, site));
                    let ignored = matches!(sabotage, Sabotage::Ignoring(site) if here(site));
                    if op.left > cut.tick || matches!(sabotage, Sabotage::Without(site) if here(site)) {
                        continue;
                    }
                    let fails = *failed || ignored;
                    if let Some(file) = files.get_mut(node) {
                        let ops = &mut file.ops;
                        for (earlier, fate) in &mut ops[file.pending_from..] {
                            if *fate == Fate::Pending && self.ops[*earlier].left <= op.entered {
                                *fate = if fails { Fate::Doomed } else { Fate::Kept };
                            }
                        }
                        file.pending_from +=
                            ops[file.pending_from..].iter().take_while(|(_, f)| *f != Fate::Pending).count();
                    }
                    if !fails {
                        let done = |c: &usize| self.ops[changes[*c].op].left <= op.entered;
                        let mut mine = unkept.remove(node).unwrap_or_default();
                        let later: Vec<usize> = mine.extract_if(.., |c| !done(c)).collect();
                        mine.into_iter().for_each(|c| changes[c].kept = true);
                        unkept.insert(*node, later);
                        let before = |n: &&usize| self.ops[journal[**n - 1]].left <= op.entered;
                        let last = last_of.get(node).and_then(|ns| ns.iter().rev().find(before)).copied();
                        kept_up_to = kept_up_to.max(last.unwrap_or(0));
                    }
                }
            }
        }
        let moment = dice.within(cut.tick.saturating_sub(dice.clone().within(1..400))..cut.tick + 1);
        let journaled = match cut.rest {
            Rest::Nothing => kept_up_to,
            Rest::All => journal.len(),
            Rest::Order | Rest::Any => {
                usize::try_from(dice.within(kept_up_to as u64..journal.len() as u64 + 1)).expect("small")
            }
        };
        let mut happened = vec![false; self.ops.len()];
        journal[..journaled].iter().for_each(|i| happened[*i] = true);
        for change in &changes {
            let op = &self.ops[change.op];
            let kept = match cut.names {
                Names::Lenient => happened[change.op],
                Names::Strict => change.kept || keeps(cut.rest, op, moment, &mut dice),
            };
            if kept {
                dirs.change(&op.what, change.node);
            }
        }
        let contents = files.iter().map(|(node, file)| {
            let length = |i: usize, dice: &mut Dice| match cut.names {
                Names::Lenient => happened[i],
                Names::Strict => keeps(cut.rest, &self.ops[i], moment, dice),
            };
            (*node, self.content(file, cut.rest, moment, &mut dice, length))
        });
        let contents: BTreeMap<Node, Content> = contents.collect();
        let mut image = Image::default();
        dirs.walk(0, Path::new(""), &contents, &mut image);
        image
    }

    fn content(
        &self,
        file: &FileState,
        rest: Rest,
        moment: u64,
        dice: &mut Dice,
        length: impl Fn(usize, &mut Dice) -> bool,
    ) -> Content {
        let mut content = file.base.clone();
        let (mut lengths_end, mut shrink_lost) = (false, false);
        for (i, fate) in &file.ops {
            let (op, kept) = (&self.ops[*i], *fate == Fate::Kept);
            match &op.what {
                What::SetLen { len, .. } => {
                    if kept || (!lengths_end && length(*i, dice)) {
                        content.set_len(*len);
                    } else {
                        lengths_end = true;
                        shrink_lost |= *len < content.len;
                    }
                }
                // What was written after a truncation lies in new blocks, which belong to the file only after it.
                What::Write { .. } if !kept && shrink_lost => {}
                What::Write { at, data, .. } => match (kept, rest) {
                    (true, _) | (_, Rest::All) => content.write(*at, data),
                    (_, Rest::Nothing) => {}
                    (_, Rest::Order) if op.left <= moment => content.write(*at, data),
                    (_, Rest::Order) if op.entered <= moment => tear(&mut content, *at, data, dice),
                    (_, Rest::Order) => {}
                    (_, Rest::Any) => match dice.within(0..3) {
                        0 => {}
                        1 => content.write(*at, data),
                        _ => tear(&mut content, *at, data, dice),
                    },
                },
                _ => {}
            }
        }
        content
    }

    /// Where the replay of everything and the directory differ: something escaped, or the model is wrong.
    pub(crate) fn differences(&self, root: &Path) -> Vec<String> {
        let all = Cut { tick: self.end, names: Names::Lenient, rest: Rest::All, seed: 0 };
        let Image(mut replayed) = self.image(all, &Sabotage::None);
        let mut found = Vec::new();
        let mut left = vec![PathBuf::new()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(root.join(&dir)).expect("readable") {
                let entry = entry.expect("readable");
                let path = dir.join(entry.file_name());
                let is_dir = entry.file_type().expect("readable").is_dir();
                match replayed.remove(&path) {
                    None => found.push(format!("{} is there and nobody made it", path.display())),
                    Some(None) if is_dir => {}
                    Some(Some(content)) if !is_dir => {
                        let bytes = fs::read(entry.path()).expect("readable");
                        let (written, zeros) = bytes.split_at(content.data.len().min(bytes.len()));
                        if bytes.len() as u64 != content.len || written != content.data || zeros.iter().any(|b| *b != 0)
                        {
                            let len = content.len;
                            found.push(format!(
                                "{}: {len} bytes seen, {} there, or others",
                                path.display(),
                                bytes.len()
                            ));
                        }
                    }
                    Some(_) => found.push(format!("{} is of another kind", path.display())),
                }
                if is_dir {
                    left.push(path);
                }
            }
        }
        found.extend(replayed.keys().map(|path| format!("{} is not there and nobody removed it", path.display())));
        found
    }
}

/// Whether a sync stands at a site, or at one of the sites a name with a `*` in it means.
pub(crate) fn is_at(here: &str, site: &str) -> bool {
    site.split_once('*')
        .map_or(here == site, |(head, tail)| here.starts_with(head) && here[head.len()..].contains(tail))
}

fn keeps(rest: Rest, op: &Op, moment: u64, dice: &mut Dice) -> bool {
    match rest {
        Rest::Nothing => false,
        Rest::All => true,
        Rest::Order => op.left <= moment,
        Rest::Any => dice.chance(1, 2),
    }
}

/// Some sectors of a write. The length may reach as far as the whole of it would.
fn tear(content: &mut Content, at: u64, data: &[u8], dice: &mut Dice) {
    let end = at + data.len() as u64;
    let sectors = (at / SECTOR)..end.div_ceil(SECTOR);
    let prefix = dice.chance(1, 2).then(|| dice.within(sectors.start..sectors.end + 1));
    for sector in sectors {
        let kept = prefix.map_or_else(|| dice.chance(1, 2), |until| sector < until);
        let (from, to) = ((sector * SECTOR).max(at), ((sector + 1) * SECTOR).min(end));
        if kept && from < to {
            let piece = usize::try_from(from - at).expect("small")..usize::try_from(to - at).expect("small");
            content.write(from, &data[piece]);
        }
    }
    if dice.chance(1, 2) {
        content.len = content.len.max(end);
    }
}

struct Dirs(BTreeMap<(Node, String), Node>);

impl Dirs {
    fn change(&mut self, what: &What, about: Option<Node>) {
        match what {
            What::Make { parent, name, node, .. } => {
                self.0.insert((*parent, name.clone()), *node);
            }
            What::Rename { from, old, to, new } => {
                let key = (*from, old.clone());
                if self.0.get(&key).copied() == about && about.is_some() {
                    let node = self.0.remove(&key).expect("just seen");
                    self.0.insert((*to, new.clone()), node);
                }
            }
            What::Unlink { parent, name } => {
                let key = (*parent, name.clone());
                if self.0.get(&key).copied() == about {
                    self.0.remove(&key);
                }
            }
            _ => {}
        }
    }

    fn walk(&self, dir: Node, path: &Path, contents: &BTreeMap<Node, Content>, image: &mut Image) {
        for ((_, name), node) in self.0.range((dir, String::new())..).take_while(|((d, _), _)| *d == dir) {
            let path = path.join(name);
            let content = contents.get(node).cloned();
            let is_dir = content.is_none();
            image.0.insert(path.clone(), content);
            if is_dir {
                self.walk(*node, &path, contents, image);
            }
        }
    }
}

impl Image {
    /// Puts it into an empty directory.
    pub(crate) fn write(&self, root: &Path) -> io::Result<()> {
        for (path, content) in &self.0 {
            let path = root.join(path);
            match content {
                None => fs::create_dir(&path)?,
                Some(content) => {
                    let file = fs::File::create(&path)?;
                    file.set_len(content.len)?;
                    // Zeros stay a hole: a journal is mostly that.
                    for (n, piece) in content.data.chunks(4_096).enumerate().filter(|(_, p)| p.iter().any(|b| *b != 0))
                    {
                        file.write_all_at(piece, n as u64 * 4_096)?;
                    }
                }
            }
        }
        Ok(())
    }
}
