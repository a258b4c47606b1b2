//! Types generated from `wit/` to the model's, and back. Dull.

use std::time::Duration;

use bytes::Bytes;
use weir_model::scrape::{Fetched, Target};
use weir_model::{Outcome, Push, Signal, http, unary};
use weir_net::address::Origin;
use weir_wire::json::JsonLimits;

use crate::describe::{Encoding, SettingsError};
use crate::grant::Secrets;
use crate::guest::is_hosts_own;
use crate::v1::exports::weir::plugin::{grpc_receiver, http_receiver, plugin, scraper};
use crate::v1::weir::plugin::http_types::{RequestParam, RequestResult, ResponseParam, ResponseResult};
use crate::v1::weir::plugin::outcomes::{self, Delivery};
use crate::v1::weir::plugin::telemetry::{self, BatchParam, BatchResult};
use crate::words::tame;

/// Bytes of a message that a guest gives with an outcome: a backend's error page must not fill the log.
const MESSAGE_BYTES_MAX: usize = 2 * 1024;

/// Objections of a guest to its settings that are shown.
const OBJECTIONS_MAX: usize = 64;

/// Headers of a response or of a scraper's request that a guest makes.
const HEADERS_MAX: usize = 64;

/// Bytes of their names and values: heads are not paid for, and those of telemetry's protocols have a few hundred bytes.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// Bytes of the body of a response that a guest makes. Answers about telemetry are a count or an error of a few lines; what is
/// larger waits in memory for senders that read slowly.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Batches out of one call.
const BATCHES_MAX: usize = 64;

/// Bytes of the URL that a scraper's guest makes: it adds a parameter or two to the one that it was given.
const URL_BYTES_MAX: usize = 16 * 1024;

/// Bytes of an error about such a URL.
const URL_SHOWN_BYTES_MAX: usize = 400;

/// `INTERNAL`: what a caller is told where a guest gives a status that is no error.
const INTERNAL: u32 = 13;

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

/// Names and values as a guest is shown them.
pub(crate) fn headers(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// What `http-receiver.receive` and `page.serve` take; `headers` are those of `request`.
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
            let http_receiver::Received { batches: said, rejected, accepted, refused } = received;
            let batches = batches(said)?;
            let (accepted, refused) = (response(accepted)?, response(refused)?);
            Ok(http::Answer::Telemetry(http::Received { batches, rejected, accepted, refused }))
        }
    }
}

/// What `datagram-receiver.receive` said: outside whether it is valid, inside why the datagram is no telemetry.
pub(crate) fn of_datagram(
    said: Result<Vec<BatchResult>, String>,
    secrets: &Secrets,
) -> Result<Result<Vec<(Signal, Bytes)>, String>, String> {
    match said {
        Ok(said) => batches(said).map(Ok),
        Err(why) => Ok(Err(secrets.tame(&why, MESSAGE_BYTES_MAX))),
    }
}

/// What `grpc-receiver.receive` said: outside whether it is valid, inside the status that the caller gets.
pub(crate) fn of_call(
    said: Result<grpc_receiver::Received, grpc_receiver::Status>,
    secrets: &Secrets,
) -> Result<Result<unary::Received, unary::Status>, String> {
    match said {
        Ok(grpc_receiver::Received { batches: said, rejected, reply }) => {
            if reply.len() > ANSWER_BYTES_MAX {
                let bytes = reply.len();
                return Err(format!("a reply of {bytes} bytes, at most {ANSWER_BYTES_MAX} fit"));
            }
            Ok(Ok(unary::Received { batches: batches(said)?, rejected, reply: Bytes::from(reply) }))
        }
        Err(grpc_receiver::Status { code, message }) => {
            let code = if is_error_code(code) { code } else { INTERNAL };
            Ok(Err(unary::Status { code, message: secrets.tame(&message, MESSAGE_BYTES_MAX) }))
        }
    }
}

/// Whether gRPC knows it, as an error: 0 is success.
pub(crate) fn is_error_code(code: u32) -> bool {
    (1..=16).contains(&code)
}

/// What a scraper's functions take; `labels` are those of `target`.
pub(crate) fn target<'a>(target: &'a Target, labels: &'a [(&'a str, &'a str)]) -> scraper::Target<'a> {
    scraper::Target { job: &target.job, url: &target.url, labels }
}

/// What `scraper.digest` takes; `headers` are those of the answer.
pub(crate) fn fetched<'a>(fetched: &'a Fetched, headers: &'a [(&'a str, &'a str)]) -> scraper::Fetched<'a> {
    let answer = match &fetched.answer {
        Ok(answer) => Ok(ResponseParam { status: answer.status, headers, body: &answer.body }),
        Err(why) => Err(why.as_str()),
    };
    scraper::Fetched { at: fetched.at, took: fetched.took, answer }
}

/// What `scraper.prepare` said for this target. Headers that are the host's own are left out.
///
/// # Errors
/// What is not valid about it, for the log.
pub(crate) fn prepared(said: RequestResult, target: &Target) -> Result<http::Request, String> {
    let RequestResult { method, target: url, headers, body } = said;
    if method != "GET" {
        return Err(format!("a request with the method {}, targets are only sent GET", tame(&method, 100)));
    }
    if !body.is_empty() {
        return Err(format!("a request with a body of {} bytes, GET has none", body.len()));
    }
    if url.len() > URL_BYTES_MAX.max(target.url.len()) {
        return Err(format!("a request with a URL of {} bytes, at most {URL_BYTES_MAX} fit", url.len()));
    }
    // Where to go is the host's to say: its relabelling, its discovery, its credentials.
    let of = |url: &str| {
        let origin = url.parse::<Origin>();
        origin.map_err(|error| {
            format!("a request that leads nowhere: {}", tame(&error.to_string(), URL_SHOWN_BYTES_MAX))
        })
    };
    let (asked, meant) = (of(&url)?, of(&target.url)?);
    if asked != meant {
        return Err(format!("a request to {asked}, the target is {meant}"));
    }
    fits(&headers, "a request")?;
    let headers = headers.into_iter().filter(|(name, _)| !is_hosts_own(name));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    Ok(http::Request { method, target: url, headers, body: Bytes::new() })
}

/// Batches that a guest made.
///
/// # Errors
/// What is not valid about them, for the log.
pub(crate) fn batches(said: Vec<BatchResult>) -> Result<Vec<(Signal, Bytes)>, String> {
    if said.len() > BATCHES_MAX {
        return Err(format!("{} batches out of one call, at most {BATCHES_MAX} fit", said.len()));
    }
    said.into_iter().map(batch).collect()
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

/// A response that a guest made.
///
/// # Errors
/// What is not valid about it, for the log.
pub(crate) fn response(response: ResponseResult) -> Result<http::Response, String> {
    let ResponseResult { status, headers, body } = response;
    if !(200..=599).contains(&status) {
        return Err(format!("a response with status {status}"));
    }
    fits(&headers, "a response")?;
    if body.len() > ANSWER_BYTES_MAX {
        return Err(format!(
            "a response with a body of {} bytes, at most {ANSWER_BYTES_MAX} fit",
            body.len()
        ));
    }
    Ok(http::Response { status, headers, body: Bytes::from(body) })
}

/// Whether headers are few, short and valid.
fn fits(headers: &[(String, String)], what: &str) -> Result<(), String> {
    if headers.len() > HEADERS_MAX {
        return Err(format!("{what} with {} headers, at most {HEADERS_MAX} fit", headers.len()));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > HEADER_BYTES_MAX {
        return Err(format!("{what} with headers of {bytes} bytes, at most {HEADER_BYTES_MAX} fit"));
    }
    let is_valid = |name: &str, value: &str| {
        ::http::HeaderName::try_from(name).is_ok() && ::http::HeaderValue::try_from(value).is_ok()
    };
    match headers.iter().find(|(name, value)| !is_valid(name, value)) {
        Some((name, _)) => Err(format!("{what} with the header {}", tame(name, 100))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_of(headers: usize, body: usize) -> Result<http::Response, String> {
        let headers = vec![("x".to_owned(), "y".repeat(headers))];
        response(ResponseResult { status: 200, headers, body: vec![0; body] })
    }

    /// Scenario: a guest answers a request with a body at the limit and over it, and with headers over theirs.
    /// Guarantees: what waits for a slow sender is bounded, and the log says by what.
    #[test]
    fn the_answer_of_a_receiver_is_bounded() {
        assert_eq!(answer_of(HEADER_BYTES_MAX - 1, ANSWER_BYTES_MAX).unwrap().body.len(), ANSWER_BYTES_MAX);
        let error = answer_of(1, ANSWER_BYTES_MAX + 1).unwrap_err();
        assert_eq!(error, "a response with a body of 1048577 bytes, at most 1048576 fit");
        assert!(answer_of(HEADER_BYTES_MAX, 0).unwrap_err().contains("headers of 8193 bytes"));
        let large = ResponseResult { status: 200, headers: vec![], body: vec![0; ANSWER_BYTES_MAX + 1] };
        let fits = ResponseResult { status: 200, headers: vec![], body: vec![] };
        let received =
            http_receiver::Received { batches: vec![], rejected: 0, accepted: fits, refused: large };
        assert!(answer(http_receiver::Answer::Telemetry(received)).is_err());
    }
}
