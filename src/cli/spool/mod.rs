//! `spool`: looking into a spool directory, and mending it by hand. Nothing in it is changed by looking: it may be a copy,
//! damaged, or in use.
//!
//! | command | what |
//! |---|---|
//! | `ls` | the segments and what is in them |
//! | `stat` | the books: accepted = delivered + waiting + held + lost |
//! | `verify` | every byte against its checksum, every hole against the books |
//! | `peek` | the items, for eyes |
//! | `export` | the items as files that can be sent elsewhere |
//! | `requeue`, `drop` | held data is sent again, or given up |
//! | `repair` | damaged segments are replaced by what can be read of them |
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the command line, and how things are shown |
//! | `show.rs` | `ls`, `stat` |
//! | `verify.rs` | `verify` |
//! | `pick.rs` | which items are meant by `--lane`, `--exporter`, `--dead`, `--all`, `--from` |
//! | `peek.rs`, `export.rs` | what their names say |
//! | `mend.rs` | `requeue`, `drop`, `repair` |

mod export;
mod mend;
mod peek;
mod pick;
mod show;
mod verify;

use crate::base::Stamp;
use crate::spool::block::{FLAG_CLOCK_UNSET, Header};
use crate::spool::survey::{Survey, TheBook};
use crate::supervise::Exit;
use crate::telemetry::gotime::rfc3339_nano;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;

/// Look into a spool directory, or mend it. Looking changes nothing in it.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the segments: state, bytes on the disk, blocks, items, lanes, and when they were accepted.
    Ls(Place),
    /// Show the books of each pipeline and exporter as a start would read them, and how old the oldest data is.
    Stat(Place),
    /// Check every byte against its checksum and every hole against the books. Ends with 0 when all is whole, 1 when not.
    Verify(Place),
    /// Print items as JSON lines, or each block as an OTLP/JSON request.
    Peek(peek::Options),
    /// Write what waits (or --dead letters, or --all) as OTLP files that can be sent elsewhere.
    Export(export::Options),
    /// Have dead letters and quarantined blocks sent again, to their exporter alone. A running agent does it itself.
    Requeue(mend::Requeue),
    /// Give up dead letters, quarantined blocks or what waits for an exporter that is gone; counted as lost{dropped}. A running
    /// agent does it itself.
    Drop(mend::Drop),
    /// Replace damaged segments by what can be read of them, and keep them in quarantine/. While no agent runs on the directory.
    Repair(Place),
}

/// Which directory.
#[derive(Debug, Args)]
struct Place {
    /// The directory of a file_storage, or a copy of it.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Does it.
pub(super) fn main(options: &Options) -> Exit {
    let done = match &options.command {
        Command::Ls(place) => show::ls(place),
        Command::Stat(place) => show::stat(place),
        Command::Verify(place) => verify::verify(place),
        Command::Peek(options) => peek::peek(options),
        Command::Export(options) => export::export(options),
        Command::Requeue(options) => mend::requeue(options),
        Command::Drop(options) => mend::discard(options),
        Command::Repair(place) => mend::repair(place),
    };
    match done {
        Ok(exit) => exit,
        // Whoever reads what we print has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Clean,
        Err(error) => {
            eprintln!("spool: {error}");
            Exit::Config
        }
    }
}

impl Place {
    /// Who has the directory.
    fn holder(&self) -> io::Result<Option<String>> {
        Survey::of(&self.directory).map(|survey| survey.holder).map_err(|error| self.named(error))
    }

    fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.directory.display()))
    }

    /// Lists the directory, and says on stderr that it moves, if it does.
    fn survey(&self) -> io::Result<Survey> {
        let survey = Survey::of(&self.directory).map_err(|error| self.named(error))?;
        if let Some(holder) = &survey.holder {
            eprintln!("spool: the directory is in use by {}: what you see is a moving picture", shown(holder));
        }
        Ok(survey)
    }
}

/// A text from the disk, so that no terminal acts on it.
fn shown(text: &str) -> String {
    let mut quoted = String::new();
    crate::otlp::put_text(&mut quoted, text);
    quoted[1..quoted.len() - 1].replace("\\\"", "\"").replace("\\\\", "\\")
}

/// Name of a lane; one that the books do not know has only its number.
fn lane_name(book: &TheBook, lane: crate::spool::Lane) -> String {
    match book.ledger.lane_name(lane) {
        "" => format!("lane {}", lane.0),
        name => name.to_owned(),
    }
}

fn time(stamp: Stamp) -> String {
    rfc3339_nano(stamp.wall_ns, 0)
}

/// When a block was accepted. Of a clock that was not set then, it is said; if it was in that boot later, the time is right.
fn accepted(book: &TheBook, header: &Header) -> String {
    if header.flags & FLAG_CLOCK_UNSET == 0 {
        return time(header.accepted);
    }
    match book.ledger.chronicle().corrected_ns(header.accepted, header.boot) {
        Some(right) => format!("{} (the clock was set later)", rfc3339_nano(right, 0)),
        None => format!("{} (the clock was not set)", time(header.accepted)),
    }
}

/// A bar on a terminal; nothing in a pipe.
fn bar(bytes: u64, json: bool) -> ProgressBar {
    let quiet = json || !io::stderr().is_terminal();
    let bar = if quiet {
        ProgressBar::hidden()
    } else {
        ProgressBar::with_draw_target(Some(bytes.max(1)), ProgressDrawTarget::stderr_with_hz(5))
    };
    let style = ProgressStyle::with_template("[{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left");
    bar.set_style(style.expect("a template of ours").progress_chars("=> "));
    bar
}

/// What could not be read is said; then it is not all of what was asked for.
fn say_skipped(skipped: &[String]) -> Exit {
    skipped.iter().for_each(|what| eprintln!("spool: skipped: {}", shown(what)));
    if skipped.is_empty() { Exit::Clean } else { Exit::Config }
}

/// Prints columns side by side, numbers to the right.
fn print_table(out: &mut impl Write, head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let is_number = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains('T');
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in [&head].into_iter().chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let right = rows.first().is_some_and(|first| is_number(&first[column]));
            let padded = if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(&padded);
            line.push_str("  ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
