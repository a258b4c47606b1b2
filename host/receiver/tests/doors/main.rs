//! Doors seen from outside: real clients send, a scripted consumer stands behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod contract;
mod harness;
mod otlp_every_field;
mod otlp_grpc;
mod otlp_http;
mod otlp_text;
mod otlp_vectors;
mod page;
mod plugin_grpc;
mod plugin_http;
mod plugin_udp;
