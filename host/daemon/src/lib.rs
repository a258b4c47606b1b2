//! The daemon: the process around the parts.
//!
//! | file | what it is |
//! | --- | --- |
//! | `command.rs` | the command line |
//! | `config.rs`, `validate.rs` | the user's file, and everything that is wrong with it |
//! | `assembly.rs` | who is connected to whom |
//! | `shutdown.rs` | the order of death |
//! | `admin.rs` | what `weir queue` asks a running daemon |
//! | `fleet.rs` | the agents of a collector: what is shown of them |
//! | `allocator.rs` | the heap, and how it shrinks after a burst |
//! | `telemetry.rs` | our own log, metrics and health |
//! | `bundled.rs` | plugins that are part of the program |
//!
//! Invariant: the only crate that knows all others.

pub mod admin;
mod allocator;
pub mod assembly;
pub mod bundled;
pub mod command;
pub mod config;
pub mod fleet;
pub mod shutdown;
pub mod telemetry;
pub mod validate;
