//! What sends: an uplink per exporter, a tee per `debug`.

use super::plan::{Config, ExporterConfig};
use super::roster::{UPLINK, row};
use super::stores::{Source, Stored, Stores};
use super::wire::{Crew, StartError};
use crate::base::{Clock, Dice};
use crate::config::Id;
use crate::processors::Tee;
use crate::supervise::Supervisor;
use crate::telemetry::health::Health;
use crate::telemetry::{BatchMetrics, Metrics};
use crate::uplink::actor::Uplink;
use crate::uplink::config::{Compression, DebugConfig, OtlpHttpConfig};
use crate::uplink::debug::DebugExporter;
use crate::uplink::depot::{Depot, Direct, Posted};
use crate::uplink::flow::BUDGET;
use crate::uplink::metrics::UplinkMetrics;
use crate::uplink::otlp_http::Maker;
use crate::uplink::pack::{Encoding, LEVEL};
use crate::uplink::wiring::{LaneSettings, Lines, UplinkSettings, View};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// Fills the uplinks' posts.
///
/// # Errors
/// When a client cannot be built from its section.
pub fn start(
    config: &Config,
    supervisor: &Supervisor,
    stores: &Stores,
    crews: &[Crew],
    metrics: &Metrics,
    health: &Health,
    clock: &Clock,
) -> Result<(), StartError> {
    // Each pipeline's batches are counted once, by its first exporter.
    let mut counted = BTreeSet::new();
    for (id, (no, sources)) in &stores.exporters {
        let Some(ExporterConfig::OtlpHttp(section)) = config.exporters.get(id) else { continue };
        let (stored, crew) = (&stores.all[no.0], &crews[no.0]);
        let mut section = section.as_ref().clone();
        // The last one of a name is sent, so an authenticator's is.
        section.headers.extend(section.auth.as_ref().and_then(|auth| super::guards::sent(config, auth)));
        let section = &section;
        let settings = Arc::new(settings(id, section, sources, stored, metrics, &mut counted));
        let lines = lines(id, section, stored, crew, metrics, health, clock)?;
        supervisor.post(row(supervisor, &UPLINK), &id.to_string(), move || {
            Uplink::new(settings.clone(), lines.clone(), Dice::shaken())
        });
    }
    Ok(())
}

fn settings(
    id: &Id,
    section: &OtlpHttpConfig,
    sources: &[Source],
    stored: &Stored,
    metrics: &Metrics,
    counted: &mut BTreeSet<String>,
) -> UplinkSettings {
    let lane = |source: &Source| {
        let first = source.batch.as_ref().filter(|_| counted.insert(source.pipeline.clone()));
        LaneSettings {
            lane: source.lane,
            name: source.pipeline.clone(),
            signal: source.signal,
            cut: source.cut,
            batch_timeout: source.timeout,
            batch: first.map(|batch| BatchMetrics::new(metrics, batch)),
        }
    };
    UplinkSettings {
        exporter: id.to_string(),
        lanes: sources.iter().map(lane).collect(),
        retry: (&section.retry_on_failure).into(),
        consumers: if section.sending_queue.enabled { section.sending_queue.num_consumers.max(1) } else { 1 },
        encoding: match section.compression {
            Compression::Gzip => Encoding::Gzip,
            Compression::None => Encoding::Identity,
        },
        level: LEVEL,
        budget: BUDGET,
        flush_at_stop: !stored.durable,
    }
}

fn lines(
    id: &Id,
    section: &OtlpHttpConfig,
    stored: &Stored,
    crew: &Crew,
    metrics: &Metrics,
    health: &Health,
    clock: &Clock,
) -> Result<Lines, StartError> {
    let consumers = section.sending_queue.num_consumers.max(1);
    let maker = Maker::new(section, consumers, clock.clone())
        .map_err(|e| StartError::Component { id: id.to_string(), why: e.to_string() })?;
    let transport = move || maker.make();
    let depot: Arc<dyn Depot> = if stored.durable {
        Arc::new(Posted::new(stored.spool.clone(), crew.reader.clone(), crew.writer.clone()))
    } else {
        Arc::new(Direct::to(stored.spool.clone()))
    };
    Ok(Lines {
        depot,
        transport: Arc::new(transport),
        metrics: UplinkMetrics::new(metrics, health, &id.to_string()),
        clock: clock.clone(),
        view: Arc::new(watch::Sender::new(View::default())),
    })
}

/// The tee of a `debug` exporter. A pipeline with two of them has two; one exporter in two pipelines counts for both.
pub fn tee(id: &Id, section: &DebugConfig, metrics: &Metrics) -> Tee {
    let exporter = DebugExporter::new(section, metrics, &id.to_string());
    Arc::new(move |signal, walked, request| exporter.tee(signal, request, walked.items.into()))
}
