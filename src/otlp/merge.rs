//! Many requests in one: protobuf merges what is written one after the other.
//!
//! The outermost message of every signal is one repeated field, so the concatenation of serialized requests *is*
//! the request with all their resources, in order. What [`walk`](super::walk()) accepted one by one it accepts
//! together, with the sum of the items; nothing in one request can reach into the next, because each ends where its
//! last field ends.

use bytes::Bytes;

/// Requests of one signal as one request. Copies nothing when there is only one.
#[must_use]
pub fn merge(requests: &[Bytes]) -> Bytes {
    match requests {
        [one] => one.clone(),
        many => many.concat().into(),
    }
}
