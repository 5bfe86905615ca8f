//! Whatever the walk accepts, prost decodes, with as many items and the same times.
#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use tfo_otel_agent::otlp::slow::Request;
use tfo_otel_agent::otlp::{count, walk};

fuzz_target!(|data: &[u8]| {
    let Some((signal, request)) = input::request(data) else { return };
    if let Ok(walked) = walk(signal, &request) {
        let decoded = Request::decode(signal, &request).expect("what is accepted is decodable");
        assert_eq!(walked, decoded.walked());
        assert_eq!(count(signal, &request), Ok(walked.items));
    } else {
        let _ = count(signal, &request);
    }
});
