//! What a scraper takes, and what it gets (`prometheus.io/docs/instrumenting/content_negotiation`).
//!
//! | it asks for | it gets |
//! |---|---|
//! | nothing, `*/*`, `text/*`, anything that is not here | text 0.0.4 |
//! | `text/plain`, with `version=0.0.4` or without | text 0.0.4 |
//! | `text/plain;version=1.0.0` | text 1.0.0, names escaped as it wants |
//! | `application/openmetrics-text`, `application/*` | OpenMetrics 1.0.0, names escaped as it wants |
//! | `application/openmetrics-text;version=0.0.1` | OpenMetrics 0.0.1 |

use weir_exposition::Dialect;

use crate::escape::Scheme;

/// Ranges of a header that are looked at: Prometheus sends five.
const RANGES_MAX: usize = 64;

/// The text that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) dialect: Dialect,
    version: &'static str,
    pub(crate) scheme: Scheme,
    /// Whether the scraper has said how it wants names.
    says_scheme: bool,
}

impl Format {
    /// What everybody reads.
    const DEFAULT: Self =
        Self { dialect: Dialect::Plain, version: "0.0.4", scheme: Scheme::Underscores, says_scheme: false };

    /// The content type of the answer.
    pub(crate) fn content_type(self) -> String {
        let media = match self.dialect {
            Dialect::Plain => "text/plain",
            Dialect::OpenMetrics => "application/openmetrics-text",
        };
        let scheme =
            if self.says_scheme { format!("; escaping={}", self.scheme.name()) } else { String::new() };
        format!("{media}; version={}; charset=utf-8{scheme}", self.version)
    }
}

/// The format for an `Accept` header: of those that are there the one with the greatest weight, of equals the first.
pub(crate) fn negotiate(accept: &str, has_open_metrics: bool) -> Format {
    let mut best: Option<(u16, Format)> = None;
    for range in accept.split(',').take(RANGES_MAX) {
        let Some((weight, format)) = read(range, has_open_metrics) else { continue };
        if weight > 0 && best.is_none_or(|(other, _)| weight > other) {
            best = Some((weight, format));
        }
    }
    best.map_or(Format::DEFAULT, |(_, format)| format)
}

/// A range with its weight in thousandths; nothing for what is not served.
fn read(range: &str, has_open_metrics: bool) -> Option<(u16, Format)> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let (mut version, mut scheme, mut weight) = (None, None, 1_000);
    for parameter in parts {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "version" => version = Some(value),
            "escaping" => scheme = Scheme::named(value),
            "q" => weight = thousandths(value)?,
            _ => {}
        }
    }
    let (dialect, version) = match (media.as_str(), version) {
        ("*/*" | "text/*" | "text/plain", None | Some("0.0.4")) => (Dialect::Plain, "0.0.4"),
        ("text/plain", Some("1.0.0")) => (Dialect::Plain, "1.0.0"),
        ("application/openmetrics-text" | "application/*", None | Some("1.0.0")) => {
            (Dialect::OpenMetrics, "1.0.0")
        }
        ("application/openmetrics-text", Some("0.0.1")) => (Dialect::OpenMetrics, "0.0.1"),
        _ => return None,
    };
    if dialect == Dialect::OpenMetrics && !has_open_metrics {
        return None;
    }
    // The older versions know no schemes.
    let scheme = scheme.filter(|_| version == "1.0.0");
    let says_scheme = scheme.is_some();
    Some((weight, Format { dialect, version, scheme: scheme.unwrap_or_default(), says_scheme }))
}

/// `0` to `1` with at most three decimals (RFC 9110, 12.4.2); more are cut.
fn thousandths(weight: &str) -> Option<u16> {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.bytes().chain([b'0'; 3]).take(3);
    let fraction = fraction.fold(0, |all, digit| all * 10 + u16::from(digit - b'0'));
    match whole {
        "0" | "" => Some(fraction),
        "1" if fraction == 0 => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
    const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Scenario: headers of Prometheus 2 and 3, of browsers, of curl, with weights, refusals and nonsense.
    /// Guarantees: the format with the greatest weight that is served, in the scheme that was asked for.
    #[test]
    fn the_greatest_weight_that_is_served_wins() {
        let three = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let two = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let utf8 = format!("{OPEN}; escaping=allow-utf-8");
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.9,text/plain;version=0.0.4;q=0.3";
        for (accept, content_type) in [
            ("", PLAIN),
            ("*/*", PLAIN),
            ("text/*;q=0.1", PLAIN),
            ("text/html,application/xhtml+xml,*/*;q=0.8", PLAIN),
            ("application/json", PLAIN),
            (three, &utf8),
            (two, OPEN),
            (protobuf, PLAIN),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.4", PLAIN),
            ("text/plain;q=0,application/openmetrics-text;q=0.001", OPEN),
            ("text/plain, application/openmetrics-text", PLAIN),
            ("APPLICATION/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=1.0", OPEN),
            (
                "text/plain;version=1.0.0;escaping=dots",
                "text/plain; version=1.0.0; charset=utf-8; escaping=dots",
            ),
            ("text/plain;version=0.0.4;escaping=allow-utf-8", PLAIN),
            ("text/plain;version=1.0.0;escaping=other", "text/plain; version=1.0.0; charset=utf-8"),
            ("text/plain;version=2.0.0", PLAIN),
            (
                "application/openmetrics-text;version=0.0.1",
                "application/openmetrics-text; version=0.0.1; charset=utf-8",
            ),
            ("application/openmetrics-text;q=2,;;,=,text/plain;q=x", PLAIN),
        ] {
            assert_eq!(negotiate(accept, true).content_type(), content_type, "{accept}");
        }
        let plain = negotiate(three, false).content_type();
        assert_eq!(plain, "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8");
    }
}
