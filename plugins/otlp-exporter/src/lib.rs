//! OTLP over HTTP: the model of a small exporter, since a batch is what the backend wants already.
//!
//! | setting | what it does |
//! |---|---|
//! | `endpoint` | `/v1/traces`, `/v1/metrics` or `/v1/logs` is added to it |
//! | `traces_endpoint`, `metrics_endpoint`, `logs_endpoint` | full URLs in its place |
//! | `encoding` | `proto`, or `json`, which is made of the batch here |
//! | `compression` | `none` or `gzip` |
//!
//! What an answer means is OTLP's own, with two exceptions: a 500 and a 408 are tried again, since a proxy's bad moment looks
//! like that, and what is really refused becomes a dead letter later instead of at once.
//!
//! Invariant: nothing of a batch is looked at but its answer.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use weir_guest::{
    Batch, Delivery, Descriptor, Encoding, Exporter, Outcome, Plugin, Request, SettingsFault, Signal, host,
    otlp_answer, settings, wire,
};

/// Headers that follow from the other settings.
const OWN_HEADERS: [&str; 2] = ["content-type", "content-encoding"];

/// The exporter, configured.
pub struct OtlpExporter {
    settings: Settings,
}

/// What an operator writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// URL to which the path of a signal is added.
    pub endpoint: Option<String>,
    /// Full URL for traces.
    pub traces_endpoint: Option<String>,
    /// Full URL for metrics.
    pub metrics_endpoint: Option<String>,
    /// Full URL for logs.
    pub logs_endpoint: Option<String>,
    /// How batches are spelled.
    #[serde(default)]
    pub encoding: Spelling,
    /// Of the body.
    #[serde(default)]
    pub compression: Squeeze,
    /// Headers of every request, beside the content's.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How long to wait for an answer; without it the host decides.
    pub timeout: Option<settings::Span>,
}

/// How batches are spelled.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Spelling {
    /// As they are.
    #[default]
    Proto,
    /// OTLP/JSON.
    Json,
}

impl Spelling {
    const fn of_batches(self) -> Encoding {
        match self {
            Self::Proto => Encoding::Protobuf,
            Self::Json => Encoding::Json,
        }
    }
}

/// Whether a body is compressed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Squeeze {
    /// It is not.
    #[default]
    None,
    /// It is a gzip stream.
    Gzip,
}

impl Plugin for OtlpExporter {
    type Settings = Settings;

    fn describe() -> Descriptor {
        Descriptor {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            signals: vec![Signal::Traces, Signal::Metrics, Signal::Logs],
            encoding: Encoding::Protobuf,
            settings_schema: include_str!("settings.schema.json"),
            extra: Vec::new(),
        }
    }

    fn configure(settings: Settings) -> Result<Self, Vec<SettingsFault>> {
        let own =
            settings.headers.keys().find(|name| OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own)));
        match own {
            None => Ok(Self { settings }),
            Some(name) => Err(vec![SettingsFault {
                at: "/headers".into(),
                message: format!("{name} follows from `encoding` and `compression`; leave the header out"),
            }]),
        }
    }
}

impl Exporter for OtlpExporter {
    fn push(&mut self, batch: Batch, _delivery: Delivery) -> Outcome {
        let Some(target) = self.settings.target(batch.signal) else {
            let word = batch.signal;
            return Outcome::Stopped(format!("no endpoint is configured for {word:?}"));
        };
        let request = match self.request(target, batch) {
            Ok(request) => request,
            Err(malformed) => return Outcome::Permanent(malformed.to_string()),
        };
        let timeout = self.settings.timeout.map(settings::Span::as_millis);
        otlp_answer::outcome(host::send(&request, timeout), self.settings.encoding.of_batches())
    }
}

impl OtlpExporter {
    fn request(&self, target: String, batch: Batch) -> Result<Request, wire::Malformed> {
        let Settings { encoding, compression, headers, .. } = &self.settings;
        let (content_type, body) = match (encoding, signal_of(batch.signal)) {
            (Spelling::Json, Some(signal)) => {
                let mut json = Vec::with_capacity(2 * batch.body.len());
                wire::json::to_json(signal, &batch.body, &mut json)?;
                ("application/json", json)
            }
            (Spelling::Json | Spelling::Proto, _) => ("application/x-protobuf", batch.body),
        };
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut all = vec![header("content-type", content_type)];
        let body = match compression {
            Squeeze::None => body,
            Squeeze::Gzip => {
                all.push(header("content-encoding", "gzip"));
                gzip(&body)
            }
        };
        all.extend(headers.iter().map(|(name, value)| header(name, value)));
        Ok(Request { method: "POST".into(), target, headers: all, body })
    }
}

impl Settings {
    /// Where a signal goes.
    fn target(&self, signal: Signal) -> Option<String> {
        let (own, path) = match signal {
            Signal::Traces => (&self.traces_endpoint, "/v1/traces"),
            Signal::Metrics => (&self.metrics_endpoint, "/v1/metrics"),
            Signal::Logs => (&self.logs_endpoint, "/v1/logs"),
            Signal::Profiles => return None,
        };
        let added = || self.endpoint.as_ref().map(|base| format!("{}{path}", base.trim_end_matches('/')));
        own.clone().or_else(added)
    }
}

fn signal_of(signal: Signal) -> Option<wire::Signal> {
    match signal {
        Signal::Traces => Some(wire::Signal::Traces),
        Signal::Metrics => Some(wire::Signal::Metrics),
        Signal::Logs => Some(wire::Signal::Logs),
        Signal::Profiles => None,
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("writing to memory does not fail")
}

weir_guest::export!(OtlpExporter: exporter);

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn exporter(written: serde_json::Value) -> OtlpExporter {
        let settings = settings::read(&written.to_string()).expect("good settings");
        OtlpExporter::configure(settings).map_err(|faults| format!("{faults:?}")).expect("good settings")
    }

    fn batch(signal: Signal) -> Batch {
        let mut body = wire::Encoder::new();
        body.message(1, |resource| {
            resource.message(1, |resource| resource.attribute_str(1, "service.name", "shop"));
        });
        Batch { signal, encoding: Encoding::Protobuf, body: body.into_bytes() }
    }

    /// Scenario: a base with and without a slash at its end, and a full URL for one signal.
    /// Guarantees: the path is added to the base alone; a signal without an endpoint has none.
    #[test]
    fn a_signal_goes_to_its_endpoint() {
        for base in ["http://a:4318", "http://a:4318/"] {
            let exporter =
                exporter(serde_json::json!({"endpoint": base, "logs_endpoint": "http://b/custom"}));
            let target = |signal| exporter.settings.target(signal);
            assert_eq!(target(Signal::Traces).as_deref(), Some("http://a:4318/v1/traces"));
            assert_eq!(target(Signal::Metrics).as_deref(), Some("http://a:4318/v1/metrics"));
            assert_eq!(target(Signal::Logs).as_deref(), Some("http://b/custom"));
            assert_eq!(target(Signal::Profiles), None);
        }
        let traces = exporter(serde_json::json!({"traces_endpoint": "http://b/custom"}));
        assert_eq!(traces.settings.target(Signal::Metrics), None);
    }

    /// Scenario: a batch in both encodings, compressed and not, with a header of the operator's.
    /// Guarantees: the headers say what the body is; uncompressed protobuf is the batch's own bytes.
    #[test]
    fn a_request_says_what_its_body_is() {
        let of =
            |written| exporter(written).request("http://a/".into(), batch(Signal::Traces)).expect("a batch");
        let has = |request: &Request, name: &str, value: &str| {
            request.headers.iter().any(|header| *header == (name.to_owned(), value.to_owned()))
        };
        let plain = of(serde_json::json!({"endpoint": "http://a", "headers": {"x-key": "k"}}));
        assert!(has(&plain, "content-type", "application/x-protobuf") && has(&plain, "x-key", "k"));
        assert_eq!(plain.body, batch(Signal::Traces).body);
        let json = of(serde_json::json!({"endpoint": "http://a", "encoding": "json", "compression": "gzip"}));
        assert!(has(&json, "content-type", "application/json") && has(&json, "content-encoding", "gzip"));
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*json.body).read_to_string(&mut text).expect("a gzip stream");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let attribute = &value["resourceSpans"][0]["resource"]["attributes"][0];
        assert_eq!(
            (&attribute["key"], &attribute["value"]["stringValue"]),
            (&"service.name".into(), &"shop".into())
        );
    }

    /// Scenario: what OpenTelemetry's SDKs have sent of each signal, plain and compressed.
    /// Guarantees: it is sent on as it came, byte for byte.
    #[test]
    fn what_sdks_sent_is_sent_on_unchanged() {
        let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors/otlp/made-here");
        if !std::path::Path::new(vectors).is_dir() {
            eprintln!("{vectors} is absent: nothing to compare");
            return;
        }
        for (file, signal) in [
            ("otel_py_1.45.2_traces.pb", Signal::Traces),
            ("otel_py_1.45.2_metrics.pb", Signal::Metrics),
            ("otel_py_1.45.2_logs.pb", Signal::Logs),
            ("concat_two_trace_requests.pb", Signal::Traces),
        ] {
            let sent = std::fs::read(format!("{vectors}/{file}")).expect(file);
            for compression in ["none", "gzip"] {
                let exporter =
                    exporter(serde_json::json!({"endpoint": "http://a", "compression": compression}));
                let batch = Batch { signal, encoding: Encoding::Protobuf, body: sent.clone() };
                let mut body = exporter.request("http://a/".into(), batch).expect("a batch").body;
                if compression == "gzip" {
                    let mut plain = Vec::new();
                    flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).expect("a gzip stream");
                    body = plain;
                }
                assert!(body == sent, "{file} {compression}");
            }
        }
    }

    /// Scenario: a header that follows from other settings.
    /// Guarantees: a fault that names it.
    #[test]
    fn the_contents_headers_are_ours() {
        let written = serde_json::json!({"endpoint": "http://a", "headers": {"Content-Encoding": "br"}});
        let settings = settings::read(&written.to_string()).expect("it can be read");
        let faults = OtlpExporter::configure(settings).err().expect("a fault");
        assert!(faults[0].at == "/headers" && faults[0].message.starts_with("Content-Encoding follows"));
    }
}
