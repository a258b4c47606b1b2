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
/// How long a Welcome waits for what an ended stream of the same agent has with pipelines: half of what the agent waits for a
/// Welcome. After that it has marks that may be too low, which costs records that are sent again and known.
pub const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Logs in a Hello: pipelines of one agent.
pub const LOGS_MAX: usize = 64;
/// Starts of an agent that its folder remembers and a Hello names: whoever starts more often between two welcomes takes a new
/// incarnation, which costs only repeated records. A Hello of so many for [`LOGS_MAX`] logs is some 45 KiB.
pub const STARTS_MAX: usize = 64;
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
/// Bytes of all states of one agent, names and values: at the agent they are in memory and in its outbox's file.
pub const STATES_BYTES_MAX: usize = 8 << 20;
/// Reports that may wait for one commit of the outbox: of the largest, 4 MiB.
pub const REPORTS_WAITING_MAX: usize = 64;
/// Callers that wait until the collector has persisted what they reported.
pub const REPORT_WAITERS_MAX: usize = 4_096;
/// How long a state that was sent and not answered is left alone. The stream loses nothing, so this is for a collector that
/// could not write: it answers nothing then.
pub const STATE_RESEND_AFTER: Duration = Duration::from_secs(60);
/// The interval at which an agent says which states there are, so that what went wrong unseen is mended
/// (`facts/reliability.md` 1.4, 19).
pub const INVENTORY_INTERVAL: Duration = Duration::from_secs(600);
/// The part of that interval by which inventories are spread.
pub const INVENTORY_JITTER: f64 = 0.2;
/// States that a collector keeps of all agents. Its file holds 131,072 rows, and all of them in memory: ten states for each
/// of ten thousand agents, or a hundred for each of a thousand.
pub const STORE_STATES_MAX: usize = 100_000;
/// Bytes of them: the file holds 64 MiB, of which tombstones need some.
pub const STORE_BYTES_MAX: usize = 48 << 20;
/// How long an agent is silent and without a stream before what is stored of it may be given up for others: longer than a
/// restart of a collector or of an agent's machine, and than the longest time for which an agent is sent away
/// ([`GOODBYE_WAIT_MAX`]), for whoever comes back at once would only take the room back.
pub const STATES_AWAY_MIN: Duration = Duration::from_secs(900);
/// States that are gone and of which a collector remembers that: so that what comes late does not bring them back, and a
/// program that watches can go on where it was.
pub const STORE_TOMBSTONES_MAX: usize = 10_000;
/// Messages about states that wait for one commit of the collector's store; each is at most [`MESSAGE_BYTES_MAX`].
pub const STORE_WAITING_MAX: usize = 64;
/// Bytes of a message with a part of a bundle: the part, and the head of a bundle with the most records.
pub const DATA_MESSAGE_BYTES_MAX: usize = PART_BYTES_MAX + MESSAGE_BYTES_MAX;
/// Bytes of a bundle's head: three numbers for each record, of at most ten, five and five bytes, and a few more.
pub const HEAD_BYTES_MAX: usize = BUNDLE_RECORDS_MAX * 20 + 256;
/// Encodings in a Hello.
pub const ENCODINGS_MAX: usize = 16;
/// Counters in a heartbeat.
pub const COUNTERS_MAX: usize = 64;
/// Bytes of the texts for people in a Hello: as long as a host's name may be.
pub const TEXT_BYTES_MAX: usize = 255;
/// Bytes of the reason for which a bundle is rejected: with one for each bundle that may be under way, an `Ack` is a message
/// like any other.
pub const REASON_BYTES_MAX: usize = 512;
/// Incarnations of an agent that a collector remembers, the highest: an unknown one below the highest is never taken anyway.
pub const INCARNATIONS_MAX: usize = 16;
/// Numberings of an agent's logs of which a collector remembers the highest place that it refused for good: so that ten thousand
/// agents' rows have room in one file. Without it an agent is at most noted for records that it dropped itself.
pub const REJECTED_LOGS_MAX: usize = 16;
/// Ranges of places of rejected records that an agent remembers of one lane of one log, until the log has settled past them: there is
/// more than one only while another lane holds the cursor up. Beyond it the two nearest become one, and what lies between them goes
/// without its key too where it comes again: rather stored twice than taken for known. All lanes of all logs are some 1.1 MB.
pub const REJECTED_RANGES_MAX: usize = 64;
/// How long an agent stays away after somebody newer has its name: rare enough to cost nothing, soon enough to come back when
/// the other is gone.
pub const FENCED_WAIT: Duration = Duration::from_secs(10);
/// How long an agent stays away where there is no room for it.
pub const TOO_MANY_WAIT: Duration = Duration::from_secs(5);
/// How long a collector that ends waits for what is under way before it says so.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long the rest of a stream is read after a goodbye, so that the goodbye is read before the stream is gone.
pub const GOODBYE_GRACE: Duration = Duration::from_secs(1);
/// How long a bundle waits for memory before its stream is given up: what its parts hold may be what others wait for.
pub const MEMORY_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes a second that a bundle must bring on average once [`BUNDLE_GRACE`] has passed: as any request (`weir_net`).
pub const BUNDLE_RATE_BYTES_MIN: u64 = weir_net::limits::RATE_BYTES_MIN;
/// How long a bundle may take before its rate matters.
pub const BUNDLE_GRACE: Duration = weir_net::limits::RATE_GRACE;
/// States of one agent that wait for the store beyond those that it has; nothing is read from the agent then.
pub const STATES_WAITING_MAX: usize = 64;
/// States of one agent that are with the store at once: so many share one sync.
pub const STATES_UNDER_WAY_MAX: usize = 64;
/// The first pause before a bundle that was refused for now is tried again; each further one is twice as long.
pub const CONSUME_PAUSE_MIN: Duration = Duration::from_millis(25);
/// The longest pause between two tries.
pub const CONSUME_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long an agent that is gone is shown: whoever looks in the morning sees who died at night.
pub const SHOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Days of the collector's running after which an agent that never came is forgotten.
pub const AWAY_DAYS_MAX: u32 = 90;
/// Bytes of the first data part of a stream, before a rate was measured.
pub const PART_BYTES_FIRST: usize = 64 << 10;
/// What a data part is worth in time, by the measured rate. One part may be in the writer's buffer and one in its hand when
/// something of a higher lane comes, so that the two together are a quarter of a second.
pub const PART_TIME: Duration = Duration::from_millis(125);
/// The shortest interval of heartbeats that a peer can ask for: a smaller one is read as this.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Name, TCP, TLS and HTTP/2 together, when an agent dials.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an agent that dials waits at least for the first sign of a collector. Else that is one interval of heartbeats, as the
/// collector had them last, and [`CONNECT_TIMEOUT`] at the most: whoever is away for so long would be dead soon anyway, and a dial
/// into a network that is parted just now must not outlast the parting. A packet that is lost while one connects is sent again
/// after a second (RFC 6298, 2).
pub const FIRST_SIGN_MIN: Duration = Duration::from_secs(2);
/// The longest time that a collector can send an agent away for: after that it tries again, whatever it was told.
pub const GOODBYE_WAIT_MAX: Duration = Duration::from_secs(600);
/// Bytes of a text by a peer that are kept and shown.
pub const SHOWN_BYTES_MAX: usize = 4 << 10;
/// How long the task of an agent may take to end once it is cut off, and its last write to reach the disk: both take milliseconds,
/// and a stop or a reload does not wait for a disk or a call that hangs.
pub const CUT_GRACE: Duration = Duration::from_secs(1);
/// How long an agent that has said that it leaves waits for the collector to end the stream.
pub const LEAVE_GRACE: Duration = Duration::from_secs(1);

/// Bytes of bodies that an agent takes to wait while it has no stream; what was under way when the last one ended is beside it.
///
/// Enough for the first second of a stream; more would only hold memory that receivers need while the collector is away.
pub const AWAY_BYTES_MAX: u64 = 16 << 20;
