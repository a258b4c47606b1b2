//! Wire: telemetry bytes, read and changed without being decoded.
//!
//! A batch in Weir is one serialised `Export{Traces,Metrics,Logs}ServiceRequest`. This crate counts its
//! items, checks them, cuts, splits, joins and augments it, shows its parts as views that borrow the bytes,
//! and turns it into OTLP/JSON and back. Host and guests share it.
//!
//! Invariant: depends on nobody, does no I/O, keeps no state, and is total: no input makes it panic, recurse
//! without bound or allocate more than a small multiple of the input.
//!
//! | file | what it is |
//! |---|---|
//! | `signal.rs` | [`Signal`]: traces, metrics, logs |
//! | `reader.rs` | [`Reader`]: one protobuf message, field by field |
//! | `encode.rs` | [`Encoder`]: protobuf forwards into one buffer |
//! | `walk.rs` | [`walk()`]: the door's check of a request |
//! | `shape.rs` | which fields lead from a request down to its items |
//! | `splice.rs` | [`cut`], [`augment`], [`group`]: change a request and leave every other byte as it was |
//! | `split.rs` | [`halve`], [`join`] |
//! | `resource.rs` | [`ResourceView`]: look up attributes of a resource |
//! | `otlp/` | views: request, span, metric, data points, log record, attribute values |
//! | `json/` | OTLP/JSON both ways, a pull lexer, a fast writer |

pub mod encode;
pub mod json;
pub mod otlp;
pub mod reader;
pub mod resource;
mod shape;
pub mod signal;
pub mod splice;
pub mod split;
pub mod walk;

pub use encode::Encoder;
pub use reader::{Field, Malformed, Reader, Value};
pub use resource::ResourceView;
pub use signal::Signal;
pub use splice::{Addition, augment, augmented_bytes_max, cut, group};
pub use split::{halve, join};
pub use walk::{Invalid, Reason, ResourcePart, Walk, WalkError, WalkLimits, walk};
