//! Runs the real agent under load and faults, and measures it.

fn main() {}
