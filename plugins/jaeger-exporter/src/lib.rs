//! Traces to Jaeger.
//!
//! | protocol | what is sent |
//! |---|---|
//! | `otlp_http` | the batch as it is, to `/v1/traces`: what Jaeger wants since 1.35 |
//! | `thrift_http` | a `Batch` for each resource, in thrift's binary protocol, to `/api/traces` |
//!
//! The mapping to thrift is OpenTelemetry's ("OpenTelemetry to Jaeger Transformation", frozen in 2024) with what that leaves
//! open decided so that `jaeger-receiver` reads back what was written; `LOSSY.md` lists what Jaeger can't carry.
//!
//! Invariant: a span that is not in a body is counted, and nothing of a batch outlives its call.
//!
//! | file | what it is |
//! |---|---|
//! | `encode.rs` | one pass over a batch: a thrift batch for each resource |
//! | `tags.rs` | attributes, and what else becomes a tag |

mod encode;
mod tags;

use std::collections::BTreeMap;

use serde::Deserialize;
use weir_guest::{
    Batch, Delivery, Descriptor, Encoding, Exporter, HttpError, Outcome, PartialSuccess, Plugin, Request,
    Response, SettingsFault, Signal, delivery, host, otlp_answer, settings,
};

pub use encode::{Encoded, Failure, encode};

/// The exporter, configured.
pub struct JaegerExporter {
    settings: Settings,
}

/// What an operator writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Jaeger's address, with or without a path.
    pub endpoint: String,
    /// What is spoken.
    #[serde(default)]
    pub protocol: Protocol,
    /// Headers of every request, beside the content type.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How long to wait for an answer; without it the host decides.
    pub timeout: Option<settings::Span>,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// OTLP over HTTP.
    #[default]
    OtlpHttp,
    /// Thrift's binary protocol over HTTP.
    ThriftHttp,
}

impl Protocol {
    const fn content_type(self) -> &'static str {
        match self {
            Self::OtlpHttp => "application/x-protobuf",
            Self::ThriftHttp => "application/x-thrift",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::OtlpHttp => "/v1/traces",
            Self::ThriftHttp => "/api/traces",
        }
    }

    /// What an answer means: OTLP has a place in a 200 for spans that were refused, Jaeger's own has not.
    fn outcome(self, answer: Result<Response, HttpError>) -> Outcome {
        match self {
            Self::OtlpHttp => otlp_answer::outcome(answer, Encoding::Protobuf),
            Self::ThriftHttp => delivery::outcome(answer),
        }
    }
}

impl Plugin for JaegerExporter {
    type Settings = Settings;

    fn describe() -> Descriptor {
        Descriptor {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            signals: vec![Signal::Traces],
            encoding: Encoding::Protobuf,
            settings_schema: include_str!("settings.schema.json"),
            extra: Vec::new(),
        }
    }

    fn configure(settings: Settings) -> Result<Self, Vec<SettingsFault>> {
        if settings.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) {
            let message = "the content type follows from `protocol`; leave the header out".into();
            return Err(vec![SettingsFault { at: "/headers".into(), message }]);
        }
        Ok(Self { settings })
    }
}

impl Exporter for JaegerExporter {
    fn push(&mut self, batch: Batch, _delivery: Delivery) -> Outcome {
        if batch.signal != Signal::Traces {
            return Outcome::Permanent("Jaeger takes traces only".into());
        }
        match self.settings.protocol {
            Protocol::OtlpHttp => self.send(batch.body),
            Protocol::ThriftHttp => self.send_thrift(&batch.body),
        }
    }
}

impl JaegerExporter {
    fn send_thrift(&self, body: &[u8]) -> Outcome {
        let Encoded { batches, invalid } = match encode(body) {
            Ok(encoded) => encoded,
            Err(Failure::TooLarge) => return Outcome::TooLarge,
            Err(Failure::Malformed(malformed)) => return Outcome::Permanent(malformed.to_string()),
        };
        // Where a later one fails, all are sent again: Jaeger keeps a span that it gets twice once.
        for batch in batches {
            let outcome = self.send(batch);
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

    fn send(&self, body: Vec<u8>) -> Outcome {
        let Settings { protocol, headers, timeout, .. } = &self.settings;
        let content_type = [("content-type".to_owned(), protocol.content_type().to_owned())];
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        let request = Request {
            method: "POST".into(),
            target: self.settings.target(),
            headers: content_type.into_iter().chain(headers).collect(),
            body,
        };
        protocol.outcome(host::send(&request, timeout.map(settings::Span::as_millis)))
    }
}

impl Settings {
    /// The endpoint, with the protocol's path where it has none.
    fn target(&self) -> String {
        let authority = self.endpoint.find("://").map_or(0, |at| at + 3);
        match self.endpoint[authority..].split_once('/') {
            Some((_, path)) if !path.is_empty() => self.endpoint.clone(),
            Some(_) | None => format!("{}{}", self.endpoint.trim_end_matches('/'), self.protocol.path()),
        }
    }
}

weir_guest::export!(JaegerExporter: exporter);

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: an endpoint without a path, with a slash, with a path of its own, in both protocols.
    /// Guarantees: the protocol's path is added where there is none.
    #[test]
    fn the_path_is_added_where_there_is_none() {
        let target = |endpoint: &str, protocol| {
            let written = format!(r#"{{"endpoint": "{endpoint}", "protocol": "{protocol}"}}"#);
            settings::read::<Settings>(&written).expect("good settings").target()
        };
        assert_eq!(target("http://j:4318", "otlp_http"), "http://j:4318/v1/traces");
        assert_eq!(target("http://j:14268/", "thrift_http"), "http://j:14268/api/traces");
        assert_eq!(target("https://j/prefix/v1/traces", "otlp_http"), "https://j/prefix/v1/traces");
    }

    /// Scenario: a 200 that says that three spans were refused, in both protocols.
    /// Guarantees: over OTLP they are counted with the backend's words; in an answer to thrift such bytes say nothing.
    #[test]
    fn spans_refused_within_a_200_are_counted() {
        let body = b"\x0a\x07\x08\x03\x12\x03why";
        let answer = || Ok(Response { status: 200, headers: Vec::new(), body: body.to_vec() });
        let partial = PartialSuccess { rejected: 3, message: "why".into() };
        assert_eq!(Protocol::OtlpHttp.outcome(answer()), Outcome::Partial(partial));
        assert_eq!(Protocol::ThriftHttp.outcome(answer()), Outcome::Accepted);
    }
}
