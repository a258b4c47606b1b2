//! The proof that a success reply consumes.
//!
//! "Never acknowledge before the disk" is a type here, not a comment: a door can only build a success reply out
//! of a [`Receipt`], a receipt cannot be cloned, and each kind has one source.

use crate::Seq;

/// Proof that a batch is where the pipeline's promise says it is.
#[must_use = "a receipt is owed to a sender"]
#[derive(Debug)]
pub enum Receipt {
    /// On disk: `fdatasync` has returned.
    Persisted(Persisted),
    /// In memory, in a pipeline that promises no more than that.
    Held(Held),
}

impl Receipt {
    /// The proof for two logs that took the same request: only as strong as the weaker one.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Persisted(proof), Self::Persisted(_)) => Self::Persisted(proof),
            (Self::Held(proof), Self::Held(_) | Self::Persisted(_))
            | (Self::Persisted(_), Self::Held(proof)) => Self::Held(proof),
        }
    }
}

/// Proof that a batch is on disk.
///
/// Invariant: `vouch` has one caller, the durable queue, after `fdatasync` has returned.
#[must_use = "a receipt is owed to a sender"]
#[derive(Debug)]
pub struct Persisted {
    upto: Seq,
}

impl Persisted {
    /// Vouches that every record up to and including `upto` survives a crash.
    pub fn vouch(upto: Seq) -> Self {
        Self { upto }
    }

    /// The last record that the proof covers.
    pub fn upto(&self) -> Seq {
        self.upto
    }
}

/// Proof that a batch is in a queue in memory.
///
/// Invariant: `vouch` has one caller, the queue in memory.
#[must_use = "a receipt is owed to a sender"]
#[derive(Debug)]
pub struct Held {
    upto: Seq,
}

impl Held {
    /// Vouches that every record up to and including `upto` is held until the process ends.
    pub fn vouch(upto: Seq) -> Self {
        Self { upto }
    }

    /// The last record that the proof covers.
    pub fn upto(&self) -> Seq {
        self.upto
    }
}
