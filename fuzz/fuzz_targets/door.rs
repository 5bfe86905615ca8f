//! What both receivers' targets share: a runtime, an intake whose store is this file, and encoders that are not ours.

use bytes::Bytes;
use flate2::Compression;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use std::io::{Read, Write as _};
use std::sync::{Arc, Mutex};
use tfo_otel_agent::base::Bytes as Size;
use tfo_otel_agent::batcher::budget::Budget;
use tfo_otel_agent::batcher::{Offer, OfferError, Part};
use tfo_otel_agent::otlp::slow::Request;
use tfo_otel_agent::otlp::wild::Choices;
use tfo_otel_agent::otlp::{Signal, is_deprecated, walk};
use tfo_otel_agent::processors::pipe::{Pipe, StoreNo};
use tfo_otel_agent::receivers::intake::{Intake, Outlet};
use tfo_otel_agent::spool::Lane;
use tfo_otel_agent::supervise::{Line, disarm_tripwires};

/// Bytes in flight. More than the largest message and what it becomes.
const BUDGET: Size = Size::mib(64);

/// An intake, and what was offered through it.
pub struct Door {
    pub runtime: tokio::runtime::Runtime,
    pub intake: Arc<Intake>,
    pub budget: Budget,
    caught: Arc<Mutex<Caught>>,
}

#[derive(Default)]
struct Caught {
    parts: Vec<Part>,
    answer: Answer,
}

/// What the store says to an offer.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Answer {
    #[default]
    Kept,
    Later,
    TooLarge,
    Never,
}

impl Answer {
    pub fn of(choice: u8) -> Answer {
        [
            Answer::Kept,
            Answer::Kept,
            Answer::Kept,
            Answer::Kept,
            Answer::Kept,
            Answer::Later,
            Answer::TooLarge,
            Answer::Never,
        ][usize::from(choice & 7)]
    }

    fn outcome(self) -> Result<(), OfferError> {
        let why = || "the fuzzer says so".to_owned();
        match self {
            Answer::Kept => Ok(()),
            Answer::Later => Err(OfferError::Later(why())),
            Answer::TooLarge => Err(OfferError::TooLarge(why())),
            Answer::Never => Err(OfferError::Never(why())),
        }
    }
}

impl Door {
    pub fn open() -> Door {
        disarm_tripwires();
        let caught = Arc::new(Mutex::new(Caught::default()));
        let to = caught.clone();
        let batcher = Line::new(move |offer: Offer| {
            let mut caught = to.lock().expect("whole");
            caught.parts.extend(offer.parts);
            std::future::ready(Ok(caught.answer.outcome()))
        });
        let pipe = |signal| {
            Arc::new(Pipe {
                groups: None,
                name: "any".into(),
                signal,
                limiters: Vec::new(),
                steps: Vec::new(),
                lanes: vec![(StoreNo(0), Lane(1))],
                tees: Vec::new(),
            })
        };
        let outlet = Outlet { batcher, durable: true, losses: None, readers: Vec::new() };
        let budget = Budget::new(BUDGET);
        let intake = Arc::new(Intake::new(Signal::ALL.map(pipe), vec![outlet], budget.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Door { runtime, intake, budget, caught }
    }

    /// Before a request.
    pub fn expect(&self, answer: Answer) {
        *self.caught.lock().expect("whole") = Caught { parts: Vec::new(), answer };
    }

    /// After it: nothing is held any more, and what was offered is what prost sees in it.
    pub fn settle(&self, signal: Signal, max: usize) -> Option<Bytes> {
        assert_eq!(self.budget.used(), 0, "what a request held is given back");
        let mut parts = std::mem::take(&mut self.caught.lock().expect("whole").parts);
        assert!(parts.len() <= 1, "a request is offered once");
        let part = parts.pop()?;
        assert!(part.signal == signal && part.raw.len() <= max, "{} bytes, {max} are allowed", part.raw.len());
        let decoded = Request::decode(signal, &part.raw).expect("what is accepted is decodable");
        assert_eq!(part.walked, decoded.walked());
        assert!(part.walked.items > 0, "a request of nothing is offered to nobody");
        Some(part.raw)
    }
}

/// Whether a message of at most `max` bytes must be taken, and whether it is offered to the store then.
pub fn is_request(signal: Signal, message: &[u8]) -> Option<bool> {
    let walked = walk(signal, message).ok()?;
    (walked.items > 0 || !is_deprecated(message)).then_some(walked.items > 0)
}

/// A message: as it lies, or made of it.
pub fn message(choice: u8, signal: Signal, bytes: &[u8]) -> Vec<u8> {
    match choice & 3 {
        0 => Choices::lawful(bytes).request(signal),
        1 => Choices::defective(bytes).request(signal),
        _ => bytes.to_vec(),
    }
}

/// Compressed by libraries we do not decode with, where there is one. `None`: nobody compresses so.
pub fn deflated(encoding: &str, raw: &[u8]) -> Option<Vec<u8>> {
    let fast = Compression::fast();
    match encoding {
        "gzip" => GzEncoder::new(Vec::new(), fast).and_all(raw),
        "zlib" | "deflate" if raw.len().is_multiple_of(2) => ZlibEncoder::new(Vec::new(), fast).and_all(raw),
        "deflate" => DeflateEncoder::new(Vec::new(), fast).and_all(raw),
        "zstd" => zstd::encode_all(raw, 1).ok(),
        "snappy" if raw.len().is_multiple_of(2) => snap::raw::Encoder::new().compress_vec(raw).ok(),
        "snappy" | "x-snappy-framed" => snap::write::FrameEncoder::new(Vec::new()).and_all(raw),
        _ => None,
    }
}

trait AndAll {
    fn and_all(self, raw: &[u8]) -> Option<Vec<u8>>;
}

macro_rules! and_all {
    ($($encoder:ident)*) => {$(
        impl AndAll for $encoder<Vec<u8>> {
            fn and_all(mut self, raw: &[u8]) -> Option<Vec<u8>> {
                self.write_all(raw).ok()?;
                self.finish().ok()
            }
        }
    )*};
}
and_all!(GzEncoder ZlibEncoder DeflateEncoder);

impl AndAll for snap::write::FrameEncoder<Vec<u8>> {
    fn and_all(mut self, raw: &[u8]) -> Option<Vec<u8>> {
        self.write_all(raw).ok()?;
        self.into_inner().ok()
    }
}

/// What other decoders make of a body that was taken: one of these it must have been. Empty: they take none of it.
pub fn inflated(encoding: &str, body: &[u8], max: usize) -> Vec<Vec<u8>> {
    let all = |from: &mut dyn Read| {
        let mut out = Vec::new();
        from.take(max as u64 + 1).read_to_end(&mut out).ok().map(|_| out)
    };
    let found = match encoding {
        "gzip" => vec![all(&mut MultiGzDecoder::new(body))],
        "zlib" | "deflate" => vec![all(&mut ZlibDecoder::new(body)), all(&mut DeflateDecoder::new(body))],
        // There is no other decoder of it at hand.
        "snappy" | "x-snappy-framed" => Vec::new(),
        "zstd" => vec![zstd::Decoder::new(body).ok().and_then(|mut from| all(&mut from))],
        _ => vec![Some(body.to_vec())],
    };
    found.into_iter().flatten().collect()
}
