//! What every target reads of the fuzzer's bytes: a signal, and a request either as it lies or made by the generator.

use bytes::Bytes;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::otlp::wild::Choices;

/// The signal and the request; the second bit of the first byte says who makes the request.
pub fn request(data: &[u8]) -> Option<(Signal, Bytes)> {
    let (first, rest) = data.split_first()?;
    let signal = Signal::ALL[usize::from(first & 3) % 3];
    let request = match first >> 2 & 3 {
        0 => Choices::lawful(rest).request(signal),
        1 => Choices::defective(rest).request(signal),
        _ => rest.to_vec(),
    };
    Some((signal, request.into()))
}
