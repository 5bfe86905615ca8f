//! Where telemetry comes in.

pub mod otlp;
