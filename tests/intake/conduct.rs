//! Clients that behave ill, on raw sockets: each thing one may do too often or too slowly has an end, and is counted.

use super::answers::{client, logs};
use super::rig::{PATIENCE, PROTOBUF, Rig, read};
use std::time::Duration;
use tfo_otel_agent::app::plan::Config;
use tfo_otel_agent::config::{Imagined, Locations};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::{Numbered, Source};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tonic::IntoRequest as _;

/// Both protocols with these keys beside their endpoints.
async fn start(grpc: &str, http: &str) -> Rig {
    Rig::start(|endpoint, _| config(endpoint, grpc, http)).await
}

fn config(endpoint: &str, grpc: &str, http: &str) -> Config {
    let yaml = format!(
        "yaml:{{receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:0', {grpc}}}, \
             http: {{endpoint: '127.0.0.1:0', {http}}}}}}}}}, \
           exporters: {{otlphttp: {{endpoint: '{endpoint}'}}}}, \
           service: {{telemetry: {{metrics: {{address: '127.0.0.1:0'}}}}, \
             pipelines: {{logs: {{receivers: [otlp], exporters: [otlphttp]}}}}}}}}"
    );
    read(&Locations::of(&yaml), &Imagined::with(&[]))
}

async fn refused(rig: &Rig, listener: &str, reason: &str) -> f64 {
    let labels = [format!("listener=\"{listener}\""), format!("reason=\"{reason}\"")];
    rig.number("tfo_agent_connections_refused", &[&labels[0], &labels[1]]).await
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;
/// RFC 9113, 7.
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, len @ ..] = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&len[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A call of LogsService, each header a literal of HPACK that is remembered by nobody.
fn begin(stream: u32) -> Vec<u8> {
    let path = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    frame(HEADERS, END_HEADERS, stream, &hpack(&headers))
}

fn hpack(headers: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// A frame as it was received.
type Heard = (u8, u8, u32, Vec<u8>);

/// An HTTP/2 client that knows no manners.
struct Raw(TcpStream);

impl Raw {
    async fn connect(rig: &Rig) -> Raw {
        let mut raw = Raw::silent(rig).await;
        raw.send(&frame(SETTINGS, 0, 0, &[])).await;
        raw
    }

    /// With the preface and nothing else.
    async fn silent(rig: &Rig) -> Raw {
        let mut stream = TcpStream::connect(rig.agent.addresses["otlp/grpc"]).await.expect("it listens");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
        Raw(stream)
    }

    /// Whether it could be sent is of no interest: the other side may be gone.
    async fn send(&mut self, frames: &[u8]) {
        let _ = self.0.write_all(frames).await;
    }

    async fn hear(&mut self) -> Option<Heard> {
        let mut head = [0; 9];
        timeout(PATIENCE, self.0.read_exact(&mut head)).await.expect("something happens").ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().expect("four bytes"));
        Some((head[3], head[4], stream, payload))
    }

    /// Everything until the connection ends.
    async fn hear_all(&mut self) -> Vec<Heard> {
        let mut all = Vec::new();
        while let Some(heard) = self.hear().await {
            all.push(heard);
        }
        all
    }
}

/// The code and the text of the last GOAWAY.
fn goaway(heard: &[Heard]) -> Option<(u32, String)> {
    let (.., payload) = heard.iter().rev().find(|(kind, ..)| *kind == GOAWAY)?;
    let code = u32::from_be_bytes(payload[4..8].try_into().expect("four bytes"));
    Some((code, String::from_utf8_lossy(&payload[8..]).into_owned()))
}

/// Goal: an agent that serves gRPC and nothing else has no HTTP server, and does not fall for want of one.
#[actix::test]
async fn an_agent_without_an_http_port_runs() {
    let rig = Rig::start(|endpoint, _| {
        let yaml = format!(
            "yaml:{{receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:0'}}}}}}}}, \
               exporters: {{otlphttp: {{endpoint: '{endpoint}'}}}}, \
               service: {{telemetry: {{metrics: {{level: none}}}}, \
                 pipelines: {{logs: {{receivers: [otlp], exporters: [otlphttp]}}}}}}}}"
        );
        read(&Locations::of(&yaml), &Imagined::with(&[]))
    })
    .await;
    let request = Numbered::new(Signal::Logs, Source(1)).request(1);
    client(&rig).await.export(logs(&request.bytes).into_request()).await.expect("taken");
    assert!(rig.far_end.until(PATIENCE, |c| c.counts().items == 1).await, "{:?}", rig.far_end.report());
    assert_eq!(rig.agent.supervisor.lookout().end(), None);
}

#[actix::test]
async fn what_a_server_allows_stands_in_its_settings() {
    let rig = start("max_concurrent_streams: 7, limits: {max_header_list_size: 4096}", "").await;
    let (kind, _, _, settings) = Raw::connect(&rig).await.hear().await.expect("it answers");
    assert_eq!(kind, SETTINGS);
    let value = |id: u8| {
        let found = settings.chunks(6).find(|s| s[..2] == [0, id]);
        found.map(|s| u32::from_be_bytes(s[2..].try_into().expect("four bytes")))
    };
    assert_eq!((value(3), value(6)), (Some(7), Some(4_096)));
}

/// Goal: a client that asks too often whether we are there is told so in the words that grpc's clients understand.
#[actix::test]
async fn too_many_pings_end_the_connection() {
    let rig = start("", "").await;
    let mut raw = Raw::connect(&rig).await;
    raw.send(&frame(PING, 0, 0, &[1; 8]).repeat(4)).await;
    assert_eq!(goaway(&raw.hear_all().await), Some((ENHANCE_YOUR_CALM, "too_many_pings".to_owned())));
    assert_eq!(refused(&rig, "otlp/grpc", "too_many_pings").await, 1.0);

    let policy = "keepalive: {enforcement_policy: {min_time: 50ms, permit_without_stream: true}}";
    let rig = start(policy, "").await;
    let mut raw = Raw::connect(&rig).await;
    for _ in 0..8 {
        raw.send(&frame(PING, 0, 0, &[1; 8])).await;
        while !matches!(raw.hear().await.expect("it is answered"), (PING, 1, ..)) {}
        sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(refused(&rig, "otlp/grpc", "too_many_pings").await, 0.0);
}

/// Goal: a client that begins requests and takes them back at once (CVE-2023-44487) costs little, and not for long. h2
/// itself sends away who is faster than we accept; here each request is accepted before it is taken back.
#[actix::test]
async fn too_many_resets_end_the_connection() {
    let rig = start("limits: {max_resets: 10}", "").await;
    let mut raw = Raw::connect(&rig).await;
    for n in 0..11 {
        let stream = 2 * n + 1;
        raw.send(&begin(stream)).await;
        sleep(Duration::from_millis(10)).await;
        raw.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await;
    }
    assert_eq!(goaway(&raw.hear_all().await), Some((ENHANCE_YOUR_CALM, "too_many_resets".to_owned())));
    assert_eq!(refused(&rig, "otlp/grpc", "too_many_resets").await, 1.0);

    let rig = start("", "").await;
    let mut raw = Raw::connect(&rig).await;
    let flood: Vec<u8> =
        (0..2_000).flat_map(|n| [begin(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0; 4])].concat()).collect();
    raw.send(&flood).await;
    let (code, _) = goaway(&raw.hear_all().await).expect("it is sent away");
    assert_eq!(code, ENHANCE_YOUR_CALM);
}

#[actix::test]
async fn floods_of_frames_that_carry_nothing_end_the_connection() {
    let rig = start("", "").await;
    let call = begin(1);
    let ours = "too_many_control_frames";
    for (what, flood, why) in [
        ("SETTINGS", frame(SETTINGS, 0, 0, &[]), ours),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0; 5]), ours),
        ("unknown", frame(99, 0, 0, &[]), ours),
        ("DATA of nothing", frame(DATA, 0, 1, &[]), "too_many_data_frames"), // h2's own limit is lower
    ] {
        let mut raw = Raw::connect(&rig).await;
        raw.send(&call).await;
        raw.send(&flood.repeat(2_000)).await;
        let told = goaway(&raw.hear_all().await);
        assert_eq!(told, Some((ENHANCE_YOUR_CALM, why.to_owned())), "{what}");
    }
    assert_eq!(refused(&rig, "otlp/grpc", ours).await, 3.0);
    let request = Numbered::new(Signal::Logs, Source(1)).request(1);
    client(&rig).await.export(logs(&request.bytes).into_request()).await.expect("others are served");
}

#[actix::test]
async fn a_head_that_is_too_large_is_431_and_no_other_request_minds() {
    let rig = start("limits: {max_header_list_size: 2048}", "").await;
    let h2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");
    let ask = |padding: usize| {
        let url = format!("{}/opentelemetry.proto.collector.logs.v1.LogsService/Export", rig.at("otlp/grpc"));
        h2.post(url).header("content-type", "application/grpc").header("x-padding", "x".repeat(padding))
    };
    let status = async |padding| ask(padding).body(vec![0; 5]).send().await.expect("an answer").status().as_u16();
    assert_eq!((status(100).await, status(4_000).await, status(100).await), (200, 431, 200));
}

/// Goal: neither a connection nor a request may be begun and left lying.
#[actix::test]
async fn what_is_begun_over_grpc_must_go_on() {
    let rig = start("limits: {handshake_timeout: 300ms, header_timeout: 300ms}", "").await;
    let began = Instant::now();
    Raw::silent(&rig).await.hear_all().await;
    let mut half = Raw::connect(&rig).await;
    let mut head = begin(1);
    head[4] = 0; // END_HEADERS is still to come
    half.send(&head).await;
    half.hear_all().await;
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    assert_eq!(refused(&rig, "otlp/grpc", "slow").await, 2.0);
    let mut quiet = Raw::connect(&rig).await;
    assert!(timeout(Duration::from_millis(900), quiet.hear_all()).await.is_err(), "one that rests may rest");
}

/// Goal: the clients of one port cannot take all there is, and a place is free again when its client is gone.
#[actix::test]
async fn a_port_has_so_many_places() {
    let limits = "limits: {max_connections: 2}";
    let rig = start(limits, limits).await;
    for who in ["otlp/http", "otlp/grpc"] {
        let connect = || TcpStream::connect(rig.agent.addresses[who]);
        let ends = async |stream: &mut TcpStream| {
            let mut byte = [0; 1];
            loop {
                // gRPC's server speaks first; what it says is not the end.
                match timeout(Duration::from_millis(500), stream.read(&mut byte)).await {
                    Ok(Ok(1)) => {}
                    Ok(_) => return true,
                    Err(_) => return false,
                }
            }
        };
        let (mut first, mut second) = (connect().await.expect("it listens"), connect().await.expect("it listens"));
        assert!(!ends(&mut first).await && !ends(&mut second).await, "{who}");
        assert!(ends(&mut connect().await.expect("the kernel takes it")).await, "{who}");
        assert_eq!(refused(&rig, who, "full").await, 1.0, "{who}");
        drop(first);
        sleep(Duration::from_millis(200)).await;
        assert!(!ends(&mut connect().await.expect("it listens")).await, "{who}");
    }
    assert!(rig.scrape().await.contains("otelcol_process_uptime"), "the other ports have their own places");
}

/// Goal: a connection nobody uses is closed in the way that costs its client nothing; one that is used is not.
#[actix::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let rig = start("keepalive: {server_parameters: {max_connection_idle: 400ms}}", "").await;
    let mut idle = Raw::connect(&rig).await;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    let mut busy = Raw::connect(&rig).await;
    let (began, mut stream) = (Instant::now(), 1);
    while began.elapsed() < Duration::from_millis(1_200) {
        let request = numbered.request(1).bytes;
        let len = u32::try_from(request.len()).expect("short").to_be_bytes();
        busy.send(&[begin(stream), frame(DATA, 1, stream, &[&[0], &len[..], &request].concat())].concat()).await;
        loop {
            let (kind, flags, of, _) = busy.hear().await.expect("it is served");
            assert_ne!(kind, GOAWAY);
            if (kind, of) == (HEADERS, stream) && flags & 1 == 1 {
                break;
            }
        }
        stream += 2;
        sleep(Duration::from_millis(100)).await;
    }
    // Our ping that comes with the first GOAWAY is not answered, so the end comes with the client's.
    let (kind, ..) = loop {
        let heard = idle.hear().await.expect("it is told");
        if heard.0 == GOAWAY {
            break heard;
        }
    };
    assert_eq!(kind, GOAWAY);
    drop(idle);
    let last = loop {
        let heard = busy.hear().await.expect("it is told");
        if heard.0 == GOAWAY {
            break heard;
        }
    };
    assert_eq!(goaway(&[last]), Some((0, String::new())), "no reproach");
}

/// Goal: an old connection is given up for a new one, and a request that does not end holds it for the grace only.
#[actix::test]
async fn an_old_connection_is_closed_and_a_request_on_it_has_its_grace() {
    let parameters = "max_connection_age: 400ms, max_connection_age_grace: 500ms";
    let rig = start(&format!("keepalive: {{server_parameters: {{{parameters}}}}}"), "").await;
    let began = Instant::now();
    let mut raw = Raw::connect(&rig).await;
    raw.send(&begin(1)).await; // and no body
    let told = loop {
        if raw.hear().await.expect("it is told").0 == GOAWAY {
            break began.elapsed();
        }
    };
    assert!((Duration::from_millis(350)..Duration::from_millis(800)).contains(&told), "{told:?}");
    raw.hear_all().await;
    let ended = began.elapsed();
    assert!((Duration::from_millis(850)..Duration::from_millis(3_000)).contains(&ended), "{ended:?}");
}

/// Goal: a client that sends and never reads holds its connection for `write_timeout` and no longer.
#[actix::test]
async fn a_client_that_does_not_read_is_let_go() {
    let limits = "write_timeout: 400ms, max_control_frames: 4000000000";
    let policy = "keepalive: {enforcement_policy: {min_time: 0s, permit_without_stream: true}}";
    let rig = start(&format!("{policy}, limits: {{{limits}}}"), "limits: {write_timeout: 400ms}").await;
    let get = b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    for (who, preface, flood) in [
        ("otlp/http", Vec::new(), get),
        ("otlp/grpc", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), frame(PING, 0, 0, &[1; 8])),
    ] {
        // Before it connects: a window that is taken back loses packets, and among them the one that tells of the end.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a size");
        let mut stream = socket.connect(rig.agent.addresses[who]).await.expect("it listens");
        stream.write_all(&preface).await.expect("sent");
        let flood = flood.repeat(1_000);
        let ended = timeout(PATIENCE, async { while stream.write_all(&flood).await.is_ok() {} }).await;
        assert!(ended.is_ok(), "{who}: it is written to for ever");
    }
    let answer =
        rig.post("/v1/logs", &[("content-type", PROTOBUF)], Numbered::new(Signal::Logs, Source(1)).request(1).bytes);
    assert_eq!(answer.await.status().as_u16(), 200, "others are served");
}

/// Goal: over HTTP/1.1 too, a head must come, must end somewhere, and a connection may not rest for ever; each port by
/// its own times.
#[actix::test]
async fn what_is_begun_over_http_must_go_on() {
    let rig = start("", "read_header_timeout: 2s, idle_timeout: 2s").await;
    // actix-http looks at its clock twice a second.
    let least = Duration::from_millis(1_400);
    let talk = async |who: &str, said: &[u8]| {
        let began = Instant::now();
        let mut stream = TcpStream::connect(rig.agent.addresses[who]).await.expect("it listens");
        let _ = stream.write_all(said).await; // it may be cut short
        let mut heard = Vec::new();
        let _ = timeout(Duration::from_secs(9), stream.read_to_end(&mut heard)).await.expect("it ends");
        (String::from_utf8_lossy(&heard).into_owned(), began.elapsed())
    };
    let (heard, took) = talk("otlp/http", b"POST /v1/logs HTTP/1.1\r\nhost: ").await;
    assert!(heard.starts_with("HTTP/1.1 408 ") && took >= least, "{heard} {took:?}");
    let (heard, took) = talk("otlp/http", b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 404 ") && took >= least, "{heard} {took:?}");
    // What actix-http takes: 128 KiB and 96 headers.
    let long = format!("GET /x HTTP/1.1\r\nhost: x\r\nx-padding: {}\r\n\r\n", "x".repeat(200_000));
    let many = format!("GET /x HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(100));
    for head in [long, many] {
        let (heard, _) = talk("otlp/http", head.as_bytes()).await;
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 4"), "{heard}");
    }
    let mut other = TcpStream::connect(rig.agent.addresses["metrics"]).await.expect("it listens");
    other.write_all(b"GET / HTTP/1.1\r\nhost: ").await.expect("sent");
    let mut byte = [0; 1];
    let waits = timeout(Duration::from_secs(3), other.read(&mut byte)).await;
    assert!(waits.is_err(), "another port has its own, of a minute");
}

/// What a client hears that sends these bytes to the HTTP port, until the connection ends.
async fn hear_of(rig: &Rig, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(rig.agent.addresses["otlp/http"]).await.expect("it listens");
    let _ = stream.write_all(sent).await; // the server may have heard enough
    let mut said = Vec::new();
    // What was not read any more makes the kernel reset the connection, after the answer.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the connection ends");
    String::from_utf8_lossy(&said).to_lowercase()
}

/// Goal: a head has an end, in bytes and in headers, and the connection with it; what is within is served as ever. The
/// limit of 128 KiB and 96 headers is actix-http's own: this shows when it changes.
#[actix::test]
async fn a_head_that_is_too_large_is_431_and_the_connection_closed() {
    let rig = start("", "limits: {max_header_list_size: 4096}").await;
    let post = |headers: &str| {
        let rest = "content-type: application/x-protobuf\r\nconnection: close\r\ncontent-length: 0";
        format!("POST /v1/logs HTTP/1.1\r\nhost: x\r\n{rest}\r\n{headers}\r\n")
    };
    let large = |bytes: usize| post(&format!("x-large: {}\r\n", "x".repeat(bytes)));
    // In HTTP/2's count: `host` 37, `content-type` 66, `connection` 47, `content-length` 47, `:path` 45, `x-large` 39.
    let spent = 37 + 66 + 47 + 47 + 45 + 39;
    assert!(hear_of(&rig, large(4_096 - spent).as_bytes()).await.starts_with("http/1.1 200 "));
    let refused = hear_of(&rig, large(4_097 - spent).as_bytes()).await;
    assert!(refused.starts_with("http/1.1 431 ") && refused.contains("connection: close\r\n"), "{refused}");
    assert_eq!(rig.number("tfo_agent_requests_refused", &["reason=\"too_large\"", "http"]).await, 1.0);

    let many = |count: usize| post(&"a:\r\n".repeat(count - 4));
    let rig = start("", "limits: {max_header_list_size: 131072}").await;
    assert!(hear_of(&rig, many(96).as_bytes()).await.starts_with("http/1.1 200 "), "96 headers");
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(200 << 10));
    for (what, sent) in [("97 headers", many(97)), ("a head without an end", endless)] {
        let said = hear_of(&rig, sent.as_bytes()).await;
        assert!(said.starts_with("http/1.1 431 "), "{what}: {said}");
    }
    // HTTP/2 without TLS is spoken by nobody here; it ends all the same.
    let h2 = hear_of(&rig, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(h2.starts_with("http/1.1 400 "), "{h2}");
}
