//! A walk over fjall's journal that believes no length.
//!
//! fjall's own recovery allocates what a length field says (up to 4 GiB for one flipped byte: a boot loop) and is
//! silent about what it cuts off (reference/fjall-faults.md). So the journal is walked here first: to learn at start
//! what the newest segment holds without opening it, and to guard every opening. Layout as in fjall 3.1.13,
//! `src/journal/entry.rs`; the version is pinned.
//!
//! ```text
//! batch = 1 count:u32 seqno:u64  item*  3 xxh3(items):u64 "FJL\x03"
//! item  = 2 type:u8 compression:u8 keyspace:u64 key_len:u16 value_len:u32 stored_len:u32 key value
//!       | 4 keyspace:u64
//! ```

use super::source::{Reading, Source};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: [u8; 4] = *b"FJL\x03";

/// Longest key we write (cursor: 4 + 1 + 4 + 4), and more than fjall's own meta keyspace uses.
const KEY_MAX: usize = 1_024;

/// One key and value of a whole, checksummed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// fjall's number of the keyspace.
    pub(crate) keyspace: u64,
    pub(crate) key: Vec<u8>,
    /// The first bytes of the value, as many as the walk was asked to keep.
    pub(crate) head: Vec<u8>,
    /// All of the value's length.
    pub(crate) value_len: usize,
    /// Where the value starts in the file.
    pub(crate) value_at: u64,
}

/// How a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Whole batches seen.
    pub(crate) batches: u64,
    /// Where the last whole batch ends: everything before it was proved by checksums.
    pub(crate) proved_len: u64,
    /// Why the walk stopped there.
    pub(crate) stop: Stop,
}

/// What stands after the last whole batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The end of the file, or the zeros fjall preallocates: nothing was written after it.
    Clean,
    /// Something that is no whole batch: a torn tail, or damage.
    Broken(String),
}

/// Walks the journal at `path`. `keep` says how many bytes of an item's value to hand on; `found` gets the items of
/// each whole batch, in order.
///
/// # Errors
/// Only when the file cannot be read; damage ends the walk and is told by [`Walk::stop`].
pub(crate) fn walk(
    path: &Path,
    value_max: usize,
    keep: impl Fn(&[u8], usize) -> usize,
    mut found: impl FnMut(Vec<Item>),
) -> io::Result<Walk> {
    let mut tape = Tape::open(path, Reading::Strict)?;
    let mut walk = Walk { batches: 0, proved_len: 0, stop: Stop::Clean };
    loop {
        match tape.batch(value_max, &keep) {
            Ok(Some(items)) => {
                walk.batches += 1;
                walk.proved_len = tape.at;
                found(items);
            }
            Ok(None) => return Ok(walk),
            Err(Trouble::Io(e)) => return Err(e),
            Err(Trouble::Broken { why, .. }) => {
                walk.stop = Stop::Broken(why);
                return Ok(walk);
            }
        }
    }
}

/// What [`walk_on`] meets, in order.
#[derive(Debug)]
pub(crate) enum Met {
    /// A whole batch.
    Batch(Vec<Item>),
    /// Bytes that are no whole batch, up to the next one.
    Gap {
        /// Where they begin.
        from: u64,
        /// Where the next whole batch begins; `None`: there is none.
        next: Option<u64>,
        why: String,
        /// They were written to their end, which a torn write is not: they have the form of a batch, or end as one does.
        in_form: bool,
        /// Items with the form of a block or a control record of ours that stand in there. Nothing is proved of them.
        items: Vec<Item>,
    },
}

/// Walks the journal at `path` as [`walk`] does, and on behind damage, to what neither fjall nor [`walk`] reach: each batch is
/// whole by its own checksum. For looking; whoever opens the segment has it cut at the first gap.
///
/// # Errors
/// Only when the file cannot be read.
pub(crate) fn walk_on(
    path: &Path,
    how: Reading,
    value_max: usize,
    keep: impl Fn(&[u8], usize) -> usize,
    mut met: impl FnMut(Met),
) -> io::Result<()> {
    let look = Source::open(path, how)?;
    let mut tape = Tape::open(path, how)?;
    let len = tape.len;
    // Each byte may be read a few times over while the next whole batch is searched, and not more often.
    let mut patience = len.saturating_mul(4) + (16 << 20);
    loop {
        let from = tape.at;
        let (why, in_form) = match tape.batch(value_max, &keep) {
            Ok(Some(items)) => {
                met(Met::Batch(items));
                continue;
            }
            Err(Trouble::Io(e)) => return Err(e),
            Ok(None) if from == len => return Ok(()),
            Ok(None) => (format!("at byte {from}: zeros, and a batch behind them"), true),
            Err(Trouble::Broken { why, in_form }) => (why, in_form),
        };
        let is_end = why.ends_with("behind them");
        let failed = tape.at;
        let next = tape.search(&look, from + 1, value_max, &mut patience)?;
        let in_form = match next {
            Some(_) => in_form,
            None if is_no_torn_write(&look, from, failed, in_form)? => true,
            None if is_end => return Ok(()), // preallocated, and nothing was written there
            None => false,
        };
        let items = tape.salvage(&look, from..next.unwrap_or(len), value_max, &keep)?;
        met(Met::Gap { from, next, why, in_form, items });
        match next {
            Some(next) => tape.go(next)?,
            None => return Ok(()),
        }
    }
}

enum Trouble {
    Io(io::Error),
    Broken {
        why: String,
        /// The batch reached its end, and is not what its checksum says.
        in_form: bool,
    },
}

struct Tape {
    file: BufReader<Source>,
    at: u64,
    len: u64,
}

impl Tape {
    fn open(path: &Path, how: Reading) -> io::Result<Tape> {
        let file = Source::open(path, how)?;
        Ok(Tape { at: 0, len: file.len(), file: BufReader::with_capacity(64 << 10, file) })
    }

    /// The next whole batch; `None` at a clean end.
    fn batch(&mut self, value_max: usize, keep: &impl Fn(&[u8], usize) -> usize) -> Result<Option<Vec<Item>>, Trouble> {
        if self.at == self.len {
            return Ok(None);
        }
        let start = self.at;
        match self.u8()? {
            START => {}
            0 if self.only_zeros(13)? => return Ok(None),
            other => return broken(start, format_args!("tag {other} where a batch should begin")),
        }
        let count = self.u32()?;
        let _seqno = self.u64()?;
        let mut items = Vec::new(); // grows with what is there, never by `count`
        let mut sum = Xxh3::new();
        for _ in 0..count {
            let at = self.at;
            match self.u8()? {
                ITEM => items.push(self.item(at, value_max, keep, &mut sum)?),
                CLEAR => {
                    let keyspace = self.u64()?;
                    sum.update(&[CLEAR]);
                    sum.update(&keyspace.to_le_bytes());
                }
                other => return broken(at, format_args!("tag {other} where an item should begin")),
            }
        }
        let at = self.at;
        match self.u8()? {
            END => {}
            // What a crash tore is there or is the zeros of preallocation.
            other => {
                let why = format!("at byte {at}: tag {other} where the batch should end");
                return Err(Trouble::Broken { why, in_form: other != 0 });
            }
        }
        let matches = self.u64()? == sum.digest();
        let trailer = self.bytes::<4>()?;
        if !matches {
            let why = format!("at byte {start}: checksum of the batch does not match");
            return Err(Trouble::Broken { why, in_form: trailer == MAGIC });
        }
        if trailer != MAGIC {
            let why = format!("at byte {at}: the batch's trailer is not fjall's");
            return Err(Trouble::Broken { why, in_form: true });
        }
        Ok(Some(items))
    }

    fn go(&mut self, at: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(at))?;
        self.at = at;
        Ok(())
    }

    /// The first whole batch at or after `at`.
    fn search(&mut self, look: &Source, at: u64, value_max: usize, patience: &mut u64) -> io::Result<Option<u64>> {
        // A batch of ours begins with an item or the clearing of a keyspace; a few bytes tell nearly everything else.
        let begins = |head: &[u8]| head[0] == START && matches!(head[13..16], [ITEM, 0, 0] | [CLEAR, ..]);
        let mut candidates = Vec::new();
        let mut from = at;
        while from < self.len && *patience > 0 {
            from = scan(look, from, self.len, 16, |here, head| {
                if begins(head) {
                    candidates.push(here);
                }
            })?;
            for here in candidates.drain(..) {
                self.go(here)?;
                let is_batch = match self.batch(value_max, &|_, _| 0) {
                    Ok(found) => found.is_some(),
                    Err(Trouble::Broken { .. }) => false,
                    Err(Trouble::Io(e)) => return Err(e),
                };
                if is_batch {
                    return Ok(Some(here));
                }
                *patience = patience.saturating_sub(self.at - here + 64);
            }
        }
        Ok(None)
    }

    /// Items between two places that look like ours: of our keyspace, with a key as long as ours are.
    fn salvage(
        &mut self,
        look: &Source,
        range: std::ops::Range<u64>,
        value_max: usize,
        keep: &impl Fn(&[u8], usize) -> usize,
    ) -> io::Result<Vec<Item>> {
        let mut begins = Vec::new();
        let mut from = range.start;
        while from < range.end {
            from = scan(look, from, range.end, HEAD_OF_ITEM.len() + 2, |here, head| {
                if head.starts_with(HEAD_OF_ITEM) && OUR_KEYS.contains(&[head[11], head[12]]) {
                    begins.push(here);
                }
            })?;
        }
        let (mut items, mut end) = (Vec::new(), range.start);
        for here in begins {
            if here < end {
                continue; // inside the value of the last one
            }
            self.go(here + 1)?;
            match self.item(here, value_max, keep, &mut Xxh3::new()) {
                Ok(item) if self.at <= range.end => {
                    end = self.at;
                    items.push(item);
                }
                Ok(_) | Err(Trouble::Broken { .. }) => {}
                Err(Trouble::Io(e)) => return Err(e),
            }
        }
        Ok(items)
    }

    fn item(
        &mut self,
        at: u64,
        value_max: usize,
        keep: &impl Fn(&[u8], usize) -> usize,
        sum: &mut Xxh3,
    ) -> Result<Item, Trouble> {
        let head: [u8; 20] = self.bytes()?;
        let u32_at = |i: usize| u32::from_le_bytes(head[i..i + 4].try_into().expect("four bytes of twenty")) as usize;
        let keyspace = u64::from_le_bytes(head[2..10].try_into().expect("eight bytes of twenty"));
        let key_len = usize::from(u16::from_le_bytes([head[10], head[11]]));
        let (value_len, stored_len) = (u32_at(12), u32_at(16));
        if head[1] != 0 || value_len != stored_len || value_len > value_max || key_len > KEY_MAX {
            return broken(
                at,
                format_args!(
                    "an item with key of {key_len}, value of {value_len} ({stored_len} stored), compression {}",
                    head[1]
                ),
            );
        }
        if (key_len + stored_len) as u64 > self.len - self.at {
            return broken(at, format_args!("an item that ends after the file"));
        }
        sum.update(&[ITEM]);
        sum.update(&head);
        let mut key = vec![0; key_len];
        self.fill(&mut key)?;
        sum.update(&key);
        let value_at = self.at;
        let mut kept = vec![0; keep(&key, value_len).min(value_len)];
        self.fill(&mut kept)?;
        sum.update(&kept);
        let mut rest = value_len - kept.len();
        let mut piece = [0; 4_096];
        while rest > 0 {
            let n = rest.min(piece.len());
            self.fill(&mut piece[..n])?;
            sum.update(&piece[..n]);
            rest -= n;
        }
        Ok(Item { keyspace, key, head: kept, value_len, value_at })
    }

    /// Whether the next bytes (as many as `n`, fewer at the end of the file) are the zeros of preallocation.
    fn only_zeros(&mut self, n: u64) -> Result<bool, Trouble> {
        let mut bytes = Vec::new();
        (&mut self.file).take(n).read_to_end(&mut bytes).map_err(Trouble::Io)?;
        Ok(bytes.iter().all(|&b| b == 0))
    }

    fn fill(&mut self, to: &mut [u8]) -> Result<(), Trouble> {
        if to.len() as u64 > self.len - self.at {
            return broken(self.at, format_args!("the file ends inside a batch"));
        }
        self.file.read_exact(to).map_err(Trouble::Io)?;
        self.at += to.len() as u64;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Trouble> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
    fn u8(&mut self) -> Result<u8, Trouble> {
        Ok(self.bytes::<1>()?[0])
    }
    fn u32(&mut self) -> Result<u32, Trouble> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }
    fn u64(&mut self) -> Result<u64, Trouble> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }
}

fn broken<T>(at: u64, why: std::fmt::Arguments<'_>) -> Result<T, Trouble> {
    Err(Trouble::Broken { why: format!("at byte {at}: {why}"), in_form: false })
}

/// How an item of ours begins: an uncompressed value of keyspace 1.
const HEAD_OF_ITEM: &[u8] = &[ITEM, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// How long our keys are: of blocks, lanes and exporters, cursors.
const OUR_KEYS: [[u8; 2]; 3] = [[12, 0], [9, 0], [13, 0]];

/// Whether what stands from here to the file's end is damage, and not what a crash tore. A write that a kill tore has its form up
/// to where it ends, with the zeros of preallocation behind; of one that a power cut tore whole pages are such zeros. If it
/// `failed` to be a batch before its end, or is `in_form`, or the last bytes are the end of one, it was written to its end; and if
/// there are no zeros behind, the file was cut.
fn is_no_torn_write(file: &Source, from: u64, failed: u64, in_form: bool) -> io::Result<bool> {
    let len = file.len();
    const PAGE: u64 = 4_096;
    /// An item's head, which may be torn itself.
    const HEAD: u64 = 21;
    const LEN: usize = 1 + 8 + MAGIC.len();
    let (mut end, mut empty, mut is_patchy) = (from, false, false);
    let mut at = from;
    let mut page = [0; PAGE as usize];
    while at < len {
        let data = file.next_data(at);
        empty |= data > at;
        at = data;
        let n = usize::try_from((PAGE - at % PAGE).min(len - at)).expect("a page at most");
        file.read_exact_at(&mut page[..n], at)?;
        match page[..n].iter().rposition(|byte| *byte != 0) {
            None => empty = true,
            Some(last) => {
                is_patchy |= empty;
                end = at + last as u64 + 1;
            }
        }
        at += n as u64;
    }
    let Some(begin) = end.checked_sub(LEN as u64).filter(|begin| *begin >= from && !is_patchy) else {
        return Ok(false);
    };
    let mut last = [0; LEN];
    file.read_exact_at(&mut last, begin)?;
    Ok(in_form || end == len || end > failed + HEAD || (last[0] == END && last.ends_with(&MAGIC)))
}

/// Shows `look` every window of `n` bytes in the next piece of the file; gives where the piece after it begins.
fn scan(file: &Source, from: u64, to: u64, n: usize, mut look: impl FnMut(u64, &[u8])) -> io::Result<u64> {
    const PIECE: usize = 256 << 10;
    static ZEROS: [u8; PIECE] = [0; PIECE]; // most of a journal is preallocated, and compared at once
    let from = file.next_data(from).min(to);
    let len = usize::try_from(to - from).unwrap_or(PIECE).min(PIECE);
    if len < n {
        return Ok(to);
    }
    let mut piece = vec![0; len];
    file.read_exact_at(&mut piece, from)?;
    if piece != ZEROS[..len] {
        for (i, window) in piece.windows(n).enumerate().filter(|(_, window)| window[0] != 0) {
            look(from + i as u64, window);
        }
    }
    Ok(if from + len as u64 == to { to } else { from + (len - n + 1) as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};
    use proptest::prelude::*;
    use std::io::Write as _;

    /// Three batches written by fjall itself: the layout is theirs, so the test asks them. Made once, 45 fsyncs each.
    fn journal_by_fjall() -> (tempfile::TempDir, std::path::PathBuf) {
        static WRITTEN: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let bytes = WRITTEN.get_or_init(|| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let db = Database::builder(dir.path()).worker_threads(1).open().expect("a new database");
            let q = db.keyspace("q", KeyspaceCreateOptions::default).expect("a new keyspace");
            for n in 0..3_u8 {
                let mut batch = db.batch().durability(Some(PersistMode::SyncData));
                for i in 0..=n {
                    batch.insert(&q, [n, i], vec![i; 1_000 * usize::from(n)]);
                }
                batch.commit().expect("space for a few kilobytes");
            }
            drop((q, db));
            let mut bytes = std::fs::read(dir.path().join("0.jnl")).expect("fjall's first journal");
            bytes.truncate(16 << 10); // of 64 MiB of preallocated zeros
            bytes
        });
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("0.jnl");
        std::fs::write(&path, bytes).expect("space for a few kilobytes");
        (dir, path)
    }

    fn walk_all(path: &Path) -> (Walk, Vec<Item>) {
        let mut items = Vec::new();
        let walk = walk(path, 1 << 20, |_, n| n.min(3), |batch| items.extend(batch)).expect("readable");
        (walk, items)
    }

    #[test]
    fn the_walk_sees_what_fjall_wrote() {
        let (_dir, path) = journal_by_fjall();
        let (walk, items) = walk_all(&path);
        assert_eq!((walk.batches, &walk.stop), (3, &Stop::Clean), "preallocated zeros are a clean end");
        let keys: Vec<_> = items.iter().map(|i| (i.key.clone(), i.value_len)).collect();
        let expected = [(0, 0, 0), (1, 0, 1_000), (1, 1, 1_000), (2, 0, 2_000), (2, 1, 2_000), (2, 2, 2_000)];
        assert_eq!(keys, expected.map(|(n, i, len)| (vec![n, i], len)));
        let last = items.last().expect("six items");
        assert_eq!(last.head, [2, 2, 2]);
        let file = std::fs::read(&path).expect("readable");
        let at = usize::try_from(last.value_at).expect("small");
        assert_eq!(&file[at..at + 2_000], &[2; 2_000]);
    }

    #[test]
    fn a_journal_cut_anywhere_gives_its_whole_batches() {
        let (_dir, path) = journal_by_fjall();
        let end = walk_all(&path).0.proved_len;
        let whole = std::fs::read(&path).expect("readable");
        for len in (0..=end).step_by(97).chain([end]) {
            std::fs::write(&path, &whole[..usize::try_from(len).expect("small")]).expect("writable");
            let (walk, _) = walk_all(&path);
            assert!(walk.proved_len <= len);
            assert_eq!(walk.stop == Stop::Clean, walk.proved_len == len, "cut at {len}: {walk:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// A flip costs the batch it is in and those behind it, never more, never a panic, never an item nobody wrote.
        #[test]
        fn a_flipped_byte_ends_the_walk_before_it(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let (_dir, path) = journal_by_fjall();
            let (clean, items) = walk_all(&path);
            let mut file = std::fs::read(&path).expect("readable");
            let at = at.index(usize::try_from(clean.proved_len).expect("small"));
            file[at] ^= flip;
            std::fs::File::create(&path).and_then(|mut f| f.write_all(&file)).expect("writable");
            let (walk, left) = walk_all(&path);
            // fjall's checksum does not cover a batch's sequence number, which is nothing to us.
            prop_assert!(walk.proved_len <= at as u64 || left == items);
            prop_assert_eq!(&left[..], &items[..left.len()]);
            // What looks on finds every other batch, and says where the gap is.
            let (mut found, mut gaps) = (Vec::new(), Vec::new());
            walk_on(&path, Reading::Strict, 1 << 20, |_, n| n.min(3), |met| match met {
                Met::Batch(items) => found.extend(items),
                Met::Gap { from, next, .. } => gaps.push((from, next)),
            }).expect("readable");
            prop_assert!(found.iter().all(|item| items.contains(item)));
            if left != items {
                prop_assert_eq!(gaps.len(), 1, "{:?}", gaps);
                prop_assert!(gaps[0].0 == walk.proved_len && gaps[0].1.is_none_or(|next| next > at as u64));
                prop_assert!(found.len() + 3 >= items.len() && (gaps[0].1.is_some() || found == left), "{:?} {:?}", gaps, found.len());
            }
        }

        #[test]
        fn whatever_lies_there_is_walked_to_its_end(garbage in prop::collection::vec(0_u8..4, 0..400)) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("0.jnl");
            std::fs::write(&path, garbage).expect("space");
            walk_on(&path, Reading::Strict, 1 << 20, |_, n| n, |_| {}).expect("readable");
        }
    }
}
