//! What proves the rest: numbered telemetry, the books about it, and a far end that misbehaves on command.
//!
//! ```text
//! Numbered ──requests──▶ the agent ──uploads──▶ FarEnd ──arrivals──▶ Tally ◀──acknowledged── the test
//! ```
//!
//! Always compiled: `demo` runs the same pieces in front of the user.
//!
//! | file | what |
//! |---|---|
//! | `numbered.rs` | requests whose every item bears a number, fast; and the numbers of a request |
//! | `tally.rs` | lost, duplicated, never issued, reordered: decided in a bit per item |
//! | `books.rs` | the agent's own books against the far end's count |
//! | `far_end.rs` | the scripted collector: what it answers, and what it took |
//! | `far_end/script.rs` | what it does when, and its standing rules |
//! | `far_end/ids.rs` | what it took, by the ids of uploads, so that it takes nothing twice |
//! | `far_end/socket.rs`, `far_end/grpc.rs` | the same on a real socket, over HTTP and gRPC |
//! | `fresh.rs` | how fresh what comes in is at the far end, over a slow link |
//! | `platform.rs` | the platform behind it: its API and its table of agents |
//! | `console.rs` | a management server that speaks OpAMP |
//! | `child.rs` | the agent as a child process that is never left behind, and a port for it |
//! | `wreckage.rs` | a damaged spool as it lies there, and disks that do not answer |
//! | `wire.rs` | as much protobuf as that needs |

pub mod books;
pub mod child;
pub mod console;
pub mod far_end;
pub mod fresh;
pub mod load;
pub mod numbered;
pub mod platform;
pub mod tally;
pub(crate) mod wire;
#[cfg(any(test, feature = "testing"))]
pub mod wreckage;

pub use far_end::FarEnd;
pub use numbered::{Mark, Numbered, Source};
pub use tally::{Report, Tally};
