//! Every sync of the agent and what is lost without it: the call is left out of the model (or fails and nobody looks), and
//! some image must break a promise. Nothing is compiled anew: a sync changes what survives and nothing else.

use super::disk::{Cut, Names, Rest, Sabotage, is_at};
use super::recorder::Log;
use super::{Recording, on_all_processors, try_in_process};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tfo_otel_agent::base::Dice;

/// One sync, or several that do the same and stand in for each other (`*`); where it stands, and whether a power cut must
/// show that it is missing. One that no cut misses says why it is there all the same.
pub(crate) const SITES: &[(&str, &str, bool)] = &[
    ("fsync <root>*", "home.rs, make_directory: the directories that lead to the spool", true),
    ("fsync var #*", "home.rs, make_directory: the directories that lead to the spool", true),
    ("fsync var/queue", "segment.rs, Segment::create: its parent", true),
    // fjall makes no name in it after its own last sync of it; what fjall does next year is another matter.
    ("fsync var/queue/seg #3", "segment.rs, Segment::create: itself", false),
    ("fsync var/queue/seg #*", "the same, and fjall's two", true),
    ("fsync var/queue/seg/keyspaces #2", "segment.rs, Segment::create: keyspaces", true),
    ("fdatasync var/queue/seg/0.jnl by spool-writer", "segment.rs, append: commits", true),
    ("fdatasync var/queue/seg/0.jnl by spool-keeper", "segment.rs, append and sync: the books before a deletion", true),
    ("fdatasync var/queue/copy/0.jnl*", "segment.rs, append: a copy", true),
    ("fsync var/queue/copy #*", "segment.rs, Segment::create of a copy", true),
    ("fsync var/queue/copy/keyspaces #2", "segment.rs, Segment::create of a copy: keyspaces", true),
    ("fdatasync var/queue/slots by tfo-otel-agent", "slots.rs, write: a start", true),
    // Both slots are written and synced after it; it is there for the space, so that a full disk is noticed at once.
    ("fsync var/queue/slots*", "slots.rs, begin: the zeros", false),
    // Without it an orderly stop looks like none, which costs a line in the log.
    ("fdatasync var/queue/slots by tokio*", "slots.rs, stop_clean", false),
    // A truncation that is lost leaves a journal of what the table has as well.
    ("fsync var/queue/seg/0.jnl*", "segment.rs, seal: the truncation, and fjall's", false),
    // Without its marker, its notes or its lists fjall does not open a segment; the agent reads it all the same, and never
    // writes it (`spool/wreck.rs`).
    ("fsync var/queue/seg/version*", "fjall: the marker", false),
    ("fsync var/queue/seg/keyspaces/0/*", "fjall: its notes", false),
    ("fsync var/queue/seg/keyspaces/1/tables/<table>*", "fjall: a flushed table", true),
    ("fsync var/queue/seg/keyspaces/1/tables #*", "fjall: the table's name", true),
    ("fsync var/queue/seg/keyspaces/1/v<n>*", "fjall: the list of tables", false),
    // These two sync one file, before and after its rename: each stands in for the other.
    ("fsync var/queue/seg/keyspaces/1/<tmp>*", "fjall: the pointer to it, before its rename", false),
    ("fsync var/queue/seg/keyspaces/1/current*", "fjall: the same, after it", false),
    ("fsync var/queue/seg/keyspaces/1 #*", "fjall: the names of both", false),
];

/// Every line of `src/spool` that syncs, so that a new one gets its place in a list: in [`SITES`], or in the kills of `main.rs`
/// (what one life did not sync and the next one built on).
#[test]
fn every_line_that_syncs_is_on_a_list() {
    let calls = ["sync_all(", "sync_data(", "sync_dir(", "sync_journals(", "PersistMode::SyncData", ".sync()"];
    let mut found = Vec::new();
    for file in [
        "segment.rs",
        "disk.rs",
        "disk/home.rs",
        "disk/retention.rs",
        "disk/start.rs",
        "disk/look.rs",
        "disk/upkeep.rs",
        "slots.rs",
        "summary.rs",
        "store.rs",
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spool").join(file);
        let text = std::fs::read_to_string(path).expect("readable");
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = code.lines().map(str::trim).filter(|line| !line.starts_with("//") && !line.contains("fn "));
        let lines = lines.filter(|line| calls.iter().any(|call| line.contains(call)));
        found.extend(lines.map(|line| (file, line.chars().take(40).collect::<String>())));
    }
    let found: Vec<(&str, &str)> = found.iter().map(|(file, line)| (*file, line.as_str())).collect();
    #[rustfmt::skip]
    assert_eq!(found, [
        ("segment.rs", "sync_dir(dir)?;"),                             // create: three directories
        ("segment.rs", "file.sync_all()?;"),                           // open: a torn tail cut off; unsynced, it is cut again
        ("segment.rs", "let mode = if sync { PersistMode::SyncDa"),    // append: commits, books before deletions, copies
        ("segment.rs", "self.whole()?.1.persist(PersistMode::Syn"),    // sync: books that changed nothing since
        ("segment.rs", "sync_all(&path)?; // a table that a kill"),    // seal: kills, `tables`
        ("segment.rs", "file.sync_all()?;"),                           // seal: the truncation
        ("segment.rs", "sync_dir(path.parent().unwrap_or(path))"),     // sync_all
        ("segment.rs", "if kind.is_dir() || kind.is_file() { Fil"),    // sync_all
        ("segment.rs", "journals(path)?.iter().try_for_each(|jou"),    // sync_journals
        ("segment.rs", "File::open(dir)?.sync_all()"),                 // sync_dir
        ("disk.rs", "segment::sync_all(&self.path(no))?; // w"),       // take_spare: kills, `version`
        ("disk.rs", "return if sync { segment.sync().map_err("),       // append: `sync` above
        ("disk.rs", "segment::sync_dir(&aside)?;"),                    // set_aside: a wreck; unsynced, it is moved again
        ("disk.rs", "segment::sync_dir(dir)?;"),                       // the same
        ("disk/home.rs", "made.for_each(|parent| drop(segment::syn"),  // make_directory: the way to the spool
        ("disk/start.rs", "let looked = looked.filter(|found| *foun"), // list: kills, `copy`
        ("disk/start.rs", "&& let Err(error) = segment::sync_journa"), // read_book: kills, `0.jnl`
        ("slots.rs", "file.sync_all()?;"),                             // begin: the zeros
        ("slots.rs", "self.file.sync_data()?;"),                       // write
    ]);
}

/// What came out without a sync.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) site: &'static str,
    pub(crate) place: &'static str,
    pub(crate) must: bool,
    pub(crate) calls: usize,
    /// What the first image that broke a promise said, if the call is left out; if its error is ignored.
    pub(crate) caught: [Option<String>; 2],
}

/// Tries so many of the syncs; all that a cut must miss are among which it chooses.
pub(crate) fn search(recordings: &[&Recording], most: usize, tries: u64, dice: &mut Dice) -> Vec<Finding> {
    // Without some of fjall's own syncs fjall panics while it unwinds, which ends the process: for the long run, which somebody
    // looks at. (An agent ends the same way, and sets the block aside that it ended over.)
    let all_of_them = most >= SITES.len();
    let is_for_a_short_run = |place: &str, must| must && !place.starts_with("fjall: ");
    let mut chosen: Vec<_> =
        SITES.iter().filter(|(_, place, must)| all_of_them || is_for_a_short_run(place, *must)).collect();
    while chosen.len() > most {
        chosen.swap_remove(usize::try_from(dice.within(0..chosen.len() as u64)).expect("an index"));
    }
    let all = || recordings.iter().flat_map(|r| &r.log.ops).filter_map(|op| op.site.as_deref());
    let finding = |(site, place, must): &(&'static str, &'static str, bool)| {
        let calls = all().filter(|here| is_at(here, site)).count();
        let removed = catch(recordings, site, &Sabotage::Without((*site).into()), tries, None, dice);
        let hint = removed.as_ref().map(|(cut, _)| *cut);
        let ignored = catch(recordings, site, &Sabotage::Ignoring((*site).into()), tries, hint, dice);
        let caught = [removed, ignored].map(|c| c.map(|(_, why)| why));
        let finding = Finding { site, place, must: *must, calls, caught };
        println!("{}", line(&finding));
        finding
    };
    chosen.into_iter().map(finding).collect()
}

/// A recording and a cut of it.
type Place = (usize, Cut);

/// The first image that breaks a promise. `hint` is one that may.
fn catch(
    recordings: &[&Recording],
    site: &str,
    sabotage: &Sabotage,
    tries: u64,
    hint: Option<Place>,
    dice: &mut Dice,
) -> Option<(Place, String)> {
    let there: Vec<usize> = (0..recordings.len()).filter(|r| !places(&recordings[*r].log, site).is_empty()).collect();
    if there.is_empty() {
        return None;
    }
    let mut cuts: Vec<Place> = hint.into_iter().collect();
    for n in 0..tries {
        let recording = there[usize::try_from(n % there.len() as u64).expect("an index")];
        cuts.push((recording, cut_after(&recordings[recording].log, site, dice)));
    }
    let over = AtomicBool::new(false);
    let results = on_all_processors(cuts.len() as u64, |n| {
        if over.load(Relaxed) {
            return None;
        }
        let (recording, cut) = cuts[usize::try_from(n).expect("an index")];
        let why = try_in_process(recordings[recording], cut, sabotage).err()?;
        over.store(true, Relaxed);
        Some(((recording, cut), why.lines().next().unwrap_or_default().chars().take(60).collect()))
    });
    results.into_iter().flatten().next()
}

fn places(log: &Log, site: &str) -> Vec<u64> {
    log.ops.iter().filter(|op| op.site.as_deref().is_some_and(|here| is_at(here, site))).map(|op| op.left).collect()
}

/// Soon after such a sync, or after it and an answer that may lean on it.
fn cut_after(log: &Log, site: &str, dice: &mut Dice) -> Cut {
    let places = places(log, site);
    let place = places[usize::try_from(dice.within(0..places.len() as u64)).expect("an index")];
    let answer = log.sent.iter().map(|s| s.tick).find(|tick| *tick > place).unwrap_or(log.end);
    let tick = match dice.within(0..4) {
        0 => place + dice.within(0..10),
        1 => place + dice.within(0..400),
        2 => answer + dice.within(0..200),
        _ => answer + dice.within(0..2_000),
    };
    let names = if dice.chance(1, 3) { Names::Lenient } else { Names::Strict };
    let rest = match dice.within(0..4) {
        0 | 1 => Rest::Nothing,
        2 => Rest::Order,
        _ => Rest::Any,
    };
    Cut { tick: tick.min(log.end), names, rest, seed: dice.u64() }
}

/// One line of the table.
pub(crate) fn line(f: &Finding) -> String {
    let told = |caught: &Option<String>| caught.clone().unwrap_or_else(|| "nothing".into());
    format!(
        "{:<50} {:>5} calls | {:<62} | left out: {} | ignored: {}",
        f.site,
        f.calls,
        f.place,
        told(&f.caught[0]),
        told(&f.caught[1])
    )
}
