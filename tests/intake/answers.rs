//! Every answer a client may get (reference §2.2; opentelemetry-proto, docs/specification.md).

use super::rig::{PATIENCE, PROTOBUF, Rig, plain, yaml};
use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use prost::Message as _;
use std::io::Write as _;
use std::time::Duration;
use tfo_otel_agent::otlp::{Signal, Status};
use tfo_otel_agent::testing::{Numbered, Source};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Code, IntoRequest as _};

const JSON: &str = "application/json";
const ONE_RECORD: &str = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"x"}}]}]}]}"#;

pub(crate) fn gzip(raw: &[u8]) -> Vec<u8> {
    let mut to = GzEncoder::new(Vec::new(), Compression::fast());
    to.write_all(raw).and_then(|()| to.finish()).expect("memory takes it")
}

/// A length-delimited field.
pub(crate) fn field(number: u8, inner: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut len = inner.len();
    while len >= 0x80 {
        out.push(u8::try_from(len & 0x7f).expect("seven bits") | 0x80);
        len >>= 7;
    }
    out.push(u8::try_from(len).expect("seven bits"));
    out.extend_from_slice(inner);
    out
}

pub(crate) fn header(answer: &reqwest::Response, name: &str) -> String {
    answer.headers().get(name).map(|v| v.to_str().expect("ASCII").to_owned()).unwrap_or_default()
}

/// Every encoding and every signal is taken, answered as the original answers, and arrives.
#[actix::test]
async fn what_is_sent_over_http_is_acknowledged_in_its_own_form_and_arrives() {
    let rig = Rig::plain().await;
    for signal in Signal::ALL {
        let mut numbered = Numbered::new(signal, Source(1));
        for zipped in [false, true] {
            let request = numbered.request(5);
            rig.far_end.with(|c| c.tally().issued(signal, Source(1), request.seqs.clone()));
            let body = if zipped { gzip(&request.bytes) } else { request.bytes };
            let encoding = zipped.then_some(("content-encoding", "gzip"));
            let headers: Vec<_> = [("content-type", PROTOBUF)].into_iter().chain(encoding).collect();
            let answer = rig.post(&format!("/v1/{signal}"), &headers, body).await;
            assert_eq!((answer.status().as_u16(), header(&answer, "content-type").as_str()), (200, PROTOBUF));
            assert_eq!(answer.bytes().await.expect("a body")[..], [0x0a, 0x00]);
            rig.far_end.with(|c| c.tally().acknowledged(signal, Source(1), request.seqs.clone()));
        }
    }
    let answer = rig.post("/v1/logs", &[("content-type", "application/json; charset=utf-8")], ONE_RECORD.into()).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "content-type").as_str()), (200, JSON));
    assert_eq!(answer.text().await.expect("a body"), r#"{"partialSuccess":{}}"#);
    let whole = |c: &mut tfo_otel_agent::testing::far_end::Collector| {
        c.tally().report().lost() == 0 && c.tally().unnumbered(Signal::Logs) == 1
    };
    assert!(rig.far_end.until(PATIENCE, whole).await, "{:?}", rig.far_end.report());
    assert_eq!(rig.number("otelcol_receiver_accepted_log_records", &["transport=\"http\""]).await, 11.0);
}

/// Content type, content encoding, path, body; status, code in the body (-1: a text), reason.
type Case = (&'static str, &'static str, &'static str, Vec<u8>, u16, i32, &'static str);

/// What is refused over HTTP, by status, content type and body; none of it touches the series of the original.
#[actix::test]
async fn what_is_refused_over_http_says_why_in_the_form_of_the_request() {
    let rig = Rig::plain().await;
    let bomb = gzip(&vec![0; 21 << 20]);
    let deprecated = [&[0x0a, 8, 0xc2, 0x3e, 5, 0x12, 3, 0x1a, 1, b'x'][..]].concat(); // ResourceLogs.1000
    let crowd = field(1, &field(2, &[0x12, 0].repeat(1_100_000))); // more log records than anybody has in 2 MB
    #[rustfmt::skip]
    let cases: &[Case] = &[
        (PROTOBUF, "",        "/v1/logs",  b"\x0a\x05abc".to_vec(), 400, 3,  "invalid"),
        (JSON,     "",        "/v1/logs",  b"{".to_vec(),           400, 3,  "invalid"),
        (PROTOBUF, "gzip",    "/v1/logs",  b"no gzip".to_vec(),     400, 3,  "invalid"),
        (PROTOBUF, "br",      "/v1/logs",  b"".to_vec(),            400, 3,  "invalid"),
        (PROTOBUF, "gz\u{ef}p", "/v1/logs", b"".to_vec(),           400, 3,  "invalid"),
        (PROTOBUF, "",        "/v1/logs",  deprecated,              400, 3,  "invalid"),
        (PROTOBUF, "",        "/v1/logs",  vec![0; (20 << 20) + 1], 413, 8,  "too_large"),
        (PROTOBUF, "gzip",    "/v1/logs",  bomb,                    413, 8,  "too_large"),
        (PROTOBUF, "",        "/v1/logs",  crowd,                   413, 8,  "too_large"),
        (PROTOBUF, "",        "/v1/other", b"".to_vec(),            404, -1, ""),
        ("text/plain", "",    "/v1/logs",  b"".to_vec(),            415, -1, ""),
    ];
    for (media, encoding, path, body, status, code, reason) in cases {
        let what = format!("{media} {encoding:?} {path} {} bytes", body.len());
        let before = rig.number("tfo_agent_requests_refused", &[&format!("reason=\"{reason}\"")]).await;
        let mut headers = vec![("content-type", *media)];
        if !encoding.is_empty() {
            headers.push(("content-encoding", encoding));
        }
        let answer = rig.post(path, &headers, body.clone()).await;
        assert_eq!(answer.status().as_u16(), *status, "{what}");
        if *status == 404 {
            assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        }
        if *code < 0 {
            continue;
        }
        assert_eq!(header(&answer, "content-type"), *media, "{what}");
        let body = answer.bytes().await.expect("a body");
        let said = if *media == JSON {
            let said: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            (said["code"].as_i64().expect("a code") as i32, said["message"].as_str().expect("a text").to_owned())
        } else {
            let said = Status::decode(&body).expect("a Status");
            (said.code, said.message)
        };
        assert_eq!(said.0, *code, "{what}");
        assert!(!said.1.is_empty(), "{what}");
        let after = rig.number("tfo_agent_requests_refused", &[&format!("reason=\"{reason}\""), "otlp", "http"]).await;
        assert_eq!(after, before + 1.0, "{what}");
    }
    for path in ["/v1/traces", "/v1/metrics", "/v1/logs"] {
        for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let method = method.parse().expect("a method");
            let what = format!("{method} {path}");
            let wrong = rig.http.request(method, rig.url(path)).header("content-type", PROTOBUF).body("");
            let wrong = wrong.send().await.expect("an answer");
            assert_eq!(
                (wrong.status().as_u16(), header(&wrong, "content-type").as_str()),
                (405, "text/plain"),
                "{what}"
            );
            let said = wrong.text().await.expect("a body");
            assert!(what.starts_with("HEAD") || said == "405 method not allowed, supported: [POST]", "{what}: {said}");
        }
    }
    assert!(!rig.scrape().await.contains("otelcol_receiver_"), "nothing was counted, so nothing was refused");
}

/// Goal: a client that goes away in mid-body gives back what it held, and others were asked to come back meanwhile.
#[actix::test]
async fn the_budget_refuses_while_it_is_held_and_is_given_back_by_a_client_that_hangs_up() {
    let rig = Rig::plain().await;
    let address = rig.agent.addresses["otlp/http"];
    let mut slow = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let head =
        format!("POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 19000000\r\n\r\n");
    slow.write_all(head.as_bytes()).await.expect("sent");
    slow.write_all(&vec![0; 18_000_000]).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let large = || rig.post("/v1/logs", &[("content-type", PROTOBUF)], vec![0; 18_000_000]);
    let answer = large().await;
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after").as_str()), (503, "2"));
    let said = Status::decode(&answer.bytes().await.expect("a body")).expect("a Status");
    assert_eq!((said.code, said.message.contains("in flight")), (14, true), "{said:?}");
    assert_eq!(rig.number("tfo_agent_requests_refused", &["reason=\"crowded\""]).await, 1.0);
    drop(slow);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(large().await.status().as_u16(), 400, "there is room again; zeros are no request");
}

pub(crate) async fn client(rig: &Rig) -> LogsServiceClient<Channel> {
    let channel = Channel::from_shared(rig.at("otlp/grpc")).expect("an address").connect().await.expect("it listens");
    client_over(channel)
}

pub(crate) fn client_over(channel: Channel) -> LogsServiceClient<Channel> {
    LogsServiceClient::new(channel)
}

pub(crate) fn logs(bytes: &[u8]) -> ExportLogsServiceRequest {
    ExportLogsServiceRequest::decode(bytes).expect("our own request")
}

/// A real client of tonic, as the Rust SDK has it.
#[actix::test]
async fn what_a_grpc_client_sends_is_acknowledged_and_arrives() {
    let rig = Rig::plain().await;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    for compression in [None, Some(CompressionEncoding::Gzip)] {
        let mut client = client(&rig).await;
        if let Some(compression) = compression {
            client = client.send_compressed(compression);
        }
        for _ in 0..3 {
            let request = numbered.request(4);
            rig.far_end.with(|c| c.tally().issued(Signal::Logs, Source(1), request.seqs.clone()));
            let answer = client.export(logs(&request.bytes).into_request()).await.expect("taken").into_inner();
            let partial = answer.partial_success.unwrap_or_default();
            assert_eq!((partial.rejected_log_records, partial.error_message.as_str()), (0, ""));
            rig.far_end.with(|c| c.tally().acknowledged(Signal::Logs, Source(1), request.seqs.clone()));
        }
    }
    assert!(rig.far_end.until(PATIENCE, |c| c.tally().report().lost() == 0).await, "{:?}", rig.far_end.report());
    assert_eq!(rig.number("otelcol_receiver_accepted_log_records", &["transport=\"grpc\""]).await, 24.0);
}

/// Too large is final, compressed or not: OUT_OF_RANGE, tonic's own answer, would make OTLP clients loop.
#[actix::test]
async fn a_grpc_message_that_is_too_large_is_refused_for_good() {
    let rig = Rig::plain().await;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    let large = logs(&numbered.request(30_000).bytes);
    assert!(large.encoded_len() > 4 << 20);
    for zipped in [false, true] {
        let client = client(&rig).await;
        let mut client = if zipped { client.send_compressed(CompressionEncoding::Gzip) } else { client };
        let refused = client.export(large.clone().into_request()).await.expect_err("more than 4 MiB");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.details().is_empty(), "RetryInfo would make the client come back with it");
    }
    assert_eq!(rig.number("tfo_agent_requests_refused", &["reason=\"too_large\"", "grpc"]).await, 2.0);
}

/// memory_limiter above its soft limit: retryable over both protocols, and counted as the original counts.
#[actix::test]
async fn the_memory_limiter_asks_clients_to_come_back() {
    let rig = Rig::start(|endpoint, dir| plain(endpoint, dir, "memory_limiter")).await;
    let ballast = vec![1_u8; 8 << 20];
    let request = Numbered::new(Signal::Logs, Source(1)).request(7);
    let refused = client(&rig).await.export(logs(&request.bytes).into_request()).await.expect_err("over the limit");
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "data refused due to high memory usage"));
    let details = Status::decode(refused.details()).expect("a Status");
    assert_eq!((details.code, details.retry_delay), (14, Some(Duration::from_secs(2))));
    let answer = rig.post("/v1/logs", &[("content-type", PROTOBUF)], request.bytes).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after").as_str()), (503, "2"));
    for transport in ["grpc", "http"] {
        let transport = format!("transport=\"{transport}\"");
        assert_eq!(rig.number("otelcol_receiver_refused_log_records", &[&transport]).await, 7.0);
        assert_eq!(rig.number("tfo_agent_requests_refused", &[&transport, "unavailable"]).await, 1.0);
    }
    assert_eq!(rig.number("otelcol_processor_refused_log_records", &["memory_limiter"]).await, 14.0);
    assert_eq!(ballast[ballast.len() - 1], 1, "it was live all the time");
}

/// A gRPC call by hand: status of HTTP, `grpc-status`, `grpc-message`.
async fn call(rig: &Rig, path: &str, media: &str, body: Vec<u8>) -> (u16, String, String) {
    call_by(reqwest::Method::POST, rig, path, media, body).await
}

async fn call_by(method: reqwest::Method, rig: &Rig, path: &str, media: &str, body: Vec<u8>) -> (u16, String, String) {
    let h2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");
    let url = format!("{}{path}", rig.at("otlp/grpc"));
    let answer = h2.request(method, url).header("content-type", media).header("te", "trailers").body(body).send().await;
    let answer = answer.expect("an answer");
    (answer.status().as_u16(), header(&answer, "grpc-status"), header(&answer, "grpc-message"))
}

#[actix::test]
async fn what_no_client_library_sends_is_refused_over_grpc_too() {
    let rig = Rig::plain().await;
    let export = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    let message = |flag: u8, body: &[u8]| [&[flag, 0, 0, 0, u8::try_from(body.len()).expect("short")], body].concat();
    #[rustfmt::skip]
    let cases: &[(&str, &str, Vec<u8>, u16, &str)] = &[
        (export,          "application/grpc",       message(0, b"\x0a\x05abc"), 200, "3"),
        (export,          "application/grpc+proto", message(2, b""),            200, "13"),
        (export,          "application/grpc",       message(1, b""),            200, "13"), // compressed, nobody says how
        (export,          "application/grpc",       vec![0, 0, 0],              200, "13"),
        (export,          "application/grpc",       vec![0, 0xff, 0xff, 0xff, 0xff], 200, "8"),
        ("/other.Svc/Do", "application/grpc",       message(0, b""),            200, "12"),
        ("/opentelemetry.proto.collector.logs.v1.LogsService/Import", "application/grpc", message(0, b""), 200, "12"),
        ("/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export", "application/grpc", message(0, b""), 200, "12"),
        ("/v1/logs",      "application/grpc",       message(0, b""),            200, "12"),
        (export,          "application/grpcish",    message(0, b""),            415, ""),
        (export,          "application/x-protobuf", message(0, b""),            415, ""),
    ];
    for (path, media, body, http, grpc) in cases {
        let (status, code, why) = call(&rig, path, media, body.clone()).await;
        assert_eq!((status, code.as_str()), (*http, *grpc), "{path} {media} {body:?}: {why}");
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let asked = call_by(method.parse().expect("a method"), &rig, export, "application/grpc", message(0, b"")).await;
        assert_eq!(asked, (405, String::new(), String::new()), "{method}");
    }
    assert!(!rig.scrape().await.contains("otelcol_receiver_"), "nothing was counted");
}

/// A receiver serves the signals of its pipelines; the others it does not know, over either protocol.
#[actix::test]
async fn a_signal_without_a_pipeline_is_not_served() {
    let rig = Rig::start(|endpoint, _| {
        yaml(&format!(
            "exporters: {{otlphttp: {{endpoint: '{endpoint}'}}}}, \
             service: {{telemetry: {{metrics: {{address: '127.0.0.1:0'}}}}, \
               pipelines: {{logs: {{receivers: [otlp], exporters: [otlphttp]}}}}}}"
        ))
    })
    .await;
    for (signal, service, http, grpc) in [
        (Signal::Logs, "logs.v1.LogsService", 200, "0"),
        (Signal::Traces, "trace.v1.TraceService", 404, "12"),
        (Signal::Metrics, "metrics.v1.MetricsService", 404, "12"),
    ] {
        let request = Numbered::new(signal, Source(1)).request(1).bytes;
        let answer = rig.post(&format!("/v1/{signal}"), &[("content-type", PROTOBUF)], request.clone()).await;
        assert_eq!(answer.status().as_u16(), http, "{signal}");
        let len = u32::try_from(request.len()).expect("short").to_be_bytes();
        let path = format!("/opentelemetry.proto.collector.{service}/Export");
        let (_, code, _) = call(&rig, &path, "application/grpc", [&[0], &len[..], &request].concat()).await;
        // An OK comes in the trailers, which this client does not show.
        assert_eq!(if code.is_empty() { "0" } else { &code }, grpc, "{signal}");
    }
    let found = rig.far_end.until(PATIENCE, |c| c.counts().items == 2).await;
    assert!(found, "both logs arrive: {:?}", rig.books());
}

/// A connection that never finishes its head is closed by the server, and one that was idle is not held for ever: at
/// least the answer to garbage is an end.
#[actix::test]
async fn garbage_is_answered_and_the_connection_closed() {
    let rig = Rig::plain().await;
    let mut stream = tokio::net::TcpStream::connect(rig.agent.addresses["otlp/http"]).await.expect("it listens");
    stream.write_all(b"no http at all\r\n\r\n").await.expect("sent");
    let mut said = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("it ends").expect("in order");
    assert!(said.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&said));
}
