//! Exporters: from the log to the backends.
//!
//! | file | what it is |
//! | --- | --- |
//! | `delivery.rs` | lease, push, settle, for one exporter of any kind |
//! | `bisect.rs` | from a refused lease to the record at fault |
//! | `ends.rs` | whose fault the ends of a plugin's instances are |
//! | `breaker.rs`, `backoff.rs` | when the backend as a whole is away |
//! | `count.rs` | what is counted |
//! | `otlp.rs` | the native OTLP exporter: bytes untouched |
//! | `debug.rs` | a line a batch, or every span |
//!
//! Invariant: every lease is settled exactly once.

pub mod backoff;
pub mod bisect;
pub mod breaker;
pub mod count;
pub mod debug;
pub mod delivery;
pub mod ends;
pub mod otlp;

pub use backoff::Retry;
pub use count::ExporterCounts;
pub use delivery::{Delivery, Stop};
