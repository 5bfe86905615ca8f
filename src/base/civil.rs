//! Days of the Gregorian calendar, counted from 1970-01-01.
//!
//! Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, so that the leap day is the last.

/// Seconds of a day.
pub const DAY_S: i64 = 86_400;

/// A date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// 2026.
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
}

impl Date {
    /// So many days after 1970-01-01 (`civil_from_days`).
    #[must_use]
    pub const fn of_days(days: i64) -> Date {
        let z = days + 719_468;
        let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let of_era_year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * of_era_year + of_era_year / 4 - of_era_year / 100);
        let march_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = of_era_year + era * 400 + (month <= 2) as i64;
        Date { year, month, day }
    }

    /// Days since 1970-01-01 (`days_from_civil`).
    #[must_use]
    pub const fn days(self) -> i64 {
        let year = self.year - (self.month <= 2) as i64;
        let (era, of_era_year) = (year.div_euclid(400), year.rem_euclid(400));
        let march_month = if self.month > 2 { self.month - 3 } else { self.month + 9 };
        let of_year = (153 * march_month + 2) / 5 + self.day - 1;
        era * 146_097 + of_era_year * 365 + of_era_year / 4 - of_era_year / 100 + of_year - 719_468
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of `date -u -d @$((days * 86400)) +%F`, and there and back over eight centuries.
    #[test]
    fn days_are_dates_and_dates_are_days() {
        let date = |year, month, day| Date { year, month, day };
        for (days, expected) in [
            (0, date(1970, 1, 1)),
            (-1, date(1969, 12, 31)),
            (11_016, date(2000, 2, 29)),
            (20_784, date(2026, 11, 27)),
            (47_540, date(2100, 2, 28)),
            (47_541, date(2100, 3, 1)),
        ] {
            assert_eq!(Date::of_days(days), expected, "{days}");
        }
        for days in -150_000..150_000 {
            assert_eq!(Date::of_days(days).days(), days);
        }
    }
}
