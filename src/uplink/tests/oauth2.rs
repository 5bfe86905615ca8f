//! Tokens that a server gives: a real socket that gives them, and a real far end that looks at them.

use super::world::{LOGS, METRICS, MS, TRACES, World, run};
use crate::base::Clock;
use crate::config::{Secret, TlsClient};
use crate::testing::far_end::{Act, FarEnd, Script};
use crate::uplink::budget::Meter;
use crate::uplink::client::Shown;
use crate::uplink::config::{Credential, OAuth2Config, OtlpGrpcConfig, Place};
use crate::uplink::link::Trouble;
use crate::uplink::oauth2::Grant;
use crate::uplink::otlp_grpc::GrpcRecipe;
use crate::uplink::otlp_http::HttpRecipe;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// One answer: a status, further headers, a body.
type Reply = (u16, &'static str, String);

/// Gives tokens; remembers the requests, and says `next`, then `always`.
struct TokenServer {
    addr: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    next: VecDeque<Reply>,
    /// Seconds each token lives for; 0: it does not say.
    life: u64,
    /// Tokens given.
    given: u64,
    /// Head and body of each request.
    asked: Vec<(String, String)>,
}

impl TokenServer {
    async fn start(life: u64) -> TokenServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let shared = Arc::new(Mutex::new(Shared { life, ..Shared::default() }));
        let served = shared.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let shared = served.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).expect("a head");
                    let length = head.lines().find_map(|line| {
                        let (name, value) = line.split_once(": ")?;
                        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().expect("a number"))
                    });
                    let mut body = vec![0; length.unwrap_or(0)];
                    stream.read_exact(&mut body).await.expect("a body");
                    let (status, headers, text) =
                        shared.lock().expect("free").reply(head, String::from_utf8(body).expect("a form"));
                    let answer = format!(
                        "HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
                        text.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        TokenServer { addr, shared }
    }

    fn config(&self) -> OAuth2Config {
        OAuth2Config {
            token_url: format!("http://{}/token", self.addr),
            client_id: Credential::Given(Secret::new("the agent")),
            client_secret: Credential::Given(Secret::new("s3cret:&")),
            scopes: vec!["a".to_owned(), "b".to_owned()],
            endpoint_params: vec![("audience".to_owned(), Secret::new("x y"))],
            timeout: 400 * MS,
            expiry_buffer: Duration::from_secs(300),
            tls: TlsClient::default(),
        }
    }

    fn says(&self, replies: &[Reply]) {
        self.shared.lock().expect("free").next.extend(replies.iter().cloned());
    }

    fn asked(&self) -> Vec<(String, String)> {
        self.shared.lock().expect("free").asked.clone()
    }
}

impl Shared {
    fn reply(&mut self, head: String, body: String) -> Reply {
        self.asked.push((head, body));
        self.next.pop_front().unwrap_or_else(|| {
            self.given += 1;
            let life = if self.life == 0 { String::new() } else { format!(", \"expires_in\": {}", self.life) };
            (200, "", format!("{{\"access_token\": \"token-{}\", \"token_type\": \"bearer\"{life}}}", self.given))
        })
    }
}

fn shown(config: &OAuth2Config) -> Shown {
    let value = Arc::new(Grant::new(config, Clock::system()).expect("a client"));
    Shown { header: http::header::AUTHORIZATION, value }
}

/// An uplink that shows these tokens over HTTP, or over gRPC.
fn world(grpc: bool, config: &OAuth2Config) -> World {
    let shown = shown(config);
    match grpc {
        false => World::over(
            Script::new(),
            |_| {},
            |endpoint, clock| HttpRecipe::new(&super::world::config(endpoint), 4, clock, Some(shown)),
        ),
        true => World::over(
            Script::new(),
            |_| {},
            |endpoint, clock| {
                let addr: SocketAddr = endpoint.trim_start_matches("http://").parse().expect("an address");
                let config = OtlpGrpcConfig {
                    endpoint: Some(Place::Net { host: addr.ip().to_string(), port: addr.port() }),
                    tls: TlsClient { insecure: true, ..TlsClient::default() },
                    ..OtlpGrpcConfig::default()
                };
                GrpcRecipe { config, clock, shown: Some(shown), meter: Meter::default() }
            },
        ),
    }
}

fn tokens(far_end: &FarEnd) -> Vec<String> {
    far_end.seen().iter().map(|seen| seen.header("authorization").unwrap_or_default().to_owned()).collect()
}

/// Goal: one request gives a token for all uploads, in the words of RFC 6749: the client's name and secret are encoded as in a form.
#[test]
fn a_token_is_asked_for_once_and_shown_with_every_upload() {
    for grpc in [false, true] {
        run(async {
            let server = TokenServer::start(3_600).await;
            let mut world = world(grpc, &server.config());
            for _ in 0..5 {
                [LOGS, TRACES, METRICS].into_iter().for_each(|lane| world.put(lane, 10));
            }
            world.until_dry().await;
            world.assert_all_delivered();
            assert!(
                tokens(&world.far_end).iter().all(|token| token == "Bearer token-1"),
                "{:?}",
                tokens(&world.far_end)
            );
            let asked = server.asked();
            let [(head, body)] = &asked[..] else { panic!("{asked:?}") };
            assert!(head.starts_with("POST /token HTTP/1.1\r\n"), "{head}");
            // the+agent:s3cret%3A%26
            assert!(head.contains(": Basic dGhlK2FnZW50OnMzY3JldCUzQSUyNg==\r\n"), "{head}");
            assert_eq!(body, "grant_type=client_credentials&scope=a+b&audience=x+y");
        });
    }
}

/// Goal: a token that the far end no longer takes is replaced at once, and no upload fails for that.
#[test]
fn a_refused_token_is_replaced_once() {
    for (grpc, no) in [(false, Act::status(401)), (true, Act::grpc(tonic::Code::Unauthenticated, None))] {
        run(async {
            let server = TokenServer::start(3_600).await;
            let mut world = world(grpc, &server.config());
            world.put(LOGS, 10);
            world.until_dry().await;
            world.far_end.play(Script::new().times(1, no.clone()));
            world.put(LOGS, 10);
            world.until_dry().await;
            assert_eq!(tokens(&world.far_end), ["Bearer token-1", "Bearer token-1", "Bearer token-2"]);
            assert!(
                world.troubles().is_empty() && world.shown("tfo_agent_uplink_requests{") == 2,
                "{}",
                world.metrics.text()
            );
            // One that is refused for good holds the data, and asks for one token at each try.
            world.far_end.play(Script::new().always(no));
            world.put(LOGS, 10);
            world
                .until("it is held", |w| {
                    w.view.borrow().lanes.first().and_then(|lane| lane.link.trouble()) == Some(Trouble::Held)
                })
                .await;
            let (seen, asked) = (world.far_end.seen().len(), server.asked().len());
            assert!(asked <= 2 + seen, "{asked} requests for tokens for {seen} uploads");
            world.far_end.play(Script::new());
            world.until_dry().await;
            world.assert_all_delivered();
        });
    }
}

/// Goal: while the server of tokens is away, or has none, or refuses us, or somebody else answers in its place, nothing is sent and
/// nothing is lost; the reason is told.
#[test]
fn without_a_token_the_data_waits() {
    let page = "<html>Welcome aboard</html>".to_owned();
    let refusal = "{\"error\": \"invalid_client\", \"error_description\": \"who?\"}".to_owned();
    for (reply, trouble, why) in [
        (
            (503, "Retry-After: 0\r\n", String::new()),
            Trouble::Busy,
            "there is no token: the server of tokens has none now: 503",
        ),
        ((200, "", page), Trouble::Portal, "there is no token: the server of tokens answered with something else 200"),
        (
            (400, "", refusal),
            Trouble::Held,
            "there is no token: the server of tokens refuses us: 400 invalid_client who?",
        ),
        ((200, "", "{}".to_owned()), Trouble::Held, "there is no token: the answer has no access_token: 200"),
    ] {
        run(async {
            let server = TokenServer::start(3_600).await;
            server.says(&vec![reply; 50]);
            let mut world = world(false, &server.config());
            world.put(LOGS, 10);
            world
                .until("it is told", |w| {
                    let view = w.view.borrow();
                    view.link.trouble().or(view.lanes.first().and_then(|lane| lane.link.trouble())) == Some(trouble)
                })
                .await;
            assert_eq!(world.view.borrow().last_failure, why);
            assert!(world.far_end.seen().is_empty());
            server.shared.lock().expect("free").next.clear();
            world.until_dry().await;
            world.assert_all_delivered();
        });
    }
    run(async {
        let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
        let config = OAuth2Config { token_url: format!("http://{nobody}/"), ..TokenServer::start(0).await.config() };
        let mut world = world(false, &config);
        world.put(LOGS, 10);
        world.until("the link is down", |w| w.view.borrow().link.trouble() == Some(Trouble::Unreachable)).await;
        let why = world.view.borrow().last_failure.clone();
        assert!(why.starts_with("there is no token: ") && why.contains("refused"), "{why}");
        assert_eq!(world.booked(|book| book.waiting), 10);
    });
}

/// Goal: a token is replaced before its end, and used to its end when no new one is to be had.
#[test]
fn a_token_is_renewed_before_it_ends() {
    run(async {
        let server = TokenServer::start(2).await;
        let mut world = world(false, &server.config());
        world.put(LOGS, 1);
        world.until_dry().await;
        // Half of its two seconds: the buffer of five minutes is longer than it lives.
        server.says(&[(500, "", String::new())]);
        sleep(1_100 * MS).await;
        world.put(LOGS, 1);
        world.until_dry().await;
        assert_eq!(tokens(&world.far_end), ["Bearer token-1"; 2], "still good");
        sleep(1_100 * MS).await;
        world.put(LOGS, 1);
        world.until_dry().await;
        assert_eq!(tokens(&world.far_end)[2], "Bearer token-2");
        world.assert_all_delivered();
    });
}

/// Goal: a server that wants name and secret in the body gets them there, from then on there alone; files are read anew each time.
#[test]
fn the_secret_stands_where_the_server_wants_it() {
    run(async {
        let server = TokenServer::start(0).await;
        server.says(&[(401, "", "{\"error\": \"invalid_client\"}".to_owned())]);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        let files = OAuth2Config {
            client_id: Credential::File(at("id")),
            client_secret: Credential::File(at("secret")),
            scopes: Vec::new(),
            endpoint_params: Vec::new(),
            ..server.config()
        };
        std::fs::write(at("id"), "i\n").expect("space");
        let mut world = world(false, &files);
        world.put(LOGS, 1);
        world
            .until("it is held", |w| {
                w.view.borrow().lanes.first().and_then(|lane| lane.link.trouble()) == Some(Trouble::Held)
            })
            .await;
        let why = world.view.borrow().last_failure.clone();
        assert!(why.starts_with("there is no token: client_secret_file `") && why.contains("No such file"), "{why}");
        std::fs::write(at("secret"), "one\n").expect("space");
        world.until_dry().await;
        std::fs::write(at("secret"), "two\n").expect("space");
        world.far_end.play(Script::new().times(1, Act::status(401)));
        world.put(LOGS, 1);
        world.until_dry().await;
        let bodies: Vec<String> = server.asked().into_iter().map(|(_, body)| body).collect();
        let with = |secret: &str| format!("grant_type=client_credentials&client_id=i&client_secret={secret}");
        assert_eq!(bodies, ["grant_type=client_credentials".to_owned(), with("one"), with("two")]);
        assert!(server.asked()[1..].iter().all(|(head, _)| !head.to_lowercase().contains("authorization")));
        assert!(!format!("{:?} {:?}", shown(&files), files).contains("two"));
    });
}
