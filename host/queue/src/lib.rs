//! The queue: batches, in order, on disk, until every exporter has settled them.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `queue.rs` | the two traits: [`Queue`] for the daemon, [`Cursor`] for an exporter |
//! | `lease.rs` | [`Lease`] and [`Settlement`]: borrowed records and what became of them |
//! | `status.rs` | what an operator sees, and what is counted |
//! | `book.rs` | which record lies where, and how far each exporter is: no I/O |
//! | `digest.rs` | from verdicts to what is done about them |
//! | `memory.rs` | [`MemoryQueue`]: the same promises until the process ends |
//! | `journal.rs` | [`DiskQueue`]: the folder, admission, what threads share |
//! | `committer.rs` | append rounds, `fdatasync`, receipts; deletion, dead letters, cursors |
//! | `reader.rs` | leases and settlements on disk |
//! | `operations.rs` | what the daemon asks of it |
//! | `store.rs`, `hot.rs` | segments that are open, bodies that are still in memory |
//! | `segment.rs`, `segment_file.rs` | records in a segment, and the file that they are in, with their pictures |
//! | `marks.rs`, `keys.rs` | what the log has of other Weirs, so that it stores it once: in memory, in a segment |
//! | `meta.rs` | cursors on disk |
//! | `dead.rs` | the dead-letter log |
//! | `recovery.rs` | what a start does with what it finds |
//! | `inspect.rs` | looking into a log, with the daemon running or not |
//! | `checked.rs` | small values with a checksum |
//! | `durable.rs` | [`DurableMap`]: a small map in a file of its own, for other parts of Weir |
//! | `backend.rs`, `disk.rs` | files that are synced until the first failure, on a disk that tests replace |
//!
//! Invariant: knows no network, no plugin and no clock; time and bytes come in as arguments.

mod backend;
mod book;
mod checked;
mod committer;
mod dead;
mod digest;
mod disk;
mod durable;
mod faults;
mod hot;
mod inspect;
mod journal;
mod keys;
mod lease;
mod marks;
mod memory;
mod meta;
mod operations;
mod queue;
mod reader;
mod recovery;
mod segment;
mod segment_file;
mod settings;
mod status;
mod store;

pub use disk::{Disk, DiskFile, FolderLock, SystemDisk};
pub use durable::{DurableMap, MAP_BYTES_MAX, MAP_KEY_BYTES_MAX, MAP_ROWS_MAX, MAP_VALUE_BYTES_MAX, Opened};
pub use faults::{Faults, Switch, SyncFault};
pub use inspect::{LoggedRecord, LoggedRecords, read_log};
pub use journal::DiskQueue;
pub use lease::{ABANDONED_WAIT, Lease, Record, SettleError, Settlement};
pub use memory::MemoryQueue;
pub use queue::{Cursor, Leased, Queue, QueueError, Watch, WhenFull, Wish};
pub use settings::{BUDGET_BYTES_MIN, EXPORTERS_MAX, Pace, Settings};
pub use status::{CursorStatus, DeadLetter, QueueCounts, Status};
