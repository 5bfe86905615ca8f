//! `spool verify`: every byte against its checksum, every request against OTLP, every hole against the books.

use super::{Place, accepted, bar, lane_name, shown, time};
use crate::otlp::walk;
use crate::spool::block::Header;
use crate::spool::ledger::Side;
use crate::spool::survey::{Contents, Damaged, Found, Hole, Holes, Reach, Survey, TheBook};
use crate::supervise::Exit;
use serde_json::{Value, json};
use std::io::{self, Write};

/// How often a moving picture is taken again when something in it looks damaged: a segment that is being sealed or deleted just
/// then does.
const TRIES: u32 = 5;

#[derive(Default)]
struct Findings {
    damage: Vec<Damaged>,
    holes: Vec<Hole>,
    notes: Vec<String>,
    problems: Vec<String>,
    blocks: u64,
    items: u64,
    /// Items of these that stand in a damaged file, or behind damage: fjall does not give them, an agent sends them all the same.
    behind: u64,
}

pub(super) fn verify(place: &Place) -> io::Result<Exit> {
    let mut survey = place.survey()?;
    let (mut book, mut findings) = look(&survey, place);
    for _ in 1..TRIES {
        if findings.is_whole() || survey.holder.is_none() {
            break;
        }
        let before = std::mem::take(&mut findings.damage);
        survey = Survey::of(&place.directory)?;
        (book, findings) = look(&survey, place);
        // What is damaged stays so.
        let stayed = |now: &Damaged| before.iter().any(|then| (&then.file, then.at) == (&now.file, now.at));
        findings.damage.retain(stayed);
    }
    let mut out = io::stdout().lock();
    if place.json {
        writeln!(out, "{}", as_json(&survey, &book, &findings))?;
    } else {
        print(&mut out, &survey, &book, &findings)?;
    }
    Ok(if findings.is_whole() { Exit::Clean } else { Exit::Config })
}

fn look(survey: &Survey, place: &Place) -> (TheBook, Findings) {
    let bar = bar(survey.len() * 2, place.json);
    let progress = |bytes| bar.inc(bytes);
    let book = survey.book(&progress);
    let mut findings = Findings { problems: book.problems.clone(), ..Findings::default() };
    if survey.slot.is_none() && survey.filled().next().is_some() {
        findings
            .problems
            .push("slots: neither of the two can be read; the next start gives the spool a new name".into());
    }
    let mut holes = Holes::default();
    for found in survey.filled() {
        match survey.contents(found, &progress) {
            Ok(contents) => findings.read(&contents, &book, &mut holes),
            Err(error) => findings.unreadable(found, &error),
        }
    }
    for found in &survey.quarantine {
        // That they are damaged is why they are there.
        let contents = survey.contents(found, &progress).unwrap_or_default();
        let readable =
            contents.blocks.values().filter(|spot| contents.request(spot).is_ok_and(|request| request.is_ok()));
        let (blocks, items) = readable.fold((0, 0), |(n, items), spot| (n + 1, items + u64::from(spot.header.items)));
        findings.notes.push(format!("{} was set aside; {blocks} blocks of it, {items} items, can be read", found.name));
    }
    findings.holes = holes.end(&book);
    if survey.holder.is_some() && !findings.holes.is_empty() {
        // What was consumed and deleted since the books were read is no hole.
        let newer = Survey::of(&place.directory).map(|survey| survey.book(&|_| {}));
        if let Ok(newer) = newer {
            findings.holes.retain(|hole| !newer.ledger.open(hole.exporter, hole.lane, hole.totals.clone()).is_empty());
        }
    }
    bar.finish_and_clear();
    (book, findings)
}

impl Findings {
    fn is_whole(&self) -> bool {
        self.damage.is_empty() && self.holes.is_empty() && self.problems.is_empty()
    }

    fn read(&mut self, contents: &Contents, book: &TheBook, holes: &mut Holes) {
        self.notes.extend(contents.notes.iter().cloned());
        self.damage.extend(contents.damage.iter().cloned());
        let given = contents.handed_out().unwrap_or_default();
        for spot in contents.blocks.values() {
            let header = &spot.header;
            let wrong = match contents.request(spot) {
                Ok(Ok(raw)) => is_wrong(header, &raw, book),
                Ok(Err(damage)) => Some(format!("the block's payload is damaged: {damage}")),
                Err(error) => Some(format!("the block cannot be read: {error}")),
            };
            match wrong {
                Some(what) => {
                    let file = contents.file(spot).to_owned();
                    let key = Some((header.lane, header.index));
                    self.damage.push(Damaged { file, at: spot.at, what, key, header: Some(*header) });
                }
                None => {
                    self.blocks += 1;
                    self.items += u64::from(header.items);
                    if given.contains_key(&(header.lane.0, header.index)) {
                        holes.pass(header, book);
                    }
                    if spot.reach > Reach::Read {
                        self.behind += u64::from(header.items);
                    }
                }
            }
        }
    }

    fn unreadable(&mut self, found: &Found, error: &io::Error) {
        let what = format!("the segment cannot be read: {error}");
        self.damage.push(Damaged { file: found.name.clone(), at: 0, what, key: None, header: None });
    }
}

/// What is wrong with a request whose bytes are what was written.
fn is_wrong(header: &Header, raw: &[u8], book: &TheBook) -> Option<String> {
    match walk(header.signal, raw) {
        Err(malformed) => Some(format!("the block's request is no OTLP: {malformed}")),
        // What was set aside in part still has the whole request.
        Ok(walked)
            if walked.items > header.items
                && book.ledger.lane_name(header.lane).starts_with(Side::Quarantine.name()) =>
        {
            None
        }
        Ok(walked) if walked.items != header.items => {
            Some(format!("the block says it has {} items, its request has {}", header.items, walked.items))
        }
        Ok(_) => None,
    }
}

fn print(out: &mut impl Write, survey: &Survey, book: &TheBook, findings: &Findings) -> io::Result<()> {
    for note in &findings.notes {
        writeln!(out, "note: {}", shown(note))?;
    }
    for problem in &findings.problems {
        writeln!(out, "damaged: {}", shown(problem))?;
    }
    for damaged in &findings.damage {
        writeln!(out, "damaged: {} byte {}: {}", shown(&damaged.file), damaged.at, shown(&damaged.what))?;
        if let Some((lane, index)) = damaged.key {
            let said = damaged
                .header
                .map_or_else(String::new, |h| format!(", {} items, accepted {}", h.items, accepted(book, &h)));
            writeln!(out, "         lane {}, index {index}{said}", shown(&lane_name(book, lane)))?;
        }
    }
    for hole in &findings.holes {
        let (lane, exporter) = names(hole, book);
        let (after, before) = hole.accepted;
        let when = match (after.map(time), before.map(time)) {
            (Some(after), Some(before)) => format!("accepted between {after} and {before}"),
            (Some(after), None) => format!("accepted after {after}"),
            (None, Some(before)) => format!("accepted before {before}"),
            (None, None) => "accepted at an unknown time".to_owned(),
        };
        writeln!(out, "missing: {} items of {} for {}, {when}", hole.items, shown(&lane), shown(&exporter))?;
    }
    let Findings { blocks, items, .. } = findings;
    let missing: u64 = findings.holes.iter().map(|hole| hole.items).sum();
    let places = findings.damage.len() + findings.problems.len();
    let verdict = match (places, missing) {
        (0, 0) => "whole".to_owned(),
        _ => format!("{places} damaged places, {missing} items missing"),
    };
    let verdict = match findings.behind {
        0 => verdict,
        behind => format!("{verdict}, {behind} items behind damage (they are sent all the same)"),
    };
    writeln!(out, "{} segments, {blocks} blocks, {items} items: {verdict}", survey.segments.len())
}

fn names(hole: &Hole, book: &TheBook) -> (String, String) {
    let exporter = book.ledger.readers(hole.lane).find(|(no, _)| *no == hole.exporter);
    (lane_name(book, hole.lane), exporter.map_or_else(String::new, |(_, name)| name.to_owned()))
}

fn as_json(survey: &Survey, book: &TheBook, findings: &Findings) -> Value {
    let damage = findings.damage.iter().map(|damaged| {
        json!({
            "file": damaged.file, "offset": damaged.at, "what": damaged.what,
            "lane": damaged.key.map(|(lane, _)| lane_name(book, lane)), "index": damaged.key.map(|(_, index)| index),
            "items": damaged.header.map(|h| h.items), "accepted": damaged.header.map(|h| time(h.accepted)),
        })
    });
    let damage: Vec<Value> = damage.collect();
    let holes = findings.holes.iter().map(|hole| {
        let (lane, exporter) = names(hole, book);
        json!({
            "lane": lane, "exporter": exporter, "items": hole.items,
            "from_index": hole.indices.start, "to_index": (hole.indices.end < u64::MAX).then_some(hole.indices.end),
            "accepted_after": hole.accepted.0.map(time), "accepted_before": hole.accepted.1.map(time),
        })
    });
    let holes: Vec<Value> = holes.collect();
    json!({
        "whole": findings.is_whole(),
        "segments": survey.segments.len(), "blocks": findings.blocks, "items": findings.items, "items_behind_damage": findings.behind,
        "damaged": damage, "missing": holes, "problems": findings.problems, "notes": findings.notes,
        "in_use_by": survey.holder,
    })
}
