//! The local socket: what `tfo-otel-agent spool` asks of an agent that has the directory.
//!
//! ```text
//! spool requeue DIR ──▶ who holds DIR/lock? ── nobody ──▶ opens the spool itself
//!                                └── an agent ──▶ its socket ──▶ serve ──▶ Spool, on a thread of its own
//! ```
//!
//! The socket has an abstract name made of the lock file's device and inode (unix(7)), so it needs no free inode, is there on
//! a disk that cannot be written, and leaves nothing behind when the process is killed. Such a name protects nobody: both sides
//! look at who the other one is. The agent answers its own user and root; the command believes the directory's owner and root.
//!
//! | file | what |
//! |---|---|
//! | `protocol.rs` | what is said: one JSON object a line |
//! | `serve.rs` | the agent's side |
//! | `ask.rs` | the command's side |

mod ask;
mod protocol;
mod serve;

pub(crate) use ask::{Refused, ask};
pub(crate) use protocol::{Answer, Done, LiveBook, Order};
pub use serve::Control;

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::SocketAddr;
use std::path::Path;

/// The name of the socket of whoever holds the directory's lock.
fn address(directory: &Path) -> io::Result<SocketAddr> {
    let lock = std::fs::metadata(directory.join("lock"))?;
    SocketAddr::from_abstract_name(format!("tfo-otel-agent/{:x}-{:x}", lock.dev(), lock.ino()))
}
