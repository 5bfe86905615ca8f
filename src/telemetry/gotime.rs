//! Times and durations as Go prints them, because 0.88's log lines and health answers are read by programs.

use crate::base::civil::{DAY_S, Date};
use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;

/// zap's `ISO8601TimeEncoder`, `2006-01-02T15:04:05.000Z0700`: milliseconds cut off, `Z` or `+0200` without colon.
#[must_use]
pub fn iso8601_ms(wall_ns: u64, offset_s: i32) -> String {
    let (date_time, ns) = civil(wall_ns, offset_s);
    format!("{date_time}.{:03}{}", ns / 1_000_000, zone(offset_s, ""))
}

/// Go's `RFC3339Nano`, which is how a time stands in its JSON: as many digits as needed, zone with a colon.
#[must_use]
pub fn rfc3339_nano(wall_ns: u64, offset_s: i32) -> String {
    let (date_time, ns) = civil(wall_ns, offset_s);
    let fraction = if ns == 0 { String::new() } else { format!(".{ns:09}").trim_end_matches('0').to_owned() };
    format!("{date_time}{fraction}{}", zone(offset_s, ":"))
}

/// Go's `Duration.String`: `1h15m30.918s`, `35.05s`, `801ms`, `1.5µs`, `0s`.
#[must_use]
pub fn duration(d: Duration) -> String {
    let ns = d.as_nanos();
    let with_fraction = |whole: u128, fraction: u128, digits: usize| {
        let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:0digits$}") };
        let fraction = fraction.trim_end_matches('0').to_owned();
        format!("{whole}{fraction}")
    };
    match ns {
        0 => "0s".to_owned(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}µs", with_fraction(ns / 1_000, ns % 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", with_fraction(ns / 1_000_000, ns % 1_000_000, 6)),
        _ => {
            let (s, fraction) = (ns / u128::from(SECOND_NS), ns % u128::from(SECOND_NS));
            let (h, m) = (s / 3_600, s / 60 % 60);
            let s = with_fraction(s % 60, fraction, 9);
            match (h, m) {
                (0, 0) => format!("{s}s"),
                (0, _) => format!("{m}m{s}s"),
                _ => format!("{h}h{m}m{s}s"),
            }
        }
    }
}

/// Seconds east of Greenwich at this moment, by the machine's zone (`TZ`, `/etc/localtime`); 0 when it has none.
#[must_use]
#[allow(unsafe_code)] // std knows no zones, and a crate would bring a database of its own
pub fn local_offset_s(wall_ns: u64) -> i32 {
    // Where `time_t` has 32 bits (armv7 gnu), 2038 and later is shown in UTC.
    let Ok(seconds) = (wall_ns / SECOND_NS).try_into() else { return 0 };
    // SAFETY: `tm` is plain numbers and a pointer, for which zeroes are valid; localtime_r reads the one and fills
    // the other. It reads the environment, which nothing in this program ever changes.
    let filled = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        (!libc::localtime_r(&raw const seconds, &raw mut tm).is_null()).then_some(tm)
    };
    #[allow(clippy::useless_conversion)] // `c_long`: 64 bits here, 32 there
    filled.and_then(|tm| i32::try_from(tm.tm_gmtoff).ok()).unwrap_or(0)
}

fn zone(offset_s: i32, colon: &str) -> String {
    if offset_s == 0 {
        return "Z".to_owned();
    }
    let (sign, minutes) = (if offset_s < 0 { '-' } else { '+' }, offset_s.unsigned_abs() / 60);
    format!("{sign}{:02}{colon}{:02}", minutes / 60, minutes % 60)
}

/// `2006-01-02T15:04:05` and the nanoseconds beyond it.
fn civil(wall_ns: u64, offset_s: i32) -> (String, u64) {
    let ns = wall_ns % SECOND_NS;
    let local_s = i64::try_from(wall_ns / SECOND_NS).expect("2^64 ns are 585 years of seconds") + i64::from(offset_s);
    let (days, of_day) = (local_s.div_euclid(DAY_S), local_s.rem_euclid(DAY_S));
    let Date { year, month, day } = Date::of_days(days);
    let (h, m, s) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    (format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}"), ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dates are those of `date -u -d @… --iso-8601=seconds`.
    #[test]
    #[rustfmt::skip]
    fn times_are_written_as_zap_and_as_gos_json_write_them() {
        for (seconds, ns, offset_s, iso, rfc) in [
            (0,             0,           0,       "1970-01-01T00:00:00.000Z",     "1970-01-01T00:00:00Z"),
            (1_795_412_561, 746_999_999, 0,       "2026-11-23T05:42:41.746Z",     "2026-11-23T05:42:41.746999999Z"),
            (1_795_412_561, 746_000_000, 7_200,   "2026-11-23T07:42:41.746+0200", "2026-11-23T07:42:41.746+02:00"),
            (1_795_412_561, 1,           -12_600, "2026-11-23T02:12:41.000-0330", "2026-11-23T02:12:41.000000001-03:30"),
            (951_782_399,   0,           0,       "2000-02-28T23:59:59.000Z",     "2000-02-28T23:59:59Z"),
            (951_782_400,   0,           0,       "2000-02-29T00:00:00.000Z",     "2000-02-29T00:00:00Z"),
            (4_107_542_400, 0,           0,       "2100-03-01T00:00:00.000Z",     "2100-03-01T00:00:00Z"),
            (1_798_761_599, 0,           3_600,   "2027-01-01T00:59:59.000+0100", "2027-01-01T00:59:59+01:00"),
            (0,             0,           -3_600,  "1969-12-31T23:00:00.000-0100", "1969-12-31T23:00:00-01:00"),
        ] {
            let wall_ns = seconds * SECOND_NS + ns;
            assert_eq!(iso8601_ms(wall_ns, offset_s), iso);
            assert_eq!(rfc3339_nano(wall_ns, offset_s), rfc);
        }
        let _ = rfc3339_nano(u64::MAX, i32::MAX); // far ends do not panic
    }

    /// Go's own table, time/time_test.go, and the value of the reference (§2.13).
    #[test]
    #[rustfmt::skip]
    fn durations_are_written_as_go_writes_them() {
        for (ns, expected) in [
            (0, "0s"), (1, "1ns"), (1_100, "1.1µs"), (2_200_000, "2.2ms"), (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"), (245_001_000_000, "4m5.001s"), (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"), (9_223_372_036_854_775_807, "2562047h47m16.854775807s"),
            (35_050_000_000, "35.05s"), (801_000_000, "801ms"), (3_600_000_000_000, "1h0m0s"), (10_000_000_000, "10s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(ns)), expected);
        }
    }

    #[test]
    fn the_zone_of_the_machine_is_a_zone() {
        let offset_s = local_offset_s(1_795_412_561 * SECOND_NS);
        assert!((-12 * 3_600..=14 * 3_600).contains(&offset_s), "{offset_s}");
        let _ = local_offset_s(u64::MAX);
    }
}
