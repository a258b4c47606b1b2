//! A unary gRPC call as a plugin sees it (`wit/plugin.wit`, `grpc-receiver`).

use bytes::Bytes;

use crate::Signal;
use crate::http::Headers;

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Full path: `/package.Service/Method`.
    pub method: String,
    /// ASCII metadata, names in lower case.
    pub metadata: Headers,
    /// The message without its gRPC frame, decompressed.
    pub message: Bytes,
}

/// Telemetry out of one call, or a mere reply where there are no batches.
#[derive(Debug, Clone)]
pub struct Received {
    /// OTLP bytes by signal; not checked yet, they come from a guest.
    pub batches: Vec<(Signal, Bytes)>,
    /// Items of the call that are not in the batches because they are not valid.
    pub rejected: u32,
    /// The reply's message, sent once the pipeline has taken every batch.
    pub reply: Bytes,
}

/// Why a plugin refuses a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// A gRPC status code, 1 to 16 (<https://grpc.io/docs/guides/status-codes/>).
    pub code: u32,
    /// For the caller's log.
    pub message: String,
}
