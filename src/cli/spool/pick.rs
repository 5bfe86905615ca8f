//! Which items are meant, and handing them out block by block: oldest segment first, in each by lane and index.

use super::{Place, bar, lane_name, shown};
use crate::otlp::{Cutter, Malformed, Signal, walk};
use crate::spool::Damage;
use crate::spool::block::Header;
use crate::spool::ledger::Side;
use crate::spool::survey::{Found, Spot, Survey, TheBook};
use bytes::Bytes;
use clap::Args;
use std::io;
use std::ops::{Bound, ControlFlow, Range};

/// Which items.
#[derive(Debug, Args)]
pub(super) struct Pick {
    /// Only of this lane: a pipeline's name, or one from `ls` like park/otlphttp/logs.
    #[arg(long)]
    lane: Option<String>,
    /// Only what this exporter has still to send.
    #[arg(long)]
    exporter: Option<String>,
    /// Dead letters and quarantine instead of what waits.
    #[arg(long, conflicts_with = "all")]
    dead: bool,
    /// Everything that can be read, also what was sent and is not deleted yet.
    #[arg(long, conflicts_with = "exporter")]
    all: bool,
    /// Only blocks from this index on.
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
}

/// A block of which items are meant.
pub(super) struct Picked<'a> {
    pub(super) book: &'a TheBook,
    pub(super) lane: &'a str,
    pub(super) header: &'a Header,
    /// The whole request, walked.
    pub(super) raw: Bytes,
    /// Which of its items, in order.
    pub(super) parts: Vec<Range<u32>>,
}

impl Picked<'_> {
    pub(super) fn signal(&self) -> Signal {
        self.header.signal
    }

    pub(super) fn items(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.end - part.start)).sum()
    }

    /// The items that are meant, as requests.
    pub(super) fn requests(&self) -> Result<Vec<Bytes>, Malformed> {
        let cutter = Cutter::of(self.signal(), &self.raw)?;
        self.parts.iter().map(|part| cutter.take(part.clone())).collect()
    }
}

impl Pick {
    /// Hands out what is meant until told to stop. Returns what of it could not be read.
    pub(super) fn each(
        &self,
        place: &Place,
        mut found: impl FnMut(Picked<'_>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<Vec<String>> {
        let survey = place.survey()?;
        let bar = bar(survey.len() * 2, place.json);
        let progress = |bytes| bar.inc(bytes);
        let book = survey.book(&progress);
        self.check(&book)?;
        let mut skipped: Vec<String> = book.problems.clone();
        let set_aside = survey.quarantine.iter().filter(|_| self.all);
        for segment in survey.filled().chain(set_aside) {
            let mut walk = Walk { pick: self, survey: &survey, book: &book, skipped: &mut skipped };
            if walk.segment(segment, &progress, &mut found)?.is_break() {
                break;
            }
        }
        bar.finish_and_clear();
        Ok(skipped)
    }

    /// Names that nobody bears are a mistake, not nothing.
    fn check(&self, book: &TheBook) -> io::Result<()> {
        let lanes: Vec<&str> = book.ledger.lanes().map(|(_, name, ..)| name).collect();
        if let Some(lane) = &self.lane
            && !lanes.contains(&lane.as_str())
            && !lane.starts_with("lane ")
        {
            return Err(io::Error::other(format!(
                "no lane is named {}; there are {}",
                shown(lane),
                shown(&lanes.join(", "))
            )));
        }
        let mut readers: Vec<&str> =
            book.ledger.lanes().flat_map(|(lane, ..)| book.ledger.readers(lane).map(|(_, name)| name)).collect();
        readers.sort_unstable();
        readers.dedup();
        if let Some(exporter) = &self.exporter
            && !readers.contains(&exporter.as_str())
        {
            return Err(io::Error::other(format!(
                "no exporter is named {}; there are {}",
                shown(exporter),
                shown(&readers.join(", "))
            )));
        }
        Ok(())
    }

    /// Which items of a block are meant.
    fn parts(&self, book: &TheBook, spot: &Spot, lane: &str) -> Vec<Range<u32>> {
        let header = &spot.header;
        let is_held = [Side::Dead, Side::Quarantine]
            .iter()
            .any(|side| lane.strip_prefix(side.name()).is_some_and(|rest| rest.starts_with('/')));
        let is_meant =
            self.lane.as_ref().is_none_or(|name| name == lane) && self.from.is_none_or(|from| header.index >= from);
        if !is_meant || header.items == 0 {
            return Vec::new();
        }
        let whole = || all_of(header.items);
        if self.all {
            return whole();
        }
        if is_held != self.dead && (self.dead || self.exporter.is_some()) {
            return Vec::new();
        }
        let mut readers = book.ledger.readers(header.lane).peekable();
        if readers.peek().is_none() {
            return if self.exporter.is_none() { whole() } else { Vec::new() };
        }
        let before = header.accepted_before();
        let mut open: Vec<Range<u32>> = Vec::new();
        for (exporter, _) in readers.filter(|(_, name)| self.exporter.as_ref().is_none_or(|wanted| wanted == name)) {
            for part in book.ledger.open(exporter, header.lane, before..header.accepted_total) {
                let small = |total: u64| u32::try_from(total - before).unwrap_or(header.items).min(header.items);
                open.push(small(part.start)..small(part.end));
            }
        }
        open.sort_by_key(|part| part.start);
        open.dedup_by(|next, last| {
            let touch = next.start <= last.end;
            if touch {
                last.end = last.end.max(next.end);
            }
            touch
        });
        open
    }
}

/// How often a segment is taken up again that changed while it was read, as those of a running agent do.
const TRIES: u32 = 3;

struct Walk<'a> {
    pick: &'a Pick,
    survey: &'a Survey,
    book: &'a TheBook,
    skipped: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn segment(
        &mut self,
        segment: &Found,
        progress: &dyn Fn(u64),
        found: &mut dyn FnMut(Picked<'_>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<ControlFlow<()>> {
        let mut done: Bound<(u32, u64)> = Bound::Unbounded;
        for last_try in (0..TRIES).map(|n| n + 1 == TRIES || self.survey.holder.is_none()) {
            let contents = match self.survey.contents(segment, progress) {
                Ok(contents) => contents,
                Err(error) => {
                    self.skipped.push(format!("{}: {error}", segment.name));
                    return Ok(ControlFlow::Continue(()));
                }
            };
            if contents.vanished {
                let why =
                    "it was deleted while it was looked at: nobody needs it, or it was copied; look again to be sure";
                self.skipped.push(format!("{}: {why}", segment.name));
            }
            let headless = contents.damage.iter().filter(|damaged| damaged.header.is_none());
            self.skipped.extend(headless.map(|d| format!("{} byte {}: {}", d.file, d.at, d.what)));
            let mut changed = false;
            for (key, spot) in contents.blocks.range((done, Bound::Unbounded)) {
                let lane = lane_name(self.book, spot.header.lane);
                let parts = self.pick.parts(self.book, spot, &lane);
                if parts.is_empty() {
                    continue;
                }
                let request = contents.request(spot);
                if request.is_err() && !last_try {
                    changed = true; // its journal was cut: the table has it now
                    break;
                }
                done = Bound::Excluded(*key);
                match read(&spot.header, request) {
                    Ok((raw, items)) => {
                        // A block that was set aside in part has the whole request still.
                        let parts = if items == spot.header.items { parts } else { all_of(items) };
                        let picked = Picked { book: self.book, lane: &lane, header: &spot.header, raw, parts };
                        if found(picked)?.is_break() {
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                    Err(why) => {
                        let Header { index, items, .. } = spot.header;
                        let (file, at) = (contents.file(spot), spot.at);
                        self.skipped.push(format!("{file} byte {at}: {lane}, index {index}, {items} items: {why}"));
                    }
                }
            }
            if !changed {
                break;
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn all_of(items: u32) -> Vec<Range<u32>> {
    std::iter::once(0..items).collect()
}

/// A request and how many items it has, or why it is none.
fn read(header: &Header, request: io::Result<Result<Bytes, Damage>>) -> Result<(Bytes, u32), String> {
    let raw = request.map_err(|error| error.to_string())?;
    let raw = raw.map_err(|damage| format!("the block's payload is damaged: {damage}"))?;
    let walked =
        walk(header.signal, &raw).map_err(|malformed| format!("the block's request is no OTLP: {malformed}"))?;
    Ok((raw, walked.items))
}
