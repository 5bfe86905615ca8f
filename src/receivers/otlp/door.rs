//! The receivers' posts: who owns the gRPC server, and who closes the doors at a stop.

use super::conduct::Rules;
use super::config::GrpcConfig;
use super::grpc::OtlpGrpc;
use super::watched::{Patience, Watched};
use crate::base::Dice;
use crate::receivers::intake::Intake;
use crate::receivers::socket::Entrance;
use crate::supervise::Drain;
use crate::supervised;
use crate::telemetry::ListenerMetrics;
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, WrapFuture as _};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
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
/// A rest after a connection could not be accepted: most often there are no file descriptors, and asking again at once
/// would only burn the CPU.
const NONE_LEFT: Duration = Duration::from_millis(100);

/// One OTLP/gRPC server, as a post.
#[derive(Debug)]
pub struct GrpcDoor {
    listener: Arc<TcpListener>,
    line: Arc<Line>,
    /// Dropped, it ends the server: nobody is let in any more, and connections end with the requests they have.
    running: Option<watch::Sender<()>>,
}

/// What every connection is served with.
#[derive(Debug)]
struct Line {
    service: OtlpGrpc,
    config: GrpcConfig,
    entrance: Entrance,
    metrics: ListenerMetrics,
}

impl GrpcDoor {
    /// For the factory. The listener is bound already: connections queue while the server is rebuilt.
    #[must_use]
    pub fn new(
        listener: Arc<TcpListener>,
        service: OtlpGrpc,
        config: GrpcConfig,
        entrance: Entrance,
        metrics: ListenerMetrics,
    ) -> GrpcDoor {
        let line = Line { service, config, entrance, metrics };
        GrpcDoor { listener, line: Arc::new(line), running: None }
    }

    fn close(&mut self) {
        self.running = None;
    }
}

impl Actor for GrpcDoor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let listener = self.listener.try_clone().expect("a file descriptor for a listener we have");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener that does not block");
        let (running, ended) = watch::channel(());
        self.running = Some(running);
        let watched = serve(listener, self.line.clone(), ended).into_actor(self).map(|(), door, _| {
            if door.running.is_some() {
                panic!("the gRPC server ended by itself");
            }
        });
        ctx.spawn(watched);
    }
}
supervised!(GrpcDoor, let_go: GrpcDoor::close);

async fn serve(listener: tokio::net::TcpListener, line: Arc<Line>, mut ended: watch::Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            _ = ended.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(line.clone().serve(stream, ended.clone()))),
            Err(e) if is_the_clients(&e) => {}
            Err(reason) => {
                tracing::warn!(%reason, "a gRPC connection could not be accepted");
                sleep(NONE_LEFT).await;
            }
        }
    }
}

/// The client went away before it was accepted.
fn is_the_clients(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Line {
    /// One connection from its beginning to its end.
    async fn serve(self: Arc<Line>, stream: TcpStream, mut ended: watch::Receiver<()>) {
        let Some(socket) = self.entrance.greet(stream).await else { return };
        let GrpcConfig { keepalive, .. } = &self.config;
        let (quiet, mut quiet_since) = watch::channel(Some(Instant::now()));
        let watched = Watched::new(socket, self.rules(), self.patience(), quiet, self.metrics.clone());
        let service = self.service.clone();
        let service =
            hyper::service::service_fn(move |request: Request<Incoming>| service.clone().call(request.map(Body::new)));
        let mut connection = pin!(self.http2().serve_connection(TokioIo::new(watched), service));
        let age = keepalive.max_connection_age.map(|age| Instant::now() + Dice::shaken().around(age, AGE_SWING));
        let (mut leaving, mut last) = (false, None);
        loop {
            let idle = keepalive.max_connection_idle.filter(|_| !leaving);
            let idle = idle.and_then(|idle| Some((*quiet_since.borrow())? + idle));
            tokio::select! {
                _ = connection.as_mut() => return, // its errors are its client's
                () = until(last) => return,
                _ = ended.changed(), if !leaving => {}
                () = until(idle) => {}
                () = until(age), if !leaving => last = keepalive.max_connection_age_grace.map(|grace| Instant::now() + grace),
                _ = quiet_since.changed(), if keepalive.max_connection_idle.is_some() && !leaving => continue,
            }
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
    }

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
pub struct Doorman(pub Vec<Arc<Intake>>);

impl Actor for Doorman {
    type Context = Context<Self>;
}
supervised!(Doorman, drain: own);

/// Requests that are under way at a stop have so long to end.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

impl Handler<Drain> for Doorman {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        let intakes = self.0.clone();
        Box::pin(async move {
            let all = futures_util::future::join_all(intakes.iter().map(|intake| intake.close()));
            // Whoever is still inside after this hears from the batcher, or nothing and comes back.
            let _ = tokio::time::timeout(LAST_REQUESTS, all).await;
        })
    }
}
