//! `link_budget`: what the link may cost.

use crate::config::Section;
use crate::otlp::Signal;
use crate::uplink::budget::LinkBudget;

impl LinkBudget {
    /// Reads `link_budget`.
    #[must_use]
    pub fn read(s: &Section<'_>) -> LinkBudget {
        let default = LinkBudget::default();
        let budget = LinkBudget {
            rate: s.bytes_a_second_if_given("rate"),
            per_day: s.bytes_if_given("per_day"),
            per_month: s.bytes_if_given("per_month"),
            month_starts_on: s.number("month_starts_on", default.month_starts_on, 1..=28),
            utc_offset_s: offset(s),
            shares: s.section("shares", |s| Signal::ALL.map(|signal| s.decimal(signal.name(), 0.0, 0.0..=1.0))),
            shed: s.choices("shed", &Signal::NAMED),
            reserve: s.decimal("reserve", default.reserve, 0.0..=0.9),
            paced: s.flag("paced", default.paced),
        };
        s.unless(budget.shares.iter().sum::<f64>() <= 1.0, "shares", || "are more than 1 together".to_owned());
        s.unless(budget.rate.is_some() || budget.has_periods(), "rate", || {
            "is needed, or `per_day`, or `per_month`: nothing else says how much may be sent".to_owned()
        });
        let (periods, month) = (budget.has_periods(), budget.per_month.is_some());
        for (key, has_effect, is_default) in [
            ("month_starts_on", month, budget.month_starts_on == default.month_starts_on),
            ("utc_offset", periods, budget.utc_offset_s == default.utc_offset_s),
            ("shed", periods, budget.shed == default.shed),
            ("paced", periods, budget.paced == default.paced),
        ] {
            let needed = if key == "month_starts_on" { "`per_month`" } else { "`per_day` or `per_month`" };
            s.warn_unless(has_effect || is_default, key, || format!("has no effect without {needed}"));
        }
        #[allow(clippy::float_cmp)] // it is that number, or another one
        let is_default = budget.reserve == default.reserve;
        s.warn_unless(!budget.shed.is_empty() || is_default, "reserve", || {
            "has no effect: no signal stops first without `shed`".to_owned()
        });
        budget
    }
}

/// `+07:00`, of at most 14 hours; 0 where it is not given or none.
fn offset(s: &Section<'_>) -> i32 {
    let Some(text) = s.text_if_given("utc_offset").filter(|text| !text.is_empty()) else { return 0 };
    let parsed = parse_offset(&text);
    s.unless(parsed.is_some(), "utc_offset", || format!("`{text}` is no offset; write for example \"+07:00\""));
    parsed.unwrap_or(0)
}

fn parse_offset(text: &str) -> Option<i32> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return (text == "Z").then_some(0),
    };
    let (hours, minutes) = digits.split_once(':')?;
    let part = |digits: &str, most: i32| {
        let fits = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<i32>().ok().filter(|n| fits && *n <= most)
    };
    Some(sign * (part(hours, 14)? * 3_600 + part(minutes, 59)? * 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    #[test]
    fn a_budget_is_read() {
        let yaml = "{rate: 64KiB/s, per_day: 50MB, per_month: 1GB, month_starts_on: 15, utc_offset: \"+07:00\",
                     shares: {metrics: 0.3, logs: 0.25}, shed: [traces, logs], reserve: 0.1, paced: false}";
        let (read, said) = try_out(yaml, &[], LinkBudget::read);
        assert_eq!(said, "");
        let wanted = LinkBudget {
            rate: Some(64 << 10),
            per_day: Some(50_000_000),
            per_month: Some(1_000_000_000),
            month_starts_on: 15,
            utc_offset_s: 7 * 3_600,
            shares: [0.0, 0.3, 0.25],
            shed: vec![Signal::Traces, Signal::Logs],
            reserve: 0.1,
            paced: false,
        };
        assert_eq!(read, wanted);
    }

    #[test]
    #[rustfmt::skip]
    fn what_makes_no_sense_is_said_with_its_path() {
        for (yaml, expected) in [
            ("{per_day: 10MB}",                                     ""),
            ("{per_day: 0}",                                        "must be more than 0; without the key there is no limit"),
            ("{rate: 1KiB, shares: {logs: 0.7, traces: 0.4}}",      "are more than 1 together"),
            ("{rate: 1KiB, shares: {log: 0.7}}",                    "`log` is not a key here; did you mean `logs`?"),
            ("{shed: [logs]}",                                      "is needed, or `per_day`, or `per_month`"),
            ("{rate: 1KiB, shed: [logs]}",                          "warning: has no effect without `per_day` or `per_month`"),
            ("{per_day: 1MB, month_starts_on: 5}",                  "warning: has no effect without `per_month`"),
            ("{rate: 1KiB, utc_offset: \"+07:00\"}",                  "warning: has no effect without `per_day` or `per_month`"),
            ("{per_day: 1MB, reserve: 0.5}",                        "warning: has no effect: no signal stops first without `shed`"),
            ("{per_month: 1MB, month_starts_on: 31}",               "31 is not from 1 to 28"),
            ("{per_day: 1MB, utc_offset: 7h}",                      "`7h` is no offset; write for example \"+07:00\""),
            ("{per_day: 1MB, utc_offset: \"-03:30\"}",              ""),
            ("{per_day: 1MB, utc_offset: \"+15:00\"}",              "`+15:00` is no offset"),
        ] {
            let said = try_out(yaml, &[], LinkBudget::read).1;
            assert!(if expected.is_empty() { said.is_empty() } else { said.contains(expected) }, "{yaml}: {said}");
        }
    }
}
