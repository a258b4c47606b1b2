//! OTLP over gRPC.

use std::time::Duration;

use http::HeaderMap;
use tonic::{Code, Status};
use weir_model::{Outcome, Push, Signal};
use weir_net::client_tls::ClientTls;
use weir_net::grpc_client::GrpcClient;
use weir_wire::{Reader, Value};

use super::{BuildError, Compression, Config, compress, partial};

/// The exporter over gRPC.
#[derive(Debug)]
pub struct Grpc {
    client: GrpcClient,
    compression: Compression,
    timeout: Duration,
}

impl Grpc {
    pub(super) fn new(config: &Config, headers: HeaderMap) -> Result<Self, BuildError> {
        let tls = ClientTls::load(config.trust.clone())?;
        let client = GrpcClient::new(config.endpoint.clone(), tls, headers);
        let client = client.with_credential(config.credential.clone());
        Ok(Self { client, compression: config.compression, timeout: config.timeout })
    }

    pub(super) async fn push(&self, push: Push) -> Outcome {
        let (message, encoding) = match compress(self.compression, push.body) {
            Ok(compressed) => compressed,
            Err(error) => return Outcome::Permanent(format!("compress: {error}")),
        };
        match self.client.unary(method(push.signal), message, encoding, self.timeout).await {
            Ok(response) => partial(&response, push.signal),
            Err(status) => outcome(&status),
        }
    }
}

fn method(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// What a status means for the batch (OTLP specification 1.11, "Failures"; DESIGN 1.4).
fn outcome(status: &Status) -> Outcome {
    let message = format!("{:?}: {}", status.code(), status.message());
    let after = retry_delay(status.details());
    match status.code() {
        Code::Ok => Outcome::Accepted,
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Outcome::Retryable { message, after },
        // The OTLP specification calls it not retryable without RetryInfo. But servers throttle without one too, and a
        // batch that is lost for a throttle is worse than one that is sent again: only what is said to be too large is
        // not repeated as it is.
        Code::ResourceExhausted if after.is_none() && is_too_large(status.message()) => Outcome::TooLarge,
        Code::ResourceExhausted => Outcome::Retryable { message, after },
        // The credentials or the address are wrong, not the batch: an operator has to act.
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => Outcome::Stopped(message),
        Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Internal => Outcome::Permanent(message),
    }
}

/// Whether gRPC itself refused the message for its size, in the words of its libraries: "received message larger than
/// max (5 vs. 4)" (Go, C++, Python), "gRPC message exceeds maximum size 4: 5" (Java), "decoded message length too large:
/// found 5 bytes, the limit is: 4 bytes" (tonic).
fn is_too_large(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let of_size = ["larger than max", "message too large", "message length too large"];
    // A throttle says that a rate or a quota is exceeded, so that word alone is not enough.
    of_size.iter().any(|words| message.contains(words))
        || (message.contains("message") && message.contains("exceeds") && message.contains("size"))
}

/// The wait in a `google.rpc.Status { details = 3: Any { type_url = 1, value = 2: RetryInfo { retry_delay = 1 } } }`.
fn retry_delay(details: &[u8]) -> Option<Duration> {
    let mut reader = Reader::new(details);
    while let Ok(Some(field)) = reader.next() {
        let (3, Value::Bytes(any)) = (field.number, field.value) else { continue };
        let is_retry = bytes_field(any, 1).is_some_and(|url| url.ends_with(b"/google.rpc.RetryInfo"));
        if let (true, Some(info)) = (is_retry, bytes_field(any, 2)) {
            return Some(bytes_field(info, 1).map_or(Duration::ZERO, duration));
        }
    }
    None
}

fn bytes_field(message: &[u8], number: u32) -> Option<&[u8]> {
    let mut reader = Reader::new(message);
    while let Ok(Some(field)) = reader.next() {
        if let (true, Value::Bytes(bytes)) = (field.number == number, field.value) {
            return Some(bytes);
        }
    }
    None
}

/// A `google.protobuf.Duration { seconds = 1, nanos = 2 }`; negative ones count as zero.
fn duration(message: &[u8]) -> Duration {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(message);
    while let Ok(Some(field)) = reader.next() {
        match (field.number, field.value) {
            (1, Value::Varint(value)) => seconds = u64::try_from(value.cast_signed()).unwrap_or(0),
            (2, Value::Varint(value)) => nanos = u32::try_from(value).unwrap_or(0).min(999_999_999),
            _ => (), // Foreign: not a field of Duration.
        }
    }
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use weir_wire::Encoder;

    fn throttled(seconds: u64) -> Bytes {
        let mut out = Encoder::new();
        out.varint(1, 8);
        out.message(3, |any| {
            any.string(1, "type.googleapis.com/google.rpc.RetryInfo");
            any.message(2, |info| info.message(1, |delay| delay.varint(1, seconds)));
        });
        Bytes::from(out.into_bytes())
    }

    /// Scenario: every status code, with and without RetryInfo.
    /// Guarantees: each does what the OTLP specification says, and wrong credentials never lose a batch.
    #[test]
    fn each_status_has_its_outcome() {
        let said = |code: Code| outcome(&Status::new(code, "x"));
        for code in [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unavailable,
            Code::DataLoss,
        ] {
            assert!(matches!(said(code), Outcome::Retryable { after: None, .. }), "{code:?}");
        }
        for code in [Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented] {
            assert!(matches!(said(code), Outcome::Stopped(_)), "{code:?}");
        }
        for code in [Code::InvalidArgument, Code::Internal, Code::Unknown, Code::NotFound] {
            assert!(matches!(said(code), Outcome::Permanent(_)), "{code:?}");
        }
        let status = Status::with_details(Code::ResourceExhausted, "slow down", throttled(7));
        assert!(
            matches!(outcome(&status), Outcome::Retryable { after: Some(after), .. } if after.as_secs() == 7)
        );
    }

    /// Scenario: RESOURCE_EXHAUSTED without RetryInfo, from a server's size limit and from a rate limiter.
    /// Guarantees: only what is said to be too large is halved; a throttle is waited for and loses nothing.
    #[test]
    fn a_throttle_is_not_taken_for_a_size_limit() {
        let said = |words: &str| outcome(&Status::new(Code::ResourceExhausted, words));
        for words in [
            "grpc: received message larger than max (5000000 vs. 4194304)",
            "Received message larger than max (5000000 vs. 4194304)",
            "gRPC message exceeds maximum size 4194304: 5000000",
            "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes",
        ] {
            assert_eq!(said(words), Outcome::TooLarge, "{words}");
        }
        for words in
            ["", "slow down", "rate limit exceeded", "quota exceeded", "request exceeds the tenant's rate"]
        {
            assert!(matches!(said(words), Outcome::Retryable { after: None, .. }), "{words}");
        }
    }
}
