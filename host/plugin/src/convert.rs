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

/// Bytes of their names and values: heads are not paid for, and those of telemetry's protocols have a few hundred bytes.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// Bytes of the body of a response that a guest makes. Answers about telemetry are a count or an error of a few lines; what is
/// larger waits in memory for senders that read slowly.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

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
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > HEADER_BYTES_MAX {
        return Err(format!("a response with headers of {bytes} bytes, at most {HEADER_BYTES_MAX} fit"));
    }
    if body.len() > ANSWER_BYTES_MAX {
        return Err(format!(
            "a response with a body of {} bytes, at most {ANSWER_BYTES_MAX} fit",
            body.len()
        ));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_of(headers: usize, body: usize) -> Result<http::Response, String> {
        let headers = vec![("x".to_owned(), "y".repeat(headers))];
        response(http_types::Response { status: 200, headers, body: vec![0; body] })
    }

    /// Scenario: a guest answers a request with a body at the limit and over it, and with headers over theirs.
    /// Guarantees: what waits for a slow sender is bounded, and the log says by what.
    #[test]
    fn the_answer_of_a_receiver_is_bounded() {
        assert_eq!(answer_of(HEADER_BYTES_MAX - 1, ANSWER_BYTES_MAX).unwrap().body.len(), ANSWER_BYTES_MAX);
        let error = answer_of(1, ANSWER_BYTES_MAX + 1).unwrap_err();
        assert_eq!(error, "a response with a body of 1048577 bytes, at most 1048576 fit");
        assert!(answer_of(HEADER_BYTES_MAX, 0).unwrap_err().contains("headers of 8193 bytes"));
        let large =
            http_types::Response { status: 200, headers: vec![], body: vec![0; ANSWER_BYTES_MAX + 1] };
        let fits = http_types::Response { status: 200, headers: vec![], body: vec![] };
        let received =
            http_receiver::Received { batches: vec![], rejected: 0, accepted: fits, refused: large };
        assert!(answer(http_receiver::Answer::Telemetry(received)).is_err());
    }
}
