//! Jaeger spans, as OTLP traces, and the sampling strategies that Jaeger's clients ask for.
//!
//! | door | takes | answers |
//! |---|---|---|
//! | `thrift_compact`, `thrift_binary` | a datagram with `emitBatch` | nothing |
//! | `thrift_http` | `POST /api/traces`: a batch in thrift's binary protocol | 202, 400 with the reference's texts, 503 |
//! | `thrift_http`, `sampling` | `GET /api/sampling?service=NAME`; on `sampling` any path | a strategy as JSON |
//! | `grpc` | `CollectorService/PostSpans` | an empty response, or a status |
//! | `grpc` | `SamplingManager/GetSamplingStrategy` | a strategy |
//!
//! A span without ids is rejected and the others are taken; everything else that is wrong refuses its batch.
//!
//! Invariant: a pure function of the request; nothing is kept from one to the next.
//!
//! | file | what it is |
//! |---|---|
//! | `doors.rs` | the receiver: what comes in at which door, and what is answered |
//! | `sampling.rs` | strategies |
//! | `span.rs` | a Jaeger span and its limits |
//! | `thrift.rs`, `protobuf.rs` | the two spellings of it |
//! | `otlp.rs` | a Jaeger span as OTLP |
//! | `roles.rs` | tags that are more than an attribute |

pub mod doors;
mod otlp;
mod protobuf;
mod roles;
pub mod sampling;
mod span;
mod thrift;

use weir_thrift::Protocol;

pub use crate::doors::JaegerReceiver;
use crate::span::Fault;

weir_guest::export!(JaegerReceiver: http_receiver, datagram_receiver, grpc_receiver);

/// How a batch is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// A `Batch` in thrift's binary protocol (HTTP).
    Batch,
    /// `emitBatch` in thrift's binary protocol (datagrams).
    Binary,
    /// `emitBatch` in thrift's compact protocol (datagrams).
    Compact,
    /// `jaeger.api_v2.PostSpansRequest`.
    Protobuf,
}

/// A batch that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// As over HTTP: 400, or 413 for what is beyond a limit.
    pub status: u16,
    /// For the sender's log.
    pub text: String,
}

/// Reads a batch and gives it back as `ExportTraceServiceRequest`s: none for no spans, one as a rule. With them the number of
/// spans that are not in them, since they have no ids.
///
/// # Errors
/// [`Refused`]; nothing of the batch is taken then.
pub fn read(body: &[u8], spelling: Spelling) -> Result<(Vec<Vec<u8>>, u32), Refused> {
    let read = match spelling {
        Spelling::Batch => thrift::read_batch(body),
        Spelling::Binary => thrift::read_message(body, Protocol::Binary),
        Spelling::Compact => thrift::read_message(body, Protocol::Compact),
        Spelling::Protobuf => protobuf::read(body),
    };
    match read {
        Ok(request) => Ok(request.finish()),
        Err(Fault { status, text }) => Err(Refused { status, text }),
    }
}
