//! The whole agent as its clients meet it: real sockets, real encodings, and every answer they may get.
//!
//! | file | |
//! |---|---|
//! | `rig.rs` | an agent, a far end, and clients |
//! | `answers.rs` | what is answered to whom, over HTTP and gRPC |
//! | `conduct.rs` | clients that behave ill |
//! | `doorstep.rs` | credentials, browsers, metadata |
//! | `encodings.rs` | what bodies may be compressed with |
//! | `flows.rs` | where what was taken goes: pipelines, stores, seeds, metrics |
//! | `stall.rs` | a disk that stands still for a while |
//! | `tls.rs` | who is let in, and what is shown to them |

mod answers;
mod conduct;
mod doorstep;
mod encodings;
mod flows;
mod rig;
mod stall;
mod tls;

/// memory_limiter measures what this counts, as in `main.rs`.
#[global_allocator]
static ALLOC: tfo_otel_agent::telemetry::alloc::Counting = tfo_otel_agent::telemetry::alloc::Counting::new();
