//! The fleet as it is shown: a row for each agent.

use serde::{Deserialize, Serialize};

/// Whether an agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FleetState {
    /// It has a stream.
    Live,
    /// It took its leave, the collector drained, or it was not heard since the collector started.
    Idle,
    /// It fell silent or broke off.
    Dead,
    /// The last that was heard of it came from somebody whose place another has.
    Fenced,
}

/// What an agent keeps for this collector, as its last heartbeat said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Waiting {
    /// Records that wait.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The age of the oldest in milliseconds.
    pub oldest_ms: u64,
}

/// One agent. Times are seconds before now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetRow {
    /// Who.
    pub identity: String,
    /// Its host, as it says.
    pub host: String,
    /// Its program and version, as it says.
    pub program: String,
    /// Whether it is there.
    pub state: FleetState,
    /// How long its stream lives; none where it has none.
    pub connected_seconds: Option<f64>,
    /// When it was heard last; none where it was not since the collector started.
    pub heard_seconds: Option<f64>,
    /// The life of its folder, the newest known.
    pub incarnation: Option<String>,
    /// Its start in that life.
    pub epoch: Option<u64>,
    /// The stream's name in the logs of both sides.
    pub session: Option<u64>,
    /// What waits at the agent.
    pub waiting: Waiting,
    /// Bundles that were acknowledged, since the collector started.
    pub bundles: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Of these, records that had come before: the logs behind the collector had them under their keys, and did not store them again.
    pub duplicates: u64,
    /// Records in bundles that will never be taken, by reason. The agent searches such a bundle for the records at fault, so that
    /// one record may be counted several times.
    pub rejected: Vec<(String, u64)>,
    /// Hellos that were not welcome.
    pub turned_away: u64,
    /// What happened last, in words.
    pub event: String,
    /// When that was.
    pub event_seconds: Option<f64>,
}
