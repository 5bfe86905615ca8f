//! Cuts neither lose nor double items, keep their limits, and never panic on anything.
#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use tfo_otel_agent::otlp::{Limits, count, cut, take, walk};

fuzz_target!(|data: (u8, u16, &[u8])| {
    let (max_items, max_bytes, data) = data;
    let Some((signal, request)) = input::request(data) else { return };
    let limits = Limits { max_items: max_items.into(), max_bytes: max_bytes.into() };
    let accepted = walk(signal, &request);
    let Ok(parts) = cut(signal, &request, limits) else {
        assert!(accepted.is_err(), "what is accepted can be cut");
        return;
    };
    let mut next = 0;
    for part in &parts {
        assert_eq!(part.items.start, next);
        next = part.items.end;
        assert_eq!(count(signal, &part.bytes), Ok(part.items.end - part.items.start));
        let one = part.items.len() <= 1;
        assert!(limits.max_bytes == 0 || part.bytes.len() <= limits.max_bytes as usize || one);
        assert!(limits.max_items == 0 || part.items.len() <= limits.max_items as usize);
        let taken = take(signal, &request, part.items.clone()).expect("the items are there");
        assert_eq!(count(signal, &taken), Ok(part.items.end - part.items.start));
        if accepted.is_ok() {
            assert!(walk(signal, &part.bytes).is_ok());
        }
    }
    assert_eq!(count(signal, &request), Ok(next));
});
