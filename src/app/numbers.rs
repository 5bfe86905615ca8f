//! What only `app` can count, because it knows both the stores and the exporters: the queue gauges of the original,
//! the books, the seats.

use super::plan::{Config, ExporterConfig};
use super::stores::{Source, Stores};
use crate::config::Id;
use crate::processors::pipe::StoreNo;
use crate::spool::store::SpoolUsage;
use crate::spool::{Book, Reason, Store as _};
use crate::supervise::Lookout;
use crate::telemetry::metrics::Pulled;
use crate::telemetry::{Metrics, Queue, queues};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Shows them.
pub fn register(config: &Config, metrics: &Metrics, stores: &Arc<Stores>, lookout: Lookout) {
    queue_gauges(config, metrics, stores);
    books(metrics, stores);
    spools(metrics, stores);
    seats(metrics, lookout);
}

/// The queue gauges in the original's unit, batches: size is what waits over `send_batch_size`, capacity what the byte
/// cap holds in that unit, so that the seed's alert (size/capacity) means something (architecture §5).
///
/// As in the original an exporter without `sending_queue` has none.
fn queue_gauges(config: &Config, metrics: &Metrics, stores: &Arc<Stores>) {
    let stores = stores.clone();
    let queued = |(id, exporter): (&Id, &ExporterConfig)| match exporter {
        ExporterConfig::OtlpHttp(exporter) => exporter.sending_queue.enabled.then(|| id.clone()),
        ExporterConfig::Debug(_) => None,
    };
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
        books.iter().filter(|b| b.exporter == id && b.lane == source.pipeline).map(|b| b.waiting).sum::<u64>()
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

fn spools(metrics: &Metrics, stores: &Arc<Stores>) {
    type Of = fn(&SpoolUsage) -> u64;
    let families: [(Pulled, &'static str, &str, Of); 5] = [
        (Pulled::Gauge, "tfo_agent_spool_bytes", "Bytes allocated to the spool on its medium.", |u| u.bytes.0),
        (Pulled::Gauge, "tfo_agent_spool_budget_bytes", "Most bytes the spool may occupy.", |u| u.budget.0),
        (Pulled::Gauge, "tfo_agent_spool_segments", "Segments of the spool, the spare one included.", |u| u.segments),
        (
            Pulled::Counter,
            "tfo_agent_spool_written_bytes",
            "Bytes given to write(2) for blocks and control records.",
            |u| u.written.0,
        ),
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
