//! All HTTP ports in one server: a thread that accepts and one that works, whatever the number of ports (architecture
//! §6, "Process frugality").

use crate::receivers::otlp::http::OtlpHttp;
use crate::supervise::Helper;
use crate::supervised;
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use actix_web::dev::ServerHandle;
use actix_web::http::KeepAlive;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// Its own address, by which requests are told apart.
    pub address: SocketAddr,
    /// Who answers.
    pub behind: Behind,
    /// How long a client may take for a head (`read_header_timeout`); zero: for ever.
    pub head: Duration,
    /// How long a connection may rest between requests (`idle_timeout`); zero: for ever.
    pub idle: Duration,
}

/// The longest of what the ports want, since one server serves them all; `None`: for ever.
fn longest(wanted: impl Iterator<Item = Duration>) -> Option<Duration> {
    wanted.reduce(|a, b| if a.is_zero() || b.is_zero() { Duration::ZERO } else { a.max(b) }).filter(|d| !d.is_zero())
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
        let routes: Arc<Vec<(SocketAddr, Behind)>> =
            Arc::new(self.ports.iter().map(|p| (p.address, p.behind.clone())).collect());
        let life = Life::new();
        let app = move || {
            life.begin_on_this_thread();
            App::new().app_data(web::Data::from(routes.clone())).default_service(web::to(answer))
        };
        let mut server = HttpServer::new(app)
            .workers(1)
            .worker_max_blocking_threads(1)
            .disable_signals()
            .keep_alive(longest(self.ports.iter().map(|p| p.idle)).map_or(KeepAlive::Os, KeepAlive::Timeout))
            .client_request_timeout(longest(self.ports.iter().map(|p| p.head)).unwrap_or(Duration::ZERO)) // 0: none
            .client_disconnect_timeout(Duration::from_secs(5))
            .max_connections(1_024)
            .shutdown_timeout(1);
        for port in self.ports.iter() {
            let listener = port.listener.try_clone().expect("a file descriptor for a listener we have");
            server = server.listen(listener).expect("the listener is bound already");
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

async fn answer(
    request: HttpRequest,
    body: web::Payload,
    routes: web::Data<Vec<(SocketAddr, Behind)>>,
) -> HttpResponse {
    let at = request.app_config().local_addr();
    match routes.iter().find(|(address, _)| *address == at).map(|(_, behind)| behind) {
        Some(Behind::Otlp(endpoint)) => endpoint.answer(&request, body).await,
        Some(Behind::Page(page)) => page(&request),
        None => HttpResponse::NotFound().finish(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::roster::{WEB, hurried, row};
    use crate::supervise::{Exit, Settings, Supervisor};

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
        let ports = Arc::new(vec![Port {
            listener,
            address,
            behind: Behind::Page(Arc::new(page)),
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

    #[test]
    fn the_longest_wish_counts_and_zero_is_for_ever() {
        let of = |all: &[u64]| longest(all.iter().map(|s| Duration::from_secs(*s)));
        assert_eq!(of(&[60, 75, 10]), Some(Duration::from_secs(75)));
        assert_eq!((of(&[60, 0, 10]), of(&[0]), of(&[])), (None, None, None));
    }
}
