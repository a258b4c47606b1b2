//! Prometheus and OTLP: what the one calls a family and the other a metric.
//!
//! Invariant: keeps nothing of what it was given between calls, and is total.
//!
//! | file | what it is |
//! |---|---|
//! | `accumulate.rs` | histograms that are kept, and deltas that become cumulative |
//! | `family.rs` | families of samples, and how they are read from a text |
//! | `otlp.rs` | a family as an OTLP metric |
//! | `names.rs`, `labels.rs` | names of families and labels as Prometheus wants them |
//! | `series.rs` | OTLP metrics as series, point by point |
//! | `exemplar.rs` | the labels of exemplars |
//! | `units.rs` | units in OpenTelemetry's words |

pub mod accumulate;
pub mod exemplar;
pub mod family;
pub mod labels;
pub mod names;
pub mod otlp;
pub mod series;
pub mod units;
