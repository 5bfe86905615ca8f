//! Supervision: an actor may fall, never unseen (promise P8).
//!
//! Actix 0.13 restarts an actor only when it stops itself, on the same value, at once. A panic ends it and closes
//! its mailbox for everybody queued; a panic in a `ResponseFuture` goes nowhere; a blocked thread stays blocked.
//! Nobody visits a gateway in the field, so here every fall is caught, counted, logged, shown and mended, and what
//! cannot be mended ends the process with a code that systemd understands.
//!
//! ```text
//!   Supervisor ── post(row, factory) ──▶ seat ── shift ── guard ── actor        watchdog (a thread of its own)
//!       │                                 │                 │ poll under catch      │ did every thread move?
//!       │ run_until_end ◀── End ──────────┴── books ◀───────┘ falls                 │ replace · end · exit(71)
//!       │ drain, watch                          ▲                                   │
//!       ▼                                       └───────────────────────────────────┘
//!   Handle ── ask · ask_again · tell ──▶ whoever sits there now
//! ```
//!
//! What always holds:
//! * The supervisor never awaits a child; an actor's fall is heard of from its guard, a thread's from the watchdog.
//! * The mailbox survives a fall. What was being handled loses its answer (`Fallen::Unanswered`), nothing else does.
//! * Every question ends: with an answer, or with a [`Fallen`] that says what is known.
//! * More falls than the budget are not borne: a vital post ends the process, another rests long and is shown `down`.
//! * A panic that one request or block causes is not a fall: [`contain`] it.
//! * Silence counts only while the observer runs: suspend, SIGSTOP and clock jumps look like nothing.
//! * A thread that was given up handles nothing more from its mailbox when it wakes. What it was in the middle of,
//!   it finishes: whoever owns something exclusively says `ExitProcess` or is fenced by what it owns (leases).
//!
//! | file | what |
//! |---|---|
//! | `roster.rs` | the rows: post, crew, policy, order of stop |
//! | `budget.rs`, `vitals.rs` | the decisions: what a fall costs, who is alive |
//! | `member.rs` | what an actor brings along: the `supervised!` macro |
//! | `guard.rs` | owns one actor's future: catches, pauses, rebuilds |
//! | `seat.rs`, `shift.rs` | what is known of a seat; whose code is running; [`beat`], [`Helper`] |
//! | `handle.rs` | what peers hold |
//! | `watchdog.rs` | the thread that sees blocked threads |
//! | `supervisor.rs`, `house.rs`, `watch.rs` | the whole: posts, end, drain, stop, view |
//! | `panics.rs` | the hook, `contain` |
//! | `signals.rs`, `exit.rs`, `systemd.rs` | how it is told to end and what it tells |
//! | `tripwire.rs` | data that makes its handler fall (tests only) |
//! | `sabotage.rs` | faults on command (tests only) |

mod budget;
mod exit;
mod guard;
mod handle;
mod house;
mod member;
mod panics;
mod roster;
mod sabotage;
mod seat;
mod shift;
mod signals;
mod supervisor;
mod systemd;
mod tripwire;
mod vitals;
mod watch;
mod watchdog;

pub use exit::Exit;
pub use guard::respond;
pub use handle::{Errand, Fallen, Handle, Line, Untold};
pub use member::{Crash, Drain, LetGo, Member, Ping, rebuild};
pub use panics::{PanicCounts, PanicReport, contain, contained, install_hook, panic_counts};
pub use roster::{Crew, OnHang, Policy, Post, Roster, Stage};
pub use sabotage::Saboteur;
#[cfg(any(test, feature = "testing"))]
pub use sabotage::{Sabotage, carry_out};
pub use seat::{Reason, State};
pub use shift::{Helper, Pulse, beat};
pub use signals::{Hangups, Signals, StopSignal};
pub use supervisor::{Drained, End, Lookout, Settings, SignOfLife, Supervisor};
pub use systemd::{News, NoEar, Systemd};
#[cfg(any(test, feature = "testing"))]
pub use tripwire::disarm_tripwires;
pub use tripwire::{Wire, tripwire};
pub use watch::{SeatView, Watch};
