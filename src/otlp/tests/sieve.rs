//! What is dropped on wire bytes is what a decoding collector would drop; the rest stays as it was.

use super::rewrite::an_only;
use super::{cases, damage, entropy, signals, tree};
use crate::otlp::slow::Request;
use crate::otlp::wild::Choices;
use crate::otlp::{Level, Only, Sieve, Signal, Test, merge, walk};
use bytes::Bytes;
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn the_items_kept_are_those_meant_with_their_envelopes(
        signal in signals(), many in prop::collection::vec(entropy(), 1..4), only in an_only(),
    ) {
        let lawful = many.iter().map(|choices| Bytes::from(Choices::lawful(choices).request(signal)));
        let request = merge(&lawful.filter(|request| walk(signal, request).is_ok()).collect::<Vec<_>>());
        let meant = Request::decode(signal, &request).expect("it was walked").meant(&only);
        let sifted = Sieve::keeping(only).sift(signal, &request).expect("it was accepted");
        let mut expected = tree::items(signal, &request);
        let mut kept = meant.iter();
        expected.retain(|_| *kept.next().expect("as many items"));
        prop_assert_eq!(tree::items(signal, &sifted), expected);
        let left = meant.iter().filter(|kept| **kept).count();
        prop_assert_eq!(walk(signal, &sifted).map(|walked| walked.items as usize), Ok(left));
        prop_assert!(sifted.len() <= request.len());
    }

    #[test]
    fn damaged_requests_are_sifted_or_refused_but_never_a_panic(
        signal in signals(), choices in entropy(), hits in damage(), only in an_only(),
    ) {
        let mut request = Choices::defective(&choices).request(signal);
        hits.strike(&mut request);
        let _ = Sieve::keeping(only).sift(signal, &request.into());
    }
}

#[test]
fn what_has_nothing_left_goes_and_what_is_whole_is_not_copied() {
    use super::examples::field;
    let named = |name: &str| field(2, field(5, name));
    let resource = |scopes: &[Vec<u8>]| field(1, [field(3, "url"), scopes.concat()].concat());
    let scope = |spans: &[Vec<u8>]| field(2, [field(1, field(1, "lib")), spans.concat()].concat());
    let request = Bytes::from(
        [
            resource(&[scope(&[named("a"), named("b")]), scope(&[named("b")])]),
            resource(&[scope(&[named("b")])]),
            resource(&[scope(&[named("a")])]),
        ]
        .concat(),
    );
    let keeping = |name: &'static str| {
        Sieve::keeping(Only::default().including(Test::default().and(Level::Item, move |span| span.text(5) == name)))
    };
    let sifted = keeping("a").sift(Signal::Traces, &request).expect("it is valid");
    assert_eq!(sifted, [resource(&[scope(&[named("a")])]), resource(&[scope(&[named("a")])])].concat());
    assert_eq!(keeping("c").sift(Signal::Traces, &request), Ok(Bytes::new()));
    let whole = keeping("a").sift(Signal::Traces, &sifted).expect("it is valid");
    assert_eq!(whole.as_ptr(), sifted.as_ptr(), "the same memory");
}
