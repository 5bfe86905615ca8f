//! Exporters: what sends, and what it does when it cannot.
//!
//! ```text
//!                  ┌──────────────────── Uplink (actor: carries out) ─────────────────────┐
//! spool ─ lease ──▶ prepare ─▶ uploads ─▶ Flow ── send ──▶ Transport ──▶ far end           │
//!                  │  plan, cut,           │ link           OTLP/HTTP        │             │
//!                  │  gzip                 │ desks                          answer         │
//! spool ◀─ settle ─┤                       ▼                                 │             │
//!                  │  delivered · parked · dead letter ◀── Fate ◀── Verdict ◀┘             │
//!                  └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What always holds:
//! * An upload leaves memory after the spool knows what became of it, and the spool hands it out again if that was
//!   never said: at least once, never silently not at all (promise P2).
//! * A retry window stands still while the far end is away; at its end nothing is dropped that the operator did not
//!   want dropped (P3). Memory is the same after an hour and after a week of that (P5).
//! * One probe while nobody answers, `Retry-After` honoured, jitter after the cap, a gentle return (P9).
//! * Fresh data waits for no backlog; metrics go one by one in order (P6); a bad upload, item or signal stops nobody else (P7).
//! * Decisions are plain functions of what happened and what time it is; only the actor, the client and the depot touch
//!   the world.
//!
//! | file | what |
//! |---|---|
//! | `config.rs` | what the operator says |
//! | `verdict.rs` | what an answer means |
//! | `link.rs` | is anybody there |
//! | `retry.rs` | how long an upload is tried |
//! | `split.rs` | who is guilty of a refusal |
//! | `pace.rs` | how much at a time |
//! | `due.rs` | when there is enough to send |
//! | `drain.rs` | fresh data or the backlog |
//! | `assemble.rs`, `pack.rs`, `prepare.rs` | from a lease to uploads |
//! | `desk.rs`, `hand.rs`, `fate.rs` | one lane's uploads: whose fault, whose turn |
//! | `flow.rs` | all lanes of one exporter |
//! | `gap.rs` | saying what will never arrive |
//! | `depot.rs`, `transport.rs` | what is asked of the spool and of the network |
//! | `otlp_http.rs`, `otlp_grpc.rs`, `client.rs` | OTLP over HTTP and gRPC, and what both share |
//! | `budget.rs` | what the link may cost: metered, kept, given out by signal |
//! | `oauth2.rs` | a token that a server gives |
//! | `failover.rs`, `way.rs`, `endpoint.rs` | several endpoints in order of preference; the way to one; what is believed of it |
//! | `balanced.rs`, `ring.rs` | one upload to several endpoints by keys; who gets what |
//! | `taken.rs`, `remainder.rs` | what was taken of it; what is left when it is parked or set aside |
//! | `backends.rs`, `resolver.rs`, `k8s.rs` | who those endpoints are |
//! | `wiring.rs`, `actor.rs`, `metrics.rs` | the actor, what it is told, what it tells |
//! | `debug.rs` | the `logging` and `debug` exporters |

pub mod actor;
pub mod assemble;
pub mod backends;
pub mod balanced;
pub mod budget;
pub mod client;
pub mod config;
pub mod debug;
pub mod depot;
pub mod desk;
pub mod drain;
pub mod due;
pub mod endpoint;
pub mod failover;
pub mod fate;
pub mod flow;
pub mod gap;
pub mod hand;
mod k8s;
pub mod link;
pub mod metrics;
pub mod oauth2;
pub mod otlp_grpc;
pub mod otlp_http;
pub mod pace;
pub mod pack;
pub mod prepare;
mod remainder;
mod resolver;
pub mod retry;
pub mod ring;
pub mod split;
mod taken;
pub mod transport;
pub mod verdict;
mod way;
pub mod wiring;

pub use actor::Uplink;
pub use debug::DebugExporter;
pub use metrics::UplinkMetrics;
pub use otlp_grpc::OtlpGrpc;
pub use otlp_http::OtlpHttp;
pub use wiring::{LaneSettings, Lines, UplinkSettings, View};

#[cfg(test)]
mod tests;
