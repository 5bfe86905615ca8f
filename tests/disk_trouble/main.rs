//! A disk in trouble, and the real binary under load: syncs, writes and reads that fail, a disk that is read-only for a
//! while, that takes seconds for a sync, or that is full for one kind of write after the other; a spool directory that is
//! removed, moved away or replaced.
//!
//! ```text
//! clients ──▶ agent ──▶ disk
//!   │ ack       │ every call on the spool, the log and the last good configuration passes the injector
//!   ▼           ▼
//! what was acknowledged = what arrived + what is told as lost, to the item; it takes data again by itself
//! ```
//!
//! What fails fails for `TFO_DISK_SECONDS` (2; the long form asks for 10). Where nobody may trace, or nothing can be mounted,
//! it says SKIPPED and proves nothing.
//!
//! | file | what |
//! |---|---|
//! | `injector.rs` | ptrace: calls that fail, or take their time |
//! | `rig.rs` | the agent, its clients, its far end, and the books of all |
//! | `syncs.rs` | EIO on every kind of sync, on writes and on reads; slow syncs; a read-only disk |
//! | `full.rs` | no space for every kind of write |
//! | `away.rs` | the directory is not there any more, or another one |

#![allow(clippy::print_stdout)] // it says SKIPPED, and how often what was provoked

mod away;
mod full;
mod injector;
mod rig;
mod syncs;
#[path = "../power_cut/tracee.rs"]
mod tracee;

use std::time::Duration;

/// How long what fails fails.
fn trouble_time() -> Duration {
    let asked = std::env::var("TFO_DISK_SECONDS").ok().and_then(|n| n.parse().ok());
    Duration::from_secs(asked.unwrap_or(2))
}
