//! `spool requeue`, `drop`, `repair`: what changes a directory. By its owner or root; an agent that has it is asked to do it
//! (but for `repair`, which it does itself when it opens a segment).

use super::{bar, shown};
use crate::app::control::{Answer, Done, Order, Refused, ask};
use crate::base::{Bytes, Clock, Dice};
use crate::spool::disk::{Compaction, DiskSettings, Shed, StartError, WhenFull, repair as repair_directory};
use crate::spool::store::{Spool, What, Which, meant};
use crate::spool::survey::Survey;
use crate::supervise::Exit;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::fs::{Gid, Uid};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is sent again.
#[derive(Debug, Args)]
pub(super) struct Requeue {
    #[command(flatten)]
    place: super::Place,
    #[command(flatten)]
    whose: Whose,
    /// Only dead letters: what the far end refused.
    #[arg(long, conflicts_with = "quarantine")]
    dead: bool,
    /// Only quarantined blocks: what could not be handled.
    #[arg(long)]
    quarantine: bool,
}

/// What is given up.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = true, args = ["dead", "quarantine", "waiting"])]
pub(super) struct Drop {
    #[command(flatten)]
    place: super::Place,
    #[command(flatten)]
    whose: Whose,
    /// Dead letters.
    #[arg(long)]
    dead: bool,
    /// Quarantined blocks.
    #[arg(long)]
    quarantine: bool,
    /// What waits for exporters that are gone: that read its pipeline no more. Without an agent, that is by its last configuration.
    #[arg(long)]
    waiting: bool,
    /// With --waiting: also what waits for this exporter although it is there.
    #[arg(long, requires_all = ["waiting", "exporter"])]
    anyway: bool,
    /// Do it. Without, it is only said what would be dropped.
    #[arg(long)]
    yes: bool,
}

/// Whose.
#[derive(Debug, Args)]
struct Whose {
    /// Only this exporter's.
    #[arg(long)]
    exporter: Option<String>,
    /// Only of this pipeline.
    #[arg(long)]
    pipeline: Option<String>,
}

impl Whose {
    fn which(&self) -> Which {
        Which { exporter: self.exporter.clone(), pipeline: self.pipeline.clone() }
    }
}

pub(super) fn requeue(options: &Requeue) -> io::Result<Exit> {
    let what = match (options.dead, options.quarantine) {
        (true, _) => vec![What::DeadLetters],
        (_, true) => vec![What::Quarantine],
        _ => vec![What::DeadLetters, What::Quarantine],
    };
    let which = options.whose.which();
    let done = match live(&options.place, || Order::Requeue { what: what.clone(), which: which.clone() })? {
        Some(done) => done,
        None => {
            let spool = open(&options.place.directory)?;
            let total = what.iter().flat_map(|what| spool.meant(*what, &which)).map(|m| m.items).sum();
            let bar = items_bar(Some(total), options.place.json);
            let mut done = Vec::new();
            for what in what {
                let mended = spool.requeue(what, &which, &|items| bar.inc(items)).map_err(io::Error::other)?;
                done.extend(mended.into_iter().map(|mended| Done { what, mended }));
            }
            spool.close().map_err(io::Error::other)?;
            bar.finish_and_clear();
            done
        }
    };
    say("requeued", &done, options.place.json)?;
    let left: u64 = done.iter().map(|done| done.mended.left).sum();
    if left > 0 {
        eprintln!(
            "spool: {left} items stay: their blocks are no request, or were sent in part; export them with --dead"
        );
    }
    Ok(if left == 0 { Exit::Clean } else { Exit::Config })
}

pub(super) fn discard(options: &Drop) -> io::Result<Exit> {
    let kinds = [
        (options.dead, What::DeadLetters),
        (options.quarantine, What::Quarantine),
        (options.waiting, What::Waiting { anyway: options.anyway }),
    ];
    let what: Vec<What> = kinds.into_iter().filter(|(asked, _)| *asked).map(|(_, what)| what).collect();
    let which = options.whose.which();
    if !options.yes {
        let meant_now = match live(&options.place, || Order::Meant { what: what.clone(), which: which.clone() })? {
            Some(meant) => meant,
            None => {
                let book = options.place.survey()?.book(&|_| {});
                let all = |what: &What| {
                    let meant = meant(&book.ledger, *what, &which).into_iter();
                    meant.map(|mended| Done { what: *what, mended }).collect::<Vec<_>>()
                };
                what.iter().flat_map(all).collect()
            }
        };
        say("would be dropped", &meant_now, options.place.json)?;
        eprintln!("spool: nothing was dropped; it takes --yes");
        return Ok(Exit::Config);
    }
    let done = match live(&options.place, || Order::Drop { what: what.clone(), which: which.clone() })? {
        Some(done) => done,
        None => {
            let spool = open(&options.place.directory)?;
            let mut done = Vec::new();
            for what in what {
                let mended = spool.discard(what, &which).map_err(io::Error::other)?;
                done.extend(mended.into_iter().map(|mended| Done { what, mended }));
            }
            spool.close().map_err(io::Error::other)?;
            done
        }
    };
    say("dropped", &done, options.place.json)?;
    Ok(Exit::Clean)
}

/// Has it done by the agent that has the directory; `None`: there is none.
fn live(place: &super::Place, order: impl FnOnce() -> Order) -> io::Result<Option<Vec<Done>>> {
    let Some(holder) = place.holder()? else { return Ok(None) };
    let bar = items_bar(None, place.json);
    let answer = ask(&place.directory, order(), |items| bar.set_position(items));
    bar.finish_and_clear();
    let holder = shown(&holder);
    match answer {
        Ok(Answer::Done(done)) => Ok(Some(done)),
        Ok(_) => Err(io::Error::other(format!("{holder} answered something else"))),
        Err(error @ Refused::Failed(_)) => Err(io::Error::other(format!("{holder}: {error}"))),
        Err(error) => Err(io::Error::other(format!("the directory is in use by {holder}: {error}; stop it first"))),
    }
}

/// Items on a terminal, of `total` if it is known; nothing in a pipe.
fn items_bar(total: Option<u64>, json: bool) -> ProgressBar {
    let quiet = json || !io::stderr().is_terminal();
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(5) };
    let template = match total {
        Some(_) => "[{bar:30}] {human_pos}/{human_len} items, {per_sec}, {eta} left",
        None => "{spinner} {human_pos} items, {per_sec}",
    };
    let style = ProgressStyle::with_template(template).expect("a template of ours");
    ProgressBar::with_draw_target(total, target).with_style(style.progress_chars("=> "))
}

pub(super) fn repair(place: &super::Place) -> io::Result<Exit> {
    let survey = place.survey()?;
    become_owner(&place.directory)?;
    let bar = bar(survey.len() * 3, place.json);
    let repaired = repair_directory(&place.directory, &|bytes| bar.inc(bytes))
        .map_err(|error| io::Error::other(error.to_string()))?;
    bar.finish_and_clear();
    let mut out = io::stdout().lock();
    if place.json {
        let one = |r: &crate::spool::disk::Repaired| json!({"segment": r.segment, "copy": r.copy, "blocks": r.blocks, "items": r.items, "kept": r.kept});
        writeln!(out, "{}", json!({"repaired": repaired.iter().map(one).collect::<Vec<Value>>()}))?;
        return Ok(Exit::Clean);
    }
    for r in &repaired {
        let copy = r.copy.as_deref().unwrap_or("nothing");
        writeln!(
            out,
            "{}: {} blocks, {} items to {copy}; as it was it is kept at {}",
            r.segment,
            r.blocks,
            r.items,
            shown(&r.kept.to_string_lossy())
        )?;
    }
    if repaired.is_empty() {
        writeln!(out, "no segment is damaged: nothing was done")?;
    }
    Ok(Exit::Clean)
}

fn say(done: &str, all: &[Done], as_json: bool) -> io::Result<()> {
    let name = |what: What| match what {
        What::DeadLetters => "dead_letters",
        What::Quarantine => "quarantined",
        What::Waiting { .. } => "waiting",
    };
    let mut out = io::stdout().lock();
    if as_json {
        let one = |Done { what, mended: m }: &Done| json!({"what": name(*what), "pipeline": m.pipeline, "exporter": m.exporter, "items": m.items, "left": m.left});
        let mut answer = serde_json::Map::new();
        answer.insert(done.replace(' ', "_"), all.iter().map(one).collect());
        return writeln!(out, "{}", Value::Object(answer));
    }
    for Done { what, mended: m } in all {
        writeln!(
            out,
            "{done}: {} items ({}) of {} for {}",
            m.items,
            name(*what),
            shown(&m.pipeline),
            shown(&m.exporter)
        )?;
    }
    if all.is_empty() { writeln!(out, "{done}: nothing") } else { Ok(()) }
}

/// Opens the spool as an agent would, but for housekeeping.
fn open(directory: &Path) -> io::Result<Spool> {
    Survey::of(directory).map_err(|error| io::Error::other(format!("{}: {error}", directory.display())))?;
    become_owner(directory)?;
    let settings = DiskSettings {
        directory: PathBuf::from(directory),
        max: Bytes(u64::MAX),
        min_free: Bytes(0),
        when_full: WhenFull::Refuse,
        shed: Shed::default(),
        max_age: None,
        segment_min: Bytes::mib(2),
        segment_max: Bytes::mib(48),
        seal: false,
        compact: Compaction::NEVER,
    };
    Spool::on_disk(settings, Clock::system(), Dice::shaken()).map_err(|error| {
        let stop = if matches!(error, StartError::InUse { .. }) { "; stop it first" } else { "" };
        io::Error::other(format!("{error}{stop}"))
    })
}

/// Only the directory's owner changes it, and root in his name: what root made, the agent could not write later.
fn become_owner(directory: &Path) -> io::Result<()> {
    let meta = fs::metadata(directory)?;
    let us = rustix::process::geteuid();
    if us.as_raw() == meta.uid() {
        return Ok(());
    }
    if !us.is_root() {
        return Err(io::Error::other(format!(
            "{} belongs to user {}: only he and root may change it",
            directory.display(),
            meta.uid()
        )));
    }
    // Of this thread, and of those that it starts.
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_gid(Gid::from_raw(meta.gid()))?;
    rustix::thread::set_thread_uid(Uid::from_raw(meta.uid()))?;
    Ok(())
}
