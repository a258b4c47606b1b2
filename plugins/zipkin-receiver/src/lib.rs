//! Zipkin spans over HTTP, as OTLP traces.
//!
//! | request | answer |
//! |---|---|
//! | `POST /api/v2/spans` | JSON, or protobuf by content type |
//! | `POST /api/v1/spans` | JSON, or thrift by content type |
//! | `GET /health` | 200 |
//!
//! Accepted is 202 with an empty body, once the pipeline has taken the spans; invalid is 400 with the
//! reference server's text; refused for now is 503. One invalid span refuses its request, as in the reference
//! server.
//!
//! Invariant: a pure function of the request; nothing is kept from one to the next.
//!
//! | file | what it is |
//! |---|---|
//! | `span.rs` | a Zipkin span and the rules for its fields |
//! | `json.rs`, `protobuf.rs` | the two spellings of it |
//! | `v1.rs` | a span of the first version as spans of the second |
//! | `v1_json.rs`, `v1_thrift.rs` | the two spellings of that |
//! | `otlp.rs` | a Zipkin span as OTLP |
//! | `roles.rs` | tags that are more than an attribute |
//! | `event.rs` | events and links inside of texts |

mod event;
mod json;
mod otlp;
mod protobuf;
mod roles;
mod span;
mod v1;
mod v1_json;
mod v1_thrift;

use serde::Deserialize;
use weir_guest::{
    Answer, Batch, Descriptor, Encoding, HttpReceiver, Plugin, Received, Request, Response, SettingsFault,
    Signal, delivery,
};

use crate::span::Fault;

/// The receiver.
pub struct ZipkinReceiver;

/// What an operator writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on; the host has bound it.
    #[serde(default = "default_endpoint")]
    pub endpoint: String,
}

fn default_endpoint() -> String {
    "127.0.0.1:9411".into()
}

/// How a body is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// A list of v2 spans in JSON.
    JsonV2,
    /// A list of v1 spans in JSON.
    JsonV1,
    /// `zipkin.proto3.ListOfSpans`.
    Proto3,
    /// A list of v1 spans in thrift's binary protocol.
    Thrift,
}

/// A body that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// 400, or 413 for what is beyond a limit.
    pub status: u16,
    /// For the sender's log.
    pub text: String,
}

impl Plugin for ZipkinReceiver {
    type Settings = Settings;

    fn describe() -> Descriptor {
        Descriptor {
            name: "zipkin-receiver",
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            signals: vec![Signal::Traces],
            encoding: Encoding::Protobuf,
            settings_schema: include_str!("settings.schema.json"),
            extra: Vec::new(),
        }
    }

    fn configure(_settings: Settings) -> Result<Self, Vec<SettingsFault>> {
        Ok(Self)
    }
}

impl HttpReceiver for ZipkinReceiver {
    fn receive(&mut self, _listener: &str, request: Request) -> Answer {
        let path = request.target.split('?').next().unwrap_or_default();
        let content_type = media_type(&request);
        let spelling = match (request.method.as_str(), path) {
            ("POST", "/api/v2/spans") if is_protobuf(&content_type) => Spelling::Proto3,
            ("POST", "/api/v2/spans") => Spelling::JsonV2,
            ("POST", "/api/v1/spans") if content_type == "application/x-thrift" => Spelling::Thrift,
            ("POST", "/api/v1/spans") => Spelling::JsonV1,
            (_, "/api/v1/spans" | "/api/v2/spans") => {
                let mut response = reply(405, "spans are sent with POST\n");
                response.headers.push(("allow".into(), "POST".into()));
                return Answer::Reply(response);
            }
            ("GET" | "HEAD", "/health") => return Answer::Reply(reply(200, "UP\n")),
            (_, _) => return Answer::Reply(reply(404, "spans are sent to /api/v2/spans or /api/v1/spans\n")),
        };
        match read(&request.body, spelling) {
            Ok(bodies) if bodies.is_empty() => Answer::Reply(reply(202, "")),
            Ok(bodies) => Answer::Telemetry(Received {
                batches: bodies.into_iter().map(batch).collect(),
                rejected: 0,
                accepted: reply(202, ""),
                refused: reply(503, "not taken for now, send again\n"),
            }),
            Err(Refused { status, text }) => Answer::Reply(reply(status, &text)),
        }
    }
}

weir_guest::export!(ZipkinReceiver: http_receiver);

/// Reads a body and gives it back as `ExportTraceServiceRequest`s: none for no spans, one as a rule.
///
/// # Errors
/// [`Refused`]; nothing of the body is taken then.
pub fn read(body: &[u8], spelling: Spelling) -> Result<Vec<Vec<u8>>, Refused> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let first = body.trim_ascii_start().first();
    let (name, begins, source) = match spelling {
        Spelling::JsonV2 => ("JSON_V2", first == Some(&b'['), "json"),
        Spelling::JsonV1 => ("JSON_V1", first == Some(&b'['), "json"),
        Spelling::Proto3 => ("PROTO3", body[0] == b'\n', "proto3"),
        Spelling::Thrift => ("THRIFT", v1_thrift::is_list(body), "TBinary"),
    };
    if !begins {
        return Err(Refused { status: 400, text: format!("Expected a {name} encoded list\n") });
    }
    let mut request = otlp::Request::default();
    let read = match spelling {
        Spelling::JsonV2 => json::read_v2(body, |span| request.add(span)),
        Spelling::JsonV1 => v1_json::read(body, |span| request.add(span)),
        Spelling::Proto3 => protobuf::read(body, |span| request.add(span)),
        Spelling::Thrift => v1_thrift::read(body, |span| request.add(span)),
    };
    match read {
        Ok(()) => Ok(request.finish()),
        // A list of another version is said to be one; all else is a fault of reading this one.
        Err(Fault { status, cause, .. }) if cause.ends_with('\n') => Err(Refused { status, text: cause }),
        Err(Fault { status, cause, detail }) => {
            let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
            Err(Refused { status, text: format!("{cause} reading List<Span> from {source}{detail}") })
        }
    }
}

/// The content type without its parameters, in lower case.
fn media_type(request: &Request) -> String {
    let value = delivery::header(&request.headers, "content-type").unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_protobuf(media_type: &str) -> bool {
    matches!(media_type, "application/x-protobuf" | "application/protobuf")
}

fn batch(body: Vec<u8>) -> Batch {
    Batch { signal: Signal::Traces, encoding: Encoding::Protobuf, body }
}

fn reply(status: u16, text: &str) -> Response {
    let content_type = ("content-type".to_owned(), "text/plain; charset=utf-8".to_owned());
    let headers = if text.is_empty() { Vec::new() } else { vec![content_type] };
    Response { status, headers, body: text.into() }
}
