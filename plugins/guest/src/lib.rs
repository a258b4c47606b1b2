//! What a Rust author of a Weir plugin imports.
//!
//! A plugin is a type that implements [`Plugin`] and what it is ([`Exporter`], [`Page`], [`HttpReceiver`],
//! [`DatagramReceiver`], [`GrpcReceiver`], [`Scraper`], or several of them), and one line that makes a
//! component of it: `weir_guest::export!(Mine: exporter);`. `plugins/template` is the smallest one.
//!
//! Invariant: nothing here keeps anything between two calls but the one configured plugin; off WebAssembly also what a test counted.
//!
//! | file | what it is |
//! |---|---|
//! | `plugin.rs` | the traits that an author implements and the macro that exports them |
//! | `host.rs` | what the host offers: log, clock, counters, HTTP |
//! | `settings.rs` | settings by serde, faults as JSON pointers |
//! | `delivery.rs` | from an HTTP answer to an outcome |
//! | `otlp_answer.rs` | likewise where the backend speaks OTLP: what of a batch it refused |
//! | `http_date.rs` | the date form of `Retry-After` |
//! | `json.rs`, `scan.rs` | a JSON writer and a JSON reader made for the sandbox |
//! | `pairs.rs` | attributes and tags in protobuf, likewise |
//! | `stores.rs` | what these writers are fast by |
//! | `keys.rs` | keys that mean something, found fast |
//! | `groups.rs` | items by resource and scope, as a receiver writes them |
//! | `spans.rs` | a span's fields in one pass |
//! | `text.rs` | attribute values as text, as OpenTelemetry wants them in formats that have only text |
//! | `bindings.rs` | generated from `wit/plugin.wit` |
//!
//! [`wire`] is Weir's view of OTLP bytes (`proto/wire`): views that read a batch where it lies, and an
//! encoder that writes one.

// What the macro expands to names this crate; inside the crate that name must mean the same.
extern crate self as weir_guest;

pub mod bindings;
pub mod delivery;
pub mod groups;
pub mod host;
mod http_date;
pub mod json;
pub mod keys;
pub mod otlp_answer;
pub mod pairs;
mod plugin;
pub mod scan;
pub mod settings;
pub mod spans;
mod stores;
pub mod text;

pub use bindings::imports::weir::plugin::http_client::Error as HttpError;
pub use bindings::imports::weir::plugin::http_types::{Headers, Request, Response};
pub use bindings::imports::weir::plugin::outcomes::{Delivery, Outcome, PartialSuccess, Retry};
pub use bindings::imports::weir::plugin::telemetry::{Batch, Encoding, Signal};
pub use plugin::{
    Answer, DatagramReceiver, Descriptor, Exporter, Fetched, GrpcReceived, GrpcReceiver, GrpcStatus,
    HttpReceiver, Page, Plugin, Received, Scraper, SettingsFault, Target,
};
#[doc(hidden)]
pub use plugin::{announce_panics, configure};
pub use weir_wire as wire;
#[doc(hidden)]
pub use wit_bindgen;
