//! Prometheus remote write 1.0 and 2.0, as OTLP metrics.
//!
//! | request | answer |
//! |---|---|
//! | `POST /api/v1/write`, taken | 204; to 2.0 with how much was written |
//! | the same, some series not valid | 400 with the reasons, the others are taken |
//! | no message, no snappy block, decoded beyond 32 MiB | 400, nothing is taken |
//! | more than the receiver can hold | 413, nothing is taken |
//! | another content type or encoding | 415 |
//! | refused for now | 503 |
//!
//! What is lost on the way stands in `LOSSY.md`.
//!
//! Invariant: a pure function of the request; nothing is kept from one to the next.
//!
//! | file | what it is |
//! |---|---|
//! | `mapping.rs` | a request as batches, and how much of it was taken |
//! | `classic.rs` | the series of classic histograms and summaries, put together |
//! | `native.rs` | a native histogram of the wire as a point |

mod classic;
mod mapping;
mod native;

use serde::Deserialize;
use weir_guest::{
    Answer, Batch, Descriptor, Encoding, HttpReceiver, Plugin, Received, Request, Response, SettingsFault,
    Signal, delivery, host,
};
use weir_remote_write::{Fault, Version, snappy};

pub use mapping::{Read, Written, read};

/// The receiver.
pub struct PrometheusRemoteWriteReceiver {
    path: String,
}

/// What an operator writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on; the host has bound it.
    #[serde(default = "default_endpoint")]
    pub endpoint: String,
    /// Path that is written to.
    #[serde(default = "default_path")]
    pub path: String,
}

fn default_endpoint() -> String {
    "127.0.0.1:9090".into()
}

fn default_path() -> String {
    "/api/v1/write".into()
}

impl Plugin for PrometheusRemoteWriteReceiver {
    type Settings = Settings;

    fn describe() -> Descriptor {
        Descriptor {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            signals: vec![Signal::Metrics],
            encoding: Encoding::Protobuf,
            settings_schema: include_str!("settings.schema.json"),
            extra: Vec::new(),
        }
    }

    fn configure(settings: Settings) -> Result<Self, Vec<SettingsFault>> {
        if settings.path.starts_with('/') {
            return Ok(Self { path: settings.path });
        }
        let message = format!("{:?} is no path such as /api/v1/write", settings.path);
        Err(vec![SettingsFault { at: "/path".into(), message }])
    }
}

impl HttpReceiver for PrometheusRemoteWriteReceiver {
    fn receive(&mut self, _listener: &str, request: Request) -> Answer {
        let path = request.target.split('?').next().unwrap_or_default();
        if path != self.path {
            let text = format!("series are written to {}\n", self.path);
            return Answer::Reply(reply(404, &text));
        }
        if request.method != "POST" {
            let mut response = reply(405, "series are written with POST\n");
            response.headers.push(("allow".into(), "POST".into()));
            return Answer::Reply(response);
        }
        let version = match version_of(&request.headers) {
            Ok(version) => version,
            Err(text) => return Answer::Reply(reply(415, &format!("{text}\n"))),
        };
        // The block goes before its content is looked at: both together would be half of what an instance may have.
        let decoded = snappy::decode(&request.body);
        drop(request);
        match decoded.and_then(|body| read(&body, version)) {
            Ok(read) => answer(read, version),
            Err(Fault { status, text }) => Answer::Reply(reply(status, &format!("{text}\n"))),
        }
    }
}

weir_guest::export!(PrometheusRemoteWriteReceiver: http_receiver);

/// Which message a request holds. Headers that are absent are taken for those of 1.0, as in `client_golang`: its first senders had
/// none.
fn version_of(headers: &[(String, String)]) -> Result<Version, String> {
    let encoding = delivery::header(headers, "content-encoding").unwrap_or("snappy").trim();
    if !encoding.eq_ignore_ascii_case("snappy") {
        return Err(format!("content-encoding {} is not taken; expected snappy", shown(encoding)));
    }
    let Some(content_type) = delivery::header(headers, "content-type") else { return Ok(Version::V1) };
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    let message = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("proto").then(|| value.trim().trim_matches('"'))
    });
    let versions = [Version::V1, Version::V2];
    let version = match message {
        None => Some(Version::V1),
        Some(message) => versions.into_iter().find(|version| version.message() == message),
    };
    version.filter(|_| media_type.eq_ignore_ascii_case("application/x-protobuf")).ok_or_else(|| {
        let content_type = shown(content_type);
        format!(
            "content-type {content_type} is not taken; expected {} or {}",
            Version::V1.content_type(),
            Version::V2.content_type()
        )
    })
}

/// A header in an answer.
fn shown(value: &str) -> String {
    let plain: String = value.chars().filter(|char| !char.is_control()).take(128).collect();
    format!("{plain:?}")
}

/// The answer to a request of which something may have been taken.
fn answer(read: Read, version: Version) -> Answer {
    let Read { batches, written, rejected, lost_exemplars, .. } = &read;
    if *lost_exemplars > 0 {
        host::count("lost_exemplars", u64::from(*lost_exemplars), &[]);
    }
    let accepted = match rejected {
        0 => written_reply(204, "", version, *written),
        _ => written_reply(400, &read.explain(), version, *written),
    };
    if batches.is_empty() && *rejected == 0 {
        return Answer::Reply(accepted);
    }
    let refused = written_reply(503, "not taken for now, send again\n", version, Written::default());
    let mut bodies = read.batches;
    if bodies.is_empty() {
        // An empty batch says of which signal the rejected points would have been.
        bodies.push(Vec::new());
    }
    let batches = bodies.into_iter().map(batch).collect();
    Answer::Telemetry(Received { batches, rejected: read.rejected, accepted, refused })
}

/// What 2.0 is told of what was written; senders take an answer without it for one of a receiver that knows only 1.0.
fn written_reply(status: u16, text: &str, version: Version, written: Written) -> Response {
    let mut response = reply(status, text);
    if version == Version::V2 {
        let Written { samples, histograms, exemplars } = written;
        for (what, count) in [("samples", samples), ("histograms", histograms), ("exemplars", exemplars)] {
            response.headers.push((format!("x-prometheus-remote-write-{what}-written"), count.to_string()));
        }
    }
    response
}

fn batch(body: Vec<u8>) -> Batch {
    Batch { signal: Signal::Metrics, encoding: Encoding::Protobuf, body }
}

fn reply(status: u16, text: &str) -> Response {
    let content_type = ("content-type".to_owned(), "text/plain; charset=utf-8".to_owned());
    let headers = if text.is_empty() { Vec::new() } else { vec![content_type] };
    Response { status, headers, body: text.into() }
}
