//! The link: an agent keeps what it was given until a collector has persisted it (DESIGN 1.5, `proto/weir/link/v1`).
//!
//! | file | what it holds |
//! | --- | --- |
//! | `names.rs` | incarnations, epochs, boots, stores: what is told apart by which number |
//! | `limits.rs` | the bounds of the protocol, in one place |
//! | `lanes.rs` | the seam between a session and the lane of states |
//! | `agent.rs` | the side that dials: session, exporter, connection |
//! | `collector.rs` | the side that answers: sessions, who lives, what is stored |
//! | `state.rs` | states: the agent's outbox, the collector's store, what programs report and watch |
//!
//! Sessions, outbox and store of marks are pure: messages and time go in, messages and commits come out, so that a simulator
//! runs them under printed seeds.
//!
//! Invariant: an acknowledgement is sent for what has a `Receipt`, and for nothing else.

pub mod agent;
pub mod collector;
pub mod lanes;
pub mod limits;
pub mod names;
pub mod state;
