//! All HTTP ports in one server: a thread that accepts and one that works, whatever the number of ports (architecture
//! §6, "Process frugality").

use crate::receivers::otlp::http::OtlpHttp;
use crate::supervised;
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use actix_web::dev::ServerHandle;
use actix_web::http::KeepAlive;
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

    #[test]
    fn the_longest_wish_counts_and_zero_is_for_ever() {
        let of = |all: &[u64]| longest(all.iter().map(|s| Duration::from_secs(*s)));
        assert_eq!(of(&[60, 75, 10]), Some(Duration::from_secs(75)));
        assert_eq!((of(&[60, 0, 10]), of(&[0]), of(&[])), (None, None, None));
    }
}
