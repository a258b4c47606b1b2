//! An exporter in Rust: posts one line of text for each span.

mod lines;

use std::cell::RefCell;

use exports::weir::plugin::exporter::{Batch, Delivery, Guest as Exporter, Outcome};
use exports::weir::plugin::plugin::{Descriptor, Encoding, Guest as Plugin, SettingsError, Signal};
use serde::Deserialize;
use weir::plugin::http_client::{self, Error, Request, Response};
use weir::plugin::outcomes::Retry;

wit_bindgen::generate!({ path: "wit", world: "exporter-plugin" });

/// What an operator writes under `settings:`.
#[derive(Deserialize)]
struct Settings {
    endpoint: String,
}

/// Its schema, which the host checks first. `x-weir: egress` lets the plugin reach the URL that is written there.
const SCHEMA: &str = r#"{
    "type": "object",
    "additionalProperties": false,
    "required": ["endpoint"],
    "properties": {"endpoint": {"type": "string", "pattern": "^https?://[^\"\\s\\\\]+$", "x-weir": "egress"}}
}"#;

thread_local! {
    /// Each instance is configured once, before its first push.
    static ENDPOINT: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Spans;
export!(Spans);

impl Plugin for Spans {
    fn describe() -> Descriptor {
        Descriptor {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: env!("CARGO_PKG_DESCRIPTION").into(),
            signals: vec![Signal::Traces],
            encoding: Encoding::Protobuf,
            settings_schema: SCHEMA.into(),
            extra: Vec::new(),
        }
    }

    /// What a schema can't say is checked here; the operator reads it with the line of the setting.
    fn configure(settings: String) -> Result<(), Vec<SettingsError>> {
        let fault = |at: &str, message| vec![SettingsError { at: at.into(), message }];
        let settings: Settings =
            serde_json::from_str(&settings).map_err(|error| fault("", error.to_string()))?;
        if settings.endpoint.contains('#') {
            return Err(fault("/endpoint", "what follows a # is never sent; leave it out".into()));
        }
        ENDPOINT.set(settings.endpoint);
        Ok(())
    }
}

impl Exporter for Spans {
    fn push(batch: Batch, _delivery: Delivery) -> Outcome {
        let body = match lines::of(&batch.body) {
            Ok(lines) => lines.into_bytes(),
            Err(error) => return Outcome::Permanent(format!("not a batch of traces: {error}")),
        };
        let request = Request {
            method: "POST".into(),
            target: ENDPOINT.with_borrow(String::clone),
            headers: vec![("content-type".into(), "text/plain; charset=utf-8".into())],
            body,
        };
        match http_client::send(&request, None) {
            Ok(response) => outcome(&response),
            Err(Error::Denied(why)) => Outcome::Stopped(why),
            Err(error) => {
                Outcome::Retryable(Retry { message: format!("no answer: {error}"), after_ms: None })
            }
        }
    }
}

/// What the host is to do next follows from the status.
fn outcome(response: &Response) -> Outcome {
    let message = format!("the backend answers {}", response.status);
    match response.status {
        200..=299 => Outcome::Accepted,
        413 => Outcome::TooLarge,
        401 | 403 => Outcome::Stopped(message),
        429 | 500.. => Outcome::Retryable(Retry { message, after_ms: retry_after(response) }),
        _ => Outcome::Permanent(message),
    }
}

/// `Retry-After` where it is a number of seconds.
fn retry_after(response: &Response) -> Option<u32> {
    let (_, seconds) = response.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))?;
    seconds.parse::<u32>().ok()?.checked_mul(1000)
}
