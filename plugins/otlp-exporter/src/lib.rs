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
mod tests;
