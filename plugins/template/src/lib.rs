//! The smallest exporter: posts one line of text for each span.
//!
//! ```text
//! shop GET /items 1000 µs
//! ```
//!
//! Copy this folder, and change what [`Lines::push`] does. The host brings batches one at a time, keeps them
//! until they are delivered, and tries again when it is told to; a plugin says only what became of a batch.
//!
//! Invariant: `lines` is a pure function; only `push` speaks with the world.

use serde::Deserialize;
use weir_guest::wire::Malformed;
use weir_guest::wire::otlp::resource_groups;
use weir_guest::{
    Batch, Delivery, Descriptor, Encoding, Exporter, Outcome, Plugin, Request, SettingsFault, Signal,
    delivery, host,
};

/// The plugin, configured. The host makes as many of these as it wants to push at a time, and throws them
/// away when it likes.
pub struct Lines {
    settings: Settings,
}

/// What an operator writes under `settings:`. An unknown key is refused before the plugin sees it.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    /// Where to post.
    pub endpoint: String,
}

/// The schema of the same settings, for `weir validate`. `"x-weir": "egress"` grants what is written there: a
/// plugin reaches the hosts of its egress settings and nothing else in the world.
const SETTINGS_SCHEMA: &str = r#"{
    "type": "object",
    "additionalProperties": false,
    "required": ["endpoint"],
    "properties": {
        "endpoint": {"type": "string", "pattern": "^https?://", "x-weir": "egress"}
    }
}"#;

impl Plugin for Lines {
    type Settings = Settings;

    fn describe() -> Descriptor {
        Descriptor {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            signals: vec![Signal::Traces],
            encoding: Encoding::Protobuf,
            settings_schema: SETTINGS_SCHEMA,
            extra: Vec::new(),
        }
    }

    /// What a schema can't check is checked here; each fault is shown to the operator with its line.
    fn configure(settings: Settings) -> Result<Self, Vec<SettingsFault>> {
        Ok(Self { settings })
    }
}

impl Exporter for Lines {
    fn push(&mut self, batch: Batch, _delivery: Delivery) -> Outcome {
        let body = match lines(&batch.body) {
            Ok(lines) => lines.into_bytes(),
            // The same bytes would fail again. The host looks for the span at fault before it gives one up.
            Err(malformed) => return Outcome::Permanent(malformed.to_string()),
        };
        let request = Request {
            method: "POST".into(),
            target: self.settings.endpoint.clone(),
            headers: vec![("content-type".into(), "text/plain; charset=utf-8".into())],
            body,
        };
        // Accepted, try again, halve it, stop, or give it up: what the status of an answer means is the same
        // for most backends.
        delivery::outcome(host::send(&request, None))
    }
}

/// One line for each span of an `ExportTraceServiceRequest`. Nothing is decoded into structures: these views
/// read the batch where it lies.
fn lines(request: &[u8]) -> Result<String, Malformed> {
    let mut lines = String::new();
    for resource in resource_groups(request) {
        let resource = resource?;
        let service = resource.resource_view().get_str("service.name").unwrap_or(b"?");
        for scope in resource.scopes() {
            for span in scope?.spans() {
                let span = span?;
                let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
                // Strings are bytes until somebody has looked: a sender may have forgotten that they should
                // be UTF-8.
                let (service, name) = (String::from_utf8_lossy(service), String::from_utf8_lossy(span.name));
                lines += &format!("{service} {name} {} µs\n", nanos / 1_000);
            }
        }
    }
    Ok(lines)
}

// The one line that makes a component of the type.
weir_guest::export!(Lines: exporter);

#[cfg(test)]
mod tests {
    use weir_guest::wire::Encoder;

    use super::*;

    /// Scenario: a request with one span.
    /// Guarantees: its line has the service, the name and the duration.
    #[test]
    fn a_span_is_a_line() {
        let mut request = Encoder::new();
        request.message(1, |resource_spans| {
            resource_spans.message(1, |resource| resource.attribute_str(1, "service.name", "shop"));
            resource_spans.message(2, |scope_spans| {
                scope_spans.message(2, |span| {
                    span.string(5, "GET /items");
                    span.fixed64(7, 1_000_000);
                    span.fixed64(8, 2_000_000);
                });
            });
        });
        assert_eq!(lines(request.as_bytes()).as_deref(), Ok("shop GET /items 1000 µs\n"));
    }

    /// Scenario: bytes that are no request.
    /// Guarantees: an error, which becomes `permanent`.
    #[test]
    fn what_is_no_request_is_an_error() {
        assert!(lines(b"\x0a\xff").is_err());
    }
}
