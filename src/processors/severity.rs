//! Severities as people write them: `INFO`, `warn2`, `17`.

/// The short names, each the first of four (OpenTelemetry, logs data model, "Displaying Severity").
pub const NAMES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

/// The number of a severity, 1 to 24; `None`: it is none. Upper and lower case are the same, as in the original's filter.
#[must_use]
pub fn number(written: &str) -> Option<u8> {
    let written = written.to_ascii_uppercase();
    if let Ok(number) = written.parse() {
        return Some(number).filter(|n| (1..=24).contains(n));
    }
    let stem = written.trim_end_matches(|c: char| c.is_ascii_digit());
    let class = NAMES.iter().position(|name| *name == stem)?;
    let nth = match &written[stem.len()..] {
        "" => 1,
        nth => nth.parse::<usize>().ok().filter(|nth| (2..=4).contains(nth))?,
    };
    u8::try_from(class * 4 + nth).ok()
}

/// One line about a text that is none.
#[must_use]
pub fn none_such() -> String {
    format!("is no severity; write one of {} (or WARN2), or a number from 1 to 24", NAMES.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn a_severity_is_a_name_or_a_number() {
        for (written, expected) in [
            ("TRACE", 1), ("trace4", 4), ("Debug", 5), ("INFO", 9), ("warn2", 14), ("ERROR", 17), ("FATAL4", 24), ("1", 1), ("24", 24),
        ] {
            assert_eq!(number(written), Some(expected), "{written}");
        }
        for written in ["", "INFO1", "INFO5", "0", "25", "notice", "-1"] {
            assert_eq!(number(written), None, "{written}");
        }
    }
}
