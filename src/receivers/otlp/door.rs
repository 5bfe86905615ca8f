//! The receivers' posts: who owns the gRPC server, and who closes the doors at a stop.

use super::config::GrpcConfig;
use super::grpc::OtlpGrpc;
use crate::receivers::intake::Intake;
use crate::supervise::Drain;
use crate::supervised;
use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, WrapFuture as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Streams one connection may have open when `max_concurrent_streams` says nothing. An SDK exporter has one; the
/// original's "no limit" is what HTTP/2 floods are made of.
const STREAMS: u32 = 128;

/// One OTLP/gRPC server, as a post.
#[derive(Debug)]
pub struct GrpcDoor {
    listener: Arc<TcpListener>,
    service: OtlpGrpc,
    config: GrpcConfig,
    /// Dropped, it ends the server.
    running: Option<oneshot::Sender<()>>,
}

impl GrpcDoor {
    /// For the factory. The listener is bound already: connections queue while the server is rebuilt.
    #[must_use]
    pub fn new(listener: Arc<TcpListener>, service: OtlpGrpc, config: GrpcConfig) -> GrpcDoor {
        GrpcDoor { listener, service, config, running: None }
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
        let (running, ended) = oneshot::channel::<()>();
        self.running = Some(running);
        // The builder's own `tcp_nodelay` is for listeners it binds itself.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let keepalive = &self.config.keepalive;
        let mut server = Server::builder();
        if let Some(age) = keepalive.max_connection_age {
            server = server.max_connection_age(age);
            if let Some(grace) = keepalive.max_connection_age_grace {
                server = server.max_connection_age_grace(grace);
            }
        }
        let server = server
            .max_concurrent_streams(Some(self.config.max_concurrent_streams.unwrap_or(STREAMS)))
            .http2_keepalive_interval(Some(keepalive.time))
            .http2_keepalive_timeout(Some(keepalive.timeout))
            .serve_with_incoming_shutdown(self.service.clone(), incoming, async move {
                let _ = ended.await;
            });
        let watched = server.into_actor(self).map(|ended, door, _| {
            if door.running.is_some() {
                panic!("the gRPC server ended by itself: {ended:?}");
            }
        });
        ctx.spawn(watched);
    }
}
supervised!(GrpcDoor, let_go: GrpcDoor::close);

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
