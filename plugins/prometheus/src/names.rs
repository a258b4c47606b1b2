//! Names of metrics and labels, by the strategies of `metrics/sdk_exporters/prometheus.md`.
//!
//! ```text
//! UnderscoreEscapingWithSuffixes     http.server.duration, ms  ──▶ http_server_duration_milliseconds
//! UnderscoreEscapingWithoutSuffixes                            ──▶ http_server_duration
//! NoUTF8EscapingWithSuffixes                                   ──▶ http.server.duration_milliseconds
//! NoTranslation                                                ──▶ http.server.duration
//! ```
//!
//! Where Prometheus' own translator (`prometheus/otlptranslator`) differs from the specification, this follows the
//! specification: `TiBy` is `tebibytes`, `kBy` is `kilobytes`, a unit of several words is found in a name, and only a word of
//! its own counts as a suffix (`subtotal` does not end in `total`).

use crate::units;

/// How a metric's name becomes a family's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Letters, digits, `_` and `:` only; unit and type at the end.
    #[default]
    UnderscoreEscapingWithSuffixes,
    /// Letters, digits, `_` and `:` only.
    UnderscoreEscapingWithoutSuffixes,
    /// Any characters; unit and type at the end.
    NoUtf8EscapingWithSuffixes,
    /// As it is.
    NoTranslation,
}

/// What the name of a metric says of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instrument {
    /// A monotonic sum: its name ends in `total`.
    Counter,
    /// A gauge: of the unit `1` its name ends in `ratio`.
    Gauge,
    /// Anything else.
    Other,
}

impl Strategy {
    /// The strategy of this name, as the Collector and Prometheus spell it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "UnderscoreEscapingWithSuffixes" => Self::UnderscoreEscapingWithSuffixes,
            "UnderscoreEscapingWithoutSuffixes" => Self::UnderscoreEscapingWithoutSuffixes,
            "NoUTF8EscapingWithSuffixes" => Self::NoUtf8EscapingWithSuffixes,
            "NoTranslation" => Self::NoTranslation,
            _ => return None,
        })
    }

    /// Whether unit and type are added to names.
    #[must_use]
    pub const fn has_suffixes(self) -> bool {
        matches!(self, Self::UnderscoreEscapingWithSuffixes | Self::NoUtf8EscapingWithSuffixes)
    }

    /// Whether names have only the characters that Prometheus has always known.
    #[must_use]
    pub const fn escapes(self) -> bool {
        matches!(self, Self::UnderscoreEscapingWithSuffixes | Self::UnderscoreEscapingWithoutSuffixes)
    }
}

// === metrics ===

/// The name of a family, as its samples are called; of histograms and summaries without their suffixes. Empty where nothing
/// of it is left. `namespace` stands before it where it is not empty.
#[must_use]
pub fn metric(strategy: Strategy, namespace: &str, name: &str, unit: &str, instrument: Instrument) -> String {
    let mut family = String::with_capacity(namespace.len() + name.len() + 24);
    if !strategy.escapes() {
        if !namespace.is_empty() {
            family.push_str(namespace);
            family.push('_');
        }
        family.push_str(name);
        if strategy.has_suffixes() {
            suffix(&mut family, unit, instrument);
        }
        return family;
    }
    if !name.contains(|char: char| char.is_ascii_alphanumeric() || char == ':') {
        return family;
    }
    if !strategy.has_suffixes() {
        for part in [namespace, name].into_iter().filter(|part| !part.is_empty()) {
            if !family.is_empty() {
                family.push('_');
            }
            escaped(part, true, &mut family);
        }
        if family.starts_with(|first: char| first.is_ascii_digit()) {
            family.insert(0, '_');
        }
        return family;
    }
    let tokens = |text| words(text).filter(|token| !token.is_empty());
    let mut all: Vec<&str> = tokens(name).collect();
    let (main, per) = unit_words(unit);
    for unit in [&*main, &*per] {
        let unit: Vec<&str> = tokens(unit).collect();
        if !unit.is_empty() && !all.windows(unit.len()).any(|run| run == unit) {
            all.extend(unit);
        }
    }
    if let Some(last) = type_word(unit, instrument) {
        all.retain(|token| *token != last);
        all.push(last);
    }
    for token in tokens(namespace).chain(all) {
        if !family.is_empty() || token.starts_with(|first: char| first.is_ascii_digit()) {
            family.push('_');
        }
        family.push_str(token);
    }
    family
}

/// Runs of characters that a name may not have, and of underscores, as one underscore.
fn escaped(text: &str, takes_colons: bool, out: &mut String) {
    let stays = |byte: u8| byte.is_ascii_alphanumeric() || (takes_colons && byte == b':');
    let mut rest = text;
    while !rest.is_empty() {
        // Both cuts are beside ASCII or at an end, so they are between characters: bytes of others are a run, too.
        let kept = rest.bytes().position(|byte| !stays(byte)).unwrap_or(rest.len());
        out.push_str(&rest[..kept]);
        rest = &rest[kept..];
        if !rest.is_empty() {
            out.push('_');
            rest = &rest[rest.bytes().position(stays).unwrap_or(rest.len())..];
        }
    }
}

/// The parts of a text between characters that a metric's name may not have; underscores are such here.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !char.is_ascii_alphanumeric() && char != ':')
}

/// The word of an instrument.
fn type_word(unit: &str, instrument: Instrument) -> Option<&'static str> {
    match instrument {
        Instrument::Counter => Some("total"),
        Instrument::Gauge if unit == "1" => Some("ratio"),
        Instrument::Gauge | Instrument::Other => None,
    }
}

/// Adds unit and type to a name that is kept as it is.
fn suffix(name: &mut String, unit: &str, instrument: Instrument) {
    let (main, per) = unit_words(unit);
    let last = type_word(unit, instrument);
    if let Some(last) = last {
        trim_word(name, last);
    }
    if !per.is_empty() {
        trim_word(name, &per);
    }
    if !main.is_empty() && !ends_with_word(name, &main) {
        name.push('_');
        name.push_str(&main);
    }
    for word in [&*per, last.unwrap_or_default()].into_iter().filter(|word| !word.is_empty()) {
        name.push('_');
        name.push_str(word);
    }
}

/// Takes a word off the end of a name, with what stands before it.
fn trim_word(name: &mut String, word: &str) {
    if ends_with_word(name, word) && name.len() > word.len() {
        name.truncate(name.len() - word.len());
        name.pop();
    }
}

fn ends_with_word(name: &str, word: &str) -> bool {
    name.strip_suffix(word).is_some_and(|before| !before.ends_with(|last: char| last.is_alphanumeric()))
}

// === units ===

/// A unit in Prometheus' words: `By/s` is `bytes_per_second`, `1` of a gauge is `ratio`. Empty where there is none.
#[must_use]
pub fn unit(unit: &str, instrument: Instrument) -> String {
    let (main, per) = unit_words(unit);
    let last = if instrument == Instrument::Gauge { type_word(unit, instrument) } else { None };
    let all = words(&main).chain(words(&per)).chain(last).filter(|word| !word.is_empty());
    let mut joined = String::with_capacity(main.len() + per.len() + 8);
    for word in all {
        if !joined.is_empty() {
            joined.push('_');
        }
        joined.push_str(word);
    }
    joined
}

/// What is measured and per what, in Prometheus' words; `per` begins with `per_`. What stands in braces is an annotation.
fn unit_words(unit: &str) -> (String, String) {
    if unit.is_empty() {
        return (String::new(), String::new());
    }
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    let is_unit = |text: &&str| !text.is_empty() && !text.contains(['{', '}']);
    let main = Some(main.trim()).filter(is_unit).filter(|main| *main != "1");
    let per = Some(per.trim()).filter(is_unit);
    let main = main.map(|main| units::word(main).unwrap_or(main).to_owned());
    let per = per.map(|per| {
        let known = PER_UNITS.iter().find(|(ucum, _)| *ucum == per);
        format!("per_{}", known.map_or(per, |(_, word)| word))
    });
    (main.unwrap_or_default(), per.unwrap_or_default())
}

/// What stands behind `per`, in the singular.
const PER_UNITS: [(&str, &str); 7] = [
    ("s", "second"),
    ("m", "minute"),
    ("h", "hour"),
    ("d", "day"),
    ("w", "week"),
    ("mo", "month"),
    ("y", "year"),
];

// === labels ===

/// Writes the name of the label that an attribute becomes. Where names are escaped, runs of other characters than letters,
/// digits and `_` become one `_`, and a leading digit gets `key_`. An empty key is `_`.
pub fn label(strategy: Strategy, key: &str, out: &mut String) {
    if key.is_empty() {
        out.push('_');
    } else if strategy.escapes() {
        if key.starts_with(|first: char| first.is_ascii_digit()) {
            out.push_str("key_");
        }
        escaped(key, false, out);
    } else {
        out.push_str(key);
    }
}

/// Whether a metric's name needs no quotes.
#[must_use]
pub fn is_legacy_metric(name: &str) -> bool {
    is_legacy(name, true)
}

/// Whether a label's name needs no quotes.
#[must_use]
pub fn is_legacy_label(name: &str) -> bool {
    is_legacy(name, false)
}

fn is_legacy(name: &str, takes_colons: bool) -> bool {
    let takes = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (takes_colons && byte == b':');
    !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(takes)
}

#[cfg(test)]
mod tests {
    use super::Instrument::{Counter, Gauge, Other};
    use super::*;

    const ALL: [Strategy; 4] = [
        Strategy::UnderscoreEscapingWithSuffixes,
        Strategy::UnderscoreEscapingWithoutSuffixes,
        Strategy::NoUtf8EscapingWithSuffixes,
        Strategy::NoTranslation,
    ];

    /// Scenario: names with units and instruments, of which each exercises a rule, by all strategies.
    /// Guarantees: the names of the specification's tables.
    #[test]
    fn a_name_is_as_its_strategy_says() {
        #[rustfmt::skip]
        let table = [
            ("http.server.duration", "ms", Other, ["http_server_duration_milliseconds", "http_server_duration", "http.server.duration_milliseconds", "http.server.duration"]),
            ("requests", "", Counter, ["requests_total", "requests", "requests_total", "requests"]),
            ("requests_total", "", Counter, ["requests_total", "requests_total", "requests_total", "requests_total"]),
            ("total.requests", "", Counter, ["requests_total", "total_requests", "total.requests_total", "total.requests"]),
            ("subtotal", "", Counter, ["subtotal_total", "subtotal", "subtotal_total", "subtotal"]),
            ("cpu_seconds_total", "s", Counter, ["cpu_seconds_total", "cpu_seconds_total", "cpu_seconds_total", "cpu_seconds_total"]),
            ("cpu.usage", "1", Gauge, ["cpu_usage_ratio", "cpu_usage", "cpu.usage_ratio", "cpu.usage"]),
            ("cpu_ratio", "1", Gauge, ["cpu_ratio", "cpu_ratio", "cpu_ratio", "cpu_ratio"]),
            ("items", "1", Counter, ["items_total", "items", "items_total", "items"]),
            ("items", "1", Other, ["items", "items", "items", "items"]),
            ("io", "By/s", Gauge, ["io_bytes_per_second", "io", "io_bytes_per_second", "io"]),
            ("io", "By/{op}", Gauge, ["io_bytes", "io", "io_bytes", "io"]),
            ("queue", "{item}", Gauge, ["queue", "queue", "queue", "queue"]),
            ("rate", "{item}/s", Counter, ["rate_per_second_total", "rate", "rate_per_second_total", "rate"]),
            ("rate_per_second", "1/s", Gauge, ["rate_per_second", "rate_per_second", "rate_per_second", "rate_per_second"]),
            ("age", "TiBy", Gauge, ["age_tebibytes", "age", "age_tebibytes", "age"]),
            ("age", "kBy", Gauge, ["age_kilobytes", "age", "age_kilobytes", "age"]),
            ("a__b--c", "", Gauge, ["a_b_c", "a_b_c", "a__b--c", "a__b--c"]),
            ("a:b", "unit@x/y", Gauge, ["a:b_unit_x_per_year", "a:b", "a:b_unit@x_per_year", "a:b"]),
            ("1st", "", Gauge, ["_1st", "_1st", "1st", "1st"]),
            ("_x_", "", Gauge, ["x", "_x_", "_x_", "_x_"]),
            ("respønse", "m", Gauge, ["resp_nse_meters", "resp_nse", "respønse_meters", "respønse"]),
            ("nanoseconds", "s", Gauge, ["nanoseconds_seconds", "nanoseconds", "nanoseconds_seconds", "nanoseconds"]),
            ("@#$%", "", Counter, ["", "", "@#$%_total", "@#$%"]),
        ];
        for (name, unit, instrument, names) in table {
            assert_eq!(
                ALL.map(|strategy| metric(strategy, "", name, unit, instrument)),
                names,
                "{name} {unit}"
            );
        }
        let names = ALL.map(|strategy| metric(strategy, "my.app", "1.x", "", Counter));
        assert_eq!(names, ["my_app_1_x_total", "my_app_1_x", "my.app_1.x_total", "my.app_1.x"]);
    }

    /// Scenario: units of all shapes.
    /// Guarantees: Prometheus' words, joined.
    #[test]
    fn a_unit_is_words() {
        for (ucum, words) in [
            ("s", "seconds"),
            ("By/s", "bytes_per_second"),
            ("1", ""),
            ("{x}", ""),
            ("", ""),
            ("%", "percent"),
        ] {
            assert_eq!(unit(ucum, Other), words, "{ucum}");
        }
        assert_eq!(unit("1", Gauge), "ratio");
        assert_eq!(unit("1/m", Counter), "per_minute");
        assert_eq!(unit("a b", Counter), "a_b");
    }

    /// Scenario: keys that Prometheus does not take as they are.
    /// Guarantees: escaped where the strategy escapes.
    #[test]
    fn a_label_is_a_name() {
        let named = |strategy, key| {
            let mut out = String::new();
            label(strategy, key, &mut out);
            out
        };
        for (key, name) in [
            ("http.method", "http_method"),
            ("a..b__c", "a_b_c"),
            ("1st", "key_1st"),
            ("é", "_"),
            ("", "_"),
            ("__name__", "_name_"),
            ("a:b", "a_b"),
        ] {
            assert_eq!(named(Strategy::default(), key), name, "{key}");
        }
        assert_eq!(named(Strategy::NoTranslation, "http.method"), "http.method");
        assert!(
            is_legacy_metric("a:b")
                && !is_legacy_label("a:b")
                && !is_legacy_metric("1")
                && !is_legacy_label("")
        );
    }

    /// Scenario: the strategies' names, and another.
    /// Guarantees: each is found by its own.
    #[test]
    fn a_strategy_has_a_name() {
        let names = [
            "UnderscoreEscapingWithSuffixes",
            "UnderscoreEscapingWithoutSuffixes",
            "NoUTF8EscapingWithSuffixes",
            "NoTranslation",
        ];
        assert_eq!(names.map(Strategy::named), ALL.map(Some));
        assert_eq!(Strategy::named("notranslation"), None);
    }
}
