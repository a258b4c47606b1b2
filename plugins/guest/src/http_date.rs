//! The date form of `Retry-After` (RFC 9110 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
//!
//! The two obsolete forms are not read: who sends them gets the host's own back-off.

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// Seconds since the Unix epoch; nothing for what is no such date or lies before the epoch.
pub(crate) fn parse(text: &str) -> Option<u64> {
    // "Sun, 06 Nov 1994 08:49:37 GMT": every field has its fixed place.
    let text = text.as_bytes();
    if text.len() != 29 || &text[3..5] != b", " || &text[25..] != b" GMT" {
        return None;
    }
    let separators = [(7, b' '), (11, b' '), (16, b' '), (19, b':'), (22, b':')];
    if separators.iter().any(|&(at, separator)| text[at] != separator) {
        return None;
    }
    let day = number(&text[5..7])?;
    let month = MONTHS.iter().position(|month| month.as_slice() == &text[8..11])? as u64 + 1;
    let year = number(&text[12..16])?;
    let (hour, minute, second) = (number(&text[17..19])?, number(&text[20..22])?, number(&text[23..25])?);
    if year < 1970 || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

/// Days from 1970-01-01 in the Gregorian calendar, for years from 1970. March is taken as the first month of
/// the year, so that the leap day is the last.
fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::parse;

    /// Scenario: the RFC's example, the epoch, leap days and the ends of years.
    /// Guarantees: seconds since the epoch, as `date -u +%s` gives them.
    #[test]
    fn an_http_date_is_read() {
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(parse("Wed, 31 Dec 2025 00:00:00 GMT"), Some(1_767_139_200));
        assert_eq!(parse("Thu, 01 Jan 2026 00:00:00 GMT"), Some(1_767_225_600));
    }

    /// Scenario: texts that are no such date.
    /// Guarantees: nothing, and no panic.
    #[test]
    fn what_is_no_http_date_is_nothing() {
        for text in [
            "",
            "120",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, ä6 Nov 1994 08:49:37 GM",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
