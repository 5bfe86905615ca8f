//! Supervision, proved on toy posts: every way to fall, on both crews, and what becomes of those who wait.
//!
//! Waiting is for a condition, with a generous limit (`until`), so that a busy machine makes a test slow, not red.
//!
//! | file | what |
//! |---|---|
//! | `falls.rs` | every kind of panic costs one fall and no queued message |
//! | `hangs.rs` | actors and threads that stand still |
//! | `ends.rs` | budgets, escalation, losing the guard |
//! | `handles.rs` | mailboxes, answers, retries, 4,000 questions among crashes |
//! | `drains.rs` | the ordered stop |
//! | `walk.rs` | every post of a roster × every sabotage |
//! | `processes.rs` | exit codes of real processes |
//! | `cost.rs` | idling |

#![allow(unreachable_pub)] // one binary; its modules share toys.rs
#![allow(clippy::print_stdout)] // seeds and stories, shown when a test is red

mod cost;
mod drains;
mod ends;
mod falls;
mod handles;
mod hangs;
mod processes;
mod toys;
mod walk;
