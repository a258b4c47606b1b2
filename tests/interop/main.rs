//! Foreign clients, as their users have them, through the release binary to two backends.
//!
//! ```text
//! Python, Go, Java, Node, a page ──▶ weir ──▶ otlp (native) ─────▶ an OTLP backend
//!                                       └───▶ zipkin (sandboxed) ▶ a Zipkin backend
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `once.rs` | installing something once |
//! | `install.rs` | the clients of `tests/clients`, with what they need, installed by name into `target/interop`; the examples' builds |
//! | `client.rs` | one run of a client: what it says that it sent |
//! | `stage.rs` | a daemon between two backends, and what must be true of it after every client |
//! | `outline.rs` | OTLP as text, with what is random replaced by what the client said |
//! | `examples.rs` | the exporters of `plugins/examples`, each in its language: not clients, but foreign as well |
//! | `mapping.rs` | the Zipkin span that belongs to an OTLP span, by OpenTelemetry's rules and the plugin's own |
//! | the others | a module for each family of clients |
//!
//! Expectations are written from the tables of the protocols' mappings, not from what came out. Clients run one after the
//! other: each is timed by what it sends, and the machine may have two cores.

mod client;
mod events;
mod examples;
mod install;
mod jaeger;
mod mapping;
mod once;
mod opencensus;
mod opentelemetry;
mod outline;
mod prometheus;
mod remote_write;
mod stage;
mod streams;
mod textparse;
mod zipkin;
