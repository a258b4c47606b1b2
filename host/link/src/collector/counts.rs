//! What a collector counts. Only the daemon knows how it is named on a page.

use std::sync::Arc;

use weir_model::Counter;
use weir_proto::weir::link::v1::goodbye::Reason;

/// One counter for each reason of a Goodbye.
#[derive(Debug, Clone)]
pub struct ByGoodbye(Arc<[Counter; ByGoodbye::NAMES.len()]>);

impl Default for ByGoodbye {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Counter::default())))
    }
}

impl ByGoodbye {
    /// The labels, at the numbers of the reasons in the protocol.
    pub const NAMES: [&str; 10] = [
        "unspecified",
        "draining",
        "fenced",
        "new_incarnation",
        "identity",
        "misbehaviour",
        "too_many",
        "version",
        "silent",
        "credential",
    ];

    /// The counter of this reason.
    pub(super) fn of(&self, reason: Reason) -> &Counter {
        &self.0[reason as usize]
    }

    /// Each label with its count.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::NAMES.into_iter().zip(self.0.iter().map(Counter::get))
    }
}

/// What one collector counts, beside what every receiver does ([`weir_model::count::ReceiverCounts`]).
#[derive(Debug, Clone, Default)]
pub struct LinkCounts {
    /// Agents with a live stream now.
    pub agents: Counter,
    /// Streams that were welcomed.
    pub welcomed: Counter,
    /// Streams that got a Goodbye instead of a Welcome.
    pub refused: ByGoodbye,
    /// Streams that ended by the collector's Goodbye after a Welcome.
    pub goodbyes: ByGoodbye,
    /// Streams that broke off without a word of either side.
    pub broken_off: Counter,
    /// Bundles for which there were receipts.
    pub bundles: Counter,
    /// Records in them.
    pub records: Counter,
    /// Of these, records that had come before and were not stored again.
    pub duplicates: Counter,
    /// Bytes of their bodies.
    pub bytes: Counter,
    /// Bytes that they had on the wire.
    pub sent_bytes: Counter,
    /// Bundles that were rejected; their items are among the receiver's `refused`, by reason.
    pub bundles_rejected: Counter,
    /// Tries of bundles that were refused for now.
    pub refused_for_now: Counter,
    /// Agents that were forgotten, for room or for their age.
    pub forgotten: Counter,
}
