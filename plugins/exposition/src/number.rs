//! Values and times.

/// Nanoseconds of a second.
const SECOND: i128 = 1_000_000_000;

/// Nanoseconds of a millisecond.
const MILLISECOND: i128 = 1_000_000;

/// A value: what Go reads as a float, but for hexadecimal and underscores.
#[must_use]
pub fn float(text: &str) -> Option<f64> {
    let unsigned = text.trim_start_matches(['+', '-']);
    // Rust takes a sign before NaN, Go does not; both take `inf` and `infinity` in any case.
    if text.len() - unsigned.len() > 1
        || (unsigned.len() < text.len() && unsigned.eq_ignore_ascii_case("nan"))
    {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    // Rust rounds what is too large to infinity, Go refuses it.
    let is_written = unsigned.starts_with(['i', 'I']);
    (value.is_finite() || value.is_nan() || is_written).then_some(value)
}

/// A time of the plain text, in milliseconds, as nanoseconds since the Unix epoch.
pub(crate) fn milliseconds(text: &str) -> Option<i64> {
    let millis: i64 = text.parse().ok()?;
    i64::try_from(i128::from(millis) * MILLISECOND).ok()
}

/// A time of OpenMetrics, in seconds, as nanoseconds since the Unix epoch. Decimals are read as they are written: a float
/// would be wrong by hundreds of nanoseconds.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_decimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !whole.is_empty() && is_decimal(whole) && is_decimal(fraction) {
        let whole: i128 = whole.parse().ok()?;
        let nine = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
        let nanos = nine.fold(0, |nanos, digit| nanos * 10 + i128::from(digit - b'0'));
        return i64::try_from(sign * whole.checked_mul(SECOND)?.checked_add(nanos)?).ok();
    }
    let nanos = float(text).filter(|seconds| seconds.is_finite())? * 1e9;
    // Beyond, the cast would be the nearest bound.
    (nanos.abs() < 9e18).then_some(nanos as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: values as Go's clients write them, and what Go reads only in its own sources.
    /// Guarantees: the first are read, the others are none.
    #[test]
    fn a_value_is_what_go_reads() {
        for (text, value) in [
            ("1", 1.0),
            ("+1.5", 1.5),
            ("-1e-3", -0.001),
            ("1.", 1.0),
            (".5", 0.5),
            ("007", 7.0),
            ("+Inf", f64::INFINITY),
            ("-infinity", f64::NEG_INFINITY),
        ] {
            assert_eq!(float(text), Some(value), "{text}");
        }
        assert!(float("nan").is_some_and(f64::is_nan) && float("NaN").is_some_and(f64::is_nan));
        for text in ["", "+", "0x1p-3", "1_2", "1e400", "-1e309", "+nan", "--1", "1e", "0b1", "1 "] {
            assert_eq!(float(text), None, "{text}");
        }
    }

    /// Scenario: times with and without decimals, negative, with an exponent, too many digits, none at all.
    /// Guarantees: nanoseconds to the last digit.
    #[test]
    fn a_time_is_read_to_the_nanosecond() {
        for (text, nanos) in [
            ("1520879607.789", 1_520_879_607_789_000_000),
            ("1520879607.123456789", 1_520_879_607_123_456_789),
            ("0", 0),
            ("-1.5", -1_500_000_000),
            ("1.", 1_000_000_000),
            ("1e3", 1_000_000_000_000),
            ("1.0000000019", 1_000_000_001),
        ] {
            assert_eq!(seconds(text), Some(nanos), "{text}");
        }
        for text in ["", "NaN", "Inf", "0x1", "1_0", "1e30", "99999999999999999999", "a"] {
            assert_eq!(seconds(text), None, "{text}");
        }
        assert_eq!(milliseconds("-3982045"), Some(-3_982_045_000_000));
        assert_eq!(milliseconds("1.5"), None);
    }
}
