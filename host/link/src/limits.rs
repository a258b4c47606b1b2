//! The bounds of the protocol.

use std::time::Duration;

/// The version of `proto/weir/link/v1` that is spoken.
pub const VERSION: u32 = 1;
/// The interval of heartbeats that a collector offers, unless configured.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(30);
/// Whoever was silent for so many tenths of an interval is dead: two and a half intervals (`facts/reliability.md` 1.4, 11).
pub const DEAD_AFTER_TENTHS: u32 = 25;
/// How long the first message of a stream may take, on either side.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Logs in a Hello: pipelines of one agent.
pub const LOGS_MAX: usize = 64;
/// Bytes of one message of any kind but data.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a data part: what a heartbeat may have before it on the wire. A slow network gets smaller ones.
pub const PART_BYTES_MAX: usize = 1 << 20;
/// The smallest part that a slow network gets.
pub const PART_BYTES_MIN: usize = 16 << 10;
/// Bytes of a bundle's body that a collector takes, unless configured: what its doors take too.
pub const BUNDLE_BYTES_MAX: u64 = 16 << 20;
/// Records of a bundle.
pub const BUNDLE_RECORDS_MAX: usize = 8_192;
/// Bytes of data that a collector grants one agent beyond what it has persisted.
pub const CREDIT_BYTES: u64 = 8 << 20;
/// Bundles of one agent under way: one for each lane of each log.
pub const BUNDLES_MAX: usize = weir_model::LANES * LOGS_MAX;
/// The wait between two tries of an agent to connect, before jitter: fixed, without end (the OpenCensus rule).
pub const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// The part of an interval by which tries are spread: a thousand agents do not come back in one moment.
pub const RECONNECT_JITTER: f64 = 0.5;
/// Bytes of a state's kind and of its key.
pub const STATE_NAME_BYTES_MAX: usize = 255;
/// Bytes of a state's value.
pub const STATE_VALUE_BYTES_MAX: usize = 64 << 10;
/// States of one agent.
pub const STATES_MAX: usize = 10_000;
/// Kinds of states of one agent.
pub const KINDS_MAX: usize = 64;
/// States of one agent that are sent and not acknowledged, over all keys; of one key there is one.
pub const STATES_IN_FLIGHT_MAX: usize = 256;
/// Keys in one message of an inventory.
pub const INVENTORY_KEYS_MAX: usize = 1_000;
/// Agents that a collector remembers; beyond that the one that was silent longest is forgotten, and counted.
pub const AGENTS_MAX: usize = 10_000;
/// Bytes of the first data part of a stream, before a rate was measured.
pub const PART_BYTES_FIRST: usize = 64 << 10;
/// What a data part is worth in time, by the measured rate. One part may be in the writer's buffer and one in its hand when
/// something of a higher lane comes, so that the two together are a quarter of a second.
pub const PART_TIME: Duration = Duration::from_millis(125);
/// The shortest interval of heartbeats that a peer can ask for: a smaller one is read as this.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Name, TCP, TLS and HTTP/2 together, when an agent dials.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time that a collector can send an agent away for: after that it tries again, whatever it was told.
pub const GOODBYE_WAIT_MAX: Duration = Duration::from_secs(600);
/// Bytes of a text by a peer that are kept and shown.
pub const TEXT_BYTES_MAX: usize = 4 << 10;
/// How long an agent that has said that it leaves waits for the collector to end the stream.
pub const LEAVE_GRACE: Duration = Duration::from_secs(1);
