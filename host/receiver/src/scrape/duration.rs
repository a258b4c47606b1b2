//! Times as Prometheus writes them: `1m30s`, `500ms`, `1d`.

use std::time::Duration;

/// The units, largest first, in milliseconds. Each may stand once, in this order; a year has 365 days.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 24 * 3_600_000),
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads a time; a bare number only where it is 0.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut millis, mut units) = (text, 0_u64, UNITS.as_slice());
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let after = &rest[digits..];
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let at = units.iter().position(|(unit, _)| *unit == &after[..letters])?;
        millis = millis.checked_add(number.checked_mul(units[at].1)?)?;
        units = &units[at + 1..];
        rest = &after[letters..];
    }
    Some(Duration::from_millis(millis))
}

/// Writes a time, to the millisecond, as Prometheus does: `1m30s`, and weeks and more only where they say it alone.
pub fn show(time: Duration) -> String {
    let mut left = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (index, (unit, millis)) in UNITS.iter().enumerate() {
        let is_large = index < 3;
        if is_large && left % millis != 0 {
            continue;
        }
        let count = left / millis;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            left -= count * millis;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: times in every unit, several units, and texts that are none.
    /// Guarantees: they are read and written as Prometheus does; the rest is refused.
    #[test]
    fn times_are_read_and_written_as_prometheus_does() {
        let cases = [
            ("15s", 15_000, "15s"),
            ("1m30s", 90_000, "1m30s"),
            ("90s", 90_000, "1m30s"),
            ("500ms", 500, "500ms"),
            ("1d", 86_400_000, "1d"),
            ("25h", 90_000_000, "25h"),
            ("1w", 604_800_000, "1w"),
            ("1h0m5s", 3_605_000, "1h5s"),
            ("0", 0, "0s"),
        ];
        for (text, millis, shown) in cases {
            let time = parse(text).unwrap();
            assert_eq!(time, Duration::from_millis(millis), "{text}");
            assert_eq!(show(time), shown, "{text}");
        }
        for text in [
            "",
            "15",
            "s",
            "1.5s",
            "-1s",
            "1s1m",
            "1m1m",
            "5 s",
            "1us",
            "99999999999999999999s",
            "584942418y",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
