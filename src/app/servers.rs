//! Who listens where, and what stands behind it: at the start, and after each reload.
//!
//! ```text
//!             can fail                       cannot                            takes its time
//! Laid::out ─────────────▶ Servers::open ─────────────────▶ Servers::part
//! ports, certificates,     those that stay do the new thing  those that go answer what they have,
//! credentials              from now on; new ones begin       then their posts are given up
//! ```
//!
//! What always holds:
//! * A place in the configuration (host and port) is a socket. As long as any server is wanted there it is not closed,
//!   whoever had it before: clients queue in it and are not refused.
//! * A place that is given up is closed when its server lets nobody in any more, and not before who had connected was
//!   let in.
//! * Connections are closed only with their place, or when it changes between HTTP and gRPC, or between receivers of
//!   gRPC; and then after the request they have.

use super::listen::bind_beside;
use super::plan::{Config, ExtensionConfig, ReceiverConfig};
use super::roster::{DOORMAN, OTLP_GRPC, SELF_, WEB, row};
use super::web::{Behind, Duty, Front, Port, Web};
use super::wire::{Fed, StartError, fed_by};
use crate::base::{Bytes, Clock, Stamp, Swap};
use crate::batcher::budget::Budget;
use crate::config::{HttpServer, Id, Listen, TlsServer};
use crate::extensions::health_check;
use crate::extensions::health_check::config::HealthCheckConfig;
use crate::receivers::doorstep::Doorstep;
use crate::receivers::guard::Guard;
use crate::receivers::intake::{Intake, Outlet};
use crate::receivers::otlp::config::{GrpcConfig, HttpConfig};
use crate::receivers::otlp::door::{Doorman, GrpcDoor, Leave, Line};
use crate::receivers::otlp::grpc::OtlpGrpc;
use crate::receivers::otlp::http::OtlpHttp;
use crate::receivers::own::OwnMetrics;
use crate::receivers::own::config::OwnConfig;
use crate::receivers::socket::{Entrance, Parting};
use crate::receivers::tls::{Face, Faulty};
use crate::supervise::{Handle, Supervisor};
use crate::telemetry::config::MetricsLevel;
use crate::telemetry::health::Health;
use crate::telemetry::{ListenerMetrics, Metrics, ReceiverMetrics, serve};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

/// How long requests may take that are under way at a server that goes: two syncs of a disk that is nearly given up for
/// stalled. After it their connections are cut (gRPC), or end by themselves (HTTP).
const PATIENCE: Duration = Duration::from_secs(10);

/// What the gRPC servers speak, and the HTTP servers.
const H2: &[&[u8]] = &[b"h2"];
const H1: &[&[u8]] = &[b"http/1.1"];

/// A server a configuration wants.
struct Wanted<'c> {
    /// As in metrics: `otlp/grpc`, `otlp/http`, `health_check`, `metrics`.
    name: String,
    /// As in errors.
    what: String,
    at: &'c Listen,
    tls: Option<&'c TlsServer>,
    kind: Kind<'c>,
}

enum Kind<'c> {
    Grpc(&'c Id, &'c GrpcConfig),
    Http(&'c Id, &'c HttpConfig),
    Health(&'c HealthCheckConfig),
    Metrics,
}

fn wanted(config: &Config) -> Vec<Wanted<'_>> {
    let used = |id: &Id| config.service.pipelines.iter().any(|p| p.receivers.contains(id));
    let mut all = Vec::new();
    for (id, receiver) in config.receivers.iter().filter(|(id, _)| used(id)) {
        let ReceiverConfig::Otlp(otlp) = receiver else { continue };
        if let Some(grpc) = &otlp.grpc {
            let (name, what) = (format!("{id}/grpc"), format!("receiver {id} (grpc)"));
            all.push(Wanted { name, what, at: &grpc.endpoint, tls: grpc.tls.as_ref(), kind: Kind::Grpc(id, grpc) });
        }
        if let Some(http) = &otlp.http {
            let (name, what) = (format!("{id}/http"), format!("receiver {id} (http)"));
            let HttpServer { endpoint, tls, .. } = &http.server;
            all.push(Wanted { name, what, at: endpoint, tls: tls.as_ref(), kind: Kind::Http(id, http) });
        }
    }
    for id in &config.service.extensions {
        if let Some(ExtensionConfig::HealthCheck(health)) = config.extensions.get(id) {
            let (name, what) = (id.to_string(), format!("extension {id}"));
            let HttpServer { endpoint, tls, .. } = &health.server;
            all.push(Wanted { name, what, at: endpoint, tls: tls.as_ref(), kind: Kind::Health(health) });
        }
    }
    let metrics = &config.service.telemetry.metrics;
    if metrics.level != MetricsLevel::None {
        let (name, what) = ("metrics".to_owned(), "service.telemetry.metrics".to_owned());
        all.push(Wanted { name, what, at: &metrics.address, tls: None, kind: Kind::Metrics });
    }
    all
}

/// What the servers of a configuration need of the machine: sockets, certificates, credentials.
pub(super) struct Laid {
    /// By the servers' names.
    spots: BTreeMap<String, Spot>,
    guards: BTreeMap<Id, Guard>,
}

struct Spot {
    at: Listen,
    address: SocketAddr,
    listener: Arc<TcpListener>,
    face: Option<Arc<Face>>,
}

impl Laid {
    /// Everything that can fail. Sockets of `present` are taken over where the place is the same; files are read again.
    ///
    /// # Errors
    /// See [`StartError`]; nothing of `present` has changed then.
    pub(super) fn out(config: &Config, present: &Servers) -> Result<Laid, StartError> {
        let guards = super::guards::make(config)?;
        let mut spots = BTreeMap::new();
        for Wanted { name, what, at, tls, kind } in wanted(config) {
            let alpn = if matches!(kind, Kind::Grpc(..)) { H2 } else { H1 };
            let no = |fault: Faulty| StartError::Component { id: what.clone(), why: fault.to_string() };
            let face = tls.map(|tls| Face::new(tls, alpn)).transpose().map_err(no)?.map(Arc::new);
            let (listener, address) = match present.listener(&name, at) {
                Some(there) => there,
                None => {
                    let (listener, address) = bind_beside(&what, at, &present.in_the_way(at))?;
                    (Arc::new(listener), address)
                }
            };
            spots.insert(name, Spot { at: at.clone(), address, listener, face });
        }
        Ok(Laid { spots, guards })
    }
}

/// What servers are made with, beside the configuration.
pub(super) struct Around<'a> {
    pub(super) supervisor: &'a Supervisor,
    pub(super) pipes: &'a [Fed],
    pub(super) outlets: Vec<Outlet>,
    pub(super) metrics: &'a Metrics,
    pub(super) health: &'a Health,
    pub(super) clock: &'a Clock,
    /// When the process began.
    pub(super) started: Stamp,
}

/// A server and its socket.
#[derive(Debug)]
struct Place {
    at: Listen,
    address: SocketAddr,
    listener: Arc<TcpListener>,
    server: Server,
}

#[derive(Debug)]
enum Server {
    Http(Arc<Port>),
    Grpc(Grpc),
}

#[derive(Debug)]
struct Grpc {
    id: Id,
    line: Arc<Swap<Line>>,
    door: Handle<GrpcDoor>,
}

/// All of them, and the ways in behind them.
#[derive(Debug)]
pub(super) struct Servers {
    /// By name.
    places: BTreeMap<String, Place>,
    front: Front,
    /// The post that serves the front is filled.
    web: bool,
    intakes: BTreeMap<Id, Arc<Intake>>,
    /// The same, for who closes them at a stop.
    doors: Arc<Swap<Vec<Arc<Intake>>>>,
    budget: Budget,
    /// `self` receivers, as they were posted.
    own: BTreeMap<Id, OwnConfig>,
}

/// What is to be done when those who stay do the new thing.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    ports: Vec<(Arc<Port>, Parting)>,
    doors: Vec<(Grpc, Parting)>,
    /// Posts whose seats are not free before.
    then: Vec<(String, Spot, Id, Line)>,
    own: Vec<Id>,
}

impl std::fmt::Debug for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spot").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Servers {
    /// None yet.
    pub(super) fn none() -> Servers {
        Servers {
            places: BTreeMap::new(),
            front: Front::default(),
            web: false,
            intakes: BTreeMap::new(),
            doors: Arc::default(),
            budget: Budget::new(IN_FLIGHT),
            own: BTreeMap::new(),
        }
    }

    /// Fills the post of who closes the receivers at a stop.
    pub(super) fn post_doorman(&self, supervisor: &Supervisor) {
        let doors = self.doors.clone();
        supervisor.post(row(supervisor, &DOORMAN), "", move || Doorman(doors.clone()));
    }

    /// Where each of them listens, by name.
    pub(super) fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        self.places.iter().map(|(name, place)| (name.clone(), place.address)).collect()
    }

    /// The socket at this place: the server's own, or another's.
    fn listener(&self, name: &str, at: &Listen) -> Option<(Arc<TcpListener>, SocketAddr)> {
        let own = self.places.get(name).filter(|place| place.at == *at);
        let place = own.or_else(|| self.places.values().find(|place| place.at == *at && at.port != 0))?;
        Some((place.listener.clone(), place.address))
    }

    /// Sockets that share a port with this place; they are given up, or the configuration would not have been taken.
    fn in_the_way(&self, at: &Listen) -> Vec<Arc<TcpListener>> {
        self.places.values().filter(|place| place.at.collides_with(at)).map(|place| place.listener.clone()).collect()
    }

    /// Those that stay do the new thing from now on, new ones begin. Who goes is in the answer, for [`Servers::part`].
    pub(super) fn open(&mut self, config: &Config, laid: Laid, around: &Around<'_>) -> Leaving {
        let Laid { mut spots, guards } = laid;
        self.budget.set_max(in_flight(around.pipes));
        let intakes = self.intakes_of(config, around);
        let mut before = std::mem::take(&mut self.places);
        let mut leaving = Leaving::default();
        for Wanted { name, kind, .. } in wanted(config) {
            let listens = ListenerMetrics::new(around.metrics, &name);
            let Some(spot) = spots.remove(&name) else { continue };
            // Whoever had the socket, whatever it was called.
            let had = before.iter().find(|(_, place)| Arc::ptr_eq(&place.listener, &spot.listener));
            let had = had.map(|(name, _)| name.clone()).and_then(|name| before.remove_entry(&name));
            match kind {
                Kind::Grpc(id, section) => {
                    let Some(intake) = intakes.get(id) else { continue };
                    let counts = ReceiverMetrics::new(around.metrics, &id.to_string(), "grpc");
                    let guard = section.auth.as_ref().and_then(|id| guards.get(id)).cloned();
                    let entrance = Entrance::new(spot.face.clone(), &section.limits.common, listens.clone());
                    let line = Line {
                        service: OtlpGrpc::new(section, guard, intake.clone(), counts),
                        config: section.clone(),
                        entrance,
                        metrics: listens,
                    };
                    self.open_grpc((name, spot), id, line, had, &mut leaving, &before, around);
                }
                Kind::Http(id, section) => {
                    let Some(intake) = intakes.get(id) else { continue };
                    let counts = ReceiverMetrics::new(around.metrics, &id.to_string(), "http");
                    let endpoint = OtlpHttp::new(section, intake.clone(), counts);
                    let duty = duty(Behind::Otlp(Arc::new(endpoint)), &section.server, &spot, &guards, listens);
                    self.open_http((name, spot), duty, had, &mut leaving);
                }
                Kind::Health(section) => {
                    let duty = duty(health_page(section, around.health), &section.server, &spot, &guards, listens);
                    self.open_http((name, spot), duty, had, &mut leaving);
                }
                Kind::Metrics => {
                    let (shown, server) = (around.metrics.clone(), HttpServer::at(spot.at.clone()));
                    let page = move |request: &actix_web::HttpRequest| serve::respond(request.path(), &shown);
                    let duty = duty(Behind::Page(Arc::new(page)), &server, &spot, &guards, listens);
                    self.open_http((name, spot), duty, had, &mut leaving);
                }
            }
        }
        before.into_iter().for_each(|(name, place)| leaving.add(&name, place, Parting::Close));
        self.show_front(around.supervisor);
        self.open_own(config, &intakes, &mut leaving, around);
        self.doors.set(intakes.values().chain(self.intakes.values()).cloned().collect());
        self.intakes = intakes;
        leaving
    }

    /// The way in of each receiver that is used; those that were there lead elsewhere from now on. Requests under way
    /// end where they began, and so do those that come through a receiver that goes.
    fn intakes_of(&self, config: &Config, around: &Around<'_>) -> BTreeMap<Id, Arc<Intake>> {
        let mut intakes = BTreeMap::new();
        for id in config.service.pipelines.iter().flat_map(|p| &p.receivers) {
            intakes.entry(id.clone()).or_insert_with(|| {
                let (mine, outlets) = (fed_by(around.pipes, id), around.outlets.clone());
                match self.intakes.get(id) {
                    Some(there) => {
                        there.reroute(mine, outlets);
                        there.clone()
                    }
                    None => Arc::new(Intake::new(mine, outlets, self.budget.clone())),
                }
            });
        }
        intakes
    }

    fn open_http(
        &mut self,
        (name, spot): (String, Spot),
        mut duty: Duty,
        had: Option<(String, Place)>,
        leaving: &mut Leaving,
    ) {
        let port = match had {
            Some((_, Place { server: Server::Http(port), .. })) => {
                duty.entrance = duty.entrance.after(&port.duty().entrance);
                port.take_up(duty);
                port
            }
            had => {
                if let Some((name, place)) = had {
                    leaving.add(&name, place, Parting::HandOver);
                }
                tracing::info!(server = name, endpoint = %spot.address, "Starting HTTP server");
                Arc::new(Port::new(spot.listener.clone(), duty))
            }
        };
        let Spot { at, address, listener, .. } = spot;
        self.places.insert(name, Place { at, address, listener, server: Server::Http(port) });
    }

    #[allow(clippy::too_many_arguments)]
    fn open_grpc(
        &mut self,
        (name, spot): (String, Spot),
        id: &Id,
        mut line: Line,
        had: Option<(String, Place)>,
        leaving: &mut Leaving,
        before: &BTreeMap<String, Place>,
        around: &Around<'_>,
    ) {
        match had {
            Some((_, place)) if matches!(&place.server, Server::Grpc(grpc) if grpc.id == *id) => {
                if let Server::Grpc(grpc) = &place.server {
                    line.entrance = line.entrance.after(&grpc.line.get().entrance);
                    grpc.line.set(line);
                }
                self.places.insert(name, place);
                return;
            }
            Some((name, place)) => leaving.add(&name, place, Parting::HandOver),
            None => {}
        }
        let is_mine = |place: &Place| matches!(&place.server, Server::Grpc(grpc) if grpc.id == *id);
        if before.values().any(is_mine) || leaving.doors.iter().any(|(grpc, _)| grpc.id == *id) {
            leaving.then.push((name, spot, id.clone(), line));
        } else {
            self.post_grpc(name, spot, id, line, around.supervisor);
        }
    }

    fn post_grpc(&mut self, name: String, spot: Spot, id: &Id, line: Line, supervisor: &Supervisor) {
        let Spot { at, address, listener, .. } = spot;
        tracing::info!(server = name, endpoint = %address, "Starting GRPC server");
        let (line, listens) = (Arc::new(Swap::new(line)), listener.clone());
        let lines = line.clone();
        let door = supervisor
            .post(row(supervisor, &OTLP_GRPC), &id.to_string(), move || GrpcDoor::new(listens.clone(), lines.clone()));
        let server = Server::Grpc(Grpc { id: id.clone(), line, door });
        self.places.insert(name, Place { at, address, listener, server });
    }

    /// An agent without an HTTP port needs no thread for them.
    fn show_front(&mut self, supervisor: &Supervisor) {
        let port = |place: &Place| match &place.server {
            Server::Http(port) => Some(port.clone()),
            Server::Grpc(_) => None,
        };
        let ports: Vec<Arc<Port>> = self.places.values().filter_map(port).collect();
        if !self.web && !ports.is_empty() {
            self.web = true;
            let front = self.front.clone();
            supervisor.post(row(supervisor, &WEB), "", move || Web::new(front.clone()));
        }
        self.front.set(ports);
    }

    fn open_own(
        &mut self,
        config: &Config,
        intakes: &BTreeMap<Id, Arc<Intake>>,
        leaving: &mut Leaving,
        around: &Around<'_>,
    ) {
        let own: BTreeMap<Id, OwnConfig> = config
            .receivers
            .iter()
            .filter_map(|(id, receiver)| match receiver {
                ReceiverConfig::Own(section) if intakes.contains_key(id) => Some((id.clone(), section.clone())),
                _ => None,
            })
            .collect();
        let before = std::mem::replace(&mut self.own, own);
        leaving.own.extend(
            before.iter().filter(|(id, section)| self.own.get(*id) != Some(*section)).map(|(id, _)| id.clone()),
        );
        let fresh = self.own.iter().filter(|(id, _)| !before.contains_key(*id));
        fresh.for_each(|(id, section)| post_own(id, section, &intakes[id], around));
    }

    /// Waits until those who go have answered what they have, gives up their posts, and fills those that had to wait.
    pub(super) async fn part(&mut self, leaving: Leaving, around: &Around<'_>) {
        let Leaving { ports, doors, then, own } = leaving;
        let ports = ports.iter().map(|(port, why)| async move {
            let _ = tokio::time::timeout(PATIENCE, port.part(*why)).await; // who is left ends by itself
        });
        let doors_left = doors.iter().map(|(grpc, why)| async move {
            // One that is down has nobody inside.
            let _ = tokio::time::timeout(PATIENCE, grpc.door.ask(Leave(*why))).await;
            around.supervisor.dismiss(&format!("{}/{}", OTLP_GRPC.name, grpc.id), Duration::from_secs(1)).await;
        });
        futures_util::future::join(join_all(ports), join_all(doors_left)).await;
        drop(doors);
        for (name, spot, id, line) in then {
            self.post_grpc(name, spot, &id, line, around.supervisor);
        }
        for id in own {
            around.supervisor.dismiss(&format!("{}/{id}", SELF_.name), Duration::from_secs(1)).await;
            if let (Some(section), Some(intake)) = (self.own.get(&id), self.intakes.get(&id)) {
                post_own(&id, section, intake, around);
            }
        }
        self.doors.set(self.intakes.values().cloned().collect());
    }
}

impl Leaving {
    fn add(&mut self, name: &str, place: Place, why: Parting) {
        tracing::info!(server = name, endpoint = %place.address, "Stopping server");
        match place.server {
            Server::Http(port) => self.ports.push((port, why)),
            Server::Grpc(grpc) => self.doors.push((grpc, why)),
        }
    }
}

fn duty(
    behind: Behind,
    server: &HttpServer,
    spot: &Spot,
    guards: &BTreeMap<Id, Guard>,
    listens: ListenerMetrics,
) -> Duty {
    let guard = server.auth.as_ref().and_then(|id| guards.get(id)).cloned();
    Duty {
        behind,
        doorstep: Doorstep::new(server, guard),
        entrance: Entrance::new(spot.face.clone(), &server.limits, listens),
        head: server.read_header_timeout,
        idle: server.idle_timeout,
    }
}

fn health_page(section: &HealthCheckConfig, health: &Health) -> Behind {
    let body = section.response_body.as_ref();
    let settings = health_check::HealthCheckSettings {
        path: section.path.clone(),
        response_body: body
            .map(|b| health_check::ResponseBody { healthy: b.healthy.clone(), unhealthy: b.unhealthy.clone() }),
        failures: Some(&section.check_collector_pipeline)
            .filter(|check| check.enabled)
            .map(|check| (check.interval, check.exporter_failure_threshold)),
    };
    let health = health.clone();
    Behind::Page(Arc::new(move |request| health_check::respond(request.path(), &health, &settings)))
}

fn post_own(id: &Id, section: &OwnConfig, intake: &Arc<Intake>, around: &Around<'_>) {
    let own = OwnMetrics {
        config: section.clone(),
        metrics: around.metrics.clone(),
        counts: ReceiverMetrics::new(around.metrics, &id.to_string(), ""),
        intake: intake.clone(),
        clock: around.clock.clone(),
        started: around.started,
        rounds: None,
    };
    around.supervisor.post(row(around.supervisor, &SELF_), &id.to_string(), move || own.clone());
}

/// What requests in flight may hold when no memory_limiter says more.
const IN_FLIGHT: Bytes = Bytes::mib(32);

/// Requests in flight may hold an eighth of what memory_limiter allows, within reason.
fn in_flight(pipes: &[Fed]) -> Bytes {
    let hard = pipes.iter().flat_map(|(_, p)| &p.limiters).map(|l| l.hard().0).min();
    Bytes(hard.map_or(IN_FLIGHT.0, |hard| (hard / 8).clamp(Bytes::mib(8).0, Bytes::mib(64).0)))
}
