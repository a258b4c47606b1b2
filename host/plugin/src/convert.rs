//! Types generated from `wit/` to the model's, and back. Dull.

use std::time::Duration;

use bytes::Bytes;
use weir_model::{Outcome, Push, Signal, http};
use weir_wire::json::JsonLimits;

use crate::describe::{Encoding, SettingsError};
use crate::grant::Secrets;
use crate::v1::exports::weir::plugin::{http_receiver, plugin};
use crate::v1::weir::plugin::http_types::{self, RequestParam};
use crate::v1::weir::plugin::outcomes::{self, Delivery};
use crate::v1::weir::plugin::telemetry::{self, BatchParam, BatchResult};
use crate::words::tame;

/// Bytes of a message that a guest gives with an outcome: a backend's error page must not fill the log.
const MESSAGE_BYTES_MAX: usize = 2 * 1024;

/// Objections of a guest to its settings that are shown.
const OBJECTIONS_MAX: usize = 64;

/// Headers of a response that a guest makes.
const HEADERS_MAX: usize = 64;

/// Batches out of one request.
const BATCHES_MAX: usize = 64;

fn signal(signal: Signal) -> telemetry::Signal {
    match signal {
        Signal::Traces => telemetry::Signal::Traces,
        Signal::Metrics => telemetry::Signal::Metrics,
        Signal::Logs => telemetry::Signal::Logs,
    }
}

/// What `exporter.push` takes; `body` is in `encoding`.
pub(crate) fn push<'a>(push: &'a Push, encoding: Encoding, body: &'a [u8]) -> (BatchParam<'a>, Delivery<'a>) {
    let encoding = match encoding {
        Encoding::Protobuf => telemetry::Encoding::Protobuf,
        Encoding::Json => telemetry::Encoding::Json,
    };
    let batch = BatchParam { signal: signal(push.signal), encoding, body };
    (batch, Delivery { id: &push.id, attempt: push.attempt, items: push.items })
}

/// What `exporter.push` said.
pub(crate) fn outcome(said: outcomes::Outcome, secrets: &Secrets) -> Outcome {
    let tame = |text: String| secrets.tame(&text, MESSAGE_BYTES_MAX);
    match said {
        outcomes::Outcome::Accepted => Outcome::Accepted,
        outcomes::Outcome::Partial(partial) => {
            Outcome::Partial { rejected: partial.rejected, message: tame(partial.message) }
        }
        outcomes::Outcome::Retryable(retry) => Outcome::Retryable {
            message: tame(retry.message),
            after: retry.after_ms.map(|millis| Duration::from_millis(millis.into())),
        },
        outcomes::Outcome::TooLarge => Outcome::TooLarge,
        outcomes::Outcome::Stopped(why) => Outcome::Stopped(tame(why)),
        outcomes::Outcome::Permanent(why) => Outcome::Permanent(tame(why)),
    }
}

/// What `plugin.configure` objected to.
pub(crate) fn objections(said: Vec<plugin::SettingsError>, secrets: &Secrets) -> Vec<SettingsError> {
    let shown = said.into_iter().take(OBJECTIONS_MAX);
    shown
        .map(|error| SettingsError {
            pointer: secrets.tame(&error.at, MESSAGE_BYTES_MAX),
            message: secrets.tame(&error.message, MESSAGE_BYTES_MAX),
        })
        .collect()
}

/// What `http-receiver.receive` takes; `headers` are those of `request`.
pub(crate) fn request<'a>(request: &'a http::Request, headers: &'a [(&'a str, &'a str)]) -> RequestParam<'a> {
    RequestParam { method: &request.method, target: &request.target, headers, body: &request.body }
}

/// What `http-receiver.receive` said.
///
/// # Errors
/// What is not valid about it, for the log.
pub(crate) fn answer(said: http_receiver::Answer) -> Result<http::Answer, String> {
    match said {
        http_receiver::Answer::Reply(reply) => Ok(http::Answer::Reply(response(reply)?)),
        http_receiver::Answer::Telemetry(received) => {
            let http_receiver::Received { batches, rejected, accepted, refused } = received;
            if batches.len() > BATCHES_MAX {
                return Err(format!(
                    "{} batches out of one request, at most {BATCHES_MAX} fit",
                    batches.len()
                ));
            }
            let batches = batches.into_iter().map(batch).collect::<Result<_, _>>()?;
            let (accepted, refused) = (response(accepted)?, response(refused)?);
            Ok(http::Answer::Telemetry(http::Received { batches, rejected, accepted, refused }))
        }
    }
}

fn batch(batch: BatchResult) -> Result<(Signal, Bytes), String> {
    let signal = match batch.signal {
        telemetry::Signal::Traces => Signal::Traces,
        telemetry::Signal::Metrics => Signal::Metrics,
        telemetry::Signal::Logs => Signal::Logs,
        telemetry::Signal::Profiles => {
            return Err("a batch of profiles, which this host does not take".to_owned());
        }
    };
    match batch.encoding {
        telemetry::Encoding::Protobuf => Ok((signal, Bytes::from(batch.body))),
        telemetry::Encoding::Json => {
            let limits = JsonLimits { string_bytes_max: batch.body.len() };
            let body = weir_wire::json::to_protobuf(signal, &batch.body, &limits);
            body.map(|body| (signal, Bytes::from(body)))
                .map_err(|error| format!("a batch is not OTLP/JSON: {error}"))
        }
    }
}

fn response(response: http_types::Response) -> Result<http::Response, String> {
    let http_types::Response { status, headers, body } = response;
    if !(200..=599).contains(&status) {
        return Err(format!("a response with status {status}"));
    }
    if headers.len() > HEADERS_MAX {
        return Err(format!("a response with {} headers, at most {HEADERS_MAX} fit", headers.len()));
    }
    for (name, value) in &headers {
        let valid = ::http::HeaderName::try_from(name.as_str()).is_ok()
            && ::http::HeaderValue::try_from(value.as_str()).is_ok();
        if !valid {
            return Err(format!("a response with the header {}", tame(name, 100)));
        }
    }
    Ok(http::Response { status, headers, body: Bytes::from(body) })
}
