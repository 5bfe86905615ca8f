//! tfo-otel-agent: a supervised, outage-proof OpenTelemetry agent for edge gateways.
//!
//! What it acknowledged arrives, or is accounted for. See ARCHITECTURE.md for the promises and the picture;
//! imports run one way: `cli → app → {receivers → processors → batcher → spool ← uplink, registrar, opamp,
//! extensions} → supervise → telemetry → otlp, config → base`.

pub mod app;
pub mod base;
pub mod batcher;
pub mod cli;
pub mod config;
pub mod extensions;
pub mod opamp;
pub mod otlp;
pub mod processors;
pub mod receivers;
pub mod registrar;
pub mod spool;
pub mod supervise;
pub mod telemetry;
pub mod testing;
pub mod uplink;
