//! Where a record comes from that another Weir has handed over, and the key under which it is stored once (DESIGN 1.5).

use std::sync::Arc;

use crate::{Lane, Seq};

/// Bytes of an identity or of a log's name at most.
pub const SOURCE_NAME_BYTES_MAX: usize = 255;

/// A log of another Weir, under one numbering of its records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The agent: what its certificate says, or the UUID of its folder. At most [`SOURCE_NAME_BYTES_MAX`] bytes.
    pub identity: String,
    /// One life of the log's numbering: a new one begins where an old folder comes back, so that a place never means two
    /// records.
    pub incarnation: u128,
    /// The log's name at the agent: its pipeline. At most [`SOURCE_NAME_BYTES_MAX`] bytes.
    pub log: String,
}

/// A record's key: with its lane, what the collector's log deduplicates by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whose it is.
    pub source: Arc<Source>,
    /// The start of the agent in which it was sent.
    pub epoch: u64,
    /// Its place in that log. Rising within a lane.
    pub seq: Seq,
}

/// Records of one lane, joined, with their borders: what travels over the link in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose they are.
    pub source: Arc<Source>,
    /// The start of the agent in which they were sent.
    pub epoch: u64,
    /// The lane that they have at the agent, and keep.
    pub lane: Lane,
    /// In rising order of their places; their bytes are those of the whole body.
    pub records: Vec<Place>,
    /// As [`Places::again`]: they are stored without their keys.
    pub again: bool,
}

/// One record of a joined body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its place in its log.
    pub seq: Seq,
    /// Spans, data points or log records.
    pub items: u32,
    /// Bytes of the joined body that are its own.
    pub bytes: u32,
}

/// Which records a push carries: one after another in its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Their lane.
    pub lane: Lane,
    /// In rising order.
    pub records: Vec<Place>,
    /// They were rejected before, and others of their lane went past them: their places say nothing any more about what
    /// the other side has.
    pub again: bool,
}

/// The newest record of a source that a log has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Whose.
    pub source: Source,
    /// The highest place over all lanes.
    pub seq: Seq,
    /// The epoch in which that one was sent.
    pub epoch: u64,
}
