//! Looking at a directory without touching it: what is seen is what a start would see, and damage is told, whatever it hits.

use super::{CUT, block, items_of, open, open_items, part_of, scratch, upkeep};
use crate::base::{Clock, Dice};
use crate::otlp::Signal;
use crate::spool::ledger::Side;
use crate::spool::store::Spool;
use crate::spool::survey::{Holes, Reach, Survey};
use crate::spool::{Book, Outcome, Owner, Pos, Reason, Settlement, Store as _};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

type Files = BTreeMap<PathBuf, (u64, SystemTime, Vec<u8>)>;

/// Name, length, time and bytes of everything below `dir`.
fn files(dir: &Path) -> Files {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("there");
        let time = meta.modified().expect("this system has it");
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("readable").map(|e| e.expect("readable").path()));
            found.insert(path, (0, time, Vec::new()));
        } else {
            let bytes = std::fs::read(&path).expect("readable");
            found.insert(path, (meta.len(), time, bytes));
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("space");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            let mut bytes = std::fs::read(entry.path()).expect("readable");
            if to.extension().is_some_and(|e| e == "jnl") {
                // Most of 64 MiB are preallocated zeros.
                let end = bytes.chunks(4_096).rposition(|page| page != &[0; 4_096][..page.len()]);
                bytes.truncate(end.map_or(4_096, |at| (at + 2) * 4_096).min(bytes.len()));
            }
            std::fs::write(to, bytes).expect("space");
        }
    }
}

/// What can be seen of a directory.
struct Seen {
    books: Vec<Book>,
    /// Items of readable blocks of which some exporter has still to settle something, that an agent gets at.
    open: BTreeSet<u64>,
    /// Items of all readable blocks.
    any: BTreeSet<u64>,
    /// What is damaged or missing.
    told: Vec<String>,
    notes: Vec<String>,
    states: BTreeSet<String>,
}

fn look(dir: &Path) -> Seen {
    let survey = Survey::of(&dir.join("spool")).expect("it can be listed");
    let quiet = |_| {};
    let book = survey.book(&quiet);
    let mut seen = Seen {
        books: book.ledger.books_as_they_are(),
        open: BTreeSet::new(),
        any: BTreeSet::new(),
        told: book.problems.clone(),
        notes: Vec::new(),
        states: BTreeSet::new(),
    };
    let mut holes = Holes::default();
    for found in survey.filled() {
        seen.states.insert(format!("{:?}", found.state));
        let contents = match survey.contents(found, &quiet) {
            Ok(contents) => contents,
            Err(error) => {
                seen.told.push(error.to_string());
                continue;
            }
        };
        seen.notes.extend(contents.notes.iter().cloned());
        seen.told.extend(contents.damage.iter().map(|d| format!("{} byte {}: {}", d.file, d.at, d.what)));
        for spot in contents.blocks.values() {
            match contents.request(spot).expect("readable") {
                Ok(raw) => {
                    let items = items_of(&raw);
                    seen.any.extend(&items);
                    if spot.reach == Reach::Read {
                        holes.pass(&spot.header, &book);
                        let before = spot.header.accepted_before();
                        for (exporter, _) in book.ledger.readers(spot.header.lane) {
                            for part in book.ledger.open(exporter, spot.header.lane, before..spot.header.accepted_total)
                            {
                                let part = usize::try_from(part.start - before).expect("small")
                                    ..usize::try_from(part.end - before).expect("small");
                                seen.open.extend(&items[part]);
                            }
                        }
                    }
                }
                Err(damage) => seen.told.push(damage.to_string()),
            }
        }
    }
    seen.told.extend(holes.end(&book).iter().map(|hole| format!("{hole:?}")));
    seen
}

/// Some of a lease is delivered, some parked, some refused, some lost.
fn settle_some(store: &Spool, owner: Owner, lane: crate::spool::Lane, dice: &mut Dice) {
    let Some(lease) = store.lease(owner, lane, CUT).expect("readable") else { return };
    store.handled(owner, lane, lease.window.clone());
    for b in &lease.blocks {
        let range = Pos { index: b.index, item: 0 }..Pos { index: b.index, item: 7 };
        let part = bytes::Bytes::copy_from_slice(&b.raw[..7 * 24]);
        let outcome = match dice.within(0..5) {
            0 => Outcome::Parked { raw: part },
            1 => Outcome::DeadLetter { raw: part, answer: "no".into() },
            2 => Outcome::Lost(Reason::RetryExpired),
            _ => Outcome::Delivered { rejected: 1 },
        };
        store.settle(vec![Settlement { owner, lane, range, items: 7, outcome }]).expect("it is out");
    }
}

/// A directory with something of everything: sealed segments, journals, parked uploads, dead letters, windows that are out,
/// an exporter that joined late.
fn made(seed: u64, dir: &Path) {
    let (clock, mut dice) = (Clock::system(), Dice::seeded(seed));
    let store = open(dir, &clock);
    let (logs, traces) = (store.lane("logs", Signal::Logs), store.lane("traces", Signal::Traces));
    let owner = store.own("otlphttp", &[logs, traces]);
    let mut next = 0;
    for round in 0..dice.within(4..8) {
        for lane in [logs, traces] {
            for _ in 0..dice.within(3..12) {
                let items: Vec<u64> = (next..next + 20).collect();
                store.commit(vec![block(lane, &items, u128::from(next) + 1, &clock)]).expect("space");
                next += 20;
            }
            if dice.chance(1, 2) {
                settle_some(&store, owner, lane, &mut dice);
            }
        }
        if round == 2 {
            store.own("late", &[logs]);
        }
        if round < 3 {
            upkeep(&store);
        }
    }
}

#[test]
fn looking_changes_nothing_and_sees_the_books_a_start_would_read() {
    let mut kinds = BTreeSet::new();
    for seed in 0..12 {
        let dir = scratch();
        made(seed, dir.path());
        let (before, seen) = (files(dir.path()), look(dir.path()));
        assert!(files(dir.path()) == before, "seed {seed}: not a byte, a name, a length or a time");
        assert_eq!(seen.told, [""; 0], "seed {seed}: it is whole");
        kinds.extend(seen.states);
        let store = open(dir.path(), &Clock::system());
        assert_eq!(store.books(), seen.books, "seed {seed}");
        // What the survey says waits is what comes out.
        let drained = drain(&store);
        assert!(drained == seen.open, "seed {seed}: {} items came, {} were to be seen", drained.len(), seen.open.len());
    }
    assert!(kinds.contains("Sealed") && kinds.contains("Closed"), "both kinds of segment were there: {kinds:?}");
}

/// What is open in a lane, delivered part by part.
fn drain_lane(store: &Spool, owner: Owner, lane: crate::spool::Lane) -> Vec<u64> {
    let mut got = Vec::new();
    while let Some(lease) = store.lease(owner, lane, CUT).expect("readable") {
        store.handled(owner, lane, lease.window.clone());
        let mut at = 0;
        while let Some((range, items)) = part_of(&lease, at, usize::MAX) {
            at += items.len();
            let count = u32::try_from(items.len()).expect("small");
            got.extend(items);
            let outcome = Outcome::Delivered { rejected: 0 };
            store.settle(vec![Settlement { owner, lane, range, items: count, outcome }]).expect("out");
        }
        assert_eq!(at, open_items(&lease).len());
    }
    got
}

/// Everything that anybody has still to settle, as it comes out of an open spool.
fn drain(store: &Spool) -> BTreeSet<u64> {
    let mut drained = BTreeSet::new();
    for lane in [store.lane("logs", Signal::Logs), store.lane("traces", Signal::Traces)] {
        let owner = store.own("otlphttp", &[lane]);
        let dead = store.side_lane(Side::Dead, owner, lane);
        for from in [lane, store.park_lane(owner, lane), dead] {
            drained.extend(drain_lane(store, owner, from));
        }
    }
    let late = store.own("late", &[store.lane("logs", Signal::Logs)]);
    drained.extend(drain_lane(store, late, store.lane("logs", Signal::Logs)));
    drained
}

#[derive(Debug)]
enum Hit {
    Flip(Vec<(usize, u8)>),
    Cut(usize),
    Zeros(usize, usize),
    Gone,
    Garbage(usize),
    Longer(usize),
}

fn strike(path: &Path, dice: &mut Dice) -> Hit {
    let mut bytes = std::fs::read(path).expect("readable");
    // The zeros behind a journal's end are not worth hitting.
    let len = bytes.iter().rposition(|b| *b != 0).map_or(bytes.len(), |at| at + 1).max(1);
    let at = |dice: &mut Dice| usize::try_from(dice.within(0..len as u64)).expect("small");
    let any = |dice: &mut Dice| u8::try_from(dice.within(1..256)).expect("a byte");
    let hit = match dice.within(0..12) {
        0..6 => Hit::Flip((0..dice.within(1..4)).map(|_| (at(dice), any(dice))).collect()),
        6..8 => Hit::Cut(at(dice)),
        8 => Hit::Zeros(at(dice), at(dice) % 5_000),
        9 => Hit::Gone,
        10 => Hit::Garbage(at(dice)),
        _ => Hit::Longer(at(dice) % 5_000),
    };
    match &hit {
        Hit::Flip(flips) => flips.iter().for_each(|(at, flip)| {
            if let Some(byte) = bytes.get_mut(*at) {
                *byte ^= flip;
            }
        }),
        Hit::Cut(at) => bytes.truncate(*at),
        Hit::Zeros(at, n) => bytes.iter_mut().skip(*at).take(*n).for_each(|byte| *byte = 0),
        Hit::Gone => return std::fs::remove_file(path).map(|()| hit).expect("it is ours"),
        Hit::Garbage(n) => bytes = (0..*n).map(|_| any(dice)).collect(),
        Hit::Longer(n) => bytes.extend((0..*n).map(|_| any(dice))),
    }
    std::fs::write(path, bytes).expect("space");
    hit
}

/// Goal: whatever is damaged, it is looked at without a panic, nothing is invented, and nothing goes missing in silence: what
/// is called whole is what an agent delivers.
/// Method: any file of the directory is flipped, cut, zeroed, removed, replaced or lengthened (`TFO_CASES`, `TFO_SEED`).
#[test]
#[allow(clippy::print_stdout)] // a red run is replayed from what it printed
fn whatever_is_damaged_is_told() {
    let env = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let cases = env("TFO_CASES").unwrap_or(150);
    let seed = env("TFO_SEED").unwrap_or_else(|| Dice::shaken().seed());
    println!("seed {seed} (TFO_SEED), {cases} cases (TFO_CASES)");
    let bases: Vec<(tempfile::TempDir, BTreeSet<u64>, BTreeSet<u64>)> = (0..4)
        .map(|n| {
            let dir = scratch();
            made(seed.wrapping_add(n), dir.path());
            let seen = look(dir.path());
            (dir, seen.open, seen.any)
        })
        .collect();
    let (mut whole, mut missing) = (0_u64, 0);
    for case in 0..cases {
        let mut dice = Dice::seeded(seed ^ case.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (base, open_before, any_before) = &bases[usize::try_from(case % 4).expect("small")];
        let dir = scratch();
        copy(base.path(), dir.path());
        let mut hits = Vec::new();
        for _ in 0..dice.within(1..3) {
            let there: Vec<PathBuf> = files(dir.path()).into_keys().filter(|path| path.is_file()).collect();
            let path = &there[usize::try_from(dice.within(0..there.len() as u64)).expect("small")];
            hits.push((path.strip_prefix(dir.path()).expect("inside").to_owned(), strike(path, &mut dice)));
        }
        let before = files(dir.path());
        let seen = look(dir.path());
        assert!(files(dir.path()) == before, "seed {seed}, case {case}: looking changes nothing; {hits:?}");
        assert!(seen.any.is_subset(any_before), "seed {seed}, case {case}: nothing is invented; {hits:?}");
        let gone: Vec<_> = open_before.difference(&seen.open).collect();
        missing += usize::from(!gone.is_empty());
        let silent = seen.told.is_empty() && seen.notes.is_empty();
        assert!(
            gone.is_empty() || !silent,
            "seed {seed}, case {case}: {} items are gone in silence; {hits:?}",
            gone.len()
        );
        if seen.told.is_empty() && seen.notes.is_empty() {
            whole += 1;
            if whole > cases / 10 {
                continue; // opening and draining one takes a hundred times as long as looking
            }
            let store = open(dir.path(), &Clock::system());
            assert_eq!(store.books(), seen.books, "seed {seed}, case {case}; {hits:?}");
            let drained = drain(&store);
            let lost: Vec<_> = seen.open.difference(&drained).collect();
            assert!(
                lost.is_empty(),
                "seed {seed}, case {case}: called whole, and {} items do not come; {hits:?}",
                lost.len()
            );
        }
    }
    println!("{whole} of {cases} were whole all the same, {missing} missed items");
    assert!(missing > 0 && whole > 0 && whole < cases);
}
