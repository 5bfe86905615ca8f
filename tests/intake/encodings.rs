//! What bodies may be compressed with, and that none of it gets round a limit.

use super::answers::{client, gzip, header, logs};
use super::rig::{PATIENCE, PROTOBUF, Rig};
use flate2::Compression;
use flate2::write::{DeflateEncoder, ZlibEncoder};
use std::io::Write as _;
use tfo_otel_agent::otlp::{Signal, Status};
use tfo_otel_agent::testing::{Numbered, Source};
use tonic::codec::CompressionEncoding;
use tonic::{Code, IntoRequest as _};

fn zlib(raw: &[u8]) -> Vec<u8> {
    let mut to = ZlibEncoder::new(Vec::new(), Compression::fast());
    to.write_all(raw).and_then(|()| to.finish()).expect("memory takes it")
}

fn deflate(raw: &[u8]) -> Vec<u8> {
    let mut to = DeflateEncoder::new(Vec::new(), Compression::fast());
    to.write_all(raw).and_then(|()| to.finish()).expect("memory takes it")
}

fn zstd(raw: &[u8]) -> Vec<u8> {
    zstd::encode_all(raw, 3).expect("memory takes it")
}

fn snappy(raw: &[u8]) -> Vec<u8> {
    let mut to = snap::write::FrameEncoder::new(Vec::new());
    to.write_all(raw).expect("memory takes it");
    to.into_inner().expect("memory takes it")
}

fn block(raw: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(raw).expect("memory takes it")
}

type Encode = fn(&[u8]) -> Vec<u8>;

/// As it is named over HTTP, and made. Go's `deflate` is zlib's; other languages send the raw form. Collectors' `snappy` is
/// framed or a block, as old as they are.
const HTTP: [(&str, Encode); 8] = [
    ("gzip", gzip),
    ("zlib", zlib),
    ("deflate", zlib),
    ("deflate", deflate),
    ("zstd", zstd),
    ("snappy", snappy),
    ("x-snappy-framed", snappy),
    ("snappy", block),
];

#[actix::test]
async fn every_content_encoding_of_a_collector_is_taken_and_what_was_in_it_arrives() {
    let rig = Rig::plain().await;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    for (name, encode) in HTTP {
        let request = numbered.request(500);
        rig.far_end.with(|c| c.tally().issued(Signal::Logs, Source(1), request.seqs.clone()));
        let headers = [("content-type", PROTOBUF), ("content-encoding", name)];
        let answer = rig.post("/v1/logs", &headers, encode(&request.bytes)).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-encoding").as_str()), (200, ""), "{name}");
        rig.far_end.with(|c| c.tally().acknowledged(Signal::Logs, Source(1), request.seqs.clone()));
    }
    assert!(rig.far_end.until(PATIENCE, |c| c.tally().report().lost() == 0).await, "{:?}", rig.far_end.report());
    assert_eq!(rig.number("otelcol_receiver_accepted_log_records", &["transport=\"http\""]).await, 4_000.0);
}

/// Goal: no compression makes a body larger than one may be, and none makes a client come back with it.
#[actix::test]
async fn a_bomb_is_413_and_a_broken_body_400_whatever_it_is_compressed_with() {
    let rig = Rig::plain().await;
    let zeros = vec![0; 21 << 20];
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 0xff, 1, 0, 0].to_vec(); // 9 bytes that ask for 3.75 TiB
    let bombs = HTTP.map(|(name, encode)| (name, encode(&zeros), 413, 8));
    let broken = HTTP.map(|(name, _)| (name, b"\xffwhat?".to_vec(), 400, 3));
    for (name, body, status, code) in bombs.into_iter().chain(broken).chain([("zstd", window, 400, 3)]) {
        let answer = rig.post("/v1/logs", &[("content-type", PROTOBUF), ("content-encoding", name)], body).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "retry-after").as_str()), (status, ""), "{name}");
        assert_eq!(Status::decode(&answer.bytes().await.expect("a body")).expect("a Status").code, code, "{name}");
    }
}

/// tonic's clients send three of the four; identity is in `answers.rs`.
#[actix::test]
async fn every_grpc_encoding_is_taken_and_is_no_way_round_the_limit() {
    let rig = Rig::plain().await;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    let large = logs(&numbered.request(30_000).bytes);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate, CompressionEncoding::Zstd] {
        let mut client = client(&rig).await.send_compressed(encoding);
        let request = numbered.request(300);
        rig.far_end.with(|c| c.tally().issued(Signal::Logs, Source(1), request.seqs.clone()));
        client.export(logs(&request.bytes).into_request()).await.expect("taken");
        rig.far_end.with(|c| c.tally().acknowledged(Signal::Logs, Source(1), request.seqs.clone()));
        let refused = client.export(large.clone().into_request()).await.expect_err("more than 4 MiB");
        assert_eq!((refused.code(), refused.details()), (Code::ResourceExhausted, &[][..]), "{encoding:?}: {refused}");
    }
    let acknowledged = |c: &mut tfo_otel_agent::testing::far_end::Collector| c.counts().items == 900;
    assert!(rig.far_end.until(PATIENCE, acknowledged).await, "{:?}", rig.far_end.report());
}

#[actix::test]
async fn a_grpc_encoding_nobody_has_is_answered_with_those_that_are_taken() {
    let rig = Rig::plain().await;
    let h2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");
    let url = format!("{}/opentelemetry.proto.collector.logs.v1.LogsService/Export", rig.at("otlp/grpc"));
    let call = |encoding: &'static str, packed: &[u8]| {
        let len = u32::try_from(packed.len()).expect("short").to_be_bytes();
        let request = h2.post(&url).header("content-type", "application/grpc").header("grpc-encoding", encoding);
        request.body([&[1], &len[..], packed].concat()).send()
    };
    let answer = call("lz4", &[0]).await.expect("an answer");
    assert_eq!(header(&answer, "grpc-status"), "12");
    assert_eq!(header(&answer, "grpc-accept-encoding"), "identity,gzip,deflate,zstd,snappy");
    // snappy, which tonic's client cannot send and a Collector's exporter can.
    let request = Numbered::new(Signal::Logs, Source(1)).request(7);
    let taken = call("snappy", &snappy(&request.bytes)).await.expect("an answer");
    assert_eq!((taken.status().as_u16(), header(&taken, "grpc-status").as_str()), (200, ""), "OK is in the trailers");
    let bomb = call("snappy", &snappy(&vec![0; 5 << 20])).await.expect("an answer");
    assert_eq!(header(&bomb, "grpc-status"), "8");
    let broken = call("snappy", b"\xff\x06\0\0sNaPpY\x00\x01\0\0?").await.expect("an answer");
    assert_eq!(header(&broken, "grpc-status"), "3");
    assert!(rig.far_end.until(PATIENCE, |c| c.counts().items == 7).await, "{:?}", rig.far_end.report());
}
