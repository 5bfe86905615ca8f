//! The walk accepts what prost accepts, less the rules in which it says to be stricter.

use super::tree::{self, strict};
use super::{cases, damage, entropy, signals};
use crate::otlp::slow::Request;
use crate::otlp::wild::Choices;
use crate::otlp::{Signal, What, count, merge, walk};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;

/// The one property of acceptance, for any bytes.
pub(super) fn agrees(signal: Signal, request: &[u8]) -> Result<(), TestCaseError> {
    let ours = walk(signal, request);
    let theirs = Request::decode(signal, request);
    let expected = theirs.is_ok() && strict(signal, request);
    prop_assert_eq!(ours.is_ok(), expected, "walk: {:?}, prost: {:?}", ours, theirs.err());
    if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
        prop_assert_eq!(ours, theirs.walked());
        prop_assert_eq!(count(signal, request), Ok(ours.items));
        prop_assert_eq!(tree::items(signal, request).len(), ours.items as usize);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn lawful_requests_are_accepted_up_to_their_depth(signal in signals(), choices in entropy()) {
        let request = Choices::lawful(&choices).request(signal);
        agrees(signal, &request)?;
        if let Err(refused) = walk(signal, &request) {
            prop_assert!(matches!(refused.what, What::Depth), "{}", refused);
        }
    }

    #[test]
    fn requests_with_defects_are_accepted_exactly_when_prost_and_the_stricter_rules_do(
        signal in signals(), choices in entropy(),
    ) {
        agrees(signal, &Choices::defective(&choices).request(signal))?;
    }

    #[test]
    fn damaged_requests_are_accepted_exactly_when_prost_and_the_stricter_rules_do(
        signal in signals(), choices in entropy(), hits in damage(),
    ) {
        let mut request = Choices::lawful(&choices).request(signal);
        hits.strike(&mut request);
        agrees(signal, &request)?;
    }

    #[test]
    fn any_bytes_are_accepted_exactly_when_prost_and_the_stricter_rules_do(
        signal in signals(), bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        agrees(signal, &bytes)?;
    }

    #[test]
    fn merged_requests_have_the_items_of_all_in_order(
        signal in signals(), many in prop::collection::vec(entropy(), 0..4),
    ) {
        let requests: Vec<Bytes> = many.iter().map(|choices| Choices::lawful(choices).request(signal).into())
            .filter(|request: &Bytes| walk(signal, request).is_ok()).collect();
        let merged = merge(&requests);
        agrees(signal, &merged)?;
        let walked = walk(signal, &merged).map_err(|refused| TestCaseError::fail(refused.to_string()))?;
        prop_assert_eq!(walked.items, requests.iter().map(|request| count(signal, request).unwrap_or(0)).sum::<u32>());
        let one_by_one: Vec<u8> = requests.iter()
            .flat_map(|request| Request::decode(signal, request).expect("walked").encode()).collect();
        prop_assert_eq!(Request::decode(signal, &merged).expect("walked").encode(), one_by_one);
    }
}

/// What the properties are worth depends on what they are shown.
#[test]
fn the_generator_makes_requests_with_items_and_refusals_of_every_kind() {
    let mut runner = TestRunner::deterministic();
    let mut refusals = BTreeSet::new();
    for signal in Signal::ALL {
        let (mut with_items, mut deep) = (0, 0);
        for _ in 0..2_000 {
            let choices = entropy().new_tree(&mut runner).expect("no filter rejects").current();
            match walk(signal, &Choices::lawful(&choices).request(signal)) {
                Ok(walked) => with_items += u32::from(walked.items > 1),
                Err(refused) => deep += u32::from(refused.what == What::Depth),
            }
            if let Err(refused) = walk(signal, &Choices::defective(&choices).request(signal)) {
                refusals.insert(format!("{:?}", refused.what).split([' ', '(']).next().map(str::to_owned));
            }
        }
        assert!(with_items > 600 && deep > 20, "{signal}: {with_items} with items, {deep} too deep, of 2,000");
    }
    let names: Vec<String> = refusals.into_iter().flatten().collect();
    assert_eq!(names, ["Depth", "Form", "Group", "Id", "Key", "Packed", "Truncated", "Utf8", "Varint", "WireType"]);
}
