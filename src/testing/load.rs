//! A client as an SDK would be: sends numbered requests at a rate, takes an answer for an answer, comes back when it
//! is asked to, and keeps books of what was acknowledged.

use super::numbered::{Numbered, Source};
use super::tally::Tally;
use crate::otlp::Signal;
use crate::uplink::client::install_provider;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Rest before the same request is offered again.
const AGAIN: Duration = Duration::from_millis(100);

/// What to send, and how fast.
#[derive(Debug, Clone)]
pub struct Load {
    /// `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// What; each signal has a client of its own.
    pub signals: Vec<Signal>,
    /// Items a second, all signals together; 0 sends as fast as answers come.
    pub rate: u64,
    /// Items of one request.
    pub request_items: u32,
    /// Requests under way at once, per signal.
    pub clients: u32,
    /// The number of the first client as a [`Source`]; the others follow. Two loads must not share one.
    pub first_source: u32,
}

/// A load that runs; its books can be read at any time.
#[derive(Debug, Clone)]
pub struct Running(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    acknowledged_bytes: AtomicU64,
    refused: AtomicU64,
    answers: Mutex<BTreeMap<u16, u64>>,
    tally: Mutex<Tally>,
}

impl Load {
    /// Begins to send, on the current runtime. Ends with [`Running::stop`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with a local set (actix's), and when no HTTP client can be built.
    #[must_use]
    pub fn start(self) -> Running {
        install_provider();
        let running = Running(Arc::default());
        let clients = u64::from(self.clients.max(1)) * self.signals.len() as u64;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(40))
            .build()
            .expect("a client without TLS to set up");
        for (n, signal) in self.signals.iter().flat_map(|s| (0..self.clients.max(1)).map(move |_| *s)).enumerate() {
            let url = format!("{}/v1/{signal}", self.endpoint);
            let numbered = Numbered::new(signal, Source(u32::try_from(n).expect("few clients") + self.first_source));
            let pause = (self.rate > 0).then(|| {
                Duration::from_secs(1).mul_f64(f64::from(self.request_items) * clients as f64 / self.rate as f64)
            });
            let client = Client { http: http.clone(), url, numbered, items: self.request_items, pause };
            tokio::task::spawn_local(client.run(running.clone()));
        }
        running
    }
}

impl Running {
    /// Asks all clients to send nothing more.
    pub fn stop(&self) {
        self.0.stop.store(true, Relaxed);
    }

    /// No client sends any more: each ends with the answer it waits for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Items answered with success.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.0.acknowledged.load(Relaxed)
    }

    /// Bytes of OTLP answered with success.
    #[must_use]
    pub fn acknowledged_bytes(&self) -> u64 {
        self.0.acknowledged_bytes.load(Relaxed)
    }

    /// Answers that were none, or no success.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    /// Answers by HTTP status; 0: there was none.
    #[must_use]
    pub fn answers(&self) -> BTreeMap<u16, u64> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The books: issued and acknowledged.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.0.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Client {
    http: reqwest::Client,
    url: String,
    numbered: Numbered,
    items: u32,
    pause: Option<Duration>,
}

impl Client {
    async fn run(mut self, running: Running) {
        let mut pace = self.pause.map(|pause| {
            let mut pace = interval(pause.max(Duration::from_micros(100)));
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        while !running.0.stop.load(Relaxed) {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            let request = self.numbered.request(self.items);
            let (signal, source) = (self.numbered.signal(), self.numbered.source());
            let body = bytes::Bytes::from(request.bytes);
            self.books(&running, |t| t.issued(signal, source, request.seqs.clone()));
            while !self.offer(&running, body.clone()).await {
                running.0.refused.fetch_add(1, Relaxed);
                if running.0.stop.load(Relaxed) {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
            self.books(&running, |t| t.acknowledged(signal, source, request.seqs.clone()));
            running.0.acknowledged_bytes.fetch_add(body.len() as u64, Relaxed);
            running.0.acknowledged.fetch_add(self.items.into(), Relaxed);
        }
    }

    fn books(&self, running: &Running, entry: impl FnOnce(&mut Tally)) {
        entry(&mut running.0.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn offer(&self, running: &Running, body: bytes::Bytes) -> bool {
        let sent = self.http.post(&self.url).header("content-type", "application/x-protobuf").body(body).send().await;
        let status = match sent {
            Ok(answer) => {
                let status = answer.status();
                answer.bytes().await.is_ok().then_some(status) // half an answer is none
            }
            Err(_) => None,
        };
        let mut answers = running.0.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry(status.map_or(0, |s| s.as_u16())).or_default() += 1;
        status.is_some_and(|s| s.is_success())
    }
}

/// What every HTTPS-capable client of this process needs once; see [`install_provider`].
pub fn install_client() {
    install_provider();
}

/// Waits until `what` holds, looking every 20 ms; false when `patience` is over first.
pub async fn until(patience: Duration, mut what: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    while !what() {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
