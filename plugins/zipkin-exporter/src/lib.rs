//! OTLP traces to a Zipkin v2 endpoint, as JSON or protobuf.
//!
//! The mapping is OpenTelemetry's ("OpenTelemetry to Zipkin Transformation") with what that leaves open
//! decided so that `zipkin-receiver` reads back what was written; `LOSSY.md` lists what Zipkin can't carry.
//!
//! Invariant: a span that is not in the body is counted, and nothing of a batch outlives its call.
//!
//! | file | what it is |
//! |---|---|
//! | `encode.rs` | one pass over a batch: what goes where |
//! | `roles.rs` | attribute keys that mean more than a tag |
//! | `endpoint.rs` | who called whom, from attributes |
//! | `shared_tags.rs` | tags that all spans of a scope have: resource and scope |
//! | `json.rs`, `protobuf.rs` | the two spellings |

mod encode;
mod endpoint;
mod json;
mod protobuf;
mod roles;
mod shared_tags;

use std::collections::BTreeMap;

use serde::Deserialize;
use weir_guest::{
    Batch, Delivery, Descriptor, Encoding, Exporter, Outcome, PartialSuccess, Plugin, Request, SettingsFault,
    Signal, delivery, host, settings,
};

pub use encode::{Encoded, Failure, encode};

/// The exporter, configured.
pub struct ZipkinExporter {
    settings: Settings,
}

/// What an operator writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Full URL that spans are posted to: `http://127.0.0.1:9411/api/v2/spans`.
    pub endpoint: String,
    /// How spans are spelled.
    #[serde(default)]
    pub format: Format,
    /// Headers of every request, beside the content type.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How long to wait for an answer; without it the host decides.
    pub timeout: Option<settings::Span>,
}

/// How spans are spelled.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON list, which every Zipkin reads.
    #[default]
    Json,
    /// `zipkin.proto3.ListOfSpans`, smaller, since Zipkin 2.8.
    Protobuf,
}

impl Format {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/x-protobuf",
        }
    }
}

impl Plugin for ZipkinExporter {
    type Settings = Settings;

    fn describe() -> Descriptor {
        Descriptor {
            name: "zipkin-exporter",
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            signals: vec![Signal::Traces],
            encoding: Encoding::Protobuf,
            settings_schema: include_str!("settings.schema.json"),
            extra: Vec::new(),
        }
    }

    fn configure(settings: Settings) -> Result<Self, Vec<SettingsFault>> {
        let mut faults = Vec::new();
        if !settings.endpoint.starts_with("http://") && !settings.endpoint.starts_with("https://") {
            let message =
                format!("{:?} is no URL such as http://127.0.0.1:9411/api/v2/spans", settings.endpoint);
            faults.push(SettingsFault { at: "/endpoint".into(), message });
        }
        if settings.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) {
            let message = "the content type follows from `format`; leave the header out".into();
            faults.push(SettingsFault { at: "/headers".into(), message });
        }
        if faults.is_empty() { Ok(Self { settings }) } else { Err(faults) }
    }
}

impl Exporter for ZipkinExporter {
    fn push(&mut self, batch: Batch, _delivery: Delivery) -> Outcome {
        match batch.signal {
            Signal::Traces => {}
            Signal::Metrics | Signal::Logs | Signal::Profiles => {
                return Outcome::Permanent("Zipkin takes traces only".into());
            }
        }
        let encoded = match encode(&batch.body, self.settings.format) {
            Ok(encoded) => encoded,
            Err(Failure::TooLarge) => return Outcome::TooLarge,
            Err(Failure::Malformed(malformed)) => return Outcome::Permanent(malformed.to_string()),
        };
        let Encoded { body, spans, invalid } = encoded;
        if spans > 0 {
            let outcome = delivery::outcome(host::send(&self.request(body), self.timeout_ms()));
            if outcome != Outcome::Accepted {
                return outcome;
            }
        }
        if invalid == 0 {
            return Outcome::Accepted;
        }
        let message = "trace id or span id is missing, zero or of a wrong length".into();
        Outcome::Partial(PartialSuccess { rejected: invalid, message })
    }
}

impl ZipkinExporter {
    fn timeout_ms(&self) -> Option<u32> {
        self.settings.timeout.map(settings::Span::as_millis)
    }

    fn request(&self, body: Vec<u8>) -> Request {
        let content_type = [("content-type".to_owned(), self.settings.format.content_type().to_owned())];
        let headers = self.settings.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        Request {
            method: "POST".into(),
            target: self.settings.endpoint.clone(),
            headers: content_type.into_iter().chain(headers).collect(),
            body,
        }
    }
}

weir_guest::export!(ZipkinExporter: exporter);

#[cfg(test)]
mod tests;
