//! The one binary.

use std::process::ExitCode;
use tfo_otel_agent::telemetry::alloc::Counting;

/// Counts what is allocated: memory_limiter acts on it.
#[global_allocator]
static ALLOC: Counting = Counting::new();

fn main() -> ExitCode {
    tfo_otel_agent::cli::main().into()
}
