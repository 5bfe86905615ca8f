//! What takes telemetry in.

pub mod doorstep;
pub mod guard;
pub mod inflate;
pub mod intake;
pub mod otlp;
pub mod own;
pub mod socket;
pub mod tls;
