//! `spool peek`: items as JSON lines, or blocks as OTLP/JSON requests.

use super::Place;
use super::accepted;
use super::pick::{Pick, Picked};
use crate::otlp::{each_item, merge, put_text, to_json};
use crate::supervise::Exit;
use clap::Args;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};
use std::ops::ControlFlow;

/// What to print.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    pick: Pick,
    /// So many items and no more; 0 prints all.
    #[arg(long, default_value_t = 100, value_name = "ITEMS")]
    limit: u64,
    /// One OTLP/JSON request a block, as otelcol's fileexporter writes them, instead of one line an item.
    #[arg(long)]
    otlp_json: bool,
}

pub(super) fn peek(options: &Options) -> io::Result<Exit> {
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut left, mut more) = (if options.limit == 0 { u64::MAX } else { options.limit }, false);
    let skipped = options.pick.each(&options.place, |mut picked| {
        if left == 0 {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        more |= picked.items() > left;
        picked.keep(left);
        left -= picked.items();
        let lines = if options.otlp_json { picked.as_request() } else { picked.as_lines() };
        lines
            .map_err(|malformed| io::Error::other(malformed.to_string()))
            .and_then(|lines| out.write_all(lines.as_bytes()))?;
        Ok(ControlFlow::Continue(()))
    })?;
    out.flush()?;
    if more {
        eprintln!("spool: {} items shown, there are more (--limit)", options.limit);
    }
    Ok(super::say_skipped(&skipped))
}

impl Picked<'_> {
    /// Only the first `items` of them.
    fn keep(&mut self, items: u64) {
        let mut left = u32::try_from(items).unwrap_or(u32::MAX);
        self.parts.retain_mut(|part| {
            part.end = part.start + (part.end - part.start).min(left);
            left -= part.end - part.start;
            part.start < part.end
        });
    }

    fn as_request(&self) -> Result<String, crate::otlp::Malformed> {
        let requests = self.requests()?;
        let mut line = to_json(self.signal(), &merge(&requests))?;
        line.push('\n');
        Ok(line)
    }

    fn as_lines(&self) -> Result<String, crate::otlp::Malformed> {
        let mut lines = String::new();
        for (request, part) in self.requests()?.iter().zip(&self.parts) {
            let mut item = part.start;
            each_item(self.signal(), request, |line| {
                lines.push_str("{\"lane\":");
                put_text(&mut lines, self.lane);
                let _ = write!(lines, ",\"index\":{},\"item\":{item},\"accepted\":", self.header.index);
                put_text(&mut lines, &accepted(self.book, self.header));
                lines.push(',');
                lines.push_str(line);
                lines.push_str("}\n");
                item += 1;
            })?;
        }
        Ok(lines)
    }
}
