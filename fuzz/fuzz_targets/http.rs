//! Bodies as they reach the OTLP/HTTP endpoint, in any pieces, encodings and media types: what is taken is what was sent,
//! nothing grows beyond its limit, and nothing is held afterwards.
//!
//! ```text
//! [signal] [content-encoding] [content-type] [shape] [size of the pieces] [limit] [the store's answer]  body…
//! ```
#![no_main]

mod door;

use actix_web::error::PayloadError;
use actix_web::test::TestRequest;
use actix_web::{FromRequest as _, dev, web};
use bytes::Bytes;
use door::{Answer, Door, deflated, inflated, is_request, message};
use futures_util::StreamExt as _;
use libfuzzer_sys::fuzz_target;
use tfo_otel_agent::base::Bytes as Size;
use tfo_otel_agent::otlp::{Signal, from_json};
use tfo_otel_agent::receivers::otlp::config::HttpConfig;
use tfo_otel_agent::receivers::otlp::http::OtlpHttp;
use tfo_otel_agent::telemetry::{Metrics, ReceiverMetrics};

const PATHS: [(&str, Signal); 3] =
    [("/v1/traces", Signal::Traces), ("/v1/metrics", Signal::Metrics), ("/v1/logs", Signal::Logs)];
const ENCODINGS: [&str; 9] = ["", "gzip", "zlib", "deflate", "zstd", "snappy", "x-snappy-framed", "identity", "br"];
const TAKEN: usize = 7;
const MEDIA: [&str; 5] =
    ["application/x-protobuf", "application/json", "Application/JSON; charset=utf-8", "text/plain", ""];
const LIMITS: [usize; 4] = [64, 1 << 10, 64 << 10, 20 << 20];

thread_local! {
    static DOOR: (Door, [OtlpHttp; 4]) = {
        let door = Door::open();
        let counts = ReceiverMetrics::new(&Metrics::detached(), "otlp", "http");
        let endpoint = |max: usize| {
            let mut config = HttpConfig::default();
            config.server.max_request_body_size = Size(max as u64);
            OtlpHttp::new(&config, door.intake.clone(), counts.clone())
        };
        let endpoints = LIMITS.map(endpoint);
        (door, endpoints)
    };
}

fuzz_target!(|data: &[u8]| {
    let Some(([signal, encoding, media, shape, size, limit, answer], rest)) = data.split_first_chunk() else { return };
    let (path, signal) = PATHS[usize::from(*signal) % 3];
    let encoding = usize::from(*encoding) % ENCODINGS.len();
    let (is_known, encoding) = (encoding < TAKEN, ENCODINGS[encoding]);
    let media = usize::from(*media) % MEDIA.len();
    let (max, answer) = (LIMITS[usize::from(*limit & 3)], Answer::of(*answer));
    let raw = message(*shape, signal, rest);
    // The body, and what is in it where that is whole and known.
    let (sent, whole) = match shape >> 2 & 1 {
        0 => (raw.clone(), encoding.is_empty().then_some(raw)),
        _ => match deflated(encoding, &raw) {
            Some(packed) if packed.len() <= max => (packed, Some(raw)),
            _ => (raw, None),
        },
    };
    let size = if *size == 0 { sent.len().max(1) } else { usize::from(*size) };
    let pieces: Vec<_> = sent.chunks(size).map(|piece| Ok::<_, PayloadError>(Bytes::copy_from_slice(piece))).collect();
    let mut request = TestRequest::post().uri(path);
    for (name, value) in [("content-type", MEDIA[media]), ("content-encoding", encoding)] {
        if !value.is_empty() {
            request = request.insert_header((name, value));
        }
    }
    let request = request.to_http_request();

    DOOR.with(|(door, endpoints)| {
        door.expect(answer);
        let status = door.runtime.block_on(async {
            let pieces = futures_util::stream::iter(pieces).boxed_local();
            let mut payload = dev::Payload::Stream { payload: pieces };
            let body = web::Payload::from_request(&request, &mut payload).await.expect("a payload");
            endpoints[usize::from(*limit & 3)].answer(&request, body, Vec::new()).await.status().as_u16()
        });
        let offered = door.settle(signal, max);
        if media > 2 {
            assert_eq!((status, offered), (415, None));
            return;
        }
        assert!(is_known || status == 400, "{encoding} is not known, and answered with {status}");
        assert!([200, 400, 413, 500, 503].contains(&status), "{status}");
        assert!(status < 500 || matches!(answer, Answer::Later | Answer::Never), "nobody else is here");
        assert!(status == 200 || offered.is_none() || answer != Answer::Kept, "{status} for what was kept");
        // What JSON says is longer or shorter as protobuf, and has a limit of its own there.
        let as_protobuf = |body: Vec<u8>| if media == 0 { Some(body) } else { from_json(signal, &body).ok() };
        if let Some(whole) = whole.filter(|whole| whole.len() <= max) {
            match as_protobuf(whole).filter(|message| message.len() <= max) {
                Some(message) => match is_request(signal, &message) {
                    Some(true) => {
                        assert_eq!((offered.as_deref(), status == 200), (Some(&message[..]), answer == Answer::Kept));
                    }
                    Some(false) => assert_eq!((offered, status), (None, 200)),
                    None => assert!(offered.is_none() && matches!(status, 400 | 413), "{status}"),
                },
                None => assert!(offered.is_none() && matches!(status, 400 | 413), "{status}"),
            }
        } else if let Some(taken) = offered {
            // By another reading of the same bytes.
            let others: Vec<_> = inflated(encoding, &sent, max).into_iter().filter_map(as_protobuf).collect();
            assert!(others.is_empty() || others.contains(&taken.to_vec()), "{encoding}: others read it otherwise");
        }
    });
});
