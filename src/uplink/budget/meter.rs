//! Bytes on the wire, both ways, counted where requests are made.
//!
//! What a request costs is known here but for what the network does with it: TLS adds 22 bytes to each record, TCP and IP 52 to each
//! packet, every second packet is acknowledged by one of 52, and a connection costs what it does whether anything is sent or
//! not. What is lost on the way and sent again is not seen; `tests/netem` compares with the packets of a real link.

use super::CLASSES;
use crate::otlp::Signal;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Counter;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::HeaderMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_layer::Layer;
use tower_service::Service;

/// Payload of a packet: 1,500 less IPv4 (20) and TCP with timestamps (32).
const SEGMENT: u64 = 1_448;
/// IPv4 and TCP with timestamps (RFC 7323).
const PACKET: u64 = 52;
/// A TLS 1.3 record: header 5, type 1, tag 16 (RFC 8446 §5.2); of at most 16 KiB.
const RECORD: u64 = 22;
const RECORD_MAX: u64 = 16_384;
/// SYN, SYN-ACK, ACK, and four packets at its end.
const CONNECTION: u64 = 60 + 60 + 5 * PACKET;
/// A connection that nobody accepted: a SYN and an answer, or two SYNs.
const NO_CONNECTION: u64 = 120;
/// Client hello 520, a chain of two certificates and the rest of the server's flight 3,400, finished and two tickets 700, in some ten
/// packets.
const HANDSHAKE: u64 = 4_620 + 10 * PACKET;

/// What belongs to no signal.
const BESIDES: usize = CLASSES - 1;

/// Counts for one exporter; made by [`Meter::default`] it counts nothing.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    by: Option<Arc<[Counter; CLASSES]>>,
    /// All of it belongs to no signal.
    is_besides: bool,
}

impl Meter {
    /// Of the exporter of this id: all that ask for it count together.
    #[must_use]
    pub fn new(metrics: &Metrics, exporter: &str) -> Meter {
        let counters = metrics.counters(
            "tfo_agent_link_bytes",
            "Bytes on the wire, both ways, with heads, TLS, TCP and IP; repeats of lost packets are not in it. Signal none: connections, registration.",
            &["exporter", "signal"],
        );
        let by = ["traces", "metrics", "logs", "none"].map(|signal| {
            let counter = counters.with(&[exporter, signal]);
            counter.add(0);
            counter
        });
        Meter { by: Some(Arc::new(by)), is_besides: false }
    }

    /// The same for what is no upload: a registration, a heartbeat.
    #[must_use]
    pub fn besides(self) -> Meter {
        Meter { is_besides: true, ..self }
    }

    /// Counts so far, by class.
    #[must_use]
    pub fn read(&self) -> [u64; CLASSES] {
        self.by.as_ref().map_or([0; CLASSES], |by| std::array::from_fn(|class| by[class].get()))
    }

    /// A message of so many bytes of HTTP went or came.
    pub fn message(&self, signal: Option<Signal>, way: Wire, bytes: usize) {
        self.add(signal, on_the_wire(bytes as u64, way));
    }

    fn add(&self, signal: Option<Signal>, bytes: u64) {
        if let Some(by) = &self.by {
            let class = signal.filter(|_| !self.is_besides).map_or(BESIDES, |signal| signal as usize - 1);
            by[class].add(bytes);
        }
    }
}

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// As they are.
    Plain,
    /// In TLS.
    Tls,
}

impl Wire {
    /// By the scheme of a URL.
    #[must_use]
    pub fn of(scheme: &str) -> Wire {
        if scheme == "https" { Wire::Tls } else { Wire::Plain }
    }
}

/// What a message costs on the wire, bytes both ways.
#[must_use]
fn on_the_wire(bytes: u64, way: Wire) -> u64 {
    let records = if way == Wire::Tls { bytes.div_ceil(RECORD_MAX) * RECORD } else { 0 };
    let packets = (bytes + records).div_ceil(SEGMENT);
    bytes + records + (packets + packets.div_ceil(2)) * PACKET
}

/// Length of a head as HTTP/1.1 writes it, but for its first line. HTTP/2 writes less.
#[must_use]
pub(in crate::uplink) fn head_len(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Counts the connections of a client.
#[derive(Debug, Clone)]
pub struct Counted {
    /// Here.
    pub meter: Meter,
    /// As most of them travel.
    pub way: Wire,
}

impl<S> Layer<S> for Counted {
    type Service = CountedConnector<S>;

    fn layer(&self, inner: S) -> CountedConnector<S> {
        CountedConnector { inner, counted: self.clone() }
    }
}

/// Makes connections and counts them.
#[derive(Debug, Clone)]
pub struct CountedConnector<S> {
    inner: S,
    counted: Counted,
}

impl<S, R> Service<R> for CountedConnector<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, to: R) -> Self::Future {
        let (Counted { meter, way }, connecting) = (self.counted.clone(), self.inner.call(to));
        async move {
            let connected = connecting.await;
            meter.add(
                None,
                match (&connected, way) {
                    (Ok(_), Wire::Tls) => CONNECTION + HANDSHAKE,
                    (Ok(_), Wire::Plain) => CONNECTION,
                    (Err(_), _) => NO_CONNECTION,
                },
            );
            connected
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_costs_its_packets_and_half_as_many_acknowledgments() {
        for (bytes, plain, tls) in
            [(1, 1 + 104, 23 + 104), (1_448, 1_448 + 104, 1_470 + 3 * 52), (14_480, 14_480 + 15 * 52, 14_502 + 17 * 52)]
        {
            assert_eq!([on_the_wire(bytes, Wire::Plain), on_the_wire(bytes, Wire::Tls)], [plain, tls], "{bytes}");
        }
        assert_eq!(on_the_wire(0, Wire::Plain), 0);
    }

    #[test]
    fn what_is_no_upload_is_counted_beside_the_signals() {
        let metrics = Metrics::detached();
        let (meter, letters) = (Meter::new(&metrics, "otlphttp"), Meter::new(&metrics, "otlphttp").besides());
        meter.message(Some(Signal::Logs), Wire::Plain, 1_000);
        letters.message(Some(Signal::Metrics), Wire::Plain, 100);
        assert_eq!(meter.read(), [0, 0, 1_104, 204]);
        assert_eq!(letters.read(), meter.read());
        Meter::default().message(None, Wire::Tls, 1_000);
        assert_eq!(Meter::default().read(), [0; CLASSES]);
    }
}
