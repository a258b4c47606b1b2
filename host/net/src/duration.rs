//! A time as a user writes it: `200ms`, `10s`, `1m30s`, `24h`; a bare number only where it is 0.

use std::fmt;
use std::time::Duration;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, Serializer};

/// Reads a time, for `#[serde(with = "weir_net::duration")]`.
///
/// # Errors
/// Anything that is not a sum of numbers with units.
pub fn deserialize<'de, D: Deserializer<'de>>(source: D) -> Result<Duration, D::Error> {
    source.deserialize_any(Text)
}

/// Writes a time in the largest unit that says it exactly.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(time: &Duration, target: S) -> Result<S::Ok, S::Error> {
    target.collect_str(&format_args!("{}", Shown(*time)))
}

/// The time in this text, if it is one: one or more numbers, each with `ns`, `us`, `ms`, `s`, `m` or `h`.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let unit_end =
            rest[digits..].find(|letter: char| letter.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_seconds = match &rest[digits..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number * unit_seconds).ok()?)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(sum)
}

struct Text;

impl Visitor<'_> for Text {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time with its unit, as 200ms, 10s, 1m30s or 24h")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Duration, E> {
        if number == 0 {
            Ok(Duration::ZERO)
        } else {
            Err(E::invalid_value(Unexpected::Unsigned(number), &self))
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Duration, E> {
        if number == 0 {
            Ok(Duration::ZERO)
        } else {
            Err(E::invalid_value(Unexpected::Signed(number), &self))
        }
    }
}

struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        for (unit, size) in
            [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)]
        {
            if nanos >= size && nanos.is_multiple_of(size) {
                return write!(f, "{}{unit}", nanos / size);
            }
        }
        if nanos == 0 { f.write_str("0s") } else { write!(f, "{nanos}ns") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: times as users of the Collector write them, and things that are none.
    /// Guarantees: each is read as Go reads it, and a number without a unit is not guessed at.
    #[test]
    fn a_time_needs_its_unit() {
        assert_eq!(parse("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(parse("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(parse("0"), Some(Duration::ZERO));
        for wrong in ["", "10", "10 s", "s", "-1s", "1y", "1..2s", "99999999999999999999h"] {
            assert_eq!(parse(wrong), None, "{wrong:?} was taken");
        }
    }

    /// Scenario: a time is shown and read again.
    /// Guarantees: it is the same time.
    #[test]
    fn a_shown_time_reads_back() {
        for nanos in [0, 1, 1_500_000_000, 60_000_000_000, 200_000_000, 86_400_000_000_000] {
            let time = Duration::from_nanos(nanos);
            assert_eq!(parse(&Shown(time).to_string()), Some(time));
        }
    }
}
