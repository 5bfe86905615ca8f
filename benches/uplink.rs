//! What the uplink costs, in CPU seconds per million 390-byte log records: `cargo bench --bench uplink`.
//!
//! The way of the data is measured on the uplink's own thread alone: the spool (in memory) gives, the far end (a thread
//! of its own, on loopback) takes. No criterion here: what counts is the thread's CPU clock, not the wall's.

#![allow(clippy::print_stdout)] // a benchmark prints

use actix::Actor as _;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;
use tfo_otel_agent::base::{Bytes, Clock, Dice, Stamp};
use tfo_otel_agent::otlp::{Signal, walk};
use tfo_otel_agent::spool::block::frame;
use tfo_otel_agent::spool::store::Spool;
use tfo_otel_agent::spool::{Cut, Lane, Lease, LeasedBlock, NewBlock, Store};
use tfo_otel_agent::telemetry::{Health, Metrics};
use tfo_otel_agent::testing::far_end::{FarEnd, Script};
use tfo_otel_agent::testing::numbered::{Numbered, Source, numbers};
use tfo_otel_agent::uplink::config::OtlpHttpConfig;
use tfo_otel_agent::uplink::depot::Direct;
use tfo_otel_agent::uplink::drain::Drain;
use tfo_otel_agent::uplink::flow::BUDGET;
use tfo_otel_agent::uplink::pack::{Encoding, LEVEL, Packer};
use tfo_otel_agent::uplink::prepare::prepare;
use tfo_otel_agent::uplink::retry::Retry;
use tfo_otel_agent::uplink::transport::Transport;
use tfo_otel_agent::uplink::{LaneSettings, Lines, OtlpHttp, Uplink, UplinkMetrics, UplinkSettings, View};

const MILLION: u32 = 1_000_000;

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("below a second"))
}

/// CPU seconds of `work`, which handles so many records, per million.
fn per_million(records: u32, work: impl FnOnce()) -> f64 {
    let before = cpu();
    work();
    (cpu() - before).as_secs_f64() * f64::from(MILLION) / f64::from(records)
}

fn main() {
    numbering();
    packing();
    preparing();
    for (encoding, items) in [(Encoding::Gzip, 1_000), (Encoding::Gzip, 512), (Encoding::Identity, 1_000)] {
        sending(encoding, items);
    }
}

fn numbering() {
    let mut made = Numbered::new(Signal::Logs, Source(1)).starting_at(10_000_000);
    let mut request = Vec::new();
    let write = per_million(MILLION, || {
        for _ in 0..MILLION / 1_000 {
            request.clear();
            made.write(1_000, &mut request);
        }
    });
    let mut found = 0_u64;
    let read = per_million(MILLION, || {
        for _ in 0..MILLION / 1_000 {
            numbers(Signal::Logs, &request, |mark| found += mark.map_or(0, |m| m.seq & 1)).expect("ours");
        }
    });
    println!("numbered telemetry   write {write:.3} s   read {read:.3} s   ({found})");
}

fn packing() {
    let raw: bytes::Bytes = Numbered::new(Signal::Logs, Source(1)).starting_at(10_000_000).request(1_000).bytes.into();
    for level in 1..=6 {
        let mut packer = Packer::new(Encoding::Gzip, level);
        let mut size = 0;
        let cost = per_million(200_000, || {
            for _ in 0..200 {
                size = packer.pack(&raw).bytes.len();
            }
        });
        println!(
            "gzip level {level}         {cost:.3} s   {} B a record",
            f64::from(u32::try_from(size).expect("small")) / 1_000.0
        );
    }
}

fn preparing() {
    for (block, max_items) in [(1_000, 0), (2_600, 1_000), (2_600, 100)] {
        let raw: bytes::Bytes = Numbered::new(Signal::Logs, Source(1)).request(block).bytes.into();
        let block = LeasedBlock { index: 1, items: block, accepted: Stamp::default(), raw };
        let cut = Cut { enough_items: 1, max_items, max_bytes: 4 << 20 };
        let items = block.items;
        let lease = Lease {
            lane: Lane(0),
            signal: Signal::Logs,
            window: 1..2,
            cut,
            settled: vec![],
            age: Duration::ZERO,
            blocks: vec![block],
        };
        let mut packer = Packer::new(Encoding::Identity, LEVEL);
        let cost = per_million(100 * items, || {
            for _ in 0..100 {
                assert!(!prepare(&lease, None, &mut packer).uploads.is_empty());
            }
        });
        println!("plan and cut         {cost:.3} s   blocks of {items}, at most {max_items} in an upload");
    }
}

fn sending(encoding: Encoding, items: u32) {
    let far_end = FarEnd::on_own_thread(Script::new()).expect("a port");
    let clock = Clock::system();
    let spool = Arc::new(Spool::in_memory(Bytes::mib(1_024), clock.clone(), Dice::seeded(1)));
    let lane = spool.lane("logs", Signal::Logs);
    spool.own("otlphttp", &[lane]);
    let mut made = Numbered::new(Signal::Logs, Source(1));
    for n in 0..MILLION / items {
        let raw = made.request(items).bytes;
        let walked = walk(Signal::Logs, &raw).expect("ours");
        let block = NewBlock {
            lane,
            signal: Signal::Logs,
            block_id: n.into(),
            items,
            raw_len: u32::try_from(raw.len()).expect("small"),
            accepted: clock.now(),
            boot: None,
            data_ns: walked.data_ns,
            framed: frame(&raw),
        };
        spool.commit(vec![block]).expect("there is room");
    }
    let all = u64::from(MILLION / items * items);
    let cut = Cut { enough_items: items, max_items: 0, max_bytes: 4 << 20 };
    let settings = Arc::new(UplinkSettings {
        exporter: "otlphttp".to_owned(),
        lanes: vec![LaneSettings {
            lane,
            name: "logs".to_owned(),
            signal: Signal::Logs,
            cut,
            batch_timeout: Duration::ZERO,
            batch: None,
        }],
        retry: Retry::default(),
        consumers: 10,
        encoding,
        level: LEVEL,
        drain: Drain::default(),
        ceiling: tokio::sync::watch::Sender::new(None).subscribe(),
        budget: BUDGET,
        added: tokio::sync::watch::Sender::new(Vec::new()).subscribe(),
        gap_interval: None,
        first_at: None,
        flush_at_stop: false,
    });
    let config = OtlpHttpConfig { endpoint: Some(far_end.endpoint()), ..OtlpHttpConfig::default() };
    let transport_clock = clock.clone();
    let lines = Lines {
        purse: None,
        depot: Arc::new(Direct::to(spool.clone())),
        transport: Arc::new(move || {
            Arc::new(OtlpHttp::new(&config, 10, transport_clock.clone()).expect("a client")) as Arc<dyn Transport>
        }),
        metrics: UplinkMetrics::new(&Metrics::detached(), &Health::starting(clock.clone()), "otlphttp"),
        clock,
        view: Arc::new(tokio::sync::watch::Sender::new(View::default())),
    };
    actix_rt::System::new().block_on(async {
        let (cpu_before, start) = (cpu(), tokio::time::Instant::now());
        let _uplink = Uplink::new(settings, lines, Dice::seeded(2)).start();
        while spool.books().iter().any(|book| book.waiting > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (cpu, wall) = ((cpu() - cpu_before).as_secs_f64(), start.elapsed().as_secs_f64());
        let wire = far_end.with(|c| c.counts()).wire_bytes / all;
        assert_eq!(far_end.report().arrived(), all, "every record arrived");
        println!("the whole way        {cpu:.3} s   {encoding:?}, uploads of {items}, {wire} B a record, {wall:.2} s on the clock");
    });
}
