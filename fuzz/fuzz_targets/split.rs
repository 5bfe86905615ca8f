//! Cuts neither lose nor double items, and never panic on anything.
#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use tfo_otel_agent::otlp::{Cutter, count, walk};

fuzz_target!(|data: (u8, u16, &[u8])| {
    let (a, b, data) = data;
    let Some((signal, request)) = input::request(data) else { return };
    let accepted = walk(signal, &request);
    let Ok(cutter) = Cutter::of(signal, &request) else {
        assert!(accepted.is_err(), "what is accepted can be cut");
        return;
    };
    assert_eq!(count(signal, &request), Ok(cutter.items()));
    let (a, b) = (u32::from(a).min(cutter.items()), u32::from(b).min(cutter.items()));
    let borders = [0, a.min(b), a.max(b), cutter.items()];
    for pair in borders.windows(2) {
        let part = cutter.take(pair[0]..pair[1]).expect("the items are there");
        assert_eq!(count(signal, &part), Ok(pair[1] - pair[0]));
        assert!(pair[0] == pair[1] || part.len() > cutter.least_envelope(pair[0]..pair[1]) || accepted.is_err());
        assert!(accepted.is_err() || walk(signal, &part).is_ok());
    }
});
