//! `spool export`: the items as OTLP files that can be sent elsewhere.

use super::pick::{Pick, Picked};
use super::{Place, shown};
use crate::base::Bytes;
use crate::otlp::{Cutter, Malformed, Signal, merge, to_json};
use crate::supervise::Exit;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file by default: what far ends take as one request, gRPC's included (4 MiB, less what stands around it).
const FILE_MAX: u64 = 4_190_208;

/// What to write, and how.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    pick: Pick,
    /// Where to: a directory that is not there yet, or empty.
    #[arg(long, value_name = "OUT")]
    to: PathBuf,
    /// protobuf: OUT/SIGNAL/LANE-INDEX-PART.pb, one request a file, to be posted to /v1/SIGNAL as application/x-protobuf.
    /// json: OUT/SIGNAL.jsonl, one request a line, as otelcol's fileexporter writes and its otlpjsonfile receiver reads.
    #[arg(long, value_enum, default_value_t = Format::Protobuf)]
    format: Format,
    /// No request is larger as protobuf, unless one item alone is. 0: blocks as they are.
    #[arg(long, default_value_t = FILE_MAX, value_name = "BYTES")]
    max_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Protobuf,
    Json,
}

pub(super) fn export(options: &Options) -> io::Result<Exit> {
    let mut target = Target::make(options)?;
    let skipped =
        options.pick.each(&options.place, |picked| target.put(&picked).map(|()| ControlFlow::Continue(())))?;
    target.end()?;
    let mut out = io::stdout().lock();
    if options.place.json {
        let items: BTreeMap<&str, u64> = target.items.iter().map(|(signal, items)| (signal.name(), *items)).collect();
        let all = json!({"to": options.to, "requests": target.requests, "bytes": target.bytes, "items": items, "skipped": skipped});
        writeln!(out, "{all}")?;
    } else {
        let items: Vec<String> =
            target.items.iter().map(|(signal, items)| format!("{items} {}", signal.items())).collect();
        let items = if items.is_empty() { "nothing".to_owned() } else { items.join(", ") };
        writeln!(
            out,
            "{items} in {} requests, {}, to {}",
            target.requests,
            Bytes(target.bytes),
            shown(&options.to.to_string_lossy())
        )?;
    }
    Ok(super::say_skipped(&skipped))
}

struct Target<'a> {
    options: &'a Options,
    files: BTreeMap<Signal, BufWriter<File>>,
    items: BTreeMap<Signal, u64>,
    requests: u64,
    bytes: u64,
}

impl Target<'_> {
    fn make(options: &Options) -> io::Result<Target<'_>> {
        let (out, spool) = (&options.to, &options.place.directory);
        let refused = |why: &str| Err(io::Error::other(format!("{}: {why}", shown(&out.to_string_lossy()))));
        // Its nearest ancestor that is there says where it would be.
        let there = out.ancestors().find(|dir| dir.exists()).map(fs::canonicalize).transpose()?;
        if there.is_some_and(|there| fs::canonicalize(spool).is_ok_and(|spool| there.starts_with(spool))) {
            return refused("it is inside the spool directory, in which nothing is to be changed");
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(out)?;
        if fs::read_dir(out)?.next().is_some() {
            return refused("the directory is not empty");
        }
        Ok(Target { options, files: BTreeMap::new(), items: BTreeMap::new(), requests: 0, bytes: 0 })
    }

    fn put(&mut self, picked: &Picked<'_>) -> io::Result<()> {
        let wrong = |malformed: Malformed| io::Error::other(malformed.to_string());
        let whole = merge(&picked.requests().map_err(wrong)?);
        let mut requests = Vec::new();
        self.cut(&Cutter::of(picked.signal(), &whole).map_err(wrong)?, &mut requests).map_err(wrong)?;
        for (part, request) in requests.iter().enumerate() {
            match self.options.format {
                Format::Protobuf => self.put_file(picked, part, request)?,
                Format::Json => {
                    let line = to_json(picked.signal(), request).map_err(wrong)?;
                    self.put_line(picked.signal(), &line)?;
                }
            }
            self.requests += 1;
        }
        *self.items.entry(picked.signal()).or_default() += picked.items();
        Ok(())
    }

    /// Cuts by halves until nothing is too large.
    fn cut(&self, cutter: &Cutter, requests: &mut Vec<bytes::Bytes>) -> Result<(), Malformed> {
        let mut left: Vec<_> = std::iter::once(0..cutter.items()).collect();
        while let Some(part) = left.pop() {
            let request = cutter.take(part.clone())?;
            let most = self.options.max_bytes;
            if most == 0 || request.len() as u64 <= most || part.end - part.start < 2 {
                requests.push(request);
                continue;
            }
            let middle = part.start + (part.end - part.start) / 2;
            left.extend([middle..part.end, part.start..middle]);
        }
        Ok(())
    }

    fn put_file(&mut self, picked: &Picked<'_>, part: usize, request: &[u8]) -> io::Result<()> {
        let dir = self.options.to.join(picked.signal().name());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        // By number, because a lane's name may hold whatever a header held. Sorted, they are in the order they came.
        let name = format!("{:04}-{:020}-{part:04}.pb", picked.header.lane.0, picked.header.index);
        create(&dir.join(name))?.write_all(request)?;
        self.bytes += request.len() as u64;
        Ok(())
    }

    fn put_line(&mut self, signal: Signal, line: &str) -> io::Result<()> {
        if !self.files.contains_key(&signal) {
            let file = create(&self.options.to.join(format!("{signal}.jsonl")))?;
            self.files.insert(signal, BufWriter::new(file));
        }
        let file = self.files.get_mut(&signal).expect("inserted above");
        file.write_all(line.as_bytes())?;
        file.write_all(b"\n")?;
        self.bytes += line.len() as u64 + 1;
        Ok(())
    }

    /// Everything is on stable storage: whoever drops the spool next relies on it.
    fn end(&mut self) -> io::Result<()> {
        for (_, mut file) in std::mem::take(&mut self.files) {
            file.flush()?;
        }
        rustix::fs::syncfs(File::open(&self.options.to)?)?;
        Ok(())
    }
}

/// Telemetry may hold what is nobody else's business.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
