//! Bytes as they reach the OTLP/gRPC service, in any pieces: what is taken is what was sent, what is refused says why,
//! and nothing is held afterwards.
//!
//! ```text
//! [signal] [grpc-encoding] [shape] [size of the pieces] [limit] [the store's answer]  message…
//! ```
#![no_main]

mod door;

use bytes::Bytes;
use door::{Answer, Door, deflated, inflated, is_request, message};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use libfuzzer_sys::fuzz_target;
use std::convert::Infallible;
use tfo_otel_agent::base::Bytes as Size;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::receivers::otlp::config::GrpcConfig;
use tfo_otel_agent::receivers::otlp::grpc::OtlpGrpc;
use tfo_otel_agent::telemetry::{Metrics, ReceiverMetrics};
use tonic::body::Body;
use tower_service::Service as _;

const PATHS: [(&str, Signal); 3] = [
    ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", Signal::Traces),
    ("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", Signal::Metrics),
    ("/opentelemetry.proto.collector.logs.v1.LogsService/Export", Signal::Logs),
];
const ENCODINGS: [&str; 7] = ["identity", "gzip", "deflate", "zstd", "snappy", "br", ""];
const TAKEN: [&str; 5] = ["identity", "gzip", "deflate", "zstd", "snappy"];
const LIMITS: [usize; 4] = [64, 1 << 10, 64 << 10, 4 << 20];

thread_local! {
    static DOOR: (Door, [OtlpGrpc; 4]) = {
        let door = Door::open();
        let counts = ReceiverMetrics::new(&Metrics::detached(), "otlp", "grpc");
        let service = |max: usize| {
            let config = GrpcConfig { max_recv_msg_size: Size(max as u64), ..GrpcConfig::default() };
            OtlpGrpc::new(&config, None, door.intake.clone(), counts.clone())
        };
        let services = LIMITS.map(service);
        (door, services)
    };
}

fuzz_target!(|data: &[u8]| {
    let Some(([signal, encoding, shape, size, limit, answer], rest)) = data.split_first_chunk() else { return };
    let (path, signal) = PATHS[usize::from(*signal) % 3];
    let encoding = ENCODINGS[usize::from(*encoding) % ENCODINGS.len()];
    let (max, answer) = (LIMITS[usize::from(*limit & 3)], Answer::of(*answer));
    let raw = message(*shape, signal, rest);
    // The body of the call, and the message in it where it is whole and known.
    let (sent, whole) = match shape >> 2 & 3 {
        0 => (raw, None), // five bytes and a message, or not
        1 => (framed(0, &raw), Some(raw)),
        2 => match deflated(encoding, &raw) {
            Some(packed) if packed.len() <= max => (framed(1, &packed), Some(raw)),
            _ => (framed(1, &raw), None),
        },
        _ => (framed(shape >> 4, &raw), None),
    };
    let size = if *size == 0 { sent.len().max(1) } else { usize::from(*size) };
    let pieces: Vec<_> =
        sent.chunks(size).map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    let body = Body::new(StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync());
    let mut request = http::Request::post(path).header("content-type", "application/grpc");
    if !encoding.is_empty() {
        request = request.header("grpc-encoding", encoding);
    }
    let request = request.body(body).expect("a request");

    DOOR.with(|(door, services)| {
        door.expect(answer);
        let mut service = services[usize::from(*limit & 3)].clone();
        let code = door.runtime.block_on(async {
            let response = service.call(request).await.expect("it does not fail");
            assert_eq!(response.status(), 200);
            let told = response.headers().get("grpc-status").cloned();
            let trailers = response.into_body().collect().await.expect("it is in memory").trailers().cloned();
            let told = told.or_else(|| trailers.and_then(|trailers| trailers.get("grpc-status").cloned()));
            told.and_then(|code| code.to_str().ok()?.parse::<i32>().ok()).expect("every call has a status")
        });
        let offered = door.settle(signal, max);
        let is_known = encoding.is_empty() || TAKEN.contains(&encoding);
        assert!(is_known || code == 12, "{encoding} is not known, and answered with {code}");
        assert!([0, 3, 8, 12, 13, 14].contains(&code), "{code}");
        assert!(code != 14 || answer == Answer::Later, "nobody else is here, and nothing is slow");
        assert!(code == 0 || offered.is_none() || answer != Answer::Kept, "{code} for what was kept");
        if let Some(whole) = whole.filter(|whole| is_known && whole.len() <= max) {
            match is_request(signal, &whole) {
                Some(true) => assert_eq!((offered.as_deref(), code == 0), (Some(&whole[..]), answer == Answer::Kept)),
                Some(false) => assert_eq!((offered, code), (None, 0)),
                None => assert!(offered.is_none() && matches!(code, 3 | 8), "{code}"),
            }
        } else if let Some(taken) = offered {
            // By another reading of the same bytes.
            let (head, packed) = sent.split_first_chunk::<5>().expect("a message has a head");
            assert!(head[0] <= 1 && u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize == packed.len());
            let others = if head[0] == 1 { inflated(encoding, packed, max) } else { vec![packed.to_vec()] };
            assert!(others.is_empty() || others.contains(&taken.to_vec()), "{encoding}: others read it otherwise");
        }
    });
});

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).expect("the fuzzer makes no such input").to_be_bytes();
    [&[flag], &len[..], message].concat()
}
