//! Bytes and durations as people write and read them.

use std::fmt;
use std::time::Duration;

/// A number of bytes; shown with a binary unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

/// 1,024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1,024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1,024 MiB.
pub const GIB: u64 = 1 << 30;

impl Bytes {
    /// So many MiB, saturating.
    #[must_use]
    pub const fn mib(n: u64) -> Bytes {
        Bytes(n.saturating_mul(MIB))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            n if n >= GIB => (GIB, "GiB"),
            n if n >= MIB => (MIB, "MiB"),
            n if n >= KIB => (KIB, "KiB"),
            n => return write!(f, "{n} B"),
        };
        // Two digits that matter are enough for a person; the exact number is in the metrics.
        #[allow(clippy::cast_precision_loss)]
        let n = self.0 as f64 / unit as f64;
        if n >= 100.0 { write!(f, "{n:.0} {name}") } else { write!(f, "{n:.1} {name}") }
    }
}

/// Reads a number of bytes, with or without a unit: `512KiB`, `1.5 MB`, `4096`; binary units are 1,024 to the next, decimal ones 1,000.
/// `None`: it is not one.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<Bytes> {
    const UNITS: [(&str, f64); 10] = [
        ("", 1.0),
        ("b", 1.0),
        ("kib", 1_024.0),
        ("mib", 1_048_576.0),
        ("gib", 1_073_741_824.0),
        ("tib", 1_099_511_627_776.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("tb", 1e12),
    ];
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start().to_ascii_lowercase();
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let bytes = (number * factor).round();
    // Not negative, and below 2^63.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (bytes < 9e18).then_some(Bytes(bytes as u64))
}

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// `10`: Go reads a bare number as nanoseconds, which nobody means.
    #[error("`{0}` has no unit; write for example `{0}s`")]
    NoUnit(String),
    /// `1d`, `5 s`, `` and the like.
    #[error("`{0}` is not a duration; write numbers with units ns, us, ms, s, m or h, for example `1m30s`")]
    NotOne(String),
    /// Durations here are pauses and ages.
    #[error("`{0}` is negative")]
    Negative(String),
}

/// Reads Go's duration syntax, `[-+]?(digits[.digits](ns|us|µs|ms|s|m|h))+` or `0` (reference §1.4).
///
/// # Errors
/// Says what is wrong with the text and what to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, BadDuration> {
    let not_one = || BadDuration::NotOne(text.to_owned());
    if text.starts_with('-') && text != "-0" {
        return Err(BadDuration::Negative(text.to_owned()));
    }
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadDuration::NoUnit(rest.to_owned()));
    }
    let mut total = 0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(not_one)?;
        let number: f64 = rest[..digits].parse().map_err(|_| not_one())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit_ns = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3_600e9,
            _ => return Err(not_one()),
        };
        rest = &rest[letters..];
        total += number * unit_ns;
    }
    if text.is_empty() || !total.is_finite() || total >= 9.2e18 {
        return Err(not_one()); // Go's durations end at 292 years
    }
    // A positive float below 9.2e18 fits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(Duration::from_nanos(total.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn durations_read_as_go_reads_them() {
        for (text, expected) in [
            ("10s",    Ok(Duration::from_secs(10))),
            ("1m30s",  Ok(Duration::from_secs(90))),
            ("1.5h",   Ok(Duration::from_secs(5_400))),
            ("250ms",  Ok(Duration::from_millis(250))),
            ("3us",    Ok(Duration::from_micros(3))),
            ("3µs",    Ok(Duration::from_micros(3))),
            ("0",      Ok(Duration::ZERO)),
            ("+2s",    Ok(Duration::from_secs(2))),
            ("10",     Err(BadDuration::NoUnit("10".into()))),
            ("1d",     Err(BadDuration::NotOne("1d".into()))),
            ("1m5",    Err(BadDuration::NotOne("1m5".into()))),
            ("1 s",    Err(BadDuration::NotOne("1 s".into()))),
            ("",       Err(BadDuration::NotOne(String::new()))),
            (".s",     Err(BadDuration::NotOne(".s".into()))),
            ("-3s",    Err(BadDuration::Negative("-3s".into()))),
            ("999999999h", Err(BadDuration::NotOne("999999999h".into()))),
        ] {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn bytes_read_with_their_unit() {
        for (text, expected) in [
            ("4096",    Some(4_096)),
            ("512KiB",  Some(512 * KIB)),
            ("1.5 MiB", Some(3 * MIB / 2)),
            ("2gib",    Some(2 * GIB)),
            ("10MB",    Some(10_000_000)),
            ("7 B",     Some(7)),
            ("0",       Some(0)),
            ("",        None),
            ("KiB",     None),
            ("1.2.3",   None),
            ("-1",      None),
            ("5 apples", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(parse_bytes(text), expected.map(Bytes), "{text:?}");
        }
    }

    #[test]
    fn bytes_are_shown_for_people() {
        let shown: Vec<_> = [0, 1_023, 1_536, 10 * MIB, 300 * MIB, 5 * GIB].map(|n| Bytes(n).to_string()).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.5 KiB", "10.0 MiB", "300 MiB", "5.0 GiB"]);
    }
}
