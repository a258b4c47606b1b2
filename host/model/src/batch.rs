//! What a door hands on, and what a log keeps.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Bundle, Claim, NodeId, Origin, Signal};

/// Lanes of a log. Order is kept within a lane, and a node always has the same lane.
///
/// Sixteen leases in flight for each exporter are enough to keep a backend busy over a slow network, and few
/// enough that joined leases stay large (DESIGN 1.3).
pub const LANES: usize = 16;

/// A lane of a log: 0 to [`LANES`] - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lane(u8);

impl Lane {
    /// The lane of a node: its hash modulo [`LANES`].
    pub fn of(node: NodeId) -> Self {
        Self((node.0 % LANES as u64) as u8)
    }

    /// The lane with this number, if there is one.
    pub fn new(number: u8) -> Option<Self> {
        (usize::from(number) < LANES).then_some(Self(number))
    }

    /// Its number.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What a door took from one request, checked, as OTLP bytes, not yet grouped by node.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// What the bytes are.
    pub signal: Signal,
    /// One serialised `Export{Traces,Metrics,Logs}ServiceRequest` whose frames have been walked.
    pub body: Bytes,
    /// Spans, data points or log records in the body.
    pub items: u32,
    /// The configured id of the receiver (`otlp`, `zipkin/edge`).
    pub receiver: Arc<str>,
    /// The node, where the protocol names the sender (OpenCensus); else it is read from each resource.
    pub node: Option<NodeId>,
    /// The borders and keys of the records in the body, where another Weir has handed them over: each becomes a batch of
    /// its own, in the bundle's lane, under its own key.
    pub bundle: Option<Arc<Bundle>>,
    /// Pays for `body` until the log holds it in its own way.
    pub claim: Option<Arc<Claim>>,
}

/// Records of one signal from one lane: the unit that is queued.
///
/// Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Batch {
    /// What the bytes are.
    pub signal: Signal,
    /// Where order is kept.
    pub lane: Lane,
    /// Spans, data points or log records in the body.
    pub items: u32,
    /// One serialised `Export{Traces,Metrics,Logs}ServiceRequest`.
    pub body: Bytes,
    /// The key under which a log takes it once, where another Weir has handed it over.
    pub origin: Option<Origin>,
    /// Pays for `body` while it is in memory.
    pub claim: Option<Arc<Claim>>,
}
