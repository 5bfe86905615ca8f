//! OpAMP: a management server that speaks the Open Agent Management Protocol is told who this agent is, how it is and
//! by what configuration it works (`docs/opamp.md`). The extension `opamp`; nothing starts without it.
//!
//! ```text
//!                         ┌──────────────── Desk ────────────────┐
//! Messenger (actor) ──────▶ Talk       Uid        what was told  │── AgentToServer ──▶ Line ──▶ server
//!   its times, its file   │ (pure)     (pure)     (digests)      │◀─ ServerToAgent ─ Answer ────┘
//!                         └───────────────────────────────────────┘
//! ```
//!
//! What always holds:
//! * The data path knows nothing of it: no message waits for it, and a fall of the actor costs nobody anything. What is known lies
//!   at the desk, beside the actor.
//! * Nothing that a server says loses or diverts data. It may ask for the whole report, for time, and give another instance uid; where
//!   the operator opted in, it may set the keys of a closed list (`overlay.rs`). What else it offers is told once in the log, and not
//!   looked into.
//! * What a server says is measured and cleaned before it is shown or kept: 64 KiB of an answer, 256 characters of words.
//! * What is told of the configuration is what `print-config` shows: secrets are masked.
//!
//! | file | what |
//! |---|---|
//! | `config.rs` | what the operator says |
//! | `messages.rs` | the protocol's messages, as many of them as are spoken |
//! | `uid.rs` | the instance uid, and the file that keeps it |
//! | `talk.rs` | what is due when, and the sequence numbers |
//! | `answer.rs` | what an answer means |
//! | `report.rs` | what is said: who, how, by which configuration |
//! | `overlay.rs` | what a server may set, where it may |
//! | `exchange.rs` | what is offered, and what became of it: between the desk and the process (`app/remote.rs`) |
//! | `trial.rs` | which of it counts over restarts |
//! | `desk.rs` | what is known, in one place |
//! | `line.rs`, `socket.rs` | how a message travels: over HTTP, over a WebSocket |
//! | `actor.rs` | who says it |
//! | `metrics.rs` | what is counted, logged and shown |

pub mod actor;
pub mod answer;
pub mod config;
pub mod desk;
pub mod exchange;
pub mod line;
pub mod messages;
pub mod metrics;
pub mod overlay;
pub mod report;
pub mod socket;
pub mod talk;
pub mod trial;
pub mod uid;

pub use actor::Messenger;
pub use desk::Desk;
pub use exchange::Exchange;

#[cfg(test)]
mod tests;
