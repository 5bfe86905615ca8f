//! The wire path against prost, against a second reader, and against itself.
//!
//! | file | |
//! |---|---|
//! | `examples.rs` | the rules one by one |
//! | `walk.rs` `split.rs` `rewrite.rs` `sieve.rs` `json.rs` `json_out.rs` | properties, over requests from [`wild`](super::wild) |
//! | `tree.rs` | a plain reader that keeps unknown fields |

mod examples;
mod json;
mod json_out;
mod pdata;
mod rewrite;
mod schema;
mod sieve;
mod split;
mod tree;
mod walk;

use super::{Cutter, Malformed, Signal};
use bytes::Bytes;
use proptest::prelude::*;
use std::ops::Range;

/// One part of a request.
fn take(signal: Signal, request: &Bytes, items: Range<u32>) -> Result<Bytes, Malformed> {
    Cutter::of(signal, request)?.take(items)
}

/// So many cases in an ordinary run; `PROPTEST_CASES` asks for more.
fn cases(ordinary: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(ordinary), failure_persistence: None, ..ProptestConfig::default() }
}

fn signals() -> impl Strategy<Value = Signal> {
    prop::sample::select(&Signal::ALL[..])
}

/// Choices for [`wild`](super::wild): enough for a few items.
fn entropy() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..700)
}

/// What a bad cable or a bad client does to bytes.
#[derive(Debug, Clone)]
struct Damage {
    flips: Vec<(prop::sample::Index, u8)>,
    keep: Option<prop::sample::Index>,
    splice: Option<(prop::sample::Index, Vec<u8>)>,
}

impl Damage {
    fn strike(&self, bytes: &mut Vec<u8>) {
        if let Some((at, new)) = &self.splice {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, new.iter().copied());
        }
        for (at, mask) in &self.flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }
        }
        if let Some(keep) = self.keep {
            bytes.truncate(keep.index(bytes.len() + 1));
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    (
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        prop::option::weighted(0.2, any::<prop::sample::Index>()),
        prop::option::weighted(0.2, (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..6))),
    )
        .prop_map(|(flips, keep, splice)| Damage { flips, keep, splice })
}
