//! What only `app` can count, because it knows both the stores and the exporters: the queue gauges of the original,
//! the books, the seats.

use super::branches::is_of;
use super::plan::{Config, ExporterConfig, PipelineConfig};
use super::stores::{Source, Stores, batch_of};
use crate::config::Id;
use crate::processors::batch::groups::TooMany;
use crate::processors::pipe::StoreNo;
use crate::spool::store::SpoolUsage;
use crate::spool::{Book, Reason, Store as _};
use crate::supervise::Lookout;
use crate::telemetry::metrics::{Histogram, Pulled};
use crate::telemetry::{Metrics, Queue, queues};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// Shows them.
pub fn register(config: &Config, metrics: &Metrics, stores: &Arc<Stores>, lookout: Lookout) {
    queue_gauges(config, metrics, stores);
    books(metrics, stores);
    spools(metrics, stores);
    groups(config, metrics, stores);
    time_to_full(metrics, stores);
    seats(metrics, lookout);
}

/// The queue gauges in the original's unit, batches: size is what waits over `send_batch_size`, capacity what the byte
/// cap holds in that unit, so that the seed's alert (size/capacity) means something (architecture §5).
///
/// As in the original an exporter without `sending_queue` has none.
fn queue_gauges(config: &Config, metrics: &Metrics, stores: &Arc<Stores>) {
    let stores = stores.clone();
    let queued =
        |(id, exporter): (&Id, &ExporterConfig)| exporter.queue().filter(|queue| queue.enabled).map(|_| id.clone());
    let with_queue: BTreeSet<Id> = config.exporters.iter().filter_map(queued).collect();
    queues(metrics, move || {
        let queue = |(id, (no, sources)): (&Id, &(StoreNo, Vec<Source>))| {
            let spool = &stores.all[no.0].spool;
            let size = batches_waiting(id, sources, &spool.books());
            Queue { exporter: id.to_string(), size, capacity: capacity(size, batch_bytes(sources), spool.usage()) }
        };
        stores.exporters.iter().filter(|(id, _)| with_queue.contains(id)).map(queue).collect()
    });
}

fn batches_waiting(id: &Id, sources: &[Source], books: &[Book]) -> u64 {
    let id = id.to_string();
    let of = |source: &Source| {
        books.iter().filter(|b| b.exporter == id && is_of(&b.lane, &source.pipeline)).map(|b| b.waiting).sum::<u64>()
    };
    sources.iter().map(|s| of(s).div_ceil(u64::from(s.cut.enough_items.max(1)))).sum()
}

/// Bytes a batch takes on the disk: 136 per record (architecture §5), of the largest batch of the exporter.
fn batch_bytes(sources: &[Source]) -> u64 {
    sources.iter().map(|s| u64::from(s.cut.enough_items.max(1))).max().unwrap_or(1).saturating_mul(136)
}

/// What is waiting and what would still fit.
fn capacity(waiting: u64, batch_bytes: u64, usage: SpoolUsage) -> u64 {
    let free = usage.budget.0.saturating_sub(usage.bytes.0);
    (waiting + free / batch_bytes.max(1)).max(1)
}

fn books(metrics: &Metrics, stores: &Arc<Stores>) {
    const LABELS: &[&str] = &["pipeline", "exporter"];
    type Of = fn(&Book) -> u64;
    let families: [(Pulled, &'static str, &str, Of); 5] = [
        (Pulled::Counter, "tfo_agent_items_accepted", "Items taken in for this exporter.", |b| b.accepted),
        (Pulled::Counter, "tfo_agent_items_delivered", "Items the far end has.", |b| b.delivered),
        (Pulled::Gauge, "tfo_agent_items_waiting", "Items that wait for the far end.", |b| b.waiting),
        (Pulled::Gauge, "tfo_agent_items_dead_letters", "Items the far end refused, kept for a person.", |b| {
            b.dead_letters
        }),
        (Pulled::Gauge, "tfo_agent_items_quarantined", "Items set aside because handling them failed.", |b| {
            b.quarantined
        }),
    ];
    for (kind, name, text, of) in families {
        let stores = stores.clone();
        metrics.pull(kind, name, text, LABELS, move |samples| {
            for book in stores.all.iter().flat_map(|s| s.spool.books()) {
                samples.push_count(&[&book.lane, &book.exporter], of(&book));
            }
        });
    }
    let of = stores.clone();
    let text = "Seconds the oldest item has waited that the exporter has still to send.";
    metrics.pull(Pulled::Gauge, "tfo_agent_oldest_waiting_seconds", text, LABELS, move |samples| {
        for age in of.all.iter().flat_map(|s| s.spool.ages()) {
            samples.push(&[&age.lane, &age.exporter], age.age.as_secs_f64());
        }
    });
    let stores = stores.clone();
    let text = "Items that will not arrive, by reason.";
    metrics.pull(Pulled::Counter, "tfo_agent_items_lost", text, &["pipeline", "exporter", "reason"], move |samples| {
        for book in stores.all.iter().flat_map(|s| s.spool.books()) {
            for reason in Reason::ALL {
                samples.push_count(&[&book.lane, &book.exporter, reason.name()], book.lost[reason as usize]);
            }
        }
    });
}

/// How many groups `metadata_keys` has made, by `batch` processor, under the original's name.
fn groups(config: &Config, metrics: &Metrics, stores: &Arc<Stores>) {
    let grouped = |pipeline: &PipelineConfig| {
        let (id, batch) = batch_of(config, pipeline)?;
        (!batch.metadata_keys.is_empty()).then(|| (id.to_string(), pipeline.id()))
    };
    let grouped: Vec<(String, String)> = config.service.pipelines.iter().filter_map(grouped).collect();
    let branches = stores.branches.clone();
    let text = "Number of distinct metadata value combinations being processed";
    metrics.pull(Pulled::Gauge, "otelcol_processor_batch_metadata_cardinality", text, &["processor"], move |samples| {
        let mut sums = BTreeMap::<&str, u64>::new();
        for (processor, pipeline) in &grouped {
            *sums.entry(processor).or_default() += branches.count(pipeline) as u64;
        }
        sums.into_iter().for_each(|(processor, sum)| samples.push_count(&[processor], sum));
    });
}

/// Counts a request whose group would be one too many, and says so once.
pub fn refused_groups(metrics: &Metrics, processor: &str) -> impl Fn(&TooMany) + Send + Sync + use<> {
    let text = "Requests refused because there are as many groups as metadata_cardinality_limit allows.";
    let count = metrics.counters("tfo_agent_batch_groups_refused", text, &["processor"]).with(&[processor]);
    let (once, processor) = (Once::new(), processor.to_owned());
    move |error| {
        count.inc();
        once.call_once(|| tracing::error!(processor, %error, "requests of further groups are refused until a restart"));
    }
}

/// How long commits of a store take: what a client waits for, most of it the disk's.
#[must_use]
pub fn commit_times(metrics: &Metrics, storage: &str) -> Histogram {
    const BUCKETS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0];
    let text = "Seconds a group commit took, fdatasync included.";
    metrics.histograms("tfo_agent_spool_commit_seconds", text, &["storage"], &BUCKETS).with(&[storage])
}

/// The rate of intake is taken over this time, or what there is of it.
const RATE_OVER: Duration = Duration::from_secs(60);

/// How long the spool takes what comes in if nothing leaves it, at the rate of the last minute: an hour of outage is
/// an hour of this. Shown when there is a rate: from the second scrape on, and only while data comes in.
fn time_to_full(metrics: &Metrics, stores: &Arc<Stores>) {
    let stores = stores.clone();
    let seen = Mutex::new(HashMap::<String, VecDeque<(Instant, u64)>>::new());
    let text = "Seconds until the spool is full if nothing leaves it and data comes in as in the last minute.";
    metrics.pull(Pulled::Gauge, "tfo_agent_spool_seconds_to_full", text, &["storage"], move |samples| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for stored in &stores.all {
            let (now, usage) = (Instant::now(), stored.spool.usage());
            let seen = seen.entry(stored.name.clone()).or_default();
            while seen.get(1).is_some_and(|(then, _)| now - *then >= RATE_OVER) {
                seen.pop_front();
            }
            if let Some((then, bytes)) = seen.front()
                && let Some(seconds) = seconds_to_full(&usage, *bytes, now - *then)
            {
                samples.push(&[&stored.name], seconds);
            }
            if seen.back().is_none_or(|(then, _)| now - *then >= RATE_OVER / 10) {
                seen.push_back((now, usage.block_bytes.0));
            }
        }
    });
}

fn seconds_to_full(usage: &SpoolUsage, block_bytes_before: u64, time: Duration) -> Option<f64> {
    let came = usage.block_bytes.0.checked_sub(block_bytes_before).filter(|came| *came > 0)?;
    let free = usage.budget.0.saturating_sub(usage.bytes.0);
    Some(free as f64 * time.as_secs_f64() / came as f64)
}

fn spools(metrics: &Metrics, stores: &Arc<Stores>) {
    type Of = fn(&SpoolUsage) -> u64;
    let families: [(Pulled, &'static str, &str, Of); 6] = [
        (Pulled::Gauge, "tfo_agent_spool_bytes", "Bytes allocated to the spool on its medium.", |u| u.bytes.0),
        (Pulled::Gauge, "tfo_agent_spool_budget_bytes", "Most bytes the spool may occupy.", |u| u.budget.0),
        (Pulled::Gauge, "tfo_agent_spool_segments", "Segments of the spool, the spare one included.", |u| u.segments),
        (
            Pulled::Counter,
            "tfo_agent_spool_written_bytes",
            "Bytes given to write(2) for blocks and control records.",
            |u| u.written.0,
        ),
        (Pulled::Counter, "tfo_agent_spool_blocks", "Blocks committed.", |u| u.blocks),
        (
            Pulled::Counter,
            "tfo_agent_spool_block_bytes",
            "Bytes of blocks committed; written over this is the write amplification.",
            |u| u.block_bytes.0,
        ),
    ];
    for (kind, name, text, of) in families {
        let stores = stores.clone();
        metrics.pull(kind, name, text, &["storage"], move |samples| {
            stores.all.iter().for_each(|s| samples.push_count(&[&s.name], of(&s.spool.usage())));
        });
    }
}

fn seats(metrics: &Metrics, lookout: Lookout) {
    let of = lookout.clone();
    let text = "Times a post fell and was rebuilt.";
    metrics.pull(Pulled::Counter, "tfo_agent_post_falls", text, &["post"], move |samples| {
        of.watch().seats.iter().for_each(|seat| samples.push_count(&[&seat.name], seat.falls));
    });
    let of = lookout.clone();
    let text = "1 while a post works, else 0.";
    metrics.pull(Pulled::Gauge, "tfo_agent_post_up", text, &["post"], move |samples| {
        of.watch().seats.iter().for_each(|seat| samples.push_count(&[&seat.name], u64::from(seat.is_well())));
    });
    let text = "Panics that one request or block caused and that ended there.";
    metrics.pull(Pulled::Counter, "tfo_agent_panics_contained", text, &[], move |samples| {
        samples.push_count(&[], lookout.watch().panics.contained);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Bytes;

    #[test]
    #[rustfmt::skip]
    fn the_time_to_full_is_that_of_an_outage_at_the_present_rate() {
        let usage = |bytes, block_bytes| SpoolUsage {
            bytes: Bytes(bytes), budget: Bytes(1_000), block_bytes: Bytes(block_bytes), ..SpoolUsage::default()
        };
        let second = Duration::from_secs(1);
        for (usage, before, time, expected) in [
            (usage(0, 110),     100, second,     Some(100.0)),
            (usage(500, 110),   100, second * 2, Some(100.0)),
            (usage(1_200, 110), 100, second,     Some(0.0)),
            (usage(0, 100),     100, second,     None), // nothing comes
            (usage(0, 50),      100, second,     None), // begun anew
        ] {
            assert_eq!(seconds_to_full(&usage, before, time), expected, "{usage:?}");
        }
    }
}
