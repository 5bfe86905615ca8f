//! Cuts lose nothing, double nothing, keep order, envelopes and limits.

use super::take;
use super::{cases, damage, entropy, signals, tree};
use crate::otlp::wild::Choices;
use crate::otlp::{Cutter, Signal, count, walk};
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
        borders in prop::collection::vec(0_u32..12, 0..6),
    ) {
        let request = merged(signal, &many);
        let cutter = Cutter::of(signal, &request).expect("it was accepted");
        let all = tree::items(signal, &request);
        prop_assert_eq!(cutter.items() as usize, all.len());
        let mut borders: Vec<u32> = borders.into_iter().map(|at| at.min(cutter.items())).chain([0, cutter.items()]).collect();
        borders.sort_unstable();
        for pair in borders.windows(2) {
            let part = cutter.take(pair[0]..pair[1]).expect("it has them");
            prop_assert_eq!(walk(signal, &part).map(|walked| walked.items), Ok(pair[1] - pair[0]));
            prop_assert_eq!(&tree::items(signal, &part), &all[pair[0] as usize..pair[1] as usize]);
            prop_assert!(part.len() <= request.len());
        }
    }

    /// Goal: where the envelopes alone are too long, every part is: halving would only repeat them.
    #[test]
    fn no_part_is_shorter_than_its_least_envelope(
        signal in signals(), many in prop::collection::vec(entropy(), 1..5), a in 0_u32..12, b in 0_u32..12,
    ) {
        let request = merged(signal, &many);
        let cutter = Cutter::of(signal, &request).expect("it was accepted");
        let (from, to) = (a.min(b).min(cutter.items()), a.max(b).min(cutter.items()));
        let least = cutter.least_envelope(from..to);
        for item in from..to {
            let part = cutter.take(item..item + 1).expect("it has it");
            prop_assert!(part.len() > least, "{} of {}", part.len(), least);
        }
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

    /// Goal: items that go several ways arrive each once, in order, with their envelopes; and what is shown around an item is
    /// what a decoding collector sees.
    #[test]
    fn picks_have_all_items_once_in_order_with_their_envelopes(
        signal in signals(), many in prop::collection::vec(entropy(), 1..5), ways in prop::collection::vec(0_u8..3, 1..40),
    ) {
        let request = merged(signal, &many);
        let cutter = Cutter::of(signal, &request).expect("it was accepted");
        let all = tree::items(signal, &request);
        let way = |n: u32| ways[n as usize % ways.len()];
        for one in 0..3 {
            let part = cutter.pick(|n| way(n) == one);
            let theirs: Vec<_> =
                (0..).zip(&all).filter(|(n, _)| way(*n) == one).map(|(_, item)| item.clone()).collect();
            prop_assert_eq!(walk(signal, &part).map(|walked| walked.items as usize), Ok(theirs.len()));
            prop_assert_eq!(tree::items(signal, &part), theirs);
            prop_assert!(part.len() <= request.len());
        }
        // Each item alone shows the same around it.
        let mut shown = Vec::new();
        cutter.each(|at| shown.push((at.resource.0.to_vec(), at.metric.0.to_vec(), at.item.0.to_vec())));
        prop_assert_eq!(shown.len(), all.len());
        for (n, shown) in (0..).zip(shown) {
            let alone = cutter.pick(|item| item == n);
            let mut seen = Vec::new();
            let cutter = Cutter::of(signal, &alone).expect("it was picked");
            cutter.each(|at| seen.push((at.resource.0.to_vec(), at.metric.0.to_vec(), at.item.0.to_vec())));
            prop_assert_eq!(seen, vec![shown]);
        }
    }

    #[test]
    fn damaged_requests_are_cut_or_refused_but_never_a_panic(
        signal in signals(), choices in entropy(), hits in damage(), at in 0_u32..4,
    ) {
        let mut request = Choices::defective(&choices).request(signal);
        hits.strike(&mut request);
        let request = Bytes::from(request);
        if let Ok(cutter) = Cutter::of(signal, &request) {
            prop_assert_eq!(Ok(cutter.items()), count(signal, &request));
            let at = at.min(cutter.items());
            let parts = [cutter.take(0..at), cutter.take(at..cutter.items())].map(|part| part.expect("it has them"));
            let items: u32 = parts.iter().map(|part| count(signal, part).expect("built of what was read")).sum();
            prop_assert_eq!(items, cutter.items());
            let _ = cutter.least_envelope(0..9);
            let _ = cutter.pick(|n| n % 2 == 0);
            cutter.each(|_| {});
        }
        let _ = take(signal, &request, 1..2);
    }
}
