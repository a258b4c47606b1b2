//! Pipelines: from what doors hand on to what logs keep.
//!
//! | file | what it is |
//! | --- | --- |
//! | `augment.rs` | what the host and the configuration know of a resource |
//! | `group.rs` | one request into batches by lane, and the nodes that spoke in it |
//! | `pipeline.rs` | one pipeline: group, augment, admit |
//! | `fanout.rs` | a receiver in one or several pipelines: all take a request, or none |
//!
//! Invariant: never reorders the batches of one node, and never waits before the log has its place in the order.

pub mod augment;
pub mod fanout;
pub mod group;
pub mod pipeline;

pub use augment::Augment;
pub use fanout::Fanout;
pub use pipeline::{Pipeline, PipelineCounts};
