//! All HTTP ports on one thread, whatever their number (architecture §6, "Process frugality"); ports come and go and
//! change what they do while the others go on.
//!
//! ```text
//! Front (the ports) ─▶ Web ── for each port: attend ──▶ connection ──▶ request
//!                                                       Duty of when    Duty of when
//!                                                       it began        it comes
//! ```

use crate::base::Swap;
use crate::receivers::doorstep::Doorstep;
use crate::receivers::otlp::http::OtlpHttp;
use crate::receivers::socket::{Entrance, Parting, attend, parted};
use crate::supervised;
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use actix_http::{ConnectionType, HttpService, KeepAlive};
use actix_service::{
    IntoServiceFactory as _, Service as _, ServiceFactory as _, ServiceFactoryExt as _, boxed, map_config,
};
use actix_web::dev::AppConfig;
use actix_web::{App, HttpRequest, HttpResponse, web};
use std::fmt;
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

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

/// What a port does.
#[derive(Debug)]
pub struct Duty {
    /// Who answers: each request by the one that is there when it comes.
    pub behind: Behind,
    /// Who lets requests in, and adds what every answer has; as above.
    pub doorstep: Doorstep,
    /// Who lets clients in, with TLS or without. This and what follows is for connections that begin.
    pub entrance: Entrance,
    /// How long a client may take for a head (`read_header_timeout`); zero: for ever.
    pub head: Duration,
    /// How long a connection may rest between requests (`idle_timeout`); zero: for ever.
    pub idle: Duration,
}

/// A port, bound already: connections queue in its listener while the server is rebuilt.
#[derive(Debug)]
pub struct Port {
    listener: Arc<TcpListener>,
    duty: Arc<Swap<Duty>>,
    /// Each connection and whoever accepts them listens to it.
    parting: watch::Sender<Option<Parting>>,
}

impl Port {
    /// Somebody listens there.
    #[must_use]
    pub fn new(listener: Arc<TcpListener>, duty: Duty) -> Port {
        Port { listener, duty: Arc::new(Swap::new(duty)), parting: watch::Sender::new(None) }
    }

    /// What it does now.
    #[must_use]
    pub fn duty(&self) -> Arc<Duty> {
        self.duty.get()
    }

    /// From now on it does this. Connections stay.
    pub fn take_up(&self, duty: Duty) {
        self.duty.set(duty);
    }

    /// Lets nobody in any more; ready when everybody is out. Connections end with the request they have, and at once
    /// when they have none.
    pub async fn part(&self, why: Parting) {
        self.parting.send_replace(Some(why));
        self.parting.closed().await;
    }
}

/// The ports there are; what is changed here is carried out by the post.
#[derive(Debug, Clone, Default)]
pub struct Front(Arc<watch::Sender<Vec<Arc<Port>>>>);

impl Front {
    /// From now on these. One that is not among them any more is to be parted with as well.
    pub fn set(&self, ports: Vec<Arc<Port>>) {
        self.0.send_replace(ports);
    }
}

/// The server, as a post.
#[derive(Debug)]
pub struct Web {
    front: Front,
    /// Who accepts, for each port.
    attending: Vec<(Arc<Port>, JoinHandle<()>)>,
}

impl Web {
    /// For the factory.
    #[must_use]
    pub fn new(front: Front) -> Web {
        Web { front, attending: Vec::new() }
    }

    /// Connections stay, and end when their ports are parted with.
    fn close(&mut self) {
        self.attending.drain(..).for_each(|(_, task)| task.abort());
    }

    /// Attends the ports there are now, and comes back when that changes.
    fn follow(&mut self, mut news: watch::Receiver<Vec<Arc<Port>>>, ctx: &mut Context<Self>) {
        let ports = news.borrow_and_update().clone();
        // Whose port is gone ends by itself, when those who were connected already are let in.
        self.attending.retain(|(port, _)| ports.iter().any(|there| Arc::ptr_eq(there, port)));
        for port in ports {
            if !self.attending.iter().any(|(there, _)| Arc::ptr_eq(there, &port)) {
                let task = actix_rt::spawn(attend_port(port.clone()));
                self.attending.push((port, task));
            }
        }
        let changed = async move { news.changed().await.map(|()| news) };
        ctx.spawn(changed.into_actor(self).map(|news, web, ctx| {
            if let Ok(news) = news {
                web.follow(news, ctx);
            }
        }));
    }
}

impl Actor for Web {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.follow(self.front.0.subscribe(), ctx);
    }
}
supervised!(Web, let_go: Web::close);

/// Lets clients in at one port until it is parted with.
async fn attend_port(port: Arc<Port>) {
    let (listener, duty, parting) = (port.listener.clone(), port.duty.clone(), port.parting.subscribe());
    drop(port); // its listener is closed when the port is gone, whoever is still connected
    let connection_ends = parting.clone();
    // Of a former duty nothing is kept that leads into the agent: whoever parts with it waits until nobody has it.
    let mut serving: Option<(Weak<Duty>, Serving)> = None;
    let ended = attend(&listener, parting, async |stream| {
        let now = duty.get();
        let serve = match &serving {
            Some((then, serve)) if Weak::as_ptr(then) == Arc::as_ptr(&now) => serve.clone(),
            _ => {
                let Ok(serve) = serving_by(&duty, &now, &connection_ends).await else { return };
                serving.insert((Arc::downgrade(&now), serve)).1.clone()
            }
        };
        actix_rt::spawn(connection(stream, now.entrance.clone(), serve, connection_ends.clone()));
    });
    if let Err(error) = ended.await {
        tracing::error!(%error, "an HTTP port cannot be served");
    }
}

/// Serves connections of which we know the peer.
type Serving =
    Rc<boxed::BoxService<(crate::receivers::socket::Socket, Option<SocketAddr>), (), actix_http::error::DispatchError>>;

/// One connection, from accepted to its last answer.
async fn connection(stream: TcpStream, entrance: Entrance, serve: Serving, stays: watch::Receiver<Option<Parting>>) {
    let peer = stream.peer_addr().ok();
    // Why not is counted by the entrance.
    if let Some(socket) = entrance.greet(stream).await {
        let served = match poll_fn(|cx| serve.poll_ready(cx)).await {
            Ok(()) => serve.call((socket, peer)).await,
            Err(unready) => Err(unready),
        };
        if let Err(reason) = served {
            tracing::debug!(%reason, "an HTTP connection ended early");
        }
    }
    drop(stays); // whoever parts waits for this
}

/// How connections that begin now are served.
async fn serving_by(
    present: &Arc<Swap<Duty>>,
    duty: &Duty,
    parting: &watch::Receiver<Option<Parting>>,
) -> Result<Serving, ()> {
    let told = web::Data::new(parting.clone());
    let app = App::new().app_data(web::Data::from(present.clone())).app_data(told).default_service(web::to(answer));
    let app = app.into_factory().map_err(|e: actix_web::Error| e.error_response());
    let parting = parting.clone();
    let parts = move || {
        let mut parting = parting.clone();
        async move {
            parted(&mut parting).await;
            sleep(LAST_ANSWER).await;
        }
    };
    let http = HttpService::build()
        .keep_alive(if duty.idle.is_zero() { KeepAlive::Os } else { KeepAlive::Timeout(duty.idle) })
        .client_request_timeout(duty.head) // 0: none
        .client_disconnect_timeout(Duration::from_secs(5))
        .graceful_shutdown_signal(parts)
        .h1(map_config(app, |()| AppConfig::default()));
    Ok(Rc::new(boxed::service(http.new_service(()).await?)))
}

/// Clients of a port that is parted with hear of it with the answer to their next request, which no request can miss;
/// a connection on which none comes within 1 s is closed, and who sends one at that very moment has to repeat it.
const LAST_ANSWER: Duration = Duration::from_secs(1);

async fn answer(
    request: HttpRequest,
    body: web::Payload,
    present: web::Data<Swap<Duty>>,
    parting: web::Data<watch::Receiver<Option<Parting>>>,
) -> HttpResponse {
    let duty = present.get();
    let Duty { behind, doorstep, .. } = &*duty;
    let mut answer = match (doorstep.enter(&request).await, behind) {
        (Ok(told), Behind::Otlp(endpoint)) => endpoint.answer(&request, body, told).await,
        (Ok(_), Behind::Page(page)) => page(&request),
        (Err(answer), Behind::Otlp(endpoint)) => {
            endpoint.stays_outside(answer.status());
            answer
        }
        (Err(answer), Behind::Page(_)) => answer,
    };
    doorstep.leave(&request, &mut answer);
    if parting.borrow().is_some() {
        answer.head_mut().set_connection_type(ConnectionType::Close);
    }
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
        listener.set_nonblocking(true).expect("a socket");
        let duty = Duty {
            behind: Behind::Page(Arc::new(page)),
            entrance: Entrance::new(None, &Limits::default(), metrics),
            doorstep: Doorstep::new(&HttpServer::at(Listen::new("", 1)), None),
            head: Duration::ZERO,
            idle: Duration::ZERO,
        };
        let front = Front::default();
        front.set(vec![Arc::new(Port::new(Arc::new(listener), duty))]);
        let mut supervisor = Supervisor::start(hurried(), Settings::default()).expect("a watchdog");
        let _web = supervisor.post(row(&supervisor, &WEB), "", move || Web::new(front.clone()));
        crate::uplink::client::install_provider();
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
        assert!(end.to_string().contains("`web`"), "{end}");
        blocks.abort();
    }
}
