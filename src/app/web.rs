//! All HTTP ports in one server: a thread that accepts and one that works, whatever the number of ports (architecture
//! §6, "Process frugality").

use crate::receivers::doorstep::Doorstep;
use crate::receivers::otlp::http::OtlpHttp;
use crate::receivers::socket::Entrance;
use crate::supervise::Helper;
use crate::supervised;
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive};
use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory as _, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::{App, HttpRequest, HttpResponse, web};
use std::fmt;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;

/// What stands behind one port.
#[derive(Clone)]
pub enum Behind {
    /// An OTLP receiver.
    Otlp(Arc<OtlpHttp>),
    /// Something that answers from memory: health, metrics.
    Page(Arc<dyn Fn(&HttpRequest) -> HttpResponse + Send + Sync>),
}

impl fmt::Debug for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Behind::Otlp(_) => "Otlp",
            Behind::Page(_) => "Page",
        })
    }
}

/// A port, bound already.
#[derive(Debug)]
pub struct Port {
    /// Bound and listening: connections queue here while the server is rebuilt.
    pub listener: TcpListener,
    /// Who answers.
    pub behind: Behind,
    /// Who lets clients in, with TLS or without.
    pub entrance: Entrance,
    /// Who lets requests in, and adds what every answer has.
    pub doorstep: Arc<Doorstep>,
    /// How many it lets in (`limits.max_connections`).
    pub places: u32,
    /// How long a client may take for a head (`read_header_timeout`); zero: for ever.
    pub head: Duration,
    /// How long a connection may rest between requests (`idle_timeout`); zero: for ever.
    pub idle: Duration,
}

/// The server, as a post.
#[derive(Debug)]
pub struct Web {
    ports: Arc<Vec<Port>>,
    running: Option<ServerHandle>,
}

impl Web {
    /// For the factory.
    #[must_use]
    pub fn new(ports: Arc<Vec<Port>>) -> Web {
        Web { ports, running: None }
    }

    fn close(&mut self) {
        if let Some(server) = self.running.take() {
            // The order is given with the call; the future only waits for it.
            drop(server.stop(false));
        }
    }
}

/// The sign of life of the thread that answers: a request that blocks it would keep every client of every port waiting,
/// and the post itself lives on the main thread and would notice nothing.
#[derive(Clone)]
struct Life {
    helper: Arc<Mutex<Option<Helper>>>,
}

impl Life {
    /// On the post's thread.
    fn new() -> Life {
        Life { helper: Arc::new(Mutex::new(Some(Helper::of_this_post("the HTTP worker")))) }
    }

    /// On the worker's thread, once for each port; the first call takes the helper along. It ends with the worker.
    fn begin_on_this_thread(&self) {
        let helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(helper) = helper else { return };
        actix_rt::spawn(async move {
            loop {
                helper.beat();
                tokio::time::sleep(helper.period()).await;
            }
        });
    }
}

impl Actor for Web {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let life = Life::new();
        // Each port turns away what is too much for it; what is accepted and not yet turned away needs places too.
        let places: usize = self.ports.iter().map(|port| port.places as usize + 64).sum();
        let mut server = Server::build()
            .workers(1)
            .worker_max_blocking_threads(1)
            .disable_signals()
            .max_concurrent_connections(places)
            .shutdown_timeout(1);
        for (n, port) in self.ports.iter().enumerate() {
            let listener = port.listener.try_clone().expect("a file descriptor for a listener we have");
            let (ports, life) = (self.ports.clone(), life.clone());
            let served = move || {
                life.begin_on_this_thread();
                service(&ports[n])
            };
            server = server.listen(format!("web-{n}"), listener, served).expect("the listener is bound already");
        }
        let server = server.run();
        self.running = Some(server.handle());
        let watched = server.into_actor(self).map(|ended, web, _| {
            if web.running.is_some() {
                panic!("the HTTP server ended by itself: {ended:?}");
            }
        });
        ctx.spawn(watched);
    }
}
supervised!(Web, let_go: Web::close);

/// One port: from an accepted connection to its last answer.
fn service(
    port: &Port,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> + use<> {
    let app = App::new()
        .app_data(web::Data::new(port.behind.clone()))
        .app_data(web::Data::from(port.doorstep.clone()))
        .default_service(web::to(answer));
    let app = app.into_factory().map_err(|e: actix_web::Error| e.error_response());
    let http = HttpService::build()
        .keep_alive(if port.idle.is_zero() { KeepAlive::Os } else { KeepAlive::Timeout(port.idle) })
        .client_request_timeout(port.head) // 0: none
        .client_disconnect_timeout(Duration::from_secs(5))
        .h1(map_config(app, |()| AppConfig::default()));
    let entrance = port.entrance.clone();
    let greeted = move |stream: TcpStream| {
        let entrance = entrance.clone();
        async move {
            let peer = stream.peer_addr().ok();
            // Why not is counted by the entrance.
            entrance.greet(stream).await.map(|socket| (socket, peer)).ok_or(DispatchError::DisconnectTimeout)
        }
    };
    fn_service(greeted).and_then(http)
}

async fn answer(
    request: HttpRequest,
    body: web::Payload,
    behind: web::Data<Behind>,
    doorstep: web::Data<Doorstep>,
) -> HttpResponse {
    let mut answer = match (doorstep.enter(&request).await, behind.get_ref()) {
        (Ok(told), Behind::Otlp(endpoint)) => endpoint.answer(&request, body, told).await,
        (Ok(_), Behind::Page(page)) => page(&request),
        (Err(answer), Behind::Otlp(endpoint)) => {
            endpoint.stays_outside(answer.status());
            answer
        }
        (Err(answer), Behind::Page(_)) => answer,
    };
    doorstep.leave(&request, &mut answer);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::roster::{WEB, hurried, row};
    use crate::config::{HttpServer, Limits, Listen};
    use crate::supervise::{Exit, Settings, Supervisor};
    use crate::telemetry::{ListenerMetrics, Metrics};

    /// Goal: a request that blocks the one thread that answers is seen, although the post's own thread is well; and a
    /// server that merely idles, or was rebuilt, is not taken for a blocked one.
    #[actix::test]
    async fn a_blocked_worker_ends_the_process() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let page = |request: &HttpRequest| {
            if request.path() == "/block" {
                std::thread::sleep(Duration::from_secs(8));
            }
            HttpResponse::Ok().finish()
        };
        let metrics = ListenerMetrics::new(&Metrics::detached(), "page");
        let ports = Arc::new(vec![Port {
            listener,
            behind: Behind::Page(Arc::new(page)),
            entrance: Entrance::new(None, &Limits::default(), metrics),
            doorstep: Arc::new(Doorstep::new(&HttpServer::at(Listen::new("", 1)), None)),
            places: 9,
            head: Duration::ZERO,
            idle: Duration::ZERO,
        }]);
        let mut supervisor = Supervisor::start(hurried(), Settings::default()).expect("a watchdog");
        let _web = supervisor.post(row(&supervisor, &WEB), "", move || Web::new(ports.clone()));
        crate::uplink::otlp_http::install_provider();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let get = |path: &str| client.get(format!("http://{address}{path}")).send();
        let served = |answer: reqwest::Result<reqwest::Response>| answer.is_ok_and(|a| a.status().is_success());
        assert!(served(get("/").await));
        assert!(supervisor.lookout().sabotage("web", crate::supervise::Sabotage::PanicInHandler));
        tokio::time::sleep(Duration::from_secs(4)).await; // twice the hard deadline
        assert!(served(get("/").await));
        assert_eq!(supervisor.lookout().end(), None);
        let blocks = actix_rt::spawn(get("/block"));
        let end = tokio::time::timeout(Duration::from_secs(6), supervisor.run_until_end()).await.expect("it ends");
        assert_eq!(end.exit(), Exit::Blocked, "{end}");
        assert!(end.to_string().contains("the HTTP worker"), "{end}");
        blocks.abort();
    }
}
