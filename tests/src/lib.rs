//! The harness: starts a daemon, speaks to it as clients do, is its backend, and counts what was promised.
//!
//! | file | what it is |
//! |---|---|
//! | `binary.rs` | the `weir` binary, built once a run |
//! | `daemon.rs` | one daemon: its addresses, its life, its data folder |
//! | `log.rs` | what it wrote; a line of level WARN or ERROR that nobody announced fails the test |
//! | `port.rs` | free ports |
//! | `proxy.rs` | a wire that is bad on purpose: late, slow, stalled, silent, cut |
//! | `scrape.rs` | what it says under `/metrics` |
//! | `usage.rs` | what it uses: memory, processor time |
//! | `wait.rs` | waiting for a state, with a deadline |
//! | `batch.rs` | payloads that follow from an id, for all four protocols |
//! | `ledger.rs` | what was acknowledged, beside what arrived |
//! | `kept.rs` | what the log of a stopped daemon holds, record by record |
//! | `sender.rs` | senders of OTLP over gRPC and HTTP, of OpenCensus and of Zipkin |
//! | `agent.rs` | agents of the link from below, a thousand in one process |
//! | `client/` | HTTP and gRPC from below: raw bytes, statuses, streams that stay open |
//! | `sink/` | backends: OTLP, Zipkin, lines of text and bodies of any kind, with answers as a test says |
//!
//! Invariant: touches a daemon only as a user, a sender or a backend can: arguments, files, sockets, signals.

pub mod agent;
pub mod batch;
pub mod binary;
pub mod client;
pub mod daemon;
pub mod kept;
pub mod ledger;
pub mod log;
pub mod port;
pub mod proxy;
pub mod scrape;
pub mod sender;
pub mod sink;
pub mod usage;
pub mod wait;

pub use agent::{BareAgent, LinkStream};
pub use batch::{BatchId, Protocol, Shape};
pub use binary::Profile;
pub use daemon::Weir;
pub use kept::Kept;
pub use ledger::{Harvest, Ledger};
pub use proxy::{Cut, Proxy, Weather};
pub use sender::{Sender, Verdict};
pub use sink::{Answer, LineSink, OtlpSink, RequestSink, ZipkinSink};
pub use usage::Usage;
pub use wait::wait_until;
