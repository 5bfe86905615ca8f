//! Whatever JSON becomes a request, the walk accepts it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tfo_otel_agent::otlp::{Signal, from_json, walk};

fuzz_target!(|data: (u8, &[u8])| {
    let signal = Signal::ALL[usize::from(data.0) % 3];
    match from_json(signal, data.1) {
        Ok(request) => drop(walk(signal, &request).expect("what we write is valid")),
        Err(why) => assert!(why.offset <= data.1.len() && !why.to_string().is_empty()),
    }
});
