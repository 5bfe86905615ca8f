//! How a story ended: for a person (HTML), for a script (JSON), in a sentence.

use super::judge::{Broken, Outcome};
use super::plan::{Chapter, Fault};
use super::samples::{PLOTS, Series};
use crate::plot::{Plot, Shade, escaped, page};
use plotters::style::RGBColor;
use serde_json::{Value, json};
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A chapter that was told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) chapter: Chapter,
    pub(crate) outcome: Outcome,
    /// Since the beginning of the story.
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) length: Duration,
    pub(crate) told: Vec<Told>,
    /// The first promise that was not kept.
    pub(crate) broken: Option<Broken>,
    /// Chapters of the whole story.
    pub(crate) planned: usize,
    pub(crate) series: Series,
    /// Where the agent's directory lies after a failure.
    pub(crate) kept: Option<PathBuf>,
}

const LINK: RGBColor = RGBColor(200, 60, 0);
const FAULT: RGBColor = RGBColor(120, 0, 160);

impl Report {
    /// The same story again.
    fn again(&self) -> String {
        format!("soak story --seed {} --seconds {}", self.seed, self.length.as_secs())
    }

    fn sum(&self, of: fn(&Outcome) -> u64) -> u64 {
        self.told.iter().map(|t| of(&t.outcome)).sum()
    }

    fn lost(&self) -> u64 {
        self.told.last().map_or(0, |t| t.outcome.books.1.all_lost())
    }

    /// Faults that could not be had, each once, with the reason.
    fn skipped(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .told
            .iter()
            .filter_map(|t| Some(format!("{:?}: {}", t.chapter.fault, t.outcome.skipped.as_ref()?)))
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// Everything.
    pub(crate) fn json(&self) -> Value {
        json!({
            "seed": self.seed, "seconds": self.length.as_secs(), "kept_promises": self.broken.is_none(),
            "broken": self.broken.as_ref().map(ToString::to_string), "planned_chapters": self.planned,
            "acknowledged": self.sum(|o| o.acknowledged), "missing": self.sum(|o| o.missing), "lost_by_the_books": self.lost(),
            "duplicates": self.sum(|o| o.duplicates), "skipped": self.skipped(),
            "chapters": self.told.iter().map(|t| t.outcome.json(&t.chapter)).collect::<Vec<_>>(),
        })
    }

    /// `story-<seed>.html` and `.json` (with the samples) in `dir`.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut json = self.json();
        json["samples"] = self.series.json();
        fs::write(self.path(dir, "json"), serde_json::to_string_pretty(&json)?)?;
        fs::write(self.path(dir, "html"), self.html()?)
    }

    pub(crate) fn path(&self, dir: &Path, kind: &str) -> PathBuf {
        dir.join(format!("story-{}.{kind}", self.seed))
    }

    fn html(&self) -> io::Result<String> {
        let verdict = match &self.broken {
            None => "<p class=\"good\">Every promise was kept.</p>".to_owned(),
            Some(broken) => format!("<p class=\"bad\">Broken: {}</p>", escaped(&broken.to_string())),
        };
        let mut body = format!(
            "<h1>A story of trouble, seed {}</h1>\n{verdict}\n<pre>{}</pre>\n",
            self.seed,
            escaped(&self.to_string())
        );
        body += "<p>Orange: the link is in trouble. Violet: the machine is. Grey between: quiet, the promises are asked.</p>\n";
        let end = self.told.last().map_or(1.0, |t| t.until.as_secs_f64());
        for (title, unit, of) in PLOTS {
            let plot = Plot {
                title: title.to_owned(),
                x: String::new(),
                unit: unit.to_owned(),
                points: self.series.samples().iter().map(|s| (s.at, of(s))).collect(),
                shades: self.shades(),
                span: Some(0.0..end),
                log_x: false,
            };
            body += &plot.svg()?;
        }
        body += "<table><tr><th>Chapter</th>";
        type Column = (&'static str, fn(&Outcome) -> String);
        let columns: [Column; 9] = [
            ("acknowledged", |o| o.acknowledged.to_string()),
            ("missing", |o| o.missing.to_string()),
            ("lost, told", |o| o.books.1.all_lost().saturating_sub(o.books.0.all_lost()).to_string()),
            ("duplicates", |o| o.duplicates.to_string()),
            ("refused", |o| o.refused.to_string()),
            ("drain, s", |o| format!("{:.1}", o.drain.as_secs_f64())),
            ("start, ms", |o| format!("{:.0}", o.start.as_secs_f64() * 1e3)),
            ("peak, MiB", |o| format!("{:.1}", o.peak_mib)),
            ("left, KiB", |o| (o.left_bytes >> 10).to_string()),
        ];
        columns.iter().for_each(|(name, _)| body += &format!("<th>{name}</th>"));
        body += "</tr>\n";
        for told in &self.told {
            let skipped = told.outcome.skipped.as_ref().map_or(String::new(), |why| format!(" (SKIPPED: {why})"));
            body += &format!("<tr><td>{}{}</td>", escaped(&told.chapter.to_string()), escaped(&skipped));
            columns.iter().for_each(|(_, of)| body += &format!("<td>{}</td>", of(&told.outcome)));
            body += "</tr>\n";
        }
        body += "</table>";
        Ok(page(&format!("soak story {}", self.seed), &body))
    }

    fn shades(&self) -> Vec<Shade> {
        let of = |told: &Told| {
            let from = told.from.as_secs_f64();
            let link = Shade { from, until: from + told.chapter.lasts.as_secs_f64(), colour: LINK };
            let begins = from + told.chapter.fault_after.as_secs_f64();
            let fault = Shade { from: begins, until: begins + told.chapter.fault_lasts.as_secs_f64(), colour: FAULT };
            let link = (told.chapter.link != super::plan::Link::Up).then_some(link);
            link.into_iter().chain((told.chapter.fault != Fault::Nothing).then_some(fault)).collect::<Vec<_>>()
        };
        self.told.iter().flat_map(of).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.skipped();
        let starts: u64 = self.sum(|o| o.starts.into());
        writeln!(
            f,
            "seed {}: {} of {} chapters, {starts} starts, acknowledged {}, missing {}, lost by the books {}, duplicates {}",
            self.seed,
            self.told.len(),
            self.planned,
            self.sum(|o| o.acknowledged),
            self.sum(|o| o.missing),
            self.lost(),
            self.sum(|o| o.duplicates)
        )?;
        for why in skipped {
            writeln!(f, "SKIPPED {why}")?;
        }
        let Some(broken) = &self.broken else { return writeln!(f, "every promise was kept") };
        let mut story = String::new();
        for (n, told) in self.told.iter().enumerate() {
            let _ = writeln!(story, "  {}. {}", n + 1, told.chapter);
        }
        writeln!(f, "the story so far:\n{story}broken in the last chapter: {broken}")?;
        if let Some(kept) = &self.kept {
            writeln!(f, "the agent's directory: {}", kept.display())?;
        }
        writeln!(f, "again: {}", self.again())
    }
}
