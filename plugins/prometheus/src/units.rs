//! Units as Prometheus writes them, in OpenTelemetry's words (UCUM).

/// Prometheus' words and UCUM's (`compatibility/prometheus_and_openmetrics.md`).
const UNITS: [(&str, &str); 26] = [
    ("days", "d"),
    ("hours", "h"),
    ("minutes", "min"),
    ("seconds", "s"),
    ("milliseconds", "ms"),
    ("microseconds", "us"),
    ("nanoseconds", "ns"),
    ("bytes", "By"),
    ("kibibytes", "KiBy"),
    ("mebibytes", "MiBy"),
    ("gibibytes", "GiBy"),
    ("tebibytes", "TiBy"),
    ("kilobytes", "kBy"),
    ("megabytes", "MBy"),
    ("gigabytes", "GBy"),
    ("terabytes", "TBy"),
    ("meters", "m"),
    ("volts", "V"),
    ("amperes", "A"),
    ("joules", "J"),
    ("watts", "W"),
    ("grams", "g"),
    ("celsius", "Cel"),
    ("hertz", "Hz"),
    ("percent", "%"),
    ("ratio", "1"),
];

/// The unit of this name; what nobody knows stays as it is.
pub fn ucum(unit: &str) -> &str {
    UNITS.iter().find(|(word, _)| *word == unit).map_or(unit, |(_, ucum)| ucum)
}

/// Prometheus' word for a unit; nothing for one that nobody knows.
pub fn word(ucum: &str) -> Option<&'static str> {
    // Of `kBy` there is a common misspelling.
    let ucum = if ucum == "KBy" { "kBy" } else { ucum };
    UNITS.iter().find(|(_, unit)| *unit == ucum).map(|(word, _)| *word)
}
