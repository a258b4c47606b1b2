//! Numbers as JSON spells them.

/// A number that keeps to JSON's grammar, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<'a> {
    text: &'a [u8],
}

/// Powers of ten beyond this exceed 128 bits; exponents are cut off there.
const EXPONENT_MAX: i32 = 100_000;

impl<'a> Number<'a> {
    /// The number at the start of `text`, or nothing where there is none.
    #[must_use]
    pub(super) fn prefix(text: &'a [u8]) -> Option<Self> {
        let mut at = usize::from(text.first() == Some(&b'-'));
        at = match text.get(at)? {
            b'0' => at + 1,
            b'1'..=b'9' => digits(text, at),
            _ => return None,
        };
        if text.get(at) == Some(&b'.') {
            let end = digits(text, at + 1);
            if end == at + 1 {
                return None;
            }
            at = end;
        }
        if let Some(b'e' | b'E') = text.get(at) {
            let start = at + 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
            let end = digits(text, start);
            if end == start {
                return None;
            }
            at = end;
        }
        Some(Self { text: &text[..at] })
    }

    /// The number that `text` is, whole and without spaces around it.
    #[must_use]
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        Self::prefix(text).filter(|number| number.text.len() == text.len())
    }

    /// As it stands in the JSON text; ASCII.
    #[must_use]
    pub const fn text(self) -> &'a [u8] {
        self.text
    }

    /// The nearest `double`; nothing where it is beyond the largest.
    #[must_use]
    pub fn as_f64(self) -> Option<f64> {
        let text = core::str::from_utf8(self.text).ok()?;
        text.parse().ok().filter(|value: &f64| value.is_finite())
    }

    /// The whole number, spelled plainly or as in `1.0` and `12e2`; nothing where it has a fraction or does
    /// not fit.
    #[must_use]
    pub fn as_i64(self) -> Option<i64> {
        self.whole().and_then(|value| i64::try_from(value).ok())
    }

    /// The whole number, spelled plainly or as in `1.0` and `12e2`; nothing where it has a fraction or does
    /// not fit.
    #[must_use]
    pub fn as_u64(self) -> Option<u64> {
        self.whole().and_then(|value| u64::try_from(value).ok())
    }

    fn whole(self) -> Option<i128> {
        let (negative, text) = match self.text {
            [b'-', rest @ ..] => (true, rest),
            text => (false, text),
        };
        // Eighteen digits fit 64 bits without a check; that is what nearly every number is.
        let magnitude = if text.len() <= 18 && text.iter().all(u8::is_ascii_digit) {
            u128::from(text.iter().fold(0u64, |value, digit| value * 10 + u64::from(digit & 0x0f)))
        } else {
            scaled(text)?
        };
        let magnitude = i128::try_from(magnitude).ok()?;
        Some(if negative { -magnitude } else { magnitude })
    }
}

/// The value of an unsigned JSON number, if it is whole and fits 128 bits.
fn scaled(text: &[u8]) -> Option<u128> {
    let exponent_at = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (decimal, exponent) = match exponent_at {
        Some(at) => (&text[..at], exponent(&text[at + 1..])),
        None => (text, 0),
    };
    let point = decimal.iter().position(|byte| *byte == b'.');
    let (whole, fraction): (&[u8], &[u8]) = match point {
        Some(at) => (&decimal[..at], &decimal[at + 1..]),
        None => (decimal, &[]),
    };
    // Zeros at the end of the fraction say nothing and would only overflow.
    let zeros = fraction.iter().rev().take_while(|digit| **digit == b'0').count();
    let fraction = &fraction[..fraction.len() - zeros];
    let mut value = 0u128;
    for digit in whole.iter().chain(fraction) {
        value = value.checked_mul(10)?.checked_add(u128::from(digit & 0x0f))?;
    }
    if value == 0 {
        return Some(0);
    }
    let shift = exponent.saturating_sub(i32::try_from(fraction.len()).ok()?);
    for _ in 0..shift.max(0) {
        value = value.checked_mul(10)?;
    }
    for _ in shift.min(0)..0 {
        if !value.is_multiple_of(10) {
            return None;
        }
        value /= 10;
    }
    Some(value)
}

fn exponent(text: &[u8]) -> i32 {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        text => (false, text),
    };
    let magnitude =
        digits.iter().fold(0i32, |value, digit| (value * 10 + i32::from(digit & 0x0f)).min(EXPONENT_MAX));
    if negative { -magnitude } else { magnitude }
}

/// The offset behind the digits that stand at `at`.
#[inline]
fn digits(text: &[u8], at: usize) -> usize {
    let mut end = at;
    while text.get(end).is_some_and(u8::is_ascii_digit) {
        end += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: texts that are numbers by JSON's grammar, and texts that are nearly.
    /// Guarantees: the grammar decides, not what a float parser would take.
    #[test]
    fn the_grammar_is_jsons() {
        for good in ["0", "-0", "1", "10", "1.5", "-1.5e10", "1E+5", "1e-5", "0.0"] {
            assert!(Number::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in
            ["", "-", "01", "+1", ".5", "1.", "1e", "1e+", "1 ", " 1", "0x1", "inf", "NaN", "1_0", "--1"]
        {
            assert_eq!(Number::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    /// Scenario: whole numbers in every spelling, fractions, and numbers beyond the type.
    /// Guarantees: what is whole and fits is read exactly, the rest is refused.
    #[test]
    fn whole_numbers_are_exact_in_every_spelling() {
        let signed = |text: &str| Number::parse(text.as_bytes()).expect("a number").as_i64();
        let unsigned = |text: &str| Number::parse(text.as_bytes()).expect("a number").as_u64();
        assert_eq!(signed("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(signed("-9223372036854775809"), None);
        assert_eq!(unsigned("18446744073709551615"), Some(u64::MAX));
        assert_eq!(unsigned("18446744073709551616"), None);
        assert_eq!(unsigned("-1"), None);
        assert_eq!(unsigned("-0"), Some(0));
        assert_eq!(unsigned("1.7952890311920000e18"), Some(1_795_289_031_192_000_000));
        assert_eq!(unsigned("1.000000000000000000000000000000000000000000000000000"), Some(1));
        assert_eq!(unsigned("1200e-2"), Some(12));
        assert_eq!(unsigned("120e-2"), None);
        assert_eq!(unsigned("0.5"), None);
        assert_eq!(unsigned("0e999999999999999999999"), Some(0));
        assert_eq!(unsigned("1e999999999999999999999"), None);
        assert_eq!(unsigned("1e-999999999999999999999"), None);
        assert_eq!(unsigned(&"9".repeat(1000)), None);
    }

    /// Scenario: doubles at the edges.
    /// Guarantees: too small is zero, too large is refused.
    #[test]
    fn a_double_beyond_the_largest_is_refused() {
        let double = |text: &str| Number::parse(text.as_bytes()).expect("a number").as_f64();
        assert_eq!(double("1.7976931348623157e308"), Some(f64::MAX));
        assert_eq!(double("1e309"), None);
        assert_eq!(double("-1e999999999999"), None);
        assert_eq!(double("1e-400"), Some(0.0));
    }
}
