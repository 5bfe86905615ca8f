//! `processors.probabilistic_sampler`: how much is kept, and by which hash (contrib v0.88.0, `config.go`).

use crate::config::Section;

/// For spans only the first two count.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SamplerConfig {
    /// `sampling_percentage`, 0: so much is kept; 100 and more: all.
    pub percentage: f32,
    /// `hash_seed`, 0: agents in a row with different seeds choose independently.
    pub seed: u32,
    /// `attribute_source`, `traceID`: false: the trace id of a record is not looked at.
    pub by_record: bool,
    /// `from_attribute`: what is hashed of a record without a trace id.
    pub from_attribute: Option<String>,
    /// `sampling_priority`: an attribute of the record that holds a percentage of its own.
    pub priority: Option<String>,
}

impl SamplerConfig {
    /// Reads `processors.probabilistic_sampler`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> SamplerConfig {
        #[allow(clippy::cast_possible_truncation)] // a percentage; the original keeps it in 32 bits too
        let percentage = s.decimal("sampling_percentage", 0.0, 0.0..=f64::from(f32::MAX)) as f32;
        s.warn_unless(percentage > 0.0, "sampling_percentage", || {
            "is 0, or not given: nothing passes (as in otelcol)".to_owned()
        });
        SamplerConfig {
            percentage,
            seed: s.number("hash_seed", 0, 0..=u32::MAX),
            by_record: s.choice("attribute_source", false, &[("traceID", false), ("record", true)]),
            from_attribute: s.text_if_given("from_attribute"),
            priority: s.text_if_given("sampling_priority"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    #[test]
    fn every_key_arrives_and_a_sampler_that_lets_nothing_pass_is_told() {
        let yaml = "{sampling_percentage: 15.3, hash_seed: 22, attribute_source: record, from_attribute: id, sampling_priority: p}";
        let expected = SamplerConfig {
            percentage: 15.3,
            seed: 22,
            by_record: true,
            from_attribute: Some("id".to_owned()),
            priority: Some("p".to_owned()),
        };
        assert_eq!(try_out(yaml, &[], SamplerConfig::read), (expected, String::new()));
        let (read, told) = try_out("{}", &[], SamplerConfig::read);
        assert_eq!(read, SamplerConfig::default());
        assert_eq!(told, "warning: is 0, or not given: nothing passes (as in otelcol)");
        let (_, told) = try_out("sampling_percentage: -1", &[], SamplerConfig::read);
        assert!(told.starts_with("-1 is not from 0 to "), "{told}");
    }
}
