//! Directories with something of everything, and how they are drained.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tfo_otel_agent::base::{Bytes, Clock, Dice};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::spool::block::frame;
use tfo_otel_agent::spool::disk::{Compaction, DiskSettings, Shed, WhenFull};
use tfo_otel_agent::spool::store::Spool;
use tfo_otel_agent::spool::{Cut, Lane, Lease, NewBlock, Outcome, Owner, Pos, Reason, Settlement, Store as _};
use tfo_otel_agent::testing::wreckage::{Look, look};
use tfo_otel_agent::testing::{Numbered, Source};

pub(crate) const CUT: Cut = Cut { enough_items: 60, max_items: 0, max_bytes: 1 << 20 };

/// Lanes, and who reads them.
pub(crate) const LANES: [(&str, Signal, &[&str]); 3] =
    [("logs", Signal::Logs, &["a", "b"]), ("traces", Signal::Traces, &["a"]), ("metrics", Signal::Metrics, &["b"])];
pub(crate) const EXPORTERS: [&str; 2] = ["a", "b"];

pub(crate) fn settings(dir: &Path) -> DiskSettings {
    DiskSettings {
        directory: dir.to_owned(),
        max: Bytes::mib(512),
        min_free: Bytes(0),
        when_full: WhenFull::DropOldest,
        shed: Shed::default(),
        max_age: None,
        segment_min: Bytes(8 << 10),
        segment_max: Bytes(24 << 10),
        seal: true,
        compact: Compaction::USUAL,
    }
}

/// An agent's spool with its uplinks.
pub(crate) struct Life {
    pub(crate) spool: Spool,
    pub(crate) clock: Clock,
    pub(crate) lanes: Vec<Lane>,
    /// By exporter.
    pub(crate) owners: BTreeMap<&'static str, Owner>,
}

impl Life {
    pub(crate) fn begin(dir: &Path, seed: u64) -> Life {
        let clock = Clock::system();
        let spool =
            Spool::on_disk(settings(dir), clock.clone(), Dice::seeded(seed)).expect("nothing keeps it from starting");
        let lanes: Vec<Lane> = LANES.iter().map(|(name, signal, _)| spool.lane(name, *signal)).collect();
        let read = |exporter: &str| -> Vec<Lane> {
            LANES
                .iter()
                .zip(&lanes)
                .filter(|((_, _, readers), _)| readers.contains(&exporter))
                .map(|(_, lane)| *lane)
                .collect()
        };
        let owners = EXPORTERS.iter().map(|exporter| (*exporter, spool.own(exporter, &read(exporter)))).collect();
        Life { spool, clock, lanes, owners }
    }

    /// One commit of a request for each of these lanes; gives the requests.
    pub(crate) fn commit(
        &self,
        makers: &mut [Numbered],
        lanes: &[usize],
        dice: &mut Dice,
    ) -> Vec<(usize, Vec<u8>, Range<u64>)> {
        let mut made = Vec::new();
        let mut blocks = Vec::new();
        for lane in lanes {
            let request = makers[*lane].request(u32::try_from(dice.within(3..25)).expect("small"));
            blocks.push(NewBlock {
                lane: self.lanes[*lane],
                signal: LANES[*lane].1,
                block_id: dice.id128(),
                items: u32::try_from(request.seqs.end - request.seqs.start).expect("small"),
                raw_len: u32::try_from(request.bytes.len()).expect("small"),
                accepted: self.clock.now(),
                boot: None,
                data_ns: (0, 0),
                framed: frame(&request.bytes),
            });
            made.push((*lane, request.bytes, request.seqs));
        }
        self.spool.commit(blocks).expect("intake at once");
        made
    }

    pub(crate) fn upkeep(&self) -> Result<(), String> {
        // There is an end to it, or something is done for ever.
        for _ in 0..500 {
            if !self.spool.upkeep()? {
                return Ok(());
            }
        }
        Err("housekeeping does not come to an end".to_owned())
    }

    /// Everybody who sends, and from where: own lanes and those of what was parked.
    pub(crate) fn senders(&self) -> Vec<(&'static str, Owner, Lane)> {
        let mut all = Vec::new();
        for ((_, _, readers), lane) in LANES.iter().zip(&self.lanes) {
            for (exporter, owner) in self.owners.iter().filter(|(exporter, _)| readers.contains(exporter)) {
                all.extend([(*exporter, *owner, *lane), (*exporter, *owner, self.spool.park_lane(*owner, *lane))]);
            }
        }
        all
    }

    /// Leases and delivers all there is; tells each block with those of its items that were open.
    pub(crate) fn drain(
        &self,
        owner: Owner,
        lane: Lane,
        mut each: impl FnMut(u64, u32, &bytes::Bytes, Vec<u32>),
    ) -> Result<(), String> {
        while let Some(lease) = self.spool.lease(owner, lane, CUT).map_err(|e| e.to_string())? {
            self.spool.handled(owner, lane, lease.window.clone());
            for b in &lease.blocks {
                let open: Vec<u32> = (0..b.items)
                    .filter(|item| !lease.settled.iter().any(|s| s.contains(&Pos { index: b.index, item: *item })))
                    .collect();
                each(b.index, b.items, &b.raw, open);
            }
            deliver(&self.spool, owner, &lease)?;
        }
        Ok(())
    }
}

/// All that is open of a lease, run by run.
fn deliver(spool: &Spool, owner: Owner, lease: &Lease) -> Result<(), String> {
    for b in &lease.blocks {
        let is_open = |item: u32| !lease.settled.iter().any(|s| s.contains(&Pos { index: b.index, item }));
        let mut item = 0;
        while item < b.items {
            let end = (item..b.items).find(|n| is_open(*n) != is_open(item)).unwrap_or(b.items);
            if is_open(item) {
                let outcome = Outcome::Delivered { rejected: 0 };
                settle(spool, owner, lease.lane, (b.index, b.items), item..end, outcome)?;
            }
            item = end;
        }
    }
    Ok(())
}

fn settle(
    spool: &Spool,
    owner: Owner,
    lane: Lane,
    (index, all): (u64, u32),
    part: Range<u32>,
    outcome: Outcome,
) -> Result<(), String> {
    let end = if part.end == all { Pos { index: index + 1, item: 0 } } else { Pos { index, item: part.end } };
    let range = Pos { index, item: part.start }..end;
    let settlement = Settlement { owner, lane, range, items: part.end - part.start, outcome };
    spool.settle(vec![settlement]).map_err(|e| e.to_string())
}

/// A directory as a killed agent left it, and all that is true of it.
pub(crate) struct Base {
    dir: tempfile::TempDir,
    pub(crate) truth: Look,
    /// Requests by lane and index.
    pub(crate) raw: BTreeMap<(u32, u64), bytes::Bytes>,
    /// The newest segment with data.
    pub(crate) newest: String,
}

pub(crate) fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a temporary directory")
}

impl Base {
    /// Sealed segments, journals, parked uploads, dead letters, windows that are out, two lives.
    pub(crate) fn made(seed: u64) -> Base {
        let mut dice = Dice::seeded(seed);
        let dir = scratch();
        let mut makers: Vec<Numbered> = LANES.iter().map(|(_, signal, _)| Numbered::new(*signal, Source(1))).collect();
        let mut settled = 0;
        for life in 0..2 {
            let spool = Life::begin(dir.path(), seed.wrapping_add(life));
            for round in 0..4 {
                for _ in 0..dice.within(5..10) {
                    let lanes: Vec<usize> = (0..LANES.len()).filter(|_| dice.chance(2, 3)).collect();
                    spool.commit(&mut makers, &lanes, &mut dice);
                    if dice.chance(1, 3) {
                        settle_some(&spool, &mut dice, &mut settled);
                    }
                }
                if life == 0 || round < 2 {
                    spool.upkeep().expect("the disk is well");
                }
            }
        }
        // Most of a journal's 64 MiB are zeros: copied once.
        let trimmed = scratch();
        copy(dir.path(), trimmed.path());
        let dir = trimmed;
        let truth = look(dir.path()).expect("ours");
        let raw = truth.blocks.iter().map(|b| ((b.lane.0.0, b.index), b.raw.clone())).collect();
        let newest = truth.blocks.iter().map(|b| b.segment.clone()).max().expect("there are some");
        let base = Base { dir, truth, raw, newest };
        base.check();
        base
    }

    /// It has what a case needs.
    fn check(&self) {
        let segments: std::collections::BTreeSet<&String> = self.truth.blocks.iter().map(|b| &b.segment).collect();
        assert!(segments.len() >= 4, "segments: {segments:?}");
        let has = |name: &str| self.truth.blocks.iter().any(|b| b.lane.1.starts_with(name));
        assert!(has("park/") && has("dead/"), "something was parked and something refused");
        let tables = self.truth.files.iter().filter(|f| f.to_string_lossy().contains("keyspaces/1/tables/")).count();
        assert!(tables >= 2, "some are sealed: {:?}", self.truth.files);
    }

    /// A copy to be damaged.
    pub(crate) fn copy(&self) -> tempfile::TempDir {
        let to = scratch();
        copy(self.dir.path(), to.path());
        to
    }
}

/// Some of a lease is delivered, some parked, some refused, in turn.
fn settle_some(life: &Life, dice: &mut Dice, settled: &mut u64) {
    let senders = life.senders();
    let (_, owner, lane) = senders[usize::try_from(dice.within(0..senders.len() as u64)).expect("small")];
    let cut = Cut { enough_items: 20, ..CUT };
    let Some(lease) = life.spool.lease(owner, lane, cut).expect("readable") else { return };
    life.spool.handled(owner, lane, lease.window.clone());
    for b in &lease.blocks {
        if lease.settled.iter().any(|s| s.start.index <= b.index && b.index <= s.end.index) {
            continue;
        }
        let (part, outcome) = match *settled % 6 {
            0 => (0..b.items, Outcome::Parked { raw: b.raw.clone() }),
            1 => (0..b.items, Outcome::DeadLetter { raw: b.raw.clone(), answer: "no".into() }),
            2 => (0..b.items, Outcome::Lost(Reason::RetryExpired)),
            3 => (0..b.items.min(2), Outcome::Delivered { rejected: 1 }),
            _ => (0..b.items, Outcome::Delivered { rejected: 0 }),
        };
        settle(&life.spool, owner, lane, (b.index, b.items), part, outcome).expect("it is out");
        *settled += 1;
    }
}

/// Copies a spool; of a journal without most of its zeros.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("space");
    for entry in fs::read_dir(from).expect("readable") {
        let (from, to): (PathBuf, PathBuf) = entry.map(|e| (e.path(), to.join(e.file_name()))).expect("readable");
        if from.is_dir() {
            copy(&from, &to);
        } else if from.extension().is_some_and(|e| e == "jnl") {
            let mut bytes = fs::read(&from).expect("readable");
            let end = bytes.chunks(4_096).rposition(|page| page != &[0; 4_096][..page.len()]);
            bytes.truncate(end.map_or(4_096, |at| (at + 2) * 4_096).min(bytes.len()));
            fs::write(to, bytes).expect("space");
        } else {
            fs::copy(from, to).expect("space");
        }
    }
}
