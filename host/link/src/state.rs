//! States: the newest value of each resource.
//!
//! An agent keeps what it and its programs say in an outbox; a collector keeps the newest of every agent in a store, and tells
//! programs. The newest counts, so nothing here grows with the length of an outage, only with the number of resources.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `state/resource.rs` | names and their order, digests |
//! | `state/keep.rs` | where outbox and store are durable: a [`weir_queue::DurableMap`], or memory |
//! | `state/outbox.rs` | [`Outbox`] and [`OutboxHandle`]: group commits around the desk |
//! | `state/outbox/desk.rs` | what the agent holds: rows, bounds, times to live (pure) |
//! | `state/outbox/lane.rs` | what it says next: one in flight for each key, inventories, answers (pure) |
//! | `state/store.rs` | [`Store`]: group commits around the table |
//! | `state/store/table.rs` | what the collector holds (pure) |
//! | `state/store/staging.rs` | from messages to changes: which is newer, what expires, what has room (pure) |
//! | `state/store/row.rs` | a state as it lies on disk |
//! | `state/store/watching.rs` | who follows: a snapshot, then changes, from a cursor |
//! | `state/events.rs` | the services of `proto/weir/events/v1` at both ends |
//! | `state/own.rs` | what an agent says of itself |
//! | `state/simulation.rs` | outbox and store under seeds, with cuts, losses and crashes |
//!
//! A state is never a command: what must happen each time it is said does not belong here, since a newer value replaces it.

pub mod events;
mod keep;
mod outbox;
mod own;
mod resource;
#[cfg(test)]
mod simulation;
mod store;

pub use keep::{Change, Keep, Volatile};
pub use outbox::{Fate, Outbox, OutboxCounts, OutboxHandle, ReportError, Reported};
pub use own::{AgentFacts, ComponentFacts, NodeFacts, PluginFacts};
pub use store::{Cursor, Cut, Event, Fact, Filter, Standing, Store, StoreCounts, Watching};
