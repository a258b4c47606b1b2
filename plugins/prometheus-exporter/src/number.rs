//! Numbers as Prometheus' own libraries write them.

use std::fmt::Write as _;

/// Whole numbers up to here are written with all their digits: a double has no gaps below.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// A value: `5`, `0.25`, `1e+21`, `NaN`, `+Inf`.
pub(crate) fn value(out: &mut String, value: f64) {
    // An integer has no minus zero.
    let is_minus_zero = value == 0.0 && value.is_sign_negative();
    if value.fract() == 0.0 && value.abs() < WHOLE_MAX && !is_minus_zero {
        put(out, format_args!("{}", value as i64));
    } else {
        float(out, value, false);
    }
}

/// A count.
pub(crate) fn count(out: &mut String, count: u64) {
    put(out, format_args!("{count}"));
}

/// A bound or a quantile: as Go's shortest form, in OpenMetrics with a point or an exponent in any case ("canonical").
pub(crate) fn bound(out: &mut String, bound: f64, is_canonical: bool) {
    float(out, bound, is_canonical);
}

/// Nanoseconds as seconds, with as many digits as it takes.
pub(crate) fn seconds(out: &mut String, nanos: u64) {
    put(out, format_args!("{}.{:09}", nanos / SECOND, nanos % SECOND));
    let digits = out.trim_end_matches('0').len();
    out.truncate(digits);
    if out.ends_with('.') {
        out.push('0');
    }
}

/// Nanoseconds as milliseconds.
pub(crate) fn millis(out: &mut String, nanos: u64) {
    put(out, format_args!("{}", nanos / 1_000_000));
}

/// As Go writes a float in its shortest form (`strconv`, 'g'): with an exponent below 1e-4, and of whole numbers from 1e6 on.
fn float(out: &mut String, value: f64, is_canonical: bool) {
    if value.is_nan() {
        return out.push_str("NaN");
    }
    if value.is_infinite() {
        return out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    }
    let start = out.len();
    // Shortest digits with an exponent: "-1.25e-7".
    put(out, format_args!("{value:e}"));
    let Some(at) = out[start..].find('e') else { return };
    let exponent: i32 = out[start + at + 1..].parse().unwrap_or(0);
    // A million is `1e+06`, a million and a half and a bit is not.
    if (-4..21).contains(&exponent) && (exponent < 6 || value.fract() != 0.0) {
        out.truncate(start);
        put(out, format_args!("{value}"));
        if is_canonical && !out[start..].contains('.') {
            out.push_str(".0");
        }
        return;
    }
    out.truncate(start + at);
    let sign = if exponent < 0 { '-' } else { '+' };
    put(out, format_args!("e{sign}{:02}", exponent.unsigned_abs()));
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        write(&mut out);
        out
    }

    /// Scenario: values of every size and kind.
    /// Guarantees: short, and read back to the same bits.
    #[test]
    fn a_value_is_short_and_exact() {
        for (number, written) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (-3.0, "-3"),
            (1_048_576.0, "1048576"),
            (0.25, "0.25"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123_456.75, "123456.75"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            let is = text(|out| value(out, number));
            assert_eq!(is, written);
            assert_eq!(is.parse().map(f64::to_bits), Ok(number.to_bits()));
        }
        assert_eq!(text(|out| value(out, f64::NAN)), "NaN");
        assert_eq!(text(|out| count(out, u64::MAX)), "18446744073709551615");
    }

    /// Scenario: bounds of OpenMetrics' table of canonical numbers.
    /// Guarantees: in OpenMetrics as it stands there, in the plain text as Go has it.
    #[test]
    fn a_bound_is_canonical_in_openmetrics() {
        for (number, canonical, plain) in [
            (0.0, "0.0", "0"),
            (1.0, "1.0", "1"),
            (-2.5, "-2.5", "-2.5"),
            (0.001, "0.001", "0.001"),
            (0.00001, "1e-05", "1e-05"),
            (100_000.0, "100000.0", "100000"),
            (1_000_000.0, "1e+06", "1e+06"),
            (2_500_000.0, "2.5e+06", "2.5e+06"),
            (1e10, "1e+10", "1e+10"),
            (f64::INFINITY, "+Inf", "+Inf"),
        ] {
            assert_eq!(text(|out| bound(out, number, true)), canonical);
            assert_eq!(text(|out| bound(out, number, false)), plain);
        }
    }

    /// Scenario: times with and without a fraction.
    /// Guarantees: to the nanosecond in seconds, whole in milliseconds.
    #[test]
    fn a_time_has_the_digits_it_takes() {
        assert_eq!(text(|out| seconds(out, 1_600_000_000_500_000_000)), "1600000000.5");
        assert_eq!(text(|out| seconds(out, 7_000_000_001)), "7.000000001");
        assert_eq!(text(|out| seconds(out, 10_000_000_000)), "10.0");
        assert_eq!(text(|out| millis(out, 1_600_000_000_500_900_000)), "1600000000500");
    }
}
