//! The services of `proto/weir/events/v1`: programs beside an agent report states, programs beside a collector watch them.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `events/door.rs` | connections, within bounds, on a loopback |
//! | `events/agent.rs` | `ReportService` |
//! | `events/collector.rs` | `WatchService` |
//! | `events/purse.rs` | memory of answers that are not read, paid for |
//!
//! This is a cold path: tonic speaks.

mod agent;
mod collector;
mod door;
mod purse;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;

pub use agent::serve_agent;
pub use collector::serve_collector;

/// Kinds that begin so are Weir's own.
pub const RESERVED: &str = "weir.";

/// Why a service does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// States of programs are not protected on the wire, so they stay on the machine.
    #[error(
        "the events service listens on {0}, which others can reach: give it an address of the loopback, as 127.0.0.1:55683"
    )]
    NotLoopback(SocketAddr),
    /// The listener has no address.
    #[error("ask the events service's listener for its address")]
    Listener(#[source] io::Error),
    /// The server failed.
    #[error("serve the events service")]
    Transport(#[source] tonic::transport::Error),
}
