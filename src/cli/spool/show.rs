//! `spool ls` and `spool stat`.

use super::{Place, accepted, bar, lane_name, print_table, shown, time};
use crate::app::control::{Answer, LiveBook, Order, ask};
use crate::base::{Bytes, Clock, Stamp};
use crate::spool::block::Header;
use crate::spool::disk::State;
use crate::spool::survey::{Contents, Reach, Survey, TheBook};
use crate::spool::{Loss, Reason, Stretch};
use crate::supervise::Exit;
use crate::telemetry::gotime::duration;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::time::Duration;

fn state_name(state: State) -> &'static str {
    match state {
        State::Spare => "spare",
        State::Closed => "journal",
        State::Sealed => "sealed",
        State::Making | State::Active | State::Broken => "half-made",
    }
}

pub(super) fn ls(place: &Place) -> io::Result<Exit> {
    let survey = place.survey()?;
    let bar = bar(survey.len() * 2, place.json);
    let progress = |bytes| bar.inc(bytes);
    let book = survey.book(&progress);
    let now = Clock::system().reading();
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for found in survey.segments.iter().chain(&survey.quarantine) {
        let contents = survey.contents(found, &progress);
        let nothing = Contents::default();
        let (contents, error) = match &contents {
            Ok(contents) => (contents, None),
            Err(error) => (&nothing, Some(error.to_string())),
        };
        let age = |h: &Header| book.ledger.age(h.into(), &now);
        let headers: Vec<&Header> = contents.blocks.values().map(|spot| &spot.header).collect();
        let items: u64 = headers.iter().map(|h| u64::from(h.items)).sum();
        let lanes: BTreeSet<String> = headers.iter().map(|h| lane_name(&book, h.lane)).collect();
        let first = headers.iter().max_by_key(|h| age(h)).map(|h| accepted(&book, h));
        let last = headers.iter().min_by_key(|h| age(h)).map(|h| accepted(&book, h));
        let lanes: Vec<String> = lanes.iter().map(|name| shown(name)).collect();
        let damage = contents.damage.len() + usize::from(error.is_some());
        rows.push(vec![
            found.name.clone(),
            state_name(found.state).to_owned(),
            Bytes(found.bytes).to_string(),
            headers.len().to_string(),
            items.to_string(),
            first.clone().unwrap_or_default(),
            last.clone().unwrap_or_default(),
            if damage == 0 { lanes.join(",") } else { format!("{} ({damage} damaged places)", lanes.join(",")) },
        ]);
        all.push(json!({
            "segment": found.name, "state": state_name(found.state), "bytes": found.bytes, "blocks": headers.len(),
            "items": items, "lanes": lanes, "first_accepted": first, "last_accepted": last, "damaged_places": damage,
            "error": error,
        }));
    }
    bar.finish_and_clear();
    let mut out = io::stdout().lock();
    if place.json {
        let left = (&survey.leftover, survey.foreign);
        writeln!(out, "{}", json!({"segments": all, "leftover": left.0, "otelcol_queue_bytes": left.1}))?;
        return Ok(Exit::Clean);
    }
    print_table(
        &mut out,
        &["SEGMENT", "STATE", "DISK", "BLOCKS", "ITEMS", "FIRST ACCEPTED", "LAST ACCEPTED", "LANES"],
        &rows,
    )?;
    for name in &survey.leftover {
        writeln!(out, "{}  left over; the next start removes it", shown(name))?;
    }
    if survey.foreign > 0 {
        writeln!(out, "{} of otelcol's own queue files (exporter_…), which are none of ours", Bytes(survey.foreign))?;
    }
    Ok(Exit::Clean)
}

/// When the oldest block was accepted of which a book's exporter still needs something, by pipeline and exporter.
type Oldest = BTreeMap<(String, String), Header>;

pub(super) fn stat(place: &Place) -> io::Result<Exit> {
    let survey = place.survey()?;
    let bar = bar(survey.len(), place.json);
    let progress = |bytes| bar.inc(bytes);
    let book = survey.book(&progress);
    let oldest = oldest(&survey, &book, &progress);
    bar.finish_and_clear();
    let aside: u64 = survey.quarantine.iter().map(|found| found.bytes).sum();
    let mut books: Vec<Value> = books_as_json(&book, &oldest);
    // What it said last may not be on the disk yet.
    let live = survey.holder.as_ref().and_then(|_| ask(&place.directory, Order::Books, |_| ()).ok());
    let is_live = matches!(live, Some(Answer::Books { .. }));
    if let Some(Answer::Books { books: live, .. }) = live {
        as_of_now(&mut books, live);
    }
    let held: Vec<(String, u64)> = book
        .ledger
        .lanes()
        .filter(|(lane, _, _, tip)| *tip > 0 && book.ledger.readers(*lane).next().is_none())
        .map(|(_, name, _, tip)| (name.to_owned(), tip))
        .collect();
    let losses = book.ledger.losses(None);
    let mut out = io::stdout().lock();
    if place.json {
        let slot = survey
            .slot
            .map(|slot| json!({"uuid": format!("{:032x}", slot.uuid), "starts": slot.epoch, "clean": slot.clean}));
        let held: Vec<Value> = held.iter().map(|(lane, items)| json!({"lane": lane, "items": items})).collect();
        let all = json!({
            "directory": survey.directory, "spool": slot, "in_use_by": survey.holder, "bytes": survey.len(),
            "segments": survey.segments.len(), "set_aside": {"segments": survey.quarantine.len(), "bytes": aside},
            "book": book.segment, "live": is_live, "problems": book.problems, "books": books, "losses": losses.iter().map(loss_as_json).collect::<Vec<Value>>(), "without_exporter": held,
        });
        writeln!(out, "{all}")?;
        return Ok(Exit::Clean);
    }
    writeln!(out, "{}", survey.directory.display())?;
    match survey.slot {
        Some(slot) => {
            let end = match (&survey.holder, slot.clean) {
                (Some(holder), _) => format!("in use by {}", shown(holder)),
                (None, true) => "stopped in order".to_owned(),
                (None, false) => "did not stop in order".to_owned(),
            };
            writeln!(out, "spool {:032x}, {} starts, {end}", slot.uuid, slot.epoch)?;
        }
        None => writeln!(out, "its slots cannot be read: the next start gives it a new name")?,
    }
    let spare = survey.segments.iter().filter(|found| found.state == State::Spare).count();
    writeln!(
        out,
        "{} in {} segments ({spare} spare), {} in {} set aside",
        Bytes(survey.len()),
        survey.segments.len(),
        Bytes(aside),
        survey.quarantine.len()
    )?;
    let as_of = if is_live { Some("now, by the agent") } else { book.segment.as_deref() };
    writeln!(out, "books as of {}\n", as_of.unwrap_or("nothing: no segment holds any"))?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), shown);
    let row = |b: &Value| {
        let lost: Vec<String> = Reason::ALL
            .iter()
            .filter(|r| b["lost"][r.name()] != 0)
            .map(|r| format!("{} {}", r.name(), b["lost"][r.name()]))
            .collect();
        let mut row: Vec<String> =
            ["lane", "exporter", "accepted", "delivered", "waiting", "dead_letters", "quarantined", "lost_items"]
                .map(|key| text(&b[key]))
                .into();
        row.push(b["oldest_age_s"].as_u64().map_or_else(|| "-".to_owned(), |s| duration(Duration::from_secs(s))));
        row.push(lost.join(", "));
        row.push(if b["adds_up"] == true { String::new() } else { "DOES NOT ADD UP".to_owned() });
        row
    };
    let rows: Vec<Vec<String>> = books.iter().map(row).collect();
    print_table(
        &mut out,
        &[
            "PIPELINE",
            "EXPORTER",
            "ACCEPTED",
            "= DELIVERED",
            "+ WAITING",
            "+ DEAD",
            "+ QUARANTINED",
            "+ LOST",
            "OLDEST",
            "LOST BY",
            "",
        ],
        &rows,
    )?;
    for loss in &losses {
        let (lane, exporter, reason) = (shown(&loss.lane), shown(&loss.exporter), loss.reason.name());
        let told = loss.told.min(loss.items);
        writeln!(out, "{lane}: {} items lost for {exporter}, {reason}; its far end was told of {told}", loss.items)?;
        for s in &loss.stretches {
            writeln!(out, "    {} items of {} to {}", s.items, moment(s.from), moment(s.to))?;
        }
    }
    for (lane, items) in held {
        writeln!(out, "{}: {items} items that no exporter reads", shown(&lane))?;
    }
    for problem in &book.problems {
        writeln!(out, "damaged: {problem}")?;
    }
    Ok(Exit::Clean)
}

fn moment(wall_ns: u64) -> String {
    time(Stamp { wall_ns, mono_ms: 0 })
}

fn loss_as_json(loss: &Loss) -> Value {
    let stretch = |s: &Stretch| json!({"from": moment(s.from), "to": moment(s.to), "items": s.items});
    let stretches: Vec<Value> = loss.stretches.iter().map(stretch).collect();
    json!({
        "lane": loss.lane, "exporter": loss.exporter, "reason": loss.reason.name(), "items": loss.items,
        "told": loss.told, "stretches": stretches,
    })
}

fn books_as_json(book: &TheBook, oldest: &Oldest) -> Vec<Value> {
    let now = Clock::system().reading();
    let one = |b: crate::spool::Book| {
        let lost: BTreeMap<&str, u64> = Reason::ALL.iter().map(|r| (r.name(), b.lost[*r as usize])).collect();
        let first = oldest.get(&(b.lane.clone(), b.exporter.clone()));
        let age = first.map(|h| book.ledger.age(h.into(), &now).as_secs());
        json!({
            "adds_up": b.sum() == b.accepted, "lane": b.lane, "exporter": b.exporter, "accepted": b.accepted,
            "delivered": b.delivered, "waiting": b.waiting, "dead_letters": b.dead_letters, "quarantined": b.quarantined,
            "lost_items": b.lost.iter().sum::<u64>(), "lost": lost,
            "oldest_accepted": first.map(|h| time(h.accepted)), "oldest_age_s": age,
        })
    };
    book.ledger.books_as_they_are().into_iter().map(one).collect()
}

/// The agent's own books take the place of those that the disk has.
fn as_of_now(books: &mut Vec<Value>, live: Vec<LiveBook>) {
    for b in live {
        let lost: u64 = b.lost.values().sum();
        let sum = b.delivered + b.waiting + b.dead_letters + b.quarantined + lost;
        let known = books.iter_mut().find(|book| book["lane"] == b.lane && book["exporter"] == b.exporter);
        let oldest_accepted = known.as_ref().filter(|_| b.waiting > 0).map(|book| book["oldest_accepted"].clone());
        let now = json!({
            "adds_up": sum == b.accepted, "lane": b.lane, "exporter": b.exporter, "accepted": b.accepted,
            "delivered": b.delivered, "waiting": b.waiting, "dead_letters": b.dead_letters, "quarantined": b.quarantined,
            "lost_items": lost, "lost": b.lost, "oldest_accepted": oldest_accepted,
            "oldest_age_s": b.oldest_s.map(|s| s as u64),
        });
        match known {
            Some(known) => *known = now,
            None => books.push(now),
        }
    }
}

/// Looks through the segments from the oldest on, until something was found for everybody for whom something waits.
fn oldest(survey: &Survey, book: &TheBook, progress: &dyn Fn(u64)) -> Oldest {
    let mut oldest = Oldest::new();
    let now = Clock::system().reading();
    let age = |h: &Header| book.ledger.age(h.into(), &now);
    let waits = book.ledger.books_as_they_are().iter().filter(|b| b.waiting > 0).count();
    for found in survey.filled() {
        let Ok(contents) = survey.contents(found, progress) else { continue };
        for spot in contents.blocks.values().filter(|spot| spot.reach < Reach::Loose) {
            let header = &spot.header;
            let totals = header.accepted_before()..header.accepted_total;
            for (exporter, name) in book.ledger.readers(header.lane) {
                let Some(pipeline) = book.ledger.sends(header.lane, name) else { continue };
                if book.ledger.open(exporter, header.lane, totals.clone()).is_empty() {
                    continue;
                }
                let known = oldest.entry((pipeline.to_owned(), name.to_owned())).or_insert(*header);
                if age(header) > age(known) {
                    *known = *header;
                }
            }
        }
        if oldest.len() >= waits {
            break;
        }
    }
    oldest
}
