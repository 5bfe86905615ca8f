//! What takes telemetry in.

pub mod doorstep;
pub mod guard;
pub mod inflate;
pub mod intake;
pub mod otlp;
pub mod own;
pub mod socket;
pub mod tls;

/// What a refused client is asked to wait: long enough for a segment to be made or a sync to end, short enough that
/// the queue of an SDK (2,048 items by default) does not overflow.
const COME_BACK: std::time::Duration = std::time::Duration::from_secs(2);
