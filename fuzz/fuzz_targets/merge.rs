//! Two requests that are accepted are accepted as one, with the items of both.
#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use tfo_otel_agent::otlp::slow::Request;
use tfo_otel_agent::otlp::{merge, walk};

fuzz_target!(|data: (&[u8], &[u8])| {
    let (Some((signal, one)), Some((other, two))) = (input::request(data.0), input::request(data.1)) else { return };
    if signal != other {
        return;
    }
    if let (Ok(first), Ok(second)) = (walk(signal, &one), walk(signal, &two)) {
        let merged = merge(&[one.clone(), two.clone()]);
        let walked = walk(signal, &merged).expect("both were accepted");
        assert_eq!(walked.items, first.items + second.items);
        let decode = |bytes: &[u8]| Request::decode(signal, bytes).expect("what is accepted is decodable").encode();
        assert_eq!(decode(&merged), [decode(&one), decode(&two)].concat());
    }
});
