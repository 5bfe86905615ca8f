//! Damaged segments, one kind at a time: what is read of them, what is counted, and where they end.

use super::{CUT, block, drain_all, fill, open, scratch, settings, upkeep};
use crate::base::{Bytes, Clock, Dice, Stamp};
use crate::otlp::Signal;
use crate::spool::disk::{DiskSettings, WhenFull, allocated};
use crate::spool::segment;
use crate::spool::source::fault;
use crate::spool::store::Spool;
use crate::spool::survey::Survey;
use crate::spool::{Book, Lane, LeaseError, Owner, Reason, Store as _};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn begin(dir: &Path, clock: &Clock) -> (Spool, Lane, Owner) {
    let store = open(dir, clock);
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    (store, lane, owner)
}

fn corrupt(book: &Book) -> u64 {
    book.lost[Reason::Corrupt as usize]
}

/// Segments in order.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("spool")).expect("there").map(|e| e.expect("readable").path());
    let mut all: Vec<PathBuf> =
        entries.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("seg-"))).collect();
    all.sort();
    all
}

fn quarantined(dir: &Path) -> usize {
    fs::read_dir(dir.join("spool/quarantine")).map_or(0, Iterator::count)
}

/// The journal with the most in it.
fn journal(dir: &Path) -> PathBuf {
    let used = |path: &PathBuf| fs::read(path).map_or(0, |bytes| bytes.iter().filter(|byte| **byte != 0).count());
    segments(dir).into_iter().map(|s| s.join("0.jnl")).max_by_key(used).expect("one is there")
}

/// Flips the byte at `part` of the nth block's value, as the walk finds it.
fn flip_block(dir: &Path, nth: usize) {
    let survey = Survey::of(&dir.join("spool")).expect("there");
    let mut places = Vec::new();
    for found in survey.filled() {
        let contents = survey.contents(found, &|_| {}).expect("readable");
        places.extend(contents.blocks.values().map(|spot| (contents.path(spot).to_owned(), spot.at + 130)));
    }
    let (path, at) = &places[nth];
    // In place: most of a journal is a hole, and shall stay one.
    let file = fs::File::options().read(true).write(true).open(path).expect("there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, *at).expect("readable");
    file.write_all_at(&[byte[0] ^ 1], *at).expect("writable");
}

/// Goal: a commit that a power cut tore was never answered, also where an earlier write of the same journal, one nobody waited for,
/// never reached the disk: its block's header, which may be whole, counts for nothing.
#[test]
fn a_torn_commit_behind_a_hole_is_not_missing() {
    let (dir, clock) = (scratch(), Clock::system());
    {
        let (store, lane, _) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 4, 0);
    }
    flip_block(dir.path(), 1);
    let survey = Survey::of(&dir.path().join("spool")).expect("there");
    let contents = survey.contents(survey.filled().next_back().expect("one"), &|_| {}).expect("readable");
    let last = contents.blocks.values().next_back().expect("four");
    let file = fs::File::options().write(true).open(contents.path(last)).expect("there");
    file.write_all_at(&[0; 4 << 10], last.at + 130).expect("writable");
    drop(contents);
    let (store, lane, owner) = begin(dir.path(), &clock);
    let expected: Vec<u64> = (0..60).filter(|n| !(20..40).contains(n)).collect();
    assert_eq!(drain_all(&store, owner, lane), expected);
    let book = store.books().remove(0);
    assert_eq!((book.accepted, book.delivered, corrupt(&book)), (60, 40, 20), "{book:?}");
}

/// Goal: a byte flipped in mid-journal of the newest segment costs the block it is in: what stands behind it comes, and what is
/// missing is counted to the item. The segment is kept aside when nobody needs it any more.
#[test]
fn what_stands_behind_a_flipped_byte_comes_and_the_hole_is_counted() {
    let (dir, clock) = (scratch(), Clock::system());
    {
        let (store, lane, _) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 8, 0);
    }
    flip_block(dir.path(), 3);
    let (store, lane, owner) = begin(dir.path(), &clock);
    fill(&store, lane, &clock, 1, 8);
    let got = drain_all(&store, owner, lane);
    let expected: Vec<u64> = (0..180).filter(|n| !(60..80).contains(n)).collect();
    assert_eq!(got, expected, "all but the block that was hit, in order");
    let book = store.books().remove(0);
    assert_eq!((book.accepted, book.delivered, corrupt(&book), book.waiting), (180, 160, 20, 0), "{book:?}");
    upkeep(&store);
    assert_eq!(quarantined(dir.path()), 1, "it is kept for whoever wants to know");
    drop(store);
    let (store, lane, owner) = begin(dir.path(), &clock);
    assert_eq!((store.books().remove(0), drain_all(&store, owner, lane)), (book, vec![]), "and it stays so");
}

/// Goal: at the very end of the newest segment what is missing is counted as far as a header proves it, and its place is not
/// given to another block. A commit that a crash tore is none of that.
#[test]
fn a_damaged_end_is_counted_and_a_torn_one_is_not() {
    for (torn, expected) in [(false, (80, 20)), (true, (60, 0))] {
        let (dir, clock) = (scratch(), Clock::system());
        {
            let (store, lane, _) = begin(dir.path(), &clock);
            fill(&store, lane, &clock, 4, 0);
        }
        let path = journal(dir.path());
        if torn {
            let mut bytes = fs::read(&path).expect("readable");
            let end = bytes.iter().rposition(|byte| *byte != 0).expect("written");
            bytes[end - 40..].fill(0);
            fs::write(&path, bytes).expect("writable");
        } else {
            flip_block(dir.path(), 3);
        }
        let (store, lane, owner) = begin(dir.path(), &clock);
        let book = store.books().remove(0);
        assert_eq!(book.accepted, expected.0, "torn {torn}: {book:?}");
        fill(&store, lane, &clock, 1, 8);
        let got = drain_all(&store, owner, lane);
        assert_eq!(got, (0..60).chain(160..180).collect::<Vec<u64>>(), "torn {torn}");
        let book = store.books().remove(0);
        assert_eq!((book.accepted, corrupt(&book), book.sum()), (expected.0 + 20, expected.1, book.accepted));
    }
}

/// Goal: something else than zeros where the last commit should end is damage too: a torn write leaves its own bytes or none.
#[test]
fn garbage_over_the_very_end_is_damage() {
    let (dir, clock) = (scratch(), Clock::system());
    {
        let (store, lane, _) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 4, 0);
    }
    let path = journal(dir.path());
    let bytes = fs::read(&path).expect("readable");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("written") as u64 + 1;
    let file = fs::File::options().write(true).open(&path).expect("there");
    file.write_all_at(&[0x66; 60], end - 60).expect("writable"); // the trailer has 13 bytes
    let (store, lane, owner) = begin(dir.path(), &clock);
    assert_eq!(drain_all(&store, owner, lane), (0..60).collect::<Vec<u64>>());
    let book = store.books().remove(0);
    assert_eq!((book.accepted, book.delivered, corrupt(&book)), (80, 60, 20), "{book:?}");
}

fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
}

/// Goal: what stands in the reserve's place is moved aside, and never waited for.
#[test]
fn a_reserve_that_is_no_file_is_made_anew() {
    let (dir, clock) = (scratch(), Clock::system());
    let settings = crate::spool::disk::DiskSettings { max: Bytes::mib(64), ..settings(dir.path()) };
    drop(Spool::on_disk(settings.clone(), clock.clone(), Dice::seeded(7)).expect("a directory"));
    let of = |name: &str| dir.path().join("spool").join(name);
    pipe(&of("reserve"));
    fs::create_dir(of("reserve-3")).expect("space");
    let store = Spool::on_disk(settings, clock, Dice::seeded(7)).expect("a directory");
    upkeep(&store);
    assert!(of("reserve").is_file() && of("reserve-3").is_file());
}

/// Goal: names over which fjall panics, ends the process, deletes or waits without end cost nothing: it is not asked.
#[test]
fn what_stands_where_it_must_not_costs_nothing() {
    type Put = fn(&Path);
    let cases: [(&str, Put); 16] = [
        ("a keyspace without a number", |s| fs::create_dir(s.join("keyspaces/x")).expect("space")),
        ("a journal without a number", |s| fs::write(s.join("x.jnl"), "x").expect("space")),
        ("a journal that is a directory", |s| fs::create_dir(s.join("9.jnl")).expect("space")),
        ("a journal that is a pipe", |s| pipe(&s.join("9.jnl"))),
        ("a table that is a directory", |s| fs::create_dir(s.join("keyspaces/1/tables/77")).expect("space")),
        ("a table without a number", |s| fs::write(s.join("keyspaces/1/tables/x"), "x").expect("space")),
        ("an empty list", |s| fs::write(s.join("keyspaces/0/current"), "").expect("space")),
        ("a short list", |s| fs::write(s.join("keyspaces/1/current"), [0; 5]).expect("space")),
        ("no list", |s| fs::remove_file(s.join("keyspaces/1/current")).expect("there")),
        ("no marker", |s| fs::remove_file(s.join("version")).expect("there")),
        ("a lock that is a pipe", |s| pipe(&s.join("lock"))),
        ("a half summary that is a pipe", |s| pipe(&s.join("summary.tmp"))),
        ("a summary that is a pipe", |s| pipe(&s.join("summary"))),
        ("an attempt that is a directory", |s| fs::create_dir(s.join("attempt")).expect("space")),
        ("an attempt that is a pipe", |s| pipe(&s.join("attempt"))),
        ("many deaths", |s| fs::write(s.join("attempt"), [b'.'; 50]).expect("space")),
    ];
    for (what, put) in cases {
        let (dir, clock) = (scratch(), Clock::system());
        {
            let (store, lane, _) = begin(dir.path(), &clock);
            fill(&store, lane, &clock, 12, 0);
            upkeep(&store);
        }
        for segment in segments(dir.path()) {
            put(&segment);
        }
        let (store, lane, owner) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 1, 12);
        assert_eq!(drain_all(&store, owner, lane), (0..260).collect::<Vec<u64>>(), "{what}");
        upkeep(&store);
        let book = store.books().remove(0);
        assert_eq!((book.delivered, corrupt(&book)), (260, 0), "{what}: {book:?}");
    }
}

/// Goal: a kill in the middle of making a spare leaves nothing that looks like damage to what is written later.
/// Method: fjall's notes do not know the keyspace yet, so it makes a second one in its place, in which the next life writes.
#[test]
fn a_spare_that_was_never_finished_looks_like_no_damage() {
    let (dir, clock) = (scratch(), Clock::system());
    drop(begin(dir.path(), &clock));
    {
        let (store, lane, _) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 1, 0);
        upkeep(&store);
    }
    let last = segments(dir.path()).pop().expect("one is there");
    assert!(fs::read(last.join("0.jnl")).expect("there").iter().all(|byte| *byte == 0), "it is a spare");
    segment::half_made(&last);
    {
        let (store, lane, _) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 40, 1); // more than one segment holds
    }
    assert!(last.join("keyspaces/2").exists(), "fjall has done it");
    let (store, lane, owner) = begin(dir.path(), &clock);
    assert_eq!(drain_all(&store, owner, lane).len(), 41 * 20);
    upkeep(&store);
    let book = store.books().remove(0);
    assert_eq!((corrupt(&book), quarantined(dir.path())), (0, 0), "{book:?}");
}

/// Goal: what lies far behind the newest segments is not looked at by a start, and what is wrong with it comes out all the same.
/// Method: thirty segments, none sealed; one of the oldest is made anew half, as a kill leaves them. The start takes all for sealed;
/// housekeeping finds the half one and throws it away, seals the others, and the items of the one are counted.
#[test]
fn what_a_start_had_no_time_for_is_seen_after_it() {
    let (dir, clock) = (scratch(), Clock::system());
    {
        let unsealed = DiskSettings { seal: false, segment_max: Bytes(4 << 10), ..settings(dir.path()) };
        let store = Spool::on_disk(unsealed, clock.clone(), Dice::seeded(7)).expect("starts");
        let lane = store.lane("logs", Signal::Logs);
        store.own("otlphttp", &[lane]);
        for n in 0..30 {
            fill(&store, lane, &clock, 10, n * 10);
            upkeep(&store);
        }
    }
    let all = segments(dir.path());
    assert!(all.len() > 24, "{}", all.len());
    let half = &all[3];
    fs::remove_dir_all(half).expect("there");
    fs::create_dir(half).expect("space");
    fs::write(half.join("lock"), "").expect("space");
    let sealed = |path: &PathBuf| fs::metadata(path.join("0.jnl")).is_ok_and(|m| m.len() == 0);
    assert!(!all.iter().any(sealed));
    let (store, lane, owner) = begin(dir.path(), &clock);
    assert!(half.exists(), "nobody has looked");
    let used = store.usage().bytes;
    upkeep(&store);
    let is_old = |path: &&PathBuf| **path < all[20] && *path != half;
    let unsealed: Vec<PathBuf> = segments(dir.path()).into_iter().filter(|p| is_old(&p) && !sealed(p)).collect();
    assert_eq!((half.exists(), unsealed, quarantined(dir.path())), (false, vec![], 0));
    assert!(store.usage().bytes > used, "guessed low, and counted then: {used} {}", store.usage().bytes);
    let delivered = drain_all(&store, owner, lane).len() as u64;
    upkeep(&store);
    let book = store.books().remove(0);
    assert_eq!((delivered + corrupt(&book), corrupt(&book) > 0), (30 * 10 * 20, true), "{book:?}");
}

/// Goal: a read error of the newest journal that passes changes nothing: the book is the newest one, and nothing is set aside.
#[test]
fn a_read_error_at_the_start_that_passes_changes_nothing() {
    let (dir, clock) = (scratch(), Clock::system());
    let book = {
        let (store, lane, owner) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 30, 0);
        let lease = store.lease(owner, lane, CUT).expect("readable").expect("it waits");
        store.handled(owner, lane, lease.window);
        store.books().remove(0)
    };
    let written = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0));
    let newest = segments(dir.path()).into_iter().rev().map(|s| s.join("0.jnl")).find(written).expect("there");
    fault::arm(&newest, 0..1 << 20, 9);
    let (store, lane, owner) = begin(dir.path(), &clock);
    assert_eq!(store.books().remove(0), book);
    assert_eq!(drain_all(&store, owner, lane).len(), 600);
    assert_eq!(quarantined(dir.path()), 0);
}

/// Goal: a disk that does not answer a read is asked again, and what it has is not given up, until patience ends: then what it
/// does not give is counted as lost, and the rest comes.
/// Method: a page of a sealed segment's table cannot be read; the clock stands still until it is moved.
#[test]
fn a_read_error_is_trouble_first_and_damage_later() {
    let clock = Clock::by_hand(Stamp { wall_ns: 1_795_412_561_000_000_000, mono_ms: 1_000 });
    for recovers in [true, false] {
        let dir = scratch();
        {
            let (store, lane, _) = begin(dir.path(), &clock);
            fill(&store, lane, &clock, 40, 0);
            upkeep(&store);
        }
        let table = segments(dir.path())[0].join("keyspaces/1/tables/0");
        assert!(table.exists(), "it is sealed");
        let (store, lane, owner) = begin(dir.path(), &clock);
        fault::arm(&table, 2_000..2_001, u64::MAX);
        for _ in 0..3 {
            let refused = store.lease(owner, lane, CUT);
            assert!(matches!(refused, Err(LeaseError::Unavailable(_))), "recovers {recovers}: {refused:?}");
        }
        let book = store.books().remove(0);
        assert_eq!((corrupt(&book), book.waiting, quarantined(dir.path())), (0, 800, 0), "nothing is given up");
        if recovers {
            fault::arm(&table, 0..0, 0);
            assert_eq!(drain_all(&store, owner, lane), (0..800).collect::<Vec<u64>>());
            continue;
        }
        clock.advance(Duration::from_secs(61));
        let got = drain_all(&store, owner, lane);
        let book = store.books().remove(0);
        assert!(
            got.len() >= 600 && got.len() < 800,
            "all but what stands with it in a block of the table: {}",
            got.len()
        );
        assert_eq!((corrupt(&book), book.sum()), (800 - got.len() as u64, 800), "{book:?}");
    }
}

/// What fjall reads by itself is asked again too.
#[test]
fn a_read_error_of_an_open_segment_is_trouble_first() {
    let clock = Clock::by_hand(Stamp { wall_ns: 1_795_412_561_000_000_000, mono_ms: 1_000 });
    let dir = scratch();
    let (store, lane, owner) = begin(dir.path(), &clock);
    fill(&store, lane, &clock, 40, 0);
    upkeep(&store);
    fault::arm(&segments(dir.path())[0], 0..1, 4);
    let mut refused = 0;
    while let Err(error) =
        store.lease(owner, lane, CUT).map(|lease| lease.map(|l| store.give_back(owner, lane, l.window)))
    {
        assert!(matches!(error, LeaseError::Unavailable(_)), "{error:?}");
        refused += 1;
        assert!(refused < 10, "it comes round");
    }
    assert!(refused > 0);
    assert_eq!(drain_all(&store, owner, lane), (0..800).collect::<Vec<u64>>());
}

/// Goal: damaged segments that are kept take no place that data needs: they count as used, and are the first to go.
#[test]
fn what_is_kept_aside_is_counted_and_gives_way_first() {
    for when_full in [WhenFull::DropOldest, WhenFull::Refuse] {
        let (dir, clock) = (scratch(), Clock::system());
        {
            let (store, lane, _) = begin(dir.path(), &clock);
            fill(&store, lane, &clock, 6, 0);
        }
        flip_block(dir.path(), 2);
        let (store, lane, owner) = begin(dir.path(), &clock);
        drain_all(&store, owner, lane);
        fill(&store, lane, &clock, 3, 6);
        upkeep(&store);
        let with = store.usage().bytes;
        assert_eq!(quarantined(dir.path()), 1);
        drop(store);
        let store = open(dir.path(), &clock);
        store.upkeep().expect("the disk is well"); // what a start guesses is measured
        // A file of a page goes in the start or does not.
        let (page, aside) = (4 << 10, allocated(&dir.path().join("spool/quarantine")));
        assert!(aside > 2 * page, "{aside}");
        assert!(
            store.usage().bytes.0 + page >= with.0,
            "it counts after a start too: {:?}, {with:?} before",
            store.usage()
        );
        let limits = settings(dir.path()).limits();
        // What is set by for a full disk goes before it.
        let reserve = allocated(&dir.path().join("spool/reserve"));
        let max = Bytes(store.usage().bytes.0 - reserve - 1);
        store.limit(crate::spool::disk::Limits { max, when_full, ..limits });
        upkeep(&store);
        assert_eq!(quarantined(dir.path()), 0, "{when_full:?}");
        assert_eq!(store.books()[0].waiting, 60, "{when_full:?}: nothing that waits had to go");
    }
}

/// Goal: a copy whose original went long ago is all there is, also when it was damaged since.
#[test]
fn a_damaged_copy_without_an_original_is_read_as_far_as_it_goes() {
    let (dir, clock) = (scratch(), Clock::system());
    {
        let (store, lane, _) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 4, 0);
    }
    // A copy is a segment with one batch.
    let from = segments(dir.path()).remove(0);
    let survey = Survey::of(&dir.path().join("spool")).expect("there");
    let found = survey.filled().next().expect("one");
    let contents = survey.contents(found, &|_| {}).expect("readable");
    let mut records = contents.control.clone();
    for (key, spot) in &contents.blocks {
        let key = crate::spool::ledger::block_key(Lane(key.0), key.1).to_vec();
        records.push((key, contents.value(spot).expect("readable")));
    }
    let copy = dir.path().join(format!("spool/{}.1", found.name));
    crate::spool::segment::Segment::create(&copy).expect("space").append(records, true).expect("space");
    fs::remove_dir_all(from).expect("ours");
    flip_block(dir.path(), 1);
    let (store, lane, owner) = begin(dir.path(), &clock);
    let got = drain_all(&store, owner, lane);
    assert_eq!(got, (0..80).filter(|n| !(20..40).contains(n)).collect::<Vec<u64>>());
    assert_eq!(corrupt(&store.books()[0]), 20);
}

/// Goal: a block and bytes inside a block that look like one are told apart as far as that is possible: nobody makes the books
/// believe that millions are missing.
#[test]
fn a_header_in_a_damaged_place_is_believed_as_far_as_it_is_likely() {
    let (dir, clock) = (scratch(), Clock::system());
    {
        let (store, lane, _) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 3, 0);
        let forged = block(lane, &[1, 2, 3], 9, &clock).number(5, 1 << 40, clock.boot_id(), false).1;
        let mut carrier = block(lane, &[7; 20], 4, &clock);
        carrier.framed.extend_from_slice(&forged);
        store.commit(vec![carrier]).expect("space");
    }
    flip_block(dir.path(), 3);
    let store = Spool::on_disk(settings(dir.path()), clock.clone(), Dice::seeded(1)).expect("it starts");
    assert_eq!(store.books()[0].accepted, 80);
}

/// A spool of 600 items whose newest journal answers every read with EIO through the next start, then no more.
fn back_after_the_start(dir: &Path, clock: &Clock) -> (Spool, Lane, Owner) {
    {
        let (store, lane, _) = begin(dir, clock);
        fill(&store, lane, clock, 30, 0);
    }
    let written = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0));
    let newest = segments(dir).into_iter().rev().map(|s| s.join("0.jnl")).find(written).expect("there");
    fault::arm(&newest, 0..1 << 20, u64::MAX);
    let begun = begin(dir, clock);
    fault::arm(&newest, 0..0, 0);
    begun
}

/// Goal: a disk that gives its newest book only after the start costs nothing: no two blocks have a place in common, what it gives
/// comes, and what was only feared to be there is in no book.
#[test]
fn a_disk_that_comes_back_after_the_start_costs_nothing() {
    let (dir, clock) = (scratch(), Clock::system());
    let (store, lane, owner) = back_after_the_start(dir.path(), &clock);
    assert!(store.waiting(owner, lane).items > 0, "what may be there is looked for");
    fill(&store, lane, &clock, 30, 30);
    let got = drain_all(&store, owner, lane);
    let book = store.books().remove(0);
    assert_eq!(got.iter().filter(|n| **n >= 600).count(), 600, "what this life acknowledged: {book:?}");
    assert_eq!(got.len(), 1_200, "what the earlier one did: {book:?}");
    assert_eq!((book.accepted, book.delivered, corrupt(&book)), (1_200, 1_200, 0), "{book:?}");
    drop(store);
    let (store, lane, owner) = begin(dir.path(), &clock);
    assert_eq!(store.books().remove(0), book, "the next start knows it all");
    assert_eq!(store.waiting(owner, lane).items, 0);
}

/// Goal: what such a disk gives when nothing else comes in is delivered too, and is looked for once.
#[test]
fn what_comes_back_after_the_start_needs_nothing_new_to_be_found() {
    let (dir, clock) = (scratch(), Clock::system());
    let (store, lane, owner) = back_after_the_start(dir.path(), &clock);
    assert_eq!(drain_all(&store, owner, lane), (0..600).collect::<Vec<u64>>());
    assert_eq!(store.waiting(owner, lane).items, 0);
    let book = store.books().remove(0);
    assert_eq!((book.accepted, book.sum(), corrupt(&book)), (600, 600, 0), "{book:?}");
}

/// Goal: what such a disk gives is counted when it gives way unread, and the books add up.
#[test]
fn what_comes_back_after_the_start_and_gives_way_is_counted() {
    let (dir, clock) = (scratch(), Clock::system());
    let (store, lane, owner) = back_after_the_start(dir.path(), &clock);
    fill(&store, lane, &clock, 1, 30);
    let mut limits = settings(dir.path()).limits();
    limits.max = Bytes(1);
    store.limit(limits);
    for _ in 0..200 {
        let _ = store.upkeep(); // something is always over such a limit
    }
    limits.max = Bytes::mib(512);
    store.limit(limits);
    fill(&store, lane, &clock, 5, 31);
    let got = drain_all(&store, owner, lane);
    let book = store.books().remove(0);
    let lost: u64 = book.lost.iter().sum();
    assert_eq!((book.accepted, book.sum()), (720, 720), "{book:?}");
    assert_eq!(got.len() as u64 + lost, 720, "{got:?} {book:?}");
    assert!(
        book.lost[Reason::Evicted as usize] >= 600 && got.ends_with(&(620..720).collect::<Vec<u64>>()),
        "{got:?} {book:?}"
    );
}

/// Goal: with both slots bad no life has the epoch of an earlier one, be it one that took nothing in.
#[test]
fn without_slots_no_epoch_is_used_again() {
    let (dir, clock) = (scratch(), Clock::system());
    fill(&begin(dir.path(), &clock).0, Lane(0), &clock, 1, 0);
    for exporter in ["a", "b", "c"] {
        let (store, lane, _) = begin(dir.path(), &clock);
        store.own(exporter, &[lane]);
        store.close().expect("space"); // its books, and no block
    }
    fs::write(dir.path().join("spool/slots"), [0xA5; 3 << 12]).expect("space");
    let (store, lane, owner) = begin(dir.path(), &clock);
    fill(&store, lane, &clock, 1, 1);
    let mut epochs = Vec::new();
    while let Some(lease) = store.lease(owner, lane, CUT).expect("readable") {
        epochs.extend(lease.blocks.iter().map(|block| block.index >> 32));
    }
    assert_eq!(epochs, [1, 5]);
}

/// Goal: a damaged segment that cannot be kept aside gives its space back all the same.
#[test]
fn a_wreck_that_cannot_be_kept_gives_its_space_back() {
    let (dir, clock) = (scratch(), Clock::system());
    {
        let (store, lane, _) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 6, 0);
    }
    flip_block(dir.path(), 2);
    let (store, lane, owner) = begin(dir.path(), &clock);
    let damaged = segments(dir.path()).remove(0);
    drain_all(&store, owner, lane);
    fill(&store, lane, &clock, 3, 6);
    fs::remove_dir_all(dir.path().join("spool/quarantine")).ok();
    fs::write(dir.path().join("spool/quarantine"), b"no directory").expect("space");
    (0..50).for_each(|_| drop(store.upkeep())); // it says that it cannot trim what is no directory
    assert!(!damaged.exists(), "{:?}", segments(dir.path()));
}

/// Goal: what fjall makes of the directory while somebody removes it does not show what waits to everybody.
#[test]
fn a_directory_that_is_made_anew_is_closed_to_others() {
    let (dir, clock) = (scratch(), Clock::system());
    let (store, lane, _) = begin(dir.path(), &clock);
    fill(&store, lane, &clock, 3, 0);
    let spool = dir.path().join("spool");
    fs::remove_dir_all(&spool).expect("it is there");
    fs::create_dir(&spool).expect("space");
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o755)).expect("ours");
    upkeep(&store);
    assert!(spool.join("lock").exists(), "taken");
    assert_eq!(fs::metadata(&spool).expect("there").permissions().mode() & 0o777, 0o700);
}

/// Goal: nothing gives way for free space while what was removed has still to be taken out of the bin.
#[test]
fn what_lies_in_the_bin_goes_before_data_does() {
    let (dir, clock) = (scratch(), Clock::system());
    let (store, lane, _) = begin(dir.path(), &clock);
    fill(&store, lane, &clock, 60, 0);
    for n in 0..3 {
        fs::create_dir(dir.path().join(format!("spool/trash-{n}"))).expect("space");
    }
    let limits = settings(dir.path()).limits();
    store.limit(crate::spool::disk::Limits { min_free: Bytes(1 << 62), ..limits });
    let in_bin = || (0..3).filter(|n| dir.path().join(format!("spool/trash-{n}")).exists()).count();
    while in_bin() > 0 {
        store.upkeep().expect("the disk is well");
        let lost: u64 = store.books()[0].lost.iter().sum();
        assert!(in_bin() == 0 || lost == 0, "{lost} lost with {} in the bin", in_bin());
    }
}

/// Goal: what nobody sends any more does not keep clients from being served, also where nothing else gives way.
#[test]
fn what_is_kept_aside_goes_before_a_client_is_sent_away_for_long() {
    let (dir, clock) = (scratch(), Clock::system());
    {
        let (store, lane, _) = begin(dir.path(), &clock);
        fill(&store, lane, &clock, 6, 0);
    }
    flip_block(dir.path(), 2);
    let (store, lane, owner) = begin(dir.path(), &clock);
    drain_all(&store, owner, lane);
    fill(&store, lane, &clock, 3, 6);
    upkeep(&store);
    assert_eq!(quarantined(dir.path()), 1);
    let limits = settings(dir.path()).limits();
    let tight = |max: u64| {
        store.limit(crate::spool::disk::Limits { max: Bytes(max), when_full: WhenFull::Refuse, ..limits });
    };
    tight(5 << 20); // so small that nothing is set by for a full disk
    upkeep(&store);
    tight(store.usage().bytes.0 + 1);
    let one = || store.commit(vec![block(lane, &[900], 900_001, &clock)]);
    assert!(one().is_err(), "there is no room");
    upkeep(&store);
    assert_eq!((quarantined(dir.path()), one().is_ok()), (0, true));
}
