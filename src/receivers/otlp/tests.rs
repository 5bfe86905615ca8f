//! Clients that begin and do not go on, on real sockets.

use super::config::{GrpcConfig, HttpConfig};
use super::door::{GrpcDoor, Line};
use super::grpc::OtlpGrpc;
use super::http::OtlpHttp;
use crate::app::roster::{OTLP_GRPC, WEB, hurried, row};
use crate::app::web::{Behind, Duty, Front, Port, Web};
use crate::base::{Bytes as Size, Swap};
use crate::batcher::budget::Budget;
use crate::config::Limits;
use crate::otlp::{Signal, Status};
use crate::processors::pipe::Pipe;
use crate::receivers::doorstep::Doorstep;
use crate::receivers::intake::Intake;
use crate::receivers::socket::Entrance;
use crate::supervise::{Handle, Settings, Supervisor};
use crate::telemetry::{ListenerMetrics, Metrics, ReceiverMetrics};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service as _;

/// What the receivers wait for in these tests.
const IDLE: Duration = Duration::from_millis(300);
/// Nothing here takes so long.
const SOON: Duration = Duration::from_secs(30);

struct Rig {
    _supervisor: Supervisor,
    _web: Handle<Web>,
    _grpc: Handle<GrpcDoor>,
    http: SocketAddr,
    grpc: SocketAddr,
    budget: Budget,
    metrics: Metrics,
}

impl Rig {
    fn start() -> Rig {
        let bind = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.set_nonblocking(true).expect("a socket");
            listener
        };
        let address = |listener: &TcpListener| listener.local_addr().expect("bound");
        let (budget, metrics) = (Budget::new(Size::mib(1)), Metrics::detached());
        let pipe = Pipe {
            groups: None,
            name: "logs".into(),
            signal: Signal::Logs,
            limiters: Vec::new(),
            steps: Vec::new(),
            lanes: Vec::new(),
            tees: Vec::new(),
        };
        let intake = Arc::new(Intake::new([Arc::new(pipe)], Vec::new(), budget.clone()));
        let counts = |transport| ReceiverMetrics::new(&metrics, "otlp", transport);
        let supervisor = Supervisor::start(hurried(), Settings::default()).expect("a watchdog");

        let limits = Limits { body_idle_timeout: IDLE, ..Limits::default() };
        let (listener, mut config) = (bind(), HttpConfig::default());
        config.server.limits = limits.clone();
        let http = address(&listener);
        let endpoint = OtlpHttp::new(&config, intake.clone(), counts("http"));
        let behind = Behind::Otlp(Arc::new(endpoint));
        let listens = ListenerMetrics::new(&metrics, "x");
        let entrance = Entrance::new(None, &limits, listens.clone());
        let duty = Duty {
            behind,
            entrance: entrance.clone(),
            doorstep: Doorstep::new(&config.server, None),
            head: Duration::ZERO,
            idle: Duration::ZERO,
        };
        let front = Front::default();
        front.set(vec![Arc::new(Port::new(Arc::new(listener), duty))]);
        let web = supervisor.post(row(&supervisor, &WEB), "", move || Web::new(front.clone()));

        let (listener, mut config) = (bind(), GrpcConfig::default());
        config.limits.common = limits;
        let (grpc, listener) = (address(&listener), Arc::new(listener));
        let service = OtlpGrpc::new(&config, None, intake, counts("grpc"));
        let line = Arc::new(Swap::new(Line { service, config, entrance, metrics: listens }));
        let door = move || GrpcDoor::new(listener.clone(), line.clone());
        let door = supervisor.post(row(&supervisor, &OTLP_GRPC), "otlp", door);
        Rig { _supervisor: supervisor, _web: web, _grpc: door, http, grpc, budget, metrics }
    }

    /// Requests refused because they did not come.
    fn slow(&self, transport: &str) -> u32 {
        let labels = [r#"reason="slow""#.to_owned(), format!("transport=\"{transport}\"")];
        let text = self.metrics.text();
        let mut lines = text.lines().filter(|line| line.starts_with("tfo_agent_requests_refused{"));
        let line = lines.find(|line| labels.iter().all(|label| line.contains(label)));
        line.map_or(0, |line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
    }
}

/// Sends a head, this much of the body and nothing more; all that is heard until the connection ends, as head and body.
async fn begin(to: SocketAddr, media: &str, begun: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(to).await.expect("it listens");
    let head = format!("POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {media}\r\ncontent-length: 9\r\n\r\n");
    stream.write_all(&[head.as_bytes(), begun].concat()).await.expect("sent");
    let (asked, mut said) = (Instant::now(), Vec::new());
    timeout(SOON, stream.read_to_end(&mut said)).await.expect("the connection ends").expect("in order");
    assert!(asked.elapsed() >= IDLE, "{:?}", asked.elapsed());
    let end = said.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let body = said.split_off(end);
    (String::from_utf8(said).expect("ASCII").to_lowercase(), body)
}

/// Goal: a client that stops in mid-body hears why, and its connection is closed: what it may still send is no request.
/// It holds nothing after that. One that has not begun the body is no other case.
#[actix::test]
async fn a_body_that_does_not_come_is_answered_408_and_the_connection_closed() {
    let rig = Rig::start();
    let (protobuf, json) = ("application/x-protobuf", "application/json");
    // At once: the server takes 5 s more to close, in case the client still reads.
    let (first, second) = tokio::join!(begin(rig.http, protobuf, b"\x0a\x07\x12"), begin(rig.http, json, b""));
    for ((head, _), media) in [(&first, protobuf), (&second, json)] {
        assert!(head.starts_with("http/1.1 408 ") && head.contains("connection: close\r\n"), "{head}");
        assert!(head.contains(&format!("content-type: {media}\r\n")), "{head}");
    }
    let said = Status::decode(&first.1).expect("a Status");
    assert_eq!((said.code, said.message.as_str()), (4, "the body did not come in time"));
    assert_eq!(second.1, br#"{"code":4,"message":"the body did not come in time"}"#);
    assert_eq!((rig.slow("http"), rig.budget.used()), (2, 0));
}

/// A call of LogsService whose message is these pieces and, unless it is whole, nothing more for ever.
async fn call(channel: &mut Channel, pieces: Vec<&'static [u8]>, whole: bool) -> http::Response<Body> {
    let sent = stream::iter(pieces).map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece))));
    let body = if whole {
        Body::new(StreamBody::new(sent).boxed_unsync())
    } else {
        Body::new(StreamBody::new(sent.chain(stream::pending())).boxed_unsync())
    };
    let path = "http://x/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    let request = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.expect("it is connected");
    let answer = channel.call(request.body(body).expect("a request"));
    timeout(SOON, answer).await.expect("it is answered").expect("in order")
}

/// Goal: the same over gRPC, where the connection is everybody's: the call ends, and the next one is served.
#[actix::test]
async fn a_grpc_message_that_does_not_come_ends_its_call_and_no_other() {
    let rig = Rig::start();
    let endpoint = Endpoint::from_shared(format!("http://{}", rig.grpc)).expect("an address");
    let mut channel = endpoint.connect().await.expect("it listens");
    let asked = Instant::now();
    let answer = call(&mut channel, vec![&[0, 0, 0, 0, 9, 0x0a], &[7]], false).await;
    assert!(asked.elapsed() >= IDLE, "{:?}", asked.elapsed());
    let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().expect("ASCII").to_owned());
    assert_eq!((answer.status().as_u16(), header("grpc-status").as_deref()), (200, Some("4")));
    assert_eq!(header("grpc-message").as_deref(), Some("the%20message%20did%20not%20come%20in%20time"));
    assert_eq!(header("grpc-status-details-bin"), None, "no RetryInfo: it is the client's own network");
    assert_eq!((rig.slow("grpc"), rig.budget.used()), (1, 0));
    let next = call(&mut channel, vec![&[0, 0, 0, 0, 0]], true).await;
    let collected = next.into_body().collect().await.expect("in order");
    let status = collected.trailers().and_then(|t| t.get("grpc-status")).map(http::HeaderValue::as_bytes);
    assert_eq!(status, Some(&b"0"[..]), "an empty request is taken, on the same connection");
}
