//! `:8888` and `:13133` on real sockets, through one actix-web server, read by a client that knows nothing but TCP.

use actix_web::dev::{AppService, HttpServiceFactory};
use actix_web::{App, HttpServer, web};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use tfo_otel_agent::base::{Clock, Stamp};
use tfo_otel_agent::extensions::health_check::{self, HealthCheckSettings};
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::telemetry::{Health, Metrics, ReceiverMetrics, serve};

/// One server for all ports (architecture §6): what is mounted depends on the port a connection came in at. The
/// configuration of the service knows it at registration, so nothing is decided per request.
struct ByPort {
    metrics: (SocketAddr, Metrics),
    health: (SocketAddr, Health),
}

impl HttpServiceFactory for ByPort {
    fn register(self, config: &mut AppService) {
        let port = config.config().local_addr();
        let scope = web::scope("");
        if port == self.metrics.0 {
            scope.configure(|cfg| serve::configure(cfg, &self.metrics.1)).register(config);
        } else if port == self.health.0 {
            let settings = HealthCheckSettings::default();
            scope.configure(|cfg| health_check::configure(cfg, &self.health.1, &settings)).register(config);
        }
    }
}

struct World {
    metrics: Metrics,
    health: Health,
    clock: Clock,
    metrics_at: SocketAddr,
    health_at: SocketAddr,
}

/// Starts the server, lets `client` work on a thread of its own, and stops.
fn with_server(client: impl FnOnce(World) + Send + 'static) {
    let clock = Clock::by_hand(Stamp { wall_ns: 1_795_412_561_801_000_000, mono_ms: 1_000 });
    let (metrics, health) = (Metrics::detached(), Health::starting(clock.clone()));
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [metrics_at, health_at] = [0, 1].map(|i: usize| listeners[i].local_addr().expect("it is bound"));
    let [first, second] = listeners;
    let world = World { metrics: metrics.clone(), health: health.clone(), clock, metrics_at, health_at };
    actix_rt::System::new().block_on(async move {
        let server = HttpServer::new(move || {
            App::new().service(ByPort { metrics: (metrics_at, metrics.clone()), health: (health_at, health.clone()) })
        })
        .workers(1)
        .worker_max_blocking_threads(1)
        .disable_signals()
        .listen(first)
        .and_then(|server| server.listen(second))
        .expect("both listen already")
        .run();
        let handle = server.handle();
        let running = actix_rt::spawn(server);
        let client = std::thread::spawn(move || client(world));
        while !client.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        handle.stop(false).await;
        running.await.expect("the server does not panic").expect("it ends in order");
        client.join().expect("the client's assertions hold");
    });
}

/// Sends a request and reads the answer: head (without its date) and body.
fn ask(at: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout is allowed");
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers and closes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head ends with an empty line");
    let mut head: Vec<&str> =
        head.split("\r\n").filter(|l| !l.starts_with("date: ") && *l != "connection: close").collect();
    head[1..].sort_unstable();
    (head.join("|"), body.to_owned())
}

#[test]
fn a_scrape_is_answered_with_the_type_of_the_original_and_other_paths_with_its_404() {
    with_server(|world| {
        ReceiverMetrics::new(&world.metrics, "otlp", "http").accepted(Signal::Traces, 8);
        let (head, body) = ask(world.metrics_at, "GET", "/metrics?name[]=x");
        let length = format!("content-length: {}", body.len());
        assert_eq!(head, format!("HTTP/1.1 200 OK|{length}|content-type: text/plain; version=0.0.4; charset=utf-8"));
        assert_eq!(body, world.metrics.text());
        assert!(body.contains("otelcol_receiver_accepted_spans{receiver=\"otlp\",service_instance_id="), "{body}");
        assert_eq!(ask(world.metrics_at, "POST", "/metrics").0, head, "Go's handler asks for no method");

        for path in ["/", "/metrics/", "/metricsx", "/ready"] {
            let (head, body) = ask(world.metrics_at, "GET", path);
            assert_eq!(
                head,
                "HTTP/1.1 404 Not Found|content-length: 19|content-type: text/plain; charset=utf-8|\
                 x-content-type-options: nosniff",
                "{path}"
            );
            assert_eq!(body, "404 page not found\n", "{path}");
        }
    });
}

#[test]
fn health_is_answered_with_the_bodies_of_the_original_by_any_method() {
    with_server(|world| {
        let available = |world: &World, method: &str, path: &str| {
            let (head, body) = ask(world.health_at, method, path);
            assert!(head.ends_with("|content-type: application/json"), "{head}");
            (head.split(' ').nth(1).expect("a status").to_owned(), body)
        };
        let down = r#"{"status":"Server not available","upSince":"0001-01-01T00:00:00Z","uptime":""}"#;
        assert_eq!(available(&world, "GET", "/"), ("503".into(), down.into()));
        assert_eq!(available(&world, "GET", "/live").0, "200", "a start is no reason for a restart");

        world.health.ready();
        world.clock.advance(Duration::from_millis(35_050));
        let (code, body) = available(&world, "GET", "/");
        let body_json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((code.as_str(), body_json["status"].as_str()), ("200", Some("Server available")));
        assert!(body.ends_with(r#","uptime":"35.05s"}"#), "{body}");
        for (method, path) in [("POST", "/"), ("DELETE", "/x/y?z"), ("OPTIONS", "/"), ("GET", "/ready")] {
            assert_eq!(available(&world, method, path), (code.clone(), body.clone()), "{method} {path}");
        }

        world.health.dead("spool-writer", "hangs");
        let (code, body) = available(&world, "GET", "/");
        assert_eq!(
            (code, body),
            ("503".into(), format!("{},\"reasons\":[\"spool-writer: hangs\"]}}", &down[..down.len() - 1]))
        );
        assert_eq!(available(&world, "GET", "/live").0, "503");
        world.health.alive("spool-writer");
        world.health.stopping();
        assert_eq!(available(&world, "GET", "/"), ("503".into(), down.into()));
    });
}
