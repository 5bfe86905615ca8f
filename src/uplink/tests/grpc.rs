//! The gRPC client alone and as an uplink: what goes over the wire, and what it makes of what comes back.

use super::world::{MS, World, run};
use crate::base::Clock;
use crate::config::{Pem, Secret, TlsClient};
use crate::otlp::Signal;
use crate::testing::far_end::{Act, FarEnd, Script, Seen};
use crate::testing::numbered::{Mark, Numbered, Source};
use crate::uplink::budget::Meter;
use crate::uplink::client::{Maker, Shown};
use crate::uplink::config::{Balancer, Keepalive, OtlpGrpcConfig, Place};
use crate::uplink::link::Trouble;
use crate::uplink::otlp_grpc::{GrpcRecipe, OtlpGrpc};
use crate::uplink::pack::{Encoding, LEVEL, Packer};
use crate::uplink::transport::{Parcel, Transport as _, UPLOAD_ID};
use crate::uplink::verdict::{BODY_MAX, Verdict};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use xxhash_rust::xxh3::xxh3_64;

const CA: &str = include_str!("tls/ca.pem");
const SERVER: &str = include_str!("tls/server.pem");
const SERVER_KEY: &str = include_str!("tls/server.key");
const CLIENT: &str = include_str!("tls/client.pem");
const CLIENT_KEY: &str = include_str!("tls/client.key");

/// Without TLS.
fn plain(addr: SocketAddr) -> OtlpGrpcConfig {
    OtlpGrpcConfig {
        endpoint: Some(Place::Net { host: addr.ip().to_string(), port: addr.port() }),
        tls: TlsClient { insecure: true, ..TlsClient::default() },
        ..OtlpGrpcConfig::default()
    }
}

fn parcel(signal: Signal, encoding: Encoding) -> Parcel {
    let raw = Numbered::new(signal, Source(1)).request(10).bytes.into();
    Parcel {
        signal,
        body: Packer::new(encoding, LEVEL).pack(&raw),
        upload_id: "3f2a/1/0.0-1.0".to_owned(),
        origin: None,
    }
}

fn client(config: &OtlpGrpcConfig) -> OtlpGrpc {
    OtlpGrpc::new(config, Clock::system(), None).expect("a client")
}

async fn send(config: &OtlpGrpcConfig) -> Verdict {
    client(config).send(parcel(Signal::Logs, Encoding::Gzip)).await
}

fn accepted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Accepted { oddity: None, .. })
}

/// The verdict in short, with what it says.
fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accepted { rejected: 0, message, oddity: None } if message.is_empty() => "accepted".to_owned(),
        Verdict::Accepted { rejected, message, oddity } => {
            format!("accepted {rejected} {message} {}", oddity.unwrap_or_default()).trim().to_owned()
        }
        Verdict::Later { after: None, .. } => "later".to_owned(),
        Verdict::Later { after: Some(after), .. } => format!("later {}", after.as_secs()),
        Verdict::Split { too_large: true, .. } => "split, too large".to_owned(),
        Verdict::Split { too_large: false, .. } => "split".to_owned(),
        Verdict::Hold { .. } => "hold".to_owned(),
        Verdict::Silence { trouble, .. } => format!("silence {trouble}"),
    }
}

/// Goal: a call is the one grpc-go makes, and what is gRPC's own is not the operator's.
#[test]
fn a_call_looks_as_grpc_wants_it() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let config = OtlpGrpcConfig {
            headers: vec![
                ("X-Tenant-Id".to_owned(), Secret::new("0123")),
                ("trace-bin".to_owned(), Secret::new("\u{1}\u{2}\u{3}a")),
                ("content-type".to_owned(), Secret::new("text/plain")),
            ],
            ..plain(far_end.addr())
        };
        for (signal, path) in [
            (Signal::Traces, "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
            (Signal::Metrics, "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"),
            (Signal::Logs, "/opentelemetry.proto.collector.logs.v1.LogsService/Export"),
        ] {
            let verdict = client(&config).send(parcel(signal, Encoding::Gzip)).await;
            assert!(accepted(&verdict), "{verdict:?}");
            let seen = far_end.seen().pop().expect("it came");
            assert_eq!((&seen.path[..], seen.items), (path, 10));
            let authority = far_end.addr().to_string();
            for (name, value) in [
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("grpc-encoding", "gzip"),
                ("grpc-timeout", "5000m"),
                ("x-tenant-id", "0123"),
                ("trace-bin", "AQIDYQ"),
                (UPLOAD_ID, "3f2a/1/0.0-1.0"),
                (":authority", &authority),
            ] {
                assert_eq!(seen.header(name), Some(value), "{name}");
            }
            let agent = format!("tfo-otel-agent/{} (linux/", env!("CARGO_PKG_VERSION"));
            assert!(seen.header("user-agent").is_some_and(|value| value.starts_with(&agent)), "{seen:?}");
        }
        let endless = OtlpGrpcConfig { timeout: None, ..plain(far_end.addr()) };
        let verdict = client(&endless).send(parcel(Signal::Logs, Encoding::Identity)).await;
        assert!(accepted(&verdict), "{verdict:?}");
        let seen = far_end.seen().pop().expect("it came");
        assert_eq!((seen.header("grpc-encoding"), seen.header("grpc-timeout")), (None, None));
    });
}

/// Goal: the table of the issue, every row on a real socket: each code, and what stands in a code's place.
#[test]
#[rustfmt::skip]
fn every_answer_has_its_verdict() {
    let s7 = Some(Duration::from_secs(7));
    let verbatim = |code, kind: &str, body: &[u8]| Act::Verbatim {
        code, content_type: (!kind.is_empty()).then(|| kind.to_owned()), body: body.to_vec(),
    };
    let whole: &[u8] = b"\0\0\0\0\x02\x0a\0";
    let page: &[u8] = b"<html>Welcome</html>";
    let long = [b"\0\0\x10\0\0".to_vec(), vec![0; 1 << 20]].concat();
    let endless = vec![0; 5 << 20];
    let table = [
        (Act::Accept,                                        "accepted"),
        (Act::partial(3, "old"),                             "accepted 3 old"),
        (Act::grpc(Code::Ok, None),                          "accepted 0  the answer has no message"),
        (Act::grpc(Code::Cancelled, None),                   "later"),
        (Act::grpc(Code::Unknown, None),                     "later"),
        (Act::grpc(Code::InvalidArgument, None),             "split"),
        (Act::grpc(Code::DeadlineExceeded, None),            "later"),
        (Act::grpc(Code::NotFound, None),                    "hold"),
        (Act::grpc(Code::AlreadyExists, None),               "hold"),
        (Act::grpc(Code::PermissionDenied, None),            "hold"),
        (Act::grpc(Code::ResourceExhausted, None),           "split, too large"),
        (Act::grpc(Code::ResourceExhausted, s7),             "later 7"),
        (Act::grpc(Code::FailedPrecondition, None),          "hold"),
        (Act::grpc(Code::Aborted, None),                     "later"),
        (Act::grpc(Code::OutOfRange, None),                  "later"),
        (Act::grpc(Code::Unimplemented, None),               "hold"),
        (Act::grpc(Code::Internal, None),                    "later"),
        (Act::grpc(Code::Unavailable, None),                 "later"),
        (Act::grpc(Code::Unavailable, s7),                   "later 7"),
        (Act::grpc(Code::DataLoss, None),                    "later"),
        (Act::grpc(Code::Unauthenticated, None),             "hold"),
        (Act::grpc(Code::Unavailable, Some(Duration::from_secs(9_999_999))), "later 3600"),
        // Scripts written for HTTP, told in gRPC.
        (Act::status(503).retry_after(9),                    "later 9"),
        (Act::status(413),                                   "split, too large"),
        // No grpc-status.
        (verbatim(200, "application/grpc", b""),             "later"),
        (verbatim(200, "application/grpc+proto", whole),     "accepted 0  the answer has no grpc-status"),
        (verbatim(200, "application/grpc", &whole[..6]),     "later"),
        (verbatim(200, "application/grpc", &long),           "accepted 0  the answer has no grpc-status"),
        (verbatim(200, "application/grpc", &endless),        "accepted 0  the answer has no grpc-status"),
        (verbatim(200, "application/grpcfoo", whole),        "silence captive_portal"),
        // A proxy, or somebody who does not speak gRPC at all.
        (Act::Portal,                                        "silence captive_portal"),
        (verbatim(200, "text/html", page),                   "silence captive_portal"),
        (verbatim(204, "", b""),                             "silence captive_portal"),
        (verbatim(511, "text/html", page),                   "silence captive_portal"),
        (verbatim(502, "text/html", page),                   "later"),
        (verbatim(503, "text/html", page),                   "later"),
        (verbatim(429, "", b""),                             "later"),
        (verbatim(400, "text/html", page),                   "later"),
        (verbatim(422, "text/html", page),                   "later"),
        (verbatim(413, "text/html", page),                   "split, too large"),
        (verbatim(401, "", b""),                             "hold"),
        (verbatim(403, "text/html", page),                   "hold"),
        (verbatim(404, "text/plain", b"no such page"),       "hold"),
        (verbatim(415, "", b""),                             "hold"),
        (verbatim(503, "text/html", &endless),               "later"),
        (Act::Redirect { code: 307, to: "/elsewhere".into() }, "hold"),
        // The request is reset, not the connection: NO_ERROR … HTTP_1_1_REQUIRED.
        (Act::ResetStream(1),                                "later"),
        (Act::ResetStream(2),                                "later"),
        (Act::ResetStream(7),                                "later"),
        (Act::ResetStream(8),                                "later"),
        (Act::ResetStream(11),                               "later"),
        // The connection breaks.
        (Act::ResetMidRequest,                               "silence no_answer"),
        (Act::TakeAndReset,                                  "silence no_answer"),
        (Act::ResetMidAnswer,                                "silence no_answer"), // over HTTP the head says yes; here nothing does yet
        (Act::Hang,                                          "silence no_answer"),
    ];
    run(async move {
        for (act, expected) in table {
            let far_end = FarEnd::start(Script::new().always(act.clone())).expect("a port");
            let config = OtlpGrpcConfig { timeout: Some(if act == Act::Hang { 150 * MS } else { 20_000 * MS }), ..plain(far_end.addr()) };
            let verdict = send(&config).await;
            let told = format!("{act:?}").chars().take(200).collect::<String>();
            assert_eq!(short(&verdict), expected, "{told}: {verdict:?}");
            assert!(verdict.why().len() < 1_000, "{told}: it is short");
        }
    });
}

/// Goal: who is not there is told apart, each on a real socket.
#[test]
fn what_is_no_far_end_is_unreachable_or_silent() {
    run(async {
        let nobody = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
        tokio::time::sleep(20 * MS).await;
        let refused = send(&plain(nobody.addr())).await;
        assert!(
            matches!(&refused, Verdict::Silence { trouble: Trouble::Unreachable, why } if why.contains("refused")),
            "{refused:?}"
        );
        let gone = OtlpGrpcConfig {
            endpoint: Some(Place::Net { host: "no-such-host.invalid".to_owned(), port: 4317 }),
            ..plain(nobody.addr())
        };
        let unknown = send(&gone).await;
        assert!(matches!(unknown, Verdict::Silence { trouble: Trouble::Unreachable, .. }), "{unknown:?}");
        // A server of HTTP/1.1 only, and one that speaks TLS where we do not.
        for answer in
            [&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], b"\x15\x03\x01\0\x02\x02\x16", b""]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let addr = listener.local_addr().expect("bound");
            let server = tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.read(&mut [0; 4_096]).await;
                    let _ = stream.write_all(answer).await;
                }
            });
            let verdict = send(&OtlpGrpcConfig { timeout: Some(2_000 * MS), ..plain(addr) }).await;
            assert!(matches!(verdict, Verdict::Silence { .. }), "{verdict:?}");
            server.abort();
        }
    });
}

/// Goal: OUT_OF_RANGE, which tonic's servers answer to what is too large, is about the moment once and about the size
/// when the same upload gets it again.
#[test]
fn out_of_range_again_is_about_the_size() {
    run(async {
        let far_end = FarEnd::start(Script::new().always(Act::grpc(Code::OutOfRange, None))).expect("a port");
        let client = client(&plain(far_end.addr()));
        let named = |n: u32| Parcel { upload_id: n.to_string(), ..parcel(Signal::Logs, Encoding::Gzip) };
        assert_eq!(short(&client.send(named(1)).await), "later");
        assert_eq!(short(&client.send(named(2)).await), "later");
        assert_eq!(short(&client.send(named(1)).await), "split, too large");
        for n in 3..40 {
            assert_eq!(short(&client.send(named(n)).await), "later");
        }
        assert_eq!(short(&client.send(named(1)).await), "later", "what is remembered has an end");
    });
}

/// Goal: a server that leaves politely, or says it has not looked at a request, costs nothing.
#[test]
fn a_polite_goodbye_is_no_trouble() {
    run(async {
        let far_end = FarEnd::start(Script::new().times(1, Act::ResetStream(7))).expect("a port");
        assert!(accepted(&send(&plain(far_end.addr())).await), "REFUSED_STREAM is tried again at once");

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, SeqCst);
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async {
                        let _ = request.into_body().collect().await;
                        let frame = Full::new(Bytes::from_static(b"\0\0\0\0\0"));
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                        let body = frame.with_trailers(std::future::ready(Some(Ok::<_, Infallible>(trailers))));
                        let head = http::Response::builder().header("content-type", "application/grpc");
                        Ok::<_, Infallible>(head.body(body).expect("a response"))
                    });
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
                    tokio::select! {
                        _ = &mut connection => return,
                        () = tokio::time::sleep(100 * MS) => connection.as_mut().graceful_shutdown(), // GOAWAY
                    }
                    let _ = connection.await;
                });
            }
        });
        let client = client(&plain(addr));
        for n in 0..40 {
            let verdict = client.send(parcel(Signal::Logs, Encoding::Gzip)).await;
            assert!(accepted(&verdict), "{n}: {verdict:?}");
            tokio::time::sleep(10 * MS).await;
        }
        assert!(connections.load(SeqCst) >= 3, "{connections:?}");
    });
}

/// Passes bytes on to `to` and counts connections. The first `dead` of them swallow everything.
async fn relay(at: &str, to: SocketAddr, dead: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(at).await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let n = counted.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await.expect("the far end listens");
                if n >= dead {
                    let _ = copy_bidirectional(&mut from, &mut to).await;
                } else {
                    // The settings come through, then the path dies.
                    let _ = tokio::time::timeout(50 * MS, copy_bidirectional(&mut from, &mut to)).await;
                    while from.read(&mut [0; 4_096]).await.is_ok_and(|n| n > 0) {}
                }
            });
        }
    });
    (addr, connections)
}

/// Goal: uploads share one connection; one whose path died is not used for the next upload.
#[test]
fn a_dead_connection_is_left_behind() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let (addr, connections) = relay("127.0.0.1:0", far_end.addr(), 0).await;
        let one = client(&plain(addr));
        let sent = (0..6).map(|_| one.send(parcel(Signal::Logs, Encoding::Gzip)));
        assert!(futures_util::future::join_all(sent).await.iter().all(accepted));
        assert!(accepted(&one.send(parcel(Signal::Logs, Encoding::Gzip)).await));
        assert_eq!(connections.load(SeqCst), 1);

        far_end.play(Script::new().times(1, Act::Slow(300 * MS)));
        let (addr, connections) = relay("127.0.0.1:0", far_end.addr(), 1).await;
        let config = OtlpGrpcConfig { timeout: Some(250 * MS), ..plain(addr) };
        let recipe = GrpcRecipe { config, clock: Clock::system(), shown: None, meter: Meter::default() };
        let transport = Arc::new(Maker::new(recipe).expect("a client")).make();
        let verdict = transport.send(parcel(Signal::Logs, Encoding::Gzip)).await;
        assert_eq!(short(&verdict), "silence no_answer");
        let verdict = transport.send(parcel(Signal::Logs, Encoding::Gzip)).await;
        assert!(accepted(&verdict), "{verdict:?}");
        assert_eq!(connections.load(SeqCst), 2);
    });
}

/// Goal: with keepalive a connection whose path died is noticed before the timeout, also a long one.
#[test]
fn pings_find_a_dead_path() {
    run(async {
        let far_end = FarEnd::start(Script::new().always(Act::Slow(10_000 * MS))).expect("a port");
        let (addr, _) = relay("127.0.0.1:0", far_end.addr(), 1).await;
        let keepalive = Keepalive { time: 200 * MS, timeout: 200 * MS, permit_without_stream: false };
        let config = OtlpGrpcConfig { timeout: None, keepalive: Some(keepalive), ..plain(addr) };
        let start = tokio::time::Instant::now();
        let verdict = tokio::time::timeout(10_000 * MS, send(&config)).await.expect("noticed");
        assert!(matches!(verdict, Verdict::Silence { trouble: Trouble::NoAnswer, .. }), "{verdict:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

/// Goal: `round_robin` uses all addresses of a name in turn, `pick_first` one; names are asked again at each connection.
#[test]
fn addresses_are_used_as_the_balancer_says() {
    fn two(_: Arc<str>, port: u16) -> futures_util::future::BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
        let at = |n| SocketAddr::from(([127, 0, 0, n], port));
        std::future::ready(Ok(vec![at(2), at(1), at(2)])).boxed()
    }
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let port = far_end.addr().port();
        let (_, second) = relay(&format!("127.0.0.2:{port}"), far_end.addr(), 0).await;
        for (balancer, expected) in [(Balancer::PickFirst, 1), (Balancer::RoundRobin, 1)] {
            second.store(0, SeqCst);
            let endpoint = Some(Place::Net { host: "collector.example".to_owned(), port });
            let config = OtlpGrpcConfig { endpoint, balancer, ..plain(far_end.addr()) };
            let client = OtlpGrpc::asking(&config, Clock::system(), None, two, Meter::default()).expect("a client");
            for _ in 0..6 {
                assert!(accepted(&client.send(parcel(Signal::Logs, Encoding::Gzip)).await));
            }
            assert_eq!(second.load(SeqCst), expected, "{balancer:?}: one connection to each address it uses");
            let authority = far_end.seen().pop().expect("it came").header(":authority").map(str::to_owned);
            assert_eq!(authority, Some(format!("collector.example:{port}")));
        }
    });
}

/// Goal: what speaks over a socket of this machine is heard.
#[test]
fn a_unix_socket_is_a_place_too() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("otlp.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("bound");
        let to = far_end.addr();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut to = TcpStream::connect(to).await.expect("the far end listens");
                let _ = copy_bidirectional(&mut from, &mut to).await;
            }
        });
        let config = OtlpGrpcConfig { endpoint: Some(Place::Unix(path)), ..plain(far_end.addr()) };
        let verdict = send(&config).await;
        assert!(accepted(&verdict), "{verdict:?}");
    });
}

/// Goal: a token of a file is sent as it is at that moment, and what is not there is waited for.
#[test]
fn a_token_is_asked_for_at_each_upload() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let asked = Arc::new(AtomicUsize::new(0));
        let value = move || match asked.fetch_add(1, SeqCst) {
            1 => Err("no token".to_owned()),
            n => Ok(Secret::new(&*format!("Bearer {n}"))),
        };
        let shown = Shown { header: http::header::AUTHORIZATION, value: Arc::new(value) };
        let client = OtlpGrpc::new(&plain(far_end.addr()), Clock::system(), Some(shown)).expect("a client");
        let mut verdicts = Vec::new();
        for _ in 0..3 {
            verdicts.push(short(&client.send(parcel(Signal::Logs, Encoding::Gzip)).await));
        }
        assert_eq!(verdicts, ["accepted", "hold", "accepted"]);
        let of = |seen: &Seen| seen.header("authorization").unwrap_or_default().to_owned();
        assert_eq!(far_end.seen().iter().map(of).collect::<Vec<_>>(), ["Bearer 0", "Bearer 2"]);
    });
}

/// Goal: an answer packed by a server that packs whatever was asked packed is read, and a bomb is not.
#[test]
fn a_packed_answer_is_read() {
    let packed = |raw: &[u8], encoding| Packer::new(encoding, LEVEL).pack(&Bytes::copy_from_slice(raw)).bytes;
    let answer = |name: &str, message: &[u8]| {
        let mut body = vec![1];
        body.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
        body.extend_from_slice(message);
        let http = crate::uplink::verdict::HttpAnswer {
            status: 200,
            content_type: Some("application/grpc".to_owned()),
            body: Bytes::from(body),
            ..Default::default()
        };
        let len = http.body.len() as u64;
        let status = Some(tonic::Status::new(Code::Ok, ""));
        let answer = crate::uplink::verdict::grpc::GrpcAnswer {
            http,
            len,
            status,
            encoding: Some(name.to_owned()),
            ..Default::default()
        };
        short(&Verdict::of_grpc_answer(&answer, 0))
    };
    let partial = b"\x0a\x07\x08\x03\x12\x03old";
    for (name, encoding) in [("gzip", Encoding::Gzip), ("zstd", Encoding::Zstd), ("snappy", Encoding::Snappy)] {
        assert_eq!(answer(name, &packed(partial, encoding)), "accepted 3 old", "{name}");
        assert_eq!(answer(name, &packed(&vec![0; BODY_MAX + 1], encoding)), "accepted 0  the answer cannot be read");
    }
    assert_eq!(answer("br", partial), "accepted 0  the answer cannot be read");
}

mod tls {
    use super::super::tls::front;
    use super::*;

    fn trusting(port: u16) -> OtlpGrpcConfig {
        let mut config = plain(SocketAddr::from(([127, 0, 0, 1], port)));
        config.endpoint = Some(Place::Net { host: "localhost".to_owned(), port });
        config.tls = TlsClient::default();
        config.tls.common.ca = Some(Pem::Inline(Secret::new(CA)));
        config
    }

    fn unreachable(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Silence { trouble: Trouble::Unreachable, .. })
    }

    #[test]
    fn only_a_server_of_the_trusted_authority_gets_data_and_asks_for_h2() {
        run(async {
            let far_end = FarEnd::start(Script::new()).expect("a port");
            let (port, seen) = front(&far_end, false, &[b"h2"]).await;
            let verdict = send(&trusting(port)).await;
            assert!(accepted(&verdict), "{verdict:?}");
            assert_eq!(seen.lock().expect("free").pop(), Some((Some("localhost".to_owned()), Some(b"h2".to_vec()))));

            let stranger = OtlpGrpcConfig { tls: TlsClient::default(), ..trusting(port) };
            assert!(unreachable(&send(&stranger).await));
            let blind = TlsClient { insecure_skip_verify: true, ..TlsClient::default() };
            assert!(accepted(&send(&OtlpGrpcConfig { tls: blind, ..trusting(port) }).await));
            let in_the_clear = send(&plain(SocketAddr::from(([127, 0, 0, 1], port)))).await;
            assert!(matches!(in_the_clear, Verdict::Silence { .. }), "{in_the_clear:?}");
            let (only_http_1, _) = front(&far_end, false, &[b"http/1.1"]).await;
            assert!(unreachable(&send(&trusting(only_http_1)).await), "no protocol in common");
            assert_eq!(far_end.seen().len(), 2);
        });
    }

    /// Goal: the name asked for and checked can be another, and so can the authority alone; the address stays.
    #[test]
    fn the_server_may_go_by_another_name() {
        run(async {
            let far_end = FarEnd::start(Script::new()).expect("a port");
            let (port, seen) = front(&far_end, false, &[b"h2"]).await;
            let mut config = trusting(port);
            config.endpoint = Some(Place::Net { host: "127.0.0.1".to_owned(), port });
            config.tls.server_name_override = Some("collector.example".to_owned());
            let verdict = send(&config).await;
            assert!(accepted(&verdict), "{verdict:?}");
            assert_eq!(
                seen.lock().expect("free").pop().and_then(|(name, _)| name).as_deref(),
                Some("collector.example")
            );
            config.tls.server_name_override = Some("stranger.example".to_owned());
            assert!(unreachable(&send(&config).await));

            let named = OtlpGrpcConfig { authority: Some("tenant.example".to_owned()), ..plain(far_end.addr()) };
            assert!(accepted(&send(&named).await));
            assert_eq!(far_end.seen().pop().expect("it came").header(":authority"), Some("tenant.example"));
        });
    }

    #[test]
    fn a_server_that_asks_who_we_are_is_told() {
        run(async {
            let far_end = FarEnd::start(Script::new()).expect("a port");
            let (port, _) = front(&far_end, true, &[b"h2"]).await;
            assert!(matches!(send(&trusting(port)).await, Verdict::Silence { .. }));
            let mut known = trusting(port);
            known.tls.common.cert = Some(Pem::Inline(Secret::new(CLIENT)));
            known.tls.common.key = Some(Pem::Inline(Secret::new(CLIENT_KEY)));
            let verdict = send(&known).await;
            assert!(accepted(&verdict), "{verdict:?}");
        });
    }

    /// Goal: a certificate whose time is over is refused, and the reason says so.
    #[test]
    fn an_expired_certificate_is_no_connection() {
        run(async {
            let key = rcgen::KeyPair::generate().expect("a key");
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
            let cert = params.self_signed(&key).expect("a certificate");
            let far_end = FarEnd::start(Script::new()).expect("a port");
            let (port, _) = super::super::tls::front_with(&far_end, &cert.pem(), &key.serialize_pem(), &[b"h2"]).await;
            let mut config = trusting(port);
            config.tls.common.ca = Some(Pem::Inline(Secret::new(&*cert.pem())));
            let verdict = send(&config).await;
            assert!(unreachable(&verdict) && verdict.why().to_lowercase().contains("expired"), "{verdict:?}");
        });
    }

    /// Goal: with `reload_interval` new files are taken while the agent runs; those that cannot be used change nothing.
    #[test]
    fn new_certificates_are_taken_while_it_runs() {
        run(async {
            let far_end = FarEnd::start(Script::new()).expect("a port");
            let (port, seen) = front(&far_end, true, &[b"h2"]).await;
            let dir = tempfile::tempdir().expect("a temporary directory");
            let at = |name: &str| dir.path().join(name);
            std::fs::write(at("cert"), SERVER).expect("space"); // not one for clients: refused
            std::fs::write(at("key"), SERVER_KEY).expect("space");
            let mut config = trusting(port);
            config.tls.common.cert = Some(Pem::File(at("cert")));
            config.tls.common.key = Some(Pem::File(at("key")));
            config.tls.common.reload_interval = 50 * MS;
            let recipe = GrpcRecipe { config, clock: Clock::system(), shown: None, meter: Meter::default() };
            let transport = Arc::new(Maker::new(recipe).expect("it is there")).make();
            let sends = async || {
                tokio::time::sleep(60 * MS).await;
                accepted(&transport.send(parcel(Signal::Logs, Encoding::Gzip)).await)
            };
            assert!(!sends().await);
            std::fs::write(at("cert"), CLIENT).expect("space");
            std::fs::write(at("key"), CLIENT_KEY).expect("space");
            assert!(sends().await, "the new ones");
            let handshakes = seen.lock().expect("free").len();
            assert!(sends().await && sends().await, "they stay");
            assert_eq!(seen.lock().expect("free").len(), handshakes, "looked at, the same: the connection stays");
            std::fs::write(at("key"), "half").expect("space");
            assert!(sends().await, "half written");
            std::fs::remove_file(at("cert")).expect("it is ours");
            assert!(sends().await, "gone");
        });
    }

    /// Goal: TLS goes through a proxy's tunnel, which sees nothing but the name.
    #[test]
    fn a_proxy_makes_a_tunnel() {
        run(async {
            let far_end = FarEnd::start(Script::new()).expect("a port");
            let (port, _) = front(&far_end, false, &[b"h2"]).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let proxy = listener.local_addr().expect("bound");
            let asked = tokio::spawn(async move {
                let (mut from, _) = listener.accept().await.expect("the client comes");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(from.read_u8().await.expect("a head"));
                }
                let mut to = TcpStream::connect(("127.0.0.1", port)).await.expect("the front listens");
                from.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.expect("sent");
                tokio::spawn(async move { copy_bidirectional(&mut from, &mut to).await });
                String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned()
            });
            let config = OtlpGrpcConfig { proxy_url: Some(format!("http://{proxy}")), ..trusting(port) };
            let verdict = send(&config).await;
            assert!(accepted(&verdict), "{verdict:?}");
            let asked = tokio::time::timeout(5_000 * MS, asked).await.expect("the proxy is asked");
            assert_eq!(asked.expect("it ended"), format!("CONNECT localhost:{port} HTTP/1.1"));
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Goal: what a far end reads over gRPC is what it reads over HTTP, and what was put in.
    #[test]
    fn grpc_carries_what_http_carries(
        signal in prop::sample::select(&Signal::ALL[..]),
        items in 0_u32..400,
        from in 0_u64..1_000_000,
        encoding in prop::sample::select(&[Encoding::Identity, Encoding::Gzip, Encoding::Snappy, Encoding::Zstd][..]),
    ) {
        let raw: Bytes = Numbered::new(signal, Source(3)).starting_at(from).request(items).bytes.into();
        let parcel = Parcel { signal, body: Packer::new(encoding, LEVEL).pack(&raw), upload_id: "x".to_owned(), origin: None };
        run(async {
            let far_end = FarEnd::start(Script::new()).expect("a port");
            let http = super::world::config(&far_end.endpoint());
            let http = crate::uplink::OtlpHttp::new(&http, 1, Clock::system()).expect("a client");
            assert!(accepted(&http.send(parcel.clone()).await));
            assert!(accepted(&client(&plain(far_end.addr())).send(parcel).await));
            let seen = far_end.seen();
            assert_eq!((seen[0].digest, seen[0].items), (seen[1].digest, seen[1].items));
            assert_eq!((seen[1].digest, seen[1].items), (xxh3_64(&raw), u64::from(items)));
        });
    }
}

/// The uplink over gRPC, with what it does over HTTP in `misfortunes.rs`.
fn world(script: Script) -> World {
    World::over(
        script,
        |_| {},
        |endpoint, clock| {
            let addr = endpoint.trim_start_matches("http://").parse().expect("an address");
            let config = OtlpGrpcConfig { timeout: Some(400 * MS), ..plain(addr) };
            GrpcRecipe { config, clock, shown: None, meter: Meter::default() }
        },
    )
}

/// Goal: whatever happens on the way, what was accepted arrives, over gRPC too.
#[test]
fn an_uplink_over_grpc_loses_nothing_to_any_misfortune() {
    for act in [
        Act::status(503),
        Act::status(429).retry_after(0),
        Act::grpc(Code::Unknown, None),
        Act::grpc(Code::Internal, None),
        Act::grpc(Code::OutOfRange, None),
        Act::grpc(Code::Unauthenticated, None),
        Act::Portal,
        Act::Hang,
        Act::ResetMidRequest,
        Act::TakeAndReset,
        Act::ResetMidAnswer,
        Act::ResetStream(2),
        Act::ok_with("application/grpc", b""),
    ] {
        run(async {
            let mut world = world(Script::new().times(3, act.clone()).lasting(100 * MS, Act::Refuse));
            for lane in 0..3 {
                (0..4).for_each(|_| world.put(lane, 50));
            }
            world.until_dry().await;
            world.assert_all_delivered();
        });
    }
}

/// Goal: the guilty item is found and kept for a person, also by a far end that says so in gRPC's codes; what is too large
/// is cut; what is rejected is counted.
#[test]
fn an_uplink_over_grpc_finds_the_guilty_and_counts_the_rejected() {
    run(async {
        let guilty = Mark { source: super::world::SOURCE, seq: 37 };
        let mut world = world(Script::new().poison(Signal::Logs, guilty).max_items(60));
        (0..4).for_each(|_| world.put(super::world::LOGS, 100));
        world.until_dry().await;
        assert_eq!(world.booked(|book| book.dead_letters), 1);
        assert_eq!(world.booked(|book| book.delivered), 399);
        assert!(!world.has(Signal::Logs, 37));
        world.far_end.play(Script::new().times(1, Act::partial(3, "too old")));
        world.put(super::world::LOGS, 100);
        world.until_dry().await;
        assert_eq!(world.booked(|book| book.lost.iter().sum::<u64>()), 3);
        world.assert_books_equal_the_far_end();
    });
}
