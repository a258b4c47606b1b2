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
    ///
    /// What either of them had already counts as known: it has come before.
    pub fn and(self, other: Self) -> Self {
        let known = self.known().max(other.known());
        let weaker = match (self, other) {
            (Self::Persisted(proof), Self::Persisted(_)) => Self::Persisted(proof),
            (Self::Held(proof), Self::Held(_) | Self::Persisted(_))
            | (Self::Persisted(_), Self::Held(proof)) => Self::Held(proof),
        };
        weaker.with_known(known)
    }

    /// The same proof, for batches of which the log had so many already, under their keys: they are vouched for and were not stored
    /// again.
    pub fn with_known(mut self, batches: u64) -> Self {
        match &mut self {
            Self::Persisted(proof) => proof.known = batches,
            Self::Held(proof) => proof.known = batches,
        }
        self
    }

    /// Batches that the log had already.
    pub fn known(&self) -> u64 {
        match self {
            Self::Persisted(proof) => proof.known,
            Self::Held(proof) => proof.known,
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
    known: u64,
}

impl Persisted {
    /// Vouches that every record up to and including `upto` survives a crash.
    pub fn vouch(upto: Seq) -> Self {
        Self { upto, known: 0 }
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
    known: u64,
}

impl Held {
    /// Vouches that every record up to and including `upto` is held until the process ends.
    pub fn vouch(upto: Seq) -> Self {
        Self { upto, known: 0 }
    }

    /// The last record that the proof covers.
    pub fn upto(&self) -> Seq {
        self.upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: two logs took one request, of which the one had two batches already, and the other one, or none.
    /// Guarantees: the proof is as strong as the weaker one, and says how many had come before.
    #[test]
    fn the_proof_of_two_logs_says_what_either_knew() {
        let on_disk = || Receipt::Persisted(Persisted::vouch(Seq(7)));
        let in_memory = || Receipt::Held(Held::vouch(Seq(9)));
        let both = on_disk().with_known(2).and(in_memory().with_known(1));
        assert!(matches!(&both, Receipt::Held(_)) && both.known() == 2);
        let both = in_memory().and(on_disk().with_known(2));
        assert!(matches!(&both, Receipt::Held(_)) && both.known() == 2);
        assert_eq!(on_disk().and(on_disk()).known(), 0);
    }
}
