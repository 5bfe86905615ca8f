//! What must hold of every image: the spool starts on it, gives what was acknowledged and nothing else, its books add up,
//! no place is used twice, and what it is given from now on is kept.

use super::disk::{Cut, Rest};
use super::world::{Story, is_poison};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};
use tfo_otel_agent::base::{Bytes, Clock, Dice};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::spool::block::frame;
use tfo_otel_agent::spool::disk::{Compaction, DiskSettings, Shed, StartError, WhenFull};
use tfo_otel_agent::spool::store::Spool;
use tfo_otel_agent::spool::{self, Lane, NewBlock, Outcome, Owner, Pos, Reason, Settlement, Store as _};
use tfo_otel_agent::testing::numbered::numbers;
use tfo_otel_agent::testing::{Mark, Numbered, Source, Tally};

pub(crate) const EXPORTER: &str = "otlphttp";
pub(crate) const SIGNALS: [Signal; 2] = [Signal::Logs, Signal::Metrics];
const HOW: spool::Cut = spool::Cut { enough_items: 500, max_items: 1_000, max_bytes: 4 << 20 };
/// Source of what is committed after the recovery.
const AFTERWARDS: Source = Source(77);

pub(crate) fn open(queue: &Path) -> Result<Spool, String> {
    let settings = DiskSettings {
        directory: queue.to_owned(),
        max: Bytes::mib(256),
        min_free: Bytes(0),
        when_full: WhenFull::Refuse,
        shed: Shed::default(),
        max_age: None,
        segment_min: Bytes(192 << 10),
        segment_max: Bytes(192 << 10),
        seal: true,
        compact: Compaction::USUAL,
    };
    // A child of another test that was forked and has not become its own program yet holds our lock for a moment.
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        match Spool::on_disk(settings.clone(), Clock::system(), Dice::seeded(7)) {
            Err(StartError::InUse { .. }) if Instant::now() < patience => std::thread::sleep(Duration::from_millis(2)),
            opened => return opened.map_err(|e| format!("it does not start: {e}")),
        }
    }
}

struct Reader<'a> {
    spool: &'a Spool,
    owner: Owner,
    lanes: [Lane; 2],
}

impl<'a> Reader<'a> {
    fn of(spool: &'a Spool) -> Reader<'a> {
        let lanes = SIGNALS.map(|signal| spool.lane(signal.name(), signal));
        Reader { spool, owner: spool.own(EXPORTER, &lanes), lanes }
    }

    /// What waits in a lane, delivered. `each` gets every item.
    fn drain(&self, lane: Lane, signal: Signal, mut each: impl FnMut(Mark)) -> Result<u64, String> {
        let mut highest = 0;
        while let Some(lease) = self.spool.lease(self.owner, lane, HOW).map_err(|e| e.to_string())? {
            self.spool.handled(self.owner, lane, lease.window.clone());
            for b in &lease.blocks {
                highest = highest.max(b.index);
                let mut marks = Vec::new();
                numbers(signal, &b.raw, |mark| marks.extend(mark)).map_err(|e| e.to_string())?;
                if marks.len() != b.items as usize {
                    return Err(format!("block {} says {} items and bears {}", b.index, b.items, marks.len()));
                }
                let at = |item: u32| Pos { index: b.index, item };
                let open = |item: &u32| !lease.settled.iter().any(|s| s.contains(&at(*item)));
                for part in runs((0..b.items).filter(open)) {
                    part.clone().for_each(|item| each(marks[item as usize]));
                    let end = if part.end == b.items { Pos { index: b.index + 1, item: 0 } } else { at(part.end) };
                    let settlement = Settlement {
                        owner: self.owner,
                        lane,
                        range: at(part.start)..end,
                        items: part.end - part.start,
                        outcome: Outcome::Delivered { rejected: 0 },
                    };
                    self.spool.settle(vec![settlement]).map_err(|e| e.to_string())?;
                }
            }
        }
        Ok(highest)
    }

    fn keep_house(&self, rounds: u64) {
        for _ in 0..rounds {
            match self.spool.upkeep() {
                Ok(true) => {}
                _ => return,
            }
        }
    }
}

fn runs(items: impl Iterator<Item = u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for n in items {
        match runs.last_mut() {
            Some(run) if run.end == n => run.end += 1,
            _ => runs.push(n..n + 1),
        }
    }
    runs
}

/// Whether the recorded agent had a cap it reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evicts {
    No,
    Yes,
}

/// In this process, by the spool alone: start, drain, books; then new data, another start, and the new data again.
///
/// # Errors
/// What does not hold.
pub(crate) fn judge(queue: &Path, story: &Story, cut: Cut, evicts: Evicts) -> Result<(), String> {
    let judged = catch_unwind(AssertUnwindSafe(|| judged(queue, story, cut, evicts)));
    judged.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("a panic: {}", text.unwrap_or("without a word")))
    })
}

fn judged(queue: &Path, story: &Story, cut: Cut, evicts: Evicts) -> Result<(), String> {
    let mut dice = Dice::seeded(cut.seed ^ 1);
    let mut tally = story.books(cut.tick);
    let before = story.highest(cut.tick);
    let spool = open(queue)?;
    let reader = Reader::of(&spool);
    reader.keep_house(dice.within(0..6));
    for (signal, lane) in SIGNALS.into_iter().zip(reader.lanes) {
        for lane in [lane, spool.park_lane(reader.owner, lane)] {
            reader.drain(lane, signal, |mark| tally.arrived(signal, Some(mark)))?;
            reader.keep_house(dice.within(0..3));
        }
    }
    lost_or_invented(&tally, &spool, evicts, |lane| under_way(story, cut, lane))?;
    if let Some(name) = story.name(cut.tick).filter(|name| *name != format!("{:032x}", spool.uuid())) {
        return Err(format!(
            "the far end knew the spool as {name}, and it is {:032x} now: uploads change their ids",
            spool.uuid()
        ));
    }
    // New data: above everything that was ever used, and still there at the start after this one.
    for (signal, lane) in SIGNALS.into_iter().zip(reader.lanes) {
        let raw = Numbered::new(signal, AFTERWARDS).request(7).bytes;
        let block = NewBlock {
            lane,
            signal,
            block_id: dice.id128(),
            items: 7,
            raw_len: u32::try_from(raw.len()).expect("small"),
            accepted: Clock::system().now(),
            boot: None,
            data_ns: (0, 0),
            framed: frame(&raw),
        };
        spool.commit(vec![block]).map_err(|e| format!("it takes nothing new: {e}"))?;
    }
    drop(spool);
    let spool = open(queue)?;
    let reader = Reader::of(&spool);
    for (signal, lane) in SIGNALS.into_iter().zip(reader.lanes) {
        let (mut new, mut old) = (0, 0);
        let index =
            reader.drain(lane, signal, |mark| *(if mark.source == AFTERWARDS { &mut new } else { &mut old }) += 1)?;
        if new != 7 {
            return Err(format!(
                "{new} of 7 {signal} committed after the recovery are there at the next start ({old} others)"
            ));
        }
        if before.get(&lane.0).is_some_and(|used| *used >= index) {
            return Err(format!("place {index} of {signal} is used twice: up to {} was sent before", before[&lane.0]));
        }
    }
    drop(spool);
    Ok(())
}

/// Of a commit that was torn in its middle the end can be there: that looks like damage to one that was answered, so what it held
/// counts as lost. Only that of the one commit that was under way, and only of a disk that keeps any part of what is not synced.
fn under_way(story: &Story, cut: Cut, lane: &str) -> u64 {
    if !matches!(cut.rest, Rest::Any | Rest::Order) {
        return 0;
    }
    SIGNALS.into_iter().filter(|signal| signal.name() == lane).map(|signal| story.under_way(cut.tick, signal)).sum()
}

fn lost_or_invented(
    tally: &Tally,
    spool: &Spool,
    evicts: Evicts,
    under_way: impl Fn(&str) -> u64,
) -> Result<(), String> {
    let (books, report) = (spool.books(), tally.report());
    for book in &books {
        let lost: u64 = book.lost.iter().sum();
        let sum = book.delivered + book.waiting + book.dead_letters + book.quarantined + lost;
        let evicted = book.lost[Reason::Evicted as usize];
        let allowed = if evicts == Evicts::Yes { evicted } else { 0 };
        let allowed = allowed + under_way(&book.lane).min(book.lost[Reason::Corrupt as usize]);
        if sum != book.accepted || book.waiting > 0 || book.quarantined > 0 || lost > allowed {
            return Err(format!("the books: {book:?}"));
        }
    }
    // What arrived is called delivered, or (under way when it was evicted) lost: never less.
    for (signal, lane) in SIGNALS.map(|signal| (signal, signal.name())) {
        let arrived: u64 = report.streams.iter().filter(|s| s.signal == signal).map(|s| s.arrived).sum();
        let known = books.iter().filter(|b| b.lane == lane).map(|b| b.delivered + b.lost[Reason::Evicted as usize]);
        let known: u64 = known.sum();
        if arrived > known {
            return Err(format!("{arrived} {signal} arrived, and the books know of {known}: {books:?}"));
        }
    }
    for stream in &report.streams {
        let mut missing = 0;
        let mut last_missing = None;
        for seq in stream.lost.iter().cloned().flatten() {
            if !is_poison(stream.signal, Mark { source: stream.source, seq }) {
                missing += 1;
                last_missing = Some(seq);
            }
        }
        let book = books.iter().find(|b| b.lane == stream.signal.name());
        let evicted = book.map_or(0, |b| b.lost[Reason::Evicted as usize]);
        if missing > 0 && (evicts == Evicts::No || missing > evicted) {
            return Err(format!(
                "{missing} acknowledged items lost, the last one {last_missing:?} (evicted: {evicted}): {report}"
            ));
        }
    }
    if report.never_issued() > 0 {
        return Err(format!("invented: {report}"));
    }
    Ok(())
}
