//! `soak story`: trouble by a schedule, and the promises asked in every quiet between.
//!
//! ```text
//! plan (seed) ─▶ chapter: link · fault · load ─▶ calm: link up, load over, drained ─▶ judge ─▶ next, or the first broken promise
//!                              └────────────── samples ──────────────┴──▶ report (HTML, JSON)
//! ```

mod judge;
mod plan;
mod report;
mod run;
mod samples;

pub(crate) use run::{Options, run};
