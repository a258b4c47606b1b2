//! The receiver: what comes in at which door, and what is answered.

use serde::Deserialize;
use weir_guest::wire::{Reader, reader};
use weir_guest::{
    Answer, Batch, DatagramReceiver, Descriptor, Encoding, GrpcReceived, GrpcReceiver, GrpcStatus,
    HttpReceiver, Plugin, Received, Request, Response, SettingsFault, Signal, delivery, host,
};

use crate::sampling::Strategies;
use crate::{Refused, Spelling, read};

/// Status codes of gRPC.
const INVALID_ARGUMENT: u32 = 3;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;

/// Bytes of a service's name in a request for a strategy.
const SERVICE_BYTES_MAX: usize = 1024;

/// The receiver.
pub struct JaegerReceiver {
    strategies: Strategies,
}

/// What an operator writes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Doors by their names; the host has bound them.
    pub protocols: Option<Protocols>,
    /// What clients that ask for it are told to sample.
    pub strategies: Strategies,
}

/// Doors by their names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Protocols {
    /// Datagrams in the compact protocol.
    pub thrift_compact: Option<Door>,
    /// Datagrams in the binary protocol.
    pub thrift_binary: Option<Door>,
    /// Batches over HTTP.
    pub thrift_http: Option<Door>,
    /// Batches over gRPC.
    pub grpc: Option<Door>,
    /// Strategies for clients of an agent.
    pub sampling: Option<Door>,
}

/// An address; the host has bound it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Door {
    /// `host:port`.
    pub endpoint: Option<String>,
}

impl Plugin for JaegerReceiver {
    type Settings = Settings;

    fn describe() -> Descriptor {
        Descriptor {
            name: "jaeger-receiver",
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            signals: vec![Signal::Traces],
            encoding: Encoding::Protobuf,
            settings_schema: include_str!("settings.schema.json"),
            extra: Vec::new(),
        }
    }

    fn configure(settings: Settings) -> Result<Self, Vec<SettingsFault>> {
        let faults = settings.strategies.faults().into_iter();
        let faults: Vec<_> =
            faults.map(|(at, message)| SettingsFault { at: format!("/strategies{at}"), message }).collect();
        if faults.is_empty() { Ok(Self { strategies: settings.strategies }) } else { Err(faults) }
    }
}

// === datagrams ===

impl DatagramReceiver for JaegerReceiver {
    fn receive(&mut self, listener: &str, datagram: Vec<u8>) -> Result<Vec<Batch>, String> {
        let spelling = if listener == "thrift_binary" { Spelling::Binary } else { Spelling::Compact };
        match read(&datagram, spelling) {
            Ok((bodies, rejected)) => {
                // There is nobody to be told, so what is left out is counted here.
                if rejected > 0 {
                    host::count("dropped_spans", rejected.into(), &[("reason", "no_ids")]);
                }
                Ok(bodies.into_iter().map(batch).collect())
            }
            Err(Refused { text, .. }) => Err(text),
        }
    }
}

// === HTTP ===

impl HttpReceiver for JaegerReceiver {
    fn receive(&mut self, listener: &str, request: Request) -> Answer {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        match (listener, request.method.as_str(), path) {
            ("sampling", "GET", "/baggageRestrictions") => Answer::Reply(json(b"[]".to_vec())),
            ("sampling", "GET", _) | (_, "GET", "/api/sampling") => Answer::Reply(self.strategy(query)),
            ("sampling", ..) => Answer::Reply(reply(405, "strategies are asked for with GET")),
            (_, "POST", "/api/traces") => traces(&request),
            (_, _, "/api/traces") => {
                let mut response = reply(405, "spans are sent with POST");
                response.headers.push(("allow".into(), "POST".into()));
                Answer::Reply(response)
            }
            (_, _, _) => Answer::Reply(reply(404, "spans are sent to /api/traces")),
        }
    }
}

impl JaegerReceiver {
    fn strategy(&self, query: &str) -> Response {
        let mut services = query.split('&').filter_map(|pair| pair.strip_prefix("service="));
        match (services.next(), services.next()) {
            (Some(service), None) if service.len() <= SERVICE_BYTES_MAX => {
                json(self.strategies.of(&unescaped(service)).json())
            }
            (_, _) => reply(400, "'service' parameter must be provided once"),
        }
    }
}

/// A batch. The answers are those of Jaeger's collector.
fn traces(request: &Request) -> Answer {
    let Some(content_type) = delivery::header(&request.headers, "content-type") else {
        return Answer::Reply(reply(400, "Cannot parse content type: mime: no media type"));
    };
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !matches!(&*media_type, "application/x-thrift" | "application/vnd.apache.thrift.binary") {
        let shown: String = media_type.chars().filter(|char| !char.is_control()).take(64).collect();
        return Answer::Reply(reply(400, &format!("Unsupported content type: {shown}")));
    }
    match read(&request.body, Spelling::Batch) {
        Ok((bodies, 0)) if bodies.is_empty() => Answer::Reply(reply(202, "")),
        Ok((bodies, rejected)) => Answer::Telemetry(Received {
            batches: bodies.into_iter().map(batch).collect(),
            rejected,
            accepted: reply(202, ""),
            refused: reply(503, "Cannot submit Jaeger batch: not taken for now, send again"),
        }),
        Err(Refused { status, text }) => {
            Answer::Reply(reply(status, &format!("Unable to process request body: {text}")))
        }
    }
}

/// A part of a query; what is no escape stays as it is.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| core::str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn reply(status: u16, text: &str) -> Response {
    let content_type = ("content-type".to_owned(), "text/plain; charset=utf-8".to_owned());
    let headers = if text.is_empty() { Vec::new() } else { vec![content_type] };
    Response { status, headers, body: text.into() }
}

fn json(body: Vec<u8>) -> Response {
    Response { status: 200, headers: vec![("content-type".into(), "application/json".into())], body }
}

// === gRPC ===

impl GrpcReceiver for JaegerReceiver {
    fn receive(
        &mut self,
        _listener: &str,
        method: &str,
        _metadata: &[(String, String)],
        message: Vec<u8>,
    ) -> Result<GrpcReceived, GrpcStatus> {
        match method {
            "/jaeger.api_v2.CollectorService/PostSpans" => match read(&message, Spelling::Protobuf) {
                Ok((bodies, rejected)) => Ok(GrpcReceived {
                    batches: bodies.into_iter().map(batch).collect(),
                    rejected,
                    reply: Vec::new(),
                }),
                Err(Refused { status: 413, text }) => {
                    Err(GrpcStatus { code: RESOURCE_EXHAUSTED, message: text })
                }
                Err(Refused { text, .. }) => Err(GrpcStatus { code: INVALID_ARGUMENT, message: text }),
            },
            "/jaeger.api_v2.SamplingManager/GetSamplingStrategy" => {
                let service = service_of(&message)
                    .map_err(|fault| GrpcStatus { code: INVALID_ARGUMENT, message: fault.to_string() })?;
                let reply = self.strategies.of(&String::from_utf8_lossy(service)).protobuf();
                Ok(GrpcReceived { batches: Vec::new(), rejected: 0, reply })
            }
            _ => Err(GrpcStatus {
                code: UNIMPLEMENTED,
                message: "this receiver has PostSpans and GetSamplingStrategy of jaeger.api_v2".to_owned(),
            }),
        }
    }
}

/// `SamplingStrategyParameters.serviceName`.
fn service_of(message: &[u8]) -> Result<&[u8], reader::Malformed> {
    let mut service = &[][..];
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        if let (1, reader::Value::Bytes(name)) = (field.number, field.value) {
            service = &name[..name.len().min(SERVICE_BYTES_MAX)];
        }
    }
    Ok(service)
}

fn batch(body: Vec<u8>) -> Batch {
    Batch { signal: Signal::Traces, encoding: Encoding::Protobuf, body }
}
