//! The doors: who speaks, and what they say.
//!
//! | file | what it is |
//! |---|---|
//! | `door.rs` | what every door has: a name, pipelines behind it, a budget, counters, addresses |
//! | `intake.rs` | from a request's bytes to an arrival in its pipeline |
//! | `reply.rs` | from a proof or a refusal to what each protocol says |
//! | `otlp.rs`, `otlp_grpc.rs`, `otlp_http.rs` | ports 4317 and 4318 |
//! | `opencensus.rs` | port 55678: long streams, and JSON on the same port |
//! | `cors.rs` | which web pages may send |
//! | `plugin_http.rs`, `plugin_grpc.rs`, `plugin_udp.rs` | the doors of plugins that receive over HTTP, gRPC, UDP |
//! | `plugin_batches.rs` | what a plugin made of a request, on its way to the pipelines |
//! | `page.rs` | the door of a plugin that is fetched from |
//!
//! Invariant: answers success only with a `Receipt` in hand.

pub mod cors;
pub mod door;
pub mod intake;
pub mod opencensus;
pub mod otlp;
mod otlp_grpc;
mod otlp_http;
pub mod page;
mod plugin_batches;
pub mod plugin_grpc;
pub mod plugin_http;
pub mod plugin_udp;
pub mod reply;

pub use door::{Behind, BindError, Bound, Pipelines, Settings};
