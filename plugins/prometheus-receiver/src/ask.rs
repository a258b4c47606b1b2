//! What a target is asked for, and what the type of its answer says.

use weir_exposition::Dialect;
use weir_guest::delivery::header;
use weir_guest::{Request, Response};
use weir_prometheus::Format;

/// What is shown of a type that is not known.
const SHOWN_CHARS_MAX: usize = 64;

/// The format whose counters have samples that say since when they count.
pub(crate) const WITH_STARTS: Format = Format::Text(Dialect::OpenMetrics);

/// A spelling that a target can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Protobuf,
    OpenMetrics1,
    OpenMetrics0,
    Text1,
    Text0,
}

/// How a target spells names that are not plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escaping {
    AllowUtf8,
    Underscores,
    Dots,
    Values,
}

/// All of them, with their names in settings.
const PROTOCOLS: [(&str, Protocol); 5] = [
    ("PrometheusProto", Protocol::Protobuf),
    ("OpenMetricsText1.0.0", Protocol::OpenMetrics1),
    ("OpenMetricsText0.0.1", Protocol::OpenMetrics0),
    ("PrometheusText1.0.0", Protocol::Text1),
    ("PrometheusText0.0.4", Protocol::Text0),
];

impl Protocol {
    pub(crate) fn named(word: &str) -> Option<Self> {
        PROTOCOLS.iter().find(|(name, _)| *name == word).map(|(_, protocol)| *protocol)
    }

    /// What is said of a word that is no protocol.
    pub(crate) fn unknown(word: &str) -> String {
        let known: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        format!("{word:?} is no protocol; there are {}", known.join(", "))
    }

    pub(crate) const fn format(self) -> Format {
        match self {
            Self::Protobuf => Format::Protobuf,
            Self::OpenMetrics1 | Self::OpenMetrics0 => Format::Text(Dialect::OpenMetrics),
            Self::Text1 | Self::Text0 => Format::Text(Dialect::Plain),
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Protobuf => {
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
            }
            Self::OpenMetrics1 => "application/openmetrics-text;version=1.0.0",
            Self::OpenMetrics0 => "application/openmetrics-text;version=0.0.1",
            Self::Text1 => "text/plain;version=1.0.0",
            Self::Text0 => "text/plain;version=0.0.4",
        }
    }
}

/// What is asked for where nobody says otherwise, in order.
pub(crate) fn usual(wants_native: bool) -> Vec<Protocol> {
    let texts = [Protocol::OpenMetrics1, Protocol::OpenMetrics0, Protocol::Text1, Protocol::Text0];
    let protobuf = wants_native.then_some(Protocol::Protobuf);
    protobuf.into_iter().chain(texts).collect()
}

/// The `Accept` header, as Prometheus 3 writes it.
pub(crate) fn accept(protocols: &[Protocol], escaping: Escaping) -> String {
    let mut weight = PROTOCOLS.len() + 1;
    let mut accept = String::new();
    for protocol in protocols {
        accept.push_str(protocol.media_type());
        if matches!(protocol, Protocol::OpenMetrics1 | Protocol::Text1) {
            accept.push_str(match escaping {
                Escaping::AllowUtf8 => ";escaping=allow-utf-8",
                Escaping::Underscores => ";escaping=underscores",
                Escaping::Dots => ";escaping=dots",
                Escaping::Values => ";escaping=values",
            });
        }
        accept.push_str(&format!(";q=0.{weight},"));
        weight = weight.saturating_sub(1);
    }
    accept + &format!("*/*;q=0.{weight}")
}

/// The request to a target that has `timeout` seconds.
pub(crate) fn request(url: String, accept: &str, timeout: f64) -> Request {
    Request {
        method: "GET".to_owned(),
        target: url,
        headers: vec![
            ("accept".to_owned(), accept.to_owned()),
            ("x-prometheus-scrape-timeout-seconds".to_owned(), timeout.to_string()),
        ],
        body: Vec::new(),
    }
}

/// How an answer is spelled.
///
/// # Errors
/// Why that is not known, in the words of Prometheus.
pub(crate) fn format(response: &Response, fallback: Option<Protocol>) -> Result<Format, String> {
    let content_type = header(&response.headers, "content-type").unwrap_or_default();
    let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
    let media_type = parts.next().unwrap_or_default();
    let known = match &*media_type {
        "text/plain" => Some(Format::Text(Dialect::Plain)),
        "application/openmetrics-text" => Some(Format::Text(Dialect::OpenMetrics)),
        // Protobuf has texts too, which nobody asked for.
        "application/vnd.google.protobuf" => parts
            .find_map(|part| part.strip_prefix("encoding=").map(|encoding| encoding == "delimited"))
            .unwrap_or(true)
            .then_some(Format::Protobuf),
        _ => None,
    };
    if let Some(format) = known.or(fallback.map(Protocol::format)) {
        return Ok(format);
    }
    if media_type.is_empty() {
        return Err(
            "non-compliant scrape target sending blank Content-Type and no fallback_scrape_protocol \
                    specified for target"
                .to_owned(),
        );
    }
    let shown: String =
        content_type.chars().filter(|char| !char.is_control()).take(SHOWN_CHARS_MAX).collect();
    Err(format!(
        "received unsupported Content-Type {shown:?} and no fallback_scrape_protocol specified for target"
    ))
}
