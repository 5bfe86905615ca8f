//! What must be true of a damaged directory, decided against what was there before.

use crate::strike::{Hit, How};
use crate::world::{Base, LANES, Life};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::path::Path;
use std::time::{Duration, Instant};
use tfo_otel_agent::base::Dice;
use tfo_otel_agent::spool::{Book, Reason, Store as _};
use tfo_otel_agent::testing::wreckage::{headers, look};
use tfo_otel_agent::testing::{Numbered, Source};

/// What cases came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) cases: u64,
    pub(crate) start: Duration,
    /// Items that were open in the base, over all exporters.
    pub(crate) open: u64,
    pub(crate) delivered: u64,
    /// Counted as lost by corruption.
    pub(crate) lost: u64,
    /// Delivered although the base says they were settled: the record that said so was hit.
    pub(crate) again: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, more: Cost) {
        self.cases += more.cases;
        self.start = self.start.max(more.start);
        self.open += more.open;
        self.delivered += more.delivered;
        self.lost += more.lost;
        self.again += more.again;
    }
}

/// An exporter, its lane's number, and an item's total there.
type Item = (String, u32, u64);

fn lost(book: &Book) -> u64 {
    book.lost[Reason::Corrupt as usize]
}

fn book_of<'a>(books: &'a [Book], lane: &str, exporter: &str) -> Option<&'a Book> {
    books.iter().find(|book| book.lane == lane && book.exporter == exporter)
}

macro_rules! must {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}

/// Starts on a damaged directory, takes new data, sends everything, and starts again.
#[allow(clippy::too_many_lines)] // one story from beginning to end
pub(crate) fn case(base: &Base, dir: &Path, hits: &[Hit]) -> Result<Cost, String> {
    let hit: BTreeSet<String> = hits.iter().flat_map(Hit::segments).collect();
    let damaged = look(dir).map_err(|error| format!("looking: {error}"))?;
    let proved = proved(dir, &damaged.files);

    let began = Instant::now();
    let life = Life::begin(dir, 99);
    let start = began.elapsed();
    // Intake at once, before anything is read.
    let mut dice = Dice::seeded(7);
    let mut makers: Vec<Numbered> = LANES.iter().map(|(_, signal, _)| Numbered::new(*signal, Source(2))).collect();
    let mut fresh = Vec::new();
    for _ in 0..3 {
        fresh.extend(life.commit(&mut makers, &[0, 1, 2], &mut dice));
    }
    let began_with = life.spool.books();

    let truth: BTreeMap<(u32, u64), u64> =
        base.truth.blocks.iter().map(|b| ((b.lane.0.0, b.index), b.totals.start)).collect();
    let mut delivered = BTreeMap::<Item, u32>::new();
    let mut came = Vec::<(String, usize, Vec<u8>)>::new();
    for round in 0..2 {
        for (exporter, owner, lane) in life.senders() {
            let mut wrong = None;
            life.drain(owner, lane, |index, items, raw, open| {
                match (truth.get(&(lane.0, index)), base.raw.get(&(lane.0, index))) {
                    (Some(before), Some(there)) if there == raw => {
                        for item in open {
                            *delivered.entry((exporter.to_owned(), lane.0, before + u64::from(item))).or_default() += 1;
                        }
                    }
                    (Some(_), _) => {
                        wrong = Some(format!("block {index} of lane {} is another one than was written", lane.0))
                    }
                    (None, _)
                        if fresh.iter().any(|(_, bytes, _)| bytes[..] == raw[..]) && open.len() == items as usize =>
                    {
                        let which = fresh.iter().position(|(_, bytes, _)| bytes[..] == raw[..]).expect("asked above");
                        came.push((exporter.to_owned(), which, Vec::new()));
                    }
                    (None, _) => wrong = Some(format!("block {index} of lane {} was never written", lane.0)),
                }
            })?;
            must!(wrong.is_none(), "{}", wrong.unwrap_or_default());
        }
        if round == 0 {
            life.upkeep()?;
        }
    }

    // New data comes once to each of its readers.
    for (nth, (lane, ..)) in fresh.iter().enumerate() {
        for exporter in LANES[*lane].2 {
            let times = came.iter().filter(|(e, which, _)| e == exporter && *which == nth).count();
            must!(times == 1, "new data of {} came {times} times to {exporter}", LANES[*lane].0);
        }
    }

    // What was open before, and what of it came.
    let mut open = BTreeSet::<Item>::new();
    let mut expected = BTreeSet::<Item>::new();
    for b in &base.truth.blocks {
        for (exporter, parts) in b.open.iter().filter(|_| !is_held(&b.lane.1)) {
            let items: Vec<Item> =
                parts.iter().flat_map(Clone::clone).map(|n| (exporter.clone(), b.lane.0.0, n)).collect();
            if !hit.contains(&b.segment) {
                expected.extend(items.iter().cloned());
            }
            open.extend(items);
        }
    }
    // What a look at the damaged directory calls whole comes too. Of files that changed places only what stands elsewhere: what a
    // segment held before is what its summary says, and to find it everything would have to be read at every hole.
    let swapped: BTreeSet<String> = hits.iter().filter(|h| h.other.is_some()).flat_map(Hit::segments).collect();
    for b in damaged.blocks.iter().filter(|b| !is_held(&b.lane.1) && !swapped.contains(&b.segment)) {
        for (exporter, parts) in &b.open {
            expected.extend(parts.iter().flat_map(Clone::clone).map(|n| (exporter.clone(), b.lane.0.0, n)));
        }
    }
    let silent: Vec<&Item> = expected.iter().filter(|item| !delivered.contains_key(*item)).collect();
    must!(silent.is_empty(), "{} items of whole blocks did not come, the first of them {:?}", silent.len(), silent[0]);
    let twice = delivered.values().filter(|times| **times > 1).count();
    must!(twice == 0, "{twice} items came twice in one life");

    let books = life.spool.books();
    let mut cost =
        Cost { cases: 1, start, open: open.len() as u64, delivered: delivered.len() as u64, ..Cost::default() };
    cost.again = delivered.keys().filter(|item| !open.contains(*item)).count() as u64;
    // Zeros up to a journal's end are what a commit looks like that a crash tore: nothing in it was acknowledged then.
    let is_as_torn =
        hits.iter().any(|h| matches!(h.how, How::Zeros(..)) && h.file.extension().is_some_and(|e| e == "jnl"));
    let book_was_hit = hit.contains(&base.newest) || hits.iter().any(|h| h.other.is_some());
    for (nth, (lane, _, readers)) in LANES.iter().enumerate() {
        for exporter in *readers {
            let name = format!("{lane} of {exporter}");
            let (Some(was), Some(is)) = (book_of(&base.truth.books, lane, exporter), book_of(&books, lane, exporter))
            else {
                return Err(format!("{name} has no book"));
            };
            must!(is.accepted == is.sum(), "{name}: the books do not add up: {is:?}");
            must!(is.waiting == 0, "{name}: {} items wait and do not come: {is:?}", is.waiting);
            let new: u64 = fresh.iter().filter(|(l, ..)| *l == nth).map(|(_, _, seqs)| seqs.end - seqs.start).sum();
            must!(is.accepted <= was.accepted + new, "{name}: more was accepted than there was: {is:?}, {was:?}");
            let lanes = [(*lane).to_owned(), format!("park/{exporter}/{lane}")];
            let numbers: BTreeSet<u32> =
                base.truth.blocks.iter().filter(|b| lanes.contains(&b.lane.1)).map(|b| b.lane.0.0).collect();
            let missing = |below: u64, of: Option<u32>| {
                open.iter()
                    .filter(|(e, l, total)| {
                        e == exporter && of.map_or(numbers.contains(l), |of| of == *l) && *total < below
                    })
                    .filter(|item| !delivered.contains_key(*item))
                    .count() as u64
            };
            let counted = lost(is) - lost(was);
            cost.lost += counted;
            if book_was_hit {
                // As much as is still proved anywhere: the tip is where it says, and what is missing below it is counted.
                let no = life.lanes[nth].0;
                let tip = is.accepted - new;
                let known = proved.get(&no).copied().unwrap_or(0);
                must!(
                    is_as_torn || tip >= known.min(was.accepted),
                    "{name}: headers prove {known} items, the books know {tip}"
                );
                let missing = missing(tip, Some(no));
                must!(counted >= missing, "{name}: {missing} items are missing, {counted} counted");
            } else {
                must!(is.accepted == was.accepted + new, "{name}: accepted {} of {}", is.accepted, was.accepted + new);
                let missing = missing(u64::MAX, None);
                // Dead letters are held: those that can no longer be read are counted when somebody comes to them.
                must!(counted == missing, "{name}: {missing} items are missing, {counted} counted: {is:?}");
                must!(cost.again == 0, "{} items came again although no record was hit", cost.again);
            }
            let before = book_of(&began_with, lane, exporter).map_or(0, |book| book.accepted);
            must!(before == is.accepted, "{name}: accepted changed while it was drained: {before}, {}", is.accepted);
        }
    }
    // It stays so.
    drop(life);
    let life = Life::begin(dir, 100);
    must!(life.spool.books() == books, "another start says otherwise: {:?} {books:?}", life.spool.books());
    for (exporter, owner, lane) in life.senders() {
        let mut more = 0;
        life.drain(owner, lane, |_, _, _, open| more += open.len())?;
        must!(more == 0, "{more} items come again to {exporter}");
    }
    life.upkeep()?;
    must!(life.spool.books() == books, "the books changed although nothing happened");
    Ok(cost)
}

/// Dead letters wait for a person.
fn is_held(lane: &str) -> bool {
    lane.starts_with("dead/") || lane.starts_with("quarantine/")
}

/// The highest total of each lane that any header in any file of a segment says.
fn proved(dir: &Path, files: &[std::path::PathBuf]) -> BTreeMap<u32, u64> {
    let mut proved = BTreeMap::new();
    for file in files {
        let path = dir.join(file);
        if !std::fs::metadata(&path).is_ok_and(|m| m.is_file()) {
            continue;
        }
        for (lane, totals) in headers(&std::fs::read(&path).unwrap_or_default()) {
            let known = proved.entry(lane.0).or_insert(0);
            *known = totals.end.max(*known);
        }
    }
    proved
}
