//! Stories from outside: a daemon, senders, a backend, and what goes wrong between them.
//!
//! | story | what happens |
//! |---|---|
//! | `kill.rs` | `kill -9` at random moments under load |
//! | `cuts.rs` | power cuts under load |
//! | `backend.rs` | the backend goes away, is slow, refuses |
//! | `neighbours.rs` | one exporter hangs beside another |
//! | `overload.rs` | twice the capacity on 64 connections |
//! | `drain.rs` | SIGTERM and Ctrl-C in the middle of work |
//! | `disk.rs` | a full disk, a disk that fails |
//! | `start.rs` | what is refused at start, and how |
//! | `plugin_command.rs` | `weir plugin`, compiled code between starts, secrets sought everywhere |
//! | `reload.rs` | a configuration that changes while data flows |
//! | `jaeger.rs` | a plugin on five doors, datagrams among them; its counterpart as an exporter |
//! | `scraping.rs` | targets that are fetched from, and go |
//! | `hostile.rs` | plugins that do harm: what the operator reads, what others feel |
//! | `page.rs` | an exporter that is fetched from: readers fast and slow, reloads, an instance that ends |
//! | `link.rs` | an agent and a collector: deaths on either side, who lives, both without a file |
//! | `metrics.rs` | metrics of OTLP and OpenCensus on a page, and by remote write out and in |
//! | `queue_command.rs` | `weir queue`, with the daemon running and stopped |
//! | `handover.rs` | an agent and a collector over a bad wire: killed, cut off, copied, wiped; what each has in the end |
//! | `swap.rs` | a plugin's file is replaced, by good ones and bad ones, under load |
//!
//! | tool | what it is |
//! |---|---|
//! | `run.rs` | figures, seeds, one heavy story at a time, commands of the binary |
//! | `load.rs` | senders under way, and the book of what they were told |
//! | `order.rs` | order within a node, as a backend sees it |
//! | `memory.rs` | the daemon's resident memory, followed |
//! | `record.rs` | what long runs have shown, written into `RELIABILITY.md` |
//! | `stamp.rs` | batches made by patching ids, for load that the making must not slow |
//! | `volume.rs` | a file system of its own, that can lose its power |
//!
//! Figures are small for every change. Before a release:
//!
//! ```text
//! WEIR_CYCLES=100 WEIR_BATCHES=1000 cargo test --release -p weir-tests --test e2e -- --nocapture kill
//! WEIR_CUTS=30 cargo test --release -p weir-tests --test e2e -- --nocapture cut             (as root)
//! WEIR_DOWN=60 WEIR_RATE=20000 cargo test --release -p weir-tests --test e2e -- --nocapture backend
//! WEIR_OVERLOAD=60 cargo test --release -p weir-tests --test e2e -- --nocapture overload
//! WEIR_SWAPS=50 cargo test --release -p weir-tests --test e2e -- --nocapture swap
//! WEIR_HOSTILE_ROUNDS=5 cargo test --release -p weir-tests --test e2e -- --nocapture hostile   (as root)
//! WEIR_RECORD=1 WEIR_CYCLES=1000 cargo test --release -p weir-tests --test e2e -- --nocapture kills_and_a_bad_wire
//! WEIR_RECORD=1 WEIR_SEEDS=10000 cargo test --release -p weir-tests --test e2e -- --nocapture simulated
//! WEIR_RECORD=1 WEIR_PARTITIONS=60 cargo test --release -p weir-tests --test e2e -- --nocapture packets   (as root, with nft)
//! WEIR_RECORD=1 WEIR_RESTARTS=120 cargo test --release -p weir-tests --test e2e -- --nocapture restarts_under_load
//! WEIR_RECORD=1 WEIR_ROUNDS=10 cargo test --release -p weir-tests --test e2e -- --nocapture restarted_in_turn
//! WEIR_RECORD=1 WEIR_RECONNECTS=10000 WEIR_IDENTITIES=5000 cargo test --release -p weir-tests --test e2e -- --nocapture streams_that_come
//! WEIR_SEED=…                                                                 the same random choices again
//! ```

mod backend;
mod cuts;
mod disk;
mod drain;
#[path = "../../host/plugin/build/guests.rs"]
mod guests;
mod handover;
mod hostile;
mod jaeger;
mod kill;
mod link;
mod load;
mod memory;
mod metrics;
mod neighbours;
mod order;
mod overload;
mod page;
mod plugin_command;
mod queue_command;
mod record;
mod reload;
mod run;
mod scraping;
mod stamp;
mod start;
mod swap;
mod volume;
