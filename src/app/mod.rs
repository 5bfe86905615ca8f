//! Knows everybody: load, check, wire, run, stop.

pub mod branches;
pub mod control;
pub mod exporters;
pub mod guards;
pub mod last_good;
pub mod listen;
pub mod machine;
pub mod numbers;
pub mod opamp;
pub mod plan;
pub mod registration;
pub mod reload;
mod remote;
pub mod roster;
pub mod run;
mod servers;
mod status;
pub mod stop;
pub mod stores;
pub mod web;
pub mod wire;
