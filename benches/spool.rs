//! What the spool costs: blocks of 1,000 log records of about 390 bytes, through encoding, commit, reading back.
//!
//! `cargo bench --bench spool`. One iteration handles 1,000 records: a time in ms is CPU-s per million records where
//! nothing waits for a disk (the directory is in /dev/shm where there is one; the disk's own time is `soak speed`'s).

#![allow(clippy::print_stdout)] // criterion prints too

use bytes::Bytes as Body;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::Path;
use tfo_otel_agent::base::{Bytes, Clock, Dice};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::spool::block::{Header, frame, unframe};
use tfo_otel_agent::spool::disk::{Compaction, DiskSettings, Shed, WhenFull};
use tfo_otel_agent::spool::store::Spool;
use tfo_otel_agent::spool::{Cut, Lane, NewBlock, Outcome, Pos, Settlement, Store};
use tfo_otel_agent::testing::numbered::{Numbered, Source};

fn request() -> Body {
    Numbered::new(Signal::Logs, Source(1)).request(1_000).bytes.into()
}

fn block(lane: Lane, raw: &[u8], id: u128, clock: &Clock) -> NewBlock {
    NewBlock {
        lane,
        signal: Signal::Logs,
        block_id: id,
        items: 1_000,
        raw_len: u32::try_from(raw.len()).expect("small"),
        accepted: clock.now(),
        boot: None,
        data_ns: (1, 2),
        framed: frame(raw),
    }
}

fn spool() -> (tempfile::TempDir, Spool) {
    let shm = Path::new("/dev/shm");
    let dir =
        if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a temporary directory");
    let settings = DiskSettings {
        directory: dir.path().join("spool"),
        max: Bytes::mib(4_096),
        min_free: Bytes(0),
        when_full: WhenFull::DropOldest,
        shed: Shed::default(),
        max_age: None,
        segment_min: Bytes::mib(2),
        segment_max: Bytes::mib(48),
        seal: true,
        compact: Compaction::USUAL,
    };
    let spool = Spool::on_disk(settings, Clock::system(), Dice::seeded(1)).expect("a fresh directory");
    (dir, spool)
}

fn block_encode(c: &mut Criterion) {
    let raw = request();
    let clock = Clock::system();
    let mut group = c.benchmark_group("block");
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("frame (lz4)", |b| b.iter(|| black_box(frame(black_box(&raw)))));
    group.bench_function("number (header and checksums)", |b| {
        let new = block(Lane(0), &raw, 1, &clock);
        b.iter_batched(
            || new.clone(),
            |new| black_box(new.number(1, 1_000, clock.boot_id(), false)),
            BatchSize::SmallInput,
        );
    });
    let (header, value) = block(Lane(0), &raw, 1, &clock).number(1, 1_000, clock.boot_id(), false);
    println!(
        "{} bytes raw, {} on disk, per record: {:.1} and {:.1}",
        raw.len(),
        value.len(),
        raw.len() as f64 / 1e3,
        value.len() as f64 / 1e3
    );
    group.bench_function("unframe (checksum, lz4)", |b| {
        b.iter(|| {
            let header = Header::read(black_box(&value)).expect("intact");
            black_box(unframe(&header, &value)).expect("intact")
        })
    });
    let _ = header;
    group.finish();
}

fn commit(c: &mut Criterion) {
    let raw = request();
    let clock = Clock::system();
    let mut group = c.benchmark_group("spool");
    group.throughput(Throughput::Elements(1_000));
    let (_dir, store) = spool();
    let lane = store.lane("logs", Signal::Logs);
    let owner = store.own("otlphttp", &[lane]);
    let cut = Cut { enough_items: 1_000, max_items: 0, max_bytes: 4 << 20 };
    let new = block(lane, &raw, 1, &clock);
    let mut id = 1;
    group.bench_function("commit, lease, settle (one block, sync in memory)", |b| {
        b.iter_batched(
            || {
                id += 1;
                NewBlock { block_id: id, ..new.clone() }
            },
            |new| {
                store.commit(vec![new]).expect("space");
                let lease = store.lease(owner, lane, cut).expect("readable").expect("just committed");
                store.handled(owner, lane, lease.window.clone());
                let range = Pos { index: lease.window.start, item: 0 }..Pos { index: lease.window.end, item: 0 };
                let outcome = Outcome::Delivered { rejected: 0 };
                store.settle(vec![Settlement { owner, lane, range, items: 1_000, outcome }]).expect("out");
                while store.upkeep().expect("well") {}
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, block_encode, commit);
criterion_main!(benches);
