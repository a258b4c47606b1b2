//! An HTTP message as a plugin sees it (`wit/plugin.wit`, `http-types`).

use bytes::Bytes;

use crate::Signal;

/// Names and values in order; names in lower case.
pub type Headers = Vec<(String, String)>;

/// A request: incoming to a plugin's receiver or page, or outgoing for a scraper.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST` …
    pub method: String,
    /// Path and query; a full URL where it goes out.
    pub target: String,
    /// Without `content-encoding`: the body is decompressed.
    pub headers: Headers,
    /// Within the listener's limits.
    pub body: Bytes,
}

/// A response of a plugin's receiver or page, or of a scraper's target.
#[derive(Debug, Clone)]
pub struct Response {
    /// 100 to 599.
    pub status: u16,
    /// As the plugin wrote them.
    pub headers: Headers,
    /// The whole body.
    pub body: Bytes,
}

/// What a plugin made of a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Telemetry: hand it to the pipeline, then say what the plugin prepared.
    Telemetry(Received),
    /// Not valid, or no telemetry at all.
    Reply(Response),
}

/// Telemetry out of one request.
#[derive(Debug, Clone)]
pub struct Received {
    /// OTLP bytes by signal; not checked yet, they come from a guest.
    pub batches: Vec<(Signal, Bytes)>,
    /// Items of the request that are not in the batches because they are not valid.
    pub rejected: u32,
    /// Sent once the pipeline has taken every batch.
    pub accepted: Response,
    /// Sent when the pipeline refuses for now; the host adds `Retry-After`.
    pub refused: Response,
}

/// A page that a plugin serves.
#[derive(Debug, Clone)]
pub struct Page {
    /// Status, headers and the first part of the body.
    pub response: Response,
    /// The rest of the body, in order, paid for.
    pub rest: Vec<Bytes>,
}
