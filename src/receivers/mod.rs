//! What takes telemetry in.

pub mod budget;
pub mod inflate;
pub mod intake;
pub mod otlp;
