//! The native OTLP exporter: bytes untouched, over gRPC or HTTP/protobuf.
//!
//! The body of a push *is* the request that the backend wants; all that is added is a frame, and compression where
//! it is configured.
//!
//! Sources: OTLP specification 1.11 (`proto/SOURCES.md`), "Failures" and "Throttling".

mod grpc;
mod http;

use std::io::Write;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use bytes::Bytes;
use weir_model::{BoxFuture, Exporter, LANES, Outcome, Push, Signal};
use weir_net::client::Client;
use weir_net::credential::Credential;
use weir_net::roots::{RootsError, Trust};
use weir_wire::{Reader, Value};

/// How the exporter speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// `…/Export` over gRPC.
    #[default]
    Grpc,
    /// `POST /v1/…` with protobuf.
    Http,
}

/// How bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, level 6.
    Gzip,
    /// zstd, level 1: a fifth of gzip's cost for the same size.
    Zstd,
}

/// `exporters: otlp`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to: `http://host:port` or `https://host:port`; for HTTP a base path may follow.
    pub endpoint: Uri,
    /// gRPC or HTTP.
    pub protocol: Protocol,
    /// none, gzip or zstd.
    pub compression: Compression,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// In the `authorization` header of every request.
    pub credential: Option<Credential>,
    /// Whom it trusts where the endpoint is `https`, and what it shows.
    pub trust: Trust,
    /// How long the backend may take to answer one push.
    pub timeout: Duration,
}

/// Why an exporter cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A header is none.
    #[error("header {name:?} is no HTTP header: expected a token and visible characters")]
    Header {
        /// As configured.
        name: String,
    },
    /// The endpoint is no URL of a server.
    #[error("endpoint {endpoint}: expected http://host:port or https://host:port")]
    Endpoint {
        /// As configured.
        endpoint: String,
    },
    /// The authorities cannot be read.
    #[error("set up TLS")]
    Roots(#[from] RootsError),
}

/// An exporter that speaks OTLP.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each configured exporter")]
pub enum Otlp {
    /// Over gRPC.
    Grpc(grpc::Grpc),
    /// Over HTTP.
    Http(http::Http),
}

impl Otlp {
    /// Builds it; nothing is dialled yet.
    ///
    /// # Errors
    /// [`BuildError`] where the configuration cannot serve.
    pub fn new(config: Config, client: &Client) -> Result<Self, BuildError> {
        let wrong = || BuildError::Endpoint { endpoint: config.endpoint.to_string() };
        if config.endpoint.host().is_none() || config.endpoint.scheme().is_none() {
            return Err(wrong());
        }
        let headers = headers(&config.headers)?;
        match config.protocol {
            Protocol::Grpc => Ok(Self::Grpc(grpc::Grpc::new(&config, headers)?)),
            Protocol::Http => Ok(Self::Http(http::Http::new(&config, headers, client)?)),
        }
    }
}

impl Exporter for Otlp {
    fn push(&self, push: Push) -> BoxFuture<'_, Outcome> {
        match self {
            Self::Grpc(grpc) => Box::pin(grpc.push(push)),
            Self::Http(http) => Box::pin(http.push(push)),
        }
    }

    fn in_flight_max(&self) -> usize {
        LANES
    }
}

fn headers(configured: &[(String, String)]) -> Result<HeaderMap, BuildError> {
    let mut headers = HeaderMap::new();
    for (name, value) in configured {
        let wrong = || BuildError::Header { name: name.clone() };
        let key: HeaderName = name.parse().map_err(|_| wrong())?;
        let mut value: HeaderValue = value.parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

/// The body as it goes on the wire, with the name of its encoding.
fn compress(compression: Compression, body: Bytes) -> std::io::Result<(Bytes, Option<&'static str>)> {
    match compression {
        Compression::None => Ok((body, None)),
        Compression::Gzip => {
            let room = Vec::with_capacity(body.len() / 4);
            let mut encoder = flate2::write::GzEncoder::new(room, flate2::Compression::default());
            encoder.write_all(&body)?;
            Ok((Bytes::from(encoder.finish()?), Some("gzip")))
        }
        Compression::Zstd => Ok((Bytes::from(zstd::bulk::compress(&body, 1)?), Some("zstd"))),
    }
}

/// What an `Export*ServiceResponse` says: `partial_success = 1 { rejected = 1, error_message = 2 }` in all three.
///
/// A response that cannot be read counts as taken: the status said so.
fn partial(response: &[u8], signal: Signal) -> Outcome {
    let (mut rejected, mut message) = (0, String::new());
    let mut reader = Reader::new(response);
    while let Ok(Some(field)) = reader.next() {
        let (1, Value::Bytes(partial)) = (field.number, field.value) else { continue };
        let mut inner = Reader::new(partial);
        while let Ok(Some(field)) = inner.next() {
            match (field.number, field.value) {
                (1, Value::Varint(count)) => rejected = u32::try_from(count).unwrap_or(u32::MAX),
                (2, Value::Bytes(text)) => message = String::from_utf8_lossy(text).into_owned(),
                _ => (), // Foreign: a later version's field.
            }
        }
    }
    match rejected {
        0 => Outcome::Accepted,
        rejected => {
            Outcome::Partial { rejected, message: format!("{rejected} {signal} items not taken: {message}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_wire::Encoder;

    /// Scenario: answers with nothing, with a warning, with rejected items, with rubbish.
    /// Guarantees: only rejected items count as such.
    #[test]
    fn partial_success_is_read() {
        let answer = |rejected: u64| {
            let mut out = Encoder::new();
            out.message(1, |partial| {
                partial.nonzero_varint(1, rejected);
                partial.string(2, "too old");
            });
            out.into_bytes()
        };
        assert_eq!(partial(&[], Signal::Traces), Outcome::Accepted);
        assert_eq!(partial(&answer(0), Signal::Traces), Outcome::Accepted);
        assert_eq!(partial(b"\xff\xff", Signal::Traces), Outcome::Accepted);
        assert!(matches!(partial(&answer(3), Signal::Logs), Outcome::Partial { rejected: 3, .. }));
    }
}
