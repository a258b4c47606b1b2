//! The vocabulary of Weir and the contracts between its parts.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `contract.rs` | the law: who calls whom, and what each may assume |
//! | `batch.rs` | what a door hands on, and what a log keeps |
//! | `origin.rs` | where a record comes from that another Weir has handed over |
//! | `receipt.rs` | the proof that a success reply consumes |
//! | `refusal.rs` | why something was not taken |
//! | `outcome.rs` | how a delivery to a backend went |
//! | `node.rs`, `registry.rs` | the process that speaks, and the bounded table of those heard |
//! | `ledger.rs` | one budget of memory, paid with permits |
//! | `count.rs` | counters that parts own and the daemon shows |
//! | `durations.rs` | how long things took, by size |
//! | `http.rs`, `unary.rs`, `scrape.rs` | an HTTP message, a gRPC call and a target as a plugin sees them |
//!
//! Invariant: no I/O, no task, no clock, no generated type.

pub mod batch;
pub mod contract;
pub mod count;
pub mod durations;
pub mod http;
pub mod ledger;
pub mod node;
pub mod origin;
pub mod outcome;
pub mod receipt;
pub mod refusal;
pub mod registry;
pub mod scrape;
pub mod seq;
pub mod unary;

pub use batch::{Arrival, Batch, LANES, Lane};
pub use contract::{
    Admission, BoxFuture, Consumer, DatagramReceiver, Exporter, GrpcReceiver, HttpReceiver, Log, PageServer,
    Scraper,
};
pub use count::Counter;
pub use ledger::{Claim, Exhausted, Ledger, SMALL_BYTES_MAX};
pub use node::{Node, NodeId};
pub use origin::{Bundle, Mark, Origin, Place, Places, SOURCE_NAME_BYTES_MAX, Source};
pub use outcome::{Outcome, Push};
pub use receipt::{Held, Persisted, Receipt};
pub use refusal::{EndedByInput, Reason, Refusal, explain};
pub use registry::NodeRegistry;
pub use seq::Seq;
pub use weir_wire::Signal;
