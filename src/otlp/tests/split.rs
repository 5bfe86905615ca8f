//! Cuts lose nothing, double nothing, keep order, envelopes and limits.

use super::{cases, damage, entropy, signals, tree};
use crate::otlp::wild::Choices;
use crate::otlp::{Limits, Signal, count, cut, take, walk};
use bytes::Bytes;
use proptest::prelude::*;

fn accepted(signal: Signal, choices: &[u8]) -> Option<Bytes> {
    let request = Bytes::from(Choices::lawful(choices).request(signal));
    walk(signal, &request).is_ok().then_some(request)
}

/// Several requests in one, so that there is something to cut.
fn merged(signal: Signal, many: &[Vec<u8>]) -> Bytes {
    let parts: Vec<Bytes> = many.iter().filter_map(|choices| accepted(signal, choices)).collect();
    crate::otlp::merge(&parts)
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn parts_have_all_items_once_in_order_with_their_envelopes(
        signal in signals(),
        many in prop::collection::vec(entropy(), 1..5),
        max_items in 0_u32..6,
        max_bytes in prop_oneof![Just(0_u32), 1_u32..600],
    ) {
        let request = merged(signal, &many);
        let parts = cut(signal, &request, Limits { max_items, max_bytes }).expect("it was accepted");
        let all = tree::items(signal, &request);
        let mut next = 0;
        for part in &parts {
            prop_assert_eq!(part.items.start, next);
            next = part.items.end;
            prop_assert_eq!(walk(signal, &part.bytes).map(|walked| walked.items), Ok(part.items.end - part.items.start));
            let range = part.items.start as usize..part.items.end as usize;
            prop_assert_eq!(&tree::items(signal, &part.bytes), &all[range.clone()]);
            prop_assert!(max_items == 0 || range.len() <= max_items as usize);
            prop_assert!(max_bytes == 0 || part.bytes.len() <= max_bytes as usize || range.len() <= 1);
            prop_assert_eq!(&take(signal, &request, part.items.clone()).map(|taken| tree::items(signal, &taken)),
                &Ok(all[range].to_vec()));
        }
        prop_assert_eq!(next as usize, all.len());
        prop_assert!(all.is_empty() || parts.iter().all(|part| !part.items.is_empty()));
    }

    #[test]
    fn parts_cut_by_items_are_as_few_and_as_even_as_can_be(
        signal in signals(), many in prop::collection::vec(entropy(), 1..5), max_items in 1_u32..6,
    ) {
        let request = merged(signal, &many);
        let parts = cut(signal, &request, Limits { max_items, max_bytes: 0 }).expect("it was accepted");
        let sizes: Vec<u32> = parts.iter().map(|part| part.items.end - part.items.start).collect();
        let items: u32 = sizes.iter().sum();
        prop_assert_eq!(sizes.len(), items.div_ceil(max_items).max(1) as usize);
        prop_assert!(sizes.iter().max().unwrap_or(&0) - sizes.iter().min().unwrap_or(&0) <= 1, "{:?}", sizes);
    }

    #[test]
    fn any_range_can_be_taken(
        signal in signals(), many in prop::collection::vec(entropy(), 1..5), a in 0_u32..12, b in 0_u32..12,
    ) {
        let request = merged(signal, &many);
        let all = tree::items(signal, &request);
        let (from, to) = (a.min(b), a.max(b));
        match take(signal, &request, from..to) {
            Ok(taken) => {
                prop_assert!(walk(signal, &taken).is_ok());
                prop_assert_eq!(tree::items(signal, &taken), all[from as usize..to as usize].to_vec());
            }
            Err(refused) => prop_assert!(to as usize > all.len(), "{}", refused),
        }
    }

    #[test]
    fn damaged_requests_are_cut_or_refused_but_never_a_panic(
        signal in signals(), choices in entropy(), hits in damage(), max_items in 0_u32..4, max_bytes in 0_u32..200,
    ) {
        let mut request = Choices::defective(&choices).request(signal);
        hits.strike(&mut request);
        let request = Bytes::from(request);
        if let Ok(parts) = cut(signal, &request, Limits { max_items, max_bytes }) {
            let items: u32 = parts.iter().map(|part| count(signal, &part.bytes).expect("built of what was read")).sum();
            prop_assert_eq!(Ok(items), count(signal, &request));
        }
        let _ = take(signal, &request, 1..2);
    }
}
