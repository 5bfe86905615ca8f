//! A collector that misbehaves on command and remembers what it took.
//!
//! ```text
//! Script: times(3, 503) · lasting(10 min, Refuse) · then Accept     rules: poison · max_items · 404 for logs
//!            │
//!            ▼
//! Collector::answer(now, request) ─▶ Answer { status, headers, body, manner }      (core: no clock, no socket)
//!     │ took it: Tally                        │
//!     ▼ saw it: Seen                          ▼
//!                               FarEnd: a real socket, HTTP/1.1 (socket.rs) and gRPC (grpc.rs)
//! ```
//!
//! What always holds: an item is in the tally exactly when the collector took it, whether the sender was told or not.

mod grpc;
pub mod ids;
mod script;
mod socket;

pub use script::{Act, Lasts, Script, Step};
pub use socket::FarEnd;

use super::console::{self, Console};
use super::numbered::{Mark, numbers};
use super::platform::Platform;
use super::tally::Tally;
use super::wire::put_varint;
use crate::otlp::Signal;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use prost::Message as _;
use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::time::Duration;
use tokio::time::Instant;

/// The metric of a gap report that counts.
pub const LOST: &str = "tfo.agent.lost";
/// Where an upload bears its id.
pub const UPLOAD_ID: &str = "x-tfo-upload-id";
/// Most a body may inflate to: 64 MiB, what OTLP recommends to servers (opentelemetry-proto, docs/specification.md).
pub const INFLATED_MAX: usize = 64 << 20;
/// Requests remembered in [`Collector::seen`]; older ones live on in the counts.
pub const SEEN_MAX: usize = 10_000;

/// What came in.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `POST`.
    pub method: String,
    /// `/v1/logs`.
    pub path: String,
    /// As sent.
    pub headers: Vec<(String, String)>,
    /// As sent, compressed or not.
    pub body: Bytes,
}

impl Request {
    /// The first header of that name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// What goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// HTTP headers, without Content-Length.
    pub headers: Vec<(String, String)>,
    /// HTTP body.
    pub body: Vec<u8>,
    /// How it goes out, if it does.
    pub manner: Manner,
}

/// How an answer goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Now.
    AtOnce,
    /// After a while.
    After(Duration),
    /// Never: the connection stays open and silent.
    Never,
    /// No answer, the connection is reset.
    Reset,
    /// No answer, the request alone is reset, with this code of HTTP/2.
    ResetStream(u32),
    /// The head and half of the body, then a reset.
    ResetMidAnswer,
    /// There was no connection.
    Refused,
}

/// What the collector remembers of one request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Of what; `None` when the path named none.
    pub signal: Option<Signal>,
    /// `/v1/logs`.
    pub path: String,
    /// Status of the answer, sent or not.
    pub status: u16,
    /// How it went out.
    pub manner: Manner,
    /// Items in it, when it was looked into.
    pub items: u64,
    /// Items taken.
    pub taken: u64,
    /// Length of the body as sent.
    pub wire_bytes: u64,
    /// Length of the body inflated, when it was looked into.
    pub raw_bytes: u64,
    /// xxh3 of the request in protobuf, when it was looked into.
    pub digest: u64,
    /// The upload's id.
    pub upload_id: Option<String>,
    /// All headers.
    pub headers: Vec<(String, String)>,
}

impl Seen {
    /// The first header of that name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// Sums over all requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests seen.
    pub requests: u64,
    /// Requests taken, whole or in part.
    pub taken: u64,
    /// Items taken, duplicates included.
    pub items: u64,
    /// Items rejected by partial success.
    pub rejected: u64,
    /// Body bytes as sent.
    pub wire_bytes: u64,
    /// Body bytes inflated, of the requests taken.
    pub raw_bytes: u64,
}

/// The collector without its socket.
#[derive(Debug, Default)]
pub struct Collector {
    script: Script,
    counts: Counts,
    seen: VecDeque<Seen>,
    tally: Tally,
    told: Losses,
    platform: Platform,
    console: Console,
    /// What was taken, where it goes by the ids of uploads.
    taken: Option<ids::Taken>,
    again: Again,
}

/// Uploads that came again, where the far end goes by their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Again {
    /// Known already, answered with success and not taken.
    pub known: u64,
    /// Known in part, and refused with 422.
    pub in_part: u64,
}

/// What gap reports said, by the spool's name, exporter, lane and reason.
pub type Losses = BTreeMap<[String; 4], u64>;

impl Collector {
    /// Behaves as `script` says.
    #[must_use]
    pub fn new(script: Script) -> Collector {
        Collector { script, ..Collector::default() }
    }

    /// Behaves as another script says from now on; what it took stays taken.
    pub fn play(&mut self, script: Script) {
        self.script = script;
    }

    /// The books of what it took; the test enters what was acknowledged here too.
    pub fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Whom it tells of agents.
    pub fn platform(&mut self) -> &mut Platform {
        &mut self.platform
    }

    /// Who manages agents.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// From now on what was taken is not taken again (`docs/upload-id.md`).
    pub fn go_by_ids(&mut self) {
        self.taken.get_or_insert_default();
    }

    /// Uploads that came again since it goes by their ids.
    #[must_use]
    pub fn again(&self) -> Again {
        self.again
    }

    /// Sums.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What the gap reports that it took said last.
    #[must_use]
    pub fn told(&self) -> &Losses {
        &self.told
    }

    /// The last [`SEEN_MAX`] requests, oldest first.
    pub fn seen(&self) -> impl DoubleEndedIterator<Item = &Seen> {
        self.seen.iter()
    }

    /// Is a host there at all, and when could that change by itself?
    pub fn listening(&mut self, now: Instant) -> (bool, Option<Instant>) {
        self.script.listening(now)
    }

    /// Asked after the head of a request: is its body to be cut off in the middle? Uses up the step's request if so.
    pub fn cuts_the_body(&mut self, now: Instant) -> bool {
        let cut = self.script.act(now) == Act::ResetMidRequest;
        if cut {
            self.script.used(now);
            self.counts.requests += 1;
        }
        cut
    }

    /// What becomes of `request`.
    pub fn answer(&mut self, now: Instant, request: &Request) -> Answer {
        let act = self.script.act(now);
        self.script.used(now);
        let signal = Signal::ALL.into_iter().find(|s| is_at(*s, &request.path));
        let (answer, looked) = match signal {
            None if request.path.starts_with("/api/") => match act {
                Act::Accept => (self.platform.api(now, request), Looked::default()),
                act => self.perform(now, act, Signal::Metrics, request),
            },
            None if request.path == console::PATH => match act {
                Act::Accept => (self.console.answer(request), Looked::default()),
                act => self.perform(now, act, Signal::Metrics, request),
            },
            _ if request.method != "POST" => {
                (text(405, "405 method not allowed, supported: [POST]"), Looked::default())
            }
            None => (text(404, "404 page not found\n"), Looked::default()),
            Some(signal) => self.perform(now, self.script.act_for(signal, act), signal, request),
        };
        self.remember(signal, request, &answer, looked);
        answer
    }

    fn perform(&mut self, now: Instant, act: Act, signal: Signal, request: &Request) -> (Answer, Looked) {
        let unlooked = |answer| (answer, Looked::default());
        let silent = |manner| unlooked(Answer { status: 0, headers: Vec::new(), body: Vec::new(), manner });
        match act {
            Act::Accept => self.take(now, signal, request, 0, ""),
            Act::Slow(pause) => {
                let (answer, looked) = self.take(now, signal, request, 0, "");
                (Answer { manner: Manner::After(pause), ..answer }, looked)
            }
            Act::Partial { rejected, message } => self.take(now, signal, request, rejected, &message),
            Act::TakeAndReset => {
                let (answer, looked) = self.take(now, signal, request, 0, "");
                (Answer { manner: Manner::Reset, ..answer }, looked)
            }
            Act::ResetMidAnswer => {
                // A warning makes the body long enough to be cut in half.
                let (answer, looked) = self.take(now, signal, request, 0, "this answer will not arrive whole");
                (Answer { manner: Manner::ResetMidAnswer, ..answer }, looked)
            }
            Act::Status { code, retry_after, message } => {
                let mut answer = status(code, &message);
                answer.headers.extend(retry_after.map(|value| ("Retry-After".to_owned(), value)));
                unlooked(answer)
            }
            Act::Grpc { code, after, message } => {
                let headers = grpc::head(code, &message, after);
                unlooked(Answer { status: 200, headers, body: Vec::new(), manner: Manner::AtOnce })
            }
            Act::Verbatim { code, content_type, body } => {
                let headers = content_type.map(|value| ("Content-Type".to_owned(), value)).into_iter().collect();
                unlooked(Answer { status: code, headers, body, manner: Manner::AtOnce })
            }
            Act::Redirect { code, to } => {
                let headers = vec![("Location".to_owned(), to)];
                unlooked(Answer { status: code, headers, body: Vec::new(), manner: Manner::AtOnce })
            }
            Act::Portal => unlooked(Answer {
                status: 200,
                headers: vec![("Content-Type".to_owned(), "text/html; charset=utf-8".to_owned())],
                body: b"<!doctype html><title>Welcome aboard</title>Please sign in to use the ship's network.".to_vec(),
                manner: Manner::AtOnce,
            }),
            Act::Hang => silent(Manner::Never),
            Act::ResetMidRequest => silent(Manner::Reset),
            Act::ResetStream(reason) => silent(Manner::ResetStream(reason)),
            Act::Refuse => silent(Manner::Refused),
        }
    }

    /// Takes all items but the last `rejected`, unless a rule speaks against it.
    fn take(
        &mut self,
        now: Instant,
        signal: Signal,
        request: &Request,
        rejected: u64,
        message: &str,
    ) -> (Answer, Looked) {
        let mut looked = Looked::default();
        let raw = match inflate(signal, request) {
            Ok(raw) => raw,
            Err(answer) => return (answer, looked),
        };
        looked.raw_bytes = raw.len() as u64;
        looked.digest = xxhash_rust::xxh3::xxh3_64(&raw);
        if signal == Signal::Metrics && self.platform.noted(now, request, &raw) {
            return (success(0, message), looked); // it is no data
        }
        let mut marks = Vec::new();
        if numbers(signal, &raw, |mark| marks.push(mark)).is_err() {
            return (status(400, "body is not an OTLP request"), looked);
        }
        looked.items = marks.len() as u64;
        if let Some(answer) = self.script.objection(signal, &marks, raw.len()) {
            return (answer, looked);
        }
        let id = self.taken.as_ref().and_then(|_| ids::UploadId::parse(request.header(UPLOAD_ID)?));
        if let Some((id, taken)) = id.as_ref().zip(self.taken.as_mut()) {
            match taken.look(id) {
                ids::Seen::New => taken.enter(id),
                ids::Seen::Before => {
                    self.again.known += 1;
                    return (success(0, ""), looked);
                }
                ids::Seen::InPart => {
                    self.again.in_part += 1;
                    return (status(422, "some of this was taken before; send it in halves"), looked);
                }
            }
        }
        let rejected = rejected.min(looked.items);
        looked.taken = looked.items - rejected;
        self.counts.taken += 1;
        self.counts.items += looked.taken;
        self.counts.rejected += rejected;
        self.counts.raw_bytes += looked.raw_bytes;
        for mark in &marks[..usize::try_from(looked.taken).expect("they are in memory")] {
            self.tally.arrived(signal, *mark);
        }
        if signal == Signal::Metrics && marks.iter().all(Option::is_none) {
            self.told.extend(losses(&raw));
        }
        (success(rejected, message), looked)
    }

    fn remember(&mut self, signal: Option<Signal>, request: &Request, answer: &Answer, looked: Looked) {
        self.counts.requests += 1;
        self.counts.wire_bytes += request.body.len() as u64;
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(Seen {
            signal,
            path: request.path.clone(),
            status: answer.status,
            manner: answer.manner,
            items: looked.items,
            taken: looked.taken,
            wire_bytes: request.body.len() as u64,
            raw_bytes: looked.raw_bytes,
            digest: looked.digest,
            upload_id: request.header(UPLOAD_ID).map(str::to_owned),
            headers: request.headers.clone(),
        });
    }
}

/// The counts of a gap report; nothing of other metrics.
fn losses(raw: &[u8]) -> Losses {
    let export = ExportMetricsServiceRequest::decode(raw).unwrap_or_default();
    let text =
        |attributes: &[KeyValue], key: &str| match attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value {
            Some(any_value::Value::StringValue(ref text)) => Some(text.clone()),
            _ => None,
        };
    let mut losses = Losses::new();
    for of_resource in &export.resource_metrics {
        let resource = of_resource.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
        let metrics = of_resource.scope_metrics.iter().flat_map(|scope| &scope.metrics);
        for metric in metrics.filter(|metric| metric.name == LOST) {
            let Some(metric::Data::Sum(sum)) = &metric.data else { continue };
            for point in &sum.data_points {
                let of = |key: &str| text(&point.attributes, key).unwrap_or_default();
                let spool = text(resource, "service.instance.id").unwrap_or_default();
                let Some(number_data_point::Value::AsInt(items)) = point.value else { continue };
                let key = [spool, of("exporter"), of("lane"), of("reason")];
                losses.insert(key, u64::try_from(items).unwrap_or_default());
            }
        }
    }
    losses
}

/// What a look into a body told.
#[derive(Debug, Default, Clone, Copy)]
struct Looked {
    items: u64,
    taken: u64,
    raw_bytes: u64,
    digest: u64,
}

/// Over HTTP and over gRPC.
fn is_at(signal: Signal, path: &str) -> bool {
    let service = match signal {
        Signal::Traces => "trace.v1.TraceService",
        Signal::Metrics => "metrics.v1.MetricsService",
        Signal::Logs => "logs.v1.LogsService",
    };
    path.strip_prefix("/v1/") == Some(signal.name())
        || path.strip_prefix("/opentelemetry.proto.collector.").and_then(|at| at.strip_suffix("/Export"))
            == Some(service)
}

/// The request in protobuf.
fn inflate(signal: Signal, request: &Request) -> Result<Bytes, Answer> {
    let kind = request.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let (header, body) = match kind.to_ascii_lowercase().as_str() {
        "application/grpc" => match request.body.split_at_checked(5) {
            Some((&[flag @ (0 | 1), ..], message)) => {
                ((flag == 1).then_some("grpc-encoding"), request.body.slice_ref(message))
            }
            _ => return Err(status(400, "body has no message of gRPC")),
        },
        "application/x-protobuf" | "application/json" => (Some("content-encoding"), request.body.clone()),
        _ => {
            return Err(text(415, "415 unsupported media type, supported: [application/x-protobuf, application/json]"));
        }
    };
    let raw = match header.and_then(|header| request.header(header)) {
        None | Some("" | "identity") => body,
        Some(name) => {
            let read: Box<dyn std::io::Read + '_> = match name {
                "gzip" => Box::new(flate2::read::GzDecoder::new(&body[..])),
                "zlib" | "deflate" => Box::new(flate2::read::ZlibDecoder::new(&body[..])),
                "snappy" => Box::new(snap::read::FrameDecoder::new(&body[..])),
                "zstd" => Box::new(
                    ruzstd::decoding::StreamingDecoder::new(&body[..]).map_err(|_| status(400, "body is not zstd"))?,
                ),
                other => return Err(status(400, &format!("unsupported Content-Encoding: {other}"))),
            };
            let mut raw = Vec::new();
            match read.take(INFLATED_MAX as u64 + 1).read_to_end(&mut raw) {
                Ok(_) if raw.len() > INFLATED_MAX => return Err(status(413, "body inflates to more than 64 MiB")),
                Ok(_) => raw.into(),
                Err(_) => return Err(status(400, &format!("body is not {name}"))),
            }
        }
    };
    if kind.eq_ignore_ascii_case("application/json") {
        return match crate::otlp::from_json(signal, &raw) {
            Ok(request) => Ok(request.into()),
            Err(why) => Err(status(400, &why.to_string())),
        };
    }
    Ok(raw)
}

fn text(code: u16, body: &str) -> Answer {
    let headers = vec![("Content-Type".to_owned(), "text/plain".to_owned())];
    Answer { status: code, headers, body: body.into(), manner: Manner::AtOnce }
}

fn protobuf(status: u16, body: Vec<u8>) -> Answer {
    let headers = vec![("Content-Type".to_owned(), "application/x-protobuf".to_owned())];
    Answer { status, headers, body, manner: Manner::AtOnce }
}

/// `Export…ServiceResponse { partial_success { rejected, error_message } }`, the same fields in all three; `0A 00`
/// on full success, as the Go collector sends it.
fn success(rejected: u64, message: &str) -> Answer {
    let mut partial = Vec::new();
    if rejected > 0 {
        partial.push(0x08);
        put_varint(&mut partial, rejected);
    }
    put_text(&mut partial, 0x12, message);
    let mut body = vec![0x0a];
    put_varint(&mut body, partial.len() as u64);
    body.extend(partial);
    protobuf(200, body)
}

/// `google.rpc.Status { code, message }` with the gRPC code nearest to the HTTP one.
pub(crate) fn status(code: u16, message: &str) -> Answer {
    let grpc = match code {
        400 | 413 => 3_u8,
        401 => 16,
        403 => 7,
        404 => 12,
        429 => 8,
        502..=504 => 14,
        _ => 2,
    };
    let mut body = vec![0x08, grpc];
    put_text(&mut body, 0x12, message);
    protobuf(code, body)
}

fn put_text(out: &mut Vec<u8>, tag: u8, text: &str) {
    if !text.is_empty() {
        out.push(tag);
        put_varint(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
}

/// A request as an exporter would send it: for tests that need no socket.
#[must_use]
pub fn post(signal: Signal, raw: &[u8]) -> Request {
    Request {
        method: "POST".to_owned(),
        path: format!("/v1/{signal}"),
        headers: vec![("Content-Type".to_owned(), "application/x-protobuf".to_owned())],
        body: Bytes::copy_from_slice(raw),
    }
}

/// Does the script's rule about one item object?
fn bears(marks: &[Option<Mark>], mark: Mark) -> bool {
    marks.contains(&Some(mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbered::{Numbered, Source};
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;

    const SOURCE: Source = Source(1);

    fn logs(items: u32) -> Request {
        post(Signal::Logs, &Numbered::new(Signal::Logs, SOURCE).request(items).bytes)
    }

    fn statuses(collector: &mut Collector, requests: usize) -> Vec<u16> {
        (0..requests).map(|_| collector.answer(Instant::now(), &logs(10)).status).collect()
    }

    #[test]
    fn a_script_is_played_by_requests_and_what_is_refused_is_not_taken() {
        let script = Script::new().times(2, Act::status(503)).times(1, Act::status(429).retry_after(7));
        let mut collector = Collector::new(script);
        assert_eq!(statuses(&mut collector, 5), [503, 503, 429, 200, 200]);
        let third = collector.seen().nth(2).expect("seen").clone();
        assert_eq!((third.status, third.taken), (429, 0));
        assert_eq!((collector.tally().arrivals(Signal::Logs), collector.tally().report().duplicated()), (10, 10));
        assert_eq!((collector.counts().requests, collector.counts().taken), (5, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_script_is_played_by_time() {
        let minute = Duration::from_secs(60);
        let script = Script::new().lasting(10 * minute, Act::Refuse).lasting(minute, Act::status(503));
        let mut collector = Collector::new(script);
        let start = Instant::now();
        assert_eq!(collector.listening(start), (false, Some(start + 10 * minute)));
        assert_eq!(collector.answer(Instant::now(), &logs(1)).manner, Manner::Refused);
        tokio::time::advance(10 * minute).await;
        assert!(collector.listening(Instant::now()).0);
        assert_eq!(statuses(&mut collector, 2), [503, 503]);
        tokio::time::advance(minute).await;
        assert_eq!(statuses(&mut collector, 1), [200]);
    }

    #[test]
    fn rules_object_to_what_is_in_a_request() {
        let guilty = Mark { source: SOURCE, seq: 4 };
        let script = Script::new()
            .poison(Signal::Logs, guilty)
            .max_items(20)
            .max_bytes(100_000)
            .for_signal(Signal::Traces, Act::status(404));
        let mut collector = Collector::new(script);
        let at =
            |seq, items| post(Signal::Logs, &Numbered::new(Signal::Logs, SOURCE).starting_at(seq).request(items).bytes);
        let mut status = |request: &Request| collector.answer(Instant::now(), request).status;
        assert_eq!(status(&at(0, 4)), 200);
        assert_eq!(status(&at(0, 5)), 400);
        assert_eq!(status(&at(5, 20)), 200);
        assert_eq!(status(&at(5, 21)), 413);
        assert_eq!(status(&post(Signal::Traces, &[])), 404);
        assert!(!collector.tally().has(Signal::Logs, guilty));
        collector.play(Script::new().max_bytes(3_000));
        assert_eq!(collector.answer(Instant::now(), &at(5, 10)).status, 413);
    }

    #[test]
    fn partial_success_takes_all_but_the_last_items_and_says_so() {
        let mut collector = Collector::new(Script::new().always(Act::partial(3, "too old")));
        let answer = collector.answer(Instant::now(), &logs(10));
        let decoded = ExportLogsServiceResponse::decode(&answer.body[..]).expect("a response");
        let partial = decoded.partial_success.expect("told");
        assert_eq!((partial.rejected_log_records, &partial.error_message[..]), (3, "too old"));
        assert_eq!((collector.tally().arrivals(Signal::Logs), collector.counts().rejected), (7, 3));
        assert!(!collector.tally().has(Signal::Logs, Mark { source: SOURCE, seq: 7 }));
    }

    #[test]
    fn what_is_no_otlp_is_refused_as_a_collector_does() {
        let mut collector = Collector::default();
        let mut status = |request: &Request| collector.answer(Instant::now(), request).status;
        let good = logs(1);
        let with = |name: &str, value: &str| {
            let mut request = good.clone();
            request.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
            request.headers.push((name.to_owned(), value.to_owned()));
            request
        };
        assert_eq!(status(&Request { method: "GET".into(), ..good.clone() }), 405);
        assert_eq!(status(&Request { path: "/v1/log".into(), ..good.clone() }), 404);
        assert_eq!(status(&with("content-type", "application/json")), 400);
        assert_eq!(status(&with("content-type", "text/plain")), 415);
        assert_eq!(status(&with("content-type", "Application/X-Protobuf; charset=x")), 200);
        assert_eq!(status(&with("content-encoding", "snappy")), 400);
        assert_eq!(status(&with("content-encoding", "gzip")), 400);
        assert_eq!(status(&Request { body: Bytes::from_static(b"\xff\xff"), ..good.clone() }), 400);
    }

    /// Goal: 64 MiB of zeros in 65 kB do not become 64 MiB here.
    #[test]
    fn a_bomb_is_refused() {
        let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::fastest());
        let raw = vec![0; INFLATED_MAX + 1];
        let mut bomb = vec![0; compressor.gzip_compress_bound(raw.len())];
        let len = compressor.gzip_compress(&raw, &mut bomb).expect("the bound is enough");
        let mut request = logs(1);
        request.headers.push(("Content-Encoding".into(), "gzip".into()));
        request.body = Bytes::copy_from_slice(&bomb[..len]);
        assert_eq!(Collector::default().answer(Instant::now(), &request).status, 413);
    }
}
