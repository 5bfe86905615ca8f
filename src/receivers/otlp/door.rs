//! The receivers' posts: who owns the gRPC server, and who closes the doors at a stop.

use super::conduct::Rules;
use super::config::GrpcConfig;
use super::grpc::OtlpGrpc;
use super::watched::{Patience, Watched};
use crate::base::{Dice, Swap};
use crate::receivers::intake::Intake;
use crate::receivers::socket::{Entrance, Parting, attend, parted};
use crate::supervise::Drain;
use crate::supervised;
use crate::telemetry::ListenerMetrics;
use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseFuture, WrapFuture as _,
};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::body::Body;
use tower_service::Service as _;

/// Streams one connection may have open when `max_concurrent_streams` says nothing. An SDK exporter has one; the
/// original's "no limit" is what HTTP/2 floods are made of.
const STREAMS: u32 = 128;
/// Requests above that which a client may send before it hears of the limit.
const STREAMS_UNHEARD: usize = 1_024;
/// Connections end within a tenth of `max_connection_age`, sooner or later, so that a fleet does not come back at once;
/// as grpc-go does it.
const AGE_SWING: f64 = 0.1;

/// One OTLP/gRPC server, as a post.
#[derive(Debug)]
pub struct GrpcDoor {
    listener: Arc<TcpListener>,
    line: Arc<Swap<Line>>,
    /// Told or dropped, it ends the server: nobody is let in any more, and connections end with the requests they have.
    running: Option<watch::Sender<Option<Parting>>>,
}

/// What clients are served with. A connection keeps what it began with; a request is answered by what is in force when
/// it comes.
#[derive(Debug)]
pub struct Line {
    /// Answers requests.
    pub service: OtlpGrpc,
    /// Limits of a connection.
    pub config: GrpcConfig,
    /// Lets connections in.
    pub entrance: Entrance,
    /// Whom it did not serve.
    pub metrics: ListenerMetrics,
}

/// Let nobody in any more; answered when everybody is out.
///
/// `app` → [`GrpcDoor`], before it gives up the post.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Leave(pub Parting);

impl GrpcDoor {
    /// For the factory. The listener is bound already: connections queue while the server is rebuilt.
    #[must_use]
    pub fn new(listener: Arc<TcpListener>, line: Arc<Swap<Line>>) -> GrpcDoor {
        GrpcDoor { listener, line, running: None }
    }

    fn close(&mut self) {
        self.running = None;
    }
}

impl Actor for GrpcDoor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (listener, line) = (self.listener.clone(), self.line.clone());
        let (running, ended) = watch::channel(None);
        self.running = Some(running);
        let served = async move {
            let connection_ends = ended.clone();
            let greet = async |stream| drop(tokio::spawn(serve(line.clone(), stream, connection_ends.clone())));
            attend(&listener, ended, greet).await
        };
        let watched = served.into_actor(self).map(|ended, door, _| {
            if door.running.is_some() {
                panic!("the gRPC server ended by itself: {ended:?}");
            }
        });
        ctx.spawn(watched);
    }
}
supervised!(GrpcDoor, let_go: GrpcDoor::close);

impl Handler<Leave> for GrpcDoor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Leave(why): Leave, _: &mut Self::Context) -> Self::Result {
        let running = self.running.take();
        Box::pin(async move {
            let Some(running) = running else { return };
            running.send_replace(Some(why));
            running.closed().await; // each connection listens to it
        })
    }
}

/// One connection from its beginning to its end.
async fn serve(lines: Arc<Swap<Line>>, stream: TcpStream, mut ended: watch::Receiver<Option<Parting>>) {
    let line = lines.get();
    let Some(socket) = line.entrance.greet(stream).await else { return };
    let GrpcConfig { keepalive, .. } = &line.config;
    let (quiet, mut quiet_since) = watch::channel(Some(Instant::now()));
    let watched = Watched::new(socket, line.rules(), line.patience(), quiet, line.metrics.clone());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut service = lines.get().service.clone();
        service.call(request.map(Body::new))
    });
    let mut connection = pin!(line.http2().serve_connection(TokioIo::new(watched), service));
    let age = keepalive.max_connection_age.map(|age| Instant::now() + Dice::shaken().around(age, AGE_SWING));
    let (mut leaving, mut last) = (false, None);
    loop {
        let idle = keepalive.max_connection_idle.filter(|_| !leaving);
        let idle = idle.and_then(|idle| Some((*quiet_since.borrow())? + idle));
        tokio::select! {
            _ = connection.as_mut() => return, // its errors are its client's
            () = until(last) => return,
            _ = parted(&mut ended), if !leaving => {}
            () = until(idle) => {}
            () = until(age), if !leaving => last = keepalive.max_connection_age_grace.map(|grace| Instant::now() + grace),
            _ = quiet_since.changed(), if keepalive.max_connection_idle.is_some() && !leaving => continue,
        }
        leaving = true;
        connection.as_mut().graceful_shutdown();
    }
}

impl Line {
    fn http2(&self) -> http2::Builder<TokioExecutor> {
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams())
            .max_header_list_size(self.config.limits.max_header_list_size)
            .keep_alive_interval(self.config.keepalive.time)
            .keep_alive_timeout(self.config.keepalive.timeout);
        http2
    }

    fn streams(&self) -> u32 {
        self.config.max_concurrent_streams.unwrap_or(STREAMS)
    }

    fn rules(&self) -> Rules {
        Rules {
            min_ping: self.config.enforcement.min_time,
            pings_without_stream: self.config.enforcement.permit_without_stream,
            max_resets: self.config.limits.max_resets,
            max_control_frames: self.config.limits.max_control_frames,
            max_open: self.streams() as usize + STREAMS_UNHEARD,
        }
    }

    fn patience(&self) -> Patience {
        let limits = &self.config.limits;
        Patience { handshake: limits.common.handshake_timeout, header: limits.header_timeout }
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Closes every receiver at a stop.
#[derive(Debug)]
pub struct Doorman(pub Arc<Swap<Vec<Arc<Intake>>>>);

impl Actor for Doorman {
    type Context = Context<Self>;
}
supervised!(Doorman, drain: own);

/// Requests that are under way at a stop have so long to end.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

impl Handler<Drain> for Doorman {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        let intakes = self.0.get();
        Box::pin(async move {
            let all = futures_util::future::join_all(intakes.iter().map(|intake| intake.close()));
            // Whoever is still inside after this hears from the batcher, or nothing and comes back.
            let _ = tokio::time::timeout(LAST_REQUESTS, all).await;
        })
    }
}
