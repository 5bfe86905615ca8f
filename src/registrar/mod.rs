//! Registration and heartbeat: the platform knows that this agent is there, who it is and how it is (`docs/registration.md`).
//!
//! ```text
//!                         ┌───────────── Office ─────────────┐
//! Registrar (actor) ──────▶ Standing   Identity   Orders     │── letter ──▶ Line ──▶ collector (OTLP) or API (JSON)
//!   its times, its file   │ (pure)     (pure)     (cleaned)  │◀─ answer ────┘
//! Announced (transport) ──▶                                  │
//!   before the first data └──────────────────────────────────┘
//! ```
//!
//! What always holds:
//! * The data path never waits for the actor, and an actor that falls costs it nothing: what is known lies in the office, and
//!   what goes before data is said by the uplink itself ([`herald`]).
//! * Nothing that is said here enters a spool, is sent again, moves a link or a lane, or stands in the books.
//! * What the platform answers is measured and cleaned before it is shown, and obeyed within bounds.
//! * Decisions are plain functions of what was heard and what time it is; only lines, files and the actor touch the world.
//!
//! | file | what |
//! |---|---|
//! | `config.rs` | what the operator says |
//! | `standing.rs` | what the platform believes of us, and what is due |
//! | `identity.rs` | the id, the file that keeps it, copies |
//! | `answer.rs` | what an answer means |
//! | `letter.rs`, `vitals.rs` | what is said: who, where, how |
//! | `export.rs`, `api.rs`, `line.rs` | how it is written down and travels, both ways |
//! | `office.rs` | what is known, in one place |
//! | `actor.rs`, `herald.rs` | who says it: at its time, and before data |
//! | `metrics.rs` | what is counted, logged and shown |

pub mod actor;
pub mod answer;
pub mod api;
pub mod config;
pub mod export;
pub mod herald;
pub mod identity;
pub mod letter;
pub mod line;
pub mod metrics;
pub mod office;
pub mod standing;
pub mod vitals;

pub use actor::Registrar;
pub use herald::Announced;
pub use office::Office;

#[cfg(test)]
mod tests;
