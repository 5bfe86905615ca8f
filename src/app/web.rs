//! All HTTP ports in one server: a thread that accepts and one that works, whatever the number of ports (architecture
//! §6, "Process frugality").

use crate::receivers::otlp::http::OtlpHttp;
use crate::supervised;
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
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

impl Actor for Web {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let routes: Arc<Vec<(SocketAddr, Behind)>> =
            Arc::new(self.ports.iter().map(|p| (p.address, p.behind.clone())).collect());
        let app = move || App::new().app_data(web::Data::from(routes.clone())).default_service(web::to(answer));
        let mut server = HttpServer::new(app)
            .workers(1)
            .worker_max_blocking_threads(1)
            .disable_signals()
            .keep_alive(Duration::from_secs(75)) // longer than the usual exporter's minute, so that the client closes first
            .client_request_timeout(Duration::from_secs(10))
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
