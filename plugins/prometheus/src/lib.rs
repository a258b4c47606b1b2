//! Prometheus and OTLP: what the one calls a family and the other a metric.
//!
//! Invariant: keeps nothing between calls, and is total.
//!
//! | file | what it is |
//! |---|---|
//! | `family.rs` | families of samples, and how they are read from a text |
//! | `otlp.rs` | a family as an OTLP metric |
//! | `units.rs` | units in OpenTelemetry's words |

pub mod family;
pub mod otlp;
pub mod units;
