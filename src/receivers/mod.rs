//! What takes telemetry in.

pub mod inflate;
pub mod intake;
pub mod otlp;
pub mod socket;
pub mod tls;
