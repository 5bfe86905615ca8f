//! Whom servers let in, what browsers may do, and what pipelines may know of a client.

use super::answers::{client_over, header, logs};
use super::rig::{PATIENCE, PROTOBUF, Rig, read};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tfo_otel_agent::app::plan::{self, Config};
use tfo_otel_agent::config::{Imagined, Locations, Machine};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::testing::load::until;
use tfo_otel_agent::testing::{Numbered, Source};
use tonic::transport::Channel;
use tonic::{Code, IntoRequest as _};

/// Both protocols with these keys beside their endpoints, one pipeline with these processors, and these extensions.
fn config(endpoint: &str, [grpc, http, processors, extensions]: [&str; 4]) -> String {
    format!(
        "yaml:{{receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:0', {grpc}}}, \
             http: {{endpoint: '127.0.0.1:0', {http}}}}}}}}}, \
           processors: {{attributes: {{actions: [{{action: upsert, key: fixed, value: 1}}, {processors}]}}}}, \
           extensions: {{{extensions}}}, \
           exporters: {{otlphttp: {{endpoint: '{endpoint}', compression: none}}}}, \
           service: {{telemetry: {{metrics: {{address: '127.0.0.1:0'}}}}, \
             pipelines: {{logs: {{receivers: [otlp], processors: [attributes], exporters: [otlphttp]}}}}}}}}"
    )
}

async fn start(parts: [&str; 4]) -> Rig {
    Rig::start(|endpoint, _| read(&Locations::of(&config(endpoint, parts)), &Imagined::with(&[]))).await
}

fn on_disk(endpoint: &str, parts: [&str; 4]) -> Config {
    let outcome = plan::read(&Locations::of(&config(endpoint, parts)), &Machine::new(|| None));
    outcome.config.unwrap_or_else(|| panic!("{}", outcome.report))
}

/// A far end that keeps what it gets, letter by letter.
struct Ear {
    endpoint: String,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Ear {
    fn new() -> Ear {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let (heard, endpoint) =
            (Arc::<Mutex<Vec<u8>>>::default(), format!("http://{}", listener.local_addr().expect("bound")));
        let to = heard.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let to = to.clone();
                std::thread::spawn(move || {
                    let mut piece = [0; 4_096];
                    while let Ok(n @ 1..) = stream.read(&mut piece) {
                        to.lock().expect("whole").extend_from_slice(&piece[..n]);
                        // The bodies of these tests are of one piece, with their heads or after them.
                        if !piece[..n].ends_with(b"\r\n\r\n") {
                            let taken =
                                b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
                            let _ = stream.write_all(taken);
                        }
                    }
                });
            }
        });
        Ear { endpoint, heard }
    }

    fn has_heard(&self, what: &str) -> bool {
        self.heard.lock().expect("whole").windows(what.len()).any(|w| w == what.as_bytes())
    }
}

fn one() -> Vec<u8> {
    Numbered::new(Signal::Logs, Source(1)).request(1).bytes
}

async fn channel(rig: &Rig) -> Channel {
    Channel::from_shared(rig.at("otlp/grpc")).expect("an address").connect().await.expect("it listens")
}

/// What comes of these credentials, over HTTP and over gRPC.
async fn knock(rig: &Rig, credentials: Option<&str>) -> (u16, Code) {
    let headers = [("content-type", PROTOBUF)].into_iter().chain(credentials.map(|value| ("authorization", value)));
    let over_http = rig.post("/v1/logs", &headers.collect::<Vec<_>>(), one()).await;
    if over_http.status() == 401 {
        assert_eq!(header(&over_http, "content-type"), "text/plain; charset=utf-8");
        assert!(["Bearer", "Basic"].contains(&&*header(&over_http, "www-authenticate")));
    }
    let status = over_http.status().as_u16();
    assert!(status != 401 || over_http.text().await.expect("a body") == "Unauthorized\n");
    let mut request = logs(&one()).into_request();
    if let Some(value) = credentials {
        request.metadata_mut().insert("authorization", value.parse().expect("ASCII"));
    }
    let over_grpc = client_over(channel(rig).await).export(request).await;
    (status, over_grpc.map_or_else(|refused| refused.code(), |_| Code::Ok))
}

const IN: (u16, Code) = (200, Code::Ok);
const OUT: (u16, Code) = (401, Code::Unauthenticated);

#[actix::test]
async fn a_bearer_token_lets_in_and_nothing_else_does() {
    let auth = "auth: {authenticator: bearertokenauth}";
    let rig = start([auth, auth, "", "bearertokenauth: {token: s3cret}"]).await;
    for (credentials, expected) in [
        (Some("Bearer s3cret"), IN),
        (Some("Bearer s3cre"), OUT),
        (Some("Bearer s3cret2"), OUT),
        (Some("s3cret"), OUT),
        (Some(""), OUT),
        (None, OUT),
    ] {
        assert_eq!(knock(&rig, credentials).await, expected, "{credentials:?}");
    }
    for transport in ["transport=\"http\"", "transport=\"grpc\""] {
        let refused = rig.number("tfo_agent_requests_refused", &[transport, "reason=\"unauthenticated\""]).await;
        assert_eq!(refused, 5.0, "{transport}");
    }
    assert_eq!(rig.post("/nowhere", &[], Vec::new()).await.status().as_u16(), 401, "also where nothing is");
    assert!(rig.far_end.until(PATIENCE, |c| c.counts().items == 2).await, "{:?}", rig.far_end.report());
}

/// As the README of the original's extension has it: a file of bcrypt beside an inline name in plain text.
#[actix::test]
async fn a_name_and_its_password_let_in_and_the_name_can_be_asked_for() {
    let hash = bcrypt::hash_with_salt("tr0mbone", 6, [7; 16]).expect("a hash").to_string();
    let ear = Ear::new();
    let rig = Rig::start(|_, dir: &Path| {
        let file = dir.join("htpasswd");
        std::fs::write(&file, format!("# people\nslow:{hash}\n")).expect("written");
        let extension = format!("basicauth/people: {{htpasswd: {{file: {}, inline: 'quick:p:w'}}}}", file.display());
        let auth = "auth: {authenticator: basicauth/people}";
        on_disk(&ear.endpoint, [auth, auth, "{action: insert, key: who, from_context: auth.username}", &extension])
    })
    .await;
    for (credentials, expected) in [
        (Some("Basic c2xvdzp0cjBtYm9uZQ=="), IN), // slow:tr0mbone
        (Some("Basic cXVpY2s6cDp3"), IN),         // quick:p:w
        (Some("Basic c2xvdzp0cmVib25l"), OUT),
        (Some("Basic bm9ib2R5OnA="), OUT),
        (Some("Basic !"), OUT),
        (None, OUT),
    ] {
        assert_eq!(knock(&rig, credentials).await, expected, "{credentials:?}");
    }
    assert!(until(PATIENCE, || ear.has_heard("slow") && ear.has_heard("quick")).await);
    assert!(!ear.has_heard("tr0mbone"));
}

/// Goal: who cannot be asked now is not sent away for good, for a 401 makes OTLP clients drop what they have.
#[actix::test]
async fn more_guesses_than_can_be_checked_are_asked_to_come_back() {
    let hash = bcrypt::hash_with_salt("tr0mbone", 9, [7; 16]).expect("a hash").to_string();
    let auth = "auth: {authenticator: basicauth}";
    let rig = start([auth, auth, "", &format!("basicauth: {{htpasswd: {{inline: 'slow:{hash}'}}}}")]).await;
    let guess = |n: u32| {
        let request = rig.http.post(rig.url("/v1/logs")).basic_auth("slow", Some(n));
        request.header("content-type", PROTOBUF).body(one()).send()
    };
    let answers = futures_util::future::join_all((0..20).map(guess)).await;
    let told: Vec<_> = answers.into_iter().map(|answer| answer.expect("an answer")).collect();
    let of = |status: u16| told.iter().filter(|answer| answer.status() == status).count();
    let busy_over_http = of(503);
    assert_eq!(of(401) + busy_over_http, 20);
    assert!((4..=12).contains(&of(401)), "four have a place, and whoever comes when one is through: {}", of(401));
    assert!(told.iter().filter(|it| it.status() == 503).all(|it| header(it, "retry-after") == "2"));
    let request = |n: u32| {
        let mut request = logs(&one()).into_request();
        let coded = STANDARD.encode(format!("slow:other {n}"));
        request.metadata_mut().insert("authorization", format!("Basic {coded}").parse().expect("ASCII"));
        request
    };
    let client = client_over(channel(&rig).await);
    let calls = (0..20).map(|n| {
        let (mut client, request) = (client.clone(), request(n));
        async move { client.export(request).await.expect_err("nobody is let in") }
    });
    let told = futures_util::future::join_all(calls).await;
    let busy: Vec<_> = told.iter().filter(|it| it.code() == Code::Unavailable).collect();
    assert_eq!(busy.len() + told.iter().filter(|it| it.code() == Code::Unauthenticated).count(), 20);
    assert!(busy.len() >= 8, "{}", busy.len());
    assert!(busy.iter().all(|it| !it.details().is_empty()), "with RetryInfo");
    assert_eq!(knock(&rig, Some("Basic c2xvdzp0cjBtYm9uZQ==")).await, IN);
    assert_eq!(rig.number("tfo_agent_requests_refused", &["unavailable", "http"]).await, busy_over_http as f64);
}

#[actix::test]
async fn an_exporter_shows_its_credentials() {
    for (extension, expected) in [
        ("bearertokenauth: {token: s3cret}", "Bearer s3cret"),
        ("bearertokenauth: {token: s3cret, scheme: ApiKey}", "ApiKey s3cret"),
        ("basicauth: {client_auth: {username: user, password: s3cret}}", "Basic dXNlcjpzM2NyZXQ="),
    ] {
        let name = extension.split(':').next().expect("a name");
        let rig = Rig::start(|endpoint, _| {
            let yaml = config(endpoint, ["", "", "", extension]);
            let auth = format!("compression: none, auth: {{authenticator: {name}}}");
            read(&Locations::of(&yaml.replace("compression: none", &auth)), &Imagined::with(&[]))
        })
        .await;
        assert_eq!(rig.post("/v1/logs", &[("content-type", PROTOBUF)], one()).await.status().as_u16(), 200);
        let shown = |c: &mut tfo_otel_agent::testing::far_end::Collector| {
            c.seen().any(|seen| seen.header("authorization") == Some(expected))
        };
        assert!(rig.far_end.until(PATIENCE, shown).await, "{extension}");
    }
}

/// Goal: a token that a machine gets after the start, and gets anew every hour, needs no restart: until it is there the
/// exporter keeps what it has, and then sends it.
#[actix::test]
async fn an_exporter_waits_for_its_token_and_follows_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let token = dir.path().join("token");
    let extension = format!("bearertokenauth: {{filename: {}}}", token.display());
    let rig = Rig::start(|endpoint, _| {
        let yaml = config(endpoint, ["", "", "", &extension]);
        let more =
            "auth: {authenticator: bearertokenauth}, retry_on_failure: {initial_interval: 200ms, max_interval: 200ms}";
        let yaml = yaml.replace("compression: none", &format!("compression: none, {more}"));
        let outcome = plan::read(&Locations::of(&yaml), &Machine::new(|| None));
        assert!(outcome.report.to_string().contains("exporters keep their data"), "{}", outcome.report);
        outcome.config.expect("a warning")
    })
    .await;
    let post = async || rig.post("/v1/logs", &[("content-type", PROTOBUF)], one()).await.status().as_u16();
    let heard = async |token: &str| {
        let shown = |c: &mut tfo_otel_agent::testing::far_end::Collector| {
            c.seen().any(|seen| seen.header("authorization") == Some(token))
        };
        assert!(rig.far_end.until(PATIENCE, shown).await, "{token}: {:?}", rig.far_end.report());
    };
    assert_eq!(post().await, 200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.far_end.with(|c| c.seen().count()), 0, "nothing is sent without it");
    std::fs::write(&token, "first\n").expect("written");
    heard("Bearer first").await;
    std::fs::write(&token, "second\n").expect("written");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(post().await, 200);
    heard("Bearer second").await;
    assert_eq!(rig.far_end.with(|c| c.counts().items), 2, "each once");
}

/// What a browser asks first, and what it then sends.
#[actix::test]
async fn a_browser_of_an_allowed_origin_may_send_and_its_question_needs_no_credentials() {
    let cors = "cors: {allowed_origins: ['https://*.example.com'], allowed_headers: [X-Api-Key, Content-Type], max_age: 7200}, \
                auth: {authenticator: bearertokenauth}, response_headers: {X-Served-By: edge}";
    let rig = start(["", cors, "", "bearertokenauth: {token: t}"]).await;
    let ask = async |origin: &str, method: &str, headers: &str| {
        let asked = rig.http.request(reqwest::Method::OPTIONS, rig.url("/v1/logs"));
        let asked = asked.header("origin", origin).header("access-control-request-method", method);
        let answer = asked.header("access-control-request-headers", headers).send().await.expect("an answer");
        let told = ["origin", "methods", "headers", "credentials"];
        let told = told.map(|name| header(&answer, &format!("access-control-allow-{name}"))).join("|");
        let vary = answer.headers().get_all("vary").iter().count();
        let rest = (header(&answer, "access-control-max-age"), header(&answer, "x-served-by"));
        (answer.status().as_u16(), told, vary, rest)
    };
    let (allowed, headers) = ("https://app.example.com", "content-type, x-api-key");
    let yes = (204, format!("{allowed}|POST|{headers}|true"), 3, ("7200".to_owned(), "edge".to_owned()));
    assert_eq!(ask(allowed, "POST", headers).await, yes);
    let no = (204, "|||".to_owned(), 3, (String::new(), "edge".to_owned()));
    assert_eq!(ask("https://example.org", "POST", headers).await, no);
    assert_eq!(ask(allowed, "DELETE", headers).await, no);
    assert_eq!(ask(allowed, "POST", "x-other").await, no);

    let send = async |origin: &'static str, token: &'static str| {
        let headers = [("content-type", PROTOBUF), ("origin", origin), ("authorization", token)];
        let answer = rig.post("/v1/logs", &headers, one()).await;
        let allowed = header(&answer, "access-control-allow-origin");
        (answer.status().as_u16(), allowed, header(&answer, "vary"), header(&answer, "x-served-by"))
    };
    let told = |status, origin: &str| (status, origin.to_owned(), "Origin".to_owned(), "edge".to_owned());
    assert_eq!(send("https://app.example.com", "Bearer t").await, told(200, allowed));
    assert_eq!(send("https://app.example.com", "").await, told(401, allowed), "the page may know why");
    assert_eq!(send("https://example.org", "Bearer t").await, told(200, ""), "no browser shows it that it went well");
    let plain = rig.http.request(reqwest::Method::OPTIONS, rig.url("/v1/logs")).header("authorization", "Bearer t");
    assert_eq!(plain.send().await.expect("an answer").status().as_u16(), 405, "no question of a browser");
}

/// What the request came with becomes an attribute, where it is told, and nowhere else.
#[actix::test]
async fn pipelines_know_a_requests_metadata_where_it_is_included() {
    let action = "{action: insert, key: tenant, from_context: metadata.x-tenant}";
    for (include, expected) in [("include_metadata: true", true), ("", false)] {
        let ear = Ear::new();
        let yaml = config(&ear.endpoint, [include, include, action, ""]);
        let rig = Rig::start(|_, _| read(&Locations::of(&yaml), &Imagined::with(&[]))).await;
        let headers = [("content-type", PROTOBUF), ("X-Tenant", "tenant-of-http")];
        assert_eq!(rig.post("/v1/logs", &headers, one()).await.status().as_u16(), 200);
        let mut request = logs(&one()).into_request();
        request.metadata_mut().insert("x-tenant", "tenant-of-grpc".parse().expect("ASCII"));
        client_over(channel(&rig).await).export(request).await.expect("taken");
        assert_eq!(rig.post("/v1/logs", &headers[..1], one()).await.status().as_u16(), 200);
        let arrived =
            async |tenant| until(Duration::from_secs(if expected { 30 } else { 2 }), || ear.has_heard(tenant)).await;
        assert_eq!(
            (arrived("tenant-of-http").await, arrived("tenant-of-grpc").await),
            (expected, expected),
            "{include}"
        );
        assert!(until(PATIENCE, || ear.has_heard("fixed")).await);
    }
}

/// What is asked for and cannot be done is a problem at its key.
#[test]
fn an_authenticator_that_cannot_ask_or_speak_is_told() {
    let told = |[server, exporter, extensions]: [&str; 3]| {
        let yaml = config("http://x", [server, "", "", extensions]);
        let yaml = yaml.replace("compression: none", &format!("compression: none, {exporter}"));
        plan::read(&Locations::of(&yaml), &Imagined::with(&[])).report.to_string()
    };
    let (bearer, auth) = ("bearertokenauth: {token: t}", "auth: {authenticator: bearertokenauth}");
    assert!(told([auth, auth, bearer]).contains("1 warning"), "it is started though not listed");
    let basic = "auth: {authenticator: basicauth}";
    #[rustfmt::skip]
    let cases = [
        ([auth, "", ""],                                            "receivers.otlp.protocols.grpc.auth.authenticator  `bearertokenauth` is not defined under extensions"),
        (["auth: {authenticator: health_check}", "", "health_check: {endpoint: '127.0.0.1:1'}"], "`health_check` is no authenticator; bearertokenauth, basicauth, oauth2client and headers_setter are"),
        ([basic, "", "basicauth: {client_auth: {username: u, password: p}}"], "`basicauth` has no htpasswd, which is what a server asks by"),
        (["", basic, "basicauth: {htpasswd: {inline: 'u:p'}}"],      "exporters.otlphttp.auth.authenticator  `basicauth` has no client_auth, which is what an exporter sends"),
        ([auth, auth, "bearertokenauth: {filename: /t}"],            "extensions.bearertokenauth.filename"), // a server cannot wait for it
        ([auth, "", "bearertokenauth: {filename: /none}"],           "extensions.bearertokenauth.filename"),
        ([basic, "", "basicauth: {htpasswd: {file: /none}}"],        "extensions.basicauth.htpasswd.file"),
    ];
    for (parts, expected) in cases {
        let told = told(parts);
        assert!(told.contains(expected), "{parts:?}: {told}");
        assert!(told.contains("1 problem"), "{told}");
    }
}
